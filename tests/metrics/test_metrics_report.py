"""The table of scores: its numbers are the measures', its intervals cover, its files are read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib import __main__, data, metrics
from course_lib.metrics.report import load, report


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_name(result):
    return {score.measure.strip(): score for score in result.scores}


def test_numbers_are_those_of_the_measures():
    real, fake = draw(90, 4, 1), draw(70, 4, 2) * 1.2 + 0.3
    probs = torch.softmax(3 * draw(70, 5, 3), 1)
    result = report(real, fake, features="made", probabilities=probs, resamples=20)
    scores = by_name(result)
    assert scores["Fréchet distance"].value == pytest.approx(metrics.frechet_distance(real, fake))
    for name, value in metrics.prdc(real, fake).items():
        assert scores[name].value == pytest.approx(value)
    full = metrics.kernel_distance(real, fake, 70, 100)[0]
    spread = metrics.kernel_distance(real, fake, 70, 100)[1]
    assert abs(scores["kernel distance"].value - full) < 4 * spread / 10
    assert 1 <= scores["inception score"].value <= 5
    for score in result.scores:
        if score.low is not None:
            assert score.low <= score.value <= score.high
    text = str(result)
    assert text.count("made") == len(result.scores), "every line names its features"
    assert all("90" in line and "70" in line for line in text.splitlines()[2:10])
    again = report(real, fake, features="made", probabilities=probs, resamples=20)
    assert again == result, "a seed decides everything"


def test_no_resamples_no_intervals_and_few_samples_no_extrapolation():
    result = report(draw(30, 8, 1), draw(30, 8, 2), features="made", resamples=0)
    assert {(s.low, s.high) for s in result.scores} == {(None, None)}
    assert "extrapolated to n = ∞" not in by_name(result)
    assert "Not extrapolated" in str(result)


def test_intervals_cover_what_other_samples_would_give():
    """Of the 95 % intervals of 40 pairs of sets, about 38 hold the mean score at this n."""
    n, shift = 120, torch.tensor([0.7, 0.0])
    pairs = [(draw(n, 2, 2 * i), draw(n, 2, 2 * i + 1) + shift) for i in range(240)]
    truth = {
        "Fréchet distance": np.mean([metrics.frechet_distance(*pair) for pair in pairs]),
        "kernel distance": np.mean([metrics.kernel_distance(*p, n, 1)[0] for p in pairs]),
    }
    held = dict.fromkeys(truth, 0)
    for pair in pairs[:40]:
        scores = by_name(report(*pair, features="made", resamples=60))
        for name in held:
            held[name] += scores[name].low <= truth[name] <= scores[name].high
    # A binomial(40, 0.95) falls below 33 about once in 700.
    assert min(held.values()) >= 33, held


@pytest.mark.parametrize(
    ("shift", "of_distances", "of_shares"),
    [(0.0, (1.5, 2.1), (0.5, 0.9)), (1.0, (0.8, 1.2), (0.3, 0.7))],
)
def test_intervals_are_as_far_from_95_percent_as_documented(shift, of_distances, of_shares):
    """Balls held fixed make some too narrow, a resampled distance near 0 makes the others wide."""
    n, apart = 200, 120
    pairs = [(draw(n, 2, 2 * i), draw(n, 2, 2 * i + 1) + shift) for i in range(apart)]
    found = [metrics.prdc(*pair) for pair in pairs]
    for f, pair in zip(found, pairs, strict=True):
        f["Fréchet distance"] = metrics.frechet_distance(*pair)
        f["kernel distance"] = metrics.kernel_distance(*pair, n, 1)[0]
    reports = [report(*pair, features="made", resamples=40) for pair in pairs[:10]]
    for name in found[0]:
        true = np.std([f[name] for f in found], ddof=1)
        scores = [by_name(r)[name] for r in reports]
        # Not `low` itself, which stops at the end of what a score can be.
        halves = [max(s.high - s.value, s.value - s.low) for s in scores]
        ratio = np.mean(halves) / 1.96 / true
        low, high = of_distances if "distance" in name else of_shares
        assert low < ratio < high, (name, ratio)
    text = str(reports[0])
    assert "95 % interval " not in text.splitlines()[0], "which it is not"
    assert "narrower than 95 % intervals" in text and "too wide" in text


def test_smallest_sets_have_intervals_too():
    """A resample of six rows holds one row alone, and no pair, once in 7,776 draws."""
    scores = by_name(report(draw(2, 2), draw(2, 2, 1), features="made", k=1, resamples=40))
    kernel = scores["kernel distance"]
    assert -math.inf < kernel.low <= kernel.value <= kernel.high < math.inf


def test_refusals():
    with pytest.raises(ValueError, match="at least 6"):
        report(draw(5, 3), draw(9, 3), features="made")
    with pytest.raises(ValueError, match="at least 2"):
        report(draw(9, 3), draw(9, 3), features="made", resamples=1)


# ---------------------------------------------------------------------------- files


@pytest.fixture
def digits():
    return data.load("digits", "test").images


@pytest.fixture
def network():
    return metrics.load_features("digits")


def test_every_kind_of_file_gives_the_same_features(tmp_path, digits, network):
    expected = network(digits)
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(digits):
        Image.fromarray(image[0].numpy()).save(tmp_path / "folder" / f"{i:03}.png")
    np.savez(tmp_path / "first.npz", images=digits.numpy())
    np.savez(tmp_path / "last.npz", images=digits.permute(0, 2, 3, 1).numpy(), labels=np.arange(3))
    np.save(tmp_path / "grey.npy", digits[:, 0].numpy())
    np.savez(tmp_path / "unit.npz", some=digits.numpy().astype(np.float32) / 255)
    for name in ("folder", "first.npz", "last.npz", "grey.npy", "unit.npz"):
        found = load(tmp_path / name, network)
        assert found.name == expected.name
        torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-4)
    np.savez(
        tmp_path / "seen.npz",
        features=expected.features,
        probabilities=expected.probabilities,
        name=expected.name,
    )
    found = load(tmp_path / "seen.npz", None)
    assert torch.equal(found.features, expected.features)
    assert torch.equal(found.probabilities, expected.probabilities)
    assert found.name == expected.name


def test_range_and_name_are_options(tmp_path, digits, network, capsys):
    np.savez(tmp_path / "gan.npz", images=digits.numpy().astype(np.float32) / 127.5 - 1)
    found = load(tmp_path / "gan.npz", network, range=(-1.0, 1.0))
    torch.testing.assert_close(found.features, network(digits).features, rtol=1e-4, atol=1e-4)
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", features=draw(9, 3))
    command = ["score", *(str(tmp_path / f"{name}.npz") for name in ("a", "b"))]
    assert __main__.main([*command, "--bootstrap", "0", "--name", "my network"]) == 0
    assert "my network" in capsys.readouterr().out


def test_command_prints_the_table_and_writes_json(tmp_path, digits, network, capsys):
    np.savez(tmp_path / "real.npz", images=digits[:150].numpy())
    np.savez(tmp_path / "fake.npz", images=digits[150:].numpy())
    arguments = ["score", str(tmp_path / "real.npz"), str(tmp_path / "fake.npz")]
    arguments += ["--features", "digits", "--bootstrap", "10", "--json", str(tmp_path / "out.json")]
    assert __main__.main(arguments) == 0
    out = capsys.readouterr().out
    expected = metrics.frechet_distance(
        network(digits[:150]).features, network(digits[150:]).features
    )
    line = next(line for line in out.splitlines() if line.startswith("Fréchet distance"))
    assert float(line.split()[2]) == pytest.approx(expected, rel=1e-3)
    assert network.name in line and " 150 " in line
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written["scores"][0]["value"] == pytest.approx(expected, rel=1e-6)
    assert (written["n_real"], written["features"]) == (150, network.name)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda f: None, "nothing at"),
        (lambda f: (f / "x.npz").write_bytes(b"PK nothing"), "cannot be read as arrays"),
        (lambda f: np.savez(f / "x.npz", a=np.ones(3), b=np.ones(3)), "name the array"),
        (lambda f: np.savez(f / "x.npz", a=np.array([{}])), "cannot be read as arrays"),
        (lambda f: np.savez(f / "x.npz", images=np.ones((9, 28, 28))), "holds images"),
        (lambda f: np.savez(f / "x.npz", a=np.ones(3)), "holds images|shape"),
        (lambda f: np.savez(f / "x.npz", features=np.ones((9, 3)) * math.nan), "NaN"),
        (lambda f: np.savez(f / "x.npz", features=np.ones((9, 4)), name="mine"), "columns"),
        (lambda f: np.savez(f / "x.npz", features=np.ones((9, 3)), name="other"), "one network"),
        (lambda f: np.savez(f / "x.npz", features=draw(9, 3)), "has unnamed features"),
        (lambda f: np.savez(f / "x.npz", features=np.array(["a", "b"])), "array of real numbers"),
        (
            lambda f: np.savez(
                f / "x.npz", features=draw(9, 3), name="mine", probabilities=np.ones((7, 1))
            ),
            "7 rows of probabilities for 9",
        ),
        (
            lambda f: np.savez(
                f / "x.npz", features=draw(9, 3), name="mine", probabilities=np.ones((12, 1))
            ),
            "12 rows of probabilities for 9",
        ),
    ],
)
def test_command_refuses_with_one_sentence(tmp_path, capsys, make, sentence):
    import re

    np.savez(tmp_path / "real.npz", features=draw(9, 3), name="mine")
    make(tmp_path)
    assert __main__.main(["score", str(tmp_path / "real.npz"), str(tmp_path / "x.npz")]) == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error) and error.count("\n") == 1
