"""Answers to the exercises on lecture 1: right in different ways, and wrong as students write."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from answers import Answers
from torch.nn.functional import binary_cross_entropy

# ---------------------------------------------------------------------------- 1.1


def event_loop(happened):
    count = 0
    for h in happened:
        if h:
            count += 1
    p = count / len(happened)
    return p, (p * (1 - p) / len(happened)) ** 0.5


def event_vectorised(happened):
    p = happened.double().mean()
    return p, torch.sqrt(p * (1 - p) / happened.numel())


def event_numpy(happened):
    ones = happened.numpy().astype(float)
    return ones.mean(), ones.std() / np.sqrt(len(ones))  # numpy's std has the divisor n


def event_count(happened):
    n, count = len(happened), happened.sum().item()
    p = count / n
    return count, math.sqrt(p * (1 - p) / n)


def event_floor(happened):
    n = len(happened)
    p = int(happened.sum()) // n
    return p, math.sqrt(p * (1 - p) / n)


def event_from_sample(happened):
    x = happened.double()
    return x.mean().item(), (x.std() / math.sqrt(len(x))).item()


# ---------------------------------------------------------------------------- 1.2


def mean_loop(batches):
    """Welford's running mean and sum of squares."""
    n, mean, squares = 0, 0.0, 0.0
    for batch in batches:
        for x in batch.tolist():
            n += 1
            delta = x - mean
            mean += delta / n
            squares += delta * (x - mean)
    return mean, math.sqrt(squares / (n - 1) / n)


def mean_vectorised(batches):
    x = torch.cat(batches)
    return x.mean(), x.std() / len(x) ** 0.5


def mean_two_passes(batches):
    n = sum(len(b) for b in batches)
    mean = sum(b.sum() for b in batches) / n
    squares = sum(((b - mean) ** 2).sum() for b in batches)
    return mean.item(), math.sqrt(squares / (n * (n - 1)))


def mean_numpy_default(batches):
    # numpy's std divides by n, torch's by n - 1: pytorch/pytorch #1082, #1854, #2436.
    x = np.concatenate([b.numpy() for b in batches])
    return x.mean(), x.std() / np.sqrt(len(x))


def mean_merged(batches):
    n = sum(len(b) for b in batches)
    mean = sum(len(b) * b.mean() for b in batches) / n
    variances = [((b - b.mean()) ** 2).sum() / (len(b) - 1) for b in batches]
    inside = sum((len(b) - 1) * v for b, v in zip(batches, variances, strict=True))
    between = sum(len(b) * (b.mean() - mean) ** 2 for b in batches)
    return mean.item(), torch.sqrt((inside + between) / (n - 1) / n).item()


def mean_of_squares(batches):
    n = sum(len(b) for b in batches)
    mean = sum(b.sum() for b in batches) / n
    variance = (sum((b**2).sum() for b in batches) / n - mean**2) * n / (n - 1)
    return mean.item(), torch.sqrt(variance / n).item()


def mean_with(second):
    def answer(batches):
        x = torch.cat(batches)
        return x.mean().item(), float(second(x, batches))

    return answer


# ---------------------------------------------------------------------------- 1.3


def image_loop(x, p):
    rows = []
    for image in x:
        total = p.new_zeros(())
        for pixel, chance in zip(image, p, strict=True):
            total = total + torch.log(chance if pixel == 1 else 1 - chance)
        rows.append(total)
    return torch.stack(rows)


def image_where(x, p):
    return torch.where(x.bool(), torch.log(p), torch.log1p(-p)).sum(dim=1)


def image_xlogy(x, p):
    return (torch.special.xlogy(x, p) + torch.special.xlog1py(1 - x, -p)).sum(-1)


def image_formula(x, p):
    return (x * torch.log(p) + (1 - x) * torch.log(1 - p)).sum(-1)


def image_bernoulli(x, p):
    """torch keeps probabilities away from 0 and 1 when it turns them into log-odds."""
    return torch.distributions.Bernoulli(probs=p).log_prob(x).sum(-1)


# ---------------------------------------------------------------------------- 1.4


def histogram_loop(x, edges):
    heights = []
    for b in range(len(edges) - 1):
        low, high = edges[b], edges[b + 1]
        inside = (x >= low) & (x < high)
        if b == len(edges) - 2:
            inside = inside | (x == high)
        heights.append(inside.sum() / (len(x) * (high - low)))
    return torch.stack(heights)


def histogram_torch(x, edges):
    return torch.histogram(x, edges).hist / (x.numel() * torch.diff(edges))


def histogram_numpy(x, edges):
    counts, _ = np.histogram(x.numpy(), edges.numpy())
    return torch.from_numpy(counts / len(x)).to(x.dtype) / edges.diff()


def histogram_library(x, edges):
    """Divides by the samples inside, as numpy and matplotlib do (matplotlib/matplotlib #10398)."""
    return torch.from_numpy(np.histogram(x.numpy(), edges.numpy(), density=True)[0])


