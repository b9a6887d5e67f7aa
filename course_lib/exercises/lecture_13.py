"""Checks of the exercises on lecture 13, the VAE on images."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from course_lib import losses, models, probability
from course_lib.exercises.attempts import Attempt, Stop, near
from course_lib.exercises.registry import exercise

LECTURE = "13_vae_on_images"


# ---------------------------------------------------------------------------- 13.1


@exercise(
    "13.1",
    see="section 13.1, equation (13.1)",
    learnt="Raw numbers in, nats out, and no logarithm of a rounded 0: this is the reconstruction "
    "term of most VAEs on digits in this course, here and in the full run of lecture 19.",
    hints={
        "mean over pixels": "You average over the pixels. The pixels are independent given z, so "
        "their log-probabilities are summed; section 13.9 shows what the mean does to beta.",
        "averaged over the batch": "You return one number for the whole batch; one log-likelihood "
        "per image is wanted.",
        "minus sign": "You have the loss, the negative of the log-likelihood.",
        "sigmoid twice": "The sigmoid was applied twice. A function whose name ends in with_logits "
        "applies it itself; after your own its probabilities stay between 0.5 and 0.73.",
        "black pixels forgotten": "Only white pixels count in your sum. A black one has "
        "the log-probability log(1 - λ), not 0.",
        "arguments swapped": "Image and logits are swapped: torch's functions take the prediction "
        "first and the target second.",
        "cut off": "The value is not as low as it should be. F.binary_cross_entropy replaces "
        "logarithms below -100 by -100, and a small number inside the logarithm has such an effect "
        "too. Worse, the gradient of such a pixel is lost: use the logits directly.",
        "not finite": "A number has left the range of floats: e^a for a large a, or a probability "
        "that was rounded to 0 before its logarithm was taken. (Or you take the logarithm of a raw "
        "output, which is no probability.)",
    },
)
def bernoulli_log_likelihood(attempt: Attempt) -> None:
    """log p(x | z) of Bernoulli pixels from logits, per image."""

    def per_pixel(x: Tensor, a: Tensor) -> Tensor:
        return -binary_cross_entropy_with_logits(a, x, reduction="none").flatten(1)

    right = losses.bernoulli_log_likelihood
    mistakes = {
        "mean over pixels": lambda x, a: per_pixel(x, a).mean(1),
        "averaged over the batch": lambda x, a: right(x, a).mean(),
        "minus sign": lambda x, a: -right(x, a),
        "sigmoid twice": lambda x, a: right(x, a.sigmoid()),
        "black pixels forgotten": lambda x, a: (x * logsigmoid(a)).flatten(1).sum(1),
        "arguments swapped": lambda x, a: per_pixel(a, x).sum(1),
    }
    x = (attempt.uniform(3, 1, 2, 4) < 0.4).double()
    a = 2 * attempt.normal(3, 1, 2, 4)
    # Loose: whoever adds 1e-6 inside the logarithm is to hear of it where it matters, below.
    where, loose = "three black-and-white images", 1e-4
    attempt.value(where, (x, a), right, mistakes=mistakes, tolerance=loose)
    attempt.gradient(where, (x, a), right, of=(1,), mistakes=mistakes, tolerance=loose)
    grey = attempt.uniform(1, 3, 4, 4, dtype=torch.float32)
    logits = attempt.normal(1, 3, 4, 4, dtype=torch.float32)
    where = "one grey colour image, float32"
    attempt.value(where, (grey, logits), right, mistakes=mistakes, tolerance=1e-5)
    certain = (
        torch.tensor([[[[0.0, 1.0, 1.0, 0.0]]]]),
        torch.tensor([[[[200.0, -200.0, 200.0, -200.0]]]]),
    )
    where = "a decoder that is certain, and wrong in two of four pixels (logits ±200)"
    found = attempt.finite(where, *certain)
    if isinstance(found, Tensor) and found.shape == (1,):
        measured = f"Your value is {float(found.detach()):.1f} nats; -400 is right."
        attempt.require(found.item() < -399, "cut off", measured)
    attempt.value(where, certain, right, tolerance=1e-5)
    attempt.any_device("three images", x, a)


# ---------------------------------------------------------------------------- 13.2


@exercise(
    "13.2",
    see="section 13.1, equation (13.5)",
    learnt="With its constants the number can be compared between values of sigma, and sigma can "
    "be learned like a weight: section 13.4 does so, and lecture 19 for coloured sprites.",
    hints={
        "constant forgotten": "-½ log 2π per pixel is missing. It has no gradient, but without it "
        "the number is not a log-density.",
        "D forgotten": "The constants are counted once per image. Each of the D pixels has its own "
        "-log σ and -½ log 2π.",
        "log sigma forgotten": "-log σ is missing: without it an infinite σ is the best, since "
        "errors then cost nothing.",
        "sigma for its square": "You divide the squared error by 2σ. The exponent of a Gaussian "
        "has σ².",
        "log_sigma taken as log-variance": "You take exp(log_sigma) as the variance. It is the "
        "standard deviation.",
        "half forgotten": "The squared error has the factor 1/2.",
        "not finite": "log_sigma is any real number, and may be negative: σ is exp(log_sigma).",
        "mean over pixels": "You average over the pixels; a log-likelihood sums them.",
        "averaged over the batch": "You return one number for the whole batch; one log-likelihood "
        "per image is wanted.",
        "minus sign": "You have the loss, the negative of the log-likelihood.",
        "no gradient": "σ is to be learned, so log_sigma must stay a tensor on the way.",
    },
)
def gaussian_log_likelihood(attempt: Attempt) -> None:
    """log N(x; x_hat, sigma² I) per image, with its constants, sigma = exp(log_sigma)."""

    def right(x: Tensor, x_hat: Tensor, log_sigma: Tensor) -> Tensor:
        return losses.gaussian_log_likelihood(x, x_hat, log_sigma.exp())

    def with_terms(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function of squared error [batch], log_sigma and the number of pixels."""

        def value(x: Tensor, x_hat: Tensor, log_sigma: Tensor) -> Tensor:
            error = (x - x_hat).square().flatten(1)
            return function(error.sum(1), log_sigma, error.shape[1])

        return value

    c = 0.5 * math.log(2 * math.pi)
    mistakes = {
        "constant forgotten": with_terms(lambda e, s, d: -e / (2 * (2 * s).exp()) - d * s),
        "D forgotten": with_terms(lambda e, s, d: -e / (2 * (2 * s).exp()) - s - c),
        "log sigma forgotten": with_terms(lambda e, s, d: -e / (2 * (2 * s).exp()) - d * c),
        "sigma for its square": with_terms(lambda e, s, d: -e / (2 * s.exp()) - d * (s + c)),
        "log_sigma taken as log-variance": lambda x, h, s: right(x, h, s / 2),
        "half forgotten": with_terms(lambda e, s, d: -e / (2 * s).exp() - d * (s + c)),
        "mean over pixels": lambda x, h, s: right(x, h, s) / x[0].numel(),
        "averaged over the batch": lambda x, h, s: right(x, h, s).mean(),
        "minus sign": lambda x, h, s: -right(x, h, s),
    }
    x, x_hat = attempt.uniform(3, 1, 4, 4), attempt.uniform(3, 1, 4, 4)
    args = x, x_hat, torch.tensor(-0.9, dtype=torch.float64)
    answer = attempt.answer

    def tell() -> str:
        """The parts of the sum, each from an input on which the others are silent."""
        zero = torch.zeros((), dtype=torch.float64)
        parts = [
            (
                "With x_hat = x and log_sigma = 0 only the constants are left: yours are",
                lambda f: f(x, x, zero)[0],
            ),
            (
                "With x_hat = x, raising log_sigma from 0 to 1 changes yours by",
                lambda f: f(x, x, zero + 1)[0] - f(x, x, zero)[0],
            ),
            (
                "At log_sigma = 0 the error of the first image changes yours by",
                lambda f: f(x, x_hat, zero)[0] - f(x, x, zero)[0],
            ),
            (
                "From log_sigma = 0 to 1 the share of the error in yours is multiplied by",
                lambda f: (
                    (f(x, x_hat, zero + 1) - f(x, x, zero + 1))
                    / (f(x, x_hat, zero) - f(x, x, zero))
                )[0],
            ),
        ]
        for words, part in parts:
            mine, truth = float(part(answer)), float(part(right))
            if not near(mine, truth):
                return f"{words} {mine:.4g}; {truth:.4g} is right (an image has 16 pixels)."
        return ""

    attempt.value("three images of 16 pixels", args, right, mistakes=mistakes, tell=tell)
    for of in ((2,), (1, 2)):
        attempt.gradient("three images of 16 pixels", args, right, of=of, mistakes=mistakes)
    wide = x[:1].float(), x_hat[:1].float(), torch.tensor(1.3)
    attempt.value("one image, float32, wide noise", wide, right, mistakes=mistakes, tolerance=1e-5)
    colour = attempt.uniform(2, 3, 2, 2), attempt.uniform(2, 3, 2, 2), attempt.normal(1)[0] - 1
    attempt.value("two colour images", colour, right, mistakes=mistakes)


