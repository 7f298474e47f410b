"""An index and its split -> a trained network and the file that predicts with it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

from squeezetune.artifact import Manifest
from squeezetune.checkpoint import CheckpointFolder
from squeezetune.course import compare_stages, train_stages
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.deepened import Deepened, find_best
from squeezetune.deepening import Ground, Workshop
from squeezetune.engine import Engine, ThreadEngine, count_cores
from squeezetune.events import EpochFinished, Listener
from squeezetune.learn.dense import Layers
from squeezetune.learn.features import Features
from squeezetune.learn.graph import build_classifier
from squeezetune.learn.head import Candidate, Head, LabelledFeatures, fit_head
from squeezetune.learn.pretrained import Pretrained, load_pretrained
from squeezetune.learn.stages import StageResult
from squeezetune.learn.trunk import Trunk
from squeezetune.learn.weights import Weights, detect_version
from squeezetune.machine import list_libraries, name_version
from squeezetune.original import LearnedOriginal, learn_original, pack_files
from squeezetune.scene import find_deadline, open_scene, plan_run
from squeezetune.scratch import Selection
from squeezetune.settings import Settings
from squeezetune.survey import CutIndex, Survey, survey_images


@dataclass(frozen=True)
class Learned:
    """A trained network: its parts, the features it was trained on, and the bytes of its two files.

    `trained` is what every stage of training layers left, in order: candidates against the frozen layers' head.
    """

    survey: Survey
    trunk: Trunk
    head: Head
    pretrained: Pretrained
    trained: tuple[Deepened, ...] = ()
    model: bytes = b""
    network: bytes = b""

    @property
    def index(self) -> ImageIndex:
        """The photos that can be decoded."""
        return self.survey.index

    @property
    def split(self) -> Split:
        """Which of them train, which judge, and which measure."""
        return self.survey.split

    @property
    def judges(self) -> NDArray[np.int64]:
        """The validation images that the network in `model` was judged on."""
        return self.split.validation if self.best else self.survey.seen.validation

    @property
    def features(self) -> Features:
        """What the frozen layers make of the images that they have looked at."""
        return self.survey.features

    @property
    def deepened(self) -> Deepened | None:
        """What the last stage of training layers left; None where none were trained."""
        return self.trained[-1] if self.trained else None

    @property
    def best(self) -> Deepened | None:
        """The stage whose network `model` holds; None where the frozen layers' head is better on validation."""
        return find_best(self.trained, self.head.chosen)

    @property
    def chosen(self) -> Candidate:
        """The network that `model` holds, as a candidate."""
        return self.best.candidate if self.best else self.head.chosen

    @property
    def is_deepened(self) -> bool:
        """Say whether `model` holds trained layers, because they are better on the validation part."""
        return self.best is not None

    @property
    def side(self) -> int:
        """The size in pixels at which the network that `model` holds sees images."""
        return self.best.plan.side if self.best else self.trunk.pixels.side

    @property
    def pixels(self) -> PixelSettings:
        """How an image becomes what the network in `model` sees."""
        return replace(self.trunk.pixels, side=self.side)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """The photos' own widths and heights in pixels (n, 2); not positive where nobody has looked."""
        return self.features.sizes

    @property
    def network_name(self) -> str:
        """Name the network and what was done with it."""
        trained = f"{self.best.plan.name} trained" if self.best else "frozen"
        return f"{self.pretrained.network}, {trained}"

    @property
    def engine_name(self) -> str:
        """Name what ran the frozen layers."""
        return str(self.trunk.runtime)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All heads that were tried."""
        return self.head.candidates

    @property
    def history(self) -> tuple[EpochFinished, ...]:
        """The epochs of every stage, in order."""
        return (*self.head.chosen.history, *(epoch for stage in self.trained for epoch in stage.candidate.history))

    @property
    def has_trained_layers(self) -> bool:
        """Say whether layers were trained, better or not."""
        return bool(self.trained)

    @property
    def is_finished(self) -> bool:
        """Say whether nobody stopped the training early."""
        return all(stage.is_finished for stage in self.trained)

    def knows(self, positions: NDArray[np.int64]) -> bool:
        """Say whether the probabilities that the training itself gives these images are known."""
        if self.best:
            return bool(np.isin(positions, self.split.validation).all())
        return self.features.knows(positions)

    def recall(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) that the training itself gives these images."""
        if self.best:
            return self.best.probabilities[np.searchsorted(self.split.validation, positions)]
        return self.head.predict(Selection(self.features.values, positions))

    @property
    def stages(self) -> tuple[StageResult, ...]:
        """The frozen layers' head and the trained layers, side by side; nothing where there is one of them only."""
        test, named = self.split.test, None
        if self.trained and self.features.knows(test):
            named = self.head.predict(Selection(self.features.values, test)).argmax(axis=1) == self.index.labels[test]
        return compare_stages(self.head, self.trained, named)


