"""Pages that are made from the repository when the site is built: nothing on them is typed twice.

The front page takes the map from the table of notebooks/README.md, titles and minutes from the
lectures, and its picture from a generator whose weights travel with the course; the page of the
exercises reads their sources, the results come from the cards, the API from the packages.
"""

from __future__ import annotations

import html
import io
import itertools
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path

import course_lib
from course_lib import assignments, notebooks
from course_lib.recipes import headlines, results
from course_lib.recipes.pretrained import card_of, cards, pretrained

ROW = re.compile(r"^\| \[(\d\d) [^\]]+\]\((\S+)\.ipynb\) \| (.+?) \| (.+?) \|$", re.M)
MODEL = "dcgan_fashion"
ROWS, COLUMNS, TILE = 4, 16, 44  # of the front page's picture; a tile is so many pixels wide
# Whose checks and hints are for the exercises alone, not for the reference.
HIDDEN = re.compile(r"course_lib\.exercises\.lecture_\d\d")


@dataclass(frozen=True)
class Lecture:
    """What the front page says about a lecture."""

    number: str
    stem: str
    title: str
    needs: tuple[str, ...]
    able: str
    minutes: str


def made(root: Path) -> dict[str, bytes]:
    """The pages and pictures of the site that are no file of the checkout, by place on the site."""
    texts = {
        "index.md": front_page(root),
        "site/exercises.md": exercises_page(root),
        "site/results.md": results_page(root),
        "site/bibliography.md": bibliography_page(),
        **api_pages(),
    }
    return {name: text.encode() for name, text in texts.items()} | {"site/front.png": picture()}


# ---------------------------------------------------------------------------- the front page


