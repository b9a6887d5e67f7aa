"""Sentences for wrong input: each says what was wrong and what to do."""

from __future__ import annotations

import torch


def require_finite(tensor: torch.Tensor, name: str = "x") -> None:
    """Refuse NaN and infinities.

    Raises:
        ValueError: some element is not finite; the sentence counts them.
    """
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} of {tensor.numel()} values that are NaN or infinite: "
            "find the step that made them before going on."
        )


def require_shape(tensor: torch.Tensor, spec: str, name: str = "x") -> None:
    """Refuse a tensor whose shape does not fit ``spec``.

    Args:
        tensor: any tensor.
        spec: sizes or names by comma; a name stands for any size, and the same name twice for the
            same size. Example: ``"batch, 3, side, side"``.

    Raises:
        ValueError: the number of axes or a size differs.
    """
    wanted = [part.strip() for part in spec.split(",")]
    seen: dict[str, int] = {}
    fits = len(wanted) == tensor.ndim and all(
        size == int(part) if part.isdigit() else size == seen.setdefault(part, size)
        for part, size in zip(wanted, tensor.shape, strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} should have shape [{', '.join(wanted)}], but has {list(tensor.shape)}."
        )


def require_images(x: torch.Tensor, low: float, high: float, name: str = "x") -> None:
    """Refuse anything but float images ``[batch, channels, height, width]`` in ``[low, high]``.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: wrong number of axes, NaN or infinities, or values outside the range.
    """
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, torch.Tensor) else type(x).__name__
        raise TypeError(
            f"{name} should be a float tensor of images, but is {kind}: "
            f"ask the image set for as_float(range=({low:g}, {high:g}))."
        )
    require_shape(x, "batch, channels, height, width", name)
    require_finite(x, name)
    smallest, largest = (float(v) for v in x.aminmax()) if x.numel() else (low, high)
    slack = 1e-3 * (high - low)
    if smallest < low - slack or largest > high + slack:
        raise ValueError(
            f"{name} should lie in [{low:g}, {high:g}], but spans [{smallest:g}, {largest:g}]: "
            f"{_mend(smallest, largest, low, high)}."
        )


def _mend(smallest: float, largest: float, low: float, high: float) -> str:
    if largest > 2 and smallest >= 0:
        scaled = "x / 127.5 - 1" if low < 0 else "x / 255"
        return f"it looks like 8-bit values; use {scaled}"
    if low == 0 and smallest >= -1.01 and largest <= 1.01:
        return "it looks like images made for a GAN; use (x + 1) / 2"
    return f"ask the image set for as_float(range=({low:g}, {high:g}))"
