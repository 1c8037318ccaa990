"""Backends: kernels, targets, code emission, memory plan and runtime."""
