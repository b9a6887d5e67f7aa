"""Checks of the exercises on lecture 17, measuring generators."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from course_lib import metrics, probability
from course_lib.exercises.attempts import Attempt, difference, near
from course_lib.exercises.registry import exercise
from course_lib.metrics.kernel import weighted_estimates

LECTURE = "17_measuring_generators"


# ---------------------------------------------------------------------------- 17.1


@exercise(
    "17.1",
    see="section 17.6, equations (17.25) to (17.27)",
    learnt="The score is the exponential of a mutual information, so it lies between 1 and the "
    "number of classes and never looks at real data: section 17.6 goes on to ten images that "
    "outscore all real ones.",
    hints={
        "no exponential": "This is the logarithm of the score, a mutual information in nats. The "
        "score itself is its exponential, so that c sure classes score c.",
        "mean of exponentials": "You take the exponential of each image and average afterwards. "
        "The definition averages the KL first; by Jensen's inequality yours is never smaller.",
        "other direction": "You compare p(y) with p(y|x), the KL the other way round. The average "
        "is over the classes of each image: p(y|x) comes first.",
        "classes of the whole set only": "You have exp H(y). That is how varied the set is; what "
        "is missing is how sure the classifier is of each image.",
        "averaged over classes": "You average over the classes as well. A KL is a sum over classes "
        "and the mean is over images only.",
        "softmax again": "Your value is that of probs.softmax(1). The rows are probabilities "
        "already: a second softmax makes them nearly uniform.",
        "mean over the wrong axis": "You average each row over the classes, which gives 1/k "
        "always. p(y) is the mean over the images.",
        "entropies exchanged": "Your score is one divided by the score: which of the two entropies "
        "is subtracted from which?",
        "not finite": "A sure classifier returns exact zeros, and 0 log 0 is 0 here. In floating "
        "point 0 · log 0 is 0 · (-infinity), that is NaN. For a class that no image shows p(y) is "
        "0 too, and p(y|x) / p(y) is 0/0: take the two logarithms apart.",
    },
)
def inception_score(attempt: Attempt) -> None:
    """exp of the mean over images of KL(p(y|x) || p(y))."""

    def each(p: Tensor) -> Tensor:
        return (p * (p / p.mean(0)).log()).sum(1)

    mistakes = {
        "no exponential": lambda p: each(p).mean(),
        "mean of exponentials": lambda p: each(p).exp().mean(),
        "other direction": lambda p: (p.mean(0) * (p.mean(0) / p).log()).sum(1).mean().exp(),
        "classes of the whole set only": lambda p: torch.special.entr(p.mean(0)).sum().exp(),
        "averaged over classes": lambda p: (each(p).mean() / p.shape[1]).exp(),
        "softmax again": lambda p: each(p.softmax(1)).mean().exp(),
        "mean over the wrong axis": lambda p: (
            (p * (p / p.mean(1, keepdim=True)).log()).sum(1).mean().exp()
        ),
        "entropies exchanged": lambda p: (-each(p).mean()).exp(),
    }

    def right(p: Tensor) -> float:
        return metrics.inception_score(p, splits=1).mean

    # As plain numbers, so that they are recognised in answers that return a float.
    mistakes = {name: lambda p, f=f: float(f(p)) for name, f in mistakes.items()}
    probs = (2 * attempt.normal(6, 4)).softmax(1)
    attempt.value("six images, four classes", (probs,), right, mistakes=mistakes, tolerance=1e-5)
    sure = torch.eye(5)[[0, 0, 1, 1, 3, 3]]
    attempt.value("six images without doubt", (sure,), right, mistakes=mistakes, tolerance=1e-5)
    attempt.value("one image", (probs[:1].float(),), 1.0, tolerance=1e-5)


# ---------------------------------------------------------------------------- 17.2


def _symmetric_root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _with_overlap(overlap: float | Tensor, a: tuple, b: tuple, factor: float = 2) -> float:
    """|m1 - m2|² + tr A + tr B - factor · overlap."""
    between = (a[0] - b[0]).square().sum()
    return float(between + a[1].trace() + b[1].trace() - factor * overlap)


@exercise(
    "17.2",
    see="section 17.3, equations (17.8) and (17.9), and 'Where the printed formula breaks'",
    learnt="With Inception features this number is the FID. metrics.frechet_distance has it for "
    "samples, and lecture 18 follows it along a run.",
    hints={
        "no root": "You subtract 2 tr(AB). The eigenvalues of AB are the squares of what the best "
        "coupling reaches: their square roots are summed.",
        "root of the entries": "torch.sqrt takes the root of every entry of a matrix. The root of "
        "a matrix is another thing: its eigenvalues are the roots.",
        "root of the trace": "You take one root of the whole trace. The roots of the single "
        "eigenvalues are summed.",
        "roots multiplied": "tr(A^½ B^½) is right only where A and B share their eigenvectors. In "
        "general the root is taken after the product.",
        "means not squared": "The distance of the means comes squared, as everything else here.",
        "means forgotten": "The means do not count in your value.",
        "factor two forgotten": "Each of the two traces is counted once, and the overlap twice.",
        "root at the end": "You return the root of the squared distance. The field reports the "
        "square, and so do the lecture and the FID.",
        "diagonals only": "You compare the variances of the single features. What is beside the "
        "diagonal says how features vary together, and counts as well.",
        "routine for symmetric matrices": "AB is not symmetric, although A and B are. eigvalsh and "
        "eigh read one half of a matrix and silently suppose that the other is its mirror image.",
        "singular values of the product": "You sum the roots of the singular values of AB. In "
        "(17.9) stand the singular values of a product of *roots*, or the eigenvalues of AB; AB is "
        "not symmetric, so that its singular values are others.",
        "root of a negative number": "The result holds NaN although nothing here is singular: a "
        "root was taken of a negative number. AB is not symmetric, so a routine for symmetric "
        "matrices reads one half of it and may invent negative eigenvalues; and the root of a "
        "matrix is not that of its entries, which may be negative too.",
        "complex": "Your result is a complex number. Rounding turned eigenvalues that should be 0 "
        "slightly negative (or the routine returns complex numbers always); a squared distance is "
        "real.",
        "something added to the diagonal": "You add a small number to the diagonals, perhaps. "
        "Where a variance is 0 the root of that number counts: 1e-6 becomes 1e-3, a thousand times "
        "as much, and in many directions.",
        "not finite": "With fewer images than features covariances have eigenvalues 0, and "
        "rounding makes some of them slightly negative. What is their square root, and what should "
        "it be?",
    },
)
def gaussian_frechet(attempt: Attempt) -> None:
    """Squared 2-Wasserstein distance of two Gaussians."""

    def parts(function):  # of the overlap
        return lambda m, a, n, b: _with_overlap(function(a, b), (m, a), (n, b))

    def overlap(a: Tensor, b: Tensor) -> Tensor:
        root = _symmetric_root(a)
        return _symmetric_root(root @ b @ root).trace()

    def right(m: Tensor, a: Tensor, n: Tensor, b: Tensor) -> float:
        return metrics.frechet_distance_from_moments(m, a, n, b)

    def between(m: Tensor, n: Tensor) -> float:
        return float((m - n).square().sum())

    mistakes = {
        "no root": parts(lambda a, b: (a @ b).trace()),
        "root of the entries": parts(lambda a, b: (a @ b).diagonal().sqrt().sum()),
        "root of the trace": parts(lambda a, b: (a @ b).trace().sqrt()),
        "roots multiplied": parts(lambda a, b: (_symmetric_root(a) @ _symmetric_root(b)).trace()),
        "means not squared": lambda m, a, n, b: (
            right(m, a, n, b) - between(m, n) + between(m, n) ** 0.5
        ),
        "means forgotten": lambda m, a, n, b: right(m, a, n, b) - between(m, n),
        "factor two forgotten": lambda m, a, n, b: _with_overlap(
            overlap(a, b), (m, a), (n, b), factor=1
        ),
        "root at the end": lambda *args: right(*args) ** 0.5,
        "diagonals only": parts(lambda a, b: (a.diagonal() * b.diagonal()).sqrt().sum()),
        "routine for symmetric matrices": parts(
            lambda a, b: torch.linalg.eigvalsh(a @ b).clamp(min=0).sqrt().sum()
        ),
        "singular values of the product": parts(
            lambda a, b: torch.linalg.svdvals(a @ b).sqrt().sum()
        ),
    }
    added = [
        parts(lambda a, b, e=e: overlap(*(c + e * torch.eye(len(c)).to(c) for c in (a, b))))
        for e in (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
    ]

    def value(where: str, args: tuple, tolerance: float) -> None:
        found = attempt.call(where, *args)
        of_torch = isinstance(found, Tensor) and found.is_complex()
        attempt.require(not (of_torch or np.iscomplexobj(found)), "complex")
        if where == "three features":  # nothing is singular there
            undefined = isinstance(found, Tensor | float) and torch.as_tensor(found).isnan().any()
            attempt.require(not undefined, "root of a negative number")
        known = {**mistakes, "something added to the diagonal": added}
        attempt.value(where, args, right, tolerance=tolerance, mistakes=known)

    f, g = attempt.uniform(4, 3), attempt.uniform(4, 3)
    means = attempt.normal(3), attempt.normal(3)
    value("three features", (means[0], f.T @ f, means[1], g.T @ g), 1e-6)
    f, g = attempt.normal(3, 12) / 2, attempt.normal(7, 12) / 2
    zero = torch.zeros(12, dtype=torch.float64)
    args = (zero, f.T @ f, zero + 0.1, g.T @ g)
    value("twelve features, of four images and of eight", args, 2e-6)
    value("two equal Gaussians", (means[0], (f @ f.T), means[0], (f @ f.T)), 1e-5)
    one = torch.ones(1, dtype=torch.float64)
    value("one feature", (0 * one, one[None], one, 4 * one[None]), 1e-6)


# ---------------------------------------------------------------------------- 17.3


def _measured(network: nn.Module, images: Tensor, batch: int | None, train: bool) -> Tensor:
    """Features by a copy of the network, in either mode, in batches or all at once."""
    mine = copy.deepcopy(network).train(train)
    with torch.no_grad():
        return torch.cat([mine(part) for part in images.split(batch or len(images))])


@exercise(
    "17.3",
    see="the documentation of torch.nn.BatchNorm1d (its two modes) and lecture 6, section 7 (what "
    "batch norm does to a whole batch); here section 17.2, definition (17.1), for what a judge is",
    learnt="A judge must be the same for everybody: eval mode, one range, every image once. "
    "metrics.FeatureNetwork sees to that for the scores of lectures 17 and 18.",
    hints={
        "train mode": "These are features of a network in train mode: batch normalisation uses the "
        "mean and variance of the batch in hand, so that an image is judged by its company, and "
        "a fault that all images share is normalised away.",
        "statistics moved": "The network's running statistics have changed: the judge is another "
        "one after each judgement, and the next model meets another.",
        "mode not given back": "The network's mode after the call is not the one before it. "
        "Whoever goes on training it would do so with frozen statistics, or the next judgement "
        "would be in train mode.",
        "range not mapped": "You hand the images to the network as they come, in [-1, 1]. It was "
        "trained on [0, 1]: everything it sees is too dark.",
        "range mapped wrongly": "You map [-1, 1] to something else than [0, 1]. Where should -1 "
        "go, and where 1?",
        "stretched": "You stretch each batch by its own smallest and largest value, so that an "
        "image is again judged by its company. The range [-1, 1] is given: map it, whatever is in "
        "the batch.",
        "left frozen": "The network's parameters no longer require a gradient after your call: "
        "nobody could go on training it.",
        "last batch dropped": "Rows are missing: the last, smaller batch was left out. The score "
        "would be one of fewer images than it says.",
        "all at once": "You hand the network more images at a time than batch_size. Fifty thousand "
        "images would not fit into memory. (split asks for the size of the parts, chunk for their "
        "number.)",
        "graph kept": "Your features carry a graph for a backward pass that nobody will ask for; "
        "over many batches it fills the memory.",
    },
)
def judge_features(attempt: Attempt) -> None:
    """Features in eval mode, in batches, of images in [-1, 1] for a network that wants [0, 1]."""

    def judge() -> nn.Module:
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
        )
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(attempt.normal(*p.shape, dtype=torch.float32))
            net[2].running_mean.copy_(attempt.normal(5))
            net[2].running_var.copy_(0.5 + attempt.uniform(5))
        return net

    def look(where: str, net: nn.Module, images: Tensor, batch_size: int) -> None:
        sizes: list[int] = []
        handle = net.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
        mode = net.training
        before = {k: v.clone() for k, v in net.state_dict().items()}
        fresh = copy.deepcopy(net)
        fresh._forward_pre_hooks.clear()
        found = attempt.call(where, net, images, batch_size)
        handle.remove()
        inside = (images + 1) / 2
        if isinstance(found, Tensor) and found.ndim == 2:
            attempt.require(
                len(found) != len(images) // batch_size * batch_size or len(found) == len(images),
                "last batch dropped",
                f"{len(found)} rows for {len(images)} images.",
            )
            for shown in (inside, images, 2 * images - 1) if len(images) > 1 else ():
                for cut in (batch_size, None):
                    spoilt = _measured(fresh, shown, cut, train=True)
                    same = near(found, spoilt)
                    attempt.require(not same, "train mode")
        moved = any(not torch.equal(v, before[k]) for k, v in net.state_dict().items())
        attempt.require(not moved, "statistics moved")
        if len(images) > 1:
            others = (2 * images - 1, images + 1, images / 2, images.clamp(0, 1), images.abs())
            for shown in others:
                seen = _measured(fresh, shown, None, train=False)
                same = near(found, seen)
                attempt.require(not same, "range mapped wrongly")
        parts = images.split(batch_size)
        mistakes = {
            "range not mapped": lambda: _measured(fresh, images, None, train=False),
            "stretched": lambda: torch.cat(
                [
                    _measured(fresh, (x - x.amin()) / (x.amax() - x.amin()), None, train=False)
                    for x in parts
                ]
            ),
        }
        attempt.same(found, _measured(fresh, inside, None, train=False), 1e-5, mistakes)
        attempt.require(all(m.training == mode for m in net.modules()), "mode not given back")
        attempt.require(all(p.requires_grad for p in net.parameters()), "left frozen")
        attempt.require(not found.requires_grad, "graph kept")
        attempt.require(
            max(sizes, default=0) <= batch_size,
            "all at once",
            f"A batch of {max(sizes, default=0)} images where batch_size was {batch_size}.",
        )

    images = attempt.uniform(10, 1, 4, 4, dtype=torch.float32) * 2 - 1
    look("a network in train mode, ten images by four", judge().train(), images, 4)
    look("a network in eval mode, nine images by three", judge().eval(), images[:9], 3)
    # Here alone a part is too large where batch_size is taken for the number of parts.
    look("eight images by two", judge().eval(), images[:8], 2)
    look("one image", judge().eval(), images[:1], 4)


# ---------------------------------------------------------------------------- 17.4


@exercise(
    "17.4",
    see="section 17.4, equations (17.17) and (17.19), definition (17.18)",
    learnt="The bias goes like 1/n, so a straight line over 1/n knows where it ends. "
    "metrics.frechet_distance_infinity does it with samples, and reports its error of fit.",
    hints={
        "line over n": "Your line is drawn over n. Over n the bias is a hyperbola, and n = 0 means "
        "no images at all. What is 0 for infinitely many?",
        "over the root of n": "Your line is drawn over 1/√n. That is how noise falls; the bias "
        "falls faster.",
        "slope": "You return the slope, that is how strong the bias is. Wanted is the height of "
        "the line where n is infinite.",
        "largest sample only": "This is the distance at the largest n as it was measured, with all "
        "of its bias.",
        "average": "This is the average of the distances: that of some middle n.",
        "two ends only": "Your line goes through two of the points. Wanted is the least-squares "
        "line through all of them: each carries noise.",
        "clamped": "You cut the value off at 0. An estimate without bias of a distance near 0 must "
        "sometimes be negative, or it could not be right on average.",
    },
)
def distance_at_infinity(attempt: Attempt) -> None:
    """Intercept of the least-squares line of the distances over 1/n."""

    def line(sizes: Tensor, distances: Tensor, power: float = -1.0) -> Tensor:
        """Slope and intercept."""
        x = sizes.double() ** power
        design = torch.stack([x, torch.ones_like(x)], 1)
        return torch.linalg.lstsq(design, distances.double()[:, None]).solution[:, 0]

    def ends(sizes: Tensor, distances: Tensor) -> float:
        first, last = int(sizes.argmin()), int(sizes.argmax())
        return float(line(sizes[[first, last]], distances[[first, last]])[1])

    def right(sizes: Tensor, distances: Tensor) -> float:
        return float(line(sizes, distances)[1])

    mistakes = {
        "line over n": lambda n, d: float(line(n, d, 1.0)[1]),
        "over the root of n": lambda n, d: float(line(n, d, -0.5)[1]),
        "slope": lambda n, d: float(line(n, d)[0]),
        "largest sample only": lambda n, d: float(d[n.argmax()]),
        "average": lambda n, d: float(d.mean()),
        "two ends only": ends,
        "clamped": lambda n, d: max(0.0, right(n, d)),
    }
    sizes = torch.tensor([200.0, 300.0, 500.0, 1000.0], dtype=torch.float64)
    noise = 0.05 * attempt.normal(4)
    for where, truth in (("a truth of about 2", 2.0), ("a truth of about -1", -1.0)):
        distances = truth + 900 / sizes + noise
        attempt.value(where, (sizes, distances), right, mistakes=mistakes, tolerance=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    args = sizes[order], (2 + 900 / sizes + noise)[order]
    attempt.value("the same in another order", args, right, mistakes=mistakes, tolerance=1e-5)


# ---------------------------------------------------------------------------- 17.5


def _kernel_sums(x: Tensor, y: Tensor, scale: float = 0.0, shift: float = 1.0) -> tuple:
    """Kernels (x·y/d + 1)³ within x, across, and within y."""
    width = scale or x.shape[1]
    return tuple((a @ b.T / width + shift) ** 3 for a, b in ((x, x), (x, y), (y, y)))


def _unbiased(x: Tensor, y: Tensor, **other: float) -> Tensor:
    """(17.23), with a gradient, which the library's blocks do not have."""
    k_x, k_xy, k_y = _kernel_sums(x, y, **other)
    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (k_x, k_y)]
    return within[0] + within[1] - 2 * k_xy.mean()


