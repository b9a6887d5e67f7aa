"""A reader's own folder of images, of any size and kind, as an image set."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from course_lib.data.images import ImageSet

SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split())


def folder(path: str | Path, image_size: int, channels: int = 3) -> ImageSet:
    """Read all images below a folder, cut to their central square and resized.

    Transparent parts become white, photographs are turned upright as their camera noted, images
    with 16 bits keep their brightness, and an animation gives its first picture. Images that lie
    in sub-folders are labelled by the first of these; otherwise there are no labels. The order is
    that of the sorted paths. Files that cannot be read are skipped, and one sentence names them.

    Args:
        path: the folder; hidden files and files with other suffixes than an image's are ignored.
        image_size: pixels per side of the result.
        channels: 3 for colour, 1 for grey.

    Returns:
        uint8 images ``[n, channels, image_size, image_size]`` on the CPU.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        ValueError: no image can be read, or ``image_size`` or ``channels`` make no sense.
    """
    path = Path(path).expanduser()
    if channels not in (1, 3):
        raise ValueError(f"channels={channels} is neither 1 (grey) nor 3 (colour).")
    if not isinstance(image_size, Integral) or image_size < 1:
        raise ValueError(f"image_size={image_size} is no whole number of pixels: choose 1 or more.")
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path)!r}: check the path.")
    files = sorted(file for file in _below(path) if _is_image(file.relative_to(path), file))
    if not files:
        raise FileNotFoundError(
            f"no image lies in {str(path)!r}: put files there that end in .png, .jpg or another of "
            f"{len(SUFFIXES)} suffixes."
        )
    good, arrays, bad = [], [], []
    for file in files:
        try:
            arrays.append(read_image(file, image_size, channels))
            good.append(file.relative_to(path))
        except Exception:  # Pillow's decoders raise whatever a damaged file leads them into.
            bad.append(str(file.relative_to(path)))
    if not good:
        raise ValueError(
            f"none of the {len(bad)} images in {str(path)!r} can be read: {_some(bad)}."
        )
    if bad:
        print(f"Skipped {len(bad)} of {len(files)} files that cannot be read: {_some(bad)}.")
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    groups = [file.parts[0] if len(file.parts) > 1 else "" for file in good]
    classes = tuple(sorted(set(groups)))
    if classes == ("",):
        return ImageSet(images, name=path.name)
    labels = torch.tensor([classes.index(group) for group in groups])
    return ImageSet(images, labels, path.name, tuple(c or "." for c in classes))


def read_image(
    file: str | Path, image_size: int, channels: int = 3, crop: int | None = None
) -> np.ndarray:
    """One image file as uint8 ``[image_size, image_size, channels]``; see ``folder``.

    ``crop`` is the side in pixels of the central square to keep; None keeps the largest one.
    """
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of files so large that they might be an attack; the
        # first does no harm here and the second is then raised as an error.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as opened:
            # Pillow gives a PGM of more than 8 bits as values out of 65535, in a mode of 32 bits.
            deep = opened.format == "PPM" and opened.mode == "I"
            image = ImageOps.exif_transpose(opened)
            image = _opaque(_eight_bits(image, deep)).convert("L" if channels == 1 else "RGB")
            side = min(image.size) if crop is None else crop
            left, top = (image.width - side) / 2, (image.height - side) / 2
            # Pillow's resize averages over the pixels that it merges.
            box = (left, top, left + side, top + side)
            image = image.resize((image_size, image_size), Image.Resampling.BICUBIC, box)
    return np.asarray(image).reshape(image_size, image_size, channels)


def _eight_bits(image: Image.Image, deep: bool = False) -> Image.Image:
    """Greys of 16 or 32 bits or floating point as 8 bits; Pillow's own conversion cuts them off.

    `deep`: the values are known to be out of 65535.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    # The mode "I;16" says how many bits there are; for the others the values have to tell.
    whites = (65535.0,) if deep or image.mode.startswith("I;16") else (1.0, 255.0, 65535.0)
    if image.mode == "I" and not deep:
        whites = (255.0, 65535.0)
    white = next((w for w in whites if values.max() <= w), values.max())
    return Image.fromarray((values / white * 255).round().clip(0, 255).astype(np.uint8))


def _opaque(image: Image.Image) -> Image.Image:
    """Lay an image with transparency over white."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _below(path: Path) -> Iterator[Path]:
    """All files below a folder, also behind links to folders; of several ways to one, the first."""
    seen = set()
    for place, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(place, name) for name in names)


def _is_image(relative: Path, file: Path) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in relative.parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.is_file()


def _some(names: list[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
