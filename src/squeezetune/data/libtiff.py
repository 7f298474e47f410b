"""The library behind Pillow's TIFF, told to keep its words for itself.

It writes a line to the standard error of the process for each damaged file, past Python and its streams.
"""

import ctypes
import sys
from pathlib import Path

import PIL

# Where Pillow's wheels keep it, from the package's folder; elsewhere the system's own is used.
PLACES = ("../pillow.libs/libtiff*.so*", ".dylibs/libtiff*.dylib")
SYSTEM_NAMES = {"linux": ("libtiff.so.6", "libtiff.so.5"), "darwin": ("libtiff.6.dylib", "libtiff.5.dylib")}
SETTERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def silence_libtiff() -> None:
    """Take the handlers away that write; where the library is not found, or is part of another, it goes on writing.

    What was wrong with an image is told by Pillow's exception all the same.
    """
    for name in _list_candidates():
        try:
            library = ctypes.CDLL(name)  # the one that Pillow has loaded already
            for setter in SETTERS:
                handler = getattr(library, setter)
                handler.restype, handler.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
                handler(None)
        except (OSError, AttributeError):
            continue
        return


def _list_candidates() -> list[str]:
    package = Path(PIL.__file__).parent
    bundled = [str(path.resolve()) for place in PLACES for path in sorted(package.glob(place))]
    return bundled or list(SYSTEM_NAMES.get(sys.platform, ()))
