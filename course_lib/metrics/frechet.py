"""The Fréchet distance between two sets of features: exact, never negative, and fast.

It is the squared 2-Wasserstein distance between the two Gaussians that have the sets' means and
covariances,

    |mean_a - mean_b|^2 + tr A + tr B - 2 tr (A^{1/2} B A^{1/2})^{1/2}.

With any roots F^T F = A and G^T G = B the last trace is the nuclear norm |F G^T|_* (the sum of the
singular values). Everything here is a choice of roots. With fewer samples than columns the centred
samples are a root themselves, and nothing of the size of a covariance is ever made; with more, a
Cholesky factor is the cheapest. Both squares of singular values come from a symmetric
eigenvalue problem, with an estimate of the error that rounding makes; where that is too large (a
nearly singular covariance, sets that nearly agree), slower and more exact ways take over.

Sources: Dowson and Landau 1982 (the formula); Heusel et al. 2017, Eq. 6 (with Inception features
and under the name FID); Bhatia, Jain and Lim 2019 (roots and rotations).
"""

from __future__ import annotations

import math
import os
import secrets
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from course_lib.metrics import inputs
from course_lib.metrics.arithmetic import (
    Workspace,
    eigenvalues,
    gram,
    lower_product,
    shifted_blocks,
    times,
)
from course_lib.metrics.features import Features
from course_lib.metrics.inputs import double

EPSILON = torch.finfo(torch.float64).eps
# Relative error that is worth more work. The estimates are cautious; errors found are smaller.
WANTED = 1e-10
Keep = Tensor | slice  # which columns take part


# ---------------------------------------------------------------------------- one side


class _Rows:
    """The root [n - 1, d] that centred samples are, made in blocks of columns when it is needed.

    n centred rows span n - 1 directions. The reflection that maps the vector of ones to the first
    axis turns one row into zero; it is left out. What it adds to every other row, the first one
    over √n - 1, joins the mean, so that one subtraction does both.
    """

    COLUMNS = 256  # of a block: one of 500 rows stays in a processor's cache

    def __init__(self, x: Tensor, origin: Tensor, work: Workspace) -> None:
        self.x, self.origin, self.work = x, origin, work
        self.mean = torch.empty_like(origin)
        self.variance, self._shift = torch.empty_like(origin), torch.empty_like(origin)
        for columns in self.blocks():
            centred = self._centred(columns)
            mean = centred.mean(0)
            self.mean[columns] = mean
            self._shift[columns] = mean - (centred[0] - mean) / (math.sqrt(len(x)) - 1)
            rows = self._of(centred, columns)
            self.variance[columns] = rows.square_().sum(0)

    def __len__(self) -> int:
        return len(self.x) - 1

    def blocks(self) -> list[slice]:
        width = self.x.shape[1]
        return [slice(i, min(i + self.COLUMNS, width)) for i in range(0, width, self.COLUMNS)]

    def _centred(self, columns: slice, name: str = "rows") -> Tensor:
        part = self.x[:, columns]
        out = self.work.matrix(name, *part.shape, self.origin)
        return torch.sub(part, self.origin[columns], out=out)

    def _of(self, centred: Tensor, columns: slice) -> Tensor:
        return centred[1:].sub_(self._shift[columns]).div_(math.sqrt(len(self.x) - 1))

    def block(self, columns: slice, name: str) -> Tensor:
        """Some columns of the root; valid until the next block of this name."""
        return self._of(self._centred(columns, name), columns)

    def whole(self, keep: Keep) -> Tensor:
        """The columns that take part, `[n - 1, kept]`."""
        parts = [self.block(columns, "rows").clone() for columns in self.blocks()]
        return torch.cat(parts, 1)[:, keep]


