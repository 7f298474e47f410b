"""Inception v3 as a description, with torchvision's parameter names.

Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision". Published
weights of torchvision want what its `transform_input=True` makes of ImageNet's normalised images:
colours from -1 to 1, of 299 pixels to a side. Its auxiliary classifier, which only trains the
network, is ignored.
"""

from typing import NamedTuple

from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.layers import (
    AveragePool,
    Convolution,
    Dropout,
    GlobalMean,
    HeightWidth,
    Join,
    Layer,
    Linear,
    MaxPool,
)


class BranchStep(NamedTuple):
    """A convolution of a branch: its place in the block's parameters, channels, kernel and stride.

    It reads what the step before it in the branch gives; with `is_beside` what that step reads, and
    both are joined.
    """

    place: str
    channels: int
    kernel: HeightWidth = 1
    stride: int = 1
    is_beside: bool = False


Branch = tuple[BranchStep, ...]


def _describe_convolution(
    output: str, path: str, step: BranchStep, margins: HeightWidth, reads: tuple[str, ...] = ()
) -> Convolution:
    return Convolution(output, f"{path}.conv", step.channels, step.kernel, step.stride, margins,
                       norm=f"{path}.bn", reads=reads)  # fmt: skip


# The convolutions before the branches, and the max pools behind some.
STEM = (
    BranchStep("1a_3x3", 32, 3, 2),
    BranchStep("2a_3x3", 32, 3),
    BranchStep("2b_3x3", 64, 3),
    BranchStep("3b_1x1", 80),
    BranchStep("4a_3x3", 192, 3),
)
POOLS = {"2b_3x3": "maxpool1", "4a_3x3": "maxpool2"}


def _describe_stem() -> list[Block]:
    """Describe convolutions one after another, of which one alone keeps its map's side."""
    found = []
    for step in STEM:
        path, name = f"Conv2d_{step.place}", f"conv{step.place[:2]}"
        margin = 1 if step.place == "2b_3x3" else 0
        layers: list[Layer] = [_describe_convolution(name, path, step, margin)]
        if step.place in POOLS:
            layers.append(MaxPool(f"{name}.pool", POOLS[step.place], is_ceil=False))
        found.append(Block(name, tuple(layers), path))
    return found


# ---- blocks of branches, as torchvision names their kinds


def _branches_a(pooled: int) -> tuple[Branch, ...]:
    return (
        (BranchStep("branch1x1", 64),),
        (BranchStep("branch5x5_1", 48), BranchStep("branch5x5_2", 64, 5)),
        (
            BranchStep("branch3x3dbl_1", 64),
            BranchStep("branch3x3dbl_2", 96, 3),
            BranchStep("branch3x3dbl_3", 96, 3),
        ),
        (BranchStep("branch_pool", pooled),),
    )


def _branches_c(width: int) -> tuple[Branch, ...]:
    return (
        (BranchStep("branch1x1", 192),),
        (
            BranchStep("branch7x7_1", width),
            BranchStep("branch7x7_2", width, (1, 7)),
            BranchStep("branch7x7_3", 192, (7, 1)),
        ),
        (
            BranchStep("branch7x7dbl_1", width),
            BranchStep("branch7x7dbl_2", width, (7, 1)),
            BranchStep("branch7x7dbl_3", width, (1, 7)),
            BranchStep("branch7x7dbl_4", width, (7, 1)),
            BranchStep("branch7x7dbl_5", 192, (1, 7)),
        ),
        (BranchStep("branch_pool", 192),),
    )


