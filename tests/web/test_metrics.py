"""What a scraper gets, and where it learns to ask."""

import httpx
import pytest

from collector.web.metrics import accepts_gzip, accepts_openmetrics

pytestmark = pytest.mark.anyio

PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class TestNegotiation:
    @pytest.mark.parametrize(
        ("accept", "openmetrics"),
        [
            ("", False),
            ("*/*", False),
            ("text/html,application/xhtml+xml,*/*;q=0.8", False),
            ("application/openmetrics-text", True),
            ("application/openmetrics-text; version=1.0.0", True),
            ("application/openmetrics-text; version=0.0.1", False),
            ("application/openmetrics-text; version=1.0.0; q=0", False),
            ("application/openmetrics-text;q=0.2, text/plain;q=0.9", False),
            ("application/openmetrics-text;q=nonsense", False),
            (PROMETHEUS_ACCEPT, True),
        ],
    )
    def test_openmetrics_is_sent_if_preferred(self, accept: str, openmetrics: bool) -> None:
        assert accepts_openmetrics(accept) is openmetrics

    @pytest.mark.parametrize(
        ("accept_encoding", "gzip"),
        [
            ("", False),
            ("gzip", True),
            ("br, GZIP;q=0.5", True),
            ("gzip;q=0", False),
            ("*", True),
            ("*, gzip;q=0", False),
        ],
    )
    def test_gzip_is_sent_if_accepted(self, accept_encoding: str, gzip: bool) -> None:
        assert accepts_gzip(accept_encoding) is gzip

    async def test_the_answer_has_its_content_type(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics", headers={"Accept": PROMETHEUS_ACCEPT, "Accept-Encoding": "gzip"})
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.headers["Vary"] == "Accept, Accept-Encoding"
        assert answer.text.endswith("# EOF\n")

    async def test_a_mistyped_parameter_is_refused(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics?clutser=prod")
        assert (answer.status_code, answer.text) == (400, 'unknown parameter "clutser"; expected one of cluster\n')

    async def test_the_plain_answer_is_the_classic_format(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics", headers={"Accept-Encoding": "identity"})
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "Content-Encoding" not in answer.headers
        assert answer.headers["Content-Length"] == str(len(answer.content))
        assert "# EOF" not in answer.text

    async def test_head_has_the_headers_alone(self, client: httpx.AsyncClient) -> None:
        answer = await client.head("/metrics")
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["Content-Length"]) > 1000

    async def test_other_methods_are_refused(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/metrics")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "GET,HEAD")


class TestShares:
    async def test_a_share_contains_the_requested_clusters(self, client: httpx.AsyncClient) -> None:
        both = (await client.get("/metrics?cluster=prod-a&cluster=prod-b")).text
        one = (await client.get("/metrics?cluster=prod-a")).text
        assert both.count("gpuid_gpu_info{") == 5
        assert one.count("gpuid_gpu_info{") == 3
        assert "prod-b" not in one

    async def test_an_unknown_cluster_is_not_found(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/metrics?cluster=prod-a&cluster=prod-x")
        assert (answer.status_code, answer.text) == (404, 'unknown cluster "prod-x"\n')

    async def test_a_cluster_without_nodes_has_its_counters(self, site, serving) -> None:
        site.cluster("empty")
        async with serving(site) as client:
            assert 'gpuid_cluster_up{cluster="empty"} 0.0' in (await client.get("/metrics?cluster=empty")).text

    async def test_discovery_has_a_target_per_cluster_and_the_collector(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/sd", headers={"Host": "gpuid.example:8080"})
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
        common = {"__metrics_path__": "/metrics"}
        assert answer.json() == [
            {"targets": ["gpuid.example:8080"], "labels": {**common, "__param_cluster": name, "cluster": name}}
            for name in ("prod-a", "prod-b")
        ] + [
            {
                "targets": ["gpuid.example:8080"],
                "labels": {"__metrics_path__": "/metrics/collector"},
            }
        ]
