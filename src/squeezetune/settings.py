"""Every knob of a training run: its default, its limits and its help text.

The command line, the manifest of a model and the scikit-learn estimator are all made from this one
record.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from os import PathLike, fspath
from typing import Any, cast

from squeezetune.errors import SettingsError
from squeezetune.foreign_settings import FOREIGN_ENDING, TIMM, find_triple_problem, is_foreign
from squeezetune.foreign_settings import list_foreign_conflicts as list_foreign
from squeezetune.quantities import SIZE, TIME, judge_number, parse_size

ORIGINAL_ONLY = ("classifier_norm",)
UNKNOWN_TO_ORIGINAL = (
    "effort",
    "views",
    "head",
    "layers",
    "budget",
    "max_ram",
    "max_model_size",
    "class_weight",
    "engine",
    "precision",
)
# What the setting `layers` may ask for that the base installation cannot do.
LAYERS_NEED_TORCH = ("last", "all")
# What the setting `backbone` may name: the networks that are known, or this for that which weights
# are of, or else the one of those in the package that suits the photos better.
AUTO = "auto"
BACKBONES = (
    "squeezenet1_0",
    "squeezenet1_1",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "resnet18",
    "resnet34",
    "resnet50",
    "vgg11",
    "vgg11_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "inception_v3",
)
# What the setting `weights` may name: torchvision's published files, and files with these endings.
PUBLISHED_WEIGHTS = ("squeezenet1_0", "squeezenet1_1")
WEIGHTS_ENDINGS = (".safetensors", ".pth", ".pt")
# What the setting `folds` may be besides a number.
FOLDS_WORDS, MOST_FOLDS = ("auto", "none", "groups"), 100
# The settings that are a number with its unit.
QUANTITIES = {"budget": TIME, "max_ram": SIZE, "max_model_size": SIZE}
# What the smallest file of the smallest network takes, in bytes.
LEAST_MODEL_SIZE = 500_000
# On smaller images fire9 gives a single position, and batch normalisation cannot do with a last
# batch of one image.
ORIGINAL_SIDE_PX = 48
ORIGINAL_BLOCKS = 8


def knob(
    default: Any, text: str, *, choices: tuple[str, ...] = (), low: float = 0, high: float = 0
) -> Any:
    """Declare one setting: its default, its help text, and its choices or limits (`low` to `high`,
    both allowed).
    """
    return field(
        default=default, metadata={"text": text, "choices": choices, "low": low, "high": high}
    )


@dataclass(frozen=True)
class Settings:
    """How to train; every field has a sensible default.

    Raises:
        SettingsError: one message that names every setting out of its limits.

    >>> Settings(seed=7).seed
    7
    """

    effort: str = knob(
        "balanced",
        "How hard to try: quick takes the plain image and a linear head, thorough "
        "trains all layers (with torch).",
        choices=("quick", "balanced", "thorough"),
    )
    seed: int = knob(
        0, "Seed of the split and of every other random choice.", low=0, high=2**31 - 1
    )
    validation: float = knob(
        0.1, "Share of the images on which choices are made.", low=0.02, high=0.45
    )
    test: float = knob(
        0.1, "Share of the images for the final measurement only.", low=0.02, high=0.45
    )
    folds: str = knob(
        "auto",
        "Measure by cross-validation, which gives no image up: in so many folds (2 to 100), or "
        "each group left out once (groups); none measures on a test part; auto takes 5 folds where "
        "that part would be too small to say much.",
    )
    repeats: int = knob(
        1, "How often cross-validation is made, with other folds each time.", low=1, high=20
    )
    group_by: str = knob(
        "",
        "Keep images together whose path matches this regular expression alike; "
        "its first group, or the whole match, names the group.",
    )
    near_duplicates: str = knob(
        "together",
        "Photos that show the same picture, in another format or size, cropped a "
        "little, turned or mirrored: together keeps them in one part of the split; "
        "reported only says how many stand in two; ignored does not look for them.",
        choices=("together", "reported", "ignored"),
    )
    image_side: int = knob(
        0,
        "Side in pixels at which images are seen, 32 or more; 0 takes 224, or 128 for small "
        "images.",
        low=0,
        high=512,
    )
    resize: str = knob("squash", "How an image is made square.", choices=("squash", "crop", "pad"))
    views: str = knob(
        "auto",
        "What is learnt of each image: itself, also its mirror image, also the middles of both; "
        "auto goes by the effort and the validation images.",
        choices=("auto", "plain", "mirror", "crops"),
    )
    head: str = knob(
        "auto",
        "The trained classifier; auto tries a hidden layer where it may pay.",
        choices=("auto", "linear", "hidden"),
    )
    backbone: str = knob(
        AUTO,
        "The pretrained network to begin with: one that `squeezetune backbones` lists, such as "
        "squeezenet1_1; auto is that which weights are of, SqueezeNet 1.1 in the original recipe "
        "and where the effort is quick, and else the one of SqueezeNet 1.1 and EfficientNet-Lite0 "
        "whose features tell the photos' classes apart better. Or any other network for images, as "
        "frozen layers: a file that ends in .onnx, or timm: and a name of timm's.",
    )
    pixel_mean: str = knob(
        "",
        "The mean of pixels that such a network was trained with, of 0 to 1 or of 0 to 255: three "
        "numbers, or one; without it, what its file says, or ImageNet's.",
    )
    pixel_std: str = knob("", "The deviation of pixels then: three numbers, or one.")
    cut: str = knob(
        "",
        "The tensor of such a network that features end at, instead of what its classifier reads; "
        "`squeezetune backbones FILE` tells what was found.",
    )
    taps: str = knob("", "All tensors of it that features are read from, separated by commas.")
    licenses: str = knob(
        "commercial", "Which licences of timm's weights are taken.", choices=("commercial", "any")
    )
    weights: str = knob(
        "",
        "Pretrained weights to begin with, instead of the backbone's published ones: a file "
        "(.safetensors, or .pth, which may need torch), or squeezenet1_0 or squeezenet1_1, which "
        "fetches torchvision's own.",
    )
    layers: str = knob(
        "auto",
        "Which layers are trained: the head on frozen layers, the last blocks (see last-blocks) "
        "on what the layers before them were seen to give, or all; the latter two need torch. "
        "auto goes by the effort.",
        choices=("auto", "head", "last", "all"),
    )
    epochs: float = knob(
        0.0,
        "Passes over the training images when layers are trained; 0 goes by their number. In the "
        "original recipe 0 is 10, as it took for ETH-80, with 5 for CIFAR-10 and 20 for AR faces.",
        low=0,
        high=10_000,
    )
    budget: str = knob(
        "",
        "Time for the whole run, such as 90s, 10m or 1h30m; layers are trained in what is left of "
        "it.",
    )
    max_ram: str = knob(
        "",
        "The most memory that a run may hold, such as 600MB, 1GB or 1.5GB; what cannot fit is "
        "refused beforehand.",
    )
    max_model_size: str = knob(
        "",
        "The most that the smallest file of the model (`squeezetune export -f onnx-tiny`) may "
        "take, such as 0.5MB, where the backbone is auto: networks of larger ones are not tried.",
    )
    recipe: str = knob(
        "auto",
        "How the network is trained: as the other settings say, or exactly as the original "
        "work of 2018 did, which needs torch.",
        choices=("auto", "original"),
    )
    classifier_norm: str = knob(
        "batch",
        "Before the classifier's convolution in the original recipe: batch "
        "normalisation, or none, which leaves SqueezeNet's dropout there.",
        choices=("batch", "none"),
    )
    last_blocks: int = knob(
        0,
        "Train so many of the last blocks with the classifier, where layers is last (0 is as many "
        "as suit the network, such as SqueezeNet's last 4) or in the original recipe (0 is none).",
        low=0,
        high=100,
    )
    class_weight: str = knob(
        "auto",
        "Weigh classes by their rarity; auto does so where they are unequal.",
        choices=("auto", "balanced", "none"),
    )
    engine: str = knob(
        "auto",
        "What runs the frozen layers; auto takes the faster one.",
        choices=("auto", "onnxruntime", "openvino"),
    )
    precision: str = knob(
        "auto",
        "Arithmetic of the frozen layers; auto takes the fastest that loses nothing.",
        choices=("auto", "float32", "bfloat16", "int8"),
    )
    threads: int = knob(0, "Threads to use; 0 takes one for each physical core.", low=0, high=1024)

    def __post_init__(self) -> None:
        problems = [
            problem
            for item in fields(self)
            if (problem := _find_problem(item, getattr(self, item.name)))
        ]
        if not problems and self.validation + self.test > 0.9:
            problems.append(
                f"validation + test is {self.validation + self.test:g}; needed is at most 0.9"
            )
        if not problems and 0 < self.image_side < 32:
            problems.append(
                f"image_side is {self.image_side}; needed is 32 to 512, or 0 for automatic"
            )
        problems = problems or _list_conflicts(self)
        if problems:
            raise SettingsError(
                "; ".join(problems),
                "See `squeezetune train --help` for the limits of every setting.",
            )

    @property
    def has_foreign_backbone(self) -> bool:
        """Whether the backbone is a network of somebody else, which is a graph alone."""
        return is_foreign(self.backbone)

    @property
    def is_backbone_open(self) -> bool:
        """Say whether the network that training begins with is left to what the photos say."""
        return self.backbone == AUTO and not self.weights and self.recipe != "original"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values for JSON."""
        return asdict(self)


