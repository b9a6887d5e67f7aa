"""Each lecture as Colab runs it: the file alone, in an empty folder, without course_lib.

The interpreter is a fresh environment that sees the packages of this one, as Colab's sees what is
installed there, but not the checkout. The lecture's own first cell installs the library.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course_lib import notebooks

sys.path.insert(0, str(Path(__file__).parent))
from hosted import Hosted

ROOT = Path(__file__).parents[2]
LECTURES = notebooks.lecture_paths(ROOT)
EXERCISES = sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The library as a wheel, built from a copy, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "course_lib", folder / "course_lib", ignore=ignore)
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("cache"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder / "wheel"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return next((folder / "wheel").glob("*.whl"))


@pytest.fixture
def host(tmp_path) -> Hosted:
    """An interpreter that has torch and the rest, and no course_lib."""
    return Hosted(tmp_path / "environment")


def test_wheel_holds_the_library_its_weights_and_its_cards_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "course_lib").rglob("*.py")}
    kinds = ("checkpoints/*.safetensors", "features/*.safetensors", "results/*.json")
    data = [path for kind in kinds for path in ROOT.glob(f"data/{kind}")]
    assert len(data) >= 8
    assert held == code | {
        f"course_lib/_files/{path.relative_to(ROOT / 'data').as_posix()}" for path in data
    }


def test_feature_networks_load_where_only_the_wheel_is(wheel, host, tmp_path):
    # A wheel of pure Python is the folder that pip makes of it, zipped.
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    load = """
import course_lib
from course_lib import data, environment
from course_lib.metrics.features import load_features
test = data.load("digits", "test")
right = load_features("digits")(test.images).probabilities.argmax(1) == test.labels
print(course_lib.__file__, environment.repository_root(), int(right.sum()), sep="\\n")
"""
    run = subprocess.run(
        [host.python, "-c", load],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    file, checkout, right = run.stdout.split("\n")[:3]
    assert (Path(file).parent.parent, checkout) == (tmp_path / "site", "None")
    card = json.loads((ROOT / "data" / "results" / "features_digits.json").read_text())
    assert int(right) / card["test_n"] == card["test_accuracy"]


def versions(host: Hosted) -> dict[str, list[str]]:
    found = host.versions()
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
def test_lecture_alone_in_an_empty_folder(path, wheel, host, tmp_path):
    before = versions(host)
    run = run_alone(path, host.python, tmp_path / "empty", str(wheel))
    assert run.error == ""
    assert run.checks_passed == run.checks > 0
    assert versions(host) == before, "the set-up cell replaced something preinstalled"
    left = {item.name for item in (tmp_path / "empty").iterdir()} - {path.name, "cache"}
    assert not left, f"the lecture left files behind: {left}"
    again = subprocess.run(
        [host.python, "-c", "import course_lib; print(course_lib.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / "environment") in again.stdout, "not the library that the cell installed"


@pytest.mark.parametrize("path", EXERCISES, ids=lambda path: path.stem)
def test_untouched_exercises_alone_in_an_empty_folder(path, wheel, host, tmp_path):
    """Top to bottom without an error: one friendly message where nothing is written yet."""
    run = run_alone(path, host.python, tmp_path / "empty", str(wheel))
    assert run.error == ""
    checks = [
        "".join("".join(output.get("text", "")) for output in cell["outputs"])
        for cell in run.notebook["cells"]
        if cell["metadata"].get("nbgrader", {}).get("grade")
    ]
    assert len(checks) >= 4
    for text in checks:
        first, *folded = text.splitlines()
        assert first.startswith("○ ") and len(folded) < 3, text
        assert all(line.startswith("  ") for line in folded), text
    left = {item.name for item in (tmp_path / "empty").iterdir()} - {path.name, "cache"}
    assert not left, f"the exercises left files behind: {left}"


def test_failed_installation_says_what_to_do(host, tmp_path):
    run = run_alone(LECTURES[0], host.python, tmp_path / "empty", str(tmp_path / "missing.whl"))
    assert run.error.startswith("SystemExit: course_lib could not be installed from")
    assert run.done < set(range(len(run.notebook["cells"]))), "the cells below must not run"
    (error,) = [
        output
        for cell in run.notebook["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    assert error["evalue"].endswith("then run this cell again.")
