"""The stored lectures: every claim checked, outputs fresh, nothing of a machine in them."""

import json
import re
from pathlib import Path

import pytest

from course_lib import notebooks

ROOT = Path(__file__).parents[2]
LECTURES = notebooks.lecture_paths(ROOT)
MEGABYTE = 1e6

each_lecture = pytest.mark.parametrize("path", LECTURES, ids=lambda path: path.stem)


def output_texts(cell: dict) -> list[str]:
    """Everything in a cell's outputs that is text, pictures left out."""
    texts = []
    for output in cell.get("outputs", []):
        texts.append("".join(output.get("text", "")))
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/"):
                texts.append("".join(data))
    return texts


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_are_lectures():
    names = {path.stem for path in LECTURES}
    assert names >= {
        "01_random_events_and_variables",
        "02_noise_into_samples",
        "04_gan_minimax",
        "06_dcgan",
        "12_elbo",
        "13_vae_on_images",
        "17_measuring_generators",
    }


@each_lecture
def test_every_claim_has_its_check_and_every_check_ran(path):
    notebook = notebooks.read_notebook(path)
    claims, checks = notebooks.claimed_equations(notebook), notebooks.checked_equations(notebook)
    assert claims, "a lecture without a numbered equation"
    assert len(claims) == len(set(claims)), "a number stands twice"
    assert set(claims) == set(checks)
    number = path.stem[:2].lstrip("0")
    assert all(claim.split(".")[0] == number for claim in claims)
    for cell in code_cells(notebook):
        for claim in cell["metadata"].get("checks", []):
            assert "check" in notebooks.source(cell)
            assert f"✓ ({claim})" in "".join(output_texts(cell)), f"no tick for {claim}"


@each_lecture
def test_every_displayed_equation_is_a_claim_or_a_definition(path):
    for cell in notebooks.read_notebook(path)["cells"]:
        if cell["cell_type"] == "markdown":
            for equation in re.findall(r"\$\$(.+?)\$\$", notebooks.source(cell), re.S):
                assert re.search(r"\\tag\{(def )?\d+\.\d+[a-z]?\}", equation), equation


@each_lecture
def test_a_lecture_ends_with_its_claims_three_folded_answers_and_further_reading(path):
    cells = notebooks.read_notebook(path)["cells"]
    last_code = max(i for i, cell in enumerate(cells) if cell["cell_type"] == "code")
    end = "\n".join(notebooks.source(cell) for cell in cells[last_code:])
    number = path.stem[:2].lstrip("0")
    named = re.findall(rf"(?<![\d.]){number}\.\d+[a-z]?", end)
    assert re.search(r"^\|[- |:]+\|$", end, re.M) and len(set(named)) > 10, "no table of claims"
    assert end.count("<details>") == end.count("</details>") == 3
    assert re.search(r"\bFurther reading\b", end)


@each_lecture
def test_stored_outputs_are_fresh(path):
    notebook = notebooks.read_notebook(path)
    record = notebook["metadata"]["course"]
    command = f"python -m course_lib run {path.stem[:2]} --store outputs"
    assert record["source_hash"] == notebooks.source_hash(notebook), f"stale outputs: {command}"
    assert record["profile"] == "laptop", f"stored at {record['profile']}: {command}"
    assert {"smoke", "laptop"} <= set(record["runs"]), (
        "time and memory of both profiles are recorded"
    )
    assert record["runs"]["laptop"]["seconds"] < 300


@each_lecture
def test_stored_outputs_hold_no_traceback_no_warning_and_no_path_of_a_machine(path):
    notebook = notebooks.read_notebook(path)
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    assert outputs, "stored without outputs"
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    for cell in code_cells(notebook):
        for text in output_texts(cell):
            assert not re.search(r"Traceback|Warning\b", text), text[:300]
            assert not re.search(r"(^|[\s\"'(=])(/[\w.-]+){2,}|[A-Z]:\\\\", text), text[:300]
    assert "widgets" not in notebook["metadata"]


@each_lecture
def test_stored_file_is_small(path):
    assert path.stat().st_size < 2.5 * MEGABYTE


@each_lecture
def test_cells_ran_in_order(path):
    counts = [
        cell["execution_count"]
        for cell in code_cells(notebooks.read_notebook(path))
        if notebooks.source(cell).strip()
    ]
    assert counts == list(range(1, len(counts) + 1))


def test_badges_and_set_up_cells_agree_with_pyproject(root):
    assert notebooks.update_badges(root, write=False) == [], "run: python -m course_lib badges"


@each_lecture
def test_links_lead_somewhere(path):
    for cell in notebooks.read_notebook(path)["cells"]:
        if cell["cell_type"] != "markdown":
            continue
        for link in re.findall(r"\]\(([^)\s]+)\)", notebooks.source(cell)):
            if not link.startswith(("http", "#", "attachment:")):
                target = path.parent / link.split("#")[0]
                planned = re.fullmatch(r"\d\d_\w+\.ipynb", link)
                assert target.exists(), f"{link} is {'not written yet' if planned else 'missing'}"


@each_lecture
def test_pictures_are_pictures(path):
    sizes = [
        len("".join(output["data"]["image/png"]))
        for cell in code_cells(notebooks.read_notebook(path))
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
    ]
    assert sizes and min(sizes) > 1500, "an empty picture"


def test_json_layout_is_the_one_that_is_written(root):
    for path in LECTURES:
        text = path.read_text(encoding="utf-8")
        assert text.endswith("}\n")
        assert (
            text
            == json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        )
