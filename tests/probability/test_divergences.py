"""Divergences against closed forms, scipy, torch.distributions and one another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg, stats

from course_lib import probability as pr

DOUBLE = torch.float64
GRID = torch.linspace(-30.0, 40.0, 20_001, dtype=DOUBLE)
# JSD of N(0,1) and N(m,1), from Goodfellow et al. 2014 Theorem 1 by high-accuracy quadrature.
JSD = {0: 0.0, 0.5: 0.030311, 1: 0.111421, 2: 0.336831, 3: 0.526777, 4: 0.632720, 6: 0.689298}
numbers = st.floats(-3.0, 3.0, allow_nan=False)
quick = settings(deadline=None, max_examples=40)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    factor = torch.randn(d, d, generator=generator(seed), dtype=DOUBLE)
    mean = torch.randn(d, generator=generator(seed + 99), dtype=DOUBLE)
    return mean, factor @ factor.T + 0.05 * torch.eye(d, dtype=DOUBLE)


def rotation(d: int, seed: int) -> torch.Tensor:
    square = torch.randn(d, d, generator=generator(seed), dtype=DOUBLE)
    return torch.linalg.qr(square).Q


# --- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mu, sigma, forward, backward",
    [(1, 1, 0.5, 0.5), (1.5, 0.5, 1.443, 5.307), (0, 0.1, 1.81, 47.2), (0, 0.01, 4.11, 4994.9)],
)
def test_both_directions_of_the_vae_term(mu, sigma, forward, backward) -> None:
    mean = torch.tensor([[mu]], dtype=DOUBLE)
    log_var = torch.tensor([[2 * math.log(sigma)]], dtype=DOUBLE)
    assert float(pr.kl_to_standard_normal(mean, log_var)) == pytest.approx(forward, rel=2e-3)
    assert float(pr.kl_from_standard_normal(mean, log_var)) == pytest.approx(backward, rel=2e-3)


def test_diagonal_kls_agree_with_torch_and_each_other() -> None:
    mu_p, lv_p, mu_q, lv_q = torch.randn(4, 7, 3, generator=generator(), dtype=DOUBLE)
    p = torch.distributions.Normal(mu_p, (lv_p / 2).exp())
    q = torch.distributions.Normal(mu_q, (lv_q / 2).exp())
    unit = torch.distributions.Normal(torch.zeros_like(mu_p), torch.ones_like(mu_p))
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(pr.kl_to_standard_normal(mu_p, lv_p), kl(p, unit).sum(1))
    torch.testing.assert_close(pr.kl_from_standard_normal(mu_p, lv_p), kl(unit, p).sum(1))
    ours = pr.kl_diagonal_gaussians(mu_p, lv_p, mu_q, lv_q)
    torch.testing.assert_close(ours, kl(p, q).sum(1))
    full = pr.kl_gaussians(mu_p[0], lv_p[0].exp().diag(), mu_q[0], lv_q[0].exp().diag())
    torch.testing.assert_close(full, ours[0])


def test_kl_keeps_its_digits_near_zero_in_float32() -> None:
    log_var = torch.full((1, 1), 1e-3)
    value = float(pr.kl_to_standard_normal(torch.zeros(1, 1), log_var))
    assert value == pytest.approx(2.5e-7, rel=2e-3)  # v²/4; e^v - 1 - v in float32 has no digit


def test_kl_sums_over_every_latent_axis() -> None:
    mu, log_var = torch.randn(2, 4, 2, 3, 3, generator=generator())
    flat = pr.kl_to_standard_normal(mu.reshape(4, -1), log_var.reshape(4, -1))
    torch.testing.assert_close(pr.kl_to_standard_normal(mu, log_var), flat)


def test_kl_of_full_gaussians_agrees_with_torch() -> None:
    (a, cov_a), (b, cov_b) = gaussian(4, 1), gaussian(4, 2)
    normal = torch.distributions.MultivariateNormal
    truth = torch.distributions.kl_divergence(normal(a, cov_a), normal(b, cov_b))
    torch.testing.assert_close(pr.kl_gaussians(a, cov_a, b, cov_b), truth, rtol=1e-9, atol=0)


@quick
@given(d=st.integers(1, 5), seed=st.integers(0, 1000), other=st.integers(0, 1000))
def test_kl_properties(d: int, seed: int, other: int) -> None:
    (a, cov_a), (b, cov_b) = gaussian(d, seed), gaussian(d, other)
    kl = pr.kl_gaussians(a, cov_a, b, cov_b)
    assert 0 <= float(pr.kl_gaussians(a, cov_a, a, cov_a)) < 1e-12
    assert seed == other or float(kl) > 1e-6
    turn = rotation(d, seed)
    turned = pr.kl_gaussians(turn @ a, turn @ cov_a @ turn.T, turn @ b, turn @ cov_b @ turn.T)
    assert float(turned) == pytest.approx(float(kl), rel=1e-7, abs=1e-9)


# --- quadrature -------------------------------------------------------------------------------


@pytest.mark.parametrize("m", JSD)
def test_shifted_normals(m: float) -> None:
    p, q = pr.normal(), pr.normal(m)
    assert pr.jensen_shannon_quadrature(p.log_prob, q.log_prob, GRID) == pytest.approx(
        JSD[m], abs=6e-7
    )
    assert pr.kl_quadrature(p.log_prob, q.log_prob, GRID) == pytest.approx(m**2 / 2, abs=1e-10)
    tv = 2 * stats.norm.cdf(m / 2) - 1
    assert pr.total_variation_quadrature(p.log_prob, q.log_prob, GRID) == pytest.approx(
        tv, abs=1e-6
    )
    assert pr.wasserstein_1_quadrature(p.cdf, q.cdf, GRID) == pytest.approx(m, abs=1e-6)


@pytest.mark.parametrize("m, gap", [(4, 6.0e-2), (6, 3.8e-3), (8, 9.4e-5), (10, 8.6e-7)])
def test_jensen_shannon_saturates_at_log_two(m: float, gap: float) -> None:
    value = pr.jensen_shannon_quadrature(pr.normal().log_prob, pr.normal(m).log_prob, GRID)
    assert math.log(2) - value == pytest.approx(gap, rel=2e-2)


@pytest.mark.parametrize("m, slope", [(4, 0.0686), (6, 0.00623), (8, 1.96e-4), (10, 2.2e-6)])
def test_jensen_shannon_gradient_dies(m: float, slope: float) -> None:
    p, h = pr.normal().log_prob, 1e-3
    ends = [pr.jensen_shannon_quadrature(p, pr.normal(m + e).log_prob, GRID) for e in (-h, h)]
    assert (ends[1] - ends[0]) / (2 * h) == pytest.approx(slope, rel=2e-2)


def test_far_tails_do_not_give_nan() -> None:
    grid = torch.linspace(-2000.0, 3000.0, 500_001, dtype=DOUBLE)
    p, q = pr.normal().log_prob, pr.normal(1000.0).log_prob
    assert pr.jensen_shannon_quadrature(p, q, grid) == pytest.approx(math.log(2), abs=1e-12)
    assert pr.kl_quadrature(p, q, grid) == pytest.approx(500_000.0, rel=1e-12)
    assert pr.total_variation_quadrature(p, q, grid) == pytest.approx(1.0, abs=1e-12)


def test_disjoint_and_partial_supports() -> None:
    grid = torch.linspace(-1.0, 4.0, 50_001, dtype=DOUBLE)
    p, q, half = (pr.uniform(*ends).log_prob for ends in ((0.0, 1.0), (2.0, 3.0), (0.0, 2.0)))
    assert pr.kl_quadrature(p, q, grid) == math.inf == pr.kl_quadrature(half, p, grid)
    assert pr.kl_quadrature(p, half, grid) == pytest.approx(math.log(2), abs=2e-4)
    assert pr.jensen_shannon_quadrature(p, q, grid) == pytest.approx(math.log(2), abs=2e-4)
    assert pr.total_variation_quadrature(p, half, grid) == pytest.approx(0.5, abs=2e-4)


def test_quadrature_against_scipy() -> None:
    p, q = pr.laplace(0.0, 1.0), pr.logistic(0.5, 0.8)
    a, b = stats.laplace(0.0, 1.0), stats.logistic(0.5, 0.8)
    kl, _ = integrate.quad(lambda x: a.pdf(x) * (a.logpdf(x) - b.logpdf(x)), -40, 40, points=[0.0])
    assert pr.kl_quadrature(p.log_prob, q.log_prob, GRID) == pytest.approx(kl, abs=1e-5)
    u = np.arange(0.5, 2e5) / 2e5
    w1 = stats.wasserstein_distance(a.ppf(u), b.ppf(u))
    assert pr.wasserstein_1_quadrature(p.cdf, q.cdf, GRID) == pytest.approx(w1, abs=1e-4)


@quick
@given(a=numbers, b=numbers, s=st.floats(0.3, 2.0), t=st.floats(0.3, 2.0))
def test_divergence_properties(a: float, b: float, s: float, t: float) -> None:
    grid = torch.linspace(-25.0, 25.0, 5001, dtype=DOUBLE)
    p, q = pr.normal(a, s).log_prob, pr.normal(b, t).log_prob
    jsd, tv = pr.jensen_shannon_quadrature(p, q, grid), pr.total_variation_quadrature(p, q, grid)
    assert jsd == pytest.approx(pr.jensen_shannon_quadrature(q, p, grid), abs=1e-14)
    assert 0 <= jsd <= math.log(2) + 1e-12 and 0 <= tv <= 1 + 1e-12
    assert jsd <= math.log(2) * tv + 1e-10  # Lin 1991
    kl = pr.kl_quadrature(p, q, grid)
    assert kl >= 2 * tv**2 - 1e-9  # Pinsker
    closed = math.log(t / s) + (s**2 + (a - b) ** 2) / (2 * t**2) - 0.5
    assert kl == pytest.approx(closed, abs=1e-9, rel=1e-9)
    assert pr.kl_quadrature(p, p, grid) == 0.0 == pr.jensen_shannon_quadrature(p, p, grid)


# --- Monte Carlo ------------------------------------------------------------------------------

MONTE_CARLO = [
    (pr.kl_monte_carlo, pr.kl_quadrature),
    (pr.jensen_shannon_monte_carlo, pr.jensen_shannon_quadrature),
    (pr.total_variation_monte_carlo, pr.total_variation_quadrature),
]


@pytest.mark.parametrize("sampled, exact", MONTE_CARLO)
def test_monte_carlo_within_four_standard_errors(sampled, exact) -> None:
    p = pr.GaussianMixture([-1.0, 2.0], [0.7, 1.0])
    for i, q in enumerate((pr.normal(0.5, 2.0), pr.logistic(0.0, 1.0), pr.normal(4.0))):
        truth = exact(p.log_prob, q.log_prob, GRID)
        value, error = sampled(p, q, 20_000, generator(i))
        assert abs(value - truth) < 4 * error
        assert (value, error) == sampled(p, q, 20_000, generator(i))


@pytest.mark.parametrize("sampled, exact", MONTE_CARLO)
def test_standard_errors_are_calibrated(sampled, exact) -> None:
    """Over 400 repetitions the z-scores have mean 0 and spread 1 (4 sigma: ±0.2, ±0.15)."""
    p, q = pr.normal(), pr.normal(1.0, 1.2)
    truth = exact(p.log_prob, q.log_prob, GRID)
    runs = [sampled(p, q, 400, generator(seed)) for seed in range(400)]
    z = np.array([(run.value - truth) / run.standard_error for run in runs])
    assert abs(z.mean()) < 0.2 and abs(z.std() - 1) < 0.15


def test_monte_carlo_in_several_dimensions() -> None:
    weight = torch.randn(3, 1, generator=generator(), dtype=DOUBLE)
    p = pr.LinearGaussian(weight, torch.zeros(3), 1.0)
    q = pr.LinearGaussian(0.5 * weight, torch.ones(3), 1.3)
    truth = float(pr.kl_gaussians(p.bias, p.covariance, q.bias, q.covariance))
    estimate = pr.kl_monte_carlo(p, q, 20_000, generator(1))
    assert abs(estimate.value - truth) < 4 * estimate.standard_error
    assert pr.jensen_shannon_monte_carlo(p, p, 100, generator()).value == 0.0


def test_monte_carlo_on_disjoint_supports() -> None:
    p, q = pr.uniform(0.0, 0.7), pr.uniform(2.0, 3.0)
    assert pr.kl_monte_carlo(p, q, 100, generator()) == (math.inf, 0.0)
    assert pr.jensen_shannon_monte_carlo(p, q, 100, generator())[0] == pytest.approx(math.log(2))
    assert pr.total_variation_monte_carlo(p, q, 100, generator())[0] == 1.0


# --- Wasserstein ------------------------------------------------------------------------------


@quick
@given(
    a=st.lists(numbers, min_size=1, max_size=30),
    b=st.lists(numbers, min_size=1, max_size=30),
    shift=numbers,
)
def test_wasserstein_1_agrees_with_scipy(a: list, b: list, shift: float) -> None:
    x, y = torch.tensor(a, dtype=DOUBLE), torch.tensor(b, dtype=DOUBLE)
    truth = stats.wasserstein_distance(a, b)
    assert pr.wasserstein_1(x, y) == pytest.approx(truth, abs=1e-12)
    assert pr.wasserstein_1(y, x) == pytest.approx(truth, abs=1e-12)
    assert pr.wasserstein_1(x + shift, y + shift) == pytest.approx(truth, abs=1e-12)
    assert pr.wasserstein_1(x, x + shift) == pytest.approx(abs(shift), abs=1e-12)
    assert pr.wasserstein_1(x, x.flip(0)) == 0.0


@quick
@given(d=st.integers(1, 5), seed=st.integers(0, 1000), other=st.integers(0, 1000))
def test_wasserstein_2_properties(d: int, seed: int, other: int) -> None:
    (a, cov_a), (b, cov_b) = gaussian(d, seed), gaussian(d, other)
    distance = pr.wasserstein_2_gaussians(a, cov_a, b, cov_b)
    root = linalg.sqrtm(linalg.sqrtm(cov_a.numpy()) @ cov_b.numpy() @ linalg.sqrtm(cov_a.numpy()))
    square = float((a - b).square().sum() + torch.trace(cov_a + cov_b)) - 2 * np.trace(root).real
    assert distance**2 == pytest.approx(square, rel=1e-6, abs=1e-6)
    assert distance == pytest.approx(pr.wasserstein_2_gaussians(b, cov_b, a, cov_a), abs=1e-10)
    turn = rotation(d, other)
    turned = (turn @ a, turn @ cov_a @ turn.T, turn @ b, turn @ cov_b @ turn.T)
    assert pr.wasserstein_2_gaussians(*turned) == pytest.approx(distance, abs=1e-9)
    assert 0 <= pr.wasserstein_2_gaussians(a, cov_a, a, cov_a) < 1e-12


def test_wasserstein_2_known_values() -> None:
    one = torch.ones(1)
    # N(0,1) against N(1,4): (1 - 0)² + (2 - 1)² = 2, the Fréchet distance of two Gaussians.
    value = pr.wasserstein_2_gaussians(0 * one, one.diag(), one, 4 * one.diag())
    assert value**2 == pytest.approx(2.0, rel=1e-14)
    line = torch.tensor([[1.0, 1.0], [1.0, 1.0]])  # singular: a segment of a line
    assert pr.wasserstein_2_gaussians(torch.zeros(2), line, torch.zeros(2), 0 * line) == (
        pytest.approx(math.sqrt(2.0))
    )
    a, b = gaussian(3, 1), gaussian(3, 2)
    assert pr.wasserstein_2_gaussians(*a, *b) >= float((a[0] - b[0]).norm())


@pytest.mark.parametrize(("d", "rank"), [(3, 1), (5, 2), (100, 30)])
def test_equal_singular_gaussians_are_at_distance_zero(d: int, rank: int) -> None:
    """eigh makes 1e-17 of an eigenvalue 0, and the root of that is 1e-8."""
    factor = torch.randn(d, rank, generator=generator(d), dtype=DOUBLE)
    cov, mean = factor @ factor.T, torch.zeros(d)
    assert pr.wasserstein_2_gaussians(mean, cov, mean, cov) < 1e-13 * float(cov.trace()) ** 0.5
    # Twice the spread in all directions: the plane moves by as much as it was wide.
    wider = pr.wasserstein_2_gaussians(mean, cov, mean, 4 * cov)
    assert wider == pytest.approx(float(cov.trace()) ** 0.5, rel=1e-12)


# --- MMD --------------------------------------------------------------------------------------


def brute_force_mmd(a: torch.Tensor, b: torch.Tensor, bandwidth: float) -> float:
    def k(x, y):
        return math.exp(-float((x - y).square().sum()) / (2 * bandwidth**2))

    def within(s):
        pairs = [k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]
        return sum(pairs) / len(pairs)

    return within(a) + within(b) - 2 * float(np.mean([k(x, y) for x in a for y in b]))


def exact_mmd(shift: float, d: int, bandwidth: float) -> float:
    """MMD² of N(0, I) and N(shift·e_1, I): 2 (h²/(h²+2))^{d/2} (1 - exp(-shift²/(2(h²+2))))."""
    scale = bandwidth**2 + 2
    return 2 * (bandwidth**2 / scale) ** (d / 2) * (1 - math.exp(-(shift**2) / 2 / scale))


def test_mmd_by_brute_force_and_invariances() -> None:
    a = torch.randn(9, 2, generator=generator(), dtype=DOUBLE)
    b = 1 + torch.randn(6, 2, generator=generator(1), dtype=DOUBLE)
    value, error = pr.mmd_squared(a, b, 0.8)
    assert value == pytest.approx(brute_force_mmd(a, b, 0.8), abs=1e-12)
    turn = rotation(2, 3)
    for other in (pr.mmd_squared(b, a, 0.8), pr.mmd_squared(a @ turn + 5, b @ turn + 5, 0.8)):
        assert other == (pytest.approx(value, abs=1e-12), pytest.approx(error, abs=1e-12))
    median = float(np.median(torch.pdist(torch.cat([a, b])).numpy()))
    assert pr.mmd_squared(a, b) == pytest.approx(pr.mmd_squared(a, b, median))
    # The median heuristic makes the answer free of units.
    assert pr.mmd_squared(1000 * a, 1000 * b) == pytest.approx(pr.mmd_squared(a, b))


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 3.0])
def test_mmd_is_unbiased_and_its_error_calibrated(shift: float) -> None:
    """For equal laws (a degenerate U-statistic) as well as for different ones."""
    runs = []
    for seed in range(400):
        g = generator(seed)
        a = torch.randn(50, 2, generator=g)
        b = torch.randn(70, 2, generator=g) + torch.tensor([shift, 0.0])
        runs.append(pr.mmd_squared(a, b, 1.0))
    values, errors = np.array(runs).T
    truth = exact_mmd(shift, 2, 1.0)
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    # Equal laws: the error may be too large by a third, as documented, never too small.
    assert 0.85 < np.sqrt((errors**2).mean()) / values.std() < (1.35 if shift == 0 else 1.15)
    assert np.mean(np.abs(values - truth) > 4 * errors) < 0.02


@pytest.mark.parametrize("small", [1e-10, 1e-13, 1e-15])
def test_equal_gaussians_with_an_eigenvalue_near_zero_are_near(small: float) -> None:
    for d in (6, 40):
        axes = torch.linalg.qr(torch.randn(d, d, generator=generator(d), dtype=DOUBLE))[0]
        values = torch.logspace(0, math.log10(small), d, dtype=DOUBLE)
        cov, mean = (axes * values) @ axes.T, torch.zeros(d)
        cov = (cov + cov.T) / 2
        assert pr.wasserstein_2_gaussians(mean, cov, mean, cov) < 1e-9 * float(cov.trace()) ** 0.5


@pytest.mark.parametrize(
    ("rows", "low", "high"), [(4, 1.35, 1.75), (6, 1.25, 1.5), (10, 1.15, 1.4)]
)
def test_error_of_the_mmd_of_few_rows_is_as_far_too_large_as_documented(rows, low, high) -> None:
    g, runs = generator(), []
    for _ in range(1500):
        a, b = (torch.randn(n, 2, generator=g, dtype=DOUBLE) for n in (rows, 30))
        runs.append(pr.mmd_squared(a, b, 1.0))
    values, errors = np.array(runs).T
    assert low < np.sqrt((errors**2).mean()) / values.std() < high


# --- refusals ---------------------------------------------------------------------------------

NORMAL = pr.normal().log_prob
COARSE = torch.linspace(-3, 3, 50)
ONE, EYE = torch.zeros(2), torch.eye(2)
BAD = {
    "one shape": lambda: pr.kl_to_standard_normal(torch.zeros(3), torch.zeros(3)),
    "All parameters": lambda: pr.kl_from_standard_normal(torch.zeros(3, 2), torch.zeros(3, 1)),
    "have one shape": lambda: pr.kl_diagonal_gaussians(*[torch.zeros(3, 2)] * 3, torch.zeros(2)),
    "cov_p is not symmetric": lambda: pr.kl_gaussians(ONE, EYE + EYE.roll(1, 0).triu(), ONE, EYE),
    "cov_q is not positive definite": lambda: pr.kl_gaussians(ONE, EYE, ONE, 0 * EYE),
    r"not \[d\] and \[d, d\]": lambda: pr.kl_gaussians(ONE, torch.ones(2), ONE, EYE),
    "not the same d": lambda: pr.kl_gaussians(ONE, EYE, torch.zeros(3), torch.eye(3)),
    "must be finite": lambda: pr.kl_gaussians(ONE * math.nan, EYE, ONE, EYE),
    "mass 0.997": lambda: pr.kl_quadrature(NORMAL, NORMAL, COARSE),
    r"exp\(log_q\) has mass": lambda: pr.jensen_shannon_quadrature(
        NORMAL, lambda x: NORMAL(x) + 0.01, GRID
    ),
    "has mass 1.596": lambda: pr.total_variation_quadrature(
        NORMAL, pr.normal(0, 0.25).log_prob, torch.arange(-8.0, 8.1)
    ),
    "increasing order": lambda: pr.kl_quadrature(NORMAL, NORMAL, COARSE.flip(0)),
    "one number, not NaN": lambda: pr.kl_quadrature(NORMAL, lambda x: x * math.nan, GRID),
    "for each point": lambda: pr.kl_quadrature(NORMAL, lambda x: x[:3], GRID),
    "n is 1": lambda: pr.kl_monte_carlo(pr.normal(), pr.normal(), 1),
    "last axis": lambda: pr.kl_monte_carlo(pr.normal(), pr.ring(), 5),
    "share one space": lambda: pr.kl_monte_carlo(pr.ring(), pr.normal(), 5),
    r"samples_a must be \[n\]": lambda: pr.wasserstein_1(torch.zeros(3, 1), torch.zeros(3)),
    "samples_b must be": lambda: pr.wasserstein_1(torch.zeros(3), torch.zeros(0)),
    "widen grid": lambda: pr.wasserstein_1_quadrature(pr.cauchy(0, 1).cdf, pr.normal().cdf, GRID),
    "not a CDF": lambda: pr.wasserstein_1_quadrature(pr.normal().pdf, pr.normal().cdf, GRID),
    "negative eigenvalue": lambda: pr.wasserstein_2_gaussians(ONE, -EYE, ONE, EYE),
    r"not \[n, d\] and \[m, d\]": lambda: pr.mmd_squared(torch.zeros(9, 2), torch.zeros(9, 3)),
    "at least 4 each": lambda: pr.mmd_squared(torch.zeros(9, 2), torch.zeros(3, 2)),
    "bandwidth is 0": lambda: pr.mmd_squared(torch.zeros(9, 2), torch.zeros(9, 2)),
    "bandwidth is -1": lambda: pr.mmd_squared(torch.randn(9, 2), torch.randn(9, 2), -1.0),
    "a and b must be finite": lambda: pr.mmd_squared(
        torch.randn(9, 2), torch.full((9, 2), math.inf)
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_refused(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BAD[sentence]()


def test_an_object_instead_of_its_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"pass p.log_prob or p.cdf"):
        pr.kl_quadrature(pr.normal(), pr.normal().log_prob, GRID)


def test_integer_means_keep_the_fraction_of_the_divergence():
    found = pr.kl_gaussians(torch.tensor([0, 0]), torch.eye(2), torch.tensor([1, 0]), torch.eye(2))
    assert found.item() == pytest.approx(0.5, rel=1e-12)


def test_rounded_masses_take_no_divergence_over_its_bound():
    grid = torch.linspace(-1, 5, 38, dtype=torch.float64)
    laws = [lambda x, m=m: torch.distributions.Normal(m, 0.1).log_prob(x) for m in (0.0, 4.0)]
    assert 0.99 < pr.total_variation_quadrature(*laws, grid) <= 1.0
    assert 0.69 < pr.jensen_shannon_quadrature(*laws, grid) <= math.log(2)
