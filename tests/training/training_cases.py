"""Two small runs that the training tests share, and a stream with a position."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from course_lib.training import gan_state, gan_step, vae_state, vae_step


class Stream:
    """Endless batches drawn by `draw(generator)`, with a state."""

    def __init__(self, draw, seed=0):
        self.draw, self.generator = draw, torch.Generator().manual_seed(seed)

    def __iter__(self):
        return self

    def __next__(self):
        return self.draw(self.generator)

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


class TinyVAE(nn.Module):
    """Convolution and batch normalisation, small enough for hundreds of steps."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
        )
        self.decoder = nn.Sequential(nn.Linear(2, 64), nn.Dropout(0.1))

    def forward(self, x, generator=None):
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + (0.5 * log_var).exp() * torch.randn(mu.shape, generator=generator)
        return Output(self.decoder(z).view(-1, 1, 8, 8), mu, log_var, z)


class Output:
    def __init__(self, decoded, mu, log_var, z):
        self.decoded, self.mu, self.log_var, self.z = decoded, mu, log_var, z


def toy_gan(seed=0, hidden=16, **options):
    torch.manual_seed(seed)
    state = gan_state(
        nn.Sequential(
            nn.Linear(2, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 2)
        ),
        nn.Sequential(nn.Linear(2, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1), nn.Flatten(0)),
        latent_dim=2,
        seed=seed,
        **{"ema_decay": 0.9, **options},
    )
    return state, gan_step, Stream(lambda g: torch.randn(16, 2, generator=g) + 1, seed)


def toy_vae(seed=0):
    from course_lib.losses import LearnedGaussianLikelihood

    torch.manual_seed(seed)
    state = vae_state(TinyVAE(), LearnedGaussianLikelihood(0.5), seed=seed)
    step = partial(vae_step, beta=0.5)
    return state, step, Stream(lambda g: torch.rand(8, 1, 8, 8, generator=g), seed)


CASES = {"gan": toy_gan, "vae": toy_vae}


def everything(state, batches):
    """All that an exact resume must bring back, as one comparable structure."""
    modules = {**state.modules, **{f"ema {k}": e.module for k, e in state.ema.items()}}
    return {
        "step": state.step,
        "history": state.history,
        "noise": state.generator.get_state().tolist(),
        "global": torch.get_rng_state().tolist(),
        "data": batches.state_dict()["generator"].tolist(),
        "weights": {
            f"{a}.{b}": t.tolist() for a, m in modules.items() for b, t in m.state_dict().items()
        },
        "moments": {
            (name, i, key): value.tolist()
            for name, optimizer in state.optimizers.items()
            for i, moments in optimizer.state_dict()["state"].items()
            for key, value in moments.items()
        },
    }
