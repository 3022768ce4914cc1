r"""Classification by Bayes' rule, and how often a class is right.

p(y | x) = p(y) p(x | y) / sum_y' p(y') p(x | y'),   with p_K(x | y), the mean of K importance weights, for p(x | y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from sfumato.data import Examples
from sfumato.evaluation.bounds import class_bounds, log_class_weights
from sfumato.evaluation.estimate import Estimate, mean_estimate
from sfumato.evaluation.measuring import measuring
from sfumato.evaluation.passes import Tell, batches
from sfumato.models import Model


@dataclass(frozen=True, eq=False)
class Accuracy:
    """How often a predicted class is the true one, as fractions.

    Args:
        overall: over all examples whose class is known.
        per_class: over the examples of each class; NaN where there are none.
        confusion: how often class i (row) was taken for class j (column).
    """

    overall: Estimate
    per_class: tuple[Estimate, ...]
    confusion: Int64[Tensor, "classes classes"]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain json."""
        return {
            "overall": self.overall.to_dict(),
            "per_class": [estimate.to_dict() for estimate in self.per_class],
            "confusion": self.confusion.tolist(),
        }


def accuracy(truth: Int64[Tensor, " n"], predicted: Int64[Tensor, " n"], num_classes: int) -> Accuracy:
    """Compare class numbers. Examples of unknown class (-1) say nothing about accuracy and are not among the n."""
    known = truth >= 0
    truth, predicted = truth[known].cpu(), predicted[known].cpu()
    right = (truth == predicted).double()
    confusion = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return Accuracy(
        overall=mean_estimate(right, "fraction"),
        per_class=tuple(mean_estimate(right[truth == number], "fraction") for number in range(num_classes)),
        confusion=confusion.reshape(num_classes, num_classes),
    )


def class_posterior(
    model: Model, x: Tensor, *, samples: int, seed: int = 0, block: int | None = None
) -> Float64[Tensor, "batch classes"]:
    """Return log p(y | x) by Bayes' rule, nats. Arguments and errors as :func:`~.bounds.class_bounds`."""
    joint = class_bounds(model, x, samples=samples, seed=seed, block=block) + log_class_weights(model).double()
    return joint.log_softmax(-1)


def bayes_accuracy(
    model: Model,
    examples: Examples,
    preprocessing: nn.Module,
    *,
    samples: int,
    seed: int = 0,
    tell: Tell | None = None,
) -> Accuracy:
    """Classify a split by Bayes' rule, by the most probable class.

    Args:
        model: a model with classes, in any mode.
        examples: a split with labels.
        preprocessing: raw data to the model's input.
        samples: K, for each class.
        seed: of the noise.
        tell: see :func:`~sfumato.evaluation.passes.batches`.

    Raises:
        UserError: as :func:`~sfumato.evaluation.bounds.class_bounds`.
    """
    truth, predicted = [], []
    with measuring(model) as device:
        for x, y, _, own in batches(examples, preprocessing, device, seed, tell, "classes"):
            predicted.append(class_posterior(model, x, samples=samples, seed=own).argmax(-1))
            truth.append(torch.full_like(predicted[-1], -1) if y is None else y)
    return accuracy(torch.cat(truth), torch.cat(predicted), model.num_classes)
