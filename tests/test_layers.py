"""The layers of course_lib: imports go down only."""

import ast
from pathlib import Path

import pytest

LAYER = {
    "models": 1,
    "probability": 1,
    "environment": 1,
    "checks": 1,
    "data": 2,
    "losses": 2,
    "metrics": 3,
    "training": 3,
    "recipes": 4,
    "exercises": 4,
    "notebooks": 4,
    "doctor": 4,
    "assignments": 5,
    "grading": 5,
    "lab": 5,
    "__main__": 6,
}
# Asked by every layer for folders and devices; it imports nothing of the course itself.
GROUND = {"environment"}
BESIDE = {"plotting"}


def imported_topics(path: Path) -> set[str]:
    """Names of the modules directly under course_lib that a file imports, anywhere in it."""
    topics = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, f"{path.name}: write imports from outside the package in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        topics |= {name.split(".")[1] for name in names if name.startswith("course_lib.")}
    return topics


def files(root: Path) -> list[tuple[str, Path]]:
    package = root / "course_lib"
    return [
        (path.relative_to(package).parts[0].removesuffix(".py"), path)
        for path in sorted(package.rglob("*.py"))
    ]


def test_every_module_has_its_place(root):
    topics = {topic for topic, _ in files(root)} - {"__init__"}
    assert topics <= set(LAYER) | BESIDE


def test_imports_go_down_only(root):
    wrong = []
    for topic, path in files(root):
        if topic == "__init__":
            continue
        for other in imported_topics(path) - {topic, "__version__"}:
            allowed = topic not in BESIDE and (
                other in LAYER and (LAYER[other] < LAYER[topic] or other in GROUND - {topic})
            )
            if not allowed:
                wrong.append(f"{path.relative_to(root)} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_the_test_sees_a_wrong_import(tmp_path):
    path = tmp_path / "models.py"
    path.write_text(
        "def f():\n    from course_lib.training import train\n    import course_lib.data\n"
    )
    assert imported_topics(path) == {"training", "data"}


@pytest.mark.parametrize("topic", ["checks", "environment", "plotting"])
def test_ground_modules_import_nothing_of_the_course(root, topic):
    for name, path in files(root):
        if name == topic:
            assert not imported_topics(path)
