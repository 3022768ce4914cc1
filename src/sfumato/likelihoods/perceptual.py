"""Pictures that should look alike, to a network that judges."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from sfumato import distributions
from sfumato.core.errors import UserError
from sfumato.core.interfaces import Likelihood, Network
from sfumato.core.spec import Positive, register


@final
@register("likelihood")
class Perceptual(Likelihood):
    r"""-|f(x) - f(mean)|^2 / (2 s^2) in the place of log p(x | z), with a network f that does not learn.

    There is no density (``has_density`` is False), so no evidence, no bits and no bound: those refuse it. The gradient
    goes through f to the picture. The weights of f are part of the model, as buffers; they are those that f is given.

    Reference: Deep Feature Consistent Variational Autoencoder, Hou et al., 2017, https://arxiv.org/abs/1610.00291;
    Perceptual Losses for Real-Time Style Transfer and Super-Resolution, Johnson et al., 2016,
    https://arxiv.org/abs/1603.08155.

    Args:
        features: f, from one example to its features; it must not see labels.
        scale: s, in the units of the features.

    Returns (call):
        a :class:`~sfumato.distributions.FeatureDistance` of event shape ``features.in_shape``.

    >>> import torch
    >>> from sfumato.networks import MLP
    >>> Perceptual(MLP((4,), (8,)))(torch.zeros(2, 1, 4)).has_density
    False
    """

    has_density: ClassVar[bool] = False

    def __init__(self, features: Network, scale: Positive = 1.0) -> None:
        if features.sees_label:
            raise UserError("Perceptual needs features of the picture alone; got a network that sees labels.")
        super().__init__(features.in_shape)
        self.features, self.scale = frozen(features), scale

    def distribution(self, parameters: Tensor) -> distributions.FeatureDistance:
        """Return the score of pictures beside the decoder's."""
        picture = parameters.squeeze(-len(self.shape) - 1)
        return distributions.FeatureDistance(picture, self.features, self.scale, len(self.shape))


def frozen(network: Network) -> Network:
    """Turn the parameters of ``network`` into buffers: no optimiser finds them, and a checkpoint keeps them."""
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, value.detach().clone())
    return network
