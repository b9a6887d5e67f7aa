"""Checks of the exercises on lecture 12, the ELBO."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from course_lib import probability
from course_lib.exercises.attempts import Attempt, near
from course_lib.exercises.registry import exercise

LECTURE = "12_elbo"


# ---------------------------------------------------------------------------- 12.1


@exercise(
    "12.1",
    see="section 7, equation (12.23)",
    learnt="This is the rate of every VAE with a standard normal prior; lecture 13 adds it to a "
    "reconstruction term and watches which latents it switches off.",
    hints={
        "averaged over latents": "You average over the latent dimensions. The contract sums them: "
        "a KL of k independent coordinates is the sum of k KLs, and a mean divides beta by k.",
        "averaged over the batch": "You return one number for the whole batch. One KL per image is "
        "wanted, shape [batch]; whoever trains takes the mean.",
        "other direction": "This is KL(p || q) with the prior first. The ELBO needs the code's "
        "distribution first, KL(q || p): the average is over q.",
        "minus sign": "You have the negative of the KL. A KL is never below zero; many papers "
        "print -KL because they write the ELBO.",
        "half forgotten": "Your value is twice the KL: the factor 1/2 in front of the sum.",
        "constant forgotten": "Your value is too large by 1/2 for each latent: a code that is the "
        "prior itself, mu = 0 and s = 1, should cost nothing.",
        "sign of log_var": "You add log_var. It is subtracted: a narrow code, whose log_var is far "
        "below 0, costs more.",
        "log_var taken as log s": "You square exp(log_var). log_var is log s²: its exponential is "
        "the variance already.",
        "log_var taken as the variance": "You use log_var as if it were the variance. Encoders "
        "return its logarithm, so that any real number is allowed.",
        "wrong shape": "One KL per image is wanted, [batch]: sum over the latents, the last axis.",
        "not finite": "At log_var = -200 the exponential is rounded, to 0 or nearly so, and its "
        "logarithm is no longer what you started from: use log_var itself where a logarithm is "
        "needed.",
    },
)
def kl_to_standard_normal(attempt: Attempt) -> None:
    """KL(N(mu, diag exp(log_var)) || N(0, I)) per image."""
    mistakes = {
        "averaged over latents": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).mean(-1),
        "averaged over the batch": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum(-1).mean(),
        "other direction": probability.kl_from_standard_normal,
        "minus sign": lambda m, v: -probability.kl_to_standard_normal(m, v),
        "half forgotten": lambda m, v: 2 * probability.kl_to_standard_normal(m, v),
        "constant forgotten": lambda m, v: 0.5 * (m**2 + v.exp() - v).sum(-1),
        "sign of log_var": lambda m, v: 0.5 * (m**2 + v.exp() - 1 + v).sum(-1),
        "log_var taken as log s": lambda m, v: 0.5 * (m**2 + (2 * v).exp() - 1 - 2 * v).sum(-1),
        "log_var taken as the variance": lambda m, v: 0.5 * (m**2 + v - 1 - v.log()).sum(-1),
    }
    right = probability.kl_to_standard_normal
    one = (torch.tensor([[1.5, 0.0]]), torch.tensor([[0.7, 0.5]]))
    attempt.value("one image, two latents", one, right, mistakes=mistakes, tolerance=1e-5)
    many = attempt.normal(5, 3), attempt.normal(5, 3)
    attempt.value("five images, three latents", many, right, mistakes=mistakes)
    attempt.gradient("five images, three latents", many, right, of=(0, 1), mistakes=mistakes)
    point = torch.tensor([[0.5, -0.5]]), torch.tensor([[-200.0, 3.0]])
    rounded = {
        "not finite": lambda m, v: (
            0.5 * (m**2 + v.exp() - 1).sum(-1) - (0.5 * v).exp().log().sum(-1)
        )
    }
    where = "a code of almost no width"
    found = attempt.call(where, *point)
    if isinstance(found, Tensor) and found.shape == (1,) and not near(found, right(*point), 1e-3):
        attempt.fail("not finite", f"Your function returned {found[0]:.4g}.")
    attempt.value(where, point, right, mistakes=rounded, tolerance=1e-5)
    attempt.any_device("five images, three latents", *many)


# ---------------------------------------------------------------------------- 12.2


@exercise(
    "12.2",
    see="section 6, equation (12.14)",
    learnt="With the noise as an argument the draw is a differentiable function of mu and log_var; "
    "lecture 13's encoder gets all of its gradient of the reconstruction through this line.",
    hints={
        "variance for deviation": "You multiply the noise by the variance. A standard normal "
        "number times c has standard deviation c, and exp(log_var) is s², not s.",
        "log_var for deviation": "You multiply the noise by log_var itself, which may be negative.",
        "half of log_var": "You multiply the noise by log_var / 2. That is log s: s is its "
        "exponential.",
        "half of the variance": "You multiply the noise by exp(log_var) / 2. Half belongs into the "
        "exponent: the square root of e^v is e^(v/2).",
        "mu scaled too": "You multiply mu by s as well: only the noise is stretched, mu moves it.",
        "noise and mu exchanged": "You multiply mu by s and add the noise: it is the noise that s "
        "stretches.",
        "noise subtracted": "Your z has the right law, for -noise is as likely as noise. The draw "
        "of this course adds it, as (12.14) does, so that the same noise gives the same code.",
        "not finite": "log_var may be negative, and then has no square root: exponentiate first.",
        "noise of its own": "Your result does not depend on the `noise` that it was given. Drawing "
        "inside hides the randomness: use the argument.",
        "mean only": "You return mu: nothing is sampled. That is right at test time only.",
        "exponent too large": "You multiply by exp(2 log_var): half of log_var is wanted in the "
        "exponent, not twice.",
        "no gradient": "This is the point of the trick: z must stay connected to mu and log_var.",
    },
)
def reparameterise(attempt: Attempt) -> None:
    """z = mu + exp(log_var / 2) * noise."""
    mistakes = {
        "variance for deviation": lambda m, v, e: m + v.exp() * e,
        "log_var for deviation": lambda m, v, e: m + v * e,
        "mean only": lambda m, v, e: m,
        "exponent too large": lambda m, v, e: m + (2 * v).exp() * e,
        "half of log_var": lambda m, v, e: m + 0.5 * v * e,
        "half of the variance": lambda m, v, e: m + 0.5 * v.exp() * e,
        "mu scaled too": lambda m, v, e: (m + e) * (0.5 * v).exp(),
        "noise and mu exchanged": lambda m, v, e: m * (0.5 * v).exp() + e,
        "noise subtracted": lambda m, v, e: m - (0.5 * v).exp() * e,
    }

    def right(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
        return mu + (0.5 * log_var).exp() * noise

    args = tuple(attempt.normal(4, 3) for _ in range(3))
    found, again, other = (
        attempt.call(f"four images, three latents{which}", *args[:2], noise)
        for which, noise in (
            ("", args[2]),
            (", a second time", args[2]),
            (", other noise", 1 + args[2]),
        )
    )
    if all(isinstance(x, Tensor) and x.shape == args[0].shape for x in (found, again, other)):
        drawn = not torch.allclose(found, again, equal_nan=True)
        deaf = torch.allclose(found, other) and not torch.allclose(found, args[0].to(found.dtype))
        attempt.require(not drawn and not deaf, "noise of its own")
    attempt.value("four images, three latents", args, right, mistakes=mistakes)
    attempt.gradient("four images, three latents", args, right, of=(0, 1), mistakes=mistakes)
    single = tuple(x.float() for x in (args[0][:1], args[1][:1], args[2][:1]))
    attempt.value("a batch of one, float32", single, right, tolerance=1e-5)
    attempt.any_device("four images, three latents", *args)


# ---------------------------------------------------------------------------- 12.3


@exercise(
    "12.3",
    see="section 7, equation (12.22)",
    learnt="The VAE's KL is the case of one diagonal and one unit covariance; the mean-field gap "
    "(12.11) of section 4 is the case of a diagonal one against a full one.",
    hints={
        "other direction": "This is KL(p || q). The average is over the first argument: q's "
        "covariance stands in the trace, p's is inverted.",
        "half forgotten": "Your value is twice the KL: the factor 1/2 in front of the four terms.",
        "mean term not halved": "The factor 1/2 belongs in front of all four terms; the distance "
        "of the means stands outside of it.",
        "dimension forgotten": "Two equal Gaussians should be 0 apart, and yours are k/2: the "
        "second term of the log-ratio averages to -k/2.",
        "determinants swapped": "The logarithm of the ratio of determinants has the wrong sign: a "
        "narrow q inside a wide p must cost something.",
        "wrong inverse": "The distance of the means is measured with the wrong covariance: the "
        "inverse in both terms is p's, since both come from log p.",
        "inverse of q": "Your inverse is that of q's covariance, in the trace and in the distance "
        "of the means. Both come from log p, so p's is inverted and q's stands beside it.",
        "root of the determinants": "You take the product of the diagonal of a Cholesky factor for "
        "the determinant. It is its square root: the logarithm counts twice.",
        "elementwise inverse": "You divide by the entries of the covariance. 1 / A and A ** -1 "
        "work entry by entry; the inverse of a matrix is something else.",
        "elementwise product": "The trace is that of a matrix product: with * in place of @, only "
        "the products of equal places are summed.",
        "only the diagonals": "You use the diagonals alone, as if the coordinates were "
        "independent. These covariances are full.",
        "not finite": "In many dimensions a determinant leaves the range of floating point, and so "
        "does its root, a product of 300 small numbers: both are rounded to 0. Ask for the "
        "logarithm directly, or add up logarithms.",
    },
)
def kl_full_gaussians(attempt: Attempt) -> None:
    """KL(N(mean_q, cov_q) || N(mean_p, cov_p)) of full covariances."""

    def terms(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> tuple:
        inverse = torch.linalg.inv(cov_p)
        shift = mean_q - mean_p
        ratio = torch.logdet(cov_p) - torch.logdet(cov_q)
        return (inverse @ cov_q).trace(), shift @ inverse @ shift, len(shift), ratio

    def wrong_inverse(mq: Tensor, sq: Tensor, mp: Tensor, sp: Tensor) -> Tensor:
        trace, _, k, ratio = terms(mq, sq, mp, sp)
        return 0.5 * (trace + (mq - mp) @ torch.linalg.solve(sq, mq - mp) - k + ratio)

    def elementwise_inverse(mq: Tensor, sq: Tensor, mp: Tensor, sp: Tensor) -> Tensor:
        _, _, k, ratio = terms(mq, sq, mp, sp)
        trace = ((1 / sp) @ sq).trace()
        return 0.5 * (trace + (mq - mp) @ (1 / sp) @ (mq - mp) - k + ratio)

    def elementwise_product(mq: Tensor, sq: Tensor, mp: Tensor, sp: Tensor) -> Tensor:
        _, square, k, ratio = terms(mq, sq, mp, sp)
        return 0.5 * ((torch.linalg.inv(sp) * sq).trace() + square - k + ratio)

    def diagonals(mq: Tensor, sq: Tensor, mp: Tensor, sp: Tensor) -> Tensor:
        return right(mq, sq.diagonal().diag(), mp, sp.diagonal().diag())

    def kl_with(*signs: float) -> Callable[..., Tensor]:
        def function(*args: Tensor) -> Tensor:
            return sum(s * t for s, t in zip(signs, terms(*args), strict=True))

        return function

    def inverse_of_q(mq: Tensor, sq: Tensor, mp: Tensor, sp: Tensor) -> Tensor:
        trace, square, k, ratio = terms(mp, sp, mq, sq)
        return 0.5 * (trace + square - k - ratio)

    mistakes = {
        "other direction": lambda mq, sq, mp, sp: right(mp, sp, mq, sq),
        "half forgotten": kl_with(1.0, 1.0, -1.0, 1.0),
        "root of the determinants": kl_with(0.5, 0.5, -0.5, 0.25),
        "inverse of q": inverse_of_q,
        "mean term not halved": kl_with(0.5, 1.0, -0.5, 0.5),
        "dimension forgotten": kl_with(0.5, 0.5, 0.0, 0.5),
        "determinants swapped": kl_with(0.5, 0.5, -0.5, -0.5),
        "wrong inverse": wrong_inverse,
        "elementwise inverse": elementwise_inverse,
        "elementwise product": elementwise_product,
        "only the diagonals": diagonals,
    }
    right = probability.kl_gaussians

    def covariance(k: int, scale: float = 1.0) -> Tensor:
        factor = attempt.normal(k, k)
        return scale * (factor @ factor.T / k + torch.eye(k, dtype=torch.float64))

    args = attempt.normal(3), covariance(3), attempt.normal(3), covariance(3, 1.5)
    attempt.value("two Gaussians in three dimensions", args, right, mistakes=mistakes)
    attempt.gradient("two Gaussians in three dimensions, for the means", args, right, of=(0, 2))
    one = tuple(torch.tensor(t, dtype=torch.float64) for t in ([1.5], [[0.25]], [-0.3], [[1.44]]))
    attempt.value("one dimension", one, right, mistakes=mistakes)
    large = attempt.normal(300), covariance(300, 1e-3), attempt.normal(300), covariance(300, 1e-3)
    attempt.value("three hundred narrow dimensions", large, right, tolerance=1e-7)
    single = tuple(a.float() for a in args)
    attempt.value("three dimensions, float32", single, right, tolerance=1e-4)


# ---------------------------------------------------------------------------- 12.4


def _score_terms(
    values: Tensor, z: Tensor, mu: Tensor, log_var: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Advantage over the other draws [n, 1], and the score in mu and in log_var, each [n, k]."""
    others = (values.sum() - values) / (len(values) - 1)
    square = (z - mu).square() / log_var.exp()
    return (values - others)[:, None], (z - mu) / log_var.exp(), 0.5 * (square - 1)


