"""The Fréchet distance against high-precision arithmetic, closed forms, and its peers."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import mpmath as mp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from course_lib import metrics
from course_lib.metrics import FeatureMoments, frechet_distance, frechet_distance_from_moments

mp.mp.dps = 60


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=rng(seed), dtype=dtype)


def exact(a, b):
    """The distance in 60 digits: the nuclear norm of the product of the centred matrices."""

    def centred(x):
        x = mp.matrix(x.double().tolist())
        means = [mp.fsum(x[i, j] for i in range(x.rows)) / x.rows for j in range(x.cols)]
        root = mp.matrix(x.rows, x.cols)
        for i in range(x.rows):
            for j in range(x.cols):
                root[i, j] = (x[i, j] - means[j]) / mp.sqrt(x.rows - 1)
        return means, root

    (mean_a, root_a), (mean_b, root_b) = centred(a), centred(b)
    between = mp.fsum((p - q) ** 2 for p, q in zip(mean_a, mean_b, strict=True))
    traces = mp.fsum(v**2 for v in root_a) + mp.fsum(v**2 for v in root_b)
    return between + traces - 2 * mp.fsum(mp.svd_r(root_a * root_b.T, compute_uv=False))


def relative_error(found, truth):
    return float(abs((mp.mpf(found) - truth) / truth))


def opposed(d, small, seed):
    """Two sets, each tiny where the other is large, in one rotated frame."""
    spread = torch.logspace(0, math.log10(small), d, dtype=torch.float64)
    turn = torch.linalg.qr(draw(d, d, seed)).Q
    return draw(40, d, seed + 1) * spread @ turn, draw(40, d, seed + 2) * spread.flip(0) @ turn


CASES = {
    "more rows than columns": (draw(40, 5, 1), draw(30, 5, 2) * 1.3 + 0.3),
    "fewer rows than columns": (draw(6, 20, 1), draw(7, 20, 2) + 0.3),
    "few against many": (draw(8, 12, 1), draw(30, 12, 2) + 0.2),
    "many against few": (draw(30, 12, 1), draw(8, 12, 2) + 0.2),
    "one column": (draw(20, 1, 1), 2 * draw(13, 1, 2)),
    "two rows": (draw(2, 6, 1), draw(2, 6, 2)),
    "offset of 1e7": (draw(40, 5, 1) + 1e7, draw(30, 5, 2) * 1.3 + 0.3 + 1e7),
    "offset of 1e7, few rows": (draw(6, 20, 1) + 1e7, draw(7, 20, 2) + 0.3 + 1e7),
    "offset of 1e7, single precision": (
        (draw(40, 5, 1) + 1e7).float(),
        (draw(30, 5, 2) * 1.3 + 0.3 + 1e7).float(),
    ),
    "two distant offsets": (draw(40, 5, 1), draw(30, 5, 2) + 1e7),
    "columns of unlike size": (
        draw(40, 6, 1) * torch.logspace(-6, 6, 6).double(),
        draw(30, 6, 2) * torch.logspace(-6, 6, 6).double() * 1.2,
    ),
    "a constant column": (
        draw(40, 6, 1) * torch.tensor([1.0, 1, 0, 1, 1, 1]),
        draw(30, 6, 2),
    ),
    "a column twice": (
        draw(40, 5, 1)[:, [0, 1, 1, 2, 3, 4]],
        draw(30, 5, 2)[:, [0, 1, 1, 2, 3, 4]],
    ),
    "a column twice on one side": (draw(40, 5, 1)[:, [0, 1, 1, 2, 3, 4]], draw(30, 6, 2)),
    "one point against many": (torch.ones(4, 3).double(), draw(9, 3, 2)),
    "nearly a subspace": (
        draw(40, 3, 1) @ draw(3, 10, 3) + 1e-6 * draw(40, 10, 4),
        1.1 * draw(30, 3, 2) @ draw(3, 10, 3) + 1e-6 * draw(30, 10, 5) + 0.1,
    ),
    "nearly equal": (draw(40, 5, 1), draw(40, 5, 1) + 1e-3 * draw(40, 5, 2)),
    "nearly equal, few rows": (draw(8, 20, 1), draw(8, 20, 1) + 1e-4 * draw(8, 20, 2)),
    "opposed, condition 1e15": opposed(2, 2e-8, 7),
    "opposed, condition 1e14": opposed(4, 1e-7, 17),
    "opposed, few against many": (opposed(6, 1e-7, 27)[0][:5], opposed(6, 1e-7, 27)[1]),
    "huge": (1e80 * draw(40, 5, 1), 1e80 * draw(30, 5, 2) + 1e80),
    "minute": (1e-80 * draw(40, 5, 1), 1e-80 * draw(30, 5, 2) * 1.5),
    "half precision": (draw(40, 5, 1).half(), (draw(30, 5, 2) * 1.3).half()),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_exact_value(case):
    a, b = CASES[case]
    truth = exact(a, b)
    assert relative_error(frechet_distance(a, b), truth) < 1e-9
    assert relative_error(frechet_distance(b, a), truth) < 1e-9
    if "opposed" in case:
        return  # moments have rounded away what decides here
    streams = [FeatureMoments(), FeatureMoments()]
    for stream, x in zip(streams, (a, b), strict=True):
        for part in x.split(7):
            stream.update(part)
    assert relative_error(frechet_distance(*streams), truth) < 1e-9


@pytest.mark.parametrize("case", [c for c in CASES if not re.search("offset|opposed", c)])
def test_from_moments_equals_the_exact_value(case):
    a, b = CASES[case]
    moments = [
        v for x in (a, b) for v in (x.double().mean(0), torch.atleast_2d(x.double().T.cov()))
    ]
    if case == "a column twice":
        # Rounding in the two covariances does not agree on which eigenvalue is zero.
        assert relative_error(frechet_distance_from_moments(*moments), exact(a, b)) < 1e-6
    else:
        assert relative_error(frechet_distance_from_moments(*moments), exact(a, b)) < 1e-9


@settings(max_examples=40)
@given(
    st.integers(2, 12), st.integers(2, 12), st.integers(1, 8), st.integers(0, 10**6),
    st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([0.0, 1.0, 1e5]),
)  # fmt: skip
def test_any_small_set(n, m, d, seed, scale, offset):
    a = draw(n, d, seed) * scale + offset
    b = (draw(m, d, seed + 1) * 1.5 + 0.5) * scale + offset
    assert relative_error(frechet_distance(a, b), exact(a, b)) < 1e-9


@settings(max_examples=30)
@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_identical_sets_are_at_distance_zero(n, d, seed):
    a = torch.relu(draw(n, d, seed))
    assert 0 <= frechet_distance(a, a.clone()) <= 1e-10 * float(a.var(0).sum()) + 1e-300
    order = torch.randperm(n, generator=rng(seed))
    assert 0 <= frechet_distance(a, a[order]) <= 1e-10 * float(a.var(0).sum()) + 1e-300


def test_gaussians_with_known_moments():
    assert frechet_distance_from_moments(0.0, 1.0, 1.0, 4.0) == pytest.approx(2.0, rel=1e-14)
    a, b = np.array([0.3, 1.7, 0.0]), np.array([2.0, 0.4, 1.0])  # variances: sqrt by coordinate
    expected = 5.0 + float(((np.sqrt(a) - np.sqrt(b)) ** 2).sum())
    found = frechet_distance_from_moments(np.zeros(3), np.diag(a), [1.0, 2.0, 0.0], np.diag(b))
    assert found == pytest.approx(expected, rel=1e-14)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_two_by_two_matrices(seed):
    """tr (A^½ B A^½)^½ = sqrt(tr AB + 2 sqrt(det A det B)) for 2×2 matrices."""
    f, g = (draw(3, 2, seed + i).numpy() for i in (0, 1))
    a, b = f.T @ f, g.T @ g
    overlap = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    expected = np.trace(a) + np.trace(b) - 2 * overlap
    found = frechet_distance_from_moments(np.zeros(2), a, np.zeros(2), b)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12 * np.trace(a + b))


def test_moves_with_the_features_as_a_squared_distance_should():
    a, b = draw(50, 6, 1), torch.relu(draw(40, 6, 2))
    base = frechet_distance(a, b)
    rotation = torch.linalg.qr(draw(6, 6, 3)).Q
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(base, rel=1e-12)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * base, rel=1e-12)
    assert frechet_distance(a + 5, b + 5) == pytest.approx(base, rel=1e-12)
    assert frechet_distance(a, a + 2) == pytest.approx(24.0, rel=1e-12)
    assert frechet_distance(a.repeat(2, 1), b) != pytest.approx(base, rel=1e-4), "n - 1, not n"


def test_sees_nothing_beyond_two_moments():
    """A skewed law and a Gaussian with exactly its moments; third moments tell them apart."""

    def standardised(x):
        x = x - x.mean(0)
        return torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), x.T, upper=False).T

    a = standardised(torch.empty(2000, 3).double().exponential_(generator=rng(1)))
    b = standardised(draw(2000, 3, 2))
    assert frechet_distance(a, b) < 1e-10
    # |difference of the third moments|² / d³ = 3 · 2² / 27, up to sampling.
    assert metrics.kernel_distance(a, b, 2000, 1)[0] == pytest.approx(12 / 27, rel=0.3)


@pytest.mark.parametrize(("n", "d"), [(400, 4), (400, 8)])
def test_bias_of_two_samples_of_one_gaussian(n, d):
    """n · E[distance] -> 2 d + d (d + 1) / 2 for two samples of N(0, I)."""
    values = torch.tensor(
        [frechet_distance(draw(n, d, 2 * i), draw(n, d, 2 * i + 1)) for i in range(400)]
    )
    standard_error = n * float(values.std()) / math.sqrt(len(values))
    limit = 2 * d + d * (d + 1) / 2
    assert abs(n * float(values.mean()) - limit) < 4 * standard_error + 0.02 * limit


def test_extrapolation_takes_the_bias_away():
    found, plain = [], []
    for seed in range(40):
        a, b = draw(600, 6, 2 * seed), draw(600, 6, 2 * seed + 1)
        result = metrics.frechet_distance_infinity(a, b, seed=seed)
        found.append(float(result))
        plain.append(result.distances[0])
        assert result.sizes == (600, 300, 200, 150, 120)
        assert result.distances[0] == pytest.approx(frechet_distance(a, b), rel=1e-12)
    mean = float(np.mean(found))
    assert np.mean(plain) > 0.04
    assert abs(mean) < 0.2 * np.mean(plain)
    shifted = [
        metrics.frechet_distance_infinity(draw(600, 6, s), draw(600, 6, s + 100) * 2 + 1).value
        for s in range(20)
    ]
    error = np.std(shifted, ddof=1) / math.sqrt(20)
    assert abs(np.mean(shifted) - 12.0) < 4 * error + 0.02


def test_extrapolation_with_the_reference_left_whole():
    a, b = draw(500, 3, 1), draw(300, 3, 2) + 1
    result = metrics.frechet_distance_infinity(a, b, splits=3, fixed_reference=True)
    assert result.sizes == (300, 150, 100)
    assert result.distances[0] == pytest.approx(frechet_distance(a, b), rel=1e-12)
    x, y = 1 / np.array(result.sizes), np.array(result.distances)
    slope, value = np.polyfit(x, y, 1)
    assert (result.slope, result.value) == (pytest.approx(slope), pytest.approx(value))


# ---------------------------------------------------------------------------- streams


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 10**6))
def test_moments_do_not_depend_on_the_batches(sizes, seed):
    x = draw(sum(sizes) + 1, 4, seed) * 3 + 1e6
    stream, merged = FeatureMoments().update(x[:1]), FeatureMoments()
    start = 1
    for size in sizes:
        stream.update(x[start : start + size])
        merged.merge(FeatureMoments().update(x[start : start + size]))
        start += size
    merged.merge(FeatureMoments().update(x[:1]))
    for moments in (stream, merged):
        mean, covariance = moments.compute()
        assert moments.n == len(x)
        shifted = x - 1e6
        torch.testing.assert_close(mean - 1e6, shifted.mean(0), rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(covariance, shifted.T.cov(), rtol=1e-10, atol=1e-10)


def test_saved_moments_come_back_to_the_bit(tmp_path):
    path = tmp_path / "real.safetensors"
    moments = FeatureMoments("digits-64").update(draw(30, 4, 1) + 1e7)
    moments.save(path)
    again = FeatureMoments.load(path)
    assert (again.n, again.features, again.width) == (30, "digits-64", 4)
    for found, expected in zip(again.compute(), moments.compute(), strict=True):
        assert torch.equal(found, expected)
    other = draw(20, 4, 2)
    assert frechet_distance(again, other) == frechet_distance(moments, other)
    again.update(other)
    again.save(path)
    assert FeatureMoments.load(path).n == 50
    assert [p.name for p in tmp_path.iterdir()] == ["real.safetensors"]


def test_damaged_and_foreign_files_are_refused(tmp_path):
    import safetensors.torch

    path = tmp_path / "moments.safetensors"
    with pytest.raises(FileNotFoundError, match="check the path"):
        FeatureMoments.load(path)
    FeatureMoments().update(draw(5, 3)).save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged or holds no feature moments"):
        FeatureMoments.load(path)
    safetensors.torch.save_file({"mean": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="damaged or holds no feature moments"):
        FeatureMoments.load(path)
    with pytest.raises(ValueError, match="nothing to save"):
        FeatureMoments().save(path)
    with pytest.raises(OSError, match="could not be written"):
        FeatureMoments().update(draw(5, 3)).save(tmp_path / "missing" / "x.safetensors")


REDUCE = """
import sys
import torch
import torch.distributed as dist
from course_lib.metrics.frechet import FeatureMoments

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
part = torch.load(f"{folder}/{rank}.pt")
moments = FeatureMoments()
if len(part):
    moments.update(part)
