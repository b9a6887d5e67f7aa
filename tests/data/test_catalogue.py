from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from course_lib.data import NAMES, DataUnavailableError, available, catalogue, load, render_sprites
from course_lib.data.sprites import sample_factors


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture
def tiny_kmnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with a KMNIST of 6 and 4 images, whose sums torchvision is told to expect."""
    raw = tmp_path / "mirror" / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    resources = []
    for part, n in (("train", 6), ("t10k", 4)):
        pixels = bytes(k * 40 for k in range(n) for _ in range(784))
        images = struct.pack(">IIII", 0x803, n, 28, 28) + pixels
        labels = struct.pack(">II", 0x801, n) + bytes(range(n))
        for file, content in (
            (f"{part}-images-idx3-ubyte.gz", images),
            (f"{part}-labels-idx1-ubyte.gz", labels),
        ):
            (raw / file).write_bytes(gzip.compress(content))
            resources.append((file, md5(raw / file)))
    monkeypatch.setattr(datasets.KMNIST, "resources", resources)
    return tmp_path / "mirror"


@pytest.fixture
def server(tmp_path: Path):
    """The folder ``tmp_path / "mirror"`` over HTTP on this machine."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = partial(Silent, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}/"
        httpd.shutdown()


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".partial" in path.name]


# The embedded sets


def test_digits_are_split_evenly_and_always_alike() -> None:
    train, test = load("digits"), load("digits", "test")
    assert (len(train), len(test)) == (1497, 300)
    assert train.shape == test.shape == (1, 28, 28)
    assert torch.bincount(test.labels).tolist() == [30] * 10
    assert torch.equal(train.images, load("digits").images)
    # No image of one part is in the other.
    rows = {image.numpy().tobytes() for image in train.images}
    assert not rows & {image.numpy().tobytes() for image in test.images}


def test_digits_keep_what_the_small_ones_show() -> None:
    train, test = load("digits"), load("digits", "test")
    assert train.images.min() == 0 and train.images.max() == 255
    assert (train.images[:, :, 0] == 0).all() and (train.images[:, :, :, 0] == 0).all()
    # A nearest neighbour, which reads the 8×8 originals almost without error, still does.
    a, b = (s.as_float(range=(0, 1)).flatten(1) for s in (train, test))
    read = train.labels[torch.cdist(b, a).argmin(1)]
    assert (read == test.labels).float().mean() > 0.97


def test_32_pixels_are_28_with_a_margin_of_2_and_other_sizes_keep_the_mean() -> None:
    images, wide = load("digits").images, load("digits", image_size=32).images
    assert torch.equal(wide[:, :, 2:-2, 2:-2], images)
    assert wide.long().sum() == images.long().sum()
    for size in (16, 64):
        other = load("digits", image_size=size).images
        assert other.shape[-2:] == (size, size)
        assert other.float().mean() == pytest.approx(images.float().mean().item(), rel=0.03)


def test_sprites_are_the_same_every_time() -> None:
    test = load("sprites", "test")
    factors = sample_factors(2000, torch.Generator().manual_seed(1))
    assert test.shape == (3, 32, 32) and torch.equal(test.labels, factors.shape)
    again = (render_sprites(factors[:9]) * 255).round().to(torch.uint8)
    assert torch.equal(test.images[:9], again)
    assert load("sprites", image_size=16).images.shape == (10_000, 3, 16, 16)


# Names and requests


def test_a_wrong_name_lists_the_names_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"digits, sprites.*did you mean 'fashion_mnist'\?"):
        load("Fashion-MNIST")
    with pytest.raises(ValueError, match="choose one of them"):
        load("zzzz")


