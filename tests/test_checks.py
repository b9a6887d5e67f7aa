"""The checks of the notebooks: they pass on what is right and fail on what is wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib import check, check_true
from course_lib.checks import WIDTH

numbers = st.floats(-1e6, 1e6)


@given(numbers, st.floats(1e-9, 1e3))
def test_the_edge_of_the_tolerance(value, tolerance):
    check("1.1", value, value, tolerance=tolerance)
    with pytest.raises(AssertionError):
        check("1.1", value + 2 * tolerance + 1e-6, value, tolerance=tolerance)


def test_one_wrong_element_fails():
    right = torch.zeros(100)
    wrong = right.clone()
    wrong[77] = 0.1
    check("1.1", right, 0.0, tolerance=0.01)
    with pytest.raises(AssertionError, match=r"\(1.1\).*largest error 0.1, allowed 0.01"):
        check("1.1", wrong, 0.0, tolerance=0.01)


def test_the_error_nearest_to_its_limit_is_named(capsys):
    check("1.1", [1.0, 100.9], [1.0, 100.0], relative=0.01)
    assert "largest error 0.9, allowed 1\n" in capsys.readouterr().out
    with pytest.raises(AssertionError, match=r"largest error 0.5, allowed 0"):
        check("1.1", [0.5, 100.9], [0.0, 100.0], relative=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), [1.0, float("nan")]])
def test_not_a_number_fails(bad):
    with pytest.raises(AssertionError):
        check("1.1", bad, 1.0, tolerance=1e9)


def test_equal_infinities_agree_and_nan_is_no_truth():
    check("1.1", float("inf"), float("inf"), tolerance=1.0)
    with pytest.raises(AssertionError):
        check("1.1", float("inf"), float("-inf"), tolerance=1.0)
    with pytest.raises(AssertionError):
        check_true("1.1", torch.tensor([1.0, float("nan")]), "NaN")
    check("1.1", [torch.tensor(1.0), torch.tensor(2.0)], [1, 2], tolerance=0.0)


def test_nothing_compared_fails():
    with pytest.raises(AssertionError):
        check("1.1", [], [], tolerance=1.0)
    with pytest.raises(AssertionError):
        check_true("1.1", np.array([]), "nothing")


def test_relative_and_standard_error():
    check("1.1", 101.0, 100.0, relative=0.011)
    check("1.1", 1.0, 1.39, standard_error=0.1)
    with pytest.raises(AssertionError):
        check("1.1", 102.0, 100.0, relative=0.011)
    with pytest.raises(AssertionError):
        check("1.1", 1.0, 1.41, standard_error=0.1)


def test_exactly_one_tolerance():
    with pytest.raises(ValueError, match="exactly one"):
        check("1.1", 1.0, 1.0)
    with pytest.raises(ValueError, match="tolerance and relative"):
        check("1.1", 1.0, 1.0, tolerance=1.0, relative=1.0)
    with pytest.raises(ValueError, match="do not match"):
        check("1.1", [1.0, 2.0], [1.0, 2.0, 3.0], tolerance=1.0)


def test_the_line_names_the_equation(capsys):
    check("4.3", np.float32(2.0), torch.tensor(2.0), tolerance=0.1, what="two is two")
    check_true("4.4", torch.tensor([True, True]), "both hold")
    assert capsys.readouterr().out.splitlines() == [
        "✓ (4.3) two is two: largest error 0, allowed 0.1",
        "✓ (4.4) both hold",
    ]


def test_check_true_fails_on_one_false():
    with pytest.raises(AssertionError, match=r"\(4\.4\).*both hold"):
        check_true("4.4", np.array([True, False]), "both hold")


def test_a_long_line_is_folded_at_spaces_so_that_numbers_stay_whole(capsys):
    what = "a description of seven words or more, " * 3
    check("4.3", 1.0, 1.0, tolerance=1e-12, what=what.strip(", "))
    check_true("4.4", True, "x" * 100)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= WIDTH for line in lines[:2])
    assert lines[1].startswith("    ") and lines[1].endswith("largest error 0, allowed 1e-12")
    assert "x" * 100 in lines[-1]


def test_what_is_infinitely_wrong_is_wrong():
    for found, truth in ((1.0, math.inf), (-math.inf, math.inf)):
        with pytest.raises(AssertionError), np.errstate(invalid="ignore"):
            check("1", found, truth, relative=1e-3)
    check("1", math.inf, math.inf, relative=1e-3)


def test_complex_numbers_are_not_compared_by_their_real_parts():
    for value in (torch.tensor([1 + 2j]), np.array([1 + 2j])):
        with pytest.raises(ValueError, match="real and imaginary"):
            check("1", value, value + 3j, tolerance=1e-9)
