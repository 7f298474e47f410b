"""Operations on a torch network before it is trained further: replace its classifier, freeze it,
let it train again.

They change the network that they are given, and return it so that they can be chained.
"""

from collections.abc import Iterator
from typing import Any

from squeezetune.errors import SettingsError
from squeezetune.finetune.torch_layers import Module
from squeezetune.finetune.torch_network import check_class_count

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch import nn

CONTAINERS = {nn.Sequential, nn.ModuleList, nn.ModuleDict}  # opened; their subclasses are wholes
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def replace_classifier(
    network: Module, num_classes: int, *, dropout: float | None = None, norm: str | None = None
) -> Module:
    """Put a new, untrained classifier for `num_classes` classes in the place of the network's last
    layer.

    The last layer with parameters, by the order of the network's modules, has to be a Linear or a
    Conv2d; any torch module that ends so will do, such as those of torchvision and timm. (To set
    `out_features` or `out_channels` on the old layer changes nothing: its parameters have their
    shapes already.)

    `dropout` is the probability of the Dropout that stands directly before the layer; one is put
    there if there is none. `norm="batch"` puts a BatchNorm before both, unless there is one; a
    Linear must then be fed (n, features). A new Conv2d starts as SqueezeNet's own last one, normal
    with deviation 0.01; a new Linear as torch does it; the bias is zero. The numbers come from
    torch's own generator (`torch.manual_seed`). Device, type, memory format and mode are those of
    the old layer; an attribute `num_classes` of the network is set. Example:

        >>> import torch
        >>> from squeezetune import build_network, replace_classifier
        >>> network = replace_classifier(build_network(), 4, dropout=0.2, norm="batch")
        >>> network(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 4])

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: the network does not end in such a layer, or a value is out of its limits.
    """
    check_class_count(num_classes)
    if dropout is not None and not 0 <= dropout < 1:
        raise SettingsError(
            f"dropout is {dropout}.", "Needed is a probability: 0 or more and less than 1."
        )
    if norm not in {None, "batch"}:
        raise SettingsError(f"norm is {norm!r}.", "Needed is 'batch', or None for none.")
    parent, name = _find_classifier(network)
    setattr(parent, name, _make_classifier(parent.get_submodule(name), num_classes))
    if dropout is not None:
        _set_dropout(network, dropout)
    if norm == "batch":
        _add_norm(network)
    if hasattr(network, "num_classes"):
        network.num_classes = num_classes
    return network


def freeze(network: Module) -> Module:
    """Keep every parameter, and every running statistic of a norm layer, as it is.

    A norm layer that is frozen computes with its running statistics, as in evaluation, also after
    `network.train()`: it is put in that mode before each of its forward passes. Without that, its
    statistics would follow the new images although no gradient reaches it. Those of blocks that
    `unfreeze_last` lets train again follow the images again. Example:

        >>> from squeezetune import build_network, freeze, unfreeze_last
        >>> network = unfreeze_last(freeze(build_network()), 1)
        >>> [name for name, value in network.named_parameters() if value.requires_grad]
        ['classifier.1.weight', 'classifier.1.bias']

    Raises:
        MissingExtraError: torch is not installed.
    """
    network.requires_grad_(False)
    for module in network.modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            if not hasattr(module, "keeps_statistics"):
                module.register_forward_pre_hook(_keep_statistics)
            module.keeps_statistics = True
    return network


def unfreeze_last(network: Module, n: int) -> Module:
    """Let the last `n` blocks of a network train again; see `list_blocks` for what a block is.

    The classifier is the last block, or where it has several dense layers, as that of VGG has, each
    of them is one. Before it come those of the description: of SqueezeNet fire9, and so on to
    conv1, the tenth; of a ResNet its residual blocks. Blocks before the last `n` stay as they are;
    `n=0` changes nothing. Example:

        >>> from squeezetune import build_network, freeze, unfreeze_last
        >>> network = unfreeze_last(freeze(build_network()), 3)
        >>> trained = [name for name, value in network.named_parameters() if value.requires_grad]
        >>> sorted({name.rsplit(".", 2)[0] for name in trained})
        ['classifier', 'features.11', 'features.12']

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: the network has no `n` blocks.
    """
    blocks = list(list_blocks(network).values())
    if not 0 <= n <= len(blocks):
        raise SettingsError(
            f"n is {n}, and the network has {len(blocks)} blocks.", f"Choose 0 to {len(blocks)}."
        )
    # counted from the front: blocks[-n:] would be all of them for n = 0, and blocks[-n:-1] lacks
    # the last one
    for module in (
        module for block in blocks[len(blocks) - n :] for part in block for module in part.modules()
    ):
        module.requires_grad_(True)
        if hasattr(module, "keeps_statistics"):
            module.keeps_statistics = False
            module.train(network.training)
    return network


