"""How layers are trained, without torch: every number of it, and how a stage gets on by epochs or
the clock.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, log2
from typing import Any, Protocol

from squeezetune.network.architecture import NetworkLayout
from squeezetune.network.zoo import SQUEEZENET1_1

# Where a stage starts that trains all layers: with the images, and not behind a block.
FROM_IMAGES = ""
# The linear probe that the training of layers begins with is fitted on at most this many images, in
# both views.
PROBE_IMAGES = 10_000

# At most so many pixels, or four images, go through the network at once on one thread, in bfloat16
# and in float32: more go over memory instead of the processor's cache, and with fewer the fixed
# time of each layer's calls weighs more.
MICRO_PIXELS, LEAST_MICRO_IMAGES = {True: 36 * 128 * 128, False: 18 * 128 * 128}, 4


def count_micro(
    side: int, most_pixels: float = inf, times: int = 1, *, has_bfloat16: bool = True
) -> int:
    """Count the images that go through the network at once on a thread that trains, as far as
    memory allows.

    `times` as many where what they are read from is so much smaller than the images.
    """
    best = max(LEAST_MICRO_IMAGES, MICRO_PIXELS[has_bfloat16] // side**2)
    return int(times * min(best, max(1.0, most_pixels / side**2)))


# Where more images than this are shown to the network, counting each time, pieces of others are put
# into some of them.
IMAGES_BEFORE_MIXING, MOST_MIXING = 300_000, 0.5
# Light and colour of training images change by up to this share; by more where there are few of
# them.
LIGHT, MORE_LIGHT, FEW_IMAGES = 0.2, 0.4, 10_000


@dataclass(frozen=True)
class Augmentation:
    """How strongly training images are changed; every strength is drawn evenly up to its limit.

    `zoom` is the smallest side of a crop as a share of the image's, `stretch` the largest ratio of
    its sides; `light` and `colour` change brightness and contrast, and saturation, by up to that
    share; `erase` is the probability that a square of a fifth to two fifths of the side is blanked.
    """

    zoom: float = 0.85
    stretch: float = 1.0
    mirror: bool = True
    light: float = 0.0
    colour: float = 0.0
    erase: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How the layers are trained; chosen by the tables under `benchmarks/recipes`.

    `rate` is the change of the last Fire module's kernels in one step as a share of their norm,
    `head_rate` that of all other parameters in AdamW's terms; both fall by `layer_decay` a block
    towards the first. `averaging` is the horizon of the averaged weights as a share of the run,
    `mixing` the share of images that get a piece of another. The first `frozen_blocks` stay as they
    are: their gradients cost the most time, and change the least.
    """

    rate: float = 0.007
    head_rate: float = 1e-3
    layer_decay: float = 0.85
    momentum: float = 0.95
    weight_decay: float = 0.05
    smoothing: float = 0.05
    batch: int = 128
    warm_up: float = 0.1
    final_rate: float = 0.01
    averaging: float = 0.05
    mixing: float = 0.0
    frozen_blocks: int = 1
    augmentation: Augmentation = field(
        default_factory=lambda: Augmentation(light=LIGHT, colour=LIGHT)
    )


@dataclass(frozen=True)
class Phase:
    """A part of a stage at one image size; `share` is its part of the stage's work."""

    side: int
    share: float


@dataclass(frozen=True)
class StagePlan:
    """One stage of fine-tuning: from which block on, at which sizes, for how many epochs, counted
    at the last size.

    Where the blocks before `start` stay frozen, their output is kept for so many random views of an
    image besides the image and its mirror image.
    """

    name: str
    start: str
    phases: tuple[Phase, ...]
    epochs: float
    recipe: Recipe
    extra_views: int = 0

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "StagePlan":
        """Make a plan of plain values, as `dataclasses.asdict` gives them."""
        recipe = dict(values["recipe"])
        recipe["augmentation"] = Augmentation(**recipe["augmentation"])
        phases = tuple(Phase(**phase) for phase in values["phases"])
        return cls(**{**values, "phases": phases, "recipe": Recipe(**recipe)})

    @property
    def title(self) -> str:
        """The stage with the sizes that it trains at, for readers: "all layers at 96, 128 px"."""
        return f"{self.name} at {', '.join(str(phase.side) for phase in self.phases)} px"

    @property
    def is_whole(self) -> bool:
        """Say whether all layers are trained, from pixels."""
        return self.start == FROM_IMAGES

    @property
    def side(self) -> int:
        """The image size that the trained network is made for."""
        return self.phases[-1].side

    def find_side(self, progress: float) -> int:
        """Find the image size at this progress, 0 to 1."""
        total, end = sum(phase.share for phase in self.phases), 0.0
        for phase in self.phases:
            end += phase.share / total
            if progress < end:
                return phase.side
        return self.side

    def list_rest(self, progress: float) -> list[Phase]:
        """List the phases that are still to come at this progress, with what is left of their
        shares of the stage.
        """
        total, start, rest = sum(phase.share for phase in self.phases), 0.0, []
        for phase in self.phases:
            end = start + phase.share / total
            if end > progress:
                rest.append(Phase(phase.side, end - max(start, progress)))
            start = end
        return rest


