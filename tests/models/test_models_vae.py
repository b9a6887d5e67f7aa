"""Variational and deterministic autoencoders: shapes, weights, and the reparameterised sample."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.models import (
    VAE,
    Autoencoder,
    ConvDecoder,
    ConvEncoder,
    CorrectedDecoder,
    CorrectedEncoder,
    MLPDecoder,
    MLPEncoder,
    conv_autoencoder,
    conv_vae,
    count_parameters,
    mlp_autoencoder,
    mlp_vae,
)

LEVELS = {28: ([1, 2], 7), 32: ([1, 2, 4], 4), 64: ([1, 2, 4, 8], 4)}
SMALL = {
    "mlp": lambda: mlp_vae((1, 8, 8), 3, (16,)),
    "linear": lambda: mlp_vae((1, 8, 8), 3, ()),
    "conv": lambda: conv_vae(28, 1, 3, 4),
    "corrected": lambda: VAE(CorrectedEncoder(latent_dim=3), CorrectedDecoder(latent_dim=3)),
}


def dense_count(sizes) -> int:
    return sum(a * b + b for a, b in pairwise(sizes))


@pytest.mark.parametrize("hidden", [(), (9,), (9, 5)])
def test_mlp_counts(hidden):
    trunk = (192, *hidden)
    encoder, decoder = MLPEncoder((3, 8, 8), 4, hidden), MLPDecoder((3, 8, 8), 4, hidden)
    assert count_parameters(encoder) == dense_count(trunk) + 2 * (trunk[-1] * 4 + 4)
    assert count_parameters(decoder) == dense_count((4, *hidden[::-1], 192))


@pytest.mark.parametrize("size", LEVELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_conv_shapes_and_counts(size, channels):
    width, latent = 4, 16
    multiples, start = LEVELS[size]
    widths = [channels, *(width * m for m in multiples)]
    flat, hidden = widths[-1] * start**2, 8 * width
    down = sum(16 * a * b + b for a, b in pairwise(widths))
    up = sum(16 * a * b + a for a, b in pairwise(widths))
    vae = conv_vae(size, channels, latent, width)
    heads = 2 * (hidden * latent + latent)
    assert count_parameters(vae.encoder) == down + dense_count((flat, hidden)) + heads
    assert count_parameters(vae.decoder) == up + dense_count((latent, hidden, flat))
    output = vae(torch.rand(2, channels, size, size))
    assert output.decoded.shape == (2, channels, size, size)
    assert output.mu.shape == output.log_var.shape == output.z.shape == (2, latent)
    assert (output.mu < 0).any()  # no ReLU before the code


@given(
    st.floats(-3, 3),
    st.floats(-4, 2),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=20, deadline=None)
def test_the_sample_has_the_stated_moments(mean, log_variance, seed):
    n = 20_000
    mu = torch.full((n, 1), mean, dtype=torch.float64)
    log_var = torch.full((n, 1), log_variance, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed % 1000)
    z = SMALL["linear"]().sample_posterior(mu, log_var, generator)
    variance = math.exp(log_variance)
    # Four standard errors, and a fifth for looking at many seeds.
    assert abs(z.mean().item() - mean) < 5 * math.sqrt(variance / n)
    assert abs(z.var().item() - variance) < 5 * variance * math.sqrt(2 / (n - 1))


def test_gradients_flow_through_the_sample():
    mu = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    log_var = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    z = SMALL["linear"]().sample_posterior(mu, log_var, torch.Generator().manual_seed(5))
    epsilon = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    std = log_var.detach().exp().sqrt()
    torch.testing.assert_close(z.detach(), mu.detach() + std * epsilon)
    z.sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones_like(mu))
    torch.testing.assert_close(log_var.grad, epsilon * std / 2)


def test_noise_is_drawn_where_the_generator_lives(monkeypatch):
    """`meta` stands for another device; unlike CUDA it would not complain, hence the record."""
    drawn_on, draw = [], torch.randn

    def recording(*args, **kwargs):
        drawn_on.append(kwargs["device"].type)
        return draw(*args, **kwargs)

    monkeypatch.setattr(torch, "randn", recording)
    mu = torch.zeros(2, 3, device="meta")
    for generator in (torch.Generator().manual_seed(0), None):
        assert SMALL["linear"]().sample_posterior(mu, mu, generator).device.type == "meta"
    assert drawn_on == ["cpu", "meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cpu_generator_gives_the_same_noise_on_a_gpu():
    vae, mu = SMALL["linear"](), torch.zeros(4, 3)
    on_cpu = vae.sample_posterior(mu, mu, torch.Generator().manual_seed(1))
    on_gpu = vae.sample_posterior(mu.cuda(), mu.cuda(), torch.Generator().manual_seed(1))
    assert torch.equal(on_cpu, on_gpu.cpu())


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("batch", [1, 5])
def test_one_pass_reaches_every_parameter(kind, batch):
    torch.manual_seed(0)
    vae = SMALL[kind]()
    output = vae(torch.rand(batch, *vae.image_shape))
    assert output.decoded.shape == (batch, *vae.image_shape)
    output.decoded.square().sum().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", SMALL)
def test_generator_decides_the_pass(kind):
    vae = SMALL[kind]().eval()
    x = torch.rand(2, *vae.image_shape)
    one, same = (vae(x, torch.Generator().manual_seed(7)) for _ in range(2))
    other = vae(x, torch.Generator().manual_seed(8))
    assert torch.equal(one.decoded, same.decoded) and torch.equal(one.z, same.z)
    assert torch.equal(one.mu, other.mu) and not torch.equal(one.z, other.z)
    torch.testing.assert_close(vae.decode(one.z), one.decoded)
    twin = SMALL[kind]().eval()
    twin.load_state_dict(vae.state_dict())
    assert torch.equal(twin(x, torch.Generator().manual_seed(7)).decoded, one.decoded)


def test_linear_vae_is_linear():
    vae = mlp_vae((1, 4, 4), 2, ())
    a, b = torch.rand(2, 3, 1, 4, 4)
    middle = vae.encode((a + b) / 2)
    for half, left, right in zip(middle, vae.encode(a), vae.encode(b), strict=True):
        torch.testing.assert_close(half, (left + right) / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "network", [mlp_autoencoder((1, 8, 8), 3, (16,)), conv_autoencoder(28, 1, 3, 4)]
)
def test_autoencoder_is_deterministic(network):
    x = torch.rand(2, *network.image_shape)
    assert network.encode(x).shape == (2, 3)
    assert network(x).shape == x.shape
    assert torch.equal(network(x), network.decode(network.encode(x)))
    assert not any("log_var" in name for name, _ in network.named_parameters())


def test_autoencoder_uses_mu_of_a_variational_encoder():
    encoder = MLPEncoder((1, 8, 8), 3)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(Autoencoder(encoder, MLPDecoder((1, 8, 8), 3)).encode(x), encoder(x)[0])


def test_autoencoder_saves_exactly_the_log_var_head():
    args = (28, 1, 6, 4)
    difference = count_parameters(conv_vae(*args)) - count_parameters(conv_autoencoder(*args))
    assert difference == 32 * 6 + 6


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: ConvEncoder(image_size=16), "28, 32 or 64"),
        (lambda: ConvDecoder(channels=4), "1 or 3"),
        (lambda: conv_vae(latent_dim=0), "latent_dim"),
        (lambda: VAE(MLPEncoder(latent_dim=2), MLPDecoder(latent_dim=3)), "latent_dim is 2"),
        (lambda: VAE(ConvEncoder(28), ConvDecoder(32)), "image_shape"),
        (lambda: VAE(MLPEncoder(variational=False), MLPDecoder()), "variational=True"),
        (lambda: mlp_vae()(torch.rand(2, 1, 32, 32)), "28 x 28"),
        (lambda: mlp_vae().decode(torch.rand(2, 20, 1, 1)), r"flatten\(1\)"),
        (
            lambda: mlp_vae().sample_posterior(torch.zeros(2, 3), torch.zeros(3)),
            "as the encoder returned",
        ),
    ],
)
def test_refusals(build, match):
    with pytest.raises(ValueError, match=match):
        build()
