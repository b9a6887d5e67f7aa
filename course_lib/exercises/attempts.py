"""How an answer is tried: in a thread with a time limit, on named inputs, with a hint at the end.

A check is a function that takes an `Attempt` and asks it for values, gradients and conditions. The
first that does not hold ends it with the hint of the mistake that was recognised, or with what was
measured where none was. Nothing that an answer does (raising, looping, printing, writing to its
input) gets out of here as anything but a sentence.
"""

from __future__ import annotations

import ctypes
import functools
import io
import itertools
import linecache
import math
import random
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

SECONDS = 1.5  # for one check
PATIENCE = 8  # times as long by the clock on the wall, where other work holds up the processor
PRINTED = 300  # characters that are shown of what an answer printed

# In the messages of torch about tensors of two devices.
MIXED = ("expected device", "same device", "device type tensor to numpy")

# What any answer can do wrong; the text of each is made from what was measured.
GENERIC = (
    "not a function",
    "raised",
    "too slow",
    "wrong type",
    "wrong shape",
    "wrong dtype",
    "wrong device",
    "not finite",
    "changes its input",
    "no gradient",
    "wrong gradient",
    "wrong value",
)


@dataclass(frozen=True)
class Verdict:
    """What came of an attempt.

    Attributes:
        state: "right", "wrong" or "unattempted".
        message: what the student reads.
        hint: name of the mistake: one of the exercise's own or of `GENERIC`; "" if not wrong.
        seconds: that the check took.
    """

    state: str
    message: str
    hint: str = ""
    seconds: float = 0.0


