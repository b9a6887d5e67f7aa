"""The pages that are written by hand: what bibliography, errata and glossary point to is there."""

import functools
import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from course_lib.notebooks import lecture_paths, read_notebook, source

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
SITE = NOTEBOOKS / "site"
PAGES = {name: (SITE / name).read_text(encoding="utf-8") for name in ("errata.md", "glossary.md")}

LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
ARXIV = re.compile(r"(?<=arXiv:)\d{4}\.\d{4,5}\b")
# Numbers that the article prints and that belong to other works: shown as mistakes.
PRINTED_WRONGLY = {"1505.00654", "1511.06355", "1511.06453"}


# ---------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Place:
    """What an anchor names: its kind (cell, equation, heading) and the text that stands there."""

    kind: str
    text: str
    cell: dict[str, Any] | None = None


def shown(cell: dict[str, Any]) -> str:
    """Source of a code cell with the text of its outputs."""
    parts = [source(cell)]
    for output in cell.get("outputs", []):
        parts.append("".join(output.get("text", "")))
        parts.append("".join(output.get("data", {}).get("text/plain", "")))
    return "\n".join(parts)


def slug(title: str) -> str:
    """The anchor of a heading on GitHub and on the site."""
    plain = re.sub(r"[`*]", "", title).strip().lower().replace(" ", "-")
    return re.sub(r"[^\w\- ]", "", plain)


@functools.cache
def parts_of(file: Path) -> list[dict[str, Any]]:
    """The cells of a notebook, or a page as one cell of Markdown."""
    if file.suffix == ".ipynb":
        return read_notebook(file)["cells"]
    return [{"cell_type": "markdown", "id": "", "source": file.read_text(encoding="utf-8")}]


@functools.cache
def places(file: Path) -> dict[str, Place]:
    """Every anchor of a notebook or page.

    The place of an equation is its cell; that of a heading goes on to the next heading.
    """
    found: dict[str, Place] = {}

    def put(anchor: str, place: Place) -> None:
        assert anchor not in found, f"{file.name} has the anchor {anchor} twice"
        found[anchor] = place

    sections: list[tuple[str, list[str]]] = []
    for cell in parts_of(file):
        if cell["cell_type"] == "code":
            put(f"cell-{cell['id']}", Place("cell", shown(cell), cell))
            if sections:
                sections[-1][1].append(shown(cell))
            continue
        text = source(cell)
        for number in re.findall(r"\\tag\{((?:def )?[\d.]+[a-z]?)\}", text):
            put(f"eq-{number.replace(' ', '-')}", Place("equation", text))
        for line in text.splitlines():
            if heading := re.match(r"#{1,4} (.+)", line):
                sections.append((heading[1], []))
            if sections:
                sections[-1][1].append(line)
    for title, lines in sections:
        place = Place("heading", "\n".join(lines))
        if slug(title) not in found:  # of two headings with one title the first keeps the anchor
            put(slug(title), place)
        if exercise := re.match(r"(\d+\.\d+) · ", title):
            put(f"exercise-{exercise[1]}", place)
    return found


def place_of(target: str) -> Place:
    """Where a link of a page leads.

    Raises:
        KeyError: the file has no such anchor.
        FileNotFoundError: there is no such file.
    """
    name, _, anchor = target.partition("#")
    file = (SITE / name).resolve()
    if not file.is_file():
        raise FileNotFoundError(f"{target}: there is no file {name}")
    if not anchor:
        return Place("file", "")
    try:
        return places(file)[anchor]
    except KeyError:
        raise KeyError(f"{target}: {file.name} has no anchor {anchor}") from None


def links(text: str) -> list[str]:
    """Targets of the links of a page, without those to other hosts."""
    return [t for _, t in LINK.findall(text) if not re.match(r"[a-z]+:", t)]


def rows(text: str) -> list[list[str]]:
    """Rows of all tables, without the heads; a cell may hold an escaped bar."""
    found, head = [], True
    for line in text.splitlines():
        if not line.startswith("|"):
            head = True
        elif set(line) <= set("|-: "):
            head = False
        elif not head:
            cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
            found.append([c.strip().replace(r"\|", "|") for c in cells])
    return found


