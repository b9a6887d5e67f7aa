"""Noise for a GPU: pinned and not waited for; on the CPU the numbers that torch draws there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from course_lib import losses, models
from course_lib.models.noise import drawn
from course_lib.recipes import families
from course_lib.training import iwae_step, sample_noise, vae_state, vae_step


def rng(seed=4):
    return torch.Generator().manual_seed(seed)


class Recording:
    """A draw that notes what it was asked for and where its result went."""

    def __init__(self):
        self.asked, self.moved = None, None

    def __call__(self, shape, **options):
        self.asked = {"shape": shape, **options}
        return self

    def to(self, device, **options):
        self.moved = {"device": device, **options}
        return self


def test_for_a_gpu_a_cpu_generator_draws_into_pinned_memory_and_nothing_waits():
    draw, generator = Recording(), rng()
    assert drawn(draw, (2, 3), generator, "cuda:1", torch.float64) is draw
    assert draw.asked == {
        "shape": (2, 3), "generator": generator, "dtype": torch.float64, "pin_memory": True
    }  # fmt: skip
    assert draw.moved == {"device": torch.device("cuda:1"), "non_blocking": True}


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_are_asked_for_nothing_special(device):
    draw, generator = Recording(), rng()
    drawn(draw, (2, 3), generator, device)
    assert draw.asked["device"] == torch.device("cpu") and "pin_memory" not in draw.asked
    assert draw.moved == {"device": torch.device(device)}
    drawn(draw, (2, 3), None, device)
    assert draw.asked["device"] == torch.device(device)


def test_every_draw_of_a_step_is_for_the_device_of_its_data(monkeypatch):
    """All go through `drawn`: a draw of their own would miss the pinned memory."""
    seen = []

    def noted(draw, shape, generator, device, dtype=None):
        seen.append((draw, tuple(shape), str(device)))
        return drawn(draw, shape, generator, device, dtype)

    for module in (models.vae, losses.adversarial, families):
        monkeypatch.setattr(module, "drawn", noted)
    monkeypatch.setattr("course_lib.training.steps.drawn", noted)
    x, critic = torch.rand(4, 1, 2, 2), lambda x: x.flatten(1).sum(1)
    sample_noise(4, 3, rng())
    losses.gradient_penalty(critic, x, x, rng())
    models.mlp_vae((1, 2, 2), 3, ())(x, rng())
    families.binarised(x, rng())
    assert seen == [
        (torch.randn, (4, 3), "cpu"),
        (torch.rand, (4, 1, 1, 1), "cpu"),
        (torch.randn, (4, 3), "cpu"),
        (torch.rand, (4, 1, 2, 2), "cpu"),
    ]


def test_numbers_on_the_cpu_are_those_of_torch():
    assert sample_noise(5, 3, rng()).equal(torch.randn(5, 3, generator=rng()))
    torch.manual_seed(8)
    expected = torch.randn(5, 3)
    torch.manual_seed(8)
    assert sample_noise(5, 3).equal(expected)
    mu = torch.zeros(5, 3)
    z = models.VAE.sample_posterior(None, mu, mu, rng())
    assert z.equal(torch.randn(5, 3, generator=rng()))
    x = torch.rand(5, 1, 4, 4)
    expected = (torch.rand(x.shape, generator=rng()) < x).float()
    assert families.binarised(x, rng()).equal(expected)


class Watched(losses.BernoulliLikelihood):
    """Counts the looks at the range that it is asked for."""

    looks = 0

    def require_range(self, x):
        self.looks += 1
        super().require_range(x)


@pytest.mark.parametrize("step", [vae_step, iwae_step])
def test_the_first_step_alone_looks_at_the_range_on_any_device(step):
    likelihood = Watched()
    state = vae_state(models.mlp_vae((1, 4, 4), 2, ()), likelihood)
    for _ in range(3):
        step(state, torch.rand(2, 1, 4, 4))
        state.step += 1
    assert likelihood.looks == 1
    state.step = 0
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        step(state, torch.rand(2, 1, 4, 4) - 1)


class WithoutDouble(torch.Tensor):
    """Stands for a tensor on a device that has no float64."""

    def double(self):
        raise TypeError("Cannot convert to float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_the_mean_image_needs_no_float64_on_the_device_of_the_images():
    pixels = torch.randint(256, (50, 1, 4, 4), generator=rng(), dtype=torch.uint8)

    class Images(SimpleNamespace):
        def __len__(self):
            return len(self.images)

    mean = families.pixel_mean(Images(images=pixels.as_subclass(WithoutDouble)))
    assert type(mean) is torch.Tensor and mean.dtype == torch.float32
    torch.testing.assert_close(mean, pixels.float().mean(0) / 255)
