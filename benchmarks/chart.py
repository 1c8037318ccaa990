"""Write docs/speed.svg and docs/speed.md from build/peers.json: the time of each system on each model."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "qcompiler"

from matplotlib import pyplot  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SYSTEMS = {
    "ours int8": "#1f5fa8",
    "onnxruntime int8": "#e07b39",
    "openvino int8": "#6a9f58",
    "openvino nncf": "#a8c89a",
    "torch int8": "#b05f8a",
    "onnxruntime float": "#bbbbbb",
}
HEAD = (
    "model",
    "batch",
    "threads",
    "qcompiler int8",
    "of peak",
    "best peer",
    "ONNX Runtime int8",
    "OpenVINO int8",
    "OpenVINO nncf",
    "torch int8",
    "float: qcompiler",
    "ONNX Runtime",
    "OpenVINO (bf16)",
    "torch",
)
COLUMNS = (
    "onnxruntime int8",
    "openvino int8",
    "openvino nncf",
    "torch int8",
    "ours float",
    "onnxruntime float",
    "openvino float",
    "torch float",
)


def draw(data: dict[str, Any], path: pathlib.Path) -> None:
    """Draw a panel per number of threads. A bar is a system's median over ours; ours are labelled in milliseconds."""
    rows = [row for row in data["rows"] if row["batch"] == 1]
    models = list(dict.fromkeys(row["model"] for row in rows))
    counts = sorted({row["threads"] for row in rows})
    figure, axes = pyplot.subplots(len(counts), 1, figsize=(11, 3.4 * len(counts)), squeeze=False)
    for axis, threads in zip(axes[:, 0], counts):
        times = {(row["model"], row["system"]): row["median_ms"] for row in rows if row["threads"] == threads}
        for number, (system, colour) in enumerate(SYSTEMS.items()):
            heights = [
                times[model, system] / times[model, "ours int8"] if (model, system) in times else 0 for model in models
            ]
            places = [place + 0.13 * (number - 2.5) for place in range(len(models))]
            axis.bar(places, heights, 0.12, color=colour, label=system)
        for place, model in enumerate(models):
            axis.annotate(  # above our bar, which is always the first and of height 1, there is room for any number
                f"{times[model, 'ours int8']:.3g} ms",
                (place - 0.325, 1),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=7,
                ha="center",
                va="bottom",
                rotation=90,
                color=SYSTEMS["ours int8"],
            )
        axis.axhline(1, color="#444444", linewidth=0.6)
        axis.set_xticks(range(len(models)), models, fontsize=8)
        axis.set_ylabel(f"time over ours, {threads} thread{'s' if threads > 1 else ''}")
        axis.spines[["top", "right"]].set_visible(False)
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        *handles, fontsize=8, ncols=len(SYSTEMS), frameon=False, loc="upper center", bbox_to_anchor=(0.5, 0.97)
    )
    figure.suptitle(
        f"Batch 1, {data['cpu']}, level {data['level']}, {data['date']}: lower is faster; python benchmarks/bench.py",
        fontsize=9,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    figure.savefig(path, metadata={"Date": None})


TEXT = """\
# Speed

Measured on **{cpu}, level {level}**, {date}, and written by `make bench` (`python benchmarks/bench.py`, then
`python benchmarks/chart.py`). The picture differs on a CPU without VNNI:
[measured on Zen 3](speed-without-vnni.md). [Where the time goes](speed-by-kernel.md) says which kernels take it.
Dynamic int8 has [a page of its own](speed-dynamic.md).

The table gives milliseconds, the medians of {rounds} rounds. Each system has a process of its own; they take turns,
and the others are parked. Peers run at their best setting: ONNX Runtime with QDQ per channel, OpenVINO on the same
QDQ model and on its own quantization (nncf), torch with its x86 engine. Weights are random but seeded.

*Best peer* says how many times as long the fastest int8 peer of the row takes; over all rows its geometric mean is
{mean:.2f}x and the worst is {worst:.2f}x. *Of peak* is the share of the speed that dot products alone reach on this
CPU, measured in the same run ({peak_int8:.0f} multiply-adds per nanosecond and thread).

![time over ours](speed.svg)

{head}
{rows}
"""


def page(data: dict[str, Any]) -> str:
    """The text of docs/speed.md."""
    found: dict[tuple[str, int, int], dict[str, dict[str, float]]] = {}
    for row in data["rows"]:
        found.setdefault((row["model"], row["batch"], row["threads"]), {})[row["system"]] = row
    lines, ratios = [], []
    for (model, batch, threads), systems in found.items():
        ours = systems["ours int8"]
        ratios.append(ours["ratio_to_best_peer"])
        cells = [
            model,
            str(batch),
            str(threads),
            f"**{ours['median_ms']:.3f}**",
            f"{ours['fraction_of_peak']:.0%}",
            f"{ratios[-1]:.2f}x",
        ]
        cells += [f"{systems[name]['median_ms']:.3f}" if name in systems else "" for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    rounds = min(row["rounds"] for row in data["rows"])
    head = f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|"
    return TEXT.format(**{**data, "head": head, "rows": "\n".join(lines)}, mean=mean, worst=min(ratios), rounds=rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=pathlib.Path, default=HERE.parent / "build" / "peers.json")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "docs" / "speed.svg")
    options = parser.parse_args()
    found = json.loads(options.rows.read_text())
    draw(found, options.out)
    options.out.with_suffix(".md").write_text(page(found))
