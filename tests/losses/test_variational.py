"""Likelihoods and ELBO against torch.distributions, exact evidence and the reduction rule."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as D

from course_lib import losses


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def inference(batch=4, shape=(1, 3, 3), latent=2, seed=0, dtype=torch.float64):
    g = rng(seed)
    mu, log_var = torch.randn(2, batch, latent, generator=g, dtype=dtype)
    z = mu + (0.5 * log_var).exp() * torch.randn(batch, latent, generator=g, dtype=dtype)
    decoded = torch.randn(batch, *shape, generator=g, dtype=dtype)
    x = torch.rand(batch, *shape, generator=g, dtype=dtype)
    return x, SimpleNamespace(decoded=decoded, mu=mu, log_var=log_var, z=z)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 10))
def test_log_likelihoods_equal_torch_distributions(seed, sigma):
    x, out = inference(seed=seed)
    bits = (x > 0.5).double()
    torch.testing.assert_close(
        losses.bernoulli_log_likelihood(bits, out.decoded),
        D.Independent(D.Bernoulli(logits=out.decoded), 3).log_prob(bits),
    )
    expected = D.Independent(D.Normal(out.decoded, sigma), 3).log_prob(x)
    torch.testing.assert_close(
        losses.gaussian_log_likelihood(x, out.decoded, sigma), expected, rtol=1e-9, atol=1e-9
    )
    as_tensor = torch.full((len(x), 1, 1, 1), sigma, dtype=x.dtype)
    torch.testing.assert_close(
        losses.gaussian_log_likelihood(x, out.decoded, as_tensor), expected, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
@pytest.mark.parametrize(
    "likelihood",
    [
        losses.BernoulliLikelihood(),
        losses.GaussianLikelihood(0.1),
        losses.GaussianLikelihood(1.5, bounded=False),
        losses.LearnedGaussianLikelihood(0.3),
    ],
)
def test_whole_numbers_are_taken_in_the_precision_of_the_decoder(likelihood, dtype):
    """A sigma of 0.1 must not become a whole number, which is 0, with the pixels."""
    x, out = inference()
    x = (x > 0.5).to(dtype)
    for decoded in (out.decoded, out.decoded.float()):
        found = likelihood.log_prob(x, decoded)
        assert found.dtype == decoded.dtype
        assert torch.equal(found, likelihood.log_prob(x.to(decoded.dtype), decoded))


def test_pixels_up_to_255_are_still_refused_with_their_mend():
    for likelihood in (losses.BernoulliLikelihood(), losses.GaussianLikelihood()):
        with pytest.raises(ValueError, match="by 255"):
            likelihood.log_prob(torch.tensor([[0, 255]], dtype=torch.uint8), torch.zeros(1, 2))


def test_bernoulli_is_finite_at_huge_logits():
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = losses.bernoulli_log_likelihood(torch.tensor([[0.0, 0.0]]), logits)
    value.sum().backward()
    assert value.item() == pytest.approx(-1e4)
    assert torch.isfinite(logits.grad).all()


def test_modules_put_the_mean_in_the_unit_interval():
    x, out = inference()
    mean = out.decoded.sigmoid()
    for likelihood in (losses.GaussianLikelihood(0.3), losses.LearnedGaussianLikelihood(0.3)):
        torch.testing.assert_close(likelihood.mean(out.decoded), mean)
        torch.testing.assert_close(
            likelihood.log_prob(x, out.decoded),
            D.Independent(D.Normal(mean, 0.3), 3).log_prob(x),
            rtol=1e-6,
            atol=1e-6,
        )
    torch.testing.assert_close(losses.BernoulliLikelihood().mean(out.decoded), mean)
    free = losses.GaussianLikelihood(0.3, bounded=False)
    torch.testing.assert_close(
        free.log_prob(x - 5, out.decoded), D.Normal(out.decoded, 0.3).log_prob(x - 5).sum((1, 2, 3))
    )


def test_the_best_learned_sigma_is_the_root_mean_squared_error():
    x, out = inference(batch=64)
    rmse = (x - out.decoded.sigmoid()).square().mean().sqrt().item()
    likelihood = losses.LearnedGaussianLikelihood(rmse).double()
    likelihood.log_prob(x, out.decoded).mean().backward()
    assert likelihood.log_sigma.grad.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    "likelihood",
    [
        losses.BernoulliLikelihood(),
        losses.GaussianLikelihood(0.1),
        losses.LearnedGaussianLikelihood(),
    ],
)
@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        (-0.01, r"\(x \+ 1\) / 2"),
        (1.01, r"\(x \+ 1\) / 2"),
        (254.0, "divide pixels in 0..255 by 255"),
        (float("nan"), "it holds NaN"),
    ],
)
def test_refuses_images_outside_the_unit_interval(likelihood, wrong, mend):
    x = torch.full((2, 1, 2, 2), 0.5)
    x[1, 0, 1, 1] = wrong
    with pytest.raises(ValueError, match=rf"must lie in \[0, 1\].*{mend}"):
        likelihood.log_prob(x, torch.zeros_like(x))
    with pytest.raises(ValueError, match="x is empty"):
        likelihood.log_prob(x[:0], torch.zeros_like(x[:0]))


class OnGPU(torch.Tensor):
    """Says that it lies on a GPU."""

    device = torch.device("cuda")


def test_on_a_gpu_images_outside_the_unit_interval_make_their_own_bound_nan():
    x, out = inference()
    expected = losses.bernoulli_log_likelihood(x, out.decoded)
    x = x.as_subclass(OnGPU)
    found = losses.bernoulli_log_likelihood(x, out.decoded).as_subclass(torch.Tensor)
    assert found.equal(expected)
    for wrong in (-0.01, 1.01, float("nan")):
        x[1, 0, 1, 1] = wrong
        found = losses.bernoulli_log_likelihood(x, out.decoded).as_subclass(torch.Tensor)
        assert found.isnan().tolist() == [False, True, False, False]
        for likelihood in (losses.BernoulliLikelihood(), losses.LearnedGaussianLikelihood()):
            with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
                likelihood.require_range(x.as_subclass(torch.Tensor))
    losses.GaussianLikelihood(0.1, bounded=False).require_range(x)


def test_refuses_shapes_that_would_broadcast_and_bad_sigma():
    x = torch.zeros(4, 1, 2, 2)
    with pytest.raises(ValueError, match="one shape"):
        losses.bernoulli_log_likelihood(x, torch.zeros(4, 3, 2, 2))
    with pytest.raises(ValueError, match="one shape"):
        losses.gaussian_log_likelihood(x, torch.zeros(1, 1, 2, 2), 1.0)
    with pytest.raises(ValueError, match="does not broadcast"):
        losses.gaussian_log_likelihood(x, x, torch.ones(4, 3, 2, 2))
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="sigma must be"):
            losses.gaussian_log_likelihood(x, x, sigma)
        with pytest.raises(ValueError, match="sigma must be"):
            losses.GaussianLikelihood(sigma)


def test_elbo_of_a_linear_gaussian_model_is_exact():
    """x = W z + b + s e: with the exact posterior the mean ELBO is the evidence; else a KL less."""
    torch.set_default_dtype(torch.float64)
    try:
        g = rng(2)
        d, k, s = 5, 2, 0.6
        # Orthogonal columns: the posterior is diagonal, so that a mean-field q can equal it.
        weight = torch.linalg.qr(torch.randn(d, d, generator=g))[0][:, :k] * torch.tensor([2, 0.7])
        bias = torch.randn(d, generator=g)
        x = torch.randn(1, d, generator=g)
        evidence = D.MultivariateNormal(bias, weight @ weight.T + s**2 * torch.eye(d)).log_prob(x)
        precision = weight.T @ weight / s**2 + torch.eye(k)
        variance = 1 / precision.diagonal()
        mean = (x - bias) @ weight / s**2 * variance

        n = 40_000
        for shift in (0.0, 0.5):
            mu = (mean + shift).expand(n, k)
            log_var = variance.log().expand(n, k)
            z = mu + variance.sqrt() * torch.randn(n, k, generator=g)
            out = SimpleNamespace(decoded=z @ weight.T + bias, mu=mu, log_var=log_var, z=z)
            gap = (0.5 * shift**2 / variance).sum()  # KL of two equal-variance Gaussians
            likelihood = losses.GaussianLikelihood(s, bounded=False)
            many = x.expand(n, d)
            error = 4 * likelihood.log_prob(many, out.decoded).std().item() / math.sqrt(n)
            value = losses.elbo(many, out, likelihood).value
            assert value.item() == pytest.approx((evidence - gap).item(), abs=error)
            # With the exact posterior the sampled ELBO has no variance at all.
            sampled = losses.elbo(many, out, likelihood, kl="sampled").value
            tolerance = 1e-9 if shift == 0 else 2 * error
            assert sampled.item() == pytest.approx((evidence - gap).item(), abs=tolerance)
    finally:
        torch.set_default_dtype(torch.float32)


def test_analytic_kl_equals_torch_and_sampled_kl_agrees_with_it():
    x, out = inference(batch=3)
    q = D.Independent(D.Normal(out.mu, (0.5 * out.log_var).exp()), 1)
    prior = D.Independent(D.Normal(torch.zeros_like(out.mu), 1.0), 1)
    likelihood = losses.BernoulliLikelihood()
    torch.testing.assert_close(losses.elbo(x, out, likelihood).kl, D.kl_divergence(q, prior).mean())
    torch.testing.assert_close(
        losses.elbo(x, out, likelihood, kl="sampled").kl,
        (q.log_prob(out.z) - prior.log_prob(out.z)).mean(),
    )


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 20), st.sampled_from(["analytic", "sampled"]))
def test_beta_multiplies_the_summed_kl(beta, kl):
    x, out = inference()
    one = losses.elbo(x, out, losses.BernoulliLikelihood(), kl=kl)
    value, reconstruction, divergence = losses.elbo(x, out, losses.BernoulliLikelihood(), beta, kl)
    torch.testing.assert_close(value, one.reconstruction - beta * one.kl)
    assert (reconstruction, divergence) == (one.reconstruction, one.kl)
    torch.testing.assert_close(one.negative, -one.value)


def test_reduction_sums_over_dimensions_and_averages_over_the_batch():
    x, out = inference()

    def tiled(batch, width):
        return losses.elbo(
            x.repeat(batch, 1, 1, width),
            SimpleNamespace(
                decoded=out.decoded.repeat(batch, 1, 1, width),
                mu=out.mu.repeat(batch, 1),
                log_var=out.log_var.repeat(batch, 1),
                z=out.z.repeat(batch, 1),
            ),
            losses.GaussianLikelihood(0.2),
        )

    one, twice, wide = tiled(1, 1), tiled(2, 1), tiled(1, 2)
    torch.testing.assert_close(twice.value, one.value)
    torch.testing.assert_close(wide.reconstruction, 2 * one.reconstruction)
    torch.testing.assert_close(wide.kl, one.kl)


def test_elbo_refuses_what_does_not_fit():
    x, out = inference()
    with pytest.raises(ValueError, match="'analytic' or 'sampled'"):
        losses.elbo(x, out, losses.BernoulliLikelihood(), kl="exact")
    out.z = out.z[:2]
    with pytest.raises(ValueError, match=r"one shape \[batch, latent\]"):
        losses.elbo(x, out, losses.BernoulliLikelihood())


def test_bits_per_dim():
    # A fair coin per pixel costs one bit per pixel.
    nll = -losses.bernoulli_log_likelihood(torch.ones(2, 784), torch.zeros(2, 784))
    torch.testing.assert_close(losses.bits_per_dim(nll, 784), torch.ones(2))
    assert losses.bits_per_dim(math.log(2), 1) == 1.0
    with pytest.raises(ValueError, match="dims"):
        losses.bits_per_dim(1.0, 0)
