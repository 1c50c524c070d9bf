"""Each decoder raises the errors that it documents, and no others."""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collector.collect.smi_output import BadOutputError, find_document
from collector.collect.smi_regular import read_regular
from tests.fuzz import nodes
from tests.fuzz.documents import HOSTILE_JSON
from tests.fuzz.kept_inputs import kept, smallest
from tests.fuzz.kubernetes import ATTRIBUTES, LISTS, META, NODE, POD, SLICE, STATUS
from tests.fuzz.mutator import Mutator
from tests.fuzz.nodes import RENDERED, SMI
from tests.fuzz.target import RESOURCES
from tests.fuzz.targets import TARGETS
from tests.support.waiting import until

EXAMPLES = 50  # of each decoder, the same ones in every run
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
    "questions": LISTS,
    "slice": (*META, *SLICE, *ATTRIBUTES),
    "collector-answer": ("next", "clusters", "nodes", "gpus", "detail", "code"),
    "stored-columns": ("serial", "before", "after", "health", "lost"),
}
GIVEN: dict[str, Callable[[bytes], Any]] = {  # how a target that takes more than bytes takes them
    "slice": lambda body: [body],
    "collector-answer": lambda body: (200, body, {}),
}


@pytest.fixture(scope="module", autouse=True)
def no_threads_are_left() -> Iterator[None]:
    """A process does not end before its threads."""
    before = {*threading.enumerate()}
    yield
    RESOURCES.close()
    until(lambda: all(one.daemon for one in {*threading.enumerate()} - before))


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
        for one in (body, b'{"metadata": ' + body + b', "status": ' + body + b"}"):
            TARGETS[name].run(GIVEN.get(name, bytes)(one))


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


def test_many_outputs_of_the_tool_are_read_without_an_xml_parser() -> None:
    assert all(_is_regular(one) for one in [SMI, *RENDERED])
    target = TARGETS["edited-nvidia-smi"]
    mutator, outputs = Mutator(kept("edited-nvidia-smi"), random.Random(1)), list[bytes]()
    with mock.patch.object(nodes, "_smi", lambda output, *, in_form: outputs.append(output)):
        for _ in range(300):
            target.run(mutator.next())
    changed = {*outputs} - {*RENDERED}
    assert sum(map(_is_regular, changed)) > len(changed) / 5


def _outputs(change: tuple[int, nodes.Edits]) -> tuple[bytes, bytes]:
    """Return a rendered output before and after its edits."""
    with mock.patch.object(nodes, "_smi") as read:
        TARGETS["edited-nvidia-smi"].run(change)
    return RENDERED[change[0]], read.call_args.args[0]


@pytest.mark.parametrize("change", [one for one in kept("edited-nvidia-smi") if one[1]], ids=repr)
def test_every_kept_edit_changes_the_output(change: tuple[int, nodes.Edits]) -> None:
    before, after = _outputs(change)
    assert before != after


def test_an_empty_text_is_a_value_or_a_line() -> None:
    lines = RENDERED[0].split(b"\n")
    at = next(number for number, line in enumerate(lines) if b"<serial>" in line)
    before, after = lines[:at], lines[at + 1 :]
    for kind, new in (
        (nodes.VALUE, [b"\t\t<serial></serial>"]),
        (nodes.INSERT, [b"", lines[at]]),
        (nodes.REPLACE, [b""]),
    ):
        assert _outputs((0, [(kind, at, b"")]))[1] == b"\n".join([*before, *new, *after])


def _is_regular(output: bytes) -> bool:
    try:
        return read_regular(find_document(output)) is not None
    except BadOutputError:
        return False


def test_only_what_a_literal_can_say_is_kept() -> None:
    assert [*smallest([b"[]"], TARGETS["stored-columns"].run)] == [b"[]"]
    assert [*smallest([float("inf"), [float("nan")]], TARGETS["stored-columns"].run)] == []
