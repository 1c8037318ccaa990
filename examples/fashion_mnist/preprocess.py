"""From stored u8 images to the model's input: the one place of Fashion-MNIST's mean and deviation. Numpy only."""

from __future__ import annotations

import numpy as np

# Of all pixels of the 60,000 training images, divided by 255 (train.py checks them against the data).
MEAN = 0.2860
STD = 0.3530

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def preprocess(images: np.ndarray) -> np.ndarray:
    """u8 images [n, 1, 28, 28] to the model's input, f32 [n, 1, 28, 28]: (pixel / 255 - MEAN) / STD, all in f32."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (1, 28, 28):
        raise ValueError(f"preprocess: expected u8 images [n, 1, 28, 28], got {images.dtype} {list(images.shape)}")
    return (images.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(STD)
