"""The steps of an IWAE, of a conditional VAE and of an autoencoder, and the rate on the line."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from course_lib.losses import BernoulliLikelihood, GaussianLikelihood
from course_lib.models import mlp_autoencoder, mlp_vae
from course_lib.training import (
    TrainingState,
    autoencoder_step,
    iwae_step,
    train,
    vae_state,
    vae_step,
)
from course_lib.training.steps import without_negligible

SHAPE = (1, 3, 3)


def small_vae(seed=0):
    torch.manual_seed(seed)
    return vae_state(mlp_vae(SHAPE, 2, (5,)).double(), BernoulliLikelihood(), seed=seed)


def weights(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def test_with_one_draw_it_is_the_step_of_a_vae():
    x = torch.rand(7, *SHAPE).round().double()
    ours, theirs = small_vae(), small_vae()
    for _ in range(5):
        a, b = iwae_step(ours, x, k=1), vae_step(theirs, x, kl="sampled")
        assert torch.allclose(a["loss"], b["loss"], rtol=1e-12)
        assert torch.allclose(a["elbo"], -a["loss"], rtol=1e-12)
    assert torch.allclose(weights(ours.modules["vae"]), weights(theirs.modules["vae"]), rtol=1e-10)


def test_loss_and_gradient_are_those_of_the_bound_written_out():
    x, k = torch.rand(4, *SHAPE).round().double(), 3
    state = small_vae()
    vae, likelihood = copy.deepcopy(state.modules["vae"]), state.modules["likelihood"]
    noise = torch.Generator()
    noise.set_state(state.generator.get_state())
    values = iwae_step(state, x, k=k)

    mu, log_var = vae.encode(x)
    u = torch.randn(k, len(x), 2, generator=noise, dtype=torch.float64)
    q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    bounds = []
    for i in range(len(x)):
        weights_of_i = []
        for j in range(k):
            z = q.mean[i] + q.stddev[i] * u[j, i]
            log_q = (-0.5 * ((z - q.mean[i]) / q.stddev[i]) ** 2 - q.stddev[i].log()).sum()
            log_w = likelihood.log_prob(x[i : i + 1], vae.decode(z[None]))[0] - 0.5 * (z**2).sum()
            weights_of_i.append((log_w - log_q).exp())
        bounds.append(torch.stack(weights_of_i).mean().log())
    loss = -torch.stack(bounds).mean()
    loss.backward()
    assert values["loss"].item() == pytest.approx(loss.item(), rel=1e-12)
    for ours, theirs in zip(state.modules["vae"].parameters(), vae.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)


class LinearGaussian(nn.Module):
    """z ~ N(0, 1), x = z + e with e ~ N(0, 1): p(x) = N(0, 2). q(z|x) = N(x/2, 1) is too wide."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def encode(self, x):
        return self.scale * x, torch.zeros_like(x)

    def decode(self, z):
        return z

    def sample_posterior(self, mu, log_var, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype)
        return mu + noise * (0.5 * log_var).exp()


def test_the_bound_rises_with_k_to_the_log_likelihood():
    x = torch.linspace(-1, 1, 4000, dtype=torch.float64)[:, None]
    exact = torch.distributions.Normal(0, math.sqrt(2)).log_prob(x).mean().item()
    bounds = []
    for k in (1, 10, 1000):
        model, likelihood = LinearGaussian(), GaussianLikelihood(1.0, bounded=False)
        state = TrainingState(
            {"vae": model, "likelihood": likelihood},
            {"vae": torch.optim.SGD(model.parameters(), lr=0.0)},
        )
        bounds.append(-iwae_step(state, x, k=k)["loss"].item())
    # The posterior is N(x/2, 1/2); KL(N(m, 1) || N(m, 1/2)) = 1/2 (2 - 1 - log 2).
    assert bounds[0] == pytest.approx(exact - 0.5 * (1 - math.log(2)), abs=0.03)
    assert bounds[0] < bounds[1] < bounds[2] == pytest.approx(exact, abs=2e-3)


