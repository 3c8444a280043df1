"""The stages on the CPU, in numba: one module a stage, written to be read; the reference for every other backend."""
