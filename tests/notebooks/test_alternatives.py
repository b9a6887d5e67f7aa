"""Every stored picture of a lecture says in words what it shows, for readers who do not see it."""

import html
import re
from collections import Counter
from pathlib import Path

import pytest

from course_lib import notebooks

ROOT = Path(__file__).parents[2]
LECTURES = notebooks.lecture_paths(ROOT)
SOURCES = sorted((ROOT / "notebooks" / "solutions" / "source").glob("*/*.ipynb"))
STUDENTS = sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))

each_lecture = pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
each_notebook = pytest.mark.parametrize(
    "path", [*LECTURES, *SOURCES, *STUDENTS], ids=lambda path: f"{path.parent.name}/{path.stem}"
)


def texts_of(path: Path) -> list[str]:
    """The alternatives of a whole notebook, in order."""
    return [
        text
        for cell in notebooks.read_notebook(path)["cells"]
        for text in notebooks.alternatives(cell)
    ]


def pictures_of(path: Path) -> int:
    """How many pictures a notebook stores."""
    cells = notebooks.read_notebook(path)["cells"]
    return sum(len(notebooks.picture_outputs(cell)) for cell in cells)


@each_notebook
def test_each_stored_picture_has_its_alternative(path):
    for cell in notebooks.read_notebook(path)["cells"]:
        pictures, texts = notebooks.picture_outputs(cell), notebooks.alternatives(cell)
        assert len(texts) == len(pictures), (
            f'cell {cell["id"]} stores {len(pictures)} pictures: say in its metadata "alt": ["…"] '
            "what each shows"
        )


@each_notebook
def test_no_output_holds_a_picture_of_another_kind(path):
    known = set(notebooks.PICTURES)
    for cell in notebooks.read_notebook(path)["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert {kind for kind in data if kind.startswith(("image/", "video/"))} <= known
            assert not re.search(r"<(img|svg|video)\b", "".join(data.get("text/html", "")))


@each_lecture
def test_an_alternative_is_a_sentence_or_two_of_its_own(path):
    assert pictures_of(path) > 0
    texts = texts_of(path)
    assert [text for text, count in Counter(texts).items() if count > 1] == []
    for text in texts:
        assert 40 <= len(text) <= 400, (len(text), text)
        assert re.match(r"[A-Z]", text) and text.endswith("."), text
        assert text == " ".join(text.split()), f"a line break or double space: {text}"
        assert not re.match(r"(An? )?(image|picture|figure|plot) (of|showing)\b", text, re.I), text


@each_notebook
def test_pictures_in_markdown_have_an_alternative(path):
    for cell in notebooks.read_notebook(path)["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        text = notebooks.source(cell)
        for alt in re.findall(r"!\[([^\]]*)\]\(", text):
            assert alt.strip(), f"a picture without words in cell {cell['id']}"
        for tag in re.findall(r"<img\b[^>]*>", text):
            assert re.search(r'\balt="[^"]+"', tag), tag


@each_lecture
def test_the_exported_page_gives_each_picture_its_alternative(path):
    page = notebooks.to_html(notebooks.read_notebook(path), path.stem)
    shown = re.findall(r'<img alt="([^"]*)" src="data:image/', page)
    assert [html.unescape(text) for text in shown] == texts_of(path)
    assert len(re.findall(r"<img\b[^>]*data:image/", page)) == pictures_of(path)


def test_storing_a_run_keeps_the_alternatives(tmp_path, root):
    path = tmp_path / "notebooks" / LECTURES[0].name
    notebook = notebooks.read_notebook(LECTURES[0])
    notebooks.write_notebook(path, notebook)
    notebooks.store(notebooks.Run(path, notebook, "laptop", seconds=1.0), root)
    assert texts_of(path) == texts_of(LECTURES[0]) != []


def test_an_executed_notebook_keeps_the_alternatives(tmp_path):
    path = tmp_path / "lecture.ipynb"
    cell = {
        "cell_type": "code",
        "id": "picture",
        "metadata": {"alt": ["A black square."]},
        "source": (
            "from IPython.display import Image, display\n"
            "from PIL import Image as I\n"
            "display(I.new('L', (4, 4)))"
        ),
        "outputs": [],
        "execution_count": None,
    }
    notebooks.write_notebook(
        path, {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    )
    run = notebooks.execute(path, "smoke")
    assert run.error == ""
    executed = notebooks.clean(run.notebook)["cells"][0]
    assert notebooks.alternatives(executed) == ["A black square."]
    assert len(notebooks.picture_outputs(executed)) == 1
    page = notebooks.to_html(run.notebook, "lecture")
    assert 'alt="A black square." src="data:image/png' in page