def histogram_half_open(x, edges):
    # digitize and histogram disagree on the last edge: matplotlib/matplotlib #5367.
    which = torch.bucketize(x, edges, right=True)
    counts = torch.bincount(which, minlength=len(edges) + 1)[1 : len(edges)]
    return counts / (len(x) * edges.diff())


def histogram_closed_right(x, edges):
    which = torch.bucketize(x, edges)
    counts = torch.bincount(which, minlength=len(edges) + 1)[1 : len(edges)]
    return counts / (len(x) * edges.diff())


def histogram_closed(x, edges):
    heights = []
    for low, high in pairwise(edges):
        heights.append(((x >= low) & (x <= high)).sum() / (len(x) * (high - low)))
    return torch.stack(heights)


def broken_histogram(x, edges):
    which = torch.bucketize(x, edges[1:-1].contiguous(), right=True)
    return torch.bincount(which, minlength=len(edges) - 1) / len(x)


# ---------------------------------------------------------------------------- 1.5


def noise_at_once(batches, size, seed):
    return torch.randn(batches, size, generator=torch.Generator().manual_seed(seed))


def noise_loop(batches, size, seed):
    generator = torch.Generator()
    generator.manual_seed(seed)
    return torch.stack([torch.randn(size, generator=generator) for _ in range(batches)])


def noise_numpy(batches, size, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((batches, size)))


def broken_noise(batches, size, seed):
    # The same numbers in each batch: pytorch/pytorch #5059, facebookresearch/fairseq #1383.
    rows = []
    for _ in range(batches):
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.randn(size, generator=generator))
    return torch.stack(rows)


def noise_global(batches, size, seed):
    torch.manual_seed(seed)
    return torch.randn(batches, size)


def noise_added_seeds(batches, size, seed):
    generator = torch.Generator()
    rows = []
    for i in range(batches):
        generator.manual_seed(seed + i)
        rows.append(torch.randn(size, generator=generator))
    return torch.stack(rows)


# ---------------------------------------------------------------------------- 1.6


def chance_logsumexp(d, r, q):
    k = torch.arange(r + 1).double()
    n = torch.full_like(k, d)
    terms = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    terms += k * math.log(q) + (n - k) * math.log(1 - q)
    return torch.logsumexp(terms, 0).item()


def chance_loop(d, r, q):
    """Each term from the one before it, added in logarithms."""
    term = d * math.log(1 - q)
    total = term
    for k in range(1, r + 1):
        term += math.log(d - k + 1) - math.log(k) + math.log(q) - math.log(1 - q)
        total = np.logaddexp(total, term)
    return total


def chance_exact(d, r, q):
    """With whole numbers of any size; Python takes their logarithm."""
    a, b = Fraction(q).as_integer_ratio()
    total = sum(math.comb(d, k) * a**k * (b - a) ** (d - k) for k in range(r + 1))
    return math.log(total) - d * math.log(b)


def chance_plain(d, r, q):
    total = 0.0
    for k in range(r + 1):
        total += math.comb(d, k) * q**k * (1 - q) ** (d - k)
    return math.log(total)


def chance_torch_plain(d, r, q):
    # The logarithm of a probability that has been rounded to 0: JuliaStats/StatsFuns.jl #33.
    return (
        torch.tensor(
            [math.comb(d, k) * q**k * (1 - q) ** (d - k) for k in range(r + 1)], dtype=torch.float64
        )
        .sum()
        .log()
    )


def chance_float32(d, r, q):
    k = torch.arange(r + 1)
    n = torch.tensor(d)
    terms = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return torch.logsumexp(terms + k * math.log(q) + (n - k) * math.log(1 - q), 0)


def chance_without_coefficients(d, r, q):
    k = torch.arange(r + 1).double()
    return torch.logsumexp(k * math.log(q) + (d - k) * math.log(1 - q), 0)


