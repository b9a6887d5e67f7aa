"""The article's networks as printed, TensorFlow's "same" padding, and the corrected twins."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d
from torch import nn

from course_lib.models import (
    ArticleDecoder,
    ArticleDiscriminator,
    ArticleEncoder,
    ArticleGenerator,
    CorrectedDecoder,
    CorrectedDiscriminator,
    CorrectedEncoder,
    CorrectedGenerator,
    SamePadConv2d,
    SamePadConvTranspose2d,
    count_parameters,
)

EVERY = [(size, channels) for size in (28, 32, 64) for channels in (1, 3)]


def conv(fan_in: int, fan_out: int, kernel: int = 5) -> int:
    return kernel**2 * fan_in * fan_out + fan_out


def dense(fan_in: int, fan_out: int) -> int:
    return fan_in * fan_out + fan_out


def positive(network: nn.Module, value: float = 1.0) -> nn.Module:
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


# --- "same" padding -------------------------------------------------------------------------------


def same_by_scipy(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's rule spelled out: pad for ceil(in / s) outputs, correlate, keep each s-th."""
    kernel, pads = weight.shape[-1], []
    for size in x.shape[1:]:
        out = -(-size // stride)
        total = max((out - 1) * stride + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *pads])
    maps = [
        sum(correlate2d(x[i], w[i], mode="valid") for i in range(len(x)))[::stride, ::stride]
        for w in weight
    ]
    return np.stack(maps)


