"""What a trained network makes of photos that it has learnt, and of some that it has not: how familiar each looks."""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.events import StageAdvanced, StageFinished, StageStarted
from squeezetune.forecasts import FAMILIAR_IMAGES
from squeezetune.learn.bench import apply_to_views
from squeezetune.learn.dense import Rows
from squeezetune.learn.discriminants import fit_discriminants
from squeezetune.learn.familiarity import Familiarity, weigh_parts
from squeezetune.learn.features import run_batch
from squeezetune.learn.graph import build_trunk
from squeezetune.learn.quantization import FLOAT_RUNTIME
from squeezetune.learn.scaling import transform
from squeezetune.learn.trained import TrainedNetwork
from squeezetune.learn.trunk import Trunk
from squeezetune.learned import Learned
from squeezetune.scratch import list_blocks
from squeezetune.workshop import Workshop

STAGE = "familiarity"
# So many photos are enough, of those that were learnt and of those that were not.
LEARNT_IMAGES, JUDGING_IMAGES = 3000, 1000
# Fewer of those that were not learnt cannot tell what is unusual.
LEAST_JUDGING = 10


@dataclass(frozen=True)
class Acquaintance:
    """How familiar images look to a network, and the scores (n,) of some that it has not learnt."""

    familiarity: Familiarity
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """What a network's classifier reads of some images, (n, views, features), and the images' positions."""

    positions: NDArray[np.int64]
    rows: Rows


def get_acquainted(learned: Learned, network: TrainedNetwork, workshop: Workshop) -> Acquaintance | None:
    """Find out how the features of photos lie that were learnt, and how familiar others look.

    None where too few photos were held back to tell.
    """
    judging = learned.split.validation
    if len(judging) < LEAST_JUDGING:
        return None
    if learned.best:
        parts = [thin(learned.split.train, FAMILIAR_IMAGES), thin(judging, FAMILIAR_IMAGES)]
        learnt, others = look_again(learned, network, parts, workshop)
    else:
        learnt = recall(learned, network, thin(learned.survey.seen, LEARNT_IMAGES))
        others = recall(learned, network, thin(judging, JUDGING_IMAGES))
    labels = learned.index.labels[learnt.positions]
    if len(np.unique(labels)) < 2 or len(others.positions) < LEAST_JUDGING:
        return None
    with threadpool_limits(1):  # threads of BLAS stall when the machine is busy
        discriminants = fit_discriminants(learnt.rows.mean(axis=1), labels)
        logits = apply_to_views(network.head, others.rows)
        familiarity = weigh_parts(discriminants, others.rows, logits)
        return Acquaintance(familiarity, familiarity.score(others.rows, logits))


def thin(positions: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Take at most so many positions, evenly."""
    return positions[:: -(-len(positions) // most)] if len(positions) else positions


def recall(learned: Learned, network: TrainedNetwork, positions: NDArray[np.int64]) -> Look:
    """Take the features that the frozen layers gave."""
    values = learned.features.values
    parts = [transform(values[positions[block]][:, : network.views], use_roots=network.use_roots)
             for block in list_blocks(len(positions))]  # fmt: skip
    return Look(positions, np.concatenate(parts))


def look_again(
    learned: Learned, network: TrainedNetwork, parts: list[NDArray[np.int64]], workshop: Workshop
) -> tuple[Look, Look]:
    """Run layers that were trained over some photos; those that cannot be read any more are left out."""
    start, done = time.perf_counter(), 0
    trunk = Trunk(build_trunk(network.weights, views=network.views), FLOAT_RUNTIME, learned.pixels, network.views)
    run, size, looks = trunk.open(workshop.threads), trunk.batch_size, []
    workshop.listen(StageStarted(STAGE, sum(map(len, parts))))
    for positions in parts:
        pieces = [positions[at : at + size] for at in range(0, len(positions), size)]
        batches = []
        for batch in workshop.engine.map(lambda piece: run_batch(learned.index, trunk, run, piece), pieces):
            batches.append(batch)
            done += len(batch.positions) + len(batch.failures)
            workshop.listen(StageAdvanced(STAGE, done))
        values = np.concatenate([batch.values for batch in batches])
        rows = transform(values, use_roots=network.use_roots)
        looks.append(Look(np.concatenate([batch.positions for batch in batches]), rows))
    workshop.listen(StageFinished(STAGE, time.perf_counter() - start))
    return looks[0], looks[1]