def plain(text: str) -> str:
    """Lower case, one kind of space and of dash."""
    return " ".join(re.sub(r"[-–—_]", " ", text.lower()).split())


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    assert len(links(PAGES[page])) > 40
    for target in links(PAGES[page]):
        if target.startswith("errata.md") or target.startswith("glossary.md"):
            name, _, anchor = target.partition("#")
            assert anchor in places(SITE / name), f"{target}: no such heading"
        else:
            place_of(target)


def test_a_link_to_nowhere_is_noticed():
    with pytest.raises(KeyError, match=r"no anchor eq-4\.999"):
        place_of("../04_gan_minimax.ipynb#eq-4.999")
    with pytest.raises(KeyError, match="no anchor cell-x"):
        place_of("../04_gan_minimax.ipynb#cell-x")
    with pytest.raises(FileNotFoundError, match=r"no file \.\./99\.ipynb"):
        place_of("../99.ipynb#eq-4.1")


@pytest.mark.parametrize("page", PAGES)
def test_the_headings_of_a_page_go_down_one_level_at_a_time(page):
    levels = [len(h) for h in re.findall(r"^(#+) ", PAGES[page], re.M)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("page", PAGES)
def test_every_table_has_a_head_and_rows_of_its_width(page):
    for table in re.findall(r"(?:^\|.*\n)+", PAGES[page], re.M):
        lines = table.splitlines()
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, f"rows of unequal width below {lines[0]}"
        assert set(lines[1]) <= set("|- "), f"no head: {lines[0]}"
        assert all(cell.strip() for cell in lines[0].split("|")[1:-1]), (
            f"a nameless column: {lines[0]}"
        )


# ---------------------------------------------------------------------------- errata


def errata() -> list[list[str]]:
    """Errata with a cell: number, what the article says, what is true, what shows it."""
    return [row for row in rows(PAGES["errata.md"]) if re.fullmatch(r"[A-D]\d+", row[0])]


def test_the_errata_are_numbered_without_a_gap():
    numbers = [row[0] for row in errata()]
    for letter in "ABCD":
        mine = [n for n in numbers if n[0] == letter]
        assert mine == [f"{letter}{i + 1}" for i in range(len(mine))] and len(mine) > 5


@pytest.mark.parametrize("row", errata(), ids=lambda row: row[0])
def test_an_erratum_is_shown_by_a_cell_that_says_the_quoted_words(row):
    shows = LINK.findall(row[3])
    cells = [target for _, target in shows if "#cell-" in target]
    assert cells, f"{row[0]} links to no cell"
    for target in cells:
        place = place_of(target)
        ran = place.cell["outputs"] or re.search(r"^check\.\w+\(", source(place.cell), re.M)
        assert ran, f"{row[0]}: {target} shows nothing"
        quote = re.search(re.escape(f"]({target})") + r": `([^`]+)`", row[3])
        assert quote, f"{row[0]}: say after the link to {target} what to look for there"
        assert plain(quote[1]) in plain(place.text), f"{row[0]}: {target} does not say {quote[1]!r}"
    for _, target in shows:
        assert "#cell-" in target or "#exercise-" in target, f"{row[0]}: {target} is no cell"


def numbers_in(text: str) -> set[str]:
    """Numbers of two digits and more, as digits alone; not those of equations."""
    text = re.sub(r"\((?:def )?\d+\.\d+[a-z]?\)|p_?\{?\w+\}?|\d+ × ", " ", text)
    text = text.replace("{,}", "").replace(r"\%", "%")
    found = re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    return {n.replace(",", "").rstrip(".") for n in found if len(re.sub(r"\D", "", n)) > 1}


@pytest.mark.parametrize("row", errata(), ids=lambda row: row[0])
def test_every_number_of_an_erratum_stands_in_a_cell_that_it_links_to(row):
    said = numbers_in(row[2])
    there: set[str] = set()
    for _, target in LINK.findall(row[3]):
        place = place_of(target)
        around = place.text
        if place.cell is not None:
            file = (SITE / target.partition("#")[0]).resolve()
            cells = parts_of(file)
            index = next(i for i, cell in enumerate(cells) if cell["id"] == place.cell["id"])
            # The derivation stands in the text before the cell.
            around += "\n".join(source(cell) for cell in cells[max(0, index - 1) : index + 2])
        there |= numbers_in(around)
    assert said <= there, f"{row[0]}: nothing linked says {', '.join(sorted(said - there))}"


def folded() -> str:
    """The folded table of the article's references."""
    match = re.search(r"<details>(.*?)</details>", PAGES["errata.md"], re.S)
    assert match
    return match[1]


def test_the_answer_to_exercise_0_6_is_folded_behind_a_word_of_warning():
    before = PAGES["errata.md"].partition("<details>")[0].splitlines()
    last = " ".join(before[-6:])
    assert "exercise-0.6" in last and "try first" in last
    assert "arXiv" not in "".join(before)
    assert "<summary>" in folded()


def test_the_thirty_references_of_the_article_are_all_accounted_for():
    table = rows(folded())
    numbers = [int(n) for row in table for n in row[0].split(", ")]
    assert sorted(numbers) == list(range(1, 31))
    assert len(table) == 14
    assert [row[0] for row in table if row[3] == "nothing"] == ["15, 28"]


def test_what_the_folded_table_says_was_printed_is_what_the_exercise_prints():
    cells = read_notebook(NOTEBOOKS / "exercises" / "00_article.ipynb")["cells"]
    printed: dict[str, Any] = {}
    code = next(source(c) for c in cells if source(c).startswith("PRINTED = {"))
    exec(code.partition("\nfor ")[0], printed)
    for row in rows(folded()):
        number = int(row[0].split(",")[0])
        if number == 9:  # the exercise takes it as its example
            continue
        entry = printed["PRINTED"][number]
        surname, title = re.match(r"([\w-]+)", row[1])[1], re.search(r"\*(.+?)\*", row[1])[1]
        assert entry.startswith(surname) and title in entry, f"{number}: {entry}"
        said = re.search(r" (\d{4}),", row[1])[1]
        assert said in entry, f"{number}: printed in another year"


def test_what_truly_exists_is_in_the_bibliography_word_for_word():
    by_title = {name(title_of(e)): e for e in entries().values()}
    for row in rows(folded()):
        if row[2] == "the same":
            row[2] = row[1]
        for title in re.findall(r"\*(.+?)\*", row[2]):
            assert name(title) in by_title, f"{row[0]}: {title}"
        for number in ARXIV.findall(row[2]):
            entry = next((e for e in entries().values() if e.fields.get("eprint") == number), None)
            assert entry, f"{row[0]}: arXiv:{number} is not in the bibliography"
            for surname in surnames(entry):
                assert surname in row[2], f"{row[0]}: {surname} wrote arXiv:{number} too"


def test_what_is_not_shown_yet_links_to_no_cell():
    text = PAGES["errata.md"].partition("## Not shown yet")[2]
    assert text.count("\n- ") >= 3
    assert not [target for target in links(text) if "#cell-" in target or "#eq-" in target]


# ---------------------------------------------------------------------------- glossary

# What README.md of the notebooks calls the vocabulary, with the conventions that go with it.
CONTRACT = {
    "x", "z", "x_hat", "mu", "log_var", "logits", "generator", "discriminator", "critic",
    "encoder", "decoder", "elbo", "nat", "bits per dimension", "kl divergence", "likelihood",
    "reduction", "seed", "event", "random variable", "transposed convolution",
}  # fmt: skip


def terms() -> list[list[str]]:
    """Rows of the glossary: term, Chinese, meaning, where it is introduced."""
    return rows(PAGES["glossary.md"].partition("## A\n")[2])


# Where a lecture introduces a term by a shorter or another word than its name.
OTHER_WORDS = {
    "active unit": ["active"],
    "amortised inference": ["amortised"],
    "Box–Muller transform": ["Box–Muller"],
    "implicit model": ["implicit"],
    "R1 penalty": ["penalty on the slope at the data, R1"],
    "ring all-reduce": ["the ring"],
}


def forms(term: str) -> list[str]:
    """The ways to write a term: before a bracket, and those in it."""
    base, _, others = term.partition(" (")
    return [base, *(form for form in others.rstrip(")").split(", ") if form)]


def test_the_glossary_is_alphabetical_and_says_nothing_twice():
    def key(row):
        text = unicodedata.normalize("NFD", row[0].lower())
        return re.sub(r"[^a-z0-9 ()]", "", re.sub(r"[-–]", " ", text))

    keys = [key(row) for row in terms()]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys) and len(keys) >= 90
    for letter, part in re.findall(
        r"^## ([A-Z])\n(.*?)(?=^## |\Z)", PAGES["glossary.md"], re.M | re.S
    ):
        assert all(key(row)[0] == letter.lower() for row in rows(part)), letter


