"""Checks of the exercises on lecture 20, where the seconds go."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_lib.exercises.attempts import Attempt
from course_lib.exercises.registry import exercise

LECTURE = "20_making_training_fast"


# ---------------------------------------------------------------------------- 20.1


@exercise(
    "20.1",
    see="section 20.1, equations (20.1) and (20.2)",
    learnt="With a measured profile in front of you this says what a trick can give before you "
    "write it; section 20.2 then compares what it did give.",
    hints={
        "milliseconds for shares": "Your result changes when all times are doubled. Speed-ups know "
        "no milliseconds: compare the time before with the time after.",
        "time for speed": "This is the new time as a fraction of the old. A speed-up is the other "
        "way round, above 1 where something was gained.",
        "mean of the factors": "You average the factors, weighed by their times. What adds up is "
        "time, not speed: a stage that became infinitely fast would make the whole so.",
        "product": "You multiply the factors. That would be right if each acted on the whole.",
        "largest stage only": "You count the gain of the longest stage only; the others became "
        "faster too.",
        "plain mean": "You average the factors as if all stages took the same time.",
        "not finite": "A stage that vanishes has an infinite factor, and what is left of it is 0. "
        "The whole stays finite.",
    },
)
def speed_up(attempt: Attempt) -> None:
    """Time before divided by time after."""
    mistakes = {
        "milliseconds for shares": lambda t, s: 1 / sum(a / b for a, b in zip(t, s, strict=True)),
        "time for speed": lambda t, s: 1 / right(t, s),
        "mean of the factors": lambda t, s: sum(a * b for a, b in zip(t, s, strict=True)) / sum(t),
        "product": lambda t, s: math.prod(s),
        "largest stage only": lambda t, s: right(
            t, [b if a == max(t) else 1.0 for a, b in zip(t, s, strict=True)]
        ),
        "plain mean": lambda t, s: sum(s) / len(s),
    }

    def right(milliseconds: list[float], factors: list[float]) -> float:
        after = sum(t / s for t, s in zip(milliseconds, factors, strict=True))
        return sum(milliseconds) / after

    times = [12.0, *(1 + 9 * attempt.uniform(3)).tolist()]
    factors = (1.5 + 3 * attempt.uniform(4)).tolist()
    attempt.value("four stages, four factors", (times, factors), right, mistakes=mistakes)
    attempt.value("one stage became slower", (times, [0.5, 3.0, 1.0, 1.0]), right)
    vanishing = [math.inf, 1.0, 2.0, 1.0]
    attempt.value("a stage that vanishes", (times, vanishing), right, mistakes=mistakes)


# ---------------------------------------------------------------------------- 20.2


@exercise(
    "20.2",
    see="lecture 18, equation (18.4), and section 20.4, equations (20.22) and (20.23)",
    learnt="Work and traffic decide which side of the roofline a layer is on; section 20.4 "
    "measures the corner of the roof, and below it more arithmetic costs nothing.",
    hints={
        "one for two": "You count a multiplication with its addition as one operation. That is a "
        "multiply-accumulate; this course, and torch's own counter, count two.",
        "input pixels": "You count one window for each pixel of the input. There is one for each "
        "pixel of the output.",
        "padding forgotten": "Your output is that of a convolution without padding.",
        "one row short": "Your output lacks a row and a column: the + 1 stands outside of the "
        "rounding, and the padding is on both sides.",
        "kernel once": "Each output pixel looks at kernel times kernel places: two dimensions.",
        "batch forgotten": "This is the work for one image.",
        "not rounded down": "A window that does not fit at the end is left out: the number of "
        "rows, and that of columns, is rounded down, neither up nor to the nearest, before they "
        "are multiplied.",
        "numbers for bytes": "The work is right. Intensity is operations per byte, and a number "
        "has several bytes.",
        "weights not moved": "The work is right. Among the bytes the kernel's own are missing.",
        "output not written": "The work is right. The output has to be written, too.",
        "image read for every window": "The work is right. You count an input pixel once for each "
        "window that it is in; here each number crosses once, as with a perfect cache.",
        "bytes per operation": "The work is right; the intensity is the other way round.",
    },
)
def convolution_work(attempt: Attempt) -> None:
    """Operations of a convolution, and operations per byte."""

    def numbers(*a: int, whole: Callable[[float], float] = math.floor) -> tuple[int, int, float]:
        """Of the input, the kernel and the output."""
        b, c, o, h, w, k, s, p, _ = a
        rows, columns = (whole((n + 2 * p - k) / s) + 1 for n in (h, w))
        return b * c * h * w, o * c * k * k, b * o * rows * columns

    def flops(*a: int, whole: Callable[[float], float] = math.floor) -> float:
        return float(2 * numbers(*a, whole=whole)[2] * a[1] * a[5] ** 2)

    def right(*a: int) -> tuple[float, float]:
        return flops(*a), flops(*a) / a[8] / sum(numbers(*a))

    work = {
        "one for two": lambda *a: flops(*a) / 2,
        "input pixels": lambda *a: 2 * numbers(*a)[0] * a[2] * a[5] ** 2,
        "padding forgotten": lambda *a: flops(*a[:7], 0, a[8]),
        "one row short": lambda *a: flops(*a, whole=lambda x: math.floor(x) - 1),
        "kernel once": lambda *a: flops(*a) / a[5],
        "batch forgotten": lambda *a: flops(*a) / a[0],
        "not rounded down": tuple(
            (lambda *a, whole=whole: flops(*a, whole=whole)) for whole in (float, math.ceil, round)
        ),
    }
    intensity = {
        "numbers for bytes": lambda *a: flops(*a) / sum(numbers(*a)),
        "weights not moved": lambda *a: flops(*a) / a[8] / (numbers(*a)[0] + numbers(*a)[2]),
        "output not written": lambda *a: flops(*a) / a[8] / sum(numbers(*a)[:2]),
        "image read for every window": lambda *a: (
            flops(*a) / a[8] / (numbers(*a)[2] * a[1] * a[5] ** 2 / a[2] + sum(numbers(*a)[1:]))
        ),
        "bytes per operation": lambda *a: a[8] * sum(numbers(*a)) / flops(*a),
    }
    for where, args in (
        ("64 images of 28 by 28, kernel 5, stride 2, padding 2", (64, 3, 16, 28, 28, 5, 2, 2, 4)),
        ("9 by 14 pixels, kernel 3, bfloat16", (5 + attempt.seed, 8, 4, 9, 14, 3, 1, 1, 2)),
        ("10 by 7 pixels, kernel 3, stride 2, padding 1", (3, 2, 4, 10, 7, 3, 2, 1, 4)),
        ("one image, kernel 1", (1, 6, 5, 7, 7, 1, 1, 0, 4)),
    ):
        attempt.each(where, args, right, (work, intensity), 1e-6)


# ---------------------------------------------------------------------------- 20.3


@exercise(
    "20.3",
    see="section 20.5, equation (20.25)",
    learnt="The library refuses a batch that cannot be split evenly, so that the plain mean is "
    "right; whoever allows it, as with the last batch of a pass, needs your weights.",
    hints={
        "plain mean": "Every process counts the same here. The one with few examples then counts "
        "too much: each example should count the same.",
        "sum": "You add the gradients up. Each is a mean already: the sum is as many times too "
        "large as there are processes.",
        "shares not divided": "You weigh with the numbers of examples but do not divide by their "
        "sum: the gradient grows with the batch.",
        "divided twice": "You divide by the number of processes as well; the shares sum to 1 "
        "already.",
        "other way round": "The process with few examples gets the large weight.",
        "first process only": "This is the gradient of the first process.",
        "changes its input": "The gradients that came in are still needed by their process.",
        "wrong dtype": "The optimiser wants a gradient of the same type as its weight.",
    },
)
def joined_gradients(attempt: Attempt) -> None:
    """The gradient of the joined batch from those of its parts."""

    def weighed(weights: Callable[[list[int]], list[float]]) -> Callable:
        def answer(gradients: list[list[Tensor]], counts: list[int]) -> list[Tensor]:
            return [
                sum(w * g for w, g in zip(weights(counts), parts, strict=True))
                for parts in zip(*gradients, strict=True)
            ]

        return answer

    right = weighed(lambda c: [n / sum(c) for n in c])
    mistakes = {
        "plain mean": weighed(lambda c: [1 / len(c) for _ in c]),
        "sum": weighed(lambda c: [1.0 for _ in c]),
        "shares not divided": weighed(lambda c: [float(n) for n in c]),
        "divided twice": weighed(lambda c: [n / sum(c) / len(c) for n in c]),
        "other way round": weighed(lambda c: [(1 / n) / sum(1 / m for m in c) for n in c]),
        "first process only": weighed(lambda c: [1.0 if i == 0 else 0.0 for i in range(len(c))]),
    }
    # The gradients of a real loss, so that the answer is also that of the joined batch.
    weight, bias = attempt.normal(2, 4), attempt.normal(2)
    x, y = attempt.normal(12, 4), attempt.normal(12, 2)

    def gradient(rows: slice) -> list[Tensor]:
        w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
        loss = (nn.functional.linear(x[rows], w, b) - y[rows]).square().sum(1).mean()
        return list(torch.autograd.grad(loss, (w, b)))

    parts = [gradient(slice(0, 3)), gradient(slice(3, 12))]
    joined = gradient(slice(0, 12))
    where = "parts of 3 and 9 examples, two tensors of weights"
    attempt.value(where, (parts, [3, 9]), joined, mistakes=_at(mistakes, parts, [3, 9]))
    three = [[attempt.normal(5)] for _ in range(3)]
    attempt.value("parts of 1, 4 and 2 examples", (three, [1, 4, 2]), right, mistakes=mistakes)
    attempt.value("one process", ([joined], [12]), joined)
    single = [[g.float() for g in part] for part in parts]
    attempt.value("float32", (single, [3, 9]), right, tolerance=1e-5, mistakes=mistakes)


def _at(mistakes: dict[str, Callable], *args: object) -> dict[str, list[Tensor]]:
    return {name: f(*args) for name, f in mistakes.items()}


# ---------------------------------------------------------------------------- 20.4


@exercise(
    "20.4",
    see="section 20.3, equation (20.14)",
    learnt="Updates below half of it are lost, (20.14); divided by twice the learning rate it is "
    "the distance from the optimum at which pure bfloat16 stops, (20.16).",
    hints={
        "step above one everywhere": "This is the step above 1, whatever w is. Numbers of a "
        "floating-point format lie closer together near 0 and further apart above 2.",
        "relative everywhere": "You scale the step above 1 by w itself. Between two powers of two "
        "all neighbours are equally far apart: the spacing jumps, it does not grow along.",
        "half of it": "This is half of the spacing: what may be lost, not the distance.",
        "twice of it": "This is twice the spacing: of p digits one stands before the point.",
        "nearest power": "You round the exponent to the nearest whole number. The power of two "
        "wanted is the one below |w|, or equal to it.",
        "power above": "You take the power of two above |w|.",
        "towards zero": "For |w| below 1 the exponent is negative, and int() and trunc() cut it "
        "off towards 0, upwards: 0.3 lies between 1/4 and 1/2, and the 1/4 counts.",
        "integer power": "Some of your spacings are 0. The exponent that frexp returns is a whole "
        "number, and 2 to a negative power is 0 in whole numbers: use torch.ldexp or torch.exp2, "
        "or turn the exponent into the type of w first.",
        "sign of w": "A distance is positive, for negative w too.",
        "not finite": "Negative numbers have a spacing as well, but no logarithm.",
        "wrong dtype": "Give the spacing in the type of w.",
    },
)
def float_spacing(attempt: Attempt) -> None:
    """ulp(w) of a format with so many binary digits."""

    def power(w: Tensor) -> Tensor:
        return torch.frexp(w)[1] - 1.0

    def ulp(w: Tensor, q: Tensor, digits: float) -> Tensor:
        return torch.exp2(q.to(w) + 1 - digits)

    def right(w: Tensor, digits: int) -> Tensor:
        return ulp(w, power(w), digits)

    mistakes = {
        "step above one everywhere": lambda w, p: ulp(w, 0 * power(w), p),
        "relative everywhere": lambda w, p: w.abs() * 2.0 ** (1 - p),
        "half of it": lambda w, p: right(w, p + 1),
        "twice of it": lambda w, p: right(w, p - 1),
        "nearest power": lambda w, p: ulp(w, w.abs().log2().round(), p),
        "power above": lambda w, p: ulp(w, w.abs().log2().ceil(), p),
        "towards zero": lambda w, p: ulp(w, w.abs().log2().trunc(), p),
        "sign of w": lambda w, p: right(w, p) * w.sign(),
    }
    above = (0.3 + 6 * attempt.uniform(5)).sort().values
    grid = torch.tensor([0.75, 1.0, 1.5, 1.9, 2.0, 7.9, 200.0, 3e-5], dtype=torch.float64)
    w = torch.cat([grid, above])
    # Spacings of very different sizes: each is compared relative to the right one.
    scale = right(w, 8)

    def relative(function: Callable, w: Tensor, p: int) -> Tensor:
        return function(w, p) / scale

    found = attempt.call("bfloat16, 8 digits", w, 8)
    if not isinstance(found, Tensor) or found.shape != w.shape:
        attempt.same(found, scale)
    attempt.require(not (found == 0).any(), "integer power")
    made = {name: lambda f=f: relative(f, w, 8) for name, f in mistakes.items()}
    attempt.same(found / scale, torch.ones_like(w), 1e-9, made)
    attempt.value("float16, 11 digits", (grid[:6], 11), right, mistakes=mistakes, tolerance=1e-9)
    attempt.value("negative numbers", (-grid[:6], 8), right, mistakes=mistakes, tolerance=1e-9)
    attempt.value("float32 tensor", (grid[:6].float(), 8), right)


# ---------------------------------------------------------------------------- 20.5


class _Device:
    """A device with a queue: `step` returns when its work is queued, not when it is done."""

    def __init__(self, seconds: tuple[float, ...], launch: float, first: float) -> None:
        self.seconds, self.launch, self.first = seconds, launch, first
        self.now = self.busy_until = 100.0
        self.steps = self.looks = 0

    def step(self) -> None:
        work = self.seconds[self.steps % len(self.seconds)]
        self.now += self.launch + (self.first if self.steps == 0 else 0.0)
        self.busy_until = max(self.busy_until, self.now) + work
        self.steps += 1

    def synchronise(self) -> None:
        self.now = max(self.now, self.busy_until)

    def clock(self) -> float:
        self.looks += 1
        return self.now


def _rate(
    step: Callable,
    clock: Callable,
    synchronise: Callable,
    batch: int,
    warm_up: int,
    updates: int,
    *,
    start: bool = True,
    end: bool = True,
    each: bool = False,
    skip: bool = True,
    rates: bool = False,
    late: bool = False,
) -> float:
    """Images per second; the options are what students leave out or add."""
    begin = clock()
    for _ in range(warm_up):
        step()
    if start and not late:
        synchronise()
    begin, found = clock() if skip else begin, []
    if late:  # looks first, and waits then
        synchronise()
    for _ in range(updates):
        before = clock()
        step()
        if each or rates:
            synchronise()
            found.append(batch / max(clock() - before, 1e-12))
    if end:
        synchronise()
    if rates:
        return sum(found) / len(found)
    return batch * updates / max(clock() - begin, 1e-12)


def _measured(
    seconds: tuple[float, ...],
    launch: float,
    batch: int,
    warm_up: int,
    updates: int,
    **options: bool,
) -> float:
    device = _Device(seconds, launch, 2.0)
    parts = device.step, device.clock, device.synchronise
    return _rate(*parts, batch, warm_up, updates, **options)


@exercise(
    "20.5",
    see="section 20.4, 'Launching everything at once' with (20.24), and the 'Try it' at its end",
    learnt="Wait, look, work, wait, look. With torch.cuda.synchronize in the place of "
    "`synchronise` and time.perf_counter as the clock this measures a GPU; section 20.7 turns such "
    "a rate into hours and a bill.",
    hints={
        "end not awaited": "You look at the clock when the last update has been queued, not when "
        "it is done: you measure how fast the processor can launch.",
        "start not awaited": "When your clock starts, the device is still busy with the warm-up: "
        "what is left of it is timed too.",
        "warm-up timed": "The warm-up is inside the measured time. It has the one slow update that "
        "sets everything up.",
        "waits in every update": "You wait for the device after every update. In training nobody "
        "does: while the device works, the processor launches the next update.",
        "mean of rates": "You average the rates of single updates. Slow ones take more of the time "
        "than their count says: divide all images by all seconds.",
        "updates per second": "You count updates; there are several images in one.",
        "seconds per image": "This is time per image. Images per time are wanted.",
        "other number of updates": "Do as many updates to warm up as asked, and then as many again "
        "as are to be timed.",
        "own clock": "Use the clock that you are given: the device of this check lives in its own "
        "time, and finishes an hour of work in a millisecond of yours.",
    },
)
def images_per_second(attempt: Attempt) -> None:
    """The rate of a device that works behind one's back."""
    variants: dict[str, dict[str, bool]] = {
        "end not awaited": dict(end=False),
        "start not awaited": dict(start=False),
        "warm-up timed": dict(skip=False),
        "waits in every update": dict(each=True),
        "mean of rates": dict(rates=True),
    }
    odd = 0.004 + float(attempt.uniform(1)) / 100
    for where, seconds, launch, *asked in (
        ("work of 10 and 19 ms behind launches of 3 ms", (0.010, 0.019), 0.003, 64, 3, 10),
        ("short work behind launches of 5 ms", (0.002, odd), 0.005, 32, 2, 7),
        ("one update", (0.1,), 0.01, 8, 1, 1),
    ):
        device, right = _Device(seconds, launch, 2.0), _measured(seconds, launch, *asked)
        found = attempt.call(where, device.step, device.clock, device.synchronise, *asked)
        batch, warm_up, updates = asked
        told = f"{device.steps} updates were made; {warm_up} + {updates} are wanted."
        attempt.require(device.steps == warm_up + updates, "other number of updates", told)
        attempt.require(device.looks >= 2, "own clock")
        late = _measured(seconds, launch, *asked, late=True)
        if abs(right - late) > 1e-5 * right and isinstance(found, int | float):
            attempt.require(abs(found - late) > 1e-6 * late, "start not awaited")
        values = {n: _measured(seconds, launch, *asked, **o) for n, o in variants.items()}
        values |= {"updates per second": right / batch, "seconds per image": 1 / right}
        attempt.same(found, right, 1e-6, {n: lambda v=v: v for n, v in values.items()})


