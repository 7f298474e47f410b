"""The paths described for programs (OpenAPI) and for people.

By hand: five paths of which one takes a body are no reason for a framework that derives this from
types, and loads pydantic with it. schemathesis and a test compare what is described with what is
answered.
"""

import json
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from squeezetune.serving.limits import Limits
from squeezetune.serving.refusals import STATUSES
from squeezetune.serving.requests import BINARY, FORM
from squeezetune.serving.responses import VERSION_HEADER

TEXT: Mapping[str, Any] = {"type": "string"}
SHARE: Mapping[str, Any] = {"type": "number", "minimum": 0, "maximum": 1.001}  # sums of float32
ROUTES = {  # path -> what it does, what it answers
    "/model": ("Describe the model in use.", "ModelDescription"),
    "/health": ("Say that the process is alive.", "Status"),
    "/ready": ("Say that requests are taken.", "Status"),
}
PROTECTED = ("/model", "/metrics", "/predict")


def describe_api(limits: Limits, *, has_token: bool) -> dict[str, Any]:
    """Describe all paths, and what they take and answer."""
    paths = {
        path: {"get": _describe_get(text, _as_json(schema))}
        for path, (text, schema) in ROUTES.items()
    }
    paths["/ready"]["get"]["responses"]["503"] = _describe_refusal(503)
    paths["/metrics"] = {"get": _describe_get("Write what was done so far, for Prometheus.",
                                              {"text/plain": {"schema": TEXT}})}  # fmt: skip
    paths["/predict"] = {"post": _describe_predict(limits)}
    api: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "SqueezeTune",
            "version": version("squeezetune"),
            "description": "A trained image classifier. An image is JPEG, PNG, WebP, BMP, GIF or "
            "TIFF.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _describe_schemas()},
    }
    if has_token:
        api["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in PROTECTED:
            for operation in paths[path].values():
                operation["security"] = [{"token": []}]
                operation["responses"]["401"] = _describe_refusal(401)
    return api


def _describe_get(text: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": text,
        "responses": {"200": {"description": "The answer.", "content": content}},
    }


def _describe_predict(limits: Limits) -> dict[str, Any]:
    """Describe the path that classifies."""
    header = {VERSION_HEADER: {"description": "The SHA-256 of the model's file.", "schema": TEXT}}
    form = {
        "type": "object",
        "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"},
                                 "minItems": 1, "maxItems": limits.images}},
        "required": ["image"],
    }  # fmt: skip
    refused = sorted({status for name, status in STATUSES.items() if status != 499})
    return {
        "summary": "Classify one image, or several as the files of a form.",
        "description": f"A body has at most {limits.body_bytes:,} bytes and {limits.images} "
        "images, an image at most "
        f"{limits.pixels:,} pixels. Every file of a form is taken, whatever the name of its field.",
        "requestBody": {
            "required": True,
            "content": {
                BINARY: {"schema": {"type": "string", "format": "binary"}},
                "image/*": {"schema": {"type": "string", "format": "binary"}},
                FORM: {"schema": form},
            },
        },
        "responses": {
            "200": {
                "description": "At least one image was classified.",
                "headers": header,
                "content": _as_json("Answer"),
            },
            **{
                str(status): _describe_refusal(status)
                for status in refused
                if status not in (401, 404, 405)
            },
            "422": {
                "description": "None of the images can be read.",
                "headers": header,
                "content": _as_json("NoImage"),
            },
        },
    }


def _describe_refusal(status: int) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": _as_json("Refusal")}


def _as_json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _describe_record(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(fields),
        "required": list(fields),
        "additionalProperties": False,
    }


def _describe_schemas() -> dict[str, Any]:
    """Describe the records that are answered."""
    error = _describe_record(code=TEXT, message=TEXT, hint=TEXT)
    failed = _describe_record(error=error)
    predicted = _describe_record(
        label=TEXT,
        confidence=SHARE,
        probabilities={"type": "object", "additionalProperties": SHARE},
    )
    images = {"type": "array", "items": {"oneOf": [predicted, failed]}}
    table: dict[str, Any] = {"type": "object"}
    number = {"type": "integer"}
    return {
        "Answer": _describe_record(model=TEXT, images=images),
        "NoImage": _describe_record(
            error=error, model=TEXT, images={"type": "array", "items": failed}
        ),
        "Refusal": failed,
        "Status": {**_describe_record(status=TEXT, model=TEXT), "required": ["status"]},
        "ModelDescription": _describe_record(
            model=TEXT,
            classes={"type": "array", "items": TEXT},
            created=TEXT,
            squeezetune=TEXT,
            image_side=number,
            resize=TEXT,
            file_bytes=number,
            settings=table,
            weights=table,
        ),
    }


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
pre { background: #f4f4f4; padding: 1rem; overflow: auto }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; vertical-align: top }
@media (prefers-color-scheme: dark) {
  body { background: #111; color: #ddd } pre { background: #222 } a { color: #8bf }
}
"""  # noqa: E501
SCRIPT = """
const [form, out] = ["form", "output"].map(name => document.querySelector(name));
form.onsubmit = async event => {
  event.preventDefault();
  const token = form.token.value, body = new FormData();
  for (const file of form.image.files) body.append("image", file);
  out.textContent = "...";
  try {
    const headers = token ? {Authorization: "Bearer " + token} : {};
    const answer = await fetch("predict", {method: "POST", body, headers});
    out.textContent = answer.status + " " + JSON.stringify(await answer.json(), null, 1);
  } catch (error) { out.textContent = String(error); }
};
"""


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


# only this very script and this very style, and requests to this server
CONTENT_POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; connect-src "
    "'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def write_docs_page(api: Mapping[str, Any]) -> str:
    """Write the page from the description of the paths."""
    rows = "".join(
        f"<tr><td><code>{method.upper()} {escape(path)}</code><td>{escape(operation['summary'])}"
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    )
    predict = api["paths"]["/predict"]["post"]
    answers = "".join(
        f"<tr><td>{status}<td>{escape(answer['description'])}"
        for status, answer in sorted(predict["responses"].items())
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>SqueezeTune</title><style>{STYLE}</style>
<h1>SqueezeTune</h1>
<p>{escape(api["info"]["description"])} For programs: <a href="openapi.json">openapi.json</a>.</p>
<table>{rows}</table>
<h2>Try it</h2>
<form><p><input type="file" name="image" multiple required accept="image/*" aria-label="Photos">
<input type="password" name="token" placeholder="token, if one is asked for" autocomplete="off"
  aria-label="Token">
<button>Classify</button></form>
<pre><output>The answer comes here.</output></pre>
<h2>From a terminal</h2>
<pre>{escape(_EXAMPLES)}</pre>
<h2>Answers to POST /predict</h2>
<p>{escape(predict["description"])}</p>
<table>{answers}</table>
<p>Refusals have one shape:</p>
<pre>{escape(json.dumps({"error": {"code": "too-large", "message": "...", "hint": "..."}}))}</pre>
<script>{SCRIPT}</script></html>
"""


_EXAMPLES = """curl -F image=@photo.jpg ADDRESS/predict
curl -F image=@a.jpg -F image=@b.png ADDRESS/predict
curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg ADDRESS/predict
curl -H 'Authorization: Bearer TOKEN' -F image=@photo.jpg ADDRESS/predict"""
