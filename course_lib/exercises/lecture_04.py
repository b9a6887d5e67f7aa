"""Checks of the exercises on lecture 04, the GAN as a game."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev
from torch.nn.functional import kl_div, softplus

from course_lib.exercises.attempts import Attempt
from course_lib.exercises.registry import exercise
from course_lib.losses import minimax, non_saturating

LECTURE = "04_gan_minimax"


# ---------------------------------------------------------------------------- 4.1


@exercise(
    "4.1",
    see="section 4.2, equation (4.3) and the lines on the logit below it",
    learnt="A good discriminator knows the ratio of the two densities and nothing else; section "
    "4.9 of the lecture draws this curve beside a trained discriminator.",
    hints={
        "densities swapped": "This is the probability of a fake. D answers the question 'is x "
        "real?': it is near 1 where the data's density p is the larger one.",
        "ratio, not share": "You return p/q, which may be any positive number. D is a probability: "
        "of all examples at x, real and generated, which share is real?",
        "logit, not probability": "You return the logit of D, which may be any real number. A "
        "probability is wanted here.",
        "logarithms not undone": "You put the logarithms of the densities where the densities "
        "belong: a share of logarithms is no share.",
        "the density itself": "You return p(x), as if D were a density. It is the probability of a "
        "label, given x.",
        "divided by the mixture": "Your values go up to 2: you divide by the mixture (p + q)/2, "
        "but p makes up only one half of it.",
        "logarithm of the share": "You return log D. The arguments are logarithms, the result is "
        "the probability itself.",
        "not finite": "Far out both densities round to 0 and their quotient to 0/0; the ratio p/q "
        "overflows there, and infinity/infinity is no better. The answer depends on the difference "
        "of the logarithms alone, through a function that stays finite however large that is.",
        "a small number added": "Far out you return 0 instead of the share. Adding a small number "
        "to a denominator, or nan_to_num, avoids 0/0 and puts a wrong number in its place.",
    },
)
def optimal_discriminator(attempt: Attempt) -> None:
    """D*(x) of two log-densities."""
    mistakes = {
        "densities swapped": lambda p, q: torch.sigmoid(q - p),
        "ratio, not share": lambda p, q: torch.exp(p - q),
        "logit, not probability": lambda p, q: p - q,
        "logarithms not undone": lambda p, q: p / (p + q),
        "the density itself": lambda p, q: p.exp(),
        "divided by the mixture": lambda p, q: 2 * torch.sigmoid(p - q),
        "logarithm of the share": lambda p, q: -softplus(q - p),
    }

    def right(log_p: Tensor, log_q: Tensor) -> Tensor:
        return torch.sigmoid(log_p - log_q)

    args = -1 - attempt.normal(6).abs(), -1 - attempt.normal(6).abs()
    attempt.value("six places", args, right, mistakes=mistakes)
    attempt.gradient("six places", args, right, of=(0, 1))
    far = torch.tensor([-801.0, -2000.0, -3.0]).double(), torch.tensor([-800.0, -900.0, -1e4])
    far = far[0], far[1].double()
    attempt.value(
        "three places far out, where the densities round to 0",
        far,
        right,
        mistakes={"a small number added": torch.tensor([0.0, 0.0, 1.0])},
    )
    one = torch.tensor([-1.5]), torch.tensor([-0.5])
    attempt.value("a single place, float32", one, right, tolerance=1e-5)
    attempt.any_device("another device", *one)


# ---------------------------------------------------------------------------- 4.2


def _swapped(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(real).mean() + softplus(-fake).mean()


def _sum_over_batch(real: Tensor, fake: Tensor) -> Tensor:
    return softplus(-real).sum() + softplus(fake).sum()


def _sigmoid_twice(real: Tensor, fake: Tensor) -> Tensor:
    return non_saturating.discriminator(torch.sigmoid(real), torch.sigmoid(fake))


def _averaged_together(real: Tensor, fake: Tensor) -> Tensor:
    return _sum_over_batch(real, fake) / (len(real) + len(fake))


def _log_of_means(real: Tensor, fake: Tensor) -> Tensor:
    return -(torch.sigmoid(real).mean().log() + (1 - torch.sigmoid(fake).mean()).log())


@exercise(
    "4.2",
    see="section 4.6, equation (4.19), and (def 4.3) for the two terms",
    learnt="This is -V, the loss that the discriminators of lectures 6 and 18 descend; in the "
    "library it is losses.non_saturating.discriminator.",
    hints={
        "labels swapped": "You teach the discriminator that real is fake: your loss falls when "
        "real logits fall and fake logits rise.",
        "sigmoid twice": "Your loss applies the sigmoid to numbers that went through a sigmoid "
        "already. It can never fall below log(1 + 1/e) + log 2 = 1.006. F.binary_cross_entropy_"
        "with_logits contains the sigmoid: give it the logits.",
        "halved": "You have one half of the loss. Here it is the sum of two means, so that it is "
        "minus the value V; averaging them halves every gradient.",
        "averaged together": "You average over real and fake examples as one batch. Each of the "
        "two expectations of V has its own mean, whatever the sizes of the batches.",
        "summed over the batch": "You sum over the examples. An expectation is estimated by a "
        "mean; with a sum the step size would grow with the batch.",
        "the value, not the loss": "You return V itself. The discriminator maximises V and an "
        "optimizer minimises: what must the sign be?",
        "fakes forgotten": "Only the real examples enter your loss. A discriminator that calls "
        "everything real would be perfect.",
        "reals forgotten": "Only the fakes enter your loss. A discriminator that calls everything "
        "fake would be perfect.",
        "one outside the logarithm": "You have 1 - log D where log(1 - D) belongs: the bracket "
        "closes too early.",
        "logarithm of the mean": "You average D and take the logarithm of the average. (def 4.3) "
        "has the mean outside: it averages the logarithms.",
        "logits as probabilities": "You take the logarithm of a logit, which may be negative. It "
        "is D = sigmoid(a) whose logarithm is wanted.",
        "not finite": "In float32 sigmoid(60) is exactly 1, log(1 - 1) is minus infinity, and "
        "exp(120) is infinite too. Rewrite the logarithm of the sigmoid with a function that "
        "avoids both.",
        "a small number in the logarithm": "Your loss is finite at logits of 60, but too small: a "
        "small number added inside the logarithm (or a clamp) caps the loss, and beyond the cap "
        "the gradient is 0, just where the discriminator is most wrong.",
        "cut off at 100": "Your logarithm is cut off at -100, as F.binary_cross_entropy does with "
        "the logarithm of 0. It was given a probability that had already been rounded to 1.",
        "wrong device": "What torch.ones(n) or torch.zeros(n) makes lies on the CPU.",
    },
)
def gan_discriminator_loss(attempt: Attempt) -> None:
    """-V on a batch of logits."""
    right = non_saturating.discriminator
    mistakes = {
        "labels swapped": _swapped,
        "sigmoid twice": _sigmoid_twice,
        "halved": lambda r, f: right(r, f) / 2,
        "averaged together": _averaged_together,
        "summed over the batch": _sum_over_batch,
        "the value, not the loss": lambda r, f: -right(r, f),
        "fakes forgotten": lambda r, f: softplus(-r).mean(),
        "reals forgotten": lambda r, f: softplus(f).mean(),
        "one outside the logarithm": lambda r, f: softplus(-r).mean() - 1 - softplus(-f).mean(),
        "logarithm of the mean": _log_of_means,
    }
    args = 1 + 2 * attempt.normal(5), attempt.normal(3) - 0.5
    args[0][-1] = -args[0][-1].abs()  # at least one whose logarithm does not exist
    found = attempt.call("five real and three fake logits", *args)
    undefined = isinstance(found, Tensor) and bool(found.isnan().any())
    attempt.require(not undefined, "logits as probabilities")
    attempt.value("five real and three fake logits", args, right, mistakes=mistakes)
    attempt.gradient("five real and three fake logits", args, right, of=(0, 1), mistakes=mistakes)
    extreme = torch.tensor([-120.0, 100.0]), torch.tensor([60.0, -200.0])
    where = "logits up to 200"
    found = attempt.finite(where, *extreme)
    if isinstance(found, Tensor) and found.ndim == 0:
        measured = f"The loss came out as {found.item():.1f}."
        attempt.require(abs(found.item() - 100) > 0.1, "cut off at 100", measured)
        attempt.require(found.item() > 89.9, "a small number in the logarithm", measured)
    attempt.value(where, extreme, right, tolerance=1e-5)
    single = torch.tensor([0.3]), torch.tensor([-1.2])
    attempt.value("one real and one fake logit, float32", single, right, tolerance=1e-5)
    attempt.any_device("another device", *single)


# ---------------------------------------------------------------------------- 4.3


def _generator_loss(fake_logits: Tensor, *, saturating: bool) -> Tensor:
    return (minimax if saturating else non_saturating).generator(fake_logits)


@exercise(
    "4.3",
    see="section 4.5, equations (4.14) and (4.15), and section 4.6, equation (4.19)",
    learnt="Both losses want the same and differ in the strength of the push; lectures 6 and 18 "
    "train with the non-saturating one.",
    hints={
        "exchanged": "This is the other one of the two losses: saturating=True asks for the "
        "generator's part of V, log(1 - D), and saturating=False for -log D.",
        "pushes down": "Your loss has the wrong sign: descending it makes the fakes look less "
        "real. Both losses must fall when a fake logit rises.",
        "the discriminator's goal": "This is the discriminator's term for fakes: descending it "
        "teaches the generator to be caught. The generator wants its fakes labelled real.",
        "one outside the logarithm": "You have 1 - log D where log(1 - D) belongs: the bracket "
        "closes too early.",
        "summed over the batch": "You sum over the fakes. A mean is wanted, or the step size grows "
        "with the batch.",
        "sigmoid twice": "You apply a sigmoid before a function that contains one: the logits go "
        "in as they are.",
        "logits as probabilities": "The result holds NaN on ordinary logits, as where the "
        "logarithm is taken of a logit, or of one minus it, which may be negative. It is "
        "D = sigmoid(a) whose logarithm is wanted.",
        "logarithm of the mean": "You average D and take the logarithm of the average. The mean "
        "stands outside: average the logarithms.",
        "not finite": "The sigmoid rounds to exactly 0 or 1 at such logits, and its logarithm is "
        "infinite. Rewrite it so that no sigmoid is left.",
        "a small number in the logarithm": "Your loss is capped: a small number inside the "
        "logarithm (or a clamp) makes it flat, and the push is 0, exactly for the fakes that need "
        "it most.",
    },
)
def gan_generator_loss(attempt: Attempt) -> None:
    """Minimax and non-saturating loss of the generator."""

    def right(fake_logits: Tensor, saturating: bool) -> Tensor:
        return _generator_loss(fake_logits, saturating=saturating)

    def log_of_mean(fake_logits: Tensor, saturating: bool) -> Tensor:
        d = torch.sigmoid(fake_logits).mean()
        return (1 - d).log() if saturating else -d.log()

    mistakes = {
        "exchanged": lambda a, saturating: right(a, not saturating),
        "pushes down": lambda a, saturating: -right(a, saturating),
        "the discriminator's goal": lambda a, saturating: softplus(a).mean(),
        "one outside the logarithm": lambda a, saturating: 1 + softplus(-a).mean(),
        "summed over the batch": lambda a, saturating: len(a) * right(a, saturating),
        "sigmoid twice": lambda a, saturating: right(torch.sigmoid(a), saturating),
        "logarithm of the mean": log_of_mean,
    }
    logits = attempt.normal(5) - 0.7
    logits[0], logits[1] = 1.2 + logits[0].abs(), -logits[1].abs()  # on both sides of 0 and 1
    weak = torch.tensor([-40.0, -5.0, 0.0, 5.0]).double()
    extreme = torch.tensor([-120.0, 90.0])
    for saturating in (False, True):
        name = f"saturating={saturating}"
        found = attempt.call(f"five logits, {name}", logits, saturating=saturating)
        undefined = isinstance(found, Tensor) and bool(found.isnan().any())
        attempt.require(not undefined, "logits as probabilities")
        attempt.value(
            f"five logits, {name}", (logits,), right, mistakes=mistakes, saturating=saturating
        )
        where = f"logits of -120 and 90, {name}"
        found = attempt.finite(where, extreme, saturating=saturating)
        if isinstance(found, Tensor) and found.ndim == 0:
            truth = float(right(extreme, saturating))
            attempt.require(
                abs(float(found)) > abs(truth) - 0.1,
                "a small number in the logarithm",
                f"The loss came out as {float(found):.1f}.",
            )
        attempt.value(where, (extreme,), right, tolerance=1e-5, saturating=saturating)
        attempt.gradient(f"logits from -40 to 5, {name}", (weak,), right, saturating=saturating)
    one = torch.tensor([-0.4])
    attempt.value("one logit, float32", (one,), right, tolerance=1e-5, saturating=False)


# ---------------------------------------------------------------------------- 4.4


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of two vectors of probabilities; empty bins of p count 0."""
    return torch.where(p > 0, torch.xlogy(p, p) - torch.xlogy(p, q), torch.zeros_like(p)).sum()


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2
    return (_kl(p, m) + _kl(q, m)) / 2


