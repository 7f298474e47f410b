"""The report page and the plots: what they show, what they escape, and how large they get."""

import base64
import copy
import io
import json
import re
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from example_history import ONE_EPOCH, STAGES, THREE_STAGES
from PIL import Image

from squeezetune.quantities import format_share, format_time_taken
from squeezetune.report.curves import write_csv
from squeezetune.report.plots import draw_plots
from squeezetune.report.rendering import format_range
from squeezetune.report.training_page import (
    GALLERY_LIMIT,
    describe_settings,
    list_times,
    make_plots,
    render_report,
)
from squeezetune.settings import Settings

HOSTILE = [
    "<script>alert(1)</script>",
    "quo\"ted' & <b>bold</b>",
    "line\nbreak\ttab",
    "苹果と犬",
    "🍎🍐 emoji",
    "$x^2_{broken$ and \\frac",
    "a-very-" + "long-" * 40 + "name",
    "undecodable \udcff\x00 byte",
    "\u202ereversed",
    "{{ 7 * 7 }}",
]


def make_confusion(count, per_class=40, mistakes=0, seed=0):
    rng = np.random.default_rng(seed)
    confusion = np.diag([per_class] * count)
    for true, predicted in rng.integers(0, count, (mistakes, 2)):
        if true != predicted and confusion[true, true]:
            confusion[true, true] -= 1
            confusion[true, predicted] += 1
    return confusion


def find_interval(correct, count):
    """Wilson's 95 % interval."""
    share, z = correct / count, 1.96
    centre, spread = (
        share + z * z / (2 * count),
        z * (share * (1 - share) / count + z * z / (4 * count**2)) ** 0.5,
    )
    return [
        max((centre - spread) / (1 + z * z / count), 0),
        min((centre + spread) / (1 + z * z / count), 1),
    ]


def make_per_class(names, confusion):
    rows = []
    for index, name in enumerate(names):
        total, said = int(confusion[index].sum()), int(confusion[:, index].sum())
        correct = int(confusion[index, index])
        recall = correct / total if total else None
        precision = correct / said if said else None
        f1 = 2 * correct / (total + said) if total + said else None
        interval = find_interval(correct, total) if total else None
        counts = {"train": 8 * total, "validation": total, "test": total, "correct": correct}
        scores = {"precision": precision, "recall": recall, "recall_interval": interval, "f1": f1}
        rows.append({"name": name, **counts, **scores})
    return rows


def make_pairs(names, confusion):
    found = [(int(confusion[t, p]), t, p) for t, p in np.argwhere(confusion > 0) if t != p]
    found.sort(reverse=True)
    return [{"true": names[t], "predicted": names[p], "count": count,
             "share": count / int(confusion[t].sum())}
            for count, t, p in found[:20]]  # fmt: skip


def make_records(names, confusion):
    pairs = [(t, p) for t, p in np.argwhere(confusion > 0) if t != p]
    return [{"image": f"{names[t]}/{index:04}.jpg", "true": names[t], "predicted": names[p],
             "confidence": 0.93 - 0.01 * (index % 40), "true_confidence": 0.05, "correct": False}
            for index, (t, p) in enumerate(pairs[:60])]  # fmt: skip


def find_usual(names, confusion):
    totals = confusion.sum(axis=1)
    share = float(totals.max() / totals.sum())
    is_unequal = bool(totals.max() > 1.5 * totals.min())
    return {"name": names[int(totals.argmax())], "share": share, "is_unequal": is_unequal}


def make_test(names, confusion):
    count, correct = int(confusion.sum()), int(np.trace(confusion))
    accuracy = correct / count
    return {
        "count": count, "correct": correct, "accuracy": accuracy,
        "interval": find_interval(correct, count),
        "groups": None, "cross_validation": None,
        "usual": find_usual(names, confusion), "macro_f1": 0.876,
        "balanced_accuracy": accuracy, "calibration_error": 0.034,
        "top_k": {"k": 5, "accuracy": 0.998, "interval": [0.99, 1.0]} if len(names) > 5 else None,
        "reliability": [
            {"low": 0.4, "high": 0.5, "confidence": 0.46, "accuracy": 0.35, "count": 12},
            {"low": 0.5, "high": 0.6, "confidence": None, "accuracy": None, "count": 0},
            {"low": 0.6, "high": 0.7, "confidence": 0.66, "accuracy": 0.55, "count": 24},
            {"low": 0.7, "high": 0.8, "confidence": 0.76, "accuracy": 0.71, "count": 31},
            {"low": 0.9, "high": 1.0, "confidence": 0.98, "accuracy": 0.99, "count": 300},
        ],
        "confusion": confusion.tolist(),
        "per_class": make_per_class(names, confusion),
        "confused_pairs": make_pairs(names, confusion),
        "warnings": [f"class {names[0]!r} has only 2 test images: its figures say little"],
    }  # fmt: skip


