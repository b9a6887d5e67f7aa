"""Precision, recall, density and coverage: who lies in whose neighbourhood.

Which of two distances is the smaller is all that these measures ask. So products are taken in
single precision first, and only the pairs that its rounding leaves undecided are measured again,
in double precision and from the difference of the two vectors. The answers are those of double
precision.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from course_lib.metrics import inputs
from course_lib.metrics.arithmetic import Workspace, times
from course_lib.metrics.inputs import double

# Squared distances per block: 8 MiB of float32, which stay in a processor's cache.
ENTRIES = 2**21
# Neighbours fetched beyond the k-th, so that a swap of two near ones does not matter.
SPARE = 4
# A block of which more than this share is undecided is taken again in double precision.
UNDECIDED = 0.01
# Squared distances that differ by less than this share are equal but for the order of summation.
TIE = 16 * torch.finfo(torch.float64).eps


def prdc(real: Any, fake: Any, k: int = 5) -> dict[str, float]:
    """Precision, recall, density and coverage of generated features, from k-nearest neighbours.

    Around every point stands a ball that reaches to its k-th nearest neighbour in its own set (the
    point itself not counted); a point is inside if its distance is strictly smaller than the
    radius, so a copy of the k-th neighbour is outside. (Equal means equal up to the rounding of
    double precision.)

    - precision: share of fake points inside some real ball, in [0, 1];
    - recall: share of real points inside some fake ball, in [0, 1];
    - density: mean number of real balls around a fake point, divided by k; at least 0, 1 in
      expectation when the laws agree, and above 1 when fakes crowd where the real points do;
    - coverage: share of real balls with a fake point inside, in [0, 1]. When the laws agree its
      expectation is 1 - [(n-1)...(n-k)] / [(m+n-1)...(m+n-k)] for n real and m fake points.

    Memory: a single-precision copy of both sets (a double-precision one too, where single precision
    leaves very many pairs of the two sets undecided) and some 200 MiB.

    Args:
        real, fake: features `[n, d]` and `[m, d]`, floating point, any device.
        k: 1 or more, below n and m.

    Raises:
        ValueError: other shapes or widths, integers, NaN or infinities, or no more than k rows.

    Source: Kynkäänniemi et al. 2019 (precision, recall); Naeem et al. 2020 (density, coverage).
    """
    around_fake, recalled, covered = membership(real, fake, k)
    return {
        "precision": float((around_fake > 0).double().mean()),
        "recall": float(recalled.double().mean()),
        "density": float(around_fake.double().mean()) / k,
        "coverage": float(covered.double().mean()),
    }


def membership(real: Any, fake: Any, k: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """What `prdc` averages, point by point.

    Returns:
        Number of real balls around each fake point `[m]`; whether each real point is inside some
        fake ball `[n]`; and whether its own ball has a fake point inside `[n]`.
    """
    x, y = inputs.feature_pair(real, fake, ("real", "fake"))
    k = inputs.whole(k, "k", 1)
    if min(len(x), len(y)) <= k:
        raise ValueError(
            f"real and fake have {len(x)} and {len(y)} rows, and a {k}-th neighbour needs at least "
            f"{k + 1}: take more samples or a smaller k."
        )
    # Nothing here depends on origin and scale, and rounding is least about the centre.
    centre = torch.stack([double(x[i]) for i in _spread(len(x))]).mean(0)
    largest = max(float((double(p) - centre).abs().max()) for s in (x, y) for p in s.split(2048))
    scale = 2.0 ** min(1000, -math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0
    real_points, fake_points = _Points(x, centre, scale), _Points(y, centre, scale)
    real_radii, fake_radii = _radii(real_points, k), _radii(fake_points, k)

    around_fake = torch.zeros(len(y), dtype=torch.int64, device=x.device)
    covered, recalled = torch.zeros(2, len(x), dtype=torch.bool, device=x.device)
    work = Workspace()
    for rows in _row_blocks(len(x), len(y)):
        pairs = _Pairs(real_points, fake_points, rows, work)
        i, j = pairs.closer_than(real_radii[rows][:, None])
        covered[i] = True
        around_fake += torch.bincount(j, minlength=len(y))
        recalled[pairs.closer_than(fake_radii[None, :])[0]] = True
    return around_fake, recalled, covered


def _spread(n: int, most: int = 64) -> list[int]:
    return list(range(0, n, max(1, n // most)))


def _row_blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, ENTRIES // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _single_precision(device: torch.device) -> bool:
    """Whether products of float32 are as exact as their type; on a GPU that is a setting."""
    if device.type == "cpu":
        return True
    if hasattr(torch.backends, "fp32_precision"):  # once it is used, torch refuses the older name
        return torch.backends.cuda.matmul.fp32_precision != "tf32"
    return torch.get_float32_matmul_precision() == "highest"


class _Points:
    """One set of points: as given, and about the centre in the precision that is asked for."""

    def __init__(self, x: Tensor, centre: Tensor, scale: float) -> None:
        self.x, self.centre, self.scale = x, centre, scale
        self.single = _single_precision(x.device)
        self._factors: dict[torch.dtype, Tensor] = {}

    def right(self, dtype: torch.dtype) -> Tensor:
        """[-2 b, 1, |b|^2] for every point b about the centre, `[n, d + 2]`; it is kept."""
        if dtype not in self._factors:
            n, d = self.x.shape
            factor = torch.empty(n, d + 2, dtype=dtype, device=self.centre.device)
            for part, rows in zip(self.x.split(2048), factor.split(2048), strict=True):
                self._write(part, rows)
            self._factors[dtype] = factor
        return self._factors[dtype]

    def _write(self, x: Tensor, factor: Tensor) -> Tensor:
        about = ((double(x) - self.centre) * self.scale).to(factor.dtype)
        factor[:, :-2], factor[:, -2] = -2 * about, 1
        factor[:, -1] = about.square().sum(1)
        return factor

    def lengths(self) -> Tensor:
        """|b|^2 of every point about the centre, `[n]` float64, in the precision of products."""
        return self.right(torch.float32 if self.single else torch.float64)[:, -1].double()

    def some(self, rows: slice | Tensor) -> Tensor:
        """These rows of the right factor in double precision; nothing is kept."""
        x = self.x[rows]
        return self._write(x, self.centre.new_empty(len(x), x.shape[1] + 2))

    @staticmethod
    def mirrored(right: Tensor) -> Tensor:
        """[a, |a|^2, 1] of a right factor: with another one it makes |a|^2 - 2 a·b + |b|^2."""
        x, length = right[:, :-2] / -2, right[:, -1:]
        return torch.cat([x, length, torch.ones_like(length)], 1)

    def left(self, rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        return self.mirrored(self.right(dtype)[rows])


def _error(a: _Points, b: _Points, dtype: torch.dtype) -> Tensor:
    """What a product of factors may be off, for each row of a: `[n]` float64.

    Eight times what independent rounding of the d products amounts to.
    """
    scale = 8 * torch.finfo(dtype).eps * math.sqrt(a.x.shape[1] + 2)
    return scale * (a.lengths() + b.lengths().max())


def _exact(a: _Points, b: _Points, i: Tensor, j: Tensor) -> Tensor:
    """Squared distances of the pairs (a_i, b_j) in double precision, `[pairs]`."""
    step = max(1, ENTRIES // 8 // a.x.shape[1])
    parts = [
        ((double(a.x[p]) - double(b.x[q])) * a.scale).square_().sum(1)
        for p, q in zip(i.split(step), j.split(step), strict=True)
    ]
    return torch.cat(parts)


class _Pairs:
    """Squared distances of some rows of a to all of b, as a product: right up to an error."""

    def __init__(self, a: _Points, b: _Points, rows: slice, work: Workspace) -> None:
        self.a, self.b, self.rows, self.work = a, b, rows, work
        self._measure(torch.float32 if a.single and b.single else torch.float64)

    def _measure(self, dtype: torch.dtype) -> None:
        left, right = self.a.left(self.rows, dtype), self.b.right(dtype)
        out = self.work.matrix("pairs", len(left), len(right), left)
        self.squared = times(left, right.T, out=out)
        self.error = _error(self.a, self.b, dtype)[self.rows]

    def closer_than(self, limits: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers in a and in b of the pairs whose squared distance is below its limit.

        Args:
            limits: squared radii, `[rows, 1]` or `[1, m]`.
        """
        dtype, columns = self.squared.dtype, self.squared.shape[1]
        # A limit is rounded to the precision of the products, too.
        reach = (limits + self.error[:, None]) * (1 + 4 * torch.finfo(dtype).eps)
        found = (self.squared < reach.to(dtype)).flatten().nonzero()[:, 0]
        i, j = found // columns, found % columns
        limit = limits[i, 0] if limits.shape[1] == 1 else limits[0, j]
        values = self.squared.flatten()[found].double()
        doubtful = (values >= limit - self.error[i]).nonzero()[:, 0]
        if dtype == torch.float32 and len(doubtful) > UNDECIDED * self.squared.numel():
            self._measure(torch.float64)
            return self.closer_than(limits)
        values[doubtful] = _exact(self.a, self.b, i[doubtful] + self.rows.start, j[doubtful])
        inside = values < limit * (1 - TIE)
        return i[inside] + self.rows.start, j[inside]