def choose_recipe(images: int, epochs: float, network: NetworkLayout = SQUEEZENET1_1) -> Recipe:
    """Choose the numbers for a network, and so many training images and epochs.

    The batch leaves at least 16 steps an epoch. Mixing begins where so many images are shown that
    the network would know them by heart, and is at its strongest where there are four times as
    many. Fewer images show fewer kinds of light, and more is made of them.
    """
    batch = max(8, min(128, images // 16))
    doublings = log2(max(1.0, images * epochs / IMAGES_BEFORE_MIXING))
    light = LIGHT if images > FEW_IMAGES else MORE_LIGHT
    augmentation = Augmentation(light=light, colour=light)
    return Recipe(
        batch=batch,
        mixing=round(MOST_MIXING * min(1.0, doublings / 2), 2),
        frozen_blocks=network.frozen_blocks,
        augmentation=augmentation,
    )


@dataclass(frozen=True)
class OriginalRecipe:
    """How the original SqueezeTune (2018) was trained, where a number is not torch's own default.

    Adam with a fixed rate on cross-entropy, for so many epochs: 5 for CIFAR-10, 10 for ETH-80, 20
    for AR faces then. `norm` says what stands before the classifier's convolution, "batch" or
    "none", where SqueezeNet's dropout stays; `last_fires` Fire modules are trained with it.
    """

    epochs: int = 10
    norm: str = "batch"
    last_fires: int = 0
    rate: float = 1e-3
    batch: int = 64

    @property
    def name(self) -> str:
        """Name the network by what is new in it, for readers."""
        first = "batch normalisation" if self.norm == "batch" else "dropout"
        trained = (
            f", last {self.last_fires} Fire modules trained"
            if self.last_fires > 1
            else ", fire9 trained"
        )
        return f"{first} and convolution{trained if self.last_fires else ''}"


class StageProgress(Protocol):
    """Says how far a step takes the stage."""

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of the stage that a step at this image size makes up, if it takes so
        many seconds.
        """
        ...


@dataclass(frozen=True)
class EpochPace:
    """A fixed number of epochs of so many steps, counted at `side`: smaller images are less work,
    so more fit in.
    """

    steps: int
    epochs: float
    side: int

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of a step, whatever it takes."""
        return (side / self.side) ** 2 / (self.steps * self.epochs)


@dataclass(frozen=True)
class ClockPace:
    """So many epochs, or fewer, so that the stage ends in time; `seconds_left` is asked anew for
    each step.
    """

    epochs: EpochPace
    seconds_left: Callable[[], float]

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of a step, of what is left to do and of the time that is left for it."""
        left = self.seconds_left()
        in_time = (1 - progress) * min(1.0, step_s / left) if left > 0 else 1 - progress
        return max(in_time, self.epochs.measure_share(progress, side, step_s))


# What follows training is taken to last at least and at most so many times as long as forecast.
LEAST_SLOWNESS, MOST_SLOWNESS = 0.7, 3.0


@dataclass(frozen=True)
class Ending:
    """The end of a run by `time.perf_counter`, and the seconds `after_s` that what follows training
    is to take.

    They were forecast for a machine on which a step takes `step_s` and, for each pixel of an
    image's square, `pixel_s`.
    """

    deadline: float
    after_s: float
    pixel_s: float
    step_s: float = 0.0

    def find_left(self, now: float, side: int, step_s: float) -> float:
        """Find the seconds that are left for training if a step takes so long at this size.

        What follows takes longer, or less long, as steps do: a moment in which the machine was
        slow, or is, is told from what the work takes. Less time is believed half only, since more
        has then to fit into the rest.
        """
        forecast_s = self.step_s + self.pixel_s * side**2
        slowness = step_s / forecast_s if step_s and forecast_s else 1.0  # nothing is known yet
        slowness = slowness if slowness > 1 else (1 + slowness) / 2
        return (
            self.deadline - now - self.after_s * min(max(slowness, LEAST_SLOWNESS), MOST_SLOWNESS)
        )


@dataclass(frozen=True)
class DeadlinePace:
    """So many epochs, or fewer, so that the run ends in time with all that follows the stage."""

    epochs: EpochPace
    ending: Ending
    clock: Callable[[], float] = field(default=time.perf_counter)

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of a step, of what is left to do and of the time that is left for it."""
        left_s = self.ending.find_left(self.clock(), side, step_s)
        return ClockPace(self.epochs, lambda: left_s).measure_share(progress, side, step_s)
