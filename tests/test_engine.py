import sys
import threading
import time
from pathlib import Path

import pytest

from squeezetune import engine as engine_module
from squeezetune.engine import ThreadEngine, count_cores


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_results_come_in_the_order_of_the_items(threads):
    def work(number):
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(ThreadEngine(threads).map(work, range(40))) == [number * number for number in range(40)]


def test_no_items_give_no_results():
    assert list(ThreadEngine(2).map(str, [])) == []


def test_items_are_worked_on_at_once():
    barrier = threading.Barrier(3, timeout=10)
    assert list(ThreadEngine(3).map(lambda _: barrier.wait() >= 0, range(3))) == [True] * 3


def test_only_a_bounded_number_of_items_is_under_way():
    taken = []

    def give():
        for number in range(100):
            taken.append(number)
            yield number

    results = ThreadEngine(2).map(lambda number: number, give())
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

    results = ThreadEngine(1).map(work, range(1000))
    with pytest.raises(ValueError, match="bad item"):
        list(results)
    assert len(started) < 20


def test_a_caller_who_stops_listening_stops_the_work():
    before, started = threading.active_count(), []
    results = ThreadEngine(2).map(started.append, range(1000))
    next(results)
    results.close()
    assert len(started) <= 10
    assert threading.active_count() == before


def test_an_engine_counts_the_cores_itself(monkeypatch):
    monkeypatch.setattr(engine_module, "count_cores", lambda: 5)
    assert ThreadEngine().threads == 5


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which cores are siblings")
@pytest.mark.parametrize(("siblings", "cores"), [({0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, 2), ({0: "0"}, 1), ({}, 4)])
def test_two_threads_of_one_core_are_counted_once(monkeypatch, siblings, cores):
    def read(path):
        number = int(path.parts[5].removeprefix("cpu"))
        if number not in siblings:
            raise FileNotFoundError(path)
        return siblings[number]

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(siblings) or {0, 1, 2, 3})
    monkeypatch.setattr(Path, "read_text", read)
    assert count_cores() == cores


def test_there_is_at_least_one_core(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert count_cores() == 1
