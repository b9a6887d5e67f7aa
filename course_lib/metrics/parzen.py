"""The Parzen-window log-likelihood of the first GAN papers: a Gaussian around every sample."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.metrics.inputs import double, feature_pair, tensor

# 0.01 to 1 in 41 steps of equal ratio (1.122), for pixels in [0, 1] and toy sets of order 1.
SIGMAS = tuple(10.0 ** (-2.0 + i / 20.0) for i in range(41))
ROWS, COLUMNS = 512, 1024  # of one block of distances: 4 MiB, so that it stays in a CPU's cache
DIFFERENCES = "donot_use_mm_for_euclid_dist"
LOSS = 1e-6  # nats that rounding may take from the log-density at a test point


class ParzenEstimate(NamedTuple):
    """What `parzen_log_likelihood` returns.

    Attributes:
        value: mean log-density over the test points, in nats.
        standard_error: of `value` over the test points, in nats.
        sigma: width of the window that was used, in the units of x.
        n_samples: number of Gaussians, one per sample.
        n_test: number of test points.
    """

    value: float
    standard_error: float
    sigma: float
    n_samples: int
    n_test: int


def parzen_log_likelihood(
    samples: Any,
    test: Any,
    sigma: float | None = None,
    validation: Any = None,
    sigmas: Any = None,
) -> ParzenEstimate:
    """Mean over test points x of log( 1/N sum_i N(x; s_i, sigma² I) ), s_i the samples, in nats.

    The mixture is what is scored, not the generator that drew the samples: in 784 dimensions
    centroids of k-means score better than real images. Values can be compared only at equal N,
    equal d and equal scale of x (multiplying x by c takes d·ln c away).

    Distances are computed once, block by block, for all sigmas together: memory stays near that of
    the inputs, and time goes into one matrix product and one exponential per pair and sigma. Where
    the product would cost 1e-6 nats (windows some 10,000 times narrower than the cloud of points),
    coordinates are subtracted instead, which takes several times as long.

    Args:
        samples: points drawn from the model `[N, d]`, floating point.
        test: points to score `[n, d]`, at least 2, on the same scale as the samples.
        sigma: width of the window, above 0, in the units of x; or else
        validation: points `[m, d]` that the model has not seen and that are not test points;
            sigma is chosen for the highest mean log-density of them.
        sigmas: candidates, at least 3, above 0; the best of them is used. None means the grid
            `SIGMAS`, 41 values from 0.01 to 1 in equal ratios, and then the top of the parabola in
            ln sigma through the best value and its neighbours (on the grid alone, up to 0.003·d
            nats are lost).

    Returns:
        ParzenEstimate. Its standard error (n - 1 in the variance) knows of the test points alone:
        it does not tell how much another set of samples, or another sigma, would change the value.

    Raises:
        ValueError: not exactly one of sigma and validation; not `[n, d]` of floating point of one
            width; NaN; fewer than 2 test points; a sigma that is not above 0; squares that leave
            the range of float64; or the best sigma lies at an end of the grid, so that the grid
            does not hold the maximum.
        TypeError: not arrays of numbers.

    Source: Breuleux, Bengio & Vincent, Quickly Generating Representative Samples from an
    RBM-Derived Process, 2011; used so by Goodfellow et al., Generative Adversarial Nets, 2014,
    section 5, whose published code looks for sigma on 10 values from 0.1 to 1.
    """
    if (sigma is None) == (validation is None):
        raise ValueError(
            "parzen_log_likelihood needs exactly one of sigma and validation: give the width of "
            "the window, or points held out from training with which to choose it."
        )
    s, x = feature_pair(samples, test, ("samples", "test"), least=1)
    if len(x) < 2:
        raise ValueError("test has 1 row, which has no standard error: pass at least 2 points.")
    if validation is None:
        best = float(_widths(sigma, "sigma", "one number"))
    else:
        s, v = feature_pair(samples, validation, ("samples", "validation"), least=1)
        grid = SIGMAS if sigmas is None else sigmas
        widths = _widths(grid, "sigmas", "a list of at least 3 numbers").sort().values
        best = _best(widths, _log_densities(s, v, widths).mean(0), refine=sigmas is None)
    values = _log_densities(s, x, torch.tensor([best], dtype=torch.float64))[:, 0]
    error = float(values.std()) / math.sqrt(len(x))
    return ParzenEstimate(float(values.mean()), error, best, len(s), len(x))


def _widths(values: Any, name: str, wanted: str) -> Tensor:
    widths = double(tensor(values, name)).cpu()
    if not bool((widths.isfinite() & (widths > 0)).all()) or (
        widths.numel() != 1 if name == "sigma" else widths.ndim != 1 or len(widths) < 3
    ):
        raise ValueError(
            f"{name} should be {wanted} above 0, in the units of the points, but is {values}: "
            "for pixels in [0, 1], look near 0.2."
        )
    return widths


def _best(widths: Tensor, means: Tensor, refine: bool) -> float:
    """The width with the highest mean log-density, which must not be an end of the grid."""
    best = int(means.argmax())
    if best in (0, len(widths) - 1):
        raise ValueError(
            f"The best sigma for the validation points, {float(widths[best]):.4g}, lies at an end "
            "of the grid: pass sigmas that reach further. (If validation points are among the "
            "samples, no sigma is small enough: take them out.)"
        )
    if not refine:
        return float(widths[best])
    left, middle, right = means[best - 1 : best + 2].tolist()
    step = 0.5 * (left - right) / (left - 2.0 * middle + right)  # in grid steps, within ±1/2
    return float(widths[best]) * float(widths[best + 1] / widths[best]) ** step


def _log_densities(samples: Tensor, points: Tensor, widths: Tensor) -> Tensor:
    """log 1/N sum_i N(x; s_i, sigma² I) for points `[n, d]` and widths `[k]`: `[n, k]`, float64."""
    n, d = samples.shape
    # |a - b|² = |a|² + |b|² - 2ab loses the digits that |a|² takes: move the origin among the
    # points first. (A far b does no harm: its distance is as large as the digits that it takes.)
    centre = points.mean(0, dtype=torch.float64)
    widths = widths.to(centre.device)
    factors = -0.5 / widths**2
    safe = LOSS / torch.finfo(torch.float64).eps * float(widths.square().min())  # largest |a|²
    answers = []
    for block in points.split(ROWS):
        block = double(block)
        a = block - centre
        a_squared = a.square().sum(1, keepdim=True)
        by_product = float(a_squared.max()) <= safe
        nearest = a.new_full((len(a),), math.inf)
        sums = a.new_zeros(len(a), len(widths))  # of exp((squared distance - nearest) · factor)
        for part in samples.split(COLUMNS):
            squared = (
                _squared_by_product(a, a_squared, double(part) - centre)
                if by_product
                else torch.cdist(block, double(part), compute_mode=DIFFERENCES).square_()
            )
            closest = torch.minimum(nearest, squared.amin(1))
            sums *= torch.exp((nearest - closest)[:, None] * factors)
            squared -= closest[:, None]
            for j, factor in enumerate(factors):
                # The nearest sample adds 1, so exp(-700) is nothing; but exp of what underflows
                # is six times slower on a CPU.
                sums[:, j] += (squared * factor).clamp_(min=-700.0).exp_().sum(1)
            nearest = closest
        answers.append(sums.log() + nearest[:, None] * factors)
    densities = torch.cat(answers)
    if not bool(densities.isfinite().all()):
        raise ValueError(
            "A log-density leaves the range of float64, as squares of coordinates, or of them over "
            "sigma, do beyond about 1e308: divide points and sigmas by one number c (each result "
            "then grows by d·ln c), leave far points out, or widen the window."
        )
    return densities - math.log(n) - d * (widths.log() + 0.5 * math.log(2.0 * math.pi))


def _squared_by_product(a: Tensor, a_squared: Tensor, b: Tensor) -> Tensor:
    return torch.addmm(a_squared + b.square().sum(1), a, b.T, alpha=-2.0).clamp_(min=0.0)
