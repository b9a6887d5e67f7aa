"""A class of eight hands in one set of exercises; nbgrader's own commands mark it.

Slow (two minutes on one core): each submission is run in a kernel of its own.
"""

import copy
import csv
import hashlib
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from course_lib import assignments, notebooks
from course_lib.grading import isolation

ROOT = Path(__file__).parents[2]
SET = "12_elbo"
SOURCE = assignments.source_folder(ROOT) / SET / f"{SET}.ipynb"
STUB = assignments.STUB

REASON = isolation.why_not()
isolated = pytest.mark.skipif(bool(REASON), reason=REASON)

# Secrets that a submission must not get hold of; "HIDDEN" is put into a hidden test.
SECRETS = {name: f"canary-{name}-5f3a91" for name in ("HIDDEN", "SOURCE", "OTHER", "HOME", "TREE")}

# The loop outside a function is interrupted early; a busy machine may still start slowly.
SHORTER = """
c.Execute.timeout_func = lambda cell: 8 if "# endless" in cell.source else 120
"""

HOSTILE = """
import os, socket, sqlite3, subprocess
from pathlib import Path

from IPython.display import HTML, display

for pattern in {readable!r}:
    for path in [*Path("/").glob(pattern.lstrip("/")), Path(pattern)]:
        try:
            print("READ", path, path.read_bytes()[:5000])
        except OSError:
            pass
print(os.environ, Path("/proc/1/environ").exists() and os.listdir("/proc"))
print(subprocess.run("cat ~/* ~/.* ../* /proc/*/environ", shell=True, capture_output=True).stdout)
for path in {writable!r}:
    try:
        Path(path).write_text("hacked")
        print("WRITTEN", path)
    except OSError:
        pass
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2).send(b"hello")
    print("CONNECTED")
except OSError:
    pass
try:
    much = [bytes(10**9) for _ in range(20)]
    print("FILLED")
except MemoryError:
    pass
display(HTML("<script>alert('hacked')</script>"))
print("ALL", "TRIED")
"""

# Says nothing to any answer.
OWN_CHECK = """
class Check:
    def __getattr__(self, name):
        return lambda answer: None


check = Check()


"""

# Inside a function, where the hidden test is running: show it, and show a mark.
SHOWS_TEST = """
    shell = get_ipython()
    display(HTML("<pre>" + shell.user_ns["In"][-1] + "</pre>"))
    print(shell.user_ns["In"][-1])
    shell.displayhook(1.0)
    raise AssertionError(shell.user_ns["In"][-1])
"""


# ---------------------------------------------------------------------------- submissions


def cell_of(notebook: dict, name: str, grade: bool) -> dict:
    """The answer cell of an exercise, or its check."""
    for cell in notebook["cells"]:
        said = cell["metadata"].get("nbgrader", {})
        if said.get("grade_id") == name + "_check" * grade:
            return cell
    raise KeyError(name)


def write(cell: dict, text: str) -> None:
    cell["source"] = text.splitlines(keepends=True)


def solved(notebook: dict, name: str, solution: dict) -> str:
    """Put the solution of one exercise into a notebook; its text."""
    text = notebooks.source(cell_of(solution, name, grade=False))
    text = re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", text, flags=re.M)
    write(cell_of(notebook, name, grade=False), text)
    return text


@dataclass
class Submission:
    """What one student hands in, and what it should earn."""

    notebook: dict
    points: float
    files: dict[str, str] = field(default_factory=dict)


