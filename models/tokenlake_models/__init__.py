"""Models that read and make tokens, in plain torch on jagged kernels."""
