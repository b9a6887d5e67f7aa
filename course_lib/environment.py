"""Where the course runs: device, profile, folders and seeds, set up by one call."""

from __future__ import annotations

import math
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

__version__ = "0.1.0"

PROFILES = ("smoke", "laptop", "gpu")
T = TypeVar("T")


@dataclass(frozen=True)
class Profile:
    """How much work a notebook may do: ``smoke`` (tests), ``laptop`` (the default) or ``gpu``."""

    name: str = "laptop"

    def __post_init__(self) -> None:
        if self.name not in PROFILES:
            raise ValueError(
                f"There is no profile {self.name!r}: set COURSE_PROFILE, or the argument that "
                f"chose it, to one of {', '.join(PROFILES)}."
            )

    def steps(self, laptop: int, *, smoke: int | None = None, gpu: int | None = None) -> int:
        """Number of training updates (or of anything countable) that this profile allows.

        Args:
            laptop: number at the default profile.
            smoke: number in the tests; a hundredth of ``laptop``, at least 3, unless given.
            gpu: number for a full run; the same as ``laptop`` unless given.
        """
        if smoke is None:
            smoke = max(3, laptop // 100)
        return self.choose(smoke=smoke, laptop=laptop, gpu=laptop if gpu is None else gpu)

    def choose(self, *, smoke: T, laptop: T, gpu: T | None = None) -> T:
        """The value for this profile; ``gpu`` is the same as ``laptop`` unless given."""
        if gpu is None:
            gpu = laptop
        return {"smoke": smoke, "laptop": laptop, "gpu": gpu}[self.name]


@dataclass(frozen=True)
class Paths:
    """Folders. None of them is made before something is written to it.

    Attributes:
        root: the checkout of the course, or None where only the library is installed.
        cache: where downloads go (``COURSE_CACHE``, else ``data/cache``, else the user's cache).
        mirror: local copies of the data sets (``COURSE_MIRROR``), or None.
        output: where runs write (``COURSE_OUTPUT``, else ``build/runs`` of the checkout).
    """

    root: Path | None
    cache: Path
    mirror: Path | None
    output: Path


@dataclass
class Course:
    """What ``setup`` returns: everything that depends on the machine or on the seed."""

    seed: int
    device: torch.device
    profile: Profile
    paths: Paths
    generator: torch.Generator
    device_generator: torch.Generator
    rng: np.random.Generator
    report: str = field(repr=False, default="")

    def new_generator(self, offset: int = 1) -> torch.Generator:
        """A fresh CPU generator that depends on the seed and ``offset`` alone.

        Use one per experiment, so that running a cell twice gives the same numbers twice. Batch k
        of `data.SampleBatches` with the same seed comes from the numbers of offset k: test points
        that must be new to a training take an offset beyond its steps.
        """
        return torch.Generator().manual_seed((self.seed * 1_000_003 + offset) % 2**63)


def repository_root() -> Path | None:
    """The checkout that holds this library, or None when the library is installed alone."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() and (root / "notebooks").is_dir() else None


def data_file(*parts: str) -> Path:
    """A file of the folder ``data``: in the checkout, else in the installed package.

    An installed package has the weights and the result cards of it, and no more. Whether the file
    is there is for the caller to see.
    """
    root = repository_root()
    folder = root / "data" if root else Path(__file__).resolve().parent / "_files"
    return folder.joinpath(*parts)


def default_cache() -> Path:
    """Folder for downloads: ``COURSE_CACHE``, else ``data/cache`` here, else the user's cache."""
    if os.environ.get("COURSE_CACHE"):
        return Path(os.environ["COURSE_CACHE"]).expanduser()
    root = repository_root()
    return root / "data" / "cache" if root else Path.home() / ".cache" / "course_lib"


def mirror_directory() -> Path | None:
    """Folder with local copies of the data sets (``COURSE_MIRROR``), or None when it is not set.

    Raises:
        FileNotFoundError: the variable names no folder.
    """
    value = os.environ.get("COURSE_MIRROR")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"COURSE_MIRROR is {value!r}, which is not a folder: "
            "set it to a folder laid out as data/README.md says, or unset it."
        )
    return folder


