"""SqueezeTune as a scikit-learn estimator."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex, index_images
from squeezetune.data.sources.class_names import locate_columns, name_labels
from squeezetune.data.sources.registry import hold_images, is_iterable
from squeezetune.data.split import Split, split_train_validation
from squeezetune.errors import ClassesError, ImageError, MissingExtraError
from squeezetune.events import ignore_event
from squeezetune.model.classifier import Classifier
from squeezetune.network.foreign_backbone import keep_module
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.fitting import RECIPES, make_manifest
from squeezetune.settings import Settings, parse_settings
from squeezetune.system.checkpoint import NOTHING_KEPT
from squeezetune.system.disk import open_cache

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, column_or_1d
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "scikit-learn is not installed; SqueezeTuneClassifier is an estimator of its kind.",
        "Install it: pip install 'squeezetune[sklearn]'",
    ) from error


class SqueezeTuneClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of images with scikit-learn's interface.

    X is any number of images: paths, bytes, Pillow images, arrays of uint8, or one array (n,
    height, width, 3). `classes_` is in the order of `numpy.unique`, and so are the columns of
    `predict_proba`. The parameters are the settings of `squeezetune.Settings`, of which
    `backbone` may be a module of torch; the test data is the caller's, so there is no `test`.
    Features are cached by content, so cross-validation and searches run the network once for each
    image.

    >>> from sklearn.model_selection import cross_val_score  # doctest: +SKIP
    >>> quick = SqueezeTuneClassifier(effort="quick")  # doctest: +SKIP
    >>> cross_val_score(quick, paths, labels, cv=5)  # doctest: +SKIP
    """

    # scikit-learn finds the parameters by this signature, so that they cannot be one record
    def __init__(
        self,
        *,
        effort: str = "balanced",
        seed: int = 0,
        validation: float = 0.1,
        near_duplicates: str = "together",
        image_side: int = 0,
        resize: str = "squash",
        views: str = "auto",
        head: str = "auto",
        backbone: Any = "auto",
        pixel_mean: str = "",
        pixel_std: str = "",
        cut: str = "",
        taps: str = "",
        licenses: str = "commercial",
        weights: str = "",
        layers: str = "auto",
        epochs: float = 0.0,
        budget: str = "",
        max_ram: str = "",
        max_model_size: str = "",
        recipe: str = "auto",
        classifier_norm: str = "batch",
        last_blocks: int = 0,
        class_weight: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
        threads: int = 0,
        use_cache: bool = True,
    ) -> None:
        self.effort = effort
        self.seed = seed
        self.validation = validation
        self.near_duplicates = near_duplicates
        self.image_side = image_side
        self.resize = resize
        self.views = views
        self.head = head
        self.backbone = backbone
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.cut = cut
        self.taps = taps
        self.licenses = licenses
        self.weights = weights
        self.layers = layers
        self.epochs = epochs
        self.budget = budget
        self.max_ram = max_ram
        self.max_model_size = max_model_size
        self.recipe = recipe
        self.classifier_norm = classifier_norm
        self.last_blocks = last_blocks
        self.class_weight = class_weight
        self.engine = engine
        self.precision = precision
        self.threads = threads
        self.use_cache = use_cache

    def fit(self, X: Iterable[Any], y: Iterable[Any]) -> "SqueezeTuneClassifier":
        """Train on images X with labels y; a share `validation` of them is held back for choices.

        Raises:
            SettingsError: a parameter is out of its limits.
            DataError: an image cannot be read, a label is missing, or there are fewer than two
                classes.
            WeightsError: the pretrained weights cannot be used.

        """
        settings = self._make_settings()
        labels, images = read_targets(y), hold_images(X)
        context = open_context(
            settings, open_cache(ignore_event) if self.use_cache else None, ignore_event
        )
        index = index_images(images, labels.tolist(), executor=context.executor)
        _refuse_skipped(index)

        def cut(images: ImageIndex) -> Split:
            pictures = images.pictures if settings.near_duplicates == "together" else None
            return split_train_validation(
                replace(images, pictures=pictures), settings.validation, settings.seed
            )

        learned = RECIPES[settings.recipe](index, cut, context, None, NOTHING_KEPT)
        _refuse_skipped(learned.index)  # now also those that could not be decoded
        self.classes_ = np.unique(labels)
        self.classifier_ = Classifier(learned.model, make_manifest(learned, settings))
        return self

    def predict_proba(self, X: Iterable[Any]) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) of images, columns in the order of `classes_`."""
        check_is_fitted(self)
        columns = locate_columns(self.classes_.tolist(), self.classifier_.class_names)
        return self.classifier_.predict_probabilities(hold_images(X))[:, columns]

    def predict(self, X: Iterable[Any]) -> NDArray[Any]:
        """Return the label (n,) of each image."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def score(self, X: Iterable[Any], y: Iterable[Any], sample_weight: Any = None) -> float:
        """Return the share of images X whose label in y is predicted; labels are taken as by
        `fit`.
        """
        accuracy: float = super().score(X, read_targets(y), sample_weight)
        return accuracy

    def _make_settings(self) -> Settings:
        names = {item.name for item in fields(Settings)} & set(self.get_params())
        values = {name: getattr(self, name) for name in names}
        # a search draws parameters as numbers of numpy
        plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}
        return parse_settings(keep_module(plain))


