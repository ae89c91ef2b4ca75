"""A U-Net that restores a scan from coarse noise: a network without a latent."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medvae.config import NetworkConfig
from medvae.config.backbone import BackboneConfig
from medvae.monai_import import import_monai
from medvae.networks.backbone import Backbone
from medvae.networks.interface import Network, VAEOutput, network
from medvae.networks.layers import monai_activation, monai_normalisation


class Denoiser(Network):
    """MONAI's U-Net of strided convolutions (k3 s2), 2D or 3D, from a corrupted tile to the clean one.

    Its skip connections let every detail through, so it is of use only when trained on corrupted tiles, where what
    it does not know from healthy scans is taken for noise. Nothing but the first and the last layer touches the full
    resolution; the last one is a bare transposed convolution, because a normalisation there would forget the scan's
    intensity.

    Parameters
    ----------
    size
        Spatial shape of a tile, two or three axes, each divisible by ``2 ** len(widths)``.
    channels
        Modalities in and out.
    widths
        Channels after each stride-2 convolution.
    normalisation
        ``"none"``, ``"instance"`` or ``"group"``.
    activation
        ``"leaky_relu"``, ``"silu"`` or ``"gelu"``.
    residual_blocks
        0 for one convolution per level; otherwise the convolutions of one residual unit per level.
    backbone
        Another network of MONAI, instead of this U-Net.

    Raises
    ------
    MedvaeError
        If MONAI is not installed.

    References
    ----------
    Kascenas et al. 2022, "Denoising autoencoders for unsupervised anomaly detection in brain MRI", MIDL.
    """

    def __init__(
        self,
        size: Sequence[int],
        *,
        channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 128),
        normalisation: str = "none",
        activation: str = "leaky_relu",
        residual_blocks: int = 0,
        backbone: BackboneConfig | None = None,
    ) -> None:
        super().__init__()
        self.network = (
            unet(len(size), channels, channels, widths, normalisation, activation, residual_blocks)
            if backbone is None
            else Backbone(backbone, len(size), channels, channels)
        )

    def forward(self, x: Tensor, noise: Tensor | None = None) -> VAEOutput:
        """Restore ``x`` ``(N, C, *spatial)``; without a posterior, and ``noise`` has no effect."""
        return VAEOutput(self.network(x))


def unet(
    dimensions: int,
    channels_in: int,
    channels_out: int,
    widths: Sequence[int],
    normalisation: str,
    activation: str,
    residual_blocks: int,
) -> nn.Module:
    """MONAI's U-Net with a bare transposed convolution as its last layer; options as those of `Denoiser`."""
    nets, blocks = import_monai("networks.nets"), import_monai("networks.blocks")
    network = nets.UNet(
        spatial_dims=dimensions,
        in_channels=channels_in,
        out_channels=widths[0],
        channels=(*widths, widths[-1]),
        strides=(2,) * len(widths),
        num_res_units=residual_blocks,
        act=monai_activation(activation),
        norm=monai_normalisation(normalisation, *widths),
    )
    network.model[-1] = blocks.Convolution(
        dimensions, 2 * widths[0], channels_out, strides=2, is_transposed=True, conv_only=True
    )
    return network


@network("unet")
def _unet(options: NetworkConfig, size: tuple[int, ...], modalities: int) -> Network:
    return Denoiser(
        size, channels=modalities, widths=options.widths, normalisation=options.normalisation,
        activation=options.activation, residual_blocks=options.residual_blocks, backbone=options.backbone,
    )  # fmt: skip
