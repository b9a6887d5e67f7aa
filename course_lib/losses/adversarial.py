"""Adversarial losses on logits, and the two gradient penalties.

With a the logit and D = sigmoid(a): log D = -softplus(-a) and log(1 - D) = -softplus(a). Written
so, nothing overflows; log(1 - sigmoid(a)) in float32 is already -inf at a = 17.
Every loss is to be minimised, and is a mean over the batch (in nats where the logit is a log-odds).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from course_lib.models.noise import drawn


class AdversarialLoss(NamedTuple):
    """A pair of losses for the two players.

    `discriminator(real_logits, fake_logits)` and `generator(fake_logits)` each return a scalar.
    Logits are [batch] (or [batch, ...], e.g. one per patch); the two batches may differ in size.
    Both raise ValueError for empty logits or for logits that differ in more than the batch.
    """

    name: str
    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def _require_logits(*logits: Tensor) -> None:
    if any(a.ndim == 0 or a.numel() == 0 for a in logits):
        shapes = ", ".join(str(list(a.shape)) for a in logits)
        raise ValueError(f"logits must be [batch] with at least one entry, not {shapes}.")
    if any(a.shape[1:] != logits[0].shape[1:] for a in logits):
        shapes = " and ".join(str(list(a.shape)) for a in logits)
        raise ValueError(
            f"real and fake logits have shapes {shapes}, which differ in more than the batch; "
            "pass both through the same discriminator."
        )


def _cross_entropy(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-V(G, D) = -E log D(x) - E log(1 - D(G(z)))."""
    _require_logits(real_logits, fake_logits)
    return softplus(-real_logits).mean() + softplus(fake_logits).mean()


def _minimax_generator(fake_logits: Tensor) -> Tensor:
    _require_logits(fake_logits)
    return -softplus(fake_logits).mean()


def _non_saturating_generator(fake_logits: Tensor) -> Tensor:
    _require_logits(fake_logits)
    return softplus(-fake_logits).mean()


def _least_squares_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    _require_logits(real_logits, fake_logits)
    return 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()


def _least_squares_generator(fake_logits: Tensor) -> Tensor:
    _require_logits(fake_logits)
    return 0.5 * (fake_logits - 1).square().mean()


def _hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    _require_logits(real_logits, fake_logits)
    return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


def _wasserstein_critic(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    _require_logits(real_scores, fake_scores)
    return fake_scores.mean() - real_scores.mean()


def _minus_mean(fake_logits: Tensor) -> Tensor:
    _require_logits(fake_logits)
    return -fake_logits.mean()


minimax = AdversarialLoss("minimax", _cross_entropy, _minimax_generator)
"""Generator minimises E log(1 - D(G(z))); its logit gradient is -D, which dies where D wins.

Source: Goodfellow et al. 2014, Eq. 1.
"""

non_saturating = AdversarialLoss("non_saturating", _cross_entropy, _non_saturating_generator)
"""Generator minimises -E log D(G(z)); its logit gradient is -(1 - D), strong where D wins.

Source: Goodfellow et al. 2014, Section 3.
"""

least_squares = AdversarialLoss(
    "least_squares", _least_squares_discriminator, _least_squares_generator
)
"""Real scores are pulled to 1, fake ones to 0; the generator pulls fakes to 1.

Source: Mao et al. 2017, Least Squares GAN (a = 0, b = c = 1).
"""

hinge = AdversarialLoss("hinge", _hinge_discriminator, _minus_mean)
"""The critic stops pushing once it is right by a margin of 1.

Source: Lim and Ye 2017; Miyato et al. 2018 (spectral normalization).
"""

wasserstein = AdversarialLoss("wasserstein", _wasserstein_critic, _minus_mean)
"""-critic loss estimates W1, provided that the critic is 1-Lipschitz: use it with a penalty.

Source: Arjovsky et al. 2017, Eq. 2.
"""

_LOSSES = {loss.name: loss for loss in (minimax, non_saturating, least_squares, hinge, wasserstein)}


def by_name(name: str) -> AdversarialLoss:
    """The loss called `name`.

    Raises:
        ValueError: unknown name; the sentence lists the known ones.
    """
    if name not in _LOSSES:
        raise ValueError(f"Unknown loss {name!r}; choose one of {', '.join(_LOSSES)}.")
    return _LOSSES[name]


def _input_gradient(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """d critic / d x per example, [batch, features]; differentiable again."""
    x = x.detach().requires_grad_(True)
    # The sum makes one backward pass give every example its own gradient. That needs a critic
    # without batch normalisation, which lets examples depend on each other.
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.flatten(1)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """E (||grad critic(x_t)|| - 1)^2 on x_t = eps real + (1 - eps) fake, eps ~ U(0, 1) per pair.

    The caller multiplies by lambda (10 in the paper). Use a critic without batch normalisation.

    Args:
        real, fake: [batch, ...] of one shape; treated as constants.
        generator: source of eps; None means torch's global one.

    Returns:
        Scalar; differentiable in the critic's parameters (the graph is kept).

    Raises:
        ValueError: `real` and `fake` differ in shape.

    Source: Gulrajani et al. 2017, Eq. 3.
    """
    if real.shape != fake.shape or real.ndim < 2:
        raise ValueError(
            f"real {list(real.shape)} and fake {list(fake.shape)} must share one shape "
            "[batch, ...]; draw as many fakes as there are real examples."
        )
    shape = (len(real),) + (1,) * (real.ndim - 1)
    eps = drawn(torch.rand, shape, generator, real.device, real.dtype)
    between = eps * real.detach() + (1 - eps) * fake.detach()
    norm = torch.linalg.vector_norm(_input_gradient(critic, between), dim=1)
    return (norm - 1).square().mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """E ||grad discriminator(x)||^2 over real examples; the caller multiplies by gamma / 2.

    Args:
        real: [batch, ...]; treated as constants.

    Returns:
        Scalar; differentiable in the discriminator's parameters.

    Raises:
        ValueError: `real` has no feature dimension.

    Source: Mescheder et al. 2018, Which training methods for GANs do actually converge.
    """
    if real.ndim < 2:
        raise ValueError(f"real must be [batch, ...], not {list(real.shape)}.")
    return _input_gradient(discriminator, real).square().sum(1).mean()
