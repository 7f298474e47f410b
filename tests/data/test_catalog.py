import re
from pathlib import Path

import pytest

from squeezetune.data.sources import catalog
from squeezetune.data.sources.catalog import DATA_SETS, find_dataset, group_photos, locate_photos
from squeezetune.data.sources.registry import open_source
from squeezetune.errors import SettingsError, SourceError
from squeezetune.settings import Settings


@pytest.fixture
def here(tmp_path, empty_cache, monkeypatch):
    """Work in a folder where nothing is, with a cache that holds nothing."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def put(path, content=b"a zip"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_every_data_set_is_described():
    assert list(DATA_SETS) == ["cifar10", "eth80", "ar-faces"]
    assert [each.images for each in DATA_SETS.values()] == [60_000, 3_280, 2_600]
    assert [each.classes for each in DATA_SETS.values()] == [10, 8, 100]
    for name, each in DATA_SETS.items():
        assert find_dataset(name) == each
        assert each.title
        assert each.conditions
        assert bool(each.archives) != bool(each.request)
        for archive in each.archives.values():
            assert archive.address.startswith("http")
            for algorithm, checksum in archive.checksums.items():
                assert re.fullmatch(
                    {"md5": "[0-9a-f]{32}", "sha256": "[0-9a-f]{64}"}[algorithm], checksum
                )


@pytest.mark.parametrize(
    ("name", "suggested"), [("cifar-10", "cifar10"), ("ETH80", "eth80"), ("arfaces", "ar-faces")]
)
def test_unknown_names_are_refused_with_a_suggestion(name, suggested):
    with pytest.raises(
        SettingsError, match=f"unknown data set '{name}', did you mean '{suggested}'"
    ) as caught:
        find_dataset(name)
    assert "cifar10, eth80, ar-faces" in caught.value.hint


def test_what_is_on_the_disk_comes_first(here):
    packed = put(find_dataset("eth80").path)
    assert locate_photos(Path("eth80")) == packed
    (here / "eth80").mkdir()
    assert locate_photos(Path("eth80")) == Path("eth80")
    assert locate_photos(Path("nowhere/eth80")) == Path("nowhere/eth80")
    assert locate_photos(here / "cifar10") == here / "cifar10"


def test_nothing_is_fetched_unasked_and_the_error_says_how(here):
    with pytest.raises(SourceError, match="the data set of this name is not here yet") as caught:
        open_source(Path("cifar10"), {})
    hint = caught.value.hint
    assert hint.startswith(
        "Fetch it, 170 MB from https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    )
    assert hint.endswith("squeezetune data cifar10")
    with pytest.raises(SourceError) as caught:
        open_source(Path("ar-faces"), {})
    assert "ARdatabase.html" in caught.value.hint
    assert "--from" in caught.value.hint
    with pytest.raises(SourceError, match="there is no folder or file 'cifar11'"):
        open_source(Path("cifar11"), {})


def test_objects_stay_together_unless_the_settings_say_how(here):
    notices = []
    grouped = group_photos(Path("eth80"), Settings(seed=3), notices.append)
    assert grouped == Settings(seed=3, group_by="/([a-z]+[0-9]+)/")
    assert re.search(grouped.group_by, "apple/apple10/apple10-000-000.png")[1] == "apple10"
    assert len(notices) == 1
    own = Settings(group_by="(apple)")
    for photos, settings in (
        ("eth80", own),
        ("cifar10", Settings()),
        ("photos", Settings()),
        ("x/eth80", Settings()),
    ):
        assert group_photos(Path(photos), settings, notices.append) == settings
    assert group_photos(((b"", 1),), own, notices.append) == own
    (here / "eth80").mkdir()
    assert group_photos(Path("eth80"), Settings(), notices.append) == Settings()
    assert len(notices) == 1


def test_images_here_are_counted(empty_cache):
    dataset = find_dataset("eth80")
    assert dataset.count_here() == 0
    put(dataset.path)
    assert dataset.count_here() == 0
    assert dataset.path == empty_cache / "datasets" / "eth80.zip"
    assert catalog.CIFAR10.command == "squeezetune data cifar10"
