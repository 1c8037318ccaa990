"""Train the demo's float model on Fashion-MNIST's 60,000 training images, on one CPU thread, deterministically.

The program writes model.safetensors (torch state-dict names, f32, batchnorm not folded), calib.npz, test.npz and
train.log. The test images are used once, after the last epoch, and nothing is chosen by them.

    python examples/fashion_mnist/train.py                 # about a quarter of an hour
    python examples/fashion_mnist/train.py --evaluate      # float top-1 of the stored weights
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable

import dataset
import numpy as np
import torch
from preprocess import MEAN, STD, preprocess
from safetensors.torch import load_file, save_file
from torch import nn
from torch_model import FashionResNet

Log = Callable[[str], None]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate", action="store_true", help="only print the stored model's float top-1")
    parser.add_argument("--data", type=pathlib.Path, default=dataset.FULL_DATA, help="folder of the four .gz files")
    parser.add_argument("--out", type=pathlib.Path, default=dataset.HERE, help="folder the results are written to")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.15, help="peak of the one-cycle schedule")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in ("epochs", "batch", "lr"):
        if getattr(arguments, name) <= 0:
            parser.error(f"--{name} must be above 0, got {getattr(arguments, name)}")
    if not arguments.out.is_dir():
        parser.error(f"--out: there is no folder {arguments.out}")
    return arguments


def augment(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of the u8 images, and move each by up to two pixels both ways (black comes in at the border)."""
    n, _, height, width = images.shape
    padded = np.pad(images[:, 0], ((0, 0), (2, 2), (2, 2)))
    rows = rng.integers(0, 5, (n, 1, 1)) + np.arange(height)[None, :, None]
    columns = rng.integers(0, 5, (n, 1, 1)) + np.arange(width)[None, None, :]
    moved = padded[np.arange(n)[:, None, None], rows, columns]
    mirrored = rng.random(n) < 0.5
    moved[mirrored] = moved[mirrored, :, ::-1]
    return moved[:, None]


def initialise(model: nn.Module) -> None:
    """He's initialisation for convolutions; batchnorm and linear keep torch's."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; weight decay on matrices and filters only, not on batchnorm and biases."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def train(model: nn.Module, images: np.ndarray, labels: np.ndarray, options: argparse.Namespace, log: Log) -> None:
    rng = np.random.default_rng(options.seed)
    optimizer = make_optimizer(model, options.lr, options.weight_decay)
    steps = -(-len(images) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps * options.epochs)
    started = time.monotonic()
    model.train()
    for epoch in range(1, options.epochs + 1):
        loss_sum, hits = 0.0, 0
        for indices in np.array_split(rng.permutation(len(images)), steps):
            x = torch.from_numpy(preprocess(augment(images[indices], rng)))
            y = torch.from_numpy(labels[indices].astype(np.int64))
            logits = model(x.to(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(indices)
            hits += int((logits.argmax(1) == y).sum())
        n = len(images)
        log(
            f"epoch {epoch:2d}/{options.epochs}  loss {loss_sum / n:.4f}  train top-1 (augmented) {hits / n:.2%}  "
            f"{time.monotonic() - started:.0f} s"
        )


def top1(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose largest logit is the label's."""
    model.eval()
    hits = 0
    with torch.inference_mode():
        for start in range(0, len(images), 250):
            logits = model(torch.from_numpy(preprocess(images[start : start + 250])))
            hits += int((logits.argmax(1).numpy() == labels[start : start + 250]).sum())
    return hits / len(images)


def save_model(model: nn.Module, path: pathlib.Path) -> None:
    """All parameters and running statistics in f32; torch's batch counters, of no use to inference, stay out."""
    tensors = {
        name: value.to(torch.float32).contiguous()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    save_file(tensors, path)


def load_model(path: pathlib.Path) -> FashionResNet:
    if not path.is_file():
        raise SystemExit(f"{path} is missing\n  hint: run train.py without --evaluate first")
    model = FashionResNet()
    model.load_state_dict(load_file(path))
    return model.eval()


def evaluate(options: argparse.Namespace, log: Log) -> None:
    """Prints top-1 on the stored 1,000 first, so that it needs nothing but the checkout, then on all 10,000."""
    model = load_model(options.out / "model.safetensors")
    images, labels = dataset.load_split("test", options.out)
    log(f"float top-1 on test.npz ({len(images)} images): {top1(model, images, labels):.2%}")
    images, labels = dataset.load_full("test", options.data)
    log(f"float top-1 on all {len(images)} test images: {top1(model, images, labels):.2%}")


def run_training(options: argparse.Namespace, log: Log) -> None:
    images, labels = dataset.load_full("train", options.data)
    mean, std = float((images / 255).mean()), float((images / 255).std())
    if abs(mean - MEAN) > 1e-4 or abs(std - STD) > 1e-4:
        raise SystemExit(f"preprocess.py says mean {MEAN} and std {STD}, the images have {mean:.4f} and {std:.4f}")
    dataset.write_splits(options.out, options.data)
    model = FashionResNet()
    initialise(model)
    log(
        f"{sum(p.numel() for p in model.parameters())} parameters, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread, {options.epochs} epochs, batch {options.batch}, peak lr {options.lr}, "
        f"weight decay {options.weight_decay}, seed {options.seed}"
    )
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's type stubs
    train(model, images, labels, options, log)
    save_model(model, options.out / "model.safetensors")
    evaluate(options, log)


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    try:
        if options.evaluate:
            evaluate(options, print)
            return
        with open(options.out / "train.log", "w") as file:

            def log(line: str) -> None:
                print(line, flush=True)
                print(line, file=file, flush=True)

            run_training(options, log)
    except dataset.DatasetError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
