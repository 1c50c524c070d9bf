"""One run: steps, calms, and what was found at each of them."""

import contextlib
import logging
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from collector.simulator.fleet import SimulationError
from collector.simulator.wear import NEW
from tests.faults import api_faults, configuration_faults, fleet_steps, process_faults, sink_faults, store_faults
from tests.faults import plan as plans
from tests.faults.compare import (
    Gpu,
    Sample,
    compare_counters,
    compare_gpus,
    compare_marks,
    compare_placements,
    compare_reading_times,
    compare_scrape,
    growing,
    shows_growth,
)
from tests.faults.compare_counts import Node, capacities, compare_clusters, compare_counts, compare_nodes
from tests.faults.compare_facts import compare_facts
from tests.faults.compare_health import HealthReplay, compare_health
from tests.faults.compare_history import EARLY_SECONDS, Known, Replay, compare_past, seconds
from tests.faults.observed import MEMORY, scrape, used
from tests.faults.plan import CALM, SHOW, Step
from tests.faults.shown import show, to_show
from tests.faults.sinks import Sinks
from tests.faults.world import Member, Setup, World, new_world

__all__ = ["Outcome", "run"]

STEP_KINDS = (
    fleet_steps,
    api_faults,
    configuration_faults,
    process_faults,
    store_faults,
    sink_faults,
)  # imported for the kinds that they register

CALM_SECONDS = 300.0  # within which everything is as it should be, on a busy machine too
ANSWER_SECONDS = 60.0  # within which the API has the past of a GPU, on a busy machine too
PAUSES = (0.0, 0.0, 0.1, 0.5, 2.0)  # seconds after a step
UNREPORTED = (  # by the driver of the simulated machines (form 570)
    "remapped_rows_inactive",
    "channel_repair_pending",
    "tpc_repair_pending",
    "unrepairable_memory",
    "remapped_banks",
    "bank_remap_pending",
    "reset_required",
    "drain_and_reset_recommended",
)
PLACEMENTS = 30  # GPUs whose placements are compared at a calm
WARM_CALMS = 15  # until the latest changes, and what is cached, are as many as there ever are
STEADY_WARM_CALMS = 90  # the same in a steady run, with as many steps
COUNTED = {"descriptors", "threads", "tasks"}  # of a process, whose growth a steady run compares before it ends


@dataclass
class Outcome:
    """The result of a run."""

    setup: Setup
    seed: int
    steps: list[Step] = field(default_factory=list)  # all of them, the calms included
    calms: int = 0
    seconds: float = 0.0
    mismatches: list[str] = field(default_factory=list)
    compared_growth: set[str] = field(default_factory=set)  # of what enough calms measured it
    done: Counter[str] = field(default_factory=Counter)  # steps by kind, without those that were impossible

    def __str__(self) -> str:
        """Say it in one line, with the steps that were done, by kind, and the mismatches below."""
        head = (
            f"{self.setup}, seed {self.seed}: {len(self.steps)} steps and {self.calms} calms in {self.seconds:.0f} s, "
            f"{len(self.mismatches)} mismatches"
        )
        done = ", ".join(f"{kind} {number}" for kind, number in self.done.most_common())
        never = ", ".join(sorted(plans.KINDS.keys() - self.done.keys()))
        growth = f"growth was compared of: {', '.join(sorted(self.compared_growth)) or 'nothing'}"
        return "\n  ".join([head, f"done: {done}", f"never done: {never}", growth, *self.mismatches[:30]])


