import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from squeezetune.cli.main import main
from squeezetune.network import backbone
from squeezetune.network.inference import Runtime

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_example_runs(make_photo, tmp_path, monkeypatch, capsys):
    for number in range(40):
        path = tmp_path / "photos" / ("rose", "tulip")[number % 2] / f"{number // 2}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_photo(number))
    monkeypatch.chdir(tmp_path)
    # which engine is the fastest takes seconds to find out, and has tests of its own
    monkeypatch.setattr(backbone, "choose_runtime", lambda *_: Runtime("onnxruntime", "float32"))
    code = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)[0]
    exec(code, {})
    accuracy, prediction = capsys.readouterr().out.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert prediction.split()[0] in {"rose", "tulip"}


def test_commands_that_are_shown_exist():
    shown = [
        shlex.split(line, comments=True)
        for line in re.findall(r"^squeezetune .*", README, flags=re.MULTILINE)
    ]
    assert {words[1] for words in shown} >= {"train", "predict", "evaluate", "info"}
    for words in shown:
        assert words[1] in main.commands
        options = {name for parameter in main.commands[words[1]].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_every_command_explains_itself():
    for name in main.commands:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert main.commands[name].help
        assert "\\b" not in result.output


def test_pictures_are_there():
    for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (Path(__file__).parents[1] / picture).is_file()
