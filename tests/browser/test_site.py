"""The web site in Chromium: every page as a reader sees it, hears it and steers it by keyboard.

Each page is opened as wide as a phone and as wide as a desk, light and dark; what it does
is noted, and the tests read the notes. Pictures are kept in ``build/screenshots/site``.
"""

import hashlib
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from course_lib import notebooks

ROOT = Path(__file__).parents[2]
WIDE, NARROW = {"width": 1280, "height": 1600}, {"width": 390, "height": 1600}
MEGABYTE = 1e6

# The judge of accessibility, in the one version that these tests were written against.
AXE_VERSION = "4.10.3"
AXE_SHA256 = "880970c081707360e64f34cea25ff91892f5bc95675b0776925b9709dd8a68bb"
# Not serious to axe, and yet to whoever finds the way by headings.
AS_BAD_AS_SERIOUS = {"heading-order", "empty-heading", "image-alt", "page-has-heading-one"}

# TeX that was not typeset, in what a reader sees; code may hold it.
RAW_TEX = r"""() => {
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.parentElement.closest("pre, code, script, style, mjx-container")) continue;
    if (/\$\$|\\tag\{|\\\[|\\\(|\\(frac|mathbb|mathcal|log|operatorname)\b/.test(node.data))
      found.push(node.data.trim().slice(0, 120));
  }
  return found;
}"""

MATHEMATICS = """() => ({
  formulas: document.querySelectorAll("main .math").length,
  typeset: document.querySelectorAll("main .math mjx-container").length,
  errors: [...document.querySelectorAll("mjx-merror")]
    .map(node => (node.closest(".math") ?? node).textContent.slice(0, 120)),
})"""

# What reaches beyond the right edge, unless it can be scrolled within a frame of its own.
TOO_WIDE = """() => {
  const edge = document.documentElement.clientWidth, found = [];
  const scrolls = node => {
    for (let at = node; at && at !== document.body; at = at.parentElement)
      if (["auto", "scroll"].includes(getComputedStyle(at).overflowX)) return true;
    return false;
  };
  const width = document.documentElement.scrollWidth;
  if (width > edge) found.push(`the page is ${width} px wide`);
  const weigh = (node, box) => {
    if (box.width > 1 && box.height > 1 && box.right > edge + 1 && box.left < edge &&
        !node.closest("mjx-assistive-mml, mjx-container *, dialog") && !scrolls(node))
      found.push(`${node.tagName.toLowerCase()}.${node.className} ends at ` +
                 `${Math.round(box.right)} px: ${node.textContent.trim().slice(0, 50)}`);
  };
  const root = document.querySelector(".bd-article-container");
  for (const node of root.querySelectorAll("*")) weigh(node, node.getBoundingClientRect());
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), range = new Range();
  while (walker.nextNode()) {
    if (!walker.currentNode.data.trim()) continue;
    range.selectNodeContents(walker.currentNode);
    weigh(walker.currentNode.parentElement, range.getBoundingClientRect());
  }
  for (const node of document.querySelectorAll(".bd-sidebar-secondary"))
    if (node.checkVisibility() && node.scrollWidth > node.clientWidth + 1)
      found.push(`the list of contents is ${node.scrollWidth} px wide in ${node.clientWidth} px`);
  return found;
}"""

