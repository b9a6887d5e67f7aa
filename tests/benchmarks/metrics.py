"""Time of the measures against the public implementations, on one thread of one core.

    python tests/benchmarks/metrics.py                 # all cases: about 10 minutes
    python tests/benchmarks/metrics.py --only kernel   # these alone again; the others stay
    python tests/benchmarks/metrics.py --large         # memory at n = 50,000: some 15 minutes more

Ours and the peers take turns in one process on the same features: correlated and non-negative, as
a network's pooled layer gives. The ratio is that of the medians. Results go to data/results/.
Needs the extra `benchmark`.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
if hasattr(os, "sched_setaffinity"):
    # A peer that starts threads of its own shall not have a second core either.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import contextlib
import importlib.metadata
import io
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np
import torch

from course_lib import environment, metrics, notebooks
from course_lib.metrics.arithmetic import gram

torch.set_num_threads(1)
RESULTS = Path(__file__).parents[2] / "data" / "results"
PEERS = ("torch-fidelity", "torchmetrics", "pytorch-fid", "prdc")
# What the course promises at least, per case and peer.
GOALS = {
    "Fréchet n=500 d=2048": {"torch-fidelity": 60, "torchmetrics": 70, "pytorch-fid": 300},
    "Fréchet n=5000 d=2048": {"torch-fidelity": 1.5, "torchmetrics": 2, "pytorch-fid": 4},
    "Fréchet n=10000 d=2048": {"torch-fidelity": 1.5, "torchmetrics": 2, "pytorch-fid": 4},
    "Fréchet n=5000 d=512": {"torch-fidelity": 1.6, "torchmetrics": 2.3, "pytorch-fid": 2.5},
    "kernel n=5000 d=512 float32": {"torch-fidelity": 3.5, "torchmetrics": 4.5},
    "kernel n=5000 d=512 float64": {"torch-fidelity": 3.5, "torchmetrics": 4.5},
    "prdc n=5000 d=512": {"prdc": 2.5},
}


def features(n: int, d: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Correlated, non-negative, float32 `[n, d]`."""
    mixing = 0.3 * torch.randn(64, d, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(n, 64, generator=generator) @ mixing
    return torch.relu(common + torch.randn(n, d, generator=generator) + shift)


# ---------------------------------------------------------------------------- contestants


def frechet_contestants(a: torch.Tensor, b: torch.Tensor) -> dict[str, Callable[[], float]]:
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity import metric_fid
    from torchmetrics.image.fid import FrechetInceptionDistance

    # Double precision for all: torch-fidelity and pytorch-fid get there in np.cov anyway.
    wide = a.double(), b.double()

    def torch_fidelity() -> float:
        moments = [metric_fid.fid_features_to_statistics(x) for x in wide]
        result = metric_fid.fid_statistics_to_metric(*moments, verbose=False)
        return result[metric_fid.KEY_METRIC_FID]

    class Given(torch.nn.Module):
        num_features = a.shape[1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    def torchmetrics() -> float:
        metric = FrechetInceptionDistance(feature=Given(), input_img_size=(1, 1, a.shape[1]))
        metric.set_dtype(torch.float64)
        for x, real in zip(wide, (True, False), strict=True):
            metric.update(x.view(len(x), 1, 1, -1), real=real)
        return float(metric.compute())

    def pytorch_fid() -> float:
        moments = []
        for x in wide:
            moments += [x.numpy().mean(axis=0), np.cov(x.numpy(), rowvar=False)]
        return float(calculate_frechet_distance(*moments))

    return {
        "course_lib": lambda: metrics.frechet_distance(a, b),
        "torch-fidelity": torch_fidelity,
        "torchmetrics": torchmetrics,
        "pytorch-fid": pytorch_fid,
    }


def kernel_contestants(a: torch.Tensor, b: torch.Tensor) -> dict[str, Callable[[], float]]:
    from torch_fidelity import metric_kid
    from torchmetrics.image.kid import poly_mmd

    def torch_fidelity() -> float:
        result = metric_kid.kid_features_to_metric(
            a, b, kid_subsets=100, kid_subset_size=1000, verbose=False
        )
        return float(result[metric_kid.KEY_METRIC_KID_MEAN])

    def torchmetrics() -> float:
        # The loop of its KernelInceptionDistance.compute, on the features themselves.
        values = []
        for _ in range(100):
            left, right = (x[torch.randperm(len(x))[:1000]] for x in (a, b))
            values.append(poly_mmd(left, right))
        return float(torch.stack(values).mean())

    return {
        "course_lib": lambda: metrics.kernel_distance(a, b)[0],
        "torch-fidelity": torch_fidelity,
        "torchmetrics": torchmetrics,
    }


def prdc_contestants(a: torch.Tensor, b: torch.Tensor) -> dict[str, Callable[[], float]]:
    from prdc import compute_prdc

    def reference() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return float(compute_prdc(a.numpy(), b.numpy(), 5)["coverage"])

    return {"course_lib": lambda: metrics.prdc(a, b)["coverage"], "prdc": reference}


def case(name: str) -> tuple[dict[str, Callable[[], float]], torch.Tensor]:
    """Contestants of a case, and its first set of features."""
    kind, *words = name.split()
    sizes = {word[0]: int(word[2:]) for word in words if "=" in word}
    a, b = features(sizes["n"], sizes["d"], 1), features(sizes["n"], sizes["d"], 2, shift=0.1)
    if words[-1] == "float64":
        a, b = a.double(), b.double()
    make = {"Fréchet": frechet_contestants, "kernel": kernel_contestants, "prdc": prdc_contestants}
    return make[kind](a, b), a


def measure(name: str, rounds: int, patience: float) -> dict:
    """Seconds of every contestant, in turns; a slow one runs once or twice, not `rounds` times."""
    contestants, a = case(name)
    seconds: dict[str, list[float]] = {who: [] for who in contestants}
    values = {}
    for round_ in range(rounds):
        for who, run in contestants.items():
            if round_ and sum(seconds[who]) > patience:
                continue
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a peer calls what its dependency deprecates
                values[who] = run()
            seconds[who].append(time.perf_counter() - start)
    wide = a.double()
    floor = []
    for _ in range(3):
        start = time.perf_counter()
        gram(wide)
        floor.append(time.perf_counter() - start)
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    for who, value in values.items():
        # The kernel's subsets are drawn by each in its own way; all else is one number.
        allowed = 0.1 if name.startswith("kernel") else 1e-5
        if abs(value / values["course_lib"] - 1) > allowed:
            raise SystemExit(f"{name}: {who} found {value}, course_lib {values['course_lib']}.")
    return {
        "case": name,
        "commit": environment.git_commit(),
        "seconds": medians,
        "runs": {who: len(times) for who, times in seconds.items()},
        "ratio": {who: t / medians["course_lib"] for who, t in medians.items()},
        "goal": GOALS[name],
        "value": values,
        # n d² multiplications and additions: one product of the features with themselves.
        "floor_gigaflop": len(a) * a.shape[1] ** 2 / 1e9,
        "floor_seconds": min(floor),
    }


# ---------------------------------------------------------------------------- memory


MEMORY = """
import sys
sys.path.insert(0, {folder!r})
import metrics as benchmark
a, b = benchmark.features({n}, {d}, 1), benchmark.features({n}, {d}, 2, 0.1)
before = benchmark.resident_gib()
benchmark.machine.peak_mib(forget=True)  # making the features took more than they take
start = benchmark.time.perf_counter()
{call}
print(before, benchmark.machine.peak_mib() / 2**10, benchmark.time.perf_counter() - start)
"""


def resident_gib() -> float:
    """Resident memory of this process now, in GiB."""
    import psutil

    return psutil.Process().memory_info().rss / 2**30


def memory(name: str, call: str, n: int, d: int) -> dict:
    """Peak memory of one call in a process of its own, which holds both sets as float32."""
    script = MEMORY.format(folder=str(Path(__file__).parent), n=n, d=d, call=call)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, after, seconds = map(float, run.stdout.split())
    return {
        "measure": name, "n": n, "d": d, "gib_with_features": before, "gib_peak": after,
        "seconds": seconds,
    }  # fmt: skip


CALLS = {
    "frechet_distance": "benchmark.metrics.frechet_distance(a, b)",
    "kernel_distance": "benchmark.metrics.kernel_distance(a, b)",
    "prdc": "benchmark.metrics.prdc(a, b)",
}


# ---------------------------------------------------------------------------- results


def table(result: dict) -> str:
    """The results as a page of Markdown."""
    lines = [
        "# Time and memory of the measures",
        "",
        f"One thread of one core ({result['processor']}), float32 features unless said otherwise; "
        f"medians. {', '.join(f'{k} {v}' for k, v in result['versions'].items())}. Made by "
        "`python tests/benchmarks/metrics.py`.",
        "",
        "| case | ours | peer | peer's time | ratio | goal | floor |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["cases"]:
        for who, seconds in row["seconds"].items():
            if who == "course_lib":
                continue
            goal = row["goal"].get(who)
            met = "" if goal is None else f"≥ {goal:g}× {'✓' if row['ratio'][who] >= goal else '✗'}"
            lines.append(
                f"| {row['case']} | {row['seconds']['course_lib']:.3g} s | {who} | "
                f"{seconds:.3g} s | **{row['ratio'][who]:.1f}×** | {met} | "
                f"{row['floor_seconds']:.2g} s |"
            )
    lines += [
        "",
        "*Floor*: one product of the feature matrix with itself (n·d² multiply-adds), measured "
        "here in float64. A Fréchet distance from more samples than features takes two of them "
        "before anything else.",
        "",
    ]
    if result["memory"]:
        lines += [
            "| measure | n | d | before, with the features | peak | seconds |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {m['measure']} | {m['n']:,} | {m['d']:,} | {m['gib_with_features']:.2f} GiB | "
            f"{m['gib_peak']:.2f} GiB | {m['seconds']:.0f} |"
            for m in result["memory"]
        ]
        lines += [
            "",
            f"Measured on {result['memory_processor']}. Peaks are those of the whole process while "
            "the measure is computed, torch itself and the features included.",
            "",
        ]
    return "\n".join(lines)


def picture(result: dict) -> bytes:
    """Bars of seconds, one group per case, on a logarithmic scale."""
    groups = {
        row["case"]: {
            who: (seconds, "" if who == "course_lib" else f"{row['ratio'][who]:.1f}×")
            for who, seconds in row["seconds"].items()
        }
        for row in result["cases"]
    }
    return machine.bars(
        groups,
        {who: who for who in ("course_lib", *PEERS)},
        ["", "//", "..", "xx", "\\\\"],
        "seconds on one core (logarithmic); numbers: times as long as course_lib",
        0.85,
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", default="", help="a word that the names of the cases hold")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--patience", type=float, default=20, help="seconds per contestant")
    arguments.add_argument("--large", action="store_true", help="memory at n = 50,000 too")
    arguments.add_argument("--memory", action="store_true", help="memory alone; keep the times")
    arguments.add_argument("--out", type=Path, default=RESULTS)
    options = arguments.parse_args()
    result = {
        "benchmark": "metrics",
        "processor": machine.processor(),
        "versions": {p: importlib.metadata.version(p) for p in ("torch", "numpy", *PEERS)},
        "cases": [],
        "memory": [],
        "memory_processor": machine.processor(),
    }
    for name in GOALS:
        if options.only in name and not options.memory:
            row = measure(name, options.rounds, options.patience)
            result["cases"].append(row)
            ratios = ", ".join(f"{w} {r:.1f}×" for w, r in row["ratio"].items() if r != 1)
            print(f"{name}: {row['seconds']['course_lib']:.3g} s; {ratios}", flush=True)
    sizes = [(5000, 512)] + ([(50_000, 512), (50_000, 2048)] if options.large else [])
    for n, d in sizes:
        for name, call in CALLS.items():
            if options.only in name or not options.only:
                found = memory(name, call, n, d)
                result["memory"].append(found)
                print(
                    f"{name}, n = {n:,}, d = {d}: {found['gib_peak']:.2f} GiB, "
                    f"{found['seconds']:.0f} s",
                    flush=True,
                )
    stored = options.out / "benchmark_metrics.json"
    if options.memory and stored.exists():
        new = {key: result[key] for key in ("memory", "memory_processor")}
        result = json.loads(stored.read_text()) | new
    elif options.only and stored.exists():
        old = json.loads(stored.read_text())
        if (old["processor"], old["versions"]) != (result["processor"], result["versions"]):
            raise SystemExit("The stored cases are of another machine or version: run them all.")
        new = {row["case"]: row for row in result["cases"]}
        result["cases"] = [new.get(row["case"], row) for row in old["cases"]]
        measured = {(m["measure"], m["n"], m["d"]): m for m in result["memory"]}
        result["memory"] = [measured.get((m["measure"], m["n"], m["d"]), m) for m in old["memory"]]
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    notebooks.write_text(options.out / "benchmark_metrics.json", text)
    notebooks.write_text(options.out / "benchmark_metrics.md", table(result))
    notebooks.write_file(options.out / "benchmark_metrics.png", picture(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
