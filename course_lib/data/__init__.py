"""Images and toy sets as tensors: named sets, sprites with known factors, a folder of one's own."""

from course_lib.data.catalogue import NAMES, DataUnavailableError, available, load
from course_lib.data.folder import folder
from course_lib.data.images import Batches, ImageSet, SampleBatches
from course_lib.data.sprites import (
    SHAPES,
    SpriteFactors,
    hue_to_rgb,
    render_sprites,
    sample_factors,
    sprites,
)

__all__ = [
    "NAMES",
    "SHAPES",
    "Batches",
    "DataUnavailableError",
    "ImageSet",
    "SampleBatches",
    "SpriteFactors",
    "available",
    "folder",
    "hue_to_rgb",
    "load",
    "render_sprites",
    "sample_factors",
    "sprites",
]
