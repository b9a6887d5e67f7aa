"""Answers to the exercises on lecture 12: right in different ways, and wrong as students write."""

from __future__ import annotations

import torch
from answers import Answers
from torch.distributions import Normal, kl_divergence

# ---------------------------------------------------------------------------- 12.1


def kl_loop(mu, log_var):
    values = []
    for m, v in zip(mu, log_var, strict=True):
        total = mu.new_zeros(())
        for i in range(len(m)):
            total = total + 0.5 * (m[i] ** 2 + torch.exp(v[i]) - 1 - v[i])
        values.append(total)
    return torch.stack(values)


def kl_vectorised(mu, log_var):
    return -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp(), dim=1)


def kl_matrices(mu, log_var):
    """As the KL of full covariances; torch.distributions takes log(exp(...)) and overflows."""
    covariance = torch.diag_embed(log_var.exp())
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = torch.einsum("bi,bi->b", mu, mu)
    return (trace + square - mu.shape[-1] - log_var.sum(-1)) / 2


def kl_with_distributions(mu, log_var):
    q = Normal(mu, torch.exp(0.5 * log_var))
    return kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(-1)


def kl_wrong_side(mu, log_var):
    q = Normal(mu, torch.exp(0.5 * log_var))
    return kl_divergence(Normal(torch.zeros_like(mu), torch.ones_like(mu)), q).sum(-1)


def kl_through_numpy(mu, log_var):
    m, v = mu.detach().numpy(), log_var.detach()
    return torch.from_numpy(0.5 * (m**2 + v.exp().numpy() - 1 - v.numpy()).sum(-1))


BANK = {
    "kl_to_standard_normal": Answers(
        right={
            "loop": kl_loop,
            "vectorised": kl_vectorised,
            "matrices": kl_matrices,
        },
        wrong={
            "averaged over latents": lambda m, v: -0.5 * torch.mean(1 + v - m**2 - v.exp(), dim=1),
            "averaged over the batch": lambda m, v: kl_vectorised(m, v).mean(),
            "other direction": kl_wrong_side,
            "minus sign": lambda m, v: 0.5 * torch.sum(1 + v - m**2 - v.exp(), dim=1),
            "half forgotten": lambda m, v: torch.sum(m**2 + v.exp() - 1 - v, dim=1),
            "log_var taken as log s": lambda m, v: 0.5 * (m**2 + v.exp() ** 2 - 1 - 2 * v).sum(1),
            "log_var taken as the variance": lambda m, v: (
                0.5 * (m**2 + v - 1 - torch.log(v)).sum(1)
            ),
            "not finite": kl_with_distributions,
            "no gradient": kl_through_numpy,
        },
    ),
    "reparameterise": Answers(
        right={
            "one line": lambda m, v, e: m + torch.exp(0.5 * v) * e,
            "square root": lambda m, v, e: torch.addcmul(m, v.exp().sqrt(), e),
            "loop": lambda m, v, e: torch.stack(
                [a + torch.exp(b / 2) * c for a, b, c in zip(m, v, e, strict=True)]
            ),
        },
        wrong={
            "variance for deviation": lambda m, v, e: m + torch.exp(v) * e,
            "log_var for deviation": lambda m, v, e: m + v * e,
            "noise of its own": lambda m, v, e: m + torch.exp(0.5 * v) * torch.randn_like(m),
            "mean only": lambda m, v, e: m,
            "exponent too large": lambda m, v, e: m + torch.exp(2 * v) * e,
            "no gradient": lambda m, v, e: (
                Normal(m, (0.5 * v).exp()).mean.detach() + (0.5 * v).exp().detach() * e
            ),
        },
    ),
}
