"""Answers to the exercises on lecture 18: right in different ways, and wrong as students write."""

from __future__ import annotations

import copy
import io
import statistics

import numpy as np
import torch
from answers import Answers
from torch import nn
from torch.optim.swa_utils import update_bn

# ---------------------------------------------------------------------------- 18.1


def budget_direct(weights_g, weights_d, batch_size, rate, seconds, n_images):
    both = weights_g + weights_d
    images = rate * seconds
    return 4 * 4 * both + 4 * weights_g, images / batch_size, images / n_images


def budget_loop(weights_g, weights_d, batch_size, rate, seconds, n_images):
    numbers = 0
    for what in ("weight", "gradient", "first moment", "second moment"):
        numbers += len([what]) * (weights_g + weights_d)
    numbers += weights_g
    updates = rate / batch_size * seconds
    return [
        numbers * torch.finfo(torch.float32).bits // 8,
        updates,
        updates * batch_size / n_images,
    ]


def budget_tensors(weights_g, weights_d, batch_size, rate, seconds, n_images):
    counts = torch.tensor([5.0, 4.0], dtype=torch.float64)
    fixed = 4 * counts @ torch.tensor([weights_g, weights_d], dtype=torch.float64)
    images = torch.tensor(rate * seconds, dtype=torch.float64)
    return fixed, images / batch_size, images / n_images


def budget_with(fixed=None, updates=None, passes=None):
    def answer(g, d, b, r, t, n):
        right = budget_direct(g, d, b, r, t, n)
        return (
            right[0] if fixed is None else fixed(g, d),
            right[1] if updates is None else updates(b, r, t, n),
            right[2] if passes is None else passes(b, r, t, n),
        )

    return answer


# ---------------------------------------------------------------------------- 18.2


def share_direct(real, fake):
    return fake.double().var(0).mean() / real.double().var(0).mean()


def share_loop(real, fake):
    def total(x):
        pixels = x.flatten(1).T.tolist()
        return sum(statistics.variance(p) for p in pixels) / len(pixels)

    return total(fake) / total(real)


def share_numpy(real, fake):
    a, b = (np.asarray(x, dtype=np.float64) for x in (fake, real))
    return float(a.var(axis=0, ddof=1).mean() / b.var(axis=0, ddof=1).mean())


def share_by_covariance(real, fake):
    traces = [x.double().flatten(1).T.cov().trace() for x in (fake, real)]
    return traces[0] / traces[1]


def share_of(measure):
    return lambda real, fake: measure(fake.double()) / measure(real.double())


# ---------------------------------------------------------------------------- 18.3


@torch.no_grad()
def ema_lerp(average, module, decay):
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        mine.lerp_(theirs, 1 - decay)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


def ema_by_state_dict(average, module, decay):
    new, names = {}, dict(module.named_parameters()).keys()
    theirs = module.state_dict()
    for name, mine in average.state_dict().items():
        if name in names:
            new[name] = decay * mine + (1 - decay) * theirs[name]
        else:
            new[name] = theirs[name]
    average.load_state_dict(new)


def ema_with_data(average, module, decay):
    mine, theirs = dict(average.named_parameters()), dict(module.named_parameters())
    for name, p in mine.items():
        p.data.mul_(decay).add_(theirs[name].data, alpha=1 - decay)
    for name, b in average.named_buffers():
        b.data.copy_(module.get_buffer(name))


def ema_by_library(average, module, decay):
    def step(mine, theirs, _):
        return theirs.detach() + decay * (mine - theirs.detach())

    wrapper = torch.optim.swa_utils.AveragedModel(average, avg_fn=step)
    wrapper.n_averaged.fill_(1)  # so that the first update is an average and not a copy
    wrapper.update_parameters(module)
    average.load_state_dict(wrapper.module.state_dict())
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


def ema_into_names(average, module, decay):
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        mine = decay * mine + (1 - decay) * theirs


def ema_exchanged(average, module, decay):
    ema_lerp(average, module, 1 - decay)


def ema_copied(average, module, decay):
    average.load_state_dict(module.state_dict())


@torch.no_grad()
def ema_parameters_only(average, module, decay):
    # CuriousAI/mean-teacher issue 9, facebookresearch/moco issue 70
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        mine.mul_(decay).add_(theirs, alpha=1 - decay)


@torch.no_grad()
def ema_of_everything(average, module, decay):
    theirs = module.state_dict()
    for name, mine in average.state_dict().items():
        mine.copy_(decay * mine + (1 - decay) * theirs[name])


