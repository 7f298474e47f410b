import errno
import resource
import subprocess
import sys

import pytest

from squeezetune.errors import MemoryShortageError, SqueezeTuneError
from squeezetune.system.out_of_memory import check_limit, explain_shortage


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 12.0 MiB for an array"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError(
            "[ONNXRuntimeError] : 1 : FAIL : ...\n Failed to allocate memory for requested buffer "
            "of size 3097600"
        ),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_missing_memory_is_told_in_one_line(error):
    explained = explain_shortage(error)
    assert explained.message.startswith("there is not enough memory: ")
    assert "\n" not in explained.message
    assert "--max-ram" in explained.hint


@pytest.mark.parametrize(
    "error",
    [ValueError("4 is no number"), OSError(errno.ENOSPC, "No space left"), RuntimeError("")],
)
def test_other_errors_are_not_taken_for_it(error):
    assert explain_shortage(error) is None


def test_a_limit_that_is_too_low_is_refused_before_a_library_hangs(monkeypatch):
    check_limit("train")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (450_000_000, -1))
    with pytest.raises(MemoryShortageError, match=r"may have 450 MB .* 800 MB are the least"):
        check_limit("train")
    check_limit("predict")


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux holds a process to its address space"
)
@pytest.mark.parametrize("kilobytes", [200_000, 450_000, 650_000])
def test_little_memory_ends_in_words(shape_folder, tmp_path, kilobytes):
    command = (
        f"ulimit -v {kilobytes} && exec {sys.executable} -m squeezetune train "
        f"{shape_folder} -q -o {tmp_path / 'model'}"
    )
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=180, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == SqueezeTuneError.exit_status
    assert "there is not enough memory" in done.stderr
    assert not list(tmp_path.iterdir())
