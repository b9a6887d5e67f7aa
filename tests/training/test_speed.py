"""Every trick against the plain loop: same noise, same weights; and what is not the same, refused.

The plain loops here are written out in float64 with the ordinary Adam, one pass per batch and every
gradient that `backward` can reach.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from course_lib import data, losses, models
from course_lib.training import (
    channels_last,
    compile_networks,
    convolutions_as_products,
    fast_bfloat16,
    gan_state,
    gan_step,
    in_bfloat16,
    in_place_activations,
    iwae_step,
    loop,
    sample_noise,
    speed,
    train,
    vae_state,
    vae_step,
)

EXACT = {"rtol": 0, "atol": 1e-12}
STEPS, N, LATENT = 6, 8, 5


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def networks(batch_norm: bool, folded: bool = False) -> tuple[nn.Module, nn.Module]:
    """A convolutional pair for images of 8 pixels."""
    torch.manual_seed(0)
    up = models.UpsampledConv2d if folded else upsampled
    generator = nn.Sequential(
        nn.Linear(LATENT, 64),
        nn.Unflatten(1, (4, 4, 4)),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        up(4, 2),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(2, 4, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(4, 4, 3, 1, 1),
        nn.BatchNorm2d(4) if batch_norm else nn.Identity(),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64, 1),
        nn.Flatten(0),
    )
    return generator, discriminator


def upsampled(fan_in: int, fan_out: int) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(fan_in, fan_out, 3, padding=1))


def pictures(n: int = 40) -> data.ImageSet:
    bytes_ = torch.randint(256, (n, 2, 8, 8), generator=torch.Generator().manual_seed(3))
    return Wide(bytes_[:, :1].to(torch.uint8))


class Wide(data.ImageSet):
    """Grey images, handed out in float64 and with a second channel."""

    def as_float(self, index=None, range=(-1.0, 1.0)):
        x = super().as_float(index, range).double()
        return torch.cat([x, -x], 1)


def run(step, pair=None, seed=1, **options):
    """The pair after some updates by the library, Adam fused."""
    pair = pair or networks(batch_norm=False)
    state = gan_state(*pair, latent_dim=LATENT, ema_decay=None, seed=seed)
    size = N * 3 if options.get("split_batch") else N
    batches = data.Batches(pictures(), size, seed=seed)
    train(state, lambda s, x: step(s, x, **options), batches, STEPS, progress=False)
    return pair


def plain(pair=None, seed=1, loss=losses.non_saturating, steps=1, split=False, penalty=0.0,
          reuse=False):  # fmt: skip
    """The same, written out."""
    generator, discriminator = pair or networks(batch_norm=False)
    g_adam, d_adam = (
        torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.999), foreach=False, fused=False)
        for m in (generator, discriminator)
    )
    noise = torch.Generator().manual_seed(seed)
    batches = data.Batches(pictures(), N * 3 if split else N, seed=seed)
    for _ in range(STEPS):
        batch = next(batches)
        for i in range(steps):
            real = batch[i * N : (i + 1) * N] if split else batch
            d_adam.zero_grad()
            fake = generator(sample_noise(N, LATENT, noise))
            value = loss.discriminator(discriminator(real), discriminator(fake))
            if penalty:
                eps = torch.rand(N, 1, 1, 1, generator=noise)
                x = (eps * real + (1 - eps) * fake.data).requires_grad_(True)
                score = discriminator(x)
                (g,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)
                value = value + penalty * ((g.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
            value.backward(retain_graph=True)
            d_adam.step()
        g_adam.zero_grad()
        if not reuse:
            fake = generator(sample_noise(N, LATENT, noise))
        loss.generator(discriminator(fake)).backward()
        g_adam.step()
    return generator, discriminator


def assert_same(pairs, others):
    for module, other in zip(pairs, others, strict=True):
        mine, theirs = module.state_dict(), other.state_dict()
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], **EXACT, msg=name)


def moved(pair):
    start = networks(batch_norm=False)[1].state_dict()
    return max((pair[1].state_dict()[k] - v).abs().max() for k, v in start.items()) > 1e-4


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("join", [False, True])
def test_fewer_passes_give_the_weights_of_the_plain_loop(reuse, join):
    found = run(gan_step, reuse_fakes=reuse, join_batches=join)
    assert_same(found, plain(reuse=reuse))
    assert moved(found)


def test_reused_fakes_are_other_numbers_than_fresh_ones():
    with pytest.raises(AssertionError):
        assert_same(run(gan_step, reuse_fakes=True), plain(reuse=False))


def test_batch_norm_in_both_networks():
    pairs = [networks(batch_norm=True) for _ in range(2)]
    assert_same(run(gan_step, pairs[0], reuse_fakes=True), plain(pairs[1], reuse=True))


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_wasserstein_with_penalty_gives_the_weights_of_the_plain_loop(split, join):
    options = {"loss": losses.wasserstein, "discriminator_steps": 3, "penalty": "gradient_penalty"}
    found = run(gan_step, **options, split_batch=split, join_batches=join)
    assert_same(found, plain(loss=losses.wasserstein, steps=3, split=split, penalty=10.0))
    assert moved(found)


def test_folded_upsampling_in_a_generator_trains_to_the_same_weights():
    folded = networks(batch_norm=False, folded=True)
    assert_same(run(gan_step, folded, reuse_fakes=True, join_batches=True), plain(reuse=True))


def test_a_step_leaves_gradients_where_they_are_used_and_nowhere_else():
    """The discriminator keeps those of its own update; the generator's adds nothing to them."""
    pair = networks(batch_norm=False)
    state = gan_state(*pair, latent_dim=LATENT, ema_decay=None)
    seen = []
    optimizer = state.optimizers["discriminator"]
    optimizer.register_step_post_hook(
        lambda *_: seen.append(
            ([p.grad for p in pair[0].parameters()], [p.grad.clone() for p in pair[1].parameters()])
        )
    )
    gan_step(state, next(data.Batches(pictures(), N)), reuse_fakes=True)
    (of_generator, of_discriminator) = seen[0]
    assert of_generator == [None] * len(of_generator)
    for p, gradient in zip(pair[1].parameters(), of_discriminator, strict=True):
        assert torch.equal(p.grad, gradient)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.BatchNorm1d(64), "BatchNorm1d"),
        (nn.Dropout(0.1), "Dropout"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(64, 64)), "ParametrizedLinear"),
    ],
)
def test_joining_is_refused_where_it_would_change_the_result(layer, word):
    generator, discriminator = networks(batch_norm=False)
    discriminator.insert(6, layer)
    state = gan_state(generator, discriminator, latent_dim=LATENT)
    with pytest.raises(ValueError, match=f"join_batches .*{word}"):
        gan_step(state, next(data.Batches(pictures(), N)), join_batches=True)
    discriminator[6] = nn.Dropout(0.0)
    gan_step(state, next(data.Batches(pictures(), N)), join_batches=True)


