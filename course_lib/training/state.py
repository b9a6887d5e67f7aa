"""What a training run is made of, and how it is put on disk and taken back bit for bit."""

from __future__ import annotations

import copy
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from course_lib.environment import existing_device
from course_lib.training.adam import Adam


class EMA:
    """Exponential moving average of a module's weights: average += (1 - decay)(weight - average).

    `.module` is the averaged copy, in eval mode and without gradients; it remembers about the last
    1 / (1 - decay) updates and starts at the weights that the module has now. Buffers (the running
    statistics of batch normalisation) are copied, not averaged.

    Raises:
        ValueError: decay is not in [0, 1).

    Source: Yazici et al. 2019, The unusual effectiveness of averaging in GAN training.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), for example 0.999, not {decay}.")
        self.decay = decay
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self._source = module

    @torch.no_grad()
    def update(self) -> None:
        """Move the average one step towards the module's weights; call after its optimizer."""
        averages, weights = (
            [_held(p) for p in module.parameters()] for module in (self.module, self._source)
        )
        torch._foreach_lerp_(averages, weights, 1 - self.decay)
        for mine, theirs in zip(self.module.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)


def _held(p: Tensor) -> Tensor:
    """What this process has of a parameter: its part, where several have cut it up, or all."""
    return p.to_local() if hasattr(p, "to_local") else p


@dataclass
class TrainingState:
    """Everything that changes while a model learns.

    `generator` is the CPU source of every draw; `step` counts finished steps (the loop adds to it);
    `history` has one value per step and name; `samples` collects `(step, result)` of the loop's
    `on_sample` and is the one field that a checkpoint does not hold. `shards` is None, or this
    process's share of it all (`training.sharding`).
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    ema: dict[str, EMA] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)
    step: int = 0
    history: dict[str, list[float]] = field(default_factory=dict)
    latent_dim: int | None = None
    samples: list[tuple[int, Any]] = field(default_factory=list)
    shards: Any = None

    @property
    def device(self) -> torch.device:
        """Where the modules live."""
        return next(p.device for m in self.modules.values() for p in m.parameters())


def _adam(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    betas: tuple[float, float],
    fused: bool,
) -> Adam:
    """Adam, fused into one kernel; where torch refuses that, a loop over tensors (same update)."""
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, not {learning_rate}.")
    parameters = list(parameters)
    try:
        return Adam(parameters, lr=learning_rate, betas=betas, fused=fused or None)
    except RuntimeError:
        return Adam(parameters, lr=learning_rate, betas=betas, fused=None)


def gan_state(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    latent_dim: int,
    learning_rate: float | tuple[float, float] = 2e-4,
    betas: tuple[float, float] = (0.5, 0.999),
    ema_decay: float | None = 0.999,
    seed: int = 0,
    device: str | torch.device | None = None,
    fused: bool = True,
) -> TrainingState:
    """State for `gan_step`: modules 'generator' and 'discriminator', each with its Adam.

    Args:
        latent_dim: width of z, [batch, latent_dim].
        learning_rate: one for both players, or a pair (generator, discriminator).
        betas: of Adam; beta1 = 0.5 after Radford et al. 2015 (DCGAN).
        ema_decay: None keeps no average; else `state.ema['generator'].module` is it.
        seed: of the noise.
        device: where to move the modules; None leaves them where they are.
        fused: one kernel for the whole update of Adam, where torch offers that on the device; the
            ordinary Adam, a loop over tensors, stands in elsewhere.

    Raises:
        ValueError: latent_dim, a learning rate or ema_decay is out of range; no such device.
    """
    if latent_dim < 1:
        raise ValueError(f"latent_dim must be at least 1, not {latent_dim}.")
    modules = {"generator": generator, "discriminator": discriminator}
    pair = isinstance(learning_rate, tuple | list)
    rates = tuple(learning_rate) if pair else (learning_rate,) * 2
    if len(rates) != 2:
        raise ValueError(
            f"learning_rate is {learning_rate}: give one number, or two (generator, discriminator)."
        )
    device = None if device is None else existing_device(device)
    for module in modules.values():
        module.to(device)
    return TrainingState(
        modules=modules,
        optimizers={
            name: _adam(module.parameters(), rate, betas, fused)
            for (name, module), rate in zip(modules.items(), rates, strict=True)
        },
        ema={} if ema_decay is None else {"generator": EMA(generator, ema_decay)},
        generator=torch.Generator().manual_seed(seed),
        latent_dim=latent_dim,
    )


def vae_state(
    vae: nn.Module,
    likelihood: nn.Module,
    *,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str | torch.device | None = None,
    fused: bool = True,
) -> TrainingState:
    """State for `vae_step`: modules 'vae' and 'likelihood' under one Adam, named 'vae'.

    `seed` is that of the posterior's draws; `device` moves both modules (None leaves them);
    `fused` as in `gan_state`.

    Raises:
        ValueError: learning_rate is not positive; no such device.
    """
    device = None if device is None else existing_device(device)
    modules = {"vae": vae.to(device), "likelihood": likelihood.to(device)}
    parameters = [p for module in modules.values() for p in module.parameters()]
    return TrainingState(
        modules=modules,
        optimizers={"vae": _adam(parameters, learning_rate, (0.9, 0.999), fused)},
        generator=torch.Generator().manual_seed(seed),
    )


@contextmanager
def modes_kept(*modules: nn.Module) -> Iterator[None]:
    """Give every submodule its train or eval mode back afterwards."""
    before = [(child, child.training) for module in modules for child in module.modules()]
    try:
        yield
    finally:
        for child, training in before:
            child.training = training


# Checkpoints. A directory holds weights-*.safetensors, state-*.pt and manifest.json. The manifest
# names the other two with their hashes, and replacing it is the one atomic act: a kill at any
# moment leaves either the old manifest with its files or the new one with its own.

FORMAT, VERSION = "course_lib checkpoint", 1
ATTEMPTS = 5  # at reading a checkpoint that a run replaces meanwhile


def _weights(state: TrainingState) -> dict[str, Tensor]:
    """Every weight and buffer by full name; they share memory with the modules."""
    named = {f"modules.{name}": module for name, module in state.modules.items()}
    named |= {f"ema.{name}": ema.module for name, ema in state.ema.items()}
    return {f"{a}.{b}": t for a, module in named.items() for b, t in module.state_dict().items()}


def random_states(state: TrainingState) -> dict[str, Tensor]:
    """States of every generator that training draws from: the run's own and torch's global ones."""
    states = {"generator": state.generator.get_state(), "cpu": torch.get_rng_state()}
    if state.device.type == "cuda":  # dropout draws there
        states["cuda"] = torch.cuda.get_rng_state(state.device)
    elif state.device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(state: TrainingState, states: dict[str, Tensor]) -> None:
    """Put back what `random_states` returned; a device that was not there then is left alone."""
    state.generator.set_state(states["generator"])
    torch.set_rng_state(states["cpu"])
    if state.device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], state.device)
    elif state.device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


def write_durably(path: Path, content: bytes) -> None:
    """To the disk itself: a rename that outlives a power cut must not find an empty file."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        try:
            os.fsync(file.fileno())
        except OSError as error:  # mounted drives exist that know no such request
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                raise