def lectures(root: Path) -> list[Lecture]:
    """The lectures in the order of the map.

    Raises:
        ValueError: the table of notebooks/README.md lacks a lecture, or has one that is not there.
    """
    table = (root / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = {stem: (number, needs, able) for number, stem, needs, able in ROW.findall(table)}
    paths = {path.stem: path for path in notebooks.lecture_paths(root)}
    if rows.keys() != paths.keys():
        differ = ", ".join(sorted(rows.keys() ^ paths.keys()))
        raise ValueError(
            f"The table of notebooks/README.md and the notebooks differ in {differ}: give each "
            "lecture a row '| [NN topic](NN_topic.ipynb) | what it needs | what one learns |'."
        )
    numbers = {number for number, _, _ in rows.values()}
    found = []
    for stem, path in paths.items():
        number, needs, able = rows[stem]
        notebook = notebooks.read_notebook(path)
        title = notebooks.source(notebook["cells"][0]).splitlines()[0].lstrip("# ")
        runs = notebook["metadata"].get("course", {}).get("runs", {})
        seconds = runs.get("laptop", {}).get("seconds")
        found.append(
            Lecture(
                number,
                stem,
                title.partition(" · ")[2],
                tuple(n for n in re.findall(r"\b\d\d\b", needs) if n in numbers),
                able,
                "" if seconds is None else f"{max(1, round(seconds / 60))}\N{NO-BREAK SPACE}min",
            )
        )
    return found


def reduced(needs: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """What each lecture needs directly: without what its other needs need already."""

    def all_needs(number: str) -> set[str]:
        return {n for need in needs[number] for n in ({need} | all_needs(need))}

    return {
        number: [n for n in mine if not any(n in all_needs(other) for other in mine)]
        for number, mine in needs.items()
    }


def layers(needs: dict[str, list[str]]) -> list[list[str]]:
    """Rows of the map: each lecture one row below the lowest that it needs.

    A need more than one row up passes through the rows between as a gap, written ``"04>17"``.
    """
    depth: dict[str, int] = {}

    def depth_of(number: str) -> int:
        if number not in depth:
            depth[number] = 1 + max((depth_of(n) for n in needs[number]), default=-1)
        return depth[number]

    rows: list[list[str]] = [[] for _ in range(1 + max(map(depth_of, needs)))]
    for number in needs:
        rows[depth[number]].append(number)
        for need in needs[number]:
            for between in range(depth[need] + 1, depth[number]):
                rows[between].append(f"{need}>{number}")
    for above, row in itertools.pairwise(rows):
        place = {name: (i + 0.5) / len(above) for i, name in enumerate(above)}
        row.sort(key=lambda name: (_mean([place[p] for p in parents(name, needs, above)]), name))
    return rows


def parents(name: str, needs: dict[str, list[str]], above: list[str]) -> list[str]:
    """Names in the row above from which a line leads to this lecture or gap."""
    first, _, last = name.partition(">")
    if last:
        return [n for n in above if n in (first, name)]
    return [n for n in above if n in needs[name] or n.endswith(f">{name}")]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def map_of(root: Path) -> str:
    """The map as HTML for a page at the root of the site."""
    return course_map(lectures(root))


def course_map(found: list[Lecture]) -> str:
    """Rows of links, with lines of SVG between them."""
    needs = reduced({lecture.number: lecture.needs for lecture in found})
    by_number = {lecture.number: lecture for lecture in found}
    rows = layers(needs)
    lines = ['<nav class="course-map" aria-label="Map of the course">']
    for i, row in enumerate(rows):
        if i:
            lines.append(_lines(rows[i - 1], row, needs))
        lines.append(f'<ol class="course-row" style="--columns:{len(row)}">')
        for name in row:
            lecture = by_number.get(name)
            lines.append(
                '<li class="course-gap" aria-hidden="true"></li>'
                if lecture is None
                else f'<li><a href="{lecture.stem}.html"><b>{lecture.number}</b> '
                f"<span>{html.escape(lecture.title)}</span>"
                f"<small>{lecture.minutes}</small></a></li>"
            )
        lines.append("</ol>")
    return "\n".join([*lines, "</nav>"])


def _lines(above: list[str], below: list[str], needs: dict[str, list[str]]) -> str:
    """Curves from one row to the next; both rows divide the width evenly."""
    paths = []
    for j, name in enumerate(below):
        for parent in parents(name, needs, above):
            x = 100 * (above.index(parent) + 0.5) / len(above)
            y = 100 * (j + 0.5) / len(below)
            paths.append(f'<path d="M{x:.2f} 0C{x:.2f} 12 {y:.2f} 8 {y:.2f} 20"/>')
    return (
        '<svg class="course-lines" viewBox="0 0 100 20" preserveAspectRatio="none" '
        f'aria-hidden="true" focusable="false">{"".join(paths)}</svg>'
    )


def front_page(root: Path) -> str:
    """The map of the course, with a picture, what one learns, and how to start."""
    found = lectures(root)
    entries = [
        entry
        for path in assignments.sources(root)
        for entry in assignments.entries(notebooks.read_notebook(path))
    ]
    hours = round(sum(entry.minutes for entry in entries) / 60)
    card = card_of(MODEL)
    minutes = round(card["wall_seconds"] / 60)
    rows = "\n".join(
        f"| {lecture.number} | [{lecture.title}]({lecture.stem}.ipynb) | {lecture.able} | "
        f"{lecture.minutes} |"
        for lecture in found
    )
    equations = sum(
        len(notebooks.claimed_equations(notebooks.read_notebook(path)))
        for path in notebooks.lecture_paths(root)
    )
    toc = "\n".join(lecture.stem for lecture in found)
    sets = "\n".join(f"exercises/{path.stem}" for path in assignments.sources(root))
    alternative = (
        f"{ROWS * COLUMNS} small grey pictures of garments, drawn by a network from noise: shirts, "
        "trousers, shoes, bags and some that are nothing yet."
    )
    return f"""\
# From random noise to trained GANs and VAEs

A course in notebooks that starts with a coin toss and ends with networks that draw digits and
garments. **Every displayed equation that claims something is executed**: a cell beside it compares
it with an independent calculation and fails when they differ, for {equations} equations in
{len(found)} lectures. Every number was produced by code that you can run.

<figure class="course-front">

![{alternative}](site/front.png)

<figcaption>

Noise in, garments out: {ROWS * COLUMNS} draws, unselected, from the network of
[lecture 06](06_dcgan.ipynb) after {minutes} minutes of training on a CPU
(`pretrained("{MODEL}")`; [how good it is](site/results.md)).

</figcaption>
</figure>

## The map of the course

Each lecture builds on those that a line leads down from. Begin at the top; the minutes are those
of the last recorded run on a CPU.

{course_map(found)}

## What you will be able to do

| no. | lecture | you will | runs in |
|---|---|---|---|
{rows}

[{len(entries)} exercises](site/exercises.md), about {hours} hours in all, check themselves and give
hints. What the article got wrong from which this course grew stands in its
[list of errata](site/errata.md).

## How to start

**Read here.** The pages are the notebooks as they were last run, with their pictures. A number such
as (4.3) leads to its equation.

**Run a lecture in Colab.** The rocket at the top of each lecture opens it there; its first cell
installs the library and nothing else.

**Run it on your own computer**, with Python 3.11 or newer and no GPU: clone the
[repository](../README.md), then `make lab`. The arrow at the top of each page downloads its
notebook, which also runs alone.

**Teach with it.** [The instructor's guide](solutions/README.md) says how to hand out, collect and
mark the exercises.

```{{toctree}}
:hidden:
:caption: Lectures

README
{toc}
```

```{{toctree}}
:hidden:
:caption: Exercises

site/exercises
{sets}
```

```{{toctree}}
:hidden:
:caption: Reference

site/results
site/errata
site/glossary
site/bibliography
data/README
solutions/README
site/api/index
```
"""


def picture() -> bytes:
    """Samples of a generator of the course as a PNG, tiles with gaps that let the page through."""
    import torch
    from PIL import Image

    images = pretrained(MODEL, "cpu").draw(ROWS * COLUMNS, torch.Generator().manual_seed(0))
    grey = (images[:, 0] * 255).round().to(torch.uint8)  # draw gives images in [0, 1]
    gap = 4
    size = (COLUMNS * (TILE + gap) - gap, ROWS * (TILE + gap) - gap)
    sheet = Image.new("LA", size, (0, 0))
    for i, image in enumerate(grey):
        row, column = divmod(i, COLUMNS)
        tile = Image.fromarray(image.numpy()).resize((TILE, TILE), Image.Resampling.BICUBIC)
        sheet.paste(
            Image.merge("LA", (tile, Image.new("L", tile.size, 255))),
            (column * (TILE + gap), row * (TILE + gap)),
        )
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


# ---------------------------------------------------------------------------- other pages


def exercises_page(root: Path) -> str:
    """Every exercise with its kind, minutes and points, set by set."""
    parts, every = [], []
    for path in assignments.sources(root):
        notebook = notebooks.read_notebook(path)
        entries = assignments.entries(notebook)
        every += entries
        title = notebooks.source(notebook["cells"][0]).splitlines()[0].lstrip("# ")
        name = title.removeprefix("Exercises ")
        minutes, points = sum(e.minutes for e in entries), sum(e.points for e in entries)
        rows = "\n".join(
            f"| {e.number} | [{e.title}](../exercises/{path.name}#exercise-{e.number}) | "
            f"{e.difficulty} | {e.minutes} | {e.points} |"
            for e in entries
        )
        parts.append(
            f"## {name}\n\n[The whole set](../exercises/{path.name}), {minutes} minutes, "
            f"{points} points.\n\n| no. | exercise | kind | minutes | points |\n"
            f"|---|---|---|---|---|\n{rows}\n"
        )
    minutes, points = sum(e.minutes for e in every), sum(e.points for e in every)
    kinds = ", ".join(
        f"{sum(e.difficulty == kind for e in every)} of the kind *{kind}*"
        for kind in assignments.DIFFICULTIES
    )
    return (
        "# All exercises\n\n"
        f"{len(every)} exercises, {minutes} minutes and {points} points in all: {kinds}. Each set "
        "is a notebook that runs alone, in Colab (the rocket at the top of its page) or in "
        "JupyterLab. A check answers as often as you ask it, with what it measured and what is "
        "probably wrong; two folded hints stand below each statement.\n\n" + "\n".join(parts)
    )


def results_page(root: Path) -> str:
    """The results, from the cards, as the README shows them."""
    found = cards(root / "data" / "results")
    block = results.page(found).replace("](data/", "](../../data/")
    return (
        "# Results\n\n"
        "What the course's own runs reached, beside the figures of the papers. Each line was "
        "written by code from the card of a finished run; a card holds the settings, the seed, the "
        "versions, the device, the times and every score with its n. An interval (±) is the "
        "standard deviation over seeds or, of one seed, the score's own standard error.\n\n"
        f"{headlines.table(found)}\n\n"
        "## All scores\n\n"
        f"{block}\n"
        "Two measurements of speed have pages of their own: [the measures of "
        "quality](../data/results/benchmark_metrics.md) and "
        "[training](../data/results/benchmark_training.md).\n\n"
        "```{toctree}\n:hidden:\n\n../data/results/benchmark_metrics\n"
        "../data/results/benchmark_training\n```\n"
    )


def bibliography_page() -> str:
    """Every entry of the bibliography."""
    return (
        "# Bibliography\n\n"
        "The works that lectures, exercises and library refer to, and those that the article "
        "meant to cite.\n\n"
        "```{bibliography}\n:all:\n```\n"
    )


# ---------------------------------------------------------------------------- the reference


def api_pages() -> dict[str, str]:
    """One page per sub-package, from the docstrings, and one for the modules beside them."""
    top, packages = ["course_lib"], {}
    for module in pkgutil.iter_modules(course_lib.__path__, "course_lib."):
        if module.name.rpartition(".")[2].startswith("_"):
            continue
        if module.ispkg:
            package = __import__(module.name, fromlist=["__path__"])
            inside = pkgutil.iter_modules(package.__path__, f"{module.name}.")
            names = sorted(m.name for m in inside if not HIDDEN.fullmatch(m.name))
            packages[module.name] = [module.name, *names]
        else:
            top.append(module.name)
    pages = {f"site/api/{name}.rst": _api_page(name, parts) for name, parts in packages.items()}
    pages["site/api/course_lib.rst"] = _api_page("course_lib", top)
    links = "\n".join(f"   {name}" for name in ["course_lib", *packages])
    pages["site/api/index.rst"] = (
        "The library\n===========\n\n"
        "``course_lib`` holds what several notebooks share. It is meant to be read; these pages "
        "are made from its docstrings. A notebook writes a thing from scratch, asserts that it "
        "equals its twin here, and imports the twin from then on.\n\n"
        f".. toctree::\n   :maxdepth: 1\n\n{links}\n"
    )
    return pages


def _api_page(name: str, modules: list[str]) -> str:
    parts = [f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n"]
    for module in modules[1:]:
        parts.append(f"{module}\n{'-' * len(module)}\n\n.. automodule:: {module}\n   :members:\n")
    return "\n".join(parts)