def test_the_vocabulary_of_the_course_is_all_there():
    words = {form.lower() for row in terms() for form in forms(row[0])}
    words |= {w for row in rows(PAGES["glossary.md"]) for w in re.findall(r"`(\w+)`", row[0])}
    assert CONTRACT <= words
    vocabulary = places(NOTEBOOKS / "README.md")["vocabulary"].text
    assert set(re.findall(r"`(\w+)`", vocabulary)) <= words


@pytest.mark.parametrize("row", terms(), ids=lambda row: row[0])
def test_a_term_stands_where_the_glossary_says_it_is_introduced(row):
    (target,) = links(row[3])
    text = plain(re.sub(r"[`*\\]", "", place_of(target).text))
    wanted = [plain(form) for form in OTHER_WORDS.get(row[0], forms(row[0]))]
    assert any(re.search(rf"\b{re.escape(form)}(e?s|\b)", text) for form in wanted), target


@pytest.mark.parametrize(
    "row", rows(PAGES["glossary.md"].partition("## A\n")[0]), ids=lambda row: row[0]
)
def test_a_symbol_stands_where_the_glossary_says_it_is_introduced(row):
    (target,) = links(row[3])
    text = re.sub(r"\s|\\[,;]|_\\\w+", "", place_of(target).text)
    symbols = re.findall(r"`([^`]+)`|\$([^$]+)\$", row[0])
    assert any((code or maths).replace(" ", "") in text for code, maths in symbols), target


