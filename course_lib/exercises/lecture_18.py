"""Checks of the exercises on lecture 18, a full run of a GAN."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from course_lib import data, probability, training
from course_lib.exercises.attempts import Attempt, near
from course_lib.exercises.registry import exercise

LECTURE = "18_full_run_gan"


# ---------------------------------------------------------------------------- 18.1


@exercise(
    "18.1",
    see="section 18.1, equation (18.2) and definition (18.7)",
    learnt="Three numbers before the first update. Memory that does not depend on the batch is not "
    "mended by a smaller one, and a larger batch buys no more passes; lecture 20 works on the "
    "rate.",
    hints={
        "weights alone": "You count the weights and nothing that training keeps beside them.",
        "moments forgotten": "Adam keeps two numbers per weight beside the weight and its "
        "gradient.",
        "gradients forgotten": "You count three numbers for a weight, the average aside. Training "
        "keeps four: the weight, its gradient, and the two of Adam.",
        "average forgotten": "The average of the generator's weights is one more copy of them.",
        "average of both": "Only the generator has an average; nobody averages the discriminator.",
        "numbers and not bytes": "You count numbers. A number in float32 takes four bytes.",
        "eight bytes": "You count eight bytes per number. Training runs in float32.",
        "images for updates": "You return how many images the budget sees. An update takes a batch "
        "of them.",
        "updates for passes": "You divide the number of updates by the number of training images. "
        "In every update a whole batch of them goes by.",
        "batches for passes": "You return how many batches one pass takes. What the budget buys "
        "depends on the rate and on the time.",
        "rounded": "You round. The run may end within a pass, and an update that is cut off is "
        "lost; but what the budget buys is a number with a fraction, and it is asked for.",
    },
)
def plan_budget(attempt: Attempt) -> None:
    """Fixed bytes, updates and passes of a run."""

    def compare(where: str, g: int, d: int, b: int, r: float, t: float, n: int) -> None:
        both = g + d
        # No int: nobody is told that these bytes should not come as a float, like the other two.
        right = (np.int64(16 * both + 4 * g), r * t / b, r * t / n)
        of_bytes = {
            "weights alone": (4 * both, 4 * both + 4 * g),
            "moments forgotten": (8 * both + 4 * g, 8 * both),
            "gradients forgotten": (12 * both + 4 * g, 12 * both),
            "average forgotten": 16 * both,
            "average of both": 20 * both,
            "numbers and not bytes": 4 * both + g,
            "eight bytes": 2 * right[0],
        }
        of_passes = {
            "updates for passes": right[1] / n,
            "batches for passes": n / b,
            "rounded": (float(r * t // n), float(round(r * t / n))),
        }
        of_updates = {
            "images for updates": r * t,
            "rounded": (float(r * t // b), float(round(r * t / b))),
        }
        attempt.each(where, (g, d, b, r, t, n), right, (of_bytes, of_updates, of_passes))

    compare("1,000 and 700 weights", 1000, 700, 50, 200.0, 600.0, 60_000)
    d = int(100 + 900 * float(attempt.uniform(1)))
    compare(f"1,700,000 and {100 * d:,} weights", 1_700_000, 100 * d, 64, 833.5, 3600.0, 50_000)


# ---------------------------------------------------------------------------- 18.2


@exercise(
    "18.2",
    see="section 18.2, what the watchdog looks at, and equation (18.10)",
    learnt="This is the first thing that the course's watchdog looks at (recipes/watchdog.py: it "
    "barks below 0.1). It catches catastrophes; for missing classes take the measures of "
    "lecture 17.",
    hints={
        "pixels of one image": "You take the variance over all pixels of all images. One single "
        "image, shown for ever, has light and dark pixels too: its copies differ in nothing, and "
        "your measure does not notice.",
        "within each image": "You take the variance within each image. What a collapse takes away "
        "is the difference from image to image, at one pixel.",
        "standard deviations": "You average standard deviations. Variances are averaged over "
        "pixels, as in a total variance; a root would come afterwards, and is not wanted.",
        "upside down": "You divide the data by the samples: a collapse would be an infinite share.",
        "mean of ratios": "You divide pixel by pixel and average then. A pixel at the rim that is "
        "black in all images has variance 0, and 0/0 is no number.",
        "denominator n": "You divide by n in the one and in the other, which does not cancel where "
        "there are more images on one side. The denominator is n - 1.",
        "channels mixed": "You take the variance over images and channels together. A picture that "
        "is red and not blue varies from channel to channel without varying from image to image.",
        "capped": "You cap the share at 1. Samples may vary more than the data, and that is worth "
        "knowing too.",
        "of the mean image": "You compare how the *mean images* vary over their pixels. Averaging "
        "over images first wipes out what is looked for.",
        "a small number added": "Slightly off, as by a small number that is added to the "
        "denominator or bounds it from below. For dim images, or pixels in another unit, it is no "
        "longer small; and the share must not depend on the unit.",
    },
)
def variance_share(attempt: Attempt) -> None:
    """Variance over images, averaged over pixels, of the fakes as a share of the data's."""

    def of(x: Tensor, correction: int = 1) -> Tensor:
        return x.double().var(0, correction=correction).mean()

    def ratio(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], float]:
        return lambda real, fake: float(function(fake) / function(real))

    right = ratio(of)
    mistakes = {
        "pixels of one image": ratio(lambda x: x.double().var()),
        "within each image": ratio(lambda x: x.double().flatten(1).var(1).mean()),
        "standard deviations": ratio(lambda x: x.double().std(0).mean()),
        "upside down": lambda real, fake: right(fake, real),
        "mean of ratios": lambda real, fake: float((fake.var(0) / real.var(0)).mean()),
        "denominator n": ratio(lambda x: of(x, correction=0)),
        "channels mixed": ratio(lambda x: x.double().var((0, 1)).mean()),
        "capped": lambda real, fake: min(right(real, fake), 1.0),
        "of the mean image": ratio(lambda x: x.double().mean(0).var()),
        "a small number added": [
            form
            for e in (10.0**-i for i in range(3, 17))
            for form in (
                lambda real, fake, e=e: float(of(fake) / (of(real) + e)),
                lambda real, fake, e=e: float(of(fake) / of(real).clamp(min=e)),
                lambda real, fake, e=e: float((of(fake) + e) / (of(real) + e)),
            )
        ],
    }
    level = attempt.uniform(1, 2, 3, 4) + torch.tensor([0.0, 1.5]).double()[:, None, None]
    real = level + attempt.uniform(8, 2, 3, 4) * attempt.uniform(1, 2, 3, 4)
    fake = level + 0.6 * attempt.uniform(5, 2, 3, 4) * attempt.uniform(1, 2, 3, 4)
    attempt.value("eight real images and five fakes", (real, fake), right, mistakes=mistakes)
    # Before the others, where a small number added may be below or above what is allowed.
    dim = 1e-6 * real, 1e-6 * fake
    attempt.value("the same images, a millionth as bright", dim, right, mistakes=mistakes)
    attempt.value("the two exchanged", (fake, real), right, mistakes=mistakes)
    one = fake[:1].repeat(6, 1, 1, 1)
    attempt.value("one image, six times", (real, one), 0.0, mistakes=mistakes)
    rim = torch.ones(3, 4, dtype=torch.float64)
    rim[0] = 0
    args = (real * rim).float(), (fake * rim).float()
    attempt.value(
        "images with a black rim, float32", args, right, mistakes=mistakes, tolerance=1e-5
    )