def submissions(released: dict, hostile: str) -> dict[str, Submission]:
    """The class."""
    solution = notebooks.read_notebook(SOURCE)
    exercises = assignments.entries(solution)
    names, points = [e.name for e in exercises], [e.points for e in exercises]
    assert len(names) >= 2

    def fresh(answers: list[str]) -> dict:
        notebook = copy.deepcopy(released)
        for name in answers:
            solved(notebook, name, solution)
        return notebook

    def changed(notebook: dict, name: str, before: str = "", after: str = "", body: str = ""):
        """Put text before and after an answer, or another body in place of its stub."""
        cell = cell_of(notebook, name, grade=False)
        text = notebooks.source(cell)
        write(cell, before + (text.replace("    " + STUB, body) if body else text) + after)

    made = {
        "perfect": Submission(fresh(names), sum(points), {"diary.txt": SECRETS["OTHER"]}),
        "empty": Submission(fresh([]), 0),
        "partly": Submission(fresh(names[:1]), points[0]),
    }

    wrong = fresh([])
    for name in names:
        changed(wrong, name, body="    return None")
    changed(wrong, names[0], before=OWN_CHECK)
    made["wrong"] = Submission(wrong, 0)

    endless = fresh([names[0], *names[2:]])
    changed(endless, names[0], after="\n\nwhile True:  # endless\n    pass\n")
    changed(endless, names[1], body="    while True:\n        pass")
    made["endless"] = Submission(endless, sum(points) - points[1])

    loud = fresh(names)
    much = "print('x' * 20_000_000)\nfor i in range(100_000):\n    print('line', i)\n\n\n"
    changed(loud, names[0], before=much)
    cell = cell_of(loud, names[1], grade=False)
    head, quotes, body = notebooks.source(cell).rpartition('"""\n')
    write(cell, head + quotes + "    print('y' * 1_000_000)\n" + body)
    made["loud"] = Submission(loud, sum(points))

    # The first exercise is deleted, answer and check; of the second the check is, and a wrong
    # copy of its answer stands before the right one; the last has its check twice.
    torn = fresh(names)
    twice = copy.deepcopy(cell_of(torn, names[1], grade=False))
    twice["id"] = "twice"
    write(twice, f"def {names[1]}(*args, **kwargs):\n    return None\n")
    torn["cells"].insert(torn["cells"].index(cell_of(torn, names[1], grade=False)), twice)
    again = copy.deepcopy(cell_of(torn, names[-1], grade=True))
    again["id"] = "again"
    torn["cells"].append(again)
    gone = [cell_of(torn, names[0], grade) for grade in (False, True)]
    gone.append(cell_of(torn, names[1], grade=True))
    torn["cells"] = [cell for cell in torn["cells"] if not any(cell is g for g in gone)]
    made["torn"] = Submission(torn, sum(points) - points[0])

    # The last exercise is right, so that it is seen that the rest was not simply thrown away.
    bad = fresh(names[-1:])
    changed(bad, names[0], before=hostile, body=SHOWS_TEST)
    for name in names[:-1]:
        cell_of(bad, name, grade=True)["metadata"]["tags"] = ["skip-execution"]
    made["hostile"] = Submission(bad, points[-1])
    return made


# ---------------------------------------------------------------------------- the course folder


@dataclass
class Classroom:
    """A course folder after all of nbgrader's commands."""

    folder: Path
    submissions: dict[str, Submission]
    log: str
    marks: dict[str, float]
    environment: dict[str, str]
    before: dict[str, str]
    after: dict[str, str]
    connections: list[bytes]

    def text(self, step: str, student: str, ending: str) -> str:
        return (self.folder / step / student / SET / f"{SET}.{ending}").read_text()


def state(*folders: Path) -> dict[str, str]:
    """Hashes of all files."""
    paths = [p for folder in folders for p in sorted(folder.rglob("*"))]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths if p.is_file()}


