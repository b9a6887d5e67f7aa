"""What the web site adds to Sphinx: numbered equations, references to them, cells, links, pictures.

The committed notebooks stay as they are, and so does what a reader downloads. At the read step

- a text reference such as (4.3) becomes a link to its equation, in whatever lecture that stands;
- a link to a file of the repository that is not on the site becomes a link to the repository;
- the row of badges goes, for the buttons of the page do its work, and the set-up cell is folded;

and on the tree of the page

- an equation with ``\\tag{4.3}`` gets the anchor ``eq-4.3`` (``\\tag{def 4.2}``: ``eq-def-4.2``), a
  code cell ``cell-<id>``, the statement of an exercise ``exercise-4.1``;
- pictures get the alternative texts of their cell;

and in what is written, Chinese words say that they are Chinese.

An equation that stands twice, an anchor that nobody set, a picture without a text: each is a
warning, and thereby an error of the build.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import zlib
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pages
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

from course_lib.notebooks import Address, lecture_paths, read_notebook, source, tags

log = logging.getLogger(__name__)
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

TAG = re.compile(r"\\tag\{((?:def )?\d+\.\d+[a-z]?)\}")
NUMBER = r"(?:def )?\d+\.\d+[a-z]?"
REFERENCE = re.compile(rf"\(({NUMBER})(?: above| below)?\)")
# A cell of a table that holds numbers of equations and nothing else, as in a lecture's summary.
NUMBERS = re.compile(rf"(?<=\| ){NUMBER}(?:(?:, | – ){NUMBER})*(?= \|)")
ARXIV = re.compile(r"\barXiv:(\d{4}\.\d{4,5})\b")
EXERCISE = re.compile(r"^(\d+\.\d+) · ")
BIBLIOGRAPHY = "site/bibliography.md"
SLIDERS = "Run this cell to move the sliders: "
# What is no prose, in the order in which it is recognised: fences, displays, code, maths, links,
# HTML. A link comes in two groups, its text and its target.
APART = re.compile(
    r"(?P<fence>^(?P<ticks>```+|~~~+)[^\n]*\n.*?^(?P=ticks)[ \t]*$)"
    r"|(?P<display>\$\$.*?\$\$)"
    r"|(?P<code>(?P<quote>`+)(?!`).*?(?<!`)(?P=quote)(?!`))"
    r"|(?P<maths>(?<![\\$])\$(?![\s$])(?:[^$\\]|\\.)*?(?<!\s)\$(?!\d))"
    r"|(?P<link>(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?P<target>[^()\s]+)\))"
    r"|(?P<html><[a-zA-Z/!][^>]*>)",
    re.S | re.M,
)


def anchor(number: str) -> str:
    """``eq-4.3`` for 4.3, and ``eq-def-4.2`` for ``def 4.2``."""
    return f"eq-{number.replace(' ', '-')}"


def cited(key: str) -> str:
    """The anchor of an entry of the bibliography."""
    return nodes.make_id(f"cite-{key}")


def equations(root: Path) -> dict[str, str]:
    """The page of each numbered equation, claim, step or definition."""
    found: dict[str, str] = {}
    for path in lecture_paths(root):
        for cell in read_notebook(path)["cells"]:
            if cell["cell_type"] == "markdown":
                found |= {number: path.stem for number in TAG.findall(source(cell))}
    return found


def works(root: Path) -> dict[str, str]:
    """From arXiv number to key, of the entries of the bibliography that have one."""
    text = (root / "notebooks" / "site" / "references.bib").read_text(encoding="utf-8")
    found = re.findall(r"^@\w+\{([^,\s]+),(.*?)^\}", text, re.S | re.M)
    numbers = {key: re.search(r"\beprint\s*=\s*[{\"]([\d.]+)", fields) for key, fields in found}
    return {match[1]: key for key, match in numbers.items() if match}


# ---------------------------------------------------------------------------- the read step


def rewritten(text: str, prose: Callable[[str], str], follow: Callable[[str], str | None]) -> str:
    """Markdown with its prose and the targets of its links replaced; code and maths stay.

    Args:
        text: Markdown.
        prose: from a stretch of text without code, maths, links and HTML to what replaces it.
        follow: from the target of a link to another, None to leave it.
    """
    parts, end = [], 0
    for match in APART.finditer(text):
        parts.append(prose(text[end : match.start()]))
        end = match.end()
        target = follow(match["target"]) if match["link"] else None
        parts.append(match[0] if target is None else f"{match['text']}({target})")
    return "".join([*parts, prose(text[end:])])


def repository_place(docname: str) -> str:
    """The folder of the repository that the links of a page are relative to."""
    folder = posixpath.dirname(docname)
    return folder if docname.startswith("data/") else posixpath.join("notebooks", folder)


def site_place(path: str) -> str:
    """Where a file of the repository would lie on the site."""
    return path if path.startswith("data/") else path.removeprefix("notebooks/")


class Reader:
    """Rewrites the sources of pages as Sphinx reads them."""

    def __init__(self, app: Sphinx) -> None:
        self.source_folder = Path(app.srcdir)
        self.address = Address.of(ROOT)
        self.equations, self.works = equations(ROOT), works(ROOT)
        self.lectures = {path.stem for path in lecture_paths(ROOT)}

    def on_source(self, app: Sphinx, docname: str, content: list[str]) -> None:
        path = Path(app.env.doc2path(docname))
        if path.suffix == ".md":
            content[0] = self.markdown(docname, self.with_map(docname, content[0]))
        elif path.suffix == ".ipynb":
            content[0] = json.dumps(self.notebook(docname, json.loads(content[0])))

    def with_map(self, docname: str, text: str) -> str:
        """The map of the course drawn in characters, as one with links."""
        if docname != "README":
            return text
        drawn, count = re.subn(
            r"^```\n[^`]*[─│┐└][^`]*\n```$", lambda _: pages.map_of(ROOT), text, count=1, flags=re.M
        )
        if count == 0:
            raise ValueError("notebooks/README.md has no map in a block of code any more.")
        return drawn

    def markdown(self, docname: str, text: str) -> str:
        """The text of a page with its links as the site needs them."""
        here = posixpath.dirname(docname) or "."

        def address(file: str, name: str) -> str:
            return f"{posixpath.relpath(file, here)}#{name}"

        def refer(match: re.Match[str], number: str) -> str:
            for name in (number, f"def {number}"):
                if name in self.equations:
                    place = address(f"{self.equations[name]}.ipynb", anchor(name))
                    return f"[{match[0]}]({place})"
            return match[0]

        def cite(match: re.Match[str]) -> str:
            key = self.works.get(match[1])
            return match[0] if key is None else f"[{match[0]}]({address(BIBLIOGRAPHY, cited(key))})"

        def prose(part: str) -> str:
            part = REFERENCE.sub(lambda match: refer(match, match[1]), part)
            if docname in self.lectures:
                part = NUMBERS.sub(
                    lambda cell: re.sub(NUMBER, lambda match: refer(match, match[0]), cell[0]), part
                )
            return ARXIV.sub(cite, part)

        def follow(target: str) -> str | None:
            if re.match(r"[a-z]+:|#|//", target):
                return None
            file, hash_, fragment = target.partition("#")
            place = posixpath.normpath(posixpath.join(repository_place(docname), file))
            if (self.source_folder / here / file).is_file():
                return None
            if (self.source_folder / site_place(place)).is_file():
                return posixpath.relpath(site_place(place), here) + hash_ + fragment
            if not place.startswith("..") and (ROOT / place).exists():
                kind = "tree" if (ROOT / place).is_dir() else "blob"
                url = f"{self.address.url}/{kind}/{self.address.branch}/{place}"
                return url + hash_ + fragment
            return None

        return rewritten(text, prose, follow)

    def notebook(self, docname: str, notebook: dict[str, Any]) -> dict[str, Any]:
        """A notebook as the page shows it."""
        cells = []
        for cell in notebook["cells"]:
            if "badges" in tags(cell):
                cell = {**cell, "source": _inner_links(source(cell))}
                if not cell["source"]:
                    continue
            metadata = {**cell["metadata"], "site_id": cell["id"]}
            if "setup" in tags(cell):
                metadata["tags"] = [*tags(cell), "hide-cell"]
            cell = {**cell, "metadata": metadata}
            if cell["cell_type"] == "markdown":
                cell["source"] = self.markdown(docname, source(cell))
            else:
                cell["outputs"] = [_with_slider_note(output) for output in cell["outputs"]]
            cells.append(cell)
        # The rest of the metadata would be shown, or searched, as fields of the page.
        kept = {
            k: v for k, v in notebook["metadata"].items() if k in ("kernelspec", "language_info")
        }
        return {**notebook, "cells": cells, "metadata": kept}


def _inner_links(row: str) -> str:
    """The links of a row of badges that stay on the site; the buttons of the page do the rest."""
    links = re.findall(r"(?<!!)\[[^\[\]]+\]\((?!\w+:)[^()\s]+\)", row)
    return " · ".join(links)


def _with_slider_note(output: dict[str, Any]) -> dict[str, Any]:
    """A widget's place on paper, worded for a page that cannot run it."""
    text = "".join(output.get("data", {}).get("text/plain", ""))
    if not text.startswith(SLIDERS):
        return output
    names = text.removeprefix(SLIDERS).rstrip(".")
    note = f"Sliders for {names} stand here when the cell runs, in Colab or JupyterLab."
    return {**output, "data": {"text/html": f'<p class="course-sliders">{note}</p>'}}


