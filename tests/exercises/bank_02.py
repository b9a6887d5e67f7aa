"""Answers to the exercises on lecture 2: right in different ways, and wrong as students write."""

from __future__ import annotations

import math

import numpy as np
import torch
from answers import Answers
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import cosine_similarity, normalize

# ---------------------------------------------------------------------------- 2.1


def rayleigh_loop(u, scale):
    rows = [scale * torch.sqrt(-2 * torch.log(1 - v)) for v in u.flatten()]
    return torch.stack(rows).reshape(u.shape)


def rayleigh_vectorised(u, scale):
    return torch.sqrt(-2 * scale**2 * torch.log1p(-u))


def rayleigh_from_exponential(u, scale):
    """R² is exponential with mean 2 scale²; torch's exponential has the rate."""
    rate = torch.tensor(1 / (2 * scale**2), dtype=u.dtype)
    return torch.distributions.Exponential(rate).icdf(u).sqrt()


# ---------------------------------------------------------------------------- 2.2


def normals_formula(u1, u2):
    radius, angle = torch.sqrt(-2 * torch.log(1 - u1)), 2 * math.pi * u2
    return radius * torch.cos(angle), radius * torch.sin(angle)


def normals_loop(u1, u2):
    xs, ys = [], []
    for a, b in zip(u1.tolist(), u2.tolist(), strict=True):
        r = math.sqrt(-2 * math.log1p(-a))
        xs.append(r * math.cos(2 * math.pi * b))
        ys.append(r * math.sin(2 * math.pi * b))
    return torch.tensor(xs, dtype=u1.dtype), torch.tensor(ys, dtype=u1.dtype)


def normals_complex(u1, u2):
    z = torch.polar((-2 * torch.log1p(-u1)).sqrt(), 2 * math.pi * u2)
    return z.real, z.imag


def broken_normals(u1, u2):
    radius, angle = torch.sqrt(-torch.log(u1)), math.pi * u2
    return radius * torch.cos(angle), radius * torch.sin(angle)


def normals_with(logarithm, factor, turn):
    def answer(u1, u2):
        radius, angle = torch.sqrt(-factor * logarithm(u1)), turn * u2
        return radius * torch.cos(angle), radius * torch.sin(angle)

    return answer


def normals_root_late(u1, u2):
    """The root after the cosine: mmp/pbrt-v4 #481."""
    square = -2 * torch.log(1 - u1)
    angle = 2 * math.pi * u2
    return torch.sqrt(square * torch.cos(angle)), torch.sqrt(square * torch.sin(angle))


# ---------------------------------------------------------------------------- 2.3


def affine_solve(y, A, b):
    z = torch.linalg.solve(A, (y - b).T).T
    log_normal = -0.5 * (z**2).sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return log_normal - torch.linalg.slogdet(A)[1]


def affine_loop(y, A, b):
    inverse = torch.linalg.inv(A)
    log_det = torch.linalg.svdvals(A).log().sum()
    standard = Normal(torch.zeros_like(b), torch.ones_like(b))
    return torch.stack([standard.log_prob(inverse @ (row - b)).sum() - log_det for row in y])


def affine_library(y, A, b):
    return MultivariateNormal(b, A @ A.T).log_prob(y)


def affine_with(log_det=lambda A: torch.linalg.slogdet(A)[1], sign=-1, back=None, reduce=None):
    def answer(y, A, b):
        z = (y - b) @ torch.linalg.inv(A).T if back is None else back(y, A, b)
        log_normal = Normal(torch.zeros_like(b), torch.ones_like(b)).log_prob(z)
        log_normal = log_normal.sum(-1) if reduce is None else reduce(log_normal)
        return log_normal + sign * log_det(A)

    return answer


def affine_covariance(y, A, b):
    gap = y - b
    square = (gap @ torch.linalg.inv(A).T * gap).sum(-1)
    return -0.5 * (square + torch.linalg.slogdet(A)[1] + len(b) * math.log(2 * math.pi))


# ---------------------------------------------------------------------------- 2.4


def flow_formula(y, s, t):
    z = (y - t) / torch.exp(s)
    return (0.5 * z**2 + 0.5 * math.log(2 * math.pi) + s).sum(dim=1).mean()


def flow_loop(y, s, t):
    total = 0.0
    for row in y:
        for j in range(len(s)):
            z = (row[j] - t[j]) * torch.exp(-s[j])
            total = total + 0.5 * z * z + 0.5 * math.log(2 * math.pi) + s[j]
    return total / len(y)


def flow_library(y, s, t):
    return -Normal(t, s.exp()).log_prob(y).sum(1).mean()