@exercise(
    "4.4",
    see="section 4.3, equations (4.8) and (4.10)",
    learnt="Half of what the value rises above -log 4; section 4.9 measures just this on the "
    "histograms of a generator while it learns.",
    hints={
        "doubled": "You have twice the divergence: each of the two KL divergences counts one half.",
        "in bits": "Your logarithm has base 2. This course counts in nats.",
        "one half only": "This is the KL divergence of p or of q from the mixture alone (or half "
        "of it): the JSD treats p and q alike.",
        "not a mixture": "Your value is log 2 too small, as where p + q stands for the mixture: "
        "that sums to 2, and the mixture is their average. So it may be negative, as no divergence "
        "is.",
        "minus sign": "You have the negative of the divergence.",
        "sum not halved": "You have one half of one KL divergence and the whole of the other: each "
        "counts one half.",
        "mixture's log forgotten": "You gave F.kl_div the mixture where it wants the LOGARITHM of "
        "its first argument.",
        "square root": "You have the square root of the divergence, the Jensen-Shannon distance, "
        "which is what scipy.spatial.distance.jensenshannon returns.",
        "no mixture": "You average KL(p||q) and KL(q||p). The JSD compares each of the two with "
        "the mixture, which is why it stays finite where one of them is 0.",
        "arguments exchanged": "These are the KL divergences with the mixture first. The average "
        "must be over p and over q: note that F.kl_div(input, target) averages over its target, "
        "the second argument.",
        "averaged over bins": "You divide by the number of bins. The mean over bins is already in "
        "the probabilities: sum.",
        "value of the game": "You have the value V(G, D*), which is -log 4 at its best: read (4.8) "
        "from right to left.",
        "not symmetric": "You compare p with q directly, by one KL divergence, which is infinite "
        "where one of them alone is 0. The JSD compares each of the two with their mixture.",
        "not finite": "An empty bin has p = 0, and 0 times the logarithm of 0 must count as 0 "
        "(torch.xlogy knows that). A bin that is empty in both has the mixture 0 as well: dividing "
        "by it gives 0/0, which no xlogy mends.",
    },
)
def jensen_shannon_of_bins(attempt: Attempt) -> None:
    """JSD of two histograms, in nats."""
    right = _jensen_shannon

    def mixture(p: Tensor, q: Tensor) -> Tensor:
        return (p + q) / 2

    mistakes = {
        "doubled": lambda p, q: 2 * right(p, q),
        "in bits": lambda p, q: right(p, q) / math.log(2),
        "one half only": [
            lambda p, q: _kl(p, mixture(p, q)),
            lambda p, q: _kl(q, mixture(p, q)),
            lambda p, q: _kl(p, mixture(p, q)) / 2,
            lambda p, q: _kl(q, mixture(p, q)) / 2,
        ],
        "minus sign": lambda p, q: -right(p, q),
        "sum not halved": [
            lambda p, q: _kl(p, mixture(p, q)) / 2 + _kl(q, mixture(p, q)),
            lambda p, q: _kl(p, mixture(p, q)) + _kl(q, mixture(p, q)) / 2,
        ],
        "mixture's log forgotten": [
            lambda p, q: sum(kl_div(mixture(p, q), a, reduction="sum") for a in (p, q)) / 2,
            lambda p, q: sum(kl_div(mixture(p, q), a, reduction="sum") for a in (p, q)),
        ],
        "not a mixture": lambda p, q: (_kl(p, p + q) + _kl(q, p + q)) / 2,
        "square root": lambda p, q: right(p, q).sqrt(),
        "no mixture": lambda p, q: (_kl(p, q) + _kl(q, p)) / 2,
        "not symmetric": [_kl, lambda p, q: _kl(q, p)],
        "arguments exchanged": lambda p, q: (_kl(mixture(p, q), p) + _kl(mixture(p, q), q)) / 2,
        "averaged over bins": lambda p, q: right(p, q) / len(p),
        "value of the game": lambda p, q: 2 * right(p, q) - math.log(4),
    }
    logits = (2 * attempt.normal(5)), attempt.normal(5)
    p, q = (a.softmax(0) for a in logits)
    attempt.value("two histograms of five bins", (p, q), right, mistakes=mistakes)
    answer = attempt.answer
    attempt.answer = lambda a: answer(p, a.softmax(0))
    attempt.gradient("q = softmax of five numbers", (logits[1],), lambda a: right(p, a.softmax(0)))
    attempt.answer = answer
    one = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.25, 0.75]).double()
    attempt.value("a histogram with an empty bin", one, right)
    hole = torch.tensor([0.5, 0.0, 0.5]).double(), torch.tensor([0.25, 0.0, 0.75]).double()
    attempt.value("two histograms with the same empty bin", hole, right)
    apart = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    attempt.value("two histograms that do not overlap, float32", apart, right, tolerance=1e-5)
    attempt.value("two equal histograms", (p, p), right)