@exercise(
    "12.4",
    see="section 6, equation (12.15) and the baseline before (12.18)",
    learnt="Nothing was differentiated but log q, so f may be a step, a program or a discrete "
    "choice; section 6 runs this estimate beside the reparameterised one and shows what it costs. "
    "The n numbers f - b add up to zero, so that a constant in a score, such as the -1, drops out.",
    hints={
        "no baseline": "Nothing is subtracted from the values. The mean is right, the variance "
        "that of (12.17): it grows with the size of f.",
        "baseline knows its draw": "The baseline of each draw contains the draw's own value. That "
        "shrinks the gradient by the factor 1 - 1/n: average the *other* values.",
        "baseline over n": "Your baseline divides the sum of the others by n. There are n - 1.",
        "half forgotten": "Your gradient in log_var is twice the right one: the derivative of "
        "-(z - mu)² / (2 e^v) in v keeps the 1/2.",
        "results exchanged": "Your two results are right and stand in the wrong order: first the "
        "gradient in mu.",
        "log_var taken as the variance": "You divide by log_var. The variance is its exponential.",
        "deviation for variance": "You divide z - mu by s. The derivative of "
        "-(z - mu)² / (2 s²) in mu has s² below.",
        "derivative in s": "This is the derivative with respect to s. The encoder's number is "
        "log s²: one more factor from the chain rule.",
        "derivative in the variance": "This is the derivative with respect to s². The encoder's "
        "number is log s²: one more factor from the chain rule.",
        "log_var taken as log s": "You use exp(log_var) as s. It is the variance already.",
        "summed over draws": "You sum over the draws. The gradient of an expectation is estimated "
        "by the mean, so that more draws give a better number and not a larger one.",
        "minus sign": "The sign is that of going downhill; the gradient of E f itself is wanted.",
    },
)
def score_function_gradient(attempt: Attempt) -> None:
    """Gradient of E_q f in mu and log_var from values f(z), with a leave-one-out baseline.

    The advantages add up to zero, so whoever forgets the constant part of a score gets it right.
    """

    def right(*args: Tensor) -> tuple[Tensor, Tensor]:
        advantage, in_mu, in_log_var = _score_terms(*args)
        return (advantage * in_mu).mean(0), (advantage * in_log_var).mean(0)

    def baseline(of: Callable[[Tensor], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
        def function(values: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            _, in_mu, in_log_var = _score_terms(values, *rest)
            centred = (values - of(values))[:, None]
            return (centred * in_mu).mean(0), (centred * in_log_var).mean(0)

        return function

    def scores(function: Callable[..., tuple]) -> Callable[..., tuple[Tensor, Tensor]]:
        """The estimate with other scores: a function of z - mu and s."""

        def estimate(values: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> tuple:
            advantage, *_ = _score_terms(values, z, mu, log_var)
            in_mu, in_log_var = function(z - mu, (0.5 * log_var).exp())
            return (advantage * in_mu).mean(0), (advantage * in_log_var).mean(0)

        return estimate

    def scaled(factor: Callable[[int], float]) -> Callable[..., tuple[Tensor, Tensor]]:
        def function(values: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            a, b = right(values, *rest)
            return factor(len(values)) * a, factor(len(values)) * b

        return function

    mistakes = {
        "results exchanged": lambda *a: right(*a)[::-1],
        "half forgotten": scores(lambda r, s: (r / s**2, r**2 / s**2 - 1)),
        "baseline over n": baseline(lambda v: (v.sum() - v) / len(v)),
        "log_var taken as the variance": scores(
            lambda r, s: (r / (2 * s.log()), 0.5 * (r**2 / (2 * s.log()) - 1))
        ),
        "no baseline": baseline(lambda v: 0 * v),
        "baseline knows its draw": baseline(lambda v: v.mean()),
        "deviation for variance": scores(lambda r, s: (r / s, 0.5 * (r**2 / s**2 - 1))),
        "derivative in s": scores(lambda r, s: (r / s**2, r**2 / s**3 - 1 / s)),
        "derivative in the variance": scores(
            lambda r, s: (r / s**2, 0.5 * (r**2 / s**4 - 1 / s**2))
        ),
        "log_var taken as log s": scores(lambda r, s: (r / s**4, r**2 / s**4 - 1)),
        "summed over draws": scaled(lambda n: n),
        "minus sign": scaled(lambda n: -1.0),
    }

    def draws(n: int, k: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        mu, log_var = attempt.normal(k, dtype=dtype), attempt.normal(k, dtype=dtype)
        z = mu + (0.5 * log_var).exp() * attempt.normal(n, k, dtype=dtype)
        return 3 + 2 * attempt.normal(n, dtype=dtype), z, mu, log_var

    attempt.value("six draws of two latents", draws(6, 2), right, mistakes=mistakes)
    values, *rest = draws(8, 3)
    args = ((values > 3).double(), *rest)
    attempt.value("eight draws, f a step", args, right, mistakes=mistakes)
    attempt.value("two draws of one latent", draws(2, 1), right, mistakes=mistakes)
    attempt.value("float32", draws(5, 4, torch.float32), right, tolerance=1e-4)


# ---------------------------------------------------------------------------- 12.5


@exercise(
    "12.5",
    see="section 11, equation (12.34), and the rule below its check",
    learnt="Summed over dimensions, averaged over the batch: every loss of course_lib keeps this "
    "contract, and lecture 13 trains with it; a beta means something again. In the broken loss it "
    "was multiplied by 64 · 784 = 50,176.",
    hints={
        "still broken": "This is the broken loss. Ask of each of its two terms: over which axes is "
        "it summed, and over which averaged?",
        "error summed over the batch": "The squared error is summed over the batch, and the KL is "
        "not: that divides beta by the batch size.",
        "minus sign": "You subtract the KL. In the ELBO it is subtracted; a loss, which is minus "
        "that, adds it.",
        "half of the KL forgotten": "Your KL is twice the right one: (12.23) has a 1/2.",
        "mean over pixels": "The squared error is averaged over the pixels, while the KL is summed "
        "over the latents: that multiplies beta by the number of pixels.",
        "KL summed over the batch": "The KL is summed over the batch, the error is not: that "
        "multiplies beta by the batch size, and another batch size would give another model.",
        "summed over the batch": "Both terms are summed over the batch. Their ratio is right, but "
        "the loss grows with the batch, and the size of each step with it.",
        "both averaged": "Both terms are averaged over their own dimensions: pixels and latents "
        "have different numbers of them, and beta is multiplied by their ratio.",
        "mean over latents": "The KL is averaged over the latents. It should be summed, as the "
        "error is over the pixels: else beta is divided by the number of latents.",
        "beta on the error": "beta stands in front of the squared error. It weighs the KL.",
        "beta forgotten": "Your loss does not depend on beta.",
        "other direction": "This KL has the prior first. The ELBO needs KL(q || prior).",
        "half of the error": "You halve the squared error. The formula has no 1/2 before it; with "
        "one the same beta weighs twice as much.",
        "64 written in": "64 stands in your function; this batch has 3 images. Take the mean, or "
        "len(x).",
        "784 below the KL": "You divide the KL by 784; these images have 16 pixels, and the error "
        "is a mean over pixels still. Sum each term over its own dimensions, and divide by the "
        "number of images alone.",
        "0.05 written in": "0.05 stands in your function: beta is an argument.",
        "norm not squared": "You take the length of the error, not its square: no Gaussian "
        "log-likelihood looks like this.",
        "divided by the pixels": "The ratio of the terms is right, but all of it is divided by the "
        "number of pixels: then it is no longer in the units of beta, and images of another size "
        "give another number. Sum.",
        "784 written in": "784 stands in your function; these images have 16 pixels. Sum, and no "
        "number of pixels is needed.",
        "wrong shape": "One number for the batch is wanted: its mean.",
    },
)
def mended_vae_loss(attempt: Attempt) -> None:
    """Squared error summed over pixels + beta KL summed over latents, averaged over the batch."""

    def error(x: Tensor, x_hat: Tensor) -> Tensor:
        return (x - x_hat).square().flatten(1).sum(1)

    kl = probability.kl_to_standard_normal

    def right(x: Tensor, x_hat: Tensor, mu: Tensor, log_var: Tensor, beta: float) -> Tensor:
        return (error(x, x_hat) + beta * kl(mu, log_var)).mean()

    def length(x: Tensor, x_hat: Tensor, m: Tensor, v: Tensor, beta: float) -> Tensor:
        return (error(x, x_hat).sqrt() + beta * kl(m, v)).mean()

    mistakes = {
        "still broken": lambda x, h, m, v, b: mse_loss(h, x) + b * kl(m, v).sum(),
        "error summed over the batch": lambda x, h, m, v, b: (
            error(x, h).sum() + b * kl(m, v).mean()
        ),
        "minus sign": lambda x, h, m, v, b: right(x, h, m, v, -b),
        "half of the KL forgotten": lambda x, h, m, v, b: right(x, h, m, v, 2 * b),
        "mean over pixels": lambda x, h, m, v, b: mse_loss(h, x) + b * kl(m, v).mean(),
        "KL summed over the batch": lambda x, h, m, v, b: error(x, h).mean() + b * kl(m, v).sum(),
        "summed over the batch": lambda x, h, m, v, b: len(x) * right(x, h, m, v, b),
        "both averaged": lambda x, h, m, v, b: mse_loss(h, x) + b * kl(m, v).mean() / m.shape[1],
        "mean over latents": lambda x, h, m, v, b: right(x, h, m, v, b / m.shape[1]),
        "beta on the error": lambda x, h, m, v, b: (b * error(x, h) + kl(m, v)).mean(),
        "beta forgotten": lambda x, h, m, v, b: right(x, h, m, v, 1.0),
        "other direction": lambda x, h, m, v, b: (
            error(x, h) + b * probability.kl_from_standard_normal(m, v)
        ).mean(),
        "half of the error": lambda x, h, m, v, b: (0.5 * error(x, h) + b * kl(m, v)).mean(),
        "64 written in": lambda x, h, m, v, b: len(x) * right(x, h, m, v, b) / 64,
        "784 below the KL": lambda x, h, m, v, b: mse_loss(h, x) + b * kl(m, v).mean() / 784,
        "0.05 written in": lambda x, h, m, v, b: right(x, h, m, v, 0.05),
        "norm not squared": length,
        "divided by the pixels": lambda x, h, m, v, b: right(x, h, m, v, b) / x[0].numel(),
        "784 written in": lambda x, h, m, v, b: 784 * mse_loss(h, x) + b * kl(m, v).mean(),
    }

    def batch(n: int, k: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
        pixels = (attempt.uniform(n, 1, 4, 4, dtype=dtype) for _ in range(2))
        return *pixels, attempt.normal(n, k, dtype=dtype), attempt.normal(n, k, dtype=dtype)

    many = batch(3, 5)
    answer = attempt.answer

    def tell() -> str:
        """The loss is linear in beta, so its two terms can be told apart."""
        wrong = float(answer(*many, 0.0))
        slope = float(answer(*many, 1.0)) - wrong
        of_error, of_kl = wrong / error(*many[:2]).mean(), slope / kl(*many[2:]).mean()
        return (
            f"With beta = 0 yours is {of_error:.3g} times the squared error of an image (wanted: "
            f"1), and beta multiplies {of_kl:.3g} times the KL of an image (wanted: 1)."
        )

    where = "three images of 16 pixels"
    attempt.value(where, (*many, 0.4), right, mistakes=mistakes, tell=tell)
    attempt.gradient("three images of 16 pixels", (*many, 0.4), right, of=(1, 2, 3))
    attempt.value("another beta", (*many, 2.5), right, mistakes=mistakes)
    alone = batch(1, 2, torch.float32)
    attempt.value("a batch of one, float32", (*alone, 0.7), right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 12.6


def _log_normal(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mu, diag exp(log_var)), summed over the last axis."""
    square = (z - mu).square() * (-log_var).exp()
    return -0.5 * (square + log_var + math.log(2 * math.pi)).sum(-1)


def _log_weights(log_px: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    zero = torch.zeros_like(mu)
    return log_px + _log_normal(z, zero, zero) - _log_normal(z, mu, log_var)


@exercise(
    "12.6",
    see="section 13, equation (def 12.35), with w = p(x, z) / q(z)",
    learnt="With many draws this is the number that papers print as the log-likelihood of a VAE; "
    "lecture 19 estimates it for a full run and trains with it too.",
    hints={
        "mean of logarithms": "This is the mean of the log-weights: the ELBO, whatever k. The mean "
        "belongs inside the logarithm.",
        "k forgotten": "You sum the weights. Their mean is log k lower; without it the bound "
        "rises above log p(x).",
        "prior forgotten": "The weight is p(x, z) / q(z), and p(x, z) = p(x | z) p(z): the prior "
        "of z is missing.",
        "q forgotten": "The draws come from q, so each must be divided by its density there.",
        "q multiplied": "log q is added. The weight divides by q(z).",
        "KL outside the logarithm": "You average p(x | z) and subtract a KL afterwards. Each draw "
        "has its own ratio p(z) / q(z); it belongs to the weight, inside the logarithm.",
        "2 pi in one density": "One of the two Gaussian densities has its constant -½ log 2π per "
        "latent, the other has not: they cancel only if both or neither have it.",
        "variance for deviation": "The width of q is wrong: its standard deviation is "
        "exp(log_var / 2).",
        "weighted mean of logarithms": "You average the log-weights with the normalised weights. "
        "That lies above the logarithm of the mean, and with many draws above log p(x).",
        "width forgotten": "The density of q lacks its 1/s for each latent: log q has the term "
        "-log s.",
        "mean over latents": "You average log-densities over the latents. The density of a code is "
        "the product of those of its coordinates: sum.",
        "averaged over the batch": "You return one number for the batch; one bound per image is "
        "wanted.",
        "draws cut off": "z is detached: the bound is to be trained on, and the encoder learns by "
        "way of z as well as of log q.",
        "log_var taken as the variance": "The result holds NaN on ordinary numbers, as where a "
        "logarithm or a root is taken of log_var, which may be negative. log_var is log s² "
        "already; exp(log_var) is the variance.",
        "not finite": "log p(x | z) of an image is some hundred nats below zero, and exp of it is "
        "rounded to 0: take the largest log-weight of each image (not that of the whole batch) out "
        "before you exponentiate.",
    },
)
def importance_bound(attempt: Attempt) -> None:
    """log of the mean importance weight of each image, from k draws of q."""

    def log_mean(log_w: Tensor) -> Tensor:
        return torch.logsumexp(log_w, 0) - math.log(len(log_w))

    def right(*args: Tensor) -> Tensor:
        return log_mean(_log_weights(*args))

    def constant_in_one(log_px: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        return right(log_px, z, mu, log_var) + z.shape[-1] * 0.5 * math.log(2 * math.pi)

    def constant_in_other(log_px: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        return right(log_px, z, mu, log_var) - z.shape[-1] * 0.5 * math.log(2 * math.pi)

    def weighted(*args: Tensor) -> Tensor:
        log_w = _log_weights(*args)
        return (log_w.softmax(0) * log_w).sum(0)

    def no_prior(log_px: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        return log_mean(log_px - _log_normal(z, mu, log_var))

    def no_q(log_px: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        zero = torch.zeros_like(mu)
        return log_mean(log_px + _log_normal(z, zero, zero))

    def q_added(log_px: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        zero = torch.zeros_like(mu)
        return log_mean(log_px + _log_normal(z, zero, zero) + _log_normal(z, mu, log_var))

    def mean_over_latents(log_px: Tensor, z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
        return log_mean(log_px + (_log_weights(log_px, z, mu, log_var) - log_px) / z.shape[-1])

    mistakes = {
        "mean over latents": mean_over_latents,
        "width forgotten": lambda p, z, m, v: right(p, z, m, v) - 0.5 * v.sum(-1),
        "draws cut off": lambda p, z, m, v: right(p, z.detach(), m, v),
        "mean of logarithms": lambda *a: _log_weights(*a).mean(0),
        "k forgotten": lambda *a: _log_weights(*a).logsumexp(0),
        "prior forgotten": no_prior,
        "q forgotten": no_q,
        "q multiplied": q_added,
        "KL outside the logarithm": lambda p, z, m, v: (
            log_mean(p) - probability.kl_to_standard_normal(m, v)
        ),
        "2 pi in one density": constant_in_one,
        "variance for deviation": lambda p, z, m, v: right(p, z, m, 2 * v),
        "weighted mean of logarithms": weighted,
        "averaged over the batch": lambda *a: right(*a).mean(),
    }

    def draws(k: int, batch: int, latent: int, dtype: torch.dtype = torch.float64) -> tuple:
        mu, log_var = (attempt.normal(batch, latent, dtype=dtype) for _ in range(2))
        z = mu + (0.5 * log_var).exp() * attempt.normal(k, batch, latent, dtype=dtype)
        return -3 + attempt.normal(k, batch, dtype=dtype), z, mu, log_var

    args = draws(4, 3, 2)
    found = attempt.call("four draws for three images", *args)
    holes = isinstance(found, Tensor) and bool(found.isnan().any())
    attempt.require(not holes, "log_var taken as the variance")
    if near(found, constant_in_other(*args)):
        attempt.fail("2 pi in one density")
    attempt.value("four draws for three images", args, right, mistakes=mistakes)
    attempt.gradient("four draws for three images", args, right, of=(0, 1, 2, 3), mistakes=mistakes)
    log_px, *rest = draws(6, 2, 3, torch.float32)
    attempt.value(
        "images of -800 nats, float32", (100 * log_px - 500, *rest), right, tolerance=1e-5
    )
    attempt.value("one draw for one image", draws(1, 1, 4), right, mistakes=mistakes)


# ---------------------------------------------------------------------------- 12.7


def _linear_vae_loss(
    solution: tuple[Tensor, Tensor, Tensor], covariance: Tensor, beta: float
) -> Tensor:
    """E |x - W z|² + beta KL of z = V x + sqrt(D) noise, for centred x of that covariance."""
    w, v, log_d = solution
    d = log_d.exp()
    left = torch.eye(len(covariance), dtype=w.dtype) - w @ v
    error = (left @ covariance @ left.T).trace() + (w.square() * d).sum()
    rate = 0.5 * ((v @ covariance * v).sum(1) + d - 1 - log_d)
    return error + beta * rate.sum()


def _linear_vae(
    covariance: Tensor,
    beta: float,
    k: int,
    noise: Callable[[float], float] = lambda beta: beta / 2,
    order: Callable[[Tensor], Tensor] = lambda x: x.flip(-1),
    size: Callable[[Tensor, float], Tensor] = lambda lam, s2: (lam - s2).clamp(min=0).sqrt(),
    encoder: Callable[[Tensor, float], Tensor] = lambda w, s2: w / (w.square() + s2),
    log_d: Callable[[Tensor, float], Tensor] = lambda lam, s2: (s2 / lam).log().clamp(max=0),
) -> tuple[Tensor, Tensor, Tensor]:
    """The solution of (12.33), or what it becomes when one step of it is replaced."""
    lam, u = torch.linalg.eigh(covariance)
    lam, u = order(lam)[:k], order(u)[:, :k]
    w = size(lam, noise(beta))
    return u * w, (u * encoder(w, noise(beta))).T, log_d(lam, noise(beta))


@exercise(
    "12.7",
    see="section 10, from (12.32a) to (12.33)",
    learnt="You have trained a VAE without a single step. Lecture 13 uses the same threshold to "
    "guess when a nonlinear VAE collapses, and lecture 19 derives it again with beta and sigma.",
    hints={
        "not the minimum": "Start from one eigenvector of variance λ: which w, v and D make "
        "(12.32a) least? Then look at what you do with the weaker ones.",
        "beta for the noise variance": "You use beta where the noise variance belongs. Squared "
        "error + beta KL is 2σ² times the negative ELBO, so σ² is half of beta.",
        "weakest directions": "You kept the directions of least variance: torch.linalg.eigh sorts "
        "its eigenvalues from small to large.",
        "no shrinking": "The columns of W have the variance of the data. Part of that variance is "
        "explained by the noise; the decoder makes the rest.",
        "principal components": "W and V are the bare eigenvectors. That is the best plain "
        "autoencoder; here the scale of the code has a price.",
        "encoder is the transpose": "V is the transpose of W. The posterior mean (12.10) also "
        "divides by what W and the noise explain together.",
        "encoder is the inverse": "V undoes W exactly. The best guess of a code from noisy data is "
        "drawn towards zero: (12.10).",
        "D for its logarithm": "Your third result is D itself; its logarithm is wanted.",
        "deviation for variance": "Your third result is the logarithm of the standard deviation; "
        "D is a variance.",
        "upside down": "Your log D has the wrong sign: a direction of large variance is known "
        "precisely, so its code is narrow.",
        "dead units of another width": "A unit that is not used should cost nothing, and its KL is "
        "zero only at the prior: V x = 0 and D = 1.",
        "dead units alive": "A direction with less variance than the noise does not pay: its w "
        "must be zero, and yours is not.",
        "wrong shape": "W is [d, k], V [k, d] and log D [k], also where some of the k units are "
        "not used.",
        "not finite": "Where an eigenvalue is below the noise variance there is no square root to "
        "take, and D = 0 has no logarithm: the minimum lies at the border, with w = 0 and D = 1.",
    },
)
def best_linear_vae(attempt: Attempt) -> None:
    """W, V, log D of the linear VAE that minimises squared error + beta KL."""

    def variant(**changes: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        return lambda *args: _linear_vae(*args, **changes)

    mistakes = {
        "beta for the noise variance": variant(noise=lambda beta: beta),
        "weakest directions": variant(order=lambda x: x),
        "no shrinking": variant(size=lambda lam, s2: lam.sqrt()),
        "principal components": variant(
            size=lambda lam, s2: torch.ones_like(lam), encoder=lambda w, s2: w
        ),
        "encoder is the transpose": variant(encoder=lambda w, s2: w),
        "encoder is the inverse": variant(
            encoder=lambda w, s2: torch.where(w > 0, 1 / w.clamp(min=1e-30), 0.0)
        ),
        "D for its logarithm": variant(log_d=lambda lam, s2: (s2 / lam).clamp(max=1)),
        "deviation for variance": variant(
            log_d=lambda lam, s2: 0.5 * (s2 / lam).log().clamp(max=0)
        ),
        "upside down": variant(log_d=lambda lam, s2: (lam / s2).log().clamp(min=0)),
        "dead units of another width": variant(log_d=lambda lam, s2: (s2 / lam).log()),
        "dead units alive": variant(size=lambda lam, s2: (lam - s2).abs().sqrt()),
    }
    basis = torch.linalg.qr(attempt.normal(6, 6))[0]
    spectrum = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.2, 0.1], dtype=torch.float64)
    covariance = (basis * spectrum) @ basis.T
    covariance = (covariance + covariance.T) / 2
    for where, beta, k in (
        ("three units, all worth their price", 0.8, 3),
        ("five units, beta / 2 between the eigenvalues", 0.8, 5),
        ("a beta above twice every eigenvalue", 20.0, 2),
        ("one unit", 0.5, 1),
        ("as many units as pixels, small beta", 0.1, 6),
    ):
        args = (covariance, beta, k)
        found = attempt.call(f"{where} (beta = {beta}, k = {k})", *args)
        best = _linear_vae(*args)
        attempt.same(found, best, tolerance=math.inf)  # types, shapes and finite numbers alone
        loss, least = (float(_linear_vae_loss(s, covariance, beta).detach()) for s in (found, best))
        attempt.tried += 1
        if abs(loss - least) <= 1e-6 * (1 + least):
            continue
        measured = f"The loss of your solution is {loss:.4f}; the least possible is {least:.4f}."
        for name, wrong in mistakes.items():
            theirs = float(_linear_vae_loss(wrong(*args), covariance, beta))
            if abs(loss - theirs) <= 1e-6 * (1 + theirs):
                attempt.fail(name, measured)
        attempt.fail("not the minimum", measured)
