"""The classifier whose features score generators."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.models import ConvClassifier, count_parameters


def small(image_shape=(1, 28, 28), **kwargs) -> ConvClassifier:
    return ConvClassifier(image_shape, channels=(4, 6, 8), **kwargs)


@given(st.sampled_from([1, 3]), st.integers(5, 40), st.integers(5, 40), st.integers(2, 9))
@settings(max_examples=25)
def test_any_side_from_five_pixels_gives_features_and_logits(channels, height, width, classes):
    net = small((channels, height, width), n_classes=classes, width=5).eval()
    x = torch.rand(2, channels, height, width)
    assert net.features(x).shape == (2, 5)
    assert net(x).shape == (2, classes)
    torch.testing.assert_close(net(x), net.head(net.features(x)))


@pytest.mark.parametrize(("shape", "cells"), [((1, 28, 28), 9), ((3, 32, 32), 16)])
def test_the_weights_are_those_of_its_layers(shape, cells):
    convolutions = 25 * shape[0] * 32 + 9 * (32 * 64 + 64 * 80 + 80 * 80)
    norms = 2 * (32 + 64 + 80 + 80)
    linear = 80 * cells * 64 + (64 * 10 + 10)
    assert count_parameters(ConvClassifier(shape)) == convolutions + norms + linear


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_every_pixel_reaches_the_features(shape):
    net = ConvClassifier(shape).eval()
    x = torch.rand(8, *shape, requires_grad=True)
    net.features(x).square().sum().backward()
    assert (x.grad.abs().sum(0) > 0).all()


def test_features_have_both_signs_and_unit_variance_over_a_training_batch():
    features = small().features(torch.rand(64, 1, 28, 28))
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    # The batch norm adds 1e-5 to the variance that it divides by.
    assert ((features.var(0, correction=0) - 1).abs() < 0.05).all()
    assert not (features == 0).any(), "a spike at zero, as a ReLU makes it"


def test_an_image_has_the_same_features_in_any_company():
    net, x = small().eval(), torch.rand(6, 1, 28, 28)
    alone = torch.cat([net.features(row[None]) for row in x])
    torch.testing.assert_close(net.features(x), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net.train().features(x), alone, atol=1e-2)


@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
def test_images_of_another_precision_have_the_same_features(weights):
    net, x = small().eval().to(weights), torch.rand(3, 1, 28, 28).half()
    for same in (x, x.float(), x.double()):
        torch.testing.assert_close(net(same), net(x.to(weights)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"image_shape": (1, 4, 28)}, "5 or more"),
        ({"image_shape": (28, 28)}, "three numbers"),
        ({"image_shape": (28, 28, 1)}, "channels first"),
        ({"channels": (8, 8)}, "give three numbers"),
        ({"channels": 5}, "give three numbers"),
        ({"channels": (8, 8, 0)}, "at least 1"),
        ({"width": 0}, "width is 0"),
        ({"n_classes": 0}, "n_classes is 0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        ConvClassifier(**kwargs)


def test_images_of_another_kind_are_refused():
    net = small()
    with pytest.raises(ValueError, match="28 x 28"):
        net(torch.rand(2, 1, 32, 32))
    with pytest.raises(TypeError, match=r"\.float\(\) / 255"):
        net(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
