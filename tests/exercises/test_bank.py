"""Every exercise: right answers pass, each wrong one fails with its own hint, in time."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from course_lib.exercises import GENERIC, exercises

sys.path.insert(0, str(Path(__file__).parent))
from answers import Answers

BANK: dict[str, Answers] = {}
for _file in sorted(Path(__file__).parent.glob("bank_*.py")):
    BANK |= importlib.import_module(_file.stem).BANK

SECONDS = 2


def cases(kind: str) -> list:
    return [
        pytest.param(name, key, id=f"{name}-{key.replace(' ', '_')}")
        for name, answers in BANK.items()
        for key in getattr(answers, kind)
    ]


def test_every_exercise_has_its_bank():
    assert set(BANK) == set(exercises())


@pytest.mark.parametrize("name", BANK)
def test_a_bank_is_rich_enough(name):
    answers, exercise = BANK[name], exercises()[name]
    assert len(answers.right) >= 3
    assert len(answers.wrong) >= 5
    assert len({id(f) for f in answers.right.values()}) == len(answers.right)
    assert set(answers.wrong) <= {*exercise.hints, *GENERIC}
    assert set(exercise.hints) <= set(answers.wrong), "a hint that no wrong answer triggers"
    assert len(set(exercise.hints.values())) == len(exercise.hints)


@pytest.mark.parametrize(("name", "key"), cases("right"))
def test_right_answers_pass(name, key):
    exercise = exercises()[name]
    exercise.grade(BANK[name].right[key])
    verdict = exercise.examine(BANK[name].right[key])
    assert verdict.state == "right", verdict.message
    assert exercise.learnt in verdict.message
    assert verdict.seconds < SECONDS


@pytest.mark.parametrize(("name", "key"), cases("wrong"))
def test_wrong_answers_get_their_own_hint(name, key):
    exercise = exercises()[name]
    for seed in (0, 1):
        verdict = exercise.examine(BANK[name].wrong[key], seed)
        assert verdict.state == "wrong", f"{key} passed with seed {seed}"
        assert verdict.hint == key, f"seed {seed}: {verdict.message}"
        assert exercise.hints.get(key, "") in verdict.message.replace("\n  ", "\n")
        assert exercise.see in verdict.message
        assert verdict.seconds < SECONDS
    with pytest.raises(AssertionError):
        exercise.grade(BANK[name].wrong[key])


@pytest.mark.parametrize("name", BANK)
def test_no_answer_escapes(name):
    """What goes wrong in any exercise: raising, looping, printing, other types, not a function."""
    exercise = exercises()[name]

    def raises(*args, **kwargs):
        raise KeyError("lost")

    def nothing(*args, **kwargs):
        return None

    def chatty(*args, **kwargs):
        print("spam " * 250_000)
        raise ValueError("enough")

    def stub(*args, **kwargs):
        raise NotImplementedError

    assert exercise.examine(raises).hint == "raised"
    assert exercise.examine(nothing).state == "wrong"
    assert len(exercise.examine(chatty).message) < 2500
    assert exercise.examine(3.0).hint == "not a function"
    assert exercise.examine(stub).state == "unattempted"
    with pytest.raises(AssertionError, match="not attempted yet"):
        exercise.grade(stub)


# The limit is the framework's: one exercise of each lecture is enough, and takes long enough.
LOOPED = list({exercise.lecture: name for name, exercise in exercises().items()}.values())


@pytest.mark.parametrize("name", LOOPED)
def test_an_endless_loop_ends(name):
    def endless(*args, **kwargs):
        while True:
            pass

    verdict = exercises()[name].examine(endless)
    assert verdict.hint == "too slow"
