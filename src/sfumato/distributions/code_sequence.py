r"""Codes, each drawn given those before it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from sfumato.distributions.delta import Delta

Map = Callable[[Tensor], Tensor]
LARGEST = 2**24  # numbers of the conditionals of the rows that are scored together
COLDEST = 1e-6


@final
class CodeSequence(Distribution):
    r"""P(z) = prod_t P(c_t | c_1 ... c_(t-1)) at z = D(c), for codes c_1 ... c_T and one z for each sequence of codes.

    These are probabilities: they add up to 1 over the codes. A z between the z of codes has the probability of its
    nearest, which is what rounding asks for.

    Reference: Neural Discrete Representation Learning, van den Oord et al., 2017, https://arxiv.org/abs/1711.00937.

    Args:
        conditionals: the first t codes, (n, t), on any device, to logits, (n, t + 1, values): those of code s + 1 see
            the first s alone. -inf where a code has fewer values.
        there: D, codes (..., T) to z, (..., *event).
        back: its inverse.
        codes: T.
        values: of a code, at most.
        event_shape: of z.

    ``log_prob`` takes (..., *event) and returns nats, (...).

    >>> fair = lambda c: torch.zeros(len(c), c.shape[1] + 1, 2)
    >>> coins = CodeSequence(fair, lambda c: c.float(), torch.round, 3, 2, (3,))
    >>> coins.log_prob(torch.tensor([0.0, 1.0, 1.0])).exp()
    tensor(0.1250)
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self, conditionals: Map, there: Map, back: Map, codes: int, values: int, event_shape: Sequence[int]
    ) -> None:
        self.conditionals, self.there, self.back = conditionals, there, back
        self.codes, self.values = codes, values
        self.temperature = 1.0
        self.known: tuple[Tensor, Tensor] | None = None
        super().__init__(torch.Size(), torch.Size(event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log P(z).

        Raises:
            UserError: the codes cannot be told from z; see :meth:`knowing`.
        """
        if self.known is not None:
            point, codes = self.known
            lead = value.shape[: value.ndim - len(self.event_shape)]
            if value.shape[value.ndim - point.ndim :] == point.shape and bool((value == point).all()):
                return self.log_prob_of(codes).expand(lead)
        return self.log_prob_of(self.back(value).long())

    def log_prob_of(self, codes: Int[Tensor, "... codes"]) -> Float[Tensor, ...]:
        """Return log P(c), nats."""
        rows = codes.reshape(-1, self.codes)
        found = [self._scored(part) for part in torch.split(rows, max(1, LARGEST // (self.codes * self.values)))]
        return torch.cat(found).reshape(codes.shape[:-1])

    def knowing(self, point: Delta) -> CodeSequence:
        """Return this distribution, told of which codes the value of ``point`` is made."""
        assert point.codes is not None
        same = copy.copy(self)
        same.known = point.value, point.codes
        return same

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return draws of z, (*sample_shape, *event)."""
        with torch.no_grad():
            return self.there(self.sample_codes(tuple(sample_shape)))

    @torch.no_grad()
    def sample_codes(self, sample_shape: tuple[int, ...] = ()) -> Int[Tensor, "... codes"]:
        """Return draws of c, (*sample_shape, codes), one code after the other."""
        codes = torch.zeros(math.prod(sample_shape), 0, dtype=torch.long)
        for _ in range(self.codes if len(codes) else 0):
            chances = self._log_conditionals(codes)[:, -1].exp()
            codes = torch.cat([codes.to(chances.device), torch.multinomial(chances, 1)], 1)
        return codes.reshape(*sample_shape, self.codes)

    def tempered(self, temperature: float) -> CodeSequence:
        """Return the codes with every conditional to the power of 1 / temperature; 0 takes the likeliest code."""
        same = copy.copy(self)
        same.temperature = self.temperature * temperature
        return same

    @property
    def mean(self) -> Tensor:
        """z of the codes of which each is the likeliest given those before, (*event): a typical z, for there is no
        average of codes.
        """
        return self.tempered(0.0).sample()

    def _scored(self, codes: Tensor) -> Tensor:
        found = self._log_conditionals(codes[:, :-1])
        return found.gather(-1, codes.unsqueeze(-1)).squeeze(-1).sum(-1)

    def _log_conditionals(self, codes: Tensor) -> Tensor:
        return (self.conditionals(codes) / max(self.temperature, COLDEST)).log_softmax(-1)


@register_kl(Delta, CodeSequence)  # type: ignore[no-untyped-call, untyped-decorator]
def _kl(q: Delta, p: CodeSequence) -> Tensor:
    return -p.knowing(q).log_prob(q.value)
