"""The public names, and where they are: type checkers read this page, and so does the package."""

from squeezetune.audit.audit import Audit as Audit
from squeezetune.audit.audit import check as check
from squeezetune.audit.cleaning import Change as Change
from squeezetune.audit.cleaning import Cleaned as Cleaned
from squeezetune.audit.cleaning import apply_audit as apply_audit
from squeezetune.audit.findings import Finding as Finding
from squeezetune.data.datasets.fetching import fetch_dataset as fetch_dataset
from squeezetune.errors import ArtifactError as ArtifactError
from squeezetune.errors import CheckpointError as CheckpointError
from squeezetune.errors import ClassesError as ClassesError
from squeezetune.errors import DataError as DataError
from squeezetune.errors import ExportError as ExportError
from squeezetune.errors import ImageError as ImageError
from squeezetune.errors import MissingExtraError as MissingExtraError
from squeezetune.errors import SettingsError as SettingsError
from squeezetune.errors import SourceError as SourceError
from squeezetune.errors import SqueezeTuneError as SqueezeTuneError
from squeezetune.errors import WeightsError as WeightsError
from squeezetune.evaluation.measurement import FolderEvaluation as FolderEvaluation
from squeezetune.evaluation.measurement import evaluate as evaluate
from squeezetune.evaluation.metrics import Evaluation as Evaluation
from squeezetune.exporting.export_index import Exports as Exports
from squeezetune.exporting.exports import export as export
from squeezetune.finetune.summary import describe as describe
from squeezetune.finetune.surgery import freeze as freeze
from squeezetune.finetune.surgery import replace_classifier as replace_classifier
from squeezetune.finetune.surgery import unfreeze_last as unfreeze_last
from squeezetune.finetune.torch_network import SqueezeNet as SqueezeNet
from squeezetune.finetune.torch_network import build_network as build_network
from squeezetune.integrations.estimator import SqueezeTuneClassifier as SqueezeTuneClassifier
from squeezetune.model.classifier import Classifier as Classifier
from squeezetune.model.classifier import Prediction as Prediction
from squeezetune.model.classifier import load as load
from squeezetune.model.explanation import Explanation as Explanation
from squeezetune.model.explanation import explain as explain
from squeezetune.model.imagenet import load_imagenet as load_imagenet
from squeezetune.network.known_backbones import KnownBackbone as KnownBackbone
from squeezetune.network.known_backbones import list_backbones as list_backbones
from squeezetune.settings import Settings as Settings
from squeezetune.training import forecast as forecast
from squeezetune.training import train as train
from squeezetune.watching import watch as watch

__version__: str
