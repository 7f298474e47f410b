import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from squeezetune.system import executor as engine_module
from squeezetune.system.executor import ThreadExecutor, count_cores, read_quota


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_the_order_of_the_items(threads):
    def work(number):
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(ThreadExecutor(threads).map(work, range(40))) == [
        number * number for number in range(40)
    ]


def test_no_items_give_no_results():
    assert list(ThreadExecutor(2).map(str, [])) == []


def test_items_are_worked_on_at_once():
    barrier = threading.Barrier(3, timeout=10)
    assert list(ThreadExecutor(3).map(lambda _: barrier.wait() >= 0, range(3))) == [True] * 3


def test_only_a_bounded_number_of_items_is_under_way():
    taken = []

    def give():
        for number in range(100):
            taken.append(number)
            yield number

    results = ThreadExecutor(2).map(lambda number: number, give())
    for count in range(1, 50):
        next(results)
        assert len(taken) <= count + 4 * 2
    results.close()


def test_an_error_reaches_the_caller_and_stops_the_rest():
    started = []

    def work(number):
        started.append(number)
        if number == 3:
            raise ValueError("bad item")
        time.sleep(0.001)
        return number

    results = ThreadExecutor(1).map(work, range(1000))
    with pytest.raises(ValueError, match="bad item"):
        list(results)
    assert len(started) < 20


def test_a_caller_who_stops_listening_stops_the_work():
    before, started = threading.active_count(), []
    results = ThreadExecutor(2).map(started.append, range(1000))
    next(results)
    results.close()
    assert len(started) <= 10
    assert threading.active_count() == before


def test_an_engine_counts_the_cores_itself(monkeypatch):
    monkeypatch.setattr(engine_module, "count_cores", lambda: 5)
    assert ThreadExecutor().threads == 5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which cores are siblings")
@pytest.mark.parametrize(
    ("siblings", "cores"), [({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, 2), ({0: "0"}, 1), ({}, 4)]
)
def test_two_threads_of_one_core_are_counted_once(monkeypatch, siblings, cores):
    def read(path):
        number = int(path.parts[5].removeprefix("cpu"))
        if number not in siblings:
            raise FileNotFoundError(path)
        return siblings[number]

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(siblings) or {0, 1, 2, 3})
    monkeypatch.setattr(engine_module, "read_quota", lambda: 64.0)
    monkeypatch.setattr(Path, "read_text", read)
    assert count_cores() == cores


# What the kernel says of a process's control groups, and how many processors' time that is.
GROUPS = {
    "version 2, in a container": (
        {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"},
        1.5,
    ),
    "version 2, a slice with a limit above": (
        {
            "proc/self/cgroup": "0::/user.slice/job.scope\n",
            "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/user.slice/job.scope/cpu.max": "max 100000\n",
        },
        2.0,
    ),
    "version 1, in a container": (
        {
            "proc/self/cgroup": "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n"
            "1:cpuset:/docker/1f\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        0.5,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "no limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_a_quota_is_the_least_on_the_way_up(name, tmp_path):
    files, quota = GROUPS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert read_quota(tmp_path) == (quota or engine_module.UNLIMITED)


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.5, 2), (2.0, 2), (64.0, 4)])
def test_no_more_cores_are_used_than_the_quota_is_worth(monkeypatch, quota, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(engine_module, "_read_siblings", lambda _: "")
    monkeypatch.setattr(engine_module, "read_quota", lambda: quota)
    assert count_cores() == cores


def test_another_system_is_asked_for_its_physical_cores(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setitem(
        sys.modules, "psutil", SimpleNamespace(cpu_count=lambda logical: 8 if logical else 4)
    )
    assert count_cores() == 4


@pytest.mark.parametrize(("processors", "cores"), [(None, 1), (6, 6)])
def test_there_is_at_least_one_core(monkeypatch, processors, cores):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    assert count_cores() == cores
