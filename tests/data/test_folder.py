from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.data import folder

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr")


def gradient(width: int = 40, height: int = 24) -> np.ndarray:
    """Brightness from black on the left to white on the right."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_shows_the_same_gradient(tmp_path: Path, mode: str, channels: int) -> None:
    grey = gradient()
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey).convert(mode)
    image.save(tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png"))
    result = folder(tmp_path, 12, channels)
    assert result.images.shape == (1, channels, 12, 12) and result.images.dtype == torch.uint8
    assert result.labels is None
    # The central 24 of 40 columns run from about 0.21 to 0.79 of white.
    expected = torch.linspace(0.23, 0.77, 12)
    measured = result.as_float(range=(0, 1)).mean((0, 1, 2))
    assert (measured - expected).abs().max() < (0.12 if mode == "1" else 0.03)


@pytest.mark.parametrize("values", [np.float32([[0.0, 1.0]]), np.float32([[0.0, 255.0]])])
def test_floating_point_files_keep_black_and_white(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.repeat(8, 0).repeat(4, 1)).save(tmp_path / "x.tiff")
    assert folder(tmp_path, 8, 1).images[0, 0, 4, [0, 7]].tolist() == [0, 255]


def test_dark_images_with_16_bits_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 257 * 50, np.uint16)).save(tmp_path / "x.png")
    assert (folder(tmp_path, 8, 1).images == 50).all()


@pytest.mark.parametrize("maximum", [65535, 1023])
def test_a_dark_pgm_of_more_than_8_bits_stays_dark(tmp_path: Path, maximum: int) -> None:
    grey = round(maximum * 0.003)
    content = np.full(64, grey, ">u2").tobytes()
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 %d\n" % maximum + content)
    assert (folder(tmp_path, 8, 1).images == round(255 * grey / maximum)).all()


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    rgba.save(tmp_path / "1.png")
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "2.png")
    palette = Image.new("P", (8, 8), 3)
    palette.putpalette([0, 0, 255] * 4)
    palette.save(tmp_path / "3.png", transparency=3)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "4.png", transparency=(1, 2, 3))
    Image.new("RGBA", (8, 8), (255, 0, 0, 51)).save(tmp_path / "5.png")
    result = folder(tmp_path, 4).images
    assert (result[:4] == 255).all()
    assert result[4, :, 0, 0].tolist() == [255, 204, 204]


def test_the_central_square_is_kept_upright(tmp_path: Path) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:30] = (255, 0, 0)
    pixels[:, 30:40] = (0, 255, 0)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show a quarter turn clockwise
    image.save(tmp_path / "b.png", exif=exif)
    plain, rotated = folder(tmp_path, 20).images
    assert (plain[0, :, :8] == 255).all() and (plain[1, :, 12:] == 255).all()
    assert torch.equal(rotated, torch.rot90(plain, -1, (1, 2)))


def test_shrinking_averages_and_growing_is_smooth(tmp_path: Path) -> None:
    checkered = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checkered).save(tmp_path / "x.png")
    assert ((folder(tmp_path, 8, 1).images.float() - 127.5).abs() < 6).all()
    assert folder(tmp_path, 100, 1).images.shape == (1, 1, 100, 100)


def test_unreadable_files_are_named_once_and_skipped(tmp_path: Path, capsys) -> None:
    Image.fromarray(gradient(400, 400)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("not meant to be one")
    (tmp_path / ".hidden.png").write_text("nor this")
    assert len(folder(tmp_path, 8)) == 1
    said = capsys.readouterr()
    assert said.out == (
        "Skipped 3 of 4 files that cannot be read: empty.jpg, text.png, torn.png.\n"
    )
    assert said.err == ""


def test_sub_folders_are_labels(tmp_path: Path) -> None:
    for name, grey in (("cat/a.png", 10), ("cat/deep/b.png", 20), ("dog/c.png", 30)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 9), grey).save(tmp_path / name)
    result = folder(str(tmp_path), 4, channels=1)
    assert result.classes == ("cat", "dog") and result.labels.tolist() == [0, 0, 1]
    assert result.images[:, 0, 0, 0].tolist() == [10, 20, 30] and result.name == tmp_path.name


def test_a_class_behind_a_link_is_read_and_a_circle_ends(tmp_path: Path) -> None:
    for name, grey in (("sets/cat/a.png", 10), ("elsewhere/dog/b.png", 30)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 9), grey).save(tmp_path / name)
    (tmp_path / "sets" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    (tmp_path / "sets" / "cat" / "again").symlink_to(tmp_path / "sets")
    result = folder(tmp_path / "sets", 4, channels=1)
    assert result.classes == ("cat", "dog") and result.images[:, 0, 0, 0].tolist() == [10, 30]


def test_what_cannot_work_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image lies in"):
        folder(tmp_path, 8)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        folder(tmp_path / "absent", 8)
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"none of the 1 images .* text\.png"):
        folder(tmp_path, 8)
    with pytest.raises(ValueError, match="neither 1"):
        folder(tmp_path, 8, channels=2)
    with pytest.raises(ValueError, match="no whole number of pixels"):
        folder(tmp_path, 0)
    with pytest.raises(ValueError, match=r"image_size=28\.5"):
        folder(tmp_path, 28.5)


def test_a_reader_s_folder_of_real_tiles(real: Path, tmp_path: Path) -> None:
    packed = real / "crawl_tiles" / "crawl_tiles_32x32_rgba.npz"
    if not packed.is_file():
        pytest.skip(f"the mirror has no {packed.name}")
    tiles = np.load(packed)["images"][::100]
    for number, tile in enumerate(tiles):
        Image.fromarray(tile).save(tmp_path / f"{number:03d}.png")
    result = folder(tmp_path, 32)
    colour, alpha = tiles[..., :3].astype(float), tiles[..., 3:] / 255
    expected = np.moveaxis(colour * alpha + 255 * (1 - alpha), 3, 1)
    assert np.abs(result.images.numpy() - expected).max() <= 1.01
