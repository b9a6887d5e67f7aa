"""JupyterLab as ``make lab`` starts it, and its window as a student uses it.

Everything that a student does goes through menus, mouse and keyboard; only what is looked at is
read from the page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.notebooks import read_notebook, tags

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"http://127\.0\.0\.1:(?P<port>\d+)/\S*\?token=(?P<token>\w+)")
BADGE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20">'
    '<rect width="117" height="20" rx="3" fill="#555"/></svg>'
)


def copy_of_notebooks(folder: Path) -> Path:
    """The notebooks that students open, under `folder`/notebooks; returns `folder`."""
    for pattern in ("*.ipynb", "README.md", "exercises/*.ipynb"):
        for path in sorted((ROOT / "notebooks").glob(pattern)):
            copy = folder / "notebooks" / path.relative_to(ROOT / "notebooks")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return folder


def isolated(home: Path, profile: str = "smoke", **variables: str) -> dict[str, str]:
    """The environment of a server that leaves no trace outside `home` and finds nothing there."""
    places = {
        "COURSE_CACHE": "cache",
        "COURSE_OUTPUT": "runs",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }
    dropped = ("JUPYTER_TOKEN", "JUPYTER_PORT", "BROWSER", "SSH_CONNECTION", "DISPLAY")
    kept = {k: v for k, v in os.environ.items() if k not in (*dropped, "WAYLAND_DISPLAY")}
    folders = {name: str(home / part) for name, part in places.items()}
    return {**kept, **folders, "COURSE_PROFILE": profile, **variables}


@dataclass
class Server:
    """A JupyterLab that runs, and what it has printed so far."""

    process: subprocess.Popen
    port: int = 0
    token: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The window with the file browser, token included."""
        return f"http://127.0.0.1:{self.port}/lab?token={self.token}"

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until the terminal has said `text`."""
        end = time.monotonic() + seconds
        while text not in self.output:
            ended = self.process.poll() is not None
            assert not ended and time.monotonic() < end, f"no {text!r} in:\n{self.output}"
            time.sleep(0.05)


def start_server(
    command: list[str], environment: dict[str, str], cwd: Path, stdin: int = subprocess.DEVNULL
) -> Server:
    """Start `command`, and wait until it has said where it is and how to stop it."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    server = Server(process)

    def read() -> None:
        server.lines.extend(process.stdout)

    threading.Thread(target=read, daemon=True).start()
    server.wait_for("To stop:")
    found = ADDRESS.search(server.output)
    assert found, f"no address in:\n{server.output}"
    server.port, server.token = int(found["port"]), found["token"]
    return server


def stop_server(server: Server) -> None:
    """End a server and its kernels, and make sure that it has ended."""
    if server.process.poll() is None:
        server.process.terminate()
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def answered_questions(home: Path) -> None:
    """Settings of somebody who has said that no news is wanted, so that nothing pops up."""
    folder = home / "settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')


@contextmanager
def lab_server(
    root: Path, cwd: Path | None = None, profile: str = "smoke", **variables: str
) -> Iterator[Server]:
    """The server of ``python -m course_lib lab ROOT``, at `profile`, isolated from this user.

    Args:
        root: what the file browser shows, such as `copy_of_notebooks(tmp_path)`.
        cwd: working directory of the server; `root` unless given.
        profile: ``COURSE_PROFILE`` of the kernels.
        variables: more of the environment.
    """
    answered_questions(root / ".home")
    environment = isolated(root / ".home", profile, **variables)
    command = [sys.executable, "-m", "course_lib", "lab", str(root)]
    server = start_server(command, environment, cwd or root)
    try:
        yield server
    finally:
        stop_server(server)


