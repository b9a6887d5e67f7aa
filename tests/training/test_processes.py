"""Several processes: the same gradients, losses and runs as one, and no hanging when one dies."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from course_lib import training
from course_lib.models.common import UpsampledConv2d
from course_lib.training import TrainingState, processes
from course_lib.training.processes import JoinedNoise, Processes, ProcessLost

pytest.importorskip("accelerate", reason="several processes need the extra distributed")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

SCRIPT = Path(__file__).with_name("two_processes.py")
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(*words: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, **ALONE}
    words = [str(word) for word in words]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)


def found_by(how, directory):
    """By case: what one process finds, and what each of two do."""
    done = start(sys.executable, SCRIPT, how, directory)
    assert done.returncode == 0, done.stderr
    return [torch.load(directory / f"{name}.pt") for name in ("1-0", "2-0", "2-1")]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return found_by("equal", tmp_path_factory.mktemp("equal"))


CASES = [
    "gan",
    "gan, two discriminator steps",
    "gan, a part of the batch per step",
    "gan, gradient penalty",
    "gan, r1",
    "gan, dropout",
    "dcgan, batch norm",
    "vae",
    "vae, conditional",
    "iwae",
    "autoencoder",
]


@needs_fork
@pytest.mark.parametrize("case", CASES)
def test_two_processes_find_what_one_finds_with_the_joined_batch(results, case):
    alone, *two = (found[case] for found in results)
    assert any(name.startswith("gradient of") for name in alone)
    assert any(name.endswith("at step 2") for name in alone)
    for found in two:
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            # Random states are bytes and equal; all else is equal but for the order of sums.
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The same, where two processes cut weights up."""
    return found_by("parts", tmp_path_factory.mktemp("parts"))


CUT = [
    *CASES,
    "gan, fakes used again",
    "gan, upsampling, spectral norm",
    "gan, gradients left behind",
    "vae, descent",
]


@needs_fork
@pytest.mark.parametrize("case", CUT)
def test_processes_that_cut_weights_up_find_what_one_finds(parts, case):
    alone, first, second = (found[case] for found in parts)
    assert first.keys() == alone.keys()  # weights, averages and moments among them
    assert {"drawn at 2", "drawn at 4", "generator"} < first.keys()
    assert second.keys() == {"held", *(name for name in alone if " at step " in name)}
    for found in (first, second):
        for name in found.keys() - {"held"}:
            torch.testing.assert_close(found[name], alone[name], rtol=1e-12, atol=1e-12, msg=name)


@needs_fork
@pytest.mark.parametrize("case", CUT)
def test_each_process_keeps_half_of_weights_averages_and_moments(parts, case):
    alone, *two = (found[case]["held"] for found in parts)
    for kind, whole in alone.items():
        # What cannot be halved: single rows, batch normalisation, counters.
        assert sum(held[kind] for held in two) < 1.1 * whole + 20
        assert all(held[kind] < 0.6 * whole + 20 for held in two)


@needs_fork
def test_all_processes_stop_where_one_has_a_gradient_that_is_not_finite(parts):
    for found in parts:
        assert found["diverged"].startswith("Training diverged at step 1: ")


@needs_fork
def test_checkpoints_pass_between_one_process_and_several_that_cut_weights_up(tmp_path):
    done = start(sys.executable, SCRIPT, "moved", tmp_path)
    assert done.returncode == 0, done.stderr
    ends = {d.name: torch.load(d / "end.pt") for d in tmp_path.iterdir()}
    for name in ("to one", "from one"):
        assert ends[name].keys() == ends["one"].keys()
        for case, found in ends[name].items():
            assert found.keys() == ends["one"][case].keys()
            for key, value in ends["one"][case].items():
                torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12, msg=key)


@needs_fork
def test_gradients_are_those_of_distributed_data_parallel(results):
    _, *two = results
    for found in two:
        for name, gradient in found["DistributedDataParallel"].items():
            mine = found["autoencoder"][name.replace("of ", "of autoencoder.")]
            torch.testing.assert_close(mine, gradient, rtol=1e-12, atol=1e-12)


