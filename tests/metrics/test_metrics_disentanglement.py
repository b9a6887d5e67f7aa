"""The mutual information gap: hand-made tables, scikit-learn, quadrature, invariances."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from course_lib.metrics.disentanglement import mutual_information_gap

LEVELS = (2, 3, 4)


def design(copies=5):
    """Every combination of levels equally often: the factors are exactly independent, [120, 3]."""
    return torch.tensor(list(itertools.product(*map(range, LEVELS)))).repeat(copies, 1)


def noisy_codes(seed=0, n=700, d=4):
    g = torch.Generator().manual_seed(seed)
    v = torch.stack([torch.randint(0, levels, (n,), generator=g) for levels in LEVELS], 1)
    z = torch.randn(n, d, generator=g, dtype=torch.float64)
    z[:, :3] += v * torch.tensor([2.0, 1.0, 0.3])
    return z, v


@pytest.mark.parametrize("options", [{}, {"bins": None}, {"bins": 4, "binning": "equal-count"}])
def test_codes_that_are_the_factors_score_one(options):
    v = design()
    codes = torch.stack([7.0 - 3.0 * v[:, 2], v[:, 0], 1e-3 * v[:, 1] + 5.0], 1).double()
    result = mutual_information_gap(codes, v, **options)
    assert result.gap == pytest.approx(1.0, abs=1e-12)
    entropies = torch.tensor([math.log(n) for n in LEVELS], dtype=torch.float64)
    torch.testing.assert_close(result.entropies, entropies)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[1, 0], expected[2, 1], expected[0, 2] = entropies
    torch.testing.assert_close(result.mutual_information, expected)


def test_a_factor_that_two_codes_know_has_no_gap():
    v = design()
    codes = torch.cat([v, -2 * v[:, :1]], 1).double()
    result = mutual_information_gap(codes, v)
    assert result.gaps.tolist() == pytest.approx([0.0, 1.0, 1.0], abs=1e-12)
    assert result.gap == pytest.approx(2 / 3)


def test_a_table_computed_by_hand():
    # Code 0 agrees with the factor in 6 of 8 rows; code 1 in 4 of 8, as often as by chance.
    v = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    codes = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0], [0, 0, 1, 1, 0, 0, 1, 1]]).T.double()
    result = mutual_information_gap(codes, v)
    known = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert result.mutual_information[:, 0].tolist() == pytest.approx([known, 0.0], abs=1e-15)
    assert result.gap == pytest.approx(known / math.log(2))


@pytest.mark.parametrize("binning", ["equal-width", "equal-count"])
@pytest.mark.parametrize("bins", [2, 7, 20])
def test_mutual_information_agrees_with_scikit_learn(binning, bins):
    z, v = noisy_codes()
    found = mutual_information_gap(z, v, bins=bins, binning=binning).mutual_information
    for j, k in itertools.product(range(z.shape[1]), range(v.shape[1])):
        code = z[:, j].numpy()
        if binning == "equal-width":
            labels = np.digitize(code, np.histogram(code, bins)[1][:-1])
        else:
            labels = np.digitize(code, np.quantile(code, np.arange(1, bins) / bins))
        expected = mutual_info_score(labels, v[:, k].numpy())
        # Quantiles interpolate, so that a few codes beside a border may change their bin.
        tolerance = 1e-10 if binning == "equal-width" else 0.02
        assert float(found[j, k]) == pytest.approx(expected, abs=tolerance)


def test_equal_count_bins_are_equally_full_and_see_only_the_order():
    z, v = noisy_codes()
    options = {"bins": 10, "binning": "equal-count"}
    base = mutual_information_gap(z, v, **options)
    curved = mutual_information_gap(z.exp(), v, **options)
    assert torch.equal(base.mutual_information, curved.mutual_information)
    # As factor, the rank in tenths: the bins are these tenths, and all of the factor is known.
    tenths = z[:, 0].argsort().argsort() * 10 // len(z)
    result = mutual_information_gap(z, tenths, **options)
    assert float(result.mutual_information[0, 0]) == pytest.approx(math.log(10))


def test_continuous_codes_without_bins_know_everything_in_memory_of_order_n():
    """Every value is a bin of its own, and n² pairs of labels (80 GB of counts) are possible."""
    n = 100_000
    codes = torch.rand(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    codes = codes.argsort(0).double() + 0.5  # no value twice
    result = mutual_information_gap(codes, torch.arange(n), bins=None)
    known = torch.full((2, 1), math.log(n), dtype=torch.float64)
    torch.testing.assert_close(result.mutual_information, known)
    assert result.gap == pytest.approx(0.0, abs=1e-12)


def test_noise_has_the_bias_of_a_plug_in_estimate_and_no_gap():
    n, bins, levels, repeats = 2000, 10, 4, 60
    g = torch.Generator().manual_seed(3)
    found, gaps = [], []
    for _ in range(repeats):
        codes = torch.randn(n, 3, generator=g)
        factor = torch.randint(0, levels, (n,), generator=g)
        result = mutual_information_gap(codes, factor, bins=bins, binning="equal-count")
        found.append(result.mutual_information)
        gaps.append(result.gap)
    found = torch.stack(found).flatten()
    bias = (bins - 1) * (levels - 1) / (2 * n)
    # 2 n I is chi-squared, to first order; 1 % for what the second order adds.
    error = 4 * float(found.std()) / math.sqrt(len(found)) + 0.01 * bias
    assert float(found.mean()) == pytest.approx(bias, abs=error)
    assert 0 <= min(gaps) and max(gaps) < 6 * bias


@given(
    st.permutations(range(4)),
    st.lists(st.floats(0.01, 100), min_size=4, max_size=4),
    st.lists(st.sampled_from([-1.0, 1.0]), min_size=4, max_size=4),
    st.lists(st.floats(-50, 50), min_size=4, max_size=4),
)
def test_order_scale_sign_and_offset_of_codes_do_not_matter(order, scales, signs, offsets):
    z, v = noisy_codes()
    base = mutual_information_gap(z, v)
    moved = z[:, order] * torch.tensor(scales) * torch.tensor(signs) + torch.tensor(offsets)
    result = mutual_information_gap(moved, v)
    torch.testing.assert_close(result.mutual_information, base.mutual_information[list(order)])
    torch.testing.assert_close(result.gaps, base.gaps)


@given(st.integers(0, 10**6), st.integers(2, 30), st.sampled_from(["equal-width", "equal-count"]))
def test_bounds(seed, n, binning):
    g = torch.Generator().manual_seed(seed)
    v = torch.cat([torch.tensor([[0, 1]] * 2).T, torch.randint(0, 3, (n, 2), generator=g)])
    z = torch.randn(n + 2, 3, generator=g).round(decimals=1)
    result = mutual_information_gap(z, v, binning=binning)
    assert 0 <= result.gap <= 1
    assert bool((result.mutual_information <= result.entropies + 1e-12).all())
    assert bool((result.mutual_information >= 0).all())


def test_names_of_levels_and_kinds_of_arrays_do_not_matter():
    z, v = noisy_codes()
    base = mutual_information_gap(z, v)
    renamed = torch.tensor([40, -3, 7, 11])[v]
    torch.testing.assert_close(mutual_information_gap(z, v, bins=np.int64(20)), base)
    for codes, factors in ((z.numpy(), v.numpy()), (z, v.float()), (z, renamed), (z, v.byte())):
        torch.testing.assert_close(mutual_information_gap(codes, factors), base)


# ------------------------------------------------------------ the estimate from q(z|x) itself


def test_sharp_posteriors_give_the_table_of_counts():
    v = design()
    codes = torch.cat([v, -2 * v[:, :1]], 1).double()
    log_var = torch.full_like(codes, -20.0)
    exact = mutual_information_gap(codes, v, bins=None)
    sharp = mutual_information_gap(codes, v, log_var=log_var)
    torch.testing.assert_close(sharp, exact)


def test_collapsed_posteriors_know_nothing():
    v = design()
    zeros = torch.zeros(len(v), 2)
    result = mutual_information_gap(zeros, v, log_var=zeros)
    assert float(result.mutual_information.abs().max()) < 1e-12


@pytest.mark.parametrize("log_var", [-2000.0, 800.0])
def test_no_spread_of_a_posterior_is_beyond_the_numbers(log_var):
    v = design()
    codes = torch.cat([v, -2 * v[:, :1]], 1).double()
    result = mutual_information_gap(codes, v, log_var=torch.full_like(codes, log_var))
    assert bool(result.mutual_information.isfinite().all())


def test_overlapping_posteriors_against_quadrature():
    """Two levels at -1 and 1 with sigma 0.8: I = H(z) - H(z|v), by the trapezoid rule."""
    n, sigma = 4000, 0.8
    v = torch.arange(n) % 2
    mu = torch.stack([2.0 * v - 1.0, torch.zeros(n)], 1).double()
    log_var = torch.full_like(mu, 2 * math.log(sigma))
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    given = torch.distributions.Normal(torch.tensor([[-1.0], [1.0]]).double(), sigma)
    p = given.log_prob(grid).exp()
    mixture = p.mean(0)
    exact = float(torch.trapezoid((p * (p.log() - mixture.log())).mean(0), grid))
    spread = float(torch.trapezoid((p * (p.log() - mixture.log()) ** 2).mean(0), grid)) - exact**2

    result = mutual_information_gap(mu, v, log_var=log_var)
    error = 4 * math.sqrt(spread / n)
    assert error < 0.1 * exact
    assert float(result.mutual_information[0, 0]) == pytest.approx(exact, abs=error)
    assert float(result.mutual_information[1, 0]) == pytest.approx(0.0, abs=1e-12)
    assert result.gap == pytest.approx(exact / math.log(2), abs=error / math.log(2))
    assert mutual_information_gap(mu, v, log_var=log_var, generator=0).gap == result.gap
    assert mutual_information_gap(mu, v, log_var=log_var, generator=1).gap != result.gap


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, v: {"factors": torch.zeros_like(v)}, "one level"),
        (lambda z, v: {"factors": v + 0.5}, "fractions"),
        (lambda z, v: {"factors": v / float("nan")}, "NaN"),
        (lambda z, v: {"factors": v[:-1]}, "one row per row"),
        (lambda z, v: {"codes": z[:1], "factors": v[:1]}, "at least 2"),
        (lambda z, v: {"codes": z[:, :1]}, "two codes"),
        (lambda z, v: {"codes": z.log()}, "NaN"),
        (lambda z, v: {"codes": z.long()}, "int64"),
        (lambda z, v: {"bins": 1}, "bins is 1"),
        (lambda z, v: {"bins": 2.0}, "bins is 2.0"),
        (lambda z, v: {"bins": "a"}, "bins is 'a'"),
        (lambda z, v: {"bins": True}, "bins is True"),
        (lambda z, v: {"bins": 1, "log_var": z}, "bins is 1"),
        (lambda z, v: {"binning": "quantile"}, "'equal-width' or 'equal-count'"),
        (lambda z, v: {"binning": "quantile", "log_var": z}, "'equal-width' or 'equal-count'"),
        (lambda z, v: {"binning": "quantile", "bins": None}, "'equal-width' or 'equal-count'"),
        (lambda z, v: {"generator": "a", "log_var": z}, "generator .* is 'a'"),
        (lambda z, v: {"generator": 1.5, "log_var": z}, "generator .* is 1.5"),
        (lambda z, v: {"log_var": z[:, :2]}, "as the encoder returned them"),
    ],
)
def test_refusals(change, message):
    z, v = noisy_codes(n=20)
    with pytest.raises(ValueError, match=message):
        mutual_information_gap(**{"codes": z, "factors": v, **change(z, v)})
