import math

import pytest
from click.testing import CliRunner

from squeezetune.cli.main import main
from squeezetune.errors import SettingsError
from squeezetune.integrations.estimator import SqueezeTuneClassifier
from squeezetune.quantities import SIZE, TIME, judge_number, parse_duration, parse_size
from squeezetune.settings import Settings, parse_settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2h", 7200),
        ("1h1m1s", 3661),
        ("1.5h", 5400),
        ("10min", 600),
        ("10 m", 600),
        ("10 min", 600),
        ("90 sec", 90),
        ("1 h 30 min", 5400),
        ("2 Hours", 7200),
        (" 3 minutes ", 180),
        (".5h", 1800),
        ("1hr 5secs", 3605),
    ],
)
def test_times_are_read_as_people_write_them(text, seconds):
    assert parse_duration(text) == seconds
    assert Settings(budget=text).budget == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("600MB", 600e6),
        ("1GB", 1e9),
        ("1.5gb", 1.5e9),
        ("2 GB", 2e9),
        ("800k", 800e3),
        ("1G", 1e9),
        ("1GiB", 2**30),
        ("512MiB", 2**29),
        ("600000000B", 600e6),
        ("100b", 100),
        ("1TB", 1e12),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_size(text) == size
    assert Settings(max_ram=text).max_ram == text


@pytest.mark.parametrize(
    "text",
    [
        "soon",
        "m",
        "10x",
        "-5m",
        "- 5 m",
        "30m1h",
        "1m1m",
        "1m 2 min",
        "0s",
        "0",
        "1h30",
        "inf",
        "nan",
        "infs",
        "1e3s",
        "1.2.3s",
        "10m!",
        "1,5h",
        "9" * 400 + "h",
        "¹s",
    ],
)
def test_what_is_no_time_is_refused_in_words(text):
    assert parse_duration(text) is None
    with pytest.raises(SettingsError, match="needed is a time such as 90s, 10m or 1h30m, above 0"):
        Settings(budget=text)


@pytest.mark.parametrize(
    "text",
    [
        "much",
        "GB",
        "1TBB",
        "-1GB",
        "0",
        "0GB",
        "1.2.3MB",
        "1iB",
        "1 2GB",
        "9" * 30 + "GB",
        "inf",
        "nan",
    ],
)
def test_what_is_no_size_is_refused_in_words(text):
    assert parse_size(text) is None
    with pytest.raises(
        SettingsError, match=r"needed is a size such as 600MB, 1GB or 1\.5GB, above 0"
    ):
        Settings(max_ram=text)


@pytest.mark.parametrize(
    ("number", "quantity", "wanted"),
    [
        ("10", TIME, "a time such as 10s, 10m or 10h"),
        ("1.5", TIME, "a time such as 1.5s, 1.5m or 1.5h"),
        ("600", SIZE, "a size such as 600MB or 600GB"),
    ],
)
def test_a_number_needs_a_unit(number, quantity, wanted):
    assert quantity.read(number) is None
    assert quantity.explain(number) == f", which has no unit; needed is {wanted}"


@pytest.mark.parametrize("quantity", [TIME, SIZE])
def test_a_text_of_any_length_is_refused_at_once(quantity):
    assert quantity.read("1m " * 50_000) is None
    assert quantity.read(" " * 200_000 + "1") is None


@pytest.mark.parametrize("name", ["budget", "max_ram"])
@pytest.mark.parametrize("value", [600, 0.5, math.inf, math.nan, -1, 0])
def test_a_number_in_python_needs_a_unit_too(name, value):
    with pytest.raises(
        SettingsError, match=f"{name} is {value!r}.*needed is a (time|size) such as"
    ):
        parse_settings({name: value})


def test_the_estimator_asks_for_a_unit():
    with pytest.raises(
        SettingsError, match="budget is 10, which has no unit; needed is a time such as 10s, 10m or"
    ):
        SqueezeTuneClassifier(budget=10).fit([], [])


@pytest.mark.parametrize("plan", [[], ["--plan"]])
def test_the_command_line_asks_for_a_unit(shape_folder, tmp_path, plan):
    words = [
        "train",
        str(shape_folder),
        "--output",
        str(tmp_path / "model"),
        "--budget",
        "10",
        *plan,
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert (
        "budget is '10', which has no unit; needed is a time such as 10s, 10m or 10h"
        in result.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option",
    ["--max-time", "--max-idle", "--max-body", "--max-held", "--max-headers", "--max-pixels"],
)
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "0", "soon"])
def test_limits_of_the_server_are_numbers_above_0(option, value, tmp_path):
    result = CliRunner().invoke(main, ["serve", str(tmp_path), option, value])
    assert result.exit_code == 2
    assert f"{value!r} is no number above 0 of " in result.stderr


@pytest.mark.parametrize(
    ("words", "limit", "expected"),
    [
        (["--max-time", "45"], "time_s", 45),
        (["--max-time", "1m"], "time_s", 60),
        (["--max-idle", "2 s"], "idle_s", 2),
        (["--max-held", "1GB"], "held_bytes", 10**9),
        (["--max-body", "5"], "body_bytes", 5_000_000),
        (["--max-headers", "8KiB"], "header_bytes", 8192),
    ],
)
def test_limits_of_the_server_may_have_units(words, limit, expected, tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(
        "squeezetune.serving.server.serve", lambda *args, **_: served.append(args[2])
    )
    result = CliRunner().invoke(main, ["serve", str(tmp_path), *words])
    assert result.exit_code == 0, result.output
    assert getattr(served[0], limit) == expected


@pytest.mark.parametrize("value", ["nan", "inf", "0"])
def test_watching_takes_a_number_of_seconds_above_0(value, shape_folder):
    result = CliRunner().invoke(main, ["train", str(shape_folder), "--watch", value])
    assert result.exit_code == 2
    assert (
        f"{value!r} is no number above 0 of seconds, or such as 90s, 10m or 1h30m" in result.stderr
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 0.0])
def test_junk_numbers_are_judged_in_one_place(value):
    assert judge_number("max_time", value, is_open=True).startswith(
        f"max_time is {value}; needed is "
    )


def test_numbers_within_their_limits_are_right():
    assert [judge_number("x", value, 0, 1) for value in (0, 0.5, 1)] == ["", "", ""]
    assert judge_number("x", 2, 0, 1) == "x is 2; needed is 0 to 1"
    assert judge_number("x", 10**400, 0, 1) == "x is beyond 1e300; needed is 0 to 1"
    assert judge_number("x", math.nan, 0, 1) == "x is nan; needed is a finite number of 0 to 1"
