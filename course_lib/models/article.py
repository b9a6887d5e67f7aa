"""The four networks of the source article exactly as printed, and a corrected twin of each.

The article is TensorFlow 1 (`tf.layers`). What is kept: widths, kernel 5 with stride 2, "same"
padding, leaky slope 0.2 (TensorFlow's default), Glorot-uniform weights and zero biases
(`tf.layers`' default), and every mistake. What differs: TensorFlow stores images as
`[batch, height, width, channels]`, this course as `[batch, channels, height, width]`. So wherever
a map is flattened or un-flattened, the units come in another order (channel-major here,
channel-minor there); the family of functions is the same, but to carry trained weights over one
would have to permute the neighbouring dense layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import (
    require_choice,
    require_image_batch,
    require_latent,
    require_positive,
    square_image_shape,
    upsampling,
)
from .dcgan import dcgan_init
from .vae import _Encoder

CORRECTED_SIZES = (28, 32, 64)
Device = torch.device | str | None


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis so that the output has ceil(size / stride) entries."""
    out = math.ceil(size / stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2  # an odd zero goes to the end: bottom and right


class SamePadConv2d(nn.Conv2d):
    """TensorFlow's `conv2d(padding="same")`: `[B, in, H, W] -> [B, out, ceil(H/s), ceil(W/s)]`.

    With kernel 5, stride 2 and an even side there is one row of zeros above and two below, which
    no symmetric `padding=` of PyTorch can express.

    Source: TensorFlow documentation of `tf.nn.convolution` (padding "SAME").
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        stride: int = 2,
        bias: bool = True,
        device: Device = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=bias, device=device)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = _same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
        return super().forward(F.pad(x, (left, right, top, bottom)))


class SamePadConvTranspose2d(nn.ConvTranspose2d):
    """TensorFlow's `conv2d_transpose(padding="same")`: `[B, in, H, W] -> [B, out, s*H, s*W]`.

    Defined as the gradient of `SamePadConv2d` from the larger to the smaller map.

    Raises:
        ValueError: the kernel is smaller than the stride, so that some pixels would get no weight.

    Source: TensorFlow documentation of `tf.nn.conv2d_transpose`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 5,
        stride: int = 2,
        device: Device = None,
    ) -> None:
        if kernel_size < stride:
            raise ValueError(
                f"kernel_size {kernel_size} is below stride {stride}: use a kernel of at least the "
                "stride, or some pixels are never reached."
            )
        before = (kernel_size - stride) // 2
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding=before, device=device
        )

    def forward(self, x: Tensor) -> Tensor:
        # `padding` crops equally on both sides; an odd row is left over at the end.
        height, width = x.shape[2] * self.stride[0], x.shape[3] * self.stride[1]
        return super().forward(x)[:, :, :height, :width]