def make_data(names, count):
    return {
        "source": "photos", "images": 10 * count, "classes": len(names),
        "parts": {"train": 8 * count, "validation": count, "test": count},
        "duplicates": 12, "near_duplicates": 3, "groups": None, "unevenness": 0.012,
        "leaks": {"validation": 1, "test": 2,
                  "test_without": {"accuracy": 0.9, "low": 0.8, "high": 0.95, "images": 98}},
        "fingerprint": "ab12" * 8,
        "side": {"smallest": 256, "median": 480, "largest": 4000},
        "skipped": [{"name": "cat/broken.jpg", "reason": "the file is truncated"}],
    }  # fmt: skip


MODEL = {
    "network": "SqueezeNet 1.1, frozen",
    "weights": {
        "network": "SqueezeNet 1.1",
        "origin": "<mine>.pth",
        "license": "CC0-1.0",
        "sha256": "cd34" * 16,
    },
    "head": "hidden layer of 512",
    "views": "image and mirror image",
    "image_side": 224,
    "resize": "squash",
    "engine": "onnxruntime int8",
    "regularisation": 0.003,
    "temperature": 1.2,
    "file_bytes": 1512345,
    "agreement": {"top1": 1.0, "mean_difference": 0.003},
    "candidates": [
        {"name": "linear, image", "validation_accuracy": 0.985, "seconds": 1.2, "chosen": False},
        {
            "name": "linear, both images",
            "validation_accuracy": 0.991,
            "seconds": 2.1,
            "chosen": False,
        },
        {
            "name": "hidden layer of 512",
            "validation_accuracy": 0.994,
            "seconds": 9.4,
            "chosen": True,
        },
    ],
}
RUN = {
    "command": "squeezetune train photos --seed 0",
    "settings": {
        "effort": "balanced",
        "seed": 0,
        "validation": 0.1,
        "group_by": "",
        "image_side": 224,
    },
    "timings": [
        {"stage": "reading", "seconds": 0.4},
        {"stage": "features", "seconds": 9.8},
        {"stage": "head", "seconds": 3.2},
        {"stage": "evaluation", "seconds": 0.8},
    ],
    "total_seconds": 14.2,
    "memory": {"peak_mb": 512},
    "machine": {
        "processor": "Example CPU at 2.4 GHz",
        "cores": 2,
        "system": "Linux",
        "python": "3.11.7",
        "packages": {"onnxruntime": "1.32.0", "numpy": "2.4.6"},
    },
}
HISTORY = [
    {"epoch": epoch, "train_accuracy": 1 - 0.4 / epoch, "validation_accuracy": 1 - 0.45 / epoch,
     "train_loss": 1.4 / epoch}
    for epoch in range(1, 9)
]  # fmt: skip


def make_report(
    names=("apple", "car", "cow", "cup", "dog", "horse", "pear", "tomato"), mistakes=14, **changes
):
    names = list(names)
    confusion = make_confusion(len(names), mistakes=mistakes)
    test = make_test(names, confusion)
    records = make_records(names, confusion)
    sure = [
        {
            "image": f"right/{index}.jpg",
            "true": name,
            "predicted": name,
            "confidence": 0.41,
            "true_confidence": 0.41,
            "correct": True,
        }
        for index, name in enumerate(names[:4])
    ]
    report = {
        "format": 1, "title": "flowers", "created": "2026-11-23T10:00:00Z", "version": "0.1.0",
        "class_names": names, "test": test, "mistakes": records, "unsure": sure + records[:3],
        "data": make_data(names, test["count"]), "model": MODEL, "history": [],
    }  # fmt: skip
    return copy.deepcopy({**report, **RUN, **changes})


