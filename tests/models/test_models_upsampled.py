"""The folded upsampling against the two layers that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from course_lib.models import UpsampledConv2d


def both(channels=(3, 5), bias=True):
    torch.manual_seed(1)
    folded = UpsampledConv2d(*channels, bias=bias).double()
    plain = nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(*channels, 3, padding=1, bias=bias)
    ).double()
    plain.load_state_dict(folded.state_dict())  # the same names and shapes, strictly
    return folded, plain


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (7, 7), (8, 5)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_all_gradients_are_those_of_the_two_layers(size, order):
    results = []
    for layer in both():
        layer.to(memory_format=order)
        x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2)).double()
        x.requires_grad_(True)
        y = layer(x)
        # Weights that differ from place to place, so that no border hides in a sum.
        place = torch.arange(y.numel(), dtype=y.dtype).view(y.shape).sin()
        (place * y.square()).sum().backward()
        results.append([y, x.grad, *(p.grad for p in layer.parameters())])
    for folded, plain in zip(*results, strict=True):
        torch.testing.assert_close(folded, plain, rtol=0, atol=1e-12)


def test_second_derivatives_too():
    """A gradient penalty goes through the layer twice."""
    folded, _ = both((2, 2))
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = folded[1].weight.detach().requires_grad_(True)

    def f(x, weight):
        return torch.func.functional_call(folded, {"1.weight": weight}, (x,))

    assert torch.autograd.gradcheck(f, (x, weight))
    assert torch.autograd.gradgradcheck(f, (x, weight))


def test_names_are_those_of_the_two_layers_and_nothing_else_is_stored():
    folded, plain = both(bias=False)
    assert list(folded.state_dict()) == list(plain.state_dict()) == ["1.weight"]


def test_wrong_input_gets_a_sentence():
    with pytest.raises(ValueError, match=r"takes \[batch, 3, height, width\]"):
        UpsampledConv2d(3, 2)(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="in_channels is 0"):
        UpsampledConv2d(0, 2)
