"""Train two networks for Fashion-MNIST with the rounding of deployment, beside float trained for the same epochs.

    python examples/qat_fashion_mnist/run.py --net resnet     # starts from the weights of examples/fashion_mnist
    python examples/qat_fashion_mnist/run.py --net mobilenet  # trains the float network first

Every run leaves a line of results in --out, which the next call reads instead of training again. A run that was
interrupted continues from its last checkpoint, and gives the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "fashion_mnist"), str(HERE)]

import dataset  # noqa: E402
from mobilenet import FashionMobileNet  # noqa: E402
from preprocess import preprocess  # noqa: E402
from torch_model import FashionResNet  # noqa: E402
from train import augment, initialise, make_optimizer, top1  # type: ignore[import-not-found]  # noqa: E402

import qcompiler as qc  # noqa: E402
from qcompiler.qat import QatModule  # noqa: E402

BATCH = 128


def bits(weight: int, activation: int) -> qc.QConfig:
    """Affine activations per tensor, and symmetric weights per channel, of so many bits."""
    top = 2 ** (weight - 1) - 1
    return qc.QConfig(
        qc.QuantSpec(qc.DType.U8, 0, 2**activation - 1),
        qc.QuantSpec(qc.DType.I8, -top, top, symmetric=True, per_channel=True, observer="minmax"),
        mixed_precision=False,
        equalize=False,
    )


def few_bits(weight: int, activation: int) -> qc.QConfigMapping:
    """So many bits for all layers but the first and the last, which have 8 (as in Esser et al. 2020)."""
    mapping = qc.QConfigMapping(bits(weight, activation))
    for name in ("stem", "fc"):
        mapping.set_module_name(name, bits(8, 8))
    return mapping


METHODS: dict[str, qc.QConfig | qc.QConfigMapping | None] = {
    "float": None,
    "int8": bits(8, 8),
    "w4a8": few_bits(4, 8),
    "w4a4": few_bits(4, 4),
    "w4a4-learned": few_bits(4, 4),
}
NETS = {"resnet": FashionResNet, "mobilenet": FashionMobileNet}
PEAK = {"float": 0.02, "int8": 0.02, "w4a8": 0.02, "w4a4": 0.04, "w4a4-learned": 0.04}


def batches(
    images: np.ndarray, labels: np.ndarray, seed: int, epochs: int, begin: int
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(step, x, y) from step `begin` on. A step's images depend on the seed and on the step only."""
    count = len(images) // BATCH
    for epoch in range(begin // count, epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(images))
        for step in range(max(begin, epoch * count), (epoch + 1) * count):
            chosen = order[(step % count) * BATCH :][:BATCH]
            x = preprocess(augment(images[chosen], np.random.default_rng((seed, epoch, step))))
            y = torch.from_numpy(labels[chosen].astype(np.int64))
            yield step, torch.from_numpy(x).to(memory_format=torch.channels_last), y


def without_scales(model: nn.Module) -> nn.Module:
    """The parts of the model whose parameters are those of the float network."""
    return nn.ModuleList(part for name, part in model.named_children() if name != "qat_state")


def fit(
    model: nn.Module, data: tuple[np.ndarray, np.ndarray], seed: int, epochs: int, peak: float, checkpoint: pathlib.Path
) -> None:
    """Train by SGD, with a learning rate that rises for a tenth of the steps and then falls to 0 like a cosine."""
    optimizer = make_optimizer(without_scales(model), peak, 5e-4 if peak > 0.1 else 1e-4)
    scales = list(model.qat_state.parameters()) if isinstance(model, QatModule) else []
    if scales:
        optimizer.add_param_group({"params": scales, "weight_decay": 0.0})
    total = epochs * (len(data[0]) // BATCH)
    begin = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["step"]
    model.train()
    started, losses = time.monotonic(), [0.0]
    for step, x, y in batches(*data, seed, epochs, begin):
        done = (step + 1) / total
        for group in optimizer.param_groups:
            group["lr"] = peak * min(done / 0.1, 0.5 + 0.5 * math.cos(math.pi * done))
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
        left = (time.monotonic() - started) / (step + 1 - begin) * (total - step - 1)
        print(f"\r{done:6.1%}  loss {np.mean(losses[-50:]):.4f}  {left:5.0f} s left ", end="", flush=True)
        if (step + 1) % 100 == 0 or step + 1 == total:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, checkpoint.with_suffix(".new"))
            os.replace(checkpoint.with_suffix(".new"), checkpoint)
    print("\r", end="")


def integer_top1(graph: qc.Graph, images: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Top-1 of the compiled program, and its logits."""
    compiled = qc.compile(graph, "keep", target="native")
    logits = np.concatenate([np.asarray(compiled(preprocess(images[i : i + 250]))) for i in range(0, len(images), 250)])
    return float((logits.argmax(1) == labels).mean()), logits


def start(net: str, options: argparse.Namespace, data: tuple[np.ndarray, np.ndarray]) -> nn.Module:
    """The float network that all runs begin with."""
    model: nn.Module = NETS[net]()
    stored = (
        HERE.parent / "fashion_mnist" / "model.safetensors" if net == "resnet" else options.out / f"{net}.safetensors"
    )
    if not stored.exists():
        torch.manual_seed(0)
        model = NETS[net]()
        initialise(model)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's type stubs
        fit(model, data, 0, options.pretrain, 0.15, options.out / f"{net}.pt")
        save_file({k: v.contiguous() for k, v in model.state_dict().items() if "num_batches" not in k}, stored)
    model.load_state_dict(load_file(stored), strict=False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.train()


def prepared(model: nn.Module, method: str, steps: int) -> QatModule:
    """The network with rounding. Batch norms freeze when three quarters of the steps are done, and so do ranges, unless
    scales are learned from the twentieth step on."""
    frozen = max(1, steps * 3 // 4)
    x = torch.zeros(2, 1, 28, 28)
    schedule = qc.QatSchedule(freeze_observers=frozen, freeze_batch_norm=frozen)
    if method.endswith("-learned"):
        schedule = qc.QatSchedule(learn_scales=20, freeze_batch_norm=frozen)
    return qc.prepare_qat(model, METHODS[method], (x,), dynamic={"x": {0: "N"}}, schedule=schedule)


def run(net: str, method: str, seed: int, options: argparse.Namespace, train: Any, test: Any) -> dict[str, Any]:
    """Train one network by one method and test it on the 10,000 images."""
    torch.manual_seed(seed)
    model = start(net, options, train)
    if method != "float":
        model = prepared(model, method, options.epochs * (len(train[0]) // BATCH))
    checkpoint = options.out / f"{net}-{method}-{seed}.pt"
    fit(model, train, seed, options.epochs, PEAK[method], checkpoint)
    result = {"net": net, "method": method, "seed": seed, "epochs": options.epochs, "images": len(train[0])}
    if isinstance(model, QatModule):
        model.eval()
        result["top1"], logits = integer_top1(qc.convert(model), *test)
        if options.compare:
            parts = [torch.from_numpy(preprocess(test[0][i : i + 250])) for i in range(0, len(test[0]), 250)]
            with torch.no_grad():
                simulated = torch.cat([model(part) for part in parts]).numpy()
            result["same"] = int((simulated == logits).all(1).sum())
    else:
        result["top1"] = top1(model, *test)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=NETS, default="resnet")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["float", "int8", "w4a4-learned"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--pretrain", type=int, default=6, help="epochs of a float network without stored weights")
    parser.add_argument("--compare", action="store_true", help="evaluate in torch too, and count equal logits")
    parser.add_argument("--images", type=int, default=60000, help="train on the first so many images")
    parser.add_argument("--data", type=pathlib.Path, default=dataset.FULL_DATA, help="folder of the four .gz files")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/qat"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    images, labels = dataset.load_full("train", options.data)
    train, test = (images[: options.images], labels[: options.images]), dataset.load_full("test", options.data)
    rows = []
    for seed in options.seeds:
        for method in options.methods:
            path = options.out / f"{options.net}-{method}-{seed}.json"
            if not path.exists() or (options.compare and method != "float" and "same" not in path.read_text()):
                path.write_text(json.dumps(run(options.net, method, seed, options, train, test)) + "\n")
            rows.append(json.loads(path.read_text()))
            print(json.dumps(rows[-1]), flush=True)
    for method in options.methods:
        top = [row["top1"] for row in rows if row["method"] == method]
        print(f"{options.net} {method}: top-1 {np.mean(top):.2%} (mean of {len(top)} seeds)")


if __name__ == "__main__":
    main()
