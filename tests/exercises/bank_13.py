"""Answers to the exercises on lecture 13: right in different ways, and wrong as students write."""

from __future__ import annotations

import math

import torch
from answers import Answers
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)
from torch.nn import functional as F

from course_lib import losses
from course_lib.models.vae import VAEOutput

# ---------------------------------------------------------------------------- 13.1


def bernoulli_loop(x, logits):
    values = []
    for image, a in zip(x.flatten(1), logits.flatten(1), strict=True):
        total = a.new_zeros(())
        for pixel, number in zip(image, a, strict=True):
            total = total + pixel * F.logsigmoid(number) + (1 - pixel) * F.logsigmoid(-number)
        values.append(total)
    return torch.stack(values)


def bernoulli_formula(x, logits):
    return (x * logits - F.softplus(logits)).flatten(1).sum(1)


def bernoulli_cross_entropy(x, logits):
    loss = F.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -loss.view(len(x), -1).sum(dim=1)


def bernoulli_distributions(x, logits):
    law = Bernoulli(logits=logits, validate_args=False)
    return law.log_prob(x).flatten(1).sum(1)


def bernoulli_of_probabilities(x, logits):
    p = torch.sigmoid(logits)
    return (x * torch.log(p) + (1 - x) * torch.log(1 - p)).flatten(1).sum(1)


# ---------------------------------------------------------------------------- 13.2


def gaussian_loop(x, x_hat, log_sigma):
    values = []
    for a, b in zip(x, x_hat, strict=True):
        error = ((a - b) / log_sigma.exp()).square().sum()
        values.append(-0.5 * error - a.numel() * (log_sigma + 0.5 * math.log(2 * math.pi)))
    return torch.stack(values)


def gaussian_vectorised(x, x_hat, log_sigma):
    variance = torch.exp(2 * log_sigma)
    nll = 0.5 * ((x - x_hat) ** 2 / variance + torch.log(2 * math.pi * variance))
    return -nll.sum(dim=(1, 2, 3))


def gaussian_distributions(x, x_hat, log_sigma):
    return Normal(x_hat, log_sigma.exp()).log_prob(x).flatten(1).sum(1)


def gaussian_with(error=0.5, power=2.0, log_sigma_per=None, constant_per=None):
    """The formula with these factors; None counts a term once for each pixel."""

    def function(x, x_hat, log_sigma):
        d = x[0].numel()
        squares = (x - x_hat).pow(2).flatten(1).sum(1)
        return (
            -error * squares / torch.exp(power * log_sigma)
            - (d if log_sigma_per is None else log_sigma_per) * log_sigma
            - (d if constant_per is None else constant_per) * 0.5 * math.log(2 * math.pi)
        )

    return function


# ---------------------------------------------------------------------------- 13.3


def sigma_loop(x, x_hat):
    total, count = 0.0, 0
    for a, b in zip(x, x_hat, strict=True):
        total, count = total + ((a - b) ** 2).sum(), count + a.numel()
    m = total / count
    return torch.sqrt(m), -count / len(x) / 2 * (1 + torch.log(2 * math.pi * m))


def sigma_vectorised(x, x_hat):
    m = F.mse_loss(x_hat, x)
    return m.sqrt(), -0.5 * math.prod(x.shape[1:]) * (math.log(2 * math.pi) + m.log() + 1)


def sigma_distributions(x, x_hat):
    sigma = (x - x_hat).pow(2).mean().sqrt()
    return sigma, Normal(x_hat, sigma).log_prob(x).sum(dim=(1, 2, 3)).mean()


def sigma_with(sigma=None, value=None):
    """One of the two results replaced by a function of x, x_hat, and of M and D."""

    def function(x, x_hat):
        right = sigma_vectorised(x, x_hat)
        m, d = F.mse_loss(x_hat, x), x[0].numel()
        return (
            sigma(x, x_hat) if sigma else right[0],
            value(m, d) if value else right[1],
        )

    return function


# ---------------------------------------------------------------------------- 13.4


