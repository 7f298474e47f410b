"""Which pretrained network a training begins with, where that is left open: the small one, unless
another one's features tell the classes apart better by more than chance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.events import Notice
from squeezetune.heads.candidate import is_sure
from squeezetune.heads.out_of_fold import deal_folds, predict_out_of_fold
from squeezetune.network.backbone import Backbone
from squeezetune.network.weights import find_architecture
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.extraction import CutIndex
from squeezetune.pipeline.preparation import PreparedRun, prepare_run
from squeezetune.planning.costs import Timing
from squeezetune.planning.planner import TimeLimit
from squeezetune.planning.speeds import measure_frozen
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.scratch import Selection

# What `backbone auto` chooses from: the first, unless the second is surely better.
SMALL, LARGE = "squeezenet1_1", "efficientnet_lite0"
# The second's features take about so many times as long. With a budget both are tried only where
# their features take no more than this share of what is left.
LARGE_TIMES, MOST_SHARE = 2.5, 0.4


def choose_backbone(
    index: ImageIndex, cut: CutIndex, context: RunContext, limit: TimeLimit
) -> RunContext:
    """Take the network whose frozen features tell the classes apart better, and say why.

    Both are judged on the images of the training and the validation part, each by linear heads that
    have not seen it, nor its group; the test part has no say. The larger network is taken where it
    names more of them right than chance alone makes.

    Raises:
        SettingsError: the run cannot fit under the ceiling of the settings.
        DataError: no image can be decoded, or too few of a class.
    """
    split, small = cut(index), context.begin_with(SMALL)
    names = find_architecture(SMALL).title, find_architecture(LARGE).title
    prepared = prepare_run(index, split, small)
    backbone = prepared.prepare_probed()
    if limit.is_set and not _has_time(prepared, backbone, limit):
        context.listen(Notice(f"{names[1]} is not tried: the budget leaves no time for it"))
        return small
    large = context.begin_with(LARGE)
    other = prepare_run(index, split, large)
    judged = _judge(prepared, split, backbone), _judge(other, split, other.prepare_probed())
    shared = np.intersect1d(judged[0].positions, judged[1].positions)
    is_right, is_other_right = (each.find(shared) for each in judged)
    gains, units = is_other_right.astype(np.int64) - is_right, split.find_units(shared)
    is_better = is_sure(gains, units)
    context.listen(
        Notice(
            f"{names[is_better]} is taken: of {len(shared):,} photos, each named by heads that "
            f"have not seen it, {names[1]} has {is_other_right.mean():.1%} right, and {names[0]} "
            f"{is_right.mean():.1%}{'' if is_better else ', which is not surely less'}"
        )
    )
    return large if is_better else small


@dataclass(frozen=True)
class _Judged:
    """Which of some images, by their positions in rising order, heads name right that have not seen
    them.
    """

    positions: NDArray[np.int64]
    is_right: NDArray[np.bool_]

    def find(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Take those at some of the positions."""
        return self.is_right[np.searchsorted(self.positions, positions)]


def _has_time(prepared: PreparedRun, backbone: Backbone, limit: TimeLimit) -> bool:
    """Say whether a budget has room for the features of both networks."""
    work = prepared.count_work(backbone)
    speeds = measure_frozen(prepared.context.make_site(prepared.index, backbone))
    features_s = Timing(work, speeds).forecast_features(backbone.views, work.unseen)
    return (1 + LARGE_TIMES) * features_s <= MOST_SHARE * limit.left_s()


def _judge(prepared: PreparedRun, split: Split, backbone: Backbone) -> _Judged:
    """Judge a network's frozen features on the images that are learnt from."""
    used, scratch = np.union1d(split.train, split.validation), prepared.open_scratch()
    with cache_or_temporary(prepared.context.cache) as folder:
        features = prepared.compute_features(backbone, folder, scratch, used)
    readable = used[features.sizes[used].min(axis=1) > 0]
    labels = prepared.index.labels[readable]
    predicted = predict_out_of_fold(
        Selection(features.values, readable),
        labels,
        deal_folds(labels, split.find_units(readable)),
        len(prepared.index.class_names),
        threads=prepared.context.threads,
        scratch=scratch,
    )
    return _Judged(readable, predicted.probabilities.argmax(axis=1) == labels)
