r"""Labels where there are some, all of them tried where there are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UserError
from sfumato.core.interfaces import MODEL, Network, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import NonNegative, Size, register
from sfumato.core.terms import Terms
from sfumato.objectives.values import kl_of, needs_density, with_penalties


@final
@register("objective")
class SemiSupervised(Objective):
    r"""With L(x, y) = ELBO of x given y + log p(y), a bound on log p(x, y), and a classifier q(y | x), nats:

        known y:    loss = -L(x, y) - a log q(y | x)
        unknown y:  loss = -sum_y q(y | x) L(x, y) + sum_y q(y | x) log q(y | x),   a bound on -log p(x)

    Every y is tried, so a step costs as many passes as there are classes. p(y) is uniform. The classifier is trained
    beside the model and is not delivered: a model with classes classifies by its own densities.

    Reference: M2 of Semi-Supervised Learning with Deep Generative Models, Kingma et al., 2014,
    https://arxiv.org/abs/1406.5298.

    Args:
        classifier: an example to the logits of q(y | x), ``out_shape=(classes,)``.
        weight: a.
        samples: draws of z for each example and class.

    Returns (call):
        losses {"model": (batch,), "classifier": (batch,)}, the same numbers; values ``elbo`` (the bound on log p(x, y),
        or on log p(x)), its ``reconstruction`` and ``kl``, averaged over y, and ``classification`` = -log q(y | x), 0
        where y is unknown.

    >>> from sfumato.networks import MLP
    >>> SemiSupervised(MLP((784,), (10,)), weight=50.0).groups
    ('model', 'classifier')
    """

    def __init__(self, classifier: Network, weight: NonNegative = 1.0, samples: Size = 1) -> None:
        super().__init__()
        if len(classifier.out_shape) != 1 or classifier.out_shape[0] < 2:
            raise UserError(
                f"SemiSupervised needs a classifier with one output a class, out_shape=(classes,); got "
                f"{classifier.out_shape}. Build it so."
            )
        self.classifier, self.weight, self.samples = classifier, weight, samples
        self.classes = classifier.out_shape[0]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """q(y | x)."""
        return {"classifier": self.classifier}

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values; ``step`` makes no difference.

        Raises:
            UserError: there are no labels, or the terms know no model that could try others.
        """
        needs_density(terms, "SemiSupervised")
        if terms.y is None or terms.given is None:
            raise UserError(
                "SemiSupervised needs labels, -1 where unknown, and a model that can try others; got "
                f"{'no labels' if terms.y is None else 'terms without a model'}. Train with classes, on labelled data."
            )
        tried = [terms.given(torch.full_like(terms.y, each)) for each in range(self.classes)]
        reconstruction = torch.stack([-each.log_likelihood.mean(0) for each in tried], -1)
        kl = torch.stack([_total_kl(each) for each in tried], -1)
        paid = torch.stack([with_penalties(torch.zeros_like(kl[:, 0]), each) for each in tried], -1)
        logs = torch.log_softmax(self.classifier(terms.x), -1)
        known = terms.y >= 0
        one_hot = F.one_hot(terms.y.clamp(min=0), self.classes).to(logs)
        shares = torch.where(known.unsqueeze(-1), one_hot, logs.exp())
        entropy = torch.where(known, 0.0, -(logs.exp() * logs).sum(-1))
        classification = torch.where(known, -(one_hot * logs).sum(-1), 0.0)

        def averaged(values: Tensor) -> Tensor:
            return (shares * values).sum(-1)

        elbo = entropy - averaged(reconstruction + kl) - math.log(self.classes)
        loss = averaged(paid) - elbo + self.weight * classification
        values = {"reconstruction": averaged(reconstruction), "kl": averaged(kl), "elbo": elbo}
        values["classification"] = classification
        return ObjectiveOutput(
            {MODEL: loss, "classifier": loss}, {name: value.detach() for name, value in values.items()}
        )


def _total_kl(terms: Terms) -> Tensor:
    kl = kl_of(terms)
    assert kl is not None
    return kl.sum(0)