class Page(HTMLParser):
    """What a browser would see: text, tags, attributes; complains where tags are not closed in
    order.
    """

    VOID = frozenset({"meta", "link", "input", "img", "br"})
    INLINE = frozenset({"bdi", "strong", "small", "code", "span"})

    def __init__(self, source):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID and not self.get_starttag_text().endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.texts.append("" if tag in self.INLINE else " ")

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def find(self, tag, **wanted):
        return [
            found for name, found in self.tags if name == tag and wanted.items() <= found.items()
        ]


def make_thumbnails(report):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(stream, "JPEG")
    return {record["image"]: stream.getvalue() for record in report["mistakes"] + report["unsure"]}


def read_matrix(source):
    rows = re.findall(
        r'<tr><th scope="row">(?:(?!</tr>).)*class="count".*?</tr>', source, re.DOTALL
    )
    return [
        [int(number.replace(",", "")) for number in re.findall(r'class="count">([\d,]+)<', row)]
        for row in rows
    ]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.9968, "99.7 %"),
        (0.99995, "99.9 %"),
        (1, "100 %"),
        (0, "0 %"),
        (0.00001, "0.1 %"),
        (None, "–"),
    ],
)
def test_only_what_is_all_or_nothing_reads_so(share, text):
    assert format_share(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (99.9, "99.9 s"), (200, "3 min"), (7500, "2 h 5 min"), (None, "–")],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert format_time_taken(seconds) == text


def test_a_range_of_shares_has_one_unit():
    assert format_range([0.983, 0.9995]).replace("\u00a0", " ") == "98.3–99.9 %"
    assert format_range([0.9, 1]).replace("\u00a0", " ") == "90.0–100 %"


def test_the_page_shows_the_figures_of_the_report():
    report = make_report(mistakes=1)
    report["test"] |= {"accuracy": 0.9969, "interval": [0.983, 0.9995], "balanced_accuracy": 0.981}
    text = Page(render_report(report, {})).text
    for words in (
        "99.7 % of 320 test images, set aside from the start",
        "95 % interval is 98.3–99.9 %",
        "98.1 %",
        "3.4 points",
        "3,200",
        "14.2 s",
        "1.5 MB",
        "class 'apple' has only 2 test images",
        "squeezetune train photos --seed 0",
        "cat/broken.jpg the file is truncated",
        "12, of the same bytes",
        "near-duplicates 3",
        "2 of 320 test photos have a copy",
        "On the other 98",
        "hidden layer of 512 99.4 % 9.4 s ✓ chosen",
        "Looking at the photos 9.8 s",
        "512 MB",
        "onnxruntime 1.32.0",
        "effort balanced",
        "Always saying “apple” would reach 12.5 %",
    ):
        assert words in text


def test_confused_pairs_and_classes_are_told_in_words():
    report = make_report(["cow", "horse"], mistakes=0)
    test = make_test(["cow", "horse"], np.array([[38, 2], [0, 40]]))
    text = Page(render_report({**report, "test": test}, {})).text
    assert "cow was taken for horse twice 5.0 % of its test images" in text
    assert "cow 320 40 40 100 % 95.0 % 83.5–98.6 % 97.4 %" in text


def test_the_matrix_holds_every_count():
    report = make_report(mistakes=40)
    confusion = report["test"]["confusion"]
    assert [row[:8] for row in read_matrix(render_report(report, {}))] == confusion


def test_a_large_matrix_shows_the_confused_and_the_weak_classes():
    report = make_report([f"class-{index:03}" for index in range(100)], mistakes=300)
    source = render_report(report, {})
    names = re.findall(
        r'<tr><th scope="row"><bdi [^>]*title="(class-\d+)">\S+</bdi></th><td class', source
    )
    assert len(names) == 20
    assert names == sorted(names)
    worst = report["test"]["confused_pairs"][0]
    assert {worst["true"], worst["predicted"]} <= set(names)


