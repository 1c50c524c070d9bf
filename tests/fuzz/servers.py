"""What API servers tell `gpuid grant` of objects with rights, and `gpuid init` of pods."""

import functools
import re
import tomllib
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

import msgspec
from hypothesis import strategies as st

from collector import config
from collector.checks import gpu_pods
from collector.checks.fitting import PodSurvey, find_fit
from collector.checks.rights import ACCOUNT, NAMESPACE
from collector.config import ClusterSettings
from collector.grant.manifests import LABELS, NAMES, difference, service_account, title
from collector.grant.objects import MAX_OBJECT_BYTES, Binding, Objects
from collector.grant.other_rights import find_other_rights
from collector.kube.errors import ClusterError, from_answer
from collector.kube.wire import MalformedError
from collector.redaction import Secrets
from tests.fuzz.documents import damaged, json_documents
from tests.fuzz.kubernetes import Served, finished
from tests.fuzz.running import finish
from tests.fuzz.target import FOLDER, Target, Targets, refusing

__all__ = ["TARGETS"]

T = TypeVar("T")
Answers = list[tuple[int, bytes]]


class _Server:
    """A client whose requests get these answers in turn."""

    configuration = None

    def __init__(self, answers: Answers) -> None:
        self._answers = answers or [(200, b"")]
        self._asked = 0
        self.session = Served().session
        self.session.secrets = Secrets()
        self.session.namespace = ""

    async def read(self, _method: Any, *_args: object, **_options: object) -> bytes:
        status, body = self._answers[self._asked % len(self._answers)]
        self._asked += 1
        if status >= 300:
            raise from_answer("https://host", status, body, None, redact=self.session.secrets.redact)
        return body


