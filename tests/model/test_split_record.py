import numpy as np
import pytest
from safetensors.numpy import save

from squeezetune.data.index import index_photos
from squeezetune.data.inputs import PhotoInput
from squeezetune.data.split import split_index
from squeezetune.errors import ArtifactError
from squeezetune.model.artifact import read_manifest
from squeezetune.model.split_record import NAMES, PARTS, pack_parts, read_parts


def test_parts_are_found_again_wherever_the_photos_lie_now(photo_folder, tmp_path, executor):
    index = index_photos(photo_folder, executor=executor)
    split = split_index(index, validation=0.2, test=0.2, seed=0)
    (tmp_path / PARTS).write_bytes(pack_parts(index, split, PhotoInput(photo_folder, "", "path=a")))
    for number, path in enumerate(sorted(photo_folder.rglob("*.jpg"))):
        path.rename(path.with_name(f"renamed-{29 - number:02}.jpg"))
    gone = photo_folder / index.names[0].replace("0.jpg", "renamed-29.jpg")
    gone.unlink()
    again = index_photos(photo_folder, executor=executor)
    parts = read_parts(tmp_path)
    assert parts.origin == {"source": str(photo_folder), "class_pattern": "", "columns": "path=a"}
    found = {
        name: {digest.tobytes() for digest in again.digests[parts.find(again, name)]}
        for name in NAMES
    }
    lost = index.digests[0].tobytes()
    for name in NAMES:
        wanted = {digest.tobytes() for digest in index.digests[getattr(split, name)]}
        assert found[name] == wanted - {lost}
        assert parts.count_missing(again, name) == (lost in wanted)


def test_a_model_says_which_photos_measured_it(model_folder, shape_folder, executor):
    parts = read_parts(model_folder)
    index = index_photos(shape_folder, executor=executor)
    data = read_manifest(model_folder).data
    assert {name: len(parts.find(index, name)) for name in NAMES} == {
        name: data[name] for name in NAMES
    }
    assert parts.origin["source"] == str(shape_folder)


@pytest.mark.parametrize(
    "payload", [b"", b"photo" * 20, save({"train": np.zeros((3, 16), np.uint8)})]
)
def test_a_damaged_file_is_told(tmp_path, payload):
    (tmp_path / PARTS).write_bytes(payload)
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_parts(tmp_path)


def test_a_model_of_an_earlier_version_does_not_say(tmp_path):
    with pytest.raises(ArtifactError, match="does not say which photos"):
        read_parts(tmp_path)
