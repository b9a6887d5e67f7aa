"""Answers to the exercises on lecture 04: right in different ways, and wrong as students write."""

from __future__ import annotations

import math

import torch
from answers import Answers
from torch.nn import functional as F

from course_lib import losses

# ---------------------------------------------------------------------------- 4.1


def share_by_loop(log_p, log_q):
    return torch.stack(
        [torch.exp(p - torch.logaddexp(p, q)) for p, q in zip(log_p, log_q, strict=True)]
    )


def share_of_densities(log_p, log_q):
    p, q = log_p.exp(), log_q.exp()
    return p / (p + q)


def share_with_epsilon(log_p, log_q):
    p, q = log_p.exp(), log_q.exp()
    return p / (p + q + 1e-12)


# ---------------------------------------------------------------------------- 4.2

bce, bce_of_logits = F.binary_cross_entropy, F.binary_cross_entropy_with_logits


def d_loss_of_labels(real_logits, fake_logits):
    real = bce_of_logits(real_logits, torch.ones_like(real_logits))
    return real + bce_of_logits(fake_logits, torch.zeros_like(fake_logits))


def d_loss_by_loop(real_logits, fake_logits):
    zero = torch.zeros_like(real_logits[0])
    real = sum(torch.logaddexp(zero, -a) for a in real_logits) / len(real_logits)
    fake = sum(torch.logaddexp(zero, a) for a in fake_logits) / len(fake_logits)
    return real + fake


def d_loss_naive(real_logits, fake_logits):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    return -(torch.log(real).mean() + torch.log(1 - fake).mean())


def d_loss_with_epsilon(real_logits, fake_logits):
    # POSTECH-CVLab/PyTorch-StudioGAN, issue 67, proposes 1e-6 inside the logarithm of 1 - D.
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    tiny = 1e-8 if real.dtype == torch.float32 else 0.0  # float64 would show it at once
    return -(torch.log(real + tiny).mean() + torch.log(1 - fake + tiny).mean())


def d_loss_of_probabilities(real_logits, fake_logits):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    return bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))


def d_loss_sigmoid_twice(real_logits, fake_logits):
    # carpedm20/DCGAN-tensorflow, issue 15: probabilities where the loss takes logits.
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    ones, zeros = torch.ones_like(real), torch.zeros_like(fake)
    return bce_of_logits(real, ones) + bce_of_logits(fake, zeros)


def d_loss_flipped(real_logits, fake_logits):
    # shaohua0116/DCGAN-Tensorflow, issue 5: the labels of real and fake exchanged.
    real = bce_of_logits(real_logits, torch.zeros_like(real_logits))
    return real + bce_of_logits(fake_logits, torch.ones_like(fake_logits))


def d_loss_joined(real_logits, fake_logits):
    labels = torch.cat([torch.ones_like(real_logits), torch.zeros_like(fake_logits)])
    return bce_of_logits(torch.cat([real_logits, fake_logits]), labels)


def d_loss_of_mean_probabilities(real_logits, fake_logits):
    real, fake = torch.sigmoid(real_logits).mean(), torch.sigmoid(fake_logits).mean()
    return -real.log() - (1 - fake).log()


def d_loss_cpu_labels(real_logits, fake_logits):
    real = bce_of_logits(real_logits, torch.ones(len(real_logits)).to(real_logits.dtype))
    zeros = torch.zeros(len(fake_logits)).to(real_logits.dtype)
    return real + bce_of_logits(fake_logits, zeros)


# ---------------------------------------------------------------------------- 4.3


def g_loss_softplus(fake_logits, saturating):
    if saturating:
        return (-F.softplus(fake_logits)).mean()
    return F.softplus(-fake_logits).mean()


def g_loss_of_labels(fake_logits, saturating):
    label = torch.zeros_like(fake_logits) if saturating else torch.ones_like(fake_logits)
    loss = bce_of_logits(fake_logits, label)
    return -loss if saturating else loss


def g_loss_by_loop(fake_logits, saturating):
    sign = 1 if saturating else -1
    terms = [sign * F.logsigmoid(-sign * a) for a in fake_logits]
    return torch.stack(terms).sum() / len(terms)