def test_a_batch_that_does_not_split_is_refused():
    state = gan_state(*networks(batch_norm=False), latent_dim=LATENT)
    with pytest.raises(ValueError, match="batch of 8 cannot be split among 3"):
        gan_step(state, next(data.Batches(pictures(), N)), discriminator_steps=3, split_batch=True)


def vae(seed=0):
    torch.manual_seed(seed)
    return models.mlp_vae((1, 4, 4), 3, (10,))


def test_a_vae_step_gives_the_weights_of_the_plain_loop():
    mine, theirs = vae(), vae()
    state = vae_state(mine, losses.BernoulliLikelihood(), seed=2)
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-3, foreach=False, fused=False)
    noise, source = (torch.Generator().manual_seed(s) for s in (2, 4))
    for _ in range(STEPS):
        x = torch.rand(N, 1, 4, 4, generator=source)
        vae_step(state, x)
        mu, log_var = theirs.encode(x)
        z = mu + torch.randn(mu.shape, generator=noise) * torch.exp(0.5 * log_var)
        x_hat = torch.sigmoid(theirs.decode(z))
        value = nn.functional.binary_cross_entropy(x_hat, x, reduction="sum")
        value = value - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
        adam.zero_grad()
        (value / N).backward()
        adam.step()
    assert_same([mine], [theirs])


def test_resident_bytes_are_the_images_of_the_usual_transforms():
    import numpy as np
    from PIL import Image
    from torchvision import transforms

    torch.set_default_dtype(torch.float32)
    image_set = data.load("digits").subset(50)
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    expected = [usual(Image.fromarray(np.asarray(x[0]))) for x in image_set.images]
    torch.testing.assert_close(image_set.as_float(), torch.stack(expected), rtol=0, atol=1e-7)


@pytest.mark.parametrize("penalised", [False, True])
def test_channels_last_gives_the_same_weights(penalised):
    options = {"penalty": "gradient_penalty"} if penalised else {}
    results = []
    for reorder in (False, True):
        pair = networks(batch_norm=False, folded=True)
        state = gan_state(*pair, latent_dim=LATENT, ema_decay=0.9)
        if reorder:
            assert channels_last(state) is state
            for module in (pair[1], state.ema["generator"].module[4]):
                weight = next(p for p in module.parameters() if p.ndim == 4)
                assert weight.is_contiguous(memory_format=torch.channels_last)
        batches = data.Batches(pictures(), N)
        train(state, lambda s, x: gan_step(s, x, **options), batches, STEPS, progress=False)
        results.append((*pair, state.ema["generator"].module))
    assert_same(*results)
    with pytest.raises(ValueError, match="before the first update"):
        channels_last(state)


