"""The training loop: fetch a batch, take a step, watch over it.

Everything here but the five lines of the loop itself is bookkeeping: recording losses, showing
progress, noticing divergence, sampling, checkpoints, and Ctrl-C between steps.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from course_lib.training.state import (
    TrainingState,
    load_checkpoint,
    modes_kept,
    random_states,
    restore_random_states,
    save_checkpoint,
)

Step = Callable[[TrainingState, Tensor], Mapping[str, Tensor]]

# On a GPU, reading one number makes the CPU wait; so values are fetched in blocks of this many
# steps. On a CPU they are there at once.
BLOCK = 50
REDRAW_SECONDS = 0.25
# A look at all gradients costs a small network some percent of its time, and a bad one
# spoils the losses of the next step anyway: so each of the first steps, then one in so many.
LOOK_EVERY = 10


class TrainingDiverged(RuntimeError):
    """A loss, a gradient or a batch is NaN or infinite; the sentence names step and tensor."""


def _finite_if_all_are(gradients: list[Tensor]) -> Tensor:
    """A scalar that is NaN or infinite if any entry of any of them is.

    Norms, which a GPU takes of all at once; on a CPU sums, which cost less: what is added to an
    infinity or a NaN stays one of the two.
    """
    if gradients[0].device.type == "cpu":
        return torch.stack([g.sum() for g in gradients]).sum()
    return torch.stack(torch._foreach_norm(gradients)).sum()


class Recorder:
    """Losses as tensors; every so often as floats into `state.history`, and watched."""

    def __init__(self, state: TrainingState) -> None:
        self.state, self.device = state, state.device
        self.block = 1 if self.device.type == "cpu" else BLOCK
        self.names: list[str] = []
        self.rows: list[Tensor] = []
        self.looks: list[tuple[int, Tensor]] = []  # step, and a number that tells of its gradients
        self.batch: Tensor | None = None
        # Looked up once: walking through the modules at every step would cost as much as a layer.
        self.parameters = [list(module.parameters()) for module in state.modules.values()]

    def accept(self, losses: Any) -> dict[str, Tensor]:
        """What a step returned as one number per name; refused before the step is counted."""
        if not isinstance(losses, Mapping) or not losses:
            given = "an empty dictionary" if losses == {} else f"a {type(losses).__name__}"
            raise TypeError(
                f"The step returned {given}, and the loop records a dictionary {{name: scalar "
                "tensor}: is a return missing?"
            )
        values = {n: torch.as_tensor(v, device=self.device) for n, v in losses.items()}
        for name, value in values.items():
            if value.numel() != 1:
                raise TypeError(
                    f"{name} of the step has the shape {list(value.shape)}, and the loop records "
                    "one number: take its mean."
                )
        names = list(losses)
        if names != (self.names or names) or (
            self.state.history and names != list(self.state.history)
        ):
            raise ValueError(
                f"The step returned {names} after {self.names or list(self.state.history)}; a run "
                "keeps one set of names, so use one kind of step or start a new state."
            )
        return values

    def add(self, losses: Mapping[str, Tensor], batch: Tensor) -> None:
        """Record one finished step."""
        self.names, self.batch = list(losses), batch
        self.rows.append(torch.stack([v.detach().float().reshape(()) for v in losses.values()]))
        if self.state.step <= LOOK_EVERY or self.state.step % LOOK_EVERY == 0:
            self._look()
        if len(self.rows) >= self.block:
            self.flush()

    def _look(self) -> None:
        """Take in the gradients as they are now."""
        gradients = [[p.grad for p in module if p.grad is not None] for module in self.parameters]
        self.looks += [(self.state.step, _finite_if_all_are(g).float()) for g in gradients if g]

    def flush(self, settle: bool = False) -> None:
        """Fetch what is pending; `settle` looks at the gradients too. Raises TrainingDiverged."""
        if settle:
            self._look()
        if self.rows:
            first = self.state.step - len(self.rows) + 1
            rows, self.rows = torch.stack(self.rows).tolist(), []
            for step, row in enumerate(rows, start=first):
                if not all(map(math.isfinite, row)):
                    self._stop(step, row)
                for name, value in zip(self.names, row, strict=True):
                    self.state.history.setdefault(name, []).append(value)
        looks, self.looks = self.looks, []
        if looks:
            found = torch.stack([number for _, number in looks]).tolist()
            for (step, _), number in zip(looks, found, strict=True):
                if not math.isfinite(number):
                    self._stop(step, [])

    def _stop(self, step: int, row: list[float]) -> None:
        """Raise for the row or the gradients of this step, if they hold what is not finite."""
        culprit = self._culprit(row)
        if culprit:
            raise TrainingDiverged(
                f"Training diverged at step {step}: {culprit} is not finite; start a new run with "
                "a smaller learning rate or a penalty (a checkpoint brings its own rates back)."
            )

    def _culprit(self, row: list[float]) -> str | None:
        if self.batch is not None and not torch.isfinite(self.batch).all():
            return "the batch of data"
        for name, value in zip(self.names, row, strict=False):
            if not math.isfinite(value):
                return f"{name} ({value})"
        for module_name, module in self.state.modules.items():
            for name, p in module.named_parameters():
                if p.grad is not None and not torch.isfinite(p.grad).all():
                    return f"the gradient of {module_name}.{name}"
        return None  # finite gradients so large that only their norm or sum overflows

    def text(self) -> str:
        """The latest values, for the progress line."""
        return ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.state.history.items())


class NotebookLine:
    """A file for tqdm that shows its text in one place: the stored output is the last line."""

    encoding = "utf-8"  # tqdm asks before it draws blocks

    def __init__(self) -> None:
        self.handle, self.text = None, ""

    def write(self, text: str) -> None:
        self.text = text.strip("\r\n ") or self.text

    def flush(self) -> None:
        from IPython.display import display

        if not self.text:
            return
        content = {"text/plain": self.text}
        if self.handle is None:
            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


def _in_notebook() -> bool:
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module else None
    return shell is not None and "IPKernelApp" in shell.config


class ProgressBar:
    """One line of tqdm, redrawn at most four times a second and at the end."""

    def __init__(
        self, total: int, initial: int, label: str, enabled: bool, show_rate: bool = False
    ) -> None:
        notebook = enabled and _in_notebook()
        self.bar = tqdm(
            total=total,
            initial=initial,
            desc=label or None,
            disable=not enabled,
            file=NotebookLine() if notebook else sys.stderr,
            ncols=None,
            dynamic_ncols=not notebook,
            bar_format="{l_bar}{bar:20}{r_bar}",
        )
        self.drawn = self.began = time.monotonic()
        self.show_rate, self.images = show_rate, 0

    def show(self, step: int, recorder: Recorder, images: int, force: bool = False) -> None:
        """Redraw if it is time to; only then are the latest losses fetched."""
        self.images += images
        if self.bar.disable or not (force or time.monotonic() - self.drawn >= REDRAW_SECONDS):
            return
        recorder.flush()
        self.bar.n = step
        self.drawn = time.monotonic()
        rate = self.images / max(self.drawn - self.began, 1e-9)
        text = recorder.text() + (f", {rate:,.0f} images/s" if self.show_rate else "")
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.refresh()


@contextmanager
def _interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C until the loop asks for it; a second one interrupts at once.

    An interrupt in mid-step would leave a discriminator updated and its generator not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python gives signals to the main thread alone
        return
    pressed: list[int] = []  # no lock, such as an Event has: a second Ctrl-C may come in here

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        if len(pressed) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        # None: a handler that was not set from Python and cannot be set back.
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)


@contextmanager
def _nothing_pending(recorder: Recorder) -> Iterator[None]:
    """Whatever ends the loop, the history has all steps that are counted, also those on a GPU."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # what ended the loop is raised, whatever else is found
            recorder.flush()
        raise


