"""Code generation: kernel IR to LLVM text, LLVM text to machine code."""
