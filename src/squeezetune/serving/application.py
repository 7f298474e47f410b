"""The routes of the server: what is asked, and who answers it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from squeezetune.serving.batching import Batcher, Work
from squeezetune.serving.docs import CONTENT_POLICY, describe_api, write_docs_page
from squeezetune.serving.limits import Access, Limits
from squeezetune.serving.models import ModelReloader
from squeezetune.serving.observability import CONTENT_TYPE, JsonLog, RequestObserver, ServerMetrics
from squeezetune.serving.refusals import RequestError
from squeezetune.serving.requests import BodyBudget, BodyReservation, check_head, read_images
from squeezetune.serving.responses import JsonResponse, answer_images, answer_refusal


@dataclass(frozen=True)
class Service:
    """All that the routes need; every route is a method."""

    slot: ModelReloader
    batcher: Batcher
    limits: Limits
    access: Access
    metrics: ServerMetrics
    is_stopping: Callable[[], bool] = lambda: False
    room: BodyBudget = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "room", BodyBudget(self.limits.held_bytes))

    async def predict(self, request: Request) -> Response:
        """Classify the image, or the images, of a request."""
        self.access.check(request.headers.get("authorization"))
        kind = check_head(request, self.limits)
        deadline = time.monotonic() + self.limits.time_s
        with BodyReservation(self.room) as hold:
            try:
                images = await asyncio.wait_for(
                    read_images(request, kind, self.limits, hold), self.limits.time_s
                )
            except TimeoutError as error:
                raise RequestError(
                    "too-slow",
                    f"The body did not arrive within {self.limits.time_s:g} s",
                    "Send it faster, or a smaller photo.",
                ) from error
            request.state.images = len(images)
            work = self.batcher.submit(self.slot.model, images)
            outcomes = await _wait_for(work, request, deadline)
        response = answer_images(work.model.version, outcomes)
        refused = sum(not hasattr(outcome, "label") for outcome in outcomes)
        self.metrics.add_images(len(outcomes) - refused, refused)
        return response

    async def model(self, request: Request) -> Response:
        """Describe the model in use."""
        self.access.check(request.headers.get("authorization"))
        return JsonResponse(self.slot.model.describe())

    async def write_metrics(self, request: Request) -> Response:
        """Write what was done so far."""
        self.access.check(request.headers.get("authorization"))
        text = self.metrics.write(self.slot.model.version, self.batcher.waiting)
        return PlainTextResponse(text, headers={"Content-Type": CONTENT_TYPE})

    async def health(self, request: Request) -> Response:
        """Say that the process is alive."""
        return JsonResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Say that requests are taken."""
        if self.is_stopping():
            raise RequestError("busy", "The server is stopping", "Ask another one.")
        return JsonResponse({"status": "ready", "model": self.slot.model.version})


async def _wait_for(work: Work, request: Request, deadline: float) -> Any:
    """Wait for the outcomes of a request's images; what has not begun is left out if the client
    goes away.
    """
    gone: asyncio.Future[Any] = asyncio.ensure_future(
        request.receive()
    )  # once the body is read, this is its going
    try:
        rest = max(0.0, deadline - time.monotonic())
        awaited: set[asyncio.Future[Any]] = {work.future, gone}
        await asyncio.wait(awaited, timeout=rest, return_when=asyncio.FIRST_COMPLETED)
        if work.future.done():
            return work.future.result()
        if gone.done():
            raise RequestError("vanished", "The client has closed the connection")
        raise RequestError(
            "busy", "The images could not be classified in time", "Ask again in a moment."
        )
    finally:
        work.cancel()
        gone.cancel()


def build_application(service: Service, journal: JsonLog) -> Starlette:
    """Build the application: routes, answers to what goes wrong, and a line in the journal for each
    request.
    """
    api = describe_api(service.limits, has_token=service.access.token is not None)
    page = write_docs_page(api)

    async def openapi(request: Request) -> Response:
        return JsonResponse(api)

    async def docs(request: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_POLICY})

    async def home(request: Request) -> Response:
        return RedirectResponse("docs")

    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/model", service.model),
        Route("/metrics", service.write_metrics),
        Route("/health", service.health),
        Route("/ready", service.ready),
        Route("/openapi.json", openapi),
        Route("/docs", docs),
        Route("/", home),
    ]
    paths = frozenset(route.path for route in routes)
    watchman = Middleware(
        RequestObserver,
        journal=journal,
        metrics=service.metrics,
        slot=service.slot,
        paths=paths,
        header_bytes=service.limits.header_bytes,
    )
    handlers: dict[Any, Any] = {
        RequestError: _refuse,
        HTTPException: _refuse_route,
        Exception: _refuse_all,
    }
    application = Starlette(routes=routes, exception_handlers=handlers, middleware=[watchman])
    application.router.redirect_slashes = False  # to where the Host header says
    return application


async def _refuse(request: Request, refusal: RequestError) -> Response:
    return answer_refusal(refusal)


async def _refuse_route(request: Request, error: HTTPException) -> Response:
    """Answer a path or a method that there is not, which Starlette has found."""
    if error.status_code == 405:
        response = answer_refusal(
            RequestError("wrong-method", "This path takes another method", "See /docs.")
        )
        response.headers["Allow"] = (error.headers or {}).get("Allow", "")
        return response
    return answer_refusal(RequestError("not-found", "There is nothing at this path", "See /docs."))


async def _refuse_all(request: Request, error: Exception) -> Response:
    """Answer when we have failed; where, is in the journal."""
    return answer_refusal(RequestError("internal", "The server has failed", "Its log says where."))
