"""Triton kernels, for CUDA and ROCm; imported by the first op that meets a GPU tensor."""
