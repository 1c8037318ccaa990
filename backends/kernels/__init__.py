"""Kernels, written once for every target: Python functions over the kernel builder."""
