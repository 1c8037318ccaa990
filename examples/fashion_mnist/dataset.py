"""Read Fashion-MNIST: the full IDX files of a system package, and the two small splits stored beside this file.

Owns the files' formats and which images belong to which split; normalisation is preprocess.py's. Numpy only.
"""

from __future__ import annotations

import gzip
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
FULL_DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts it
CALIB_COUNT = 320
TEST_COUNT = 1000
CALIB_SEED = 320

_IDX_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60000),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10000),
}


class DatasetError(Exception):
    """A data file is missing, or isn't what its name says."""


def read_idx(path: pathlib.Path) -> np.ndarray:
    """A gzipped IDX file of u8 values as an array of the shape in its header."""
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing\n  hint: install Debian's package dataset-fashion-mnist, or give --data FOLDER"
            " with the four .gz files of Fashion-MNIST"
        )
    raw = gzip.decompress(path.read_bytes())
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DatasetError(f"{path}: expected an IDX file of u8 values, got header {raw[:4].hex()}")
    start = 4 + 4 * raw[3]
    shape = tuple(int(extent) for extent in np.frombuffer(raw[4:start], ">u4"))
    if len(raw) - start != int(np.prod(shape)):
        raise DatasetError(f"{path}: header says shape {list(shape)}, but {len(raw) - start} bytes follow")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def load_full(split: str, folder: pathlib.Path = FULL_DATA) -> tuple[np.ndarray, np.ndarray]:
    """All images of "train" (60,000) or "test" (10,000): u8 [n, 1, 28, 28], and their labels, u8 [n]."""
    images_file, labels_file, count = _IDX_FILES[split]
    images, labels = read_idx(folder / images_file), read_idx(folder / labels_file)
    if images.shape != (count, 28, 28) or labels.shape != (count,):
        raise DatasetError(
            f"{folder}, split {split!r}: expected images [{count}, 28, 28] and labels [{count}], "
            f"got {list(images.shape)} and {list(labels.shape)}"
        )
    return images[:, None], labels


def load_split(name: str, folder: pathlib.Path = HERE) -> tuple[np.ndarray, np.ndarray]:
    """The stored split "calib" (320 training images) or "test" (the first 1,000 test images): u8 images and labels."""
    path = folder / f"{name}.npz"
    if name not in ("calib", "test") or not path.is_file():
        raise DatasetError(f"no split {name!r} in {folder}\n  hint: the splits are 'calib' and 'test'")
    with np.load(path, allow_pickle=False) as stored:
        return stored["images"], stored["labels"]


def choose_calibration(images: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Indices of the calibration images: the same number from each class, in mixed order, none equal to a held-out one.

    The training and the test file are different photographs, so excluding byte-equal images only guards against
    duplicates in the data set itself.
    """
    rng = np.random.default_rng(CALIB_SEED)
    held = {image.tobytes() for image in held_out}
    classes = np.unique(labels)
    chosen: list[int] = []
    for label in classes:
        candidates = rng.permutation(np.flatnonzero(labels == label))
        usable = (int(index) for index in candidates if images[index].tobytes() not in held)
        chosen.extend(next(usable) for _ in range(CALIB_COUNT // len(classes)))
    return rng.permutation(np.array(chosen, np.int64))


def write_splits(out: pathlib.Path, folder: pathlib.Path = FULL_DATA) -> None:
    """Write calib.npz (with `indices` into the 60,000) and test.npz to the folder `out`."""
    train_images, train_labels = load_full("train", folder)
    test_images, test_labels = load_full("test", folder)
    indices = choose_calibration(train_images, train_labels, test_images)
    np.savez_compressed(out / "calib.npz", images=train_images[indices], labels=train_labels[indices], indices=indices)
    np.savez_compressed(out / "test.npz", images=test_images[:TEST_COUNT], labels=test_labels[:TEST_COUNT])
