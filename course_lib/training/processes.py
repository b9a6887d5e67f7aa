"""One run on several processes: each holds the whole model and works on its rows of every batch.

This is data parallelism as torch's DistributedDataParallel has it, written out, because the steps
of a course call `encode` and `decode` by name and differentiate twice. A step stays as it is:

    its batch       every n-th row; the batch size of a run is that of all n processes together
    its noise       drawn for the whole batch from one generator, then cut to the same rows
    its gradients   averaged over processes just before the optimizer takes them
    its losses      averaged too: means over parts of equal size are the mean over the whole

So a run on n processes is the run on one, but for the order in which floating point adds.

With `accelerate launch --use_fsdp` each process keeps only its share of the wide layers, of their
gradients, averages and moments: `course_lib.training.sharding`. All else stays as above.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from course_lib.environment import choose_device
from course_lib.training.state import (
    TrainingState,
    random_states,
    restore_random_states,
)

T = TypeVar("T")

# A process that is killed closes its connection, which the others see at once. This is for one
# that hangs; it must be longer than the first process takes for data, samples or a checkpoint.
TIMEOUT = timedelta(minutes=10)
LOOK = 50  # updates between two questions whether to stop, where asking makes a GPU wait


class ProcessLost(RuntimeError):
    """Another process of the run was killed or hangs; the sentence says how to go on."""


class FirstFailed(RuntimeError):
    """Process 0 raised an error, whose sentence this is, before the others could go on."""


class Processes:
    """This process among those of its run; alone, everything here is the identity.

    Attributes:
        rank: number of this process, from 0; process 0 alone writes files and prints.
        count: how many there are.
        device: the one that this process was given, or None where there is a choice.
        sharded: whether `prepare` cuts the wide layers up among them.
    """

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        device: torch.device | None = None,
        sharded: bool = False,
    ) -> None:
        self.rank, self.count, self.device = rank, count, device
        self.sharded = sharded and count > 1
        self.asked = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    # What processes tell each other.

    def sum(self, x: Tensor) -> Tensor:
        """x of all processes added up, in place."""
        if self.count > 1:
            with self._answered():
                dist.all_reduce(x)
        return x

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars, averaged over processes."""
        if self.count == 1:
            return dict(values)
        together = self.sum(torch.stack([v.detach() for v in values.values()])) / self.count
        return dict(zip(values, together.unbind(), strict=True))

    def agree(self, stop: bool) -> bool:
        """Whether any process wants to stop, so that all do so after the same update."""
        if self.count == 1:
            return stop
        self.asked += 1
        on_cpu = self.device is None or self.device.type == "cpu"
        if not on_cpu and self.asked % LOOK:
            return False  # a wish to stop stays, and is asked about again
        return bool(self.sum(torch.tensor(float(stop), device=self.device)))

    def share(self, value: T) -> T:
        """The value of process 0, in all of them."""
        if self.count == 1:
            return value
        box = [value]
        with self._answered():
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def first(self, function: Callable[[], T]) -> T:
        """What `function` returns in process 0, in all of them; the others wait for it.

        For all that looks at a directory: what one process writes must not surprise another. An
        error of process 0 is raised in the others as `FirstFailed`.
        """
        value, failure = None, None
        if self.main:
            try:
                value = function()
            except BaseException as error:
                self.share((None, f"{type(error).__name__}: {error}"))
                raise
        value, failure = self.share((value, failure))
        if failure is not None:
            raise FirstFailed(failure)
        return value

    def in_turn(self, function: Callable[[], T]) -> T:
        """`function()` in process 0, then in the others; for downloads, which they then find."""
        mine = []
        self.first(lambda: mine.append(function()))
        return mine[0] if self.main else function()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch has no narrower kind for all of its backends
            raise ProcessLost(
                f"Process {self.rank} of {self.count} has lost another one, which was killed or "
                "does not answer: the run ends here, and --resume goes on from its last checkpoint."
            ) from error

    def told_to_end(self, *_: Any) -> None:
        """Handler of SIGTERM, which a launcher sends to the others when one of them has ended.

        It may come before this process notices by itself that the other one does not answer.

        Raises:
            ProcessLost: always.
        """
        raise ProcessLost(
            f"Process {self.rank} of {self.count} was told to end, as a launcher does when it has "
            "lost another one: the run ends here, and --resume goes on from its last checkpoint."
        )

    # What makes one process's step part of a step of all.

    def rows(self, n: int) -> slice:
        """Which of n examples are this process's.

        Raises:
            ValueError: n cannot be split evenly.
        """
        if n % self.count:
            raise ValueError(
                f"A batch of {n} cannot be split evenly over {self.count} processes: choose a "
                f"batch size that is a multiple of {self.count}, or another number of processes."
            )
        # Every n-th one: a step may cut its batch into parts, or have k rows of noise per example
        # in k blocks, and the rows of a part or of a block are still found by the same rule.
        return slice(self.rank, n, self.count)

    def step(self, step: Callable[..., Mapping[str, Tensor]], batches: Any = None) -> Callable:
        """`step(state, batch)` on this process's rows of the batch; call `prepare` first.

        Of `batches`, whose labels a step may read, the labels are cut to the same rows.
        """
        if self.count == 1:
            return step

        def on_rows(state: TrainingState, batch: Tensor) -> Mapping[str, Tensor]:
            rows = self.rows(len(batch))
            if getattr(batches, "labels", None) is not None:
                batches.labels = batches.labels[rows]
            shards = state.shards
            with JoinedNoise(self, state.generator), shards.step() if shards else nullcontext():
                values = step(state, batch[rows])
            return self.mean(shards.checked(values) if shards else values)

        return on_rows

    def prepare(self, state: TrainingState, batches: Any = None) -> None:
        """Bring all processes to the state of process 0, and let its optimizers average gradients.

        Batch normalisation takes its statistics over the whole batch from now on. If `sharded`,
        wide layers are cut up at last: make the optimizers, and load a checkpoint, before.

        Raises:
            ValueError: they cannot be cut up; in other processes than the first, FirstFailed.
        """
        if self.count == 1:
            return
        optimizers = {name: o.state_dict() for name, o in state.optimizers.items()}
        # A tensor of a GPU would arrive on that GPU, in the memory that belongs to process 0.
        optimizers = tree_map(lambda x: x.cpu() if isinstance(x, Tensor) else x, optimizers)
        position = None if batches is None else batches.state_dict()
        mine = (state.step, state.history, optimizers, random_states(state), position)
        step, history, optimizers, random, position = self.share(mine)
        if not self.main:
            state.step = step
            state.history.update(history)
            for name, optimizer in state.optimizers.items():
                optimizer.load_state_dict(optimizers[name])
            restore_random_states(state, random)
            if batches is not None:
                batches.load_state_dict(position)
        with self._answered(), torch.no_grad():
            for module in (*state.modules.values(), *(ema.module for ema in state.ema.values())):
                for tensor in module.state_dict().values():
                    sent = tensor.contiguous()  # it may be channels_last, which cannot be sent
                    dist.broadcast(sent, src=0)
                    tensor.copy_(sent)
        for optimizer in state.optimizers.values():
            optimizer.register_step_pre_hook(partial(self._average, state))
        for module in state.modules.values():
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                    layer.forward = partial(_joined_batch_norm, self, layer)
        if self.sharded:
            self.first(lambda: _sharding().require_cuttable(state))
            state.shards = _sharding().Shards(state, self.rank, self.count, self._answered)

    def whole(self, state: TrainingState) -> AbstractContextManager:
        """While active, process 0 can use the modules alone, say to sample; all processes enter."""
        return state.shards.whole() if state.shards else nullcontext()

    def look(self, function: Callable[[TrainingState], T]) -> Callable[[TrainingState], T | None]:
        """`function(state)` in process 0 alone, which has all weights for it; for `on_sample`."""

        def together(state: TrainingState) -> T | None:
            with self.whole(state):
                return function(state) if self.main else None

        return together

    @torch.no_grad()
    def _average(self, state: TrainingState, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Replace the gradients of an optimizer by their mean over processes, in one message."""
        groups = optimizer.param_groups
        cut = state.shards.parts if state.shards else ()  # averaged on the way
        found = [p.grad for g in groups for p in g["params"] if p.grad is not None and p not in cut]
        if not found:
            return
        flat = self.sum(torch.cat([g.flatten() for g in found])) / self.count
        for gradient, mean in zip(found, flat.split([g.numel() for g in found]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _sharding() -> ModuleType:
    """The module `sharding`, which takes a while to import and a new torch."""
    try:
        from torch.distributed.fsdp import FSDPModule

        from course_lib.training import sharding

        if hasattr(FSDPModule, "set_custom_reduce_scatter"):  # what came last
            return sharding
    except ImportError:
        pass
    raise ValueError(
        f"torch {torch.__version__} is too old to cut weights up among processes: install torch "
        "2.9 or newer, or launch without --use_fsdp."
    )


# They draw from torch's global generator, by the shape of one process's rows.
_DROPOUTS = (
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.alpha_dropout,
    nn.functional.feature_alpha_dropout,
)
_DRAWS = (
    torch.randn_like,
    torch.rand_like,
    torch.randint_like,
    torch.bernoulli,
    Tensor.bernoulli,
    Tensor.bernoulli_,
)


class JoinedNoise(TorchFunctionMode):
    """While active, noise is this process's rows of the noise for the whole batch.

    Draws from `generator` and the masks of dropout are made for the whole batch in every process,
    so that the generators of all stay together and a run does not depend on their number.

    Raises:
        ValueError: a draw that cannot be split so: another one from `generator`, another dropout
            in training, or one like a given tensor.
    """

    def __init__(self, processes: Processes, generator: torch.Generator) -> None:
        super().__init__()
        self.processes, self.generator = processes, generator

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is nn.functional.dropout and kwargs.get("training", True):
            x, rest = args[0], {**kwargs, "inplace": False}
            whole = x.new_ones(self._joined(x.shape))
            return x * self._mine(function(whole, *args[1:], **rest))
        source = kwargs.get("generator")
        refused = function in _DRAWS or (function in _DROPOUTS and kwargs.get("training", True))
        if source is not self.generator and not (source is None and refused):
            return function(*args, **kwargs)
        if function not in (torch.randn, torch.rand):
            raise ValueError(
                f"{function.__name__} draws noise for one process, and several can split only what "
                "torch.randn and torch.rand draw from the generator of the run, and plain dropout: "
                "use these, or one process."
            )
        shape = args[0] if args and isinstance(args[0], Sequence) else args or kwargs["size"]
        rest = {k: v for k, v in kwargs.items() if k != "size"}
        return self._mine(function(self._joined(shape), **rest))

    def _joined(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0] * self.processes.count, *shape[1:])

    def _mine(self, drawn: Tensor) -> Tensor:
        return drawn[self.processes.rows(len(drawn))]


class _Sum(torch.autograd.Function):
    """The sum over processes; every one of them depends on it, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.processes.sum(gradient.clone()), None


def _joined_batch_norm(processes: Processes, layer: nn.Module, x: Tensor) -> Tensor:
    """Batch normalisation with mean and variance over the examples of all processes.

    torch's own SyncBatchNorm does this on GPUs only.
    """
    if not layer.training:
        return type(layer).forward(layer, x)
    given = x.dtype
    x = x.float() if given in (torch.bfloat16, torch.float16) else x  # autocast; as torch does
    axes = [0, *range(2, x.ndim)]
    n = processes.count * x.numel() // x.shape[1]
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean = _Sum.apply(x.sum(axes), processes) / n
    centred = x - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(axes), processes) / n
    with torch.no_grad():
        if layer.track_running_stats:
            layer.num_batches_tracked += 1
            rate = layer.momentum or 1 / float(layer.num_batches_tracked)
            layer.running_mean.lerp_(mean, rate)
            layer.running_var.lerp_(variance * n / max(n - 1, 1), rate)
    y = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        y = y * layer.weight.view(shape) + layer.bias.view(shape)
    return y.to(given)


