"""The students' versions: what the sources give, without a solution or a hidden test in them."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from course_lib import __main__ as command_line
from course_lib import assignments, notebooks
from course_lib.exercises import exercises

ROOT = Path(__file__).parents[2]
SOURCES = assignments.sources(ROOT)
STEMS = [path.stem for path in SOURCES]

each_set = pytest.mark.parametrize("path", SOURCES, ids=STEMS)


def cell_of(notebook: dict, grade_id: str) -> dict:
    return next(
        c
        for c in notebook["cells"]
        if c["metadata"].get("nbgrader", {}).get("grade_id") == grade_id
    )


def solutions(notebook: dict) -> list[str]:
    """Every line between BEGIN SOLUTION and END SOLUTION that could not stand elsewhere."""
    text = "\n".join(notebooks.source(c) for c in notebook["cells"])
    lines = [
        line.strip()
        for region in re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", text, re.S)
        for line in region.splitlines()
    ]
    outside = re.sub(r"### BEGIN SOLUTION\n.*?### END SOLUTION", "", text, flags=re.S)
    return [line for line in lines if len(line) > 12 and line not in outside]


def test_there_is_a_set_for_every_lecture_and_no_other_file(root):
    lectures = {path.stem for path in notebooks.lecture_paths(root)}
    assert lectures <= set(STEMS)
    made = {path.stem for path in (root / "notebooks" / "exercises").glob("*.ipynb")}
    assert made == set(STEMS)


def test_the_committed_versions_are_what_the_sources_give(root):
    assert assignments.build(root, write=False) == [], "run: python -m course_lib exercises build"
    assert not assignments.write_table(root, write=False), (
        "run: python -m course_lib exercises build"
    )


@each_set
def test_nothing_of_the_solution_is_left(path, root):
    source = notebooks.read_notebook(path)
    text = assignments.student_path(root, path.stem).read_text(encoding="utf-8")
    for word in ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "graded", ".grade("):
        assert word not in text
    student = json.loads(text)
    whole = json.dumps(student, ensure_ascii=False)
    for line in solutions(source):
        assert json.dumps(line, ensure_ascii=False)[1:-1] not in whole, line
    for cell in student["cells"]:
        assert not cell.get("outputs")
        assert set(cell["metadata"]) <= {"nbgrader", "course", "tags", "deletable", "editable"}
    assert set(student["metadata"]) <= {"kernelspec", "language_info"}


@each_set
def test_each_exercise_is_complete(path, root):
    source = notebooks.read_notebook(path)
    found = assignments.entries(source)
    registered = {n: e for n, e in exercises().items() if e.lecture == path.stem}
    assert [(e.name, e.number) for e in found] == [(e.name, e.number) for e in registered.values()]
    assert len(found) >= 4
    assert {e.difficulty for e in found} <= set(assignments.DIFFICULTIES)
    assert any(e.difficulty == "diagnosis" for e in found)
    assert all(0 < e.minutes <= 40 and 0 < e.points <= 4 for e in found)
    for entry in found:
        statement = notebooks.source(cell_of(source, f"{entry.name}_text"))
        assert statement.count("<details>") == statement.count("</details>") == 2
        assert statement.index("Hint 1") < statement.index("Hint 2")
        answer = notebooks.source(cell_of(source, entry.name))
        assert re.search(rf"^def {entry.name}\(", answer, re.M)
        assert '"""' in answer
        test = cell_of(source, f"{entry.name}_check")
        assert test["metadata"]["nbgrader"]["points"] == entry.points
        assert f"check.{entry.name}({entry.name})" in notebooks.source(test)


@each_set
def test_grade_ids_are_unique_and_solutions_lie_in_functions(path):
    notebook = notebooks.read_notebook(path)
    ids = [c["metadata"]["nbgrader"]["grade_id"] for c in notebook["cells"] if
           "nbgrader" in c["metadata"]]  # fmt: skip
    assert len(ids) == len(set(ids))
    for cell in notebook["cells"]:
        for line in notebooks.source(cell).splitlines():
            if "### BEGIN SOLUTION" in line:
                assert line.startswith("    "), "a stub outside of a function stops the notebook"


@each_set
def test_the_stub_counts_as_unattempted_and_the_solution_as_right(path):
    """In one namespace per version, in the order of the cells, as in a kernel."""
    source = notebooks.read_notebook(path)
    for version, state in (
        (source, "right"),
        (assignments.student_version(path), "unattempted"),
    ):
        names: dict = {}
        exec(answers_and_free_cells(version), names)
        for entry in assignments.entries(source):
            verdict = exercises()[entry.name].examine(names[entry.name])
            assert verdict.state == state, verdict.message
            if state == "right":
                exercises()[entry.name].grade(names[entry.name])
            else:
                assert "\n" not in verdict.message


def answers_and_free_cells(notebook: dict) -> str:
    """The code of a set in its order, without set-up and checks."""
    return "\n".join(
        notebooks.source(c)
        for c in notebook["cells"]
        if c["cell_type"] == "code"
        and not c["metadata"].get("nbgrader", {}).get("grade")
        and "setup" not in notebooks.tags(c)
    )


def test_numbers_and_names_are_unique_over_the_course():
    every = [e for path in SOURCES for e in assignments.entries(notebooks.read_notebook(path))]
    assert len({e.number for e in every}) == len({e.name for e in every}) == len(every)
    assert {e.name for e in every} == set(exercises())
    for entry in every:
        assert exercises()[entry.name].number == entry.number


def test_a_changed_source_is_noticed(root, tmp_path):
    copy = tmp_path / "course"
    for name in ("notebooks/solutions/source", "notebooks/exercises"):
        shutil.copytree(root / name, copy / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(root / name, copy)
    path = assignments.source_folder(copy) / STEMS[-1] / f"{STEMS[-1]}.ipynb"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("## ", "## Changed, ", 1), encoding="utf-8")
    target = assignments.student_path(copy, STEMS[-1])
    with pytest.raises(ValueError, match="should begin with"):
        assignments.table(copy)
    assert assignments.build(copy, write=False) == [target]
    before = target.read_bytes()
    assert assignments.build(copy) == [target]
    assert target.read_bytes() != before
    assert assignments.build(copy) == []


def test_a_bundle_holds_the_notebook_and_a_readme(root, tmp_path):
    stem = STEMS[0]
    path = assignments.bundle(root, stem[:2], tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"{stem}/{stem}.ipynb", f"{stem}/README.md"]
        held = json.loads(archive.read(f"{stem}/{stem}.ipynb"))
        text = archive.read(f"{stem}/README.md").decode()
    assert held == notebooks.read_notebook(assignments.student_path(root, stem))
    assert f"jupyter lab {stem}.ipynb" in text
    again = assignments.bundle(root, stem[:2], tmp_path / "again")
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="No exercises begin with 77"):
        assignments.bundle(root, "77", tmp_path)


def test_the_command_line(root, tmp_path, capsys):
    assert command_line.main(["exercises", "check", STEMS[0][:2]]) == 0
    assert "agree with their sources" in capsys.readouterr().out
    assert command_line.main(["exercises", "list"]) == 0
    assert capsys.readouterr().out.count("\n") > 4 * len(STEMS)
    out = ["--out", str(tmp_path)]
    assert command_line.main(["exercises", "bundle", STEMS[-1][:2], *out]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / f"{STEMS[-1]}.zip")
    assert command_line.main(["exercises", "bundle", *out]) == 2
    assert "Say which set" in capsys.readouterr().err
    assert command_line.main(["exercises", "bundle", "77", *out]) == 2
    assert "No exercises begin with 77" in capsys.readouterr().err
