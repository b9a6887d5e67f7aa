"""Time of training: images per second beside plain loops at the same architecture and batch.

    python tests/benchmarks/training.py                # all workloads: about 10 minutes
    python tests/benchmarks/training.py --only VAE     # workloads whose name holds this word
    python tests/benchmarks/training.py --tricks       # what each trick gives, one at a time
    python tests/benchmarks/training.py --scaling      # cost against batch, size and width
    python tests/benchmarks/training.py --device cuda  # on a GPU; never run so far

The plain loops are written here the way widely copied scripts are: a PIL image per item, collated
by a DataLoader without worker processes, the default Adam, every gradient that backward() can
reach, losses printed at every update. Ours is `training.train` with the library's own steps and
batches and the tricks that each workload names; neither keeps an average of the weights.
Both see the same data, networks, batch sizes and number of updates, and take turns, each in a
process of its own on all cores that it may use; the ratio is that of the medians. Beside them
stands how long `python -m course_lib train` takes to its first update. Results go to data/results/.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import machine
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from course_lib import data, environment, losses, models, notebooks, plotting, training
from course_lib.recipes import cards
from course_lib.recipes.catalogue import RECIPES

RESULTS = Path(__file__).parents[2] / "data" / "results"
DEVICE = torch.device("cpu")  # of this process; `serve` sets it
CRITIC_UPDATES = 5  # per update of the generator, in WGAN-GP
NO_BF16 = "No rows for bfloat16: this processor does not multiply it in hardware."
SLOW_BF16 = (
    "bfloat16 cannot win here: this processor has AVX512-BF16 but no AMX, and a product of two "
    "matrices of 512 rows takes {:.1f} times as long in it as in float32, before any conversion; "
    "`training.fast_bfloat16` says so. The goals stand for processors on which it is fast."
)


# ---------------------------------------------------------------------------- data


def images(name: str) -> data.ImageSet:
    """Digits of 28 pixels, or sprites of 64: real digits where they are at hand."""
    if name == "sprites":
        return data.load("sprites", image_size=64).subset(4000)
    try:
        return data.load("mnist", download=False)
    except data.DataUnavailableError:
        return data.load("digits")


class Pictures(torch.utils.data.Dataset):
    """One PIL image per item, transformed when it is asked for, as torchvision's sets are."""

    def __init__(self, image_set: data.ImageSet, transform: Callable) -> None:
        self.data = image_set.images.permute(0, 2, 3, 1).contiguous()
        if self.data.shape[-1] == 1:
            self.data = self.data[..., 0]
        self.targets, self.transform = image_set.labels, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture, target = self.data[index], int(self.targets[index])
        return self.transform(Image.fromarray(picture.numpy())), target


def transform(size: int, channels: int, signed: bool, resized: bool) -> transforms.Compose:
    """That of the script: most of them resize, also where the images have the size already."""
    steps = ([transforms.Resize(size)] if resized else []) + [transforms.ToTensor()]
    if signed:
        steps.append(transforms.Normalize([0.5] * channels, [0.5] * channels))
    return transforms.Compose(steps)


def resident(image_set: data.ImageSet, size: int) -> data.ImageSet:
    """What `Resize` makes of each image, once and for all."""
    if image_set.images.shape[-1] == size:
        return image_set
    resize = transforms.Resize(size)
    small = [
        torch.from_numpy(np.array(resize(Image.fromarray(x[0].numpy())))) for x in image_set.images
    ]
    return data.ImageSet(torch.stack(small)[:, None], image_set.labels, image_set.name)


# ---------------------------------------------------------------------------- networks


def mlp_gan() -> tuple[nn.Module, nn.Module]:
    """100-128-256-512-1024-784 with batch norm against 784-512-256-1."""
    layers: list[nn.Module] = [nn.Linear(100, 128), nn.LeakyReLU(0.2, inplace=True)]
    for fan_in, fan_out in itertools.pairwise((128, 256, 512, 1024)):
        layers += [nn.Linear(fan_in, fan_out), nn.BatchNorm1d(fan_out, 0.8)]
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    generator = nn.Sequential(
        *layers, nn.Linear(1024, 784), nn.Tanh(), nn.Unflatten(1, (1, 28, 28))
    )
    return generator, models.MLPDiscriminator((1, 28, 28), (512, 256))


def doubling(fan_in: int, fan_out: int, folded: bool) -> nn.Module:
    if folded:
        return models.UpsampledConv2d(fan_in, fan_out)
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(fan_in, fan_out, 3, padding=1))


