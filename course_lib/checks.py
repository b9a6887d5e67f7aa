"""Checks that a notebook cell runs beside the equation it demonstrates."""

from __future__ import annotations

import textwrap

import numpy as np
import torch

WIDTH = 88  # characters of a line that fit into a cell of JupyterLab on a small screen


def _array(value: object) -> np.ndarray:
    if isinstance(value, list | tuple):
        value = [_array(part) for part in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value if value.is_complex() else value.double()).numpy()
    value = np.asarray(value)
    if np.iscomplexobj(value):
        raise ValueError("check compares real numbers: compare real and imaginary parts apart.")
    return value.astype(np.float64)


def _print(line: str) -> None:
    """Print, folded at spaces: JupyterLab folds anywhere, and so in the middle of numbers."""
    print(
        textwrap.fill(
            line,
            WIDTH,
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def check(
    tag: str,
    measured: object,
    expected: object,
    *,
    tolerance: float | None = None,
    relative: float | None = None,
    standard_error: float | None = None,
    what: str = "",
) -> None:
    """Assert that ``measured`` equals ``expected`` and print the error found.

    Args:
        tag: number of the equation, for example ``"4.3"``.
        measured: number, array or tensor; compared elementwise with ``expected`` (broadcast).
        expected: what the equation says.
        tolerance: largest absolute error allowed.
        relative: largest error allowed as a fraction of ``|expected|``.
        standard_error: of a Monte Carlo estimate; four of them are allowed. A right formula
            misses that by chance about once in 16,000 draws, and the draws are seeded.
        what: a few words that say what was compared.

    Raises:
        ValueError: not exactly one kind of tolerance was given, or the shapes do not broadcast.
        AssertionError: some element differs by more than allowed, or is NaN.
    """
    kinds = {"tolerance": tolerance, "relative": relative, "standard_error": standard_error}
    given = [name for name, value in kinds.items() if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"check({tag!r}) needs exactly one of tolerance, relative and standard_error, "
            f"and got {' and '.join(given) or 'none'}."
        )
    found, truth = _array(measured), _array(expected)
    try:
        with np.errstate(invalid="ignore"):
            error = np.where(found == truth, 0.0, np.abs(found - truth))
    except ValueError:
        raise ValueError(
            f"check({tag!r}) compares shapes {found.shape} and {truth.shape}, which do not match."
        ) from None
    allowed = {
        "tolerance": lambda: _array(tolerance),
        "relative": lambda: _array(relative) * np.abs(truth),
        "standard_error": lambda: 4 * _array(standard_error),
    }[given[0]]()
    allowed = np.broadcast_to(allowed, error.shape)
    if error.size == 0:
        raise AssertionError(f"✗ ({tag}) nothing was compared: the arrays are empty.")
    # Of several errors, the one nearest to its own limit is named. A NaN is beyond any limit.
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(error > 0, error / allowed, 0.0)
    worst = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, share)), error.shape)
    text = f"largest error {error[worst]:.2g}, allowed {allowed[worst]:.2g}"
    if given[0] == "standard_error":
        text += " (4 standard errors)"
    # `not <=` instead of `>`, so that a NaN fails. Equal infinities have an error of 0.
    if not np.all((error <= allowed) & np.isfinite(error)):
        raise AssertionError(
            f"✗ ({tag}) {what + ': ' if what else ''}measured {found.reshape(-1)[:4]}, "
            f"expected {truth.reshape(-1)[:4]}; {text}."
        )
    _print(f"✓ ({tag}) {what + ': ' if what else ''}{text}")


def check_true(tag: str, condition: object, what: str) -> None:
    """Assert a condition that is not an equality and print the claim.

    Args:
        tag: number of the equation or claim, for example ``"4.3"``.
        condition: a truth value; an array or tensor must be true everywhere and not empty.
        what: the claim in words, printed behind the tick.

    Raises:
        AssertionError: the condition is false somewhere.
    """
    if isinstance(condition, torch.Tensor):
        condition = condition.detach().cpu().numpy()
    raw = np.asarray(condition)
    values = raw.astype(bool)
    if raw.dtype.kind == "f":
        values &= ~np.isnan(raw)  # NaN counts as true in Python, and is no evidence
    if values.size == 0 or not values.all():
        raise AssertionError(f"✗ ({tag}) this does not hold: {what}.")
    _print(f"✓ ({tag}) {what}")
