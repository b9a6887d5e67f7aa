"""The kernel distance by hand, unbiased, on both of its paths, and against its peers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.metrics import kernel, kernel_distance


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(a, b):
    """Pair by pair, as the definition says."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)

    def k(x, y):
        return (x @ y / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_two_points_a_side():
    # k(1, 2) = 27; k(0, 3) = 1; k(1, 0) = 1, k(1, 3) = 64, k(2, 0) = 1, k(2, 3) = 343.
    value, spread = kernel_distance(np.array([[1.0], [2]]), np.array([[0.0], [3]]), 2, 3)
    assert value == pytest.approx(27 + 1 - 2 * (1 + 64 + 1 + 343) / 4, rel=1e-14)
    assert spread == 0.0


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 10**6))
def test_a_subset_of_everything_is_the_definition(n, d, seed):
    a, b = draw(n, d, seed), draw(n, d, seed + 1) + 0.5
    expected = by_hand(a, b)
    value, spread = kernel_distance(a, b, subset_size=n, n_subsets=4)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert spread <= 1e-9 * (1 + abs(expected))


def test_a_draw_does_not_keep_the_whole_permutation_alive():
    kept = kernel._draw(10_000, 7, torch.Generator().manual_seed(3))
    assert kept.untyped_storage().nbytes() == 7 * 8
    whole = torch.randperm(10_000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(kept, whole[:7]), "the subsets are those that they always were"


@pytest.mark.parametrize("entries", [7, 100, 2**20])
def test_both_paths_and_every_block_size_agree(monkeypatch, entries):
    monkeypatch.setattr(kernel, "ENTRIES", entries)
    a, b = draw(23, 5, 1), draw(19, 5, 2) + 0.5
    generator = torch.Generator().manual_seed(0)
    draws = [tuple(torch.randperm(n, generator=generator)[:6] for n in (23, 19)) for _ in range(5)]
    expected = [by_hand(a[i], b[j]) for i, j in draws]
    counts = [kernel._counts([d[side] for d in draws], n) for side, n in enumerate((23, 19))]
    np.testing.assert_allclose(kernel.weighted_estimates(a, b, *counts), expected, rtol=1e-11)
    np.testing.assert_allclose(kernel._one_by_one(a, b, draws), expected, rtol=1e-11)
    value, spread = kernel_distance(a, b, 6, 5)
    assert value == pytest.approx(np.mean(expected), rel=1e-11)
    assert spread == pytest.approx(np.std(expected), rel=1e-9), "population deviation"


def test_is_unbiased_and_may_be_negative():
    values = torch.tensor(
        [kernel_distance(draw(8, 3, 2 * i), draw(8, 3, 2 * i + 1), 8, 1)[0] for i in range(600)]
    )
    assert abs(float(values.mean())) < 4 * float(values.std()) / math.sqrt(600)
    assert (values < 0).any()


def test_does_not_grow_with_fewer_samples_as_the_frechet_distance_does():
    from course_lib.metrics import frechet_distance

    def means(n, repeats):
        pairs = [(draw(n, 4, 2 * i), draw(n, 4, 2 * i + 1) + 0.5) for i in range(repeats)]
        return [
            np.mean([f(a, b) for a, b in pairs])
            for f in (lambda a, b: kernel_distance(a, b, len(a), 1)[0], frechet_distance)
        ]

    small, large = means(20, 400), means(400, 20)
    assert abs(small[0] - large[0]) < 0.25 * large[0]
    assert small[1] > 1.5 * large[1]


def test_seed_decides():
    a, b = draw(60, 4, 1), draw(50, 4, 2)
    assert kernel_distance(a, b, 10, 7, seed=3) == kernel_distance(a, b, 10, 7, seed=3)
    assert kernel_distance(a, b, 10, 7, seed=3) != kernel_distance(a, b, 10, 7, seed=4)


def test_agrees_with_independent_implementations():
    from torch_fidelity import metric_kid
    from torchmetrics.image.kid import poly_mmd

    a, b = torch.relu(draw(300, 32, 1)), torch.relu(draw(300, 32, 2) + 0.2)
    ours, _ = kernel_distance(a, b, 300, 1)
    assert float(poly_mmd(a, b)) == pytest.approx(ours, rel=1e-10)
    peer = metric_kid.kid_features_to_metric(
        a, b, kid_subsets=1, kid_subset_size=300, verbose=False
    )
    assert peer[metric_kid.KEY_METRIC_KID_MEAN] == pytest.approx(ours, rel=1e-10)
    # Subsets of its own choice: equal within the error of the two means.
    mean, spread = kernel_distance(a, b, 50, 400)
    peer = metric_kid.kid_features_to_metric(
        a, b, kid_subsets=400, kid_subset_size=50, verbose=False
    )
    error = spread * math.sqrt(2 / 400)
    assert abs(peer[metric_kid.KEY_METRIC_KID_MEAN] - mean) < 4 * error
    assert peer[metric_kid.KEY_METRIC_KID_STD] == pytest.approx(spread, rel=0.15)


def test_on_features_of_real_images(mirror, monkeypatch):
    from course_lib import data, metrics

    monkeypatch.setenv("COURSE_MIRROR", str(mirror))
    images = data.load("mnist", "test", download=False)
    network = metrics.load_features("mnist")
    some, others = (network(images.images[i : i + 300]).features for i in (0, 300))
    ones = network(images.images[images.labels == 1][:300]).features
    same, spread = kernel_distance(some, others, 200, 20)
    assert abs(same) < 4 * spread < kernel_distance(some, ones, 200, 20)[0]
    from torchmetrics.image.kid import poly_mmd

    expected = float(poly_mmd(some.double(), ones.double()))
    assert kernel_distance(some, ones, 300, 1)[0] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((draw(20, 3), draw(9, 3), 10), "choose from 2 to 9"),
        ((draw(20, 3), draw(20, 3)), "choose from 2 to 20"),
        ((draw(20, 3), draw(20, 3), 1), "at least 2"),
        ((draw(20, 3), draw(20, 3), 10.0), "whole number"),
        ((draw(20, 3), draw(20, 3), 5, 3, None), "whole number"),
        ((draw(20, 3) * 1e50, draw(20, 3) * 1e50, 10, 5), "overflow"),
        ((draw(20, 3), draw(20, 3), 5, 0), "at least 1"),
        ((draw(20, 3), draw(20, 4), 5), "columns"),
        ((draw(20, 3) * math.nan, draw(20, 3), 5), "NaN"),
        ((draw(20, 3) * 1e120, draw(20, 3) * 1e120, 5), "overflow"),
        ((torch.ones(9, 3, dtype=torch.int8), draw(20, 3), 5), "overflow"),
    ],
)
def test_refusals(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        kernel_distance(*arguments)
