"""Networks as they were published, with ImageNet's 1,000 classes: they name what photos show with
no training at all.
"""

import json
from contextlib import suppress
from pathlib import Path

from squeezetune.events import Listener, ignore_event
from squeezetune.model.classifier import Classifier
from squeezetune.model.onnx_file import parse_model
from squeezetune.network.published import find_weights
from squeezetune.network.weights import find_architecture
from squeezetune.system.disk import open_cache, read_sealed, write_sealed
from squeezetune.system.machine import name_version

# The better one of those in the package.
DEFAULT = "efficientnet_lite0"
# Short names of ImageNet's classes in their usual order, as torchvision has them (BSD-3-Clause).
NAMES_PATH = Path(__file__).with_name("imagenet_classes.txt")
RESIZE, VIEWS = "squash", 1


def load_imagenet(
    backbone: str = DEFAULT, *, use_cache: bool = True, listen: Listener = ignore_event
) -> Classifier:
    """Load a network as it was published: a classifier of ImageNet's 1,000 classes.

    Networks are those of the setting `backbone`; what is not here is fetched. It knows things and
    animals of its classes alone, and how sure it is says little of photos of others. The file is
    made once and kept in the cache. Example:

        >>> classifier = load_imagenet()
        >>> classifier.class_names[285]
        'Egyptian cat'

    Raises:
        SettingsError: there is no such network.
        MissingExtraError: the weights need torch, or are in another package, which is not
            installed.
        WeightsError: the weights cannot be had.

    """
    name = find_architecture(backbone).name
    cache = open_cache(listen) if use_cache else None
    key = f"{name}-{find_weights(name).sha256[:12]}-{name_version()}"
    path = cache and cache / "imagenet" / f"{key}.onnx.sealed"
    payload = read_sealed(path) if path else None
    if payload is None:
        payload = _build(name, cache, listen)
        if path:
            with suppress(OSError):  # a full disk costs what would have been kept
                write_sealed(path, payload)
    return Classifier(payload, parse_model(payload, name))


def list_classes() -> list[str]:
    """List the names of ImageNet's classes, in their usual order."""
    return NAMES_PATH.read_text(encoding="utf-8").splitlines()


def _build(backbone: str, cache: Path | None, listen: Listener) -> bytes:
    """Build the model's file, which says of itself what trained ones say."""
    # slow to load, and not needed where the file is in the cache
    from squeezetune.network.graph import build_published
    from squeezetune.network.pretrained import load_pretrained

    pretrained = load_pretrained(backbone=backbone, cache=cache, listen=listen)
    side = pretrained.architecture.side
    about = pretrained.provenance
    metadata = {
        "class_names": json.dumps(list_classes()),
        "image_side": str(side),
        "resize": RESIZE,
        "views": str(VIEWS),
        "network": about["network"],
        "weights": about["origin"],
        "weights_sha256": about["sha256"],
        "license": f"weights {about['license']}",
        "squeezetune": name_version(),
    }
    return build_published(
        pretrained.weights, views=VIEWS, side=side, resize=RESIZE, metadata=metadata
    )
