"""Examine an installation and say, for each thing that is wrong, what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from course_lib import environment


class Finding(NamedTuple):
    """One line of the report: what was examined, whether it is well, and the mend if it is not."""

    what: str
    good: bool
    mend: str = ""


def _python() -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding(
        f"Python {platform.python_version()}",
        good,
        "install Python 3.11 or newer and make the environment again",
    )


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        requirements = metadata.requires("course-lib") or []
    except metadata.PackageNotFoundError:
        yield Finding("course_lib is not installed", False, "pip install --editable '.[lab]'")
        return
    for text in requirements:
        requirement = Requirement(text)
        extra = "extra" in str(requirement.marker or "")
        if extra and not (requirement.marker and requirement.marker.evaluate({"extra": "lab"})):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(
                f"{requirement.name} is missing",
                False,
                f"pip install '{requirement}'".split(";")[0],
            )
            continue
        yield Finding(
            f"{requirement.name} {version}",
            requirement.specifier.contains(version, prereleases=True),
            f"pip install '{requirement.name}{requirement.specifier}'",
        )


def _torchvision() -> Iterator[Finding]:
    mend = (
        "install the torchvision that belongs to your torch: "
        "pip install --force-reinstall torch torchvision, both in one command"
    )
    try:
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:
        yield Finding(f"torchvision does not fit torch ({type(error).__name__})", False, mend)
    else:
        yield Finding("torchvision fits torch", True)


def _device() -> Iterator[Finding]:
    try:
        device = environment.choose_device()
        layer = torch.nn.Linear(8, 1, device=device)
        layer(torch.ones(4, 8, device=device)).sum().backward()
    except Exception as error:
        yield Finding(
            f"no training step is possible ({error})", False, "set COURSE_DEVICE=cpu and try again"
        )
        return
    yield Finding(f"one training step on {device.type}, {torch.get_num_threads()} threads", True)
    unused = device.type == "cpu" and torch.version.cuda and not torch.cuda.is_available()
    if unused and shutil.which("nvidia-smi"):
        yield Finding(
            "an NVIDIA driver is installed, but torch cannot use it",
            False,
            f"update the driver to one that supports CUDA {torch.version.cuda}",
        )


def _kernel() -> Iterator[Finding]:
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except Exception:
        yield Finding(
            "no Jupyter kernel named python3",
            False,
            f"{sys.executable} -m pip install ipykernel",
        )
        return
    same = not os.path.isabs(command) or Path(command).parent == Path(sys.executable).parent
    yield Finding(
        "the Jupyter kernel python3 runs this Python" if same else f"the kernel runs {command}",
        same,
        f"{sys.executable} -m ipykernel install --sys-prefix",
    )


def _folders() -> Iterator[Finding]:
    cache = environment.default_cache()
    mend = "set COURSE_CACHE to a folder that you may write to"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        yield Finding(f"the cache {cache} cannot be written ({error.strerror})", False, mend)
    else:
        free = shutil.disk_usage(cache).free / 1e9
        yield Finding(
            f"cache {cache} with {free:.0f} GB free", free > 1, "free 1 GB, or set COURSE_CACHE"
        )
    named: tuple[tuple[str, str, Callable[[], Path | None]], ...] = (
        ("data mirror", "no data mirror (none is needed)", environment.mirror_directory),
        ("runs are kept in", "", environment.output_directory),
    )
    for name, absent, find in named:
        try:
            folder = find()
        except FileNotFoundError as error:
            what, mend = str(error).rsplit(": ", 1)
            yield Finding(what, False, mend)
        else:
            mend = "set COURSE_OUTPUT to a folder that you may write to"
            yield Finding(
                f"{name} {folder}" if folder else absent,
                folder is None or name == "data mirror" or environment.is_writable(folder),
                mend,
            )


def _profile() -> Iterator[Finding]:
    name = os.environ.get("COURSE_PROFILE") or "laptop"
    good = name in environment.PROFILES
    yield Finding(
        f"profile {name}", good, f"set COURSE_PROFILE to one of {', '.join(environment.PROFILES)}"
    )


EXAMINATIONS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _torchvision,
    _device,
    _kernel,
    _folders,
    _profile,
)


def examine() -> list[Finding]:
    """Run all examinations; one that stops with an error becomes a finding itself."""
    findings = []
    for examination in EXAMINATIONS:
        try:
            findings += examination()
        except Exception as error:
            name = examination.__name__.strip("_")
            findings.append(
                Finding(
                    f"the examination of {name} stopped ({type(error).__name__}: {error})",
                    False,
                    "paste this line into a bug report",
                )
            )
    return findings


def report(findings: list[Finding]) -> int:
    """Print the findings; return an exit code: 1 when something needs mending, else 0."""
    for finding in findings:
        print(f"{'✓' if finding.good else '✗'} {finding.what}")
        if not finding.good:
            print(f"    what to do: {finding.mend}")
    wrong = sum(not finding.good for finding in findings)
    if wrong:
        print(f"\n{wrong} of {len(findings)} findings need mending.")
    else:
        print("\nAll is well. Start with: make lab, or jupyter lab notebooks")
    return int(wrong > 0)
