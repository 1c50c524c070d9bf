"""The OpenAPI document: it is valid, it is what the handlers do, and no request that it allows or forbids fails."""

import os
from collections.abc import Iterator
from typing import Any

import bcrypt
import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from collector.health import Health
from collector.marks import Mark, MarkKind, Marks
from collector.model import Gpu, GpuRef, ReadFailure
from collector.web.application import LOOKUPS, ROUTES, WRITES
from collector.web.openapi import openapi
from collector.web.operations import OPERATIONS
from collector.web.problem import Code
from tests.web.conftest import Site, keeping, make_site, serve_site

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
EXAMPLES = int(os.environ.get("GPUID_API_EXAMPLES") or 0)  # of each operation, other ones each time; 0: a few, the same
HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


def fill(site: Site) -> None:
    """Let there be something of each kind."""
    worn = Health(remapped_rows_uncorrectable=2, row_remap_failure=True)
    site.read("prod-a", "n1", Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100", module="3", health=worn))
    site.read("prod-b", "n3", Gpu(uuid="GPU-b2", serial="900"), lost=(GpuRef(uuid="GPU-b1"),))
    site.read("prod-a", "n4", Gpu(uuid="GPU-x1", serial="700", model="NVIDIA A100"))
    site.read("prod-a", "n4", time=1764000100.0)
    site.fail("prod-a", "n2", ReadFailure.TIMEOUT)
    mark = Mark(uuid="GPU-a1", kind=MarkKind.RMA, set_at=1764000000.0, set_by="ann", note="hot")
    site.collector.marks = Marks([mark])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server with a store, of a filled fleet, whose users authenticate."""
    site = make_site()
    fill(site)
    with start_blocking_portal() as portal:
        kept = portal.wrap_async_context_manager(keeping(site, tmp_path_factory.mktemp("store")))
        served = portal.wrap_async_context_manager(serve_site(site, basic_auth={"sre": HASH}))
        with kept, served as client:
            yield str(client.base_url)


REFUSED = [400, 401, 403, 404, 405, 413, 415, 431]  # a query may also be invalid by being too long
configuration = schemathesis.Config.from_dict(
    {"checks": {"negative_data_rejection": {"expected-statuses": [*map(str, REFUSED)]}}}
)
schema = schemathesis.openapi.from_dict(openapi(), config=configuration)


@schema.parametrize()
@settings(
    max_examples=EXAMPLES or 8,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_matches_the_document(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(base_url=url, auth=("sre", "secret"), checks=CHECKS)


@pytest.mark.parametrize(
    ("path", "values", "query"),
    [
        ("/clusters", {}, {"sort": "-gpus", "limit": 1}),
        ("/clusters", {}, {"q": "PROD-A", "format": "csv"}),
        ("/clusters/{cluster}", {"cluster": "prod-a"}, {}),
        ("/nodes", {}, {"state": "all", "limit": 2}),
        ("/nodes", {}, {"state": "lost", "fields": "node,lost_gpus"}),
        ("/clusters/{cluster}/nodes/{node}", {"cluster": "prod-a", "node": "n2"}, {}),
        ("/gpus", {}, {"state": "all"}),
        ("/gpus", {}, {"level": ["replace"], "mark": ["rma"], "fields": "serial,mark.note"}),
        ("/gpus", {}, {"sort": "module", "q": "h100 prod-a", "limit": 1}),
        ("/gpus/{id}", {"id": "GPU-a1"}, {}),
        ("/gpus/{id}", {"id": "700"}, {"fields": "state,until"}),
        ("/gpus/{id}/history", {"id": "100"}, {"limit": 1}),
        ("/nodes/{node}/history", {"node": "n4"}, {}),
        ("/changes", {}, {"order": "desc", "limit": 2, "event": ["vanished", "moved"]}),
        ("/changes", {}, {"q": "n4", "since": "2025-11-24", "until": "1h"}),
        ("/problems", {}, {}),
        ("/marks", {}, {"all": "true"}),
        ("/suggest", {}, {"q": "10"}),
    ],
)
def test_existing_data_matches_the_document(url: str, path: str, values: dict[str, str], query: dict[str, Any]) -> None:
    case = schema[f"/api/v1{path}"]["GET"].Case(path_parameters=values, query=query)
    answer = case.call_and_validate(base_url=url, auth=("sre", "secret"), checks=CHECKS[:5])
    assert answer.status_code == 200


def test_the_document_is_valid() -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator  # takes a second or two, also of runs without this test

    OpenAPIV31SpecValidator(openapi()).validate()


def test_it_has_every_path_of_the_api() -> None:
    served = {("GET", path) for path in ROUTES} | {(method, path) for method, path, _ in WRITES}
    served |= {("POST", path) for path in LOOKUPS}
    assert {(one.method, one.path) for one in OPERATIONS} == {one for one in served if one[1].startswith("/api/")}


def test_names_are_unique_and_every_parameter_is_described() -> None:
    assert len({one.id for one in OPERATIONS}) == len(OPERATIONS)
    for operation in OPERATIONS:
        assert len({one.name for one in operation.parameters}) == len(operation.parameters)
        assert all(one.description.endswith(".") for one in operation.parameters)
        in_path = [one.name for one in operation.parameters if one.in_path]
        assert all(f"{{{name}}}" in operation.path for name in in_path)


def test_every_code_is_in_the_document() -> None:
    text = str(openapi()["paths"])
    elsewhere = {
        Code.INTERNAL_ERROR,
        Code.UNKNOWN_PATH,
        Code.METHOD_NOT_ALLOWED,
    }
    assert {code for code in Code if f"`{code}`" not in text} == elsewhere