BANK = {
    "event_probability": Answers(
        right={"loop": event_loop, "vectorised": event_vectorised, "numpy": event_numpy},
        wrong={
            "raised": lambda h: (h.mean(), h.std() / len(h) ** 0.5),
            "count, not a frequency": event_count,
            "whole-number division": event_floor,
            "variance for error": lambda h: (
                h.double().mean(),
                h.double().mean() * (1 - h.double().mean()) / len(h),
            ),
            "error of one draw": lambda h: (h.float().mean(), h.float().std()),
            "spread of the count": lambda h: (
                h.double().mean(),
                math.sqrt(len(h)) * h.double().std(correction=0),
            ),
            "1 - p forgotten": lambda h: (h.double().mean(), (h.double().mean() / len(h)).sqrt()),
            "divided by n - 1": event_from_sample,
        },
    ),
    "mean_and_error": Answers(
        right={
            "loop": mean_loop,
            "vectorised": mean_vectorised,
            "two passes": mean_two_passes,
        },
        wrong={
            "mean of means": lambda batches: (
                torch.stack([b.mean() for b in batches]).mean(),
                torch.cat(batches).std() / math.sqrt(sum(map(len, batches))),
            ),
            "divided by n": mean_numpy_default,
            "single precision": lambda batches: (
                torch.tensor([x for b in batches for x in b.tolist()]).mean(),
                torch.tensor([x for b in batches for x in b.tolist()]).std()
                / math.sqrt(sum(map(len, batches))),
            ),
            "error of one draw": mean_with(lambda x, batches: x.std()),
            "variance for error": mean_with(lambda x, batches: x.var() / len(x)),
            "average of the errors": mean_with(
                lambda x, batches: sum(b.std() / len(b) ** 0.5 for b in batches) / len(batches)
            ),
            "spread of the batch means": mean_with(
                lambda x, batches: (
                    torch.stack([b.mean() for b in batches]).std() / len(batches) ** 0.5
                )
            ),
            "within the batches only": mean_with(
                lambda x, batches: math.sqrt(
                    sum(b.var() * (len(b) - 1) for b in batches) / (len(x) - len(batches)) / len(x)
                )
            ),
            "not finite": mean_merged,
            "cancellation": mean_of_squares,
        },
    ),
    "image_log_probability": Answers(
        right={"loop": image_loop, "where": image_where, "xlogy": image_xlogy},
        wrong={
            "averaged over pixels": lambda x, p: image_where(x, p) / x.shape[1],
            "one number for the batch": lambda x, p: image_formula(x, p).mean(),
            "ink only": lambda x, p: (x * p.log()).sum(-1),
            "minus sign": lambda x, p: binary_cross_entropy(
                p.expand_as(x), x, reduction="none"
            ).sum(-1),
            "ink and paper swapped": lambda x, p: ((1 - x) * p.log() + x * (1 - p).log()).sum(1),
            "base two": lambda x, p: torch.where(x == 1, p, 1 - p).log2().sum(-1),
            "no logarithm": lambda x, p: torch.where(x == 1, p, 1 - p).prod(-1),
            "product underflows": lambda x, p: torch.where(x == 1, p, 1 - p).prod(-1).log(),
            "clamped": image_bernoulli,
            "zero times minus infinity": image_formula,
            "no gradient": lambda x, p: torch.from_numpy(
                np.log(np.where(x.numpy() == 1, p.detach().numpy(), 1 - p.detach().numpy())).sum(-1)
            ),
        },
    ),
    "histogram_density": Answers(
        right={"loop": histogram_loop, "torch": histogram_torch, "numpy": histogram_numpy},
        wrong={
            "nothing mended": broken_histogram,
            "counts": lambda x, e: torch.histogram(x, e).hist,
            "not divided by N": lambda x, e: torch.histogram(x, e).hist / e.diff(),
            "shares, not heights": lambda x, e: torch.histogram(x, e).hist / len(x),
            "outliers in the end bins": lambda x, e: broken_histogram(x, e) / e.diff(),
            "inside only": histogram_library,
            "one width for all": lambda x, e: torch.histogram(x, e).hist / (len(x) * (e[1] - e[0])),
            "white pixels lost": histogram_half_open,
            "bins closed on the wrong side": histogram_closed_right,
            "counted twice": histogram_closed,
        },
    ),
    "mended_noise": Answers(
        right={"at once": noise_at_once, "loop": noise_loop, "numpy": noise_numpy},
        wrong={
            "same batch again": broken_noise,
            "not repeatable": lambda batches, size, seed: torch.randn(batches, size),
            "seed ignored": lambda batches, size, seed: noise_at_once(batches, size, 0),
            # mrdbourke/pytorch-deep-learning #245 asks where manual_seed belongs.
            "global generator": noise_global,
            "seeds overlap": noise_added_seeds,
            "another law": lambda batches, size, seed: torch.rand(
                batches, size, generator=torch.Generator().manual_seed(seed)
            ),
            "wrong shape": lambda batches, size, seed: noise_at_once(size, batches, seed),
        },
    ),
    "log_chance_of_close": Answers(
        right={"logsumexp": chance_logsumexp, "loop": chance_loop, "exact": chance_exact},
        wrong={
            "strictly fewer": lambda d, r, q: chance_logsumexp(d, r - 1, q),
            "exactly r": lambda d, r, q: math.log(math.comb(d, r) * q**r * (1 - q) ** (d - r)),
            "q and 1 - q swapped": lambda d, r, q: chance_logsumexp(d, r, 1 - q),
            "coefficients forgotten": chance_without_coefficients,
            "other tail": lambda d, r, q: math.log1p(-math.exp(chance_logsumexp(d, r, q))),
            "base ten": lambda d, r, q: chance_logsumexp(d, r, q) / math.log(10),
            "not a logarithm": lambda d, r, q: math.exp(chance_logsumexp(d, r, q)),
            "raised": chance_plain,
            "not finite": chance_torch_plain,
            "single precision": chance_float32,
        },
    ),
}
