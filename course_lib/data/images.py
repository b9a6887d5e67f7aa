"""Image sets as one tensor, and endless streams of batches that can be stopped and resumed.

A set of images is one ``uint8`` tensor on the device where it is used. A batch is then one indexing
operation: no worker processes, no decoding and no Python loop over images while a model trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from course_lib.environment import existing_device

Index = Tensor | Sequence[int] | slice


def _way_to_unit(images: Tensor) -> str:
    """How images that leave [0, 1] get there, as far as their values tell."""
    if not images.isfinite().all():
        return "they hold NaN or infinities; find where they arise."
    low, high = (float(end) for end in images.aminmax())
    if low >= 0 and 2 < high <= 255:
        return "divide images in 0..255 by 255, or pass them as uint8."
    if low >= -1.001 and high <= 1.001:
        return "map images in [-1, 1] with (images + 1) / 2."
    return f"they span [{low:.4g}, {high:.4g}]; cut off what overshoots with images.clamp(0, 1)."


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, and labels if there are any, as tensors on one device.

    Attributes:
        images: ``[n, channels, height, width]``, uint8 in 0..255 or floating point in [0, 1].
        labels: ``[n]`` integers (CelebA: ``[n, 40]`` attributes in {0, 1}), or None.
        name: what the set is called in sentences and captions.
        classes: a word per label (CelebA: per attribute); empty when there are none.

    Raises:
        TypeError: the images are no tensor.
        ValueError: the tensors do not have these shapes, types or ranges.
    """

    images: Tensor
    labels: Tensor | None = None
    name: str = "images"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images are a {type(images).__name__} and should be a tensor: "
                "torch.as_tensor(images) makes one."
            )
        if images.ndim != 4:
            raise ValueError(
                f"images of shape {list(images.shape)} are not [n, channels, height, width]: "
                "add the missing axis, for example with images[:, None]."
            )
        if images.dtype != torch.uint8:
            if not images.is_floating_point():
                raise ValueError(
                    f"images of type {images.dtype} are neither uint8 nor floating point: "
                    "convert them with images.to(torch.uint8)."
                )
            if images.numel() and not (images.min() >= 0 and images.max() <= 1):
                raise ValueError(
                    "floating-point images of an ImageSet lie in [0, 1], and these do not: "
                    + _way_to_unit(images)
                )
        if self.labels is not None and len(self.labels) != len(images):
            raise ValueError(
                f"{len(self.labels)} labels cannot belong to {len(images)} images: "
                "pass one label per image."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(channels, height, width)``."""
        return tuple(self.images.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set with its tensors on ``device``; a ValueError where that is not there."""
        device = existing_device(device)
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, images=self.images.to(device), labels=labels)

    def as_float(
        self, index: Index | None = None, range: tuple[float, float] = (-1.0, 1.0)
    ) -> Tensor:
        """Images as float32 ``[n, channels, height, width]``, black at ``range[0]``.

        Args:
            index: which images, as integers ``[k]`` or a slice; None means all of them.
            range: where black and white go: ``(-1, 1)`` for GANs, ``(0, 1)`` for VAEs.

        Raises:
            ValueError: ``range`` is not two increasing numbers.
        """
        low, high = _checked_range(range)
        images = self.images if index is None else self._taken(self._on_device(index))
        # Dividing before anything else makes 255 exactly 1, so that nothing leaves the range.
        if images.dtype != torch.uint8:
            if (low, high) != (0.0, 1.0):
                return images.float() * (high - low) + low
            # All images, or a slice of them, are the set's own memory until they are copied.
            return images.to(torch.float32, copy=not isinstance(index, Tensor))
        unit = images.float().div_(255)  # a copy, so that the rest may write over it
        return unit if (low, high) == (0.0, 1.0) else unit.mul_(high - low).add_(low)

    def subset(self, which: int | Index) -> ImageSet:
        """The first ``which`` images, or the images with the indices ``which`` ``[k]``.

        Raises:
            ValueError: more images were asked for than there are.
        """
        if isinstance(which, Integral):
            if not 0 < which <= len(self):
                raise ValueError(
                    f"a subset of {which} images cannot be taken from the {len(self)} of "
                    f"{self.name!r}: ask for 1 to {len(self)}."
                )
            which = slice(int(which))
        index = self._on_device(which)
        labels = None if self.labels is None else self.labels[index]
        return replace(self, images=self.images[index], labels=labels)

    def _taken(self, index: Tensor | slice) -> Tensor:
        """`images[index]`, by `index_select` where that gives the same: it is faster."""
        if isinstance(index, Tensor) and index.ndim == 1 and self.device.type == "cpu":
            # It refuses what only brackets know: masks and negative numbers.
            with suppress(IndexError, RuntimeError):
                return self.images.index_select(0, index)
        return self.images[index]

    def _on_device(self, index: Index) -> Tensor | slice:
        if isinstance(index, slice):
            return index
        return torch.as_tensor(index).to(self.device)


