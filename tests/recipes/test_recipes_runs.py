"""Runs: killed, damaged, interrupted, out of room, and still the same run in the end."""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import types
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib import __main__ as command_line
from course_lib import data, environment, training
from course_lib.recipes import cards, runs
from course_lib.recipes.catalogue import RECIPES
from course_lib.recipes.watchdog import Watchdog
from course_lib.training import state as state_module

KILLS = 20
SMALL = {"data": "digits", "width": 16, "importance_samples": 2, "test_images": 20}
WANTED = {"profile": "smoke", "steps": 60, "every": 6, "settings": SMALL}

# One interpreter, many deaths. A forked child trains until it is killed: by its parent after a
# random time, or by its own hand before the n-th renaming or the n-th write of a checkpoint.
KILLED = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch._dynamo  # an optimizer does so, and takes seconds
from course_lib.recipes import runs
from course_lib.training import state as module

root, recipe, wanted, kills = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
run = runs.Run(runs.configure(recipe, **wanted), root / "warm")  # what is imported on first use
runs.load_images = lambda *_: (run.train_set, run.test_set)
runs.N = 32  # images that the watchdog looks at

def before(function, n):
    calls = iter(range(10_000))
    def wrapped(*arguments, **options):
        if next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped

def half_written(function, n):
    calls = iter(range(10_000))
    def wrapped(path, content):
        if next(calls) == n:
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(path, content)
    return wrapped

def child(directory, hook=lambda: None):
    pid = os.fork()
    if pid == 0:
        try:
            hook()
            runs.train(recipe, out=directory, resume=True, progress=False, **wanted)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(7)
    return pid

