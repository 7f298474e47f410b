"""SqueezeTune as a scikit-learn estimator."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from squeezetune.data.index import ImageIndex, index_images
from squeezetune.data.split import Split, split_train_validation
from squeezetune.errors import ImageError
from squeezetune.events import ignore_event
from squeezetune.learning import RECIPES, make_manifest
from squeezetune.prediction import Classifier
from squeezetune.settings import Settings, parse_settings
from squeezetune.store import find_cache_folder
from squeezetune.workshop import open_workshop


class SqueezeTuneClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of images with scikit-learn's interface.

    X is a sequence of images: paths, Pillow images, arrays of uint8, or one array (n, height, width, 3). The
    parameters are the settings of `squeezetune.Settings`; the test data is the caller's, so there is no `test`.
    Features are cached by content, so cross-validation and searches run the network once for each image.

    >>> from sklearn.model_selection import cross_val_score                          # doctest: +SKIP
    >>> cross_val_score(SqueezeTuneClassifier(effort="quick"), paths, labels, cv=5)   # doctest: +SKIP
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
        weights: str = "",
        layers: str = "auto",
        epochs: float = 0.0,
        budget: str = "",
        max_ram: str = "",
        recipe: str = "auto",
        classifier_norm: str = "batch",
        last_fires: int = 0,
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
        self.weights = weights
        self.layers = layers
        self.epochs = epochs
        self.budget = budget
        self.max_ram = max_ram
        self.recipe = recipe
        self.classifier_norm = classifier_norm
        self.last_fires = last_fires
        self.class_weight = class_weight
        self.engine = engine
        self.precision = precision
        self.threads = threads
        self.use_cache = use_cache

    def fit(self, X: Sequence[Any] | NDArray[Any], y: Sequence[Any] | NDArray[Any]) -> "SqueezeTuneClassifier":
        """Train on images X with labels y; a share `validation` of them is held back for choices.

        Raises:
            SettingsError: a parameter is out of its limits.
            DataError: an image cannot be read, or there are fewer than two classes.
            WeightsError: the pretrained weights cannot be used.

        """
        settings = self._make_settings()
        workshop = open_workshop(settings, find_cache_folder() if self.use_cache else None, ignore_event)
        images, labels = list(X), np.asarray(y)
        index = index_images(images, labels.tolist(), engine=workshop.engine)
        _refuse_skipped(index)

        def cut(images: ImageIndex) -> Split:
            pictures = images.pictures if settings.near_duplicates == "together" else None
            return split_train_validation(replace(images, pictures=pictures), settings.validation, settings.seed)

        learned = RECIPES[settings.recipe](index, cut, workshop, None)
        _refuse_skipped(learned.index)  # now also those that could not be decoded
        self.classes_ = np.unique(labels)
        self.classifier_ = Classifier(learned.model, make_manifest(learned, settings))
        return self

    def predict_proba(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) of images, columns in the order of `classes_`."""
        check_is_fitted(self)
        return self.classifier_.predict_probabilities(list(X))

    def predict(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """Return the label (n,) of each image."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[best]
        return labels

    def _make_settings(self) -> Settings:
        names = {item.name for item in fields(Settings)} & set(self.get_params())
        values = {name: getattr(self, name) for name in names}
        # a search draws parameters as numbers of numpy
        return parse_settings({name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()})


def _refuse_skipped(index: ImageIndex) -> None:
    if index.skipped:
        first, count = index.skipped[0], len(index) + len(index.skipped)
        raise ImageError(
            f"{len(index.skipped)} of {count} images cannot be used; image {int(first.name)}: {first.reason}",
            "Leave them out of X and y.",
        )
