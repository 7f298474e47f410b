"""How the command line speaks to people: progress, tables, errors."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from squeezetune.cli.terminal import (
    escape_controls,
    guard_output,
    open_error_stream,
    write_data,
    write_line,
    write_remark,
)
from squeezetune.errors import SqueezeTuneError
from squeezetune.events import (
    EpochFinished,
    Event,
    Notice,
    PlanChanged,
    PlanMade,
    StageAdvanced,
    StageFinished,
    StageStarted,
    TrainingAdvanced,
    name_stage,
)
from squeezetune.quantities import format_clock, format_duration, format_share

# A log need not hear of every epoch of a head that takes sixty of them in a second.
LINE_EVERY_S = 1.0
# Parts whose classes have shares within this are even; those of somebody else's split may not be.
EVEN = 0.03
BAR_WIDTH = 24  # with the words and figures beside it, a row fits a terminal of 80 columns


class ProgressListener:
    """Draws events as progress bars on a terminal; elsewhere notices are printed, and a line for
    each epoch.
    """

    def __init__(self, *, is_quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(file=open_error_stream(), highlight=False, emoji=False)
        self._is_quiet = is_quiet
        self._rows: dict[str, StageRow] = {}
        self._printed_s: dict[str, float] = {}
        self._is_drawn = self._console.is_terminal and not is_quiet
        self._live = Live(
            self, console=self._console, refresh_per_second=8, auto_refresh=self._is_drawn
        )

    def __rich__(self) -> Group:
        """Show all stages so far."""
        return Group(*self._rows.values())

    def __enter__(self) -> "ProgressListener":
        if self._is_drawn:
            self._live.start()
        return self

    def __exit__(self, *reason: object) -> None:
        if self._is_drawn:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Notice):
            if not self._is_quiet:
                self._console.print(
                    f"Note: {escape_controls(event.message)}", markup=False, emoji=False
                )
        elif isinstance(event, PlanMade):
            if not self._is_quiet:
                self._console.print(f"Plan: {format_plan(event)}", markup=False, soft_wrap=True)
                if event.shortage:
                    self._console.print(
                        f"Note: {event.shortage.words}", markup=False, soft_wrap=True
                    )
        elif isinstance(event, PlanChanged):
            if not self._is_quiet:
                self._console.print(f"New plan: {format_plan(event)}", markup=False, soft_wrap=True)
        elif self._is_drawn:
            self._draw(event)
        elif isinstance(event, EpochFinished) and not self._is_quiet:
            self._print_epoch(event)

    def _draw(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._rows[event.stage] = StageRow(event)
        elif isinstance(event, StageAdvanced | TrainingAdvanced | EpochFinished | StageFinished):
            if event.stage not in self._rows:
                self._rows[event.stage] = StageRow(StageStarted(event.stage, 100, "%"))
            self._rows[event.stage].show(event)

    def _print_epoch(self, event: EpochFinished) -> None:
        """Print an epoch as a plain line, unless the last line has only just been printed."""
        if (
            event.epoch < event.of
            and event.seconds - self._printed_s.get(event.stage, 0) < LINE_EVERY_S
        ):
            return
        self._printed_s[event.stage] = event.seconds
        line = f"{name_stage(event.stage)}: {format_epoch(event)}"
        self._console.print(line, markup=False, soft_wrap=True)


class StageRow:
    """A stage on the terminal: its bar and, where it trains in epochs, a line of figures."""

    def __init__(self, start: StageStarted) -> None:
        left = TimeRemainingColumn(elapsed_when_finished=True)
        columns: tuple[ProgressColumn, ...] = (MofNCompleteColumn(), TextColumn(start.unit), left)
        if start.unit == "%":
            columns = (TaskProgressColumn(), TextColumn("{task.fields[clock]}"))
        elif start.total is None:
            columns = (
                TextColumn("{task.completed:,.0f}"),
                TextColumn(start.unit),
                TimeElapsedColumn(),
            )
        elif not start.total:  # of one step there is nothing to count
            columns = (TimeElapsedColumn(),)
        self._progress = Progress(
            TextColumn("{task.description:<22}"), BarColumn(BAR_WIDTH), *columns
        )
        self._task = self._progress.add_task(
            name_stage(start.stage), total=start.total or None, clock=""
        )
        self._total = start.total or 1
        self._is_open = start.total is None
        self._epoch: EpochFinished | None = None
        self._figures = ""

    def __rich__(self) -> Group:
        """Show the bar and the figures."""
        figures = Text(f"  {self._figures}", no_wrap=True, overflow="ellipsis")
        return Group(self._progress, *([figures] if self._figures else []))

    def show(self, event: StageAdvanced | TrainingAdvanced | EpochFinished | StageFinished) -> None:
        """Show how far the stage is."""
        if isinstance(event, StageAdvanced):
            self._progress.update(self._task, completed=event.done)
        elif isinstance(event, TrainingAdvanced):
            left = "" if event.seconds_left is None else f"{format_clock(event.seconds_left)} left"
            self._progress.update(
                self._task, completed=event.progress * self._total, total=self._total, clock=left
            )
            self._figures = format_training(event, self._epoch)
        elif isinstance(event, EpochFinished):
            self._epoch, self._figures = event, format_epoch(event)
        else:
            taken = format_clock(event.seconds)
            if not self._is_open:
                self._progress.update(self._task, completed=self._total)
            self._progress.update(self._task, total=self._progress.tasks[0].completed, clock=taken)
            self._figures = format_epoch(self._epoch) if self._epoch else ""


def format_epoch(event: EpochFinished) -> str:
    """Write how training stands after an epoch."""
    return "  ".join(
        (
            f"epoch {event.epoch}/{event.of}",
            f"loss {event.train_loss:.3f}",
            f"train {format_share(event.train_accuracy)}",
            f"validation {format_share(event.validation_accuracy)}",
            f"{event.images_per_s:,.0f} images/s",
        )
    )


def format_training(event: TrainingAdvanced, epoch: EpochFinished | None) -> str:
    """Write how training stands within an epoch; `epoch` is the last one that is finished."""
    at = f"epoch {min(epoch.epoch + 1, epoch.of)}/{epoch.of}" if epoch else "epoch 1"
    words = [at, f"loss {event.loss:.3f}", f"train {format_share(event.accuracy)}"]
    words += [f"validation {format_share(epoch.validation_accuracy)}"] if epoch else []
    return "  ".join([*words, f"{event.images_per_s:,.0f} images/s"])


def format_plan(plan: PlanMade | PlanChanged) -> str:
    """Write what a run will do, e.g. `features 40 s, head 12 s, all layers at 96, 128 px 5 min 30
    s; in all ...`.
    """
    parts = ", ".join(f"{part} {format_duration(seconds)}" for part, seconds in plan.forecasts)
    limit_s, left = (plan.budget_s, "") if isinstance(plan, PlanMade) else (plan.left_s, " left")
    budget = f" of {format_duration(limit_s)}{left}" if limit_s and limit_s > 0 else ""
    return f"{parts}; in all {format_duration(plan.total_s)}{budget}"


def print_json(content: Any) -> None:
    """Print plain values as JSON."""
    write_data(json.dumps(content, indent=1, ensure_ascii=True, default=str))


def print_lines(*lines: str) -> None:
    """Print lines for people on standard output."""
    for line in lines:
        write_line(line)


def print_table(columns: Mapping[str, str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table; `columns` maps titles to how they are justified."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name, justify in columns.items():
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # left, right or center
    for row in rows:
        table.add_row(*(Text(escape_controls(cell)) for cell in row))
    with guard_output():
        Console(highlight=False, emoji=False).print(table)


def print_error(error: SqueezeTuneError, *, as_json: bool = False) -> None:
    """Print an error as two lines on standard error, or as one JSON object on standard output."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return
    write_remark(f"Error: {error.message}")
    if error.hint:
        write_remark(f"Hint: {error.hint}")