# ---------------------------------------------------------------------------- the tree


class Anchors(SphinxTransform):
    """Gives anchors to equations, cells and exercises, and alternative texts to pictures."""

    default_priority = 800  # before references with anchors are resolved, at 879

    def apply(self, **_: Any) -> None:
        self.slugs = self.env.metadata[self.env.docname].setdefault("myst_slugs", {})
        for node in list(self.document.findall(nodes.math_block)):
            self.equation(node)
        for node in list(self.document.findall(nodes.container)):
            if node.get("nb_element") == "cell_code":
                self.cell(node)
        if self.env.docname == BIBLIOGRAPHY.removesuffix(".md"):
            # The entries themselves are made later, when all pages have been read.
            for key in works(ROOT).values():
                self.slugs[cited(key)] = (0, cited(key), key)
        if self.env.docname.startswith("exercises/"):
            for node in self.document.findall(nodes.section):
                if match := EXERCISE.match(node[0].astext()):
                    self.set(node, f"exercise-{match[1]}", node[0].astext())

    def set(self, node: nodes.Element, name: str, title: str) -> None:
        if name in self.document.ids or name in self.slugs:
            log.warning("the anchor %s stands twice on this page", name, location=node)
            return
        node["ids"].append(name)
        self.document.ids[name] = node
        self.slugs[name] = (node.line or 0, name, title)

    def equation(self, node: nodes.math_block) -> None:
        text = node.astext()
        # Sphinx would put lines into an environment in which \tag is an error.
        node["no-wrap"] = node["nowrap"] = True
        node.children = [nodes.Text(rf"\[{text}\]")]
        numbers = TAG.findall(text)
        if not numbers:
            return
        if len(numbers) > 1:
            log.warning("one equation has the tags %s", ", ".join(numbers), location=node)
        number = numbers[0]
        box = nodes.container(classes=["course-equation"])
        box.line, box.source = node.line, node.source
        node.replace_self(box)
        self.set(box, anchor(number), f"({number})")
        link = (
            f'<a class="headerlink" href="#{anchor(number)}" title="Link to ({number})" '
            f'aria-label="Link to equation {number}">#</a>'
        )
        box += [node, nodes.raw("", link, format="html")]

    def cell(self, node: nodes.container) -> None:
        metadata = node["cell_metadata"]
        self.set(node, f"cell-{metadata['site_id']}", f"cell {metadata['site_id']}")
        pictures = list(node.findall(nodes.image))
        texts = metadata.get("alt", [])
        if len(texts) != len(pictures):
            log.warning(
                "cell %s has %d pictures and %d alternative texts in its metadata: write one each",
                metadata["site_id"],
                len(pictures),
                len(texts),
                location=node,
            )
        for picture, text in zip(pictures, texts, strict=False):
            picture["alt"] = text


