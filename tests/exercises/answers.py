"""The form of a bank of answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Answers:
    """Answers to one exercise.

    Attributes:
        right: at least three that differ in the way they are written, by a word for the way.
        wrong: at least five that students write, by the name of the hint that each must trigger.
    """

    right: Mapping[str, Callable]
    wrong: Mapping[str, Callable]
