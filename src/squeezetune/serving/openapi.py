"""The server's description for other programs, in OpenAPI 3.1."""

from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from squeezetune.serving.answers import VERSION_HEADER
from squeezetune.serving.bodies import BINARY, FORM
from squeezetune.serving.limits import Limits
from squeezetune.serving.refusals import STATUSES

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
    paths = {path: {"get": _describe_get(text, _as_json(schema))} for path, (text, schema) in ROUTES.items()}
    paths["/ready"]["get"]["responses"]["503"] = _describe_refusal(503)
    paths["/metrics"] = {"get": _describe_get("Write what was done so far, for Prometheus.",
                                              {"text/plain": {"schema": TEXT}})}  # fmt: skip
    paths["/predict"] = {"post": _describe_predict(limits)}
    api: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "SqueezeTune", "version": version("squeezetune"),
                 "description": "A trained image classifier. An image is JPEG, PNG, WebP, BMP, GIF or TIFF."},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": _describe_schemas()},
    }  # fmt: skip
    if has_token:
        api["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in PROTECTED:
            for operation in paths[path].values():
                operation["security"] = [{"token": []}]
                operation["responses"]["401"] = _describe_refusal(401)
    return api


def _describe_get(text: str, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"summary": text, "responses": {"200": {"description": "The answer.", "content": content}}}


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
        "description": f"A body has at most {limits.body_bytes:,} bytes and {limits.images} images, an image at most "
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
            "200": {"description": "At least one image was classified.", "headers": header,
                    "content": _as_json("Answer")},
            **{str(status): _describe_refusal(status) for status in refused if status not in (401, 404, 405)},
            "422": {"description": "None of the images can be read.", "headers": header,
                    "content": _as_json("NoImage")},
        },
    }  # fmt: skip


def _describe_refusal(status: int) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": _as_json("Refusal")}


def _as_json(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _describe_record(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), "required": list(fields), "additionalProperties": False}


def _describe_schemas() -> dict[str, Any]:
    """Describe the records that are answered."""
    error = _describe_record(code=TEXT, message=TEXT, hint=TEXT)
    failed = _describe_record(error=error)
    predicted = _describe_record(
        label=TEXT, confidence=SHARE, probabilities={"type": "object", "additionalProperties": SHARE}
    )
    images = {"type": "array", "items": {"oneOf": [predicted, failed]}}
    table: dict[str, Any] = {"type": "object"}
    number = {"type": "integer"}
    return {
        "Answer": _describe_record(model=TEXT, images=images),
        "NoImage": _describe_record(error=error, model=TEXT, images={"type": "array", "items": failed}),
        "Refusal": failed,
        "Status": {**_describe_record(status=TEXT, model=TEXT), "required": ["status"]},
        "ModelDescription": _describe_record(
            model=TEXT, classes={"type": "array", "items": TEXT}, created=TEXT, squeezetune=TEXT, image_side=number,
            resize=TEXT, file_bytes=number, settings=table, weights=table,
        ),
    }  # fmt: skip
