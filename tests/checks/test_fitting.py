"""Which presets or sources fit a cluster, decided from what was seen there."""

import tomllib
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.checks.fitting import MAX_PARTS, Fit, PodGroup, PodSurvey, find_fit
from collector.config import OTHER_SOURCES, PRESETS, PodSource

OPERATOR, PLUGIN, HELM, GKE, READER = (
    PRESETS[name][0] for name in ("gpu-operator", "device-plugin", "helm", "gke", "reader")
)
ELSEWHERE = "to search other namespaces, run gpuid check or gpuid init as a user who may list pods in all namespaces"
APPLY_READER = "apply the reader (config/kubernetes/reader, see docs/clusters.md)"
CUSTOM = PodSource(namespace="mine", selector="app=smi", container="smi")


def group(source: PodSource, nodes: Iterable[str], *, namespace: str = "", ready: int | None = None) -> PodGroup:
    """Return pods on some nodes, of which the first `ready` ones are ready; by default all."""
    found = frozenset(nodes)
    there = msgspec.structs.replace(source, namespace=namespace) if namespace else source
    count = len(found) if ready is None else ready
    return PodGroup(
        source=there, ready=count, total=len(found), nodes=found, ready_nodes=frozenset(sorted(found)[:count])
    )


def fit(*groups: PodGroup, gpu_nodes: str | None = "abc", namespaces: tuple[str, ...] | None = None) -> Fit:
    nodes = None if gpu_nodes is None else frozenset(gpu_nodes)
    return find_fit(PodSurvey(groups=groups, gpu_nodes=nodes, namespaces=namespaces))


@pytest.mark.parametrize(
    ("groups", "setting", "covered", "uncovered"),
    [
        ([group(OPERATOR, "abc")], 'preset = "gpu-operator"', 3, ""),
        ([group(GKE, "abc"), group(OPERATOR, "ab")], 'preset = "gke"', 3, ""),
        ([group(GKE, "abc"), group(OPERATOR, "abc")], 'preset = "gpu-operator"', 3, ""),
        ([group(OPERATOR, "abc"), group(READER, "abc")], 'preset = "reader"', 3, ""),
        ([group(OPERATOR, "abc"), group(READER, "abc", namespace="tenant")], 'preset = "gpu-operator"', 3, ""),
        ([group(GKE, "a"), group(OPERATOR, "bc"), group(READER, "abc", namespace="tenant")], 'preset = ["gpu-', 3, ""),
        ([group(OPERATOR, "ab"), group(READER, "c")], 'preset = ["gpu-operator", "reader"]', 3, ""),
        ([group(READER, "c"), group(OPERATOR, "a")], 'preset = ["gpu-operator", "reader"]', 2, "b"),
        ([group(OPERATOR, "ab")], 'preset = "gpu-operator"', 2, "c"),
        ([group(OPERATOR, "abcxyz")], 'preset = "gpu-operator"', 3, ""),
        ([group(PLUGIN, "wxyz"), group(OPERATOR, "abc")], 'preset = "gpu-operator"', 3, ""),  # on every node but those
        ([group(OPERATOR, "abc", ready=0), group(GKE, "ab")], 'preset = "gke"', 2, "c"),
        ([group(OPERATOR, "abc", ready=1), group(GKE, "abc")], 'preset = "gke"', 3, ""),
        ([group(OPERATOR, "abc", ready=2), group(GKE, "c")], 'preset = ["gpu-operator", "gke"]', 3, ""),
        ([group(OPERATOR, "abc", ready=1), group(GKE, "ab")], 'preset = ["gpu-operator", "gke"]', 3, ""),
        ([group(OPERATOR, "abc", ready=0), group(READER, "abc", namespace="x")], 'preset = "gpu-operator"', 3, ""),
        ([group(OPERATOR, "abc", ready=0)], 'preset = "gpu-operator"', 3, ""),
        ([group(OPERATOR, "", ready=0)], 'preset = "gpu-operator"', 0, "abc"),  # waiting for a node
        ([group(PLUGIN, "xyz")], 'preset = "reader"', 0, "abc"),  # on the other nodes, where it does nothing
        ([], 'preset = "reader"', 0, "abc"),
    ],
)
def test_the_preset_covering_most_gpu_nodes_fits(groups: list[PodGroup], setting: str, covered: int, uncovered: str):
    found = fit(*groups)
    assert found.setting.startswith(setting)
    assert (found.covered, "".join(found.uncovered)) == (covered, uncovered)


