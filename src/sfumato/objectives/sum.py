r"""Objectives that add up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, final

from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import Length, Real, register
from sfumato.core.terms import Terms

Members = Annotated[tuple[Objective, ...], Length(64)]
Weights = Annotated[tuple[Real, ...], Length(64)]


@final
@register("objective")
class Sum(Objective):
    r"""loss = sum_i w_i loss_i for every group of the model's parameters; written ``ELBO() + 10 * MMD()``.

    A network that a term trains beside the model keeps its own loss, without the weight. All terms read the same draws.
    What is reported are the values of every term, without weights: the bound among them keeps its ``elbo``. Of two
    values of one name that of the first term counts. Penalties of the model's parts belong to the bounds, and have
    their weights.

    Reference: CIWAE, Tighter Variational Bounds are Not Necessarily Better, Rainforth et al., 2018,
    https://arxiv.org/abs/1802.04537, is ``b * ELBO(samples=K) + (1 - b) * IWAE(K)``; InfoVAE, Zhao et al., 2019,
    https://arxiv.org/abs/1706.02262, is ``ELBO(beta=1 - a) + (a + l - 1) * MMD()``; Wasserstein Auto-Encoders,
    Tolstikhin et al., 2018, https://arxiv.org/abs/1711.01558, is ``ELBO(beta=0) + l * MMD()``.

    Args:
        terms: the objectives. Those that ask for draws ask for the same number.
        weights: w, one for each.

    Returns (call):
        the losses of all groups of the terms, (batch,), and their values.

    >>> from sfumato.objectives import ELBO, IWAE
    >>> ciwae = 0.3 * ELBO(samples=5) + 0.7 * IWAE(samples=5)
    >>> ciwae.weights, ciwae.samples
    ((0.3, 0.7), 5)
    """

    def __init__(self, terms: Members, weights: Weights) -> None:
        super().__init__()
        if not terms or len(terms) != len(weights):
            raise UserError(
                f"Sum needs one weight for each term; got {len(terms)} terms and {len(weights)} weights. Write it as "
                "ELBO() + 10 * MMD()."
            )
        self.terms, self.weights = nn.ModuleList(terms), tuple(weights)
        asked = {term.samples for term in terms if not term.any_samples} or {max(term.samples for term in terms)}
        if len(asked) > 1:
            raise UserError(
                "the terms of a sum share their draws of z, and these ask for "
                f"{' and '.join(map(str, sorted(asked)))}. Give all the same samples."
            )
        (self.samples,) = asked
        names = [name for term in terms for name in term.networks]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"two terms of a sum train a network of their own called '{name}'. Use one of them.")

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Those of all terms."""
        return {name: network for term in self._terms() for name, network in term.networks.items()}

    @property
    def groups(self) -> tuple[str, ...]:
        """Those of all terms."""
        return tuple(dict.fromkeys(group for term in self._terms() for group in term.groups))

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the losses and values at ``step``."""
        losses: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        for term, weight in self.pairs():
            output = term(terms, step)
            for group, loss in output.losses.items():
                weighted = loss if group in term.networks else weight * loss
                losses[group] = losses[group] + weighted if group in losses else weighted
            values = {**output.values, **values}
        return ObjectiveOutput(losses, values)

    def pairs(self) -> list[tuple[Objective, float]]:
        """Return the terms with their weights."""
        return list(zip(self._terms(), self.weights, strict=True))

    def _terms(self) -> list[Objective]:
        return list(self.terms)  # type: ignore[arg-type]
