"""Answers to the exercises on lecture 12: right in different ways, and wrong as students write."""

from __future__ import annotations

import math

import numpy as np
import torch
from answers import Answers
from torch.distributions import MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

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


# ---------------------------------------------------------------------------- 12.3


def kl_full_inverse(mean_q, cov_q, mean_p, cov_p):
    inverse = torch.linalg.inv(cov_p)
    shift = (mean_p - mean_q)[:, None]
    logs = torch.linalg.slogdet(cov_p)[1] - torch.linalg.slogdet(cov_q)[1]
    square = (shift.T @ inverse @ shift).squeeze()
    return 0.5 * (torch.trace(inverse @ cov_q) + square - len(mean_q) + logs)


def kl_full_loop(mean_q, cov_q, mean_p, cov_p):
    """In the basis in which p is standard: one eigenvalue of q after the other."""
    lam, u = torch.linalg.eigh(cov_p)
    whiten = u / lam.sqrt()
    shift = (mean_q - mean_p) @ whiten
    widths = torch.linalg.eigvalsh(whiten.T @ cov_q @ whiten)
    total = mean_q.new_zeros(())
    for i in range(len(lam)):
        total = total + (widths[i] - 1 - widths[i].log() + shift[i] ** 2) / 2
    return total


def kl_full_distributions(mean_q, cov_q, mean_p, cov_p):
    return kl_divergence(MultivariateNormal(mean_q, cov_q), MultivariateNormal(mean_p, cov_p))


def kl_full_with(trace, square, k, logs):
    """The four terms with these factors."""

    def function(mean_q, cov_q, mean_p, cov_p):
        precision = torch.inverse(cov_p)
        shift = mean_p - mean_q
        return (
            trace * torch.trace(precision @ cov_q)
            + square * (shift @ precision @ shift)
            + k * len(shift)
            + logs * (torch.logdet(cov_p) - torch.logdet(cov_q))
        )

    return function


def kl_full_wrong_inverse(mean_q, cov_q, mean_p, cov_p):
    shift = mean_p - mean_q
    logs = torch.logdet(cov_p) - torch.logdet(cov_q)
    trace = torch.trace(torch.inverse(cov_p) @ cov_q)
    return 0.5 * (trace + shift @ torch.inverse(cov_q) @ shift - len(shift) + logs)


def kl_full_cholesky(mean_q, cov_q, mean_p, cov_p):
    """The sum over a Cholesky factor's diagonal, once and not twice."""
    shift = mean_p - mean_q
    square = shift @ torch.linalg.solve(cov_p, shift)
    trace = torch.trace(torch.linalg.solve(cov_p, cov_q))
    logs = [torch.linalg.cholesky(c).diagonal().log().sum() for c in (cov_q, cov_p)]
    return 0.5 * (trace + square - len(shift) + logs[1] - logs[0])


def kl_full_inverse_of_q(mean_q, cov_q, mean_p, cov_p):
    shift, precision = mean_p - mean_q, torch.inverse(cov_q)
    logs = torch.logdet(cov_p) - torch.logdet(cov_q)
    return 0.5 * (torch.trace(precision @ cov_p) + shift @ precision @ shift - len(shift) + logs)


def kl_full_product_of_roots(mean_q, cov_q, mean_p, cov_p):
    """The determinant's root leaves the range of floating point a little later than itself."""
    shift, precision = mean_p - mean_q, torch.inverse(cov_p)
    roots = [torch.linalg.cholesky(c).diagonal().prod() for c in (cov_q, cov_p)]
    logs = 2 * (roots[1].log() - roots[0].log())
    return 0.5 * (torch.trace(precision @ cov_q) + shift @ precision @ shift - len(shift) + logs)


def kl_full_elementwise(mean_q, cov_q, mean_p, cov_p):
    shift, precision = mean_p - mean_q, cov_p**-1
    logs = torch.logdet(cov_p) - torch.logdet(cov_q)
    return 0.5 * (torch.trace(precision @ cov_q) + shift @ precision @ shift - len(shift) + logs)