def connect(device: str | None = None) -> Processes:
    """The processes of this run, as `accelerate launch` (or torchrun, or `launch`) started them.

    Args:
        device: "cpu" keeps all of them off the GPUs; else each takes the GPU of its number.

    Raises:
        ValueError: there are several, and accelerate is not installed.
        ProcessLost: they do not find each other.
    """
    if "RANK" not in os.environ and {"MASTER_PORT", "ACCELERATE_MIXED_PRECISION"} <= {*os.environ}:
        raise ValueError(
            "accelerate launch has started one process, not several, because it finds no GPUs: "
            "add --multi_gpu for several processes on a CPU, or leave --num_processes out."
        )
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or "RANK" not in os.environ:
        return Processes()
    try:
        from accelerate import PartialState
    except ImportError:
        raise ValueError(
            "Several processes need the package accelerate: install it with "
            "python -m pip install --editable '.[distributed]'."
        ) from None
    told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    on_cpu = choose_device("cpu" if told and device is None else device).type != "cuda"
    try:
        state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
    except RuntimeError as error:
        raise ProcessLost(f"The processes of this run do not find each other: {error}") from error
    here = Processes(state.process_index, state.num_processes, state.device, wants_shards())
    if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
        signal.signal(signal.SIGTERM, here.told_to_end)
    return here


