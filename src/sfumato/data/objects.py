"""What people hold in Python, to :class:`Content`; and arrays back in the kind that was given.

Frames (pandas, polars, Arrow, all that narwhals knows, and what speaks Arrow's C interface), AnnData, xarray's
``DataArray``, Hugging Face datasets, torch's ``Dataset`` and ``DataLoader``. A library is imported only when the object
is one of its own: the object's module says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from sfumato.core.errors import UserError, did_you_mean
from sfumato.data.arrays import as_data, from_python
from sfumato.data.content import Array, Content, Loader
from sfumato.data.files import check_memory
from sfumato.data.tables import by_column, check_arrow, choose_columns, narrow, read_arrow_column, read_labels

X_KEYS = ("x", "X", "image", "images", "img", "pixel_values", "data", "features", "input")
Y_KEYS = ("y", "Y", "label", "labels", "target", "targets", "class")
SAMPLE = "sample"  # the dimension of a DataArray that counts the examples, where it has one of this name
PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def from_object(source: Any, label: str | None = None, layer: str | None = None, mixed: bool = False) -> Content | None:
    """Return what ``source`` holds, or None where it is none of these kinds.

    Args:
        source: the object, or the pair of it and its labels.
        label: the column (of AnnData: of ``obs``; of a DataArray: the coordinate; of items that are dictionaries: the
            key) that holds the classes.
        layer: of AnnData, in place of ``X``.
        mixed: of a frame: read it column by column, texts and missing cells included.

    Raises:
        UserError: columns that are no numbers, no such column, items of different shapes.
    """
    if isinstance(source, tuple) and len(source) == 2 and any(map(kind_of, source)):
        content = from_object(source[0], None, layer, mixed) or from_python(to_array(source[0]))
        return replace(content, y=_classes(np.asarray(source[1]).tolist()), class_names=())
    kind = kind_of(source)
    if layer is not None and kind != "anndata":
        raise UserError(f"layer is for AnnData; got it with {type(source).__name__}. Leave it out.")
    if kind == "anndata":
        return _from_anndata(source, label, layer)
    if kind == "xarray":
        return _from_xarray(source, label)
    if kind == "datasets":
        return _from_hugging_face(source, label)
    if kind == "torch":
        return _from_loader(source, label) if isinstance(source, DataLoader) else _from_items(source, label)
    if kind == "frame":
        return _from_frame(_frame(source), label, "the table", mixed=mixed)
    return None


def kind_of(source: Any) -> str:
    """Return anndata, xarray, datasets, torch, frame, array for what has ``__array__``, or ""."""
    roots = {cls.__module__.partition(".")[0] for cls in type(source).__mro__}
    for root in ("anndata", "xarray", "datasets"):
        if root in roots:
            return root
    if isinstance(source, TorchDataset | DataLoader):
        return "torch"
    if isinstance(source, np.ndarray | torch.Tensor | tuple | list | str | bytes):
        return ""
    if hasattr(source, "__arrow_c_stream__") or _is_frame(source):
        return "frame"
    return "array" if hasattr(source, "__array__") else ""


def to_array(source: Any, layer: str = "") -> Any:
    """Return the values of any of these kinds as an array; arrays, tensors and all else as they are.

    Args:
        source: the object.
        layer: of an AnnData, in place of its ``X``.
    """
    content = from_object(source, layer=layer or None if kind_of(source) == "anndata" else None)
    if content is not None:
        return content.x
    return np.asarray(source) if kind_of(source) == "array" else source


def like(values: torch.Tensor, template: Any) -> Any:
    """Return ``values``, (n, ...), in the kind of ``template``: its columns where there are as many, and its index.

    Of a DataArray the coordinates come back: all where the values lie as it does, those of its examples where they are
    something else, as data for z. What comes from a torch ``Dataset`` or ``DataLoader`` is a tensor.
    """
    kind = kind_of(template)
    if isinstance(template, torch.Tensor) or kind == "torch":
        return values
    array = values.numpy()
    if kind == "anndata" and array.shape == template.shape:
        result = template.copy()
        result.X = array
        return result
    if kind == "xarray":
        return _like_xarray(array, template)
    if kind == "datasets" and not isinstance(template, Mapping) and hasattr(template, "from_dict"):
        names = _names(array, [name for name in template.column_names if array.ndim == 2])
        return type(template).from_dict(_columns(array, names))
    if kind == "frame" and array.ndim == 2:
        import narwhals as nw

        frame = _frame(template)
        backend = nw.get_native_namespace(frame)
        native = nw.from_dict(_columns(array, _names(array, frame.columns)), backend=backend).to_native()
        if hasattr(template, "index") and hasattr(native, "index"):
            native.index = template.index
        return native
    return array


def _names(array: Array, names: Sequence[str]) -> list[str]:
    if array.ndim != 2:
        return ["x"]
    return list(names) if len(names) == array.shape[1] else [f"c{number}" for number in range(array.shape[1])]


def _columns(array: Array, names: list[str]) -> dict[str, Any]:
    return dict(zip(names, array.T if array.ndim == 2 else [array.tolist()], strict=True))


def _is_frame(source: Any) -> bool:
    import narwhals as nw

    return isinstance(nw.from_native(source, pass_through=True), nw.DataFrame | nw.LazyFrame)


def _frame(source: Any) -> Any:
    """Return a narwhals frame in memory."""
    import narwhals as nw

    frame = nw.from_native(source, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        return frame.collect()
    if isinstance(frame, nw.DataFrame):
        return frame
    check_arrow(type(source).__name__)
    import pyarrow

    try:
        return nw.from_native(pyarrow.table(source), eager_only=True)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise UserError(f"{type(source).__name__} should be a table with columns; it is not ({error}).") from None


def _from_frame(frame: Any, label: str | None, source: str, names: Sequence[str] = (), mixed: bool = False) -> Content:
    """Take the numbers of a narwhals frame; ``names`` of the classes, where the label's column holds their numbers."""
    if not len(frame):
        raise UserError(f"{source} should have rows of numbers; it has none. Give another.")
    columns = [str(column) for column in frame.columns]
    wanted, target = choose_columns(columns, label, source)
    series = [frame.get_column(frame.columns[place]) for place in wanted]
    y = None if target is None else _classes(frame.get_column(frame.columns[target]).to_list())
    kept = tuple(columns[place] for place in wanted)
    if mixed:
        check_arrow(source)
        read = [read_arrow_column(_arrow(one), name, source) for one, name in zip(series, kept, strict=True)]
        return replace(by_column("table", read, y, kept, source), class_names=tuple(names))
    for place, one in zip(wanted, series, strict=True):
        if not (one.dtype.is_numeric() or str(one.dtype) == "Boolean"):
            raise UserError(
                f"{source}, column '{columns[place]}': expected numbers; got {one.dtype}. Take the column out, or name "
                "it with label."
            )
    values = np.stack([_numbers(one) for one in series], axis=1)
    return Content("table", narrow(values, source), y, tuple(names), kept)