def _list_conflicts(settings: Settings) -> list[str]:
    """Say which settings mean nothing beside others, such as the recipe that was chosen."""
    changed = {
        item.name for item in fields(Settings) if getattr(settings, item.name) != item.default
    }
    if settings.repeats > 1 and parse_folds(settings.folds) is None:
        return [
            f"repeats is {settings.repeats} with folds {settings.folds}; needed is a number of "
            f"folds, such as 5"
        ]
    if settings.weights in PUBLISHED_WEIGHTS and settings.backbone not in (AUTO, settings.weights):
        return [
            f"weights is {settings.weights!r} and backbone is {settings.backbone!r}; needed is one "
            f"of them"
        ]
    if foreign := list_foreign(vars(settings), changed):
        return foreign
    if settings.max_model_size and (problem := _find_size_problem(settings)):
        return [problem]
    if settings.recipe != "original":
        problems = [
            f"{name} belongs to the original recipe; needed is recipe original"
            for name in ORIGINAL_ONLY
            if name in changed
        ]
        if settings.last_blocks and settings.layers != "last":
            problems.append(
                "last_blocks belongs to the training of the last blocks; needed is layers last"
            )
        return problems
    return _list_original_conflicts(settings, changed)


def _list_original_conflicts(settings: Settings, changed: Collection[str]) -> list[str]:
    """Say which settings the original recipe does not know, or not so."""
    problems = [
        f"{name} means nothing in the original recipe; leave it out"
        for name in UNKNOWN_TO_ORIGINAL
        if name in changed
    ]
    if settings.backbone not in (AUTO, *PUBLISHED_WEIGHTS):
        problems.append(
            f"backbone is {settings.backbone!r}; the original recipe is one of SqueezeNet"
        )
    if 0 < settings.image_side < ORIGINAL_SIDE_PX:
        problems.append(
            f"image_side is {settings.image_side}; the original recipe needs {ORIGINAL_SIDE_PX} "
            f"or more"
        )
    if settings.last_blocks > ORIGINAL_BLOCKS:
        problems.append(
            f"last_blocks is {settings.last_blocks}; the original recipe has {ORIGINAL_BLOCKS} "
            f"Fire modules"
        )
    if settings.epochs % 1:
        problems.append(f"epochs is {settings.epochs:g}; the original recipe needs a whole number")
    return problems


