"""Try recipes for the training of layers against each other, on validation images alone. Needs
torch.

    python benchmarks/recipes/ablation.py --data FOLDER [--backbone efficientnet_lite0]
        [--tables rate views] [--tasks objects] [--seeds 3]

A table changes one thing at a time and leaves the rest as the product has it; but light and colour
stay as they are except in the table that brought their changes into the product. The tasks:
`cifar10`, 30,000 training and 10,000 validation images, two epochs at 96 px; `cifar1000`, 1,000 and
2,500 of them, 20 epochs at 96 px; `clothing`, the publisher's parts, three epochs at the product's
own sizes; `objects`, ETH-80 with the next two objects of every class held
out for validation, two epochs at the product's own sizes. `--epochs` and `--sides` change that. The
test parts are never looked at. Each row gives the accuracy on the validation images, and the
difference to what is trained without the change on the same splits in points, both as mean and
standard deviation over seeds. What is faster is measured elsewhere, side by side: these trainings
take hours, and a machine is not the same all that time.

Finished trainings are kept in `recipes.jsonl` in the work folder and not made again; with `--known`
nothing is trained and the tables show what is there. `--write FILE` writes them to a file. What our
own trainings gave is kept beside this program:

    python benchmarks/recipes/ablation.py --known --ledger benchmarks/recipes/measured.jsonl
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the programs beside this folder

import numpy as np
from accuracy import OBJECTS, hold_out
from figures import format_mean, print_machine, print_table
from ledger import Ledger, add_ledger_options, open_ledger
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos, split_photos

from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.events import EpochFinished, Event, ignore_event
from squeezetune.finetune.recipe import (
    FROM_IMAGES,
    Augmentation,
    Phase,
    Recipe,
    StagePlan,
    choose_recipe,
)
from squeezetune.heads.selection import LabelledFeatures, fit_head
from squeezetune.network.architecture import Architecture
from squeezetune.network.pretrained import DEFAULT
from squeezetune.network.weights import detect_architecture, find_architecture
from squeezetune.pipeline.context import RunContext, open_context
from squeezetune.pipeline.fitting import fit_classifier
from squeezetune.pipeline.stage import StageInputs, train_stage
from squeezetune.planning.stage_plans import plan_phases

Change = Callable[[StagePlan], StagePlan]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Regime:
    """For how many epochs a task is trained, at which sizes; without sizes at the product's own."""

    epochs: float
    sides: tuple[int, ...] = ()


# The photos of a task, where they are not CIFAR-10's.
PHOTOS = {"objects": "eth80", "clothing": "clothing"}
FROZEN, UNCHANGED = "frozen layers, linear head", "nothing changed"
REGIMES = {
    "cifar10": Regime(2, (96,)),
    "cifar1000": Regime(20, (96,)),
    "clothing": Regime(3),
    "objects": Regime(2),
}
# Where the tables of depth begin to train: from pixels, and from kept activations.
DEPTHS = {
    "squeezenet1_1": (("conv1", "fire4"), ("fire6", "fire8")),
    "efficientnet_lite0": (
        ("stem", "block1.0", "block2.0", "block3.0", "block4.0"),
        ("block3.0", "block4.0", "block5.0", "block6.0"),
    ),
}


@dataclass(frozen=True)
class Task:
    """A training part and a validation part, and the frozen layers' head on them."""

    name: str
    ground: StageInputs
    context: RunContext
    regime: Regime

    @property
    def network(self) -> Architecture:
        """The network that is trained."""
        return detect_architecture(self.ground.weights)

    @cached_property
    def plan(self) -> StagePlan:
        """The plan for the training of all layers of which the tables change a number."""
        side, images, sides = (
            self.ground.backbone.pixels.side,
            len(self.ground.split.train),
            self.regime.sides,
        )
        phases = (
            tuple(Phase(each, 1 / len(sides)) for each in sides) if sides else plan_phases(side)
        )
        recipe = choose_recipe(images, self.regime.epochs, self.network)
        recipe = replace(recipe, augmentation=Augmentation())
        return StagePlan("all layers", FROM_IMAGES, phases, self.regime.epochs, recipe)

    def train(self, plan: StagePlan) -> Figures:
        """Train the layers as planned."""
        deepened = train_stage(self.ground, plan, self.context)
        last = deepened.candidate.history[-1]
        accuracy = deepened.candidate.validation_accuracy
        return {"validation": accuracy, "training": last.train_accuracy, "seconds": last.seconds}