def _refuse_skipped(index: ImageIndex) -> None:
    if index.skipped:
        first, count = index.skipped[0], len(index) + len(index.skipped)
        raise ImageError(
            f"{len(index.skipped)} of {count} images cannot be used; image {int(first.name)}: "
            f"{first.reason}",
            "Leave them out of X and y.",
        )


def read_targets(y: Any) -> NDArray[Any]:
    """Take the labels of images as scikit-learn does, (n,); what numpy would guess at is refused.

    Raises:
        ClassesError: they are no labels of classes, one is missing, or texts and numbers are mixed.

    """
    values = np.asarray(y) if hasattr(y, "__array__") and not hasattr(y, "ndim") else y
    if isinstance(values, (str, bytes, Set, Mapping)) or not is_iterable(values):
        found = "None" if y is None else f"a {type(y).__name__}"
        # the words that scikit-learn's own checks look for
        raise _explain_targets(f"fit requires y to be passed, but the target y is {found}")
    values = values if hasattr(values, "ndim") else list(values)
    try:
        if is_flat := _is_flat(values):
            name_labels(values)  # numpy would make a text of None or NaN among texts
        labels = _settle_type(column_or_1d(values, warn=True))
        if not is_flat:
            name_labels(labels)
        check_classification_targets(labels)
    except ClassesError:
        raise
    except (ValueError, TypeError) as error:
        raise _explain_targets(str(error)) from error
    return labels


def _is_flat(values: Any) -> bool:
    """Say whether these are single values, and not rows of them."""
    try:
        return getattr(values, "ndim", 1) == 1 and all(np.ndim(value) == 0 for value in values)
    except ValueError:  # rows of different lengths
        return False


def _settle_type(labels: NDArray[Any]) -> NDArray[Any]:
    """Give an array of Python's objects the type that they have in common."""
    if labels.dtype != object:
        return labels
    values = [label.item() if isinstance(label, np.generic) else label for label in labels]
    is_text = [isinstance(value, str) for value in values]
    if any(is_text) and not all(is_text):
        text, other = is_text.index(True), is_text.index(False)
        raise _explain_targets(
            f"labels are mixed: image {text} has {values[text]!r}, and image {other} has "
            f"{values[other]!r}"
        )
    return labels if any(is_text) else np.array(values)


def _explain_targets(message: str) -> ClassesError:
    return ClassesError(
        message, "Give a list with one label for each image: texts, or whole numbers."
    )
