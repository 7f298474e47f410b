"""What this computer is, what is installed on it, and how much memory the process has taken."""

import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# What Linux calls bfloat16 on x86 and on Arm.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
LIBRARIES = ("numpy", "Pillow", "onnx", "onnxruntime", "openvino", "scipy")


def measure_peak_memory() -> float | None:
    """Return the largest memory of this process so far in MB; None where the system does not tell."""
    if sys.platform == "win32":
        import psutil  # not needed on Linux, and not installed there

        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    # first what Linux says of this process alone: its ru_maxrss is inherited from a larger one that started it
    own = [int(line.split()[1]) for line in _read_lines("/proc/self/status") if line.startswith("VmHWM:")]
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
    """Name the installed version of each library, of those that the results depend on unless others are named."""
    from importlib import metadata  # brings 48 modules along, among them those of e-mail: predictions do without

    installed = {}
    for name in names:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def name_processor() -> str:
    """Return the processor's model name where the system tells it, else its architecture."""
    names = (line.split(":", 1)[1].strip() for line in _read_lines("/proc/cpuinfo") if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def has_bfloat16() -> bool:
    """Say whether the processor computes in bfloat16, as far as Linux tells; elsewhere no."""
    lines = [line for line in _read_lines("/proc/cpuinfo") if line.startswith(("flags", "Features"))]
    return any(not BFLOAT16_FLAGS.isdisjoint(line.split()) for line in lines)


def is_running(process: int) -> bool:
    """Say whether a process of this number runs on this computer; Windows does not tell without harm, so yes there."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)  # asks, and sends nothing
    except ProcessLookupError:
        return False
    except OSError:  # it is someone else's
        return True
    return True
