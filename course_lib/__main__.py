"""Command line of the course: ``python -m course_lib COMMAND``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from course_lib import notebooks
from course_lib.environment import PROFILES, Profile


def run_command(options: argparse.Namespace) -> int:
    """Execute lectures; write executed copies and HTML; print a table."""
    root = notebooks.require_root()
    profile = Profile(options.profile).name
    build = Path(options.build).expanduser() if options.build else root / "build" / profile
    if build.resolve() == (root / "notebooks").resolve():
        raise ValueError(
            f"--build {options.build} would write executed copies over the lectures: name another "
            "folder. (--store outputs stores what they print.)"
        )
    _require_folder(build, "--build")
    runs = list(notebooks.run_lectures(root, options.names, profile, build, options.store or ""))
    print()
    print(notebooks.summary_table(runs))
    failed = [run.path.stem for run in runs if run.error]
    where = build.relative_to(root) if build.is_relative_to(root) else build
    print(f"\nExecuted copies and HTML pages lie in {where}.")
    if options.store:
        print("The README shows times and pictures of them: python -m course_lib readme")
    if failed:
        print(f"Failed: {', '.join(failed)}. Open its page there to see the cell.")
    return 1 if failed else 0


def _require_folder(folder: Path, option: str) -> None:
    """Make a folder and see that it can be written to, before work is done for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written to ({error.strerror}): name a folder of your own with "
            f"{option}."
        ) from None


def badges_command(options: argparse.Namespace) -> int:
    """Write badges, set-up cells and run records from the address in pyproject.toml."""
    changed = notebooks.update_badges(notebooks.require_root(), write=not options.check)
    for path in changed:
        print(f"{'differs' if options.check else 'updated'}: {path.name}")
    if not changed:
        print("All badges and set-up cells of the lectures agree with pyproject.toml.")
    elif not options.check:
        print("Those of the exercises: python -m course_lib exercises build")
    return 1 if changed and options.check else 0


def doctor_command(options: argparse.Namespace) -> int:
    """Check the installation and say what to mend."""
    from course_lib import doctor

    return doctor.report(doctor.examine())


def lab_command(options: argparse.Namespace) -> int:
    """Start JupyterLab for this computer alone."""
    from course_lib import lab

    return lab.start(options.path, options.port, options.browser)


