"""Answers to the exercises on lecture 06: right in different ways, and wrong as students write."""

from __future__ import annotations

import copy
import itertools
import math

import torch
from answers import Answers
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import functional as vision

from course_lib import models, training
from course_lib.models.common import upsampling

# ---------------------------------------------------------------------------- 6.1


def side(n, kernel, stride, padding, transposed=False, output_padding=0):
    if transposed:
        return (n - 1) * stride - 2 * padding + kernel + output_padding
    return (n + 2 * padding - kernel) // stride + 1


def side_by_counting(n, kernel, stride, padding, transposed=False, output_padding=0):
    if not transposed:
        return sum(
            1 for start in range(0, n + 2 * padding, stride) if start + kernel <= n + 2 * padding
        )
    reached = {i * stride + a for i in range(n) for a in range(kernel)}
    return max(reached) + 1 - 2 * padding + output_padding


def side_of_layers(n, kernel, stride, padding, transposed=False, output_padding=0):
    if transposed:
        layer = nn.ConvTranspose2d(1, 1, kernel, stride, padding, output_padding)
    else:
        layer = nn.Conv2d(1, 1, kernel, stride, padding)
    return layer(torch.zeros(1, 1, n, n)).shape[-1]


def side_down(formula):
    """The right size upwards and this formula downwards."""

    def wrong(n, kernel, stride, padding, transposed=False, output_padding=0):
        if transposed:
            return side(n, kernel, stride, padding, True, output_padding)
        return formula(n, kernel, stride, padding)

    return wrong


def side_up(formula):
    def wrong(n, kernel, stride, padding, transposed=False, output_padding=0):
        if transposed:
            return formula(n, kernel, stride, padding, output_padding)
        return side(n, kernel, stride, padding)

    return wrong


# ---------------------------------------------------------------------------- 6.2


def weights(latent_dim, widths, channels, start):
    total = latent_dim * widths[0] * start**2 + 2 * widths[0]
    for fan_in, fan_out in itertools.pairwise(widths):
        total += 16 * fan_in * fan_out + 2 * fan_out
    return total + 16 * widths[-1] * channels + channels


def weights_of_tensors(latent_dim, widths, channels, start):
    shapes = [(latent_dim, widths[0], start, start), (widths[0],), (widths[0],)]
    for i, width in enumerate(widths):
        out = widths[i + 1] if i + 1 < len(widths) else channels
        shapes.append((width, out, 4, 4))
        shapes += [(out,)] if i + 1 == len(widths) else [(out,), (out,)]
    return sum(math.prod(shape) for shape in shapes)


def weights_of_layers(latent_dim, widths, channels, start, **changes):
    bias = changes.get("bias", False)
    layers = [nn.Linear(latent_dim, widths[0] * start**2, bias=bias)]
    norm = changes.get("norm", nn.BatchNorm2d)
    for fan_in, fan_out in zip(widths, [*widths[1:], None], strict=True):
        layers.append(norm(fan_in))
        kernel = changes.get("kernel", 4)
        if fan_out is not None:
            layers.append(nn.ConvTranspose2d(fan_in, fan_out, kernel, 2, 1, bias=bias))
        else:
            last = changes.get("last", True)
            layers.append(nn.ConvTranspose2d(fan_in, channels, kernel, 2, 1, bias=last))
    network = nn.Sequential(*layers)
    count = sum(p.numel() for p in network.parameters())
    if changes.get("buffers"):
        count += sum(b.numel() for b in network.buffers() if b.ndim)
    return count


def weights_with_work(latent_dim, widths, channels, start):
    total, place = latent_dim * widths[0] * start**2 + 2 * widths[0], start
    for fan_in, fan_out in zip(widths, [*widths[1:], channels], strict=True):
        place *= 2
        total += place**2 * 16 * fan_in * fan_out
    return total + 2 * sum(widths[1:]) + channels


# ---------------------------------------------------------------------------- 6.3


def block(c_in, c_out, last=False, **changes):
    bias = changes.get("bias", last)
    kernel, padding = changes.get("kernel", (4, 1))
    layers = [nn.ConvTranspose2d(c_in, c_out, kernel, 2, padding, bias=bias)]
    if changes.get("norm", not last):
        layers.append(nn.BatchNorm2d(c_out))
    activation = changes.get("activation") or (nn.Tanh() if last else nn.ReLU())
    return nn.Sequential(*layers, activation)