class Checker:
    """What is compared at each calm, and what is remembered from one to the next."""

    def __init__(self, world: World, seed: int, *, steady: bool = False) -> None:
        self._world = world
        self._warm = STEADY_WARM_CALMS if steady else WARM_CALMS
        self._chance = random.Random(seed)
        self._changes: list[dict[str, Any]] = []
        self._settled = 0  # how many of them there were at the last calm, which all that follows is from
        self._since = 0.0
        self._places = Replay()
        self._health = HealthReplay()
        self._unsure: set[str] = set()  # GPUs that were not there, of whose health too little is recorded
        self._known: dict[str, Known] = {}  # by UUID
        self._excused: dict[str, int] = {}  # the id of the last change that its placements are not compared up to
        self._scrapes: dict[str, tuple[int, list[Sample]]] = {}  # by process, with its number of starts
        self._sinks = Sinks(world)
        self._used: dict[tuple[str, int, int, int, str], list[float]] = {}
        self.compared_growth: set[str] = set()
        self.compared = (0, 0)  # of how many GPUs everything was compared at the last calm, and how many there were

    def check(self) -> list[str]:
        """Wait until everything is as it should be, and return what is not."""
        begun = time.time()
        deadline = time.monotonic() + CALM_SECONDS
        while wrong := self._now(begun):
            if time.monotonic() > deadline:
                return wrong
            if not self._world.rereads:
                self._restart_hung()
            time.sleep(0.5)
        wrong = [*self._sinks.odd, *self._past(time.time()), *self._counters(), *self._growth()]
        self._world.settle()
        self._since = time.time()
        return wrong

    def _restart_hung(self) -> None:
        """Restart the pods in which a command hung, as a person would: by itself, gpuid tries after five minutes."""
        for process in self._world.processes:
            problems = (process.api("/api/v1/problems?limit=1000") or {}).get("problems", ())
            for node in (node for one in problems if one["id"] == "node_failing:timeout" for node in one["nodes"]):
                with contextlib.suppress(SimulationError):  # it is gone
                    self._world.act(node["cluster"], "restart_container", node=node["node"])

    def _now(self, begun: float) -> list[str]:
        """Compare what converges after a calm that has begun (Unix seconds)."""
        world, truth, nodes = self._world, gpus(self._world), gpu_nodes(self._world)
        wrong: list[str] = []
        for process in world.processes:
            samples = scrape(process)
            if samples is None:
                wrong.append(f"{process.name} does not answer")
                continue
            clusters = world.clusters_of(process)
            own = [gpu for gpu in truth if gpu.cluster in clusters]
            wrong += [f"{process.name}: {one}" for one in compare_scrape(own, clusters, samples)]
            mine = [node for node in nodes if node.cluster in clusters]
            wrong += [f"{process.name}: {one}" for one in compare_counts(own, mine, samples)]
            wrong += [f"{process.name}: {one}" for one in compare_marks(world.truth.marks, samples)]
            if world.clocks_stepped:  # no time from another clock is left
                times = compare_reading_times(samples, begun - EARLY_SECONDS, time.time() + EARLY_SECONDS)
                wrong += [f"{process.name}: {one}" for one in times]
            wrong += [f"{process.name}: {one}" for one in self._lists(process, truth, nodes)]
        if wrong:
            return wrong
        wrong = self._read_changes()
        replayed, health = self._places.copy(), self._health.copy()
        replayed.take(self._new(), world.doubled | self._late(), world.truth.names)
        held, places = replayed.places(), world.truth.places()
        wrong += [
            f"history: {uuid} is on {sorted(held.get(uuid, ()))}, not on {sorted(places.get(uuid, ()))}"
            for uuid in sorted(held.keys() | places.keys())
            if held.get(uuid, set()) != places.get(uuid, set())
        ]
        apart = self._apart() | self._unsure
        health.take((one for one in self._new() if one["uuid"] not in apart), world.dropped)
        wrong += compare_health({gpu.uuid: gpu.health for gpu in truth if gpu.uuid not in apart}, health)
        return wrong or self._sinks.wrong()

    def _lists(self, process: Member, truth: list[Gpu], nodes: list[Node]) -> list[str]:
        """Compare the lists of the API, which every process has of all clusters."""
        lists = ("gpus", "nodes", "clusters")
        rows: dict[str, Any] = {name: (process.api(f"/api/v1/{name}?limit=10000") or {}).get(name) for name in lists}
        if None in rows.values():
            return [f"no {name} in the API" for name, found in rows.items() if found is None]
        wrong = compare_gpus(truth, rows["gpus"]) + compare_nodes(nodes, rows["nodes"])
        return wrong + compare_clusters(truth, self._world.collected, rows["nodes"], rows["clusters"])

    def _past(self, now: float) -> list[str]:
        """Compare what has to hold at once, and settle it: everything else holds `now` (Unix seconds)."""
        world, new, apart = self._world, self._new(), self._apart()
        wrong = self._places.take(new, world.doubled | self._late(), world.truth.names)
        unsure = apart | self._unsure
        wrong += self._health.take((one for one in new if one["uuid"] not in unsure), world.dropped)
        wrong += compare_past(
            new,
            world.truth.lives,
            world.truth.windows(),
            known=self._known,
            names=world.renamed,
            apart=apart,
            clocks=not world.clocks_stepped,
            start=self._since,
            now=now,
        )
        wrong += compare_facts(
            new,
            world.truth.facts,
            world.truth.machines,
            world.truth.kinds_of_mark,
            names=world.renamed,
            clocks=not world.clocks_stepped,
        )
        healths = {gpu.uuid: gpu.health for gpu in gpus(world)}
        self._health.settle(healths)
        self._unsure = unsure - healths.keys()
        times = {uuid: known.time for uuid, known in self._known.items()}
        for one in new:
            times[one["uuid"]] = max(seconds(one["time"]), times.get(one["uuid"], 0.0))
        self._known = {uuid: Known(len(life) - 1, times.get(uuid, 0.0)) for uuid, life in world.truth.lives.items()}
        excused = apart | {uuid for uuid, at in times.items() if at > now + EARLY_SECONDS}
        if world.clocks_stepped:
            excused |= {one["uuid"] for one in new}
        if self._changes:
            self._excused |= dict.fromkeys(excused, self._changes[-1]["id"])
        self.compared = len(healths.keys() - excused), len(healths)
        self._settled = len(self._changes)
        return wrong + self._compare_placements()

    def _compare_placements(self) -> list[str]:
        world = self._world
        wrong: list[str] = []
        places = world.truth.places()
        known = sorted({change["uuid"] for change in self._changes})
        for uuid in self._chance.sample(known, min(PLACEMENTS, len(known))):
            process = self._chance.choice(world.processes)
            deadline = time.monotonic() + ANSWER_SECONDS
            while (answer := process.api(f"/api/v1/gpus/{uuid}/history?limit=10000")) is None:
                if time.monotonic() > deadline:
                    return [*wrong, f"{process.name}: no history of {uuid} in the API"]
                time.sleep(0.5)  # it has much to do
            after = self._excused.get(uuid, 0)
            wrong += compare_placements(uuid, answer["placements"], places.get(uuid, set()), self._changes, after=after)
        return wrong

    def _new(self) -> list[dict[str, Any]]:
        """Return the changes since the last calm."""
        return self._changes[self._settled :]

    def _apart(self) -> set[str]:
        """Return the GPUs that, since the last calm, two nodes had, or one under two names of its cluster."""
        names = self._world.renamed
        named = {one["uuid"] for one in self._new() if names.keys() & {one["cluster"], one["previous_cluster"]}}
        return self._world.doubled | named | self._late()

    def _late(self) -> set[str]:
        """Return the GPUs that came to another shard's cluster, recorded before they had left one that was removed.

        That cluster's own shard records when they left, and the store may have been away.
        """
        late: set[str] = set()
        came: dict[str, dict[str, Any]] = {}
        for one in self._new() if self._world.setup is Setup.SHARDS else ():
            if one["event"] == "appeared":
                came[one["uuid"]] = one
            elif one["event"] == "vanished" and one["cluster"] in self._world.dropped:
                other = came.get(one["uuid"], one)
                if other["cluster"] != one["cluster"] and one["time"] <= other["time"]:
                    late.add(one["uuid"])
        return late

    def _read_changes(self) -> list[str]:
        """Read the changes that were recorded since they were read last."""
        process = self._world.processes[0]
        while True:
            last = self._changes[-1]["id"] if self._changes else 0
            answer = process.api(f"/api/v1/changes?after={last}&limit=10000")
            if answer is None:
                return [f"{process.name}: no changes in the API"]
            self._changes += answer["changes"]
            if len(answer["changes"]) < 10_000:
                return []

    def _counters(self) -> list[str]:
        wrong = []
        for process in self._world.processes:
            samples = scrape(process)
            if samples is None:
                continue
            starts, before = self._scrapes.get(process.name, (0, []))
            if starts == process.starts:
                kept = [sample for sample in before if sample[1].get("cluster") not in self._world.dropped]
                wrong += [f"{process.name}: {one}" for one in compare_counters(kept, samples)]
            self._scrapes[process.name] = process.starts, samples
        return wrong

    def _growth(self) -> list[str]:
        """Compare what a process uses with what it used at earlier calms, with as many clusters and sinks."""
        wrong = []
        configured = len(self._world.collected), len(self._world.sinks)
        for process in self._world.processes:
            for name, (value, slack) in used(process).items():
                values = self._used.setdefault((process.name, process.starts, *configured, name), [])
                values.append(value)
                warm = self._warm if name in MEMORY else 2
                if shows_growth(values, warm=warm):
                    self.compared_growth.add(name)
                wrong += [f"{process.name}: {one}" for one in growing(name, values, slack=slack, warm=warm)]
        if wrong:
            wrong += [f"{process.name}: its tasks: {process.tasks()}" for process in self._world.processes]
        return wrong


