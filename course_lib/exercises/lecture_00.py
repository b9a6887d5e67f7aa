"""Checks of the exercises on the article from which the course grew.

It is the syllabus of the course, not the truth: these exercises read its formulas, shapes, loss and
references as a referee would. They have no lecture of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from course_lib import probability
from course_lib.exercises.attempts import Attempt, difference, near, shown
from course_lib.exercises.registry import exercise
from course_lib.models.article import SamePadConv2d

LECTURE = "00_article"


def _words(
    attempt: Attempt, right: Mapping[Any, str], words: tuple[str, ...]
) -> tuple[dict[Any, str], str]:
    """The words that an answer gives, one per key of `right`, and how many of them are right."""
    found = attempt.call("your dictionary")
    if not isinstance(found, Mapping):
        attempt.same(found, right)
    said = {key: str(word).strip().lower() for key, word in found.items()}
    missing = [repr(k) for k in right if k not in said]
    extra = [repr(k) for k in said if k not in right]
    told = f"Missing: {', '.join(missing) or 'none'}; not asked for: {', '.join(extra) or 'none'}."
    attempt.require(not missing and not extra, "other entries", told)
    unknown = sorted({word for word in said.values() if word not in words})
    attempt.require(not unknown, "other words", f"Unknown: {', '.join(map(repr, unknown))}.")
    return said, f"{sum(said[k] == right[k] for k in right)} of {len(right)} are right."


# ---------------------------------------------------------------------------- 0.1


@exercise(
    "0.1",
    see="lecture 13, section 13.2, equation (13.10)",
    learnt="A decoder trained on codes that the prior never draws has not been trained for drawing "
    "at all; the KL term of lecture 12 is there to move the codes to where the prior is.",
    hints={
        "the probability itself": "You return the probability. Its logarithm is wanted: for the "
        "article's code the probability is far below the smallest number that a float can hold.",
        "natural logarithm": "This is the natural logarithm; the powers of ten are wanted.",
        "base two": "This is the logarithm to the base 2.",
        "minus sign": "A probability is at most 1, so its logarithm cannot be positive.",
        "one coordinate": "This does not depend on k as it should: k independent coordinates must "
        "all be non-negative at once.",
        "raised": "If this is a math domain error, it is log 0: the probability was computed first "
        "and rounded to 0. Take the logarithm on paper, before there is a small number.",
        "not finite": "Somewhere the probability itself was computed and rounded to 0. Turn the "
        "logarithm of the product into a sum on paper.",
    },
)
def log10_share_of_prior(attempt: Attempt) -> None:
    """log10 P(z_1 >= 0, ..., z_k >= 0) for z ~ N(0, I)."""
    mistakes = {
        "the probability itself": lambda k: 0.5**k,
        "natural logarithm": lambda k: -k * math.log(2),
        "base two": lambda k: -float(k),
        "minus sign": lambda k: k * math.log10(2),
        "one coordinate": lambda k: -math.log10(2),
    }
    for k in (3 + attempt.seed, 2048):
        attempt.value(f"k = {k}", (k,), lambda k: -k * math.log10(2), mistakes=mistakes)


# ---------------------------------------------------------------------------- 0.2

FORMULA_WORDS = (
    "kinds differ",
    "not a density",
    "no game",
    "nothing drawn",
    "unbound",
    "order",
    "sound",
)
_FORMULAS = {
    "a": "kinds differ",
    "b": "not a density",
    "c": "sound",
    "d": "no game",
    "e": "nothing drawn",
    "f": "nothing drawn",
    "g": "kinds differ",
    "h": "unbound",
    "i": "order",
    "j": "sound",
}


@exercise(
    "0.2",
    see="lecture 04, section 4.1 (the table) and equation (4.7); lecture 12, section 12",
    learnt="What kind of thing is each side, which letters are bound, who minimises: these three "
    "questions find more errors than any calculation, and lectures 04 and 12 ask them throughout.",
    hints={
        "other entries": "The keys are the letters of the table, each once: nothing left out, "
        "nothing added.",
        "other words": "Answer with the words of the list in the statement, spelt as there.",
        "kinds not compared": "Read (a) and (g) again, and write below each side, or each "
        "argument, what kind of thing it is: an image, a vector, a number, a distribution.",
        "what sums to one": "Read (b) again. Both sides are numbers, so no kind is wrong. Add up "
        "each side over all images.",
        "fault found where none is": "Read (c) and (j) again: you find fault with one of them. Is "
        "every letter bound, does each argument fit, is what it claims true? Nothing else counts.",
        "who wants what": "Read (d) again, and ask what becomes of the discriminator if it "
        "minimises that number too.",
        "a point or a draw": "Read (e) and (f) again. Pass the same image twice: what can differ "
        "between the two results? What would a variational autoencoder need there?",
        "which letters are bound": "Read (h) again. For each letter inside the brackets ask who "
        "says what it is. For the letter below the E ask where it occurs.",
        "which comes first": "Read (i) again: all letters are bound and all kinds fit. Compare it "
        "with the term of the ELBO, sign by sign and argument by argument.",
    },
)
def article_formulas(attempt: Attempt) -> None:
    """What is wrong with each formula, one word each."""
    said, told = _words(attempt, _FORMULAS, FORMULA_WORDS)
    for hint, letters in (
        ("kinds not compared", "ag"),
        ("what sums to one", "b"),
        ("who wants what", "d"),
        ("a point or a draw", "ef"),
        ("which letters are bound", "h"),
        ("which comes first", "i"),
        ("fault found where none is", "cj"),
    ):
        attempt.require(all(said[x] == _FORMULAS[x] for x in letters), hint, told)


# ---------------------------------------------------------------------------- 0.3

Layer = tuple[Any, ...]
GENERATOR: list[Layer] = [
    ("dense", 128),
    ("dense", 1024),
    ("dense", 7 * 7 * 256),
    ("reshape", -1, 7, 7, 256),
    ("conv_transpose", 128, 5, 2),
    ("conv_transpose", 64, 5, 2),
    ("conv_transpose", 3, 5, 2),
]
ENCODER: list[Layer] = [
    ("conv", 32, 5, 2),
    ("conv", 64, 5, 2),
    ("conv", 128, 5, 2),
    ("flatten",),
]
DECODER: list[Layer] = [
    ("dense", 4096),
    ("dense", 1024 * 16 * 16),
    ("reshape", -1, 16, 16, 128),
    ("conv_transpose", 64, 5, 2),
    ("conv_transpose", 32, 5, 2),
    ("conv_transpose", 3, 5, 2),
]


def _shapes(
    shape: tuple[int, ...],
    layers: list[Layer],
    down: Callable[[int, int, int], int] = lambda n, k, s: -(-n // s),
    up: Callable[[int, int, int], int] = lambda n, k, s: n * s,
    infer: bool = True,
    first: bool = False,
    square: bool = False,
) -> list[tuple[int, ...]]:
    """Shapes after each layer; the options are what students do instead."""
    found = []
    for kind, *numbers in layers:
        if kind == "dense":
            shape = (shape[0], numbers[0])
        elif kind == "flatten":
            shape = (shape[0], math.prod(shape[1:]))
        elif kind == "reshape":
            batch = math.prod(shape) // math.prod(numbers[1:]) if infer else shape[0]
            shape = (batch, *numbers[1:])
        else:
            channels, kernel, stride = numbers
            size = down if kind == "conv" else up
            sides = (shape[1],) * 2 if square else shape[1:3]
            shape = (shape[0], *(size(n, kernel, stride) for n in sides), channels)
        found.append(shape)
    if first:
        return [(s[0], s[3], s[1], s[2]) if len(s) == 4 else s for s in found]
    return found


@exercise(
    "0.3",
    see="lecture 06, equation (6.3) and section 6; lecture 13, section 13.2, (13.9) and (13.12)",
    learnt="Shapes alone show that the generator's 56 pixels are the size of no data set in use, "
    "that the code is longer than the digit, and that B codes become 8B images: exercise 0.5.",
    hints={
        "rounded down": 'You round down where the size does not divide. Padding "same" is defined '
        "by its result: with stride s every size n becomes n/s, rounded up.",
        "valid padding": "These are the sizes without any padding. The article writes 'same' in "
        "every convolution.",
        "transposed without padding": "Your transposed convolutions grow by the kernel, as without "
        'padding. With "same" they undo the shape of the convolution exactly.',
        "batch kept": "Your reshape keeps the number of images, whatever the layer before it made. "
        "The article writes -1 there: count the numbers before and after.",
        "minus one kept": "Your reshape returns the -1 itself. It stands for a number: the count "
        "before the reshape, divided by the product of the sizes that it names.",
        "height for both": "Your maps are square whatever comes in. Height and width may differ.",
        "channels first": "Your maps have the channels first, as in PyTorch. The article is in "
        "TensorFlow: [batch, height, width, channels].",
        "last shape only": "You return the last shape. One shape per layer is wanted.",
        "input counted": "Your list begins with the shape of the input. The first entry is what "
        "comes out of the first layer.",
        "batch left out": "Your shapes lack the batch, and the batch is where the surprise is.",
    },
)
def article_shapes(attempt: Attempt) -> None:
    """The output shape of every printed layer."""

    def minus_one(shape: tuple[int, ...], layers: list[Layer]) -> list[tuple[int, ...]]:
        start = next((i for i, layer in enumerate(layers) if layer[0] == "reshape"), len(layers))
        found = _shapes(shape, layers)
        return found[:start] + [(-1, *sizes) for _, *sizes in found[start:]]

    mistakes = {
        "rounded down": lambda s, p: _shapes(s, p, down=lambda n, k, s: n // s),
        "transposed without padding": lambda s, p: _shapes(
            s, p, up=lambda n, k, s: (n - 1) * s + k
        ),
        "valid padding": lambda s, p: _shapes(
            s, p, lambda n, k, s: (n - k) // s + 1, lambda n, k, s: (n - 1) * s + k
        ),
        "minus one kept": minus_one,
        "height for both": lambda s, p: _shapes(s, p, square=True),
        "batch kept": lambda s, p: _shapes(s, p, infer=False),
        "channels first": lambda s, p: _shapes(s, p, first=True),
        "last shape only": lambda s, p: _shapes(s, p)[-1],
        "input counted": lambda s, p: [s, *_shapes(s, p)],
        "batch left out": lambda s, p: [shape[1:] for shape in _shapes(s, p)],
    }
    batch = 2 + attempt.seed
    for where, shape, layers in (
        ("the encoder, a digit of 28 pixels", (batch, 28, 28, 1), ENCODER),
        ("the encoder, images of 30 by 45 pixels", (batch, 30, 45, 3), ENCODER),
        ("the generator", (batch, 100), GENERATOR),
        ("the decoder", (batch, 2048), DECODER),
        ("the decoder, one code", (1, 2048), DECODER),
        (
            "8 by 10 pixels, strides 3 and 2",
            (batch, 8, 10, 3),
            [("conv", 4, 3, 3), ("conv_transpose", 2, 5, 3), ("conv", 2, 5, 1)],
        ),
    ):
        attempt.value(where, (shape, layers), _shapes, mistakes=mistakes)


# ---------------------------------------------------------------------------- 0.4


def _squares(x: Tensor, x_hat: Tensor) -> Tensor:
    return (x - x_hat).square().flatten(1).sum(1)


def _draw(mu: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    return mu + (0.5 * log_var).exp() * noise


@exercise(
    "0.4",
    see="lecture 12, section 12, with equations (12.14), (12.23) and (12.30)",
    learnt="This is 2 sigma² times minus the ELBO, up to a constant, with sigma² = beta/2: the "
    "choice of beta is the choice of a pixel noise. Lecture 13 trains with it.",
    hints={
        "nothing drawn": "You decode mu. That is what the article prints, D(E(x)): no z is drawn, "
        "and the noise that you were given is not used.",
        "variance for deviation": "You multiply the noise by exp(log_var). That is the variance; a "
        "draw needs the standard deviation.",
        "log_var for deviation": "You multiply the noise by log_var itself. It is the logarithm of "
        "a variance, and a draw needs the standard deviation.",
        "noise of its own": "Two calls with the same arguments differ: use the `noise` that you "
        "are given, and draw none yourself.",
        "log_var taken as the variance": "The result holds NaN on ordinary numbers, as where a "
        "logarithm or a root is taken of log_var, which may be negative. log_var is log s² "
        "already; exp(log_var) is the variance.",
        "draw cut off": "z is cut off from mu and log_var (.detach(), .data, torch.no_grad()): the "
        "encoder would hear of the KL alone, (12.20).",
        "error summed over the batch": "Your error is summed over the images of the batch, the KL "
        "is averaged over them: that divides beta by the size of the batch.",
        "KL summed over the batch": "Your KL is summed over the images of the batch, the error is "
        "averaged over them: that multiplies beta by the size of the batch.",
        "half of the KL forgotten": "Your KL is twice the right one: (12.23) has a 1/2.",
        "beta forgotten": "Your loss does not depend on beta.",
        "norm not squared": "You take the length of the error, and the article its square.",
        "wrong shape": "One number for the batch is wanted: the mean over the images.",
        "order": "Your KL has the prior first, as the article's. The average must be over the "
        "code's distribution.",
        "mean over pixels": "Your error is a mean over pixels beside a KL that is a sum over "
        "latents. That multiplies beta by the number of pixels without saying so.",
        "mean over latents": "Your KL is a mean over latents. The contract sums it.",
        "both averaged": "Both terms are averaged over their own dimensions: pixels and latents "
        "have different numbers of them, and beta is multiplied by their ratio. The contract sums "
        "over both.",
        "summed over the batch": "Your loss grows with the batch: sum over pixels and latents, and "
        "average over images.",
        "half of the error": "You halve the squared error. The article's has no 1/2 before it; "
        "with one the same beta means twice the variance of the pixel noise.",
        "beta on the error": "Your beta multiplies the error; it belongs to the KL.",
        "minus sign": "You subtract the KL. In the ELBO it is subtracted; in a loss, which is "
        "minus that, it is added.",
        "no gradient": "mu and log_var come from the encoder, which learns from nothing else.",
    },
)
def mended_article_loss(attempt: Attempt) -> None:
    """E ||x - x_hat(z)||² + beta KL(q || N(0, I)), z drawn from q."""
    kl, swapped = probability.kl_to_standard_normal, probability.kl_from_standard_normal
    mistakes = {
        "nothing drawn": lambda x, m, v, d, e, b: (_squares(x, d(m)) + b * kl(m, v)).mean(),
        "variance for deviation": lambda x, m, v, d, e, b: (
            _squares(x, d(m + v.exp() * e)) + b * kl(m, v)
        ).mean(),
        "log_var for deviation": lambda x, m, v, d, e, b: (
            _squares(x, d(m + v * e)) + b * kl(m, v)
        ).mean(),
        "order": lambda x, m, v, d, e, b: (
            _squares(x, d(_draw(m, v, e))) + b * swapped(m, v)
        ).mean(),
        "mean over pixels": [
            lambda x, m, v, d, e, b: (
                _squares(x, d(_draw(m, v, e))) / x[0].numel() + b * kl(m, v)
            ).mean(),
            lambda x, m, v, d, e, b: (
                _squares(x, d(_draw(m, v, e))).mean() / x[0].numel() + b * kl(m, v).sum()
            ),
        ],
        "mean over latents": lambda x, m, v, d, e, b: (
            _squares(x, d(_draw(m, v, e))) + b * kl(m, v) / m.shape[1]
        ).mean(),
        "both averaged": lambda x, m, v, d, e, b: (
            _squares(x, d(_draw(m, v, e))) / x[0].numel() + b * kl(m, v) / m.shape[1]
        ).mean(),
        "summed over the batch": lambda x, m, v, d, e, b: len(x) * right(x, m, v, d, e, b),
        "half of the error": lambda x, m, v, d, e, b: (
            0.5 * _squares(x, d(_draw(m, v, e))) + b * kl(m, v)
        ).mean(),
        "beta on the error": lambda x, m, v, d, e, b: (
            b * _squares(x, d(_draw(m, v, e))) + kl(m, v)
        ).mean(),
        "minus sign": lambda x, m, v, d, e, b: right(x, m, v, d, e, -b),
        "draw cut off": lambda x, m, v, d, e, b: (
            _squares(x, d(_draw(m, v, e).detach())) + b * kl(m, v)
        ).mean(),
        "error summed over the batch": lambda x, m, v, d, e, b: (
            len(x) * right(x, m, v, d, e, b / len(x))
        ),
        "KL summed over the batch": lambda x, m, v, d, e, b: right(x, m, v, d, e, b * len(x)),
        "half of the KL forgotten": lambda x, m, v, d, e, b: right(x, m, v, d, e, 2 * b),
        "beta forgotten": lambda x, m, v, d, e, b: right(x, m, v, d, e, 1.0),
        "norm not squared": lambda x, m, v, d, e, b: (
            _squares(x, d(_draw(m, v, e))).sqrt() + b * kl(m, v)
        ).mean(),
    }

    def right(x: Tensor, m: Tensor, v: Tensor, d: Callable, e: Tensor, b: float) -> Tensor:
        return (_squares(x, d(_draw(m, v, e))) + b * kl(m, v)).mean()

    weight = attempt.normal(3, 8)

    def decode(z: Tensor) -> Tensor:
        return (z @ weight.to(z)).tanh().view(len(z), 1, 2, 4)

    x, mu, log_var, noise = (attempt.normal(5, *s) for s in ((1, 2, 4), (3,), (3,), (3,)))
    many = x, mu, log_var, decode, noise, 0.7
    where = "five images of 8 pixels, three latents"
    found, again = attempt.call(where, *many), attempt.call(where, *many)
    holes = isinstance(found, Tensor) and bool(found.isnan().any())
    attempt.require(not holes, "log_var taken as the variance")
    if not near(found, right(*many), 1e-6):
        attempt.require(difference(again, found, 1e-6) is None, "noise of its own")
    attempt.value(where, many, right, mistakes=mistakes)
    attempt.gradient(
        "five images, gradient of mu and log_var", many, right, of=(1, 2), mistakes=mistakes
    )
    one = (x[:1].float(), mu[:1].float(), log_var[:1].float(), decode, noise[:1].float(), 2.0)
    attempt.value("a batch of one, float32", one, right, tolerance=1e-5, mistakes=mistakes)


# ---------------------------------------------------------------------------- 0.5


@exercise(
    "0.5",
    see="lecture 13, section 13.2, equation (13.12)",
    learnt="A -1 in a reshape swallows every miscount. Leave the batch alone, so that a wrong "
    "number of units is an error at once: the decoders of lecture 13 use nn.Unflatten.",
    hints={
        "not a module": "An nn.Module is wanted, so that its weights can be found and trained: of "
        "a class, an instance.",
        "no weights found": "torch finds no weights in what you return. Layers in a plain list, or "
        "made anew in forward, are not seen by an optimizer: make them attributes in __init__, or "
        "use nn.Sequential or nn.ModuleList.",
        "eight images per code": "B codes still become 8B images: the layer makes eight times as "
        "many numbers as the map of one image has.",
        "one image for all codes": "Different codes give the same image.",
        "codes mixed": "One image depends on the code of another. The shape is right, but numbers "
        "of different codes ended up in one map: the batch must stay the first axis throughout. "
        "Batch normalisation mixes too, in train mode.",
        "eight times the weights": "The number of images is right, but there are more weights than "
        "one dense layer onto one map and one convolution need. Numbers that are thrown away or "
        "averaged, a deeper map and further layers all cost weights: do without.",
        "no map": "There are fewer weights than a dense layer onto `channels` times `size` by "
        "`size` numbers has: your image is not made from that map.",
        "other range": "The article's images lie in [-1, 1], negative pixels included.",
        "other shape": "One code should give one image of one channel, twice as high and wide as "
        "the first map, whatever the three sizes are.",
    },
)
def mended_article_decoder(attempt: Attempt) -> None:
    """A module that makes one image of one code."""
    for latent, channels, size in ((5, 6, 3), (3, 2 + attempt.seed, 4)):
        where = f"latent_dim = {latent}, channels = {channels}, size = {size}"
        made = attempt.call(where, latent, channels, size)
        told = f"Your function returned {shown(made)}."
        attempt.require(isinstance(made, nn.Module), "not a module", told)
        attempt.require(any(True for _ in made.parameters()), "no weights found")
        made.eval()
        for batch in (3, 1):
            z = attempt.normal(batch, latent, dtype=torch.float32).requires_grad_()
            images = made(z)
            if not isinstance(images, Tensor):
                attempt.same(images, torch.zeros(batch, 1, 2 * size, 2 * size))
            told = f"{batch} codes became a tensor of shape {list(images.shape)}."
            eight = images.ndim == 4 and len(images) == 8 * batch
            attempt.require(not eight, "eight images per code", told)
            wanted = images.shape == (batch, 1, 2 * size, 2 * size)
            attempt.require(wanted, "other shape", told)
            if batch == 1:
                break
            attempt.require(not images[0].allclose(images[1]), "one image for all codes")
            slope = torch.autograd.grad(images[0].sum(), z, allow_unused=True)[0]
            attempt.require(slope is not None, "one image for all codes")
            attempt.require(not slope[1:].any(), "codes mixed")
            # Batch normalisation in eval mode does not mix.
            slope = torch.autograd.grad(made.train()(z)[0].sum(), z, allow_unused=True)[0]
            made.eval()
            attempt.require(slope is None or not slope[1:].any(), "codes mixed")
        needed = (latent + 1) * channels * size**2 + 16 * channels + 1
        count = sum(p.numel() for p in made.parameters())
        attempt.require(
            count < 2 * needed, "eight times the weights", f"{count:,} weights; {needed:,} suffice."
        )
        least = latent * channels * size**2
        attempt.require(count > least, "no map", f"{count:,} weights; that layer has {least:,}.")
        low, high = math.inf, -math.inf
        for _ in range(10):  # the signs of a few random weights can keep one of them from 0
            with torch.no_grad():
                images = made(30 * attempt.normal(64, latent, dtype=torch.float32))
            low, high = min(low, images.min().item()), max(high, images.max().item())
            if low < 0 < high:
                break
            made = attempt.call(where, latent, channels, size).eval()
        inside = -1 <= low < 0 < high <= 1
        attempt.require(inside, "other range", f"Pixels span [{low:.3g}, {high:.3g}].")


# ---------------------------------------------------------------------------- 0.6

REFERENCE_WORDS = ("title", "authors", "place", "nothing")
_REFERENCES = {
    1: "place",  # proceedings: "... Nets", 2672-2680; arXiv 1406.2661 has this title
    2: "place",  # ICLR 2014, arXiv 1312.6114
    3: "authors",  # Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen; NIPS 2016
    4: "title",  # the real one goes on "and Approximate Inference in Deep Generative Models"
    5: "authors",  # Goodfellow, Bengio, Courville 2016
    6: "place",  # arXiv 1404.7828
    8: "title",  # LAPGAN has another second half
    10: "place",  # arXiv 1511.06434
    11: "title",
    12: "place",  # PMLR 70:214-223
    13: "title",
    14: "title",  # InfoGAN has another subtitle
    15: "nothing",
}


@exercise(
    "0.6",
    see="the works themselves: arxiv.org, papers.nips.cc, proceedings.mlr.press, and the "
    "publishers of the book and of the journals",
    learnt="Of these thirteen entries one is right as printed, and none is cited in the article's "
    "text. A reference that nobody has opened is decoration; the lectures cite what they use.",
    hints={
        "other entries": "The keys are the thirteen numbers of PRINTED, as numbers (1, not '1'): "
        "nothing left out, nothing added.",
        "other words": 'Answer with "title", "authors", "place" or "nothing".',
        "trusts a title": "At least one title that you trust is borne by no work. Search each one "
        "in full, in quotation marks: what exists is found on arXiv, in proceedings or with a "
        "publisher; what does not is found in lists of references only.",
        "trusts the authors": "At least one title is real, but other people wrote the work. "
        "Compare every surname with the title page, not only the first.",
        "trusts the place": "At least one entry has the right title and the right surnames, but a "
        "venue, a year, pages or a number on arXiv that are not its own. Open the address: "
        "arxiv.org/abs/ with the number behind it shows what really is there.",
        "doubts a title": "At least one title that you call wrong is real. Look on arXiv as well "
        "as in the proceedings: they may differ in a word, and either counts.",
        "doubts the authors": "At least one entry has the right surnames. Order and initials do "
        "not matter here.",
        "doubts the place": "At least one entry is right in every detail that is printed: look up "
        "volume, issue and pages.",
    },
)
def article_references(attempt: Attempt) -> None:
    """The first thing that is wrong with each entry."""
    said, told = _words(attempt, _REFERENCES, REFERENCE_WORDS)
    rank = REFERENCE_WORDS.index
    trusts = {"title": "a title", "authors": "the authors", "place": "the place"}
    for word in trusts:
        late = [k for k, true in _REFERENCES.items() if true == word and rank(said[k]) > rank(word)]
        attempt.require(not late, f"trusts {trusts[word]}", told)
    for word in trusts:
        early = [
            k for k, true in _REFERENCES.items() if said[k] == word and rank(true) > rank(word)
        ]
        attempt.require(not early, f"doubts {trusts[word]}", told)


# ---------------------------------------------------------------------------- 0.7


def _port(padding: Callable[[int, int, int], tuple[int, int]]) -> Callable:
    """A convolution with so many zeros before and after, given size, kernel and stride."""

    def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        (top, bottom), (left, right) = (
            padding(n, k, stride) for n, k in zip(x.shape[2:], weight.shape[2:], strict=True)
        )
        padded = nn.functional.pad(x, (left, right, top, bottom))
        return nn.functional.conv2d(padded, weight, stride=stride)

    return convolve


def _halves(n: int, k: int, s: int) -> tuple[int, int]:
    """Zeros before and after one axis."""
    total = max((-(-n // s) - 1) * s + k - n, 0)
    return total // 2, total - total // 2


@exercise(
    "0.7",
    see="lecture 06, section 1, equations (6.3) and (6.4)",
    learnt="With this the article's networks can be run in PyTorch to the last pixel, as "
    "course_lib.models.article does. A port that is off by one pixel trains as well, and carries "
    "no weights over.",
    hints={
        "the same on both sides": "You put as many zeros as half the kernel is wide on both sides. "
        "How many are needed depends on stride and size too; of an odd number one side gets more.",
        "by the kernel alone": "The number of your zeros depends on the kernel alone. That is for "
        "stride 1. With a larger one fewer are needed, and how many depends on the size: for "
        "even sizes, kernel 5 and stride 2 there are three, and padding=2 moves the image.",
        "all zeros behind": "All your zeros stand at the bottom and on the right. They are shared "
        "between both ends; only an odd one goes there.",
        "height for both axes": "You put the zeros that the height needs on both axes. The width "
        "has its own number.",
        "axes exchanged": "The zeros of the height stand beside the width: F.pad takes those of "
        "the last axis first.",
        "negative zeros": "Where the stride is larger than the kernel your number of zeros is "
        "negative, and F.pad then cuts pixels off. Put none.",
        "border repeated": "You repeat the pixels of the border. Zeros are asked for.",
        "odd zero in front": "The number of zeros is right, but the odd one stands at the top and "
        "on the left. TensorFlow puts it at the end.",
        "no zeros": "You put no zeros at all: this is padding 'valid'.",
        "rounded down": 'Your result has n/s rows, rounded down. "Same" rounds up.',
        "kernel flipped": "You flip the kernel. What both libraries call a convolution does not.",
        "wrong shape": 'With "same" a side of n becomes n/s, rounded up, for each side by itself.',
    },
)
def tensorflow_same(attempt: Attempt) -> None:
    """TensorFlow's padding "same" for a convolution, in PyTorch."""

    def right(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        if weight.shape[2] != weight.shape[3]:
            return _port(_halves)(x, weight, stride)
        layer = SamePadConv2d(*weight.shape[1::-1], weight.shape[2], stride, bias=False)
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    def rounded_down(x: Tensor, weight: Tensor, stride: int) -> Tensor:
        height, width = (n // stride for n in x.shape[2:])
        return right(x, weight, stride)[:, :, :height, :width]

    def of_axes(order: tuple[int, int], mode: str = "constant") -> Callable:
        """The right numbers of zeros, for the height and the width taken from these axes."""

        def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
            zeros = [_halves(x.shape[2 + i], weight.shape[2 + i], stride) for i in order]
            padded = nn.functional.pad(x, (*zeros[1], *zeros[0]), mode=mode)
            return nn.functional.conv2d(padded, weight, stride=stride)

        return convolve

    def negative(n: int, k: int, s: int) -> tuple[int, int]:
        total = (-(-n // s) - 1) * s + k - n
        return total // 2, total - total // 2

    mistakes = {
        "all zeros behind": _port(lambda n, k, s: (0, sum(_halves(n, k, s)))),
        "height for both axes": of_axes((0, 0)),
        "axes exchanged": of_axes((1, 0)),
        "negative zeros": _port(negative),
        "border repeated": of_axes((0, 1), "replicate"),
        "odd zero in front": _port(lambda n, k, s: _halves(n, k, s)[::-1]),
        "the same on both sides": _port(lambda n, k, s: (k // 2, k // 2)),
        "no zeros": _port(lambda n, k, s: (0, 0)),
        "by the kernel alone": _port(lambda n, k, s: ((k - 1) // 2, k // 2)),
        "kernel flipped": lambda x, w, s: right(x, w.flip(2, 3), s),
        "rounded down": rounded_down,
    }
    for where, size, kernel, stride in (
        ("8 by 12 pixels, kernel 6, stride 4", (8, 12), (6, 6), 4),
        ("8 by 6 pixels, kernel 4, stride 1", (8, 6), (4, 4), 1),
        ("8 by 6 pixels, kernel 5, stride 2", (8, 6), (5, 5), 2),
        ("8 by 6 pixels, kernel 4, stride 2", (8, 6), (4, 4), 2),
        ("7 by 10 pixels, kernel 5, stride 2", (7, 10), (5, 5), 2),
        ("7 by 9 pixels, kernel 3, stride 3", (7, 9), (3, 3), 3),
        ("9 by 9 pixels, kernel 2, stride 4", (9, 9), (2, 2), 4),
        ("8 by 12 pixels, kernel 2, stride 4", (8, 12), (2, 2), 4),
        ("8 by 6 pixels, kernel 3 by 5, stride 2", (8, 6), (3, 5), 2),
    ):
        args = attempt.normal(2, 3, *size), attempt.normal(4, 3, *kernel), stride
        attempt.value(where, args, right, mistakes=mistakes)
    attempt.gradient("the last one", args, right, of=(0, 1), mistakes=mistakes)
    single = args[0][:1].float(), args[1].float(), stride
    attempt.value("a batch of one, float32", single, right, tolerance=1e-5, mistakes=mistakes)