def upsampling_gan(folded: bool = False) -> tuple[nn.Module, nn.Module]:
    """Two nearest-neighbour doublings, each before a convolution; dropout in the discriminator."""
    generator = nn.Sequential(
        nn.Linear(100, 128 * 64),
        nn.Unflatten(1, (128, 8, 8)),
        nn.BatchNorm2d(128),
        doubling(128, 128, folded),
        nn.BatchNorm2d(128, 0.8),
        nn.LeakyReLU(0.2, inplace=True),
        doubling(128, 64, folded),
        nn.BatchNorm2d(64, 0.8),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 1, 3, padding=1),
        nn.Tanh(),
    )
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise((1, 16, 32, 64, 128)):
        layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        layers.append(nn.Dropout2d(0.25))
        if fan_in > 1:
            layers.append(nn.BatchNorm2d(fan_out, 0.8))
    discriminator = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 1), nn.Flatten(0))
    return models.dcgan_init(generator), models.dcgan_init(discriminator)


def transposed_gan() -> tuple[nn.Module, nn.Module]:
    """The DCGAN of 64 pixels, widths 64 to 512."""
    return models.DCGANGenerator(64, 3, 100, 64), models.DCGANDiscriminator(64, 3, 64)


def mlp_vae() -> models.VAE:
    """784-400-20-400-784."""
    return models.mlp_vae((1, 28, 28), 20, (400,))


class ConvEncoder(nn.Module):
    """Five halvings, 32 to 512 channels, then mu and log_var of 128 numbers each."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise((3, 32, 64, 128, 256, 512)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, 2, 1), nn.BatchNorm2d(fan_out), nn.LeakyReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        self.mu, self.log_var = nn.Linear(2048, 128), nn.Linear(2048, 128)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(x)
        return self.mu(hidden), self.log_var(hidden)


def conv_vae() -> models.VAE:
    """The decoder: five doublings, 512 to 32 channels, one more convolution, tanh."""
    layers: list[nn.Module] = [nn.Linear(128, 2048), nn.Unflatten(1, (512, 2, 2))]
    for fan_in, fan_out in itertools.pairwise((512, 256, 128, 64, 32, 32)):
        layers.append(nn.ConvTranspose2d(fan_in, fan_out, 3, 2, 1, output_padding=1))
        layers += [nn.BatchNorm2d(fan_out), nn.LeakyReLU()]
    return models.VAE(
        ConvEncoder(), nn.Sequential(*layers, nn.Conv2d(32, 3, 3, padding=1), nn.Tanh())
    )


# ---------------------------------------------------------------------------- plain loops
#
# Each is endless and yields after every update.

Loader = torch.utils.data.DataLoader  # or any other iterable of batches and labels


def printed(*values: Tensor) -> None:
    """The line that the scripts print at every update."""
    print("".join(f"[loss: {v.item():f}]" for v in values), file=_NOWHERE)


_NOWHERE = open(os.devnull, "w")


def adam(module: nn.Module, rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=rate, betas=betas)


def normal(n: int, latent: int) -> Tensor:
    return torch.Tensor(np.random.normal(0, 1, (n, latent))).to(DEVICE)


def plain_gan(pair: tuple[nn.Module, nn.Module], loader: Loader) -> Iterator[None]:
    """Generator first, its gradient going into the discriminator's weights too."""
    generator, discriminator = pair[0], nn.Sequential(pair[1], nn.Sigmoid())
    criterion = nn.BCELoss()
    g_optimizer, d_optimizer = (adam(m, 2e-4, (0.5, 0.999)) for m in (generator, discriminator))
    while True:
        for real, _ in loader:
            real = real.to(DEVICE)
            valid, fake = (f(len(real), device=DEVICE) for f in (torch.ones, torch.zeros))
            g_optimizer.zero_grad()
            made = generator(normal(len(real), 100))
            g_loss = criterion(discriminator(made), valid)
            g_loss.backward()
            g_optimizer.step()
            d_optimizer.zero_grad()
            real_loss = criterion(discriminator(real), valid)
            fake_loss = criterion(discriminator(made.detach()), fake)
            d_loss = (real_loss + fake_loss) / 2
            d_loss.backward()
            d_optimizer.step()
            printed(d_loss, g_loss)
            yield


