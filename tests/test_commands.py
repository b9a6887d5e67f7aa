"""Small commands of ``python -m course_lib`` that do what their help says."""

import zipfile
from pathlib import Path

from course_lib import __main__, assignments, notebooks


def test_the_list_of_exercises_takes_beginnings_of_names(root, capsys):
    assert __main__.main(["exercises", "list", "04"]) == 0
    told = capsys.readouterr().out
    assert "| 4.1 |" in told and "| 6.1 |" not in told
    assert __main__.main(["exercises", "list", "zz"]) == 2
    assert "No exercises begin with zz" in capsys.readouterr().err


def test_a_bundle_holds_no_answer_of_the_teacher(root, tmp_path, monkeypatch, capsys):
    """Who teaches tries the exercises in notebooks/exercises, too."""
    tried = tmp_path / "tried.ipynb"
    tried.write_text('{"cells": [{"source": "my answer"}]}')
    monkeypatch.setattr(assignments, "student_path", lambda root, stem: tried)
    assert __main__.main(["exercises", "bundle", "04", "--out", str(tmp_path / "out")]) == 0
    (made,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(made) as archive:
        found = archive.read(f"{made.stem}/{made.stem}.ipynb").decode()
    assert "my answer" not in found and "raise NotImplementedError" in found


def test_a_home_in_an_option_is_the_home(tmp_path, monkeypatch, capsys):
    """A shell leaves the ~ of --out=~/x alone."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert __main__.main(["exercises", "bundle", "04", "--out=~/bundles"]) == 0
    assert len(list((tmp_path / "bundles").iterdir())) == 1 and not Path("~").exists()


def test_files_of_the_system_are_no_thumbnails(root, tmp_path, monkeypatch):
    """A file manager leaves some of its own in folders of pictures."""
    folder = tmp_path / "data" / "thumbnails"
    folder.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(notebooks, "lecture_paths", lambda root: [])
    (folder / ".DS_Store").write_bytes(b"")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "99_gone.png").write_bytes(b"")
    assert notebooks.update_thumbnails(tmp_path) == [folder / "99_gone.png"]
    assert (folder / ".DS_Store").exists() and not (folder / "99_gone.png").exists()
