from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.data import Batches, ImageSet, SampleBatches
from course_lib.probability.distributions import LinearGaussian, normal, ring


def numbered(n: int, dtype: torch.dtype = torch.uint8) -> ImageSet:
    """Images whose pixels and label are their index."""
    index = torch.arange(n)
    pixels = index if dtype == torch.uint8 else index / n
    return ImageSet(pixels.to(dtype)[:, None, None, None].expand(n, 1, 2, 2), index, "numbered")


def test_every_grey_value_reaches_its_place_and_the_ends_are_exact() -> None:
    images = ImageSet(torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1))
    expected = torch.arange(256, dtype=torch.float64) / 255
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-0.5, 2.0)):
        x = images.as_float(range=(low, high))
        assert x.dtype == torch.float32 and x.min() == low and x.max() == high
        assert torch.allclose(x.flatten().double(), low + (high - low) * expected, atol=1e-6)


def test_index_subset_and_shape_agree() -> None:
    images = numbered(10)
    assert len(images) == 10 and images.shape == (1, 2, 2)
    assert torch.equal(images.subset(3).labels, torch.arange(3))
    assert torch.equal(images.subset([7, 1]).images[:, 0, 0, 0], torch.tensor([7, 1]).byte())
    assert torch.equal(images.as_float([7, 1]), images.as_float()[[7, 1]])
    assert torch.equal(images.as_float(slice(2, 4)), images.as_float()[2:4])
    assert images.to("cpu").name == "numbered"


def test_float_images_keep_their_values() -> None:
    images = numbered(4, torch.float32)
    assert torch.equal(images.as_float(range=(0, 1)), images.images)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.zeros(3, 2, 2, dtype=torch.uint8), None, "missing axis"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.int64), None, "uint8"),
        (torch.full((3, 1, 2, 2), -0.5), None, r"\(images \+ 1\) / 2"),
        (torch.full((3, 1, 2, 2), torch.nan), None, r"lie in \[0, 1\]"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2), "one label per image"),
    ],
)
def test_wrong_tensors_are_refused(images, labels, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        ImageSet(images, labels)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="ask for 1 to 5"):
        numbered(5).subset(6)
    with pytest.raises(ValueError, match="no pair that increases"):
        numbered(5).as_float(range=(1, -1))
    with pytest.raises(ValueError, match="does not fit the 5 images"):
        Batches(numbered(5), 6)
    with pytest.raises(ValueError, match="does not fit"):
        Batches(numbered(5), 0)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), share=st.floats(0, 1), seed=st.integers(-5, 2**40))
def test_an_epoch_visits_no_image_twice_and_all_that_fit(n, share, seed) -> None:
    batch_size = max(1, round(share * n))
    batches = Batches(numbered(n), batch_size, range=(0, 1), seed=seed)
    for epoch in range(3):
        seen = []
        for _ in range(batches.batches_per_epoch):
            x = next(batches)
            assert x.shape == (batch_size, 1, 2, 2)
            assert torch.equal((x[:, 0, 0, 0] * 255).round().long(), batches.labels)
            seen += batches.labels.tolist()
        assert batches.epoch == epoch
        assert len(set(seen)) == len(seen) == n - n % batch_size


def test_the_order_depends_on_seed_and_epoch() -> None:
    def orders(seed: int) -> list[tuple[int, ...]]:
        batches = Batches(numbered(50), 50, seed=seed)
        return [tuple(batches.labels.tolist()) for _ in range(3) if next(batches) is not None]

    assert orders(0) == orders(0)
    assert len(set(orders(0) + orders(1) + orders(2))) == 9


@settings(max_examples=25, deadline=None)
@given(before=st.integers(0, 12), after=st.integers(1, 12))
def test_resumed_batches_are_the_same_bits(before, after) -> None:
    straight = Batches(numbered(17), 5, seed=3)
    for _ in range(before):
        next(straight)
    state = json.loads(json.dumps(straight.state_dict()))
    torch.rand(3)  # the global stream of chance has no say
    resumed = Batches(numbered(17), 5, seed=3)
    next(resumed)
    resumed.load_state_dict(state)
    for _ in range(after):
        assert torch.equal(next(straight), next(resumed))
        assert torch.equal(straight.labels, resumed.labels)
    assert straight.state_dict() == resumed.state_dict()


def test_a_state_of_other_batches_is_refused() -> None:
    state = Batches(numbered(17), 5, seed=3).state_dict()
    for other in (
        Batches(numbered(17), 4, seed=3),
        Batches(numbered(17), 5, seed=4),
        Batches(numbered(16), 5, seed=3),
    ):
        with pytest.raises(ValueError, match="make the batches as they were"):
            other.load_state_dict(state)


def test_sample_batches_have_the_distribution_and_resume() -> None:
    batches = SampleBatches(normal(2.0, 0.5), 20_000, seed=1)
    x = next(batches)
    assert x.shape == (20_000, 1) and x.dtype == torch.float32 and batches.labels is None
    assert abs(x.mean() - 2.0) < 5 * 0.5 / 20_000**0.5
    state = batches.state_dict()
    second = next(batches)
    assert not torch.equal(x, second)
    resumed = SampleBatches(normal(2.0, 0.5), 20_000, seed=1)
    resumed.load_state_dict(state)
    assert torch.equal(next(resumed), second)
    with pytest.raises(ValueError, match="seed=1"):
        SampleBatches(normal(), 20_000, seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="makes no batch"):
        SampleBatches(normal(), 0)


def test_sample_batches_keep_planes_and_take_the_data_of_pairs() -> None:
    assert next(SampleBatches(ring(), 7)).shape == (7, 2)
    linear = LinearGaussian(torch.ones(3, 1), torch.zeros(3), 0.1)
    assert next(SampleBatches(linear, 7)).shape == (7, 3)


def test_floats_are_never_the_memory_of_the_set():
    images = ImageSet(torch.zeros(3, 1, 2, 2), None, "floats")
    for index in (None, slice(0, 2), torch.tensor([0, 2])):
        x = images.as_float(index, range=(0, 1))
        x += 1
    assert not images.images.any()


def test_a_whole_number_of_numpy_is_a_number_of_images():
    images = ImageSet(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), None, "bytes")
    assert len(images.subset(np.int64(2))) == 2


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        (-0.5, r"\(images \+ 1\) / 2"),
        (200.0, "divide images in 0..255 by 255"),
        (1.02, r"span \[0, 1\.02\]; cut off"),
        (float("nan"), "NaN or infinities"),
    ],
)
def test_float_images_out_of_range_get_the_mend_that_fits(value, mend) -> None:
    images = torch.zeros(2, 1, 2, 2)
    images[1, 0, 1, 1] = value
    with pytest.raises(ValueError, match=mend):
        ImageSet(images)
