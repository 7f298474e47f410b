"""Pillow images that are decoded when they are first looked at, which threads must not do at the same time."""

import threading

from PIL import Image

from squeezetune.errors import ImageError

# An image has always the same one; different ones hardly ever share. A lock for each would have to be kept somewhere.
_LOCKS = tuple(threading.Lock() for _ in range(61))


def load_image(image: Image.Image) -> Image.Image:
    """Decode a Pillow image that was opened and not yet read; safe to call from many threads with the same image.

    Raises:
        ImageError: it cannot be decoded, or has no pixels.

    """
    if 0 in image.size:
        raise ImageError(f"an image of {image.width} x {image.height} pixels")
    with _LOCKS[id(image) // 16 % len(_LOCKS)]:  # threads would move about in its file
        try:
            image.load()
        except Exception as error:  # decoders raise nearly anything over a damaged file
            raise ImageError(f"it cannot be decoded: {error}") from error
    return image