class LabPage:
    """One window of JupyterLab.

    Attributes:
        page: the Playwright page.
        console: errors that JavaScript wrote to the console, and exceptions that nothing caught.
    """

    PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"

    def __init__(
        self, chromium: Any, server: Server, root: Path, width: int = 1280, height: int = 900
    ) -> None:
        self.root, self.console = root, []
        context = chromium.new_context(viewport={"width": width, "height": height})
        self.page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on(
            "console", lambda m: self.console.append(m.text) if m.type == "error" else None
        )
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        # The badge of Colab comes from its own site, which tests do not call.
        self.page.route(
            re.compile(r"https://colab\.research\.google\.com/.*\.svg"),
            lambda route: route.fulfill(content_type="image/svg+xml", body=BADGE),
        )
        self.page.goto(server.url)
        self.page.locator(".jp-DirListing-item").first.wait_for()

    def close(self) -> None:
        self.page.context.close()

    # ------------------------------------------------------------------ what a student does

    def menu(self, *path: str) -> None:
        """Click through the menu bar, such as ``menu("Run", "Run All Cells")``."""
        self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{path[0]}$")).click()
        for depth, label in enumerate(path[1:], 1):
            item = self.page.locator(".lm-Menu-item:visible").filter(
                has=self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{label}$"))
            )
            item.last.hover()
            if depth == len(path) - 1:
                item.last.click()

    def open_from_file_browser(self, path: str) -> None:
        """Double-click down to a notebook, such as ``notebooks/04_gan_minimax.ipynb``."""
        *folders, name = path.split("/")
        self.go_to_folder(folders)
        self.page.locator(".jp-DirListing-itemText").get_by_text(name, exact=True).dblclick()
        self.wait_for_notebook(path)

    def go_to_folder(self, folders: list[str]) -> None:
        """Double-click down from the top until the file browser rests in a folder.

        The list may be filled anew between the two clicks, and open what has come to lie under
        the mouse; then one starts again, as a student would.
        """
        for _ in range(5):
            self.page.locator(".jp-BreadCrumbs-home").first.click()
            arrived = self.rests_in([])
            for depth, folder in enumerate(folders, 1):
                item = self.page.locator(".jp-DirListing-itemText").get_by_text(folder, exact=True)
                if arrived:
                    item.dblclick()
                    arrived = self.rests_in(folders[:depth])
            if arrived:
                return
        raise AssertionError(f"the file browser is in {self.folders()}, not in {folders}")

    def folders(self) -> list[str]:
        """Where the file browser is: names of folders from the top."""
        crumbs = self.page.locator(".jp-BreadCrumbs-item").all_inner_texts()
        return [crumb.strip() for crumb in crumbs]

    def rests_in(self, folders: list[str], seconds: float = 15) -> bool:
        """Whether the file browser comes to a folder and is still there half a second later."""
        end = time.monotonic() + seconds
        while self.folders() != folders:
            if time.monotonic() > end:
                return False
            self.page.wait_for_timeout(50)
        self.page.wait_for_timeout(500)
        return self.folders() == folders

    def wait_for_notebook(self, path: str) -> None:
        """Wait until a notebook is the one in front, whole, with a kernel that is ready."""
        front = self.page.locator(".lm-DockPanel-tabBar .lm-TabBar-tab.lm-mod-current")
        front.filter(has_text=path.rsplit("/", 1)[-1]).wait_for()
        loaded = front.and_(self.page.locator("[title*='Path: ']"))
        title = loaded.get_attribute("title")
        assert f"Path: {path}\n" in f"{title}\n", f"not {path}, but this was opened:\n{title}"
        number = len(self.notebook(path)["cells"])
        self.page.wait_for_function(
            "([panel, number]) => document.querySelectorAll("
            "panel + ' .jp-Notebook .jp-Cell').length === number",
            arg=[self.PANEL, number],
        )
        # The toolbar's circle says idle before there is a kernel; the bar below says the truth.
        self.page.locator("#jp-main-statusbar", has_text="| Idle").wait_for()

    def run_all(self) -> None:
        """Run > Run All Cells; returns when the first cells wait for the kernel, or have run.

        A kernel that is still connecting may take nothing, and leave all cells without a number;
        then it is asked again, as a student would ask.
        """
        for _ in range(3):
            self.menu("Run", "Run All Cells")
            for _ in range(40):
                prompts = self.page.locator(f"{self.PANEL} .jp-InputPrompt").all_inner_texts()
                if any("*" in prompt for prompt in prompts):
                    return
                self.page.wait_for_timeout(250)
            if any(re.search(r"\d", prompt) for prompt in prompts):
                return
        raise AssertionError("the kernel takes no cell")

    def wait_idle(self, timeout: float = 120) -> None:
        """Wait until no cell of the notebook in front runs or waits (seconds)."""
        self.page.wait_for_function(
            """panel => {
                const front = document.querySelector(panel);
                const prompts = [...front.querySelectorAll(".jp-InputPrompt")];
                return !prompts.some(prompt => prompt.textContent.includes("*"))
                    && front.querySelector('.jp-Notebook-ExecutionIndicator[data-status="idle"]');
            }""",
            arg=self.PANEL,
            timeout=1000 * timeout,
            polling=250,
        )

    def set_theme(self, theme: str) -> None:
        """Settings > Theme: ``dark`` or ``light``."""
        self.menu("Settings", "Theme", f"JupyterLab {theme.capitalize()}")
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light",
            arg=str(theme == "light").lower(),
        )
        self.page.wait_for_timeout(500)  # the style sheet arrives after the attribute

    def shut_down(self) -> None:
        """End the kernel of the notebook in front and close it, without saving."""
        self.menu("Kernel", "Shut Down Kernel")
        self.page.locator(".jp-Notebook-ExecutionIndicator[data-status=unknown]").or_(
            self.page.locator(".jp-Toolbar-kernelName", has_text="No Kernel")
        ).first.wait_for()
        panel = self.page.locator(self.PANEL).get_attribute("id")
        self.menu("File", "Close Tab")
        discard = self.page.locator(".jp-Dialog-button", has_text="Discard")
        self.page.wait_for_function(  # nothing is asked when it was just saved by itself
            "id => document.querySelector('.jp-Dialog') || !document.getElementById(id)",
            arg=panel,
        )
        if discard.count():
            discard.click()
        self.page.locator(f"[id='{panel}']").wait_for(state="detached")

    # ------------------------------------------------------------------ what a student sees

    def notebook(self, path: str) -> dict[str, Any]:
        """The file of a notebook, path from the root of the file browser."""
        return read_notebook(self.root / path)

    def cells(self) -> Any:
        """All cells of the notebook in front, in order (a locator)."""
        return self.page.locator(f"{self.PANEL} .jp-Notebook .jp-Cell")

    def goto_cell(self, path: str, name: str) -> Any:
        """Scroll to the cell of `path` (the notebook in front) with this id or tag; a locator."""
        cells = self.notebook(path)["cells"]
        found = [i for i, c in enumerate(cells) if c.get("id") == name or name in tags(c)]
        assert found, f"{path} has no cell with the id or tag {name!r}"
        cell = self.cells().nth(found[0])
        cell.scroll_into_view_if_needed()
        return cell

    def errors(self) -> list[str]:
        """Tracebacks among the outputs of the notebook in front.

        The page shows them as it shows standard error, so they are told by how they end.
        """
        mime = "application/vnd.jupyter.stderr"
        texts = self.cells().locator(f'[data-mime-type="{mime}"]').all_inner_texts()
        return [text for text in texts if re.search(r"^\w+(Error|Exit|Interrupt)\b", text, re.M)]

    def outputs(self) -> list[dict[str, Any]]:
        """Of each code cell in front: its ``index`` among all, ``prompt``, ``text``, ``images``.

        Images are counted; the text is what the outputs show.
        """
        return self.page.evaluate(
            """panel => [...document.querySelectorAll(panel + " .jp-Notebook .jp-Cell")]
                .map((cell, index) => [cell, index])
                .filter(([cell, index]) => cell.classList.contains("jp-CodeCell"))
                .map(([cell, index]) => {
                    const shown = [...cell.querySelectorAll(".jp-OutputArea-output")];
                    return {
                        index,
                        prompt: cell.querySelector(".jp-InputPrompt").textContent.trim(),
                        text: shown.map(output => output.textContent).join("\\n"),
                        images: cell.querySelectorAll(".jp-OutputArea-output img").length,
                    };
                })""",
            self.PANEL,
        )
