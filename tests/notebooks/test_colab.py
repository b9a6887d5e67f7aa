"""The set-up cell where Colab and Kaggle run it, and runs that outlive a session there.

The cell is run for real: pip takes the archive of the checkout from a server on this machine, as it
would from GitHub, and builds it apart with a setuptools from the package index.
"""

import ast
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from course_lib import notebooks
from course_lib.recipes import runs

sys.path.insert(0, str(Path(__file__).parent))
from hosted import Hosted

ROOT = Path(__file__).parents[2]
ADDRESS = notebooks.Address.of(ROOT)
CELL = notebooks.setup_cell(ADDRESS)
NOTEBOOKS = [
    *notebooks.lecture_paths(ROOT),
    *sorted((ROOT / "notebooks/exercises").glob("*.ipynb")),
]

each_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}"
)

NO_PIP = """
import sys

def refuse(event, arguments):
    assert event != "subprocess.Popen" or "pip" not in arguments[1], arguments

sys.addaudithook(refuse)
"""


# ---------------------------------------------------------------------------- installing


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Folder and address of the archive that GitHub would make of this checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("git and a checkout are needed to tell which files belong to the course")
    folder = tmp_path_factory.mktemp("github")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    listed = subprocess.run([*command, "--exclude-standard"], check=True, capture_output=True)
    packed = folder / f"{ADDRESS.branch}.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                file.write(ROOT / name, f"course-{ADDRESS.branch}/{name}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield packed, f"http://127.0.0.1:{server.server_port}/{packed.name}"
    server.shutdown()
    server.server_close()


def cpu_seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def index_answers(folder: Path) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder)]
    return subprocess.run([*command, "setuptools"], capture_output=True).returncode == 0


@pytest.mark.parametrize("missing", [(), ("safetensors",)], ids=["all there", "no safetensors"])
def test_first_cell_installs_the_library_and_only_what_is_missing(archive, tmp_path, missing):
    packed, source = archive
    # Two megabytes per second bring it in half of the half minute that the cell may take.
    assert packed.stat().st_size < 30e6
    host = Hosted(tmp_path / "host", hidden=("course_lib", *missing))
    before = host.versions()
    assert "torch" in before and "course-lib" not in before
    start = cpu_seconds_of_children()
    first = host.execute(CELL, COURSE_SOURCE=source)
    seconds = cpu_seconds_of_children() - start
    if first.returncode != 0 and not index_answers(tmp_path):
        pytest.skip("the package index cannot be reached, and pip builds with a setuptools from it")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith(f"course_lib {ADDRESS.version} · ")
    # Seconds of the processor, since those of a clock are the neighbours' as well.
    assert seconds < 30
    after = host.versions()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"course-lib", *missing}
    gained = {"course_lib", f"course_lib-{ADDRESS.version}.dist-info"}
    assert {name for name in host.own() if not name.startswith("safetensors")} == gained
    assert list(host.folder.iterdir()) == []

    again = host.execute(NO_PIP + CELL)
    assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr


def large_wheel(folder: Path) -> Path:
    """A library whose second file does not fit where files may have a megabyte."""
    path, info = folder / "course_lib-9-py3-none-any.whl", "course_lib-9.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("course_lib/__init__.py", "def setup(seed, needs):\n    print('set up')\n")
        file.writestr("course_lib/weights", bytes(2_000_000))
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: course_lib\nVersion: 9\n")
        tag = "Root-Is-Purelib: true\nTag: py3-none-any\n"
        file.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\n{tag}")
        names = [*file.namelist(), f"{info}/RECORD"]
        file.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return path


def test_a_failed_installation_is_one_sentence_and_leaves_nothing_behind(archive, tmp_path):
    _, source = archive
    host = Hosted(tmp_path / "host", hidden=("course_lib",))
    closed = "http://127.0.0.1:9/main.zip"
    failures = {
        "404": {"COURSE_SOURCE": source.replace(".zip", ".tar")},
        "Failed to connect|Max retries": {"COURSE_SOURCE": closed, "PIP_RETRIES": "0"},
        "build dependencies": {
            "COURSE_SOURCE": source,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_EXTRA_INDEX_URL": "http://127.0.0.1:9/more",
            "PIP_RETRIES": "0",
        },
    }
    for reason, variables in failures.items():
        run = host.execute(CELL, **variables)
        assert run.returncode == 1
        assert run.stderr.startswith(
            f"course_lib could not be installed from {variables['COURSE_SOURCE']}"
        )
        assert re.search(reason, run.stderr), run.stderr
        assert "run this cell again" in run.stderr and run.stderr.count("\n") == 2, run.stderr
        assert host.own() == set()


