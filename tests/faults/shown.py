"""Whether gpuid shows what is really wrong: a GPU that is lost, or one that two nodes report."""

import random
import time

from collector.simulator.fleet import SimulationError
from tests.faults.compare import Sample
from tests.faults.observed import scrape
from tests.faults.plan import KINDS, SHOW, Arguments, Step
from tests.faults.world import Member, World

__all__ = ["show", "to_show"]

SHARE = 0.3  # of the calms after which something is wrong
DRAWS = 20  # of which one is likely to fit
SECONDS = 120.0  # within which it is shown, on a busy machine too


def to_show(world: World, chance: random.Random) -> Step | None:
    """Draw what has to be shown after a calm: a lost GPU, or one that a second node claims; usually nothing."""
    if chance.random() > SHARE:
        return None
    fault = chance.choice(["lose", "claim"])
    draws = (KINDS[fault].draw(world, chance) for _ in range(DRAWS))
    given = next((one for one in draws if one is not None and _clusters(one) <= world.collected), None)
    return None if given is None else Step(SHOW, {"fault": fault, **given})


def show(world: World, step: Step, *, calm: bool) -> list[str]:
    """Do what a step says, and if everything was as it should be before, return what is not shown of it.

    The next calm takes it back.
    """
    given = dict(step.arguments)
    fault = given.pop("fault")
    if not world.perform(Step(fault, given)) or not calm:
        return []
    if not world.rereads:
        _restart(world, given)
    deadline = time.monotonic() + SECONDS
    while wrong := _not_shown(world, fault, given):
        if time.monotonic() > deadline:
            return wrong
        time.sleep(0.5)
    return []


def _clusters(given: Arguments) -> set[str]:
    return {given["cluster"], given.get("to_cluster", given["cluster"])}


def _restart(world: World, given: Arguments) -> None:
    """Have the nodes read again that are read only now and then."""
    for cluster, node in ((given["cluster"], given["node"]), (given.get("to_cluster"), given.get("to_node"))):
        if cluster is not None:
            try:
                world.act(cluster, "restart_container", node=node)
            except SimulationError:  # it has no pod
                continue


def _not_shown(world: World, fault: str, given: Arguments) -> list[str]:
    wrong = []
    for process in world.processes:
        samples = scrape(process)
        shown = _lost(given, samples, process) if fault == "lose" else _in_conflict(given, samples or [])
        own = world.clusters_of(process)
        wrong += [f"{process.name}: not shown: {what}" for cluster, what, so in shown if cluster in own and not so]
    return wrong


def _lost(given: Arguments, samples: list[Sample] | None, process: Member) -> list[tuple[str, str, bool]]:
    """Return what should be shown of a lost GPU: the cluster, what it is, and whether it is so."""
    cluster, node, uuid = given["cluster"], given["node"], given["uuid"]
    here = {"cluster": cluster, "node": node}
    lost = [
        value
        for name, one, value in samples or ()
        if name == "gpuid_node_gpus" and {**here, "state": "lost"}.items() <= one.items()
    ]
    found = samples is None or [one for name, one, _ in samples if name == "gpuid_gpu_info" and one["uuid"] == uuid]
    rows = (process.api(f"/api/v1/gpus?state=all&uuid={uuid}") or {}).get("gpus", ())
    states = [row["state"] for row in rows if here.items() <= row.items()]
    if "listed" in given or "silent" in given:
        shown = {"scrape": lost == [1], "API": states == ["lost"]}
    else:  # as if it had been taken out
        shown = {"scrape": lost == [1] or not found, "API": states in (["lost"], ["gone"])}
    return [(cluster, f"in its {where} that {uuid} is lost", so) for where, so in shown.items()]


def _in_conflict(given: Arguments, samples: list[Sample]) -> list[tuple[str, str, bool]]:
    """Return the same of a GPU that two nodes report, in both of their clusters."""
    conflicts = {one["cluster"]: value for name, one, value in samples if name == "gpuid_gpu_conflicts"}
    return [
        (cluster, f"the conflict in {cluster} about {given['uuid']}", conflicts.get(cluster) == 1)
        for cluster in (given["cluster"], given["to_cluster"])
    ]
