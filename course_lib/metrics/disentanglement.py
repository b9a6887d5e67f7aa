"""The mutual information gap: does one latent dimension, and only one, know each factor?"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from course_lib.metrics.inputs import double, features, require_finite, tensor, whole
from course_lib.metrics.networks import Seed, new_generator, normals

ROWS = 256  # of q(z_j | x) at a time: at n = 10,000, a block of densities takes 20 MiB


class MutualInformationGap(NamedTuple):
    """What `mutual_information_gap` returns; tensors are float64, on the CPU.

    Attributes:
        gap: mean of `gaps`, in [0, 1].
        gaps: `[K]`, one per factor, in [0, 1].
        mutual_information: `[d, K]`, I(z_j; v_k) in nats, in [0, H(v_k)].
        entropies: `[K]`, H(v_k) in nats.
    """

    gap: float
    gaps: Tensor
    mutual_information: Tensor
    entropies: Tensor


def mutual_information_gap(
    codes: Any,
    factors: Any,
    bins: int | None = 20,
    binning: Literal["equal-width", "equal-count"] = "equal-width",
    log_var: Any = None,
    generator: Seed = 0,
) -> MutualInformationGap:
    """Mean over factors v_k of (largest I(z_j; v_k) - second largest) / H(v_k).

    1: each factor is known to one code and to no other. 0: two codes know equally much of it.

    Without `log_var`, codes are cut into bins and the mutual information is that of the table of
    counts. Like every plug-in estimate it is too high: by about (B - 1)(L - 1) / (2n) nats for a
    code that fills B bins and knows nothing of a factor with L levels. 20 bins of equal width on
    posterior means is what disentanglement_lib does; a factor with more levels than bins cannot
    reach a gap of 1, so compare values only at equal bins, equal binning and similar n.

    With `log_var` it is the paper's own estimate, without bins: z_j ~ q(z_j|x), one draw per row,
    and q(z_j) and q(z_j|v_k) the mixtures of all q(z_j|x_n) and of those with that level. Its time
    grows as n² d.

    Args:
        codes: `[n, d]`, d >= 2, floating point: samples or means of q(z|x).
        factors: true levels of the factors, whole numbers, `[n, K]`, or `[n]` for one factor.
        bins: number of bins per code; None where codes are discrete, each value a bin.
        binning: 'equal-width' from the least to the greatest value of a code, or 'equal-count',
            which no increasing function of a code changes.
        log_var: `[n, d]`; then codes are the means, and bins are not used.
        generator: torch.Generator or seed of the draws; used with log_var only.

    Raises:
        ValueError: wrong shapes or lengths, n < 2, d < 2, NaN, a factor with fractions or with a
            single level (its entropy is 0), bins below 2, or another binning.
        TypeError: not arrays of numbers.

    Source: Chen, Li, Grosse & Duvenaud, Isolating Sources of Disentanglement in Variational
    Autoencoders, 2018, section 4.
    """
    z, v = _require(codes, factors)
    bins = None if bins is None else whole(bins, "bins", 2)
    if binning not in ("equal-width", "equal-count"):
        raise ValueError(f"binning is {binning!r}: choose 'equal-width' or 'equal-count'.")
    if log_var is None:
        labels = torch.stack(
            [_discrete(double(code).contiguous(), bins, binning) for code in z.T], 1
        )
        information = torch.stack([torch.stack([_plug_in(a, b) for b in v.T]) for a in labels.T])
    else:
        spread = features(log_var, "log_var").to(z.device)
        if spread.shape != z.shape:
            raise ValueError(
                f"log_var is {list(spread.shape)} and codes are {list(z.shape)}: pass both as the "
                "encoder returned them."
            )
        information = _of_mixtures(double(z), double(spread), v, generator)
    entropies = torch.stack([_entropy(factor) for factor in v.T])
    information = information.clamp(min=0.0)  # rounding, or the noise of the draws
    best = information.topk(2, dim=0).values
    gaps = (best[0] - best[1]) / entropies
    return MutualInformationGap(float(gaps.mean()), gaps.cpu(), information.cpu(), entropies.cpu())


def _require(codes: Any, factors: Any) -> tuple[Tensor, Tensor]:
    """Codes as given, and the levels of the factors as 0, 1, ... `[n, K]`, on one device."""
    z, v = features(codes, "codes"), tensor(factors, "factors")
    if z.shape[1] < 2:
        raise ValueError("codes has 1 column, and a gap needs two codes to compare: pass [n, d].")
    v = v[:, None] if v.ndim == 1 else v
    if v.ndim != 2 or v.shape[1] == 0 or len(v) != len(z):
        raise ValueError(
            f"factors has the shape {list(v.shape)} for {len(z)} codes: pass [n, K], one row per "
            "row of codes."
        )
    if v.is_floating_point():
        require_finite(v, "factors")
        if not bool((v == v.round()).all()):
            raise ValueError(
                "factors has fractions, but its levels are counted: cut a continuous factor into "
                "levels first, for example with torch.bucketize(values, edges)."
            )
    v = torch.stack([factor.unique(return_inverse=True)[1] for factor in v.T], 1).to(z.device)
    if bool((v.amax(0) == 0).any()):
        raise ValueError(
            f"Factor {int((v.amax(0) == 0).nonzero()[0])} has one level in all rows, and so an "
            "entropy of 0 to divide by: leave it out, or pass rows in which it varies."
        )
    return z, v


def _discrete(code: Tensor, bins: int | None, binning: str) -> Tensor:
    """The bin 0, 1, ... of every value of one code `[n]`."""
    if bins is None:
        return code.unique(return_inverse=True)[1]
    if binning == "equal-count":  # by rank; equal values have equal ranks
        return torch.searchsorted(code.sort().values, code) * bins // len(code)
    low, high = code.aminmax()
    place = (code - low) / (high - low).clamp(min=torch.finfo(code.dtype).tiny) * bins
    # A value on an edge belongs to the bin above it; rounding must not decide otherwise.
    return (place + 1e-9).floor().long().clamp(max=bins - 1)


def _entropy(labels: Tensor) -> Tensor:
    # Of the labels that occur: pairs of labels could be n² in number.
    p = double(labels.unique(return_counts=True)[1]) / len(labels)
    return -torch.xlogy(p, p).sum()


def _plug_in(a: Tensor, b: Tensor) -> Tensor:
    """I(a; b) = H(a) + H(b) - H(a, b) of two columns of labels `[n]`, in nats."""
    return _entropy(a) + _entropy(b) - _entropy(a * (b.max() + 1) + b)


def _of_mixtures(mu: Tensor, log_var: Tensor, v: Tensor, generator: Seed) -> Tensor:
    """Mean over n of log q(z_j|v_k) - log q(z_j) at z_j ~ q(z_j|x_n): `[d, K]`, in nats."""
    log_var = log_var.clamp(-600.0, 600.0)  # beyond, exp(log_var) would be 0 or infinite
    z = mu + (0.5 * log_var).exp() * normals(mu.shape, new_generator(generator)).to(mu)
    shares = [one_hot(factor).to(mu) for factor in v.T]  # [n, levels]; columns are made to sum to 1
    shares = [member / member.sum(0) for member in shares]
    total = mu.new_zeros(mu.shape[1], v.shape[1])
    for j in range(mu.shape[1]):
        for rows in torch.arange(len(mu), device=mu.device).split(ROWS):
            square = (z[rows, j, None] - mu[:, j]).square() / log_var[:, j].exp() + log_var[:, j]
            density = torch.exp(-0.5 * (square - square.amin(1, keepdim=True)))  # a common factor
            mixture = density.mean(1)
            for k, share in enumerate(shares):
                given = (density @ share).gather(1, v[rows, k, None])[:, 0]
                total[j, k] += (given / mixture).log().sum()
    return total / len(mu)
