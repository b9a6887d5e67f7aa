"""The moving picture of the README: noise becoming digits, because a generator learns.

The same noise vectors go through the averaged generator of a recipe at many moments of its
training. Nothing is chosen: they are the first draws of the seed, and every picture is what the
generator made of them at that update.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib import environment, training
from course_lib.recipes import catalogue, runs

RECIPE, STEPS, EVERY, SEED = "dcgan_mnist", 6000, 10, 0  # the recipe's own budget at laptop
# 64 numbers of noise, so that a vector can be shown as a square of 8 by 8; the average forgets
# within some hundred updates, else the first of them would be seen much too late.
SETTINGS = {"data": "mnist", "latent_dim": 64, "width": 32, "ema_decay": 0.99}
COLUMNS, ROWS = 10, 4
FRAMES = 48
FIRST_MS, FRAME_MS, LAST_MS = 1500, 130, 3500
TILE, GAP, MARGIN, FOOT = 48, 6, 18, 44  # pixels
DARK, LIGHT, ACCENT = (13, 17, 23), (240, 246, 252), (230, 159, 0)
GREYS = 12  # few enough for a small file, and enough for the eye


def made_from(steps: int = STEPS, data: str = SETTINGS["data"]) -> dict[str, Any]:
    """All that decides the picture; the file carries it as its comment."""
    settings = SETTINGS | {"data": data}
    shape = {"columns": COLUMNS, "rows": ROWS, "frames": FRAMES}
    return {"recipe": RECIPE, "steps": steps, "seed": SEED, "settings": settings, **shape}


def moments(steps: int, frames: int = FRAMES, every: int = EVERY) -> list[int]:
    """Which updates are shown: multiples of `every` from 0 to `steps`, the first ones densely."""
    shares = np.linspace(0, 1, frames) ** 2
    return sorted({min(steps, every * round(steps * share / every)) for share in shares} | {steps})


def train(steps: int = STEPS, data: str = SETTINGS["data"], progress: bool = True) -> dict:
    """Train, and look on the way.

    Returns:
        The noise `[n, latent]`, and by update the images `[n, 1, 28, 28]` in [0, 1].

    Raises:
        DataUnavailableError: the data set cannot be had.
        ValueError: fewer than 1 update.
    """
    config = runs.configure(RECIPE, "laptop", steps, SEED, settings=SETTINGS | {"data": data})
    training.hold_memory()
    environment.seed_everything(SEED)
    device = torch.device("cpu")  # where the same seed gives the same bytes
    images, _ = runs.load_images(config.settings, device)
    model = catalogue.get(RECIPE).build(config.settings, images, SEED, device, steps)
    n = COLUMNS * ROWS

    def look(state: training.TrainingState) -> Tensor:
        return model.draw(n, torch.Generator().manual_seed(SEED))

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over other numbers of threads end in other last digits
    try:
        training.train(
            model.state, model.step, model.batches, steps,
            sample_every=EVERY, on_sample=look, label="noise to digits", progress=progress,
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    noise = training.sample_noise(
        n, config.settings["latent_dim"], torch.Generator().manual_seed(SEED)
    )
    return {"noise": noise, "images": dict(model.state.samples)}


def gif(seen: dict, made: dict[str, Any]) -> bytes:
    """The animation of what `train` saw, with `made` as its comment."""
    steps, images = made["steps"], seen["images"]
    side = math.isqrt(seen["noise"].shape[1])
    noise = ((seen["noise"] + 2.5) / 5).clamp(0, 1).view(-1, 1, side, side)
    shown = moments(steps)
    frames = [_frame(noise, f"noise: {side * side} random numbers for each picture", None)]
    frames += [
        _frame(images[step], f"the generator after {step:,} of {steps:,} updates", step / steps)
        for step in shown
    ]
    buffer = io.BytesIO()
    palette = _palette()
    stills = [frame.quantize(palette=palette, dither=0) for frame in frames]
    times = [FIRST_MS, 3 * FRAME_MS, *[FRAME_MS] * (len(frames) - 3), LAST_MS]
    stills[0].save(
        buffer, "GIF", save_all=True, append_images=stills[1:], loop=0, duration=times,
        optimize=True, comment=json.dumps(made, sort_keys=True).encode(),
    )  # fmt: skip
    return buffer.getvalue()


def _blend(low: tuple[int, ...], high: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(low, high, strict=True))


def _palette() -> Any:
    from PIL import Image

    colours = [_blend(DARK, LIGHT, i / (GREYS - 1)) for i in range(GREYS)]
    colours += [_blend(DARK, ACCENT, share) for share in (0.25, 1.0)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in colours for value in colour])
    return palette


def _frame(images: Tensor, words: str, share: float | None) -> Any:
    """One picture: a mosaic of images `[n, 1, h, w]` in [0, 1], words, and how far training is."""
    from PIL import Image, ImageDraw

    width = 2 * MARGIN + COLUMNS * TILE + (COLUMNS - 1) * GAP
    height = 2 * MARGIN + ROWS * TILE + (ROWS - 1) * GAP + FOOT
    picture = Image.new("RGB", (width, height), DARK)
    for (left, top), image in zip(_places(), images[:, 0].numpy(), strict=True):
        # Noise stays the squares that it is; an image is enlarged smoothly.
        how = Image.Resampling.NEAREST if image.shape[0] < 28 else Image.Resampling.BICUBIC
        grey = Image.fromarray((255 * image).round().astype(np.uint8)).resize((TILE, TILE), how)
        share_of_light = np.round(np.asarray(grey) / 255 * (GREYS - 1))[..., None] / (GREYS - 1)
        dark, light = np.array(DARK), np.array(LIGHT)
        tile = (dark + (light - dark) * share_of_light).round().astype(np.uint8)
        picture.paste(Image.fromarray(tile), (left, top))
    draw, foot = ImageDraw.Draw(picture), height - MARGIN - FOOT + 16
    draw.text((MARGIN, foot), words, fill=LIGHT, font=_font(17))
    if share is not None:
        line, whole = foot + 30, width - 2 * MARGIN
        draw.rectangle((MARGIN, line, MARGIN + whole, line + 3), fill=_blend(DARK, ACCENT, 0.25))
        draw.rectangle((MARGIN, line, MARGIN + round(whole * share), line + 3), fill=ACCENT)
    return picture


def _places() -> Iterator[tuple[int, int]]:
    for row in range(ROWS):
        for column in range(COLUMNS):
            yield MARGIN + column * (TILE + GAP), MARGIN + row * (TILE + GAP)


def _font(size: int) -> Any:
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
