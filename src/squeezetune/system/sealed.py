"""Small files of the cache whose content is bound to their name by a checksum.

The first line is a BLAKE2b checksum in hex, of the names of file and folder and of the content that
follows. What is damaged, or was written for another name, is as if it were not there: it is
measured anew.
"""

import hashlib
from pathlib import Path

from squeezetune.system.disk import write_file


def read_sealed(path: Path) -> bytes | None:
    """Read what was kept under this name; None where there is nothing, or nothing whole."""
    try:
        seal, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if seal == _seal(path, content) else None


def write_sealed(path: Path, content: bytes) -> None:
    """Keep content under this name.

    Raises:
        OSError: it cannot be written.
    """
    write_file(path, _seal(path, content), b"\n", content)


def _seal(path: Path, content: bytes) -> bytes:
    name = "/".join(path.absolute().parts[-2:]).encode(errors="surrogatepass")
    return hashlib.blake2b(b"\0".join((name, content)), digest_size=16).hexdigest().encode()
