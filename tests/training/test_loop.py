"""The loop: counting, watching, sampling, interrupting."""

from __future__ import annotations

import io
import os
import signal
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from course_lib.training import TrainingDiverged, load_checkpoint, loop, train

sys.path.insert(0, str(Path(__file__).parent))
from training_cases import CASES, Stream, everything, toy_gan, toy_vae


def test_history_has_one_value_per_step_and_a_second_call_goes_on():
    state, step, batches = toy_gan()
    history = train(state, step, batches, 5, progress=False)
    assert state.step == 5 and {len(v) for v in history.values()} == {5}
    assert train(state, step, batches, 5, progress=False) is history
    train(state, step, batches, 8, progress=False)
    whole, step, batches = toy_gan()
    assert train(whole, step, batches, 8, progress=False) == history


def test_blocks_record_the_same_history(monkeypatch):
    state, step, batches = toy_gan()
    expected = train(state, step, batches, 7, progress=False)
    state, step, batches = toy_gan()
    recorder = loop.Recorder
    monkeypatch.setattr(loop, "Recorder", lambda s: _with_block(recorder(s), 3))
    assert train(state, step, batches, 7, progress=False) == expected


def _with_block(recorder, block):
    recorder.block = block
    return recorder


@pytest.mark.parametrize("block", [1, 4])
def test_nan_in_the_data_names_step_and_batch(block, monkeypatch):
    recorder = loop.Recorder
    monkeypatch.setattr(loop, "Recorder", lambda s: _with_block(recorder(s), block))
    state, step, batches = toy_gan()
    draw, count = batches.draw, iter(range(100))
    batches.draw = lambda g: draw(g) * (float("nan") if next(count) >= 3 else 1.0)
    with pytest.raises(TrainingDiverged, match=r"at step 4: the batch of data is not finite"):
        train(state, step, batches, 20, progress=False)
    assert {len(v) for v in state.history.values()} == {3}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_loss_is_named(bad):
    state, step, batches = toy_gan()

    def sick(state, real):
        values = step(state, real)
        if state.step == 6:
            values["generator_loss"] = values["generator_loss"] * 0 + bad
        return values

    with pytest.raises(TrainingDiverged, match=r"at step 7: generator_loss \((nan|inf)\)"):
        train(state, sick, batches, 20, progress=False)


def toy_vae_with_gradient(value, at):
    """State, step and batches, where step number `at` leaves one entry of a gradient so."""
    state, step, batches = toy_vae()

    def sick(state, x):
        values = step(state, x)
        if state.step == at - 1:  # the loop counts after the step
            state.modules["vae"].encoder[0].weight.grad[0, 0, 1, 1] = value
        return values

    return state, sick, batches


def test_a_bad_gradient_is_named_even_if_every_loss_is_finite(tmp_path):
    state, sick, batches = toy_vae_with_gradient(float("nan"), at=3)
    name = r"at step 3: the gradient of vae.encoder.0.weight is not finite; start a new run"
    with pytest.raises(TrainingDiverged, match=name):
        train(state, sick, batches, 9, progress=False, checkpoint=tmp_path, checkpoint_every=3)
    assert not list(tmp_path.iterdir())  # what diverged is never saved


def test_a_bad_gradient_of_the_last_step_is_never_returned():
    state, sick, batches = toy_vae_with_gradient(float("inf"), at=14)
    with pytest.raises(TrainingDiverged, match=r"at step 14: the gradient of vae.encoder.0.weight"):
        train(state, sick, batches, 14, progress=False)


def test_a_bad_gradient_between_two_looks_stops_the_next_step():
    state, step, batches = toy_vae()

    def sick(state, x):
        if state.step == 13:  # what a bad gradient makes of its weight
            state.modules["vae"].encoder[0].weight.data[0, 0, 1, 1] = float("nan")
        return step(state, x)

    with pytest.raises(TrainingDiverged, match=r"at step 14: loss \(nan\)"):
        train(state, sick, batches, 30, progress=False)
    assert len(state.history["loss"]) == 13


def test_samples_at_the_start_every_so_often_and_at_the_end():
    state, step, batches = toy_gan()
    train(state, step, batches, 7, sample_every=3, on_sample=lambda s: s.step * 10, progress=False)
    assert state.samples == [(0, 0), (3, 30), (6, 60), (7, 70)]
    state, step, batches = toy_gan()
    train(state, step, batches, 4, on_sample=lambda s: s.step, progress=False)
    assert state.samples == [(0, 0), (4, 4)]


@pytest.mark.parametrize("name", CASES)
def test_sampling_does_not_disturb_training(name):
    def hook(state):
        torch.randn(3)
        torch.randn(3, generator=state.generator)
        for module in state.modules.values():
            module.eval()

    results = []
    for options in ({}, {"on_sample": hook, "sample_every": 2}):
        state, step, batches = CASES[name]()
        train(state, step, batches, 7, progress=False, **options)
        results.append(everything(state, batches))
    assert results[0] == results[1]


def test_modes_are_train_inside_and_restored_outside():
    state, step, batches = toy_gan()
    generator = state.modules["generator"].eval()
    seen = []

    def watching(state, real):
        seen.append(generator[1].training)
        return step(state, real)

    train(state, watching, batches, 2, progress=False)
    assert seen == [True, True]
    assert not any(child.training for child in generator.modules())
    assert state.modules["discriminator"].training


