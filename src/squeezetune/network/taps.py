"""The taps of a network that is a graph alone: which tensors its features are read from, and how
each becomes one value a channel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isqrt, log2, prod

from squeezetune.errors import WeightsError
from squeezetune.network.graph_analysis import GraphAnalysis
from squeezetune.network.graph_cuts import name_source
from squeezetune.network.onnx_builder import Graph

# The resolutions whose last maps are tapped: an eighth of the image's side, a sixteenth, ...
STRIDES = (8, 16, 32)
# Class and register tokens beside those of the patches.
MOST_EXTRA_TOKENS = 8
# More values than this of a flattened map are not taken one by one, but averaged over positions.
MOST_FLAT = 4096


@dataclass(frozen=True)
class Tap:
    """A tensor that features are read from, (n, *shape); `reduction` is a key of `REDUCTIONS`, and
    `extra` counts the tokens before those of the patches.

    `width` is how many features it gives, `stride` how many pixels of the image a position is, 0
    where there are no positions. `is_signed` says that they may be below 0. `source` names the map
    (channels, height, width) that a vector of features is the mean of, where it is one.
    """

    tensor: str
    shape: tuple[int, ...]
    reduction: str
    width: int
    stride: int = 0
    extra: int = 0
    is_signed: bool = True
    role: str = ""
    source: str = ""

    @property
    def has_map(self) -> bool:
        """Whether there are positions in the image that its features are the means of."""
        return bool(self.source) or (self.stride > 0 and self.reduction in MAPS)


def read_tensor(analysis: GraphAnalysis, tensor: str, role: str) -> list[Tap]:
    """Read features from a tensor: none where it has no value for each channel."""
    shape = analysis.shapes.get(tensor, ())
    is_signed, source = tensor not in analysis.flow.unsigned, _find_source(analysis, tensor)
    return [Tap(tensor, shape, *read, is_signed, role, source if read[0] == "values" else "")
            for read in _choose_reductions(shape, analysis.side, analysis.map_sides)]  # fmt: skip


def _find_source(analysis: GraphAnalysis, tensor: str) -> str:
    """Find the map that a vector is the mean of; "" where it is none."""
    source = name_source(analysis.flow, tensor)
    shape, values = analysis.shapes.get(source, ()), prod(analysis.shapes.get(tensor, ()))
    is_map = len(shape) == 3 and shape[1] == shape[2] > 1 and shape[0] == values
    return source if is_map else ""


def take_taps(analysis: GraphAnalysis, names: Sequence[str]) -> tuple[Tap, ...]:
    """Take the tensors that somebody names.

    Raises:
        WeightsError: there is no such tensor, or it has no value for each channel of an image.
    """
    found = []
    for name in names:
        check_tensor(analysis, name)
        found += read_tensor(analysis, name, "asked for")
    return tuple(found)


def check_tensor(analysis: GraphAnalysis, name: str) -> None:
    """Make sure that a tensor is one that features can be read from.

    Raises:
        WeightsError: it is not.
    """
    if name not in analysis.flow.live:
        close = get_close_matches(name, analysis.flow.inner) or analysis.flow.inner[-3:]
        raise WeightsError(
            f"The network has no tensor {name!r} that depends on the image.",
            f"Did you mean {' or '.join(map(repr, close))}? Viewers of ONNX files show all names.",
        )
    if not read_tensor(analysis, name, ""):
        raise WeightsError(
            f"The tensor {name!r} has no value for each channel of an image; needed are floats: "
            f"(n, channels), maps, or a sequence of tokens.",
            "Name another tensor.",
        )


def find_taps(analysis: GraphAnalysis) -> tuple[Tap, ...]:
    """Find the taps of a network: the last cut of each resolution, and the penultimate tensor.

    Where the last map's means are the penultimate tensor anyway, they are taken once.
    """
    penultimate = analysis.end.penultimate
    whole = [*read_tensor(analysis, analysis.end.doubtful, "before the last layer"),
             *_read_penultimate(analysis)]  # fmt: skip
    if not whole:
        raise WeightsError(
            f"The network ends in {penultimate!r}, which has no value for each channel.",
            "Name another tensor as the cut, or the side that the network was trained with.",
        )
    sources = {name_source(analysis.flow, tap.tensor) for tap in whole if not tap.extra}
    sources |= {tap.tensor for tap in whole}
    stages = {}
    for cut in analysis.cuts:
        for tap in read_tensor(analysis, cut, "end of a stage"):
            if tap.stride and tap.reduction != "first token":
                stages[2 ** round(log2(tap.stride))] = tap
    kept = [tap for stride, tap in stages.items() if stride in STRIDES
            and not {tap.tensor, name_source(analysis.flow, tap.tensor)} & sources]  # fmt: skip
    return (*kept, *whole)


def _read_penultimate(analysis: GraphAnalysis) -> list[Tap]:
    """Read the penultimate tensor; of a flattened map of many values, the map."""
    tensor = analysis.end.penultimate
    taps = read_tensor(analysis, tensor, "penultimate")
    if len(taps) == 1 and taps[0].width > MOST_FLAT and not taps[0].stride:
        for before in analysis.flow.walk_back(
            tensor, ("Flatten", "Reshape", "Dropout", "Identity")
        ):
            maps = read_tensor(analysis, before, "penultimate, before it is flattened")
            if len(maps) == 1 and maps[0].stride:
                return maps
    return taps


# ---- one value a channel


def _choose_reductions(
    shape: tuple[int, ...], side: int, sides: set[int]
) -> list[tuple[str, int, int, int]]:
    """Choose how a tensor (n, *shape) becomes one value a channel: reduction, channels, stride and
    tokens before the patches'.
    """
    big = [size for size in shape if size > 1]
    if len(big) <= 1 and shape:
        return [("values", max(shape), 0, 0)]
    if len(shape) == 3 and shape[1] == shape[2]:
        return [("mean of positions", shape[0], round(side / shape[1]), 0)]
    if len(shape) == 3 and shape[0] == shape[1]:
        return [("mean of positions, channels last", shape[2], round(side / shape[0]), 0)]
    if len(shape) == 2:
        return _read_tokens(shape, side, sides)
    return []


def _read_tokens(
    shape: tuple[int, ...], side: int, sides: set[int]
) -> list[tuple[str, int, int, int]]:
    """Choose how a sequence is read: where it is patches of a square, and perhaps tokens before
    them, which the numbers of both axes tell.
    """
    for axis, name in ((0, "mean of tokens"), (1, "mean of tokens, channels first")):
        patches = isqrt(shape[axis])
        extra = shape[axis] - patches**2
        if patches > 1 and extra <= MOST_EXTRA_TOKENS and (not sides or patches in sides):
            stride, channels = round(side / patches), shape[1 - axis]
            first = [("first token", channels, 0, extra)] if extra and not axis else []
            return [*first, (name, channels, stride, extra)]
    return [("mean of tokens", shape[1], 0, 0)]


def _average(axes: list[int]) -> Callable[[Graph, str, Tap], str]:
    def add(graph: Graph, x: str, tap: Tap) -> str:
        x = _leave_out_extra(graph, x, tap, axes[0])
        which = graph.constant(f"axes.{'.'.join(map(str, axes))}", axes)
        return graph.add("ReduceMean", x, which, keepdims=0)

    return add


def _leave_out_extra(graph: Graph, x: str, tap: Tap, axis: int) -> str:
    """Leave out class and register tokens, which are no positions."""
    if not tap.extra:
        return x
    limits = {"from": tap.extra, "to": 2**62, "axis": axis}
    names = [graph.constant(f"patches.{tap.extra}.{axis}.{key}", [value])
             for key, value in limits.items()]  # fmt: skip
    return graph.add("Slice", x, *names)


def _take_first(graph: Graph, x: str, tap: Tap) -> str:
    return graph.add("Gather", x, graph.constant("first", 0), axis=1)


def _flatten(graph: Graph, x: str, tap: Tap) -> str:
    return graph.add("Flatten", x, axis=1) if len(tap.shape) > 1 else x


# How a tensor becomes (n, channels).
REDUCTIONS: Mapping[str, Callable[[Graph, str, Tap], str]] = {
    "values": _flatten,
    "mean of positions": _average([2, 3]),
    "mean of positions, channels last": _average([1, 2]),
    "mean of tokens": _average([1]),
    "mean of tokens, channels first": _average([2]),
    "first token": _take_first,
}


def add_tap(graph: Graph, x: str, tap: Tap) -> str:
    """Add what makes one value a channel of a tapped tensor `x`: (n, channels) float32."""
    return REDUCTIONS[tap.reduction](graph, x, tap)


def _transpose(*axes: int) -> Callable[[Graph, str, Tap], str]:
    return lambda graph, x, tap: graph.add("Transpose", x, perm=list(axes)) if axes else x


def _spread_tokens(axis: int) -> Callable[[Graph, str, Tap], str]:
    def add(graph: Graph, x: str, tap: Tap) -> str:
        x = _leave_out_extra(graph, x, tap, axis)
        x = graph.add("Transpose", x, perm=[0, 2, 1]) if axis == 1 else x
        side = isqrt(tap.shape[axis - 1] - tap.extra)
        sizes = graph.constant(f"{x}.positions", [0, 0, side, side])
        return graph.add("Reshape", x, sizes)

    return add


# How a tensor becomes a map (n, channels, height, width), of those reductions that are means of
# one.
MAPS: Mapping[str, Callable[[Graph, str, Tap], str]] = {
    "mean of positions": _transpose(),
    "mean of positions, channels last": _transpose(0, 3, 1, 2),
    "mean of tokens": _spread_tokens(1),
    "mean of tokens, channels first": _spread_tokens(2),
}


def add_tap_map(graph: Graph, x: str, tap: Tap) -> str:
    """Add what makes a map of a tapped tensor `x`, (n, channels, height, width) float32, or its
    features, (n, channels), where it has no positions; of a vector with a source that is `x`.
    """
    if tap.source:
        return x
    return (MAPS if tap.has_map else REDUCTIONS)[tap.reduction](graph, x, tap)