def _times_transposed(a: _Rows, b: _Rows) -> Tensor:
    """a b^T, `[n - 1, m - 1]`, of which only a few columns of a and b are in memory at a time."""
    product = a.mean.new_zeros(len(a), len(b))
    part = torch.empty_like(product)
    for columns in a.blocks():
        product += times(a.block(columns, "a"), b.block(columns, "b").T, out=part)
    return product


class _Side:
    """Mean and covariance of one set, and roots F (F^T F = covariance) of it.

    The mean is kept as `origin + mean`, where the origin is a sample: the difference of two nearby
    numbers is exact, so an offset that all features share costs no digit.

    Args:
        origin, mean: `[d]` each.
        rows: a root made of the samples, if that is smaller than a covariance.
        covariance: `[d, d]`, if not.
        samples: `[n, d]` as given, if they are at hand, for the roots that need them.
        rank: no more eigenvalues than this can be above zero.
    """

    def __init__(
        self,
        origin: Tensor,
        mean: Tensor,
        *,
        rows: _Rows | None = None,
        covariance: Tensor | None = None,
        samples: Tensor | None = None,
        rank: int,
    ) -> None:
        self.origin, self.mean, self.rank = origin, mean, rank
        self.rows, self.covariance, self.samples = rows, covariance, samples
        self.variance = rows.variance if covariance is None else covariance.diagonal()

    @classmethod
    def of_samples(cls, x: Tensor, work: Workspace | None = None) -> _Side:
        n, width = x.shape
        work = work or Workspace()
        if n <= width:
            rows = _Rows(x, double(x[0]).clone(), work)
            return cls(rows.origin, rows.mean, rows=rows, rank=n - 1)
        moments = FeatureMoments()
        moments._add(x, work)
        return cls(
            moments._origin,
            moments._mean,
            covariance=moments._scatter.div_(n - 1),
            samples=x,
            rank=width,
        )

    def root(self, keep: Keep) -> Tensor:
        """[rank, kept columns]: the most exact root that there is."""
        if self.rows is not None:
            return self.rows.whole(keep)
        if self.samples is not None:  # a triangular factor, without squaring anything
            triangle = self.mean.new_zeros(0, len(self.mean[keep]))
            rows = max(2048, 2 * len(self.mean))
            for part in shifted_blocks(self.samples, self.origin, Workspace(), rows):
                part = part.sub_(self.mean)[:, keep]
                triangle = torch.linalg.qr(torch.cat([triangle, part]), mode="r").R
            return triangle / math.sqrt(len(self.samples) - 1)
        values, vectors = torch.linalg.eigh(self.covariance[keep][:, keep])
        # Rounding turns a zero eigenvalue into one of this size, whose square root is not small.
        used = values > EPSILON * len(values) * values[-1]
        used[: max(0, len(values) - self.rank)] = False
        return values[used].sqrt()[:, None] * vectors[:, used].T


# ---------------------------------------------------------------------------- the distance


def _distance(a: _Side, b: _Side, work: Workspace | None = None) -> float:
    between = float((a.origin - b.origin + (a.mean - b.mean)).square().sum())
    total = between + float(a.variance.sum() + b.variance.sum())
    if not math.isfinite(total):
        raise ValueError(
            "The squares of these features overflow float64: divide both sets by one large number "
            "c, and multiply the distance by c squared."
        )
    # A feature that does not vary on one side has no part in the overlap of the spreads.
    keep = (a.variance > 0) & (b.variance > 0)
    if not bool(keep.any()):
        return total
    if bool(keep.all()):
        keep = slice(None)  # a view where a mask would copy
    small, large = (a, b) if a.rank <= b.rank else (b, a)
    overlap, error = _overlap_by_eigenvalues(small, large, keep, work or Workspace())
    if not 2 * error <= WANTED * (total - 2 * overlap):
        roots = small.root(keep), large.root(keep)
        overlap = float(torch.linalg.svdvals(times(roots[0], roots[1].T)).sum())
        error = 2 * EPSILON * total
    value = total - 2 * overlap
    if not 2 * error <= WANTED * value:
        alone = [float(side.variance.sum() - side.variance[keep].sum()) for side in (a, b)]
        value = between + _least_rotation(*roots) + sum(alone)
    return max(0.0, value)