@torch.no_grad()
def ema_without_counter(average, module, decay):
    theirs = dict(module.named_buffers())
    ema_parameters_only(average, module, decay)
    for name, mine in average.named_buffers():
        if mine.is_floating_point():
            mine.copy_(theirs[name])


@torch.no_grad()
def ema_into_the_source(average, module, decay):
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        theirs.mul_(1 - decay).add_(mine, alpha=decay)
    ema_copied(average, module, decay)


def ema_shared(average, module, decay):
    ema_parameters_only(average, module, decay)
    for mine, theirs in zip(average.modules(), module.modules(), strict=True):
        for name, buffer in theirs.named_buffers(recurse=False):
            setattr(mine, name, buffer)


def ema_with_graph(average, module, decay):
    for mine, theirs in zip(average.parameters(), module.parameters(), strict=True):
        mine.mul_(decay).add_(theirs, alpha=1 - decay)
    for mine, theirs in zip(average.buffers(), module.buffers(), strict=True):
        mine.copy_(theirs)


# ---------------------------------------------------------------------------- 18.4


def _norms(network):
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def recalibrate_by_library(network, batches):
    update_bn(batches, network)


@torch.no_grad()
def recalibrate_by_momentum(network, batches):
    before, momenta = network.training, {m: m.momentum for m in _norms(network)}
    network.train()
    for m in momenta:
        m.reset_running_stats()
    for i, z in enumerate(batches, 1):
        for m in momenta:
            m.momentum = 1 / i
        network(z)
    for m, momentum in momenta.items():
        m.momentum = momentum
    network.train(before)


def _mean_and_var(x):
    channels = x.transpose(0, 1).flatten(1)
    return channels.mean(1), channels.var(1)


@torch.no_grad()
def recalibrate_by_hooks(network, batches):
    seen = {m: [] for m in _norms(network)}
    handles = [
        m.register_forward_pre_hook(lambda m, x: seen[m].append(_mean_and_var(x[0]))) for m in seen
    ]
    twin_mode = network.training
    network.train()
    for z in batches:
        network(z)
    network.train(twin_mode)
    for handle in handles:
        handle.remove()
    for m, values in seen.items():
        m.running_mean.copy_(torch.stack([v[0] for v in values]).mean(0))
        m.running_var.copy_(torch.stack([v[1] for v in values]).mean(0))


def recalibrate_with(
    reset="reset_running_stats", momentum=None, restore=True, mode="before", batches_of=list
):
    def answer(network, batches):
        before, momenta = network.training, {m: m.momentum for m in _norms(network)}
        for m in momenta:
            if reset:
                getattr(m, reset)()
            m.momentum = m.momentum if momentum == "as it is" else momentum
        network.train()
        with torch.no_grad():
            for z in batches_of(batches):
                network(z)
        if restore:
            for m, value in momenta.items():
                m.momentum = value
        if mode == "before":
            network.train(before)
        elif mode == "eval":
            network.eval()

    return answer


def recalibrate_children(network, batches):
    """It finds the norms that are no deeper than the network's own children."""
    _recalibrate(network, batches, [m for m in network.children() if m in _norms(network)])


def recalibrate_one_class(network, batches):
    _recalibrate(network, batches, [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)])


@torch.no_grad()
def _recalibrate(network, batches, norms):
    before = network.training
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    network.train()
    for z in batches:
        network(z)
    for m, value in zip(norms, momenta, strict=True):
        m.momentum = value
    network.train(before)


@torch.no_grad()
def recalibrate_in_eval_mode(network, batches):
    for z in batches:
        network.eval()(z)


# ---------------------------------------------------------------------------- 18.5


def truncate_loop(n, d, threshold, generator):
    z = torch.randn(n, d, generator=generator)
    while (outside := z.abs() > threshold).any():
        z[outside] = torch.randn(int(outside.sum()), generator=generator)
    return z


def truncate_one_by_one(n, d, threshold, generator):
    values = []
    while len(values) < n * d:
        for v in torch.randn(64, generator=generator).tolist():
            if abs(v) <= threshold:
                values.append(v)
    return torch.tensor(values[: n * d]).view(n, d)


def truncate_by_library(n, d, threshold, generator):
    return nn.init.trunc_normal_(torch.empty(n, d), a=-threshold, b=threshold, generator=generator)


