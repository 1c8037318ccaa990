"""ARM: AArch64 with NEON, dot products and i8mm."""
