"""Convolutions as one matrix product each, where that is faster.

Where a map has few places and many channels, or a result one channel only, a convolution on a CPU
takes longer than a product with as many operations. The patches of the map, laid out side by side
(im2col), are a matrix; with channels innermost the weights are one already, and so is the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

Pair = tuple[int, int]


def _gathered(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    (top, left), (down, right) = padding, stride
    x = F.pad(x, (0, 0, left, left, top, top))
    patches = x.unfold(1, kernel[0], down).unfold(2, kernel[1], right)
    return patches.permute(0, 1, 2, 4, 5, 3).contiguous()


def _overlaid(patches: Tensor, size: Pair, stride: Pair, padding: Pair) -> Tensor:
    n, height, width, *kernel, channels = patches.shape
    y = patches.new_zeros(n, *size, channels)
    for i in range(kernel[0]):
        above, rows = _places(height, size[0], stride[0], i - padding[0])
        for j in range(kernel[1]):
            before, columns = _places(width, size[1], stride[1], j - padding[1])
            y[:, rows, columns] += patches[:, above, before, i, j]
    return y


def _places(count: int, size: int, stride: int, shift: int) -> tuple[slice, slice]:
    """Which of `count` patches meet the map with one of their rows, and the rows they meet."""
    first = max(0, -(shift // stride))
    last = min(count, -((shift - size) // stride))
    start = first * stride + shift
    return slice(first, last), slice(start, start + max(0, last - first) * stride, stride)


class _Patches(Function):
    """[batch, height, width, channels] to [batch, places, places, rows, columns, channels]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
        ctx.geometry = x.shape[1:3], stride, padding
        return _gathered(x, kernel, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _Overlay.apply(gradient, *ctx.geometry), None, None, None


class _Overlay(Function):
    """The transpose of `_Patches`: every patch is added where it was taken from."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor, size: Pair, stride: Pair, padding: Pair) -> Tensor:
        ctx.geometry = tuple(patches.shape[3:5]), stride, padding
        ctx.count = patches.shape[1:3]
        return _overlaid(patches, size, stride, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        patches = _Patches.apply(gradient, *ctx.geometry)
        rows, columns = ctx.count  # a map with output padding has room for a patch more
        return patches[:, :rows, :columns], None, None, None


def _fits(x: Tensor, layer: Any, size: Sequence[int]) -> bool:
    """Whether to multiply; torch itself takes what has no batch, and refuses what does not fit."""
    return x.ndim == 4 and x.shape[1] == layer.in_channels and min(size) > 0


def _is_small(layer: Any, places: Sequence[int]) -> bool:
    """Few places, many channels."""
    many = layer.in_channels * layer.out_channels >= layer.channels
    return many and places[0] * places[1] <= layer.places


class ProductConv2d(nn.Conv2d):
    """`nn.Conv2d`, as one matrix product where that pays; made by `as_products`.

    The same numbers up to the order of additions, to any derivative.
    """

    places: int
    channels: int
    share: float

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, height, width] to [batch, out_channels, ...], as nn.Conv2d."""
        size = [
            (side + 2 * p - k) // s + 1
            for side, k, s, p in zip(
                x.shape[-2:], self.kernel_size, self.stride, self.padding, strict=True
            )
        ]
        if not _fits(x, self, size):
            return super().forward(x)
        if _is_small(self, size):
            return self._of_patches(x, size)
        area = self.kernel_size[0] * self.kernel_size[1]
        few = self.share * self.out_channels * area <= self.in_channels
        beyond = [k - 1 - p for k, p in zip(self.kernel_size, self.padding, strict=True)]
        if few and self.stride == (1, 1) and min(beyond) >= 0:
            return self._into_patches(x, size, beyond)
        return super().forward(x)

    def _of_patches(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Every place of the result looks at its patch of x."""
        patches = _Patches.apply(x.permute(0, 2, 3, 1), self.kernel_size, self.stride, self.padding)
        matrix = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)
        y = F.linear(patches.flatten(3).flatten(0, 2), matrix, self.bias)
        return y.view(len(x), *size, self.out_channels).permute(0, 3, 1, 2)

    def _into_patches(self, x: Tensor, size: Sequence[int], padding: Sequence[int]) -> Tensor:
        """Every place of x gives to a patch of the result, through the kernel turned round."""
        matrix = self.weight.flip(2, 3).permute(1, 2, 3, 0).reshape(self.in_channels, -1)
        return _given(x, matrix, self, tuple(size), tuple(padding))


def _given(x: Tensor, matrix: Tensor, layer: Any, size: Pair, padding: Pair) -> Tensor:
    """The product of the places of x and the matrix, every row added where its patch lies."""
    height, width = x.shape[-2:]
    columns = x.permute(0, 2, 3, 1).reshape(-1, layer.in_channels) @ matrix
    patches = columns.view(len(x), height, width, *layer.kernel_size, layer.out_channels)
    y = _Overlay.apply(patches, size, layer.stride, padding)
    y = y if layer.bias is None else y + layer.bias.to(y.dtype)  # autocast made y narrower
    return y.permute(0, 3, 1, 2)


class ProductConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, as one matrix product where that pays; made by `as_products`.

    The same numbers up to the order of additions, to any derivative.
    """

    places: int
    channels: int

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[batch, in_channels, height, width] to [batch, out_channels, ...], as torch's."""
        height, width = x.shape[-2:]
        size = tuple(
            (side - 1) * s - 2 * p + k + extra
            for side, k, s, p, extra in zip(
                (height, width),
                self.kernel_size,
                self.stride,
                self.padding,
                self.output_padding,
                strict=True,
            )
        )
        small = _is_small(self, (height, width)) and _fits(x, self, size)
        if output_size is not None or not small:
            return super().forward(x, output_size)
        matrix = self.weight.permute(0, 2, 3, 1).reshape(self.in_channels, -1)
        return _given(x, matrix, self, size, self.padding)


def as_products(
    module: nn.Module, places: int = 16, channels: int = 2**16, share: float = 4.0
) -> nn.Module:
    """Let the convolutions of the module be products where that pays; in place.

    Weights, names and results stay. Convolutions in groups, with dilation or with another padding
    than zeros are left as they are. The limits are rules of thumb for a CPU;
    `tests/benchmarks/training.py --tricks` measures what they give in whole loops.

    Args:
        places: a map is small up to so many places: the result of a convolution, the input of a
            transposed one.
        channels: and has many channels from so many pairs of an input and an output channel on.
        share: of any size are maps to be convolved with stride 1 whose places hold at least so many
            times the numbers that they give to the places around them: share x out_channels x
            area of the kernel <= in_channels.
    """
    kinds = {nn.Conv2d: ProductConv2d, nn.ConvTranspose2d: ProductConvTranspose2d}
    for layer in module.modules():
        kind = kinds.get(type(layer))
        if kind is None or layer.groups != 1 or layer.dilation != (1, 1):
            continue
        if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = kind
            layer.places, layer.channels, layer.share = places, channels, share
    return module
