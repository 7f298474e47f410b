"""The context of a run: settings, cache, threads, listener, pretrained weights; and what somebody
asks for: which photos, which settings, which folder.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from squeezetune.data.index import ImageIndex
from squeezetune.data.inputs import PhotoInput, Photos, parse_input
from squeezetune.data.sources.catalog import group_photos
from squeezetune.data.sources.folder import check_outside
from squeezetune.events import Listener, Notice
from squeezetune.network.architecture import NetworkLayout
from squeezetune.network.backbone import Backbone, PretrainedNetwork
from squeezetune.network.foreign_backbone import keep_module, load_foreign
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.frozen_classifier import Teaching
from squeezetune.network.pretrained import load_pretrained
from squeezetune.planning.speeds import BenchmarkSetup
from squeezetune.settings import AUTO, LAYERS_NEED_TORCH, Settings, parse_settings
from squeezetune.system.executor import Executor, ThreadExecutor, count_cores
from squeezetune.system.output_lock import follow_link


@dataclass(frozen=True)
class RunContext:
    """Where and how the work is done, from its beginning to its end.

    `cache` is None where nothing may be kept. No more than `micro_pixels` go through the network at
    once on a thread that trains. Where there is a `teaching`, trained layers learn from that
    instead of the labels.
    """

    settings: Settings
    cache: Path | None
    executor: Executor
    threads: int
    listen: Listener
    pretrained: PretrainedNetwork
    micro_pixels: float = math.inf
    teaching: Teaching | None = None

    def identify_run(self, index: ImageIndex) -> dict[str, Any]:
        """Name what any training depends on, so that an unfinished run goes on with the same only:
        pretrained weights go by their content, not by their path or by how they were asked for.
        """
        is_open = self.settings.is_backbone_open
        weights = {"backbone": "", "weights": AUTO if is_open else self.pretrained.sha256}
        settings = self.settings.to_dict() | weights
        return {"photos": index.fingerprint, "settings": settings, "threads": self.threads}

    @property
    def layout(self) -> NetworkLayout:
        """How the network is divided into blocks; of a graph, whose last blocks are trained from
        images, all before them stay as they are.
        """
        network, settings = self.pretrained, self.settings
        if isinstance(network, ForeignNetwork) and settings.layers == "last":
            return network.layout.keep_last(settings.last_blocks)
        return network.layout

    def begin_with(self, backbone: str) -> "RunContext":
        """Begin with another pretrained network, by its name, which is open no more."""
        pretrained = load_pretrained("", self.cache, self.listen, backbone=backbone)
        settings = name_backbone(self.settings, backbone)
        return replace(self, settings=settings, pretrained=pretrained.without_classifier())

    def make_site(self, index: ImageIndex, backbone: Backbone) -> BenchmarkSetup:
        """Say what is measured on, where this machine is."""
        network = self.pretrained
        return BenchmarkSetup(
            index,
            backbone,
            network,
            self.layout,
            self.threads,
            self.cache,
            self.micro_pixels,
            self.teaching,
        )


def name_backbone(settings: Settings, backbone: str) -> Settings:
    """Name the network that was open: there is no more to choose, by the size of a file or else."""
    return replace(settings, backbone=backbone, max_model_size="")


def parse_request(
    photos: Photos,
    settings: Settings | None,
    knobs: Mapping[str, Any],
    listen: Listener,
    **reading: str,
) -> tuple[PhotoInput, Settings]:
    """Read what somebody wants done: with which photos, and with settings that may also be given
    one by one; `reading` says how classes and columns are read.

    Raises:
        SettingsError: the settings do not fit together or the photos.
        DataError: the photos cannot be used.

    """
    values = (settings.to_dict() if settings else {}) | dict(knobs)
    settings = parse_settings(keep_module(values))
    origin = parse_input(photos, **reading)
    return origin, group_photos(origin.photos, settings, listen)


def name_output(
    origin: PhotoInput, output: str | os.PathLike[str] | None, ending: str, called: str
) -> Path:
    """Say where the result goes: `<name of the photos>-<ending>`, unless somebody names a folder.

    Raises:
        SettingsError: it is among the photos.

    """
    target = follow_link(Path(output or f"{origin.name}-{ending}"))
    if isinstance(origin.photos, Path):
        check_outside(target, origin.photos, called, "give another folder with --output")
    return target


def open_context(
    settings: Settings, cache: Path | None, listen: Listener, executor: Executor | None = None
) -> RunContext:
    """Load the pretrained weights and count the threads, as the settings say.

    Raises:
        WeightsError: the pretrained weights cannot be used.

    """
    threads = settings.threads or count_cores()
    pretrained = load_network(settings, cache, listen)
    return RunContext(
        settings, cache, executor or ThreadExecutor(threads), threads, listen, pretrained
    )


def load_network(settings: Settings, cache: Path | None, listen: Listener) -> PretrainedNetwork:
    """Load the pretrained network that the settings name: a known one's weights, or a file of
    somebody else.

    Raises:
        WeightsError: it cannot be used.

    """
    if settings.has_foreign_backbone:
        network = load_foreign(settings, cache, listen)
        if settings.layers in LAYERS_NEED_TORCH and find_spec("torch"):
            from squeezetune.finetune.graph_network import plan_passes  # needs torch

            plan_passes(network)  # what cannot be trained is refused at once
        listen(Notice(network.summarise()))
        return network
    backbone = "" if settings.backbone == AUTO else settings.backbone
    pretrained = load_pretrained(settings.weights, cache, listen, backbone=backbone)
    # the original recipe looks at all weights
    return pretrained if settings.recipe == "original" else pretrained.without_classifier()
