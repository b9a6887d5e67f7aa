"""Pictures: every figure of the course, in one style, as objects that a cell returns.

All functions take tensors or arrays and return a `matplotlib.figure.Figure` that was made without
pyplot: a cell that ends with it shows it exactly once, and nothing stays open afterwards.
Global `rcParams` are not changed. Nothing here knows the rest of the course.
"""

from .charts import density_map, histogram, latent_scatter, moving_average, training_curves
from .images import before_after, image_grid, image_rows, interpolation, latent_traversal
from .motion import animation, before_after_animation, explore
from .style import DATA_COLOR, MODEL_COLOR, PALETTE, describe, figure, pixels, png_bytes

__all__ = [
    "DATA_COLOR", "MODEL_COLOR", "PALETTE", "animation", "before_after", "before_after_animation",
    "density_map", "describe", "explore", "figure", "histogram", "image_grid", "image_rows",
    "interpolation", "latent_scatter", "latent_traversal", "moving_average", "pixels",
    "png_bytes", "training_curves",
]  # fmt: skip
