"""Checks of the exercises on lecture 2, noise into samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from course_lib.exercises.attempts import Attempt, near
from course_lib.exercises.registry import exercise

LECTURE = "02_noise_into_samples"
LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


# ---------------------------------------------------------------------------- 2.1


@exercise(
    "2.1",
    see="section 2.1, equations (2.3) and (2.4)",
    learnt="Any law on the line is one function away from uniform noise; this one is the radius "
    "of a pair of normal numbers, which Box and Muller turn by a random angle.",
    hints={
        "root forgotten": "You have solved for r² (but for the scale): the exponent holds the "
        "square of r/σ.",
        "2 forgotten": "Your value is too small by the square root of 2: the exponent of F divides "
        "by 2σ².",
        "scale under the root": "You take the square root of the scale as well. Twice the scale "
        "should give twice the radius: σ has the unit of r.",
        "scale squared": "You multiply by σ². Twice the scale should give twice the radius.",
        "scale forgotten": "This is the radius for σ = 1. Twice the scale should give twice the "
        "radius.",
        "not finite": "The logarithm of a number below 1 is negative: a root of it is NaN until "
        "its sign is turned. (Infinity: u was rounded to 1 on the way, as float32 rounds it.)",
        "CDF itself": "This is F, which turns radii into probabilities. The inverse is wanted.",
        "density": "This is the density. The way from a height u to a radius is the inverse of F.",
        "mirrored": "This is the quantile of 1 - u. The law of the samples would be right, but "
        "F⁻¹ climbs with u and yours falls; and torch.rand may return exactly 0, where log u is "
        "infinite.",
        "tail cut off": "A small constant inside the logarithm keeps large radii from ever being "
        "drawn. None is needed: u is below 1, so that the logarithm of 1 - u is finite.",
        "no gradient": "u is the noise, and r should be a differentiable function of it.",
    },
)
def rayleigh_quantile(attempt: Attempt) -> None:
    """F⁻¹ of the Rayleigh law, F(r) = 1 - exp(-r²/(2σ²))."""

    def right(u: Tensor, scale: float) -> Tensor:
        return scale * (-2 * torch.log1p(-u)).sqrt()

    mistakes = {
        "root forgotten": lambda u, s: -2 * s * torch.log1p(-u),
        "2 forgotten": lambda u, s: right(u, s) / math.sqrt(2),
        "scale under the root": lambda u, s: right(u, 1.0) * math.sqrt(s),
        "scale squared": lambda u, s: s * right(u, s),
        "scale forgotten": lambda u, s: right(u, 1.0),
        "CDF itself": lambda u, s: 1 - (-(u**2) / (2 * s**2)).exp(),
        "density": lambda u, s: u / s**2 * (-(u**2) / (2 * s**2)).exp(),
        "mirrored": lambda u, s: right(1 - u, s),
    }
    u = 0.05 + 0.9 * attempt.uniform(7)
    attempt.value("seven heights, σ = 1.7", (u, 1.7), right, mistakes=mistakes, tolerance=1e-5)
    attempt.gradient("seven heights, σ = 1.7", (u, 1.7), right, tolerance=1e-4)
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    found = attempt.call("u = 0 and the float64 just below 1", ends, 1.0)
    if isinstance(found, Tensor) and found.shape == (2,):
        measured = f"The largest radius is {right(ends, 1.0)[1]:.3f}; you have {found[1]:.3f}."
        attempt.require(not 1.0 < found[1] < 8.5, "tail cut off", measured)
    attempt.value("u = 0 and the float64 just below 1", (ends, 1.0), right)
    grid = u.float().reshape(1, 7)
    attempt.value("shape [1, 7], float32", (grid, 0.5), right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 2.2


def _polar(radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    return radius * torch.cos(angle), radius * torch.sin(angle)


@exercise(
    "2.2",
    see="section 2.2, equations (2.11) to (2.13)",
    learnt="A sampler is tested from several sides: the variance shows one fault, a picture of "
    "pairs another, and the ends of the range a third. torch.randn makes its numbers on the CPU "
    "with the same two lines.",
    hints={
        "nothing mended": "These are broken_normals' numbers. Three things are wrong with it, and "
        "each panel above shows one.",
        "half a circle": "All your pairs lie on one side of the axis: y is never negative. The "
        "angle should be uniform on the whole circle.",
        "too narrow": "Your numbers have the variance 1/2: R² should be exponential with mean 2.",
        "too narrow, and half a circle": "One of three is mended. The angle still covers half a "
        "circle, and R² should have the mean 2.",
        "infinite at 0": "The law is right now, but you take the logarithm of u1, and torch.rand "
        "may return exactly 0. Adding a small constant or clamping would cut the tail off. 1 - u1 "
        "is uniform as well and is never 0; (2.13) has it, and the check expects it.",
        "tail cut off": "With u1 just below 1 the radius is too small: a small constant inside the "
        "logarithm, or a clamp, keeps large radii from ever being drawn. None is needed: 1 - u1 is "
        "never 0.",
        "turns for radians": "Your angle runs from 0 to 1 radian. A whole turn is 2π.",
        "same number twice": "Your two numbers are the same: independent ones use the two "
        "coordinates of the point.",
        "numbers of its own": "Equal arguments gave different numbers: you draw inside. The "
        "uniform numbers that you are given are all the noise there should be.",
        "root of a negative number": "The logarithm of a number below 1 is negative, and so is "
        "what you take the root of: turn its sign first.",
        "root after the cosine": "The result holds NaN, as where the square root is taken of a "
        "product with a cosine or a sine: half of these are negative. The root belongs to the "
        "radius alone.",
        "x and y swapped": "The law is right, but x is the cosine's number in (2.13).",
    },
)
def mended_normals(attempt: Attempt) -> None:
    """Box-Muller: two independent normal numbers from two uniform ones."""

    def right(u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
        return _polar((-2 * torch.log1p(-u1)).sqrt(), 2 * math.pi * u2)

    wrong = {
        "half a circle": lambda u, v: _polar((-2 * torch.log1p(-u)).sqrt(), math.pi * v),
        "too narrow": lambda u, v: _polar((-torch.log1p(-u)).sqrt(), 2 * math.pi * v),
        "too narrow, and half a circle": lambda u, v: _polar(
            (-torch.log1p(-u)).sqrt(), math.pi * v
        ),
        "turns for radians": lambda u, v: _polar((-2 * torch.log1p(-u)).sqrt(), v),
        "same number twice": lambda u, v: (right(u, v)[0],) * 2,
        "x and y swapped": lambda u, v: right(u, v)[::-1],
    }
    u1, u2 = 0.02 + 0.96 * attempt.uniform(2, 9)
    where = "nine pairs"
    found = attempt.call(where, u1, u2)
    found = tuple(found) if isinstance(found, list) else found
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], Tensor):
        holes = sum(int(x.isnan().sum()) for x in found if isinstance(x, Tensor))
        attempt.require(holes < 18, "root of a negative number", "All 18 numbers are NaN.")
        attempt.require(holes == 0, "root after the cosine", f"{holes} of 18 numbers are NaN.")
        again = attempt.call(where, u1, u2)
        attempt.require(near(again, found, 1e-9), "numbers of its own")
    broken = wrong["too narrow, and half a circle"](1 - u1, u2)
    attempt.require(not near(found, broken), "nothing mended")
    for name, formula in wrong.items():
        for u in (u1, 1 - u1):  # whichever of the two goes into the logarithm
            attempt.require(not near(found, formula(u, u2)), name)
    attempt.require(not near(found, right(1 - u1, u2), 1e-3), "infinite at 0")
    # Loose: whoever adds 1e-6 inside the logarithm is to hear of it where it matters, below.
    attempt.same(found, right(u1, u2), 1e-4)
    double = torch.float64
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=double), torch.tensor([0.3, 0.7], dtype=double)
    where = "u1 = 0 and u1 just below 1"
    x, y = attempt.call(where, *ends)
    radius = float(torch.hypot(x[1], y[1]))
    measured = f"The largest radius is 8.572; you have {radius:.3f}."
    attempt.require(not 1.0 < radius < 8.5, "tail cut off", measured)
    attempt.value(where, ends, right)
    single = u1[:1].float(), u2[:1].float()
    attempt.value("one pair, float32", single, right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 2.3


@exercise(
    "2.3",
    see="section 2.3, equations (2.19) and (2.20)",
    learnt="Density of the noise at its origin, minus log |det|: a normalizing flow is this line "
    "once per layer, and section 2.10's linear map has this density where Σ is invertible.",
    hints={
        "Jacobian forgotten": "You evaluate the noise's density at the right z and stop there. "
        "The map stretches or squeezes, and the same probability lies on another volume.",
        "wrong sign": "You add log |det A|. Where the map stretches, the density gets thinner.",
        "determinant, not its logarithm": "You subtract the determinant itself from a logarithm.",
        "z forgotten": "You evaluate the noise's density at y - b. It has to be taken where the "
        "noise came from.",
        "constant once": "Your normal density has its constant once. Each coordinate has its own: "
        "d of them in d dimensions.",
        "constant forgotten": "You leave out the constant of the normal density. It does not move "
        "a gradient, but then the result is no log-density: nothing integrates to 1.",
        "averaged over dimensions": "You average the noise's log-density over the dimensions. "
        "Independent coordinates multiply, so their logarithms add.",
        "one number for the batch": "You return one number: one per point is wanted, shape [n].",
        "transposed": "You have the transpose of A in the place of A. Points are rows here: y = A "
        "z for a column is y = z Aᵀ for a row, and the same on the way back.",
        "raised": "If a library complains about a covariance or a triangular matrix: A is neither "
        "the covariance of A z nor its Cholesky factor.",
        "shift inside": "You compute A⁻¹y - b. The map multiplies first and shifts last, so that "
        "on the way back the shift is undone first.",
        "A for AAᵀ": "You use A as if it were the covariance.",
        "negative determinant": "A turns the space over here: its determinant is negative, and its "
        "logarithm NaN. Volumes are scaled by its absolute value.",
        "determinant underflows": "In 300 dimensions with a factor of 0.05 each, the determinant "
        "is 1e-390, which a float rounds to 0. Its logarithm is a modest number: there is a "
        "function that computes it without the determinant.",
    },
)
def affine_log_density(attempt: Attempt) -> None:
    """Log-density of A z + b, z ~ N(0, I)."""

    def origin(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.solve(A, (y - b).T).T

    def log_normal(z: Tensor) -> Tensor:
        return (-0.5 * z**2 - LOG_ROOT_2PI).sum(-1)

    def log_det(A: Tensor) -> Tensor:
        return torch.linalg.slogdet(A).logabsdet

    def right(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
        return log_normal(origin(y, A, b)) - log_det(A)

    def covariance(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
        solved = origin(y, A, b) * (y - b)
        return -0.5 * solved.sum(-1) - len(b) * LOG_ROOT_2PI - 0.5 * log_det(A)

    mistakes = {
        "Jacobian forgotten": lambda y, A, b: log_normal(origin(y, A, b)),
        "wrong sign": lambda y, A, b: right(y, A, b) + 2 * log_det(A),
        "determinant, not its logarithm": lambda y, A, b: (
            log_normal(origin(y, A, b)) - log_det(A).exp()
        ),
        "z forgotten": lambda y, A, b: log_normal(y - b) - log_det(A),
        "constant forgotten": lambda y, A, b: right(y, A, b) + len(b) * LOG_ROOT_2PI,
        "constant once": lambda y, A, b: right(y, A, b) + (len(b) - 1) * LOG_ROOT_2PI,
        "averaged over dimensions": lambda y, A, b: (
            log_normal(origin(y, A, b)) / len(b) - log_det(A)
        ),
        "transposed": lambda y, A, b: log_normal(origin(y, A.T, b)) - log_det(A),
        "shift inside": lambda y, A, b: log_normal(origin(y, A, 0 * b) - b) - log_det(A),
        "A for AAᵀ": covariance,
    }
    A = attempt.normal(3, 3)
    A = 0.6 * A / A.norm() + torch.diag(torch.tensor([1.6, 1.2, 1.9], dtype=torch.float64))
    A[0, 2] += 0.5
    y, b = 2 * attempt.normal(5, 3), 1 + attempt.uniform(3)
    where = "five points in three dimensions"
    found = attempt.call(where, y, A, b)
    for total in (right(y, A, b).mean(), right(y, A, b).sum()):
        attempt.require(not near(found, total), "one number for the batch")
    attempt.value(where, (y, A, b), right, mistakes=mistakes, tolerance=1e-5)
    attempt.gradient(where, (y, A, b), right, of=(0, 1), tolerance=1e-5)
    mirror = A * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    where = "a map that turns space over"
    found = attempt.call(where, y, mirror, b)
    if isinstance(found, Tensor):
        attempt.require(not found.isnan().any(), "negative determinant")
    attempt.value(where, (y, mirror, b), right, tolerance=1e-5)
    d = 300
    small = 0.05 * (torch.eye(d) + 0.3 * torch.diag(torch.ones(d - 1), 1)).double()
    many = attempt.normal(2, d) @ small.T, small, torch.zeros(d, dtype=torch.float64)
    where = "300 dimensions, det A = 0.05^300"
    found = attempt.call(where, *many)
    if isinstance(found, Tensor):
        measured = f"You have {float(found.flatten()[0]):.4g}."
        attempt.require(torch.isfinite(found).all(), "determinant underflows", measured)
    attempt.value(where, many, right, tolerance=1e-5)
    single = tuple(t.float() for t in (y[:1], A, b))
    attempt.value("one point, float32", single, right, tolerance=1e-4)


# ---------------------------------------------------------------------------- 2.4


@exercise(
    "2.4",
    see="section 2.4, equations (2.22) and (2.23), and section 2.3, equation (2.20)",
    learnt="An expected negative log-likelihood is never below the entropy of the data: a loss "
    "that sinks far below belongs to no density. Lecture 12's loss bounds this number from above.",
    hints={
        "nothing mended": "This is broken_flow_loss. Put in a large s and follow each term: which "
        "of them has no price?",
        "wrong sign": "The log-determinant enters the density with the wrong sign: the larger s, "
        "the more volume the model would fill and the denser it would be everywhere at once.",
        "sum beside mean": "The sign is right. But the noise's log-density is summed over the "
        "coordinates and the log-determinant averaged: in d dimensions it weighs d times too "
        "little, and the model ends √d times too wide.",
        "mean beside sum": "The sign is right. But the log-determinant is summed over the "
        "coordinates and the noise's log-density averaged: the noise weighs d times too little.",
        "Jacobian forgotten": "Without the log-determinant nothing holds s back either: with a "
        "large s all z lie at 0, where the noise is densest.",
        "determinant, not its logarithm": "Each coordinate is stretched by e^s. The logarithm of "
        "that is wanted.",
        "forward, not backward": "You send the data through the map from noise to data. The loss "
        "needs the noise that each point came from.",
        "shift inside": "The map multiplies by e^s and then adds t. On the way back t is "
        "subtracted first.",
        "averaged over dimensions": "Both terms are averaged over the coordinates: a value per "
        "coordinate. The contract sums over dimensions and averages over the batch.",
        "summed over the batch": "You sum over the batch: the loss should not grow with its size.",
        "constant forgotten": "The constant of the normal density is missing. The gradient does "
        "not mind, but the value can no longer be compared with the entropy of the data.",
        "to be maximised": "This is the mean log-likelihood. A loss is its negative.",
    },
)
def mended_flow_loss(attempt: Attempt) -> None:
    """Negative log-likelihood of y = z exp(s) + t, z ~ N(0, I), mean over the batch."""

    def log_normal(z: Tensor) -> Tensor:
        return -0.5 * z**2 - LOG_ROOT_2PI

    def back(y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return (y - t) * (-s).exp()

    def right(y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return s.sum() - log_normal(back(y, s, t)).sum(1).mean()

    def noise_part(y: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return right(y, s, t) - s.sum()

    mistakes = {
        "nothing mended": lambda y, s, t: noise_part(y, s, t) - s.mean(),
        "wrong sign": lambda y, s, t: noise_part(y, s, t) - s.sum(),
        "sum beside mean": lambda y, s, t: noise_part(y, s, t) + s.mean(),
        "mean beside sum": lambda y, s, t: noise_part(y, s, t) / len(s) + s.sum(),
        "Jacobian forgotten": noise_part,
        "determinant, not its logarithm": lambda y, s, t: noise_part(y, s, t) + s.exp().sum(),
        "forward, not backward": lambda y, s, t: (
            s.sum() - log_normal(y * s.exp() + t).sum(1).mean()
        ),
        "shift inside": lambda y, s, t: s.sum() - log_normal(y * (-s).exp() - t).sum(1).mean(),
        "averaged over dimensions": lambda y, s, t: right(y, s, t) / len(s),
        "summed over the batch": lambda y, s, t: right(y, s, t) * len(y),
        "constant forgotten": lambda y, s, t: right(y, s, t) - len(s) * LOG_ROOT_2PI,
        "to be maximised": lambda y, s, t: -right(y, s, t),
    }
    s = torch.tensor([0.9, -0.4, 0.7], dtype=torch.float64) + 0.2 * attempt.uniform(3)
    args = attempt.normal(6, 3), s, 0.5 + attempt.uniform(3)
    where = "six points in three dimensions"
    attempt.value(where, args, right, mistakes=mistakes, tolerance=1e-5)
    attempt.gradient(where, args, right, of=(0, 1, 2), mistakes=mistakes, tolerance=1e-5)
    single = args[0][:1, :2].float(), args[1][:2].float(), args[2][:2].float()
    attempt.value("one point in the plane, float32", single, right, tolerance=1e-5)


# ---------------------------------------------------------------------------- 2.5


def _arc(z0: Tensor, z1: Tensor, t: float, theta: Tensor) -> Tensor:
    """Slerp with a given angle [n, 1]; a straight line where its sine is (nearly) 0."""
    sine = theta.sin()
    tiny = sine.abs() < 1e-6
    safe = torch.where(tiny, torch.ones_like(sine), sine)
    first = torch.where(tiny, torch.full_like(sine, 1 - t), ((1 - t) * theta).sin() / safe)
    second = torch.where(tiny, torch.full_like(sine, t), (t * theta).sin() / safe)
    return first * z0 + second * z1


def _slerp(z0: Tensor, z1: Tensor, t: float) -> Tensor:
    cosine = cosine_similarity(z0, z1, dim=-1).clamp(-1, 1)
    return _arc(z0, z1, t, torch.acos(cosine)[:, None])


@exercise(
    "2.5",
    see="section 2.8, equation (2.34)",
    learnt="Arcs stay in the shell where the noise lives; lecture 6 walks along them between two "
    "latents of a trained generator and shows the images on the way.",
    hints={
        "straight line": "This is the straight line. Between independent latents it passes at "
        "about 0.7 of their norm, where the generator has never been asked for anything.",
        "straight line, pulled back": "You walk along the straight line and rescale to a chosen "
        "norm: right norms, wrong speed. The angle from the start should be tθ.",
        "ends swapped": "You walk from z1 to z0. t = 0 is the start, z0.",
        "angle without norms": "Your angle comes from the scalar product without dividing by the "
        "norms. A scalar product is the cosine only for vectors of length 1.",
        "unit length": "Your points lie on the sphere of radius 1. Normalise to find the angle, "
        "but walk between the latents as they are.",
        "quarter of a circle": "You take 90° for the angle. In many dimensions that is nearly "
        "right, and with it the ends are met; but the pair tells you its own angle.",
        "one angle for the batch": "You use one angle for the whole batch, from all numbers at "
        "once. Each pair has its own.",
        "not finite": "With parallel ends the angle is 0 and the formula is 0/0. Rounding can "
        "also put a cosine just above 1, of which acos is NaN. In the limit of a small angle the "
        "arc is the straight line, row by row.",
        "at the origin": "A small constant in the denominator, or nan_to_num, makes 0/0 a 0: "
        "between parallel ends your point is the origin. In the limit of a small angle the arc is "
        "the straight line.",
        "all straight": "One pair of the batch is parallel, and you walk straight for all of them. "
        "Each row needs its own case (torch.where).",
    },
)
def spherical_interpolation(attempt: Attempt) -> None:
    """Slerp between the rows of two batches."""

    def lerp(z0: Tensor, z1: Tensor, t: float) -> Tensor:
        return (1 - t) * z0 + t * z1

    def dot(z0: Tensor, z1: Tensor) -> Tensor:
        return (z0 * z1).sum(-1, keepdim=True).clamp(-1, 1)

    def quarter(z0: Tensor, z1: Tensor, t: float) -> Tensor:
        return math.cos(math.pi * t / 2) * z0 + math.sin(math.pi * t / 2) * z1

    def one_angle(z0: Tensor, z1: Tensor, t: float) -> Tensor:
        whole = cosine_similarity(z0.flatten(), z1.flatten(), dim=0).acos()
        return _arc(z0, z1, t, whole.expand(len(z0), 1))

    mistakes = {
        "straight line": lerp,
        "ends swapped": lambda z0, z1, t: _slerp(z1, z0, t),
        "angle without norms": lambda z0, z1, t: _arc(z0, z1, t, dot(z0, z1).acos()),
        "unit length": lambda z0, z1, t: _slerp(normalize(z0), normalize(z1), t),
        "quarter of a circle": quarter,
        "one angle for the batch": one_angle,
    }
    z0 = normalize(attempt.normal(4, 5)) * torch.linspace(0.6, 0.9, 4, dtype=torch.float64)[:, None]
    z1 = normalize(attempt.normal(4, 5)) * torch.linspace(0.8, 0.5, 4, dtype=torch.float64)[:, None]
    where = "four pairs, t = 0.3"
    found = attempt.call(where, z0, z1, 0.3)
    straight = lerp(z0, z1, 0.3)
    if isinstance(found, Tensor) and found.shape == z0.shape and not near(found, straight):
        along = (cosine_similarity(found.double(), straight) > 1 - 1e-9).all()
        attempt.require(not along, "straight line, pulled back")
    attempt.value(where, (z0, z1, 0.3), _slerp, mistakes=mistakes, tolerance=1e-5)
    attempt.value("four pairs, t = 0", (z0, z1, 0.0), z0, tolerance=1e-5)
    attempt.value("four pairs, t = 1", (z0, z1, 1.0), z1, tolerance=1e-5)
    double = torch.float64
    first = torch.tensor([[2.0, 0, 0], [0, 1.0, 0], [0, 0, 3.0]], dtype=double)
    second = torch.tensor([[2.0, 0, 0], [1.0, 1.0, 0], [0, 0, 5.0]], dtype=double)
    where = "three pairs, the first and the last of them parallel, t = 0.25"
    parallel = {
        "all straight": lerp,
        "at the origin": lambda z0, z1, t: (
            _slerp(z0, z1, t) * torch.tensor([[0.0], [1.0], [0.0]], dtype=z0.dtype)
        ),
    }
    attempt.value(where, (first, second, 0.25), _slerp, mistakes=parallel, tolerance=1e-5)
    latent = attempt.normal(1, 100, dtype=torch.float32)
    where = "a pair of equal latents, float32"
    attempt.value(where, (latent, latent, 0.5), latent, tolerance=1e-4)
    other = attempt.normal(1, 100, dtype=torch.float32)
    attempt.value("one pair, float32", (latent, other, 0.5), _slerp, tolerance=1e-5)


# ---------------------------------------------------------------------------- 2.6


@exercise(
    "2.6",
    see="section 2.10, equation (2.39)",
    learnt="This is the generator of section 2.10, the best linear one; what its samples lack is "
    "what lectures 4 and 12 train non-linear maps for.",
    hints={
        "noise of its own": "Equal noise gave different samples, or samples that do not depend on "
        "z: use the noise that you are given.",
        "mean forgotten": "At z = 0 a sample should be the mean of the data.",
        "variance for deviation": "Your samples have the covariance Σ², not Σ: a direction of "
        "variance λ needs noise of standard deviation √λ.",
        "transposed": "You have a factor L with LLᵀ = Σ, but your samples have the covariance LᵀL. "
        "Samples are rows: x = μ + L z for a column is x = μ + z Lᵀ for a row.",
        "independent pixels": "Your samples have the variances of the data and no covariances.",
        "divided by n - 1": "You divide by n - 1. Here Σ is the covariance of these very n points, "
        "as in (2.40), with the divisor n.",
        "not centred": "Your matrix is the mean of x xᵀ, without the mean subtracted first.",
        "raised": "If Cholesky refuses a matrix, or 5 and 9 do not fit: with fewer points than "
        "dimensions some directions have no variance at all, and there are fewer singular values "
        "than numbers of noise. The eigenvectors of Σ do not mind.",
        "not finite": "An eigenvalue that should be 0 is computed as -1e-17 or so, and its square "
        "root is NaN. A variance is never negative.",
        "jitter": "A direction without variance gets some in your samples: something small was "
        "added to the diagonal or to the eigenvalues. A pixel that is black in all images should "
        "stay black.",
    },
)
def linear_generator(attempt: Attempt) -> None:
    """Samples of the best linear map from noise, x = mu + L z with LLᵀ = Sigma."""

    def covariance(x: Tensor, divisor: int) -> Tensor:
        return (x - x.mean(0)).T @ (x - x.mean(0)) / divisor

    def factor(x: Tensor, where: str) -> Tensor:
        """The matrix M of an answer that computes mu + z M, seen through chosen noise."""
        d = x.shape[1]
        mu, eye = x.mean(0), torch.eye(d, dtype=x.dtype)
        centre = attempt.call(where, x, torch.zeros(2, d, dtype=x.dtype))
        attempt.same(centre, torch.zeros(2, d, dtype=x.dtype), tolerance=math.inf)
        measured = "Your samples at z = 0 are off by up to "
        measured += f"{float((centre - mu).abs().max()):.3g}."
        again = attempt.call(where, x, torch.zeros(2, d, dtype=x.dtype))
        columns = attempt.call(where, x, eye)
        attempt.same(columns, torch.zeros(d, d, dtype=x.dtype), tolerance=math.inf)
        attempt.require(torch.equal(again, centre), "noise of its own")
        attempt.require(near(centre, mu.expand(2, d), 1e-5), "mean forgotten", measured)
        attempt.require(not near(columns, mu.expand(d, d), 1e-6), "noise of its own")
        return columns - mu

    x = attempt.normal(40, 3) @ torch.tensor(
        [[1.5, 0.9, -0.4], [0.0, 0.8, 0.5], [0.0, 0.0, 0.6]], dtype=torch.float64
    ) + torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    where = "40 points in three dimensions"
    M, S = factor(x, where), covariance(x, 40)
    lower = torch.linalg.cholesky(S)
    values, vectors = torch.linalg.eigh(S)
    root = vectors * values.sqrt()
    mistakes = {
        "variance for deviation": [S @ S],
        "transposed": [lower.T @ lower, root.T @ root],
        "independent pixels": [S.diag().diag(), S.diag().diag() * 40 / 39],
        "divided by n - 1": [S * 40 / 39],
        "not centred": [x.T @ x / 40],
    }
    attempt.where = where + ": covariance of your samples"
    made = M.T @ M
    for name, matrices in mistakes.items():
        measured = f"It is off by up to {float((made - S).abs().max()):.2g}."
        attempt.require(not any(near(made, m) for m in matrices), name, measured)
    # Loose: whoever adds a little to the diagonal is to hear of it where it matters, below.
    attempt.same(made, S, 1e-3)
    z = attempt.normal(6, 3)
    attempt.value("six samples", (x, z), x.mean(0) + z @ M, tolerance=1e-5)
    thin = attempt.normal(5, 9)
    thin[:, 4] = 0.5
    where = "five points in nine dimensions, one of them constant"
    M, S = factor(thin, where), covariance(thin, 5)
    made = M.T @ M
    attempt.where = where + ": covariance of your samples"
    measured = f"The constant coordinate has the variance {float(made[4, 4]):.2g}."
    attempt.require(made[4, 4] < 1e-10, "jitter", measured)
    attempt.same(made, S, 1e-5)
    plain = x.float()
    M = factor(plain, "float32")
    attempt.where = "float32: covariance of your samples"
    attempt.same(M.T @ M, covariance(plain, 40), 1e-4)
