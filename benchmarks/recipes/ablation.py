"""Try recipes for the training of layers against each other, on validation images alone. Needs torch.

    python benchmarks/recipes/ablation.py rate --task cifar10 --data FOLDER [--seeds 3] [--epochs 4] [--sides 96]

A table changes one thing at a time and leaves the rest as the product has it. The tasks: `cifar10`, 30,000 training
and 10,000 validation images; `cifar1000`, 1,000 and 2,500 of them; `objects`, ETH-80 with the next two objects of
every class held out for validation. The test parts are never looked at. Each row gives the accuracy on the validation
images (mean and standard deviation over seeds), the last epoch's accuracy in training, and the seconds of training.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the programs beside this folder

import numpy as np
from accuracy import OBJECTS, hold_out
from figures import format_mean, print_machine, print_table
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos, split_photos

from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.deepening import Ground, deepen
from squeezetune.events import EpochFinished, Event, ignore_event
from squeezetune.learn.recipe import Phase, StagePlan, choose_recipe
from squeezetune.learn.weights import load_weights
from squeezetune.learning import learn_classifier
from squeezetune.stage_plans import plan_phases
from squeezetune.workshop import Workshop, open_workshop

Change = Callable[[StagePlan], StagePlan]


def change_recipe(**values: object) -> Change:
    """Change numbers of the recipe."""
    return lambda plan: replace(plan, recipe=replace(plan.recipe, **values))  # type: ignore[arg-type]


def change_augmentation(**values: object) -> Change:
    """Change strengths of the augmentation."""
    return lambda plan: change_recipe(augmentation=replace(plan.recipe.augmentation, **values))(plan)  # type: ignore[arg-type]


def combine(*changes: Change) -> Change:
    """Make several changes, one after another."""
    return lambda plan: reduce(lambda changed, change: change(changed), changes, plan)


def change_sides(*phases: tuple[int, float]) -> Change:
    """Change the image sizes; the epochs stay the same number of passes at the last size."""
    return lambda plan: replace(plan, phases=tuple(Phase(side, share) for side, share in phases))


# By table, by row: what is changed; the first row is the product as it is.
TABLES: Mapping[str, Mapping[str, Change]] = {
    "base": {"as it is": lambda plan: plan},
    "rate": {f"rate {rate:g}": change_recipe(rate=rate) for rate in (0.001, 0.002, 0.0035, 0.005, 0.007, 0.01)},
    "decay": {f"layer decay {decay:g}": change_recipe(layer_decay=decay) for decay in (0.75, 0.85, 0.95)},
    "weights": {f"weight decay {decay:g}": change_recipe(weight_decay=decay) for decay in (0.0, 0.05, 1.0, 4.0)},
    "batch": {f"batch {batch}": change_recipe(batch=batch) for batch in (32, 64, 128, 256)},
    "smoothing": {f"smoothing {share:g}": change_recipe(smoothing=share) for share in (0.0, 0.05, 0.1, 0.2)},
    "zoom": {f"zoom {zoom:g}": change_augmentation(zoom=zoom) for zoom in (1.0, 0.85, 0.7, 0.5)},
    "erase": {f"erase {share:g}": change_augmentation(erase=share) for share in (0.0, 0.25, 0.5)},
    "colour": {
        f"light and colour {share:g}": change_augmentation(light=share, colour=share) for share in (0.0, 0.2, 0.4)
    },
    "mixing": {f"mix {share:g}": change_recipe(mixing=share) for share in (0.0, 0.5, 1.0)},
    "first": {f"from {block} on": change_recipe(first_trained=block) for block in ("conv1", "fire2", "fire4", "fire6")},
    "strength": {
        f"mix {mix:g}, zoom {zoom:g}": combine(change_recipe(mixing=mix), change_augmentation(zoom=zoom))
        for mix, zoom in ((0.0, 0.85), (0.5, 0.85), (0.5, 0.7), (1.0, 0.7), (0.5, 0.5))
    },
    "sides": {
        "96": change_sides((96, 1.0)),
        "128": change_sides((128, 1.0)),
        "96, 128": change_sides((96, 0.5), (128, 0.5)),
        "160": change_sides((160, 1.0)),
    },
}


@dataclass(frozen=True)
class Task:
    """A training part and a validation part, and the frozen layers' head on them."""

    name: str
    ground: Ground
    workshop: Workshop


