"""Random combinations of options with junk values end in 0, 1 or 2, and never in a traceback.

`python -m pytest -m slow tests/test_junk_settings.py` draws a thousand; the default run a few.
"""

import io
import os
import random
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from squeezetune.__main__ import main
from squeezetune.cli import main as cli

FEW, MANY, CHILDREN = 30, 1000, 12
ENDS = {0, 1, 2}
NUMBERS = [
    "0",
    "-0",
    "1",
    "-1",
    "2",
    "3",
    "0.5",
    "1e-320",
    "1e308",
    "1e999",
    "inf",
    "-inf",
    "nan",
    "0x10",
    "1_000",
    "٣",
    "1,5",
    "1e",
    "9" * 400,
    "99999999999999999999",
    "2147483648",
    "100001",
    "NaN%",
]
WORDS = [
    "",
    " ",
    "\t",
    "auto",
    "none",
    "a" * 5000,
    "\x1b[2J",
    "line\nbreak",
    "🌹",
    "\udcff",
    "%s%n{0}",
    "--",
    "-",
    "=1+1",
    "'",
    "None",
    "True",
    "[]",
    "../../etc",
    "/dev/null",
    "con",
    "http://127.0.0.1:9/x.zip",
    "(",
    "(?P<a",
    "(a+)+$",
    "path=file,label",
    "label=",
    "x=y,x=z",
]
TIMES = ["10s", "1m", "10min", "1h30m", "0s", "-5s", "5 parsecs", "1e3s", ".s", "..5m", "1h1h"]
SIZES = ["600MB", "1GB", "1.5 GB", "-1GB", "1e9GB", "0KB", "1TB"]
# Options that name a place: junk there would be written into the folder in which the tests run.
PLACES = {"output", "folder", "tensorboard", "table", "source", "runtime"}
# What never ends by itself, opens windows or asks other computers.
LEFT_OUT = {"watch_s", "mlflow", "open_report", "url", "host", "port", "help", "version"}
COMMANDS = ("train", "evaluate", "predict", "check", "export", "info", "data", "serve")


def draw_value(rng, parameter):
    """Draw a value for an option, which may even be right."""
    choices = list(getattr(parameter.type, "choices", ()))
    pools = [
        NUMBERS,
        WORDS,
        TIMES + SIZES,
        choices or [str(parameter.default)],
        [str(parameter.default)],
    ]
    return str(rng.choice(rng.choice(pools)))


def draw_options(rng, command, folder):
    """Draw some options of a command."""
    options = [
        each for each in cli.main.commands[command].params if each.param_type_name == "option"
    ]
    options = [each for each in options if each.name not in LEFT_OUT]
    words = []
    for option in rng.sample(options, rng.randint(0, min(6, len(options)))):
        words.append(max(option.opts, key=len))
        if option.name in PLACES:
            words.append(
                str(
                    folder
                    / f"{option.name}-{rng.randrange(10**9)}{rng.choice(['', '.csv', '.jsonl'])}"
                )
            )
        elif not option.is_flag:
            words.append(draw_value(rng, option))
    return words


def draw_command(rng, folder, photos, model):
    """Draw a whole command line; half of the places that it names are what they should be."""
    command = rng.choice(COMMANDS)
    models = [model, model, photos, folder / "nowhere", model / "model.onnx", model / "model.json"]
    sources = [
        photos,
        photos,
        model,
        folder / "nowhere",
        next(photos.rglob("*.png")),
        "http://127.0.0.1:9/photos.zip",
    ]
    arguments = {
        "train": [rng.choice(sources)],
        "check": [rng.choice(sources)],
        "evaluate": [rng.choice(models), rng.choice(sources)],
        "predict": [rng.choice(models), *rng.choices(sources, k=rng.randint(1, 3))],
        "export": [rng.choice(models)],
        "info": [rng.choice(models)],
        "data": [
            rng.choice(["cifar10", "eth80", "nothing", "\x1b"]),
            "--from",
            rng.choice(sources),
        ],
        "serve": [rng.choice([folder / "nowhere", photos])],  # a model would be served for ever
    }
    options = draw_options(rng, command, folder)
    if (
        command == "train" and rng.random() < 0.9
    ):  # a plan, in nearly all cases: a training takes seconds
        options += ["--plan"]
    if command in ("train", "check") and "--output" not in options:
        options += ["--output", str(folder / f"made-{rng.randrange(10**9)}")]
    return [command, *map(str, arguments[command]), *options]


def run_here(words):
    """Run a command in this process; a traceback is an exception."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main(words)
    except SystemExit as end:
        return end.code or 0, out.getvalue() + err.getvalue()
    return 0, out.getvalue() + err.getvalue()


@pytest.fixture
def places(write_shapes, model_folder, tmp_path, monkeypatch):
    """A folder to work in, a few photos and a model; nothing is asked of other computers."""
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path, write_shapes(tmp_path / "photos", 8), model_folder


def check_commands(seeds, places):
    for seed in seeds:
        words = draw_command(random.Random(seed), *places)
        try:
            status, said = run_here(words)
        except BaseException as error:  # the words are what matters, whatever was raised
            raise AssertionError(f"seed {seed}: {words}") from error
        assert status in ENDS, f"seed {seed}: {words} ended in {status}"
        assert "Traceback" not in said, f"seed {seed}: {words}"


def test_a_few_junk_commands_end_in_an_orderly_way(places):
    check_commands(range(FEW), places)


@pytest.mark.slow
def test_a_thousand_junk_commands_end_in_an_orderly_way(places):
    check_commands(range(MANY), places)


@pytest.mark.slow
def test_junk_commands_end_in_an_orderly_way_in_processes_of_their_own(places):
    for seed in range(MANY, MANY + CHILDREN):
        words = draw_command(random.Random(seed), *places)
        done = subprocess.run(
            [sys.executable, "-m", "squeezetune", *(word.replace("\0", "") for word in words)],
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            timeout=600,
        )
        assert done.returncode in ENDS, f"seed {seed}: {words}"
        assert b"Traceback" not in done.stderr, f"seed {seed}: {words}"
