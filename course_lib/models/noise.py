"""Noise that is the same on every device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def drawn(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`draw(shape)`, which is torch.randn or torch.rand, on `device`.

    The numbers are drawn where the generator lives and then moved, so that a CPU generator gives
    the same ones on every device. None is the global generator of `device`.
    """
    device = torch.device(device)
    source = device if generator is None else generator.device
    if source.type == "cpu" and device.type == "cuda":
        # From pinned memory the copy joins the GPU's queue; from any other the CPU waits until the
        # GPU has done all that it was asked for before.
        pinned = draw(shape, generator=generator, dtype=dtype, pin_memory=True)
        return pinned.to(device, non_blocking=True)
    return draw(shape, generator=generator, device=source, dtype=dtype).to(device)
