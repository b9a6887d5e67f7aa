"""Wide layers cut up among processes: FSDP, torch's `fully_shard`, layer by layer.

Of every wide weight each process keeps its share of the rows, and so of the gradient, of the
average and of an optimizer's moments. A layer asks for the other rows when it is called, and again
on the way back, and lets go of them afterwards. So a process holds

    at rest          1/n of weights, gradients, averages and moments
    in a layer       all weights of this layer too, and on the way back all of its gradient
    with a penalty   all weights, from its first backward pass to the optimizer
    in a look        all weights and averages

What is not wide, such as batch normalisation or the width of a likelihood, every process has whole,
and so it has everything for a moment in `Processes.prepare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.overrides import TorchFunctionMode

from course_lib.models.common import UpsampledConv2d

if TYPE_CHECKING:
    from course_lib.training.state import TrainingState

# Cut one by one, so that `encode` and `decode` find their weights as `forward` does: whoever calls
# such a layer makes it whole. A layer that reads the weights of another one is cut as one with it.
WIDE = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, UpsampledConv2d)

# Their names in new and in older torch.
_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def wide_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of a module that are cut up."""
    if isinstance(module, WIDE):
        yield module
    else:
        for child in module.children():
            yield from wide_layers(child)


def _layers(state: TrainingState) -> list[nn.Module]:
    modules = (*state.modules.values(), *(ema.module for ema in state.ema.values()))
    return [layer for module in modules for layer in wide_layers(module)]


def require_cuttable(state: TrainingState) -> None:
    """Refuse what `fully_shard` does not take.

    Raises:
        ValueError: weights lie in another order than torch's own.
    """
    if not all(p.is_contiguous() for layer in _layers(state) for p in layer.parameters()):
        raise ValueError(
            "Weights in the order channels_last cannot be cut up among processes: leave that out "
            "(--set channels_last=false), or launch without --use_fsdp."
        )


