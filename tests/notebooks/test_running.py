"""The commands that run and store lectures, on small lectures made here."""

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from base64 import b64decode
from pathlib import Path

import pytest

from course_lib import __main__, notebooks

PYPROJECT = """
[project]
name = "x"
[project.urls]
Repository = "https://github.com/owner/name"
"""


def cell(kind: str, text: str, **metadata) -> dict:
    made = {"cell_type": kind, "id": f"c{abs(hash(text)) % 10**8}", "metadata": metadata}
    made["source"] = text
    if kind == "code":
        made |= {"outputs": [], "execution_count": None}
    return made


def lecture(*cells: dict) -> dict:
    generated = [
        cell("markdown", "b", tags=["badges"]),
        cell("markdown", "r", tags=["record"]),
        cell("code", "s = 1", tags=["setup"]),
    ]
    return {"cells": generated + list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(notebooks, "repository_root", lambda: tmp_path)
    # The kernels of these tests start in a folder without the course beside it.
    monkeypatch.setenv("PYTHONPATH", str(Path(notebooks.__file__).parents[1]))
    return tmp_path


def put(checkout: Path, name: str, *cells: dict) -> Path:
    path = checkout / "notebooks" / f"{name}.ipynb"
    notebooks.write_notebook(path, lecture(*cells))
    return path


def test_one_failing_lecture_does_not_hide_the_others(checkout, capsys):
    put(
        checkout, "01_bad", cell("code", "1 / 0", checks=["1.1"]), cell("code", "2", checks=["1.2"])
    )
    put(checkout, "02_good", cell("code", "print('fine')", checks=["2.1"]))
    assert __main__.main(["run", "--profile", "smoke"]) == 1
    out = capsys.readouterr().out
    assert "01_bad: FAILED, ZeroDivisionError" in out
    table = [line.split() for line in out.splitlines() if line.startswith(("01_bad ", "02_good "))]
    assert [(row[0], row[3], row[4]) for row in table] == [
        ("01_bad", "0/2", "FAILED"),
        ("02_good", "1/1", "ok"),
    ]
    build = checkout / "build" / "smoke"
    assert sorted(path.name for path in build.iterdir()) == [
        "01_bad.html",
        "01_bad.ipynb",
        "02_good.html",
        "02_good.ipynb",
    ]
    assert "fine" in (build / "02_good.html").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in (build / "01_bad.html").read_text(encoding="utf-8")


def test_storing_keeps_outputs_time_and_hash_and_refuses_a_failed_run(checkout):
    good = put(checkout, "01_good", cell("code", "import os; print(os.environ['COURSE_PROFILE'])"))
    bad = put(checkout, "02_bad", cell("code", "raise ValueError"))
    before = bad.read_text(encoding="utf-8")
    assert __main__.main(["run", "--profile", "laptop", "--store", "outputs"]) == 1
    stored = notebooks.read_notebook(good)
    record = stored["metadata"]["course"]
    assert record["profile"] == "laptop"
    assert record["source_hash"] == notebooks.source_hash(stored)
    assert record["runs"]["laptop"]["seconds"] > 0
    assert record["runs"]["laptop"]["peak_memory_mb"] > 5
    assert "laptop" in "".join(stored["cells"][3]["outputs"][0]["text"])
    assert "recorded runs: `laptop`" in notebooks.source(stored["cells"][1])
    assert bad.read_text(encoding="utf-8") == before
    assert __main__.main(["run", "01", "--profile", "smoke", "--store", "time"]) == 0
    assert __main__.main(["badges", "--check"]) == 1, "02 has no record yet"
    assert __main__.main(["badges"]) == 0
    assert __main__.main(["run", "01", "--profile", "smoke", "--store", "time"]) == 0
    text = notebooks.source(notebooks.read_notebook(good)["cells"][1])
    assert text.index("`smoke`") < text.index("`laptop`")
    assert __main__.main(["badges", "--check"]) == 0, "a stored record needs no second command"


@pytest.mark.parametrize("changed", ["text", "code", "set-up cell gone"])
def test_what_the_author_wrote_meanwhile_is_kept(checkout, changed):
    """A run takes minutes, in which text is mended; code that was changed did not run."""
    path = put(checkout, "01_a", cell("markdown", "old"), cell("code", "print('ran')"))
    run = notebooks.execute(path, "smoke")
    notebook = notebooks.read_notebook(path)  # saved in JupyterLab before the run has ended
    if changed == "text":
        notebook["cells"][3]["source"] = "new"
    elif changed == "code":
        notebook["cells"][4]["source"] = "print('another')"
    else:
        del notebook["cells"][2]
    notebooks.write_notebook(path, notebook)
    before = path.read_text(encoding="utf-8")
    if changed != "text":
        with pytest.raises(ValueError, match=r"was changed while 01_a\.ipynb ran"):
            notebooks.store(run, checkout)
        assert path.read_text(encoding="utf-8") == before
        return
    notebooks.store(run, checkout)
    stored = notebooks.read_notebook(path)
    assert notebooks.source(stored["cells"][3]) == "new"
    assert "".join(stored["cells"][4]["outputs"][0]["text"]) == "ran\n"


def test_executed_copies_are_not_written_over_the_lectures(checkout, capsys):
    path = put(checkout, "01_good", cell("code", "print(1)"))
    before = path.read_bytes()
    assert __main__.main(["run", "--build", str(checkout / "notebooks")]) == 2
    assert "name another folder" in capsys.readouterr().err and path.read_bytes() == before


def test_relative_folders_are_the_same_in_the_kernel(checkout, monkeypatch):
    """It works in the folder of the notebooks."""
    names = ("COURSE_CACHE", "COURSE_MIRROR", "COURSE_OUTPUT")
    for name in names:
        monkeypatch.setenv(name, "some/folder")
    monkeypatch.chdir(checkout)
    tell = f"import os; print([os.environ[n] for n in {names}])"
    run = notebooks.execute(put(checkout, "01_a", cell("code", tell)), "smoke")
    assert run.notebook.cells[3].outputs[0].text == f"{[str(checkout / 'some/folder')] * 3}\n"


def test_a_cell_that_is_stopped_leaves_the_terminal_clean(checkout, capfd):
    """An interrupted kernel tells of its own insides."""
    path = put(checkout, "01_slow", cell("code", "import time; time.sleep(60)"))
    assert "timed out" in notebooks.execute(path, "smoke", timeout=1).error
    assert "Traceback" not in capfd.readouterr().err


def test_storing_the_time_leaves_outputs_alone(checkout):
    path = put(checkout, "01_good", cell("code", "print(1)"))
    assert __main__.main(["run", "--profile", "smoke", "--store", "time"]) == 0
    stored = notebooks.read_notebook(path)
    assert stored["cells"][3]["outputs"] == []
    assert list(stored["metadata"]["course"]["runs"]) == ["smoke"]


def test_a_cell_that_hangs_is_stopped(checkout):
    path = put(checkout, "01_slow", cell("code", "import time; time.sleep(60)"))
    run = notebooks.execute(path, "smoke", timeout=1)
    assert "timed out" in run.error.lower() or "timeout" in run.error.lower()
    assert run.seconds < 30


@pytest.mark.parametrize(
    "ends", ["", "\n1 / 0", "\nimport os; os.kill(os.getpid(), 9)"], ids=["well", "ill", "killed"]
)
def test_nothing_of_a_kernel_is_left(checkout, tmp_path, monkeypatch, ends):
    """Kernels that live on would add up over the lectures, and so would their files."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    told = tmp_path / "pid"
    tell = f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(str(os.getpid()))"
    run = notebooks.execute(put(checkout, "01_a", cell("code", tell + ends)), "smoke")
    assert (run.error == "") == (ends == "")
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)
    assert list(place.iterdir()) == []


def test_a_kernel_that_cannot_start_is_a_failed_run(checkout):
    path = put(checkout, "01_a", cell("code", "1"))
    run = notebooks.execute(
        path, "smoke", kernel_command=[sys.executable, "-c", "raise SystemExit('no such thing')"]
    )
    assert run.error.startswith("the kernel did not start") and "no such thing" in run.error


def test_the_profile_comes_from_the_environment(checkout, monkeypatch, capsys):
    put(checkout, "01_a", cell("code", "1"))
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    assert __main__.main(["run"]) == 0
    assert "running at gpu" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_PROFILE", "huge")
    assert __main__.main(["run"]) == 2


def test_a_folder_that_cannot_be_written_is_found_before_the_work(checkout, capsys):
    put(checkout, "01_a", cell("code", "1"))
    (checkout / "file").write_text("", encoding="utf-8")
    assert __main__.main(["run", "--build", str(checkout / "file")]) == 2
    assert "running" not in capsys.readouterr().out


def test_nbval_fails_a_cell_that_hangs(tmp_path, root):
    """Past its timeout a hanging cell must count as failed, whatever it would have printed."""
    notebooks.write_notebook(
        tmp_path / "hang.ipynb",
        lecture(cell("code", "import time; time.sleep(30)"), cell("code", "print('after')")),
    )
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env"]
    command += ["--nbval-cell-timeout=2", "-p", "no:cacheprovider", "-q", str(tmp_path)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1, run.stdout
    assert "Cell 1" in run.stdout and "failed" in run.stdout


def test_hash_sees_the_code_of_the_author_and_neither_text_nor_generated_cells():
    first = lecture(cell("code", "1", checks=["1.1"]))
    other = json.loads(json.dumps(first))
    other["cells"][0]["source"] = "another badge"
    other["cells"][3]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "2"}]
    assert notebooks.source_hash(first) == notebooks.source_hash(other)
    other["cells"][3]["source"] = ["1"]
    assert notebooks.source_hash(first) == notebooks.source_hash(other), "lines or one string"
    other["cells"].append(cell("markdown", "A typo is mended without a run."))
    assert notebooks.source_hash(first) == notebooks.source_hash(other)
    for change in ({"source": "2"}, {"metadata": {"checks": ["1.2"]}}):
        changed = json.loads(json.dumps(first))
        changed["cells"][3] |= change
        assert notebooks.source_hash(first) != notebooks.source_hash(changed)


def test_claims_and_definitions():
    notebook = lecture(
        cell("markdown", r"$$a=b \tag{1.1}$$ $$c:=d \tag{def 1.2}$$"),
        cell("markdown", r"$$e=f\tag{1.10}$$ $$g=h\tag{1.10a}$$"),
        cell("code", "x = r'\\tag{9.9}'", checks=["1.1"]),
    )
    assert notebooks.claimed_equations(notebook) == ["1.1", "1.10", "1.10a"]
    assert notebooks.checked_equations(notebook) == ["1.1"]


def test_badges_follow_the_address(checkout, capsys):
    path = put(checkout, "01_a", cell("code", "1"))
    assert __main__.main(["badges", "--check"]) == 1
    assert __main__.main(["badges"]) == 0
    text = path.read_text(encoding="utf-8")
    assert "colab.research.google.com/github/owner/name/blob/main/notebooks/01_a.ipynb" in text
    assert "https://github.com/owner/name/archive/refs/heads/main.zip" in text
    assert __main__.main(["badges", "--check"]) == 0
    pyproject = checkout / "pyproject.toml"
    pyproject.write_text(PYPROJECT.replace("owner", "fork") + '[tool.course]\nbranch = "dev"\n')
    assert __main__.main(["badges", "--check"]) == 1
    assert __main__.main(["badges"]) == 0
    assert (
        "fork/name/blob/dev" in path.read_text(encoding="utf-8") and "owner" not in path.read_text()
    )


def test_the_picture_of_the_readme_is_the_output_of_the_cell_with_its_tag(checkout, capsys):
    draw = """
    from base64 import b64decode
    from IPython.display import Image
    Image(b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="))
    """
    path = put(checkout, "01_a", cell("code", textwrap.dedent(draw), tags=["readme"]))
    assert __main__.main(["run", "--store", "outputs"]) == 0
    assert __main__.main(["badges"]) == 0
    picture = checkout / "data" / "readme.png"
    stored = notebooks.read_notebook(path)["cells"][3]["outputs"][0]["data"]["image/png"]
    assert picture.read_bytes() == b64decode("".join(stored))
    picture.write_bytes(b"another")
    assert __main__.main(["badges", "--check"]) == 1
    assert "readme.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda root: (root / "notebooks" / "01_a.ipynb").write_text("{"), "restore it with git"),
        (
            lambda root: (root / "pyproject.toml").write_text("[project]\nname='x'"),
            "https://github.com/OWNER/NAME",
        ),
        (
            lambda root: notebooks.write_notebook(
                root / "notebooks" / "01_a.ipynb",
                lecture(cell("markdown", "twice", tags=["setup"])),
            ),
            "should have one cell with each of the tags",
        ),
    ],
)
def test_broken_files_get_their_sentence(checkout, capsys, break_it, sentence):
    put(checkout, "01_a", cell("code", "1"))
    break_it(checkout)
    assert __main__.main(["badges"]) == 2
    assert sentence in capsys.readouterr().err


def test_writing_goes_through_links_and_leaves_devices_devices(tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to("target.json")
    notebooks.write_file(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    pipe = tmp_path / "pipe"  # a stand-in for /dev/null, which needs no rights to be made
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    notebooks.write_file(pipe, b"new")
    assert os.read(reader, 9) == b"new" and pipe.is_fifo()
    os.close(reader)
    assert {path.name for path in tmp_path.iterdir()} == {"target.json", "link.json", "pipe"}


def test_writing_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    notebooks.write_text(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        notebooks.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_of_one_stream_is_stored_as_one_output():
    notebook = lecture(cell("code", "1"))
    notebook["cells"][3]["outputs"] = [
        {"output_type": "stream", "name": name, "text": text}
        for name, text in (
            ("stdout", "half a "),
            ("stdout", "line\n"),
            ("stderr", "a"),
            ("stdout", "b"),
        )
    ]
    found = [(o.name, o.text) for o in notebooks.clean(notebook).cells[3].outputs]
    assert found == [("stdout", "half a line\n"), ("stderr", "a"), ("stdout", "b")]


def test_widget_views_are_not_stored():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "slide"}
    notebook = lecture(cell("code", "1"))
    notebook["cells"][3]["outputs"] = [
        {"output_type": "display_data", "data": view, "metadata": {}}
    ]
    notebook["metadata"]["widgets"] = {"state": {}}
    cleaned = notebooks.clean(notebook)
    assert cleaned.cells[3].outputs[0].data == {"text/plain": "slide"}
    assert "widgets" not in cleaned.metadata
