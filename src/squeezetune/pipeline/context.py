"""The context of a run: settings, cache, threads, listener, pretrained weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeezetune.data.index import ImageIndex
from squeezetune.events import Listener
from squeezetune.network.pretrained import Pretrained, load_pretrained
from squeezetune.settings import Settings
from squeezetune.system.executor import Executor, ThreadExecutor, count_cores


@dataclass(frozen=True)
class RunContext:
    """Where and how the work is done, from its beginning to its end.

    `cache` is None where nothing may be kept. No more than `micro_pixels` go through the network at
    once on a thread that trains.
    """

    settings: Settings
    cache: Path | None
    executor: Executor
    threads: int
    listen: Listener
    pretrained: Pretrained
    micro_pixels: float = math.inf

    def identify_run(self, index: ImageIndex) -> dict[str, Any]:
        """Name what any training depends on, so that an unfinished run goes on with the same only:
        pretrained weights go by their content, not by their path.
        """
        settings = self.settings.to_dict() | {"weights": self.pretrained.sha256}
        return {"photos": index.fingerprint, "settings": settings, "threads": self.threads}


def open_context(
    settings: Settings, cache: Path | None, listen: Listener, executor: Executor | None = None
) -> RunContext:
    """Load the pretrained weights and count the threads, as the settings say.

    Raises:
        WeightsError: the pretrained weights cannot be used.

    """
    threads = settings.threads or count_cores()
    pretrained = load_pretrained(settings.weights, cache, listen)
    return RunContext(
        settings, cache, executor or ThreadExecutor(threads), threads, listen, pretrained
    )