# ---------------------------------------------------------------------------- 18.3


def _net(attempt: Attempt, momentum: float = 0.1) -> nn.Module:
    """A network with two batch norms, whose weights and statistics depend on the seed alone."""
    net = nn.Sequential(
        nn.Linear(4, 5),
        nn.BatchNorm1d(5, momentum=momentum),
        nn.ReLU(),
        nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3, momentum=momentum)),
    )
    return _with_statistics(attempt, net)


def _with_statistics(attempt: Attempt, net: nn.Module) -> nn.Module:
    """The network, with weights and running statistics that depend on the seed alone."""
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if name.endswith("num_batches_tracked"):
                t.fill_(7)
            elif name.endswith("running_var"):
                t.copy_(0.5 + attempt.uniform(*t.shape))
            else:
                t.copy_(attempt.normal(*t.shape))
    return net


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def _close(a: Mapping[str, Tensor], b: Mapping[str, Tensor], names: Iterator[str] | list) -> bool:
    return all(near(a[n], b[n], 1e-6) for n in names)


@exercise(
    "18.3",
    see="section 18.3, definition (18.12), and training.EMA",
    learnt="training.EMA does this after every update of the generator, and what the long runs of "
    "section 18.7 show and score is this average.",
    hints={
        "nothing changed": "The average is what it was. Assigning to a name (w = ...) makes a new "
        "tensor and leaves the module as it is: write into its tensors in place.",
        "decay and its complement exchanged": "You keep 1 - decay of the average and take decay of "
        "the new weights. With 0.999 the average would be the last weights.",
        "weights copied": "The average is now equal to the weights of the module.",
        "buffers forgotten": "The weights are averaged, but the running mean and variance of batch "
        "normalisation stay where they were: they are buffers, and module.parameters() does not "
        "list them. In eval mode the network would use those of its first day.",
        "buffers averaged": "You average the buffers as well. The course copies them: running "
        "statistics are averages already, and a counter is no weight.",
        "counter forgotten": "Running mean and variance are copied, num_batches_tracked is not.",
        "source changed": "The module in training has changed: its weights, its mode or what asks "
        "for gradients. Only the average is written to.",
        "mode changed": "The average is in train mode now: the next sample drawn from it would "
        "move its statistics.",
        "shares memory": "The average shares tensors with the module in training: its next update "
        "would move both.",
        "graph kept": "The averaged weights ask for gradients, or carry the history of how they "
        "were computed, which grows with every update until memory is full: nobody will ask for a "
        "gradient here.",
    },
)
def ema_with_buffers(attempt: Attempt) -> None:
    """In place: average += (1 - decay)(weight - average); buffers copied."""
    module, average = _net(attempt), _net(attempt).eval().requires_grad_(False)
    with torch.no_grad():
        for name, buffer in average.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(3)
    decay = 0.9
    before, source = _state(average), _state(module)
    twin = training.EMA(module, decay)
    twin.module.load_state_dict(before)
    twin.update()
    right = _state(twin.module)
    attempt.call("a network with two batch norms, decay 0.9", average, module, decay)
    attempt.tried += 4
    found, after = _state(average), _state(module)
    weights = [n for n, _ in module.named_parameters()]
    buffers = [n for n, _ in module.named_buffers()]
    counters = [n for n in buffers if n.endswith("num_batches_tracked")]
    statistics = [n for n in buffers if n not in counters]
    if not _close(source, after, source):
        attempt.fail("source changed")
    as_before = all(m.training for m in module.modules())
    attempt.require(
        as_before and all(p.requires_grad for p in module.parameters()), "source changed"
    )
    attempt.require(not any(m.training for m in average.modules()), "mode changed")
    if _close(found, before, found):
        attempt.fail("nothing changed")
    blend = {n: decay * source[n].double() + (1 - decay) * before[n].double() for n in source}
    mixed = {n: decay * before[n].double() + (1 - decay) * source[n].double() for n in source}
    if _close(found, blend, weights):
        attempt.fail("decay and its complement exchanged")
    copied = _close(found, source, weights)
    apart = {p.untyped_storage().data_ptr() for p in module.state_dict().values()}
    if any(p.untyped_storage().data_ptr() in apart for p in average.state_dict().values()):
        attempt.fail("shares memory")
    if copied:
        attempt.fail("weights copied")
    for name in weights:
        attempt.same(found[name], right[name], 1e-6)
    if any(t.requires_grad for t in average.state_dict(keep_vars=True).values()):
        attempt.fail("graph kept")
    if _close(found, before, statistics):
        attempt.fail("buffers forgotten")
    if _close(found, mixed, statistics):
        attempt.fail("buffers averaged")
    for name in statistics:
        attempt.same(found[name], right[name], 1e-6)
    if _close(found, before, counters):
        attempt.fail("counter forgotten")
    for name in counters:
        attempt.same(found[name], right[name], 1e-6)
    attempt.call("decay 0: all is new", average, module, 0.0)
    for name, t in _state(average).items():
        attempt.same(t, source[name], 1e-6)


