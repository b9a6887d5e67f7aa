"""From a recipe to a directory: a run that survives being killed, and its result card.

    DIR/config.json     what was asked for, written before the first update
    DIR/checkpoint/     the latest state, complete at every moment
    DIR/samples/        a grid of samples every so often
    DIR/log.json        seconds, sessions, warnings and memory so far
    DIR/tensorboard/    scalars, where tensorboard is installed
    DIR/final/          weights of a finished run, one file per module
    DIR/card.json       its result card
    DIR/.lock           while a process trains there: its number

Every file but TensorBoard's is written aside and then renamed, so that a kill leaves it old or new.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import importlib.util
import io
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from course_lib import data, environment, training
from course_lib.models import count_parameters
from course_lib.recipes import catalogue, pretrained
from course_lib.recipes.cards import (
    ASIDE,
    circumstances,
    curve,
    grid,
    locked,
    peak_memory,
    store,
    summary,
    text,
)
from course_lib.recipes.evaluation import Eyes
from course_lib.recipes.families import Model
from course_lib.recipes.watchdog import N, Watchdog
from course_lib.training.processes import Processes, connect

FORMAT, VERSION = "course_lib run", 1
POINTS = 200  # of a curve on the card
LOOKS = 20  # checkpoints, grids and looks of the watchdog per run


@dataclass(frozen=True)
class Config:
    """All that decides how a run ends; the same on the same machine gives the same weights.

    Attributes:
        every: updates between two checkpoints; grid, scalars and watchdog keep the same time.
            A twentieth of the run, but at least 25, unless given.
    """

    recipe: str
    profile: str
    steps: int
    seed: int
    every: int
    settings: dict[str, Any]


def configure(
    recipe: str,
    profile: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    every: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """The configuration of a new run; what is None takes its default.

    `settings` are changes of the recipe's own, as values or as the words of a command line.

    Raises:
        ValueError: no such recipe, profile or setting, or a value of the wrong type.
    """
    found = catalogue.get(recipe)
    profile = environment.Profile(profile or os.environ.get("COURSE_PROFILE") or "laptop").name
    steps = found.steps[profile] if steps is None else steps
    every = max(25, steps // LOOKS) if every is None else every
    for name, value in (("steps", steps), ("every", every)):
        if not _whole(value) or value < 1:
            raise ValueError(f"{name} is {value}; a run needs a whole number of at least 1.")
    seed = _seed(0 if seed is None else seed)
    chosen = found.defaults(profile)
    for name, value in (settings or {}).items():
        if name not in chosen:
            hint = catalogue.nearest(name, chosen)
            raise ValueError(f"{recipe} has no setting {name!r}: {hint}")
        chosen[name] = _value(name, value, chosen[name], found.choices.get(name, ()))
    _require_sensible(chosen)
    return Config(recipe, profile, steps, seed, every, chosen)


# What the measures at the end of a run, and its updates, can do with: least, and what is too much.
_SHARE = (0.0, math.nextafter(1.0, 0.0))
_POSITIVE = (math.nextafter(0.0, 1.0), math.inf)
BOUNDS = {
    "learning_rate": _POSITIVE,
    "discriminator_learning_rate": _POSITIVE,
    "samples": (10, math.inf),
    "test_images": (10, math.inf),
    "held_out": (1, 10_000),  # a sixth of MNIST, and `load_images` takes no more of any set
    "learning_rate_decay": (1.0, 2.0),
    "penalty_weight": (0.0, math.inf),
    "weight_decay": (0.0, math.inf),
    "beta": (0.0, math.inf),
    **dict.fromkeys(
        ("beta1", "beta2", "momentum", "final_momentum", "dropout", "input_dropout", "ema_decay"),
        _SHARE,
    ),
}


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _seed(seed: int) -> int:
    if not _whole(seed) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}; choose a whole number of at least 0 and below 2**63.")
    return seed


def _require_sensible(settings: Mapping[str, Any]) -> None:
    """Refuse now what would end the run later."""
    for name, (least, most) in BOUNDS.items():
        value = settings.get(name, least)
        if value < least:
            limit = "above 0" if least == _POSITIVE[0] else f"at least {least}"
            raise ValueError(f"{name}={value} is too small: {name} is {limit}.")
        if value > most:
            limit = "below 1" if most == _SHARE[1] else f"at most {most:,}"
            raise ValueError(f"{name}={value} is too large: {name} is {limit}.")
    size, side = settings.get("image_size"), 32 if settings["data"] == "sprites" else 28
    # Kuzushiji has no feature network, so its samples are not scored (`evaluation.Eyes`).
    if size and settings["data"] != "kmnist" and size % side and (size, side) != (32, 28):
        fitting = f"{side}{', 32' if side == 28 else ''} or a multiple of {side}"
        if settings.get("network") == "dcgan" and side == 28:
            fitting = "28 or 32"  # of the sides that this network has
        raise ValueError(
            f"image_size={size} cannot be scored: the feature network of {settings['data']} sees "
            f"{side} pixels. Choose {fitting}."
        )
    if settings.get("split_batch"):
        size, parts = settings["batch_size"], settings["discriminator_steps"]
        if size % parts:
            raise ValueError(
                f"batch_size={size} cannot be split among {parts} discriminator steps: make it a "
                f"multiple of {parts}, or set split_batch=false."
            )


def _value(name: str, given: Any, default: Any, choices: tuple[str, ...]) -> Any:
    """`given` in the type of `default`."""
    kind = type(default)
    kinds = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}
    wrong = ValueError(
        f"{name}={given} does not fit: {name} is "
        + (f"one of {', '.join(choices)}." if choices else f"{kinds[kind]}, such as {default}.")
    )
    if choices and given not in choices:
        raise wrong
    if kind is bool:
        words = {"true": True, "1": True, "false": False, "0": False}
        if str(given).lower() not in words:
            raise wrong
        return words[str(given).lower()]
    if isinstance(given, bool) or (kind is int and isinstance(given, float)):
        raise wrong
    try:
        value = kind(given)
    except (TypeError, ValueError):
        raise wrong from None
    if kind is float and not math.isfinite(value):
        raise wrong
    if kind is int and value < 1:
        raise ValueError(f"{name}={given} is too small: {name} is at least 1.")
    if kind is int and value >= 2**31:
        raise ValueError(f"{name}={given} is too large: {name} is below 2**31.")
    return value


def parse_settings(words: list[str]) -> dict[str, str]:
    """`["k=5", ...]` of a command line as a dictionary."""
    pairs = [word.partition("=") for word in words]
    for word, (name, sign, _) in zip(words, pairs, strict=True):
        if not (name and sign):
            raise ValueError(f"--set {word} says no value: write --set key=value.")
    return {name: value for name, _, value in pairs}


def train(
    recipe: str,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    device: str | None = None,
    progress: bool = True,
    **wanted: Any,
) -> dict[str, Any]:
    """Train a recipe in a directory, evaluate it, and leave weights and card there.

    Several processes (`accelerate launch`, or `training.processes.launch` in a notebook) share
    every batch, and with `--use_fsdp` the weights too; the first of them alone looks at the
    directory, writes, prints and evaluates.

    Args:
        recipe: its name; `catalogue.RECIPES` has them.
        out: the directory; None for one below the output folder, named by recipe, profile and seed.
        resume: go on with the run in that directory, bit for bit as if it had never stopped; begin
            at the beginning if there is none.
        device: None for the best there is.
        progress: show a line with losses and images per second, and print where everything lies.
        wanted: profile, steps, seed, every and settings, as in `configure`. A run that is resumed
            has them already; those given must agree.

    Returns:
        The card; None in other processes than the first.

    Raises:
        ValueError: bad options, a directory with another run in it or with a process at work, a
            damaged checkpoint; nothing in the directory is changed.
        DataUnavailableError: the data set cannot be had; nothing is written.
        TrainingDiverged: the last good checkpoint stays.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint of the last finished update.
        ProcessLost: one of several processes was killed or hangs; the last good checkpoint stays.
        FirstFailed: in other processes than the first, which raised one of these.
        OSError: the disk is full, read-only or no longer there; the last good checkpoint stays.
    """
    here = connect(device)
    progress = progress and here.main
    with ExitStack() as held:
        config, directory, begun = here.first(
            lambda: _begin(recipe, out, resume, progress, wanted, here, held)
        )
        if begun and here.first((directory / "card.json").exists):
            card = here.first(lambda: stored_card(directory))
            if progress:
                print(f"This run is finished.\n{summary(card, directory)}")
            return card if here.main else None
        run = Run(config, directory, device, here)
        here.first(run.resume)
        here.prepare(run.model.state, run.model.batches)
        if here.main and not begun:
            run.store_config()
        run.train(progress)
        if not here.main:
            return None
        card = run.finish()
    if progress:
        print(summary(card, directory))
    return card


def _begin(
    recipe: str,
    out: str | Path | None,
    resume: bool,
    progress: bool,
    wanted: Mapping[str, Any],
    here: Processes,
    held: ExitStack,
) -> tuple[Config, Path, bool]:
    """Configuration and directory of a run, locked in `held`, and whether the run is there already.

    Raises a ValueError where the directory or the options do not let the run begin or go on.
    """
    settled = {name: value for name, value in wanted.items() if name != "settings"}
    config = configure(recipe, **settled)
    directory = default_directory(config) if out is None else Path(out).expanduser()
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file: name a directory with --out.")
    stored = _stored_config(directory)
    if stored is None:
        config = configure(recipe, **wanted)
    if not (directory / "card.json").exists():
        held.enter_context(locked(directory))
        stored = _stored_config(directory)  # another process may have begun it
    if stored is not None:
        if not resume:
            raise ValueError(
                f"{directory} holds a run of {stored.recipe} already: go on with it with --resume, "
                "or name another directory with --out."
            )
        _require_agreement(stored, recipe, wanted, directory)
        config = stored
    elif directory.exists() and _others(directory):
        raise ValueError(
            f"{directory} holds other files and no run: name a new directory with --out."
        )
    elif resume and progress:
        print(f"There is no run in {directory} yet: this one begins there.", file=sys.stderr)
    size = config.settings["batch_size"]
    parts = config.settings["discriminator_steps"] if config.settings.get("split_batch") else 1
    if parts > 1 and size % (parts * here.count):
        raise ValueError(
            f"batch_size={size} cannot be split over {here.count} processes and {parts} "
            f"discriminator steps: make it a multiple of {parts * here.count}."
        )
    here.rows(size)
    return config, directory, stored is not None


def evaluate(
    directory: str | Path, device: str | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Score a run again and, if it is finished, store the scores on its card; returns the card.

    Of an unfinished run the latest checkpoint is scored, and nothing is stored; nor is it in a
    directory that cannot be written to.

    Args:
        settings: changes of what the scores alone depend on (`catalogue.SCORING`), such as more
            test images; with them the card is that of a run which had them from the start.

    Raises:
        ValueError: no run there, damaged files, a setting that the training depends on, or fewer
            images or draws than a card rests on.
    """
    run, settings = restored(directory, device), dict(settings or {})
    for name in settings:
        if name in run.config.settings and name not in catalogue.SCORING:
            raise ValueError(
                f"{name} belongs to the training: start another run for it. A score may change "
                f"{', '.join(n for n in catalogue.SCORING if n in run.config.settings)}."
            )
    config = asdict(run.config)
    run.config = configure(**config | {"settings": config["settings"] | settings})
    finished = (run.directory / "card.json").exists()
    for name in settings if finished else ():
        old, new = config["settings"][name], run.config.settings[name]
        if new < old:
            raise ValueError(
                f"{name}={new} is less than the {old} of the card, whose better scores it would "
                f"replace: give {old} or more."
            )
    if finished and not environment.is_writable(run.directory):
        print(f"{run.directory} cannot be written to: the scores are not stored.", file=sys.stderr)
        finished = False
    card = run.card(run.evaluate())
    if finished:
        new = {key: card[key] for key in ("config", "metrics", "evaluation", "paper")}
        card = stored_card(run.directory) | new
        run.store_config()
        store(run.directory / "card.json", text(card))
    return card


