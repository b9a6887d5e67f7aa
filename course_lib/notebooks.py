"""The lectures as files: their generated cells, their freshness, and running them.

Three cells of each lecture are generated and carry the tag ``badges``, ``record`` or ``setup``;
everything else is the author's. ``source_hash`` covers the author's code, so that a stored output
can be told from a stale one.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import re
import sys
import tempfile
import threading
import time
import tomllib
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from course_lib.environment import PROFILES, Profile, repository_root

GENERATED_TAGS = ("badges", "record", "setup")
PICTURES = ("image/png", "image/gif")

SETUP_CELL = """\
# Set-up, the same in every notebook. It installs course_lib where it is missing (Colab, Kaggle).
import importlib.util
import os
import shutil
import subprocess
import sys

if importlib.util.find_spec("course_lib") is None:
    source = os.environ.get(
        "COURSE_SOURCE",
        "{address}/archive/refs/heads/{branch}.zip",
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source]
    done = None
    try:
        done = subprocess.run(pip, capture_output=True, text=True)
    finally:
        importlib.invalidate_caches()
        if done is None or done.returncode != 0:  # pip leaves what it had copied: take it away
            half = importlib.util.find_spec("course_lib")
            for folder in half.submodule_search_locations if half else []:
                shutil.rmtree(folder)
    if done.returncode != 0:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = [line for line in said if line.startswith(("ERROR:", "×"))] or said or ["nothing"]
        raise SystemExit(
            f"course_lib could not be installed from {{source}}. pip says: {{said[-1]}}\\n"
            "Check the network (on Kaggle: Settings, Internet on), the address and the free space, "
            "then run this cell again."
        )

import course_lib

course = course_lib.setup(seed=0, needs="{version}")"""


def lecture_paths(root: Path) -> list[Path]:
    """The lectures of a checkout, ``notebooks/NN_topic.ipynb``, in order."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def require_root() -> Path:
    """The checkout of the course.

    Raises:
        FileNotFoundError: the library runs without its checkout.
    """
    root = repository_root()
    if root is None:
        raise FileNotFoundError(
            "This command works on the notebooks of the course, and course_lib is installed here "
            "without them: run it in a clone of the repository."
        )
    return root


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook as a dictionary.

    Raises:
        ValueError: the file is not a notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        notebook["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path.name} cannot be read as a notebook ({type(error).__name__}): "
            "restore it with git, or export it from JupyterLab again."
        ) from None
    return notebook


