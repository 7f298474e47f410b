"""What a timing has chosen on this machine, remembered, so that a run that is repeated chooses the same.

A second timing may order two close alternatives the other way round.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from squeezetune.machine import name_processor
from squeezetune.sealed import read_sealed, write_sealed

CHOSEN = "runtime"


def recall_choice(
    cache: Path | None, circumstances: Sequence[Any], names: Sequence[str], choose: Callable[[], str]
) -> str:
    """Take the name that an earlier run on this machine chose under the same circumstances, or choose now and keep it.

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
    """Seal plain values in a file if that can be done: a full disk costs what would have been kept, not the run."""
    if path:
        with suppress(OSError):
            write_sealed(path, json.dumps(content, indent=1).encode())
