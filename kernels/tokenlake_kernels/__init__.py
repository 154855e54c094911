"""Jagged kernels: values and offsets, never padding."""
