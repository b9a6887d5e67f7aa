"""Set-up: device, profile, folders, seeds, and the sentences for wrong settings."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import course_lib
from course_lib import doctor, environment


def draws(course):
    return (
        torch.rand(3, generator=course.generator).tolist(),
        course.rng.random(3).tolist(),
        torch.rand(3).tolist(),
        np.random.rand(3).tolist(),
        torch.rand(3, generator=course.new_generator(5)).tolist(),
        torch.nn.Linear(3, 2).weight.flatten().tolist(),
    )


def test_same_seed_gives_the_same_numbers_twice(capsys):
    first, second = (draws(course_lib.setup(seed=7)) for _ in range(2))
    assert first == second
    other = draws(course_lib.setup(seed=8))
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_new_generators_differ_by_offset_and_seed():
    course = course_lib.setup(seed=1, quiet=True)
    other = course_lib.setup(seed=2, quiet=True)
    numbers = {
        torch.rand(1, generator=c.new_generator(k)).item()
        for c in (course, other)
        for k in range(50)
    }
    assert len(numbers) == 100


def test_setup_prints_one_line_for_a_bug_report(capsys):
    course = course_lib.setup(seed=3, profile="smoke", device="cpu")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    for part in (f"torch {torch.__version__}", "cpu", "profile smoke", "seed 3", "commit"):
        assert part in out
    assert course.report + "\n" == out
    course_lib.setup(quiet=True)
    assert capsys.readouterr().out == ""


def test_profile_from_the_environment(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "gpu")
    assert course_lib.setup(quiet=True).profile.name == "gpu"
    monkeypatch.delenv("COURSE_PROFILE")
    assert course_lib.setup(quiet=True).profile.name == "laptop"


def test_budgets():
    budgets = {name: environment.Profile(name).steps(1000) for name in environment.PROFILES}
    assert budgets == {"smoke": 10, "laptop": 1000, "gpu": 1000}
    assert environment.Profile("smoke").steps(50) == 3
    assert environment.Profile("smoke").steps(1000, smoke=20, gpu=9000) == 20
    assert environment.Profile("gpu").steps(1000, smoke=20, gpu=9000) == 9000
    assert environment.Profile("laptop").choose(smoke="digits", laptop="mnist") == "mnist"


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: course_lib.setup(seed=-1), "at least 0"),
        (lambda: course_lib.setup(seed="a"), "whole number"),
        (lambda: course_lib.setup(profile="fast"), "smoke, laptop, gpu"),
        (lambda: course_lib.setup(seed=2**63), "below"),
        (lambda: course_lib.setup(device="tpu"), "this machine has"),
        (lambda: course_lib.setup(device="cpu:x"), "this machine has"),
        (lambda: course_lib.setup(device="cuda:99"), "this machine has"),
    ],
)
def test_wrong_settings_get_their_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_unknown_profile_in_the_environment_names_the_variable(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "huge")
    with pytest.raises(ValueError, match="COURSE_PROFILE is 'huge'"):
        course_lib.setup()


def test_devices_are_named_in_any_usual_way(monkeypatch):
    for name in ("cpu", "CPU", torch.device("cpu")):
        assert environment.choose_device(name) == torch.device("cpu")
    monkeypatch.setenv("COURSE_DEVICE", "")
    assert environment.choose_device().type in ("cuda", "mps", "cpu")
    monkeypatch.setenv("COURSE_DEVICE", "CPU")
    assert environment.choose_device() == torch.device("cpu")


def test_large_and_numpy_seeds():
    torch.rand(1, generator=course_lib.setup(seed=2**62, quiet=True).new_generator(9))
    first = course_lib.setup(seed=np.int64(3), quiet=True)
    assert draws(first) == draws(course_lib.setup(seed=3, quiet=True))


def test_folders_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path / "out"))
    monkeypatch.setenv("COURSE_MIRROR", str(tmp_path))
    paths = course_lib.setup(quiet=True).paths
    assert (paths.cache, paths.output, paths.mirror) == (
        tmp_path / "cache",
        tmp_path / "out",
        tmp_path,
    )
    assert not paths.cache.exists(), "no folder before something is written"
    monkeypatch.setenv("COURSE_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="COURSE_MIRROR"):
        course_lib.setup()


def test_doctor_is_content_here(capsys):
    assert doctor.report(doctor.examine()) == 0
    assert "All is well" in capsys.readouterr().out


def test_doctor_names_what_is_wrong_and_the_mend(monkeypatch, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("a file, where a folder is asked for")
    monkeypatch.setenv("COURSE_CACHE", str(blocked))
    monkeypatch.setenv("COURSE_MIRROR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("COURSE_PROFILE", "huge")
    assert doctor.report(doctor.examine()) == 1
    out = capsys.readouterr().out
    assert out.count("✗") == 3
    assert out.count("what to do:") == 3
    assert f"COURSE_MIRROR is {str(tmp_path / 'nowhere')!r}" in out, "the whole name"
    assert "COURSE_CACHE" in out and "COURSE_MIRROR" in out and "COURSE_PROFILE" in out


def test_doctor_sees_an_old_package(monkeypatch):
    real = doctor.metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda name: "1.0" if name == "torch" else real(name)
    )
    wrong = [finding for finding in doctor.examine() if not finding.good]
    assert [finding.what for finding in wrong] == ["torch 1.0"]
    assert "pip install 'torch>=" in wrong[0].mend


def test_a_terminal_without_ticks_still_gets_the_report(root):
    run = subprocess.run(
        [sys.executable, "-m", "course_lib", "doctor"],
        cwd=root,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    assert run.returncode == 0 and b"All is well" in run.stdout


def test_command_line_answers_errors_with_a_sentence(root):
    run = subprocess.run(
        [sys.executable, "-m", "course_lib", "run", "99"], cwd=root, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr.startswith("course_lib: No lecture begins with 99")
    assert "Traceback" not in run.stderr
