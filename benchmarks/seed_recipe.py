"""Measure the recipe of the original project (2018) as plain torch code: its seconds and its
accuracy. Needs torch.

    python benchmarks/seed_recipe.py eth80 --data FOLDER [--slice 1280] [--repeats 3] [--images 400]

The recipe: SqueezeNet 1.1 with frozen ImageNet layers, fire9's output through batch normalisation,
a 1x1 convolution to the classes, ReLU and the mean over the positions; Adam 1e-3 on these; batches
of 64; photos are opened and squashed to 224 pixels with Pillow one after the other; every epoch
reads all photos anew and ends with the validation part. ETH-80: 80/10/10 and ten epochs; CIFAR-10:
60/20/20 and five. `squeezetune train --recipe original` trains the same, from pixels that are
decoded once; the classifier, as it begins, is the same here and there.

Time: a slice of the training part and of the validation part is run as it stands, and extrapolated
to all epochs and one pass over the test part. Accuracy: not from those passes. The layers are
frozen and photos are not augmented, so that fire9's output is the same in every epoch: it is
computed once, kept as float16 (0.17 MB an image: 9 GB for CIFAR-10) in the work folder, and the
classifier is trained on it for all epochs. That gives the recipe's accuracy, up to the rounding,
without its hours.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figures import format_accuracy, format_spread, print_machine, print_table
from numpy.typing import NDArray
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos, split_photos
from PIL import Image
from torch import nn
from torch.nn import functional

from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.finetune.original_loop import build_original
from squeezetune.finetune.recipe import OriginalRecipe
from squeezetune.network.weights import load_weights
from squeezetune.network.zoo import SQUEEZENET1_1
from squeezetune.pipeline.original import SIDE_PX

MEAN, STD = SQUEEZENET1_1.mean, SQUEEZENET1_1.std
RECIPE = OriginalRecipe()
BATCH, RATE = RECIPE.batch, RECIPE.rate
MAP_SHAPE = (512, 13, 13)  # fire9's output at 224 pixels
TAPS = (7, 9, 10, 11, 12)  # fire5 ... fire9 in the trunk

Positions = NDArray[np.int64]


class Fire(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """A Fire module under torchvision's parameter names."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Any) -> Any:
        """Squeeze, expand twice, and join."""
        x = functional.relu(self.squeeze(x), inplace=True)
        wide = (self.expand1x1(x), self.expand3x3(x))
        return torch.cat([functional.relu(part, inplace=True) for part in wide], 1)


def build_backbone() -> Any:
    """Build SqueezeNet 1.1 up to fire9 with the pretrained weights, frozen."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
    )  # fmt: skip
    prefix = "features."
    named = {name: torch.from_numpy(value.copy()) for name, value in load_weights().items()}
    backbone.load_state_dict(
        {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}
    )
    return backbone.requires_grad_(False).eval()


def build_classifier(class_count: int, seed: int) -> Any:
    """Build the recipe's classifier: maps (n, 512, 13, 13) in, logits (n, classes) out."""
    return nn.Sequential(
        *build_original(load_weights(), class_count, RECIPE, seed).classifier, nn.Flatten()
    )


def pool_taps(backbone: Any, x: Any) -> Any:
    """Compute what our graph computes, the mean of each channel after fire5 ... fire9: (n,
    2048).
    """
    means = []
    for place, layer in enumerate(backbone):
        x = layer(x)
        if place in TAPS:
            means.append(x.mean((2, 3)))
    return torch.cat(means, 1)