def output_directory() -> Path:
    """Where runs write: ``COURSE_OUTPUT``, else ``build/runs`` here, else ``./course_runs``.

    Raises:
        FileNotFoundError: ``COURSE_OUTPUT`` names no folder, nor a new one in a folder. A drive
            that is not mounted yet looks like that, and to make the folders in its place would
            keep the run on a disk that ends with the session.
    """
    value = os.environ.get("COURSE_OUTPUT")
    if value:
        folder = Path(value).expanduser()
        if not folder.is_dir() and (folder.exists() or not folder.parent.is_dir()):
            raise FileNotFoundError(
                f"COURSE_OUTPUT is {value!r}, which is not a folder, nor a new name in one: mount "
                "the drive that it lies on, make the folder, or name another."
            )
        return folder
    root = repository_root()
    return root / "build" / "runs" if root else Path.cwd() / "course_runs"


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or where it would be made."""
    there = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return True
    except OSError:
        return False


def where_runs_go() -> str:
    """One sentence about where runs are kept, or the empty string where nobody needs it.

    Where somebody chose a folder it is named. Colab and Kaggle end a session and forget its files,
    so there the sentence says how to choose one.
    """
    if os.environ.get("COURSE_OUTPUT"):
        return f"Runs are kept in {output_directory()} (COURSE_OUTPUT)."
    if os.environ.get("COLAB_RELEASE_TAG"):
        lasting = "a folder of a mounted drive, such as /content/drive/MyDrive/course,"
    elif os.environ.get("KAGGLE_KERNEL_RUN_TYPE"):
        lasting = "a folder below /kaggle/working, with Settings, Persistence, Files only,"
    else:
        return ""
    return (
        f"Runs go to {output_directory()}, which ends with this session. To keep them, set "
        f"os.environ['COURSE_OUTPUT'] to {lasting} and run this cell again."
    )


def choose_device(name: str | None = None) -> torch.device:
    """The device asked for by ``name`` or ``COURSE_DEVICE``, else CUDA, else Apple MPS, else CPU.

    Raises:
        ValueError: the device asked for is not there.
    """
    name = str(name or os.environ.get("COURSE_DEVICE") or "").lower()
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not name:
        return torch.device(next(kind for kind, available in there.items() if available))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    known = device is not None and there.get(device.type, False)
    if known and device.type == "cuda":
        known = (device.index or 0) < torch.cuda.device_count()
    if not known:
        raise ValueError(
            f"The device {name!r} is not available here; this machine has "
            f"{', '.join(kind for kind, available in there.items() if available)}."
        )
    return device


def existing_device(device: torch.device | str) -> torch.device:
    """The device as it is named, or a ValueError where it is a GPU that is not there."""
    try:
        found = torch.device(device.lower() if isinstance(device, str) else device)
    except (RuntimeError, TypeError):
        raise ValueError(f"{device!r} names no device: cpu, cuda, cuda:1 and mps do.") from None
    return choose_device(str(found)) if found.type in ("cuda", "mps") else found


def allowed_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than a container's share.

    In a container the system shows all cores of the machine, also where a quota (cgroup) grants the
    time of two of them. As many threads as the system shows then wait for one another most of the
    time.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = _quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return cores if quota is None else max(1, min(cores, math.floor(quota + 0.5)))


def _quota(cgroups: Path, own: Path) -> float | None:
    """Cores' worth of time that the control groups of this process grant, or None."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    found = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        root = cgroups / controllers
        # The group itself and all above it; inside a container its own path is often not shown.
        places = [root, *(root.joinpath(*Path(path).parts[1:i]) for i in range(2, 9))]
        found += [limit for place in places if (limit := _limit(place)) is not None]
    return min(found, default=None)


