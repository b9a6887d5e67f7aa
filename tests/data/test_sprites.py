from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data import (
    SHAPES,
    SpriteFactors,
    hue_to_rgb,
    render_sprites,
    sample_factors,
    sprites,
)

BLOCK = 1024  # images of 32×32 pixels that are rendered at a time


def coverage(factors: SpriteFactors, size: int) -> torch.Tensor:
    """How much of each pixel the sprite covers, ``[n, h, w]``: hue 0 is pure red on black."""
    plain = SpriteFactors(factors.shape, 0.0, factors.size, factors.angle, factors.x, factors.y)
    return render_sprites(plain, size)[:, 0].double()


def test_area_and_centroid_are_the_factors_for_every_shape() -> None:
    factors = sample_factors(200, torch.Generator().manual_seed(0))
    cover = coverage(factors, 128)
    area = cover.sum((1, 2)) * (2 / 128) ** 2
    assert torch.allclose(area, math.pi * factors.size.double() ** 2, rtol=0.01)
    axis = (torch.arange(128) + 0.5) * 2 / 128 - 1
    x = (cover * axis).sum((1, 2)) / cover.sum((1, 2))
    y = (cover * axis[:, None]).sum((1, 2)) / cover.sum((1, 2))
    assert (x - factors.x).abs().max() < 0.003 and (y - factors.y).abs().max() < 0.003
    assert set(factors.shape.tolist()) == set(range(len(SHAPES)))


def test_a_small_image_keeps_area_and_centroid_too() -> None:
    factors = sample_factors(200, torch.Generator().manual_seed(1))
    cover = coverage(factors, 32)
    area = cover.sum((1, 2)) * (2 / 32) ** 2
    assert torch.allclose(area, math.pi * factors.size.double() ** 2, rtol=0.04)


def test_random_sprites_lie_inside_the_image() -> None:
    cover = coverage(sample_factors(2000, torch.Generator().manual_seed(2)), 32)
    for edge in (cover[:, 0], cover[:, -1], cover[:, :, 0], cover[:, :, -1]):
        assert edge.max() == 0


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_the_colour_is_the_hue_and_the_ground_is_plain(background: float) -> None:
    import colorsys

    hue = torch.linspace(0, 1, 25)
    images = render_sprites(SpriteFactors(hue=hue), 32, background)
    expected = torch.tensor([colorsys.hsv_to_rgb(h, 1, 1) for h in hue.tolist()])
    assert torch.allclose(images[:, :, 16, 16], expected, atol=1e-5)
    assert torch.allclose(hue_to_rgb(hue), expected, atol=1e-5)
    assert (images[:, :, 0, 0] == background).all()
    assert images.min() >= 0 and images.max() <= 1


def turned(shape: int, angle: float) -> torch.Tensor:
    return render_sprites(SpriteFactors(shape=shape, angle=angle), 48)


@settings(max_examples=20, deadline=None)
@given(angle=st.floats(0, 2 * math.pi))
def test_angles_repeat_as_the_symmetry_says(angle: float) -> None:
    for shape, period in ((0, 1.0), (1, math.pi / 2), (2, math.pi / 1.5), (3, 2 * math.pi)):
        assert torch.allclose(turned(shape, angle), turned(shape, angle + period), atol=1e-3)


def test_a_quarter_turn_is_clockwise_and_shapes_without_symmetry_differ() -> None:
    for shape in (2, 3):
        upright, quarter = turned(shape, 0.0), turned(shape, math.pi / 2)
        assert torch.allclose(torch.rot90(upright, -1, (2, 3)), quarter, atol=1e-4)
        assert (upright - quarter).abs().max() > 0.9
        assert torch.allclose(upright, upright.flip(3), atol=1e-5)


def test_the_triangle_points_up_and_the_heart_down() -> None:
    rows = coverage(SpriteFactors(shape=torch.tensor([2, 3]), size=0.42), 64).sum(2)
    widest = rows.argmax(1)
    assert widest[0] > 38 and widest[1] < 31


def test_blocks_do_not_change_the_picture() -> None:
    factors = sample_factors(BLOCK + 3, torch.Generator().manual_seed(3))
    whole = render_sprites(factors)
    assert torch.equal(whole[-5:], render_sprites(factors[-5:]))
    assert torch.equal(whole[[0, BLOCK]], render_sprites(factors[[0, BLOCK]]))


def test_gradients_reach_the_factors() -> None:
    names = ("hue", "size", "angle", "x", "y")
    values = {name: torch.tensor([0.1, 0.3], requires_grad=True) for name in names}
    images = render_sprites(SpriteFactors(shape=torch.tensor([2, 3]), **values), 32)
    weight = torch.linspace(0, 1, images[0].numel()).reshape(images.shape[1:])
    (images * weight).sum().backward()
    assert all((value.grad != 0).all() for value in values.values())


def test_the_gradient_of_the_area_is_the_perimeter_of_the_disc() -> None:
    size = torch.tensor([0.3], requires_grad=True)
    # Averaged over centres between the pixels, where the pixel grid cannot matter.
    x, y = torch.rand(2, 200, generator=torch.Generator().manual_seed(0)) / 64
    images = render_sprites(SpriteFactors(size=size, x=x, y=y), 64)
    area = images[:, 0].sum((1, 2)).mean() * (2 / 64) ** 2
    area.backward()
    assert size.grad.item() == pytest.approx(2 * math.pi * 0.3, rel=0.01)


def test_sprites_are_seeded_and_their_factors_can_be_had_again() -> None:
    first = sprites(20, generator=torch.Generator().manual_seed(5))
    again = sprites(20, generator=torch.Generator().manual_seed(5))
    factors = sample_factors(20, torch.Generator().manual_seed(5))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, factors.shape)
    assert (first.as_float(range=(0, 1)) - render_sprites(factors)).abs().max() <= 0.5 / 255 + 1e-6
    assert first.images.dtype == torch.uint8 and first.shape == (3, 32, 32)
    assert not torch.equal(first.images, sprites(20).images)


def test_one_number_is_repeated_and_wrong_factors_are_refused() -> None:
    factors = SpriteFactors(shape=3, hue=torch.linspace(0, 1, 6))
    assert len(factors) == 6 and factors.size.tolist() == pytest.approx([0.3] * 6)
    assert len(factors[2:4].to("cpu")) == 2
    with pytest.raises(ValueError, match="different lengths"):
        SpriteFactors(hue=torch.zeros(2), x=torch.zeros(3))
    with pytest.raises(ValueError, match="shape must be integers"):
        SpriteFactors(shape=4)
    with pytest.raises(ValueError, match="too small"):
        render_sprites(factors, 2)
    with pytest.raises(ValueError, match="grey value"):
        render_sprites(factors, 32, background=2.0)


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("shape", range(4))
def test_a_sprite_on_a_pixel_has_finite_gradients(size, shape):
    at = 0.0 if size % 2 else 1 / size  # the centre of a pixel lies in the centre of the sprite
    factors = [torch.tensor([value], requires_grad=True) for value in (0.5, 0.5, at, at)]
    extent, angle, x, y = factors
    sprites = SpriteFactors(shape, torch.tensor([0.3]), extent, angle, x, y)
    render_sprites(sprites, size).square().sum().backward()
    assert all(factor.grad.isfinite().all() for factor in factors)


@pytest.mark.parametrize("shape", [1.7, -0.5])
def test_a_shape_between_two_is_refused(shape):
    with pytest.raises(ValueError, match="shape must be integers"):
        SpriteFactors(shape=shape)
