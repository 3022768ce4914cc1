"""Modules to ONNX, and ONNX run: through torch's exporter (dynamo) and onnxruntime, both of the extra ``onnx``.

The batch is dynamic, weights lie inside the file, and what the file is for stands in its metadata.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.core.errors import SfumatoError, UserError

BATCH = 2  # of the example that is traced; 1 would be taken for a constant


def to_onnx(
    module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], metadata: Mapping[str, str]
) -> bytes:
    """Return ``module`` as the bytes of an ONNX file.

    Args:
        module: in evaluation mode; its call takes the inputs by name.
        inputs: argument of the call -> an example of a batch of two, whose first axis may then have any length.
        outputs: the names of what it returns.
        metadata: texts for the file.

    Raises:
        UserError: the extra is not installed. SfumatoError: the module does something that ONNX has not.
    """
    for name in ("onnx", "onnxscript"):
        needed(name)
    batch = torch.export.Dim("batch")
    shapes = {name: {0: batch} for name in inputs}
    try:
        with quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (),
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(outputs),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch's exporter raises whatever its parts raise
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SfumatoError(f"this model cannot be written as ONNX ({first[:200]}). Export --to hub instead.") from error
    assert program is not None
    proto = program.model_proto
    proto.doc_string = metadata.get("description", "")
    proto.producer_name = "sfumato"
    for key, value in metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    for entry in proto.graph.input:
        if not entry.type.tensor_type.shape.dim[0].dim_param:
            raise SfumatoError(f"the exporter took the batch of {entry.name} for a constant. Please report this.")
    checker = needed("onnx").checker
    checker.check_model(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def run_onnx(data: bytes, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return what an ONNX file makes of arrays, by the names of its outputs."""
    runtime = needed("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest difference of outputs, each divided by its largest value where that is above 1."""
    found = [0.0]
    for name, tensor in ours.items():
        exact, other = tensor.double().numpy(), np.asarray(theirs[name], dtype=np.float64)
        if exact.shape != other.shape:
            raise SfumatoError(f"{name} came back as {other.shape}; expected {exact.shape}. Please report this.")
        if exact.size:
            gap = np.abs(exact - other).max() / max(1.0, float(np.abs(exact).max()))
            found.append(float(gap) if np.isfinite(gap) else float("inf"))
    return max(found)


def needed(name: str) -> Any:
    """Import a package of the extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"ONNX needs {name}, which is not installed. Run: pip install 'sfumato[onnx]'.") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's talk, which is about packages that sfumato does not use, to itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.StringIO()):
                yield
    finally:
        logging.disable(before)
