"""How many modes a generator reaches: Gaussian toy sets with known centres, and stacked digits."""

from __future__ import annotations

from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.metrics.inputs import double, features, require_finite, tensor, whole
from course_lib.probability import GaussianMixture

PROTOCOLS = ("veegan", "pacgan")
MOST_MODES = 10**7  # a few numbers for each are held in memory


class ModeCoverage(NamedTuple):
    """What `mode_coverage` and `stacked_mode_coverage` return; None where a protocol has no number.

    Attributes:
        covered: number of modes with at least one sample that counts.
        n_modes: number of modes that there are.
        high_quality: share of the samples near their mode, in [0, 1] (papers print it in percent).
        reverse_kl: KL(generated || true) between the distributions over modes, in nats, from 0 to
            infinity; ln(n_modes) if all samples are in one of equally likely modes; NaN if no
            sample counts.
        counts: `[n_modes]`, int64, on the CPU: samples that count, for every mode.
        n: number of samples that were given.
    """

    covered: int
    n_modes: int
    high_quality: float | None
    reverse_kl: float | None
    counts: Tensor
    n: int


def mode_coverage(
    samples: Any,
    centres: Any,
    std: Any = None,
    protocol: str = "pacgan",
    *,
    within: float = 3.0,
    weights: Any = None,
) -> ModeCoverage:
    """Modes reached and share of good samples, for a mixture of Gaussians that is known.

    A sample belongs to the nearest mode, distance measured in the standard deviations of that mode
    (a tie goes to the first). It is of *high quality* if that distance is at most `within`. A mode
    is covered if at least one high-quality sample belongs to it. Only high-quality samples count
    in `counts`. Even samples of the true law are not all good: in the plane a share of
    1 - exp(-9/2) = 98.9 % lies within 3 standard deviations.

    The two protocols agree so far, and both draw 2,500 samples per trained model:

    - "veegan" reports covered modes and the share of good samples (mean of 5 models);
      `reverse_kl` is None.
    - "pacgan" counts a distance strictly below `within`, and also reports the reverse divergence
      between the modes of the samples and the true weights (mean of 10 models). Here it is taken
      over the high-quality samples. Only the counts follow the authors' published code
      (extensions.py): for the toy sets it logs a Jensen-Shannon divergence, not the reverse KL.

    Args:
        samples: generated points `[n, d]`, floating point (`[n]` for a mixture on the line).
        centres: a `GaussianMixture`, such as `probability.ring()` or `probability.grid()`, which
            brings its own std and weights; or centres `[k, d]`.
        std: standard deviation of the modes in every direction, one number or `[k]`, above 0; only
            with centres as an array.
        protocol: "pacgan" or "veegan".
        within: radius in standard deviations, above 0: 3 in the plane; VEEGAN takes 10 for its
            set in 1,200 dimensions.
        weights: true probabilities of the modes `[k]`, divided by their sum; None for equal ones.

    Raises:
        ValueError: shapes that do not fit, NaN, integer samples, std or within not above 0,
            negative weights, an unknown protocol, or std or weights beside a mixture.
        TypeError: not arrays of numbers.

    Source: Srivastava et al., VEEGAN, 2017; Lin et al., PacGAN, 2018.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol is {protocol!r}: choose 'veegan' or 'pacgan'.")
    if not (isinstance(within, Real) and within > 0):
        raise ValueError(f"within is {within!r}: give a number of standard deviations above 0.")
    means, stds, weights = _mixture(centres, std, weights)
    x = tensor(samples, "samples")
    x = features(x[:, None] if x.ndim == 1 and means.shape[1] == 1 else x, "samples", least=1)
    if x.shape[1] != means.shape[1]:
        raise ValueError(
            f"samples have {x.shape[1]} coordinates and the centres {means.shape[1]}: "
            "both must live in the same space."
        )
    counts = torch.zeros(len(means), dtype=torch.int64)
    for part in x.split(65536):
        # On the CPU, and subtracted rather than expanded: a point on the rim is judged exactly.
        distances = torch.cdist(
            double(part).cpu(), means, compute_mode="donot_use_mm_for_euclid_dist"
        )
        distance, mode = (distances / stds).min(1)
        good = distance < within if protocol == "pacgan" else distance <= within
        counts += torch.bincount(mode[good], minlength=len(means))
    kl = _reverse_kl(counts, weights) if protocol == "pacgan" else None
    good_share = int(counts.sum()) / len(x)
    return ModeCoverage(int((counts > 0).sum()), len(means), good_share, kl, counts, len(x))


def stacked_mode_coverage(labels: Any, n_modes: int = 1000, weights: Any = None) -> ModeCoverage:
    """Modes reached and reverse divergence for stacked digits, from a classifier's answers.

    Three digits in the three colour channels make one of 10³ = 1,000 classes. A class is covered
    if at least one sample is taken for it. Both papers draw 26,000 samples; a perfect generator
    then covers all classes but 1000·(1 - 1/1000)^26000 = 5e-9 of them on average, and its
    divergence is not 0 but about (n_modes - 1) / (2n) = 0.019 nats. The number depends on the
    classifier, which sees one channel at a time and must answer even for a blot.

    Args:
        labels: whole numbers, predicted class of every digit `[n, 3]` (in general `[n, c]`, with
            n_modes = base^c), or of every sample `[n]` in 0 … n_modes - 1.
        n_modes: number of classes, at most ten million.
        weights: true probabilities of the classes `[n_modes]`, divided by their sum; None for
            equal ones, as in the published code of PacGAN.

    Returns:
        ModeCoverage; `high_quality` is None, since a classifier gives no distance.

    Raises:
        ValueError: no labels, another shape, labels that are no integers or not among the classes,
            n_modes that is too large or no power for labels `[n, c]`, or weights negative or of
            another length.
        TypeError: not an array of numbers.

    Source: Srivastava et al., VEEGAN, 2017, and Lin et al., PacGAN, 2018 (stacked MNIST).
    """
    n_modes = whole(n_modes, "n_modes", 1, MOST_MODES)
    y = tensor(labels, "labels").cpu()
    if y.is_floating_point() or y.dtype == torch.bool:
        raise ValueError(
            f"labels has the type {str(y.dtype).removeprefix('torch.')}: pass whole numbers, for "
            "example logits.argmax(1)."
        )
    if y.ndim not in (1, 2) or y.numel() == 0:
        raise ValueError(f"labels has the shape {list(y.shape)}, but must be [n, 3] or [n], n > 0.")
    columns = y.shape[1] if y.ndim == 2 else 1
    base = round(n_modes ** (1.0 / columns))
    if base**columns != n_modes:
        raise ValueError(
            f"{columns} labels per sample cannot name {n_modes} modes: that is no power of "
            f"{columns} of a whole number."
        )
    # numpy, since torch has no arithmetic for unsigned types but uint8.
    least, most = int(y.numpy().min()), int(y.numpy().max())
    if not 0 <= least <= most < base:
        raise ValueError(
            f"labels lie between {least} and {most}, but must lie between 0 and {base - 1}."
        )
    y = y.reshape(len(y), columns).long()
    classes = (y * base ** torch.arange(columns - 1, -1, -1)).sum(1)
    counts = torch.bincount(classes, minlength=n_modes)
    kl = _reverse_kl(counts, _weights(weights, n_modes))
    return ModeCoverage(int((counts > 0).sum()), n_modes, None, kl, counts, len(y))


def _mixture(centres: Any, std: Any, weights: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Means `[k, d]`, stds `[k]` and weights `[k]` in float64 on the CPU."""
    if isinstance(centres, GaussianMixture):
        if std is not None or weights is not None:
            raise ValueError("A mixture has its own std and weights: do not pass them beside it.")
        exact = centres.to(torch.float64)
        means, stds, weights = exact.means, exact.stds, exact.weights
    else:
        if std is None:
            raise ValueError("Centres alone do not say what is near: pass std, or a mixture.")
        means, stds = tensor(centres, "centres"), tensor(std, "std")
    means, stds = double(means).cpu(), double(stds).cpu()
    means = means[:, None] if means.ndim == 1 else means
    if means.ndim != 2 or means.numel() == 0:
        raise ValueError(f"centres has the shape {list(means.shape)}, but must be [k, d].")
    require_finite(means, "centres")
    if stds.ndim > 1 or stds.numel() not in (1, len(means)) or not bool((stds > 0).all()):
        raise ValueError(f"std should be one number above 0, or {len(means)}, one per mode.")
    return means, stds.expand(len(means)), _weights(weights, len(means))


def _weights(weights: Any, k: int) -> Tensor:
    if weights is None:
        return torch.full((k,), 1.0 / k, dtype=torch.float64)
    w = double(tensor(weights, "weights")).cpu()
    if w.shape != (k,) or not bool((w >= 0).all()) or not 0 < float(w.sum()) < float("inf"):
        raise ValueError(
            f"weights should be {k} numbers of at least 0 with a sum above 0, one for each mode."
        )
    return w / w.sum()


def _reverse_kl(counts: Tensor, weights: Tensor) -> float:
    """KL(counts / sum || weights) in nats; 0 log 0 = 0, infinite where a weight of 0 is met."""
    p = counts.double() / counts.sum()  # 0/0 = NaN if nothing was counted
    return float((torch.xlogy(p, p) - torch.xlogy(p, weights)).sum().clamp(min=0.0))
