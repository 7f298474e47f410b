"""Trackers: what they keep is read back from what the real packages wrote."""

import struct
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fast_options import FAST

from squeezetune.cli.main import main
from squeezetune.errors import MissingExtraError, SettingsError
from squeezetune.events import (
    EpochFinished,
    ModelMeasured,
    Notice,
    StageAdvanced,
    StageFinished,
    StageStarted,
    TrainingAdvanced,
)
from squeezetune.integrations.tracking import (
    EpochMetrics,
    MLflowListener,
    TensorBoardListener,
    join_listeners,
    track_run,
)
from squeezetune.settings import Settings

HEAD = EpochFinished("head", 1, 1, 0.9, 0.7, 0.8, 0.72, 40_000.0, 0.5)
LAYERS = EpochFinished("all layers", 1, 2, 0.5, 0.8, None, 0.82, 437.0, 69.0)
ADVANCED = TrainingAdvanced("all layers", 0.5, 0.45, 0.81, 430.0, 69.0)
STORY = [
    StageStarted("head", 100, "%"),
    StageAdvanced("head", 25),
    HEAD,
    StageFinished("head", 0.75),
    StageStarted("all layers", 100, "%"),
    LAYERS,
    ADVANCED,
    replace(ADVANCED, progress=0.503, loss=9.0),
    replace(LAYERS, epoch=2, train_loss=0.25, validation_loss=0.5),
    StageFinished("all layers", 140.0),
    ModelMeasured(0.875, 0.75, 0.9375, 400),
    Notice("done"),
]
# (name, step): value, all of which float32 holds exactly enough
EXPECTED = {
    ("head/train_loss", 1): 0.9,
    ("head/train_accuracy", 1): 0.7,
    ("head/validation_loss", 1): 0.8,
    ("head/validation_accuracy", 1): 0.72,
    ("head/images_per_s", 1): 40_000.0,
    ("seconds/head", 1): 0.75,
    ("all_layers/train_loss", 2): 0.5,
    ("all_layers/train_accuracy", 2): 0.8,
    ("all_layers/validation_accuracy", 2): 0.82,
    ("all_layers/images_per_s", 2): 437.0,
    ("all_layers/running_loss", 50): 0.45,
    ("all_layers/running_accuracy", 50): 0.81,
    ("all_layers/train_loss", 3): 0.25,
    ("all_layers/train_accuracy", 3): 0.8,
    ("all_layers/validation_loss", 3): 0.5,
    ("all_layers/validation_accuracy", 3): 0.82,
    ("all_layers/images_per_s", 3): 437.0,
    ("seconds/all_layers", 3): 140.0,
    ("test/accuracy", 3): 0.875,
    ("test/low", 3): 0.75,
    ("test/high", 3): 0.9375,
}


def tell(listen, events=STORY):
    for event in events:
        listen(event)


def test_events_become_metrics_each_at_its_step():
    metrics, found = EpochMetrics(), {}
    for event in STORY:
        values, step = metrics.read(event)
        found |= {(name, step): value for name, value in values.items()}
    assert found == EXPECTED


def test_of_running_means_there_are_at_most_a_hundred_and_one_a_stage():
    metrics = EpochMetrics()
    told = [metrics.read(replace(ADVANCED, progress=step / 3600)) for step in range(3601)]
    assert [step for values, step in told if values] == list(range(101))


# ---- TensorBoard


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboardX", reason="the extra 'tensorboard' is not installed")


