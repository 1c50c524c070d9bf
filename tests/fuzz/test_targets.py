"""Each decoder raises the errors that it documents, and no others."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.documents import HOSTILE_JSON
from tests.fuzz.kept_inputs import kept
from tests.fuzz.kubernetes import META, NODE, POD, STATUS
from tests.fuzz.targets import TARGETS

EXAMPLES = 50  # of each decoder: all of them take half a minute
JSON_TARGETS = {
    "page": ("metadata", "items"),
    "event": ("type", "object"),
    "version": ("metadata", *META),
    "status": STATUS,
    "watch": ("type", "object"),
    "pod": (*POD, *META),
    "node": (*POD, *NODE),
    "model": ("gitVersion", "status"),
    "exec": STATUS,
    "plugin": ("kind", "apiVersion", "status"),
    "kubeconfig": ("clusters", "users", "contexts", "current-context"),
}


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_decoded_or_refused_as_documented(name: str) -> None:
    inputs = kept(name)
    assert inputs, "run python -m tests.fuzz --keep"
    for value in inputs:
        TARGETS[name].run(value)


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(data=st.data())
def test_any_input_is_decoded_or_refused_as_documented(name: str, data: st.DataObject) -> None:
    TARGETS[name].run(data.draw(TARGETS[name].inputs))


@pytest.mark.parametrize("name", JSON_TARGETS)
@pytest.mark.parametrize("form", HOSTILE_JSON)
def test_hostile_json_raises_only_documented_errors(name: str, form: str) -> None:
    for key in JSON_TARGETS[name]:
        body = HOSTILE_JSON[form].replace(b"KEY", key.encode())
        TARGETS[name].run(body)
        TARGETS[name].run(b'{"metadata": ' + body + b', "status": ' + body + b"}")


@pytest.mark.parametrize("status", [200, 400, 401, 403, 503])
@pytest.mark.parametrize("form", HOSTILE_JSON)
def test_hostile_answers_raise_only_documented_errors(form: str, status: int) -> None:
    for key in STATUS:
        TARGETS["answer"].run((status, HOSTILE_JSON[form].replace(b"KEY", key.encode()), None, None))
    for key in ("id_token", "refresh_token", "error", "token_endpoint"):
        TARGETS["issuer"].run((status, HOSTILE_JSON[form].replace(b"KEY", key.encode()), None))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("store-url", "sqlite:///~nobody-of-this-name/gpuid.db"),
        ("configuration", '[store]\nurl = "sqlite:///~nobody-of-this-name/x"\n[[clusters]]\ncontext = "x"'),
        ("configuration", f"[[clusters]]\nexec_concurrency = {'9' * 5000}"),
        ("proxy", "http://[]@"),
        ("proxy", "https://[]@/x"),
        ("retry-after", ", , ,"),
        ("token", f"a.{'W1s' * 30_000}.c"),
        ("collector-kubeconfig", "clusters: 5"),
        (
            "collector-kubeconfig",
            "contexts: [{name: [a], context: {extensions: [{name: gpuid, extension: {managed-by: gpuid}}]}}]",
        ),
    ],
)
def test_past_crashes_raise_only_documented_errors(name: str, text: str) -> None:
    TARGETS[name].run(text.encode() if name == "collector-kubeconfig" else text)
