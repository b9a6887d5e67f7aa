"""The framework of the checks: whatever an answer does, a sentence comes of it."""

from __future__ import annotations

import math
import random
import statistics
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib.exercises import Attempt, attempts, check, exercises
from course_lib.exercises.attempts import PATIENCE, SECONDS, Stop, difference, reordered, run
from course_lib.exercises.registry import COLUMNS, Exercise, exercise, folded


def double(x):
    return 2 * x


def tried(answer, seed: int = 0) -> Stop | None:
    """How a check of doubling ends."""

    def body(attempt: Attempt) -> None:
        x = attempt.normal(3, 2)
        attempt.value("three numbers", (x,), double, mistakes={"halved": lambda x: x / 2})
        attempt.gradient("three numbers", (x,), double)
        attempt.any_device("three numbers", x)
        attempt.finite("a large number", torch.tensor([1e30]))

    return run(body, Attempt(answer, {"halved": "You halve."}, seed))[0]


def hint(answer) -> str:
    stop = tried(answer)
    assert stop is not None and stop.state == "wrong"
    return stop.hint


def test_right_answers_end_without_a_word():
    for answer in (double, lambda x: x + x, lambda x: torch.stack([r * 2 for r in x])):
        assert tried(answer) is None


def test_each_kind_of_mistake_has_its_name():
    def writes(x):
        x *= 2
        return x

    def recursive(x):
        return recursive(x)

    assert hint(lambda x: x / 2) == "halved"
    assert hint(lambda x: 3 * x) == "wrong value"
    assert hint(lambda x: 2 * x[:1]) == "wrong shape"
    assert hint(lambda x: (2 * x).float()) in ("wrong dtype", "wrong value")
    assert hint(lambda x: (2 * x).detach()) == "no gradient"
    assert hint(lambda x: x.detach() + x) == "wrong gradient"
    assert hint(lambda x: (2 * x).numpy()) == "wrong type"
    assert hint(lambda x: None) == "wrong type"
    assert (
        hint(lambda x: x * torch.full((3, 2), 2.0, dtype=x.dtype, device="cpu")) == "wrong device"
    )
    assert hint(lambda x: 2 * x / (x.abs() < 1e20)) == "not finite"
    assert hint(lambda x: 1 / 0) == "raised"
    assert hint(writes) == "changes its input"
    assert hint(recursive) == "raised"
    assert hint(lambda: 1) == "raised"
    assert hint(lambda x: sys.exit(0)) == "raised"


def test_what_was_raised_is_told_with_its_line():
    def broken(x):
        y = x + 1
        return y @ y

    stop = tried(broken)
    assert "RuntimeError" in stop.text and "return y @ y" in stop.text
    assert "attempts.py" not in stop.text and "Traceback" not in stop.text


def test_an_object_that_cannot_be_looked_at():
    class Rude:
        def __repr__(self):
            raise RuntimeError("no")

    assert hint(lambda x: Rude()) == "raised"


def test_what_the_check_itself_cannot_digest_is_not_the_answers_error():
    # A check is told from an answer by the folder of its file.
    source = "def body(attempt):\n    attempt.call('it', torch.ones(1)).no_such_thing()\n"
    names = {"torch": torch}
    exec(compile(source, str(Path(attempts.__file__).parent / "lecture_99.py"), "exec"), names)
    stop, printed, _ = run(names["body"], Attempt(double))
    assert stop.text.startswith("When the check used what your function returned, that raised")
    missing = tried(lambda: 1)
    assert missing.text.startswith("Your function raised TypeError")
    assert printed == ""


def test_a_stub_is_told_from_what_torch_has_not_implemented():
    def stub(x):
        raise NotImplementedError

    assert tried(stub).state == "unattempted"
    assert hint(lambda x: (2 * x).to(torch.complex128).max().real) == "raised"


def test_warnings_do_not_look_like_output():
    def warns(x):
        warnings.warn("deprecated", stacklevel=1)
        return 2 * x

    assert run(lambda a: a.call("it", torch.ones(1)), Attempt(warns))[:2] == (None, "")


def test_time_runs_out_and_the_loop_ends():
    def endless(x):
        while True:
            pass

    before = threading.active_count()
    start = time.perf_counter()
    assert hint(endless) == "too slow"
    assert time.perf_counter() - start < (PATIENCE + 1) * SECONDS
    assert threading.active_count() == before


def test_a_loop_that_catches_everything_is_given_up():
    stop = threading.Event()

    def stubborn(x):
        while not stop.is_set():
            try:
                time.sleep(0.01)
            except BaseException:
                pass

    found = tried(stubborn)
    stop.set()
    assert found.hint == "too slow"
    assert "restart the kernel" in found.text