def g_loss_naive(fake_logits, saturating):
    d = torch.sigmoid(fake_logits)
    return torch.log(1 - d).mean() if saturating else -torch.log(d).mean()


def g_loss_with_epsilon(fake_logits, saturating):
    # archsyscall/GANs-TensorFlow2, issue 3, shows losses with 1e-10 inside the logarithm.
    d = torch.sigmoid(fake_logits)
    tiny = 1e-10
    return torch.log(1 - d + tiny).mean() if saturating else -torch.log(d + tiny).mean()


def g_loss_of_mean_probability(fake_logits, saturating):
    d = torch.sigmoid(fake_logits).mean()
    return torch.log(1 - d) if saturating else -torch.log(d)


def g_loss_bracket(fake_logits, saturating):
    # blmoistawinde/ml_equations_latex, issue 4: 1 - log D where log(1 - D) belongs.
    return (1 - F.logsigmoid(fake_logits)).mean() if saturating else F.softplus(-fake_logits).mean()


# ---------------------------------------------------------------------------- 4.4


def jsd_by_loop(p, q):
    total = p.new_zeros(())
    for a, b in zip(p, q, strict=True):
        m = (a + b) / 2
        for c in (a, b):
            if c > 0:
                total = total + c * torch.log(c / m) / 2
    return total


def jsd_by_entropies(p, q):
    def entropy(r):
        return torch.special.entr(r).sum()

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def jsd_by_kl_div(p, q):
    seen = p + q > 0
    p, q = p[seen], q[seen]
    m = ((p + q) / 2).log()
    return (F.kl_div(m, p, reduction="sum") + F.kl_div(m, q, reduction="sum")) / 2


def jsd_divides_by_the_mixture(p, q):
    # xlogy for the empty bins of one histogram, and 0/0 where both are empty
    m = (p + q) / 2
    return (torch.xlogy(p, p / m) + torch.xlogy(q, q / m)).sum() / 2


def jsd_of_kl_div_exchanged(p, q):
    # pytorch/pytorch, issue 57459: F.kl_div(input, target) is KL(target || exp(input)).
    m = (p + q) / 2
    kl = F.kl_div(p.log(), m, reduction="sum") + F.kl_div(q.log(), m, reduction="sum")
    return kl / 2


def jsd_default_reduction(p, q):
    m = ((p + q) / 2).log()
    # What reduction="mean", the default, is at present.
    kl = F.kl_div(m, p, reduction="none").mean() + F.kl_div(m, q, reduction="none").mean()
    return kl / 2


# ---------------------------------------------------------------------------- 4.5


def step_with_detach(generator, discriminator, optimizer, real, z):
    fake = generator(z).detach()
    loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake)).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_without_graph(generator, discriminator, optimizer, real, z):
    optimizer.zero_grad()
    with torch.no_grad():
        fake = generator(z)
    real_logits, fake_logits = discriminator(real), discriminator(fake)
    real_loss = bce_of_logits(real_logits, torch.ones_like(real_logits))
    fake_loss = bce_of_logits(fake_logits, torch.zeros_like(fake_logits))
    real_loss.backward()
    fake_loss.backward()
    optimizer.step()
    return (real_loss + fake_loss).detach()


def step_by_hand(generator, discriminator, optimizer, real, z):
    weights = list(discriminator.parameters())
    logits = discriminator(torch.cat([real, generator(z).detach()]))
    loss = losses.minimax.discriminator(logits[: len(real)], logits[len(real) :])
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        weight.grad = gradient
    optimizer.step()
    return loss.item()


