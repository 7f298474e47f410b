"""How long each part of a run will take: from counts of images and the speeds of this machine."""

from dataclasses import dataclass, replace

from squeezetune.events import FAMILIARITY, MEASURING, REPORT
from squeezetune.finetune.recipe import PROBE_IMAGES, Recipe, StagePlan
from squeezetune.heads.head_data import PILOT_IMAGES, WATCHED_IMAGES
from squeezetune.network.activations import choose_kind, make_form
from squeezetune.network.architecture import Architecture, NetworkLayout
from squeezetune.network.zoo import SQUEEZENET1_1

# Kept back of a budget: a share of it, and what the start of Python, writing the report and leaving
# take, where a plain loop of Python takes so long (`speeds.time_python`).
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
    `network` is what is trained.
    """

    train: int
    validation: int
    test: int
    unseen: int
    unkept: int
    side: int
    room_bytes: int = 10**12
    is_kept: bool = True
    network: NetworkLayout = SQUEEZENET1_1
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


@dataclass(frozen=True)
class Timing:
    """How long each part of a run takes, in seconds: how much there is to do, at this machine's
    speeds.
    """

    work: Workload
    speeds: Speeds

    def count_anew(self, **counts: int) -> "Timing":
        """Take other counts for some of the work, such as none for what has been done."""
        return replace(self, work=replace(self.work, **counts))  # type: ignore[arg-type]

    def slow_down(self, factor: float, *names: str) -> "Timing":
        """Let some parts of the work take so many times as long, within reason."""
        factor = min(max(factor, 1 / MOST_SLOWING), MOST_SLOWING)
        values = {name: getattr(self.speeds, name) for name in names}
        slowed = {name: value and value * factor for name, value in values.items()}
        return replace(self, speeds=replace(self.speeds, **slowed))

    def forecast_features(self, views: int, images: float) -> float:
        """Forecast how long the frozen layers look at so many images."""
        return images * (self.speeds.read_s + views * self.speeds.view_s)

    def forecast_near_duplicates(self, images: float, unseen: float) -> float:
        """Forecast how long all pairs of images are compared, of which so many have yet to be
        decoded.
        """
        pairs_s = PAIR_TIMES * images**2 * self.speeds.pair_s
        return unseen * self.speeds.read_s + (
            pairs_s + OVERLAYS * CANDIDATES * images * self.speeds.overlay_s
        )

    def forecast_probe(self, side: int, batch: int) -> float:
        """Forecast how long the training of layers on images of this size is timed, in steps of so
        many.
        """
        # a small step is told from a full one
        images = batch + (Recipe().batch if batch < Recipe().batch else 0)
        image_s = STEP_TIMES * self.speeds.file_s * (side / self.work.side) ** 2
        return TORCH_TIMES * self.speeds.python_s + TIMED_STEPS * images * image_s

    def forecast_head(self, views: int, images: float, *, is_linear: bool) -> float:
        """Forecast how long a head is fitted on so many images."""
        pilot = PILOT_FITS * PILOT_TIMES * min(images, PILOT_IMAGES)
        linear_s = views * self.speeds.linear_s * (pilot + HEAD_TIMES * images)
        return 0.5 + linear_s + (0.0 if is_linear else views * images * self.speeds.hidden_s)

    def forecast_stage(self, stage: StagePlan) -> float:
        """Forecast a stage of training: its probe, what it reads, its epochs and its judgement."""
        return self.forecast_frame(stage) + stage.epochs * self.measure_epoch(stage)

    def forecast_frame(self, stage: StagePlan) -> float:
        """Forecast what a stage takes besides its epochs."""
        speeds = self.speeds
        probe_s = 1.0 + PLAIN_VIEWS * min(self.work.train, PROBE_IMAGES) * speeds.linear_s
        image_s = speeds.read_s
        if not stage.is_whole:
            image_s += (PLAIN_VIEWS + stage.extra_views) * speeds.view_s + stage.extra_views * (
                speeds.draw_s or 0.0
            )
        return probe_s + self.work.unkept * image_s + self.forecast_judgement(stage)

    def forecast_judgement(self, stage: StagePlan) -> float:
        """Forecast how long the last and the averaged weights name validation images, in two
        views.
        """
        images = self.work.validation + 2 * min(self.work.validation, WATCHED_IMAGES)
        return 2 * images * self._measure_naming(stage)

    def measure_epoch(self, stage: StagePlan) -> float:
        """Forecast an epoch, counted at the last size of a stage, and the look at validation
        images.
        """
        watched = min(self.work.validation, WATCHED_IMAGES)
        return self.work.train * self.measure_training(stage) + watched * self._measure_naming(
            stage
        )

    def measure_training(self, stage: StagePlan) -> float:
        """Return how long a stage trains on an image, counted at its last size, with its part of
        the step.
        """
        if not stage.is_whole:
            return self.measure_image(stage)
        # smaller images count for less, so more of them are seen
        seen = sum(phase.share * (stage.side / phase.side) ** 2 for phase in stage.phases)
        seen /= sum(phase.share for phase in stage.phases)
        return self.measure_image(stage) + seen * self.speeds.step_s / stage.recipe.batch

    def measure_image(self, stage: StagePlan) -> float:
        """Return how long an image of its last size takes a stage, without what a step takes
        besides.
        """
        if stage.is_whole:
            return stage.side**2 * (self.speeds.pixel_s or 0.0)
        return self.speeds.last_s or 0.0

    def _measure_naming(self, stage: StagePlan) -> float:
        """Return how long the network in training takes to name an image."""
        return FORWARD_SHARE * self.measure_image(stage)

    def forecast_end(self, side: int, views: int, *, is_deep: bool) -> tuple[Forecast, ...]:
        """Forecast what follows the training of a network for images of this size: of its layers,
        or of its head alone.
        """
        image_s = self._forecast_image(side, views)
        compared = min(self.work.validation, COMPARED_IMAGES)
        # starting Python, drawing the report and leaving take no images, but a slow machine's time
        report_s = RESERVE_S * max(1.0, self.speeds.python_s / PYTHON_S)
        end = (
            Forecast(MEASURING, self.work.test * image_s),
            Forecast(REPORT, report_s + compared * image_s),
        )
        if not is_deep:
            return end
        return (Forecast(FAMILIARITY, self.forecast_familiarity(side, views)), *end)

    def forecast_familiarity(self, side: int, views: int) -> float:
        """Forecast how long layers that were trained look once more at some images."""
        work = self.work
        looked_at = min(work.train, FAMILIAR_IMAGES) + min(work.validation, FAMILIAR_IMAGES)
        return looked_at * self._forecast_image(side, views)

    def _forecast_image(self, side: int, views: int) -> float:
        """Forecast how long an image of this size takes, from the disk to its class."""
        return self.speeds.read_s + views * self.speeds.file_s * (side / self.work.side) ** 2


def measure_room(stage: StagePlan, work: Workload, network: Architecture) -> int:
    """Compute the bytes on disk of one more view of every image for a stage that reads
    activations.
    """
    block = network.name_before(stage.start)
    form = make_form(block, choose_kind(network, block), 1, stage.side, network)
    return work.unkept * form.row_bytes
