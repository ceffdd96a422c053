"""Residual networks for photographs, and the norms of networks made with them.

He et al. 2016, "Deep residual learning", as in torchvision; Yu et al. 2017, "Dilated residual networks".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

from panoseg.models.configs.photographs import Backbone, BackboneNorm, norm_groups


def residual_network(backbone: Backbone, norm: BackboneNorm, epsilon: float = 1e-5) -> resnet.ResNet:
    """The network with drawn weights. epsilon: added to the variances of frozen batch norms."""
    frozen = partial(FrozenBatchNorm2d, eps=epsilon)
    layers: dict[BackboneNorm, Callable[..., nn.Module]] = {"frozen": frozen, "batch": nn.BatchNorm2d, "group": group_norm}
    return getattr(resnet, backbone)(weights=None, norm_layer=layers[norm])


def dilated(network: resnet.ResNet) -> resnet.ResNet:
    """The same network, and the same weights, with the last two stages at stride 8: what they skipped, they dilate.

    The first block of a stage still reaches as far as the stage before it. Works for both kinds of blocks; torchvision's own
    way is for the larger one alone.
    """
    dilation = 1
    for stage in (network.layer3, network.layer4):
        for number, block in enumerate(stage):
            reach = dilation if number == 0 else 2 * dilation
            for layer in block.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.stride = (1, 1)
                    if layer.kernel_size == (3, 3):
                        layer.dilation = layer.padding = (reach, reach)
        dilation *= 2
    return network


def group_norm(width: int) -> nn.GroupNorm:
    """A group norm over ``width`` channels."""
    return nn.GroupNorm(norm_groups(width), width)
