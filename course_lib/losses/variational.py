"""Likelihoods and the ELBO, in nats.

Reduction: a log-likelihood or KL is SUMMED over dimensions and AVERAGED over the batch. A mean over
pixels beside a sum over latents would multiply beta by the number of pixels without saying so.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from course_lib.probability.divergences import kl_to_standard_normal


def _require_same_shape(x: Tensor, other: Tensor, name: str) -> None:
    if x.shape != other.shape or x.ndim < 2:
        raise ValueError(
            f"x {list(x.shape)} and {name} {list(other.shape)} must share one shape [batch, ...]; "
            "broadcasting here would count pixels twice."
        )


def _floating(x: Tensor, like: Tensor) -> Tensor:
    """x; whole or boolean numbers in the dtype of `like`, since sigma has no whole part to keep."""
    if x.is_floating_point():
        return x
    return x.to(like.dtype if like.is_floating_point() else torch.get_default_dtype())


def _require_unit_interval(x: Tensor) -> None:
    if x.numel() == 0:
        raise ValueError(f"x is empty, of shape {list(x.shape)}: pass at least one example.")
    low, high = torch.aminmax(x)
    if not bool((low >= 0) & (high <= 1)):  # NaN fails this comparison too
        mend = "load it with range=(0.0, 1.0), or map [-1, 1] images with (x + 1) / 2."
        if low.isnan():
            mend = "it holds NaN: find where that arises, no range can mend it."
        elif low >= 0 and high > 2:
            mend = "divide pixels in 0..255 by 255, as load with range=(0.0, 1.0) does."
        elif low >= -0.1 and high <= 1.1:
            mend += " What overshoots a little, x.clamp(0, 1) cuts off."
        raise ValueError(
            f"x must lie in [0, 1] for this likelihood but spans [{low:.4g}, {high:.4g}]; {mend}"
        )


def _in_unit_interval(x: Tensor) -> Tensor:
    """x, refused if it leaves [0, 1]; on a GPU what leaves it becomes NaN instead.

    To refuse a tensor there is to wait until the GPU has computed all that comes before it.
    """
    if x.device.type == "cpu":
        _require_unit_interval(x)
        return x
    return x.masked_fill((x < 0) | (x > 1), math.nan)


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x) of independent Bernoulli pixels with log-odds `logits`, in nats.

    For grey values strictly between 0 and 1 this is minus the cross-entropy, a usual but
    unnormalised score; only for x in {0, 1} is it a log-probability.

    Args:
        x: [batch, ...] in [0, 1]; whole or boolean numbers are taken in the dtype of logits.
        logits: the same shape.

    Returns:
        [batch], summed over dimensions.

    Raises:
        ValueError: shapes differ, or x leaves [0, 1]; on a GPU, which would have to be waited for,
            the result is NaN for every example that does.

    Source: Kingma and Welling 2013, Appendix C.1.
    """
    _require_same_shape(x, logits, "logits")
    x = _in_unit_interval(_floating(x, logits))
    return -binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(x: Tensor, mean: Tensor, sigma: float | Tensor) -> Tensor:
    """log N(x; mean, sigma^2 I) in nats, with its constant: sigma is comparable across models.

    Args:
        x, mean: [batch, ...] of one shape, any range; x of whole numbers is taken in the dtype of
            mean.
        sigma: positive standard deviation, a number or a tensor that broadcasts to x.

    Returns:
        [batch], summed over dimensions.

    Raises:
        ValueError: shapes differ, or a number `sigma` is not positive.

    Source: Kingma and Welling 2013, Appendix C.2.
    """
    _require_same_shape(x, mean, "mean")
    x = _floating(x, mean)
    if not isinstance(sigma, Tensor) and not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be a positive finite number, not {sigma}.")
    if not isinstance(sigma, Tensor):  # filled in on the device: a copy there would be waited for
        sigma = torch.full((), sigma, dtype=x.dtype, device=x.device)
    sigma = sigma.to(x)
    constant = 0.5 * math.log(2 * math.pi)
    if sigma.ndim == 0:  # one for all: what can wait until after the sum passes over no image
        squares = (x - mean).square().flatten(1).sum(1)
        return -0.5 * (squares / sigma / sigma) - math.prod(x.shape[1:]) * (sigma.log() + constant)
    log_density = -0.5 * ((x - mean) / sigma).square() - sigma.log() - constant
    if log_density.shape != x.shape:
        raise ValueError(f"sigma {list(sigma.shape)} does not broadcast to x {list(x.shape)}.")
    return log_density.flatten(1).sum(1)


class BernoulliLikelihood(nn.Module):
    """The decoder's raw output is the log-odds of each pixel."""

    def log_prob(self, x: Tensor, decoded: Tensor) -> Tensor:
        """`bernoulli_log_likelihood(x, decoded)`, [batch]; x outside [0, 1] as there."""
        return bernoulli_log_likelihood(x, decoded)

    def require_range(self, x: Tensor) -> None:
        """Raise ValueError if x leaves [0, 1], on any device; on a GPU this waits for it."""
        _require_unit_interval(x)

    def mean(self, decoded: Tensor) -> Tensor:
        """E[x] in [0, 1], the shape of `decoded`."""
        return decoded.sigmoid()


