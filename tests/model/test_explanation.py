import numpy as np
import pytest
from PIL import Image

from squeezetune.errors import ArtifactError, ImageError, SettingsError
from squeezetune.model.classifier import Classifier, load
from squeezetune.model.explanation import Explainer, PictureFolder, explain, place_square


@pytest.fixture(scope="module")
def classifier(model_folder):
    return load(model_folder)


def test_the_heat_is_where_the_shape_is(classifier, draw_shape):
    shares = []
    for seed in range(3000, 3012):
        photo = draw_shape("disc", seed)
        heat = explain(classifier, photo).heat
        rng = np.random.default_rng((seed, 1))
        rng.integers(
            60, 200, (72, 80, 3), dtype=np.uint8
        )  # the noise, which the drawing begins with
        left, top = (int(x) for x in rng.integers(4, 28, 2))
        side = int(rng.integers(26, 40))
        inside = heat[top : top + side, left : left + side]
        shares.append(inside.mean() / heat.mean())
        assert heat.shape == (72, 80)
        assert heat.min() >= 0
        assert heat.max() == 1
    assert np.mean(shares) > 1.2


def test_any_class_can_be_asked_for(classifier, draw_shape):
    photo = draw_shape("box", 7)
    found = [explain(classifier, photo, name) for name in classifier.class_names]
    assert [each.label for each in found] == list(classifier.class_names)
    assert not np.allclose(found[0].heat, found[1].heat, atol=0.1)
    with pytest.raises(SettingsError, match="no class 'cube'"):
        explain(classifier, photo, "cube")


def test_pictures_are_photos_with_colour(classifier, draw_shape, tmp_path):
    draw_shape("spike", 5, 1200, 600).save(tmp_path / "large.png")
    picture = explain(classifier, tmp_path / "large.png").draw()
    assert (picture.mode, picture.size) == ("RGB", (480, 240))
    assert explain(classifier, draw_shape("spike", 5)).draw().size == (80, 72)


def test_what_cannot_be_explained(classifier, draw_shape):
    with pytest.raises(ImageError):
        Explainer(classifier).explain(b"no image", "box")
    with pytest.raises(ArtifactError, match="without a folder"):
        Explainer(Classifier(classifier.model, classifier.manifest)).explain(
            draw_shape("box", 1), "box"
        )


def test_a_square_goes_where_the_network_saw_it():
    square = np.zeros((8, 8), np.float32)
    square[2:6, :] = 1
    assert place_square(square, (16, 8), "squash").shape == (8, 16)
    np.testing.assert_allclose(
        place_square(square, (16, 8), "pad")[1:-1], 1
    )  # without the bars above and below
    cropped = place_square(np.ones((8, 8), np.float32), (16, 8), "crop")
    assert cropped[:, 4:12].min() == 1
    assert cropped[:, :4].max() == cropped[:, 12:].max() == 0


def test_pictures_go_into_a_folder_of_their_own(classifier, draw_shape, tmp_path):
    folder = PictureFolder(tmp_path / "pictures", Explainer(classifier))
    folder.check()
    one, other = (
        folder.add(draw_shape("box", 1), title, "box") for title in ("a/1 x.jpg", "b/1 x.jpg")
    )
    assert one != other
    assert one.name.startswith("1_x.jpg-")
    assert Image.open(one).size == (80, 72)
    folder.check()
    (tmp_path / "pictures" / "mine.jpg").write_bytes(b"a photo")
    with pytest.raises(SettingsError, match="holds something else"):
        folder.check()