def read_summaries(folder):
    """Read all values of TensorBoard's files: records of length, checksum, payload, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in folder.glob("events.out.tfevents.*"):
        payload, at = path.read_bytes(), 0
        while at < len(payload):
            (length,) = struct.unpack_from("<Q", payload, at)
            event = Event.FromString(payload[at + 12 : at + 12 + length])
            yield from ((value, event.step) for value in event.summary.value)
            at += length + 16


def read_scalars(folder):
    return {
        (v.tag, step): v.simple_value
        for v, step in read_summaries(folder)
        if v.HasField("simple_value")
    }


@pytest.mark.usefixtures("tensorboard")
def test_tensorboard_reads_back(tmp_path):
    with TensorBoardListener(tmp_path / "run", Settings(seed=7).to_dict()) as listen:
        tell(listen)
    assert read_scalars(tmp_path / "run") == pytest.approx(EXPECTED)
    [text] = [
        value for value, _ in read_summaries(tmp_path / "run") if not value.HasField("simple_value")
    ]
    assert text.tag.startswith("settings")
    assert b"| seed | 7 |" in text.tensor.string_val[0]


@pytest.mark.usefixtures("tensorboard")
def test_every_run_has_a_folder_of_its_own(tmp_path):
    with track_run(tensorboard=tmp_path / "runs") as listen:
        tell(listen)
    [folder] = (tmp_path / "runs").iterdir()
    assert read_scalars(folder) == pytest.approx(EXPECTED)


@pytest.mark.usefixtures("tensorboard")
def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        TensorBoardListener(tmp_path / "file" / "run")


# ---- MLflow


@pytest.fixture
def mlflow(monkeypatch):
    # a folder is enough to read back what a server would get
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return pytest.importorskip(
        "mlflow", reason="the extra 'mlflow' is not installed; with it come 36 packages"
    )


def read_run(mlflow, folder, experiment="squeezetune"):
    client = mlflow.MlflowClient(folder.as_uri())
    [run] = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    history = [
        item
        for name in run.data.metrics
        for item in client.get_metric_history(run.info.run_id, name)
    ]
    return run, {(item.key, item.step): item.value for item in history}


def test_mlflow_reads_back(mlflow, tmp_path):
    with MLflowListener(
        (tmp_path / "mlruns").as_uri(), "flowers", Settings(seed=7).to_dict()
    ) as listen:
        tell(listen)
    run, metrics = read_run(mlflow, tmp_path / "mlruns", "flowers")
    assert metrics == EXPECTED
    assert run.data.params == {
        name: str(value) for name, value in Settings(seed=7).to_dict().items()
    }
    assert run.info.status == "FINISHED"


def test_what_mlflow_prints_does_not_reach_standard_output(mlflow, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        mlflow.MlflowClient, "set_terminated", lambda *arguments: print("View the run at ...")
    )
    with MLflowListener((tmp_path / "mlruns").as_uri()) as listen:
        listen(HEAD)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_mlflow_hears_how_a_run_ended(mlflow, tmp_path, error, status):
    def train(listen):
        listen(HEAD)
        raise error

    with pytest.raises(error), track_run(mlflow=(tmp_path / "mlruns").as_uri()) as listen:
        train(listen)
    run, metrics = read_run(mlflow, tmp_path / "mlruns")
    assert run.info.status == status
    assert metrics["head/train_loss", 1] == 0.9


@pytest.mark.usefixtures("mlflow")
def test_a_server_that_is_not_there_is_said_at_once():
    with pytest.raises(SettingsError, match="MLflow cannot keep a run at") as caught:
        MLflowListener("http://127.0.0.1:9")
    assert "mlflow server" in caught.value.hint


def test_a_server_that_goes_away_does_not_end_the_run(mlflow, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise mlflow.MlflowException("the server is gone")

    heard = []
    with track_run(heard.append, mlflow=(tmp_path / "mlruns").as_uri()) as listen:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", refuse)
        monkeypatch.setattr(mlflow.MlflowClient, "set_terminated", refuse)
        tell(listen)
    [lost] = [
        event.message
        for event in heard
        if isinstance(event, Notice) and "MLflowListener" in event.message
    ]
    assert lost == "MLflowListener failed and hears no more of this run: the server is gone"
    assert [event for event in heard if event in STORY] == STORY


# ---- the command line


@pytest.mark.slow
@pytest.mark.usefixtures("tensorboard")
def test_train_keeps_its_curves_for_tensorboard(shape_folder, tmp_path):
    words = [
        "train",
        shape_folder,
        "--output",
        tmp_path / "model",
        "--tensorboard",
        tmp_path / "runs",
        "--head",
        "hidden",
    ]
    result = CliRunner().invoke(main, [str(word) for word in [*words, *FAST]])
    assert result.exit_code == 0, result.output
    [folder] = (tmp_path / "runs").iterdir()
    names = {name for name, _ in read_scalars(folder)}
    assert {
        "head/train_loss",
        "head/validation_accuracy",
        "seconds/measuring",
        "test/accuracy",
    } <= names


def test_train_sends_its_settings_and_curves_to_mlflow(mlflow, shape_folder, tmp_path):
    words = [
        "train",
        shape_folder,
        "--output",
        tmp_path / "model",
        "--mlflow",
        (tmp_path / "mlruns").as_uri(),
    ]
    result = CliRunner().invoke(main, [str(word) for word in [*words, *FAST]])
    assert result.exit_code == 0, result.output
    run, metrics = read_run(mlflow, tmp_path / "mlruns", shape_folder.name)
    assert run.data.params["image_side"] == "64"
    assert "test/accuracy" in {name for name, _ in metrics}


def test_a_tracker_that_is_missing_is_said_before_anything_is_trained(
    shape_folder, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    words = [
        "train",
        shape_folder,
        "--output",
        tmp_path / "model",
        "--tensorboard",
        tmp_path / "runs",
    ]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 1
    assert "pip install 'squeezetune[tensorboard]'" in result.stderr
    assert not (tmp_path / "model").exists()


# ---- several listeners


def test_all_listeners_hear_all_events_in_order():
    first, second = [], []
    tell(join_listeners(first.append, second.append))
    assert first == second == STORY


def test_a_listener_that_fails_is_dropped_with_a_notice():
    heard, asked = [], []

    def fail(event):
        asked.append(event)
        raise OSError("the disk is full")

    tell(join_listeners(fail, heard.append), STORY[:3])
    assert asked == STORY[:1]
    lost = Notice("fail failed and hears no more of this run: the disk is full")
    assert heard == [STORY[0], lost, *STORY[1:3]]


def test_when_all_listeners_fail_the_run_goes_on():
    tell(join_listeners(lambda event: 1 / 0, lambda event: 1 / 0))


def test_a_listener_may_stop_the_run():
    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join_listeners(interrupt)(HEAD)


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(TensorBoardListener, "tensorboardX", "tensorboard"), (MLflowListener, "mlflow", "mlflow")],
)
def test_a_package_that_is_missing_is_named_with_the_command(
    make, package, extra, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=package) as caught:
        make(str(tmp_path / "runs"))
    assert caught.value.hint == f"Install it: pip install 'squeezetune[{extra}]'"
    assert not (tmp_path / "runs").exists()