# Running text below 15 px, anything below 11.5 px; indices in formulas are MathJax's own.
SMALL_TEXT = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("mjx-container") || !parent.checkVisibility()) continue;
    const running = parent.closest("article p, article li") &&
      !parent.closest("pre, code, sup, sub, small, table, figure, .headerlink, .course-map");
    const size = parseFloat(getComputedStyle(parent).fontSize);
    if (size < (running ? 15 : 11.5)) found.push(`${size} px: ${node.data.trim().slice(0, 60)}`);
  }
  return found;
}"""

# axe weighs every element, and formulas and coloured code are made of tens of thousands. A formula
# becomes a word, in its own colour if that differs from the text's; of the tokens of code the first
# of each kind and place stays.
THIN = """() => {
  for (const formula of document.querySelectorAll("mjx-container")) {
    const word = document.createElement("span");
    word.textContent = "formula";
    const own = getComputedStyle(formula).color;
    if (own !== getComputedStyle(formula.parentElement).color) word.style.color = own;
    formula.replaceWith(word);
  }
  const seen = new Set();
  for (const token of document.querySelectorAll("pre span[class], .sig span[class]")) {
    const frame = token.closest("div[class*=highlight]");
    const kind = [token.className, frame?.parentElement.className].join(" in ");
    if (seen.has(kind)) token.replaceWith(...token.childNodes);
    seen.add(kind);
  }
  document.querySelectorAll("pre").forEach(node => node.normalize());
}"""

PAINT = """theme => {
  document.documentElement.dataset.mode = theme;
  document.documentElement.dataset.theme = theme;
}"""

JUDGE = """async rules => {
  const enabled = Object.fromEntries(rules.map(name => [name, {enabled: true}]));
  const options = {resultTypes: ["violations"], rules: enabled, preload: false};
  const {violations} = await axe.run(document, options);
  return violations.map(({id, impact, help, nodes}) => ({id, impact, help, places:
    nodes.map(node => node.html.slice(0, 160) + " " + (node.any[0]?.message ?? ""))}));
}"""


# What has the focus, and whether a ring is drawn round it or round a part of it.
FOCUS = """() => {
  document.getAnimations().forEach(moving => moving.finish());
  const node = document.activeElement;
  const ringed = part => {
    const {outlineStyle, outlineWidth, boxShadow} = getComputedStyle(part);
    return (outlineStyle !== "none" && parseFloat(outlineWidth) >= 2) ||
      (boxShadow !== "none" && !boxShadow.startsWith("rgba(0, 0, 0, 0) 0px 0px 0px 0px"));
  };
  const shown = part => {
    const {width, height} = part.getBoundingClientRect();
    return width * height > 0;
  };
  const parts = [node, ...node.querySelectorAll("*")].filter(shown);
  return {name: node.outerHTML.slice(0, 120), ring: parts.some(ringed),
          body: node === document.body};
}"""


@dataclass
class Visit:
    """What one page did."""

    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    formulas: int = 0
    typeset: int = 0
    tex_errors: list[str] = field(default_factory=list)
    raw_tex: list[str] = field(default_factory=list)
    too_wide: dict[str, list[str]] = field(default_factory=dict)
    small_text: list[str] = field(default_factory=list)
    verdicts: dict[str, list[dict]] = field(default_factory=dict)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(built_site: Path) -> Iterator[str]:
    """The site, served to this machine alone."""
    handler = partial(Quiet, directory=str(built_site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetched_axe() -> str:
    """The source of axe-core, which npm fetches once into ``build/browser``.

    Raises:
        FileNotFoundError: there is no npm, or it cannot reach its registry.
    """
    script = ROOT / "build" / "browser" / f"axe-{AXE_VERSION}.min.js"
    if not script.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("no npm: install it (apt-get install npm) to fetch axe-core")
        folder = script.parent / f"npm-{AXE_VERSION}"
        folder.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
        command += ["--prefix", str(folder), f"axe-core@{AXE_VERSION}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines()[:1]
            raise FileNotFoundError(f"npm could not fetch axe-core {AXE_VERSION}: {said}")
        shutil.copy(folder / "node_modules" / "axe-core" / "axe.min.js", script)
    source = script.read_bytes()
    if hashlib.sha256(source).hexdigest() != AXE_SHA256:
        raise ValueError(f"{script} is not axe-core {AXE_VERSION}: delete it and run this again")
    return source.decode()


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of axe-core; empty where it cannot be had, and the tests that need it say so."""
    try:
        return fetched_axe()
    except FileNotFoundError:
        return ""


@pytest.fixture(scope="module")
def judge(axe: str) -> None:
    """Skips a test that cannot be held without axe-core."""
    if not axe:
        pytest.skip(f"no axe-core {AXE_VERSION}: it comes by npm (apt-get install npm)")


@pytest.fixture(scope="module")
def visits(
    chromium, address: str, built_site: Path, axe: str, screenshots: Path
) -> dict[str, Visit]:
    """Every page of the site, opened once."""
    folder = screenshots / "site"
    shutil.rmtree(folder, ignore_errors=True)
    context = chromium.new_context(viewport=WIDE, color_scheme="light", reduced_motion="reduce")
    found = {}
    for path in sorted(built_site.rglob("*.html")):
        name = path.relative_to(built_site).as_posix()
        if not name.startswith("_static/"):
            picture = folder / name.removesuffix(".html").replace("/", "-")
            found[name] = visit(context, f"{address}/{name}", picture, axe)
    context.close()
    return found