Row = Callable[[Task], Figures]


# ---- rows: what is tried


def change(*changes: Change) -> Row:
    """Train with changes of the plan, one after another."""
    return lambda task: task.train(reduce(lambda plan, each: each(plan), changes, task.plan))


def change_recipe(**values: object) -> Change:
    """Change numbers of the recipe."""
    return lambda plan: replace(plan, recipe=replace(plan.recipe, **values))  # type: ignore[arg-type]


def change_augmentation(**values: object) -> Change:
    """Change strengths of the augmentation."""
    return lambda plan: change_recipe(
        augmentation=replace(plan.recipe.augmentation, **values)  # type: ignore[arg-type]
    )(plan)


def change_sides(*phases: tuple[int, float]) -> Change:
    """Change the image sizes; the epochs stay the same number of passes at the last size."""
    return lambda plan: replace(plan, phases=tuple(Phase(side, share) for side, share in phases))


def begin_at(block: str, extra_views: int = 0) -> Change:
    """Train from this block on, from kept activations, with so many random views besides image and
    mirror image.
    """
    return lambda plan: replace(
        plan, name=f"from {block} on", start=block, phases=plan.phases[-1:], extra_views=extra_views
    )


def use_adamw(rate: float) -> Row:
    """Train the kernels with AdamW too, at this rate, instead of Muon."""

    def run(task: Task) -> Figures:
        from squeezetune.finetune.optimiser import make_groups

        def make_plain(*given: Any) -> list[Any]:
            return [replace(group, is_kernel=False) for group in make_groups(*given)]

        with patch("squeezetune.finetune.loop.make_groups", make_plain):
            return task.train(change_recipe(rate=rate)(task.plan))

    return run


def use_taps(*taps: str) -> Row:
    """Fit the linear head on the frozen layers' features of these taps only."""

    def run(task: Task) -> Figures:
        start, ground, settings = time.perf_counter(), task.ground, task.context.settings
        network = task.network
        is_used = np.repeat(
            [tap in taps for tap in network.taps],
            [network.channels[name] for name in network.taps],
        )
        train, validation = (
            LabelledFeatures(
                ground.features.values[part] * is_used.astype(np.float16), ground.index.labels[part]
            )
            for part in (ground.split.train, ground.split.validation)
        )
        classes = len(ground.index.class_names)
        head = fit_head(
            train, validation, classes, settings, ignore_event, threads=task.context.threads
        )
        seconds = time.perf_counter() - start
        return {"validation": head.chosen.validation_accuracy, "training": None, "seconds": seconds}

    return run


def measure_frozen(task: Task) -> Figures:
    """Say what the frozen layers' linear head reaches."""
    chosen = task.ground.head.chosen
    return {"validation": chosen.validation_accuracy, "training": None, "seconds": chosen.seconds}


def try_recipe(name: str, values: Sequence[Any]) -> dict[str, Row]:
    """Try values of one of the recipe's numbers; the name of a row also says the product's own."""
    own = getattr(Recipe(), name)
    return {
        f"{name} {value} instead of {own}": change(change_recipe(**{name: value}))
        for value in values
    }


# By table, by row: what is tried with any network.
RECIPE_TABLES: Mapping[str, Mapping[str, Row]] = {
    "rate": try_recipe("rate", (0.002, 0.005, 0.01)),
    "optimiser": {
        f"AdamW at {rate:g} instead of Muon": use_adamw(rate) for rate in (0.0005, 0.001, 0.002)
    },
    "decay": try_recipe("layer_decay", (0.75, 0.95)),
    "batch": {f"batch {batch}": change(change_recipe(batch=batch)) for batch in (32, 64, 256)},
    "smoothing": try_recipe("smoothing", (0.0, 0.1, 0.2)),
    "averaging": try_recipe("averaging", (0.01, 0.2)),
    "zoom": {
        f"zoom {zoom:g} instead of {Augmentation().zoom:g}": change(change_augmentation(zoom=zoom))
        for zoom in (1.0, 0.7, 0.5)
    },
    "erase": {"half of the images with a part erased": change(change_augmentation(erase=0.5))},
    "colour": {
        f"light and colour changed by {share:g}": change(
            change_augmentation(light=share, colour=share)
        )
        for share in (0.2, 0.4)
    },
    "mixing": {
        f"pieces of others in {share:.0%}": change(change_recipe(mixing=share))
        for share in (0.5, 1.0)
    },
    "sides": {
        "96 px": change(change_sides((96, 1.0))),
        "128 px": change(change_sides((128, 1.0))),
        "half the work at 96 px, then 128 px": change(change_sides((96, 0.5), (128, 0.5))),
    },
}


