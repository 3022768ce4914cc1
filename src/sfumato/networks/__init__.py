"""Networks: tensor to tensor, no probability. Each has ``in_shape``, ``out_shape`` and takes any leading dimensions."""

from sfumato.networks.autoencoder_kl import KLDecoder, KLEncoder
from sfumato.networks.composed import Composed
from sfumato.networks.convolution import ConvDecoder, ConvEncoder
from sfumato.networks.embedded import Embedded
from sfumato.networks.label import WithLabel
from sfumato.networks.log1p import Log1p
from sfumato.networks.mask import WithMask
from sfumato.networks.mlp import MLP
from sfumato.networks.penalised import Penalised
from sfumato.networks.series import SeriesDecoder, SeriesEncoder
from sfumato.networks.spectral import SpectralNorm
from sfumato.networks.transformer import TransformerDecoder, TransformerEncoder
from sfumato.networks.unet import UNet

__all__ = [
    "MLP",
    "Composed",
    "ConvDecoder",
    "ConvEncoder",
    "Embedded",
    "KLDecoder",
    "KLEncoder",
    "Log1p",
    "Penalised",
    "SeriesDecoder",
    "SeriesEncoder",
    "SpectralNorm",
    "TransformerDecoder",
    "TransformerEncoder",
    "UNet",
    "WithLabel",
    "WithMask",
]
