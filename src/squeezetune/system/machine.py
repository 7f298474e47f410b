"""What this computer is, what is installed on it, and what timings have chosen here.

A second timing may order two close alternatives the other way round.
"""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from squeezetune.system.disk import read_sealed, write_sealed

# What Linux calls bfloat16 on x86 and on Arm.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
LIBRARIES = ("numpy", "Pillow", "onnx", "onnxruntime", "openvino", "scipy")


def measure_peak_memory() -> float | None:
    """Return the largest memory of this process so far in MB; None where the system does not
    tell.
    """
    if sys.platform == "win32":
        import psutil  # not needed on Linux, and not installed there

        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    # first what Linux says of this process alone: its ru_maxrss is inherited from a larger one that
    # started it
    own = [
        int(line.split()[1])
        for line in _read_lines("/proc/self/status")
        if line.startswith("VmHWM:")
    ]
    if own:
        return round(own[0] / 2**10, 1)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10, 1)


def _read_lines(path: str) -> list[str]:
    """Read what the kernel tells in a file; nothing where it tells nothing."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def name_version() -> str:
    """Return the version of this program."""
    return list_libraries(["squeezetune"])["squeezetune"]


def describe_machine() -> dict[str, Any]:
    """Name the processor, the system and the versions of the libraries."""
    return {
        "processor": name_processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": list_libraries(),
    }


def list_libraries(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Name the installed version of each library, of those that the results depend on unless others
    are named.
    """
    versions = {name: find_version(name) for name in names}
    return {name: version for name, version in versions.items() if version}


@cache
def find_version(library: str) -> str | None:
    """Find the installed version of a library; none where it is not installed."""
    from importlib import (
        metadata,  # brings 48 modules along, among them those of e-mail: predictions do without
    )

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def name_processor() -> str:
    """Return the processor's model name where the system tells it, else its architecture."""
    names = (
        line.split(":", 1)[1].strip()
        for line in _read_lines("/proc/cpuinfo")
        if line.startswith("model name")
    )
    return next(names, "") or platform.processor() or platform.machine()


def has_bfloat16() -> bool:
    """Say whether the processor computes in bfloat16, as far as Linux tells; elsewhere no."""
    lines = [
        line for line in _read_lines("/proc/cpuinfo") if line.startswith(("flags", "Features"))
    ]
    return any(not BFLOAT16_FLAGS.isdisjoint(line.split()) for line in lines)


def is_running(process: int) -> bool:
    """Say whether a process of this number runs on this computer; Windows does not tell without
    harm, so yes there.
    """
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's
        return True
    return True


CHOSEN = "runtime"


def recall_choice(
    cache: Path | None,
    circumstances: Sequence[Any],
    names: Sequence[str],
    choose: Callable[[], str],
) -> str:
    """Take the name that an earlier run on this machine chose under the same circumstances, or
    choose now and keep it.

    `circumstances` are plain values for JSON; the processor is one of them anyway.
    """
    content = json.dumps([platform.machine(), name_processor(), *circumstances]).encode()
    path = cache and cache / "runtimes" / f"{hash_bytes(content)}.sealed"
    known = read_json(path).get(CHOSEN)
    if known in names:
        return str(known)
    chosen = choose()
    write_json(path, {CHOSEN: chosen})
    return chosen


def hash_bytes(payload: bytes) -> str:
    """Name bytes by a digest of theirs."""
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def read_json(path: Path | None) -> dict[str, Any]:
    """Read plain values from a sealed file; nothing where it is missing or damaged."""
    content = read_sealed(path) if path else None
    return dict(json.loads(content)) if content else {}


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Seal plain values in a file if that can be done: a full disk costs what would have been kept,
    not the run.
    """
    if path:
        with suppress(OSError):
            write_sealed(path, json.dumps(content, indent=1).encode())