@pytest.mark.skipif(os.name == "nt", reason="files cannot be limited in size there")
def test_after_a_full_disk_the_cell_can_be_run_again(tmp_path):
    host, wheel = Hosted(tmp_path / "host", hidden=("course_lib",)), large_wheel(tmp_path)
    full = host.execute(CELL, limit=1_000_000, COURSE_SOURCE=str(wheel))
    assert full.returncode == 1 and "File too large" in full.stderr, full.stderr
    assert "the free space" in full.stderr
    assert host.own() == set(), "half a library would be taken for a whole one"
    again = host.execute(CELL, COURSE_SOURCE=str(wheel))
    assert (again.returncode, again.stdout) == (0, "set up\n"), again.stderr


# ---------------------------------------------------------------------------- notebooks alone


def code_of(path: Path) -> list[str]:
    cells = notebooks.read_notebook(path)["cells"]
    return [notebooks.source(cell) for cell in cells if cell["cell_type"] == "code"]


def files_named_in(code: str) -> list[str]:
    """Constant names of files and folders that code opens, if they are no absolute ones."""
    openers = {"open", "Path", "imread", "imsave", "savefig", "loadtxt", "genfromtxt", "read_csv"}
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            value = node.args[0].value
            if name in openers and isinstance(value, str) and not Path(value).is_absolute():
                found.append(value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.match(r"(\.{1,2}/|(data|notebooks|build|course_lib)/)\S*$", node.value):
                found.append(node.value)
    return found


@each_notebook
def test_no_cell_leaves_python_or_reads_a_file_beside_the_notebook(path):
    for code in code_of(path):
        for line in code.splitlines():
            assert not re.match(r"\s*[%!]", line), line
        assert not re.search(r"\bos\.chdir\(|get_ipython\(|\bos\.system\(", code)
        assert files_named_in(code) == [], code


@each_notebook
def test_pictures_in_the_text_do_not_lie_beside_the_notebook(path):
    for cell in notebooks.read_notebook(path)["cells"]:
        if cell["cell_type"] == "markdown":
            text = notebooks.source(cell)
            targets = re.findall(r"!\[[^\]]*\]\(\s*([^)\s]+)", text)
            targets += re.findall(r"<(?:img|video|source)[^>]*\bsrc=[\"']?([^\"'\s>]+)", text)
            assert all(t.startswith(("https://", "data:", "attachment:")) for t in targets), targets


def test_the_search_for_files_finds_them():
    for code in ("open('x.txt')", "plt.imread('../x.png')", "f('./x')", "Path('data', 'x')"):
        assert files_named_in(code)
    for code in ("open(path)", "f('x / y')", "f('data')", "open('/tmp/x')"):
        assert not files_named_in(code)


# ---------------------------------------------------------------------------- sessions that end


LONG_RUNS = [
    path
    for path in notebooks.lecture_paths(ROOT)
    if any("own-run" in notebooks.tags(cell) for cell in notebooks.read_notebook(path)["cells"])
]


def test_both_lectures_on_full_runs_have_a_run_of_the_readers_own():
    assert {path.stem for path in LONG_RUNS} >= {"18_full_run_gan", "19_full_run_vae"}


def cells_of_own_run(path: Path) -> list[str]:
    """Set-up, imports, and all that the run of the reader's own needs of the cells before it."""
    cells = [c for c in notebooks.read_notebook(path)["cells"] if c["cell_type"] == "code"]
    (own,) = [i for i, cell in enumerate(cells) if "own-run" in notebooks.tags(cell)]
    setup = next(i for i, cell in enumerate(cells) if "setup" in notebooks.tags(cell))
    constants = [
        line
        for cell in cells[:own]
        for line in notebooks.source(cell).splitlines()
        if re.match(r"SMALL = ", line)
    ]
    return [
        *map(notebooks.source, cells[setup : setup + 2]),
        *constants,
        notebooks.source(cells[own]),
    ]


class Session:
    """A kernel in an empty folder, as a hosted notebook gets one."""

    def __init__(self, folder: Path, output: Path) -> None:
        from jupyter_client.manager import KernelManager

        folder.mkdir()
        self.folder = folder
        self.manager = KernelManager(kernel_name="python3")
        self.manager.kernel_spec.argv[0] = sys.executable
        self.manager.start_kernel(
            cwd=str(folder),
            env=os.environ | {"COURSE_PROFILE": "smoke", "COURSE_OUTPUT": str(output)},
        )
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)
        self.text = ""

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, code: str) -> None:
        """Execute a cell to its end; what it printed is added to `text`."""

        def note(message) -> None:
            content = message["content"]
            self.text += content.get("text", "") if message["msg_type"] == "stream" else ""

        reply = self.client.execute_interactive(code, timeout=200, output_hook=note)
        assert reply["content"]["status"] == "ok", reply["content"]

    def killed_when(self, code: str, ready) -> None:
        """Start a cell, and end the kernel without warning once `ready` says so."""
        self.client.execute(code)
        deadline = time.monotonic() + 200
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(self.manager.provisioner.pid, signal.SIGKILL)
        with pytest.raises((RuntimeError, queue.Empty)):
            self.client.wait_for_ready(timeout=1)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL there")
