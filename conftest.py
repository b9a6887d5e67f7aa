"""Settings that hold for unit tests and for the notebooks that nbval executes."""

import os
from pathlib import Path

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


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same global random state, whatever ran before it."""
    import torch

    torch.manual_seed(0)
