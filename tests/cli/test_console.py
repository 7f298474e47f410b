import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from rich.text import Text

from squeezetune.cli.console import (
    ProgressListener,
    describe_seen,
    describe_test,
    name_stage,
    print_error,
    print_json,
    print_table,
)
from squeezetune.errors import SettingsError
from squeezetune.events import (
    STAGE_WORDS,
    EpochFinished,
    ModelMeasured,
    Notice,
    PlanChanged,
    StageAdvanced,
    StageFinished,
    StageStarted,
    TrainingAdvanced,
)
from squeezetune.quantities import format_clock, format_share

EPOCH = EpochFinished("last blocks", 2, 12, 0.5, 0.85, None, 0.861, 1200.0, 20.0)
ADVANCED = TrainingAdvanced("last blocks", 0.2, 0.412, 0.8731, 1240.4, 42.0)


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100 %"), (0.99999, "99.9 %"), (0.5, "50.0 %"), (0.0, "0 %"), (None, "–")],
)
def test_only_all_is_written_as_100(share, text):
    assert format_share(share) == text


def test_without_a_terminal_only_notices_are_printed(capsys):
    with ProgressListener() as listen:
        listen(StageStarted("features", 10))
        listen(StageAdvanced("features", 5))
        listen(Notice("int8 [was] dropped"))
        listen(StageFinished("features", 1.0))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == "Note: int8 [was] dropped"


def test_quiet_prints_nothing(capsys):
    with ProgressListener(is_quiet=True) as listen:
        listen(Notice("a word"))
    assert capsys.readouterr().err == ""


