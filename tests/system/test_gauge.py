import mmap
import sys
import threading
from types import SimpleNamespace

import pytest

from squeezetune.system import monitor as module
from squeezetune.system.monitor import START, MemoryMonitor, measure_held_memory, release_memory

TAKEN = 64 * 2**20
needs_linux = pytest.mark.skipif(
    measure_held_memory() is None, reason="only Linux tells what memory is used for"
)


def take(size=TAKEN):
    """Take memory straight from the system, every page of it, and give it back when it goes."""
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, size, mmap.PAGESIZE):
        pages[at] = 1
    return pages


@needs_linux
def test_what_is_taken_is_held_until_it_is_given_back():
    before = measure_held_memory()
    with take():
        assert measure_held_memory() - before > 0.9 * TAKEN
    assert measure_held_memory() - before < 0.5 * TAKEN


@needs_linux
def test_mapped_files_are_not_held(tmp_path):
    (tmp_path / "file").write_bytes(bytes(TAKEN))
    before = measure_held_memory()
    with (tmp_path / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        for at in range(0, TAKEN, mmap.PAGESIZE):
            pages[at] = 1
        assert measure_held_memory() - before < 0.5 * TAKEN


def test_another_system_is_asked_by_psutil(monkeypatch, tmp_path):
    pytest.importorskip("psutil", reason="Linux needs no psutil; the tests of other systems do")
    monkeypatch.setattr(module, "STATUS", tmp_path / "there is no proc")
    before = measure_held_memory()
    with take():
        assert measure_held_memory() - before > 0.9 * TAKEN
    assert measure_held_memory() - before < 0.5 * TAKEN
    with MemoryMonitor() as gauge:
        gauge.enter("large")
        with take():
            threading.Event().wait(5 * module.LOOK_EVERY_S)
    assert gauge.peaks["large"] - gauge.peaks[START] > 0.9 * TAKEN


@pytest.mark.parametrize(("platform", "held"), [("win32", 11), ("darwin", 7)])
def test_what_a_system_calls_held_is_known(monkeypatch, tmp_path, platform, held):
    process = SimpleNamespace(
        memory_info=lambda: SimpleNamespace(private=11),
        memory_full_info=lambda: SimpleNamespace(uss=7),
    )
    monkeypatch.setattr(module, "STATUS", tmp_path / "there is no proc")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    assert measure_held_memory() == held


def test_without_psutil_a_system_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "STATUS", tmp_path / "there is no proc")
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert measure_held_memory() is None
    with MemoryMonitor() as gauge:
        assert gauge.peak is None


@needs_linux
def test_the_peak_of_each_stage_is_noted():
    with MemoryMonitor() as gauge:
        gauge.enter("large")
        with take():
            threading.Event().wait(5 * module.LOOK_EVERY_S)
        gauge.enter("small")
    assert list(gauge.peaks) == [START, "large", "small"]
    assert gauge.peaks["large"] - gauge.peaks[START] > 0.9 * TAKEN
    assert gauge.peaks["large"] - gauge.peaks["small"] > 0.5 * TAKEN
    assert gauge.peak == gauge.peaks["large"]


def hear_releases(monkeypatch, ceiling, size, pause_s=0.0):
    """Hold so much for a while under a ceiling; say how often free memory was given back."""
    releases = []
    monkeypatch.setattr(module, "release_memory", lambda: releases.append(1))
    monkeypatch.setattr(module, "RELEASED_EVERY_S", pause_s)
    with MemoryMonitor(ceiling), take(size):
        threading.Event().wait(20 * module.LOOK_EVERY_S)
    return len(releases)


@pytest.mark.slow
@needs_linux
def test_close_to_the_ceiling_free_memory_is_given_back_now_and_then(monkeypatch):
    held = measure_held_memory()
    assert hear_releases(monkeypatch, held + TAKEN, TAKEN) > 1
    assert hear_releases(monkeypatch, held + TAKEN, TAKEN, pause_s=60.0) == 1
    assert hear_releases(monkeypatch, 2 * held + 2 * TAKEN, TAKEN) == 0
    assert hear_releases(monkeypatch, None, TAKEN) == 0


def test_nobody_watches_after_the_block():
    before = threading.active_count()
    with MemoryMonitor():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_where_the_system_does_not_tell_nothing_is_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "STATUS", tmp_path / "no such file")
    monkeypatch.setitem(sys.modules, "psutil", None)
    with MemoryMonitor() as gauge:
        gauge.enter("a stage")
    assert gauge.peaks == {}
    assert gauge.peak is None


def test_memory_is_given_back_on_any_system(monkeypatch):
    release_memory()
    monkeypatch.setattr(
        module.ctypes, "CDLL", lambda _: object()
    )  # a C library without malloc_trim
    release_memory()