def _quick_root(side: _Side, keep: Keep) -> tuple[Tensor, bool, float]:
    """A cheap root `[r, kept]`, whether it is triangular, and how much it magnifies rounding.

    A Cholesky factor magnifies by the largest ratio of a variance to what is left of it when all
    features before it are known; where there is no factor, by infinity.
    """
    if side.rows is not None:
        rows = side.rows.whole(keep)
        if len(rows) <= rows.shape[1]:
            return rows, False, 0.0
        covariance = gram(rows)
    else:
        covariance = side.covariance[keep][:, keep]
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        return factor, True, math.inf
    left = factor.diagonal().square()
    return factor.T, True, float((covariance.diagonal() / left).max())


def _product_of_roots(
    small: _Side, large: _Side, keep: Keep, work: Workspace
) -> tuple[Tensor, float]:
    """F G^T of two cheap roots, and how much they magnify rounding together."""
    if small.rows is not None and large.rows is not None and keep == slice(None):
        return _times_transposed(small.rows, large.rows), 0.0
    (f, f_triangular, f_magnifies), (g, g_triangular, g_magnifies) = (
        _quick_root(side, keep) for side in (small, large)
    )
    magnifies = f_magnifies + g_magnifies
    if not math.isfinite(magnifies):
        return f, math.inf
    if not (f_triangular and g_triangular):
        return times(f, g.T), magnifies
    out = work.matrix("block", len(f), len(f), f)
    return lower_product(f.T, g.T, out), magnifies


def _overlap_by_eigenvalues(
    small: _Side, large: _Side, keep: Keep, work: Workspace
) -> tuple[float, float]:
    """|F G^T|_* from the eigenvalues of F G^T G F^T, with an estimate of its rounding error.

    Rounding moves each eigenvalue by about eps times the largest one, up or down by chance, and
    the square root divides that by twice itself. The roots bring errors of their own.
    """
    product, magnifies = _product_of_roots(small, large, keep, work)
    if not math.isfinite(magnifies):
        return 0.0, math.inf
    square = gram(product.T, work.matrix("gram", len(product), len(product), product))
    if not bool(torch.isfinite(square.sum())):
        return 0.0, math.inf
    values = eigenvalues(square).clamp(min=0)
    floor = EPSILON * values[-1]
    if not float(floor) > 0:
        return 0.0, math.inf
    roots = values.sqrt()
    errors = floor / (2 * roots.clamp(min=floor.sqrt()))
    overlap = float(roots.sum())
    of_roots = EPSILON * overlap * magnifies
    return overlap, 2 * float(errors.square().sum().sqrt()) + of_roots


def _least_rotation(f: Tensor, g: Tensor) -> float:
    """tr A + tr B - 2 |F G^T|_* as the least |Q F - G|^2 over isometries Q.

    The same number as a sum of squares: nothing cancels, however close the two sides are.
    """
    if len(f) > len(g):
        f, g = g, f
    u, _, v = torch.linalg.svd(times(f, g.T), full_matrices=True)
    gap = times(v, g)
    gap[: len(f)] -= times(u.T, f)
    return float(gap.square().sum())