def plain_dcgan(pair: tuple[nn.Module, nn.Module], loader: Loader) -> Iterator[None]:
    """Discriminator first, real and fake backward one by one; the generator reuses the fakes."""
    generator, discriminator = pair[0], nn.Sequential(pair[1], nn.Sigmoid())
    criterion = nn.BCELoss()
    g_optimizer, d_optimizer = (adam(m, 2e-4, (0.5, 0.999)) for m in (generator, discriminator))
    while True:
        for real, _ in loader:
            real = real.to(DEVICE)
            label = torch.full((len(real),), 1.0, device=DEVICE)
            discriminator.zero_grad()
            output = discriminator(real)
            real_loss = criterion(output, label)
            real_loss.backward()
            d_x = output.mean()
            made = generator(torch.randn(len(real), 100, device=DEVICE))
            label.fill_(0.0)
            output = discriminator(made.detach())
            fake_loss = criterion(output, label)
            fake_loss.backward()
            d_optimizer.step()
            generator.zero_grad()
            label.fill_(1.0)
            g_loss = criterion(discriminator(made), label)
            g_loss.backward()
            g_optimizer.step()
            printed(real_loss + fake_loss, g_loss, d_x, output.mean())
            yield


def plain_wgan_gp(pair: tuple[nn.Module, nn.Module], loader: Loader) -> Iterator[None]:
    """A critic update per batch, with gradients through the generator that nobody uses."""
    generator, critic = pair
    g_optimizer, d_optimizer = (adam(m, 2e-4, (0.5, 0.999)) for m in pair)
    count = 0
    while True:
        for real, _ in loader:
            real = real.to(DEVICE)
            d_optimizer.zero_grad()
            z = normal(len(real), 100)
            made = generator(z)
            real_score, fake_score = critic(real), critic(made)
            alpha = torch.Tensor(np.random.random((len(real), 1, 1, 1))).to(DEVICE)
            between = (alpha * real + (1 - alpha) * made.data).requires_grad_(True)
            score = critic(between)
            (gradient,) = torch.autograd.grad(
                score, between, torch.ones_like(score), create_graph=True, retain_graph=True
            )
            penalty = ((gradient.view(len(real), -1).norm(2, dim=1) - 1) ** 2).mean()
            d_loss = -real_score.mean() + fake_score.mean() + 10 * penalty
            d_loss.backward()
            d_optimizer.step()
            g_optimizer.zero_grad()
            if count % CRITIC_UPDATES == 0:
                g_loss = -critic(generator(z)).mean()
                g_loss.backward()
                g_optimizer.step()
                printed(d_loss, g_loss)
            count += 1
            yield