def learn_classifier(
    index: ImageIndex,
    cut: CutIndex,
    settings: Settings,
    cache: Path | None,
    engine: Engine,
    listen: Listener,
    unfinished: CheckpointFolder | None = None,
    *,
    resume: bool = False,
    started: float | None = None,
    pretrained: Pretrained | None = None,
) -> Learned:
    """Run the frozen layers once over every image and fit the head: what `train` and the estimator share.

    Where layers are trained, the run is kept in `unfinished`, and goes on from what is there with `resume`.
    A budget is counted from the moment `started`, by `time.perf_counter`; otherwise from now.
    Without `pretrained`, the pretrained weights are loaded as the settings say.

    Raises:
        SettingsError: the run cannot fit under the ceiling of the settings.
        DataError: no image can be decoded, or too few of a class.
        WeightsError: the pretrained weights cannot be used.

    """
    scene = open_scene(index, cut(index), settings, cache, listen, pretrained)
    settings, weights, threads = scene.settings, scene.pretrained.weights, scene.threads
    engine = ThreadEngine(threads) if scene.memory.ceiling else engine
    deadline = find_deadline(settings, started)
    plan, trunk = plan_run(scene, deadline, started=started)
    scratch = scene.open_scratch()
    survey, plan = survey_images(scene, cut, plan, trunk, engine, scratch)
    index, features = survey.index, survey.features
    train, validation = (
        LabelledFeatures(Selection(features.values, part), index.labels[part])
        for part in (survey.seen.train, survey.seen.validation)
    )
    with threadpool_limits(1):  # our own threads share the work: those of BLAS stall when the machine is busy
        head = fit_head(
            train,
            validation,
            len(index.class_names),
            replace(settings, head=plan.head),
            listen,
            threads=threads,
            scratch=scratch,
        )
    workshop = Workshop(settings, cache, engine, threads, listen, scene.pretrained, unfinished, resume,
                        micro_pixels=scene.memory.provision.micro_pixels)  # fmt: skip
    ground = Ground(index, survey.split, features, trunk, weights, head, scratch)
    trained = train_stages(ground, plan, workshop, deadline)
    return make_files(Learned(survey, trunk, head, scene.pretrained, trained), weights)


def learn_as_original(
    index: ImageIndex,
    cut: CutIndex,
    settings: Settings,
    cache: Path | None,
    engine: Engine,
    listen: Listener,
    unfinished: CheckpointFolder | None = None,
    *,
    resume: bool = False,
    started: float | None = None,
    pretrained: Pretrained | None = None,
) -> LearnedOriginal:
    """Train as the original work did, whatever that takes: for the rest, see `learn_classifier`.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: no image can be decoded, or too few of a class.
        WeightsError: the pretrained weights cannot be used.

    """
    pretrained = pretrained or load_pretrained(settings.weights, cache, listen)
    threads = settings.threads or count_cores()
    workshop = Workshop(settings, cache, engine, threads, listen, pretrained, unfinished, resume)
    learned = learn_original(index, cut, workshop)
    return pack_files(learned, describe_model(learned))


# What training left, by whichever recipe: record and report know both by the names that they share.
Trained: TypeAlias = Learned | LearnedOriginal
# The setting `recipe` says which of them trains.
RECIPES: dict[str, Callable[..., Trained]] = {"auto": learn_classifier, "original": learn_as_original}


def make_files(learned: Learned, weights: Weights) -> Learned:
    """Write the better network as `model.onnx` and `network.safetensors`."""
    head, best = learned.head, learned.best
    pixels = learned.pixels
    layers, use_roots = head.layers, True
    if best:
        weights, layers, use_roots = best.weights, best.layers, False
    model = build_classifier(
        weights,
        layers,
        views=learned.chosen.views,
        side=pixels.side,
        resize=pixels.resize,
        metadata=describe_model(learned),
        use_roots=use_roots,
    )
    return replace(learned, model=model, network=pack_network(weights, layers, learned.chosen.views, pixels, use_roots))


def describe_model(learned: Trained) -> dict[str, str]:
    """Make the metadata of `model.onnx`, so that the file explains itself."""
    return {
        "class_names": json.dumps(learned.index.class_names),
        "data_fingerprint": learned.index.fingerprint,
        "image_side": str(learned.pixels.side),
        "resize": learned.pixels.resize,
        "views": str(learned.chosen.views),
        "network": learned.pretrained.network,
        "weights": learned.pretrained.origin,
        "weights_sha256": learned.pretrained.sha256,
        "license": f"weights {learned.pretrained.license}; the photos' owner decides on the rest",
    }


def pack_network(weights: Weights, layers: Layers, views: int, pixels: PixelSettings, use_roots: bool) -> bytes:
    """Pack the parameters as safetensors, under torchvision's names; the same always give the same bytes.

    The layers of SqueezeNet are float16; the classifier is float32 and acts on the features or on their roots.
    """
    trunk = {name: value for name, value in weights.items() if name.startswith("features.")}
    tensors: dict[str, NDArray[Any]] = {name: value.astype(np.float16) for name, value in trunk.items()}
    for number, (weight, bias) in enumerate(layers):
        tensors[f"head.{number}.weight"], tensors[f"head.{number}.bias"] = weight, bias
    # one key: several would be written in no certain order
    about = {"views": views, "image_side": pixels.side, "resize": pixels.resize, "use_roots": use_roots,
             "squeezenet": detect_version(weights)}  # fmt: skip
    return save(tensors, metadata={"squeezetune": json.dumps(about)})


def make_manifest(learned: Trained, settings: Settings) -> Manifest:
    """Say what the model is and what it was made from."""
    index, split = learned.index, learned.split
    return Manifest(
        class_names=index.class_names,
        image_side=learned.pixels.side,
        resize=learned.pixels.resize,
        views=learned.chosen.views,
        settings=settings.to_dict(),
        data={
            "fingerprint": index.fingerprint,
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        libraries=list_libraries(),
        version=name_version(),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        weights=learned.pretrained.describe(),
    )
