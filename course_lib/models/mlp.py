"""Fully connected networks: the first GAN of the course, and every network on toy data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .common import require_image_batch, require_image_shape, require_latent, require_positive

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),  # DCGAN's slope; PyTorch's own default is 0.01
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def _activation(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown: choose {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]()


def mlp(
    sizes: Sequence[int],
    activation: str = "relu",
    final: str | None = None,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Linear layers `sizes[0] -> sizes[1] -> ...` with an activation between each two.

    Args:
        sizes: widths, input first; `[2, 64, 64, 1]` has three linear layers.
        activation: "relu", "leaky_relu" (slope 0.2), "tanh" or "sigmoid".
        final: the same choice after the last layer; None leaves it linear.
        dropout: probability of dropping a hidden unit, after each hidden activation.

    Returns:
        A network from `[batch, sizes[0]]` to `[batch, sizes[-1]]`.

    Raises:
        ValueError: fewer than two sizes, a size below 1, an unknown activation, or dropout outside
            [0, 1).
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes is {list(sizes)}; give at least an input and an output width.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it is a probability in [0, 1).")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        if layers:
            layers.append(_activation(activation))
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        layers.append(
            nn.Linear(require_positive(fan_in, "a size"), require_positive(fan_out, "a size"))
        )
    if final is not None:
        layers.append(_activation(final))
    return nn.Sequential(*layers)


class MLPGenerator(nn.Module):
    """z `[batch, latent_dim]` -> images `[batch, *image_shape]` in [-1, 1] (tanh).

    Raises:
        ValueError: unsupported sizes when built; z of the wrong shape when called.

    Source: Goodfellow et al. 2014, "Generative Adversarial Nets".
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        latent_dim: int = 64,
        widths: Sequence[int] = (128, 256, 512),
    ) -> None:
        super().__init__()
        self.image_shape = require_image_shape(image_shape)
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        sizes = (latent_dim, *widths, math.prod(self.image_shape))
        self.net = mlp(sizes, activation="leaky_relu", final="tanh")

    def forward(self, z: Tensor) -> Tensor:
        require_latent(z, self.latent_dim)
        return self.net(z).unflatten(1, self.image_shape)


class MLPDiscriminator(nn.Module):
    """Images `[batch, *image_shape]` in [-1, 1] -> logits `[batch]`; positive means "real".

    Raises:
        ValueError: unsupported sizes when built; images of the wrong shape when called.

    Source: Goodfellow et al. 2014, "Generative Adversarial Nets" (dropout in the discriminator).
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        widths: Sequence[int] = (512, 256),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_shape = require_image_shape(image_shape)
        sizes = (math.prod(self.image_shape), *widths, 1)
        self.net = mlp(sizes, activation="leaky_relu", dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        require_image_batch(x, self.image_shape)
        return self.net(x.flatten(1)).squeeze(1)