# ---------------------------------------------------------------------------- 4.5


def _players(attempt: Attempt) -> tuple[nn.Module, nn.Module]:
    """A generator and a discriminator of points [batch, 2], with weights from the seed."""
    generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    discriminator = nn.Sequential(
        nn.Linear(2, 4), nn.LeakyReLU(0.2), nn.Linear(4, 1), nn.Flatten(0)
    )
    with torch.no_grad():
        for parameter in (*generator.parameters(), *discriminator.parameters()):
            parameter.copy_(attempt.normal(*parameter.shape, dtype=torch.float32))
    return generator, discriminator


def _weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def _gradients(module: nn.Module) -> Tensor:
    """The gradients kept in the parameters, 0 where there are none."""
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in module.parameters()]
    )


def _close(a: Tensor, b: Tensor, tolerance: float = 2e-5) -> bool:
    return bool(((a - b).abs() <= tolerance * (1 + b.abs())).all())


def _update(
    discriminator: nn.Module, rate: float, loss: Callable[[], Tensor], cleared: bool = True
) -> Tensor:
    """The weights after one plain gradient step on `loss`."""
    gradient = torch.autograd.grad(loss(), list(discriminator.parameters()), allow_unused=True)
    step = torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for p, g in zip(discriminator.parameters(), gradient, strict=True)
        ]
    )
    if not cleared:
        step = step + _gradients(discriminator)
    return _weights(discriminator) - rate * step