def _kernel_library(x: Tensor, y: Tensor) -> Tensor:
    ones = [torch.ones(len(z), 1, dtype=torch.float64) for z in (x, y)]
    return weighted_estimates(x, y, *ones)[0].to(x.dtype)


@exercise(
    "17.5",
    see="section 17.5, equations (17.23a) and (17.23)",
    learnt="Leaving the diagonal out is what makes values of different n comparable. "
    "metrics.kernel_distance averages this estimate over subsets, as the KID does.",
    hints={
        "diagonal kept": "You average over all pairs, those of a point with itself included. They "
        "are no independent copies, and push the estimate up by an amount that goes like 1/n.",
        "divided by n squared": "The diagonal is left out of your sums, but you still divide by "
        "n². How many pairs are left?",
        "pairs left out across": "You leave out pairs (i, i) between x and y as well. x_i and y_i "
        "have nothing to do with each other: these pairs are as good as the others.",
        "factor two forgotten": "The pairs across count once in your value, like each of the two "
        "sets. Squaring a difference gives the mixed term twice.",
        "not divided by d": "The kernel divides the scalar product by the number of features d.",
        "no one added": "The kernel adds 1 before the third power: without it only third moments "
        "are compared.",
        "minus sign": "This is the negative of the estimate.",
        "sign removed": "You take the absolute value. An unbiased estimate must be allowed below "
        "0, where the two laws agree.",
        "each pair once": "You add up the pairs with i < j, and divide by n(n - 1) as if each pair "
        "had come twice.",
        "one inside the division": "You compute ((x·y + 1)/d)³. In the kernel the 1 is not divided "
        "by d.",
        "clamped": "You cut the estimate off at 0. It is unbiased *because* it may be negative "
        "where the two laws agree.",
        "root taken": "You take a square root. The estimate is of the squared distance, and an "
        "unbiased one is sometimes negative.",
        "no gradient": "Some people train generators with this estimate as their loss.",
    },
)
def unbiased_kernel_distance(attempt: Attempt) -> None:
    """Squared MMD with the cubic kernel, diagonal left out."""

    def biased(x: Tensor, y: Tensor) -> Tensor:
        k_x, k_xy, k_y = _kernel_sums(x, y)
        return k_x.mean() - 2 * k_xy.mean() + k_y.mean()

    def over_n_squared(x: Tensor, y: Tensor) -> Tensor:
        k_x, k_xy, k_y = _kernel_sums(x, y)
        within = [(k.sum() - k.diagonal().sum()) / len(k) ** 2 for k in (k_x, k_y)]
        return within[0] + within[1] - 2 * k_xy.mean()

    def across(x: Tensor, y: Tensor) -> Tensor:
        k_x, k_xy, k_y = _kernel_sums(x, y)
        off = [
            (k.sum() - k.diagonal().sum()) / (k.shape[0] * (k.shape[1] - 1))
            for k in (k_x, k_xy, k_y)
        ]
        return off[0] - 2 * off[1] + off[2]

    def upper_only(x: Tensor, y: Tensor) -> Tensor:
        k_x, k_xy, k_y = _kernel_sums(x, y)
        within = [k.triu(1).sum() / (len(k) * (len(k) - 1)) for k in (k_x, k_y)]
        return within[0] + within[1] - 2 * k_xy.mean()

    mistakes = {
        "diagonal kept": biased,
        "divided by n squared": over_n_squared,
        "pairs left out across": across,
        "factor two forgotten": lambda x, y: _unbiased(x, y) + _kernel_sums(x, y)[1].mean(),
        "not divided by d": lambda x, y: _unbiased(x, y, scale=1.0),
        "no one added": lambda x, y: _unbiased(x, y, shift=0.0),
        "each pair once": upper_only,
        "one inside the division": lambda x, y: _unbiased(x, y, shift=1 / x.shape[1]),
        "minus sign": lambda x, y: -_unbiased(x, y),
        "root taken": lambda x, y: _unbiased(x, y).sqrt(),
    }
    x, y = attempt.normal(5, 3), attempt.normal(5, 3) + 2
    attempt.value("five against five", (x, y), _kernel_library, mistakes=mistakes)
    more = attempt.normal(7, 3) + 1
    attempt.value("five against seven", (x, more), _kernel_library, mistakes=mistakes)
    hand = (
        torch.tensor([[0.0], [2.0]], dtype=torch.float64),
        torch.tensor([[1.0], [1.0]], dtype=torch.float64),
    )
    # Only here is the estimate negative; elsewhere a clamped one is right.
    clamped = {
        "clamped": torch.zeros((), dtype=torch.float64),
        "sign removed": lambda x, y: _unbiased(x, y).abs(),
        **mistakes,
    }
    attempt.value("the example of the lecture", hand, _kernel_library, mistakes=clamped)
    attempt.gradient("five against seven", (x, more), _unbiased, of=(0, 1), mistakes=mistakes)
    small = (0.3 * x).float(), (0.3 * y).float()
    attempt.value("float32", small, _kernel_library, mistakes=mistakes, tolerance=1e-5)
    attempt.any_device("another device", *small)


