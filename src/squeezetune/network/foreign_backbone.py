"""The network of somebody else that the settings name: a file, one of timm's, or a module of torch
that is kept as a file.
"""

from pathlib import Path

from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.foreign_settings import TIMM, parse_triple
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.foreign_reading import read_foreign
from squeezetune.network.preprocessing import PreprocessingOptions
from squeezetune.settings import Settings


def load_foreign(
    settings: Settings, cache: Path | None = None, listen: Listener = ignore_event
) -> ForeignNetwork:
    """Load the network that the setting `backbone` names by its file, or by timm's name, and tell
    what is taken of it.

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
    listen(Notice(network.summarise()))
    return network
