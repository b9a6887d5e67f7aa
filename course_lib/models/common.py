"""What all networks share: a parameter count, and refusals that name the likely mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor, nn

# image size -> (side of the smallest feature map, number of doublings from there to the image)
PYRAMIDS = {16: (4, 2), 28: (7, 2), 32: (4, 3), 64: (4, 4), 128: (4, 5)}


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen weights; a shared weight counts once. Works on `meta` too."""
    return sum(parameter.numel() for parameter in module.parameters())


def pyramid_widths(width: int, levels: int) -> list[int]:
    """Channels from the image end to the small end: `width` doubled per level, at most 8 times."""
    return [width * min(2**level, 8) for level in range(levels)]


def downsampling(
    channels: Sequence[int], activation: Callable[[], nn.Module], batch_norm: bool = False
) -> nn.Sequential:
    """Strided convolutions (kernel 4), each halving the side and going to the next of `channels`.

    Every convolution is followed by the activation, all but the first by batch norm if wanted.
    """
    layers: list[nn.Module] = []
    for depth, (fan_in, fan_out) in enumerate(pairwise(channels)):
        normalise = batch_norm and depth > 0
        # No bias before a batch norm: it would be subtracted again with the mean.
        layers.append(nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1, bias=not normalise))
        if normalise:
            layers.append(nn.BatchNorm2d(fan_out))
        layers.append(activation())
    return nn.Sequential(*layers)


def upsampling(channels: Sequence[int], batch_norm: bool = False) -> nn.Sequential:
    """Transposed convolutions, each doubling the side, with ReLU (and batch norm) in between.

    Kernel 4 with stride 2, so that every inner pixel is reached by equally many taps; kernel 5 is
    uneven and draws checkerboards. The last convolution is left bare.

    Source: Odena et al. 2016, "Deconvolution and Checkerboard Artifacts".
    """
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(channels[:-1]):
        layers.append(
            nn.ConvTranspose2d(fan_in, fan_out, 4, stride=2, padding=1, bias=not batch_norm)
        )
        layers += [nn.BatchNorm2d(fan_out), nn.ReLU()] if batch_norm else [nn.ReLU()]
    layers.append(nn.ConvTranspose2d(channels[-2], channels[-1], 4, stride=2, padding=1))
    return nn.Sequential(*layers)


