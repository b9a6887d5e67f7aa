"""Precision, recall, density and coverage against brute force, expectations, and the peer."""

from __future__ import annotations

import contextlib
import io
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prdc import compute_prdc
from sklearn.neighbors import NearestNeighbors

from course_lib.metrics import neighbours, prdc


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(real, fake, k):
    """From the definitions, with exact squared distances of whole numbers."""

    def squared(x, y):
        return sum((int(p) - int(q)) ** 2 for p, q in zip(x, y, strict=True))

    def radii(points):
        return [
            sorted(squared(x, y) for j, y in enumerate(points) if j != i)[k - 1]
            for i, x in enumerate(points)
        ]

    r, f = radii(real), radii(fake)
    d = [[squared(x, y) for y in fake] for x in real]
    n, m = len(real), len(fake)
    in_real = [[d[i][j] < r[i] for j in range(m)] for i in range(n)]
    return {
        "precision": sum(any(in_real[i][j] for i in range(n)) for j in range(m)) / m,
        "recall": sum(any(d[i][j] < f[j] for j in range(m)) for i in range(n)) / n,
        "density": sum(map(sum, in_real)) / (m * k),
        "coverage": sum(map(any, in_real)) / n,
    }


def peer(real, fake, k):
    with contextlib.redirect_stdout(io.StringIO()):
        return compute_prdc(np.asarray(real), np.asarray(fake), k)


@settings(max_examples=60)
@given(st.integers(3, 14), st.integers(3, 14), st.integers(1, 3), st.integers(1, 2),
       st.integers(0, 10**6), st.sampled_from([0, 1000, 10**6]))  # fmt: skip
def test_equals_the_definition_with_all_its_ties(n, m, d, k, seed, offset):
    """Points on a small grid have many equal distances, where a strict `<` and rounding matter."""
    generator = torch.Generator().manual_seed(seed)
    real, fake = (
        torch.randint(0, 4, (rows, d), generator=generator).double() + offset for rows in (n, m)
    )
    assert prdc(real, fake, k) == pytest.approx(by_hand(real, fake, k), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "m", "d", "k"), [(400, 300, 16, 5), (150, 500, 3, 1), (90, 90, 200, 10)]
)
def test_agrees_with_the_reference_implementation(n, m, d, k):
    real, fake = torch.relu(draw(n, d, 1)), torch.relu(draw(m, d, 2) * 1.2 + 0.1)
    assert prdc(real, fake, k) == pytest.approx(peer(real, fake, k), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-200, 1e-25, 1e-8, 1e-3, 1.0, 1e8, 1e18, 1e200])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_scale_and_offset_change_nothing(scale, offset):
    real, fake = draw(200, 8, 1), draw(150, 8, 2) * 1.1
    # Rounded first, so that the offset loses no digit.
    real, fake = ((x * 2**20).round() / 2**20 for x in (real, fake))
    assert prdc((real + offset) * scale, (fake + offset) * scale) == prdc(real, fake)


@pytest.mark.parametrize("entries", [50, 1000, 2**21])
def test_every_block_size_and_precision_gives_the_same(monkeypatch, entries):
    real, fake = torch.relu(draw(211, 6, 1)), torch.relu(draw(173, 6, 2))
    expected = peer(real, fake, 3)
    monkeypatch.setattr(neighbours, "ENTRIES", entries)
    assert prdc(real, fake, 3) == pytest.approx(expected, abs=1e-12)
    # Nothing decided by products at all: every pair in reach is measured again.
    monkeypatch.setattr(neighbours, "UNDECIDED", 2.0)
    monkeypatch.setattr(
        neighbours, "_error", lambda a, b, dtype: 1e3 + 0 * a.right(dtype)[:, 0].double()
    )
    assert prdc(real, fake, 3) == pytest.approx(expected, abs=1e-12)


def test_a_tight_cluster_far_away_is_told_apart():
    """Distances of 1e-4 beside lengths of 1e3: below the resolution of single precision."""
    real, fake = draw(120, 4, 1) * 1e-4 + 1e3, draw(120, 4, 2) * 1e-4 + 1e3
    real[:3] -= 2e3
    inside = by_neighbours(real, fake, 5)
    assert prdc(real, fake) == pytest.approx(inside, abs=1e-12)
    assert 0.1 < inside["precision"] < 1


@pytest.mark.parametrize("far", [1e8, 1e10, 1e12])
@pytest.mark.parametrize("entries", [500, 2**21])
def test_one_row_very_far_away_leaves_the_scores_right(monkeypatch, far, entries):
    """Beside it, products of the other rows have no digit left in double precision either."""
    monkeypatch.setattr(neighbours, "ENTRIES", entries)
    real, fake = draw(150, 6, 1), draw(120, 6, 2)
    real[0] = far
    assert prdc(real, fake) == pytest.approx(by_neighbours(real, fake, 5), abs=1e-12)
    fake[7], real[0] = -far, 0.5
    assert prdc(real, fake) == pytest.approx(by_neighbours(real, fake, 5), abs=1e-12)
    shuffled = torch.randperm(150, generator=torch.Generator().manual_seed(3))
    assert prdc(real[shuffled], fake) == pytest.approx(by_neighbours(real, fake, 5), abs=1e-12)


def test_copies_of_one_row_are_settled_without_a_closer_look(monkeypatch):
    monkeypatch.setattr(neighbours, "_radii_by_differences", None)
    monkeypatch.setattr(neighbours, "_nearest_doubly", None)
    assert prdc(draw(50, 3, 1), torch.ones(60, 3).double(), 3)["recall"] == 0.0


