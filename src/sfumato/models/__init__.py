"""Models bind the parts; the only place where z flows from q to p."""

from sfumato.models.hierarchical import HierarchicalVAE
from sfumato.models.model import Inference, Model
from sfumato.models.packaged import PackagedModel
from sfumato.models.vae import VAE

__all__ = ["VAE", "HierarchicalVAE", "Inference", "Model", "PackagedModel"]
