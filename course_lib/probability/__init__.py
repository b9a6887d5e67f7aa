"""Distributions with exact densities, and the distances between them.

`distributions` holds laws that can be both sampled and evaluated, so that every estimate in the
course has a truth to be compared with; `divergences` holds that truth in three forms: closed form,
quadrature on a grid, and Monte Carlo with its standard error.
"""

from __future__ import annotations

from course_lib.probability.distributions import (
    CurveWithNoise,
    Distribution,
    GaussianMixture,
    LinearGaussian,
    OneDimensional,
    cauchy,
    exponential,
    grid,
    laplace,
    logistic,
    normal,
    ring,
    spiral,
    two_moons,
    uniform,
)
from course_lib.probability.divergences import (
    Estimate,
    jensen_shannon_monte_carlo,
    jensen_shannon_quadrature,
    kl_diagonal_gaussians,
    kl_from_standard_normal,
    kl_gaussians,
    kl_monte_carlo,
    kl_quadrature,
    kl_to_standard_normal,
    mmd_squared,
    total_variation_monte_carlo,
    total_variation_quadrature,
    wasserstein_1,
    wasserstein_1_quadrature,
    wasserstein_2_gaussians,
)

__all__ = [
    "CurveWithNoise",
    "Distribution",
    "Estimate",
    "GaussianMixture",
    "LinearGaussian",
    "OneDimensional",
    "cauchy",
    "exponential",
    "grid",
    "jensen_shannon_monte_carlo",
    "jensen_shannon_quadrature",
    "kl_diagonal_gaussians",
    "kl_from_standard_normal",
    "kl_gaussians",
    "kl_monte_carlo",
    "kl_quadrature",
    "kl_to_standard_normal",
    "laplace",
    "logistic",
    "mmd_squared",
    "normal",
    "ring",
    "spiral",
    "total_variation_monte_carlo",
    "total_variation_quadrature",
    "two_moons",
    "uniform",
    "wasserstein_1",
    "wasserstein_1_quadrature",
    "wasserstein_2_gaussians",
]
