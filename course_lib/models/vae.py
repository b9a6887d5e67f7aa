"""Variational autoencoders and their deterministic relatives, for images in [0, 1].

Decoders return raw numbers without a final activation: the likelihood decides whether they are
logits or means. No batch norm: it would make the bound of one image depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .common import (
    PYRAMIDS,
    downsampling,
    pyramid_widths,
    require_image_batch,
    require_image_shape,
    require_latent,
    require_positive,
    square_image_shape,
    upsampling,
)
from .mlp import mlp
from .noise import drawn

CONV_SIZES = (28, 32, 64)


class VAEOutput(NamedTuple):
    """What one pass through a VAE gives: everything that a bound on log p(x) needs."""

    decoded: Tensor  # [batch, channels, height, width], raw
    mu: Tensor  # [batch, latent]
    log_var: Tensor  # [batch, latent], log sigma^2
    z: Tensor  # [batch, latent], the sample that was decoded


class _Encoder(nn.Module):
    """A trunk with one linear head for mu and, if variational, one for log_var."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        trunk: nn.Module,
        features: int,
        latent_dim: int,
        variational: bool,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        self.variational = variational
        self.trunk = trunk
        self.mu_head = nn.Linear(features, latent_dim)
        if variational:
            self.log_var_head = nn.Linear(features, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        require_image_batch(x, self.image_shape)
        hidden = self.trunk(x)
        if self.variational:
            return self.mu_head(hidden), self.log_var_head(hidden)
        return self.mu_head(hidden)


class MLPEncoder(_Encoder):
    """Images `[batch, *image_shape]` in [0, 1] -> `(mu, log_var)`, each `[batch, latent_dim]`.

    `hidden=()` leaves the linear encoder; `variational=False` returns the code z alone.

    Raises:
        ValueError: unsupported sizes when built; images of the wrong shape when called.

    Source: Kingma & Welling 2013, "Auto-Encoding Variational Bayes", appendix C (Gaussian MLP).
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 20,
        hidden: Sequence[int] = (512,),
        variational: bool = True,
    ) -> None:
        shape = require_image_shape(image_shape)
        sizes = (math.prod(shape), *hidden)
        layers = [nn.Flatten()] + ([mlp(sizes, final="relu")] if hidden else [])
        super().__init__(shape, nn.Sequential(*layers), sizes[-1], latent_dim, variational)


class MLPDecoder(nn.Module):
    """z `[batch, latent_dim]` -> raw outputs `[batch, *image_shape]`; `hidden` as in the encoder.

    `hidden` runs from the image end to the code, so that one tuple describes encoder and decoder.

    Raises:
        ValueError: unsupported sizes when built; z of the wrong shape when called.

    Source: Kingma & Welling 2013, "Auto-Encoding Variational Bayes", appendix C.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 20,
        hidden: Sequence[int] = (512,),
    ) -> None:
        super().__init__()
        self.image_shape = require_image_shape(image_shape)
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        self.net = mlp((latent_dim, *reversed(hidden), math.prod(self.image_shape)))

    def forward(self, z: Tensor) -> Tensor:
        require_latent(z, self.latent_dim)
        return self.net(z).unflatten(1, self.image_shape)


class ConvEncoder(_Encoder):
    """Images `[batch, channels, image_size, image_size]` in [0, 1] -> `(mu, log_var)`.

    Strided convolutions (kernel 4, stride 2, ReLU) down to 4 x 4 (7 x 7 for 28 pixels), one dense
    layer of 8 `width` units, then the heads. `variational=False` returns the code z alone.

    Args:
        image_size: 28, 32 or 64 pixels.
        channels: 1 or 3.
        latent_dim: length of mu and of log_var.
        width: channels after the first convolution; doubled per layer up to 8 `width`.

    Raises:
        ValueError: unsupported sizes when built; images of the wrong shape when called.
    """

    def __init__(
        self,
        image_size: int = 28,
        channels: int = 1,
        latent_dim: int = 20,
        width: int = 32,
        variational: bool = True,
    ) -> None:
        shape = square_image_shape(image_size, channels, CONV_SIZES)
        start, halvings = PYRAMIDS[image_size]
        widths = pyramid_widths(require_positive(width, "width"), halvings)
        trunk = nn.Sequential(
            downsampling([channels, *widths], nn.ReLU),
            nn.Flatten(),
            nn.Linear(widths[-1] * start**2, 8 * width),
            nn.ReLU(),
        )
        super().__init__(shape, trunk, 8 * width, latent_dim, variational)


class ConvDecoder(nn.Module):
    """z `[batch, latent_dim]` -> raw outputs `[batch, channels, image_size, image_size]`.

    The mirror image of `ConvEncoder`, with the same arguments.

    Raises:
        ValueError: unsupported sizes when built; z of the wrong shape when called.
    """

    def __init__(
        self, image_size: int = 28, channels: int = 1, latent_dim: int = 20, width: int = 32
    ) -> None:
        super().__init__()
        self.image_shape = square_image_shape(image_size, channels, CONV_SIZES)
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        start, doublings = PYRAMIDS[image_size]
        widths = pyramid_widths(require_positive(width, "width"), doublings)[::-1]
        self.net = nn.Sequential(
            mlp((latent_dim, 8 * width, widths[0] * start**2), final="relu"),
            nn.Unflatten(1, (widths[0], start, start)),
            upsampling([*widths, channels]),
        )

    def forward(self, z: Tensor) -> Tensor:
        require_latent(z, self.latent_dim)
        return self.net(z)


