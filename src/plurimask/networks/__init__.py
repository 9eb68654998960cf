"""Ways to see an image, by the names of the command line."""

from plurimask.networks.residual_unet import ResidualUNet
from plurimask.networks.unet import UNet
from plurimask.protocols import Backbone

BACKBONES: dict[str, type[Backbone]] = {"unet": UNet, "residual_unet": ResidualUNet}

__all__ = ["BACKBONES", "ResidualUNet", "UNet"]
