"""One small CNN for 28 x 28 pictures, in Flax linen and in PyTorch.

Both take the pictures as f32[batch,28,28,1] and flatten rows, columns, channels in
that order, so the same network is the same weights up to the order of axes.
"""

from __future__ import annotations

import flax.linen as linen
import jax
import torch
from torch.nn import functional


class FlaxCNN(linen.Module):
    """`Conv_0`, `Conv_1`, `Dense_0`, `Dense_1`: the names that linen gives."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return log-probabilities f32[batch,10]."""
        for width in (32, 64):
            x = linen.relu(linen.Conv(width, (3, 3))(x))
            x = linen.avg_pool(x, (2, 2), strides=(2, 2))
        x = linen.relu(linen.Dense(256)(x.reshape(x.shape[0], -1)))
        return linen.log_softmax(linen.Dense(10)(x))


class TorchCNN(torch.nn.Module):
    """`conv_0`, `conv_1`, `dense_0`, `dense_1`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_0 = torch.nn.Conv2d(1, 32, 3, padding=1)
        self.conv_1 = torch.nn.Conv2d(32, 64, 3, padding=1)
        self.dense_0 = torch.nn.Linear(64 * 7 * 7, 256)
        self.dense_1 = torch.nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities f32[batch,10]."""
        x = x.permute(0, 3, 1, 2)
        for conv in (self.conv_0, self.conv_1):
            x = functional.avg_pool2d(functional.relu(conv(x)), 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        return functional.log_softmax(self.dense_1(functional.relu(self.dense_0(x))), dim=-1)