def list_tables(backbone: str) -> Mapping[str, Mapping[str, Row]]:
    """List what is tried with a network, by table, by row.

    What is trained without a change stands in every table.
    """
    network = find_architecture(backbone)
    pixels, activations = DEPTHS[backbone]
    taps = [network.taps[at:] for at in range(1, len(network.taps))]
    return {
        **RECIPE_TABLES,
        "depth": {
            **{
                f"{block} and on, from pixels": change(
                    change_recipe(frozen_blocks=network.block_names.index(block))
                )
                for block in pixels
            },
            **{
                f"{block} and on, from activations": change(begin_at(block))
                for block in activations
            },
        },
        "views": {
            f"{activations[0]} and on, {count} more views": change(begin_at(activations[0], count))
            for count in (2, 4)
        },
        "taps": {
            f"frozen, features of {kept[0]} to {kept[-1]}"
            if len(kept) > 1
            else f"frozen, features of {kept[0]}": use_taps(*kept)
            for kept in taps
        },
    }


# ---- tasks


def open_task(
    name: str, seed: int, regime: Regime, options: argparse.Namespace, cache: Path
) -> Task:
    """Fit the frozen layers' head on one split of a task."""
    photos = PHOTOS.get(name, "cifar10")
    settings = PHOTO_SETS[photos].make_settings(
        seed=seed, head="linear", views="mirror", layers="head", backbone=options.backbone
    )
    index = scan_photos(photos, prepare_photos(photos, options))
    split = cut_objects(index, seed) if name == "objects" else split_photos(index, settings)
    if name == "cifar1000":
        chosen = np.random.default_rng(seed).permutation(split.train)[:1000]
        split = replace(split, train=np.sort(chosen), validation=split.validation[::4])
    context = open_context(settings, cache, ignore_event)
    learned = fit_classifier(index, lambda _: split, context)
    ground = StageInputs(
        index,
        split,
        learned.features,
        learned.backbone,
        learned.pretrained.weights,
        learned.head,
    )
    return Task(
        name,
        ground,
        replace(context, listen=show_epoch if options.verbose else ignore_event),
        regime,
    )


def choose_regime(name: str, options: argparse.Namespace) -> Regime:
    """Choose epochs and sizes: the task's own, or those of the options."""
    own = REGIMES[name]
    return Regime(
        options.epochs or own.epochs, own.sides if options.sides is None else tuple(options.sides)
    )


def cut_objects(index: ImageIndex, seed: int) -> Split:
    """Hold two objects of every class out for validation, and one more for nothing: the test part
    is not looked at.
    """
    places = [(seed * 3 + offset) % OBJECTS + 1 for offset in range(3)]
    return hold_out(index, validation=places[:2], test=places[2:])


def show_epoch(event: Event) -> None:
    if isinstance(event, EpochFinished):
        print(
            f"  {event.epoch}/{event.of} loss {event.train_loss:.3f} train "
            f"{event.train_accuracy:.1%} "
            f"validation {event.validation_accuracy:.1%} {event.images_per_s:.0f}/s",
            flush=True,
        )


# ---- tables


@dataclass
class Tasks:
    """The splits of a task; one is opened when it is needed."""

    name: str
    options: argparse.Namespace
    cache: Path
    last: tuple[int, Task] | None = None

    def run(self, row: Row, seed: int) -> Figures:
        """Do what a row says on the split of a seed; the latest one is kept."""
        if self.last is None or self.last[0] != seed:
            regime = choose_regime(self.name, self.options)
            self.last = (seed, open_task(self.name, seed, regime, self.options, self.cache))
        return row(self.last[1])


