"""What the measures accept and what they refuse, whatever the kind of array."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from course_lib.metrics import inputs


def test_any_kind_of_array_is_the_same_numbers():
    x = np.arange(12.0).reshape(4, 3)
    read_only = x.copy()
    read_only.flags.writeable = False
    kinds = [x, x.tolist(), read_only, x[::-1][::-1], x.astype(">f8"), np.asfortranarray(x)]
    kinds += [x.astype(np.float32), x.astype(np.float16), torch.tensor(x).bfloat16()]
    kinds += [torch.tensor(x, requires_grad=True), torch.nn.Parameter(torch.tensor(x))]
    for kind in kinds:
        found = inputs.features(kind, "x")
        assert not found.requires_grad
        assert torch.equal(found.double(), torch.tensor(x))
    assert torch.equal(inputs.features(x[::-1], "x"), torch.tensor(x[::-1].copy()))


def test_sums_that_overflow_are_no_infinities():
    inputs.require_finite(torch.full((4,), 1e308, dtype=torch.float64), "x")
    inputs.require_finite(torch.full((4,), 6e4).half(), "x")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_bad_number_among_many_is_found_and_placed(value, dtype):
    x = torch.zeros(50, 40, dtype=dtype)
    x[17, 23] = value
    with pytest.raises(ValueError, match=r"1 NaN or infinite .* \[17, 23\]"):
        inputs.features(x, "x")


def test_infinities_that_cancel_are_found():
    with pytest.raises(ValueError, match="2 NaN or infinite"):
        inputs.features(torch.tensor([[math.inf, 1.0], [-math.inf, 1.0]]), "x")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64, np.bool_])
def test_integers_are_no_features(dtype):
    with pytest.raises(ValueError, match="overflow"):
        inputs.features(np.ones((3, 2), dtype=dtype), "x")


@pytest.mark.parametrize("thing", ["text", object(), [[1, 2], [3]], np.array([{}, {}])])
def test_what_is_no_array_of_numbers_is_a_type_error(thing):
    with pytest.raises(TypeError, match="tensor or an array"):
        inputs.features(thing, "x")


def test_pairs_of_images_must_be_of_one_kind():
    floats, ints = torch.rand(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match="Divide the uint8 images by 255"):
        inputs.image_pair(floats, ints, ("x", "y"))
    with pytest.raises(ValueError, match="one number of channels and one size"):
        inputs.image_pair(floats, floats[..., :3], ("x", "y"))
    with pytest.raises(ValueError, match="add the missing axis"):
        inputs.images(floats[:, 0], "x")
    with pytest.raises(ValueError, match="images are uint8"):
        inputs.images(ints.int(), "x")