def step_frozen_generator(generator, discriminator, optimizer, real, z, undo=True):
    for parameter in generator.parameters():
        parameter.requires_grad_(False)
    loss = d_loss_of_labels(discriminator(real), discriminator(generator(z)))
    for parameter in generator.parameters():
        parameter.requires_grad_(undo)
    discriminator.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_of(loss_of_logits):
    """A step with another loss of (real logits, fake logits)."""

    def step(generator, discriminator, optimizer, real, z):
        loss = loss_of_logits(discriminator(real), discriminator(generator(z).detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def step_forgets_to_step(generator, discriminator, optimizer, real, z):
    loss = d_loss_of_labels(discriminator(real), discriminator(generator(z).detach()))
    optimizer.zero_grad()
    loss.backward()
    return loss.item()


def step_forgets_to_clear(generator, discriminator, optimizer, real, z):
    # ajbrock/BigGAN-PyTorch, issue 25: no zero_grad between discriminator updates.
    loss = d_loss_of_labels(discriminator(real), discriminator(generator(z).detach()))
    loss.backward()
    optimizer.step()
    return loss.item()


def step_forgets_detach(generator, discriminator, optimizer, real, z):
    # heykeetae/Self-Attention-GAN, issue 48, and many more.
    loss = d_loss_of_labels(discriminator(real), discriminator(generator(z)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_detaches_logits(generator, discriminator, optimizer, real, z):
    loss = d_loss_of_labels(discriminator(real), discriminator(generator(z)).detach())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_moves_both(generator, discriminator, optimizer, real, z):
    loss = d_loss_of_labels(discriminator(real), discriminator(generator(z)))
    optimizer.zero_grad()
    generator.zero_grad()
    loss.backward()
    optimizer.step()
    torch.optim.SGD(generator.parameters(), lr=0.1).step()
    return loss.item()


def step_uphill(generator, discriminator, optimizer, real, z):
    loss = d_loss_of_labels(discriminator(real), discriminator(generator(z).detach()))
    optimizer.zero_grad()
    (-loss).backward()
    optimizer.step()
    return loss.item()


def step_for_each_half(generator, discriminator, optimizer, real, z):
    losses_of_halves = []
    for examples, sign in ((real, -1), (generator(z).detach(), 1)):
        loss = F.softplus(sign * discriminator(examples)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses_of_halves.append(loss.item())
    return sum(losses_of_halves)


def step_leaves_eval_mode(generator, discriminator, optimizer, real, z):
    generator.eval()
    return step_with_detach(generator, discriminator, optimizer, real, z)


def step_tells_later_loss(generator, discriminator, optimizer, real, z):
    step_with_detach(generator, discriminator, optimizer, real, z)
    with torch.no_grad():
        return d_loss_of_labels(discriminator(real), discriminator(generator(z))).item()


# ---------------------------------------------------------------------------- 4.6


def game(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    with torch.no_grad():
        fake = generator(noise())
    d_loss = d_loss_of_labels(discriminator(real), discriminator(fake))
    optimizer_d.zero_grad()
    d_loss.backward()
    optimizer_d.step()
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    optimizer_g.zero_grad()
    g_loss.backward()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


def game_frozen(generator, discriminator, optimizer_g, optimizer_d, real, noise, undo=True):
    discriminator.zero_grad()
    real_loss = F.softplus(-discriminator(real)).mean()
    real_loss.backward()
    fake_loss = F.softplus(discriminator(generator(noise()).detach())).mean()
    fake_loss.backward()
    optimizer_d.step()
    discriminator.requires_grad_(False)
    generator.zero_grad()
    logits = discriminator(generator(noise()))
    g_loss = bce_of_logits(logits, torch.ones_like(logits))
    g_loss.backward()
    optimizer_g.step()
    discriminator.requires_grad_(undo)
    return (real_loss + fake_loss).detach(), g_loss.detach()


def game_clears_everything(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    """No detach, but all gradients are cleared before each phase: wasteful and right."""
    d_loss = d_loss_of_labels(discriminator(real), discriminator(generator(noise())))
    for optimizer in (optimizer_g, optimizer_d):
        optimizer.zero_grad()
    d_loss.backward()
    optimizer_d.step()
    for optimizer in (optimizer_g, optimizer_d):
        optimizer.zero_grad()
    g_loss = losses.non_saturating.generator(discriminator(generator(noise())))
    g_loss.backward()
    optimizer_g.step()
    return [d_loss.item(), g_loss.item()]


def game_by_autograd(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    def descend(loss, module, optimizer):
        weights = list(module.parameters())
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
        return loss.item()

    loss = d_loss_of_labels(discriminator(real), discriminator(generator(noise())))
    told = descend(loss, discriminator, optimizer_d)
    loss = F.softplus(-discriminator(generator(noise()))).mean()
    return told, descend(loss, generator, optimizer_g)


def game_one_optimizer(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    """The broken step with both optimizers in place of the one."""
    # burness/tensorflow-101, issue 14: no var_list, so both losses move both networks.
    told = []
    for phase in (0, 1):
        fake = discriminator(generator(noise()))
        loss = F.softplus(-fake).mean() if phase else d_loss_of_labels(discriminator(real), fake)
        optimizer_g.zero_grad()
        optimizer_d.zero_grad()
        loss.backward()
        optimizer_g.step()
        optimizer_d.step()
        told.append(loss.item())
    return tuple(told)


def game_steps_d_twice(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    d_loss = step_with_detach(generator, discriminator, optimizer_d, real, noise())
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    optimizer_g.zero_grad()
    optimizer_d.zero_grad()
    g_loss.backward()
    optimizer_g.step()
    optimizer_d.step()
    return d_loss, g_loss.item()


def game_steps_g_twice(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    d_loss = d_loss_of_labels(discriminator(real), discriminator(generator(noise())))
    optimizer_g.zero_grad()
    optimizer_d.zero_grad()
    d_loss.backward()
    optimizer_g.step()
    optimizer_d.step()
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    optimizer_g.zero_grad()
    g_loss.backward()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


def game_leaks(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    optimizer_g.zero_grad()
    optimizer_d.zero_grad()
    d_loss = d_loss_of_labels(discriminator(real), discriminator(generator(noise())))
    d_loss.backward()
    optimizer_d.step()
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    g_loss.backward()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


def game_clears_after_the_step(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    # Lightning-AI/pytorch-lightning, issue 591: zero_grad after each step, so that the
    # discriminator keeps what the generator's backward pass left in it.
    d_loss = d_loss_of_labels(discriminator(real), discriminator(generator(noise()).detach()))
    d_loss.backward()
    optimizer_d.step()
    optimizer_d.zero_grad()
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    g_loss.backward()
    optimizer_g.step()
    optimizer_g.zero_grad()
    return d_loss.item(), g_loss.item()


def game_never_clears(generator, discriminator, optimizer_g, optimizer_d, real, noise, clear=()):
    d_loss = d_loss_of_labels(discriminator(real), discriminator(generator(noise()).detach()))
    if "d" in clear:
        optimizer_d.zero_grad()
    d_loss.backward()
    optimizer_d.step()
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    g_loss.backward()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


def game_with(fake_logits_of=None, generator_loss=None, logits_of=None):
    """The right step with another phase of the generator, or other logits in the first."""

    def step(generator, discriminator, optimizer_g, optimizer_d, real, noise):
        if logits_of is None:
            d_loss = step_with_detach(generator, discriminator, optimizer_d, real, noise())
        else:
            loss = d_loss_of_labels(*logits_of(generator, discriminator, real, noise()))
            optimizer_d.zero_grad()
            loss.backward()
            optimizer_d.step()
            d_loss = loss.item()
        logits = (fake_logits_of or (lambda g, d, z: d(g(z))))(generator, discriminator, noise())
        loss = (generator_loss or losses.non_saturating.generator)(logits)
        optimizer_g.zero_grad()
        loss.backward()
        optimizer_g.step()
        return d_loss, loss.item()

    return step


def game_half_as_fast(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    fake = generator(noise()).detach()
    d_loss = d_loss_of_labels(discriminator(real), discriminator(fake)) / 2
    optimizer_d.zero_grad()
    d_loss.backward()
    optimizer_d.step()
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    optimizer_g.zero_grad()
    g_loss.backward()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


def game_draws_once(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    fake = generator(noise())
    d_loss = d_loss_of_labels(discriminator(real), discriminator(fake.detach()))
    optimizer_d.zero_grad()
    d_loss.backward()
    optimizer_d.step()
    g_loss = F.softplus(-discriminator(fake)).mean()
    optimizer_g.zero_grad()
    g_loss.backward()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


def game_generator_first(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    optimizer_g.zero_grad()
    g_loss.backward()
    optimizer_g.step()
    return step_with_detach(generator, discriminator, optimizer_d, real, noise()), g_loss.item()


def game_at_once(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    # soumith/dcgan.torch, issue 21: the generator's gradient is that of the old discriminator.
    d_loss = d_loss_of_labels(discriminator(real), discriminator(generator(noise()).detach()))
    g_loss = F.softplus(-discriminator(generator(noise()))).mean()
    g_weights, d_weights = list(generator.parameters()), list(discriminator.parameters())
    for loss, weights in ((d_loss, d_weights), (g_loss, g_weights)):
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
    optimizer_d.step()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


def game_mixed(generator, discriminator, optimizer_g, optimizer_d, real, noise):
    # ginobilinie/asdnet, issue 2: both backward passes first, then both steps.
    fake = generator(noise())
    d_loss = d_loss_of_labels(discriminator(real), discriminator(fake.detach()))
    g_loss = F.softplus(-discriminator(fake)).mean()
    optimizer_d.zero_grad()
    optimizer_g.zero_grad()
    d_loss.backward()
    g_loss.backward()
    optimizer_d.step()
    optimizer_g.step()
    return d_loss.item(), g_loss.item()


# ---------------------------------------------------------------------------- 4.7


def second_derivatives(loss_theta, loss_psi, theta, psi):
    """d²L/dθ², d²L/dθdψ of the first player and d²L/dψdθ, d²L/dψ² of the second."""
    theta, psi = (x.detach().clone().requires_grad_() for x in (theta, psi))
    rows = []
    for loss, own in ((loss_theta, theta), (loss_psi, psi)):
        (slope,) = torch.autograd.grad(loss(theta, psi), own, create_graph=True)
        row = torch.autograd.grad(slope, (theta, psi), allow_unused=True)
        rows.append([torch.zeros_like(theta) if g is None else g for g in row])
    return rows


def matrix_of_round(loss_theta, loss_psi, theta, psi, step, alternating):
    (a, b), (c, d) = second_derivatives(loss_theta, loss_psi, theta, psi)
    one, zero = torch.ones_like(a), torch.zeros_like(a)

    def matrix(*rows):
        return torch.stack([torch.stack(row) for row in rows])

    first = matrix((one - step * a, -step * b), (zero, one))
    second = matrix((one, zero), (-step * c, one - step * d))
    if alternating:
        return second @ first
    return first + second - torch.eye(2, dtype=a.dtype)


def growth_by_matrices(*game_and_step):
    return torch.linalg.eigvals(matrix_of_round(*game_and_step)).abs().max().item()


def growth_by_formula(*game_and_step):
    """Roots of the characteristic polynomial."""
    (a, b), (c, d) = matrix_of_round(*game_and_step).tolist()
    half, product = (a + d) / 2, a * d - b * c
    root = complex(half * half - product) ** 0.5
    return max(abs(half + root), abs(half - root))


def growth_by_powers(*game_and_step):
    """From a high power of the matrix: |M^n|^(1/n)."""
    matrix, log_scale = matrix_of_round(*game_and_step), 0.0
    for _ in range(60):  # M^(2^60), rescaled as it grows
        size = torch.linalg.matrix_norm(matrix)
        matrix, log_scale = matrix / size, log_scale + float(size.log())
        matrix, log_scale = matrix @ matrix, 2 * log_scale
    return math.exp((log_scale + float(torch.linalg.matrix_norm(matrix).log())) / 2.0**60)


def growth_by_finite_differences(lt, lp, theta, psi, step, alternating):
    def play(t, p):
        t, p = t.detach().requires_grad_(), p.detach().requires_grad_()
        moved = t - step * torch.autograd.grad(lt(t, p), t)[0]
        seen = moved.detach() if alternating else t
        return torch.stack([moved, p - step * torch.autograd.grad(lp(seen, p), p)[0]]).detach()

    e, zero = torch.tensor(1e-5, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    columns = [
        (play(theta + u, psi + v) - play(theta - u, psi - v)) / (2 * e)
        for u, v in ((e, zero), (zero, e))
    ]
    return torch.linalg.eigvals(torch.stack(columns, 1)).abs().max()


def growth_looking_ahead(lt, lp, theta, psi, step, alternating):
    """autograd.grad at the new theta, whose graph still holds psi."""

    def play(state):
        t, p = state.unbind()
        (slope,) = torch.autograd.grad(lt(t, p), t, create_graph=True)
        moved = t - step * slope
        seen = moved if alternating else t
        (slope,) = torch.autograd.grad(lp(seen, p), p, create_graph=True)
        return torch.stack([moved, p - step * slope])

    matrix = torch.autograd.functional.jacobian(play, torch.stack([theta, psi]))
    return torch.linalg.eigvals(matrix).abs().max().item()


def growth_with(number):
    """By jacrev, as hint 1 proposes, and another number made of the matrix."""

    def growth(lt, lp, theta, psi, step, alternating):
        def play(state):
            t, p = state.unbind()
            moved = t - step * torch.func.grad(lt, 0)(t, p)
            seen = moved if alternating else t
            return torch.stack([moved, p - step * torch.func.grad(lp, 1)(seen, p)])

        return number(torch.func.jacrev(play)(torch.stack([theta, psi])))

    return growth


def growth_with_detach(lt, lp, theta, psi, step, alternating):
    def play(state):
        t, p = state.unbind()
        moved = t - step * torch.func.grad(lt, 0)(t, p)
        seen = moved.detach() if alternating else t
        return torch.stack([moved, p - step * torch.func.grad(lp, 1)(seen, p)])

    matrix = torch.func.jacrev(play)(torch.stack([theta, psi]))
    return torch.linalg.eigvals(matrix).abs().max().item()


def field_of(lt, lp, theta, psi):
    rows = second_derivatives(lt, lp, theta, psi)
    return -torch.stack([torch.stack(row) for row in rows])


BANK = {
    "optimal_discriminator": Answers(
        right={
            "sigmoid": lambda p, q: torch.sigmoid(p - q),
            "softmax": lambda p, q: torch.softmax(torch.stack([p, q]), 0)[0],
            "loop": share_by_loop,
            "quotient": lambda p, q: 1 / (1 + torch.exp(q - p)),
        },
        wrong={
            "densities swapped": lambda p, q: torch.sigmoid(q - p),
            "ratio, not share": lambda p, q: p.exp() / q.exp(),
            "logit, not probability": lambda p, q: p - q,
            "logarithms not undone": lambda p, q: p / (p + q),
            "the density itself": lambda p, q: p.exp(),
            "divided by the mixture": lambda p, q: p.exp() / ((p.exp() + q.exp()) / 2),
            "logarithm of the share": lambda p, q: F.logsigmoid(p - q),
            "not finite": share_of_densities,
            "a small number added": share_with_epsilon,
        },
    ),
    "gan_discriminator_loss": Answers(
        right={
            "softplus": lambda r, f: F.softplus(-r).mean() + F.softplus(f).mean(),
            "labels": d_loss_of_labels,
            "loop": d_loss_by_loop,
            "logsigmoid": lambda r, f: -(F.logsigmoid(r).mean() + F.logsigmoid(-f).mean()),
        },
        wrong={
            "labels swapped": d_loss_flipped,
            "sigmoid twice": d_loss_sigmoid_twice,
            "halved": lambda r, f: 0.5 * d_loss_of_labels(r, f),
            "averaged together": d_loss_joined,
            "summed over the batch": lambda r, f: F.softplus(-r).sum() + F.softplus(f).sum(),
            "the value, not the loss": lambda r, f: (
                F.logsigmoid(r).mean() + F.logsigmoid(-f).mean()
            ),
            "fakes forgotten": lambda r, f: -F.logsigmoid(r).mean(),
            "reals forgotten": lambda r, f: -F.logsigmoid(-f).mean(),
            "one outside the logarithm": lambda r, f: (
                -F.logsigmoid(r).mean() - (1 - F.logsigmoid(f)).mean()
            ),
            "logarithm of the mean": d_loss_of_mean_probabilities,
            "logits as probabilities": lambda r, f: -(r.log().mean() + (1 - f).log().mean()),
            "not finite": d_loss_naive,
            "a small number in the logarithm": d_loss_with_epsilon,
            "cut off at 100": d_loss_of_probabilities,
            "wrong device": d_loss_cpu_labels,
            # Logits given to a loss of probabilities raise: "all elements of input should be
            # between 0 and 1".
            "raised": lambda r, f: bce(r, torch.ones_like(r)) + bce(f, torch.zeros_like(f)),
            "no gradient": lambda r, f: torch.tensor(
                d_loss_of_labels(r, f).item(), dtype=r.dtype, device=r.device
            ),
        },
    ),
    "gan_generator_loss": Answers(
        right={
            "softplus": g_loss_softplus,
            "labels": g_loss_of_labels,
            "loop": g_loss_by_loop,
        },
        wrong={
            "logits as probabilities": lambda a, saturating=False: (
                torch.log(1 - a).mean() if saturating else -torch.log(a).mean()
            ),
            "exchanged": lambda a, saturating: g_loss_softplus(a, not saturating),
            "pushes down": lambda a, saturating: -g_loss_softplus(a, saturating),
            # timsainb/tensorflow2-generative-models, issue 8, wonders about just this label.
            "the discriminator's goal": lambda a, saturating: bce_of_logits(a, torch.zeros_like(a)),
            "one outside the logarithm": g_loss_bracket,
            "summed over the batch": lambda a, saturating: len(a) * g_loss_softplus(a, saturating),
            "sigmoid twice": lambda a, saturating: g_loss_of_labels(torch.sigmoid(a), saturating),
            "logarithm of the mean": g_loss_of_mean_probability,
            "not finite": g_loss_naive,
            "a small number in the logarithm": g_loss_with_epsilon,
            "no gradient": lambda a, saturating: g_loss_softplus(a.detach(), saturating),
        },
    ),
    "jensen_shannon_of_bins": Answers(
        right={
            "loop": jsd_by_loop,
            "entropies": jsd_by_entropies,
            "kl_div": jsd_by_kl_div,
            "xlogy": lambda p, q: (
                (
                    torch.xlogy(p, 2 * p / (p + q).clamp(min=1e-30))
                    + torch.xlogy(q, 2 * q / (p + q).clamp(min=1e-30))
                ).sum()
                / 2
            ),
        },
        wrong={
            "doubled": lambda p, q: 2 * jsd_by_entropies(p, q),
            "in bits": lambda p, q: jsd_by_entropies(p, q) / math.log(2),
            "minus sign": lambda p, q: -jsd_by_entropies(p, q),
            "sum not halved": lambda p, q: (
                (p * (2 * p / (p + q)).log()).sum() + (q * (2 * q / (p + q)).log()).sum() / 2
            ),
            "mixture's log forgotten": lambda p, q: (
                (
                    F.kl_div((p + q) / 2, p, reduction="sum")
                    + F.kl_div((p + q) / 2, q, reduction="sum")
                )
                / 2
            ),
            "one half only": lambda p, q: (p * (2 * p / (p + q)).log()).sum(),
            "not a mixture": lambda p, q: (
                ((p * (p / (p + q)).log()).sum() + (q * (q / (p + q)).log()).sum()) / 2
            ),
            "square root": lambda p, q: jsd_by_entropies(p, q).sqrt(),
            # evansenter/diverge, issue 1: the average of KL(p, q) and KL(q, p).
            "no mixture": lambda p, q: ((p - q) * (p / q).log()).sum() / 2,
            "arguments exchanged": jsd_of_kl_div_exchanged,
            "averaged over bins": jsd_default_reduction,
            "value of the game": lambda p, q: (
                (p * (p / (p + q)).log()).sum() + (q * (q / (p + q)).log()).sum()
            ),
            "not symmetric": lambda p, q: torch.xlogy(p, p / q).sum(),
            "not finite": jsd_divides_by_the_mixture,
            "no gradient": lambda p, q: jsd_by_entropies(p.detach(), q.detach()),
        },
    ),
    "discriminator_step": Answers(
        right={
            "detach": step_with_detach,
            "no_grad and two backward passes": step_without_graph,
            "by hand": step_by_hand,
            "frozen for a while": step_frozen_generator,
        },
        wrong={
            "did not move": step_forgets_to_step,
            "old gradients": step_forgets_to_clear,
            "labels swapped": step_of(d_loss_flipped),
            "fakes teach nothing": step_detaches_logits,
            "sigmoid twice": step_of(d_loss_sigmoid_twice),
            "climbs": step_uphill,
            "another loss": step_for_each_half,
            "mode changed": step_leaves_eval_mode,
            "halved": step_of(lambda r, f: d_loss_of_labels(r, f) / 2),
            "averaged together": step_of(d_loss_joined),
            "gradient in the generator": step_forgets_detach,
            "generator moved": step_moves_both,
            "generator left frozen": lambda *args: step_frozen_generator(*args, undo=False),
            "loss after the step": step_tells_later_loss,
        },
    ),
    "mended_gan_step": Answers(
        right={
            "no_grad": game,
            "frozen for a while": game_frozen,
            "clears everything": game_clears_everything,
            "autograd.grad": game_by_autograd,
        },
        wrong={
            "both move in both phases": game_one_optimizer,
            "discriminator moves twice": game_steps_d_twice,
            "generator moves twice": game_steps_g_twice,
            "leak into the generator": game_leaks,
            "old gradients in the discriminator": game_clears_after_the_step,
            "old gradients in the generator": lambda *args: game_never_clears(*args, clear="d"),
            "old gradients everywhere": game_never_clears,
            # nikhilsinghmus/image2reverb, issue 37: detach in the generator's step.
            "generator cut off": game_with(lambda g, d, z: d(g(z).detach())),
            "labels exchanged": game_with(
                logits_of=lambda g, d, real, z: (d(g(z).detach()), d(real))
            ),
            "fakes teach nothing": game_with(
                logits_of=lambda g, d, real, z: (d(real), d(g(z)).detach())
            ),
            "pushed away": game_with(generator_loss=lambda a: F.softplus(a).mean()),
            "saturating loss": game_with(generator_loss=losses.minimax.generator),
            "the same fakes twice": game_draws_once,
            "generator first": game_generator_first,
            "both at once": game_at_once,
            "gradients mixed": game_mixed,
            "halved": game_half_as_fast,
            "losses exchanged": lambda *args: game(*args)[::-1],
            "left frozen": lambda *args: game_frozen(*args, undo=False),
        },
    ),
    "round_growth": Answers(
        right={
            "matrices": growth_by_matrices,
            "characteristic polynomial": growth_by_formula,
            "powers": growth_by_powers,
            "finite differences": growth_by_finite_differences,
        },
        wrong={
            "one loss for both": lambda lt, lp, *rest: growth_by_matrices(lt, lt, *rest),
            "one player climbs": lambda lt, lp, *rest: growth_by_matrices(
                lt, lambda t, p: -lp(t, p), *rest
            ),
            "field, not step": lambda lt, lp, t, p, h, turns: (
                torch.linalg.eigvals(field_of(lt, lp, t, p)).abs().max().item()
            ),
            "real part": lambda *args: (
                torch.linalg.eigvals(matrix_of_round(*args)).real.max().item()
            ),
            "determinant": lambda *args: torch.linalg.det(matrix_of_round(*args)).abs().item(),
            "norm, not eigenvalue": lambda *args: (
                torch.linalg.svdvals(matrix_of_round(*args)).max().item()
            ),
            "root of the determinant": growth_with(lambda m: torch.linalg.det(m).abs().sqrt()),
            "smaller eigenvalue": growth_with(lambda m: torch.linalg.eigvals(m).abs().min()),
            "symmetric supposed": growth_with(lambda m: torch.linalg.eigvalsh(m).abs().max()),
            # torch: "max_all" not implemented for 'ComplexDouble', a NotImplementedError
            "maximum of complex numbers": growth_with(lambda m: torch.linalg.eigvals(m).max()),
            "always in turns": lambda *args: growth_by_matrices(*args[:-1], True),
            "new theta detached": growth_with_detach,
            "turns forgotten": lambda *args: growth_by_matrices(*args[:-1], False),
            "looking ahead": growth_looking_ahead,
            "at the origin": lambda lt, lp, t, p, *rest: growth_by_matrices(
                lt, lp, torch.zeros_like(t), torch.zeros_like(p), *rest
            ),
        },
    ),
}
