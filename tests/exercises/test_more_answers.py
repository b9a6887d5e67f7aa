"""Further answers of students: one hint is often earned in several ways."""

from __future__ import annotations

import math

import pytest
import torch

from course_lib.exercises import exercises


def noise_by_seed_and_number(batches, size, seed):
    rows = [
        torch.randn(size, generator=torch.Generator().manual_seed(1000 * seed + i))
        for i in range(batches)
    ]
    return torch.stack(rows)


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


@pytest.mark.parametrize(
    ("name", "hint", "answer"),
    [
        ("mended_noise", "seeds overlap", noise_by_seed_and_number),
        ("convolution_work", "not rounded down", work_from(float)),
        ("convolution_work", "not rounded down", work_from(math.ceil)),
        ("plan_budget", "rounded", budget_in_whole_passes),
    ],
)
def test_one_mistake_written_in_another_way_gets_the_same_hint(name, hint, answer):
    for seed in (0, 1):
        assert exercises()[name].examine(answer, seed).hint == hint


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