def plain_mlp_vae(vae: models.VAE, loader: Loader) -> Iterator[None]:
    """Cross-entropy of probabilities, summed over pixels and images."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    while True:
        for x, _ in loader:
            x = x.to(DEVICE)
            optimizer.zero_grad()
            mu, log_var = vae.encode(x)
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
            x_hat = torch.sigmoid(vae.decode(z))
            cross_entropy = F.binary_cross_entropy(
                x_hat.view(-1, 784), x.view(-1, 784), reduction="sum"
            )
            loss = cross_entropy - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
            loss.backward()
            optimizer.step()
            printed(loss)
            yield


KL_WEIGHT = 0.00025  # of the convolutional VAE, beside a mean over pixels


def plain_conv_vae(vae: models.VAE, loader: Loader) -> Iterator[None]:
    """Mean squared error and a weighted divergence."""
    optimizer = torch.optim.Adam(vae.parameters(), lr=5e-3)
    while True:
        for x, _ in loader:
            x = x.to(DEVICE)
            optimizer.zero_grad()
            mu, log_var = vae.encode(x)
            z = mu + torch.randn_like(mu) * torch.exp(0.5 * log_var)
            error = F.mse_loss(vae.decode(z), x)
            kl = torch.mean(-0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1), dim=0)
            loss = error + KL_WEIGHT * kl
            loss.backward()
            optimizer.step()
            printed(loss, error, kl)
            yield


# ---------------------------------------------------------------------------- ours
#
# Each takes the tricks by name, so that they can be added one at a time.

Tricks = frozenset[str]
Ours = tuple[training.TrainingState, Callable]


def our_gan(pair: tuple[nn.Module, nn.Module], tricks: Tricks, **options: object) -> Ours:
    state = training.gan_state(*pair, latent_dim=100, ema_decay=None, fused="fused Adam" in tricks)
    options |= {
        "reuse_fakes": "reused fakes" in tricks,
        "join_batches": "joined batches" in tricks,
    }
    return state, partial(training.gan_step, **options)


def our_wgan_gp(pair: tuple[nn.Module, nn.Module], tricks: Tricks) -> Ours:
    return our_gan(
        pair,
        tricks,
        loss=losses.wasserstein,
        discriminator_steps=CRITIC_UPDATES,
        split_batch=True,
        penalty="gradient_penalty",
        penalty_weight=10.0,
    )


def our_mlp_vae(vae: models.VAE, tricks: Tricks) -> Ours:
    likelihood = losses.BernoulliLikelihood()
    return training.vae_state(vae, likelihood, fused="fused Adam" in tricks), training.vae_step


def our_conv_vae(vae: models.VAE, tricks: Tricks) -> Ours:
    # The same objective in nats: sigma² = 12288 pixels / 2 · the weight of the divergence.
    sigma = (64 * 64 * 3 / 2 * KL_WEIGHT) ** 0.5
    likelihood = losses.GaussianLikelihood(sigma, bounded=False)
    fused = "fused Adam" in tricks
    return training.vae_state(vae, likelihood, learning_rate=5e-3, fused=fused), training.vae_step


# ---------------------------------------------------------------------------- workloads


@dataclass(frozen=True)
class Workload:
    """A published script, our stand-in for it, our run, and what the course promises beside it."""

    name: str
    script: str
    network: Callable
    plain: Callable
    ours: Callable
    tricks: tuple[str, ...]
    goal: dict[str, float]
    batch: int = 64
    data: str = "digits"
    size: int = 28
    signed: bool = True
    resized: bool = True
    batches_per_step: int = 1


FEW, GAN = ("fused Adam", "held memory"), ("fused Adam", "held memory", "reused fakes")
CONVOLUTIONS = "channels last", "in-place activations", "convolutions as products"
WORKLOADS = [
    Workload("MLP GAN 28×28", "PyTorch-GAN gan", mlp_gan, plain_gan, our_gan,
             (*GAN, "joined batches", "in-place activations"), {"fp32": 2.5, "bf16": 3.2}),
    Workload("MLP WGAN-GP 28×28", "PyTorch-GAN wgan_gp", mlp_gan, plain_wgan_gp, our_wgan_gp,
             (*GAN, "joined batches"), {"fp32": 2.5, "bf16": 3.2},
             batches_per_step=CRITIC_UPDATES),
    Workload("DCGAN, upsampling 32×32", "PyTorch-GAN dcgan", upsampling_gan, plain_gan, our_gan,
             (*GAN, "folded upsampling", "channels last", "convolutions as products"),
             {"fp32": 2.8, "bf16": 4.5}, size=32),
    Workload("MLP VAE 28×28", "pytorch/examples vae", mlp_vae, plain_mlp_vae, our_mlp_vae,
             FEW, {"fp32": 2.0, "bf16": 2.8}, batch=128, signed=False, resized=False),
    Workload("DCGAN, transposed 64×64", "pytorch/examples dcgan", transposed_gan, plain_dcgan,
             our_gan, (*GAN, *CONVOLUTIONS), {"fp32": 1.3, "bf16": 2.3},
             data="sprites", size=64),
    Workload("convolutional VAE 64×64", "PyTorch-VAE VanillaVAE", conv_vae, plain_conv_vae,
             our_conv_vae, (*FEW, *CONVOLUTIONS),
             {"fp32": 1.7, "bf16": 3.0}, data="sprites", size=64, signed=False),
]  # fmt: skip

Run = Callable[[int], None]  # trains on so many batches more


def batches_of(w: Workload, batch: int) -> data.Batches:
    image_set = resident(images(w.data), w.size).to(DEVICE)
    return data.Batches(image_set, batch, (-1, 1) if w.signed else (0, 1))


def moved(networks: nn.Module | tuple[nn.Module, ...]) -> nn.Module | tuple[nn.Module, ...]:
    """The network, or each of a pair, on the device of this process."""
    if isinstance(networks, tuple):
        return tuple(network.to(DEVICE) for network in networks)
    return networks.to(DEVICE)


def learning_rates(state: training.TrainingState) -> list[float]:
    return [group["lr"] for o in state.optimizers.values() for group in o.param_groups]


def in_one_graph(step: Callable, state: training.TrainingState, batch: Tensor) -> Callable:
    """The step as one CUDA graph, which a GPU replays without a word from Python.

    Written without a GPU at hand; it has never run. Noise must come from a generator of the GPU,
    because a graph records no draws of the CPU: other numbers, same distribution. The learning rate
    is the recording's for ever; one that the step itself sets would be so without a word.
    """
    state.generator = torch.Generator(DEVICE).manual_seed(0)
    state.step = max(state.step, 1)  # the look at the range in step 0 would wait for the GPU
    for optimizer in state.optimizers.values():
        for group in optimizer.param_groups:
            group["capturable"] = True
    static = batch.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # libraries choose their kernels before the recording
        for _ in range(3):
            step(state, static)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(state.generator)
    with torch.cuda.graph(graph):
        values = step(state, static)

    rates = learning_rates(state)

    def replay(state: training.TrainingState, batch: Tensor) -> dict[str, Tensor]:
        if learning_rates(state) != rates:
            raise ValueError("A graph keeps the learning rate with which it was recorded.")
        static.copy_(batch)
        graph.replay()
        return values

    return replay


def plain_run(w: Workload, tricks: Tricks) -> Run:
    if "resident images" in tricks:
        batches = ((x, None) for x in batches_of(w, w.batch))
    else:
        image_set = images(w.data)
        pictures = Pictures(image_set, transform(w.size, image_set.shape[0], w.signed, w.resized))
        batches = Loader(pictures, w.batch, shuffle=True, drop_last=True)
    loop = w.plain(moved(w.network()), batches)
    return lambda updates: [next(loop) for _ in range(updates)]


def our_run(w: Workload, tricks: Tricks) -> Run:
    folded = {"folded": True} if "folded upsampling" in tricks else {}
    state, step = w.ours(moved(w.network(**folded)), tricks)
    if "channels last" in tricks:
        training.channels_last(state)
    if "in-place activations" in tricks:
        training.in_place_activations(state)
    if "convolutions as products" in tricks:
        training.convolutions_as_products(state)
    if "compiled networks" in tricks:
        training.compile_networks(state)
    if "bfloat16" in tricks:
        step = training.in_bfloat16(step)
    batches = batches_of(w, w.batch * w.batches_per_step)
    if "CUDA graph" in tricks:
        for module in state.modules.values():
            module.train()
        step = in_one_graph(step, state, next(batches))

    def run(updates: int) -> None:
        steps = state.step + updates // w.batches_per_step
        training.train(state, step, batches, steps, progress=False)

    return run


# ---------------------------------------------------------------------------- measuring


def wait() -> None:
    """Until the device has done what it was asked for."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peak_mib() -> float:
    """Of the GPU's memory where there is one; of the whole process on a CPU."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return machine.peak_mib()


def serve(w: Workload, who: str, tricks: Tricks, clock: Callable[[], float], device: str) -> None:
    """A contestant in a process of its own: reads numbers of updates, answers seconds."""
    global DEVICE
    DEVICE = torch.device(device)
    if "held memory" in tricks:
        training.hold_memory()
    torch.manual_seed(0)
    run = (plain_run if who == "plain" else our_run)(w, tricks)
    run(w.batches_per_step)
    wait()
    print("ready", flush=True)
    for line in sys.stdin:
        start = clock()
        run(int(line))
        wait()
        seconds = clock() - start
        print(seconds, peak_mib(), flush=True)


class Contestant:
    """The other end of `serve`. A process each, since what one does with memory stays its own."""

    def __init__(self, w: Workload, who: str, tricks: Tricks, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", w.name, who, ",".join(tricks)]
        command += ["--processor-time"] * options.processor_time + ["--device", options.device]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{w.name}, {who}: did not start; its message is above.")
        self.seconds: list[float] = []
        self.mib = 0.0

    def run(self, updates: int) -> float:
        print(updates, file=self.process.stdin, flush=True)
        seconds, self.mib = map(float, self.process.stdout.readline().split())
        return seconds

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def gpu_goal(w: Workload) -> dict[str, float | None]:
    """On a GPU the plain loop of a small network waits for Python; for others there is no goal."""
    return {"fp32": 10.0, "graphs": 20.0} if w.size == 28 else {"fp32": None, "graphs": None}


def measure(
    w: Workload, entrants: dict[str, tuple[str, Tricks]], options: argparse.Namespace
) -> dict:
    """Images per second of each contestant, in turns that take the slowest about `seconds`."""
    contestants = {}
    try:
        for name, (who, tricks) in entrants.items():
            contestants[name] = Contestant(w, who, tricks, options)
        for contestant in contestants.values():
            contestant.run(w.batches_per_step)
        one = contestants["plain"].run(w.batches_per_step)
        updates = max(1, round(options.seconds / one)) * w.batches_per_step
        for _ in range(options.rounds):
            for contestant in contestants.values():
                contestant.seconds.append(contestant.run(updates))
    finally:
        for contestant in contestants.values():
            contestant.close()
    speed = {
        name: [updates * w.batch / t for t in contestant.seconds]
        for name, contestant in contestants.items()
    }
    medians = {name: statistics.median(values) for name, values in speed.items()}
    return {
        "workload": w.name,
        "architecture_of": w.script,
        "batch": w.batch,
        "updates_per_window": updates,
        "tricks": list(tricks_on(w, options.device)),
        "images_per_second": medians,
        "range": {name: [min(values), max(values)] for name, values in speed.items()},
        "peak_mib": {name: contestant.mib for name, contestant in contestants.items()},
        "goal": w.goal if options.device == "cpu" else gpu_goal(w),
        "ratio": {name: v / medians["plain"] for name, v in medians.items() if name != "plain"},
    }


# Made for CPUs; a GPU has convolutions and an allocator of its own.
CPU_TRICKS = {"convolutions as products", "held memory"}


def tricks_on(w: Workload, device: str) -> tuple[str, ...]:
    """The tricks of a workload on a device, in their order."""
    return tuple(t for t in w.tricks if device == "cpu" or t not in CPU_TRICKS)


def entrants(w: Workload, options: argparse.Namespace) -> dict[str, tuple[str, Tricks]]:
    """Who runs: the plain loop and ours, or every trick added to those before it."""
    found, tricks = {"plain": ("plain", frozenset())}, tricks_on(w, options.device)
    if options.tricks:
        found["resident images"] = ("plain", frozenset({"resident images"}))
        found["the library's step"] = ("ours", frozenset())
        for i, trick in enumerate(tricks, start=1):
            found[trick] = ("ours", frozenset(tricks[:i]))
        if w.size > 28 and "channels last" not in tricks:
            found["channels last"] = ("ours", frozenset({*tricks, "channels last"}))
        # The compiler differentiates once, and a penalty on gradients wants twice.
        if w.ours is not our_wgan_gp and training.speed.compiler():
            found["compiled networks"] = ("ours", frozenset({*tricks, "compiled networks"}))
    else:
        found["fp32"] = ("ours", frozenset(tricks))
    if options.device == "cuda":
        found["graphs"] = ("ours", frozenset({*tricks, "CUDA graph"}))
    elif bfloat16_sentence() != NO_BF16:
        found["bf16"] = ("ours", frozenset({*tricks, "bfloat16"}))
    return found


# ---------------------------------------------------------------------------- start

# `python -m course_lib train`, which says when its first update is done, and ends there.
STARTED = """
import os
import torch
from course_lib.__main__ import main
from course_lib.training import loop
add = loop.Recorder.add
def first(self, *arguments):
    add(self, *arguments)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    print("first update", flush=True)
    os._exit(0)
