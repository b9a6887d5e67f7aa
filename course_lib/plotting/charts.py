"""Charts: curves, densities, histograms and latent codes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import (
    CLASSES,
    DASHES,
    INK,
    LINES,
    MARKERS,
    PALETTE,
    PAPER,
    STYLE,
    WIDTH,
    CourseFigure,
    array,
    describe,
    figure,
    require_texts,
)

_OUTLINE = [patheffects.withStroke(linewidth=3, foreground=PAPER)]


def _axes(ax: Axes | None, width: float = WIDTH, height: float | None = None) -> Axes:
    return figure(width=width, height=height)[1] if ax is None else ax


def _legend(ax: Axes, **kw: Any) -> None:
    with mpl.rc_context(STYLE):
        ax.legend(labelcolor=INK, fontsize=9, **kw)


def _described(ax: Axes, text: str) -> Figure:
    """The figure of `ax`; text is added to what other panels have said about themselves."""
    return describe(ax.figure, f"{getattr(ax.figure, 'alt', '')} {text}")


def moving_average(values: Any, window: int) -> np.ndarray:
    """Mean over `window` neighbours (an even window gains one), centred: float64 [n].

    Where neighbours are missing at the ends, the straight line of best fit through the first or
    last window stands in, so that a straight line stays as it is and noise does not return.
    Points that are not finite are left out of the means and stay gaps.
    """
    v = array(values).astype(np.float64)
    if v.ndim != 1 or window < 1:
        raise ValueError(f"moving_average needs values [n] and a window above 0, not {window}.")
    half = min(window // 2, (len(v) - 1) // 2)
    finite = np.isfinite(v)
    if half < 1 or not finite.any():
        return np.where(finite, v, np.nan)
    box, n = np.ones(2 * half + 1), len(v)
    smooth = np.convolve(np.where(finite, v, 0.0), box, "same")
    smooth /= np.maximum(np.convolve(finite, box, "same"), 1)
    first, last = slice(0, 2 * half + 1), slice(n - 2 * half - 1, n)
    for fit, ends in ((first, slice(0, half)), (last, slice(n - half, n))):
        step = np.arange(n)[fit][finite[fit]]
        if len(step) > 1:
            slope, level = np.polyfit(step - step[0], v[step], 1)
            smooth[ends] = level + slope * (np.arange(n)[ends] - step[0])
    return np.where(finite, smooth, np.nan)


def training_curves(
    history: Mapping[str, Sequence[float]],
    keys: Sequence[str] | Sequence[Sequence[str]] | None = None,
    smooth: int | None = None,
    title: str | None = None,
    references: Mapping[str, float] | Sequence[Mapping[str, float] | None] | None = None,
    ylabel: str | Sequence[str] | None = None,
) -> CourseFigure:
    """Curves against the step: raw values faint, their moving average strong.

    `keys`: names for one panel, or a list of lists for several panels; None puts names with the
    same last word (`generator_loss`, `discriminator_loss`) into one panel. `smooth` is the window
    in steps (None: a fiftieth of the run; 1: no smoothing). `references` are horizontal lines,
    label -> height, in every panel, or a list with one mapping (or None) for each panel.
    """
    keys = [keys] if isinstance(keys, str) else keys
    if keys is None:
        groups: dict[str, list[str]] = {}
        for key in history:
            groups.setdefault(key.split("_")[-1], []).append(key)
        panels = list(groups.values())
    else:
        panels = [list(keys)] if all(isinstance(k, str) for k in keys) else [list(k) for k in keys]
    if not panels or not all(panels):
        raise ValueError("There is no curve to draw: name at least one key for each panel.")
    for key in (k for panel in panels for k in panel):
        if key not in history:
            raise ValueError(f"The history has no '{key}'; it has {', '.join(history)}.")
        if len(history[key]) == 0:
            raise ValueError(f"The history of '{key}' is empty; train at least one step first.")
    n = len(panels)
    lines = (
        [references] * n if references is None or isinstance(references, Mapping) else references
    )
    words = [ylabel] * n if ylabel is None or isinstance(ylabel, str) else ylabel
    require_texts(lines, n, "references")
    require_texts(words, n, "ylabel")
    columns = min(n, 3)
    fig, axes = figure(math.ceil(n / columns), columns, squeeze=False)
    for ax in axes.ravel()[n:]:
        ax.remove()
    for ax, panel, refs, word in zip(axes.ravel(), panels, lines, words, strict=False):
        if len({len(history[key]) for key in panel}) > 1:
            raise ValueError(f"{', '.join(panel)} differ in length; give them panels of their own.")
        for k, key in enumerate(panel):
            v = array(history[key]).astype(np.float64)
            step, color = np.arange(1, len(v) + 1), LINES[k % len(LINES)]
            window = max(1, len(v) // 50) if smooth is None else smooth
            dash, dot = DASHES[k % len(DASHES)], "o" if len(v) == 1 else ""
            if window > 1:
                ax.plot(step, v, color=color, alpha=0.25, linewidth=0.8, linestyle="-")
            ax.plot(step, moving_average(v, window), color=color, linewidth=1.8, linestyle=dash,
                    marker=dot, label=key.replace("_", " "))  # fmt: skip
        for label, height in (refs or {}).items():
            ax.axhline(height, color=PALETTE["grey"], linewidth=1.2, linestyle=":")
            # The label stands where the curves do not end.
            ends = np.concatenate([array(history[key])[-1 - len(v) // 5 :] for key in panel])
            below = float(np.median(ends)) > height
            if below:
                low, high = ax.get_ylim()
                ax.set_ylim(min(low, height - 0.1 * (high - low)), high)
            ax.annotate(label, (1, height), (-2, -2 if below else 2),
                        xycoords=("axes fraction", "data"), textcoords="offset points",
                        ha="right", va="top" if below else "baseline", fontsize=9, color=INK,
                        path_effects=_OUTLINE)  # fmt: skip
        common = {key.split("_")[-1] for key in panel}
        name = common.pop() if len(common) == 1 else "value"
        name = panel[0].replace("_", " ") if len(panel) == 1 else name
        ax.set(xlabel="step", ylabel=word or name)
        if word or len(panel) > 1:  # a lone curve is named by its axis
            _legend(ax)
    if title:
        fig.suptitle(title, fontsize=12, color=INK)
    names = ", ".join(k for panel in panels for k in panel)
    return describe(fig, f"{title or 'Training curves'}: {names} against the step.")


def _points(values: Any, name: str) -> np.ndarray:
    x = array(values)
    if x.ndim != 2 or x.shape[1] != 2 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"{name} are finite points [n, 2]; got {list(x.shape)}, or NaN in them.")
    return x


def density_map(
    log_prob: Callable[[torch.Tensor], torch.Tensor],
    extent: tuple[float, float, float, float] = (-3.0, 3.0, -3.0, 3.0),
    samples: Any = None,
    title: str | None = None,
    resolution: int = 200,
    device: str | torch.device = "cpu",
    ax: Axes | None = None,
) -> CourseFigure:
    """The density exp(log_prob) over extent (x0, x1, y0, y1), with samples [n, 2] on top.

    `log_prob` maps float32 points [m, 2] on `device` to [m], in nats; it is asked in blocks.
    """
    x0, x1, y0, y1 = extent
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"extent is (x0, x1, y0, y1) with x0 < x1 and y0 < y1, not {extent}.")
    if resolution < 2:
        raise ValueError(
            f"resolution is the number of grid points a side, 2 or more: {resolution}."
        )
    # Cell centres, so that the colour of a cell is the density in its middle.
    u = (torch.arange(resolution) + 0.5) / resolution
    yy, xx = torch.meshgrid(y0 + (y1 - y0) * u, x0 + (x1 - x0) * u, indexing="ij")
    points = torch.stack([xx.ravel(), yy.ravel()], 1)
    with torch.no_grad():
        values = [array(log_prob(block.to(device))) for block in points.split(16384)]
    if any(v.shape != (len(b),) for v, b in zip(values, points.split(16384), strict=True)):
        raise ValueError(f"log_prob must map [m, 2] to [m], but gave {list(values[0].shape)}.")
    density = np.exp(np.concatenate(values).astype(np.float64)).reshape(resolution, resolution)
    if not np.isfinite(density).all():
        raise ValueError("log_prob gave NaN or an infinite density on the grid; check its domain.")
    ax = _axes(ax, 5.6, 4.6)
    ax.grid(False)
    image = ax.imshow(density, extent=extent, origin="lower", cmap="viridis", vmin=0)
    bar = ax.figure.colorbar(image, ax=ax, label="density", shrink=0.9)
    bar.ax.tick_params(labelsize=9, colors=INK)
    bar.ax.yaxis.label.set_color(INK)
    if samples is not None:
        p = _points(samples, "samples")
        # White discs with a dark rim read on both ends of the colour map.
        ax.scatter(
            p[:, 0], p[:, 1], s=9, c="white", edgecolors=INK, linewidths=0.5, label="samples"
        )
    ax.set(xlim=(x0, x1), ylim=(y0, y1), xlabel="$x_1$", ylabel="$x_2$", title=title or "")
    dots = "" if samples is None else f" with {len(p)} samples"
    return _described(ax, f"{title or 'Density'}: a density map over the plane{dots}.")


def histogram(
    samples: Any,
    pdf: Callable[[torch.Tensor], torch.Tensor] | None = None,
    bins: int = 60,
    range: tuple[float, float] | None = None,
    title: str | None = None,
    label: str = "samples",
    pdf_label: str = "exact density",
    xlabel: str = "x",
    ax: Axes | None = None,
) -> CourseFigure:
    """Histogram of samples [n] as a density, with an exact pdf (float64 [m] -> [m]) over it.

    `samples` may be a mapping label -> samples: the first is filled in the colour of the data,
    the others are outlines. Heights are per sample, inside `range` or not, so that they compare
    with the pdf even where a range cuts heavy tails off; the axis says how much it cuts.
    """
    sets = dict(samples) if isinstance(samples, Mapping) else {label: samples}
    arrays = {name: array(x).astype(np.float64) for name, x in sets.items()}
    for name, x in arrays.items():
        if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
            raise ValueError(f"'{name}' must be finite samples [n], not {list(x.shape)} or NaN.")
    if not arrays or bins < 1:
        raise ValueError("A histogram needs samples and at least one bin.")
    everything = np.concatenate(list(arrays.values()))
    low, high = range if range is not None else (everything.min(), everything.max())
    if range is None and low == high:
        low, high = low - 0.5, high + 0.5
    if not low < high:
        raise ValueError(f"A range is (low, high) with low < high, not {range}.")
    ax, edges = _axes(ax), np.linspace(low, high, bins + 1)
    for k, (name, x) in enumerate(arrays.items()):
        height = np.histogram(x, edges)[0] / (len(x) * np.diff(edges))
        color = LINES[k % len(LINES)]
        style = {"linewidth": 1.6, "linestyle": DASHES[k % len(DASHES)]} if k else {"alpha": 0.45}
        ax.stairs(height, edges, fill=k == 0, color=color, label=name, **style)
    if pdf is not None:
        grid = torch.linspace(low, high, 513, dtype=torch.float64)
        with torch.no_grad():
            curve = array(pdf(grid))
        if curve.shape != (513,) or np.isnan(curve).any():
            raise ValueError(f"pdf must map [m] to [m] without NaN, but gave {list(curve.shape)}.")
        ax.plot(grid.numpy(), curve, color=INK, linewidth=1.6, linestyle="-", label=pdf_label)
    cut = np.mean((everything < low) | (everything > high))
    note = f"   ({100 * cut:.2g} % of the samples lie outside)" if cut else ""
    ax.set(xlabel=xlabel + note, ylabel="density", title=title or "", xlim=(low, high))
    _legend(ax)
    return _described(ax, f"{title or 'Histogram'}: {', '.join(arrays)} against {xlabel}.")


def latent_scatter(
    mu: Any,
    labels: Any,
    names: Sequence[str] | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> CourseFigure:
    """Codes mu [n, 2], coloured by labels [n] (integers), each class named at its mean.

    Colour, marker and the name tell the classes apart, so that no reader depends on colour.
    """
    points, classes = _points(mu, "mu"), array(labels)
    if classes.shape != (len(points),) or classes.dtype.kind not in "iub":
        raise ValueError(
            f"labels are {len(points)} integers, one for each code, not {labels!r:.60}."
        )
    kinds = np.unique(classes).astype(int)
    if names is not None and (kinds.min() < 0 or kinds.max() >= len(names)):
        raise ValueError(f"Labels go from {kinds.min()} to {kinds.max()}, names has {len(names)}.")
    ax = _axes(ax, 6.6, 5.4)
    size = float(np.clip(9000 / len(points), 8, 26))
    order = np.random.default_rng(0).permutation(len(points))  # no class is painted over another
    for part in np.array_split(order, min(5, len(order))):
        for k in kinds:
            p = points[part][classes[part] == k]
            ax.scatter(p[:, 0], p[:, 1], s=size, c=CLASSES[k % 10], marker=MARKERS[k % 10],
                       alpha=0.7, linewidths=0)  # fmt: skip
    for k in kinds:
        x, y = points[classes == k].mean(0)
        name = str(k if names is None else names[k])
        ax.text(x, y, name, fontsize=14, weight="bold", ha="center", va="center", color=INK,
                path_effects=_OUTLINE)  # fmt: skip
        ax.scatter([], [], s=36, c=CLASSES[k % 10], marker=MARKERS[k % 10], label=name)
    _legend(ax, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set(xlabel="$z_1$", ylabel="$z_2$", title=title or "", aspect="equal")
    ax.set_adjustable("datalim")
    return _described(ax, f"{title or 'Latent codes'}: {len(points)} codes by class.")