class Batches(Iterator[Tensor]):
    """Endless shuffled batches of an image set, float32 ``[batch, channels, height, width]``.

    Each epoch visits every image at most once, in an order that depends on ``(seed, epoch)`` alone;
    the last ``n % batch_size`` images of an epoch are left out of it, so that all batches are equal
    in size. Nothing else is random here, which is why two numbers resume the stream exactly.

    Args:
        image_set: where the images come from; batches lie on its device.
        batch_size: images per batch.
        range: where black and white go: ``(-1, 1)`` for GANs, ``(0, 1)`` for VAEs.
        seed: chooses the sequence of orders.

    Attributes:
        labels: labels ``[batch]`` of the latest batch, or None; looked up when asked for.
        epoch: number of the current pass, from 0.
        position: images already handed out in it.

    Raises:
        ValueError: ``batch_size`` is below one or larger than the set.
    """

    def __init__(
        self,
        image_set: ImageSet,
        batch_size: int,
        range: tuple[float, float] = (-1.0, 1.0),
        seed: int = 0,
    ) -> None:
        if not isinstance(batch_size, Integral) or not 1 <= batch_size <= len(image_set):
            raise ValueError(
                f"batch_size={batch_size} does not fit the {len(image_set)} images of "
                f"{image_set.name!r}: choose 1 to {len(image_set)}."
            )
        self.image_set, self.batch_size, self.seed = image_set, int(batch_size), int(seed)
        self.range = _checked_range(range)
        self.labels = None
        self._start(epoch=0, position=0)

    @property
    def labels(self) -> Tensor | None:
        if self._latest is not None:
            labels = self.image_set.labels
            self.labels = None if labels is None else labels[self._latest]
        return self._labels

    @labels.setter
    def labels(self, labels: Tensor | None) -> None:
        self._labels, self._latest = labels, None

    @property
    def batches_per_epoch(self) -> int:
        return len(self.image_set) // self.batch_size

    def _start(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        generator = _generator(self.seed, epoch)
        order = torch.randperm(len(self.image_set), generator=generator)
        self._order = order.to(self.image_set.device)

    def __next__(self) -> Tensor:
        if self.position + self.batch_size > len(self.image_set):
            self._start(self.epoch + 1, 0)
        index = self._order[self.position : self.position + self.batch_size]
        self.position += self.batch_size
        self._latest = index
        return self.image_set.as_float(index, self.range)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands: integers only, so that it fits into any file format."""
        return {"epoch": self.epoch, "position": self.position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken.

        Raises:
            ValueError: the state belongs to another seed, batch size or number of images.
        """
        _require_same(self._identity(), state)
        self._start(int(state["epoch"]), int(state["position"]))

    def _identity(self) -> dict[str, int]:
        length = len(self.image_set)
        return {"seed": self.seed, "batch_size": self.batch_size, "length": length}


class Samples(Protocol):
    """Anything to draw points from, such as the distributions of ``course_lib.probability``."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Any: ...


class SampleBatches(Iterator[Tensor]):
    """Endless fresh draws ``[batch, d]`` from a distribution, for toy models.

    Batch k depends on ``(seed, k)`` alone. Points ``[n]`` on a line come as ``[batch, 1]``; of a
    sampler that returns a tuple (data first, latent after it) the data are kept.

    Args:
        distribution: has ``sample(n, generator)``.
        batch_size: points per batch.
        seed: chooses the sequence of draws.
        device: where batches go; they are drawn on the CPU, so that they agree on all devices.
        dtype: type of the batches.

    Raises:
        ValueError: ``batch_size`` is below one.
    """

    labels = None

    def __init__(
        self,
        distribution: Samples,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} makes no batch: choose 1 or more.")
        self.distribution, self.batch_size, self.seed = distribution, int(batch_size), int(seed)
        self.device, self.dtype = torch.device(device), dtype
        self.step = 0

    def __next__(self) -> Tensor:
        drawn = self.distribution.sample(
            self.batch_size, generator=_generator(self.seed, self.step)
        )
        self.step += 1
        x = drawn[0] if isinstance(drawn, tuple) else drawn
        x = x[:, None] if x.ndim == 1 else x
        return x.to(self.device, self.dtype)

    def state_dict(self) -> dict[str, int]:
        """Where the stream stands: integers only."""
        return {"step": self.step, "seed": self.seed, "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state`` was taken.

        Raises:
            ValueError: the state belongs to another seed or batch size.
        """
        _require_same({"seed": self.seed, "batch_size": self.batch_size}, state)
        self.step = int(state["step"])


def _generator(seed: int, count: int) -> torch.Generator:
    # The factor keeps neighbouring seeds from sharing orders: epoch 1 of seed 0 is no epoch of
    # seed 1 until the millionth.
    return torch.Generator().manual_seed((seed * 1_000_003 + count) % 2**63)


def _checked_range(range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in range)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if not low < high:
        raise ValueError(
            f"range={range} is no pair that increases: use (-1, 1) for GANs, (0, 1) for VAEs."
        )
    return low, high


def _require_same(mine: dict[str, int], state: dict[str, Any]) -> None:
    for key, value in mine.items():
        if state.get(key) != value:
            raise ValueError(
                f"this state was taken with {key}={state.get(key)}, but these batches have "
                f"{key}={value}: make the batches as they were, then load the state."
            )