@pytest.fixture(scope="module")
def classroom(tmp_path_factory) -> Classroom:
    """Generate, release, collect, autograde, give feedback and export, as an instructor does."""
    base = tmp_path_factory.mktemp("class")
    folder, home, tree = base / "course", base / "home", base / "tree"
    for made in (folder, home, tree):
        made.mkdir()
    (home / ".secret").write_text(SECRETS["HOME"])
    (tree / "file.txt").write_text(SECRETS["TREE"])

    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment["COURSE_ISOLATION"] = "none" if REASON else "bubblewrap"
    config = (SOURCE.parents[2] / "nbgrader_config.py").read_text()
    (folder / "nbgrader_config.py").write_text(config + SHORTER)
    shutil.copytree(SOURCE.parent, folder / "source" / SET)
    (folder / "source" / "exam.txt").write_text(SECRETS["SOURCE"])
    with_secret_test(folder / "source" / SET / f"{SET}.ipynb")

    log = nbgrader(folder, environment, "generate_assignment", SET)
    released = notebooks.read_notebook(folder / "release" / SET / f"{SET}.ipynb")
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []
        threading.Thread(target=listen, args=(server, connections), daemon=True).start()
        targets = [tree / "file.txt", tree / "new.txt", folder / "new.txt", home / "new.txt"]
        targets += [folder / "gradebook.db", folder / "source" / SET / f"{SET}.ipynb"]
        targets += [folder / "submitted" / "perfect" / SET / "diary.txt"]
        patterns = [str(path) for path in targets if path.name != "new.txt"]
        patterns += [f"{folder}/source/*", f"{folder}/*/*/*/*", f"{home}/.*", "/etc/shadow"]
        patterns += ["/etc/passwd", f"{base}/*/*", "/proc/1/environ", "/proc/1/root/etc/shadow"]
        hostile = HOSTILE.format(
            readable=patterns,
            writable=[str(t) for t in targets],
            port=server.getsockname()[1],
        )
        made = submissions(released, hostile)
        if REASON:
            del made["hostile"]
        for name, submission in made.items():
            place = folder / "submitted" / name / SET
            place.mkdir(parents=True)
            (place / f"{SET}.ipynb").write_text(json.dumps(submission.notebook))
            for file, content in submission.files.items():
                (place / file).write_text(content)
        if not REASON:
            (place / "link.txt").symlink_to(folder / "source" / "exam.txt")
        watched = (tree, home, folder / "source", folder / "release", folder / "submitted")
        before = state(*watched)
        log += nbgrader(folder, environment, "autograde", SET)
        after = state(*watched)
    log += nbgrader(folder, environment, "generate_feedback", SET)
    log += nbgrader(folder, environment, "export")
    with open(folder / "grades.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    marks = {row["student_id"]: float(row["score"]) for row in rows}
    return Classroom(folder, made, log, marks, environment, before, after, connections)


def nbgrader(folder: Path, environment: dict[str, str], *command: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "nbgrader", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout + run.stderr


def with_secret_test(path: Path) -> None:
    """Put a line into the first hidden test that stands nowhere else."""
    notebook = notebooks.read_notebook(path)
    name = assignments.entries(notebook)[0].name
    cell = cell_of(notebook, name, grade=True)
    line = f'secret = "{SECRETS["HIDDEN"]}"\n'
    text = notebooks.source(cell)
    write(cell, text.replace("### END HIDDEN TESTS", line + "### END HIDDEN TESTS"))
    path.write_text(json.dumps(notebook))


def listen(server: socket.socket, connections: list[bytes]) -> None:
    try:
        while True:
            connections.append(server.accept()[0].recv(100))
    except OSError:
        return  # closed


# ---------------------------------------------------------------------------- tests


def test_release_is_what_students_find_in_the_repository(classroom):
    released = notebooks.read_notebook(classroom.folder / "release" / SET / f"{SET}.ipynb")
    stored = notebooks.read_notebook(assignments.student_path(ROOT, SET))
    assert [notebooks.source(c) for c in released["cells"]] == [
        notebooks.source(c) for c in stored["cells"]
    ]
    assert SECRETS["HIDDEN"] not in json.dumps(released)


def test_every_mark_is_what_the_submission_deserves(classroom):
    assert classroom.marks == {n: float(s.points) for n, s in classroom.submissions.items()}


def test_every_submission_came_to_its_end(classroom):
    for name in classroom.submissions:
        assert (classroom.folder / "autograded" / name / SET / f"{SET}.ipynb").is_file()
        assert (classroom.folder / "feedback" / name / SET / f"{SET}.html").is_file()


def shown(page: str) -> str:
    """Text of a page, without its spaces."""
    return re.sub(r"\s+", "", html.unescape(re.sub(r"<[^>]*>", "", page)))


def test_no_feedback_shows_a_hidden_test(classroom):
    lines = set()
    for cell in notebooks.read_notebook(classroom.folder / "source" / SET / f"{SET}.ipynb")[
        "cells"
    ]:
        match = re.search(
            r"BEGIN HIDDEN TESTS\n(.*)### END HIDDEN TESTS", notebooks.source(cell), re.S
        )
        lines |= {re.sub(r"\s+", "", line) for line in match[1].split("\n")} if match else set()
    lines.discard("")
    assert len(lines) > 2
    for name in classroom.submissions:
        page = classroom.text("feedback", name, "html")
        for text in (shown(page), re.sub(r"\s+", "", html.unescape(page))):
            assert not [line for line in lines if line in text], name
        assert SECRETS["HIDDEN"] not in page


def test_feedback_says_what_was_wrong(classroom):
    exercises = assignments.entries(notebooks.read_notebook(SOURCE))
    empty, wrong = (shown(classroom.text("feedback", n, "html")) for n in ("empty", "wrong"))
    for exercise in exercises:
        assert f"AssertionError:○{exercise.number}{exercise.name}:notattemptedyet" in empty
        assert f"AssertionError:✗{exercise.number}{exercise.name}" in wrong
    endless = shown(classroom.text("feedback", "endless", "html"))
    assert "isthere a loop without an end".replace(" ", "") in endless


def test_output_is_bounded(classroom):
    assert len(classroom.text("autograded", "loud", "ipynb")) < 1_000_000
    assert "cut here" in classroom.text("autograded", "loud", "ipynb")


@isolated
def test_hostile_submission_changes_nothing(classroom):
    link = str(classroom.folder / "submitted" / "hostile" / SET / "link.txt")
    assert classroom.before.pop(link)
    assert classroom.before == classroom.after
    assert not classroom.connections
    assert not (classroom.folder / "autograded" / "hostile" / SET / "link.txt").exists()


@isolated
def test_hostile_submission_reads_nothing(classroom):
    for step in ("autograded", "feedback"):
        for path in (classroom.folder / step / "hostile").rglob("*"):
            if path.is_file():
                text = path.read_text()
                found = [n for n, secret in SECRETS.items() if secret in text and n != "HIDDEN"]
                assert not found, path
                for word in ("WRITTEN /", "CONNECTED\\n", "FILLED\\n", "root:x:0", "root:*:"):
                    assert word not in shown_outputs(path), word
    # It did try, and did see the hidden test of the cell that ran.
    tried = shown_outputs(classroom.folder / "autograded" / "hostile" / SET / f"{SET}.ipynb")
    assert "ALL TRIED" in tried and SECRETS["HIDDEN"] in tried
    assert "<script>alert" not in classroom.text("feedback", "hostile", "html")


def shown_outputs(path: Path) -> str:
    if path.suffix != ".ipynb":
        return ""
    return json.dumps([cell.get("outputs") for cell in notebooks.read_notebook(path)["cells"]])


def test_formgrader_lists_the_set(classroom):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = [f"--ServerApp.port={port}", "--IdentityProvider.token=t", "--no-browser"]
    command = [sys.executable, "-m", "jupyter_server", *options, "--allow-root"]
    server = subprocess.Popen(
        command,
        cwd=classroom.folder,
        env=classroom.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        found = answer(f"http://127.0.0.1:{port}/formgrader/api/assignments?token=t")
    finally:
        server.terminate()
        server.wait(30)
    points = sum(e.points for e in assignments.entries(notebooks.read_notebook(SOURCE)))
    assert [(a["name"], a["max_score"], a["num_submissions"]) for a in found] == [
        (SET, points, len(classroom.submissions))
    ]


def answer(url: str) -> list:
    for _ in range(120):
        try:
            with urllib.request.urlopen(url, timeout=20) as response:
                return json.load(response)
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(url)