def visit(context, url: str, picture: Path, axe: str) -> Visit:
    """Opens a page and looks at it: at the width of a phone, then wide, light and dark."""
    seen, page = Visit(), context.new_page()
    page.on("console", lambda said: said.type in ("error", "warning") and note(said.text))
    page.on("pageerror", lambda error: note(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: seen.failed.append(request.url))
    page.on(
        "response", lambda got: got.status < 400 or seen.failed.append(f"{got.status} {got.url}")
    )

    def note(text: str) -> None:
        seen.console.append(text[:300])

    def photograph(theme: str, name: str) -> None:
        page.evaluate(PAINT, theme)
        page.screenshot(path=f"{picture}-{name}.png", animations="disabled")

    for width, size in (("narrow", NARROW), ("wide", WIDE)):
        page.set_viewport_size(size)
        page.goto(url)
        page.evaluate("() => window.MathJax?.startup?.promise")
        seen.too_wide[width] = page.evaluate(TOO_WIDE)
        photograph("light", width)
        if width == "narrow":
            seen.small_text = page.evaluate(SMALL_TEXT)
    photograph("dark", "dark")
    mathematics = page.evaluate(MATHEMATICS)
    seen.formulas, seen.typeset = mathematics["formulas"], mathematics["typeset"]
    seen.tex_errors, seen.raw_tex = mathematics["errors"], page.evaluate(RAW_TEX)
    if axe:
        page.evaluate(THIN)
        page.evaluate(axe)
        for theme in ("dark", "light"):
            page.evaluate(PAINT, theme)
            page.evaluate("() => document.getAnimations().forEach(moving => moving.finish())")
            seen.verdicts[theme] = page.evaluate(JUDGE, sorted(AS_BAD_AS_SERIOUS))
    page.close()
    return seen


def none(faults: dict[str, list[str]]) -> None:
    """Fails if a page has a fault, and says a few of each."""
    said = [f"{name}: {fault}" for name, texts in faults.items() for fault in texts[:4]]
    assert not said, "\n" + "\n".join(said)


# ---------------------------------------------------------------------------- every page


def test_all_kinds_of_pages_are_visited(visits):
    lectures = {f"{path.stem}.html" for path in notebooks.lecture_paths(ROOT)}
    exercises = {
        f"exercises/{path.stem}.html" for path in (ROOT / "notebooks/exercises").glob("*.ipynb")
    }
    pages = {f"site/{name}.html" for name in ("errata", "glossary", "bibliography", "results")}
    assert {"index.html", "search.html"} | lectures | exercises | pages <= set(visits)


def test_no_page_complains_in_the_console(visits):
    none({name: seen.console for name, seen in visits.items()})


def test_no_request_fails(visits):
    none({name: seen.failed for name, seen in visits.items()})


def test_no_page_asks_another_host(visits, address):
    own = (f"{address}/", "data:", "blob:")
    assert all(seen.requests for seen in visits.values())
    none(
        {
            name: [url for url in seen.requests if not url.startswith(own)]
            for name, seen in visits.items()
        }
    )


def test_all_mathematics_is_typeset_without_an_error(visits):
    none({name: seen.tex_errors + seen.raw_tex for name, seen in visits.items()})
    assert {n: v.formulas - v.typeset for n, v in visits.items() if v.typeset != v.formulas} == {}
    for path in notebooks.lecture_paths(ROOT):
        assert visits[f"{path.stem}.html"].formulas > 20, path.stem


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_nothing_reaches_beyond_the_edge(visits, width):
    none({name: seen.too_wide[width] for name, seen in visits.items()})


def test_text_is_large_enough_on_a_phone(visits):
    none({name: seen.small_text for name, seen in visits.items()})


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_serious_violation_of_accessibility(visits, judge, theme):
    found = {}
    for name, seen in visits.items():
        for verdict in seen.verdicts[theme]:
            if verdict["impact"] in ("serious", "critical") or verdict["id"] in AS_BAD_AS_SERIOUS:
                kind = f"{verdict['id']} ({verdict['impact']}): {verdict['help']}"
                found.setdefault(kind, []).extend(f"{name}: {p}" for p in verdict["places"][:3])
    none(found)


def test_the_judge_of_accessibility_sees_what_is_wrong(chromium, judge, axe):
    page = chromium.new_page()
    page.set_content(
        "<html lang='en'><title>t</title><main><h1>One</h1><h3>Three</h3><img src='data:,'>"
        "<p style='color: #ddd; background: white'>pale</p></main></html>"
    )
    page.evaluate(axe)
    found = {verdict["id"] for verdict in page.evaluate(JUDGE, sorted(AS_BAD_AS_SERIOUS))}
    page.close()
    assert {"heading-order", "image-alt", "color-contrast"} <= found


# ---------------------------------------------------------------------------- in use


@pytest.fixture
def page(chromium, address):
    """A fresh window, 1280 px wide, on no page yet; paths are those of the site."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 800}, base_url=f"{address}/", reduced_motion="reduce"
    )
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def phone(chromium, address):
    """A fresh window of a phone."""
    context = chromium.new_context(
        viewport={"width": 390, "height": 844},
        base_url=f"{address}/",
        is_mobile=True,
        has_touch=True,
        reduced_motion="reduce",
    )
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def test_the_first_page_is_under_a_megabyte(page):
    requests = []
    page.on("requestfinished", lambda request: requests.append(request))
    page.goto("index.html")
    page.wait_for_load_state("networkidle")
    sizes = {r.url: r.sizes() for r in requests if not r.url.startswith("data:")}
    assert len(sizes) > 3
    total = sum(size["responseHeadersSize"] + size["responseBodySize"] for size in sizes.values())
    assert total < MEGABYTE, sorted((s["responseBodySize"], url) for url, s in sizes.items())[-6:]


def test_search_finds_the_elbo_in_its_lecture(page):
    page.goto("index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("ELBO")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=ELBO*")
    results = page.locator("#search-results ul.search li a")
    results.first.wait_for()
    lecture = page.locator("#search-results ul.search a[href*='12_elbo.html']").first
    lecture.click()
    page.wait_for_url("**/12_elbo.html*")
    assert "ELBO" in page.locator("main").inner_text()


def test_search_says_when_it_finds_nothing(page):
    page.goto("search.html?q=zyxwvu")
    page.get_by_text("did not match any documents").wait_for()


def test_the_switch_of_the_theme_works_and_is_remembered(page):
    page.emulate_media(color_scheme="light")
    page.goto("12_elbo.html")
    background = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Color mode").click()
    page.locator("[data-mode=dark], [data-theme=dark]").locator("visible=true").last.click()
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    dark = page.evaluate(background)
    assert dark != light
    page.goto("06_dcgan.html")
    assert page.evaluate(background) == dark


def test_a_reader_whose_system_is_dark_gets_the_dark_theme(page):
    page.emulate_media(color_scheme="dark")
    page.goto("index.html")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"


def test_a_link_to_an_equation_brings_it_into_view(page):
    page.goto("04_gan_minimax.html#eq-4.3")
    page.evaluate("() => window.MathJax.startup.promise")
    page.wait_for_timeout(500)
    place = page.evaluate(
        """() => {
          const box = document.getElementById("eq-4.3").getBoundingClientRect();
          const seen = document.elementFromPoint(box.left + box.width / 2, box.top + 10);
          return {top: box.top, bottom: box.bottom,
                  covered: !document.getElementById("eq-4.3").contains(seen)};
        }"""
    )
    assert 0 <= place["top"] < 800 and not place["covered"], place


def test_a_reference_to_an_equation_leads_to_it(page):
    page.goto("12_elbo.html")
    link = page.locator("main p a[href='#eq-12.7']").first
    link.click()
    page.wait_for_function("() => location.hash === '#eq-12.7'")


def test_a_folded_answer_unfolds_by_keyboard(page):
    page.goto("04_gan_minimax.html")
    answer = page.locator("article details:not(.above-input)").last
    assert answer.get_attribute("open") is None
    answer.locator("summary").focus()
    page.keyboard.press("Enter")
    assert answer.get_attribute("open") is not None
    assert len(answer.inner_text()) > len(answer.locator("summary").inner_text()) + 20


def test_the_keyboard_skips_to_the_content(page):
    page.goto("04_gan_minimax.html")
    page.keyboard.press("Tab")
    skip = page.locator("#pst-skip-link a")
    assert page.evaluate("() => document.activeElement.textContent") == skip.inner_text()
    page.wait_for_function(
        "() => document.activeElement.getBoundingClientRect().top >= 0", timeout=5_000
    )
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash === '#main-content'")
    page.keyboard.press("Tab")
    assert page.evaluate("() => !!document.activeElement.closest('main')")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_focus_of_the_keyboard_is_visible(page, theme):
    page.emulate_media(color_scheme=theme)
    page.goto("index.html")
    unseen, stops = [], 0
    for _ in range(60):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUS)
        if stop["body"]:
            break
        stops += 1
        if not stop["ring"]:
            unseen.append(stop["name"])
    assert stops > 15
    none({theme: unseen})


def test_the_menu_of_a_phone_opens_and_leads_to_a_lecture(phone):
    phone.goto("index.html")
    lecture = phone.locator(".bd-sidebar-primary a[href$='12_elbo.html']").first
    assert not lecture.is_visible()
    phone.locator("button.primary-toggle:visible").first.tap()
    lecture.wait_for(state="visible")
    lecture.scroll_into_view_if_needed()
    lecture.tap()
    phone.wait_for_url("**/12_elbo.html")


def test_a_phone_shows_a_page_at_its_own_width(phone):
    phone.goto("17_measuring_generators.html")
    phone.evaluate("() => window.MathJax.startup.promise")
    assert phone.evaluate("() => [innerWidth, visualViewport.scale]") == [390, 1]


def test_a_wide_table_scrolls_within_itself(phone):
    phone.goto("site/results.html")
    table = phone.locator("main table").first
    table.scroll_into_view_if_needed()
    scrolled = table.evaluate(
        """table => {
          let frame = table;
          while (frame.scrollWidth <= frame.clientWidth + 1) {
            frame = frame.parentElement;
            if (frame === document.body) return null;
          }
          frame.scrollLeft = 100;
          return frame.scrollLeft;
        }"""
    )
    assert scrolled == 100
