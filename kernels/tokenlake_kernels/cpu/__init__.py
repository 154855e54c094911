"""CPU kernels: `compiled` (C++, built once per machine) if available, else `eager` (pure PyTorch)."""
