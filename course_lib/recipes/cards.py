"""What a run writes and prints: files that are old or new but never torn, the card, the lists."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_lib import __version__, environment
from course_lib.recipes import catalogue
from course_lib.training.state import write_durably

ASIDE = re.compile(r"\.\d+-\w")  # the beginning of a file that is being written
_PLACES = {"card": "card.json", "weights": "final", "samples": "samples", "state": "checkpoint"}


def store(path: Path, content: bytes) -> None:
    """Write aside, then rename: whoever looks finds the old file whole or the new one."""
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_durably(aside, content)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"Could not write {path.name} ({error.strerror})",
            str(path.parent),
        ) from error


def text(content: Mapping[str, Any]) -> bytes:
    """JSON with one line per key."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, allow_nan=False)}" for k, v in content.items()]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes from training in a directory, which is made if need be.

    The system holds the lock, and lets go of it however this process ends. Where there are no such
    locks (Windows, some network drives) nothing is locked. An empty directory is removed again.

    Raises:
        ValueError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = _lock(directory / ".lock", fcntl)
    except OSError as error:
        told = (
            f"Could not write there ({error.strerror}); name a directory of your own with --out, "
        )
        told += "or set COURSE_OUTPUT"
        raise OSError(error.errno, told, str(directory)) from error
    try:
        yield
    finally:
        (directory / ".lock").unlink(missing_ok=True)  # while it is held: see `_lock`
        os.close(file)
        with suppress(OSError):  # not empty, removed by somebody, or locked by the next process
            directory.rmdir()


def _lock(path: Path, fcntl: Any) -> int:
    """Open and lock a file that holds the number of the process; its descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.read(file, 20).decode(errors="replace")
            os.close(file)
            raise ValueError(
                f"Process {number or 'of another run'} is training in {path.parent} now: wait for "
                "it, end it, or name another directory with --out."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                os.close(file)
                raise
        # The last holder may have removed the file between our opening and our locking it.
        with suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file).st_ino:
                os.ftruncate(file, 0)
                os.write(file, str(os.getpid()).encode())
                return file
        os.close(file)


def circumstances(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """What the last bit of a result depends on besides its configuration."""
    threads = torch.get_num_threads()
    name = f"cpu ({platform.machine()}, {threads} thread{'s' if threads > 1 else ''})"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        # What "float32" means in a convolution since Ampere (compute capability 8).
        if _tf32_convolutions() and torch.cuda.get_device_capability(device)[0] >= 8:
            name += ", convolutions in TF32"
    versions = {"course_lib": __version__, "python": platform.python_version()}
    versions |= {"torch": torch.__version__, "numpy": np.__version__}
    name = name if device.type in ("cpu", "cuda") else device.type
    return {"device": name, "processes": processes, "versions": versions}


def _tf32_convolutions() -> bool:
    if hasattr(torch.backends, "fp32_precision"):  # torch 2.9: the old name fails beside this one
        return torch.backends.cudnn.conv.fp32_precision == "tf32"
    return torch.backends.cudnn.allow_tf32


def peak_memory(device: torch.device) -> float | None:
    """MiB: of a CUDA GPU's memory, of the process elsewhere; None where the system does not say."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    peak = environment.peak_resident_mib()
    return None if peak is None else round(peak, 1)


def curve(values: list[float], size: int) -> list[list[float]]:
    """`[step, mean]` of every `size` values in a row, the last ones among them."""
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    ends = [min((i + 1) * size, len(values)) for i in range(len(parts))]
    return [[end, float(f"{sum(p) / len(p):.6g}")] for end, p in zip(ends, parts, strict=True)]


def grid(pixels: Tensor, columns: int = 8) -> bytes:
    """A PNG of uint8 images `[n, 1 or 3, height, width]`, row by row, with a line between them."""
    from PIL import Image

    n, channels, height, width = pixels.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (height + 2) + 2, columns * (width + 2) + 2, channels), 96, np.uint8)
    for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = 2 + i // columns * (height + 2), 2 + i % columns * (width + 2)
        sheet[top : top + height, left : left + width] = image
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
    picture.save(buffer, "PNG", compress_level=1)  # the training waits for it
    return buffer.getvalue()


