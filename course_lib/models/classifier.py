"""A small convolutional classifier; what it sees in an image serves as features for scores."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .common import require_image_batch, require_image_shape, require_positive


def _block(fan_in: int, fan_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    # No bias before a batch norm: it would be subtracted again with the mean.
    convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(fan_out), nn.ReLU())


class ConvClassifier(nn.Module):
    """Images in [0, 1] `[batch, *image_shape]` -> logits `[batch, n_classes]`.

    Four convolutions, on a side that is halved three times, then two linear layers. The features
    are what the first linear layer returns, before its ReLU: the Fréchet distance fits a Gaussian
    to them, and behind a ReLU a part of every feature would sit at exactly zero, which no Gaussian
    does. They are few, because a covariance `[width, width]` has full rank only from more than
    `width` images. Black is 0, so that the zeros of the padding continue a black ground.

    Args:
        image_shape: `(channels, height, width)`, both sides at least 5 pixels.
        n_classes: number of labels.
        width: number of features.
        channels: after the first, the second and the last two convolutions.

    Raises:
        ValueError: unsupported sizes when built; images of another shape when called.
        TypeError: called with anything but a tensor of floats.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        n_classes: int = 10,
        width: int = 64,
        channels: Sequence[int] = (32, 64, 80),
    ) -> None:
        super().__init__()
        self.image_shape = require_image_shape(image_shape)
        # The two strided convolutions round an odd side up, the pooling rounds it down.
        sides = [-(-side // 4) // 2 for side in self.image_shape[1:]]
        if min(sides) < 1:
            raise ValueError(f"image_shape is {self.image_shape}; both sides must be 5 or more.")
        if not isinstance(channels, Sequence) or len(channels) != 3:
            raise ValueError(f"channels is {channels!r}; give three numbers, such as (32, 64, 80).")
        first, second, last = (require_positive(n, "each of channels") for n in channels)
        self.width = require_positive(width, "width")
        self.body = nn.Sequential(
            _block(self.image_shape[0], first, kernel=5, stride=2),
            _block(first, second, stride=2),
            _block(second, last),
            _block(last, last),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(last * sides[0] * sides[1], width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.head = nn.Sequential(
            nn.ReLU(), nn.Linear(width, require_positive(n_classes, "n_classes"))
        )

    def features(self, x: Tensor) -> Tensor:
        """Features `[batch, width]`, of either sign; `head` turns them into logits."""
        require_image_batch(x, self.image_shape)
        return self.body(x.to(self.head[1].weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
