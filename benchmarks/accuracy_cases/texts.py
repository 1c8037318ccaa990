"""Models that read bytes and characters: the type of a file, and where Thai words end."""

from __future__ import annotations

import json
import pathlib
import re
import string
import zlib
from typing import Any

import numpy as np

from accuracy_cases.case import Case, MissingPackage, Outputs, agreement, first, package_folder

_TYPES = {
    "c": "c",
    "cmake": "cmake",
    "cpp": "cpp",
    "css": "css",
    "csv": "csv",
    "gif": "gif",
    "gz": "gzip",
    "html": "html",
    "js": "javascript",
    "jpg": "jpeg",
    "json": "json",
    "md": "markdown",
    "npy": "npy",
    "npz": "npz",
    "otf": "otf",
    "pl": "perl",
    "pm": "perl",
    "png": "png",
    "po": "po",
    "py": "python",
    "pyc": "pythonbytecode",
    "pyi": "python",
    "rst": "rst",
    "sh": "shell",
    "so": "elf",
    "svg": "svg",
    "toml": "toml",
    "ttf": "ttf",
    "ts": "typescript",
    "txt": "txt",
    "whl": "zip",
    "woff2": "woff2",
    "xml": "xml",
    "yaml": "yaml",
    "zip": "zip",
}
"""Extensions, and the label that the model has for them."""


def _files(calibration: bool, each: int) -> list[tuple[pathlib.Path, str]]:
    """At most `each` files of each extension, and their labels, from this machine's packages.

    A package (a folder of /usr/share, /usr/lib, /usr/include or site-packages) has either calibration files or test
    files.
    """
    import importlib.util

    site = pathlib.Path(importlib.util.find_spec("numpy").origin).parents[1]  # type: ignore[union-attr, arg-type]
    django = package_folder("django", "django==5.2.19").parent
    by_extension: dict[str, list[pathlib.Path]] = {}
    for root in {pathlib.Path("/usr/share"), pathlib.Path("/usr/lib"), pathlib.Path("/usr/include"), site, django}:
        for path in sorted(root.glob("*/**/*")):
            extension = path.suffix[1:]
            package = path.relative_to(root).parts[0]
            wanted = extension in _TYPES and (zlib.crc32(package.encode()) % 4 == 0) == calibration
            if wanted and path.is_file() and not path.is_symlink() and path.stat().st_size >= 64:
                by_extension.setdefault(extension, []).append(path)
    rng = np.random.default_rng(0)
    chosen = []
    for extension, paths in sorted(by_extension.items()):
        for index in rng.permutation(len(paths))[:each]:
            chosen.append((paths[index], _TYPES[extension]))
    rng.shuffle(chosen)
    return chosen


def _bytes(path: pathlib.Path) -> np.ndarray:
    """The model's input, i32 [1, 2048]: the first and the last 1024 bytes, without white space on the outside, padded
    with 256."""
    data = path.read_bytes()
    head, tail = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
    row = [*head, *[256] * (1024 - len(head)), *[256] * (1024 - len(tail)), *tail]
    return np.array([row], np.int32)


def file_types(folder: pathlib.Path, items: int | None) -> Case:
    """Magika. The metric is the label that belongs to a file's extension."""
    found = package_folder("magika", "magika==1.0.3") / "models" / "standard_v3_3"
    names = json.loads((found / "config.min.json").read_text())["target_labels_space"]
    calibration, test = _files(True, 4), _files(False, 40)[:items]
    classes = np.array([names.index(label) for _, label in test])

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        best, got = first(real).argmax(1), first(outputs).argmax(1)
        return {"right type, %": agreement(classes, got), "same as float, %": agreement(best, got)}

    return Case(
        found / "model.onnx",
        [{"bytes": _bytes(path)} for path, _ in calibration],
        [{"bytes": _bytes(path)} for path, _ in test],
        judge,
    )


LENGTH = 128


def _thai(paths: list[pathlib.Path]) -> str:
    """All Thai text of Django's catalogues of messages, joined."""
    found = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r'msgstr(?:\[0\])? ((?:"[^\n]*"\s*)+)', text):
            line = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match[1])).replace("\\n", " ").replace('\\"', '"')
            if re.search(r"[\u0e00-\u0e7f]{4}", line):
                found.append(line.strip())
    return " ".join(dict.fromkeys(found))


def thai_words(folder: pathlib.Path, items: int | None) -> Case:
    """AttaCut, by characters. There are no labels: the metric is the F1 of the words' beginnings with float's."""
    import torch
    from torch import nn

    artifacts = package_folder("attacut", "attacut==1.0.6") / "artifacts" / "attacut-c"
    numbers = json.loads((artifacts / "characters.json").read_text())
    weights = torch.load(artifacts / "model.pth", map_location="cpu", weights_only=True)

    class Cut(nn.Module):
        """The package's `seq_ch_conv`, by the names of its weights: three dilated convolutions and their maximum."""

        def __init__(self) -> None:
            super().__init__()
            width, filters = weights["embeddings.weight"].shape[1], weights["linear1.weight"].shape
            self.embeddings = nn.Embedding(*weights["embeddings.weight"].shape)
            for index, (kernel, dilation) in enumerate(((3, 1), (5, 3), (9, 2)), 1):
                layer = nn.Module()
                layer.conv = nn.Conv1d(width, filters[1], kernel, dilation=dilation, padding=kernel // 2 * dilation)
                setattr(self, f"conv{index}", layer)
            self.linear1, self.linear2 = nn.Linear(filters[1], filters[0]), nn.Linear(filters[0], 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            embedding = self.embeddings(x).permute(0, 2, 1)
            layers: list[Any] = [self.conv1, self.conv2, self.conv3]
            best = torch.stack([layer.conv(embedding).permute(0, 2, 1) for layer in layers], 3).max(3)[0]
            return self.linear2(torch.relu(self.linear1(best)))

    model = Cut()
    model.load_state_dict(weights)
    path = folder / "attacut.onnx"
    example = (torch.zeros(1, LENGTH, dtype=torch.int64),)
    torch.onnx.export(
        model.eval(), example, str(path), opset_version=17, input_names=["x"], output_names=["y"], dynamo=False
    )
    django = package_folder("django", "django==5.2.19")
    catalogues = sorted(django.glob("**/locale/th/LC_MESSAGES/*.po"))
    if not catalogues:
        raise MissingPackage("pip install --no-deps django==5.2.19")

    def rows(admin: bool) -> list[dict[str, np.ndarray]]:
        text = _thai([each for each in catalogues if ("admin" in each.parts) == admin])
        ids = [numbers["<PUNC>"] if c in string.punctuation else numbers.get(c, numbers["<UNK>"]) for c in text]
        starts = range(0, len(ids) - LENGTH + 1, LENGTH)
        return [{"x": np.array([ids[start : start + LENGTH]], np.int64)} for start in starts]

    def judge(real: Outputs, outputs: Outputs) -> dict[str, float]:
        wanted, got = first(real) > 0, first(outputs) > 0
        return {
            "F1 with float's words, %": 200 * float((wanted & got).sum() / (wanted.sum() + got.sum())),
            "same as float, %": agreement(wanted, got),
        }

    return Case(path, rows(admin=True)[:64], rows(admin=False)[:items], judge)