class Watched(LinearGaussian):
    """Keeps the gradient that arrives at the decoder's output."""

    def __init__(self, dtype):
        super().__init__()
        self.to(dtype)

    def decode(self, z):
        self.decoded = z
        z.register_hook(lambda gradient: setattr(self, "gradient", gradient))
        return z


def watched_step(dtype, sigma, k=50):
    """A step whose log-weights spread over hundreds of nats; and the same bound in plain words."""
    x = torch.linspace(-2, 2, 64, dtype=dtype)[:, None]
    model, likelihood = Watched(dtype), GaussianLikelihood(sigma, bounded=False)
    state = TrainingState(
        {"vae": model, "likelihood": likelihood},
        {"vae": torch.optim.SGD(model.parameters(), lr=0.0)},
    )
    loss = iwae_step(state, x, k=k)["loss"]
    z = model.decoded.detach().requires_grad_()
    mu = model.scale.detach() * x.repeat(k, 1)
    log_w = likelihood.log_prob(x.repeat(k, 1), z) + 0.5 * ((z - mu) ** 2 - z**2).sum(1)
    plain = math.log(k) - log_w.view(k, -1).logsumexp(0).mean()
    # What reaches z through the likelihood and through log p(z) - log q(z|x).
    (gradient,) = torch.autograd.grad(plain, z)
    return loss, plain.detach(), model.gradient, gradient


def subnormal(x):
    return ((x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)).sum().item()


def test_draws_of_no_weight_change_neither_bound_nor_gradient():
    loss, plain, gradient, expected = watched_step(torch.float64, 0.05)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-14)
    assert (gradient == 0).float().mean() > 0.2  # they are there, and left out
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-12)


def test_draws_of_no_weight_leave_no_subnormal_gradients():
    """With them, the decoder's products of matrices are many times slower on many CPUs."""
    _, _, gradient, plain = watched_step(torch.float32, 0.05)
    assert subnormal(plain) > 0  # so the case is one
    assert subnormal(gradient) == 0


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_a_log_weight_that_is_no_number_is_not_hidden(worst):
    log_w = torch.tensor([[0.0, worst], [-500.0, worst], [-1.0, worst]])
    kept = without_negligible(log_w)
    assert torch.equal(kept[:, 0], torch.tensor([0.0, -math.inf, -1.0]))
    assert torch.allclose(kept.logsumexp(0), log_w.logsumexp(0), equal_nan=True)


def test_no_draw_is_refused():
    with pytest.raises(ValueError, match="choose 1 or more"):
        iwae_step(small_vae(), torch.zeros(2, *SHAPE).double(), k=0)


def test_a_condition_reaches_the_vae():
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = mlp_vae(SHAPE, 2, (5,))

        def forward(self, x, generator, *given):
            seen.extend(given)
            return self.vae(x, generator)

    state = vae_state(Watching(), BernoulliLikelihood())
    x, y = torch.rand(3, *SHAPE).round(), torch.arange(3)
    vae_step(state, x)
    assert seen == []
    vae_step(state, x, condition=y)
    assert len(seen) == 1 and torch.equal(seen[0], y)


def test_an_autoencoder_descends_on_the_squared_error_per_image():
    torch.manual_seed(0)
    model = mlp_autoencoder(SHAPE, 4, (20,))
    x = torch.rand(6, *SHAPE)
    state = TrainingState(
        {"autoencoder": model}, {"autoencoder": torch.optim.Adam(model.parameters(), 1e-2)}
    )
    x_hat = model(x).sigmoid().detach()
    expected = sum(float(((a - b) ** 2).sum()) for a, b in zip(x, x_hat, strict=True)) / 6
    losses = [autoencoder_step(state, x)["loss"].item() for _ in range(300)]
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0] / 5


def test_the_line_ends_with_images_per_second_if_asked(capsys):
    class Ones:
        def __iter__(self):
            return self

        def __next__(self):
            return torch.ones(8, *SHAPE)

    for show_rate in (False, True):
        state = vae_state(mlp_vae(SHAPE, 2, (5,)), BernoulliLikelihood())
        train(state, vae_step, Ones(), 3, show_rate=show_rate)
        assert ("images/s" in capsys.readouterr().err) is show_rate
