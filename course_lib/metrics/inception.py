"""The inception score: are the images of clear classes, and of many?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from course_lib.metrics.inputs import double, features, tensor, whole


class InceptionScore(NamedTuple):
    """Mean and population standard deviation of the score over the splits, without unit."""

    mean: float
    std: float


def inception_score(probs: Any, splits: int = 10) -> InceptionScore:
    """exp of the mean of KL( p(y|x) || p(y) ) over the images of a split, `(mean, std)`.

    p(y) is the mean row of the same split. Split i holds the rows from i·n // splits up to
    (i+1)·n // splits, in the order given. The score lies between 1 and min(k, n / splits, rounded
    up), whatever the images are. What to keep in mind:

    - **It never looks at real data.** One memorised image per class earns the maximum.
    - **Shuffle sorted rows first.** If the rows come class by class, p(y) of a split is nearly
      p(y|x), and a perfect generator scores close to 1. Here nothing is shuffled behind your back.
    - The std is a spread over splits, not a standard error, and few rows per split lower the mean.

    Args:
        probs: class probabilities p(y|x) `[n, k]`, one row per image, as softmax returns them;
            exact zeros are welcome (0 log 0 = 0). Rows are divided by their sums, which removes
            what float16 or float32 rounded.
        splits: number of groups, at least 1; the literature uses 10 with n = 50,000.

    Raises:
        ValueError: not `[n, k]` of floating point, NaN, a negative entry, a row whose sum is not 1
            (within 1e-3, or 8 units of rounding of a 16-bit type), or fewer rows than splits.
        TypeError: not an array of numbers.

    Source: Salimans et al., Improved Techniques for Training GANs, 2016, section 4.
    """
    p = _probabilities(probs)
    splits = whole(splits, f"splits of the {len(p)} rows of probs", 1, len(p))
    bounds = [i * len(p) // splits for i in range(splits + 1)]
    scores = torch.stack([_score(p[i:j]) for i, j in pairwise(bounds)])
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


def _score(rows: Tensor) -> Tensor:
    p = double(rows)
    p = p / p.sum(1, keepdim=True)
    marginal = p.mean(0)
    # mean KL = entropy of the mean row - mean entropy of the rows; xlogy knows that 0 log 0 = 0.
    kl = torch.xlogy(p, p).sum(1).mean() - torch.xlogy(marginal, marginal).sum()
    return kl.clamp(min=0.0).exp().cpu()  # rounding can leave -1e-16


def _probabilities(probs: Any) -> Tensor:
    """Class probabilities `[n, k]` as given, after the checks that `inception_score` promises."""
    p = tensor(probs, "probs")
    if p.ndim != 2:
        raise ValueError(
            f"probs should be class probabilities [n, k], one row per image, but has the shape "
            f"{list(p.shape)}: pass what softmax over the classes returned."
        )
    p = features(p, "probs", least=1)
    hint = "if these are logits, pass probs.softmax(1)."
    if bool((p < 0).any()):
        raise ValueError(
            f"probs holds negative numbers, down to {float(p.min()):.4g}, and a probability is "
            f"never negative: {hint}"
        )
    error = torch.cat([double(part).sum(1) - 1.0 for part in p.split(8192)])
    worst = int(error.abs().argmax())
    if float(error[worst].abs()) > max(1e-3, 8 * torch.finfo(p.dtype).eps):
        raise ValueError(
            f"Row {worst} of probs sums to {1.0 + float(error[worst]):.6g}, but the probabilities "
            f"of an image sum to 1: {hint}"
        )
    return p