def ended(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    assert status == 0, status
    return "done"

for name in ("whole", "again"):  # the first run after an import is slower
    began = time.monotonic()
    assert ended(child(root / name)) == "done"
    duration = time.monotonic() - began

if kills == "random":
    # Kill a run again and again until it gets to its end, then begin another.
    chance, killed, chain = random.Random(int(sys.argv[5])), 0, 0
    while killed < int(sys.argv[6]):
        pid = child(root / f"chain-{chain}")
        time.sleep(chance.uniform(0, duration / 2))  # a resumed run has less to do
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == "killed":
            killed += 1
        else:
            chain += 1
    assert ended(child(root / f"chain-{chain}")) == "done"
else:
    def hook_replace(n):
        os.replace = before(os.replace, n)
    def hook_write(n):
        module.write_durably = half_written(module.write_durably, n)
    for name, hook in (("replace", hook_replace), ("write", hook_write)):
        for n in range(10_000):
            directory = root / f"{name}-{n}"
            if ended(child(directory, lambda: hook(n))) == "done":
                break  # there was no n-th
            assert ended(child(directory)) == "done", directory
        assert n > 5, (name, n)
print("survived")
"""


def killed_runs(root: Path, recipe: str, wanted: dict, *options: str) -> list[Path]:
    """Directories of runs that were killed and resumed; the first one never was."""
    script = [sys.executable, "-c", KILLED, str(root), recipe, json.dumps(wanted), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=200)
    assert result.stdout.endswith("survived\n"), result.stderr
    return [root / "whole", *sorted(p for p in root.iterdir() if p.name != "whole")]


def require_the_same(directories: list[Path]) -> None:
    """Weights, curves and scores are equal to the last bit, and nothing is left lying about."""
    found = [json.loads((d / "card.json").read_text()) for d in directories]
    for directory, card in zip(directories, found, strict=True):
        for name, digest in card["weights"].items():
            content = (directory / "final" / f"{name}.safetensors").read_bytes()
            assert hashlib.sha256(content).hexdigest() == digest
        for key in ("weights", "curves", "metrics", "config"):
            assert card[key] == found[0][key], (directory, key)
        assert not [p for p in directory.rglob("*") if cards.ASIDE.match(p.name)]
        names = {p.name for p in (directory / "samples").iterdir()}
        assert names == {p.name for p in (directories[0] / "samples").iterdir()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_killed_at_random_moments_end_bit_identical(tmp_path):
    wanted = WANTED | {"steps": 40, "every": 4}
    found = killed_runs(tmp_path, "vae_mnist", wanted, "random", "0", str(KILLS))
    require_the_same(found)
    sessions = [len(json.loads((d / "card.json").read_text())["sessions"]) for d in found]
    assert sessions[0] == 1 and max(sessions) > 1  # some were killed between two checkpoints


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_runs_killed_at_every_renaming_and_write_end_bit_identical(tmp_path):
    settings = {"data": "digits", "width": 4, "samples": 20, "batch_size": 8, "ema_decay": 0.9}
    wanted = {"profile": "smoke", "steps": 2, "every": 1, "settings": settings}
    found = killed_runs(tmp_path, "sngan_hinge_fashion", wanted, "all")
    assert len(found) >= 20
    require_the_same(found)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and its card; tests that change it copy it first."""
    directory = tmp_path_factory.mktemp("runs") / "vae"
    return directory, runs.train("vae_mnist", out=directory, progress=False, **WANTED)


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A run that was interrupted halfway."""
    directory = tmp_path / "half"
    with monkeypatch.context() as patched:
        patched.setattr(runs.Run, "_look", interrupt_at(runs.Run._look, 30))
        with pytest.raises(KeyboardInterrupt):
            runs.train("vae_mnist", out=directory, progress=False, **WANTED)
    return directory


def interrupt_at(look, step):
    def looking(self, state):
        look(self, state)
        if state.step == step:
            signal.raise_signal(signal.SIGINT)

    return looking


def files(directory):
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_ctrl_c_saves_and_the_resumed_run_is_the_same(finished, half):
    assert json.loads((half / "checkpoint" / "manifest.json").read_text())["step"] == 31
    assert not (half / "card.json").exists()
    card = runs.train("vae_mnist", out=half, resume=True, progress=False)  # options: from config
    assert card["weights"] == finished[1]["weights"] and card["metrics"] == finished[1]["metrics"]
    assert [s["from"] for s in card["sessions"]] == [0, 31]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_run_with_dropout_is_the_same(tmp_path, monkeypatch, optimizer):
    """Dropout draws from torch's own generator, which nothing at the start of a run may move."""
    settings = {"data": "digits", "optimizer": optimizer, "samples": 20, "test_images": 20}
    settings |= {"centroids": 10, "held_out": 100, "learning_rate": 0.01}
    wanted = {"profile": "smoke", "steps": 8, "every": 4, "settings": settings, "progress": False}
    whole = runs.train("gan_mnist_parzen", out=tmp_path / "whole", **wanted)
    with monkeypatch.context() as patched:
        patched.setattr(runs.Run, "_look", interrupt_at(runs.Run._look, 4))
        with pytest.raises(KeyboardInterrupt):
            runs.train("gan_mnist_parzen", out=tmp_path / "cut", **wanted)
    resumed = runs.train("gan_mnist_parzen", out=tmp_path / "cut", resume=True, **wanted)
    assert [s["from"] for s in resumed["sessions"]] == [0, 5]
    assert resumed["weights"] == whole["weights"] and resumed["curves"] == whole["curves"]


def test_ctrl_c_on_the_command_line_ends_with_130_and_says_how_to_go_on(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(runs.Run, "_look", interrupt_at(runs.Run._look, 25))
    out = tmp_path / "a run"
    words = ["train", "vae_mnist", "--profile", "smoke", "--steps", "40", "--out", str(out)]
    words += [w for k, v in SMALL.items() for w in ("--set", f"{k}={v}")]
    assert command_line.main(words) == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith(f"python -m course_lib train vae_mnist --out '{out}' --resume")
    assert command_line.main(["train", "vae_mnist", "--out", str(out), "--resume"]) == 0
    assert str(out / "card.json") in capsys.readouterr().out


@pytest.mark.parametrize("sharded", [False, True])
def test_the_line_to_go_on_holds_processes_device_and_the_whole_path(
    sharded, tmp_path, monkeypatch, capsys
):
    def begun(*arguments, out, **options):
        out.mkdir()
        (out / "config.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", begun)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(sharded))
    assert command_line.main(["train", "vae_mnist", "--out", "~/run", "--device", "cpu"]) == 130
    assert (
        capsys.readouterr()
        .err.strip()
        .splitlines()[-1]
        .endswith(
            f"accelerate launch --num_processes 2 {'--use_fsdp' if sharded else '--multi_gpu'} "
            f"-m course_lib train vae_mnist --out {tmp_path / 'run'} --resume --device cpu"
        )
    )


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "card.json"
    cards.store(path, b"old")

    def fail(*_):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match=r"Could not write card.json \(no room\)"):
        cards.store(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_written_is_no_run_to_go_on_with(finished, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(cards, "write_durably", full)
    with pytest.raises(
        OSError, match=r"Could not write x.png \(No space left on device\)"
    ) as caught:
        runs.sample(finished[0], out=tmp_path / "x.png")
    assert "--resume" not in str(caught.value)


def test_ctrl_c_before_the_run_has_begun_leaves_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "load_images", interrupted)
    words = ["train", "vae_mnist", "--out", str(tmp_path / "run"), "--resume"]
    assert command_line.main(words) == 130
    told = capsys.readouterr().err
    assert f"There is no run in {tmp_path / 'run'} yet" in told and "Nothing was written" in told
    assert not (tmp_path / "run").exists()


def test_the_card_says_what_was_done(finished):
    directory, card = finished
    assert json.loads((directory / "card.json").read_text()) == card
    assert card["config"]["settings"]["data"] == "digits" and card["seed"] == 0
    assert {"torch", "python", "numpy", "course_lib"} <= card["versions"].keys()
    assert card["data"] == {"name": "digits", "train": 1497, "test": 300}
    assert card["wall_seconds"] > 0 and card["peak_memory_mib"] > 50
    assert card["images_per_second"] > 1
    steps = [step for step, _ in card["curves"]["loss"]]
    assert steps == list(range(1, 61))
    for found in card["metrics"]:
        assert found["n"] == 20
    assert card["metrics"][0]["importance_samples"] == 2
    assert card["paper"] == []  # the paper's figure is not for digits of scikit-learn


@pytest.mark.parametrize(
    ("capability", "allowed", "word"),
    [((8, 0), True, ", convolutions in TF32"), ((8, 0), False, ""), ((7, 5), True, "")],
)
def test_a_card_says_what_float32_meant_on_a_gpu(monkeypatch, capability, allowed, word):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        assert cards.circumstances(torch.device("cuda"))["device"] == "Some GPU" + word
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_curves_are_means_of_equal_parts():
    values = [float(i) for i in range(1, 1001)]
    thin = cards.curve(values, 5)
    assert len(thin) == 200 and thin[0] == [5, 3.0] and thin[-1] == [1000, 998.0]
    assert cards.curve([1.0, 2.0, 6.0], 2) == [[2, 1.5], [3, 6.0]]


def test_a_directory_with_another_run_is_refused_and_left_alone(finished, tmp_path):
    directory, _ = finished
    before = files(directory)
    with pytest.raises(ValueError, match=r"holds a run of vae_mnist already.*--resume"):
        runs.train("dcgan_mnist", out=directory, progress=False)
    for recipe, wanted, word in (
        ("vae_mnist", {"seed": 3}, "has seed 0, not 3"),
        ("vae_mnist", {"steps": 61}, "has steps 60, not 61"),
        ("vae_mnist", {"settings": {"width": "17"}}, "has width 16, not 17"),
        ("vae_mnist", {"profile": "gpu"}, "has profile smoke, not gpu"),
        ("dcgan_mnist", {}, "has recipe vae_mnist, not dcgan_mnist"),
    ):
        with pytest.raises(ValueError, match=word):
            runs.train(recipe, out=directory, resume=True, progress=False, **wanted)
    assert files(directory) == before
    agreeing = {"steps": 60, "settings": {"width": "16"}}
    card = runs.train("vae_mnist", out=directory, resume=True, progress=False, **agreeing)
    assert card == finished[1] and files(directory) == before

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        runs.train("vae_mnist", out=tmp_path, resume=True, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "harm", ["truncate", "flip", "delete", "foreign", "other model", "older version", "config"]
)
def test_what_is_damaged_or_foreign_is_refused_and_left_alone(harm, half, tmp_path):
    checkpoint = half / "checkpoint"
    weights = next(checkpoint.glob("weights-*"))
    content = bytearray(weights.read_bytes())
    sentence = "missing, truncated or damaged"
    if harm == "truncate":
        weights.write_bytes(content[:-9])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    elif harm == "delete":
        weights.unlink()
    elif harm == "foreign":
        (checkpoint / "manifest.json").write_text('{"format": "of another program"}')
        sentence = "not the manifest of a course_lib checkpoint"
    elif harm == "other model":
        shutil.rmtree(checkpoint)
        settings = SMALL | {"width": 12}
        other = runs.configure("vae_mnist", "smoke", settings=settings)
        model = runs.Run(other, tmp_path / "other").model
        training.save_checkpoint(model.state, model.batches, checkpoint)
        sentence = "belongs to another model"
    elif harm == "older version":
        config = json.loads((half / "config.json").read_text())
        del config["settings"]["beta"]
        (half / "config.json").write_text(json.dumps(config))
        sentence = "not that of a run of this version"
    else:
        (half / "config.json").write_bytes((half / "config.json").read_bytes()[:50])
        sentence = "config.json is damaged"
    before = files(half)
    with pytest.raises(ValueError, match=sentence):
        runs.train("vae_mnist", out=half, resume=True, progress=False)
    assert files(half) == before


@pytest.mark.parametrize("full", ["checkpoint", "other files"])
def test_a_full_disk_keeps_the_last_checkpoint_from_which_the_run_goes_on(
    full, finished, half, monkeypatch
):
    before = files(half / "checkpoint")
    with monkeypatch.context() as patched:
        if full == "checkpoint":
            write = state_module.write_durably

            def failing(path, content):
                write(path, content[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patched.setattr(state_module, "write_durably", failing)
        else:

            def failing(path, content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            patched.setattr(cards, "write_durably", failing)
        with pytest.raises(OSError, match=r"Could not write .*No space left") as caught:
            runs.train("vae_mnist", out=half, resume=True, progress=False)
        assert caught.value.errno == errno.ENOSPC
    assert files(half / "checkpoint") == before
    card = runs.train("vae_mnist", out=half, resume=True, progress=False)
    assert card["weights"] == finished[1]["weights"]


def test_divergence_ends_the_run_with_its_reason_and_a_checkpoint(tmp_path, capsys):
    words = ["train", "vae_mnist", "--profile", "smoke", "--out", str(tmp_path / "run")]
    words += ["--steps", "50", "--every", "1", "--set", "data=digits"]
    assert command_line.main([*words, "--set", "learning_rate=1e9"]) == 2
    told = capsys.readouterr().err
    assert "Training diverged at step" in told and "start a new run with a smaller" in told
    manifest = json.loads((tmp_path / "run" / "checkpoint" / "manifest.json").read_text())
    assert manifest["step"] >= 1 and not (tmp_path / "run" / "card.json").exists()


def test_a_set_that_cannot_be_had_ends_in_its_sentence_and_writes_nothing(
    tmp_path, monkeypatch, capsys
):
    def unavailable(*arguments, **options):
        raise data.DataUnavailableError("'mnist' is not here", "bring it")

    monkeypatch.setattr(data, "load", unavailable)
    out = tmp_path / "run"
    assert command_line.main(["train", "vae_mnist", "--out", str(out)]) == 2
    assert "'mnist' is not here: bring it. (Here" in capsys.readouterr().err
    assert command_line.main(["train", "vae_mnist", "--out", str(out), "--resume"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("'mnist' is not here: bring it.")
    assert not out.exists()


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({"settings": {"widht": "5"}}, "no setting 'widht': did you mean 'width'"),
        ({"settings": {"width": "wide"}}, "width=wide does not fit: width is a whole number"),
        ({"settings": {"width": 2.5}}, "whole number"),
        ({"settings": {"width": "0"}}, "width is at least 1"),
        ({"settings": {"width": str(10**20)}}, r"width is below 2\*\*31"),
        ({"settings": {"learning_rate": "nan"}}, "finite number"),
        ({"settings": {"data": "cifar10"}}, "data is one of mnist, fashion_mnist"),
        ({"steps": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"profile": "night"}, "smoke, laptop, gpu"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(wanted, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        runs.train("vae_mnist", out=tmp_path / "run", progress=False, **wanted)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "settings", "sentence"),
    [
        ("dcgan_mnist", {"samples": "3"}, "samples is at least 10"),
        ("vae_mnist", {"test_images": "1"}, "test_images is at least 10"),
        ("gan_mnist_parzen", {"learning_rate_decay": "0"}, "learning_rate_decay is at least 1"),
        ("gan_mnist_parzen", {"learning_rate_decay": "1e300"}, "is at most 2"),
        ("gan_mnist_parzen", {"held_out": "30000"}, "held_out is at most 10,000"),
        ("gan_mnist_parzen", {"dropout": "1"}, "dropout=1.0 is too large: dropout is below 1"),
        ("gan_mnist_parzen", {"momentum": "-0.5"}, "momentum is at least 0"),
        ("dcgan_mnist", {"beta2": "1"}, "beta2 is below 1"),
        ("dcgan_mnist", {"ema_decay": "1"}, "ema_decay is below 1"),
        ("wgan_gp_fashion", {"penalty_weight": "-1"}, "penalty_weight is at least 0"),
        ("vae_mnist", {"beta": "-1"}, "beta is at least 0"),
        ("wgan_gp_fashion", {"discriminator_steps": "3"}, "make it a multiple of 3"),
        ("dcgan_mnist", {"image_size": "64"}, "sees 28 pixels. Choose 28 or 32"),
        ("gan_mnist_parzen", {"image_size": "30"}, "Choose 28, 32 or a multiple of 28"),
        ("cvae_sprites", {"image_size": "28"}, "sees 32 pixels. Choose 32 or a multiple of 32"),
        ("deep_autoencoder_mnist", {"learning_rate": "0"}, "learning_rate is above 0"),
        ("deep_autoencoder_mnist", {"weight_decay": "-1"}, "weight_decay is at least 0"),
        ("dcgan_mnist", {"discriminator_learning_rate": "-1"}, "is above 0"),
    ],
)
def test_what_would_end_the_run_later_is_refused_before_it_begins(
    recipe, settings, sentence, tmp_path, monkeypatch
):
    monkeypatch.setattr(runs, "load_images", lambda *_: pytest.fail("the images were read"))
    with pytest.raises(ValueError, match=sentence):
        runs.train(recipe, out=tmp_path / "run", progress=False, settings=settings)
    assert not (tmp_path / "run").exists()


def test_what_several_processes_cannot_split_is_refused_before_the_run_begins(tmp_path):
    five = training.processes.Processes(0, 5)
    with ExitStack() as held, pytest.raises(ValueError, match="make it a multiple of 25"):
        runs._begin("wgan_gp_fashion", tmp_path / "run", False, False, {}, five, held)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["train", "vae_mnist", "--out"], ["sample"]])
def test_a_home_that_is_nobodys_is_told_in_a_sentence(words, capsys):
    assert command_line.main([*words, "~nobody-of-this-name/run"]) == 2
    assert "a mistake behind the ~" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="is a file: name a directory with --out"):
        runs.train("vae_mnist", out=tmp_path / "run", progress=False)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_setting_of_the_run_may_be_said_again_when_it_is_resumed(tmp_path):
    config = runs.configure(
        "wgan_gp_fashion", settings={"batch_size": 30, "discriminator_steps": 3}
    )
    agree = functools.partial(runs._require_agreement, config, "wgan_gp_fashion")
    agree({"settings": {"discriminator_steps": "3"}}, tmp_path)
    with pytest.raises(ValueError, match="has discriminator_steps 3, not 5"):
        agree({"settings": {"discriminator_steps": "5"}}, tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ..."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to ..."),  # Windows
        RuntimeError("Storage size calculation overflowed with sizes=[9000000000000000000]"),
    ],
)
def test_a_full_device_is_told_in_a_sentence(error, tmp_path, monkeypatch, capsys):
    def full(*arguments, **options):
        raise error

    monkeypatch.setattr(runs, "train", full)
    monkeypatch.setattr(runs, "sample", full)
    assert command_line.main(["train", "dcgan_mnist", "--out", str(tmp_path / "run")]) == 2
    other = ", or --device cpu" * isinstance(error, torch.OutOfMemoryError)
    mend = f"choose a smaller batch_size or width with --set{other}."
    assert capsys.readouterr().err.rstrip().endswith(mend)
    assert command_line.main(["sample", str(tmp_path)]) == 2
    assert capsys.readouterr().err.rstrip().endswith(f"is full: free some{other}.")


def test_words_of_the_command_line_become_values():
    settings = {"k": "50", "learning_rate": "2e-3", "data": "digits"}
    config = runs.configure("iwae_mnist", "gpu", settings=settings)
    found = [config.settings[name] for name in settings]
    assert found == [50, 2e-3, "digits"] and [type(v) for v in found] == [int, float, str]
    config = runs.configure("dcgan_mnist", settings={"spectral_norm": "true"})
    assert config.settings["spectral_norm"] is True
    with pytest.raises(ValueError, match="true or false"):
        runs.configure("dcgan_mnist", settings={"spectral_norm": "maybe"})
    assert runs.parse_settings(["a=b=c"]) == {"a": "b=c"}
    with pytest.raises(ValueError, match="--set key=value"):
        runs.parse_settings(["k"])


def test_samples_come_from_the_final_weights_or_else_the_checkpoint(finished, half, tmp_path):
    directory, _ = finished
    picture = runs.sample(directory, 5, out=tmp_path / "five.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    arrays = []
    for place, name in ((directory, "a"), (directory, "b"), (half, "c")):
        path = runs.sample(place, 5, seed=4, out=tmp_path / f"{name}.npz")
        arrays.append(np.load(path)["images"])
    assert arrays[0].shape == (5, 1, 28, 28) and arrays[0].dtype == np.uint8
    assert (arrays[0] == arrays[1]).all() and (arrays[0] != arrays[2]).any()
    with pytest.raises(ValueError, match="There is no run in"):
        runs.sample(tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "final" / "vae.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="is missing or damaged"):
        runs.sample(copy)
    (copy / "card.json").write_text("{")
    with pytest.raises(ValueError, match="delete it, and --resume writes it anew"):
        runs.sample(copy)
    (copy / "card.json").unlink()
    again = runs.train("vae_mnist", out=copy, resume=True, progress=False)
    assert again["weights"] == finished[1]["weights"]


def test_evaluate_gives_the_scores_of_the_card(finished, half):
    directory, card = finished
    again = runs.evaluate(directory)
    assert again["metrics"] == card["metrics"] and again["weights"] == card["weights"]
    before = files(half)
    assert runs.evaluate(half)["metrics"] != card["metrics"]
    assert files(half) == before  # nothing is stored about an unfinished run


def test_a_finished_run_can_be_scored_on_more_images(finished, tmp_path, capsys):
    directory, card = finished
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    assert command_line.main(["evaluate", str(copy), "--set", "test_images=30"]) == 0
    assert str(copy) in capsys.readouterr().out
    again = json.loads((copy / "card.json").read_text())
    assert {row["n"] for row in again["metrics"]} == {30}
    assert again["config"]["settings"] == card["config"]["settings"] | {"test_images": 30}
    assert again["weights"] == card["weights"] and again["curves"] == card["curves"]
    # The same as if the run had had the setting from the start, and it stays.
    wanted = WANTED | {"settings": SMALL | {"test_images": 30}}
    assert runs.train("vae_mnist", out=copy, resume=True, progress=False, **wanted) == again
    assert runs.evaluate(copy)["metrics"] == again["metrics"]


def test_fewer_images_do_not_replace_a_better_score(finished):
    directory = finished[0]
    before = files(directory)
    with pytest.raises(ValueError, match="test_images=15 is less than the 20 of the card"):
        runs.evaluate(directory, settings={"test_images": 15})
    assert files(directory) == before


def test_scores_in_a_directory_that_cannot_be_written_to_are_told_and_not_lost(
    finished, monkeypatch, capsys
):
    directory = finished[0]
    before = files(directory)
    monkeypatch.setattr(environment, "is_writable", lambda directory: False)
    assert command_line.main(["evaluate", str(directory), "--set", "test_images=30"]) == 0
    told = capsys.readouterr()
    assert "the scores are not stored" in told.err and "n = 30" in told.out
    assert files(directory) == before


def test_lost_final_weights_come_back_from_the_checkpoint(finished, tmp_path):
    directory, card = finished
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    lost = next((copy / "final").iterdir())
    content = lost.read_bytes()
    lost.write_bytes(content[:-7])
    with pytest.raises(ValueError, match=r"delete .*card\.json: --resume then writes both anew"):
        runs.evaluate(copy)
    (copy / "card.json").unlink()
    again = runs.train("vae_mnist", out=copy, resume=True, progress=False)
    assert lost.read_bytes() == content and again["weights"] == card["weights"]
    shutil.rmtree(copy / "checkpoint")
    lost.unlink()
    with pytest.raises(ValueError, match="or train again in another directory"):
        runs.evaluate(copy)


def test_a_checkpoint_without_its_manifest_is_kept_aside(half, capsys):
    """As a copy leaves it that was not finished."""
    checkpoint = half / "checkpoint"
    manifest = (checkpoint / "manifest.json").read_bytes()
    (checkpoint / "manifest.json").unlink()

    def names(folder):
        return {path.name: content for path, content in files(folder).items()}

    before = names(checkpoint)
    with pytest.raises(ValueError, match=r"weights but no manifest\.json: either a run"):
        runs.sample(half)
    runs.train("vae_mnist", out=half, resume=True, progress=False)
    kept = half / "checkpoint-without-manifest-1"
    assert str(kept) in capsys.readouterr().err and names(kept) == before
    # With the manifest under the old name the old run can be taken up.
    shutil.rmtree(checkpoint)
    kept.rename(checkpoint)
    (checkpoint / "manifest.json").write_bytes(manifest)
    assert runs.Run(runs.restored(half).config, half).resume()


def test_a_reader_leaves_a_first_checkpoint_that_is_being_written_alone(half, monkeypatch):
    """The manifest comes last; a reader that finds weights without one must not move them."""
    (half / "checkpoint" / "manifest.json").unlink()
    before = files(half)
    seen = iter([False])  # the first look came before the weights
    monkeypatch.setattr(runs, "_orphans", lambda checkpoint: next(seen, True))
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        runs.sample(half)
    assert files(half) == before


def test_ctrl_c_after_the_drive_has_gone_makes_no_directory(tmp_path, monkeypatch):
    """A drive is not mounted again over a folder that holds files."""
    drive, step = tmp_path / "drive", training.vae_step

    def stepping(state, *arguments, **options):
        if state.step == 33:
            monkeypatch.undo()
            drive.rename(tmp_path / "elsewhere")
            drive.mkdir()
            signal.raise_signal(signal.SIGINT)
        return step(state, *arguments, **options)

    monkeypatch.setattr(training, "vae_step", stepping)
    with pytest.raises(OSError, match="The directory of this run is gone"):
        runs.train("vae_mnist", out=drive / "run", progress=False, **WANTED)
    assert list(drive.iterdir()) == []
    drive.rmdir()
    (tmp_path / "elsewhere").rename(drive)
    card = runs.train("vae_mnist", out=drive / "run", resume=True, progress=False)
    assert [s["from"] for s in card["sessions"]] == [0, 30]


def test_warnings_of_an_interrupted_run_are_those_of_one_that_was_not(tmp_path, monkeypatch):
    settings = {"data": "digits", "width": 8, "samples": 20, "learning_rate": 1e-9}
    settings |= {"discriminator_learning_rate": 1e-2}
    wanted = {"profile": "smoke", "steps": 40, "every": 10, "settings": settings, "progress": False}
    whole = runs.train("dcgan_mnist", out=tmp_path / "whole", **wanted)
    with monkeypatch.context() as patched:
        patched.setattr(runs.Run, "_look", interrupt_at(runs.Run._look, 20))
        with pytest.raises(KeyboardInterrupt):  # after update 21: between two looks
            runs.train("dcgan_mnist", out=tmp_path / "cut", **wanted)
    resumed = runs.train("dcgan_mnist", out=tmp_path / "cut", resume=True, **wanted)
    assert whole["warnings"] and resumed["warnings"] == whole["warnings"]


def test_time_of_updates_that_are_lost_is_not_counted(tmp_path, monkeypatch):
    """They are repeated, and counted then."""
    step, log = training.vae_step, tmp_path / "run" / "log.json"

    def stepping(state, *arguments, **options):
        if state.step == 33:
            monkeypatch.undo()
            raise RuntimeError(log.read_text())
        return step(state, *arguments, **options)

    monkeypatch.setattr(training, "vae_step", stepping)
    with pytest.raises(RuntimeError) as caught:
        runs.train("vae_mnist", out=tmp_path / "run", progress=False, **WANTED)
    assert log.read_text() == str(caught.value)
    card = runs.train("vae_mnist", out=tmp_path / "run", resume=True, progress=False)
    assert card["sessions"][1]["from"] == 30
    assert card["wall_seconds"] > json.loads(str(caught.value))["seconds"] - 0.1


def test_the_memory_on_the_card_is_that_of_the_largest_session(half, monkeypatch):
    monkeypatch.setattr(runs, "peak_memory", lambda device: 12.5)
    log = json.loads((half / "log.json").read_text())
    assert log["peak_memory_mib"] > 50
    card = runs.train("vae_mnist", out=half, resume=True, progress=False)
    assert card["peak_memory_mib"] == log["peak_memory_mib"]


def test_a_log_without_memory_is_read(half):
    """Earlier runs did not store it."""
    log = json.loads((half / "log.json").read_text())
    del log["peak_memory_mib"]
    (half / "log.json").write_text(json.dumps(log))
    card = runs.train("vae_mnist", out=half, resume=True, progress=False)
    assert card["peak_memory_mib"] > 50


def test_a_rate_that_falls_to_nothing_ends_no_run(tmp_path):
    """2 to the power of 1,024 is more than a float can be."""
    settings = {"data": "digits", "held_out": 100, "learning_rate_decay": 2.0}
    config = runs.configure("gan_mnist_parzen", "smoke", settings=settings)
    model = runs.Run(config, tmp_path).model
    model.state.step = 5000
    before = [p.clone() for p in model.state.modules["generator"].parameters()]
    for group in model.state.optimizers["generator"].param_groups:
        group["lr"] = 1.0
    model.step(model.state, next(iter(model.batches)))
    assert model.state.optimizers["generator"].param_groups[0]["lr"] == 0.0
    after = list(model.state.modules["generator"].parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_gpu_with_a_number_is_initialised_before_its_memory_is_counted(tmp_path, monkeypatch):
    """torch does so by itself only where the device has no number."""
    called = []
    monkeypatch.setattr(environment, "choose_device", lambda name: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))

    def reset(device):
        called.append("reset")
        raise RuntimeError("far enough")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    with pytest.raises(RuntimeError, match="far enough"):
        runs.Run(runs.configure("vae_mnist", "smoke", settings=SMALL), tmp_path, "cuda:1")
    assert called == ["init", "reset"]


def test_a_run_begun_anew_has_the_time_and_warnings_of_its_own_updates(half):
    (half / "checkpoint" / "manifest.json").unlink()
    log = json.loads((half / "log.json").read_text())
    log |= {"seconds": 1e6, "warnings": [{"step": 1, "until": 2, "what": "collapsed: lost"}]}
    (half / "log.json").write_text(json.dumps(log))
    card = runs.train("vae_mnist", out=half, resume=True, progress=False)
    assert card["wall_seconds"] < 1e5 and card["warnings"] == []


def test_sampling_leaves_the_generators_of_the_caller_alone(finished, half, tmp_path):
    for directory in (finished[0], half):  # final weights; a checkpoint, which has its own states
        torch.manual_seed(5), np.random.seed(5), random.seed(5)
        before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        runs.sample(directory, 2, out=tmp_path / "two.png")
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state()[1], before[1])
        assert random.getstate() == before[2]


def test_steps_are_whole():
    for wrong in ({"steps": 10.5}, {"every": 2.5}, {"seed": 0.5}, {"seed": True}):
        with pytest.raises(ValueError, match="whole number"):
            runs.configure("vae_mnist", "smoke", **wrong)


def test_a_seed_of_samples_is_a_seed(finished):
    for seed in (-1, 10**22):
        with pytest.raises(ValueError, match=f"seed is {seed}; choose"):
            runs.sample(finished[0], seed=seed)


def test_a_gpu_budget_on_a_cpu_is_said_to_be_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    runs.train(
        "vae_mnist", out=tmp_path / "run", profile="gpu", steps=2, settings=SMALL, progress=True
    )
    assert "meant for a GPU" in capsys.readouterr().err


def test_a_score_cannot_change_what_was_trained(finished, tmp_path):
    directory = finished[0]
    before = files(directory)
    for settings, word in (
        ({"width": 8}, "width belongs to the training: .* importance_samples, test_images"),
        ({"test_image": 5}, "no setting 'test_image': did you mean 'test_images'"),
        ({"test_images": "many"}, "test_images is a whole number"),
    ):
        with pytest.raises(ValueError, match=word):
            runs.evaluate(directory, settings=settings)
    assert files(directory) == before


def test_a_grid_shows_every_image_where_it_belongs(tmp_path):
    from PIL import Image

    pixels = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 3, 4, 5) * 20
    (tmp_path / "grid.png").write_bytes(cards.grid(pixels))
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    assert sheet.shape == (2 * 6 + 2, 8 * 7 + 2, 3)
    for i in range(10):
        row, column = divmod(i, 8)
        part = sheet[2 + 6 * row : 6 + 6 * row, 2 + 7 * column : 7 + 7 * column]
        assert (part == 20 * i).all()


def test_scalars_in_tensorboard_are_the_curves_of_the_card(tmp_path, monkeypatch):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    directory = tmp_path / "run"
    monkeypatch.setattr(runs, "POINTS", 25)  # points of 3 steps, and a look after 6, 12, 18, ...
    with monkeypatch.context() as patched:
        patched.setattr(runs.Run, "_look", interrupt_at(runs.Run._look, 30))
        with pytest.raises(KeyboardInterrupt):
            runs.train("vae_mnist", out=directory, progress=False, **WANTED)
    card = runs.train("vae_mnist", out=directory, resume=True, progress=False)
    found = accumulator.EventAccumulator(str(directory / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == set(card["curves"])
    for name, points in card["curves"].items():
        events = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in events] == [step for step, _ in points]  # every step once
        values = torch.tensor([value for _, value in points])
        assert torch.equal(torch.tensor([value for _, value in events]), values)  # float32


def test_without_tensorboard_a_run_has_no_scalars(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, package=None: None if name == "tensorboard" else find(name, package),
    )
    wanted = WANTED | {"steps": 6}
    assert runs.train("vae_mnist", out=tmp_path / "run", progress=False, **wanted)
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert "TensorBoard" not in capsys.readouterr().err


def test_a_broken_tensorboard_costs_its_scalars_and_not_the_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")

    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("module was compiled against NumPy 2.0.\nMore of it.")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Broken("broken"))
    assert runs.train("vae_mnist", out=tmp_path / "run", progress=False, **WANTED)
    told = capsys.readouterr().err
    assert told.count("TensorBoard is installed but cannot be used here") == 1
    assert "(RuntimeError: module was compiled against NumPy 2.0): the run goes on" in told


@pytest.mark.parametrize("failing", ["add_scalar", "flush", "close"])
def test_a_tensorboard_that_fails_later_costs_its_scalars_and_not_the_run(
    failing, finished, tmp_path, monkeypatch, capsys
):
    """What befell its file in its own thread is raised by whichever call comes next."""
    module = pytest.importorskip("torch.utils.tensorboard", reason="needs tensorboard")

    def fail(self, *arguments):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "events")

    monkeypatch.setattr(module.SummaryWriter, failing, fail)
    card = runs.train("vae_mnist", out=tmp_path / "run", progress=False, **WANTED)
    assert card["weights"] == finished[1]["weights"]
    told = capsys.readouterr().err
    assert told.count("TensorBoard is installed but cannot write its file") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs the locks of a POSIX system")
