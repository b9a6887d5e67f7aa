"""Set-up: device, profile, folders, seeds, and the sentences for wrong settings."""

import os
import subprocess
import sys
from pathlib import Path

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
    with pytest.raises(ValueError, match="no profile 'huge': set COURSE_PROFILE, or the"):
        course_lib.setup()
    with pytest.raises(ValueError, match="no profile 'vast'"):
        course_lib.setup(profile="vast")


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


def test_runs_go_to_a_folder_or_a_new_one_in_a_folder(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for there in (tmp_path, tmp_path / "new"):
        monkeypatch.setenv("COURSE_OUTPUT", str(there))
        assert course_lib.setup(quiet=True).paths.output == there
    # A drive that is not mounted looks like the first of these.
    for wrong in (tmp_path / "MyDrive" / "course", tmp_path / "file"):
        monkeypatch.setenv("COURSE_OUTPUT", str(wrong))
        with pytest.raises(FileNotFoundError, match=r"COURSE_OUTPUT is .*mount the drive"):
            course_lib.setup()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("variable", "advice"),
    [("COLAB_RELEASE_TAG", "/content/drive"), ("KAGGLE_KERNEL_RUN_TYPE", "/kaggle/working")],
)
def test_where_a_session_ends_setup_says_how_to_keep_runs(
    monkeypatch, tmp_path, capsys, variable, advice
):
    monkeypatch.delenv("COURSE_OUTPUT", raising=False)
    monkeypatch.setenv(variable, "something")
    course_lib.setup()
    said = capsys.readouterr().out.splitlines()[-1]
    assert "ends with this session" in said and "COURSE_OUTPUT" in said and advice in said
    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    course_lib.setup()
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"Runs are kept in {tmp_path} (COURSE_OUTPUT)."


def test_a_library_older_than_its_notebook_says_so(monkeypatch):
    course_lib.setup(quiet=True, needs=course_lib.__version__)
    course_lib.setup(quiet=True, needs="0.0.9")
    with pytest.raises(ImportError, match=r"written for course_lib 10\.2\.0 .*git pull"):
        course_lib.setup(needs="10.2.0")
    monkeypatch.setattr(environment, "repository_root", lambda: None)
    with pytest.raises(ImportError, match=r"uninstall --yes course_lib.*restart the kernel"):
        course_lib.setup(needs="10.2.0")


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


@pytest.mark.parametrize("missing", ["torch", "numpy"])
def test_a_python_without_the_libraries_is_told_which_one_has_them(tmp_path, missing):
    (tmp_path / f"{missing}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{missing}'\", name={missing!r})"
    )
    root = Path(environment.__file__).parents[1]
    path = os.pathsep.join([str(tmp_path), str(root)])
    for command, lines in ((["-m", "course_lib", "recipes"], 1), (["-c", "import course_lib"], 5)):
        done = subprocess.run(
            [sys.executable, *command],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0 and done.stdout == ""
        assert len(done.stderr.strip().splitlines()) >= lines
        # A program that imports the library sees the error itself.
        assert ("Traceback" in done.stderr) == (command[0] == "-c")
        assert missing in done.stderr
        assert (".venv/bin/python" in done.stderr) == (command[0] == "-m")


def test_an_existing_device_is_named_in_any_usual_way():
    for name in ("cpu", "CPU", torch.device("cpu"), "meta"):
        assert environment.existing_device(name).type in ("cpu", "meta")
    for nothing in ("foo", None):
        with pytest.raises(ValueError, match="names no device"):
            environment.existing_device(nothing)


def test_generators_of_a_gpu_in_use_are_kept_too(monkeypatch):
    """`seed_everything` seeds them, and dropout draws from them."""
    states = [torch.full((3,), 1, dtype=torch.uint8), torch.full((3,), 2, dtype=torch.uint8)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(device, state)
    )
    before = list(states)
    with environment.generators_kept():
        states[:] = [torch.zeros(3, dtype=torch.uint8)] * 2
    assert all(torch.equal(a, b) for a, b in zip(states, before, strict=True))


def test_the_memory_of_a_child_is_not_its_parents():
    """What `resource` tells of a child begins with the memory of the process that started it."""
    hold = "import numpy as np; held = np.ones(2**26)\n"  # 512 MiB
    hold += (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    tell = "from course_lib import environment; print(environment.peak_resident_mib())"
    command = [sys.executable, "-c", hold, tell]
    alone = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    below = subprocess.run(command, capture_output=True, text=True, check=True)
    if not Path("/proc/self/status").exists():
        pytest.skip("this system tells only what `resource` tells")
    assert 20 < float(below.stdout) < float(alone.stdout) + 150


def test_a_download_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    """Git would name the commit of the repository around it."""
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "outer"]):
        who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True)
    (tmp_path / "course").mkdir()
    monkeypatch.setattr(environment, "repository_root", lambda: tmp_path / "course")
    assert environment.git_commit() == "none"
    monkeypatch.setattr(environment, "repository_root", lambda: tmp_path)
    assert environment.git_commit() != "none"


def test_a_gpu_that_is_not_wanted_is_no_trouble(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    for works in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda works=works: works)
        assert all(finding.good for finding in doctor._device()) == works