@exercise(
    "4.5",
    see="section 4.8, the two phases of a step and equation (4.25)",
    learnt="One phase of training.gan_step: the fakes are data here. The other phase follows in "
    "exercise 4.6.",
    hints={
        "did not move": "The discriminator's weights are the same as before. Either the "
        "optimizer's step is missing, or the gradients were cleared between backward and step.",
        "old gradients": "The gradients that were there before your call are still in the step. "
        "backward() adds to them: in a GAN they come from the generator's phase and would teach "
        "the discriminator to be fooled.",
        "labels swapped": "The discriminator moved towards calling real examples fake and fakes "
        "real.",
        "fakes teach nothing": "The discriminator learnt from the real examples alone. Are the "
        "fakes in the loss, and is it the fakes that you detach, not their logits?",
        "sigmoid twice": "The step is that of a loss which applies the sigmoid to numbers between "
        "0 and 1. The discriminator returns logits: give them to a loss that takes logits.",
        "climbs": "The discriminator moved the opposite way: its loss rises. An optimizer descends "
        "what you call backward() on.",
        "another loss": "The step is of the wrong length or in the wrong direction. Is it one "
        "step, on the loss of exercise 4.2, on all of `real`, and on fakes made of all of `z`?",
        "halved": "The step is half as long as it should be: the loss is the sum of the two means, "
        "not their average.",
        "averaged together": "You average over real and fake examples as one batch: each of the "
        "two terms has its own mean, and the batches may differ in size.",
        "gradient in the generator": "The discriminator is right, but backward() also went into "
        "the generator and changed the gradients kept there, by the exact opposite of what the "
        "generator wants. In this phase its images are data: cut the graph between the two.",
        "generator moved": "The generator's weights changed. It is the discriminator's turn.",
        "generator left frozen": "Some of the generator's parameters no longer require a gradient: "
        "it would never learn again. Cut the graph at the fakes instead, or undo the freezing.",
        "mode changed": "One of the networks was in train mode before your call and is in eval "
        "mode after it: its batch norm, if it has any, would no longer learn.",
        "loss after the step": "The update is right, but you return the loss of the new weights. "
        "The loss of the batch before the update is wanted: it costs no second pass.",
    },
)
def discriminator_step(attempt: Attempt) -> None:
    """One update of D on real data and detached fakes."""
    rate = 0.5
    generator, discriminator = _players(attempt)
    real, z = attempt.normal(6, 2, dtype=torch.float32), attempt.normal(4, 2, dtype=torch.float32)
    real = real + 1
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        parameter.grad = attempt.normal(*parameter.shape, dtype=torch.float32)
    fake = generator(z).detach()

    def of(loss: Callable[[Tensor, Tensor], Tensor], cleared: bool = True) -> Tensor:
        made = lambda: loss(discriminator(real), discriminator(fake))  # noqa: E731
        return _update(discriminator, rate, made, cleared)

    loss = non_saturating.discriminator
    before, wanted = _weights(discriminator), of(loss)
    mistakes = {
        "did not move": before,
        "old gradients": of(loss, cleared=False),
        "labels swapped": of(_swapped),
        "fakes teach nothing": of(lambda r, f: softplus(-r).mean()),
        "sigmoid twice": of(_sigmoid_twice),
        "halved": of(lambda r, f: loss(r, f) / 2),
        "averaged together": of(_averaged_together),
        "climbs": 2 * before - wanted,
    }
    first = loss(discriminator(real), discriminator(fake)).item()
    kept, old = _weights(generator), _gradients(generator)
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=rate)
    where = "six real points and four fakes"
    told = attempt.call(where, generator, discriminator, optimizer, real, z)
    found = _weights(discriminator)
    for name, weights in mistakes.items():
        attempt.require(_close(found, wanted) or not _close(found, weights), name)
    attempt.require(_close(found, wanted), "another loss")
    attempt.require(_close(_weights(generator), kept), "generator moved")
    left = _gradients(generator)
    attempt.require(
        _close(left, old) or not left.any(),
        "gradient in the generator",
        f"The generator's gradients changed by up to {float((left - old).abs().max()):.2g}.",
    )
    attempt.require(all(p.requires_grad for p in generator.parameters()), "generator left frozen")
    attempt.require(generator.training and discriminator.training, "mode changed")
    second = loss(discriminator(real), discriminator(fake)).item()
    attempt.where = f"the loss that you return, {where}"
    attempt.same(told, first, 1e-5, {"loss after the step": lambda: second})
    generator, discriminator = _players(attempt)
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=rate)
    one, z = attempt.normal(1, 2, dtype=torch.float32), attempt.normal(3, 2, dtype=torch.float32)
    first = loss(discriminator(one), discriminator(generator(z))).item()
    where = "one real point and three fakes"
    told = attempt.call(where, generator, discriminator, optimizer, one, z)
    attempt.same(told, first, 1e-5)


