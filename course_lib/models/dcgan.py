"""The convolutional GAN pair of Radford et al. 2015, for images of 16 to 128 pixels.

Width 64 gives the sizes of PyTorch's DCGAN example, width 128 those of
the paper's generator for 64 pixels; 16 to 32 is enough for digits on a CPU.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from .common import (
    PYRAMIDS,
    downsampling,
    pyramid_widths,
    require_image_batch,
    require_latent,
    require_positive,
    square_image_shape,
    upsampling,
)


def dcgan_init(module: nn.Module, generator: torch.Generator | None = None) -> nn.Module:
    """Initialise every layer inside `module` in place and return it.

    Convolutions and linear layers N(0, 0.02^2), batch-norm scales N(1, 0.02^2), all biases 0.

    Source: Radford et al. 2015, "Unsupervised Representation Learning with Deep Convolutional
    Generative Adversarial Networks", section 4 (0.02 for all weights); the batch-norm scale as in
    PyTorch's DCGAN example.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02, generator=generator)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


class DCGANGenerator(nn.Module):
    """z `[batch, latent_dim]` -> images `[batch, channels, image_size, image_size]` in [-1, 1].

    A linear layer makes a 4 x 4 map (7 x 7 for 28 pixels); each transposed convolution doubles the
    side and halves the channels, from at most 8 `width` down to `width`; batch norm and ReLU in
    between, tanh at the end.

    Args:
        image_size: 16, 28, 32, 64 or 128 pixels.
        channels: 1 or 3.
        latent_dim: length of z.
        width: channels of the last feature map.

    Raises:
        ValueError: unsupported sizes when built; z of the wrong shape when called.

    Source: Radford et al. 2015 (DCGAN), section 3.
    """

    def __init__(
        self, image_size: int = 28, channels: int = 1, latent_dim: int = 100, width: int = 64
    ) -> None:
        super().__init__()
        self.image_shape = square_image_shape(image_size, channels, tuple(PYRAMIDS))
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        start, doublings = PYRAMIDS[image_size]
        widths = pyramid_widths(require_positive(width, "width"), doublings)[::-1]
        self.project = nn.Sequential(
            nn.Linear(latent_dim, widths[0] * start**2, bias=False),
            nn.Unflatten(1, (widths[0], start, start)),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        self.upsample = nn.Sequential(upsampling([*widths, channels], batch_norm=True), nn.Tanh())
        dcgan_init(self)

    def forward(self, z: Tensor) -> Tensor:
        require_latent(z, self.latent_dim)
        return self.upsample(self.project(z))


class DCGANDiscriminator(nn.Module):
    """Images `[batch, channels, image_size, image_size]` in [-1, 1] -> logits `[batch]`.

    The generator's mirror image: strided convolutions, LeakyReLU(0.2), batch norm after all but the
    first, one linear layer at the end. `batch_norm=False` for losses with a gradient penalty, which
    is defined per image, while batch norm ties the images of a batch together.

    Args:
        image_size: 16, 28, 32, 64 or 128 pixels.
        channels: 1 or 3.
        width: channels after the first convolution; doubled per layer up to 8 `width`.
        batch_norm: normalise every convolution but the first.

    Raises:
        ValueError: unsupported sizes when built; images of the wrong shape when called.

    Source: Radford et al. 2015 (DCGAN), section 3; Gulrajani et al. 2017 (WGAN-GP) for batch norm.
    """

    def __init__(
        self, image_size: int = 28, channels: int = 1, width: int = 64, batch_norm: bool = True
    ) -> None:
        super().__init__()
        self.image_shape = square_image_shape(image_size, channels, tuple(PYRAMIDS))
        start, halvings = PYRAMIDS[image_size]
        widths = pyramid_widths(require_positive(width, "width"), halvings)
        leaky = partial(nn.LeakyReLU, 0.2)
        self.features = downsampling([channels, *widths], leaky, batch_norm)
        self.head = nn.Linear(widths[-1] * start**2, 1)
        dcgan_init(self)

    def forward(self, x: Tensor) -> Tensor:
        require_image_batch(x, self.image_shape)
        return self.head(self.features(x).flatten(1)).squeeze(1)
