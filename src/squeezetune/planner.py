"""What is trained after the head, in which steps: from the settings and the number of images."""

from importlib.util import find_spec

from squeezetune.errors import MissingExtraError
from squeezetune.events import Listener, Notice
from squeezetune.learn.recipe import Phase, StagePlan, choose_recipe
from squeezetune.settings import Settings

# A thorough run shows this many training images to the network, and each of them at least and at most so many times.
THOROUGH_IMAGES = 300_000
FEWEST_EPOCHS, MOST_EPOCHS = 8.0, 60.0
# The first part of the work is done on smaller images, which takes a fraction of the time.
SMALL_SHARE, SMALL_SIDE = 0.5, 0.72
SIDE_STEP = 16

INSTALL_TORCH = (
    "Install it: pip install torch --index-url https://download.pytorch.org/whl/cpu, "
    "then pip install 'squeezetune[deep]'"
)


def plan_stage(settings: Settings, images: int, side: int, listen: Listener) -> StagePlan | None:
    """Plan the training of the layers themselves on so many images at this size; None where only the head is trained.

    Raises:
        MissingExtraError: all layers are asked for, and torch is not installed.

    """
    is_wanted = settings.layers == "all" or (settings.layers == "auto" and settings.effort == "thorough")
    if not is_wanted or not images:
        return None
    if find_spec("torch") is None:
        message = "torch, which trains the layers themselves, is not installed"
        if settings.layers == "all":
            raise MissingExtraError(message, INSTALL_TORCH)
        listen(Notice(f"{message}, so the head alone is trained. {INSTALL_TORCH}"))
        return None
    epochs = settings.epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, THOROUGH_IMAGES / images))
    return StagePlan("all layers", "conv1", plan_phases(side), epochs, choose_recipe(images, epochs))


def plan_phases(side: int) -> tuple[Phase, ...]:
    """Plan the image sizes: smaller ones first (Tan and Le 2021, EfficientNetV2, "progressive learning")."""
    small = max(64, round(SMALL_SIDE * side / SIDE_STEP) * SIDE_STEP)
    return (Phase(small, SMALL_SHARE), Phase(side, 1 - SMALL_SHARE)) if small < side else (Phase(side, 1.0),)