def test_printing_a_megabyte(capsys):
    def chatty(x):
        print("spam " * 200_000)
        return 2 * x

    made = Exercise(
        "x", "0.0", "00_x", "here", "Learnt.", {}, lambda a: a.call("it", torch.ones(1))
    )
    verdict = made.examine(chatty)
    assert verdict.state == "right"
    assert "1,000,001 characters in all" in verdict.message
    assert len(verdict.message) < 1000
    assert capsys.readouterr().out == ""


def test_global_random_numbers_stay_as_they_were():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    state = random.getstate()
    noise = [lambda: np.random.rand(), lambda: random.random()]
    assert tried(lambda x: 2 * x + 0 * torch.randn_like(x) + 0 * sum(f() for f in noise)) is None
    assert (torch.rand(1), np.random.rand()) == expected
    assert random.getstate() == state


def test_answers_that_look_at_values_are_not_said_to_be_of_the_cpu():
    assert tried(lambda x: 2 * x if x.sum().item() < 1e9 else x * 2) is None
    assert tried(lambda x: 2 * torch.distributions.Normal(x, torch.ones_like(x)).mean) is None
    ones = torch.ones(3, 2, dtype=torch.float64)
    assert hint(lambda x: x + x * (ones if x.shape == (3, 2) else 1)) == "wrong device"


W = torch.eye(3)
ON_THE_CPU = {
    "matmul": lambda x: x @ W,
    "einsum": lambda x: torch.einsum("ij,jk->ik", x, W),
    "bmm": lambda x: torch.bmm(x[None], W[None])[0],
    "conv": lambda x: torch.conv2d(x[None, None], W[None, None])[0, 0],
    "transposed conv": lambda x: torch.conv_transpose2d(x[None, None], W[None, None])[0, 0],
    "linear": lambda x: torch.nn.functional.linear(x, W),
    "cdist": lambda x: torch.cdist(x, W),
    "tensordot": lambda x: torch.tensordot(x, W, 1),
    "gather": lambda x: x.gather(0, torch.zeros(1, 3, dtype=torch.int64)),
    "stack": lambda x: torch.stack([x, W]),
    "without a graph": lambda x: torch.inference_mode()(torch.matmul)(x, W),
    "numpy": lambda x: torch.from_numpy(x.numpy() * 2),
    "nothing of the input": lambda x: W,
}
ON_ANY_DEVICE = {
    "moved": lambda x: x @ W.to(x),
    "made there": lambda x: x * x.new_tensor([1.0, 2.0, 3.0]) + torch.zeros_like(x),
    "index": lambda x: x[torch.tensor([2, 0])],
    "written by index": lambda x: x.index_put((torch.tensor([0]),), x[1]),
    "copied into": lambda x: torch.empty_like(x).copy_(W),
    "a number": lambda x: x * torch.tensor(2.0),
}


@pytest.mark.parametrize("key", [*ON_THE_CPU, *ON_ANY_DEVICE])
def test_whether_an_answer_works_on_a_gpu_does_not_depend_on_torch(key):
    answer = {**ON_THE_CPU, **ON_ANY_DEVICE}[key]
    stop = run(lambda a: a.any_device("a square", torch.ones(3, 3)), Attempt(answer))[0]
    assert (stop and stop.hint) == ("wrong device" if key in ON_THE_CPU else None)


@pytest.mark.parametrize("form", [torch.Tensor.half, torch.Tensor.double])
def test_a_higher_precision_may_be_allowed_and_a_lower_one_not(form):
    def value(attempt: Attempt) -> None:
        attempt.value("ones", (torch.ones(2),), double, finer=True)

    def each(attempt: Attempt) -> None:
        attempt.each("ones", (torch.ones(2),), lambda x: (2 * x, 3 * x), finer=True)

    for body, answer in (
        (value, lambda x: form(2 * x)),
        (each, lambda x: (2 * x, form(3 * x))),
    ):
        stop = run(body, Attempt(answer))[0]
        assert (stop and stop.hint) == ("wrong dtype" if form(W).itemsize < 4 else None)
    assert ended(lambda a: a.value("ones", (W,), double), lambda x: 2 * x.double()).hint


def test_a_line_of_python_or_of_the_course_is_not_called_the_students():
    def answer(x):
        return statistics.mean([])

    assert "return statistics.mean([])" in tried(answer).text


