"""Parts of a model that start from training examples: the pseudo-inputs of a VampPrior, the codes of an Exemplar."""

from __future__ import annotations

import torch

from sfumato.core.numerics import fixed_noise, seed_for
from sfumato.data import Dataset, Preprocessing
from sfumato.models import Model

EXAMPLES = 0x6578616D  # "exam": keeps these random numbers apart from others with the same seed


def start_parts(model: Model, preprocessing: Preprocessing, dataset: Dataset, seed: int) -> None:
    """Give training examples, as the encoder sees them, to the parts that start from some: ``seed`` says which."""
    parts = [part for part in model.modules() if hasattr(part, "start_from")]
    if not parts:
        return
    train = preprocessing.prepare(dataset).split("train")
    with fixed_noise(seed_for(EXAMPLES, seed)):
        order = torch.randperm(len(train))
        for part in parts:
            raw, _ = train.batch(order[: part.starts_from])
            seen = preprocessing.expected(raw) if getattr(part, "drawn", False) else preprocessing(raw)
            part.start_from(seen)  # type: ignore[operator]