moments.all_reduce()
for more in (moments.all_reduce, lambda: moments.update(torch.zeros(2, 4))):
    try:
        more()
    except ValueError as error:
        print(error)
try:
    FeatureMoments().update(torch.zeros(2, 4)).merge(moments)
except ValueError as error:
    print(error)
copy = FeatureMoments().merge(moments)
try:
    copy.all_reduce()
except ValueError as error:
    print(error)
moments.save(f"{folder}/{rank}.safetensors")
dist.destroy_process_group()
"""


def test_processes_join_their_moments(tmp_path):
    x = draw(23, 4, 1) + 1e7
    for rank, part in enumerate([x[:9], x[:0], x[9:]]):
        torch.save(part.clone(), tmp_path / f"{rank}.pt")
    command = [sys.executable, "-c", REDUCE]
    runs = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    for run in runs:
        said = run.communicate(timeout=120)[0]
        assert said.count("came after all_reduce") == 3, "a sample would count once per process"
        assert "the other did not" in said
        assert run.returncode == 0
    whole = FeatureMoments().update(x)
    other = draw(30, 4, 2) + 1e7
    for rank in range(3):
        joined = FeatureMoments.load(tmp_path / f"{rank}.safetensors")
        assert joined.n == 23
        first = FeatureMoments.load(tmp_path / "0.safetensors")
        assert torch.equal(joined.compute()[1], first.compute()[1]), "one answer everywhere"
        torch.testing.assert_close(joined.compute()[1], whole.compute()[1], rtol=1e-11, atol=1e-12)
        assert frechet_distance(joined, other) == pytest.approx(
            frechet_distance(whole, other), rel=1e-10
        )


def test_all_reduce_without_processes_changes_nothing():
    moments = FeatureMoments().update(draw(5, 3))
    assert moments.all_reduce().all_reduce().n == 5


# ---------------------------------------------------------------------------- peers


def correlated(n, d, seed, shift=0.0):
    """Non-negative, correlated features, as a network's last pooled layer gives."""
    mixing = draw(16, d, 99) * 0.3
    return torch.relu(draw(n, 16, seed) @ mixing + draw(n, d, seed + 1) + shift)


