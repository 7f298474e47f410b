"""The command `serve`: a model behind HTTP."""

import os
from pathlib import Path
from typing import Any

import click

from squeezetune.cli.options import KILOBYTES, MEGABYTES, MEGAPIXELS, SECONDS, guard_errors
from squeezetune.cli.terminal import write_line
from squeezetune.errors import MissingExtraError, SettingsError

TOKEN_VARIABLE = "SQUEEZETUNE_TOKEN"


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to bind to; 0.0.0.0 is all of them.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes a free one.",
)
@click.option(
    "--token",
    help="Ask clients for this token. Other users of this computer can see it among the "
    f"processes; the variable {TOKEN_VARIABLE} they cannot.",
)
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0, 1024),
              help="Threads that classify; 0 takes one for each physical core.")  # fmt: skip
@click.option(
    "--max-body",
    default=20,
    type=MEGABYTES,
    show_default=True,
    help="Most megabytes of a request's body.",
)
@click.option(
    "--max-pixels",
    default=50,
    type=MEGAPIXELS,
    show_default=True,
    help="Most megapixels of an image.",
)
@click.option("--max-images", default=32, show_default=True, help="Most images of a request.")
@click.option(
    "--max-time",
    default=30,
    type=SECONDS,
    show_default=True,
    help="Most seconds of a request, its sending included.",
)
@click.option(
    "--max-waiting",
    default=256,
    show_default=True,
    help="Most images that wait; then 503 is answered.",
)
@click.option(
    "--max-held",
    default=256,
    type=MEGABYTES,
    show_default=True,
    help="Most megabytes of all requests' bodies together.",
)
@click.option(
    "--max-headers",
    default=16,
    type=KILOBYTES,
    show_default=True,
    help="Most kilobytes (of 1,024) of a request's headers.",
)
@click.option(
    "--max-idle",
    default=10,
    type=SECONDS,
    show_default=True,
    help="Seconds until an idle connection is closed.",
)
@click.option(
    "--max-connections",
    default=512,
    show_default=True,
    help="Most connections that are open at once.",
)
@guard_errors
def serve(model: Path, host: str, port: int, token: str | None, threads: int, **most: Any) -> None:
    """Answer requests for predictions by MODEL over HTTP.

    \b
      squeezetune serve flowers-model
      curl -F image=@rose.jpg http://127.0.0.1:8000/predict

    Paths: /predict, /model, /health, /ready, /metrics, /openapi.json, /docs. One JSON line a
    request is logged on standard error. MODEL is a model's folder or an exported .onnx file; a new
    one in its place is taken at once. SIGTERM or Ctrl-C ends it when all is answered.
    """  # noqa: D301  # click wants the character itself
    try:
        from squeezetune.serving.limits import Access, Limits
        from squeezetune.serving.server import ServerAddress
        from squeezetune.serving.server import serve as serve_model
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in ("starlette", "uvicorn", "h11", "prometheus_client", "python_multipart"):
            raise
        raise MissingExtraError(
            f"The package {package!r} is not installed.",
            "Install it: pip install 'squeezetune[serve]'",
        ) from error
    limits = Limits(
        body_bytes=int(most["max_body"] * 1e6),
        pixels=int(most["max_pixels"] * 1e6),
        images=most["max_images"],
        time_s=most["max_time"],
        waiting=most["max_waiting"],
        held_bytes=int(most["max_held"] * 1e6),
        header_bytes=int(most["max_headers"] * 1024),
        idle_s=most["max_idle"],
        connections=most["max_connections"],
    )

    def announce(server: Any, address: str) -> None:
        write_line(f"Serving {model} at {address}; {address}/docs says more. Ctrl-C ends it.")

    serve_model(
        model,
        ServerAddress(host, port, threads),
        limits,
        Access(_find_token(token)),
        announce=announce,
    )


def _find_token(given: str | None) -> str | None:
    """Return the token that was given, or the variable's; one that is set and empty must not open
    the door.
    """
    token = os.environ.get(TOKEN_VARIABLE) if given is None else given
    if token == "":
        raise SettingsError(
            "the token is empty", f"Give --token or {TOKEN_VARIABLE} a value, or leave them out."
        )
    return token
