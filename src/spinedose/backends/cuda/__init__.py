"""The stages on an NVIDIA GPU: `backend.py` drives the kernels of `kernels/`, stage A has a file of its own."""