@pytest.mark.parametrize(
    ("name", "keywords", "sentence"),
    [
        ("mnist", {"split": "valid"}, r"no split 'valid': choose one of \['train', 'test'\]"),
        ("mnist", {"fallback": "mnist"}, "is not embedded"),
        ("digits", {"image_size": 0}, "image_size=0"),
        ("binarized_mnist", {"image_size": 64}, "28 or 32"),
    ],
)
def test_wrong_requests_are_refused(name, keywords, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        load(name, **keywords)


def test_a_mirror_that_is_no_folder_is_refused(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="check the path"):
        load("mnist", root=tmp_path, mirror=tmp_path / "absent")
    monkeypatch.setenv("COURSE_MIRROR", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match="COURSE_MIRROR"):
        load("mnist", root=tmp_path)
    assert len(load("digits")) == 1497


def test_available_says_where_from(tiny_kmnist, tmp_path) -> None:
    cache = tmp_path / "cache"
    found = available(cache, tiny_kmnist)
    assert tuple(found) == NAMES and found["digits"] == "embedded"
    assert (found["kmnist"], found["cifar10"]) == ("mirror", "download")
    load("kmnist", root=cache, mirror=tiny_kmnist)
    assert available(cache, tiny_kmnist)["kmnist"] == "cache"


# Without a network


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("digits", "sprites")])
def test_an_impossible_download_is_one_sentence(name, offline, tmp_path, capsys) -> None:
    with pytest.raises(DataUnavailableError) as caught:
        load(name, root=tmp_path / "cache")
    said = str(caught.value)
    assert repr(name) in said and "its download failed" in said
    assert "COURSE_MIRROR" in said and "fallback='digits'" in said and "\n" not in said
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert "".join(capsys.readouterr()) == ""
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32)), ("celeba", (3, 64, 64))],
)
def test_the_fallback_says_one_sentence_and_has_the_shape(
    name, shape, offline, tmp_path, capsys
) -> None:
    images = load(name, "test", root=tmp_path, fallback="digits")
    assert images.name == "digits" and len(images) == 300 and images.shape == shape
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith(f"The 300 embedded digits stand in: '{name}'")
    assert str(tmp_path) not in said


def test_the_fallback_of_the_binarized_set_is_binary(offline, tmp_path) -> None:
    images = load("binarized_mnist", "valid", root=tmp_path, fallback="digits", image_size=32)
    assert images.images.unique().tolist() == [0, 255] and images.shape == (1, 32, 32)