def normalise_pixels(pixels: NDArray[np.uint8]) -> Any:
    """Turn (n, side, side, 3) uint8 into the network's input, (n, 3, side, side) float32."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return ((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).contiguous()


def read_photo(path: Path) -> Any:
    """Open a photo, squash it and normalise it: (3, 224, 224) float32."""
    image = Image.open(path).convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    return normalise_pixels(np.array(image)[None])[0]


@dataclass(frozen=True)
class Recipe:
    """The recipe on one set of photos, split as `squeezetune train` splits them."""

    root: Path
    index: ImageIndex
    split: Split
    epochs: int
    seed: int

    def read_batches(self, positions: Positions) -> Iterator[tuple[Any, Any]]:
        """Yield batches of photos and labels."""
        for at in range(0, len(positions), BATCH):
            chosen = positions[at : at + BATCH]
            images = [read_photo(self.root / self.index.names[position]) for position in chosen]
            yield torch.stack(images), torch.from_numpy(self.index.labels[chosen])


@dataclass(frozen=True)
class Pace:
    """Seconds that the recipe takes for one image, in training and in evaluation."""

    training_s: float
    evaluation_s: float

    def extrapolate(self, recipe: Recipe) -> float:
        """Return the seconds of all epochs, each with its validation, and of one pass over the test
        part.
        """
        train, validation, test = (
            len(part) for part in (recipe.split.train, recipe.split.validation, recipe.split.test)
        )
        epoch = train * self.training_s + validation * self.evaluation_s
        return recipe.epochs * epoch + test * self.evaluation_s


def measure_pace(recipe: Recipe, slice_images: int) -> Pace:
    """Run the recipe on some training and as many validation images, from the files on, and time
    both.
    """
    backbone, classifier = (
        build_backbone(),
        build_classifier(len(recipe.index.class_names), recipe.seed),
    )
    model = nn.Sequential(backbone, classifier)
    optimiser = torch.optim.Adam(classifier.parameters(), RATE)
    train, validation = (
        thin_out(part, slice_images) for part in (recipe.split.train, recipe.split.validation)
    )
    evaluate_model(
        model, recipe.read_batches(train[:BATCH])
    )  # the first call sets the convolutions up
    start = time.perf_counter()
    train_model(model, optimiser, recipe.read_batches(train))
    middle = time.perf_counter()
    evaluate_model(model, recipe.read_batches(validation))
    end = time.perf_counter()
    return Pace((middle - start) / len(train), (end - middle) / len(validation))


def thin_out(positions: Positions, count: int) -> Positions:
    """Take about `count` positions evenly."""
    return positions[:: max(1, len(positions) // count)][:count]


def train_model(model: Any, optimiser: Any, batches: Iterator[tuple[Any, Any]]) -> None:
    """Train for one pass; what is frozen stays as it is."""
    model.train()
    for images, labels in batches:
        optimiser.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimiser.step()


def evaluate_model(model: Any, batches: Iterator[tuple[Any, Any]]) -> int:
    """Count the right answers."""
    model.eval()
    with torch.no_grad():
        return sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)


@dataclass(frozen=True)
class RecipeAccuracy:
    """The validation accuracy, and how many test images are right, after each epoch."""

    validation: tuple[float, ...]
    tests: tuple[int, ...]
    count: int

    @property
    def correct(self) -> int:
        """How many test images are right at the end: the recipe takes the last epoch, whatever it
        is worth.
        """
        return self.tests[-1]


def measure_accuracy(recipe: Recipe, work: Path) -> RecipeAccuracy:
    """Train the recipe's classifier for all epochs on stored outputs of the frozen layers."""
    maps, split = compute_maps(recipe, work), recipe.split
    rng = np.random.default_rng(recipe.seed)
    classifier = build_classifier(len(recipe.index.class_names), recipe.seed)
    optimiser = torch.optim.Adam(classifier.parameters(), RATE)
    validation, tests = [], []
    for _ in range(recipe.epochs):
        train_model(classifier, optimiser, read_maps(maps, recipe, rng.permutation(split.train)))
        correct = evaluate_model(classifier, read_maps(maps, recipe, split.validation))
        validation.append(correct / len(split.validation))
        tests.append(evaluate_model(classifier, read_maps(maps, recipe, split.test)))
    return RecipeAccuracy(tuple(validation), tuple(tests), len(split.test))


