"""Results that the course shows: publish a finished run, and write the README's page from cards.

    publish("build/runs/dcgan_fashion-laptop-seed0", weights=True)
    write_page(root)

Nothing on the page is typed: the papers' figures, ours, the budgets and the sentences about what
misses come from the cards in data/results.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from course_lib import environment
from course_lib.recipes import catalogue, evaluation, pretrained, runs
from course_lib.recipes.cards import store, text

LIMIT = 3_000_000  # bytes of a file of weights
REPEATS = 3  # evaluations that measure the noise of a score without a standard error
BEGIN, END = "<!-- results: made from the cards -->", "<!-- end of results -->"
EMPTY = "No card of a full run is published yet."
FLOOR = "Fréchet distance, real against real"
OF_SAMPLES = ("Fréchet distance", FLOOR, "precision", "recall", "density", "coverage")
MADE = ("budget of a run", "device", "card of seed")
SHOWN = ("Fréchet distance", FLOOR, "precision", "recall", "coverage")


# ---------------------------------------------------------------------------- publishing


def publish(
    directory: str | Path,
    variant: str = "",
    weights: bool = False,
    device: str | None = None,
    data: Path | None = None,
) -> Path:
    """Copy the card of a finished run to data/results, and its weights to data/checkpoints.

    The card is called RECIPE[-VARIANT]-seedN.json, the weights RECIPE[-VARIANT].safetensors. They
    hold what drawing and scoring need: of a GAN the averaged generator. Matrices and kernels are
    rounded to float16 if no score then moves by more than its noise, that is its standard error,
    or, where it has none, the standard deviation over evaluations with other draws; else all stay
    float32. The scores of the stored weights, the noise and the hash go on the card.

    Args:
        directory: of a finished run.
        variant: a word for settings that are not the recipe's own, such as "k50".
        weights: store them too; the run is evaluated again, some times.
        device: for these evaluations; None for the best there is.
        data: the folder to write to; None for that of the checkout.

    Returns:
        Path of the card.

    Raises:
        ValueError: no finished run there, a variant that is no word, no checkout to write to, the
            card of another run in the way, weights that would lose their card, or weights of more
            than 3 MB. Nothing is written.
        DataUnavailableError: the data set cannot be had for the evaluation.
    """
    if not re.fullmatch(r"[a-z0-9_]*", variant):
        raise ValueError(f"variant is {variant!r}: use small letters, digits and _ alone.")
    directory = Path(directory).expanduser()
    if not (directory / "card.json").exists():
        raise ValueError(f"There is no finished run in {directory}: check the path, or --resume.")
    card = without_paths(runs.stored_card(directory), directory)
    if data is None:
        if environment.repository_root() is None:
            raise ValueError("Results are published in a checkout of the course, and none is here.")
        data = environment.data_file()
    name = card["recipe"] + (f"-{variant}" if variant else "")
    path = data / "results" / f"{name}-seed{card['seed']}.json"
    old = _require_same_run(path, card)
    if weights:
        content, entry = packed(runs.restored(directory, device))
        card["checkpoint"] = {"file": f"{name}.safetensors"} | entry
    elif "checkpoint" in old:
        if old.get("weights") != card["weights"]:
            raise ValueError(
                f"{path.name} has weights in data/checkpoints, which another run made: publish "
                "this one with --weights too, or apart with --variant WORD."
            )
        card["checkpoint"] = old["checkpoint"]
    written = text(card)  # what cannot be written is found out before the first file changes
    if weights:
        store(data / "checkpoints" / card["checkpoint"]["file"], content)
    store(path, written)
    if weights:
        _unclaim(path, card["checkpoint"]["file"])
    return path


def _require_same_run(path: Path, card: Mapping[str, Any]) -> Mapping[str, Any]:
    """The card that stands there, or {}; refuses to write over that of another run."""
    old = pretrained.cards(path.parent).get(path, {}) if path.exists() else {}
    if old and _setup(old) != _setup(card):
        raise ValueError(
            f"{path.name} is the card of a run with other settings or another budget: name this "
            "one apart with --variant WORD."
        )
    return old


def _setup(card: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in card["config"].items() if k not in ("seed", "every")}


def without_paths(value: Any, directory: Path) -> Any:
    """A card without the places of the machine that it was made on, should a sentence name one."""
    if isinstance(value, dict):
        return {key: without_paths(v, directory) for key, v in value.items()}
    if isinstance(value, list):
        return [without_paths(v, directory) for v in value]
    if isinstance(value, str):
        value = value.replace(str(directory.resolve()), "DIR").replace(str(Path.home()), "~")
    return value


def packed(run: runs.Run) -> tuple[bytes, dict[str, Any]]:
    """The file of a run's weights, and what its card says about it.

    Raises:
        ValueError: more than `LIMIT` bytes.
    """
    model, mine = run.model, pretrained.weights(run.model)
    exact = {name: t.detach().clone().cpu().contiguous() for name, t in mine.items()}
    rounded = {name: _rounded(t) for name, t in exact.items()}
    _require_small(run.config.recipe, rounded)  # before the evaluations, which take their time

    def scores(seed: int = evaluation.SEED) -> list[evaluation.Row]:
        return evaluation.scored(
            run.recipe, model, run.train_set, run.test_set, run.config.settings, seed
        )

    before = scores()
    pretrained.fill(mine, rounded)
    after = scores()
    pretrained.fill(mine, exact)
    moved = _moved(before, after)
    noise = {r["measure"]: r.get("standard_error", 0.0) for r in before}
    unknown = [m for m, by in moved.items() if by > 0 and noise[m] == 0]
    if unknown:
        others = [scores(evaluation.SEED + 10 * (i + 1)) for i in range(REPEATS)]
        for m in unknown:
            values = [r["value"] for rows in [before, *others] for r in rows if r["measure"] == m]
            found = [v for v in values if v is not None]
            noise[m] = statistics.stdev(found) if len(found) > 1 else 0.0
    half = all(by <= noise[m] for m, by in moved.items())
    tensors = rounded if half else exact
    _require_small(run.config.recipe, tensors)
    content = safetensors.torch.save(tensors)
    return content, {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "type": "float16" if half else "float32",
        "image_shape": list(run.train_set.shape),
        "classes": list(run.train_set.classes),
        # None where a score appeared or vanished with the rounding.
        "moved": {m: float(f"{by:.3g}") if by < math.inf else None for m, by in moved.items()},
        "noise": {m: float(f"{noise[m]:.3g}") for m in moved},
        "metrics": after if half else before,
    }


def _rounded(tensor: Tensor) -> Tensor:
    """Matrices and kernels in half precision; biases and statistics are few, and stay exact."""
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def _require_small(recipe: str, tensors: Mapping[str, Tensor]) -> None:
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    if size > LIMIT - 10_000:  # a header of names is in the file too
        raise ValueError(
            f"The weights of {recipe} take {size / 1e6:.1f} MB, and a checkpoint of the course at "
            f"most {LIMIT / 1e6:.0f} MB: publish the card alone, or train a narrower network."
        )


def _moved(before: Iterable[evaluation.Row], after: Iterable[evaluation.Row]) -> dict[str, float]:
    """By measure, how far the value went; infinitely far if it appeared or vanished."""
    found = {}
    for a, b in zip(before, after, strict=True):
        one, two = a["value"], b["value"]
        known = one is not None and two is not None
        found[a["measure"]] = abs(one - two) if known else 0.0 if one == two else math.inf
    return found


def _unclaim(path: Path, file: str) -> None:
    """Take the file from the cards of other runs, whose weights it held before."""
    for other, card in pretrained.cards(path.parent).items():
        if other != path and card.get("checkpoint", {}).get("file") == file:
            store(other, text({k: v for k, v in card.items() if k != "checkpoint"}))


# ---------------------------------------------------------------------------- the page


class Group:
    """Cards that differ in their seed alone, by path."""

    def __init__(self, cards: Mapping[Path, dict[str, Any]]) -> None:
        self.cards = dict(cards)
        self.first = next(iter(self.cards.values()))

    @property
    def label(self) -> str:
        """The recipe, and the settings that are not those of its full run."""
        recipe, settings = self.first["recipe"], self.first["config"]["settings"]
        own = catalogue.RECIPES[recipe].settings if recipe in catalogue.RECIPES else settings
        # How a score was taken stands beside the score.
        trained = {k: v for k, v in settings.items() if k not in catalogue.SCORING}
        changed = [f"{k}={v}" for k, v in trained.items() if own.get(k) != v]
        return f"`{recipe}`" + (f" ({', '.join(changed)})" if changed else "")

    def rows(self, measure: str) -> list[evaluation.Row]:
        """That of each card which has the measure, with a value."""
        rows = [r for card in self.cards.values() for r in card["metrics"]]
        return [r for r in rows if r["measure"] == measure and r["value"] is not None]

    def value(self, measure: str) -> tuple[float, float | None]:
        """Mean over seeds and what it is uncertain by.

        That is the standard deviation over seeds; of one seed, the score's own standard error.
        """
        rows = self.rows(measure)
        values = [r["value"] for r in rows]
        if len(values) > 1:
            return statistics.mean(values), statistics.stdev(values)
        return values[0], rows[0].get("standard_error")

    def ours(self, measure: str) -> str:
        """The score as a cell."""
        rows = self.rows(measure)
        if not rows:
            return "none"
        mean, spread = self.value(measure)
        return number(mean) + ("" if spread is None else f" ± {spread:.2g}")

    @property
    def passes(self) -> float:
        """Through the training set, of one run."""
        config = self.first["config"]
        return config["steps"] * config["settings"]["batch_size"] / self.first["data"]["train"]

    @property
    def minutes(self) -> float:
        """Of training and evaluation, of the quickest run: others may have shared their machine."""
        return min(
            (c["wall_seconds"] + c["evaluation"]["seconds"]) / 60 for c in self.cards.values()
        )

    @property
    def _own_steps(self) -> str:
        """Where a run was given another number of steps than its profile has."""
        config = self.first["config"]
        recipe = catalogue.RECIPES.get(config["recipe"])
        same = recipe is None or recipe.steps[config["profile"]] == config["steps"]
        return "" if same else f" with `--steps {config['steps']}`"

    @property
    def made(self) -> tuple[str, str, str]:
        """Budget of one run, devices, and a link per card, named by its seed."""
        config = self.first["config"]
        budget = (
            f"{config['steps']:,} steps, {few_digits(self.passes)} passes, {self.minutes:.1f} min "
            f"({config['profile']}{self._own_steps})"
        )
        devices = dict.fromkeys(card["device"] for card in self.cards.values())
        links = [f"[{c['seed']}](data/results/{p.name})" for p, c in self.cards.items()]
        return budget, ", ".join(devices), ", ".join(links)


def groups(cards: Mapping[Path, dict[str, Any]]) -> list[Group]:
    """Cards of one recipe, budget and settings together, in the order given."""
    found: dict[str, dict[Path, dict[str, Any]]] = {}
    for path, card in cards.items():
        found.setdefault(json.dumps(_setup(card), sort_keys=True), {})[path] = card
    return [Group(part) for part in found.values()]


def number(value: float) -> str:
    """Two digits behind the point, or three that count; whole numbers bare."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 1 else f"{value:.3g}"