@pytest.mark.parametrize("path", LONG_RUNS, ids=lambda path: path.stem)
def test_run_in_a_chosen_folder_goes_on_in_the_next_session_bit_for_bit(path, tmp_path):
    *before, own = cells_of_own_run(path)
    drive = tmp_path / "drive"
    drive.mkdir()
    home = drive / "course" / f"lecture-{path.name[:2]}-smoke"
    with Session(tmp_path / "first", drive / "course") as session:
        for cell in before:
            session.run(cell)
        assert f"Runs are kept in {drive / 'course'}" in session.text
        session.killed_when(own, (home / "checkpoint" / "manifest.json").exists)
    assert not (home / "card.json").exists(), "killed too late to show anything"
    with Session(tmp_path / "second", drive / "course") as session:
        for cell in (*before, own):
            session.run(cell)
        assert "kept for the next session" in session.text
        session.run(own)
        assert "This run is finished" in session.text
        assert list(session.folder.iterdir()) == []
    card = json.loads((home / "card.json").read_text())
    assert len(card["sessions"]) == 2 and card["sessions"][1]["from"] > 0
    asked = {k: card["config"][k] for k in ("profile", "steps", "seed", "every", "settings")}
    whole = runs.train(card["recipe"], out=tmp_path / "whole", progress=False, **asked)
    assert len(whole["sessions"]) == 1
    assert (card["weights"], card["curves"]) == (whole["weights"], whole["curves"])


def test_run_whose_drive_is_unmounted_stops_with_a_sentence_and_goes_on_later(
    tmp_path, monkeypatch
):
    wanted = {"profile": "smoke", "steps": 60, "every": 20}
    wanted["settings"] = {"data": "digits", "width": 32, "latent_dim": 8, "test_images": 20}
    whole = runs.train("vae_mnist", out=tmp_path / "whole", progress=False, **wanted)

    drive, elsewhere, grids = tmp_path / "drive", tmp_path / "elsewhere", []

    def unmounted_at_the_third(pixels):
        grids.append(grid(pixels))
        if len(grids) == 3:
            drive.rename(elsewhere)
            drive.mkdir()  # a mount point stays
        return grids[-1]

    grid = runs.grid
    monkeypatch.setattr(runs, "grid", unmounted_at_the_third)
    drive.mkdir()
    with pytest.raises(OSError, match=r"directory of this run is gone.*mount") as error:
        runs.train("vae_mnist", out=drive / "run", progress=False, **wanted)
    assert str(drive / "run") in str(error.value)
    assert list(drive.iterdir()) == [], "files in a mount point hide, and hinder the next mount"
    drive.rmdir()
    elsewhere.rename(drive)
    card = runs.train("vae_mnist", out=drive / "run", progress=False, resume=True, **wanted)
    assert [session["from"] for session in card["sessions"]] == [0, 20]
    assert card["weights"] == whole["weights"]
