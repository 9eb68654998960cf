"""Ways to see an image, by the names of the command line."""

from plurimask.networks.unet import UNet
from plurimask.protocols import Backbone

BACKBONES: dict[str, type[Backbone]] = {"unet": UNet}

__all__ = ["BACKBONES", "UNet"]
