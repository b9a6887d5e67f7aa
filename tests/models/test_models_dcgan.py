"""The convolutional GAN pair: sizes, weights, initialisation, receptive fields."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from course_lib.models import DCGANDiscriminator, DCGANGenerator, count_parameters, dcgan_init

# Written out by hand, image end first, in multiples of `width`.
MULTIPLES = {16: [1, 2], 28: [1, 2], 32: [1, 2, 4], 64: [1, 2, 4, 8], 128: [1, 2, 4, 8, 8]}
START = {16: 4, 28: 7, 32: 4, 64: 4, 128: 4}
EVERY = [(size, channels) for size in MULTIPLES for channels in (1, 3)]


@pytest.mark.parametrize(("size", "channels"), EVERY)
def test_pair_shapes_ranges_and_counts(size, channels):
    width, latent = 4, 6
    widths = [width * m for m in MULTIPLES[size]]
    inner = sum(16 * a * b + 2 * b for a, b in pairwise(widths))  # kernel 4 x 4, then batch norm
    inner_up = sum(16 * a * b + 2 * a for a, b in pairwise(widths))
    top = widths[-1]
    generator = DCGANGenerator(size, channels, latent, width)
    discriminator = DCGANDiscriminator(size, channels, width)
    project = latent * top * START[size] ** 2 + 2 * top
    assert count_parameters(generator) == project + inner_up + 16 * width * channels + channels
    first, head = 16 * channels * width + width, top * START[size] ** 2 + 1
    assert count_parameters(discriminator) == first + inner + head
    images = generator(torch.randn(2, latent))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (2,)


def test_paper_like_sizes_at_64_pixels():
    """Width 128 starts from the paper's 4 x 4 x 1024."""
    generator = DCGANGenerator(64, 3, 100, 128).to("meta")
    assert generator.project(torch.empty(1, 100, device="meta")).shape == (1, 1024, 4, 4)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("size", [28, 32])
def test_a_gradient_reaches_every_parameter(size, batch_norm):
    torch.manual_seed(0)
    generator = DCGANGenerator(size, 3, 8, 8)
    discriminator = DCGANDiscriminator(size, 3, 8, batch_norm)
    discriminator(generator(torch.randn(4, 8))).square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_first_layer_has_no_batch_norm_and_the_switch_removes_the_rest():
    kinds = [type(layer) for layer in DCGANDiscriminator(32).features]
    assert kinds[:2] == [nn.Conv2d, nn.LeakyReLU]
    assert kinds.count(nn.BatchNorm2d) == 2
    plain = DCGANDiscriminator(32, batch_norm=False)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())


def test_without_batch_norm_the_images_of_a_batch_are_independent():
    x = torch.randn(3, 1, 28, 28).requires_grad_()
    for batch_norm, tied in ((False, False), (True, True)):
        logits = DCGANDiscriminator(28, width=4, batch_norm=batch_norm)(x)
        (gradient,) = torch.autograd.grad(logits[0], x)
        assert bool(gradient[1:].abs().max() > 0) is tied


@pytest.mark.parametrize("network", [DCGANGenerator(28), DCGANDiscriminator(64)])
def test_initial_weights_have_the_stated_moments(network):
    for layer in network.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.BatchNorm2d):
            continue
        mean = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
        n = layer.weight.numel()
        assert abs(layer.weight.mean().item() - mean) < 5 * 0.02 / math.sqrt(n)
        assert abs(layer.weight.std().item() - 0.02) < 5 * 0.02 / math.sqrt(2 * n)
        assert layer.bias is None or (layer.bias == 0).all()


def test_dcgan_init_follows_its_generator():
    def weights(seed: int):
        layer = dcgan_init(nn.Conv2d(2, 3, 4), torch.Generator().manual_seed(seed))
        return layer.weight.detach()

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize(("size", "field"), [(28, 10), (32, 22), (64, 46)])
def test_receptive_field_of_one_feature(size, field):
    """Kernel 4, stride 2: the field is r <- r + 3 * 2^(layer - 1), that is 4, 10, 22, 46."""
    net = DCGANDiscriminator(size, 1, 2, batch_norm=False)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)  # positive weights: no gradient cancels
    x = torch.rand(1, 1, size, size, requires_grad=True)
    features = net.features(x)
    middle = features.shape[-1] // 2
    features[0, :, middle, middle].sum().backward()
    rows, columns = x.grad[0, 0].nonzero(as_tuple=True)
    layers = len(MULTIPLES[size])
    start = middle * 2**layers - (2**layers - 1)
    expected = list(range(max(start, 0), min(start + field, size)))
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == expected
    assert len(rows) == len(expected) ** 2


def test_kernel_4_stride_2_covers_inner_pixels_evenly():
    layer = DCGANGenerator(32, 1, 4, 4).upsample[0][0]
    nn.init.ones_(layer.weight)
    out = layer(torch.ones(1, layer.in_channels, 4, 4)) / layer.in_channels
    assert (out[..., 1:-1, 1:-1] == 4).all()


def test_eval_mode_is_deterministic_and_treats_each_row_alone():
    torch.manual_seed(0)
    generator, discriminator = DCGANGenerator(28, 1, 5, 8), DCGANDiscriminator(28, 1, 8)
    z = torch.randn(4, 5)
    discriminator(generator(z))  # moves the running statistics
    generator.eval(), discriminator.eval()
    images = generator(z)
    assert torch.equal(images, generator(z))
    torch.testing.assert_close(images[2:3], generator(z[2:3]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(discriminator(images)[2:3], discriminator(images[2:3]))


def test_batch_of_one_trains():
    images = DCGANGenerator(16, 1, 5, 4)(torch.randn(1, 5))
    assert DCGANDiscriminator(16, 1, 4)(images).shape == (1,)


def test_seed_reproduces_and_state_dict_round_trips():
    def build(seed: int):
        torch.manual_seed(seed)
        return DCGANGenerator(28, 1, 5, 4)

    z, one, two = torch.randn(2, 5), build(1), build(2)
    torch.testing.assert_close(one(z), build(1)(z), rtol=0, atol=0)
    assert not torch.equal(one.eval()(z), two.eval()(z))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(z), two(z))


@pytest.mark.parametrize("network", [DCGANGenerator, DCGANDiscriminator])
@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"image_size": 30}, "16, 28, 32, 64 or 128"),
        ({"channels": 2}, "1 or 3"),
        ({"channels": True}, "1 or 3"),
        ({"width": 0}, "at least 1"),
        ({"image_size": "28"}, "not supported"),
    ],
)
def test_unsupported_sizes_are_refused(network, kwargs, match):
    with pytest.raises(ValueError, match=match):
        network(**kwargs)


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match=r"z\.flatten\(1\)"):
        DCGANGenerator(28, width=4)(torch.zeros(2, 100, 1, 1))
    with pytest.raises(ValueError, match="28 x 28"):
        DCGANDiscriminator(28, width=4)(torch.zeros(2, 1, 32, 32))
