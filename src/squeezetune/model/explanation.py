"""Where in a photo a class is seen: the maps of its class, and a picture of them.

The head reads the mean of every channel after some layers. What a place adds to such a mean, times
the derivative of the class's logit by that mean, is what the place adds to the logit, in first
order; summed over the channels of all layers it is a map of the class. Source: Selvaraju et al.
2017, "Grad-CAM"; for a classifier of SqueezeNet's own kind the map is exact (Zhou et al. 2016,
"Learning Deep Features for Discriminative Localization").
"""

import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.array_types import Floats
from squeezetune.data.decoding import open_image
from squeezetune.data.pixels import prepare_pixels
from squeezetune.data.sources.content import RawImage
from squeezetune.data.sources.registry import ImageLike, MemorySource, is_one_image, read_open_file
from squeezetune.errors import ArtifactError, ImageError, SettingsError
from squeezetune.heads.scaling import take_roots
from squeezetune.model.artifact import NETWORK, read_payload
from squeezetune.model.classifier import Classifier, load
from squeezetune.network.foreign_maps import build_foreign_maps
from squeezetune.network.graph import build_maps
from squeezetune.network.inference import RunOutputs, open_onnxruntime
from squeezetune.network.trained import TrainedNetwork, read_network
from squeezetune.network.weights import detect_architecture
from squeezetune.system.disk import write_file

# The margin that the views of the middle leave out on each side, as `build_classifier` has it.
MARGIN = 3 / 40
# The axes of maps (views, channels, height, width).
MAP_AXES = 4


@dataclass(frozen=True)
class Mapper:
    """Makes class maps with one network; `run` gives the maps of its layers, or features without
    positions (views, channels), and may be called from many threads.
    """

    network: TrainedNetwork
    run: RunOutputs

    def map_class(self, pixels: NDArray[np.uint8], number: int) -> Floats:
        """Map a class, by its number, on an image (height, width, 3): (side, side), positive where
        it is seen.

        The square is the image as the network sees it, by its policy of resizing.
        """
        layers = self.run(pixels[None])  # one for each tap, (views, channels, height, width)
        if not any(maps.ndim == MAP_AXES for maps in layers):
            raise SettingsError(
                f"{self.network.title} has no maps among its features, so that nobody can say "
                f"where in a photo it sees a class",
                "Train with a network, or with --taps, that have some.",
            )
        side = self.network.side
        views = (
            self._map_convolved(layers[0], number)
            if self.network.is_convolved
            else self._map_taps(layers, number)
        )
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
        means = np.concatenate(
            [maps.mean(axis=(2, 3)) if maps.ndim == MAP_AXES else maps for maps in layers], axis=1
        )
        slopes, views = differentiate(self.network, means, number), []
        for slope, *maps in zip(slopes, *layers, strict=True):
            parts = np.split(slope, np.cumsum([len(tap) for tap in maps])[:-1])
            # what has no positions is nowhere
            shares = (np.tensordot(part, tap, 1) for part, tap in zip(parts, maps, strict=True)
                      if tap.ndim > 1)  # fmt: skip
            views.append(np.sum([_enlarge(share, self.network.side) for share in shares], axis=0))
        return np.stack(views)


def open_mapper(network: TrainedNetwork) -> Mapper:
    """Make a network's layers ready to be looked into; each call runs on the calling thread."""
    if network.foreign:
        graph = build_foreign_maps(network.foreign, views=network.views, resize=network.resize)
        return Mapper(network, open_onnxruntime(graph, "float32", 1))
    tapped = detect_architecture(network.weights).tapped_blocks
    taps = tapped[-1:] if network.is_convolved else tapped
    model = build_maps(
        network.weights, taps, views=network.views, side=network.side, resize=network.resize
    )
    return Mapper(network, open_onnxruntime(model, "float32", 1))


def differentiate(network: TrainedNetwork, means: Floats, number: int) -> Floats:
    """Differentiate the logit of a class, against the mean of all, by the means of the channels:
    (views, features).
    """
    rows, active = (take_roots(means) if network.use_roots else means), []
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
    by_mean: Floats = slopes / (2 * np.sqrt(np.where(means == 0, np.inf, np.abs(means))))
    return by_mean