def summary(card: Mapping[str, Any], directory: Path) -> str:
    """What a run came to, and where everything lies."""
    lines = [
        f"{card['recipe']}: {card.get('step', card['config']['steps']):,} of "
        f"{card['config']['steps']:,} steps in {card['wall_seconds']:,.1f} s, "
        f"{card['images_per_second']:,.0f} images/s, on {card['device']}."
    ]
    for row in card["metrics"]:
        value = "none" if row["value"] is None else f"{row['value']:.5g}"
        error = f" ± {row['standard_error']:.2g}" if "standard_error" in row else ""
        features = f", {row['features']}" if "features" in row else ""
        lines.append(f"  {row['measure']}: {value}{error}  (n = {row['n']:,}{features})")
        for f in card["paper"]:
            if f["measure"] == row["measure"]:
                lines.append(f"    paper: {f['value']:g}  ({f['source']})")
    lines += [
        f"  warning, steps {w['step']} to {w['until']}: {w['what']}" for w in card["warnings"]
    ]
    lines += [
        f"  {name + ':':<9}{directory / place}"
        for name, place in _PLACES.items()
        if (directory / place).exists()
    ]
    return "\n".join(lines)


def table() -> str:
    """All recipes, with minutes and memory of the quickest run of each that has a card."""
    head = ["recipe", "steps: smoke", "laptop", "gpu", "minutes, memory", "what"]
    rows = [head, ["-" * len(word) for word in head]]
    cards = list(_cards())
    for recipe in catalogue.RECIPES.values():
        steps = [f"{recipe.steps[p]:,}" for p in environment.PROFILES]
        rows.append([recipe.name, *steps, _cost(recipe, cards), recipe.what])
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    pad = [str.ljust, str.rjust, str.rjust, str.rjust, str.ljust, str.ljust]
    lines = [
        "  ".join(f(c, w) for f, c, w in zip(pad, r, widths, strict=True)).rstrip() for r in rows
    ]
    lines.append(
        "\nMinutes (evaluation included) and memory are those of the quickest run on a card: "
        "others may have shared their machine."
    )
    return "\n".join(lines)


def _cards() -> Iterator[dict[str, Any]]:
    """Result cards of runs: those of the course, and those in the output folder."""
    found = [*environment.data_file("results").glob("*.json")]
    found += environment.output_directory().glob("*/card.json")
    for path in found:
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            if {"recipe", "config", "finished", "wall_seconds"} <= card.keys():
                yield card
        except (OSError, ValueError, AttributeError):
            continue


def _cost(recipe: catalogue.Recipe, cards: list[dict[str, Any]]) -> str:
    """Of the quickest run with the recipe's own settings and budget, at the largest profile.

    Where there is none, of the newest of any other, with its number of steps.
    """
    mine = [card for card in cards if card["recipe"] == recipe.name]
    for profile in ("gpu", "laptop"):
        own, settings = (profile, recipe.steps[profile]), recipe.defaults(profile)
        full = [
            c
            for c in mine
            if (c["config"]["profile"], c["config"]["steps"]) == own
            # A card may be older than a setting.
            and settings | c["config"]["settings"] == settings
        ]
        if full:
            return f"{profile}: {_spent(min(full, key=_seconds))}"
    others = [c for c in mine if c["config"]["profile"] != "smoke"]
    if not others:
        return "not run yet"
    newest = max(others, key=lambda c: c["finished"])
    return f"{newest['config']['steps']:,} steps: {_spent(newest)}"


def _seconds(card: Mapping[str, Any]) -> float:
    return card["wall_seconds"] + card["evaluation"]["seconds"]


def _spent(card: Mapping[str, Any]) -> str:
    minutes = _seconds(card) / 60
    memory = "" if card["peak_memory_mib"] is None else f", {card['peak_memory_mib']:,.0f} MiB"
    return f"{minutes:.1f} min{memory}, {card['device']}"
