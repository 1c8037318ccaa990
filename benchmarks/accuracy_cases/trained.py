"""Small models that are trained here, in seconds and by a fixed seed, of kinds of which no package has one with data.

The recurrent ones are written as people write cells by hand: matmuls and elementwise ops, unrolled over the steps.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from accuracy_cases.case import Case, classifier_judge, needs


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits as sequences of 8 rows of 8 pixels, f32 [n, 8, 8], and their classes."""
    needs("sklearn", "scikit-learn")
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order] / 16).astype(np.float32), data.target[order].astype(np.int64)


def _train(model: Any, x: np.ndarray, classes: np.ndarray, epochs: int, rate: float = 3e-3) -> None:
    import torch

    torch.manual_seed(0)
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs[batch]), wanted[batch]).backward()
            optimizer.step()
        schedule.step()


def _case(
    folder: pathlib.Path,
    name: str,
    model: Any,
    data: tuple[np.ndarray, np.ndarray],
    items: int | None,
    epochs: int = 25,
) -> Case:
    """Train on the first part of the data, calibrate with 64 of its items, and test on the rest."""
    import torch

    x, classes = data
    trained = len(x) * 6 // 10
    _train(model, x[:trained], classes[:trained], epochs)
    path = folder / f"{name}.onnx"
    example = (torch.from_numpy(x[:1]),)
    torch.onnx.export(
        model.eval(), example, str(path), opset_version=17, input_names=["x"], output_names=["y"], dynamo=False
    )
    test = x[trained:][:items]
    judge = classifier_judge(classes[trained:][:items])
    return Case(path, [{"x": each[None]} for each in x[:64]], [{"x": each[None]} for each in test], judge)


def gru(folder: pathlib.Path, items: int | None) -> Case:
    """A GRU over the rows of a digit (Cho et al., 2014), its cell in small ops."""
    import torch
    from torch import nn

    class Gru(nn.Module):
        def __init__(self, width: int = 64) -> None:
            super().__init__()
            self.width = width
            self.of_input, self.of_state = nn.Linear(8, 3 * width), nn.Linear(width, 3 * width)
            self.head = nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = torch.zeros(x.shape[0], self.width)
            for step in range(8):
                reset, update, new = self.of_input(x[:, step]).chunk(3, 1)
                reset_state, update_state, new_state = self.of_state(state).chunk(3, 1)
                gate = torch.sigmoid(update + update_state)
                candidate = torch.tanh(new + torch.sigmoid(reset + reset_state) * new_state)
                state = gate * state + (1 - gate) * candidate
            return self.head(state)

    torch.manual_seed(0)
    return _case(folder, "gru", Gru(), _digits(), items)


def lstm(folder: pathlib.Path, items: int | None) -> Case:
    """An LSTM over the rows of a digit (Hochreiter and Schmidhuber, 1997), its cell in small ops."""
    import torch
    from torch import nn

    class Lstm(nn.Module):
        def __init__(self, width: int = 64) -> None:
            super().__init__()
            self.width = width
            self.of_input, self.of_state = nn.Linear(8, 4 * width), nn.Linear(width, 4 * width)
            self.head = nn.Linear(width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = cell = torch.zeros(x.shape[0], self.width)
            for step in range(8):
                enter, forget, new, leave = (self.of_input(x[:, step]) + self.of_state(state)).chunk(4, 1)
                cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
                state = torch.sigmoid(leave) * torch.tanh(cell)
            return self.head(state)

    torch.manual_seed(0)
    return _case(folder, "lstm", Lstm(), _digits(), items)


def recurrent_layers(folder: pathlib.Path, items: int | None, kind: str) -> Case:
    """Two layers of LSTM or GRU over the rows of a digit, kept whole."""
    import torch
    from torch import nn

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = getattr(nn, kind)(8, 64, 2, batch_first=True)
            self.head = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers(x)[0][:, -1])

    torch.manual_seed(0)
    return _case(folder, f"{kind} layers".lower().replace(" ", "_"), Layers(), _digits(), items)


def lstm_layer(folder: pathlib.Path, items: int | None) -> Case:
    """An LSTM in two directions over the rows of a digit, as torch's layer and ONNX's op."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, width: int = 48) -> None:
            super().__init__()
            self.layer = nn.LSTM(8, width, batch_first=True, bidirectional=True)
            self.head = nn.Linear(2 * width, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(x)[0].mean(1))

    torch.manual_seed(0)
    return _case(folder, "lstm_layer", Layer(), _digits(), items)


def log_front_end(folder: pathlib.Path, items: int | None) -> Case:
    """A classifier of chirps in noise whose front end is a spectrogram by convolution, its power, and a log."""
    import torch
    from torch import nn

    class Chirps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            times, window = np.arange(64), np.hanning(64)
            angles = 2 * np.pi * np.outer(np.arange(1, 33), times) / 64
            filters = np.concatenate([np.cos(angles), np.sin(angles)]) * window
            self.register_buffer("filters", torch.tensor(filters[:, None], dtype=torch.float32))
            self.net = nn.Sequential(
                nn.BatchNorm1d(32),
                nn.Conv1d(32, 32, 5, padding=2),
                nn.ReLU(),
                nn.Conv1d(32, 48, 5, 2),
                nn.ReLU(),
                nn.Conv1d(48, 32, 5, 2),
                nn.ReLU(),
                nn.AdaptiveAvgPool1d(1),
            )
            self.head = nn.Linear(32, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = nn.functional.conv1d(x[:, None], self.filters, stride=16)
            real, imaginary = parts[:, :32], parts[:, 32:]
            return self.head(self.net(torch.log(real * real + imaginary * imaginary + 1e-6)).flatten(1))

    torch.manual_seed(0)
    return _case(folder, "log_front_end", Chirps(), _chirps(4000), items, epochs=60)


def _chirps(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Chirps that rise, fall or stay, over 60 dB of loudness: f32 [count, 1024], and their kinds, 0 to 5."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 6, count)
    times = np.arange(1024)
    sounds = []
    for kind in kinds:
        slope = (kind % 3 - 1) * (1 + kind // 3) * 6e-5 + rng.normal() * 6e-6
        start = rng.uniform(0.18, 0.3)
        depth = 0.0 if kind != 4 else 0.4  # a steady tone is either plain or trembling
        tone = np.sin(2 * np.pi * (start * times + slope * times**2 / 2)) * (1 + depth * np.sin(times / 25))
        loud = 10 ** (-rng.uniform(0, 60) / 20)
        sounds.append(loud * (tone + rng.normal(size=1024) * 10 ** (-rng.uniform(3, 25) / 20)))
    return np.array(sounds, np.float32), kinds.astype(np.int64)
