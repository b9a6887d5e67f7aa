"""Answers to the exercises on lecture 20: right in different ways, and wrong as students write."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from answers import Answers
from torch.utils.flop_counter import FlopCounterMode

# ---------------------------------------------------------------------------- 20.1


def speed_loop(milliseconds, factors):
    before = after = 0.0
    for t, s in zip(milliseconds, factors, strict=True):
        before += t
        after += t / s
    return before / after


def speed_by_shares(milliseconds, factors):
    shares = np.array(milliseconds) / sum(milliseconds)
    return 1 / np.sum(shares / np.array(factors))


def speed_in_torch(milliseconds, factors):
    t, s = (torch.tensor(v, dtype=torch.float64) for v in (milliseconds, factors))
    return (t.sum() / (t / s).sum()).item()


def speed_by_rates(milliseconds, factors):
    """A harmonic mean through the rates of the stages; breaks where a stage vanishes."""
    after = [t - t * (s - 1) / s for t, s in zip(milliseconds, factors, strict=True)]
    return sum(milliseconds) / sum(after)


# ---------------------------------------------------------------------------- 20.2


def work_formula(batch, c, o, height, width, k, s, p, size):
    rows, columns = ((n + 2 * p - k) // s + 1 for n in (height, width))
    flops = 2 * batch * o * rows * columns * c * k**2
    numbers = batch * c * height * width + o * c * k**2 + batch * o * rows * columns
    return flops, flops / (size * numbers)


def work_counted(batch, c, o, height, width, k, s, p, size):
    """Counted by torch, on its device without storage."""
    x = torch.empty(batch, c, height, width, device="meta")
    kernel = torch.empty(o, c, k, k, device="meta")
    with FlopCounterMode(display=False) as counter:
        y = F.conv2d(x, kernel, stride=s, padding=p)
    flops = counter.get_total_flops()
    return flops, flops / size / sum(t.numel() for t in (x, kernel, y))


def work_window_by_window(batch, c, o, height, width, k, s, p, size):
    starts = [len(range(-p, n + p - k + 1, s)) for n in (height, width)]
    multiplications = batch * o * starts[0] * starts[1] * c * k * k
    moved = size * (batch * c * height * width + o * c * k * k + batch * o * starts[0] * starts[1])
    return float(2 * multiplications), 2 * multiplications / moved


def work_with(flops=None, intensity=None):
    """The formula with another first or second value."""

    def answer(*args):
        right = work_formula(*args)
        first = flops(*args) if flops else right[0]
        return first, intensity(first, *args) if intensity else right[1]

    return answer


def work_rounded(batch, c, o, height, width, k, s, p, size):
    rows, columns = (round((n + 2 * p - k) / s + 1) for n in (height, width))
    return 2 * batch * o * rows * columns * c * k**2


def output_side(n, k, s, p):
    return (n + 2 * p - k) // s + 1


def numbers(b, c, o, h, w, k, s, p, size):
    return b * c * h * w, o * c * k * k, b * o * output_side(h, k, s, p) * output_side(w, k, s, p)


def reads_of_windows(f, b, c, o, h, w, k, s, p, size):
    sides = output_side(h, k, s, p) * output_side(w, k, s, p)
    return f / size / (b * sides * c * k * k + o * c * k * k + b * o * sides)


# ---------------------------------------------------------------------------- 20.3


def joined_loop(gradients, counts):
    total, result = sum(counts), [torch.zeros_like(g) for g in gradients[0]]
    for part, n in zip(gradients, counts, strict=True):
        result = [r + n / total * g for r, g in zip(result, part, strict=True)]
    return result


def joined_stacked(gradients, counts):
    result = []
    for parts in zip(*gradients, strict=True):
        stacked = torch.stack(parts)
        weights = stacked.new_tensor(counts) / sum(counts)
        result.append(torch.tensordot(weights, stacked, dims=1))
    return result


def joined_flat(gradients, counts):
    """All tensors of a process in one row, as one message would carry them."""
    rows = torch.stack([torch.cat([g.flatten() for g in part]) for part in gradients])
    weights = torch.tensor(counts, dtype=rows.dtype)
    mean = (weights @ rows) / weights.sum()
    pieces = mean.split([g.numel() for g in gradients[0]])
    return [p.view_as(g) for p, g in zip(pieces, gradients[0], strict=True)]


def joined_with(weight):
    return lambda gradients, counts: [
        sum(weight(n, counts) * g for n, g in zip(counts, parts, strict=True))
        for parts in zip(*gradients, strict=True)
    ]


def joined_in_place(gradients, counts):
    result = gradients[0]
    for r in result:
        r.mul_(counts[0] / sum(counts))
    for part, n in zip(gradients[1:], counts[1:], strict=True):
        for r, g in zip(result, part, strict=True):
            r.add_(g, alpha=n / sum(counts))
    return result


# ---------------------------------------------------------------------------- 20.4


def spacing_frexp(w, digits):
    _, exponent = torch.frexp(w)
    return torch.ldexp(torch.ones_like(w), exponent - digits)


def spacing_log(w, digits):
    return 2.0 ** (w.abs().log2().floor() + 1 - digits)


def spacing_loop(w, digits):
    found = []
    for value in w.abs().tolist():
        step = 2.0 ** (1 - digits)
        while value >= 2:
            value, step = value / 2, step * 2
        while value < 1:
            value, step = value * 2, step / 2
        found.append(step)
    return torch.tensor(found, dtype=w.dtype)


def spacing_with(exponent):
    return lambda w, p: 2.0 ** (exponent(w) + 1 - p)


# ---------------------------------------------------------------------------- 20.5


def rate_plain(step, clock, synchronise, batch_size, warm_up, updates):
    for _ in range(warm_up):
        step()
    synchronise()
    start = clock()
    for _ in range(updates):
        step()
    synchronise()
    return batch_size * updates / (clock() - start)


def rate_while(step, clock, synchronise, batch_size, warm_up, updates):
    done, start = 0, None
    while done < warm_up + updates:
        if done == warm_up:
            synchronise()
            start = clock()
        step()
        done += 1
    synchronise()
    seconds = clock() - start
    return updates / seconds * batch_size


def rate_with_a_helper(step, clock, synchronise, batch_size, warm_up, updates):
    def many(n):
        synchronise()
        start = clock()
        [step() for _ in range(n)]
        synchronise()
        return clock() - start

    many(warm_up)
    return batch_size / (many(updates) / updates)


def rate_end_not_awaited(step, clock, synchronise, batch_size, warm_up, updates):
    for _ in range(warm_up):
        step()
    synchronise()
    start = clock()
    for _ in range(updates):
        step()
    return batch_size * updates / (clock() - start)


def rate_start_not_awaited(step, clock, synchronise, batch_size, warm_up, updates):
    for _ in range(warm_up):
        step()
    start = clock()
    for _ in range(updates):
        step()
    synchronise()
    return batch_size * updates / (clock() - start)


def rate_with_warm_up(step, clock, synchronise, batch_size, warm_up, updates):
    start = clock()
    for _ in range(warm_up):
        step()
    synchronise()
    for _ in range(updates):
        step()
    synchronise()
    return batch_size * updates / (clock() - start)


def rate_waiting(step, clock, synchronise, batch_size, warm_up, updates):
    for _ in range(warm_up):
        step()
    synchronise()
    start = clock()
    for _ in range(updates):
        step()
        synchronise()
    return batch_size * updates / (clock() - start)


def rate_of_rates(step, clock, synchronise, batch_size, warm_up, updates):
    for _ in range(warm_up):
        step()
    rates = []
    for _ in range(updates):
        synchronise()
        start = clock()
        step()
        synchronise()
        rates.append(batch_size / (clock() - start))
    return sum(rates) / len(rates)


def rate_without_warm_up(step, clock, synchronise, batch_size, warm_up, updates):
    start = clock()
    for _ in range(updates):
        step()
    synchronise()
    return batch_size * updates / (clock() - start)


# ---------------------------------------------------------------------------- 20.6


def fold_matrix(kernel, factor, flip=True):
    k = kernel.shape[-1]
    a = kernel.new_zeros(k + factor - 1, k)
    for tap in range(k):
        start = k - 1 - tap if flip else tap
        a[start : start + factor, tap] = 1
    return a


def folded_by_matrix(kernel, factor):
    a = fold_matrix(kernel, factor)
    return torch.einsum("ak,oikl,bl->ioab", a, kernel, a)


def folded_by_convolution(kernel, factor):
    """The flipped kernel, convolved in full with a square of ones."""
    turned = kernel.flip((2, 3)).transpose(0, 1)
    i, o, k, _ = turned.shape
    ones = kernel.new_ones(1, 1, factor, factor)
    full = F.conv2d(turned.reshape(i * o, 1, k, k), ones, padding=factor - 1)
    return full.view(i, o, k + factor - 1, k + factor - 1)


def folded_by_shifts(kernel, factor):
    turned = kernel.flip((-1, -2)).permute(1, 0, 2, 3)
    result = 0
    for i in range(factor):
        for j in range(factor):
            result = result + F.pad(turned, (j, factor - 1 - j, i, factor - 1 - i))
    return result


def folded_by_a_pixel(kernel, factor):
    """What one white pixel becomes: upsample it, convolve, and cut out where it reaches."""
    i, k = kernel.shape[1:3]
    reach, place = k + factor - 1, k
    rows = []
    for channel in range(i):
        image = kernel.new_zeros(1, i, 2 * place + 1, 2 * place + 1)
        image[0, channel, place, place] = 1
        large = image.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        y = F.conv2d(large, kernel, padding=k // 2)[0]
        first = place * factor - k // 2
        rows.append(y[:, first : first + reach, first : first + reach])
    return torch.stack(rows)


def folded_on_the_cpu(kernel, factor):
    k = kernel.shape[-1]
    a = torch.zeros(k + factor - 1, k, dtype=kernel.dtype)
    for tap in range(k):
        a[k - 1 - tap : k - 1 - tap + factor, tap] = 1
    return torch.einsum("ak,oikl,bl->ioab", a, kernel, a)


def folded_unflipped(kernel, factor):
    a = fold_matrix(kernel, factor, flip=False)
    return torch.einsum("ak,oikl,bl->ioab", a, kernel, a)


def folded_one_axis(kernel, factor):
    return torch.einsum("ak,oikl->ioal", fold_matrix(kernel, factor), kernel)


def folded_stretched(kernel, factor):
    turned = kernel.flip((2, 3)).transpose(0, 1)
    return F.interpolate(turned, scale_factor=factor)


BANK = {
    "speed_up": Answers(
        right={"loop": speed_loop, "shares": speed_by_shares, "torch": speed_in_torch},
        wrong={
            "milliseconds for shares": lambda t, s: (
                1 / sum(a / b for a, b in zip(t, s, strict=True))
            ),
            "time for speed": lambda t, s: sum(a / b for a, b in zip(t, s, strict=True)) / sum(t),
            "mean of the factors": lambda t, s: float(np.average(s, weights=t)),
            "product": lambda t, s: float(np.prod(s)),
            "largest stage only": lambda t, s: (
                1 / (1 - max(t) / sum(t) + max(t) / sum(t) / s[int(np.argmax(t))])
            ),
            "plain mean": lambda t, s: float(np.mean(s)),
            "not finite": speed_by_rates,
        },
    ),
    "convolution_work": Answers(
        right={
            "formula": work_formula,
            "counted": work_counted,
            "windows": work_window_by_window,
        },
        wrong={
            # sovrasov/flops-counter.pytorch issue 40, Lyken17/pytorch-OpCounter issue 37: MACs
            "one for two": work_with(lambda *a: work_formula(*a)[0] // 2),
            "input pixels": work_with(
                lambda b, c, o, h, w, k, s, p, size: 2 * b * o * h * w * c * k * k
            ),
            "one row short": work_with(
                lambda b, c, o, h, w, k, s, p, size: (
                    2 * b * o * ((h + 2 * p - k) // s) * ((w + 2 * p - k) // s) * c * k * k
                )
            ),
            "padding forgotten": work_with(
                lambda b, c, o, h, w, k, s, p, size: (
                    2 * b * o * output_side(h, k, s, 0) * output_side(w, k, s, 0) * c * k * k
                )
            ),
            "kernel once": work_with(lambda *a: work_formula(*a)[0] / a[5]),
            "batch forgotten": work_with(lambda *a: work_formula(1, *a[1:])[0]),
            "not rounded down": work_with(work_rounded),
            "numbers for bytes": work_with(intensity=lambda f, *a: f / sum(numbers(*a))),
            "weights not moved": work_with(
                intensity=lambda f, *a: f / a[8] / sum(numbers(*a)[::2])
            ),
            "output not written": work_with(
                intensity=lambda f, *a: f / a[8] / sum(numbers(*a)[:2])
            ),
            "image read for every window": work_with(intensity=reads_of_windows),
            "bytes per operation": work_with(intensity=lambda f, *a: a[8] * sum(numbers(*a)) / f),
        },
    ),
    "joined_gradients": Answers(
        right={"loop": joined_loop, "stacked": joined_stacked, "flat": joined_flat},
        wrong={
            # huggingface/transformers issue 608, keras-team/keras issue 20241: means of parts
            # of different sizes
            "plain mean": joined_with(lambda n, counts: 1 / len(counts)),
            "sum": joined_with(lambda n, counts: 1),
            "shares not divided": joined_with(lambda n, counts: n),
            "divided twice": joined_with(lambda n, counts: n / sum(counts) / len(counts)),
            "other way round": joined_with(lambda n, counts: (1 / n) / sum(1 / m for m in counts)),
            "first process only": lambda gradients, counts: list(gradients[0]),
            "changes its input": joined_in_place,
            "wrong dtype": lambda gradients, counts: [
                g.double() for g in joined_loop(gradients, counts)
            ],
        },
    ),
    "float_spacing": Answers(
        right={"frexp": spacing_frexp, "logarithm": spacing_log, "loop": spacing_loop},
        wrong={
            # workofart/ml-by-hand pull request 85: spacings above and below 1 differ
            "step above one everywhere": lambda w, p: torch.full_like(w, 2.0 ** (1 - p)),
            # pytorch/ao pull request 1124 speaks of updates relative to the weight
            "relative everywhere": lambda w, p: w.abs() * 2.0 ** (1 - p),
            "half of it": spacing_with(lambda w: w.abs().log2().floor() - 1),
            "twice of it": spacing_with(lambda w: w.abs().log2().floor() + 1),
            "nearest power": spacing_with(lambda w: w.abs().log2().round()),
            "towards zero": spacing_with(lambda w: w.abs().log2().trunc()),
            "power above": spacing_with(lambda w: w.abs().log2().ceil()),
            "integer power": lambda w, p: 2 ** (torch.frexp(w)[1] - p),
            "sign of w": lambda w, p: spacing_frexp(w, p) * w.sign(),
            "not finite": spacing_with(lambda w: w.log2().floor()),
            "wrong dtype": lambda w, p: spacing_frexp(w.double(), p),
        },
    ),
    "images_per_second": Answers(
        right={"plain": rate_plain, "while": rate_while, "helper": rate_with_a_helper},
        wrong={
            # pytorch/pytorch issue 80129, TristanBilot/mlx-benchmark pull request 21,
            # uber-research/DeepPruner issue 16: clocks read while the device works
            "end not awaited": rate_end_not_awaited,
            "start not awaited": rate_start_not_awaited,
            # pytorch/pytorch issue 93634: warm-up, and waiting in every step
            "warm-up timed": rate_with_warm_up,
            "waits in every update": rate_waiting,
            "mean of rates": rate_of_rates,
            "updates per second": lambda *a: rate_plain(*a) / a[3],
            "seconds per image": lambda *a: 1 / rate_plain(*a),
            "other number of updates": rate_without_warm_up,
            "own clock": lambda s, c, *a: rate_plain(s, time.perf_counter, *a),
        },
    ),
    "folded_kernel": Answers(
        right={
            "matrix": folded_by_matrix,
            "convolution": folded_by_convolution,
            "shifts": folded_by_shifts,
            "a white pixel": folded_by_a_pixel,
        },
        wrong={
            "not flipped": folded_unflipped,
            "not flipped, not exchanged": lambda k, s: folded_unflipped(k, s).transpose(0, 1),
            "channels not exchanged": lambda k, s: folded_by_shifts(k, s).transpose(0, 1),
            "one axis only": folded_one_axis,
            "divided by the area": lambda k, s: folded_by_shifts(k, s) / s**2,
            "stretched": folded_stretched,
            "not summed": lambda k, s: F.pad(k.flip((2, 3)).transpose(0, 1), (0, s - 1, 0, s - 1)),
            "wrong shape": lambda k, s: F.pad(folded_by_shifts(k, s), (1, 1, 1, 1)),
            "no gradient": lambda k, s: folded_by_shifts(k.detach(), s),
            "wrong device": folded_on_the_cpu,
        },
    ),
}
