"""The columns of a GPU in the API, in CSV files and on the command line; its rows are made in collector.views.rows."""

from collector.model import Gpu

__all__ = ["GPU_COLUMNS"]

_OF_GPU = tuple(field for field in Gpu.__struct_fields__ if field not in ("health", "ecc_growth"))

GPU_COLUMNS = ("cluster", "node", "machine", "source", *_OF_GPU, "since", "confirmed", "claim", "state")
