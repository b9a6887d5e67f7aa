"""How probable is x under a VAE or a decoder? Bounds and estimates of log p(x), in nats.

p(x) = ∫ p(x|z) p(z) dz with p(z) = N(0, I). All estimates write z = mu + sigma u with u ~ N(0, I),
and use one weight, whose mean over u is p(x):

    w(u) = p(x|z) p(z) / q(z|x),  q(z|x) = N(mu, diag sigma²).

`elbo` averages its logarithm, `importance_weighted_bound` takes the logarithm of an average, and
`annealed_importance_sampling` collects it in many small factors on the way to the posterior.

Networks run in their own type, in evaluation mode and without gradients, and get their mode back;
weights are float64. The order of the noise does not depend on `batch_size`, which changes memory
and speed but no bound beyond rounding (long chains of AIS can amplify rounding, up to the size of
their own noise). `generator` is a torch.Generator or a seed for a new one; a CPU generator gives
the same noise on all devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from numbers import Real
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from course_lib import losses
from course_lib.losses import bits_per_dim
from course_lib.metrics.annealing import Annealing, Chains
from course_lib.metrics.inputs import double, whole
from course_lib.metrics.networks import Network, Seed, new_generator, normals
from course_lib.probability.divergences import kl_to_standard_normal

__all__ = [
    "ActiveUnits",
    "BidirectionalGap",
    "LikelihoodEstimate",
    "active_units",
    "annealed_importance_sampling",
    "bidirectional_check",
    "bits_per_dim",
    "elbo",
    "importance_weighted_bound",
]


class LikelihoodEstimate(NamedTuple):
    """A bound or estimate of log p(x), in nats per image.

    Attributes:
        value: mean of `values`.
        standard_error: their standard deviation (n - 1) / √n; NaN for one image. It covers the
            choice of the images and the noise of every estimate, but not the distance of a bound
            from log p(x). For one image repeated n times it is the noise alone.
        values: `[n]`, float64, on the CPU.
        acceptance: `[n]`, mean acceptance probability of the moves of AIS, 0.65 or more if its step
            sizes fit (NaN with 1 temperature); None for the bounds, which move nothing.
    """

    value: float
    standard_error: float
    values: Tensor
    acceptance: Tensor | None = None


class BidirectionalGap(NamedTuple):
    """A sandwich of log p(x) for images that the model drew itself, in nats per image.

    Attributes:
        lower, upper: LikelihoodEstimates; in expectation, lower <= log p(x) <= upper.
        gap: mean of upper - lower over the images.
        standard_error: of the gap, over the images.
        x: the images `[n, ...]`, on the CPU.
    """

    lower: LikelihoodEstimate
    upper: LikelihoodEstimate
    gap: float
    standard_error: float
    x: Tensor


class ActiveUnits(NamedTuple):
    """Number of latent dimensions in use, and Var_x(E_q[z]) of each, `[latent]` float64."""

    count: int
    variances: Tensor


def elbo(
    model: Any,
    likelihood: Any,
    x: Any,
    n_samples: int = 1,
    generator: Seed = 0,
    batch_size: int = 512,
) -> LikelihoodEstimate:
    """The evidence lower bound E_q[log p(x|z)] - KL(q(z|x) || N(0, I)), in nats per image.

    The KL is the closed form; the expectation is a mean over `n_samples` draws of z per image.

    Args:
        model: has `encode(x) -> (mu, log_var)`, each `[batch, latent]`, and `decode(z)`.
        likelihood: has `log_prob(x, decoded) -> [batch]`, like those in `course_lib.losses`.
        x: `[n, ...]`, floating point, in the likelihood's range.
        batch_size: rows that are decoded at once.

    Raises:
        ValueError: x is empty, not finite or out of range, a count is below 1, or a network
            returns a wrong shape, NaN or infinities.
        TypeError: model or likelihood lacks what it needs.

    Source: Kingma & Welling, Auto-Encoding Variational Bayes, 2013, Eq. 3 and Appendix B.
    """
    network, k = Network(model, likelihood, batch_size), whole(n_samples, "n_samples", 1)
    with network.evaluating():
        x = network.data(x)
        mu, log_var = network.posterior(x)
        draws = network.draws(x, mu, log_var, k, new_generator(generator))
        reconstruction = sum(log_p.sum(0) for log_p, _ in draws) / k
        return _estimate(reconstruction - kl_to_standard_normal(mu, log_var))


def importance_weighted_bound(
    model: Any,
    likelihood: Any,
    x: Any,
    k: int,
    generator: Seed = 0,
    batch_size: int = 512,
) -> LikelihoodEstimate:
    """L_k = E log( 1/k sum_i w_i ), w_i = p(x, z_i) / q(z_i|x), z_i ~ q(z|x), in nats per image.

    In expectation it rises with k, from the ELBO at k = 1 (here with a sampled KL) to log p(x).
    Memory does not grow with k. From one seed, the draws for k are the first k of those for more.

    Args:
        k: draws per image; the literature reports -L_5000. The others as in `elbo`.

    Raises:
        ValueError, TypeError: as `elbo`.

    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, 2015, Eq. 8.
    """
    network, k = Network(model, likelihood, batch_size), whole(k, "k", 1)
    with network.evaluating():
        x = network.data(x)
        mu, log_var = network.posterior(x)
        total = mu.new_full((len(x),), -math.inf)
        for log_p, log_ratio in network.draws(x, mu, log_var, k, new_generator(generator)):
            total = torch.logaddexp(total, torch.logsumexp(log_p + log_ratio, 0))
        return _estimate(total - math.log(k))


def annealed_importance_sampling(
    model: Any,
    likelihood: Any,
    x: Any,
    generator: Seed = 0,
    batch_size: int = 512,
    start: Literal["prior", "posterior"] = "prior",
    latent_dim: int | None = None,
    **settings: Any,
) -> LikelihoodEstimate:
    """log p(x) of a decoder with prior N(0, I) by annealed importance sampling, nats per image.

    Chains go from N(u; 0, I) to the posterior over `temperatures` laws between them, with a
    Hamiltonian move and a Metropolis test at each; see `annealing`. The mean weight of a chain is
    exactly p(x), since step sizes are learned by a pilot run of chains/4 other chains and do not
    adapt in the run that counts. The result, the logarithm of the mean over an image's chains, is
    thus a lower bound in expectation. It comes nearer to log p(x) with more temperatures and
    chains; with 1 temperature it is L_k with k = chains. Time per image: that of 1.25 · chains ·
    temperatures · leapfrog_steps gradients of the decoder (with fewer than 100 temperatures, the
    pilot takes several moves at each).

    Args:
        model: has `decode(z)`, or is itself a decoder z `[batch, latent]` -> raw outputs.
        likelihood, x: as in `elbo`.
        generator: gives each image a seed of its own, for its noise alone.
        batch_size: chains that are held at once, but at least those of one image.
        start: 'prior' needs no encoder (mu = 0, sigma = 1); 'posterior' starts from q(z|x).
        latent_dim: length of z, where the model has no attribute of this name.
        settings: temperatures=1000, chains=16, leapfrog_steps=10, schedule='sigmoid' or 'linear'.

    Raises:
        ValueError: as `elbo`; or an unknown word; or no latent_dim; or no gradient of decode(z).
        TypeError: model or likelihood lacks what it needs, or an unknown setting.

    Sources: Neal, Annealed Importance Sampling, 2001; Wu, Burda, Salakhutdinov & Grosse, On the
    Quantitative Analysis of Decoder-Based Generative Models, 2017.
    """
    run = _Annealer(model, likelihood, batch_size, start, latent_dim, settings)
    found = []
    with run.network.evaluating():
        x = run.network.data(x)
        for rows, noise in run.groups(len(x), generator):
            log_w, acceptance = run.chains(x[rows], noise)[0].forward()
            found.append((_log_mean(log_w), acceptance.cpu()))
    return _estimate(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def bidirectional_check(
    model: Any,
    likelihood: Any,
    n: int,
    generator: Seed = 0,
    batch_size: int = 512,
    start: Literal["prior", "posterior"] = "prior",
    latent_dim: int | None = None,
    **settings: Any,
) -> BidirectionalGap:
    """How far off `annealed_importance_sampling` can be with these settings, in nats per image.

    If z ~ N(0, I) and x ~ p(x|z), then z is an exact draw from p(z|x). Chains that start there and
    go backwards have the mean weight 1/p(x): minus its logarithm is an upper bound of log p(x) in
    expectation. The gap to the forward run bounds the mean error of both, for images of the model.
    Real images can be harder; for them the gap is a hint, not a bound.

    Args:
        n: number of images to draw.
        likelihood: one of `course_lib.losses`, or an object with `sample(decoded, generator)` too.
            Gaussian pixels outside [0, 1] are kept: clipped ones would not come from the model.
        model and the others: as in `annealed_importance_sampling`.

    Raises:
        ValueError, TypeError: as there; TypeError if nothing can be drawn from the likelihood.

    Source: Grosse, Ghahramani & Adams, Sandwiching the Marginal Likelihood Using Bidirectional
    Monte Carlo, 2015; used so by Wu et al. 2017.
    """
    likelihood, sample = _simulation(likelihood)
    run = _Annealer(model, likelihood, batch_size, start, latent_dim, settings)
    found = []
    with run.network.evaluating():
        for _, noise in run.groups(whole(n, "n", 1), generator):
            z = torch.stack([normals((run.latent_dim,), g) for g in noise])
            # A model without weights works in the type of what it is given.
            run.network.like = z if run.network.plain else run.network.like
            decoded = run.network.decode(z.to(run.network.like))
            draws = [sample(d[None], g) for d, g in zip(decoded, noise, strict=True)]
            x = run.network.data(torch.cat(draws))
            chains, mu, sigma = run.chains(x, noise)
            forward, acceptance = chains.forward()
            backward = chains.backward((z.to(mu) - mu) / sigma)
            found.append((_log_mean(forward), -_log_mean(backward), acceptance.cpu(), x.cpu()))
    lower, upper, acceptance, x = (torch.cat(parts) for parts in zip(*found, strict=True))
    gap = _estimate(upper - lower)
    sides = _estimate(lower, acceptance), _estimate(upper)
    return BidirectionalGap(*sides, gap.value, gap.standard_error, x)


def active_units(model: Any, x: Any, threshold: float = 0.01, batch_size: int = 512) -> ActiveUnits:
    """Latent dimensions whose posterior mean moves with x: Var_x( E_q(z|x)[z] ) > threshold.

    The variance has the divisor n - 1. Arguments and errors as in `elbo`; two images at least, and
    a threshold of at least 0.

    Source: Burda, Grosse & Salakhutdinov 2015, section 5 (A_u, with the threshold 0.01).
    """
    if not (isinstance(threshold, Real) and threshold >= 0):
        raise ValueError(
            f"threshold is {threshold!r}: give a variance of at least 0, such as 0.01."
        )
    network = Network(model, None, batch_size, "encode")
    with network.evaluating():
        x = network.data(x)
        if len(x) < 2:
            raise ValueError("x holds 1 image, and a variance over images needs at least 2.")
        variances = network.posterior(x)[0].var(0).cpu()
    return ActiveUnits(int((variances > threshold).sum()), variances)


# ---------------------------------------------------------------------------- numbers and noise


def _estimate(values: Tensor, acceptance: Tensor | None = None) -> LikelihoodEstimate:
    values = values.cpu()
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return LikelihoodEstimate(float(values.mean()), error, values, acceptance)


def _log_mean(log_w: Tensor) -> Tensor:
    """log of the mean weight of each image, from log weights `[images, chains]`."""
    return torch.logsumexp(log_w, 1) - math.log(log_w.shape[1])


def _simulation(likelihood: Any) -> tuple[Any, Callable[..., Tensor]]:
    """The likelihood without its check of the range of x, and `sample(decoded, generator)`."""
    if hasattr(likelihood, "sample"):
        return likelihood, likelihood.sample
    if type(likelihood) is losses.BernoulliLikelihood:

        def sample(decoded: Tensor, generator: torch.Generator) -> Tensor:
            mean = likelihood.mean(decoded)
            uniform = torch.rand(mean.shape, generator=generator, dtype=torch.float64)
            return (uniform.to(mean) < mean).to(mean)

        return likelihood, sample
    if type(likelihood) in (losses.GaussianLikelihood, losses.LearnedGaussianLikelihood):

        def sample(decoded: Tensor, generator: torch.Generator) -> Tensor:
            mean = likelihood.mean(decoded)
            return mean + likelihood.sigma * normals(mean.shape, generator).to(mean)

        def log_prob(x: Tensor, decoded: Tensor) -> Tensor:
            mean = likelihood.mean(decoded)
            return losses.gaussian_log_likelihood(x, mean, likelihood.sigma)

        return SimpleNamespace(log_prob=log_prob), sample
    raise TypeError(
        f"Nothing can be drawn from the likelihood {str(likelihood)[:60]}: give it a method "
        "sample(decoded, generator) that returns x."
    )


class _Annealer:
    """What forward and bidirectional annealing share: w(u) with its gradient, and the noise."""

    def __init__(
        self, model: Any, likelihood: Any, batch_size: int, start: str, latent: Any, settings: dict
    ) -> None:
        if start not in ("prior", "posterior"):
            raise ValueError(f"start is {start!r}: choose 'prior' or 'posterior'.")
        known = [field.name for field in fields(Annealing)]
        for name in settings:
            if name not in known:
                raise TypeError(f"There is no setting {name!r}: choose among {', '.join(known)}.")
        self.start, self.settings = start, Annealing(**settings)
        needs = "decode" if start == "prior" else "encode decode"
        self.network = Network(model, likelihood, batch_size, needs)
        latent = getattr(model, "latent_dim", None) if latent is None else latent
        if latent is None:
            raise ValueError("The model does not say how long z is: pass latent_dim.")
        self.latent_dim = whole(latent, "latent_dim", 1)

    def groups(self, n: int, generator: Seed) -> Iterator[tuple[slice, list[torch.Generator]]]:
        """Images whose chains fit into one batch, and a generator for each image."""
        source = new_generator(generator)
        seeds = torch.randint(2**62, (n,), generator=source, device=source.device).tolist()
        size = max(1, self.network.batch_size // self.settings.chains)
        for i in range(0, n, size):
            yield slice(i, i + size), [new_generator(seed) for seed in seeds[i : i + size]]

    def chains(self, x: Tensor, noise: list[torch.Generator]) -> tuple[Chains, Tensor, Tensor]:
        """Chains for images x, and the mu and sigma in z = mu + sigma u."""
        if self.start == "posterior":
            mu, log_var = self.network.posterior(x)
        else:
            mu = log_var = double(x.new_zeros(len(x), self.latent_dim))
        sigma, log_det = (0.5 * log_var).exp(), 0.5 * log_var.sum(1, keepdim=True)

        def log_w(u: Tensor) -> tuple[Tensor, Tensor]:
            z = (mu[:, None] + sigma[:, None] * u).flatten(0, 1)
            rows = x.repeat_interleave(u.shape[1], 0)
            with torch.enable_grad():
                leaf = z.to(self.network.like).requires_grad_()
                log_p = self.network.log_prob(rows, leaf)
                slope = (
                    log_p.requires_grad
                    and torch.autograd.grad(log_p.sum(), leaf, allow_unused=True)[0]
                )
                if not isinstance(slope, Tensor):
                    raise ValueError(
                        "decode(z) gives no gradient with respect to z, along which the chains "
                        "move: take no_grad or detach out of it."
                    )
            value = log_p.detach().view(u.shape[:2]) + log_det
            value = value + 0.5 * (u.square().sum(-1) - z.view_as(u).square().sum(-1))
            return value, sigma[:, None] * (double(slope) - z).view_as(u) + u

        chains = Chains(log_w, self.latent_dim, noise, self.settings, mu.device)
        return chains, mu, sigma
