"""The inception score against its bounds, extreme cases and two other implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from course_lib import data
from course_lib.metrics.features import embed
from course_lib.metrics.inception import inception_score


def logits(n=120, k=7, seed=0, scale=2.0, dtype=torch.float64):
    return scale * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_by_hand():
    # p(y) = (5/8, 3/8); the mean of both KL is 1/2 ln(8/5) + 1/2 (1/4 ln(2/5) + 3/4 ln 2).
    probs = np.array([[1.0, 0.0], [0.25, 0.75]])
    expected = (8 / 5) ** (1 / 2) * (2 / 5) ** (1 / 8) * 2 ** (3 / 8)
    mean, std = inception_score(probs, splits=1)
    assert mean == pytest.approx(expected, rel=1e-14)
    assert std == 0.0


@given(
    st.integers(1, 40),
    st.integers(1, 8),
    st.integers(1, 40),
    st.integers(0, 1000),
    st.floats(0, 300),
)
def test_bounds_and_the_definition(n, k, splits, seed, scale):
    splits = min(splits, n)
    probs = logits(n, k, seed, scale).softmax(1)
    mean, std = inception_score(probs, splits)
    assert 1.0 <= mean <= min(k, -(-n // splits)) * (1 + 1e-12)
    assert std >= 0.0
    p, scores = probs.numpy(), []
    for i in range(splits):
        part = p[i * n // splits : (i + 1) * n // splits]
        scores.append(np.exp(rel_entr(part, part.mean(0)).sum(1).mean()))
    assert mean == pytest.approx(np.mean(scores), rel=1e-10)
    assert std == pytest.approx(np.std(scores), rel=1e-6, abs=1e-10)


@given(st.integers(0, 1000))
def test_one_split_ignores_the_order_of_rows_and_classes(seed):
    probs = logits(seed=seed).softmax(1)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(seed))
    expected = inception_score(probs, splits=1).mean
    assert inception_score(probs[order], splits=1).mean == pytest.approx(expected, rel=1e-12)
    assert inception_score(probs.flip(1), splits=1).mean == pytest.approx(expected, rel=1e-12)
    assert inception_score(probs, splits=np.int64(1)).mean == expected


@pytest.mark.parametrize("k", [2, 10, 1000])
def test_the_extremes(k):
    one_hot = torch.eye(k).repeat(10, 1)
    assert inception_score(one_hot).mean == pytest.approx(k, rel=1e-12)
    # Rows that rounding left a little off 1 do not lead out of the bounds.
    assert inception_score(1.0005 * one_hot).mean == pytest.approx(k, rel=1e-12)
    # The same rows sorted by class: every split sees one class, and the score says "worst".
    ordered = torch.eye(k).repeat_interleave(10, 0)
    assert inception_score(ordered, splits=k) == pytest.approx((1.0, 0.0), abs=1e-12)
    assert inception_score(torch.full((50, k), 1 / k)) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_agrees_with_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    z = logits(n=123, k=11)  # 123 is no multiple of 10: the bounds of the splits matter
    theirs = isc_features_to_metric(z, splits=10, shuffle=False)
    mean, std = inception_score(z.softmax(1), splits=10)
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore`")
def test_agrees_with_torchmetrics_up_to_its_shuffle_and_its_divisor():
    from torchmetrics.image.inception import InceptionScore

    z = logits(n=120, k=11)
    metric = InceptionScore(feature=torch.nn.Identity(), splits=10)
    metric.update(z)
    torch.manual_seed(5)
    mean, std = metric.compute()
    torch.manual_seed(5)
    ours = inception_score(z.softmax(1)[torch.randperm(120)], splits=10)
    assert ours.mean == pytest.approx(float(mean), rel=1e-12)
    # It divides by splits - 1; the score of the literature is the population's.
    assert ours.std == pytest.approx(float(std) * (9 / 10) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rounded_softmax_outputs_are_accepted_and_change_little(dtype):
    z = logits(n=2000, k=1000, scale=3.0)
    exact = inception_score(z.softmax(1)).mean
    rounded = z.float().softmax(1).to(dtype)
    assert inception_score(rounded).mean == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps)
    if dtype != torch.bfloat16:  # which numpy has not
        assert inception_score(rounded.numpy()) == inception_score(rounded)


def test_the_score_of_real_digits(mirror):
    test = data.load("mnist", "test", mirror=mirror, download=False).subset(500)
    probs = embed(test.images, "mnist").probabilities
    whole, std = inception_score(probs, splits=1)
    # A sure classifier leaves exp of the entropy of its labels, 10 if they come equally often.
    p = torch.bincount(test.labels, minlength=10).double() / 500
    perfect = float((-torch.xlogy(p, p).sum()).exp())
    assert 0.9 * perfect < whole < 1.01 * perfect
    assert std == 0.0
    one_class = probs[test.labels == 1]
    assert inception_score(one_class, splits=1).mean < 1.5
    sorted_by_class = probs[test.labels.argsort()]
    assert inception_score(sorted_by_class, splits=10).mean < 0.3 * whole


@pytest.mark.parametrize(
    ("probs", "splits", "sentence"),
    [
        (logits(), 10, r"negative numbers, down to .* pass probs.softmax\(1\)"),
        (logits().abs(), 10, r"Row \d+ of probs sums to .* pass probs.softmax\(1\)"),
        (torch.tensor([[0.5, 0.5], [0.5, 0.49]]), 1, r"Row 1 of probs sums to 0.99"),
        (torch.tensor([[0.5, 0.5], [float("nan"), 0.5]]), 1, r"NaN or infinite.*\[1, 0\]"),
        (torch.eye(4).long(), 2, "int64"),
        (torch.full((4,), 0.25), 1, r"\[n, k\].*\[4\]"),
        (torch.eye(4), 10, "splits of the 4 rows of probs is 10; .* from 1 to 4"),
        (torch.eye(4), 0, "from 1 to 4"),
        (torch.eye(4), 2.0, "from 1 to 4"),
        (torch.eye(4), None, "from 1 to 4"),
        (torch.eye(4), "a", "from 1 to 4"),
        (torch.eye(4), True, "from 1 to 4"),
        (torch.zeros(0, 4), 1, r"0 row\(s\)"),
    ],
)
def test_refusals(probs, splits, sentence):
    with pytest.raises(ValueError, match=sentence):
        inception_score(probs, splits)
