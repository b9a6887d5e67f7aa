"""The number of threads: what binds a process, and what is said about it."""

from __future__ import annotations

import os

import pytest
import torch

import course_lib
from course_lib import environment


@pytest.fixture
def threads(monkeypatch):
    """The number that torch would be told; the real one stays."""
    told = {"n": 8}
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: told["n"])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: told.update(n=n))
    monkeypatch.setattr(environment, "_quota", lambda *paths: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.5, 0.5), raising=False)
    return told


def test_nothing_is_changed_or_said_where_all_is_well(threads):
    assert environment.choose_threads() == "" and threads["n"] == 8


@pytest.mark.parametrize(("quota", "cores"), [(2.0, 2), (1.5, 2), (0.2, 1), (64.0, 8), (None, 8)])
def test_a_quota_bounds_the_cores(threads, monkeypatch, quota, cores):
    monkeypatch.setattr(environment, "_quota", lambda *paths: quota)
    assert environment.allowed_cores() == cores
    said = environment.choose_threads()
    assert threads["n"] == cores
    assert said == "" if cores == 8 else f"{cores} instead of 8" in said


def test_a_process_bound_to_one_core_gets_one_thread(threads, monkeypatch, capsys):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    course_lib.setup(device="cpu")
    assert threads["n"] == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "(1 thread)" in first and "1 instead of 8" in second


def test_the_users_number_is_obeyed(threads, monkeypatch):
    monkeypatch.setattr(environment, "_quota", lambda *paths: 2.0)
    threads["n"] = 1  # chosen before: fewer than allowed stays
    assert environment.choose_threads() == "" and threads["n"] == 1
    threads["n"] = 6
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert environment.choose_threads() == "" and threads["n"] == 6


def test_a_busy_machine_is_named_but_changes_no_number(threads, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (11.0, 9.0, 9.0), raising=False)
    assert "load 11.0" in environment.choose_threads() and threads["n"] == 8
    threads["n"] = 1
    assert environment.choose_threads() == ""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_quotas_of_control_groups_of_both_versions(tmp_path):
    own = write(tmp_path / "own", "0::/user/job\n")
    assert environment._quota(tmp_path, own) is None
    write(tmp_path / "user" / "job" / "cpu.max", "max 100000\n")
    assert environment._quota(tmp_path, own) is None
    write(tmp_path / "user" / "cpu.max", "250000 100000\n")  # the smallest on the way up counts
    assert environment._quota(tmp_path, own) == 2.5
    write(tmp_path / "cpu.max", "150000 100000\n")
    assert environment._quota(tmp_path, own) == 1.5
    other = tmp_path / "first"
    own = write(tmp_path / "own", "3:memory:/a\n2:cpu,cpuacct:/docker/x\nnonsense\n")
    write(other / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1\n")
    write(other / "cpu,cpuacct" / "cpu.cfs_period_us", "100000\n")
    assert environment._quota(other, own) is None
    write(other / "cpu,cpuacct" / "cpu.cfs_quota_us", "400000\n")
    assert environment._quota(other, own) == 4.0
    assert environment._quota(tmp_path, tmp_path / "absent") is None
