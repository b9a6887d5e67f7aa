"""Checks of the exercises on lecture 19, the full run of a VAE."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from course_lib import losses
from course_lib.exercises.attempts import Attempt, difference, near
from course_lib.exercises.registry import exercise

LECTURE = "19_full_run_vae"


def _log_mean(log_w: Tensor, axis: int) -> Tensor:
    return log_w.logsumexp(axis) - math.log(log_w.shape[axis])


def _require_weights(attempt: Attempt, where: str, *args: Any) -> None:
    """Tell a logarithm of negative log weights, on an input where no weight rounds to 0."""
    found = attempt.call(where, *args)
    values = found if isinstance(found, tuple | list) else (found,)
    holes = any(torch.as_tensor(x).isnan().any() for x in values if isinstance(x, Tensor | float))
    attempt.require(not holes, "logarithm of log weights")


# ---------------------------------------------------------------------------- 19.1


@exercise(
    "19.1",
    see="section 19.1, equations (19.2) and (19.5)",
    learnt="This is the part of a printed figure that no model can save. Section 19.1 draws it "
    "beside 86.76, and section 19.9 finds it again in what the model calls improbable.",
    hints={
        "mean over pixels": "You average over pixels. The entropies of independent pixels add up: "
        "sum over pixels, average over images.",
        "summed over images": "Your number grows with the number of images: the average is wanted.",
        "one side only": "You count one side of the coin, g or 1 - g. It has two, and each needs "
        "its nats.",
        "bits for nats": "Your first number is in bits. Nats are wanted there: natural logarithms.",
        "pixels forgotten": "Your second number is the bits of an image. It must be divided by the "
        "number of pixels.",
        "multiplied by log 2": "You multiply by log 2. A bit is log 2 = 0.69 nats, so a figure in "
        "bits is the larger one.",
        "averaged over channels": "You average over the channels. In a colour image each channel "
        "of each pixel is tossed: sum over them too.",
        "channels not counted": "You divide by height times width. A colour image has as many "
        "numbers for each place as it has channels.",
        "nats per dimension": "Your second number is in nats per pixel. A bit is log 2 nats.",
        "divided by the images": "Your second number is divided by the number of images once more. "
        "The average over images is in the nats already.",
        "a small number added": "Slightly off where a pixel is 0 or 1, as by a small number that "
        "is added to the probability, or a clamp. No such constant is needed: torch.special knows "
        "that 0 times the logarithm of 0 is 0 here.",
        "eight bits added": "You add 8. That belongs to pixels of 256 levels, scaled to [0, 1] and "
        "given a density; a binary pixel has no such constant.",
        "minus sign": "An entropy is never below zero.",
        "not finite": "A black or a white pixel has the entropy 0, but 0 times the logarithm of 0 "
        "is NaN on a computer. torch.special knows better.",
    },
)
def entropy_of_tosses(attempt: Attempt) -> None:
    """Entropy of the binarisation, nats per image and bits per dimension."""

    def entropies(grey: Tensor) -> Tensor:
        h = torch.special.entr(grey) + torch.special.entr(1 - grey)
        return h.flatten(1).sum(1).mean()

    def bits(grey: Tensor) -> Tensor:
        return losses.bits_per_dim(entropies(grey), grey[0].numel())

    def right(grey: Tensor) -> tuple[float, float]:
        return float(entropies(grey)), float(bits(grey))

    nats = {
        "mean over pixels": lambda g: entropies(g) / g[0].numel(),
        "summed over images": lambda g: entropies(g) * len(g),
        "one side only": (
            lambda g: torch.special.entr(g).flatten(1).sum(1).mean(),
            lambda g: torch.special.entr(1 - g).flatten(1).sum(1).mean(),
        ),
        "averaged over channels": lambda g: entropies(g) / g.shape[1],
        "bits for nats": lambda g: entropies(g) / math.log(2),
        "minus sign": lambda g: -entropies(g),
    }
    per_dimension = {
        "pixels forgotten": lambda g: entropies(g) / math.log(2),
        "multiplied by log 2": lambda g: entropies(g) * math.log(2) / g[0].numel(),
        "eight bits added": lambda g: bits(g) + 8,
        "nats per dimension": lambda g: entropies(g) / g[0].numel(),
        "divided by the images": lambda g: bits(g) / len(g),
        "channels not counted": lambda g: bits(g) * g.shape[1],
    }
    grey = attempt.uniform(5, 1, 3, 4)
    attempt.each("five grey images of 12 pixels", (grey,), right, (nats, per_dimension))
    colour = attempt.uniform(4, 3, 2, 3)
    attempt.each("four images of three channels", (colour,), right, (nats, per_dimension))
    # Whoever clamps to 1e-7 is off by 2e-6 for each pixel of 0 or 1.
    black = grey.masked_fill(grey < 0.3, 0.0).masked_fill(grey > 0.8, 1.0)
    where = "images with black and white pixels"
    found, wanted = attempt.call(where, black), right(black)
    if near(found, wanted, 1e-2) and not near(found, wanted, 1e-4):
        attempt.fail("a small number added", difference(found, wanted, 1e-4)[1])
    for name, x in ((where, black), ("float32", black[:1].float())):
        attempt.each(name, (x,), right, (nats, per_dimension), tolerance=1e-4)


# ---------------------------------------------------------------------------- 19.2


@exercise(
    "19.2",
    see="section 19.3, (def 19.13), and section 19.4, equation (19.22)",
    learnt="course_lib.metrics.importance_weighted_bound does this for a network; where a card of "
    "section 19.8 has one seed, the number behind ± is this standard error.",
    hints={
        "mean of logs": "You average logarithms over the draws. That is the ELBO, whatever k is: "
        "the mean over draws must be taken before the logarithm.",
        "log k forgotten": "You add the weights up. Their mean is wanted: log k is missing.",
        "axes exchanged": "Rows are images, columns are draws; you average over the images inside "
        "the logarithm.",
        "one mean for all": "You take one logarithm of all weights together. That is the log of a "
        "mean of p(x) over images; wanted is the mean over images of log p(x).",
        "minus sign": "This is the negative. Papers print it so; here log p(x) itself is wanted.",
        "spread for error": "Your second number is the standard deviation over images. The "
        "standard error of their mean is smaller.",
        "root forgotten": "You divide the deviation by the number of images. A standard error "
        "falls with its root.",
        "draws for images": "You divide by the root of the number of draws. What varies is the "
        "image, so the images count.",
        "divisor n": "Your standard deviation has the divisor n; with n - 1 its square is unbiased "
        "(numpy's default is n, torch's is n - 1).",
        "draws counted as images": "Your standard error divides by the number of all draws. The "
        "draws of one image are not further images: what varies is the image.",
        "logarithm of log weights": "The result holds NaN where no weight rounds to 0, as where "
        "the logarithm is taken of the log weights themselves, or of their mean: they are "
        "negative. The mean is one of weights: exponentiate first, safely.",
        "not finite": "Weights such as exp(-2000) round to 0, and the logarithm of 0 is minus "
        "infinity. Take the largest out first, or let torch.logsumexp do it.",
    },
)
def log_likelihood_estimate(attempt: Attempt) -> None:
    """Mean over images of the log of the mean weight, and its standard error."""

    def values(log_w: Tensor) -> Tensor:
        return _log_mean(log_w, 1)

    def right(log_w: Tensor) -> tuple[float, float]:
        n = len(log_w)
        return float(values(log_w).mean()), float(values(log_w).std()) / math.sqrt(n)

    means = {
        "mean of logs": lambda w: w.mean(),
        "log k forgotten": lambda w: w.logsumexp(1).mean(),
        "axes exchanged": lambda w: _log_mean(w, 0).mean(),
        "one mean for all": lambda w: _log_mean(w.flatten(), 0),
        "minus sign": lambda w: -values(w).mean(),
    }
    errors = {
        "spread for error": lambda w: values(w).std(),
        "root forgotten": lambda w: values(w).std() / len(w),
        "draws for images": lambda w: values(w).std() / math.sqrt(w.shape[1]),
        "divisor n": lambda w: values(w).std(correction=0) / math.sqrt(len(w)),
        "draws counted as images": lambda w: values(w).std() / math.sqrt(w.numel()),
    }
    log_w = -9 + 2 * attempt.normal(6, 1) + 1.5 * attempt.normal(6, 4)
    _require_weights(attempt, "six images, four draws", log_w)
    for where, w, tolerance in (
        ("six images, four draws", log_w, 1e-6),
        ("three images, fifty draws", 3 * attempt.normal(3, 50), 1e-6),
        ("log weights around -2000", log_w - 2000, 1e-6),
        ("images from -2000 to 0", log_w + torch.linspace(-2000, 0, 6).double()[:, None], 1e-6),
        ("float32", (log_w - 80).float(), 1e-5),
    ):
        attempt.each(where, (w,), right, (means, errors), tolerance=tolerance)


# ---------------------------------------------------------------------------- 19.3


@exercise(
    "19.3",
    see="section 19.4, equations (19.20) and (19.21), and section 19.3, (19.16)",
    learnt="Every image says itself how many of its draws count and how many nats are probably "
    "missing; section 19.4 prints the second as the column 'still missing'.",
    hints={
        "not normalised": "Your weights do not sum to 1, so the result depends on their scale: "
        "log weights shifted by a constant must give the same.",
        "square forgotten": "The weights of an image sum to 1, and so does your denominator: a "
        "square is missing.",
        "sum of squares": "This is the sum of the squared weights. It is 1 when one draw counts "
        "and 1/k when all do; the effective number is the other way round.",
        "share of the draws": "This is the share of the draws that count. Their number is wanted.",
        "log weights as weights": "You normalise the logarithms. Weights are their exponentials.",
        "axes exchanged": "You normalise over images. A row is an image, with weights of its own.",
        "one over k forgotten": "The first number is right; the second lacks the 1/k: k draws that "
        "count alike leave nothing to be gained.",
        "half forgotten": "The first number is right; the second is twice too large: the bias is "
        "half of the variance.",
        "k forgotten": "The first number is right. The second is k times too large: k draws leave "
        "a k-th of what one leaves.",
        "minus sign": "The first number is right. What is missing is given as a positive number: "
        "the bound lies below log p(x).",
        "not finite": "The largest weight overflows, or all of them round to 0. A softmax takes "
        "the largest out first.",
    },
)
def effective_draws(attempt: Attempt) -> None:
    """Effective sample size and predicted gap of each image."""

    def ess(log_w: Tensor, axis: int = 1) -> Tensor:
        return 1 / log_w.softmax(axis).square().sum(1)

    def right(log_w: Tensor) -> tuple[Tensor, Tensor]:
        return ess(log_w), 0.5 * (1 / ess(log_w) - 1 / log_w.shape[1])

    draws = {
        "not normalised": lambda w: 1 / w.exp().square().sum(1),
        "square forgotten": lambda w: 1 / w.softmax(1).sum(1),
        "sum of squares": lambda w: 1 / ess(w),
        "share of the draws": lambda w: ess(w) / w.shape[1],
        "log weights as weights": lambda w: w.sum(1) ** 2 / w.square().sum(1),
        "axes exchanged": lambda w: ess(w, 0),
    }
    gaps = {
        "one over k forgotten": lambda w: 0.5 / ess(w),
        "half forgotten": lambda w: 1 / ess(w) - 1 / w.shape[1],
        "k forgotten": (
            lambda w: 0.5 * (w.shape[1] / ess(w) - 1),
            lambda w: w.shape[1] / ess(w) - 1,
        ),
        "minus sign": lambda w: -right(w)[1],
    }
    log_w = 0.7 + attempt.normal(5, 7)
    equal = torch.full((1, 4), -90.0)
    for where, w, tolerance in (
        ("five images, seven draws", log_w, 1e-6),
        ("log weights around -1500", 3 * attempt.normal(2, 20) - 1500, 1e-6),
        ("one image, four equal draws, float32", equal, 1e-5),
    ):
        attempt.each(where, (w,), right, (draws, gaps), tolerance=tolerance, finer=True)


# ---------------------------------------------------------------------------- 19.4


@exercise(
    "19.4",
    see="section 19.5, (def 19.24)",
    learnt="This is the number in brackets in 86.76 (19). Section 19.5 shows why a unit below the "
    "threshold can be deleted, and that after a short run the count says little.",
    hints={
        "width counted": "You add the width of the posterior. A unit that ignores the image has "
        "the full width 1, so it would count as the most active of all.",
        "square for variance": "This is the mean square of mu. A unit with the same mean for every "
        "image tells nothing about the image, however far from 0 that mean is.",
        "deviation for variance": "These are standard deviations. The threshold is for variances: "
        "a deviation of 0.05 is a variance of 0.0025.",
        "variance over units": "You take the variance over the units of one image. It is over the "
        "images, for each unit.",
        "divisor n": "Your variance has the divisor n; n - 1 is wanted.",
        "price for variance": "This is the KL of each unit. The paper's count looks at the mean "
        "alone: a variance over images.",
        "inactive counted": "The variances are right, but you count the units that are not active.",
        "threshold on deviations": "The variances are right. So many units have a standard "
        "deviation above 0.01, and the threshold is for the variance.",
    },
)
def burda_active_units(attempt: Attempt) -> None:
    """Variance of each posterior mean over images, and how many exceed 0.01."""

    def right(mu: Tensor, log_var: Tensor) -> tuple[Tensor, int]:
        return mu.var(0), int((mu.var(0) > 0.01).sum())

    variances = {
        "width counted": lambda m, v: m.var(0) + v.exp().mean(0),
        "square for variance": lambda m, v: m.square().mean(0),
        "deviation for variance": lambda m, v: m.std(0),
        "variance over units": lambda m, v: m.var(1),
        "divisor n": lambda m, v: m.var(0, correction=0),
        "price for variance": lambda m, v: 0.5 * (m.square() + v.exp() - 1 - v).mean(0),
    }
    counts = {
        "inactive counted": lambda m, v: int((m.var(0) <= 0.01).sum()),
        "threshold on deviations": lambda m, v: int((m.std(0) > 0.01).sum()),
    }
    # Variances of exactly scale²: one between 0.01 and 0.1, so that a wrong threshold shows.
    scale = torch.tensor([1.0, 0.4, 0.06, 0.0, 0.2, 0.02, 0.7, 0.8], dtype=torch.float64)
    offset = torch.tensor([0.3, -1.0, 0.2, 2.0, 0.0, 0.0, 0.1, 0.4], dtype=torch.float64)
    noise = attempt.normal(9, 8)
    mu = offset + scale * (noise - noise.mean(0)) / noise.std(0)
    args = mu, -2 * scale.sqrt() + 0.1 * attempt.normal(9, 8)
    single = tuple(a.float() for a in args)
    for where, given, tolerance in (
        ("nine images, eight units", args, 1e-6),
        ("float32", single, 1e-5),
    ):
        attempt.each(where, given, right, (variances, counts), tolerance=tolerance)


# ---------------------------------------------------------------------------- 19.5


@exercise(
    "19.5",
    see="section 19.3, equations (19.14a) and (19.14)",
    learnt="course_lib.metrics adds up in this way, so that its memory does not grow with the "
    "number of draws, and 5,000 of them give the same bound as in one piece.",
    hints={
        "mean of bounds": "You average the bounds of the chunks. By (19.14) that is a bound with "
        "as many draws as one chunk has, however many chunks there are: the broken one.",
        "weighted mean of bounds": "You weigh the bounds of the chunks by their sizes. It is still "
        "a mean of logarithms where the logarithm of a mean is wanted.",
        "chunks weighted alike": "You average the mean weights of the chunks, each counted once. "
        "The chunks differ in size: every draw counts once.",
        "number of chunks": "You divide by the number of chunks. Divide by the number of draws.",
        "number of images": "You divide by the number of images. The draws are along the first "
        "axis.",
        "size of the first chunk": "You take every chunk to be as large as the first. They "
        "differ in size: count the draws of each.",
        "log k forgotten": "This is the logarithm of a sum of weights, not of their mean.",
        "last chunk only": "This is the bound of the last chunk: what came before it is lost.",
        "mean of logs": "This is the mean of all log weights: the ELBO.",
        "one weight too many": "Your sum begins at log weight 0, a weight of 1 that nobody drew. "
        "The logarithm of an empty sum is minus infinity.",
        "logarithm of log weights": "The result holds NaN where no weight rounds to 0, as where "
        "the logarithm is taken of the log weights themselves, or of their mean: they are "
        "negative. The mean is one of weights: exponentiate first, safely.",
        "not finite": "Weights such as exp(-2000) round to 0. Keep logarithms, and add weights "
        "with logsumexp or logaddexp.",
    },
)
def streamed_bound(attempt: Attempt) -> None:
    """log of the mean weight, from chunks of log weights."""

    def right(chunks: list[Tensor]) -> Tensor:
        return _log_mean(torch.cat(chunks), 0)

    def bounds(chunks: list[Tensor]) -> Tensor:
        return torch.stack([_log_mean(c, 0) for c in chunks])

    def shares(chunks: list[Tensor]) -> Tensor:
        sizes = chunks[0].new_tensor([len(c) for c in chunks])
        return (sizes / sizes.sum())[:, None]

    mistakes = {
        "mean of bounds": lambda c: bounds(c).mean(0),
        "weighted mean of bounds": lambda c: (shares(c) * bounds(c)).sum(0),
        "chunks weighted alike": lambda c: _log_mean(bounds(c), 0),
        "number of chunks": lambda c: torch.cat(c).logsumexp(0) - math.log(len(c)),
        "number of images": lambda c: torch.cat(c).logsumexp(0) - math.log(c[0].shape[1]),
        "size of the first chunk": lambda c: (
            torch.cat(c).logsumexp(0) - math.log(len(c) * len(c[0]))
        ),
        "log k forgotten": lambda c: torch.cat(c).logsumexp(0),
        "last chunk only": lambda c: bounds(c)[-1],
        "mean of logs": lambda c: torch.cat(c).mean(0),
        "one weight too many": lambda c: (
            torch.cat([*c, torch.zeros_like(c[0][:1])]).logsumexp(0) - math.log(sum(map(len, c)))
        ),
    }
    chunks = [2 * attempt.normal(k, 5) - 5 for k in (4, 1, 6)]
    where = "chunks of 4, 1 and 6 draws, five images"
    _require_weights(attempt, where, chunks)
    attempt.value(where, (chunks,), right, mistakes=mistakes)
    attempt.value("one chunk", (chunks[2:],), right, mistakes=mistakes)
    low = [c - 2000 for c in chunks]
    attempt.value("log weights around -2000", (low,), right, mistakes=mistakes)
    levels = torch.tensor([-2000.0, -900.0, 0.0, 0.0, -5.0], dtype=torch.float64)
    apart = [c + levels for c in chunks]
    where = "images at -2000, -900, -5 and 0"
    attempt.value(where, (apart,), right, mistakes=mistakes)
    single = [c[:, :1].float() for c in chunks]
    where = "one image, float32"
    attempt.value(where, (single,), right, tolerance=1e-5, mistakes=mistakes, finer=True)


# ---------------------------------------------------------------------------- 19.6


@exercise(
    "19.6",
    see="section 19.3, equation (19.16)",
    learnt="What falls like 1/k can be extrapolated away. It is an estimate and no bound any more: "
    "print the bound beside it, as section 19.4 prints what is missing.",
    hints={
        "plain bound": "This is the bound with all k draws: nothing has been removed from it. (The "
        "k bounds are averaged as they are, not inside another logarithm.)",
        "exchanged": "You extrapolate towards fewer draws: the bias has doubled instead of going. "
        "The bound with more draws needs the larger factor.",
        "log k for k - 1": "With one draw left out there are k - 1 weights to average.",
        "one left out only": "You leave out one particular draw. Leave out each in turn and "
        "average the results: then the order of the draws does not matter.",
        "mean of logs": "You leave draws out of a mean of log weights. That mean has no bias of "
        "order 1/k, and it is the ELBO.",
        "axes exchanged": "Rows are draws, columns are images; you leave out images.",
        "logarithm of log weights": "The result holds NaN where no weight rounds to 0, as where "
        "the logarithm is taken of the log weights themselves, or of their mean: they are "
        "negative. The mean is one of weights: exponentiate first, safely.",
        "not finite": "Weights such as exp(-2000) round to 0. And where one weight is nearly the "
        "whole sum, the sum minus that weight is 0 or even negative. Stay with logarithms, and add "
        "up the others instead of subtracting one.",
    },
)
def jackknifed_bound(attempt: Attempt) -> None:
    """k L_k - (k - 1) times the mean of L_(k-1) over what is left out, per image."""

    def left_out(log_w: Tensor) -> Tensor:
        """log of the mean of the others, for each draw left out, [k, n]."""
        k = len(log_w)
        others = log_w.expand(k, *log_w.shape).masked_fill(
            torch.eye(k, dtype=torch.bool)[..., None], -math.inf
        )
        return others.logsumexp(1) - math.log(k - 1)

    def right(log_w: Tensor) -> Tensor:
        k = len(log_w)
        return k * _log_mean(log_w, 0) - (k - 1) * left_out(log_w).mean(0)

    def exchanged(w: Tensor) -> Tensor:
        return len(w) * left_out(w).mean(0) - (len(w) - 1) * _log_mean(w, 0)

    def same_k(w: Tensor) -> Tensor:
        return right(w) - (len(w) - 1) * math.log((len(w) - 1) / len(w))

    def one_only(w: Tensor) -> Tensor:
        return len(w) * _log_mean(w, 0) - (len(w) - 1) * _log_mean(w[:-1], 0)

    mistakes = {
        "plain bound": lambda w: _log_mean(w, 0),
        "exchanged": exchanged,
        "log k for k - 1": same_k,
        "one left out only": one_only,
        "mean of logs": lambda w: w.mean(0),
        "axes exchanged": lambda w: right(w.T),
    }
    log_w = 1.5 * attempt.normal(6, 4) - 3
    _require_weights(attempt, "six draws, four images", log_w)
    attempt.value("six draws, four images", (log_w,), right, mistakes=mistakes)
    attempt.value("two draws, one image", (log_w[:2, :1],), right, mistakes=mistakes)
    attempt.value("log weights around -2000", (log_w - 2000,), right, mistakes=mistakes)
    one_counts = log_w.clone()
    one_counts[2] += 60
    attempt.value("one draw that is all of the sum", (one_counts,), right, mistakes=mistakes)
    many = (2 * attempt.normal(150, 2),)
    attempt.value("150 draws", many, right, mistakes=mistakes)
    single = (log_w.float(),)
    attempt.value("float32", single, right, tolerance=1e-4, mistakes=mistakes, finer=True)