def test_terminal_shows_bars(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressListener() as listen:
        listen(StageStarted("features", 10))
        listen(StageAdvanced("features", 10))
        listen(StageFinished("features", 1.0))
        listen(StageStarted("a stage of tomorrow"))
        listen(StageFinished("a stage of tomorrow", 1.0))
    shown = capsys.readouterr().err
    assert "Looking at the photos" in shown
    assert "10/10" in shown
    assert "a stage of tomorrow" in shown


# ---- stages that train


def show(*events, width=80):
    """Show events on a terminal of some width; return the lines of the last picture."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    listen = ProgressListener(console=console)
    for event in events:
        listen(event)
    with console.capture() as capture:
        console.print(listen, no_wrap=True)
    return [Text.from_ansi(line).plain.rstrip() for line in capture.get().splitlines()]


def test_a_stage_that_trains_shows_its_figures_beneath_the_bar():
    bar, figures = show(StageStarted("last blocks", 100, "%"), EPOCH, ADVANCED)
    assert bar.startswith("Training last blocks")
    assert bar.endswith("20% 0:42 left")
    assert figures == "  epoch 3/12  loss 0.412  train 87.3 %  validation 86.1 %  1,240 images/s"


def test_in_the_first_epoch_there_is_nothing_to_say_of_validation():
    bar, figures = show(replace(ADVANCED, progress=0.01, seconds_left=None))
    assert bar.endswith("1%")
    assert figures == "  epoch 1  loss 0.412  train 87.3 %  1,240 images/s"


def test_a_finished_stage_keeps_its_last_epoch_and_its_time():
    last = replace(EPOCH, epoch=12)
    bar, figures = show(
        StageStarted("last blocks", 300, "steps"),
        ADVANCED,
        last,
        StageFinished("last blocks", 83.2),
    )
    assert "300/300 steps" in bar
    assert figures == "  epoch 12/12  loss 0.500  train 85.0 %  validation 86.1 %  1,200 images/s"
    bar, _ = show(StageStarted("last blocks", 100, "%"), last, StageFinished("last blocks", 83.2))
    assert bar.endswith("100% 1:23")


def test_stages_stand_below_each_other_and_fit_a_terminal():
    events = [
        StageStarted("features", 60000),
        StageFinished("features", 9.0),
        StageStarted("head", 100, "%"),
        replace(EPOCH, stage="head"),
        StageFinished("head", 3.0),
        StageStarted("all layers", 100, "%"),
        replace(ADVANCED, stage="all layers"),
        ModelMeasured(0.9, 0.8, 0.95, 99),
    ]
    lines = show(*events)
    assert [line.split("  ")[0] for line in lines if line[0] != " "] == [
        "Looking at the photos", "Training the head", "Training all layers",
    ]  # fmt: skip
    assert len(lines) == 5
    assert all(len(line) <= 80 for line in show(*events, width=80))
    assert len(show(*events, width=40)) == 5


def test_without_a_terminal_an_epoch_is_a_line(capsys):
    with ProgressListener() as listen:
        for event in (
            StageStarted("last blocks", 100, "%"),
            ADVANCED,
            EPOCH,
            StageFinished("last blocks", 9.0),
        ):
            listen(event)
    line = (
        "Training last blocks: epoch 2/12  loss 0.500  train 85.0 %  validation 86.1 %  1,200 "
        "images/s\n"
    )
    assert capsys.readouterr().err == line


def test_without_a_terminal_fast_epochs_are_not_all_printed(capsys):
    with ProgressListener() as listen:
        for epoch in range(1, 61):
            listen(replace(EPOCH, epoch=epoch, of=60, seconds=epoch / 20))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[4] for line in lines] == ["20/60", "40/60", "60/60"]


def test_quiet_prints_no_epochs(capsys):
    with ProgressListener(is_quiet=True) as listen:
        listen(ADVANCED)
        listen(EPOCH)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (42, "0:42"), (59.6, "1:00"), (600, "10:00"), (3723, "1:02:03")],
)
def test_clocks(seconds, text):
    assert format_clock(seconds) == text


# ---- errors and tables


def test_errors_keep_to_two_lines(capsys):
    print_error(SettingsError("a file's name with\na line break and \udcff", "Rename it."))
    assert (
        capsys.readouterr().err
        == "Error: a file's name with\\na line break and \\udcff\nHint: Rename it.\n"
    )


def test_errors_as_json(capsys):
    print_error(SettingsError("wrong", "right"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "error": {"code": "settings", "message": "wrong", "hint": "right"}
    }


def test_json_is_ascii(capsys):
    print_json({"name": "鼠\udcff"})
    assert json.loads(capsys.readouterr().out) == {"name": "鼠\udcff"}


def test_tables_show_every_cell(capsys):
    print_table({"class": "left", "photos": "right"}, [("[box]", "12"), ("disc", "7")])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("class", "photos", "[box]", "12", "disc", "7"))


def test_a_plan_that_has_changed_is_told():
    changed = PlanChanged((("all layers at 160 px", 80.0), ("report", 4.0)), 84.0, 90.0)
    plan = "all layers at 160 px 1 min 20 s, report 4 s; in all 1 min 24 s"
    assert show_lines(changed) == [f"New plan: {plan} of 1 min 30 s left"]
    assert show_lines(replace(changed, left_s=-5.0)) == [f"New plan: {plan}"]


def show_lines(*events):
    """Return the lines that a log gets to see."""
    out = io.StringIO()
    with ProgressListener(console=Console(file=out, width=200)) as listen:
        for event in events:
            listen(event)
    return out.getvalue().splitlines()


def test_a_stage_of_one_step_shows_no_count():
    begun = StageStarted("near-duplicates")
    for events in ((begun,), (begun, StageFinished("near-duplicates", 6.2))):
        [bar] = show(*events)
        assert bar.startswith("Finding alike photos")
        assert "/" not in bar
        assert "images" not in bar


def test_a_stage_of_unknown_length_counts_on():
    begun, advanced = StageStarted("predicting", None), StageAdvanced("predicting", 1280)
    [bar] = show(begun, advanced)
    assert "1,280 images" in bar
    [bar] = show(begun, advanced, StageFinished("predicting", 3.0))
    assert "1,280 images" in bar


def test_an_export_is_named_and_counts_no_photo_twice():
    [bar] = show(StageStarted("export torch", 39, "photos"), StageAdvanced("export torch", 39))
    assert bar.startswith("Exporting torch")
    assert "39/39 photos" in bar


@pytest.mark.parametrize("stage", STAGE_WORDS)
def test_every_stage_is_in_peoples_words(stage):
    assert name_stage(stage)[0].isupper()
    assert len(name_stage(stage)) <= 22  # the width of its column


def test_nothing_is_written_as_minus_nothing():
    assert format_share(-1e-9) == "0 %"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            {"train": 300, "validation": 0, "others": None},
            ["300 of these photos trained the model", "None is left"],
        ),
        (
            {
                "train": 300,
                "validation": 40,
                "others": {"accuracy": 0.875, "count": 80, "interval": (0.78, 0.93)},
            },
            ["40 of these photos chose among its forms", "87.5 % of the other 80 are recognised"],
        ),
    ],
)
def test_photos_that_a_model_has_learnt_from_are_told(seen, said):
    lines = describe_seen(seen)
    assert all(words in " ".join(lines) for words in said)
    assert "that flatters it" in lines[0]


def test_every_number_of_last_blocks_has_a_name():
    assert name_stage("last block") == "Training last block"
    assert name_stage("last 4 blocks") == "Training last 4 blocks"
    assert name_stage("all layers") == "Training all layers"
    assert name_stage("something else") == "something else"


# ---- what a model is worth

TEST = {
    "accuracy": 0.999,
    "interval": (0.99, 0.9995),
    "count": 1001,
    "balanced_accuracy": 0.5,
    "macro_f1": 0.4998,
    "groups": None,
    "cross_validation": None,
    "usual": {"name": "cat", "share": 0.999, "is_unequal": True},
}


def test_unequal_classes_are_told_with_what_blind_guessing_would_reach():
    assert describe_test(TEST) == [
        "99.9 % of 1,001 test photos are recognised (95 % interval 99.0 % to 99.9 %).",
        "Classes are unequal: balanced accuracy 50.0 %, macro F1 50.0 %; always saying cat would "
        "be right for 99.9 %.",
    ]


def test_equal_classes_and_earlier_reports_have_one_line():
    assert len(describe_test(TEST | {"usual": TEST["usual"] | {"is_unequal": False}})) == 1
    old = {name: TEST[name] for name in ("accuracy", "interval", "count")}
    assert len(describe_test(old)) == 1


@pytest.mark.parametrize(
    ("done", "words"), [(3, "every photo was"), (2, "stopped after 2 of 3 folds; each of these")]
)
def test_folds_say_who_measured(done, words):
    folds = {"name": "3-fold cross-validation", "planned": 3, "folds": [{}] * done, "images": 60}
    first, second, *_ = describe_test(TEST | {"cross_validation": folds, "groups": 12})
    assert "of 60 photos are recognised" in first
    assert "over 12 groups" in first
    assert second.startswith("Measured by 3-fold cross-validation: " + words)
