"""Parzen windows against closed forms, scipy and scikit-learn; and what they prefer on MNIST."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.neighbors import KernelDensity

from course_lib import data
from course_lib.metrics.parzen import COLUMNS, ROWS, SIGMAS, parzen_log_likelihood


def points(*shape, seed=0, scale=1.0, offset=0.0):
    g = torch.Generator().manual_seed(seed)
    return offset + scale * torch.randn(*shape, generator=g, dtype=torch.float64)


def by_hand(samples, test, sigma):
    """Per test point, from differences rather than from a product."""
    squared = ((test[:, None] - samples[None]) ** 2).sum(-1).numpy()
    n, d = samples.shape
    constant = math.log(n) + d / 2 * math.log(2 * math.pi * sigma**2)
    return logsumexp(-squared / (2 * sigma**2), axis=1) - constant


@given(st.floats(0.01, 100), st.integers(1, 20), st.integers(0, 1000))
def test_one_sample_is_one_gaussian(sigma, d, seed):
    s, x = points(1, d, seed=seed), points(5, d, seed=seed + 1)
    law = multivariate_normal(s[0].numpy(), sigma**2 * np.eye(d))
    log_density = np.atleast_1d(law.logpdf(x.numpy()))
    estimate = parzen_log_likelihood(s, x, sigma=sigma)
    assert estimate.value == pytest.approx(log_density.mean(), rel=1e-10)
    error = log_density.std(ddof=1) / math.sqrt(5)
    assert estimate.standard_error == pytest.approx(error, rel=1e-8, abs=1e-12)
    assert estimate[2:] == (sigma, 1, 5)


@given(st.floats(0.02, 5), st.integers(1, 30), st.integers(2, 30), st.integers(0, 1000))
def test_agrees_with_scikit_learn(sigma, n, m, seed):
    s, x = points(n, 4, seed=seed), points(m, 4, seed=seed + 1, scale=2.0)
    theirs = KernelDensity(bandwidth=sigma).fit(s.numpy()).score_samples(x.numpy())
    ours = parzen_log_likelihood(s, x, sigma=sigma)
    assert ours.value == pytest.approx(theirs.mean(), rel=1e-9)
    assert ours.standard_error == pytest.approx(theirs.std(ddof=1) / math.sqrt(m), rel=1e-7)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0])
def test_blocks_far_points_and_an_offset_change_nothing(sigma):
    # More rows than one block both ways, distances that underflow exp, and digits that
    # |a|² + |b|² - 2ab would lose without centring.
    s, x = points(2 * COLUMNS + 3, 3), points(2 * ROWS + 5, 3, seed=1)
    s, x = torch.round(s * 2**20) / 2**20, torch.round(x * 2**20) / 2**20  # exact after the shift
    x[0] += 1000.0
    expected = by_hand(s, x, sigma)
    for offset in (0.0, 2.0**24):
        ours = parzen_log_likelihood(s + offset, x + offset, sigma=sigma)
        assert ours.value == pytest.approx(expected.mean(), rel=1e-9)


@pytest.mark.parametrize(("spread", "sigma"), [(1e3, 1e-6), (1.0, 1e-7), (1.0, 1e-3)])
def test_narrow_windows_around_samples_that_are_test_points(spread, sigma):
    s = points(40, 3, scale=spread)
    x = s[:9] + points(9, 3, seed=1, scale=sigma)
    expected = by_hand(s, x, sigma).mean()
    assert parzen_log_likelihood(s, x, sigma=sigma).value == pytest.approx(expected, rel=1e-9)
    itself = -math.log(40) - 1.5 * math.log(2 * math.pi * sigma**2)
    assert parzen_log_likelihood(s, s, sigma=sigma).value == pytest.approx(itself, rel=1e-9)


def test_one_far_sample_takes_no_digit():
    s, x = points(40, 3), points(30, 3, seed=1)
    s[0, 0] = 1e8
    expected = by_hand(s, x, 0.5).mean()
    assert parzen_log_likelihood(s, x, sigma=0.5).value == pytest.approx(expected, rel=1e-9)


def test_single_precision_may_be_used_to_its_end():
    s, x = points(40, 3), points(30, 3, seed=1)
    expected = parzen_log_likelihood(s.float(), x.float(), sigma=0.5).value
    large = (t.float() * 2.0**125 for t in (s, x))
    found = parzen_log_likelihood(*large, sigma=0.5 * 2.0**125).value
    assert found == pytest.approx(expected - 3 * 125 * math.log(2), rel=1e-9)


@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_scaling_and_order(seed, factor):
    s, x = points(20, 6, seed=seed), points(9, 6, seed=seed + 1)
    value = parzen_log_likelihood(s, x, sigma=0.4).value
    scaled = parzen_log_likelihood(factor * s, factor * x, sigma=factor * 0.4).value
    assert scaled == pytest.approx(value - 6 * math.log(factor), rel=1e-9, abs=1e-9)
    assert parzen_log_likelihood(s.flip(0), x.flip(0), sigma=0.4).value == pytest.approx(value)
    # N copies of every sample are the same mixture.
    assert parzen_log_likelihood(s.repeat(3, 1), x, sigma=0.4).value == pytest.approx(value)


def test_the_chosen_sigma_is_the_best_of_the_list():
    s, v, x = points(300, 5), points(200, 5, seed=1), points(100, 5, seed=2)
    sigmas = [2.0, 0.1, 0.5, 0.3, 0.7, 1.0]
    means = [by_hand(s, v, sigma).mean() for sigma in sigmas]
    estimate = parzen_log_likelihood(s, x, validation=v, sigmas=sigmas)
    assert estimate.sigma == sigmas[int(np.argmax(means))]
    assert estimate.value == pytest.approx(by_hand(s, x, estimate.sigma).mean(), rel=1e-10)
    assert estimate == parzen_log_likelihood(s, x, sigma=estimate.sigma)


def test_the_default_grid_is_refined_to_the_maximum():
    s, v = 0.3 * points(200, 50), 0.3 * points(200, 50, seed=1)
    chosen = parzen_log_likelihood(s, v, validation=v)
    fine = np.geomspace(SIGMAS[0], SIGMAS[-1], 2001)
    best = max(parzen_log_likelihood(s, v, sigma=sigma).value for sigma in fine[1000:1800])
    on_grid = max(parzen_log_likelihood(s, v, sigma=sigma).value for sigma in SIGMAS)
    assert on_grid < chosen.value <= best + 1e-3
    assert chosen.value == pytest.approx(best, abs=0.02)
    assert np.allclose(np.diff(np.log(SIGMAS)), math.log(10) / 20)


def test_with_many_samples_it_finds_the_entropy():
    # The Parzen mixture of N(0, 1) samples has the law N(0, 1 + sigma²) in the limit, whose mean
    # log-density under N(0, 1) is known.
    n, sigma = 6000, 0.3
    s, x = points(n, 1), points(n, 1, seed=1)
    variance = 1 + sigma**2
    expected = -0.5 * (math.log(2 * math.pi * variance) + 1 / variance)
    estimate = parzen_log_likelihood(s, x, sigma=sigma)
    assert abs(estimate.value - expected) < 4 * estimate.standard_error * math.sqrt(2)
    # Its standard error is that of the squares: sd(x²) / (2 variance sqrt(n)), sd(x²) = sqrt 2.
    assert estimate.standard_error == pytest.approx(2**0.5 / (2 * variance * n**0.5), rel=0.1)


def test_float32_and_arrays_are_computed_in_float64():
    s, x = points(50, 8).float(), points(20, 8, seed=1).float()
    exact = parzen_log_likelihood(s.double(), x.double(), sigma=0.2)
    assert parzen_log_likelihood(s, x.numpy(), sigma=0.2) == pytest.approx(exact, rel=1e-13)


def test_centroids_beat_real_images_on_mnist(mirror):
    def flat(split):
        return data.load("mnist", split, mirror=mirror, download=False)

    train = flat("train").as_float(slice(6000), range=(0, 1)).flatten(1)
    test = flat("test").as_float(slice(1000), range=(0, 1)).flatten(1)
    fitted, validation = train[:5000], train[5000:]
    k_means = KMeans(500, init="random", n_init=1, max_iter=6, random_state=0).fit(fitted.numpy())
    centroids = torch.from_numpy(k_means.cluster_centers_)
    real = parzen_log_likelihood(fitted[:500], test, validation=validation)
    blurred = parzen_log_likelihood(centroids, test, validation=validation)
    assert blurred.value > real.value + 10 * (blurred.standard_error + real.standard_error)
    # Even all the 5,000 real images that the 500 centroids were made of score less.
    everything = parzen_log_likelihood(fitted, test, validation=validation)
    assert blurred.value > everything.value + everything.standard_error
    assert 0.1 < blurred.sigma < 0.3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "exactly one of sigma and validation"),
        ({"sigma": 1.0, "validation": points(3, 2)}, "exactly one of sigma and validation"),
        ({"sigma": 0.0}, "sigma should be one number above 0"),
        ({"sigma": float("nan")}, "sigma should be one number above 0"),
        ({"sigma": [0.1, 0.2]}, "sigma should be one number above 0"),
        ({"validation": points(3, 2), "sigmas": [0.1, 0.2]}, "at least 3 numbers"),
        ({"validation": points(3, 2), "sigmas": [0.1, -1, 2]}, "above 0"),
        ({"validation": points(3, 2), "sigmas": [1e-3, 1e-2, 0.1]}, "0.1, lies at an end"),
        ({"validation": points(9, 2), "sigmas": [0.1, 0.2, 1.0]}, "take them out"),
        ({"validation": points(3, 3)}, "validation has 3"),
        ({"sigma": 1.0, "test": points(3, 3)}, "test has 3"),
        ({"sigma": 1.0, "test": points(1, 2)}, "at least 2 points"),
        ({"sigma": 1.0, "test": points(3, 2).to(torch.uint8)}, "uint8"),
        ({"sigma": 1.0, "test": points(3, 1, 2, 2)}, r"flatten\(1\)"),
        ({"sigma": 1.0, "test": points(3, 2) / 0}, "NaN or infinite"),
        ({"sigma": 1e200, "test": points(3, 2) * 1e200}, "leaves the range of float64"),
        ({"sigma": 1e-170}, "leaves the range of float64"),
    ],
)
def test_refusals(settings, sentence):
    # points(9, 2) are the samples themselves: their likelihood grows as sigma falls.
    with pytest.raises(ValueError, match=sentence):
        parzen_log_likelihood(points(9, 2), **{"test": points(4, 2, seed=3), **settings})
