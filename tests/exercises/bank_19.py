"""Answers to the exercises on lecture 19: right in different ways, and wrong as students write."""

from __future__ import annotations

import math

import numpy as np
import torch
from answers import Answers
from torch.distributions import Bernoulli

from course_lib import metrics

# ---------------------------------------------------------------------------- 19.1


def with_bits(nats):
    """A function of grey images that gives these nats and the right conversion of them."""
    return lambda g: (nats(g), nats(g) / (g[0].numel() * math.log(2)))


def tosses_by_distribution(grey):
    nats = Bernoulli(probs=grey.double()).entropy().flatten(1).sum(1).mean()
    return float(nats), float(nats) / math.log(2) / grey[0].numel()


def tosses_loop(grey):
    total = 0.0
    for image in grey:
        for g in image.flatten().tolist():
            for share in (g, 1 - g):
                if share > 0:
                    total -= share * math.log(share)
    nats = total / len(grey)
    return nats, nats / (math.log(2) * grey[0].numel())


def tosses_clamped(grey):
    g = grey.double().clamp(1e-7, 1 - 1e-7)
    nats = -(g * g.log() + (1 - g) * (1 - g).log()).flatten(1).sum(1).mean()
    return nats, nats / (grey[0].numel() * np.log(2))


def coin(g):
    return -(g * g.log() + (1 - g) * (1 - g).log())


def summed(g):
    return coin(g).flatten(1).sum(1).mean()


# ---------------------------------------------------------------------------- 19.2


def estimate_stable(log_w):
    values = torch.logsumexp(log_w, dim=1) - math.log(log_w.shape[1])
    return values.mean(), values.std() / math.sqrt(len(values))


def estimate_by_hand(log_w):
    largest = log_w.max(1, keepdim=True).values
    values = ((log_w - largest).exp().mean(1).log() + largest[:, 0]).double().numpy()
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def estimate_loop(log_w):
    values = []
    for row in log_w.tolist():
        top = max(row)
        values.append(top + math.log(sum(math.exp(v - top) for v in row) / len(row)))
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def estimate_with(values=None, mean=None, error=None):
    values = values or (lambda w: w.logsumexp(1) - math.log(w.shape[1]))
    mean = mean or (lambda v, w: v.mean())
    error = error or (lambda v, w: v.std() / len(v) ** 0.5)
    return lambda w: (mean(values(w), w), error(values(w), w))


# ---------------------------------------------------------------------------- 19.3


def draws_by_softmax(log_w):
    ess = 1 / torch.softmax(log_w, 1).square().sum(1)
    return ess, (1 / ess - 1 / log_w.shape[1]) / 2


def draws_in_logarithms(log_w):
    ess = (2 * log_w.logsumexp(1) - (2 * log_w).logsumexp(1)).exp()
    return ess, 0.5 / ess - 0.5 / log_w.shape[1]


def draws_loop(log_w):
    found = []
    for row in log_w:
        w = (row - row.max()).exp()
        found.append(w.sum() ** 2 / (w**2).sum())
    ess = torch.stack(found)
    rho = log_w.shape[1] / ess
    return ess, (rho - 1) / (2 * log_w.shape[1])


def draws_with(ess=None, gap=None):
    ess = ess or (lambda w: 1 / w.softmax(1).square().sum(1))
    gap = gap or (lambda e, k: 0.5 * (1 / e - 1 / k))
    return lambda w: (ess(w), gap(ess(w), w.shape[1]))


def draws_overflowing(log_w):
    w = log_w.exp() / log_w.exp().sum(1, keepdim=True)
    ess = 1 / (w**2).sum(1)
    return ess, 0.5 * (1 / ess - 1 / log_w.shape[1])


# ---------------------------------------------------------------------------- 19.4


def units(mu, log_var):
    variance = mu.var(0)
    return variance, int((variance > 0.01).sum())


