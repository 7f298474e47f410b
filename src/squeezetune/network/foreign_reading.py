"""Foreign networks read: what is found in a file, and how it is run on several images at once so
that each is seen by itself.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import WeightsError
from squeezetune.network.batch_freeing import free_batch
from squeezetune.network.foreign_file import (
    UNKNOWN,
    ForeignFile,
    are_close,
    open_quietly,
    parse_foreign_file,
    read_foreign_file,
)
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.graph_analysis import GraphAnalysis, analyse_graph
from squeezetune.network.inference import RunOutputs
from squeezetune.network.preprocessing import (
    PreprocessingOptions,
    find_preprocessing,
    find_value,
)
from squeezetune.network.taps import (
    check_tensor,
    find_taps,
    take_taps,
)

# Memory is forecast by the values of all maps of described networks, of which SqueezeNet needs a
# third at once; engines were seen to hold about twice as much of other networks.
ALIVE_TIMES = 6


def read_foreign(
    path: str | Path,
    options: PreprocessingOptions | None = None,
    *,
    cut: str = "",
    taps: Sequence[str] = (),
) -> ForeignNetwork:
    """Read any ONNX network for images as frozen layers.

    `cut` names the tensor that is to be the penultimate one, `taps` all tensors that features are
    read from, in place of what is found.

    Raises:
        SettingsError: what `options` say is nothing of the kind.
        WeightsError: the file cannot be used, or has no such tensor.
    """
    path = Path(path)
    try:
        return make_foreign(read_foreign_file(path), path.name, options, cut=cut, taps=taps)
    except WeightsError as error:
        message = error.message if str(path) in error.message else f"{path}: {error.message}"
        raise WeightsError(message, error.hint) from error


def parse_foreign(
    payload: bytes,
    name: str,
    options: PreprocessingOptions | None = None,
    *,
    cut: str = "",
    taps: Sequence[str] = (),
) -> ForeignNetwork:
    """Read any ONNX network for images from bytes, as `read_foreign` does from a file."""
    return make_foreign(parse_foreign_file(payload), name, options, cut=cut, taps=taps)


def make_foreign(
    file: ForeignFile,
    name: str,
    options: PreprocessingOptions | None = None,
    *,
    cut: str = "",
    taps: Sequence[str] = (),
) -> ForeignNetwork:
    """Make frozen layers of a file that was read: they are run on noise, to see what is in them,
    and that every image is seen by itself.
    """
    options, image = options or PreprocessingOptions(), file.image
    wanted = find_preprocessing(file.metadata, image.side, options, is_uint8=image.is_uint8)
    analysis = analyse_graph(file, wanted.side, cut or "".join(taps[-1:]))
    for tensor in (cut, *taps):
        if tensor:
            check_tensor(analysis, tensor)
    network = ForeignNetwork(
        name=find_value(file.metadata, "name") or name,
        file=file,
        model=file.model,
        preprocessing=wanted,
        taps=take_taps(analysis, taps) if taps else find_taps(analysis),
        cuts=tuple(analysis.cuts),
        logits=analysis.end.logits,
        batches="free",
        license=find_value(file.metadata, "license") or UNKNOWN,
        values=ALIVE_TIMES * analysis.count_alive(),
        all_values=analysis.count_values(),
        is_doubtful=bool(analysis.end.doubtful),
    )
    return _settle_batches(network, analysis)


def check_range(network: ForeignNetwork) -> None:
    """Make sure that the features of a network can be kept.

    Raises:
        WeightsError: they are larger than float16 holds.
    """
    if network.largest > float(np.finfo(np.float16).max):
        raise WeightsError(
            f"{network.name}: the network gives values up to {network.largest:.3g} for noise; "
            f"needed are at most {np.finfo(np.float16).max:g}: features are kept as float16.",
            "Look at its mean and deviation, or name another cut or other taps.",
        )


# ---- several images at once


def _settle_batches(network: ForeignNetwork, analysis: GraphAnalysis) -> ForeignNetwork:
    """Find out how the network is run on several images so that each is seen by itself.

    Raises:
        WeightsError: there is no such way, or it gives no numbers, or others each time.
    """
    batch = network.file.image.batch
    part = max(batch, 1)
    pixels = _draw_pixels(2 * part, network.side)
    run = open_quietly(network.build_features())
    alone = np.concatenate([run(pixels[:part])[0], run(pixels[part:])[0]])
    _check_values(alone, run(pixels[:part])[0])
    network = replace(network, largest=float(np.abs(alone).max()))
    together = _try(run, pixels)
    if together is not None and are_close(together, alone):
        return replace(network, batches="freed" if batch else "free")
    freed = free_batch(network.model, analysis.flow, analysis.sizes)
    ways = [replace(network, batches="freed", model=freed)]
    if batch == 1 or (not batch and together is None):
        ways.append(replace(network, batches="one by one"))
    for way in ways:
        with suppress(WeightsError):
            run = open_quietly(way.build_features())
            if all(are_close(run(pixels[:count])[0], alone[:count]) for count in (1, len(pixels))):
                return way
    raise WeightsError(
        "What the network gives for an image hangs on the images beside it.",
        "Export it in evaluation mode (model.eval()), and with a free number of images.",
    )


def _draw_pixels(count: int, side: int) -> NDArray[np.uint8]:
    """Draw images that are unlike each other."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (count, 1, 1, 3))
    return (colours + rng.integers(0, 56, (count, side, side, 3))).astype(np.uint8)


def _try(run: RunOutputs, pixels: NDArray[np.uint8]) -> NDArray[Any] | None:
    """Run a graph on images that it may not take together."""
    with suppress(WeightsError):
        return run(pixels)[0]
    return None


def _check_values(values: NDArray[Any], again: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise WeightsError(
            "The network gives values that are no numbers for images of noise.",
            "Look at its mean and deviation, and whether its weights are sound.",
        )
    if not are_close(again, values[: len(again)]):
        raise WeightsError(
            "The network gives other values each time for the same image.",
            "Export it in evaluation mode (model.eval()), in which nothing is drawn or learnt.",
        )
