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
from squeezetune.store import write_file

CHOSEN = "runtime"


def recall_choice(
    cache: Path | None, circumstances: Sequence[Any], names: Sequence[str], choose: Callable[[], str]
) -> str:
    """Take the name that an earlier run on this machine chose under the same circumstances, or choose now and keep it.

    `circumstances` are plain values for JSON; the processor is one of them anyway.
    """
    content = json.dumps([platform.machine(), name_processor(), *circumstances]).encode()
    path = cache and cache / "runtimes" / f"{hash_bytes(content)}.json"
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
    """Read plain values from a file; nothing where it is missing or damaged."""
    try:
        content = json.loads(path.read_text()) if path else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write plain values to a file if that can be done: a full disk costs what would have been kept, not the run."""
    if path:
        with suppress(OSError):
            write_file(path, json.dumps(content, indent=1).encode())
