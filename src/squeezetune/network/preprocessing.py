"""How a foreign network wants its images: side, mean and deviation, from who calls, from the file's
own metadata, or as ImageNet's are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.network.zoo import SQUEEZENET1_1

IMAGENET_MEAN, IMAGENET_STD = SQUEEZENET1_1.mean, SQUEEZENET1_1.std
USUAL_SIDE = 224
# The order of the channels.
ORDERS = ("rgb", "bgr")
# Metadata that hold all of it as one text, JSON or a dict of Python as it prints itself.
RECORDS = ("cfg", "pretrained_cfg", "default_cfg", "preprocessing", "settings")
SIDES = ("image_side", "input_size", "side", "image_size")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class PreprocessingOptions:
    """What somebody says of a network's images; None and "" where nothing is said.

    `mean` and `std` are three numbers, or one for all channels: of values of 0 to 1, or where one
    is above 1, of 0 to 255.
    """

    side: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    order: str = ""


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become what a network reads: RGB / 255, minus `mean`, over `std`, in the `order`
    of its channels, `side` pixels high and wide.

    `mean` and `std` stand in the order of the channels too; `reasons` says where each is from.
    """

    side: int
    mean: Triple
    std: Triple
    order: str
    reasons: Mapping[str, str]


def find_preprocessing(
    metadata: Mapping[str, str],
    fixed_side: int,
    options: PreprocessingOptions,
    *,
    is_uint8: bool = False,
) -> Preprocessing:
    """Find out how a network wants its images; `fixed_side` is what its graph takes alone, 0 where
    it takes all.

    A network that takes uint8 normalises for itself: then nothing is done to the pixels.

    Raises:
        SettingsError: what somebody says is no mean, deviation, side or order.
        WeightsError: another side is asked for than the graph takes.
    """
    order, order_reason = _choose_order(metadata, options.order)
    side, side_reason = _choose_side(metadata, fixed_side, options.side)
    if is_uint8:
        if options.mean is not None or options.std is not None:
            raise SettingsError(
                "The network takes pixels as they are (uint8), and a mean or deviation is given.",
                "Leave them out: whatever it needs is in its graph.",
            )
        reasons = {
            "side": side_reason,
            "normalisation": "inside the network",
            "order": order_reason,
        }
        return Preprocessing(side, (0, 0, 0), (1 / 255,) * 3, order, reasons)
    mean, std, reason = _choose_statistics(metadata, options)
    reasons = {"side": side_reason, "normalisation": reason, "order": order_reason}
    return Preprocessing(side, mean, std, order, reasons)


def find_value(metadata: Mapping[str, str], key: str) -> str:
    """Find what a file's metadata say under a key, also within a record of all; "" if nothing."""
    if key in metadata:
        return metadata[key]
    for name in RECORDS:
        quoted = rf"['\"]{re.escape(key)}['\"]\s*:\s*"
        found = re.search(rf"{quoted}([\[(][^\])]*|['\"][^'\"]*|[^,}}]*)", metadata.get(name, ""))
        if found:
            return found[1].strip("[('\" ")
    return ""


def _choose_side(metadata: Mapping[str, str], fixed: int, wished: int | None) -> tuple[int, str]:
    if fixed and wished not in (None, fixed):
        raise WeightsError(
            f"The network takes images of {fixed} x {fixed} pixels alone; asked for is {wished}.",
            f"Leave the side out, or export the network for {wished} pixels.",
        )
    if wished is not None:
        return wished, "as asked for"
    if fixed:
        return fixed, "the only one that the network takes"
    for key in SIDES:
        numbers = [int(float(each)) for each in _NUMBER.findall(find_value(metadata, key))]
        if numbers and numbers[-1] > 0:
            return numbers[-1], f"as the file says ({key})"
    return USUAL_SIDE, "the usual one, since neither the file nor anybody says another"


def _choose_order(metadata: Mapping[str, str], wished: str) -> tuple[str, str]:
    found = wished or find_value(metadata, "order") or find_value(metadata, "color_order")
    if not found:
        return "rgb", "the usual one"
    if found.lower() not in ORDERS:
        raise SettingsError(
            f"The order of the channels is {found!r}; needed is {' or '.join(ORDERS)}."
        )
    return found.lower(), "as asked for" if wished else "as the file says"


def _choose_statistics(
    metadata: Mapping[str, str], options: PreprocessingOptions
) -> tuple[Triple, Triple, str]:
    """Choose mean and deviation, each from who calls or else from the file or as ImageNet's are."""
    read = {key: [float(each) for each in _NUMBER.findall(find_value(metadata, key))]
            for key in ("mean", "std")}  # fmt: skip
    is_known = all(len(each) in (1, 3) for each in read.values())
    mean: Sequence[float] = read["mean"] if is_known else IMAGENET_MEAN
    std: Sequence[float] = read["std"] if is_known else IMAGENET_STD
    if options.mean is not None or options.std is not None:
        mean = mean if options.mean is None else options.mean
        std = std if options.std is None else options.std
        reason = "as asked for"
    else:
        reason = ("as the file says" if is_known
                  else "ImageNet's, since neither the file nor anybody says another")  # fmt: skip
    return _check_statistics(mean, std, reason)


def _check_statistics(
    mean: Sequence[float], std: Sequence[float], reason: str
) -> tuple[Triple, Triple, str]:
    triples = [list(each) * 3 if len(each) == 1 else list(each) for each in (mean, std)]
    is_right = all(len(each) == 3 and all(map(isfinite, each)) for each in triples)
    if not is_right or min(triples[1]) <= 0:
        raise SettingsError(
            f"The mean is {_show(mean)} and the deviation {_show(std)}; needed are three numbers "
            f"each, one for a channel, or one for all, and deviations above 0.",
            "ImageNet's are 0.485 0.456 0.406 and 0.229 0.224 0.225.",
        )
    if max(max(each) for each in triples) > 1:
        triples = [[value / 255 for value in each] for each in triples]
        reason += ", of values of 0 to 255"
    (a, b, c), (d, e, f) = triples
    return (a, b, c), (d, e, f), reason


def _show(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "nothing"
