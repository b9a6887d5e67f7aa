"""Adversarial losses against closed forms, autograd and the naive formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_lib import losses

ALL = [
    losses.minimax,
    losses.non_saturating,
    losses.least_squares,
    losses.hinge,
    losses.wasserstein,
]
logit = st.floats(-12, 12)
logits = st.lists(logit, min_size=1, max_size=8).map(lambda v: torch.tensor(v, dtype=torch.float64))


@settings(max_examples=50, deadline=None)
@given(logits, logits)
def test_equals_the_naive_formula_where_that_does_not_overflow(real, fake):
    naive_d = -(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean())
    for loss in (losses.minimax, losses.non_saturating):
        torch.testing.assert_close(loss.discriminator(real, fake), naive_d, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(
        losses.minimax.generator(fake), (1 - fake.sigmoid()).log().mean(), rtol=1e-8, atol=1e-10
    )
    torch.testing.assert_close(
        losses.non_saturating.generator(fake), -fake.sigmoid().log().mean(), rtol=1e-8, atol=1e-10
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 30))
def test_logit_gradients_of_the_two_generator_losses(a):
    for loss, expected in (
        (losses.minimax, -torch.sigmoid(torch.tensor(a, dtype=torch.float64))),
        (losses.non_saturating, -torch.sigmoid(torch.tensor(-a, dtype=torch.float64))),
    ):
        x = torch.tensor([a], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(loss.generator(x), x)
        torch.testing.assert_close(gradient[0], expected, rtol=3e-9, atol=0.0)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
@pytest.mark.parametrize("a", [-1e4, 1e4])
def test_finite_with_finite_gradients_at_huge_logits(loss, a):
    real = torch.tensor([a], requires_grad=True)
    fake = torch.tensor([a], requires_grad=True)
    value = loss.discriminator(real, fake) + loss.generator(fake)
    assert torch.isfinite(value)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value, (real, fake)))


def test_by_hand():
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0, 0.0])
    # hinge: max(0, 1-2), max(0, 1-0) -> 1/2; max(0, 1-3), 1+1, 1+0 -> 3/3
    assert losses.hinge.discriminator(real, fake).item() == pytest.approx(1.5)
    assert losses.hinge.generator(fake).item() == pytest.approx(2 / 3)
    # least squares: (1 + 1)/2 /2, (9 + 1 + 0)/3 /2; generator (16 + 0 + 1)/3 /2
    assert losses.least_squares.discriminator(real, fake).item() == pytest.approx(0.5 + 5 / 3)
    assert losses.least_squares.generator(fake).item() == pytest.approx(17 / 6)
    assert losses.wasserstein.discriminator(real, fake).item() == pytest.approx(-2 / 3 - 1)
    assert losses.wasserstein.generator(fake).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("m", "jsd"), [(0.0, 0.0), (1.0, 0.111421), (2.0, 0.336831), (4.0, 0.632720)]
)
def test_value_at_the_optimal_discriminator_is_minus_log4_plus_twice_jsd(m, jsd):
    g = torch.Generator().manual_seed(1)
    n = 200_000
    p = torch.randn(n, generator=g, dtype=torch.float64)
    q = torch.randn(n, generator=g, dtype=torch.float64) + m

    def optimal(x):  # log p/q of N(0, 1) against N(m, 1)
        return m**2 / 2 - m * x

    value = -losses.minimax.discriminator(optimal(p), optimal(q)).item()
    assert value == pytest.approx(-math.log(4) + 2 * jsd, abs=4 * 2 / math.sqrt(n))


def test_the_two_batches_may_differ_in_size_and_duplicating_changes_nothing():
    g = torch.Generator().manual_seed(0)
    real, fake = torch.randn(3, generator=g), torch.randn(5, generator=g)
    for loss in ALL:
        once = loss.discriminator(real, fake)
        torch.testing.assert_close(loss.discriminator(real.repeat(2), fake.repeat(3)), once)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_refuses_logits_that_cannot_belong_together(loss):
    with pytest.raises(ValueError, match="differ in more than the batch"):
        loss.discriminator(torch.zeros(4), torch.zeros(4, 1))
    with pytest.raises(ValueError, match="at least one entry"):
        loss.generator(torch.zeros(0))


def test_by_name():
    assert [losses.by_name(loss.name) for loss in ALL] == ALL
    with pytest.raises(ValueError, match="choose one of minimax, non_saturating"):
        losses.by_name("nonsaturating")


def linear_critic(d=6):
    g = torch.Generator().manual_seed(3)
    w = torch.randn(d, generator=g, dtype=torch.float64).requires_grad_(True)
    return w, lambda x: x.flatten(1) @ w + 0.7


def test_penalties_of_a_linear_critic_and_their_gradients():
    w, critic = linear_critic()
    g = torch.Generator().manual_seed(4)
    real, fake = torch.randn(2, 5, 1, 2, 3, generator=g, dtype=torch.float64)
    norm = w.detach().norm()

    penalty = losses.gradient_penalty(critic, real, fake, g)
    torch.testing.assert_close(penalty.detach(), (norm - 1) ** 2)
    (gradient,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(gradient, 2 * (norm - 1) * w.detach() / norm)

    penalty = losses.r1_penalty(critic, real)
    torch.testing.assert_close(penalty.detach(), norm**2)
    (gradient,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(gradient, 2 * w.detach())


def test_double_backward_against_finite_differences():
    g = torch.Generator().manual_seed(5)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
    real, fake = torch.randn(2, 7, 3, generator=g, dtype=torch.float64)
    for penalty in (
        lambda: losses.r1_penalty(net, real),
        lambda: losses.gradient_penalty(net, real, fake, torch.Generator().manual_seed(0)),
    ):
        weight, h = net[0].weight, 1e-6
        (gradient,) = torch.autograd.grad(penalty(), weight)
        with torch.no_grad():
            weight[1, 2] += h
        up = penalty().item()
        with torch.no_grad():
            weight[1, 2] -= 2 * h
        down = penalty().item()
        with torch.no_grad():
            weight[1, 2] += h
        assert gradient[1, 2].item() == pytest.approx((up - down) / (2 * h), rel=1e-6)


def test_gradient_penalty_looks_between_the_pairs_with_uniform_eps():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.sum(1)

    n = 20_000
    real, fake = torch.ones(n, 2), torch.zeros(n, 2)
    losses.gradient_penalty(critic, real, fake, torch.Generator().manual_seed(0))
    eps = seen[0]
    assert torch.equal(eps[:, 0], eps[:, 1])  # one eps per pair, not per pixel
    assert eps.min() >= 0 and eps.max() <= 1
    assert eps[:, 0].mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / n))
    assert eps[:, 0].var().item() == pytest.approx(1 / 12, rel=0.05)


def test_penalties_are_finite_at_zero_gradient_and_leave_the_data_alone():
    w = torch.zeros(3, requires_grad=True)
    real, fake = torch.ones(4, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    penalty = losses.gradient_penalty(lambda x: x @ w, real, fake)
    (penalty + losses.r1_penalty(lambda x: x @ w, real)).backward()
    assert penalty.item() == 1.0
    assert torch.isfinite(w.grad).all()
    assert real.grad is None and fake.grad is None


def test_gradient_penalty_refuses_mismatched_batches():
    with pytest.raises(ValueError, match="as many fakes as there are real"):
        losses.gradient_penalty(lambda x: x.sum(1), torch.zeros(4, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"must be \[batch"):
        losses.r1_penalty(lambda x: x, torch.zeros(4))
