"""Each lecture as Colab runs it: the file alone, in an empty folder, without course_lib.

The interpreter is a fresh environment that sees the packages of this one, as Colab's sees what is
installed there, but not the checkout. The lecture's own first cell installs the library.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from course_lib import notebooks

ROOT = Path(__file__).parents[2]
LECTURES = notebooks.lecture_paths(ROOT)

VERSIONS = """
import importlib.metadata as m, json
print(json.dumps({d.name: [d.version, str(d.locate_file(''))] for d in m.distributions()}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The library as a wheel, built from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "course_lib", folder / "course_lib", ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder / "wheel"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return next((folder / "wheel").glob("*.whl"))


@pytest.fixture
def bare_python(tmp_path) -> Path:
    """An interpreter that has torch and the rest, and no course_lib."""
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = next(p for p in (place / "bin/python", place / "Scripts/python.exe") if p.exists())
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # Files named *.pth inside a folder that a .pth names are not read, so an editable install of
    # the course in this environment stays unseen.
    Path(site, "preinstalled.pth").write_text(sysconfig.get_path("purelib"))
    return python


def versions(python: Path) -> dict[str, list[str]]:
    run = subprocess.run([python, "-c", VERSIONS], check=True, capture_output=True, text=True)
    found = json.loads(run.stdout)
    return {name: where for name, where in found.items() if name != "course-lib"}


def run_alone(path: Path, python: Path, folder: Path, source: str) -> notebooks.Run:
    folder.mkdir()
    copy = Path(shutil.copy(path, folder))
    environment = {"PYTHONPATH": "", "COURSE_SOURCE": source, "COURSE_CACHE": str(folder / "cache")}
    command = [str(python), "-m", "ipykernel_launcher"]
    return notebooks.execute(
        copy, "smoke", environment=environment, kernel_command=command, timeout=150
    )


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_lecture_alone_in_an_empty_folder(path, wheel, bare_python, tmp_path):
    before = versions(bare_python)
    run = run_alone(path, bare_python, tmp_path / "empty", str(wheel))
    assert run.error == ""
    assert run.checks_passed == run.checks > 0
    assert versions(bare_python) == before, "the set-up cell replaced something preinstalled"
    left = {item.name for item in (tmp_path / "empty").iterdir()} - {path.name, "cache"}
    assert not left, f"the lecture left files behind: {left}"
    again = subprocess.run(
        [bare_python, "-c", "import course_lib; print(course_lib.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / "environment") in again.stdout, "not the library that the cell installed"


def test_failed_installation_says_what_to_do(bare_python, tmp_path):
    run = run_alone(LECTURES[0], bare_python, tmp_path / "empty", str(tmp_path / "missing.whl"))
    assert run.error.startswith("SystemExit: course_lib could not be installed from")
    assert "run this cell again" in run.error
