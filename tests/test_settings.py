import json
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeezetune.errors import SettingsError
from squeezetune.foreign_settings import FOREIGN_ONLY
from squeezetune.settings import (
    BACKBONES,
    ORIGINAL_ONLY,
    UNKNOWN_TO_ORIGINAL,
    Settings,
    parse_settings,
)

FIELDS = fields(Settings)


def draw_value(item):
    """Draw any value that is right for one setting."""
    choices, low, high = (item.metadata[name] for name in ("choices", "low", "high"))
    if choices:
        return st.sampled_from(choices)
    if item.name == "group_by":
        return st.sampled_from(["", "^([a-z]+)", "a|b"])
    if item.name == "folds":
        return st.sampled_from(["auto", "none", "groups", "2", "10", "100"])
    if item.name == "budget":
        return st.sampled_from(["", "90s", "10m", "1h30m"])
    if item.name == "weights":
        return st.sampled_from(["", "squeezenet1_0", "a folder/mine.safetensors", "MINE.PTH"])
    if item.name == "backbone":  # another one than the weights are of is refused
        return st.sampled_from(["auto", "squeezenet1_0"])
    if item.name == "max_ram":
        return st.sampled_from(["", "600MB", "1GB", "1.5GiB"])
    if item.name == "image_side":
        return st.one_of(st.just(0), st.integers(32, high))
    return st.floats(low, high) if isinstance(item.default, float) else st.integers(low, high)


# the original recipe knows few of the others, as networks of others do; repeats need folds, and
# sizes of files a choice
ALONE_MEANINGLESS = {"recipe", "repeats", "last_blocks", "max_model_size", *ORIGINAL_ONLY}
ALONE_MEANINGLESS |= set(FOREIGN_ONLY)
ANY_SETTINGS = st.fixed_dictionaries(
    {},
    optional={item.name: draw_value(item) for item in FIELDS if item.name not in ALONE_MEANINGLESS},
)


def test_the_defaults_are_right():
    assert Settings() == parse_settings({})


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Settings().seed = 3


@given(ANY_SETTINGS)
def test_settings_survive_json(values):
    settings = parse_settings(values)
    assert parse_settings(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize("item", FIELDS, ids=lambda item: item.name)
def test_every_setting_has_a_help_text_and_limits_that_allow_its_default(item):
    assert item.metadata["text"].endswith(".")
    if item.metadata["choices"]:
        assert item.default in item.metadata["choices"]
    elif not isinstance(item.default, str):
        assert item.metadata["low"] <= item.default <= item.metadata["high"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"effort": "max"}, "effort is 'max'; needed is one of quick, balanced, thorough"),
        ({"effort": "quik"}, "did you mean 'quick'?"),
        ({"engine": "openvine"}, "did you mean 'openvino'?"),
        ({"seed": -1}, "seed is -1; needed is 0 to 2,147,483,647"),
        ({"seed": "7"}, "seed is '7'; needed is a value of type int"),
        ({"seed": True}, "seed is True; needed is a value of type int"),
        ({"seed": 1.0}, "seed is 1.0; needed is a value of type int"),
        ({"test": 0.01}, "test is 0.01; needed is 0.02 to 0.45"),
        ({"test": "0.1"}, "test is '0.1'; needed is a value of type float"),
        ({"test": float("nan")}, "test is nan"),
        ({"test": float("inf")}, "test is inf"),
        ({"validation": None}, "validation is None"),
        ({"image_side": 31}, "image_side is 31; needed is 32 to 512, or 0 for automatic"),
        ({"image_side": 513}, "image_side is 513; needed is 0 to 512"),
        ({"group_by": "("}, "group_by is '(', which is no regular expression"),
        ({"threads": 5000}, "threads is 5000"),
        ({"epochs": -1.0}, "epochs is -1.0; needed is 0 to 10,000"),
        (
            {"budget": "soon"},
            "budget is 'soon'; needed is a time such as 90s, 10m or 1h30m, above 0",
        ),
        (
            {"budget": 90},
            "budget is 90, which has no unit; needed is a time such as 90s, 90m or 90h",
        ),
        (
            {"folds": "5.5"},
            "folds is '5.5'; needed is a number from 2 to 100, or one of auto, none, groups",
        ),
        ({"folds": "1"}, "folds is '1'"),
        ({"folds": "101"}, "folds is '101'"),
        ({"repeats": 3}, "repeats is 3 with folds auto; needed is a number of folds"),
        ({"repeats": 3, "folds": "groups"}, "repeats is 3 with folds groups"),
        ({"views": ["plain"]}, "views is ['plain']"),
    ],
)
def test_values_out_of_their_limits_are_named_with_what_is_needed(values, reason):
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    assert reason in caught.value.message
    assert "--help" in caught.value.hint