def few_digits(value: float) -> str:
    """Three digits that count, or a whole number where it has more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def page(cards: Mapping[Path, dict[str, Any]]) -> str:
    """The block of the README between its two comments, from cards by path."""
    found = groups(cards)
    if not found:
        return f"{EMPTY}\n"
    parts = [_beside_papers(found), _of_samples(found), _misses(found), _weights(cards.values())]
    return "\n".join(part for part in parts if part)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _beside_papers(found: list[Group]) -> str:
    """A line per group and measure, samples of GANs apart; then the sources."""
    rows, sources = [], {}
    for group in found:
        figures = {f["measure"]: f for f in group.first["paper"]}
        for row in group.first["metrics"]:
            measure = row["measure"]
            if measure in OF_SAMPLES:
                continue
            paper = "–"
            if measure in figures:
                f = figures[measure]
                error = f" ± {f['standard_error']:.2g}" if "standard_error" in f else ""
                source = sources.setdefault(f["source"], len(sources) + 1)
                paper = f"{printed(f)}{error} [{source}]"
            score = [measure, paper, group.ours(measure), taken(row)]
            rows.append([group.label, *score, *group.made])
    if not rows:
        return ""
    head = ["recipe", "measure", "paper", "ours", "n", *MADE]
    notes = [f"[{i}] {source}.\n" for source, i in sources.items()]
    return "\n".join([_table(head, rows), *notes])


def taken(row: Mapping[str, Any]) -> str:
    """Of how many images and draws a score is."""
    words = f"{row['n']:,} images"
    if "importance_samples" in row:
        words += f", {row['importance_samples']:,} draws each"
    if "samples" in row:
        words += f", {row['samples']:,} windows"
    return words


def _of_samples(found: list[Group]) -> str:
    """A line per group of a generator: distances and neighbourhoods of its samples."""
    rows = []
    for group in found:
        if group.rows(SHOWN[0]):
            row = group.rows(SHOWN[0])[0]
            n = f"{row['n']:,}, {row['features']}"
            rows.append([group.label, *map(group.ours, SHOWN), n, *group.made])
    head = ["recipe", "Fréchet distance", "of real images", *SHOWN[2:], "n, features", *MADE]
    return _table(head, rows) if rows else ""


def _misses(found: list[Group]) -> str:
    """A sentence for every score that is worse than the paper's by more than chance."""
    lines = [miss(group, figure) for group in found for figure in group.first["paper"]]
    lines = [f"- {line}\n" for line in lines if line]
    head = "What misses its paper's figure: scores by more than two standard errors, counts by any:"
    return f"{head}\n\n{''.join(lines)}" if lines else ""