BRANCHES_B = (
    (BranchStep("branch3x3", 384, 3, 2),),
    (
        BranchStep("branch3x3dbl_1", 64),
        BranchStep("branch3x3dbl_2", 96, 3),
        BranchStep("branch3x3dbl_3", 96, 3, 2),
    ),
    (),
)
BRANCHES_D = (
    (BranchStep("branch3x3_1", 192), BranchStep("branch3x3_2", 320, 3, 2)),
    (
        BranchStep("branch7x7x3_1", 192),
        BranchStep("branch7x7x3_2", 192, (1, 7)),
        BranchStep("branch7x7x3_3", 192, (7, 1)),
        BranchStep("branch7x7x3_4", 192, 3, 2),
    ),
    (),
)
BRANCHES_E = (
    (BranchStep("branch1x1", 320),),
    (
        BranchStep("branch3x3_1", 384),
        BranchStep("branch3x3_2a", 384, (1, 3)),
        BranchStep("branch3x3_2b", 384, (3, 1), is_beside=True),
    ),
    (
        BranchStep("branch3x3dbl_1", 448),
        BranchStep("branch3x3dbl_2", 384, 3),
        BranchStep("branch3x3dbl_3a", 384, (1, 3)),
        BranchStep("branch3x3dbl_3b", 384, (3, 1), is_beside=True),
    ),
    (BranchStep("branch_pool", 192),),
)


def _describe_block(place: str, branches: tuple[Branch, ...], source: str) -> Block:
    """Describe branches that read one map, the last behind a pool, and their join.

    torchvision joins convolutions beside each other first: the same values in the same order.
    """
    name, path = f"mixed{place}", f"Mixed_{place}"
    layers: list[Layer] = []
    ends = []
    for branch in branches[:-1]:
        found = _describe_branch(name, path, branch, source)
        layers += found
        beside = sum(step.is_beside for step in branch)
        ends += [layer.output for layer in found[-1 - beside :]]
    # a block that makes maps smaller has nothing behind its pool
    behind = branches[-1]
    pool = f"{name}.pool"
    layers.append(
        AveragePool(pool, reads=(source,))
        if behind
        else MaxPool(pool, is_ceil=False, reads=(source,))
    )
    layers += _describe_branch(name, path, behind, pool)
    layers.append(Join(name, (*ends, layers[-1].output)))
    return Block(name, tuple(layers), path)


def _describe_branch(name: str, path: str, branch: Branch, source: str) -> list[Convolution]:
    """Describe the convolutions of a branch; those that step leave the border out."""
    found: list[Convolution] = []
    read = source
    for step in branch:
        if found and not step.is_beside:
            read = found[-1].output
        margins = _find_margins(step)
        output = f"{name}.{step.place}"
        found.append(_describe_convolution(output, f"{path}.{step.place}", step, margins, (read,)))
    return found


def _find_margins(step: BranchStep) -> HeightWidth:
    """Tell the padding that keeps a map's side; there is none where it is made smaller."""
    if step.stride > 1:
        return 0
    if isinstance(step.kernel, int):
        return step.kernel // 2
    return step.kernel[0] // 2, step.kernel[1] // 2


MIXED = {
    "5b": _branches_a(32),
    "5c": _branches_a(64),
    "5d": _branches_a(64),
    "6a": BRANCHES_B,
    "6b": _branches_c(128),
    "6c": _branches_c(160),
    "6d": _branches_c(160),
    "6e": _branches_c(192),
    "7a": BRANCHES_D,
    "7b": BRANCHES_E,
    "7c": BRANCHES_E,
}


def _describe_inception() -> Architecture:
    blocks = _describe_stem()
    for place, branches in MIXED.items():
        blocks.append(_describe_block(place, branches, blocks[-1].layers[-1].output))
    return Architecture(
        "inception_v3",
        "Inception v3",
        "inception_v3",
        tuple(blocks),
        ("mixed5d", "mixed6e", "mixed7c"),
        (
            GlobalMean("mean", "avgpool"),
            Dropout("dropped", "dropout"),
            Linear("logits", "fc", 1000),
        ),
        side=299,
        norm_epsilon=1e-3,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        ignored=("AuxLogits.",),
    )


INCEPTION_V3 = _describe_inception()