# ---------------------------------------------------------------------------- 18.4


@exercise(
    "18.4",
    see="section 18.3, 'Try it' at its end",
    learnt="Statistics must belong to the weights they stand beside. The lecture copies those of "
    "the raw network, which is cheaper; its 'Try it' asks you to measure the difference.",
    hints={
        "nothing changed": "The running statistics are what they were, or those of a fresh layer "
        "(mean 0, variance 1). Only in train mode does batch normalisation write to them.",
        "not reset": "The old statistics are still in your average, with the weight of all the "
        "batches that they have seen. Begin from nothing.",
        "momentum left": "You begin from nothing but leave the momentum as it is: the fresh "
        "statistics (mean 0, variance 1) keep a share, and late batches count more than early "
        "ones. All batches should weigh the same.",
        "as in training": "This is what ordinary training does: old statistics that move a "
        "little with every batch. Begin from nothing, and let all batches weigh the same. (Or your "
        "search has found none of the norms: test for nn.modules.batchnorm._BatchNorm, the common "
        "class of BatchNorm1d and BatchNorm2d.)",
        "one class only": "The norms of the class BatchNorm1d are measured anew, those of "
        "BatchNorm2d are not. Any batch normalisation is meant: test for the common class, "
        "nn.modules.batchnorm._BatchNorm.",
        "outermost only": "You treat the norms that are the network's own children and not those "
        "that lie deeper: net.modules() goes through all.",
        "settings changed": "A setting of the network is not what it was: requires_grad of a "
        "weight, or eps, affine or track_running_stats of a batch norm.",
        "last batch only": "These are the statistics of the last batch alone.",
        "all in one batch": "You put all noise into one batch. The network is trained with the "
        "statistics of batches; average those of the given batches.",
        "left in train mode": "The network is in train mode now and was in eval mode before: the "
        "first sample drawn from it would move the statistics again.",
        "momentum not given back": "The momentum of the batch norms is not what it was before. "
        "Whoever trains on has another network.",
        "weights changed": "The weights have changed. Only the statistics are to be measured anew.",
        "mode taken": "The network came in train mode and should go on in it.",
    },
)
def recalibrate_batch_norm(attempt: Attempt) -> None:
    """In place: running statistics become the plain average over the given batches."""
    net = _net(attempt, momentum=0.3).eval()
    batches = [attempt.normal(6, 4, dtype=torch.float32) * (1 + i) for i in range(3)]
    any_norm = nn.modules.batchnorm._BatchNorm

    def measured(
        reset: bool = True,
        momentum: float | None = None,
        given: list[Tensor] = batches,
        deep: bool = True,
    ) -> dict[str, Tensor]:
        twin = copy.deepcopy(start)
        for layer in twin.modules() if deep else twin.children():
            if isinstance(layer, any_norm):
                if reset:
                    layer.reset_running_stats()
                layer.momentum = momentum
        with torch.no_grad():
            twin.train()
            for x in given:
                twin(x)
        return _state(twin)

    start = copy.deepcopy(net)
    twin = copy.deepcopy(net)
    update_bn(batches, twin)
    right = _state(twin)
    names = [n for n in right if "running" in n]
    weights = [n for n, _ in net.named_parameters()]
    attempt.call("three batches of six, eval mode", net, batches)
    attempt.tried += 3
    found, before = _state(net), _state(start)
    if not _close(found, before, weights):
        attempt.fail("weights changed")
    fresh = {n: torch.full_like(before[n], float(n.endswith("var"))) for n in names}
    if _close(found, before, names) or _close(found, fresh, names):
        attempt.fail("nothing changed")
    for hint, options in {
        "not reset": {"reset": False},
        "momentum left": {"momentum": 0.3},
        "as in training": {"reset": False, "momentum": 0.3},
        "last batch only": {"given": batches[-1:]},
        "all in one batch": {"given": [torch.cat(batches)]},
        "outermost only": {"deep": False},
    }.items():
        if _close(found, measured(**options), names):
            attempt.fail(hint)
    for name in names:
        attempt.same(found[name], right[name], 1e-5)
    if any(m.training for m in net.modules()):
        attempt.fail("left in train mode")
    norms = [m for m in net.modules() if isinstance(m, any_norm)]
    if any(m.momentum != 0.3 for m in norms):
        attempt.fail("momentum not given back")

    def settings(net: nn.Module) -> list[Any]:
        norms = [m for m in net.modules() if isinstance(m, any_norm)]
        ask = [p.requires_grad for p in net.parameters()]
        return [ask, *((m.eps, m.affine, m.track_running_stats) for m in norms)]

    attempt.require(settings(net) == settings(start), "settings changed")
    training_net = copy.deepcopy(start).train()
    attempt.call("a network in train mode", training_net, batches)
    if not all(m.training for m in training_net.modules()):
        attempt.fail("mode taken")
    for name in names:
        attempt.same(training_net.state_dict()[name], right[name], 1e-5)

    start = _with_statistics(
        attempt, nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))
    ).eval()
    net, twin = copy.deepcopy(start), copy.deepcopy(start)
    images = [attempt.normal(4, 2, 5, 5, dtype=torch.float32) * (1 + i) for i in range(3)]
    update_bn(images, twin)
    attempt.call("a convolutional network, three batches of four images", net, images)
    found, right = net[1].state_dict(), twin[1].state_dict()
    moved = measured(reset=False, momentum=net[1].momentum, given=images)
    statistics = ["running_mean", "running_var"]
    forgotten = [_state(start[1]), {n: moved[f"1.{n}"] for n in statistics}]
    attempt.require(not any(_close(found, f, statistics) for f in forgotten), "one class only")
    for name in statistics:
        attempt.same(found[name], right[name], 1e-5)


