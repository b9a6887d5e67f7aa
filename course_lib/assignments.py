"""The exercises as files: students' versions from the instructor's, bundles, the README's table.

The source lies in notebooks/solutions/source/NN_topic/NN_topic.ipynb, as nbgrader wants it. What a
student opens, notebooks/exercises/NN_topic.ipynb, is made from it by nbgrader's own preprocessors
and never edited by hand.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_lib import notebooks

STUB = "raise NotImplementedError  # your code here"
DIFFICULTIES = ("warm-up", "standard", "diagnosis", "challenge")
BEGIN, END = "<!-- exercises: made from the sources -->", "<!-- end of exercises -->"
HEADING = re.compile(r"## (\d+\.\d+) · (.+)\n\n\*([\w-]+) · (\d+) minutes · (\d+) points?\*\n")


@dataclass(frozen=True)
class Entry:
    """One exercise, as its notebook describes it."""

    name: str
    number: str
    title: str
    difficulty: str
    minutes: int
    points: int


def source_folder(root: Path) -> Path:
    """The instructor's notebooks."""
    return root / "notebooks" / "solutions" / "source"


def sources(root: Path) -> list[Path]:
    """The instructor's notebooks, in the order of the course."""
    return sorted(source_folder(root).glob("[0-9][0-9]_*/[0-9][0-9]_*.ipynb"))


def student_path(root: Path, stem: str) -> Path:
    """Where the students' version of a set lies."""
    return root / "notebooks" / "exercises" / f"{stem}.ipynb"


def entries(notebook: dict[str, Any]) -> list[Entry]:
    """The exercises of a notebook, from the cells that state them.

    Raises:
        ValueError: a heading does not say what the metadata of its cell says.
    """
    found = []
    for cell in notebook["cells"]:
        said = cell["metadata"].get("course", {})
        if "exercise" not in said:
            continue
        text = notebooks.source(cell)
        match = HEADING.match(text)
        if match is None:
            raise ValueError(
                f"The statement of {said['exercise']} should begin with '## NUMBER · TITLE', an "
                "empty line, and '*DIFFICULTY · MINUTES minutes · POINTS points*'."
            )
        number, title, difficulty, minutes, points = match.groups()
        entry = Entry(said["exercise"], number, title, difficulty, int(minutes), int(points))
        if (difficulty, entry.minutes, entry.points) != tuple(
            said[key] for key in ("difficulty", "minutes", "points")
        ):
            raise ValueError(f"Heading and metadata of {entry.name} differ.")
        found.append(entry)
    return found


# ---------------------------------------------------------------------------- building


def with_generated_cells(
    notebook: dict[str, Any], stem: str, address: notebooks.Address
) -> dict[str, Any]:
    """A copy of a source notebook in which badges and set-up cell are up to date.

    The badges lead to the students' version.

    Raises:
        ValueError: one of the two cells is missing or stands there twice.
    """
    inside = f"{address.slug}/blob/{address.branch}/notebooks/exercises/{stem}.ipynb"
    texts = {
        "badges": "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{inside}) "
        f"[view on GitHub](https://github.com/{inside})",
        "setup": notebooks.setup_cell(address),
    }
    cells, found = [], []
    for cell in notebook["cells"]:
        generated = [tag for tag in notebooks.tags(cell) if tag in texts]
        if generated:
            found += generated
            cell = {**cell, "source": texts[generated[0]].splitlines(keepends=True)}
        cells.append(cell)
    if sorted(found) != sorted(texts):
        raise ValueError(f"{stem} should have one cell with each of the tags badges and setup.")
    return {**notebook, "cells": cells}


def student_version(path: Path) -> dict[str, Any]:
    """What nbgrader makes of a source notebook for students: no solution, no hidden test.

    The preprocessors and their order are those of `nbgrader generate_assignment`, without its
    database.
    """
    import nbformat
    from nbgrader.converters import GenerateAssignment
    from nbgrader.preprocessors import SaveCells
    from traitlets.config import Config

    config = Config()
    config.ClearSolutions.code_stub = {"python": STUB}
    node = nbformat.read(path, as_version=4)
    resources: dict[str, Any] = {"metadata": {"name": path.stem}, "nbgrader": {}}
    for make in GenerateAssignment.preprocessors.default():
        if make is not SaveCells:
            node, resources = make(config=config).preprocess(node, resources)
    return json.loads(nbformat.writes(node))


