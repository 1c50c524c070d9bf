"""Decides which presets or sources fit a cluster, given its pods of every known source. No I/O."""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from collector.config import DEFAULT_COMMAND, OTHER_SOURCES, PRESETS, PodSource, SourceMethod
from collector.text import counted, enumerated

__all__ = ["MAX_NAMES", "READER", "Fit", "PodGroup", "PodSurvey", "command_hint", "find_fit"]

READER = "reader"  # the preset of the DaemonSet for nodes without another pod to read
MAX_PARTS = 8  # presets or sources combined at most
MAX_ELSEWHERE = 100  # sources considered in namespaces other than those of the presets, those on most nodes
MAX_NAMES = 5  # of nodes and namespaces named in a text

_Key = tuple[str, str, str, SourceMethod]  # a source without its command

_LOOK_ELSEWHERE = (
    "to search other namespaces, run gpuid check or gpuid init as a user who may list pods in all namespaces"
)
_READER_PLACE = "config/kubernetes/reader, see docs/clusters.md"


class PodGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The pods of one source that have its container, in the source's namespace."""

    source: PodSource
    ready: int
    total: int
    nodes: frozenset[str]  # with such pods
    ready_nodes: frozenset[str]  # with ready pods


class PodSurvey(msgspec.Struct, frozen=True, kw_only=True):
    """The pods seen in a cluster; the groups are in the order of PRESETS."""

    groups: tuple[PodGroup, ...] = ()
    gpu_nodes: frozenset[str] | None = None  # those with GPUs in Kubernetes; None if nodes may not be listed
    namespaces: tuple[str, ...] | None = None  # in which was looked; None is all

    @property
    def blind(self) -> bool:
        """Whether no pods could be listed anywhere."""
        return self.namespaces is not None and not self.namespaces

    @property
    def limits(self) -> str:
        """What could not be searched, as one clause; empty if nothing."""
        missing = []
        if self.gpu_nodes is None:
            missing.append("may not list nodes")
        if self.blind:
            missing.append("may not list pods in all namespaces or in any namespace of a preset")
        elif self.namespaces:
            missing.append(
                f"may not list pods in all namespaces: searched only {enumerated(self.namespaces, MAX_NAMES)}"
            )
        return "; ".join(missing)


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What to read in a cluster: presets, or sources if the pods are in other namespaces."""

    presets: tuple[str, ...] = ()
    sources: tuple[PodSource, ...] = ()  # instead of presets
    groups: tuple[PodGroup, ...] = ()  # of pods that were seen
    covered: int = 0  # GPU nodes with one of them; if GPU nodes are unknown, nodes
    uncovered: tuple[str, ...] = ()  # GPU nodes without
    unnamed: tuple[str, ...] = ()  # namespaces named by neither the configuration nor a known source
    survey: PodSurvey = PodSurvey()

    def is_among(self, sources: Iterable[PodSource]) -> bool:
        """Return whether it only reads pods of some sources."""
        return {_key(group.source) for group in self.groups} <= set(map(_key, sources))

    @property
    def setting(self) -> str:
        """The key and value for the configuration, as TOML; empty if nothing fits."""
        if self.sources:
            return f"sources = [{', '.join(map(_inline_table, self.sources))}]"
        if not self.presets:
            return ""
        return f"preset = {_toml(self.presets if len(self.presets) > 1 else self.presets[0])}"

    @property
    def setting_block(self) -> str:
        """The same, with several sources on separate lines."""
        if len(self.sources) < 2:
            return self.setting
        return "\n".join(("sources = [", *(f"  {_inline_table(source)}," for source in self.sources), "]"))

    @property
    def seen(self) -> str:
        """What it covers, as one clause."""
        known = self.survey.gpu_nodes
        if not self.groups:
            return self._nothing_seen
        nodes = f"{self.covered:,} of {counted(len(known), 'GPU node')}" if known else counted(self.covered, "node")
        unsigned = "; no node reports GPUs to Kubernetes" if known is not None and not known else ""
        return f"{nodes} covered by {' and '.join(map(_describe, self.groups))}{unsigned}"

    @property
    def lacking(self) -> str:
        """The GPU nodes without a readable pod, as one clause; empty if all have one, or none is known."""
        if not self.uncovered or self.survey.blind:
            return ""
        seen = "" if self.survey.namespaces is None else " seen"
        names = enumerated(self.uncovered, MAX_NAMES)
        return f"{counted(len(self.uncovered), 'GPU node')} without a known GPU pod{seen}: {names}"

    @property
    def remedy(self) -> str:
        """What to do about those, as one clause; empty if nothing."""
        if not self.uncovered:
            return ""
        if self.survey.namespaces is not None:  # they may have pods that we cannot see
            return _LOOK_ELSEWHERE
        apply = f"for GPU nodes without a known GPU pod, apply the reader ({_READER_PLACE})"
        if self.sources:
            return f"{apply} and add its source"
        if READER in self.presets:
            return apply
        return f"{apply} and set preset = {_toml((*self.presets, READER) if self.presets else READER)}"

    @property
    def caution(self) -> str:
        """What to ensure before using it, as one clause; empty if all its namespaces are known."""
        if not self.unnamed:
            return ""
        namespaces = f"{'namespace' if len(self.unnamed) == 1 else 'namespaces'} {', '.join(self.unnamed)}"
        return (
            f"make sure that only administrators can create pods in {namespaces}, which no preset uses: its pods"
            " determine which GPUs are reported"
        )

    @property
    def _nothing_seen(self) -> str:
        known, namespaces = self.survey.gpu_nodes, self.survey.namespaces
        nodes = counted(len(known), "GPU node") if known else ""
        if self.survey.blind:
            return f"{nodes} with unknown pods" if nodes else "no GPU node" if known is not None else "nothing is known"
        if nodes and namespaces is None:
            return f"none of {nodes} has a pod of any preset"
        if nodes:
            return f"no pod of any preset seen on {nodes}"
        return (
            f"{'' if known is None else 'no GPU node, and '}no pod of any preset{'' if namespaces is None else ' seen'}"
        )


class _Option(msgspec.Struct, frozen=True):
    """A choice: the configuration, a preset, or one of its sources in another namespace."""

    presets: tuple[str, ...]  # empty if it must be written as sources
    groups: tuple[PodGroup, ...]
    configured: bool = False
    elsewhere: bool = False  # in a namespace named by neither the configuration nor a known source

    @property
    def preference(self) -> int:
        return 2 if self.configured else int(all(group.source.method is SourceMethod.LOG for group in self.groups))

    @property
    def nodes(self) -> frozenset[str]:
        return frozenset[str]().union(*(group.nodes for group in self.groups))

    @property
    def ready_nodes(self) -> frozenset[str]:
        return frozenset[str]().union(*(group.ready_nodes for group in self.groups))

    @property
    def has_ready(self) -> bool:
        return any(group.ready for group in self.groups)


def find_fit(survey: PodSurvey, *, presets: Sequence[str] = (), sources: Sequence[PodSource] = ()) -> Fit:
    """Return what covers most GPU nodes with few parts; ties go to the configuration, logs, the first of PRESETS.

    Logs come before exec: they need fewer rights, and the reader was deployed on purpose. Pods in unnamed namespaces
    only cover nodes that no others do: anyone who can create pods there could control the readings. `presets` or
    `sources` are the configured ones. Pods that are not ready only cover nodes that no ready ones do, and a source
    without ready pods counts only if no other source has any.
    """
    options = _options(survey.groups, presets, sources)
    known = _with_ready([option for option in options if not option.elsewhere])
    others = _with_ready([option for option in options if option.elsewhere])
    everything = frozenset[str]().union(*(option.nodes for option in known + others))
    wanted = everything if not survey.gpu_nodes else survey.gpu_nodes
    chosen: list[_Option] = []
    for among in (known, others):
        for only_ready in (True, False):
            left = wanted - frozenset[str]().union(*(option.nodes for option in chosen))
            chosen += _cover([option for option in among if option not in chosen], left, only_ready)
    chosen = [option for option in known + others if option in chosen][:MAX_PARTS]
    if not chosen:  # pods may not be scheduled yet
        chosen = [option for option in known + others if not option.nodes][:1]
    groups = tuple(dict.fromkeys(group for option in chosen for group in option.groups))
    by_name = all(option.presets for option in chosen)
    named = tuple(dict.fromkeys(name for option in chosen for name in option.presets))
    covered = wanted & frozenset[str]().union(*(group.nodes for group in groups))
    uncovered = tuple(sorted((survey.gpu_nodes or frozenset()) - covered))
    if not chosen and uncovered and survey.namespaces is None and READER in PRESETS:
        by_name, named = True, (READER,)
    return Fit(
        presets=named if by_name else (),
        sources=() if by_name else tuple(dict.fromkeys(group.source for group in groups)),
        groups=groups,
        covered=len(covered),
        uncovered=uncovered,
        unnamed=tuple(
            dict.fromkeys(g.source.namespace for option in chosen if option.elsewhere for g in option.groups)
        ),
        survey=survey,
    )


def command_hint(source: PodSource) -> str:
    """Return the command that the pods of a known source need, if it differs; else an empty string."""
    presets = [(f', as in preset = "{name}"', one) for name, sources in PRESETS.items() for one in sources]
    others = [(", as in docs/clusters.md", one) for one in OTHER_SOURCES]
    for where, known in presets + others:
        same = _key(msgspec.structs.replace(known, namespace=source.namespace)) == _key(source)
        if same and known.command != source.command:
            return f"set command = {_toml(known.command)}{where} for these pods"
    return ""


def _options(groups: Iterable[PodGroup], presets: Sequence[str], sources: Sequence[PodSource]) -> list[_Option]:
    """Return the choices with pods, in the order in which they are written."""
    by_source: dict[_Key, PodGroup] = {}
    for group in groups:
        by_source.setdefault(_key(group.source), group)
    configured = sources or [source for name in presets for source in PRESETS[name]]
    choices: list[tuple[tuple[str, ...], Sequence[PodSource]]] = [(() if sources else tuple(presets), configured)]
    choices += [((name,), PRESETS[name]) for name in PRESETS]
    options = [
        _Option(names, there, wanted is configured)
        for names, wanted in choices
        if (there := tuple(by_source[key] for key in dict.fromkeys(map(_key, wanted)) if key in by_source))
    ]
    placed = {_key(group.source) for option in options for group in option.groups}
    known = set(map(_key, OTHER_SOURCES))
    options += [_Option((), (group,)) for key, group in by_source.items() if key in known - placed]
    elsewhere = [group for key, group in by_source.items() if key not in known | placed]
    elsewhere.sort(key=lambda group: -len(group.nodes))  # ties keep the order of the presets
    return options + [_Option((), (group,), elsewhere=True) for group in elsewhere[:MAX_ELSEWHERE]]


def _with_ready(options: list[_Option]) -> list[_Option]:
    """Return the options with a ready pod, or all if none has one."""
    return [option for option in options if option.has_ready] or options


def _cover(options: Sequence[_Option], wanted: Collection[str], only_ready: bool) -> list[_Option]:
    """Return few options that together cover as many nodes as all do, with ready or any pods."""
    left, chosen = frozenset(wanted), list[int]()
    nodes = [option.ready_nodes if only_ready else option.nodes for option in options]

    def rank(index: int) -> tuple[int, int, int]:
        return len(nodes[index] & left), options[index].preference, -index

    while left and len(chosen) < MAX_PARTS:
        best = max(range(len(options)), key=rank, default=None)
        if best is None or not nodes[best] & left:
            break
        chosen.append(best)
        left -= nodes[best]
    for index in list(chosen):  # the first ones may have become redundant
        others = frozenset[str]().union(*(nodes[other] for other in chosen if other != index))
        if nodes[index] & frozenset(wanted) <= others:
            chosen.remove(index)
    return [options[index] for index in chosen]


def _key(source: PodSource) -> _Key:
    return (source.namespace, source.selector, source.container, source.method)


def _describe(group: PodGroup) -> str:
    ready = "" if group.ready == group.total else f" ({group.ready:,} of {counted(group.total, 'pod')} ready)"
    return f"pods of {group.source.container} in namespace {group.source.namespace}{ready}"


def _inline_table(source: PodSource) -> str:
    """Return a source as an inline TOML table, without keys that have their default."""
    table: dict[str, object] = {key: getattr(source, key) for key in ("namespace", "selector", "container")}
    if source.method is not SourceMethod.EXEC:
        table["method"] = source.method.value
    if source.command not in ((), DEFAULT_COMMAND):
        table["command"] = source.command
    return f"{{ {', '.join(f'{key} = {_toml(value)}' for key, value in table.items())} }}"


def _toml(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    return msgspec.json.encode(value).decode()  # a JSON string is also a TOML string
