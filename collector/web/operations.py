"""The operations of the API: each path with its parameters, response and errors, declared once.

Handlers validate requests against it and the OpenAPI document is generated from it, so the two always agree.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from collector.model import CHANGE_EVENTS
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
from collector.views.lookup_rows import LookupAnswer
from collector.views.node_conditions import ANY_CONDITION
from collector.views.problems.kinds import NodeCondition
from collector.views.terms import MAX_TERM_LENGTH
from collector.web.cursors import ChangeCursor
from collector.web.messages import LookupBody, MarkBody, MarkRemoved, MarkSet, SuggestionsAnswer
from collector.web.operation import Body, Operation
from collector.web.parameters import (
    AFTER_MARK,
    AFTER_PLACEMENT,
    AFTER_TEXT,
    AT,
    CHASSIS,
    CLUSTER,
    CLUSTER_PATH,
    CONDITION,
    DRIVER,
    FORMAT,
    GPU_PATH,
    IDENTITY,
    LIMIT,
    MACHINE,
    MARKED_PATH,
    NODE,
    NODE_PATH,
    PAGING,
    SEARCH,
    STATE,
    choice_filter,
    fields_of,
    sort_by,
    text_filter,
)
from collector.web.problem import Code
from collector.web.query import After, Choice, Moment, Parameter, Text

__all__ = ["API", "OPERATIONS"]

API = "/api/v1"
CLUSTER_SORT_KEYS = [
    column.name for column in columns(ClusterRow) if column.kind not in ("list", "object") and column.name != "message"
]


def _keys(table: Mapping[str, object]) -> list[str]:
    return [key for key in table if key]


LIST_CLUSTERS = Operation(
    "GET",
    f"{API}/clusters",
    "listClusters",
    "fleet",
    "List the clusters with their status and counts.",
    (CLUSTER, SEARCH, AT, sort_by(CLUSTER_SORT_KEYS), fields_of(ClusterRow), FORMAT, *PAGING),
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
    (CLUSTER_PATH, AT, fields_of(ClusterRow)),
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
        text_filter("model", "Product name of one of its GPUs."),
        choice_filter("condition", (*NodeCondition, ANY_CONDITION), f"Its problem; {ANY_CONDITION}: any problem."),
        STATE,
        AT,
        SEARCH,
        sort_by(_keys(NODE_SORT_KEYS)),
        fields_of(NodeRow),
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
    (CLUSTER_PATH, NODE_PATH, AT, fields_of(NodeRow)),
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
    (*IDENTITY, *CONDITION, STATE, AT, SEARCH, sort_by(_keys(GPU_SORT_KEYS)), fields_of(GpuRow), FORMAT, *PAGING),
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
    (GPU_PATH, AT, fields_of(GpuRow)),
    GpuRow,
    errors=(Code.NO_STORE, Code.NOT_RECORDED, Code.NOT_FOUND, Code.AMBIGUOUS),
)
LIST_PROBLEMS = Operation(
    "GET",
    f"{API}/problems",
    "listProblems",
    "fleet",
    "List the problems, worst first.",
    (CLUSTER, fields_of(ProblemRow), FORMAT, *PAGING),
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
    (GPU_PATH, fields_of(PlacementRow), FORMAT, LIMIT, AFTER_PLACEMENT),
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
        fields_of(PlacementRow),
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
        fields_of(ChangeRow),
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
        fields_of(MarkRow),
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