@pytest.mark.parametrize("name", CASES)
def test_ctrl_c_finishes_the_step_saves_and_raises(name, tmp_path):
    state, step, batches = CASES[name]()
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(state, batch):
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(state, batch)

    with pytest.raises(KeyboardInterrupt):
        train(state, interrupted, batches, 9, progress=False, checkpoint=tmp_path)
    assert state.step == 4 and signal.getsignal(signal.SIGINT) is handler
    state, step, batches = CASES[name](seed=5)
    train(state, step, batches, 9, progress=False, checkpoint=tmp_path, resume=True)
    whole, step, stream = CASES[name]()
    train(whole, step, stream, 9, progress=False)
    assert everything(state, batches) == everything(whole, stream)


@pytest.mark.parametrize("during", ["sample", "save"])
def test_ctrl_c_after_the_last_step_is_raised_once_all_is_written(during, tmp_path, monkeypatch):
    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)

    state, step, batches = toy_gan()
    save = loop.save_checkpoint
    if during == "save":
        monkeypatch.setattr(loop, "save_checkpoint", lambda *a: [press(), save(*a)])
    look = press if during == "sample" else None
    state.step = 1  # no sample before the first step
    with pytest.raises(KeyboardInterrupt):
        train(state, step, batches, 3, on_sample=look, progress=False, checkpoint=tmp_path)
    other, _, stream = toy_gan(seed=5)
    load_checkpoint(other, stream, tmp_path)
    assert everything(other, stream) == everything(state, batches) and other.step == 3


def test_a_second_ctrl_c_interrupts_at_once():
    state, _, batches = toy_gan()

    def stuck(state, real):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second interrupt was swallowed")

    with pytest.raises(KeyboardInterrupt):
        train(state, stuck, batches, 9, progress=False)


def test_contradictions_are_refused(tmp_path):
    state, step, batches = toy_gan()
    with pytest.raises(ValueError, match="need checkpoint="):
        train(state, step, batches, 3, resume=True)
    with pytest.raises(ValueError, match="needs on_sample="):
        train(state, step, batches, 3, sample_every=1)
    with pytest.raises(ValueError, match="at least 1"):
        train(state, step, batches, 0)
    with pytest.raises(TypeError, match=r"list has no state_dict\(\)"):
        train(state, step, [next(batches)], 3, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="batches ended after 2 steps"):
        train(state, step, [next(batches), next(batches)], 3, progress=False)
    with pytest.raises(ValueError, match="one set of names"):
        train(state, toy_vae_like, batches, 5, progress=False)


def test_what_a_loader_or_a_step_gives_wrongly_is_said():
    state, step, batches = toy_gan()
    with pytest.raises(TypeError, match=r"batches gave a list, .* pass the images alone"):
        train(state, step, [[next(batches), torch.zeros(3)]], 3, progress=False)
    with pytest.raises(TypeError, match=r"returned a NoneType, .* is a return missing"):
        train(state, lambda state, batch: None, batches, 3, progress=False)


def test_an_error_in_a_step_leaves_history_and_step_together(monkeypatch):
    """On a GPU the latest losses wait to be fetched: they must not be lost with the step."""
    state, step, batches = toy_gan()

    def fails_at_seven(state, batch):
        if state.step == 7:
            raise RuntimeError("no more")
        return step(state, batch)

    original = loop.Recorder.__init__

    def in_blocks(self, state):
        original(self, state)
        self.block = 50

    monkeypatch.setattr(loop.Recorder, "__init__", in_blocks)
    with pytest.raises(RuntimeError, match="no more"):
        train(state, fails_at_seven, batches, 20, progress=False)
    assert state.step == 7 and {len(v) for v in state.history.values()} == {7}
    train(state, step, batches, 20, progress=False)
    assert {len(v) for v in state.history.values()} == {20}


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [({}, "returned an empty dictionary"), ({"loss": torch.zeros(3)}, r"shape \[3\].*its mean")],
)
def test_what_is_no_number_per_name_is_refused_before_the_step_counts(losses, sentence):
    state, _, batches = toy_gan()
    with pytest.raises(TypeError, match=sentence):
        train(state, lambda state, batch: losses, batches, 3, progress=False)
    assert state.step == 0 and not state.history


def toy_vae_like(state, real):
    return {"loss": torch.zeros(())}


def test_any_function_can_be_a_step():
    weight = nn.Linear(1, 1)
    state, _, _ = toy_gan()
    state.modules, state.ema = {"model": weight}, {}
    batches = Stream(lambda g: torch.randn(4, 1, generator=g))
    history = train(state, lambda s, x: {"loss": float(s.step)}, batches, 3, progress=False)
    assert history == {"loss": [0.0, 1.0, 2.0]}


def test_terminal_progress_ends_at_100_percent_with_the_last_losses(capsys):
    state, step, batches = toy_gan()
    history = train(state, step, batches, 5, label="toy")
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert last.startswith("toy: 100%") and "5/5" in last
    assert f"generator_loss {history['generator_loss'][-1]:.4g}" in last


def test_notebook_progress_is_one_output_updated_in_place(monkeypatch):
    shown = []

    class Handle:
        def update(self, content, raw):
            assert raw
            shown[-1] = content["text/plain"]

    def display(content, raw, display_id):
        assert raw and display_id
        shown.append(content["text/plain"])
        return Handle()

    fake = types.ModuleType("IPython.display")
    fake.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    monkeypatch.setattr(loop, "_in_notebook", lambda: True)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    state, step, batches = toy_gan()
    train(state, step, batches, 5)
    assert len(shown) == 1
    assert shown[0].startswith("100%") and "█" in shown[0] and "generator_loss" in shown[0]
    assert "\n" not in shown[0] and "\r" not in shown[0]
    assert sys.stderr.getvalue() == ""