def test_a_link_to_a_section_bears_its_title():
    titled = 0
    for row in terms():
        (text, target), *_ = LINK.findall(row[3])
        place = place_of(target)
        if place.kind == "heading" and "README" not in target:
            lecture = re.search(r"/(\d\d)_", target)[1]
            title = re.sub(r"^#+ ([\d.]+ (· )?)?", "", place.text.splitlines()[0])
            assert text == f"lecture {lecture}, {title}", row[0]
            titled += 1
    assert titled > 10


def test_every_term_has_a_chinese_one_and_one_sentence():
    for term, chinese, meaning, _ in rows(PAGES["glossary.md"]):
        known_by_name = term in ("Dirac-GAN",)
        assert known_by_name or re.search(r"[\u4e00-\u9fff]", chinese), term
        assert meaning.endswith((".", '".')) and "!" not in meaning, term
        assert len(meaning) < 240, f"{term}: more than a sentence"


def test_words_of_the_article_are_marked_where_they_are_not_the_usual_ones():
    chinese = {row[0]: row[1] for row in terms()}
    assert "反卷积" in chinese["transposed convolution"]
    assert "文中" in chinese["transposed convolution"]
    assert "卷积自连接层" in PAGES["glossary.md"].partition("## Symbols")[0]


# ---------------------------------------------------------------------------- bibliography


@functools.cache
def entries() -> dict[str, Any]:
    """The entries of references.bib by key."""
    pybtex = pytest.importorskip("pybtex.database", reason="the bibliography is read by pybtex")
    return dict(pybtex.parse_file(SITE / "references.bib").entries)


def title_of(entry: Any) -> str:
    return entry.fields["title"].strip("{}")


def surnames(entry: Any) -> list[str]:
    return [" ".join(p.prelast_names + p.last_names) for p in entry.persons["author"]]


def without_accents(text: str) -> str:
    bare = unicodedata.normalize("NFD", text.replace("ı", "i"))
    return "".join(c for c in bare if not unicodedata.combining(c))


