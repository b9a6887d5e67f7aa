"""Grids of images: one picture pixel for pixel, with text around it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .style import DPI, INK, PAPER, CourseFigure, array, describe, new_figure, require_texts

MARGIN, GAP, WIDE_GAP, LARGEST_TILE, WIDEST = 8, 2, 18, 128, 760  # pixels


def rgb(images: Any, range: tuple[float, float] | None, axes: int = 4) -> np.ndarray:
    """Images with `axes` axes [..., c, h, w] as uint8 [..., h, w, 3]; refuses what is unclear."""
    x = array(images)
    if x.ndim != axes or 0 in x.shape or x.shape[-3] not in (1, 3):
        raise ValueError(
            f"Images here are {'[n, c, h, w]' if axes == 4 else '[rows, n, c, h, w]'} with c = 1 "
            f"or 3, and not empty; got {list(x.shape)}."
        )
    if x.dtype == np.uint8 and range is None:
        range = (0, 255)
    elif x.dtype == bool and range is None:
        range = (0, 1)
    elif range is None and not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"Images are uint8 or float, not {x.dtype}; convert them or give a range.")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError("The images hold NaN or infinite values; look for them before plotting.")
    slack = 1e-3  # rounding of half precision and of resizing is not a wrong range
    if range is None:
        range = (-1.0, 1.0) if x.min() < -slack else (0.0, 1.0)
    low, high = range
    if not low < high:
        raise ValueError(f"A range is (low, high) with low < high, not {range}.")
    if x.min() < low - slack * (high - low) or x.max() > high + slack * (high - low):
        raise ValueError(
            f"The images reach from {x.min():.4g} to {x.max():.4g}, outside [{low:g}, {high:g}]; "
            "clamp or rescale them, or say their true range with range=(low, high)."
        )
    x = np.rint((x - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    x = np.moveaxis(x, -3, -1)
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def _resize(image: np.ndarray, room: int) -> np.ndarray:
    """Enlarges by an integer, so that all pixels stay equal squares, if that fills the room.

    Otherwise, and for large images, pixels become averages: equal in size, soft at the edges.
    """
    width = min(room, max(LARGEST_TILE, image.shape[1]))
    times = width // image.shape[1]
    if times * image.shape[1] >= 0.75 * width:
        return image.repeat(times, 0).repeat(times, 1)
    from PIL import Image

    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    image = image.repeat(times + 1, 0).repeat(times + 1, 1)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _wrap(text: Any, room: float, font: float) -> str:
    """Breaks text into lines of `room` pixels; a mean letter is 0.58 of the font size wide."""
    if "$" in str(text):  # a formula must not be cut
        return str(text)
    letters = max(4, int(room / (0.58 * font * DPI / 72)))
    return "\n".join(line for p in str(text).split("\n") for line in textwrap.wrap(p, letters))


def _lines_high(texts: Sequence[str], font: float) -> int:
    """Pixels that the tallest of the texts needs, with a little air."""
    lines = max((t.count("\n") + 1 for t in texts if t), default=0)
    return math.ceil(lines * font * 1.25 * DPI / 72 + 4) if lines else 0


def mosaic(
    rows: Sequence[np.ndarray],
    *,
    row_labels: Sequence[str] | None = None,
    headers: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    title: str | None = None,
) -> CourseFigure:
    """Rows of uint8 tiles [n, h, w, 3] as one image, pixel for pixel; text is placed around it.

    `headers` share the columns out evenly: one for each column, or one for each group of them.
    """
    columns = max(len(row) for row in rows)
    labels = [_wrap(t, 125, 10) for t in row_labels or []]
    longest = max((len(line.replace("$", "")) for t in labels for line in t.split("\n")), default=0)
    left = math.ceil(longest * 8.2) + 10 if labels else 0
    group = columns // len(headers) if headers else columns
    wide = WIDE_GAP if group > 1 else GAP
    x = np.arange(columns)
    offsets = x * GAP + (x // group) * (wide - GAP)  # the gaps to the left of each column
    room = int((WIDEST - 2 * MARGIN - left - offsets[-1]) // columns)
    if room < 4:
        raise ValueError(f"{columns} columns leave less than 4 pixels an image; ask for fewer.")
    tiles = [[_resize(tile, room) for tile in row] for row in rows]
    th, tw = tiles[0][0].shape[:2]
    x = x * tw + offsets
    # A few small tiles get a card wide enough for their title.
    span = x[-1] + tw
    width = max(left + span + 2 * MARGIN, 320)
    x0 = left + (width - left - span) // 2
    captions = [_wrap(t, tw, 8.5) for t in captions or []]
    headers = [_wrap(t, tw * group, 10) for t in headers or []]
    title = _wrap(title, width - 2 * MARGIN, 12) if title else ""
    y0 = MARGIN + _lines_high([title], 12)
    top = y0 + _lines_high(headers, 10)
    caption = _lines_high(captions, 8.5)
    pitch = th + GAP + caption
    canvas = np.empty((top + len(rows) * pitch - GAP + MARGIN, width, 3), np.uint8)
    canvas[:] = [int(PAPER[i : i + 2], 16) for i in (1, 3, 5)]
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            y = top + i * pitch + caption
            canvas[y : y + th, x0 + x[j] : x0 + x[j] + tw] = tile

    fig = new_figure(width / DPI, canvas.shape[0] / DPI)
    fig.exact = True
    ax = fig.add_axes((0, 0, 1, 1))
    ax.imshow(canvas, extent=(0, width, canvas.shape[0], 0), aspect="auto", interpolation="nearest")
    ax.set_axis_off()

    def write(x: float, y: float, text: str, size: float, ha: str = "center", va: str = "bottom"):
        ax.text(x, y, text, fontsize=size, ha=ha, va=va, color=INK, linespacing=1.15)

    if title:
        write(x0 + span / 2 if span > 300 else width / 2, MARGIN - 2, title, 12, va="top")
    for k, text in enumerate(headers):
        first, last = x[k * group], x[(k + 1) * group - 1] + tw
        write(x0 + (first + last) / 2, top - 3, text, 10)
    for i, text in enumerate(labels):
        write(x0 - 8, top + i * pitch + caption + th / 2, text, 10, "right", "center_baseline")
    for k, text in enumerate(captions):
        i, j = divmod(k, columns)
        write(x0 + x[j] + tw / 2, top + i * pitch + caption - 2, text, 8.5)
    return fig


def chunks(tiles: np.ndarray, columns: int) -> list[np.ndarray]:
    return [tiles[i : i + columns] for i in np.arange(0, len(tiles), columns)]


def image_grid(
    images: Any,
    columns: int = 8,
    titles: Sequence[str] | None = None,
    title: str | None = None,
    range: tuple[float, float] | None = None,
) -> CourseFigure:
    """Images [n, c, h, w] in reading order; `titles` are captions, one for each image.

    `range=None` takes uint8 as 0..255 and floats as [-1, 1] if any is negative, else [0, 1].

    Raises: ValueError for another shape, values outside the range, or NaN.
    """
    tiles = rgb(images, range)
    if columns < 1:
        raise ValueError(f"A grid needs at least one column, not {columns}.")
    require_texts(titles, len(tiles), "titles")
    fig = mosaic(chunks(tiles, columns), captions=titles, title=title)
    return describe(fig, f"{title or 'Images'}: {len(tiles)} images in rows of {columns}.")


def image_rows(
    rows: Sequence[tuple[str, Any]],
    title: str | None = None,
    range: tuple[float, float] | None = None,
) -> CourseFigure:
    """Labelled rows, for example data, reconstruction, sample: pairs (label, images [n, c, h, w]).

    Without `range` each row is judged by itself: data in [0, 1] may stand over samples in [-1, 1].
    """
    rows = list(rows.items()) if isinstance(rows, Mapping) else list(rows)
    if not rows:
        raise ValueError("image_rows needs at least one pair (label, images).")
    tiles = [rgb(images, range) for _, images in rows]
    if len({t.shape[1:3] for t in tiles}) > 1:
        raise ValueError("All rows need images of one height and width; resize them first.")
    labels = [label for label, _ in rows]
    fig = mosaic(tiles, row_labels=labels, title=title)
    return describe(fig, f"{title or 'Images'}, row by row: {', '.join(labels)}.")


def before_after(
    before: Any,
    after: Any,
    labels: tuple[str, str] = ("before", "after"),
    columns: int = 4,
    title: str | None = None,
    range: tuple[float, float] | None = None,
) -> CourseFigure:
    """Two grids [n, c, h, w] side by side, the same place showing the same image."""
    left, right = rgb(before, range), rgb(after, range)
    if left.shape != right.shape:
        raise ValueError(
            f"before and after need one shape, not {left.shape} and {right.shape}; "
            "show the same images twice."
        )
    require_texts(labels, 2, "labels")
    columns = min(columns, len(left))
    if columns < 1 or len(left) % columns:
        raise ValueError(f"{len(left)} images do not fill rows of {columns}; choose a divisor.")
    rows = np.concatenate([chunks(left, columns), chunks(right, columns)], axis=1)
    fig = mosaic(list(rows), headers=labels, title=title)
    return describe(fig, f"{title or 'Images'}: {labels[0]} (left), {labels[1]} (right).")


def latent_traversal(
    images: Any,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    title: str | None = None,
    range: tuple[float, float] | None = None,
) -> CourseFigure:
    """Images [rows, columns, c, h, w]: one latent coordinate per row, its value along the row."""
    tiles = rgb(images, range, axes=5)
    require_texts(row_labels, len(tiles), "row_labels")
    require_texts(column_labels, tiles.shape[1], "column_labels")
    fig = mosaic(list(tiles), row_labels=row_labels, headers=column_labels, title=title)
    return describe(fig, f"{title or 'Latent traversal'}: {tiles.shape[0]} rows, one factor each.")


def interpolation(
    images: Any,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    range: tuple[float, float] | None = None,
) -> CourseFigure:
    """Paths [rows, n, c, h, w] from t = 0 on the left to t = 1 on the right; labels name rows."""
    tiles = rgb(images, range, axes=5)
    require_texts(labels, len(tiles), "labels")
    n = tiles.shape[1]
    if n < 2:
        raise ValueError("An interpolation needs at least two images in a row: its two ends.")
    t = ["t = 0", *(f"{u:.2f}" if n <= 12 else "" for u in np.linspace(0, 1, n)[1:-1]), "t = 1"]
    fig = mosaic(list(tiles), row_labels=labels, headers=t, title=title)
    return describe(fig, f"{title or 'Interpolation'}: {len(tiles)} paths of {n} images.")