@needs_fork
def test_a_run_that_lost_a_process_goes_on_with_any_number(tmp_path):
    done = start(sys.executable, SCRIPT, "survive", tmp_path)
    assert done.returncode == 0, done.stderr
    found = {d.name: json.loads((d / "card.json").read_text()) for d in tmp_path.iterdir()}
    whole = found["whole, 2"]
    assert found["killed 0"]["weights"] == whole["weights"]  # to the last bit
    assert found["killed 0"]["metrics"] == whole["metrics"]
    for name in ("whole, 1", "killed 1", "cut, 2", "cut, killed 0"):
        assert found[name]["parameters"] == whole["parameters"]
        for curve, points in found[name]["curves"].items():
            torch.testing.assert_close(
                torch.tensor(points), torch.tensor(whole["curves"][curve]), rtol=1e-4, atol=1e-4
            )
    numbers = [s["machine"]["processes"] for s in found["killed 1"]["sessions"]]
    assert numbers == [2, 1] and whole["processes"] == 2
    states = [
        safetensors.torch.load_file(d / "final" / "vae.safetensors") for d in tmp_path.iterdir()
    ]
    for state in states:
        torch.testing.assert_close(state, states[0], rtol=1e-4, atol=1e-4)
    for directory in tmp_path.iterdir():  # both processes wrote one run's files
        assert len(list((directory / "checkpoint").iterdir())) == 3


@needs_fork
@pytest.mark.parametrize("how", ["--multi_gpu", "--use_fsdp"])
def test_accelerate_launch_ends_with_a_sentence_when_a_process_is_killed(tmp_path, how):
    launcher = [sys.executable, "-m", "accelerate.commands.launch", how]
    launcher += ["--num_processes", "2", "--main_process_port", "0"]
    done = start(*launcher, SCRIPT, "command", tmp_path)
    assert done.returncode != 0
    # Whichever comes first: that the other one does not answer, or the launcher's signal.
    told = r"Process 0 of 2 (has|was told to end, as a launcher does when it has) lost another one"
    assert re.search(told, done.stderr)
    manifest = json.loads((tmp_path / "run" / "checkpoint" / "manifest.json").read_text())
    assert manifest["step"] == 4 and not (tmp_path / "run" / "card.json").exists()


def test_one_process_alone_changes_nothing():
    here, step = Processes(), object()
    assert here.main and here.step(step) is step and here.rows(7) == slice(0, 7, 1)
    assert here.agree(True) and not here.agree(False)
    assert here.first(lambda: 5) == 5 and here.in_turn(lambda: 6) == 6
    values = {"loss": torch.tensor(2.0)}
    assert here.mean(values) == values
    with here.whole(TrainingState({}, {})) as nothing:
        assert nothing is None
    with pytest.raises(OSError):
        here.first(lambda: Path("/nowhere/at/all").read_bytes())


def test_rows_are_a_partition_in_equal_parts():
    for count in (1, 2, 3, 4):
        parts = [torch.arange(12)[Processes(rank, count).rows(12)] for rank in range(count)]
        assert torch.cat(parts).sort().values.equal(torch.arange(12))
        assert {len(part) for part in parts} == {12 // count}
    with pytest.raises(ValueError, match=r"batch of 10 .* 3 processes: choose a batch size"):
        Processes(0, 3).rows(10)


def test_what_cannot_be_cut_up_is_refused(monkeypatch):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Linear(4, 5))
    state = TrainingState({"model": model}, {})
    sharding = processes._sharding()
    sharding.require_cuttable(state)
    model.to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"leave that out .* or launch without --use_fsdp"):
        sharding.require_cuttable(state)
    state.shards = object()
    with pytest.raises(ValueError, match=r"load its checkpoint before Processes\.prepare"):
        training.load_checkpoint(state, None, "nowhere")
    monkeypatch.delattr("torch.distributed.fsdp.FSDPModule.set_custom_reduce_scatter")
    with pytest.raises(ValueError, match=r"too old to cut weights up .* torch 2\.9 or newer, or"):
        processes._sharding()


