"""Decides which presets or sources fit a cluster, from the pods of every known source that are there. No I/O."""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from collector.config import DEFAULT_COMMAND, OTHER_SOURCES, PRESETS, PodSource, SourceMethod
from collector.text import counted, enumerated

__all__ = ["MAX_NAMES", "READER", "Fit", "PodGroup", "PodSurvey", "command_hint", "find_fit"]

READER = "reader"  # the preset of the DaemonSet for nodes that have no other pod to read
MAX_PARTS = 8  # presets or sources that are combined
MAX_ELSEWHERE = 100  # sources in other namespaces than those of the presets, those on most nodes, that are considered
MAX_NAMES = 5  # of nodes and namespaces that a text names

_Key = tuple[str, str, str, SourceMethod]  # a source but for its command

_LOOK_ELSEWHERE = (
    "to look for pods in other namespaces, run gpuid check or gpuid init as a user who may list pods in all of them"
)
_READER_PLACE = "config/kubernetes/reader, see docs/clusters.md"


class PodGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The pods of one source that have its container, in the namespace that the source then names."""

    source: PodSource
    ready: int
    total: int
    nodes: frozenset[str]  # that they are on
    ready_nodes: frozenset[str]  # that ready ones are on


class PodSurvey(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen in a cluster; the groups are in the order of PRESETS."""

    groups: tuple[PodGroup, ...] = ()
    gpu_nodes: frozenset[str] | None = None  # what Kubernetes says has GPUs; None where nodes may not be listed
    namespaces: tuple[str, ...] | None = None  # in which was looked; None is all

    @property
    def blind(self) -> bool:
        """Whether no pod could be seen anywhere."""
        return self.namespaces is not None and not self.namespaces

    @property
    def limits(self) -> str:
        """What could not be looked at, as one clause; empty where all could."""
        missing = []
        if self.gpu_nodes is None:
            missing.append("may not list nodes")
        if self.blind:
            missing.append("may not list pods in all namespaces, nor in any that a preset names")
        elif self.namespaces:
            missing.append(
                f"may not list pods in all namespaces: looked only in {enumerated(self.namespaces, MAX_NAMES)}"
            )
        return "; ".join(missing)


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """What to read in a cluster: presets, or sources where their pods are in other namespaces."""

    presets: tuple[str, ...] = ()
    sources: tuple[PodSource, ...] = ()  # instead of presets
    groups: tuple[PodGroup, ...] = ()  # of pods that were seen
    covered: int = 0  # GPU nodes that have one of them; where GPU nodes are unknown, nodes
    uncovered: tuple[str, ...] = ()  # GPU nodes that have none
    unnamed: tuple[str, ...] = ()  # namespaces of sources that neither the configuration nor a known source names
    survey: PodSurvey = PodSurvey()

    def is_among(self, sources: Iterable[PodSource]) -> bool:
        """Return whether no other pods are read than those of some sources."""
        return {_key(group.source) for group in self.groups} <= set(map(_key, sources))

    @property
    def setting(self) -> str:
        """The key and value for the configuration, as TOML; empty where nothing fits."""
        if self.sources:
            return f"sources = [{', '.join(map(_inline_table, self.sources))}]"
        if not self.presets:
            return ""
        return f"preset = {_toml(self.presets if len(self.presets) > 1 else self.presets[0])}"

    @property
    def setting_block(self) -> str:
        """The same with several sources on a line each."""
        if len(self.sources) < 2:
            return self.setting
        return "\n".join(("sources = [", *(f"  {_inline_table(source)}," for source in self.sources), "]"))

    @property
    def seen(self) -> str:
        """What was seen of it, as one clause."""
        known = self.survey.gpu_nodes
        if not self.groups:
            return self._nothing_seen
        nodes = f"{self.covered:,} of {counted(len(known), 'GPU node')}" if known else counted(self.covered, "node")
        unsigned = "; no node says that it has GPUs" if known is not None and not known else ""
        return f"{nodes} covered by {' and '.join(map(_describe, self.groups))}{unsigned}"

    @property
    def lacking(self) -> str:
        """Which GPU nodes have no pod that could be read, as one clause; empty where all have one, or none is known."""
        if not self.uncovered or self.survey.blind:
            return ""
        seen = "" if self.survey.namespaces is None else " seen"
        names = enumerated(self.uncovered, MAX_NAMES)
        return f"{counted(len(self.uncovered), 'GPU node')} without a known GPU pod{seen}: {names}"

    @property
    def remedy(self) -> str:
        """What to do for those, as one clause; empty where there is nothing to do."""
        if not self.uncovered:
            return ""
        if self.survey.namespaces is not None:  # they may have pods that we may not see
            return _LOOK_ELSEWHERE
        apply = f"for GPU nodes without a known GPU pod, apply the reader ({_READER_PLACE})"
        if self.sources:
            return f"{apply} and add its source"
        if READER in self.presets:
            return apply
        return f"{apply} and set preset = {_toml((*self.presets, READER) if self.presets else READER)}"

    @property
    def caution(self) -> str:
        """What to make sure of before it is used, as one clause; empty where all its namespaces are known."""
        if not self.unnamed:
            return ""
        namespaces = f"{'namespace' if len(self.unnamed) == 1 else 'namespaces'} {', '.join(self.unnamed)}"
        return (
            f"make sure that only administrators can create pods in {namespaces}, which no preset names: its pods say"
            " what GPUs there are"
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
    """What can be chosen as a whole: what is configured, a preset, or one of its sources in another namespace."""

    presets: tuple[str, ...]  # empty where it has to be written as sources
    groups: tuple[PodGroup, ...]
    configured: bool = False
    elsewhere: bool = False  # in a namespace that neither the configuration nor a known source names

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
    """Return what covers most GPU nodes with few parts; of equals what is configured, logs, the first of PRESETS.

    Logs go before execs: they need fewer rights, and somebody has deployed the reader to be read. Pods in namespaces
    that nobody names only cover what no others do: anyone who can create pods there could dictate what is read.
    `presets` or `sources` are what is configured. Pods that are not ready only cover what no ready ones do, and a
    source without any ready one counts only where no other has one.
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
    if not chosen:  # there may be pods that are not on a node yet
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
    """Return which command the pods of a source need, if they are known and it is another; else an empty string."""
    presets = [(f', as preset = "{name}" has it', one) for name, sources in PRESETS.items() for one in sources]
    others = [(", as docs/clusters.md has it", one) for one in OTHER_SOURCES]
    for where, known in presets + others:
        same = _key(msgspec.structs.replace(known, namespace=source.namespace)) == _key(source)
        if same and known.command != source.command:
            return f"set command = {_toml(known.command)}{where} for these pods"
    return ""


def _options(groups: Iterable[PodGroup], presets: Sequence[str], sources: Sequence[PodSource]) -> list[_Option]:
    """Return what there are pods for, in the order in which it is written."""
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
    elsewhere.sort(key=lambda group: -len(group.nodes))  # of equals, those of the first preset stay the first
    return options + [_Option((), (group,), elsewhere=True) for group in elsewhere[:MAX_ELSEWHERE]]


def _with_ready(options: list[_Option]) -> list[_Option]:
    """Return the options that have a ready pod, or all if none has one."""
    return [option for option in options if option.has_ready] or options


def _cover(options: Sequence[_Option], wanted: Collection[str], only_ready: bool) -> list[_Option]:
    """Return few options that together cover as many nodes as all do, with ready pods or with any."""
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
    for index in list(chosen):  # the first ones may have become superfluous
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
    """Return a source as an inline table of TOML, without the keys that have their default."""
    table: dict[str, object] = {key: getattr(source, key) for key in ("namespace", "selector", "container")}
    if source.method is not SourceMethod.EXEC:
        table["method"] = source.method.value
    if source.command not in ((), DEFAULT_COMMAND):
        table["command"] = source.command
    return f"{{ {', '.join(f'{key} = {_toml(value)}' for key, value in table.items())} }}"


def _toml(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_toml, value))}]"
    return msgspec.json.encode(value).decode()  # a string of JSON is one of TOML