def _arrow(series: Any) -> Any:
    """Return a column of a narwhals frame as Arrow's, its missing cells null."""
    import pyarrow as pa

    found = series.to_arrow()
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def _numbers(series: Any) -> Array:
    """Return a column as float64, NaN where there is nothing."""
    import narwhals as nw

    return np.asarray(series.cast(nw.Float64).to_numpy(), dtype=np.float64)


def _classes(cells: Iterable[Any]) -> Array:
    """Return labels as texts or numbers; None and NaN are unknown."""
    return read_labels(["" if cell is None or cell != cell else str(cell).strip() for cell in cells])


def _from_anndata(source: Any, label: str | None, layer: str | None) -> Content:
    if layer is not None and layer not in source.layers:
        raise UserError(f"the AnnData has no layer '{layer}'. {did_you_mean(layer, source.layers)}")
    if label is not None and label not in source.obs.columns:
        raise UserError(f"the AnnData has no obs column '{label}'. {did_you_mean(label, source.obs.columns)}")
    values = source.X if layer is None else source.layers[layer]
    check_memory(8 * source.shape[0] * source.shape[1], "the AnnData")
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values[:])
    columns = tuple(map(str, source.var_names))
    y = None if label is None else _classes(source.obs[label].tolist())
    return Content("anndata", as_data(values, "the AnnData"), y, (), columns, tuple(map(str, source.obs_names)))


