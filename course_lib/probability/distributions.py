"""Distributions that can be sampled and whose density is known.

Densities are computed in float64 and returned in the dtype of `x`. Samples come in the dtype of the
tensors a distribution was built from, or in torch's default dtype if it was built from plain
numbers; `.to(torch.float64)` changes that. They lie on the device of the generator.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.nn.functional import logsigmoid

LOG_2PI = math.log(2.0 * math.pi)
SMALLEST_UNIFORM = 2.0**-54  # half a step of torch.rand in float64: keeps inverse CDFs finite


def double(value: Any) -> Tensor:
    """The value in float64; from an Apple GPU, which has no float64, it comes to the CPU first."""
    if not isinstance(value, Tensor):
        return torch.as_tensor(value, dtype=torch.float64)  # 0.1 would be a float32 on the way
    return (value.cpu() if value.device.type == "mps" else value).to(torch.float64)


def _dtype(*values: Any) -> torch.dtype:
    """The dtype of the first floating tensor among the values, else torch's default."""
    found = (v.dtype for v in values if isinstance(v, Tensor) and v.is_floating_point())
    return next(found, torch.get_default_dtype())


def _positive(value: float, name: str) -> float:
    value = float(value)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}, but it must be a finite number above 0.")
    return value


def _finite(value: float, name: str) -> float:
    if not math.isfinite(float(value)):
        raise ValueError(f"{name} is {value}, but it must be a finite number.")
    return float(value)


def _at_least(value: int, low: int, name: str) -> int:
    if isinstance(value, bool) or int(value) != value or value < low:
        raise ValueError(f"{name} is {value}, but it must be a whole number of at least {low}.")
    return int(value)