def name(text: str) -> str:
    """Letters and digits alone, without accents, in lower case: to compare names and titles."""
    return re.sub(r"[^a-z0-9]", "", without_accents(text).lower())


def years(entry: Any) -> set[str]:
    """The year of the proceedings and that of arXiv."""
    eprint = entry.fields.get("eprint", "")
    return {entry.fields["year"]} | ({f"20{eprint[:2]}"} if eprint else set())


@functools.cache
def corpus() -> dict[str, str]:
    """What may cite: lectures, exercises, docstrings, guides and pages."""
    found = {}
    for path in [*lecture_paths(ROOT), *sorted((NOTEBOOKS / "exercises").glob("*.ipynb"))]:
        cells = read_notebook(path)["cells"]
        kept = [source(c) for c in cells if not source(c).startswith("PRINTED = {")]
        found[str(path.relative_to(ROOT))] = "\n\n".join(kept)
    files = [
        *sorted((ROOT / "course_lib").rglob("*.py")),
        *(ROOT / p for p in ("README.md", "data/README.md", "notebooks/README.md")),
        *sorted((ROOT / "data" / "results").glob("*.md")),
        NOTEBOOKS / "solutions" / "README.md",
    ]
    for path in files:
        found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    # Of the errata only what truly exists counts, not what was printed.
    found["errata"] = "\n".join(row[2] for row in rows(folded()))
    return found


def readings() -> list[tuple[str, str]]:
    """(lecture, item) of the lists of further reading: one work each."""
    found = []
    for path in lecture_paths(ROOT):
        text = corpus()[str(path.relative_to(ROOT))]
        _, head, rest = text.partition("Further reading")
        if not head:
            continue
        rest = re.split(r"\n\*?\*?Next|\n\*Next", rest)[0]
        for item in re.split(
            r"\n- | · |; (?=[A-Z])|\. (?=[A-Z][\w-]+[^.*]*\*)|, and (?=[A-Z])", rest
        ):
            if re.search(r"\*[^*]{4,}\*", item):
                found.append((path.stem, " ".join(item.split())))
    return found


def test_every_entry_has_authors_a_title_and_a_year():
    assert len(entries()) > 80
    for key, entry in entries().items():
        assert entry.persons.get("author"), f"{key} has no author"
        assert all(p.last_names for p in entry.persons["author"]), key
        assert "others" not in surnames(entry), f"{key}: name all authors"
        assert len(title_of(entry)) > 5, f"{key} has no title"
        assert re.fullmatch(r"(18|19|20)\d\d", entry.fields["year"]), f"{key}: no year"
        assert not re.search(r"file|abstract|keywords", " ".join(entry.fields.keys())), key


def test_the_keys_are_first_author_year_and_a_word_in_order():
    assert list(entries()) == sorted(entries())
    for key, entry in entries().items():
        start = name(surnames(entry)[0].removeprefix("van den ")) + entry.fields["year"]
        assert re.fullmatch(rf"{start}[a-z]+", key), f"{key} should begin with {start}"


def test_arxiv_numbers_and_dois_are_well_formed_and_stand_once():
    numbers = [e.fields["eprint"] for e in entries().values() if "eprint" in e.fields]
    assert len(set(numbers)) == len(numbers) > 40
    for key, entry in entries().items():
        if "eprint" in entry.fields:
            assert entry.fields.get("archiveprefix") == "arXiv", key
            year, month, serial = re.fullmatch(
                r"(\d\d)(\d\d)\.(\d{4,5})", entry.fields["eprint"]
            ).groups()
            assert 1 <= int(month) <= 12, key
            # arXiv gave four digits until the end of 2014, and five since.
            assert len(serial) == (4 if int(year) < 15 else 5), key
            assert 2000 + int(year) <= int(entry.fields["year"]) or key == "neal2011hamiltonian", (
                key
            )
    dois = [e.fields["doi"] for e in entries().values() if "doi" in e.fields]
    assert len(set(dois)) == len(dois)
    assert all(re.fullmatch(r"10\.\d{4,5}/\S+", doi) for doi in dois)
    assert not PRINTED_WRONGLY & set(numbers)