@pytest.mark.parametrize(
    "options", [{}, {"penalty": "gradient_penalty"}, {"penalty": "r1"}, {"reuse_fakes": True}]
)
@pytest.mark.parametrize("reorder", [False, True])
def test_convolutions_as_products_give_the_same_weights(options, reorder):
    results = []
    for products in (False, True):
        pair = networks(batch_norm=False)  # a bias before one has no gradient but rounding
        state = gan_state(*pair, latent_dim=LATENT, ema_decay=0.9)
        if products:
            assert convolutions_as_products(state, channels=1, share=1) is state
            if reorder:
                channels_last(state)
        kinds = {type(layer) for network in pair for layer in network.modules()}
        assert (models.ProductConv2d in kinds) == products
        batches = data.Batches(pictures(), N)
        train(state, lambda s, x: gan_step(s, x, **options), batches, STEPS, progress=False)
        results.append((*pair, state.ema["generator"].module))
    assert_same(*results)


@pytest.mark.skipif(speed.compiler() is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_give_the_same_weights():
    results = []
    for compiled in (False, True):
        model = vae()
        state = vae_state(model, losses.BernoulliLikelihood(), seed=2)
        if compiled:
            assert compile_networks(state) is state
            assert model._compiled_call_impl is not None  # or the comparison would show nothing
        source = torch.Generator().manual_seed(4)
        for _ in range(STEPS):
            vae_step(state, torch.rand(N, 1, 4, 4, generator=source))
        results.append([model])
    assert_same(*results)


def test_without_a_compiler_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(speed, "compiler", lambda: None)
    with pytest.raises(ValueError, match="install one"):
        compile_networks(vae_state(vae(), losses.BernoulliLikelihood()))


@pytest.mark.parametrize(
    "options", [{}, {"penalty": "gradient_penalty"}, {"penalty": "r1"}, {"reuse_fakes": True}]
)
def test_in_place_activations_change_no_bit_of_any_weight(options):
    results = []
    for in_place in (False, True):
        pair = networks(batch_norm="penalty" not in options)
        state = gan_state(*pair, latent_dim=LATENT, ema_decay=0.9)
        if in_place:
            assert in_place_activations(state) is state
        for module in (*pair, state.ema["generator"].module):
            written_over = [layer.inplace for layer in module if hasattr(layer, "inplace")]
            # The activation after nn.Identity keeps its input: nobody knows who else has it.
            after_identity = module is pair[1] and "penalty" in options
            assert written_over == [in_place] + [in_place and not after_identity] * (
                module is pair[1]
            )
        batches = data.Batches(pictures(), N)
        train(state, lambda s, x: gan_step(s, x, **options), batches, STEPS, progress=False)
        results.append((*pair, state.ema["generator"].module))
    for mine, theirs in zip(*results, strict=True):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_activations_that_are_not_in_a_plain_chain_keep_their_input():
    class Residual(nn.Sequential):
        def forward(self, x):
            hidden = self[0](x)
            return hidden + self[1](hidden)

    falling = nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(-0.5))
    network = nn.Sequential(Residual(nn.Linear(4, 4), nn.ReLU()), nn.ReLU(), falling)
    state = vae_state(models.VAE(network, nn.Identity()), losses.BernoulliLikelihood())
    in_place_activations(state)
    assert not any(getattr(layer, "inplace", False) for layer in network.modules())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("beside", [0.0, 1e308, float("inf")])
def test_the_check_of_gradients_misses_no_entry(bad, beside):
    gradients = [torch.randn(3, 4), torch.full((5,), beside)]
    for layout in (gradients, [gradients[0].t(), gradients[1]]):
        assert torch.isfinite(loop._finite_if_all_are(layout)) == torch.isfinite(
            torch.cat([g.flatten() for g in layout]).sum()
        )
    gradients[0][1, 2] = bad
    assert not torch.isfinite(loop._finite_if_all_are(gradients))


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([3, 0, 3]),
        torch.tensor([-1, 2]),
        torch.tensor([[1, 2], [3, 4]]),
        torch.arange(40) % 3 == 0,
        torch.tensor(5),
        torch.tensor([], dtype=torch.int64),
        slice(2, 9, 3),
    ],
)
def test_images_are_taken_as_brackets_take_them(index):
    image_set = pictures()
    assert torch.equal(image_set._taken(index), image_set.images[index])
    with pytest.raises(IndexError):
        image_set._taken(torch.tensor([40]))