def test_layers_that_read_the_weights_of_others_are_cut_as_one():
    shared = UpsampledConv2d(2, 3)
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), shared)
    assert list(processes._sharding().wide_layers(model)) == [model[0][0], shared]


@pytest.mark.parametrize(
    "word, wanted", [("true", True), ("1", True), ("false", False), ("", False)]
)
def test_the_launcher_says_whether_to_cut_weights_up(monkeypatch, word, wanted):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", word)
    assert processes.wants_shards() == wanted
    assert not Processes(sharded=True).sharded  # alone


def joined(draw, count, n):
    """What `count` processes with equal generators draw, one after another."""
    found = []
    for rank in range(count):
        generator = torch.Generator().manual_seed(11)
        torch.manual_seed(12)
        with JoinedNoise(Processes(rank, count), generator):
            found.append(draw(generator, n))
    return found


def test_noise_of_the_parts_is_the_noise_of_the_whole():
    draws = [
        lambda g, n: torch.randn(n, 3, generator=g),
        lambda g, n: torch.rand((n, 1, 2), generator=g),
        lambda g, n: torch.randn(size=(n,), generator=g, dtype=torch.float64),
        lambda g, n: nn.functional.dropout(torch.ones(n, 9), 0.3),
    ]
    for draw in draws:
        whole, parts = joined(draw, 1, 8)[0], joined(draw, 4, 2)
        for rank, part in enumerate(parts):
            assert part.equal(whole[rank::4])
    # k draws per example: block j holds draw j of every example.
    draw = lambda g, n: torch.randn(5 * n, 2, generator=g).view(5, n, 2)  # noqa: E731
    whole = joined(draw, 1, 8)[0]
    for rank, part in enumerate(joined(draw, 4, 2)):
        assert part.equal(whole[:, rank::4])


def test_what_does_not_belong_to_the_run_or_is_not_in_training_is_left_alone():
    other = torch.Generator().manual_seed(1)
    with JoinedNoise(Processes(1, 2), torch.Generator()):
        drawn = torch.randn(3, generator=other)
        assert nn.functional.dropout(torch.ones(3), 0.5, training=False).equal(torch.ones(3))
    assert drawn.equal(torch.randn(3, generator=torch.Generator().manual_seed(1)))


def test_noise_that_cannot_be_split_is_refused():
    generator = torch.Generator()
    with JoinedNoise(Processes(0, 2), generator):
        for draw in (
            lambda: torch.empty(4).normal_(generator=generator),
            lambda: torch.randint(3, (4,), generator=generator),
        ):
            with pytest.raises(ValueError, match=r"split only what torch\.randn and torch\.rand"):
                draw()


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: nn.functional.dropout1d(x[0]),
        lambda x: nn.functional.dropout2d(x),
        lambda x: nn.Dropout2d(0.3)(x),
        lambda x: nn.functional.dropout3d(x),
        lambda x: nn.AlphaDropout(0.3)(x),
        lambda x: nn.FeatureAlphaDropout(0.3)(x),
        torch.randn_like,
        torch.rand_like,
        lambda x: torch.randint_like(x, 3),
        lambda x: torch.bernoulli(x / 2),
        lambda x: (x / 2).bernoulli(),
        lambda x: x.clone().bernoulli_(0.5),
    ],
)
def test_noise_by_the_shape_of_a_part_is_refused(draw):
    with JoinedNoise(Processes(0, 2), torch.Generator()):
        with pytest.raises(ValueError, match=r"split only what torch\.randn and torch\.rand"):
            draw(torch.ones(2, 3, 4, 4))


def test_other_dropouts_pass_when_they_draw_nothing():
    x = torch.ones(2, 3, 4, 4)
    layers = [nn.Dropout2d(), nn.Dropout3d(), nn.AlphaDropout(), nn.FeatureAlphaDropout()]
    with JoinedNoise(Processes(0, 2), torch.Generator()):
        for layer in layers:
            assert layer.eval()(x).equal(x)
        drawn = torch.bernoulli(x / 2, generator=torch.Generator().manual_seed(1))
    assert drawn.equal(torch.bernoulli(x / 2, generator=torch.Generator().manual_seed(1)))


