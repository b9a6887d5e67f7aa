"""What test_processes.py starts: python two_processes.py WHAT DIRECTORY.

WHAT is equal, survive or command, or, with weights cut up among processes, parts, moved or command.
"""

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
from course_lib.models.common import UpsampledConv2d
from course_lib.recipes import runs
from course_lib.recipes.networks import ConditionalVAE, spectrally_normalised
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


def dcgan(last=True):
    players = DCGANGenerator(28, 1, 4, 4), DCGANDiscriminator(28, 1, 4)
    state = training.gan_state(*players, latent_dim=4, seed=3)
    for module in state.modules.values() if last else ():
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


# The same with weights, averages and moments cut up.

LOOK = 2  # updates before the first process looks


def upsampled():
    """A generator with layers that read the weights of others, and a spectral norm."""
    layers = [nn.Linear(4, 2 * 7 * 7), nn.Unflatten(1, (2, 7, 7)), UpsampledConv2d(2, 3), nn.ReLU()]
    generator = nn.Sequential(*layers, UpsampledConv2d(3, 1), nn.Tanh())
    discriminator = nn.Sequential(nn.Flatten(), mlp((784, 15, 1)), nn.Flatten(0))
    spectrally_normalised(discriminator)
    state = training.gan_state(generator, discriminator, latent_dim=4, seed=3)
    return state, training.gan_step, images((-1, 1))


def careless():
    """A step that leaves gradients of the discriminator behind, for zero_grad."""
    state, _, batches = gan()

    def step(state, x):
        values = {}
        for name, sign in (("discriminator", 1), ("generator", -1)):
            z = training.sample_noise(len(x), 4, state.generator)
            fake = state.modules["discriminator"](state.modules["generator"](z))
            values[name] = sign * (fake - state.modules["discriminator"](x)).mean()
            state.optimizers[name].zero_grad()
            values[name].backward()
            state.optimizers[name].step()
        return {name: value.detach() for name, value in values.items()}

    return state, step, batches


def momentum():
    """Gradient descent, which has moments of another kind."""
    state, step, batches = vae(training.vae_step)
    parameters = state.optimizers["vae"].param_groups[0]["params"]
    state.optimizers["vae"] = torch.optim.SGD(parameters, 1e-5, 0.5)
    return state, step, batches


PARTS = {
    **CASES,
    "dcgan, batch norm": partial(dcgan, last=False),
    "gan, fakes used again": partial(gan, reuse_fakes=True, join_batches=True),
    "gan, upsampling, spectral norm": upsampled,
    "gan, gradients left behind": careless,
    "vae, descent": momentum,
}


def whole(state):
    """Everything that a checkpoint has, as tensors by name, in the first process."""
    named = training.state._weights(state)
    states = {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()}
    gathered = (named, states)
    if state.shards:
        gathered = state.shards.gather(named, state.optimizers)
    if gathered is None:
        return {}
    found = {name: tensor.clone() for name, tensor in gathered[0].items()}
    for name, optimizer in gathered[1].items():
        for i, moments in optimizer["state"].items():
            found |= {f"{key} of {name} {i}": x for key, x in moments.items() if x is not None}
    return found | training.state.random_states(state)


def held(state):
    """Numbers that this process keeps: weights and averages, and moments."""
    modules = (*state.modules.values(), *(ema.module for ema in state.ema.values()))
    weights = [p for module in modules for p in module.parameters()]
    moments = [m for o in state.optimizers.values() for s in o.state.values() for m in s.values()]
    weights = [p.to_local() if hasattr(p, "to_local") else p for p in weights]
    return {
        "weights": sum(p.untyped_storage().nbytes() for p in weights) // 8,
        "moments": sum(m.numel() for m in moments if m is not None),
    }


def drawn(state):
    """What the first process alone makes of it."""
    source = torch.Generator().manual_seed(4)
    if "generator" in state.ema:
        return training.generate(state.ema["generator"].module, torch.randn(5, 4, generator=source))
    if "generator" in state.modules:
        return training.generate(state.modules["generator"], torch.randn(5, 4, generator=source))
    model = next(iter(state.modules.values()))
    z = torch.randn(6, model.latent_dim, generator=source)
    labels = (torch.arange(6) % 3,) if isinstance(model, ConditionalVAE) else ()
    return model.decode(z, *labels).detach()


