import shutil
import signal

import pytest

from squeezetune.data import pixels as pixels_module
from squeezetune.data.index import index_photos
from squeezetune.errors import ClassesError, SourceError
from squeezetune.events import Notice, StageStarted
from squeezetune.system.interrupts import STOPPING
from squeezetune.watching import (
    UNCHANGED,
    PollInterval,
    SourceChange,
    Watched,
    compare_indexes,
    wait_for_change,
    watch,
)

pytestmark = pytest.mark.usefixtures("no_plots")


class Days:
    """Stands in for the time that passes: at each pause the next thing happens, at the end
    Ctrl-C.
    """

    def __init__(self, *events):
        self.events = list(events)
        self.pauses = []

    def __call__(self, seconds):
        self.pauses.append(seconds)
        if not self.events:
            raise KeyboardInterrupt
        self.events.pop(0)()


def nothing():
    pass


def run_watch(photos, output, days, settings, listen=lambda event: None, **options):
    updates = []
    try:
        for update in watch(
            photos,
            output,
            pace=PollInterval(10, 4, days),
            listen=listen,
            settings=settings,
            **options,
        ):
            updates.append(update)  # noqa: PERF402  # the list has to be there when the loop is left
    except KeyboardInterrupt:
        return updates
    raise AssertionError("it ended by itself")


@pytest.fixture
def photos(write_shapes, tmp_path):
    return write_shapes(tmp_path / "photos", 10)


@pytest.fixture(autouse=True)
def files_are_old(monkeypatch):
    """Let no test wait until its files are trusted."""
    monkeypatch.setattr("squeezetune.data.sources.source.RACY_NS", -60_000_000_000)


def test_a_model_follows_its_folder(
    photos, write_shapes, fixed_settings, empty_cache, tmp_path, draw_shape
):
    def change():
        write_shapes(photos, {"box": 3}, first=10)
        (photos / "disc" / "000.png").unlink()
        (photos / "disc" / "001.png").rename(photos / "spike" / "moved.png")
        (photos / "disc" / "002.png").rename(photos / "disc" / "renamed.png")

    updates = run_watch(photos, tmp_path / "model", Days(nothing, change, nothing), fixed_settings)
    first, second = updates
    assert first.change is None
    assert second.change == SourceChange(new=3, removed=1, moved=1)
    assert str(second.change) == "3 new, 1 removed, 1 moved"
    assert second.accuracy_before == first.accuracy
    assert second.classifier.report["data"]["images"] == 32
    assert second.classifier.report["test"]["accuracy"] == second.accuracy


def test_only_new_photos_are_decoded(
    photos, write_shapes, fixed_settings, empty_cache, tmp_path, monkeypatch
):
    """But for the test photos, on which the new model's own file is measured, and the pictures of
    the report.
    """
    decoded, decode, stage = [], pixels_module.open_photo, [""]

    def note_and_decode(raw, *more):
        if stage[0] != "measuring":
            decoded.append(raw)
        return decode(raw, *more)

    def listen(event):
        stage[0] = event.stage if isinstance(event, StageStarted) else stage[0]

    def take():
        taken = sorted(decoded)
        decoded.clear()
        return taken

    def add():
        rounds.append(take())
        write_shapes(photos, 1, first=50)

    def remove_and_move():
        rounds.append(take())
        (photos / "box" / "003.png").unlink()
        (photos / "box" / "004.png").rename(photos / "disc" / "was-a-box.png")

    monkeypatch.setattr(pixels_module, "open_photo", note_and_decode)
    rounds, first = [], sorted(path.read_bytes() for path in photos.rglob("*.png"))
    days = Days(add, nothing, remove_and_move, nothing, lambda: rounds.append(take()))
    updates = run_watch(photos, tmp_path / "model", days, fixed_settings, listen)
    assert [str(update.change) for update in updates[1:]] == ["3 new", "1 removed, 1 moved"]
    assert rounds[0] == first
    assert rounds[1] == sorted(path.read_bytes() for path in photos.rglob("050.png"))
    assert rounds[2] == []


def test_a_class_without_photos_leaves_the_model(
    photos, fixed_settings, empty_cache, tmp_path, write_shapes
):
    def empty():
        for path in (photos / "disc").iterdir():
            path.unlink()

    def fill():
        write_shapes(photos, {"disc": 9})

    model = tmp_path / "model" / "model.onnx"
    contents = []

    def read():
        contents.append(model.read_bytes())

    days = Days(read, empty, nothing, read, fill, nothing)
    first, second, third = run_watch(photos, model.parent, days, fixed_settings)
    assert isinstance(second.error, ClassesError)
    assert "disc" in second.error.message
    assert second.classifier is None
    assert contents[0] == contents[1]
    assert third.change == SourceChange(0, 1, 0)
    assert third.accuracy_before == first.accuracy


