"""Listeners that keep what a run says in TensorBoard or MLflow, to be watched and compared with
other runs.
"""

import importlib
import io
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from squeezetune.errors import MissingExtraError, SettingsError
from squeezetune.events import (
    EpochFinished,
    Event,
    Listener,
    ModelMeasured,
    Notice,
    StageFinished,
    TrainingAdvanced,
    ignore_event,
)

EXPERIMENT = "squeezetune"
MLFLOW_BATCH = 100  # parameters that a server takes at once
MLFLOW_TRIES = 2  # MLflow's own default waits for minutes on a server that is not there
NO_SETTINGS: Mapping[str, Any] = {}
# Figures of an event -> what they are called
EPOCH_METRICS = {
    name: name
    for name in (
        "train_loss",
        "train_accuracy",
        "validation_loss",
        "validation_accuracy",
        "images_per_s",
    )
}
RUNNING_METRICS = {"loss": "running_loss", "accuracy": "running_accuracy"}
TEST_METRICS = {name: name for name in ("accuracy", "low", "high")}


class TensorBoardListener:
    """Writes a run's figures as TensorBoard's files; `tensorboard --logdir FOLDER` shows them, also
    while it runs.

    `folder` belongs to one run; `settings` are kept beside the figures. The extra `tensorboard` is
    needed.

    Raises:
        MissingExtraError: the package tensorboardX is not installed.
        SettingsError: the folder cannot be written.

    >>> with TensorBoardListener("runs/first") as listen:          # doctest: +SKIP
    ...     squeezetune.train("flowers", listen=listen)

    """

    def __init__(
        self, folder: str | os.PathLike[str], settings: Mapping[str, Any] = NO_SETTINGS
    ) -> None:
        package = _import_extra("tensorboardX", "tensorboard")
        self._metrics = EpochMetrics()
        try:
            # a second, so that somebody who watches need not wait for two minutes
            self._writer = package.SummaryWriter(logdir=str(Path(folder)), flush_secs=1)
        except OSError as error:
            raise SettingsError(
                f"{str(folder)!r} cannot be written: {error.strerror}",
                "Give TensorBoard another folder.",
            ) from error
        if settings:
            lines = (
                "| setting | value |",
                "|---|---|",
                *(f"| {name} | {value} |" for name, value in settings.items()),
            )
            self._writer.add_text("settings", "\n".join(lines))

    def __enter__(self) -> "TensorBoardListener":
        return self

    def __exit__(self, *reason: object) -> None:
        with suppress(OSError):  # a full disk must not hide how the run itself ended
            self._writer.close()

    def __call__(self, event: Event) -> None:
        """Write the figures of one event."""
        values, step = self._metrics.read(event)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)