def test_a_large_matrix_is_painted_whole():
    report = make_report([f"class-{index:03}" for index in range(100)], mistakes=300)
    [picture] = [
        found
        for found in Page(render_report(report, {})).find("img")
        if "matrix of all" in found["alt"]
    ]
    payload = base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))
    cells = np.asarray(Image.open(io.BytesIO(payload)))[4::8, 4::8]  # the middle of each square
    confusion = np.array(report["test"]["confusion"], float)
    shares = confusion / confusion.sum(axis=1, keepdims=True)
    assert cells.shape == (100, 100, 4)
    np.testing.assert_array_equal(cells[..., 3] > 0, shares > 0)
    order = np.argsort(shares, axis=None)
    assert (
        np.diff(cells[..., 3].ravel()[order].astype(int)) >= 0
    ).all()  # the larger the share, the stronger
    assert cells[..., 3].max() > 240
    blue, red = cells[..., 2].astype(int), cells[..., 0].astype(int)
    assert (np.diagonal(blue) > np.diagonal(red)).all()
    assert (blue < red).sum() == 100 * 99


@pytest.mark.parametrize("count", [25, 26, pytest.param(1000, marks=pytest.mark.slow)])
def test_only_a_large_matrix_is_painted(count):
    source = render_report(make_report([f"class-{index:04}" for index in range(count)]), {})
    assert ("Confusion matrix of all" in source) == (count > 25)
    assert len(source) < 2_000_000


def test_rows_of_a_large_matrix_are_complete():
    report = make_report([f"class-{index:03}" for index in range(100)], mistakes=900)
    for *cells, others in read_matrix(render_report(report, {})):
        assert sum(cells) + others == 40


@pytest.mark.slow
def test_a_thousand_classes_stay_small_and_whole():
    report = make_report([f"class {index}" for index in range(1000)], mistakes=9000)
    thumbnails = {
        record["image"]: b"x" * 10_000 for record in report["mistakes"] + report["unsure"]
    }
    source = render_report(report, thumbnails)
    assert len(source) < 2_000_000
    assert all(f">class {index}</bdi></th>" in source for index in range(1000))
    assert "The other 975 classes" in Page(source).text


def test_hostile_names_are_text_and_nothing_else():
    report = make_report(HOSTILE, mistakes=40, command=HOSTILE[0], title=HOSTILE[1])
    report["test"]["warnings"] = list(HOSTILE)
    report["data"]["skipped"] = [{"name": name, "reason": name} for name in HOSTILE]
    report["settings"] = {name: name for name in HOSTILE}
    source = render_report(report, make_thumbnails(report))
    page = Page(source)
    assert "script" not in {tag for tag, _ in page.tags}
    assert {name for found in page.find("bdi") for name in found} == {"class", "title"}
    assert {name for name in HOSTILE if name.isprintable()} <= {
        found["title"] for found in page.find("bdi")
    }
    assert page.text.count("<script>alert(1)</script>") > 5
    assert "undecodable \ufffd\ufffd byte" in page.text
    assert b"\x00" not in source.encode()


def test_hostile_names_add_no_tags():
    hostile, tame = (
        make_report(HOSTILE, mistakes=20),
        make_report([f"n{i}" for i in range(10)], mistakes=20),
    )
    tags = [[tag for tag, _ in Page(render_report(report, {})).tags] for report in (hostile, tame)]
    assert tags[0] == tags[1]


def test_the_page_needs_no_network():
    report = make_report(history=HISTORY)
    source = render_report(report, make_thumbnails(report))
    loading = {"src", "href", "srcset", "action"}
    targets = [
        value for _, found in Page(source).tags for key, value in found.items() if key in loading
    ]
    assert len(targets) > 10
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"url\(|@import|https?://", source)
    assert "default-src 'none'" in source


def test_links_of_the_contents_lead_somewhere():
    page = Page(render_report(make_report(), {}))
    places = {found["id"] for _, found in page.tags if "id" in found}
    assert {found["href"][1:] for found in page.find("a")} <= places


def test_the_page_is_made_for_everybody():
    report = make_report(mistakes=40)
    page = Page(render_report(report, make_thumbnails(report)))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(found.get("scope") in ("row", "col") for found in page.find("th"))
    assert all(found["alt"] for found in page.find("img"))
    assert all(found.get("aria-label") or found.get("aria-hidden") for found in page.find("svg"))
    assert page.find("html", lang="en")
    assert page.find("meta", name="viewport")


