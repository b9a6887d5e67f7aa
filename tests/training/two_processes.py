"""What test_processes.py starts: python two_processes.py (equal | survive | command) DIRECTORY."""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from course_lib import __main__ as command_line
from course_lib import data, losses, training
from course_lib.models import DCGANDiscriminator, DCGANGenerator, mlp, mlp_autoencoder, mlp_vae
from course_lib.recipes import runs
from course_lib.recipes.networks import ConditionalVAE
from course_lib.training import processes

STEPS, BATCH = 3, 8


def images(range=(0.0, 1.0), channels=1, size=28):
    """Batches of float64 with labels."""
    source = torch.Generator().manual_seed(7)
    pixels = torch.rand(32, channels, size, size, generator=source)
    labels = torch.randint(3, (32,), generator=source)
    return data.Batches(Doubles(pixels, labels), BATCH, range)


class Doubles(data.ImageSet):
    """An image set whose batches are float64."""

    def as_float(self, index=None, range=(-1.0, 1.0)):
        unit = self.images if index is None else self.images[index]
        return unit * (range[1] - range[0]) + range[0]


def gan(discriminator=None, ema=0.9, **options):
    generator = nn.Sequential(mlp((4, 16, 784), final="tanh"), nn.Unflatten(1, (1, 28, 28)))
    if discriminator is None:
        discriminator = nn.Sequential(nn.Flatten(), mlp((784, 16, 1)), nn.Flatten(0))
    state = training.gan_state(generator, discriminator, latent_dim=4, ema_decay=ema, seed=3)
    return state, partial(training.gan_step, **options), images((-1, 1))


def dropout():
    layers = [nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1)]
    return gan(nn.Sequential(*layers, nn.Flatten(0)))


def dcgan():
    players = DCGANGenerator(28, 1, 4, 4), DCGANDiscriminator(28, 1, 4)
    state = training.gan_state(*players, latent_dim=4, seed=3)
    for module in state.modules.values():
        module.to(memory_format=torch.channels_last)
    return state, training.gan_step, images((-1, 1))


def vae(step, **options):
    state = training.vae_state(mlp_vae(hidden=(16,), latent_dim=3), losses.BernoulliLikelihood())
    return state, partial(step, **options), images()


def conditional():
    batches = images(size=28)
    likelihood = losses.LearnedGaussianLikelihood(0.5)
    state = training.vae_state(ConditionalVAE(28, 1, 3, 2, 4), likelihood)

    def step(state, x):
        return training.vae_step(state, x, condition=batches.labels)

    return state, step, batches


def autoencoder():
    model = mlp_autoencoder(hidden=(16,), latent_dim=3)
    optimizers = {"autoencoder": torch.optim.Adam(model.parameters(), 1e-3)}
    state = training.TrainingState({"autoencoder": model}, optimizers)
    return state, training.autoencoder_step, images()


CASES = {
    "gan": gan,
    "gan, two discriminator steps": partial(gan, discriminator_steps=2),
    "gan, a part of the batch per step": partial(gan, discriminator_steps=2, split_batch=True),
    "gan, gradient penalty": partial(
        gan, ema=None, loss=losses.by_name("wasserstein"), penalty="gradient_penalty"
    ),
    "gan, r1": partial(gan, penalty="r1"),
    "gan, dropout": dropout,
    "dcgan, batch norm": dcgan,
    "vae": partial(vae, training.vae_step),
    "vae, conditional": conditional,
    "iwae": partial(vae, training.iwae_step, k=3),
    "autoencoder": autoencoder,
}


def result(case, here):
    """Gradients of the first step, and everything after some steps."""
    torch.manual_seed(5 + here.rank)  # what process 0 has must count
    state, step, batches = case()
    here.prepare(state, batches)
    step, stream, found = here.step(step, batches), iter(batches), {}
    for i in range(STEPS):
        values = step(state, next(stream))
        state.step += 1
        if i == 0:
            for name, module in state.modules.items():
                for key, p in module.named_parameters():
                    found[f"gradient of {name}.{key}"] = p.grad.clone()
        found |= {f"{name} at step {i}": value for name, value in values.items()}
    modules = dict(state.modules) | {f"{n}_ema": e.module for n, e in state.ema.items()}
    for name, module in modules.items():
        found |= {f"{name}.{key}": t.clone() for key, t in module.state_dict().items()}
    found |= training.state.random_states(state)
    return found


def of_torch(here):
    """The gradients of the autoencoder's first step as DistributedDataParallel finds them."""
    torch.manual_seed(5)
    state, _, batches = autoencoder()
    model = torch.nn.parallel.DistributedDataParallel(state.modules["autoencoder"])
    x = next(batches)
    x = x[here.rows(len(x))]
    (model(x).sigmoid() - x).square().flatten(1).sum(1).mean().backward()
    return {f"gradient of {k[7:]}": p.grad for k, p in model.named_parameters()}


def equal(directory):
    torch.set_default_dtype(torch.float64)
    here = processes.connect()
    found = {name: result(case, here) for name, case in CASES.items()}
    if here.count > 1:
        found["DistributedDataParallel"] = of_torch(here)
    torch.save(found, directory / f"{here.count}-{here.rank}.pt")


# Runs that lose a process.

SETTINGS = {"data": "digits", "width": 16, "importance_samples": 2, "test_images": 20}
WANTED = {"profile": "smoke", "steps": 12, "every": 4, "settings": SETTINGS}


def train(directory, killed=None):
    """A run in which one process, if any, is killed in update 7."""
    if os.environ.get("RANK") == str(killed):
        on_rows = processes.Processes.step

        def step(self, *arguments):
            inner = on_rows(self, *arguments)

            def last(state, batch):
                if state.step == 6:
                    os.kill(os.getpid(), signal.SIGKILL)
                return inner(state, batch)

            return last

        processes.Processes.step = step
    runs.train("vae_mnist", out=directory, resume=True, progress=False, **WANTED)


def survive(directory):
    import accelerate  # noqa: F401  what is imported before a fork is imported once

    train(directory / "whole, 1")
    processes.launch(train, directory / "whole, 2")
    for killed in (0, 1):
        with pytest.raises((ProcessExitedException, ProcessRaisedException)) as caught:
            processes.launch(train, directory / f"killed {killed}", killed)
        assert "SIGKILL" in str(caught.value) or "has lost another" in str(caught.value)
        manifest = json.loads((directory / f"killed {killed}/checkpoint/manifest.json").read_text())
        assert manifest["step"] == 4, manifest
    processes.launch(train, directory / "killed 0")
    train(directory / "killed 1")


def command(directory):
    """What a shell would start; process 1 is killed."""
    out, seen = directory / "run", runs.train

    def wanted(*arguments, **options):
        runs.train = seen
        train(out, killed=1)

    runs.train = wanted
    sys.exit(command_line.main(["train", "vae_mnist", "--out", str(out)]))


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if sys.argv[1] == "equal":
        equal(place)
        processes.launch(equal, place)
    else:
        {"survive": survive, "command": command}[sys.argv[1]](place)
