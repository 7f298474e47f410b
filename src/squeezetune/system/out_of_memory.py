"""Memory that the system refuses, in words: libraries tell of it in ways of their own, or hang.

It stands apart since it is asked before any library is loaded.
"""

import errno
import sys

from squeezetune.errors import MemoryShortageError

# With less address space the linear algebra that numpy and scipy bring stops, or waits for ever, as
# it is loaded; what only looks at photos loads less of it.
LEAST_BYTES, LEAST_LIGHT_BYTES = 800_000_000, 400_000_000
LIGHT = ("predict", "info", "data")
# What ONNX Runtime, OpenVINO, torch, numpy and the dynamic linker say.
SIGNS = (
    "failed to allocate memory",
    "unable to allocate",
    "bad_alloc",
    "bad allocation",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
)
HINT = (
    "Close other programs, allow the process more (ulimit -v), or let it take less: --threads 1, "
    "--max-ram, --effort quick."
)


def check_limit(command: str) -> None:
    """Make sure that the process may have as much memory as loading the libraries of a command
    takes.

    Raises:
        MemoryShortageError: a limit was set that is too low.

    """
    if sys.platform == "win32":
        return
    import resource  # not on Windows

    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    least = LEAST_LIGHT_BYTES if command in LIGHT else LEAST_BYTES
    if allowed != resource.RLIM_INFINITY and allowed < least:
        raise MemoryShortageError(
            f"there is not enough memory: this process may have {allowed / 1e6:,.0f} MB (ulimit "
            f"-v), and {least / 1e6:,.0f} MB are the least",
            HINT,
        )


def explain_shortage(error: Exception) -> MemoryShortageError | None:
    """Explain an exception that tells of missing memory; None for any other."""
    words = str(error)
    is_short = (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(sign in words.lower() for sign in SIGNS)
    )
    if not is_short:
        return None
    found = next(
        (line.strip() for line in words.splitlines() if line.strip()), type(error).__name__
    )
    return MemoryShortageError(f"there is not enough memory: {found[-200:]}", HINT)
