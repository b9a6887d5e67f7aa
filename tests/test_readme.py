"""README.md: what it shows is fresh, what it names is there."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from course_lib import __main__, assignments, notebooks
from course_lib.recipes import animation, headlines, pretrained, results

PAGES = ["README.md", "CONTRIBUTING.md"]
KB = 1000
# The address of the issues in whichever repository the page is shown.
ON_GITHUB = {"../../issues"}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def targets(text: str) -> set[str]:
    """What a page of Markdown links to, or shows."""
    text = re.sub(r"```.*?```", "", text, flags=re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return set(found + re.findall(r'(?:src|srcset|href)="([^"]+)"', text))


def copy_of_readme(root: Path, tmp_path: Path) -> Path:
    """A checkout with all that README.md is made from."""
    shutil.copytree(root / "notebooks", tmp_path / "notebooks")
    for name in ("results", "thumbnails"):
        shutil.copytree(root / "data" / name, tmp_path / "data" / name)
    shutil.copy(root / "README.md", tmp_path)
    return tmp_path


def test_all_that_the_readme_is_given_is_fresh(root, capsys):
    code = __main__.main(["readme", "--check"])
    assert code == 0, capsys.readouterr().out + "write it: python -m course_lib readme"


def test_a_readme_that_is_not_fresh_is_noticed_and_written(root, tmp_path, monkeypatch, capsys):
    checkout = copy_of_readme(root, tmp_path)
    monkeypatch.setattr(notebooks, "repository_root", lambda: checkout)
    readme = checkout / "README.md"
    path = notebooks.lecture_paths(checkout)[0]
    notebook = notebooks.read_notebook(path)
    notebook["metadata"]["course"]["promise"] = "learn another thing"
    notebooks.write_notebook(path, notebook)
    (checkout / "data" / "thumbnails" / "99_gone.png").write_bytes(b"")
    assert __main__.main(["readme", "--check"]) == 1
    told = capsys.readouterr().out
    assert "differs: README.md" in told and "99_gone.png" in told
    assert __main__.main(["readme"]) == 0
    assert "| learn another thing |" in readme.read_text(encoding="utf-8")
    assert __main__.main(["readme", "--check"]) == 0
    text = readme.read_text(encoding="utf-8")
    for mark in (notebooks.LECTURES_BEGIN, headlines.END, assignments.BEGIN):
        readme.write_text(text.replace(mark, ""), encoding="utf-8")
        assert __main__.main(["readme"]) == 2
        assert mark in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda notebook: notebook["metadata"]["course"].pop("promise"), '"promise"'),
        (lambda notebook: notebook["metadata"]["course"]["runs"].pop("laptop"), "recorded run"),
        (
            lambda notebook: [c["metadata"].pop("thumbnail", 0) for c in notebook["cells"]],
            '"thumbnail"',
        ),
        (lambda notebook: [c.update(outputs=[]) for c in notebook["cells"]], "0 pictures"),
    ],
)
def test_a_lecture_that_lacks_something_gets_a_sentence(change, sentence, root, tmp_path):
    path = notebooks.lecture_paths(root)[0]
    notebook = notebooks.read_notebook(path)
    change(notebook)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        notebooks.lecture_table(tmp_path)


def test_every_lecture_and_every_recipe_with_a_card_has_its_line(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    table = text.split(notebooks.LECTURES_BEGIN)[1].split(notebooks.LECTURES_END)[0]
    for path in notebooks.lecture_paths(root):
        assert f"](notebooks/{path.name})" in table
        assert f"](notebooks/exercises/{path.name})" in table
        assert f'src="data/thumbnails/{path.stem}.png"' in table
    lines = text.split(headlines.BEGIN)[1].split(headlines.END)[0]
    for card in pretrained.cards(root / "data" / "results").values():
        assert f"| `{card['recipe']}` |" in lines


def test_a_headline_shows_the_score_beside_that_of_the_paper_or_of_real_images(root):
    cards = pretrained.cards(root / "data" / "results")
    lines = headlines.table(cards).splitlines()
    rows = [line for line in lines[2:] if line.startswith("|")]
    on_gpu = [card for card in cards.values() if not card["device"].startswith("cpu")]
    assert ("No recipe has run on a GPU yet." in lines) == (not on_gpu)
    one = dict([next(iter(cards.items()))])
    elsewhere = {path: card | {"device": "Some GPU"} for path, card in one.items()}
    assert "GPU" not in headlines.table(elsewhere)
    for group, row in zip(results.groups(cards), rows, strict=True):
        card = group.first
        figures = [f["value"] for f in card["paper"]]
        draws = card["config"]["settings"].get("k", 1)
        assert draws == 1 or f", k = {draws} |" in row
        assert f"| {group.passes:,.0f} | {group.minutes:.0f} |" in row
        beside = re.search(r"\| (the paper|real images): ([\d.,]+)", row)
        shown = float(beside[2].replace(",", ""))
        if figures:
            assert beside[1] == "the paper" and shown == pytest.approx(figures[0])
        else:
            floor = next(r for r in card["metrics"] if "real against real" in r["measure"])
            assert beside[1] == "real images" and shown == pytest.approx(floor["value"], rel=0.01)
    assert headlines.table({}) == "No card of a full run is published yet."


def anchors(path: Path) -> set[str]:
    """The anchors of a page of Markdown."""
    return {slug(h) for h in re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_picture_is_there(page, root):
    found = targets((root / page).read_text(encoding="utf-8"))
    assert len(found) > 10
    for target in found - ON_GITHUB:
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            assert (root / path).exists(), target
            assert not anchor or anchor in anchors(root / (path or page)), target


def test_pictures_are_small_and_say_what_they_show(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    for tag in re.findall(r"<img [^>]+>", text):
        path = root / re.search(r'src="([^"]+)"', tag)[1]
        limit = 40 * KB if path.parent.name == "thumbnails" else 1000 * KB
        assert path.stat().st_size < limit, f"{path.name} has {path.stat().st_size} bytes"
        assert re.search(r'alt="[^"]{20,}"', tag), tag


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_named_are_commands(page, root, capsys):
    text = (root / page).read_text(encoding="utf-8")
    made = set(re.findall(r"(?:^|`|\s)make (\w+)(?:`|\s+#|$)", text, re.M))
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert {"test"} <= made <= set(re.findall(r"^(\w[\w-]*):", makefile, re.M))
    commands = set(re.findall(r"-m course_lib ([a-z]+)", text))
    assert len(commands) > 3
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            __main__.main([command, "--help"])
        assert ended.value.code == 0, command
    for script in re.findall(r"python (tests/\S+\.py)", text):
        assert (root / script).exists(), script
    capsys.readouterr()


def test_the_animation_is_the_one_that_its_command_makes(root):
    path = root / "data" / "noise_to_digits.gif"
    picture = Image.open(path)
    assert json.loads(picture.info["comment"]) == animation.made_from()
    assert picture.n_frames == 1 + len(animation.moments(animation.STEPS))
    assert picture.info["loop"] == 0, "it does not go on for ever"
    default = __main__.parser().parse_args(["animation"])
    assert (default.steps, default.data) == (animation.STEPS, animation.SETTINGS["data"])


def test_the_animation_shows_the_training_from_its_start_to_its_end():
    shown = animation.moments(6000)
    assert shown[0] == 0 and shown[-1] == 6000
    assert shown == sorted(set(shown))
    assert shown[len(shown) // 2] < 3000, "the beginning, where most happens, is shown densely"
    assert animation.moments(7) == [0, 7]


def test_the_same_seed_makes_the_same_animation(tmp_path, capsys):
    files = [tmp_path / name for name in ("one.gif", "two.gif")]
    for path in files:
        command = ["animation", "--steps", "12", "--data", "digits", "--out", str(path)]
        assert __main__.main(command) == 0
    first, second = (path.read_bytes() for path in files)
    assert first == second
    picture = Image.open(io.BytesIO(first))
    assert json.loads(picture.info["comment"])["settings"]["data"] == "digits"
    frames = []
    for i in range(picture.n_frames):
        picture.seek(i)
        frames.append(picture.convert("L").tobytes())
    assert len(frames) == 4 and len(set(frames)) == 4, "noise, and updates 0, 10 and 12"
    assert "MB" in capsys.readouterr().out


def test_the_citation_says_what_the_project_says(root):
    import tomllib

    import yaml

    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # What version 1.2.0 of the format demands, and the keys of it that are used here.
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()
    assert cited.keys() <= {
        "cff-version", "message", "title", "authors", "type", "version", "license", "abstract",
        "keywords", "repository-code",
    }  # fmt: skip
    assert cited["type"] in ("software", "dataset")
    assert all({"name"} == author.keys() for author in cited["authors"])
    assert str(cited["version"]) == project["version"]
    assert cited["repository-code"] == notebooks.Address.of(root).url
    assert project["license"] in cited["license"]
    assert cited["keywords"] == project["keywords"]
