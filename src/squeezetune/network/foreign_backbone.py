"""The network of somebody else that the settings name: a file, one of timm's, or a module of torch
that is kept as a file.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from squeezetune.errors import SettingsError
from squeezetune.events import Listener, ignore_event
from squeezetune.foreign_settings import TIMM, parse_triple
from squeezetune.network.backbone import FLOAT_RUNTIME
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.foreign_reading import check_range, read_foreign
from squeezetune.network.graph import build_features
from squeezetune.network.inference import measure_speed, open_graph
from squeezetune.network.preprocessing import PreprocessingOptions
from squeezetune.settings import Settings
from squeezetune.system.disk import find_cache_folder, open_cache, write_file
from squeezetune.system.executor import count_cores

# Where the cache has the modules that were exported.
MODULES_FOLDER = "modules"
TURN_S = 0.3


def load_foreign(
    settings: Settings, cache: Path | None = None, listen: Listener = ignore_event
) -> ForeignNetwork:
    """Load the network that the setting `backbone` names by its file, or by timm's name.

    Raises:
        MissingExtraError: timm, or what it needs, is not installed.
        SettingsError: what the settings say of it is nothing of the kind, timm has no such network,
            or its licence is not commercial and the settings do not allow that.
        WeightsError: it cannot be had or used, or has no such tensor.
    """
    options = PreprocessingOptions(
        settings.image_side or None,
        parse_triple(settings.pixel_mean),
        parse_triple(settings.pixel_std),
    )
    taps = [name.strip() for name in settings.taps.split(",") if name.strip()]
    if settings.backbone.startswith(TIMM):
        from squeezetune.network.torch_export import read_timm  # needs torch, an extra

        network = read_timm(
            settings.backbone.removeprefix(TIMM),
            options,
            cut=settings.cut,
            taps=taps,
            cache=cache,
            allow_noncommercial=settings.licenses == "any",
            listen=listen,
        )
    else:
        path = Path(settings.backbone).expanduser()
        network = read_foreign(path, options, cut=settings.cut, taps=taps)
    check_range(network)
    return network


@dataclass(frozen=True, eq=False)
class ForeignDescription:
    """What would be taken of a network of somebody else; `images_per_second` says how fast its
    frozen layers are here in ONNX Runtime, None where that was not measured.
    """

    network: ForeignNetwork
    images_per_second: float | None = None

    @property
    def words(self) -> str:
        """Say all of it, for people."""
        rate = self.images_per_second
        speed = f"\n{rate:.0f} images/s here ({FLOAT_RUNTIME})" if rate else ""
        return f"{self.network.describe()}{speed}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**self.network.to_dict(), "images_per_second": self.images_per_second}


def describe_foreign(
    settings: Settings, *, speed: bool = False, listen: Listener = ignore_event
) -> ForeignDescription:
    """Say what would be taken of the network that the setting `backbone` names; with `speed`, how
    fast it is here.

    Raises:
        MissingExtraError, SettingsError, WeightsError: as `load_foreign`.
    """
    network = load_foreign(settings, open_cache(listen), listen)
    if not speed:
        return ForeignDescription(network)
    threads, shape = count_cores(), (1, network.side, network.side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    run = open_graph(build_features(network.freeze()), FLOAT_RUNTIME, threads)
    return ForeignDescription(network, measure_speed(run, pixels, threads, TURN_S))


def keep_module(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let the setting `backbone`, where it is a module of torch, name a file that is exported of it
    for images of `image_side` pixels; all other values stay as they are.

    The file is in the cache, by its content. A module of timm tells side, mean, deviation and
    licence itself; another one has to be given those that are not the usual ones.

    Raises:
        MissingExtraError: what torch exports with is not installed.
        SettingsError: the file cannot be written.
        WeightsError: torch cannot export the module.
    """
    module = values.get("backbone", "")
    if isinstance(module, str | os.PathLike) or not hasattr(module, "state_dict"):
        return dict(values)
    from squeezetune.network.torch_export import describe_module, export_network  # needs torch

    side, about = describe_module(module, int(values.get("image_side") or 0))
    payload = export_network(module, side, about)
    name = f"{type(module).__name__}-{hashlib.sha256(payload).hexdigest()[:12]}.onnx"
    path = find_cache_folder() / MODULES_FOLDER / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            write_file(path, payload)
    except OSError as error:
        raise SettingsError(
            f"The exported backbone cannot be kept in {path.parent}: {error.strerror}",
            "Export it with torch.onnx.export, and give the file.",
        ) from error
    return {**values, "backbone": str(path)}
