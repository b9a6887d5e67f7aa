"""The few matrix products that the measures spend their time in, each on its fastest exact path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


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


# Numbers per block of rows: 512 KiB of float64, which stay in a processor's cache.
ENTRIES = 2**16


def shifted_blocks(
    x: Tensor, origin: Tensor, work: Workspace, rows: int | None = None
) -> Iterator[Tensor]:
    """Rows of x `[n, d]` minus the origin, in float64, some at a time.

    A block is overwritten by the next one, and may be changed meanwhile. `rows` of them are as many
    as stay in a cache, unless given.
    """
    for part in x.split(rows or max(1, ENTRIES // x.shape[1])):
        out = work.matrix("block", *part.shape, origin)
        yield torch.sub(part.to(origin.device), origin, out=out)


def times(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a @ b for matrices of one type and device, into `out` if that is given.

    On the CPU numpy multiplies: its BLAS is often faster there than the one that torch brings
    along, and it sees by itself that `x.T @ x` is symmetric and needs half the work.
    """
    if a.device.type != "cpu":
        return torch.matmul(a, b, out=out)
    with np.errstate(all="ignore"):  # the measures look for infinities themselves
        if out is None:
            return torch.from_numpy(a.numpy() @ b.numpy())
        np.matmul(a.numpy(), b.numpy(), out=out.numpy())
        return out


def gram(x: Tensor, out: Tensor | None = None) -> Tensor:
    """x.T @ x, `[d, d]`, exactly symmetric; into `out` if that is given."""
    product = times(x.T, x, out)
    return product if x.device.type == "cpu" else product.add_(product.T.clone()).div_(2)


def eigenvalues(x: Tensor) -> Tensor:
    """Those of a symmetric matrix, `[d]`, ascending.

    On the CPU numpy's are faster up to about this width, and torch's above it.
    """
    if x.device.type != "cpu" or len(x) > 1024:
        return torch.linalg.eigvalsh(x)
    return torch.from_numpy(np.linalg.eigvalsh(x.numpy()))


def lower_product(a: Tensor, b: Tensor, out: Tensor, parts: int = 8) -> Tensor:
    """a.T @ b for lower triangular a and b, `[d, d]`, without most of the products with zero."""
    step = -(-len(a) // parts)
    for i in range(0, len(a), step):
        for j in range(0, len(a), step):
            below = slice(max(i, j), None)
            left, right = a[below, i : i + step], b[below, j : j + step]
            times(left.T, right, out[i : i + step, j : j + step])
    return out
