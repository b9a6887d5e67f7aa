"""Answers to the exercises on the article: right in different ways, and wrong as students write."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from answers import Answers
from torch import nn
from torch.distributions import Normal, kl_divergence

from course_lib.models.article import SamePadConv2d, SamePadConvTranspose2d

# ---------------------------------------------------------------------------- 0.1


def prior_loop(k):
    total = 0.0
    for _ in range(k):
        total += math.log10(0.5)
    return total


def prior_by_distribution(k):
    """The probability of one coordinate from torch's normal law."""
    one = 1 - Normal(0.0, 1.0).cdf(torch.tensor(0.0, dtype=torch.float64))
    return k * torch.log10(one)


# ---------------------------------------------------------------------------- 0.2

FORMULAS = dict(
    a="kinds differ",
    b="not a density",
    c="sound",
    d="no game",
    e="nothing drawn",
    f="nothing drawn",
    g="kinds differ",
    h="unbound",
    i="order",
    j="sound",
)


def formulas_by_word():
    groups = {
        "kinds differ": "ag",
        "not a density": "b",
        "sound": "cj",
        "no game": "d",
        "nothing drawn": "ef",
        "unbound": "h",
        "order": "i",
    }
    return {letter: word for word, letters in groups.items() for letter in letters}


def formulas_shouted():
    return {k: f" {v.upper()} " for k, v in reversed(FORMULAS.items())}


# ---------------------------------------------------------------------------- 0.3