# ---------------------------------------------------------------------------- 4.6


class _Table:
    """Two players, two optimizers, data and noise, all from one seed: a fresh copy per trial."""

    def __init__(self, attempt: Attempt) -> None:
        self.networks = _players(attempt)
        self.real = attempt.normal(6, 2, dtype=torch.float32) + 1
        self.drawn = [attempt.normal(6, 2, dtype=torch.float32) for _ in range(12)]

    def play(self, step: Callable[..., Any], rounds: int = 2) -> tuple[Tensor, Tensor, list]:
        """Weights of both after some rounds of `step`, and what it returned each time."""
        generator, discriminator = (copy.deepcopy(network) for network in self.networks)
        optimizer_g = torch.optim.SGD(generator.parameters(), lr=0.3)
        optimizer_d = torch.optim.SGD(discriminator.parameters(), lr=0.2)
        noise = self.noise()
        arguments = generator, discriminator, optimizer_g, optimizer_d, self.real
        told = [step(*arguments, lambda: next(noise).clone()) for _ in range(rounds)]
        return _weights(generator), _weights(discriminator), told

    def noise(self) -> Iterator[Tensor]:
        while True:
            yield from self.drawn


def _game(
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real: Tensor,
    noise: Callable[[], Tensor],
    *,
    leak: bool = False,
    g_moves_in_d: bool = False,
    d_moves_in_g: bool = False,
    clear_d: Literal["before", "after", "never"] = "before",
    clear_g: bool = True,
    cut: bool = False,
    generator_loss: Callable[[Tensor], Tensor] = non_saturating.generator,
    same_fakes: bool = False,
    generator_first: bool = False,
    at_once: bool = False,
    mixed: bool = False,
    clear_other: bool = True,
    d_share: float = 1.0,
    exchanged: bool = False,
    silent: bool = False,
) -> tuple[float, float]:
    """A step of both players, with the mistakes that are asked for."""

    def discriminator_phase() -> tuple[Tensor, Tensor]:
        z = noise()
        fake = generator(z)
        fake = fake if leak or g_moves_in_d else fake.detach()
        logits = discriminator(real), discriminator(fake)
        logits = logits[::-1] if exchanged else logits
        logits = (logits[0], logits[1].detach()) if silent else logits
        loss = d_share * non_saturating.discriminator(*logits)
        if clear_d == "before":
            optimizer_d.zero_grad()
        if clear_other and (g_moves_in_d or leak):
            optimizer_g.zero_grad()
        loss.backward()
        if not at_once:
            optimizer_d.step()
        if clear_d == "after":
            optimizer_d.zero_grad()
        if g_moves_in_d:
            optimizer_g.step()
        return loss, z

    def generator_phase(z: Tensor | None = None) -> Tensor:
        fake = generator(noise() if z is None else z)
        loss = generator_loss(discriminator(fake.detach() if cut else fake))
        if clear_g and not leak:
            optimizer_g.zero_grad()
        if at_once:
            own = [p.grad.clone() for p in discriminator.parameters()]
        if clear_other and d_moves_in_g:
            optimizer_d.zero_grad()
        loss.backward()
        optimizer_g.step()
        if d_moves_in_g:
            optimizer_d.step()
        if at_once:
            for parameter, gradient in zip(discriminator.parameters(), own, strict=True):
                parameter.grad = parameter.grad if mixed else gradient
            optimizer_d.step()
        return loss

    if generator_first:
        g_loss = generator_phase()
        d_loss, _ = discriminator_phase()
    else:
        d_loss, z = discriminator_phase()
        g_loss = generator_phase(z if same_fakes else None)
    return d_loss.item(), g_loss.item()


