"""Squared error, PSNR and MS-SSIM against closed forms, slow loops, torchmetrics and PCA."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from course_lib import data
from course_lib.metrics.pictures import (
    SCALE_WEIGHTS,
    fitting_scales,
    mean_pairwise_ms_ssim,
    ms_ssim,
    reconstruction_error,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(n, size, channels=1, seed=0):
    """Blobs in [0, 1] that resemble pictures more than noise does."""
    coarse = rand(n, channels, 5, 5, seed=seed)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=True).clamp(0, 1)


def noisy(x, amount=0.1, seed=9):
    g = torch.Generator().manual_seed(seed)
    return (x + amount * torch.randn(x.shape, generator=g, dtype=x.dtype)).clamp(0, 1)


# Reconstruction error


def test_error_by_hand():
    x = torch.zeros(2, 1, 2, 2)
    x_hat = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.5, 0.0]]).reshape(2, 1, 2, 2)
    error = reconstruction_error(x, x_hat)
    assert error.value == (1.0 + 2.25) / 2
    assert error.standard_error == pytest.approx(1.25 / math.sqrt(2) / math.sqrt(2), rel=1e-14)
    assert error.per_pixel == 1.625 / 4
    assert error.psnr == pytest.approx(-10 * math.log10(1.625 / 4), rel=1e-14)
    assert error.n == 2


def test_error_of_bytes_does_not_wrap_around():
    x, x_hat = (torch.full((3, 1, 2, 2), v, dtype=torch.uint8) for v in (3, 250))
    assert reconstruction_error(x, x_hat).value == 4 * 247**2
    assert reconstruction_error(x_hat.numpy(), x.numpy()).value == 4 * 247**2


@given(st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
def test_error_in_three_ranges(n, channels, seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randint(256, (2, n, channels, 6, 5), generator=g, dtype=torch.uint8)
    unit = reconstruction_error(x.double() / 255, y.double() / 255)
    both = reconstruction_error(x.double() / 127.5 - 1, y.double() / 127.5 - 1)
    raw = reconstruction_error(x, y)
    assert raw.value == pytest.approx(255**2 * unit.value, rel=1e-12)
    assert both.value == pytest.approx(4 * unit.value, rel=1e-12)
    assert [raw.psnr, both.psnr] == pytest.approx([unit.psnr] * 2, rel=1e-12)
    by_numpy = ((x.numpy() / 255 - y.numpy() / 255) ** 2).reshape(n, -1).sum(1)
    assert unit.value == pytest.approx(by_numpy.mean(), rel=1e-12)
    if n > 1:
        expected = by_numpy.std(ddof=1) / math.sqrt(n)
        assert unit.standard_error == pytest.approx(expected, rel=1e-9, abs=1e-12)
    else:
        assert math.isnan(unit.standard_error)


def test_psnr_agrees_with_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio

    x, y = rand(5, 3, 8, 8), rand(5, 3, 8, 8, seed=1)
    theirs = peak_signal_noise_ratio(y, x, data_range=1.0)
    assert reconstruction_error(x, y).psnr == pytest.approx(float(theirs), rel=1e-6)


def test_a_copy_has_no_error():
    x = rand(4, 1, 5, 5)
    assert reconstruction_error(x, x)[:4] == (0.0, 0.0, 0.0, math.inf)


def principal_components(flat, k):
    """Mean `[d]`, the first k directions `[d, k]`, and the eigenvalues `[d]` (divisor n - 1)."""
    mean = flat.mean(0)
    centred = flat - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred).double() / (len(flat) - 1))
    return mean, vectors[:, -k:].to(flat.dtype), values


@given(st.integers(0, 1000), st.integers(1, 11))
def test_pca_leaves_the_sum_of_the_discarded_eigenvalues(seed, k):
    x = rand(30, 1, 3, 4, seed=seed)
    mean, vectors, values = principal_components(x.flatten(1), k)
    x_hat = (mean + (x.flatten(1) - mean) @ vectors @ vectors.T).reshape(x.shape)
    expected = 29 / 30 * float(values[:-k].sum())
    error = reconstruction_error(x, x_hat, data_range=(0, 1))
    assert error.value == pytest.approx(expected, rel=1e-9)


def test_pca_of_mnist_gives_the_published_number(mirror):
    x, test = (
        data.load("mnist", split, mirror=mirror, download=False).as_float(range=(0, 1))
        for split in ("train", "test")
    )
    mean, vectors, values = principal_components(x.flatten(1), 30)

    def error(images):
        flat = images.flatten(1)
        x_hat = (mean + (flat - mean) @ vectors @ vectors.T).reshape(images.shape)
        return reconstruction_error(images, x_hat, data_range=(0, 1)).value

    on_train = error(x)
    assert on_train == pytest.approx(14.207, abs=5e-4)
    assert on_train == pytest.approx(59_999 / 60_000 * float(values[:-30].sum()), rel=1e-5)
    assert error(test) == pytest.approx(13.866, abs=5e-4)  # 13.87 in Hinton & Salakhutdinov 2006


UNIT = rand(4, 1, 28, 28)


@pytest.mark.parametrize("measure", [reconstruction_error, ms_ssim])
@pytest.mark.parametrize(
    ("x", "y", "settings", "sentence"),
    [
        (UNIT, (255 * UNIT).to(torch.uint8), {}, "uint8"),
        (UNIT, 2 * UNIT - 1, {}, r"not clear \(x from .*\(x \+ 1\) / 2"),
        (255 * UNIT, 255 * UNIT, {}, r"not clear .*data_range=\(0, 1\)"),
        (255 * UNIT, UNIT, {"data_range": 1.0}, "x reaches from .* outside the range"),
        (2 * UNIT - 1, UNIT, {"data_range": 2.0}, "x reaches from -0.99"),
        (UNIT, UNIT, {"data_range": (1, 0)}, "black below white"),
        (UNIT, UNIT, {"data_range": 0}, "black below white"),
        (UNIT, UNIT, {"data_range": (0, 1, 2)}, "two numbers"),
        (UNIT, UNIT, {"data_range": (None, 1)}, "two numbers"),
        (UNIT, UNIT, {"data_range": "a"}, "two numbers"),
        (UNIT, UNIT, {"data_range": (0, float("inf"))}, "two numbers"),
        (UNIT, UNIT[:3], {}, "4 images and .* has 3"),
        (UNIT, UNIT[:, :, :14], {}, r"\[1, 14, 28\]"),
        (UNIT[:, 0], UNIT[:, 0], {}, r"images\[:, None\]"),
        (UNIT, UNIT * float("nan"), {}, "NaN or infinite"),
    ],
)
def test_refusals(measure, x, y, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(x, y, **settings)


@pytest.mark.parametrize("measure", [reconstruction_error, ms_ssim])
def test_a_range_may_be_any_two_numbers(measure):
    expected = measure(UNIT, noisy(UNIT), data_range=(0, 1))
    for same in ([0, 1], np.array([0, 1]), torch.tensor([0.0, 1.0]), 1, np.float32(1)):
        torch.testing.assert_close(measure(UNIT, noisy(UNIT), same), expected, rtol=0, atol=0)


def test_a_reconstruction_that_has_diverged_is_refused():
    for scale, n in ((1e200, 4), (1e200, 1), (1e150, 4)):
        with pytest.raises(ValueError, match="x_hat has diverged"):
            reconstruction_error(UNIT[:n], scale * UNIT[:n], data_range=(0, 1))


def test_a_very_narrow_range_is_a_range():
    x, y = 1e-200 * UNIT, 1e-200 * noisy(UNIT)
    expected = ms_ssim(UNIT, noisy(UNIT))
    torch.testing.assert_close(ms_ssim(x, y, data_range=1e-200), expected, rtol=1e-9, atol=0)
    assert reconstruction_error(1e-150 * UNIT, 1e-150 * noisy(UNIT), 1e-150).psnr == pytest.approx(
        reconstruction_error(UNIT, noisy(UNIT)).psnr, rel=1e-9
    )


# MS-SSIM


def slow_ms_ssim(x, y, width, n_scales):
    """The definition in numpy, one window after the other, for one image `[c, h, w]`."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    weights = np.array(SCALE_WEIGHTS[:n_scales]) / sum(SCALE_WEIGHTS[:n_scales])
    result = 1.0
    for j, weight in enumerate(weights):
        terms = []
        for c in range(x.shape[0]):
            for row in range(x.shape[1] - 10):
                for column in range(x.shape[2] - 10):
                    a, b = (z[c, row : row + 11, column : column + 11] for z in (x, y))
                    ma, mb = (window * a).sum(), (window * b).sum()
                    va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
                    covariance = (window * (a - ma) * (b - mb)).sum()
                    term = (2 * covariance + c2) / (va + vb + c2)
                    if j == n_scales - 1:
                        term *= (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
                    terms.append(term)
        result *= max(np.mean(terms), 0.0) ** weight
        x, y = (np.pad(z, ((0, 0), *[(0, s % 2) for s in z.shape[1:]]), "edge") for z in (x, y))
        x, y = (z.reshape(len(z), z.shape[1] // 2, 2, -1, 2).mean((2, 4)) for z in (x, y))
    return result


@pytest.mark.parametrize("size", [(28, 28), (29, 31), (41, 43)])
@pytest.mark.parametrize("channels", [1, 3])
def test_ms_ssim_agrees_with_the_slow_loop(size, channels):
    x = smooth(2, size, channels)
    y = noisy(x)
    scales = fitting_scales(*size)
    for n_scales in range(1, scales + 1):
        expected = [slow_ms_ssim(a.numpy(), b.numpy(), 1.0, n_scales) for a, b in zip(x, y)]  # noqa: B905
        ours = ms_ssim(x, y, n_scales=n_scales)
        assert ours.tolist() == pytest.approx(expected, rel=1e-9)
    assert torch.equal(ms_ssim(x, y), ours)  # by default all that fit


def test_one_scale_agrees_with_torchmetrics_inside_its_padding():
    from torchmetrics.functional.image import structural_similarity_index_measure

    x = smooth(3, 28, channels=3)
    y = noisy(x)
    _, places = structural_similarity_index_measure(
        y, x, data_range=1.0, reduction="none", return_full_image=True
    )
    inside = places[..., 5:-5, 5:-5].mean((1, 2, 3))  # it also scores a reflected margin
    torch.testing.assert_close(ms_ssim(x, y, n_scales=1), inside, rtol=1e-9, atol=0)


def test_five_scales_agree_with_torchmetrics_up_to_its_margin():
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure,
        structural_similarity_index_measure,
    )

    x = smooth(3, 192)
    y = noisy(x, 0.2)
    theirs = multiscale_structural_similarity_index_measure(
        y, x, data_range=1.0, reduction="none", normalize="relu"
    )
    # The contrast terms agree; at the coarsest scale, 12 pixels, it averages l·cs over a margin of
    # reflected pixels too, where the definition has the 2 x 2 windows that fit.
    small_x, small_y = (F.avg_pool2d(z, 16) for z in (x, y))
    with_margin, places = structural_similarity_index_measure(
        small_y, small_x, data_range=1.0, reduction="none", return_full_image=True
    )
    without = places[..., 5:-5, 5:-5].mean((1, 2, 3))
    reconciled = theirs * (without / with_margin) ** SCALE_WEIGHTS[-1]
    torch.testing.assert_close(ms_ssim(x, y), reconciled, rtol=1e-7, atol=0)
    torch.testing.assert_close(ms_ssim(x, y), theirs, rtol=0.02, atol=0)


def test_flat_images_have_a_closed_form():
    for size, scales in ((28, 2), (161, 5)):
        a, b = 0.3, 0.7
        x, y = (torch.full((1, 1, size, size), v, dtype=torch.float64) for v in (a, b))
        luminance = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
        weight = SCALE_WEIGHTS[scales - 1] / (sum(SCALE_WEIGHTS[:scales]) if scales < 5 else 1)
        assert ms_ssim(x, y).item() == pytest.approx(luminance**weight, rel=1e-9)


@given(st.integers(11, 60), st.integers(11, 60), st.integers(1, 3), st.integers(0, 1000))
def test_ms_ssim_of_a_copy_is_exactly_one_and_the_order_does_not_matter(h, w, channels, seed):
    x, y = rand(2, channels, h, w, seed=seed), smooth(2, (h, w), channels, seed=seed)
    assert ms_ssim(x, x).tolist() == [1.0, 1.0]
    assert ms_ssim(x.float(), x.float()).tolist() == [1.0, 1.0]
    assert torch.equal(ms_ssim(x, y), ms_ssim(y, x))
    assert bool(((ms_ssim(x, y) >= 0) & (ms_ssim(x, y) < 1)).all())
    torch.testing.assert_close(ms_ssim(x.flip(3), y.flip(3), n_scales=1), ms_ssim(x, y, n_scales=1))


def test_ms_ssim_does_not_depend_on_how_pixels_are_written():
    x = (255 * smooth(4, 32)).round().to(torch.uint8)
    y = (255 * noisy(x / 255.0)).round().to(torch.uint8)
    expected = ms_ssim(x, y)
    for a, b in ((x.double() / 255, y.double() / 255), (x / 127.5 - 1, y / 127.5 - 1)):
        torch.testing.assert_close(ms_ssim(a, b), expected, rtol=1e-5, atol=0)
    as_arrays = ms_ssim(x.double().numpy(), y.double().numpy(), data_range=255)
    torch.testing.assert_close(as_arrays, expected, rtol=1e-12, atol=0)


def test_more_noise_is_less_similar_and_the_opposite_not_at_all():
    x = smooth(3, 64)
    values = torch.stack([ms_ssim(x, noisy(x, amount)) for amount in (0.02, 0.1, 0.3, 1.0)])
    assert bool((values.diff(dim=0) < 0).all())
    grain = rand(2, 1, 28, 28)
    assert ms_ssim(grain, 1 - grain).tolist() == [0.0, 0.0]  # negative structure, not NaN


def test_which_scales_fit():
    sides = [10, 11, 20, 21, 28, 32, 40, 41, 64, 80, 81, 128, 160, 161, 1000]
    expected = [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    assert [fitting_scales(s, s) for s in sides] == expected
    assert fitting_scales(28, 1000) == fitting_scales(1000, 28) == 2
    with pytest.raises(ValueError, match="no room for the window of 11"):
        ms_ssim(UNIT[..., :10], UNIT[..., :10])
    for wrong in (0, 3, 2.0, "a", True):
        with pytest.raises(ValueError, match=r"28 x 28 pixels is .* from 1 to 2"):
            ms_ssim(UNIT, UNIT, n_scales=wrong)
    assert torch.equal(ms_ssim(UNIT, UNIT, n_scales=np.int64(2)), ms_ssim(UNIT, UNIT))


# Diversity


def test_mean_over_pairs_finds_the_mean_of_all_pairs():
    x = smooth(7, 28)
    pairs = torch.tensor(list(combinations(range(7), 2)))
    exact = ms_ssim(x[pairs[:, 0]], x[pairs[:, 1]])
    estimate = mean_pairwise_ms_ssim(x, n_pairs=4000, seed=1)
    assert abs(estimate.value - float(exact.mean())) < 4 * estimate.standard_error
    expected = float(exact.std(correction=0)) / math.sqrt(4000)
    assert estimate.standard_error == pytest.approx(expected, rel=0.1)
    assert estimate == mean_pairwise_ms_ssim(x, n_pairs=4000, seed=1)
    assert estimate != mean_pairwise_ms_ssim(x, n_pairs=4000, seed=2)


def test_a_collapsed_generator_has_one_and_diversity_lowers_it():
    x = smooth(1, 28)
    assert mean_pairwise_ms_ssim(x.repeat(5, 1, 1, 1), 50) == (1.0, 0.0)
    near = mean_pairwise_ms_ssim(noisy(x.repeat(5, 1, 1, 1)), 50)
    assert near.value > mean_pairwise_ms_ssim(smooth(5, 28), 50).value
    # Two images make one pair, whatever the seed: an image never meets itself.
    assert mean_pairwise_ms_ssim(smooth(2, 28), 50).value < 1
    with pytest.raises(ValueError, match="pass at least 2"):
        mean_pairwise_ms_ssim(x, 50)
    several = smooth(5, 28)
    assert mean_pairwise_ms_ssim(several, np.int64(9)) == mean_pairwise_ms_ssim(several, 9)
    for n_pairs in (1, 2.5, None, "a", True):
        with pytest.raises(ValueError, match=r"n_pairs is .* of at least 2"):
            mean_pairwise_ms_ssim(several, n_pairs)
    for seed in (1.5, "a", -1):
        with pytest.raises(ValueError, match="seed is"):
            mean_pairwise_ms_ssim(several, 9, seed)