def _from_xarray(source: Any, label: str | None) -> Content:
    examples = _examples_first(source)
    sample = examples.dims[0]
    along = {str(name): coordinate for name, coordinate in examples.coords.items() if coordinate.dims == (sample,)}
    if label is not None and label not in along:
        raise UserError(
            f"the DataArray has no coordinate '{label}' along '{sample}'. {did_you_mean(label, along)}".rstrip()
        )
    check_memory(8 * examples.size, "the DataArray")
    columns: tuple[str, ...] = ()
    if examples.ndim == 2 and examples.dims[1] in examples.coords:
        columns = tuple(map(str, examples.coords[examples.dims[1]].values))
    items = tuple(map(str, along[sample].values)) if sample in along else None
    y = None if label is None else _classes(along[label].values.tolist())
    return Content("dataarray", as_data(examples.values, "the DataArray"), y, (), columns, items)


def _examples_first(source: Any) -> Any:
    """Return a DataArray whose first dimension counts the examples: the one called ``sample``, else the first."""
    if not hasattr(source, "dims") or hasattr(source, "data_vars") or not source.ndim:
        raise UserError(
            f"{type(source).__name__} of xarray should be a DataArray with a dimension of examples; it is not. Give "
            "one array of it, as dataset['x']."
        )
    return source.transpose(SAMPLE, ...) if SAMPLE in source.dims else source


def _like_xarray(array: Array, template: Any) -> Any:
    examples = _examples_first(template)
    as_it_lies = array
    if array.ndim == examples.ndim + 1 == 4 and array.shape[1] == 1:  # grey images without an axis of channels
        as_it_lies = array[:, 0]
    elif array.ndim == examples.ndim == 4 and array.shape != examples.shape:  # channels last
        as_it_lies = np.moveaxis(array, 1, -1)
    if as_it_lies.shape == examples.shape:
        return examples.copy(data=as_it_lies).transpose(*template.dims)
    if examples.ndim == 2 and array.ndim in (2, 4) and len(array) == len(examples):
        sample = examples.dims[0]
        kept = {name: coordinate for name, coordinate in examples.coords.items() if coordinate.dims == (sample,)}
        return type(template)(array, dims=(sample, *(f"dim_{axis}" for axis in range(1, array.ndim))), coords=kept)
    return array


