"""The lectures in JupyterLab, used in Chromium as a student uses them."""

import ast
import io
import re
import sys
import time
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from course_lib.notebooks import lecture_paths, read_notebook, source, write_notebook

sys.path.insert(0, str(Path(__file__).parent))
from lab import LabPage, copy_of_notebooks, lab_server

ROOT = Path(__file__).parents[2]
LECTURES = [path.name for path in lecture_paths(ROOT)]
BROKEN = "broken.ipynb"

# ---------------------------------------------------------------------- instruments

PANEL = LabPage.PANEL
TEXT = ".jp-RenderedHTMLCommon, .jp-RenderedText, .widget-label, .widget-readout"


def equations(page):
    """What the page shows of its equations: how many displayed, and what is not typeset."""
    return page.evaluate(
        r"""panel => {
            const front = document.querySelector(panel);
            const raw = [];
            for (const text of front.querySelectorAll(".jp-RenderedMarkdown")) {
                const copy = text.cloneNode(true);
                copy.querySelectorAll("code, pre, mjx-container").forEach(e => e.remove());
                const found = copy.textContent.match(/\$\$|\$[^$\s][^$]*\$|\\(tag|begin|frac)\b/g);
                raw.push(...(found || []));
            }
            const wrong = "mjx-merror, [data-mjx-error], mjx-container [style*='color: red'], "
                + "mjx-container [mathcolor=red], mjx-container [data-mjx-color=red]";
            return {
                displayed: front.querySelectorAll(
                    ".jp-RenderedMarkdown mjx-container[display=true]").length,
                raw,
                errors: [...front.querySelectorAll(wrong)].map(e => e.outerHTML.slice(0, 200)),
            };
        }""",
        PANEL,
    )