# Rows of the kernel of 3 that meet the same pixel of the small image, for the 4 rows of the folded
# kernel: the upsampled rows 2i and 2i + 1 are one row, so two of three taps always fall on one.
_FOLD = [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


class UpsampledConv2d(nn.Sequential):
    """`[batch, in, h, w] -> [batch, out, 2h, 2w]`: doubling by nearest neighbours, then a
    convolution with kernel 3 and padding 1, at 4/9 of its cost.

    Layers, parameters, `state_dict` and results are those of
    `nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(in, out, 3, padding=1))`, borders
    included. Of the nine products per output pixel many multiply one and the same input pixel; here
    their weights are added first, which leaves a transposed convolution with kernel 4 and stride 2.

    Raises:
        ValueError: channels below 1 when built; an input that is not `[batch, in, h, w]`.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(
                require_positive(in_channels, "in_channels"),
                require_positive(out_channels, "out_channels"),
                3,
                padding=1,
                bias=bias,
            ),
        )
        self.register_buffer("fold", torch.tensor(_FOLD), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        convolution = self[1]
        if x.ndim != 4 or x.shape[1] != convolution.in_channels:
            raise ValueError(
                f"x has shape {list(x.shape)}; this layer takes [batch, {convolution.in_channels}, "
                "height, width]."
            )
        kernel = torch.einsum("ak,oikl,bl->ioab", self.fold, convolution.weight, self.fold)
        return nn.functional.conv_transpose2d(x, kernel, convolution.bias, stride=2, padding=1)


def require_choice(value: int, allowed: Sequence[int], name: str) -> int:
    """`value` itself if it is one of `allowed`, else a ValueError that lists them."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value not in allowed:
        options = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
        raise ValueError(f"{name}={value!r} is not supported here: choose {options}.")
    return int(value)


def require_positive(value: int, name: str) -> int:
    """`value` itself if it is an integer of at least 1, else a ValueError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    return int(value)


def square_image_shape(
    image_size: int, channels: int, sizes: Sequence[int]
) -> tuple[int, int, int]:
    """`(channels, image_size, image_size)`, or a ValueError if size or channels are unsupported."""
    require_choice(image_size, sizes, "image_size")
    return require_choice(channels, (1, 3), "channels"), image_size, image_size


def require_image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """`(channels, height, width)` as a tuple, else a ValueError."""
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise ValueError(
            f"image_shape is {shape!r}; pass three numbers (channels, height, width), "
            "for MNIST (1, 28, 28)."
        )
    channels, height, width = (require_positive(n, "each entry of image_shape") for n in shape)
    if width in (1, 3) and height > width and channels > width:
        raise ValueError(
            f"image_shape is {tuple(shape)}, which looks like (height, width, channels): "
            f"put the channels first, ({width}, {channels}, {height})."
        )
    return channels, height, width


def _require_batch(tensor: Tensor, name: str) -> list[int]:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; pass a float torch.Tensor.")
    if not tensor.is_floating_point():
        mend = f"{name}.float() / 255" if tensor.dtype == torch.uint8 else f"{name}.float()"
        raise TypeError(f"{name} holds {tensor.dtype}; networks take floats, so pass {mend}.")
    if tensor.ndim and tensor.shape[0] == 0:
        raise ValueError(f"{name} has shape {list(tensor.shape)}: the batch is empty.")
    return list(tensor.shape)


def require_latent(z: Tensor, latent_dim: int, name: str = "z") -> None:
    """Refuse anything but a float `[batch, latent_dim]`.

    Raises:
        TypeError: not a tensor, or a tensor of integers.
        ValueError: wrong shape; the sentence says which axis to drop, add or change.
    """
    shape = _require_batch(z, name)
    if len(shape) == 2 and shape[1] == latent_dim:
        return
    if len(shape) == 4 and shape[1:] == [latent_dim, 1, 1]:
        hint = f"drop the two trailing axes with {name}.flatten(1)"
    elif shape == [latent_dim]:
        hint = f"add the batch axis with {name}[None]"
    elif len(shape) == 2:
        hint = (
            f"draw vectors of length {latent_dim}, or build the network with a latent of {shape[1]}"
        )
    else:
        hint = "pass one row per image"
    raise ValueError(f"{name} has shape {shape}; this network takes [batch, {latent_dim}]: {hint}.")


def require_image_batch(x: Tensor, image_shape: tuple[int, int, int], name: str = "x") -> None:
    """Refuse anything but a float `[batch, *image_shape]`.

    Raises:
        TypeError: not a tensor, or a tensor of integers.
        ValueError: wrong shape; the sentence names the likely mistake.
    """
    shape, wanted = _require_batch(x, name), list(image_shape)
    if len(shape) == 4 and shape[1:] == wanted:
        return
    channels, height, width = image_shape
    if shape == wanted:
        hint = f"add the batch axis with {name}[None]"
    elif len(shape) == 2 and shape[1] == channels * height * width:
        hint = f"un-flatten it with {name}.view(-1, {channels}, {height}, {width})"
    elif len(shape) == 3 and channels == 1 and shape[1:] == wanted[1:]:
        hint = f"add the channel axis with {name}[:, None]"
    elif len(shape) == 4 and shape[1:] == [height, width, channels]:
        hint = f"channels come first, so use {name}.permute(0, 3, 1, 2)"
    elif len(shape) == 4 and shape[2:] == wanted[1:]:
        hint = f"it was built for {channels} channel(s), so build it anew with {shape[1]}"
    elif len(shape) == 4:
        hint = (
            f"it was built for {height} x {width} pixels, so resize or pad the images, "
            f"or build it anew for {shape[2]} x {shape[3]}"
        )
    else:
        hint = "pass one image per row"
    wanted_text = ", ".join(map(str, wanted))
    raise ValueError(
        f"{name} has shape {shape}; this network takes [batch, {wanted_text}]: {hint}."
    )
