"""gpuid: one true inventory of the physical NVIDIA GPUs of many Kubernetes clusters."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("gpuid-collector")