def score_command(options: argparse.Namespace) -> int:
    """Score one set of images or features against another; print a table."""
    from course_lib.metrics import FeaturesUnavailableError, load_features
    from course_lib.metrics.report import load, report

    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:<60}\r", end="", file=sys.stderr, flush=True)

    tell("reading")
    try:
        network = load_features(options.features) if options.features else None
        real, fake = (
            load(path, network, options.image_size, tuple(options.range))
            for path in (options.real, options.fake)
        )
    except (FeaturesUnavailableError, TypeError) as error:
        raise ValueError(str(error)) from None
    names = [loaded.name or options.name or "unnamed features" for loaded in (real, fake)]
    if names[0] != names[1]:
        raise ValueError(
            f"{options.real} has {names[0]} and {options.fake} has {names[1]}: both must come from "
            "one network. (Features in a file without a name can be named with --name.)"
        )
    result = report(
        real.features,
        fake.features,
        features=names[0],
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
        notebooks.write_text(Path(options.json).expanduser(), text)
    return 0


def train_command(options: argparse.Namespace) -> int:
    """Train a recipe in a directory of its own, evaluate it, and write its result card."""
    from course_lib import training
    from course_lib.recipes import runs

    settings = runs.parse_settings(options.set)
    asked = {name: getattr(options, name) for name in ("profile", "steps", "seed", "every")}
    out = options.out or runs.default_directory(runs.configure(options.recipe, **asked))
    several, first = int(os.environ.get("WORLD_SIZE", 1)), os.environ.get("RANK", "0") == "0"
    out = Path(out).expanduser()
    quoted = subprocess.list2cmdline([str(out)]) if os.name == "nt" else shlex.quote(str(out))
    command = "python"
    if several > 1:
        command = f"accelerate launch --num_processes {several}"
        command += " --use_fsdp" if training.processes.wants_shards() else " --multi_gpu"
    sign = "=" if quoted.startswith("-") else " "  # what looks like an option must be joined to one
    command += f" -m course_lib train {options.recipe} --out{sign}{quoted} --resume"
    command += f" --device {options.device}" if options.device else ""
    with _sentences(new=not options.resume):
        try:
            runs.train(
                options.recipe,
                out=out,
                resume=options.resume,
                device=options.device,
                settings=settings,
                **asked,
            )
            training.processes.disconnect()
        except training.processes.FirstFailed:
            return 2  # the first process says why
        except training.TrainingDiverged:
            if first:
                raise
            return 2
        except KeyboardInterrupt:
            begun = Path(out, "config.json").exists()
            told = f"To go on from what is saved: {command}" if begun else "Nothing was written."
            if first:
                print(f"\nStopped. {told}", file=sys.stderr)
            return 130
    return 0


def sample_command(options: argparse.Namespace) -> int:
    """Draw images from a trained run."""
    from course_lib.recipes import runs

    with _sentences():
        path = runs.sample(options.run, options.n, options.seed, options.out, options.device)
    print(f"{options.n:,} images lie in {path}.")
    return 0


def evaluate_command(options: argparse.Namespace) -> int:
    """Score a trained run again."""
    from course_lib.recipes import cards, runs

    with _sentences():
        settings = runs.parse_settings(options.set)
        card = runs.evaluate(options.run, options.device, settings)
        print(cards.summary(card, Path(options.run)))
    return 0


def recipes_command(options: argparse.Namespace) -> int:
    """List the recipes."""
    from course_lib.recipes import cards

    print(cards.table())
    return 0


def publish_command(options: argparse.Namespace) -> int:
    """Copy the card of a finished run, and its weights if wanted, into the folder data."""
    from course_lib.recipes import results

    with _sentences():
        path = results.publish(options.run, options.variant, options.weights, options.device)
    print(f"The card lies in {path}. To show it in README.md: python -m course_lib readme")
    return 0


def results_command(options: argparse.Namespace) -> int:
    """Write the results page of README.md from the cards in data/results."""
    from course_lib.recipes import results

    changed = results.write_page(notebooks.require_root(), write=not options.check)
    told = "differs from the cards" if options.check else "is updated"
    print(f"The page of results in README.md {told if changed else 'agrees with the cards'}.")
    return 1 if changed and options.check else 0


def readme_command(options: argparse.Namespace) -> int:
    """Bring all that README.md has from notebooks, exercises and cards up to date."""
    root, write = notebooks.require_root(), not options.check
    changed = _update_readme(root, write)
    for path in changed:
        print(f"{'updated' if write else 'differs'}: {path.relative_to(root)}")
    if not changed:
        print("README.md agrees with notebooks, exercises and cards.")
    return 1 if changed and not write else 0


def _update_readme(root: Path, write: bool) -> list[Path]:
    """README.md and its small pictures, as far as they differed from their sources."""
    from course_lib import assignments
    from course_lib.recipes import headlines, pretrained, results

    readme, cards = root / "README.md", pretrained.cards(root / "data" / "results")
    changed = notebooks.write_lecture_table(root, write)
    differed = [
        assignments.write_table(root, write),
        notebooks.write_between(
            readme, headlines.BEGIN, headlines.END, headlines.table(cards), write
        ),
        results.write_page(root, write),
    ]
    if any(differed) and readme not in changed:
        changed.append(readme)
    return changed


def fresh_command(options: argparse.Namespace) -> int:
    """Say what is stored or generated and no longer agrees with its source; change nothing."""
    from course_lib import assignments

    root = notebooks.require_root()
    exercises = assignments.build(root, write=False)
    found = [
        *((path, f"run {path.stem[:2]} --store outputs") for path in notebooks.stale(root)),
        *((path, "badges") for path in notebooks.update_badges(root, write=False)),
        *((path, "exercises build") for path in exercises),
        *((path, "readme") for path in _update_readme(root, write=False)),
    ]
    for path, command in found:
        print(f"not fresh: {path.relative_to(root)}; mend it: python -m course_lib {command}")
    if not found:
        print("All that is stored or generated agrees with its sources.")
    return 1 if found else 0


def animation_command(options: argparse.Namespace) -> int:
    """Train the small generator of the README's moving picture, and write the picture."""
    from course_lib.data import DataUnavailableError
    from course_lib.recipes import animation

    out = Path(options.out).expanduser() if options.out else None
    if out is None:
        out = notebooks.require_root() / "data" / "noise_to_digits.gif"
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise ValueError(f"--out {out} names no file in a folder: give one, such as noise.gif.")
    _require_folder(out.resolve().parent, "--out")
    if options.steps < 1:
        raise ValueError(f"--steps is {options.steps}; a picture needs at least 1 update.")
    made, began = animation.made_from(options.steps, options.data), time.perf_counter()
    print(f"{options.steps:,} updates on one core, some minutes; then the picture is drawn.")
    try:
        seen = animation.train(options.steps, options.data)
    except DataUnavailableError as error:
        raise ValueError(f"{error} (Here the last would be --data digits.)") from None
    picture = animation.gif(seen, made)
    notebooks.write_file(out, picture)
    minutes = (time.perf_counter() - began) / 60
    print(f"{out}: {len(picture) / 1e6:.2f} MB, after {minutes:.1f} minutes.")
    return 0


def exercises_command(options: argparse.Namespace) -> int:
    """Make, compare, list or bundle the exercises."""
    from course_lib import assignments

    root = notebooks.require_root()
    if options.action == "list":
        print(assignments.table(root, options.names))
        return 0
    if options.action == "bundle":
        if not options.names:
            raise ValueError("Say which set to bundle: python -m course_lib exercises bundle 04")
        folder = Path(options.out).expanduser() if options.out else root / "build" / "exercises"
        _require_folder(folder, "--out")
        for name in options.names:
            print(f"{assignments.bundle(root, name, folder)}")
        return 0
    write = options.action == "build"
    changed = assignments.build(root, options.names, write)
    if assignments.write_table(root, write):
        changed.append(root / "README.md")
    for path in changed:
        print(f"{'updated' if write else 'differs'}: {path.relative_to(root)}")
    if not changed:
        print("The students' versions agree with their sources.")
    return 1 if changed and not write else 0


@contextmanager
def _sentences(new: bool = False) -> Iterator[None]:
    """Turn the errors of a run that say all in one sentence into those that `main` prints.

    `new`: the command begins a run, so that its settings can still be chosen.
    """
    from course_lib.data import DataUnavailableError
    from course_lib.training import TrainingDiverged
    from course_lib.training.processes import ProcessLost

    try:
        yield
    except DataUnavailableError as error:
        hint = " (Here the last would be --set data=digits.)" if new else ""
        raise ValueError(f"{error}{hint}") from None
    except (TrainingDiverged, ProcessLost) as error:
        raise ValueError(str(error)) from None
    except RuntimeError as error:
        # That of CUDA has a class of its own; the others are known by their words alone.
        words = ("MPS backend out of memory", "can't allocate memory", "not enough memory")
        words += ("Storage size calculation overflowed",)
        gpu = type(error).__name__ == "OutOfMemoryError" or words[0] in str(error)
        if not gpu and not any(text in str(error) for text in words):
            raise
        mend = "choose a smaller batch_size or width with --set" if new else "free some"
        mend += ", or --device cpu" if gpu else ""
        raise ValueError(f"The memory of the device is full: {mend}.") from None


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    main = argparse.ArgumentParser(prog="python -m course_lib", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "lab", help="start JupyterLab; say where it is and how to stop it"
    )
    command.add_argument(
        "path", nargs="?", metavar="PATH", help="a notebook or a folder; default the first lecture"
    )
    command.add_argument(
        "--port", type=int, default=8888, help="the first port to try (default 8888)"
    )
    command.add_argument(
        "--browser",
        action=argparse.BooleanOptionalAction,
        help="open one or not; default: where one would be seen, so not over SSH",
    )
    command.set_defaults(call=lab_command)

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
    command.add_argument(
        "--range",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="black and white of floating-point images in files: 0 1 (the default) or -1 1",
    )
    command.add_argument("--name", help="name of the features in files that give none")
    command.add_argument("--bootstrap", type=int, metavar="B", help="resamples (0: no intervals)")
    command.add_argument("-k", type=int, default=5, help="neighbours of precision and its kin")
    command.add_argument("--seed", type=int, default=0, help="of shuffle, subsets and bootstrap")
    command.add_argument("--json", metavar="FILE", help="write the table there too")
    command.set_defaults(call=score_command)

    _add_recipe_commands(commands)
    _add_results_commands(commands)
    _add_exercises_command(commands)
    _add_readme_commands(commands)
    command = commands.add_parser("doctor", help="check this installation and say what to mend")
    command.set_defaults(call=doctor_command)
    return main


def _add_recipe_commands(commands: Any) -> None:
    """train, sample, evaluate and recipes."""
    command = commands.add_parser(
        "train",
        help="train a recipe; it can be killed and resumed",
        description="Trains a recipe. On N GPUs, which share every batch: accelerate launch "
        "--num_processes N -m course_lib train RECIPE (several processes on a CPU need --multi_gpu "
        "as well; needs the extra distributed). With --use_fsdp in place of --multi_gpu each keeps "
        "only its share of wide layers.",
    )
    command.add_argument("recipe", metavar="RECIPE", help="see the command recipes")
    command.add_argument("--profile", choices=PROFILES, help="default: COURSE_PROFILE, else laptop")
    command.add_argument("--steps", type=int, help="updates (default: those of the profile)")
    command.add_argument("--seed", type=int, help="of everything random (default 0)")
    command.add_argument("--out", metavar="DIR", help="default: RECIPE-PROFILE-seedSEED in the "
                         "output folder (COURSE_OUTPUT, else build/runs)")  # fmt: skip
    command.add_argument(
        "--every",
        type=int,
        help="updates between checkpoints (default: 1/20 of the run, at least 25)",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting"
    )
    command.add_argument("--resume", action="store_true", help="go on with the run in DIR")
    command.set_defaults(call=train_command)

    command = commands.add_parser("sample", help="draw images from a run, or from shipped weights")
    command.add_argument("run", metavar="DIR|NAME", help="a run, or weights of data/checkpoints")
    command.add_argument("-n", type=int, default=64, help="number of images (default 64)")
    command.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    command.add_argument("--out", metavar="FILE", help=".png or .npz (default DIR/samples.png)")
    command.set_defaults(call=sample_command)

    command = commands.add_parser("evaluate", help="score a run again")
    command.add_argument("run", metavar="DIR")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="more "
                         "test_images, samples, importance_samples, centroids or centroid_rounds "
                         "than the run had")  # fmt: skip
    command.set_defaults(call=evaluate_command)

    for name in ("train", "sample", "evaluate"):
        commands.choices[name].add_argument("--device", help="cpu, cuda or mps; default: the best")

    command = commands.add_parser("recipes", help="list what train can train")
    command.set_defaults(call=recipes_command)


