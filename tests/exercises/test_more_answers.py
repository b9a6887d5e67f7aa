"""Further answers of students: one hint is often earned in several ways."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import grad, jacrev

from course_lib.exercises import exercises

sys.path.insert(0, str(Path(__file__).parent))
import bank_00
import bank_17

BANK = bank_00.BANK | bank_17.BANK


def noise_by_seed_and_number(batches, size, seed):
    rows = [
        torch.randn(size, generator=torch.Generator().manual_seed(1000 * seed + i))
        for i in range(batches)
    ]
    return torch.stack(rows)


def noise_by_seed_length_and_number(batches, size, seed):
    generator, rows = torch.Generator(), []
    for i in range(batches):
        generator.manual_seed(seed * batches + i)
        rows.append(torch.randn(size, generator=generator))
    return torch.stack(rows)


def normals_with_one_root_late(u1, u2):
    square, angle = -2 * torch.log(1 - u1), 2 * math.pi * u2
    return square.sqrt() * torch.cos(angle), torch.sqrt(square * torch.sin(angle))


def work_from(side):
    """Work and intensity of a convolution, given the number of rows for (n + 2p - k) / s."""

    def answer(batch, c, o, height, width, k, s, p, size):
        rows, columns = (side((n + 2 * p - k) / s) + 1 for n in (height, width))
        flops = 2 * batch * o * rows * columns * c * k**2
        moved = batch * c * height * width + o * c * k**2 + batch * o * rows * columns
        return flops, flops / size / moved

    return answer


def budget_in_whole_passes(weights_g, weights_d, batch_size, rate, seconds, n_images):
    fixed = 16 * (weights_g + weights_d) + 4 * weights_g
    return fixed, rate * seconds / batch_size, round(rate * seconds / n_images)


def noise_that_seeds_everything(batches, size, seed):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batches, size, generator=generator)


def growth_of_the_first_eigenvalue(loss_theta, loss_psi, theta, psi, step, alternating):
    def play(state):
        moved = state[0] - step * grad(loss_theta, 0)(*state)
        seen = moved if alternating else state[0]
        return torch.stack([moved, state[1] - step * grad(loss_psi, 1)(seen, state[1])])

    return torch.linalg.eigvals(jacrev(play)(torch.stack([theta, psi]))).abs()[0].item()


def shapes_for_stride_two(shape, layers):
    """The sizes of a convolution are right where the stride is 2 alone."""
    found = []
    for kind, *sizes in layers:
        if kind == "conv":
            shape = (shape[0], *(n // sizes[2] + n % sizes[2] for n in shape[1:3]), sizes[0])
        else:
            shape = (shape[0], *(n * sizes[2] for n in shape[1:3]), sizes[0])
        found.append(shape)
    return found


def loss_with_one_faulty_term(faulty):
    """Exercise 12.5 with another squared error and KL, per image."""

    def answer(x, x_hat, mu, log_var, beta):
        kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1)
        return faulty((x - x_hat).square().flatten(1).sum(1), kl, beta)

    return answer


@pytest.mark.parametrize(
    ("faulty", "said"),
    [
        (lambda e, kl, b: (4 * e + b * kl).mean(), "4 times the squared error"),
        (lambda e, kl, b: (e + b * kl).mean() + 4 * b * kl.mean(), "multiplies 5 times the KL"),
    ],
)
def test_which_term_of_a_loss_is_wrong_is_said_of_any_factor(faulty, said):
    message = exercises()["mended_vae_loss"].examine(loss_with_one_faulty_term(faulty)).message
    assert said in message, message


@pytest.mark.parametrize(
    ("power", "pixels", "constant", "said"),
    [
        (2, 1, 1.0, "raising log_sigma from 0 to 1"),
        (2, 16, 2.0, "only the constants are left"),
        (4, 16, 1.0, "is multiplied by 0.01832; 0.1353 is right"),
        (2, 16, 1.0, "the error of the first image"),
    ],
)
def test_which_part_of_a_log_likelihood_is_wrong_is_said(power, pixels, constant, said):
    def answer(x, x_hat, log_sigma):
        error = (x - x_hat).abs() if "error" in said else (x - x_hat) ** 2
        error = error.flatten(1).sum(1) * torch.exp(-power * log_sigma) / 2
        return -error - pixels * log_sigma - 16 * constant * 0.5 * math.log(2 * math.pi)

    message = exercises()["gaussian_log_likelihood"].examine(answer).message
    assert said in message, message


def judge_by_chunks(network, images, batch_size):
    before = network.training
    network.eval()
    with torch.no_grad():
        features = [network((part + 1) / 2) for part in images.chunk(batch_size)]
    network.train(before)
    return torch.cat(features)


@torch.no_grad()
def recalibrate_without_train_mode(network, batches):
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for m in norms:
        m.reset_running_stats()
        m.momentum = None
    for z in batches:
        network(z)
    for m in norms:
        m.momentum = 0.3


def truncate_in_twenty_redraws(n, d, threshold, generator):
    z = torch.randn(n, d, generator=generator)
    for _ in range(20):
        outside = z.abs() > threshold
        z[outside] = torch.randn(int(outside.sum()), generator=generator)
    return z


def share_bounded_from_below(real, fake):
    return fake.double().var(0).mean() / real.double().var(0).mean().clamp(min=1e-12)


def slerp_without_nan(z0, z1, t):
    theta = torch.acos(nn.functional.cosine_similarity(z0, z1, dim=1).clamp(-1, 1))[:, None]
    arc = torch.sin((1 - t) * theta) * z0 + torch.sin(t * theta) * z1
    return torch.nan_to_num(arc / torch.sin(theta))


def decoder_with_a_norm(latent, channels, size):
    return nn.Sequential(
        nn.Linear(latent, channels * size**2),
        nn.Unflatten(1, (channels, size, size)),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.ConvTranspose2d(channels, 1, 4, stride=2, padding=1),
        nn.Tanh(),
    )


def fold_on_the_cpu(kernel, factor):
    k = kernel.shape[-1]
    fold = torch.zeros(k + factor - 1, k, dtype=kernel.dtype)
    for tap in range(k):
        fold[k - 1 - tap : k - 1 - tap + factor, tap] = 1
    return (fold @ kernel @ fold.T).transpose(0, 1)


@pytest.mark.parametrize(
    ("name", "hint", "answer"),
    [
        ("judge_features", "all at once", judge_by_chunks),
        ("recalibrate_batch_norm", "nothing changed", recalibrate_without_train_mode),
        ("truncate_by_redrawing", "other threshold", truncate_in_twenty_redraws),
        ("variance_share", "a small number added", share_bounded_from_below),
        ("spherical_interpolation", "at the origin", slerp_without_nan),
        ("mended_article_decoder", "codes mixed", decoder_with_a_norm),
        ("folded_kernel", "wrong device", fold_on_the_cpu),
        ("mended_noise", "global generator", noise_that_seeds_everything),
        ("round_growth", "smaller eigenvalue", growth_of_the_first_eigenvalue),
        ("mended_noise", "seeds overlap", noise_by_seed_and_number),
        ("mended_noise", "seeds overlap", noise_by_seed_length_and_number),
        ("mended_normals", "root after the cosine", normals_with_one_root_late),
        ("convolution_work", "not rounded down", work_from(float)),
        ("convolution_work", "not rounded down", work_from(math.ceil)),
        ("plan_budget", "rounded", budget_in_whole_passes),
    ],
)
def test_one_mistake_written_in_another_way_gets_the_same_hint(name, hint, answer):
    for seed in (0, 1):
        assert exercises()[name].examine(answer, seed).hint == hint


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("truncate_by_redrawing", truncate_in_twenty_redraws, "after a fixed number of redraws"),
        ("spherical_interpolation", slerp_without_nan, "or nan_to_num, makes 0/0 a 0"),
    ],
)
def test_a_hint_that_is_earned_in_two_ways_names_both(name, answer, said):
    assert said in exercises()[name].examine(answer).message


def shapes_as_floats(shape, layers):
    right = next(iter(BANK["article_shapes"].right.values()))
    return [tuple(map(float, s)) for s in right(shape, layers)]


def side_as_a_float(n, k, s, p, *, transposed=False, output_padding=0):
    if transposed:
        return float((n - 1) * s - 2 * p + k + output_padding)
    return np.floor((n + 2 * p - k) / s) + 1


def report_with_a_float(mu, log_var):
    between = mu.var(0, correction=0)
    kl = 0.5 * (mu.square() + log_var.expm1() - log_var).mean(0)
    return kl, log_var.exp().mean(0), between, (between > 0.01).to(mu).sum()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("article_shapes", shapes_as_floats),
        ("map_side", side_as_a_float),
        ("latent_report", report_with_a_float),
    ],
)
def test_whole_numbers_that_come_as_floats_are_said_to_do_so(name, answer):
    verdict = exercises()[name].examine(answer)
    assert verdict.hint == "wrong type", verdict.message
    assert "a whole number (int) is wanted" in " ".join(verdict.message.split())


def test_bytes_may_come_as_floats():
    def answer(g, d, b, r, t, n):
        return float(16 * (g + d) + 4 * g), r * t / b, r * t / n

    verdict = exercises()["plan_budget"].examine(answer)
    assert verdict.state == "right", verdict.message


@pytest.mark.parametrize(
    ("name", "answer", "from_the_input"),
    [
        ("mended_image_batch", lambda u: u.permute(0, 3, 1, 2).double() / 127.5 - 1, False),
        ("truncate_by_redrawing", lambda n, d, t, g: torch.zeros(n, d).double(), False),
        ("reparameterise", lambda m, v, e: (m + (0.5 * v).exp() * e).double(), True),
    ],
)
def test_a_dtype_is_taken_from_the_input_where_that_has_it(name, answer, from_the_input):
    verdict = exercises()[name].examine(answer)
    assert verdict.hint == "wrong dtype"
    assert ("Take dtype and device from the input" in verdict.message) == from_the_input


def test_the_line_of_the_student_is_named_where_the_course_raises():
    def answer(vae, optimizer, x, noise):
        mu, _ = vae.encode((x + 1) / 2)
        return vae.decode((mu + noise).T)

    message = exercises()["mended_vae_step"].examine(answer).message
    assert "return vae.decode((mu + noise).T)" in message


@pytest.mark.parametrize("name", ["mended_article_decoder", "judge_features"])
def test_a_default_dtype_set_in_one_answer_does_not_refuse_the_next(name):
    def leaves_float64_behind(*args, **kwargs):
        torch.set_default_dtype(torch.float64)

    exercise = exercises()[name]
    exercise.examine(leaves_float64_behind)
    assert torch.get_default_dtype() == torch.float32
    torch.set_default_dtype(torch.float64)  # as in a cell of the notebook
    try:
        verdicts = [exercise.examine(answer) for answer in BANK[name].right.values()]
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert [v.state for v in verdicts] == ["right"] * len(verdicts), verdicts


def frequency_with_its_error_first(happened):
    p = happened.double().mean().item()
    return math.sqrt(p * (1 - p) / len(happened)), p


def bits_before_nats(grey):
    entropy = torch.special.entr(grey) + torch.special.entr(1 - grey)
    nats = entropy.flatten(1).sum(1).mean()
    return nats / math.log(2) / grey[0].numel(), nats


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("event_probability", frequency_with_its_error_first),
        ("entropy_of_tosses", bits_before_nats),
    ],
)
def test_right_results_in_another_order_are_said_to_be_so(name, answer):
    assert "right, but in another order" in exercises()[name].examine(answer).message


def test_precision_and_recall_may_be_written_in_plain_loops():
    def distance(a, b):
        return ((a - b) ** 2).sum().sqrt()

    def radii(points, k):
        return [
            sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1]
            for i, p in enumerate(points)
        ]

    def share(points, centres, balls):
        inside = sum(
            any(distance(p, c) < r for c, r in zip(centres, balls, strict=True)) for p in points
        )
        return inside / len(points)

    def answer(real, fake, k):
        return share(fake, real, radii(real, k)), share(real, fake, radii(fake, k))

    verdict = exercises()["precision_and_recall"].examine(answer)
    assert verdict.state == "right", verdict.message


def test_an_answer_that_is_half_written_is_told_so():
    def half(fake_logits, *, saturating):
        if saturating:
            raise NotImplementedError
        return nn.functional.softplus(-fake_logits).mean()

    verdict = exercises()["gan_generator_loss"].examine(half)
    assert verdict.state == "unattempted" and "begun, but on five logits" in verdict.message