SINGLE = """
import torch
from course_lib.metrics.neighbours import _single_precision

cpu, gpu, backends = torch.device("cpu"), torch.device("cuda"), torch.backends
look = lambda: _single_precision(gpu)
assert look()
torch.set_float32_matmul_precision("high")
assert not look() and _single_precision(cpu)
torch.set_float32_matmul_precision("highest")
assert look()
if hasattr(backends, "fp32_precision"):
    backends.cuda.matmul.fp32_precision = "none"
    assert look()
    backends.fp32_precision = "tf32"
    assert not look() and _single_precision(cpu)
    backends.cuda.matmul.fp32_precision = "ieee"
    assert look()
    backends.fp32_precision = "ieee"
    backends.cuda.matmul.fp32_precision = "tf32"
    assert not look()
"""


def test_either_name_of_the_tf32_setting_is_understood():
    """torch refuses to read the older name once the newer one was used; so in a process apart."""
    done = subprocess.run([sys.executable, "-c", SINGLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def by_neighbours(real, fake, k):
    """Differences squared and summed, in double precision."""
    d = (real[:, None] - fake[None]).square().sum(2)
    r = (real[:, None] - real[None]).square().sum(2).sort(1).values[:, k]
    f = (fake[:, None] - fake[None]).square().sum(2).sort(1).values[:, k]
    inside = d < r[:, None]
    return {
        "precision": float(inside.any(0).double().mean()),
        "recall": float((d < f).any(1).double().mean()),
        "density": float(inside.double().sum(0).mean()) / k,
        "coverage": float(inside.any(1).double().mean()),
    }


def test_rounded_products_are_not_taken_for_exact_ones(monkeypatch):
    """Where float32 products are a setting (on a GPU), only full ones may decide."""
    real, fake = torch.relu(draw(300, 16, 1)), torch.relu(draw(300, 16, 2))
    expected = prdc(real, fake)

    def rounded(a, b, out=None):
        if a.dtype == torch.float32:
            a, b = a.bfloat16().float(), b.bfloat16().float()
        product = a @ b
        return product if out is None else out.copy_(product)

    monkeypatch.setattr(neighbours, "times", rounded)
    monkeypatch.setattr(neighbours, "_single_precision", lambda device: False)
    assert prdc(real, fake) == expected


def test_copies_and_collapse():
    real = draw(80, 4, 1)
    same = prdc(real, real.clone(), 3)
    assert (same["precision"], same["recall"], same["coverage"]) == (1.0, 1.0, 1.0)
    assert same["density"] == pytest.approx(1.0), "itself and k - 1 others: the k-th is outside"
    collapsed = prdc(real, real[:1].expand(50, -1), 3)
    assert collapsed["precision"] == 1.0
    assert collapsed["recall"] == 0.0, "balls of radius 0 hold nothing"
    assert collapsed["coverage"] < 0.2
    far = prdc(real, real + 100, 3)
    assert far == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_roles_swap():
    a, b = draw(120, 5, 1), draw(90, 5, 2) * 1.5
    there, back = prdc(a, b), prdc(b, a)
    assert (there["precision"], there["recall"]) == (back["recall"], back["precision"])


@pytest.mark.parametrize(("n", "m", "k"), [(60, 60, 5), (40, 80, 3)])
def test_expected_coverage_and_density_when_the_laws_agree(n, m, k):
    """A ball is missed if its centre's k nearest of all n - 1 + m others are all real ones."""
    found = [prdc(draw(n, 3, 2 * i), draw(m, 3, 2 * i + 1), k) for i in range(300)]
    missed = Fraction(1)
    for i in range(1, k + 1):
        missed *= Fraction(n - i, m + n - i)
    for name, expected in (("coverage", 1 - float(missed)), ("density", 1.0)):
        values = np.array([f[name] for f in found])
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(300)


def test_radii_equal_those_of_scikit_learn():
    x = torch.relu(draw(300, 20, 1)).float()
    points = neighbours._Points(x, x.double().mean(0), 2.0**-3)
    expected = NearestNeighbors(n_neighbors=5).fit(x.double()).kneighbors()[0][:, 4]
    np.testing.assert_allclose(neighbours._radii(points, 5).sqrt() * 8, expected, rtol=1e-12)


def test_on_features_of_real_images(mirror, monkeypatch):
    from course_lib import data, metrics

    monkeypatch.setenv("COURSE_MIRROR", str(mirror))
    images = data.load("mnist", "test", download=False)
    network = metrics.load_features("mnist")
    real, other = (network(images.images[i : i + 800]).features for i in (0, 800))
    ones = network(images.images[images.labels == 1][:800]).features
    good, dropped = prdc(real, other), prdc(real, ones)
    assert good == pytest.approx(peer(real.double(), other.double(), 5), abs=1e-12)
    assert good["recall"] > 0.5 > dropped["recall"]
    assert dropped["precision"] > 0.5 and dropped["coverage"] < 0.3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((draw(5, 3), draw(9, 3)), "at least 6"),
        ((draw(9, 3), draw(5, 3)), "at least 6"),
        ((draw(9, 3), draw(9, 3), 0), "whole number"),
        ((draw(9, 3), draw(9, 3), 2.5), "whole number"),
        ((draw(9, 3), draw(9, 4)), "columns"),
        ((draw(9, 3), draw(9, 3) / 0), "NaN or infinite"),
        ((draw(9, 3).int(), draw(9, 3)), "overflow"),
    ],
)
def test_refusals(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        prdc(*arguments)
