"""Features of images: the numbers that scores of generators compare, and where they come from.

A score is only as good as its features. Those of a classifier see what its labels asked for: the
network of the sprites, which names shapes, is nearly blind to their colour (about a fiftieth of the
variance of its features is due to the hue). Scores through two different networks cannot be
compared, so the name of the network belongs to every score.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from course_lib.environment import choose_device, data_file
from course_lib.metrics.inputs import images as checked_images
from course_lib.metrics.inputs import whole
from course_lib.models import ConvClassifier

NAMES = ("digits", "sprites", "mnist", "fashion_mnist", "inception")
TIMEOUT_SECONDS = 20


class FeaturesUnavailableError(RuntimeError):
    """A feature network cannot be had here and now; the sentence says why and what would help."""


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Convolutions and products of float32 with all their digits, on a GPU and in autocast too.

    There torch may round their inputs to the 11 binary digits of TF32 ("CUDA semantics" in its
    notes), and a score should not depend on the device. On leaving, every setting is as it was;
    one that was inherited still follows the one above it.
    """
    backends = torch.backends
    places, switch, exact = (backends.cudnn, backends.cuda.matmul), "allow_tf32", False
    if hasattr(backends, "fp32_precision"):  # torch 2.9: the old name fails once this one is used
        # From the top of the hierarchy down: what still differs below an exact parent was set there
        # by itself, so writing it back restores it. An inherited value would come back as a set
        # one, and a later change of the parent would no longer reach it.
        places = (backends, backends.cudnn, backends.cudnn.conv, backends.cuda.matmul)
        switch, exact = "fp32_precision", "ieee"
    before = []
    try:
        for place in places if device.type == "cuda" else ():
            setting = getattr(place, switch)
            if setting != exact:
                before.append((place, setting))
                setattr(place, switch, exact)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for place, setting in reversed(before):
            setattr(place, switch, setting)


class Features(NamedTuple):
    """What a network saw in n images.

    Attributes:
        features: `[n, width]`, float32, on the CPU.
        probabilities: `[n, classes]`, float32, on the CPU; each row sums to 1.
        name: of the network, as every score of these features should state it.
    """

    features: Tensor
    probabilities: Tensor
    name: str

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.features)


