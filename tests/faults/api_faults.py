"""What API servers and nodes can do wrong, each until a calm."""

import random
from typing import TYPE_CHECKING

from collector.simulator.faults import ExecFaultKind, Misbehaviour
from tests.faults.fleet_steps import a_node
from tests.faults.plan import Arguments, register

if TYPE_CHECKING:
    from tests.faults.world import World


def _a_cluster(world: "World", chance: random.Random) -> Arguments:
    return {"cluster": chance.choice(sorted(world.clusters))}


def _once(action: str):
    """Make the function that does an action of a cluster."""

    def do(world: "World", given: Arguments) -> None:
        world.act(given["cluster"], action, **{name: value for name, value in given.items() if name != "cluster"})

    return do


def _back(action: str):
    """Make the function that takes an action back by another one."""

    def undo(world: "World", given: Arguments) -> None:
        world.act(given["cluster"], action)

    return undo


def _expire(world: "World", chance: random.Random) -> Arguments:
    return {**_a_cluster(world, chance), "form": chance.choice(["event", "status"])}


def _throttle(world: "World", chance: random.Random) -> Arguments:
    return {
        **_a_cluster(world, chance),
        "requests": chance.choice([None, 3, 20]),
        "retry_after": chance.choice([0, 1, 3]),
    }


def _freeze(world: "World", chance: random.Random) -> Arguments:
    return {**_a_cluster(world, chance), "new": chance.random() < 0.5}


def _deny(world: "World", chance: random.Random) -> Arguments:
    what = [("list", "pods"), ("watch", "pods"), ("list", "nodes"), ("watch", "nodes"), ("create", "pods/exec")]
    verb, resource = chance.choice([*what, ("patch", "nodes"), ("*", "*")])
    return {**_a_cluster(world, chance), "verb": verb, "resource": resource}


def _misbehave(world: "World", chance: random.Random) -> Arguments | None:
    cluster = _a_cluster(world, chance)
    how = chance.choice([one.value for one in Misbehaviour])
    if world.faulty("misbehave", **cluster) or (how == "bookmark_flood" and world.faulty("misbehave", how=how)):
        return None  # the machine of the test has to get something done as well
    requests = None if how == "bookmark_flood" else chance.choice([None, 1, 10])
    return {**cluster, "how": how, "requests": requests}


def _do_misbehave(world: "World", given: Arguments) -> None:
    world.act(given["cluster"], "misbehave", how=Misbehaviour(given["how"]), requests=given["requests"])


def _restore(world: "World", chance: random.Random) -> Arguments:
    return {**_a_cluster(world, chance), "versions": 300}


register("misbehave", 4, _misbehave, _do_misbehave, _back("behave"))
register("restore_backup", 1, _restore, _once("restore_backup"))
register("change_authority", 1, _a_cluster, _once("change_authority"))
register(
    "hide_authority",
    1,
    _a_cluster,
    lambda world, given: world.act(given["cluster"], "change_authority", publish=False),
    _back("publish_authority"),
)
register("expire", 3, _expire, _once("expire_versions"))
register("drop_connections", 2, _a_cluster, _once("drop_connections"))
register("rotate_token", 1, _a_cluster, _once("rotate_token"))
register("throttle", 2, _throttle, _once("throttle"), _back("unthrottle"))
register("freeze", 2, _freeze, _once("freeze_connections"), _back("thaw"))
register("refuse_tokens", 2, _a_cluster, _once("refuse_tokens"), _back("accept_tokens"))
register("deny", 2, _deny, _once("deny"), _back("allow"))
register("stop_server", 2, _a_cluster, _once("stop"), _back("start"))


# Nodes


def _fail(world: "World", chance: random.Random) -> Arguments:
    how = chance.choice([one.value for one in ExecFaultKind])
    status = chance.choice([1, 9, 137, 255])
    return {**a_node(world, chance), "how": how, "exit_status": status, "times": chance.choice([None, 1, 3])}


def _do_fail(world: "World", given: Arguments) -> None:
    rest = {name: value for name, value in given.items() if name not in ("cluster", "how")}
    world.act(given["cluster"], "fail_exec", how=ExecFaultKind(given["how"]), **rest)


def _heal(world: "World", given: Arguments) -> None:
    world.act(given["cluster"], "heal_exec")


def _slow(world: "World", chance: random.Random) -> Arguments:
    return {**a_node(world, chance), "seconds": chance.choice([0.5, 3.0, 8.0])}


def _process(world: "World", chance: random.Random) -> Arguments:
    name = chance.choice(["\u00ff\u00fe", "训练", "</process_name>", "a" * 3000, "\u0000", "]]>"])
    return {**a_node(world, chance), "name": name, "encoding": chance.choice(["utf-8", "latin-1", "gbk"])}


register("fail_exec", 4, _fail, _do_fail, _heal)
register("slow_exec", 2, _slow, _once("slow_exec"), _heal)
register("run_process", 1, _process, _once("run_process"))
