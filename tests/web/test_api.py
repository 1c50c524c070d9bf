"""What programs get."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from collector.health import Degradation, Health
from collector.marks import Mark, MarkKind, Marks
from collector.model import Gpu, GpuRef, ReadFailure, Uncovered
from collector.views.config_status import ConfigStatus
from tests.web.conftest import Site

pytestmark = pytest.mark.anyio

SOURCE = {
    "source": "gpu-operator/app=nvidia-device-plugin-daemonset",
    "container": "nvidia-device-plugin",
    "pods": 1,
}


async def pages_of(client: httpx.AsyncClient, path: str) -> AsyncIterator[dict[str, Any]]:
    """Every page, each found by the Link of the one before, which is also its `next`."""
    while True:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        yield answer.json()
        if (following := answer.json()["next"]) is None:
            assert "Link" not in answer.headers
            return
        path = answer.links["next"]["url"]
        assert httpx.URL(path).params["after"] == following


async def uuids(client: httpx.AsyncClient, query: str) -> list[str]:
    answer = await client.get(f"/api/v1/gpus?{query}")
    assert answer.status_code == 200
    assert answer.json()["total"] == len(answer.json()["gpus"])
    return [gpu["uuid"] for gpu in answer.json()["gpus"]]


class TestGpus:
    async def test_a_gpu_is_described_with_its_place(self, client: httpx.AsyncClient) -> None:
        answer = (await client.get("/api/v1/gpus?serial=100")).json()
        assert answer == {
            "gpus": [
                {
                    "cluster": "prod-a",
                    "node": "n1",
                    "machine": "i-n1",
                    "source": "gpu-operator/p",
                    "uuid": "GPU-a1",
                    "serial": "100",
                    "model": "NVIDIA H100",
                    "architecture": None,
                    "chassis": None,
                    "slot": None,
                    "tray": None,
                    "host": None,
                    "module": None,
                    "pci_bus_id": None,
                    "board_part_number": None,
                    "gpu_part_number": None,
                    "minor_number": None,
                    "vbios": None,
                    "mig": None,
                    "virtual": False,
                    "multi_gpu_board": False,
                    "last_known": None,
                    "since": "2025-11-24T16:00:00.000Z",
                    "until": None,
                    "confirmed_at": "2025-11-24T16:00:00.000Z",
                    "claim": False,
                    "state": "found",
                    "degraded": [],
                    "level": None,
                    "health": None,
                    "mark": None,
                }
            ],
            "next": None,
            "total": 1,
        }

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", ["GPU-a1", "GPU-a2", "GPU-a3", "GPU-b1", "GPU-b2"]),
            ("cluster=prod-b", ["GPU-b1", "GPU-b2"]),
            ("node=n1&node=n3", ["GPU-a1", "GPU-b1", "GPU-b2"]),
            ("machine=i-n2", ["GPU-a2", "GPU-a3"]),
            ("model=NVIDIA%20H100", ["GPU-a1", "GPU-a2", "GPU-a3"]),
            ("serial=900", ["GPU-b1", "GPU-b2"]),
            ("serial=900&uuid=GPU-B1", ["GPU-b1"]),
            ("uuid=gpu-A3", ["GPU-a3"]),
            ("chassis=C1&cluster=prod-a", []),
            ("chassis=C1&node=n3", ["GPU-b1", "GPU-b2"]),
            ("serial=nowhere", []),
        ],
    )
    async def test_filters_narrow_and_repeated_ones_widen(
        self, client: httpx.AsyncClient, query: str, expected: list[str]
    ) -> None:
        assert await uuids(client, query) == expected

    async def test_pages_together_are_the_whole(self, client: httpx.AsyncClient) -> None:
        pages = [page async for page in pages_of(client, "/api/v1/gpus?limit=2")]
        assert [page["total"] for page in pages] == [5, 5, 5]
        assert [[gpu["uuid"] for gpu in page["gpus"]] for page in pages] == [
            ["GPU-a1", "GPU-a2"],
            ["GPU-a3", "GPU-b1"],
            ["GPU-b2"],
        ]


WORN = Health(remapped_rows_uncorrectable=2, row_remap_failure=True, row_remap_pending=True, recovery_action="None")
FINE = Health(remapped_rows_uncorrectable=0, row_remap_failure=False)
PENDING = Health(row_remap_pending=True)


@pytest.fixture
def worn(site: Site) -> Site:
    """The site, in which a GPU has to be replaced, two need a reset, one of them by its silence, and one is marked."""
    site.read("prod-a", "n1", Gpu(uuid="GPU-a1", serial="100", health=WORN))
    site.read(
        "prod-a",
        "n2",
        Gpu(uuid="GPU-a2", serial="102", health=FINE),
        Gpu(uuid="GPU-a3", serial="103", health=PENDING),
    )
    site.read("prod-b", "n3", Gpu(uuid="GPU-b2", serial="900"), lost=(GpuRef(uuid="GPU-b1"),))
    site.collector.marks = Marks(
        [
            Mark(serial="100", kind=MarkKind.RMA, set_at=1764000000.0, set_by="ann", note="hot", ticket="https://t/1"),
            Mark(uuid="GPU-a2", kind=MarkKind.WATCH, set_at=1764000000.0, set_by="bob", until=1764000601.0),
            Mark(uuid="GPU-a3", kind=MarkKind.WATCH, set_at=1764000000.0, set_by="bob", until=1764000600.0),
        ]
    )
    return site


class TestConditions:
    async def test_a_degraded_gpu_has_reasons_remedy_and_mark(self, worn: Site, client: httpx.AsyncClient) -> None:
        (gpu,) = (await client.get("/api/v1/gpus?serial=100")).json()["gpus"]
        assert [gpu["degraded"], gpu["level"]] == [["row_remap_failure", "row_remap_pending"], "replace"]
        assert gpu["health"] == {
            "remapped_rows_uncorrectable": 2,
            "row_remap_failure": True,
            "row_remap_pending": True,
            "recovery_action": "None",
        }
        assert gpu["mark"] == {
            "kind": "rma",
            "note": "hot",
            "ticket": "https://t/1",
            "until": None,
            "set_at": "2025-11-24T16:00:00.000Z",
            "set_by": "ann",
        }

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("degraded=true", ["GPU-a1", "GPU-a3", "GPU-b1"]),
            ("degraded=false", ["GPU-a2", "GPU-b2"]),
            ("degraded=true&degraded=false&cluster=prod-a", ["GPU-a1", "GPU-a2", "GPU-a3"]),
            ("reason=row_remap_pending", ["GPU-a1", "GPU-a3"]),
            ("reason=lost&reason=row_remap_failure", ["GPU-a1", "GPU-b1"]),
            ("level=replace", ["GPU-a1"]),
            ("level=reset", ["GPU-a3", "GPU-b1"]),
            ("mark=rma", ["GPU-a1"]),
            ("mark=watch&mark=rma", ["GPU-a1", "GPU-a2"]),
            ("mark=watch&degraded=true", []),
            ("serial=103&reason=row_remap_pending", ["GPU-a3"]),
            ("uuid=gpu-A3&level=replace", []),
        ],
    )
    async def test_conditions_and_marks_are_filters(
        self, worn: Site, client: httpx.AsyncClient, query: str, expected: list[str]
    ) -> None:
        assert await uuids(client, query) == expected

    async def test_nodes_and_clusters_count_by_remedy(self, worn: Site, client: httpx.AsyncClient) -> None:
        clusters = (await client.get("/api/v1/clusters")).json()["clusters"]
        nodes = (await client.get("/api/v1/nodes")).json()["nodes"]
        assert [row["gpus_degraded"] for row in clusters] == [{"replace": 1, "reset": 1}, {"reset": 1}]
        assert [row["gpus_degraded"] for row in nodes] == [{"replace": 1}, {"reset": 1}, {"reset": 1}]


class TestClustersAndNodes:
    async def test_a_cluster_has_its_state_and_its_counts(self, client: httpx.AsyncClient) -> None:
        clusters = (await client.get("/api/v1/clusters")).json()["clusters"]
        assert clusters == [
            {
                "cluster": "prod-a",
                "state": "up",
                "up": True,
                "message": "",
                "shard": None,
                "since": "2025-11-24T16:00:00.000Z",
                "synced_at": "2025-11-24T16:00:00.000Z",
                "nodes": 2,
                "nodes_read": 2,
                "nodes_unread": 0,
                "unread_reasons": {},
                "nodes_failing": 0,
                "nodes_overdue": 0,
                "nodes_listed": 10,
                "sources": [SOURCE],
                "resource_slices": None,
                "gpus": 3,
                "capacity": 16,
                "gpus_missing": 13,
                "gpus_lost": 0,
                "lost_gpus": [],
                "gpus_degraded": {},
                "gpus_healthy": 3,
                "gpus_known": 16,
                "gpus_virtual": 0,
                "conflicts": 0,
                "claims": 0,
                "resembles": [],
            },
            {
                "cluster": "prod-b",
                "state": "unreachable",
                "up": False,
                "message": "https://10.0.0.1:6443: connection refused",
                "shard": None,
                "since": "2025-11-24T16:00:00.000Z",
                "synced_at": None,
                "nodes": 1,
                "nodes_read": 1,
                "nodes_unread": 0,
                "unread_reasons": {},
                "nodes_failing": 0,
                "nodes_overdue": 0,
                "nodes_listed": 10,
                "sources": [SOURCE],
                "resource_slices": None,
                "gpus": 2,
                "capacity": 8,
                "gpus_missing": 6,
                "gpus_lost": 0,
                "lost_gpus": [],
                "gpus_degraded": {},
                "gpus_healthy": 0,
                "gpus_known": 8,
                "gpus_virtual": 0,
                "conflicts": 0,
                "claims": 0,
                "resembles": [],
            },
        ]

    async def test_nodes_are_found_by_their_chassis(self, client: httpx.AsyncClient) -> None:
        answer = (await client.get("/api/v1/nodes?chassis=C1")).json()
        assert answer["nodes"] == [
            {
                "cluster": "prod-b",
                "node": "n3",
                "machine": "i-n3",
                "provider_id": "aws:///us-east-1a/i-n3",
                "chassis": "C1",
                "driver_version": "570.148.08",
                "cuda_version": "12.8",
                "state": "found",
                "found": 2,
                "lost": 0,
                "capacity": 8,
                "allocatable": None,
                "missing": 6,
                "lost_gpus": [],
                "missing_gpus": [],
                "gpus_degraded": {},
                "source": "gpu-operator/p",
                "read_at": "2025-11-24T16:00:00.000Z",
                "until": None,
                "overdue": False,
                "gpu_sign": None,
                "unread_reason": None,
                "unread_since": None,
                "failing_reason": None,
                "failing_since": None,
                "failing_message": None,
                "tries": None,
                "next_try_at": None,
            }
        ]

    async def test_a_node_whose_chassis_is_not_known_has_none(self, client: httpx.AsyncClient) -> None:
        answer = (await client.get("/api/v1/nodes?node=n1")).json()
        assert [node["chassis"] for node in answer["nodes"]] == [None]

    async def test_unreadable_and_overdue_nodes_are_marked(self, site: Any, serving: Any) -> None:
        site.collector.refresh_seconds = 30.0
        site.read("prod-a", "n1", Gpu(uuid="GPU-a1"))
        site.fail("prod-a", "n2", ReadFailure.TIMEOUT)
        async with serving(site) as client:
            nodes = (await client.get("/api/v1/nodes?cluster=prod-a")).json()["nodes"]
            (cluster,) = (await client.get("/api/v1/clusters?cluster=prod-a")).json()["clusters"]
        said = [(node["node"], node["overdue"], node["failing_reason"], node["failing_since"]) for node in nodes]
        assert said == [("n1", True, None, None), ("n2", False, "timeout", "2025-11-24T16:09:00.000Z")]
        assert (cluster["nodes_failing"], cluster["nodes_overdue"]) == (1, 1)

    async def test_nodes_that_no_ready_pod_covers_say_why(self, site: Any, serving: Any) -> None:
        site.add("prod-a", "bare", sign="nvidia.com/gpu.present")
        site.uncover("prod-a", "bare", Uncovered.NO_POD)
        site.add("prod-a", "new")
        site.uncover("prod-a", "n1", Uncovered.POD_NOT_READY)
        site.fail("prod-a", "n1", ReadFailure.TIMEOUT)
        async with serving(site) as client:
            nodes = (await client.get("/api/v1/nodes?cluster=prod-a")).json()["nodes"]
            (cluster,) = (await client.get("/api/v1/clusters?cluster=prod-a")).json()["clusters"]
        since = "2025-11-24T16:05:00.000Z"
        assert [(node["node"], node["gpu_sign"], node["unread_reason"], node["unread_since"]) for node in nodes] == [
            ("bare", "nvidia.com/gpu.present", "no_pod", since),
            ("n1", None, "pod_not_ready", since),
            ("n2", None, None, None),
            ("new", "nvidia.com/gpu", "pending", None),
        ]
        counts = [cluster[name] for name in ("nodes", "nodes_read", "nodes_unread")]
        assert (counts, cluster["unread_reasons"]) == ([4, 1, 3], {"pending": 1, "no_pod": 1, "pod_not_ready": 1})

    async def test_a_source_that_matches_nothing_and_a_cluster_that_was_not_listed_say_so(
        self, site: Any, serving: Any
    ) -> None:
        site.collector.pods = (0,)
        async with serving(site) as client:
            (cluster,) = (await client.get("/api/v1/clusters?cluster=prod-a")).json()["clusters"]
            site.collector.listed_nodes = None
            (unlisted,) = (await client.get("/api/v1/clusters?cluster=prod-a")).json()["clusters"]
        assert (cluster["nodes_listed"], cluster["sources"]) == (10, [SOURCE | {"pods": 0}])
        assert (unlisted["nodes_listed"], unlisted["sources"]) == (None, [SOURCE | {"pods": None}])

    async def test_a_gpu_in_conflict_counts_once(self, site: Any, serving: Any) -> None:
        site.conflict("prod-a", ("n1", "n2"), Gpu(uuid="GPU-a1"))
        async with serving(site) as client:
            (cluster,) = (await client.get("/api/v1/clusters?cluster=prod-a")).json()["clusters"]
            gpus = (await client.get("/api/v1/gpus?uuid=GPU-a1")).json()["gpus"]
        assert (cluster["gpus"], cluster["conflicts"], cluster["claims"]) == (1, 1, 0)
        assert [(gpu["node"], gpu["claim"]) for gpu in gpus] == [("n1", False), ("n2", False)]

    async def test_a_claimed_gpu_counts_once(self, site: Any, serving: Any) -> None:
        site.read("prod-a", "n1", Gpu(uuid="GPU-a1"))
        site.read("prod-a", "n2", Gpu(uuid="GPU-a1"), both=True)
        async with serving(site) as client:
            (cluster,) = (await client.get("/api/v1/clusters?cluster=prod-a")).json()["clusters"]
            gpus = (await client.get("/api/v1/gpus?uuid=GPU-a1")).json()["gpus"]
        assert (cluster["gpus"], cluster["conflicts"], cluster["claims"]) == (1, 0, 1)
        assert [(gpu["node"], gpu["claim"]) for gpu in gpus] == [("n1", False), ("n2", True)]


class TestProblems:
    async def test_problems_are_those_of_the_page(self, site: Site, client: httpx.AsyncClient) -> None:
        site.fail("prod-a", "n1", ReadFailure.TIMEOUT)
        site.collector.config_status = ConfigStatus(restart=("server",), restart_since=1764000000.0)
        answer = (await client.get("/api/v1/problems")).json()
        assert [answer[name] for name in ("total", "next")] == [len(answer["problems"]), None]
        assert [(row["severity"], row["title"]) for row in answer["problems"]] == [
            ("critical", "prod-b is unreachable"),
            ("warning", "19 GPUs missing on 3 nodes across 2 clusters"),
            ("warning", "n1 (prod-a) is unreadable: nvidia-smi timed out"),
            ("info", "Configuration changes require a restart"),
        ]
        assert answer["problems"][2] == {
            "id": "node_failing:timeout",
            "severity": "warning",
            "kind": "node_failing",
            "title": "n1 (prod-a) is unreadable: nvidia-smi timed out",
            "count": 1,
            "gpus_affected": 8,
            "consequences": 0,
            "since": "2025-11-24T16:09:00.000Z",
            "reason": "the command or the log timed out (possibly a hung GPU); 1 attempt",
            "remedy": "Run nvidia-smi in the pod that is read; `gpuid check --cluster prod-a` does. "
            "The last reading is shown.",
            "url": "/clusters/prod-a/nodes/n1",
            "clusters": ["prod-a"],
            "nodes": [
                {
                    "cluster": "prod-a",
                    "node": "n1",
                    "since": "2025-11-24T16:09:00.000Z",
                    "reason": "the command or the log timed out (possibly a hung GPU)",
                    "tries": 1,
                    "next_try_at": None,
                }
            ],
            "nodes_total": 1,
            "gpus": [],
            "gpus_total": 0,
        }
        for path in ("/", "/problems"):
            page = (await client.get(path, headers={"Accept": "text/html"})).text
            assert all(row["title"] in page for row in answer["problems"])

    async def test_a_cluster_filters_its_problems(self, site: Site, client: httpx.AsyncClient) -> None:
        site.collector.config_status = ConfigStatus(restart=("server",), restart_since=1764000000.0)
        answer = (await client.get("/api/v1/problems?cluster=prod-b&limit=1")).json()
        assert [row["title"] for row in answer["problems"]] == ["prod-b is unreachable"]
        path = f"/api/v1/problems?cluster=prod-b&limit=1&after={answer['next']}"
        answer = (await client.get(path)).json()
        titles = [row["title"] for row in answer["problems"]]
        assert (answer["total"], titles) == (2, ["6 GPUs missing on n3 (prod-b)"])

    async def test_no_page_skips_or_repeats_a_problem_while_others_come_and_go(
        self, site: Site, client: httpx.AsyncClient
    ) -> None:
        site.fail("prod-a", "n1", ReadFailure.TIMEOUT)
        first = (await client.get("/api/v1/problems?limit=2")).json()
        site.cluster("prod-b")  # the first problem is over
        rest = (await client.get(f"/api/v1/problems?after={first['next']}")).json()
        titles = [row["title"] for row in (*first["problems"], *rest["problems"])]
        assert titles == [
            "prod-b is unreachable",
            "19 GPUs missing on 3 nodes across 2 clusters",
            "n1 (prod-a) is unreadable: nvidia-smi timed out",
        ]

    @pytest.mark.parametrize(
        "cursor",
        [["", None, []], ["", None, ["\u00b2"]], ["rank", None, []], ["rank", None, ["a", "b", "c", "d", "e", "f"]]],
    )
    @pytest.mark.parametrize(
        "path", ["problems", "gpus?state=gone", "gpus?state=all", "nodes?state=gone", "gpus?at=1h"]
    )
    async def test_a_cursor_of_another_list_is_refused(
        self, client: httpx.AsyncClient, path: str, cursor: list[Any]
    ) -> None:
        after = base64.urlsafe_b64encode(json.dumps(cursor).encode()).decode().rstrip("=")
        answer = await client.get(f"/api/v1/{path}{'&' if '?' in path else '?'}after={after}")
        problem = answer.json()
        if path == "gpus?state=all" and not cursor[0]:  # as a list by place has it
            assert answer.status_code == 200
            return
        assert answer.status_code in (400, 404)
        assert problem["code"] in ("invalid_parameter", "no_store")
        assert problem["detail"].startswith(("after: expected the `next` value", "this collector keeps no history"))

    async def test_an_unknown_cluster_is_refused(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/problems?cluster=prod")
        assert (answer.status_code, answer.json()["detail"]) == (400, "cluster: expected one of prod-a, prod-b")


class TestBadQuestions:
    @pytest.mark.parametrize(
        ("path", "error"),
        [
            (
                "clusters?node=x",
                'unknown parameter "node"; expected one of after, at, cluster, fields, format, limit, q, sort',
            ),
            ("gpus?limit=0", "limit: expected a whole number from 1 to 10000"),
            ("gpus?limit=" + "9" * 5000, "limit: expected a whole number from 1 to 10000"),
            ("gpus?limit=many", "limit: expected a whole number from 1 to 10000"),
            ("nodes?limit=1&limit=2", "limit: expected one value"),
            ("gpus?degraded=yes", "degraded: expected one of true, false"),
            ("gpus?level=replace&level=worse", "level: expected one of replace, reset"),
            ("changes?since=1h&until=2h", "until: expected a later time than since"),
            ("gpus?mark=", "mark: expected one of rma, quarantine, watch"),
            ("gpus?reason=hot", f"reason: expected one of {', '.join(Degradation)}"),
            (
                "nodes?offset=0",
                'unknown parameter "offset"; use `after` with the `next` of the previous page',
            ),
        ],
    )
    async def test_the_answer_says_what_was_expected(self, client: httpx.AsyncClient, path: str, error: str) -> None:
        answer = await client.get(f"/api/v1/{path}")
        assert (answer.status_code, answer.json()["detail"]) == (400, error)

    async def test_not_found_is_json(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/api/v1/nothing")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_path")


ODD = "NVIDIA\x1b[31m\x7f\x9b\u2028\u202e H100"


async def test_an_answer_contains_no_terminal_control_characters(site: Site, client: httpx.AsyncClient) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-odd", serial="900", model=ODD))
    answer = await client.get("/api/v1/gpus?uuid=GPU-odd")
    assert answer.text.isprintable()
    assert answer.json()["gpus"][0]["model"] == ODD
    page = (await client.get("/gpus/GPU-odd", headers={"Accept": "text/html"})).text
    assert "NVIDIA[31m H100" in page
    assert page.replace("\n", "").isprintable()


async def test_a_refusal_repeats_no_control_character(client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/gpus?%1b%5b31m%7f%0d%0ax=1", "/gpus/%1b%5b31m%7f%c2%9b%0d%0ax", "/%1b%7f"):
        answer = await client.get(path)
        assert answer.status_code in {303, 400, 404}
        assert (answer.text + answer.headers.get("Location", "")).replace("\n", "").isprintable()
