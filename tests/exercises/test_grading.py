"""The parts of marking on their own: the box, running on after a death, feedback."""

import ast
import importlib
import re
import shutil
import subprocess
import types
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from nbgrader.utils import determine_grade
from traitlets.config import Config

from course_lib import assignments
from course_lib.grading import isolation, preprocessors

REASON = isolation.why_not()
isolated = pytest.mark.skipif(bool(REASON), reason=REASON)
SECRET = "canary-8b1c"


def graded(source: str = "", *outputs) -> dict:
    said = {"grade": True, "solution": False, "locked": True, "points": 2, "schema_version": 3}
    cell = new_code_cell(source, metadata={"nbgrader": {**said, "grade_id": "a_check"}})
    cell.outputs = list(outputs)
    return cell


def stream(text: str, name: str = "stdout") -> dict:
    return new_output("stream", name=name, text=text)


def error(text: str, *traceback: str) -> dict:
    return new_output("error", ename="AssertionError", evalue=text, traceback=list(traceback))


# ---------------------------------------------------------------------------- settings


@pytest.fixture
def config(root) -> Config:
    """The committed settings."""
    path = root / "notebooks" / "solutions" / "nbgrader_config.py"
    made = Config()
    exec(path.read_text(), {"get_config": lambda: made, "__file__": str(path)})
    return made


def test_settings_agree_with_the_library(config, root):
    assert config.ClearSolutions.code_stub == {"python": assignments.STUB}
    assert Path(config.CourseDirectory.root) / "source" == assignments.source_folder(root)


def test_settings_name_what_there_is(config):
    steps = [config.Autograde.pre_convert_hook, *config.Autograde.sanitize_preprocessors]
    steps += [*config.Autograde.autograde_preprocessors, *config.GenerateFeedback.preprocessors]
    for step in steps:
        module, name = step.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), step
    traits = {**isolation.IsolatedKernelManager.class_traits(config=True)}
    assert set(config.IsolatedKernelManager) <= set(traits)
    assert set(config.RunCells) <= set(preprocessors.RunCells.class_traits(config=True))


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("12_elbo.ipynb", "12_elbo"),
        ("12_elbo (1).ipynb", "12_elbo"),
        ("Copy of 12_elbo.ipynb", "12_elbo"),
        ("homework/Kopie von 12_elbo.ipynb", "12_elbo"),
        (".ipynb_checkpoints/12_elbo-checkpoint.ipynb", None),
        ("notes.ipynb", None),
    ],
)
def test_a_notebook_is_found_under_the_names_that_it_gets_on_its_way(config, file, found):
    match = re.match(config.FileNameCollectorPlugin.named_regexp, f"/set/extracted/ana/{file}")
    assert (match and match["file_id"]) == found
    assert found is None or match["student_id"] == "ana"


def test_settings_need_nothing_of_the_library(root):
    """Every nbgrader command reads them; torch would cost each of them seconds."""
    path = root / "notebooks" / "solutions" / "nbgrader_config.py"
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.ImportFrom) or node.module == "pathlib"


# ---------------------------------------------------------------------------- the box


@pytest.fixture
def fresh(monkeypatch):
    """Whether isolation works is asked anew in this test, and after it."""
    monkeypatch.delenv("COURSE_ISOLATION", raising=False)
    isolation.require.cache_clear()
    yield
    isolation.require.cache_clear()


def test_missing_bubblewrap_is_said_in_one_sentence(fresh, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"not installed here.*COURSE_ISOLATION=none"):
        isolation.require()
    with pytest.raises(SystemExit):  # and before anything of a submission is touched
        preprocessors.before_autograde([])


def test_forbidden_namespaces_are_said(fresh, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: name)
    failed = subprocess.CompletedProcess([], 1, "", "No permissions to create new namespace")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(SystemExit, match=r"may not make namespaces here .No permissions"):
        isolation.require()


def test_isolation_can_be_left_to_others(fresh, monkeypatch):
    monkeypatch.setenv("COURSE_ISOLATION", "none")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert isolation.require() == "none"
    isolation.require.cache_clear()
    monkeypatch.setenv("COURSE_ISOLATION", "docker")
    with pytest.raises(SystemExit, match="'docker'"):
        isolation.require()


