"""JupyterLab as the course starts it: for this computer alone, and clear about how to reach it.

`start` decides everything and then becomes, or waits for, a process that runs this file as a
script: a server that lives for hours should not hold torch, which importing the course loads.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

HOST, PORT = "127.0.0.1", 8888
# Parts of nbgrader, where it is installed, that would warn of the absence of a course to grade.
FOR_TEACHERS = [
    f"nbgrader.server_extensions.{part}"
    for part in ("formgrader", "assignment_list", "course_list")
]


def folder_and_start(path: str | None) -> tuple[Path, str]:
    """The folder that the file browser shows, and the page that opens first, as in an address.

    Args:
        path: a notebook, a folder, or None for the first lecture. A notebook of the course opens in
            the folder of the course, so that its links work; any other in its own folder.

    Raises:
        FileNotFoundError: there is no such file, or no path was given and there is no checkout.
    """
    from course_lib.notebooks import lecture_paths, require_root  # not when run as a script

    if path is None:
        root = require_root()
        return root, f"/lab/tree/{quote(lecture_paths(root)[0].relative_to(root).as_posix())}"
    chosen = Path(path).resolve()
    if chosen.is_dir():
        return chosen, "/lab"
    if not chosen.is_file():
        raise FileNotFoundError(
            f"There is no {path} here: name a notebook or a folder, or nothing for the first "
            "lecture."
        )
    try:
        root = require_root()
    except FileNotFoundError:
        root = chosen.parent
    folder = root if chosen.is_relative_to(root) else chosen.parent
    return folder, f"/lab/tree/{quote(chosen.relative_to(folder).as_posix())}"


def has_browser(environment: Mapping[str, str], system: str) -> bool:
    """Whether a browser started here would appear in front of whoever asks for it.

    Args:
        environment: the variables of the process.
        system: what `sys.platform` says.
    """
    if environment.get("BROWSER"):  # editors that work over SSH name a helper there
        return True
    if environment.get("SSH_CONNECTION"):
        return False
    desktop = environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY")
    return bool(desktop) or not system.startswith("linux")


def welcome(
    address: str, wanted: int, port: int, environment: Mapping[str, str], browser: bool
) -> str:
    """What the terminal says when the server listens: where it is, and how to stop it.

    Args:
        address: the page to open, with the token.
        wanted: the port asked for.
        port: the port found.
        environment: the variables of the process, for a login over SSH.
        browser: whether a browser was opened.
    """
    lines = []
    if port != wanted:
        lines.append(
            f"Port {wanted} is taken, perhaps by another JupyterLab, so this one listens on {port}."
        )
    if browser:
        lines.append("JupyterLab opens in your browser. If it does not, open this address there:")
    elif environment.get("SSH_CONNECTION"):
        lines += [
            "You are logged in over SSH. On the computer in front of you, in a second terminal:",
            f"    {tunnel(port, environment)}",
            "While that runs, open this address in the browser there:",
        ]
    else:
        lines.append("No browser was started. Open this address in one on this computer:")
    lines += [
        f"    {address}",
        "To stop: Ctrl-C here, then y and Enter within five seconds (or Ctrl-C twice).",
    ]
    return "\n".join(["", *lines, ""])


def tunnel(port: int, environment: Mapping[str, str]) -> str:
    """The line that makes the server's port reachable through the login over SSH."""
    parts = environment["SSH_CONNECTION"].split()
    host, ssh_port = (parts[2], parts[3]) if len(parts) == 4 else (platform.node(), "22")
    option = f"-p {ssh_port} " if ssh_port != "22" else ""
    return f"ssh {option}-N -L {port}:{HOST}:{port} {getpass.getuser()}@{host}"


def start(path: str | None = None, port: int = PORT, browser: bool | None = None) -> int:
    """Run JupyterLab until it is stopped; on systems that can, this process becomes it.

    Args:
        path: a notebook or a folder (`folder_and_start`).
        port: the port to try first.
        browser: whether to open a browser; None asks `has_browser`.

    Returns:
        The exit code.

    Raises:
        ValueError: the port is none.
        FileNotFoundError: `folder_and_start` finds nothing.
        ModuleNotFoundError: JupyterLab is not installed.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"A port is a number from 1 to 65535, not {port}.")
    folder, page = folder_and_start(path)
    if browser is None:
        browser = has_browser(os.environ, sys.platform)
    import jupyterlab  # noqa: F401  (says now that it is missing, not in the other process)

    settings = {"folder": str(folder), "page": page, "port": port, "browser": browser}
    # Without -P, every module beside this file could be imported under its bare name.
    command = [sys.executable, "-P", __file__, json.dumps(settings)]
    if os.name == "nt":  # there, exec would leave the terminal to the shell
        return subprocess.call(command)
    os.execv(command[0], command)


def serve(folder: str, page: str, port: int, browser: bool) -> None:
    """Run the server in this process.

    It listens on the loopback address alone and asks for a token: that of ``JUPYTER_TOKEN``, else a
    new one. When the port is taken, it takes the next free one.

    Args:
        folder: root of the file browser.
        page: what opens first, such as ``/lab/tree/notebooks/04_gan_minimax.ipynb``.
        port: the port to try first.
        browser: whether to open a browser.
    """
    from jupyterlab.labapp import LabApp

    token = os.environ.get("JUPYTER_TOKEN") or secrets.token_hex(24)
    # Debuggers warn about frozen modules in the terminal, once per kernel, otherwise.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    app = LabApp.initialize_server(
        [
            f"--ServerApp.root_dir={folder}",
            f"--ServerApp.ip={HOST}",
            f"--ServerApp.port={port}",
            f"--ServerApp.open_browser={browser}",
            f"--LabApp.default_url={page}",
            f"--IdentityProvider.token={token}",
            # Containers often work as root, where Jupyter wants to be told that this is meant.
            "--ServerApp.allow_root=True",
            # The terminal is for what the reader needs: where it is, how to stop, what went wrong.
            "--Application.log_level=WARN",
            *(f"--ServerApp.jpserver_extensions={name}=False" for name in FOR_TEACHERS),
        ]
    )
    address = (
        f"http://{HOST}:{app.port}{app.base_url.rstrip('/')}{page}?token={quote(token, safe='')}"
    )
    text = welcome(address, port, app.port, os.environ, browser)
    app.io_loop.add_callback(print, text, flush=True)  # runs when the port is bound
    app.start()


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