def test_mistakes_are_shown_with_their_pictures():
    report = make_report(mistakes=5)
    thumbnails = make_thumbnails(report)
    del thumbnails[report["unsure"][0]["image"]]
    page = Page(render_report(report, thumbnails))
    assert len(page.find("img")) == len(report["mistakes"]) + len(report["unsure"]) - 1
    assert "no preview" in page.text
    first = report["mistakes"][0]
    assert f"said {first['predicted']} 93.0 %" in page.text
    assert f"is {first['true']} 5.0 %" in page.text
    assert "✓ right" in page.text


def test_galleries_are_limited():
    report = make_report(mistakes=300)
    page = Page(render_report({**report, "unsure": []}, make_thumbnails(report)))
    assert len(page.find("img")) == GALLERY_LIMIT
    assert f"here are {GALLERY_LIMIT} of them" in page.text


def test_a_perfect_score_gets_a_sober_sentence():
    report = make_report(["cat", "dog"], mistakes=0)
    page = Page(render_report(report, {}))
    assert "There are none: all 80 test images are named right" in page.text
    assert "as low as 95.4 %" in page.text
    assert "Most confused" not in page.text


def test_the_history_is_drawn_only_where_there_is_one():
    assert not Page(render_report(make_report(), {})).find("polyline")
    page = Page(render_report(make_report(history=HISTORY), {}))
    curves = [found["points"] for found in page.find("polyline")]
    points = np.array(
        [point.split(",") for curve in curves for point in curve.split()], dtype=float
    )
    assert len(curves) == 3
    assert len(points) == 24
    assert points.min() >= 0
    assert points[:, 0].max() <= 300
    assert points[:, 1].max() <= 100
    assert "validation accuracy, at last 94.4 %" in page.text


def test_stages_are_marked_and_named_on_the_curves():
    source = render_report(make_report(history=THREE_STAGES), {})
    page = Page(source)
    labels = [found.get("aria-label", "").split(";")[0] for found in page.find("svg")]
    assert {"accuracy over 19 epochs", "loss over 19 epochs"} <= set(labels)
    for name in ("frozen head", "last blocks", "all layers"):
        assert source.count(f">{name}</text>") == 2
    assert "plots/training.csv" in page.text
    assert page.find("a", href="#training")


def test_a_single_epoch_is_seen_as_a_dot():
    page = Page(render_report(make_report(history=ONE_EPOCH), {}))
    knots = [found for found in page.find("circle") if found["class"].startswith("knot")]
    assert [found["cx"] for found in knots] == ["150.0"] * 4


def test_stages_are_compared_with_their_intervals():
    page = Page(render_report(make_report(stages=STAGES), {}))
    for words in (
        "frozen head 84.5 % 82.1–86.6 % 84.1 % 81.7–86.2 % 21.4 s",
        "last 4 blocks all layers are better by 22 of 1,000 images 86.2 % 83.9–88.2 % – – 80.2 s",
        "all layers at 128 px 88.4 % 86.3–90.2 % 87.9 % 85.7–89.8 % 9 min ✓ kept",
    ):
        assert words in page.text
    assert page.text.count("✓ kept") == 1


@pytest.mark.parametrize("changes", [{}, {"stages": []}], ids=["an earlier report", "no stages"])
def test_without_stages_and_epochs_there_is_no_section_for_them(changes):
    page = Page(render_report(make_report(**changes), {}))
    assert "Stage by stage" not in page.text
    assert not page.find("section", id="training")
    assert not page.find("a", href="#training")


def make_gaps():
    """A report in which everything that may be unknown is unknown, and one class has no test
    images.
    """
    names = ["cat", "dog", "never seen"]
    test = make_test(names, np.array([[40, 0, 0], [1, 39, 0], [0, 0, 0]]))
    test |= {"top_k": None, "calibration_error": None, "reliability": [], "warnings": []}
    model = {**MODEL, "agreement": None, "regularisation": None, "candidates": []}
    one_epoch = [{"epoch": 1, "train_accuracy": 0.5, "validation_accuracy": None}]
    return make_report(names, test=test, model=model, memory={"peak_mb": None}, history=one_epoch)


def test_what_is_unknown_is_left_open():
    page = Page(render_report(make_gaps(), {}))
    assert "never seen 0 0 0 – – – –" in page.text
    assert "Not measured." in page.text
    assert "MB of memory" not in page.text