loop.Recorder.add = first
main()
"""


def start(recipe: str, device: str) -> float:
    """Seconds from the start of Python to the end of the first update of a recipe."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", STARTED, "train", recipe, "--profile", "laptop"]
        command += ["--device", device, "--out", str(Path(folder, "run"))]
        began = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            said, complaint = process.communicate()
        seconds = time.perf_counter() - began
    if "first update" not in said:
        raise SystemExit(f"{recipe} did not start: {complaint or said}")
    return seconds


def starts(device: str) -> dict[str, float]:
    """Of every recipe, the median of three starts."""
    return {
        recipe.name: statistics.median(start(recipe.name, device) for _ in range(3))
        for recipe in RECIPES.values()
    }


# ---------------------------------------------------------------------------- scaling


POINT = {"batch": 32, "size": 32, "width": 32}
SCALES = {"batch": (16, 32, 64, 128), "size": (16, 32, 64, 128), "width": (8, 16, 32, 64)}


def point(batch: int, size: int, width: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds per update, flops and peak memory of one DCGAN, in the process that asks."""
    from torch.utils.flop_counter import FlopCounterMode

    training.hold_memory()
    torch.manual_seed(0)
    networks = (
        models.DCGANGenerator(size, 3, 100, width),
        models.DCGANDiscriminator(size, 3, width),
    )
    state = training.gan_state(*networks, latent_dim=100)
    real = torch.rand(batch, 3, size, size) * 2 - 1
    before = machine.peak_mib(forget=True)
    step = partial(training.gan_step, reuse_fakes=True)
    with FlopCounterMode(display=False) as counter:
        step(state, real)
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 2 and len(seconds) < 50):
        start = clock()
        step(state, real)
        seconds.append(clock() - start)
    return {
        "batch": batch,
        "size": size,
        "width": width,
        "seconds": statistics.median(seconds),
        "gigaflop": counter.get_total_flops() / 1e9,
        "mib_before": before,
        "mib_peak": machine.peak_mib(),
    }


def scaling(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Points along each axis through `POINT`, one process each."""
    found: dict[str, list[dict[str, float]]] = {}
    for axis, values in SCALES.items():
        for value in values:
            where = ",".join(str(v) for v in {**POINT, axis: value}.values())
            command = [sys.executable, __file__, "--point", where]
            command += ["--processor-time"] * options.processor_time
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found.setdefault(axis, []).append(json.loads(run.stdout))
            p = found[axis][-1]
            print(
                f"{axis} {value}: {p['seconds']:.3g} s, {p['gigaflop']:.3g} GFLOP, "
                f"{p['mib_peak'] - p['mib_before']:.0f} MiB",
                flush=True,
            )
    return found


def scaling_picture(axes: dict[str, list[dict[str, float]]]) -> bytes:
    """Seconds with flops beside them, and memory, against batch, image size and width."""
    fig, grid = plotting.figure(2, 3, width=8.6, height=5.4, sharey="row")
    blue, orange = plotting.PALETTE["blue"], plotting.PALETTE["vermillion"]
    # The flops as the seconds that they would take at the speed of the common point.
    common = next(p for p in axes["batch"] if p["batch"] == POINT["batch"])
    for column, (axis, points) in enumerate(axes.items()):
        x = [p[axis] for p in points]
        top, bottom = grid[0, column], grid[1, column]
        flops = [p["gigaflop"] * common["seconds"] / common["gigaflop"] for p in points]
        top.plot(x, [p["seconds"] for p in points], "o-", color=blue, label="measured")
        top.plot(x, flops, "s--", color=orange, label="in proportion to flops")
        memory = [p["mib_peak"] - p["mib_before"] for p in points]
        bottom.plot(x, memory, "o-", color=blue)
        for ax in (top, bottom):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(x, [str(v) for v in x])
            ax.minorticks_off()
        bottom.set_yticks([30, 100, 300], ["30", "100", "300"])
        bottom.set_xlabel({"batch": "images per batch", "size": "pixels per side"}.get(axis, axis))
        top.set_title({"batch": "batch", "size": "image size"}.get(axis, axis))
    grid[0, 0].set_ylabel("seconds per update")
    grid[1, 0].set_ylabel("peak MiB of updates")
    grid[0, 0].legend(frameon=False)
    return plotting.png_bytes(fig)


# ---------------------------------------------------------------------------- results


def table(result: dict) -> str:
    """The results as a page of Markdown."""
    clock = "of the processor " if result["processor_time"] else ""
    lines = [
        "# Speed of training",
        "",
        f"{result['threads']} thread{'s' * (result['threads'] > 1)} ({result['processor']}), "
        f"images per second {clock}as median of {result['rounds']} windows, in turns. "
        f"{', '.join(f'{k} {v}' for k, v in result['versions'].items())}. Made by "
        "`python tests/benchmarks/training.py`. {bf16}".format(bf16=result["bf16"]),
        "",
        "| workload | architecture of | batch | plain loop | ours | MiB, both | precision | goal "
        "| ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["workloads"]:
        for precision, goal in row["goal"].items():
            if precision not in row["ratio"]:
                continue
            ratio, mib = row["ratio"][precision], row["peak_mib"]
            wanted = "–" if goal is None else f"≥ {goal:g}× {'✓' if ratio >= goal else '✗'}"
            lines.append(
                f"| {row['workload']} | {row['architecture_of']} | {row['batch']} | "
                f"{row['images_per_second']['plain']:,.0f} | "
                f"{row['images_per_second'][precision]:,.0f} | "
                f"{mib['plain']:,.0f}, {mib[precision]:,.0f} | {precision} | "
                f"{wanted} | **{ratio:.2f}×** |"
            )
    slowest = max(result["start_seconds"], key=result["start_seconds"].get)
    lines += [
        "",
        "`python -m course_lib train RECIPE` has done its first update at most "
        f"{result['start_seconds'][slowest]:.1f} s after Python's start ({slowest}; goal: 3 s; "
        f"median of three starts of each of the {len(result['start_seconds'])} recipes at the "
        "profile laptop, data in the cache).",
        "",
    ]
    return "\n".join(lines)


def picture(result: dict) -> bytes:
    """Bars of images per second, one group per workload, on a logarithmic scale."""
    groups = {
        row["workload"]: {
            name: (value, "" if name == "plain" else f"{row['ratio'][name]:.2f}×")
            for name, value in row["images_per_second"].items()
        }
        for row in result["workloads"]
    }
    labels = {"plain": "plain loop", "fp32": "ours, float32"}
    on_gpu = any("graphs" in group for group in groups.values())
    labels |= {"graphs": "ours, one graph"} if on_gpu else {"bf16": "ours, bfloat16"}
    return machine.bars(
        groups,
        labels,
        ["//", "", ".."],
        "images per second (logarithmic); numbers: times as many as the plain loop",
        0.75,
    )


def bfloat16_sentence() -> str:
    """Why there are no rows for bfloat16, or slow ones; empty where it is fast."""
    if training.fast_bfloat16():
        return ""
    if not getattr(torch.cpu, "get_capabilities", dict)().get("avx512_bf16"):
        return NO_BF16
    return SLOW_BF16.format(1 / training.speed.bfloat16_gain())


def circumstances(options: argparse.Namespace) -> dict:
    """What the numbers depend on besides the code."""
    on_gpu = cards.circumstances(torch.device(options.device))["device"]
    return {
        "benchmark": "training",
        "commit": environment.git_commit(),
        "processor": machine.processor() + (", " + on_gpu if options.device == "cuda" else ""),
        "threads": torch.get_num_threads(),
        "processor_time": options.processor_time,
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "torchvision", "pillow")},
        "bf16": bfloat16_sentence() if options.device == "cpu" else "",
    }


