r"""The distance of the aggregate posterior from the prior, by kernels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.core.interfaces import MODEL, Objective, ObjectiveOutput
from sfumato.core.schedules import Step
from sfumato.core.spec import Length, Positive, register
from sfumato.core.terms import Terms
from sfumato.objectives.batch import codes, for_each, prior_codes

Scales = Annotated[tuple[Positive, ...], Length(32)]


@final
@register("objective")
class MMD(Objective):
    r"""loss = MMD^2(q(z), p(z)) = E k(z, z') + E k(u, u') - 2 E k(z, u), z from the aggregate posterior, u from p.

    Estimated without bias from a batch: with h_ij = k(z_i, z_j) + k(u_i, u_j) - k(z_i, u_j) - k(z_j, u_i), it is the
    mean of h_ij over i != j, which may be negative. With C = 2 d s^2, the expected squared distance of two draws of
    N(0, s^2 I) in d dimensions, k is exp(-r^2 / C) (``rbf``) or C / (C + r^2) (``imq``), averaged over the scales s.

    A term of a sum, see :class:`~sfumato.objectives.Sum` for InfoVAE and the Wasserstein autoencoder.

    Reference: A Kernel Two-Sample Test, Gretton et al., 2012, https://jmlr.org/papers/v13/gretton12a.html; Wasserstein
    Auto-Encoders, Tolstikhin et al., 2018, https://arxiv.org/abs/1711.01558; InfoVAE, Zhao et al., 2019,
    https://arxiv.org/abs/1706.02262.

    Args:
        kernel: ``imq``, the inverse multiquadric, with heavy tails, or ``rbf``, the Gaussian one.
        scales: s, in units of z.

    Returns (call):
        losses {"model": (batch,)}, the same for every example of the batch, without unit, and the value ``mmd``.

    >>> MMD(kernel="rbf", scales=(0.5, 1.0, 2.0)).any_samples
    True
    """

    any_samples: ClassVar[bool] = True
    compares: ClassVar[bool] = True

    def __init__(self, kernel: Literal["imq", "rbf"] = "imq", scales: Scales = (1.0,)) -> None:
        super().__init__()
        self.kernel, self.scales = kernel, tuple(scales)

    def forward(self, terms: Terms, step: Step) -> ObjectiveOutput:
        """Return the loss; ``step`` makes no difference."""
        z, u = self.whole(codes(terms)), self.whole(prior_codes(terms, "MMD"))
        loss = for_each(self.distance(z, u), len(terms.x), len(z))
        return ObjectiveOutput({MODEL: loss}, {"mmd": loss.detach()})

    def distance(self, z: Float[Tensor, "n latent"], u: Float[Tensor, "n latent"]) -> Float[Tensor, ""]:
        """Return the unbiased estimate from as many draws of both; 0 for a single one."""
        kernels = self._kernel(z, z) + self._kernel(u, u) - 2 * self._kernel(z, u)
        pairs = max(1, len(z) * (len(z) - 1))
        return (kernels.sum() - kernels.diagonal().sum()) / pairs

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        squared = (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
        sizes = [2 * a.shape[-1] * scale**2 for scale in self.scales]
        found = [torch.exp(-squared / c) if self.kernel == "rbf" else c / (c + squared) for c in sizes]
        return torch.stack(found).mean(0)