def _from_hugging_face(source: Any, label: str | None) -> Content:
    """Take a Dataset, an IterableDataset, or a dictionary of splits."""
    if isinstance(source, Mapping):
        unknown = [name for name in source if name not in PARTS]
        if unknown or "train" not in source:
            raise UserError(
                f"a dictionary of splits should have train, and perhaps validation and test; got {', '.join(source)}. "
                "Give one of its splits."
            )
        parts = {PARTS[name]: _from_hugging_face(part, label) for name, part in source.items()}
        return _joined(parts)
    features = getattr(source, "features", None)
    if features is None or not hasattr(source, "with_format") or not hasattr(source, "__getitem__"):
        return _from_items(source, label)
    if label is None:
        label = next((name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"), None)
    names = tuple(getattr(features.get(label), "names", None) or ()) if label in features else ()
    rest = {name: feature for name, feature in features.items() if name != label}
    pictures = [name for name, feature in rest.items() if type(feature).__name__ == "Image"]
    arrays = [name for name, feature in rest.items() if type(feature).__name__ not in ("Value", "ClassLabel")]
    if pictures or (arrays and len(rest) == 1):
        key = pictures[0] if pictures else next(iter(rest))
        plain = source.with_format(None)
        x = _stacked([np.asarray(item) for item in plain[key]], "the dataset")
        y = None if label is None else np.asarray(plain[label])
        return Content("dataset", as_data(x, "the dataset"), y, names)
    table = source.with_format("arrow")[:]
    return _from_frame(_frame(table), label, "the dataset", names)


def _joined(parts: Mapping[str, Content]) -> Content:
    """Return contents of the same kind as one, with their rows as splits that are given."""
    first = parts["train"]
    rows, start = {}, 0
    for name, part in parts.items():
        rows[name] = np.arange(start, start + len(part.x))
        start += len(part.x)
    x = _stacked([part.x for part in parts.values()], "the dataset", np.concatenate)
    labels = [part.y for part in parts.values() if part.y is not None]
    y = np.concatenate(labels) if len(labels) == len(parts) else None
    return Content(first.name, x, y, first.class_names if y is not None else (), first.columns, given=rows)


def _from_loader(source: DataLoader[Any], label: str | None) -> Content:
    """Take what a loader gives, and remember its batch size and what chooses its examples."""
    batches = source.batch_sampler
    if batches is None:  # batching is off: its items are those of the data set
        return _from_items(source, label)
    size = source.batch_size if source.batch_size is not None else getattr(batches, "batch_size", None)
    sampler = type(getattr(batches, "sampler", batches)).__name__
    return replace(_from_items(source, label, batched=True), loader=Loader(size, sampler))


def _from_items(source: Any, label: str | None, batched: bool = False) -> Content:
    """Take every item, or batch, of ``source`` once, in its own order: x, (x, y), or a dictionary."""
    xs, ys = [], []
    for item in _items(source):
        x, y = _pair(item, label)
        xs.append(_plain(x))
        ys.append(None if y is None else _plain(y))
    if not xs:
        raise UserError(f"{type(source).__name__} should hold examples; it has none. Give another.")
    name = type(source).__name__
    join = np.concatenate if batched else np.stack
    known = [np.atleast_1d(y) for y in ys if y is not None]
    y = _stacked(known, f"the labels of {name}", np.concatenate) if len(known) == len(ys) else None
    return Content(name.lower(), as_data(_stacked(xs, name, join), name), y)


def _items(source: Any) -> Iterable[Any]:
    if isinstance(source, DataLoader | IterableDataset) or not hasattr(source, "__getitem__"):
        return source  # type: ignore[no-any-return]
    return (source[number] for number in range(len(source)))


def _pair(item: Any, label: str | None) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        y_key = label if label is not None else next((key for key in Y_KEYS if key in item), None)
        if label is not None and label not in item:
            raise UserError(f"the items have no '{label}'. {did_you_mean(label, item)}")
        rest = [key for key in item if key != y_key]
        key = next((key for key in X_KEYS if key in rest), rest[0] if len(rest) == 1 else None)
        if key is None:
            raise UserError(
                f"the items should have one entry for the data, as x or image; got {', '.join(map(str, item))}. Map "
                "them to (x, y)."
            )
        return item[key], None if y_key is None else item[y_key]
    if isinstance(item, tuple | list) and 1 <= len(item) <= 2:
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _plain(value: Any) -> Array:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _stacked(arrays: Sequence[Array], source: str, join: Any = np.stack) -> Array:
    """Return the arrays as one; they must have the same shape."""
    try:
        return np.asarray(join(arrays))
    except ValueError:
        shapes = sorted({array.shape for array in arrays}, key=str)[:3]
        raise UserError(
            f"{source} should hold examples of one shape; got {', '.join(map(str, shapes))}. Resize them first."
        ) from None