def _add_results_commands(commands: Any) -> None:
    """publish and results."""
    command = commands.add_parser("publish", help="put the card of a finished run into data/")
    command.add_argument("run", metavar="DIR")
    command.add_argument(
        "--variant", default="", help="a word for settings that are not the recipe's, such as k50"
    )
    command.add_argument(
        "--weights", action="store_true", help="its weights too, at most 3 MB (evaluates again)"
    )
    command.add_argument("--device", help="of the evaluation: cpu, cuda or mps; default: the best")
    command.set_defaults(call=publish_command)

    command = commands.add_parser("results", help="write the results page of README.md from cards")
    command.add_argument("--check", action="store_true", help="change nothing; fail if it differs")
    command.set_defaults(call=results_command)


def _add_readme_commands(commands: Any) -> None:
    """readme, fresh and animation."""
    command = commands.add_parser(
        "readme", help="write tables and small pictures of README.md from notebooks and cards"
    )
    command.add_argument("--check", action="store_true", help="change nothing; fail if one differs")
    command.set_defaults(call=readme_command)

    command = commands.add_parser(
        "fresh", help="find what is stored or generated and no longer agrees with its source"
    )
    command.set_defaults(call=fresh_command)

    command = commands.add_parser(
        "animation",
        help="make the README's moving picture: noise becoming digits (trains for some minutes)",
        description="Trains a small DCGAN on a CPU and shows what it makes of the same noise at "
        "many moments. The same seed, machine and versions give the same bytes.",
    )
    command.add_argument("--steps", type=int, default=6000, help="updates (default 6000)")
    command.add_argument(
        "--data", default="mnist", choices=("mnist", "fashion_mnist", "kmnist", "digits")
    )
    command.add_argument("--out", metavar="FILE", help="default data/noise_to_digits.gif")
    command.set_defaults(call=animation_command)


def _add_exercises_command(commands: Any) -> None:
    """exercises."""
    command = commands.add_parser(
        "exercises",
        help="make the students' versions of the exercises, or a bundle of one set",
        description="build: notebooks/exercises/ and the README's table from notebooks/solutions/. "
        "check: fail where they differ. list: the table. bundle: a zip for students.",
    )
    command.add_argument("action", choices=("build", "check", "list", "bundle"))
    command.add_argument("names", nargs="*", help="beginnings of names, such as 04; default all")
    command.add_argument("--out", metavar="DIR", help="of bundles (default build/exercises)")
    command.set_defaults(call=exercises_command)


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
        if not isinstance(error, ModuleNotFoundError):  # there, and broken
            print(
                f"course_lib: {error}. What is amiss: python -m course_lib doctor", file=sys.stderr
            )
            return 2
        extra = "grading" if error.name == "nbgrader" else "lab"
        mend = f"python -m pip install --editable '.[{extra}]'"
        print(f"course_lib: {error.name} is missing; to install it: {mend}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"course_lib: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if "home directory" not in str(error):
            raise
        print(f"course_lib: {error} Is there a mistake behind the ~ of a path?", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