def _sample(state: TrainingState, on_sample: Callable[[TrainingState], Any]) -> None:
    # What a hook draws must not change the training that follows.
    before = random_states(state)
    try:
        with modes_kept(*state.modules.values()):
            state.samples.append((state.step, on_sample(state)))
    finally:
        restore_random_states(state, before)


def train(
    state: TrainingState,
    step: Step,
    batches: Iterable[Tensor],
    steps: int,
    *,
    sample_every: int | None = None,
    on_sample: Callable[[TrainingState], Any] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    label: str = "",
    show_rate: bool = False,
    agree: Callable[[bool], bool] = bool,
) -> dict[str, list[float]]:
    """Call `step(state, batch)` until `state.step == steps`.

    Args:
        step: for example `gan_step`, or `functools.partial(vae_step, beta=4.0)`. The loop counts:
            a step does not touch `state.step`.
        batches: endless; with state_dict() and load_state_dict() if checkpoints are asked for.
        steps: total number of steps, those done before included.
        on_sample: called with the state at step 0, every `sample_every` steps and at the end;
            what it returns is collected in `state.samples` as (step, result). Its random draws do
            not disturb the training.
        checkpoint: directory written every `checkpoint_every` steps, at the end, and at Ctrl-C
            (which waits for the running step, and is then raised as KeyboardInterrupt; pressed
            after the last one, it is raised when everything is written).
        resume: go on from the checkpoint in that directory, exactly as if the run had never
            stopped; begin at the beginning if it holds none.
        progress: show a line with the latest losses.
        label: a word at the beginning of that line.
        show_rate: end that line with the images per second of this call.
        agree: called after every step with whether Ctrl-C was pressed, and says whether to stop;
            `Processes.agree` makes several processes stop after the same step.

    Modules train in train mode and get their modes back at the end.

    Returns:
        `state.history`: {name: one float per step}.

    Raises:
        TrainingDiverged: a loss, gradient or batch is not finite; no checkpoint is written then.
            Gradients are looked at in the first steps, in every tenth, and before anything is
            sampled, saved or returned; a bad one in between shows in the losses of the next step.
        ValueError: contradictory arguments, or `batches` ended.
        TypeError: a checkpoint is asked for and `batches` cannot store its position; batches that
            are no tensors; a step that returns no dictionary.
        OSError: a checkpoint cannot be written.
    """
    if checkpoint is None and (resume or checkpoint_every):
        raise ValueError("resume and checkpoint_every need checkpoint=, the directory to use.")
    if on_sample is None and sample_every:
        raise ValueError("sample_every needs on_sample=, the function to call.")
    if min(steps, sample_every or 1, checkpoint_every or 1) < 1:
        raise ValueError("steps, sample_every and checkpoint_every must be at least 1.")
    if checkpoint is not None and not hasattr(batches, "load_state_dict"):
        raise TypeError(
            f"{type(batches).__name__} has no state_dict() and load_state_dict(), which an exact "
            "checkpoint needs; use data.Batches or data.SampleBatches."
        )
    if resume and (Path(checkpoint) / "manifest.json").exists():
        load_checkpoint(state, batches, checkpoint)
    if state.step >= steps:
        return state.history

    modules = list(state.modules.values())
    stream, recorder = iter(batches), Recorder(state)
    bar = ProgressBar(steps, state.step, label, progress, show_rate)
    with (
        modes_kept(*modules),
        _interrupt_between_steps() as interrupted,
        _nothing_pending(recorder),
        bar.bar,
    ):
        for module in modules:
            module.train()
        if on_sample and state.step == 0:
            _sample(state, on_sample)
        while state.step < steps:
            batch = next(stream, None)
            if batch is None:
                raise ValueError(f"batches ended after {state.step} steps; it must be endless.")
            if not isinstance(batch, Tensor):
                raise TypeError(
                    f"batches gave a {type(batch).__name__}, and a step takes one tensor: pass the "
                    "images alone, or use data.Batches."
                )
            losses = recorder.accept(step(state, batch))
            state.step += 1
            recorder.add(losses, batch)

            last, stop = state.step == steps, agree(interrupted())
            bar.show(state.step, recorder, len(batch), force=last or stop)
            if on_sample and (last or (sample_every and state.step % sample_every == 0)):
                recorder.flush(settle=True)
                _sample(state, on_sample)
            if checkpoint is not None and (
                last or stop or (checkpoint_every and state.step % checkpoint_every == 0)
            ):
                recorder.flush(settle=True)
                save_checkpoint(state, batches, checkpoint)
            if stop:
                recorder.flush(settle=True)
                raise KeyboardInterrupt
        recorder.flush(settle=True)
        if interrupted():  # in the last sample or checkpoint, after the loop had asked
            raise KeyboardInterrupt
    return state.history