class OwnBlock(nn.Module):
    """Written with functions instead of layers."""

    def __init__(self, c_in, c_out, last):
        super().__init__()
        self.kernel = nn.Parameter(0.02 * torch.randn(c_in, c_out, 4, 4))
        self.scale = None if last else nn.Parameter(torch.ones(c_out))
        self.shift = nn.Parameter(torch.zeros(c_out))

    def forward(self, x):
        if self.scale is None:
            return torch.tanh(F.conv_transpose2d(x, self.kernel, self.shift, 2, 1))
        h = F.conv_transpose2d(x, self.kernel, stride=2, padding=1)
        mean, var = h.mean((0, 2, 3), True), h.var((0, 2, 3), unbiased=False, keepdim=True)
        h = (h - mean) / (var + 1e-5).sqrt()
        return (h * self.scale[:, None, None] + self.shift[:, None, None]).clamp(min=0)


def block_of_library(c_in, c_out, last=False):
    if last:
        return nn.Sequential(upsampling([c_in, c_out]), nn.Tanh())
    return upsampling([c_in, c_out, 1], batch_norm=True)[:3]


def block_initialised(c_in, c_out, last=False):
    return models.dcgan_init(block(c_in, c_out, last))


def block_relu_first(c_in, c_out, last=False):
    # The order is asked about in pytorch/examples, issue 383.
    if last:
        return block(c_in, c_out, last)
    up = nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False)
    return nn.Sequential(up, nn.ReLU(), nn.BatchNorm2d(c_out))


def block_norm_first(c_in, c_out, last=False):
    if last:
        return block(c_in, c_out, last)
    up = nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(c_in), up, nn.ReLU())


def block_resized(c_in, c_out, last=False):
    layers = [nn.Upsample(scale_factor=2), nn.Conv2d(c_in, c_out, 3, padding=1, bias=last)]
    return nn.Sequential(*layers, nn.Tanh() if last else nn.ReLU())


def block_inner(**changes):
    """A wrong inner block; the last one is right."""
    return lambda c_in, c_out, last=False: block(c_in, c_out, last, **({} if last else changes))


def block_last(**changes):
    return lambda c_in, c_out, last=False: block(c_in, c_out, last, **(changes if last else {}))


# ---------------------------------------------------------------------------- 6.4