def flow_with(z, log_det, constant=True):
    def answer(y, s, t):
        log_normal = -0.5 * z(y, s, t) ** 2 - 0.5 * math.log(2 * math.pi) * constant
        return -(log_normal.sum(1) + log_det(s)).mean()

    return answer


def backward(y, s, t):
    return (y - t) * torch.exp(-s)


# ---------------------------------------------------------------------------- 2.5


def slerp_loop(z0, z1, t):
    rows = []
    for a, b in zip(z0, z1, strict=True):
        cosine = torch.dot(a, b) / (a.norm() * b.norm())
        theta = torch.acos(cosine.clamp(-1, 1))
        if torch.sin(theta) < 1e-6:
            rows.append((1 - t) * a + t * b)
        else:
            first = torch.sin((1 - t) * theta) / torch.sin(theta)
            rows.append(first * a + torch.sin(t * theta) / torch.sin(theta) * b)
    return torch.stack(rows)


def slerp_where(z0, z1, t):
    cosine = cosine_similarity(z0, z1, dim=1).clamp(-1, 1)[:, None]
    theta = torch.acos(cosine)
    arc = torch.sin((1 - t) * theta) * z0 + torch.sin(t * theta) * z1
    return torch.where(theta < 1e-5, (1 - t) * z0 + t * z1, arc / torch.sin(theta))


def slerp_orthogonal(z0, z1, t):
    """Along the circle spanned by z0 and what of z1 is at right angles to it."""
    r0, r1 = z0.norm(dim=1, keepdim=True), z1.norm(dim=1, keepdim=True)
    a, b = z0 / r0, z1 / r1
    rest = b - (a * b).sum(1, keepdim=True) * a
    sine = rest.norm(dim=1, keepdim=True)
    theta = torch.atan2(sine, (a * b).sum(1, keepdim=True))
    second = torch.where(sine < 1e-6, torch.full_like(sine, t), torch.sin(t * theta) / sine)
    first = torch.cos(t * theta) - second * torch.cos(theta)
    return first * z0 + second * z1


def slerp_plain(z0, z1, t):
    # No case for parallel ends: dfki-ric/pytransform3d #45, toji/gl-matrix #500.
    theta = torch.acos(cosine_similarity(z0, z1, dim=1))[:, None]
    arc = torch.sin((1 - t) * theta) * z0 + torch.sin(t * theta) * z1
    return arc / torch.sin(theta)


def slerp_eps(z0, z1, t):
    theta = torch.acos(cosine_similarity(z0, z1, dim=1).clamp(-1, 1))[:, None]
    arc = torch.sin((1 - t) * theta) * z0 + torch.sin(t * theta) * z1
    return arc / (torch.sin(theta) + 1e-8)


def slerp_if_any(z0, z1, t):
    # One case for the whole batch, as in AUTOMATIC1111/stable-diffusion-webui #3068.
    cosine = cosine_similarity(z0, z1, dim=1).clamp(-1, 1)
    if (cosine > 0.9995).any():
        return (1 - t) * z0 + t * z1
    return slerp_plain(z0, z1, t)


def slerp_without_norms(z0, z1, t):
    theta = torch.acos((z0 * z1).sum(1, keepdim=True).clamp(-1, 1))
    arc = torch.sin((1 - t) * theta) * z0 + torch.sin(t * theta) * z1
    return arc / torch.sin(theta)


def slerp_whole_batch(z0, z1, t):
    cosine = (z0 * z1).sum() / (z0.norm() * z1.norm())
    theta = torch.acos(cosine)
    return (torch.sin((1 - t) * theta) * z0 + torch.sin(t * theta) * z1) / torch.sin(theta)


def lerp_pulled_back(z0, z1, t):
    straight = (1 - t) * z0 + t * z1
    norm = (1 - t) * z0.norm(dim=1, keepdim=True) + t * z1.norm(dim=1, keepdim=True)
    return normalize(straight) * norm


# ---------------------------------------------------------------------------- 2.6


def moments(x):
    mu = x.mean(0)
    return mu, (x - mu).T @ (x - mu) / len(x)


def generator_eigenvectors(x, z):
    mu, sigma = moments(x)
    values, vectors = torch.linalg.eigh(sigma)
    return mu + (z * values.clamp(min=0).sqrt()) @ vectors.T


def generator_svd(x, z):
    mu = x.mean(0)
    _, s, vh = torch.linalg.svd(x - mu, full_matrices=False)
    return mu + (z[:, : len(s)] * s / len(x) ** 0.5) @ vh