def _held(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


class Shards:
    """This process's share of a state; made by `Processes.prepare`, and kept as `state.shards`.

    Modules stay in place, with sharded parameters; optimizers hold this process's parts of them,
    as ordinary tensors that share their memory.

    Args:
        state: equal in all processes; it is changed.
        rank, count: this process and their number.
        answered: a context for messages, which turns their errors into a sentence.
    """

    def __init__(
        self,
        state: TrainingState,
        rank: int,
        count: int,
        answered: Callable[[], AbstractContextManager],
    ) -> None:
        self.rank, self.answered = rank, answered
        self.parts: dict[nn.Parameter, DTensor] = {}  # what an optimizer holds -> its parameter
        self.kept, self.doubt = False, 0.0
        self.layers = _layers(state)
        mesh, cut = init_device_mesh(state.device.type, (count,)), {}
        for layer in self.layers:
            before = list(layer.parameters())
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
            layer.set_custom_all_gather(_Message(self, _GATHER))
            layer.set_custom_reduce_scatter(_Message(self, _SCATTER))
            cut |= zip(before, layer.parameters(), strict=True)
        for optimizer in state.optimizers.values():
            self._hand_over(optimizer, cut)

    @torch.no_grad()
    def _hand_over(
        self, optimizer: torch.optim.Optimizer, cut: Mapping[nn.Parameter, DTensor]
    ) -> None:
        """Put parts, and the same rows of their moments, in place of an optimizer's parameters.

        Of DTensors and ordinary tensors together torch would make no joint update.
        """
        for group in optimizer.param_groups:
            for i, old in enumerate(group["params"]):
                if old not in cut:
                    continue
                new = cut[old]
                part = group["params"][i] = nn.Parameter(new.to_local().data)
                self.parts[part] = new
                moments = optimizer.state.pop(old, {})
                if moments:
                    optimizer.state[part] = {
                        key: self._rows(x, new) if _shaped(x, old) else x
                        for key, x in moments.items()
                    }
        optimizer.register_step_pre_hook(self._take)
        forget = optimizer.zero_grad

        def zero_grad(*arguments: Any, **options: Any) -> None:
            forget(*arguments, **options)
            for part in _held(optimizer):
                if part in self.parts:
                    self.parts[part].grad = None

        optimizer.zero_grad = zero_grad

    def _rows(self, x: Tensor, like: DTensor) -> Tensor:
        # Every process has all of x: no message is needed.
        mine = distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)
        return mine.to_local().clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def _take(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Give an optimizer the gradients of its parts, which are means over processes already."""
        self._let_go()
        taken = []
        for part in _held(optimizer):
            whole = self.parts.get(part)
            if whole is None or whole.grad is None:
                continue
            gradient, whole.grad = whole.grad.to_local(), None
            part.grad = gradient if part.grad is None else part.grad + gradient
            taken.append(gradient)
        if taken:
            self.doubt = self.doubt + 0 * torch.stack(torch._foreach_norm(taken)).sum()

    def checked(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of a step, NaN if an entry of this process's gradients is not finite.

        Their mean over processes then is NaN too, and all of them stop after the same update.
        """
        doubt, self.doubt = self.doubt, 0.0
        return {name: value + doubt for name, value in values.items()}

    # Differentiating twice.

    def step(self) -> AbstractContextManager:
        """While active, a gradient that is to be differentiated again leaves its layers whole."""
        return _KeepForSecond(self)

    def keep(self) -> None:
        """Leave layers whole after a backward pass, because another one goes through its graph."""
        self.kept = True
        for layer in self.layers:
            layer.set_reshard_after_backward(False)

    def _let_go(self) -> None:
        if self.kept:
            self.kept = False
            for layer in self.layers:
                layer.set_reshard_after_backward(True)
                layer.reshard()

    # Looking at all of it.

    @contextmanager
    def whole(self) -> Iterator[None]:
        """All layers whole in all processes, so that one of them can use the modules alone.

        All enter, and none waits for another to leave. Inside, call modules; their `state_dict`
        would cut them up again.
        """
        for layer in self.layers:
            layer.set_reshard_after_forward(False)
            layer.unshard()
        try:
            yield
        finally:
            for layer in self.layers:
                layer.reshard()
                layer.set_reshard_after_forward(True)

    @torch.no_grad()
    def gather(
        self, weights: Mapping[str, Tensor], optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Whole weights, and state dicts of optimizers with whole moments, in process 0 alone.

        All processes call it; the others get None. The tensors of process 0 lie on the CPU.
        """
        named = {name: self._joined(x) for name, x in weights.items()}
        states = {}
        for name, optimizer in optimizers.items():
            states[name] = optimizer.state_dict()
            for i, part in enumerate(_held(optimizer)):
                moments = states[name]["state"].get(i)
                if part in self.parts and moments:
                    states[name]["state"][i] = {
                        key: self._joined(self._placed(x, part)) if _shaped(x, part) else x
                        for key, x in moments.items()
                    }
        return (named, states) if self.rank == 0 else None

    def _placed(self, x: Tensor, part: nn.Parameter) -> DTensor:
        like = self.parts[part]
        return DTensor.from_local(
            x, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
        )

    def _joined(self, x: Tensor) -> Tensor | None:
        if isinstance(x, DTensor):
            with self.answered():
                x = x.full_tensor()
        return x.detach().cpu() if self.rank == 0 else None


def _shaped(x: Any, like: Tensor) -> bool:
    """Whether x is a moment of `like`, not a counter."""
    return isinstance(x, Tensor) and x.shape == like.shape


class _Message:
    """A message of `fully_shard`, whose failure ends the run with a sentence."""

    def __init__(self, shards: Shards, send: Callable[..., Any]) -> None:
        self.shards, self.send = shards, send

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: Any,
        op: Any = None,
        **options: Any,
    ) -> Any:
        mean = op == dist.ReduceOp.AVG  # which gloo does not know
        options |= {} if op is None else {"op": dist.ReduceOp.SUM if mean else op}
        with self.shards.answered():
            sent = self.send(output_tensor, input_tensor, group=group, **options)
        if mean:
            output_tensor /= dist.get_world_size(group)
        return sent


class _KeepForSecond(TorchFunctionMode):
    """Notices a gradient with `create_graph`.

    FSDP frees a layer's weights after its backward pass; the graph of the second one needs them.
    """

    def __init__(self, shards: Shards) -> None:
        super().__init__()
        self.shards = shards

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.autograd.grad and kwargs.get("create_graph"):
            self.shards.keep()
        return function(*args, **kwargs)
