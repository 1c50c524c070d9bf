"""What happens to the configuration: clusters and sinks are added, removed and changed, or nothing can be read from it.

Each process reads its file when it notices the change, or at SIGHUP if that comes first.
"""

import random
import signal
from typing import TYPE_CHECKING

from collector.simulator.fleet import SimulationError
from tests.faults.plan import Arguments, register
from tests.faults.process_faults import a_process, the_process
from tests.faults.settings import CLUSTER_CHANGES, FURTHER_SINK, SINK_CHANGES, further_sink

if TYPE_CHECKING:
    from tests.faults.world import World


def _do_hup(world: "World", given: Arguments) -> None:
    process = the_process(world, given)
    if process.listens():
        process.send(signal.SIGHUP)


register("hup", 2, a_process, _do_hup)


# Clusters


def _added(world: "World", chance: random.Random) -> Arguments | None:
    new = sorted(world.clusters.keys() - world.collected)
    return {"cluster": chance.choice(new)} if new else None


def _do_add(world: "World", given: Arguments) -> None:
    if given["cluster"] in world.collected:
        raise SimulationError("it has been added")
    world.collected.add(given["cluster"])
    world.contexts[given["cluster"]] = given["cluster"]
    world.configure()


def _cluster(world: "World", chance: random.Random) -> Arguments | None:
    cluster = chance.choice(sorted(world.clusters))
    return {"cluster": cluster} if world.contexts.get(cluster) == cluster else None


def _renamed(world: "World", chance: random.Random) -> Arguments | None:
    cluster = _cluster(world, chance)
    return cluster and {**cluster, "name": f"other-{cluster['cluster']}"}


def _do_remove(world: "World", given: Arguments) -> None:
    _assert_configured(world, given)
    del world.contexts[given["cluster"]]
    _reconfigured(world, given)


def _do_rename(world: "World", given: Arguments) -> None:
    _assert_configured(world, given)
    world.contexts[given["cluster"]] = given["name"]
    world.truth.names[given["name"]] = world.renamed[given["name"]] = given["cluster"]
    _reconfigured(world, given)


def _assert_configured(world: "World", given: Arguments) -> None:
    if world.contexts.get(given["cluster"]) != given["cluster"]:
        raise SimulationError("it is not configured under its own name")


def _changed(world: "World", chance: random.Random) -> Arguments:
    key = chance.choice(sorted(CLUSTER_CHANGES))
    return {"cluster": chance.choice(sorted(world.contexts)), "key": key, "value": chance.choice(CLUSTER_CHANGES[key])}


def _do_change(world: "World", given: Arguments) -> None:
    world.changed[given["cluster"]][given["key"]] = given["value"]
    world.configure()


def _do_reorder(world: "World", given: Arguments) -> None:
    del given
    world.contexts = dict(reversed(world.contexts.items()))
    world.configure()


def _as_before(world: "World", given: Arguments) -> None:
    world.contexts[given["cluster"]] = given["cluster"]
    _reconfigured(world, given)
    world.truth.show((given["cluster"], ""))


def _reconfigured(world: "World", given: Arguments) -> None:
    world.dropped.add(given["cluster"])  # and with it its counters, which begin again
    world.truth.hide((given["cluster"], ""))
    world.configure()


register("add_cluster", 2, _added, _do_add)
register("remove_cluster", 1, _cluster, _do_remove, _as_before)
register("rename_cluster", 1, _renamed, _do_rename, _as_before)
register("change_cluster", 1, _changed, _do_change)
register("reorder_clusters", 0.5, lambda _world, _chance: {}, _do_reorder)


# Sinks


def _sink_added(world: "World", chance: random.Random) -> Arguments | None:
    del chance
    return None if FURTHER_SINK in world.sinks else {}


def _do_add_sink(world: "World", given: Arguments) -> None:
    del given
    if FURTHER_SINK in world.sinks:
        raise SimulationError("it has been added")
    world.sinks[FURTHER_SINK] = further_sink()
    world.configure()


def _sink_changed(world: "World", chance: random.Random) -> Arguments | None:
    sink = chance.choice(sorted(world.sinks))
    choices = SINK_CHANGES[world.sinks[sink]["type"]]
    key = chance.choice(sorted(choices))
    return {"sink": sink, "key": key, "value": chance.choice(choices[key])}


def _do_change_sink(world: "World", given: Arguments) -> None:
    if given["sink"] not in world.sinks:
        raise SimulationError("there is no such sink")
    world.sinks[given["sink"]][given["key"]] = given["value"]
    world.configure()


def _sink_removed(world: "World", chance: random.Random) -> Arguments | None:
    sink = chance.choice(sorted(world.sinks))
    return None if sink in world.without_sinks else {"sink": sink}


def _do_remove_sink(world: "World", given: Arguments) -> None:
    if given["sink"] not in world.sinks or given["sink"] in world.without_sinks:
        raise SimulationError("it is not configured")
    world.without_sinks.add(given["sink"])
    world.configure()


def _put_back(world: "World", given: Arguments) -> None:
    """Add a sink again under its name: it gets what was recorded in the meantime."""
    world.without_sinks.discard(given["sink"])
    world.configure()


register("add_sink", 1, _sink_added, _do_add_sink)
register("change_sink", 2, _sink_changed, _do_change_sink)
register("remove_sink", 1, _sink_removed, _do_remove_sink, _put_back)


# All of it


def _broken(world: "World", chance: random.Random) -> Arguments | None:
    del chance
    return None if world.broken else {}


def _do_break(world: "World", given: Arguments) -> None:
    del given
    world.broken = True
    world.configure()


def _mend(world: "World", given: Arguments) -> None:
    del given
    world.broken = False
    world.configure()


register("break_configuration", 0.5, _broken, _do_break, _mend)
