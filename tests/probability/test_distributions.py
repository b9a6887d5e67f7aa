"""Sampling and densities against scipy, numerical integration and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from course_lib import probability as pr

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ONE_DIMENSIONAL = [
    (pr.normal(0.3, 1.7), stats.norm(0.3, 1.7)),
    (pr.uniform(-1.0, 2.5), stats.uniform(-1.0, 3.5)),
    (pr.exponential(2.0), stats.expon(scale=0.5)),
    (pr.laplace(-1.0, 0.7), stats.laplace(-1.0, 0.7)),
    (pr.logistic(0.5, 0.4), stats.logistic(0.5, 0.4)),
    (pr.cauchy(1.0, 0.5), stats.cauchy(1.0, 0.5)),
]
NAMES = [str(ours) for ours, _ in ONE_DIMENSIONAL]
PLANE = {
    "ring": (pr.ring(), 1.6, 0.01),
    "grid": (pr.grid(3, 1.0, 0.2), 2.4, 0.02),
    "moons": (pr.two_moons(0.1), 2.6, 0.04),
    "spiral": (pr.spiral(1.5, 0.1), 2.2, 0.04),
}


@pytest.mark.parametrize("ours, theirs", ONE_DIMENSIONAL, ids=NAMES)
def test_one_dimensional_agrees_with_scipy(ours, theirs) -> None:
    x = torch.linspace(-40.0, 40.0, 803, dtype=DOUBLE)
    u = torch.linspace(1e-6, 1 - 1e-6, 501, dtype=DOUBLE)
    np.testing.assert_allclose(ours.log_prob(x), theirs.logpdf(x.numpy()), rtol=1e-9)
    # torch's softplus drops exp(-20), which the logistic law shows as 2e-9.
    np.testing.assert_allclose(ours.pdf(x), theirs.pdf(x.numpy()), rtol=1e-8)
    np.testing.assert_allclose(ours.cdf(x), theirs.cdf(x.numpy()), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(ours.icdf(u), theirs.ppf(u.numpy()), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("ours, theirs", ONE_DIMENSIONAL, ids=NAMES)
def test_tails_keep_their_digits(ours, theirs) -> None:
    """A probability of 1e-18 is not 0, however it is computed from 1 or 1/2."""
    z = torch.cat([-torch.logspace(0, 2.8, 60, dtype=DOUBLE), torch.logspace(-20, -1, 60).double()])
    for x in (z, 1e17 * z):
        truth = theirs.cdf(x.numpy())
        seen = truth > 1e-300
        # The normal tail magnifies the rounding of x² / 2.
        np.testing.assert_allclose(ours.cdf(x)[seen], truth[seen], rtol=1e-12)
    far = torch.tensor([-25.0, -8.1, 8.9, 60.0], dtype=DOUBLE)
    np.testing.assert_allclose(ours.log_prob(far), theirs.logpdf(far.numpy()), rtol=1e-14)


def test_the_body_of_a_cdf_is_that_of_torch_to_the_bit() -> None:
    """Lectures print rounding errors such as 5.6e-17, which other formulas would change."""
    x = torch.linspace(-1.0, 9.0, 4001, dtype=DOUBLE)
    for ours, theirs in (
        (pr.normal(), torch.distributions.Normal(0.0, 1.0)),
        (pr.laplace(0.0, 1.0), torch.distributions.Laplace(0.0, 1.0)),
        (pr.cauchy(0.0, 1.0), torch.distributions.Cauchy(0.0, 1.0)),
    ):
        assert torch.equal(ours.cdf(x), theirs.cdf(x))
    x = x[x >= 0.1]
    assert torch.equal(pr.exponential(1.0).cdf(x), torch.distributions.Exponential(1.0).cdf(x))


def test_a_mixture_keeps_the_digits_of_its_lower_tail() -> None:
    x = torch.tensor([-20.0, -9.0, -1.0], dtype=DOUBLE)
    truth = 0.5 * (stats.norm.cdf(x, -1, 0.5) + stats.norm.cdf(x, 2, 1.5))
    np.testing.assert_allclose(
        pr.GaussianMixture([-1.0, 2.0], [0.5, 1.5]).cdf(x), truth, rtol=1e-12
    )


def test_the_logistic_law_reaches_from_minus_to_plus_infinity() -> None:
    law = pr.logistic(1.0, 2.0)
    ends = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    assert law.icdf(ends).tolist() == [-math.inf, math.inf]
    assert law.cdf(torch.tensor([-math.inf, math.inf])).tolist() == [0.0, 1.0]
    small = torch.tensor([1e-300, 1e-20], dtype=DOUBLE)
    np.testing.assert_allclose(law.icdf(small), 1 + 2 * np.log(small.numpy()), rtol=1e-14)
    x = torch.tensor([-41.0, 43.0, 47.5, 60.0], dtype=DOUBLE)  # on both sides of softplus' edge
    np.testing.assert_allclose(
        law.log_prob(x), stats.logistic(1, 2).logpdf(x.numpy()), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("ours, theirs", ONE_DIMENSIONAL, ids=NAMES)
def test_one_dimensional_samples(ours, theirs) -> None:
    x = ours.sample(20_000, generator(3))
    assert x.shape == (20_000,) and x.dtype == torch.float32
    assert stats.kstest(x.numpy(), theirs.cdf).pvalue > 1e-3
    assert torch.equal(x, ours.sample(20_000, generator(3)))
    assert ours.to(DOUBLE).sample(5, generator(3)).dtype == DOUBLE
    assert bool(x.isfinite().all())


def test_seed_of_the_global_generator_counts() -> None:
    torch.manual_seed(5)
    first = pr.normal().sample(4)
    torch.manual_seed(5)
    assert torch.equal(first, pr.normal().sample(4))


def test_mixture_on_the_line() -> None:
    mixture = pr.GaussianMixture([-1.0, 2.0], [0.5, 1.5], [1.0, 3.0]).to(DOUBLE)

    def cdf(x):
        return 0.25 * stats.norm.cdf(x, -1, 0.5) + 0.75 * stats.norm.cdf(x, 2, 1.5)

    x = torch.linspace(-8, 12, 401, dtype=DOUBLE)
    np.testing.assert_allclose(mixture.cdf(x), cdf(x.numpy()), atol=1e-14)
    mass, _ = integrate.quad(lambda t: float(mixture.pdf(torch.tensor(t, dtype=DOUBLE))), -20, 30)
    assert mass == pytest.approx(1.0, abs=1e-8)
    assert stats.kstest(mixture.sample(20_000, generator()).numpy(), cdf).pvalue > 1e-3
    # Far tail: exp underflows, the logarithm must not.
    far = float(mixture.log_prob(torch.tensor(-200.0, dtype=DOUBLE)))
    assert far == pytest.approx(math.log(0.75) + stats.norm.logpdf(-200, 2, 1.5), rel=1e-12)


def test_mixture_agrees_with_torch() -> None:
    means = torch.randn(4, 3, generator=generator(), dtype=DOUBLE)
    stds, weights = torch.tensor([0.3, 1.0, 0.5, 2.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    ours = pr.GaussianMixture(means, stds, weights)
    parts = torch.distributions.Independent(
        torch.distributions.Normal(means, stds.double()[:, None].expand(4, 3)), 1
    )
    mixing = torch.distributions.Categorical(weights.double())
    theirs = torch.distributions.MixtureSameFamily(mixing, parts)
    x = 3 * torch.randn(7, 5, 3, generator=generator(1), dtype=DOUBLE)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-6, atol=1e-6)
    draws, component = ours.sample(40_000, generator(2), return_component=True)
    counts = torch.bincount(component, minlength=4).numpy()
    assert stats.chisquare(counts, 40_000 * np.array([0.1, 0.2, 0.3, 0.4])).pvalue > 1e-3
    for i in range(4):
        whitened = ((draws[component == i] - means[i]) / stds[i]).flatten().numpy()
        assert stats.kstest(whitened, stats.norm.cdf).pvalue > 1e-3


def test_ring_and_grid_geometry() -> None:
    ring, grid = pr.ring(8, 2.0), pr.grid(5, 2.0)
    torch.testing.assert_close(ring.means.norm(dim=1), torch.full((8,), 2.0))
    torch.testing.assert_close(ring.means.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    assert grid.means.shape == (25, 2) and grid.means.dtype == torch.float32
    assert sorted(set(grid.means.flatten().tolist())) == [-4.0, -2.0, 0.0, 2.0, 4.0]
    assert float(ring.weights.sum()) == pytest.approx(1.0)


def test_weight_zero_drops_a_mode() -> None:
    dropped = pr.GaussianMixture([0.0, 5.0], 1.0, [1.0, 0.0])
    x = torch.linspace(-3, 8, 50, dtype=DOUBLE)
    np.testing.assert_allclose(dropped.log_prob(x), stats.norm.logpdf(x.numpy()), rtol=1e-12)
    assert int(dropped.sample(1000, generator(), return_component=True)[1].max()) == 0


@pytest.mark.parametrize("name", PLANE)
def test_plane_mass_and_samples(name: str) -> None:
    """The density integrates to 1, and counts of samples in squares follow it (chi-square)."""
    law, half, step = PLANE[name]
    ticks = torch.arange(-half, half, step, dtype=DOUBLE) + step / 2
    points = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1)
    density = law.pdf(points) * step**2
    assert float(density.sum()) == pytest.approx(1.0, abs=1e-6)
    n, fold = 20_000, len(ticks) // 24
    x = law.sample(n, generator(7))
    assert x.shape == (n, 2) and x.dtype == torch.float32
    assert torch.equal(x, law.sample(n, generator(7)))
    side = (len(ticks) // fold) * fold
    edges = np.linspace(-half, -half + side * step, side // fold + 1)
    expected = density[:side, :side].reshape(side // fold, fold, side // fold, fold).sum((1, 3))
    counts, _, _ = np.histogram2d(x[:, 0].numpy(), x[:, 1].numpy(), bins=[edges, edges])
    expected = n * expected.numpy()
    large = expected > 8
    observed = np.append(counts[large], n - counts[large].sum())
    wanted = np.append(expected[large], n - expected[large].sum())
    chi_square = ((observed - wanted) ** 2 / wanted).sum()
    assert stats.chi2.sf(chi_square, len(wanted) - 1) > 1e-3
    # Mean log-density of samples against minus the entropy from the grid.
    logs = law.log_prob(x.double())
    truth = float((density * law.log_prob(points)).sum())
    assert abs(float(logs.mean()) - truth) < 4 * float(logs.std()) / math.sqrt(n)


@pytest.mark.parametrize("std", [0.03, 0.1, 0.5])
def test_curve_density_against_adaptive_quadrature(std: float) -> None:
    """The documented accuracy, at points within 6 and within 12 standard deviations."""

    def reference(x, arcs) -> float:
        def gaussian(u, arc):
            point = arc(u)
            return math.exp(best - ((x[0] - point[0]) ** 2 + (x[1] - point[1]) ** 2) / 2 / std**2)

        u = np.linspace(0, 1, 4001)
        points = np.concatenate([np.stack(arc(u), -1) for arc in arcs])
        best = float(((points - x) ** 2).sum(1).min()) / 2 / std**2
        pieces = np.linspace(0, 1, 81)
        total = sum(
            integrate.quad(gaussian, a, b, args=(arc,), epsabs=0, epsrel=1e-12)[0]
            for arc in arcs
            for a, b in itertools.pairwise(pieces)
            if min(np.square(np.stack(arc(np.linspace(a, b, 9)), -1) - x).sum(1)) / 2 / std**2
            < best + 60
        )
        return math.log(total / len(arcs) / (2 * math.pi * std**2)) - best

    moons = [
        lambda s: (np.cos(np.pi * s), np.sin(np.pi * s)),
        lambda s: (1 - np.cos(np.pi * s), 0.5 - np.sin(np.pi * s)),
    ]
    spiral = [
        lambda u: (
            1.5 * np.sqrt(u) * np.cos(3 * np.pi * np.sqrt(u)),
            1.5 * np.sqrt(u) * np.sin(3 * np.pi * np.sqrt(u)),
        )
    ]
    for law, arcs in ((pr.two_moons(std), moons), (pr.spiral(1.5, std), spiral)):
        start = law.to(DOUBLE).sample(4, generator(1)).numpy()
        near = start + std * np.array([[0.0, 0.0], [2.0, 1.0], [-1.0, 1.5], [0.0, 2.0]])
        edge = np.array([[1.0 + 10 * std, 0.0]])
        for x, allowed in [*((x, 1e-8) for x in near), (edge[0], 1e-5)]:
            ours = float(law.log_prob(torch.from_numpy(x)))
            assert ours == pytest.approx(reference(x, arcs), abs=allowed), (x, std)


def linear_gaussian(d: int = 5, k: int = 2, seed: int = 0) -> pr.LinearGaussian:
    weight = torch.randn(d, k, generator=generator(seed), dtype=DOUBLE)
    bias = torch.randn(d, generator=generator(seed + 1), dtype=DOUBLE)
    return pr.LinearGaussian(weight, bias, 0.6)


def random_covariances(n: int, k: int, seed: int = 3) -> torch.Tensor:
    factors = torch.randn(n, k, k, generator=generator(seed), dtype=DOUBLE)
    return factors @ factors.mT + 0.1 * torch.eye(k, dtype=DOUBLE)


def test_linear_gaussian_evidence_and_samples() -> None:
    model = linear_gaussian()
    x, z = model.sample(50_000, generator(4))
    assert x.shape == (50_000, 5) and z.shape == (50_000, 2) and x.dtype == DOUBLE
    truth = torch.distributions.MultivariateNormal(model.bias, model.covariance)
    torch.testing.assert_close(model.log_prob(x[:50]), truth.log_prob(x[:50]), rtol=1e-11, atol=0)
    whitened = torch.linalg.solve_triangular(truth.scale_tril, (x - model.bias).T, upper=False)
    assert all(stats.kstest(row.numpy(), stats.norm.cdf).pvalue > 1e-3 for row in whitened)
    # The pair: E[(x - b) zᵀ] = W, with entries of variance below C_ii + W_ij².
    cross = (x - model.bias).T @ z / len(x)
    assert float((cross - model.weight).abs().max()) < 5 * math.sqrt(10 / len(x))


def test_linear_gaussian_posterior_by_brute_force() -> None:
    model = linear_gaussian(d=3, k=1)
    x, _ = model.sample(1, generator(5))
    z = torch.linspace(-6, 6, 4001, dtype=DOUBLE)
    likelihood = torch.distributions.Normal(model.weight[:, 0] * z[:, None] + model.bias, 0.6)
    joint = (likelihood.log_prob(x).sum(1) + torch.distributions.Normal(0.0, 1.0).log_prob(z)).exp()
    evidence = torch.trapezoid(joint, z)
    assert float(model.log_prob(x)) == pytest.approx(math.log(evidence), abs=1e-9)
    mean, cov = model.posterior(x)
    brute_mean = torch.trapezoid(joint * z, z) / evidence
    brute_var = torch.trapezoid(joint * (z - brute_mean) ** 2, z) / evidence
    assert float(mean) == pytest.approx(float(brute_mean), abs=1e-9)
    assert float(cov) == pytest.approx(float(brute_var), abs=1e-9)


def test_elbo_gap_is_the_kl_to_the_posterior() -> None:
    model = linear_gaussian()
    x, _ = model.sample(6, generator(6))
    mean, cov = model.posterior(x)
    torch.testing.assert_close(model.elbo(x, mean, cov), model.log_prob(x), rtol=1e-11, atol=0)
    mu = mean + torch.randn(6, 2, generator=generator(7), dtype=DOUBLE)
    covs = random_covariances(6, 2)
    gap = model.log_prob(x) - model.elbo(x, mu, covs)
    truth = [pr.kl_gaussians(mu[i], covs[i], mean[i], cov) for i in range(6)]
    torch.testing.assert_close(gap, torch.stack(truth), rtol=1e-10, atol=1e-11)
    log_var = torch.randn(6, 2, generator=generator(8), dtype=DOUBLE)
    torch.testing.assert_close(
        model.elbo(x, mu, log_var=log_var), model.elbo(x, mu, torch.diag_embed(log_var.exp()))
    )


def test_elbo_against_monte_carlo() -> None:
    model = linear_gaussian()
    x, _ = model.sample(1, generator(9))
    mu, log_var = torch.tensor([[0.5, -0.2]], dtype=DOUBLE), torch.tensor([[-1.0, 0.3]]).double()
    q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    z = mu + q.scale * torch.randn(100_000, 2, generator=generator(10), dtype=DOUBLE)
    likelihood = torch.distributions.Normal(z @ model.weight.T + model.bias, 0.6)
    prior = torch.distributions.Normal(0.0, 1.0)
    terms = likelihood.log_prob(x).sum(1) + prior.log_prob(z).sum(1) - q.log_prob(z).sum(1)
    error = float(terms.std()) / math.sqrt(len(terms))
    assert abs(float(terms.mean()) - float(model.elbo(x, mu, log_var=log_var))) < 4 * error


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4))
def test_elbo_never_exceeds_the_evidence(seed: int, k: int) -> None:
    model = linear_gaussian(5, k, seed)
    x, z = model.sample(3, generator(seed))
    assert bool((model.elbo(x, z, random_covariances(3, k, seed)) <= model.log_prob(x)).all())


def test_small_noise_in_high_dimension_keeps_its_digits() -> None:
    weight = torch.randn(200, 3, generator=generator(), dtype=DOUBLE)
    model = pr.LinearGaussian(weight, torch.zeros(200), 1e-3)
    model = model.to(DOUBLE)
    x, _ = model.sample(5, generator(1))
    truth = stats.multivariate_normal(np.zeros(200), model.covariance.numpy()).logpdf(x.numpy())
    np.testing.assert_allclose(model.log_prob(x), truth, rtol=1e-7)


def test_ppca_is_the_maximum_of_the_likelihood() -> None:
    x, _ = linear_gaussian(6, 2).sample(400, generator(11))
    fitted = pr.LinearGaussian.fit(x, 2)
    values = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[::-1]
    noise = values[2:].mean()
    assert fitted.noise_std**2 == pytest.approx(noise, rel=1e-12)
    # Tipping & Bishop's value of the maximum, from the eigenvalues alone.
    d, k = 6, 2
    log_det = np.log(values[:k]).sum() + (d - k) * math.log(noise)
    best = float(fitted.log_prob(x).mean())
    assert best == pytest.approx(-0.5 * (log_det + d + d * math.log(2 * math.pi)), rel=1e-12)
    for seed in range(20):
        step = 0.05 * torch.randn(6, 2, generator=generator(seed), dtype=DOUBLE)
        other = pr.LinearGaussian(fitted.weight + step, fitted.bias, fitted.noise_std)
        assert float(other.log_prob(x).mean()) < best
    # Columns are orthogonal, so the posterior factorises; a rotation keeps the evidence only.
    _, cov = fitted.posterior(x)
    assert float((cov - torch.diag(cov.diagonal())).abs().max()) < 1e-12
    c, s = math.cos(0.7), math.sin(0.7)
    turned = fitted.weight @ torch.tensor([[c, -s], [s, c]], dtype=DOUBLE)
    rotated = pr.LinearGaussian(turned, fitted.bias, fitted.noise_std)
    torch.testing.assert_close(rotated.log_prob(x), fitted.log_prob(x), rtol=1e-10, atol=0)


def test_ppca_recovers_the_law() -> None:
    model = linear_gaussian(5, 2)
    x, _ = model.sample(100_000, generator(12))
    fitted = pr.LinearGaussian.fit(x.float(), 2)
    assert fitted.weight.dtype == torch.float32
    kl = pr.kl_gaussians(model.bias, model.covariance, fitted.bias, fitted.to(DOUBLE).covariance)
    assert float(kl) < 3 * 15 / 2 / len(x)  # about (free parameters)/(2n)


def test_annulus() -> None:
    """E|z| = sqrt(2) Γ((d+1)/2)/Γ(d/2) for z ~ N(0, I), sampled as a one-component mixture."""
    for d, norm in ((2, 1.253), (10, 3.084), (100, 9.975)):
        z = pr.GaussianMixture(torch.zeros(1, d), 1.0).sample(20_000, generator(d))
        exact = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
        assert exact == pytest.approx(norm, abs=6e-4)
        assert abs(float(z.norm(dim=1).mean()) - exact) < 4 * 0.71 / math.sqrt(20_000)


def test_gradients_of_log_prob_reach_x() -> None:
    for law in (pr.ring(std=0.4), pr.two_moons(0.4), linear_gaussian(2, 1)):
        x = torch.randn(5, 2, generator=generator(), dtype=DOUBLE, requires_grad=True)
        assert torch.autograd.gradcheck(law.log_prob, x)
    x = torch.tensor([-1.0, 0.5, 2.0], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(pr.logistic(0.0, 1.0).log_prob, x)


BAD = {
    "std is -1.0": lambda: pr.normal(0.0, -1.0),
    "mean is nan": lambda: pr.normal(math.nan, 1.0),
    "low < high": lambda: pr.uniform(1.0, 1.0),
    "rate is 0": lambda: pr.exponential(0.0),
    "scale is": lambda: pr.cauchy(0.0, math.inf),
    "n is 0": lambda: pr.normal().sample(0),
    "n is 2.5": lambda: pr.ring().sample(2.5),
    "between 0 and 1": lambda: pr.normal().icdf(torch.tensor([0.5, 1.5])),
    "must be scalar": lambda: pr.OneDimensional(torch.distributions.Normal(torch.zeros(2), 1.0)),
    r"must be \[k\] or": lambda: pr.GaussianMixture(torch.zeros(2, 2, 2), 1.0),
    "stds has shape": lambda: pr.GaussianMixture([0.0, 1.0], [1.0, 1.0, 1.0]),
    "weights has shape": lambda: pr.GaussianMixture([0.0, 1.0], 1.0, [1.0]),
    "stds finite and above 0": lambda: pr.GaussianMixture([0.0, 1.0], [1.0, 0.0]),
    "weights must be": lambda: pr.GaussianMixture([0.0, 1.0], 1.0, [2.0, -1.0]),
    "last axis must have length 2": lambda: pr.ring().log_prob(torch.zeros(4, 3)),
    "mixtures on the line": lambda: pr.ring().cdf(torch.zeros(4)),
    "modes is 0": lambda: pr.ring(0),
    "spacing is": lambda: pr.grid(5, -2.0),
    "turns is": lambda: pr.spiral(0.0),
    "std is 0": lambda: pr.two_moons(0.0),
    "weight and bias have": lambda: pr.LinearGaussian(torch.zeros(3, 2), torch.zeros(2), 1.0),
    "noise_std is": lambda: pr.LinearGaussian(torch.zeros(3, 2), torch.zeros(3), 0.0),
    "length 5": lambda: linear_gaussian().posterior(torch.zeros(2, 4)),
    "exactly one of": lambda: linear_gaussian().elbo(torch.zeros(1, 5), torch.zeros(1, 2)),
    "else give log_var=": lambda: linear_gaussian().elbo(
        torch.zeros(3, 5), torch.zeros(3, 2), torch.zeros(3, 2)
    ),
    "positive definite": lambda: linear_gaussian().elbo(
        torch.zeros(3, 5), torch.zeros(3, 2), -torch.eye(2)
    ),
    "at least 2 rows": lambda: pr.LinearGaussian.fit(torch.zeros(1, 4), 2),
    "below the dimension 4": lambda: pr.LinearGaussian.fit(torch.randn(9, 4), 4),
    "no spread beyond 1": lambda: pr.LinearGaussian.fit(torch.ones(3) * torch.randn(9, 1), 1),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_refused_with_a_sentence(sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BAD[sentence]()


def test_plain_numbers_keep_all_their_digits():
    """0.4 is no float32, and a density must not take it for one on the way to float64."""
    means = torch.zeros(1, 2, dtype=torch.float64)
    mixture = pr.GaussianMixture(means, 0.4)
    assert float(mixture.stds[0]) == 0.4
    x = torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    expected = stats.norm(0, 0.4).logpdf(x.numpy()).sum(1)
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=1e-14)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.0])
def test_the_density_on_a_curve_has_the_mass_one_for_any_power(power):
    line = pr.CurveWithNoise([lambda s: torch.stack([2 * s, 0 * s], 1)], std=0.3, power=power)
    ticks = torch.linspace(-3, 5, 321, dtype=torch.float64)
    points = torch.cartesian_prod(ticks, ticks - 1)
    mass = line.log_prob(points).exp().sum() * (ticks[1] - ticks[0]) ** 2
    assert mass.item() == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("power", [0.3, 0.7, 0.9, 1.1, 1.5])
@pytest.mark.parametrize("std", [0.05, 0.5])
def test_powers_that_are_not_whole_have_the_documented_accuracy(power, std):
    """On a straight line s -> (2 s, 0); beyond its end s = 0 the singular part counts most."""
    law = pr.CurveWithNoise([lambda s: torch.stack([2 * s, 0 * s], -1)], std, power)
    ends = np.concatenate([[0.0], np.logspace(-15, -2, 60), np.linspace(0.02, 1.0, 80)])
    for x in (-6 * std, -5 * std, 0.0, 3 * std):

        def gaussian(u, x=x):
            return math.exp((min(x, 0.0) ** 2 - (x - 2 * u**power) ** 2) / 2 / std**2)

        parts = (
            integrate.quad(gaussian, *e, epsabs=0, epsrel=1e-12)[0]
            for e in itertools.pairwise(ends)
        )
        truth = math.log(sum(parts) / (2 * math.pi * std**2)) - min(x, 0.0) ** 2 / 2 / std**2
        ours = float(law.log_prob(torch.tensor([x, 0.0], dtype=DOUBLE)))
        assert ours == pytest.approx(truth, abs=1e-8), x


@pytest.mark.parametrize("x", [-1.0, 1.0])
def test_a_law_of_torch_has_the_density_zero_outside_its_support(x):
    law = pr.OneDimensional(torch.distributions.Exponential(1.0))
    expected = -1.0 if x > 0 else -math.inf
    assert law.log_prob(torch.tensor([x])).item() == pytest.approx(expected)
    assert law.log_prob(torch.tensor([math.nan])).isnan()


def test_a_linear_model_that_is_singular_in_float64_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="noise_std not so small"):
        pr.LinearGaussian(torch.ones(2, 5), torch.zeros(2), 1e-12)
    with pytest.raises(ValueError, match="weight must be finite"):
        pr.LinearGaussian(torch.full((2, 1), math.nan), torch.zeros(2), 1.0)


def test_an_elbo_of_unequal_rows_or_a_crooked_covariance_is_refused():
    model = pr.LinearGaussian(torch.eye(2), torch.zeros(2), 1.0)
    x, mu = torch.zeros(5, 2), torch.zeros(3, 2)
    with pytest.raises(ValueError, match="different numbers of rows"):
        model.elbo(x, mu, torch.eye(2))
    with pytest.raises(ValueError, match="different numbers of rows"):
        model.elbo(x, torch.zeros(5, 2), log_var=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="symmetric"):
        model.elbo(x, torch.zeros(5, 2), torch.tensor([[1.0, 0.4], [0.0, 1.0]]))