def _weights(cards: Iterable[Mapping[str, Any]]) -> str:
    """What `pretrained` can load."""
    stored = [card["checkpoint"] for card in cards if "checkpoint" in card]
    words = [
        f"`{s['file'].removesuffix('.safetensors')}` ({s['type']}, {s['bytes'] / 1e6:.2f} MB)"
        for s in stored
    ]
    return f"Weights for `pretrained(name)`: {', '.join(words)}.\n" if words else ""


def miss(group: Group, figure: Mapping[str, Any]) -> str | None:
    """Why a score may miss the paper's, in numbers of the card; None if it does not miss.

    It misses if it is worse (or other, where neither way is better) by more than two standard
    errors, those of ours and of the paper's together.
    """
    measure = figure["measure"]
    rows, target = group.rows(measure), figure["value"]
    if not rows:
        return f"{group.label}, {measure}: there is no value; {_note(group, measure)}."
    mean, spread = group.value(measure)
    error = (spread or 0.0) / math.sqrt(len(rows))
    allowed = 2 * math.hypot(error, figure.get("standard_error", 0.0))
    digits = figure.get("digits", _decimals(target))
    allowed = max(allowed, 0.5 * 10.0**-digits)  # what rounding in print can hide
    better = figure.get("better", "equal")
    gap = mean - target
    if (abs(gap) if better == "equal" else gap if better == "lower" else -gap) <= allowed:
        return None
    where = "above" if gap > 0 else "below"
    seeds = f"mean of {len(rows)} seeds" if len(rows) > 1 else "one seed"
    says = (
        f"{group.label}, {measure}: {number(mean)} ({seeds}) is {number(abs(gap))} {where} the "
        f"paper's {printed(figure)}"
    )
    made = f"a run made {few_digits(group.passes)} passes over the data"
    if "epochs" in figure:
        share = group.passes / figure["epochs"]
        made += f", {share:.2%} of the {figure['epochs']:,} passes of the paper,"
    made += f" and took {group.minutes:.1f} minutes with its scores"
    draws = rows[0].get("importance_samples")
    if draws is not None and draws < 5000:
        made += f"; its {draws:,} draws per image bound log p(x) less tightly than 5,000"
    return f"{says}; {made}."


def _note(group: Group, measure: str) -> str:
    notes = [
        r.get("note", "") for c in group.cards.values() for r in c["metrics"]
        if r["measure"] == measure
    ]  # fmt: skip
    return next((note.split(":")[0] for note in notes if note), "the run gave none")


def printed(figure: Mapping[str, Any]) -> str:
    """The paper's value with the digits that it prints."""
    value, digits = figure["value"], figure.get("digits")
    return number(value) if digits is None else f"{value:,.{digits}f}"


def _decimals(value: float) -> int:
    """Digits behind the point in the shortest way to write a number."""
    return len(repr(float(value)).rstrip("0").partition(".")[2])


def write_page(root: Path, write: bool = True) -> bool:
    """Put the page into README.md of a checkout; whether it differed.

    Raises:
        ValueError: README.md has not the two comments, in their order.
    """
    path = root / "README.md"
    before = path.read_text(encoding="utf-8")
    head, begin, rest = before.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(
            f"README.md has no place for the results: give it the lines {BEGIN} and {END}."
        )
    block = page(pretrained.cards(root / "data" / "results"))
    after = f"{head}{BEGIN}\n\n{block}\n{END}{tail}"
    if write and after != before:
        store(path, after.encode())
    return after != before
