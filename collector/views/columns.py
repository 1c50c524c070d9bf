"""The columns of a GPU in the API, in CSV files and on the command line; its rows are made in collector.views.rows."""

from collector.model import Gpu

__all__ = ["GPU_COLUMNS"]

GPU_COLUMNS = ("cluster", "node", "machine", "source", *Gpu.__struct_fields__, "since", "confirmed", "claim", "state")