def compute_maps(recipe: Recipe, work: Path) -> NDArray[np.float16]:
    """Compute fire9's output of every image, (n, 512, 13, 13), as a file in the work folder unless
    it is there.
    """
    key = hashlib.blake2b(recipe.index.digests.tobytes(), digest_size=8).hexdigest()
    path = work / f"fire9-{key}.npy"
    if not path.exists():
        partial = path.with_suffix(".partial")
        count = len(recipe.index)
        maps = np.lib.format.open_memmap(partial, "w+", np.float16, (count, *MAP_SHAPE))
        # another memory layout, twice as fast: this pass is not timed
        backbone, done = build_backbone().to(memory_format=torch.channels_last), 0
        with torch.inference_mode():
            for images, _ in recipe.read_batches(np.arange(count)):
                maps[done : done + len(images)] = backbone(
                    images.to(memory_format=torch.channels_last)
                ).numpy()
                done += len(images)
        maps.flush()
        partial.rename(path)
    stored: NDArray[np.float16] = np.load(path, mmap_mode="r")
    return stored


def read_maps(
    maps: NDArray[np.float16], recipe: Recipe, positions: Positions
) -> Iterator[tuple[Any, Any]]:
    """Yield batches of stored outputs and labels."""
    for at in range(0, len(positions), BATCH):
        chosen = positions[at : at + BATCH]
        yield torch.from_numpy(maps[chosen]).float(), torch.from_numpy(recipe.index.labels[chosen])


def open_recipe(name: str, root: Path, seed: int) -> Recipe:
    """Index and split a set's photos for the recipe."""
    index, photo_set = scan_photos(name, root), PHOTO_SETS[name]
    return Recipe(
        root, index, split_photos(index, photo_set.make_settings(seed=seed)), photo_set.epochs, seed
    )


def print_recipe(recipe: Recipe, paces: Sequence[Pace], accuracy: RecipeAccuracy | None) -> None:
    rows = [
        ("training, images/s", format_spread([1 / pace.training_s for pace in paces])),
        ("evaluation, images/s", format_spread([1 / pace.evaluation_s for pace in paces])),
        (f"{recipe.epochs} epochs and the test part, s, extrapolated",
         format_spread([pace.extrapolate(recipe) for pace in paces])),
    ]  # fmt: skip
    if accuracy:
        epochs = ", ".join(f"{share:.2%}" for share in accuracy.validation)
        rows += [("validation accuracy after each epoch", epochs)]
        tests = ", ".join(f"{correct / accuracy.count:.2%}" for correct in accuracy.tests)
        rows += [("test accuracy after each epoch", tests)]
        rows += [
            ("test accuracy after the last", format_accuracy(accuracy.correct, accuracy.count))
        ]
    print_table(["the recipe of 2018 in plain torch", "median (min–max)"], rows)
    print(
        "Times are those of a slice, extrapolated. Accuracies are those of all epochs, trained on "
        "stored outputs of"
    )
    print(
        "the frozen layers (float16), which are the same in every epoch: not from passes that "
        "were timed."
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=PHOTO_SETS)
    add_photo_options(parser)
    add_recipe_options(parser)
    parser.add_argument(
        "--repeats", type=int, default=3, help="how often to time the slice (default: %(default)s)"
    )
    parser.add_argument("--skip-accuracy", action="store_true", help="measure the time only")
    options = parser.parse_args(argv)
    recipe = open_recipe(options.name, prepare_photos(options.name, options), options.seed)
    paces = [measure_pace(recipe, options.slice) for _ in range(options.repeats)]
    accuracy = None if options.skip_accuracy else measure_accuracy(recipe, options.work)
    print_recipe(recipe, paces, accuracy)
    print_machine()


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every program that runs the recipe."""
    parser.add_argument(
        "--slice", type=int, default=1280, help="images of the timed slice (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of split and recipe (default: %(default)s)"
    )


if __name__ == "__main__":
    main()