def build(root: Path, names: list[str] | None = None, write: bool = True) -> list[Path]:
    """Make the students' versions.

    Args:
        names: beginnings of file names, such as ``04``; all sets when empty.
        write: False only compares.

    Returns:
        The files that differed.

    Raises:
        ValueError: a name that no set has.
    """
    address, changed = notebooks.Address.of(root), []
    for path in chosen(root, names):
        notebook = notebooks.read_notebook(path)
        fresh = with_generated_cells(notebook, path.stem, address)
        if [notebooks.source(c) for c in fresh["cells"]] != [
            notebooks.source(c) for c in notebook["cells"]
        ]:
            changed.append(path)
            if write:
                notebooks.write_notebook(path, fresh)
        made, target = student_version(path), student_path(root, path.stem)
        if not target.exists() or json.loads(target.read_text(encoding="utf-8")) != made:
            changed.append(target)
            if write:
                notebooks.write_notebook(target, made)
    return changed


def chosen(root: Path, names: list[str] | None) -> list[Path]:
    """The sets whose file names begin like one of `names`; all when empty.

    Raises:
        ValueError: a name that no set has.
    """
    paths = sources(root)
    unknown = [n for n in names or [] if not any(p.name.startswith(n) for p in paths)]
    if unknown:
        raise ValueError(
            f"No exercises begin with {', '.join(unknown)}; "
            f"there are {', '.join(p.stem for p in paths)}."
        )
    return [p for p in paths if not names or any(p.name.startswith(n) for n in names)]


# ---------------------------------------------------------------------------- table, bundles


def table(root: Path, names: list[str] | None = None) -> str:
    """The exercises as a table of Markdown, and their sum; `names` as in `chosen`."""
    lines = ["| | exercise | kind | minutes | points |", "|---|---|---|---|---|"]
    every: list[Entry] = []
    for path in chosen(root, names):
        link = f"notebooks/exercises/{path.name}"
        for entry in entries(notebooks.read_notebook(path)):
            every.append(entry)
            lines.append(
                f"| {entry.number} | [{entry.title}]({link}) | {entry.difficulty} | "
                f"{entry.minutes} | {entry.points} |"
            )
    minutes, points = sum(e.minutes for e in every), sum(e.points for e in every)
    lines.append(f"| | {len(every)} exercises | | {minutes} | {points} |")
    return "\n".join(lines)


def write_table(root: Path, write: bool = True) -> bool:
    """Bring the table of README.md up to date; whether it differed.

    Raises:
        ValueError: README.md has no place for it.
    """
    path = root / "README.md"
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"README.md needs one line '{BEGIN}' and one '{END}' to write between.")
    head, rest = text.split(BEGIN)
    fresh = f"{head}{BEGIN}\n\n{table(root)}\n\n{END}{rest.split(END)[1]}"
    if write and fresh != text:
        notebooks.write_text(path, fresh)
    return fresh != text


def bundle(root: Path, name: str, folder: Path) -> Path:
    """A zip of one students' notebook and a README, for a class that does not use nbgrader.

    The same sources give the same bytes. To make it takes nbgrader (extra ``grading``).

    Raises:
        ValueError: no set, or several, begin with that name.
    """
    paths = chosen(root, [name])
    if len(paths) > 1:
        raise ValueError(f"Several sets begin with {name}: {', '.join(p.stem for p in paths)}.")
    stem = paths[0].stem
    content = {
        # From its source: whoever teaches may have written answers into notebooks/exercises.
        f"{stem}/{stem}.ipynb": json.dumps(student_version(paths[0]), ensure_ascii=False, indent=1)
        + "\n",
        f"{stem}/README.md": readme(root, paths[0]),
    }
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, text in content.items():
            info = zipfile.ZipInfo(inside, (2020, 1, 1, 0, 0, 0))
            info.external_attr, info.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    path = folder / f"{stem}.zip"
    notebooks.write_file(path, memory.getvalue())
    return path


def _points(n: int) -> str:
    return f"{n} point{'s' * (n != 1)}"


def readme(root: Path, path: Path) -> str:
    """What the bundle of one set says to the student."""
    notebook, address = notebooks.read_notebook(path), notebooks.Address.of(root)
    title = notebooks.source(notebook["cells"][0]).splitlines()[0].lstrip("# ")
    rows = "".join(
        f"- {e.number} {e.title}: {e.difficulty}, {e.minutes} minutes, {_points(e.points)}\n"
        for e in entries(notebook)
    )
    return f"""\
# {title}

{rows}
Python 3.11 or newer is needed, and the library of the course (some minutes: torch is large):

    python -m pip install jupyterlab git+{address.url}@{address.branch}
    jupyter lab {path.name}

or open {path.name} in Colab (File, Upload notebook): its first cell installs the library.

Write your code in place of `{STUB.split("  ")[0]}`, run the cell, then the check below it. The
checks say what was measured and what is probably wrong; hints are folded below each statement.
The lecture: {address.url}/blob/{address.branch}/notebooks/{path.name}
"""
