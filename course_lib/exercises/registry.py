"""The exercises by name, and what a notebook calls: ``check.NAME(answer)``."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from course_lib.exercises.attempts import GENERIC, Attempt, Stop, Verdict, run

COLUMNS = 90  # of what is printed: notebooks break longer lines in the middle of words
HIDDEN_SEEDS = (1, 2)  # of the random inputs that grading uses

_EXERCISES: dict[str, Exercise] = {}


@dataclass(frozen=True)
class Exercise:
    """One exercise and its check.

    Attributes:
        name: by which a notebook calls it, and the student's function too.
        number: within the course, such as "12.2".
        lecture: file name of the lecture without its ending.
        see: where in the lecture to look.
        learnt: one sentence for the one who got it right: what it was and where it is used next.
        hints: texts of the mistakes that the check recognises, by name. The name of one of
            `GENERIC` adds a sentence to what is said about it anyway.
        check: examines an attempt.
    """

    name: str
    number: str
    lecture: str
    see: str
    learnt: str
    hints: Mapping[str, str]
    check: Callable[[Attempt], None] = field(repr=False)

    def __call__(self, answer: Callable) -> None:
        """Examine an answer and print what came of it."""
        print(folded(self.examine(answer).message))

    def grade(self, answer: Callable) -> None:
        """Examine an answer on other random inputs as well; for hidden tests.

        Raises:
            AssertionError: it is not right. The message is that of the check.
        """
        for seed in (0, *HIDDEN_SEEDS):
            verdict = self.examine(answer, seed)
            if verdict.state != "right":
                raise AssertionError(verdict.message)

    def examine(self, answer: Callable, seed: int = 0) -> Verdict:
        """What the check finds, without printing it."""
        head = f"{self.number} {self.name}"
        if not callable(answer):
            text = "Give the check your function itself, without calling it: "
            text += f"check.{self.name}({self.name})."
            return Verdict("wrong", f"✗ {head}: {text}", "not a function")
        attempt = Attempt(answer, self.hints, seed)
        stop, printed, seconds = run(self.check, attempt)
        if stop is None:
            tried = f"{attempt.tried} comparison{'s' * (attempt.tried != 1)}"
            error = f", largest error {attempt.error:.0%} of what is allowed" * (attempt.error > 0)
            text = f"✓ {head}: right in {tried}{error}.{printed}\n  {self.learnt}"
            return Verdict("right", text, "", seconds)
        if stop.state == "unattempted":
            text = f"○ {head}: not attempted yet, or not to its end. Write your code in place of "
            if attempt.answered:
                text = f"○ {head}: begun, but on {attempt.where} it still meets a "
                text += "`raise NotImplementedError`. Write the rest in place of "
            text += "`raise NotImplementedError`, run that cell, then this one again."
            return Verdict("unattempted", text, "", seconds)
        where = f", on {attempt.where}" if attempt.where else ""
        told = stop.text.replace("\n", "\n  ")
        text = f"✗ {head}{where}: {told}{printed}\n  Look at: {self.see}."
        return Verdict("wrong", text, stop.hint, seconds)


def folded(message: str) -> str:
    """A message in lines of at most `COLUMNS`, broken at spaces; what follows is indented.

    What stands between backticks stays in one line.
    """
    lines = []
    whole = re.sub("`[^`\n]*`", lambda code: code[0].replace(" ", "\xa0"), message)
    for line in whole.split("\n"):
        lead = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line.lstrip(),
            COLUMNS,
            initial_indent=lead,
            subsequent_indent=lead or "  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines).replace("\xa0", " ")


def exercise(
    number: str,
    *,
    see: str,
    learnt: str,
    hints: Mapping[str, str],
    lecture: str = "",
) -> Callable[[Callable[[Attempt], None]], Exercise]:
    """Make an exercise of the check that stands below; its name is that of the function.

    Args:
        lecture: unless given, the lecture to whose module the check belongs (its `LECTURE`).

    Raises:
        ValueError: the name or the number is taken.
    """

    def register(check: Callable[[Attempt], None]) -> Exercise:
        taken = {e.number for e in _EXERCISES.values()}
        if check.__name__ in _EXERCISES or number in taken:
            raise ValueError(f"there is an exercise {check.__name__} or {number} already.")
        where = lecture or check.__globals__["LECTURE"]
        made = Exercise(check.__name__, number, where, see, learnt, dict(hints), check)
        _EXERCISES[made.name] = made
        return made

    return register


def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the course."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name.startswith("lecture_"):
            importlib.import_module(f"course_lib.exercises.{module.name}")
    return dict(sorted(_EXERCISES.items(), key=lambda e: [int(n) for n in e[1].number.split(".")]))


class Checks:
    """The checks as attributes: ``check.NAME(answer)``."""

    def __getattr__(self, name: str) -> Exercise:
        found = exercises()
        if name in found:
            return found[name]
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean check.{near[0]}?" if near else "dir(check) lists them."
        raise AttributeError(f"there is no check {name!r}: {hint}")

    def __dir__(self) -> Iterator[str]:
        return iter(exercises())


check = Checks()

__all__ = ["GENERIC", "Checks", "Exercise", "Stop", "check", "exercise", "exercises"]
