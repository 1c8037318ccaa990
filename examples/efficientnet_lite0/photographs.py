"""Crops of the photographs that come with scikit-image. Calibration and test photographs are disjoint."""

from __future__ import annotations

import pathlib

import numpy as np

CALIBRATION = (
    "motorcycle_left.png",
    "motorcycle_right.png",
    "gravel.png",
    "ihc.png",
    "clock_motion.png",
    "cell.png",
    "text.png",
)
TEST = (
    "coffee.png",
    "camera.png",
    "astronaut.png",
    "rocket.jpg",
    "chelsea.png",
    "coins.png",
    "moon.png",
    "brick.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "page.png",
)
SIZE = 224


def _photograph(name: str) -> np.ndarray:
    """A photograph as u8 [h, w, 3]."""
    import skimage
    import skimage.io

    image = skimage.io.imread(pathlib.Path(skimage.__file__).parent / "data" / name)
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image[..., :3]


def crops(names: tuple[str, ...], each: int, seed: int) -> np.ndarray:
    """Random square crops, half of them mirrored: f32 [len(names) * each, 3, 224, 224], (pixel - 127) / 128.

    A crop's side is between half of the photograph's shorter side and all of it.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)
    found = []
    for name in names:
        image = _photograph(name)
        short = min(image.shape[:2])
        for _ in range(each):
            side = int(rng.integers(short // 2, short, endpoint=True))
            top, left = (int(rng.integers(0, n - side, endpoint=True)) for n in image.shape[:2])
            square = image[top : top + side, left : left + side]
            square = np.asarray(Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
            found.append(square[:, ::-1] if rng.integers(2) else square)
    pixels = np.stack(found).transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray((pixels - 127) / 128)
