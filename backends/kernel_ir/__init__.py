"""The kernel IR: small structured SSA, between a target's instructions and LLVM text."""
