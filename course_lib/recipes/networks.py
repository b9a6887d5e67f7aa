"""Networks that only recipes need: the tanh VAE of the IWAE paper, a conditional VAE, and players.

Images are `[batch, channels, height, width]`, codes `[batch, latent]`, as in `course_lib.models`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from course_lib.models import (
    VAE,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    VAEOutput,
    mlp,
)


def tanh_vae(
    image_shape: Sequence[int], latent_dim: int, hidden: Sequence[int], mean: Tensor | None = None
) -> VAE:
    """A fully connected VAE with tanh units and Glorot's initialisation.

    `mean` `[*image_shape]` in [0, 1] is that of the data: the decoder starts there, so that the
    first updates need not look for it.

    Source: Burda, Grosse and Salakhutdinov 2015, section 5 (two hidden layers of 200, 50 latents).
    """
    vae = VAE(
        MLPEncoder(image_shape, latent_dim, hidden), MLPDecoder(image_shape, latent_dim, hidden)
    )
    for parent in list(vae.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Tanh())
    for layer in vae.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    if mean is not None:
        with torch.no_grad():
            vae.decoder.net[-1].bias.copy_(mean.flatten().clamp(0.01, 0.99).logit())
    return vae


class ConditionalVAE(nn.Module):
    """q(z|x, y) and p(x|z, y) for images of 28, 32 or 64 pixels in [0, 1] and labels y `[batch]`.

    The label enters as a one-hot vector: beside the encoder's features, and beside z. The prior of
    z is N(0, I) whatever y is, so z need not say what y says already.
    """

    def __init__(
        self, image_size: int, channels: int, n_classes: int, latent_dim: int, width: int
    ) -> None:
        super().__init__()
        self.n_classes, self.latent_dim, features = n_classes, latent_dim, 8 * width
        self.encoder = ConvEncoder(image_size, channels, features, width, variational=False)
        self.head = mlp((features + n_classes, features, 2 * latent_dim))
        self.decoder = ConvDecoder(image_size, channels, latent_dim + n_classes, width)

    def _one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        return nn.functional.one_hot(labels, self.n_classes).to(like)

    def encode(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """x `[batch, channels, height, width]` and y `[batch]` -> `(mu, log_var)`."""
        hidden = self.encoder(x)
        return self.head(torch.cat([hidden, self._one_hot(labels, hidden)], 1)).chunk(2, 1)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """z `[batch, latent]` and y `[batch]` -> raw outputs `[batch, channels, height, width]`."""
        return self.decoder(torch.cat([z, self._one_hot(labels, z)], 1))

    def forward(self, x: Tensor, generator: torch.Generator | None, labels: Tensor) -> VAEOutput:
        mu, log_var = self.encode(x, labels)
        z = VAE.sample_posterior(self, mu, log_var, generator)
        return VAEOutput(self.decode(z, labels), mu, log_var, z)

    def given(self, label: int) -> GivenLabel:
        """The VAE of one label, as `course_lib.metrics` takes it."""
        return GivenLabel(self, label)


class GivenLabel(nn.Module):
    """A conditional VAE whose label is fixed: `encode(x)` and `decode(z)`."""

    def __init__(self, vae: ConditionalVAE, label: int) -> None:
        super().__init__()
        self.vae, self.label, self.latent_dim = vae, label, vae.latent_dim

    def _labels(self, like: Tensor) -> Tensor:
        return torch.full((len(like),), self.label, device=like.device)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.vae.encode(x, self._labels(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.vae.decode(z, self._labels(z))


class Maxout(nn.Module):
    """`[batch, fan_in]` -> `[batch, units]`: each unit is the largest of `pieces` linear maps.

    Source: Goodfellow et al. 2013, "Maxout Networks".
    """

    def __init__(self, fan_in: int, units: int, pieces: int = 5) -> None:
        super().__init__()
        self.pieces, self.linear = pieces, nn.Linear(fan_in, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(2)


class Affine(nn.Module):
    """x -> scale * x + shift: between pixels in [-1, 1], which a run uses, and those in [0, 1]."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


def maxout_discriminator(
    image_shape: Sequence[int],
    width: int,
    dropout: float = 0.5,
    input_dropout: float = 0.2,
    pieces: int = 5,
) -> nn.Module:
    """Images `[batch, *image_shape]` in [-1, 1] -> logits `[batch]`; two maxout layers, dropout.

    Pixels are mapped to [0, 1] first, so that a dropped one is black. Weights begin uniform in
    ±0.005.

    Source: the code published with Goodfellow et al. 2014 (mnist.yaml: two layers of 240 units with
    5 pieces; a pixel is kept with probability 0.8, a hidden unit with 0.5).
    """
    layers = [Affine(0.5, 0.5), nn.Flatten(), nn.Dropout(input_dropout)]
    layers += [Maxout(math.prod(image_shape), width, pieces), nn.Dropout(dropout)]
    layers += [Maxout(width, width, pieces), nn.Dropout(dropout)]
    layers += [nn.Linear(width, 1), nn.Flatten(0)]
    return _uniform(nn.Sequential(*layers), 0.005)


def relu_generator(
    image_shape: Sequence[int], latent_dim: int, width: int, mean: Tensor | None = None
) -> nn.Module:
    """z `[batch, latent_dim]` -> images `[batch, *image_shape]` in [-1, 1].

    Two layers of ReLU and one of sigmoids; weights begin uniform in ±0.05, and the last bias makes
    `mean` `[*image_shape]` in [0, 1], that of the data.

    Source: the code published with Goodfellow et al. 2014 (mnist.yaml: 100 Gaussian inputs, twice
    1200 units).
    """
    sizes = (latent_dim, width, width, math.prod(image_shape))
    net = _uniform(mlp(sizes), 0.05)
    if mean is not None:
        with torch.no_grad():
            net[-1].bias.copy_(mean.flatten().clamp(0.001, 0.999).logit())
    return nn.Sequential(net, nn.Sigmoid(), Affine(2.0, -1.0), nn.Unflatten(1, tuple(image_shape)))


def _uniform(module: nn.Module, bound: float) -> nn.Module:
    """Weights uniform in ±bound, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.uniform_(layer.weight, -bound, bound)
            nn.init.zeros_(layer.bias)
    return module


def spectrally_normalised(module: nn.Module) -> nn.Module:
    """Divide every weight inside `module` by its largest singular value, from now on; returns it.

    Source: Miyato et al. 2018 (one step of power iteration per forward pass in training).
    """
    for layer in list(module.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spectral_norm(layer)
    return module
