"""The chart of docs/speed.svg from build/peers.json: time of each system over ours, model by model, batch 1."""

from __future__ import annotations

import argparse
import json
import pathlib

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "qcompiler"

from matplotlib import pyplot  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SYSTEMS = {"ours int8": "#1f5fa8", "onnxruntime int8": "#e07b39", "openvino int8": "#6a9f58", "openvino nncf": "#a8c89a",
           "torch int8": "#b05f8a", "onnxruntime float": "#bbbbbb"}


def draw(data: dict[str, object], path: pathlib.Path) -> None:
    """One panel for each number of threads; bars: median over ours; above ours its milliseconds."""
    rows = [row for row in data["rows"] if row["batch"] == 1]  # type: ignore[index, union-attr]
    models = list(dict.fromkeys(row["model"] for row in rows))
    counts = sorted({row["threads"] for row in rows})
    figure, axes = pyplot.subplots(len(counts), 1, figsize=(11, 3.4 * len(counts)), squeeze=False)
    for axis, threads in zip(axes[:, 0], counts):
        times = {(row["model"], row["system"]): row["median_ms"] for row in rows if row["threads"] == threads}
        for number, (system, colour) in enumerate(SYSTEMS.items()):
            heights = [times[model, system] / times[model, "ours int8"] if (model, system) in times else 0 for model in models]
            places = [place + 0.13 * (number - 2.5) for place in range(len(models))]
            axis.bar(places, heights, 0.12, color=colour, label=system)
        for place, model in enumerate(models):
            axis.annotate(f"{times[model, 'ours int8']:.3g} ms", (place - 0.33, 1.03), fontsize=7, ha="center", color=SYSTEMS["ours int8"])
        axis.axhline(1, color="#444444", linewidth=0.6)
        axis.set_xticks(range(len(models)), models, fontsize=8)
        axis.set_ylabel(f"time over ours, {threads} thread{'s' if threads > 1 else ''}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(fontsize=8, ncols=3, frameon=False, loc="upper left")
    figure.suptitle(f"Batch 1, {data['cpu']}, level {data['level']}, {data['date']}: lower is faster; python benchmarks/bench.py", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=pathlib.Path, default=HERE.parent / "build" / "peers.json")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "docs" / "speed.svg")
    options = parser.parse_args()
    draw(json.loads(options.rows.read_text()), options.out)