def test_the_course_folder_is_not_visible(root):
    for path in isolation.visible():
        assert not (root / "notebooks" / "solutions").is_relative_to(path)
        assert not (root / "tests").is_relative_to(path)


def run(cells: list, folder: Path, **settings: int) -> list[list[dict]]:
    """Outputs of cells that run as a submission's do."""
    cells = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    notebook = new_notebook(cells=cells, metadata=kernel)
    config = Config(IsolatedKernelManager=settings)
    step = preprocessors.RunCells(config=config, timeout=settings.pop("timeout", 60))
    step.preprocess(notebook, {"metadata": {"path": str(folder)}})
    return [cell.outputs for cell in notebook.cells]


@pytest.fixture
def submission(tmp_path) -> Path:
    """A folder as autograding finds it."""
    folder = tmp_path / "autograded" / "ada" / "04_set"
    folder.mkdir(parents=True)
    (folder / "04_set.ipynb").write_text(SECRET)
    (folder / "notes.txt").write_text("mine")
    (folder / "link.txt").symlink_to(tmp_path / "gradebook.db")
    (tmp_path / "gradebook.db").write_text(SECRET)
    return folder


@isolated
def test_box_shows_the_submission_and_nothing_else(submission):
    look = f"""
import os, subprocess
print(os.listdir("."), open("notes.txt").read(), os.path.exists({str(submission)!r}))
print(subprocess.run("cat {submission}/*.ipynb {submission.parents[2]}/*; env; ls /etc /root",
                     shell=True, capture_output=True, text=True).stdout)
_ = open("new.txt", "w").write("x")
"""
    ((shown,),) = run([look], submission)
    assert shown.text.startswith("['notes.txt'] mine False")
    assert SECRET not in shown.text and "shadow" not in shown.text
    assert not {"PYTEST_CURRENT_TEST", "SSH_AUTH_SOCK"} & set(shown.text.split("="))
    assert sorted(p.name for p in submission.iterdir()) == ["04_set.ipynb", "link.txt", "notes.txt"]


@isolated
def test_box_has_no_network_and_bounds(submission):
    cells = [
        "import os, socket, time\ntry:\n    socket.create_connection(('1.1.1.1', 53), 2)\n"
        "except OSError as problem:\n    print('no network', problem)",
        "try:\n    x = [bytes(10**9) for _ in range(9)]\n"
        "except MemoryError:\n    print('no memory')",
        "try:\n    open('big', 'wb').write(bytes(2_000_000))\nexcept OSError as problem:\n"
        "    print(problem)",
        "for i in range(9):\n    open(f'big{i}', 'wb').write(bytes(900_000))\ntime.sleep(20)",
        "for _ in range(60):\n    if os.fork() == 0:\n        time.sleep(60)\ntime.sleep(20)",
        "print('and on')",
    ]
    found = run(cells, submission, file_size=1_000_000, folder_size=5_000_000, processes=50)
    texts = [" ".join(o.get("text") or o.ename for o in outputs) for outputs in found]
    assert "no network" in texts[0]
    assert texts[1] == "no memory\n"
    assert "too large" in texts[2]
    assert texts[3] == "DeadKernelError"
    # Newer Pythons warn of the fork before.
    assert texts[4].endswith("DeadKernelError") or "BlockingIOError" in texts[4]
    assert texts[5] == "and on\n"


@pytest.fixture
def made(monkeypatch) -> list[Path]:
    """The folders of boxes that a test makes."""
    folders, fresh = [], isolation.tempfile.mkdtemp

    def noted(**options) -> str:
        folders.append(Path(fresh(**options)))
        return str(folders[-1])

    monkeypatch.setattr(isolation.tempfile, "mkdtemp", noted)
    return folders


@isolated
def test_box_leaves_nothing_behind(submission, made):
    run(["import os\nos.makedirs('a/b')\nos.chmod('a', 0)", "import os\nos._exit(1)"], submission)
    assert len(made) == 2 and not any(folder.exists() for folder in made)