def sample(
    directory: str | Path,
    n: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    device: str | None = None,
) -> Path:
    """Draw n images of a run into a picture (.png) or an array `images` of uint8 (.npz).

    Where there is no such directory, the name is that of weights that came with the course
    (`pretrained.names`), and the picture is NAME-samples.png in the working directory.

    Raises:
        ValueError: no run in the directory, nothing trained yet, n below 1, or another suffix.
    """
    shipped = not Path(directory).expanduser().exists() and str(directory) in pretrained.names()
    default = Path(f"{directory}-samples.png" if shipped else Path(directory, "samples.png"))
    path = Path(default if out is None else out).expanduser()
    if n < 1 or path.suffix.lower() not in (".png", ".npz"):
        raise ValueError(f"cannot write {n} images to {path.name}: give n >= 1 and .png or .npz.")
    if shipped:
        model = pretrained.pretrained(str(directory), device)
    else:
        model = restored(directory, device).model
    source, blocks = torch.Generator().manual_seed(_seed(seed)), range(0, n, 500)
    with training.state.modes_kept(*model.state.modules.values()):
        for module in model.state.modules.values():
            module.eval()
        images = torch.cat([model.draw(min(500, n - start), source) for start in blocks])
    pixels = (images * 255).round().to(torch.uint8)
    buffer = io.BytesIO()
    if path.suffix.lower() == ".npz":
        np.savez_compressed(buffer, images=pixels.numpy())
    store(path, grid(pixels) if path.suffix.lower() == ".png" else buffer.getvalue())
    return path


