"""The web site as files: complete, in itself whole, and true to the notebooks."""

import importlib.util
import json
import posixpath
import re
import shutil
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from course_lib import assignments, notebooks
from course_lib.recipes.pretrained import cards

ROOT = Path(__file__).parents[2]
SITE = ROOT / "notebooks" / "site"
LECTURES = notebooks.lecture_paths(ROOT)
EXERCISES = sorted((ROOT / "notebooks" / "exercises").glob("*.ipynb"))
TAG = re.compile(r"\\tag\{((?:def )?\d+\.\d+[a-z]?)\}")


LOADING = ("script", "img", "iframe", "source", "embed")


class Page(HTMLParser):
    """What a page names, loads, links to and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.alternatives: list[str | None] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids[found["id"]] += 1
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon", "shortcut icon"):
            self.loads.append(found["href"])
        if tag in LOADING and found.get("src"):
            self.loads.append(found["src"])
        if tag == "img":
            self.alternatives.append(found.get("alt"))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def pages(built_site) -> dict[str, Page]:
    """Every page by its place on the site."""
    return {
        path.relative_to(built_site).as_posix(): Page(path.read_text(encoding="utf-8"))
        for path in sorted(built_site.rglob("*.html"))
        if "_static" not in path.parts
    }


@pytest.fixture(scope="module")
def extension():
    """The module that the site adds to Sphinx."""
    pytest.importorskip("sphinx")
    before = list(sys.path)
    sys.path.insert(0, str(SITE))
    try:
        spec = importlib.util.spec_from_file_location("course_site", SITE / "course_site.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def place(page: str, target: str) -> str:
    """Where a relative address leads to from a page."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(target)))