def _enlarge(values: Floats, side: int) -> Floats:
    """Interpolate a map to the side of what the network sees."""
    image = Image.fromarray(np.ascontiguousarray(values, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _undo_view(values: Floats, view: int) -> Floats:
    """Bring the map of a view to its place: the second is mirrored, the third and fourth are the
    middles of both.
    """
    values = values[:, ::-1] if view % 2 else values
    if view < 2:
        return values
    side = len(values)
    margin = int(MARGIN * side)
    placed = np.zeros_like(values)
    placed[margin : side - margin, margin : side - margin] = _enlarge(values, side - 2 * margin)
    return placed


# A picture's longer side in pixels, and how much of the photo the heat hides where it is hottest.
PICTURE_PX, OPACITY = 480, 0.65
# From little to much: colours of the heat.
COLOURS = np.array([(0, 0, 160), (0, 170, 200), (250, 220, 40), (220, 20, 20)], np.float32)
PICTURE_NAME = re.compile(r"-[0-9a-f]{8}\.png$")


@dataclass(frozen=True)
class Explanation:
    """Where a class is seen in a photo: `heat` (height, width) float32 is 0 where it is not, and 1
    where most.
    """

    label: str
    heat: NDArray[np.float32]
    photo: Image.Image

    def draw(self) -> Image.Image:
        """Lay the heat over the photo, made smaller where it is large."""
        width, height = self.photo.size
        scale = min(1.0, PICTURE_PX / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        photo = np.asarray(self.photo.resize(size, Image.Resampling.BILINEAR), np.float32)
        heat = np.asarray(Image.fromarray(self.heat).resize(size, Image.Resampling.BILINEAR)).clip(
            0, 1
        )
        places = np.linspace(0, 1, len(COLOURS))
        colour = np.stack([np.interp(heat, places, channel) for channel in COLOURS.T], axis=2)
        share = OPACITY * heat[:, :, None]
        return Image.fromarray((photo * (1 - share) + colour * share).round().astype(np.uint8))


@dataclass(frozen=True)
class Explainer:
    """Explains what a classifier, read from its folder, says."""

    classifier: Classifier

    @cached_property
    def _mapper(self) -> Mapper:
        folder = self.classifier.folder
        if folder is None:
            raise ArtifactError(
                "A classifier without a folder cannot explain", "Load it: squeezetune.load(FOLDER)."
            )
        return open_mapper(
            read_network(read_payload(folder / NETWORK, self.classifier.manifest.files[NETWORK]))
        )

    def explain(self, image: RawImage, label: str) -> Explanation:
        """Show where a class is seen in an image.

        Raises:
            ImageError: the image cannot be read.
            SettingsError: there is no such class.

        """
        names = self.classifier.class_names
        if label not in names:
            raise SettingsError(
                f"there is no class {label!r}", f"The model's classes: {', '.join(names)}."
            )
        settings = self.classifier.pixels
        photo, pixels = open_image(image, settings.side), prepare_pixels(image, settings)
        square = np.maximum(self._mapper.map_class(pixels, names.index(label)), 0)
        heat = place_square(square, photo.size, self.classifier.manifest.resize)
        return Explanation(
            label, heat / max(float(heat.max()), float(np.finfo(np.float32).tiny)), photo
        )


def explain(
    model: str | os.PathLike[str] | Classifier, image: ImageLike, label: str = ""
) -> Explanation:
    """Show where in an image a classifier sees a class, by default the likeliest one.

    Raises:
        ArtifactError: the model cannot be used.
        ImageError: the image cannot be read.
        SettingsError: there is no such class.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> squeezetune.explain("flowers-model", "rose.jpg").draw().show()        # doctest: +SKIP

    """
    classifier = model if isinstance(model, Classifier) else load(model)
    if not is_one_image(image):
        raise ImageError(
            f"a {type(image).__name__}; needed is one image", "Explain several one after another."
        )
    source = MemorySource([read_open_file(image)])
    label = label or classifier.predict(source.images[0]).label
    return Explainer(classifier).explain(source.read("0"), label)


def place_square(
    square: NDArray[np.float32], size: tuple[int, int], resize: str
) -> NDArray[np.float32]:
    """Bring a map of what the network sees to the photo (height, width), by the policy that made
    the photo square.
    """
    width, height = size
    heat, side = Image.fromarray(square), len(square)
    if resize == "crop":  # the middle
        edge = min(size)
        placed = np.zeros((height, width), np.float32)
        top, left = (height - edge) // 2, (width - edge) // 2
        placed[top : top + edge, left : left + edge] = np.asarray(
            heat.resize((edge, edge), Image.Resampling.BILINEAR)
        )
        return placed
    if resize == "pad":  # there is something around it
        across, down = side * width / max(size), side * height / max(size)
        box = ((side - across) / 2, (side - down) / 2, (side + across) / 2, (side + down) / 2)
        return np.asarray(heat.resize(size, Image.Resampling.BILINEAR, box=box))
    return np.asarray(heat.resize(size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class PictureFolder:
    """A folder with a picture of each photo: where its class is seen. It holds nothing else."""

    path: Path
    explainer: Explainer

    def check(self) -> None:
        """Make sure that the folder is new, or holds such pictures alone, so that it is none of
        photos.

        Raises:
            SettingsError: it holds something else.

        """
        if not self.path.exists():
            return
        others = (
            []
            if not self.path.is_dir()
            else [p for p in self.path.iterdir() if not PICTURE_NAME.search(p.name)]
        )
        if others or not self.path.is_dir():
            raise SettingsError(
                f"{self.path} holds something else than pictures of this kind; needed is a new "
                f"folder for them",
                "Give another one with --explain; nothing was changed.",
            )

    def add(self, image: RawImage, title: str, label: str) -> Path:
        """Write the picture of one photo; its name ends in a number that is of this title only."""
        buffer = BytesIO()
        self.explainer.explain(image, label).draw().save(buffer, "PNG")
        name = re.sub(r"[^\w.-]", "_", Path(title).name)[-80:]
        path = self.path / f"{name}-{zlib.crc32(title.encode()):08x}.png"
        try:
            write_file(path, buffer.getvalue(), is_durable=False)
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be written: {error.strerror}",
                "Check the disk's space and permissions.",
            ) from error
        return path