def list_blocks(network: Module) -> dict[str, tuple[Module, ...]]:
    """List the blocks of a network by name, in the order of its modules: what trains or is frozen
    together.

    A block is a child that holds parameters. Plain Sequentials, ModuleLists and ModuleDicts are
    opened, and theirs are counted. A norm layer belongs to the layer directly before it if that is
    a convolution or a Linear, and otherwise to the block that it feeds. Example:

        >>> from squeezetune.finetune.torch_network import SqueezeNet
        >>> list(list_blocks(SqueezeNet()))[-3:]
        ['features.11', 'features.12', 'classifier.1']
    """
    blocks: dict[str, tuple[Module, ...]] = {}
    waiting: tuple[Module, ...] = ()  # norm layers that belong to the next block
    previous = None
    for name, child in _walk_children(network):
        if isinstance(child, NORMS) and isinstance(previous, (nn.Linear, *CONVOLUTIONS)):
            blocks[next(reversed(blocks))] += (child,)
        elif isinstance(child, NORMS):
            waiting += (child,)
        elif _has_parameters(child):
            blocks[name], waiting = (*waiting, child), ()
        previous = child
    if waiting and blocks:
        blocks[next(reversed(blocks))] += waiting
    return blocks


def _find_classifier(network: Module) -> tuple[Module, str]:
    """Find the last layer with parameters: the module that it is a child of, and its name there."""
    needed = "Needed is a network whose last layer with parameters is a Linear or a Conv2d."
    owners = [
        (path, layer)
        for path, layer in network.named_modules()
        if _has_parameters(layer, recurse=False)
    ]
    if not owners:
        raise SettingsError(
            f"{type(network).__name__} has no layer with parameters to replace.", needed
        )
    path, layer = owners[-1]
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise SettingsError(
            f"The last layer with parameters, {path!r}, is a {type(layer).__name__}.", needed
        )
    if not path:
        raise SettingsError(
            f"The network is a single {type(layer).__name__}, which cannot be replaced within "
            f"itself.",
            "Wrap it: torch.nn.Sequential(network).",
        )
    parent, _, name = path.rpartition(".")
    return network.get_submodule(parent), name


def _make_classifier(old: Module, num_classes: int) -> Module:
    """Make a layer as the old one, with other outputs and fresh parameters."""
    options = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, **options)
    else:
        shape = (old.kernel_size, old.stride, old.padding, old.dilation)
        new = nn.Conv2d(
            old.in_channels, num_classes, *shape, padding_mode=old.padding_mode, **options
        )
        nn.init.normal_(new.weight, std=0.01)
        # told by the strides: a 1x1 kernel counts as contiguous in both formats, but convolutions
        # look at the strides
        if old.weight.stride() == old.weight.to(memory_format=torch.channels_last).stride():
            new = new.to(memory_format=torch.channels_last)
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    return new.train(old.training)


def _set_dropout(network: Module, probability: float) -> None:
    """Set the Dropout directly before the last layer, or put one there."""
    parent, name = _find_classifier(network)
    before = next(_walk_back(parent, name), None)
    if before and isinstance(dropout := before[0].get_submodule(before[1]), DROPOUTS):
        dropout.p = probability
    else:
        _put_before(parent, name, nn.Dropout(probability))


def _add_norm(network: Module) -> None:
    """Put a BatchNorm before the last layer and its Dropout, which would disturb the statistics, if
    there is none.
    """
    place = _find_classifier(network)
    layer = place[0].get_submodule(place[1])
    # outside of a Sequential nobody knows what shape the Dropout is given
    for parent, name in _walk_back(*place) if isinstance(place[0], nn.Sequential) else ():
        if isinstance(parent.get_submodule(name), NORMS):
            return
        if not isinstance(parent.get_submodule(name), DROPOUTS):
            break
        place = parent, name
    norm = (
        nn.BatchNorm1d(layer.in_features)
        if isinstance(layer, nn.Linear)
        else nn.BatchNorm2d(layer.in_channels)
    )
    _put_before(*place, norm.to(layer.weight.device, layer.weight.dtype))


def _walk_back(parent: Module, name: str | None = None) -> Iterator[tuple[Module, str]]:
    """Walk the layers that stand before `name` in a module, nearest first: each one's parent and
    name there.
    """
    names = list(dict(parent.named_children()))
    for before in reversed(names[: names.index(name)] if name else names):
        if type(parent.get_submodule(before)) is nn.Sequential:
            yield from _walk_back(parent.get_submodule(before))
        else:
            yield parent, before


def _put_before(parent: Module, name: str, module: Module) -> None:
    """Put a module before a layer, in the layer's place, so that other layers keep their names."""
    layer = parent.get_submodule(name)
    setattr(parent, name, nn.Sequential(module, layer).train(layer.training))


def _walk_children(module: Module, path: str = "") -> Iterator[tuple[str, Module]]:
    for name, child in module.named_children():
        if type(child) in CONTAINERS:
            yield from _walk_children(child, f"{path}{name}.")
        else:
            yield f"{path}{name}", child


def _has_parameters(module: Module, *, recurse: bool = True) -> bool:
    return any(True for _ in module.parameters(recurse=recurse))


def _keep_statistics(module: Module, inputs: Any) -> None:
    """Before a norm layer runs: a frozen one does not learn, in whatever mode the network is."""
    if module.keeps_statistics:
        module.eval()