def test_long_lists_of_skipped_files_are_folded():
    report = make_report()
    report["data"]["skipped"] = [
        {"name": f"{index}.jpg", "reason": "empty"} for index in range(1000)
    ]
    text = Page(render_report(report, {})).text
    assert "997 more skipped files" in text
    assert "499.jpg" in text
    assert "500.jpg" not in text


@pytest.mark.parametrize(
    ("excess", "words"),
    [(0.08, "clearly too sure of itself"), (-0.03, "a little too modest"), (0.001, "at its word")],
)
def test_calibration_is_told_in_words(excess, words):
    report = make_report()
    bins = [{"low": 0.8, "high": 0.9, "confidence": 0.85 + excess, "accuracy": 0.85, "count": 100}]
    report["test"] |= {"calibration_error": abs(excess), "reliability": bins}
    assert words in Page(render_report(report, {})).text


def test_rendering_leaves_the_report_alone():
    report = make_report(mistakes=40)
    before = copy.deepcopy(report)
    render_report(report, {})
    draw_plots(report)
    assert report == before


# ---- plots ----


def test_without_matplotlib_there_is_the_table_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = make_report(history=HISTORY)
    assert make_plots(report) == {"training.csv": write_csv(HISTORY)}
    assert make_plots(make_report()) == {}


@pytest.mark.slow
def test_with_matplotlib_there_are_the_plots_too():
    report = make_report(history=HISTORY)
    assert make_plots(report) == draw_plots(report) | {"training.csv": write_csv(HISTORY)}


def read_sizes(plots):
    images = {
        name: Image.open(io.BytesIO(payload))
        for name, payload in plots.items()
        if not name.endswith(".csv")
    }
    assert {image.format for image in images.values()} == {"PNG"}
    assert {round(image.info["dpi"][0]) for image in images.values()} == {200}
    return {name: image.size for name, image in images.items()}


def test_every_plot_is_drawn_at_its_size():
    assert read_sizes(draw_plots(make_report([f"n{i}" for i in range(10)], history=HISTORY))) == {
        "confusion_matrix.png": (1640, 1440),
        "confusion_matrix_normalised.png": (1640, 1440),
        "precision_recall.png": (1200, 960),
        "training.png": (1400, 980),
    }


@pytest.mark.parametrize("count", [2, pytest.param(1000, marks=pytest.mark.slow)])
def test_plots_of_any_number_of_classes_fit_a_page(count):
    sizes = read_sizes(
        draw_plots(make_report([f"class {index}" for index in range(count)], mistakes=count))
    )
    assert ("confusion_matrix_normalised.png" in sizes) == (count <= 30)
    assert "training.png" not in sizes
    assert all(200 < side <= 2400 for size in sizes.values() for side in size)


def test_unknown_scores_are_drawn_as_gaps():
    assert "training.png" in read_sizes(draw_plots(make_gaps()))


def test_hostile_names_are_drawn_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_plots(make_report(HOSTILE, mistakes=20))


def test_figures_of_the_matrix_are_those_of_the_report(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.text", lambda axes, x, y, text, **_: drawn.append((y, x, text))
    )
    draw_plots(
        make_report(["cat", "dog"], test=make_test(["cat", "dog"], np.array([[39, 1], [0, 40]])))
    )
    assert drawn == [
        (0, 0, "39"),
        (0, 1, "1"),
        (1, 1, "40"),
        (0, 0, "97.5"),
        (0, 1, "2.5"),
        (1, 1, "100"),
    ]


def test_drawing_changes_no_setting_of_matplotlib():
    before = dict(matplotlib.rcParams)
    draw_plots(make_report(["cat", "dog"]))
    assert dict(matplotlib.rcParams) == before