def test_a_first_choice_made_redundant_by_later_ones_is_dropped():
    found = fit(group(OPERATOR, "bcde"), group(GKE, "abc"), group(HELM, "def"), gpu_nodes="abcdef")
    assert (found.presets, found.covered) == (("helm", "gke"), 6)


def test_pods_in_another_namespace_are_written_as_sources():
    found = fit(group(HELM, "abc", namespace="nvidia"))
    assert found.presets == ()
    assert found.setting == (
        'sources = [{ namespace = "nvidia", selector = "app.kubernetes.io/name=nvidia-device-plugin", '
        'container = "nvidia-device-plugin-ctr" }]'
    )
    assert found.seen == "3 of 3 GPU nodes covered by pods of nvidia-device-plugin-ctr in namespace nvidia"


def test_pods_in_another_namespace_do_not_replace_a_preset():
    found = fit(
        group(OPERATOR, "ab"), group(PLUGIN, "abc", namespace="other"), group(READER, "abc", namespace="tenant")
    )
    assert [source.namespace for source in found.sources] == ["gpu-operator", "tenant"]
    assert found.caution == (
        "make sure that only administrators can create pods in namespace tenant, which no preset uses: its pods"
        " determine which GPUs are reported"
    )
    found = fit(group(PLUGIN, "b", namespace="x"), group(OTHER_SOURCES[1], "c"))
    assert "in namespace x, which" in found.caution
    assert fit(group(OTHER_SOURCES[1], "abc")).caution == ""
    survey = PodSurvey(groups=(group(CUSTOM, "ab"), group(OPERATOR, "c")), gpu_nodes=frozenset("abc"))
    assert find_fit(survey, sources=[CUSTOM]).caution == ""


def test_the_first_preset_also_comes_first_in_another_namespace():
    driver = PRESETS["driver"][0]
    groups = [group(source, "abc", namespace="gpu-operator-resources") for source in (OPERATOR, driver)]
    assert [source.container for source in fit(*groups).sources] == [OPERATOR.container]


def test_presets_next_to_sources_are_written_as_sources():
    found = fit(group(GKE, "a"), group(READER, "bc", namespace="ops"))
    (gke, reader) = tomllib.loads(found.setting)["sources"]
    assert (reader["namespace"], reader["method"], "command" in reader) == ("ops", "log", False)
    assert (gke["namespace"], gke["command"]) == ("kube-system", list(GKE.command))
    assert tomllib.loads(found.setting_block) == tomllib.loads(found.setting)
    assert found.setting_block.count("\n") == 3


def test_a_preset_is_named_by_its_own_namespace():
    moved = group(OPERATOR, "abc", namespace=PRESETS["openshift"][0].namespace)
    assert fit(moved).setting == 'preset = "openshift"'


def test_the_configured_preset_comes_first_among_equals():
    survey = PodSurvey(
        groups=(group(OPERATOR, "ab"), group(CUSTOM, "ab"), group(GKE, "abc")), gpu_nodes=frozenset("ab")
    )
    assert find_fit(survey, sources=[CUSTOM]).sources == (CUSTOM,)
    assert find_fit(survey, presets=["gke"]).presets == ("gke",)
    assert find_fit(survey).presets == ("gpu-operator",)


def test_additions_to_custom_sources_are_written_with_them():
    survey = PodSurvey(groups=(group(CUSTOM, "ab"), group(GKE, "c")), gpu_nodes=frozenset("abc"))
    assert find_fit(survey, sources=[CUSTOM]).sources == (CUSTOM, GKE)


