"""Named image sets: two that are always here, and the public ones that torchvision knows.

A public set comes from the first place that has it: the cache, a local mirror, or its own address
on the network. It is unpacked beside the cache and moved into it whole, so that a stop halfway
leaves nothing half-written.
"""

from __future__ import annotations

import difflib
import errno
import os
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from http.client import HTTPException
from io import StringIO
from numbers import Integral
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.data.folder import read_image
from course_lib.data.images import ImageSet
from course_lib.data.sprites import sprites
from course_lib.environment import default_cache, mirror_directory

DIGITS = tuple("0123456789")
GARMENTS = tuple(
    "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")
)
BINARIZED_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
TIMEOUT_SECONDS = 20
# What a full, locked or misnamed disk answers; everything else that fails is the network's.
_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
_DISK |= {errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO}


class DataUnavailableError(RuntimeError):
    """A set cannot be had here and now; the sentence says what was tried and what would help."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(f"{reason}: {mend}.")
        self.reason = reason


@dataclass(frozen=True)
class _Source:
    """How one set is found and read: ``read(root, split, size, download)`` makes it."""

    read: Callable[..., ImageSet]
    shape: tuple[int, int]  # channels and the pixels per side that it comes in
    folder: str = ""  # below the cache and below a mirror; empty for an embedded set
    splits: tuple[str, ...] = ("train", "test")
    archives: Callable[[], list[tuple[str, str]]] = list  # file names with their md5 sums


def load(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    root: str | Path | None = None,
    mirror: str | Path | None = None,
    fallback: str | None = None,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> ImageSet:
    """An image set by name, as uint8 ``[n, channels, height, width]`` with labels ``[n]``.

    | name | images | where from |
    |---|---|---|
    | digits | 1,497 + 300, 1×28×28 | embedded: scikit-learn's 8×8 digits, enlarged |
    | sprites | 10,000 + 2,000, 3×32×32 | drawn here from known factors, the same ones every time |
    | mnist, fashion_mnist, kmnist | 60,000 + 10,000, 1×28×28 | torchvision |
    | binarized_mnist | 50,000 + 10,000 (valid) + 10,000, 1×28×28 | pixels 0 or 255; no labels |
    | omniglot | 19,280 + 13,180, 1×28×28 | background and evaluation alphabets, white on black |
    | cifar10 | 50,000 + 10,000, 3×32×32 | torchvision |
    | celeba | 162,770 + 19,867 (valid) + 19,962, 3×64×64 | central 148 pixels; 40 attributes |

    Args:
        name: one of ``NAMES``.
        split: "train" or "test"; for binarized_mnist and celeba also "valid".
        image_size: pixels per side; None for the size in the table. From 28 to 32 the images get
            a black margin of 2 pixels, any other change resizes them with antialiasing.
        root: cache folder; None for ``environment.default_cache()``.
        mirror: folder with local copies of the files; None for ``environment.mirror_directory()``.
        fallback: "digits" asks for the embedded digits, in the shape of the wanted set, where that
            cannot be had; one printed sentence says so.
        device: where the tensors go.
        download: False forbids the network.

    Raises:
        DataUnavailableError: neither cache, mirror nor network has the set, or a file is damaged.
        ValueError: the name, split, size, fallback or device does not exist.

    Source: LeCun et al. 1998 (MNIST); Xiao et al. 2017 (Fashion-MNIST); Clanuwat et al. 2018
    (Kuzushiji-MNIST); Salakhutdinov and Murray 2008 (the binarisation, in the fixed draw by
    Larochelle); Lake et al. 2015 (Omniglot); Krizhevsky 2009 (CIFAR-10); Liu et al. 2015 (CelebA).
    """
    source = _source(name)
    if split not in source.splits:
        raise ValueError(f"{name!r} has no split {split!r}: choose one of {list(source.splits)}.")
    if fallback not in (None, "digits"):
        raise ValueError(f"fallback={fallback!r} is not embedded: use 'digits' or None.")
    channels, own_size = source.shape
    size = own_size if image_size is None else image_size
    whole = isinstance(size, Integral)
    if not whole or size < 1 or (name == "binarized_mnist" and size not in (28, 32)):
        raise ValueError(
            f"{name!r} cannot be had with image_size={size}: "
            "use 28 or 32 for the binarized set, and a whole number of pixels for the others."
        )
    if not source.folder:
        return source.read(split, size).to(device)
    root = default_cache() if root is None else Path(root).expanduser()
    try:
        mirror = mirror_directory() if mirror is None else _existing(mirror)
        images = _obtain(name, source, split, size, root, mirror, download)
    except DataUnavailableError as error:
        if fallback is None:
            raise
        images = _read_digits("train" if split == "train" else "test", size)
        print(f"The {len(images):,} embedded digits stand in: {error.reason}.")
        if name == "binarized_mnist":
            images = replace(images, images=(images.images > 127).to(torch.uint8) * 255)
        images = replace(images, images=images.images.expand(-1, channels, -1, -1).contiguous())
    return replace(images, images=resize(images.images, size)).to(device)


def available(root: str | Path | None = None, mirror: str | Path | None = None) -> dict[str, str]:
    """Where each set would come from: "embedded", "cache", "mirror" or "download"; asks no network.

    "cache" and "mirror" say that the set's folder lies there, not that its files are whole.
    """
    root = default_cache() if root is None else Path(root).expanduser()
    mirror = mirror_directory() if mirror is None else _existing(mirror)

    def where(source: _Source) -> str:
        if not source.folder:
            return "embedded"
        if (root / source.folder).is_dir():
            return "cache"
        return "mirror" if _in_mirror(source, mirror) else "download"

    return {name: where(source) for name, source in _SOURCES.items()}


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 images ``[n, c, h, h]`` at another size: 28 to 32 by a margin, else smoothly."""
    own = images.shape[-1]
    if own == size:
        return images
    if (own, size) == (28, 32):
        return F.pad(images, (2, 2, 2, 2))
    blocks = []  # each of them as bytes before the next one is made: floats are four times as many
    for block in images.split(4096):
        smooth = F.interpolate(block.float(), (size, size), mode="bicubic", antialias=True)
        blocks.append(smooth.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(blocks)


# The embedded sets


def _read_digits(split: str, size: int) -> ImageSet:
    """scikit-learn's digits. Of each class, 30 spread evenly over the file are the test set."""
    from sklearn.datasets import load_digits

    data = load_digits()
    is_test = np.zeros(len(data.target), dtype=bool)
    for digit in range(10):
        members = np.flatnonzero(data.target == digit)
        is_test[members[np.arange(30) * len(members) // 30]] = True
    keep = is_test if split == "test" else ~is_test
    small = torch.from_numpy(data.images[keep]).float()[:, None] / 16
    # A margin of one, so that strokes end inside the picture as in MNIST, then 2.8 times as large.
    grey = F.interpolate(F.pad(small, (1, 1, 1, 1)), (28, 28), mode="bicubic")
    # The small pixels count the ink in blocks of 4×4; more contrast brings the strokes back.
    images = ((grey - 0.3) / 0.6).clamp(0, 1).mul(255).round().to(torch.uint8)
    labels = torch.from_numpy(data.target[keep]).long()
    return ImageSet(resize(images, size), labels, "digits", DIGITS)


def _read_sprites(split: str, size: int) -> ImageSet:
    n, seed = {"train": (10_000, 0), "test": (2_000, 1)}[split]
    return sprites(n, size, torch.Generator().manual_seed(seed))


# The public sets: each reader takes a cache folder and raises RuntimeError where it has not the set


def _mnist_like(class_name: str, classes: tuple[str, ...]) -> _Source:
    def read(root: Path, split: str, size: int, download: bool) -> ImageSet:
        if download:
            _torchvision(class_name)(root, download=True)
        part = root / class_name / "raw" / ("train" if split == "train" else "t10k")
        images = _read_idx(Path(f"{part}-images-idx3-ubyte"), 3)
        labels = _read_idx(Path(f"{part}-labels-idx1-ubyte"), 1)
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images, {len(labels)} labels")
        return ImageSet(images[:, None], labels.long(), classes=classes)

    def archives() -> list[tuple[str, str]]:
        return [(f"raw/{file}", md5) for file, md5 in _torchvision(class_name).resources]

    return _Source(read, (1, 28), class_name, archives=archives)


def _read_idx(file: Path, axes: int) -> Tensor:
    """An unpacked file of bytes: 0, 0, 8 for their type, the number of axes, sizes, the bytes.

    Torchvision reads it too, but its import would delay the first update of every run.
    """
    if not file.is_file():
        raise RuntimeError("not found")
    content = np.fromfile(file, np.uint8)
    start = 4 + 4 * axes
    sizes = content[4:start].view(">i4").tolist()
    if content[:4].tolist() != [0, 0, 8, axes] or len(content) != start + np.prod(sizes):
        raise ValueError(f"{file} is not whole")
    return torch.from_numpy(content[start:].reshape(sizes))


def _read_cifar10(root: Path, split: str, size: int, download: bool) -> ImageSet:
    data = _torchvision("CIFAR10")(root, train=split == "train", download=download)
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(data.targets), classes=tuple(data.classes))


def _cifar10_archives() -> list[tuple[str, str]]:
    return [(f"../{_torchvision('CIFAR10').filename}", _torchvision("CIFAR10").tgz_md5)]


def _read_celeba(root: Path, split: str, size: int, download: bool) -> ImageSet:
    data = _torchvision("CelebA")(root, split=split, download=download)
    cached = root / "celeba" / f"{split}_{size}.npy"
    if not cached.is_file():
        pictures = root / "celeba" / "img_align_celeba"
        arrays = np.stack([_celeba_face(pictures / name, size) for name in data.filename])
        with _written_whole(cached) as part:
            np.save(part, arrays)
    images = torch.from_numpy(np.load(cached)).permute(0, 3, 1, 2).contiguous()
    # A trailing space in the file's header makes torchvision add an empty name.
    return ImageSet(images, data.attr.long(), classes=tuple(n for n in data.attr_names if n))


def _celeba_face(file: Path, size: int) -> np.ndarray:
    # 148 is the side commonly cut out of the 178×218 pixels: the face without its surroundings.
    return read_image(file, size, crop=148)


def _celeba_archives() -> list[tuple[str, str]]:
    return [(file, md5) for _, md5, file in _torchvision("CelebA").file_list]


def _read_omniglot(root: Path, split: str, size: int, download: bool) -> ImageSet:
    part = "background" if split == "train" else "evaluation"
    packed = root / "omniglot" / "omniglot_28x28_uint8.npz"
    if not packed.is_file():
        _pack_omniglot(root, packed, download)
    with np.load(packed) as data:
        labels = torch.from_numpy(data[f"{part}_labels"]).long()
        return ImageSet(torch.from_numpy(data[part])[:, None], labels)


def _pack_omniglot(root: Path, packed: Path, download: bool) -> None:
    arrays: dict[str, np.ndarray] = {}
    for part in ("background", "evaluation"):
        _torchvision("Omniglot")(root, background=part == "background", download=download)
        # torchvision lists files in the disk's order; sorted, they are the same everywhere.
        files = sorted((root / "omniglot-py" / f"images_{part}").rglob("*.png"))
        characters = sorted({file.parent for file in files})
        # Drawn in black on white at 105×105; turned round so that ink is 255, as in MNIST.
        arrays[part] = np.stack([255 - read_image(file, 28, 1)[..., 0] for file in files])
        labels = [characters.index(file.parent) for file in files]
        arrays[f"{part}_labels"] = np.array(labels, dtype=np.int16)
    with _written_whole(packed) as file:
        np.savez_compressed(file, **arrays)


def _read_binarized(root: Path, split: str, size: int, download: bool) -> ImageSet:
    packed = root / "binarized_mnist" / "binarized_mnist.npz"
    if not packed.is_file():
        if not download:
            raise RuntimeError("not found")
        bits = {part: _fetch_amat(part) for part in ("train", "valid", "test")}
        with _written_whole(packed) as file:
            np.savez_compressed(file, **bits)
    with np.load(packed) as data:
        bits = np.unpackbits(data[split], axis=1)[:, : 28 * 28]
    return ImageSet(torch.from_numpy(bits * np.uint8(255)).reshape(-1, 1, 28, 28))


def _fetch_amat(part: str) -> np.ndarray:
    url = f"{BINARIZED_URL}binarized_mnist_{part}.amat"
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        text = response.read().translate(None, b" \r\n\t")
    rows = np.frombuffer(text, dtype=np.uint8) - ord("0")
    if rows.size != 784 * (50_000 if part == "train" else 10_000) or rows.max() > 1:
        raise RuntimeError(f"{url} did not answer with 28×28 zeros and ones per image")
    return np.packbits(rows.reshape(-1, 784), axis=1)


def _torchvision(class_name: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, class_name)


_SOURCES = {
    "digits": _Source(_read_digits, (1, 28)),
    "sprites": _Source(_read_sprites, (3, 32)),
    "mnist": _mnist_like("MNIST", DIGITS),
    "fashion_mnist": _mnist_like("FashionMNIST", GARMENTS),
    "kmnist": _mnist_like("KMNIST", tuple("o ki su tsu na ha ma ya re wo".split())),
    "cifar10": _Source(_read_cifar10, (3, 32), "cifar-10-batches-py", archives=_cifar10_archives),
    "celeba": _Source(
        _read_celeba, (3, 64), "celeba", ("train", "valid", "test"), _celeba_archives
    ),
    "omniglot": _Source(
        _read_omniglot, (1, 28), "omniglot", archives=lambda: [("omniglot_28x28_uint8.npz", "")]
    ),
    "binarized_mnist": _Source(
        _read_binarized,
        (1, 28),
        "binarized_mnist",
        ("train", "valid", "test"),
        lambda: [("binarized_mnist.npz", "")],
    ),
}
NAMES = tuple(_SOURCES)


# From the cache, a mirror or the network into the cache


def _source(name: str) -> _Source:
    if name not in _SOURCES:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them."
        raise ValueError(f"there is no set {name!r} among {', '.join(NAMES)}: {hint}")
    return _SOURCES[name]


def _obtain(
    name: str,
    source: _Source,
    split: str,
    size: int,
    root: Path,
    mirror: Path | None,
    download: bool,
) -> ImageSet:
    try:
        found = _read_cache(name, source, split, size, root)
        if found is None:
            _fill_cache(name, source, split, size, root, mirror, download)
            found = source.read(root, split, size, False)
        return replace(found, name=name)
    except (URLError, HTTPException, TimeoutError, ConnectionError, RuntimeError) as error:
        if isinstance(error, DataUnavailableError):
            raise
        places = "neither in the cache nor in the mirror" if mirror else "not in the cache"
        network = f"its download failed ({_short(error)})" if download else "download is False"
        reason = f"{name!r} is {places}, and {network}"
        raise DataUnavailableError(reason, _mend(source, root)) from None
    except OSError as error:
        if error.errno not in _DISK:
            reason = f"{name!r} failed ({_short(error)})"
            raise DataUnavailableError(reason, _mend(source, root)) from None
        reason = f"{name!r} cannot be written to the cache {root} ({error.strerror})"
        mend = "set COURSE_CACHE to a folder that can be written to and has room"
        raise DataUnavailableError(reason, mend) from None


def _mend(source: _Source, root: Path) -> str:
    """What a reader can do about a set that cannot be had."""
    public = [_place(root, source, file) for file, md5 in source.archives() if md5]
    by_hand = ""
    if public:
        names = ", ".join(file.name for file in public)
        by_hand = f"download {names} by hand into {public[0].parent}, "
    return f"set COURSE_MIRROR to a folder that has it, {by_hand}or pass fallback='digits'"


def _read_cache(name: str, source: _Source, split: str, size: int, root: Path) -> ImageSet | None:
    try:
        return source.read(root, split, size, False)
    except (MemoryError, ImportError):  # neither is the fault of the files
        raise
    except RuntimeError as error:
        if "not found" in str(error):
            return None
        elsewhere = ("can't allocate memory", "not enough memory", "operator torchvision::")
        if any(words in str(error) for words in elsewhere):
            raise
        raise _damaged(name, root / source.folder) from None
    except OSError as error:
        if error.errno in _DISK:
            raise
        raise _damaged(name, root / source.folder) from None
    except Exception:  # a torn file fails in whatever way its reader happens to
        raise _damaged(name, root / source.folder) from None


def _fill_cache(
    name: str,
    source: _Source,
    split: str,
    size: int,
    root: Path,
    mirror: Path | None,
    download: bool,
) -> None:
    """Gather and unpack a set in a folder beside its place in the cache, then move it there."""
    root.mkdir(parents=True, exist_ok=True)
    _remove_old_parts(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=".partial-") as aside:
        complete = True
        for file, md5 in source.archives():
            places = [_place(base, source, file) for base in (root, mirror) if base]
            place = next((p for p in places if p.is_file()), None)
            complete &= place is not None
            if place is not None:
                _require_whole(name, place, md5)
                target = _place(Path(aside), source, file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place, target)
        if not (complete or download):
            raise RuntimeError("not found")
        try:
            with _quiet():
                source.read(Path(aside), split, size, True)
        except (OSError, HTTPException):
            raise
        except Exception as error:  # each downloader has errors of its own
            if complete:
                reason = f"the files of {name!r} in {mirror or root} are damaged"
                raise DataUnavailableError(reason, "replace them and try again") from None
            raise RuntimeError(str(error)) from None
        _move_into(Path(aside), root)


def _remove_old_parts(root: Path) -> None:
    """Remove what killed processes left; what was touched in the last day may be at work."""
    for part in root.glob(".partial-*"):
        with suppress(OSError):  # another process may remove it as well
            newest = max(path.stat().st_mtime for path in (part, *part.rglob("*")))
            if time.time() - newest > 86_400:
                shutil.rmtree(part)


def _require_whole(name: str, file: Path, md5: str) -> None:
    from torchvision.datasets.utils import check_integrity

    if md5 and not check_integrity(file, md5):
        reason = f"the file {file} of {name!r} is damaged (its md5 sum is not {md5})"
        raise DataUnavailableError(reason, "delete it and try again")


def _damaged(name: str, folder: Path) -> DataUnavailableError:
    reason = f"the files of {name!r} in {folder} are damaged"
    return DataUnavailableError(reason, "delete that folder and try again")


def _move_into(source: Path, target: Path) -> None:
    for item in source.iterdir():
        place = target / item.name
        try:
            os.replace(item, place)
        except OSError:
            if not (item.is_dir() and place.is_dir()):
                raise
            _move_into(item, place)


@contextmanager
def _written_whole(path: Path) -> Iterator[Any]:
    """A binary file to write to, which takes its name only once everything is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no waiting for ever on a network that swallows what it is sent."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        with redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _existing(mirror: str | Path) -> Path:
    path = Path(mirror).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(f"mirror={str(mirror)!r} is not a folder: check the path.")
    return path


def _place(base: Path, source: _Source, file: str) -> Path:
    # Normalised, because the CIFAR archive lies beside a folder that need not exist yet.
    return Path(os.path.normpath(base / source.folder / file))


def _in_mirror(source: _Source, mirror: Path | None) -> bool:
    if mirror is None:
        return False
    return all(_place(mirror, source, file).is_file() for file, _ in source.archives())


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    return last.removeprefix("<urlopen error ").rstrip(".:>")[:160]