@isolated
def test_course_folder_among_what_is_readable_is_refused(submission, monkeypatch, made):
    monkeypatch.setattr(isolation, "visible", lambda: [submission.parents[2]])
    with pytest.raises(SystemExit, match="move the course folder"):
        run(["1"], submission)
    assert len(made) == 1 and not made[0].exists()


# ---------------------------------------------------------------------------- running


@pytest.fixture
def anywhere(monkeypatch):
    """Isolated where that is possible."""
    isolation.require.cache_clear()
    monkeypatch.setenv("COURSE_ISOLATION", "none" if REASON else "bubblewrap")
    yield
    isolation.require.cache_clear()


def test_deaths_and_loops_cost_no_other_cell(anywhere, submission):
    stubborn = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(600)"
    tagged = graded("raise ValueError")
    tagged.metadata["tags"] = ["skip-execution"]
    cells = ["import os\nx = 1", "os._exit(1)", "x += 1", "while True: pass", "print(x)", stubborn]
    found = run([*cells, "print(x)", tagged], submission, timeout=3)
    names = [[o.get("ename") or o.get("text") for o in outputs] for outputs in found]
    assert names[1] == ["DeadKernelError"]
    assert names[3][-1] == "CellTimeoutError"
    assert names[4] == ["2\n"]
    assert names[5][-1] == "CellTimeoutError"
    assert names[6] == ["2\n"]
    assert names[7] == ["ValueError"]


