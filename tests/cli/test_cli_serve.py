import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from squeezetune.cli.main import main

TOKEN = "a-token-of-some-length"


def run(*words, **env):
    return CliRunner().invoke(main, ["serve", *map(str, words)], env=env)


def test_what_is_missing_is_named_with_the_command_that_installs_it(model_folder):
    code = f"""
import sys
sys.modules["starlette"] = None
from squeezetune.cli.main import main
main(["serve", {str(model_folder)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'squeezetune[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "env", "found"),
    [
        (["--max-images", "500"], {}, "256 images may wait, but 500"),
        (["--max-pixels", "-1"], {}, "'-1' is no number above 0 of megapixels"),
        (["--max-time", "inf"], {}, "'inf' is no number above 0 of seconds"),
        (["--max-held", "nan"], {}, "'nan' is no number above 0 of megabytes"),
        (["--max-body", "1e308"], {}, "'1e308' is no number above 0 of megabytes"),
        (
            ["--max-body", "1e8"],
            {},
            "body_bytes is 100000000000000; needed is more than 0 to 1e+12",
        ),
        (["--token", "short"], {}, "the token has 5 characters"),
        ([], {"SQUEEZETUNE_TOKEN": ""}, "the token is empty"),
    ],
)
def test_options_that_make_no_sense(model_folder, words, env, found):
    pytest.importorskip("starlette", reason="serving needs the extra serve")
    done = run(model_folder, *words, **env)
    assert done.exit_code == 2
    assert found in done.output


def test_a_folder_that_is_no_model(tmp_path):
    pytest.importorskip("starlette", reason="serving needs the extra serve")
    done = run(tmp_path)
    assert done.exit_code == 1
    assert "no SqueezeTune model" in done.output


NOISE = """
import os, sys, warnings
from pathlib import Path
from squeezetune.serving.server import ServerAddress, serve

def make_noise(server, address):
    os.write(2, b"TIFFReadDirectory: a warning of a library in C\\n\\n")
    warnings.warn("a warning of Python")
    print("words without an end", end="", file=sys.stderr)
    server.should_exit = True

serve(Path(sys.argv[1]), ServerAddress(port=0), announce=make_noise)
print("after the end", file=sys.stderr)
"""


def test_every_line_of_the_log_is_json_whoever_writes_it(model_folder):
    pytest.importorskip("starlette", reason="serving needs the extra serve")
    done = subprocess.run(
        [sys.executable, "-c", NOISE, model_folder], capture_output=True, text=True, check=False
    )
    *lines, last = done.stderr.splitlines()
    entries = [json.loads(line) for line in lines]
    said = [entry["message"] for entry in entries if entry["event"] == "stderr"]
    assert said[0] == "TIFFReadDirectory: a warning of a library in C"
    assert "a warning of Python" in " ".join(said)
    assert said[-1] == "words without an end"
    assert {"listening", "stopped"} <= {entry["event"] for entry in entries}
    assert (done.returncode, last) == (0, "after the end")