def describe_test(test: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what a model was measured to be worth, from the `test` of its report."""
    accuracy, low, high = (format_share(share) for share in (test["accuracy"], *test["interval"]))
    folds, groups = test.get("cross_validation"), test.get("groups")
    interval = f"(95 % interval {low} to {high}{f', over {groups:,} groups' if groups else ''})"
    if not folds:
        lines = [f"{accuracy} of {test['count']:,} test photos are recognised {interval}."]
    else:
        done, planned = len(folds["folds"]), folds["planned"]
        who = (
            "every photo"
            if done == planned
            else f"stopped after {done} of {planned} folds; each of these photos"
        )
        lines = [
            f"{accuracy} of {folds['images']:,} photos are recognised {interval}.",
            f"Measured by {folds['name']}: {who} was predicted by a model that had not seen it; "
            "the file itself was trained on all of them.",
        ]
    return [*lines, *describe_balance(test)]


def describe_balance(test: Mapping[str, Any]) -> list[str]:
    """Say what the accuracy hides where classes are unequal; nothing where they are not."""
    usual = test.get("usual")  # reports of earlier versions do not have it
    if not usual or not usual["is_unequal"]:
        return []
    balanced, f1 = format_share(test["balanced_accuracy"]), format_share(test["macro_f1"])
    return [
        f"Classes are unequal: balanced accuracy {balanced}, macro F1 {f1}; always saying "
        f"{usual['name']} would be right for {format_share(usual['share'])}."
    ]


def describe_seen(seen: Mapping[str, Any]) -> list[str]:
    """Say that a model knows some of the photos that it was measured on, and what it is worth on
    the others.
    """
    known = [f"{seen['train']:,} of these photos trained the model"] if seen["train"] else []
    known += (
        [f"{seen['validation']:,} of these photos chose among its forms"]
        if seen["validation"]
        else []
    )
    lines = [f"Note: {', '.join(known)}: that flatters it."]
    others = seen["others"]
    if others is None:
        return [
            *lines,
            "None is left that it has not seen; its report says what it is worth on such photos.",
        ]
    low, high = (format_share(end) for end in others["interval"])
    share = format_share(others["accuracy"])
    return [
        *lines,
        f"{share} of the other {others['count']:,} are recognised (95 % interval {low} to {high}).",
    ]


def describe_split(data: Mapping[str, Any]) -> str:
    """Say how many photos each part has, from the `data` of a report."""
    parts = data["parts"].values()
    shares = " / ".join(f"{100 * part / data['images']:.1f}" for part in parts)
    is_even = data["unevenness"] <= EVEN
    return (
        f"{' / '.join(f'{part:,}' for part in parts)} photos to train / choose / measure "
        f"({shares} %; {'each class within' if is_even else 'single classes differ by up to'} "
        f"{format_share(data['unevenness'])})"
    )
