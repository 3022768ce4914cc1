r"""A posterior that a normalising flow has bent."""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from sfumato.core.errors import UserError
from sfumato.core.interfaces import Network, Posterior
from sfumato.core.spec import Size, Widths, register
from sfumato.distributions import Flowed
from sfumato.distributions.invertible import STEPS
from sfumato.networks.flows import zuko_transform


@final
@register("posterior")
class FlowPosterior(Posterior):
    r"""z = g_T(... g_1(u)) with u from a Gaussian q_0(u | x): log q(z | x) = log q_0(u | x) - sum_t log|det dg_t/du|.

    ``planar``, ``radial``: the simplest flows. ``householder``: reflections, which turn a Gaussian with independent
    dimensions into one without. ``iaf``: inverse autoregressive flow, from the library zuko: z_i is an affine map of
    u_i given u_1 ... u_(i-1), in turns with the order reversed. Draws and their density take one pass; the density of a
    z that is no draw needs the inverse, which for ``iaf`` takes as many passes as there are dimensions.

    Reference: Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015,
    https://arxiv.org/abs/1505.05770; Improving Variational Auto-Encoders using Householder Flow, Tomczak and Welling,
    2016, https://arxiv.org/abs/1611.09630; Improving Variational Inference with Inverse Autoregressive Flow, Kingma et
    al., 2016, https://arxiv.org/abs/1606.04934.

    Args:
        base: q_0.
        kind: of the maps.
        transforms: T.
        context: data to some features, (features,), that the maps depend on; without it they are the same for every x.
        hidden: the widths of the layers of ``iaf``.

    Returns (call):
        a :class:`~sfumato.distributions.Flowed` of batch shape (batch,) and event shape ``base.latent_shape``. Its
        ``mean`` is where the mean of q_0 goes.

    >>> from sfumato.networks import MLP
    >>> from sfumato.posteriors import DiagonalGaussian
    >>> base = DiagonalGaussian(mean=MLP((784,), (16,)), log_variance=MLP((784,), (16,)))
    >>> FlowPosterior(base, "planar", context=MLP((784,), (32,)))(torch.zeros(5, 784)).rsample((3,)).shape
    torch.Size([3, 5, 16])
    """

    def __init__(
        self,
        base: Posterior,
        kind: Literal["planar", "radial", "householder", "iaf"] = "iaf",
        transforms: Size = 4,
        context: Network | None = None,
        hidden: Widths = (128,),
    ) -> None:
        super().__init__()
        if len(base.latent_shape) != 1:
            raise UserError(f"FlowPosterior needs a z of one row; got the shape {base.latent_shape}. Flatten it.")
        if context is not None and len(context.out_shape) != 1:
            raise UserError(f"FlowPosterior needs features in one row; got {context.out_shape}. Flatten them.")
        self.base, self.context, self.kind, self.transforms = base, context, kind, transforms
        self.in_shape, self.latent_shape = base.in_shape, base.latent_shape
        self.sees_label = base.sees_label or (context is not None and context.sees_label)
        (dims,), features = base.latent_shape, 0 if context is None else context.out_shape[0]
        if kind == "iaf":
            layers = {"transforms": transforms, "hidden_features": hidden}
            self.flow = zuko_transform("MAF", "FlowPosterior of kind 'iaf'", dims, features, **layers)
            return
        count = transforms * STEPS[kind].numbers(dims)
        self.numbers = nn.Parameter(0.1 * torch.randn(count))
        self.changes = nn.Linear(features, count, bias=False) if features else None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Flowed:
        """Return q(z | x), or q(z | x, y) with networks that see the label."""
        base = self.base(x, y)
        features = None if self.context is None else self.context(x, y)
        if self.kind == "iaf":
            transform = self.flow(features)
            return Flowed(base, transform.call_and_ladj, transform.inv.call_and_ladj)
        step = STEPS[self.kind]
        numbers = self.numbers if features is None or self.changes is None else self.numbers + self.changes(features)
        each = numbers.unflatten(-1, (self.transforms, -1)).unbind(-2)

        def there(z: Tensor) -> tuple[Tensor, Tensor]:
            return _one_after_the_other(z, each, step.there)

        def back(z: Tensor) -> tuple[Tensor, Tensor]:
            return _one_after_the_other(z, each[::-1], step.back)

        return Flowed(base, there, back)


def _one_after_the_other(z: Tensor, each: tuple[Tensor, ...], move: Any) -> tuple[Tensor, Tensor]:
    """Return z moved by all steps, and the sum of log|det|."""
    total = torch.zeros_like(z[..., 0])
    for numbers in each:
        z, log_slope = move(z, numbers)
        total = total + log_slope
    return z, total
