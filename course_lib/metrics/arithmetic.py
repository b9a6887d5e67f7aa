"""The few matrix products that the measures spend their time in, each on its fastest exact path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from course_lib.metrics.inputs import double

# Rows per block: a block of 2,048 float64 columns is 32 MiB, whatever n is.
BLOCK = 2048


def blocks(x: Tensor, size: int = BLOCK) -> Iterator[Tensor]:
    """Rows of x `[n, d]` as float64, `size` at a time."""
    for part in x.split(size):
        yield double(part)


def times(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a @ b for matrices of one type and device, into `out` if that is given.

    On the CPU numpy multiplies: its BLAS is up to 1.6 times as fast there as the one that torch
    brings along, and it sees by itself that `x.T @ x` is symmetric and needs half the work.
    """
    if a.device.type != "cpu":
        return torch.matmul(a, b, out=out)
    with np.errstate(all="ignore"):  # the measures look for infinities themselves
        if out is None:
            return torch.from_numpy(a.numpy() @ b.numpy())
        np.matmul(a.numpy(), b.numpy(), out=out.numpy())
        return out


class Workspace:
    """Memory for the blocks of a long calculation: fresh pages would cost as much as the sums."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, torch.dtype], Tensor] = {}

    def matrix(self, name: str, rows: int, columns: int, like: Tensor) -> Tensor:
        """An uninitialised matrix on the device and of the type of `like`; one per name."""
        part = self._parts.get((name, like.dtype))
        if part is None or part.numel() < rows * columns:
            part = self._parts[name, like.dtype] = like.new_empty(rows * columns)
        return part[: rows * columns].view(rows, columns)


def gram(x: Tensor) -> Tensor:
    """x.T @ x, `[d, d]`, exactly symmetric."""
    return times(x.T, x) if x.device.type == "cpu" else _symmetric(x.T @ x)


def _symmetric(x: Tensor) -> Tensor:
    return (x + x.T) / 2


def lower_product(a: Tensor, b: Tensor, parts: int = 8) -> Tensor:
    """a.T @ b for lower triangular a and b, `[d, d]`, without most of the products with zero."""
    step = -(-len(a) // parts)
    out = torch.empty_like(a)
    for i in range(0, len(a), step):
        for j in range(0, len(a), step):
            below = slice(max(i, j), None)
            left, right = a[below, i : i + step], b[below, j : j + step]
            out[i : i + step, j : j + step] = times(left.T, right)
    return out
