"""How long each part of a run will take: from counts of images and the speeds of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from squeezetune.finetune.recipe import PROBE_IMAGES, Recipe, StagePlan
from squeezetune.heads.head_data import PILOT_IMAGES, WATCHED_IMAGES
from squeezetune.network.activations import make_form
from squeezetune.network.graph import BLOCKS
from squeezetune.network.weights import find_architecture

# Kept back of a budget: a share of it, and what the start of Python, writing the report and leaving
# take, where a plain loop of Python takes so long (`probing.time_python`).
RESERVE_SHARE, RESERVE_S, PYTHON_S = 0.03, 4.5, 0.01
# A forward pass alone costs this share of a training step.
FORWARD_SHARE = 0.5
# A measured speed is corrected by no more than this.
MOST_SLOWING = 5.0
# Before a linear head is fitted on all images, it is fitted on a pilot for each penalty and for
# fewer views, at so many times the cost of a row; reading and scaling the features of all takes the
# other part of the second factor.
PILOT_FITS, PILOT_TIMES, HEAD_TIMES = 4, 2.0, 1.5
# The file that a run leaves is held against the trained network on at most so many validation
# images.
COMPARED_IMAGES = 500
# Layers that were trained look once more at so many training and validation images each, as far as
# there are so many.
FAMILIAR_IMAGES = 500
# All pairs are compared by their descriptions, at so many times what the timing says; so many
# candidates of an image are laid over each other, at up to three sizes
# (docs/decisions/0019-budgets.md).
PAIR_TIMES, CANDIDATES, OVERLAYS = 1.2, 1.0, 2.0
# Loading torch takes so many times as long as a plain loop of Python; a step of training all layers
# takes so many times as long as `model.onnx` over the same images. Three steps are timed after a
# first one.
TORCH_TIMES, STEP_TIMES, TIMED_STEPS = 200.0, 2.0, 4
# The image and its mirror image are kept besides the views that are drawn.
PLAIN_VIEWS = 2


@dataclass(frozen=True)
class Workload:
    """How much there is to do: counts of images, and the size that they are seen at.

    `unseen` images lack features, `unkept` ones lack pixels, or activations, for the training of
    layers; `compared` ones are yet to be compared with each other, 0 where nobody looks for
    near-duplicates or these are known, and of all images `unlooked` ones are not among what the
    frozen layers look at. `room_bytes` may be filled with what is kept (the default is more than
    anybody needs). `is_kept` says that what is computed once is there for the rest of the run.
    `version` is that of the network.
    """

    train: int
    validation: int
    test: int
    unseen: int
    unkept: int
    side: int
    room_bytes: int = 10**12
    is_kept: bool = True
    version: str = "1.1"
    compared: int = 0
    unlooked: int = 0

    @property
    def images(self) -> int:
        """All images of the three parts."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Speeds:
    """Seconds that this machine takes, with all its threads: for an image, a view of it, or a row
    of features.

    `read_s` decodes an image, `view_s` runs the frozen layers on a view, `file_s` does so as
    `model.onnx` does, `linear_s` and `hidden_s` learn a row, and `pixel_s` trains all layers on one
    pixel of an image; None without torch. `step_s` is what a step of that takes besides, 0 where so
    many images share it that it is counted among theirs. `last_s` trains the last blocks on what
    the blocks before them gave for an image, `draw_s` draws a random view; None where nobody may
    want it. `pair_s` compares the descriptions of two images, `overlay_s` lays one over another,
    and `python_s` runs a plain loop of Python.
    """

    read_s: float
    view_s: float
    file_s: float
    linear_s: float
    hidden_s: float
    pixel_s: float | None = None
    step_s: float = 0.0
    last_s: float | None = None
    draw_s: float | None = None
    pair_s: float = 1e-9
    overlay_s: float = 2e-5
    python_s: float = PYTHON_S

    @property
    def trains_layers(self) -> bool:
        """Say whether it was measured how fast layers are trained."""
        return self.pixel_s is not None or self.last_s is not None


@dataclass(frozen=True)
class Forecast:
    """How long one part of the run will take."""

    part: str
    seconds: float


def forecast_features(views: int, images: float, speeds: Speeds) -> float:
    """Forecast the seconds in which the frozen layers look at so many images."""
    return images * (speeds.read_s + views * speeds.view_s)


def forecast_near_duplicates(images: float, unseen: float, speeds: Speeds) -> float:
    """Forecast the seconds in which all pairs of images are compared, of which so many have yet to
    be decoded.
    """
    pairs_s = (
        PAIR_TIMES * images**2 * speeds.pair_s + OVERLAYS * CANDIDATES * images * speeds.overlay_s
    )
    return unseen * speeds.read_s + pairs_s


def forecast_probe(work: Workload, side: int, batch: int, speeds: Speeds) -> float:
    """Forecast the seconds in which the training of layers on images of this size is timed, in
    steps of so many.
    """
    images = batch + (
        Recipe().batch if batch < Recipe().batch else 0
    )  # a small step is told from a full one
    image_s = STEP_TIMES * speeds.file_s * (side / work.side) ** 2
    return TORCH_TIMES * speeds.python_s + TIMED_STEPS * images * image_s


