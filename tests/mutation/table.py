"""The tests of each module that are run with its mutants: those that specify it, without servers and processes."""

__all__ = ["TESTS"]

_COLLECT = "tests/collect"
_OWN = (
    "tests/exposition/test_metrics.py",
    "tests/exposition/test_own_text.py",
    "tests/exposition/test_exposition.py::TestCluster",
    "tests/exposition/test_exposition.py::TestSink",
)
_INVENTORY = (
    "absent",
    "claims",
    "conflicts",
    "draft",
    "index",
    "inventory",
    "last_known",
    "listed",
    "mirroring",
    "unseen",
    "verify_backoff",
)
# Decisions have tests of their own: what only thousands of random steps would notice is not specified.
_LONG = (
    "--deselect=tests/inventory/test_inventory.py::TestAgainstTheNaiveModel",
    "--deselect=tests/inventory/test_claims.py::TestPace::test_claims_from_many_nodes_cause_few_readings",
)
_PROPERTIES = (
    "--deselect=tests/exposition/test_exposition.py::TestStrictParsers::test_any_label_value_is_read_back",
    "--deselect=tests/exposition/test_health.py::test_text_from_a_node_cannot_break_out_of_its_label",
)
TESTS: dict[str, tuple[str, ...]] = {
    "collect/schedule": (f"{_COLLECT}/test_schedule.py",),
    "collect/sharing": (f"{_COLLECT}/test_sharing.py",),
    "collect/delay_queue": (f"{_COLLECT}/test_delay_queue.py",),
    "collect/node_queue": tuple(
        f"{_COLLECT}/test_{name}.py" for name in ("node_queue", "node_queue_results", "unread_nodes")
    ),
    "store/plan": ("tests/store/test_plan.py", "tests/store/test_plan_health.py"),
    "store/previous_health": ("tests/store/test_previous_health.py",),
    "health": ("tests/test_health.py",),
    "kube/limits": ("tests/kube/test_limits.py",),
    "sinks/errors": ("tests/sinks/test_errors.py",),
    "sinks/s3_errors": ("tests/sinks/test_s3_errors.py",),
    "web/cursors": ("tests/web/test_cursors.py",),
    "backoff": ("tests/test_backoff.py",),
    "collect/smi_values": (f"{_COLLECT}/test_smi_tree.py",),
    "collect/smi_elements": (f"{_COLLECT}/test_smi_report.py",),
    "collect/smi_health": (f"{_COLLECT}/test_build_health.py", f"{_COLLECT}/test_smi_health.py"),
    "collect/smi_output": (f"{_COLLECT}/test_smi_output.py", f"{_COLLECT}/test_unread_runs.py"),
    "collect/smi_unread": (f"{_COLLECT}/test_smi_output.py", f"{_COLLECT}/test_unread_runs.py"),
    "collect/smi_tree": (f"{_COLLECT}/test_smi_tree.py", f"{_COLLECT}/test_smi_report.py"),
    "collect/smi_regular": (f"{_COLLECT}/test_smi_regular.py",),
    "collect/nvidia_smi": (
        f"{_COLLECT}/test_smi_report.py",
        f"{_COLLECT}/test_smi_regular.py",
        f"{_COLLECT}/test_nvidia_smi.py",
    ),
    **{
        f"exposition/{name}": ("tests/exposition", "tests/app/test_marks.py::TestTheMetric")
        for name in ("families", "gpu_counts")
    },
    **{f"exposition/{name}": _OWN for name in ("cluster_metrics", "metrics", "own_text")},
    "exposition/exposition": (
        *(f"tests/exposition/test_{one}.py" for one in ("background", "exposition", "health", "own_text", "scrape")),
        "tests/app/test_marks.py::TestTheMetric",
        *_PROPERTIES,
    ),
    "exposition/mark_series": ("tests/app/test_marks.py::TestTheMetric",),
    "exposition/gzip_concat": ("tests/exposition/test_gzip_concat.py",),
    "exposition/shards": tuple(f"tests/exposition/test_{name}.py" for name in ("shards", "exposition", "background")),
    **{f"inventory/{name}": ("tests/inventory", *_LONG) for name in _INVENTORY},
    "inventory/last_known": tuple(f"tests/inventory/test_{name}.py" for name in ("last_known", "health", "restore")),
    "inventory/mirroring": ("tests/inventory/test_mirroring.py",),
}
