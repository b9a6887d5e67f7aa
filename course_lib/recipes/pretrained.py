"""Weights of finished runs that travel with the course: `pretrained("dcgan_fashion")`.

    data/results/NAME-seedN.json            the card of the run; its `checkpoint` names the file
    data/checkpoints/NAME.safetensors       the weights that drawing and scoring need, at most 3 MB

NAME is that of a recipe, or RECIPE-VARIANT. `course_lib.recipes.results.publish` writes both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from course_lib import data, environment
from course_lib.recipes import catalogue, evaluation
from course_lib.recipes.families import Model


def names() -> list[str]:
    """What `pretrained` can load here."""
    return sorted(path.stem for path in environment.data_file("checkpoints").glob("*.safetensors"))


def pretrained(name: str, device: torch.device | str | None = None) -> Model:
    """A model with weights of a finished run, without its data and without a download.

    `draw(n, generator)` gives images; `state.modules` has a VAE, or a generator with the averaged
    weights, which are in `state.ema["generator"].module` as well (its discriminator did not travel:
    it is new). All are in evaluation mode. The batches are black: there is nothing to train on.

    Raises:
        ValueError: no such checkpoint here, or a damaged one; or the device is not there.
    """
    content, card = _read(name)
    stored, recipe = card["checkpoint"], catalogue.get(card["recipe"])
    settings = card["config"]["settings"]
    n = settings["batch_size"]
    black = data.ImageSet(
        torch.zeros(n, *stored["image_shape"], dtype=torch.uint8),
        torch.zeros(n, dtype=torch.int64),
        card["data"]["name"],
        tuple(stored["classes"]),
    )
    device = environment.choose_device(None if device is None else str(device))
    with environment.generators_kept():  # the weights drawn here are replaced
        model = recipe.build(settings, black.to(device), card["seed"], device, 1)
    fill(weights(model), safetensors.torch.load(content))
    for name_, average in model.state.ema.items():
        model.state.modules[name_].load_state_dict(average.module.state_dict())
    model.state.step = card["config"]["steps"]
    for module in model.state.modules.values():
        module.eval()
    return model


def card_of(name: str) -> dict[str, Any]:
    """The result card of the run that the weights come from; ValueError as `pretrained`."""
    return _read(name)[1]


def evaluate(name: str, device: torch.device | str | None = None) -> list[evaluation.Row]:
    """Score the weights again: on the same machine, the rows on the card under `checkpoint`.

    Raises:
        ValueError: as `pretrained`.
        DataUnavailableError: the data set cannot be had.
    """
    from course_lib.recipes import runs

    card, model = card_of(name), pretrained(name, device)
    settings = card["config"]["settings"]
    sets = runs.load_images(settings, model.state.device)
    return evaluation.scored(catalogue.get(card["recipe"]), model, *sets, settings)


def weights(model: Model) -> dict[str, Tensor]:
    """What drawing and scoring need, by full name: the average alone where there is one.

    The tensors are those of the model, so that who changes them changes it.
    """
    state = model.state
    averages = {f"{name}_ema": ema.module for name, ema in state.ema.items()}
    named = averages or state.modules
    return {f"{a}.{b}": t for a, module in named.items() for b, t in module.state_dict().items()}


@torch.no_grad()
def fill(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Copy values into the tensors of the same name; ValueError where names or shapes differ."""
    shapes = [{name: tuple(t.shape) for name, t in tensors.items()} for tensors in (mine, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "The weights are those of another network than this version of the recipe builds: use "
            "the version on the card, or train again."
        )
    for name, tensor in theirs.items():
        mine[name].copy_(tensor)


def _read(name: str) -> tuple[bytes, dict[str, Any]]:
    """The file and the card whose hash it has."""
    path = environment.data_file("checkpoints", f"{name}.safetensors")
    if name not in names():
        here = names()
        hint = (
            catalogue.nearest(name, here)
            if here
            else f"train it: python -m course_lib train {name}."
        )
        raise ValueError(f"no weights called {name!r} came with the course: {hint}")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    for card in cards(environment.data_file("results")).values():
        stored = card.get("checkpoint", {})
        if (stored.get("file"), stored.get("sha256")) == (path.name, digest):
            return content, card
    raise ValueError(
        f"{path.name} is damaged, or its card is missing (no card has its hash): restore both from "
        "a copy of the repository."
    )


def cards(folder: Path) -> dict[Path, dict[str, Any]]:
    """Result cards of runs in a folder, by path, in the order of recipes, names and seeds."""
    found = {}
    for path in folder.glob("*.json"):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise ValueError(f"{path.name} is not JSON: restore it, or delete it.") from None
        if isinstance(card, dict) and {"config", "metrics", "finished"} <= card.keys():
            found[path] = card
    order = list(catalogue.RECIPES)

    def place(path: Path) -> tuple[Any, ...]:
        card = found[path]
        known = order.index(card["recipe"]) if card["recipe"] in order else len(order)
        return known, path.stem.rpartition("-seed")[0], card["seed"]

    return {path: found[path] for path in sorted(found, key=place)}