def test_every_arxiv_number_of_the_course_has_an_entry_with_its_author():
    known = {e.fields["eprint"]: e for e in entries().values() if "eprint" in e.fields}
    cited = 0
    for where, text in corpus().items():
        for match in re.finditer(r"arXiv:? ?(\d{4}\.\d{4,5})", text):
            if match[1] in PRINTED_WRONGLY:
                continue
            assert match[1] in known, f"{where} cites arXiv:{match[1]}"
            around = name(text[max(0, match.start() - 400) : match.start()])
            surname = name(surnames(known[match[1]])[0])
            assert surname in around or "lecture_00" in where, (
                f"{where}: arXiv:{match[1]}, {surname}"
            )
            cited += 1
    assert cited > 60


# Surname et al. 2014 · Surname and Other (2014) · Surname, Other & Third 2014 · (Surname 2014)
NAME = r"[A-Z][\w’'-]+"
TOGETHER = re.compile(
    rf"\b({NAME}(?:(?:, {NAME})*,? (?:and|&) (?:others|{NAME})| et al\.)),? \(?((?:19|20)\d\d)\b"
)
ALONE = re.compile(rf"\(({NAME}) ((?:19|20)\d\d)\)")
TITLES = {"Statistics and Computing", "Information and Sufficiency"}


@functools.cache
def by_author() -> dict[str, set[str]]:
    """Years of the works of each first author."""
    found: dict[str, set[str]] = {}
    for entry in entries().values():
        found.setdefault(name(surnames(entry)[0]), set()).update(years(entry))
    return found


def test_every_author_and_year_of_the_course_has_an_entry():
    cited, missing = 0, []
    for where, text in corpus().items():
        text = " ".join(text.split())
        for people, year in TOGETHER.findall(text) + ALONE.findall(text):
            if any(year in by_author().get(name(who), ()) for who in re.findall(NAME, people)):
                cited += 1
            elif people not in TITLES:
                missing.append(f"{where}: {people} {year}")
    assert not missing, "\n".join(missing)
    assert cited > 90


def test_every_source_of_a_docstring_has_an_entry():
    sources = 0
    for where, text in corpus().items():
        if not where.startswith("course_lib"):
            continue
        for match in re.finditer(r"^[ #]*Sources?(?: of the \w+)?: ", text, re.M):
            paragraph = re.split(r'\n *\n|"""', text[match.end() :], maxsplit=1)[0]
            said = " ".join(paragraph.split())
            people = [name(who) for who in re.findall(NAME, said)]
            dates = re.findall(r"\b(?:19|20)\d\d\b", said)
            if not dates:  # the article, or the documentation of a library
                continue
            known = any(d in by_author().get(who, ()) for who in people for d in dates)
            assert known, f"{where}: {said}"
            sources += 1
    assert sources > 50


def test_every_work_of_the_further_reading_has_an_entry():
    titles = [name(title_of(e)) + name(e.fields.get("note", "")) for e in entries().values()]
    numbers = {e.fields.get("eprint") for e in entries().values()}
    assert len(readings()) > 60
    assert len({lecture for lecture, _ in readings()}) >= 9
    for lecture, item in readings():
        number = re.search(r"arXiv:(\S+?)[.,:;)]*(?:\s|$)", item)
        title = name(re.search(r"\*([^*]{4,})\*", item)[1].replace("$L^2$", "L2"))
        known = any(title in t for t in titles) or (number and number[1] in numbers)
        assert known, f"{lecture}: {item}"


def test_every_entry_is_cited_somewhere():
    text = without_accents("\n".join(" ".join(t.split()) for t in corpus().values()))
    squeezed = name(text)
    for key, entry in entries().items():
        surname = without_accents(surnames(entry)[0].removeprefix("van den "))
        dated = any(
            year in text[match.end() : match.end() + 260]
            for match in re.finditer(re.escape(surname), text)
            for year in years(entry)
        )
        numbered = entry.fields.get("eprint", "–") in text
        assert dated or numbered or name(title_of(entry)) in squeezed, f"nothing cites {key}"