_BROKEN_GAMES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("both move in both phases", {"g_moves_in_d": True, "d_moves_in_g": True}),
    (
        "both move in both phases",
        {"g_moves_in_d": True, "d_moves_in_g": True, "clear_other": False},
    ),
    ("discriminator moves twice", {"d_moves_in_g": True}),
    ("discriminator moves twice", {"d_moves_in_g": True, "clear_other": False}),
    ("generator moves twice", {"g_moves_in_d": True}),
    ("generator moves twice", {"g_moves_in_d": True, "clear_other": False}),
    ("leak into the generator", {"leak": True}),
    ("leak into the generator", {"leak": True, "clear_other": False}),
    ("halved", {"d_share": 0.5}),
    ("old gradients in the discriminator", {"clear_d": "after"}),
    ("old gradients in the discriminator", {"clear_d": "never"}),
    ("old gradients in the generator", {"clear_g": False}),
    ("old gradients everywhere", {"clear_d": "never", "clear_g": False}),
    ("labels exchanged", {"exchanged": True}),
    ("fakes teach nothing", {"silent": True}),
    ("generator cut off", {"cut": True}),
    ("generator cut off", {"cut": True, "clear_d": "never"}),
    ("pushed away", {"generator_loss": lambda a: softplus(a).mean()}),
    ("saturating loss", {"generator_loss": minimax.generator}),
    ("the same fakes twice", {"same_fakes": True}),
    ("generator first", {"generator_first": True}),
    ("both at once", {"at_once": True}),
    ("both at once", {"at_once": True, "same_fakes": True}),
    ("gradients mixed", {"at_once": True, "mixed": True}),
    ("gradients mixed", {"at_once": True, "mixed": True, "same_fakes": True}),
)


@exercise(
    "4.6",
    see="section 4.8, the two phases and `my_gan_step`",
    learnt="Two players, two optimizers, and in each phase one of them moves: training.gan_step, "
    "which trains the networks of lectures 6 and 18, is this step with a choice of losses.",
    hints={
        "both move in both phases": "Two optimizers, but both still step in both phases. The "
        "update is that of the broken step: each player helps the other one half of the time.",
        "discriminator moves twice": "The discriminator also steps on the generator's loss: it "
        "learns to be fooled.",
        "generator moves twice": "The generator also steps on the discriminator's loss: it learns "
        "to be caught.",
        "leak into the generator": "The generator's step contains the gradient of the "
        "discriminator's loss, the opposite of what it wants: backward() of the first phase went "
        "through the fakes, and nothing cleared it before the second.",
        "old gradients in the discriminator": "The first round is right, the second is not: the "
        "generator's backward() fills the discriminator's gradients too, and they are still there "
        "when its next turn comes. When must they be cleared?",
        "old gradients in the generator": "The generator's gradient of the first round is still "
        "there in the second: backward() adds.",
        "old gradients everywhere": "No gradient is ever cleared: each step contains all the "
        "earlier ones.",
        "generator cut off": "The generator did not move. Either its optimizer never steps (or the "
        "two optimizers are exchanged), or no gradient arrives: in its own phase it must reach the "
        "generator through the discriminator, and nothing may be cut.",
        "labels exchanged": "The discriminator learns to call real examples fakes and fakes real: "
        "its labels are exchanged.",
        "fakes teach nothing": "The fakes do not move the discriminator: their logits are cut off. "
        "Cut between the generator and the discriminator, not behind both.",
        "pushed away": "The generator descends the discriminator's term for fakes: it learns to be "
        "caught. Its fakes should be taken for real.",
        "saturating loss": "The generator descends the minimax loss log(1 - D). The non-saturating "
        "one is asked for, as in the broken step.",
        "the same fakes twice": "Both phases use the same noise. It trains, but it is another "
        "algorithm: draw once in each phase.",
        "generator first": "The generator moved first. Here the discriminator moves, and then the "
        "generator answers to the new one.",
        "both at once": "The generator's gradient is that of the old discriminator: both move at "
        "once. The players take turns: section 4.7 says why.",
        "gradients mixed": "Both backward() come before the first step: the second one adds to the "
        "discriminator's gradients too, and it steps on the sum. Finish one phase, its step "
        "included, before the other begins.",
        "halved": "The discriminator's step is half as long as it should be: its loss is the sum "
        "of the two means, as in exercise 4.2.",
        "losses exchanged": "Both updates are right, but you return the two losses in the other "
        "order: the discriminator's comes first.",
        "left frozen": "Parameters no longer require a gradient after your step: from the next "
        "round on that network would stand still. Undo the freezing.",
    },
)
def mended_gan_step(attempt: Attempt) -> None:
    """One update of D, then one of G."""
    table = _Table(attempt)
    where = "two rounds with six points"

    def watched(generator: nn.Module, discriminator: nn.Module, *rest: Any) -> Any:
        told = attempt.call(where, generator, discriminator, *rest)
        weights = [*generator.parameters(), *discriminator.parameters()]
        attempt.require(all(p.requires_grad for p in weights), "left frozen")
        return told

    played = table.play(watched)
    found = torch.cat(played[:2])
    right = table.play(_game)
    wanted = torch.cat(right[:2])
    for name, broken in _BROKEN_GAMES if not _close(found, wanted) else ():
        outcome = table.play(lambda *arguments, b=broken: _game(*arguments, **b))
        attempt.require(not _close(found, torch.cat(outcome[:2])), name)
    still = _close(played[0], _weights(table.networks[0]))
    attempt.require(not still, "generator cut off")
    for i, name in ((1, "discriminator"), (0, "generator")):
        attempt.where = f"the {name}'s weights after {where}"
        attempt.same(played[i], right[i], 2e-5)
    attempt.where = f"the two losses that you return, {where}"
    for told, truth in zip(played[2], right[2], strict=True):
        attempt.same(told, truth, 2e-5, {"losses exchanged": lambda t=truth: t[::-1]})


