from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezetune.data.folds import cut_folds, leave_groups_out, share_out
from squeezetune.data.index import ImageIndex
from squeezetune.data.sources.registry import MemorySource
from squeezetune.errors import ClassesError, SettingsError

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def make_index(labels, contents=None, names=None, groups=None):
    """Make an index of made-up images; equal `contents` have equal digests."""
    labels = np.asarray(labels, np.int64)
    contents = np.arange(len(labels)) if contents is None else np.asarray(contents)
    pool = np.random.default_rng(1).integers(0, 256, (contents.max() + 1, 16), dtype=np.uint8)
    return ImageIndex(
        source=MemorySource([]),
        names=tuple(names or (f"{label}/{i}.jpg" for i, label in enumerate(labels))),
        labels=labels,
        class_names=tuple(f"class{i}" for i in range(labels.max() + 1)),
        digests=pool[contents],
        groups=groups,
    )


def read_folds(folds, index):
    return np.array([folds.of_name[name] for name in index.names])


def test_every_class_is_spread_evenly_and_folds_are_of_one_size():
    index = make_index([0] * 53 + [1] * 27 + [2] * 5 + [3] * 2)
    folds = read_folds(cut_folds(index, 5, seed=0), index)
    counts = np.array(
        [[np.sum((folds == f) & (index.labels == c)) for f in range(5)] for c in range(4)]
    )
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert np.ptp(counts.sum(axis=0)) <= 1


@FEW
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(2, 12))
def test_shares_add_up(counts, folds):
    shares = share_out(np.array(counts), folds)
    np.testing.assert_array_equal(shares.sum(axis=1), counts)
    assert np.ptp(shares, axis=1).max() <= 1
    assert np.ptp(shares.sum(axis=0)) <= 1


@FEW
@given(st.data())
def test_units_stay_in_one_fold_and_every_image_has_one(data):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=12, max_size=60)) + [0, 1, 2] * 4
    contents = data.draw(st.lists(st.integers(0, 40), min_size=len(labels), max_size=len(labels)))
    index = make_index(labels, contents)
    try:
        folds = read_folds(cut_folds(index, 4, seed=data.draw(st.integers(0, 9))), index)
    except ClassesError:
        return
    for content in set(contents):
        assert len(set(folds[np.array(contents) == content])) == 1
    assert set(folds) == set(range(folds.max() + 1))
    for label in range(3):  # what is tested has been learnt
        assert len(set(folds[index.labels == label])) > 1


def test_order_and_names_do_not_matter_and_the_seed_does():
    index, order = make_index([0] * 40 + [1] * 40), np.random.default_rng(0).permutation(80)
    shuffled = replace(
        index,
        names=tuple(f"x{i}" for i in range(80)),
        labels=index.labels[order],
        digests=index.digests[order],
    )
    folds = read_folds(cut_folds(index, 5, seed=3), index)
    np.testing.assert_array_equal(
        read_folds(cut_folds(shuffled, 5, seed=3), shuffled), folds[order]
    )
    assert (read_folds(cut_folds(index, 5, seed=4), index) != folds).any()


def test_more_folds_than_images_leave_none_empty():
    index = make_index([0, 0, 1, 1])
    folds = cut_folds(index, 10, seed=0)
    assert sorted(folds.of_name.values()) == [0, 1, 2, 3]
    assert folds.count == 4


def test_groups_stay_together_and_each_may_be_left_out():
    names = [
        f"{'ab'[i // 20]}{i // 4}/{i}.jpg" for i in range(40)
    ]  # five groups of four in each class
    index = make_index([0] * 20 + [1] * 20, names=names)
    groups = np.array([name.split("/")[0] for name in names])
    for folds in (cut_folds(index, 5, 0, "^[ab][0-9]+"), leave_groups_out(index, 0, "^[ab][0-9]+")):
        of_image = read_folds(folds, index)
        assert folds.groups == 10
        assert all(len(set(of_image[groups == group])) == 1 for group in groups)
    assert folds.count == 10
    split = folds.split(index, 3, 0.2, 0, "^[ab][0-9]+")
    assert len(split.test) == 4
    assert not set(groups[split.validation]) & set(groups[split.train])
    assert len(split.validation) >= 4
    assert split.find_units(split.test) is not None


def test_groups_that_a_source_tells_are_left_out():
    index = make_index([0, 0, 0, 1, 1, 1], groups=("a", "a", "b", "c", "d", "d"))
    assert leave_groups_out(index, 0).count == 4


def test_a_fold_is_the_test_part_also_of_an_index_that_lost_images():
    index = make_index([0] * 10 + [1] * 10)
    folds = cut_folds(index, 5, seed=0)
    whole = folds.split(index, 2, 0.1, 0)
    rest = index.without({0: "torn", 15: "torn"})
    split = folds.split(rest, 2, 0.1, 0)
    lost = {index.names[0], index.names[15]}
    assert {rest.names[at] for at in split.test} == {index.names[at] for at in whole.test} - lost
    assert len(split.train) + len(split.validation) + len(split.test) == 18


def test_what_cannot_be_tested_and_learnt_is_named():
    with pytest.raises(
        ClassesError, match="1 class has one different image only: 'class1'; needed are 2"
    ):
        cut_folds(make_index([0, 0, 0, 1, 1], contents=[0, 1, 2, 3, 3]), 5, 0)
    with pytest.raises(ClassesError, match="1 class has one group of images only: 'class1'"):
        leave_groups_out(make_index([0, 0, 1, 1], groups=("a", "b", "c", "c")), 0)


def test_leaving_groups_out_needs_groups_and_not_too_many():
    index = make_index(np.arange(300) % 2)
    with pytest.raises(SettingsError, match="nothing says which images belong together"):
        leave_groups_out(index, 0)
    with pytest.raises(SettingsError, match="each of 300 groups out once"):
        leave_groups_out(index, 0, "[0-9]+.jpg")


def test_near_duplicates_stay_in_one_fold_and_leak_where_they_do_not():
    index = make_index([0] * 12 + [1] * 12)
    pictures = np.repeat(np.arange(12), 2)  # each photo twice, in another format
    joined = replace(index, pictures=pictures)
    together, apart = cut_folds(joined, 4, 0), cut_folds(index, 4, 0)
    folds = read_folds(together, index)
    np.testing.assert_array_equal(folds[::2], folds[1::2])
    assert len(together.find_leaks(joined)) == len(apart.find_leaks(index)) == 0
    folds = read_folds(apart, index)
    expected = np.flatnonzero(np.repeat(folds[::2] != folds[1::2], 2))
    assert len(expected)
    np.testing.assert_array_equal(apart.find_leaks(joined), expected)
