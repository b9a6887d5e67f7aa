"""Checks of the exercises on lecture 06, the convolutional GAN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from course_lib import models, training
from course_lib.exercises.attempts import Attempt, shown
from course_lib.exercises.registry import exercise
from course_lib.models.common import upsampling

LECTURE = "06_dcgan"


# ---------------------------------------------------------------------------- 6.1


def _side(
    n: int,
    kernel: int,
    stride: int,
    padding: int,
    transposed: bool = False,
    output_padding: int = 0,
) -> int:
    """Ask torch; on the device "meta" nothing is computed but the shape."""
    x, w = (torch.zeros(1, 1, size, device="meta") for size in (n, kernel))
    if transposed:
        return F.conv_transpose1d(
            x, w, stride=stride, padding=padding, output_padding=output_padding
        ).shape[-1]
    return F.conv1d(x, w, stride=stride, padding=padding).shape[-1]


@exercise(
    "6.1",
    see="equations (6.1) and (6.7) in sections 1 and 3",
    learnt="With kernel 4, stride 2 and padding 1 one layer halves the side and its transpose "
    "doubles it: the pyramid of every DCGAN in this course.",
    hints={
        "rounded up": "You round up. The last window must fit into the padded image: a window that "
        "sticks out does not count.",
        "not rounded": "Your size is no whole number. Only windows that fit as a whole count.",
        "first window forgotten": "You are one short: you counted the steps between windows, not "
        "the windows.",
        "padding forgotten": "You leave the padding out: p zeros are added on either side.",
        "padding on one side": "You add the padding once. It is added on both sides.",
        "padding added": "In the transposed convolution the padding takes pixels away, since it "
        "undoes the effect that it has in the convolution on the way down.",
        "padding taken once": "In the transposed convolution you take the padding away once; it "
        "is cut off at both ends.",
        "stamps counted wrongly": "n stamps are n - 1 steps of the stride apart, and the last one "
        "has the width of the kernel.",
        "n times the stride": "n times the stride is the size for some kernels alone, such as "
        "kernel 4 with stride 2 and padding 1. Kernel and padding count.",
        "output padding forgotten": "The output padding is missing: it says which of the s "
        "possible sizes is meant.",
        "output padding downwards": "You add the output padding to the ordinary convolution as "
        "well. It has one size only, and nothing to choose: leave it out there.",
        "convolution for transposed": "transposed=True asks for the way up: the output is larger "
        "than the input here.",
        "always transposed": "transposed=False asks for the ordinary convolution.",
    },
)
def map_side(attempt: Attempt) -> None:
    """Output size of a convolution or a transposed convolution."""
    down = {
        "rounded up": [
            lambda n, k, s, p, **_: -((n + 2 * p - k) // -s) + 1,
            lambda n, k, s, p, **_: round((n + 2 * p - k) / s) + 1,
        ],
        "not rounded": lambda n, k, s, p, **_: (n + 2 * p - k) / s + 1,
        "first window forgotten": lambda n, k, s, p, **_: (n + 2 * p - k) // s,
        "padding forgotten": lambda n, k, s, p, **_: (n - k) // s + 1,
        "padding on one side": lambda n, k, s, p, **_: (n + p - k) // s + 1,
        "always transposed": lambda n, k, s, p, **_: (n - 1) * s - 2 * p + k,
    }
    up = {
        "padding added": lambda n, k, s, p, output_padding=0, **_: (
            (n - 1) * s + 2 * p + k + output_padding
        ),
        "padding taken once": lambda n, k, s, p, output_padding=0, **_: (
            (n - 1) * s - p + k + output_padding
        ),
        "stamps counted wrongly": lambda n, k, s, p, output_padding=0, **_: (
            n * s - 2 * p + k + output_padding
        ),
        "n times the stride": lambda n, k, s, p, **_: n * s,
        "output padding forgotten": lambda n, k, s, p, **_: (n - 1) * s - 2 * p + k,
        "convolution for transposed": lambda n, k, s, p, **_: (n + 2 * p - k) // s + 1,
    }
    # Here every mistake gives a number of its own.
    attempt.value("n 29, kernel 8, stride 3, padding 7", (29, 8, 3, 7), _side, mistakes=down)
    attempt.value(
        "n 7, kernel 6, stride 3, padding 1, output padding 2, transposed",
        (7, 6, 3, 1),
        _side,
        mistakes=up,
        transposed=True,
        output_padding=2,
    )
    attempt.value(
        "n 9, kernel 4, stride 2, padding 1, output padding 1, not transposed",
        (9, 4, 2, 1),
        _side,
        mistakes={"output padding downwards": lambda *args, **_: _side(*args) + 1},
        output_padding=1,
    )
    for n, k, s, p in ((28, 4, 2, 1), (28, 5, 2, 2), (5, 5, 1, 0), (9, 2, 4, 0), (1, 1, 1, 0)):
        case = f"n {n}, kernel {k}, stride {s}, padding {p}"
        attempt.value(case, (n, k, s, p), _side, mistakes=down)
        for e in range(s):
            attempt.value(
                f"{case}, output padding {e}, transposed",
                (n, k, s, p),
                _side,
                mistakes=up,
                transposed=True,
                output_padding=e,
            )


# ---------------------------------------------------------------------------- 6.2


def _weights_of(latent_dim: int, widths: Sequence[int], channels: int, start: int) -> int:
    with torch.device("meta"):
        first = nn.Linear(latent_dim, widths[0] * start**2, bias=False), nn.BatchNorm2d(widths[0])
        rest = upsampling([*widths, channels], batch_norm=True)
    return models.count_parameters(nn.Sequential(*first, rest))


def _weights_by_hand(
    latent_dim: int,
    widths: Sequence[int],
    channels: int,
    start: int,
    *,
    hidden_bias: int = 0,
    norm: int = 2,
    last_bias: int = 1,
    taps: int = 16,
    places: Callable[[int], int] = lambda side: 1,
    cells: int | None = None,
    more: int = 0,
) -> int:
    """The count with a mistake: other numbers of biases, taps or places."""
    cells = start**2 if cells is None else cells
    total = latent_dim * widths[0] * cells + hidden_bias * widths[0] * cells + norm * widths[0]
    total += more
    side, outs = start, [*widths[1:], channels]
    for fan_in, fan_out in zip(widths, outs, strict=True):
        side *= 2
        total += fan_in * fan_out * taps * places(side)
    return total + (hidden_bias + norm) * sum(outs[:-1]) + last_bias * channels


@exercise(
    "6.2",
    see="section 1, equation (6.2), and section 6, equation (6.12)",
    learnt="The example of the table has 1.07 million parameters with 100 noise numbers, the "
    "article's generator 14 million (6.12). models.count_parameters counts those of any network.",
    hints={
        "bias before batch norm": "You count biases in layers that a batch norm follows. The table "
        "has none there: the batch norm would subtract them again with the mean.",
        "bias in the linear layer": "You count a bias in the linear layer. The table has none "
        "there: the batch norm behind it would subtract it again.",
        "bias in the convolutions": "You count biases in convolutions that a batch norm follows. "
        "The table has one in the last layer alone.",
        "first batch norm forgotten": "The linear layer has a batch norm behind it as well.",
        "batch norm per place": "You count a scale and a shift of the first batch norm for every "
        "cell of the map. There are two numbers per channel, whatever the size of the map.",
        "kernel of the article": "You count 5 x 5 numbers per kernel, as the article has in (6.12)."
        " In this table they are 4 x 4.",
        "first map counted as one row": "The smallest map is start x start cells, and you count "
        "start of them.",
        "batch norm forgotten": "The batch norms are missing: each has a learnt scale and a learnt "
        "shift per channel.",
        "batch norm counted once": "You count one number per channel for a batch norm: there are a "
        "scale and a shift.",
        "running statistics counted": "You count the running mean and variance of the batch norms. "
        "They are measured, not learnt: buffers, not parameters.",
        "last bias forgotten": "The last layer has no batch norm behind it, and so it has a bias, "
        "one number per channel of the image.",
        "side for area": "A kernel of side 4 has 4 x 4 numbers for each pair of channels.",
        "work counted": "Your number grows with the size of the maps, as the number of "
        "multiplications does. The weights of a convolution are shared by all places.",
        "first map counted as one cell": "The linear layer makes a whole map: start x start cells "
        "of widths[0] channels each.",
    },
)
def dcgan_weight_count(attempt: Attempt) -> None:
    """Number of learnt parameters of a DCGAN generator."""
    wrong = _weights_by_hand

    def with_changes(**changes: Any) -> Callable[..., int]:
        return lambda *args: wrong(*args, **changes)

    mistakes = {
        "bias in the linear layer": lambda d, w, c, start: wrong(
            d, w, c, start, more=w[0] * start**2
        ),
        "bias in the convolutions": lambda d, w, c, start: wrong(d, w, c, start, more=sum(w[1:])),
        "first batch norm forgotten": lambda d, w, c, start: wrong(d, w, c, start, more=-2 * w[0]),
        "batch norm per place": lambda d, w, c, start: wrong(
            d, w, c, start, more=2 * w[0] * (start**2 - 1)
        ),
        "kernel of the article": with_changes(taps=25),
        "first map counted as one row": lambda d, w, c, start: wrong(d, w, c, start, cells=start),
        "bias before batch norm": with_changes(hidden_bias=1),
        "batch norm forgotten": with_changes(norm=0),
        "batch norm counted once": with_changes(norm=1),
        "running statistics counted": with_changes(norm=4),
        "last bias forgotten": with_changes(last_bias=0),
        "side for area": with_changes(taps=4),
        "work counted": with_changes(places=lambda side: side**2),
        "first map counted as one cell": with_changes(cells=1),
    }
    for args in ((100, [256, 128, 64], 3, 4), (64, [32, 16], 1, 7), (5, [3], 2, 4)):
        where = f"latent {args[0]}, widths {args[1]}, {args[2]} channels, start {args[3]}"
        attempt.value(where, args, _weights_of, mistakes=mistakes, tolerance=1e-9)
    attempt.value(
        "models.DCGANGenerator for 32 pixels, width 4",
        (10, [16, 8, 4], 3, 4),
        models.count_parameters(models.DCGANGenerator(32, 3, 10, 4)),
        mistakes=mistakes,
        tolerance=1e-9,
    )


# ---------------------------------------------------------------------------- 6.3


@exercise(
    "6.3",
    see="section 7, the table of rules, and section 4 for the kernel",
    learnt="Stack these blocks on a first small map and you have models.DCGANGenerator, which "
    "lectures 6 and 18 train.",
    hints={
        "not a module": "Your function should return an nn.Module, such as an nn.Sequential of "
        "layers: not the layers' output, and of a class an instance.",
        "no weights found": "torch finds no weights in what you return. Layers in a plain list, or "
        "made anew in forward, are not seen by an optimizer: make them attributes in __init__, or "
        "use nn.Sequential or nn.ModuleList.",
        "side not doubled": "The block should double height and width: work out kernel, stride and "
        "padding with (6.7).",
        "ordinary convolution": "The weight has the shape [c_out, c_in, ...] of an ordinary "
        "convolution. A transposed one, [c_in, c_out, ...], is asked for.",
        "uneven kernel": "The table has 16 taps per pair of channels: a kernel of side 4, which "
        "the stride 2 divides. Odd kernels draw a checkerboard, see (6.9).",
        "several convolutions": "One transposed convolution per block is asked for.",
        "bias before batch norm": "The convolution has a bias, which the batch norm subtracts "
        "again with the mean. The table counts none.",
        "no batch norm": "There is no learnt scale and shift: the batch norm is missing or has "
        "affine=False. With weights of size 0.02 the signal dies without it, see (6.16).",
        "batch norm first": "The batch norm has c_in channels and stands before the convolution. "
        "The table has it behind.",
        "batch norm at the end": "The last block has a batch norm. It would give every batch of "
        "images one brightness and contrast.",
        "no bias at the end": "The last block has no batch norm to shift its channels, and so its "
        "convolution needs a bias.",
        "activation before batch norm": "The ReLU comes before the batch norm: much of what the "
        "block returns is negative.",
        "leaky": "The activation leaks. LeakyReLU is the discriminator's; the generator has ReLU.",
        "no activation": "The activation after the batch norm is missing: stacked blocks would "
        "differ from a linear map by the batch norms alone.",
        "tanh inside": "tanh is for the last block; the inner ones have ReLU.",
        "no tanh": "The last block's output is not squashed: images must lie in [-1, 1].",
        "sigmoid at the end": "The last block ends in a sigmoid: its images have no negative "
        "pixel, while the data of a GAN here lie in [-1, 1].",
        "ReLU at the end": "The last block ends in a ReLU: its images have no negative pixel.",
    },
)
def dcgan_block(attempt: Attempt) -> None:
    """Transposed convolution, batch norm, ReLU; or the last one with tanh."""
    c_in, c_out = 6, 5
    for last in (False, True):
        where = f"{c_in} channels in, {c_out} out, last={last}"
        block = attempt.call(where, c_in, c_out, last=last)
        told = f"Your function returned {shown(block)}."
        attempt.require(isinstance(block, nn.Module), "not a module", told)
        attempt.require(any(True for _ in block.parameters()), "no weights found")
        block.train()
        # Noise with a mean that differs from channel to channel, so that a shift would show.
        x = attempt.normal(3, c_in, 4, 4, dtype=torch.float32)
        x = x + torch.arange(c_in)[:, None, None] / 3
        found = block(x)
        kernels = [p for p in block.parameters() if p.ndim == 4]
        measured = f"From {list(x.shape)} it makes {list(found.shape)}."
        attempt.require(len(kernels) == 1, "several convolutions", measured)
        kernel = kernels[0]
        measured += f" The weight has shape {list(kernel.shape)}."
        attempt.require(kernel.shape[:2] != (c_out, c_in), "ordinary convolution", measured)
        attempt.require(tuple(kernel.shape[2:]) == (4, 4), "uneven kernel", measured)
        attempt.require(tuple(found.shape) == (3, c_out, 8, 8), "side not doubled", measured)
        rest = models.count_parameters(block) - kernel.numel()
        measured = f"Besides the kernel it has {rest} parameters."
        if last:
            _last_block(attempt, block, x, found, kernel, rest, measured)
        else:
            _inner_block(attempt, block, x, found, kernel, rest, measured)
    one = attempt.call("one channel in and out", 1, 1, last=True)
    attempt.same(tuple(one(attempt.normal(1, 1, 2, 2).float()).shape), (1, 1, 4, 4))


def _inner_block(
    attempt: Attempt,
    block: nn.Module,
    x: Tensor,
    found: Tensor,
    kernel: Tensor,
    rest: int,
    measured: str,
) -> None:
    c_out = kernel.shape[1]
    attempt.require(rest != 3 * c_out, "bias before batch norm", measured)
    attempt.require(rest > c_out, "no batch norm", measured)
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    scale, shift = (norms[0].weight, norms[0].bias) if norms else (None, None)
    attempt.require(scale is None or len(scale) == c_out, "batch norm first", measured)

    def normalised(h: Tensor) -> Tensor:
        return F.batch_norm(h, None, None, scale, shift, training=True)

    h = F.conv_transpose2d(x, kernel, stride=2, padding=1)
    wrong = {
        "activation before batch norm": lambda: normalised(F.relu(h)),
        "no activation": lambda: normalised(h),
        "leaky": lambda: F.leaky_relu(normalised(h), _slope(normalised(h), found)),
        "tanh inside": lambda: normalised(h).tanh(),
    }
    attempt.same(found, F.relu(normalised(h)), 1e-4, wrong)


def _slope(h: Tensor, found: Tensor) -> float:
    """The slope below zero with which `found` might have been made of h."""
    i = int(h.argmin())
    return (found.flatten()[i] / h.flatten()[i]).item()


def _last_block(
    attempt: Attempt,
    block: nn.Module,
    x: Tensor,
    found: Tensor,
    kernel: Tensor,
    rest: int,
    measured: str,
) -> None:
    c_out = kernel.shape[1]
    attempt.require(rest < 2 * c_out, "batch norm at the end", measured)
    attempt.require(rest > 0, "no bias at the end", measured)
    bias = next(p for p in block.parameters() if p.ndim == 1)
    h = F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)
    wrong = {
        "no tanh": lambda: h,
        "sigmoid at the end": lambda: h.sigmoid(),
        "ReLU at the end": lambda: h.relu(),
    }
    attempt.same(found, h.tanh(), 1e-4, wrong)


# ---------------------------------------------------------------------------- 6.4

_BEFORE = 3.0  # what every parameter holds before the initialisation


def _blank_network() -> nn.Sequential:
    """Layers of all kinds, on two levels, with and without bias; all parameters alike."""
    network = nn.Sequential(
        nn.Linear(40, 2048),
        nn.Unflatten(1, (512, 2, 2)),
        nn.BatchNorm2d(512),
        nn.ReLU(),
        nn.Sequential(
            nn.ConvTranspose2d(512, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        ),
        nn.Conv2d(8, 64, 4, 2, 1),
        nn.Flatten(),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(_BEFORE)
    return network


def _spread(weights: Tensor) -> str:
    return f"mean {float(weights.mean()):.3g}, standard deviation {float(weights.std()):.3g}."


@exercise(
    "6.4",
    see="section 7, the last but one row of the table of rules and equation (6.16)",
    learnt="models.dcgan_init does this in the library. Small weights and batch norm belong "
    "together: section 7 shows what becomes of the signal when one of them is missing.",
    hints={
        "not the network": "Return the network that was given.",
        "a copy": "You return another network. Change the parameters of the one that was given, in "
        "place: an optimizer may hold them already.",
        "new parameters": "You put new Parameters into the layers. Change the numbers inside the "
        "old ones (nn.init does, or with torch.no_grad()): an optimizer that was built before "
        "holds the old ones, and would train what no layer uses.",
        "linear layers forgotten": "The weights of the linear layer are as before.",
        "transposed convolutions forgotten": "The weights of the transposed convolution are as "
        "before: nn.ConvTranspose2d is no nn.Conv2d.",
        "convolutions forgotten": "The weights of the ordinary convolution are as before.",
        "inner layers forgotten": "The layers inside of a nested nn.Sequential are as before: "
        "children() goes down one level, modules() all of them.",
        "batch norm forgotten": "The scales of the batch norms are as before.",
        "batch norm around zero": "The scales of the batch norms lie around 0: the signal that "
        "they should restore to size 1 is multiplied by 0.02. Their mean should be 1.",
        "batch norm exactly one": "The scales of the batch norms are all exactly 1: they should be "
        "spread like the weights, around 1.",
        "biases forgotten": "Biases begin at 0, the shifts of the batch norms too.",
        "variance for deviation": "The deviation is 0.02² = 0.0004. nn.init.normal_ and torch.randn"
        " times a number are told the standard deviation, not the variance.",
        "root of the deviation": "The deviation is the square root of 0.02, which is 0.141: 0.02 "
        "is the standard deviation already.",
        "wrong spread": "Weights should have mean 0 and standard deviation 0.02, the scales of the "
        "batch norms mean 1 and standard deviation 0.02.",
        "not normal": "Mean and deviation are right, but the weights do not look normal: too few "
        "of them lie beyond two deviations.",
    },
)
def dcgan_initialise(attempt: Attempt) -> None:
    """Initialise all layers of a network in place."""
    network = _blank_network()
    before = list(network.parameters())
    told = attempt.call("a network of all kinds of layers", network)
    linear, norm, inner, convolution = (network[i] for i in (0, 2, 4, 5))
    if isinstance(told, nn.Module) and told is not network:
        attempt.fail("a copy")
    attempt.require(told is network, "not the network")
    after = list(network.parameters())
    kept = len(after) == len(before) and all(a is b for a, b in zip(before, after, strict=True))
    attempt.require(kept, "new parameters")
    up, inner_norm = inner[0], inner[1]

    def untouched(layer: nn.Module) -> bool:
        return bool((layer.weight == _BEFORE).all())

    attempt.require(
        not (untouched(up) and untouched(inner_norm)) or untouched(norm), "inner layers forgotten"
    )
    for layer, name in (
        (linear, "linear layers"),
        (up, "transposed convolutions"),
        (convolution, "convolutions"),
        (norm, "batch norm"),
    ):
        attempt.require(not untouched(layer), f"{name} forgotten")
    for layer in (linear, norm, inner_norm, convolution):
        largest = float(layer.bias.detach().abs().max())
        measured = f"{type(layer).__name__}: largest number in the bias {largest:.3g}."
        attempt.require(largest == 0, "biases forgotten", measured)
    scales = torch.cat([norm.weight.detach(), inner_norm.weight.detach()])
    told = f"BatchNorm2d: scales with {_spread(scales)}"
    attempt.require(abs(float(scales.mean())) > 0.3, "batch norm around zero", told)
    attempt.require(float(scales.std()) > 0, "batch norm exactly one", told)
    for layer in (linear, up, convolution):
        weights = layer.weight.detach().flatten()
        std, name = float(weights.std()), f"{type(layer).__name__}: "
        measured = f"{name}weights with {_spread(weights)}"
        attempt.require(abs(std / 0.0004 - 1) > 0.1, "variance for deviation", measured)
        attempt.require(abs(std / 0.02**0.5 - 1) > 0.1, "root of the deviation", measured)
        near = abs(std / 0.02 - 1) < 0.05 and abs(float(weights.mean())) < 0.02 * 0.06
        attempt.require(near, "wrong spread", measured)
        far = float((weights.abs() > 0.04).double().mean())
        measured = f"{name}{far:.1%} lie beyond two standard deviations; of a normal law 4.6% do."
        attempt.require(0.03 < far < 0.06, "not normal", measured)
    near = abs(float(scales.std()) / 0.02 - 1) < 0.2 and abs(float(scales.mean()) - 1) < 0.006
    attempt.require(near, "wrong spread", told)


# ---------------------------------------------------------------------------- 6.5


@exercise(
    "6.5",
    see="section 6, trap (3) and equation (6.14)",
    learnt="Every image set of this course is loaded so: data.load(...).as_float gives [0, 1] or "
    "[-1, 1], and training.gan_step refuses a first batch of the wrong range.",
    hints={
        "range [0, 1]": "Your pixels lie in [0, 1], those of the generator's tanh in [-1, 1]: one "
        "negative pixel gives every fake away.",
        "half the range": "Your pixels lie in [-0.5, 0.5]. The range of tanh is twice as wide.",
        "bytes wrap around": "You calculated in bytes: 8-bit numbers start again at 0 after 255. "
        "Make floats first.",
        "bytes below zero": "You subtracted from bytes: there is none below 0, and they go on at "
        "255. Make floats first.",
        "whole numbers": "// rounds down: all that is not white becomes black.",
        "largest of the batch": "You divide by the brightest pixel of this batch: the same image "
        "would come out differently in another batch. White is 255, whether or not there is any.",
        "reshaped": "view and reshape keep the order of the numbers in memory and only cut it "
        "elsewhere: red, green and blue of neighbouring pixels end up in one channel. The axes "
        "must change places.",
        "height and width exchanged": "The channels are in the right place, but height and width "
        "are exchanged: your images lie on their side.",
        "reshaped and in [0, 1]": "Both faults of the broken batch are still there: look at the "
        "pictures for one, at the right panel of the curves for the other.",
        "divided by 256": "White should be 1 exactly, and is slightly less: the largest byte is "
        "255.",
        "stretched": "You stretch the pixels of this batch from its own darkest to its own "
        "brightest: the same image would come out differently in another batch.",
        "standardised": "You subtract a mean and divide by a deviation measured on the batch. The "
        "range of tanh is fixed: 0 goes to -1 and 255 to 1.",
        "inverted": "Black and white are exchanged.",
        "wrong dtype": "The networks of this course take float32.",
    },
)
def mended_image_batch(attempt: Attempt) -> None:
    """Bytes [n, height, width, channels] to floats [n, channels, height, width] in [-1, 1]."""

    def right(pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1

    def reshaped(pixels: Tensor) -> Tensor:
        n, height, width, channels = pixels.shape
        return pixels.float().reshape(n, channels, height, width) / 127.5 - 1

    def stretched(pixels: Tensor) -> Tensor:
        x = right(pixels)
        low, high = x.min(), x.max()
        return 2 * (x - low) / (high - low) - 1

    def standardised(pixels: Tensor) -> Tensor:
        x = right(pixels)
        return (x - x.mean()) / x.std()

    mistakes = {
        "range [0, 1]": lambda u: right(u) / 2 + 0.5,
        "half the range": lambda u: right(u) / 2,
        "bytes wrap around": lambda u: (2 * u).permute(0, 3, 1, 2).float() / 255 - 1,
        "bytes below zero": lambda u: (2 * u - 255).permute(0, 3, 1, 2).float() / 255,
        "whole numbers": lambda u: 2.0 * (u // 255).permute(0, 3, 1, 2) - 1,
        "largest of the batch": lambda u: 2 * u.permute(0, 3, 1, 2).float() / u.max() - 1,
        "reshaped": reshaped,
        "height and width exchanged": lambda u: right(u).transpose(2, 3),
        "reshaped and in [0, 1]": lambda u: reshaped(u) / 2 + 0.5,
        "divided by 256": lambda u: u.permute(0, 3, 1, 2).float() / 128 - 1,
        "stretched": stretched,
        "standardised": standardised,
        "inverted": lambda u: -right(u),
    }
    for shape, name in (((1, 4, 6, 3), "one colour image"), ((2, 5, 3, 1), "two grey images")):
        pixels = (20 + 210 * attempt.uniform(*shape)).to(torch.uint8)
        where = f"{name}, {list(shape)}"
        attempt.value(where, (pixels,), right, mistakes=mistakes, tolerance=1e-5)
    ends = torch.tensor([0, 255, 128, 127], dtype=torch.uint8).view(1, 2, 2, 1)
    attempt.value("the bytes 0, 255, 128, 127", (ends,), right, mistakes=mistakes, tolerance=1e-5)
    attempt.any_device("another device", ends)


# ---------------------------------------------------------------------------- 6.6


def _warm_generator(attempt: Attempt) -> nn.Module:
    """A small DCGAN generator whose running statistics are those of its own noise."""
    generator = models.DCGANGenerator(16, 1, 3, 2)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.3 * attempt.normal(*parameter.shape, dtype=torch.float32))
        generator.train()
        for _ in range(8):
            generator(1 + attempt.normal(16, 3, dtype=torch.float32))
    return generator


@torch.no_grad()
def _in_training_mode(generator: nn.Module, *batches: Tensor) -> Tensor:
    network = copy.deepcopy(generator).train()
    return torch.cat([network(z) for z in batches])


@torch.no_grad()
def _forgetful(generator: nn.Module, z: Tensor) -> Tensor:
    network = copy.deepcopy(generator)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return network.eval()(z)


def _statistics(module: nn.Module) -> Tensor:
    return torch.cat([b.detach().double().flatten() for b in module.buffers()])


@exercise(
    "6.6",
    see="section 7, equation (6.17), and section 8 for the running averages",
    learnt="training.generate does this for every grid of samples in the course, so that the same "
    "noise gives the same picture whenever you look.",
    hints={
        "the batch decides": "An image changes with the other noise in its batch: the batch norms "
        "are in training mode and normalise with the statistics of this batch.",
        "batches of one": "Each image is alone in a batch in training mode: its own mean and "
        "deviation are removed in every channel. That is another network than the one that was "
        "trained.",
        "running statistics lost": "Your images are those of a network that has forgotten the "
        "running statistics of its batch norms.",
        "running statistics moved": "The images are right, but the running statistics of the batch "
        "norms moved: somewhere the noise went through in training mode. Looking at a network "
        "must not change it, and no_grad does not prevent that.",
        "graph kept": "The result still carries its history: every grid of samples that you keep "
        "would hold a graph in memory.",
        "left in evaluation mode": "The generator was in training mode before the call, and is "
        "not after it: training would go on without batch statistics, and no error would say so.",
        "put into training mode": "The generator was in evaluation mode before the call, and is "
        "not after it. Remember the mode and give it back.",
        "left frozen": "Parameters no longer require a gradient after your call.",
        "range changed": "The images should come as the generator makes them, in [-1, 1]. Mapping "
        "them to [0, 1] is the business of whoever draws them.",
    },
)
def sample_images(attempt: Attempt) -> None:
    """Images that depend on their own noise alone, from a generator that is left as it was."""
    start = _warm_generator(attempt)
    z = 1 + attempt.normal(5, 3, dtype=torch.float32)
    mistakes = {
        "the batch decides": lambda g, z: _in_training_mode(g, z),
        "batches of one": lambda g, z: _in_training_mode(g, *z.split(1)),
        "running statistics lost": _forgetful,
        "range changed": lambda g, z: training.generate(g, z) / 2 + 0.5,
    }
    for mode, name in ((True, "training"), (False, "evaluation")):
        generator = copy.deepcopy(start).train(mode)
        before = _statistics(generator)
        where = f"five noise vectors, generator in {name} mode"
        right = training.generate(copy.deepcopy(start), z)
        # The library's step in place of `right(*args)`: the answer may spoil its generator.
        made = {key: (lambda f=f: f(start, z)) for key, f in mistakes.items()}
        found = attempt.call(where, generator, z)
        attempt.same(found, right, 1e-5, made)
        attempt.require(not found.requires_grad, "graph kept")
        attempt.require(torch.equal(_statistics(generator), before), "running statistics moved")
        as_before = all(module.training == mode for module in generator.modules())
        attempt.require(as_before, "left in evaluation mode" if mode else "put into training mode")
        attempt.require(all(p.requires_grad for p in generator.parameters()), "left frozen")
    alone = attempt.call("one noise vector", copy.deepcopy(start), z[:1])
    attempt.same(alone, training.generate(copy.deepcopy(start), z[:1]), 1e-5)


# ---------------------------------------------------------------------------- 6.7

Layers = Sequence[tuple[int, int, int]]


def _ways(n: int, layers: Layers) -> Tensor:
    x = torch.ones(1, 1, n, n, dtype=torch.float64)
    for kernel, stride, padding in layers:
        ones = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
        x = F.conv_transpose2d(x, ones, stride=stride, padding=padding)
    return x[0, 0].round().long()


def _axis(n: int, layers: Layers, crop: str = "both ends") -> Tensor:
    """Ways along one axis; `crop` says where the padding is cut off."""
    ways = torch.ones(n, dtype=torch.int64)
    for kernel, stride, padding in layers:
        wide = torch.zeros((len(ways) - 1) * stride + kernel, dtype=torch.int64)
        for i, count in enumerate(ways):
            wide[i * stride : i * stride + kernel] += count
        first, last = {
            "both ends": (padding, padding),
            "nowhere": (0, 0),
            "back": (0, 2 * padding),
            "once": (padding, 0),
        }[crop]
        ways = wide[first : len(wide) - last]
    return ways


def _inner_formula(n: int, layers: Layers) -> Tensor:
    """(6.9) for every pixel, as if there were no border, layer by layer."""
    axis = torch.ones(n, dtype=torch.int64)
    for kernel, stride, padding in layers:
        side = (len(axis) - 1) * stride - 2 * padding + kernel
        rest = (torch.arange(side) + padding) % stride
        axis = int(axis.max()) * -((kernel - rest) // -stride)
    return torch.outer(axis, axis)


@exercise(
    "6.7",
    see="section 4, equation (6.9) and its picture; section 3, equation (6.7), for the size",
    learnt="Where these numbers differ from pixel to pixel, an untrained generator already draws "
    "the pattern, with a standard deviation that goes as their square root, (6.10). Section 4 "
    "shows it for three layers in a row.",
    hints={
        "padding ignored": "Your map is too large: the padding cuts off pixels at all four edges.",
        "padding cut at one end": "The size is right, but the padding is cut off at one end of "
        "each axis. It takes the same number of pixels from both.",
        "padding cut once": "The padding is cut off at one end only: it takes as many pixels at "
        "the other end too.",
        "empty": "Your map is empty. Where the padding is 0 a slice such as [padding:-padding] is "
        "[0:0], which holds nothing: cut with the length minus the padding.",
        "padding cut after all": "You cut off all padding after the last layer. Each layer cuts "
        "its own, before the next one puts its stamps.",
        "layers backwards": "The first layer of the list acts first.",
        "one axis": "You return the ways along one axis, [side]. The map has two: how do ways "
        "along the rows and ways along the columns combine?",
        "added over the axes": "You add the ways along the two axes. For each way to the row there "
        "is every way to the column.",
        "border forgotten": "The inner pixels are right, those near the border are not: (6.9) "
        "holds away from it, where no stamp is missing.",
        "last layer only": "Your numbers are those of the last layer alone. A pixel between two "
        "layers can be reached in several ways, and each of them goes on.",
        "reached or not": "You say whether a pixel is reached. In how many ways?",
        "wrong dtype": "Ways are counted: return whole numbers, torch.int64.",
    },
)
def path_counts(attempt: Attempt) -> None:
    """Number of ways from the cells of a map to each pixel, through transposed convolutions."""

    def outer(crop: str) -> Callable[[int, Layers], Tensor]:
        return lambda n, layers: torch.outer(*[_axis(n, layers, crop)] * 2)

    def last_only(n: int, layers: Layers) -> Tensor:
        for kernel, stride, padding in layers[:-1]:
            n = (n - 1) * stride - 2 * padding + kernel
        return _ways(n, layers[-1:])

    def added(n: int, layers: Layers) -> Tensor:
        axis = _axis(n, layers)
        return axis[:, None] + axis

    def cut_at_last(n: int, layers: Layers) -> Tensor:
        cut = sum(padding for *_, padding in layers)
        axis = _axis(n, layers, "nowhere")
        axis = axis[cut : len(axis) - cut]
        return torch.outer(axis, axis)

    mistakes = {
        "padding cut after all": cut_at_last,
        "layers backwards": lambda n, layers: _ways(n, layers[::-1]),
        "padding ignored": outer("nowhere"),
        "padding cut at one end": outer("back"),
        "padding cut once": outer("once"),
        "one axis": _axis,
        "added over the axes": added,
        "border forgotten": _inner_formula,
        "last layer only": last_only,
        "reached or not": lambda n, layers: (_ways(n, layers) > 0).long(),
    }
    cases: list[tuple[int, Layers]] = [
        (4, [(5, 2, 1)]),
        (3, [(5, 2, 1), (4, 3, 1)]),
        (2, [(4, 2, 1), (4, 2, 1), (5, 2, 2)]),
        (1, [(3, 1, 0)]),
        (3, [(2, 3, 0)]),
    ]
    for n, layers in cases:
        shown = ", ".join(map(str, layers))
        where = f"a map of {n} x {n} and the layers {shown}"
        found = attempt.call(where, n, layers)
        made = {k: (lambda f=f, a=(n, layers): f(*a)) for k, f in mistakes.items()}
        if len(layers) == 1:
            del made["last layer only"]
        attempt.require(not isinstance(found, Tensor) or found.numel(), "empty")
        attempt.same(found, _ways(n, layers), 1e-9, made)
