"""Real images for schemathesis, which otherwise takes any bytes for an image; see the README
here.
"""

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def encode(size: tuple[int, int], colour: tuple[int, int, int], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


side, level = st.integers(1, 64), st.integers(0, 255)
images = st.builds(
    encode,
    st.tuples(side, side),
    st.tuples(level, level, level),
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]),
)
for name in ("application/octet-stream", "image/*", "image/jpeg"):
    schemathesis.openapi.media_type(name, images)
schemathesis.openapi.format("binary", images)