class GaussianLikelihood(nn.Module):
    """Gaussian pixels of fixed `sigma` (in units of x) around sigmoid(decoded).

    `bounded=False` is for data that are not images: the mean is `decoded` itself and x may be any
    real number. sigma sets the price of an error: the larger it is, the more the KL outweighs what
    the pixels can tell, and the more latent dimensions collapse to the prior.

    Raises:
        ValueError: sigma is not positive and finite.
    """

    def __init__(self, sigma: float = 0.1, bounded: bool = True) -> None:
        super().__init__()
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be a positive finite number, not {sigma}.")
        self._sigma, self.bounded = float(sigma), bounded

    @property
    def sigma(self) -> float | Tensor:
        """The standard deviation, in units of x."""
        return self._sigma

    def log_prob(self, x: Tensor, decoded: Tensor) -> Tensor:
        """log N(x; mean(decoded), sigma^2 I), [batch], nats.

        If bounded, x outside [0, 1] is a ValueError, or NaN on a GPU, as in
        `bernoulli_log_likelihood`.
        """
        if self.bounded:
            x = _in_unit_interval(_floating(x, decoded))
        return gaussian_log_likelihood(x, self.mean(decoded), self.sigma)

    def require_range(self, x: Tensor) -> None:
        """If bounded, raise ValueError if x leaves [0, 1]; on a GPU this waits for it."""
        if self.bounded:
            _require_unit_interval(x)

    def mean(self, decoded: Tensor) -> Tensor:
        """E[x], the shape of `decoded`; in [0, 1] if bounded."""
        return decoded.sigmoid() if self.bounded else decoded


class LearnedGaussianLikelihood(GaussianLikelihood):
    """Gaussian pixels whose one `sigma = exp(log_sigma)` is learned with the decoder.

    At the optimum sigma^2 is the mean squared error per pixel, so no weight between reconstruction
    and KL is left to tune. Give its parameter to the optimizer.

    Source: Rybkin, Daniilidis and Levine 2021 (sigma-VAE).
    """

    def __init__(self, initial_sigma: float = 1.0, bounded: bool = True) -> None:
        super().__init__(initial_sigma, bounded)
        self.log_sigma = nn.Parameter(torch.tensor(math.log(initial_sigma)))

    @property
    def sigma(self) -> Tensor:
        """Scalar tensor, differentiable."""
        return self.log_sigma.exp()


class Likelihood(Protocol):
    """What `elbo` asks of a likelihood: `log_prob(x, decoded) -> [batch]` in nats."""

    def log_prob(self, x: Tensor, decoded: Tensor) -> Tensor: ...


class Inference(Protocol):
    """What `elbo` asks of a VAE's output: decoded [batch, ...]; mu, log_var, z [batch, latent]."""

    decoded: Tensor
    mu: Tensor
    log_var: Tensor
    z: Tensor


class ELBO(NamedTuple):
    """Scalar batch means in nats: value = reconstruction - beta * kl."""

    value: Tensor
    reconstruction: Tensor
    kl: Tensor

    @property
    def negative(self) -> Tensor:
        """-value, what an optimizer minimises."""
        return -self.value


def elbo(
    x: Tensor,
    output: Inference,
    likelihood: Likelihood,
    beta: float = 1.0,
    kl: Literal["analytic", "sampled"] = "analytic",
) -> ELBO:
    """Evidence lower bound with prior N(0, I) and q(z|x) = N(mu, diag exp(log_var)).

    Args:
        x: [batch, ...] data in the likelihood's range.
        output: what `models.VAE` returned for x.
        beta: weight of the summed KL; 1 is the ELBO.
        kl: 'analytic' is the closed form; 'sampled' is log q(z|x) - log p(z) at output.z, unbiased
            for the same number but noisier.

    Returns:
        ELBO(value, reconstruction, kl), scalars in nats per example.

    Raises:
        ValueError: shapes disagree, x is out of range, or `kl` is neither word.

    Source: Kingma and Welling 2013, Eq. 3 and 10; beta from Higgins et al. 2017.
    """
    mu, log_var, z = output.mu, output.log_var, output.z
    if not (mu.shape == log_var.shape == z.shape and len(mu) == len(x)):
        raise ValueError(
            f"mu {list(mu.shape)}, log_var {list(log_var.shape)} and z {list(z.shape)} must share "
            f"one shape [batch, latent] with the batch of x, {len(x)}."
        )
    reconstruction = likelihood.log_prob(x, output.decoded).mean()
    if kl == "analytic":
        divergence = kl_to_standard_normal(mu, log_var).mean()
    elif kl == "sampled":
        # log q - log p; the two constants -d/2 log(2 pi) cancel.
        log_ratio = 0.5 * (z.square() - (z - mu).square() / log_var.exp() - log_var)
        divergence = log_ratio.sum(1).mean()
    else:
        raise ValueError(f"kl must be 'analytic' or 'sampled', not {kl!r}.")
    return ELBO(reconstruction - beta * divergence, reconstruction, divergence)


def bits_per_dim(nats: float | Tensor, dims: int) -> float | Tensor:
    """Nats per example to bits per dimension: nats / (dims log 2). The sign is kept.

    Pass a NEGATIVE log-likelihood to get the figure that papers report (lower is better); it is
    comparable between papers only for discrete pixels or dequantised ones in units of 1/256.

    Raises:
        ValueError: dims is not positive.
    """
    if dims < 1:
        raise ValueError(f"dims must be the number of data dimensions, at least 1, not {dims}.")
    return nats / (dims * math.log(2.0))