# ---------------------------------------------------------------------------- 13.3


@exercise(
    "13.3",
    see="section 13.1, equations (13.7) and (13.8)",
    learnt="At its best sigma the reconstruction term is the logarithm of the error, with no "
    "weight left to tune; lecture 19 measures what the innocent choice sigma = 1 loses.",
    hints={
        "variance for sigma": "Your first result is σ². Its square root is wanted.",
        "one sigma per image": "There is one σ for all images and pixels, so the mean is over all "
        "of them.",
        "mean of sigmas": "You average the σ of the images. Variances may be averaged; the square "
        "root comes last.",
        "summed": "You sum the squared errors. (13.7) is about their mean per pixel.",
        "spread about its own mean": "You took the standard deviation of the error, which forgives "
        "a decoder that is too bright everywhere. Errors count from zero.",
        "absolute error": "That is the mean absolute error, the best scale of a Laplace law. A "
        "Gaussian asks for the square.",
        "per pixel": "Your log-likelihood is that of one pixel. An image has D of them.",
        "constant forgotten": "log 2π is missing from your log-likelihood.",
        "error term forgotten": "The squared error is missing from your log-likelihood. At the "
        "best σ it does not vanish: M / σ² = 1 for each pixel.",
        "sigma in the logarithm": "Inside the logarithm of (13.8) stands M, which is σ² and not σ.",
        "summed over the batch": "Your log-likelihood is the sum over the images; their mean is "
        "wanted.",
        "minus sign": "You have the negative of the log-likelihood.",
    },
)
def best_sigma(attempt: Attempt) -> None:
    """The sigma that maximises the average Gaussian log-likelihood, and that value."""

    def right(x: Tensor, x_hat: Tensor) -> tuple[float, float]:
        sigma = (x - x_hat).square().mean().sqrt()
        return float(sigma), float(losses.gaussian_log_likelihood(x, x_hat, sigma).mean())

    def mistakes(x: Tensor, x_hat: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        squares, d = (x - x_hat).square(), x[0].numel()
        m, each = squares.mean(), squares.flatten(1).mean(1)
        log_2pi = math.log(2 * math.pi)
        best = -d / 2 * (1 + log_2pi + m.log())
        return {
            "variance for sigma": m,
            "one sigma per image": each.sqrt(),
            "mean of sigmas": each.sqrt().mean(),
            "summed": squares.sum().sqrt(),
            "spread about its own mean": ((x - x_hat).std(correction=0), (x - x_hat).std()),
            "absolute error": (x - x_hat).abs().mean(),
        }, {
            "per pixel": best / d,
            "constant forgotten": -d / 2 * (1 + m.log()),
            "error term forgotten": -d / 2 * (log_2pi + m.log()),
            "sigma in the logarithm": -d / 2 * (1 + log_2pi + m.log() / 2),
            "summed over the batch": best * len(x),
            "minus sign": -best,
        }

    for where, n, shape, dtype, tolerance in (
        ("three images of 16 pixels", 3, (1, 4, 4), torch.float64, 1e-6),
        ("one colour image, float32", 1, (3, 2, 3), torch.float32, 1e-5),
    ):
        x = attempt.uniform(n, *shape, dtype=dtype)
        scale = 0.1 * torch.arange(1, n + 1, dtype=dtype).view(-1, 1, 1, 1)  # images differ
        x_hat = x + 0.1 + scale * attempt.normal(n, *shape, dtype=dtype)
        wrong = mistakes(x, x_hat) if n > 1 else ()
        attempt.each(where, (x, x_hat), right(x, x_hat), wrong, tolerance)


# ---------------------------------------------------------------------------- 13.4


@exercise(
    "13.4",
    see="section 13.5, under 'One coordinate at a time'",
    learnt="Decoded row by row this is the picture of section 13.5, and of the last section of "
    "lecture 19; the coordinates worth moving are those with the largest KL.",
    hints={
        "rows all alike": "All rows are equal. They are one and the same tensor, changed again and "
        "again: each row needs a copy of its own.",
        "moved, not set": "You add the values to the coordinate. A traversal sets it, so that the "
        "same column means the same place for every image.",
        "others forgotten": "The other coordinates are zero. They should keep the code of the "
        "image.",
        "off by one": "Another coordinate moves than the one that was asked for: they are counted "
        "from 0.",
        "changes its input": "The next traversal of this image would start from another code.",
    },
)
def traverse_code(attempt: Attempt) -> None:
    """Copies of one code in which one coordinate takes the given values."""

    def right(z: Tensor, coordinate: int, values: Tensor) -> Tensor:
        rows = z.repeat(len(values), 1)
        rows[:, coordinate] = values
        return rows

    def alike(z: Tensor, coordinate: int, values: Tensor) -> Tensor:
        return right(z, coordinate, values[-1:].expand(len(values)))

    mistakes = {
        "rows all alike": alike,
        "moved, not set": lambda z, j, v: right(z, j, z[j] + v),
        "others forgotten": lambda z, j, v: right(torch.zeros_like(z), j, v),
        "off by one": lambda z, j, v: right(z, j - 1, v),
    }
    values = torch.linspace(-2.5, 2.5, 5, dtype=torch.float64)
    args = attempt.normal(4), 2, values
    attempt.value("five values of the third of four coordinates", args, right, mistakes=mistakes)
    args = attempt.normal(3, dtype=torch.float32), 0, torch.tensor([0.5, -1.5])
    attempt.value("two values of the first coordinate", args, right, mistakes=mistakes)
    attempt.value("one latent, one value", (attempt.normal(1), 0, values[:1]), right)


# ---------------------------------------------------------------------------- 13.5


def _vae_step(
    vae: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    noise: Tensor,
    *,
    target: Callable[[Tensor], Tensor] = lambda x: (x + 1) / 2,
    seen: Callable[[Tensor], Tensor] = lambda x: (x + 1) / 2,
    code: Callable[[Tensor, Tensor], Tensor] = lambda mu, draw: draw,
    width: float = 0.5,
    logits: Callable[[Tensor], Tensor] = lambda a: a,
    pixels: Callable[[Tensor], Tensor] = lambda s: s.flatten(1).sum(1),
    kl_weight: float = 1.0,
    kl_mean: bool = False,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss.mean(),
    clear: bool = True,
) -> Tensor:
    """The mended step, or what it becomes when one of its parts is replaced."""
    mu, log_var = vae.encode(seen(x))
    z = code(mu, mu + (width * log_var).exp() * noise)
    a = logits(vae.decode(z))
    score = pixels(binary_cross_entropy_with_logits(a, target(x), reduction="none"))
    kl = probability.kl_to_standard_normal(mu, log_var)
    kl = kl / mu.shape[1] if kl_mean else kl
    loss = scale(score + kl_weight * kl)
    if clear:
        optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@exercise(
    "13.5",
    see="section 13.1, equation (13.4), and section 13.3, equation (13.14)",
    learnt="Two symptoms, two causes: a cross-entropy below zero means a wrong range; a KL that "
    "dies at once, with one picture for all, means that nothing of the picture reaches the "
    "encoder.",
    hints={
        "no step": "The weights are the same after your step as before it.",
        "still broken": "The weights move as in the broken step. A loss of coins cannot fall below "
        "zero: what are the targets? And which path leads from the picture's error to the encoder?",
        "range": "The sample has its gradient back, but the cross-entropy still sees pixels of "
        "[-1, 1]: a pixel at -1 has a score without a maximum, (13.4).",
        "sample without gradient": "The range is mended, but all that the encoder hears is the KL: "
        "no gradient of the reconstruction passes through z. A mended draw keeps it.",
        "clamped": "Cutting at 0 makes every pixel of the darker half black. The interval [-1, 1] "
        "has to be moved and shrunk.",
        "encoder not mapped": "The target is mapped to [0, 1], but the encoder is still shown "
        "[-1, 1]. Whoever reconstructs images later will give it [0, 1].",
        "sigmoid twice": "The decoder's logits go through a sigmoid before the cross-entropy with "
        "logits, which applies it again.",
        "mean over pixels": "The score is averaged over the pixels, the KL is summed over the "
        "latents: beta is multiplied by the number of pixels, section 13.9.",
        "KL averaged": "The KL is averaged over the latents, the score is summed over the pixels: "
        "beta is divided by the number of latents.",
        "both averaged": "Score and KL are averaged over their own dimensions: pixels and latents "
        "have different numbers of them, and beta is multiplied by their ratio. Sum over both, and "
        "average over the images.",
        "summed over the batch": "The loss is summed over the batch: each step is as many times "
        "too large as there are images.",
        "variance for deviation": "You multiply the noise by exp(log_var), the variance. The "
        "standard deviation is exp(log_var / 2).",
        "no noise": "Your code is mu itself, without noise: an autoencoder. The encoder's width is "
        "then never tested by the decoder.",
        "noise of its own": "Your step draws its own noise: with other `noise` it does the same. "
        "Use the argument, so that the step can be repeated.",
        "KL forgotten": "The KL does not move the weights: it is missing from your loss, or its "
        "gradient is cut off.",
        "KL subtracted": "You subtract the KL. In the ELBO it is subtracted; the loss is minus "
        "the ELBO.",
        "half of the KL forgotten": "Your KL is twice the right one: (12.23) has a 1/2.",
        "uphill": "The weights go the other way: you climb the loss.",
        "several at once": "More than one thing is left to mend:",
        "gradients pile up": "One step is right, the second is not: the gradients of the first are "
        "still there when the second adds its own.",
        "graph kept": "The loss that you return still holds its graph; a list of such losses fills "
        "the memory. Detach it.",
        "other weights": "After your step the weights are not where one step of SGD down the "
        "negative ELBO puts them.",
        "changes its input": "The batch may be used again, for a picture or a second network.",
    },
)
def mended_vae_step(attempt: Attempt) -> None:
    """One step down the negative ELBO for images given in [-1, 1]."""
    torch.manual_seed(100 + attempt.seed)
    start = models.mlp_vae((1, 4, 4), latent_dim=3, hidden=(6,)).double()
    with torch.no_grad():
        for p in start.parameters():
            p *= 2.5  # so that the code matters
    x = 2 * attempt.uniform(2, 5, 1, 4, 4) - 1
    noise = attempt.normal(2, 5, 3)

    def after(
        step: Callable[..., Any], steps: int, n: int, noise: Tensor = noise, seed: int = 0
    ) -> tuple[Any, Tensor]:
        """What the last of some steps returned, and the weights after it."""
        torch.manual_seed(seed)
        vae = copy.deepcopy(start)
        optimizer = torch.optim.SGD(vae.parameters(), lr=0.05)
        for i in range(steps):
            found = step(vae, optimizer, x[i, :n], noise[i, :n])
        return found, torch.cat([p.detach().flatten() for p in vae.parameters()])

    def variant(**changes: Any) -> Callable[..., Tensor]:
        return lambda *args: _vae_step(*args, **changes)

    def as_given(x: Tensor) -> Tensor:
        return x

    def cut(mu: Tensor, draw: Tensor) -> Tensor:
        return draw.detach()

    mistakes = {
        "still broken": variant(target=as_given, seen=as_given, code=cut),
        "range": variant(target=as_given, seen=as_given),
        "sample without gradient": variant(code=cut),
        "clamped": variant(target=lambda x: x.clamp(0, 1), seen=lambda x: x.clamp(0, 1)),
        "encoder not mapped": variant(seen=as_given),
        "sigmoid twice": variant(logits=torch.sigmoid),
        "mean over pixels": variant(pixels=lambda s: s.flatten(1).mean(1)),
        "KL averaged": variant(kl_mean=True),
        "both averaged": variant(pixels=lambda s: s.flatten(1).mean(1), kl_mean=True),
        "summed over the batch": variant(scale=lambda loss: loss.sum()),
        "variance for deviation": variant(width=1.0),
        "no noise": variant(code=lambda mu, draw: mu),
        "KL forgotten": variant(kl_weight=0.0),
        "KL subtracted": variant(kl_weight=-1.0),
        "half of the KL forgotten": variant(kl_weight=2.0),
        "uphill": variant(scale=lambda loss: -loss.mean()),
    }
    ranges = {
        "": lambda x: (x + 1) / 2,
        "is given [-1, 1].": as_given,
        "is given numbers cut off at 0.": lambda x: x.clamp(0, 1),
    }
    codes = {
        "": lambda mu, draw: draw,
        "No gradient of the picture passes through z.": cut,
        "The code is mu itself.": lambda mu, draw: mu,
    }

    def faults(weights: Tensor, steps: int, n: int) -> str:
        """What is left to mend, if two or three of the likeliest faults explain the weights."""
        for (seen, f), (target, g), (code, h) in itertools.product(
            ranges.items(), ranges.items(), codes.items()
        ):
            made = after(variant(seen=f, target=g, code=h), steps, n)[1]
            if torch.allclose(weights, made, rtol=0, atol=1e-7):
                told = [f"The encoder {seen}"] * bool(seen)
                told += [f"The cross-entropy {target}"] * bool(target)
                return " ".join([*told, *[code] * bool(code)])
        return ""

    def examine(where: str, steps: int, n: int, known: Mapping[str, Callable[..., Any]]) -> Any:
        def answer(*args: Any) -> Any:
            return attempt.call(where, *args)

        found, weights = after(answer, steps, n)
        right, wanted = after(_vae_step, steps, n)
        before = torch.cat([p.detach().flatten() for p in start.parameters()])
        attempt.require(not weights.equal(before), "no step")
        gap = float((weights - wanted).abs().max())
        attempt.tried += 1
        if not gap <= 1e-7:
            for name, wrong in known.items():
                if torch.allclose(weights, after(wrong, steps, n)[1], rtol=0, atol=1e-7):
                    attempt.fail(name)
            if told := faults(weights, steps, n):
                raise Stop("wrong", f"{attempt.hints['several at once']} {told}", "several at once")
            if weights.equal(after(answer, steps, n, -noise)[1]):
                # Its own noise differs with torch's seed; none at all does not.
                own = not weights.equal(after(answer, steps, n, seed=1)[1])
                attempt.fail("noise of its own" if own else "no noise")
            attempt.fail("other weights", f"The largest difference of a weight is {gap:.2g}.")
        return found, right

    found, right = examine("one step on five images", 1, 5, mistakes)
    attempt.same(found, float(right))
    attempt.require(not getattr(found, "requires_grad", False), "graph kept")
    examine("two steps", 2, 5, {"gradients pile up": variant(clear=False)})
    examine("one step on one image", 1, 1, mistakes)


# ---------------------------------------------------------------------------- 13.6


@exercise(
    "13.6",
    see="section 13.6, equation (13.15), and section 13.8, (def 13.3)",
    learnt="These four numbers are the check-up of a code: section 13.8 ranks the coordinates by "
    "them, and lecture 19 counts the active units of a full run and compares with a paper.",
    hints={
        "summed over latents": "You sum over the coordinates, as for the loss. Here the question "
        "is which coordinate costs what: average over the images, keep the coordinates.",
        "not averaged": "You sum over the images; the average is wanted.",
        "sigma for its square": "The part within is the average of σ². You averaged σ.",
        "mean of the logarithms": "You average log σ² and exponentiate afterwards. That is a "
        "geometric mean, never above the average that (13.15) needs.",
        "n - 1": "(13.15) is exact with the divisor N; torch's var divides by N - 1 unless told "
        "otherwise.",
        "deviation for variance": "The part between is a variance; you give its square root.",
        "KL as the test": "So many coordinates have a KL above 0.01, or a mean other than 0. One "
        "with the same mean for every image costs nats and tells nothing apart.",
        "deviation as the test": "So many coordinates have a standard deviation above 0.01. The "
        "threshold is one for the variance.",
        "width counted": "You count all coordinates, as by the variance of z, which is near 1 for "
        "a dead one too. The part between alone says whether the mean moves with the image.",
    },
)
def latent_report(attempt: Attempt) -> None:
    """KL, variance within, variance between of each coordinate, and the number of active ones."""

    def kl(mu: Tensor, log_var: Tensor) -> Tensor:
        return 0.5 * (mu.square() + log_var.expm1() - log_var)

    def right(mu: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        between = mu.var(0, correction=0)
        count = int((between > 0.01).sum())
        return kl(mu, log_var).mean(0), log_var.exp().mean(0), between, count

    def mistakes(mu: Tensor, log_var: Tensor) -> tuple[dict[str, Any], ...]:
        rate, within, between, _ = right(mu, log_var)
        return (
            {
                "summed over latents": kl(mu, log_var).sum(1),
                "not averaged": kl(mu, log_var).sum(0),
            },
            {
                "sigma for its square": (0.5 * log_var).exp().mean(0),
                "mean of the logarithms": log_var.mean(0).exp(),
                "not averaged": log_var.exp().sum(0),
            },
            {"n - 1": mu.var(0), "deviation for variance": between.sqrt()},
            {
                "KL as the test": int((rate > 0.01).sum()),
                "deviation as the test": int((between.sqrt() > 0.01).sum()),
                "width counted": int((within + between > 0.01).sum()),
            },
        )

    n = 6
    # How far the means move, where they lie, and log σ²: two at work, one asleep, one that is
    # always off centre, and three that move a little, below the threshold and far below it.
    moves = torch.tensor([1.0, 0.4, 0.0, 0.0, 0.05, 0.05, 1e-4], dtype=torch.float64)
    centre = torch.tensor([0.0, 0.2, 0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    width = torch.tensor([-3.0, -0.5, 0.0, -1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    pattern = torch.linspace(-1, 1, n, dtype=torch.float64)[torch.randperm(n)][:, None]
    mu = centre + moves * (pattern + 0.05 * attempt.normal(n, 7))
    log_var = width + moves.clamp(max=0.5) * attempt.normal(n, 7)
    args = mu, log_var
    attempt.each("six images, seven latents", args, right(*args), mistakes(*args))
    dead = 1e-3 * attempt.normal(4, 3, dtype=torch.float32)
    args = dead, 1e-3 * attempt.normal(4, 3, dtype=torch.float32)
    attempt.each("a collapsed code, float32", args, right(*args), (), 1e-5)
    args = attempt.normal(1, 2), attempt.normal(1, 2)
    attempt.each("one image", args, right(*args))


# ---------------------------------------------------------------------------- 13.7


def _log_densities(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log N(z_i; mu_j, diag exp(log_var_j)) of each coordinate, [i, j, d]."""
    square = (z[:, None] - mu).square() * (-log_var).exp()
    return -0.5 * (square + log_var + math.log(2 * math.pi))


@exercise(
    "13.7",
    see="section 13.6, (def 13.2) and equation (13.16)",
    learnt="The lecture split the KL for five images on a line; yours works for any code. Note its "
    "limit: from n images the information can never come out above log n.",
    hints={
        "n forgotten": "q(z) is the average of the n posteriors. Yours is their sum, log n nats "
        "too high.",
        "coordinate by coordinate": "You average over the images for each coordinate by itself. "
        "That is the product of the marginals, in which the coordinates know nothing of each "
        "other; sum over the coordinates first.",
        "wrong axis": "You average over the codes at one posterior. q(z) keeps the code and "
        "averages over the posteriors of all images.",
        "mean of logarithms": "You average the log-densities. q(z) is an average of densities, so "
        "the mean belongs inside the logarithm.",
        "own posterior left out": "q(z) is the average over all n images, the code's own among "
        "them.",
        "prior forgotten": "The mismatch compares q(z) with the prior; yours is E log q(z) alone.",
        "minus sign": "The mismatch is a KL with q(z) first: log q(z) - log p(z).",
        "closed form": "Your mismatch is the closed-form KL minus the information. It has the same "
        "mean, but here both parts are averages over the same draws, so that their errors show.",
        "in the wrong order": "The two results are swapped: information first, mismatch second.",
        "variance for deviation": "The width of the posteriors is wrong: their standard deviation "
        "is exp(log_var / 2).",
        "2 pi in one density": "One of the densities has its constant -½ log 2π per coordinate, "
        "another has not: they cancel only if both or neither have it.",
        "log_var taken as the variance": "The result holds NaN on ordinary numbers, as where a "
        "logarithm or a root is taken of log_var, which may be negative. log_var is log s² "
        "already; exp(log_var) is the variance.",
        "not finite": "In a hundred dimensions a density leaves the range of floating point: stay "
        "in logarithms, and take the largest term out before you exponentiate.",
    },
)
def information_and_mismatch(attempt: Attempt) -> None:
    """The two parts of the mean KL, (13.16), from one code of each image."""

    def split(z: Tensor, mu: Tensor, log_var: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
        own = _log_densities(z, mu, log_var).sum(2).diagonal()
        log_p = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
        return (own - log_q).mean(), (log_q - log_p).mean()

    def right(z: Tensor, mu: Tensor, log_var: Tensor) -> tuple[float, float]:
        z, mu, log_var = z.double(), mu.double(), log_var.double()
        table = _log_densities(z, mu, log_var).sum(2)
        found = split(z, mu, log_var, table.logsumexp(1) - math.log(len(z)))
        return float(found[0]), float(found[1])

    def mistakes(z: Tensor, mu: Tensor, log_var: Tensor) -> tuple[dict[str, Any], ...]:
        each = _log_densities(z, mu, log_var)
        table, n, d = each.sum(2), len(z), z.shape[1]
        others = table.masked_fill(torch.eye(n, dtype=torch.bool), -math.inf)
        information, mismatch = right(z, mu, log_var)
        log_p = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1).mean()
        constant = d / 2 * math.log(2 * math.pi)
        wrong = {
            "n forgotten": table.logsumexp(1),
            "coordinate by coordinate": (each.logsumexp(1) - math.log(n)).sum(1),
            "wrong axis": table.logsumexp(0) - math.log(n),
            "mean of logarithms": table.mean(1),
            "own posterior left out": others.logsumexp(1) - math.log(n - 1),
        }
        splits = {name: split(z, mu, log_var, log_q) for name, log_q in wrong.items()}
        splits["variance for deviation"] = right(z, mu, 2 * log_var)
        splits["in the wrong order"] = mismatch, information
        second = {
            "prior forgotten": mismatch + log_p,
            "minus sign": -mismatch,
            "closed form": float(probability.kl_to_standard_normal(mu, log_var).mean())
            - information,
            "2 pi in one density": (mismatch + constant, mismatch - constant),
        }
        first = {name: pair[0] for name, pair in splits.items()}
        first["2 pi in one density"] = information + constant, information - constant
        return first, second

    def codes(n: int, d: int, spread: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple:
        mu = 1.3 * spread * attempt.normal(n, d, dtype=dtype)
        log_var = 0.4 * attempt.normal(n, d, dtype=dtype) - 1.2
        return mu + (0.5 * log_var).exp() * attempt.normal(n, d, dtype=dtype), mu, log_var

    args = codes(6, 2)
    found = attempt.call("codes of six images, two latents", *args)
    values = found if isinstance(found, tuple | list) else (found,)
    holes = any(torch.as_tensor(x).isnan().any() for x in values if isinstance(x, Tensor | float))
    attempt.require(not holes, "log_var taken as the variance")
    attempt.each("codes of six images, two latents", args, right(*args), mistakes(*args))
    args = codes(5, 3, 0.3)
    attempt.each("five clouds that overlap", args, right(*args), mistakes(*args))
    args = codes(7, 100, 1.0, torch.float32)
    args = args[1] + 0.05 * (args[0] - args[1]), args[1], args[2] - 5
    attempt.each("a hundred latents, float32", args, right(*args), tolerance=1e-4)
    args = codes(7, 600)
    args = args[1] + 0.05 * (args[0] - args[1]), args[1], args[2] - 5
    attempt.each("six hundred latents", args, right(*args))
    args = codes(1, 4)
    attempt.each("a single image", args, right(*args))
