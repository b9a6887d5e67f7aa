"""Checkpoints: exact, atomic, and refused when they are not whole or not ours."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from course_lib import data, models
from course_lib.training import (
    channels_last,
    gan_state,
    gan_step,
    load_checkpoint,
    save_checkpoint,
    train,
)
from course_lib.training import state as state_module

sys.path.insert(0, str(Path(__file__).parent))
from training_cases import CASES, everything, toy_gan, toy_vae

HERE = Path(__file__).parent
STEPS = 12

# One interpreter, many deaths: each case runs in a forked child that kills itself with SIGKILL,
# either in a step or at the n-th call of a function that checkpoints are written with.
KILLED = """
import os, random, signal, sys
sys.path.insert(0, sys.argv[1])
import training_cases as cases
from course_lib.training import state as module, train

def die_at(function, n):
    calls = iter(range(10_000))
    def wrapped(*arguments, **options):
        if next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped

def half_write(function, n):
    calls = iter(range(10_000))
    def wrapped(path, content):
        if next(calls) == n:
            with open(path, "wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return function(path, content)
    return wrapped

def run(name, where, directory):
    state, step, batches = cases.CASES[name]()
    kind, n = where.split("-")
    if kind == "step":
        step = die_at(step, int(n))
    elif kind == "write":
        module.write_durably = half_write(module.write_durably, int(n))
    elif kind == "fsync":
        module.os.fsync = die_at(os.fsync, int(n))
    elif kind == "replace":
        module.os.replace = die_at(os.replace, int(n))
    elif kind == "unlink":
        module._try_unlink = die_at(module._try_unlink, int(n))
    train(state, step, batches, int(sys.argv[3]), checkpoint=directory, checkpoint_every=3,
          progress=False)

for build in cases.CASES.values():  # what torch imports on first use, every child inherits
    state, _, batches = build()
    module.save_checkpoint(state, batches, os.path.join(sys.argv[2], "warm"))

for case in sys.argv[4:]:
    name, where = case.split(":")
    child = os.fork()
    if child == 0:
        run(name, where, os.path.join(sys.argv[2], case.replace(":", "-")))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (case, status)
"""

POINTS = [
    *("step-2", "step-7", "step-11"),
    *("write-0", "write-3", "write-4", "write-5", "write-10"),
    *("fsync-6", "fsync-8", "fsync-9"),
    *("replace-1", "replace-3", "unlink-0", "unlink-4"),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path):
    cases = [f"{name}:{where}" for name in CASES for where in POINTS]
    subprocess.run(
        [sys.executable, "-c", KILLED, str(HERE), str(tmp_path), str(STEPS), *cases],
        check=True,
        timeout=120,
    )
    expected = {}
    for name in CASES:
        state, step, batches = CASES[name]()
        train(state, step, batches, STEPS, progress=False)
        expected[name] = everything(state, batches)
    resumed_from = set()
    for case in cases:
        name = case.split(":")[0]
        directory = tmp_path / case.replace(":", "-")
        if (directory / "manifest.json").exists():
            resumed_from.add(json.loads((directory / "manifest.json").read_text())["step"])
            state, step, batches = CASES[name](seed=9)  # everything must come from the files
        else:
            state, step, batches = CASES[name]()  # killed before the first checkpoint
        train(state, step, batches, STEPS, checkpoint=directory, resume=True, progress=False)
        assert everything(state, batches) == expected[name], case
        if not case.endswith("unlink-4"):  # that one had nothing left to do, nor to write
            assert len(list(directory.iterdir())) == 3, case  # left-overs are swept up
    assert resumed_from == {3, 6, 9, 12}


def saved(tmp_path, build=toy_gan):
    state, step, batches = build()
    train(state, step, batches, 4, checkpoint=tmp_path, progress=False)
    return state, batches


@pytest.mark.parametrize("name", CASES)
def test_round_trip_restores_all_but_the_samples(name, tmp_path):
    state, batches = saved(tmp_path, CASES[name])
    expected = everything(state, batches)
    other, _, stream = CASES[name](seed=3)
    held = other.history
    load_checkpoint(other, stream, tmp_path)
    assert everything(other, stream) == expected
    assert held is other.history


def test_weights_in_another_memory_layout_are_kept_too(tmp_path):
    state, _, _ = toy_vae()
    convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    state.modules["convolution"] = convolution
    before = convolution.weight.detach().clone()
    save_checkpoint(state, None, tmp_path)
    torch.nn.init.zeros_(convolution.weight)
    load_checkpoint(state, None, tmp_path)
    assert torch.equal(convolution.weight, before)


def test_an_optimizer_of_fewer_parameters_is_refused_before_anything_changes(tmp_path):
    state, _, batches = toy_gan()
    save_checkpoint(state, batches, tmp_path)
    other, _, stream = toy_gan(seed=3)
    next(stream)
    parameters = list(other.modules["discriminator"].parameters())[:-1]
    other.optimizers["discriminator"] = torch.optim.Adam(parameters, 1e-3)
    before = everything(other, stream)
    with pytest.raises(ValueError, match="optimizer discriminator moves"):
        load_checkpoint(other, stream, tmp_path)
    assert everything(other, stream) == before


def test_a_checkpoint_goes_on_in_another_memory_layout(tmp_path):
    """Fused Adam pairs a weight with its moments by their place in memory."""

    def dcgan(last: bool):
        torch.manual_seed(0)
        networks = models.DCGANGenerator(16, 1, 8, 4), models.DCGANDiscriminator(16, 1, 4)
        state = gan_state(*networks, latent_dim=8)
        return channels_last(state) if last else state

    def batches():
        generator = torch.Generator().manual_seed(1)
        images = torch.randint(0, 256, (32, 1, 16, 16), dtype=torch.uint8, generator=generator)
        return data.Batches(data.ImageSet(images), 8)

    for last in (False, True):
        where = tmp_path / str(last)
        train(dcgan(last), gan_step, batches(), 3, checkpoint=where, progress=False)
        ends = []
        for other in (False, True):
            state, stream = dcgan(other), batches()
            load_checkpoint(state, stream, where)
            train(state, gan_step, stream, 6, progress=False)
            modules = state.modules.values()
            ends.append(torch.cat([p.detach().flatten() for m in modules for p in m.parameters()]))
        # The order of additions differs; a wrong pairing moves weights by 5e-4.
        torch.testing.assert_close(*ends, rtol=0, atol=1e-5)


def test_without_batches_the_weights_can_still_be_kept(tmp_path):
    state, _, batches = toy_gan()
    save_checkpoint(state, None, tmp_path)
    load_checkpoint(toy_gan(seed=1)[0], None, tmp_path)
    with pytest.raises(ValueError, match="no data position"):
        load_checkpoint(state, batches, tmp_path)


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("kind", ["weights-*.safetensors", "state-*.pt"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "delete"])
def test_damaged_files_are_refused_and_the_state_is_unchanged(kind, harm, tmp_path):
    saved(tmp_path)
    (path,) = tmp_path.glob(kind)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "delete":
        path.unlink()
    else:
        path.write_bytes(content if harm == "flip" else content[:-7])
    state, _, batches = toy_gan(seed=1)
    before = everything(state, batches)
    with pytest.raises(ValueError, match="missing, truncated or damaged"):
        load_checkpoint(state, batches, tmp_path)
    assert everything(state, batches) == before


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ("", "not the manifest"),
        ("[1, 2]", "not the manifest"),
        ('{"format": "something else"}', "not the manifest"),
        ('{"format": "course_lib checkpoint", "version": 1}', "not the manifest"),
        (
            '{"format": "course_lib checkpoint", "version": 99, "step": 1, "files": {}}',
            "format version 99",
        ),
    ],
)
def test_foreign_manifests_are_refused(manifest, sentence, tmp_path):
    (tmp_path / "manifest.json").write_text(manifest)
    state, _, batches = toy_gan()
    with pytest.raises(ValueError, match=sentence):
        load_checkpoint(state, batches, tmp_path)


def test_an_absent_checkpoint_is_refused_by_name(tmp_path):
    state, _, batches = toy_gan()
    with pytest.raises(FileNotFoundError, match="There is no checkpoint in"):
        load_checkpoint(state, batches, tmp_path / "nowhere")


def test_another_model_is_refused_and_unchanged(tmp_path):
    saved(tmp_path)
    for build, name in (
        (lambda: toy_gan(hidden=17), r"generator.0.bias is torch.float32 \[16\] in it and"),
        (toy_vae, "absent"),
        (lambda: toy_gan(ema_decay=None), "ema.generator.* absent here"),
    ):
        state, _, batches = build()
        before = everything(state, batches)
        with pytest.raises(ValueError, match=name):
            load_checkpoint(state, batches, tmp_path)
        assert everything(state, batches) == before


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_full_or_read_only_disk_keeps_the_previous_checkpoint(code, at, tmp_path, monkeypatch):
    state, batches = saved(tmp_path)
    before = files(tmp_path)
    write, calls = state_module.write_durably, iter(range(9))

    def failing(path, content):
        if next(calls) == at:
            path.write_bytes(content[:10])
            raise OSError(code, os.strerror(code))
        write(path, content)

    monkeypatch.setattr(state_module, "write_durably", failing)
    with pytest.raises(OSError, match="previous one, if any, is unchanged; free some space"):
        save_checkpoint(state, batches, tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("at", [0, 1])
def test_a_directory_that_cannot_be_synced_still_gets_the_checkpoint(at, tmp_path, monkeypatch):
    state, batches = saved(tmp_path)
    state.step = 5
    fsync, calls = os.fsync, iter(range(9))

    def failing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and next(calls) == at:
            raise OSError(5, os.strerror(5))
        fsync(descriptor)

    monkeypatch.setattr(state_module.os, "fsync", failing)
    save_checkpoint(state, batches, tmp_path)
    assert next(calls) == 2 and len(list(tmp_path.iterdir())) == 3
    other, _, stream = toy_gan(seed=1)
    load_checkpoint(other, stream, tmp_path)
    assert everything(other, stream) == everything(state, batches)


@pytest.mark.parametrize("replacements", [1, 3])
def test_a_checkpoint_replaced_while_it_is_read_is_read_anew(replacements, tmp_path, monkeypatch):
    state, batches = saved(tmp_path)
    loads, left = json.loads, iter(range(replacements))

    def meanwhile(content):
        manifest = loads(content)
        if next(left, None) is not None:
            state.step += 1
            save_checkpoint(state, batches, tmp_path)  # and the files just named are gone
        return manifest

    monkeypatch.setattr(state_module.json, "loads", meanwhile)
    other, _, stream = toy_gan(seed=1)
    load_checkpoint(other, stream, tmp_path)
    assert other.step == 4 + replacements
    assert everything(other, stream) == everything(state, batches)


def test_a_file_in_the_way_gets_its_sentence(tmp_path):
    state, _, batches = toy_gan()
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="choose a directory"):
        save_checkpoint(state, batches, tmp_path / "taken")


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    saved(tmp_path)
    saved(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_copied_checkpoint_is_a_checkpoint(tmp_path):
    saved(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    state, _, batches = toy_gan(seed=2)
    load_checkpoint(state, batches, tmp_path / "b")
    assert state.step == 4


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_a_drive_without_fsync_takes_checkpoints_and_a_broken_one_is_reported(
    tmp_path, monkeypatch, number
):
    def refused(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(state_module.os, "fsync", refused)
    state, step, batches = toy_vae()
    if number == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(number)):
            train(state, step, batches, 3, checkpoint=tmp_path, progress=False)
        return
    train(state, step, batches, 3, checkpoint=tmp_path, progress=False)
    fresh, _, batches = toy_vae()
    load_checkpoint(fresh, batches, tmp_path)
    assert fresh.step == 3