class FeatureNetwork:
    """A fixed network from images to features; call it with images.

    Attributes:
        name: such as "mnist-classifier-64".
        width: number of features.
        classes: a word per class; empty for Inception, whose 1008 outputs are not named here.
        image_shape: the `(channels, height, width)` that it takes; None stands for any size.
        device: where it computes.
    """

    def __init__(
        self,
        name: str,
        network: Callable[[Tensor], tuple[Tensor, Tensor]],
        width: int,
        classes: tuple[str, ...],
        image_shape: tuple[int, int | None, int | None],
        device: torch.device | str = "cpu",
    ) -> None:
        self.name, self.width, self.classes = name, width, classes
        self.image_shape, self.device = image_shape, torch.device(device)
        self._network = network  # images in [0, 1] -> features, logits

    @classmethod
    def of_classifier(
        cls, name: str, classifier: ConvClassifier, classes: tuple[str, ...]
    ) -> FeatureNetwork:
        """The features of a copy, in eval mode, of a classifier trained on the set `name`."""
        # In this layout the CPU's convolutions are half as fast again; a classifier in training
        # must keep its own, or an optimizer's moments lie in another order than its weights.
        classifier = copy.deepcopy(classifier).eval().to(memory_format=torch.channels_last)

        def network(x: Tensor) -> tuple[Tensor, Tensor]:
            features = classifier.features(x)
            return features, classifier.head(features)

        device = next(classifier.parameters()).device
        full_name = f"{name}-classifier-{classifier.width}"
        return cls(full_name, network, classifier.width, classes, classifier.image_shape, device)

    @torch.no_grad()
    def __call__(
        self, images: Any, *, range: tuple[float, float] = (0.0, 1.0), batch_size: int = 64
    ) -> Features:
        """Features and class probabilities of images.

        Args:
            images: `[n, channels, height, width]`, uint8 in 0..255 or floating point in `range`.
            range: where black and white lie in floating-point images: `(0, 1)` as VAEs decode
                them, `(-1, 1)` as GANs draw them.
            batch_size: images at a time; it changes memory and rounding, nothing else.

        Raises:
            ValueError: not such images, numbers outside `range`, a channel number or size that the
                network does not take, or a batch size that is none.
            TypeError: not an array of numbers.
        """
        x = self._require_fit(checked_images(images, "images"))
        low, high = _require_range(x, range)
        batch_size, parts = whole(batch_size, "batch_size", 1), []
        for part in x.split(batch_size):
            # Dividing by 255 makes white exactly 1; the clamp takes off what rounding left over.
            from_bytes = part.dtype == torch.uint8
            unit = part.float() / 255 if from_bytes else (part.float() - low) / (high - low)
            unit = unit.clamp(0, 1).to(self.device)
            with full_float32(self.device):
                features, logits = self._network(unit)
            parts.append((features.float().cpu(), logits.float().softmax(1).cpu()))
        features, probabilities = (torch.cat(column) for column in zip(*parts, strict=True))
        return Features(features, probabilities, self.name)

    def _require_fit(self, x: Tensor) -> Tensor:
        (channels, height, width), shape = self.image_shape, list(x.shape[1:])
        if shape[0] == channels and (height is None or shape[1:] == [height, width]):
            return x
        if shape[2] == channels and shape[0] != channels:
            mend = "channels come first, so pass images.permute(0, 3, 1, 2)"
        elif shape[0] == 1 and channels == 3:
            mend = "repeat the grey channel with images.expand(-1, 3, -1, -1)"
        elif shape[1:] == [32, 32] and height == 28:
            mend = "take off the margin with images[:, :, 2:-2, 2:-2]"
        else:
            mend = "bring the images to that, or choose the network of their own set"
        sides = "any size" if height is None else f"{height}×{width} pixels"
        raise ValueError(
            f"an image here is {shape}, but {self.name} takes {channels} channel(s) and {sides}: "
            f"{mend}."
        )


