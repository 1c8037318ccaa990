"""Lowering: how a graph's nodes become kernel calls, and where tensors lie in memory."""