def write_notebook(path: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook in the layout that JupyterLab writes; whole, or not at all."""
    import nbformat

    node = nbformat.reads(json.dumps(notebook), as_version=4)
    write_text(path, nbformat.writes(node) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_file(path, text.encode())


def write_file(path: Path, content: bytes) -> None:
    """Write a file aside, then rename it into place; a link stays one, and so does a device."""
    path = path.resolve()
    if path.exists() and not (path.is_file() or path.is_dir()):  # such as /dev/null
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def source(cell: dict[str, Any]) -> str:
    """Source text of a cell (stored as a string or as a list of lines)."""
    text = cell.get("source", "")
    return text if isinstance(text, str) else "".join(text)


def tags(cell: dict[str, Any]) -> list[str]:
    """Tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def picture_outputs(cell: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of a cell that hold a picture, in order."""
    return [
        output for output in cell.get("outputs", []) if set(PICTURES) & {*output.get("data", {})}
    ]


def alternatives(cell: dict[str, Any]) -> list[str]:
    """What the pictures of a cell show, in words: its metadata ``alt``, one text per picture."""
    return cell.get("metadata", {}).get("alt", [])


def source_hash(notebook: dict[str, Any]) -> str:
    """Hash of what the stored outputs come from: the author's code cells and their checks.

    Text is left out, so that a typo is mended without a run; generated cells too.
    """
    parts = [
        [source(cell), cell.get("metadata", {}).get("checks", [])]
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and not set(tags(cell)) & set(GENERATED_TAGS)
    ]
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]


def stale(root: Path) -> list[Path]:
    """The lectures whose stored outputs are not those of their cells."""
    return [
        path
        for path in lecture_paths(root)
        if (notebook := read_notebook(path))["metadata"].get("course", {}).get("source_hash")
        != source_hash(notebook)
    ]


def claimed_equations(notebook: dict[str, Any]) -> list[str]:
    r"""Numbers of the equations that claim something.

    That is ``\tag{4.3}``, or ``\tag{4.3a}`` for a step on the way to it, but not ``\tag{def 4.3}``.
    """
    text = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return re.findall(r"\\tag\{(\d+\.\d+[a-z]?)\}", text)


def checked_equations(notebook: dict[str, Any]) -> list[str]:
    """Numbers of the equations that code cells say they check, one entry per cell and number."""
    return [
        number
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for number in cell.get("metadata", {}).get("checks", [])
    ]


# ---------------------------------------------------------------------------- generated cells


@dataclass(frozen=True)
class Address:
    """Where the repository lives, and the version of its library, as ``pyproject.toml`` says."""

    url: str
    branch: str
    version: str

    @classmethod
    def of(cls, root: Path) -> Address:
        """Read ``[project.urls] Repository``, ``[tool.course] branch`` and the version.

        Raises:
            ValueError: the address is missing or is not on GitHub, which Colab needs.
        """
        settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        url = settings["project"].get("urls", {}).get("Repository", "").rstrip("/")
        if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url):
            raise ValueError(
                f"[project.urls] Repository in pyproject.toml is {url!r}: "
                "write it as https://github.com/OWNER/NAME, which Colab links need."
            )
        branch = settings.get("tool", {}).get("course", {}).get("branch", "main")
        return cls(url, branch, settings["project"].get("version", "0"))

    @property
    def slug(self) -> str:
        """``OWNER/NAME``."""
        return self.url.removeprefix("https://github.com/")


def setup_cell(address: Address) -> str:
    """Source of the set-up cell."""
    return SETUP_CELL.format(address=address.url, branch=address.branch, version=address.version)


def badge_row(address: Address, path: Path) -> str:
    """Source of the badge row of one lecture."""
    inside = f"{address.slug}/blob/{address.branch}/notebooks/{path.name}"
    exercises = path.parent / "exercises" / path.name
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{inside}) "
        f"[view on GitHub](https://github.com/{inside}) · "
        + f"[exercises](exercises/{path.name}) · " * exercises.exists()
        + "[map of the course](README.md)"
    )


def record_row(notebook: dict[str, Any]) -> str:
    """Source of the line with minutes and memory, from the recorded runs of this notebook."""
    runs = notebook.get("metadata", {}).get("course", {}).get("runs", {})
    if not runs:
        return "*Time and memory: no recorded run yet.*"
    parts = [
        f"`{name}` {_minutes(run['seconds'])} and {run['peak_memory_mb'] / 1000:.1f} GB "
        f"on {run['device']}"
        for name in PROFILES
        if (run := runs.get(name))
    ]
    return "*Time and memory of the last recorded runs: " + "; ".join(parts) + ".*"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def with_generated_cells(notebook: dict[str, Any], path: Path, address: Address) -> dict[str, Any]:
    """A copy of the notebook in which the three generated cells are up to date.

    Raises:
        ValueError: a generated cell is missing or stands there twice.
    """
    texts = {
        "badges": badge_row(address, path),
        "record": record_row(notebook),
        "setup": setup_cell(address),
    }
    cells, found = [], []
    for cell in notebook["cells"]:
        generated = [tag for tag in tags(cell) if tag in GENERATED_TAGS]
        if generated:
            found += generated
            cell = {**cell, "source": texts[generated[0]].splitlines(keepends=True)}
        cells.append(cell)
    if sorted(found) != sorted(GENERATED_TAGS):
        raise ValueError(
            f"{path.name} should have one cell with each of the tags {', '.join(GENERATED_TAGS)}, "
            f"but has {', '.join(found) or 'none'}: add the missing cell, or take the second away."
        )
    return {**notebook, "cells": cells}


def update_badges(root: Path, write: bool = True) -> list[Path]:
    """Bring the generated cells of all lectures up to date, and the picture of the README.

    The picture, ``data/readme.png``, is the stored output of the cell with the tag ``readme``.

    Returns:
        The files that differed.
    """
    address = Address.of(root)
    changed = []
    for path in lecture_paths(root):
        notebook = read_notebook(path)
        fresh = with_generated_cells(notebook, path, address)
        if [source(c) for c in fresh["cells"]] != [source(c) for c in notebook["cells"]]:
            changed.append(path)
            if write:
                write_notebook(path, fresh)
        picture = root / "data" / "readme.png"
        for data in _readme_pictures(notebook):
            if not picture.exists() or picture.read_bytes() != data:
                changed.append(picture)
                if write:
                    write_file(picture, data)
    return changed


def _readme_pictures(notebook: dict[str, Any]) -> Iterator[bytes]:
    for cell in notebook["cells"]:
        if "readme" in tags(cell):
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    yield b64decode("".join(output["data"]["image/png"]))


# ---------------------------------------------------------------------------- the front page

THUMBNAIL_SIZE = (320, 200)  # pixels at most; shown half as wide, so that fine screens gain
LECTURES_BEGIN, LECTURES_END = (
    "<!-- lectures: made from the notebooks -->",
    "<!-- end of lectures -->",
)


def thumbnail(notebook: dict[str, Any], path: Path) -> tuple[bytes, str]:
    """The small picture of a lecture, and the words for those who do not see it.

    One cell has the metadata ``"thumbnail": {"alt": "…", "box": [left, top, right, bottom]}``; the
    picture is cut from its stored output, and the sides of the box are shares of its width and
    height. The hash of what it was made from stands in the file, because another version of the
    image library may pack the same picture into other bytes.

    Raises:
        ValueError: no cell, or several, have that metadata, or the cell has stored no picture.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    found = [cell for cell in notebook["cells"] if "thumbnail" in cell.get("metadata", {})]
    outputs = [output for cell in found for output in cell.get("outputs", [])]
    pictures = [output["data"] for output in outputs if "image/png" in output.get("data", {})]
    if len(found) != 1 or not pictures:
        raise ValueError(
            f'{path.name} needs one cell with the metadata "thumbnail": {{"alt": "…", "box": '
            "[0, 0, 1, 1]}, and a picture among its stored outputs; "
            f"{len(found)} cells have it, with {len(pictures)} pictures."
        )
    said, content = found[0]["metadata"]["thumbnail"], b64decode("".join(pictures[0]["image/png"]))
    made_from = hashlib.sha256(json.dumps([said["box"], THUMBNAIL_SIZE]).encode() + content)
    image = Image.open(io.BytesIO(content)).convert("RGB")
    sides = (share * size for share, size in zip(said["box"], image.size * 2, strict=True))
    image = image.crop(tuple(round(side) for side in sides))
    image.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    info, buffer = PngInfo(), io.BytesIO()
    info.add_text("made from", made_from.hexdigest())
    image.quantize(128, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True, pnginfo=info)
    return buffer.getvalue(), said["alt"]


def _made_from(picture: bytes) -> str | None:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(picture)).info.get("made from")
    except UnidentifiedImageError:
        return None


def update_thumbnails(root: Path, write: bool = True) -> list[Path]:
    """Bring ``data/thumbnails`` up to date; returns the files that differed or are too many.

    Raises:
        ValueError: a lecture has no picture for it.
    """
    folder, changed = root / "data" / "thumbnails", []
    paths = {folder / f"{path.stem}.png": path for path in lecture_paths(root)}
    for target, path in paths.items():
        picture, _ = thumbnail(read_notebook(path), path)
        if not target.exists() or _made_from(target.read_bytes()) != _made_from(picture):
            changed.append(target)
            if write:
                write_file(target, picture)
    for other in sorted(set(folder.glob("[0-9]*.png")) - set(paths)):
        changed.append(other)
        if write:
            other.unlink()
    return changed


def lecture_table(root: Path) -> str:
    """The lectures as a table of Markdown: picture, title, promise, minutes, exercises.

    Title, promise (``"course": {"promise": "…"}`` in the metadata of the notebook) and the time of
    the last recorded run come from the lecture; number and minutes of the exercises from theirs.

    Raises:
        ValueError: a lecture has no promise, no picture or no recorded run at ``laptop``.
    """
    # A table gives a column the width of its words, and shrinks pictures to it; so words without a
    # break in the head keep the pictures at their size.
    wide = "lecture" + "&nbsp;" * 30
    lines = [f"| | {wide} | you will | runs in | exercises |", "|---|---|---|---|---|"]
    for path in lecture_paths(root):
        notebook = read_notebook(path)
        said = notebook["metadata"].get("course", {})
        if "promise" not in said or "laptop" not in said.get("runs", {}):
            raise ValueError(
                f'{path.name} needs the metadata "course": {{"promise": "what a reader will do"}}, '
                f"and a recorded run: python -m course_lib run {path.stem[:2]} --store outputs"
            )
        title = source(notebook["cells"][0]).splitlines()[0].lstrip("# ").split(" · ", 1)[-1]
        _, alt = thumbnail(notebook, path)
        picture = (
            f'<img src="data/thumbnails/{path.stem}.png" width="160" alt="{html.escape(alt)}">'
        )
        time_taken = _minutes(said["runs"]["laptop"]["seconds"]).replace(" ", "&nbsp;")
        lines.append(
            f"| {path.stem[:2]} | {picture}<br>[{title}](notebooks/{path.name}) "
            f"| {said['promise']} | {time_taken} | {_exercises_of(path)} |"
        )
    return "\n".join(lines)


def _exercises_of(path: Path) -> str:
    """A link to the exercises of a lecture, with their number and minutes; a dash without any."""
    exercises = path.parent / "exercises" / path.name
    if not exercises.exists():
        return "–"
    each = [
        cell["metadata"]["course"]
        for cell in read_notebook(exercises)["cells"]
        if "exercise" in cell["metadata"].get("course", {})
    ]
    minutes = sum(said["minutes"] for said in each)
    return f"[{len(each)}, {minutes}&nbsp;min](notebooks/exercises/{path.name})"


def write_lecture_table(root: Path, write: bool = True) -> list[Path]:
    """Bring the table of lectures in README.md, and its pictures, up to date.

    Returns:
        The files that differed.

    Raises:
        ValueError: README.md has no place for it, or a lecture lacks something (`lecture_table`).
    """
    changed = update_thumbnails(root, write)
    if write_between(root / "README.md", LECTURES_BEGIN, LECTURES_END, lecture_table(root), write):
        changed.append(root / "README.md")
    return changed


def write_between(path: Path, begin: str, end: str, block: str, write: bool = True) -> bool:
    """Put a block of Markdown between two comments of a file; whether it differed.

    Raises:
        ValueError: the comments do not stand there once each, in their order.
    """
    text = path.read_text(encoding="utf-8")
    head, found, rest = text.partition(begin)
    _, last, tail = rest.partition(end)
    if not (found and last) or begin in rest or end in tail:
        raise ValueError(f"{path.name} needs one line '{begin}' and one '{end}' to write between.")
    fresh = f"{head}{begin}\n\n{block}\n\n{end}{tail}"
    if write and fresh != text:
        write_text(path, fresh)
    return fresh != text


# ---------------------------------------------------------------------------- running


@dataclass
class Run:
    """What came of executing one lecture."""

    path: Path
    notebook: dict[str, Any]
    profile: str
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    device: str = "cpu"
    checks_passed: int = 0
    checks: int = 0
    error: str = ""
    done: set[int] = field(default_factory=set)


class _PeakMemory(threading.Thread):
    """Samples the resident memory of a process five times a second (megabytes)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        import psutil

        self.process, self.gone = psutil.Process(pid), psutil.Error
        self.peak_mb, self.stopped = 0.0, threading.Event()

    def run(self) -> None:
        try:
            while True:
                self.peak_mb = max(self.peak_mb, self.process.memory_info().rss / 1e6)
                if self.stopped.wait(0.2):
                    return
        except self.gone:
            return


def execute(
    path: Path,
    profile: str,
    folder: Path | None = None,
    on_cell: Callable[[int, int], None] | None = None,
    timeout: int = 1800,
    environment: dict[str, str] | None = None,
    kernel_command: list[str] | None = None,
) -> Run:
    """Execute a notebook from top to bottom in a fresh kernel; an error in it does not raise here.

    Args:
        path: the notebook.
        profile: ``smoke``, ``laptop`` or ``gpu``.
        folder: working directory of the kernel; the notebook's own unless given.
        on_cell: called with (cells done, cells in all) after each cell.
        timeout: seconds that one cell may take.
        environment: variables for the kernel, over those of this process.
        kernel_command: the kernel's interpreter and options, this interpreter's unless given.
    """
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.reads(json.dumps(read_notebook(path)), as_version=4)
    run = Run(path, notebook, Profile(profile).name)
    total = len(notebook.cells)

    def cell_done(cell: Any, cell_index: int, **_: Any) -> None:
        run.done.add(cell_index)
        if on_cell:
            on_cell(cell_index + 1, total)

    manager = AsyncKernelManager(kernel_name="python3")
    manager.kernel_spec.argv = [
        *(kernel_command or [sys.executable, "-m", "ipykernel_launcher"]),
        "-f",
        "{connection_file}",
        "--log-level=ERROR",
    ]
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=timeout,
        resources={"metadata": {"path": str(folder or path.parent)}},
        store_widget_state=False,
        on_cell_executed=cell_done,
    )
    variables = {**os.environ, "COURSE_PROFILE": profile, **(environment or {})}
    # Debuggers warn about frozen modules in every kernel's output otherwise.
    variables.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    # The kernel works in another folder, where a relative one would be another.
    for name in ("COURSE_CACHE", "COURSE_MIRROR", "COURSE_OUTPUT"):
        if variables.get(name):
            variables[name] = str(Path(variables[name]).expanduser().absolute())
    start = time.perf_counter()
    memory = None
    # What a kernel says of itself matters where it does not start; one that is interrupted says
    # much about its own insides.
    said = tempfile.TemporaryFile()
    try:
        # A manager that is handed over keeps its kernel alive unless the end is asked for.
        with client.setup_kernel(env=variables, cleanup_kc=True, stderr=said):
            memory = _PeakMemory(manager.provisioner.pid)
            memory.start()
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
    except CellExecutionError as error:
        run.error = f"{error.ename}: {error.evalue}".splitlines()[0]
    except CellTimeoutError:
        run.error = f"a cell timed out after {timeout} s"
    except DeadKernelError:
        run.error = "the kernel died, often for lack of memory"
    except RuntimeError as error:
        said.seek(0)
        last = said.read().decode(errors="replace").strip().splitlines()[-1:]
        told = "; ".join([str(error).rstrip("."), *last])
        run.error = f"the kernel did not start ({told}); try: python -m course_lib doctor"
    finally:
        said.close()
        if memory:
            memory.stopped.set()
    run.seconds = time.perf_counter() - start
    run.peak_memory_mb = memory.peak_mb if memory else 0.0
    run.device = _device_of(notebook)
    run.checks = len(checked_equations(notebook))
    run.checks_passed = len(
        checked_equations(
            {"cells": [c for i, c in enumerate(notebook.cells) if i in run.done and _passed(c)]}
        )
    )
    return run


def _passed(cell: dict[str, Any]) -> bool:
    return not any(output.get("output_type") == "error" for output in cell.get("outputs", []))


def _device_of(notebook: dict[str, Any]) -> str:
    """The device as the set-up cell's own line names it."""
    for cell in notebook["cells"]:
        if "setup" in tags(cell):
            text = "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
            match = re.search(r" · ((?:cpu|cuda|mps)[^·]*) · profile", text)
            if match:
                return match.group(1)
    return "unknown device"


def clean(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with outputs fit to be stored.

    Views of widgets go, since their state is not stored and a reader would see an error in their
    place; the text beside them stays. Times of execution go, since they differ at every run. Text
    that one stream brought in several pieces is one output, or a line could break in its middle.
    """
    import nbformat

    notebook = nbformat.reads(json.dumps(notebook), as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            output.get("metadata", {}).pop("application/vnd.jupyter.widget-view+json", None)
        if cell.cell_type == "code":
            cell.outputs = _joined_streams(cell.outputs)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def _joined_streams(outputs: list[Any]) -> list[Any]:
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            if output.name == joined[-1].name:
                joined[-1].text += output.text
                continue
        joined.append(output)
    return joined


def store(run: Run, root: Path, outputs: bool = True) -> None:
    """Put a run into the repository: its time and memory, and its outputs where asked.

    Text that was changed since the run began stays as it is now.

    Raises:
        ValueError: the run failed, or the code was changed meanwhile; nothing is stored then.
    """
    if run.error:
        raise ValueError(f"{run.path.name} failed and is not stored: {run.error}")
    notebook = read_notebook(run.path)
    same_cells = len(_code(notebook)) == len(_code(run.notebook))  # the generated one may go, too
    if not same_cells or source_hash(notebook) != source_hash(run.notebook):
        raise ValueError(
            f"its code was changed while {run.path.name} ran: run it again to store it"
        )
    if outputs:
        for cell, executed in zip(_code(notebook), _code(run.notebook), strict=True):
            cell["outputs"] = json.loads(json.dumps(executed["outputs"]))
            cell["execution_count"] = executed["execution_count"]
        notebook = clean(notebook)
    record = notebook["metadata"].setdefault("course", {})
    if outputs:
        record["source_hash"] = source_hash(notebook)
        record["profile"] = run.profile
    runs = dict(record.get("runs", {}))
    runs[run.profile] = {
        "seconds": round(run.seconds, 1),
        "peak_memory_mb": round(run.peak_memory_mb),
        "device": run.device,
    }
    record["runs"] = runs
    fresh = with_generated_cells(json.loads(json.dumps(notebook)), run.path, Address.of(root))
    write_notebook(run.path, fresh)


def _code(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def to_html(notebook: dict[str, Any], title: str) -> str:
    """A plain HTML page of a notebook."""
    from nbconvert import HTMLExporter

    page = clean(notebook)
    for cell in page.cells:
        texts = iter(alternatives(cell))
        for output in picture_outputs(cell):
            data = output["data"]
            kind = next(kind for kind in PICTURES if kind in data)
            alt = next(texts, "") or data.get("text/plain", "").strip("<>")
            encoded = "".join(data[kind]).replace("\n", "")
            # nbconvert shows no animation, and gives no picture its text.
            data["text/html"] = f'<img alt="{html.escape(alt)}" src="data:{kind};base64,{encoded}">'
    return HTMLExporter().from_notebook_node(page, resources={"metadata": {"name": title}})[0]


def run_lectures(
    root: Path, names: list[str], profile: str, build: Path, store_as: str = ""
) -> Iterator[Run]:
    """Execute lectures one by one, with a progress line each; a failing one does not stop the rest.

    Args:
        root: the checkout.
        names: beginnings of file names, such as ``04``; all lectures when empty.
        profile: ``smoke``, ``laptop`` or ``gpu``.
        build: folder for the executed copies (``.ipynb`` and ``.html``).
        store_as: ``"outputs"`` stores outputs and time in notebooks/, ``"time"`` the time alone.

    Raises:
        ValueError: a name that no lecture has.
    """
    paths = lecture_paths(root)
    if names:
        unknown = [n for n in names if not any(p.name.startswith(n) for p in paths)]
        if unknown:
            raise ValueError(
                f"No lecture begins with {', '.join(unknown)}; "
                f"there are {', '.join(p.stem for p in paths)}."
            )
        paths = [p for p in paths if any(p.name.startswith(n) for n in names)]
    build.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=build):
        pass  # a folder that cannot be written to is found before the work, not after it
    live = sys.stdout.isatty()
    for number, path in enumerate(paths, 1):
        head = f"[{number}/{len(paths)}] {path.stem}"

        def progress(done: int, total: int, head: str = head) -> None:
            if live:
                print(f"\r{head}: cell {done} of {total} ", end="", flush=True)

        if not live:
            print(f"{head}: running at {profile}", flush=True)
        run = execute(path, profile, on_cell=progress)
        write_text(build / path.name, json.dumps(clean(run.notebook), ensure_ascii=False, indent=1))
        write_text(build / f"{path.stem}.html", to_html(run.notebook, path.stem))
        if store_as and not run.error:
            try:
                store(run, root, outputs=store_as == "outputs")
            except ValueError as error:
                run.error = str(error)
        print(f"{chr(13) if live else ''}{head}: {_outcome(run)}        ", flush=True)
        yield run


def _outcome(run: Run) -> str:
    return f"FAILED, {run.error}" if run.error else f"done in {_minutes(run.seconds)}"


def summary_table(runs: list[Run]) -> str:
    """The table at the end of ``make run``."""
    width = max([len(run.path.stem) for run in runs] + [8])
    lines = [f"{'notebook':<{width}}  {'seconds':>8}  {'peak GB':>8}  {'checks':>8}  result"]
    for run in runs:
        checks = f"{run.checks_passed}/{run.checks}"
        result = "FAILED" if run.error else "ok"
        lines.append(
            f"{run.path.stem:<{width}}  {run.seconds:>8.1f}  {run.peak_memory_mb / 1000:>8.2f}  "
            f"{checks:>8}  {result}"
        )
    return "\n".join(lines)
