"""Sprites: an endless set of images whose true factors of variation are known.

Every sprite is one smooth shape on a plain ground, drawn from six numbers by a signed distance
function: negative inside the shape, zero on its edge, positive outside. The coverage of a pixel is
a ramp one pixel wide across the edge, which makes edges smooth and the picture differentiable in
all factors but the shape.

Source: Matthey et al., "dSprites" (2017), for the idea of a set that is generated from independent
factors; the shapes, the colour and the renderer are our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from course_lib.data.images import ImageSet

SHAPES = ("disc", "square", "triangle", "heart")
# The farthest corner, the triangle's, is 1.56 sizes from the centroid: 0.42 * 1.56 + 0.3 < 1.
SIZE_RANGE = (0.25, 0.42)
POSITION_RANGE = (-0.3, 0.3)
_PIXELS_PER_BLOCK = 2**20


@dataclass(eq=False)
class SpriteFactors:
    """The six factors of n sprites, each a tensor ``[n]``; numbers are repeated as needed.

    Attributes:
        shape: index into ``SHAPES``: 0 disc, 1 square, 2 triangle, 3 heart.
        hue: colour angle in turns, period 1: 0 red, 1/3 green, 2/3 blue.
        size: radius of the disc of equal area, in half image widths; ``SIZE_RANGE`` has
            the usual ones. Every shape
            of one size covers the same area.
        angle: radians, from the upright shape towards clockwise. The picture repeats after 2 pi,
            for the square after pi / 2, for the triangle after 2 pi / 3, and a disc has no angle:
            a model cannot learn what the image does not show.
        x: centroid in half image widths, -1 left edge, 1 right edge.
        y: centroid in half image heights, -1 top edge, 1 bottom edge.

    Raises:
        ValueError: the lengths differ, or a shape is not an index into ``SHAPES``.
    """

    shape: Tensor | int = 0
    hue: Tensor | float = 0.0
    size: Tensor | float = 0.3
    angle: Tensor | float = 0.0
    x: Tensor | float = 0.0
    y: Tensor | float = 0.0

    def __post_init__(self) -> None:
        given = [torch.as_tensor(value) for value in self._values()]
        device = next((t.device for t in given if t.device.type != "cpu"), torch.device("cpu"))
        try:
            spread = torch.broadcast_tensors(*(torch.atleast_1d(t).to(device) for t in given))
        except RuntimeError:
            lengths = {f.name: list(t.shape) for f, t in zip(fields(self), given, strict=True)}
            raise ValueError(
                f"the factors have different lengths {lengths}: give each one number or n numbers."
            ) from None
        self.shape, *rest = spread
        whole = (self.shape == self.shape.floor()).all()
        self.shape = self.shape.long()
        self.hue, self.size, self.angle, self.x, self.y = (t.float() for t in rest)
        inside = ((self.shape >= 0) & (self.shape < len(SHAPES))).all()
        if self.shape.ndim != 1 or not (whole and inside):
            raise ValueError(
                f"shape must be integers [n] from 0 to {len(SHAPES) - 1}: they index {SHAPES}."
            )

    def _values(self) -> Iterator[Any]:
        return (getattr(self, field.name) for field in fields(self))

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Tensor | slice | list[int]) -> SpriteFactors:
        """The factors of some of the sprites; index with a slice or with indices ``[k]``."""
        return SpriteFactors(*(value[index] for value in self._values()))

    def to(self, device: torch.device | str) -> SpriteFactors:
        return SpriteFactors(*(value.to(device) for value in self._values()))


def sample_factors(
    n: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> SpriteFactors:
    """n independent draws, each factor uniform: a sprite drawn so lies wholly inside its image.

    Args:
        n: number of sprites.
        generator: source of chance on the CPU; None means torch's global one.
        device: where the factors go.
    """
    shape = torch.randint(len(SHAPES), (n,), generator=generator)
    unit = torch.rand(5, n, generator=generator)
    size = SIZE_RANGE[0] + (SIZE_RANGE[1] - SIZE_RANGE[0]) * unit[1]
    x, y = POSITION_RANGE[0] + (POSITION_RANGE[1] - POSITION_RANGE[0]) * unit[3:]
    return SpriteFactors(shape, unit[0], size, 2 * math.pi * unit[2], x, y).to(device)


def render_sprites(factors: SpriteFactors, image_size: int = 32, background: float = 0.0) -> Tensor:
    """Draw sprites, float32 ``[n, 3, image_size, image_size]`` in [0, 1], on the factors' device.

    Args:
        factors: what to draw; gradients flow to all of them but ``shape``.
        image_size: pixels per side.
        background: grey value of the ground, 0 black to 1 white.

    Raises:
        ValueError: ``image_size`` is below 4 or ``background`` outside [0, 1].
    """
    blocks = list(_blocks(factors, image_size, background))
    return torch.cat(blocks) if blocks else torch.zeros(0, 3, image_size, image_size)


def sprites(
    n: int,
    image_size: int = 32,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    background: float = 0.0,
) -> ImageSet:
    """A set of n random sprites, uint8 ``[n, 3, image_size, image_size]``; labels are the shapes.

    ``sample_factors(n, generator)`` with a generator in the same state gives their factors.
    """
    factors = sample_factors(n, generator, device)
    images = torch.empty(n, 3, image_size, image_size, dtype=torch.uint8, device=device)
    start = 0
    for block in _blocks(factors, image_size, background):
        images[start : start + len(block)] = (block * 255).round().to(torch.uint8)
        start += len(block)
    return ImageSet(images, factors.shape, "sprites", SHAPES)


def hue_to_rgb(hue: Tensor) -> Tensor:
    """Fully saturated colours ``[n, 3]`` in [0, 1] of hues ``[n]`` in turns."""
    offset = torch.tensor([0.0, 4.0, 2.0], device=hue.device)
    distance = ((6 * hue[:, None] + offset) % 6 - 3).abs()
    return (distance - 1).clamp(0, 1)


def _blocks(factors: SpriteFactors, image_size: int, background: float) -> Iterator[Tensor]:
    """Rendered sprites, some at a time, so that memory does not grow with their number."""
    if image_size < 4:
        raise ValueError(f"image_size={image_size} is too small for a sprite: use 4 or more.")
    if not 0 <= background <= 1:
        raise ValueError(f"background={background} is no grey value: choose it in [0, 1].")
    block = max(1, _PIXELS_PER_BLOCK // image_size**2)
    for start in range(0, len(factors), block):
        yield _render(factors[start : start + block], image_size, background)


def _render(factors: SpriteFactors, image_size: int, background: float) -> Tensor:
    device = factors.hue.device
    centres = (torch.arange(image_size, device=device) + 0.5) * (2 / image_size) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    # From the image to the sprite's own axes: shift, turn back, and measure in units of its size.
    column = (slice(None), None, None)
    size, cos, sin = factors.size[column], factors.angle.cos()[column], factors.angle.sin()[column]
    dx, dy = x - factors.x[column], y - factors.y[column]
    u, v = (cos * dx + sin * dy) / size, (cos * dy - sin * dx) / size

    distance = torch.zeros_like(u)
    for index, shape in enumerate((_disc, _square, _triangle, _heart)):
        distance = torch.where(factors.shape[column] == index, shape(u, v), distance)
    pixels = distance * size * (image_size / 2)
    coverage = (0.5 - pixels).clamp(0, 1)[:, None]
    colour = hue_to_rgb(factors.hue)[:, :, None, None]
    return background * (1 - coverage) + colour * coverage


# Signed distances of shapes with area pi and the centroid at the origin; v points down. Outside
# they may fall short of the true distance behind a corner, which only the last pixel could show.


def _length(u: Tensor, v: Tensor) -> Tensor:
    """torch.hypot with the gradient 0 at the origin, where torch's is NaN."""
    square = u.square() + v.square()
    return torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0)


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return _length(u, v) - 1


def _square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) - math.sqrt(math.pi) / 2


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    # An equilateral triangle of inradius r has the area 3 sqrt(3) r^2.
    inradius = math.sqrt(math.pi / (3 * math.sqrt(3)))
    return torch.maximum(v, math.sqrt(3) / 2 * u.abs() - v / 2) - inradius


def _heart(u: Tensor, v: Tensor) -> Tensor:
    # A unit square on its corner, with a half disc of radius 1/2 on each of its two upper edges.
    area = 1 + math.pi / 4
    # Height of the centroid above the square's centre: that of a half disc is its middle, 1/sqrt(8)
    # up, plus 4 r / (3 pi) along an edge's normal, which points 45 degrees up.
    lift = math.pi / 4 * (1 / math.sqrt(8) + 2 / (3 * math.pi) / math.sqrt(2)) / area
    scale = math.sqrt(area / math.pi)
    a, b = u.abs() * scale, lift - v * scale
    square = (a + b.abs()) / math.sqrt(2) - 0.5
    disc = _length(a - 1 / math.sqrt(8), b - 1 / math.sqrt(8)) - 0.5
    return torch.minimum(square, disc) / scale
