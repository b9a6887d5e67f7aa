"""An interpreter such as Colab's: torch and the rest are there, and course_lib is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

VERSIONS = """
import importlib.metadata as m, json
print(json.dumps({d.name: [d.version, str(d.locate_file(''))] for d in m.distributions()}))
"""


class Hosted:
    """It finds what is installed here, and has a folder of its own for what is installed later.

    Args:
        place: a new folder for it.
        hidden: beginnings of what it shall not find, not even as a record of pip. Without them an
            editable install of the course leaves its record, though not the library.
    """

    def __init__(self, place: Path, hidden: tuple[str, ...] = ()) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
        found = (place / "bin/python", place / "Scripts/python.exe")
        self.python = next(path for path in found if path.exists())
        query = [self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        run = subprocess.run(query, check=True, capture_output=True, text=True)
        self.site = Path(run.stdout.strip())
        installed = Path(sysconfig.get_path("purelib"))
        if hidden:
            links = place / "preinstalled"
            links.mkdir()
            for path in installed.iterdir():
                if not path.name.startswith(hidden):
                    (links / path.name).symlink_to(path)
            installed = links
        # Files named *.pth inside a folder that a .pth names are not read, so an editable install
        # of the course in this environment stays unseen.
        (self.site / "preinstalled.pth").write_text(str(installed))
        self.folder = place / "empty"
        self.folder.mkdir()

    def execute(
        self, code: str, limit: int | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run code in the empty folder; with `limit`, none of its files may have more bytes."""

        def limited() -> None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        environment = {k: v for k, v in os.environ.items() if not k.startswith("COURSE_")}
        environment |= {"PYTHONPATH": "", "NO_PROXY": "127.0.0.1", **variables}
        return subprocess.run(
            [self.python, "-c", code],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
            preexec_fn=limited if limit else None,
        )

    def versions(self) -> dict[str, list[str]]:
        """Version and folder of every package that it finds, by name."""
        return json.loads(self.execute(VERSIONS).stdout)

    def own(self) -> set[str]:
        """What lies in its own folder, besides the pointer to what was there before."""
        return {path.name for path in self.site.iterdir()} - {"preinstalled.pth"}
