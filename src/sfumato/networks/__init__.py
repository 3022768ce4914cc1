"""Networks: tensor to tensor, no probability. Each has ``in_shape``, ``out_shape`` and takes any leading dimensions."""

from sfumato.networks.autoencoder_kl import KLDecoder, KLEncoder
from sfumato.networks.convolution import ConvDecoder, ConvEncoder
from sfumato.networks.label import WithLabel
from sfumato.networks.mask import WithMask
from sfumato.networks.mlp import MLP

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "KLDecoder", "KLEncoder", "WithLabel", "WithMask"]
