from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezetune.data.index import ImageIndex, index_photos
from squeezetune.data.sources.registry import MemorySource
from squeezetune.data.split import gather_units, split_index, split_train_validation
from squeezetune.errors import ClassesError, SettingsError

SHARES = {"validation": 0.1, "test": 0.1}
FEW = settings(max_examples=40, deadline=None, derandomize=True)


def make_index(labels, contents=None, names=None, parts=None, class_names=None):
    """Make an index of made-up images; equal `contents` have equal digests."""
    labels = np.asarray(labels, np.int64)
    contents = np.arange(len(labels)) if contents is None else np.asarray(contents)
    pool = np.random.default_rng(1).integers(0, 256, (contents.max() + 1, 16), dtype=np.uint8)
    return ImageIndex(
        source=MemorySource([]),
        names=tuple(names or (f"{label}/{i}.jpg" for i, label in enumerate(labels))),
        labels=labels,
        class_names=tuple(class_names or (f"class{i}" for i in range(labels.max() + 1))),
        digests=pool[contents],
        parts=None if parts is None else np.asarray(parts, np.int8),
    )


def get_parts(split, count):
    """Return the part of each image, -1 for none; fail where an image is in two."""
    parts = np.full(count, -1)
    for part, positions in enumerate((split.train, split.validation, split.test)):
        assert positions.dtype == np.int64
        assert len(np.unique(positions)) == len(positions)
        assert np.all(parts[positions] == -1)
        parts[positions] = part
    return parts


def count_parts(split, index):
    parts = get_parts(split, len(index))
    return [
        [int(np.sum((parts == p) & (index.labels == c))) for p in range(3)]
        for c in range(len(index.class_names))
    ]


def test_counts_of_every_class_are_exact():
    index = make_index([0] * 1000 + [1] * 100 + [2] * 37 + [3] * 3 + [4] * 10)
    split = split_index(index, **SHARES, seed=0)
    assert count_parts(split, index) == [
        [800, 100, 100],
        [80, 10, 10],
        [29, 4, 4],
        [1, 1, 1],
        [8, 1, 1],
    ]
    assert (split.groups, split.duplicates, split.conflicts, len(split.leaks)) == (None, 0, 0, 0)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 10])
def test_large_shares_leave_an_image_to_train(count):
    index = make_index([0] * count + [1] * count)
    for counts in count_parts(split_index(index, validation=0.45, test=0.45, seed=0), index):
        assert min(counts) >= 1
        assert sum(counts) == count


@FEW
@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=6),
    st.floats(0.02, 0.4),
    st.floats(0.02, 0.4),
    st.integers(0, 99),
)
def test_every_image_is_in_one_part_and_shares_are_kept(sizes, validation, test, seed):
    index = make_index(np.repeat(np.arange(len(sizes)), sizes))
    split = split_index(index, validation=validation, test=test, seed=seed)
    assert np.all(get_parts(split, len(index)) >= 0)
    for (train, held, measured), size in zip(count_parts(split, index), sizes, strict=True):
        assert train >= 1
        if size >= 20:
            assert (held, measured) == (
                max(1, round(size * validation)),
                max(1, round(size * test)),
            )
        assert held >= 1
        assert measured >= 1


def test_seeds_differ_and_repeat():
    index = make_index([0] * 200 + [1] * 200)
    tests = [split_index(index, **SHARES, seed=seed).test.tolist() for seed in (0, 0, 1, 2)]
    assert tests[0] == tests[1]
    for other in tests[2:]:
        # 40 of 400: two draws share 4 on average, and 12 or more once in 10,000 times
        assert len(set(tests[0]) & set(other)) < 12


def test_a_part_is_a_fair_sample():
    index = make_index([0] * 400 + [1] * 400)
    hits = sum(
        np.isin(np.arange(800), split_index(index, **SHARES, seed=seed).test) for seed in range(200)
    )
    assert hits.mean() == 20
    assert 3.8 < hits.std() < 4.7  # binomial: sqrt(200 * 0.1 * 0.9) = 4.24


