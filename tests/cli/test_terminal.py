"""What is written reaches every terminal and pipe: of any encoding, closed, full, and however
photos are called.
"""

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from fast_options import FAST

from squeezetune.__main__ import main
from squeezetune.cli.terminal import escape_controls
from squeezetune.training import train

pytestmark = pytest.mark.usefixtures("no_plots")

NAMES = ("чашка", "ورد", "玫瑰", "🌹 rose")
# As a pipe of an old Windows, a machine without a locale and a terminal of Western Europe have
# them.
ENCODINGS = ("ascii", "cp1252", "cp437", "latin-1", "utf-8")


class Answer:
    """What a command returned and wrote."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@contextmanager
def streams(encoding, kind=io.TextIOWrapper):
    """Lead the standard streams into bytes, as strictly as Python opens a pipe."""
    out, err = (kind(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        yield out, err
        out.flush()
        err.flush()


def call(*words, encoding="utf-8", kind=io.TextIOWrapper):
    """Run the command line in this process."""
    status = 0
    with streams(encoding, kind) as (out, err):
        try:
            main([os.fsdecode(word) for word in words])
        except SystemExit as end:
            status = end.code or 0
    return Answer(status, out.buffer.getvalue(), err.buffer.getvalue())


def run_child(*words, shell="", **variables):
    """Run the command line in a process of its own; `shell` redirects its streams."""
    command = [sys.executable, "-m", "squeezetune", *map(os.fsdecode, words)]
    if shell:
        command = ["bash", "-c", f'exec "$@" {shell}', "bash", *command]
    return subprocess.run(
        command, capture_output=True, check=False, env=os.environ | variables, timeout=300
    )


@pytest.fixture(scope="module")
def photos(draw_shape, tmp_path_factory):
    """Write a dozen photos of four classes whose names are of four scripts, one in a file whose
    name is no text.
    """
    root = tmp_path_factory.mktemp("world") / "фото"
    for at, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        for number in range(12):
            draw_shape(("box", "disc", "spike")[at % 3], 100 * at + number).save(
                root / name / f"{number}.png"
            )
    odd = os.fsencode(root / NAMES[0]) + b"/\xff\xfe\x1b[2J\n.png"
    try:
        Path(os.fsdecode(odd)).write_bytes((root / NAMES[0] / "0.png").read_bytes())
    except OSError:
        pytest.skip("file names have to be text on this system")
    return root


@pytest.fixture(scope="module")
def model(photos, fixed_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world-models") / "模型"
    train(photos, folder, fixed_settings)
    return folder


def list_commands(model, photos, folder):
    return {
        "train": ["train", photos, "-o", folder / "new", *FAST],
        "evaluate": ["evaluate", model, photos],
        "info": ["info", model],
        "predict": ["predict", model, photos, "--top", "3"],
        "predict a file that is not there": ["predict", model, "😀.jpg"],
        "check": ["check", photos, "-o", folder / "check", "--image-side", "64"],
        "export": ["export", model, "-f", "onnx", "-o", folder / "exports"],
        "an unknown class": ["evaluate", model, photos.parent, "--class-pattern", "([0-9])"],
        "no photos": ["train", "没有"],
        "help": ["train", "--help"],
    }


SLOW = ("train", "check", "export")
COMMANDS = list(list_commands(Path(), Path("photos"), Path()))


@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        *(
            pytest.param(name, "ascii", marks=pytest.mark.slow if name in SLOW else ())
            for name in COMMANDS
        ),
        *((name, "cp1252") for name in COMMANDS if name not in SLOW),
    ],
)
def test_names_of_any_script_go_to_streams_of_any_encoding(
    command, encoding, model, photos, tmp_path
):
    done = call(*list_commands(model, photos, tmp_path)[command], encoding=encoding)
    assert done.status in (0, 1)
    assert done.out or done.err
    (done.out + done.err).decode(encoding)
    assert b"\x1b[2J" not in done.out + done.err  # a file's name clears nobody's screen


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_table_shows_what_the_encoding_has_and_escapes_the_rest(encoding, model, photos):
    done = call("predict", model, photos / NAMES[1] / "1.png", encoding=encoding)
    assert done.status == 0
    shown = done.out.decode(encoding)
    assert "1.png" in shown
    assert ("ورد" in shown) == (encoding == "utf-8")
    assert ("\\u0648\\u0631\\u062f" in shown) == (encoding != "utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_lines_for_programs_are_utf8_whatever_the_terminal_is(encoding, model, photos):
    as_csv = call("predict", model, photos / NAMES[2], "--csv", encoding=encoding)
    lines = as_csv.out.decode().splitlines()
    assert lines[0].startswith("file,label,confidence,")
    assert set(NAMES) <= set(lines[0].split(","))
    assert len(lines) == 13
    as_json = call("predict", model, photos / NAMES[2], "--json", encoding=encoding)
    assert set(json.loads(as_json.out.decode().splitlines()[0])["probabilities"]) == set(NAMES)
    info = json.loads(call("info", model, "--json", encoding=encoding).out.decode())
    assert set(info["class_names"]) == set(NAMES)


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"},
                  {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}],
    ids=["cp1252", "ascii", "C"],
)  # fmt: skip
def test_a_process_of_another_encoding_shows_every_name(variables, model, photos):
    done = run_child("predict", model, photos, **variables)
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.splitlines()) == 49
    assert b"Traceback" not in done.stderr


def test_progress_is_drawn_on_a_terminal_of_any_encoding(model, photos):
    """The bars of `rich`, on what says that it is a terminal."""
    done = run_child(
        "evaluate", model, photos, PYTHONIOENCODING="ascii", FORCE_COLOR="1", TTY_COMPATIBLE="1"
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Measuring" in done.stderr


# ---- names that give orders


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rose.jpg", "rose.jpg"),
        ("a\nb", "a\\nb"),
        ("a\x1b]0;title\x07", "a\\x1b]0;title\\x07"),
        ("a\x9b2J", "a\\x9b2J"),
        ("gpj.\u202egnp", "gpj.\\u202egnp"),
        ("\udcff.jpg", "\\udcff.jpg"),
        ("ورد 玫瑰 🌹", "ورد 玫瑰 🌹"),
    ],
)
def test_a_name_cannot_order_a_terminal_about(name, shown):
    assert escape_controls(name) == shown


def test_lines_for_programs_are_escaped_on_a_terminal_alone(model, tmp_path, photos):
    strange = tmp_path / "a\x1b[2J.png"
    strange.write_bytes((photos / NAMES[0] / "0.png").read_bytes())
    piped = call("predict", model, strange, "--csv").out
    shown = call("predict", model, strange, "--csv", kind=Terminal).out
    assert b"a\x1b[2J.png" in piped
    assert b"a\\x1b[2J.png" in shown
    assert b"\x1b[2J" not in shown


# ---- streams that cannot be used


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["info", "MODEL"],
        ["info", "MODEL", "--json"],
        ["predict", "MODEL", "PHOTO"],
        ["predict", "MODEL", "PHOTO", "--csv"],
    ],
)
def test_output_that_cannot_be_written_is_one_error(words, model, photos):
    given = {"MODEL": model, "PHOTO": photos / NAMES[0] / "0.png"}
    done = run_child(*(given.get(word, word) for word in words), shell="> /dev/full")
    said = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert said[0] == "Error: standard output cannot be written: No space left on device"
    assert len(said) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_remarks_that_cannot_be_written_do_not_stop_the_work(model, photos):
    done = run_child(
        "predict", model, photos / NAMES[0] / "0.png", "nowhere.jpg", shell="2> /dev/full"
    )
    assert done.returncode == 1  # of the photo that is not there
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="shells there cannot close streams")
def test_closed_streams_lead_nowhere(model, photos, tmp_path):
    output = tmp_path / "lines.csv"
    done = run_child("predict", model, photos, "-o", output, shell="<&- >&- 2>&-")
    assert done.returncode == 0
    with output.open(newline="", encoding="utf-8") as file:
        assert {len(row) for row in csv.reader(file)} == {
            len(NAMES) + 4
        }  # nothing else got into the file
    assert run_child("predict", model, "-", shell="<&-").returncode == 1
    assert b"standard input is empty" in run_child("predict", model, "-", shell="<&-").stderr


def test_a_reader_that_has_seen_enough_is_no_error(model, photos):
    done = run_child(
        "predict", model, photos, shell="| head -n 1; exit ${PIPESTATUS[0]}".replace("exec ", "")
    )
    assert done.stderr == b""
