"""What moves: animations as GIF, and sliders."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .images import chunks, mosaic, rgb
from .style import array, pixels, png_bytes, require_texts

if TYPE_CHECKING:
    from IPython.display import Image as DisplayImage


def _frames(frames: Any, titles: Any, columns: int, range: Any) -> list[np.ndarray]:
    """Figures or images as equal uint8 pictures [h, w, 3]; one range holds for all frames."""
    if all(isinstance(f, Figure) for f in frames):
        return [pixels(f) for f in frames]
    arrays = [array(f) for f in frames]
    if len({a.shape for a in arrays}) > 1 or arrays[0].ndim not in (3, 4):
        raise ValueError("Frames are Figures, or images [c, h, w] or [n, c, h, w] of one shape.")
    stack = np.stack(arrays)
    stack = stack[:, None] if stack.ndim == 4 else stack
    titles = [None] * len(stack) if titles is None else titles
    grids = [chunks(tiles, columns) for tiles in rgb(stack, range, axes=5)]
    return [pixels(mosaic(g, title=t)) for g, t in zip(grids, titles, strict=True)]


def animation(
    frames: Any,
    path: str | os.PathLike[str] | None = None,
    fps: float = 8,
    alt: str = "",
    titles: Sequence[str] | None = None,
    columns: int = 8,
    range: tuple[float, float] | None = None,
    hold: float = 1.0,
) -> DisplayImage:
    """A looping GIF from Figures, or from images [c, h, w] or grids [n, c, h, w] with `titles`.

    The last frame stays `hold` seconds longer. With `path` the file is written as well, whole or
    not at all. All frames share one palette of 256 colours, so that nothing flickers.

    Raises: ValueError without frames, for frames of different sizes, or fps outside 0.1..50.
    """
    from IPython.display import Image as DisplayImage
    from PIL import Image

    if len(frames) == 0:
        raise ValueError("An animation needs at least one frame.")
    if path is not None and Path(path).suffix.lower() != ".gif":
        raise ValueError(f"An animation is written as a GIF: let {Path(path).name} end in .gif.")
    if not 0.1 <= fps <= 50 or hold < 0:
        raise ValueError(f"fps is from 0.1 to 50 and hold not negative; got {fps} and {hold}.")
    require_texts(titles, len(frames), "titles")
    pictures = _frames(list(frames), titles, columns, range)
    if len({p.shape for p in pictures}) > 1:
        raise ValueError("The frames differ in size; make all figures with one width and height.")
    some = np.concatenate(pictures[:: math.ceil(len(pictures) / 6)] + pictures[-1:])
    palette = Image.fromarray(some).quantize(256, dither=Image.Dither.NONE)
    stills = [Image.fromarray(p) for p in pictures]
    images = [s.quantize(palette=palette, dither=Image.Dither.NONE) for s in stills]
    duration = [round(1000 / fps)] * len(images)
    duration[-1] += round(1000 * hold)
    buffer = io.BytesIO()
    images[0].save(buffer, format="GIF", save_all=True, append_images=images[1:], loop=0,
                   duration=duration, optimize=True)  # fmt: skip
    data = buffer.getvalue()
    if path is not None:
        _write(Path(path), data)
    alt = alt or f"Animation of {len(images)} frames."

    class Animation(DisplayImage):
        def __repr__(self) -> str:  # what a reader without images gets
            return f"<Animation: {alt}>"

    # As metadata, because the Image of IPython 7, which Colab has, knows no argument `alt`.
    return Animation(data=data, format="gif", metadata={"alt": alt})


def _write(path: Path, data: bytes) -> None:
    """Writes aside and renames, so that a stopped run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def before_after_animation(
    before: Any,
    after: Any,
    labels: tuple[str, str] = ("before", "after"),
    columns: int = 8,
    path: str | os.PathLike[str] | None = None,
    range: tuple[float, float] | None = None,
) -> DisplayImage:
    """Two grids [n, c, h, w] in turn at one place, a second and a bit each."""
    alt = f"{labels[0]} and {labels[1]}, in turn."
    return animation([before, after], path, 0.8, alt, labels, columns, range, hold=0.0)


def _slider(name: str, spec: Any) -> Any:
    import ipywidgets

    if isinstance(spec, ipywidgets.ValueWidget):
        return spec
    if not (isinstance(spec, tuple) and len(spec) == 4):
        raise ValueError(f"Slider '{name}' is an ipywidget or a tuple (min, max, step, value).")
    low, high, step, value = spec
    if not (low <= value <= high and low < high and step > 0):
        raise ValueError(f"Slider '{name}' needs min <= value <= max and a step above 0: {spec}.")
    whole = all(isinstance(number, int) for number in spec)
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    decimals = -int(Decimal(str(step)).normalize().as_tuple().exponent)
    return kind(
        value, min=low, max=high, step=step, description=name.replace("_", " "),
        readout_format="d" if whole else f".{max(decimals, 1)}f",
        style={"description_width": "9em"}, layout={"width": "32em"},
    )  # fmt: skip


def explore(function: Callable[..., Figure], **sliders: Any) -> None:
    """Sliders that redraw `function(**values) -> Figure` while they are moved; returns None.

    A slider is a tuple (min, max, step, value) or an ipywidget. The function runs once right
    away, with or without a front end, so that an error in it stops the notebook. A stored
    notebook keeps one sentence in place of the sliders: put a static figure beside them.

    Raises: ValueError for a bad slider, TypeError if the function returns no Figure.
    """
    import ipywidgets
    from IPython import get_ipython
    from IPython.display import display

    if not sliders:
        raise ValueError("explore needs at least one slider, such as sigma=(0.1, 2.0, 0.1, 1.0).")
    controls = {name: _slider(name, spec) for name, spec in sliders.items()}

    def draw() -> Figure:
        fig = function(**{name: control.value for name, control in controls.items()})
        if not isinstance(fig, Figure):
            raise TypeError(
                f"The explored function must return a Figure, not {type(fig).__name__}."
            )
        return fig

    first = draw()
    if getattr(get_ipython(), "kernel", None) is None:
        return  # plain Python: nobody could move a slider
    # An image widget is redrawn in place; an output widget would flicker.
    picture = ipywidgets.Image(value=png_bytes(first), format="png")
    picture.layout.width = f"{first.get_figwidth() * first.dpi:.0f}px"  # else it fills the cell
    message = ipywidgets.Label()

    def redraw(_: Any) -> None:
        try:
            picture.value, message.value = png_bytes(draw()), ""
        except Exception as error:  # shown beside the sliders; otherwise it ends in a log
            message.value = f"{type(error).__name__}: {error}"

    for control in controls.values():
        control.observe(redraw, names="value")
    box = ipywidgets.VBox([*controls.values(), message, picture])
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    sentence = f"Run this cell to move the sliders: {', '.join(sliders)}."
    display({"application/vnd.jupyter.widget-view+json": view, "text/plain": sentence}, raw=True)