def test_a_second_process_in_a_directory_is_refused(half):
    before = files(half)
    with cards.locked(half):
        assert (half / ".lock").read_text() == str(os.getpid())
        with pytest.raises(ValueError, match=rf"^Process {os.getpid()} is training in .* now: "):
            runs.train("vae_mnist", out=half, resume=True, progress=False)
        assert (half / ".lock").exists()
    assert files(half) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_leaves_no_lock(tmp_path):
    inside, outside = os.pipe()
    child = os.fork()
    if child == 0:
        with cards.locked(tmp_path):
            os.write(outside, b"locked")
            signal.pause()
    assert os.read(inside, 6) == b"locked"
    with pytest.raises(ValueError, match=f"Process {child} is training"):
        with cards.locked(tmp_path):
            pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists()
    with cards.locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_lock_on_a_new_directory_leaves_nothing(tmp_path):
    with cards.locked(tmp_path / "run"):
        pass
    with pytest.raises(OSError, match="Could not write there"):
        with cards.locked(Path("/dev/null/run")):
            pass
    assert list(tmp_path.iterdir()) == []


def look(real, fake, features=None, history=None):
    watchdog = Watchdog(real, lambda n, generator: fake[:n], features)
    return watchdog.look(history or {}, 0)


def test_the_watchdog_tells_a_collapsed_generator_from_a_healthy_one():
    x, y = torch.rand(2, 200, 1, 4, 4)
    flat = lambda images: images.flatten(1)  # noqa: E731
    assert look(x, y, flat) == []
    constant = y[:1] + 0.01 * torch.randn(200, 1, 4, 4)
    assert "vary 0.001" in look(x, constant)[0]
    # Two sharp modes have variance enough, and cover nothing.
    modes = torch.where(torch.rand(200, 1, 1, 1) < 0.5, y[:1], y[1:2]) + 0.01 * torch.rand(1)
    assert "real images have a sample in their" in look(x, modes, flat)[0]
    assert look(x, modes) == []  # without features it cannot be seen


