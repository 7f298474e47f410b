"""The server that one writes in ten minutes: every request decodes its image and runs the model by
itself.

    python benchmarks/plain_server.py MODEL    (a folder, or an exported .onnx file)

Starlette and uvicorn as they come, Starlette's pool of threads, ONNX Runtime with its default
settings. Decoding is the product's own, so that the difference is how the work is shared out.
`serving.py` starts it.
"""

import socket
import sys
from pathlib import Path

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from squeezetune.data.decoding import open_image
from squeezetune.model.classifier import load
from squeezetune.system.telemetry import import_onnxruntime


def build_application(model: Path) -> Starlette:
    classifier = load(model)
    manifest = classifier.manifest
    session = import_onnxruntime().InferenceSession(
        classifier.read_model(), providers=["CPUExecutionProvider"]
    )

    def classify(data: bytes) -> dict[str, float]:
        pixels = np.asarray(open_image(data, manifest.image_side))
        row = session.run(None, {"image": pixels[None]})[0][0]
        return dict(zip(manifest.class_names, row.tolist(), strict=True))

    async def predict(request: Request) -> JSONResponse:
        probabilities = await run_in_threadpool(classify, await request.body())
        return JSONResponse(
            {
                "label": max(probabilities, key=probabilities.__getitem__),
                "probabilities": probabilities,
            }
        )

    return Starlette(routes=[Route("/predict", predict, methods=["POST"])])


def main() -> None:
    door = socket.create_server(("127.0.0.1", 0), backlog=2048)
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    application = build_application(Path(sys.argv[1]))
    print(f"http://127.0.0.1:{door.getsockname()[1]};", flush=True)
    uvicorn.Server(uvicorn.Config(application, access_log=False, log_level="warning")).run(
        sockets=[door]
    )


if __name__ == "__main__":
    main()