def _device(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def _uniforms(n: int, generator: torch.Generator | None) -> Tensor:
    """n draws from the open interval (0, 1) in float64, shape [n]."""
    n = _at_least(n, 1, "n")
    draws = torch.rand(n, dtype=torch.float64, device=_device(generator), generator=generator)
    return draws.clamp(min=SMALLEST_UNIFORM)


def _normals(*shape: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, device=_device(generator), generator=generator)


class Distribution:
    """What all laws here share: `sample(n, generator)`, `log_prob(x)`, `pdf(x)` and `to(dtype)`."""

    dtype: torch.dtype

    def sample(self, n: int, generator: torch.Generator | None = None) -> Any:
        """Draw n independent samples; the first axis of the result has length n."""
        raise NotImplementedError

    def _log_density(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _evaluate(self, function: Callable[[Tensor], Tensor], x: Any) -> Tensor:
        """Apply a float64 function to x and give the answer in the dtype of x."""
        x = torch.as_tensor(x)
        dtype = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return function(double(x)).to(dtype).to(x.device)

    def log_prob(self, x: Tensor) -> Tensor:
        """Natural logarithm of the density at x, in nats: x `[n]` or `[n, d]` gives `[n]`.

        Outside the support it is -inf. A law on the line takes every number of x by itself, and
        keeps the shape of x.

        Raises:
            ValueError: the last axis of x does not have the distribution's dimension.
        """
        return self._evaluate(self._log_density, x)

    def pdf(self, x: Tensor) -> Tensor:
        """Density at x, per unit of length, area or volume: x `[n]` or `[n, d]` gives `[n]`."""
        return self._evaluate(lambda x: self._log_density(x).exp(), x)

    def to(self, dtype: torch.dtype) -> Distribution:
        """The same distribution with samples of another floating dtype."""
        twin = copy.copy(self)
        twin.dtype = dtype
        return twin


class OneDimensional(Distribution):
    """A law on the real line: a `torch.distributions` object, sampled by inverting its CDF.

    If u is uniform on (0, 1), then icdf(u) has the law whose CDF is inverted; hence one uniform
    number per sample, and the same generator state gives comparable samples of all laws.

    Args:
        distribution: a scalar `torch.distributions` object that has `cdf` and `icdf`.
        name: what `repr` shows.

    Raises:
        ValueError: the distribution is not scalar.

    Source: Devroye, Non-Uniform Random Variate Generation, 1986 (the inversion method).
    """

    def __init__(self, distribution: td.Distribution, name: str | None = None) -> None:
        if tuple(distribution.batch_shape) + tuple(distribution.event_shape) != ():
            raise ValueError("The distribution must be scalar: build it from single numbers.")
        self.distribution = distribution
        self.name = name or type(distribution).__name__
        self.dtype = torch.get_default_dtype()

    def __repr__(self) -> str:
        return self.name

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n numbers `[n]` as icdf(u), u uniform on (0, 1).

        Raises:
            ValueError: n is not a whole number of at least 1.
        """
        return self.icdf(_uniforms(n, generator)).to(self.dtype)

    def _log_density(self, x: Tensor) -> Tensor:
        # torch would raise outside the support, or continue the formula; a density is zero there.
        law, x = self.distribution, x.cpu()  # its numbers lie there
        inside = law.support.check(x)
        middle = law.icdf(torch.tensor(0.5, dtype=x.dtype))
        density = law.log_prob(torch.where(inside, x, middle))
        return torch.where(x.isnan(), x, torch.where(inside, density, -math.inf))

    def cdf(self, x: Tensor) -> Tensor:
        """P(X <= x), in [0, 1], shape of x.

        The laws that this module names keep their digits in the lower tail, however small the
        probability; that of any other `torch.distributions` object is what torch makes of it, often
        a difference from 1 with an absolute error of 1e-16.
        """
        return self._evaluate(lambda x: self.distribution.cdf(x).clamp(0.0, 1.0), x)

    def icdf(self, u: Tensor) -> Tensor:
        """The number x with P(X <= x) = u, shape of u.

        For the normal, Laplace and Cauchy laws torch forms u - 1/2, which rounds u by 1e-16: below
        that it gives -inf, or (Cauchy) a number of the order 1e16. The uniform, exponential and
        logistic laws use u with all its digits.

        Raises:
            ValueError: some u lies outside [0, 1].
        """
        u = torch.as_tensor(u)
        if not bool(((u >= 0) & (u <= 1)).all()):
            raise ValueError("icdf needs probabilities: every u must lie between 0 and 1.")
        return self._evaluate(self.distribution.icdf, u)


# torch's CDFs subtract from 1 or 1/2, which leaves no digit of a probability below 1e-16. Its
# formulas stay where they lose none, so that only the tails have other numbers than torch's.
TAIL = -1.0  # in standard deviations or scales from the middle


class _Normal(td.Normal):
    def cdf(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        return torch.where(z < TAIL, _normal_tail(z), super().cdf(value))


class _Exponential(td.Exponential):
    def cdf(self, value: Tensor) -> Tensor:
        x = self.rate * value
        return torch.where(x < 0.1, -torch.expm1(-x), super().cdf(value))


class _Laplace(td.Laplace):
    def cdf(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        return torch.where(z < TAIL, 0.5 * z.clamp(max=0.0).exp(), super().cdf(value))


class _Cauchy(td.Cauchy):
    def cdf(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        tail = torch.atan2(torch.ones_like(z), -z) / math.pi
        return torch.where(z < TAIL, tail, super().cdf(value))


class _Logistic(td.TransformedDistribution):
    # torch keeps u in [2e-308, 1 - 2e-16] here, and its softplus drops exp(-20).
    def __init__(self, mean: Tensor, scale: Tensor, validate_args: bool) -> None:
        unit = td.Uniform(torch.zeros_like(mean), torch.ones_like(mean), validate_args)
        steps = [td.SigmoidTransform().inv, td.AffineTransform(mean, scale)]
        super().__init__(unit, steps, validate_args)
        self.loc, self.scale = mean, scale

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        far = logsigmoid(z) + logsigmoid(-z) - self.scale.log()
        return torch.where(z.abs() > 20.0, far, super().log_prob(value))

    def cdf(self, value: Tensor) -> Tensor:
        return torch.sigmoid((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * (value.log() - torch.log1p(-value))


def _normal_tail(z: Tensor) -> Tensor:
    """P(Z <= z) for a standard normal Z, right in the lower tail."""
    return 0.5 * torch.erfc(z / -math.sqrt(2.0))


def _wrap(kind: Callable[..., td.Distribution], name: str, *parameters: float) -> OneDimensional:
    tensors = [torch.tensor(p, dtype=torch.float64) for p in parameters]
    text = f"{name}({', '.join(f'{p:g}' for p in parameters)})"
    return OneDimensional(kind(*tensors, validate_args=False), text)


def normal(mean: float = 0.0, std: float = 1.0) -> OneDimensional:
    """N(mean, std²) on the line. Raises: ValueError if std <= 0 or a number is not finite."""
    return _wrap(_Normal, "normal", _finite(mean, "mean"), _positive(std, "std"))


def uniform(low: float, high: float) -> OneDimensional:
    """U(low, high), density 1/(high - low). Raises: ValueError unless low < high, both finite."""
    low, high = _finite(low, "low"), _finite(high, "high")
    if low >= high:
        raise ValueError(f"uniform needs low < high, but got low={low} and high={high}.")
    return _wrap(td.Uniform, "uniform", low, high)


def exponential(rate: float) -> OneDimensional:
    """Density rate·exp(-rate·x) on x >= 0, mean 1/rate. Raises: ValueError if rate <= 0."""
    return _wrap(_Exponential, "exponential", _positive(rate, "rate"))


def laplace(mean: float, scale: float) -> OneDimensional:
    """Density exp(-|x - mean|/scale)/(2·scale). Raises: ValueError if scale <= 0."""
    return _wrap(_Laplace, "laplace", _finite(mean, "mean"), _positive(scale, "scale"))


def logistic(mean: float, scale: float) -> OneDimensional:
    """The law whose CDF is sigmoid((x - mean)/scale). Raises: ValueError if scale <= 0."""
    return _wrap(_Logistic, "logistic", _finite(mean, "mean"), _positive(scale, "scale"))


def cauchy(mean: float, scale: float) -> OneDimensional:
    """Density 1/(pi·scale·(1 + ((x - mean)/scale)²)), median `mean`; it has no expectation.

    Raises: ValueError if scale <= 0.
    """
    return _wrap(_Cauchy, "cauchy", _finite(mean, "mean"), _positive(scale, "scale"))


class GaussianMixture(Distribution):
    """sum_i w_i N(m_i, s_i² I): Gaussians with one spread in all directions each.

    Args:
        means: `[k]` for a law on the line, `[k, d]` for one in d dimensions.
        stds: one number for all components, or `[k]`; above 0.
        weights: `[k]`, non-negative, divided by their sum; None means equal weights.

    Raises:
        ValueError: a wrong shape, a std that is not above 0, or weights negative or all 0.
    """

    def __init__(self, means: Any, stds: Any, weights: Any = None) -> None:
        self.dtype = _dtype(means, stds)
        self._means = double(means)
        if self._means.ndim not in (1, 2) or self._means.numel() == 0:
            shape = list(self._means.shape)
            raise ValueError(f"means has shape {shape}, but it must be [k] or [k, d].")
        k = len(self._means)
        self._stds = double(stds).to(self._means.device)
        if self._stds.ndim == 0:
            self._stds = self._stds.expand(k)
        weights = torch.ones(k) if weights is None else weights
        self._weights = double(weights).to(self._means.device)
        for name, values in (("stds", self._stds), ("weights", self._weights)):
            if values.shape != (k,):
                raise ValueError(f"{name} has shape {list(values.shape)}, but there are {k} means.")
        sound = (self._stds > 0).all() & self._stds.isfinite().all() & self._means.isfinite().all()
        if not bool(sound):
            raise ValueError("means must be finite and stds finite and above 0.")
        total = float(self._weights.sum())
        if not (bool((self._weights >= 0).all()) and 0 < total < math.inf):
            raise ValueError("weights must be non-negative and finite, with a sum above 0.")
        self._weights = self._weights / total

    @property
    def means(self) -> Tensor:
        """`[k]` or `[k, d]`, in the dtype of the samples."""
        return self._means.to(self.dtype)

    @property
    def stds(self) -> Tensor:
        """`[k]`, in the dtype of the samples."""
        return self._stds.to(self.dtype)

    @property
    def weights(self) -> Tensor:
        """`[k]`, summing to 1, in the dtype of the samples."""
        return self._weights.to(self.dtype)

    def sample(
        self, n: int, generator: torch.Generator | None = None, return_component: bool = False
    ) -> Any:
        """Draw x `[n]` or `[n, d]`; with `return_component` the pair (x, component `[n]` int64).

        Raises:
            ValueError: n is not a whole number of at least 1.
        """
        n, device = _at_least(n, 1, "n"), _device(generator)
        chosen = torch.multinomial(self._weights.to(device), n, True, generator=generator)
        noise = _normals(n, *self._means.shape[1:], generator=generator)
        stds = self._stds.to(device)[chosen]
        stds = stds.reshape(-1, *[1] * (self._means.ndim - 1))
        x = (self._means.to(device)[chosen] + stds * noise).to(self.dtype)
        return (x, chosen) if return_component else x

    def _log_density(self, x: Tensor) -> Tensor:
        means, stds, log_weights = (
            t.to(x.device) for t in (self._means, self._stds, self._weights.log())
        )
        if means.ndim == 1:
            d, squared = 1, (x[..., None] - means) ** 2
        else:
            d = means.shape[1]
            _require_last_axis(x, d)
            squared = ((x[..., None, :] - means) ** 2).sum(-1)
        terms = log_weights - 0.5 * squared / stds**2 - d * (stds.log() + 0.5 * LOG_2PI)
        return torch.logsumexp(terms, -1)

    def cdf(self, x: Tensor) -> Tensor:
        """P(X <= x), in [0, 1], shape of x; for means of shape `[k]` only.

        Raises:
            ValueError: the mixture lives in d dimensions.
        """
        if self._means.ndim != 1:
            raise ValueError("cdf is defined here for mixtures on the line: give means as [k].")

        def compute(x: Tensor) -> Tensor:
            means, stds = self._means.to(x.device), self._stds.to(x.device)
            z = (x[..., None] - means) / stds
            below = torch.where(z < TAIL, _normal_tail(z), torch.special.ndtr(z))
            return (self._weights.to(x.device) * below).sum(-1)

        return self._evaluate(compute, x)


def _require_last_axis(x: Tensor, d: int) -> None:
    if x.ndim == 0 or x.shape[-1] != d:
        raise ValueError(f"x has shape {list(x.shape)}, but its last axis must have length {d}.")


def ring(modes: int = 8, radius: float = 1.0, std: float = 0.05) -> GaussianMixture:
    """Equal Gaussians on a circle in the plane, the first one at (radius, 0).

    Args: modes, how many; radius of the circle; std of each, in the units of x.
    Raises: ValueError if modes < 1, or radius or std is not above 0.
    Source: Metz et al., Unrolled GANs, 2017 (the experiment with a ring of Gaussians).
    """
    modes, radius = _at_least(modes, 1, "modes"), _positive(radius, "radius")
    angles = 2.0 * np.pi * np.arange(modes) / modes
    means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return GaussianMixture(means, _positive(std, "std"))


def grid(side: int = 5, spacing: float = 2.0, std: float = 0.05) -> GaussianMixture:
    """side × side equal Gaussians in the plane, centred on the origin.

    Args: side, modes per row; spacing between neighbours and std of each, in the units of x.
    Raises: ValueError if side < 1, or spacing or std is not above 0.
    Source: Srivastava et al., VEEGAN, 2017 (the experiment with a grid of Gaussians).
    """
    side, spacing = _at_least(side, 1, "side"), _positive(spacing, "spacing")
    ticks = spacing * (np.arange(side) - (side - 1) / 2.0)
    means = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
    return GaussianMixture(means, _positive(std, "std"))


class CurveWithNoise(Distribution):
    """A point on a curve in the plane plus N(0, std² I).

    The density is the line integral of the Gaussian along the curve, taken with composite
    Gauss-Legendre quadrature: 16 nodes for every 2·std of curve, and more towards s = 0 where the
    density of s is singular there. Its relative error is below 1e-8 within 6·std of the curve and
    below 1e-5 within 12·std, where the density is about exp(-72).

    Args:
        arcs: functions that map positions s `[m]` in [0, 1] to points `[m, 2]`, each smooth and
            each as probable as the others.
        std: spread of the noise, in the units of x.
        power: s = u**power with u uniform. 1 is even in s; 1/2 puts more points at large s.

    Raises:
        ValueError: std or power is not above 0.
    """

    def __init__(
        self, arcs: Sequence[Callable[[Tensor], Tensor]], std: float, power: float = 1.0
    ) -> None:
        self.arcs, self.std, self.power = tuple(arcs), _positive(std, "std"), float(power)
        _positive(power, "power")
        self.dtype = torch.get_default_dtype()
        nodes, log_weights = zip(*(self._quadrature(arc) for arc in self.arcs), strict=True)
        self._nodes, self._log_weights = torch.cat(nodes), torch.cat(log_weights)

    def _quadrature(self, arc: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Points `[m, 2]` on one arc and the logarithms `[m]` of their weights."""
        power = self.power

        def over(u: Tensor) -> Tensor:
            """Above 1 the density of s is singular at 0, so u is integrated over: its own is 1."""
            return arc(u**power) if power > 1 else arc(u)

        fine = over(torch.linspace(0.0, 1.0, 2001, dtype=torch.float64))
        length = 2000.0 * float(fine.diff(dim=0).norm(dim=1).max())
        panels = math.ceil(length / (2.0 * self.std))
        x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(16))
        s = ((torch.arange(panels)[:, None] + 0.5 + 0.5 * x) / panels).flatten()
        widths = (0.5 * w / panels).repeat(panels)
        exponent = power if power > 1 else 1.0 / power
        if abs(exponent - round(exponent)) > 1e-9:
            # A power of s that is not whole: beside its singularity no polynomial follows it, so
            # the first panel becomes many, each 4 times as long as the one before.
            ends = torch.cat([torch.zeros(1), 4.0 ** torch.arange(-24.0, 1.0)]).double() / panels
            graded = ends[:-1, None] + 0.5 * ends.diff()[:, None] * (1.0 + x)
            s = torch.cat([graded.flatten(), s[len(x) :]])
            widths = torch.cat([(0.5 * ends.diff()[:, None] * w).flatten(), widths[len(x) :]])
        density = 1.0 if power > 1 else s ** (1.0 / power - 1.0) / power  # of s = u**power
        weights = widths * density / len(self.arcs)
        return over(s), weights.log()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points `[n, 2]`, exactly.

        Raises:
            ValueError: n is not a whole number of at least 1.
        """
        s = _uniforms(n, generator) ** self.power
        which = (_uniforms(n, generator) * len(self.arcs)).long()
        points = torch.stack([arc(s) for arc in self.arcs])[which, torch.arange(n, device=s.device)]
        return (points + self.std * _normals(n, 2, generator=generator)).to(self.dtype)

    def _log_density(self, x: Tensor) -> Tensor:
        _require_last_axis(x, 2)
        nodes, log_weights = self._nodes.to(x.device), self._log_weights.to(x.device)
        rows = max(1, 2_000_000 // len(nodes))  # bounds the memory: 16 MB for each temporary
        answers = []
        for part in x.reshape(-1, 2).split(rows):
            squared = (part[:, :1] - nodes[:, 0]) ** 2 + (part[:, 1:] - nodes[:, 1]) ** 2
            answers.append(torch.logsumexp(log_weights - 0.5 * squared / self.std**2, 1))
        constant = LOG_2PI + 2.0 * math.log(self.std)
        return torch.cat(answers).reshape(x.shape[:-1]) - constant


def two_moons(std: float = 0.1) -> CurveWithNoise:
    """Two interleaved half circles of radius 1, blurred by std (in the units of x).

    Raises: ValueError if std is not above 0.
    Source: the geometry of scikit-learn's `make_moons`.
    """

    def upper(s: Tensor) -> Tensor:
        return torch.stack([torch.cos(math.pi * s), torch.sin(math.pi * s)], -1)

    def lower(s: Tensor) -> Tensor:
        return torch.stack([1.0 - torch.cos(math.pi * s), 0.5 - torch.sin(math.pi * s)], -1)

    return CurveWithNoise([upper, lower], std)


def spiral(turns: float = 1.5, std: float = 0.1) -> CurveWithNoise:
    """Archimedes' spiral from the origin, neighbouring turns 1 apart, blurred by std.

    The angle is 2·pi·turns·sqrt(u): almost even along the length, which grows as angle².

    Raises: ValueError if turns or std is not above 0.
    """
    turns = _positive(turns, "turns")

    def arc(s: Tensor) -> Tensor:
        angle = 2.0 * math.pi * turns * s
        return turns * s[..., None] * torch.stack([torch.cos(angle), torch.sin(angle)], -1)

    return CurveWithNoise([arc], std, power=0.5)


class LinearGaussian(Distribution):
    """z ~ N(0, I), x = weight z + bias + noise_std·eps: the VAE whose every integral is known.

    x has the law N(bias, weight weightᵀ + noise_std² I), and the posterior of z given x is Gaussian
    with covariance noise_std² M⁻¹, M = weightᵀ weight + noise_std² I.

    Args:
        weight: `[d, k]`, the linear decoder.
        bias: `[d]`.
        noise_std: one number above 0, in the units of x.

    Raises:
        ValueError: shapes do not fit together, noise_std is not above 0 or too small beside
            weight, or weight is not finite.

    Source: Tipping & Bishop, Probabilistic Principal Component Analysis, 1999.
    """

    def __init__(self, weight: Any, bias: Any, noise_std: float) -> None:
        self.dtype = _dtype(weight, bias)
        self._weight = double(weight)
        self._bias = double(bias).to(self._weight.device)
        self.noise_std = _positive(noise_std, "noise_std")
        if self._weight.ndim != 2 or self._bias.shape != self._weight.shape[:1]:
            shapes = f"{list(self._weight.shape)} and {list(self._bias.shape)}"
            raise ValueError(f"weight and bias have shapes {shapes}, not [d, k] and [d].")
        gram = self._weight.T @ self._weight
        self._factor, failed = torch.linalg.cholesky_ex(gram + self.noise_std**2 * self._eye())
        if int(failed) or not bool(self._factor.isfinite().all()):
            raise ValueError(
                "weight must be finite, and noise_std not so small beside it that the matrix "
                "weightᵀ weight + noise_std² I is singular in float64."
            )

    def _eye(self) -> Tensor:
        return torch.eye(self._weight.shape[1], dtype=torch.float64, device=self._weight.device)

    @property
    def weight(self) -> Tensor:
        """`[d, k]`, in the dtype of the samples."""
        return self._weight.to(self.dtype)

    @property
    def bias(self) -> Tensor:
        """`[d]`, in the dtype of the samples."""
        return self._bias.to(self.dtype)

    @property
    def covariance(self) -> Tensor:
        """Covariance of x, `[d, d]`, in the dtype of the samples."""
        full = self._weight @ self._weight.T
        noise = self.noise_std**2 * torch.eye(len(full), dtype=full.dtype, device=full.device)
        return (full + noise).to(self.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw the pair (x `[n, d]`, z `[n, k]`).

        Raises:
            ValueError: n is not a whole number of at least 1.
        """
        n, (d, k), device = _at_least(n, 1, "n"), self._weight.shape, _device(generator)
        z = _normals(n, k, generator=generator)
        noise = self.noise_std * _normals(n, d, generator=generator)
        x = z @ self._weight.to(device).T + self._bias.to(device) + noise
        return x.to(self.dtype), z.to(self.dtype)

    def _residual(self, x: Tensor) -> Tensor:
        _require_last_axis(x, len(self._bias))
        return x.to(self._bias.device) - self._bias

    def _posterior_mean(self, residual: Tensor) -> Tensor:
        right = (residual @ self._weight).reshape(-1, self._weight.shape[1]).T
        mean = torch.cholesky_solve(right, self._factor).T
        return mean.reshape(*residual.shape[:-1], -1)

    def _log_density(self, x: Tensor) -> Tensor:
        residual = self._residual(x)
        z = self._posterior_mean(residual)
        # rᵀC⁻¹r = min over z of |r - Wz|²/s² + |z|²: no d × d matrix and no cancellation.
        variance, (d, k) = self.noise_std**2, self._weight.shape
        distance = ((residual - z @ self._weight.T) ** 2).sum(-1) / variance + (z**2).sum(-1)
        log_det = 2.0 * self._factor.diagonal().log().sum() + (d - k) * math.log(variance)
        return -0.5 * (distance + log_det + d * LOG_2PI)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean `[n, k]` and covariance `[k, k]` of z given x `[n, d]`; all x share the covariance.

        Raises:
            ValueError: the last axis of x is not d.
        """
        mean = self._evaluate(lambda x: self._posterior_mean(self._residual(x)), x)
        cov = self.noise_std**2 * torch.cholesky_inverse(self._factor)
        return mean, cov.to(mean.dtype)

    def elbo(
        self, x: Tensor, mu: Tensor, cov: Tensor | None = None, *, log_var: Tensor | None = None
    ) -> Tensor:
        """The evidence lower bound for q = N(mu, cov), without sampling: `[n]`, in nats.

        It equals log_prob(x) - KL(q || posterior), and is log_prob(x) when q is the posterior.

        Args:
            x: `[n, d]`.
            mu: `[n, k]`.
            cov: `[k, k]` or `[n, k, k]`, symmetric and positive definite; or else
            log_var: `[n, k]`, the logarithms of the variances of a diagonal q. By keyword, since
                a square `log_var` could not be told from a covariance.

        Raises:
            ValueError: not exactly one of cov and log_var, a wrong shape, or cov not positive.

        Source: Kingma & Welling, Auto-Encoding Variational Bayes, 2013.
        """
        if (cov is None) == (log_var is None):
            raise ValueError("elbo needs exactly one of cov and log_var.")
        x, there = torch.as_tensor(x), self._weight.device
        k, mean = self._weight.shape[1], double(mu).to(there)
        _require_last_axis(mean, k)
        spread_of_q = torch.as_tensor(cov if log_var is None else log_var)
        each = log_var is not None or spread_of_q.ndim == 3
        rows = [len(t) for t in (x, mean) + ((spread_of_q,) if each else ()) if t.ndim > 1]
        if len(set(rows)) > 1:
            raise ValueError(f"x, mu and the spread of q have different numbers of rows: {rows}.")
        if log_var is not None:
            _require_last_axis(torch.as_tensor(log_var), k)
            logarithms = double(log_var).to(there)
            covariance, log_det = torch.diag_embed(logarithms.exp()), logarithms.sum(-1)
        else:
            covariance = double(cov).to(there)
            if covariance.ndim not in (2, 3) or covariance.shape[-2:] != (k, k):
                raise ValueError(f"cov must be [{k}, {k}] or [n, {k}, {k}]; else give log_var=.")
            if not torch.allclose(covariance, covariance.mT, rtol=1e-4, atol=1e-8):
                raise ValueError("cov must be symmetric.")
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if bool(failed.any()):
                raise ValueError("cov must be positive definite.")
            log_det = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        spread = ((self._weight @ covariance) * self._weight).sum((-2, -1))  # tr(W cov Wᵀ)

        def compute(x: Tensor) -> Tensor:
            error = ((self._residual(x) - mean @ self._weight.T) ** 2).sum(-1)
            variance, d = self.noise_std**2, len(self._bias)
            likelihood = -0.5 * (d * (LOG_2PI + math.log(variance)) + (error + spread) / variance)
            return likelihood - 0.5 * (trace + (mean**2).sum(-1) - k - log_det)

        return self._evaluate(compute, x)

    @classmethod
    def fit(cls, x: Tensor, latent_dim: int) -> LinearGaussian:
        """The maximum-likelihood model for data x `[n, d]`: probabilistic PCA, in closed form.

        noise_std² is the mean of the discarded eigenvalues of the covariance (divisor n), and the
        columns of weight are the leading eigenvectors times sqrt(eigenvalue - noise_std²), each
        with its largest entry positive, since the likelihood does not fix a rotation.

        Raises:
            ValueError: x is not `[n, d]` with n >= 2, latent_dim is not between 1 and d - 1, or
                the data lie in a plane of latent_dim dimensions (the noise would be 0).

        Source: Tipping & Bishop 1999 (the maximum-likelihood estimators).
        """
        x = torch.as_tensor(x)
        if x.ndim != 2 or len(x) < 2 or not bool(x.isfinite().all()):
            raise ValueError("x must be [n, d] with at least 2 rows, all numbers finite.")
        d, k = x.shape[1], _at_least(latent_dim, 1, "latent_dim")
        if k >= d:
            raise ValueError(f"latent_dim is {k}, but it must be below the dimension {d} of x.")
        mean = double(x).mean(0)
        centred = double(x) - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))  # ascending
        noise, values, vectors = values[:-k].mean(), values[-k:].flip(0), vectors[:, -k:].flip(1)
        if not float(noise) > 1e-12 * float(values[0]):
            raise ValueError(f"x has no spread beyond {k} directions: choose a lower latent_dim.")
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        weight = vectors * largest.sign() * (values - noise).clamp(min=0.0).sqrt()
        dtype = _dtype(x)
        return cls(weight, mean, math.sqrt(float(noise))).to(dtype)
