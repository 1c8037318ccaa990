"""Saved models: one safetensors file per model, whose header we check and whose arrays are mapped into memory."""

from qcompiler.artifact.replacing import replacing
from qcompiler.artifact.saved_model import Artifact, SavedModel, graph_bytes, load_artifact, load_graph, save_graph

__all__ = ["Artifact", "SavedModel", "graph_bytes", "load_artifact", "load_graph", "replacing", "save_graph"]
