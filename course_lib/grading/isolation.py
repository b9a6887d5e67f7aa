"""A kernel in a box: student code without network, without other files, within bounds.

nbgrader sends a submission, cell by cell, to a kernel. Here the kernel runs inside bubblewrap,
which shows it Python, the library of the course and a copy of the submission's other files, and
nothing else: neither the gradebook nor the sources nor what others submitted. nbgrader itself stays
outside and talks to it through sockets in the one folder that both see.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import zmq
from jupyter_client.manager import AsyncKernelManager
from traitlets import Integer

import course_lib
from course_lib.environment import data_file, repository_root

KINDS = ("bubblewrap", "none")
HOME = "/home/student"
# What of nbgrader's own environment the submission may see.
PASSED = ("COURSE_PROFILE", "OMP_NUM_THREADS", "NBGRADER_EXECUTION")


class IsolationError(SystemExit):
    """Ends nbgrader with a sentence.

    nbgrader goes on after every other exception, and would report this one once per student.
    """


def kind() -> str:
    """How submissions run: ``COURSE_ISOLATION``, bubblewrap unless it is set.

    Raises:
        IsolationError: the variable says something else.
    """
    found = os.environ.get("COURSE_ISOLATION") or "bubblewrap"
    if found not in KINDS:
        raise IsolationError(f"COURSE_ISOLATION is {found!r}: it may be {' or '.join(KINDS)}.")
    return found


def why_not() -> str:
    """Why bubblewrap cannot isolate anything on this machine; empty where it can."""
    if shutil.which("bwrap") is None or shutil.which("prlimit") is None:
        return "bubblewrap (bwrap, with prlimit of util-linux) is not installed here"
    trial = ["bwrap", *NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    run = subprocess.run(trial, capture_output=True, text=True)
    return f"bubblewrap may not make namespaces here ({run.stderr.strip()})" * (run.returncode != 0)


@functools.cache
def require() -> str:
    """The kind of isolation, once it is certain that it works.

    Raises:
        IsolationError: it does not. There is no silent way round it.
    """
    chosen = kind()
    problem = why_not() if chosen == "bubblewrap" else ""
    if problem:
        raise IsolationError(
            f"Submissions would run without isolation: {problem}. Install it (Debian, Ubuntu: apt "
            "install bubblewrap), or set COURSE_ISOLATION=none where a container or a machine of "
            "its own is the isolation."
        )
    return chosen


# ---------------------------------------------------------------------------- the box

NAMESPACES = ("--unshare-user", "--unshare-all", "--uid", "1000", "--gid", "1000")
SWITCHES = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
# Of /etc, what the loader, the clock and matplotlib need.
SYSTEM = (
    *("/usr", "/bin", "/lib", "/lib32", "/lib64"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"),
    *("/etc/localtime", "/etc/timezone", "/etc/fonts"),
)


def visible() -> list[Path]:
    """What a submission may read besides its own files: Python, its packages, the library."""
    folders = [Path(sys.prefix), Path(sys.base_prefix), Path(course_lib.__file__).parent]
    folders += [folder.resolve() for folder in folders]  # links to Python may say either
    root = repository_root()
    if root is not None:  # else weights and cards are part of the installed library
        folders += [root / "pyproject.toml"]
        folders += [data_file(name) for name in ("checkpoints", "features", "results")]
    folders += [Path(name) for name in SYSTEM]
    return [folder for folder in dict.fromkeys(folders) if folder.exists()]


def box(own: Path, tmpfs: int) -> list[str]:
    """The command that what follows it is put into a box.

    Args:
        own: the one folder of the machine that may be written to; sockets and work lie there.
        tmpfs: bytes in each of the folders that exist in memory only.
    """
    command = [shutil.which("bwrap") or "bwrap", *NAMESPACES]
    command += ["--cap-drop", "ALL", "--die-with-parent", "--new-session"]
    for folder in ("/tmp", HOME):  # first, because the checkout may lie in one of them
        command += ["--size", str(tmpfs), "--tmpfs", folder]
    for path in visible():
        command += ["--ro-bind", str(path), str(path)]
    root = repository_root()
    if root is not None:  # so that the library finds itself in a checkout
        command += ["--dir", str(root / "notebooks")]
    command += ["--proc", "/proc", "--dev", "/dev"]
    for path in SWITCHES:  # root could still write to them, even with no capability left
        command += ["--ro-bind-try", path, path]
    command += ["--size", str(tmpfs), "--tmpfs", "/dev/shm"]
    command += ["--bind", str(own), str(own), "--remount-ro", "/dev", "--remount-ro", "/"]
    variables = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "HOME": HOME,
        "USER": "student",
        "LOGNAME": "student",
        "LANG": "C.UTF-8",
        "COURSE_CACHE": "/tmp/cache",
        "COURSE_OUTPUT": "/tmp/runs",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "OMP_NUM_THREADS": "1",  # as many threads as a large server has cores are too many
        "JPY_PARENT_PID": "1",  # in the box nbgrader's own number would be another process
        **{name: os.environ[name] for name in PASSED if name in os.environ},
    }
    library = Path(course_lib.__file__).parent.parent
    if not library.is_relative_to(sys.prefix):  # however this process found it
        variables["PYTHONPATH"] = str(library)
    command.append("--clearenv")
    for name, value in variables.items():
        command += ["--setenv", name, value]
    return [*command, "--chdir", str(own / "work"), "--"]


class IsolatedKernelManager(AsyncKernelManager):
    """Starts the kernel in a box, in a copy of the folder where it would have started.

    The kernel of the machine holds each process to its bounds, and does not hold root to that on
    processes; once a second all processes and files of the box together are held to them here.
    """

    memory = Integer(4 * 2**30, help="bytes of memory").tag(config=True)
    cpu_seconds = Integer(1200, help="processor time of one process").tag(config=True)
    processes = Integer(256, help="processes and threads at a time").tag(config=True)
    file_size = Integer(64 * 2**20, help="bytes of one file").tag(config=True)
    folder_size = Integer(256 * 2**20, help="bytes of all files of one folder").tag(config=True)
    files = Integer(5000, help="files in the working folder").tag(config=True)
    message_size = Integer(32 * 2**20, help="bytes of one message of the kernel").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        require()
        # Paths of sockets end at 107 characters, so the folder is not where TMPDIR may point to.
        self.own = Path(tempfile.mkdtemp(prefix="course-", dir="/tmp"))
        super().__init__(transport="ipc", connection_file=str(self.own / "k.json"), **kwargs)
        # A signal would end bubblewrap and not reach what runs inside.
        self.kernel_spec.interrupt_mode = "message"

    async def _async_pre_start_kernel(self, **kw: Any) -> tuple[list[str], dict[str, Any]]:
        folder = Path(kw.pop("cwd", None) or ".").resolve()
        inside = [path for path in visible() if folder.is_relative_to(path.resolve())]
        if inside:
            _remove(self.own)
            raise IsolationError(
                f"Submissions lie in {inside[0]}, which their code must be able to read: move the "
                "course folder elsewhere."
            )
        _copy_of_the_rest(folder, self.own / "work")
        # bubblewrap's own environment can be read from within.
        kw = {**kw, "cwd": "/", "env": {"PATH": os.defpath}}
        command, kw = await super()._async_pre_start_kernel(**kw)
        return [*box(self.own, self.folder_size), *self.bounds(), *command], kw

    pre_start_kernel = _async_pre_start_kernel

    def bounds(self) -> list[str]:
        """The command that limits what follows it. Inside the box, where processes count from 0."""
        return [
            "prlimit",
            f"--data={self.memory}",
            f"--cpu={self.cpu_seconds}",
            f"--fsize={self.file_size}",
            f"--nproc={self.processes}",
            "--core=0",
            "--",
        ]

    def client(self, **kwargs: Any) -> Any:
        """A client that hangs up rather than take in a message without end."""
        client = super().client(**kwargs)
        client.context.setsockopt(zmq.MAXMSGSIZE, self.message_size)
        return client

    async def _async_is_alive(self) -> bool:
        """Whether the kernel runs; nbclient asks once a second, and here it ends where it must."""
        alive = await super()._async_is_alive()
        if alive and not self.within_bounds():
            self.log.error("The submission went beyond its bounds: its kernel is ended.")
            await self.provisioner.kill()
            await self.provisioner.wait()
            return False
        return alive

    is_alive = _async_is_alive

    def within_bounds(self) -> bool:
        """Whether all processes and files of the box together keep to the bounds."""
        memory, processes = _used(self.provisioner.pid)
        return (
            memory < self.memory
            and processes < self.processes
            and _fits(self.own, self.folder_size, self.files)
        )

    async def _async_cleanup_resources(self, restart: bool = False) -> None:
        await super()._async_cleanup_resources(restart=restart)
        if not restart:
            _remove(self.own)

    cleanup_resources = _async_cleanup_resources


# ---------------------------------------------------------------------------- files, processes


def _copy_of_the_rest(folder: Path, target: Path) -> None:
    """Copy a submission without its notebooks (they hold the hidden tests) and without links."""

    def left_out(inside: str, names: list[str]) -> list[str]:
        paths = [Path(inside, name) for name in names]
        return [
            p.name
            for p in paths
            if p.is_symlink() or p.suffix == ".ipynb" or not (p.is_file() or p.is_dir())
        ]

    shutil.copytree(folder, target, ignore=left_out, copy_function=shutil.copyfile)


def _fits(folder: Path, size: int, count: int) -> bool:
    """Whether a folder holds no more bytes and files than that."""
    for inside, folders, names in os.walk(folder):
        for name in names:
            try:
                size -= os.lstat(os.path.join(inside, name)).st_size
            except OSError:
                continue  # gone since
        count -= len(names) + len(folders)
        if size < 0 or count < 0:
            return False
    return True


def _used(pid: int) -> tuple[int, int]:
    """Bytes that the children of a process hold for themselves, and their number."""
    memory, count = 0, 0
    try:
        for child in psutil.Process(pid).children(recursive=True):
            count += 1
            with contextlib.suppress(psutil.Error):
                info = child.memory_info()
                memory += info.rss - info.shared
    except psutil.Error:
        pass  # gone since
    return memory, count


def _remove(folder: Path) -> None:
    """Remove a folder, also where a submission took away the right to look into it."""
    for inside, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(inside, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)
