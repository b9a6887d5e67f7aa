"""Settings that hold for unit tests and for the notebooks that nbval executes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock  # torch depends on it
import hypothesis
import pytest

# Two workers share the cores: one thread each is faster than two that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("COURSE_PROFILE", "smoke")
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

ROOT = Path(__file__).parent

# The same cases at every run, and no test on the clock: a loaded machine is no failure.
hypothesis.settings.register_profile("course", deadline=None, derandomize=True)
hypothesis.settings.load_profile("course")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def mirror() -> Path:
    """A folder with the real data sets, from COURSE_MIRROR or beside the checkout."""
    named = os.environ.get("COURSE_MIRROR")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (folder / "MNIST").is_dir():
        pytest.skip("real data sets are not here: set COURSE_MIRROR as data/README.md says")
    return folder


# Runs a program with whatever reaches for a network refused, also in the processes it forks.
WITHOUT_NETWORK = """
import runpy, socket, sys

def refuse(*_, **__):
    raise OSError("the site is built without a network")

socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def build_site(out: Path, work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Build the web site without a network; see notebooks/site/build.py for the options."""
    program = ROOT / "notebooks" / "site" / "build.py"
    places = ["--out", str(out), "--work", str(work)]
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK, str(program), *places, *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
    )  # fmt: skip


@pytest.fixture(scope="session")
def site_builder() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`build_site`, for tests of what it refuses."""
    return build_site


@pytest.fixture(scope="session")
def built_site(tmp_path_factory) -> Path:
    """The folder of the web site, built once for all workers of a test run.

    Beside it lie ``work``, what Sphinx keeps, and ``log.txt``, what the build said.
    """
    for module in ("sphinx", "myst_nb", "sphinx_book_theme", "sphinxcontrib.bibtex"):
        pytest.importorskip(module, reason="to build the web site: pip install '.[site]'")
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "web"
    folder.mkdir(exist_ok=True)
    log = folder / "log.txt"
    with filelock.FileLock(folder / "lock"):
        if not log.exists():
            done = build_site(folder / "site", folder / "work")
            log.write_text(f"{done.stdout}\nexit status {done.returncode}\n", encoding="utf-8")
    said = log.read_text(encoding="utf-8")
    if not said.endswith("exit status 0\n"):
        pytest.fail(f"The site was not built:\n{said[-4000:]}", pytrace=False)
    return folder / "site"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    import torch

    torch.manual_seed(0)
