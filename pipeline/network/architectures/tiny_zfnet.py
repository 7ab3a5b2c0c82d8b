"""tiny_zfnet, ZFNet's plan at a quarter of the width of its input; its trained weights are bundled.

See tiny_zfnet.md beside this file for data, recipe and accuracy.
"""

from __future__ import annotations

from torch import Tensor, nn


class TinyZFNet(nn.Module):
    """Five convolutions and two dense layers, for any input size.

    It was trained on 64 x 64, where the average pooling to 4 x 4 leaves everything as it is.
    """

    def __init__(self, classes: int = 200) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.conv2 = nn.Conv2d(64, 128, 5, padding=2)
        self.conv3 = nn.Conv2d(128, 192, 3, padding=1)
        self.conv4 = nn.Conv2d(192, 192, 3, padding=1)
        self.conv5 = nn.Conv2d(192, 128, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.average = nn.AdaptiveAvgPool2d(4)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.3)
        self.fc6 = nn.Linear(128 * 4 * 4, 512)
        self.fc7 = nn.Linear(512, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return class scores (image, class) for normalised pixels (image, rgb, y, x)."""
        x = self.pool(self.relu(self.conv1(pixels)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.conv3(x))
        x = self.relu(self.conv4(x))
        x = self.average(self.pool(self.relu(self.conv5(x))))
        x = self.dropout(self.relu(self.fc6(self.dropout(x.flatten(1)))))
        scores: Tensor = self.fc7(x)
        return scores
