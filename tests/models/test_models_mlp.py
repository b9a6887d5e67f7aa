"""Fully connected networks and the refusals that all networks share."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib.models import MLPDiscriminator, MLPGenerator, count_parameters, mlp
from course_lib.models.common import require_image_batch, require_image_shape, require_latent


def dense_count(sizes) -> int:
    return sum(a * b + b for a, b in pairwise(sizes))


@given(st.lists(st.integers(1, 12), min_size=2, max_size=5))
@settings(max_examples=30, deadline=None)
def test_mlp_has_the_weights_of_its_sizes(sizes):
    net = mlp(sizes, "tanh")
    assert count_parameters(net) == dense_count(sizes)
    assert net(torch.randn(3, sizes[0])).shape == (3, sizes[-1])


def test_count_parameters_counts_a_shared_weight_once():
    shared = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(shared, nn.ReLU(), shared)) == 12


def test_mlp_is_affine_map_then_activation():
    net = mlp([3, 4, 2], "leaky_relu", final="sigmoid")
    x = torch.randn(5, 3)
    first, second = net[0], net[2]
    hidden = x @ first.weight.T + first.bias
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    expected = 1 / (1 + torch.exp(-(hidden @ second.weight.T + second.bias)))
    torch.testing.assert_close(net(x), expected)


def test_mlp_without_hidden_layer_is_linear():
    net = mlp([3, 2])
    a, b = torch.randn(2, 4, 3)
    torch.testing.assert_close(net(a) + net(b) - net(a + b), net(torch.zeros(4, 3)))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"sizes": [3]}, "input and an output"),
        ({"sizes": [3, 0]}, "at least 1"),
        ({"sizes": [3, 2, 1], "activation": "swish"}, "choose relu"),
        ({"sizes": [3, 2], "final": "softmax"}, "choose relu"),
        ({"sizes": [3, 2], "dropout": 1.0}, "probability"),
    ],
)
def test_mlp_refuses(kwargs, match):
    with pytest.raises(ValueError, match=match):
        mlp(**kwargs)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 5)])
@pytest.mark.parametrize("batch", [1, 6])
def test_mlp_pair(shape, batch):
    pixels = math.prod(shape)
    generator, discriminator = MLPGenerator(shape, 10, (7, 9)), MLPDiscriminator(shape, (9, 7))
    assert count_parameters(generator) == dense_count([10, 7, 9, pixels])
    assert count_parameters(discriminator) == dense_count([pixels, 9, 7, 1])
    images = generator(100 * torch.randn(batch, 10))
    assert images.shape == (batch, *shape)
    assert images.abs().max() <= 1
    logits = discriminator(images)
    assert logits.shape == (batch,)
    logits.square().sum().backward()
    for parameter in [*generator.parameters(), *discriminator.parameters()]:
        assert parameter.grad is not None and parameter.grad.isfinite().all()


def test_dropout_acts_in_training_mode_only():
    net = MLPDiscriminator((1, 8, 8), dropout=0.5)
    x = torch.randn(4, 1, 8, 8)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_same_seed_same_weights():
    def build(seed: int):
        torch.manual_seed(seed)
        return MLPGenerator((1, 8, 8), 4).state_dict()

    a, b, c = build(1), build(1), build(2)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize(
    ("z", "error", "match"),
    [
        (torch.zeros(2, 5, 1, 1), ValueError, r"z\.flatten\(1\)"),
        (torch.zeros(5), ValueError, r"z\[None\]"),
        (torch.zeros(2, 6), ValueError, "vectors of length 5"),
        (torch.zeros(2, 3, 5), ValueError, "one row per image"),
        (torch.zeros(0, 5), ValueError, "batch is empty"),
        (torch.zeros(2, 5, dtype=torch.long), TypeError, r"z\.float\(\)"),
        ([[0.0] * 5], TypeError, "list"),
    ],
)
def test_a_wrong_latent_is_refused_with_its_mend(z, error, match):
    with pytest.raises(error, match=match):
        require_latent(z, 5)


@pytest.mark.parametrize(
    ("x", "error", "match"),
    [
        (torch.zeros(1, 28, 28), ValueError, r"x\[None\]"),
        (torch.zeros(4, 784), ValueError, r"x\.view\(-1, 1, 28, 28\)"),
        (torch.zeros(4, 28, 28), ValueError, r"x\[:, None\]"),
        (torch.zeros(4, 28, 28, 1), ValueError, r"permute\(0, 3, 1, 2\)"),
        (torch.zeros(4, 3, 28, 28), ValueError, "1 channel"),
        (torch.zeros(4, 1, 32, 32), ValueError, "28 x 28 pixels.*32 x 32"),
        (torch.zeros(4), ValueError, "one image per row"),
        (torch.zeros(4, 1, 28, 28, dtype=torch.uint8), TypeError, "/ 255"),
    ],
)
def test_wrong_images_are_refused_with_their_mend(x, error, match):
    with pytest.raises(error, match=match):
        require_image_batch(x, (1, 28, 28))


@pytest.mark.parametrize(
    ("shape", "match"),
    [(28, "three numbers"), ((28, 28), "three numbers"), ((28, 28, 1), "channels first")],
)
def test_wrong_image_shape(shape, match):
    with pytest.raises(ValueError, match=match):
        require_image_shape(shape)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert MLPGenerator((1, 28, 28), np.int64(8)).latent_dim == 8