def units_loop(mu, log_var):
    variances = []
    for u in range(mu.shape[1]):
        values = mu[:, u]
        variances.append(((values - values.mean()) ** 2).sum() / (len(values) - 1))
    return torch.stack(variances), sum(v.item() > 0.01 for v in variances)


def units_of_library(mu, log_var):
    """The library's function takes a model."""
    model = type("Model", (), {"encode": staticmethod(lambda x: (mu, log_var))})()
    found = metrics.active_units(model, mu)
    return found.variances.to(mu), found.count


def units_with(variance, count=lambda v: int((v > 0.01).sum())):
    return lambda mu, log_var: (variance(mu, log_var), count(variance(mu, log_var)))


# ---------------------------------------------------------------------------- 19.5


def streamed_at_once(chunks):
    together = torch.cat(list(chunks))
    return together.logsumexp(0) - math.log(len(together))


def streamed_logaddexp(chunks):
    total, count = torch.full_like(chunks[0][0], -math.inf), 0
    for chunk in chunks:
        for row in chunk:
            total = torch.logaddexp(total, row)
            count += 1
    return total - math.log(count)


def streamed_bounds(chunks):
    """Bound of each chunk, weighed by its size inside the logarithm."""
    sums = torch.stack([c.logsumexp(0) for c in chunks])
    return torch.logsumexp(sums, 0) - math.log(sum(len(c) for c in chunks))


def streamed_from_zero(chunks):
    total, count = torch.zeros_like(chunks[0][0]), 0
    for chunk in chunks:
        total = torch.logaddexp(total, chunk.logsumexp(0))
        count += len(chunk)
    return total - math.log(count)


def bounds(chunks):
    return torch.stack([c.logsumexp(0) - math.log(len(c)) for c in chunks])


# ---------------------------------------------------------------------------- 19.6