def gpus(world: World) -> list[Gpu]:
    """Return the truth about every GPU in the clusters that are configured at a calm."""
    worn = world.fleet.worn()
    grew = {
        step.arguments["uuid"]
        for step in world.done
        if step.kind == "wear" and any(name.endswith("_uncorrectable") for name in step.arguments)
    }
    found = []
    for one in sorted(world.fleet.expected(*world.collected)):
        kind = "gb200" if one.model.endswith("GB200") else "h100"
        health = msgspec.structs.asdict(NEW[kind]) | worn.get(one.uuid, {})
        shown = {field: value for field, value in health.items() if field not in UNREPORTED}
        found.append(Gpu(*one, health=shown, mark=world.truth.marks.get(one.uuid), grew=one.uuid in grew))
    return found


def gpu_nodes(world: World) -> list[Node]:
    """Return the truth about every node in the clusters that are configured at a calm."""
    found: list[Node] = []
    for cluster in sorted(world.collected):
        objects, resource = world.clusters[cluster].objects, world.clusters[cluster].shape.resource
        for node in sorted(world.fleet.nodes(cluster)):
            document = msgspec.json.decode(world.call(objects.node_object, node))
            amounts = (document["status"][which].get(resource) for which in ("capacity", "allocatable"))
            capacity, allocatable = (None if amount is None else int(amount) for amount in amounts)
            there, labels = len(world.fleet.cards(cluster, node)), document["metadata"]["labels"]
            may = capacities(capacity, labels, there, world.truth.numbers[cluster, node])
            found.append(Node(cluster, node, there, may, there if capacity is None else allocatable))
    return found


