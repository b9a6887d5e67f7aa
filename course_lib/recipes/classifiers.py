"""The classifiers whose features score generators: one small network per image set.

`python -m course_lib.recipes.classifiers mnist` trains one and writes two files: the weights,
`data/features/mnist.safetensors`, and the result card, `data/results/features_mnist.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import __version__, data, environment
from course_lib.metrics.features import FeatureNetwork, files
from course_lib.metrics.inputs import whole
from course_lib.models import ConvClassifier, count_parameters
from course_lib.recipes.cards import store, text


@dataclass(frozen=True)
class Settings:
    """How one classifier is trained."""

    steps: int  # updates at the default profile
    batch_size: int = 128
    learning_rate: float = 3e-3  # of AdamW at its peak, a fifth of the way; linear to both sides
    weight_decay: float = 1e-2
    shift: int = 2  # every training image moves by up to so many pixels, each way
    flip: bool = False  # every second training image is mirrored left to right


# A mirrored digit is another sign, or none; a mirrored shoe is a shoe.
SETTINGS = {
    "digits": Settings(steps=400),
    "sprites": Settings(steps=1200, flip=True),
    "mnist": Settings(steps=1900),
    "fashion_mnist": Settings(steps=3300, shift=1, flip=True),
}


def train_classifier(
    name: str,
    *,
    steps: int | None = None,
    profile: str = "laptop",
    seed: int = 0,
    device: str | torch.device = "cpu",
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Train the classifier of one image set, test it, and write its weights and its result card.

    The test images are used once, at the end. Same seed, machine, versions and number of threads:
    the same weights.

    Args:
        name: "digits", "sprites", "mnist" or "fashion_mnist".
        steps: number of updates; None for that of the profile.
        profile: "smoke", "laptop" or "gpu".
        seed: of the initial weights, the order of the images and their shifts.
        device: where to train.
        out: folder laid out as `data/`; None for that of the checkout, if the run is a full one.

    Returns:
        The card, as it was written; `metrics.load_features(name, folder=out)` loads the weights.

    Raises:
        ValueError: no recipe of that name, an unknown profile, fewer than one step, or no `out`
            for a short run or where only the library is installed.
        DataUnavailableError: the images cannot be had.
    """
    if name not in SETTINGS:
        raise ValueError(f"there is no classifier {name!r}: choose one of {', '.join(SETTINGS)}.")
    settings = SETTINGS[name]
    steps = environment.Profile(profile).steps(settings.steps) if steps is None else steps
    steps = whole(steps, "steps", 1)
    if out is None and environment.repository_root() is None:
        raise ValueError("here is no checkout to write into: name a folder with out= (--out).")
    if out is None and steps < settings.steps:
        raise ValueError(
            f"{steps} of {settings.steps} steps would replace the weights of the course by worse "
            "ones: name another folder with out= (--out)."
        )

    train, test = (data.load(name, split, device=device) for split in ("train", "test"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the initial weights
        classifier = ConvClassifier(train.shape, len(train.classes)).to(device)
    started = time.perf_counter()
    losses = list(_training(classifier, train, settings, steps, seed))
    seconds = time.perf_counter() - started

    network = FeatureNetwork.of_classifier(name, classifier, train.classes)
    right = network(test.images).probabilities.argmax(1) == test.labels.cpu()
    weights = {key: tensor.cpu().contiguous() for key, tensor in classifier.state_dict().items()}
    content = safetensors.torch.save(weights)
    card = {
        "recipe": f"python -m course_lib.recipes.classifiers {name}",
        "features": network.name,
        "set": name,
        "image_shape": list(train.shape),
        "classes": list(train.classes),
        "width": network.width,
        "parameters": count_parameters(classifier),
        "sha256": hashlib.sha256(content).hexdigest(),
        "test_accuracy": int(right.sum()) / len(test),
        "test_n": len(test),
        "train_n": len(train),
        "training_loss": _curve(losses),
        "settings": asdict(settings) | {"steps": steps},
        "seed": seed,
        "wall_seconds": round(seconds, 1),
        "images_per_second": round(steps * settings.batch_size / seconds, 1),
        **_circumstances(device),
    }
    card_path, weights_path = files(name, out)
    store(weights_path, content)
    store(card_path, text(card))
    return card


def _training(
    classifier: ConvClassifier, train: data.ImageSet, settings: Settings, steps: int, seed: int
) -> Iterator[float]:
    """Update the classifier `steps` times; yields the loss of each batch, in nats."""
    # In this layout the CPU's convolutions are half as fast again.
    classifier.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        classifier.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    peak = max(1, steps // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / peak, (steps - step) / (steps - peak + 1))
    )
    batches = data.Batches(train, settings.batch_size, range=(0, 1), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = _moved(next(batches), settings.shift, settings.flip, generator)
        loss = F.cross_entropy(classifier(x), batches.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


def _moved(x: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Each image of a batch moved by up to `shift` pixels over black, and perhaps mirrored."""
    n, _, height, width = x.shape
    down, right = torch.randint(0, 2 * shift + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(x, (shift,) * 4).permute(0, 2, 3, 1)
    index = (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
    return padded[tuple(i.to(x.device) for i in index)].permute(0, 3, 1, 2)


def _curve(losses: list[float]) -> list[list[float]]:
    """`[step, mean loss since the point before]` at about 20 points, the last step among them."""
    parts = torch.tensor(losses).split(-(-len(losses) // 20))
    ends = torch.tensor([len(part) for part in parts]).cumsum(0).tolist()
    return [[end, round(part.mean().item(), 5)] for end, part in zip(ends, parts, strict=True)]


def _circumstances(device: str | torch.device) -> dict[str, Any]:
    """What a result may depend on besides its settings."""
    versions = {"course_lib": __version__, "python": platform.python_version()}
    return {
        "device": f"{torch.device(device)}, {torch.get_num_threads()} thread(s)",
        "commit": environment.git_commit(),
        "versions": versions | {"torch": torch.__version__, "numpy": np.__version__},
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line: train the named classifiers, all of them unless named."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("names", nargs="*", default=list(SETTINGS), metavar="NAME")
    command.add_argument("--profile", choices=environment.PROFILES, default="laptop")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, help="folder laid out as data/, which is the default")
    options = command.parse_args(arguments)
    for name in options.names:
        try:
            card = train_classifier(
                name, profile=options.profile, seed=options.seed, out=options.out
            )
        except (ValueError, OSError, data.DataUnavailableError) as error:
            print(f"classifiers: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print(f"\nStopped; of {name} nothing was written.", file=sys.stderr)
            return 130
        print(
            f"{card['features']}: {card['test_accuracy']:.2%} of {card['test_n']:,} test images "
            f"right after {card['wall_seconds']:.0f} s."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
