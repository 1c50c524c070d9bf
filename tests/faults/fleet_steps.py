"""What happens to machines, GPUs and pods, and what people note about them."""

import random
from typing import TYPE_CHECKING

import anyio

from collector.health import COUNTERS
from collector.marks import MarkKind, NewMark
from collector.model import GpuidError
from collector.simulator.fleet import SimulationError
from collector.simulator.wear import NEW
from collector.store import OpenMode, Store, StoreSettings
from tests.faults.plan import Arguments, register

if TYPE_CHECKING:
    from tests.faults.world import World

__all__ = ["a_gpu", "a_node"]

MOST_NODES, FEWEST_NODES = 5, 2  # of a cluster
MOST_MARKS = 6


def a_node(world: "World", chance: random.Random) -> Arguments:
    """Draw a node of any cluster."""
    cluster = chance.choice(sorted(world.clusters))
    return {"cluster": cluster, "node": chance.choice(sorted(world.fleet.nodes(cluster)))}


def a_gpu(world: "World", chance: random.Random) -> Arguments | None:
    """Draw a GPU of a node whose GPUs all respond."""
    place = a_node(world, chance)
    if place["node"] in world.fleet.impaired(place["cluster"]):
        return None
    if not (cards := world.fleet.cards(place["cluster"], place["node"])):
        return None
    return {**place, "uuid": chance.choice(cards).uuid}


def _move(world: "World", chance: random.Random) -> Arguments | None:
    if (gpu := a_gpu(world, chance)) is None:
        return None
    kind = world.fleet.kind(gpu["cluster"])
    if world.faulty("claim", uuid=gpu["uuid"]):
        return None
    if len(world.fleet.cards(gpu["cluster"], gpu["node"])) <= 2:
        return None  # a node without any GPU is reported as one that cannot be read
    targets = [
        (cluster, node)
        for cluster in sorted(world.clusters)
        if world.fleet.kind(cluster) == kind
        for node in sorted(world.fleet.nodes(cluster))
        if (cluster, node) != (gpu["cluster"], gpu["node"])
        and node not in world.fleet.impaired(cluster)
        and len(world.fleet.cards(cluster, node)) < 8
    ]
    if not targets:
        return None
    to_cluster, to_node = chance.choice(targets)
    return {**gpu, "to_cluster": to_cluster, "to_node": to_node, "reboot": chance.random() < 0.7 or not world.rereads}


def _honest(world: "World", chance: random.Random) -> Arguments | None:
    """Draw a node that does not claim what another one has; such a host would do so again, under another name."""
    place = a_node(world, chance)
    return None if world.faulty("claim", to_cluster=place["cluster"], to_node=place["node"]) else place


def _do_move(world: "World", given: Arguments) -> None:
    world.act(given["cluster"], "move_gpu", **{name: value for name, value in given.items() if name != "cluster"})


def _act(action: str):
    def do(world: "World", given: Arguments) -> None:
        rest = {name: value for name, value in given.items() if name != "cluster"}
        world.act(given["cluster"], action, **rest)

    return do


register("move", 12, _move, _do_move)
register("reboot", 3, a_node, _act("reboot_node"))
register("swap_tray", 1, a_node, _act("swap_tray"))
register("replace_gpu", 2, a_gpu, _act("replace_gpu"))
register("migrate_node", 1, _honest, _act("migrate_node"))
register("restart_container", 2, a_node, _act("restart_container"))
register("replace_pod", 2, a_node, _act("replace_pod"))


def _add(world: "World", chance: random.Random) -> Arguments | None:
    cluster = chance.choice(sorted(world.clusters))
    nodes = world.fleet.nodes(cluster)
    if len(nodes) >= MOST_NODES:
        return None
    return {"cluster": cluster, "node": next(name for n in range(99) if (name := f"gpu-{n:04d}") not in nodes)}


def _delete(world: "World", chance: random.Random) -> Arguments | None:
    place = _honest(world, chance)
    return place if place is not None and len(world.fleet.nodes(place["cluster"])) > FEWEST_NODES else None


def _do_delete(world: "World", given: Arguments) -> None:
    world.act(given["cluster"], "delete_node", node=given["node"])
    world.truth.hide((given["cluster"], given["node"]))


def _do_add(world: "World", given: Arguments) -> None:
    world.act(given["cluster"], "add_node", node=given["node"])
    world.truth.show((given["cluster"], given["node"]))


register("add_node", 2, _add, _do_add)
register("delete_node", 2, _delete, _do_delete)


# What a calm repairs


def _hides(action: str, back: str, *, fixed: dict[str, object], fixed_back: dict[str, object]) -> tuple:
    def do(world: "World", given: Arguments) -> None:
        world.act(given["cluster"], action, node=given["node"], **fixed)
        world.truth.hide((given["cluster"], given["node"]))

    def undo(world: "World", given: Arguments) -> None:
        if given["node"] in world.fleet.nodes(given["cluster"]):
            world.act(given["cluster"], back, node=given["node"], **fixed_back)
            world.truth.show((given["cluster"], given["node"]))

    return do, undo


def _with_pod(world: "World", chance: random.Random) -> Arguments | None:
    place = a_node(world, chance)
    has = world.clusters[place["cluster"]].objects.has_pod(place["node"])
    return (
        place if has and not any(world.faulty(kind, **place) for kind in ("remove_pod", "unready", "kubelet")) else None
    )


