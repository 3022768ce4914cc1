"""A mixture of discretised logistics, over colours that hang on each other."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from sfumato.distributions.discretized_logistic import DiscretizedLogistic


@final
class MixtureOfLogistics(Distribution):
    r"""P(x) = prod over places of sum_k w_k prod_c P(x_c | k, colours before c), each factor a discretised logistic.

    Of three channels the location of green moves with red, and that of blue with both, within each component k:
    mu_g + a (x_r - 1/2) and mu_b + b (x_r - 1/2) + c (x_g - 1/2), where (a, b, c) = tanh(coefficients). With another
    number of channels they are independent within a component.

    Reference: PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other Modifications,
    Salimans et al., 2017, https://arxiv.org/abs/1701.05517.

    Args:
        logits: of w, (*batch, components, places).
        loc: mu, in the scale of x, where the levels span [0, 1]; (*batch, components, channels, places).
        log_scale: of the same shape.
        coefficients: of the same shape; used for three channels.
        shape: of one example: channels times places numbers, channels first.
        levels: the number of levels.

    ``log_prob`` takes k / (levels - 1), (..., *shape), and returns nats, (...).

    >>> parameters = torch.zeros(2, 3, 1)
    >>> MixtureOfLogistics(torch.zeros(2, 1), parameters, parameters - 2, parameters, (3, 1, 1)).sample().shape
    torch.Size([3, 1, 1])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        coefficients: Tensor,
        shape: tuple[int, ...],
        levels: int = 256,
    ) -> None:
        self.logits, self.loc, self.log_scale, self.levels = logits, loc, log_scale, levels
        self.coefficients = coefficients.tanh()
        super().__init__(logits.shape[:-2], torch.Size(shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """sum_k w_k times the locations of component k in [0, 1], each colour given the ones before it."""
        return self._shaped((self.logits.softmax(-2).unsqueeze(-2) * self._colours(None)).sum(-3))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-mass of ``value``."""
        channels, places = self.loc.shape[-2:]
        x = value.reshape(*value.shape[: value.ndim - len(self.event_shape)], 1, channels, places)
        each = DiscretizedLogistic(self._located(x), self.log_scale, self.levels, 0).log_prob(x).sum(-2)
        return torch.logsumexp(self.logits.log_softmax(-2) + each, -2).sum(-1)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        """Return levels in [0, 1], (*sample_shape, *batch, *shape): a component, then colour after colour."""
        with torch.no_grad():
            mixture = Categorical(logits=self.logits.movedim(-2, -1), validate_args=False)
            drawn = mixture.sample(torch.Size(sample_shape))  # type: ignore[no-untyped-call]
            every = self._colours(torch.Size(sample_shape))
            index = drawn.unsqueeze(-2).unsqueeze(-3).expand(*drawn.shape[:-1], 1, *self.loc.shape[-2:])
            return self._shaped(every.gather(-3, index).squeeze(-3))

    def _colours(self, sample_shape: torch.Size | None) -> Tensor:
        """Return x of every component, colour after colour: drawn, or without a sample shape where each is centred."""
        lead = self.loc.shape if sample_shape is None else sample_shape + self.loc.shape
        x = self.loc.new_zeros(lead)
        for channel in range(lead[-2]):
            one = (..., slice(channel, channel + 1), slice(None))
            factor = DiscretizedLogistic(
                self._located(x)[one], self.log_scale[one].expand(x[one].shape), self.levels, 0
            )
            x[one] = factor.mean if sample_shape is None else factor.sample()
        return x

    def _located(self, x: Tensor) -> Tensor:
        """Return the locations of every component, given the colours ``x``, of which each looks at those before it."""
        if self.loc.shape[-2] != 3:
            return self.loc + torch.zeros_like(x)
        red, green = (x[..., channel, :] - 0.5 for channel in (0, 1))
        a, b, c = self.coefficients.unbind(-2)
        mu = self.loc.unbind(-2)
        whole = torch.zeros_like(self.loc[..., 0, :] + red)
        return torch.stack([mu[0] + whole, mu[1] + a * red, mu[2] + b * red + c * green], -2)

    def _shaped(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-2], *self.event_shape)
