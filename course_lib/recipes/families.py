"""Families of recipes: how settings become networks, a step and a stream, and how one samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import data, losses, training
from course_lib.models import DCGANDiscriminator, DCGANGenerator, mlp_autoencoder
from course_lib.recipes import networks
from course_lib.training import TrainingState

Settings = Mapping[str, Any]


@dataclass
class Model:
    """What a run trains.

    Attributes:
        state, step, batches: what `training.train` takes.
        draw: `(n, generator)` -> n images `[n, channels, height, width]` in [0, 1] on the CPU; an
            autoencoder, which cannot draw, shows reconstructions instead.
    """

    state: TrainingState
    step: Callable[[TrainingState, Tensor], Mapping[str, Tensor]]
    batches: data.Batches
    draw: Callable[[int, torch.Generator], Tensor]


def binarised(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pixels 0 or 1, drawn with probability x in [0, 1]; images of 0 and 1 stay what they are."""
    uniform = torch.rand(x.shape, generator=generator, device=generator.device)
    return (uniform.to(x.device) < x).to(x.dtype)


def gan(
    settings: Settings, train: data.ImageSet, seed: int, device: torch.device, steps: int
) -> Model:
    """A generator and a discriminator; batches in [-1, 1]; samples of the averaged generator."""
    s, (channels, size, _) = settings, train.shape
    if s["network"] == "mlp":
        generator = networks.relu_generator(train.shape, s["latent_dim"], s["width"])
        discriminator = networks.maxout_discriminator(
            train.shape, s["discriminator_width"], s["dropout"]
        )
    else:
        generator = DCGANGenerator(size, channels, s["latent_dim"], s["width"])
        plain = s["penalty"] == "none" and not s["spectral_norm"]
        discriminator = DCGANDiscriminator(size, channels, s["width"], batch_norm=plain)
        if s["spectral_norm"]:
            networks.spectrally_normalised(discriminator)
    state = training.gan_state(
        generator,
        discriminator,
        latent_dim=s["latent_dim"],
        learning_rate=(s["learning_rate"], s["discriminator_learning_rate"]),
        betas=(s["beta1"], s["beta2"]),
        ema_decay=s["ema_decay"],
        seed=seed,
        device=device,
    )
    step = partial(
        training.gan_step,
        loss=losses.by_name(s["loss"]),
        discriminator_steps=s["discriminator_steps"],
        penalty=None if s["penalty"] == "none" else s["penalty"],
        penalty_weight=s["penalty_weight"],
    )

    def draw(n: int, source: torch.Generator) -> Tensor:
        z = training.sample_noise(n, s["latent_dim"], source)
        x = training.generate(state.ema["generator"].module, z)
        return ((x + 1) / 2).clamp(0, 1).cpu()

    return Model(state, step, data.Batches(train, s["batch_size"], (-1, 1), seed), draw)


def vae(
    settings: Settings, train: data.ImageSet, seed: int, device: torch.device, steps: int
) -> Model:
    """A tanh VAE of binary pixels, drawn anew in every batch; with `k` among the settings an IWAE.

    The learning rate falls from `learning_rate` by 10^(-1/7) at a time, in eight stages, each three
    times as long as the one before (Burda et al. 2015, appendix C, scaled to the run).
    """
    s, hidden = settings, (settings["width"],) * 2
    mean = torch.stack([part.float().mean(0) for part in train.images.split(4096)]).mean(0)
    model = networks.tanh_vae(train.shape, s["latent_dim"], hidden, mean.cpu() / 255)
    likelihood = losses.BernoulliLikelihood()
    state = training.vae_state(
        model, likelihood, learning_rate=s["learning_rate"], seed=seed, device=device
    )
    # Adam's epsilon is the paper's.
    state.optimizers["vae"].param_groups[0]["eps"] = 1e-4
    inner = (
        partial(training.iwae_step, k=s["k"])
        if "k" in s
        else partial(training.vae_step, beta=s["beta"])
    )

    def step(state: TrainingState, x: Tensor) -> Mapping[str, Tensor]:
        factor = 10 ** (-stage(state.step, steps) / 7)
        state.optimizers["vae"].param_groups[0]["lr"] = s["learning_rate"] * factor
        return inner(state, binarised(x, state.generator))

    batches = data.Batches(train, s["batch_size"], (0, 1), seed)
    return Model(state, step, batches, partial(_decoded, model.decode, likelihood, model))


def stage(step: int, steps: int) -> int:
    """Stage 0 to 7 of an update, numbered from 0, of `steps`: stage i is 3^i / 3280 of the run."""
    return next(i for i in range(8) if step * 3280 < steps * (3 ** (i + 1) - 1) // 2 or i == 7)


def conditional_vae(
    settings: Settings, train: data.ImageSet, seed: int, device: torch.device, steps: int
) -> Model:
    """A convolutional VAE of images given their label, with a learned Gaussian width of pixels."""
    s, (channels, size, _) = settings, train.shape
    n_classes = len(train.classes)
    model = networks.ConditionalVAE(size, channels, n_classes, s["latent_dim"], s["width"])
    likelihood = losses.LearnedGaussianLikelihood(0.5)
    state = training.vae_state(
        model, likelihood, learning_rate=s["learning_rate"], seed=seed, device=device
    )
    batches = data.Batches(train, s["batch_size"], (0, 1), seed)

    def step(state: TrainingState, x: Tensor) -> Mapping[str, Tensor]:
        return training.vae_step(state, x, beta=s["beta"], condition=batches.labels)

    def decode(z: Tensor) -> Tensor:
        return model.decode(z, torch.arange(len(z), device=z.device) % n_classes)

    return Model(state, step, batches, partial(_decoded, decode, likelihood, model))


def autoencoder(
    settings: Settings, train: data.ImageSet, seed: int, device: torch.device, steps: int
) -> Model:
    """A deep deterministic autoencoder; the columns of its picture are images and what it makes."""
    s = settings
    model = mlp_autoencoder(train.shape, s["latent_dim"], (1000, 500, 250)).to(device)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(model.parameters(), s["learning_rate"], fused=True)
    state = TrainingState({"autoencoder": model}, {"autoencoder": optimizer})

    def step(state: TrainingState, x: Tensor) -> Mapping[str, Tensor]:
        # Linear to zero over the second half: what is left is the noise of the last updates.
        factor = min(1.0, 2 * (1 - state.step / steps))
        optimizer.param_groups[0]["lr"] = s["learning_rate"] * factor
        return training.autoencoder_step(state, x)

    def draw(n: int, source: torch.Generator) -> Tensor:
        index = torch.randint(len(train), (-(-n // 2),), generator=source)
        x = train.as_float(index, (0, 1))
        return torch.stack([x, training.generate(model, x).sigmoid()], 1).flatten(0, 1)[:n].cpu()

    return Model(state, step, data.Batches(train, s["batch_size"], (0, 1), seed), draw)


@torch.no_grad()
def _decoded(
    decode: Callable[[Tensor], Tensor],
    likelihood: Any,
    model: nn.Module,
    n: int,
    source: torch.Generator,
) -> Tensor:
    device = next(model.parameters()).device
    z = training.sample_noise(n, model.latent_dim, source, device)
    return likelihood.mean(decode(z)).cpu()