def write(path: Path, result: dict) -> None:
    notebooks.write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", default="", help="a word that the names of the workloads hold")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=4, help="length of a window")
    arguments.add_argument("--tricks", action="store_true", help="add the tricks one at a time")
    arguments.add_argument(
        "--processor-time",
        action="store_true",
        help="count seconds of the processor: for one thread on a machine that others use too",
    )
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--out", type=Path, default=RESULTS)
    arguments.add_argument("--scaling", action="store_true", help="cost against size instead")
    arguments.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments.add_argument("--point", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    if options.device == "cuda" and (options.scaling or options.processor_time):
        arguments.error("--scaling and --processor-time are for the CPU: leave --device out.")
    if options.serve:
        name, who, tricks = options.serve
        w = next(w for w in WORKLOADS if w.name == name)
        serve(w, who, frozenset(tricks.split(",")), clock, options.device)
        return 0
    if options.point:
        print(json.dumps(point(*map(int, options.point.split(",")), clock)))
        return 0
    result = circumstances(options)
    print(f"threads: {result['threads']}, {result['processor']}. {result['bf16']}", flush=True)
    if options.scaling:
        result["benchmark"], result["axes"] = "scaling", scaling(options)
        write(options.out / "benchmark_scaling.json", result)
        notebooks.write_file(options.out / "benchmark_scaling.png", scaling_picture(result["axes"]))
        return 0
    result |= {"rounds": options.rounds, "seconds": options.seconds, "workloads": []}
    result["digits"] = images("digits").name
    for w in WORKLOADS:
        if options.only in w.name:
            row = measure(w, entrants(w, options), options)
            result["workloads"].append(row)
            found = ", ".join(
                f"{name} {v:,.0f} ({row['ratio'].get(name, 1):.2f}×, "
                f"{row['peak_mib'][name]:,.0f} MiB)"
                for name, v in row["images_per_second"].items()
            )
            print(f"{w.name}: {found}", flush=True)
    stem = "benchmark_training" + ("_cuda" if options.device == "cuda" else "")
    stem += "_tricks" if options.tricks else ""
    if options.only:
        return 0
    if not options.tricks:
        result["start_seconds"] = starts(options.device)
    write(options.out / f"{stem}.json", result)
    if not options.tricks:
        notebooks.write_text(options.out / f"{stem}.md", table(result))
        notebooks.write_file(options.out / f"{stem}.png", picture(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