def frechet_distance(features_a: Any, features_b: Any) -> float:
    """Squared Fréchet (2-Wasserstein) distance between Gaussian fits of two sets of features.

    With Inception-v3 features this is the FID. It is in the squared units of the features, at least
    0, and 0 exactly when means and covariances agree: it sees nothing beyond these two moments.
    Between finite sets it is biased upwards by a term of order 1/n (`frechet_distance_infinity`),
    so compare only values of equal n.

    From samples the relative error is below 1e-9, also for fewer samples than features, for
    singular covariances, and for features with a large common offset, as long as the distance is
    not below about 1e-12 of the variances. From `FeatureMoments`, where the samples are gone, it is
    about 1e-16 times the variances over the distance, and more for covariances close to singular.

    Args:
        features_a, features_b: `[n, d]` and `[m, d]`, floating point, n, m >= 2, any device; or
            `FeatureMoments`, or the `Features` that a network returned. Covariances have the
            denominator n - 1, as in the FID.

    Raises:
        ValueError: other shapes or widths, integers, NaN or infinities, fewer than two samples,
            or squares that overflow.

    Source: Heusel et al. 2017, Eq. 6; the distance is that of Dowson and Landau 1982.
    """
    names = [getattr(f, "name", "") for f in (features_a, features_b)]
    if all(names) and names[0] != names[1]:
        raise ValueError(
            f"features_a are of {names[0]!r} and features_b of {names[1]!r}: distances between "
            "features of two networks mean nothing; compute both with one."
        )
    work = Workspace()
    a = _side(features_a, "features_a", work)
    b = _side(features_b, "features_b", work, a.mean.device)
    if len(a.mean) != len(b.mean):
        raise ValueError(
            f"features_a has {len(a.mean)} columns and features_b has {len(b.mean)}: both must "
            "come from the same feature network (and the same layer of it)."
        )
    return _distance(a, b, work)


def _side(given: Any, name: str, work: Workspace, device: torch.device | None = None) -> _Side:
    if isinstance(given, FeatureMoments):
        return given._side(device)
    given = given.features if isinstance(given, Features) else given
    return _Side.of_samples(inputs.features(given, name).to(device), work)