def test_options_of_a_draw_pass_through(monkeypatch):
    seen = {}
    randn = torch.randn

    def noted(*arguments, **options):
        seen.update(options)
        return randn(*arguments, generator=options["generator"])

    generator = torch.Generator()
    monkeypatch.setattr(torch, "randn", noted)
    wanted = {"generator": generator, "pin_memory": True, "dtype": torch.float64}
    # Called by name: under the mode torch would go through with it, which takes a GPU.
    mode = JoinedNoise(Processes(1, 2), generator)
    part = mode.__torch_function__(noted, (), ((2, 3),), wanted)
    assert seen == wanted and part.shape == (2, 3)


class Elsewhere(torch.Tensor):
    """Stands for a tensor on a GPU; `cpu` brings it back."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_moments_are_sent_from_the_cpu():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    for moments in optimizer.state.values():
        moments["exp_avg"] = moments["exp_avg"].as_subclass(Elsewhere)

    class Sent(Exception):
        pass

    def share(value):
        raise Sent(value)

    here = Processes(0, 2)
    here.share = share
    state = TrainingState({"model": model}, {"model": optimizer})
    with pytest.raises(Sent) as caught:
        here.prepare(state)
    sent = caught.value.args[0][2]["model"]["state"]
    assert len(sent) == 2
    for i, moments in enumerate(optimizer.state.values()):
        assert {type(value) for value in sent[i].values()} == {torch.Tensor}
        assert all(torch.equal(sent[i][key], value) for key, value in moments.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_joined_batch_norm_is_that_of_torch_in_either_precision(dtype):
    mine, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = (2 + 3 * torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(1))).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = processes._joined_batch_norm(Processes(), mine, x)
        wanted = theirs(x)
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict())


def test_a_lost_process_is_told_from_an_error_of_a_step(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(processes.dist, "all_reduce", broken)
    with pytest.raises(ProcessLost, match="--resume goes on from its last checkpoint"):
        Processes(1, 2).mean({"loss": torch.tensor(math.pi)})


def test_without_accelerate_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=r"'\.\[distributed\]'"):
        processes.connect()


@pytest.mark.parametrize(
    ("asked", "told", "gpu", "on_cpu"),
    [
        (None, {}, True, False),
        (None, {}, False, True),
        (None, {"ACCELERATE_USE_CPU": "true"}, True, True),
        (None, {"COURSE_DEVICE": "cpu"}, True, True),
        ("cpu", {}, True, True),
        ("cuda", {"ACCELERATE_USE_CPU": "true"}, True, False),
    ],
)
def test_several_processes_use_the_device_that_was_asked_for(asked, told, gpu, on_cpu, monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    seen = []

    def partial_state(cpu, timeout):
        seen.append(cpu)
        return SimpleNamespace(process_index=0, num_processes=2, device=torch.device("cpu"))

    monkeypatch.setattr(accelerate, "PartialState", partial_state)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gpu))
    monkeypatch.setattr(processes.signal, "signal", lambda *_: None)
    for name in ("ACCELERATE_USE_CPU", "COURSE_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"WORLD_SIZE": "2", "RANK": "0"} | told).items():
        monkeypatch.setenv(name, value)
    processes.connect(asked)
    assert seen == [on_cpu]


@pytest.mark.parametrize("device", ["cuda", "nonsense"])
def test_several_processes_refuse_a_device_that_is_not_there(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match=device):
        processes.connect(device)


def test_one_process_where_several_were_asked_for_is_refused(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(ValueError, match="add --multi_gpu"):
        processes.connect()


def test_a_launch_of_one_calls_the_function_here():
    called = []
    processes.launch(called.append, 3, count=1)
    assert called == [3]
    with pytest.raises(ValueError, match="at least 1 process"):
        processes.launch(called.append, 3, count=0)