def test_all_problems_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        Settings(effort="max", seed=-1, test=3)
    assert all(name in caught.value.message for name in ("effort", "seed", "test"))


def test_a_number_of_folds_may_be_a_number():
    assert parse_settings({"folds": 5, "repeats": 2}) == Settings(folds="5", repeats=2)


def test_limits_themselves_are_allowed():
    assert Settings(validation=0.45, test=0.45, image_side=512, seed=2**31 - 1).test == 0.45
    assert Settings(validation=0.02, test=0.02, image_side=32, seed=0).validation == 0.02


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("efort", "effort"), ("image_size", "image_side"), ("learning_rate", "")],
)
def test_unknown_settings_are_named_with_the_nearest_known_one(name, suggestion):
    with pytest.raises(SettingsError, match=f"unknown setting '{name}'") as caught:
        parse_settings({name: 1})
    assert (f"did you mean '{suggestion}'?" in caught.value.message) is bool(suggestion)
    assert "effort, seed" in caught.value.hint


# ---- pretrained weights


def test_a_path_object_is_a_path():
    assert parse_settings({"weights": Path("here", "mine.pt")}).weights == str(
        Path("here", "mine.pt")
    )


@pytest.mark.parametrize("recipe", ["auto", "original"])
@pytest.mark.parametrize("value", ["squeezenet1_1", "mine.safetensors"])
def test_every_recipe_takes_weights(recipe, value):
    assert Settings(recipe=recipe, weights=value).weights == value


@pytest.mark.parametrize(
    ("value", "suggestion"),
    [
        ("squeezenet1_2", ", did you mean 'squeezenet1_"),
        ("squeezenet", ", did you mean 'squeezenet1_"),
        ("mine.onnx", ""),
        ("mine", ""),
        (".", ""),
        ("http://example.org/", ""),
    ],
)
def test_what_can_be_no_weights_is_refused(value, suggestion):
    needed = re.escape(
        f"weights is {value!r}; needed is a file that ends in .safetensors or .pth or .pt, or one "
        f"of"
    )
    with pytest.raises(SettingsError, match=needed) as caught:
        Settings(weights=value)
    assert ("did you mean" in caught.value.message) is bool(suggestion)
    assert suggestion in caught.value.message


# ---- the backbone


@pytest.mark.parametrize("name", BACKBONES)
def test_every_known_network_is_taken(name):
    assert Settings(backbone=name).backbone == name
    assert Settings(backbone=name, weights="mine.safetensors").weights


@pytest.mark.parametrize(
    ("value", "suggestion"), [("resnet81", "resnet18"), ("lite0", ""), ("1.1", "")]
)
def test_what_can_be_no_backbone_is_refused(value, suggestion):
    with pytest.raises(SettingsError, match=f"backbone is {value!r}; needed is one of") as caught:
        Settings(backbone=value)
    assert (f"did you mean {suggestion!r}" in caught.value.message) is bool(suggestion)


# ---- networks of others


def test_a_backbone_may_be_a_file_or_a_network_of_timm():
    assert Settings(backbone="their net.ONNX").has_foreign_backbone
    assert Settings(backbone="timm:resnet10t.c3_in1k", licenses="any").has_foreign_backbone
    assert parse_settings({"backbone": Path("theirs.onnx")}).backbone == "theirs.onnx"
    assert not Settings(backbone="resnet18").has_foreign_backbone


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"precision": "int8"}, "precision is int8, and theirs.onnx is a graph alone"),
        ({"weights": "mine.pt"}, "weights is 'mine.pt', and theirs.onnx has its own"),
        ({"recipe": "original"}, "the original recipe is one of SqueezeNet"),
        ({"pixel_mean": "0.5 0.5"}, "pixel_mean is '0.5 0.5'; needed are three numbers"),
        ({"pixel_std": "one"}, "pixel_std is 'one'; needed are three numbers"),
    ],
)
def test_what_a_graph_alone_cannot_is_refused_at_once(values, words):
    with pytest.raises(SettingsError, match=re.escape(words)):
        Settings(backbone="theirs.onnx", **values)