def shapes_loop(shape, layers):
    result, current = [], list(shape)
    for layer in layers:
        if layer[0] == "dense":
            current = [current[0], layer[1]]
        elif layer[0] == "reshape":
            numbers = np.prod(current)
            current = [int(numbers // np.prod(layer[2:])), *layer[2:]]
        elif layer[0] == "flatten":
            current = [current[0], int(np.prod(current[1:]))]
        elif layer[0] == "conv":
            _, channels, _, stride = layer
            height, width = (math.ceil(n / stride) for n in current[1:3])
            current = [current[0], height, width, channels]
        elif layer[0] == "conv_transpose":
            _, channels, _, stride = layer
            current = [current[0], current[1] * stride, current[2] * stride, channels]
        result.append(tuple(current))
    return result


def shapes_recursive(shape, layers):
    if not layers:
        return []
    (kind, *numbers), batch = layers[0], shape[0]
    new = {
        "dense": lambda: (batch, *numbers),
        "flatten": lambda: (batch, math.prod(shape[1:])),
        "reshape": lambda: (math.prod(shape) // math.prod(numbers[1:]), *numbers[1:]),
        "conv": lambda: (batch, *(-(n // -numbers[2]) for n in shape[1:3]), numbers[0]),
        "conv_transpose": lambda: (batch, *(n * numbers[2] for n in shape[1:3]), numbers[0]),
    }[kind]()
    return [new, *shapes_recursive(new, layers[1:])]


def shapes_of_real_layers(shape, layers):
    """By running the course's port on torch's device without storage; channels move to the end."""
    x, found = torch.empty(shape, device="meta"), []
    for kind, *numbers in layers:
        if kind == "dense":
            x = nn.Linear(x.shape[1], numbers[0], device="meta")(x)
        elif kind == "flatten":
            x = x.flatten(1)
        elif kind == "reshape":
            x = x.reshape(numbers)
        else:
            make = SamePadConv2d if kind == "conv" else SamePadConvTranspose2d
            channels, kernel, stride = numbers
            layer = make(x.shape[3], channels, kernel, stride, device="meta")
            x = layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        found.append(tuple(x.shape))
    return found


def shapes_variant(down=None, up=None, keep=False):
    """The loop with another rule for convolutions, or a reshape that keeps the batch."""

    def answer(shape, layers):
        result = []
        for kind, *numbers in layers:
            if kind in ("dense", "flatten"):
                shape = (shape[0], numbers[0] if numbers else math.prod(shape[1:]))
            elif kind == "reshape":
                batch = shape[0] if keep else math.prod(shape) // math.prod(numbers[1:])
                shape = (batch, *numbers[1:])
            else:
                channels, kernel, stride = numbers
                if kind == "conv":
                    rule = down or (lambda n, k, s: math.ceil(n / s))
                else:
                    rule = up or (lambda n, k, s: n * s)
                sizes = [rule(n, kernel, stride) for n in shape[1:3]]
                shape = (shape[0], *sizes, channels)
            result.append(shape)
        return result

    return answer


def shapes_with_minus_one(shape, layers):
    found, batch = [], shape[0]
    for layer, known in zip(layers, shapes_loop(shape, layers), strict=True):
        batch = layer[1] if layer[0] == "reshape" else batch
        found.append((batch, *known[1:]))
    return found


def shapes_as_in_torch(shape, layers):
    found = shapes_loop(shape, layers)
    return [(s[0], s[3], s[1], s[2]) if len(s) == 4 else s for s in found]


# ---------------------------------------------------------------------------- 0.4


def loss_in_lines(x, mu, log_var, decode, noise, beta):
    z = mu + torch.exp(0.5 * log_var) * noise
    error = ((x - decode(z)) ** 2).sum(dim=(1, 2, 3))
    kl = -0.5 * torch.sum(1 + log_var - mu**2 - log_var.exp(), dim=1)
    return torch.mean(error + beta * kl)


def loss_with_library(x, mu, log_var, decode, noise, beta):
    q = Normal(mu, (log_var / 2).exp())
    z = q.loc + q.scale * noise
    error = F.mse_loss(decode(z), x, reduction="sum") / len(x)
    kl = kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum() / len(x)
    return error + beta * kl


def loss_loop(x, mu, log_var, decode, noise, beta):
    total = 0.0
    x_hat = decode(mu + log_var.exp().sqrt() * noise)
    for i in range(len(x)):
        for a, b in zip(x[i].flatten(), x_hat[i].flatten(), strict=True):
            total = total + (a - b) ** 2
        for m, v in zip(mu[i], log_var[i], strict=True):
            total = total + beta * (m * m + v.exp() - 1 - v) / 2
    return total / len(x)


def loss_variant(z=None, error=None, kl=None, total=None):
    """A loss whose parts can be replaced by what students write."""
    z = z or (lambda m, v, e: m + (0.5 * v).exp() * e)
    error = error or (lambda a, b: F.mse_loss(a, b, reduction="none").flatten(1).sum(1))
    kl = kl or (lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum(1))
    total = total or (lambda e, k, b: (e + b * k).mean())
    return lambda x, m, v, d, e, b: total(error(x, d(z(m, v, e))), kl(m, v), b)


# ---------------------------------------------------------------------------- 0.5


class Decoder(nn.Module):
    """The printed decoder in small, with options for its mistakes."""

    def __init__(self, latent, channels, size, times=1, reshape=None, last=torch.tanh):
        super().__init__()
        self.map = (channels, size, size)
        self.dense = nn.Linear(latent, times * channels * size * size)
        self.up = nn.ConvTranspose2d(channels, 1, 4, 2, 1)
        self.reshape, self.last = reshape, last

    def forward(self, z):
        h = self.dense(z).relu()
        h = self.reshape(h, *self.map) if self.reshape else h.view(len(z), *self.map)
        return self.last(self.up(h))


def decoder_of_layers(latent, channels, size):
    return nn.Sequential(
        nn.Linear(latent, channels * size**2),
        nn.ReLU(),
        nn.Unflatten(1, (channels, size, size)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(channels, 1, 3, padding=1),
        nn.Tanh(),
    )


def decoder_without_dense(latent, channels, size):
    """The code as an image of one pixel, enlarged by a transposed convolution."""
    return nn.Sequential(
        nn.Unflatten(1, (latent, 1, 1)),
        nn.ConvTranspose2d(latent, channels, size),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, 1, 2, 2),
        nn.Tanh(),
    )


# ---------------------------------------------------------------------------- 0.6

REFERENCES = {
    1: "place",
    2: "place",
    3: "authors",
    4: "title",
    5: "authors",
    6: "place",
    8: "title",
    10: "place",
    11: "title",
    12: "place",
    13: "title",
    14: "title",
    15: "nothing",
}


def references_by_word():
    groups = {"title": (4, 8, 11, 13, 14), "authors": (3, 5), "nothing": (15,)}
    found = dict.fromkeys((1, 2, 6, 10, 12), "place")
    for word, numbers in groups.items():
        found.update(dict.fromkeys(numbers, word))
    return found


def references_with(**changes):
    return lambda: REFERENCES | {int(k[1:]): v for k, v in changes.items()}


# ---------------------------------------------------------------------------- 0.7


def same_by_pad(x, weight, stride):
    pads = []
    for n, k in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):  # the last axis first
        out = math.ceil(n / stride)
        total = max((out - 1) * stride + k - n, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride)


def same_by_windows(x, weight, stride):
    """Window by window, on an image with a wide border of zeros."""
    out = [math.ceil(n / stride) for n in x.shape[2:]]
    wide = F.pad(x, (9, 9, 9, 9))
    starts = []
    for n, k, o in zip(x.shape[2:], weight.shape[2:], out, strict=True):
        total = max((o - 1) * stride + k - n, 0)
        starts.append([9 - total // 2 + stride * i for i in range(o)])
    rows = []
    for i in starts[0]:
        cells = []
        for j in starts[1]:
            window = wide[:, :, i : i + weight.shape[2], j : j + weight.shape[3]]
            cells.append(torch.einsum("bcij,ocij->bo", window, weight))
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, -2)


def same_by_cropping(x, weight, stride):
    """A convolution of stride 1 with too many zeros, of which every stride-th place is kept."""
    full = F.conv2d(x, weight, padding=(weight.shape[2] - 1, weight.shape[3] - 1))
    full = F.pad(full, (0, stride, 0, stride))
    index = []
    for n, k in zip(x.shape[2:], weight.shape[2:], strict=True):
        out = -(-n // stride)
        before = max((out - 1) * stride + k - n, 0) // 2
        index.append(torch.arange(out) * stride + k - 1 - before)
    return full[:, :, index[0]][..., index[1]]


def same_with(before, after):
    def answer(x, weight, stride):
        pads = []
        for n, k in zip(x.shape[:1:-1], weight.shape[:1:-1], strict=True):
            total = max((math.ceil(n / stride) - 1) * stride + k - n, 0)
            pads += [before(total, k), after(total, k)]
        return F.conv2d(F.pad(x, pads), weight, stride=stride)

    return answer


def same_pads(x, weight, stride, limit=True):
    """The zeros as F.pad takes them: left, right, top, bottom."""
    pads = []
    for n, k in ((x.shape[3], weight.shape[3]), (x.shape[2], weight.shape[2])):
        total = (math.ceil(n / stride) - 1) * stride + k - n
        total = max(total, 0) if limit else total
        pads += [total // 2, total - total // 2]
    return pads


def same_without_limit(x, weight, stride):
    return F.conv2d(F.pad(x, same_pads(x, weight, stride, limit=False)), weight, stride=stride)


def same_of_height(x, weight, stride):
    _, _, top, bottom = same_pads(x, weight, stride)
    return F.conv2d(F.pad(x, (top, bottom, top, bottom)), weight, stride=stride)


def same_of_other_axis(x, weight, stride):
    left, right, top, bottom = same_pads(x, weight, stride)
    return F.conv2d(F.pad(x, (top, bottom, left, right)), weight, stride=stride)


def same_rounded_down(x, weight, stride):
    y = same_by_pad(x, weight, stride)
    return y[:, :, : x.shape[2] // stride, : x.shape[3] // stride]


class DecoderInAList(nn.Module):
    """Its layers stand in a plain list, where torch does not look for them."""

    def __init__(self, *sizes):
        super().__init__()
        self.layers = [Decoder(*sizes)]

    def forward(self, z):
        return self.layers[0](z)


BANK = {
    "log10_share_of_prior": Answers(
        right={
            "formula": lambda k: -k * math.log10(2),
            "loop": prior_loop,
            "distribution": prior_by_distribution,
        },
        wrong={
            "the probability itself": lambda k: 2.0**-k,
            "natural logarithm": lambda k: k * math.log(0.5),
            "base two": lambda k: k * math.log2(0.5),
            "minus sign": lambda k: k * math.log10(2),
            "one coordinate": lambda k: math.log10(0.5),
            "not finite": lambda k: torch.log10(torch.tensor(0.5, dtype=torch.float64) ** k).item(),
            "raised": lambda k: math.log10(0.5**k),
        },
    ),
    "article_formulas": Answers(
        right={
            "dictionary": lambda: dict(FORMULAS),
            "by word": formulas_by_word,
            "capitals, spaces, backwards": formulas_shouted,
        },
        wrong={
            "other entries": lambda: {k: v for k, v in FORMULAS.items() if k != "j"},
            "other words": lambda: FORMULAS | {"a": "type error"},
            "kinds not compared": lambda: FORMULAS | {"a": "not a density"},
            "what sums to one": lambda: FORMULAS | {"b": "kinds differ"},
            "fault found where none is": lambda: FORMULAS | {"c": "no game"},
            "who wants what": lambda: FORMULAS | {"d": "sound"},
            "a point or a draw": lambda: FORMULAS | {"f": "sound"},
            "which letters are bound": lambda: FORMULAS | {"h": "order"},
            "which comes first": lambda: FORMULAS | {"i": "sound"},
        },
    ),
    "article_shapes": Answers(
        right={
            "loop": shapes_loop,
            "recursion": shapes_recursive,
            "real layers": shapes_of_real_layers,
        },
        wrong={
            "rounded down": shapes_variant(down=lambda n, k, s: n // s),
            "valid padding": shapes_variant(
                lambda n, k, s: (n - k) // s + 1, lambda n, k, s: (n - 1) * s + k
            ),
            "transposed without padding": shapes_variant(up=lambda n, k, s: (n - 1) * s + k),
            "batch kept": shapes_variant(keep=True),
            "minus one kept": shapes_with_minus_one,
            "height for both": lambda s, p: shapes_loop((*s[:2], s[1], *s[3:]), p),
            "channels first": shapes_as_in_torch,
            "last shape only": lambda s, p: shapes_loop(s, p)[-1],
            "input counted": lambda s, p: [tuple(s), *shapes_loop(s, p)],
            "batch left out": lambda s, p: [x[1:] for x in shapes_loop(s, p)],
        },
    ),
    "mended_article_loss": Answers(
        right={"lines": loss_in_lines, "library": loss_with_library, "loop": loss_loop},
        wrong={
            "nothing drawn": loss_variant(z=lambda m, v, e: m),
            "variance for deviation": loss_variant(z=lambda m, v, e: m + v.exp() * e),
            "log_var for deviation": loss_variant(z=lambda m, v, e: m + v * e),
            "order": loss_variant(
                kl=lambda m, v: kl_divergence(Normal(0.0, 1.0), Normal(m, (v / 2).exp())).sum(1)
            ),
            "mean over pixels": loss_variant(error=lambda a, b: ((a - b) ** 2).mean((1, 2, 3))),
            "mean over latents": loss_variant(
                kl=lambda m, v: -0.5 * (1 + v - m**2 - v.exp()).mean(1)
            ),
            "both averaged": loss_variant(
                error=F.mse_loss, kl=lambda m, v: -0.5 * (1 + v - m**2 - v.exp()).mean()
            ),
            "summed over the batch": loss_variant(total=lambda e, k, b: (e + b * k).sum()),
            "half of the error": loss_variant(total=lambda e, k, b: (0.5 * e + b * k).mean()),
            "beta on the error": loss_variant(total=lambda e, k, b: (b * e + k).mean()),
            "noise of its own": loss_variant(
                z=lambda m, v, e: m + (0.5 * v).exp() * torch.randn_like(m)
            ),
            "log_var taken as the variance": loss_variant(
                kl=lambda m, v: 0.5 * (m**2 + v - 1 - v.log()).sum(1)
            ),
            "draw cut off": loss_variant(z=lambda m, v, e: (m + (0.5 * v).exp() * e).detach()),
            "error summed over the batch": loss_variant(
                error=lambda a, b: F.mse_loss(a, b, reduction="sum")
            ),
            "KL summed over the batch": loss_variant(
                kl=lambda m, v: -0.5 * torch.sum(1 + v - m**2 - v.exp())
            ),
            "half of the KL forgotten": loss_variant(
                kl=lambda m, v: (m**2 + v.exp() - 1 - v).sum(1)
            ),
            "beta forgotten": loss_variant(total=lambda e, k, b: (e + k).mean()),
            "norm not squared": loss_variant(error=lambda a, b: (a - b).flatten(1).norm(dim=1)),
            "wrong shape": loss_variant(total=lambda e, k, b: e + b * k),
            "minus sign": loss_variant(total=lambda e, k, b: (e - b * k).mean()),
            "no gradient": lambda *args: loss_in_lines(*args).detach(),
        },
    ),
    "mended_article_decoder": Answers(
        right={
            "module": Decoder,
            "layers": decoder_of_layers,
            "without dense": decoder_without_dense,
        },
        wrong={
            "not a module": lambda *sizes: lambda z: Decoder(*sizes)(z),
            "no weights found": lambda *sizes: DecoderInAList(*sizes),
            "eight images per code": lambda *sizes: Decoder(
                *sizes, times=8, reshape=lambda h, *m: h.view(-1, *m)
            ),
            "one image for all codes": lambda *sizes: Decoder(
                *sizes, reshape=lambda h, *m: h.mean(0).expand(len(h), -1).reshape(len(h), *m)
            ),
            "codes mixed": lambda *sizes: Decoder(
                *sizes, reshape=lambda h, c, *m: h.reshape(c, len(h), *m).transpose(0, 1)
            ),
            "eight times the weights": lambda *sizes: Decoder(
                *sizes, times=8, reshape=lambda h, *m: h.view(len(h), 8, *m)[:, 0]
            ),
            "no map": lambda latent, channels, size: nn.Sequential(
                nn.Linear(latent, size**2, bias=False),
                nn.Unflatten(1, (1, size, size)),
                nn.ConvTranspose2d(1, 1, 4, 2, 1),
                nn.Tanh(),
            ),
            "other range": lambda *sizes: Decoder(*sizes, last=torch.sigmoid),
            "other shape": lambda latent, channels, size: Decoder(latent, channels, 2 * size),
        },
    ),
    "article_references": Answers(
        right={
            "dictionary": lambda: dict(REFERENCES),
            "by word": references_by_word,
            "changed one by one": references_with(_1="Place", _15=" nothing "),
        },
        wrong={
            "other entries": lambda: REFERENCES | {9: "authors"},
            "other words": references_with(_6="id"),
            "trusts a title": references_with(_11="authors", _13="place"),
            "trusts the authors": references_with(_3="place"),
            "trusts the place": references_with(_12="nothing", _1="nothing"),
            "doubts a title": references_with(_1="title"),
            "doubts the authors": references_with(_10="authors"),
            "doubts the place": references_with(_15="place"),
        },
    ),
    "tensorflow_same": Answers(
        right={
            "zeros": same_by_pad,
            "windows": same_by_windows,
            "cropping": same_by_cropping,
        },
        wrong={
            "the same on both sides": lambda x, w, s: F.conv2d(
                x, w, stride=s, padding=(w.shape[2] // 2, w.shape[3] // 2)
            ),
            "all zeros behind": same_with(lambda t, k: 0, lambda t, k: t),
            "height for both axes": same_of_height,
            "axes exchanged": same_of_other_axis,
            "negative zeros": same_without_limit,
            "border repeated": lambda x, w, s: F.conv2d(
                F.pad(x, same_pads(x, w, s), mode="replicate"), w, stride=s
            ),
            "odd zero in front": same_with(lambda t, k: t - t // 2, lambda t, k: t // 2),
            "no zeros": lambda x, w, s: F.conv2d(x, w, stride=s),
            "by the kernel alone": lambda x, w, s: F.conv2d(
                x, w, stride=s, padding=((w.shape[2] - 1) // 2, (w.shape[3] - 1) // 2)
            ),
            "rounded down": same_rounded_down,
            "kernel flipped": lambda x, w, s: same_by_pad(x, w.flip((2, 3)), s),
            "wrong shape": lambda x, w, s: same_by_pad(x, w, 1),
        },
    ),
}
