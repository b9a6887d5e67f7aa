"""Steps of nbgrader that the course replaces: running, restoring missing cells, feedback."""

from __future__ import annotations

import copy
import html
import re
import textwrap
from pathlib import Path
from typing import Any

from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.util import run_sync
from nbconvert.preprocessors.sanitize import SanitizeHTML
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import ClearHiddenTests, Execute, OverwriteCells
from nbgrader.utils import is_grade, is_locked, is_solution
from traitlets import Bool, Integer

from course_lib.grading import isolation

Resources = dict[str, Any]


def before_autograde(notebooks: list[str], **_: Any) -> None:
    """Before anything of a submission is read or written: is it safe to go on?

    Links are removed from the submission: nbgrader would follow them, and copy what they point to
    (a solution, another student's work) to where the submission's code can read it.

    Raises:
        IsolationError: submissions cannot be isolated here.
    """
    isolation.require()
    for folder in {Path(name).parent for name in notebooks}:
        for path in folder.rglob("*"):
            if path.is_symlink():
                print(f"A link was removed from the submission: {path}")
                path.unlink()


# ---------------------------------------------------------------------------- running


class RunCells(Execute):
    """nbgrader's Execute, where no cell can cost others their marks.

    A cell that kills its kernel, or hangs so that it cannot be interrupted, gets an error; a fresh
    kernel then runs what came before it, and goes on with the next cell. What cells show is
    bounded. In graded cells an error counts whatever else was shown, and a warning is no error.
    """

    max_output = Integer(100_000, help="characters kept of what a cell shows").tag(config=True)
    max_restarts = Integer(3, help="fresh kernels for one submission").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        isolated = isolation.require() == "bubblewrap"
        manager = isolation.IsolatedKernelManager if isolated else AsyncKernelManager
        super().__init__(**{"kernel_manager_class": manager, **kwargs})
        self.shutdown_kernel = "immediate"
        self.coalesce_streams = True

    def preprocess(
        self, nb: NotebookNode, resources: Resources | None = None, km: Any = None
    ) -> tuple[NotebookNode, Resources]:
        """Run the cells of a submission."""
        self.survived: list[int] = []
        self.restarts_left = self.max_restarts
        for cell in nb.cells:
            if is_grade(cell):
                cell.metadata.pop("tags", None)  # one of them says: do not run this cell
        nb, resources = super().preprocess(nb, resources, km)
        for cell in nb.cells:
            if cell.cell_type == "code":
                settle(cell, self.max_output)
        return nb, resources

    async def async_execute_cell(
        self, cell: NotebookNode, cell_index: int, *args: Any, **kwargs: Any
    ) -> NotebookNode:
        """Run one cell; it ends in this kernel, or in an error and a fresh one."""
        if cell.cell_type != "code":
            return cell
        if self.restarts_left < 0:
            cell.outputs = [_error("NotRun", "earlier cells ended the kernel too often.")]
            return cell
        if not await self._survives(cell, cell_index, *args, **kwargs):
            await self._start_afresh()
        elif not any(output.get("ename") == "CellTimeoutError" for output in cell.outputs):
            self.survived.append(cell_index)
        return cell

    execute_cell = run_sync(async_execute_cell)

    async def _survives(self, cell: NotebookNode, index: int, *args: Any, **kwargs: Any) -> bool:
        self.shown = 0
        try:
            await super().async_execute_cell(cell, index, *args, **kwargs)
        except (DeadKernelError, CellTimeoutError) as error:
            why = "ended the kernel: it took too much memory, time or disk, or ended it itself."
            if isinstance(error, CellTimeoutError):
                why = "did not end in time and could not be interrupted."
            cell.outputs.append(_error(type(error).__name__, f"This cell {why}"))
            return False
        return True

    async def _start_afresh(self) -> None:
        """A new kernel in which the cells so far have run, except those that ended theirs."""
        while self.restarts_left > 0:
            self.restarts_left -= 1
            await self._async_cleanup_kernel()
            self.create_kernel_manager()
            await self.async_start_new_kernel()
            await self.async_start_new_kernel_client()
            for index in self.survived:
                cell = self.nb.cells[index]
                if is_grade(cell):
                    continue  # it is marked already
                ended = not await self._survives(copy.deepcopy(cell), index)
                self.nb.cells[index] = cell  # what it showed the first time
                if ended:
                    self.survived.remove(index)
                    break
            else:
                return
        self.restarts_left = -1

    # Widgets and later changes of what was shown earlier are not part of a submission.

    def handle_comm_msg(self, outs: list[NotebookNode], msg: Any, cell_index: int) -> None: ...

    def _update_display_id(self, display_id: str, msg: Any) -> None: ...

    def output(
        self, outs: list[NotebookNode], msg: Any, display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        """Take in what a cell shows, up to the bound."""
        before, content = self.shown, msg["content"]
        # Each message costs something, however short.
        self.shown += 50 + len(str(content.get("data") or content.get("text") or ""))
        if self.shown <= self.max_output or msg["msg_type"] == "error":
            return super().output(outs, msg, display_id, cell_index)
        if before <= self.max_output:
            text = str(content.get("text", ""))[: self.max_output - before]
            text += f"\n... more than {self.max_output:,} characters: cut here ...\n"
            outs.append(new_output("stream", name="stdout", text=text))
        return None


def settle(cell: NotebookNode, length: int) -> None:
    """Bring what a cell showed into the form that marks are read from.

    nbgrader reads a number that a graded cell shows as its mark, and gives none for a warning; in
    this course only an error costs marks, and it does whatever was shown before it.
    """
    failed = any(output.output_type == "error" for output in cell.outputs)
    if is_grade(cell):
        cell.outputs = [
            output
            for output in cell.outputs
            if not failed or output.output_type != "execute_result"
        ]
    for output in cell.outputs:
        if output.output_type == "error":
            output.ename, output.evalue = output.ename[:200], output.evalue[:length]
            output.traceback = [line[:length] for line in output.traceback]
        elif output.output_type == "stream" and is_grade(cell):
            output.name = "stdout"


def _error(name: str, text: str) -> NotebookNode:
    return new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"])


# ---------------------------------------------------------------------------- cells


class RestoreCells(OverwriteCells):
    """nbgrader's OverwriteCells, for submissions that lack several cells in a row too.

    nbgrader's own fails where a check is missing and so is the answer before it, and where a cell
    is there twice.
    """

    def add_missing_grade_cells(
        self, nb: NotebookNode, resources: Resources
    ) -> tuple[NotebookNode, Resources]:
        """Put each missing check after the nearest cell before it that is there."""
        for cell in nb.cells:
            if _grade_id(cell) is None:  # a copy of another cell, or of another set
                cell.metadata.pop("nbgrader", None)
        source = self.gradebook.find_notebook(self.notebook_id, self.assignment_id)
        points = {cell.name: cell.max_score for cell in source.grade_cells}
        answers = {cell.name for cell in source.solution_cells}
        place = 0  # after the last source cell that was found, in the order of the source
        for wanted in source.source_cells:
            there = [i for i, cell in enumerate(nb.cells) if _grade_id(cell) == wanted.name]
            if there:
                place = there[-1] + 1
            elif wanted.name in points:
                cell = self.missing_cell_transform(
                    wanted, points[wanted.name], is_solution=wanted.name in answers
                )
                nb.cells.insert(place, cell)
                place += 1
        return nb, resources


def _grade_id(cell: NotebookNode) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


class NoScripts(SanitizeHTML):
    """Removes what would run in the browser of whoever marks or reads the feedback.

    What a cell shows may be a page with scripts, and formgrader is part of a Jupyter server that
    may start anything.
    """

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Resources) -> tuple[NotebookNode, Resources]:
        """Clean all cells of one notebook."""
        nb.metadata.pop("widgets", None)
        return super().preprocess(nb, resources)

    def preprocess_cell(
        self, cell: NotebookNode, resources: Resources, cell_index: int
    ) -> tuple[NotebookNode, Resources]:
        """Clean what the student wrote as text, and what any cell shows."""
        if cell.cell_type == "code" or not is_locked(cell) or is_solution(cell):
            super().preprocess_cell(cell, resources, cell_index)
        return cell, resources