@pytest.mark.parametrize("name", ["pixel_mean", "pixel_std", "cut", "taps", "licenses"])
def test_how_a_foreign_network_is_read_means_nothing_for_a_known_one(name):
    with pytest.raises(SettingsError, match=f"{name} belongs to a backbone that is a file"):
        Settings(**{name: "any" if name == "licenses" else "0.5"})


@pytest.mark.parametrize("name", ["timm:", "theirs.pt", "onnx"])
def test_other_names_are_no_networks_of_others(name):
    with pytest.raises(SettingsError, match="needed is one of"):
        Settings(backbone=name)


def test_published_weights_of_another_network_than_the_backbone_are_refused():
    Settings(backbone="squeezenet1_0", weights="squeezenet1_0")
    with pytest.raises(SettingsError, match="weights is 'squeezenet1_0' and backbone is 'resnet1"):
        Settings(backbone="resnet18", weights="squeezenet1_0")


def test_the_backbone_is_open_unless_something_else_says_which():
    assert Settings().is_backbone_open
    for known in ({"backbone": "squeezenet1_1"}, {"weights": "mine.pth"}, {"recipe": "original"}):
        assert not Settings(**known).is_backbone_open


def test_the_original_recipe_is_one_of_squeezenet():
    Settings(backbone="squeezenet1_0", recipe="original")
    with pytest.raises(SettingsError, match="backbone is 'vgg11'; the original recipe is one of"):
        Settings(backbone="vgg11", recipe="original")


# ---- the original recipe


ORIGINAL = {"recipe": "original"}


def test_the_original_recipe_has_options_of_its_own():
    own = {"classifier_norm": "none", "last_blocks": 2}
    settings = Settings(**ORIGINAL, **own, epochs=5, image_side=48, resize="pad", seed=18)
    assert parse_settings(settings.to_dict()) == settings


def test_its_options_mean_nothing_without_it():
    assert ORIGINAL_ONLY == ("classifier_norm",)
    expected = "classifier_norm belongs to the original recipe; needed is recipe original"
    with pytest.raises(SettingsError, match=expected):
        Settings(classifier_norm="none")


def test_the_number_of_fire_modules_belongs_to_those_who_train_the_last_ones():
    settings = Settings(layers="last", last_blocks=2)
    assert parse_settings(settings.to_dict()) == settings
    for layers in ("auto", "head", "all"):
        with pytest.raises(
            SettingsError, match="last_blocks belongs to the training of the last blocks; needed is"
        ):
            Settings(layers=layers, last_blocks=2)


@pytest.mark.parametrize(
    "values",
    [
        {"effort": "quick"},
        {"views": "mirror"},
        {"head": "linear"},
        {"layers": "all"},
        {"budget": "10m"},
        {"max_model_size": "1MB"},
        {"class_weight": "balanced"},
        {"engine": "onnxruntime"},
        {"precision": "int8"},
    ],
)
def test_it_refuses_what_would_make_it_another(values):
    [name] = values
    assert name in UNKNOWN_TO_ORIGINAL
    with pytest.raises(
        SettingsError, match=f"{name} means nothing in the original recipe; leave it out"
    ):
        Settings(**ORIGINAL, **values)


@pytest.mark.parametrize(("values", "reason"), [
    ({"epochs": 2.5}, "epochs is 2.5; the original recipe needs a whole number"),
    ({"image_side": 47}, "image_side is 47; the original recipe needs 48 or more"),
    ({"last_blocks": 9}, "last_blocks is 9; the original recipe has 8 Fire modules"),
    ({"classifier_norm": "layer"}, "needed is one of batch, none"),
])  # fmt: skip
def test_its_limits_are_named(values, reason):
    with pytest.raises(SettingsError, match=reason):
        Settings(**ORIGINAL, **values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_model_size": "0.5"}, "which has no unit"),
        ({"max_model_size": "100kB"}, "max_model_size is '100kB'; needed is 0.5MB or more"),
        (
            {"max_model_size": "1MB", "backbone": "resnet18"},
            "max_model_size is '1MB', which chooses between networks; needed is backbone auto",
        ),
        ({"max_model_size": "1MB", "weights": "mine.pth"}, "needed is backbone auto without weig"),
    ],
)
def test_the_size_of_the_smallest_file_chooses_only_where_a_network_is_open(values, reason):
    with pytest.raises(SettingsError, match=reason):
        Settings(**values)