def _tf_init(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _article_trunk(channels: int, activation: nn.Module) -> nn.Sequential:
    """Three strided convolutions 32, 64, 128, then flatten: first part of two printed networks."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((channels, 32), (32, 64), (64, 128)):
        layers += [SamePadConv2d(fan_in, fan_out), activation]
    return nn.Sequential(*layers, nn.Flatten())


def _trunk_features(image_size: int) -> int:
    return 128 * math.ceil(image_size / 8) ** 2


class ArticleGenerator(nn.Module):
    """As printed: z `[batch, latent_dim]` -> `[batch, 3, 56, 56]` in [-1, 1].

    Three dense layers (92.7 % of the 14,031,619 weights), 7 x 7 x 256, three doublings to 56
    pixels, the size of no dataset in use; no batch norm. The article does not say how long z is;
    100 here.

    Raises:
        ValueError: z of the wrong shape when called.

    Source: the article, section 4.1.1.
    """

    image_shape = (3, 56, 56)

    def __init__(self, latent_dim: int = 100) -> None:
        super().__init__()
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        leaky = nn.LeakyReLU(0.2)
        self.dense = nn.Sequential(
            *(nn.Linear(latent_dim, 128), leaky, nn.Linear(128, 1024), leaky),
            *(nn.Linear(1024, 7 * 7 * 256), leaky),
        )
        self.upsample = nn.Sequential(
            *(SamePadConvTranspose2d(256, 128), nn.ReLU()),
            *(SamePadConvTranspose2d(128, 64), nn.ReLU()),
            *(SamePadConvTranspose2d(64, 3), nn.Tanh()),
        )
        _tf_init(self)

    def forward(self, z: Tensor) -> Tensor:
        require_latent(z, self.latent_dim)
        return self.upsample(self.dense(z).view(-1, 256, 7, 7))


class ArticleDiscriminator(nn.Module):
    """As printed: images `[batch, channels, size, size]` -> probabilities `[batch, 1]` in [0, 1].

    The one discriminator of the course that ends in a sigmoid, because the article's does;
    `logits(x)` gives the `[batch, 1]` numbers before it. The head fits one image size only.

    Raises:
        ValueError: unsupported sizes when built; images of another size when called.

    Source: the article, section 4.1.2.
    """

    def __init__(self, channels: int = 3, image_size: int = 56) -> None:
        super().__init__()
        require_choice(channels, (1, 3), "channels")
        require_positive(image_size, "image_size")
        self.image_shape = (channels, image_size, image_size)
        self.trunk = _article_trunk(channels, nn.LeakyReLU(0.2))
        self.head = nn.Linear(_trunk_features(image_size), 1)
        _tf_init(self)

    def logits(self, x: Tensor) -> Tensor:
        """Images -> log-odds `[batch, 1]`: what the sigmoid of `forward` is applied to."""
        require_image_batch(x, self.image_shape)
        return self.head(self.trunk(x))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(x))


class ArticleEncoder(nn.Module):
    """As printed: images `[batch, channels, size, size]` -> `[batch, code_dim]`, all >= 0 (ReLU).

    No mu, no log_var, no sampling: `code_dim` is 128 ceil(size/8)^2, that is 2,048 numbers for the
    784 pixels of a 28 x 28 image.

    Raises:
        ValueError: unsupported sizes when built; images of another size when called.

    Source: the article, section 4.2.1.
    """

    def __init__(self, channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        require_choice(channels, (1, 3), "channels")
        require_positive(image_size, "image_size")
        self.image_shape = (channels, image_size, image_size)
        self.code_dim = _trunk_features(image_size)
        self.trunk = _article_trunk(channels, nn.ReLU())
        _tf_init(self)

    def forward(self, x: Tensor) -> Tensor:
        require_image_batch(x, self.image_shape)
        return self.trunk(x)


class ArticleDecoder(nn.Module):
    """As printed: latent `[batch, latent_dim]` -> images `[8 * batch, 3, 128, 128]` in [-1, 1].

    The second dense layer makes 1024 * 16 * 16 numbers, the reshape takes 128 * 16 * 16 for one
    image: one code becomes eight images. That layer has 1,074,003,968 weights, 4 GiB in float32;
    build it on `device="meta"`, where shapes are computed and nothing is stored, or with a small
    `hidden` to watch the same mistake with real numbers.

    Args:
        latent_dim: length of the code; the article's encoder gives 2,048 for 28 x 28 pixels.
        hidden: units of the first dense layer; the article's 4,096.
        device: where the weights live.

    Raises:
        ValueError: sizes below 1 when built; a code of the wrong shape when called.

    Source: the article, section 4.2.2.
    """

    def __init__(self, latent_dim: int = 2048, hidden: int = 4096, device: Device = None) -> None:
        super().__init__()
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        require_positive(hidden, "hidden")
        self.dense = nn.Sequential(
            *(nn.Linear(latent_dim, hidden, device=device), nn.ReLU()),
            *(nn.Linear(hidden, 1024 * 16 * 16, device=device), nn.ReLU()),
        )
        self.upsample = nn.Sequential(
            *(SamePadConvTranspose2d(128, 64, device=device), nn.ReLU()),
            *(SamePadConvTranspose2d(64, 32, device=device), nn.ReLU()),
            *(SamePadConvTranspose2d(32, 3, device=device), nn.Tanh()),
        )
        _tf_init(self)

    def forward(self, latent: Tensor) -> Tensor:
        require_latent(latent, self.latent_dim, "latent")
        return self.upsample(self.dense(latent).view(-1, 128, 16, 16))


class CorrectedGenerator(nn.Module):
    """Twin of `ArticleGenerator`: z `[batch, latent_dim]` -> images of a size in use, in [-1, 1].

    Changed: no hidden dense layer, batch norm, kernel 4, N(0, 0.02^2) weights, and a first map that
    ends at 28 (7 x 7, two doublings), 32 (4 x 4, three) or 64 pixels (8 x 8, three). The first map
    has the article's 256 channels.

    Raises:
        ValueError: unsupported sizes when built; z of the wrong shape when called.

    Source: Radford et al. 2015 (DCGAN), section 3.
    """

    def __init__(self, image_size: int = 28, channels: int = 1, latent_dim: int = 100) -> None:
        super().__init__()
        self.image_shape = square_image_shape(image_size, channels, CORRECTED_SIZES)
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        widths = [256, 128, channels] if image_size == 28 else [256, 128, 64, channels]
        start = image_size // 2 ** (len(widths) - 1)
        self.net = nn.Sequential(
            nn.Linear(latent_dim, 256 * start**2, bias=False),
            nn.Unflatten(1, (256, start, start)),
            nn.BatchNorm2d(256),
            nn.ReLU(),
            upsampling(widths, batch_norm=True),
            nn.Tanh(),
        )
        dcgan_init(self)

    def forward(self, z: Tensor) -> Tensor:
        require_latent(z, self.latent_dim)
        return self.net(z)


class CorrectedDiscriminator(nn.Module):
    """Twin of `ArticleDiscriminator`: images in [-1, 1] -> logits `[batch]`, no sigmoid.

    Changed: logits, batch norm after all convolutions but the first, N(0, 0.02^2) weights, and one
    image size for real and generated images. Kept: the three "same" convolutions 32, 64, 128.

    Raises:
        ValueError: unsupported sizes when built; images of the wrong shape when called.

    Source: Radford et al. 2015 (DCGAN), section 3.
    """

    def __init__(self, image_size: int = 28, channels: int = 1) -> None:
        super().__init__()
        self.image_shape = square_image_shape(image_size, channels, CORRECTED_SIZES)
        self.net = nn.Sequential(
            *(SamePadConv2d(channels, 32), nn.LeakyReLU(0.2)),
            *(SamePadConv2d(32, 64, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
            *(SamePadConv2d(64, 128, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(_trunk_features(image_size), 1)),
        )
        dcgan_init(self)

    def forward(self, x: Tensor) -> Tensor:
        require_image_batch(x, self.image_shape)
        return self.net(x).squeeze(1)


class CorrectedEncoder(_Encoder):
    """Twin of `ArticleEncoder`: images in [0, 1] -> `(mu, log_var)`, each `[batch, latent_dim]`.

    The article's three convolutions unchanged, then the two linear heads that it lacks. Fits `VAE`.

    Raises:
        ValueError: unsupported sizes when built; images of the wrong shape when called.

    Source: Kingma & Welling 2013, "Auto-Encoding Variational Bayes".
    """

    def __init__(self, image_size: int = 28, channels: int = 1, latent_dim: int = 64) -> None:
        shape = square_image_shape(image_size, channels, CORRECTED_SIZES)
        trunk = _article_trunk(channels, nn.ReLU())
        super().__init__(shape, trunk, _trunk_features(image_size), latent_dim, variational=True)


class CorrectedDecoder(nn.Module):
    """Twin of `ArticleDecoder`: z `[batch, latent_dim]` -> raw `[batch, channels, size, size]`.

    Changed: one dense layer straight to an 8 x 8 x 128 map (7 x 7 x 128 for 28 pixels), one image
    per code, kernel 4, no tanh: the likelihood decides what the raw numbers mean. Fits `VAE`.

    Raises:
        ValueError: unsupported sizes when built; z of the wrong shape when called.

    Source: Kingma & Welling 2013, "Auto-Encoding Variational Bayes".
    """

    def __init__(self, image_size: int = 28, channels: int = 1, latent_dim: int = 64) -> None:
        super().__init__()
        self.image_shape = square_image_shape(image_size, channels, CORRECTED_SIZES)
        self.latent_dim = require_positive(latent_dim, "latent_dim")
        widths = [128, 64, 32, channels] if image_size == 64 else [128, 64, channels]
        start = image_size // 2 ** (len(widths) - 1)
        self.net = nn.Sequential(
            nn.Linear(latent_dim, 128 * start**2),
            nn.ReLU(),
            nn.Unflatten(1, (128, start, start)),
            upsampling(widths),
        )

    def forward(self, z: Tensor) -> Tensor:
        require_latent(z, self.latent_dim)
        return self.net(z)