def wants_shards() -> bool:
    """Whether this was started with `accelerate launch --use_fsdp`, of either version."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes")


def launch(
    function: Callable[..., Any],
    *arguments: Any,
    count: int = 2,
    device: str | None = None,
    sharded: bool = False,
) -> None:
    """Call `function(*arguments)` in `count` processes at once: `accelerate launch` for a notebook.

    On as many GPUs this is accelerate's `notebook_launcher`, which must come before anything that
    uses a GPU in the notebook. Else, or with the device "cpu", they share the CPU. A function of
    the notebook itself needs a system that can fork (not Windows); one of a module works
    everywhere. `sharded` cuts wide layers up among them, as `--use_fsdp` does.

    Raises:
        ValueError: count is below 1.
        ProcessRaisedException, ProcessExitedException: of torch.multiprocessing; one process
            failed or was killed, and the others were ended.
    """
    if count < 1:
        raise ValueError(f"count is {count}; a run needs at least 1 process.")
    if count == 1:
        function(*arguments)
    elif device != "cpu" and torch.cuda.device_count() >= count:
        from accelerate import notebook_launcher
        from accelerate.utils import patch_environment

        with patch_environment(accelerate_use_fsdp=str(sharded)):
            notebook_launcher(function, arguments, num_processes=count)
    else:
        import tempfile

        from torch.multiprocessing import start_processes

        with tempfile.TemporaryDirectory() as directory:
            start_processes(
                _child,
                args=(function, arguments, count, f"file://{directory}/meeting", sharded),
                nprocs=count,
                start_method="fork" if function.__module__ == "__main__" else "spawn",
            )


def _child(
    rank: int,
    function: Callable[..., Any],
    arguments: tuple,
    count: int,
    meeting: str,
    sharded: bool,
) -> None:
    # Threads do not survive a fork, and OpenMP waits for them forever; one thread needs none.
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in numbers.items()}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    os.environ["ACCELERATE_USE_FSDP"] = str(sharded)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count,
                            timeout=TIMEOUT)  # fmt: skip
    try:
        function(*arguments)
    finally:
        dist.destroy_process_group()


def disconnect() -> None:
    """Take leave of the other processes; nothing where there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()
