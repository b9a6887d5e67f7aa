"""Two pictures side by side: squared error, PSNR, and similarity of structure at several scales."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.metrics.inputs import double, image_pair, images, tensor, whole
from course_lib.probability import Estimate

WINDOW, SPREAD = 11, 1.5  # pixels: the Gaussian window of SSIM and its standard deviation
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # fine to coarse; the sum is 1.0001
ROUNDING = 1e-4  # share of the range by which a pixel may lie outside it
BLOCK = 2**20  # pixels that are in float64 at one time: 8 MiB


class ReconstructionError(NamedTuple):
    """What `reconstruction_error` returns, in the units of the images given.

    Attributes:
        value: squared error summed over the pixels of an image, mean over images.
        standard_error: of `value` over images (NaN for a single image).
        per_pixel: mean squared error of one value of one channel, `value` / (c·h·w).
        psnr: peak signal-to-noise ratio of all images together, 10·log10(range² / per_pixel), in
            dB; infinite if nothing differs. (A mean of one PSNR per image is never smaller.)
        n: number of images.
    """

    value: float
    standard_error: float
    per_pixel: float
    psnr: float
    n: int


def reconstruction_error(x: Any, x_hat: Any, data_range: Any = None) -> ReconstructionError:
    """Squared error between images and their reconstructions, summed over pixels, as in an ELBO.

    `value` depends on the scale of the pixels: it is 4 times as large in [-1, 1] as in [0, 1], and
    65,025 times as large in 0..255. The literature on MNIST uses [0, 1]. PSNR does not depend on
    it. No such number says anything about samples: a copy of x has none of this error.

    Args:
        x: images `[n, c, h, w]`, uint8 or floating point.
        x_hat: their reconstructions, of the same shape and kind.
        data_range: the values of black and white, `(low, high)`, or one number for `(0, high)`;
            for PSNR. None means: uint8 is (0, 255); if all pixels of both lie in [0, 1] it is
            (0, 1); if both have negative pixels and lie in [-1, 1] it is (-1, 1); anything else is
            refused. With a range given, x_hat may leave it, as that of a linear decoder does.

    Raises:
        ValueError: shapes or kinds differ, NaN, a range that cannot be told, x outside it, or an
            x_hat so far off that its squared error leaves the range of float64.
        TypeError: not arrays of numbers.

    Source: Hinton & Salakhutdinov 2006 report `value` in [0, 1]: 13.87 for 30-component PCA of the
    MNIST test images.
    """
    x, y = _pair(x, x_hat, ("x", "x_hat"))
    low, high = _range(data_range, x=x, x_hat=y)
    if data_range is not None:
        _require_within(low, high, x=x)
    errors = torch.cat([(a - b).square().flatten(1).sum(1) for a, b in _blocks(x, y)])
    n, mean = len(x), float(errors.mean())
    spread = float(errors.std()) if n > 1 else math.nan
    if not math.isfinite(mean) or (n > 1 and not math.isfinite(spread)):
        raise ValueError(
            f"x_hat has diverged: it reaches from {float(y.min()):.4g} to {float(y.max()):.4g}, "
            "and its squared error leaves the range of float64: look for the step of training at "
            "which its numbers began to grow."
        )
    per_pixel = mean / x[0].numel()
    psnr = math.inf
    if per_pixel > 0:
        psnr = 20.0 * math.log10(high - low) - 10.0 * math.log10(per_pixel)
    return ReconstructionError(mean, spread / math.sqrt(n), per_pixel, psnr, n)


def fitting_scales(height: int, width: int) -> int:
    """How many of the 5 scales of `ms_ssim` an image has room for; 0 below 11 pixels.

    A scale needs room for the window of 11 pixels, and every scale halves the image (rounded up):
    1 scale from 11 pixels, 2 from 21 (so for 28 and 32), 3 from 41, 4 from 81, all 5 from 161.
    """
    side, scales = min(height, width), 0
    while side >= WINDOW and scales < len(SCALE_WEIGHTS):
        side, scales = (side + 1) // 2, scales + 1
    return scales


def ms_ssim(x: Any, y: Any, data_range: Any = None, n_scales: int | None = None) -> Tensor:
    """Multi-scale structural similarity of every image of x with the same one of y: `[n]`.

    At every scale a Gaussian window (11 pixels, std 1.5, only where it fits entirely) gives local
    means m, variances v and covariance v_xy, and from them, with C1 = (0.01 L)², C2 = (0.03 L)²
    and L the range,

        luminance  l = (2 m_x m_y + C1) / (m_x² + m_y² + C1),
        contrast and structure  cs = (2 v_xy + C2) / (v_x + v_y + C2),

    averaged over places and channels. The result is prod_j mean(cs_j)^w_j over all scales but the
    coarsest, times mean(l·cs)^w of that one. Between scales, 2×2 blocks are averaged; an odd edge
    is repeated. Identical images give exactly 1. A mean that is negative (patterns of opposite
    sign) counts as 0, so that the result lies in [0, 1]. Pixels are counted from black, so uint8,
    [0, 1] and [-1, 1] versions of an image give the same value.

    **Fewer than 5 scales.** The published weights (0.0448, 0.2856, 0.3001, 0.2363, 0.1333) belong
    to 5 scales, for which an image needs 161 pixels; there they are used as they were printed.
    Smaller images use the first `fitting_scales(h, w)` of them, divided by their sum. At 28 and
    32 pixels these are 2 scales with weights 0.136 and 0.864; such values can be compared with
    each other, not with published ones.

    Args:
        x, y: images `[n, c, h, w]` of one shape and kind, uint8 or floating point, h and w >= 11.
        data_range: as in `reconstruction_error`, and both must lie in it.
        n_scales: 1 to `fitting_scales(h, w)`; None for as many as fit. 1 gives SSIM.

    Returns:
        `[n]`, float64, on the device of x (on the CPU from a device without float64).

    Raises:
        ValueError: shapes or kinds differ, NaN, a range that cannot be told or is left, images
            below 11 pixels, or more scales than fit.
        TypeError: not arrays of numbers.

    Source: Wang, Simoncelli & Bovik, Multi-Scale Structural Similarity for Image Quality
    Assessment, 2003 (weights, window, constants, and the means of their published code).
    """
    x, y = _pair(x, y, ("x", "y"))
    low, high = _range(data_range, x=x, y=y)
    _require_within(low, high, x=x, y=y)
    most = fitting_scales(*x.shape[2:])
    if most == 0:
        raise ValueError(
            f"Images of {x.shape[2]} x {x.shape[3]} pixels have no room for the window of 11: "
            "enlarge them first, or compare them by reconstruction_error."
        )
    name = f"n_scales for images of {x.shape[2]} x {x.shape[3]} pixels"
    weights = SCALE_WEIGHTS[: most if n_scales is None else whole(n_scales, name, 1, most)]
    if len(weights) < len(SCALE_WEIGHTS):
        weights = tuple(weight / sum(weights) for weight in weights)
    width = high - low
    parts = [_ms_ssim((a - low) / width, (b - low) / width, weights) for a, b in _blocks(x, y)]
    return torch.cat(parts)


def mean_pairwise_ms_ssim(
    pictures: Any,
    n_pairs: int = 1000,
    seed: int = 0,
    data_range: Any = None,
    n_scales: int | None = None,
) -> Estimate:
    """Mean MS-SSIM of random pairs among the images of *one class*: the higher, the less diverse.

    Pairs of two different images are drawn with equal probability and independently. The standard
    error says how well the pairs stand for all pairs of these images, not how much other images
    would change the result. Compare with the same number for real images of the class: there is
    no value that is good in itself, and noise is as diverse as can be.

    Args:
        pictures: images `[n, c, h, w]`, at least 2.
        n_pairs: at least 2; Odena et al. draw 100 pairs per class.
        seed: of the draw of pairs.
        data_range, n_scales: as in `ms_ssim`.

    Returns:
        Estimate(value, standard_error), without unit.

    Raises:
        ValueError: as `ms_ssim`, fewer than 2 images or pairs, or a seed that is none.

    Source: Odena, Olah & Shlens, Conditional Image Synthesis with Auxiliary Classifier GANs, 2017.
    """
    x = images(pictures, "pictures")
    n_pairs = whole(n_pairs, "n_pairs", 2)
    if len(x) < 2:
        raise ValueError("pictures holds 1 image, which makes no pair: pass at least 2.")
    generator = torch.Generator().manual_seed(whole(seed, "seed", 0, 2**63 - 1))
    first = torch.randint(len(x), (n_pairs,), generator=generator)
    step = torch.randint(1, len(x), (n_pairs,), generator=generator)  # never back to the first
    second = (first + step) % len(x)
    values = ms_ssim(x[first.to(x.device)], x[second.to(x.device)], data_range, n_scales)
    return Estimate(float(values.mean()), float(values.std()) / math.sqrt(n_pairs))


def _pair(x: Any, y: Any, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    x, y = image_pair(x, y, names)
    if len(x) != len(y):
        raise ValueError(
            f"{names[0]} has {len(x)} images and {names[1]} has {len(y)}: "
            "every image needs its own partner."
        )
    return x, y


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of blocks in float64; uint8 would wrap around when subtracted."""
    size = max(1, BLOCK // x[0].numel())
    for a, b in zip(x.split(size), y.split(size), strict=True):
        yield double(a), double(b)


def _range(data_range: Any, **pair: Tensor) -> tuple[float, float]:
    """Values of black and white: as given, or as the kind and the extremes of the pixels tell."""
    if data_range is not None:
        try:
            ends = double(tensor(data_range, "data_range")).flatten().tolist()
        except (TypeError, ValueError):
            ends = []
        low, high = ends if len(ends) == 2 else (0.0, *ends) if len(ends) == 1 else (0.0, 0.0)
        if not 0 < high - low < math.inf:
            raise ValueError(
                f"data_range is {data_range}, but it is two numbers, black below white: (0, 1), "
                "(-1, 1) or (0, 255); one number is white, with black at 0."
            )
        return low, high
    if not any(t.is_floating_point() for t in pair.values()):
        return 0.0, 255.0
    extremes = {name: (float(t.min()), float(t.max())) for name, t in pair.items()}
    inside = all(a >= -1 - 2 * ROUNDING and b <= 1 + ROUNDING for a, b in extremes.values())
    negative = [a < -ROUNDING for a, _ in extremes.values()]
    if inside and all(negative):
        return -1.0, 1.0
    if inside and not any(negative):
        return 0.0, 1.0
    told = " and ".join(f"{name} from {a:.4g} to {b:.4g}" for name, (a, b) in extremes.items())
    raise ValueError(
        f"The range of the pixels is not clear ({told}): if one of the two is in [-1, 1] and the "
        "other in [0, 1], map it with (x + 1) / 2; else say what black and white are, for example "
        "data_range=(0, 1)."
    )


def _require_within(low: float, high: float, **tensors: Tensor) -> None:
    slack = ROUNDING * (high - low)
    for name, t in tensors.items():
        least, most = float(t.min()), float(t.max())
        if least < low - slack or most > high + slack:
            raise ValueError(
                f"{name} reaches from {least:.4g} to {most:.4g}, outside the range "
                f"({low:g}, {high:g}): give the range that its pixels have, or clip it."
            )


def _window_matrix(size: int, like: Tensor) -> Tensor:
    """`[size - 10, size]`: row i holds the Gaussian window over the pixels i to i + 10.

    For pictures of this size, two products with it are several times faster than convolutions.
    """
    offsets = torch.arange(WINDOW, dtype=like.dtype, device=like.device) - WINDOW // 2
    window = torch.exp(-0.5 * (offsets / SPREAD) ** 2)
    window = window / window.sum()
    return torch.stack([F.pad(window, (i, size - WINDOW - i)) for i in range(size - WINDOW + 1)])


def _ms_ssim(x: Tensor, y: Tensor, weights: tuple[float, ...]) -> Tensor:
    """For float64 images with black at 0 and white at 1."""
    c1, c2 = 0.01**2, 0.03**2
    answer = x.new_ones(len(x))
    for j, weight in enumerate(weights):
        down, across = (_window_matrix(size, x) for size in x.shape[2:])
        mean_x, mean_y, xx, yy, xy = (
            down @ image @ across.T for image in (x, y, x * x, y * y, x * y)
        )
        variances = (xx - mean_x * mean_x) + (yy - mean_y * mean_y)
        term = (2.0 * (xy - mean_x * mean_y) + c2) / (variances + c2)
        if j == len(weights) - 1:
            luminance = (2.0 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
            term = luminance * term
        mean = term.flatten(1).mean(1)
        answer = answer * mean.clamp(min=0.0) ** weight
        x, y = _halved(x), _halved(y)
    return answer


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate"), 2)
