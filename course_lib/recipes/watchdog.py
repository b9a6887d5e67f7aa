"""A watchdog: what losses do not tell about a run, looked at every so often while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from course_lib import metrics

N = 256  # images of the fixed batch, and samples beside it
LEAST_VARIANCE = 0.1  # of the data's
LEAST_COVERAGE = 0.1  # equal laws have 1 - 1/2^k or so: 0.97 with 5 neighbours
SATURATED = 1e-3  # nats; of a cross-entropy this is a gap of 15 between the logits
BLIND = 1e-4  # a gap so small that both kinds of image get one logit
COLLAPSED_KL = 0.05  # nats, of all latent dimensions together


class Watchdog:
    """Compares samples with a fixed batch of real images, and reads the last losses.

    Args:
        real: `[n, channels, height, width]` in [0, 1], on the CPU; None leaves samples out.
        draw: as that of `families.Model`.
        features: images in [0, 1] -> features `[n, width]`; None leaves coverage out.
    """

    def __init__(
        self,
        real: Tensor | None = None,
        draw: Callable[[int, torch.Generator], Tensor] | None = None,
        features: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.draw, self.features, self.real = draw, features, real
        self.real_features = None if features is None else features(real)

    def look(self, history: Mapping[str, list[float]], since: int) -> list[str]:
        """Sentences about what is wrong now; `since` is the first step of the losses to read."""
        recent = {
            name: torch.tensor(values[since:]).double().mean().item()
            for name, values in history.items()
            if len(values) > since
        }
        return [*self._samples(), *_discriminator(recent), *_posterior(recent)]

    def _samples(self) -> list[str]:
        if self.real is None:
            return []
        fake = self.draw(len(self.real), torch.Generator().manual_seed(0))
        share = _variance(fake) / max(_variance(self.real), 1e-12)
        if share < LEAST_VARIANCE:
            return [
                f"collapsed generator: the pixels of its samples vary {share:.2g} times as much as "
                "those of the data"
            ]
        if self.features is None:
            return []
        coverage = metrics.prdc(self.real_features, self.features(fake))["coverage"]
        if coverage < LEAST_COVERAGE:
            return [
                f"collapsed generator: {coverage:.0%} of {len(self.real)} real images have a "
                "sample in their neighbourhood (5 nearest, features of a classifier)"
            ]
        return []


def _variance(images: Tensor) -> float:
    """Variance over images, mean over pixels."""
    return images.double().var(0).mean().item()


def _discriminator(recent: Mapping[str, float]) -> list[str]:
    loss, low, high = (
        recent.get(name) for name in ("discriminator_loss", "fake_logit", "real_logit")
    )
    if loss is None:
        return []
    gap = high - low
    # A critic's loss goes below zero without end, and is never saturated.
    if 0 <= loss < SATURATED:
        return [
            f"dead discriminator: it tells all images apart (loss {loss:.2g}, logits {gap:.3g} "
            "apart), and its loss teaches it nothing more"
        ]
    if abs(gap) < BLIND:
        return [f"dead discriminator: real and fake images get one logit (gap {gap:.2g})"]
    return []


def _posterior(recent: Mapping[str, float]) -> list[str]:
    kl = recent.get("kl")
    if kl is None or kl >= COLLAPSED_KL:
        return []
    return [f"collapsed posterior: its KL to the prior is {kl:.2g} nats, so the code says nothing"]