class MLflowListener:
    """Sends a run's settings and figures to an MLflow server, or to whatever `tracking_uri` is.

    The run is marked as finished, failed or killed when the `with` block ends. The extra `mlflow`
    is needed; it holds MLflow's client, so that databases on this computer need the whole package
    `mlflow`. MLflow's telemetry is off unless the variable MLFLOW_DISABLE_TELEMETRY says otherwise.

    Raises:
        MissingExtraError: the package mlflow-skinny is not installed.
        SettingsError: `tracking_uri` cannot be used or reached.

    >>> with MLflowListener("http://localhost:5000") as listen:    # doctest: +SKIP
    ...     squeezetune.train("flowers", listen=listen)

    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str = EXPERIMENT,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(MLFLOW_TRIES))
        self._mlflow = _import_extra("mlflow", "mlflow")
        self._metrics = EpochMetrics()
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri)
            self._run = self._start_run(experiment, settings)
        except self._mlflow.MlflowException as error:
            raise SettingsError(
                f"MLflow cannot keep a run at {tracking_uri!r}: {error.message}",
                "Start a server, `mlflow server`, and give its address, e.g. "
                "http://localhost:5000.",
            ) from error

    def _start_run(self, experiment: str, settings: Mapping[str, Any]) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        run: str = self._client.create_run(number).info.run_id
        params = [self._mlflow.entities.Param(name, str(value)) for name, value in settings.items()]
        for at in range(0, len(params), MLFLOW_BATCH):
            self._client.log_batch(run, params=params[at : at + MLFLOW_BATCH])
        return run

    def __enter__(self) -> "MLflowListener":
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        failure = "KILLED" if kind and issubclass(kind, KeyboardInterrupt) else "FAILED"
        # a server that is gone must not hide how the run itself ended; MLflow prints, and standard
        # output is ours
        with suppress(self._mlflow.MlflowException), redirect_stdout(io.StringIO()):
            self._client.set_terminated(self._run, failure if kind else "FINISHED")

    def __call__(self, event: Event) -> None:
        """Send the figures of one event."""
        values, step = self._metrics.read(event)
        now_ms = int(time.time() * 1000)
        metrics = [
            self._mlflow.entities.Metric(name, value, now_ms, step)
            for name, value in values.items()
        ]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)


class EpochMetrics:
    """Turns events into named numbers, each at a step.

    The step of an epoch counts the epochs of all stages; that of a running mean is the stage's
    progress in per cent, so that of the many there are at most 101 a stage.
    """

    def __init__(self) -> None:
        self._epochs = 0
        self._told: set[tuple[str, int]] = set()

    def read(self, event: Event) -> tuple[dict[str, float], int]:
        """Read the numbers of an event, of most events none, and their step."""
        if isinstance(event, EpochFinished):
            self._epochs += 1
            return _name_metrics(event.stage, event, EPOCH_METRICS), self._epochs
        if isinstance(event, TrainingAdvanced):
            step = int(100 * event.progress)
            is_new = (event.stage, step) not in self._told
            self._told.add((event.stage, step))
            return (_name_metrics(event.stage, event, RUNNING_METRICS) if is_new else {}), step
        if isinstance(event, StageFinished):
            return {f"seconds/{_make_key(event.stage)}": event.seconds}, self._epochs
        if isinstance(event, ModelMeasured):
            return _name_metrics("test", event, TEST_METRICS), self._epochs
        return {}, 0


def _name_metrics(group: str, event: Event, figures: Mapping[str, str]) -> dict[str, float]:
    """Name the figures of an event, e.g. `all_layers/train_loss`; those that are unknown are left
    out.
    """
    values = {name: getattr(event, attribute) for attribute, name in figures.items()}
    return {
        f"{_make_key(group)}/{name}": float(value)
        for name, value in values.items()
        if value is not None
    }


def _make_key(stage: str) -> str:
    return stage.replace(" ", "_")


def join_listeners(*listeners: Listener) -> Listener:
    """Let several listeners hear a run; one that fails hears no more of it, and the others are told
    by a notice.

    >>> heard = []
    >>> listen = join_listeners(heard.append, lambda event: 1 / 0)
    >>> listen(Notice("first"))
    >>> heard[1].message
    '<lambda> failed and hears no more of this run: division by zero'
    """
    remaining = list(listeners)

    def listen(event: Event) -> None:
        failures = []
        for listener in tuple(remaining):
            try:
                listener(event)
            except Exception as error:  # whatever it is: the run is worth more than its diary
                remaining.remove(listener)
                name = getattr(listener, "__name__", type(listener).__name__)
                failures.append(Notice(f"{name} failed and hears no more of this run: {error}"))
        for failure in failures:
            listen(failure)

    return listen


@contextmanager
def track_run(
    listen: Listener = ignore_event,
    *,
    tensorboard: str | os.PathLike[str] | None = None,
    mlflow: str | None = None,
    experiment: str = EXPERIMENT,
    settings: Mapping[str, Any] = NO_SETTINGS,
) -> Iterator[Listener]:
    """Join a listener with those that are asked for: a folder of TensorBoard's runs, an MLflow
    server, both or none.
    """
    with ExitStack() as stack:
        listeners = [listen]
        if tensorboard:
            # curves of two runs in one folder are a tangle
            folder = Path(tensorboard) / time.strftime("%Y%m%d-%H%M%S")
            listeners.append(stack.enter_context(TensorBoardListener(folder, settings)))
        if mlflow:
            listeners.append(stack.enter_context(MLflowListener(mlflow, experiment, settings)))
        yield join_listeners(*listeners)


def _import_extra(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"The package {package!r} is not installed.",
            f"Install it: pip install 'squeezetune[{extra}]'",
        ) from error