def traverse_loop(z, coordinate, values):
    rows = []
    for value in values:
        row = z.clone()
        row[coordinate] = value
        rows.append(row)
    return torch.stack(rows)


def traverse_numbers(z, coordinate, values):
    rows = []
    for value in values.tolist():
        row = z.clone()
        row[coordinate] = value
        rows.append(row)
    return torch.stack(rows)


def traverse_indexed(z, coordinate, values):
    rows = z.expand(len(values), -1).clone()
    rows[:, coordinate] = values
    return rows


def traverse_one_hot(z, coordinate, values):
    direction = F.one_hot(torch.tensor(coordinate), len(z)).to(z.device, z.dtype)
    return z * (1 - direction) + values[:, None] * direction


def traverse_where(z, coordinate, values):
    mask = torch.arange(z.numel(), device=z.device) == coordinate
    return torch.where(mask, values[:, None], z)


def traverse_same_row(z, coordinate, values):
    row, rows = z.clone(), []
    for value in values:
        row[coordinate] = value
        rows.append(row)
    return torch.stack(rows)


def traverse_in_place(z, coordinate, values):
    rows = []
    for value in values:
        z[coordinate] = value
        rows.append(z.clone())
    return torch.stack(rows)


# ---------------------------------------------------------------------------- 13.5


def step_by_hand(vae, optimizer, x, noise):
    x = (x + 1) / 2
    mu, log_var = vae.encode(x)
    z = mu + torch.exp(0.5 * log_var) * noise
    a = vae.decode(z)
    log_likelihood = (x * a - F.softplus(a)).flatten(1).sum(1)
    kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1)
    loss = (kl - log_likelihood).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def step_of_course_lib(vae, optimizer, x, noise):
    optimizer.zero_grad(set_to_none=False)
    x = x.add(1).div(2)
    mu, log_var = vae.encode(x)
    z = mu + (0.5 * log_var).exp() * noise
    output = VAEOutput(vae.decode(z), mu, log_var, z)
    loss = losses.elbo(x, output, losses.BernoulliLikelihood()).negative
    loss.backward()
    optimizer.step()
    return loss.item()


def step_loop(vae, optimizer, x, noise):
    """Image by image; the gradients of the batch add up."""
    total = 0.0
    for image, epsilon in zip(x / 2 + 0.5, noise, strict=True):
        mu, log_var = vae.encode(image[None])
        scale = log_var.mul(0.5).exp()
        logits = vae.decode(mu + scale * epsilon)
        loss = F.binary_cross_entropy_with_logits(logits, image[None], reduction="sum")
        prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
        loss = (loss + kl_divergence(Normal(mu, scale), prior).sum()) / len(x)
        loss.backward()
        total += loss.item()
    optimizer.step()
    optimizer.zero_grad()
    return total


def step_with(
    before=lambda x: (x + 1) / 2,
    target=None,
    draw=lambda mu, log_var, noise: mu + torch.exp(0.5 * log_var) * noise,
    logits=lambda a: a,
    score=lambda a, x: F.binary_cross_entropy_with_logits(a, x, reduction="sum") / len(x),
    kl=lambda mu, log_var: 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1).mean(),
    returned=lambda loss: loss.detach(),
    zero=True,
    move=True,
):
    """A step with one part replaced."""

    def step(vae, optimizer, x, noise):
        seen = before(x)
        mu, log_var = vae.encode(seen)
        a = logits(vae.decode(draw(mu, log_var, noise)))
        loss = score(a, target(x) if target else seen) + kl(mu, log_var)
        if zero:
            optimizer.zero_grad()
        loss.backward()
        if move:
            optimizer.step()
        return returned(loss)

    return step


@torch.no_grad()
def draw_without_gradient(mu, log_var, noise):
    return mu + torch.exp(0.5 * log_var) * noise


def untouched(x):
    return x


# ---------------------------------------------------------------------------- 13.6