def test_held_memory_changes_no_number():
    """It is for the whole process, so the comparison runs in one of its own."""
    script = """
from concurrent.futures import ThreadPoolExecutor
import torch
from course_lib.training import hold_memory
def numbers():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 16, 3)
    for _ in range(3):
        layer(torch.randn(64, 8, 64, 64)).square().sum().backward()
    return layer.weight.grad
before = numbers()
asked = hold_memory(), hold_memory()  # twice is as good as once
with ThreadPoolExecutor(1) as pool:  # other threads have heaps of 64 MiB, and this asks for 100
    large = pool.submit(torch.ones, 25 * 2**20).result().sum().item() == 25 * 2**20
print(*asked, large and torch.equal(before, numbers()))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    expected = str(sys.platform == "linux" and _glibc())
    assert found.stdout.split() == [expected, expected, "True"], found.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell")
def test_held_memory_takes_none_before_it_is_used():
    script = """
from pathlib import Path
from course_lib.training import hold_memory
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
before = pages()
hold_memory(), hold_memory()
print((pages() - before) * 4096 / 2**20)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert float(found.stdout) < 16, found.stderr


def _glibc() -> bool:
    import platform

    return platform.libc_ver()[0] == "glibc"


def test_bfloat16_is_near_float32_and_keeps_weights_and_losses_wide():
    torch.set_default_dtype(torch.float32)
    for step, make in ((gan_step, _gan), (vae_step, _vae), (iwae_step, _vae)):
        values = []
        for lower in (False, True):
            state, x = make()
            found = (in_bfloat16(step) if lower else step)(state, x)
            assert all(v.dtype == torch.float32 for v in found.values())
            modules = state.modules.values()
            assert all(p.dtype == torch.float32 for m in modules for p in m.parameters())
            values.append(torch.stack(list(found.values())))
        assert not torch.equal(*values)
        torch.testing.assert_close(*values, rtol=0.03, atol=0.03)
    assert in_bfloat16(gan_step).__doc__ == gan_step.__doc__


def test_every_update_in_bfloat16_sees_the_weights_of_the_one_before():
    """Near float32 even where three updates of the critic stand in one step."""
    torch.set_default_dtype(torch.float32)
    found = []
    for lower in (False, True):
        torch.manual_seed(0)
        critic = nn.Sequential(nn.Flatten(), models.mlp((784, 32, 1)), nn.Flatten(0))
        state = gan_state(
            models.MLPGenerator(), critic, latent_dim=64, learning_rate=0.01, betas=(0.0, 0.9)
        )
        step = partial(gan_step, discriminator_steps=3)
        (in_bfloat16(step) if lower else step)(state, _gan()[1])
        found.append(torch.cat([p.detach().flatten() for p in critic.parameters()]))
    # 0.0007; weights of the first update in the other two make it 0.016.
    assert (found[1] - found[0]).abs().mean() < 3e-3


def _gan():
    torch.manual_seed(0)
    state = gan_state(models.MLPGenerator(), models.MLPDiscriminator(), latent_dim=64)
    return state, torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _vae():
    torch.manual_seed(0)
    state = vae_state(models.mlp_vae(), losses.BernoulliLikelihood())
    return state, torch.rand(16, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_avx512_bf16_alone_must_show_that_it_is_faster(monkeypatch, gain):
    found = {"avx512_bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(speed, "bfloat16_gain", lambda: gain)
    assert fast_bfloat16("cpu") is (gain > 1)
    monkeypatch.undo()
    torch.set_default_dtype(torch.float32)
    assert 0.01 < speed.bfloat16_gain(64) < 100


def test_fast_bfloat16_follows_the_processor(monkeypatch):
    for names, expected in (({}, False), ({"amx_bf16": True}, True), ({"avx2": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda n=names: n, raising=False)
        assert fast_bfloat16("cpu") is expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not fast_bfloat16("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert fast_bfloat16("cuda")


def test_fused_and_ordinary_adam_agree():
    pairs = []
    for fused in (True, False):
        pair = networks(batch_norm=False)
        state = gan_state(*pair, latent_dim=LATENT, ema_decay=None, fused=fused)
        assert {o.defaults["fused"] for o in state.optimizers.values()} == {True if fused else None}
        train(state, gan_step, data.Batches(pictures(), N), STEPS, progress=False)
        pairs.append(pair)
    assert_same(*pairs)


def test_a_copied_state_keeps_its_average():
    pair = networks(batch_norm=False)
    state = copy.deepcopy(gan_state(*pair, latent_dim=LATENT, ema_decay=0.5))
    gan_step(state, next(data.Batches(pictures(), N)))
    average, weights = state.ema["generator"].module, state.modules["generator"]
    start = networks(batch_norm=False)[0]
    for a, w, s in zip(average.parameters(), weights.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(a, (w + s) / 2, **EXACT)
