"""The folder in which the tests of the command line work."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from qcompiler.artifact import save_graph
from tests.cli.commands import MODULE


@pytest.fixture
def files(tmp_path, monkeypatch, demo_stages):
    """A folder with the demo's float and integer models, data, and a Python module. It is the current folder."""
    save_graph(demo_stages["float"], tmp_path / "float.qc.safetensors")
    save_graph(demo_stages["integer"], tmp_path / "int8.qc.safetensors")
    save_graph(demo_stages["observed"], tmp_path / "observed.qc.safetensors")
    images = np.random.default_rng(1).uniform(-1, 2, (8, 1, 28, 28)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=images)
    np.save(tmp_path / "x.npy", images)
    (tmp_path / "small_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("small_model", None)