@pytest.mark.parametrize(
    ("loss", "real", "fake", "verdict"),
    [
        (1e-4, 11.0, -11.0, "tells all images apart"),
        (1.2, 0.3, -0.4, None),
        (1.386, 1e-6, 0.0, "get one logit"),
        (-40.0, 300.0, 260.0, None),  # a critic has no such end
    ],
)
def test_the_watchdog_knows_a_dead_discriminator(loss, real, fake, verdict):
    names = ("discriminator_loss", "real_logit", "fake_logit")
    history = {n: [99.0] * 3 + [v] * 5 for n, v in zip(names, (loss, real, fake), strict=True)}
    found = Watchdog().look(history, 3)
    assert (verdict is None and found == []) or verdict in found[0]


def test_a_discriminator_that_wins_is_on_the_card(tmp_path):
    settings = {"data": "digits", "width": 8, "samples": 20, "learning_rate": 1e-9}
    settings |= {"discriminator_learning_rate": 1e-2}
    wanted = {"profile": "smoke", "steps": 40, "every": 10, "settings": settings}
    card = runs.train("dcgan_mnist", out=tmp_path / "run", progress=False, **wanted)
    kinds = {w["what"].split(":")[0]: (w["step"], w["until"]) for w in card["warnings"]}
    assert kinds["collapsed generator"] == (10, 40)
    assert "dead discriminator" in kinds


