"""Triton kernels for CUDA and ROCm; imported by the first op that is called with a GPU tensor."""