def report_loop(mu, log_var):
    rates, within, between, active = [], [], [], 0
    for m, v in zip(mu.T, log_var.T, strict=True):
        rates.append((0.5 * (m**2 + v.exp() - 1 - v)).mean())
        within.append(v.exp().mean())
        between.append(((m - m.mean()) ** 2).mean())
        active += int(between[-1] > 0.01)
    return torch.stack(rates), torch.stack(within), torch.stack(between), active


def report_vectorised(mu, log_var):
    between = mu.square().mean(0) - mu.mean(0).square()
    rate = -0.5 * (1 + log_var - mu.pow(2) - log_var.exp()).mean(dim=0)
    return rate, log_var.exp().mean(dim=0), between, (between > 0.01).sum()


def report_distributions(mu, log_var):
    q = Normal(mu, (0.5 * log_var).exp())
    rate = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).mean(0)
    between = torch.var(q.mean, dim=0, unbiased=False)
    return rate, q.variance.mean(0), between, int(torch.count_nonzero(between > 0.01))


def report_with(**changed):
    """Some of the results replaced by functions of mu and log_var."""

    def function(mu, log_var):
        names = ("rate", "within", "between", "active")
        found = dict(zip(names, report_vectorised(mu, log_var), strict=True))
        return tuple(changed[n](mu, log_var) if n in changed else found[n] for n in names)

    return function


def rate_of(mu, log_var):
    return 0.5 * (mu**2 + log_var.exp() - 1 - log_var)


# ---------------------------------------------------------------------------- 13.7


def split_loop(z, mu, log_var):
    information, mismatch, n = 0.0, 0.0, len(z)
    prior = Normal(torch.zeros_like(z[0]), torch.ones_like(z[0]))
    for i in range(n):
        terms = []
        for j in range(n):
            terms.append(Normal(mu[j], (log_var[j] / 2).exp()).log_prob(z[i]).sum())
        log_q = torch.logsumexp(torch.stack(terms), 0) - math.log(n)
        information = information + (terms[i] - log_q) / n
        mismatch = mismatch + (log_q - prior.log_prob(z[i]).sum()) / n
    return information, mismatch


def split_table(z, mu, log_var):
    """log N(z_i; mu_j, s_j²), [n, n], without the constants, which cancel."""
    return -0.5 * ((z.unsqueeze(1) - mu) ** 2 / log_var.exp() + log_var).sum(-1)


def split_vectorised(z, mu, log_var):
    table = split_table(z, mu, log_var)
    log_q = torch.logsumexp(table, dim=1) - math.log(len(z))
    return (table.diag() - log_q).mean(), (log_q + 0.5 * z.pow(2).sum(1)).mean()


def split_mixture(z, mu, log_var):
    parts = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    aggregate = MixtureSameFamily(Categorical(logits=torch.zeros_like(mu[:, 0])), parts)
    log_q = aggregate.log_prob(z)
    log_p = Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 1).log_prob(z)
    return (parts.log_prob(z) - log_q).mean(), (log_q - log_p).mean()


def split_by_coordinate(z, mu, log_var):
    """As torch's mixture does it without Independent."""
    each = Normal(mu, (0.5 * log_var).exp()).log_prob(z[:, None])
    log_q = (each.logsumexp(1) - math.log(len(z))).sum(1)
    log_p = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(1)
    own = each.sum(2).diagonal()
    return (own - log_q).mean(), (log_q - log_p).mean()


def split_with(log_q_of, prior=0.5):
    """With another log q(z), a function of the table [n, n]; all without constants."""

    def function(z, mu, log_var):
        table = split_table(z, mu, log_var)
        log_q = log_q_of(table)
        return (table.diag() - log_q).mean(), (log_q + prior * z.pow(2).sum(1)).mean()

    return function


def split_naive(z, mu, log_var):
    density = Normal(mu, (0.5 * log_var).exp()).log_prob(z[:, None]).sum(2).exp()
    log_q = density.mean(1).log()
    log_p = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(1)
    return (density.diagonal().log() - log_q).mean(), (log_q - log_p).mean()


