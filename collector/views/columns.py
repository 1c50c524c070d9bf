"""The columns of a GPU in the API, in CSV files and on the command line; its rows are made in collector.views.rows."""

from collector.model import Gpu

__all__ = ["GPU_COLUMNS", "GPU_FIELDS"]

GPU_FIELDS = tuple(field for field in Gpu.__struct_fields__ if field not in ("health", "ecc_growth"))

_CONDITION = ("degraded", "level", "health", "mark")

GPU_COLUMNS = ("cluster", "node", "machine", "source", *GPU_FIELDS, "since", "confirmed", "claim", "state", *_CONDITION)
