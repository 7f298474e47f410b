import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from waiting import wait_until

from squeezetune.model.artifact import MODEL
from squeezetune.serving.limits import Access, Limits

TOKEN = "a-token-of-some-length"


def test_an_image_is_classified_as_in_python(running, classifier, files):
    for data in files:
        status, headers, answer = running.predict(data)
        [found] = answer["images"]
        expected = classifier.predict(data)
        assert status == 200
        assert headers["SqueezeTune-Model"] == answer["model"] == classifier.manifest.files[MODEL]
        assert found["label"] == expected.label
        assert found["confidence"] == pytest.approx(expected.confidence, abs=1e-6)
        assert found["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


def test_a_form_is_answered_in_its_order_and_goes_on_after_a_bad_image(
    running, classifier, files, write_form
):
    status, _, answer = running.predict(*write_form([*files[:5], b"no image", *files[5:]]))
    assert status == 200
    bad = answer["images"].pop(5)
    assert bad["error"]["code"] == "image"
    assert "not an image" in bad["error"]["message"]
    assert [found["label"] for found in answer["images"]] == [
        item.label for item in classifier.predict(files)
    ]


def test_many_clients_get_the_answers_to_their_own_images(running, classifier, files):
    def ask(at):
        return at, running.predict(files[at % len(files)], "image/png")[2]

    expected = classifier.predict_probabilities(files)
    with ThreadPoolExecutor(16) as pool:
        for at, answer in pool.map(ask, range(96)):
            shown = answer["images"][0]["probabilities"]
            row = [shown[name] for name in classifier.class_names]
            np.testing.assert_allclose(row, expected[at % len(files)], atol=1e-5)
    text = running.ask("GET", "/metrics")[2].decode()
    assert 'squeezetune_images_total{outcome="predicted"} 96' in text


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"", "image/png", 400, "bad-request"),
        (b"no image", "image/png", 422, "no-image"),
        (b"no image", "text/plain", 415, "wrong-type"),
        (b"no image", "multipart/form-data", 400, "bad-request"),
        (b"no form", "multipart/form-data; boundary=x", 400, "bad-request"),
        (b"--x--", "multipart/form-data; boundary=x", 400, "bad-request"),
        (bytes(200_001), "image/png", 413, "too-large"),
    ],
)
def test_what_is_refused_is_refused_in_one_shape(
    start_server, model_folder, body, kind, status, code
):
    with start_server(model_folder, Limits(body_bytes=200_000)) as running:
        found, _, answer = running.predict(body, kind)
    assert found == status
    assert answer["error"].keys() == {"code", "message", "hint"}
    assert answer["error"]["code"] == code
    assert answer["error"]["message"]


def test_encoded_bodies_are_refused(running, files):
    status, _, answer = running.predict(files[0], **{"Content-Encoding": "gzip"})
    assert (status, answer["error"]["code"]) == (415, "wrong-type")


def test_too_many_images_and_too_many_pixels(start_server, model_folder, files, write_form):
    with start_server(model_folder, Limits(images=3, pixels=5_000)) as running:
        status, _, answer = running.predict(*write_form(files[:4]))
        assert (status, answer["error"]["code"]) == (400, "too-many-images")
        status, _, answer = running.predict(files[0])
        assert (status, answer["error"]["code"]) == (422, "no-image")
        assert "at most 5,000 pixels" in answer["error"]["message"]
        assert running.predict(files[1])[0] == 200  # 64 x 64


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/predict", 405, "wrong-method"),
        ("PUT", "/predict", 405, "wrong-method"),
        ("POST", "/model", 405, "wrong-method"),
        ("GET", "/predict/", 404, "not-found"),
        ("GET", "/../../etc/passwd", 404, "not-found"),
        ("GET", "/%2e%2e/%00", 404, "not-found"),
    ],
)
def test_other_paths_and_methods(running, method, path, status, code):
    found, headers, answer = running.ask(method, path)
    assert (found, answer["error"]["code"]) == (status, code)
    assert status != 405 or headers["Allow"]


def test_a_token_is_asked_for_where_something_is_to_be_had(start_server, model_folder, files):
    with start_server(model_folder, access=Access(TOKEN)) as running:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for method, path in (("POST", "/predict"), ("GET", "/model"), ("GET", "/metrics")):
                status, shown, answer = running.ask(
                    method, path, files[0] if method == "POST" else None, headers
                )
                assert (status, answer["error"]["code"]) == (401, "no-token")
                assert shown["WWW-Authenticate"] == "Bearer"
        assert running.predict(files[0], Authorization=f"Bearer {TOKEN}")[0] == 200
        assert running.ask("GET", "/health")[0] == running.ask("GET", "/ready")[0] == 200
    assert TOKEN not in running.log.getvalue()


def test_the_model_is_described(running, classifier):
    status, _, answer = running.ask("GET", "/model")
    assert status == 200
    assert answer["classes"] == list(classifier.class_names)
    assert answer["file_bytes"] == classifier.model.stat().st_size
    assert answer["settings"] == json.loads(json.dumps(dict(classifier.manifest.settings)))


def test_a_request_is_a_line_without_what_was_sent(running, files, write_form):
    body, kind = write_form([files[0], b"secret content"], name=b"secret name")
    running.predict(body, kind)
    running.ask("GET", "/secret-file.jpg?secret=1")
    running.predict(b"x", "image/png")
    wait_until(lambda: len(running.lines()) == 4)  # a line comes behind the answer
    lines = [line for line in running.lines() if line["event"] == "request"]
    assert [(line["method"], line["path"], line["status"], line["images"]) for line in lines] == [
        ("POST", "/predict", 200, 2), ("GET", "other", 404, 0), ("POST", "/predict", 422, 1),
    ]  # fmt: skip
    assert lines[0]["bytes"] == len(body)
    assert lines[0].keys() == {
        "time",
        "event",
        "method",
        "path",
        "status",
        "ms",
        "bytes",
        "images",
        "model",
    }
    assert "secret" not in running.log.getvalue()


def test_a_failure_of_ours_is_told_as_such_and_logged(running, files, monkeypatch):
    monkeypatch.setattr("squeezetune.serving.models.prepare_pixels", lambda *given: 1 / 0)
    status, _, answer = running.predict(files[0])
    assert (status, answer["error"]["code"]) == (500, "internal")
    wait_until(lambda: "ZeroDivisionError" in running.log.getvalue())
    monkeypatch.undo()
    assert running.predict(files[0])[0] == 200


def test_the_page_for_people_loads_nothing(running):
    status, headers, page = running.ask("GET", "/docs")
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert b"://" not in page.replace(b"ADDRESS", b"")
    assert running.ask("GET", "/")[1]["Location"] == "docs"
