"""What the server answers: plain values, and their description for clients (OpenAPI 3.1)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from squeezetune.errors import ImageError
from squeezetune.model.output import Outcome
from squeezetune.serving.refusals import RequestError

VERSION_HEADER = "SqueezeTune-Model"


class JsonResponse(Response):
    """Plain values as JSON; every answer is as new as it can be."""

    media_type = "application/json"

    def __init__(
        self,
        content: Mapping[str, Any],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        own = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        super().__init__(json.dumps(content), status, {**own, **(headers or {})})


def answer_images(version: str, outcomes: Sequence[Outcome]) -> JsonResponse:
    """Answer a request with what became of its images, in their order; 422 if none of them can be
    read.
    """
    content: dict[str, Any] = {
        "model": version,
        "images": [describe_outcome(outcome) for outcome in outcomes],
    }
    status = 200
    errors = [outcome for outcome in outcomes if isinstance(outcome, ImageError)]
    if len(errors) == len(outcomes):
        words = (
            errors[0].message
            if len(errors) == 1
            else f"none of the {len(errors)} images can be read"
        )
        refusal = RequestError("no-image", words, errors[0].hint)
        status, content = refusal.status, {**refusal.describe(), **content}
    return JsonResponse(content, status, {VERSION_HEADER: version})


def answer_refusal(refusal: RequestError) -> JsonResponse:
    """Answer a request that is refused as a whole."""
    return JsonResponse(refusal.describe(), refusal.status, refusal.headers)


def describe_outcome(outcome: Outcome) -> dict[str, Any]:
    """Return a prediction, or the error of one image, as plain values."""
    if isinstance(outcome, ImageError):
        return {"error": {"code": outcome.code, "message": outcome.message, "hint": outcome.hint}}
    return {
        "label": outcome.label,
        "confidence": outcome.confidence,
        "probabilities": outcome.probabilities,
    }