def frechet_distance_from_moments(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> float:
    """Squared Fréchet distance between N(mean_a, cov_a) and N(mean_b, cov_b).

    Means `[d]`, covariances `[d, d]`: symmetric (to 1e-6 of the largest entry; the mean with the
    transpose is used), eigenvalues at least 0 (down to -1e-6 of it is taken for rounding), zeros
    allowed. For d = 1 a number stands for either. At least 0, in squared units of the features.
    The relative error is about 1e-16 times the variances over the distance for covariances far
    from singular, and cannot be so small for others, whose least eigenvalues are rounded already.

    Raises:
        ValueError: shapes that do not fit, NaN or infinities, or a matrix that is not symmetric or
            has a negative eigenvalue.

    Source: Dowson and Landau 1982.
    """
    a = _gaussian(mean_a, cov_a, "a")
    b = _gaussian(mean_b, cov_b, "b", a.mean.device)
    if len(a.mean) != len(b.mean):
        raise ValueError(f"mean_a has {len(a.mean)} entries and mean_b has {len(b.mean)}.")
    return _distance(a, b)


def _gaussian(mean: Any, covariance: Any, name: str, device: torch.device | None = None) -> _Side:
    mean, cov = inputs.tensor(mean, f"mean_{name}"), inputs.tensor(covariance, f"cov_{name}")
    mean, cov = (double(value).to(device or mean.device) for value in (mean, cov))
    mean = mean.reshape(1) if mean.ndim == 0 else mean
    cov = cov.reshape(1, 1) if cov.ndim == 0 else cov
    if mean.ndim != 1 or len(mean) == 0 or cov.shape != (len(mean), len(mean)):
        raise ValueError(
            f"mean_{name} has the shape {list(mean.shape)} and cov_{name} {list(cov.shape)}: "
            "pass [d] and [d, d]."
        )
    for value, what in ((mean, "mean"), (cov, "cov")):
        inputs.require_finite(value, f"{what}_{name}")
    largest = float(cov.abs().max())
    if float((cov - cov.T).abs().max()) > 1e-6 * largest:
        raise ValueError(f"cov_{name} is not symmetric, so it is no covariance.")
    cov = (cov + cov.T) / 2
    # A covariance whose factor exists has no negative eigenvalue; only others need a closer look.
    if int(torch.linalg.cholesky_ex(cov).info):
        least = float(torch.linalg.eigvalsh(cov)[0])
        if least < -1e-6 * largest:
            raise ValueError(
                f"cov_{name} has the negative eigenvalue {least:.3g}, so it is no covariance: "
                "was it estimated in float16 or float32? Use float64."
            )
        cov.diagonal().clamp_(min=0)
    return _Side(torch.zeros_like(mean), mean, covariance=cov, rank=len(mean))


# ---------------------------------------------------------------------------- streams


class FeatureMoments:
    """Mean and covariance of features that come in batches, in any number and order.

    Give it batches with `update`, join two with `merge` (or those of all processes with
    `all_reduce`), and pass it to `frechet_distance` or take `compute()`. Deviations are summed from
    the running mean, never raw squares, so an offset that all features share costs no digit.

    Args:
        features: name of the features, for example that of a `FeatureNetwork`; it is stored, and
            moments of different names are not compared.

    Attributes:
        n: samples seen so far.
        width: columns d, or None before the first batch.

    Source of the update: Chan, Golub and LeVeque 1979.
    """

    _FORMAT = "course_lib feature moments 1"

    def __init__(self, features: str = "") -> None:
        self.features, self.n = str(features), 0
        self._origin = self._mean = self._scatter = None
        self._joined = False

    @property
    def width(self) -> int | None:
        return None if self._mean is None else len(self._mean)

    def __repr__(self) -> str:
        return f"FeatureMoments(n={self.n}, width={self.width}, features={self.features!r})"

    def update(self, batch: Any) -> FeatureMoments:
        """Add the rows of a batch `[b, d]` (b may be 1); returns itself.

        Raises:
            ValueError: not floating-point features, NaN or infinities, or another width.
        """
        x = inputs.features(batch, "batch", least=1)
        self._require_own("update")
        if self.width not in (None, x.shape[1]):
            raise ValueError(
                f"This batch has {x.shape[1]} columns and the ones before had {self.width}: all "
                "must come from the same feature network."
            )
        # Features often come out of inference mode, whose tensors cannot be added to later.
        with torch.inference_mode(False), torch.no_grad():
            self._add(x, Workspace())
        return self

    def _add(self, x: Tensor, work: Workspace) -> None:
        if self._mean is None:
            self._begin(double(x[0]).clone())
        mean = sum(part.sum(0) for part in shifted_blocks(x, self._origin, work)) / len(x)
        scatter = torch.zeros_like(self._scatter) if self.n else self._scatter
        # Long blocks, or the time would go into adding up matrices [d, d].
        for part in shifted_blocks(x, self._origin, work, max(2048, 2 * len(mean))):
            # The mean is rounded, but to far less than the spread about it.
            out = work.matrix("gram", len(mean), len(mean), mean)
            scatter += gram(part.sub_(mean), out)
        self._join(len(x), mean, scatter)

    def _require_own(self, what: str) -> None:
        if self._joined:
            raise ValueError(
                f"{what} came after all_reduce: these moments hold the samples of all processes "
                "already, and more would be counted once per process. Call all_reduce last."
            )

    def _begin(self, origin: Tensor) -> None:
        self._origin, self._mean = origin, torch.zeros_like(origin)
        self._scatter = origin.new_zeros(len(origin), len(origin))

    def _join(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        """Join n more samples with this mean (from the origin) and scatter about it."""
        if self.n == 0:
            self._mean, self._scatter, self.n = mean, scatter, n
            return
        total = self.n + n
        step = mean - self._mean
        self._scatter += scatter
        self._scatter.addr_(step, step, alpha=self.n * n / total)
        self._mean = self._mean + step * (n / total)
        self.n = total

    def merge(self, other: FeatureMoments) -> FeatureMoments:
        """Add all samples that `other` has seen (it stays as it is); returns itself.

        Raises:
            ValueError: other widths or names of features.
        """
        if other.n == 0:
            return self
        if self.n and self._joined != other._joined:
            raise ValueError(
                "One of these moments went through all_reduce and the other did not: merge those "
                "of this process first, then call all_reduce."
            )
        if self.features and other.features and self.features != other.features:
            raise ValueError(
                f"These are moments of {self.features!r} and of {other.features!r}: only moments "
                "of one feature network can be merged."
            )
        if self.width not in (None, other.width):
            raise ValueError(
                f"These moments have widths {self.width} and {other.width}: they do not come from "
                "one feature network."
            )
        with torch.inference_mode(False), torch.no_grad():
            if self._mean is None:
                self._begin(other._origin.clone())
            device = self._mean.device
            mean = other._mean.to(device) + (other._origin.to(device) - self._origin)
            self._join(other.n, mean, other._scatter.to(device, copy=True))
        self.features, self._joined = self.features or other.features, other._joined
        return self

    def all_reduce(self) -> FeatureMoments:
        """Join the moments of all processes of `torch.distributed`, on every one of them.

        A process without a sample takes part too. The parts are joined in the order of the ranks,
        so that all processes hold the same numbers to the last bit. Nothing can be added
        afterwards. Without a process group this does nothing.

        Raises:
            ValueError: widths or names of features differ between processes, or it was called
                before, which would count every sample again.
        """
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self
        self._require_own("all_reduce")
        home = None if self._mean is None else self._mean.device
        parts: list[FeatureMoments | None] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self._to("cpu"))
        joint = FeatureMoments(self.features)
        for part in parts:
            joint.merge(part)
        self.__dict__.update(joint._to(home).__dict__)
        self._joined = True
        return self

    def _to(self, device: torch.device | str | None) -> FeatureMoments:
        moved = FeatureMoments(self.features)
        moved.n = self.n
        for name in ("_origin", "_mean", "_scatter"):
            value = getattr(self, name)
            setattr(moved, name, None if value is None else value.to(device))
        return moved

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean `[d]` and covariance `[d, d]` (denominator n - 1), float64.

        Raises:
            ValueError: fewer than two samples so far.
        """
        side = self._side()
        return side.origin + side.mean, side.covariance

    def _side(self, device: torch.device | None = None) -> _Side:
        if self.n < 2:
            raise ValueError(
                f"These moments have seen {self.n} sample(s), and a covariance needs at least 2: "
                "update them with more batches first."
            )
        own = self._to(device)
        covariance = own._scatter / (self.n - 1)
        return _Side(
            own._origin, own._mean, covariance=covariance, rank=min(self.n - 1, self.width)
        )

    @property
    def name(self) -> str:
        """Name of the features, as `Features` has it."""
        return self.features

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, whole or not at all.

        Raises:
            ValueError: nothing has been seen yet.
            OSError: the file cannot be written; one that was there before is unchanged.
        """
        if self._mean is None:
            raise ValueError("There is nothing to save: update the moments with a batch first.")
        path = Path(path)
        tensors = {"origin": self._origin, "mean": self._mean, "scatter": self._scatter}
        metadata = {"format": self._FORMAT, "features": self.features, "n": str(self.n)}
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            safetensors.torch.save_file(
                {name: value.cpu().contiguous() for name, value in tensors.items()},
                aside,
                metadata=metadata,
            )
            os.replace(aside, path)
        except safetensors.SafetensorError as error:
            raise OSError(f"The moments could not be written to {path}: {error}.") from None
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> FeatureMoments:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged or something else.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"There are no feature moments at {path}: check the path.")
        try:
            with safetensors.safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != cls._FORMAT:
                    raise ValueError
                moments = cls(metadata["features"])
                moments.n = int(metadata["n"])
                moments._origin = file.get_tensor("origin")
                moments._mean = file.get_tensor("mean")
                moments._scatter = file.get_tensor("scatter")
            d = len(moments._mean)
            shapes = [moments._origin.shape, moments._mean.shape, moments._scatter.shape]
            if moments.n < 1 or shapes != [(d,), (d,), (d, d)]:
                raise ValueError
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path} is damaged or holds no feature moments: give a file that "
                "FeatureMoments.save wrote."
            ) from None
        return moments