def stored_card(folder, place, minutes, steps, day, **changes):
    config = runs.configure("iwae_mnist", "laptop")
    card = {"recipe": "iwae_mnist", "wall_seconds": 60 * minutes, "evaluation": {"seconds": 30}}
    card |= {"config": {"profile": "laptop", "steps": steps, "settings": config.settings}}
    card |= {"device": "toaster", "peak_memory_mib": 512.0, "finished": f"2026-01-0{day}"}
    (folder / place).mkdir()
    (folder / place / "card.json").write_text(json.dumps(card | changes))


def test_the_list_of_recipes_reads_the_quickest_full_card(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    monkeypatch.setattr(cards.environment, "data_file", lambda *parts: tmp_path / "none")
    own = RECIPES["iwae_mnist"].steps["laptop"]
    assert "not run yet" in row_of("iwae_mnist")
    stored_card(tmp_path, "c", 9, 5, 3, peak_memory_mib=None)
    assert " 5 steps: 9.5 min, toaster" in row_of("iwae_mnist")
    stored_card(tmp_path, "a", 1, own, 1)
    stored_card(tmp_path, "b", 2, own, 2)
    assert "laptop: 1.5 min, 512 MiB, toaster" in row_of("iwae_mnist")


def test_every_recipe_is_listed(capsys):
    assert command_line.main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:-2]
    assert [line.split()[0] for line in lines] == list(RECIPES)


def row_of(name):
    return next(line for line in cards.table().splitlines() if line.startswith(name))