def restored(directory: str | Path, device: str | None = None) -> Run:
    """The run of a directory with its final weights, or else those of its checkpoint."""
    directory = Path(directory).expanduser()
    config = _stored_config(directory)
    if config is None:
        raise ValueError(f"There is no run in {directory}: check the path.")
    finished = (directory / "card.json").exists()
    if not finished and _orphans(directory / "checkpoint"):
        raise ValueError(
            f"{directory / 'checkpoint'} has weights but no manifest.json: either a run writes its "
            "first checkpoint just now, or it is incomplete; then restore it from a copy."
        )
    # A run seeds, and a checkpoint sets, generators that the caller uses too.
    with environment.generators_kept():
        run = Run(config, directory, device)
        if finished:
            run.load_final()
        elif not run.resume(aside=False):
            raise ValueError(f"The run in {directory} has no checkpoint yet: resume it first.")
    return run


class Run:
    """One run in its directory: the model of a configuration, its data, and what to write."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        device: str | None = None,
        here: Processes | None = None,
    ) -> None:
        self.config, self.directory, self.here = config, directory, here or Processes()
        self.recipe = catalogue.get(config.recipe)
        self.device = self.here.device or environment.choose_device(device)
        self.advice = environment.choose_threads()
        if self.device.type == "cuda":  # the card names the peak of this run
            torch.cuda.init()  # which the next line leaves out where the device has a number
            torch.cuda.reset_peak_memory_stats(self.device)
        training.hold_memory()  # faster on a CPU, and bit for bit the same
        environment.seed_everything(config.seed)
        # The fastest convolutions of a GPU add in no fixed order; a resumed run wants the same one.
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        self.train_set, self.test_set = self.here.in_turn(
            lambda: load_images(config.settings, self.device)
        )
        self.model = self._built()
        self.log = _stored_log(directory)
        self.began = time.perf_counter()
        self.writer, self.scalars = None, True

    def _built(self) -> Model:
        config = self.config
        return self.recipe.build(
            config.settings, self.train_set, config.seed, self.device, config.steps
        )

    def store_config(self) -> None:
        """Write the configuration, which says what the files beside it are."""
        content = {"format": FORMAT, "version": VERSION} | asdict(self.config)
        store(self.directory / "config.json", text(content))

    def resume(self, aside: bool = True) -> bool:
        """Load the checkpoint, if there is one.

        One without its manifest, as an incomplete copy leaves it, is kept aside for whoever finds
        the manifest; a kill before the first checkpoint was complete leaves the same. That is for
        those who train here and hold the lock; others set `aside` to False, since a run may be
        writing that checkpoint.
        """
        where = self.directory / "checkpoint"
        if not (where / "manifest.json").exists():
            if aside and _orphans(where):
                kept = next(
                    path
                    for i in itertools.count(1)
                    if not (path := where.with_name(f"checkpoint-without-manifest-{i}")).exists()
                )
                where.rename(kept)
                print(
                    f"{where} had weights but no manifest.json, so this run begins at the "
                    f"beginning. They are kept in {kept}: with its manifest.json there, and under "
                    "the old name, they can be resumed.",
                    file=sys.stderr,
                )
            # What was timed and warned of belongs to updates that are lost.
            self.log |= {"seconds": 0.0, "warnings": [], "peak_memory_mib": 0.0}
            return False
        state = self.model.state
        training.load_checkpoint(state, self.model.batches, self.directory / "checkpoint")
        self.log["warnings"] = [
            w | {"until": min(w["until"], state.step)}
            for w in self.log["warnings"]
            if w["step"] <= state.step
        ]
        return True

    def train(self, progress: bool = True) -> None:
        """Train to the end; the first process looks, logs and saves on the way."""
        config, state = self.config, self.model.state
        step = self.here.step(self.model.step, self.model.batches)
        arguments = (state, step, self.model.batches, config.steps)
        looks = {
            "sample_every": config.every,
            "on_sample": self.here.look(self._look),
            "checkpoint": self.directory / "checkpoint",
            "checkpoint_every": config.every,
        }
        if not self.here.main:
            # Where weights are cut up, the first process needs the others' to look and to save.
            looks = looks if self.here.sharded else {}
            training.train(*arguments, **looks, progress=False, agree=self.here.agree)
            return
        for path in self.directory.rglob(".*"):  # what a killed write left there
            if ASIDE.match(path.name):
                path.unlink()
        machine = circumstances(self.device, self.here.count)
        if self.log["sessions"] and self.log["sessions"][-1]["machine"] != machine and progress:
            print(
                "This run began on another machine or other versions: it goes on, not bit for bit."
            )
        if self.log["sessions"] and self.log["sessions"][-1]["machine"] != machine:
            self.log["peak_memory_mib"] = 0.0  # of other memory, or measured in another way
        self.log["sessions"] = [*self.log["sessions"], {"from": state.step, "machine": machine}]
        self.before, self.began = self.log["seconds"], time.perf_counter()
        # Where the last look was; a checkpoint of Ctrl-C lies behind it.
        self.looked = state.step - state.step % config.every
        self.written, self.progress = 0, progress
        if progress and self.advice:
            print(self.advice, file=sys.stderr)
        if progress and config.profile == "gpu" and self.device.type == "cpu":
            print(
                "The budgets of the profile gpu are meant for a GPU, and none is used here: this "
                "may take hours. (--profile laptop is meant for a CPU; python -m course_lib doctor "
                "says what is amiss with a GPU.)",
                file=sys.stderr,
            )
        self.watchdog = self._watchdog()
        try:
            training.train(
                *arguments,
                **looks,
                progress=progress,
                label=config.recipe,
                show_rate=True,
                agree=self._agree,
            )
        finally:
            # The time of updates that are lost would be counted again when they are repeated.
            if self._saved_step() == state.step:
                self._write_log()
            if self.writer is not None:
                with self._scalars_guarded():
                    self.writer.close()
        state.samples.clear()

    def _agree(self, pressed: bool) -> bool:
        """Whether all stop here; then there must be a directory for the checkpoint that follows."""
        stop = self.here.agree(pressed)
        if stop:
            self._require_directory()
        return stop

    def _saved_step(self) -> int | None:
        """The update of the checkpoint on the disk."""
        try:
            manifest = self.directory / "checkpoint" / "manifest.json"
            return json.loads(manifest.read_bytes())["step"]
        except (OSError, ValueError, KeyError):
            return None

    def _require_directory(self) -> None:
        """Raise an OSError where the directory is gone.

        A drive that is no longer mounted leaves an empty folder behind. To make the directory anew
        in it would hide that until the session ends, and the files with it; and a drive is not
        mounted over a folder that holds files.
        """
        if not os.path.exists(self.directory / "config.json"):  # False for a broken mount as well
            raise OSError(
                errno.ENOENT,
                "The directory of this run is gone, so training stops. If it is on a drive, mount "
                "that again; --resume (resume=True in a notebook) then goes on from the last "
                "checkpoint",
                str(self.directory),
            )

    def _store(self, name: str, content: bytes) -> None:
        """Write a file of the directory, which must still be there."""
        self._require_directory()
        try:
            store(self.directory / name, content)
        except OSError as error:
            told = (
                "the last checkpoint is unchanged, and --resume goes on from it once there is room"
            )
            raise OSError(error.errno, f"{error.strerror}; {told}", error.filename) from error

    def _watchdog(self) -> Watchdog:
        if "generator" not in self.model.state.modules:
            return Watchdog()
        n, eyes = min(N, len(self.test_set)), Eyes.of(self.test_set.name)
        features = None if eyes is None else lambda x: eyes(x).features
        real = self.test_set.subset(n).as_float(range=(0, 1)).cpu()
        return Watchdog(real, self.model.draw, features)

    def _look(self, state: training.TrainingState) -> None:
        """What happens every so often: a grid, scalars, warnings, and the log."""
        for module in state.modules.values():
            module.eval()
        images = self.model.draw(64, torch.Generator().manual_seed(self.config.seed))
        name = f"samples/step-{state.step:07d}.png"
        self._store(name, grid((images * 255).round().to(torch.uint8)))
        self._write_scalars()
        # Samples of the first updates are poor in another way than those of a collapse.
        ready = state.step >= self.config.steps / 4
        for sentence in self.watchdog.look(state.history, self.looked) if ready else ():
            self._warn(sentence)
        self.looked = state.step
        self._write_log()

    def _warn(self, sentence: str) -> None:
        """Record a warning; one that was there at the last look too is drawn out, not repeated."""
        state, kind = self.model.state, sentence.partition(":")[0]
        for old in self.log["warnings"]:
            if old["until"] == self.looked < state.step and old["what"].startswith(kind):
                old |= {"until": state.step, "what": sentence}
                return
        self.log["warnings"].append({"step": state.step, "until": state.step, "what": sentence})
        if self.progress:
            print(f"\nStep {state.step}: {sentence}.", file=sys.stderr)

    def _write_scalars(self) -> None:
        state, size = self.model.state, math.ceil(self.config.steps / POINTS)
        # tensorboard takes a while to import, and the first update need not wait.
        if not state.history or not self.scalars:
            return
        if self.writer is None:
            self.writer = self._scalar_writer()
            self.scalars = self.writer is not None
            if not self.scalars:
                return
        with self._scalars_guarded():
            for name, values in state.history.items():
                for step, value in curve(values, size):
                    whole = step % size == 0 or step == self.config.steps
                    if whole and step > self.written:
                        self.writer.add_scalar(name, value, step)
            self.writer.flush()
        self.written = state.step // size * size

    def _scalar_writer(self) -> Any:
        """TensorBoard's writer; None where it is missing or, as a sentence says, cannot work."""
        if importlib.util.find_spec("tensorboard") is None:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed session wrote ends before or behind its checkpoint: all is written anew.
            return SummaryWriter(str(self.directory / "tensorboard"), purge_step=1)
        # Of every kind, since it may not fit the numpy or protobuf that lie beside it; no reason to
        # end a run that has trained until here.
        except Exception as error:
            self._tell_of_scalars("cannot be used here", error)
            return None

    @contextmanager
    def _scalars_guarded(self) -> Iterator[None]:
        """Go on without TensorBoard when it fails; its thread raises what befell its file."""
        try:
            yield
        except Exception as error:
            self._tell_of_scalars("cannot write its file", error)
            self.writer, self.scalars = None, False

    def _tell_of_scalars(self, trouble: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        print(
            f"\nTensorBoard is installed but {trouble} ({reason}): the run goes on and writes no "
            "scalars for it; they are on its card in the end.",
            file=sys.stderr,
        )

    def _write_log(self) -> None:
        seconds = self.before + time.perf_counter() - self.began
        self.log["peak_memory_mib"] = self._peak_memory()
        self._store("log.json", text(self.log | {"seconds": round(seconds, 3)}))
        self.log["seconds"] = seconds

    def _peak_memory(self) -> float | None:
        """The largest of all sessions; None where the system does not say."""
        now, before = peak_memory(self.device), self.log["peak_memory_mib"]
        known = [mib for mib in (now, before) if mib]
        return max(known, default=None)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """By file name, the state of every module that has one, averages included."""
        state = self.model.state
        named = dict(state.modules) | {f"{n}_ema": ema.module for n, ema in state.ema.items()}
        return {name: m.state_dict() for name, m in named.items() if m.state_dict()}

    def load_final(self) -> None:
        """Take the weights from DIR/final, each file proven by the hash on the card."""
        card = stored_card(self.directory)
        for name, mine in self.weights().items():
            path = self.directory / "final" / f"{name}.safetensors"
            content = path.read_bytes() if path.exists() else b""
            if hashlib.sha256(content).hexdigest() != card["weights"].get(name):
                raise ValueError(
                    f"{path} is missing or damaged (its hash is not the card's): restore it from a "
                    f"copy, or {self._other_way}."
                )
            pretrained.fill(mine, safetensors.torch.load(content))
        self.model.state.step = card["config"]["steps"]

    @property
    def _other_way(self) -> str:
        """To final weights that are lost."""
        if (self.directory / "checkpoint" / "manifest.json").exists():
            return (
                f"delete {self.directory / 'card.json'}: --resume then writes both anew from the "
                "checkpoint, without training"
            )
        return "train again in another directory"

    def evaluate(self) -> list[dict[str, Any]]:
        """The recipe's scores of the model as it is, with evaluation modes."""
        modules = self.model.state.modules.values()
        with training.state.modes_kept(*modules), torch.no_grad():
            for module in modules:
                module.eval()
            self.evaluating = time.perf_counter()
            rows = self.recipe.evaluate(
                self.model, self.train_set, self.test_set, self.config.settings
            )
        self.evaluating = time.perf_counter() - self.evaluating
        return rows

    def finish(self) -> dict[str, Any]:
        """Write final weights and, last of all, the card."""
        if self.model.state.shards:
            # The others have left with their parts, but the last checkpoint is whole.
            self.model = self._built()
            self.resume()
        hashes = {}
        for name, tensors in self.weights().items():
            content = safetensors.torch.save({k: t.cpu().contiguous() for k, t in tensors.items()})
            hashes[name] = hashlib.sha256(content).hexdigest()
            self._store(f"final/{name}.safetensors", content)
        card = self.card(self.evaluate()) | {"weights": hashes}
        self._store("card.json", text(card))
        return card

    def card(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The result card as a dictionary; the scores are given."""
        config, state, seconds = self.config, self.model.state, self.log["seconds"]
        size = math.ceil(max(1, state.step) / POINTS)
        figures = [asdict(f) for f in self.recipe.figures(config.settings)]
        return {
            "recipe": config.recipe,
            "what": self.recipe.what,
            "config": asdict(config),
            "step": state.step,
            "seed": config.seed,
            "data": {
                "name": self.train_set.name,
                "train": len(self.train_set),
                "test": len(self.test_set),
            },
            "parameters": {name: count_parameters(m) for name, m in state.modules.items()},
            "metrics": rows,
            "paper": [
                {k: v for k, v in f.items() if v is not None and k != "when"} for f in figures
            ],
            "warnings": self.log["warnings"],
            "wall_seconds": round(seconds, 1),
            "images_per_second": round(
                state.step * self.model.batches.batch_size / max(seconds, 1e-9), 1
            ),
            "peak_memory_mib": self._peak_memory(),
            "sessions": self.log["sessions"],
            "evaluation": {"seconds": round(self.evaluating, 1)},
            **circumstances(self.device, self.here.count),
            "commit": environment.git_commit(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "curves": {name: curve(values, size) for name, values in state.history.items()},
        }


def load_images(
    settings: Mapping[str, Any], device: torch.device
) -> tuple[data.ImageSet, data.ImageSet]:
    """Training and test images; `held_out` of the former (a sixth at most) are kept back."""
    size = settings.get("image_size")
    train, test = (
        data.load(settings["data"], split, image_size=size, device=device)
        for split in ("train", "test")
    )
    held = min(settings.get("held_out", 0), len(train) // 6)
    return train.subset(len(train) - held), test


def default_directory(config: Config) -> Path:
    """Below the output folder, named by recipe, profile and seed."""
    name = f"{config.recipe}-{config.profile}-seed{config.seed}"
    return environment.output_directory() / name


def _orphans(checkpoint: Path) -> bool:
    """Whether a checkpoint lacks its manifest."""
    if (checkpoint / "manifest.json").exists():
        return False
    return any(any(checkpoint.glob(kind)) for kind in ("weights-*.safetensors", "state-*.pt"))


def _others(directory: Path) -> list[Path]:
    """What lies in a directory besides what a killed write left there."""
    return [path for path in directory.iterdir() if not path.name.startswith(".")]


def _stored_config(directory: Path) -> Config | None:
    path = directory / "config.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        if (content.pop("format"), content.pop("version")) != (FORMAT, VERSION):
            raise ValueError
        config = Config(**content)
        if config.settings.keys() != catalogue.get(config.recipe).settings.keys():
            raise ValueError
        return config
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path} is damaged or not that of a run of this version: name another directory."
        ) from None


def stored_card(directory: Path) -> dict[str, Any]:
    """The card of a finished run; a ValueError if it is damaged."""
    path = directory / "card.json"
    try:
        card = json.loads(path.read_bytes())
        if {"config", "metrics", "weights", "finished"} <= card.keys():
            return card
    except (ValueError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged: delete it, and --resume writes it anew.")


def _stored_log(directory: Path) -> dict[str, Any]:
    path = directory / "log.json"
    if not path.exists():
        return {"seconds": 0.0, "sessions": [], "warnings": [], "peak_memory_mib": 0.0}
    try:
        log = json.loads(path.read_bytes())
        kept = {key: log[key] for key in ("seconds", "sessions", "warnings")}
        return kept | {"peak_memory_mib": log.get("peak_memory_mib")}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: delete it (times and warnings are lost).") from None


def _require_agreement(
    stored: Config, recipe: str, wanted: Mapping[str, Any], directory: Path
) -> None:
    """Refuse options that contradict the run that is to be resumed."""
    pairs = [("recipe", stored.recipe, recipe)]
    if recipe == stored.recipe:
        # What is not given is the run's own, or what is given might not go with it.
        settings = stored.settings | dict(wanted.get("settings") or {})
        profile = wanted.get("profile") or stored.profile
        new = configure(recipe, **{**wanted, "profile": profile, "settings": settings})
        given = [f.name for f in dataclasses.fields(Config) if wanted.get(f.name) is not None]
        pairs += [(n, getattr(stored, n), getattr(new, n)) for n in given if n != "settings"]
        pairs += [(n, stored.settings[n], new.settings[n]) for n in wanted.get("settings") or {}]
    for name, there, here in pairs:
        if there != here:
            raise ValueError(
                f"The run in {directory} has {name} {there}, not {here}: resume it without that "
                "option, or start another with --out."
            )