# ---------------------------------------------------------------------------- without the bias


class FrechetExtrapolation(NamedTuple):
    """`distances[i]`, the mean distance between parts of `sizes[i]` samples; `float()` is `value`.

    `value` is where their line meets 1/n = 0, `slope` its slope in 1/n. `fit_error` is the error of
    the intercept as the scatter about the line tells it (NaN for a line through two points): it is
    no standard error of `value`, since all parts are made of the same samples, and what these have
    in common moves the whole line.
    """

    value: float
    fit_error: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]

    def __float__(self) -> float:
        return self.value


def frechet_distance_infinity(
    features_a: Any,
    features_b: Any,
    *,
    splits: int = 5,
    fixed_reference: bool = False,
    seed: int = 0,
) -> FrechetExtrapolation:
    """The Fréchet distance that infinitely many samples would have, extrapolated in 1/n.

    The bias of a distance between finite sets is c/n + O(1/n^2) with a constant c that depends on
    the two laws, so it can reorder models. Both sets are shuffled and cut into 1, 2, ..., `splits`
    equal parts; the mean distance between parts is a straight line in the number of parts, and
    its value at zero parts is the answer. It is unbiased to order 1/n and may be negative.

    Args:
        features_a: `[n, d]`, usually the real ones.
        features_b: `[m, d]`.
        splits: how many numbers of parts, at least 2.
        fixed_reference: leave features_a whole, as in the paper; the bias of its own size stays.
        seed: of the shuffles.

    Raises:
        ValueError: as `frechet_distance`; or parts with no more samples than columns, where the
            bias is no straight line any more.

    Source: Chong and Forsyth 2020 (their line is fitted to random subsets of the generated set).
    """
    a, b = inputs.feature_pair(features_a, features_b, ("features_a", "features_b"))
    splits = inputs.whole(splits, "splits", 2)
    smallest = min(len(b), len(b) if fixed_reference else len(a)) // splits
    if smallest <= a.shape[1]:
        raise ValueError(
            f"Parts of {smallest} samples are too small for {a.shape[1]} features, where the bias "
            f"is no straight line in 1/n: take at least {splits * (a.shape[1] + 1)} samples a "
            "side, fewer splits, or narrower features."
        )
    generator = torch.Generator().manual_seed(seed)
    a, b = (x[torch.randperm(len(x), generator=generator).to(x.device)] for x in (a, b))
    whole = _Side.of_samples(a) if fixed_reference else None
    counts = range(1, splits + 1)
    distances = []
    for parts in counts:
        pieces = [x[: len(x) // parts * parts].chunk(parts) for x in (a, b)]
        distances.append(
            sum(
                _distance(whole or _Side.of_samples(left), _Side.of_samples(right))
                for left, right in zip(
                    [a] * parts if fixed_reference else pieces[0], pieces[1], strict=True
                )
            )
            / parts
        )
    x = torch.tensor([1 / (len(b) // parts) for parts in counts], dtype=torch.float64)
    y = torch.tensor(distances, dtype=torch.float64)
    # Equal weights: k parts of n/k samples together vary about as much as one part of n.
    design = torch.stack([torch.ones_like(x), x], 1)
    fit = torch.linalg.lstsq(design, y[:, None]).solution[:, 0]
    residual = y - design @ fit
    error = math.nan
    if splits > 2:
        covariance = torch.linalg.inv(design.T @ design) * residual.square().sum() / (splits - 2)
        error = math.sqrt(max(0.0, float(covariance[0, 0])))
    sizes = tuple(len(b) // parts for parts in counts)
    return FrechetExtrapolation(float(fit[0]), error, float(fit[1]), sizes, tuple(distances))
