"""Feature networks: the committed classifiers, and Inception through torch-fidelity."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from course_lib import data
from course_lib.metrics.features import (
    NAMES,
    FeatureNetwork,
    FeaturesUnavailableError,
    embed,
    files,
    load_features,
)
from course_lib.models import ConvClassifier


@pytest.fixture(scope="module")
def digits() -> data.ImageSet:
    return data.load("digits", "test")


@pytest.fixture(scope="module")
def network():
    return load_features("digits")


def card(name: str) -> dict:
    return json.loads(files(name)[0].read_text())


# The committed networks


@pytest.mark.parametrize("name", ["digits", "sprites"])
def test_accuracy_is_that_of_the_card(name):
    test = data.load(name, "test")
    seen = load_features(name)(test.images)
    right = (seen.probabilities.argmax(1) == test.labels).sum()
    assert int(right) / len(test) == card(name)["test_accuracy"]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_accuracy_on_the_real_test_images_is_that_of_the_card(name, mirror):
    test = data.load(name, "test", mirror=mirror, download=False)
    seen = load_features(name)(test.images)
    right = (seen.probabilities.argmax(1) == test.labels).sum()
    assert (int(right) / len(test), len(test)) == (card(name)["test_accuracy"], 10_000)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "inception"])
def test_every_network_says_what_it_is(name):
    network = load_features(name)
    seen = network(torch.zeros(3, *network.image_shape))
    assert seen.name == network.name == card(name)["features"] == f"{name}-classifier-64"
    assert seen.n == 3 and seen.features.shape == (3, network.width)
    assert seen.probabilities.shape == (3, len(network.classes))
    # Zalando's own names, in the order of its labels.
    garments = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    words = {
        "sprites": data.load("sprites", "test").classes,
        "fashion_mnist": tuple(garments.split(",")),
    }
    assert network.classes == words.get(name, tuple("0123456789"))
    assert seen.features.dtype == seen.probabilities.dtype == torch.float32
    assert not (seen.features.requires_grad or seen.probabilities.requires_grad)
    torch.testing.assert_close(seen.probabilities.sum(1), torch.ones(3))


def test_features_of_a_few_hundred_images_have_full_rank_and_one_scale(network, digits):
    features = network(digits.images).features.double()
    eigenvalues = torch.linalg.eigvalsh(features.T.cov())
    assert eigenvalues[0] > 1e-5 * eigenvalues[-1]
    # On the training images each has variance one (up to the running average of the batch norm),
    # so that none decides a distance alone.
    train = network(data.load("digits").images).features
    assert ((train.var(0) > 0.5) & (train.var(0) < 2)).all()


def test_the_probabilities_are_those_of_the_features(network, digits):
    """Equal features, equal probabilities: the scores of both kinds look at the same thing."""
    seen = network(digits.images[:50])
    path = files("digits")[1]
    from safetensors.torch import load_file

    weights = load_file(path)
    hidden = seen.features.clamp(min=0)
    logits = hidden @ weights["head.1.weight"].T + weights["head.1.bias"]
    torch.testing.assert_close(seen.probabilities, logits.softmax(1))


def test_the_network_that_names_shapes_is_nearly_blind_to_hue():
    """What its documentation warns of: the hue explains about a fiftieth of the variance."""
    network, factors = load_features("sprites"), data.sample_factors(150)
    seen = []
    for hue in torch.arange(6) / 6:
        factors.hue = hue.expand(150)
        seen.append(network(data.render_sprites(factors)).features.double())
    seen = torch.stack(seen)  # [hues, sprites, width]
    by_hue = seen.var(0, correction=0).mean(0).sum() / seen.flatten(0, 1).var(0).sum()
    assert 0.005 < by_hue < 0.05


# Images in


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_changes_nothing(network, digits, batch_size):
    images = digits.images[:60]
    got, want = network(images, batch_size=batch_size), network(images)
    torch.testing.assert_close(got.features, want.features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.probabilities, want.probabilities, rtol=1e-4, atol=1e-6)


def test_bytes_floats_arrays_and_both_ranges_are_the_same_images(network, digits):
    chosen = digits.subset(40)
    want = network(chosen.images).features
    unit, symmetric = chosen.as_float(range=(0, 1)), chosen.as_float(range=(-1, 1))
    assert torch.equal(network(unit).features, want)
    assert torch.equal(network(chosen.images.numpy()).features, want)
    assert torch.equal(embed(unit.numpy(), network).features, want)
    assert torch.equal(embed(unit, "digits").features, want)
    assert torch.equal(embed(unit, network, batch_size=np.int64(64)).features, want)
    for images in (symmetric, symmetric.double(), symmetric.numpy()):
        got = network(images, range=(-1, 1)).features
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_images_are_left_as_they_were(network, digits):
    images = digits.as_float(slice(8), range=(-1, 1)).requires_grad_()
    before = images.detach().clone()
    network(images, range=(-1, 1))
    assert torch.equal(images, before) and images.grad is None


GREY = torch.rand(2, 1, 28, 28)


@pytest.mark.parametrize(
    ("images", "options", "match"),
    [
        (GREY * 2 - 1, {}, r"range=\(-1, 1\) if these are images of a GAN"),
        (GREY * 255, {}, "divide by 255"),
        (GREY * 255 - 128, {"range": (-1, 1)}, "divide by 255"),
        (GREY * 1.2, {}, "clamp them"),
        (GREY, {"range": (1, 0)}, "does not increase"),
        (GREY, {"range": (0, 1, 2)}, "not two numbers"),
        (GREY, {"range": None}, "not two numbers"),
        (GREY, {"range": "ab"}, "not two numbers"),
        (GREY, {"batch_size": 0}, "at least 1"),
        (GREY, {"batch_size": 2.0}, "batch_size is 2.0"),
        (GREY, {"batch_size": "a"}, "batch_size is 'a'"),
        (GREY, {"batch_size": True}, "batch_size is True"),
        (GREY / 0, {}, "NaN or infinite"),
        (GREY[:, 0], {}, "add the missing axis"),
        (GREY.long(), {}, "uint8"),
        (torch.rand(2, 1, 32, 32), {}, r"images\[:, :, 2:-2, 2:-2\]"),
        (torch.rand(2, 3, 28, 28), {}, "takes 1 channel"),
        (torch.rand(2, 28, 28, 1), {}, r"permute\(0, 3, 1, 2\)"),
        (torch.rand(2, 1, 64, 64), {}, "28×28 pixels"),
    ],
)
def test_images_that_do_not_fit_are_refused(network, images, options, match):
    with pytest.raises(ValueError, match=match):
        network(images, **options)


def test_grey_images_for_a_network_of_colour_are_refused():
    with pytest.raises(ValueError, match=r"expand\(-1, 3, -1, -1\)"):
        load_features("sprites")(torch.rand(2, 1, 32, 32))
    with pytest.raises(ValueError, match="takes 3 channel"):
        load_features("sprites")(torch.rand(2, 3, 28, 28))


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="did you mean 'fashion_mnist'"):
        load_features("fashion-mnist")
    with pytest.raises(ValueError, match="choose one of them"):
        load_features("vgg16")


@pytest.mark.parametrize("name", ["digits", "inception"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ValueError, match="The device 'gpu' is not available here"):
        load_features(name, device="gpu")


def test_something_else_than_a_network_is_refused():
    for wrong in (None, 3, load_features):
        with pytest.raises(TypeError, match="pass a FeatureNetwork, or the name of one"):
            embed(GREY, wrong)


# Files


@pytest.fixture
def copied(tmp_path) -> tuple[Path, Path]:
    """Card and weights of the digits, in a folder of the test's own."""
    for source, target in zip(files("digits"), files("digits", tmp_path), strict=True):
        target.parent.mkdir(parents=True)
        shutil.copy(source, target)
    return files("digits", tmp_path)


