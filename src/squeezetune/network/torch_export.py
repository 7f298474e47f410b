"""Networks of torch and of timm as ONNX files, which are then read as any other: neither is needed
any more.

It stands apart since it imports torch, which only such networks need.
"""

import importlib.util
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from squeezetune.errors import INSTALL_TORCH, MissingExtraError, SettingsError, WeightsError
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.network.foreign_file import UNKNOWN, shorten_reason
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.onnx_builder import OPSET
from squeezetune.network.preprocessing import USUAL_SIDE, PreprocessingOptions
from squeezetune.system.disk import read_sealed, write_sealed
from squeezetune.system.machine import hash_bytes, list_libraries

try:
    import torch
except ImportError as error:
    raise MissingExtraError(
        "torch is not installed; its networks are exported with it.", INSTALL_TORCH
    ) from error

# Licences under which weights may not be used commercially, as timm names them.
NONCOMMERCIAL = re.compile(r"(^|-)nc(-|$)|noncommercial|-amlr$|^seer-", re.IGNORECASE)
INSTALL_TIMM = (
    "Install it: pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu, "
    "then pip install 'squeezetune[timm]'"
)


def export_network(
    network: torch.nn.Module, side: int, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Export a network of torch as an ONNX file: images (n, 3, side, side), normalised, in.

    It is exported in evaluation mode, and left in the mode in which it was. Where it cannot be with
    any number of images, it is for one.

    Raises:
        MissingExtraError: what torch exports with is not installed.
        WeightsError: torch cannot export this network.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingExtraError(
            "onnxscript is not installed, with which torch exports networks.",
            "Install it: pip install onnxscript",
        )
    was_training = network.training
    network.eval()
    try:
        model = _export(network, side)
    finally:
        network.train(was_training)
    model.ClearField("metadata_props")
    helper.set_model_props(model, dict(metadata or {}))
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


def describe_module(network: torch.nn.Module, side: int = 0) -> tuple[int, dict[str, str]]:
    """Say for which side a network is exported, and what is told of it in the file: what a network
    of timm knows of itself; of others the side that is asked for, or the usual one.
    """
    config = getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None) or {}
    name = config.get("architecture") or type(network).__name__
    known = [key for key in ("mean", "std") if key in config]
    about = {"name": str(name), **{key: " ".join(map(str, config[key])) for key in known}}
    if config.get("license"):
        about["license"] = str(config["license"])
    own = int(config["input_size"][-1]) if "input_size" in config else USUAL_SIDE
    return side or own, about


@contextmanager
def _be_quiet() -> Iterator[None]:
    """Keep torch's exporter from telling which packages it does without."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _export(network: torch.nn.Module, side: int) -> onnx.ModelProto:
    reason = Exception()
    for count, shapes in ((2, ({0: "n"},)), (1, None)):
        images = torch.zeros(count, 3, side, side)
        try:
            with warnings.catch_warnings(), torch.no_grad(), _be_quiet():
                warnings.simplefilter("ignore")  # on how torch works
                program = torch.onnx.export(
                    network,
                    (images,),
                    dynamo=True,
                    dynamic_shapes=shapes,
                    external_data=False,
                    opset_version=OPSET,
                    verbose=False,
                )
            return program.model_proto
        except Exception as error:  # torch raises nearly anything over what it cannot trace
            reason = error
    raise WeightsError(
        f"torch cannot export this network: {shorten_reason(reason)}",
        "Its forward has to take images alone, and may not decide by their values.",
    ) from reason


def read_network(
    network: torch.nn.Module,
    options: PreprocessingOptions,
    name: str = "",
    *,
    cut: str = "",
    taps: Sequence[str] = (),
) -> ForeignNetwork:
    """Make frozen layers of any network of torch; `options` have to name the side of its images.

    Raises:
        MissingExtraError: what torch exports with is not installed.
        SettingsError: no side is named.
        WeightsError: it cannot be exported, or not be used as a network for images.
    """
    if options.side is None:
        raise SettingsError(
            "A network of torch does not say how large its images are.", "Name the side."
        )
    payload = export_network(network, options.side)
    return parse_foreign(payload, name or type(network).__name__, options, cut=cut, taps=taps)


def read_timm(
    name: str,
    options: PreprocessingOptions | None = None,
    *,
    cut: str = "",
    taps: Sequence[str] = (),
    cache: Path | None = None,
    allow_noncommercial: bool = False,
    listen: Listener = ignore_event,
) -> ForeignNetwork:
    """Make frozen layers of a pretrained network of timm, which fetches its weights.

    It is exported once, and kept in the cache. Example, which needs the network:

        >>> network = read_timm("mobilenetv4_conv_small.e2400_r224_in1k")  # doctest: +SKIP

    Raises:
        MissingExtraError: timm, or what it needs, is not installed.
        SettingsError: timm has no such pretrained network, or its licence is not commercial and
            nobody says that this is right.
        WeightsError: the weights cannot be had, or the network not be exported or used.
    """
    timm = _import_timm()
    config = _find_config(timm, name)
    about = _describe_config(name, config)
    if NONCOMMERCIAL.search(about["license"]) and not allow_noncommercial:
        raise SettingsError(
            f"The weights of timm's {name!r} may not be used commercially: their licence is "
            f"{about['license']}.",
            "Take another network, or allow such licences with --licenses any if that is right "
            "for you.",
        )
    recipe = [name, about, list_libraries(["timm", "torch", "onnxscript"])]
    kept = cache and cache / "timm" / f"{hash_bytes(json.dumps(recipe).encode())}.sealed"
    payload = read_sealed(kept) if kept else None
    if payload is None:
        listen(Notice(f"the weights of timm's {name} are fetched; licence {about['license']}"))
        network = _create(timm, name)
        payload = export_network(network, int(config["input_size"][-1]), about)
        if kept:
            write_sealed(kept, payload)
    return parse_foreign(payload, name, options, cut=cut, taps=taps)


def _import_timm() -> Any:
    """Import timm.

    Raises:
        MissingExtraError: it is not installed, or finds no torchvision that fits torch.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise MissingExtraError("timm is not installed.", INSTALL_TIMM) from error
    except RuntimeError as error:  # what torchvision says where it is of another build than torch
        raise MissingExtraError(
            f"timm cannot be imported: {shorten_reason(error)}", INSTALL_TIMM
        ) from error


def _find_config(timm: Any, name: str) -> dict[str, Any]:
    """Find what timm knows of a pretrained network, before anything is fetched."""
    config = None
    with suppress(RuntimeError):  # what timm says of a name behind the dot that it does not have
        config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        close = timm.list_pretrained(f"*{name.partition('.')[0]}*")[:3]
        hint = f"Did you mean {' or '.join(close)}?" if close else "timm.list_pretrained() has all."
        raise SettingsError(f"timm has no pretrained network {name!r}.", hint)
    found: dict[str, Any] = config.to_dict()
    resolved = timm.data.resolve_data_config({}, pretrained_cfg=found)
    return {**found, **{key: resolved[key] for key in ("input_size", "mean", "std")}}


def _describe_config(name: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Say in a file's metadata what network it is, how it wants images, and its licence."""
    numbers = {key: " ".join(map(str, config[key])) for key in ("input_size", "mean", "std")}
    return {"name": name, "license": config.get("license") or UNKNOWN, **numbers}


def _create(timm: Any, name: str) -> torch.nn.Module:
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # its hub's errors share no other base
        raise WeightsError(
            f"The weights of timm's {name!r} cannot be had: {shorten_reason(error)}",
            "Export the network on another computer, and give the ONNX file. "
            "timm needs huggingface_hub to fetch weights.",
        ) from error
