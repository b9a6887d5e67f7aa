"""Mode coverage by hand, for the true laws, and for the counts that a fair draw must give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, entropy

from course_lib import data
from course_lib.metrics.features import embed
from course_lib.metrics.modes import mode_coverage, stacked_mode_coverage
from course_lib.probability import GaussianMixture, grid, ring


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


CENTRES = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]])


def test_by_hand():
    samples = torch.tensor(
        [[0.0, 0.0], [1.0, 0.0], [0.0, -1.4], [8.0, 1.0], [0.0, 2.0], [4.5, 4.5], [8.0, -100.0]]
    )
    # std 0.5: the first three are good for mode 0, the fourth for mode 1, the rest for none.
    found = mode_coverage(samples, CENTRES, 0.5)
    assert found.counts.tolist() == [3, 1, 0, 0]
    assert (found.covered, found.n_modes, found.n) == (2, 4, 7)
    assert found.high_quality == 4 / 7
    expected = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.25)
    assert found.reverse_kl == pytest.approx(expected, rel=1e-14)
    # With 4 standard deviations the fifth, at exactly 2.0, is on the rim.
    wide = {p: mode_coverage(samples, CENTRES, 0.5, p, within=4.0) for p in ("veegan", "pacgan")}
    assert wide["veegan"].counts.tolist() == [4, 1, 0, 0]
    assert wide["pacgan"].counts.tolist() == [3, 1, 0, 0]
    assert wide["veegan"].reverse_kl is None


def test_the_nearest_mode_is_meant_in_its_own_standard_deviations():
    # 3 from the narrow mode is 3 of its standard deviations; 5 from the wide one is 1.25.
    found = mode_coverage([[3.0]], [[0.0], [8.0]], [1.0, 4.0])
    assert found.counts.tolist() == [0, 1]


def test_a_tie_goes_to_the_first():
    found = mode_coverage([[4.0, 0.0], [4.0, 8.0]], CENTRES, 2.0)
    assert found.counts.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("law", [ring(8, 1.0, 0.01), grid(5, 2.0, 0.05)])
def test_true_samples_in_the_plane(law):
    n = 100_000
    found = mode_coverage(law.sample(n, rng()), law)
    share = 1 - math.exp(-4.5)  # P(chi-square with 2 degrees of freedom <= 9)
    assert found.covered == found.n_modes == len(law.means)
    assert abs(found.high_quality - share) < 4 * math.sqrt(share * (1 - share) / n)
    # 2 n KL follows a chi-square law with k - 1 degrees of freedom.
    statistic = 2 * int(found.counts.sum()) * found.reverse_kl
    assert chi2.ppf(0.001, found.n_modes - 1) < statistic < chi2.ppf(0.999, found.n_modes - 1)


def test_other_dimensions():
    line = GaussianMixture([-3.0, 3.0], 0.5, [0.25, 0.75])
    x = line.sample(50_000, rng())
    found = mode_coverage(x, line)
    assert found.high_quality == pytest.approx(math.erf(3 / math.sqrt(2)), abs=1e-3)
    assert 2 * 50_000 * found.reverse_kl < chi2.ppf(0.999, 1)
    assert found.counts.tolist() == mode_coverage(x[:, None], line).counts.tolist()
    many = GaussianMixture(20.0 * torch.eye(6, 40), 1.0)
    found = mode_coverage(many.sample(4000, rng()), many, within=7.0)
    assert found.high_quality == pytest.approx(chi2.cdf(49, 40), abs=0.03)
    assert found.covered == 6


def test_one_mode_only_and_no_mode_at_all():
    law = grid(5, 2.0, 0.05)
    found = mode_coverage(law.means[7].repeat(100, 1), law)
    assert (found.covered, found.high_quality) == (1, 1.0)
    assert found.reverse_kl == pytest.approx(math.log(25), rel=1e-12)
    nowhere = mode_coverage(torch.full((100, 2), 50.0), law)
    assert (nowhere.covered, nowhere.high_quality) == (0, 0.0)
    assert math.isnan(nowhere.reverse_kl)


@given(st.integers(0, 1000), st.integers(1, 200))
def test_the_order_of_samples_and_modes_does_not_matter(seed, n):
    g = rng(seed)
    samples, weights = 10 * torch.rand(n, 2, generator=g), torch.rand(4, generator=g) + 0.01
    found = mode_coverage(samples, CENTRES, 1.0, weights=weights)
    order = torch.randperm(4, generator=g)
    other = mode_coverage(
        samples.double().flip(0).numpy(), CENTRES[order], 1.0, weights=weights[order]
    )
    assert other.counts.tolist() == found.counts[order].tolist()
    assert other[:3] == found[:3]
    assert found.counts.sum() == found.high_quality * n
    if found.covered:
        reference = entropy(found.counts.numpy(), weights.double().numpy())
        assert found.reverse_kl == pytest.approx(reference, rel=1e-9, abs=1e-12)
        assert other.reverse_kl == pytest.approx(found.reverse_kl, rel=1e-9, abs=1e-12)


def test_a_mode_without_weight_makes_the_divergence_infinite():
    assert mode_coverage(CENTRES, CENTRES, 1.0, weights=[1, 1, 1, 0]).reverse_kl == math.inf
    assert mode_coverage(CENTRES[:3], CENTRES, 1.0, weights=[1, 1, 1, 0]).reverse_kl == 0.0


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
def test_stacked_digits_by_hand(kind):
    labels = np.array([[0, 0, 1], [0, 0, 1], [9, 9, 9], [2, 5, 5]], dtype=kind)
    found = stacked_mode_coverage(labels)
    assert found.counts.nonzero().flatten().tolist() == [1, 255, 999]  # nothing overflows
    assert (found.covered, found.n_modes, found.n, found.high_quality) == (3, 1000, 4, None)
    expected = 0.5 * math.log(500) + 0.5 * math.log(250)
    assert found.reverse_kl == pytest.approx(expected, rel=1e-12)
    again = stacked_mode_coverage([1, 1, 999, 255], np.int64(1000))
    assert again.counts.tolist() == found.counts.tolist()


def test_the_range_of_the_divergence():
    assert stacked_mode_coverage(torch.arange(1000)).reverse_kl == pytest.approx(0, abs=1e-12)
    one = stacked_mode_coverage(torch.full((26_000,), 123))
    assert one.reverse_kl == pytest.approx(math.log(1000), rel=1e-12)
    assert round(one.reverse_kl, 3) == 6.908
    # Evenly over m of 1000 modes it is ln(1000/m).
    assert stacked_mode_coverage(torch.arange(50)).reverse_kl == pytest.approx(math.log(20))
    assert stacked_mode_coverage([[1, 0], [0, 1]], 4).counts.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("n", [300, 1000, 5000, 26_000])
def test_a_fair_draw_covers_what_the_coupon_collector_says(n):
    runs = 40
    found = [
        stacked_mode_coverage(torch.randint(10, (n, 3), generator=rng(i))) for i in range(runs)
    ]
    covered = np.array([one.covered for one in found])
    empty = (1 - 1 / 1000) ** n
    expected = 1000 * (1 - empty)
    # Variance of the number of empty boxes.
    variance = 1000 * empty + 1000 * 999 * (1 - 2 / 1000) ** n - (1000 * empty) ** 2
    assert abs(covered.mean() - expected) <= 4 * math.sqrt(variance / runs) + 1e-6
    if n == 26_000:  # the floor of a perfect generator: (k - 1) / 2n, variance (k - 1) / 2n²
        kl = np.array([one.reverse_kl for one in found])
        assert (covered == 1000).all()
        assert abs(kl.mean() - 999 / 52_000) < 4 * math.sqrt(999 / 2 / runs) / 26_000 + 1e-4


def test_a_classifier_names_stacked_digits_of_mnist(mirror):
    test = data.load("mnist", "test", mirror=mirror, download=False)
    chosen = torch.randperm(len(test), generator=rng())[:900]
    truth = test.labels[chosen].view(300, 3)
    stacked = test.images[chosen].view(300, 3, 28, 28)
    seen = embed(stacked.flatten(0, 1)[:, None], "mnist").probabilities.argmax(1).view(300, 3)
    wrong = int((seen != truth).any(1).sum())
    assert wrong <= 12  # a digit is misread less than once in a hundred times
    found, true = stacked_mode_coverage(seen), stacked_mode_coverage(truth)
    assert found.n == true.n == 300
    # A sample taken for another class moves one count down and one up.
    assert int((found.counts - true.counts).abs().sum()) <= 2 * wrong
    assert abs(found.covered - true.covered) <= wrong
    empty = 0.999**300
    spread = math.sqrt(1000 * empty + 1000 * 999 * 0.998**300 - (1000 * empty) ** 2)
    assert abs(found.covered - 1000 * (1 - empty)) < 4 * spread + wrong
    # A generator of one triple only.
    one = embed(stacked[:1].expand(300, -1, -1, -1).flatten(0, 1)[:, None], "mnist")
    collapsed = stacked_mode_coverage(one.probabilities.argmax(1).view(300, 3))
    assert collapsed.covered == 1
    assert collapsed.reverse_kl == pytest.approx(math.log(1000))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"protocol": "gan"}, "choose 'veegan' or 'pacgan'"),
        ({"std": None}, "pass std"),
        ({"std": 0.0}, "std should be one number above 0"),
        ({"std": [1.0, 1.0]}, "or 4, one per mode"),
        ({"within": 0}, "within is 0"),
        ({"within": float("nan")}, "within is nan"),
        ({"within": "a"}, "within is 'a'"),
        ({"centres": CENTRES + 1j}, "centres holds complex numbers"),
        ({"weights": [1, 2, 3]}, "weights should be 4 numbers"),
        ({"weights": [1, 2, 3, -1]}, "weights should be 4 numbers"),
        ({"centres": ring()}, "has its own std"),
        ({"centres": torch.zeros(2, 2, 2)}, r"\[k, d\]"),
        ({"centres": torch.tensor([[0.0, float("nan")]])}, "centres holds 1 NaN"),
        ({"samples": torch.zeros(5, 3)}, "3 coordinates and the centres 2"),
        ({"samples": torch.zeros(5, 2).long()}, "int64"),
        ({"samples": torch.zeros(0, 2)}, r"0 row\(s\)"),
        ({"samples": torch.full((3, 2), float("inf"))}, "NaN or infinite"),
    ],
)
def test_refusals(settings, sentence):
    usual = {"samples": torch.zeros(5, 2), "centres": CENTRES, "std": 1.0}
    with pytest.raises(ValueError, match=sentence):
        mode_coverage(**{**usual, **settings})


@pytest.mark.parametrize(
    ("labels", "settings", "sentence"),
    [
        (torch.zeros(4, 3), {}, r"float32: pass whole numbers.*argmax"),
        (torch.zeros(4, 3).bool(), {}, "bool: pass whole numbers"),
        ([[0, 1, 10]], {}, "between 0 and 9"),
        ([-1, 3], {}, "between 0 and 999"),
        ([[0, 1]], {}, "2 labels per sample cannot name 1000"),
        (torch.zeros(0, 3).long(), {}, "n > 0"),
        (torch.zeros(2, 2, 3).long(), {}, r"\[n, 3\] or \[n\]"),
        (np.array([3, 2**63 + 5], dtype=np.uint64), {}, "between 3 and 9223372036854775813"),
        ([0], {"n_modes": 0}, "n_modes is 0"),
        ([0], {"n_modes": 2.0}, "n_modes is 2.0"),
        ([0], {"n_modes": True}, "n_modes is True"),
        ([0], {"n_modes": None}, "n_modes is None"),
        ([0], {"n_modes": 10**12}, "from 1 to 10000000"),
        ([0], {"weights": [1.0]}, "weights should be 1000"),
    ],
)
def test_refusals_of_labels(labels, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        stacked_mode_coverage(labels, **settings)