def truncate_by_quantiles(n, d, threshold, generator):
    ends = torch.special.ndtr(torch.tensor([-threshold, threshold], dtype=torch.float64))
    u = torch.rand(n, d, generator=generator, dtype=torch.float64)
    z = torch.special.ndtri(ends[0] + (ends[1] - ends[0]) * u)
    return z.float().clamp(-threshold, threshold)  # what rounding to float32 may add


def truncate_once(n, d, threshold, generator):
    z = torch.randn(n, d, generator=generator)
    return torch.where(z.abs() > threshold, torch.randn(n, d, generator=generator), z)


def truncate_above(n, d, threshold, generator):
    z = torch.randn(n, d, generator=generator)
    while (outside := z > threshold).any():
        z[outside] = torch.randn(int(outside.sum()), generator=generator)
    return z


def truncate_to_zero(n, d, threshold, generator):
    z = torch.randn(n, d, generator=generator)
    return z * (z.abs() <= threshold)


def truncate_global(n, d, threshold, generator):
    z = torch.randn(n, d)
    while (outside := z.abs() > threshold).any():
        z[outside] = torch.randn(int(outside.sum()))
    return z


# ---------------------------------------------------------------------------- 18.6


def snapshot_deepcopy(state, batches):
    return copy.deepcopy(
        {
            "modules": {k: m.state_dict() for k, m in state.modules.items()},
            "averages": {k: e.module.state_dict() for k, e in state.ema.items()},
            "optimizers": {k: o.state_dict() for k, o in state.optimizers.items()},
            "noise": state.generator.get_state(),
            "data": batches.state_dict(),
            "step": state.step,
        }
    )


def snapshot_through_a_file(state, batches):
    buffer = io.BytesIO()
    saved = {"modules": {}, "averages": {}, "optimizers": {}}
    for name, module in state.modules.items():
        saved["modules"][name] = module.state_dict()
    for name, ema in state.ema.items():
        saved["averages"][name] = ema.module.state_dict()
    for name, optimizer in state.optimizers.items():
        saved["optimizers"][name] = optimizer.state_dict()
    saved |= {"noise": state.generator.get_state(), "data": batches.state_dict()}
    torch.save(saved | {"step": state.step}, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def snapshot_by_clones(state, batches):
    def clones(module):
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: t.detach().clone() for name, t in named}

    return {
        "modules": {k: clones(m) for k, m in state.modules.items()},
        "averages": {k: clones(e.module) for k, e in state.ema.items()},
        "optimizers": {k: copy.deepcopy(o.state_dict()) for k, o in state.optimizers.items()},
        "noise": state.generator.get_state().clone(),
        "data": dict(batches.state_dict()),
        "step": int(state.step),
    }


def snapshot_in_eval_mode(state, batches):
    for module in state.modules.values():
        module.eval()
    return snapshot_deepcopy(state, batches)


def snapshot_without(*keys, **others):
    def answer(state, batches):
        saved = snapshot_deepcopy(state, batches)
        for key in keys:
            del saved[key]
        return saved | {key: make(state, batches) for key, make in others.items()}

    return answer


def snapshot_by_reference(state, batches):
    # pytorch/tutorials pull request 188, WenjieDu/PyPOTS issue 667: state_dict() is no copy
    return {
        "modules": {k: m.state_dict() for k, m in state.modules.items()},
        "averages": {k: e.module.state_dict() for k, e in state.ema.items()},
        "optimizers": {k: o.state_dict() for k, o in state.optimizers.items()},
        "noise": state.generator.get_state(),
        "data": batches.state_dict(),
        "step": state.step,
    }


def snapshot_that_looks_ahead(state, batches):
    saved = snapshot_deepcopy(state, batches)
    next(batches)  # "where are we?"
    return saved


# ---------------------------------------------------------------------------- 18.7


def compare_direct(a, b, factor):
    d = a - b
    return d.mean(), factor * d.std() / len(d) ** 0.5


def compare_statistics(a, b, factor):
    d = [x - y for x, y in zip(a.double().tolist(), b.double().tolist(), strict=True)]
    return statistics.mean(d), factor * statistics.stdev(d) / len(d) ** 0.5


def compare_by_sums(a, b, factor):
    n, x, y = len(a), a.double(), b.double()
    mean = (x.sum() - y.sum()) / n
    return mean, factor * ((x - y - mean).square().sum() / (n * (n - 1))).sqrt()