def displayed_equations(notebook):
    """Number of equations between double dollars in the text of a notebook."""
    texts = [source(c) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    marks = sum(re.sub(r"```.*?```|`[^`]*`", "", t, flags=re.S).count("$$") for t in texts)
    assert marks % 2 == 0, "a displayed equation is not closed"
    return marks // 2


def scrolling(page):
    """Parts of the notebook in front that are wider than their place, code aside.

    MathJax lays a second, invisible copy of an equation over it for screen readers, whose letters
    are wider in some fonts; that copy is left out.
    """
    return page.evaluate(
        """panel => {
            const front = document.querySelector(panel);
            const parts = ".jp-WindowedPanel-outer, .jp-MarkdownOutput, .jp-OutputArea-output, "
                + ".jp-RenderedHTMLCommon, .jp-RenderedText";
            const style = document.head.appendChild(document.createElement("style"));
            style.textContent = "mjx-assistive-mml { display: none !important; }";
            const wide = [...front.querySelectorAll(parts)]
                .filter(e => e.scrollWidth > e.clientWidth + 1)
                .map(e => `${e.className}: ${e.scrollWidth} > ${e.clientWidth}: `
                    + e.textContent.trim().slice(0, 80));
            style.remove();
            return wide;
        }""",
        PANEL,
    )


def faint_text(page):
    """Text whose contrast with what is behind it is under 4.5, or 3 where it is large (WCAG 1.4.3).

    Code is in the colours of JupyterLab's own theme and is left out.
    """
    return page.evaluate(
        """([panel, selector]) => {
            const parse = c => {
                const n = c.match(/[\\d.]+/g).map(Number);
                const scale = c.startsWith("color(srgb") ? 255 : 1;
                return [n[0] * scale, n[1] * scale, n[2] * scale, n.length > 3 ? n[3] : 1];
            };
            const over = (top, below) => [0, 1, 2].map(
                i => top[3] * top[i] + (1 - top[3]) * below[i]).concat(1);
            const behind = e => {
                const layers = [];
                for (let at = e; at; at = at.parentElement) {
                    const colour = parse(getComputedStyle(at).backgroundColor);
                    if (colour[3] > 0) layers.push(colour);
                    if (colour[3] === 1) break;
                }
                return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
            };
            const light = c => {
                const [r, g, b] = c.slice(0, 3).map(v => v / 255).map(
                    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const faint = [];
            for (const root of document.querySelector(panel).querySelectorAll(selector)) {
                const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
                for (let node = walker.nextNode(); node; node = walker.nextNode()) {
                    const e = node.parentElement;
                    const aside = e.closest("mjx-assistive-mml, .cm-editor, code");
                    if (aside || !node.textContent.trim() || !e.getClientRects().length) continue;
                    const style = getComputedStyle(e), back = behind(e);
                    const front = over(parse(style.color), back);
                    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
                    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
                    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
                    const ratio = (a + 0.05) / (b + 0.05);
                    if (ratio < least)
                        faint.push(`${ratio.toFixed(2)}: ${node.textContent.trim().slice(0, 60)}`);
                }
            }
            return faint;
        }""",
        [PANEL, TEXT],
    )


def pictures(page):
    """Every picture among the outputs in front: cell, sizes on the page, PNG or GIF bytes."""
    found = page.evaluate(
        """async panel => {
            const images = [...document.querySelectorAll(
                panel + " .jp-Cell .jp-OutputArea-output img")];
            const bytes = async image => {
                const blob = await (await fetch(image.src)).blob();
                return await new Promise(resolve => {
                    const reader = new FileReader();
                    reader.onload = () => resolve(reader.result.split(",")[1]);
                    reader.readAsDataURL(blob);
                });
            };
            const cells = [...document.querySelectorAll(panel + " .jp-Notebook .jp-Cell")];
            return await Promise.all(images.map(async image => ({
                cell: cells.indexOf(image.closest(".jp-Cell")),
                natural: image.naturalWidth,
                shown: image.getBoundingClientRect().width,
                alt: image.alt,
                data: await bytes(image),
            })));
        }""",
        PANEL,
    )
    for picture in found:
        picture["image"] = Image.open(io.BytesIO(b64decode(picture.pop("data"))))
    return [SimpleNamespace(**picture) for picture in found]


def contrast(image):
    """WCAG contrast of every pixel of a picture with its background, the colour of its rim.

    Returns (contrast [h, w], whether the picture is opaque).
    """
    rgba = np.asarray(image.convert("RGBA")).astype(float)
    rgb = rgba[..., :3] / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    light = linear @ [0.2126, 0.7152, 0.0722]
    rim = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    paper = np.median(rim)
    high, low = np.maximum(light, paper), np.minimum(light, paper)
    return (high + 0.05) / (low + 0.05), bool((rgba[..., 3] == 255).all())


def strokes(image):
    """Contrast with the background of each letter-sized mark beside and below the axes: [n].

    Tick and axis labels stand in the left sixth and the bottom fifth. A mark is what differs from
    the background and hangs together, 4 to 18 pixels high and at most 18 wide, and has no colour,
    as points of data have; its contrast is that of the middle of its strokes, since their edges
    are blurred.
    """
    ratio, _ = contrast(image)
    grey = np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=2) < 30
    height, width = ratio.shape
    margin = np.zeros_like(ratio, dtype=bool)
    margin[:, : width // 6] = margin[height - height // 5 :] = True
    labels, _ = ndimage.label(ratio > 1.15, structure=np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        inside = margin[rows, columns].all()
        if inside and 4 <= high <= 18 and 1 <= wide <= 18:
            here = labels[rows, columns] == number
            if here.sum() >= 5 and grey[rows, columns][here].all():
                found.append(ratio[rows, columns][here].max())
    return np.array(found)


def progress_bars(page):
    """Where each progress bar in front stands, in per cent: those of widgets and those of text."""
    return page.evaluate(
        r"""panel => {
            const front = document.querySelector(panel);
            const bars = [...front.querySelectorAll(".jp-OutputArea-output .progress-bar")]
                .map(bar => parseFloat(bar.style.width));
            const texts = [...front.querySelectorAll(".jp-OutputArea .jp-RenderedText")]
                .map(e => [...e.textContent.matchAll(/(\d+)%\|/g)].pop())
                .filter(found => found).map(found => Number(found[1]));
            return bars.concat(texts);
        }""",
        PANEL,
    )


def widgets_asked_for(notebook):
    """How many sliders and how many lists to choose from the calls of `explore` make."""
    asked = [
        keyword.value
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "explore(" in source(cell)
        for node in ast.walk(ast.parse(source(cell)))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "explore"
        for keyword in node.keywords
    ]
    lists = sum(getattr(getattr(a, "func", None), "attr", "") == "Dropdown" for a in asked)
    return len(asked) - lists, lists


def wait_until(what, seconds=20):
    """Whether `what()` becomes true within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.1)
    return False


@contextmanager
def redrawn(widget):
    """Around a change of a widget: the picture beside it changes, and no error is told."""
    box = widget.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')][1]")
    picture = box.locator("img")
    before = picture.get_attribute("src")
    yield
    name = widget.locator(".widget-label").inner_text()
    changed = wait_until(lambda: picture.get_attribute("src") != before)
    assert changed, f"the picture of {name!r} stays as it was"
    message = box.locator("> .widget-label").inner_text()
    assert not message.strip(), f"{name}: {message}"


def drag(page, handle, line):
    """Drag the handle of a slider with the mouse along a quarter of its line."""
    at, way = handle.bounding_box(), line.bounding_box()
    x, y = at["x"] + at["width"] / 2, at["y"] + at["height"] / 2
    far = way["width"] / 4 if x < way["x"] + way["width"] / 2 else -way["width"] / 4
    page.mouse.down()
    page.mouse.move(x + far, y, steps=4)
    page.mouse.up()


def screens(lab, folder, theme):
    """The whole notebook in front, screen by screen, as THEME-NN.png in a folder."""
    page, height = lab.page, 3000
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{theme}-*.png"):
        old.unlink()
    page.set_viewport_size({"width": 1280, "height": height})
    scroller = page.locator(f"{PANEL} .jp-WindowedPanel-outer")
    total, visible = scroller.evaluate(
        "e => { e.scrollTop = 0; return [e.scrollHeight, e.clientHeight]; }"
    )
    for number in range(-(-total // visible)):
        scroller.evaluate("(e, top) => { e.scrollTop = top; }", number * visible)
        page.wait_for_timeout(150)
        page.screenshot(path=folder / f"{theme}-{number + 1:02d}.png")
    page.set_viewport_size({"width": 1280, "height": 900})


# ---------------------------------------------------------------------- what is looked at


def broken_notebook():
    """A notebook with everything that the instruments look for."""
    faint = (
        "import io\nfrom IPython.display import Image\nfrom PIL import Image as I, ImageDraw\n"
        "i = I.new('RGB', (720, 300), '#FCFCFA')\nd = ImageDraw.Draw(i)\n"
        "d.text((20, 100), 'likelihood', fill='#BBBBBB')\n"
        "d.text((200, 280), 'number of the step', fill='#BBBBBB')\n"
        "b = io.BytesIO()\ni.save(b, format='PNG')\nImage(b.getvalue())"
    )
    cells = [
        nbformat.v4.new_markdown_cell("An unknown macro: $$\\unknownmacro{x} + 1$$"),
        nbformat.v4.new_markdown_cell("Left raw: $$x^2, since it is not closed."),
        nbformat.v4.new_markdown_cell('<p style="color: #888; background: #777">faint</p>'),
        nbformat.v4.new_code_cell(faint),
        nbformat.v4.new_code_cell(
            "from IPython.display import HTML\n"
            "HTML('<table><tr><td><div style=\"width: 3000px\">wide</div></td></tr></table>')"
        ),
        nbformat.v4.new_code_cell("print(' 40%|####      | 4/10')"),
        nbformat.v4.new_code_cell("1 / 0"),
        nbformat.v4.new_code_cell("print('never reached')"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    """A window of JupyterLab with a copy of the notebooks."""
    root = copy_of_notebooks(tmp_path_factory.mktemp("lab"))
    write_notebook(root / "notebooks" / BROKEN, broken_notebook())
    with lab_server(root) as server:
        window = LabPage(chromium, server, root)
        yield window
        window.close()


def test_the_instruments_see_what_is_wrong(lab):
    lab.open_from_file_browser(f"notebooks/{BROKEN}")
    lab.run_all()
    lab.wait_idle()
    page = lab.page
    assert "ZeroDivisionError" in lab.errors()[0]
    assert lab.outputs()[-1]["prompt"] == "[ ]:"
    found = equations(page)
    assert found["errors"] and found["raw"]
    assert progress_bars(page) == [40]
    assert any("wide" in part for part in scrolling(page))
    assert any("faint" in part for part in faint_text(page))
    (picture,) = pictures(page)
    assert len(strokes(picture.image)) >= 5
    assert np.quantile(strokes(picture.image), 0.25) < 4.5
    lab.shut_down()


def test_a_folder_that_slips_under_the_mouse_does_not_lead_astray(lab):
    """A double-click that opens one folder too many, as on a busy machine, is noticed."""
    lab.page.evaluate(
        """() => document.addEventListener("dblclick", first => {
            const again = {bubbles: true, clientX: first.clientX, clientY: first.clientY};
            const watch = setInterval(() => {
                const item = document.querySelector(".jp-DirListing-item");
                if (!item.textContent.includes("exercises")) return;
                clearInterval(watch);
                item.dispatchEvent(new MouseEvent("dblclick", again));
                window.slipped = true;
            }, 10);
        }, {once: true, capture: true})"""
    )
    path = f"notebooks/{LECTURES[0]}"  # there is one of this name among the exercises, too
    lab.open_from_file_browser(path)
    assert lab.page.evaluate("() => window.slipped")
    assert len(lab.outputs()) == sum(
        cell["cell_type"] == "code" for cell in lab.notebook(path)["cells"]
    )
    lab.shut_down()


def test_links_open_the_other_notebooks(lab):
    first, second = (f"notebooks/{name}" for name in LECTURES[:2])
    lab.set_theme("light")
    lab.open_from_file_browser(first)
    text = lab.page.locator(f"{PANEL} .jp-RenderedMarkdown")
    links = {
        first.replace("/", "/exercises/"): text.get_by_role("link", name="exercises"),
        second: text.locator(f'a[href*="{LECTURES[1]}"]'),
    }
    for path, link in links.items():
        link.first.click()
        lab.wait_for_notebook(path)
        lab.shut_down()
        lab.page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab", has_text=LECTURES[0]).click()
        lab.wait_for_notebook(first)
    lab.shut_down()


@pytest.fixture(scope="module", params=LECTURES, ids=[name[:2] for name in LECTURES])
def lecture(request, lab, screenshots):
    """A lecture, opened from the file browser and run from top to bottom."""
    path = f"notebooks/{request.param}"
    del lab.console[:]
    start = time.monotonic()
    lab.open_from_file_browser(path)
    opened = time.monotonic()
    lab.run_all()
    lab.wait_idle(400)
    seconds = time.monotonic() - opened
    print(f"\n{path}: opened in {opened - start:.1f} s, run in {seconds:.1f} s")
    yield SimpleNamespace(
        lab=lab,
        page=lab.page,
        notebook=read_notebook(lab.root / path),
        folder=screenshots / "lab" / Path(path).stem,
    )
    lab.shut_down()


def test_every_cell_runs_and_none_fails(lecture):
    assert lecture.lab.errors() == []
    outputs = lecture.lab.outputs()
    code = [i for i, cell in enumerate(lecture.notebook["cells"]) if cell["cell_type"] == "code"]
    assert [output["index"] for output in outputs] == code
    not_run = [o["index"] for o in outputs if not re.fullmatch(r"\[\d+\]:", o["prompt"])]
    assert not not_run, f"cells without a number of execution: {not_run}"


def test_every_equation_is_typeset(lecture):
    found = equations(lecture.page)
    assert found["raw"] == []
    assert found["errors"] == []
    assert found["displayed"] == displayed_equations(lecture.notebook)


def test_every_picture_shows_something(lecture):
    found = pictures(lecture.page)
    assert found
    for picture in found:
        assert picture.natural > 0 and picture.shown > 100, f"cell {picture.cell}"
        shades = picture.image.convert("RGB").getcolors(maxcolors=1 << 24)
        assert len(shades) > 2, f"the picture of cell {picture.cell} is of one colour"


def test_labels_in_pictures_stand_out_from_an_opaque_background(lecture):
    """So that the pictures read in both themes, whatever is behind them."""
    seen = 0
    for picture in pictures(lecture.page):
        image = picture.image
        assert contrast(image)[1], f"the picture of cell {picture.cell} lets the page through"
        found = strokes(image)
        seen += len(found)
        if len(found) >= 5:
            faint = np.quantile(found, 0.25)
            assert faint >= 4.5, f"cell {picture.cell}: labels of contrast {faint:.2f}"
    assert seen > 50


def test_every_progress_bar_ends_at_100(lecture):
    bars = progress_bars(lecture.page)
    assert all(abs(bar - 100) < 1e-6 for bar in bars), bars


def test_every_slider_and_list_redraws_its_picture(lecture):
    page = lecture.page
    sliders = page.locator(f"{PANEL} .jp-OutputArea-output .widget-slider")
    lists = page.locator(f"{PANEL} .jp-OutputArea-output .widget-dropdown")
    assert (sliders.count(), lists.count()) == widgets_asked_for(lecture.notebook)
    for k in range(sliders.count()):
        slider = sliders.nth(k)
        readout, handle = slider.locator(".widget-readout"), slider.locator(".noUi-handle")
        handle.hover()  # waits until it lies still, scrolled into view
        value = readout.inner_text()
        with redrawn(slider):
            if k == 0:
                drag(page, handle, slider.locator(".slider-container"))
            else:
                handle.focus()
                top = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
                for _ in range(3):
                    page.keyboard.press("ArrowLeft" if top else "ArrowRight")
            moved = wait_until(lambda readout=readout, value=value: readout.inner_text() != value)
            assert moved, f"the slider that says {value} does not move"
    for k in range(lists.count()):
        choice = lists.nth(k).locator("select")
        options = choice.locator("option").all_inner_texts()
        now = choice.evaluate("list => list.selectedIndex")
        with redrawn(lists.nth(k)):
            choice.select_option(label=options[now - 1])
    lecture.lab.wait_idle(60)


def test_folded_answers_unfold_and_fold(lecture):
    folded = lecture.page.locator(f"{PANEL} .jp-RenderedMarkdown details")
    written = sum(
        source(c).count("<details") for c in lecture.notebook["cells"]
        if c["cell_type"] == "markdown"
    )  # fmt: skip
    assert folded.count() == written
    for k in range(written):
        answer = folded.nth(k)
        closed = answer.bounding_box()["height"]
        answer.locator("summary").click()
        assert wait_until(lambda answer=answer, h=closed: answer.bounding_box()["height"] > h, 5)
        answer.locator("summary").click()
        assert wait_until(lambda answer=answer, h=closed: answer.bounding_box()["height"] == h, 5)


def test_nothing_needs_scrolling_sideways(lecture):
    assert scrolling(lecture.page) == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(lecture, theme):
    lecture.lab.set_theme(theme)
    screens(lecture.lab, lecture.folder, theme)
    assert faint_text(lecture.page) == []


def test_the_console_stays_empty(lecture):
    assert lecture.lab.console == []