def _limit(group: Path) -> float | None:
    """Cores' worth of time of one control group: version 2 in one file, version 1 in two."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text().strip() for name in names)
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None


def choose_threads() -> str:
    """Give torch no more threads than `allowed_cores`, and say what there is to say, or nothing.

    `OMP_NUM_THREADS` is obeyed, and a smaller number chosen before is kept. The load of the machine
    changes nothing here, because sums over other numbers of threads end in other last digits, and
    the same seed shall give the same numbers; but where others keep the cores busy the sentence
    says how to leave them alone: threads that wait for one another can be slower than one.

    Returns:
        One sentence, or the empty string where nothing was changed and nothing is amiss.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return ""
    cores, before = allowed_cores(), torch.get_num_threads()
    if before > cores:
        torch.set_num_threads(cores)
        return f"Threads: {cores} instead of {before}, as this process has no more cores to itself."
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if before > 1 and load > (os.cpu_count() or 1):
        return (
            f"Threads: {before}, but others keep this machine busy (load {load:.1f}); started with "
            "OMP_NUM_THREADS=1 it may train faster."
        )
    return ""


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Give the global generators of Python, NumPy and torch (all devices in use) back as they were.

    A GPU that nobody has used yet is left alone: it has no state to lose.
    """
    numbers = random.getstate(), np.random.get_state()
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(devices=list(cuda)):
            yield
    finally:
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])
        if mps is not None:
            torch.mps.set_rng_state(mps)


def peak_resident_mib(forget: bool = False) -> float | None:
    """Largest resident memory of this process so far, in MiB; None where the system is silent.

    `forget` makes the memory of this moment the largest so far, where the system can do that.
    """
    with suppress(OSError):
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
        # The usage of a child that `resource` tells begins with its parent's; this one does not.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def git_commit() -> str:
    """Short name of the commit in use, or ``none``; ``+`` behind it when files differ from it."""
    root = repository_root()
    if root is None or not (root / ".git").exists():  # git would name the repository around it
        return "none"
    try:
        run = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return run.stdout.strip() or "none"


def report_line(device: torch.device, profile: Profile, seed: int) -> str:
    """One line that says what a bug report needs: versions, device, profile, seed, commit."""
    import torchvision

    name = device.type
    if device.type == "cuda":
        name = f"{name} ({torch.cuda.get_device_name(device)})"
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"{name} ({threads} thread{'s' if threads > 1 else ''})"
    parts = [
        f"course_lib {__version__}",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"torchvision {torchvision.__version__}",
        f"numpy {np.__version__}",
        f"{platform.system()} {platform.machine()}",
        name,
        f"profile {profile.name}",
        f"seed {seed}",
        f"commit {git_commit()}",
    ]
    return " · ".join(parts)


def _require_version(needs: str) -> None:
    """Refuse to serve a notebook that was written for a newer library."""
    from packaging.version import Version

    if Version(__version__) >= Version(needs):
        return
    if repository_root() is not None:
        mend = "bring the checkout up to date (git pull) and restart the kernel."
    else:
        mend = (
            "run %pip uninstall --yes course_lib in a cell, restart the kernel, and run the set-up "
            "cell again: it installs the newer one."
        )
    raise ImportError(
        f"This notebook was written for course_lib {needs} or newer, and {__version__} lies in "
        f"{Path(__file__).parent}: {mend}"
    )


def setup(
    seed: int = 0,
    profile: str | None = None,
    device: str | None = None,
    quiet: bool = False,
    needs: str | None = None,
) -> Course:
    """Choose the device, read the profile, seed everything, and print one line about it.

    More lines where there is more to say: about the number of threads, see `choose_threads`, and
    where runs are kept, see `where_runs_go`.

    Same seed, same machine, same versions: the same numbers.

    Args:
        seed: non-negative; every generator of the notebook derives from it.
        profile: ``smoke``, ``laptop`` or ``gpu``; unless given, ``COURSE_PROFILE`` or ``laptop``.
        device: ``cpu``, ``cuda`` or ``mps``; ``COURSE_DEVICE``, else the best there is.
        quiet: do not print the line.
        needs: the version of the library that the notebook was written for.

    Raises:
        ValueError: negative seed, unknown profile, or a device that is not there.
        FileNotFoundError: ``COURSE_MIRROR`` or ``COURSE_OUTPUT`` names no folder.
        ImportError: this library is older than `needs`.
    """
    if needs is not None:
        _require_version(needs)
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise ValueError(
            f"The seed should be a whole number of at least 0 and below 2**63, but is {seed!r}."
        )
    seed = int(seed)
    chosen_profile = Profile(profile or os.environ.get("COURSE_PROFILE") or "laptop")
    chosen_device = choose_device(device)
    paths = Paths(repository_root(), default_cache(), mirror_directory(), output_directory())
    seed_everything(seed)
    threads = choose_threads()
    if chosen_device.type == "cuda":
        # The fastest convolution kernels add in no fixed order; a course wants the same numbers.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    course = Course(
        seed=seed,
        device=chosen_device,
        profile=chosen_profile,
        paths=paths,
        generator=torch.Generator().manual_seed(seed),
        device_generator=torch.Generator(device=chosen_device).manual_seed(seed),
        rng=np.random.default_rng(seed),
        report=report_line(chosen_device, chosen_profile, seed),
    )
    if not quiet:
        print(*filter(None, (course.report, threads, where_runs_go())), sep="\n")
    return course
