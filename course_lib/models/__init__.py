"""Networks, each a plain `nn.Module` that knows no loss and no data.

Tensors are float32; images are `[batch, channels, height, width]`, noise and
codes `[batch, latent]`.
"""

from .article import (
    ArticleDecoder,
    ArticleDiscriminator,
    ArticleEncoder,
    ArticleGenerator,
    CorrectedDecoder,
    CorrectedDiscriminator,
    CorrectedEncoder,
    CorrectedGenerator,
    SamePadConv2d,
    SamePadConvTranspose2d,
)
from .classifier import ConvClassifier
from .common import UpsampledConv2d, count_parameters
from .dcgan import DCGANDiscriminator, DCGANGenerator, dcgan_init
from .mlp import MLPDiscriminator, MLPGenerator, mlp
from .products import ProductConv2d, ProductConvTranspose2d, as_products
from .vae import (
    VAE,
    Autoencoder,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
    VAEOutput,
    conv_autoencoder,
    conv_vae,
    mlp_autoencoder,
    mlp_vae,
)

__all__ = [
    "VAE",
    "ArticleDecoder",
    "ArticleDiscriminator",
    "ArticleEncoder",
    "ArticleGenerator",
    "Autoencoder",
    "ConvClassifier",
    "ConvDecoder",
    "ConvEncoder",
    "CorrectedDecoder",
    "CorrectedDiscriminator",
    "CorrectedEncoder",
    "CorrectedGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "MLPDecoder",
    "MLPDiscriminator",
    "MLPEncoder",
    "MLPGenerator",
    "ProductConv2d",
    "ProductConvTranspose2d",
    "SamePadConv2d",
    "SamePadConvTranspose2d",
    "UpsampledConv2d",
    "VAEOutput",
    "as_products",
    "conv_autoencoder",
    "conv_vae",
    "count_parameters",
    "dcgan_init",
    "mlp",
    "mlp_autoencoder",
    "mlp_vae",
]
