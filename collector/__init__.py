"""gpuid: one true inventory of the physical NVIDIA GPUs of many Kubernetes clusters."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    # On demand: looking it up takes longer than starting Python, and signals are not handled until then.
    if name == "__version__":
        from importlib.metadata import version

        return version("gpuid-collector")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
