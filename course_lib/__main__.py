"""Command line of the course: ``python -m course_lib COMMAND``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from course_lib import notebooks
from course_lib.environment import PROFILES, Profile


def run_command(options: argparse.Namespace) -> int:
    """Execute lectures; write executed copies and HTML; print a table."""
    root = notebooks.require_root()
    profile = Profile(options.profile).name
    build = Path(options.build) if options.build else root / "build" / profile
    runs = list(notebooks.run_lectures(root, options.names, profile, build, options.store or ""))
    print()
    print(notebooks.summary_table(runs))
    failed = [run.path.stem for run in runs if run.error]
    where = build.relative_to(root) if build.is_relative_to(root) else build
    print(f"\nExecuted copies and HTML pages lie in {where}.")
    if failed:
        print(f"Failed: {', '.join(failed)}. Open its page there to see the cell.")
    return 1 if failed else 0


def badges_command(options: argparse.Namespace) -> int:
    """Write badges, set-up cells and run records from the address in pyproject.toml."""
    changed = notebooks.update_badges(notebooks.require_root(), write=not options.check)
    for path in changed:
        print(f"{'differs' if options.check else 'updated'}: {path.name}")
    if not changed:
        print("All badges and set-up cells agree with pyproject.toml.")
    return 1 if changed and options.check else 0


def doctor_command(options: argparse.Namespace) -> int:
    """Check the installation and say what to mend."""
    from course_lib import doctor

    return doctor.report(doctor.examine())


def score_command(options: argparse.Namespace) -> int:
    """Score one set of images or features against another; print a table."""
    from course_lib.metrics import FeaturesUnavailableError, load_features
    from course_lib.metrics.report import load, report

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)

    try:
        network = load_features(options.features) if options.features else None
    except FeaturesUnavailableError as error:
        raise ValueError(str(error)) from None
    tell("reading")
    real, fake = (load(path, network, options.image_size) for path in (options.real, options.fake))
    if real.name and fake.name and real.name != fake.name:
        raise ValueError(
            f"{options.real} has features of {real.name} and {options.fake} of {fake.name}: both "
            "must come from one network."
        )
    result = report(
        real.features,
        fake.features,
        features=real.name or fake.name or "unnamed features",
        probabilities=fake.probabilities,
        resamples=options.bootstrap,
        k=options.k,
        seed=options.seed,
        progress=tell,
    )
    tell("")
    print(result)
    if options.json:
        text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
        notebooks.write_text(Path(options.json), text)
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    main = argparse.ArgumentParser(prog="python -m course_lib", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="execute the lectures and show what came of it")
    command.add_argument("names", nargs="*", help="beginnings of names, such as 04; default all")
    command.add_argument(
        "--profile",
        default=os.environ.get("COURSE_PROFILE") or "laptop",
        choices=PROFILES,
        help="default: COURSE_PROFILE, else laptop",
    )
    command.add_argument("--build", help="folder for executed copies (default build/PROFILE)")
    command.add_argument(
        "--store",
        choices=("outputs", "time"),
        help="store outputs and time, or the time alone, in notebooks/",
    )
    command.set_defaults(call=run_command)

    command = commands.add_parser("badges", help="write badges and set-up cells of all lectures")
    command.add_argument("--check", action="store_true", help="change nothing; fail if one differs")
    command.set_defaults(call=badges_command)

    command = commands.add_parser(
        "score",
        help="compare generated images or features with real ones",
        description="Prints a table of scores. REAL and FAKE are folders of images, or .npz or "
        ".npy files with images or features.",
    )
    command.add_argument("real", metavar="REAL")
    command.add_argument("fake", metavar="FAKE")
    command.add_argument(
        "--features",
        choices=("digits", "sprites", "mnist", "fashion_mnist", "inception"),
        help="network that turns images into features; not needed for files of features",
    )
    command.add_argument("--image-size", type=int, help="pixels per side for images of a folder")
    command.add_argument("--bootstrap", type=int, metavar="B", help="resamples (0: no intervals)")
    command.add_argument("-k", type=int, default=5, help="neighbours of precision and its kin")
    command.add_argument("--seed", type=int, default=0, help="of shuffle, subsets and bootstrap")
    command.add_argument("--json", metavar="FILE", help="write the table there too")
    command.set_defaults(call=score_command)

    command = commands.add_parser("doctor", help="check this installation and say what to mend")
    command.set_defaults(call=doctor_command)
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run one command; an expected error ends in a sentence, not in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a tick must not end a run where it cannot be written
            stream.reconfigure(errors="replace")
    options = parser().parse_args(arguments)
    try:
        return options.call(options)
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except ImportError as error:
        mend = "python -m pip install --editable '.[lab]'"
        print(f"course_lib: {error.name} is missing; to install it: {mend}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"course_lib: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