def load_features(
    name: str, device: torch.device | str = "cpu", *, folder: str | Path | None = None
) -> FeatureNetwork:
    """The feature network of an image set, or the Inception network of the published scores.

    digits, sprites, mnist and fashion_mnist have a `ConvClassifier` with 64 features, trained by
    `course_lib.recipes.classifiers` and kept in this repository; its test accuracy is on its card,
    `data/results/features_NAME.json`. "inception" is Inception-v3 with 2048 features through
    torch-fidelity (`pip install 'course-lib[torch-fidelity]'`), which downloads its weights once,
    unless the variable COURSE_INCEPTION_WEIGHTS names a local file of them. Torch's own
    generator is left as it was: a score taken in the middle of a run does not change the run.

    Args:
        name: one of `NAMES`.
        device: where the network computes.
        folder: laid out as `data/`, for weights that you trained; None for those of the course.

    Raises:
        FeaturesUnavailableError: weights missing, damaged, or (Inception) not to be downloaded.
        ValueError: there is no network of that name, or no such device here.

    Source: Heusel et al. 2017 (Fréchet distance of Inception features); Szegedy et al. 2016
    (Inception-v3).
    """
    if name not in NAMES:
        near = difflib.get_close_matches(str(name).lower().replace("-", "_"), NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them."
        raise ValueError(f"there is no feature network {name!r} among {', '.join(NAMES)}: {hint}")
    device = choose_device(str(device))
    if name == "inception":
        with torch.random.fork_rng(devices=[]):
            return _load_inception(device)
    card_path, weights_path = files(name, folder)
    mend = f"train the network anew with python -m course_lib.recipes.classifiers {name}"
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
        content = weights_path.read_bytes()
        if hashlib.sha256(content).hexdigest() != card["sha256"]:
            raise ValueError("the hash differs")
        classes = tuple(card["classes"])
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced at once
            classifier = ConvClassifier(card["image_shape"], len(classes), card["width"])
        classifier.load_state_dict(safetensors.torch.load(content))
    except OSError as error:
        raise FeaturesUnavailableError(
            f"{error.filename} cannot be read ({error.strerror}): restore it, or {mend}."
        ) from None
    except (ValueError, KeyError, TypeError, RuntimeError):
        raise FeaturesUnavailableError(
            f"{weights_path} does not hold the weights that {card_path.name} describes, so one of "
            f"the two is damaged or of another version: restore both, or {mend}."
        ) from None
    return FeatureNetwork.of_classifier(name, classifier.to(device), classes)


def embed(images: Any, network: FeatureNetwork | str, **options: Any) -> Features:
    """Features and probabilities of images: `network(images, **options)`, the network also by name.

    Raises:
        FeaturesUnavailableError, ValueError, TypeError: as `load_features` and `FeatureNetwork`.
    """
    network = load_features(network) if isinstance(network, str) else network
    if not isinstance(network, FeatureNetwork):
        raise TypeError(
            f"network is {network!r:.60}: pass a FeatureNetwork, or the name of one, such as "
            "'mnist'."
        )
    return network(images, **options)


def files(name: str, folder: str | Path | None = None) -> tuple[Path, Path]:
    """Result card and weights of a classifier, in `folder` or in the course's own `data/`."""
    parts = ("results", f"features_{name}.json"), ("features", f"{name}.safetensors")
    return tuple(Path(folder, *p) if folder is not None else data_file(*p) for p in parts)


def _require_range(x: Tensor, range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in range)
    except (TypeError, ValueError):
        raise ValueError(f"range={range!r} is not two numbers: use (0, 1) or (-1, 1).") from None
    if not low < high:
        raise ValueError(f"range={range} does not increase: use (0, 1) or (-1, 1).")
    if x.dtype == torch.uint8:
        return low, high
    least, most, slack = float(x.min()), float(x.max()), 1e-3 * (high - low)
    if least < low - slack or most > high + slack:
        mend = "divide by 255, or pass uint8" if most > 2 else "clamp them, or say another range"
        if (low, high) == (0.0, 1.0) and -1 - slack <= least and most <= 1 + slack:
            mend = "say range=(-1, 1) if these are images of a GAN"
        raise ValueError(
            f"images reach from {least:.4g} to {most:.4g}, outside range=({low:g}, {high:g}): "
            f"{mend}."
        )
    return low, high


def _load_inception(device: torch.device) -> FeatureNetwork:
    """Inception-v3 with the weights of the published scores, as torch-fidelity converted them."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as fidelity
    except ImportError:
        raise FeaturesUnavailableError(
            "Inception features need torch-fidelity, which is not installed here: "
            "python -m pip install torch-fidelity."
        ) from None
    named, name = os.environ.get("COURSE_INCEPTION_WEIGHTS") or None, "inception-v3-2048"
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_SECONDS)  # a network may swallow what it is sent
    try:
        if named:
            named = str(Path(named).expanduser())
            content = Path(named).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            # The published file has the beginning of its hash in its name. Scores with any other
            # weights cannot be compared with published ones, so their name says which.
            if not Path(fidelity.URL_INCEPTION_V3).stem.endswith(digest[:8]):
                name = f"{name}-{digest[:8]}"
            # torch-fidelity unpickles whatever the file holds; this refuses all but tensors first.
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        extractor = fidelity.FeatureExtractorInceptionV3(
            "inception-v3-compat",
            # The inception score was published without the bias of the last layer.
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=named,
            verbose=False,
        )
    except Exception as error:  # a download or a torn file fails in whatever way it happens to
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else repr(error)
        raise FeaturesUnavailableError(
            f"the Inception weights cannot be had ({reason}): download "
            f"{fidelity.URL_INCEPTION_V3} by hand, and put the file into "
            f"{Path(torch.hub.get_dir()) / 'checkpoints'} or name it in COURSE_INCEPTION_WEIGHTS."
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    extractor.to(device)

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        return extractor((x * 255).round().to(torch.uint8))  # it resizes to 299 pixels itself

    return FeatureNetwork(name, network, 2048, (), (3, None, None), device)
