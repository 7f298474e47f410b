import doctest
import signal
import subprocess
import sys
import threading

import pytest

from squeezetune.events import Notice, ignore_event
from squeezetune.system import checkpoint
from squeezetune.system import interrupts as interruption
from squeezetune.system.interrupts import DEFAULTS, STOPPING, catch_interrupts

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def defaults():
    """Begin with the handlers that Python begins with, and end with those that there were."""
    former = {number: signal.signal(number, default) for number, default in DEFAULTS.items()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def read_handlers():
    return {number: signal.getsignal(number) for number in DEFAULTS}


# ---- one stop


@BOTH
def test_the_first_signal_requests_a_stop_and_is_told_once(number):
    said = []
    with catch_interrupts(said.append) as caught:
        assert not caught.is_requested
        assert not caught.poll()
        signal.raise_signal(number)
        assert caught.is_requested
        assert said == []
        assert caught.poll()
        assert caught.poll()
    assert said == [Notice(STOPPING)]


@BOTH
def test_ctrl_c_after_a_request_stops_at_once(number):
    with catch_interrupts(ignore_event):
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert read_handlers() == DEFAULTS


def test_sigterm_stays_a_request_however_often_it_comes():
    with catch_interrupts(ignore_event) as caught:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
    assert caught.poll()


def test_a_signal_while_the_listener_holds_its_lock_does_no_harm():
    lock, said = threading.Lock(), []  # as the lock of a progress bar, but one that would hang

    def listen(event):
        with lock:
            said.append(event)

    with catch_interrupts(listen) as caught:
        with lock:
            signal.raise_signal(signal.SIGINT)
        assert caught.poll()
    assert said == [Notice(STOPPING)]


# ---- handlers


def test_the_former_handlers_come_back():
    with catch_interrupts(ignore_event) as caught:
        assert set(read_handlers().values()) == {caught}
    assert read_handlers() == DEFAULTS


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_the_former_handlers_come_back_after_an_error(error):
    with pytest.raises(error), catch_interrupts(ignore_event):
        raise error
    assert read_handlers() == DEFAULTS


@BOTH
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_signal_that_is_ignored_or_handled_by_others_is_left_to_them(number, handler):
    signal.signal(number, handler)
    with catch_interrupts(ignore_event) as caught:
        assert signal.getsignal(number) is handler or signal.getsignal(number) == handler
        signal.raise_signal(number)
        assert not caught.poll()
        [other] = DEFAULTS.keys() - {number}
        assert signal.getsignal(other) is caught
    assert signal.getsignal(number) == handler


def test_one_ctrl_c_stops_nested_blocks():
    said = []
    with catch_interrupts(said.append) as outer:
        with catch_interrupts(pytest.fail) as inner:
            signal.raise_signal(signal.SIGINT)
            assert inner.poll()
        assert signal.getsignal(signal.SIGINT) is outer
        assert outer.poll()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert said == [Notice(STOPPING)]
    assert read_handlers() == DEFAULTS


def test_blocks_one_after_another_begin_anew():
    for _ in range(2):
        with catch_interrupts(ignore_event) as caught:
            assert not caught.poll()
            signal.raise_signal(signal.SIGINT)
            assert caught.poll()


def test_another_thread_changes_nothing():
    def work():
        with catch_interrupts(ignore_event) as caught:
            outcomes.append((caught.poll(), read_handlers()))

    outcomes = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcomes == [(False, DEFAULTS)]


@pytest.mark.parametrize("error", [ValueError, OSError])
def test_a_system_that_sets_no_handlers_changes_nothing(monkeypatch, error):
    def refuse(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(signal, "signal", refuse)
        with catch_interrupts(ignore_event) as caught:
            assert not caught.poll()
    assert read_handlers() == DEFAULTS


# ---- real signals

TRAINS = """
import time
from squeezetune.cli.console import ProgressListener
from squeezetune.events import StageStarted
from squeezetune.system.interrupts import catch_interrupts

with ProgressListener() as listen:
    listen(StageStarted("last blocks", 100, "%"))
    with catch_interrupts(listen) as interruption:
        print("ready", flush=True)
        for step in range(4000):
            time.sleep(0.005)
            if interruption.poll():
                print("polled", flush=True)
                if WAITS:
                    time.sleep(20)
                break
print("finished", flush=True)
"""


def start_training(waits):
    command = [sys.executable, "-c", f"WAITS = {waits}\n{TRAINS}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


POSIX = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows sends signals to whole consoles only"
)


@POSIX
@BOTH
def test_a_real_signal_ends_the_loop_and_the_run_finishes(number):
    with start_training(waits=False) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        said, told = process.communicate(timeout=30)
    assert said == "polled\nfinished\n"
    assert " ".join(told.split()).count(STOPPING) == 1
    assert process.returncode == 0


@POSIX
def test_a_second_real_ctrl_c_ends_the_run_at_once():
    with start_training(waits=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "polled\n"
        process.send_signal(signal.SIGINT)
        said, told = process.communicate(timeout=15)
    assert said == ""
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("module", [interruption, checkpoint])
def test_the_examples_are_right(module):
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed
