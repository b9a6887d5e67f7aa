"""Checks of the exercises on lecture 1, random events and variables."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib.exercises.attempts import Attempt, near
from course_lib.exercises.registry import exercise

LECTURE = "01_random_events_and_variables"


def _pair(found: Any) -> bool:
    """Whether an answer is two finite numbers."""
    return near(found, (0.0, 0.0), math.inf)


# ---------------------------------------------------------------------------- 1.1


@exercise(
    "1.1",
    see="section 1.1, equation (1.3)",
    learnt="A frequency never goes without its standard error: every Monte Carlo check of this "
    "course allows four of them, and lecture 17 asks it of scores of generators.",
    hints={
        "raised": "If this is about the mean or the deviation of a Bool: True and False have a "
        "sum, but torch gives them no mean. Turn them into numbers first (.double()).",
        "count, not a frequency": "Your first value is how often the event happened. The frequency "
        "is that as a fraction of all draws, a number between 0 and 1.",
        "whole-number division": "Your first value is 0 although the event happened: // and "
        "int() throw away everything behind the point. A single / divides.",
        "variance for error": "This is the variance of the frequency; the standard error is its "
        "square root, in the unit of the frequency itself.",
        "error of one draw": "This is the standard deviation of the indicator, that is of a single "
        "draw. That of an average of n draws is smaller, and shrinks with n.",
        "spread of the count": "This is the standard deviation of the count. The frequency is the "
        "count divided by n, and so is its standard deviation.",
        "1 - p forgotten": "This is the square root of p/n, as for rare events. An event that "
        "happens half of the time varies less than that.",
        "divided by n - 1": "You use n - 1, the divisor for a variance from a sample. Here (1.3) "
        "is asked for, with the frequency in the place of p, and it has n.",
    },
)
def event_probability(attempt: Attempt) -> None:
    """The frequency of an event and its standard error."""

    def right(happened: Tensor) -> tuple[float, float]:
        p = happened.double().mean().item()
        return p, math.sqrt(p * (1 - p) / len(happened))

    happened = attempt.uniform(120) < 0.3
    n, (p, error) = len(happened), right(happened)
    found = attempt.call("120 draws", happened)
    if _pair(found):
        measured = f"The event happened in {p:.1%} of the draws, your first value is {found[0]:.4g}"
        attempt.require(not near(found[0], n * p), "count, not a frequency", f"{measured}.")
        attempt.require(not near(found[0], 0.0), "whole-number division", f"{measured}.")
        for name, wrong in (
            ("variance for error", error**2),
            ("error of one draw", error * math.sqrt(n)),
            ("spread of the count", error * n),
            ("1 - p forgotten", math.sqrt(p / n)),
        ):  # to one per cent: some of these come with n - 1 as well
            measured = f"Your second value is {float(found[1]):.4g}."
            attempt.require(abs(found[1] - wrong) > 0.01 * wrong, name, measured)
    mistakes = {"divided by n - 1": (p, error * math.sqrt(n / (n - 1)))}
    attempt.value("120 draws", (happened,), right, mistakes=mistakes, tolerance=1e-6)
    sure = torch.ones(50, dtype=torch.bool)
    attempt.value("an event that always happened", (sure,), (1.0, 0.0), tolerance=1e-6)
    attempt.value("an event that never happened", (~sure,), (0.0, 0.0), tolerance=1e-6)
    attempt.value("a single draw", (sure[:1],), (1.0, 0.0), tolerance=1e-6)


# ---------------------------------------------------------------------------- 1.2


@exercise(
    "1.2",
    see="section 1.5, equation (1.20), and section 1.4, definition (1.16)",
    learnt="An average over batches of unequal size, with an honest error. FeatureMoments of "
    "lecture 17 gathers mean and covariance over batches in the same way, with n - 1 as well.",
    hints={
        "mean of means": "Your mean is the mean of the batches' means. A batch of 4 numbers then "
        "counts as much as one of 40; the last batch of an epoch is the usual culprit.",
        "divided by n": "You estimate the variance with the divisor n. The numbers lie closer to "
        "their own mean than to the true one: the squares are too small by (n - 1)/n on average.",
        "error of one draw": "Your second value is the standard deviation of single numbers, not "
        "of their mean.",
        "variance for error": "Your second value is a variance: that of the mean, but without the "
        "square root.",
        "average of the errors": "You average the standard errors of the batches. More batches "
        "should make the error of the whole smaller, and an average does not shrink.",
        "spread of the batch means": "You treat the batches' means as if they were the numbers. "
        "They differ in how well they are known, and there are only a few of them.",
        "within the batches only": "You take squares from the mean of each batch. How far the "
        "batches' means lie apart is part of the spread too.",
        "not finite": "A batch of a single number has no variance of its own: 0/0. Only all "
        "numbers together need to be two or more.",
        "single precision": "Your numbers are in float32, which has 7 digits: around ten million "
        "it knows whole numbers alone. torch.tensor makes float32 of Python's numbers unless told "
        "dtype=torch.float64, and .float() does it to any.",
        "cancellation": "Right on paper, but E[x²] - (E x)² subtracts two numbers of size 1e14 to "
        "get one of size 1, and float64 has 16 digits. Subtract the mean before you square.",
    },
)
def mean_and_error(attempt: Attempt) -> None:
    """Mean of all numbers in several batches, and its standard error."""

    def right(batches: list[Tensor]) -> tuple[float, float]:
        x = torch.cat(batches).double()
        return x.mean().item(), (x.std(correction=1) / math.sqrt(len(x))).item()

    # The spread differs between the batches, so that ways to average them differ as well.
    batches = [2 + k * attempt.normal(n) for k, n in ((1.0, 4), (2.0, 40), (1.5, 9))]
    mean, error = right(batches)
    n = sum(map(len, batches))
    means = torch.stack([b.mean() for b in batches])
    found = attempt.call("batches of 4, 40 and 9 numbers", batches)
    if _pair(found):
        measured = f"The mean of all 53 numbers is {mean:.4f}; you have {found[0]:.4f}."
        attempt.require(not near(found[0], means.mean().item()), "mean of means", measured)
    errors = torch.stack([b.std() / math.sqrt(len(b)) for b in batches])
    within = sum(((b - b.mean()) ** 2).sum().item() for b in batches) / (n - len(batches))
    mistakes = {
        "divided by n": (mean, error * math.sqrt((n - 1) / n)),
        "error of one draw": (mean, error * math.sqrt(n)),
        "variance for error": (mean, error**2),
        "average of the errors": (mean, errors.mean().item()),
        "within the batches only": (mean, math.sqrt(within / n)),
        "spread of the batch means": (mean, (means.std() / math.sqrt(len(means))).item()),
    }
    attempt.value("batches of 4, 40 and 9 numbers", (batches,), right, mistakes=mistakes)
    single = [attempt.normal(1), attempt.normal(6), attempt.normal(1)]
    attempt.value("two batches of a single number", (single,), right)
    far = [1e7 + attempt.normal(30), 1e7 + attempt.normal(31)]
    found, (mean, error) = attempt.call("numbers around ten million", far), right(far)
    measured = f"The standard error is {error:.5f}; your second value is {float(found[1]):.5f}."
    if not near(found, (mean, error)):
        # In float32 the mean is off as well; cancellation leaves it alone.
        attempt.require(abs(float(found[0]) - mean) < 1e-3, "single precision", measured)
        attempt.fail("cancellation", measured)
    plain = [b.float() for b in batches]
    attempt.value("float32", (plain,), right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 1.3


def _independent_log_probability(x: Tensor, p: Tensor) -> Tensor:
    return torch.where(x > 0.5, p, 1 - p).log().sum(-1)


@exercise(
    "1.3",
    see="section 1.7, definition (1.33)",
    learnt="This is the log-likelihood of independent Bernoulli pixels, in nats and summed over "
    "pixels; lecture 13's decoder computes p anew for each code and trains on this number.",
    hints={
        "averaged over pixels": "You average over the pixels. The probability of an image is a "
        "product over all of them, so its logarithm is a sum.",
        "one number for the batch": "You return one number for the whole batch: one per image is "
        "wanted, shape [batch].",
        "ink only": "You count the inked pixels only. A pixel that stays white has a probability "
        "too, and it is not 1.",
        "minus sign": "You have the negative, which is what one minimises. A log-probability is "
        "never above 0.",
        "ink and paper swapped": "You give an inked pixel the probability of a white one. p is the "
        "probability of ink, x = 1.",
        "base two": "These are bits. The course counts in nats: the natural logarithm.",
        "no logarithm": "This is the product of the probabilities itself. Its logarithm is wanted, "
        "which is a sum.",
        "product underflows": "The product of so many factors is smaller than the smallest float, "
        "so it is rounded to 0 before you take its logarithm. Go to logarithms first.",
        "clamped": "The image inks a pixel whose probability of ink is 0: it cannot occur, and the "
        "logarithm of 0 is minus infinity. A small constant inside the logarithm, a clamp, or a "
        "library that clamps for you (torch's Bernoulli and binary_cross_entropy do) hides that, "
        "and so does nan_to_num, or to skip the pixels whose p is 0 or 1.",
        "zero times minus infinity": "The logarithm of 0 is minus infinity, and 0 times infinity, "
        "or infinity minus infinity, is NaN on a computer. A pixel that is always white and is "
        "white contributes log 1 = 0 and nothing else.",
        "no gradient": "Whoever learns p by maximum likelihood needs the gradient.",
    },
)
def image_log_probability(attempt: Attempt) -> None:
    """Log-probability of binary images under independent pixels."""
    right = _independent_log_probability
    mistakes = {
        "averaged over pixels": lambda x, p: right(x, p) / x.shape[-1],
        "one number for the batch": lambda x, p: right(x, p).sum(),
        "ink only": lambda x, p: (x * p.log()).sum(-1),
        "minus sign": lambda x, p: -right(x, p),
        "ink and paper swapped": lambda x, p: right(1 - x, p),
        "base two": lambda x, p: right(x, p) / math.log(2),
        "no logarithm": lambda x, p: right(x, p).exp(),
    }
    p = 0.05 + 0.85 * attempt.uniform(6)
    x = (attempt.uniform(3, 6) < 0.5).double()
    x[0, :2] = torch.tensor([0.0, 1.0])
    found = attempt.call("three images of six pixels", x, p)
    for total in (right(x, p).mean(), right(x, p).sum()):
        if isinstance(found, Tensor):
            attempt.require(not near(found, total), "one number for the batch")
    # Loose: whoever adds 1e-6 inside the logarithm is to hear of it where it matters, below.
    attempt.value("three images of six pixels", (x, p), right, mistakes=mistakes, tolerance=1e-4)
    attempt.gradient("three images of six pixels", (x, p), right, of=(1,), tolerance=1e-4)
    large = (attempt.uniform(1, 1600) < 0.5).double(), 0.3 + 0.4 * attempt.uniform(1600)
    found = attempt.call("an image of 1,600 pixels", *large)
    if isinstance(found, Tensor) and found.shape == (1,):
        measured = f"The right value is near {right(*large)[0]:.0f}; you have {found[0]:.0f}."
        attempt.require(torch.isfinite(found).all(), "product underflows", measured)
    attempt.same(found, right(*large), 1e-5)
    double = torch.float64
    never = torch.tensor([[1.0, 0.0]], dtype=double), torch.tensor([0.0, 0.5], dtype=double)
    found = attempt.call("an image that cannot be", *never)
    if isinstance(found, Tensor) and found.shape == (1,):
        attempt.require(not found.isnan().any(), "zero times minus infinity")
        measured = f"Log-probability of an impossible image: {found[0]:.4g}."
        attempt.require(torch.isneginf(found).all(), "clamped", measured)
    edge = torch.tensor([[0.0, 1.0, 1.0]], dtype=double), torch.tensor([0, 1, 0.25], dtype=double)
    found = attempt.call("pixels that are always white or always ink", *edge)
    if isinstance(found, Tensor):
        attempt.require(not found.isnan().any(), "zero times minus infinity")
    attempt.value("pixels that are always white or always ink", edge, right)
    attempt.value("one image, float32", (x[:1].float(), p.float()), right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 1.4


def _counts(x: Tensor, edges: Tensor) -> Tensor:
    """Numbers in each bin, the last one closed on both sides."""
    lower, upper = x[:, None] >= edges[:-1], x[:, None] < edges[1:]
    upper[:, -1] |= x == edges[-1]
    return (lower & upper).sum(0).to(x.dtype)


def _clamped_counts(x: Tensor, edges: Tensor) -> Tensor:
    which = torch.bucketize(x, edges[1:-1].contiguous(), right=True)
    return torch.bincount(which, minlength=len(edges) - 1).to(x.dtype)


@exercise(
    "1.4",
    see="section 1.2, definition (1.7)",
    learnt="A histogram whose area is the share of samples inside it can be laid over a density, "
    "whatever its bins; plotting.histogram draws its bars in this way.",
    hints={
        "nothing mended": "These are broken_histogram's heights. Two things are wrong with it: "
        "look at what its outermost bars count, and at what a height times a width should be.",
        "counts": "These are counts. The area of a bar should be the share of the samples in it.",
        "not divided by N": "You divide the counts by the widths and stop there: the area is then "
        "the number of samples. It should be their share.",
        "shares, not heights": "Each of your heights is the share of the samples in the bin. A "
        "wide bin catches more samples without being any denser.",
        "outliers in the end bins": "Your end bins hold what lies beyond them too: samples outside "
        "of the edges belong to no bin.",
        "inside only": "You divide by the number of samples inside the edges. A density has mass "
        "outside of them too: with N all samples the area is less than 1, as it should be.",
        "one width for all": "You divide all counts by the width of the first bin. The bins here "
        "differ in width.",
        "white pixels lost": "Samples exactly at the last edge are in no bin of yours. In images "
        "with values in [0, 1] those are all the white pixels.",
        "bins closed on the wrong side": "A sample that lies on the edge between two bins belongs "
        "to the right one of them: a bin holds its left edge and not its right.",
        "counted twice": "A sample on the edge between two bins is counted in both of yours. Of "
        "the two edges of a bin only the left one belongs to it (and to the last bin both do).",
    },
)
def histogram_density(attempt: Attempt) -> None:
    """Heights of a histogram with unequal bins, as an estimate of the density."""

    def right(x: Tensor, edges: Tensor) -> Tensor:
        return _counts(x, edges) / (len(x) * edges.diff())

    mistakes = {
        "nothing mended": lambda x, e: _clamped_counts(x, e) / len(x),
        "counts": _counts,
        "shares, not heights": lambda x, e: _counts(x, e) / len(x),
        "outliers in the end bins": lambda x, e: _clamped_counts(x, e) / (len(x) * e.diff()),
        "not divided by N": lambda x, e: _counts(x, e) / e.diff(),
        "inside only": lambda x, e: _counts(x, e) / (_counts(x, e).sum() * e.diff()),
        "one width for all": lambda x, e: _counts(x, e) / (len(x) * (e[1] - e[0])),
    }
    outside = torch.tensor([-3.0, -2.2, 2.7, 3.1, 4.0], dtype=torch.float64)
    x = torch.cat([outside, attempt.normal(60).clamp(-1.4, 1.9)])
    edges = torch.tensor([-1.5, -1.0, -0.2, 0.1, 0.9, 2.0], dtype=torch.float64)
    attempt.value("65 samples, five bins", (x, edges), right, mistakes=mistakes)
    grey = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0], dtype=torch.float64)
    halves = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    at_edges = {
        "white pixels lost": lambda x, e: right(x, e) - torch.tensor([0, 2 / 3]),
        "bins closed on the wrong side": lambda x, e: torch.tensor([2 / 3, 1.0]),
        "counted twice": lambda x, e: torch.tensor([1.0, 4 / 3]),
    }
    attempt.value("six pixels, some of them on an edge", (grey, halves), right, mistakes=at_edges)
    attempt.value("nothing inside the edges", (outside, halves), right)
    attempt.value("one sample, float32", (x[-1:].float(), edges.float()), right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 1.5


def _shared_rows(a: Tensor, b: Tensor) -> int:
    """Number of rows of a that are rows of b too."""
    return int((a[:, None] == b[None]).all(-1).any(1).sum())


@exercise(
    "1.5",
    see="section 1.3, equation (1.15) and the list below it",
    learnt="One generator for each experiment, seeded once, before the loop: this is what "
    "course.new_generator(k) hands to every experiment of the course.",
    hints={
        "same batch again": "Every batch holds the same numbers: the generator is put back to its "
        "start before each of them.",
        "not repeatable": "Two calls with the same seed gave different numbers: your draws do not "
        "come from a generator that the seed has set.",
        "seed ignored": "Another seed gives the same numbers.",
        "global generator": "Your function seeds the generator that all of the program shares: "
        "whoever draws after calling it gets numbers that you have chosen. Draw from a "
        "torch.Generator of your own.",
        "seeds overlap": "Runs with different seeds share whole batches: seeds made from the seed "
        "and the batch's number meet again (5 + 1 = 6 + 0; with 1000 * seed + number only in "
        "longer runs). Such runs are not independent, and their spread is too small.",
        "another law": "The numbers are not standard normal.",
    },
)
def mended_noise(attempt: Attempt) -> None:
    """Batches of standard normal noise: fresh in each, repeatable by seed."""

    def drawn(where: str, batches: int, size: int, seed: int) -> Tensor:
        found = attempt.call(where, batches, size, seed)
        dtype = found.dtype if isinstance(found, Tensor) else torch.float32
        attempt.same(found, torch.zeros(batches, size, dtype=dtype), tolerance=math.inf)
        return found.detach().cpu().double()

    seed = 5 + attempt.seed
    first = drawn(f"8 batches of 40, seed {seed}", 8, 40, seed)
    different = len(first.unique(dim=0))
    measured = f"{different} of 8 batches are different."
    attempt.require(different == 8, "same batch again", measured)
    again = drawn(f"8 batches of 40, seed {seed}, for the second time", 8, 40, seed)
    attempt.require(torch.equal(first, again), "not repeatable")
    other = drawn(f"8 batches of 40, seed {seed + 1}", 8, 40, seed + 1)
    attempt.require(not torch.equal(first, other), "seed ignored")
    for n, size, a, b in (
        (8, 40, first, other),
        # As many as 1000 * seed + number has room for, and then some.
        (1100, 4, *(drawn(f"1,100 batches of 4, seed {s}", 1100, 4, s) for s in (seed, seed + 1))),
    ):
        attempt.where = f"{n:,} batches of {size}, seeds {seed} and {seed + 1}"
        shared = _shared_rows(a, b)
        measured = f"{shared} of the {n:,} batches of seed {seed} are batches of seed {seed + 1}."
        attempt.require(shared == 0, "seeds overlap", measured)
    # Runs of unequal lengths overlap where a seed is made of seed, number and length.
    short = drawn(f"8 batches of 40, seed {2 * seed}", 8, 40, 2 * seed)
    shared = _shared_rows(short, drawn(f"16 batches of 40, seed {seed}", 16, 40, seed))
    measured = f"{shared} of the 8 batches of seed {2 * seed} are among the 16 of seed {seed}."
    attempt.require(shared == 0, "seeds overlap", measured)
    # An answer that seeds them has put them where it would put them again: they are moved on.
    torch.rand(1), np.random.rand(), random.random()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1:3]
    python_state = random.getstate()
    many = drawn(f"64 batches of 64, seed {seed}", 64, 64, seed)
    kept = torch.equal(state, torch.get_rng_state())
    after = np.random.get_state()[1:3]
    kept &= np.array_equal(numpy_state[0], after[0]) and numpy_state[1] == after[1]
    kept &= python_state == random.getstate()
    random.setstate(python_state)
    attempt.require(kept, "global generator")
    # Five standard errors of the mean and of the variance of 4,096 numbers.
    mean, variance = many.mean().item(), many.var().item()
    measured = f"4,096 of them have the mean {mean:.3f} and the variance {variance:.3f}."
    attempt.require(abs(mean) < 5 / 64, "another law", measured)
    attempt.require(abs(variance - 1) < 5 * math.sqrt(2) / 64, "another law", measured)
    drawn("one batch of one", 1, 1, seed)


# ---------------------------------------------------------------------------- 1.6


def _log_terms(d: int, r: int, q: float) -> Tensor:
    """Logarithms of the probabilities that exactly 0 ... r of d pixels differ: [r + 1]."""
    k = torch.arange(r + 1, dtype=torch.float64)
    whole = torch.tensor(float(d), dtype=torch.float64)
    choose = torch.lgamma(whole + 1) - torch.lgamma(k + 1) - torch.lgamma(whole - k + 1)
    return choose + k * math.log(q) + (d - k) * math.log1p(-q)


def _log_tail(d: int, r: int, q: float) -> float:
    return min(torch.logsumexp(_log_terms(d, r, q), 0).item(), 0.0)


@exercise(
    "1.6",
    see="section 1.6, equation (1.27)",
    learnt="Sums of numbers too small for a float are taken as the logarithm of a sum of "
    "exponentials; lecture 12 integrates a likelihood over codes with the same log-sum-exp.",
    hints={
        "strictly fewer": "You sum to r - 1. 'At most r' includes r; range(r) ends before it.",
        "exactly r": "This is the probability that exactly r pixels differ, one term of the sum.",
        "q and 1 - q swapped": "You give the pixels that differ the probability 1 - q. q is the "
        "probability that a pixel differs.",
        "coefficients forgotten": "For each k you count one way. There are as many as there are "
        "choices of k pixels out of d.",
        "other tail": "This is the probability that more than r pixels differ.",
        "base ten": "This is the logarithm to base ten, as the lecture prints it. Nats are wanted.",
        "not a logarithm": "This is the probability itself. It will soon be too small for a float.",
        "raised": "If this is a 'math domain error', a sum of tiny numbers was rounded to 0, and 0 "
        "has no logarithm; if it is an OverflowError, a factor was too large for a float. Keep "
        "every factor as its logarithm, and see which of them may be added.",
        "not finite": "A power such as (1 - q)^(d - k), or a whole term, is too small for a float "
        "and was rounded to 0, whose logarithm is minus infinity. Do not leave the logarithms "
        "before you have to.",
        "single precision": "Nearly right: the first digits agree. Logarithms of factorials are in "
        "the thousands and almost cancel, and float32 keeps seven digits. Use dtype=torch.float64 "
        "from the start: torch.tensor(q) is float32 already, and .double() comes too late for it.",
    },
)
def log_chance_of_close(attempt: Attempt) -> None:
    """Log-probability that at most r of d pixels differ, each with probability q."""

    def log10(d: int, r: int, q: float) -> float:
        return _log_tail(d, r, q) / math.log(10)

    def without_coefficients(d: int, r: int, q: float) -> float:
        k = torch.arange(r + 1, dtype=torch.float64)
        return torch.logsumexp(k * math.log(q) + (d - k) * math.log1p(-q), 0).item()

    mistakes = {
        "strictly fewer": lambda d, r, q: _log_tail(d, r - 1, q),
        "exactly r": lambda d, r, q: _log_terms(d, r, q)[-1].item(),
        "q and 1 - q swapped": lambda d, r, q: _log_tail(d, r, 1 - q),
        "coefficients forgotten": without_coefficients,
        "other tail": lambda d, r, q: math.log1p(-math.exp(_log_tail(d, r, q))),
        "base ten": log10,
        "not a logarithm": lambda d, r, q: math.exp(_log_tail(d, r, q)),
    }
    q = 0.38 + 0.08 * attempt.uniform(1).item()
    where = "images of 4×4 pixels, 5 may differ"
    attempt.value(where, (16, 5, q), _log_tail, mistakes=mistakes, tolerance=1e-5)
    for grey in (0.75 + 0.1 * attempt.uniform(4)).tolist():  # one may be right by luck
        where, args = f"images of 28×28 pixels, 156 may differ, q = {grey:.3f}", (784, 156, grey)
        found, right = attempt.call(where, *args), _log_tail(*args)
        if near(found, right, 1e-4):
            error = abs(float(found) - right)
            measured = f"The value is off by {error:.1g}."
            attempt.require(error <= 1e-8 * abs(right), "single precision", measured)
        attempt.value(where, args, _log_tail, tolerance=1e-8)
    attempt.value("no pixel may differ", (3072, 0, 0.5), _log_tail, tolerance=1e-8)
    attempt.value("all pixels may differ", (784, 784, 0.5), _log_tail, tolerance=1e-8)
