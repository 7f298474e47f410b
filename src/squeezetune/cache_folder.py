"""The folder for what is kept between runs."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryFile

from squeezetune.events import Listener, Notice

# What the user must be allowed in it.
USABLE = os.R_OK | os.W_OK | os.X_OK


def find_cache_folder() -> Path:
    """Return the folder for caches: $SQUEEZETUNE_CACHE, or the usual place of this system."""
    if own := os.environ.get("SQUEEZETUNE_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "squeezetune"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "squeezetune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "squeezetune"


def open_cache(listen: Listener) -> Path | None:
    """Return the folder for caches if it can be used; else say why it cannot, and that the work goes on without."""
    folder: Path | str = "the home folder"
    try:
        folder = find_cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        # such as those that were made by another user, or by root
        closed = [str(path) for path in (*folder.glob("*/"), *folder.glob("*/*/")) if not os.access(path, USABLE)]
        if not closed:
            return folder
        reason = f"{closed[0]} may not be written to"
    except OSError as error:
        reason = error.strerror or str(error)
    except RuntimeError as error:  # nobody's home is known
        reason = str(error)
    listen(Notice(f"the cache in {folder} cannot be used, so nothing is kept for the next time: {reason}"))
    return None