def open_task(name: str, seed: int, options: argparse.Namespace, cache: Path) -> Task:
    """Fit the frozen layers' head on one split of a task."""
    photos = "eth80" if name == "objects" else "cifar10"
    settings = PHOTO_SETS[photos].make_settings(seed=seed, head="linear", views="mirror", layers="head")
    index = scan_photos(photos, prepare_photos(photos, options))
    split = cut_objects(index, seed) if name == "objects" else split_photos(index, settings)
    if name == "cifar1000":
        chosen = np.random.default_rng(seed).permutation(split.train)[:1000]
        split = replace(split, train=np.sort(chosen), validation=split.validation[::4])
    workshop = open_workshop(settings, cache, ignore_event)
    learned = learn_classifier(index, lambda _: split, workshop)
    ground = Ground(index, split, learned.features, learned.trunk, load_weights(), learned.head)
    return Task(name, ground, replace(workshop, listen=show_epoch if options.verbose else ignore_event))


def cut_objects(index: ImageIndex, seed: int) -> Split:
    """Hold two objects of every class out for validation, and one more for nothing: the test part is not looked at."""
    places = [(seed * 3 + offset) % OBJECTS + 1 for offset in range(3)]
    return hold_out(index, validation=places[:2], test=places[2:])


def show_epoch(event: Event) -> None:
    if isinstance(event, EpochFinished):
        print(f"  {event.epoch}/{event.of} loss {event.train_loss:.3f} train {event.train_accuracy:.1%} "
              f"validation {event.validation_accuracy:.1%} {event.images_per_s:.0f}/s", flush=True)  # fmt: skip


def make_plan(task: Task, epochs: float, sides: Sequence[int]) -> StagePlan:
    """Make the product's plan for a task."""
    side, images = task.ground.trunk.pixels.side, len(task.ground.split.train)
    phases = tuple(Phase(each, 1 / len(sides)) for each in sides) if sides else plan_phases(side)
    return StagePlan("all layers", "conv1", phases, epochs, choose_recipe(images, epochs))


def run_table(name: str, options: argparse.Namespace, cache: Path) -> None:
    """Train every row of a table with every seed, and print it."""
    found: dict[str, list[tuple[float, float, float]]] = {row: [] for row in TABLES[name]}
    frozen = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        task = open_task(options.task, seed, options, cache)
        frozen.append(task.ground.head.chosen.validation_accuracy)
        for row, change in TABLES[name].items():
            if options.rows and row not in options.rows:
                continue
            start = time.perf_counter()
            deepened = deepen(task.ground, change(make_plan(task, options.epochs, options.sides)), task.workshop)
            last = deepened.candidate.history[-1]
            found[row].append((deepened.candidate.validation_accuracy, last.train_accuracy, last.seconds))
            print(f"{row}, seed {seed}: {found[row][-1][0]:.2%} in {time.perf_counter() - start:.0f} s", flush=True)
    rows = [
        (row, format_mean([each[0] for each in results]), f"{mean(each[1] for each in results):.1%}",
         f"{mean(each[2] for each in results):.0f}")
        for row, results in found.items() if results
    ]  # fmt: skip
    rows.insert(0, ("frozen layers, linear head", format_mean(frozen), "", ""))
    print(f"\n{name} on {options.task}, {options.epochs:g} epochs, sides {options.sides or 'as planned'}")
    print_table(("", "validation accuracy", "in training", "seconds of training"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=sorted(TABLES))
    parser.add_argument("--task", choices=("cifar10", "cifar1000", "objects"), default="cifar10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--sides", type=int, nargs="*", default=())
    parser.add_argument("--rows", nargs="*", default=(), help="only these rows of the tables")
    parser.add_argument("--verbose", action="store_true", help="print every epoch")
    add_photo_options(parser)
    options = parser.parse_args()
    print_machine()
    cache = options.work / "recipes-cache"
    cache.mkdir(parents=True, exist_ok=True)
    for name in options.tables:
        run_table(name, options, cache)


if __name__ == "__main__":
    main()
