"""The x86-64 target: its levels, primitives and instructions."""
