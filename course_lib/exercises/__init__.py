"""Checks that read a student's function and answer with a hint: ``check.NAME(answer)``.

One module per lecture holds its exercises' checks; the notebooks with statements, hints and
solutions lie in notebooks/solutions/, and the students' versions in notebooks/exercises/.
"""

from course_lib.exercises.attempts import GENERIC, Attempt, Verdict
from course_lib.exercises.registry import Checks, Exercise, check, exercise, exercises

__all__ = [
    "GENERIC",
    "Attempt",
    "Checks",
    "Exercise",
    "Verdict",
    "check",
    "exercise",
    "exercises",
]
