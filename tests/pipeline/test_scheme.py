"""When folds measure and when a test part does."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.errors import ClassesError, SettingsError
from squeezetune.events import Notice, ignore_event
from squeezetune.pipeline.scheme import choose_scheme
from squeezetune.settings import Settings


@pytest.fixture
def make_index(write_files, make_photo, executor):
    """Make an index of photos, each in a folder of its own: so many of each class."""
    numbers = count()

    def make(*counts):
        files = {f"{label}/{i}.jpg": make_photo(1000 * label + i) for label in range(len(counts))
                 for i in range(counts[label])}  # fmt: skip
        return index_photos(write_files(files, f"photos{next(numbers)}"), executor=executor)

    return make


@pytest.mark.parametrize(
    ("counts", "has_folds"),
    [
        ([5, 5], True),
        ([5] * 40, True),  # forty test images, but one of a class
        ([2, 40], True),  # a class of two cannot be in three parts
        ([160, 160], False),
        ([150, 140], True),  # 29 test images
    ],
)
def test_few_images_are_measured_by_folds_unasked(make_index, counts, has_folds):
    said = []
    scheme = choose_scheme(make_index(*counts), Settings(), said.append)
    assert (scheme is not None) == has_folds
    assert [type(event) for event in said] == [Notice] * has_folds
    if scheme:
        assert (scheme.folds, scheme.is_automatic) == (5, True)


def test_none_is_none_however_few(make_index):
    assert choose_scheme(make_index(3, 3), Settings(folds="none"), ignore_event) is None


def test_a_rare_class_among_very_many_images_is_not_worth_five_trainings_unasked(make_index):
    index = make_index(30, 8)
    many = replace(
        index,
        names=tuple(f"{i}.jpg" for i in range(5000)),
        labels=np.array([0] * 4992 + [1] * 8),
        digests=np.random.default_rng(0).integers(0, 256, (5000, 16), dtype=np.uint8),
    )
    assert choose_scheme(many, Settings(), ignore_event) is None
    assert choose_scheme(many, Settings(folds="7"), ignore_event).folds == 7


def test_trained_layers_are_not_multiplied_unasked(make_index):
    pytest.importorskip("torch", reason="torch is an extra")
    index = make_index(8, 8)
    assert choose_scheme(index, Settings(layers="all"), ignore_event) is None
    assert choose_scheme(index, Settings(layers="all", folds="3"), ignore_event).folds == 3
    # a class of two images leaves no other way
    assert choose_scheme(make_index(2, 8), Settings(layers="all"), ignore_event).folds == 5


def test_an_own_split_is_respected(make_index):
    index = make_index(6, 6)
    split = replace(index, parts=np.array([0, 0, 0, 0, 1, 2] * 2, np.int8))
    assert choose_scheme(split, Settings(), ignore_event) is None
    with pytest.raises(SettingsError, match="already split"):
        choose_scheme(split, Settings(folds="5"), ignore_event)


def test_a_class_of_one_image_is_refused_with_what_is_needed(make_index):
    with pytest.raises(ClassesError, match="needed are 2 in each class"):
        choose_scheme(make_index(1, 40), Settings(), ignore_event)


def test_groups_are_needed_to_be_left_out(make_index):
    with pytest.raises(SettingsError, match="nothing says which images belong together"):
        choose_scheme(make_index(4, 4), Settings(folds="groups"), ignore_event)


def test_the_model_itself_learns_from_all_and_few_images_are_not_held_back(make_index):
    index = make_index(6, 6)
    split = choose_scheme(index, Settings(), ignore_event).keep_all(index)
    assert (len(split.train), len(split.validation), len(split.test)) == (12, 0, 0)
    hidden = choose_scheme(index, Settings(head="hidden"), ignore_event).keep_all(index)
    assert (len(hidden.train), len(hidden.validation), len(hidden.test)) == (10, 2, 0)


def test_with_more_images_some_of_the_rest_choose(make_index):
    index = make_index(160, 160)
    scheme = choose_scheme(index, Settings(folds="4"), ignore_event)
    for turn in scheme.list_rounds(index):
        split = scheme.split_round(index, turn)
        assert (len(split.train), len(split.validation), len(split.test)) == (216, 24, 80)


def test_rounds_test_every_image_once_in_every_repeat(make_index):
    index = make_index(20, 13)
    scheme = choose_scheme(index, Settings(folds="4", repeats=3), ignore_event)
    rounds = list(scheme.list_rounds(index))
    assert len(rounds) == 12
    tests = [scheme.split_round(index, turn).test for turn in rounds]
    for repeat in range(3):
        assert sorted(np.concatenate(tests[4 * repeat : 4 * repeat + 4]).tolist()) == list(
            range(33)
        )
    assert len({tuple(sorted(test.tolist())) for test in tests}) == 12  # other folds each time
    assert "4-fold cross-validation, repeated 3 times" in scheme.name


def test_an_ordinary_set_is_split_as_ever(make_index):
    index, settings = make_index(160, 160), Settings()
    assert choose_scheme(index, settings, ignore_event) is None
    assert len(split_index(index, validation=0.1, test=0.1, seed=0).test) == 32


def test_near_duplicates_are_parted_only_where_asked_or_where_a_class_has_nothing_else(make_index):
    index = make_index(8, 8)
    twins = replace(index, pictures=np.repeat(np.arange(8), 2))
    for policy, is_together in (("together", True), ("reported", False)):
        scheme = choose_scheme(index, Settings(folds="4", near_duplicates=policy), ignore_event)
        leaks = next(scheme.list_rounds(twins)).folds.find_leaks(twins)
        assert (len(leaks) == 0) is is_together
    said = []
    same = replace(index, pictures=np.repeat([0, 1], 8))  # one picture in each class
    scheme = choose_scheme(index, Settings(folds="4"), ignore_event)
    assert len(list(scheme.list_rounds(same, said.append))) == 4
    assert "cannot all be kept in one fold" in said[0].message