def test_the_default_dtype_is_that_of_the_checks_and_comes_back():
    def answer(x):
        assert torch.get_default_dtype() == torch.float32
        torch.set_default_dtype(torch.float16)
        return 2 * x

    torch.set_default_dtype(torch.float64)
    try:
        run(lambda a: a.call("one", torch.ones(1)), Attempt(answer))
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_inputs_depend_on_the_seed_alone():
    one, again, other = Attempt(double, seed=0), Attempt(double, seed=0), Attempt(double, seed=1)
    x = one.normal(4)
    assert torch.equal(x, again.normal(4))
    assert not torch.equal(x, other.normal(4))


@pytest.mark.parametrize(
    ("found", "right", "kind"),
    [
        (1.0, 1.0, None),
        (torch.tensor(1.0), 1.0, None),
        (1.0, 1, "wrong type"),
        (np.float64(1.0), 1, "wrong type"),
        (torch.tensor(1.0), 1, "wrong type"),
        ((2.0, 1), (2, 1), "wrong type"),
        (torch.tensor(1), 1, None),
        (np.int64(1), 1, None),
        (1.0, np.int64(1), None),
        (np.float64(1.0), 1.0, None),
        (True, 1.0, "wrong type"),
        ("one", 1.0, "wrong type"),
        (1.1, 1.0, "wrong value"),
        (float("nan"), 1.0, "not finite"),
        (float("nan"), float("nan"), "wrong value"),
        (float("inf"), float("inf"), None),
        (1.0, float("inf"), "wrong value"),
        (float("-inf"), float("inf"), "wrong value"),
        (torch.tensor([0.0, 1.0]), torch.tensor([-math.inf, 1.0]), "wrong value"),
        (" Yes ", "yes", None),
        ("no", "yes", "wrong value"),
        (1, "yes", "wrong type"),
        (1, True, "wrong type"),
        (True, True, None),
        ([1, 2], (1, 2), None),
        ((1, 2, 3), (1, 2), "wrong shape"),
        ({"a": 1}, {"a": 1}, None),
        ({"a": 2}, {"a": 1}, "wrong value"),
        ({"b": 1}, {"a": 1}, "wrong type"),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), "wrong dtype"),
        (torch.ones(2), torch.ones(1, 2), "wrong shape"),
        (np.ones(2), torch.ones(2), "wrong type"),
    ],
)
def test_differences(found, right, kind):
    gap = difference(found, right, 1e-6)
    assert (gap and gap[0]) == kind


@pytest.mark.parametrize(
    ("found", "right", "told"),
    [
        (7, 4, "7 is too large."),
        (3, 4, "3 is too small, by one."),
        (torch.tensor(12_000), 40_000, "12,000 is too small."),
        (0.5, 4, "0.5 is not right: a whole number is wanted."),
        (torch.tensor([1, 2, 3]), torch.tensor([1, 3, 2]), "2 of 3 whole numbers are not right."),
        ((1.0, 2.5), (1.0, 2.0), "result 2 of 2: error 0.5, allowed 3e-06."),
        ((1.0, 9), (1.0, 4), "result 2 of 2: 9 is too large."),
        ([2.5], [2.0], "error 0.5, allowed 3e-06."),
        # Among choices the place of the mistake would be the answer.
        ([True, True, True], [True, False, True], "True is not right."),
        (["a", "b"], ["a", "c"], "'b' is not right."),
        # The place that is worst in units of what is allowed there.
        (torch.tensor([1e6 + 2.0, 0.5]), torch.tensor([1e6, 0.0]), "error 0.5, allowed 1e-06."),
        (1.0, math.inf, "an infinite value is right where yours is another."),
        (3.0, (1.0, 2.0), "Your function returned float 3.0; 2 values are wanted (return a, b)."),
    ],
)
def test_what_is_told_about_a_wrong_value(found, right, told):
    assert difference(found, right, 1e-6)[1] == told


def test_a_whole_number_is_not_told_by_how_far_it_is_missed():
    _, told = difference(50, 1729, 1e-6)
    assert "1729" not in told and "1,729" not in told and "1679" not in told


@pytest.mark.parametrize(
    ("found", "right", "is_order"),
    [
        ((2.0, 1.0), (1.0, 2.0), True),
        ([torch.tensor(3.0), 7, 1.5], (1.5, 3.0, 7), True),
        ((2.0, 1.5), (1.0, 2.0), False),
        ((True, False), (False, True), False),
        (("b", "a"), ("a", "b"), False),
        ((2, 1), (1, 2), False),
        ((4.0, 3.0, 2.0, 1.0), (1.0, 2.0, 3.0, 4.0), False),
        (2.0, (1.0, 2.0), False),
    ],
)
def test_results_in_another_order_are_recognised_where_that_tells_no_choice(found, right, is_order):
    assert reordered(found, right, 1e-6) == is_order


def ended(check, answer, **hints) -> Stop:
    stop = run(check, Attempt(answer, hints))[0]
    assert stop is not None
    return stop