def test_download_false_does_not_touch_the_network(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("COURSE_MIRROR", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: pytest.fail("asked the network"))
    for name in ("mnist", "cifar10", "celeba", "omniglot", "binarized_mnist"):
        with pytest.raises(DataUnavailableError, match="download is False"):
            load(name, root=tmp_path, download=False)


def test_a_cache_that_cannot_be_written_gets_its_sentence(offline, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataUnavailableError, match=r"cannot be written .*COURSE_CACHE"):
        load("mnist", root=tmp_path / "file")
    with pytest.raises(DataUnavailableError, match=r"cannot be written .*COURSE_CACHE"):
        load("mnist", root=tmp_path / "file" / "below")


def test_a_full_disk_gets_its_sentence(tiny_kmnist, tmp_path, monkeypatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DataUnavailableError, match=r"No space left.*COURSE_CACHE"):
        load("kmnist", root=tmp_path / "cache", mirror=tiny_kmnist)
    assert not leftovers(tmp_path / "cache")


# From a mirror, by hand, over the network


def check_tiny(root: Path, **keywords: object) -> None:
    train = load("kmnist", root=root, **keywords)
    assert train.images[:, 0, 5, 5].tolist() == [0, 40, 80, 120, 160, 200]
    assert train.labels.tolist() == list(range(6)) and train.name == "kmnist"
    assert len(load("kmnist", "test", root=root, **keywords)) == 4
    assert not leftovers(root)


def test_a_mirror_serves_without_network(tiny_kmnist, offline, tmp_path) -> None:
    check_tiny(tmp_path / "cache", mirror=tiny_kmnist, download=False)
    shutil.rmtree(tiny_kmnist)
    check_tiny(tmp_path / "cache")


def test_files_downloaded_by_hand_serve(tiny_kmnist, offline, tmp_path) -> None:
    shutil.copytree(tiny_kmnist / "KMNIST", tmp_path / "cache" / "KMNIST")
    check_tiny(tmp_path / "cache")


def test_the_network_serves_in_silence(tiny_kmnist, server, tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.delenv("COURSE_MIRROR", raising=False)
    monkeypatch.setattr(datasets.KMNIST, "mirrors", [f"{server}KMNIST/raw/"])
    check_tiny(tmp_path / "cache")
    assert "".join(capfd.readouterr()) == ""
    monkeypatch.setattr(datasets.KMNIST, "mirrors", [f"{server}nowhere/"])
    with pytest.raises(DataUnavailableError, match="404"):
        load("kmnist", root=tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize("where", ["mirror", "cache"])
def test_a_damaged_archive_is_named_and_nothing_is_left(
    where, tiny_kmnist, offline, tmp_path, capsys
) -> None:
    if where == "cache":
        shutil.copytree(tiny_kmnist / "KMNIST", tmp_path / "cache" / "KMNIST")
    torn = tmp_path / where / "KMNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-7])
    with pytest.raises(DataUnavailableError) as caught:
        load("kmnist", root=tmp_path / "cache", mirror=tiny_kmnist)
    assert str(torn) in str(caught.value) and "delete it and try again" in str(caught.value)
    assert not leftovers(tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*-ubyte"))
    torn.write_bytes(whole)
    check_tiny(tmp_path / "cache", mirror=tiny_kmnist)


def test_damaged_unpacked_files_are_named(tiny_kmnist, tmp_path) -> None:
    cache = tmp_path / "cache"
    load("kmnist", root=cache, mirror=tiny_kmnist)
    (cache / "KMNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataUnavailableError, match="delete that folder and try again"):
        load("kmnist", root=cache, mirror=tiny_kmnist)
    (tmp_path / "bin" / "binarized_mnist").mkdir(parents=True)
    (tmp_path / "bin" / "binarized_mnist" / "binarized_mnist.npz").write_bytes(b"PK nonsense")
    with pytest.raises(DataUnavailableError, match="delete that folder and try again"):
        load("binarized_mnist", root=tmp_path / "bin", mirror=tiny_kmnist)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 45 MiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ..."),
        RuntimeError("operator torchvision::nms does not exist"),
    ],
)
def test_whole_files_are_not_called_damaged(error, tiny_kmnist, tmp_path, monkeypatch) -> None:
    """Whoever is told to delete them would lose a good download."""
    load("kmnist", root=tmp_path / "cache", mirror=tiny_kmnist)

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(catalogue, "ImageSet", fail)
    with pytest.raises(type(error), match=str(error)[:20]):
        load("kmnist", root=tmp_path / "cache", mirror=tiny_kmnist)


def test_what_a_killed_load_left_goes_with_a_later_one(tiny_kmnist, tmp_path) -> None:
    old, new = (tmp_path / "cache" / f".partial-{word}" for word in ("old", "new"))
    for place, age in ((old, 2), (new, 0)):  # days; another process may be at work in the new one
        (place / "KMNIST").mkdir(parents=True)
        (place / "KMNIST" / "half").write_bytes(b"half")
        for path in (place, *place.rglob("*")):
            os.utime(path, (time.time() - age * 86_400 - 60,) * 2)
    load("kmnist", root=tmp_path / "cache", mirror=tiny_kmnist)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("images-idx3", struct.pack(">IIII", 0x803, 6, 28, 28) + bytes(6 * 784 - 1)),  # cut off
        ("images-idx3", struct.pack(">IIII", 0x803, 6, 28, 28) + bytes(6 * 784 + 1)),
        ("images-idx3", struct.pack(">IIII", 0xD03, 6, 28, 28) + bytes(6 * 784)),  # floats
        ("labels-idx1", struct.pack(">II", 0x803, 6) + bytes(6)),  # three axes
        ("labels-idx1", struct.pack(">II", 0x801, 5) + bytes(5)),  # not one per image
        ("labels-idx1", b""),
    ],
)
def test_unpacked_files_that_do_not_fit_are_damaged(file, content, tiny_kmnist, tmp_path) -> None:
    cache = tmp_path / "cache"
    load("kmnist", root=cache, mirror=tiny_kmnist)
    (cache / "KMNIST" / "raw" / f"train-{file}-ubyte").write_bytes(content)
    with pytest.raises(DataUnavailableError, match="are damaged"):
        load("kmnist", root=cache, mirror=tiny_kmnist)
    assert len(load("kmnist", "test", root=cache)) == 4


def test_what_lies_unpacked_is_read_without_importing_torchvision(tiny_kmnist, tmp_path) -> None:
    cache = tmp_path / "cache"
    load("kmnist", root=cache, mirror=tiny_kmnist)
    code = (
        "import sys; from course_lib import data\n"
        f"images = data.load('kmnist', root={str(cache)!r})\n"
        "print(len(images), images.labels.tolist(), 'torchvision' in sys.modules)\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout == "6 [0, 1, 2, 3, 4, 5] False\n", printed.stderr


def test_cifar10_from_its_archive(offline, tmp_path, monkeypatch) -> None:
    base = tmp_path / "made" / "cifar-10-batches-py"
    base.mkdir(parents=True)
    pixels = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    for file in ("data_batch_1", "test_batch"):
        (base / file).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 1]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b", "c", "d"]}))
    (tmp_path / "mirror").mkdir()
    archive = tmp_path / "mirror" / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(base, base.name)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(archive))
    sums = {file: [file, md5(base / file)] for file in ("data_batch_1", "test_batch")}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [sums["data_batch_1"]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [sums["test_batch"]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(base / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    images = load("cifar10", "test", root=tmp_path / "cache", mirror=tmp_path / "mirror")
    assert torch.equal(images.images, torch.from_numpy(pixels).reshape(2, 3, 32, 32))
    assert images.labels.tolist() == [3, 1] and images.classes == ("a", "b", "c", "d")


def test_celeba_is_cut_out_and_cached_once(offline, tmp_path, monkeypatch) -> None:
    base = tmp_path / "mirror" / "celeba"
    base.mkdir(parents=True)
    names = ["000001.jpg", "000002.jpg", "000003.jpg"]
    with zipfile.ZipFile(base / "img_align_celeba.zip", "w") as archive:
        for number, name in enumerate(names):
            pixels = np.full((218, 178, 3), 255, np.uint8)
            pixels[35:183, 15:163] = 60 * number
            Image.fromarray(pixels).save(tmp_path / name, quality=100)
            archive.write(tmp_path / name, f"img_align_celeba/{name}")
    rows = {
        "list_attr_celeba.txt": ["3", "Bald Smiling "] + [f"{n} -1 1" for n in names],
        "identity_CelebA.txt": [f"{n} 1" for n in names],
        "list_bbox_celeba.txt": ["3", "image_id x"] + [f"{n} 1" for n in names],
        "list_landmarks_align_celeba.txt": ["3", "x"] + [f"{n} 1" for n in names],
        "list_eval_partition.txt": [f"{n} {k}" for n, k in zip(names, (0, 0, 2), strict=True)],
    }
    for file, lines in rows.items():
        (base / file).write_text("\n".join(lines) + "\n")
    listed = [("id", md5(base / f), f) for f in ("img_align_celeba.zip", *rows)]
    monkeypatch.setattr(datasets.CelebA, "file_list", listed)
    monkeypatch.setattr(
        "torchvision.datasets.celeba.download_file_from_google_drive", lambda *a: None
    )
    train = load("celeba", root=tmp_path / "cache", mirror=tmp_path / "mirror", image_size=16)
    assert train.images.shape == (2, 3, 16, 16)
    inner = train.images[:, :, 1:-1, 1:-1].float()
    assert (inner - torch.tensor([0.0, 60.0])[:, None, None, None]).abs().max() <= 8
    assert train.labels.tolist() == [[0, 1]] * 2 and train.classes == ("Bald", "Smiling")
    shutil.rmtree(tmp_path / "cache" / "celeba" / "img_align_celeba")
    (tmp_path / "cache" / "celeba" / "img_align_celeba").mkdir()
    again = load("celeba", root=tmp_path / "cache", image_size=16)
    assert torch.equal(again.images, train.images)


def test_omniglot_of_torchvision_is_packed_white_on_black(offline, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.Omniglot, "_check_integrity", lambda self: True)
    for part, characters in (("background", ("b/c2", "a/c1")), ("evaluation", ("z/c1",))):
        for character in characters:
            folder = tmp_path / "omniglot-py" / f"images_{part}" / character
            folder.mkdir(parents=True)
            ink = np.full((105, 105), 255, np.uint8)
            ink[:, 40:60] = 0
            Image.fromarray(ink).convert("1").save(folder / "1.png")
    train = load("omniglot", root=tmp_path, download=False)
    assert train.shape == (1, 28, 28) and train.labels.tolist() == [0, 1]
    assert (train.images[..., 13] == 255).all() and (train.images[..., 0] == 0).all()
    assert len(load("omniglot", "test", root=tmp_path, image_size=32)) == 1


def test_the_text_form_of_the_binarized_set(server, tmp_path, monkeypatch) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (10_000, 784), dtype=np.uint8)
    (tmp_path / "mirror").mkdir()
    rows = np.full((10_000, 784, 2), ord(" "), np.uint8)
    rows[..., 0] = bits + ord("0")
    rows[:, -1, 1] = ord("\n")
    (tmp_path / "mirror" / "binarized_mnist_test.amat").write_bytes(rows.tobytes())
    monkeypatch.setattr(catalogue, "BINARIZED_URL", server)
    assert np.array_equal(np.unpackbits(catalogue._fetch_amat("test"), axis=1), bits)
    (tmp_path / "mirror" / "binarized_mnist_valid.amat").write_text("<html>moved</html>")
    with pytest.raises(RuntimeError, match="did not answer"):
        catalogue._fetch_amat("valid")


@pytest.mark.parametrize("download", [True, False])
def test_a_damaged_packed_set_of_a_mirror_is_named(offline, tmp_path, download) -> None:
    folder = tmp_path / "mirror" / "binarized_mnist"
    folder.mkdir(parents=True)
    (folder / "binarized_mnist.npz").write_bytes(b"no archive")
    with pytest.raises(DataUnavailableError, match=r"damaged: replace them and try again"):
        load(
            "binarized_mnist",
            root=tmp_path / "cache",
            mirror=tmp_path / "mirror",
            download=download,
        )


# Real sets


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_real_sets_are_whole(name, real, real_cache) -> None:
    if available(real_cache, real)[name] == "download":
        pytest.skip(f"the mirror has no {name}")
    train = load(name, root=real_cache, mirror=real, download=False)
    test = load(name, "test", root=real_cache, mirror=real, download=False)
    assert (len(train), len(test)) == (60_000, 10_000) and len(train.classes) == 10
    assert train.images.dtype == torch.uint8 and train.shape == (1, 28, 28)
    first, mean, std = {
        "mnist": ([5, 0, 4, 1, 9], 0.1307, 0.3081),
        "fashion_mnist": ([9, 0, 0, 3, 0], 0.2860, 0.3530),
    }[name]
    assert train.labels[:5].tolist() == first
    x = train.as_float(range=(0, 1))
    assert x.mean().item() == pytest.approx(mean, abs=1e-4)
    assert x.std().item() == pytest.approx(std, abs=1e-4)
    if name == "fashion_mnist":
        assert torch.bincount(train.labels).tolist() == [6000] * 10


def test_the_real_binarization_is_a_draw_from_mnist(real, real_cache) -> None:
    if not (real / "binarized_mnist").is_dir():
        pytest.skip("the mirror has no binarized_mnist")
    parts = [
        load("binarized_mnist", part, root=real_cache, mirror=real)
        for part in ("train", "valid", "test")
    ]
    assert [len(part) for part in parts] == [50_000, 10_000, 10_000]
    assert parts[0].images.unique().tolist() == [0, 255] and parts[0].labels is None
    assert torch.equal(parts[2].as_float(range=(0, 1)).unique(), torch.tensor([0.0, 1.0]))
    # Pixels are drawn with MNIST's intensities as probabilities, so the means agree.
    both = torch.cat([part.images for part in parts[:2]]).float().mean() / 255
    assert both.item() == pytest.approx(0.1307, abs=5e-4)


def test_real_omniglot(real, real_cache) -> None:
    if not (real / "omniglot").is_dir():
        pytest.skip("the mirror has no omniglot")
    train = load("omniglot", root=real_cache, mirror=real, image_size=32)
    test = load("omniglot", "test", root=real_cache, mirror=real)
    assert (len(train), len(test)) == (19_280, 13_180)
    # 964 and 659 characters, each written by 20 people.
    assert torch.bincount(train.labels).tolist() == [20] * 964
    assert torch.bincount(test.labels).tolist() == [20] * 659
    assert train.images.float().mean() < 40
