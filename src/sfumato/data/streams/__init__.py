"""Data that do not fit: rows that are read when they are asked for, by row number, in exactly the order of a training.

``Rows`` is a place where examples lie, ``Streamed`` a split of it that training and evaluation see, ``Prefetched`` the
same, read ahead of them; ``Meter`` says which of loader, copy and model the others wait for.
"""

from sfumato.data.streams.columns import stream_table
from sfumato.data.streams.encoded import EncodedRows, stream_images
from sfumato.data.streams.flat import FlatRows, open_npy
from sfumato.data.streams.meter import Meter, StepTime
from sfumato.data.streams.opening import stream_content, why_streamed
from sfumato.data.streams.pool import WorkerDied
from sfumato.data.streams.prefetch import Prefetched
from sfumato.data.streams.rows import ArrayRows, Names, Rows, Streamed, split_classes
from sfumato.data.streams.shards import stream_shards

__all__ = [
    "ArrayRows",
    "EncodedRows",
    "FlatRows",
    "Meter",
    "Names",
    "Prefetched",
    "Rows",
    "StepTime",
    "Streamed",
    "WorkerDied",
    "open_npy",
    "split_classes",
    "stream_content",
    "stream_images",
    "stream_shards",
    "stream_table",
    "why_streamed",
]
