"""A Chromium for the tests that use the notebooks and the web site as a reader does."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# No sandbox, because containers often work as root; the rest keeps Chromium from calling home.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator:
    """A headless Chromium (a Playwright ``Browser``).

    ``COURSE_CHROMIUM`` names another one than the ``chromium`` of the search path. It ends with
    its file: as long as it lives, an event loop runs in this thread, in which kernels that a later
    test starts would wait for ever.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = os.environ.get("COURSE_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if program is None:
        pytest.skip(
            "no Chromium: install it (apt-get install chromium), or name one in COURSE_CHROMIUM"
        )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, headless=True, args=FLAGS, timeout=120_000
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of what the tests saw are kept, to be looked at: ``build/screenshots``."""
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
