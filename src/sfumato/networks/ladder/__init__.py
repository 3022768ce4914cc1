"""The two paths of a ladder of latent variables: bottom-up features of the data, and the shared top-down path."""

from sfumato.networks.ladder.convolution import ConvBottomUp, ConvTopDown
from sfumato.networks.ladder.mlp import MLPBottomUp, MLPTopDown
from sfumato.networks.ladder.paths import BottomUp, TopDown

__all__ = ["BottomUp", "ConvBottomUp", "ConvTopDown", "MLPBottomUp", "MLPTopDown", "TopDown"]