# ---------------------------------------------------------------------------- 20.6


@exercise(
    "20.6",
    see="section 20.2, equations (20.8) to (20.10)",
    learnt="course_lib.models.UpsampledConv2d does this for k = 3 and s = 2, in every forward "
    "pass: the nine weights are what is learnt, and (20.12) counts the trick among the exact ones.",
    hints={
        "not flipped": "The sums are right, but in reverse order. A convolution collects from its "
        "neighbours, a transposed one hands out to them: the tap that looks to the left is the one "
        "by which a pixel reaches to the right.",
        "channels not exchanged": "The numbers are right, the axes are not: conv_transpose2d wants "
        "[in, out, ...], conv2d [out, in, ...].",
        "one axis only": "You folded one of the two axes.",
        "divided by the area": "You average where the weights add up: a pixel that is repeated s "
        "times is met by several taps, and their weights are summed.",
        "stretched": "You repeat each weight s times. The pixels are repeated, not the taps.",
        "not summed": "Your kernel has the right size, but every weight stands in it once. Each "
        "pixel is repeated, so it meets every weight in s * s places.",
        "not flipped, not exchanged": "Two things: the axes are [out, in, ...] where "
        "conv_transpose2d wants [in, out, ...], and the order of the taps is reversed. A "
        "convolution collects from its neighbours, a transposed one hands out to them.",
        "wrong shape": "The last two sizes are k + s - 1: a pixel that was repeated s times "
        "reaches (k - 1)/2 further on both sides.",
        "no gradient": "The weights of the small kernel are what is trained: the gradient must "
        "come through the folding.",
    },
)
def folded_kernel(attempt: Attempt) -> None:
    """The kernel of a transposed convolution that doubles and convolves at once."""

    def fold(k: int, s: int, flip: bool = True) -> Tensor:
        a = torch.zeros(k + s - 1, k, dtype=torch.float64)
        for tap in range(k):
            first = k - 1 - tap if flip else tap
            a[first : first + s, tap] = 1
        return a

    def folded(kernel: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        rows, columns = rows.to(kernel), columns.to(kernel)
        return torch.einsum("ak,oikl,bl->ioab", rows, kernel, columns)

    def right(kernel: Tensor, s: int) -> Tensor:
        a = fold(kernel.shape[-1], s)
        return folded(kernel, a, a)

    def corner(kernel: Tensor, s: int) -> Tensor:
        turned = kernel.flip(2, 3).transpose(0, 1)
        return nn.functional.pad(turned, (0, s - 1, 0, s - 1))

    def unflipped(kernel: Tensor, s: int) -> Tensor:
        a = fold(kernel.shape[-1], s, flip=False)
        return folded(kernel, a, a)

    mistakes = {
        "not flipped": unflipped,
        "channels not exchanged": lambda k, s: right(k, s).transpose(0, 1),
        "not flipped, not exchanged": lambda k, s: unflipped(k, s).transpose(0, 1),
        "one axis only": [
            lambda k, s: folded(k, fold(k.shape[-1], s), torch.eye(k.shape[-1])),
            lambda k, s: folded(k, torch.eye(k.shape[-1]), fold(k.shape[-1], s)),
        ],
        "divided by the area": [
            lambda k, s: right(k, s) / s**2,
            lambda k, s: right(k, s) / s,
        ],
        "stretched": [
            lambda k, s: (
                k.flip(2, 3).transpose(0, 1).repeat_interleave(s, 2).repeat_interleave(s, 3)
            ),
            lambda k, s: k.transpose(0, 1).repeat_interleave(s, 2).repeat_interleave(s, 3),
        ],
        "not summed": [
            corner,
            lambda k, s: corner(k.flip(2, 3), s),
            lambda k, s: corner(k.flip(2, 3), s).flip(2, 3),
            lambda k, s: corner(k, s).flip(2, 3),
        ],
    }
    for where, channels, k, s in (
        ("kernel 3, factor 2, 2 channels to 3", (3, 2), 3, 2),
        ("kernel 5, factor 2, 2 channels to 2", (2, 2), 5, 2),
        ("kernel 3, factor 3, 1 channel to 2", (2, 1), 3, 3),
        ("kernel 1, factor 2", (1, 1), 1, 2),
        ("kernel 3, factor 1", (2, 3), 3, 1),
    ):
        args = attempt.normal(*channels, k, k), s
        attempt.value(where, args, right, mistakes=mistakes)
    kernel = attempt.normal(3, 2, 3, 3)
    attempt.gradient("kernel 3, factor 2", (kernel, 2), right, mistakes=mistakes)
    single = (kernel[:1].float(), 2)
    attempt.value("float32", single, right, tolerance=1e-5, mistakes=mistakes)
    attempt.any_device("kernel 3, factor 2, as on a GPU", kernel, 2)