register("remove_pod", 1, _with_pod, *_hides("remove_pod", "restore_pod", fixed={}, fixed_back={}))
register("unready", 1, _with_pod, *_hides("set_ready", "set_ready", fixed={"ready": False}, fixed_back={"ready": True}))
register(
    "kubelet",
    1,
    _with_pod,
    *_hides("set_kubelet", "set_kubelet", fixed={"reports": False}, fixed_back={"reports": True}),
)


def _lose(world: "World", chance: random.Random) -> Arguments | None:
    """Draw a GPU of a node that still has the same ones: others may have moved to another bus, each to be read there.

    Until then, nobody can tell which of them no longer responds.
    """
    gpu = a_gpu(world, chance)
    if gpu is None or world.truth.has_changed((gpu["cluster"], gpu["node"])):
        return None
    return {**gpu, **chance.choice([{}, {"listed": True}, {"silent": True}])}


def _do_lose(world: "World", given: Arguments) -> None:
    if world.truth.has_changed((given["cluster"], given["node"])):
        raise SimulationError("the node has other GPUs than at the last calm")
    _act("lose_gpu")(world, given)


def _mend(world: "World", given: Arguments) -> None:
    del given
    for cluster in world.clusters:
        for node in world.fleet.impaired(cluster):
            world.act(cluster, "reboot_node", node=node)


register("lose", 2, _lose, _do_lose, _mend)


def _mig(world: "World", chance: random.Random) -> Arguments:
    return {**a_node(world, chance), "enabled": chance.random() < 0.5, "labelled": chance.random() < 0.5}


def _share(world: "World", chance: random.Random) -> Arguments:
    return {**a_node(world, chance), "replicas": chance.choice([1, 2, 4]), "label": chance.choice([None, 0, 4])}


register("mig", 1, _mig, _act("set_mig"))
register("share", 1, _share, _act("share_gpus"))


def _claim(world: "World", chance: random.Random) -> Arguments | None:
    """Draw a GPU and a node that claims to have it as well."""
    if (gpu := a_gpu(world, chance)) is None or world.fleet.kind(gpu["cluster"]) != "h100":
        return None
    other = a_node(world, chance)
    if (gpu["cluster"], gpu["node"]) == (other["cluster"], other["node"]) or world.faulty("claim"):
        return None
    if world.fleet.kind(other["cluster"]) != "h100" or other["node"] in world.fleet.impaired(other["cluster"]):
        return None
    return {**gpu, "to_cluster": other["cluster"], "to_node": other["node"]}


def _do_claim(world: "World", given: Arguments) -> None:
    to = given["to_cluster"], given["to_node"]
    world.call(world.fleet.double, given["cluster"], given["node"], *to, given["uuid"])
    world.doubled.add(given["uuid"])


def _stop_claiming(world: "World", given: Arguments) -> None:
    cluster, node, uuid = given["to_cluster"], given["to_node"], given["uuid"]
    if node in world.fleet.nodes(cluster) and uuid in {card.uuid for card in world.fleet.cards(cluster, node)}:
        world.act(cluster, "replace_gpu", node=node, uuid=uuid)


register("claim", 2, _claim, _do_claim, _stop_claiming)


# Health and marks


def _wear(world: "World", chance: random.Random) -> Arguments | None:
    if (gpu := a_gpu(world, chance)) is None:
        return None
    new = NEW[next(card.kind for card in world.fleet.cards(gpu["cluster"], gpu["node"]) if card.uuid == gpu["uuid"])]
    fields = sorted(field for field in COUNTERS if getattr(new, field) is not None)
    return {
        **gpu,
        chance.choice(fields): chance.randint(1, 600),
        "row_remap_pending": chance.random() < 0.3,
        "row_remap_failure": chance.random() < 0.1,
        "recovery_action": chance.choice(["None", "None", "Reset"]),
        "restart": chance.random() < 0.5 or not world.rereads,
    }


register("wear", 4, _wear, _act("wear_gpu"))
register("reset", 1, a_gpu, _act("reset_gpu"))
register("flash", 1, a_gpu, _act("flash_inforom"))


def _mark(world: "World", chance: random.Random) -> Arguments | None:
    if (gpu := a_gpu(world, chance)) is None or len(world.truth.marks) >= MOST_MARKS:
        return None
    kind = chance.choice([one.value for one in MarkKind])
    return {"uuid": gpu["uuid"], "mark": kind, "ticket": f"OPS-{chance.randint(1, 999)}"}


def _do_mark(world: "World", given: Arguments) -> None:
    new = NewMark(kind=MarkKind(given["mark"]), ticket=given["ticket"])
    _in_store(world, lambda store: store.marks.set([given["uuid"]], new, by="ops"))
    world.truth.note_mark(given["uuid"], (given["mark"], given["ticket"]))


def _unmark(world: "World", chance: random.Random) -> Arguments | None:
    return {"uuid": chance.choice(sorted(world.truth.marks))} if world.truth.marks else None


def _do_unmark(world: "World", given: Arguments) -> None:
    if given["uuid"] not in world.truth.marks:
        raise SimulationError("it has no mark")
    _in_store(world, lambda store: store.marks.remove([given["uuid"]], by="ops"))
    world.truth.note_mark(given["uuid"], None)


def _in_store(world: "World", change) -> None:
    """Write into the store as `gpuid mark` does; while the store is away that is impossible."""

    async def write() -> None:
        async with Store.open(StoreSettings(url=world.store), OpenMode.OPERATOR) as store:
            await change(store)

    try:
        anyio.run(write)
    except GpuidError as error:
        raise SimulationError(f"the store is away: {error}") from error


register("mark", 2, _mark, _do_mark)
register("unmark", 1, _unmark, _do_unmark)
