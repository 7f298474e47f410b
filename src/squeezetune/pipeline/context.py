"""The context of a run: settings, cache, threads, listener, pretrained weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeezetune.events import Listener
from squeezetune.finetune.recipe import Ending
from squeezetune.network.pretrained import Pretrained, load_pretrained
from squeezetune.planning.costs import Speeds
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import CheckpointFolder
from squeezetune.system.executor import Executor, ThreadExecutor, count_cores


@dataclass(frozen=True)
class RunContext:
    """Where and how the work is done; in `unfinished` the training of layers is kept, to be resumed
    after a kill.

    `cache` is None where nothing may be kept. `ending` says when the last step of a training of
    layers has to be done; no more than `micro_pixels` go through the network at once on a thread.
    Where several trainings share a budget, `run_ends` is when this one has to be over, and `speeds`
    were measured before.
    """

    settings: Settings
    cache: Path | None
    executor: Executor
    threads: int
    listen: Listener
    pretrained: Pretrained
    unfinished: CheckpointFolder | None = None
    is_resuming: bool = False
    ending: Ending | None = None
    micro_pixels: float = math.inf
    run_ends: float | None = None
    speeds: Speeds | None = None

    def identify_settings(self) -> dict[str, Any]:
        """Return the settings with the content of the pretrained weights in the place of their
        path.
        """
        return self.settings.to_dict() | {"weights": self.pretrained.sha256}


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
