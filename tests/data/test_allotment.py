import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from squeezetune.data.reading import LARGE_FILE_BYTES, Allotment


class Meter:
    """Counts what is held at once."""

    def __init__(self):
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    def add(self, size):
        with self.lock:
            self.now += size
            self.most = max(self.most, self.now)


def run_threads(count, work):
    """Run work on some threads; it must come to an end."""
    threads = [threading.Thread(target=work, args=(at,), daemon=True) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


def test_no_more_is_held_at_once_than_there_is():
    allotment, meter = Allotment(100), Meter()

    def work(seed):
        rng = random.Random(seed)
        for _ in range(40):
            size = rng.choice([1, 10, 60, 100])
            with allotment.hold(size):
                meter.add(size)
                time.sleep(0.0002)
                meter.add(-size)

    run_threads(8, work)
    assert meter.now == 0
    assert 60 < meter.most <= 100


def test_whoever_came_first_has_it_first():
    allotment, order = Allotment(100), []

    def take(name, size):
        with allotment.hold(size):
            order.append(name)

    with ThreadPoolExecutor(3) as pool, allotment.hold(50):
        for name, size in (("large", 80), ("small", 10), ("smaller", 5)):
            pool.submit(take, name, size)
            time.sleep(0.05)
        assert order == []  # a stream of small ones does not keep a large one waiting for ever
    assert order[0] == "large"
    assert sorted(order) == ["large", "small", "smaller"]


def test_more_than_there_is_is_held_alone():
    allotment = Allotment(100)
    with allotment.hold(1000):
        pass
    with allotment.hold(100):
        pass


def test_large_files_and_what_decoding_them_takes_come_to_an_end():
    """A thread that holds a file goes before those that wait for more than is left beside it."""
    large = LARGE_FILE_BYTES + 1
    allotment, meter = Allotment(4 * large), Meter()

    def work(seed):
        rng = random.Random(seed)
        for _ in range(20):
            size, more = rng.choice([1000, large, 2 * large]), rng.choice([large, 2 * large])
            with allotment.hold_file(size), allotment.hold(more):
                taken = more + (size if size > LARGE_FILE_BYTES else 0)
                meter.add(taken)
                time.sleep(0.0002)
                meter.add(-taken)
            with allotment.hold(4 * large):
                pass

    run_threads(8, work)
    assert meter.most <= 4 * large


def test_an_error_gives_back_what_was_held():
    allotment = Allotment(LARGE_FILE_BYTES + 10)
    for hold in (allotment.hold, allotment.hold_file):
        with pytest.raises(KeyError), hold(LARGE_FILE_BYTES + 10):
            raise KeyError
    with allotment.hold_file(LARGE_FILE_BYTES + 5), allotment.hold(5):
        pass
