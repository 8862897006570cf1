"""The same work in this library, PyTorch and JAX, in one run."""
