"""The original work's training on somebody's photos: what `fit_classifier` does with the recipe
`original`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy.special import softmax

from squeezetune.data.image_cache import find_pixel_rows, open_pixel_store
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.errors import SettingsError, SourceError
from squeezetune.events import EpochFinished
from squeezetune.finetune.recipe import OriginalRecipe
from squeezetune.heads.candidate import Candidate, StageResult
from squeezetune.heads.linear import measure_loss
from squeezetune.network.graph import build_convolved
from squeezetune.network.pretrained import Pretrained
from squeezetune.network.weights import Weights, detect_version
from squeezetune.network.zoo import ARCHITECTURES
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.extraction import CutIndex
from squeezetune.pipeline.result import take_rows
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import NOTHING_KEPT, CheckpointWriter, UnfinishedRun
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.interrupts import catch_interrupts
from squeezetune.system.store import StoredRows

if TYPE_CHECKING:
    from squeezetune.finetune.original_loop import OriginallyTuned
    from squeezetune.finetune.torch_network import SqueezeNet

STAGE = "original recipe"
# Then as now: the photos of every set were brought to this size.
SIDE_PX = 224


@dataclass(frozen=True)
class OriginalPhotos:
    """The photos that can be decoded, their split, and the pixels of those that train or judge."""

    index: ImageIndex
    split: Split
    pixels: PixelSettings
    rows: StoredRows

    @property
    def judging(self) -> NDArray[np.int64]:
        """The positions of the validation images; of the training images where there are too few to
        hold any back.
        """
        return self.split.validation if len(self.split.validation) else self.split.train


@dataclass(frozen=True)
class OriginalResult:
    """A network trained by the original recipe, as a `TrainingResult`.

    `weights` are those of all layers by torchvision's names, with the batch normalisation as it was
    trained; `folded` are the classifier's (512, classes) and (classes,) with it folded in.
    `probabilities` (n, classes) are torch's own of the judging images, to be compared with those of
    the file.
    """

    photos: OriginalPhotos
    recipe: OriginalRecipe
    pretrained: Pretrained
    weights: Weights
    folded: tuple[NDArray[np.float32], NDArray[np.float32]]
    chosen: Candidate
    probabilities: NDArray[np.float32]
    is_finished: bool
    model: bytes = b""
    network: bytes = b""

    familiarities: Mapping[str, Any] = field(default_factory=dict)  # its features are others

    engine_name = "torch"
    has_trained_layers = True
    stages: tuple[StageResult, ...] = ()  # there was one only

    @property
    def timed_choices(self) -> dict[str, Any]:
        """Return the settings that a timing has chosen: none."""
        return {}

    @property
    def network_name(self) -> str:
        """Name the network and what was done with it."""
        return f"{self.pretrained.network}, the original recipe"

    @property
    def index(self) -> ImageIndex:
        """The photos that can be decoded."""
        return self.photos.index

    @property
    def split(self) -> Split:
        """Which of them train, which judge, and which measure."""
        return self.photos.split

    @property
    def sizes(self) -> NDArray[np.int32]:
        """The photos' own widths and heights in pixels (n, 2); not positive where nobody has
        looked.
        """
        return self.photos.rows.sizes

    @property
    def pixels(self) -> PixelSettings:
        """How an image becomes what the network sees."""
        return self.photos.pixels

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All that was tried."""
        return (self.chosen,)

    @property
    def history(self) -> tuple[EpochFinished, ...]:
        """The epochs, in order."""
        return self.chosen.history

    def knows(self, positions: NDArray[np.int64]) -> bool:
        """Say whether torch's own probabilities of all these images are known."""
        return bool(np.isin(positions, self.photos.judging).all())

    def recall(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return torch's own probabilities (n, classes) of judging images."""
        return take_rows(self.probabilities, self.photos.judging, positions)


def learn_original(
    index: ImageIndex, cut: CutIndex, context: RunContext, unfinished: UnfinishedRun = NOTHING_KEPT
) -> OriginalResult:
    """Train as the original work did, or go on where an unfinished run stopped; the two files are
    not made yet.

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: the weights are of another network.
        DataError: no image can be decoded, or too few of a class.
        CheckpointError: the unfinished run is of other photos or settings.

    """
    from squeezetune.finetune.original_loop import build_original, fold_classifier
    from squeezetune.finetune.torch_network import export_weights

    settings, pretrained = context.settings, context.pretrained
    if (
        not isinstance(pretrained, Pretrained)
        or pretrained.architecture.version not in ARCHITECTURES
    ):
        raise SettingsError(
            f"the weights are those of {pretrained.network}; the original recipe is one of "
            f"SqueezeNet",
            "Give weights of squeezenet1_0 or squeezenet1_1, or leave the recipe out.",
        )
    recipe = choose_recipe(settings)
    with open_photos(index, cut, context) as photos:
        network = build_original(
            pretrained.weights, len(photos.index.class_names), recipe, settings.seed
        )
        tuned = tune(network, photos, recipe, context, unfinished)
    return OriginalResult(
        photos,
        recipe,
        pretrained,
        export_weights(network),
        fold_classifier(network),
        judge(photos, recipe, tuned),
        softmax(tuned.logits, axis=1).astype(np.float32),
        tuned.is_finished,
    )


def choose_recipe(settings: Settings) -> OriginalRecipe:
    """Choose the recipe's own options by the settings."""
    epochs = int(settings.epochs) or OriginalRecipe().epochs
    return OriginalRecipe(epochs, settings.classifier_norm, settings.last_blocks)


@contextmanager
def open_photos(index: ImageIndex, cut: CutIndex, context: RunContext) -> Iterator[OriginalPhotos]:
    """Decode the photos that train or judge, once; they are split anew without those that cannot be
    decoded.

    Their pixels are in the cache, or for this run alone in a temporary folder.
    """
    pixels = PixelSettings(context.settings.image_side or SIDE_PX, context.settings.resize)
    with cache_or_temporary(context.cache) as folder:
        store = open_pixel_store(folder, pixels)
        while True:
            split = cut(index)
            used = np.union1d(split.train, split.validation)
            rows, failures = find_pixel_rows(
                index, pixels, store, context.executor, context.listen, used
            )
            if not failures:
                break
            if len(failures) == len(used):
                name, reason = next((index.names[at], reason) for at, reason in failures.items())
                message = f"none of {len(used):,} images can be decoded, e.g. {name}: {reason}"
                raise SourceError(message, "Replace the damaged files.")
            index = index.without(failures)
        yield OriginalPhotos(index, split, pixels, rows)


def tune(
    network: "SqueezeNet",
    photos: OriginalPhotos,
    recipe: OriginalRecipe,
    context: RunContext,
    unfinished: UnfinishedRun,
) -> "OriginallyTuned":
    """Train the network; the run is kept after every epoch, where there is a place for it."""
    from squeezetune.finetune.original_loop import OriginalInputs, tune_original
    from squeezetune.finetune.workers import TrainerOptions

    identity, listen = context.identify_run(photos.index), context.listen
    identity |= {"recipe": asdict(recipe), "torch": version("torch")}
    kept = unfinished.load(identity)
    material = OriginalInputs(photos.rows, photos.index.labels, photos.split.train, photos.judging)
    with ExitStack() as stack:
        interruption = stack.enter_context(catch_interrupts(listen))
        keep = None
        if unfinished.folder:
            writer = stack.enter_context(CheckpointWriter(unfinished.folder, listen))

            def keep(tensors: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
                writer.save(tensors, {"identity": identity, **about})

        seed, threads = context.settings.seed, context.threads
        conditions = TrainerOptions(STAGE, seed, threads, "float32", listen, interruption.poll)
        return tune_original(network, material, recipe, conditions, kept, keep)


def judge(photos: OriginalPhotos, recipe: OriginalRecipe, tuned: "OriginallyTuned") -> Candidate:
    """Judge the network as the last epoch left it; its probabilities stay as they are, without a
    temperature.
    """
    labels = photos.index.labels[photos.judging]
    is_correct = tuned.logits.argmax(axis=1) == labels
    loss = measure_loss(tuned.logits, labels)
    return Candidate(recipe.name, (), 1, None, is_correct, loss, 1.0, tuned.seconds, tuned.history)


def pack_files(learned: OriginalResult, metadata: Mapping[str, str]) -> OriginalResult:
    """Write the network as `model.onnx` and, with the batch normalisation as it was trained,
    `network.safetensors`.
    """
    pixels = learned.pixels
    model = build_convolved(
        learned.weights, learned.folded, side=pixels.side, resize=pixels.resize, metadata=metadata
    )
    tensors = {name: _shrink(value) for name, value in learned.weights.items()}
    about = {
        "views": 1,
        "image_side": pixels.side,
        "resize": pixels.resize,
        "use_roots": False,
        "squeezenet": detect_version(learned.weights),
    }
    return replace(
        learned, model=model, network=save(tensors, metadata={"squeezetune": json.dumps(about)})
    )


def _shrink(values: NDArray[np.float32]) -> NDArray[Any]:
    """Store values as float16 where it holds them exactly, as it does those of the frozen
    layers.
    """
    half = values.astype(np.float16)
    return half if np.array_equal(half, values) else values