def _find_size_problem(settings: Settings) -> str:
    """Say why no network can be chosen by the size of its smallest file."""
    found = f"max_model_size is {settings.max_model_size!r}"
    if not settings.is_backbone_open and settings.recipe != "original":
        return f"{found}, which chooses between networks; needed is backbone auto without weights"
    if (parse_size(settings.max_model_size) or 0) < LEAST_MODEL_SIZE:
        return f"{found}; needed is {LEAST_MODEL_SIZE / 1e6:g}MB or more"
    return ""


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Make settings from plain values, as `Settings.to_dict` gives them; a path may be a path
    object, folds a number.

    Raises:
        SettingsError: unknown names (with the nearest known one) or values out of their limits.
    """
    known = [item.name for item in fields(Settings)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise SettingsError(
            "; ".join(f"unknown setting {name!r}{_suggest(name, known)}" for name in unknown),
            f"Known settings: {', '.join(known)}.",
        )
    return Settings(**{name: _read_value(name, value) for name, value in values.items()})


def _read_value(name: str, value: Any) -> Any:
    """Take a path object for its text, and so a number of folds."""
    if name == "folds" and type(value) is int:
        return str(value)
    return fspath(value) if isinstance(value, PathLike) else value


def _suggest(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _find_problem(item: "Field[Any]", value: Any) -> str:
    """Say what is wrong with the value of one setting; nothing where it is right."""
    # 600 is no more a size than "600" is
    if item.name in QUANTITIES and type(value) in (int, float):
        return f"{item.name} is {value!r}{QUANTITIES[item.name].explain(str(value))}"
    kinds = (int, float) if isinstance(item.default, float) else (type(item.default),)
    if not isinstance(value, kinds) or isinstance(value, bool):
        return f"{item.name} is {value!r}; needed is a value of type {kinds[-1].__name__}"
    choices, low, high = (item.metadata[name] for name in ("choices", "low", "high"))
    if choices and value not in choices:
        return (
            f"{item.name} is {value!r}; needed is one of "
            f"{', '.join(choices)}{_suggest(str(value), list(choices))}"
        )
    if high and (problem := judge_number(item.name, cast(float, value), low, high)):
        return problem
    if item.name == "folds" and value not in FOLDS_WORDS and parse_folds(str(value)) is None:
        return (
            f"folds is {value!r}; needed is a number from 2 to {MOST_FOLDS}, or one of "
            f"{', '.join(FOLDS_WORDS)}"
        )
    if item.name in CHECKS and value:
        return CHECKS[item.name](str(value))
    if item.name in QUANTITIES and value and (problem := QUANTITIES[item.name].explain(str(value))):
        return f"{item.name} is {value!r}{problem}"
    return ""


def _find_backbone_problem(value: str) -> str:
    """Say why a value can name no network, whatever is on the disk."""
    if value in (AUTO, *BACKBONES) or is_foreign(value):
        return ""
    return (
        f"backbone is {value!r}; needed is one of {', '.join((AUTO, *BACKBONES))}, a file that "
        f"ends in {FOREIGN_ENDING}, or {TIMM}NAME{_suggest(value, [AUTO, *BACKBONES])}"
    )


def _find_weights_problem(value: str) -> str:
    """Say why a value can name no weights, whatever is on the disk."""
    if value in PUBLISHED_WEIGHTS or value.lower().endswith(WEIGHTS_ENDINGS):
        return ""
    return (
        f"weights is {value!r}; needed is a file that ends in {' or '.join(WEIGHTS_ENDINGS)}, or "
        f"one of {', '.join(PUBLISHED_WEIGHTS)}{_suggest(value, list(PUBLISHED_WEIGHTS))}"
    )


def parse_folds(text: str) -> int | None:
    """Read the number of folds; None if it is none, or out of its limits.

    >>> parse_folds("5")
    5
    """
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0
    return number if 2 <= number <= MOST_FOLDS else None


def _find_pattern_problem(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"group_by is {pattern!r}, which is no regular expression: {error}"
    return ""


CHECKS: Mapping[str, Callable[[str], str]] = {
    "group_by": _find_pattern_problem,
    "backbone": _find_backbone_problem,
    "weights": _find_weights_problem,
    "pixel_mean": partial(find_triple_problem, "pixel_mean"),
    "pixel_std": partial(find_triple_problem, "pixel_std"),
}
