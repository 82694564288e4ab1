"""An encoder of images of one's own: learnt with policy and critic from the mean light of large patches."""

from torch import nn


class Patches(nn.Module):
    """(B, H, W, C) uint8 -> (B, F) float32. The robot needs nothing of this package: a policy holds it as ONNX."""

    def __init__(self, shape, features):
        super().__init__()
        height, width, channels = shape
        self.mean = nn.AvgPool2d(4)
        self.linear = nn.Linear(channels * (height // 4) * (width // 4), features)

    def forward(self, image):
        planes = image.permute(0, 3, 1, 2).float() / 255
        return self.linear(self.mean(planes).flatten(1))