def test_drawing_needs_no_pyplot():
    script = (
        "import json, sys; from squeezetune.report.training_page import make_plots; "
        "make_plots(json.load(sys.stdin)); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    report = json.dumps(make_report(["cat", "dog"], history=HISTORY))
    assert (
        subprocess.run(
            [sys.executable, "-c", script], input=report, text=True, check=False
        ).returncode
        == 0
    )


def test_the_ceiling_of_memory_is_told_where_there_was_one():
    page = Page(
        render_report(make_report(memory={"peak_mb": 900, "held_mb": 512, "ceiling_mb": 600}), {})
    )
    assert "512 MB of memory held at most, under a ceiling of 600 MB" in page.text.replace(
        "\xa0", " "
    )
    free = Page(
        render_report(make_report(memory={"peak_mb": 900, "held_mb": 512, "ceiling_mb": None}), {})
    )
    assert "ceiling" not in free.text


# ---- folds and unequal classes


def make_folded_report(done=5, repeats=None):
    report = make_report(mistakes=2)
    folds = [
        {
            "repeat": 1,
            "fold": n + 1,
            "images": 64,
            "correct": 60 + n % 4,
            "accuracy": (60 + n % 4) / 64,
        }
        for n in range(done)
    ]
    report["test"]["cross_validation"] = {
        "name": "5-fold cross-validation",
        "is_automatic": True,
        "planned": 5,
        "images": 64 * done,
        "folds": folds,
        "mean": 0.957,
        "deviation": 0.0123,
        "repeats": repeats,
    }
    report["data"]["parts"] = {"train": 3200, "validation": 0, "test": 0}
    return report


def test_a_page_of_folds_says_who_measured():
    text = Page(render_report(make_folded_report(), {})).text
    for words in (
        "of 320 images are named right",
        "Measured by 5-fold cross-validation: every image was predicted by a model that had not "
        "seen it; "
        "the file itself was trained on all of them.",
        "mean 95.7 %, standard deviation 1.2 points",
        "too few to hold any back for choices",
        "--folds none",
    ):
        assert words in text
    assert "set aside from the start" not in text
    assert "The test part was set aside" not in text


def test_a_page_of_folds_that_were_stopped_says_so():
    text = Page(render_report(make_folded_report(done=2), {})).text
    assert "stopped after 2 of 5 folds: each of these images was predicted" in text
    assert "Stopped early: 2 of 5 trainings were made" in text


def test_repeats_have_their_own_spread():
    repeats = {"accuracies": [0.95, 0.96], "mean": 0.955, "deviation": 0.007}
    text = Page(render_report(make_folded_report(repeats=repeats), {})).text
    assert "Over 2 repeats: mean 95.5 %, standard deviation 0.7 points." in text
    assert "1 of repeat 1" in text


def test_unequal_classes_show_macro_f1_and_the_baseline():
    report = make_report(mistakes=1)
    report["test"]["usual"] = {"name": "apple", "share": 0.999, "is_unequal": True}
    report["test"]["macro_f1"] = 0.512
    text = Page(render_report(report, {})).text
    assert "Macro F1 51.2 %" in text
    assert "Always saying “apple” would reach 99.9 %, and 12.5 % balanced" in text
    assert "Macro F1" not in Page(render_report(make_report(mistakes=1), {})).text


def test_an_interval_over_groups_is_called_one():
    report = make_report(mistakes=1)
    report["test"]["groups"] = 24
    assert re.search("interval is [^ ]+ %, over 24 groups", Page(render_report(report, {})).text)


def test_settings_are_told_with_what_was_taken_for_them():
    report = make_report()
    report["settings"] = Settings().to_dict()
    report["model"] |= {"engine": "openvino int8", "image_side": 128, "views": "image alone"}
    words = describe_settings(report)
    assert words["image_side"] == "automatic: 128 px"
    assert words["engine"] == "automatic: openvino"
    assert words["precision"] == "automatic: int8"
    assert words["views"] == "automatic: image alone"
    assert words["threads"] == "automatic: one for each physical core"
    assert (words["validation"], words["seed"], words["budget"]) == ("10\u00a0%", "0", "none")
    assert not {"classifier_norm", "last_blocks", "repeats", "recipe"} & set(
        words
    )  # they meant nothing here
    report["settings"] |= {"image_side": 224, "engine": "onnxruntime", "recipe": "original"}
    given = describe_settings(report)
    assert (given["image_side"], given["engine"], given["classifier_norm"]) == (
        "224",
        "onnxruntime",
        "batch",
    )


def test_the_table_of_time_adds_up():
    report = make_report()
    report["timings"] = [
        {"stage": "reading", "seconds": 1.0},
        {"stage": "preparing", "seconds": 8.2},
    ]
    report["total_seconds"] = 12.0
    times = list_times(report)
    assert [item["stage"] for item in times] == ["Reading the photos", "Preparing", "All else"]
    assert sum(item["seconds"] for item in times) == pytest.approx(12.0)