def split_without_own(table):
    n = len(table)
    apart = table.masked_fill(torch.eye(n, dtype=torch.bool), -math.inf)
    return apart.logsumexp(1) - math.log(n - 1)


def split_short_prior(z, mu, log_var):
    information, mismatch = split_mixture(z, mu, log_var)
    return information, mismatch - z.shape[1] * 0.5 * math.log(2 * math.pi)


def split_of_closed_form(z, mu, log_var):
    information, _ = split_mixture(z, mu, log_var)
    return information, rate_of(mu, log_var).sum(1).mean() - information


def split_entropy(z, mu, log_var):
    information, mismatch = split_mixture(z, mu, log_var)
    log_p = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(1)
    return information, mismatch + log_p.mean()


BANK = {
    "bernoulli_log_likelihood": Answers(
        right={
            "loop": bernoulli_loop,
            "softplus": bernoulli_formula,
            "cross-entropy with logits": bernoulli_cross_entropy,
            "torch.distributions": bernoulli_distributions,
        },
        wrong={
            # pytorch/examples issue 817
            "mean over pixels": lambda x, a: bernoulli_formula(x, a) / x[0].numel(),
            "averaged over the batch": lambda x, a: (
                -F.binary_cross_entropy_with_logits(a, x, reduction="sum") / len(x)
            ),
            "minus sign": lambda x, a: -bernoulli_formula(x, a),
            # itakurah/focal-loss-pytorch pull request 5, ChengBinJin/V-GAN-tensorflow issue 16
            "sigmoid twice": lambda x, a: bernoulli_cross_entropy(x, torch.sigmoid(a)),
            "black pixels forgotten": lambda x, a: (x * torch.sigmoid(a).log()).flatten(1).sum(1),
            # autonomousvision/sledge issue 4
            "arguments swapped": lambda x, a: bernoulli_cross_entropy(a, x),
            # pytorch/pytorch issue 103316: logarithms below -100, and their gradients, are lost
            "cut off": lambda x, a: (
                -F.binary_cross_entropy(a.sigmoid(), x, reduction="none").flatten(1).sum(1)
            ),
            "not finite": bernoulli_of_probabilities,
            "no gradient": lambda x, a: bernoulli_formula(x, a.detach()),
            "wrong device": lambda x, a: (
                (x * a - torch.logaddexp(a, torch.zeros(a.shape, dtype=a.dtype))).flatten(1).sum(1)
            ),
        },
    ),
    "gaussian_log_likelihood": Answers(
        right={
            "loop": gaussian_loop,
            "vectorised": gaussian_vectorised,
            "torch.distributions": gaussian_distributions,
        },
        wrong={
            "constant forgotten": gaussian_with(constant_per=0),
            # the reverse is mended in jmtomczak/intro_dgm pull request 8
            "D forgotten": gaussian_with(log_sigma_per=1, constant_per=1),
            "log sigma forgotten": gaussian_with(log_sigma_per=0),
            # asked about in orybkin/sigma-vae-pytorch issue 11
            "sigma for its square": gaussian_with(power=1.0),
            "log_sigma taken as log-variance": lambda x, h, s: gaussian_vectorised(x, h, 0.5 * s),
            "half forgotten": gaussian_with(error=1.0),
            "not finite": lambda x, h, s: (
                (-0.5 * ((x - h) / s) ** 2 - s.log() - 0.5 * math.log(2 * math.pi))
                .flatten(1)
                .sum(1)
            ),
            "mean over pixels": lambda x, h, s: Normal(h, s.exp()).log_prob(x).mean(dim=(1, 2, 3)),
            "averaged over the batch": lambda x, h, s: gaussian_vectorised(x, h, s).mean(),
            "minus sign": lambda x, h, s: -gaussian_vectorised(x, h, s),
            "no gradient": lambda x, h, s: losses.gaussian_log_likelihood(x, h, math.exp(s.item())),
        },
    ),
    "best_sigma": Answers(
        right={
            "loop": sigma_loop,
            "vectorised": sigma_vectorised,
            "torch.distributions": sigma_distributions,
        },
        wrong={
            "variance for sigma": sigma_with(lambda x, h: F.mse_loss(h, x)),
            "one sigma per image": sigma_with(
                lambda x, h: (x - h).pow(2).flatten(1).mean(1).sqrt()
            ),
            "mean of sigmas": sigma_with(
                lambda x, h: (x - h).pow(2).flatten(1).mean(1).sqrt().mean()
            ),
            "summed": sigma_with(lambda x, h: torch.norm(x - h)),
            "spread about its own mean": sigma_with(lambda x, h: (x - h).std(unbiased=False)),
            "absolute error": sigma_with(lambda x, h: F.l1_loss(h, x)),
            "per pixel": sigma_with(value=lambda m, d: -0.5 * (1 + torch.log(2 * math.pi * m))),
            "constant forgotten": sigma_with(value=lambda m, d: -0.5 * d * (1 + m.log())),
            "error term forgotten": sigma_with(
                value=lambda m, d: -0.5 * d * torch.log(2 * math.pi * m)
            ),
            "sigma in the logarithm": sigma_with(
                value=lambda m, d: -0.5 * d * (1 + torch.log(2 * math.pi * m.sqrt()))
            ),
            "summed over the batch": lambda x, h: (
                sigma_vectorised(x, h)[0],
                Normal(h, sigma_vectorised(x, h)[0]).log_prob(x).sum(),
            ),
            "minus sign": sigma_with(value=lambda m, d: 0.5 * d * (1 + torch.log(2 * math.pi * m))),
        },
    ),
    "traverse_code": Answers(
        right={
            "loop": traverse_loop,
            "numbers": traverse_numbers,
            "index": traverse_indexed,
            "one-hot": traverse_one_hot,
            "where": traverse_where,
        },
        wrong={
            "rows all alike": traverse_same_row,
            "moved, not set": lambda z, j, v: torch.stack(
                [z + value * F.one_hot(torch.tensor(j), len(z)) for value in v]
            ),
            "others forgotten": lambda z, j, v: traverse_indexed(torch.zeros_like(z), j, v),
            "off by one": lambda z, j, v: traverse_loop(z, j - 1, v),
            "changes its input": traverse_in_place,
            "wrong shape": lambda z, j, v: traverse_loop(z, j, v).T,
            # an expanded tensor has one row in memory; writing into it raises
            "raised": lambda z, j, v: z.expand(len(v), -1)[:, j].copy_(v),
        },
    ),
    "mended_vae_step": Answers(
        right={
            "by hand": step_by_hand,
            "course_lib's ELBO": step_of_course_lib,
            "image by image": step_loop,
        },
        wrong={
            "still broken": step_with(before=untouched, draw=draw_without_gradient),
            # Lasagne/Recipes issue 54: the loss of a VAE on colour images falls without end;
            # Lightning-Universe/lightning-bolts issue 177: targets outside [0, 1]
            "range": step_with(before=untouched),
            "sample without gradient": step_with(draw=draw_without_gradient),
            "clamped": step_with(before=lambda x: x.clamp(0, 1)),
            "encoder not mapped": step_with(before=untouched, target=lambda x: (x + 1) / 2),
            "sigmoid twice": step_with(logits=torch.sigmoid),
            "mean over pixels": step_with(score=F.binary_cross_entropy_with_logits),
            "KL averaged": step_with(kl=lambda mu, log_var: rate_of(mu, log_var).mean()),
            "both averaged": step_with(
                score=F.binary_cross_entropy_with_logits,
                kl=lambda mu, log_var: rate_of(mu, log_var).mean(),
            ),
            "summed over the batch": step_with(
                score=lambda a, x: F.binary_cross_entropy_with_logits(a, x, reduction="sum"),
                kl=lambda m, v: rate_of(m, v).sum(),
            ),
            "no noise": step_with(draw=lambda mu, log_var, noise: mu),
            "noise of its own": step_with(
                draw=lambda mu, log_var, noise: Normal(mu, torch.exp(0.5 * log_var)).rsample()
            ),
            "KL forgotten": step_with(kl=lambda mu, log_var: 0.0),
            # LoreGoetschalckx/GANalyze issue 7, Hsintien-Ng/idinvert_pytorch-reproduced issue 1
            "gradients pile up": step_with(zero=False),
            "no step": step_with(move=False),
            "graph kept": step_with(returned=lambda loss: loss),
            "variance for deviation": step_with(
                draw=lambda mu, log_var, noise: mu + torch.exp(log_var) * noise
            ),
            "half of the KL forgotten": step_with(
                kl=lambda mu, log_var: 2 * rate_of(mu, log_var).sum(1).mean()
            ),
            "KL subtracted": step_with(kl=lambda m, v: -rate_of(m, v).sum(1).mean()),
            "uphill": step_with(
                score=lambda a, x: (
                    -F.binary_cross_entropy_with_logits(a, x, reduction="none")
                    .flatten(1)
                    .sum(1)
                    .mean()
                ),
                kl=lambda m, v: -rate_of(m, v).sum(1).mean(),
            ),
            "several at once": step_with(
                before=untouched, target=lambda x: (x + 1) / 2, draw=draw_without_gradient
            ),
            "other weights": step_with(kl=lambda m, v: 3 * rate_of(m, v).sum(1).mean()),
            "changes its input": step_with(before=lambda x: x.add_(1).div_(2)),
            "wrong type": step_with(returned=lambda loss: None),
        },
    ),
    "latent_report": Answers(
        right={
            "loop": report_loop,
            "vectorised": report_vectorised,
            "torch.distributions": report_distributions,
        },
        wrong={
            "summed over latents": report_with(rate=lambda m, v: rate_of(m, v).sum(1)),
            "not averaged": report_with(rate=lambda m, v: rate_of(m, v).sum(0)),
            "sigma for its square": report_with(within=lambda m, v: (0.5 * v).exp().mean(0)),
            "mean of the logarithms": report_with(within=lambda m, v: v.mean(0).exp()),
            "n - 1": report_with(between=lambda m, v: m.var(0)),
            "deviation for variance": report_with(between=lambda m, v: m.std(0, unbiased=False)),
            "KL as the test": report_with(
                active=lambda m, v: int((rate_of(m, v).mean(0) > 0.01).sum())
            ),
            "deviation as the test": report_with(active=lambda m, v: int((m.std(0) > 0.01).sum())),
            "width counted": report_with(
                active=lambda m, v: int((m.var(0) + v.exp().mean(0) > 0.01).sum())
            ),
            "wrong type": report_with(active=lambda m, v: (m.var(0) > 0.01).tolist()),
        },
    ),
    "information_and_mismatch": Answers(
        right={
            "loop": split_loop,
            "vectorised": split_vectorised,
            "torch.distributions": split_mixture,
        },
        wrong={
            "log_var taken as the variance": lambda z, mu, log_var: split_vectorised(
                z, mu, log_var.log()
            ),
            # YannDubs/disentangling-vae issue 60: no log of the number of images
            "n forgotten": split_with(lambda t: t.logsumexp(1)),
            # scverse/scvi-tools issue 3188: the mixture taken for each dimension
            "coordinate by coordinate": split_by_coordinate,
            "wrong axis": split_with(lambda t: t.logsumexp(0) - math.log(len(t))),
            "mean of logarithms": split_with(lambda t: t.mean(1)),
            "own posterior left out": split_with(split_without_own),
            "prior forgotten": split_entropy,
            "minus sign": lambda *a: (split_mixture(*a)[0], -split_mixture(*a)[1]),
            "closed form": split_of_closed_form,
            "in the wrong order": lambda *a: split_mixture(*a)[::-1],
            "variance for deviation": lambda z, m, v: split_mixture(z, m, 2 * v),
            "2 pi in one density": split_short_prior,
            # nmichlo/disent pull request 41: logsumexp for a chain of exp, sum, log
            "not finite": split_naive,
        },
    ),
}