class Stop(Exception):
    """The end of a check before its end."""

    def __init__(self, state: str, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.state, self.text, self.hint = state, text, hint


class _TimeIsUp(BaseException):
    """Raised inside an answer that takes too long; few answers catch what is no Exception."""


@dataclass
class Attempt:
    """One answer under examination.

    Attributes:
        answer: the student's function.
        hints: texts of the mistakes that the exercise knows, by name.
        seed: of the random inputs; a student sees 0, grading uses others.
        where: name of the input that was tried last.
        tried: number of comparisons made.
        answered: whether the function has returned anything yet.
        error: largest error found, as a fraction of what was allowed.
        given: dtypes of the tensors that the answer was given last.
    """

    answer: Callable[..., Any]
    hints: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    where: str = ""
    tried: int = 0
    answered: bool = False
    error: float = 0.0
    given: set[torch.dtype] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(1000 + self.seed)

    # ------------------------------------------------------------------ inputs

    def normal(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Standard normal numbers that depend on the seed alone."""
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(dtype)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Numbers between 0 and 1 that depend on the seed alone."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).to(dtype)

    # ------------------------------------------------------------------ ends

    def fail(self, hint: str, measured: str = "") -> NoReturn:
        """End with a mistake of the exercise; `measured` says what was found, before the hint."""
        raise Stop("wrong", f"{measured}\n{self.hints[hint]}".strip(), hint)

    def require(self, condition: object, hint: str, measured: str = "") -> None:
        """End with that mistake unless the condition holds."""
        self.tried += 1
        if not condition:
            self.fail(hint, measured)

    def _generic(self, hint: str, text: str) -> NoReturn:
        raise Stop("wrong", self.hints.get(hint, "") + "\n" * (hint in self.hints) + text, hint)

    def _raised(self, error: Exception) -> NoReturn:
        # That of a stub is bare; torch has some with a message.
        if isinstance(error, NotImplementedError) and not str(error):
            raise Stop("unattempted", "") from None
        self._generic("raised", _told(error))

    # ------------------------------------------------------------------ calls

    def call(self, where: str, *args: Any, **kwargs: Any) -> Any:
        """What the answer returns for copies of these arguments.

        Ends the check where it raises, or changes a tensor, list, dictionary or array it was given.
        """
        self.where = where
        self.given = {t.dtype for t in _tensors([args, kwargs])}
        given = [_copy(a) for a in args]
        named = {key: _copy(a) for key, a in kwargs.items()}
        try:
            value = self.answer(*given, **named)
        except Stop:
            raise
        except Exception as error:
            self._raised(error)
        self.answered = True
        pairs = [*zip(args, given, strict=True), *((kwargs[k], named[k]) for k in kwargs)]
        if not all(_unchanged(a, b) for a, b in pairs):
            self._generic(
                "changes its input",
                "Your function changed what it was given: whoever called it goes on with "
                "other numbers. Look for what works in place (names ending in _, +=, x[i] = ...).",
            )
        return value

    def value(
        self,
        where: str,
        args: tuple,
        right: Any,
        *,
        tolerance: float = 1e-6,
        mistakes: Mapping[str, Any] | None = None,
        tell: Callable[[], str] | None = None,
        finer: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The answer's value on these arguments, which must be the right one.

        Args:
            where: a few words that name the input.
            args, kwargs: of the answer.
            right: a function of the same arguments, or the value: tensor, number, text, tuple.
            tolerance: allowed error, on top of the same fraction of the right value.
            mistakes: by name of a hint, what a wrong answer would return: function or value, or a
                list of functions, each of which earns the hint.
            tell: what else to say of a wrong value that no mistake explains, such as what the
                answer makes of simpler input.
            finer: whether a tensor may come in a higher precision than the right one.

        Returns:
            What the answer returned.
        """
        found = self.call(where, *args, **kwargs)
        known = _lazy(mistakes, args, kwargs)
        truth = _of(right, args, kwargs)
        self._same(found, truth, tolerance, known, tell=tell, finer=finer)
        return found

    def each(
        self,
        where: str,
        args: tuple,
        right: Any,
        mistakes: Sequence[Mapping[str, Any]] = (),
        tolerance: float = 1e-6,
        finer: bool = False,
    ) -> None:
        """`value` for an answer of several results, each compared by itself.

        So a mistake in one is recognised whatever the others are. `right` is a tuple, or a function
        that returns one; `mistakes` has a mapping for each result, from the name of a hint to what
        a wrong answer would return there: function, value, or a tuple of several of them.
        """
        found, wanted = self.call(where, *args), _of(right, args, {})
        if not isinstance(found, tuple | list) or len(found) != len(wanted):
            self.same(found, wanted, tolerance)
        for i, (mine, truth) in enumerate(zip(found, wanted, strict=True)):
            self.where = f"{where}, result {i + 1} of {len(wanted)}"
            known = mistakes[i] if i < len(mistakes) else {}
            self._same(
                mine,
                truth,
                tolerance,
                [
                    (name, lambda form=form: _of(form, args, {}))
                    for name, forms in known.items()
                    for form in (forms if isinstance(forms, tuple) else (forms,))
                ],
                (found, wanted),
                finer=finer,
            )

    def same(
        self,
        found: Any,
        right: Any,
        tolerance: float = 1e-6,
        mistakes: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        """End unless `found` equals `right`; a mistake that explains the difference is named."""
        self._same(found, right, tolerance, (mistakes or {}).items())

    def _same(
        self,
        found: Any,
        right: Any,
        tolerance: float,
        mistakes: Iterable[tuple[str, Callable[[], Any]]],
        whole: tuple[Any, Any] | None = None,
        tell: Callable[[], str] | None = None,
        finer: bool = False,
    ) -> None:
        """As `same`; `whole` is all that the answer returned and should have, for their order."""
        self.tried += 1
        found = _lowered(found, right) if finer else found
        gap = difference(found, right, tolerance)
        if gap is None:
            error = largest_error(found, right)
            self.error = max(self.error, error / tolerance)
            return
        hint, text = gap
        if hint == "wrong dtype" and not self.given.isdisjoint(t.dtype for t in _tensors(right)):
            text += " Take dtype and device from the input (torch.zeros_like, x.new_tensor)."
        if near(found, right, tolerance):
            self._generic(hint, text)  # the values are right: no mistake explains them
        # A hint may rest on float32 numbers of the answer; the right value has its own bound.
        loose = tolerance if _whole(right) else max(tolerance, 1e-5)
        for name, made in mistakes:
            value = made()
            # A mistake that does not show on this input says nothing of an imprecise answer.
            if near(found, value, loose) and not near(value, right, tolerance):
                self.fail(name, text)
        if math.isfinite(tolerance) and reordered(*(whole or (found, right)), tolerance):
            self._generic("wrong value", "The results are right, but in another order.")
        if tell and hint in ("wrong value", "not finite"):
            with suppress(Exception):  # the answer may fail on what `tell` asks of it
                text = f"{text} {tell()}"
        self._generic(hint, text)

    def gradient(
        self,
        where: str,
        args: tuple,
        right: Callable[..., Tensor],
        *,
        of: tuple[int, ...] = (0,),
        tolerance: float = 1e-6,
        mistakes: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """End unless the answer has the gradient of `right` with respect to the arguments `of`.

        Of the mistakes only those are tried whose value is right. Outputs of several numbers are
        weighed with fixed random weights, so that an error in one of them cannot cancel.
        """
        self.where = where

        def gradients(function: Callable[..., Tensor], own: bool) -> list[Tensor] | None:
            given = [_copy(a) for a in args]
            for i in of:
                given[i] = given[i].double().requires_grad_()
            try:
                out = function(*given, **kwargs)
            except Exception as error:
                if not own:
                    raise
                self._raised(error)
            if not isinstance(out, Tensor) or not out.requires_grad:
                return None
            weights = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).view(out.shape)
            wanted = [given[i] for i in of]
            got = torch.autograd.grad((out.double() * weights).sum(), wanted, allow_unused=True)
            return [
                torch.zeros_like(w) if g is None else g for g, w in zip(got, wanted, strict=True)
            ]

        found, truth = gradients(self.answer, True), gradients(right, False)
        self.tried += 1
        if found is None:
            self._generic(
                "no gradient",
                "The value may be right, but no gradient comes through your function, so nothing "
                "could be trained with it. .item(), .detach(), .data, float(), numpy and "
                "torch.no_grad() cut the graph.",
            )
        gaps = [difference(f, t, tolerance) for f, t in zip(found, truth, strict=True)]
        place = next((i for i, gap in enumerate(gaps) if gap), None)
        if place is None:
            return
        of_which = f" with respect to argument {of[place] + 1}" if len(of) > 1 else ""
        for name, function in _forms(mistakes):
            if not near(function(*map(_copy, args), **kwargs), right(*map(_copy, args), **kwargs)):
                continue  # the answer's value was right, so this is not what it does
            wrong = gradients(function, False)
            if wrong and near(tuple(found), tuple(wrong)):
                self.fail(name, f"Gradient{of_which}: {gaps[place][1]}")
        self._generic(
            "wrong gradient",
            f"The gradient{of_which} is not right: {gaps[place][1]} If the value is, a part of it "
            "may be cut off from its input: .detach(), .data, torch.no_grad().",
        )

    def finite(self, where: str, *args: Any, **kwargs: Any) -> Any:
        """The answer's value on extreme input, which must not be NaN or infinite."""
        found = self.call(where, *args, **kwargs)
        self.tried += 1
        for part in found if isinstance(found, tuple | list) else (found,):
            if isinstance(part, Tensor | float) and not np.isfinite(_array(part)).all():
                self._generic("not finite", f"Your function returned {shown(part)}.")
        return found

    def any_device(self, where: str, *args: Any, **kwargs: Any) -> None:
        """End unless the answer works on the device of its input, whichever that is.

        The input goes to torch's device "meta", which every machine has; `_OneDevice` refuses to
        mix it with the CPU, as a GPU would. It has no values: what an answer that looks at them
        (`.item()`, `if`, torch.distributions) would do on a GPU cannot be told, and is not held
        against it.
        """
        self.where, self.tried = where, self.tried + 1
        moved = [a.to("meta") if isinstance(a, Tensor) else a for a in args]
        try:
            with _OneDevice():
                found = self.answer(*moved, **kwargs)
        except Exception as error:
            mixed = any(words in str(error) for words in MIXED)
        else:
            parts = found if isinstance(found, tuple | list) else (found,)
            mixed = not all(isinstance(p, Tensor) and p.device.type == "meta" for p in parts)
        if mixed:
            self._generic(
                "wrong device",
                "Your function works on the CPU alone: on a GPU it would mix tensors of two "
                "devices. Take the device from the input (torch.zeros_like, device=x.device).",
            )


class _OneDevice(TorchDispatchMode):
    """Refuses what a GPU refuses: to calculate with tensors of two devices.

    The device "meta" does not do so itself everywhere: which functions of torch take a tensor of
    the CPU beside one of "meta" (matmul, conv2d, cdist, ...) depends on the version.
    """

    # A GPU takes indices from the CPU, and copying is what these are for.
    ALLOWED = ("index", "index_put", "index_put_", "_index_put_impl_", "copy", "copy_", "_to_copy")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.__name__.split(".")[0]
        if name not in self.ALLOWED and not name.startswith("lift"):
            # A number in a tensor may lie on the CPU.
            devices = {t.device.type for t in _tensors([args, kwargs]) if t.ndim}
            if len(devices) > 1:
                raise RuntimeError(f"{name}: all tensors should be on the same device.")
        return func(*args, **kwargs)


# ---------------------------------------------------------------------------- comparison


def near(found: Any, value: Any, tolerance: float = 1e-5) -> bool:
    """Whether an answer is this value, in whatever precision it was computed."""
    return difference(found, value, tolerance, strict=False) is None


def difference(
    found: Any, right: Any, tolerance: float, strict: bool = True
) -> tuple[str, str] | None:
    """None where the values agree, else the name of the generic hint and what was measured.

    Tensors must agree in shape and, where `strict`, in dtype. A number may come as a tensor without
    dimensions. Where the right value is an `int`, a float is refused if `strict`; whoever takes
    floats too for a whole number gives it as `np.int64`.
    """
    if isinstance(right, tuple | list) and not isinstance(right, str):
        return _sequence_difference(found, right, tolerance, strict)
    if isinstance(right, Mapping):
        if not isinstance(found, Mapping):
            return "wrong type", f"Your function returned {shown(found)}; a dictionary is wanted."
        if set(found) != set(right):
            return "wrong type", f"A dictionary with other keys is wanted; got {shown(found)}."
        return _first(difference(found[k], right[k], tolerance, strict) for k in right)
    if isinstance(right, bool | str | type(None)):
        if isinstance(found, str) and isinstance(right, str):
            same = found.strip().lower() == right.strip().lower()
        else:
            same = type(found) is type(right) and found == right
        if same:
            return None
        if not isinstance(found, type(right)):
            wanted = {bool: "True or False", str: "a text"}.get(type(right), "nothing (None)")
            return "wrong type", f"Your function returned {shown(found)}; {wanted} is wanted."
        return "wrong value", f"{found!r} is not right."
    return _number_difference(found, right, tolerance, strict)


def _sequence_difference(
    found: Any, right: Any, tolerance: float, strict: bool, inner: bool = False
) -> tuple[str, str] | None:
    """As `difference`; `inner` for one of several results, which is a sequence itself."""
    if not isinstance(found, tuple | list):
        wanted = f"{len(right)} values are wanted"
        if isinstance(right, tuple) and len(right) <= 4 and not inner:
            wanted += f" (return {', '.join('abcd'[: len(right)])})"
        has = "It is" if inner else "Your function returned"
        return "wrong type", f"{has} {shown(found)}; {wanted}."
    if len(found) != len(right):
        has = "It has" if inner else "Your function returned"
        return "wrong shape", f"{has} {len(found)} values; {len(right)} are wanted."
    gaps = [
        _sequence_difference(f, r, tolerance, strict, inner=True)
        if isinstance(r, tuple | list)
        else difference(f, r, tolerance, strict)
        for f, r in zip(found, right, strict=True)
    ]
    place = next((i for i, gap in enumerate(gaps) if gap), None)
    if place is None:
        return None
    hint, text = gaps[place]
    # Among choices the place would be the answer.
    tells = len(gaps) == 1 or isinstance(right[place], bool | str)
    return hint, text if tells else f"result {place + 1} of {len(gaps)}: {text}"


def _number_difference(
    found: Any, right: Any, tolerance: float, strict: bool
) -> tuple[str, str] | None:
    if isinstance(right, Tensor) and (strict or right.ndim):
        if not isinstance(found, Tensor):
            return "wrong type", f"Your function returned {shown(found)}; a tensor is wanted."
    elif isinstance(found, bool) or not isinstance(
        found, int | float | np.integer | np.floating | Tensor
    ):
        return "wrong type", f"Your function returned {shown(found)}; a number is wanted."
    if isinstance(found, Tensor) and found.is_complex() and not torch.is_tensor(right):
        return "wrong type", "Your function returned a complex number; a real one is wanted."
    a, b = _array(found), _array(right)
    if a.shape != b.shape:
        return "wrong shape", f"Your result has shape {list(a.shape)}; {list(b.shape)} is wanted."
    if not np.isfinite(a).all() and np.isfinite(b).all():
        return "not finite", f"Your result holds {shown(found)}."
    with np.errstate(invalid="ignore"):
        error = np.where(a == b, 0.0, np.abs(a - b))
    allowed = np.where(np.isfinite(b), tolerance * (1 + np.abs(b)), 0.0)
    if _whole(right) and math.isfinite(tolerance):  # one more than a million is not a million
        allowed = np.minimum(allowed, 0.5)
    if not np.all(error <= allowed):
        return "wrong value", _off(found, right, error, allowed)
    if strict and isinstance(right, Tensor) and found.dtype != right.dtype:
        return (
            "wrong dtype",
            f"The values are right, but come as {_name(found)}; {_name(right)} is wanted.",
        )
    if strict and type(right) is int and not _whole(found):
        kind = f"tensor of {_name(found)}" if isinstance(found, Tensor) else "float"
        return (
            "wrong type",
            f"The value is right, but comes as a {kind}; a whole number (int) is wanted.",
        )
    return None


def _off(found: Any, right: Any, error: np.ndarray, allowed: np.ndarray) -> str:
    """How wrong numbers are, in words, at the place where they are wrong by most."""
    error = np.where(np.isnan(error), np.inf, error)
    if _whole(right):
        wrong = int((error > allowed).sum())
        if error.size > 1:
            return f"{wrong} of {error.size} whole numbers are not right."
        value, wanted = _array(found).item(), _array(right).item()
        if value != round(value):
            return f"{value:.6g} is not right: a whole number is wanted."
        side = "large" if value > wanted else "small"
        # By how much would give the answer away; one too many is a mistake of counting.
        return f"{value:,.0f} is too {side}{', by one' * (error.item() == 1)}."
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.nan_to_num(error / allowed, nan=0.0).argmax()
    worst, bound = error.flat[place], allowed.flat[place]
    if np.isinf(worst):
        return "an infinite value is right where yours is another."
    return f"error {worst:.2g}, allowed {bound:.1g}."


def _whole(value: Any) -> bool:
    """Whether a value is a whole number by its type, or a tensor of them."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() and not value.is_complex()
    return isinstance(value, int | np.integer)


def reordered(found: Any, right: Any, tolerance: float) -> bool:
    """Whether two or three numbers or tensors were returned in another order than the right one.

    Whole numbers, texts and True or False alone do not count: a wrong choice may look like that.
    """
    if not all(isinstance(v, tuple | list) and 1 < len(v) < 4 for v in (found, right)):
        return False
    if len(found) != len(right) or not any(_real(r) for r in right):
        return False
    return any(near(list(order), list(right), tolerance) for order in itertools.permutations(found))


def _real(value: Any) -> bool:
    """Whether a value is a real number, or a tensor of them."""
    if isinstance(value, Tensor):
        return value.is_floating_point()
    return isinstance(value, float | np.floating)


def largest_error(found: Any, right: Any) -> float:
    """Largest error of numbers that agree; 0 for what is not a number."""
    if isinstance(right, tuple | list) and not isinstance(right, str):
        return max((largest_error(f, r) for f, r in zip(found, right, strict=True)), default=0.0)
    if isinstance(right, str | bool | type(None) | Mapping):
        return 0.0
    a, b = _array(found), _array(right)
    with np.errstate(invalid="ignore"):
        error = np.where(a == b, 0.0, np.abs(a - b)) / (1 + np.abs(b))
    return float(error.max()) if error.size else 0.0


def _first(found: Iterator[tuple[str, str] | None]) -> tuple[str, str] | None:
    return next((gap for gap in found if gap), None)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        return value.detach().cpu().double().numpy()
    return np.asarray(value, dtype=np.float64)


def _name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def shown(value: Any) -> str:
    """A value in a few words, never a page of numbers."""
    if isinstance(value, Tensor):
        text = f"a tensor of shape {list(value.shape)}"
        if value.is_floating_point() and not torch.isfinite(value).all():
            kinds = [
                w for w, f in (("NaN", torch.isnan), ("infinity", torch.isinf)) if f(value).any()
            ]
            text = f"{' and '.join(kinds)} in {text}"
        return text
    if value is None:
        return "None (is a return missing?)"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 60 else text[:57] + '...'}"


def _of(right: Any, args: tuple, kwargs: Mapping[str, Any]) -> Any:
    plain = callable(right) and not isinstance(right, nn.Module)
    return right(*map(_copy, args), **kwargs) if plain else right


def _forms(mistakes: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """Name and form of each mistake; a list of functions is several forms of one."""
    for name, forms in (mistakes or {}).items():
        several = isinstance(forms, list) and all(map(callable, forms))
        yield from ((name, form) for form in (forms if several else [forms]))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, a list, a tuple or a dictionary, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _lowered(found: Any, right: Any) -> Any:
    """A tensor in the precision of the right one, if its own is higher."""
    if isinstance(found, Tensor) and _real(found) and isinstance(right, Tensor) and _real(right):
        if torch.finfo(found.dtype).bits > torch.finfo(right.dtype).bits:
            return found.to(right.dtype)
    return found


def _lazy(
    mistakes: Mapping[str, Any] | None, args: tuple, kwargs: Mapping[str, Any]
) -> list[tuple[str, Callable[[], Any]]]:
    return [(name, lambda form=form: _of(form, args, kwargs)) for name, form in _forms(mistakes)]


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(map(_copy, value))
    if isinstance(value, dict):
        return {key: _copy(v) for key, v in value.items()}
    return value


def _unchanged(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return torch.equal(torch.nan_to_num(before), torch.nan_to_num(after))
    if isinstance(before, np.ndarray):
        return np.array_equal(before, after)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(
            _unchanged(before[k], after[k]) for k in before
        )
    return True


_OWN = Path(__file__).parent
_STDLIB = sysconfig.get_path("stdlib")


def _told(error: BaseException, in_check: bool = False) -> str:
    """What was raised, and at which line of the student's code if it was raised there."""
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if _theirs(f.filename)]
    text = f"{type(error).__name__}: {error}".strip()
    text = text if len(text) < 300 else text[:297] + "..."
    if not theirs:
        odd = f"When the check used what your function returned, that raised {text}"
        return odd if in_check else f"Your function raised {text}"
    line = theirs[-1].line or linecache.getline(theirs[-1].filename, theirs[-1].lineno).strip()
    place = f"\nin its line {theirs[-1].lineno}" + (f": {line}" if line else ".")
    return f"Your function raised {text}{place}"


def _theirs(filename: str) -> bool:
    """Whether a file is the student's: no part of the course, of a package or of Python."""
    path = Path(filename)
    if path.is_relative_to(_OWN.parent) or path.is_relative_to(_STDLIB):
        return False
    return not {"site-packages", "dist-packages"} & {*path.parts}


# ---------------------------------------------------------------------------- running


class _Bounded(io.TextIOBase):
    """Keeps the beginning of what is printed and counts the rest."""

    def __init__(self) -> None:
        self.start, self.count = "", 0

    def write(self, text: str) -> int:
        self.count += len(text)
        if len(self.start) < PRINTED:
            self.start += text[: PRINTED - len(self.start)]
        return len(text)

    def flush(self) -> None: ...

    def told(self) -> str:
        if not self.start.strip():
            return ""
        rest = f" ... ({self.count:,} characters in all)" if self.count > len(self.start) else ""
        start = self.start.strip().replace("\n", "\n    ")
        return f"\n  Your function printed: {start}{rest}"


@contextmanager
def _globals_kept() -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python, and torch's dtype, as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        torch.set_default_dtype(torch.float32)  # the checks are written for it
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def run(check: Callable[[Attempt], None], attempt: Attempt) -> tuple[Stop | None, str, float]:
    """Run a check on an attempt: how it ended (None: to its end), what was printed, seconds."""
    ended: list[Stop | None] = []

    def work() -> None:
        try:
            check(attempt)
            ended.append(None)
        except Stop as stop:
            ended.append(stop)
        except _TimeIsUp:
            pass
        except SystemExit:
            ended.append(Stop("wrong", "Your function ends the whole program (exit).", "raised"))
        except BaseException as error:  # an answer's odd object may raise when it is looked at
            ended.append(Stop("wrong", _told(error, in_check=True), "raised"))

    _warm_up()
    printed, start = _Bounded(), time.perf_counter()
    with redirect_stdout(printed), redirect_stderr(printed), _globals_kept(), _quiet():
        thread = threading.Thread(target=_left_quietly, args=(work,), daemon=True)
        thread.start()
        while thread.is_alive() and not _over(thread, time.perf_counter() - start):
            thread.join(0.02)
        stopped = not thread.is_alive() or _interrupt(thread)
    if not ended:
        text = (
            f"Your function did not end within {SECONDS:g} s: is there a loop without an end, or "
        )
        text += "one over single numbers where whole tensors would do, or one that waits for what "
        text += "hardly ever happens?"
        if not stopped:
            text += " It could not be stopped either: restart the kernel before you go on."
        ended.append(Stop("wrong", text, "too slow"))
    return ended[0], printed.told(), time.perf_counter() - start


@functools.cache
def _warm_up() -> None:
    """What torch imports at its first use, which may take longer than an answer has."""
    torch.empty(1, device="meta").exp()


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: those of torch would stand beside the verdict as if the answer had printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _over(thread: threading.Thread, elapsed: float) -> bool:
    """Whether the time is up: that of the thread, or much more on the wall."""
    if elapsed < SECONDS:
        return False
    if elapsed > PATIENCE * SECONDS or not hasattr(time, "pthread_getcpuclockid"):
        return True
    try:
        used = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    except OSError:
        return False  # it ended just now
    return used > 0.6 * SECONDS


def _left_quietly(work: Callable[[], None]) -> None:
    """Do the work; a second `_TimeIsUp` may reach a slow machine's thread on its way out."""
    try:
        work()
    except _TimeIsUp:
        pass


def _interrupt(thread: threading.Thread) -> bool:
    """Raise `_TimeIsUp` in the thread, again where it is caught; whether the thread ended."""
    for trial in range(15):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_TimeIsUp)
        )
        thread.join(min(0.1, 0.02 * (trial + 1)))  # time to leave before the next one
        if not thread.is_alive():
            return True
    return False
