"""The exercises in JupyterLab, attempted as a student attempts them: wrongly first, then rightly.

What is typed into the cells are answers of the bank (tests/exercises/bank_NN.py) with all that they
need, as source text.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from course_lib.exercises import exercises
from course_lib.notebooks import read_notebook, source

sys.path.insert(0, str(Path(__file__).parent))
from lab import ROOT, LabPage, copy_of_notebooks, lab_server

SETS = sorted(path.stem for path in (ROOT / "notebooks" / "exercises").glob("[0-9]*.ipynb"))


# ---------------------------------------------------------------------------- what is typed


class Bank:
    """The answers of one bank, each as text that stands on its own."""

    def __init__(self, number: str) -> None:
        self.text = (ROOT / "tests" / "exercises" / f"bank_{number}.py").read_text()
        self.order = [n for n in ast.parse(self.text).body if getattr(n, "module", "") != "answers"]
        self.parts: dict[str, ast.stmt] = {}
        for node in self.order:
            self.parts |= dict.fromkeys(_names_defined(node), node)
        calls = self.parts.pop("BANK").value
        self.answers = {key.value: call for key, call in zip(calls.keys, calls.values, strict=True)}

    def first(self, name: str, kind: str) -> tuple[str, str]:
        """The first answer to an exercise that is ``right`` or ``wrong``: its key, and its text.

        A wrong one is the first that the exercise itself knows.
        """
        entries = next(k.value for k in self.answers[name].keywords if k.arg == kind)
        for key, node in zip(entries.keys, entries.values, strict=True):
            if kind == "right" or key.value in exercises()[name].hints:
                return key.value, self._standing_alone(name, node)
        raise ValueError(f"{name} has no {kind} answer")

    def _standing_alone(self, name: str, answer: ast.expr) -> str:
        needed, left = set(), [answer]
        while left:
            names = {n.id for n in ast.walk(left.pop()) if isinstance(n, ast.Name)}
            found = (names & self.parts.keys()) - needed
            needed |= found
            left += [self.parts[n] for n in found]
        before = [n for n in self.order if any(self.parts[m] is n for m in needed)]
        pieces = [*map(self._text, before), f"{name} = ({self._text(answer)})"]
        return "\n\n".join(pieces)

    def _text(self, node: ast.AST) -> str:
        above = [f"@{self._text(d)}" for d in getattr(node, "decorator_list", [])]
        return "\n".join([*above, ast.get_source_segment(self.text, node) or ""])


def _names_defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(a.asname or a.name).split(".")[0] for a in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


# ---------------------------------------------------------------------------- the window


@dataclass
class Sheet:
    """A set of exercises that is open in JupyterLab and was run untouched."""

    lab: LabPage
    stem: str
    theme: str

    @property
    def path(self) -> str:
        return f"notebooks/exercises/{self.stem}.ipynb"

    @property
    def names(self) -> list[str]:
        """The exercises of the set, in order."""
        return [n for n, e in exercises().items() if e.lecture == self.stem]

    def cell(self, name: str, part: str) -> Any:
        """The ``text``, ``answer`` or ``check`` cell of an exercise."""
        return self.lab.goto_cell(self.path, f"{name.replace('_', '-')}-{part}")

    def verdict(self, name: str) -> str:
        """What the check of an exercise says as it is seen, in one line."""
        said = self.cell(name, "check").locator(".jp-OutputArea-output")
        # What has just been scrolled to is painted a moment later, and has no text until then.
        self.lab.page.wait_for_function("e => e.innerText.trim() !== ''", arg=said.element_handle())
        return " ".join(said.inner_text().split())

    def attempt(self, name: str, text: str) -> str:
        """Replace an answer, run its cell and the check below it; returns the verdict."""
        answer, check = self.cell(name, "answer"), self.cell(name, "check")
        editor = answer.locator(".cm-content")
        editor.click()
        self.lab.page.keyboard.press("Control+A")
        self.lab.page.keyboard.insert_text(text)
        before = check.locator(".jp-InputPrompt").inner_text()
        self.lab.page.keyboard.press("Shift+Enter")
        self.lab.page.keyboard.press("Shift+Enter")
        self.lab.page.wait_for_function(
            """([cell, before]) => {
                const now = cell.querySelector(".jp-InputPrompt").innerText;
                return now !== before && /\\d/.test(now);
            }""",
            arg=[check.element_handle(), before],
        )
        return self.verdict(name)

    def whole_picture(self, folder: Path) -> None:
        """A screenshot of the whole set, as in a window that is high enough."""
        outer, page = f"{self.lab.PANEL} .jp-WindowedPanel-outer", self.lab.page
        height = page.evaluate("outer => document.querySelector(outer).scrollHeight", outer)
        usual = page.viewport_size
        page.set_viewport_size({"width": usual["width"], "height": height + 150})
        page.evaluate("outer => document.querySelector(outer).scrollTo(0, 0)", outer)
        page.wait_for_timeout(500)
        page.screenshot(path=folder / f"{self.stem}_whole.png")
        page.set_viewport_size(usual)

    def picture(self, name: str, what: str, folder: Path) -> None:
        """A screenshot of the window with the check of an exercise in the middle."""
        self.cell(name, "check").evaluate("cell => cell.scrollIntoView({block: 'center'})")
        self.lab.page.screenshot(path=folder / f"{self.stem}_{what}.png")


@pytest.fixture(scope="module")
def window(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabPage]:
    root = copy_of_notebooks(tmp_path_factory.mktemp("exercises"))
    with lab_server(root) as server:
        lab = LabPage(chromium, server, root)
        yield lab
        lab.close()


@pytest.fixture(scope="module", params=SETS)
def sheet(request: pytest.FixtureRequest, window: LabPage) -> Iterator[Sheet]:
    """Each set, opened from the file browser and run untouched; the later ones in the dark."""
    theme = "dark" if SETS.index(request.param) >= len(SETS) // 2 else "light"
    opened = Sheet(window, request.param, theme)
    window.console.clear()
    window.open_from_file_browser(opened.path)
    if window.page.evaluate("document.body.dataset.jpThemeLight") != str(theme == "light").lower():
        window.set_theme(theme)
    window.run_all()
    window.wait_idle()
    yield opened
    window.shut_down()


@pytest.fixture(scope="module")
def pictures(screenshots: Path) -> Path:
    folder = screenshots / "exercises"
    folder.mkdir(exist_ok=True)
    return folder


# ---------------------------------------------------------------------------- untouched


def test_an_untouched_set_runs_to_its_end_without_a_traceback(sheet, pictures):
    assert sheet.lab.errors() == []
    for cell in sheet.lab.outputs():
        assert re.fullmatch(r"\[\d+\]:?", cell["prompt"]), cell
    sheet.whole_picture(pictures)


def test_every_check_says_what_to_do_while_nothing_is_written(sheet):
    assert sheet.names
    for name in sheet.names:
        said = sheet.verdict(name)
        assert said.startswith(f"○ {exercises()[name].number} {name}: not attempted yet")
        assert "raise NotImplementedError" in said


# ---------------------------------------------------------------------------- the page


def test_hints_are_folded_and_unfold_at_a_click(sheet):
    for name in sheet.names:
        hints = sheet.cell(name, "text").locator("details")
        assert hints.count() == 2
        for i in range(2):
            inside = hints.nth(i).locator("p").first
            assert not inside.is_visible()
            hints.nth(i).locator("summary").click()
            inside.wait_for(state="visible")
            hints.nth(i).locator("summary").click()
            inside.wait_for(state="hidden")


def test_equations_are_typeset(sheet):
    written = read_notebook(sheet.lab.root / sheet.path)["cells"]
    formulas = sum(
        len(re.findall(r"\$\$.+?\$\$|\$.+?\$", source(c), re.DOTALL))
        for c in written
        if c["cell_type"] == "markdown"
    )
    prose = sheet.lab.cells().locator(".jp-RenderedMarkdown")
    assert formulas and prose.locator("mjx-container").count() == formulas
    assert prose.locator("mjx-merror").count() == 0
    for text in prose.all_inner_texts():
        assert not re.search(r"\$|\\(tag|begin|frac|mathbb|mathcal)\b", text), text


def test_nothing_is_wider_than_the_window(sheet):
    wide = sheet.lab.page.evaluate(
        """panel => [".jp-WindowedPanel-outer", ".jp-Cell", ".cm-scroller", ".jp-RenderedMarkdown",
                     ".jp-RenderedMarkdown pre", ".jp-RenderedMarkdown mjx-container[display]",
                     ".jp-OutputArea-output"]
            .flatMap(kind => [...document.querySelectorAll(panel + " " + kind)])
            .filter(e => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1)
            .filter(e => !e.textContent.startsWith("# Set-up"))  // it holds an address
            .map(e => e.className + ": " + e.textContent.slice(0, 200))""",
        sheet.lab.PANEL,
    )
    assert wide == []


def test_javascript_has_no_complaint(sheet):
    assert sheet.lab.console == []


# ---------------------------------------------------------------------------- attempts


def test_a_wrong_attempt_meets_its_hint_and_a_right_one_the_tick(sheet, pictures):
    bank = Bank(sheet.stem[:2])
    for name in sheet.names:
        exercise = exercises()[name]
        mistake, text = bank.first(name, "wrong")
        said = sheet.attempt(name, text)
        assert said.startswith(f"✗ {exercise.number} {name}"), said
        assert " ".join(exercise.hints[mistake].split()) in said
        assert exercise.see in said
        if name == sheet.names[-1]:
            sheet.picture(name, "wrong", pictures)
        said = sheet.attempt(name, bank.first(name, "right")[1])
        assert said.startswith(f"✓ {exercise.number} {name}: right in "), said
        assert exercise.learnt in said
    sheet.picture(sheet.names[-1], "right", pictures)
    assert sheet.lab.errors() == []


def test_what_a_check_says_can_be_read_in_the_theme(sheet):
    """At least 4.5 to 1 between text and background, as WCAG 2 asks of text (level AA)."""
    ratios = sheet.lab.page.evaluate(
        """panel => {
            const channels = colour => colour.match(/[\\d.]+/g).map(Number);
            const light = rgb => {
                const [r, g, b] = rgb.map(c => c / 255)
                    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = element => {
                for (let e = element; e; e = e.parentElement) {
                    const [r, g, b, alpha = 1] = channels(getComputedStyle(e).backgroundColor);
                    if (alpha === 1) return [r, g, b];
                }
                return [255, 255, 255];
            };
            const texts = [".jp-OutputArea-output pre", ".jp-RenderedMarkdown p",
                           ".jp-RenderedMarkdown summary", ".jp-RenderedMarkdown h2"]
                .flatMap(kind => [...document.querySelectorAll(panel + " " + kind)]);
            return texts.map(e => {
                const ground = behind(e);
                const [r, g, blue, alpha = 1] = channels(getComputedStyle(e).color);
                const ink = [r, g, blue].map((c, i) => alpha * c + (1 - alpha) * ground[i]);
                const [a, b] = [light(ink), light(ground)];
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            });
        }""",
        sheet.lab.PANEL,
    )
    assert len(ratios) > len(sheet.names)
    assert min(ratios) >= 4.5
