"""Images per second of one run on 1 and on 2 processes, each with one thread on a core of its own.

    python tests/benchmarks/processes.py               # about 3 minutes on two idle cores

The batch is that of all processes together, so a ratio of 2 would be perfect. Both take turns; a
value is the median over windows. Needs the extra `distributed`; goes to data/results/.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from course_lib import data, losses, models, notebooks, training
from course_lib.recipes.cards import circumstances
from course_lib.training import processes

RESULTS = Path(__file__).parents[2] / "data" / "results"
WARM_UP = 5  # updates before the first window


def mlp_gan(batch: int) -> tuple:
    pair = models.MLPGenerator((1, 28, 28), 100), models.MLPDiscriminator((1, 28, 28))
    return training.gan_state(*pair, latent_dim=100), training.gan_step, (-1, 1)


def dcgan(batch: int) -> tuple:
    pair = models.DCGANGenerator(28, 1, 100, 32), models.DCGANDiscriminator(28, 1, 32)
    return training.gan_state(*pair, latent_dim=100), training.gan_step, (-1, 1)


def mlp_vae(batch: int) -> tuple:
    state = training.vae_state(models.mlp_vae(), losses.BernoulliLikelihood())
    return state, training.vae_step, (0, 1)


WORKLOADS: dict[str, tuple[Callable, int]] = {
    "MLP GAN, 28 pixels, batch 64": (mlp_gan, 64),
    "MLP VAE, 28 pixels, batch 128": (mlp_vae, 128),
    "DCGAN, 28 pixels, batch 64": (dcgan, 64),
    "DCGAN, 28 pixels, batch 256": (dcgan, 256),
}


def work(name: str, windows: int, seconds: float, out: str) -> None:
    """Train for some windows of about so many seconds; process 0 writes its images per second."""
    here = processes.connect("cpu")
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[here.rank % len(cores)]})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build, batch = WORKLOADS[name]
    state, step, span = build(batch)
    pixels = torch.randint(256, (4096, 1, 28, 28), dtype=torch.uint8)
    batches = data.Batches(data.ImageSet(pixels), batch, span)
    here.prepare(state, batches)
    step = here.step(step, batches)

    def updates(n: int) -> float:
        began, until = time.perf_counter(), state.step + n
        training.train(state, step, batches, until, progress=False, agree=here.agree)
        return time.perf_counter() - began

    updates(WARM_UP)
    n = here.share(max(3, round(seconds * WARM_UP / updates(WARM_UP))))
    rates = [n * batch / updates(n) for _ in range(windows)]
    if here.main:
        Path(out).write_text(json.dumps(rates))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3, help="turns of 1 and 2 processes")
    arguments.add_argument("--windows", type=int, default=5, help="per turn")
    arguments.add_argument("--seconds", type=float, default=1.0, help="of a window, about")
    arguments.add_argument("--only", default="", help="workloads whose name holds this word")
    arguments.add_argument("--out", type=Path, default=RESULTS / "benchmark_processes.json")
    options = arguments.parse_args()
    rows = []
    for name in (name for name in WORKLOADS if options.only in name):
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for count, found in rates.items():
                with tempfile.NamedTemporaryFile() as file:
                    run = in_a_child if count == 1 else partial(processes.launch, count=count)
                    run(work, name, options.windows, options.seconds, file.name)
                    found += json.loads(Path(file.name).read_text())
        medians = {str(count): round(statistics.median(r), 1) for count, r in rates.items()}
        rows.append(
            {
                "workload": name,
                "images_per_second": medians,
                "all": {str(count): [round(x, 1) for x in r] for count, r in rates.items()},
                "ratio": round(medians["2"] / medians["1"], 2),
            }
        )
        print(f"{name:<32} {medians['1']:>9,.0f} {medians['2']:>9,.0f}   x {rows[-1]['ratio']:.2f}")
    result = {
        "what": "images per second of one run on 1 and 2 processes, one thread and core each",
        **circumstances(torch.device("cpu"), 2),
        "cores": len(os.sched_getaffinity(0)),
        "rows": rows,
    }
    if result["cores"] < 2:
        print("The two processes shared one core: these numbers say nothing about scaling.")
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    notebooks.write_text(options.out, text)


def in_a_child(function: Callable, *arguments: object) -> None:
    """One process, started as the two are: the core that it pins itself to is not the parent's."""
    from torch.multiprocessing import start_processes

    start_processes(partial(_alone, function), args=arguments, nprocs=1, start_method="fork")


def _alone(function: Callable, rank: int, *arguments: object) -> None:
    function(*arguments)


if __name__ == "__main__":
    main()