@given(
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    kernel=st.integers(1, 6),
    stride=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_same_convolution_against_scipy(height, width, kernel, stride, seed):
    torch.manual_seed(seed)
    layer = SamePadConv2d(2, 3, kernel, stride).double()
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    out = layer(x)
    assert out.shape == (1, 3, math.ceil(height / stride), math.ceil(width / stride))
    expected = same_by_scipy(x[0].numpy(), layer.weight.detach().numpy(), stride)
    expected += layer.bias.detach().numpy()[:, None, None]
    np.testing.assert_allclose(out[0].detach().numpy(), expected, atol=1e-12)


@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    stride=st.integers(1, 3),
    extra=st.integers(0, 4),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_transposed_is_the_gradient_of_the_convolution(height, width, stride, extra, seed):
    torch.manual_seed(seed)
    kernel = stride + extra
    up = SamePadConvTranspose2d(3, 2, kernel, stride).double()
    down = SamePadConv2d(2, 3, kernel, stride).double()
    down.weight = up.weight  # both are [3, 2, kernel, kernel]
    nn.init.zeros_(up.bias)
    large = torch.zeros(1, 2, stride * height, stride * width, dtype=torch.float64).requires_grad_()
    small = torch.randn(1, 3, height, width, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(down(large), large, small)
    out = up(small)
    assert out.shape == large.shape
    torch.testing.assert_close(out, gradient)


def test_padding_is_asymmetric():
    """Output (i, j) of the strided layer sees rows 2i-1 .. 2i+3: one zero above, two below."""
    layer = positive(SamePadConv2d(1, 1))
    x = torch.zeros(1, 1, 8, 8, requires_grad=True)
    for i, expected in ((0, [0, 1, 2, 3]), (1, [1, 2, 3, 4, 5]), (3, [5, 6, 7])):
        (gradient,) = torch.autograd.grad(layer(x)[0, 0, i, 1], x)
        assert gradient[0, 0].any(dim=1).nonzero().flatten().tolist() == expected


def test_one_pixel_spreads_where_tensorflow_puts_it():
    layer = SamePadConvTranspose2d(1, 1)
    nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    rows = layer(x)[0, 0].any(dim=1).nonzero().flatten().tolist()
    assert rows == [3, 4, 5, 6, 7]


def test_kernel_5_stride_2_covers_pixels_unevenly():
    layer = SamePadConvTranspose2d(1, 1)
    nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    inner = layer(torch.ones(1, 1, 8, 8))[0, 0, 4:-4, 4:-4]
    assert sorted(set(inner.flatten().tolist())) == [4.0, 6.0, 9.0]


def test_kernel_below_stride_is_refused():
    with pytest.raises(ValueError, match="never reached"):
        SamePadConvTranspose2d(1, 1, kernel_size=1, stride=2)


# --- as printed -----------------------------------------------------------------------------------


def test_article_generator():
    torch.manual_seed(0)
    generator = ArticleGenerator()
    layers = [dense(100, 128), dense(128, 1024), dense(1024, 7 * 7 * 256)]
    assert layers == [12_928, 132_096, 12_857_600]
    total = sum(layers) + conv(256, 128) + conv(128, 64) + conv(64, 3)
    assert count_parameters(generator) == total == 14_031_619
    assert round(100 * count_parameters(generator.dense) / total, 1) == 92.7
    images = generator(torch.randn(2, 100))
    assert images.shape == (2, 3, 56, 56) and images.abs().max() <= 1
    images.square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    for layer in generator.modules():
        if isinstance(layer, nn.Linear):  # Glorot uniform, zero bias
            limit = math.sqrt(6 / sum(layer.weight.shape))
            assert 0.99 * limit < layer.weight.abs().max() <= limit
            assert isinstance(layer.bias, nn.Parameter)


@pytest.mark.parametrize(
    ("channels", "size", "features"), [(1, 28, 2048), (3, 32, 2048), (3, 56, 6272), (3, 128, 32768)]
)
def test_article_discriminator_and_encoder(channels, size, features):
    trunk = conv(channels, 32) + conv(32, 64) + conv(64, 128)
    discriminator = ArticleDiscriminator(channels, size)
    assert count_parameters(discriminator) == trunk + features + 1
    encoder = ArticleEncoder(channels, size)
    assert count_parameters(encoder) == trunk and encoder.code_dim == features
    x = torch.randn(2, channels, size, size)
    probability, code = discriminator(x), encoder(x)
    assert probability.shape == (2, 1) and ((probability > 0) & (probability < 1)).all()
    torch.testing.assert_close(torch.logit(probability), discriminator.logits(x))
    assert code.shape == (2, features) and (code >= 0).all() and (code > 0).any()


def test_article_head_fits_one_size_only():
    with pytest.raises(ValueError, match="56 x 56"):
        ArticleDiscriminator()(torch.zeros(1, 3, 32, 32))


def test_leaky_slope_is_tensorflows():
    slopes = {
        m.negative_slope for m in ArticleDiscriminator().modules() if hasattr(m, "negative_slope")
    }
    assert slopes == {0.2}


def test_article_decoder_on_meta():
    decoder = ArticleDecoder(device="meta")
    layers = (dense(2048, 4096), dense(4096, 1024 * 16 * 16))
    assert layers[1] == 1_074_003_968
    assert count_parameters(decoder.dense[2]) == layers[1]
    assert count_parameters(decoder) == sum(layers) + conv(128, 64) + conv(64, 32) + conv(32, 3)
    assert {p.device.type for p in decoder.parameters()} == {"meta"}
    code = ArticleEncoder().to("meta")(torch.empty(4, 1, 28, 28, device="meta"))
    assert decoder(code).shape == (32, 3, 128, 128)
    narrow = ArticleDecoder(latent_dim=10, device="meta")
    assert narrow(torch.empty(1, 10, device="meta")).shape == (8, 3, 128, 128)
    with pytest.raises(ValueError, match="latent of 2048"):
        narrow(code)


def test_article_decoder_makes_eight_images_of_one_code():
    decoder = ArticleDecoder(latent_dim=4, hidden=2)
    codes = torch.rand(2, 4)
    images = decoder(codes)
    assert images.shape == (16, 3, 128, 128) and images.abs().max() <= 1
    torch.testing.assert_close(images[8:], decoder(codes[1:]), atol=1e-5, rtol=1e-4)


# --- the corrected twins --------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "channels"), EVERY)
def test_corrected_gan_pair(size, channels):
    torch.manual_seed(0)
    generator = CorrectedGenerator(size, channels, 10)
    discriminator = CorrectedDiscriminator(size, channels)
    start = {28: 7, 32: 4, 64: 8}[size]
    widths = [256, 128] if size == 28 else [256, 128, 64]
    count = 10 * 256 * start**2 + 2 * 256 + conv(widths[-1], channels, 4)
    count += sum(16 * a * b + 2 * b for a, b in pairwise(widths))
    assert count_parameters(generator) == count
    trunk = conv(channels, 32) + 25 * (32 * 64 + 64 * 128) + 2 * (64 + 128)
    features = {28: 2048, 32: 2048, 64: 8192}[size]
    assert count_parameters(discriminator) == trunk + features + 1
    images = generator(torch.randn(3, 10))
    assert images.shape == (3, channels, size, size) and images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (3,)
    logits.square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("size", "channels"), EVERY)
def test_corrected_vae_halves(size, channels):
    encoder, decoder = CorrectedEncoder(size, channels), CorrectedDecoder(size, channels)
    features = {28: 2048, 32: 2048, 64: 8192}[size]
    trunk = conv(channels, 32) + conv(32, 64) + conv(64, 128)
    assert count_parameters(encoder) == trunk + 2 * dense(features, 64)
    start = {28: 7, 32: 8, 64: 8}[size]
    tail = conv(32, channels, 4) + conv(64, 32, 4) if size == 64 else conv(64, channels, 4)
    assert count_parameters(decoder) == dense(64, 128 * start**2) + conv(128, 64, 4) + tail
    mu, log_var = encoder(torch.rand(2, channels, size, size))
    assert mu.shape == log_var.shape == (2, 64)
    assert decoder(mu).shape == (2, channels, size, size)


def test_corrected_encoder_keeps_the_articles_trunk():
    article, corrected = ArticleEncoder(), CorrectedEncoder()
    corrected.trunk.load_state_dict(article.trunk.state_dict())
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(corrected.trunk(x), article(x))


def test_corrected_pair_in_eval_mode():
    torch.manual_seed(0)
    generator, twin = (
        CorrectedGenerator(latent_dim=6).eval(),
        CorrectedGenerator(latent_dim=6).eval(),
    )
    z = torch.randn(3, 6)
    assert torch.equal(generator(z), generator(z)) and not torch.equal(generator(z), twin(z))
    twin.load_state_dict(generator.state_dict())
    assert torch.equal(generator(z), twin(z))
    torch.testing.assert_close(generator(z)[:1], generator(z[:1]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "network", [CorrectedGenerator, CorrectedDiscriminator, CorrectedEncoder, CorrectedDecoder]
)
def test_corrected_networks_refuse_the_articles_sizes(network):
    with pytest.raises(ValueError, match="28, 32 or 64"):
        network(image_size=56)
    with pytest.raises(ValueError, match="1 or 3"):
        network(channels=2)


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"z\.flatten\(1\)"):
        ArticleGenerator()(torch.zeros(2, 100, 1, 1))
    with pytest.raises(ValueError, match="at least 1"):
        ArticleDecoder(hidden=0)
    with pytest.raises(ValueError, match="at least 1"):
        ArticleEncoder(image_size=0)