def log_mean(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


def jackknife_loop(log_w):
    k = len(log_w)
    left_out = [log_mean(torch.cat([log_w[:i], log_w[i + 1 :]])) for i in range(k)]
    return k * log_mean(log_w) - (k - 1) * torch.stack(left_out).mean(0)


def jackknife_masked(log_w):
    k = len(log_w)
    mask = torch.zeros(k, k, 1, dtype=log_w.dtype)
    mask.diagonal(dim1=0, dim2=1).fill_(-math.inf)
    left_out = (log_w[None] + mask).logsumexp(1) - math.log(k - 1)
    return k * log_mean(log_w) - (k - 1) * left_out.mean(0)


def jackknife_from_both_ends(log_w):
    k = len(log_w)
    none = torch.full_like(log_w[:1], -math.inf)
    before = torch.cat([none, log_w.logcumsumexp(0)[:-1]])
    after = torch.cat([log_w.flip(0).logcumsumexp(0).flip(0)[1:], none])
    left_out = torch.logaddexp(before, after) - math.log(k - 1)
    return k * log_mean(log_w) - (k - 1) * left_out.mean(0)


def jackknife_subtracting(log_w):
    k = len(log_w)
    top = log_w.max(0).values
    w = (log_w - top).exp()
    left_out = ((w.sum(0) - w) / (k - 1)).log() + top
    return k * log_mean(log_w) - (k - 1) * left_out.mean(0)


def jackknife_of(bound, count=lambda k: k):
    """The loop with another bound, and another number of draws after one is left out."""

    def answer(log_w):
        k = len(log_w)
        rest = [bound(torch.cat([log_w[:i], log_w[i + 1 :]]), count(k - 1)) for i in range(k)]
        return k * bound(log_w, k) - (k - 1) * torch.stack(rest).mean(0)

    return answer


def jackknife_exchanged(log_w):
    k = len(log_w)
    rest = torch.stack([log_mean(torch.cat([log_w[:i], log_w[i + 1 :]])) for i in range(k)])
    return k * rest.mean(0) - (k - 1) * log_mean(log_w)


BANK = {
    "entropy_of_tosses": Answers(
        right={
            "distribution": tosses_by_distribution,
            "loop": tosses_loop,
            "clamped": tosses_clamped,
        },
        wrong={
            "mean over pixels": with_bits(lambda g: coin(g).mean()),
            "summed over images": with_bits(lambda g: coin(g).sum()),
            "averaged over channels": with_bits(lambda g: coin(g).sum((2, 3)).mean()),
            "channels not counted": lambda g: (
                summed(g),
                summed(g) / math.log(2) / (g.shape[2] * g.shape[3]),
            ),
            "nats per dimension": lambda g: (summed(g), summed(g) / g[0].numel()),
            "divided by the images": lambda g: (summed(g), summed(g) / math.log(2) / g.numel()),
            "a small number added": with_bits(lambda g: summed(g.clamp(1e-5, 1 - 1e-5))),
            "one side only": with_bits(lambda g: -(g * g.log()).flatten(1).sum(1).mean()),
            "bits for nats": lambda g: (
                summed(g) / math.log(2),
                summed(g) / math.log(2) / g[0].numel(),
            ),
            "minus sign": with_bits(lambda g: -summed(g)),
            "pixels forgotten": lambda g: (summed(g), summed(g) / math.log(2)),
            "multiplied by log 2": lambda g: (summed(g), summed(g) / g[0].numel() * math.log(2)),
            # jhjacobsen/invertible-resnet issue 9: whence the 8 in bits per dimension of flows
            "eight bits added": lambda g: (summed(g), summed(g) / g[0].numel() / math.log(2) + 8),
            "not finite": with_bits(summed),
        },
    ),
    "log_likelihood_estimate": Answers(
        right={"stable": estimate_stable, "by hand": estimate_by_hand, "loop": estimate_loop},
        wrong={
            "logarithm of log weights": lambda w: (
                w.mean(1).log().mean(),
                w.mean(1).log().std() / len(w) ** 0.5,
            ),
            # arahuja/generative-tf issue 1: mean of logs for log of mean
            "mean of logs": estimate_with(lambda w: w.mean(1)),
            # scverse/scvi-tools issue 13: the first version of the code there has no log k
            "log k forgotten": estimate_with(lambda w: w.logsumexp(1)),
            "axes exchanged": estimate_with(lambda w: w.logsumexp(0) - math.log(len(w))),
            "one mean for all": estimate_with(mean=lambda v, w: w.exp().mean().log()),
            # tensorflow/probability issue 189: where the sign of a bound with k draws may stand
            "minus sign": estimate_with(mean=lambda v, w: -v.mean()),
            "spread for error": estimate_with(error=lambda v, w: v.std()),
            "root forgotten": estimate_with(error=lambda v, w: v.std() / len(v)),
            "draws for images": estimate_with(error=lambda v, w: v.std() / math.sqrt(w.shape[1])),
            "divisor n": estimate_with(error=lambda v, w: np.std(v.numpy()) / math.sqrt(len(v))),
            "draws counted as images": estimate_with(
                error=lambda v, w: v.std() / math.sqrt(w.numel())
            ),
            # xqding/Importance_Weighted_Autoencoders issue 2: is the maximum really necessary?
            "not finite": estimate_with(lambda w: w.exp().mean(1).log()),
        },
    ),
    "effective_draws": Answers(
        right={
            "softmax": draws_by_softmax,
            "logarithms": draws_in_logarithms,
            "loop": draws_loop,
            "more precisely": lambda w: draws_by_softmax(w.double()),
        },
        wrong={
            # pyprob/pyprob issue 36: effective sample size of weights that are not normalised
            "not normalised": draws_with(lambda w: 1 / (w.exp() ** 2).sum(1)),
            "square forgotten": draws_with(lambda w: 1 / w.softmax(1).sum(1)),
            "sum of squares": draws_with(lambda w: w.softmax(1).square().sum(1)),
            "share of the draws": draws_with(
                lambda w: 1 / w.softmax(1).square().sum(1) / w.shape[1]
            ),
            "log weights as weights": draws_with(
                lambda w: 1 / (w / w.sum(1, keepdim=True)).square().sum(1)
            ),
            "axes exchanged": draws_with(lambda w: 1 / w.softmax(0).square().sum(1)),
            "one over k forgotten": draws_with(gap=lambda e, k: 0.5 / e),
            "half forgotten": draws_with(gap=lambda e, k: 1 / e - 1 / k),
            "k forgotten": draws_with(gap=lambda e, k: 0.5 * (k / e - 1)),
            "minus sign": draws_with(gap=lambda e, k: 0.5 * (1 / k - 1 / e)),
            "not finite": draws_overflowing,
        },
    ),
    "burda_active_units": Answers(
        right={"variance": units, "loop": units_loop, "library": units_of_library},
        wrong={
            "width counted": units_with(lambda m, v: m.var(0) + v.exp().mean(0)),
            "square for variance": units_with(lambda m, v: (m**2).mean(0)),
            "deviation for variance": units_with(lambda m, v: m.std(0)),
            "variance over units": units_with(lambda m, v: m.var(1)),
            "divisor n": units_with(lambda m, v: torch.from_numpy(m.numpy().var(0))),
            "price for variance": units_with(lambda m, v: -0.5 * (1 + v - m**2 - v.exp()).mean(0)),
            "inactive counted": lambda m, v: (m.var(0), int((m.var(0) < 0.01).sum())),
            "threshold on deviations": lambda m, v: (m.var(0), int((m.std(0) > 0.01).sum())),
        },
    ),
    "streamed_bound": Answers(
        right={
            "at once": streamed_at_once,
            "draw by draw": streamed_logaddexp,
            "sums of chunks": streamed_bounds,
            "more precisely": lambda chunks: streamed_at_once([c.double() for c in chunks]),
        },
        wrong={
            "logarithm of log weights": lambda chunks: torch.cat(chunks).mean(0).log(),
            "mean of bounds": lambda c: bounds(c).mean(0),
            "number of images": lambda c: torch.cat(c).logsumexp(0) - math.log(c[0].shape[1]),
            "weighted mean of bounds": lambda c: (
                sum(len(x) * b for x, b in zip(c, bounds(c), strict=True)) / sum(map(len, c))
            ),
            "chunks weighted alike": lambda c: bounds(c).logsumexp(0) - math.log(len(c)),
            "number of chunks": lambda c: torch.cat(c).logsumexp(0) - math.log(len(c)),
            "size of the first chunk": lambda c: (
                torch.cat(c).logsumexp(0) - math.log(len(c) * len(c[0]))
            ),
            "log k forgotten": lambda c: torch.cat(c).logsumexp(0),
            "last chunk only": lambda c: bounds(c)[-1],
            "mean of logs": lambda c: torch.cat(c).mean(0),
            "one weight too many": streamed_from_zero,
            "not finite": lambda c: torch.cat(c).exp().mean(0).log(),
            "changes its input": lambda c: streamed_at_once([c.pop() for _ in range(len(c))]),
        },
    ),
    "jackknifed_bound": Answers(
        right={
            "loop": jackknife_loop,
            "masked": jackknife_masked,
            "from both ends": jackknife_from_both_ends,
            "more precisely": lambda w: jackknife_masked(w.double()),
        },
        wrong={
            "logarithm of log weights": lambda w: w.mean(0).log(),
            "plain bound": log_mean,
            "exchanged": jackknife_exchanged,
            "log k for k - 1": jackknife_of(
                lambda w, k: w.logsumexp(0) - math.log(k), count=lambda k: k + 1
            ),
            "one left out only": lambda w: len(w) * log_mean(w) - (len(w) - 1) * log_mean(w[:-1]),
            "mean of logs": jackknife_of(lambda w, k: w.mean(0)),
            "axes exchanged": lambda w: jackknife_loop(w.T),
            "not finite": jackknife_subtracting,
        },
    ),
}