def run_tables(name: str, tasks: Tasks, ledger: Ledger, options: argparse.Namespace) -> None:
    """Train every row of every table that is not known yet, seed by seed."""
    for seed in range(options.seeds):
        for table, row, run in list_rows(options.tables, options.backbone):
            ledger.recall(make_key(name, table, row, seed, options), partial(tasks.run, run, seed))


def list_rows(names: Sequence[str], backbone: str) -> list[tuple[str, str, Row]]:
    """List the rows of some tables, after those that stand in every one: table, name, and what to
    do.
    """
    tables = list_tables(backbone)
    changed = [(table, name, run) for table in names for name, run in tables[table].items()]
    return [("", FROZEN, measure_frozen), ("", UNCHANGED, change()), *changed]


def make_key(name: str, table: str, row: str, seed: int, options: argparse.Namespace) -> Figures:
    """Name all that a training depends on."""
    regime = choose_regime(name, options)
    key = {"task": name, "table": table, "row": row, "seed": seed, "images": options.images}
    key |= {"epochs": regime.epochs, "sides": list(regime.sides)}
    return key if options.backbone == DEFAULT else key | {"backbone": options.backbone}


def print_tables(ledger: Ledger, options: argparse.Namespace) -> None:
    """Print what is known: for each table the rows, and for each task what they reach."""
    owns = {name: find_rows(name, "", UNCHANGED, ledger, options) for name in options.tasks}
    for table in options.tables:
        found = {
            row: [
                describe_row(
                    owns[name] if row == UNCHANGED else find_rows(name, at, row, ledger, options),
                    owns[name],
                )
                for name in options.tasks
            ]
            for at, row, _ in list_rows([table], options.backbone)
        }
        if any(any(cells) for row, cells in found.items() if row not in (FROZEN, UNCHANGED)):
            print(f"\n{table}")
            print_table(
                ("", *options.tasks), [(row, *cells) for row, cells in found.items() if any(cells)]
            )


def find_rows(
    name: str, table: str, row: str, ledger: Ledger, options: argparse.Namespace
) -> dict[int, float]:
    """Find the validation accuracy of a row by seed."""
    found = {
        seed: ledger.find(make_key(name, table, row, seed, options))
        for seed in range(options.seeds)
    }
    return {seed: figures["validation"] for seed, figures in found.items() if figures}


def describe_row(known: Mapping[int, float], own: Mapping[int, float]) -> str:
    """Sum up what the seeds of a row have given, and by how many points it differs from what
    nothing was changed in.
    """
    if not known:
        return ""
    points = [100 * (known[seed] - own[seed]) for seed in known.keys() & own.keys()]
    spread = f" ± {stdev(points):.2f}" if len(points) > 1 else ""
    words = f"; {mean(points):+.2f}{spread}" if points and known is not own else ""
    return f"{format_mean(list(known.values()))}{words}"


@contextmanager
def write_to(path: Path | None) -> Iterator[None]:
    """Print to a file, where there is one."""
    if path is None:
        yield
        return
    with path.open("w") as file, redirect_stdout(file):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tables = list(list_tables(DEFAULT))
    parser.add_argument("--backbone", choices=list(DEPTHS), default=DEFAULT)
    parser.add_argument(
        "--tables", nargs="+", choices=sorted(tables), default=tables, metavar="TABLE"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(REGIMES), default=list(REGIMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=0.0)
    parser.add_argument("--sides", type=int, nargs="*")
    parser.add_argument("--verbose", action="store_true", help="print every epoch")
    parser.add_argument("--known", action="store_true", help="train nothing, print what is known")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables to this file")
    add_photo_options(parser, is_data_needed=False)
    add_ledger_options(parser)
    options = parser.parse_args()
    if not (options.known or options.data):
        parser.error("--data says where the archives of photos are")
    ledger, cache = open_ledger("recipes", options), options.work / "recipes-cache"
    if not options.known:
        cache.mkdir(parents=True, exist_ok=True)
        for name in options.tasks:
            run_tables(name, Tasks(name, options, cache), ledger, options)
    with write_to(options.write):
        print_tables(ledger, options)
        if not options.known:
            print_machine()


if __name__ == "__main__":
    main()
