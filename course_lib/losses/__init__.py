"""Objectives on tensors: adversarial losses, penalties and the ELBO, all in nats."""

from __future__ import annotations

from course_lib.losses.adversarial import (
    AdversarialLoss,
    by_name,
    gradient_penalty,
    hinge,
    least_squares,
    minimax,
    non_saturating,
    r1_penalty,
    wasserstein,
)
from course_lib.losses.variational import (
    ELBO,
    BernoulliLikelihood,
    GaussianLikelihood,
    LearnedGaussianLikelihood,
    bernoulli_log_likelihood,
    bits_per_dim,
    elbo,
    gaussian_log_likelihood,
)

__all__ = [
    "ELBO",
    "AdversarialLoss",
    "BernoulliLikelihood",
    "GaussianLikelihood",
    "LearnedGaussianLikelihood",
    "bernoulli_log_likelihood",
    "bits_per_dim",
    "by_name",
    "elbo",
    "gaussian_log_likelihood",
    "gradient_penalty",
    "hinge",
    "least_squares",
    "minimax",
    "non_saturating",
    "r1_penalty",
    "wasserstein",
]
