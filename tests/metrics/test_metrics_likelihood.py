"""Bounds on log p(x): against the linear-Gaussian model, quadrature and each other."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from course_lib import data, losses
from course_lib.metrics import likelihood as metrics
from course_lib.models.vae import mlp_autoencoder, mlp_vae
from course_lib.probability import LinearGaussian
from course_lib.probability.divergences import kl_to_standard_normal

AIS = metrics.annealed_importance_sampling
IWAE = metrics.importance_weighted_bound


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """A LinearGaussian as a VAE; q is the posterior, moved by `shift` and widened by `widen`."""

    def __init__(self, exact, shift=0.0, widen=0.0):
        super().__init__()
        self.exact, self.shift, self.widen = exact, shift, widen
        self.register_buffer("weight", exact.weight)
        self.register_buffer("bias", exact.bias)
        self.latent_dim = exact.weight.shape[1]

    def encode(self, x):
        mean, cov = self.exact.posterior(x)
        return mean + self.shift, (cov.diagonal().log() + self.widen).expand_as(mean)

    def decode(self, z):
        return z @ self.weight.T + self.bias


def linear(d=6, k=2, noise=0.5, dtype=torch.float64):
    """Orthogonal columns, so that the posterior is diagonal and a mean-field q can equal it."""
    columns = torch.linalg.qr(torch.randn(d, d, generator=rng(1), dtype=dtype))[0][:, :k]
    weight = columns * torch.linspace(1.5, 0.7, k, dtype=dtype)
    exact = LinearGaussian(weight, torch.randn(d, generator=rng(2), dtype=dtype), noise)
    return exact, losses.GaussianLikelihood(noise, bounded=False)


class Curved(nn.Module):
    """A small nonlinear decoder of 2-d z to 9 binary pixels, and an encoder that is none too good.

    log p(x) is an integral over the plane, which `exact` takes on a grid.
    """

    latent_dim = 2

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 9))
        for parameter in self.net.parameters():
            nn.init.normal_(parameter, std=1.0, generator=rng(5))

    def encode(self, x):
        mu = torch.stack([x.mean(1) - 0.5, 0.5 - x[:, 0]], 1)
        return mu, torch.full_like(mu, -0.2)

    def decode(self, z):
        return self.net(z)

    def exact(self, x):
        x, where = x.unique(dim=0, return_inverse=True)
        line = torch.linspace(-8, 8, 241, dtype=torch.float64)
        z = torch.cartesian_prod(line, line)
        with torch.no_grad():
            logits = self.double().net(z)
        log_joint = x.double() @ logits.T - nn.functional.softplus(logits).sum(1)
        log_joint = log_joint - 0.5 * z.square().sum(1) - math.log(2 * math.pi)
        return torch.logsumexp(log_joint, 1)[where] + 2 * math.log(16 / 240)


def binary(n=12, seed=0):
    return torch.rand(n, 9, generator=rng(seed), dtype=torch.float64).round()


# ------------------------------------------------------------------------------ ELBO and L_k


def test_with_the_exact_posterior_every_bound_is_the_evidence_without_any_noise():
    exact, likelihood = linear()
    x, _ = exact.sample(7, rng())
    model, truth = Linear(exact), exact.log_prob(x)
    for k in (1, 2, 50):
        found = IWAE(model, likelihood, x, k)
        torch.testing.assert_close(found.values, truth, rtol=0, atol=1e-11)
    for temperatures in (1, 5):
        found = AIS(
            model,
            likelihood,
            x,
            temperatures=temperatures,
            chains=2,
            leapfrog_steps=3,
            start="posterior",
        )
        torch.testing.assert_close(found.values, truth, rtol=0, atol=1e-11)
    assert found.value == pytest.approx(float(truth.mean()))
    assert found.standard_error == pytest.approx(float(truth.std()) / math.sqrt(7))


@pytest.mark.parametrize("k", [1, 3])
def test_elbo_is_the_closed_form(k):
    """One image many times over: the standard error is then that of the draws alone."""
    exact, likelihood = linear()
    model = Linear(exact, shift=0.3, widen=0.5)
    x = exact.sample(1, rng())[0].expand(4000, -1)
    mu, log_var = model.encode(x[:1])
    truth = float(exact.elbo(x[:1], mu, log_var=log_var))
    found = metrics.elbo(model, likelihood, x, n_samples=k)
    assert found.value == pytest.approx(truth, abs=4 * found.standard_error)
    assert found.standard_error < 0.05
    assert truth < float(exact.log_prob(x[:1])) - 0.2
    # L_1 is the same number with a sampled KL, from the same draws.
    sampled = IWAE(model, likelihood, x, 1)
    assert sampled.value == pytest.approx(truth, abs=4 * sampled.standard_error)


def test_elbo_is_the_one_that_the_vae_is_trained_on():
    model, likelihood = mlp_vae((1, 4, 4), 3, (8,)).double(), losses.BernoulliLikelihood()
    x = torch.rand(5, 1, 4, 4, generator=rng(), dtype=torch.float64)
    trained = losses.elbo(x, model(x, rng(7)), likelihood)
    measured = metrics.elbo(model, likelihood, x, generator=rng(7))
    assert measured.value == pytest.approx(trained.value.item(), abs=1e-10)


def test_two_draws_against_quadrature():
    """L_2 in one latent dimension is a double integral, taken with Gauss-Hermite nodes."""
    exact, likelihood = linear(d=3, k=1)
    model = Linear(exact, shift=0.4, widen=0.6)
    x = exact.sample(1, rng(3))[0]
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    u, weights = torch.tensor(nodes), torch.tensor(weights / weights.sum())
    mu, log_var = model.encode(x)
    z = mu + (0.5 * log_var).exp() * u[:, None]
    log_w = likelihood.log_prob(x.expand(80, -1), model.decode(z))
    log_w = log_w + 0.5 * (u.square() - z[:, 0].square() + log_var[0])
    pairs = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
    truth = float(weights @ pairs @ weights)

    found = IWAE(model, likelihood, x.expand(20_000, -1), 2)
    assert found.value == pytest.approx(truth, abs=4 * found.standard_error)
    assert found.standard_error < 0.01
    assert float(weights @ log_w) + 0.05 < truth < float(exact.log_prob(x)) - 0.05


def test_the_bound_rises_with_k_to_the_evidence():
    exact, likelihood = linear()
    model = Linear(exact, shift=0.5, widen=0.4)
    x = exact.sample(1, rng())[0].expand(400, -1)
    truth = float(exact.log_prob(x[:1]))
    bounds = [IWAE(model, likelihood, x, k, generator=k) for k in (1, 3, 10, 40, 400)]
    for low, high in pairwise(bounds):
        error = math.hypot(low.standard_error, high.standard_error)
        assert high.value - low.value > 4 * error
    # The bias of L_k is about Var(w / p(x)) / (2k).
    assert bounds[-1].value == pytest.approx(truth, abs=0.01)
    assert all(b.value < truth + 4 * b.standard_error for b in bounds)


def test_mean_weight_is_the_evidence_for_a_nonlinear_decoder():
    model, likelihood, x = Curved(), losses.BernoulliLikelihood(), binary()
    truth = model.exact(x)
    found = IWAE(model, likelihood, x, 5_000)
    torch.testing.assert_close(found.values, truth, rtol=0, atol=0.15)
    assert found.value == pytest.approx(float(truth.mean()), abs=0.03)
    annealed = AIS(model, likelihood, x, temperatures=100, chains=8, leapfrog_steps=3)
    torch.testing.assert_close(annealed.values, truth, rtol=0, atol=0.3)
    assert annealed.value == pytest.approx(float(truth.mean()), abs=0.06)


# ------------------------------------------------------------------------------ annealing


@pytest.mark.parametrize("start", ["prior", "posterior"])
@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_a_chain_has_the_evidence_as_its_mean_weight(start, schedule):
    """Few temperatures: noisy and yet without bias, whatever steps the pilot learned."""
    exact, likelihood = linear(noise=0.8)
    model = Linear(exact, shift=0.3, widen=0.5)
    x = exact.sample(1, rng())[0].expand(500, -1)
    settings = {"temperatures": 6, "chains": 4, "leapfrog_steps": 2, "batch_size": 2000}
    found = AIS(model, likelihood, x, start=start, schedule=schedule, **settings)
    ratio = (found.values - exact.log_prob(x)).exp()
    error = float(ratio.std()) / math.sqrt(len(x))
    assert error < 0.05
    assert float(ratio.mean()) == pytest.approx(1.0, abs=4 * error)
    # One temperature, which is L_4, is noisier, and its logarithm lies lower for that.
    once = AIS(model, likelihood, x, start=start, **{**settings, "temperatures": 1})
    assert once.standard_error > 1.5 * found.standard_error
    assert once.value < found.value < float(exact.log_prob(x[:1])) + 4 * found.standard_error


def test_annealing_comes_nearer_with_more_temperatures():
    exact, likelihood = linear(noise=0.3)
    x, _ = exact.sample(40, rng())
    errors = []
    for temperatures in (1, 8, 64):
        found = AIS(Linear(exact), likelihood, x, temperatures=temperatures, chains=4)
        errors.append(float((found.values - exact.log_prob(x)).abs().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.5
    assert float((found.acceptance - 0.65).abs().max()) < 0.2


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_bidirectional_check_brackets_the_evidence(kind):
    if kind == "gaussian":
        exact, likelihood = linear(noise=0.8)
        model, evidence = Linear(exact), exact.log_prob
    else:
        model, likelihood = Curved().double(), losses.BernoulliLikelihood()
        evidence = model.exact
    settings = {"chains": 4, "leapfrog_steps": 2, "batch_size": 2000}
    few = metrics.bidirectional_check(model, likelihood, 350, temperatures=8, **settings)
    truth = evidence(few.x)
    # Both directions are without bias in the weight: p(x) forwards, 1 / p(x) backwards.
    for ratio in ((few.lower.values - truth).exp(), (truth - few.upper.values).exp()):
        error = float(ratio.std()) / math.sqrt(len(ratio))
        assert error < 0.1
        assert float(ratio.mean()) == pytest.approx(1.0, abs=4 * error)
    for below in (truth - few.lower.values, few.upper.values - truth):
        assert float(below.mean()) > 0
    assert few.gap == pytest.approx(few.upper.value - few.lower.value)
    many = metrics.bidirectional_check(model, likelihood, 50, temperatures=80, **settings)
    assert many.gap < 0.4 * few.gap
    assert many.gap > -4 * many.standard_error


def test_simulated_gaussian_pixels_have_the_law_of_the_model():
    """Their mean and variance per pixel, although the likelihood is one for pixels in [0, 1]."""
    likelihood = losses.LearnedGaussianLikelihood(0.4)
    found = metrics.bidirectional_check(
        lambda z: 0 * z + torch.tensor([-2.0, 0.0, 3.0]),  # decoded does not depend on z
        likelihood,
        4000,
        temperatures=1,
        chains=1,
        latent_dim=3,
    )
    mean = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64).sigmoid()
    assert bool(((found.x < 0) | (found.x > 1)).any())
    torch.testing.assert_close(found.x.mean(0), mean, rtol=0, atol=4 * 0.4 / math.sqrt(4000))
    torch.testing.assert_close(found.x.std(0), torch.full_like(mean, 0.4), rtol=0.05, atol=0)
    # Then log p(x) = log p(x|z), and the sandwich is tight.
    truth = losses.gaussian_log_likelihood(found.x, mean.expand(4000, -1), 0.4).double()
    torch.testing.assert_close(found.lower.values, truth.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.upper.values, found.lower.values, rtol=0, atol=1e-5)


def test_an_image_is_annealed_by_itself():
    exact, likelihood = linear()
    model, (x, _) = Linear(exact), exact.sample(12, rng())
    settings = {"temperatures": 10, "chains": 3, "leapfrog_steps": 2}
    for seed in (0, 1):
        # The seeds of 5 images are the first 5 of 12.
        alone = AIS(model, likelihood, x[:5], generator=seed, **settings)
        among = AIS(model, likelihood, x, generator=seed, **settings)
        torch.testing.assert_close(alone.values, among.values[:5])


# ---------------------------------------------------------------------------- what must not matter


def estimates(model, likelihood, x, **options):
    """One of each kind, as a dict of values per image."""
    settings = {"temperatures": 8, "chains": 3, "leapfrog_steps": 1}
    start = {"start": "posterior"}
    check = metrics.bidirectional_check(model, likelihood, 4, **settings, **options)
    return {
        "elbo": metrics.elbo(model, likelihood, x, n_samples=3, **options).values,
        "iwae": IWAE(model, likelihood, x, 7, **options).values,
        "prior": AIS(model, likelihood, x, **settings, **options).values,
        "posterior": AIS(model, likelihood, x, **settings, **start, **options).values,
        "lower": check.lower.values,
        "upper": check.upper.values,
    }


def test_batches_do_not_matter_and_seeds_do():
    exact, likelihood = linear()
    model, (x, _) = Linear(exact, 0.3, 0.5), exact.sample(12, rng())
    base = estimates(model, likelihood, x)
    torch.testing.assert_close(estimates(model, likelihood, x, batch_size=7), base)
    for batch_size in (1, 40):
        found = IWAE(model, likelihood, x, 7, batch_size=batch_size)
        torch.testing.assert_close(found.values, base["iwae"])
    same = estimates(model, likelihood, x, generator=0)
    assert all(torch.equal(same[name], base[name]) for name in base)
    other = estimates(model, likelihood, x, generator=1)
    assert not any(torch.equal(other[name], base[name]) for name in base)
    seeded, given = (IWAE(model, likelihood, x, 9, generator=g).values for g in (4, rng(4)))
    assert torch.equal(seeded, given)


def test_networks_of_another_precision_see_the_same_noise():
    exact, likelihood = linear()
    x, _ = exact.sample(12, rng())
    base = estimates(Linear(exact, 0.3, 0.5), likelihood, x)
    single = estimates(Linear(exact, 0.3, 0.5).float(), likelihood, x.numpy())
    torch.testing.assert_close(single, base, rtol=0, atol=1e-3)
    x, likelihood = binary(), losses.BernoulliLikelihood()
    base = metrics.elbo(Curved().double(), likelihood, x).values
    half = metrics.elbo(Curved().bfloat16(), likelihood, x).values
    torch.testing.assert_close(half, base, rtol=0, atol=0.2)


def test_nothing_is_left_behind():
    """Modes come back, dropout is off meanwhile, no gradient appears, inference mode is fine."""
    model = Curved()
    model.net = nn.Sequential(model.net[0], nn.Dropout(0.5), *model.net[1:])
    model.train()
    model.net[2].eval()
    modes = [m.training for m in model.modules()]
    likelihood, x = losses.BernoulliLikelihood(), binary().float()
    noisy = estimates(model, likelihood, x)
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    assert not any(v.requires_grad for v in noisy.values())
    quiet = estimates(model.eval(), likelihood, x)
    torch.testing.assert_close(noisy, quiet)
    with torch.inference_mode():
        torch.testing.assert_close(estimates(model, likelihood, x.clone()), quiet)
    model.train()
    with pytest.raises(ValueError, match="x must lie in"):
        metrics.elbo(model, likelihood, x + 2)
    assert all(m.training for m in model.modules())


def test_a_decoder_needs_no_encoder():
    model, likelihood, x = Curved().double(), losses.BernoulliLikelihood(), binary()
    settings = {"temperatures": 5, "chains": 2, "leapfrog_steps": 2}
    base = AIS(model, likelihood, x, **settings).values
    for decoder in (model.net, model.decode, lambda z: model.net(z)):
        found = AIS(decoder, likelihood, x, latent_dim=2, **settings).values
        torch.testing.assert_close(found, base)


# ------------------------------------------------------------------------------ active units, bits


def test_active_units_of_hand_made_encoders():
    g = rng()
    x = torch.randn(2000, 4, generator=g, dtype=torch.float64) + 1e4
    scale = torch.tensor([1.0, 0.11, 0.09, 0.0], dtype=torch.float64)
    model = SimpleNamespace(encode=lambda x: (x * scale - 3, x), decode=None)
    found = metrics.active_units(model, x, batch_size=7)
    expected = torch.tensor(np.var(x.numpy(), axis=0, ddof=1)) * scale**2
    torch.testing.assert_close(found.variances, expected, rtol=1e-9, atol=1e-12)
    assert found.count == 2
    assert metrics.active_units(model, x, threshold=0.5).count == 1
    assert metrics.active_units(model, x, threshold=0.0).count == 3
    with pytest.raises(ValueError, match="at least 2"):
        metrics.active_units(model, x[:1])


def test_collapsed_units_are_not_active():
    vae = mlp_vae((1, 4, 4), 5, (8,))
    with torch.no_grad():
        vae.encoder.mu_head.weight[1:3] = 0.0  # these ignore the image
        vae.encoder.mu_head.weight *= 10
    found = metrics.active_units(vae, torch.rand(100, 1, 4, 4, generator=rng()))
    assert (found.variances > 0.01).tolist() == [True, False, False, True, True]
    assert found.count == 3


def test_bits_per_dim_of_a_fair_coin():
    model = SimpleNamespace(
        encode=lambda x: (x.new_zeros(len(x), 2), x.new_zeros(len(x), 2)),
        decode=lambda z: z.new_zeros(len(z), 1, 5, 5),
    )
    x = torch.rand(6, 1, 5, 5, generator=rng()).round()
    found = metrics.elbo(model, losses.BernoulliLikelihood(), x)
    assert metrics.bits_per_dim(-found.value, 25) == pytest.approx(1.0)


# ------------------------------------------------------------------------------ a VAE on digits


def test_a_trained_vae_has_its_bounds_in_order():
    images = data.load("digits").images[:, :, ::2, ::2].float().div(255).gt(0.4).float()
    train, test = images[:1200], images[1200:1216]
    vae, likelihood = mlp_vae(images.shape[1:], 5, (32,)), losses.BernoulliLikelihood()
    optimizer, g = torch.optim.Adam(vae.parameters(), 3e-3), rng()
    for _ in range(200):
        x = train[torch.randint(len(train), (128,), generator=g)]
        optimizer.zero_grad()
        losses.elbo(x, vae(x, g), likelihood).negative.backward()
        optimizer.step()

    low = metrics.elbo(vae, likelihood, test, n_samples=50)
    few, many, most = (IWAE(vae, likelihood, test, k).value for k in (5, 500, 5000))
    assert low.value + 0.3 < few < many - 0.1
    assert many < most + 0.1  # both are within their noise of log p(x)
    annealed = AIS(vae, likelihood, test, temperatures=120, chains=8, leapfrog_steps=4)
    assert annealed.value == pytest.approx(most, abs=0.4)
    with torch.no_grad():
        mu, log_var = vae.encode(test)
    assert low.value < 0 < float(kl_to_standard_normal(mu, log_var).mean())
    assert 1 <= metrics.active_units(vae, train).count <= 5


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p, x: IWAE(m, p, x, 0), "k is 0"),
        (lambda m, p, x: IWAE(m, p, x, 2.5), "k is 2.5"),
        (lambda m, p, x: metrics.elbo(m, p, x, n_samples=0), "n_samples is 0"),
        (lambda m, p, x: metrics.elbo(m, p, x, batch_size=0), "batch_size is 0"),
        (lambda m, p, x: metrics.elbo(m, p, x[:0]), "n of at least 1"),
        (lambda m, p, x: metrics.elbo(m, p, x.byte()), "torch.uint8"),
        (lambda m, p, x: metrics.elbo(m, p, x * 255), "must lie in"),
        (lambda m, p, x: metrics.elbo(m, p, x / 0), "x holds"),
        (lambda m, p, x: AIS(m, p, x, temperatures=0), "temperatures is 0"),
        (lambda m, p, x: AIS(m, p, x, chains=0), "chains is 0"),
        (lambda m, p, x: AIS(m, p, x, schedule="cosine"), "schedule is 'cosine'"),
        (lambda m, p, x: AIS(m, p, x, start="q"), "start is 'q'"),
        (lambda m, p, x: AIS(m.net, p, x), "pass latent_dim"),
        (lambda m, p, x: AIS(lambda z: m.net(z.detach()), p, x, latent_dim=2), "no gradient"),
        (lambda m, p, x: metrics.bidirectional_check(m, p, 0), "n is 0"),
        (lambda m, p, x: AIS(m, p, x, chains=2.0), "chains is 2.0"),
        (lambda m, p, x: metrics.elbo(m, p, x, generator="a"), "generator .* is 'a'"),
        (lambda m, p, x: IWAE(m, p, x, 2, generator=1.5), "generator .* is 1.5"),
        (lambda m, p, x: metrics.active_units(m, x, threshold=math.nan), "threshold is nan"),
        (lambda m, p, x: metrics.active_units(m, x, threshold=-1), "threshold is -1"),
        (lambda m, p, x: metrics.active_units(m, x, threshold="a"), "threshold is 'a'"),
    ],
)
def test_values_that_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Curved().double(), losses.BernoulliLikelihood(), binary())


@pytest.mark.parametrize(
    "encode",
    [
        lambda x: (x[:, :2], x[:, :3]),
        lambda x: (x[:, 0], x[:, 0]),
        lambda x: (x[:1, :2], x[:1, :2]),
    ],
)
def test_codes_of_a_wrong_shape_are_refused(encode):
    model, likelihood, x = Curved().double(), losses.BernoulliLikelihood(), binary()
    model.encode = encode
    for call in (metrics.elbo, lambda m, p, x: metrics.active_units(m, x)):
        with pytest.raises(ValueError, match=r"both should be \[12, latent\]"):
            call(model, likelihood, x)


def test_counts_may_be_numpy_integers():
    model, likelihood, x = Curved().double(), losses.BernoulliLikelihood(), binary(3)
    for one in (1, 2):
        numbers = {"temperatures": 3, "chains": 4 * one, "leapfrog_steps": one, "batch_size": 5}
        wide = {name: np.int64(number) for name, number in numbers.items()}
        want, got = (AIS(model, likelihood, x, **counts).values for counts in (numbers, wide))
        assert torch.equal(got, want)
        want, got = (IWAE(model, likelihood, x, k).values for k in (one, np.int64(one)))
        assert torch.equal(got, want)


def test_kinds_that_are_refused():
    model, likelihood, x = Curved().double(), losses.BernoulliLikelihood(), binary()
    with pytest.raises(TypeError, match=r"no encode\(\)"):
        metrics.elbo(model.net, likelihood, x)
    with pytest.raises(TypeError, match=r"no encode\(\)"):
        metrics.active_units(model.net, x)
    for wrong in (losses.BernoulliLikelihood, None, 0.1):
        with pytest.raises(TypeError, match="log_prob"):
            IWAE(model, wrong, x, 2)
    with pytest.raises(TypeError, match="no setting 'steps': choose among temperatures, chains"):
        AIS(model, likelihood, x, steps=3)
    with pytest.raises(TypeError, match="sample"):
        custom = SimpleNamespace(log_prob=likelihood.log_prob)
        metrics.bidirectional_check(model, custom, 3)
    images = torch.rand(3, 1, 4, 4)
    with pytest.raises(ValueError, match="deterministic autoencoder"):
        metrics.elbo(mlp_autoencoder((1, 4, 4), 2, (8,)), likelihood, images)
    mean = SimpleNamespace(log_prob=lambda x, decoded: -(x - decoded).square().mean())
    with pytest.raises(ValueError, match="one number per image"):
        metrics.elbo(model, mean, x)


def test_numbers_that_are_not_finite_are_refused_with_their_cause():
    likelihood, x = losses.BernoulliLikelihood(), binary()
    model = Curved().double()
    with torch.no_grad():
        model.net[2].bias[0] = math.nan
    for call in (metrics.elbo, AIS):
        with pytest.raises(ValueError, match="the decoder has diverged"):
            call(model, likelihood, x)
    model = Curved().double()
    model.encode = lambda x: (x[:, :2], torch.full_like(x[:, :2], 2000.0))
    with pytest.raises(ValueError, match="mu or log_var is so large"):
        IWAE(model, likelihood, x, 3)
    model.encode = lambda x: (x[:, :2] / 0, x[:, :2])
    with pytest.raises(ValueError, match="The encoder's mu"):
        metrics.elbo(model, likelihood, x)


def test_a_model_without_weights_works_in_double_precision():
    exact, likelihood = linear()
    model = SimpleNamespace(decode=lambda z: z @ exact.weight.T + exact.bias, latent_dim=2)
    found = metrics.bidirectional_check(model, likelihood, 3, temperatures=20, chains=4)
    assert found.x.dtype == torch.float64
    assert found.lower.value < found.upper.value + 1


def test_an_image_out_of_range_is_told_before_any_density(monkeypatch):
    """On a GPU the likelihood gives NaN for it, which would look like a decoder gone wrong."""
    monkeypatch.setattr(
        losses.variational,
        "_in_unit_interval",
        lambda x: x.masked_fill((x < 0) | (x > 1), math.nan),
    )
    vae = mlp_vae((1, 3, 3), 2, (5,))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        metrics.elbo(vae, losses.BernoulliLikelihood(), torch.full((2, 1, 3, 3), -1.0))