def run(
    setup: Setup,
    seed: int,
    folder: Path,
    *,
    seconds: float = 0.0,
    steps: list[Step] | None = None,
    steady: bool = False,
    report: Callable[[str], None] = logging.info,
) -> Outcome:
    """Do steps drawn by the seed for a while, or those that are given, until a calm finds something wrong.

    A steady run starts no process again, adds nothing and comes to a calm after a few steps. It lasts longer if need
    be, until what a process uses could be compared from calm to calm, but not by more than one calm may take.

    The plan is in the file plan.jsonl of the folder before each step, so that it is there however the run ends.
    """
    outcome = Outcome(setup, seed)
    started = time.monotonic()
    pause = random.Random(seed)
    with new_world(setup, seed, folder) as world:
        checker = Checker(world, seed, steady=steady)
        for step in _ending(steps) if steps is not None else plans.drawn(seed, world, steady=steady, to_show=to_show):
            outcome.steps.append(step)
            plans.save(folder / "plan.jsonl", setup, seed, outcome.steps)
            try:
                if step.kind == CALM:
                    world.calm()
                    outcome.mismatches = checker.check()
                    outcome.calms += 1
                    outcome.compared_growth = checker.compared_growth
                    compared = "{} of {} GPUs".format(*checker.compared)
                    report(
                        f"{setup} {seed}: calm {outcome.calms} after {len(outcome.steps)} steps, compared {compared}"
                    )
                elif step.kind == SHOW:
                    report(f"{setup} {seed}: {step}")
                    outcome.mismatches = show(world, step, calm=outcome.steps[-2:-1] == [Step(CALM)])
                else:
                    report(f"{setup} {seed}: {step}")
                    world.perform(step)
                    time.sleep(pause.choice(PAUSES))
            except AssertionError as error:  # what support code says of a process that ended
                outcome.mismatches = [f"{type(error).__name__}: {error}"]
            except Exception as error:  # such as what pg_ctl or /proc make of a step
                outcome.mismatches = ["".join(traceback.format_exception(error))]
            outcome.done = Counter(one.kind for one in world.done)
            outcome.seconds = time.monotonic() - started
            lacks = steady and not outcome.compared_growth >= COUNTED
            enough = seconds + (CALM_SECONDS if lacks else 0.0)
            if outcome.mismatches or (step.kind == CALM and steps is None and outcome.seconds >= enough):
                break
    return outcome


def _ending(steps: list[Step]) -> Iterator[Step]:
    yield from steps
    if not steps or steps[-1].kind != CALM:
        yield Step(CALM)