class _Pair(nn.Module):
    """An encoder and a decoder that agree on the length of the code and the shape of an image."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        for name in ("latent_dim", "image_shape"):
            # Hand-written halves need not carry these attributes; ours always do.
            left, right = getattr(encoder, name, None), getattr(decoder, name, None)
            if left is not None and right is not None and left != right:
                raise ValueError(
                    f"the encoder's {name} is {left}, the decoder's {right}: "
                    "build both with the same."
                )
            setattr(self, name, right if left is None else left)

    def decode(self, z: Tensor) -> Tensor:
        """z `[batch, latent]` -> raw outputs `[batch, channels, height, width]`."""
        return self.decoder(z)


class VAE(_Pair):
    """An encoder for q(z|x) = N(mu, diag exp(log_var)) and a decoder for p(x|z).

    `forward(x) -> VAEOutput`, in one differentiable graph; x is `[batch, channels, height, width]`
    in [0, 1].

    Args:
        encoder: x -> `(mu, log_var)`, each `[batch, latent]`.
        decoder: z `[batch, latent]` -> raw outputs `[batch, channels, height, width]`.

    Raises:
        ValueError: the halves disagree, or the encoder is deterministic.

    Source: Kingma & Welling 2013, "Auto-Encoding Variational Bayes".
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        if not getattr(encoder, "variational", True):
            raise ValueError("a VAE needs mu and log_var: build the encoder with variational=True.")
        super().__init__(encoder, decoder)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x `[batch, channels, height, width]` -> `(mu, log_var)`, each `[batch, latent]`."""
        return self.encoder(x)

    def sample_posterior(
        self, mu: Tensor, log_var: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """z = mu + exp(log_var / 2) * epsilon, epsilon ~ N(0, I); all `[batch, latent]`.

        The noise is drawn on the generator's device and then moved, so that a CPU generator gives
        the same noise for a model on any device.

        Raises:
            ValueError: mu and log_var differ in shape.

        Source: Kingma & Welling 2013, section 2.4 (the reparameterisation trick).
        """
        if mu.shape != log_var.shape:
            raise ValueError(
                f"mu has shape {list(mu.shape)}, log_var {list(log_var.shape)}: "
                "pass both as the encoder returned them."
            )
        epsilon = drawn(torch.randn, mu.shape, generator, mu.device, mu.dtype)
        return mu + torch.exp(0.5 * log_var) * epsilon

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> VAEOutput:
        mu, log_var = self.encode(x)
        z = self.sample_posterior(mu, log_var, generator)
        return VAEOutput(self.decode(z), mu, log_var, z)


class Autoencoder(_Pair):
    """The deterministic relative: `forward(x) -> decoded` (raw), `encode(x) -> z [batch, latent]`.

    Of a variational encoder it uses mu alone.

    Raises:
        ValueError: the halves disagree.
    """

    def encode(self, x: Tensor) -> Tensor:
        """x `[batch, channels, height, width]` -> z `[batch, latent]`."""
        code = self.encoder(x)
        return code[0] if isinstance(code, tuple) else code

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


def mlp_vae(
    image_shape: Sequence[int] = (1, 28, 28), latent_dim: int = 20, hidden: Sequence[int] = (512,)
) -> VAE:
    """A fully connected VAE for images `[batch, *image_shape]` in [0, 1]."""
    args = (image_shape, latent_dim, hidden)
    return VAE(MLPEncoder(*args), MLPDecoder(*args))


def conv_vae(image_size: int = 28, channels: int = 1, latent_dim: int = 20, width: int = 32) -> VAE:
    """A convolutional VAE for images of 28, 32 or 64 pixels in [0, 1]."""
    args = (image_size, channels, latent_dim, width)
    return VAE(ConvEncoder(*args), ConvDecoder(*args))


def mlp_autoencoder(
    image_shape: Sequence[int] = (1, 28, 28), latent_dim: int = 20, hidden: Sequence[int] = (512,)
) -> Autoencoder:
    """A fully connected deterministic autoencoder; the twin of `mlp_vae` without log_var."""
    args = (image_shape, latent_dim, hidden)
    return Autoencoder(MLPEncoder(*args, variational=False), MLPDecoder(*args))


def conv_autoencoder(
    image_size: int = 28, channels: int = 1, latent_dim: int = 20, width: int = 32
) -> Autoencoder:
    """A convolutional deterministic autoencoder; the twin of `conv_vae` without log_var."""
    args = (image_size, channels, latent_dim, width)
    return Autoencoder(ConvEncoder(*args, variational=False), ConvDecoder(*args))