# ---------------------------------------------------------------------------- 17.6


def _counts(
    real: Tensor, fake: Tensor, k: int, of: str = "self", power: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Who lies in whose ball, [n, m] twice: of the real points, and of the fakes."""
    between = torch.cdist(real, fake)
    within = torch.cdist(real, real), torch.cdist(fake, fake)
    radii = [w.kthvalue(k + 1, dim=1).values for w in within]
    if of == "mean":
        radii = [r.mean().expand(len(r)) for r in radii]
    elif of == "other":
        radii = [b.kthvalue(min(k, b.shape[1]), dim=1).values for b in (between, between.T)]
    between = between**power
    return between < radii[0][:, None], between < radii[1][None, :]


def _shares(in_real: Tensor, in_fake: Tensor) -> tuple[float, float]:
    return float(in_real.any(0).double().mean()), float(in_fake.any(1).double().mean())


@exercise(
    "17.6",
    see="section 17.7, definitions (17.29) and (17.30)",
    learnt="Two numbers tell opposite faults apart that one number cannot, by (17.28). Lecture 18 "
    "plots both against the threshold of truncation; metrics.prdc adds density and coverage.",
    hints={
        "its own neighbour": "Your radii reach to neighbour k - 1: in the table of distances "
        "within a set every point is its own first neighbour, at distance 0.",
        "one neighbour too far": "Your radii reach to neighbour k + 1: where a point's distance to "
        "itself is left out, the k-th smallest is neighbour k.",
        "swapped": "Precision and recall stand in each other's place. Precision asks about the "
        "fakes and lies first.",
        "coverage for recall": "Your second number asks which real balls have a fake inside. That "
        "is the coverage. For recall the balls stand around the fakes.",
        "one radius for all": "You give all points of a set the same radius, the mean. Each ball "
        "has its own: in a thin region it is wide.",
        "nearest ball only": "You look at the ball of the nearest point only. A point may lie "
        "outside of it, and in the wider ball of another.",
        "squared against plain": "You compare squared distances with radii that are not squared.",
        "all balls": "You ask that a point lie in every ball. One is enough.",
        "radius to the other set": "Your radii are measured to the other set. The k-th neighbour "
        "is one among the points of the same set.",
        "average number of balls": "You average over all pairs. A point counts once, however many "
        "balls it lies in.",
        "balls counted": "You gather along the wrong axis: your shares are of the balls that hold "
        "some point, and wanted are those of the points that lie in some ball.",
        "own ball": "You compare each distance with the radius of the point that is asked about. "
        "Its own ball does not matter: the balls stand around the points of the other set.",
        "surface counted": "A point at exactly the radius counts as inside in your answer. "
        "Strictly smaller is wanted.",
    },
)
def precision_and_recall(attempt: Attempt) -> None:
    """Share of fakes in some real ball, and of real points in some fake ball."""

    def nearest(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
        between, (in_real, in_fake) = torch.cdist(real, fake), _counts(real, fake, k)
        i, j = between.argmin(0), between.argmin(1)
        first = in_real[i, torch.arange(len(fake))].double().mean()
        return float(first), float(in_fake[torch.arange(len(real)), j].double().mean())

    def covered(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
        in_real, _ = _counts(real, fake, k)
        return float(in_real.any(0).double().mean()), float(in_real.any(1).double().mean())

    def every(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
        in_real, in_fake = _counts(real, fake, k)
        return float(in_real.all(0).double().mean()), float(in_fake.all(1).double().mean())

    def pairs(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
        return tuple(float(c.double().mean()) for c in _counts(real, fake, k))

    def balls(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
        in_real, in_fake = _counts(real, fake, k)
        return float(in_real.any(1).double().mean()), float(in_fake.any(0).double().mean())

    mistakes = {
        "its own neighbour": lambda r, f, k: _shares(*_counts(r, f, k - 1)),
        "one neighbour too far": lambda r, f, k: _shares(*_counts(r, f, k + 1)),
        "swapped": lambda r, f, k: _shares(*_counts(r, f, k))[::-1],
        "coverage for recall": covered,
        "one radius for all": lambda r, f, k: _shares(*_counts(r, f, k, of="mean")),
        "nearest ball only": nearest,
        "squared against plain": lambda r, f, k: _shares(*_counts(r, f, k, power=2.0)),
        "all balls": every,
        "radius to the other set": lambda r, f, k: _shares(*_counts(r, f, k, of="other")),
        "average number of balls": pairs,
        "balls counted": balls,
        "own ball": lambda r, f, k: balls(r, f, k)[::-1],
    }

    def right(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
        found = metrics.prdc(real, fake, k=k)
        return found["precision"], found["recall"]

    real = 2 * attempt.normal(120, 3)
    fake = 1.2 * attempt.normal(90, 3) + torch.tensor([1.5, 0, 0], dtype=torch.float64)
    attempt.value("120 real points, 90 fakes, k = 3", (real, fake, 3), right, mistakes=mistakes)
    # Fewer points: right answers in plain loops have their time limit too.
    attempt.value("40 of the real, 30 of the fakes, k = 1", (real[:40], fake[:30], 1), right)
    far = real[:9].float() + 100
    attempt.value("fakes far away", (real[:20].float(), far, 2), (0.0, 0.0))
    # Whole numbers, whose distances are exact: the fake -1 touches a real ball, the real 3 a fake.
    real_line = torch.tensor([[0.0], [1.0], [3.0], [7.0]], dtype=torch.float64)
    fake_line = torch.tensor([[-1.0], [1.0], [14.0], [20.0]], dtype=torch.float64)
    attempt.value(
        "points on a line, some at exactly the radius",
        (real_line, fake_line, 1),
        right,
        mistakes={"surface counted": (0.5, 0.75)},
    )
    attempt.value("copies", (real[:20].float(), real[:20].float(), 2), (1.0, 1.0))


# ---------------------------------------------------------------------------- 17.7


@exercise(
    "17.7",
    see="section 17.9, equation (17.35)",
    learnt="The mixture is what is scored, not the generator: section 17.9 goes on to show that "
    "centroids of k-means beat real images. Take the number for what it is worth.",
    hints={
        "mean of logarithms": "You average the logarithms of the N densities. A mixture averages "
        "the densities, and its logarithm is taken afterwards.",
        "number of samples forgotten": "Your densities are summed over the samples and not "
        "averaged: the mixture would integrate to N.",
        "dimension forgotten": "The constant of one Gaussian in one dimension; there are d of them "
        "in each window.",
        "sigma not squared": "You divide the squared distance by 2σ. What is the unit of the "
        "exponent?",
        "sigma as a variance": "You take σ for the variance. It is the standard deviation: the "
        "variance is σ².",
        "a small number added": "A small number added inside the logarithm (or a clamp) puts a "
        "floor under your density. Far from all samples the floor is what you return.",
        "half forgotten": "The exponent lacks the factor ½.",
        "no constant": "The constant of the Gaussian is missing, so that windows of different "
        "width cannot be compared.",
        "averaged over the test points": "One number per test point is wanted, shape [n]; whoever "
        "reports the mean needs the spread for its standard error.",
        "not finite": "For a point far from all samples every exp(...) rounds to 0, and log 0 is "
        "minus infinity. The logarithm itself is an ordinary number.",
        "no gradient": "The log-density is a smooth function of x.",
    },
)
def parzen_log_density(attempt: Attempt) -> None:
    """log of the mean of the Gaussians on the samples, at each test point."""

    def parts(s: Tensor, x: Tensor, sigma: float) -> tuple[Tensor, float, int]:
        exponent = -(x[:, None] - s).square().sum(2) / (2 * sigma**2)
        return exponent, math.log(2 * math.pi * sigma**2) / 2, s.shape[1]

    def right(s: Tensor, x: Tensor, sigma: float) -> Tensor:
        return probability.GaussianMixture(s, sigma).log_prob(x)

    def spoilt(exponent_times: float = 1.0, constants: int | None = None) -> Callable:
        def log_density(s: Tensor, x: Tensor, sigma: float) -> Tensor:
            exponent, constant, d = parts(s, x, sigma)
            of_all = constant * (d if constants is None else constants)
            return torch.logsumexp(exponent * exponent_times, 1) - math.log(len(s)) - of_all

        return log_density

    def mean_of_logs(s: Tensor, x: Tensor, sigma: float) -> Tensor:
        exponent, constant, d = parts(s, x, sigma)
        return exponent.mean(1) - d * constant

    mistakes = {
        "mean of logarithms": mean_of_logs,
        "number of samples forgotten": lambda s, x, sigma: right(s, x, sigma) + math.log(len(s)),
        "dimension forgotten": spoilt(constants=1),
        "sigma not squared": lambda s, x, sigma: spoilt(sigma)(s, x, sigma),
        "sigma as a variance": lambda s, x, sigma: right(s, x, sigma**0.5),
        "half forgotten": spoilt(2.0),
        "no constant": spoilt(constants=0),
        "averaged over the test points": lambda s, x, sigma: right(s, x, sigma).mean(),
    }
    s, x = attempt.normal(6, 4), attempt.normal(3, 4)
    attempt.value("six samples, three points", (s, x, 0.7), right, mistakes=mistakes)
    attempt.gradient("six samples, three points", (s, x, 0.7), right, of=(0, 1), mistakes=mistakes)
    wide = attempt.uniform(5, 784, dtype=torch.float32), attempt.uniform(2, 784).float()
    where = "784 pixels, sigma = 0.2"
    found, truth = attempt.finite(where, *wide, 0.2), right(*wide, 0.2)
    if isinstance(found, Tensor) and found.shape == truth.shape:
        attempt.require(not (found > truth + 100).all(), "a small number added")
    attempt.value(where, (*wide, 0.2), right, mistakes=mistakes, tolerance=1e-5)
    attempt.value("one sample", (s[:1], x, 0.7), right, mistakes=mistakes)


# ---------------------------------------------------------------------------- 17.8


@exercise(
    "17.8",
    see="section 17.3, 'Where the printed formula breaks', equation (17.13)",
    learnt="Sums about a moving mean lose nothing, however far away the features lie. "
    "metrics.FeatureMoments works like this, and lets several processes merge their parts.",
    hints={
        "mean of batch means": "You average the means of the batches. A small last batch then "
        "weighs as much as a full one: each image should.",
        "mean of batch covariances": "You average the covariances of the batches: what lies "
        "between the means of the batches is lost.",
        "between the batches forgotten": "You add up the squares about the mean of each batch. The "
        "batches do not have one mean, and the spread between their means belongs to the "
        "covariance.",
        "one side of the merge": "You move the scatter of each new batch to the common mean, and "
        "leave that of what had been seen where it was: its mean has moved too.",
        "count raised too early": "In the term between the means your count holds the new batch "
        "already: m, n and m + n are those of before.",
        "not moved back": "You measured from a point near the data, which is right, and return the "
        "mean as seen from there.",
        "denominator n": "You divide by n. The deviations are from a mean that was fitted to the "
        "same images, and n - 1 directions are left, as in the FID.",
        "not centred": "These are second moments, about 0. A covariance is about the mean.",
        "wrong shape": "The mean is [d] and the covariance [d, d]. If it is the latter: "
        "torch.cov and numpy.cov expect one row per feature, while batches come with one row per "
        "image.",
        "raw sums": "With an offset of ten million the result has lost its digits: E[x xᵀ] and "
        "mean · meanᵀ are both near 1e14 and are subtracted. Never let them grow: measure "
        "from some point near the data.",
        "float32 sums": "You add up in float32, which keeps seven digits. Features come in "
        "float32; their sums belong in float64.",
        "not finite": "A batch of one image has a mean, but no covariance of its own: there you "
        "divide 0 by 0.",
        "float32 returned": "Your result is float32, like the features. Whatever they come in, the "
        "sums belong in float64, and so does what is made of them.",
    },
)
def moments_in_batches(attempt: Attempt) -> None:
    """Mean and covariance (denominator n - 1) of the rows of a list of batches, in float64."""

    def library(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
        moments = metrics.FeatureMoments()
        for batch in batches:
            moments.update(batch)
        return moments.compute()

    def covariances(batches: list[Tensor]) -> Tensor:
        return torch.stack([b.double().T.cov() for b in batches if len(b) > 1])

    def scatter(batches: list[Tensor]) -> Tensor:
        centred = torch.cat([b.double() - b.double().mean(0) for b in batches])
        return centred.T @ centred / (len(centred) - 1)

    def merged(batches: list[Tensor], share: Callable[[int, int], float]) -> Tensor:
        """The covariance, with `share(n, m)` times the squared gap between the means added."""
        count, mean, total = 0, torch.zeros(3).double(), torch.zeros(3, 3).double()
        for batch in batches:
            x = batch.double()
            n, gap = len(x), x.mean(0) - mean
            centred = x - x.mean(0)
            between = share(count, n) if count else 0.0
            total = total + centred.T @ centred + between * torch.outer(gap, gap)
            mean, count = mean + gap * n / (count + n), count + n
        return total / (count - 1)

    def compare(
        where: str, batches: list[Tensor], tolerance: float, named: bool = True
    ) -> tuple[Tensor, Tensor]:
        found, right = attempt.call(where, batches), library(batches)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            attempt.same(found, right, tolerance)
        rows = torch.cat(batches).double()
        n = len(rows)
        of_mean = {
            "mean of batch means": lambda: torch.stack([b.double().mean(0) for b in batches]).mean(
                0
            ),
            "not moved back": lambda: right[0] - rows[0],
        }
        of_cov = {
            "mean of batch covariances": lambda: covariances(batches).mean(0),
            "between the batches forgotten": lambda: scatter(batches),
            "one side of the merge": lambda: merged(batches, lambda a, b: b * (a / (a + b)) ** 2),
            "count raised too early": lambda: merged(
                batches, lambda a, b: (a + b) * b / (a + 2 * b)
            ),
            "denominator n": lambda: right[1] * (n - 1) / n,
            "not centred": lambda: rows.T @ rows / (n - 1),
        }
        other = {"not centred": lambda: rows.T @ rows / n}
        attempt.same(found[0], right[0], tolerance, of_mean if named else None)
        if named and isinstance(found[1], Tensor):
            known = near(found[1], other["not centred"]())
            attempt.require(not known, "not centred")
        attempt.same(found[1], right[1], tolerance, of_cov if named else None)
        return found

    x = attempt.normal(13, 3) * torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64) + 1.5
    batches = [x[:6], x[6:11] + 1, x[11:] - 1]
    compare("batches of 6, 5 and 2 images, three features", batches, 1e-9)
    compare("a last batch of one image", [x[:6], x[6:7]], 1e-9)
    single = [b.float() for b in batches]
    found, right = attempt.call("the same in float32", single), library(single)
    short = any(isinstance(t, Tensor) and t.dtype != torch.float64 for t in found)
    attempt.require(not short, "float32 returned")
    attempt.same(found, right, 1e-5)
    exact = difference(found, right, 1e-10) is None
    attempt.require(exact, "float32 sums", "Seven digits are right and the others are not.")
    far = [b - 1.5 + 1e7 for b in batches]
    found, right = attempt.call("an offset of 1e7", far), library(far)
    gap = difference(found, right, 1e-5)
    attempt.require(gap is None, "raw sums", gap[1] if gap else "")
