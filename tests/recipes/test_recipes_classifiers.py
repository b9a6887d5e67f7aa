"""The recipe that trains the feature networks, and the cards that it left in the repository."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from course_lib import data
from course_lib.metrics.features import files, load_features
from course_lib.models import ConvClassifier, count_parameters
from course_lib.recipes import classifiers
from course_lib.recipes.classifiers import SETTINGS, train_classifier


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on the embedded digits: its folder and its card."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, train_classifier("digits", steps=25, out=folder)


def test_a_short_run_learns_the_digits(trained):
    _, card = trained
    assert card["test_accuracy"] > 0.5  # chance is 0.1, with a standard error of 0.02
    steps, losses = zip(*card["training_loss"], strict=True)
    assert losses[-1] < losses[0] / 2
    assert steps[-1] == card["settings"]["steps"] == 25


def test_the_card_says_what_the_files_hold(trained):
    folder, card = trained
    card_path, weights_path = files("digits", folder)
    assert json.loads(card_path.read_text()) == card
    assert hashlib.sha256(weights_path.read_bytes()).hexdigest() == card["sha256"]
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == [
        "digits.safetensors",
        "features_digits.json",
    ]
    test = data.load("digits", "test")
    right = load_features("digits", folder=folder)(test.images).probabilities.argmax(1)
    assert int((right == test.labels).sum()) / 300 == card["test_accuracy"]


def test_the_weights_depend_on_the_seed_and_on_nothing_else(tmp_path):
    before = torch.get_rng_state()
    runs = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        runs.append(train_classifier("digits", steps=2, seed=seed, out=tmp_path / place)["sha256"])
        torch.rand(1)  # another state of the global generator
    assert runs[0] == runs[1] != runs[2]
    torch.set_rng_state(before)
    train_classifier("digits", steps=1, out=tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("flip", [False, True])
def test_a_moved_image_is_a_crop_of_the_image_with_a_black_margin(flip):
    x = torch.rand(300, 2, 6, 7)
    moved = classifiers._moved(x, 2, flip, torch.Generator().manual_seed(0))
    padded = F.pad(x, (2, 2, 2, 2))
    ways = []
    for down, right in product(range(5), repeat=2):
        crop = padded[:, :, down : down + 6, right : right + 7]
        ways += [crop, crop.flip(-1)] if flip else [crop]
    same = torch.stack([(way == moved).flatten(1).all(1) for way in ways])
    assert (same.sum(0) == 1).all(), "an image was moved in another way, or torn"
    # Uniform over 25 or 50 ways, 300 draws: a way that never comes has probability below 0.12.
    assert (same.any(1).sum() >= len(ways) - 4) and same.sum(1).max() < 30


def test_without_shift_and_flip_nothing_moves():
    x = torch.rand(4, 3, 5, 5)
    assert torch.equal(classifiers._moved(x, 0, False, torch.Generator()), x)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_cards_of_the_repository_come_from_this_recipe(root, name):
    card_path, weights_path = files(name, root / "data")
    card = json.loads(card_path.read_text())
    assert card["settings"] == asdict(SETTINGS[name]), "the recipe changed: train anew"
    size = {"digits": 300, "sprites": 2_000}.get(name, 10_000)
    assert card["test_n"] == size
    net = ConvClassifier(card["image_shape"], len(card["classes"]), card["width"])
    assert card["parameters"] == count_parameters(net)
    assert weights_path.stat().st_size < 1_000_000
    goal = {"digits": 0.97, "sprites": 0.995, "mnist": 0.992, "fashion_mnist": 0.92}[name]
    assert card["test_accuracy"] >= goal


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"name": "kmnist"}, "choose one of digits"),
        ({"name": "digits", "steps": 0}, "steps is 0"),
        ({"name": "mnist", "steps": 2.5}, "steps is 2.5; it must be a whole number"),
        ({"name": "digits", "profile": "night"}, "smoke, laptop, gpu"),
    ],
)
def test_wrong_settings_are_refused(kwargs, match, tmp_path):
    with pytest.raises(ValueError, match=match):
        train_classifier(**kwargs, out=tmp_path)


def test_a_short_run_never_replaces_the_weights_of_the_course():
    before = [path.read_bytes() for path in files("digits")]
    for budget in ({"steps": 1}, {"profile": "smoke"}):
        with pytest.raises(ValueError, match="out="):
            train_classifier("digits", **budget)
    assert [path.read_bytes() for path in files("digits")] == before


def test_without_a_checkout_a_folder_must_be_named(monkeypatch):
    monkeypatch.setattr("course_lib.environment.repository_root", lambda: None)
    with pytest.raises(ValueError, match="out="):
        train_classifier("digits")
