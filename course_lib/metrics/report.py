"""All scores of two sets side by side, each with its n, its features and an interval."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from course_lib import data
from course_lib.metrics import inputs
from course_lib.metrics.features import FeatureNetwork
from course_lib.metrics.frechet import frechet_distance, frechet_distance_infinity
from course_lib.metrics.inception import inception_score
from course_lib.metrics.kernel import kernel_distance, weighted_estimates
from course_lib.metrics.neighbours import membership

ARRAYS = (".npz", ".npy")
# Beyond this the bootstrap of the kernel distance uses so many random rows of either set.
MOST_ROWS = 10_000


class Score(NamedTuple):
    """One line of a report; `low` and `high` are None where no interval was computed."""

    measure: str
    value: float
    low: float | None
    high: float | None
    note: str = ""


class Report(NamedTuple):
    """Scores of a generated set against a real one.

    Attributes:
        scores: the lines.
        features: name of the features; scores of other features cannot be compared with these.
        n_real, n_fake: rows of either set.
        resamples: of the bootstrap.
        notes: what else a reader should know.
    """

    scores: list[Score]
    features: str
    n_real: int
    n_fake: int
    resamples: int
    notes: list[str]

    def __str__(self) -> str:
        head = ["measure", "value", "interval", "", "n real", "n fake", "features"]
        rows = [
            [
                s.measure,
                f"{s.value:.5g}",
                "–" if s.low is None else f"{s.low:.5g} … {s.high:.5g}",
                s.note,
                f"{self.n_real:,}",
                f"{self.n_fake:,}",
                self.features,
            ]
            for s in self.scores
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.rjust(w) if i in (1, 4, 5) else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [head, ["-" * w for w in widths], *rows]
        ]
        return "\n".join([*lines, "", *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists and dictionaries, for JSON."""
        return {**self._asdict(), "scores": [s._asdict() for s in self.scores]}