def test_images_are_in_the_order_of_classes_and_contents():
    index = make_index([1, 0, 1] * 40)
    split = split_index(index, **SHARES, seed=0)
    for positions in (split.train, split.validation, split.test):
        order = [(index.labels[at], index.digests[at].tobytes()) for at in positions]
        keys = [(label, int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"))
                for label, digest in order]  # fmt: skip
        assert keys == sorted(keys)


@FEW
@given(st.integers(0, 2**31 - 1))
def test_names_and_order_do_not_matter(seed):
    labels, contents = np.arange(60) % 3, np.arange(60) % 55
    order = np.random.default_rng(seed).permutation(60)
    split = split_index(make_index(labels, contents), **SHARES, seed=seed)
    names = [f"renamed/{i}" for i in range(60)]
    shuffled = split_index(make_index(labels[order], contents[order], names), **SHARES, seed=seed)
    assert np.array_equal(get_parts(split, 60)[order], get_parts(shuffled, 60))


def test_another_class_changes_nothing():
    labels = np.repeat([0, 1, 2], [50, 60, 70])
    all_three = get_parts(split_index(make_index(labels), **SHARES, seed=3), 180)
    without_last = get_parts(split_index(make_index(labels[:110]), **SHARES, seed=3), 110)
    assert np.array_equal(all_three[:110], without_last)


def test_ten_more_photos_move_few_others():
    before = get_parts(split_index(make_index([0] * 500 + [1] * 500), **SHARES, seed=0), 1000)
    after = get_parts(
        split_index(make_index([0] * 500 + [1] * 500 + [0] * 10), **SHARES, seed=0), 1010
    )
    assert np.sum(before != after[:1000]) <= 6


@FEW
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=20, max_size=80),
    st.integers(0, 99),
)
def test_duplicates_are_on_one_side(images, seed):
    # nine images of each class alone, so that the split is possible
    labels = [label for label, _ in images] + [0] * 9 + [1] * 9
    contents = [content for _, content in images] + list(range(31, 49))
    index = make_index(labels, contents)
    split = split_index(index, **SHARES, seed=seed)
    parts = get_parts(split, len(index))
    assert np.all(parts >= 0)
    for content in set(contents):
        assert len(set(parts[np.asarray(contents) == content])) == 1
    classes_of = [
        {label for label, other in zip(labels, contents, strict=True) if other == content}
        for content in set(contents)
    ]
    assert split.duplicates == len(contents) - len(set(contents))
    assert split.conflicts == sum(len(classes) > 1 for classes in classes_of)
    assert min(min(counts) for counts in count_parts(split, index)) >= 1


def test_counts_stay_exact_with_some_duplicates():
    contents = np.arange(200)
    contents[:10] = 10 + np.arange(10)  # ten pairs in the first class
    index = make_index([0] * 100 + [1] * 100, contents)
    assert count_parts(split_index(index, **SHARES, seed=0), index) == [[80, 10, 10], [80, 10, 10]]