def compare_by_covariance(a, b, factor):
    c = torch.cov(torch.stack([a, b]).double())
    variance = c[0, 0] + c[1, 1] - 2 * c[0, 1]
    return float(a.double().mean() - b.double().mean()), factor * float((variance / len(a)).sqrt())


def compare_with(mean=None, half=None):
    def answer(a, b, factor):
        d, right = a - b, compare_direct(a, b, factor)
        return (
            right[0] if mean is None else mean(a, b),
            right[1] if half is None else half(d, factor),
        )

    return answer


BANK = {
    "plan_budget": Answers(
        right={"direct": budget_direct, "loop": budget_loop, "tensors": budget_tensors},
        wrong={
            "weights alone": budget_with(fixed=lambda g, d: 4 * (g + d)),
            "moments forgotten": budget_with(fixed=lambda g, d: 4 * 2 * (g + d) + 4 * g),
            "gradients forgotten": budget_with(fixed=lambda g, d: 4 * 3 * (g + d) + 4 * g),
            "average forgotten": budget_with(fixed=lambda g, d: 4 * 4 * (g + d)),
            "average of both": budget_with(fixed=lambda g, d: 4 * 5 * (g + d)),
            "numbers and not bytes": budget_with(fixed=lambda g, d: 5 * g + 4 * d),
            "eight bytes": budget_with(fixed=lambda g, d: 8 * (5 * g + 4 * d)),
            "images for updates": budget_with(updates=lambda b, r, t, n: r * t),
            "updates for passes": budget_with(passes=lambda b, r, t, n: r * t / b / n),
            "batches for passes": budget_with(passes=lambda b, r, t, n: n / b),
            "rounded": budget_with(updates=lambda b, r, t, n: r * t // b),
        },
    ),
    "variance_share": Answers(
        right={
            "direct": share_direct,
            "loop": share_loop,
            "numpy": share_numpy,
            "covariance": share_by_covariance,
        },
        wrong={
            "pixels of one image": share_of(torch.var),
            "within each image": share_of(lambda x: x.var(dim=(1, 2, 3)).mean()),
            "standard deviations": share_of(lambda x: x.std(0).mean()),
            "upside down": lambda real, fake: share_direct(fake, real),
            "mean of ratios": lambda real, fake: (fake.var(0) / real.var(0)).mean(),
            "denominator n": share_of(lambda x: (x - x.mean(0)).square().mean()),
            "channels mixed": share_of(lambda x: x.var((0, 1)).mean()),
            "capped": lambda real, fake: share_direct(real, fake).clamp(max=1),
            "of the mean image": share_of(lambda x: x.mean(0).var()),
            "a small number added": lambda real, fake: (
                fake.var(0).mean() / (real.var(0).mean() + 1e-8)
            ),
        },
    ),
    "ema_with_buffers": Answers(
        right={
            "lerp": ema_lerp,
            "state_dict": ema_by_state_dict,
            "data": ema_with_data,
            "library": ema_by_library,
        },
        wrong={
            "nothing changed": ema_into_names,
            "decay and its complement exchanged": ema_exchanged,
            "weights copied": ema_copied,
            "buffers forgotten": ema_parameters_only,
            "buffers averaged": ema_of_everything,
            "counter forgotten": ema_without_counter,
            "source changed": ema_into_the_source,
            "mode changed": lambda average, module, decay: ema_lerp(average.train(), module, decay),
            "shares memory": ema_shared,
            "graph kept": ema_with_graph,
        },
    ),
    "recalibrate_batch_norm": Answers(
        right={
            "library": recalibrate_by_library,
            "momentum by hand": recalibrate_by_momentum,
            "hooks": recalibrate_by_hooks,
            "no momentum": recalibrate_with(),
        },
        wrong={
            "nothing changed": recalibrate_in_eval_mode,
            "not reset": recalibrate_with(reset=None),
            "momentum left": recalibrate_with(momentum="as it is"),
            "as in training": recalibrate_with(reset=None, momentum="as it is"),
            "last batch only": recalibrate_with(momentum=1.0),
            "outermost only": recalibrate_children,
            "one class only": recalibrate_one_class,
            "settings changed": lambda net, batches: recalibrate_with()(
                net.requires_grad_(False), batches
            ),
            "all in one batch": recalibrate_with(batches_of=lambda batches: [torch.cat(batches)]),
            "left in train mode": recalibrate_with(mode="train"),
            # pytorch/pytorch pull request 30559 discusses momenta that are not given back
            "momentum not given back": recalibrate_with(restore=False),
            "weights changed": recalibrate_with(reset="reset_parameters"),
            "mode taken": recalibrate_with(mode="eval"),
        },
    ),
    "truncate_by_redrawing": Answers(
        right={
            "loop": truncate_loop,
            "one by one": truncate_one_by_one,
            "library": truncate_by_library,
            "quantiles": truncate_by_quantiles,
        },
        wrong={
            "not truncated": lambda n, d, t, g: t * torch.randn(n, d, generator=g),
            "one side only": truncate_above,
            "redrawn once": truncate_once,
            "set to zero": truncate_to_zero,
            "clamped": lambda n, d, t, g: torch.randn(n, d, generator=g).clamp(-t, t),
            # tensorflow/hub issue 214: a normal cut at 2, and then scaled
            "scaled": lambda n, d, t, g: t / 2 * truncate_loop(n, d, 2.0, g),
            "uniform": lambda n, d, t, g: t * (2 * torch.rand(n, d, generator=g) - 1),
            "other threshold": lambda n, d, t, g: truncate_loop(n, d, t**0.5, g),
            "another law": lambda n, d, t, g: t * torch.tanh(torch.randn(n, d, generator=g)),
            "noise of its own": truncate_global,
            "rows alike": lambda n, d, t, g: truncate_loop(1, d, t, g).repeat(n, 1),
        },
    ),
    "run_snapshot": Answers(
        right={
            "deep copy": snapshot_deepcopy,
            "file": snapshot_through_a_file,
            "clones": snapshot_by_clones,
        },
        wrong={
            "an entry missing": lambda s, b: {
                {"modules": "module"}.get(k, k): v for k, v in snapshot_by_clones(s, b).items()
            },
            "other weights": snapshot_without(
                modules=lambda s, b: {
                    k: {n: p.detach().half() for n, p in m.state_dict().items()}
                    for k, m in s.modules.items()
                }
            ),
            "mode changed": snapshot_in_eval_mode,
            "a player forgotten": snapshot_without(
                modules=lambda s, b: {"generator": snapshot_by_clones(s, b)["modules"]["generator"]}
            ),
            "statistics forgotten": snapshot_without(
                modules=lambda s, b: {
                    k: {n: p.detach().clone() for n, p in m.named_parameters()}
                    for k, m in s.modules.items()
                }
            ),
            "average forgotten": snapshot_without("averages"),
            # NVlabs/stylegan2-ada-pytorch issue 108, nv-tlabs/semanticGAN_code issue 28
            "moments forgotten": snapshot_without("optimizers"),
            "noise forgotten": snapshot_without(noise=lambda s, b: s.generator.initial_seed()),
            "place forgotten": snapshot_without("data"),
            "count forgotten": snapshot_without("step"),
            "shares memory": snapshot_by_reference,
            "other form": snapshot_without(
                modules=lambda s, b: {
                    k: [p.detach().clone() for p in m.parameters()] for k, m in s.modules.items()
                }
            ),
            "disturbs the run": snapshot_that_looks_ahead,
        },
    ),
    "compare_by_seed": Answers(
        right={
            "direct": compare_direct,
            "statistics": compare_statistics,
            "sums": compare_by_sums,
            "covariance": compare_by_covariance,
        },
        wrong={
            "other sign": compare_with(mean=lambda a, b: (b - a).mean()),
            "best against best": compare_with(mean=lambda a, b: a.min() - b.min()),
            "absolute differences": compare_with(mean=lambda a, b: (a - b).abs().mean()),
            "not paired": lambda a, b, factor: (
                (a - b).mean(),
                factor * ((a.var() + b.var()) / len(a)) ** 0.5,
            ),
            "denominator n": compare_with(
                half=lambda d, f: f * float(np.std(d.numpy())) / len(d) ** 0.5
            ),
            "root forgotten": compare_with(half=lambda d, f: f * d.std() / len(d)),
            "n - 1 twice": compare_with(half=lambda d, f: f * d.std() / (len(d) - 1) ** 0.5),
            "spread of one run": compare_with(half=lambda d, f: f * d.std()),
            "variance for deviation": compare_with(half=lambda d, f: f * d.var() / len(d) ** 0.5),
            "factor forgotten": compare_with(half=lambda d, f: d.std() / len(d) ** 0.5),
            "1.96": compare_with(half=lambda d, f: 1.96 * d.std() / len(d) ** 0.5),
            "full width": compare_with(half=lambda d, f: 2 * f * d.std() / len(d) ** 0.5),
        },
    ),
}