def report(
    real: Any,
    fake: Any,
    *,
    features: str,
    probabilities: Any = None,
    resamples: int | None = None,
    k: int = 5,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Every measure that two sets of features allow, with bootstrap intervals.

    The rows are shuffled first (the inception score depends on their order, and files often lie
    class by class). An interval is the score plus and minus 1.96 standard deviations over
    resampled sets: an estimate of how much the score would move with other samples of the same n.
    It does not contain the bias at this n, which a bootstrap only doubles. It is no 95 % interval
    everywhere. How far from one is tested with 200 normal rows of 2 columns on each side:

    - Fréchet and kernel distance: right within a fifth where the laws lie one standard deviation
      apart in each column, but 1.5 to 2.1 times too wide where they agree, since resampling adds to
      a distance near 0.
    - Precision, recall, density and coverage are resampled over the points that are counted, with
      all balls held fixed, so what other balls would change is left out: 0.5 to 0.9 times as wide
      as they should be where the laws agree, 0.3 to 0.7 times where they lie apart, and less where
      nearly every point counts or nearly none.

    Args:
        real, fake: features `[n, d]` and `[m, d]`.
        features: their name.
        probabilities: of the classes for the fake ones `[m, classes]`, for the inception score.
        resamples: of the bootstrap; None takes 200, and fewer beyond 256 columns, where each one
            is dear; 0 leaves the intervals out.
        k: neighbours of precision and its kin.
        seed: of the shuffle, the subsets and the bootstrap.
        progress: called with the name of each measure before it is computed.

    Raises:
        ValueError: as the measures themselves; a set of fewer than k + 1 rows.
    """
    x, y = inputs.feature_pair(real, fake, ("real", "fake"), least=k + 1)
    generator = torch.Generator().manual_seed(inputs.whole(seed, "seed", 0, 2**63 - 1))
    orders = [torch.randperm(len(s), generator=generator) for s in (x, y)]
    x, y = (s[order.to(s.device)] for s, order in zip((x, y), orders, strict=True))
    if resamples is None:
        resamples = max(20, min(200, round(200 * (256 / x.shape[1]) ** 2)))
    resamples = inputs.whole(resamples, "resamples", 0)
    if resamples == 1:
        raise ValueError("resamples is 1: give 0 for no intervals, or at least 2.")

    def draw(n: int) -> Tensor:
        return torch.randint(n, (n,), generator=generator)

    def interval(
        value: float,
        again: Callable[[], float],
        low: float = 0.0,
        high: float = math.inf,
        more: float = 0.0,
    ) -> tuple[float, float] | tuple[None, None]:
        """1.96 deviations of `again()` and of `more` about the value, within [low, high]."""
        if not resamples:
            return None, None
        drawn = torch.tensor([again() for _ in range(resamples)], dtype=torch.float64)
        spread = float(drawn.std())
        spread = 1.96 * math.hypot(spread, more)
        return max(low, value - spread), min(high, value + spread)

    scores, notes = [], []
    progress("Fréchet distance")
    value = frechet_distance(x, y)
    ends = interval(value, lambda: frechet_distance(x[draw(len(x))], y[draw(len(y))]))
    scores.append(Score("Fréchet distance", value, *ends, "lower is better"))
    if min(len(x), len(y)) >= 5 * (x.shape[1] + 1):
        progress("Fréchet distance at n = ∞")
        value = frechet_distance_infinity(x, y, seed=seed).value
        scores.append(Score("  extrapolated to n = ∞", value, None, None, "lower is better"))
        notes.append(
            "Extrapolated: without the bias of a finite n, but noisier than the line above it, and "
            "negative by chance near 0; no interval, since a bootstrap brings the bias back."
        )
    else:
        notes.append(
            f"Not extrapolated to n = ∞: that takes {5 * (x.shape[1] + 1):,} samples a side, five "
            f"times the {x.shape[1]} features. The Fréchet distance is biased upwards at this n."
        )

    progress("kernel distance")
    size = min(1000, len(x), len(y))
    value, deviation = kernel_distance(x, y, size, 100, seed)
    spreads = iter(_kernel_resamples(x, y, resamples, generator))
    # The mean over subsets has an error of its own, besides that of the samples.
    own = deviation / 10 if size < max(len(x), len(y)) else 0.0
    ends = interval(value, lambda: next(spreads), low=-math.inf, more=own)
    scores.append(Score("kernel distance", value, *ends, "lower is better"))
    notes.append(f"Kernel distance: mean over 100 subsets of {size:,}.")

    if probabilities is not None:
        progress("inception score")
        probs = inputs.tensor(probabilities, "probabilities")
        if len(probs) != len(y):
            raise ValueError(
                f"There are {len(probs)} rows of probabilities for {len(y)} fake samples: pass the "
                "probabilities of these samples, one row each."
            )
        probs = probs[orders[1].to(probs.device)]
        splits = min(10, len(probs))
        value = inception_score(probs, splits)[0]
        ends = interval(
            value, lambda: inception_score(probs[draw(len(probs))], splits)[0], 1, probs.shape[1]
        )
        scores.append(Score("inception score", value, *ends, "higher is better"))
        notes.append(f"Inception score: {splits} splits; it never looks at the real set.")

    progress("precision, recall, density, coverage")
    around, recalled, covered = (t.cpu().double() for t in membership(x, y, k))
    for name, values, most in (
        ("precision", (around > 0).double(), 1.0),
        ("recall", recalled, 1.0),
        ("density", around / k, math.inf),
        ("coverage", covered, 1.0),
    ):
        value = float(values.mean())
        ends = interval(value, lambda v=values: float(v[draw(len(v))].mean()), 0.0, most)
        scores.append(Score(name, value, *ends, "higher is better"))
    notes.append(f"Precision, recall, density, coverage: {k} neighbours.")
    if resamples:
        notes += [
            f"Intervals: ±1.96 standard deviations over {resamples} bootstrap resamples.",
            "Those of precision, recall, density and coverage hold the balls fixed: narrower than "
            "95 % intervals, often half as wide.",
            "Those of the distances are about twice too wide where the two laws nearly agree.",
        ]
    return Report(scores, features, len(x), len(y), resamples, notes)


def _kernel_resamples(
    x: Tensor, y: Tensor, resamples: int, generator: torch.Generator
) -> list[float]:
    """Unbiased estimates from resampled sets, all from one kernel."""
    if not resamples:
        return []
    counts, used = [], []
    for s in (x, y):
        s = s[:MOST_ROWS]  # the rows are shuffled
        weights = torch.zeros(len(s), resamples, dtype=torch.float64)
        for column in range(resamples):
            while (weights[:, column] > 0).sum() < 2:  # a single row, repeated, has no pair
                drawn = torch.randint(len(s), (len(s),), generator=generator)
                weights[:, column] = torch.bincount(drawn, minlength=len(s))
        counts.append(weights.to(s.device))
        used.append(s)
    estimates = weighted_estimates(*used, *counts).cpu()
    # Fewer rows than there are vary more: variances go about as 1/n.
    shrink = math.sqrt(min(len(s) for s in used) / min(len(x), len(y)))
    mean = estimates.mean()
    return ((estimates - mean) * shrink + mean).tolist()


class Loaded(NamedTuple):
    """Features of a file or folder, and what is known of them."""

    features: Tensor
    probabilities: Tensor | None
    name: str


def load(
    path: str | Path,
    network: FeatureNetwork | None,
    image_size: int | None = None,
    range: tuple[float, float] = (0.0, 1.0),
) -> Loaded:
    """Features from a folder of images, or from an .npz or .npy file of images or features.

    In an .npz file `features` `[n, d]`, perhaps with `probabilities` and a `name`, or `images`
    `[n, c, h, w]`, `[n, h, w, c]` or `[n, h, w]` (uint8, or floating point in `range`) is used, or
    the only array that it has.

    Args:
        path: of the folder or file.
        network: from images to features; not needed for features.
        image_size: pixels per side to which images of a folder are brought; None takes that of
            the network.
        range: where black and white lie in floating-point images of a file.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: nothing of this kind is in it, or images without a network.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is nothing at {str(path)!r}: check the path.")
    if path.is_dir():
        network = _require_network(network, path)
        channels, side, _ = network.image_shape
        if image_size is not None and side not in (None, image_size):
            raise ValueError(f"{network.name} takes images of {side} pixels, not {image_size}.")
        side = side if image_size is None else inputs.whole(image_size, "image_size", 1)
        if side is None:
            raise ValueError(
                f"{network.name} takes images of any size, and those of a folder may differ: say "
                "to what they are to be brought, with --image-size N."
            )
        return Loaded(*network(data.folder(path, side, channels).images))
    if path.suffix.lower() not in ARRAYS:
        raise ValueError(f"{path.name} is neither a folder nor an .npz or .npy file.")
    arrays = _read(path)
    name = next((k for k in ("features", "images") if k in arrays), None)
    if name is None and len(arrays) == 1:
        name = next(iter(arrays))
    if name is None:
        raise ValueError(
            f"{path.name} holds {', '.join(arrays) or 'nothing'}: name the array that counts "
            "'features' or 'images'."
        )
    array = arrays[name]
    if name == "features" or (name != "images" and array.ndim == 2):
        probabilities = arrays.get("probabilities")
        if probabilities is not None:
            probabilities = inputs.tensor(probabilities, "probabilities")
        named = str(arrays["name"]) if "name" in arrays else ""
        return Loaded(inputs.features(array, path.name), probabilities, named)
    network = _require_network(network, path)
    images = _channels_first(inputs.tensor(array, path.name), path.name)
    return Loaded(*network(images, range=range))


def _require_network(network: FeatureNetwork | None, path: Path) -> FeatureNetwork:
    if network is None:
        raise ValueError(
            f"{path.name} holds images, and scores are those of features: choose a network with "
            "--features (mnist, fashion_mnist, digits, sprites or inception)."
        )
    return network


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {path.stem: content}
        with content:
            return {name: content[name] for name in content.files}
    except (
        ValueError, OSError, BadZipFile, EOFError, KeyError, zlib.error, RuntimeError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path.name} cannot be read as arrays ({type(error).__name__}): it may be damaged, or "
            "hold Python objects; write it with numpy.savez."
        ) from None


def _channels_first(x: Tensor, name: str) -> Tensor:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        return x.permute(0, 3, 1, 2)
    if x.ndim != 4:
        raise ValueError(
            f"The array in {name} has the shape {list(x.shape)}: features are [n, d], images "
            "[n, channels, height, width]."
        )
    return x