def test_a_mistake_of_counting_is_recognised_at_its_own_number_alone():
    def body(attempt: Attempt) -> None:
        attempt.value("a million", (10**6,), lambda n: n, mistakes={"one more": lambda n: n + 1})

    assert ended(body, lambda n: n + 1, **{"one more": "One."}).hint == "one more"
    assert ended(body, lambda n: n + 2, **{"one more": "One."}).hint == "wrong value"
    assert run(body, Attempt(int))[0] is None


def test_a_mistake_that_does_not_show_is_not_the_reason_of_an_imprecise_answer():
    def body(attempt: Attempt) -> None:
        known = {"sign lost": lambda x: x.abs()}
        attempt.value("a positive number", (torch.tensor(2.0).double(),), double, mistakes=known)

    said = ended(body, lambda x: 2 * x + 8e-6, **{"sign lost": "abs"})
    assert said.hint == "wrong value"


def test_any_numbers_are_no_results_in_another_order_where_all_are_allowed():
    def body(attempt: Attempt) -> None:
        attempt.value("shapes", (1,), (torch.ones(2), torch.ones(3)), tolerance=math.inf)

    assert "order" not in ended(body, lambda n: (torch.ones(3), torch.ones(2))).text


def test_a_gradient_is_not_explained_by_a_mistake_in_the_value():
    x = torch.linspace(1, 2, 3, dtype=torch.float64)

    def body(attempt: Attempt) -> None:
        known = {"one left out": lambda a, b: a, "cut": lambda a, b: a + b.detach()}
        attempt.gradient("both", (x, x), lambda a, b: a + b, of=(0, 1), mistakes=known)

    hints = {"one left out": "b counts", "cut": "b is cut off"}
    assert ended(body, lambda a, b: a + b.detach(), **hints).hint == "cut"


def test_what_else_is_known_of_a_wrong_value_is_said_behind_it():
    def body(attempt: Attempt) -> None:
        attempt.value("two", (2.0,), double, tell=lambda: f"Of 1 it makes {attempt.answer(1.0)}.")

    def fails_at_one(x):
        if x == 1:
            raise KeyError
        return 5.0

    assert ended(body, lambda x: 3.0 * x).text.endswith("Of 1 it makes 3.0.")
    assert ended(body, fails_at_one).text == "error 1, allowed 5e-06."


def test_a_complex_number_and_one_of_several_results_are_named_as_what_they_are():
    assert difference(torch.tensor(1j), 1.0, 1e-6)[1].startswith("Your function returned a complex")
    told = difference([(1, 2), (3,)], [(1, 2), (3, 4)], 1e-6)[1]
    assert told == "result 2 of 2: It has 1 values; 2 are wanted."


def test_a_wrong_gradient_names_its_argument():
    x = torch.linspace(1, 2, 3, dtype=torch.float64)

    def body(attempt: Attempt) -> None:
        attempt.gradient("both", (x, x), lambda a, b: a * b, of=(0, 1))

    stop = run(body, Attempt(lambda a, b: a * b.detach()))[0]
    assert stop.text.startswith("The gradient with respect to argument 2 is not right: error")


def test_names_are_found_and_guessed():
    name = next(iter(exercises()))
    assert getattr(check, name) is exercises()[name]
    assert name in dir(check)
    with pytest.raises(AttributeError, match=f"did you mean check.{name}"):
        getattr(check, name + "s")
    with pytest.raises(ValueError, match="already"):
        exercise("99.9", see="", learnt="", hints={}, lecture="x")(exercises()[name].check)


def test_a_check_prints_one_verdict(capsys):
    name = next(iter(exercises()))

    def stub(*args):
        raise NotImplementedError

    assert getattr(check, name)(stub) is None
    out = capsys.readouterr().out
    assert out.startswith(f"○ {exercises()[name].number} {name}: not attempted yet")
    assert " ".join(out.split()) == exercises()[name].examine(stub).message


def test_what_is_printed_is_broken_at_spaces_and_keeps_its_words():
    message = "✗ 1.1 it: " + 30 * "some words " + "\n  " + 20 * "and a hint " + "\n  " + 99 * "x"
    lines = folded(message).split("\n")
    assert " ".join(folded(message).split()) == " ".join(message.split())
    assert max(map(len, lines[:-1])) <= COLUMNS
    assert lines[-1] == "  " + 99 * "x"  # a path, say, stays whole
    assert [line[:2] for line in lines[1:]] == ["  "] * (len(lines) - 1)
    assert folded("one\n\ntwo") == "one\n\ntwo"
    assert folded(80 * "x" + " `one two three`.") == 80 * "x" + "\n  `one two three`."