def trained(state, step, batches, here, steps, found):
    """Go on with a run up to `steps`; its values and a look at it go into `found`."""
    here.prepare(state, batches)
    step, stream = here.step(step, batches), iter(batches)

    def look(state):
        found[f"drawn at {state.step}"] = drawn(state)

    while state.step < steps:
        if state.step == LOOK:
            here.look(look)(state)
        values = step(state, next(stream))
        state.step += 1
        found |= {f"{name} at step {state.step}": value for name, value in values.items()}
    here.look(look)(state)


def diverged(here):
    """How a run ends in which the last row of a weight, and nothing else, has a gradient of NaN."""
    model = nn.Linear(784, 6)
    state = training.TrainingState(
        {"model": model}, {"model": torch.optim.Adam(model.parameters())}
    )

    def step(state, x):
        out = model(x.flatten(1))
        loss = out[:, :5].square().mean() + (0 * out[:, 5]).sqrt().sum()
        state.optimizers["model"].zero_grad()
        loss.backward()
        state.optimizers["model"].step()
        return {"loss": loss.detach()}

    batches = images()
    here.prepare(state, batches)
    try:
        training.train(state, here.step(step, batches), batches, 3, progress=False)
    except training.TrainingDiverged as error:
        return str(error)


def parts(directory):
    torch.set_default_dtype(torch.float64)
    here, results = processes.connect(), {}
    for name, case in PARTS.items():
        torch.manual_seed(5 + here.rank)
        state, step, batches = case()
        found = {}
        trained(state, step, batches, here, 4, found)
        assert (state.shards is not None) == (here.count > 1)
        results[name] = found | whole(state) | {"held": held(state)}
    results["diverged"] = diverged(here)
    torch.save(results, directory / f"{here.count}-{here.rank}.pt")


MOVED = ("gan", "gan, r1", "dcgan, batch norm", "vae, conditional", "iwae", "vae, descent")


def half(directory, first, steps):
    """Every moved case: from the checkpoint of its first half, if not the first, to `steps`."""
    torch.set_default_dtype(torch.float64)
    here, results = processes.connect(), {}
    for name in MOVED:
        torch.manual_seed(5 + here.rank)
        (state, step, batches), place, found = PARTS[name](), directory / name, {}
        if not first:
            here.first(lambda: training.load_checkpoint(state, batches, place))  # noqa: B023
        trained(state, step, batches, here, steps, found)
        training.save_checkpoint(state, batches, place)
        results[name] = whole(state)
    if here.main:
        torch.save(results, directory / "end.pt")


def moved(directory):
    """Six updates in one go, and in two halves by other numbers of processes."""
    import accelerate  # noqa: F401  what is imported before a fork is imported once

    cut = partial(processes.launch, half, sharded=True)
    (directory / "one").mkdir()
    half(directory / "one", True, 6)
    for name, first, second in (("to one", cut, half), ("from one", half, cut)):
        (directory / name).mkdir()
        first(directory / name, True, 3)
        second(directory / name, False, 6)
    torch.set_default_dtype(torch.float32)


# Runs that lose a process.

SETTINGS = {"data": "digits", "width": 16, "importance_samples": 2, "test_images": 20}
WANTED = {"profile": "smoke", "steps": 12, "every": 4, "settings": SETTINGS}


def train(directory, killed=None, recipe="vae_mnist", wanted=WANTED):
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
    runs.train(recipe, out=directory, resume=True, progress=False, **wanted)


def survive(directory):
    import accelerate  # noqa: F401  what is imported before a fork is imported once

    train(directory / "whole, 1")
    processes.launch(train, directory / "whole, 2")
    processes.launch(train, directory / "cut, 2", sharded=True)
    for name, killed in (("killed 0", 0), ("killed 1", 1), ("cut, killed 0", 0)):
        with pytest.raises((ProcessExitedException, ProcessRaisedException)) as caught:
            processes.launch(train, directory / name, killed, sharded=name.startswith("cut"))
        assert "SIGKILL" in str(caught.value) or "has lost another" in str(caught.value)
        manifest = json.loads((directory / name / "checkpoint/manifest.json").read_text())
        assert manifest["step"] == 4, manifest
    processes.launch(train, directory / "killed 0")
    train(directory / "killed 1")
    train(directory / "cut, killed 0")


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
    elif sys.argv[1] == "parts":
        parts(place)
        processes.launch(parts, place, sharded=True)
    else:
        {"survive": survive, "command": command, "moved": moved}[sys.argv[1]](place)
