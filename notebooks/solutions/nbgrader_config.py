"""nbgrader's settings for this folder: every nbgrader command that is run here reads them.

What is not nbgrader's own lies in course_lib/grading; README.md says how to use it.
"""

import os
import sys
from pathlib import Path

c = get_config()  # noqa: F821

# nbgrader starts `alembic` by name, which is on no path when the environment is not active.
os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", "")

c.CourseDirectory.course_id = "generative-models"
# Where this file lies, whichever way nbgrader came to read it.
c.CourseDirectory.root = str(Path(__file__).resolve().parent)

# What a student finds in place of a solution; `python -m course_lib exercises` writes the same.
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError  # your code here"}

# Marking runs code that nobody has read: in a box (README.md, "Isolation"), cell by cell.
grading = "course_lib.grading.preprocessors"
c.Autograde.pre_convert_hook = f"{grading}.before_autograde"
c.Autograde.sanitize_preprocessors = [
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    "nbgrader.preprocessors.OverwriteKernelspec",
    f"{grading}.RestoreCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.Autograde.autograde_preprocessors = [
    f"{grading}.RunCells",
    f"{grading}.NoScripts",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
]
# A deleted check is put back, so that deleting it gains nothing.
c.OverwriteCells.add_missing_cells = True

# Bounds of one submission. A check ends by itself after 1.5 s, so 60 s are for loops outside one.
c.Execute.timeout = 60  # seconds per cell
c.Execute.error_on_timeout = {
    "ename": "CellTimeoutError",
    "evalue": "this cell ran too long and was interrupted: is there a loop without an end?",
    "traceback": ["CellTimeoutError: this cell ran too long: is there a loop without an end?"],
}
c.RunCells.max_output = 100_000  # characters per cell
c.LimitOutput.max_lines = 200
c.IsolatedKernelManager.memory = 4 * 2**30  # bytes per process
c.IsolatedKernelManager.cpu_seconds = 1200
c.IsolatedKernelManager.file_size = 64 * 2**20
c.IsolatedKernelManager.folder_size = 256 * 2**20
c.IsolatedKernelManager.processes = 256

# nbgrader would show hidden tests, and the tracebacks that quote them, to the students.
c.GenerateFeedback.preprocessors = [
    "nbgrader.preprocessors.GetGrades",
    f"{grading}.HideHiddenTests",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]

# zip_collect: downloaded/SET/archive/NAME.zip is what NAME submitted, whatever folders are in it.
# Words may stand before the set's name, as in Colab's "Copy of 12_elbo.ipynb", and behind it, but
# not joined to it by a letter, a digit or "_".
c.FileNameCollectorPlugin.named_regexp = (
    r"(?!.*/\.ipynb_checkpoints/).*/extracted/(?P<student_id>[^/]+)/"
    r"(?:.*/)?(?:[^/]*[^\w/])?(?P<file_id>\d\d_\w+)[^/]*\.ipynb$"
)
