import importlib.metadata
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from squeezetune.system import machine
from squeezetune.system.machine import (
    describe_machine,
    has_bfloat16,
    list_libraries,
    measure_peak_memory,
    name_processor,
    name_version,
)


def test_the_version_is_that_of_the_installed_package():
    assert name_version() == importlib.metadata.version("squeezetune")


def test_installed_libraries_are_named_with_their_version():
    assert list_libraries(["numpy", "no-such-library"]) == {"numpy": np.__version__}
    assert {"numpy", "onnxruntime"} <= set(list_libraries())


def test_the_machine_is_described_in_plain_values():
    found = describe_machine()
    assert found["cores"] >= 1
    assert found["python"] == platform.python_version()
    assert found["processor"]
    assert "onnxruntime" in found["packages"]


TAKE = """
from squeezetune.system.machine import measure_peak_memory
print(measure_peak_memory())
taken = b"x" * (100 * 2**20)
print(measure_peak_memory())
"""


def test_peak_memory_grows_with_what_is_taken():
    before, after = subprocess.run(
        [sys.executable, "-c", TAKE], capture_output=True, check=True
    ).stdout.split()
    assert 90 < float(after) - float(before) < 130


def test_windows_is_asked_for_its_peak_memory(monkeypatch):
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=300 * 2**20))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    assert measure_peak_memory() == 300


def test_the_processor_has_its_model_name(monkeypatch):
    monkeypatch.setattr(
        Path, "read_text", lambda _: "processor : 0\nmodel name\t: Some CPU @ 2 GHz\n"
    )
    assert name_processor() == "Some CPU @ 2 GHz"


def test_a_processor_that_is_not_told_has_its_architecture(monkeypatch):
    def fail(_):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fail)
    assert re.fullmatch(r"\S.*", name_processor())


@pytest.mark.parametrize(("line", "is_there"), [
    ("flags\t\t: fpu avx512f avx512_bf16 amx_tile", True), ("flags\t\t: fpu amx_bf16", True),
    ("Features\t: fp asimd bf16 i8mm", True), ("flags\t\t: fpu avx512f", False),
    ("model name\t: bf16", False), ("", False),
])  # fmt: skip
def test_bfloat16_is_found_among_what_the_processor_can(line, is_there, monkeypatch):
    monkeypatch.setattr(machine, "_read_lines", lambda _: ["processor\t: 0", line])
    assert has_bfloat16() is is_there