def kl_full_star(mean_q, cov_q, mean_p, cov_p):
    shift, precision = mean_p - mean_q, torch.inverse(cov_p)
    logs = torch.logdet(cov_p) - torch.logdet(cov_q)
    return 0.5 * (torch.trace(precision * cov_q) + shift @ precision @ shift - len(shift) + logs)


def kl_full_diagonals(mean_q, cov_q, mean_p, cov_p):
    q = Normal(mean_q, cov_q.diagonal().sqrt())
    return kl_divergence(q, Normal(mean_p, cov_p.diagonal().sqrt())).sum()


# ---------------------------------------------------------------------------- 12.4


def score_loop(values, z, mu, log_var):
    n, variance = len(values), log_var.exp()
    in_mu, in_log_var = torch.zeros_like(mu), torch.zeros_like(log_var)
    for i in range(n):
        baseline = sum(values[j] for j in range(n) if j != i) / (n - 1)
        in_mu += (values[i] - baseline) * (z[i] - mu) / variance / n
        in_log_var += (values[i] - baseline) * 0.5 * ((z[i] - mu) ** 2 / variance - 1) / n
    return in_mu, in_log_var


def score_vectorised(values, z, mu, log_var):
    """The leave-one-out baseline as a rescaled advantage over the mean of all."""
    n = len(values)
    advantage = (values - values.mean()) * n / (n - 1)
    in_mu = (z - mu) * torch.exp(-log_var)
    in_log_var = ((z - mu) ** 2 * torch.exp(-log_var) - 1) / 2
    return advantage @ in_mu / n, advantage @ in_log_var / n


def score_autograd(values, z, mu, log_var, baseline="others"):
    mu, log_var = mu.clone().requires_grad_(), log_var.clone().requires_grad_()
    log_q = Normal(mu, (0.5 * log_var).exp()).log_prob(z).sum(1)
    base = {
        "others": (values.sum() - values) / (len(values) - 1),
        "over n": (values.sum() - values) / len(values),
        "all": values.mean(),
        "none": torch.zeros_like(values),
    }[baseline]
    return torch.autograd.grad(((values - base) * log_q).mean(), (mu, log_var))


def score_with(in_mu, in_log_var, reduce=torch.mean):
    """An estimate with these scores, functions of z - mu and of log_var."""

    def function(values, z, mu, log_var):
        advantage = (values - (values.sum() - values) / (len(values) - 1))[:, None]
        residual = z - mu
        return (
            reduce(advantage * in_mu(residual, log_var), dim=0),
            reduce(advantage * in_log_var(residual, log_var), dim=0),
        )

    return function


def by_variance(residual, log_var):
    return residual / log_var.exp()


def by_log_variance(residual, log_var):
    return 0.5 * (residual**2 / log_var.exp() - 1)


# ---------------------------------------------------------------------------- 12.5


def vae_loss_loop(x, x_hat, mu, log_var, beta):
    total = 0.0
    for i in range(len(x)):
        kl = 0.5 * (mu[i] ** 2 + log_var[i].exp() - 1 - log_var[i]).sum()
        total = total + ((x[i] - x_hat[i]) ** 2).sum() + beta * kl
    return total / len(x)


