"""Saved models: one safetensors file a model, its header checked by us, its arrays mapped into memory."""

from qcompiler.artifact.saved_model import Artifact, SavedModel, load_artifact, load_graph, replacing, save_graph

__all__ = ["Artifact", "SavedModel", "load_artifact", "load_graph", "replacing", "save_graph"]