def test_renamed_photos_change_nothing(photos, fixed_settings, empty_cache, tmp_path):
    heard = []

    def rename():
        (photos / "box" / "000.png").rename(photos / "box" / "other.png")

    days = Days(rename, nothing, nothing)
    assert len(run_watch(photos, tmp_path / "model", days, fixed_settings, heard.append)) == 1
    assert Notice(UNCHANGED) in heard


def test_an_error_of_the_first_training_is_raised(tmp_path, fixed_settings):
    with pytest.raises(SourceError, match="there is no folder"):
        next(watch(tmp_path / "nowhere", tmp_path / "model", settings=fixed_settings))


def test_watching_ends_with_a_training_that_was_stopped(
    photos, fixed_settings, empty_cache, tmp_path, monkeypatch
):
    def train_and_stop(*arguments, listen, **options):
        listen(Notice(STOPPING))
        return trained

    trained = next(iter(watch(photos, tmp_path / "model", settings=fixed_settings))).classifier
    monkeypatch.setattr("squeezetune.watching.train", train_and_stop)
    assert len(list(watch(photos, tmp_path / "model", settings=fixed_settings))) == 1


# ---- waiting


def test_photos_are_left_alone_before_they_are_read():
    seen = iter([b"a", b"a", b"b", b"c", b"d", b"d", b"never"])
    pauses = []
    assert wait_for_change(lambda: next(seen), b"a", PollInterval(10, 4, pauses.append)) == b"d"
    assert pauses == [10, 10, 10, 4, 4, 4]


def look_at(path, columns=""):
    return Watched(path, {"columns": columns}).look()


def test_every_change_of_a_folder_is_seen(photos):
    looks = [look_at(photos)]
    assert look_at(photos) == looks[0]
    for change in (
        lambda: (photos / "box" / "000.png").write_bytes(b"text"),
        lambda: (photos / "box" / "000.png").rename(photos / "disc" / "other.png"),
        lambda: (photos / "disc" / "other.png").unlink(),
        lambda: shutil.copy(photos / "disc" / "001.png", photos / "box" / "copy.png"),
        lambda: photos.rename(photos.parent / "elsewhere"),
    ):
        change()
        looks.append(look_at(photos))
    assert len(set(looks)) == 6


def test_a_table_is_seen_with_the_files_that_it_names(photos):
    table = photos.parent / "table.csv"
    table.write_text("path,label\nphotos/box/000.png,a\nphotos/disc/000.png,b\n")
    first = look_at(table)
    assert look_at(table) == first
    (photos / "box" / "001.png").unlink()  # the table does not name it
    assert look_at(table) == first
    (photos / "box" / "000.png").write_bytes(b"text")
    second = look_at(table)
    table.write_text("path,label\nphotos/box/000.png,b\nphotos/disc/000.png,a\n")
    assert len({first, second, look_at(table)}) == 3


def test_an_archive_is_seen_as_a_whole(tmp_path):
    path = tmp_path / "photos.zip"
    path.write_bytes(b"one")
    first = look_at(path)
    path.write_bytes(b"another")
    assert look_at(path) != first


def test_copies_are_counted(write_files, make_photo, executor):
    def index(folder, *names):
        return index_photos(
            write_files({name: make_photo(int(name[-5])) for name in names}, folder),
            executor=executor,
        )

    before = index("before", "a/x0.jpg", "a/y0.jpg", "a/x1.jpg", "b/x2.jpg", "b/x3.jpg")
    after = index("after", "a/x0.jpg", "b/y0.jpg", "a/z1.jpg", "b/x2.jpg", "b/x4.jpg", "b/y4.jpg")
    assert compare_indexes(before, after) == SourceChange(new=2, removed=1, moved=1)
    assert not compare_indexes(before, before)
    assert str(compare_indexes(before, before)) == "nothing new"


@pytest.mark.usefixtures("usual_interrupts")
def test_ctrl_c_while_waiting_ends_it(photos, fixed_settings, empty_cache, tmp_path):
    days = Days(lambda: signal.raise_signal(signal.SIGINT))
    assert len(run_watch(photos, tmp_path / "model", days, fixed_settings)) == 1
