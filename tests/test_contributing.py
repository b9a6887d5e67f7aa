"""CONTRIBUTING.md, the hooks and the settings of git: what they name is there, and works."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from course_lib import __main__, notebooks
from course_lib.recipes import results


def hooks(root: Path) -> dict[str, dict]:
    """The hooks by name."""
    settings = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert all(repo["repo"] == "local" for repo in settings["repos"]), "a hook from the network"
    return {hook["id"]: hook for repo in settings["repos"] for hook in repo["hooks"]}


def run_hook(root: Path, name: str, *files: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a hook as pre-commit does, in a folder that has the Python of this test and no other."""
    hook = hooks(root)[name]
    python = folder / ".venv" / "bin" / "python"
    if not python.exists():
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        python.chmod(0o755)
    command = [*shlex.split(hook["entry"]), *hook["args"], *files]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def git(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """git, with no settings but those of the folder."""
    nobody = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    return subprocess.run(
        ["git", *nobody, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(folder)},
    )


def test_the_files_that_are_named_exist(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`((?:course_lib|tests|notebooks|data)/[^`\s]*)`", text))
    assert len(names) > 8
    for name in names:
        pattern = re.sub(r"NN_topic|NAME|NN", "*", name)
        assert list(root.glob(pattern.rstrip("/"))), name
    assert {"nbdime", "pre-commit"} <= {
        re.split(r"[<>=]", line)[0]
        for line in re.findall(
            r'"([\w-]+>=[\d.]+)"', (root / "pyproject.toml").read_text().split("develop = [")[1]
        )
    }


def test_the_metadata_that_the_recipe_names_is_that_of_the_lectures(root):
    recipe = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    path = notebooks.lecture_paths(root)[0]
    notebook = notebooks.read_notebook(path)
    for key in ("checks", "alt", "thumbnail"):
        assert f'"{key}": ' in recipe
        assert any(key in cell["metadata"] for cell in notebook["cells"]), key
    assert '"promise": ' in recipe and "promise" in notebook["metadata"]["course"]
    for tag in notebooks.GENERATED_TAGS:
        assert f"`{tag}`" in recipe


def test_every_test_that_complains_is_named_with_its_link(root):
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    linked = re.findall(r"\[(tests/[\w/]+\.py)\]\((tests/[\w/]+\.py)\)", text)
    assert len(linked) > 8
    assert all(shown == target for shown, target in linked)


def test_a_hook_finds_code_that_is_not_clean(root, tmp_path):
    (tmp_path / "pyproject.toml").write_bytes((root / "pyproject.toml").read_bytes())
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text('"""Nothing."""\n')
    bad.write_text("import os\nx = {  'a':1}\n")
    for name in ("ruff-check", "ruff-format"):
        assert run_hook(root, name, "good.py", folder=tmp_path).returncode == 0
    found = run_hook(root, "ruff-check", "bad.py", folder=tmp_path)
    assert found.returncode == 1 and "F401" in found.stdout
    assert run_hook(root, "ruff-format", "bad.py", folder=tmp_path).returncode == 0
    assert '{"a": 1}' in bad.read_text(), "laid out anew: pre-commit stops at the change"


def test_a_hook_refuses_a_large_file_and_takes_the_largest_weights_there_may_be(root, tmp_path):
    (tmp_path / "fits.bin").write_bytes(bytes(results.LIMIT))
    (tmp_path / "large file.bin").write_bytes(bytes(results.LIMIT + 1))
    assert run_hook(root, "small-files", "fits.bin", folder=tmp_path).returncode == 0
    refused = run_hook(root, "small-files", "fits.bin", "large file.bin", folder=tmp_path)
    assert refused.returncode == 1
    assert "large file.bin has 3.0 MB" in refused.stdout and "fits.bin" not in refused.stdout


def test_a_hook_without_any_python_says_so(root, tmp_path):
    entry = shlex.split(hooks(root)["ruff-check"]["entry"])
    shell = shutil.which(entry[0])
    found = subprocess.run(
        [shell, *entry[1:], "-V"], cwd=tmp_path, capture_output=True, text=True, env={"PATH": ""}
    )
    assert found.returncode == 1 and "no Python here" in found.stderr


def test_the_hook_of_freshness_is_our_own_command_and_looks_at_what_it_should(root):
    hook = hooks(root)["fresh"]
    assert hook["args"] == ["-m", "course_lib", "fresh"]
    assert __main__.parser().parse_args(hook["args"][2:]).call is __main__.fresh_command
    watched = re.compile(hook["files"])
    for path in (
        "notebooks/04_gan_minimax.ipynb",
        "notebooks/exercises/04_gan_minimax.ipynb",
        "notebooks/solutions/source/12_elbo/12_elbo.ipynb",
        "README.md",
        "pyproject.toml",
        "data/results/vae_mnist-seed0.json",
        "data/thumbnails/12_elbo.png",
        "course_lib/notebooks.py",
        "course_lib/recipes/headlines.py",
    ):
        assert (root / path).exists() and watched.search(path), path
    assert not watched.search("course_lib/models/vae.py")


@pytest.fixture
def small_course(root, tmp_path, monkeypatch) -> Path:
    """A course of two lectures and one set of exercises, with all that is generated from them."""
    for name in ("README.md", "pyproject.toml", "data/readme.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / "data" / "results", tmp_path / "data" / "results")
    stem = "06_dcgan"
    for name in (
        "01_random_events_and_variables.ipynb",
        "exercises/01_random_events_and_variables.ipynb",
        f"{stem}.ipynb",
        f"exercises/{stem}.ipynb",
        f"solutions/source/{stem}/{stem}.ipynb",
    ):
        (tmp_path / "notebooks" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "notebooks" / name, tmp_path / "notebooks" / name)
    monkeypatch.setattr(notebooks, "repository_root", lambda: tmp_path)
    assert __main__.main(["readme"]) == 0
    return tmp_path


def test_what_is_not_fresh_is_found_with_the_command_that_mends_it(small_course, capsys):
    capsys.readouterr()
    assert __main__.main(["fresh"]) == 0, capsys.readouterr().out
    path = notebooks.lecture_paths(small_course)[0]
    notebook = notebooks.read_notebook(path)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    code[-1]["source"] = "'another last word'"
    notebooks.write_notebook(path, notebook)
    student = small_course / "notebooks" / "exercises" / "06_dcgan.ipynb"
    exercise = notebooks.read_notebook(student)
    exercise["cells"][-1]["source"] = ["an answer"]
    notebooks.write_notebook(student, exercise)
    (small_course / "data" / "readme.png").write_bytes(b"")
    (small_course / "data" / "results" / "vae_mnist-seed0.json").unlink()
    capsys.readouterr()
    assert __main__.main(["fresh"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"not fresh: notebooks/{path.name}; mend it: python -m course_lib run 01 --store outputs",
        "not fresh: data/readme.png; mend it: python -m course_lib badges",
        f"not fresh: notebooks/exercises/{student.name}; mend it: python -m course_lib exercises "
        "build",
        "not fresh: README.md; mend it: python -m course_lib readme",
    ]


NOTEBOOK = '{"cells": [], "metadata": {%s}, "nbformat": 4, "nbformat_minor": 5}\n'


@pytest.fixture
def clone(root, tmp_path) -> Path:
    """A repository with our settings for git, a notebook in it, and no nbdime."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    shutil.copy(root / ".gitattributes", tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "a.ipynb").write_text(NOTEBOOK % "")
    git(tmp_path, "add", "--all")
    assert git(tmp_path, "commit", "--quiet", "--message=start").returncode == 0
    return tmp_path


def test_notebooks_have_the_drivers_of_nbdime(clone):
    told = git(clone, "check-attr", "diff", "merge", "--", "notebooks/04_gan_minimax.ipynb").stdout
    assert [line.split(": ")[-1] for line in told.splitlines()] == ["jupyternotebook"] * 2
    assert "unset" in git(clone, "check-attr", "diff", "--", "a.safetensors").stdout


def test_git_shows_and_merges_notebooks_as_text_where_nbdime_is_not_enabled(clone):
    git(clone, "checkout", "--quiet", "-b", "other")
    (clone / "a.ipynb").write_text(NOTEBOOK % '"other": 1')
    shown = git(clone, "diff")
    assert shown.returncode == 0 and '+{"cells": [], "metadata": {"other": 1}' in shown.stdout
    git(clone, "commit", "--quiet", "--all", "--message=other")
    git(clone, "checkout", "--quiet", "main")
    (clone / "b.txt").write_text("b\n")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=main")
    merged = git(clone, "merge", "--no-edit", "other")
    assert merged.returncode == 0, merged.stderr
    assert "other" in (clone / "a.ipynb").read_text()

    git(clone, "checkout", "--quiet", "-b", "third", "HEAD~1")
    (clone / "a.ipynb").write_text(NOTEBOOK % '"third": 3')
    git(clone, "commit", "--quiet", "--all", "--message=third")
    conflict = git(clone, "merge", "--no-edit", "main")
    assert conflict.returncode == 1 and "CONFLICT" in conflict.stdout
    assert "<<<<<<<" in (clone / "a.ipynb").read_text(), "as text, with the usual marks"
