"""ZFNet, the network of Zeiler & Fergus (2014), Figure 3."""

from __future__ import annotations

from torch import Tensor, nn


class ZFNet(nn.Module):
    """The network of the paper: 224 pixels in, maps of 110, 55, 26, 13 and 6, 1000 classes out.

    Notes
    -----
    Section 3 and Figure 3 of the paper. Its pooling needs ceil mode for the map sizes it states. For the
    contrast normalisation across maps it gives no constants: these are those of Krizhevsky et al. (2012,
    section 3.3), k = 2, n = 5, alpha = 1e-4, beta = 0.75; torch divides alpha by n.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 7, stride=2, padding=1)
        self.conv2 = nn.Conv2d(96, 256, 5, stride=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.normalise = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return class scores (image, class) for normalised pixels (image, rgb, y, x)."""
        x = self.normalise(self.pool(self.relu(self.conv1(pixels))))
        x = self.normalise(self.pool(self.relu(self.conv2(x))))
        x = self.relu(self.conv3(x))
        x = self.relu(self.conv4(x))
        x = self.pool(self.relu(self.conv5(x)))
        x = self.dropout(self.relu(self.fc6(x.flatten(1))))
        x = self.dropout(self.relu(self.fc7(x)))
        scores: Tensor = self.fc8(x)
        return scores
