"""The demo's stored data and float model: the splits are as documented, the weights are complete, and the accuracy is
above a named threshold."""

from __future__ import annotations

import importlib
import pathlib
import sys
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import load_file

DEMO = pathlib.Path(__file__).resolve().parents[2] / "examples" / "fashion_mnist"
FLOAT_TOP1 = 0.92  # on the 1,000 stored test images
BATCHNORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch):
    """Imports a module of the demo's folder by its plain name, as the scripts there do, and forgets it afterwards."""
    monkeypatch.syspath_prepend(str(DEMO))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("train", "dataset", "preprocess", "torch_model"):
        if name not in before:
            sys.modules.pop(name, None)


def expected_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights, written out from the model's description rather than from its code."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, bn: str, out_channels: int, in_channels: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (out_channels, in_channels, kernel, kernel)
        shapes.update({f"{bn}.{part}": (out_channels,) for part in BATCHNORM})

    add("stem.conv", "stem.bn", width, 1, 3)
    in_channels = width
    for stage, channels in ((1, width), (2, 2 * width), (3, 4 * width)):
        for block in (0, 1):
            at = f"stage{stage}.{block}"
            add(f"{at}.conv1", f"{at}.bn1", channels, in_channels, 3)
            add(f"{at}.conv2", f"{at}.bn2", channels, channels, 3)
            if in_channels != channels:
                add(f"{at}.shortcut.conv", f"{at}.shortcut.bn", channels, in_channels, 1)
            in_channels = channels
    return shapes | {"fc.weight": (10, in_channels), "fc.bias": (10,)}


def test_splits_have_the_promised_size_and_are_disjoint(demo):
    calib, calib_labels = demo("dataset").load_split("calib")
    test, test_labels = demo("dataset").load_split("test")
    assert calib.shape == (320, 1, 28, 28) and calib.dtype == np.uint8
    assert test.shape == (1000, 1, 28, 28) and test.dtype == np.uint8
    assert np.bincount(calib_labels, minlength=10).tolist() == [32] * 10
    assert test_labels.shape == (1000,) and set(test_labels.tolist()) == set(range(10))
    assert not {image.tobytes() for image in calib} & {image.tobytes() for image in test}


def test_splits_are_those_of_the_full_data_set(demo, tmp_path):
    dataset = demo("dataset")
    if not dataset.FULL_DATA.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    dataset.write_splits(tmp_path)
    for name in ("calib", "test"):
        for stored, fresh in zip(dataset.load_split(name), dataset.load_split(name, tmp_path), strict=True):
            np.testing.assert_array_equal(stored, fresh)


def test_committed_data_stay_small():
    assert sum(path.stat().st_size for path in DEMO.iterdir() if path.is_file()) < 4_000_000


def test_weights_have_the_models_names_shapes_and_are_finite_f32():
    weights = load_file(DEMO / "model.safetensors")
    assert {name: value.shape for name, value in weights.items()} == expected_shapes(16)
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in weights.values())


def test_float_top1_on_the_stored_test_images(demo):
    torch = pytest.importorskip("torch")
    train = demo("train")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = train.load_model(DEMO / "model.safetensors")
        assert train.top1(model, *demo("dataset").load_split("test")) >= FLOAT_TOP1
    finally:
        torch.set_num_threads(threads)


def test_preprocess_normalises_in_f32(demo):
    pixels = np.array([0, 1, 73, 255], np.uint8)
    got = demo("preprocess").preprocess(np.broadcast_to(pixels[:, None, None, None], (4, 1, 28, 28)))
    assert got.dtype == np.float32 and got.shape == (4, 1, 28, 28)
    np.testing.assert_allclose(got[:, 0, 5, 7], (pixels / 255 - 0.2860) / 0.3530, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.zeros((2, 28, 28), np.uint8), np.zeros((2, 1, 28, 28), np.float32)])
def test_preprocess_names_what_it_expects(demo, bad):
    with pytest.raises(ValueError, match=r"expected u8 images \[n, 1, 28, 28\]"):
        demo("preprocess").preprocess(bad)


def test_missing_and_broken_idx_files_are_named(demo, tmp_path):
    import gzip

    dataset = demo("dataset")
    with pytest.raises(dataset.DatasetError, match="is missing\n  hint: install Debian's package"):
        dataset.load_full("train", tmp_path)
    path = tmp_path / "short.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x05abc"))
    with pytest.raises(dataset.DatasetError, match=r"shape \[5\], but 3 bytes follow"):
        dataset.read_idx(path)


def test_augment_moves_by_at_most_two_pixels_and_mirrors(demo):
    pytest.importorskip("torch")
    image = np.zeros((1, 1, 28, 28), np.uint8)
    image[0, 0, 10, 8] = 200
    moved = demo("train").augment(np.repeat(image, 2000, 0), np.random.default_rng(1))
    assert (moved.sum((1, 2, 3)) == 200).all()
    _, _, rows, columns = np.nonzero(moved)
    assert set(rows.tolist()) == set(range(8, 13))
    assert set(columns.tolist()) == set(range(6, 11)) | {27 - column for column in range(6, 11)}
