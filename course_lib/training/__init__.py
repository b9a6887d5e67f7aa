"""Training: a state, a step, a loop. Knows losses, but neither data sets nor metrics."""

from __future__ import annotations

from course_lib.training.adam import Adam
from course_lib.training.loop import TrainingDiverged, train
from course_lib.training.speed import (
    channels_last,
    compile_networks,
    convolutions_as_products,
    fast_bfloat16,
    hold_memory,
    in_bfloat16,
    in_place_activations,
)
from course_lib.training.state import (
    EMA,
    TrainingState,
    gan_state,
    load_checkpoint,
    save_checkpoint,
    vae_state,
)
from course_lib.training.steps import (
    autoencoder_step,
    gan_step,
    generate,
    iwae_step,
    sample_noise,
    vae_step,
)

__all__ = [
    "EMA",
    "Adam",
    "TrainingDiverged",
    "TrainingState",
    "autoencoder_step",
    "channels_last",
    "compile_networks",
    "convolutions_as_products",
    "fast_bfloat16",
    "gan_state",
    "gan_step",
    "generate",
    "hold_memory",
    "in_bfloat16",
    "in_place_activations",
    "iwae_step",
    "load_checkpoint",
    "sample_noise",
    "save_checkpoint",
    "train",
    "vae_state",
    "vae_step",
]
