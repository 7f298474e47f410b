"""The model in use, and the thread that puts a newer one in its place."""

import threading
from collections.abc import Callable
from pathlib import Path

from squeezetune.errors import SqueezeTuneError
from squeezetune.serving.models import ServedModel, mark_model, open_model

LOOK_EVERY_S = 1.0
# What became of another model in its place: it is in use, or was refused and why.
TellChange = Callable[[ServedModel, SqueezeTuneError | None], None]


class ModelSlot:
    """Holds the model in use; a request keeps the one that it began with.

    Within a `with` block its folder or file is looked at again and again. A new model is loaded and run beside the old
    one, and takes its place in one step; one that is damaged is told of once and changes nothing.

    Raises:
        ArtifactError: there is no model to begin with.

    """

    def __init__(self, place: Path, tell: TellChange, every_s: float = LOOK_EVERY_S, threads: int = 1) -> None:
        self._where, self._tell, self._every_s, self._threads = place, tell, every_s, threads
        self._seen = mark_model(place)
        self.model = open_model(place, threads)
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-model", daemon=True)

    def __enter__(self) -> "ModelSlot":
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_done.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Take the model that lies there if it is another one than when it was looked at last."""
        mark = mark_model(self._where)
        if mark == self._seen or None in mark:
            return
        outcome = _try_open(self._where, self._threads)
        if mark_model(self._where) != mark:
            return  # it has changed meanwhile, and is looked at again
        self._seen = mark
        if isinstance(outcome, SqueezeTuneError):
            self._tell(self.model, outcome)
        elif outcome.classifier.manifest != self.model.classifier.manifest:  # else the same files, copied once more
            self.model = outcome
            self._tell(outcome, None)


def _try_open(place: Path, threads: int) -> ServedModel | SqueezeTuneError:
    try:
        return open_model(place, threads)
    except SqueezeTuneError as error:
        return error
    except Exception as error:  # the old model must stay in use, whatever lies there
        return SqueezeTuneError(f"the model cannot be loaded: {error!r}")