def outside(address: str) -> bool:
    """Whether an address names a host."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https", "mailto")


# ---------------------------------------------------------------------------- the build


def test_the_site_builds_without_a_network_and_without_a_warning(built_site):
    said = (built_site.parent / "log.txt").read_text(encoding="utf-8")
    assert "built in" in said
    assert not re.search(r"WARNING|ERROR", said), said[-2000:]


def test_every_lecture_exercise_and_page_is_there(pages):
    wanted = {f"{path.stem}.html" for path in LECTURES}
    wanted |= {f"exercises/{path.stem}.html" for path in EXERCISES}
    wanted |= {f"site/{name}.html" for name in ("exercises", "results", "errata", "glossary")}
    wanted |= {"index.html", "README.html", "site/bibliography.html", "search.html"}
    wanted |= {"data/README.html", "solutions/README.html", "site/api/index.html"}
    packages = [p.parent.name for p in (ROOT / "course_lib").glob("*/__init__.py")]
    wanted |= {f"site/api/course_lib.{name}.html" for name in packages}
    assert len(LECTURES) > 1 and len(EXERCISES) > 1 and len(packages) > 1
    assert wanted <= pages.keys(), sorted(wanted - pages.keys())


def test_a_link_to_nowhere_stops_the_build_and_a_link_to_somewhere_does_not(
    built_site, site_builder, tmp_path
):
    shutil.copytree(built_site, tmp_path / "site")
    extra = tmp_path / "extra" / "site"
    extra.mkdir(parents=True)
    texts = {
        "whole": "[x](../04_gan_minimax.ipynb#eq-4.3) and (4.3), [y](../solutions/README.md)",
        "cell": "[x](../04_gan_minimax.ipynb#cell-nowhere)",
        "equation": "[x](../04_gan_minimax.ipynb#eq-4.999)",
        "file": "[x](nowhere.md)",
        "work": "[x](bibliography.md#cite-nobody)",
    }
    for name, text in texts.items():
        page = f"---\norphan: true\n---\n# Made up\n\n{text}\n"
        (extra / f"made_up_{name}.md").write_text(page, encoding="utf-8")
    # Only the new pages are read; the next build of the same work folder forgets them.
    options = ["--extra", str(tmp_path / "extra")]
    done = site_builder(tmp_path / "site", built_site.parent / "work", *options)
    warned = re.findall(r"made_up_(\w+)\.md:\d+: WARNING: (.+)", done.stdout)
    assert done.returncode == 1
    assert {name for name, _ in warned} == {"cell", "equation", "file", "work"}, done.stdout[-2000:]
    said = dict(warned)
    assert "cell-nowhere" in said["cell"] and "eq-4.999" in said["equation"]
    assert "nowhere.md" in said["file"] and "cite-nobody" in said["work"]
    whole = tmp_path / "site" / "site" / "made_up_whole.html"
    links = Page(whole.read_text(encoding="utf-8")).links
    assert links.count("../04_gan_minimax.html#eq-4.3") == 2
    assert "../solutions/README.html" in links


# ---------------------------------------------------------------------------- links


def test_every_internal_link_and_anchor_resolves(built_site, pages):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            if outside(link) or link == "#":
                continue
            target, _, fragment = link.partition("#")
            to = place(name, target.partition("?")[0]) if target else name
            if to in pages:
                if fragment and unquote(fragment) not in pages[to].ids:
                    broken.append(f"{name}: {link}")
            elif not (built_site / to).is_file():
                broken.append(f"{name}: {link}")
    assert not broken


def test_every_page_is_reached_from_the_front_page(pages):
    seen, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in pages:
            continue
        seen.add(name)
        links = (link.partition("#")[0] for link in pages[name].links if not outside(link))
        waiting += [place(name, link) for link in links if link]
    # The field of the search leads to its page, and the index of names to its own.
    assert pages.keys() - seen <= {"search.html", "genindex.html", "py-modindex.html"}


def test_a_link_to_the_repository_names_a_file_that_it_has(pages):
    address = notebooks.Address.of(ROOT)
    pattern = re.compile(rf"{re.escape(address.url)}/(?:blob|tree)/{address.branch}/([^#]+)")
    named = {
        match[1] for page in pages.values() for match in map(pattern.match, page.links) if match
    }
    assert named
    assert not [path for path in named if not (ROOT / unquote(path)).exists()]


def test_no_anchor_stands_twice_on_a_page(pages):
    twice = {n: [i for i, k in page.ids.items() if k > 1] for n, page in pages.items()}
    assert not {name: ids for name, ids in twice.items() if ids}


# ---------------------------------------------------------------------------- from this host alone


def test_no_page_loads_anything_from_another_host(built_site, pages):
    loaded = [(n, u) for n, p in pages.items() for u in p.loads if outside(u) or u.startswith("//")]
    assert not loaded
    for name, page in pages.items():
        for url in page.loads:
            if not url.startswith("data:"):
                assert (built_site / place(name, url.partition("?")[0])).is_file(), (name, url)


def test_no_style_sheet_loads_anything_from_another_host(built_site):
    sheets = list(built_site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        text = sheet.read_text(encoding="utf-8")
        urls = re.findall(r"url\(\s*['\"]?([^'\")]+)", text) + re.findall(
            r"@import\s+['\"]([^'\"]+)", text
        )
        assert not [u for u in urls if outside(u) or u.startswith("//")], sheet.name


def test_mathjax_finds_each_of_its_fonts_on_the_site(built_site):
    folder = built_site / "_static" / "mathjax"
    script = (folder / "tex-chtml.js").read_text(encoding="utf-8")
    fonts = set(re.findall(r"%%URL%%/(MathJax_[\w-]+\.woff)", script))
    assert len(fonts) > 10
    assert not [f for f in fonts if not (folder / "output/chtml/fonts/woff-v2" / f).is_file()]


def test_the_front_page_is_light(built_site, pages):
    page = pages["index.html"]
    files = {built_site / place("index.html", u.partition("?")[0]) for u in page.loads}
    for sheet in [f for f in files if f.suffix == ".css"]:
        for url in re.findall(r"url\(([^)]+?\.woff2)\)", sheet.read_text(encoding="utf-8")):
            files.add((sheet.parent / url).resolve())
    files.add(built_site / "index.html")
    assert sum(f.stat().st_size for f in files) < 1_000_000


# ---------------------------------------------------------------------------- true to the notebooks


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_every_equation_is_an_anchor_of_its_page_once(path, pages):
    cells = notebooks.read_notebook(path)["cells"]
    text = "\n".join(notebooks.source(c) for c in cells if c["cell_type"] == "markdown")
    wanted = {f"eq-{number.replace(' ', '-')}" for number in TAG.findall(text)}
    ids = pages[f"{path.stem}.html"].ids
    assert wanted and {i for i in ids if i.startswith("eq-")} == wanted
    assert all(ids[i] == 1 for i in wanted)


@pytest.mark.parametrize(
    "path", LECTURES + EXERCISES, ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_code_cell_is_an_anchor_and_the_download_is_the_committed_file(
    path, built_site, pages
):
    name = path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()
    page = pages[f"{name}.html"]
    cells = [c for c in notebooks.read_notebook(path)["cells"] if c["cell_type"] == "code"]
    assert cells
    assert not [c["id"] for c in cells if page.ids[f"cell-{c['id']}"] != 1]
    link = posixpath.relpath(f"_sources/{name}.ipynb", posixpath.dirname(name) or ".")
    assert link in page.links
    assert (built_site / "_sources" / f"{name}.ipynb").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)
def test_every_stored_picture_is_shown(path, built_site):
    cells = notebooks.read_notebook(path)["cells"]
    kinds = [k for c in cells for o in c.get("outputs", []) for k in o.get("data", {})]
    text = (built_site / f"{path.stem}.html").read_text(encoding="utf-8")
    article = text[text.index("<article") :]
    assert len(re.findall("<img ", article)) == sum(kind.startswith("image/") for kind in kinds) > 0


def test_every_picture_has_an_alternative_text(pages):
    missing = [name for name, page in pages.items() if not all(page.alternatives)]
    assert sum(len(page.alternatives) for page in pages.values()) > 100
    assert not missing


def test_launch_and_repository_buttons_lead_to_the_notebook(pages):
    address = notebooks.Address.of(ROOT)
    for path in LECTURES + EXERCISES:
        inside = path.relative_to(ROOT).as_posix()
        page = pages[path.relative_to(ROOT / "notebooks").with_suffix(".html").as_posix()]
        colab = f"https://colab.research.google.com/github/{address.slug}/blob/{address.branch}/{inside}"
        assert colab in page.links
        assert address.url in page.links


def test_every_exercise_stands_on_the_page_of_the_exercises(pages):
    page = pages["site/exercises.html"]
    text = " ".join("".join(page.text).split())
    entries = 0
    for path in assignments.sources(ROOT):
        for entry in assignments.entries(notebooks.read_notebook(path)):
            entries += 1
            assert f"../exercises/{path.stem}.html#exercise-{entry.number}" in page.links
            assert entry.difficulty in text
    assert f"{entries} exercises" in text


def test_the_results_page_shows_every_card(pages):
    links = pages["site/results.html"].links
    found = cards(ROOT / "data" / "results")
    assert found
    assert not [
        p.name for p in found if not any(u.endswith(f"data/results/{p.name}") for u in links)
    ]


def test_the_bibliography_has_every_entry(pages):
    keys = re.findall(
        r"^@\w+\{([^,\s]+),", (SITE / "references.bib").read_text(encoding="utf-8"), re.M
    )
    ids = [i for i in pages["site/bibliography.html"].ids if i.startswith("cite-")]
    assert len(ids) == len(keys) > 0


def test_no_solution_and_no_hidden_test_is_on_the_site(built_site):
    files = [p for p in built_site.rglob("*") if p.suffix in (".html", ".ipynb", ".js", ".txt")]
    guide = built_site / "solutions" / "README.html"  # which explains the marks
    for path in files:
        text = path.read_text(encoding="utf-8")
        marked = "BEGIN SOLUTION" in text or "BEGIN HIDDEN TESTS" in text
        assert not marked or path in (guide, built_site / "searchindex.js"), path.name


def test_no_page_waits_for_a_widget_and_none_shows_raw_maths(pages):
    for name, page in pages.items():
        text = "".join(page.text)
        assert "Loading widget" not in text and "interactive(children" not in text, name
        if name.startswith("site/api/"):
            continue  # the docstrings there write about \\tag
        prose = re.sub(r"\\\[.*?\\\]|\\\(.*?\\\)", "", text, flags=re.S)
        assert r"\tag{" not in prose, name


# ---------------------------------------------------------------------------- references


def test_a_reference_in_an_exercise_leads_to_the_equation_of_its_lecture(pages):
    assert "../04_gan_minimax.html#eq-4.3" in pages["exercises/04_gan_minimax.html"].links


def test_a_reference_to_another_lecture_leads_to_its_page(pages):
    assert "../12_elbo.html#eq-12.14" in pages["exercises/00_article.html"].links


def test_the_numbers_in_the_summary_of_a_lecture_are_links(built_site):
    text = (built_site / "04_gan_minimax.html").read_text(encoding="utf-8")
    assert re.search(r'href="#eq-4\.25"><span[^>]*>4\.25</span>', text)


def test_an_arxiv_number_in_a_lecture_leads_to_its_entry(pages, extension):
    keys = extension.works(ROOT)
    assert "1312.6114" in keys
    link = f"site/bibliography.html#{extension.cited(keys['1312.6114'])}"
    assert link in pages["12_elbo.html"].links


@pytest.mark.parametrize(
    "text, expected",
    [
        ("By (4.3) it is so.", "By [(4.3)](u#eq-4.3) it is so."),
        ("`(4.3)` and $f(4.3)$", "`(4.3)` and $f(4.3)$"),
        ("``a ` (4.3)``", "``a ` (4.3)``"),
        ("$$\nx (4.3) \\tag{4.3}\n$$\n(4.3)", "$$\nx (4.3) \\tag{4.3}\n$$\n[(4.3)](u#eq-4.3)"),
        ("```\n(4.3)\n```\n(4.3)", "```\n(4.3)\n```\n[(4.3)](u#eq-4.3)"),
        ("[see (4.3)](there.md)", "[see (4.3)](here.md)"),
        ("costs 5\\$ (4.3) or 6\\$", "costs 5\\$ [(4.3)](u#eq-4.3) or 6\\$"),
        ('<a title="(4.3)">', '<a title="(4.3)">'),
        ("![(4.3)](there.md)", "![(4.3)](here.md)"),
    ],
)
def test_prose_is_linked_and_code_and_maths_are_not(extension, text, expected):
    def prose(part):
        return extension.REFERENCE.sub(lambda m: f"[{m[0]}](u#{extension.anchor(m[1])})", part)

    found = extension.rewritten(text, prose, lambda target: "here.md")
    assert found == expected


def test_anchors_of_claims_and_definitions_differ(extension):
    assert extension.anchor("4.2") == "eq-4.2"
    assert extension.anchor("def 4.2") == "eq-def-4.2"


# ---------------------------------------------------------------------------- the map


def test_the_map_shows_every_lecture_once_below_what_it_needs(extension):
    made = extension.pages
    found = made.lectures(ROOT)
    needs = made.reduced({lecture.number: lecture.needs for lecture in found})
    rows = made.layers(needs)
    row_of = {name: i for i, row in enumerate(rows) for name in row}
    numbers = [name for row in rows for name in row if ">" not in name]
    assert sorted(numbers) == sorted(path.name[:2] for path in LECTURES)
    assert all(row_of[need] < row_of[number] for number in needs for need in needs[number])


def test_the_map_leaves_out_needs_that_follow_and_bridges_rows(extension):
    made = extension.pages
    needs = made.reduced(
        {"01": (), "02": ("01",), "03": ("01", "02"), "04": (), "05": ("03", "04")}
    )
    assert needs == {"01": [], "02": ["01"], "03": ["02"], "04": [], "05": ["03", "04"]}
    rows = made.layers(needs)
    assert [len(row) for row in rows] == [2, 2, 2, 1]
    assert "04>05" in rows[1] and "04>05" in rows[2]
    assert set(made.parents("05", needs, rows[2])) == {"03", "04>05"}


def test_a_lecture_that_the_table_lacks_is_named(extension, tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "README.md").write_text("# The map\n", encoding="utf-8")
    (folder / "01_coins.ipynb").write_text(json.dumps({"cells": [], "metadata": {}}))
    with pytest.raises(ValueError, match="01_coins"):
        extension.pages.lectures(tmp_path)


def test_chinese_words_say_that_they_are_chinese_and_code_is_left_alone(extension):
    marked = extension.with_chinese_marked(
        '<p title="x">隐编码 z</p><pre>x = "噪声"</pre><i>反卷积</i>'
    )
    assert marked == (
        '<p title="x"><span lang="zh-Hans">隐编码</span> z</p><pre>x = "噪声"</pre>'
        '<i><span lang="zh-Hans">反卷积</span></i>'
    )


def test_a_theme_that_loads_other_scripts_is_noticed(extension):
    markup = '<script src="_static/a.js?v=1"></script><script defer src="b.js"></script>'
    assert extension.without_scripts(markup, "a.js") == '<script defer src="b.js"></script>'
    with pytest.raises(ValueError, match=r"c\.js"):
        extension.without_scripts(markup, "c.js")
