"""One step of a GAN, of a VAE, of an IWAE and of an autoencoder, and the drawing of samples.

A step is any function `(state, batch) -> {name: scalar tensor}`; `train` calls it. Values stay
tensors on the device, and noise is copied there from pinned memory, so that the CPU asks a GPU for
one thing after another without waiting. It does wait in the first step, which looks at the range of
the images, and for batches or labels that are not on the GPU already; it may for noise that several
processes have cut into rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from course_lib.losses import adversarial, variational
from course_lib.models.noise import drawn
from course_lib.training.state import TrainingState, modes_kept


def sample_noise(
    n: int,
    latent_dim: int,
    generator: torch.Generator | None = None,
    device: str | torch.device | None = None,
) -> Tensor:
    """z ~ N(0, I), [n, latent_dim], drawn where `generator` lives and moved to `device`.

    A CPU generator therefore gives the same noise on every device. None is torch's global CPU one.
    """
    generator = torch.default_generator if generator is None else generator
    return drawn(torch.randn, (n, latent_dim), generator, device or generator.device)


@torch.no_grad()
def generate(generator_module: nn.Module, z: Tensor, batch_size: int = 256) -> Tensor:
    """Images [n, channels, height, width] (or [n, d]) from z [n, latent_dim].

    Runs in eval mode, in batches, without gradients; gives every submodule its mode back.

    Raises:
        ValueError: z is empty, or batch_size is not positive.
    """
    if len(z) == 0 or batch_size < 1:
        raise ValueError(f"Nothing to do: len(z) is {len(z)} and batch_size is {batch_size}.")
    parameter = next(generator_module.parameters(), z)
    with modes_kept(generator_module):
        generator_module.eval()
        return torch.cat([generator_module(part.to(parameter)) for part in z.split(batch_size)])


def _require_signed_images(real: Tensor) -> None:
    """Images of a GAN span [-1, 1], like the tanh that its generator ends in."""
    if real.numel() == 0:
        raise ValueError(f"The batch is empty, of shape {list(real.shape)}: pass images.")
    low, high = (float(v) for v in torch.aminmax(real))
    if math.isnan(low):
        raise ValueError("The real images hold NaN: find where it arises; no range can mend it.")
    if low >= 0 and high > 2:
        raise ValueError(
            f"The real images span [{low:.4g}, {high:.4g}] and should span [-1, 1] like the "
            "generator's: map pixels in 0..255 with x / 127.5 - 1, as range=(-1.0, 1.0) does."
        )
    if low >= 0 or not (low >= -1.001 and high <= 1.001):
        raise ValueError(
            f"The real images span [{low:.4g}, {high:.4g}] and should span [-1, 1] like the "
            "generator's, or the sign of a pixel gives the fakes away: load them with "
            "range=(-1.0, 1.0), or map [0, 1] images with 2 * x - 1."
        )


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Without gradients for the module's own parameters; they still flow through it."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def gan_step(
    state: TrainingState,
    real: Tensor,
    *,
    loss: adversarial.AdversarialLoss | str = adversarial.non_saturating,
    discriminator_steps: int = 1,
    penalty: Literal["r1", "gradient_penalty"] | None = None,
    penalty_weight: float = 10.0,
    split_batch: bool = False,
    reuse_fakes: bool = False,
    join_batches: bool = False,
) -> dict[str, Tensor]:
    """Update the discriminator `discriminator_steps` times, then the generator once.

    Args:
        state: from `gan_state`.
        real: [batch, ...] data: images in [-1, 1], or points [batch, d]. Each discriminator update
            uses the same real batch with fresh fakes, unless `split_batch`.
        loss: one of `losses.adversarial`, or its name.
        penalty: 'r1' adds penalty_weight / 2 * r1_penalty(real), 'gradient_penalty' adds
            penalty_weight * gradient_penalty(real, fake), to the discriminator's loss.
        split_batch: give each discriminator update its own part of `real`, batch /
            discriminator_steps images of it (Gulrajani et al. 2017, Algorithm 1).
        reuse_fakes: let the generator learn from the fakes that the last discriminator update saw,
            at the cost of one pass of the generator less. Fresh ones, the default, are independent
            of what the discriminator has just learnt.
        join_batches: real and fake pass the discriminator in one batch: the same numbers in
            larger, faster products. Not with layers in it that tie the images of a batch together.

    Returns:
        Scalars before the last update of each player: discriminator_loss (without the penalty),
        generator_loss, real_logit and fake_logit (means); `penalty` (unweighted) if there is one.

    Raises:
        ValueError: a state that is not that of a GAN, unknown loss or penalty, a negative
            penalty_weight, discriminator_steps below 1, a batch that cannot be split
            evenly, layers that forbid joining, or images of a wrong range in the first batch (later
            ones are not looked at, so that a GPU need not wait).

    Source: Goodfellow et al. 2014, Algorithm 1.
    """
    generator, discriminator = _modules(state, "gan_step", "generator", "discriminator")
    loss = adversarial.by_name(loss) if isinstance(loss, str) else loss
    _require_options(
        state, real, discriminator_steps, penalty, penalty_weight, split_batch, join_batches
    )
    device = state.device
    real = real.to(device)
    parts = real.chunk(discriminator_steps) if split_batch else (real,) * discriminator_steps
    n = len(parts[0])

    for i, part in enumerate(parts, start=1):
        # The generator is a constant here; a graph through it is kept only if it is used below.
        with torch.set_grad_enabled(reuse_fakes and i == discriminator_steps):
            made = generator(sample_noise(n, state.latent_dim, state.generator, device))
        fake = made.detach()
        if join_batches:
            logits = _logits(discriminator, torch.cat([part, fake]))
            real_logits, fake_logits = logits.chunk(2)
        else:
            # Two passes, so that batch normalisation never mixes real and fake statistics.
            real_logits, fake_logits = (_logits(discriminator, x) for x in (part, fake))
        discriminator_loss = objective = loss.discriminator(real_logits, fake_logits)
        values = {"discriminator_loss": discriminator_loss}
        if penalty == "r1":
            values["penalty"] = adversarial.r1_penalty(discriminator, part)
            objective = discriminator_loss + penalty_weight / 2 * values["penalty"]
        elif penalty == "gradient_penalty":
            values["penalty"] = adversarial.gradient_penalty(
                discriminator, part, fake, state.generator
            )
            objective = discriminator_loss + penalty_weight * values["penalty"]
        _descend(state.optimizers["discriminator"], objective)

    with _frozen(discriminator):
        if not reuse_fakes:
            made = generator(sample_noise(n, state.latent_dim, state.generator, device))
        generator_loss = loss.generator(_logits(discriminator, made))
        _descend(state.optimizers["generator"], generator_loss)
    for ema in state.ema.values():
        ema.update()

    values |= {
        "generator_loss": generator_loss,
        "real_logit": real_logits.mean(),
        "fake_logit": fake_logits.mean(),
    }
    return {name: value.detach() for name, value in values.items()}


def _modules(state: TrainingState, step: str, *names: str) -> tuple[nn.Module, ...]:
    """The modules that a step needs, or a sentence where the state has others."""
    if any(name not in state.modules for name in names):
        made = {"generator": ": gan_state makes one", "vae": ": vae_state makes one"}
        raise ValueError(
            f"This state has the modules {', '.join(state.modules)}, and {step} trains "
            f"{' and '.join(names)}{made.get(names[0], '')}."
        )
    return tuple(state.modules[name] for name in names)


def _require_options(
    state: TrainingState,
    real: Tensor,
    discriminator_steps: int,
    penalty: str | None,
    penalty_weight: float,
    split_batch: bool,
    join_batches: bool,
) -> None:
    if penalty_weight < 0:
        raise ValueError(
            f"penalty_weight is {penalty_weight}: a penalty costs, so choose 0 or more."
        )
    if penalty not in (None, "r1", "gradient_penalty") or discriminator_steps < 1:
        raise ValueError(
            "penalty must be None, 'r1' or 'gradient_penalty' and discriminator_steps at least 1, "
            f"not {penalty!r} and {discriminator_steps}."
        )
    if split_batch and len(real) % discriminator_steps:
        raise ValueError(
            f"A batch of {len(real)} cannot be split among {discriminator_steps} discriminator "
            "steps; make its size a multiple of their number."
        )
    if state.step > 0:
        return  # what follows does not change from step to step
    if real.ndim == 4:
        _require_signed_images(real)
    tying = batch_layer(state.modules["discriminator"]) if join_batches else None
    if tying is not None:
        raise ValueError(
            f"join_batches would mix real and fake images in the discriminator's {tying}; "
            "leave it out, or build the discriminator without that layer."
        )


def batch_layer(module: nn.Module) -> str | None:
    """Name of a layer whose output for one image depends on the others of its batch, or on chance.

    Batch normalisation ties images together; dropout draws other numbers for a joined batch, and
    spectral normalisation takes one step of its power iteration per pass.
    """
    tying = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for layer in module.modules():
        active = not (isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p == 0)
        hooks = layer._forward_pre_hooks.values()  # of the older torch.nn.utils.spectral_norm
        normed = is_parametrized(layer) or any(type(h).__name__ == "SpectralNorm" for h in hooks)
        if (isinstance(layer, tying) and active) or normed:
            return type(layer).__name__
    return None


def _logits(discriminator: nn.Module, x: Tensor) -> Tensor:
    """Logits [batch], in float32 where autocast made them bfloat16."""
    logits = discriminator(x)
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def _descend(optimizer: torch.optim.Optimizer, objective: Tensor) -> None:
    optimizer.zero_grad()
    objective.backward()
    optimizer.step()


def _require_range_at_first(state: TrainingState, likelihood: nn.Module, x: Tensor) -> None:
    """Refuse a first batch that the likelihood cannot take: on a GPU its log_prob does not look."""
    if state.step == 0 and hasattr(likelihood, "require_range"):
        likelihood.require_range(x)


def vae_step(
    state: TrainingState,
    x: Tensor,
    *,
    beta: float = 1.0,
    kl: Literal["analytic", "sampled"] = "analytic",
    condition: Tensor | None = None,
) -> dict[str, Tensor]:
    """One ascent on the ELBO of x [batch, ...] in the likelihood's range.

    `condition` [batch, ...] goes to the VAE as its third argument, for a bound on
    log p(x|condition).

    Returns:
        Scalars in nats per example: loss (-ELBO, with beta), reconstruction (log-likelihood), kl.

    Raises:
        ValueError: a state with other modules, x out of the likelihood's range, or unknown `kl`. On
            a GPU the range is looked at in the first step alone; later, x out of range makes the
            loss NaN.

    Source: Kingma and Welling 2013, Algorithm 1.
    """
    vae, likelihood = _modules(state, "vae_step", "vae", "likelihood")
    x = x.to(state.device)
    _require_range_at_first(state, likelihood, x)
    given = () if condition is None else (condition.to(state.device),)
    output = vae(x, state.generator, *given)
    if output.decoded.dtype == torch.bfloat16:  # autocast: sums over pixels need more digits
        names = ("decoded", "mu", "log_var", "z")
        output = SimpleNamespace(**{name: getattr(output, name).float() for name in names})
    bound = variational.elbo(x, output, likelihood, beta=beta, kl=kl)
    _descend(state.optimizers["vae"], bound.negative)
    for ema in state.ema.values():
        ema.update()
    return {
        "loss": bound.negative.detach(),
        "reconstruction": bound.reconstruction.detach(),
        "kl": bound.kl.detach(),
    }


def iwae_step(state: TrainingState, x: Tensor, *, k: int = 5) -> dict[str, Tensor]:
    """One ascent on L_k = E log( 1/k sum_i w_i ), w_i = p(x, z_i) / q(z_i|x), of x [batch, ...].

    The state is that of `vae_step`; k = 1 is its ELBO with kl='sampled'. The encoder runs once per
    image, the decoder k times.

    Returns:
        Scalars in nats per example: loss (-L_k) and elbo (the mean of log w_i, below L_k).

    Raises:
        ValueError: a state with other modules, k is below 1, or x is out of the likelihood's range
            (on a GPU as in `vae_step`).

    Source: Burda, Grosse and Salakhutdinov 2015, Eq. 8.
    """
    if k < 1:
        raise ValueError(f"k is {k}, but it counts draws per image: choose 1 or more.")
    vae, likelihood = _modules(state, "iwae_step", "vae", "likelihood")
    x = x.to(state.device)
    _require_range_at_first(state, likelihood, x)
    # Row i + j * batch is draw j of image i.
    mu, log_var = (t.to(x.dtype).repeat(k, 1) for t in vae.encode(x))
    z = vae.sample_posterior(mu, log_var, state.generator)
    decoded = vae.decode(z).to(x.dtype)
    log_p = likelihood.log_prob(x.repeat(k, *[1] * (x.ndim - 1)), decoded)
    # log p(z) - log q(z|x); the two constants -d/2 log(2 pi) cancel.
    log_ratio = 0.5 * ((z - mu).square() / log_var.exp() + log_var - z.square()).sum(1)
    log_w = (log_p + log_ratio).view(k, len(x))
    bound = (torch.logsumexp(without_negligible(log_w), 0) - math.log(k)).mean()
    _descend(state.optimizers["vae"], -bound)
    for ema in state.ema.values():
        ema.update()
    return {"loss": -bound.detach(), "elbo": log_w.detach().mean()}


def without_negligible(log_w: Tensor) -> Tensor:
    """log_w [k, batch] with -inf for draws whose weight is below e^-40 of their image's largest.

    Not even a float64 sum can hold what they add. But their gradients, and what these become in the
    decoder, come out below 1e-38 in float32: subnormal numbers, with which a product of matrices on
    many CPUs takes many times as long (lecture 20 measures it).
    """
    return log_w.masked_fill(log_w < log_w.detach().amax(0) - 40, -math.inf)


def autoencoder_step(state: TrainingState, x: Tensor) -> dict[str, Tensor]:
    """One descent on the squared error per image of x [batch, ...] in [0, 1].

    The module 'autoencoder' returns raw numbers, and their sigmoid is the reconstruction.

    Returns:
        loss: squared error summed over pixels, mean over images.

    Raises:
        ValueError: a state with other modules.

    Source: Hinton and Salakhutdinov 2006, for the measure.
    """
    (autoencoder,) = _modules(state, "autoencoder_step", "autoencoder")
    x = x.to(state.device)
    loss = (autoencoder(x).to(x.dtype).sigmoid() - x).square().flatten(1).sum(1).mean()
    _descend(state.optimizers["autoencoder"], loss)
    for ema in state.ema.values():
        ema.update()
    return {"loss": loss.detach()}