@FEW
@given(st.lists(st.integers(1, 12), min_size=6, max_size=30), st.integers(0, 99))
def test_groups_are_on_one_side(sizes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = groups % 2
    names = [
        f"class{label}/object{group}-{i}.jpg"
        for i, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    index = make_index(labels, names=names)
    split = split_index(index, **SHARES, seed=seed, group_by="object([0-9]+)-")
    parts = get_parts(split, len(index))
    assert np.all(parts >= 0)
    assert split.groups == len(sizes)
    for group in range(len(sizes)):
        assert len(set(parts[groups == group])) == 1
        assert len(set(split.find_units(np.flatnonzero(groups == group)))) == 1
    assert len(set(split.units)) == len(sizes)
    assert split_index(index, **SHARES, seed=seed).find_units(split.train) is None
    assert min(min(counts) for counts in count_parts(split, index)) >= 1


def test_equal_groups_keep_the_shares_exactly():
    names = [f"{label}{group}/{i}.jpg" for label in "ab" for group in range(10) for i in range(41)]
    index = make_index([0] * 410 + [1] * 410, names=names)
    for pattern in ("^[a-z]+[0-9]+", "^([a-z]+[0-9]+)/"):  # the whole match, or the first group
        split = split_index(index, **SHARES, seed=0, group_by=pattern)
        assert split.groups == 20
        assert count_parts(split, index) == [[328, 41, 41]] * 2


def test_groups_and_duplicates_join():
    # group x holds content 0 and 1, group y content 1 and 2, z content 2 and 3: all of them are one
    # unit
    names = ["x-1", "x-2", "y-1", "y-2", "z-1", "z-2"] + [f"{i}" for i in range(24)]
    contents = [0, 1, 1, 2, 2, 3, *range(4, 28)]
    index = make_index([0] * 18 + [1] * 12, contents, names)
    for seed in range(10):
        parts = get_parts(split_index(index, **SHARES, seed=seed, group_by="^([xyz])-"), 30)
        assert len(set(parts[:6])) == 1


def test_image_without_group_is_its_own():
    index = make_index(
        [0] * 30 + [1] * 30, names=["a-" + str(i) if i < 10 else str(i) for i in range(60)]
    )
    split = split_index(index, **SHARES, seed=0, group_by="^a-")
    assert split.groups == 51
    assert count_parts(split, index) == [[24, 3, 3], [24, 3, 3]]


def test_groups_of_several_classes_keep_the_ratios():
    # 100 sessions, each with 3 photos of one class and 7 of the other
    names = [f"{session}/{i}" for session in range(100) for i in range(10)]
    index = make_index([0 if i < 3 else 1 for _ in range(100) for i in range(10)], names=names)
    split = split_index(index, **SHARES, seed=0, group_by="^([0-9]+)/")
    assert count_parts(split, index) == [[240, 30, 30], [560, 70, 70]]


def test_overfull_part_leaves_less_to_the_others():
    # one group of 8 out of 10: train gets it, and the two single images the other parts
    index = make_index(
        [0] * 10 + [1] * 10, names=[f"a-{i}" if i < 8 else str(i) for i in range(20)]
    )
    assert count_parts(split_index(index, **SHARES, seed=0, group_by="^a-"), index) == [
        [8, 1, 1],
        [8, 1, 1],
    ]


def test_single_image_goes_to_the_part_that_has_none():
    # groups of 17, 2 and 1 for parts of 16, 1 and 3: the last one is all that is left for
    # validation
    names = [
        f"{'a' * (i < 17) or 'b' * (i < 19) or 'c'}{label}-{i}"
        for label in (0, 1)
        for i in range(20)
    ]
    index = make_index([0] * 20 + [1] * 20, names=names)
    split = split_index(index, validation=0.05, test=0.15, seed=0, group_by="^[abc][01]")
    assert count_parts(split, index) == [[17, 1, 2], [17, 1, 2]]


def test_large_groups_are_placed_before_small_ones():
    names = [f"{label}{'big' if i < 60 else i // 2}-{i}" for label in "xy" for i in range(100)]
    index = make_index([0] * 100 + [1] * 100, names=names)
    split = split_index(index, **SHARES, seed=0, group_by="^([^-]+)-")
    assert count_parts(split, index) == [[80, 10, 10], [80, 10, 10]]


def test_group_pattern_that_is_wrong_or_matches_nothing():
    index = make_index([0] * 5 + [1] * 5)
    with pytest.raises(SettingsError, match=r"group_by 'z' matches .* for example, '0/0\.jpg'"):
        split_index(index, **SHARES, seed=0, group_by="z")
    with pytest.raises(SettingsError, match="no regular expression"):
        split_index(index, **SHARES, seed=0, group_by="(")


@pytest.mark.parametrize("shares", [(0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2), (0.9, 0.9)])
def test_shares_that_leave_nothing(shares):
    with pytest.raises(SettingsError, match="needed are shares above 0"):
        split_index(make_index([0] * 9 + [1] * 9), validation=shares[0], test=shares[1], seed=0)


def test_small_class_is_named_with_its_count():
    index = make_index(
        [0] * 10 + [1] * 2 + [2] * 4,
        contents=[*range(12), 12, 12, 12, 13],
        class_names=["a", "b", "c\n"],
    )
    with pytest.raises(ClassesError) as caught:
        split_index(index, **SHARES, seed=0)
    assert caught.value.message.startswith("2 classes have too few different images")
    assert (
        "'b' (2), 'c\\n' (2); needed are 3" in caught.value.message
    )  # c has four images, two of them different
    assert caught.value.hint


def test_few_groups_are_named_as_groups():
    index = make_index(
        [0] * 10 + [1] * 10, names=[f"{'ab'[i // 10]}{i % 2}/{i}" for i in range(20)]
    )
    with pytest.raises(
        ClassesError, match=r"2 classes have too few groups of images .*'class0' \(2\)"
    ):
        split_index(index, **SHARES, seed=0, group_by="^[ab][01]")


def test_ten_thousand_classes_of_one_image():
    with pytest.raises(ClassesError, match=r"10,000 classes .*'class4' \(1\) and 9,995 more"):
        split_index(make_index(np.arange(10_000)), **SHARES, seed=0)


def test_same_three_images_in_both_classes():
    index = make_index([0, 0, 0, 1, 1, 1], contents=[0, 1, 2, 0, 1, 2])
    split = split_index(index, **SHARES, seed=0)
    assert split.conflicts == 3
    assert count_parts(split, index) == [[1, 1, 1], [1, 1, 1]]


def test_groups_that_tie_classes_too_tightly_are_refused():
    # four sessions, and four classes that are each in three of them: two sessions must share a
    # part, and a class that is in both of these has only one left for the two other parts
    pairs = [(label, session) for label in range(4) for session in range(4) if session != label]
    index = make_index(
        [label for label, _ in pairs],
        names=[f"session{session}/{label}" for label, session in pairs],
    )
    with pytest.raises(ClassesError, match=r"images that must stay together .*'class") as caught:
        split_index(index, **SHARES, seed=0, group_by="session([0-9])")
    assert "group_by" in caught.value.hint


def test_given_parts_are_kept():
    parts = [0] * 8 + [1] * 2 + [2] * 4
    index = make_index([0, 1] * 7, parts=parts)
    split = split_index(index, **SHARES, seed=0)
    assert get_parts(split, 14).tolist() == parts
    assert split.leaks.tolist() == []


def test_given_parts_are_kept_and_their_leaks_are_named():
    #         train           validation  test
    contents = [0, 1, 2, 3, 4, 5, 0, 6, 7, 8, 0, 1, 6, 9]
    labels = [0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1]
    parts = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    split = split_index(make_index(labels, contents, parts=parts), **SHARES, seed=0)
    assert get_parts(split, 14).tolist() == parts
    assert split.leaks.tolist() == [6, 10, 11, 12]
    assert split.duplicates == 4


def test_near_duplicates_and_groups_leak_as_copies_do():
    index = make_index(
        [0, 1] * 6, parts=[0] * 6 + [1] * 2 + [2] * 4, names=[f"g{i}/{i}.jpg" for i in range(12)]
    )
    pictures = np.arange(12)
    pictures[8] = pictures[0]
    split = split_index(replace(index, pictures=pictures), **SHARES, seed=0)
    assert split.leaks.tolist() == [8]
    groups = tuple("h" if i in (1, 11) else "" for i in range(12))
    split = split_index(replace(index, pictures=pictures, groups=groups), **SHARES, seed=0)
    assert split.leaks.tolist() == [8, 11]


def test_near_duplicates_stay_together():
    index, count = make_index([0, 1] * 100), 200
    pictures = np.arange(count) // 4  # four images of each picture, of two classes
    split = split_index(replace(index, pictures=pictures), **SHARES, seed=0)
    parts = get_parts(split, count).reshape(-1, 4)
    assert np.all(parts == parts[:, :1])
    assert [sum(counts) for counts in zip(*count_parts(split, index), strict=True)] == [160, 20, 20]
    assert (split.groups, split.units, split.leaks.tolist()) == (None, None, [])


def test_near_duplicates_join_groups():
    index = make_index([0, 1] * 30, names=[f"g{i // 6}/{i}.jpg" for i in range(60)])
    pictures = np.arange(60)
    pictures[6] = pictures[0]
    split = split_index(replace(index, pictures=pictures), **SHARES, seed=0, group_by="^(g[0-9]+)/")
    parts = get_parts(split, 60)
    assert len(set(parts[:12])) == 1
    assert split.groups == 10


def test_near_duplicates_that_are_not_kept_together_leak():
    index = replace(make_index([0, 1] * 100), pictures=np.arange(200) // 4)
    split = split_index(index, **SHARES, seed=0, near_duplicates="reported")
    plain = split_index(replace(index, pictures=None), **SHARES, seed=0)
    np.testing.assert_array_equal(split.test, plain.test)
    parts = get_parts(split, 200)
    earliest = parts.reshape(-1, 4).min(axis=1)[index.pictures]
    assert split.leaks.tolist() == np.flatnonzero(parts > earliest).tolist() != []


def test_joined_contents_are_those_of_a_slow_search():
    rng = np.random.default_rng(3)
    index = make_index(rng.integers(0, 3, 120), rng.integers(0, 100, 120))
    index = replace(index, groups=tuple(f"{g}" if g < 30 else "" for g in rng.integers(0, 60, 120)),
                    pictures=rng.integers(0, 110, 120))  # fmt: skip
    found = gather_units(index, 0).of_image
    digests = [digest.tobytes() for digest in index.digests]
    wanted = np.arange(120)
    for _ in range(
        120
    ):  # spread the lowest number over everything that is tied, until nothing changes
        for a in range(120):
            for b in range(a):
                tied = digests[a] == digests[b] or index.pictures[a] == index.pictures[b]
                if tied or (index.groups[a] and index.groups[a] == index.groups[b]):
                    wanted[a] = wanted[b] = min(wanted[a], wanted[b])
        if all(len(set(wanted[found == unit])) == 1 for unit in set(found)):
            break
    assert (
        len(set(zip(found.tolist(), wanted.tolist(), strict=True)))
        == len(set(found))
        == len(set(wanted))
    )


@pytest.mark.parametrize("given_part", [1, 2])
def test_missing_part_is_taken_from_train(given_part):
    index = make_index(np.arange(220) % 2, parts=[0] * 200 + [given_part] * 20)
    split = split_index(index, **SHARES, seed=0)
    counts = [80 + 10, 10, 10]
    counts[given_part] = 10
    counts[3 - given_part] = 10
    assert count_parts(split, index) == [counts, counts]
    assert np.all(get_parts(split, 220)[200:] == given_part)


def test_class_missing_from_a_given_part():
    index = make_index([0, 1, 2] * 4 + [0, 1], parts=[0] * 12 + [2] * 2)
    with pytest.raises(ClassesError, match="no image in test of 'class2'"):
        split_index(index, **SHARES, seed=0)
    index = make_index([0, 1] * 5 + [0, 1, 2], parts=[0] * 10 + [2] * 3)
    with pytest.raises(ClassesError, match="no image in train of 'class2'"):
        split_index(index, **SHARES, seed=0)


def test_train_and_validation_alone():
    index = make_index(
        [0] * 100 + [1] * 10 + [2] + [3] * 2 + [4] * 2, contents=[*range(113), 113, 113]
    )
    split = split_train_validation(index, 0.2, seed=0)
    assert split.test.tolist() == []
    # a class of one image, or of two alike, is in train only
    assert count_parts(split, index) == [[80, 20, 0], [8, 2, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0]]
    with pytest.raises(SettingsError):
        split_train_validation(index, 1.0, seed=0)


def test_class_without_images_is_no_obstacle_to_train_and_validation():
    index = make_index([0] * 10 + [2] * 10)
    assert count_parts(split_train_validation(index, 0.1, seed=0), index) == [
        [9, 1, 0],
        [0, 0, 0],
        [9, 1, 0],
    ]
    with pytest.raises(ClassesError, match=r"'class1' \(0\)"):
        split_index(index, **SHARES, seed=0)


def test_a_real_folder_splits(photo_folder, executor):
    index = index_photos(photo_folder, executor=executor)
    assert count_parts(split_index(index, **SHARES, seed=0), index) == [[8, 1, 1]] * 3
