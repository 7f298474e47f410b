"""Where in an image a class is seen: the gradient of its logit, spread over what the layers give at each place.

The head reads the mean of every channel after some layers. What a place adds to such a mean, times the derivative of
the class's logit by that mean, is what the place adds to the logit, in first order; summed over the channels of all
layers it is a map of the class. Source: Selvaraju et al. 2017, "Grad-CAM"; for a classifier of SqueezeNet's own kind
the map is exact (Zhou et al. 2016, "Learning Deep Features for Discriminative Localization").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.learn.graph import TAPS, build_maps
from squeezetune.learn.inference import RunOutputs, open_onnxruntime
from squeezetune.learn.trained import TrainedNetwork

Floats = NDArray[np.float32]
# The margin that the views of the middle leave out on each side, as `build_classifier` has it.
MARGIN = 3 / 40


@dataclass(frozen=True)
class Mapper:
    """Makes class maps with one network; `run` gives the maps of its layers, and may be called from many threads."""

    network: TrainedNetwork
    run: RunOutputs

    def map_class(self, pixels: NDArray[np.uint8], number: int) -> Floats:
        """Map a class, by its number, on an image (height, width, 3): (side, side), positive where it is seen.

        The square is the image as the network sees it, by its policy of resizing.
        """
        layers = self.run(pixels[None])  # one for each tap, (views, channels, height, width)
        side = self.network.side
        views = self._map_convolved(layers[0], number) if self.network.is_convolved else self._map_taps(layers, number)
        placed = [_undo_view(view, at) for at, view in enumerate(views.reshape(-1, side, side))]
        mean: Floats = np.mean(placed, axis=0)
        return mean

    def _map_convolved(self, maps: Floats, number: int) -> Floats:
        """Map by the classifier's own answer at each place, against the mean of all classes."""
        weight, bias = self.network.head[0]
        answers = np.maximum(np.tensordot(weight.T, maps[0], 1) + bias[:, None, None], 0)
        return _enlarge(answers[number] - answers.mean(axis=0), self.network.side)

    def _map_taps(self, layers: Sequence[Floats], number: int) -> Floats:
        """Map each view by the gradients of all taps: (views, side, side)."""
        means = np.concatenate([maps.mean(axis=(2, 3)) for maps in layers], axis=1)
        slopes, views = differentiate(self.network, means, number), []
        for slope, *maps in zip(slopes, *layers, strict=True):
            parts = np.split(slope, np.cumsum([len(tap) for tap in maps])[:-1])
            shares = (np.tensordot(part, tap, 1) for part, tap in zip(parts, maps, strict=True))
            views.append(np.sum([_enlarge(share, self.network.side) for share in shares], axis=0))
        return np.stack(views)


def open_mapper(network: TrainedNetwork) -> Mapper:
    """Make a network's layers ready to be looked into; each call runs on the calling thread."""
    taps = TAPS[-1:] if network.is_convolved else TAPS
    model = build_maps(network.weights, taps, views=network.views, side=network.side, resize=network.resize)
    return Mapper(network, open_onnxruntime(model, "float32", 1))


def differentiate(network: TrainedNetwork, means: Floats, number: int) -> Floats:
    """Differentiate the logit of a class, against the mean of all, by the means of the channels: (views, features)."""
    rows, active = (np.sqrt(means) if network.use_roots else means), []
    for weight, bias in network.head[:-1]:
        rows = rows @ weight + bias
        active.append(rows > 0)
        rows = np.maximum(rows, 0)
    last = network.head[-1][0]
    slopes = np.broadcast_to(last[:, number] - last.mean(axis=1), (len(means), len(last)))
    for (weight, _), is_active in zip(reversed(network.head[:-1]), reversed(active), strict=True):
        slopes = (slopes * is_active) @ weight.T
    if not network.use_roots:
        return slopes
    # a channel that is nowhere active adds nothing, whatever its slope
    by_mean: Floats = slopes / (2 * np.sqrt(np.where(means > 0, means, np.inf)))
    return by_mean


def _enlarge(values: Floats, side: int) -> Floats:
    """Interpolate a map to the side of what the network sees."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _undo_view(values: Floats, view: int) -> Floats:
    """Bring the map of a view to its place: the second is mirrored, the third and fourth are the middles of both."""
    values = values[:, ::-1] if view % 2 else values
    if view < 2:
        return values
    side = len(values)
    margin = int(MARGIN * side)
    placed = np.zeros_like(values)
    placed[margin : side - margin, margin : side - margin] = _enlarge(values, side - 2 * margin)
    return placed