def _answered(work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of a question; None if it ended with a documented error."""
    with refusing(ClusterError, MalformedError):
        return finished(work)
    return None


def _objects(answers: Answers) -> None:
    """Only our own objects are deleted, no token is kept, and every difference can be shown."""
    objects = Objects(cast("Any", _Server(answers)))
    for one in _answered(objects.ours()) or ():
        assert one["metadata"]["name"] in NAMES
        if one["kind"].endswith("RoleBinding"):
            assert (NAMESPACE, ACCOUNT) in [
                (subject.get("namespace"), subject.get("name"))
                for subject in one["subjects"]
                if isinstance(subject, dict)
            ]
        _shown(one)
    for binding in _answered(objects.bindings()) or ():
        assert binding.kind in {"ClusterRoleBinding", "RoleBinding"}
        assert msgspec.convert(binding.manifest, Binding) == binding
        _shown(binding.manifest)
    for secret in _answered(objects.lasting_tokens()) or ():
        assert secret.keys() == {"apiVersion", "kind", "metadata"}
        assert ACCOUNT in secret["metadata"]["annotations"].values()
        _shown(secret)
    for line in _answered(objects.contents(NAMESPACE)) or ():
        resource, _, name = line.partition(" ")
        assert (resource, name) not in {("configmaps", "kube-root-ca.crt"), ("serviceaccounts", ACCOUNT)}
    if (found := _answered(objects.get(service_account()))) is not None:
        assert isinstance(found["metadata"]["name"], str)
        _shown({**found, "apiVersion": "v1", "kind": "ServiceAccount"})
    _answered(objects.policy_version())
    _answered(objects.identity())
    _answered(objects.audiences())
    if (others := _answered(find_other_rights(objects))) is not None:
        assert not any(LABELS.items() <= (one.metadata.labels or {}).items() for one in others.foreign)


def _shown(manifest: Any) -> None:
    assert title(manifest).startswith(manifest["kind"])
    assert not difference(manifest, manifest)
    assert difference(None, manifest)


META = ("metadata", "name", "namespace", "labels", "annotations", "uid", "deletionTimestamp")
RIGHTS = ("items", "roleRef", "subjects", "kind", "resources", "verbs", "namespaced", "groups", "preferredVersion")
deep = st.sampled_from([b"[" * 200 + b"]" * 200, b'{"a":' * 900 + b"1" + b"}" * 900, b"[" * 400 + b"]" * 400])
documents = (
    json_documents(*META, *RIGHTS, "version", "spec", "status", values=["gpuid", NAMESPACE, "list"])
    | deep.map(lambda value: b'{"metadata":{"name":"gpuid"},"spec":' + value + b"}")
    | st.sampled_from(
        [
            b'{"metadata":{"name":"gpuid","namespace":"gpuid","labels":{"app.kubernetes.io/part-of":"x"},"uid":7}}',
            b'{"items":[{"metadata":{"name":"gpuid"},"subjects":[{"kind":"User","name":"system:serviceaccount:gpuid:gpuid"}],'
            b'"roleRef":{"kind":"ClusterRole","name":"gpuid-nodes"}}]}',
            b'{"items":[{"metadata":{"name":"gpuid"},"subjects":[{"namespace":"gpuid","name":"gpuid"},null]}]}',
            b'{"items":[{"metadata":{"name":"t","annotations":{"kubernetes.io/service-account.name":"gpuid"}},"data":{"token":"x"}}]}',
            b'{"groups":[{"name":"apps","preferredVersion":{"version":"v1"}}]}',
            b'{"resources":[{"name":"validatingadmissionpolicies","namespaced":true,"verbs":["list"]}]}',
            b'{"status":{"token":"a.b.c"},"spec":{"audiences":["x"]}}',
            b'{"metadata":{"name":"' + b"x" * MAX_OBJECT_BYTES + b'"}}',
        ]
    )
).flatmap(damaged)
answers = st.lists(st.tuples(st.sampled_from([200, 200, 200, 200, 403, 404, 429, 500]), documents), max_size=6)


class _Cluster(_Server):
    """A client that gets one of these answers to each kind of question, and whose rights are asked for in turn."""

    def __init__(self, rights: list[int], namespaces: bytes, nodes: bytes, pods: list[bytes]) -> None:
        super().__init__([(200, body) for body in pods])
        self._rights, self._reviews = rights or [1], 0
        self._bodies = {"list_namespace": namespaces, "list_node": nodes}

    async def read(self, _method: Any, *args: object, **options: object) -> bytes:
        method = _method
        while isinstance(method, functools.partial):
            method = method.func
        name = method.__name__
        if name.startswith("create_self_subject_access_review"):
            granted = self._rights[self._reviews % len(self._rights)]
            self._reviews += 1
            if granted in (0, 1):
                return b'{"status":{"allowed":%s}}' % (b"true" if granted else b"false")
            raise from_answer("https://host", 403, b"", None)
        if (body := self._bodies.get(name)) is not None:
            return body
        return await super().read(method, *args, **options)


def _gpu_pods(given: tuple[list[int], bytes, bytes, list[bytes]]) -> None:
    """Whatever pods there are, what fits them can be put into a configuration."""
    client = cast("Any", _Cluster(*given))

    async def look() -> PodSurvey:
        gpu_nodes = await gpu_pods._gpu_nodes(client, ClusterSettings(name="x", context="x"))
        groups, namespaces = await gpu_pods.look_for_pods(client)
        return PodSurvey(groups=tuple(groups), gpu_nodes=gpu_nodes, namespaces=namespaces)

    with refusing(ClusterError):
        survey = finish(look())
        for group in survey.groups:
            assert 0 <= group.ready <= group.total
            assert group.ready_nodes <= group.nodes
            assert len(group.nodes) <= group.total
            assert NAME.fullmatch(group.source.namespace)
        assert len({group.source for group in survey.groups}) == len(survey.groups)
        assert all(map(NAME.fullmatch, survey.namespaces or ()))
        fit = find_fit(survey)
        assert fit.seen
        assert set(fit.uncovered) <= (survey.gpu_nodes or frozenset())
        if fit.setting:
            (cluster,) = config.parse(f'[[clusters]]\ncontext = "x"\n{fit.setting}\n', FOLDER / "gpuid.toml").clusters
            assert fit.is_among(cluster.active_sources)
            assert tomllib.loads(fit.setting) == tomllib.loads(fit.setting_block)
        else:
            assert not fit.groups


NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
POD = (
    b'{"metadata":{"name":"p1","namespace":"NAMESPACE","uid":"u1"},"spec":{"nodeName":"n1","containers":[{"name":"CONTAINER"}]},'
    b'"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}],"containerStatuses":'
    b'[{"name":"CONTAINER","containerID":"containerd://c","ready":true,"restartCount":0,"state":{"running":{}}}]}}'
)
CONTAINERS = (b"nvidia-device-plugin", b"nvidia-device-plugin-ctr", b"nvidia-driver-ctr", b"gpus", b"reader")
pods = st.builds(
    lambda names: (
        b'{"metadata":{"resourceVersion":"7"},"items":['
        + b",".join(POD.replace(b"NAMESPACE", name).replace(b"CONTAINER", container) for name, container in names)
        + b"]}"
    ),
    st.lists(
        st.tuples(
            st.sampled_from([b"gpu-operator", b"kube-system", b"my-gpus", b"No_Name", b""]), st.sampled_from(CONTAINERS)
        ),
        max_size=3,
    ),
).flatmap(damaged)
NODES = (
    b'{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"n1"},"status":{"capacity":{"nvidia.com/gpu":"8"}}},'
    b'{"metadata":{"name":"n2\\u001b"},"status":{"capacity":{"nvidia.com/gpu":"8"}}}]}'
)
NAMESPACES = (
    b'{"metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"my-gpus"}},{"metadata":{"name":"No\\n"}},{}]}'
)

TARGETS: Targets = {
    "grant-objects": Target(_objects, answers),
    "gpu-pods": Target(
        _gpu_pods,
        st.tuples(
            st.lists(st.sampled_from([1, 1, 0, 2]), max_size=4),
            st.just(NAMESPACES).flatmap(damaged) | documents,
            st.just(NODES).flatmap(damaged) | documents,
            st.lists(pods, max_size=3),
        ),
    ),
}
