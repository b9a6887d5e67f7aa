"""The server that ``make lab`` starts: for this computer alone, clear about where it is."""

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from course_lib import lab as server_side
from course_lib.notebooks import lecture_paths

sys.path.insert(0, str(Path(__file__).parent))
from lab import isolated, start_server, stop_server

ROOT = Path(__file__).parents[2]
SSH = {"SSH_CONNECTION": "192.0.2.7 51000 192.0.2.1 22"}
COMMAND = [sys.executable, "-m", "course_lib", "lab"]


def status(url, token=None):
    """The HTTP status of a page and where a redirect leads, without following it."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    headers = {"Authorization": f"token {token}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=headers)
        answer = urllib.request.build_opener(Stay).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers.get("Location", "")


def listening(port):
    """The addresses at which anything on this machine listens on a TCP port (Linux)."""
    found = set()
    for name in ("tcp", "tcp6"):
        table = Path("/proc/net", name)
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            address, state = line.split()[1], line.split()[3]
            where, number = address.split(":")
            if state == "0A" and int(number, 16) == port:
                raw = bytes.fromhex(where)
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                family = socket.AF_INET if name == "tcp" else socket.AF_INET6
                found.add(socket.inet_ntop(family, words))
    return found


def kernels_of(pid):
    """Process numbers of the children of a process (Linux)."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if (fields := _stat(path)) and fields[1] == str(pid)
    ]


def _stat(path):
    try:
        return path.read_text().rsplit(")", 1)[1].split()
    except OSError:  # it ended meanwhile
        return None


def running(pid):
    fields = _stat(Path("/proc", str(pid), "stat"))
    return fields is not None and fields[0] != "Z"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two servers that want the same port: the first as over SSH, the second on a terminal."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (extra lab)")
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    wanted = [*COMMAND, "--port", str(port)]
    hand, terminal = pty.openpty()
    servers = []
    try:
        servers.append(start_server(wanted, isolated(folder / "a", **SSH), ROOT))
        environment = isolated(folder / "b")
        servers.append(start_server([*wanted, str(folder)], environment, folder, terminal))
        servers[1].keyboard = hand
        yield port, *servers
    finally:
        for server in servers:
            stop_server(server)
        os.close(hand)
        os.close(terminal)


def test_it_says_its_address_and_how_to_stop(two):
    _, first, _ = two
    page = lecture_paths(ROOT)[0].relative_to(ROOT)
    assert f"http://127.0.0.1:{first.port}/lab/tree/{page}?token={first.token}" in first.output
    assert "To stop: Ctrl-C here, then y" in first.output
    assert "nbgrader" not in first.output.lower()  # it would tell students that they grade nothing
    code, _ = status(f"http://127.0.0.1:{first.port}/lab/tree/{page}?token={first.token}")
    assert code == 200


def test_over_ssh_it_gives_the_line_that_brings_it_home(two):
    port, first, second = two
    assert re.search(rf"ssh -N -L {port}:127\.0\.0\.1:{port} \S+@192\.0\.2\.1\n", first.output)
    assert "ssh" not in second.output.lower()


def test_nothing_opens_without_the_token(two):
    _, first, _ = two
    base = f"http://127.0.0.1:{first.port}"
    code, where = status(f"{base}/lab")
    assert code == 302 and where.startswith("/login")
    assert status(f"{base}/api/kernels")[0] == 403
    assert status(f"{base}/api/kernels", "a-guess")[0] == 403
    assert status(f"{base}/api/kernels", first.token)[0] == 200
    assert len(first.token) >= 32


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/net")
def test_it_listens_on_the_loopback_address_alone(two):
    _, first, second = two
    assert listening(first.port) == listening(second.port) == {"127.0.0.1"}


def test_a_second_one_takes_another_port_and_says_so(two):
    port, first, second = two
    assert first.port == port != second.port
    assert f"Port {port} is taken" in second.output
    assert f"listens on {second.port}" in second.output
    assert "is taken" not in first.output


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_and_yes_end_it_and_its_kernels(two):
    """The last test of this file, because it ends the second server."""
    _, _, second = two
    base = f"http://127.0.0.1:{second.port}/api/kernels"
    headers = {"Authorization": f"token {second.token}", "Content-Type": "application/json"}
    request = urllib.request.Request(base, b'{"name": "python3"}', headers, method="POST")
    assert json.load(urllib.request.urlopen(request, timeout=60))["id"]
    kernels = kernels_of(second.process.pid)
    assert kernels
    second.process.send_signal(signal.SIGINT)
    second.wait_for("Shut down this Jupyter server (y/[n])?", 10)
    os.write(second.keyboard, b"y\n")
    start = time.monotonic()
    assert second.process.wait(30) == 0
    assert time.monotonic() - start < 15
    assert not [pid for pid in kernels if running(pid)]


def test_ctrl_c_twice_ends_it_too(tmp_path):
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (extra lab)")
    hand, terminal = pty.openpty()
    server = start_server([*COMMAND, str(tmp_path)], isolated(tmp_path), tmp_path, terminal)
    try:
        server.process.send_signal(signal.SIGINT)
        time.sleep(1)  # its question ends without a line break, so that nothing tells of it
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(15) == 0
    finally:
        stop_server(server)
        os.close(hand)
        os.close(terminal)


# ---------------------------------------------------------------------- without a server


def test_make_lab_is_this_command():
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    words = [make, "--dry-run", "--no-print-directory", "lab", "PORT=9000"]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].endswith("python -m course_lib lab --port 9000")


def test_a_browser_opens_only_where_it_would_be_seen():
    shown = server_side.has_browser
    assert shown({"DISPLAY": ":0"}, "linux")
    assert shown({"WAYLAND_DISPLAY": "wayland-0"}, "linux")
    assert shown({}, "darwin") and shown({}, "win32")
    assert not shown({}, "linux")
    assert not shown({"DISPLAY": ":10.0", **SSH}, "linux")
    assert not shown(SSH, "darwin")
    assert shown({"BROWSER": "helper.sh", **SSH}, "linux")


def test_another_port_of_ssh_stands_in_the_line():
    line = server_side.tunnel(8889, {"SSH_CONNECTION": "192.0.2.7 51000 192.0.2.1 2222"})
    assert line.startswith("ssh -p 2222 -N -L 8889:127.0.0.1:8889 ")


def test_a_notebook_opens_in_the_folder_of_the_course_or_in_its_own(tmp_path):
    chosen = lecture_paths(ROOT)[2]
    folder, page = server_side.folder_and_start(str(chosen))
    assert (folder, page) == (ROOT, f"/lab/tree/notebooks/{chosen.name}")
    own = tmp_path / "my.ipynb"
    own.write_text("{}")
    assert server_side.folder_and_start(str(own)) == (tmp_path, "/lab/tree/my.ipynb")
    assert server_side.folder_and_start(str(tmp_path)) == (tmp_path, "/lab")
    with pytest.raises(FileNotFoundError, match="name a notebook or a folder"):
        server_side.folder_and_start(str(tmp_path / "missing.ipynb"))


def test_an_address_is_written_as_one(tmp_path):
    own = tmp_path / "Lecture #1? (mine).ipynb"
    own.write_text("{}")
    _, page = server_side.folder_and_start(str(own))
    assert urllib.parse.urlsplit(page).path == page and " " not in page
    assert urllib.parse.unquote(page) == f"/lab/tree/{own.name}"


def test_a_port_that_is_none_ends_in_a_sentence():
    with pytest.raises(ValueError, match="from 1 to 65535, not 99999"):
        server_side.start(port=99999)
