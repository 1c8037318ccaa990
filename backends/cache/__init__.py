"""Caches between processes: the user's folder, entries, blocks of constants, kernels, programs of saved models."""
