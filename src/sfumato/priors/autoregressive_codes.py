r"""A prior over the codes of a quantiser."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Prior
from sfumato.core.spaces import CODES
from sfumato.core.spec import Length, Range, Shape, Size, register
from sfumato.core.whole import NeedsWhole
from sfumato.distributions import CodeSequence
from sfumato.networks.transformer import tower

Sizes = Annotated[tuple[Annotated[int, Range(2, 65_536)], ...], Length(64)]


@final
@register("prior")
class AutoregressiveCodes(NeedsWhole, Prior):
    r"""P(z) = prod_t P(c_t | c_1 ... c_(t-1)), the codes of z in a row, place by place, each given all before it.

    The conditionals are softmaxes of what a causal transformer says. The vectors of the codes are those of the model's
    quantiser, whose z alone have a probability; there the ELBO is log p(x | z) + log P(z), exactly, and the importance
    bound the same for every K. It is fitted when the quantiser is trained (:func:`sfumato.fit_prior`).

    Reference: Neural Discrete Representation Learning, van den Oord et al., 2017, https://arxiv.org/abs/1711.00937;
    with a transformer: Taming Transformers for High-Resolution Image Synthesis, Esser et al., 2021,
    https://arxiv.org/abs/2012.09841.

    Args:
        latent_shape: the shape of z: (channels,), one place, or (channels, ...).
        code_sizes: how many values each code of a place has, as the quantiser's ``code_sizes`` says.
        width: numbers of a code inside the transformer, a multiple of ``heads``.
        heads: of its attention.
        depth: its blocks.

    Returns (call):
        a :class:`~sfumato.distributions.CodeSequence` of batch shape () and event shape ``latent_shape``; labels make
        no difference to it.

    >>> from sfumato.likelihoods import Bernoulli
    >>> from sfumato.models import VAE
    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import LookupFreeQuantiser
    >>> posterior = LookupFreeQuantiser(MLP((784,), (6, 4)))
    >>> prior = AutoregressiveCodes((6, 4), posterior.code_sizes, width=16)
    >>> model = VAE(prior, posterior, MLP((6, 4), (1, 784)), Bernoulli((784,)))
    >>> prior().sample((3,)).shape
    torch.Size([3, 6, 4])
    """

    space: ClassVar[str] = CODES

    def __init__(
        self, latent_shape: Shape, code_sizes: Sizes, width: Size = 64, heads: Size = 4, depth: Size = 2
    ) -> None:
        super().__init__()
        self.latent_shape, self.code_sizes = tuple(latent_shape), tuple(code_sizes)
        self.codes = math.prod(latent_shape[1:]) * len(code_sizes)
        self.embed = nn.ModuleList(nn.Embedding(size, width) for size in code_sizes)
        self.start = nn.Parameter(torch.randn(width))
        self.positions = nn.Parameter(torch.randn(self.codes, width))
        self.tower = tower(width, heads, depth, causal=True)
        self.outputs = nn.ModuleList(nn.Linear(width, size) for size in code_sizes)

    def bind(self, model: Any) -> None:
        """Belong to ``model``, whose posterior makes z of such codes.

        Raises:
            UserError: it makes others.
        """
        found = getattr(model.posterior, "code_sizes", ())
        if tuple(found) != self.code_sizes:
            raise UserError(
                f"AutoregressiveCodes is for {self.code_sizes} values of the codes of a place; those of the posterior "
                f"have {tuple(found)}. Build it with the posterior's code_sizes."
            )
        super().bind(model)
        model.posterior.counted = True

    def forward(self, y: Tensor | None = None) -> CodeSequence:
        """Return P(z).

        Raises:
            UserError: there is no model yet.
        """
        book = self.whole.posterior
        return CodeSequence(self.logits, book.z_of, book.codes_of, self.codes, max(self.code_sizes), self.latent_shape)

    def logits(self, codes: Tensor) -> Tensor:
        """Return the logits of the first t + 1 codes, (n, t + 1, values), each given those before it, for (n, t)."""
        each, (n, t) = len(self.code_sizes), codes.shape
        codes, kind = codes.to(self.start.device), self.start
        before = kind.new_empty(n, t + 1, len(kind))
        before[:, 0] = kind
        found = kind.new_full((n, t + 1, max(self.code_sizes)), -math.inf)
        for number, embed in enumerate(self.embed):
            before[:, 1 + number :: each] = embed(codes[:, number::each])
        h = self.tower(before + self.positions[: t + 1])
        for number, (output, size) in enumerate(zip(self.outputs, self.code_sizes, strict=True)):
            found[:, number::each, :size] = output(h[:, number::each])
        return found
