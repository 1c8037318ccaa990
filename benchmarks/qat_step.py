"""The time of a training step of torch's FX mode and of qc.prepare_qat: the same model, batch and threads, in turns.

python benchmarks/qat_step.py [--net resnet|mobilenet] [--threads 1] [--rounds 10]
"""

from __future__ import annotations

import argparse
import copy
import pathlib
import sys
import time
import warnings

import torch
from torch.ao.quantization import get_default_qat_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_qat_fx

import qcompiler as qc

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples" / "fashion_mnist"), str(ROOT / "examples" / "qat_fashion_mnist")]

from mobilenet import FashionMobileNet  # noqa: E402
from torch_model import FashionResNet  # noqa: E402

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=("resnet", "mobilenet"), default="resnet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    net = (FashionResNet if options.net == "resnet" else FashionMobileNet)().train()
    x, y = torch.randn(options.batch, 1, 28, 28), torch.arange(options.batch) % 10
    models = {
        "float": copy.deepcopy(net),
        "torch FX": prepare_qat_fx(copy.deepcopy(net), get_default_qat_qconfig_mapping("x86"), (x,)).train(),
        "qcompiler": qc.prepare_qat(net, "torch:x86", (x,)),
    }
    optimizers = {name: torch.optim.SGD(model.parameters(), 0.01) for name, model in models.items()}
    least = dict.fromkeys(models, float("inf"))
    for _ in range(options.rounds):
        for name, model in models.items():
            start = time.perf_counter()
            for _ in range(STEPS):
                loss = torch.nn.functional.cross_entropy(model(x), y)
                optimizers[name].zero_grad()
                loss.backward()
                optimizers[name].step()
            least[name] = min(least[name], (time.perf_counter() - start) / STEPS)
    for name, seconds in least.items():
        print(f"{name:>10}  {seconds * 1e3:7.1f} ms a step  {seconds / least['torch FX']:.2f} of torch FX")


if __name__ == "__main__":
    main()