# ---------------------------------------------------------------------------- feedback

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
TAG = re.compile(r"<[^>]*>")
HIDDEN = "What this cell showed is not repeated here: it quotes a test that stays hidden.\n"


class HideHiddenTests(ClearHiddenTests):
    """Takes hidden tests out of the feedback: out of the cells, and out of what cells showed.

    Of an error in a graded cell its message stays, which says what was measured; the traceback,
    which quotes the test, goes. Anything else that contains a line of a hidden test is replaced.
    """

    def preprocess(self, nb: NotebookNode, resources: Resources) -> tuple[NotebookNode, Resources]:
        """Clean all cells of one notebook."""
        self.lines = self.hidden_lines(nb)
        return super().preprocess(nb, resources)

    def preprocess_cell(
        self, cell: NotebookNode, resources: Resources, cell_index: int
    ) -> tuple[NotebookNode, Resources]:
        """Clean one cell. Students' own cells cannot hold a hidden test, whatever they contain."""
        if cell.cell_type != "code":
            return cell, resources
        if is_grade(cell):
            self._remove_hidden_test_region(cell)
            _shorten_errors(cell)
        shown = _squeezed("".join(text for output in cell.outputs for text in _texts(output)))
        if any(line in shown for line in self.lines):
            cell.outputs = [new_output("stream", name="stdout", text=HIDDEN)]
        return cell, resources

    def hidden_lines(self, nb: NotebookNode) -> set[str]:
        """The lines that only hidden tests contain, without their spaces."""
        hidden, seen = set(), set()
        for cell in nb.cells:
            cleared = copy.deepcopy(cell)
            if cell.cell_type == "code" and is_grade(cell):
                self._remove_hidden_test_region(cleared)
                hidden |= {_squeezed(line) for line in cell.source.split("\n")}
            if is_locked(cell):
                seen |= {_squeezed(line) for line in cleared.source.split("\n")}
        return {line for line in hidden - seen if len(line) > 7}  # ")" and "else:" say nothing


def _shorten_errors(cell: NotebookNode) -> None:
    """Of each error leave the message, once: a check prints it before it is raised."""
    messages = set()
    for output in cell.outputs:
        if output.output_type == "error":
            messages.add(output.evalue.strip())
            lines = f"{output.ename}: {output.evalue}".split("\n")
            wrapped = (textwrap.fill(line, 96, drop_whitespace=False) for line in lines)
            output.traceback = ["\n".join(wrapped)]
    messages.discard("")
    cell.outputs = [o for o in cell.outputs if o.get("text", "").strip() not in messages]


def _texts(output: NotebookNode) -> list[str]:
    """All texts of what was shown; those of pages also as they are read."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return [output.ename, output.evalue, *output.traceback]
    texts = [data if isinstance(data, str) else str(data) for data in output.data.values()]
    return texts + [html.unescape(TAG.sub("", text)) for text in texts]


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", ANSI.sub("", text))
