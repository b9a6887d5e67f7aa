"""Annealed importance sampling from N(0, I): the mean of any positive function w, chain by chain.

Chains pass the laws f_b(u) ∝ N(u; 0, I) w(u)^b for b from 0 to 1. A chain's weight is the product
of w(u)^(b_t - b_{t-1}); after every factor it moves by Hamiltonian dynamics with a Metropolis test,
which leaves f_b as it is. Then the mean weight is exactly Z = E[w(u)], u ~ N(0, I).

Backwards, from exact draws of f_1, the same moves give weights whose mean is 1/Z.

Sources: Neal, Annealed Importance Sampling, 2001; Neal, MCMC Using Hamiltonian Dynamics, 2011.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from course_lib.metrics.inputs import whole
from course_lib.metrics.networks import require_finite_weights

STEEPNESS = 4.0  # the sigmoidal schedule is sigmoid(-4) .. sigmoid(4), stretched to 0 .. 1
TARGET = 0.65  # mean acceptance probability for which step sizes are learned
RATE = 0.2  # change of log(step) per move, for an acceptance that is off by 1
FIRST_STEP, LEAST_MOVES = 0.5, 100  # of the pilot, whose steps need moves to settle
LARGEST_STEP = 1.0  # on N(0, I), the widest of the laws as a rule, leapfrog diverges from 2 on
BLOCK = 32  # moves whose noise is drawn in one go

# u [images, chains, latent] -> log w(u) [images, chains] and its gradient, shaped like u.
LogWeight = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Annealing:
    """Settings of a run.

    Attributes:
        temperatures: number T of factors in a weight; with 1, nothing moves.
        chains: independent runs per image, whose weights are averaged.
        leapfrog_steps: per move; each costs one gradient of log w per chain.
        schedule: 'sigmoid' goes more slowly than 'linear' near both ends.

    Raises:
        ValueError: a count below 1, or another schedule.
    """

    temperatures: int = 1000
    chains: int = 16
    leapfrog_steps: int = 10
    schedule: Literal["sigmoid", "linear"] = "sigmoid"

    def __post_init__(self) -> None:
        for name in ("temperatures", "chains", "leapfrog_steps"):
            whole(getattr(self, name), name, 1)
        if self.schedule not in ("sigmoid", "linear"):
            raise ValueError(f"schedule is {self.schedule!r}: choose 'sigmoid' or 'linear'.")

    def betas(self) -> list[float]:
        """Exponents 0 = b_0 < ... < b_T = 1."""
        t = torch.linspace(0, 1, self.temperatures + 1, dtype=torch.float64)
        if self.schedule == "sigmoid":
            t = torch.sigmoid(STEEPNESS * (2 * t - 1))
            t = (t - t[0]) / (t[-1] - t[0])
        return t.tolist()


class _Point(NamedTuple):
    """Where all chains are, and log w and its gradient there."""

    u: Tensor
    log_w: Tensor
    slope: Tensor


class Chains:
    """Chains of several images, side by side, each image with its own noise and step sizes.

    Step sizes, one per image and temperature, are learned by a pilot run of chains/4 other chains
    and are constants for the chains that count. (A chain that adapts its step to its own past no
    longer leaves f_b as it is, and its mean weight is not Z.)

    Args:
        log_w: the function and its gradient, in float64.
        latent_dim: length of u.
        generators: one per image, on the CPU.
        device: where u lies.
    """

    def __init__(
        self,
        log_w: LogWeight,
        latent_dim: int,
        generators: Sequence[torch.Generator],
        settings: Annealing,
        device: torch.device,
    ) -> None:
        self.log_w, self.settings, self.device = log_w, settings, device
        self.latent_dim, self.generators = latent_dim, generators
        self.betas = settings.betas()
        self.steps = self._learn_steps(max(1, settings.chains // 4))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Log weights `[images, chains]` with mean weight Z, and the acceptance `[images]`."""
        return self._anneal(self._normals(self.settings.chains), self.betas, self.steps)

    def backward(self, u: Tensor) -> Tensor:
        """Log weights `[images, chains]` with mean weight 1/Z, from exact u `[images, latent]`."""
        u = u[:, None].expand(-1, self.settings.chains, -1)
        return -self._anneal(u, self.betas[::-1], self.steps[::-1])[0]

    def _anneal(self, u: Tensor, betas: list[float], steps: list[Tensor]) -> tuple[Tensor, Tensor]:
        point, noise = self._start(u), self._noise(u.shape[1])
        total, accepted = torch.zeros_like(point.log_w), []
        for t, (old, new) in enumerate(pairwise(betas)):
            total = total + abs(new - old) * point.log_w
            if t < len(steps):  # nothing is read off after the last factor
                point, acceptance = self._move(point, new, steps[t], *next(noise))
                accepted.append(acceptance)
        none = total.new_full((len(total),), math.nan)
        return total, torch.stack(accepted).mean(0) if accepted else none

    def _learn_steps(self, chains: int) -> list[Tensor]:
        """Steps `[images]` for b_1 .. b_{T-1}; log(step) follows the acceptance to its target."""
        point, noise, steps = self._start(self._normals(chains)), self._noise(chains), []
        log_step = torch.full((len(point.u),), math.log(FIRST_STEP)).to(point.u)
        for beta in self.betas[1:-1]:
            for _ in range(math.ceil(LEAST_MOVES / self.settings.temperatures)):
                point, acceptance = self._move(point, beta, log_step.exp(), *next(noise))
                log_step = log_step + RATE * (acceptance - TARGET)
                log_step = log_step.clamp(max=math.log(LARGEST_STEP))
            steps.append(log_step.exp())
        return steps

    def _start(self, u: Tensor) -> _Point:
        point = self._at(u)
        require_finite_weights(point.log_w, u)
        return point

    def _at(self, u: Tensor) -> _Point:
        return _Point(u, *self.log_w(u))

    def _move(
        self, start: _Point, beta: float, step: Tensor, first: Tensor, uniform: Tensor
    ) -> tuple[_Point, Tensor]:
        """One Hamiltonian move that leaves f_beta as it is, and its acceptance `[images]`.

        step `[images]`; first momentum `[images, chains, latent]`; uniform `[images, chains]`.
        """
        step, point = step[:, None, None], start
        momentum = first + 0.5 * step * (beta * point.slope - point.u)
        for i in range(1, self.settings.leapfrog_steps + 1):
            point = self._at(point.u + step * momentum)
            share = 1.0 if i < self.settings.leapfrog_steps else 0.5
            momentum = momentum + share * step * (beta * point.slope - point.u)
        log_ratio = self._log_joint(point, beta, momentum) - self._log_joint(start, beta, first)
        # A path that has left the range of the numbers is refused like any improbable one.
        probability = log_ratio.nan_to_num(nan=-math.inf, posinf=-math.inf).clamp(max=0.0).exp()
        accept = uniform < probability
        kept = (
            torch.where(accept.view(*accept.shape, *[1] * (new.ndim - 2)), new, old)
            for new, old in zip(point, start, strict=True)
        )
        return _Point(*kept), probability.mean(1)

    @staticmethod
    def _log_joint(point: _Point, beta: float, momentum: Tensor) -> Tensor:
        return beta * point.log_w - 0.5 * (point.u.square() + momentum.square()).sum(-1)

    def _noise(self, chains: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Momenta and uniform numbers, one pair per move."""
        while True:
            momenta = self._draw(torch.randn, BLOCK, chains, self.latent_dim)
            yield from zip(
                momenta.unbind(1), self._draw(torch.rand, BLOCK, chains).unbind(1), strict=True
            )

    def _normals(self, chains: int) -> Tensor:
        return self._draw(torch.randn, chains, self.latent_dim)

    def _draw(self, sampler: Callable[..., Tensor], *shape: int) -> Tensor:
        draws = [sampler(shape, generator=g, dtype=torch.float64) for g in self.generators]
        return torch.stack(draws).to(self.device)