def initialise(network, std=0.02, convolutions=(nn.Conv2d, nn.ConvTranspose2d), linear=True):
    for module in network.modules():
        if isinstance(module, convolutions) or (linear and isinstance(module, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    return network


def initialise_by_name(network):
    def visit(module):
        name = type(module).__name__
        if "Conv" in name or "Linear" in name:
            module.weight.data.normal_(0.0, 0.02)
        elif "BatchNorm" in name:
            module.weight.data.normal_(1.0, 0.02)
        if hasattr(module, "bias") and module.bias is not None:
            module.bias.data.fill_(0)

    return network.apply(visit)


@torch.no_grad()
def initialise_by_shape(network):
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        else:
            centre = float(parameter.ndim == 1)
            parameter.copy_(centre + 0.02 * torch.randn_like(parameter))
    return network


def initialise_tutorial(network):
    """As in PyTorch's DCGAN tutorial: a convolution's own bias is not touched."""

    def visit(module):
        name = type(module).__name__
        if name.find("Conv") != -1 or name.find("Linear") != -1:
            nn.init.normal_(module.weight.data, 0.0, 0.02)
        elif name.find("BatchNorm") != -1:
            nn.init.normal_(module.weight.data, 1.0, 0.02)
            nn.init.constant_(module.bias.data, 0)

    return network.apply(visit)


def initialise_all_alike(network):
    # The paper says "all weights"; pytorch/examples, issue 516, asks about the batch norms.
    for name, parameter in network.named_parameters():
        with torch.no_grad():
            if name.endswith("weight"):
                parameter.normal_(0, 0.02)
            else:
                parameter.zero_()
    return network


def initialise_children(network):
    for module in network.children():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0, 0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.02)
            nn.init.zeros_(module.bias)
    return network


def initialise_norms(change):
    def wrong(network):
        before = [m.weight.detach().clone() for m in network.modules() if is_norm(m)]
        initialise(network)
        for module, weight in zip(filter(is_norm, network.modules()), before, strict=True):
            with torch.no_grad():
                module.weight.copy_(weight if change is None else torch.full_like(weight, change))
        return network

    return wrong


def is_norm(module):
    return isinstance(module, nn.BatchNorm2d)


def initialise_uniform(network):
    initialise(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.uniform_(module.weight, -0.02 * 3**0.5, 0.02 * 3**0.5)
    return network


def initialise_anew(network):
    for module in network.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            centre = float(name == "weight" and old.ndim == 1)
            spread = 0.02 * (name == "weight")
            setattr(module, name, nn.Parameter(centre + spread * torch.randn_like(old)))
    return network


def initialise_no_check(network):
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0, 0.02)
            nn.init.zeros_(module.bias)  # a convolution without bias has None here
    return network


# ---------------------------------------------------------------------------- 6.5


def batch_by_loop(pixels):
    n, height, width, channels = pixels.shape
    images = torch.empty(n, channels, height, width, device=pixels.device)
    for c in range(channels):
        images[:, c] = 2 * (pixels[..., c].float() / 255) - 1
    return images


def batch_by_torchvision(pixels):
    x = vision.convert_image_dtype(pixels.permute(0, 3, 1, 2), torch.float32)
    return vision.normalize(x, [0.5], [0.5])


def batch_broken(pixels):
    n, height, width, channels = pixels.shape
    return pixels.float().div(255).view(n, channels, height, width)


def batch_stretched(pixels):
    x = pixels.permute(0, 3, 1, 2).float()
    return 2 * (x - x.min()) / (x.max() - x.min()) - 1


def batch_by_numpy(pixels):
    return torch.from_numpy(pixels.numpy().transpose(0, 3, 1, 2).astype("float32") / 127.5 - 1)


def batch_standardised(pixels):
    x = pixels.permute(0, 3, 1, 2).float() / 255
    return (x - x.mean()) / x.std()


# ---------------------------------------------------------------------------- 6.6


def sample(generator, z):
    mode = generator.training
    generator.eval()
    with torch.no_grad():
        images = generator(z)
    generator.train(mode)
    return images


@torch.inference_mode()
def sample_from_a_copy(generator, z):
    return copy.deepcopy(generator).eval()(z)


def sample_one_by_one(generator, z):
    modes = {module: module.training for module in generator.modules()}
    generator.eval()
    images = torch.stack([generator(row[None])[0].detach() for row in z])
    for module, mode in modes.items():
        module.training = mode
    return images


@torch.no_grad()
def sample_in_training_mode(generator, z):
    # soumith/dcgan.torch, issue 19: the images depend on the other noise vectors.
    return generator(z)


def sample_switched(generator, z, on, off, grad=False):
    """Modes before and after the pass."""
    generator.train(on) if on is not None else None
    with torch.set_grad_enabled(grad):
        images = generator(z)
    generator.train(off) if off is not None else None
    return images


@torch.no_grad()
def sample_batches_of_one(generator, z):
    # Newmu/dcgan_code, issue 15: a single sample in training mode.
    generator.train()
    return torch.cat([generator(row[None]) for row in z])


def sample_without_statistics(generator, z):
    # odegeasslbc/FastGAN-pytorch, issue 4: weights copied, running statistics not.
    twin = models.DCGANGenerator(16, 1, 3, 2)
    for mine, theirs in zip(twin.parameters(), generator.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    with torch.no_grad():
        return twin.eval()(z)


def sample_and_move(generator, z):
    """Right images, but a pass in training mode afterwards (to see its loss, say)."""
    mode = generator.training
    images = sample(generator, z)
    with torch.no_grad():
        generator.train()
        generator(z)
    generator.train(mode)
    return images


def sample_frozen(generator, z):
    mode = generator.training
    generator.eval().requires_grad_(False)
    images = generator(z)
    generator.train(mode)
    return images


# ---------------------------------------------------------------------------- 6.7


def ways(n, layers):
    x = torch.ones(1, 1, n, n)
    for kernel, stride, padding in layers:
        layer = nn.ConvTranspose2d(1, 1, kernel, stride, padding, bias=False)
        nn.init.ones_(layer.weight)
        with torch.no_grad():
            x = layer(x)
    return x[0, 0].round().long()


def ways_along_axis(n, layers, crop=lambda wide, padding: wide[padding : len(wide) - padding]):
    axis = [1] * n
    for kernel, stride, padding in layers:
        wide = [0] * ((len(axis) - 1) * stride + kernel)
        for i, count in enumerate(axis):
            for a in range(kernel):
                wide[i * stride + a] += count
        axis = crop(wide, padding)
    return torch.tensor(axis)


def ways_outer(n, layers, **options):
    axis = ways_along_axis(n, layers, **options)
    return torch.outer(axis, axis)


def ways_cut_at_last(n, layers):
    full = ways_outer(n, layers, crop=lambda wide, padding: wide)
    cut = sum(padding for _, _, padding in layers)
    return full[cut : len(full) - cut, cut : len(full) - cut]


def ways_by_backward(n, layers):
    """A transposed convolution is the backward pass of a convolution."""
    x = torch.ones(1, 1, n, n, dtype=torch.float64)
    for kernel, stride, padding in layers:
        m = (x.shape[-1] - 1) * stride - 2 * padding + kernel
        below = torch.zeros(1, 1, m, m, dtype=torch.float64, requires_grad=True)
        ones = torch.ones(1, 1, kernel, kernel, dtype=torch.float64)
        F.conv2d(below, ones, stride=stride, padding=padding).backward(x)
        x = below.grad
    return x[0, 0].long()


def ways_by_matrices(n, layers):
    axis = torch.ones(n, dtype=torch.long)
    for kernel, stride, padding in layers:
        m = (len(axis) - 1) * stride - 2 * padding + kernel
        taps = torch.arange(m)[:, None] + padding - stride * torch.arange(len(axis))
        axis = ((taps >= 0) & (taps < kernel)).long() @ axis
    return axis[:, None] * axis[None, :]


def ways_inner(n, layers):
    counts = torch.ones(n, dtype=torch.long)
    for kernel, stride, padding in layers:
        m = (len(counts) - 1) * stride - 2 * padding + kernel
        rest = (torch.arange(m) + padding) % stride
        counts = torch.tensor([math.ceil((kernel - int(r)) / stride) for r in rest])
    return torch.outer(counts, counts)


def ways_last_only(n, layers):
    for kernel, stride, padding in layers:
        x = torch.ones(1, 1, n, n)
        x = F.conv_transpose2d(x, torch.ones(1, 1, kernel, kernel), stride=stride, padding=padding)
        n = x.shape[-1]
    return x[0, 0].long()


class BlockInAList(nn.Module):
    """Its layers stand in a plain list, where torch does not look for them."""

    def __init__(self, c_in, c_out, last):
        super().__init__()
        self.layers = list(block(c_in, c_out, last))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


BANK = {
    "map_side": Answers(
        right={
            "formula": side,
            "counting": side_by_counting,
            "layers": side_of_layers,
        },
        wrong={
            "rounded up": side_down(lambda n, k, s, p: math.ceil((n + 2 * p - k) / s) + 1),
            "not rounded": side_down(lambda n, k, s, p: (n + 2 * p - k) / s + 1),
            "first window forgotten": side_down(lambda n, k, s, p: (n + 2 * p - k) // s),
            "padding forgotten": side_down(lambda n, k, s, p: (n - k) // s + 1),
            "padding on one side": side_down(lambda n, k, s, p: (n + p - k) // s + 1),
            "padding added": side_up(lambda n, k, s, p, e: (n - 1) * s + 2 * p + k + e),
            "padding taken once": side_up(lambda n, k, s, p, e: (n - 1) * s - p + k + e),
            "stamps counted wrongly": side_up(lambda n, k, s, p, e: n * s - 2 * p + k + e),
            "n times the stride": side_up(lambda n, k, s, p, e: n * s),
            "output padding downwards": lambda n, k, s, p, transposed=False, output_padding=0: (
                side(n, k, s, p, transposed) + output_padding
            ),
            # pytorch/pytorch, issue 98129: the shape function without output_padding.
            "output padding forgotten": side_up(lambda n, k, s, p, e: (n - 1) * s - 2 * p + k),
            "convolution for transposed": lambda n, k, s, p, transposed=False, output_padding=0: (
                side(n, k, s, p)
            ),
            "always transposed": lambda n, k, s, p, transposed=False, output_padding=0: side(
                n, k, s, p, True, output_padding
            ),
        },
    ),
    "dcgan_weight_count": Answers(
        right={
            "formula": weights,
            "shapes": weights_of_tensors,
            "layers": weights_of_layers,
        },
        wrong={
            # udacity/deep-learning-v2-pytorch, issue 47, on the bias and the batch norm.
            "bias before batch norm": lambda *args: weights_of_layers(*args, bias=True),
            "bias in the linear layer": lambda latent, *rest: weights(latent + 1, *rest),
            "bias in the convolutions": lambda *args: weights(*args) + sum(args[1][1:]),
            "first batch norm forgotten": lambda *args: weights(*args) - 2 * args[1][0],
            "batch norm per place": lambda latent, *rest: (
                weights(latent + 2, *rest) - 2 * rest[0][0]
            ),
            "kernel of the article": lambda *args: weights_of_layers(*args, kernel=5),
            "first map counted as one row": lambda latent, widths, channels, start: (
                weights(latent, widths, channels, 1) + latent * widths[0] * (start - 1)
            ),
            "batch norm forgotten": lambda *args: weights_of_layers(
                *args, norm=lambda c: nn.Identity()
            ),
            "batch norm counted once": lambda *args: weights(*args) - sum(args[1]),
            "running statistics counted": lambda *args: weights_of_layers(*args, buffers=True),
            "last bias forgotten": lambda *args: weights_of_layers(*args, last=False),
            "side for area": lambda latent, widths, channels, start: (
                weights(latent, widths, channels, start)
                - 12 * sum(a * b for a, b in zip(widths, [*widths[1:], channels], strict=True))
            ),
            "work counted": weights_with_work,
            "first map counted as one cell": lambda latent, widths, channels, start: weights(
                latent, widths, channels, 1
            ),
        },
    ),
    "dcgan_block": Answers(
        right={
            "layers": block,
            "own module": lambda c_in, c_out, last=False: OwnBlock(c_in, c_out, last),
            "library": block_of_library,
            "initialised": block_initialised,
        },
        wrong={
            "not a module": lambda c_in, c_out, last=False: list(block(c_in, c_out, last)),
            "no weights found": lambda c_in, c_out, last=False: BlockInAList(c_in, c_out, last),
            "side not doubled": lambda c_in, c_out, last=False: block(
                c_in, c_out, last, kernel=(4, 0)
            ),
            "ordinary convolution": block_resized,
            "uneven kernel": lambda c_in, c_out, last=False: block(
                c_in, c_out, last, kernel=(5, 2)
            ),
            "several convolutions": lambda c_in, c_out, last=False: nn.Sequential(
                block(c_in, c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
            ),
            "bias before batch norm": block_inner(bias=True),
            "no batch norm": block_inner(norm=False),
            "batch norm first": block_norm_first,
            "batch norm at the end": block_last(norm=True, bias=False),
            "no bias at the end": block_last(bias=False),
            "activation before batch norm": block_relu_first,
            "leaky": block_inner(activation=nn.LeakyReLU(0.2)),
            "no activation": block_inner(activation=nn.Identity()),
            "tanh inside": block_inner(activation=nn.Tanh()),
            "no tanh": block_last(activation=nn.Identity()),
            "sigmoid at the end": block_last(activation=nn.Sigmoid()),
            "ReLU at the end": block_last(activation=nn.ReLU()),
        },
    ),
    "dcgan_initialise": Answers(
        right={
            "types": initialise,
            "names": initialise_by_name,
            "shapes": initialise_by_shape,
            "library": models.dcgan_init,
        },
        wrong={
            "not the network": lambda network: initialise(network) and None,
            "a copy": lambda network: initialise(copy.deepcopy(network)),
            "new parameters": initialise_anew,
            "linear layers forgotten": lambda network: initialise(network, linear=False),
            "transposed convolutions forgotten": lambda network: initialise(
                network, convolutions=(nn.Conv2d,)
            ),
            "convolutions forgotten": lambda network: initialise(
                network, convolutions=(nn.ConvTranspose2d,)
            ),
            "inner layers forgotten": initialise_children,
            "batch norm forgotten": initialise_norms(None),
            "batch norm around zero": initialise_all_alike,
            "batch norm exactly one": initialise_norms(1.0),
            "biases forgotten": initialise_tutorial,
            "variance for deviation": lambda network: initialise(network, std=0.02**2),
            "root of the deviation": lambda network: initialise(network, std=0.02**0.5),
            "wrong spread": lambda network: initialise(network, std=1.0),
            "not normal": initialise_uniform,
            "raised": initialise_no_check,
        },
    ),
    "mended_image_batch": Answers(
        right={
            "permute": lambda pixels: pixels.permute(0, 3, 1, 2).float() / 127.5 - 1,
            "loop": batch_by_loop,
            "torchvision": batch_by_torchvision,
            "movedim": lambda pixels: (pixels.movedim(-1, 1) / 255 - 0.5) / 0.5,
        },
        wrong={
            # soumith/dcgan.torch, issue 42, and togheppi/DCGAN, issue 2, ask about this range.
            "range [0, 1]": lambda u: u.permute(0, 3, 1, 2).float() / 255,
            "half the range": lambda u: u.permute(0, 3, 1, 2).float() / 255 - 0.5,
            "bytes wrap around": lambda u: u.permute(0, 3, 1, 2) * 2 / 255 - 1,
            "bytes below zero": lambda u: (u * 2 - 255).permute(0, 3, 1, 2) / 255,
            "whole numbers": lambda u: (u.permute(0, 3, 1, 2) // 255).float() * 2 - 1,
            "largest of the batch": lambda u: u.permute(0, 3, 1, 2).float() / u.max() * 2 - 1,
            # jeya-maria-jose/TransWeather, issue 2: view in place of permute.
            "reshaped": lambda u: 2 * batch_broken(u) - 1,
            # weify627/4D-Rotor-Gaussians, issue 7: permute(0, 3, 2, 1).
            "height and width exchanged": lambda u: u.permute(0, 3, 2, 1).float() / 127.5 - 1,
            "reshaped and in [0, 1]": batch_broken,
            "divided by 256": lambda u: u.permute(0, 3, 1, 2).float() / 256 * 2 - 1,
            "stretched": batch_stretched,
            "standardised": batch_standardised,
            "inverted": lambda u: 1 - u.permute(0, 3, 1, 2).float() / 127.5,
            "wrong dtype": lambda u: u.permute(0, 3, 1, 2).double() / 127.5 - 1,
            "wrong device": batch_by_numpy,
        },
    ),
    "sample_images": Answers(
        right={
            "eval": sample,
            "copy": sample_from_a_copy,
            "one by one": sample_one_by_one,
            "library": training.generate,
        },
        wrong={
            "the batch decides": lambda g, z: sample_switched(g, z, True, None),
            "batches of one": sample_batches_of_one,
            "running statistics lost": sample_without_statistics,
            "running statistics moved": sample_and_move,
            "graph kept": lambda g, z: sample_switched(g, z, False, g.training, grad=True),
            "left in evaluation mode": lambda g, z: sample_switched(g, z, False, None),
            "put into training mode": lambda g, z: sample_switched(g, z, False, True),
            "left frozen": sample_frozen,
            "range changed": lambda g, z: (sample(g, z) + 1) / 2,
        },
    ),
    "path_counts": Answers(
        right={
            "layers": ways,
            "loops": ways_outer,
            "backward": ways_by_backward,
            "matrices": ways_by_matrices,
        },
        wrong={
            "padding ignored": lambda n, layers: ways_outer(n, layers, crop=lambda w, p: w),
            "padding cut at one end": lambda n, layers: ways_outer(
                n, layers, crop=lambda w, p: w[: len(w) - 2 * p]
            ),
            "padding cut once": lambda n, layers: ways_outer(n, layers, crop=lambda w, p: w[p:]),
            "empty": lambda n, layers: ways_outer(n, layers, crop=lambda w, p: w[p:-p]),
            "padding cut after all": ways_cut_at_last,
            "layers backwards": lambda n, layers: ways_outer(n, layers[::-1]),
            "one axis": ways_along_axis,
            "added over the axes": lambda n, layers: (
                ways_along_axis(n, layers)[:, None] + ways_along_axis(n, layers)
            ),
            "border forgotten": ways_inner,
            "last layer only": ways_last_only,
            "reached or not": lambda n, layers: (ways(n, layers) > 0).long(),
            "wrong dtype": lambda n, layers: ways(n, layers).float(),
        },
    ),
}