def _sync_directory(directory: Path) -> None:
    """Make renames last through a power cut, where the file system can; atomic they are anyway."""
    if os.name == "nt":  # a directory cannot be opened there
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        pass


def save_checkpoint(state: TrainingState, batches: Any, directory: str | Path) -> None:
    """Write modules, averages, optimizers, random states, data position and history.

    The checkpoint that was in `directory` is valid until the new one is complete. `state.samples`
    is not stored. Of several processes that have cut the state up all call this, and the first one
    writes it whole.

    Args:
        batches: what feeds the loop, with `state_dict()`; None stores no data position.

    Raises:
        TypeError: `batches` has no state_dict.
        OSError: the disk is full or read-only; the previous checkpoint is untouched.
    """
    if batches is not None and not hasattr(batches, "state_dict"):
        raise TypeError(
            f"{type(batches).__name__} has no state_dict(), so its position cannot be stored; "
            "use data.Batches or data.SampleBatches, or train without a checkpoint."
        )
    directory = Path(directory)
    weights = _weights(state)
    optimizers = {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()}
    if state.shards is not None:
        whole = state.shards.gather(weights, state.optimizers)
        if whole is None:
            return
        weights, optimizers = whole
    weights = {
        name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, t in weights.items()
    }
    rest = {
        "history": {k: torch.tensor(v, dtype=torch.float64) for k, v in state.history.items()},
        "optimizers": optimizers,
        "random": random_states(state),
        "batches": None if batches is None else batches.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(rest, buffer)
    token = f"{state.step:08d}-{secrets.token_hex(4)}"  # never the name of a file in use
    files = {
        f"weights-{token}.safetensors": safetensors.torch.save(weights),
        f"state-{token}.pt": buffer.getvalue(),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = {"format": FORMAT, "version": VERSION, "step": state.step, "files": hashes}
    aside = f"manifest-{token}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_durably(directory / name, content)
        write_durably(directory / aside, json.dumps(manifest, indent=2).encode())
        _sync_directory(directory)
        os.replace(directory / aside, directory / "manifest.json")
    except OSError as error:
        for name in (*files, aside):
            _try_unlink(directory / name)
        raise OSError(
            error.errno,
            f"Could not write the checkpoint ({error.strerror}), and the previous one, if any, is "
            "unchanged; free some space or choose a directory that you may write to",
            str(directory),
        ) from error
    # From here on the new files are the checkpoint, whatever happens.
    _sync_directory(directory)
    for pattern in ("weights-*.safetensors", "state-*.pt", "manifest-*.tmp"):
        for path in directory.glob(pattern):
            if path.name not in files:
                _try_unlink(path)


def _try_unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass  # a left-over costs space, not correctness


def _read_manifest(directory: Path) -> tuple[int, dict[str, str]]:
    """Step, and {name: hash} of the two files."""
    path = directory / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(
            f"There is no checkpoint in {directory} (no manifest.json); check the path, or train "
            "first with checkpoint= set to it."
        )
    foreign = ValueError(
        f"{path} is not the manifest of a course_lib checkpoint; give another directory."
    )
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise foreign
        version, step, files = manifest["version"], int(manifest["step"]), dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise foreign from None
    if version != VERSION:
        raise ValueError(
            f"The checkpoint in {directory} has format version {version} but this library reads "
            f"version {VERSION}; use the library that wrote it, or train again."
        )
    if len(files) != 2:
        raise foreign
    return step, files


def _read_whole(directory: Path, files: dict[str, str]) -> list[bytes]:
    """The contents of the files, each proven whole by its hash."""
    contents = []
    for name, expected in files.items():
        file = directory / Path(name).name
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(
                f"{file} is missing, truncated or damaged (its hash is not the manifest's); "
                "restore it from a copy, or train again in an empty directory."
            )
        contents.append(content)
    return contents


def _read_checkpoint(directory: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Step, weights and the rest of one checkpoint, even while a run replaces it."""
    step, files = _read_manifest(directory)
    for attempt in range(ATTEMPTS):
        try:
            weights, rest = _read_whole(directory, files)
            break
        except ValueError:
            # A run that goes on deletes the files of its last checkpoint once it has a new one.
            before = files
            step, files = _read_manifest(directory)
            if files == before or attempt == ATTEMPTS - 1:
                raise
    rest = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    return step, safetensors.torch.load(weights), rest


def _require_same_model(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name in sorted(mine.keys() | theirs.keys()):
        here, there = (
            f"{t.dtype} {list(t.shape)}" if t is not None else "absent"
            for t in (mine.get(name), theirs.get(name))
        )
        if here != there:
            raise ValueError(
                f"The checkpoint belongs to another model: {name} is {there} in it and {here} "
                "here; build the modules as they were, or use another directory."
            )


def _in_the_order_of_the_weights(optimizer: torch.optim.Optimizer) -> None:
    """Bring the moments into the memory order of their weights, whichever they were saved in.

    A fused kernel walks through a weight and its moments in the order of the memory: where the two
    differ, as after `channels_last`, each weight would be moved by the moment of another.
    """
    for weight, held in optimizer.state.items():
        for key, x in held.items():
            if isinstance(x, Tensor) and x.shape == weight.shape and x.stride() != weight.stride():
                held[key] = torch.empty_like(weight, requires_grad=False).copy_(x)


def load_checkpoint(state: TrainingState, batches: Any, directory: str | Path) -> None:
    """Put `state` (and `batches`, unless None) back to where `save_checkpoint` left them.

    Build `state` as it was built the first time; modules, averages, optimizers (their learning
    rates too), random states, data position, step and history are then restored exactly. Names
    and shapes are checked before anything is changed. The run that writes there may be going on.

    Raises:
        FileNotFoundError: no checkpoint there.
        ValueError: damaged, foreign, of another format version, or of another model; or `state` is
            cut up already.
    """
    if state.shards is not None:
        raise ValueError(
            "This state is cut up among processes: load its checkpoint before Processes.prepare."
        )
    step, weights, rest = _read_checkpoint(Path(directory))
    mine = _weights(state)
    _require_same_model(mine, weights)
    if rest["optimizers"].keys() != state.optimizers.keys():
        raise ValueError(
            f"The checkpoint has optimizers {sorted(rest['optimizers'])} and the state has "
            f"{sorted(state.optimizers)}; build the state as it was built then."
        )
    for name, optimizer in state.optimizers.items():
        stored = [len(group["params"]) for group in rest["optimizers"][name]["param_groups"]]
        here = [len(group["params"]) for group in optimizer.param_groups]
        if stored != here:
            raise ValueError(
                f"The optimizer {name} moves {here} parameters and that of the checkpoint "
                f"{stored}: build the state as it was built then."
            )
    if batches is not None:
        if rest["batches"] is None:
            raise ValueError(
                "The checkpoint holds no data position; pass batches=None, or train again."
            )
        batches.load_state_dict(rest["batches"])
    for name, optimizer in state.optimizers.items():
        optimizer.load_state_dict(rest["optimizers"][name])
        _in_the_order_of_the_weights(optimizer)
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(weights[name])
    restore_random_states(state, rest["random"])
    state.step = step
    # In place, because the caller may hold the dictionary that train() returned.
    state.history.clear()
    state.history.update({name: values.tolist() for name, values in rest["history"].items()})