def forecast_report(speeds: Speeds) -> float:
    """Forecast the seconds that the start of Python, the report and leaving take."""
    return RESERVE_S * max(1.0, speeds.python_s / PYTHON_S)


def forecast_head(views: int, images: float, speeds: Speeds, *, is_linear: bool) -> float:
    """Forecast the seconds in which a head is fitted on so many images."""
    pilot = PILOT_FITS * PILOT_TIMES * min(images, PILOT_IMAGES)
    linear_s = views * speeds.linear_s * (pilot + HEAD_TIMES * images)
    return 0.5 + linear_s + (0.0 if is_linear else views * images * speeds.hidden_s)


def forecast_end(
    side: int, views: int, work: Workload, speeds: Speeds, *, is_deep: bool
) -> tuple[Forecast, ...]:
    """Forecast what follows the training of a network for images of this size: of its layers, or of
    its head alone.
    """
    image_s = forecast_image(side, views, work, speeds)
    compared = min(work.validation, COMPARED_IMAGES)
    end = (
        Forecast("measuring", work.test * image_s),
        Forecast("report", forecast_report(speeds) + compared * image_s),
    )
    return (
        (Forecast("familiarity", forecast_familiarity(side, views, work, speeds)), *end)
        if is_deep
        else end
    )


def forecast_familiarity(side: int, views: int, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds in which layers that were trained look once more at some images."""
    looked_at = min(work.train, FAMILIAR_IMAGES) + min(work.validation, FAMILIAR_IMAGES)
    return looked_at * forecast_image(side, views, work, speeds)


def forecast_image(side: int, views: int, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds that an image takes, from the disk to its class, with images of this
    size.
    """
    return speeds.read_s + views * speeds.file_s * (side / work.side) ** 2


def forecast_stages(
    stages: Sequence[StagePlan], work: Workload, speeds: Speeds
) -> tuple[Forecast, ...]:
    """Forecast the seconds of every stage of training."""
    return tuple(
        Forecast(describe_stage(stage), forecast_stage(stage, work, speeds)) for stage in stages
    )


def forecast_stage(stage: StagePlan, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds of a stage of training: its probe, what it reads, its epochs and its
    judgement.
    """
    return forecast_frame(stage, work, speeds) + stage.epochs * measure_epoch(stage, work, speeds)


def forecast_frame(stage: StagePlan, work: Workload, speeds: Speeds) -> float:
    """Forecast what a stage takes besides its epochs."""
    probe_s = 1.0 + PLAIN_VIEWS * min(work.train, PROBE_IMAGES) * speeds.linear_s
    image_s = speeds.read_s
    if not stage.is_whole:
        image_s += (PLAIN_VIEWS + stage.extra_views) * speeds.view_s + stage.extra_views * (
            speeds.draw_s or 0.0
        )
    return probe_s + work.unkept * image_s + forecast_judgement(stage, work, speeds)


def forecast_judgement(stage: StagePlan, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds in which the last and the averaged weights name validation images, in
    two views.
    """
    images = work.validation + 2 * min(work.validation, WATCHED_IMAGES)
    return 2 * images * measure_naming(stage, speeds)


def measure_epoch(stage: StagePlan, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds of an epoch, counted at the last size of a stage, and of the look at
    validation images.
    """
    watched = min(work.validation, WATCHED_IMAGES)
    return work.train * measure_training(stage, speeds) + watched * measure_naming(stage, speeds)


def measure_naming(stage: StagePlan, speeds: Speeds) -> float:
    """Return the seconds that the network in training takes to name an image."""
    return FORWARD_SHARE * measure_image(stage, speeds)


def measure_room(stage: StagePlan, work: Workload) -> int:
    """Compute the bytes on disk of one more view of every image for a stage that reads
    activations.
    """
    block = BLOCKS[BLOCKS.index(stage.start) - 1]
    return (
        work.unkept
        * make_form(block, "uint8", 1, stage.side, find_architecture(work.version)).row_bytes
    )


def slow_down(speeds: Speeds, factor: float, names: Sequence[str]) -> Speeds:
    """Let some parts of the work take so many times as long, within reason."""
    factor = min(max(factor, 1 / MOST_SLOWING), MOST_SLOWING)
    values = {name: getattr(speeds, name) for name in names}
    return replace(speeds, **{name: value and value * factor for name, value in values.items()})


def describe_stage(stage: StagePlan) -> str:
    """Name a stage with the sizes that it trains at."""
    return f"{stage.name} at {', '.join(str(phase.side) for phase in stage.phases)} px"


def measure_training(stage: StagePlan, speeds: Speeds) -> float:
    """Return the seconds that a stage trains on an image, counted at its last size, with its part
    of the step.
    """
    if not stage.is_whole:
        return measure_image(stage, speeds)
    # smaller images count for less, so more of them are seen
    seen = sum(phase.share * (stage.side / phase.side) ** 2 for phase in stage.phases)
    seen /= sum(phase.share for phase in stage.phases)
    return measure_image(stage, speeds) + seen * speeds.step_s / stage.recipe.batch


def measure_image(stage: StagePlan, speeds: Speeds) -> float:
    """Return the seconds that an image of its last size takes a stage, without what a step takes
    besides.
    """
    return (stage.side**2 * (speeds.pixel_s or 0.0)) if stage.is_whole else (speeds.last_s or 0.0)
