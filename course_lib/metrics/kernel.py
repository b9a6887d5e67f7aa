"""The kernel distance: an unbiased squared MMD with a polynomial kernel, over random subsets."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from course_lib.metrics import inputs
from course_lib.metrics.arithmetic import Workspace, times

# Kernel values per block: 8 MiB of float64, which stay in a processor's cache.
ENTRIES = 2**20


def kernel_distance(
    a: Any, b: Any, subset_size: int = 1000, n_subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Squared MMD with the kernel (x·y/d + 1)^3: mean and standard deviation over subsets.

    With Inception-v3 features this is the KID. Each subset draws `subset_size` rows of a and as
    many of b without replacement, and its estimate is unbiased, so it may be negative and its mean
    is comparable between sets of different size. The deviation is that of one subset (population,
    as the public implementations report it), not an error of the mean: subsets overlap.

    Where subsets overlap much, the kernel is computed once for all of them and each subset is a
    quadratic form in it; where they do not, subset by subset. Memory: in the first case a float64
    copy of both sets, and some 100 MiB in either.

    Args:
        a, b: features `[n, d]` and `[m, d]`, floating point, any device.
        subset_size: rows of either set in a subset, from 2 to min(n, m).
        n_subsets: how many subsets.
        seed: of the draws.

    Raises:
        ValueError: other shapes or widths, integers, NaN or infinities, a subset larger than a
            set, or kernel values that overflow.

    Source: Bińkowski et al. 2018, section 4 (kernel and name); Gretton et al. 2012, Lemma 6 (the
        unbiased estimate).
    """
    x, y = inputs.feature_pair(a, b, ("a", "b"))
    subset_size = inputs.whole(subset_size, "subset_size", 2)
    n_subsets = inputs.whole(n_subsets, "n_subsets", 1)
    if subset_size > min(len(x), len(y)):
        raise ValueError(
            f"subset_size is {subset_size}, but a and b have {len(x)} and {len(y)} rows: choose "
            f"from 2 to {min(len(x), len(y))}, or take more samples."
        )
    generator = torch.Generator().manual_seed(inputs.whole(seed, "seed", 0, 2**63 - 1))
    draws = [
        tuple(_draw(len(s), subset_size, generator).to(x.device) for s in (x, y))
        for _ in range(n_subsets)
    ]
    if (len(x) + len(y)) ** 2 <= 4 * n_subsets * subset_size**2:
        chosen = [_counts([d[side] for d in draws], len(s)) for side, s in enumerate((x, y))]
        values = weighted_estimates(x, y, *chosen)
    else:
        values = _one_by_one(x, y, draws)
    mean, deviation = float(values.mean()), float(values.std(correction=0))
    if not (math.isfinite(mean) and math.isfinite(deviation)):
        raise ValueError(
            "The third powers of these features overflow float64: the kernel is made for features "
            "of ordinary size; divide them by a constant."
        )
    return mean, deviation


def _draw(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Numbers of `size` different rows of n, `[size]` int64."""
    # A view would keep the whole permutation alive, and there are two for each subset.
    return torch.randperm(n, generator=generator)[:size].clone()


def _factor(x: Tensor) -> Tensor:
    """Rows whose dot products are x·y/d + 1: a column of ones saves two passes over the kernel."""
    n, d = x.shape
    factor = torch.ones(n, d + 1, dtype=torch.float64, device=x.device)
    factor[:, :-1].copy_(x).div_(math.sqrt(d))
    return factor


def _kernel(a: Tensor, b: Tensor, work: Workspace) -> Tensor:
    """(a b^T)^3 elementwise; the matrix is only valid until the next call."""
    return times(a, b.T, out=work.matrix("products", len(a), len(b), a)).pow_(3)


def _counts(draws: list[Tensor], n: int) -> Tensor:
    """How often each row was drawn, `[n, draws]` float64."""
    counts = torch.zeros(n, len(draws), dtype=torch.float64, device=draws[0].device)
    for column, draw in enumerate(draws):
        counts[:, column] = torch.bincount(draw, minlength=n)
    return counts


def weighted_estimates(x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
    """Unbiased squared MMD of several draws of rows at once, from one kernel made in blocks.

    Pairs of a row with itself are left out, also where a draw holds a row twice, as those of a
    bootstrap do.

    Args:
        x, y: features `[n, d]`, `[m, d]`.
        in_x, in_y: how often each row is in each draw, `[n, draws]`, `[m, draws]`, float64.

    Returns:
        `[draws]`, float64.
    """
    work = Workspace()
    factors = (_factor(x), _factor(y))
    within = sum(
        _sum_of_pairs(f, w, work) / (w.sum(0) ** 2 - w.square().sum(0))
        for f, w in zip(factors, (in_x, in_y), strict=True)
    )
    across = torch.zeros_like(within)
    step = max(1, ENTRIES // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        across += (times(_kernel(factors[0][rows], factors[1], work), in_y) * in_x[rows]).sum(0)
    return within - 2 * across / (in_x.sum(0) * in_y.sum(0))


def _sum_of_pairs(factor: Tensor, chosen: Tensor, work: Workspace) -> Tensor:
    """Sum of the kernel over ordered pairs of different rows of each subset, `[n_subsets]`."""
    total = chosen.new_zeros(chosen.shape[1])
    step = max(1, ENTRIES // len(factor))
    for start in range(0, len(factor), step):
        rows = slice(start, start + step)
        # The matrix is symmetric: what lies right of the diagonal block counts twice.
        kernel = _kernel(factor[rows], factor[start:], work)
        kernel.diagonal().zero_()
        kernel[:, :step] /= 2
        total += 2 * (times(kernel, chosen[start:]) * chosen[rows]).sum(0)
    return total


def _one_by_one(x: Tensor, y: Tensor, draws: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Estimates `[n_subsets]`, each from the kernels of its own rows."""
    values, size, work = [], len(draws[0][0]), Workspace()
    one = torch.ones(size, 1, dtype=torch.float64, device=x.device)
    step = max(1, ENTRIES // size)
    for left, right in draws:
        a, b = _factor(x[left]), _factor(y[right])
        within = _sum_of_pairs(a, one, work) + _sum_of_pairs(b, one, work)
        across = sum(_kernel(part, b, work).sum() for part in a.split(step))
        values.append(within[0] / (size * (size - 1)) - 2 * across / size**2)
    return torch.stack(values)
