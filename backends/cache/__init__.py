"""Caches between processes: the user's folder, entries of compiled kernels, blocks of constants, programs of saved models."""