def generator_loop(x, z):
    """One sample at a time, with the symmetric root of Sigma."""
    mu = x.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    root = sum(
        v.clamp(min=0).sqrt() * torch.outer(e, e) for v, e in zip(values, vectors.T, strict=True)
    )
    return torch.stack([mu + root @ noise for noise in z])


def generator_cholesky(x, z):
    mu, sigma = moments(x)
    return mu + z @ torch.linalg.cholesky(sigma).T


def generator_transposed(x, z):
    mu, sigma = moments(x)
    return mu + z @ torch.linalg.cholesky(sigma)


def generator_unclamped(x, z):
    mu, sigma = moments(x)
    values, vectors = torch.linalg.eigh(sigma)
    return mu + (z * values.sqrt()) @ vectors.T


def generator_jitter(x, z):
    mu, sigma = moments(x)
    sigma = sigma + 1e-5 * torch.eye(len(mu), dtype=x.dtype)
    return mu + z @ torch.linalg.cholesky(sigma).T


def generator_from(make):
    def answer(x, z):
        values, vectors = torch.linalg.eigh(make(x))
        return x.mean(0) + (z * values.clamp(min=0).sqrt()) @ vectors.T

    return answer


def generator_variance(x, z):
    mu, sigma = moments(x)
    values, vectors = torch.linalg.eigh(sigma)
    return mu + (z * values) @ vectors.T


def root(u1):
    return torch.sqrt(-2 * torch.log1p(-u1))


