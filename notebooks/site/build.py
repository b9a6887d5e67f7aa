"""Build the web site: ``python notebooks/site/build.py`` writes build/site/.

Nothing is executed and nothing is fetched. What the site shows is staged first, so that links keep
their meaning: the content of notebooks/ becomes the root of the site, data sheets and benchmark
pages lie in data/, and pages that are made from the repository (front page, exercises, results,
bibliography, API) lie beside them. A warning of Sphinx is an error.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

import pages  # noqa: E402

from course_lib import notebooks  # noqa: E402

# What goes from the checkout to the site as it is: a place in the repository, a place on the site.
COPIED = {
    "notebooks/README.md": "README.md",
    "notebooks/site/errata.md": "site/errata.md",
    "notebooks/site/glossary.md": "site/glossary.md",
    "notebooks/solutions/README.md": "solutions/README.md",
    "data/README.md": "data/README.md",
}


def copied(root: Path) -> dict[Path, str]:
    """Every file that the site shows unchanged, and its place on the site."""
    found = {root / source: target for source, target in COPIED.items()}
    for path in notebooks.lecture_paths(root):
        found[path] = path.name
    for path in sorted((root / "notebooks" / "exercises").glob("[0-9][0-9]_*.ipynb")):
        found[path] = f"exercises/{path.name}"
    for path in sorted((root / "data" / "results").glob("benchmark_*")):
        if path.suffix in (".md", ".png"):
            found[path] = f"data/results/{path.name}"
    return found


def stage(root: Path, folder: Path) -> None:
    """Write the sources of the site; a file that has not changed keeps its time.

    Raises:
        FileNotFoundError: a page that the site should have is not in the checkout.
    """
    content: dict[str, bytes] = {}
    for path, target in copied(root).items():
        if not path.is_file():
            raise FileNotFoundError(
                f"The site shows {path.relative_to(root)}, which is not there: restore it with git."
            )
        content[target] = path.read_bytes()
    content |= pages.made(root)
    for name, data in content.items():
        target = folder / name
        if not target.exists() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        if path.relative_to(folder).as_posix() not in content:
            path.unlink()


def build(root: Path, out: Path, work: Path, fresh: bool = False, extra: Path | None = None) -> int:
    """Build the site.

    Args:
        root: the checkout.
        out: the folder of the site.
        work: a folder for the staged sources and what Sphinx remembers.
        fresh: forget what was built before.
        extra: a folder of more pages, laid over the staged ones.

    Returns:
        0, or 1 if there was a warning or an error.
    """
    from sphinx.cmd.build import build_main

    if fresh:
        for folder in (out, work):
            shutil.rmtree(folder, ignore_errors=True)
    source = work / "source"
    stage(root, source)
    if extra is not None:
        shutil.copytree(extra, source, dirs_exist_ok=True)
    options = ["-W", "--keep-going", "-q", "-T", "-b", "html", "-d", str(work / "doctrees")]
    return build_main([*options, "-c", str(HERE), str(source), str(out)])


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the web site of the course.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "site-work")
    parser.add_argument("--fresh", action="store_true", help="forget what was built before")
    parser.add_argument("--extra", type=Path, help="a folder of more pages")
    chosen = parser.parse_args()
    start = time.perf_counter()
    failed = build(ROOT, chosen.out, chosen.work, chosen.fresh, chosen.extra)
    if failed:
        print("The site was not built: see the warnings above, each of which is an error.")
        return 1
    print(f"{chosen.out / 'index.html'}: built in {time.perf_counter() - start:.0f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
