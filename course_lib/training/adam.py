"""Adam as torch computes it, with less Python around each update and a quicker start."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def _bare(name: str) -> Callable[..., Any]:
    """The method of torch's Adam without the decorators, whose first call imports a compiler."""
    return inspect.unwrap(getattr(torch.optim.Adam, name))


class Adam(torch.optim.Adam):
    """`torch.optim.Adam` for a loop of small updates: the same weights, bit for bit.

    Torch's own step asks at every call what cannot change between calls, and its methods import
    `torch._dynamo` first, which delays the first update. State, hooks and checkpoints are those of
    torch, and so is the step itself wherever a group is not `fused` or asks for more than the
    ordinary update.

    Args:
        params: as in torch.
        lr: learning rate, above 0.
        betas: decay of the two moments.
        fused: one kernel for the whole update; None leaves the choice to torch.
        weight_decay: at each update weights also shrink by `lr * weight_decay` times themselves,
            whatever their gradients (AdamW); 0 or above.

    Raises:
        ValueError: lr, betas or weight_decay are out of range; or a decay, and torch is too old
            for it.
        RuntimeError: `fused`, and torch has no such kernel for the parameters.

    Source: Kingma and Ba 2015, Adam, Algorithm 1; Loshchilov and Hutter 2019, Algorithm 2, for the
    decay.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        fused: bool | None = True,
        weight_decay: float = 0.0,
    ) -> None:
        if not lr > 0:
            raise ValueError(
                f"The learning rate lr must be above 0, not {lr}: nothing would be learned."
            )
        super().__init__(params, lr=lr, betas=betas, fused=fused, weight_decay=weight_decay)
        if weight_decay > 0:
            if "decoupled_weight_decay" not in self.defaults:
                raise ValueError(
                    f"torch {torch.__version__} cannot decay weights apart from the gradient in "
                    "Adam: install torch 2.7 or newer, use torch.optim.AdamW, or leave "
                    "weight_decay at 0."
                )
            for group in (self.defaults, *self.param_groups):
                group["decoupled_weight_decay"] = True

    add_param_group = _bare("add_param_group")
    state_dict = _bare("state_dict")
    load_state_dict = _bare("load_state_dict")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; what `closure` returns is returned."""
        if closure is not None or not all(map(self._is_ordinary, self.param_groups)):
            return _step(self, closure)
        for number, group in enumerate(self.param_groups):
            held = [p for p in group["params"] if p.grad is not None]
            if not held:
                continue
            moments = [self.state[p] for p in held]
            if not all(moments):
                self._init_group(group, *([] for _ in range(6)))
            steps = self._counted(number, moments)
            beta1, beta2 = group["betas"]
            update = torch._fused_adam_
            if group.get("decoupled_weight_decay"):
                update = torch._fused_adamw_
            update(
                held,
                [p.grad for p in held],
                [m["exp_avg"] for m in moments],
                [m["exp_avg_sq"] for m in moments],
                [],
                steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
                grad_scale=None,
                found_inf=None,
            )
        return None

    def _counted(self, group: int, moments: list[dict[str, Any]]) -> list[Tensor]:
        """The numbers of updates of parameters of a group, one more than before.

        Each is an entry of one vector, so that one addition serves them all.
        """
        steps = [m["step"] for m in moments]
        counts = self.__dict__.setdefault("_counts", {})  # a copy of an optimizer begins anew
        vector, entries = counts.get(group, (None, []))
        if len(entries) != len(steps) or any(map(operator.is_not, entries, steps)):
            vector = torch.stack(steps)  # the first time, or other parameters have gradients
            steps = list(vector.unbind())
            for m, step in zip(moments, steps, strict=True):
                m["step"] = step
            counts[group] = vector, steps
        vector += 1
        return steps

    def _is_ordinary(self, group: dict[str, Any]) -> bool:
        asks_more = group["amsgrad"] or group["capturable"] or group["differentiable"]
        if asks_more or not group["fused"] or hasattr(self, "grad_scale"):
            return False
        return len({(p.dtype, p.device) for p in group["params"]}) == 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; with `set_to_none=False` as torch does it."""
        if not set_to_none:
            return _zero_grad(self, set_to_none)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None
        return None


_step, _zero_grad = _bare("step"), _bare("zero_grad")