def fidelity(a, b):
    from torch_fidelity import metric_fid

    statistics = [metric_fid.fid_features_to_statistics(x.cpu()) for x in (a, b)]
    return metric_fid.fid_statistics_to_metric(*statistics, verbose=False)[
        metric_fid.KEY_METRIC_FID
    ]


def torchmetrics_formula(a, b):
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()))


def torchmetrics_streaming(a, b):
    """Its class, which keeps sums of raw squares in double precision, fed with features."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = a.shape[1]

        def forward(self, x):
            return x.flatten(1)

    fid = FrechetInceptionDistance(feature=Identity(), input_img_size=(1, 1, a.shape[1]))
    fid.set_dtype(torch.float64)
    for x, real in ((a, True), (b, False)):
        fid.update(x.view(len(x), 1, 1, -1), real=real)
    return float(fid.compute())


def test_agrees_with_independent_implementations_where_they_are_right():
    a, b = correlated(900, 48, 1), correlated(700, 48, 3, 0.1)
    ours = frechet_distance(a, b)
    assert fidelity(a, b) == pytest.approx(ours, rel=1e-8)
    assert torchmetrics_formula(a, b) == pytest.approx(ours, rel=1e-8)
    assert torchmetrics_streaming(a, b) == pytest.approx(ours, rel=1e-8)
    covariances = [x.T.cov().numpy() for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1])
    classic = float(
        (a.mean(0) - b.mean(0)).square().sum()
        + np.trace(covariances[0] + covariances[1] - 2 * root.real)
    )
    assert classic == pytest.approx(ours, rel=1e-7)


def test_peers_are_wrong_by_more_than_rounding_with_fewer_rows_than_columns():
    a, b = correlated(40, 200, 1), correlated(40, 200, 3, 0.1)
    roots = [(x - x.mean(0)).numpy() / math.sqrt(39) for x in (a, b)]
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    truth = float((a.mean(0) - b.mean(0)).square().sum())
    truth += (roots[0] ** 2).sum() + (roots[1] ** 2).sum() - 2 * overlap
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-12)
    for peer in (fidelity, torchmetrics_formula):
        # Square roots of eigenvalues that are zero but for rounding add to the overlap.
        assert 1e-9 < (truth - peer(a, b)) / truth < 1e-2, peer.__name__


def test_a_common_offset_is_nonsense_to_raw_squares_and_nothing_to_us():
    # Multiples of 1/64, so that the offset itself rounds nothing.
    a, b = ((64 * x).round() / 64 for x in (correlated(300, 8, 1), correlated(300, 8, 3, 0.5)))
    ours = frechet_distance(a, b)
    assert frechet_distance(a + 1e7, b + 1e7) == pytest.approx(ours, rel=1e-12)
    assert abs(torchmetrics_streaming(a + 1e7, b + 1e7) / ours - 1) > 1e-3


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_on_features_of_real_images(mirror, monkeypatch, name):
    from course_lib import data

    monkeypatch.setenv("COURSE_MIRROR", str(mirror))
    network = metrics.load_features(name)
    images = data.load(name, "test", download=False).images
    a, b = (network(images[i : i + 1000]).features for i in (0, 1000))
    ours = frechet_distance(a, b)
    assert ours == pytest.approx(fidelity(a.double(), b.double()), rel=1e-7)
    few = frechet_distance(a[:40], b[:40])
    roots = [(x - x.mean(0)).numpy() / math.sqrt(39) for x in (a[:40].double(), b[:40].double())]
    overlap = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    between = float((a[:40].double().mean(0) - b[:40].double().mean(0)).square().sum())
    expected = between + (roots[0] ** 2).sum() + (roots[1] ** 2).sum() - 2 * overlap
    assert few == pytest.approx(expected, rel=1e-11)
    assert few > ours, "the bias of a small sample"


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("a", "sentence"),
    [
        (torch.tensor([[1.0, math.nan], [0, 0]]), "NaN or infinite"),
        (torch.tensor([[1.0, math.inf], [0, 0]]), "NaN or infinite"),
        (torch.ones(1, 2), "at least 2"),
        (torch.ones(0, 2), "at least 2"),
        (torch.ones(4, 3), "columns"),
        (torch.ones(4), r"\[n, d\]"),
        (torch.ones(4, 2, 1), r"\[n, d\]"),
        (torch.ones(4, 2, dtype=torch.uint8), "overflow"),
        (np.ones((4, 2), dtype=np.int64), "overflow"),
        (1e200 * draw(4, 2), "overflow"),
    ],
)
def test_bad_features_are_refused_with_a_sentence(a, sentence):
    with pytest.raises(ValueError, match=sentence):
        frechet_distance(a, draw(5, 2))
    with pytest.raises(ValueError, match=sentence):
        frechet_distance(draw(5, 2), a)


def test_not_an_array_is_refused():
    with pytest.raises(TypeError, match="tensor or an array"):
        frechet_distance(object(), draw(5, 2))


def test_batches_from_inference_mode_can_be_joined_later():
    x = draw(20, 3, 1)
    moments = FeatureMoments()
    with torch.inference_mode():
        moments.update(x[:9] * 1)
    other = FeatureMoments().merge(moments)
    moments.update(x[9:])
    other.merge(FeatureMoments().update(x[9:]))
    for found in (moments, other):
        torch.testing.assert_close(found.compute()[1], x.T.cov(), rtol=1e-12, atol=1e-12)


def test_features_of_a_network_go_in_as_they_come():
    a, b = (metrics.Features(draw(9, 3, s).float(), torch.ones(9, 1), "net") for s in (1, 2))
    assert frechet_distance(a, b) == frechet_distance(a.features, b.features)
    with pytest.raises(ValueError, match="two networks"):
        frechet_distance(a, FeatureMoments("another").update(b.features))


def test_fit_error_is_that_of_the_line():
    result = metrics.frechet_distance_infinity(draw(600, 3, 1), draw(600, 3, 2), splits=4)
    x, y = 1 / np.array(result.sizes), np.array(result.distances)
    _, covariance = np.polyfit(x, y, 1, cov=True)
    assert result.fit_error == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-6)
    two = metrics.frechet_distance_infinity(draw(600, 3, 1), draw(600, 3, 2), splits=2)
    assert math.isnan(two.fit_error)


def test_bad_moments_are_refused():
    good = (np.zeros(2), np.eye(2))
    for bad, sentence in (
        ((np.zeros(3), np.eye(2)), r"\[d\] and \[d, d\]"),
        ((np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
        ((np.zeros(2), -np.eye(2)), "negative eigenvalue"),
        ((np.array([0, math.nan]), np.eye(2)), "NaN"),
    ):
        with pytest.raises(ValueError, match=sentence):
            frechet_distance_from_moments(*good, *bad)
    with pytest.raises(ValueError, match="entries"):
        frechet_distance_from_moments(*good, np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="seen 1 sample"):
        FeatureMoments().update(draw(1, 2)).compute()
    with pytest.raises(ValueError, match="columns"):
        FeatureMoments().update(draw(3, 2)).update(draw(3, 3))
    with pytest.raises(ValueError, match="widths"):
        FeatureMoments().update(draw(3, 2)).merge(FeatureMoments().update(draw(3, 3)))
    with pytest.raises(ValueError, match="one feature network"):
        FeatureMoments("a").update(draw(3, 2)).merge(FeatureMoments("b").update(draw(3, 2)))
    with pytest.raises(ValueError, match="two networks"):
        frechet_distance(
            FeatureMoments("a").update(draw(3, 2)), FeatureMoments("b").update(draw(3, 2))
        )
    with pytest.raises(ValueError, match="too small"):
        metrics.frechet_distance_infinity(draw(50, 20), draw(50, 20))


def test_inputs_are_left_alone_and_kinds_agree():
    a, b = draw(12, 4, 1), draw(9, 4, 2)
    before = a.clone(), b.clone()
    value = frechet_distance(a, b)
    assert torch.equal(a, before[0]) and torch.equal(b, before[1])
    assert isinstance(value, float)
    assert frechet_distance(a.numpy(), b.numpy()) == value
    assert frechet_distance(a.requires_grad_(), b) == value
    read_only = a.detach().numpy().copy()
    read_only.flags.writeable = False
    assert frechet_distance(read_only, b) == value


def test_a_merge_that_is_refused_changes_nothing():
    mine, other = FeatureMoments("a"), FeatureMoments("b")
    other.update(torch.randn(4, 3))
    other._joined = True  # as after all_reduce
    with pytest.raises(ValueError, match="only moments of one feature network"):
        mine.merge(other)
    mine.update(torch.randn(4, 3))
    assert mine.n == 4
