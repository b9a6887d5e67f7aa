"""Where the tests of the data find real sets, and how they are kept off the network."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real() -> Path:
    """A mirror with real sets, or a skipped test that says how to provide one."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("COURSE_MIRROR") or beside)
    if not folder.is_dir():
        pytest.skip("real data are needed: set COURSE_MIRROR to a folder that has them")
    return folder


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without network or mirror, wherever the tests run."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("COURSE_MIRROR", raising=False)