@pytest.mark.parametrize(
    ("found", "texts"),
    [
        (
            fit(group(OPERATOR, "ab", ready=1)),
            (
                "2 of 3 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator"
                " (1 of 2 pods ready)",
                "1 GPU node without a known GPU pod: c",
                f'for GPU nodes without a known GPU pod, {APPLY_READER} and set preset = ["gpu-operator", "reader"]',
                "",
            ),
        ),
        (
            fit(gpu_nodes="abcdef", namespaces=("kube-system",)),
            (
                "no pod of any preset seen on 6 GPU nodes",
                "6 GPU nodes without a known GPU pod seen: a, b, c, d, e, …",
                ELSEWHERE,
                "may not list pods in all namespaces: searched only kube-system",
            ),
        ),
        (
            fit(gpu_nodes="abcdef"),
            (
                "none of 6 GPU nodes has a pod of any preset",
                "6 GPU nodes without a known GPU pod: a, b, c, d, e, …",
                f"for GPU nodes without a known GPU pod, {APPLY_READER}",
                "",
            ),
        ),
        (
            fit(group(OPERATOR, "ab"), namespaces=("gpu-operator",)),
            (
                "2 of 3 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator",
                "1 GPU node without a known GPU pod seen: c",
                ELSEWHERE,
                "may not list pods in all namespaces: searched only gpu-operator",
            ),
        ),
        (
            fit(gpu_nodes="abcd", namespaces=()),
            (
                "4 GPU nodes with unknown pods",
                "",
                ELSEWHERE,
                "may not list pods in all namespaces or in any namespace of a preset",
            ),
        ),
        (
            fit(gpu_nodes=None, namespaces=()),
            (
                "nothing is known",
                "",
                "",
                "may not list nodes; may not list pods in all namespaces or in any namespace of a preset",
            ),
        ),
        (
            fit(gpu_nodes="", namespaces=()),
            (
                "no GPU node",
                "",
                "",
                "may not list pods in all namespaces or in any namespace of a preset",
            ),
        ),
        (
            fit(group(GKE, "ab"), gpu_nodes=None),
            (
                "2 nodes covered by pods of nvidia-gpu-device-plugin in namespace kube-system",
                "",
                "",
                "may not list nodes",
            ),
        ),
        (
            fit(group(GKE, "ab"), gpu_nodes=""),
            (
                "2 nodes covered by pods of nvidia-gpu-device-plugin in namespace kube-system; no node reports GPUs to"
                " Kubernetes",
                "",
                "",
                "",
            ),
        ),
    ],
)
def test_it_says_what_was_and_was_not_seen(found: Fit, texts: tuple[str, str, str, str]):
    assert (found.seen, found.lacking, found.remedy, found.survey.limits) == texts


def test_the_default_is_kept_after_an_incomplete_search():
    assert fit(namespaces=("kube-system",)).setting == ""
    assert fit(gpu_nodes=None).setting == ""
    assert fit(gpu_nodes="").setting == ""


NODES = st.frozensets(st.sampled_from("abcdef"), max_size=6)
SOURCES = st.sampled_from([source for preset in PRESETS.values() for source in preset])


@given(
    st.lists(st.tuples(SOURCES, NODES, st.booleans(), st.sampled_from(["", "nvidia", "gpu-operator"])), max_size=12),
    st.none() | NODES,
    st.randoms(use_true_random=False),
)
def test_no_single_source_covers_more_and_none_is_redundant(found, gpu_nodes, random):
    groups = {
        one.source: one
        for source, nodes, is_ready, namespace in found
        for one in [group(source, nodes, namespace=namespace, ready=len(nodes) * is_ready)]
    }
    survey = PodSurvey(groups=tuple(groups.values()), gpu_nodes=gpu_nodes)
    result = find_fit(survey)
    known = {*(source for preset in PRESETS.values() for source in preset), *OTHER_SOURCES}
    named = [one for one in survey.groups if one.source in known]
    others = [one for one in survey.groups if one.source not in known]
    usable = [*([one for one in named if one.ready] or named), *([one for one in others if one.ready] or others)]
    wanted = gpu_nodes or frozenset().union(*(one.nodes for one in usable))
    reached = frozenset().union(*(one.nodes & wanted for one in usable))
    assert result.covered == len(reached) or len(result.groups) >= MAX_PARTS
    if result.setting and result.covered:
        for one in result.groups:
            rest = frozenset().union(*(other.nodes for other in result.groups if other is not one))
            ready = frozenset().union(*(other.ready_nodes for other in result.groups if other is not one))
            spare = one.nodes & wanted <= rest and one.ready_nodes & wanted <= ready
            assert not spare or result.presets or result.caution  # pods of a preset stay
    shuffled = list(survey.groups)
    random.shuffle(shuffled)
    again = find_fit(msgspec.structs.replace(survey, groups=tuple(shuffled)))
    assert (again.covered, again.uncovered) == (result.covered, result.uncovered)
    assert set(tomllib.loads(result.setting)) <= {"preset", "sources"}


def test_a_cluster_cannot_make_the_result_large():
    nodes = [f"n{number}" for number in range(500)]
    groups = [group(HELM, [node], namespace=f"ns-{node}") for node in nodes]
    found = find_fit(PodSurvey(groups=tuple(groups), gpu_nodes=frozenset(nodes)))
    assert len(found.sources) == MAX_PARTS
    assert len(found.lacking) < 200
