"""Steps: who is touched, what is returned, and that equal seeds give equal numbers."""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from course_lib import data, losses
from course_lib.training import (
    EMA,
    autoencoder_step,
    gan_state,
    gan_step,
    generate,
    iwae_step,
    sample_noise,
    vae_state,
    vae_step,
)
from course_lib.training.steps import batch_layer

sys.path.insert(0, str(Path(__file__).parent))
from training_cases import everything, toy_gan, toy_vae


def weights(module):
    return {name: t.clone() for name, t in module.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


class Stopped(Exception):
    pass


def stop(*_):
    raise Stopped


def test_the_discriminators_update_leaves_the_generators_weights_untouched():
    state, _, batches = toy_gan()
    generator, discriminator = state.modules["generator"], state.modules["discriminator"]
    parameters = [p.clone() for p in generator.parameters()]
    before = weights(discriminator)
    # Stop the step after the discriminator's half.
    half = losses.AdversarialLoss("half", losses.non_saturating.discriminator, stop)
    with pytest.raises(Stopped):
        gan_step(state, next(batches), loss=half)
    assert all(torch.equal(a, b) for a, b in zip(parameters, generator.parameters(), strict=True))
    assert all(p.grad is None for p in generator.parameters())
    assert not same(before, weights(discriminator))
    assert all(p.requires_grad for p in discriminator.parameters())  # thawed despite the error


def test_the_generators_update_leaves_the_discriminator_untouched():
    state, _, batches = toy_gan()
    discriminator = state.modules["discriminator"]
    state.optimizers["discriminator"].step = lambda: None
    before = weights(discriminator)
    real = next(batches)
    frozen = next(discriminator.parameters()).requires_grad_(False)
    gan_step(state, real)
    assert same(before, weights(discriminator))
    assert not frozen.requires_grad  # what the user froze stays frozen
    # Its gradient is that of its own loss alone: fakes come before the generator's update.
    reference, _, _ = toy_gan()
    fake = reference.modules["generator"](sample_noise(16, 2, reference.generator))
    logits = [reference.modules["discriminator"](x) for x in (real, fake.detach())]
    losses.non_saturating.discriminator(*logits).backward()
    mine, theirs = (list(s.modules["discriminator"].parameters())[1:] for s in (state, reference))
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_real_and_fake_logits_are_means_and_the_loss_excludes_the_penalty():
    state, _, batches = toy_gan()
    real = next(batches)
    reference = copy.deepcopy(state.modules["discriminator"])
    values = gan_step(state, real, penalty="r1", penalty_weight=3.0)
    assert set(values) == {
        "discriminator_loss", "generator_loss", "real_logit", "fake_logit", "penalty",
    }  # fmt: skip
    assert all(v.ndim == 0 and not v.requires_grad for v in values.values())
    torch.testing.assert_close(values["real_logit"], reference(real).mean().detach())
    torch.testing.assert_close(values["penalty"], losses.r1_penalty(reference, real).detach())
    plain = gan_step(toy_gan()[0], real)
    torch.testing.assert_close(values["discriminator_loss"], plain["discriminator_loss"])


def linear_gan(w):
    discriminator = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Flatten(0))
    with torch.no_grad():
        discriminator[0].weight.copy_(w)
    return gan_state(nn.Linear(2, 2), discriminator, latent_dim=2)


def test_penalty_weights_follow_the_papers():
    """Linear critic, Wasserstein, equal real and fake means: only the penalty has a gradient."""
    w = torch.tensor([[3.0, 4.0]])
    for penalty, expected in (("r1", 10.0 / 2 * 2 * w), ("gradient_penalty", 10 * 2 * 4 * w / 5)):
        state = linear_gan(w)
        state.modules["generator"].weight.data.zero_()
        real = state.modules["generator"].bias.detach().expand(8, 2)
        gan_step(state, real, loss=losses.wasserstein, penalty=penalty)
        torch.testing.assert_close(
            state.modules["discriminator"][0].weight.grad, expected, rtol=1e-5, atol=1e-5
        )


def test_discriminator_steps_counts_updates_of_the_discriminator():
    state, _, batches = toy_gan()
    gan_step(state, next(batches), discriminator_steps=3)
    counts = {
        name: {int(s["step"]) for s in optimizer.state.values()}
        for name, optimizer in state.optimizers.items()
    }
    assert counts == {"generator": {1}, "discriminator": {3}}


@pytest.mark.parametrize(
    ("scale", "mend"),
    [
        (lambda x: (x + 1) / 2, r"2 \* x - 1"),
        (lambda x: (x + 1) * 127.5, "should span"),
        (lambda x: x * float("nan"), "hold NaN"),
        (lambda x: x[:0], "empty"),
    ],
)
def test_images_of_a_wrong_range_are_refused_with_the_mend(scale, mend):
    generator = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4)))
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(16, 1), nn.Flatten(0))
    state = gan_state(generator, discriminator, latent_dim=2)
    right = torch.linspace(-1, 1, 64).reshape(4, 1, 4, 4)
    with pytest.raises(ValueError, match=mend):
        gan_step(state, scale(right))
    gan_step(state, right)


def test_both_kinds_of_spectral_normalisation_are_seen():
    layers = nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm
    assert all(batch_layer(nn.Sequential(norm(nn.Linear(4, 4)))) for norm in layers)
    assert batch_layer(nn.Sequential(nn.Linear(4, 4))) is None


