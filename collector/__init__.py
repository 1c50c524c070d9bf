"""gpuid: one true inventory of the physical NVIDIA GPUs of many Kubernetes clusters."""

__all__ = ["__version__"]

__version__ = "0.1.0"
