"""The parameters that operations of the API share."""

import msgspec

from collector.health import Degradation, Level
from collector.marks import MAX_ID_LENGTH, MarkKind
from collector.store import Position
from collector.views.listing import Cursor, Sort
from collector.web.cursors import row_id
from collector.web.query import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    After,
    Choice,
    Fields,
    Moment,
    Parameter,
    SortKeys,
    Text,
    Whole,
)

__all__ = [
    "AFTER",
    "AFTER_MARK",
    "AFTER_PLACEMENT",
    "AFTER_TEXT",
    "AT",
    "CHASSIS",
    "CLUSTER",
    "CLUSTER_PATH",
    "CONDITION",
    "DRIVER",
    "FORMAT",
    "GPU_PATH",
    "IDENTITY",
    "LIMIT",
    "MACHINE",
    "MARKED_PATH",
    "NODE",
    "NODE_PATH",
    "PAGING",
    "SEARCH",
    "STATE",
    "choice_filter",
    "fields_of",
    "sort_by",
    "text_filter",
]


def text_filter(name: str, description: str) -> Parameter:
    """Return a filter by any text, which may be given several times."""
    return Parameter(name, Text(), description, repeated=True, filters=True)


def choice_filter(name: str, values: tuple[str, ...], description: str) -> Parameter:
    """Return a filter by some of these values, which may be given several times."""
    return Parameter(name, Choice(values), description, repeated=True, filters=True)


def sort_by(keys: list[str]) -> Parameter:
    """Return the parameter that sorts a list by one of its columns."""
    text = "Column to sort by; -COLUMN for descending order. Unknown values come last. Default: by place."
    return Parameter("sort", SortKeys(keys), text, default=Sort(""))


def fields_of(row_type: type[msgspec.Struct]) -> Parameter:
    """Return the parameter that selects columns of a row."""
    text = "Columns to return, separated by commas; mark.kind selects a field of an object. Default: all."
    return Parameter("fields", Fields(row_type), text)


AFTER_TEXT = "`next` of the previous page, to continue after it."
AFTER = Parameter("after", After(Cursor.parse), AFTER_TEXT)
AFTER_PLACEMENT = Parameter("after", After(Position.parse), AFTER_TEXT)
AFTER_MARK = Parameter("after", After(row_id), AFTER_TEXT)
LIMIT = Parameter("limit", Whole(1, MAX_LIMIT), "Maximum rows per page.", default=DEFAULT_LIMIT)
FORMAT = Parameter("format", Choice(("json", "csv")), "json or csv. Default: by `Accept`.")
CLUSTER = text_filter("cluster", "Cluster.")
NODE = text_filter("node", "Node.")
MACHINE = text_filter("machine", "The cloud's or machine's own name for the node.")
CHASSIS = text_filter("chassis", "Serial of the chassis.")
DRIVER = text_filter("driver_version", "Version of the node's driver.")
SEARCH = Parameter("q", Text(), "Words that must all occur in a row's names, case-insensitive.")
CLUSTER_PATH = Parameter("cluster", Text(), "Cluster.", in_path=True)
NODE_PATH = Parameter("node", Text(), "Node.", in_path=True)
GPU_PATH = Parameter("id", Text(), "UUID or serial of the GPU.", in_path=True)
MARKED_PATH = Parameter("id", Text(MAX_ID_LENGTH), "UUID or serial of the GPU.", in_path=True)
AT = Parameter(
    "at",
    Moment(latest=True),
    "The state recorded at a time: absolute (the end of its second or millisecond), or an age such as 2h. Unrecorded"
    " values are null.",
)
STATE = Parameter(
    "state",
    Choice(("present", "found", "lost", "gone", "all")),
    "present: on a node now (default), split into found and lost; gone: on no node now, from the history;"
    " all: present and gone.",
    default="present",
)
IDENTITY = (
    CLUSTER,
    NODE,
    MACHINE,
    CHASSIS,
    text_filter("serial", "Serial of the board."),
    text_filter("uuid", "UUID, in any case."),
    text_filter("model", "Product name."),
    DRIVER,
    text_filter("board_part_number", "Part number of the board."),
    text_filter("gpu_part_number", "Part number of the GPU."),
)
CONDITION = (
    choice_filter("degraded", ("true", "false"), "Whether it is degraded."),
    choice_filter("reason", tuple(Degradation), "Why it is degraded."),
    choice_filter("level", tuple(Level), "Required action."),
    choice_filter("mark", tuple(MarkKind), "Kind of its current mark."),
)
PAGING = (LIMIT, AFTER)
