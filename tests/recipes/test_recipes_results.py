"""From a finished run to the course: its card, its weights, and the page that the README shows."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from course_lib import __main__ as command_line
from course_lib import data, environment
from course_lib.recipes import catalogue, pretrained, results, runs

SMALL = {
    "dcgan_mnist": {"data": "digits", "width": 8, "samples": 100},
    "vae_mnist": {"data": "digits", "width": 16, "importance_samples": 3, "test_images": 40},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Finished runs, by recipe and seed."""
    root = tmp_path_factory.mktemp("runs")
    for recipe, seed in (("dcgan_mnist", 0), ("dcgan_mnist", 1), ("vae_mnist", 0)):
        wanted = {"profile": "smoke", "steps": 6, "seed": seed, "settings": SMALL[recipe]}
        runs.train(recipe, out=root / f"{recipe}-{seed}", progress=False, **wanted)
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder in the place of data."""
    monkeypatch.setattr(environment, "data_file", lambda *parts: tmp_path.joinpath(*parts))
    (tmp_path / "features").symlink_to(Path(__file__).parents[2] / "data" / "features")
    return tmp_path


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("recipe", SMALL)
def test_a_run_goes_all_the_way_to_a_pretrained_model(finished, folder, recipe):
    path = results.publish(finished / f"{recipe}-0", weights=True)
    assert path == folder / "results" / f"{recipe}-seed0.json"
    card, own = read(path), read(finished / f"{recipe}-0" / "card.json")
    stored = card.pop("checkpoint")
    assert card == own
    assert str(finished) not in path.read_text() and str(Path.home()) not in path.read_text()

    state = torch.random.get_rng_state()
    model = pretrained.pretrained(recipe)
    assert torch.equal(state, torch.random.get_rng_state())  # loading draws nothing of ours
    run = runs.restored(finished / f"{recipe}-0")
    for (name, loaded), exact in zip(
        pretrained.weights(model).items(), pretrained.weights(run.model).values(), strict=True
    ):
        half = stored["type"] == "float16" and exact.ndim > 1
        assert torch.equal(loaded, exact.half().to(exact) if half else exact), name
    images = model.draw(5, torch.Generator().manual_seed(3))
    assert torch.allclose(images, run.model.draw(5, torch.Generator().manual_seed(3)), atol=0.02)

    assert pretrained.evaluate(recipe) == stored["metrics"]
    assert all(moved <= stored["noise"][m] for m, moved in stored["moved"].items())
    if stored["type"] == "float16":
        by = {r["measure"]: r["value"] for r in stored["metrics"]}
        for row in own["metrics"]:
            if row["value"] is not None:
                noise = stored["noise"][row["measure"]]
                assert abs(by[row["measure"]] - row["value"]) <= noise * 1.01


@pytest.mark.parametrize("recipe", catalogue.RECIPES)
def test_what_can_travel_at_half_precision(recipe):
    found, fits = catalogue.get(recipe), {}
    for profile in ("laptop", "gpu"):
        settings = found.defaults(profile)
        size = settings.get("image_size", 28)
        shape = (settings["batch_size"], 3 if settings["data"] == "sprites" else 1, size, size)
        labels = torch.zeros(shape[0], dtype=torch.int64)
        black = data.ImageSet(torch.zeros(shape, dtype=torch.uint8), labels, "x", tuple("abcd"))
        model = found.build(settings, black, 0, torch.device("cpu"), 1)
        halves = [results._rounded(t) for t in pretrained.weights(model).values()]
        fits[profile] = sum(t.numel() * t.element_size() for t in halves) < results.LIMIT - 10_000
    large = {"deep_autoencoder_mnist": (False, False), "gan_mnist_parzen": (True, False)}
    assert (fits["laptop"], fits["gpu"]) == large.get(recipe, (True, True))


def test_of_a_gan_the_averaged_generator_travels_alone(finished, folder):
    results.publish(finished / "dcgan_mnist-0", weights=True)
    model = pretrained.pretrained("dcgan_mnist")
    assert {name.split(".")[0] for name in pretrained.weights(model)} == {"generator_ema"}
    stored = pretrained.card_of("dcgan_mnist")["checkpoint"]
    parameters = read(finished / "dcgan_mnist-0" / "card.json")["parameters"]["generator"]
    assert stored["bytes"] < 4 * parameters


def test_shipped_weights_are_sampled_by_name_like_the_run_they_come_from(
    finished, folder, monkeypatch, capsys
):
    results.publish(finished / "dcgan_mnist-0", weights=True)
    monkeypatch.chdir(folder)
    command_line.main(["sample", "dcgan_mnist", "-n", "3", "--seed", "5", "--out", "a.npz"])
    runs.sample(finished / "dcgan_mnist-0", 3, seed=5, out=folder / "b.npz")
    shipped, own = (np.load(folder / name)["images"].astype(int) for name in ("a.npz", "b.npz"))
    assert shipped.shape == (3, 1, 28, 28) and abs(shipped - own).max() <= 5
    assert runs.sample("dcgan_mnist", 1) == Path("dcgan_mnist-samples.png")
    with pytest.raises(ValueError, match="There is no run in dcgan_fashion"):
        runs.sample("dcgan_fashion", 1)
    assert "3 images lie in a.npz" in capsys.readouterr().out


def test_weights_that_rounding_would_harm_stay_whole(finished, folder, monkeypatch):
    monkeypatch.setattr(results, "_rounded", lambda t: torch.zeros_like(t))
    path = results.publish(finished / "vae_mnist-0", weights=True)
    stored, card = read(path)["checkpoint"], read(finished / "vae_mnist-0" / "card.json")
    assert stored["type"] == "float32" and stored["metrics"] == card["metrics"]
    assert any(moved > stored["noise"][m] for m, moved in stored["moved"].items())
    exact = pretrained.weights(runs.restored(finished / "vae_mnist-0").model)
    for name, loaded in pretrained.weights(pretrained.pretrained("vae_mnist")).items():
        assert torch.equal(loaded, exact[name])


def test_what_is_too_large_or_unfinished_is_not_published(finished, folder, monkeypatch):
    monkeypatch.setattr(results, "LIMIT", 20_000)
    with pytest.raises(ValueError, match=r"vae_mnist take 0.1 MB.*publish the card alone"):
        results.publish(finished / "vae_mnist-0", weights=True)
    with pytest.raises(ValueError, match="There is no finished run"):
        results.publish(folder / "nowhere")
    with pytest.raises(ValueError, match="small letters"):
        results.publish(finished / "vae_mnist-0", variant="../k")
    assert sorted(p.name for p in folder.iterdir()) == ["features"]


def test_absent_and_damaged_weights_are_refused_in_a_sentence(finished, folder):
    with pytest.raises(ValueError, match="no weights called 'dcgan_mnist' came with the course"):
        pretrained.pretrained("dcgan_mnist")
    card = results.publish(finished / "dcgan_mnist-0", weights=True)
    with pytest.raises(ValueError, match="did you mean 'dcgan_mnist'"):
        pretrained.pretrained("dcgan_mnits")
    path = folder / "checkpoints" / "dcgan_mnist.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"dcgan_mnist\.safetensors is damaged"):
        pretrained.pretrained("dcgan_mnist")
    content[-1] ^= 1
    path.write_bytes(content)
    assert pretrained.names() == ["dcgan_mnist"]
    card.unlink()
    with pytest.raises(ValueError, match="or its card is missing"):
        pretrained.pretrained("dcgan_mnist")


def test_the_card_of_another_run_is_not_written_over(finished, folder, tmp_path_factory):
    own = results.publish(finished / "dcgan_mnist-0")
    assert results.publish(finished / "dcgan_mnist-0") == own  # the same run again
    before, other = own.read_bytes(), tmp_path_factory.mktemp("other") / "run"
    wanted = {"profile": "smoke", "steps": 7, "settings": SMALL["dcgan_mnist"]}
    runs.train("dcgan_mnist", out=other, progress=False, **wanted)
    with pytest.raises(ValueError, match=r"the card of a run with other settings .* --variant"):
        results.publish(other)
    assert own.read_bytes() == before
    assert results.publish(other, variant="longer").name == "dcgan_mnist-longer-seed0.json"


def test_a_card_without_weights_keeps_those_that_are_there(finished, folder, tmp_path_factory):
    path = results.publish(finished / "dcgan_mnist-0", weights=True)
    before = read(path)
    assert read(results.publish(finished / "dcgan_mnist-0"))["checkpoint"] == before["checkpoint"]
    assert pretrained.card_of("dcgan_mnist")["seed"] == 0
    other = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(finished / "dcgan_mnist-0", other)
    changed = read(other / "card.json") | {"weights": {"generator": "another"}}
    (other / "card.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="which another run made: publish this one with --weights"):
        results.publish(other)
    assert read(path) == before


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_a_damaged_card_is_not_published(content, folder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("damaged")
    (directory / "card.json").write_text(content)
    with pytest.raises(ValueError, match=r"card.json is damaged"):
        results.publish(directory)
    assert not (folder / "results").exists()


def test_a_score_that_vanishes_with_the_rounding_keeps_the_weights_exact(
    finished, folder, monkeypatch
):
    monkeypatch.setattr(results, "_moved", lambda before, after: {before[0]["measure"]: math.inf})
    stored = read(results.publish(finished / "vae_mnist-0", weights=True))["checkpoint"]
    assert stored["type"] == "float32" and list(stored["moved"].values()) == [None]


def test_weights_of_another_seed_take_the_place_of_the_first(finished, folder):
    first = results.publish(finished / "dcgan_mnist-0", weights=True)
    second = results.publish(finished / "dcgan_mnist-1", weights=True)
    assert "checkpoint" not in read(first) and "checkpoint" in read(second)
    assert pretrained.card_of("dcgan_mnist")["seed"] == 1
    other = results.publish(finished / "dcgan_mnist-0", variant="old", weights=True)
    assert other.name == "dcgan_mnist-old-seed0.json"
    assert pretrained.names() == ["dcgan_mnist", "dcgan_mnist-old"]
    assert pretrained.card_of("dcgan_mnist")["seed"] == 1


def test_a_place_of_the_machine_in_a_sentence_is_taken_out(tmp_path):
    card = {"warnings": [{"what": f"wrote {tmp_path}/x and {Path.home()}/y"}], "n": 3}
    home = str(Path.home())
    found = results.without_paths(card, tmp_path)
    assert found["n"] == 3 and str(tmp_path) not in str(found)
    assert home not in found["warnings"][0]["what"].replace("DIR", "")


def test_the_command_line_publishes_and_writes_the_page(finished, folder, monkeypatch, capsys):
    (folder / "README.md").write_text(f"a\n{results.BEGIN}\n{results.END}\nb\n")
    (folder / "data").symlink_to(folder)
    monkeypatch.setattr(command_line.notebooks, "require_root", lambda: folder)
    assert command_line.main(["publish", str(finished / "dcgan_mnist-0")]) == 0
    assert command_line.main(["results", "--check"]) == 1
    assert command_line.main(["results"]) == 0 and command_line.main(["results", "--check"]) == 0
    text = (folder / "README.md").read_text()
    assert text.startswith("a\n") and text.endswith("b\n")
    assert "[0](data/results/dcgan_mnist-seed0.json)" in text
    assert command_line.main(["publish", str(folder)]) == 2
    assert "no finished run" in capsys.readouterr().err
    (folder / "README.md").write_text("nothing")
    assert command_line.main(["results"]) == 2


# ---------------------------------------------------------------------------- the page


def card(seed=0, value=90.0, units=20, steps=6000, draws=5000, recipe="iwae_mnist", **settings):
    """A card of a run at the profile gpu, with invented scores."""
    config = runs.configure(recipe, "gpu", steps, seed, settings=settings)
    figures = catalogue.get(recipe).figures(config.settings)
    rows = [
        {"measure": "-log p(x), nats", "value": value, "n": 1000, "standard_error": 0.25},
        {"measure": "active units", "value": units, "n": 1000},
    ]
    rows[0]["importance_samples"] = draws
    paper = [{k: v for k, v in vars(f).items() if v is not None and k != "when"} for f in figures]
    return {
        "recipe": recipe,
        "config": vars(config),
        "seed": seed,
        "data": {"name": "mnist", "train": 60_000, "test": 10_000},
        "metrics": rows,
        "paper": paper,
        "wall_seconds": 540.0 + 60 * seed,
        "evaluation": {"seconds": 60.0},
        "device": "a toaster",
        "finished": "2026-01-01",
    }


def paths(cards):
    return {Path(f"iwae_mnist-seed{c['seed']}.json"): c for c in cards}


def test_the_page_of_the_readme_is_what_the_cards_give(root):
    assert not results.write_page(root, write=False), "write it: python -m course_lib readme"
    text = (root / "README.md").read_text()
    assert text.count(results.BEGIN) == text.count(results.END) == 1


def test_no_cards_make_a_sentence():
    assert results.page({}) == f"{results.EMPTY}\n"


def test_seeds_are_one_line_with_mean_and_standard_deviation():
    values = [90.0, 91.5, 90.6]
    page = results.page(paths(card(i, v, k=50) for i, v in enumerate(values)))
    (line,) = [part for part in page.splitlines() if "-log p(x), nats |" in part]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[0] == "`iwae_mnist` (k=50)"
    assert cells[2] == "84.78 [1]"
    assert re.findall(r"^\[1\] Burda.* Table 1\.$", page, re.M)
    assert cells[3] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2g}"
    assert cells[4] == "1,000 images, 5,000 draws each"
    # 6,000 batches of 100 from 60,000 images; 10, 11 and 12 minutes, of which the quickest counts.
    assert cells[5] == "6,000 steps, 10 passes, 10.0 min (gpu with `--steps 6000`)"
    assert cells[6] == "a toaster"
    assert re.findall(r"\[(\d)\]\(data/results/iwae_mnist-seed(\d).json\)", cells[7]) == [
        (str(i), str(i)) for i in range(3)
    ]


def test_one_seed_shows_the_standard_error_of_its_score():
    assert "| 90 ± 0.25 |" in results.page(paths([card()]))


def test_other_settings_or_budgets_are_other_lines():
    cards = [card(0), card(1, steps=3000), card(2, k=50), card(3)]
    found = results.groups(paths(cards))
    assert [[c["seed"] for c in group.cards.values()] for group in found] == [[0, 3], [1], [2]]


def miss(*cards, measure="-log p(x), nats"):
    (group,) = results.groups(paths(cards))
    (figure,) = [f for f in cards[0]["paper"] if f["measure"] == measure]
    return results.miss(group, figure)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.1234, "0.123"), (9.6, "9.6"), (60.0, "60"), (333.3, "333"), (1000.0, "1,000")],
)
def test_no_number_of_passes_is_written_as_a_power_of_ten(value, written):
    assert results.few_digits(value) == written


def test_a_miss_is_explained_by_the_numbers_of_the_card():
    said = miss(card(value=90.0, draws=200))
    assert "90 (one seed) is 4.46 above the paper's 85.54" in said
    assert "a run made 10 passes over the data, 0.30% of the 3,280 passes of the paper," in said
    assert "and took 10.0 minutes with its scores" in said
    assert "200 draws per image bound log p(x) less tightly" in said
    assert "draws per image" not in miss(card(value=90.0))


def test_a_score_within_two_standard_errors_or_better_is_no_miss():
    assert miss(card(value=86.03)) is None  # 0.49 above, with an error of 0.25
    assert miss(card(value=86.05)) is not None
    assert miss(card(value=70.0)) is None  # lower is better here
    assert miss(card(units=22), measure="active units") is None
    assert "20 (one seed) is 2 below the paper's 22" in miss(card(units=20), measure="active units")
    # Three seeds: standard deviation 1, so that 2 / sqrt(3) = 1.15 are allowed.
    assert miss(*(card(i, v) for i, v in enumerate((85.6, 86.6, 87.6)))) is None
    assert miss(*(card(i, v) for i, v in enumerate((85.8, 86.8, 87.8)))) is not None


def test_the_error_of_the_paper_counts_and_higher_can_be_better():
    def parzen(value):
        made = card(recipe="gan_mnist_parzen")
        measure = {"measure": "Parzen log-likelihood", "value": value, "n": 10_000}
        made["metrics"] = [measure | {"standard_error": 1.5, "samples": 10_000}]
        return miss(made, measure="Parzen log-likelihood")

    assert parzen(221.0) is None and parzen(300.0) is None  # 2 * hypot(2, 1.5) = 5 are allowed
    assert "219 (one seed) is 6 below the paper's 225" in parzen(219.0)
    assert "passes of the paper" not in parzen(219.0)  # it does not say how many
    assert "there is no value" in parzen(None)


def test_what_print_rounds_away_is_no_miss():
    made = card()
    made["metrics"][0] |= {"standard_error": 0.0, "value": 85.544}
    assert miss(made) is None
    made["metrics"][0]["value"] = 85.56
    assert miss(made) is not None


def test_a_round_figure_is_no_less_exact_than_it_is_printed():
    (figure, _) = catalogue.get("deep_autoencoder_mnist").paper
    assert (figure.value, figure.digits) == (3.0, 2)
    made = card()
    told = {k: v for k, v in vars(figure).items() if v is not None and k != "when"}
    made["paper"] = [told | {"measure": "-log p(x), nats"}]
    made["metrics"][0] |= {"standard_error": 0.0, "value": 3.2}
    assert "is 0.2 above the paper's 3.00; " in miss(made)
    made["metrics"][0]["value"] = 3.004
    assert miss(made) is None
