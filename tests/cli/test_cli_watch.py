import json

import pytest
from click.testing import CliRunner
from fast_options import FAST

from squeezetune.cli.main import main
from squeezetune.cli.terminal import escape_controls
from squeezetune.cli.watch import describe_update, format_update
from squeezetune.errors import ClassesError
from squeezetune.watching import PollInterval, SourceChange, Update

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def pass_time(monkeypatch):
    """Let these things happen while the program waits, and then Ctrl-C."""

    def set_days(*days):
        left = list(days)

        def pause(seconds):
            if not left:
                raise KeyboardInterrupt
            left.pop(0)()

        monkeypatch.setattr(
            "squeezetune.cli.watch.PollInterval", lambda every_s: PollInterval(every_s, 4, pause)
        )

    return set_days


def nothing():
    pass


def test_each_training_is_told_in_a_line(write_shapes, empty_cache, tmp_path, pass_time):
    photos = write_shapes(tmp_path / "photos", 8)

    def empty():
        for path in (photos / "box").iterdir():
            path.unlink()

    pass_time(lambda: write_shapes(photos, {"box": 2}, first=8), nothing, empty, nothing)
    result = CliRunner().invoke(
        main, ["train", str(photos), "-o", str(tmp_path / "model"), *FAST, "--watch"]
    )
    assert result.exit_code == 0, result.output
    first, watching, second, third, end = result.stdout.splitlines()
    assert "test photos are recognised; model" in first
    assert "Ctrl-C ends this" in watching
    assert "2 new: " in second
    assert ", before " in second
    assert "The model stays as it was: 1 class folder has no image: 'box'" in third
    assert "No longer watching" in end
    assert (tmp_path / "model" / "model.onnx").exists()


def test_updates_as_json(write_shapes, empty_cache, tmp_path, pass_time):
    photos = write_shapes(tmp_path / "photos", 8)
    pass_time(lambda: (photos / "box" / "000.png").unlink(), nothing)
    words = ["train", str(photos), "-o", str(tmp_path / "model"), *FAST, "--watch", "0.5", "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    first, second = [json.loads(line) for line in result.stdout.splitlines()]
    assert first["change"] is None
    assert second["change"] == {"new": 0, "removed": 1, "moved": 0}
    assert second["accuracy_before"] == first["accuracy"]


def test_what_does_not_go_together_is_said(tmp_path):
    result = CliRunner().invoke(main, ["train", str(tmp_path), "--watch", "--mlflow", "x"])
    assert result.exit_code == 2
    assert "--watch makes many" in result.stderr
    assert CliRunner().invoke(main, ["train", str(tmp_path), "--watch", "-1"]).exit_code == 2


def test_ctrl_c_in_the_first_training_is_told_as_ever(tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("squeezetune.cli.watch.watch", stop)
    result = CliRunner().invoke(main, ["train", str(tmp_path), "--watch"])
    assert result.exit_code == 130
    assert "Stopped" in result.stderr


def test_an_error_is_one_line():
    update = Update(error=ClassesError("a\nb \udcff", "Do this."), accuracy_before=0.5)
    assert (
        escape_controls(format_update(update))
        == "The model stays as it was: a\\nb \\udcff Do this."
    )
    assert describe_update(update)["error"]["code"] == "classes"
    assert describe_update(Update(SourceChange(1, 0, 0)))["change"] == {
        "new": 1,
        "removed": 0,
        "moved": 0,
    }
