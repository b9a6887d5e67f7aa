"""A model and a likelihood under evaluation: q(z|x), log p(x|z), and weights for draws of z."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.metrics.inputs import double, require_finite, tensor, whole

Seed = torch.Generator | int


def new_generator(generator: Seed | None) -> torch.Generator:
    if isinstance(generator, torch.Generator):
        return generator
    seed = 0 if generator is None else generator
    seed = whole(seed, "generator (a torch.Generator, or a seed)", 0, 2**63 - 1)
    return torch.Generator().manual_seed(seed)


def normals(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    # float64 (where there is one), so that networks of any type see the same noise.
    dtype = torch.float32 if generator.device.type == "mps" else torch.float64
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)


class Network:
    """A model and a likelihood, checked, and what they say of x and z."""

    def __init__(
        self, model: Any, likelihood: Any, batch_size: int, needs: str = "encode decode"
    ) -> None:
        self.batch_size, self.likelihood = whole(batch_size, "batch_size", 1), likelihood
        self.encode = getattr(model, "encode", None)
        self.decode = getattr(model, "decode", None if "encode" in needs else model)
        for name in needs.split():
            if isinstance(model, type) or not callable(getattr(self, name)):
                raise TypeError(
                    f"The model, {str(model)[:60]}, has no {name}() to call: pass a VAE, or "
                    "another object with encode(x) -> (mu, log_var) and decode(z)."
                )
        if "decode" in needs and (
            isinstance(likelihood, type) or not callable(getattr(likelihood, "log_prob", None))
        ):
            raise TypeError(
                f"The likelihood, {str(likelihood)[:60]}, has no log_prob(x, decoded) to call: "
                "pass an object such as losses.BernoulliLikelihood()."
            )
        parts = (getattr(p, "__self__", p) for p in (model, self.encode, self.decode, likelihood))
        self.modules = [part for part in parts if isinstance(part, nn.Module)]
        weights = [w for m in self.modules for w in (*m.parameters(), *m.buffers())]
        weights = [w for w in weights if w.is_floating_point()]
        # A tensor of the type and on the device that the network works in; plain functions take x.
        self.plain, self.like = not weights, weights[0] if weights else torch.empty(0)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """No gradients, evaluation mode, and afterwards every module in its own mode."""
        modes = [(m, m.training) for root in self.modules for m in root.modules()]
        try:
            for root in self.modules:
                root.eval()
            with torch.inference_mode(False), torch.no_grad():
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def data(self, x: Any) -> Tensor:
        """x where the network is, but in 32 bits at least: a sum over pixels needs them."""
        x = tensor(x, "x")
        if x.ndim < 2 or 0 in x.shape or not x.is_floating_point():
            raise ValueError(
                f"x should be floating point [n, ...] with n of at least 1, but is {x.dtype} of "
                f"the shape {list(x.shape)}: pass images with .as_float(range=(0.0, 1.0))."
            )
        require_finite(x, "x")
        self.like = x if self.plain else self.like
        x = x.to(self.like.device, torch.promote_types(self.like.dtype, torch.float32))
        if hasattr(self.likelihood, "require_range"):  # on a GPU log_prob gives NaN instead
            self.likelihood.require_range(x)
        return x

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log_var of q(z|x), `[n, latent]` each, float64."""
        found = [self.encode(part.to(self.like.dtype)) for part in x.split(self.batch_size)]
        if isinstance(found[0], Tensor) or len(found[0]) != 2:
            raise ValueError(
                "model.encode(x) should return (mu, log_var); a deterministic autoencoder has no "
                "q(z|x), and so no bound on log p(x)."
            )
        mu, log_var = (double(torch.cat(part)) for part in zip(*found, strict=True))
        if mu.ndim != 2 or len(mu) != len(x) or log_var.shape != mu.shape:
            raise ValueError(
                f"model.encode returned mu {list(mu.shape)} and log_var {list(log_var.shape)} for "
                f"{len(x)} images, but both should be [{len(x)}, latent], one row per image."
            )
        require_finite(mu, "The encoder's mu")
        require_finite(log_var, "The encoder's log_var")
        return mu, log_var

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x|z) for x `[rows, ...]` and z `[rows, latent]`: `[rows]`, float64."""
        value = self.likelihood.log_prob(x, self.decode(z.to(self.like)).to(x.dtype))
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"likelihood.log_prob returned the shape {list(value.shape)} for {len(x)} images, "
                "but should return one number per image, summed over its dimensions."
            )
        return double(value)

    def draws(
        self, x: Tensor, mu: Tensor, log_var: Tensor, k: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """log p(x|z) and log p(z)/q(z|x), some `[draws, n]` at a time, until there are k draws."""
        n, sigma = len(x), (0.5 * log_var).exp()
        together = min(k, max(1, self.batch_size // n))
        rows = x.repeat(together, *[1] * (x.ndim - 1)) if together > 1 else x
        for start in range(0, k, together):
            count = min(together, k - start)
            # One call draws [n, latent] numbers, however many of them are used together.
            u = torch.stack([normals(mu.shape, generator) for _ in range(count)]).to(mu)
            z = mu + sigma * u
            xs, zs = rows[: count * n], z.flatten(0, 1)
            parts = zip(xs.split(self.batch_size), zs.split(self.batch_size), strict=True)
            log_p = torch.cat([self.log_prob(*part) for part in parts]).view(count, n)
            log_ratio = 0.5 * (u.square() - z.square() + log_var).sum(-1)
            require_finite_weights(log_p + log_ratio, z)
            yield log_p, log_ratio


def require_finite_weights(log_w: Tensor, z: Tensor) -> None:
    """Refuse log weights `[...]` at z `[..., latent]` of which one is not finite."""
    if bool(log_w.isfinite().all()):
        return
    place = tuple((~log_w.isfinite()).nonzero()[0].tolist())
    length = float(z[place].norm())
    raise ValueError(
        f"log( p(x|z)p(z)/q(z|x) ) is {float(log_w[place])} at a z of length {length:.3g}: "
        + (
            "the decoder has diverged (look for NaN among its weights) or overflows there."
            if length < 1e4
            else "the encoder's mu or log_var is so large that z leaves all bounds."
        )
    )
