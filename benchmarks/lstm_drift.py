"""How far an int8 LSTM is from its float form after 10, 100, 1,000 and 10,000 steps of one sequence.

    python benchmarks/lstm_drift.py --steps 10000

Two layers of 64 units are trained, by torch, to predict the next value of sums of three sines with noise. Then
sequences that were not trained on run through the float program, the static one, which was calibrated with 16 other
sequences of 100 steps, and the dynamic ones, from the first step to the last.
Each row shows the mean and the largest distance of the states h of the last layer from those of the float program, in
the ten steps up to that one.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import qcompiler as qc
from qcompiler import nn

UNITS = 64


def sequences(rng: np.random.Generator, count: int, steps: int) -> np.ndarray:
    """f32 [steps, count, 1]."""
    t = np.arange(steps)[:, None, None]
    periods, phases = rng.uniform(5, 60, (2, 3, count)), rng.uniform(0, 6.28, (3, count))
    waves = np.sin(2 * np.pi * t / periods[0] + phases).sum(axis=1) / 3
    return (waves[..., None] + rng.normal(0, 0.05, (steps, count, 1))).astype(np.float32)


class Predictor(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(1, UNITS, 2)
        self.head = torch.nn.Linear(UNITS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


def trained(steps: int) -> Predictor:
    torch.manual_seed(0)
    rng, model = np.random.default_rng(0), Predictor()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        x = torch.from_numpy(sequences(rng, 32, 101))
        loss = ((model(x[:-1]) - x[1:]) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"mean squared error after {steps} steps of training: {loss.item():.4f}")
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--training", type=int, default=300)
    args = parser.parse_args()
    state = trained(args.training).lstm.state_dict()
    model = nn.LSTM(1, UNITS, 2)
    model.load_state_dict(state)
    x = sequences(np.random.default_rng(9), 4, args.steps)
    real = qc.compile(model, None, (x,))(x)[0]
    places = [10**power for power in range(1, 8) if 10**power <= args.steps]
    batches = [sequences(np.random.default_rng(5), 16, 100)]
    for qconfig in ("int8", "dynamic", "dynamic:per_tensor", "torch:dynamic"):
        data = {"calibration_data": batches, "dynamic": {"x": {0: "T", 1: "N"}}} if qconfig == "int8" else {}
        distance = np.abs(qc.compile(model, qconfig, (x,), **data)(x)[0] - real)
        for place in places:
            near = distance[place - 10 : place]
            print(f"{qconfig:20} step {place:6}: mean {near.mean():.5f}, largest {near.max():.4f}")


if __name__ == "__main__":
    main()