def test_a_submission_of_deaths_ends(anywhere, submission):
    step = preprocessors.RunCells(max_restarts=1)
    cells = [new_code_cell("import os\nos._exit(1)") for _ in range(3)] + [
        new_code_cell("print(1)")
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    notebook = new_notebook(cells=cells, metadata=kernel)
    step.preprocess(notebook, {"metadata": {"path": str(submission)}})
    assert [c.outputs[0].ename for c in notebook.cells] == ["DeadKernelError"] * 2 + ["NotRun"] * 2


def test_links_are_removed_before_they_are_followed(anywhere, submission):
    preprocessors.before_autograde([str(submission / "04_set.ipynb")])
    assert sorted(p.name for p in submission.iterdir()) == ["04_set.ipynb", "notes.txt"]


def test_only_an_error_costs_marks():
    number = new_output("execute_result", data={"text/plain": "2.0"})
    tricked = graded("", number, error("no"))
    warned = graded("", stream("a warning", "stderr"))
    for cell, mark in ((tricked, 0), (warned, 2)):
        assert determine_grade(cell)[0] == 2 - mark  # what nbgrader would have given
        preprocessors.settle(cell, 1000)
        assert determine_grade(cell)[0] == mark


def test_scripts_are_removed():
    page = new_output("display_data", data={"text/html": "<b>a</b><script>b()</script>"})
    script = new_output("display_data", data={"application/javascript": "b()", "text/plain": "c"})
    cell = new_code_cell("", outputs=[page, script])
    text = new_markdown_cell("*a* <img src=x onerror='b()'>")
    notebook = new_notebook(cells=[cell, text])
    preprocessors.NoScripts().preprocess(notebook, {})
    assert "<script" not in cell.outputs[0].data["text/html"]
    assert list(cell.outputs[1].data) == ["text/plain"]
    assert "<img" not in text.source and text.source.startswith("*a*")


# ---------------------------------------------------------------------------- missing cells


def restored(present: list[str]) -> list[str]:
    """Names of the cells after what is missing was put back."""
    names = ["a_text", "a", "a_check", "b_text", "b", "b_check"]
    kinds = {n: {"grade": n.endswith("check"), "solution": n in ("a", "b")} for n in names}
    source = [
        types.SimpleNamespace(name=n, cell_type="code", source=n, locked=True, checksum="")
        for n in names
    ]
    checks = [types.SimpleNamespace(name=n, max_score=1) for n in names if kinds[n]["grade"]]
    solutions = [types.SimpleNamespace(name=n) for n in names if kinds[n]["solution"]]
    step = preprocessors.RestoreCells()
    step.notebook_id = step.assignment_id = "x"
    step.gradebook = types.SimpleNamespace(
        find_notebook=lambda *_: types.SimpleNamespace(
            source_cells=source, grade_cells=checks, solution_cells=solutions
        )
    )
    said = {"locked": True, "schema_version": 3}
    cells = [
        new_code_cell(n, metadata={"nbgrader": {**kinds[n], **said, "grade_id": n}})
        for n in present
    ]
    notebook, _ = step.add_missing_grade_cells(new_notebook(cells=cells), {})
    return [cell["metadata"]["nbgrader"]["grade_id"] for cell in notebook.cells]


def test_missing_checks_are_put_back_in_their_places():
    assert restored(["a", "b", "b_check"]) == ["a", "a_check", "b", "b_check"]
    assert restored(["b", "b_check"]) == ["a_check", "b", "b_check"]
    assert restored(["a_text", "b_text", "b"]) == ["a_text", "a_check", "b_text", "b", "b_check"]
    assert restored([]) == ["a_check", "b_check"]


# ---------------------------------------------------------------------------- feedback

TEST = """\
check.a(a)
### BEGIN HIDDEN TESTS
import numpy
if True:
    assert a( 3 ) == 9, "not a square"
### END HIDDEN TESTS"""


def feedback(*cells: dict) -> list[dict]:
    notebook = new_notebook(cells=[new_code_cell("import numpy"), *cells])
    notebook.cells[0].metadata["nbgrader"] = {"locked": True, "grade_id": "i"}
    preprocessors.HideHiddenTests().preprocess(notebook, {})
    return notebook.cells[1:]


def test_message_stays_and_test_goes():
    quoted = (
        '\x1b[31m----> 4\x1b[39m     \x1b[38;5;28massert\x1b[39m a( \x1b[32m3\x1b[39m ) == 9, "not'
    )
    (cell,) = feedback(graded(TEST, stream("✓ a"), error("measured 6, not 9", quoted)))
    assert cell.source == "check.a(a)"
    assert [o.get("text") or "".join(o.traceback) for o in cell.outputs] == [
        "✓ a",
        "AssertionError: measured 6, not 9",
    ]


def test_message_is_shown_once():
    message = "✗ 1 a: measured 6, not 9" + " and so on" * 20
    (cell,) = feedback(graded(TEST, stream(message + "\n"), error(message)))
    assert len(cell.outputs) == 1
    assert max(len(line) for line in cell.outputs[0].traceback[0].split("\n")) <= 96


@pytest.mark.parametrize(
    "output",
    [
        stream('look: assert a( 3 ) == 9, "not a square"'),
        error('assert a(3)==9,  "not a square"'),
        new_output(
            "display_data",
            data={"text/html": "<i>assert</i> a( 3 ) == 9,<br> &quot;not a <b>square&quot;</b>"},
        ),
        new_output("display_data", data={"text/plain": 'assert a( 3 ) == 9, "not a square"'}),
    ],
)
def test_outputs_that_quote_the_test_are_replaced(output):
    own = new_code_cell("print(In)", outputs=[stream("mine"), output])
    checked, own = feedback(graded(TEST, output), own)
    for cell in (checked, own):
        assert [o.text for o in cell.outputs] == [preprocessors.HIDDEN]


def test_test_in_pieces_is_replaced():
    pieces = [stream("assert a( 3 ) == "), stream('9, "not a square"')]
    assert [o.text for o in feedback(graded(TEST, *pieces))[0].outputs] == [preprocessors.HIDDEN]


def test_lines_that_everybody_sees_are_no_secret():
    own = new_code_cell("", outputs=[stream("import numpy\nif True:\n    x")])
    assert feedback(graded(TEST), own)[1].outputs == own.outputs
    assert own.outputs[0].text.startswith("import numpy")


def test_students_marks_of_hidden_tests_do_no_harm():
    own = new_code_cell("### BEGIN HIDDEN TESTS\nprint(1)")
    assert feedback(graded(TEST), own)[1].source == "### BEGIN HIDDEN TESTS\nprint(1)"
