"""A small convolutional network, learnt with flow and critic.

    conv 5x5, stride 2: C -> 8     ReLU
    conv 3x3, stride 2: 8 -> 16    ReLU   again with 16 -> 16 until no side is longer than 16
    conv 3x3:           16 -> 16   ReLU
    flatten, linear -> F, layer norm, tanh

Places are kept, since the features are made of the flattened image: on the arm with a camera spatial
keypoints were no better, and no norm was needed between the convolutions.
"""

import torch
from torch import Tensor, nn

WIDTHS = (8, 16, 16)
SMALLEST = 16  # pixels, either side, before the image is flattened


class Encoder(nn.Module):
    """(B, H, W, C) uint8 -> (B, F) float32 in (-1, 1)."""

    def __init__(self, shape: tuple[int, int, int], features: int):
        super().__init__()
        height, width, channels = shape
        first, middle, last = WIDTHS
        layers: list[nn.Module] = [nn.Conv2d(channels, first, 5, 2, 2), nn.ReLU()]
        height, width = _half(height), _half(width)
        before = first
        while before == first or max(height, width) > SMALLEST:
            layers += [nn.Conv2d(before, middle, 3, 2, 1), nn.ReLU()]
            height, width, before = _half(height), _half(width), middle
        layers += [nn.Conv2d(middle, last, 3, 1, 1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Linear(last * height * width, features)
        self.norm = nn.LayerNorm(features)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        return self.norm(self.head(self.convolutions(x).flatten(1))).tanh()


def _half(pixels: int) -> int:
    """Rounded up, as a convolution of stride 2 leaves it."""
    return (pixels + 1) // 2
