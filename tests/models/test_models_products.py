"""Convolutions as matrix products against torch's own, to the second derivative."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from course_lib import models
from course_lib.models import ProductConv2d, ProductConvTranspose2d, as_products

EVERYWHERE = 10**9  # maps of any size
CASES = [
    (nn.Conv2d, {"kernel_size": 3, "stride": 2, "padding": 1}),
    (nn.Conv2d, {"kernel_size": 4, "stride": 2, "padding": 1}),
    (nn.Conv2d, {"kernel_size": 1}),
    (nn.Conv2d, {"kernel_size": 2, "stride": 3}),
    (nn.Conv2d, {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0)}),
    (nn.ConvTranspose2d, {"kernel_size": 4, "stride": 2, "padding": 1}),
    (nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}),
    (nn.ConvTranspose2d, {"kernel_size": 2, "stride": 3, "output_padding": 2}),
    (nn.ConvTranspose2d, {"kernel_size": 4}),
    (nn.ConvTranspose2d, {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0)}),
    (nn.ConvTranspose2d, {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1}),
]


def derivatives(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The result, its gradients, and gradients of those."""
    y = layer(x)
    first = torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()], create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, layer.weight])
    return [y, *first, *second]


def convolutions(function) -> int:
    """How many convolutions torch itself computed in a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watch:
        function()
    return sum(e.count for e in watch.key_averages() if e.key == "aten::convolution")


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (2, 2)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_results_and_derivatives_are_those_of_torch(kind, options, bias, order, size):
    torch.manual_seed(0)
    layer = kind(3, 5, bias=bias, **options).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    try:
        expected = derivatives(layer, x)
    except RuntimeError:
        pytest.skip("this map is too small for the kernel")
    product = as_products(copy.deepcopy(layer).to(memory_format=order), EVERYWHERE, 1)
    assert type(product) in (ProductConv2d, ProductConvTranspose2d)
    for mine, theirs in zip(derivatives(product, x), expected, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "bias": False},
        {"kernel_size": (2, 3), "padding": (0, 2)},
        {"kernel_size": 1},
    ],
)
def test_few_channels_are_given_to_patches_with_the_same_derivatives(options, order):
    torch.manual_seed(0)
    layer = nn.Conv2d(48, 2, **options).double()
    x = torch.randn(2, 48, 6, 7, dtype=torch.float64, requires_grad=True)
    expected = derivatives(layer, x)
    product = as_products(copy.deepcopy(layer).to(memory_format=order), share=2)
    assert convolutions(lambda: product(x)) == 0
    for mine, theirs in zip(derivatives(product, x), expected, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"out_channels": 1, "padding": 1}, 0),
        ({"out_channels": 2, "padding": 1}, 1),
        ({"out_channels": 1, "padding": 1, "stride": 2}, 1),
        ({"out_channels": 1, "padding": 3}, 1),
    ],
)
def test_many_channels_stay_convolutions(options, left):
    layer = as_products(nn.Conv2d(36, kernel_size=3, **options))
    assert convolutions(lambda: layer(torch.randn(1, 36, 16, 16))) == left


def test_small_maps_of_few_channels_stay_convolutions():
    for wide, left in ((256, 0), (255, 1)):
        layer = as_products(nn.Conv2d(256, wide, 3, 2, 1))
        assert convolutions(partial(layer, torch.randn(1, 256, 8, 8))) == left


@pytest.mark.parametrize(("side", "left"), [(8, 0), (10, 1)])
def test_only_small_maps_are_products(side, left):
    down = as_products(nn.Conv2d(2, 3, 3, 2, 1), channels=1)
    up = as_products(nn.ConvTranspose2d(2, 3, 4, 2, 1), channels=1)
    assert convolutions(lambda: down(torch.randn(1, 2, side, side))) == left
    assert convolutions(lambda: up(torch.randn(1, 2, side // 2, side // 2))) == left


def test_channels_last_needs_no_copy_and_stays():
    layer = as_products(nn.Conv2d(4, 8, 3, 2, 1).to(memory_format=torch.channels_last), channels=1)
    x = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    matrix = layer.weight.permute(0, 2, 3, 1).reshape(8, -1)
    assert matrix.data_ptr() == layer.weight.data_ptr()


def test_networks_keep_their_names_and_weights():
    network = models.DCGANDiscriminator(32, 1, 8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.rand(4, 1, 32, 32) * 2 - 1
    expected = network.eval()(x)
    assert as_products(network, channels=1) is network
    assert any(type(layer) is ProductConv2d for layer in network.modules())
    assert before.keys() == network.state_dict().keys()
    torch.testing.assert_close(network(x), expected)
    again = copy.deepcopy(network)
    torch.testing.assert_close(again(x), expected)
    fresh = models.DCGANDiscriminator(32, 1, 8).eval()
    fresh.load_state_dict(network.state_dict())
    torch.testing.assert_close(fresh(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        models.SamePadConv2d(4, 4, 3, 2),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
    ],
)
def test_unusual_convolutions_stay_as_they_are(layer):
    kind = type(layer)
    inner = [type(part) for part in layer.modules()]
    as_products(layer)
    assert type(layer) is kind
    if not isinstance(layer, models.SamePadConv2d):
        assert [type(part) for part in layer.modules()] == inner


def test_inputs_that_torch_accepts_are_accepted():
    down, up = (
        as_products(layer, channels=1)
        for layer in (nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3, 2))
    )
    assert down(torch.randn(2, 5, 5)).shape == (3, 3, 3)
    assert up(torch.randn(2, 3, 3)).shape == (3, 7, 7)
    assert up(torch.randn(1, 2, 3, 3), output_size=[8, 8]).shape == (1, 3, 8, 8)


def test_wrong_channels_are_refused_as_torch_does():
    for layer in (nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3)):
        with pytest.raises(RuntimeError, match="channels"):
            as_products(layer, channels=1)(torch.randn(1, 4, 4, 4))


def test_maps_too_small_for_the_kernel_are_refused_as_torch_does():
    with pytest.raises(RuntimeError, match="size"):
        as_products(nn.Conv2d(2, 3, 5), channels=1)(torch.randn(1, 2, 4, 4))
    with pytest.raises(RuntimeError, match="too small"):
        as_products(nn.ConvTranspose2d(2, 3, 3, padding=2), channels=1)(torch.randn(1, 2, 1, 1))


def test_half_precision_of_autocast():
    layer = as_products(nn.Conv2d(8, 8, 3, 2, 1), channels=1)
    x = torch.randn(2, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_an_activation_may_write_over_the_result(kind, bias):
    gradients = []
    for inplace in (False, True):
        torch.manual_seed(0)
        layer = as_products(kind(2, 3, 3, 2, 1, bias=bias), channels=1)
        x = torch.randn(2, 2, 4, 4, requires_grad=True)
        nn.Sequential(layer, nn.ReLU(inplace))(x).square().sum().backward()
        gradients.append([x.grad, *(p.grad for p in layer.parameters())])
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.equal(mine, theirs)


def test_in_autocast_the_type_is_that_of_torch():
    plain = nn.ConvTranspose2d(64, 1, 4, 2, 1)
    ours = nn.Sequential(copy.deepcopy(plain))
    as_products(ours)
    x = torch.randn(2, 64, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert type(ours[0]) is not nn.ConvTranspose2d
        assert ours(x).dtype == plain(x).dtype == torch.bfloat16