def _radii(points: _Points, k: int) -> Tensor:
    """Squared distance of every point to its k-th nearest other one, `[n]` float64."""
    n, device = len(points.x), points.x.device
    radii = torch.empty(n, dtype=torch.float64, device=device)
    count = min(k + SPARE, n - 1)
    todo = torch.arange(n, device=device)
    if points.single:
        values, indices = _nearest(points, count)
        todo = todo[_settle(points, k, todo, values.double(), indices, torch.float32, radii)]
    if len(todo):
        values, indices = _nearest_doubly(points, todo, count)
        todo = todo[_settle(points, k, todo, values, indices, torch.float64, radii)]
    if len(todo):  # a row so far away that beside it products of the others have no digit left
        radii[todo] = _radii_by_differences(points, k, todo, count)
    return radii


def _radii_by_differences(points: _Points, k: int, todo: Tensor, count: int) -> Tensor:
    """Radii of the rows `todo` without any product: slower, but with no error to bound."""
    # Not about the centre, where the digits of the others would be gone.
    x, found = double(points.x) * points.scale, []
    for rows in todo.split(max(1, ENTRIES // len(x))):
        distances = torch.cdist(x[rows], x, compute_mode="donot_use_mm_for_euclid_dist")
        distances.scatter_(1, rows[:, None], math.inf)
        near = distances.topk(count, largest=False).indices
        owners = rows[:, None].expand_as(near)
        exact = _exact(points, points, owners.flatten(), near.flatten()).view_as(near)
        found.append(exact.sort(1).values[:, k - 1])
    return torch.cat(found)


def _nearest_doubly(points: _Points, todo: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `_nearest`, for the points `todo` alone and in double precision, `[todo, count]`.

    There may be a few of them or all, so neither side is ever in memory as a whole.
    """
    n, side, device = len(points.x), math.isqrt(ENTRIES), todo.device
    values = torch.full((len(todo), count), math.inf, dtype=torch.float64, device=device)
    indices = torch.zeros(len(todo), count, dtype=torch.int64, device=device)
    for start in range(0, len(todo), 8 * side):
        some = todo[start : start + 8 * side]
        left = points.mirrored(points.some(some))
        for first in range(0, n, side):
            right = points.some(slice(first, first + side))
            for row in range(0, len(some), side):
                rows = slice(start + row, start + min(row + side, len(some)))
                squared = times(left[row : row + side], right.T)
                inside = (todo[rows] >= first) & (todo[rows] < first + side)
                where = inside.nonzero()[:, 0]
                squared[where, todo[rows][where] - first] = math.inf
                _keep_nearest(values, indices, rows, squared, first)
    return values, indices


def _keep_nearest(
    values: Tensor, indices: Tensor, rows: slice, squared: Tensor, first: int
) -> None:
    """Merge new squared distances, to the points numbered from `first`, into the nearest so far."""
    count = values.shape[1]
    near = squared.topk(min(count, squared.shape[1]), largest=False)
    joint = torch.cat([values[rows], near.values], 1)
    best = joint.topk(count, largest=False)
    values[rows] = best.values
    indices[rows] = torch.cat([indices[rows], near.indices + first], 1).gather(1, best.indices)


def _nearest(points: _Points, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances in single precision, and numbers, of the nearest others, `[n, count]`.

    Each pair is looked at once: a block of the symmetric matrix serves its rows and its columns.
    """
    right = points.right(torch.float32)
    n, work = len(right), Workspace()
    values = torch.full((n, count), math.inf, device=right.device)
    indices = torch.zeros(n, count, dtype=torch.int64, device=right.device)

    parts = _row_blocks(n, math.isqrt(ENTRIES))
    for number, rows in enumerate(parts):
        left = points.left(rows, torch.float32)
        for columns in parts[number:]:
            out = work.matrix("pairs", len(left), columns.stop - columns.start, left)
            squared = times(left, right[columns].T, out=out)
            if rows == columns:
                squared.fill_diagonal_(math.inf)
            else:
                _keep_nearest(values, indices, columns, squared.T, rows.start)
            _keep_nearest(values, indices, rows, squared, columns.start)
    return values, indices


def _settle(
    points: _Points,
    k: int,
    rows: Tensor,
    values: Tensor,
    indices: Tensor,
    dtype: torch.dtype,
    radii: Tensor,
) -> Tensor:
    """Write the radii of `rows` from their nearest others; True where these may not be the ones."""
    radii[rows] = _exact(points, points, rows, indices[:, k - 1])
    # Where the k-th is not clear of those before and behind it, all of them are measured.
    error = _error(points, points, dtype)[rows]
    gaps = torch.diff(values, dim=1, prepend=torch.full_like(values[:, :1], -math.inf))
    unclear = gaps[:, k - 1 : k + 1].min(1).values <= 2 * error
    open_, near = rows[unclear], indices[unclear]
    owners = open_[:, None].expand_as(near)
    exact = _exact(points, points, owners.flatten(), near.flatten()).view_as(near)
    radii[open_] = exact.sort(1).values[:, k - 1]
    # Those that were not fetched are at least this far away, and nothing is nearer than 0.
    beyond = (values[:, -1] - error).clamp(min=0)
    return unclear & (radii[rows] > beyond) & (indices.shape[1] < len(points.x) - 1)