# ---------------------------------------------------------------------------- 4.7

Loss = Callable[[Tensor, Tensor], Tensor]


def _round_matrix(
    loss_theta: Loss,
    loss_psi: Loss,
    theta: Tensor,
    psi: Tensor,
    step: float,
    alternating: bool,
    signs: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Jacobian [2, 2] of one round at (theta, psi)."""

    def play(state: Tensor) -> Tensor:
        theta, psi = state.unbind()
        moved = theta + signs[0] * step * grad(loss_theta, 0)(theta, psi)
        seen = moved if alternating else theta
        return torch.stack([moved, psi + signs[1] * step * grad(loss_psi, 1)(seen, psi)])

    return jacrev(play)(torch.stack([theta, psi]).double())


def _looking_ahead(lt: Loss, lp: Loss, t: Tensor, p: Tensor, h: float, turns: bool) -> float:
    """psi differentiates its loss through theta's move as well."""
    if not turns:
        return _growth(lt, lp, t, p, h, turns)

    def ahead(theta: Tensor, psi: Tensor) -> Tensor:
        return lp(theta - h * grad(lt, 0)(theta, psi), psi)

    return _growth(lt, ahead, t, p, h, False)


def _growth(*game: Any, signs: tuple[int, int] = (-1, -1)) -> float:
    return float(torch.linalg.eigvals(_round_matrix(*game, signs)).abs().max())


def _field(lt: Loss, lp: Loss, t: Tensor, p: Tensor, h: float, turns: bool) -> Tensor:
    """Eigenvalues of the Jacobian of the velocity field."""
    return torch.linalg.eigvals(_round_matrix(lt, lp, t, p, 1.0, False) - torch.eye(2).double())


def _cut_off(lt: Loss, lp: Loss, t: Tensor, p: Tensor, h: float, turns: bool) -> float:
    """psi sees a new theta that was detached: the Jacobian misses what it owes to the old ones."""
    matrix = _round_matrix(lt, lp, t, p, h, False)
    if turns:
        matrix[1, 0] = 0
    return float(torch.linalg.eigvals(matrix).abs().max())


def _quadratic(a: float, b: float, c: float, d: float, at: tuple[float, float]) -> tuple:
    """A game with its equilibrium at `at`; cubic terms change the curvature elsewhere."""

    def loss_theta(theta: Tensor, psi: Tensor) -> Tensor:
        u, v = theta - at[0], psi - at[1]
        return a / 2 * u**2 + b * u * v + 0.3 * u**2 * v + 0.2 * u**3

    def loss_psi(theta: Tensor, psi: Tensor) -> Tensor:
        u, v = theta - at[0], psi - at[1]
        return d / 2 * v**2 - c * u * v + 0.4 * u * v**2

    return loss_theta, loss_psi, *(torch.tensor(x, dtype=torch.float64) for x in at)


def _dirac(gamma: float) -> tuple:
    """The Dirac-GAN with R1: losses of both players and the equilibrium."""
    zero = torch.tensor(0.0, dtype=torch.float64)
    return (
        lambda theta, psi: -softplus(theta * psi),
        lambda theta, psi: softplus(theta * psi) + gamma / 2 * psi**2,
        zero,
        zero.clone(),
    )


@exercise(
    "4.7",
    see="section 4.7, equations (4.20) to (4.24)",
    learnt="One number says whether a game explodes (above 1), circles (1) or settles (below 1). "
    "The lecture's two mends for the Dirac-GAN, taking turns and R1, both bring it down. "
    "Who moves first does not matter: the products AB and BA have the same eigenvalues.",
    hints={
        "one loss for both": "You use the first loss for both players. Each descends its own; in "
        "a GAN the second is minus the first, plus a penalty.",
        "one player climbs": "One of your players goes uphill. Both losses are to be minimised: "
        "the opposition is in the losses already.",
        "field, not step": "This is an eigenvalue of the velocity field. A step of size h turns an "
        "eigenvalue of the field into another number: see the sentence below (4.22).",
        "real part": "You return the real part of an eigenvalue. How fast a rotating deviation "
        "grows is said by its modulus.",
        "determinant": "You return the determinant, by which areas grow. It is the product of the "
        "two eigenvalues; the length of a deviation follows the larger one.",
        "norm, not eigenvalue": "You return the matrix norm, the growth in one round at its worst. "
        "Over many rounds it is the eigenvalue that counts.",
        "root of the determinant": "You return the root of the determinant. That is the modulus "
        "only while the eigenvalues are a complex pair; two real ones may differ.",
        "smaller eigenvalue": "You return the smaller of the two moduli. After many rounds the "
        "larger one decides; eigvals sorts nothing, so take the maximum.",
        "symmetric supposed": "eigvalsh supposes a symmetric matrix and reads one half of it. This "
        "Jacobian is not symmetric, or nothing would rotate.",
        "maximum of complex numbers": "Complex numbers have no order, and torch refuses to take "
        "their maximum. Which real number of each eigenvalue is wanted?",
        "always in turns": "Your players always take turns: with alternating=False psi sees the "
        "old theta.",
        "new theta detached": "You cut the new theta off (detach, item, float). For psi's slope it "
        "is a number; but it depends on both old numbers, and the Jacobian of the round must see "
        "that.",
        "turns forgotten": "Your players always move at once: with alternating=True the second "
        "one sees what the first has done.",
        "looking ahead": "Your psi differentiates its loss through theta's move too, as if it had "
        "chosen that move. It sees the new theta as a number: the slope is a partial derivative. "
        "(Looking ahead is another algorithm, that of the unrolled GAN.)",
        "at the origin": "You look at the point (0, 0). The equilibrium is where it was given.",
    },
)
def round_growth(attempt: Attempt) -> None:
    """Spectral radius of one round of a game at its equilibrium."""

    def determinant(*game: Any) -> float:
        return float(torch.linalg.det(_round_matrix(*game)).abs())

    def origin(lt: Loss, lp: Loss, t: Tensor, p: Tensor, h: float, turns: bool) -> float:
        return _growth(lt, lp, torch.zeros_like(t), torch.zeros_like(p), h, turns)

    mistakes = {
        "one loss for both": lambda lt, lp, *rest: _growth(lt, lt, *rest),
        "one player climbs": lambda *game: _growth(*game, signs=(-1, 1)),
        "field, not step": lambda *game: float(_field(*game).abs().max()),
        "real part": lambda *game: float(torch.linalg.eigvals(_round_matrix(*game)).real.max()),
        "determinant": determinant,
        "norm, not eigenvalue": lambda *game: float(
            torch.linalg.matrix_norm(_round_matrix(*game), 2)
        ),
        "root of the determinant": lambda *game: determinant(*game) ** 0.5,
        "smaller eigenvalue": lambda *game: float(
            torch.linalg.eigvals(_round_matrix(*game)).abs().min()
        ),
        "symmetric supposed": lambda *game: float(
            torch.linalg.eigvalsh(_round_matrix(*game)).abs().max()
        ),
        "turns forgotten": lambda *game: _growth(*game[:-1], False),
        "always in turns": lambda *game: _growth(*game[:-1], True),
        "new theta detached": _cut_off,
        "looking ahead": _looking_ahead,
        "at the origin": origin,
    }
    answer = attempt.answer

    def told(*game: Any) -> Any:
        try:
            return answer(*game)
        except NotImplementedError as error:  # torch's own, not that of a stub
            attempt.require("Complex" not in str(error), "maximum of complex numbers")
            raise

    attempt.answer = told
    shift = 0.1 * attempt.uniform(4)
    sizes = [float(s) + x for s, x in zip(shift, (0.5, 1.3, 0.9, -0.4), strict=True)]
    game = _quadratic(*sizes, at=(0.7, -0.4))
    for alternating in (False, True):
        name = f"alternating={alternating}"
        attempt.value(
            f"a game that rotates, {name}", (*game, 0.6, alternating), _growth, mistakes=mistakes
        )
    game = _quadratic(1.5, 0.3, 0.2, 0.4, at=(0.7, -0.4))  # LAPACK finds the smaller one first
    for alternating in (False, True):
        name = f"alternating={alternating}"
        attempt.value(
            f"a game that settles, {name}", (*game, 0.6, alternating), _growth, mistakes=mistakes
        )
    for gamma, where in ((0.0, "the Dirac-GAN"), (3.0, "the Dirac-GAN with R1, gamma = 3")):
        for alternating in (False, True):
            attempt.value(
                f"{where}, alternating={alternating}",
                (*_dirac(gamma), 0.5, alternating),
                _growth,
                mistakes=mistakes,
            )
