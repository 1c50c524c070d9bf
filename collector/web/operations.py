"""The operations of the API: each path with its parameters, response and errors, declared once.

Handlers validate requests against it and the OpenAPI document is generated from it, so the two always agree.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from collector.health import Degradation, Level
from collector.marks import MAX_ID_LENGTH, MarkKind
from collector.model import CHANGE_EVENTS
from collector.store import Position
from collector.views.columns import (
    ChangeRow,
    ClusterRow,
    GpuRow,
    MarkRow,
    NodeRow,
    PlacementRow,
    ProblemRow,
    columns,
)
from collector.views.fleet import GPU_SORT_KEYS, NODE_SORT_KEYS
from collector.views.listing import Cursor, Sort
from collector.views.lookup_rows import LookupAnswer
from collector.views.node_conditions import ANY_CONDITION
from collector.views.problems.kinds import NodeCondition
from collector.views.terms import MAX_TERM_LENGTH
from collector.web.cursors import ChangeCursor, row_id
from collector.web.messages import LookupBody, MarkBody, MarkRemoved, MarkSet, SuggestionsAnswer
from collector.web.problem import Code
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

__all__ = ["API", "OPERATIONS", "Body", "Operation"]

API = "/api/v1"


class Body(NamedTuple):
    """The body of a request."""

    kinds: Mapping[str, type | None]  # by media type; None: text
    description: str


class Operation(NamedTuple):
    """One operation of the API."""

    method: str
    path: str
    id: str  # its operationId
    tag: str
    summary: str
    parameters: tuple[Parameter, ...]
    answer: Any  # the type of the response, or of a list's rows
    rows: str = ""  # the name of the list; empty: the response is one object
    total: bool = False  # whether the list is counted
    csv: bool = False  # whether rows are available as CSV
    errors: tuple[Code, ...] = ()  # in addition to those of every operation
    body: Body | None = None


def _filter(name: str, description: str) -> Parameter:
    return Parameter(name, Text(), description, repeated=True, filters=True)


def _sort(keys: list[str]) -> Parameter:
    text = "Column to sort by; -COLUMN for descending order. Unknown values come last. Default: by place."
    return Parameter("sort", SortKeys(keys), text, default=Sort(""))


def _keys(table: Mapping[str, object]) -> list[str]:
    return [key for key in table if key]


def _fields(row_type: type[msgspec.Struct]) -> Parameter:
    text = "Columns to return, separated by commas; mark.kind selects a field of an object. Default: all."
    return Parameter("fields", Fields(row_type), text)


AFTER_TEXT = "`next` of the previous page, to continue after it."
AFTER = Parameter("after", After(Cursor.parse), AFTER_TEXT)
AFTER_PLACEMENT = Parameter("after", After(Position.parse), AFTER_TEXT)
AFTER_MARK = Parameter("after", After(row_id), AFTER_TEXT)
LIMIT = Parameter("limit", Whole(1, MAX_LIMIT), "Maximum rows per page.", default=DEFAULT_LIMIT)
FORMAT = Parameter("format", Choice(("json", "csv")), "json or csv. Default: by `Accept`.")
CLUSTER = _filter("cluster", "Cluster.")
NODE = _filter("node", "Node.")
MACHINE = _filter("machine", "The cloud's or machine's own name for the node.")
CHASSIS = _filter("chassis", "Serial of the chassis.")
DRIVER = _filter("driver_version", "Version of the node's driver.")
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
    _filter("serial", "Serial of the board."),
    _filter("uuid", "UUID, in any case."),
    _filter("model", "Product name."),
    DRIVER,
    _filter("board_part_number", "Part number of the board."),
    _filter("gpu_part_number", "Part number of the GPU."),
)


def _chosen(name: str, values: tuple[str, ...], description: str) -> Parameter:
    return Parameter(name, Choice(values), description, repeated=True, filters=True)


CONDITION = (
    _chosen("degraded", ("true", "false"), "Whether it is degraded."),
    _chosen("reason", tuple(Degradation), "Why it is degraded."),
    _chosen("level", tuple(Level), "Required action."),
    _chosen("mark", tuple(MarkKind), "Kind of its current mark."),
)
PAGING = (LIMIT, AFTER)
CLUSTER_SORT_KEYS = [
    column.name for column in columns(ClusterRow) if column.kind not in ("list", "object") and column.name != "message"
]

LIST_CLUSTERS = Operation(
    "GET",
    f"{API}/clusters",
    "listClusters",
    "fleet",
    "List the clusters with their status and counts.",
    (CLUSTER, SEARCH, AT, _sort(CLUSTER_SORT_KEYS), _fields(ClusterRow), FORMAT, *PAGING),
    ClusterRow,
    rows="clusters",
    total=True,
    csv=True,
    errors=(Code.NO_STORE, Code.NOT_RECORDED),
)
GET_CLUSTER = Operation(
    "GET",
    f"{API}/clusters/{{cluster}}",
    "getCluster",
    "fleet",
    "Return one cluster.",
    (CLUSTER_PATH, AT, _fields(ClusterRow)),
    ClusterRow,
    errors=(
        Code.NO_STORE,
        Code.NOT_RECORDED,
        Code.NOT_FOUND,
    ),
)
LIST_NODES = Operation(
    "GET",
    f"{API}/nodes",
    "listNodes",
    "fleet",
    "List the GPU nodes, read or not.",
    (
        CLUSTER,
        NODE,
        MACHINE,
        CHASSIS,
        DRIVER,
        _filter("model", "Product name of one of its GPUs."),
        _chosen("condition", (*NodeCondition, ANY_CONDITION), f"Its problem; {ANY_CONDITION}: any problem."),
        STATE,
        AT,
        SEARCH,
        _sort(_keys(NODE_SORT_KEYS)),
        _fields(NodeRow),
        FORMAT,
        *PAGING,
    ),
    NodeRow,
    rows="nodes",
    total=True,
    csv=True,
    errors=(Code.NO_STORE, Code.NOT_RECORDED),
)
GET_NODE = Operation(
    "GET",
    f"{API}/clusters/{{cluster}}/nodes/{{node}}",
    "getNode",
    "fleet",
    "Return one GPU node, present or gone.",
    (CLUSTER_PATH, NODE_PATH, AT, _fields(NodeRow)),
    NodeRow,
    errors=(
        Code.NO_STORE,
        Code.NOT_RECORDED,
        Code.NOT_FOUND,
    ),
)
LIST_GPUS = Operation(
    "GET",
    f"{API}/gpus",
    "listGpus",
    "fleet",
    "List the GPUs.",
    (*IDENTITY, *CONDITION, STATE, AT, SEARCH, _sort(_keys(GPU_SORT_KEYS)), _fields(GpuRow), FORMAT, *PAGING),
    GpuRow,
    rows="gpus",
    total=True,
    csv=True,
    errors=(Code.NO_STORE, Code.NOT_RECORDED),
)
GET_GPU = Operation(
    "GET",
    f"{API}/gpus/{{id}}",
    "getGpu",
    "fleet",
    "Return one GPU, present or gone.",
    (GPU_PATH, AT, _fields(GpuRow)),
    GpuRow,
    errors=(Code.NO_STORE, Code.NOT_RECORDED, Code.NOT_FOUND, Code.AMBIGUOUS),
)
LIST_PROBLEMS = Operation(
    "GET",
    f"{API}/problems",
    "listProblems",
    "fleet",
    "List the problems, worst first.",
    (CLUSTER, _fields(ProblemRow), FORMAT, *PAGING),
    ProblemRow,
    rows="problems",
    total=True,
    csv=True,
)
GPU_HISTORY = Operation(
    "GET",
    f"{API}/gpus/{{id}}/history",
    "listGpuHistory",
    "history",
    "List every place of the GPUs with a UUID or serial or in a chassis, current ones first, then newest first.",
    (GPU_PATH, _fields(PlacementRow), FORMAT, LIMIT, AFTER_PLACEMENT),
    PlacementRow,
    rows="placements",
    csv=True,
    errors=(Code.NO_STORE,),
)
NODE_HISTORY = Operation(
    "GET",
    f"{API}/nodes/{{node}}/history",
    "listNodeHistory",
    "history",
    "List every GPU that is or was on a node.",
    (
        NODE_PATH,
        Parameter("cluster", Text(), "Cluster, if several have a node of this name."),
        _fields(PlacementRow),
        FORMAT,
        LIMIT,
        AFTER_PLACEMENT,
    ),
    PlacementRow,
    rows="placements",
    csv=True,
    errors=(Code.NO_STORE,),
)
LIST_CHANGES = Operation(
    "GET",
    f"{API}/changes",
    "listChanges",
    "history",
    "List the changes: oldest first, or with order=desc newest first.",
    (
        Parameter("since", Moment(), "Only changes since this time."),
        Parameter("until", Moment(future=True), "Only changes before this time."),
        Parameter("cluster", Text(), "Only changes in this cluster, and moves out of it."),
        Parameter("node", Text(), "Only changes on nodes of this name, and moves away from them."),
        Parameter("uuid", Text(), "Only changes of this GPU."),
        Parameter("serial", Text(), "Only changes of GPUs that have or once had this serial."),
        Parameter("q", Text(), "Only changes that contain this text, case-insensitive."),
        Parameter("event", Choice(tuple(CHANGE_EVENTS)), "Only these events.", repeated=True),
        _fields(ChangeRow),
        FORMAT,
        Parameter("order", Choice(("asc", "desc")), "desc: newest first.", default="asc"),
        LIMIT,
        Parameter(
            "after",
            After(ChangeCursor.parse),
            f"{AFTER_TEXT} Or the id of a change: without since, until and order, returns changes recorded after it.",
        ),
    ),
    ChangeRow,
    rows="changes",
    csv=True,
    errors=(Code.NO_STORE,),
)
LIST_MARKS = Operation(
    "GET",
    f"{API}/marks",
    "listMarks",
    "marks",
    "List current marks, newest first.",
    (
        Parameter("all", Choice(("false", "true")), "true: include those that have ended.", default="false"),
        Parameter("gpu", Text(), "Only those of this UUID or serial."),
        _fields(MarkRow),
        FORMAT,
        LIMIT,
        AFTER_MARK,
    ),
    MarkRow,
    rows="marks",
    csv=True,
    errors=(Code.NO_STORE,),
)
SET_MARK = Operation(
    "PUT",
    f"{API}/gpus/{{id}}/mark",
    "setMark",
    "marks",
    "Mark a GPU, replacing any mark it has.",
    (MARKED_PATH,),
    MarkSet,
    errors=(
        Code.NO_STORE,
        Code.INVALID_BODY,
        Code.FORBIDDEN,
        Code.CONFLICT,
        Code.BODY_TOO_LARGE,
        Code.BODY_TIMEOUT,
        Code.UNSUPPORTED_MEDIA_TYPE,
    ),
    body=Body(MappingProxyType({"application/json": MarkBody}), "The mark."),
)
REMOVE_MARK = Operation(
    "DELETE",
    f"{API}/gpus/{{id}}/mark",
    "removeMark",
    "marks",
    "Remove the mark of a GPU.",
    (MARKED_PATH,),
    MarkRemoved,
    errors=(Code.NO_STORE, Code.FORBIDDEN, Code.CONFLICT, Code.NOT_FOUND),
)
LOOK_UP_GPUS = Operation(
    "POST",
    f"{API}/gpus/lookup",
    "lookUpGpus",
    "lookup",
    "Look up to 10,000 ids up; returns a result for each in order, including those not found.",
    (FORMAT,),
    LookupAnswer,
    csv=True,
    errors=(Code.INVALID_BODY, Code.BODY_TOO_LARGE, Code.BODY_TIMEOUT, Code.UNSUPPORTED_MEDIA_TYPE),
    body=Body(
        MappingProxyType({"application/json": LookupBody, "text/plain": None}),
        "The ids: a JSON list, or text with any separators.",
    ),
)
SUGGEST = Operation(
    "GET",
    f"{API}/suggest",
    "suggest",
    "lookup",
    "Return completions of a text being typed.",
    (Parameter("q", Text(MAX_TERM_LENGTH), "The text so far.", default=""),),
    SuggestionsAnswer,
)
OPENAPI = Operation("GET", f"{API}/openapi.json", "getOpenApi", "about", "Return this document.", (), dict[str, Any])

OPERATIONS: tuple[Operation, ...] = (
    LIST_CLUSTERS,
    GET_CLUSTER,
    LIST_NODES,
    GET_NODE,
    LIST_GPUS,
    GET_GPU,
    LIST_PROBLEMS,
    GPU_HISTORY,
    NODE_HISTORY,
    LIST_CHANGES,
    LIST_MARKS,
    SET_MARK,
    REMOVE_MARK,
    LOOK_UP_GPUS,
    SUGGEST,
    OPENAPI,
)
