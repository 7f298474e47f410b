"""The chapter on exports in a model's report."""

import hashlib
import json
import re
import shutil

import pytest

from squeezetune.errors import ArtifactError
from squeezetune.events import Notice
from squeezetune.exporting.export_index import Export, Exports
from squeezetune.exporting.exports import export
from squeezetune.exporting.report_chapter import update_report
from squeezetune.exporting.runtimes import RuntimeBenchmark
from squeezetune.exporting.scoring import Score
from squeezetune.model import artifact
from squeezetune.model.artifact import MANIFEST, MODEL, REPORT, REPORT_PAGE, read_manifest
from squeezetune.model.classifier import load

SCORE = Score(179, 0.9777, (0.944, 0.991), -0.0112, (-0.031, 0.008), 0.994, 0.01, True)
TRIAL = RuntimeBenchmark(0.31, {"1": 512.0, "32": 1833.0}, 86.4)
ITEMS = (
    Export("onnx", "model.onnx", 2_990_000, {}, SCORE, TRIAL),
    Export("onnx-tiny", "model-tiny.onnx", 423_660, {}, None, None),
)


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "shapes-model")


@pytest.fixture
def exports(folder, tmp_path):
    return Exports(tmp_path / "<shapes>-export", read_manifest(folder).files[MODEL], ITEMS)


def read_files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_rows(folder):
    """Read the chapter's table as text."""
    [section] = re.findall(
        r'<section id="exports".*?</section>', (folder / REPORT_PAGE).read_text(), re.DOTALL
    )
    rows = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    return [
        [re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in rows
    ]


def test_the_report_shows_every_figure(folder, exports):
    update_report(folder, exports)
    first, second = read_rows(folder)[1:]
    assert first == [
        *(
            "onnx",
            "2.99\u00a0MB",
            "97.8\u00a0%",
            "94.4–99.1\u00a0%",
            "−1.12",
            "−3.1 to +0.8",
            "99.4\u00a0%",
        ),
        *("512", "1,833", "0.3\u00a0s", "86&nbsp;MB"),
    ]
    assert second == ["onnx-tiny", "0.42\u00a0MB", *["–"] * 9]
    page = (folder / REPORT_PAGE).read_text()
    assert '<a href="#exports">Exports</a>' in page
    assert "&lt;shapes&gt;-export" in page
    assert "<shapes>" not in page


def test_the_folder_stays_valid_and_the_rest_of_it_as_it_was(folder, exports):
    before, report = read_files(folder), {**load(folder).report, "exports": []}
    update_report(folder, exports)
    after = read_files(folder)
    assert {name for name in before if before[name] != after[name]} == {
        MANIFEST,
        REPORT,
        REPORT_PAGE,
    }
    assert after.keys() == before.keys()
    checksums = {
        name: hashlib.sha256(data).hexdigest() for name, data in after.items() if name != MANIFEST
    }
    assert read_manifest(folder).files == checksums
    found = load(folder).report
    assert [item["byte_count"] for item in found["exports"]] == [2_990_000, 423_660]
    assert {**found, "exports": []} == report


def test_a_later_export_takes_the_chapters_place(folder, exports):
    update_report(folder, exports)
    update_report(folder, exports)
    once = (folder / REPORT_PAGE).read_text()
    update_report(folder, Exports(exports.folder, exports.model_sha256, ITEMS[:1]))
    assert len(read_rows(folder)) == 2
    assert once.count('id="exports"') == once.count('href="#exports"') == 1


def test_an_export_puts_itself_into_the_report(folder, tmp_path):
    found = export(folder, ["onnx-fp16"], tmp_path / "out", measure=False)
    assert [row[0] for row in read_rows(folder)] == ["format", "onnx-fp16"]
    assert (
        json.loads((folder / REPORT).read_bytes())["exports"][0]["files"]
        == found["onnx-fp16"].files
    )


def test_a_report_that_cannot_be_written_is_told_and_the_export_is_there(
    folder, tmp_path, monkeypatch
):
    before, write_file = read_files(folder), artifact.write_file

    def write_elsewhere(path, *parts):
        if path.is_relative_to(folder):
            raise PermissionError(13, "Permission denied", str(path))
        write_file(path, *parts)

    monkeypatch.setattr(artifact, "write_file", write_elsewhere)
    heard = []
    found = export(folder, ["onnx-fp16"], tmp_path / "out", measure=False, listen=heard.append)
    assert found.find_path("onnx-fp16").is_file()
    [told] = [event.message for event in heard if isinstance(event, Notice)]
    assert told == f"the report in {folder} cannot be updated: Permission denied"
    assert read_files(folder) == before


@pytest.mark.parametrize("content", [None, b"<p>a page of somebody's own</p>", b"\xff\xfe"])
def test_a_page_without_a_place_for_it_is_left_alone(folder, exports, content):
    (folder / REPORT_PAGE).unlink()
    if content is not None:
        (folder / REPORT_PAGE).write_bytes(content)
    before = read_files(folder)
    with pytest.raises(ArtifactError):
        update_report(folder, exports)
    assert read_files(folder) == before


def test_another_models_report_is_left_alone(folder, exports):
    before = read_files(folder)
    with pytest.raises(ArtifactError, match="another model"):
        update_report(folder, Exports(exports.folder, "0" * 64, ITEMS))
    assert read_files(folder) == before