# ---------------------------------------------------------------------------- the reference


def plain_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]):
    """Docstrings are written for readers of the source, not in the markup of Sphinx.

    Bars mean |x|, an indented block is code, and a table is one of Markdown.
    """
    fresh: list[str] = []
    code = False
    for i, line in enumerate(lines):
        if line.startswith("|") and line.endswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not lines[i - 1].startswith("|"):
                fresh += [".. list-table::", "   :header-rows: 1", ""]
            if set("".join(cells)) - set("-:"):
                fresh += [f"   {'  -' if j else '* -'} {cell}" for j, cell in enumerate(cells)]
            continue
        indented = line.startswith("    ")
        above = next((text for text in reversed(lines[:i]) if text), "")
        if code:
            code = indented or not line
        elif indented and not lines[i - 1] and above and above[0] not in " -*":
            code = True
            fresh += ["::", ""]
        fresh.append(line if code else _bars_escaped(line))
    lines[:] = fresh


def _bars_escaped(line: str) -> str:
    parts = re.split(r"(``.*?``|`.*?`)", line)
    return "".join(p if p.startswith("`") else p.replace("|", r"\|") for p in parts)


def foreign(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Whether to leave out a member: what a class got from another library has its own pages."""
    home = getattr(obj, "__module__", None)
    return True if home and not home.startswith("course_lib") and callable(obj) else None


# ---------------------------------------------------------------------------- the output


def without_scripts(markup: str, *names: str) -> str:
    """Markup without the script elements that load these files.

    Raises:
        ValueError: there is no such script: the theme has changed.
    """
    for name in names:
        markup, count = re.subn(
            rf'<script[^>]*\bsrc="[^"]*{re.escape(name)}[^"]*"[^>]*></script>', "", markup
        )
        if count == 0:
            raise ValueError(f"The theme does not load {name} any more: see templates/layout.html.")
    return markup


def plain_citations(app: Sphinx, page: str, template: str, context: dict[str, Any], _: Any) -> None:
    """Entries of the bibliography without the roles of docutils, which ARIA no longer knows."""
    if "body" in context:
        body = context["body"].replace('<div role="list" class="citation-list">', "<div>")
        context["body"] = body.replace(' role="doc-biblioentry"', "")


CHINESE = re.compile(r"[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]+")


def with_chinese_marked(markup: str) -> str:
    """Markup that tells readers aloud, and choosers of fonts, which words are Chinese."""
    parts, inside = re.split(r"(<[^>]*>)", markup), 0
    for i, part in enumerate(parts):
        if tag := re.match(r"<(/?)(?:pre|script|style|svg)\b", part):
            inside += -1 if tag[1] else 1
        elif i % 2 == 0 and not inside:
            parts[i] = CHINESE.sub(r'<span lang="zh-Hans">\g<0></span>', part)
    return "".join(parts)


def mark_chinese(app: Sphinx, page: str, template: str, context: dict[str, Any], *_: Any) -> None:
    if "body" in context:
        context["body"] = with_chinese_marked(context["body"])


def tidy_scripts(app: Sphinx, error: Exception | None) -> None:
    """MathJax with its fonts and none of the package's other variants; no script of icons."""
    if error is not None:
        return
    package = distribution("sphinx-mathjax-offline")
    folder = Path(str(package.locate_file("sphinx-mathjax-offline"))) / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = "output/chtml/fonts/woff-v2"
    shutil.copytree(folder / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(folder / "tex-chtml.js", target)
    for unused in (Path(app.outdir) / "_static" / "scripts").glob("fontawesome.js*"):
        unused.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    reader = Reader(app)
    app.connect("source-read", reader.on_source)
    app.add_transform(Anchors)
    app.connect(
        "builder-inited",
        lambda app: app.builder.templates.environment.filters.update(
            without_scripts=without_scripts
        ),
    )
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", foreign)
    app.connect("html-page-context", plain_citations)
    app.connect("html-page-context", mark_chinese)
    app.connect("build-finished", tidy_scripts)
    # What was read with other code, equations or works is read again.
    code = [(HERE / name).read_text(encoding="utf-8") for name in ("course_site.py", "pages.py")]
    state = repr((code, reader.equations, reader.works))
    return {
        "env_version": zlib.crc32(state.encode()),
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }
