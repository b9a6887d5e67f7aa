"""Scores of a run: a list of rows, each with its n and, where it has them, its features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import data, metrics
from course_lib.recipes.families import Model, binarised
from course_lib.training import generate
from course_lib.training.state import modes_kept

SEED = 20_000  # of everything drawn in an evaluation, so that it does not depend on the run
BLOCK = 500  # images drawn at a time

Row = dict[str, Any]


def row(measure: str, value: float | None, n: int, error: float | None = None, **more: Any) -> Row:
    """One score; `standard_error` only where the measure has one."""
    found = {"measure": measure, "value": value, "n": n}
    if error is not None and math.isfinite(error):
        found["standard_error"] = error
    return found | more


class Eyes:
    """The feature network of an image set, for images of its size or of twice, four times it."""

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        self.network = metrics.load_features(name, device)

    @classmethod
    def of(cls, name: str, device: torch.device | str = "cpu") -> Eyes | None:
        """None where the set has no network, or its weights are not here."""
        try:
            return cls(name, device)
        except (ValueError, metrics.FeaturesUnavailableError):
            return None

    def __call__(self, images: Tensor) -> metrics.Features:
        """Features of images `[n, channels, height, width]`, uint8 or in [0, 1]."""
        side, times = self.network.image_shape[1], images.shape[-1] // self.network.image_shape[1]
        if times > 1 and times * side == images.shape[-1]:
            unit = images.float() / 255 if images.dtype == torch.uint8 else images
            images = F.avg_pool2d(unit, times)
        elif images.shape[-1] == 32 and side == 28:
            images = images[:, :, 2:-2, 2:-2]  # without the margin
        return self.network(images)


def scored(
    recipe: Any,
    model: Model,
    train: data.ImageSet,
    test: data.ImageSet,
    s: Mapping,
    seed: int = SEED,
) -> list[Row]:
    """The rows of a `catalogue.Recipe`, with evaluation modes and without gradients.

    Another `seed` draws other samples, other latents, and other images where not all are used.
    """
    modules = model.state.modules.values()
    with modes_kept(*modules), torch.no_grad():
        for module in modules:
            module.eval()
        return recipe.evaluate(model, train, test, s, seed)


def samples(
    model: Model, train: data.ImageSet, test: data.ImageSet, s: Mapping, seed: int = SEED
) -> list[Row]:
    """Fréchet distance, its floor between real images of equal n, and neighbourhood measures."""
    device, n = model.state.device, min(s["samples"], len(test), len(train))
    eyes = Eyes.of(test.name, device)
    if eyes is None:
        return []
    fake = torch.cat([eyes(x).features for x in drawn(model, n, seed)])
    real = eyes(some(test, n, seed).images).features
    floor = eyes(some(train, n, seed).images).features
    name = {"features": eyes.network.name}
    rows = [
        row("Fréchet distance", metrics.frechet_distance(real, fake), n, **name),
        row(
            "Fréchet distance, real against real", metrics.frechet_distance(real, floor), n, **name
        ),
    ]
    found = metrics.prdc(real, fake)
    return rows + [row(measure, value, n, **name) for measure, value in found.items()]


def some(images: data.ImageSet, n: int, seed: int = SEED) -> data.ImageSet:
    """n of the images at random, the same ones for a seed; all of them if there are no more."""
    source = torch.Generator().manual_seed(seed + 1)
    return images.subset(torch.randperm(len(images), generator=source)[:n])


def drawn(model: Model, n: int, seed: int = SEED) -> list[Tensor]:
    """n samples of the model in blocks, the same ones for a seed."""
    source = torch.Generator().manual_seed(seed)
    return [model.draw(min(BLOCK, n - start), source) for start in range(0, n, BLOCK)]


def parzen(
    model: Model, train: data.ImageSet, test: data.ImageSet, s: Mapping, seed: int = SEED
) -> list[Row]:
    """The Parzen log-likelihood of samples, and two controls that no generator drew.

    They are as many training images, and centroids of k-means: the measure likes these better than
    real images. The width of the window is chosen on images held out of the training set.
    """
    device, n = model.state.device, min(s["samples"], len(train))
    held = data.load(s["data"], "train", image_size=test.shape[1], device=device)
    held = held.subset(slice(len(train), len(train) + 1000)).as_float(range=(0, 1)).flatten(1)
    points = some(test, s["test_images"], seed).as_float(range=(0, 1)).flatten(1)
    fake = torch.cat(drawn(model, n, seed)).flatten(1).to(device)
    real = some(train, n, seed).as_float(range=(0, 1)).flatten(1)
    centroids = k_means(train, s["centroids"], s["centroid_rounds"], seed)
    contestants = {
        "Parzen log-likelihood": fake,
        "the same of training images": real,
        "the same of k-means centroids": centroids,
    }
    rows = []
    for measure, x in contestants.items():
        try:
            found = metrics.parzen_log_likelihood(x, points, validation=held)
        except ValueError as error:  # a collapsed generator has no best width
            rows.append(row(measure, None, len(points), note=str(error)))
            continue
        more = {"samples": len(x), "sigma": found.sigma}
        rows.append(row(measure, found.value, len(points), found.standard_error, **more))
    return rows + samples(model, train, test, s, seed)


def k_means(images: data.ImageSet, k: int, rounds: int, seed: int = SEED) -> Tensor:
    """Centroids `[k, d]` of images in [0, 1] after rounds of Lloyd's algorithm, on their device.

    They start at k of the images (all, if there are no more).
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    x = images.as_float(range=(0, 1)).flatten(1).cpu().numpy()
    start = some(images, k, seed).as_float(range=(0, 1)).flatten(1).cpu().numpy()
    model = KMeans(len(start), init=start, n_init=1, max_iter=rounds, tol=0)
    with threadpool_limits(1):  # several threads add in no fixed order
        model.fit(x)
    return torch.from_numpy(model.cluster_centers_).to(images.images.device)


def likelihood(
    model: Model, train: data.ImageSet, test: data.ImageSet, s: Mapping, seed: int = SEED
) -> list[Row]:
    """-log p(x) by importance sampling, -ELBO and active units, on test images binarised once."""
    modules, device = model.state.modules, model.state.device
    source = torch.Generator().manual_seed(seed)
    x = some(test, s["test_images"], seed).as_float(range=(0, 1))
    x, k = binarised(x, source), s["importance_samples"]
    rows_at_once = 512 if device.type == "cpu" else 2**16
    # 5,000 draws for each of 10,000 images are drawn faster where they are needed.
    noise = torch.Generator(device).manual_seed(seed) if device.type == "cuda" else source
    pair = (modules["vae"], modules["likelihood"], x)
    found = metrics.importance_weighted_bound(*pair, k, noise, batch_size=rows_at_once)
    bound = metrics.elbo(*pair, 10, noise, batch_size=rows_at_once)
    active = metrics.active_units(modules["vae"], x)
    return [
        row("-log p(x), nats", -found.value, len(x), found.standard_error, importance_samples=k),
        row("-ELBO, nats", -bound.value, len(x), bound.standard_error),
        row("active units", active.count, len(x), of=len(active.variances)),
    ]


def conditional(
    model: Model, train: data.ImageSet, test: data.ImageSet, s: Mapping, seed: int = SEED
) -> list[Row]:
    """-ELBO given the label, the share of samples that show the label asked for, and `samples`."""
    vae, likelihood = model.state.modules["vae"], model.state.modules["likelihood"]
    chosen = some(test, s["test_images"], seed)
    values = []
    for label in range(vae.n_classes):
        x = chosen.subset(torch.nonzero(chosen.labels == label)[:, 0]).as_float(range=(0, 1))
        if len(x):
            values.append(metrics.elbo(vae.given(label), likelihood, x, 10, seed).values)
    values = torch.cat(values)
    error = float(values.std()) / math.sqrt(len(values))
    rows = [row("-ELBO given the label, nats", -float(values.mean()), len(values), error)]
    eyes = Eyes.of(test.name, model.state.device)
    if eyes is not None:
        blocks = drawn(model, min(s["samples"], len(test)), seed)
        guesses = [eyes(x).probabilities.argmax(1) for x in blocks]
        right = torch.cat([g == torch.arange(len(g)) % vae.n_classes for g in guesses]).double()
        name = {"features": eyes.network.name}
        rows.append(
            row("samples that show the label asked for", float(right.mean()), len(right), **name)
        )
    return rows + samples(model, train, test, s, seed)


def reconstruction(
    model: Model, train: data.ImageSet, test: data.ImageSet, s: Mapping, seed: int = SEED
) -> list[Row]:
    """Squared error per test image, and that of a PCA with as many components."""
    network = model.state.modules["autoencoder"]
    x = some(test, s["test_images"], seed).as_float(range=(0, 1))
    n = len(x)
    found = metrics.reconstruction_error(x, generate(network, x).sigmoid())
    flat = x.flatten(1).cpu().double()
    mean, directions = principal_components(train, s["latent_dim"])
    projected = mean + (flat - mean) @ directions @ directions.T
    linear = (flat - projected).square().sum(1)
    name = f"squared error per image, PCA with {s['latent_dim']} components"
    return [
        row("squared error per image", found.value, n, found.standard_error),
        row(name, float(linear.mean()), n, float(linear.std()) / math.sqrt(n)),
    ]


def principal_components(images: data.ImageSet, k: int) -> tuple[Tensor, Tensor]:
    """Mean `[d]` and the k leading directions `[d, k]` of images in [0, 1], float64, by blocks."""
    d, n = math.prod(images.shape), len(images)
    mean, second = torch.zeros(d).double(), torch.zeros(d, d).double()
    for start in range(0, n, 4096):
        block = images.as_float(slice(start, start + 4096), (0, 1)).flatten(1).cpu().double()
        mean += block.sum(0) / n
        second += block.T @ block / n
    return mean, torch.linalg.eigh(second - mean.outer(mean))[1][:, -k:]