def vae_loss_sums(x, x_hat, mu, log_var, beta):
    error = F.mse_loss(x_hat, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return (error + beta * kl) / x.size(0)


def vae_loss_distributions(x, x_hat, mu, log_var, beta):
    q = Normal(mu, torch.exp(0.5 * log_var))
    kl = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(dim=1)
    error = F.mse_loss(x_hat, x, reduction="none").sum(dim=(1, 2, 3))
    return torch.mean(error + beta * kl)


def vae_loss_with(error, kl):
    """error(x, x_hat) + beta * kl(mu, log_var)."""
    return lambda x, x_hat, mu, log_var, beta: error(x, x_hat) + beta * kl(mu, log_var)


def squares(x, x_hat):
    return (x - x_hat).pow(2).sum(dim=(1, 2, 3))


def kl_swapped(mu, log_var):
    return 0.5 * ((1 + mu**2) / log_var.exp() - 1 + log_var).sum(1)


# ---------------------------------------------------------------------------- 12.6


def bound_loop(log_px, z, mu, log_var):
    """Image by image, with the largest weight taken out by hand."""
    bounds = []
    for b in range(z.shape[1]):
        log_w = []
        for i in range(z.shape[0]):
            log_prior = -0.5 * (z[i, b] ** 2).sum()
            log_q = -0.5 * ((z[i, b] - mu[b]) ** 2 / log_var[b].exp() + log_var[b]).sum()
            log_w.append(log_px[i, b] + log_prior - log_q)  # the constants cancel
        log_w = torch.stack(log_w)
        top = log_w.max().detach()
        bounds.append(top + (log_w - top).exp().mean().log())
    return torch.stack(bounds)


def bound_weights(log_px, z, mu, log_var):
    epsilon = (z - mu) * (-0.5 * log_var).exp()
    return log_px + 0.5 * (epsilon**2 + log_var - z**2).sum(2)


def bound_vectorised(log_px, z, mu, log_var):
    log_w = bound_weights(log_px, z, mu, log_var)
    return log_w.logsumexp(dim=0) - math.log(len(log_w))


def bound_distributions(log_px, z, mu, log_var):
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    q = Normal(mu, torch.exp(log_var / 2))
    log_w = log_px + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    return torch.logsumexp(log_w - math.log(log_w.shape[0]), dim=0)


def bound_with(prior=1.0, q=-1.0, width=0.5):
    """The bound with other weights of the two densities, or another width."""

    def function(log_px, z, mu, log_var):
        log_p = Normal(torch.zeros_like(mu), torch.ones_like(mu)).log_prob(z).sum(-1)
        log_q = Normal(mu, torch.exp(width * log_var)).log_prob(z).sum(-1)
        return torch.logsumexp(log_px + prior * log_p + q * log_q, 0) - math.log(len(z))

    return function


def bound_one_maximum(*args):
    """The largest weight of the whole batch is taken out, and other images are rounded to 0."""
    log_w = bound_weights(*args)
    return (log_w - log_w.max()).exp().mean(0).log() + log_w.max()


def bound_mean_over_latents(log_px, z, mu, log_var):
    log_p = Normal(torch.zeros_like(mu), torch.ones_like(mu)).log_prob(z).mean(-1)
    log_q = Normal(mu, torch.exp(0.5 * log_var)).log_prob(z).mean(-1)
    return torch.logsumexp(log_px + log_p - log_q, 0) - math.log(len(z))


def bound_short_prior(log_px, z, mu, log_var):
    log_q = Normal(mu, torch.exp(0.5 * log_var)).log_prob(z).sum(-1)
    return torch.logsumexp(log_px - 0.5 * z.pow(2).sum(-1) - log_q, 0) - math.log(len(z))


def bound_kl_outside(log_px, z, mu, log_var):
    reconstruction = torch.logsumexp(log_px, 0) - math.log(len(log_px))
    return reconstruction - kl_vectorised(mu, log_var)


def bound_softmax(log_px, z, mu, log_var):
    log_w = bound_weights(log_px, z, mu, log_var)
    return (F.softmax(log_w, dim=0) * log_w).sum(0)


# ---------------------------------------------------------------------------- 12.7


def linear_loop(covariance, beta, k):
    """One direction after the other: the power method, then deflation."""
    left, s2 = covariance.clone(), beta / 2
    w, v, log_d = [], [], []
    for _ in range(k):
        power = left
        for _ in range(20):  # the power 2^20
            power = power @ power
            power = power / power.norm()
        u = power[:, power.diagonal().argmax()]
        u = u / u.norm()
        lam = u @ left @ u
        left = left - lam * torch.outer(u, u)
        alive = lam > s2
        size = (lam - s2).sqrt() if alive else 0 * lam
        w.append(size * u)
        v.append(size / lam * u)
        log_d.append((s2 / lam).log() if alive else 0 * lam)
    return torch.stack(w, 1), torch.stack(v), torch.stack(log_d)


def linear_vectorised(covariance, beta, k):
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values[-k:], vectors[:, -k:]
    alive = (values - beta / 2).clamp(min=0.0)
    log_d = torch.log(torch.clamp(beta / 2 / values, max=1.0))
    return vectors * alive.sqrt(), (vectors * alive.sqrt() / values).T, log_d


def linear_numpy(covariance, beta, k):
    """By numpy's singular values, with the posterior (12.10) for the encoder."""
    u, lam, _ = np.linalg.svd(covariance.numpy())
    w = torch.from_numpy(u[:, :k] * np.sqrt(np.maximum(lam[:k] - beta / 2, 0)))
    m = w.T @ w + beta / 2 * torch.eye(k, dtype=w.dtype)
    return w, torch.linalg.solve(m, w.T), torch.log(beta / 2 / m.diagonal())


def linear_with(noise=0.5, largest=True, size=None, encoder=None, log_d=None):
    """linear_vectorised with one step replaced."""

    def function(covariance, beta, k):
        lam, u = torch.linalg.eigh(covariance)
        if largest:
            lam, u = lam.flip(0), u.flip(1)
        lam, u, s2 = lam[:k], u[:, :k], noise * beta
        w = size(lam, s2) if size else torch.relu(lam - s2).sqrt()
        v = encoder(w, s2) if encoder else w / (w**2 + s2)
        d = log_d(lam, s2) if log_d else torch.minimum(torch.log(s2 / lam), 0 * lam)
        return u * w, (u * v).T, d

    return function


def linear_one_by_one(covariance, beta, k):
    """Leaves out the noise: the eigenvectors of the data with unit encoder."""
    w, v, log_d = linear_vectorised(covariance, beta, k)
    return 0.9 * w, v, log_d


BANK = {
    "kl_to_standard_normal": Answers(
        right={
            "loop": kl_loop,
            "vectorised": kl_vectorised,
            "matrices": kl_matrices,
        },
        wrong={
            # maxhodak/keras-molecules issue 59, podgorskiy/VAE issue 1
            "averaged over latents": lambda m, v: -0.5 * torch.mean(1 + v - m**2 - v.exp(), dim=1),
            # EDAPINENUT/GNTPP issue 4: a sum without dim
            "averaged over the batch": lambda m, v: kl_vectorised(m, v).mean(),
            "sign of log_var": lambda m, v: 0.5 * torch.sum(m**2 + v.exp() - 1 + v, dim=1),
            "other direction": kl_wrong_side,
            "minus sign": lambda m, v: 0.5 * torch.sum(1 + v - m**2 - v.exp(), dim=1),
            # SupaeroDataScience/deep-learning pull request 6
            "half forgotten": lambda m, v: torch.sum(m**2 + v.exp() - 1 - v, dim=1),
            "constant forgotten": lambda m, v: 0.5 * torch.sum(m**2 + v.exp() - v, dim=1),
            "wrong shape": lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v),
            # KarenUllrich/Tutorial_BayesianCompressionForDL issue 1
            "log_var taken as log s": lambda m, v: 0.5 * (m**2 + v.exp() ** 2 - 1 - 2 * v).sum(1),
            "log_var taken as the variance": lambda m, v: (
                0.5 * (m**2 + v - 1 - torch.log(v)).sum(1)
            ),
            "not finite": kl_with_distributions,
            "no gradient": kl_through_numpy,
            "wrong device": lambda m, v: 0.5 * (m**2 + v.exp() - torch.ones(m.shape[1]) - v).sum(1),
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
            # rachtsingh/ibp_vae issue 3, rishikksh20/vae_tacotron2 issue 3
            "variance for deviation": lambda m, v, e: m + torch.exp(v) * e,
            "log_var for deviation": lambda m, v, e: m + v * e,
            "half of log_var": lambda m, v, e: m + v / 2 * e,
            "half of the variance": lambda m, v, e: m + torch.exp(v) / 2 * e,
            "mu scaled too": lambda m, v, e: torch.exp(v / 2) * (m + e),
            "noise and mu exchanged": lambda m, v, e: e + torch.exp(v / 2) * m,
            "noise subtracted": lambda m, v, e: m - torch.exp(v / 2) * e,
            "not finite": lambda m, v, e: m + torch.sqrt(v) * e,
            "noise of its own": lambda m, v, e: m + torch.exp(0.5 * v) * torch.randn_like(m),
            "mean only": lambda m, v, e: m,
            "exponent too large": lambda m, v, e: m + torch.exp(2 * v) * e,
            "no gradient": lambda m, v, e: (
                Normal(m, (0.5 * v).exp()).mean.detach() + (0.5 * v).exp().detach() * e
            ),
        },
    ),
    "kl_full_gaussians": Answers(
        right={
            "inverse": kl_full_inverse,
            "loop over eigenvalues": kl_full_loop,
            "torch.distributions": kl_full_distributions,
        },
        wrong={
            "other direction": lambda mq, sq, mp, sp: kl_full_distributions(mp, sp, mq, sq),
            "half forgotten": kl_full_with(1.0, 1.0, -1.0, 1.0),
            "root of the determinants": kl_full_cholesky,
            "inverse of q": kl_full_inverse_of_q,
            # google-deepmind/torch-distributions pull request 34: one term not divided by 2
            "mean term not halved": kl_full_with(0.5, 1.0, -0.5, 0.5),
            "dimension forgotten": kl_full_with(0.5, 0.5, 0.0, 0.5),
            "determinants swapped": kl_full_with(0.5, 0.5, -0.5, -0.5),
            "wrong inverse": kl_full_wrong_inverse,
            "elementwise inverse": kl_full_elementwise,
            "elementwise product": kl_full_star,
            "only the diagonals": kl_full_diagonals,
            # jhuggins/viabel pull request 50: log(det(...)) for the log determinant
            "not finite": kl_full_product_of_roots,
            "no gradient": lambda mq, sq, mp, sp: kl_full_inverse(mq, sq, mp, sp).detach(),
        },
    ),
    "score_function_gradient": Answers(
        right={
            "loop": score_loop,
            "vectorised": score_vectorised,
            "without the constant": score_with(by_variance, lambda r, v: 0.5 * r**2 / v.exp()),
            "autograd of torch.distributions": score_autograd,
        },
        wrong={
            "no baseline": lambda *a: score_autograd(*a, baseline="none"),
            # jsboige/CoursIA pull request 15256: the mean of the batch includes the draw itself
            "baseline knows its draw": lambda *a: score_autograd(*a, baseline="all"),
            "baseline over n": lambda *a: score_autograd(*a, baseline="over n"),
            "half forgotten": score_with(by_variance, lambda r, v: r**2 / v.exp() - 1),
            "results exchanged": lambda *a: score_vectorised(*a)[::-1],
            "log_var taken as the variance": score_with(
                lambda r, v: r / v, lambda r, v: 0.5 * (r**2 / v - 1)
            ),
            "deviation for variance": score_with(
                lambda r, v: r / torch.exp(0.5 * v), by_log_variance
            ),
            "derivative in s": score_with(
                by_variance,
                lambda r, v: (r**2 / v.exp() - 1) / torch.exp(0.5 * v),
            ),
            "derivative in the variance": score_with(
                by_variance, lambda r, v: 0.5 * (r**2 / v.exp() ** 2 - 1 / v.exp())
            ),
            "log_var taken as log s": score_with(
                lambda r, v: r / v.exp() ** 2, lambda r, v: r**2 / v.exp() ** 2 - 1
            ),
            "summed over draws": score_with(by_variance, by_log_variance, torch.sum),
            "minus sign": lambda *a: tuple(-g for g in score_vectorised(*a)),
        },
    ),
    "mended_vae_loss": Answers(
        right={
            "loop": vae_loss_loop,
            "sums": vae_loss_sums,
            "torch.distributions": vae_loss_distributions,
        },
        wrong={
            # zdebruine/MMVAE pull request 19: both reductions as here
            "still broken": vae_loss_with(
                lambda x, h: F.mse_loss(h, x),
                lambda m, v: -0.5 * torch.sum(1 + v - m.pow(2) - v.exp()),
            ),
            # pytorch/examples issue 817, orybkin/sigma-vae-tensorflow issue 2
            "mean over pixels": vae_loss_with(
                lambda x, h: F.mse_loss(h, x), lambda m, v: kl_vectorised(m, v).mean()
            ),
            "error summed over the batch": vae_loss_with(
                lambda x, h: F.mse_loss(h, x, reduction="sum"),
                lambda m, v: kl_vectorised(m, v).mean(),
            ),
            "minus sign": vae_loss_with(
                lambda x, h: squares(x, h).mean(), lambda m, v: -kl_vectorised(m, v).mean()
            ),
            "half of the KL forgotten": vae_loss_with(
                lambda x, h: squares(x, h).mean(), lambda m, v: 2 * kl_vectorised(m, v).mean()
            ),
            "KL summed over the batch": vae_loss_with(
                lambda x, h: squares(x, h).mean(), lambda m, v: kl_vectorised(m, v).sum()
            ),
            "summed over the batch": vae_loss_with(
                lambda x, h: squares(x, h).sum(), lambda m, v: kl_vectorised(m, v).sum()
            ),
            # AppliedDataSciencePartners/WorldModels issue 12: means over all dimensions
            "both averaged": vae_loss_with(
                lambda x, h: F.mse_loss(h, x),
                lambda m, v: -0.5 * torch.mean(1 + v - m.pow(2) - v.exp()),
            ),
            # mkusner/grammarVAE issue 2
            "mean over latents": vae_loss_with(
                lambda x, h: squares(x, h).mean(),
                lambda m, v: -0.5 * torch.mean(1 + v - m.pow(2) - v.exp()),
            ),
            "beta on the error": lambda x, h, m, v, b: (
                b * squares(x, h) + kl_vectorised(m, v)
            ).mean(),
            "beta forgotten": lambda x, h, m, v, b: (squares(x, h) + kl_vectorised(m, v)).mean(),
            "other direction": lambda x, h, m, v, b: (squares(x, h) + b * kl_swapped(m, v)).mean(),
            "half of the error": vae_loss_with(
                lambda x, h: 0.5 * squares(x, h).mean(), lambda m, v: kl_vectorised(m, v).mean()
            ),
            "64 written in": vae_loss_with(
                lambda x, h: F.mse_loss(h, x, reduction="sum") / 64,
                lambda m, v: kl_vectorised(m, v).sum() / 64,
            ),
            "784 below the KL": vae_loss_with(
                lambda x, h: F.mse_loss(h, x), lambda m, v: kl_vectorised(m, v).mean() / 784
            ),
            "0.05 written in": lambda x, h, m, v, b: (
                squares(x, h) + 0.05 * kl_vectorised(m, v)
            ).mean(),
            "norm not squared": lambda x, h, m, v, b: (
                (x - h).flatten(1).norm(dim=1) + b * kl_vectorised(m, v)
            ).mean(),
            "divided by the pixels": lambda x, h, m, v, b: (
                F.mse_loss(h, x) + b * kl_vectorised(m, v).mean() / x[0].numel()
            ),
            "784 written in": lambda x, h, m, v, b: (
                784 * F.mse_loss(h, x) + b * kl_vectorised(m, v).mean()
            ),
            "wrong shape": lambda x, h, m, v, b: squares(x, h) + b * kl_vectorised(m, v),
            "no gradient": lambda *a: vae_loss_sums(*a).detach(),
            "wrong type": lambda *a: vae_loss_sums(*a).item(),
        },
    ),
    "importance_bound": Answers(
        right={
            "loop": bound_loop,
            "vectorised": bound_vectorised,
            "torch.distributions": bound_distributions,
        },
        wrong={
            "log_var taken as the variance": lambda log_px, z, mu, log_var: (
                (
                    log_px
                    - 0.5 * (z**2).sum(-1)
                    + 0.5 * ((z - mu) ** 2 / log_var + log_var.log()).sum(-1)
                ).logsumexp(0)
                - math.log(len(z))
            ),
            # asked about in arahuja/generative-tf issue 1
            "mean of logarithms": lambda *a: bound_weights(*a).mean(0),
            # YosefLab/scVI-dev issue 8, first version
            "k forgotten": lambda *a: torch.logsumexp(bound_weights(*a), 0),
            "prior forgotten": bound_with(prior=0.0),
            "q forgotten": bound_with(q=0.0),
            "q multiplied": bound_with(q=1.0),
            "KL outside the logarithm": bound_kl_outside,
            "2 pi in one density": bound_short_prior,
            "variance for deviation": bound_with(width=1.0),
            # AntixK/PyTorch-VAE pull request 53 discusses this loss
            "weighted mean of logarithms": bound_softmax,
            "width forgotten": lambda p, z, m, v: (
                torch.logsumexp(
                    p - 0.5 * (z**2).sum(-1) + 0.5 * ((z - m) ** 2 / v.exp()).sum(-1), 0
                )
                - math.log(len(z))
            ),
            "mean over latents": bound_mean_over_latents,
            "draws cut off": lambda p, z, m, v: bound_distributions(p, z.detach(), m, v),
            "averaged over the batch": lambda *a: bound_vectorised(*a).mean(),
            # xqding/Importance_Weighted_Autoencoders issue 2: why the maximum is taken out
            "not finite": bound_one_maximum,
            "no gradient": lambda *a: bound_vectorised(*a).detach(),
        },
    ),
    "best_linear_vae": Answers(
        right={
            "loop": linear_loop,
            "vectorised": linear_vectorised,
            "numpy and the posterior": linear_numpy,
        },
        wrong={
            "not the minimum": linear_one_by_one,
            "beta for the noise variance": linear_with(noise=1.0),
            # Astroua/TurbuStat pull request 35: the smallest eigenvalues were picked
            "weakest directions": linear_with(largest=False),
            "no shrinking": linear_with(size=lambda lam, s2: lam.sqrt()),
            "principal components": linear_with(
                size=lambda lam, s2: torch.ones_like(lam), encoder=lambda w, s2: w
            ),
            "encoder is the transpose": linear_with(encoder=lambda w, s2: w),
            "encoder is the inverse": linear_with(
                encoder=lambda w, s2: torch.where(w > 0, 1 / w, 0 * w)
            ),
            "D for its logarithm": lambda *a: (
                *linear_vectorised(*a)[:2],
                linear_vectorised(*a)[2].exp(),
            ),
            "deviation for variance": lambda *a: (
                *linear_vectorised(*a)[:2],
                0.5 * linear_vectorised(*a)[2],
            ),
            "upside down": lambda *a: (*linear_vectorised(*a)[:2], -linear_vectorised(*a)[2]),
            "dead units of another width": linear_with(log_d=lambda lam, s2: (s2 / lam).log()),
            "dead units alive": linear_with(size=lambda lam, s2: (lam - s2).abs().sqrt()),
            "not finite": linear_with(size=lambda lam, s2: (lam - s2).sqrt()),
            "wrong shape": lambda *a: (
                linear_vectorised(*a)[0],
                linear_vectorised(*a)[1].T,
                linear_vectorised(*a)[2],
            ),
        },
    ),
}
