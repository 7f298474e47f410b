"""Every error that a user can meet.

::

    SqueezeTuneError            the root: catch this one
    ├── SettingsError           a setting is unknown or out of its limits          (exit 2)
    ├── DataError               the photos cannot be used as they are
    │   ├── SourceError         the folder is missing, unreadable or has no images
    │   ├── ClassesError        too few classes, or classes with too few images
    │   └── ImageError          one image cannot be read
    ├── WeightsError            the pretrained weights are damaged or foreign
    ├── ArtifactError           a model folder is damaged, foreign or newer than this program
    ├── OutputError             an output cannot be written, or another run writes to it
    ├── MemoryShortageError     the system gives no more memory
    ├── ExportError             an export cannot be had, or is worse than was asked for
    ├── CheckpointError         an unfinished run cannot be kept, or is not the one that is to go on
    └── MissingExtraError       an optional package is needed; the hint is the command for it

Every error says what was found and what was needed (`message`) and what to do about it (`hint`).
`code` is a stable name for scripts; `exit_status` is what the command line returns. Settings and
data that cannot be used are ValueErrors too, as scikit-learn's tools expect of an estimator.
"""

INSTALL_TORCH = (
    "Install it: pip install torch --index-url https://download.pytorch.org/whl/cpu, "
    "then pip install 'squeezetune[deep]'"
)


class SqueezeTuneError(Exception):
    """The root of all errors that SqueezeTune raises on purpose."""

    code = "error"
    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class SettingsError(SqueezeTuneError, ValueError):
    """A setting is unknown, of the wrong type or out of its limits."""

    code = "settings"
    exit_status = 2


class DataError(SqueezeTuneError, ValueError):
    """The photos cannot be used as they are."""

    code = "data"


class SourceError(DataError):
    """The source of the photos is missing, unreadable or holds no images."""

    code = "source"


class ClassesError(DataError):
    """There are too few classes, or classes with too few images to split."""

    code = "classes"


class ImageError(DataError):
    """One image cannot be read; runs over many images skip it and name it."""

    code = "image"


class WeightsError(SqueezeTuneError):
    """The pretrained weights are damaged or are not those of the network."""

    code = "weights"


class ArtifactError(SqueezeTuneError):
    """A model folder is damaged, foreign, or written by a newer SqueezeTune."""

    code = "artifact"


class OutputError(SqueezeTuneError):
    """An output cannot be written or printed, or another run is writing to it."""

    code = "output"


class MemoryShortageError(SqueezeTuneError):
    """The system gives no more memory."""

    code = "memory"


class ExportError(SqueezeTuneError):
    """An export cannot be had, cannot be run by its own runtime, or is worse than was asked for."""

    code = "export"


class CheckpointError(SqueezeTuneError):
    """The state of an unfinished run cannot be saved or read, or it is that of another run."""

    code = "checkpoint"


class MissingExtraError(SqueezeTuneError):
    """An optional package is not installed."""

    code = "missing-extra"
