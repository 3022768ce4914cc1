"""Data: sources, splits with a fingerprint, inspection, and preprocessing that carries its log-determinant.

Nothing here knows a model. Values stay as they came until a batch is on the device.
"""

from sfumato.data.builtin import BUILTIN
from sfumato.data.by_column import Columns
from sfumato.data.columns import Column
from sfumato.data.dataset import Dataset, Examples, InMemory
from sfumato.data.decisions import Decision, build_preprocessing, decide, decided
from sfumato.data.dsprites import DSprites
from sfumato.data.inspection import Inspection, inspect_dataset
from sfumato.data.loading import load_dataset
from sfumato.data.order import Order, batch_at, epoch_order
from sfumato.data.preprocessing import Binarise, Counts, Identity, Integers, Levels, Preprocessing, Standardise, Unit
from sfumato.data.streams import Meter, Prefetched, Streamed

__all__ = [
    "BUILTIN",
    "Binarise",
    "Column",
    "Columns",
    "Counts",
    "DSprites",
    "Dataset",
    "Decision",
    "Examples",
    "Identity",
    "InMemory",
    "Inspection",
    "Integers",
    "Levels",
    "Meter",
    "Order",
    "Prefetched",
    "Preprocessing",
    "Standardise",
    "Streamed",
    "Unit",
    "batch_at",
    "build_preprocessing",
    "decide",
    "decided",
    "epoch_order",
    "inspect_dataset",
    "load_dataset",
]
