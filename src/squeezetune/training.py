"""The whole story: a folder of photos becomes a measured classifier."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from squeezetune.data.index import ImageIndex
from squeezetune.data.inputs import PhotoInput, Photos
from squeezetune.data.pixels import make_thumbnails
from squeezetune.data.split import Split, split_index
from squeezetune.errors import ClassesError, SettingsError
from squeezetune.evaluation.measurement import Measured, open_measurements, run_classifier
from squeezetune.events import REPORT as REPORT_STAGE
from squeezetune.events import (
    Listener,
    ModelMeasured,
    Notice,
    ignore_event,
    tell_stage,
)
from squeezetune.model.artifact import (
    MODEL,
    NETWORK,
    REPORT,
    REPORT_PAGE,
    Manifest,
    Staging,
    check_target,
    stage_artifact,
    to_json,
)
from squeezetune.model.classifier import Classifier, load
from squeezetune.model.split_record import PARTS, pack_parts
from squeezetune.pipeline.backbone_choice import choose_backbone, forecast_choice
from squeezetune.pipeline.context import (
    RunContext,
    name_backbone,
    name_output,
    open_context,
    parse_request,
)
from squeezetune.pipeline.cross_validation import (
    CrossValidationResult,
    cross_validate,
    remove_unfinished,
    share_budget,
)
from squeezetune.pipeline.fitting import RECIPES, make_manifest
from squeezetune.pipeline.preparation import plan_prepared, prepare_run
from squeezetune.pipeline.result import TrainingResult
from squeezetune.pipeline.scheme import choose_scheme
from squeezetune.planning.costs import COMPARED_IMAGES
from squeezetune.planning.plan import Plan
from squeezetune.planning.planner import add_rounds, limit_time
from squeezetune.quantities import parse_size
from squeezetune.report.record import Run, make_record, record_times
from squeezetune.report.training_page import make_plots, render_report
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import CheckpointFolder, UnfinishedRun, find_checkpoint_folder
from squeezetune.system.disk import cache_or_temporary, open_cache
from squeezetune.system.executor import ThreadExecutor
from squeezetune.system.monitor import MemoryMonitor, RunRecorder
from squeezetune.system.output_lock import hold_output

THUMBNAIL_PX = 240


@dataclass(frozen=True)
class TrainingJob:
    """What is trained on, where the model goes, and what the run works with; the clock is what the
    context tells.
    """

    origin: PhotoInput
    output: Path
    context: RunContext
    clock: RunRecorder
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    @property
    def settings(self) -> Settings:
        """The settings, as the user gave them."""
        return self.context.settings

    def scan(self) -> ImageIndex:
        """Find the photos."""
        return self.origin.scan(self.context.executor, self.clock, self.context.cache)

    def cut_index(self, index: ImageIndex) -> Split:
        """Split the photos as the settings say; near-duplicates are parted where a class has too
        few without.
        """
        s = self.settings
        cut = partial(
            split_index,
            index,
            validation=s.validation,
            test=s.test,
            seed=s.seed,
            group_by=s.group_by,
        )
        try:
            return cut(near_duplicates=s.near_duplicates)
        except ClassesError:
            if index.pictures is None or s.near_duplicates != "together":
                raise
        self.clock(
            Notice(
                "so many photos are near-duplicates that they cannot all be kept in one part of "
                "the split"
            )
        )
        return cut(near_duplicates="reported")


def train(
    photos: Photos,
    output: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    *,
    class_pattern: str = "",
    columns: str = "",
    use_cache: bool = True,
    resume: bool = False,
    listen: Listener = ignore_event,
    **knobs: Any,
) -> Classifier:
    """Train a classifier on photos and measure it on others that it never saw.

    `photos` is a folder with a subfolder for each class; a zip or tar archive of one; a table
    (.csv, .tsv) of paths and classes; images in .parquet, .npz or .npy files or WebDataset shards;
    pairs of image and label; or the name of what `fetch_dataset` has fetched. The model, with its
    report, is a new folder `output`; by default `<name of the photos>-model` in the current one.
    `class_pattern` is a regular expression that finds the class in an image's path instead;
    `columns` says what a table's columns are where that is guessed wrong:
    "path=file,label=species". Settings may also be given one by one, as further arguments;
    `backbone` may be a module of torch, which itself stays as it is. With
    `resume`, the training of an unfinished run with the same photos, settings and output goes on
    where it stopped, to the same end.

    Raises:
        SettingsError: the settings do not fit together or the photos.
        DataError: the photos cannot be used.
        WeightsError: the pretrained weights cannot be used.
        ArtifactError: the model cannot be written.
        CheckpointError: the unfinished run is of other photos or settings.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> classifier = squeezetune.train("flowers", effort="quick")             # doctest: +SKIP

    """
    reading = {"class_pattern": class_pattern, "columns": columns}
    origin, settings = parse_request(photos, settings, knobs, listen, **reading)
    target = name_output(origin, output, "model", "the model's folder")
    with hold_output(target), open_job(origin, target, settings, use_cache, listen) as job:
        unfinished = open_unfinished(job, resume)
        learned, crossed = train_and_measure(job, UnfinishedRun(unfinished, resume))
        with stage_artifact(job.output) as staging:
            staging.write(NETWORK, learned.network)
            staging.write(PARTS, pack_parts(learned.index, learned.split, origin))
            manifest = make_manifest(learned, settings, crossed.pool_once() if crossed else None)
            measured, compared = measure_file(staging, manifest, learned, crossed, job)
            run = make_run(learned, measured, compared, crossed, job)
            write_report(staging, run, job.clock)
            staging.finish(manifest)
        close_unfinished(unfinished, learned, crossed, job)
    return load(job.output)


def train_and_measure(
    job: TrainingJob, unfinished: UnfinishedRun
) -> tuple[TrainingResult, CrossValidationResult | None]:
    """Train the model; where folds measure it, train it on all photos, and once more for each
    fold.
    """
    index, settings, context = job.scan(), job.settings, job.context
    learn, scheme = RECIPES[settings.recipe], choose_scheme(index, settings, job.clock)
    limit = limit_time(settings, job.clock.started)
    if scheme is None:
        return learn(index, job.cut_index, context, limit, unfinished), None
    # features are computed once even where nothing may be kept
    with cache_or_temporary(context.cache) as folder:
        context = folds = replace(context, cache=folder)
        if settings.is_backbone_open:
            chosen = choose_backbone(index, scheme.keep_all, context, limit, unfinished)
            context, limit = chosen.context, chosen.limit
            # each fold chooses by its own photos: none is measured by a choice that has seen it
            folds = folds if chosen.is_compared else context
        each = limit
        if limit.is_set:
            limit = share_budget(index, scheme, context, limit)
            each = limit.share(1 + scheme.count_rounds(index))
        learned = learn(index, scheme.keep_all, context, each, unfinished)
        # the folds' plans do not tell of what came before
        limit = replace(limit, started=None, choosing_s=0.0)
        return learned, cross_validate(learned, scheme, folds, limit, unfinished)


def forecast(
    photos: Photos,
    settings: Settings | None = None,
    *,
    class_pattern: str = "",
    columns: str = "",
    use_cache: bool = True,
    listen: Listener = ignore_event,
    **knobs: Any,
) -> Plan:
    """Plan a training run and forecast how long each of its parts takes on this computer, without
    training anything.

    Takes a few seconds, in which it measures how fast photos are read and layers are run and
    trained here.

    Raises:
        SettingsError: the settings do not fit together or the photos.
        DataError: the photos cannot be used.
        WeightsError: the pretrained weights cannot be used.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> squeezetune.forecast("flowers", budget="10m").total_s                 # doctest: +SKIP
    573.2

    """
    clock, reading = RunRecorder(listen), {"class_pattern": class_pattern, "columns": columns}
    origin, settings = parse_request(photos, settings, knobs, listen, **reading)
    if settings.recipe == "original":
        raise SettingsError(
            "the original recipe cannot be forecast",
            "Train with it: it says how long it will take.",
        )
    context = open_context(settings, open_cache(clock) if use_cache else None, clock)
    job = TrainingJob(origin, Path(), context, clock)
    index = job.scan()
    scheme, limit = choose_scheme(index, settings, clock), limit_time(settings, clock.started)
    rounds = scheme.count_rounds(index) if scheme else 0
    split = scheme.keep_all(index) if scheme else job.cut_index(index)
    each = limit.share(1 + rounds)
    if settings.is_backbone_open:
        plan, prepared = forecast_choice(index, split, context, each)
    else:
        prepared = prepare_run(index, split, context)
        plan, _ = plan_prepared(prepared, each, is_forecast=True)
    plan = replace(plan, peak_memory=prepared.memory.peak)
    return add_rounds(plan, rounds) if scheme else plan


@contextmanager
def open_job(
    origin: PhotoInput, target: Path, settings: Settings, use_cache: bool, listen: Listener
) -> Iterator[TrainingJob]:
    """Check where to write, and load the pretrained weights, before anything is computed; the clock
    runs meanwhile.
    """
    check_target(target)
    ceiling = parse_size(settings.max_ram) if settings.max_ram else None
    clock = RunRecorder(listen, gauge=MemoryMonitor(ceiling))
    context = open_context(settings, open_cache(clock) if use_cache else None, clock)
    with clock:
        yield TrainingJob(origin, target, context, clock)


def open_unfinished(job: TrainingJob, resume: bool) -> CheckpointFolder:
    """Open the place of the unfinished run beside the model; what is there goes, unless the run is
    to be resumed.
    """
    unfinished = CheckpointFolder(find_checkpoint_folder(job.output))
    if unfinished.path.exists() and not resume:
        job.clock(
            Notice(
                f"an unfinished run in {unfinished.path} is dropped; --resume would have gone on "
                f"with it"
            )
        )
        remove_unfinished(unfinished)
    return unfinished


def close_unfinished(
    unfinished: CheckpointFolder,
    learned: TrainingResult,
    crossed: CrossValidationResult | None,
    job: TrainingJob,
) -> None:
    """Remove what was kept of a training that is finished now; one that other settings began
    stays.
    """
    if not unfinished.path.exists() or not learned.is_finished:
        return
    if learned.has_trained_layers or crossed:
        remove_unfinished(unfinished)
    else:
        job.clock(
            Notice(
                f"nothing was resumed: these settings train no layers; {unfinished.path} is left "
                f"as it was"
            )
        )


def measure_file(
    staging: Staging,
    manifest: Manifest,
    learned: TrainingResult,
    crossed: CrossValidationResult | None,
    job: TrainingJob,
) -> tuple[Measured, Measured | None]:
    """Write `model.onnx` and measure that very file on the test images, and on some that its
    training looked at.

    Where folds have measured, their predictions are taken for those of the test images.
    """
    path = staging.write(MODEL, learned.model)
    store, cache, executor = None, job.context.cache, job.context.executor
    if cache:
        store = open_measurements(cache, staging.checksums[MODEL], manifest)
    classifier = Classifier(path, manifest)
    measured = (
        crossed.pool()
        if crossed
        else run_classifier(
            classifier, learned.index, learned.split.test, executor, job.clock, store
        )
    )
    if not crossed and learned.knows(measured.positions):
        return measured, None
    judging = learned.split.validation if len(learned.split.validation) else learned.split.train
    sample = judging[:: -(-len(judging) // COMPARED_IMAGES)]
    return measured, run_classifier(
        classifier, learned.index, sample, executor, ignore_event, store
    )


def make_run(
    learned: TrainingResult,
    measured: Measured,
    compared: Measured | None,
    crossed: CrossValidationResult | None,
    job: TrainingJob,
) -> Run:
    """Tell what the model is worth, and put together what is known of the run."""
    evaluation = measured.evaluate(learned.index, learned.split)
    job.clock(ModelMeasured(evaluation.accuracy, *evaluation.interval, evaluation.count))
    return Run(
        settings=job.settings,
        learned=learned,
        measured=measured,
        evaluation=evaluation,
        command=repeat_command(job, learned),
        created=job.created,
        heard=tuple(job.clock.heard),
        total_s=job.clock.total_s(),
        compared=compared,
        held=job.clock.gauge.peaks,
        crossed=crossed,
    )


def write_report(staging: Staging, run: Run, clock: RunRecorder) -> None:
    """Write the report for scripts, for people and for papers."""
    record = make_record(run)
    with tell_stage(REPORT_STAGE, clock):
        for name, payload in make_plots(record).items():
            staging.write(f"plots/{name}", payload)
        pictures = {item["image"] for gallery in ("mistakes", "unsure") for item in record[gallery]}
        # one at a time: a ceiling of memory holds here too
        thumbnails = make_thumbnails(
            run.learned.index.source, sorted(pictures), THUMBNAIL_PX, ThreadExecutor(1)
        )
    record |= record_times(replace(run, heard=tuple(clock.heard), total_s=clock.total_s()))
    staging.write(REPORT, to_json(record))
    staging.write(REPORT_PAGE, render_report(record, thumbnails).encode())


def repeat_command(job: TrainingJob, learned: TrainingResult) -> str:
    """Write the command that repeats this run: every setting that is not the default, or that this
    machine chose.
    """
    words = ["squeezetune", "train", str(job.origin), "--output", str(job.output)]
    settings = replace(job.settings, threads=job.context.threads, **learned.timed_choices)
    if settings.is_backbone_open:
        settings = name_backbone(settings, learned.pretrained.name)
    for item in fields(Settings):
        value = getattr(settings, item.name)
        if value != item.default:
            words += [f"--{item.name.replace('_', '-')}", str(value)]
    words += ["--class-pattern", job.origin.class_pattern] if job.origin.class_pattern else []
    words += ["--columns", job.origin.columns] if job.origin.columns else []
    return shlex.join(words)
