"""`make results`: what it runs, and what becomes of the rest when one run fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")

# In place of Python: writes down what it was asked for, makes a card, fails where it is told to.
STUB = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in *"$FAILS"*) exit $CODE ;; esac
if [ "$3" = train ]; then
    while [ "$1" != --out ]; do shift; done
    mkdir -p "$2" && touch "$2/card.json"
fi
"""


def made(folder, *variables, fails="nothing fails", code=2):
    """What was asked of Python, line by line, and the end of `make results`."""
    stub = folder / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB)
    stub.chmod(0o755)
    log = folder / "log"
    words = ["make", "--silent", "-o", ".venv/installed", "results", f"BIN={stub.parent}"]
    words += [f"RUNS={folder}/runs", "SEEDS=0 1", "RECIPES=vae_mnist dcgan_mnist", *variables]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    end = subprocess.run(
        words,
        cwd=ROOT,
        env=clean | {"LOG": str(log), "FAILS": fails, "CODE": str(code)},
        capture_output=True,
        text=True,
    )
    return log.read_text().splitlines(), end


def test_results_train_and_publish_every_recipe_and_seed_apart_from_a_laptops_cards(tmp_path):
    asked, end = made(tmp_path)
    assert end.returncode == 0, end.stderr
    assert [line.split()[2] for line in asked] == ["train", "publish"] * 4 + ["readme"]
    first = f"{tmp_path}/runs/vae_mnist-gpu-seed0"
    assert asked[0].endswith(f"train vae_mnist --profile gpu --seed 0 --out {first} --resume")
    assert asked[1].endswith(f"publish {first} --variant gpu")


def test_results_of_a_laptop_replace_its_cards(tmp_path):
    asked, _ = made(tmp_path, "PROFILE=laptop")
    assert asked[1].endswith("vae_mnist-laptop-seed0")
    assert made(tmp_path / "again", "PROFILE=laptop", "VARIANT=mine")[0][1].endswith("mine")


@pytest.mark.parametrize("fails", ["train vae_mnist", "publish"])
def test_results_go_on_after_a_run_that_fails_and_name_it(tmp_path, fails):
    asked, end = made(tmp_path, fails=fails)
    assert end.returncode != 0 and "vae_mnist-gpu-seed0" in end.stderr
    assert sum("train" in line for line in asked) == 4 and asked[-1].endswith("readme")


def test_results_stop_at_ctrl_c(tmp_path):
    asked, end = made(tmp_path, fails="train vae_mnist", code=130)
    assert end.returncode != 0 and len(asked) == 1


def test_results_may_lie_in_a_folder_with_a_space(tmp_path):
    asked, end = made(tmp_path, f"RUNS={tmp_path}/My Drive/runs")
    assert end.returncode == 0, end.stderr
    assert asked[1].endswith(f"publish {tmp_path}/My Drive/runs/vae_mnist-gpu-seed0 --variant gpu")
