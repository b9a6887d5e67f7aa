"""The library behind the course on generative image models.

A notebook starts with ``course = course_lib.setup(seed=0)`` and imports the topics it needs:
``from course_lib import data, losses, models, plotting, probability, training``.
"""

import sys

try:
    from course_lib.checks import check, check_true
    from course_lib.environment import Course, Profile, __version__, setup
except (ModuleNotFoundError, KeyboardInterrupt) as error:
    # `python -m course_lib` imports this file before it can say anything itself.
    if sys.argv[0] != "-m" or str(getattr(error, "name", None)).startswith(__name__):
        raise
    if isinstance(error, KeyboardInterrupt):
        print("\nStopped. Nothing was written.", file=sys.stderr)
        raise SystemExit(130) from None
    print(
        f"course_lib: {error.name} is missing for {sys.executable}. Use the Python of the "
        "environment that `make lab` makes, .venv/bin/python (Windows: .venv\\Scripts\\python), or "
        "install it for this one: python -m pip install --editable '.[lab]'",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

__all__ = ["Course", "Profile", "__version__", "check", "check_true", "setup"]
