r"""Feature extractors: what an example looks like to a declared network, as one row of numbers.

A distance between data and samples means nothing without the features it was measured in. So an extractor carries its
name and the SHA-256 of its weights, which stand beside every figure, and says what it looks at: the model's input, or
the data in their own units.

Without one, the extractor is the :class:`~sfumato.evaluation.classifier.Judge` that was trained on the training split,
up to its last layer; for data without classes, the first principal components of the training split.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sfumato.core.errors import UserError
from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Dataset, Examples, InMemory, Preprocessing
from sfumato.evaluation.classifier import Judge, train_judge
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import Tell, batches
from sfumato.io.tensors import digest

COMPONENTS = 64
PCA_EXAMPLES = 1_000
STREAM = 0x6665617475726573  # "features": keeps these random numbers apart from others with the same seed
ONNX_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
}


@dataclass(frozen=True, eq=False)
class Extractor:
    """A map from examples to rows of features, and which one it is.

    Args:
        name: what it is, in words.
        sha256: of its weights; of the whole file for one that came in a file.
        sees: "preprocessed", the model's input, or "raw", the data in their own units.
        apply: (batch, *data) to (batch, features), in the order of the batch.
    """

    name: str
    sha256: str
    sees: Literal["preprocessed", "raw"]
    apply: Callable[[Tensor], Tensor]

    def __call__(self, x: Float[Tensor, "batch ..."], preprocessing: Preprocessing) -> Float64[Tensor, "batch d"]:
        """Return the features of a batch, in main memory.

        Args:
            x: as the model sees it, or as the model made it.
            preprocessing: its inverse gives both kinds their own units again, the same way.
        """
        return self.apply(x if self.sees == "preprocessed" else preprocessing.inverse(x)).double().cpu()


def default_extractor(
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    tell: Tell | None = None,
) -> Extractor:
    """Return the judge's features where there are at least two classes, else principal components.

    Args:
        dataset: its training split is what the extractor is made from; prepared, see ``Preprocessing.prepare``.
        preprocessing: raw data to the model's input.
        seed: everything random follows from it.
        device: where ``preprocessing`` lies, and to train the judge.
        tell: called as tell("judge", steps done, steps in all).
    """
    if dataset.y is None or dataset.num_classes < 2:
        return principal_features(dataset.split("train"), preprocessing, seed=seed, device=device)
    return judge_features(train_judge(dataset, preprocessing, seed=seed, device=device, tell=tell))


def judge_features(judge: Judge) -> Extractor:
    """Return the input of the judge's last layer: 128 numbers for an image, 256 for anything else.

    Args:
        judge: trained on the training split.
    """
    body = judge.layers[:-1]

    def apply(x: Tensor) -> Tensor:
        with measuring(judge) as device:
            features: Tensor = body(x.to(device))
            return features

    return Extractor("penultimate layer of the built-in classifier", digest(judge.state_dict()), "preprocessed", apply)


def principal_features(
    train: Examples,
    preprocessing: Preprocessing,
    *,
    seed: int = 0,
    components: int = COMPONENTS,
    device: torch.device | str = "cpu",
) -> Extractor:
    """Return the projection on the first principal components, not whitened: (x - mean) V, V orthonormal.

    Args:
        train: the training split; at most 1,000 of it, chosen by the seed, decide the components.
        preprocessing: raw data to the model's input.
        seed: of the choice and of the preprocessing's noise.
        components: how many; fewer where the data have fewer dimensions or examples.
        device: where ``preprocessing`` lies.
    """
    some = choose(train, PCA_EXAMPLES, seed)
    x = torch.cat(
        [x.flatten(1).double().cpu() for x, _, _, _ in batches(some, preprocessing, torch.device(device), seed)]
    )
    mean = x.mean(0)
    basis = torch.linalg.svd(x - mean, full_matrices=False).Vh[:components].T.contiguous()
    name = f"first {basis.shape[1]} principal components of the training split"
    sha256 = digest({"mean": mean, "basis": basis})
    return Extractor(name, sha256, "preprocessed", lambda x: (x.flatten(1).double().cpu() - mean) @ basis)


def onnx_features(path: str | Path, *, sees: Literal["preprocessed", "raw"] = "raw") -> Extractor:
    """Return the first output of a network in an ONNX file, flattened to one row an example.

    Args:
        path: the file, weights inside; its one input is (batch, *data), with any number of examples in a batch.
        sees: "raw" gives it the data in their own units, in the type that its input has; "preprocessed" the model's
            input.

    Raises:
        UserError: onnxruntime is not installed, or the file is no such network.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the extractor {path} cannot be read ({error.strerror}). Give an ONNX file that exists."
        ) from None
    session, name, dtype = _open(data, path.name)

    def apply(x: Tensor) -> Tensor:
        array = x.detach().to("cpu", dtype).contiguous().numpy()
        try:
            out = torch.from_numpy(session.run(None, {name: array})[0])
        except Exception as error:  # onnxruntime has no public class for what a network says to a wrong shape
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the extractor {path.name} does not take examples of shape {tuple(x.shape[1:])} ({first}). "
                "Export it for that shape, with a dynamic batch."
            ) from None
        if out.ndim < 2 or out.shape[0] != x.shape[0]:
            raise UserError(
                f"the extractor {path.name} should give one row an example, ({x.shape[0]}, features); got "
                f"{tuple(out.shape)}. Export another output first."
            )
        return out.flatten(1)

    return Extractor(path.name, hashlib.sha256(data).hexdigest(), sees, apply)


def _open(data: bytes, title: str) -> tuple[Any, str, torch.dtype]:
    """Return the session, the name of its input, and the type that this input has."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        raise UserError(f"{title} needs onnxruntime, which is not installed. Run: pip install 'sfumato[onnx]'.") from (
            None
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    try:  # from memory: weights outside the file would not be under its hash, and are not found
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{title} is not a whole ONNX network with its weights inside ({first}). Export it again."
        ) from None
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in ONNX_TYPES:
        got = ", ".join(f"{one.name} {one.type}" for one in inputs) or "none"
        raise UserError(f"the extractor {title} should have one input, a tensor of numbers; got {got}. Export another.")
    return session, inputs[0].name, ONNX_TYPES[inputs[0].type]


def choose(examples: Examples, count: int, seed: int) -> Examples:
    """Return ``count`` of the examples in random order, chosen by the seed; all, as they are, where there are no more.

    Args:
        examples: a split.
        count: how many.
        seed: of the choice.
    """
    if len(examples) <= count:
        return examples
    with fixed_noise(seed_for(STREAM, seed)):
        return InMemory(*examples.batch(torch.randperm(len(examples))[:count]))