def refused(folder: Path) -> str:
    with pytest.raises(FeaturesUnavailableError) as caught:
        load_features("digits", folder=folder)
    return str(caught.value)


def test_weights_from_another_folder_are_the_same(copied, tmp_path, network, digits):
    elsewhere = load_features("digits", folder=tmp_path)
    images = digits.images[:5]
    assert torch.equal(elsewhere(images).features, network(images).features)


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_file_is_named(copied, tmp_path, which):
    copied[which].unlink()
    said = refused(tmp_path)
    assert copied[which].name in said and "classifiers digits" in said


def test_one_wrong_bit_in_the_weights_is_noticed(copied, tmp_path):
    content = bytearray(copied[1].read_bytes())
    content[-1] ^= 1
    copied[1].write_bytes(content)
    assert "damaged" in refused(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": 0}'])
def test_a_damaged_card_is_noticed(copied, tmp_path, text):
    copied[0].write_text(text)
    assert "restore both" in refused(tmp_path)


def test_a_card_of_another_network_is_noticed(copied, tmp_path):
    copied[0].write_text(json.dumps(card("digits") | {"width": 32}))
    assert "restore both" in refused(tmp_path)


# Inception


@pytest.fixture(scope="module")
def fidelity():
    return pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def inception_file(fidelity, tmp_path_factory) -> Path:
    """Random weights of torch-fidelity's own Inception network, in a file as it reads them."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        extractor = fidelity.FeatureExtractorInceptionV3("random", ["2048"])
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(extractor.state_dict(), path)
    return path


def test_inception_gives_what_torch_fidelity_gives(fidelity, inception_file, monkeypatch):
    monkeypatch.setenv("COURSE_INCEPTION_WEIGHTS", str(inception_file))
    network = load_features("inception")
    images = torch.randint(256, (3, 3, 24, 40), dtype=torch.uint8)
    extractor = fidelity.FeatureExtractorInceptionV3(
        "x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_file)
    )
    features, logits = extractor(images)
    for given in (images, images.float() / 255, images.numpy()):
        seen = network(given)
        torch.testing.assert_close(seen.features, features)
        torch.testing.assert_close(seen.probabilities, logits.softmax(1))
    assert seen.features.shape == (3, network.width) == (3, 2048)
    assert features.std(0).max() > 0, "these weights see no difference, so nothing was compared"
    # Weights that are not the published ones must not pass for them.
    assert seen.name.startswith("inception-v3-2048-")
    with pytest.raises(ValueError, match=r"expand\(-1, 3, -1, -1\)"):
        network(images[:, :1])


def inception_refused() -> str:
    with pytest.raises(FeaturesUnavailableError) as caught:
        load_features("inception")
    return str(caught.value)


def test_without_torch_fidelity_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    assert "pip install torch-fidelity" in inception_refused()


def test_without_a_network_one_sentence_says_where_the_file_goes(fidelity, monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    said = inception_refused()
    assert "no route to host" in said and fidelity.URL_INCEPTION_V3 in said
    assert str(tmp_path / "hub" / "checkpoints") in said and "COURSE_INCEPTION_WEIGHTS" in said


class Payload:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_holds_no_weights_is_refused_and_never_run(fidelity, monkeypatch, tmp_path):
    path = tmp_path / "weights.pth"
    monkeypatch.setenv("COURSE_INCEPTION_WEIGHTS", str(path))
    assert "No such file" in inception_refused()
    path.write_bytes(b"torn")
    assert "cannot be had" in inception_refused()
    torch.save({"fc.bias": torch.zeros(3)}, path)
    assert "cannot be had" in inception_refused()
    torch.save({"fc.bias": Payload(tmp_path / "was_run")}, path)
    assert "cannot be had" in inception_refused()
    assert not (tmp_path / "was_run").exists()


def test_loading_a_network_draws_nothing_from_the_generator_of_torch():
    before = torch.get_rng_state()
    load_features("digits")
    assert torch.equal(torch.get_rng_state(), before)


WITHOUT_TF32 = """
import torch
from course_lib.metrics.features import full_float32
from course_lib.recipes import cards

torch.cuda.get_device_name = lambda device: "GPU"
torch.cuda.get_device_capability = lambda device: (8, 0)
convolutions, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
{setting}
new = hasattr(torch.backends, "fp32_precision")
places = (convolutions.conv, matmul) if new else (convolutions, matmul)
look = lambda: [place.fp32_precision if new else place.allow_tf32 for place in places]
before = look()
card = cards.circumstances(torch.device("cuda"))["device"]
assert card == "GPU" + (", convolutions in TF32" if before[0] in ("tf32", True) else ""), card
for device, inside in (("cpu", before), ("cuda", ["ieee"] * 2 if new else [False] * 2)):
    try:
        with full_float32(torch.device(device)):
            assert look() == inside, look()
            raise KeyError
    except KeyError:
        pass
    assert look() == before, look()
"""


@pytest.mark.parametrize(
    "setting",
    [
        "",
        "convolutions.allow_tf32 = False",
        "matmul.allow_tf32 = True",
        "torch.backends.fp32_precision = 'ieee'",
        "torch.backends.fp32_precision = 'tf32'",
        "convolutions.conv.fp32_precision = 'ieee'",
        "convolutions.fp32_precision = 'tf32'",
        "matmul.fp32_precision = 'tf32'",
    ],
)
def test_features_do_without_tf32_on_a_gpu_and_give_the_setting_back(setting):
    """torch has an old and a new name for it, and refuses the old one once the new one was used."""
    if "fp32" in setting and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("This torch is older than the setting's newer name.")
    code = WITHOUT_TF32.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


STILL_INHERITED = """
import torch
from course_lib.metrics.features import full_float32

backends = torch.backends
conv, matmul = backends.cudnn.conv, backends.cuda.matmul

def use():
    with full_float32(torch.device("cuda")):
        assert conv.fp32_precision == matmul.fp32_precision == "ieee"

def expect(*settings):
    assert (conv.fp32_precision, matmul.fp32_precision) == settings, settings

use()  # nothing was ever set
for setting in ("ieee", "tf32"):
    backends.fp32_precision = setting
    expect(setting, setting)
    use()
    backends.fp32_precision = "none"
    expect("tf32", "none")  # torch's own defaults
backends.cudnn.fp32_precision = "tf32"
use()
backends.cudnn.fp32_precision = "ieee"
expect("ieee", "ieee")
backends.cudnn.fp32_precision = "none"
matmul.fp32_precision = "tf32"
use()
backends.fp32_precision = "ieee"
expect("ieee", "tf32")
backends.fp32_precision = conv.fp32_precision = "tf32"
use()
backends.fp32_precision = "ieee"
expect("tf32", "tf32")  # the same as the parent's, but set
"""


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="This torch has no settings to inherit."
)
def test_after_features_on_a_gpu_settings_still_follow_the_one_above():
    """An inherited tf32 that was written back as a set one would ignore what is set later."""
    done = subprocess.run([sys.executable, "-c", STILL_INHERITED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_autocast_around_the_features_changes_nothing(digits):
    network = load_features("digits")
    alone = network(digits.images[:50]).features
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(digits.images[:50]).features, alone)


def test_a_classifier_that_judges_is_a_copy_of_the_one_in_training():
    classifier = ConvClassifier((1, 8, 8), 10).train()
    strides = [p.stride() for p in classifier.parameters()]
    network = FeatureNetwork.of_classifier("made", classifier, tuple("0123456789"))
    assert classifier.training and [p.stride() for p in classifier.parameters()] == strides
    x = torch.rand(3, 1, 8, 8)
    before = network(x).features
    with torch.no_grad():
        for p in classifier.parameters():
            p.zero_()
    assert torch.equal(network(x).features, before)
