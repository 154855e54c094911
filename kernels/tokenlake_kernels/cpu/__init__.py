"""CPU kernels: `compiled` (C++, built once per machine) where it can be had, else `eager` (pure PyTorch)."""
