"""The style of every figure: colours, the card it stands on, and how it shows itself."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The colour-blind safe palette of Okabe and Ito; test_plotting measures that it is.
# Source: M. Okabe and K. Ito, "Color Universal Design", 2008. Grey is added for reference lines.
PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermillion": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "yellow": "#F0E442",
    "black": "#000000",
    "grey": "#595959",
}
DATA_COLOR = PALETTE["blue"]  # data is a solid blue line or a disc, in every notebook
MODEL_COLOR = PALETTE["vermillion"]  # the model is a dashed vermillion line or a triangle

# An opaque near-white card with dark text reads in a light and in a dark theme alike; a
# transparent background would put dark text on a dark page.
PAPER, INK = "#FCFCFA", "#1A1A1A"
DPI, WIDTH = 96, 7.5  # 720 pixels: fits the cells of a 1280-pixel screen without scrolling

# Yellow is left out: as a line it has too little contrast against the card.
LINES = [PALETTE[n] for n in "blue vermillion green purple orange sky black".split()]
DASHES = ["-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), ":"]
# Ten classes as points: black would drown the others; wine, olive and indigo are P. Tol's.
CLASSES = [PALETTE[n] for n in "blue orange green vermillion sky purple grey".split()]
CLASSES += ["#882255", "#999933", "#332288"]
MARKERS = "os^Dv<>Pph"
STYLE = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 10.0,
    "axes.titlesize": 12.0,
    "legend.fontsize": 9.0,
    "legend.facecolor": PAPER,
    "legend.framealpha": 0.85,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class CourseFigure(Figure):
    """A Figure that shows itself as a small PNG in any Jupyter kernel and carries an alt text."""

    alt = ""
    exact = False  # image grids keep every colour when stored

    def _repr_png_(self) -> bytes | tuple[bytes, dict[str, str]]:
        return (png_bytes(self), {"alt": self.alt}) if self.alt else png_bytes(self)

    def __repr__(self) -> str:
        return f"<Figure: {self.alt}>" if self.alt else super().__repr__()


def new_figure(width: float, height: float, **kw: Any) -> CourseFigure:
    with mpl.rc_context(STYLE):
        fig = CourseFigure(figsize=(width, height), dpi=DPI, **kw)
        FigureCanvasAgg(fig)
    # IPython's inline backend registers a printer for every Figure, which would crop ours and
    # lose the alt text; a printer for the exact class comes first.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        printer = shell.display_formatter.formatters["image/png"]
        printer.for_type(CourseFigure, CourseFigure._repr_png_)
    return fig


def figure(
    rows: int = 1,
    columns: int = 1,
    width: float | None = None,
    height: float | None = None,
    **kw: Any,
) -> tuple[CourseFigure, Any]:
    """A figure in the course's style with `rows` x `columns` axes, sizes in inches.

    Returns (figure, axes): one Axes for 1 x 1, an array of Axes otherwise. Other keywords go to
    `Figure.subplots` (`sharex`, `squeeze`, `width_ratios` ...).

    Raises: ValueError for fewer than one row or column, or a size that is not positive.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"A figure needs at least one row and one column, not {rows} x {columns}.")
    width = WIDTH if width is None else width
    height = rows * min(3.6, max(2.6, 0.62 * width / columns)) if height is None else height
    if width <= 0 or height <= 0:
        raise ValueError(f"Width and height are inches above 0, not {width} and {height}.")
    fig = new_figure(width, height, layout="constrained")
    fig.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    with mpl.rc_context(STYLE):
        axes = fig.subplots(rows, columns, **kw)
    for ax in np.ravel(axes):
        # Ticks are made when the figure is drawn, outside the context: their style is set here.
        ax.tick_params(colors=INK, labelsize=9)
        ax.grid(True, color=INK, alpha=0.12, linewidth=0.6)
        ax.set_axisbelow(True)
        ax.set_prop_cycle(color=LINES, linestyle=DASHES)
    return fig, axes


def describe(fig: Figure, text: str) -> Figure:
    """Gives the figure an alternative text, for readers who do not see it; returns the figure."""
    if not text.strip():
        raise ValueError("An alternative text says in words what the figure shows; it is empty.")
    fig.alt = " ".join(text.split())  # type: ignore[attr-defined]
    return fig


def pixels(fig: Figure) -> np.ndarray:
    """The figure as it is drawn: uint8 [height, width, 3]."""
    with mpl.rc_context(STYLE):
        shown = fig.canvas  # drawing must not take a figure from the window that shows it
        canvas = FigureCanvasAgg(fig)
        try:
            canvas.draw()
            return np.asarray(canvas.buffer_rgba())[..., :3].copy()
        finally:
            fig.set_canvas(shown)


def png_bytes(fig: Figure) -> bytes:
    """The figure as a PNG with at most 256 colours, half the size of one with all.

    Image grids that need more colours keep them; charts lose shades that nobody sees.
    """
    from PIL import Image

    rgb = pixels(fig)
    code, index = np.unique(rgb.astype(np.uint32) @ (65536, 256, 1), return_inverse=True)
    if len(code) <= 256:
        image = Image.fromarray(index.reshape(rgb.shape[:2]).astype(np.uint8))
        palette = np.stack([code >> 16, code >> 8 & 255, code & 255], axis=1)
        image.putpalette(palette.astype(np.uint8).tobytes())
    else:
        image = Image.fromarray(rgb)
        if not getattr(fig, "exact", False):
            image = image.quantize(256, kmeans=1, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def require_texts(texts: Sequence[Any] | None, n: int, name: str) -> None:
    if texts is not None and len(texts) != n:
        raise ValueError(f"{name} needs {n} entries, one for each, but has {len(texts)}.")