BANK = {
    "rayleigh_quantile": Answers(
        right={
            "loop": rayleigh_loop,
            "vectorised": rayleigh_vectorised,
            "exponential": rayleigh_from_exponential,
        },
        wrong={
            "root forgotten": lambda u, s: -2 * s * torch.log(1 - u),
            "2 forgotten": lambda u, s: s * torch.sqrt(-torch.log(1 - u)),
            "scale under the root": lambda u, s: torch.sqrt(-2 * s * torch.log(1 - u)),
            "scale squared": lambda u, s: s**2 * torch.sqrt(-2 * torch.log(1 - u)),
            "scale forgotten": lambda u, s: torch.sqrt(-2 * torch.log(1 - u)),
            "not finite": lambda u, s: s * torch.sqrt(2 * torch.log(1 - u)),
            "CDF itself": lambda u, s: 1 - torch.exp(-(u**2) / (2 * s**2)),
            "density": lambda u, s: u / s**2 * torch.exp(-(u**2) / (2 * s**2)),
            # log(u) for log(1 - u), and u may be 0: mdipierro/nlib #22, JuliaLang/julia #51890.
            "mirrored": lambda u, s: s * torch.sqrt(-2 * torch.log(u)),
            "tail cut off": lambda u, s: s * torch.sqrt(-2 * torch.log(1 - u + 1e-8).clamp(max=0)),
            "no gradient": lambda u, s: torch.from_numpy(
                s * np.sqrt(-2 * np.log1p(-u.detach().numpy()))
            ),
        },
    ),
    "mended_normals": Answers(
        right={"formula": normals_formula, "loop": normals_loop, "complex": normals_complex},
        wrong={
            "nothing mended": broken_normals,
            "half a circle": normals_with(torch.log, 2, math.pi),
            "too narrow": normals_with(torch.log, 1, 2 * math.pi),
            "too narrow, and half a circle": normals_with(lambda u: torch.log(1 - u), 1, math.pi),
            # An infinite number when the uniform one is 0: gpuocean/gpuocean #37.
            "infinite at 0": normals_with(torch.log, 2, 2 * math.pi),
            "tail cut off": normals_with(lambda u: torch.log(1 - u + 1e-6), 2, 2 * math.pi),
            "turns for radians": normals_with(lambda u: torch.log(1 - u), 2, 1),
            "same number twice": lambda u1, u2: (root(u1) * torch.cos(2 * math.pi * u2),) * 2,
            "numbers of its own": lambda u1, u2: (torch.randn_like(u1), torch.randn_like(u2)),
            "root after the cosine": normals_root_late,
            "root of a negative number": normals_with(lambda u: -torch.log(1 - u), 2, 2 * math.pi),
            "x and y swapped": lambda u1, u2: (
                root(u1) * torch.sin(2 * math.pi * u2),
                root(u1) * torch.cos(2 * math.pi * u2),
            ),
        },
    ),
    "affine_log_density": Answers(
        right={"solve": affine_solve, "loop": affine_loop, "library": affine_library},
        wrong={
            "Jacobian forgotten": affine_with(sign=0),
            # The sign of a log-determinant: ikostrikov/pytorch-flows #16,
            # VincentStimper/normalizing-flows #27, danielward27/flowjax #208.
            "wrong sign": affine_with(sign=1),
            "determinant, not its logarithm": affine_with(lambda A: torch.det(A).abs()),
            "z forgotten": affine_with(back=lambda y, A, b: y - b),
            "constant forgotten": lambda y, A, b: (
                -0.5 * ((y - b) @ torch.linalg.inv(A).T).pow(2).sum(1)
                - torch.linalg.slogdet(A).logabsdet
            ),
            "constant once": lambda y, A, b: (
                -0.5 * ((y - b) @ torch.linalg.inv(A).T).pow(2).sum(1)
                - 0.5 * math.log(2 * math.pi)
                - torch.linalg.slogdet(A).logabsdet
            ),
            "averaged over dimensions": affine_with(reduce=lambda p: p.mean(-1)),
            "one number for the batch": lambda y, A, b: affine_solve(y, A, b).mean(),
            "transposed": affine_with(back=lambda y, A, b: (y - b) @ torch.linalg.inv(A)),
            "raised": lambda y, A, b: MultivariateNormal(b, A).log_prob(y),
            "shift inside": affine_with(back=lambda y, A, b: y @ torch.linalg.inv(A).T - b),
            "A for AAᵀ": affine_covariance,
            "negative determinant": affine_with(torch.logdet),
            # Logarithm of a product instead of a sum of logarithms: ndeutschmann/zunis #28.
            "determinant underflows": affine_with(lambda A: torch.det(A).abs().log()),
        },
    ),
    "mended_flow_loss": Answers(
        right={"formula": flow_formula, "loop": flow_loop, "library": flow_library},
        wrong={
            "nothing mended": flow_with(backward, lambda s: s.mean()),
            "wrong sign": flow_with(backward, lambda s: s.sum()),
            "sum beside mean": flow_with(backward, lambda s: -s.mean()),
            "mean beside sum": lambda y, s, t: (
                s.sum() - Normal(0, 1).log_prob(backward(y, s, t)).mean()
            ),
            "Jacobian forgotten": flow_with(backward, lambda s: 0.0),
            "determinant, not its logarithm": flow_with(backward, lambda s: -s.exp().sum()),
            "forward, not backward": flow_with(lambda y, s, t: y * s.exp() + t, lambda s: -s.sum()),
            "shift inside": flow_with(lambda y, s, t: y * (-s).exp() - t, lambda s: -s.sum()),
            "averaged over dimensions": lambda y, s, t: -Normal(t, s.exp()).log_prob(y).mean(),
            # A sum over the batch where it was done already: wohlert/semi-supervised-pytorch #21.
            "summed over the batch": lambda y, s, t: -Normal(t, s.exp()).log_prob(y).sum(),
            "constant forgotten": flow_with(backward, lambda s: -s.sum(), constant=False),
            "to be maximised": lambda y, s, t: Normal(t, s.exp()).log_prob(y).sum(1).mean(),
        },
    ),
    "spherical_interpolation": Answers(
        right={"loop": slerp_loop, "where": slerp_where, "orthogonal": slerp_orthogonal},
        wrong={
            "straight line": lambda z0, z1, t: torch.lerp(z0, z1, t),
            "straight line, pulled back": lerp_pulled_back,
            "ends swapped": lambda z0, z1, t: slerp_where(z1, z0, t),
            "angle without norms": slerp_without_norms,
            "unit length": lambda z0, z1, t: slerp_where(normalize(z0), normalize(z1), t),
            # NVlabs/stylegan2-ada-pytorch #284 asks why a slerp should assume a right angle.
            "quarter of a circle": lambda z0, z1, t: (
                math.cos(math.pi * t / 2) * z0 + math.sin(math.pi * t / 2) * z1
            ),
            "one angle for the batch": slerp_whole_batch,
            "not finite": slerp_plain,
            "at the origin": slerp_eps,
            "all straight": slerp_if_any,
        },
    ),
    "linear_generator": Answers(
        right={
            "eigenvectors": generator_eigenvectors,
            "svd": generator_svd,
            "loop": generator_loop,
        },
        wrong={
            "noise of its own": lambda x, z: generator_eigenvectors(x, torch.randn_like(z)),
            "mean forgotten": lambda x, z: generator_eigenvectors(x, z) - x.mean(0),
            "variance for deviation": generator_variance,
            "transposed": generator_transposed,
            "independent pixels": lambda x, z: x.mean(0) + z * x.std(0, correction=0),
            "divided by n - 1": generator_from(lambda x: torch.cov(x.T)),
            "not centred": generator_from(lambda x: x.T @ x / len(x)),
            "raised": generator_cholesky,
            "not finite": generator_unclamped,
            "jitter": generator_jitter,
        },
    ),
}