# ---------------------------------------------------------------------------- 18.5


def _variance_within(t: float) -> float:
    """v(t) of equation (18.19)."""
    density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    return 1 - 2 * t * density / math.erf(t / math.sqrt(2))


@exercise(
    "18.5",
    see="section 18.4, equations (18.19) and (18.20)",
    learnt="Section 18.4 draws precision and recall against this threshold. Whoever truncates "
    "should print such a table: for generators that were not trained for it, it may buy nothing.",
    hints={
        "not truncated": "About as many coordinates lie outside as for an ordinary normal. The "
        "rule is for the absolute value of every coordinate.",
        "one side only": "Coordinates above the threshold are redrawn, those below its negative "
        "are not.",
        "redrawn once": "A few coordinates still lie outside: of those that are drawn anew some "
        "fall outside again.",
        "set to zero": "Many coordinates are exactly 0: those that lay outside were set to 0 and "
        "not drawn anew. A spike in the middle is no part of a normal.",
        "clamped": "Many coordinates lie exactly on the threshold: they were cut off there and not "
        "drawn anew. Two spikes at the ends are not the middle of a normal.",
        "scaled": "Your numbers are normal ones (perhaps cut at ±2) that were shrunk: their "
        "variance is too small. The threshold cuts; it does not stretch.",
        "uniform": "Every number between the ends is equally likely in your draw. The middle of a "
        "normal is higher in the middle.",
        "other threshold": "At t = 1 all is well, at t = 0.02 most numbers lie outside: compare "
        "|z| with t itself, not with its square or its root. Or do you stop after a fixed number "
        "of redraws? Go on until no number lies outside.",
        "another law": "All coordinates lie inside, but not with the law of a normal number given "
        "that it lies inside.",
        "noise of its own": "Your draw does not depend on the generator that it was given, or not "
        "on it alone: two generators with one seed must give one z, and other seeds another.",
        "rows alike": "The rows are copies of one another. Every image needs a noise of its own.",
    },
)
def truncate_by_redrawing(attempt: Attempt) -> None:
    """z [n, d], every coordinate normal given |z| <= threshold."""

    def draw(where: str, n: int, d: int, t: float, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        found = attempt.call(where, n, d, t, generator)
        attempt.same(found, torch.zeros(n, d), tolerance=1e9)  # shape, type, finite
        return found.detach()

    t, seed = 1.0, 100 + attempt.seed
    z = draw("200 vectors of 50, t = 1", 200, 50, t, seed)
    above, below = ((s * z > t).double().mean().item() for s in (1, -1))
    attempt.require(not (above == 0 and below > 0.01), "one side only")
    attempt.require(not (below == 0 and above > 0.01), "one side only")
    attempt.require(
        above + below < 0.25, "not truncated", f"{above + below:.0%} of the numbers lie outside."
    )
    attempt.require(
        above + below == 0, "redrawn once", f"{above + below:.1%} of the numbers lie outside."
    )
    on_edge = (z.abs() >= t * (1 - 1e-6)).double().mean().item()
    attempt.require(on_edge < 0.01, "clamped", f"{on_edge:.0%} of the numbers are equal to ±t.")
    at_zero = (z == 0).double().mean().item()
    attempt.require(at_zero < 0.01, "set to zero", f"{at_zero:.0%} of the numbers are 0.")
    attempt.require(not torch.equal(z[0], z[1]), "rows alike")
    variance, wanted = z.double().square().mean().item(), _variance_within(t)
    said = f"Mean square {variance:.3f}; {wanted:.3f} is expected, by (18.19)."
    for hint, value in {"scaled": _variance_within(2.0) / 4, "uniform": t * t / 3}.items():
        attempt.require(abs(variance - value) > 0.01, hint, said)
    if abs(variance - wanted) > 0.006:  # too far for one draw, perhaps: five more decide
        more = [
            draw(f"200 vectors of 50, t = 1, again ({i})", 200, 50, t, seed + i) for i in range(5)
        ]
        variance = torch.stack(more).double().square().mean().item()
        said = f"Mean square {variance:.4f}; {wanted:.4f} is expected, by (18.19)."
    attempt.require(abs(variance - wanted) < 0.006, "another law", said)
    attempt.require(abs(z.double().mean().item()) < 0.03, "another law", "The mean is not 0.")
    fourth = z.double().pow(4).mean().item()
    line = torch.linspace(-t, t, 2001, dtype=torch.float64)
    density = torch.exp(-line.square() / 2)
    expected = float((line.pow(4) * density).sum() / density.sum())
    attempt.require(
        abs(fourth - expected) < 0.018, "another law", "The fourth moment is not right."
    )
    first, again, other = (draw("10 vectors of 5, t = 1", 10, 5, t, seed + i) for i in (0, 0, 1))
    same_seed = torch.equal(first, again) and not torch.equal(first, other)
    attempt.require(same_seed, "noise of its own")
    generator = torch.Generator().manual_seed(seed)
    pair = [attempt.answer(10, 5, t, generator) for _ in range(2)]
    attempt.require(not torch.equal(*pair), "noise of its own", "Two calls in turn gave one z.")
    # Few, since each takes 63 draws: an answer that draws one by one needs its time.
    small = draw("4 vectors of 5, t = 0.02", 4, 5, 0.02, seed)
    outside = (small.abs() > 0.02).double().mean().item()
    told = f"{outside:.0%} of the numbers lie outside."
    attempt.require(outside < 0.5, "other threshold", told)
    attempt.require(outside == 0, "redrawn once", told)
    on_edge = (small.abs() >= 0.02 * (1 - 1e-6)).double().mean().item()
    attempt.require(on_edge < 0.2, "clamped", f"{on_edge:.0%} of the numbers are equal to ±t.")
    wide = draw("200 vectors of 50, t = 2", 200, 50, 2.0, seed).double().square().mean().item()
    wanted = _variance_within(2.0)
    said = f"Mean square {wide:.3f}; {wanted:.3f} is expected, by (18.19)."
    attempt.require(abs(wide - wanted) < 0.04, "another law", said)
    draw("one number", 1, 1, 2.0, seed)


# ---------------------------------------------------------------------------- 18.6


class _Toy:
    """A tiny GAN on a ring of points, and its stream of batches."""

    def __init__(self, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = nn.Sequential(
                nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)
            )
            discriminator = nn.Sequential(
                nn.Linear(2, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1), nn.Flatten(0)
            )
        self.state = training.gan_state(
            generator, discriminator, latent_dim=2, ema_decay=0.8, learning_rate=1e-2, seed=seed
        )
        self.batches = data.SampleBatches(probability.ring(4), 8, seed=0)

    def advance(self, updates: int) -> Tensor:
        for _ in range(updates):
            training.gan_step(self.state, next(self.batches))
            self.state.step += 1
        return torch.cat([p.detach().flatten() for p in self.players()])

    def players(self) -> Iterator[Tensor]:
        for module in self.state.modules.values():
            yield from module.parameters()

    def modes(self) -> list[bool]:
        """Whether each network, the averages included, is in train mode."""
        averages = [average.module for average in self.state.ema.values()]
        return [m.training for m in (*self.state.modules.values(), *averages)]

    def parts(self) -> dict[str, Any]:
        """Copies of all that decides how the run goes on."""
        s = self.state
        everything = {
            "weights": {k: dict(m.named_parameters()) for k, m in s.modules.items()},
            "statistics": {k: dict(m.named_buffers()) for k, m in s.modules.items()},
            "average": {k: e.module.state_dict() for k, e in s.ema.items()},
            "moments": {k: o.state_dict()["state"] for k, o in s.optimizers.items()},
            "noise": s.generator.get_state(),
            "data": self.batches.state_dict(),
            "step": s.step,
        }
        return _copies(everything)

    def resume(self, saved: Mapping[str, Any]) -> None:
        """As the function of the same name in the notebook."""
        for name, module in self.state.modules.items():
            module.load_state_dict(saved.get("modules", {}).get(name, {}), strict=False)
        for name, average in self.state.ema.items():
            average.module.load_state_dict(saved.get("averages", {}).get(name, {}), strict=False)
        for name, optimizer in self.state.optimizers.items():
            if name in saved.get("optimizers", {}):
                optimizer.load_state_dict(saved["optimizers"][name])
        if "noise" in saved:
            self.state.generator.set_state(saved["noise"])
        if "data" in saved:
            self.batches.load_state_dict(saved["data"])
        self.state.step = saved.get("step", 0)


def _copies(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copies(v) for key, v in value.items()}
    return copy.deepcopy(value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, nn.Module):
        return isinstance(b, nn.Module) and _equal(a.state_dict(), b.state_dict())
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    return a == b


@exercise(
    "18.6",
    see="section 18.5, what a checkpoint holds, equations (18.22) and (18.23)",
    learnt="This is what training.save_checkpoint writes (together with the losses so far and "
    "torch's own random state). Lecture 19 interrupts a run with it twice, by (19.29).",
    hints={
        "an entry missing": "resume() in the notebook reads six entries, by the names that the "
        "docstring gives.",
        "a player forgotten": "After the resume a network has the weights of a fresh one. Both "
        "players play on.",
        "other weights": "After the resume a network has other weights than the run had: in "
        "another precision, or at another time?",
        "mode changed": "Taking the snapshot has changed the mode of a network (train, eval): "
        "look, and leave everything as it is.",
        "statistics forgotten": "The weights are back and the running statistics of batch "
        "normalisation are not: they are buffers, and parameters() does not list them.",
        "average forgotten": "The training goes on as it should, but the average of the "
        "generator's weights has started anew. It is the average that is shown in the end.",
        "moments forgotten": "Adam begins with fresh moments: by (18.22) its next update moves "
        "every weight by the full learning rate, wherever noise points.",
        "noise forgotten": "The generator of the noise does not stand where it stood: from here on "
        "the run draws other noise, and nobody can repeat it. A seed says where it began; which "
        "method says where it is?",
        "place forgotten": "The stream of data begins at its beginning: a run that is killed often "
        "would see the first batches more often than the last.",
        "count forgotten": "The number of updates done is not the run's: a schedule or a budget "
        "would start again, or be off.",
        "shares memory": "Your snapshot changed while the run went on: state_dict() returns the "
        "tensors themselves and not copies, so that it is a window and not a photograph.",
        "other form": "The snapshot cannot be loaded: the docstring says what belongs under which "
        "name, and resume() in the notebook what becomes of it.",
        "disturbs the run": "Taking the snapshot has changed the run: a batch or a random number "
        "was drawn, or the generator seeded anew.",
    },
)
def run_snapshot(attempt: Attempt) -> None:
    """Everything that decides how a run goes on, as copies, by documented names."""
    run = _Toy(seed=10 + attempt.seed)
    run.advance(3)
    then, modes = run.parts(), run.modes()
    saved = attempt.call("a run after three updates", run.state, run.batches)
    attempt.tried += 1
    if not isinstance(saved, Mapping):
        attempt.same(saved, {})  # says that a dictionary is wanted
    names = ("modules", "averages", "optimizers", "noise", "data", "step")
    if unknown := [repr(name) for name in saved if name not in names]:
        missing = ", ".join(repr(name) for name in names if name not in saved)
        told = f"Nobody reads {', '.join(unknown)}; there is no {missing}."
        attempt.require(not missing, "an entry missing", told)
    attempt.require(run.modes() == modes, "mode changed")
    if not _equal(run.parts(), then):
        attempt.fail("disturbs the run")
    attempt.require(isinstance(saved.get("noise", torch.zeros(0)), Tensor), "noise forgotten")
    as_returned = _copies(saved)
    if not _equal(as_returned, saved):  # an object in it that is equal to itself alone
        attempt.fail("other form", "The snapshot holds whole objects and not their state_dict().")
    path = run.advance(2)
    now = run.parts()
    attempt.require(_equal(as_returned, saved), "shares memory")

    fresh = _Toy(seed=20 + attempt.seed)
    try:
        fresh.resume(_copies(saved))
    except Exception as error:
        attempt.fail("other form", f"{type(error).__name__}: {str(error)[:200]}")
    found = fresh.parts()
    told = f"step is {found['step']}; three updates were made."
    attempt.require(int(found["step"]) == 3, "count forgotten", told)
    found["step"] = then["step"]
    never = _Toy(seed=20 + attempt.seed).parts()["weights"]
    for player, weights in found["weights"].items():
        lost = _equal(weights, never[player])
        attempt.require(lost or _equal(weights, then["weights"][player]), "other weights")
    for part, hint in {
        "weights": "a player forgotten",
        "statistics": "statistics forgotten",
        "moments": "moments forgotten",
        "noise": "noise forgotten",
        "data": "place forgotten",
        "average": "average forgotten",
    }.items():
        attempt.require(_equal(found[part], then[part]), hint)
    attempt.require(torch.equal(fresh.advance(2), path), "noise forgotten")
    attempt.require(_equal(fresh.parts(), now), "average forgotten")


# ---------------------------------------------------------------------------- 18.7


@exercise(
    "18.7",
    see="section 18.6, equations (18.28), (18.29) and (18.31)",
    learnt="A difference with an interval, from runs paired by seed, is what section 18.6 reports "
    "for two losses, and what the table of full runs in section 18.7 rests on.",
    hints={
        "other sign": "You return the mean of b - a, or the size of the mean without its sign. "
        "Which of the two is subtracted?",
        "best against best": "You compare the best run of each method. By (18.29) the best of a "
        "few flatters, and most of all the method with the larger spread.",
        "absolute differences": "You average the sizes of the differences: that is never 0, even "
        "for two methods that are equal.",
        "not paired": "Your interval is that of two independent sets of runs. Equal seeds share a "
        "part of their luck: take the spread of the differences.",
        "root forgotten": "You divide the deviation by n. The standard error of a mean falls with "
        "the root of n.",
        "n - 1 twice": "You divide by the root of n - 1. The n - 1 is in the variance already; the "
        "mean is one of n numbers.",
        "denominator n": "You divide by n in the variance. With few seeds that is much too narrow: "
        "the mean was fitted to the same numbers.",
        "spread of one run": "This is how far one difference lies from the mean. The mean of n of "
        "them is known better.",
        "variance for deviation": "You use the variance of the differences, in squared units of "
        "the score. The interval has the unit of the score.",
        "factor forgotten": "This is the standard error. How many of them the interval reaches to "
        "each side, the factor says.",
        "1.96": "You use 1.96, the factor for many runs. With a few seeds it covers far less than "
        "95 %, by (18.27): use the factor that is given.",
        "full width": "This is the width of the whole interval; half of it is wanted, what stands "
        "behind the ±.",
    },
)
def compare_by_seed(attempt: Attempt) -> None:
    """Mean of a - b over seeds, and the half width of its interval."""

    def compare(where: str, a: Tensor, b: Tensor, factor: float, tolerance: float = 1e-6) -> None:
        x, y = a.double(), b.double()
        n, d = len(x), x - y
        error = d.std() / n**0.5
        of_mean = {
            "other sign": -d.mean(),
            "best against best": x.min() - y.min(),
            "absolute differences": d.abs().mean(),
        }
        of_half = {
            "not paired": factor * ((x.var() + y.var()) / n).sqrt(),
            "denominator n": factor * d.std(correction=0) / n**0.5,
            "root forgotten": factor * d.std() / n,
            "n - 1 twice": factor * d.std() / (n - 1) ** 0.5,
            "spread of one run": factor * d.std(),
            "variance for deviation": factor * d.var() / n**0.5,
            "factor forgotten": error,
            "1.96": 1.96 * error,
            "full width": 2 * factor * error,
        }
        right = (float(d.mean()), float(factor * error))
        attempt.each(where, (a, b, factor), right, (of_mean, of_half), tolerance)

    gaps = torch.tensor([-3.0, 2.0, 1.5, -1.0, -2.5], dtype=torch.float64)
    b = 40 + 3 * attempt.normal(5)
    a = b + gaps + 0.3 * attempt.normal(5)
    compare("five seeds", a, b, 2.776)
    compare("three seeds", a[:3], b[:3], 4.303)
    compare("float32", a.float(), b.float(), 2.776, 1e-5)
