"""pyproject.toml, environment.yml, constraints.txt and the Makefile say the same."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

CONDA_NAMES = {"pytorch": "torch"}


def wanted(root: Path) -> dict[str, str]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = [text for group in project["optional-dependencies"].values() for text in group]
    parsed = [Requirement(text) for text in project["dependencies"] + extras]
    return {r.name: str(r.specifier) for r in parsed}


def test_conda_environment_equals_pyproject(root):
    text = (root / "environment.yml").read_text().split("dependencies:")[1]
    lines = re.findall(r"^ +- ([\w-]+)(>=\S+)?$", text, re.M)  # those of its pip section too
    conda = {CONDA_NAMES.get(name, name): bounds for name, bounds in lines}
    python = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    assert conda.pop("python") == python
    assert conda.pop("pip") == ""
    assert conda == wanted(root)


def test_constraints_pin_every_dependency_within_its_range(root):
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text(), re.M))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    for name, bounds in wanted(root).items():
        assert name in pins, f"{name} has no exact version in constraints.txt"
        assert Requirement(f"{name}{bounds}").specifier.contains(pins[name])


def test_constraints_name_versions_and_no_addresses(root):
    lines = (root / "constraints.txt").read_text().splitlines()
    for line in lines:
        assert re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line), line


def test_ci_runs_the_test_command_of_the_readme(root):
    assert "make test" in (root / "README.md").read_text()
    assert "make test" in (root / ".ci" / "run").read_text()
    assert ".ci/run" in (root / ".github" / "workflows" / "test.yml").read_text()


def test_version_is_said_once_the_same(root):
    from course_lib import __version__

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__


def test_code_is_ruff_clean(root):
    for command in (["check"], ["format", "--check"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "course_lib", "tests", "conftest.py"],
            cwd=root,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr
