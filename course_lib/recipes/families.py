"""Families of recipes: how settings become networks, a step and a stream, and how one samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import data, losses, training
from course_lib.models import DCGANDiscriminator, DCGANGenerator, VAEOutput, mlp_autoencoder
from course_lib.models.noise import drawn
from course_lib.recipes import networks
from course_lib.training import TrainingState
from course_lib.training.loop import Step

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
    return (drawn(torch.rand, x.shape, generator, x.device) < x).to(x.dtype)


def gan(
    settings: Settings, train: data.ImageSet, seed: int, device: torch.device, steps: int
) -> Model:
    """A generator and a discriminator; batches in [-1, 1]; samples of the averaged generator."""
    s, (channels, size, _) = settings, train.shape
    if s["network"] == "mlp":
        generator = networks.relu_generator(
            train.shape, s["latent_dim"], s["width"], pixel_mean(train)
        )
        discriminator = networks.maxout_discriminator(
            train.shape, s["discriminator_width"], s["dropout"], s["input_dropout"], s["pieces"]
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
        split_batch=s["split_batch"],
        reuse_fakes=s.get("reuse_fakes", False),
        join_batches=training.steps.batch_layer(discriminator) is None,
    )
    batches = data.Batches(train, s["batch_size"], (-1, 1), seed)
    if s.get("optimizer") == "sgd":
        step = _descending(state, step, s, batches.batches_per_epoch)

    def draw(n: int, source: torch.Generator) -> Tensor:
        z = training.sample_noise(n, s["latent_dim"], source)
        x = training.generate(state.ema["generator"].module, z)
        return ((x + 1) / 2).clamp(0, 1).cpu()

    return Model(state, _tuned(state, step, s), batches, draw)


def _tuned(state: TrainingState, step: Step, settings: Settings) -> Step:
    """The step in the precision of the settings, and the weights in their order in memory."""
    if settings.get("channels_last"):
        training.channels_last(state)
    return training.in_bfloat16(step) if settings.get("precision") == "bfloat16" else step


def pixel_mean(images: data.ImageSet) -> Tensor:
    """Mean of the images `[*shape]` in [0, 1], by blocks, on the CPU."""
    # Not every device has float64.
    parts = [part.cpu().double().sum(0) for part in images.images.split(4096)]
    white = 255 if images.images.dtype == torch.uint8 else 1
    return (torch.stack(parts).sum(0) / len(images) / white).float()


def _descending(
    state: TrainingState, step: Callable[..., Any], s: Settings, epoch: int
) -> Callable[[TrainingState, Tensor], Mapping[str, Tensor]]:
    """`step` with gradient descent with momentum in place of Adam, for both players.

    Both learning rates are divided by `learning_rate_decay` after every update; the momentum grows
    linearly from `momentum` to `final_momentum` between the epochs 1 and `momentum_epochs`.

    Source: the code published with Goodfellow et al. 2014 (mnist.yaml). It halves the
    discriminator's loss; here its learning rate is halved instead.
    """
    rates = {"generator": s["learning_rate"], "discriminator": s["discriminator_learning_rate"]}
    for name, rate in rates.items():
        parameters = state.modules[name].parameters()
        state.optimizers[name] = torch.optim.SGD(parameters, rate, s["momentum"])

    def descend(state: TrainingState, x: Tensor) -> Mapping[str, Tensor]:
        share = (state.step // epoch - 1) / max(1, s["momentum_epochs"] - 1)
        share = min(1.0, max(0.0, share))
        for name, rate in rates.items():
            group = state.optimizers[name].param_groups[0]
            # A negative power ends at 0, where a division by the positive one would overflow.
            group["lr"] = rate * s["learning_rate_decay"] ** -state.step
            group["momentum"] = s["momentum"] + share * (s["final_momentum"] - s["momentum"])
        return step(state, x)

    return descend


def vae(
    settings: Settings, train: data.ImageSet, seed: int, device: torch.device, steps: int
) -> Model:
    """A tanh VAE of binary pixels, drawn anew in every batch; without `beta` an IWAE.

    `k` is the number of draws of z per image, over which a VAE averages log w and an IWAE w itself.
    The learning rate falls from `learning_rate` by 10^(-1/7) at a time, in eight stages, each three
    times as long as the one before (Burda et al. 2015, section 5.1, scaled to the run).
    """
    s, hidden = settings, (settings["width"],) * 2
    model = networks.tanh_vae(train.shape, s["latent_dim"], hidden, pixel_mean(train))
    likelihood = losses.BernoulliLikelihood()
    state = training.vae_state(
        model, likelihood, learning_rate=s["learning_rate"], seed=seed, device=device
    )
    # Adam's epsilon is the paper's.
    state.optimizers["vae"].param_groups[0]["eps"] = 1e-4
    if "beta" not in s:
        inner = partial(training.iwae_step, k=s["k"])
    elif s["k"] == 1:
        inner = partial(training.vae_step, beta=s["beta"])
    else:
        inner = partial(averaged_step, k=s["k"], beta=s["beta"])

    def step(state: TrainingState, x: Tensor) -> Mapping[str, Tensor]:
        factor = 10 ** (-stage(state.step, steps) / 7)
        state.optimizers["vae"].param_groups[0]["lr"] = s["learning_rate"] * factor
        return inner(state, binarised(x, state.generator))

    batches = data.Batches(train, s["batch_size"], (0, 1), seed)
    draw = partial(_decoded, model.decode, likelihood, model)
    return Model(state, _tuned(state, step, s), batches, draw)


def averaged_step(state: TrainingState, x: Tensor, *, k: int, beta: float) -> dict[str, Tensor]:
    """`training.vae_step` with k draws of z per image: the same bound, with less noise.

    The encoder runs once per image, the decoder k times.

    Source: Burda, Grosse and Salakhutdinov 2015, Table 1 (its VAE with k = 5 and 50).
    """
    vae, likelihood = state.modules["vae"], state.modules["likelihood"]
    x = x.to(state.device)
    # Row i + j * batch is draw j of image i.
    mu, log_var = (t.to(x.dtype).repeat(k, 1) for t in vae.encode(x))
    z = vae.sample_posterior(mu, log_var, state.generator)
    output = VAEOutput(vae.decode(z).to(x.dtype), mu, log_var, z)
    bound = losses.elbo(x.repeat(k, *[1] * (x.ndim - 1)), output, likelihood, beta=beta)
    state.optimizers["vae"].zero_grad()
    bound.negative.backward()
    state.optimizers["vae"].step()
    values = {"loss": bound.negative, "reconstruction": bound.reconstruction, "kl": bound.kl}
    return {name: value.detach() for name, value in values.items()}


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

    draw = partial(_decoded, decode, likelihood, model)
    return Model(state, _tuned(state, step, s), batches, draw)


def autoencoder(
    settings: Settings, train: data.ImageSet, seed: int, device: torch.device, steps: int
) -> Model:
    """A deep deterministic autoencoder; the columns of its picture are images and what it makes."""
    s = settings
    model = mlp_autoencoder(train.shape, s["latent_dim"], (1000, 500, 250))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    model.to(device)
    optimizer = training.Adam(
        model.parameters(), s["learning_rate"], weight_decay=s["weight_decay"]
    )
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

    batches = data.Batches(train, s["batch_size"], (0, 1), seed)
    return Model(state, _tuned(state, step, s), batches, draw)


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
