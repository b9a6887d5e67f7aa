"""Measures: features or images in, scores out. Nothing here knows how a model was trained."""

from __future__ import annotations

from course_lib.metrics.disentanglement import (
    MutualInformationGap,
    mutual_information_gap,
)
from course_lib.metrics.features import (
    FeatureNetwork,
    Features,
    FeaturesUnavailableError,
    embed,
    load_features,
)
from course_lib.metrics.frechet import (
    FeatureMoments,
    FrechetExtrapolation,
    frechet_distance,
    frechet_distance_from_moments,
    frechet_distance_infinity,
)
from course_lib.metrics.inception import InceptionScore, inception_score
from course_lib.metrics.kernel import kernel_distance
from course_lib.metrics.likelihood import (
    ActiveUnits,
    BidirectionalGap,
    LikelihoodEstimate,
    active_units,
    annealed_importance_sampling,
    bidirectional_check,
    bits_per_dim,
    elbo,
    importance_weighted_bound,
)
from course_lib.metrics.modes import ModeCoverage, mode_coverage, stacked_mode_coverage
from course_lib.metrics.neighbours import prdc
from course_lib.metrics.parzen import ParzenEstimate, parzen_log_likelihood
from course_lib.metrics.pictures import (
    ReconstructionError,
    mean_pairwise_ms_ssim,
    ms_ssim,
    reconstruction_error,
)

__all__ = [
    "ActiveUnits",
    "BidirectionalGap",
    "FeatureMoments",
    "FeatureNetwork",
    "Features",
    "FeaturesUnavailableError",
    "FrechetExtrapolation",
    "InceptionScore",
    "LikelihoodEstimate",
    "ModeCoverage",
    "MutualInformationGap",
    "ParzenEstimate",
    "ReconstructionError",
    "active_units",
    "annealed_importance_sampling",
    "bidirectional_check",
    "bits_per_dim",
    "elbo",
    "embed",
    "frechet_distance",
    "frechet_distance_from_moments",
    "frechet_distance_infinity",
    "importance_weighted_bound",
    "inception_score",
    "kernel_distance",
    "load_features",
    "mean_pairwise_ms_ssim",
    "mode_coverage",
    "ms_ssim",
    "mutual_information_gap",
    "parzen_log_likelihood",
    "prdc",
    "reconstruction_error",
    "stacked_mode_coverage",
]
