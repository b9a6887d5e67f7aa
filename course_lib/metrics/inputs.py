"""What every measure does with its input: bring it to float64, or refuse it with a sentence."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole(value: Any, name: str, least: int, most: int | None = None) -> int:
    """`value` as an int, if it is a whole number from `least` to `most`.

    Raises:
        ValueError: it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least or number > (most or number):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number {bound}.")
    return number


def tensor(values: Any, name: str) -> Tensor:
    """`values` (tensor, array or nested list) as a tensor without gradient, of its own type.

    It stays on its device, unless that is Apple's MPS, which has no float64: then on the CPU.

    Raises:
        ValueError: the numbers are complex.
        TypeError: it is nothing of the kind.
    """
    kind = f"a {type(values).__name__}"
    try:
        if isinstance(values, Tensor):
            kind = f"a tensor of layout {values.layout} and type {values.dtype}"
            if values.layout != torch.strided or (
                values.is_floating_point() and values.element_size() < 2
            ):
                raise TypeError
            values = values.detach()
            values = values.cpu() if values.device.type == "mps" else values
        else:
            array = np.asarray(values)
            kind = f"an array of type {array.dtype}"
            if not array.dtype.isnative:
                array = array.astype(array.dtype.newbyteorder("="))
            # torch shares memory only with arrays that it may write to and walk forwards.
            if not array.flags.writeable or min(array.strides, default=0) < 0:
                array = array.copy()
            values = torch.from_numpy(array)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"{name} should be a tensor or an array of real numbers, not {kind}."
        ) from None
    if values.is_complex():
        raise ValueError(f"{name} holds complex numbers: pass real ones, for example x.real.")
    return values


def double(values: Tensor) -> Tensor:
    """float64 on the tensor's own device, or on the CPU where the device has none (Apple's MPS)."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def require_finite(values: Tensor, name: str) -> None:
    """Raise ValueError, with the place of the first one, if a number is NaN or infinite."""
    # One fast pass without a mask: a sum is finite only if every summand is. Where it overflows all
    # the same, the second look finds nothing.
    if bool(torch.isfinite(values.sum())):
        return
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name} holds {int(bad.sum())} NaN or infinite number(s), the first at {place}: a "
            "score of them would mean nothing. Find where they arise (a diverged network, a "
            "division by zero, an overflow of half precision), or leave those rows out knowingly."
        )


def features(values: Any, name: str, *, least: int = 2) -> Tensor:
    """Features `[n, d]` as given: finite, of a floating-point type, at least `least` rows.

    The type and the device are kept, so that a caller may go through them in blocks.

    Raises:
        ValueError: another number of axes, integers, too few rows, no column, NaN or infinities.
        TypeError: not an array of numbers.
    """
    x = tensor(values, name)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(
            f"{name} should be features [n, d], one row per sample, but has the shape "
            f"{list(x.shape)}: flatten images with x.flatten(1), or pass what a feature network "
            "returned; a single column is [n, 1]."
        )
    if not x.is_floating_point():
        raise ValueError(
            f"{name} has the type {str(x.dtype).removeprefix('torch.')}, whose sums and products "
            "can overflow without a word: convert it yourself, for example with .double() or "
            ".astype(float); for images, compute features first."
        )
    if len(x) < least:
        raise ValueError(
            f"{name} has {len(x)} row(s), and this measure needs at least {least}: "
            "pass more samples."
        )
    require_finite(x, name)
    return x


def feature_pair(
    a: Any, b: Any, names: tuple[str, str], *, least: int = 2
) -> tuple[Tensor, Tensor]:
    """Two sets of features of one width, as `features` gives them, on the device of the first.

    Raises:
        ValueError: as `features`, or the widths differ.
    """
    x, y = features(a, names[0], least=least), features(b, names[1], least=least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} has {x.shape[1]} columns and {names[1]} has {y.shape[1]}: both must come "
            "from the same feature network (and the same layer of it)."
        )
    return x, y.to(x.device)


def images(values: Any, name: str) -> Tensor:
    """Images `[n, channels, height, width]`, uint8 or floating point, finite, as given.

    Raises:
        ValueError: another shape, another integer type, NaN or infinities.
        TypeError: not an array of numbers.
    """
    x = tensor(values, name)
    if x.ndim == 4 and 0 in x.shape:
        raise ValueError(f"{name} is empty, of shape {list(x.shape)}: pass at least one image.")
    if x.ndim != 4:
        raise ValueError(
            f"{name} should be images [n, channels, height, width], but has the shape "
            f"{list(x.shape)}: add the missing axis, for example with images[:, None]."
        )
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise ValueError(
            f"{name} has the type {str(x.dtype).removeprefix('torch.')}: images are uint8 in "
            "0..255 or floating point; convert them with .to(torch.uint8) or divide by 255."
        )
    if x.is_floating_point():
        require_finite(x, name)
    return x


def image_pair(a: Any, b: Any, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Two sets of images of one kind (both uint8 or both floating point) and one image shape.

    Raises:
        ValueError: as `images`; or uint8 against floating point; or the shapes of an image differ.
    """
    x, y = images(a, names[0]), images(b, names[1])
    if x.is_floating_point() != y.is_floating_point():
        kinds = [str(t.dtype).removeprefix("torch.") for t in (x, y)]
        raise ValueError(
            f"{names[0]} is {kinds[0]} and {names[1]} is {kinds[1]}: 0..255 against 0..1 would "
            "make every image wrong. Divide the uint8 images by 255, or round the others to uint8."
        )
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"An image of {names[0]} is {list(x.shape[1:])} and one of {names[1]} is "
            f"{list(y.shape[1:])}: bring both to one number of channels and one size."
        )
    return x, y.to(x.device)