def test_a_loss_may_be_named():
    ends = []
    for loss in (losses.hinge, "hinge"):
        state, _, batches = toy_gan()
        gan_step(state, next(iter(batches)), loss=loss)
        ends.append(torch.cat([p.flatten() for p in state.modules["generator"].parameters()]))
    assert torch.equal(*ends)


def test_a_state_of_the_other_kind_is_named():
    gan, vae = toy_gan()[0], toy_vae()[0]
    with pytest.raises(ValueError, match=r"vae, likelihood.*gan_step.*gan_state makes one"):
        gan_step(vae, torch.zeros(2, 2))
    for step in (vae_step, iwae_step):
        with pytest.raises(ValueError, match=r"generator, discriminator.*vae_state makes one"):
            step(gan, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="autoencoder_step trains autoencoder"):
        autoencoder_step(gan, torch.zeros(2, 2))


def test_two_rates_or_one():
    networks = [nn.Linear(2, 2), nn.Linear(2, 1)]
    for rates in ((1e-3, 2e-3), [1e-3, 2e-3]):
        state = gan_state(*networks, latent_dim=2, learning_rate=rates)
        found = [state.optimizers[n].param_groups[0]["lr"] for n in ("generator", "discriminator")]
        assert found == [1e-3, 2e-3]
    with pytest.raises(ValueError, match="or two"):
        gan_state(*networks, latent_dim=2, learning_rate=(1e-3,))


@pytest.mark.skipif(torch.cuda.is_available(), reason="This machine has a GPU.")
def test_a_gpu_that_is_not_there_is_said_not_to_be_there():
    networks = [nn.Linear(2, 2), nn.Linear(2, 1)]
    for make in (gan_state, vae_state):
        extra = {"latent_dim": 2} if make is gan_state else {}
        with pytest.raises(ValueError, match="'cuda' is not available here"):
            make(*networks, device="cuda", **extra)
    with pytest.raises(ValueError, match="'cuda' is not available here"):
        data.load("digits", device="cuda")


def test_bad_options_are_refused():
    state, _, batches = toy_gan()
    with pytest.raises(ValueError, match="'r1' or 'gradient_penalty'"):
        gan_step(state, next(batches), penalty="r2")
    for options in ({"latent_dim": 0}, {"learning_rate": 0.0}, {"ema_decay": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options)).replace("ema_", "")):
            gan_state(nn.Linear(2, 2), nn.Linear(2, 1), **{"latent_dim": 2, **options})


@pytest.mark.parametrize("build", [toy_gan, toy_vae])
def test_the_same_seed_twice_gives_equal_numbers_and_another_seed_does_not(build):
    def run(seed):
        state, step, batches = build(seed)
        for _ in range(3):
            step(state, next(batches))
        return everything(state, batches)

    assert run(0) == run(0)
    assert run(0)["weights"] != run(1)["weights"]


def test_vae_step_returns_the_elbo_before_the_update_and_trains_the_likelihood():
    state, _, batches = toy_vae()
    x, sigma = next(batches), state.modules["likelihood"].log_sigma.item()
    state.modules["vae"].decoder[1].p = 0.0
    noise = state.generator.get_state()
    before = copy.deepcopy(state.modules["vae"])
    likelihood = copy.deepcopy(state.modules["likelihood"])
    values = vae_step(state, x, beta=2.0)
    output = before(x, torch.Generator().set_state(noise))
    bound = losses.elbo(x, output, likelihood, beta=2.0)
    torch.testing.assert_close(values["loss"], bound.negative.detach())
    torch.testing.assert_close(values["kl"], bound.kl.detach())
    assert state.modules["likelihood"].log_sigma.item() != sigma


def test_average_of_constant_weights_closes_in_geometrically():
    module = nn.Linear(1, 1, bias=False).double()
    module.weight.data.fill_(2.0)
    ema = EMA(module, 0.9)
    module.weight.data.fill_(5.0)
    for n in range(1, 30):
        ema.update()
        assert ema.module.weight.item() == pytest.approx(5 - 3 * 0.9**n, rel=1e-12)
    assert not ema.module.training and not ema.module.weight.requires_grad


def test_average_copies_running_statistics():
    module = nn.BatchNorm1d(2)
    ema = EMA(module, 0.5)
    module(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    ema.update()
    assert same(dict(module.named_buffers()), dict(ema.module.named_buffers()))


def test_noise_is_standard_normal_and_repeatable():
    z = sample_noise(20_000, 3, torch.Generator().manual_seed(0))
    assert z.shape == (20_000, 3)
    assert z.mean().item() == pytest.approx(0, abs=4 / math.sqrt(60_000))
    assert z.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / 60_000))
    assert torch.equal(z, sample_noise(20_000, 3, torch.Generator().manual_seed(0), "cpu"))


def test_generate_works_in_eval_mode_by_parts_and_restores_each_mode():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net[1].eval()
    z = sample_noise(10, 2, torch.Generator().manual_seed(0))
    x = generate(net, z, batch_size=3)
    assert [child.training for child in net] == [True, False, True] and net.training
    assert not x.requires_grad
    torch.testing.assert_close(x, net.eval()(z).detach())
    with pytest.raises(ValueError, match="Nothing to do"):
        generate(net, z[:0])
