"""The library behind the course on generative image models.

A notebook starts with ``course = course_lib.setup(seed=0)`` and imports the topics it needs:
``from course_lib import data, losses, models, plotting, probability, training``.
"""

from course_lib.checks import check, check_true
from course_lib.environment import Course, Profile, __version__, setup

__all__ = ["Course", "Profile", "__version__", "check", "check_true", "setup"]
