"""Shards that read, commit and look at each other's commits in any order agree, and record each thing once."""

import itertools
from typing import Any, cast

from hypothesis import given, note, settings
from hypothesis import strategies as st

from collector.inventory import Inventory, MirroringInventory
from collector.model import Change, Event, Fingerprint, Gpu, NodeInfo, NodeState, Place, Reading, Step
from collector.sharding import Shard
from collector.store import ShardStore

CLUSTERS = ("a", "b", "c")
PLACES = [Place(cluster, node) for cluster in CLUSTERS for node in ("1", "2")]
GPUS = ["GPU-1", "GPU-2", "GPU-3"]


class Database:
    """What all shards share: what they have committed, each with its number."""

    def __init__(self) -> None:
        self.version = 0
        self.nodes: dict[Place, tuple[int, NodeState | None]] = {}
        self.asked: dict[Place, int] = {}
        self.answered: dict[Place, tuple[int, int]] = {}  # the commit, and the question
        self.owners = {cluster: index % 2 for index, cluster in enumerate(CLUSTERS)}
        self.open: dict[str, set[Place]] = {uuid: set() for uuid in GPUS}
        self.absent: dict[str, tuple[Place, float]] = {}
        self.changes: list[Change] = []

    def record(self, change: Change, owned: set[str]) -> None:
        """Do what a commit does to the placements."""
        assert change.place.cluster in owned
        self.changes.append(change)
        uuid, here = change.gpu.uuid, self.open[change.gpu.uuid]
        if change.event is Event.VANISHED:
            here.discard(change.place)
            if not here:
                self.absent[uuid] = (change.place, change.time)
        elif change.event in (Event.MOVED, Event.APPEARED):
            if change.previous is not None and change.previous.cluster in owned:
                here.discard(change.previous)
            here.add(change.place)
            self.absent.pop(uuid, None)


class World:
    """Where the GPUs are, the shards, and one clock for all."""

    def __init__(self, shards: int = 2) -> None:
        self.clock = itertools.count(1.0)
        self.database = Database()
        self.places: dict[str, set[Place]] = {uuid: set() for uuid in GPUS}
        self.removed: set[Place] = set()
        self.boots = dict.fromkeys(PLACES, 0)  # how often each node was started
        self.unnoticed: dict[str, set[Place]] = {}  # from where GPUs were taken last without a start of the node
        self.alone = False  # whether the first process is a collector without shards, and the other ones do not run
        self.shards = [Process(self, index) for index in range(shards)]

    def take_out(self, uuid: str, *, noticed: bool) -> None:
        """Remove a GPU from its node; if unnoticed, only another node that has the GPU can reveal it."""
        unnoticed = self.unnoticed.pop(uuid, set())
        if noticed:
            self.start(*self.places[uuid], *unnoticed)
        else:
            self.start(*unnoticed)
            self.unnoticed[uuid] = self.places[uuid]
        self.places[uuid] = set()

    def start(self, *places: Place) -> None:
        """Start nodes again, which their owners notice."""
        for place in places:
            self.boots[place] += 1
            self.removed.discard(place)

    def restart(self, *, alone: bool, flushed: bool) -> None:
        """Change between shards and none: all processes stop, with all committed or not, before others start."""
        if flushed:
            for shard in self.running:
                shard.commit()
        self.alone = alone
        self.database.owners = {cluster: 0 if alone else index % 2 for index, cluster in enumerate(CLUSTERS)}
        for shard in self.shards:
            shard.start()

    def gpus(self, place: Place) -> tuple[Gpu, ...]:
        return tuple(Gpu(uuid=uuid) for uuid in GPUS if place in self.places[uuid])

    @property
    def running(self) -> list["Process"]:
        return self.shards[:1] if self.alone else self.shards

    def boot(self, place: Place) -> str:
        return f"boot {self.boots[place]}"

    def owner(self, cluster: str) -> "Process":
        return self.shards[self.database.owners[cluster]]


class Process:
    """One shard."""

    def __init__(self, world: World, index: int) -> None:
        self.world, self.index = world, index
        self.start()

    def start(self) -> None:
        """Start from the committed state."""
        database = self.world.database
        self.owned = {cluster for cluster, owner in database.owners.items() if owner == self.index}
        self.inventory: Inventory = Inventory()
        if not self.world.alone:
            self.inventory = MirroringInventory(is_mirrored=lambda cluster: cluster not in self.owned)
        self.store = ShardStore(cast("Any", None), cast("Any", None), Shard(self.index, 2), self.owned)
        self.pending: list[Step] = []
        self.answers: dict[Place, int] = {}
        self.questions: dict[Place, int] = {}
        self.due: set[Place] = set()
        self.asking: dict[Place, dict[int, float]] = {}
        self.cursor, self.seen_changes = database.version, len(database.changes)
        self.inventory.restore(
            [node for _, node in database.nodes.values() if node is not None],
            {uuid: place for uuid, (place, _) in database.absent.items()},
            {uuid: time for uuid, (_, time) in database.absent.items()},
        )
        for cluster in self.owned:
            self.take_up(cluster)

    def take_up(self, cluster: str) -> None:
        """Begin to read a cluster: before long what can settle a claim, and what others asked for."""
        self.due |= {Place(cluster, name) for name in self.inventory.nodes_in_claim(cluster)}
        self.take_questions({cluster})

    def take_questions(self, clusters: set[str], after: int = 0) -> None:
        """Have those nodes of some clusters read that others have asked for since a commit."""
        database = self.world.database
        for place, number in database.asked.items():
            answered = database.answered.get(place, (0, 0))[1]
            if place.cluster in clusters and number > max(after, answered):
                self.questions[place] = number
            elif self.questions.get(place, number) <= answered:
                self.questions.pop(place, None)
        self.questions = {place: number for place, number in self.questions.items() if self.inventory.node(place)}
        for place, number in self.questions.items():
            if place.cluster in self.owned and self.store.question(place, number, next(self.world.clock)):
                self.due.add(place)

    def changed(self) -> set[Place]:
        """Return the own nodes that are new, were started again or are gone: they are read whatever others ask for."""
        found = set()
        for place in PLACES:
            node, exists = self.inventory.node(place), place not in self.world.removed
            if place.cluster in self.owned and (node is not None or exists):
                boot = None if node is None or node.fingerprint is None else node.fingerprint.boot_id
                if boot != self.world.boot(place) or not exists:
                    found.add(place)
        return found

    def publish(self, step: Step) -> None:
        self.pending.append(self.store.own_part(step))
        self.answers |= self.store.answered_by(step)
        for place in {*step.verify, *step.verify_later}:
            if place.cluster in self.owned:
                self.due.add(place)
            else:
                self.ask({place})

    def ask(self, places: set[Place]) -> None:
        """Ask the other shard to read nodes."""
        database = self.world.database
        for place in places:
            database.version += 1
            database.asked[place] = database.version
            self.asking.setdefault(place, {})[database.version] = next(self.world.clock)

    def read(self, place: Place) -> None:
        self.due.discard(place)
        if place in self.world.removed:
            self.publish(self.inventory.remove_node(place, next(self.world.clock)))
            return
        started, ended = next(self.world.clock), next(self.world.clock)
        self.publish(
            self.inventory.apply(
                Reading(
                    cluster=place.cluster,
                    node=NodeInfo(name=place.node),
                    source="pod",
                    fingerprint=Fingerprint(
                        pod_uid="p", container_id="c", restarts=0, boot_id=self.world.boot(place), capacity=8
                    ),
                    time=ended,
                    driver_version=None,
                    cuda_version=None,
                    gpus=self.world.gpus(place),
                    started=started,
                    ended=ended,
                )
            )
        )

    def commit(self) -> None:
        database = self.world.database
        assert all(database.owners[cluster] == self.index for cluster in self.owned)
        database.version += 1
        for step in self.pending:
            for change in step.changes:
                database.record(change, self.owned)
            for place, node in step.nodes.items():
                database.nodes[place] = (database.version, node)
        for place, number in self.answers.items():
            database.answered[place] = (database.version, number)
        self.pending, self.answers = [], {}

    def poll(self) -> None:
        database, cursor = self.world.database, self.cursor
        if not isinstance(self.inventory, MirroringInventory):
            return
        fresh = [
            (place, node)
            for place, (version, node) in database.nodes.items()
            if version > self.cursor and place.cluster not in self.owned
        ]
        answered = {}
        for place, (version, number) in database.answered.items():
            asking = self.asking.get(place, {})
            if version > self.cursor and (times := [asking.pop(one) for one in list(asking) if one <= number]):
                answered[place] = max(times)
        self.cursor = database.version
        now = next(self.world.clock)
        self.publish(self.inventory.mirror(dict(fresh), now, answered=answered, gone_at=dict.fromkeys(CLUSTERS, now)))
        self.take_questions(self.owned, cursor)
        news, self.seen_changes = database.changes[self.seen_changes :], len(database.changes)
        passed = {uuid: database.absent[uuid] for uuid in self.inventory.passed_by(news) if uuid in database.absent}
        self.inventory.recall(
            {uuid: place for uuid, (place, _) in passed.items()}, {uuid: time for uuid, (_, time) in passed.items()}
        )

    def release(self, cluster: str) -> None:
        """Lose a cluster, with all of it that was not committed."""
        assert isinstance(self.inventory, MirroringInventory)
        self.owned.discard(cluster)
        self.pending = [self.store.own_part(step) for step in self.pending]
        self.answers = {place: number for place, number in self.answers.items() if place.cluster != cluster}
        self.due = {place for place in self.due if place.cluster != cluster}
        nodes = {place: node for place, (_, node) in self.world.database.nodes.items() if place.cluster == cluster}
        gone = {Place(cluster, name): None for name in self.inventory.nodes(cluster)}
        now = next(self.world.clock)
        self.publish(self.inventory.mirror({**gone, **nodes}, now, gone_at={cluster: now}))
        self.ask(self.inventory.homes_to_ask(cluster))

    def own(self, cluster: str) -> None:
        assert isinstance(self.inventory, MirroringInventory)
        self.poll()
        self.owned.add(cluster)
        self.publish(self.inventory.forget_unread(cluster))
        self.take_up(cluster)

    def fleet(self) -> set[tuple[str, Place]]:
        return {
            (gpu.uuid, Place(cluster, name))
            for cluster in self.inventory.clusters()
            for name, node in self.inventory.nodes(cluster).items()
            for gpu in node.gpus
        }


def settle(world: World) -> None:
    """Read what has changed and what has to be read again, and nothing else, until nothing is left to do."""
    idle = 0
    for _ in range(200):
        for shard in world.running:
            for place in sorted(shard.due | shard.changed()):
                shard.read(place)
            shard.commit()
        for shard in world.running:
            shard.poll()
        idle = 0 if any(shard.due or shard.changed() for shard in world.running) else idle + 1
        if idle == 40:  # after which questions without an answer are passed on again
            return
    raise AssertionError("it never ends")


gpus, places, shards = st.sampled_from(GPUS), st.sampled_from(PLACES), st.sampled_from([0, 1])
acts = st.one_of(
    st.tuples(st.just("move"), gpus, places, st.booleans()),
    st.tuples(st.just("double"), gpus, places),
    st.tuples(st.just("pull"), gpus),
    st.tuples(st.just("delete"), places),
    st.tuples(st.just("read"), places),
    st.tuples(st.just("answer"), shards),
    st.tuples(st.just("commit"), shards),
    st.tuples(st.just("poll"), shards),
    st.tuples(st.just("crash"), shards),
    st.tuples(st.just("hand over"), st.sampled_from(CLUSTERS)),
    st.tuples(st.sampled_from(["unite", "divide"]), st.booleans()),
)


def furnished() -> World:
    """Return a world in which all shards know where the GPUs are."""
    world = World()
    for uuid, place in zip(GPUS, PLACES, strict=False):
        world.places[uuid] = {place}
    settle(world)
    return world


def act(world: World, what: str, *how: Any) -> None:
    match what, how:
        case (("commit" | "poll" | "crash" | "answer" | "read"), _):
            do(world, what, *how)
        case "move", (uuid, place, noticed):
            world.take_out(uuid, noticed=noticed)
            world.places[uuid] = {place}
            world.start(place)
        case "double", (uuid, place):
            world.places[uuid].add(place)
            world.start(place)
        case "pull", (uuid,):
            world.take_out(uuid, noticed=True)
        case "delete", (place,):
            world.removed.add(place)
            for uuid, where in world.places.items():
                where.discard(place)
                world.start(*(world.unnoticed.pop(uuid, set()) - world.removed))
        case "hand over", (cluster,) if not world.alone:
            before, after = world.owner(cluster), world.shards[1 - world.database.owners[cluster]]
            world.database.owners[cluster] = after.index
            before.release(cluster)
            after.own(cluster)
        case (("unite" | "divide"), (flushed,)):
            world.restart(alone=what == "unite", flushed=flushed)


def do(world: World, what: str, where: Any) -> None:
    shard = world.owner(where.cluster) if what == "read" else world.shards[where]
    if shard in world.running:
        match what:
            case "read":
                shard.read(where)
            case "commit":
                shard.commit()
            case "poll":
                shard.poll()
            case "crash":
                shard.start()
            case "answer":
                for place in sorted(shard.due):
                    shard.read(place)


def check(world: World) -> None:
    truth = {(uuid, place) for uuid, where in world.places.items() for place in where}
    for shard in world.running:
        assert shard.fleet() == truth
        assert not any(map(shard.inventory.claims, CLUSTERS))
        for cluster in CLUSTERS:
            doubled = {uuid for uuid, where in world.places.items() if len(where) > 1}
            here = {uuid for uuid in doubled if any(place.cluster == cluster for place in world.places[uuid])}
            assert set(shard.inventory.contested(cluster)) == here
    recorded = {(uuid, place) for uuid, where in world.database.open.items() for place in where}
    assert recorded == truth


@given(st.lists(acts, max_size=40))
@settings(max_examples=300)
def test_all_shards_and_the_history_agree_on_placements(what: list[tuple[Any, ...]]) -> None:
    note(str(what))
    world = furnished()
    for one in what:
        act(world, *one)
    settle(world)
    check(world)


@given(st.lists(st.tuples(gpus, places), max_size=12), st.data())
@settings(max_examples=200)
def test_each_move_is_recorded_once(moves: list[tuple[str, Place]], data: st.DataObject) -> None:
    world = furnished()
    for uuid, place in moves:
        (before,) = world.places[uuid]
        if place == before:
            continue
        known = len(world.database.changes)
        act(world, "move", uuid, place, False)
        for step in data.draw(st.permutations(["new", "old", "commit 0", "commit 1", "poll 0", "poll 1"])):
            if step in ("new", "old"):
                act(world, "read", place if step == "new" else before)
            else:
                act(world, step.split()[0], int(step.split()[1]))
        settle(world)
        found = [(change.event, change.place, change.previous) for change in world.database.changes[known:]]
        assert found.count((Event.MOVED, place, before)) == 1
        assert set(found) <= {(Event.MOVED, place, before), (Event.VANISHED, before, None)}
        times = [change.time for change in world.database.changes[known:]]
        assert times == sorted(times)
    check(world)


def test_a_gpu_moves_from_where_it_was_last_even_if_it_was_there_between_two_polls() -> None:
    world = furnished()
    first, between, last = Place("a", "1"), Place("b", "1"), Place("c", "1")
    act(world, "move", "GPU-1", between, True)
    for index, place in ((0, first), (1, between)):
        act(world, "read", place)
        act(world, "commit", index)
        act(world, "poll", 1)
    act(world, "pull", "GPU-1")
    act(world, "read", between)
    act(world, "commit", 1)
    act(world, "poll", 0)
    world.places["GPU-1"] = {last}
    world.start(last)
    settle(world)
    check(world)
    told = [(one.event, one.place, one.previous) for one in world.database.changes if one.gpu.uuid == "GPU-1"]
    assert told[1:] == [
        (Event.VANISHED, first, None),
        (Event.MOVED, between, first),
        (Event.VANISHED, between, None),
        (Event.MOVED, last, between),
    ]


def test_a_claim_of_a_mirrored_node_is_settled_elsewhere() -> None:
    world = furnished()
    act(world, "move", "GPU-1", Place("b", "1"), False)
    world.shards[1].read(Place("b", "1"))
    world.shards[1].commit()
    world.shards[0].poll()
    found = {one.place: one.claim for one in world.shards[0].inventory.find(uuid="GPU-1")}
    assert found == {Place("a", "1"): False, Place("b", "1"): True}


def test_a_claim_on_a_deleted_node_settles_after_a_restart() -> None:
    world = furnished()
    claimant, home = Place("b", "1"), Place("a", "1")
    act(world, "move", "GPU-1", claimant, False)
    for index, place in ((1, claimant), (0, home)):
        act(world, "read", place)
        act(world, "commit", index)
    act(world, "crash", 1)  # before it has seen that the home let go
    assert claimant in world.shards[1].due
    act(world, "answer", 1)
    act(world, "commit", 1)
    assert world.database.open["GPU-1"] == {claimant}
    assert [(one.event, one.previous) for one in world.database.changes][-1] == (Event.MOVED, home)


def test_a_claim_is_settled_when_its_cluster_changes_shards() -> None:
    world = furnished()
    act(world, "move", "GPU-1", Place("c", "1"), False)
    act(world, "read", Place("c", "1"))  # which claims it
    act(world, "hand over", "a")  # before its home has been read again, and before others know of the claim
    settle(world)
    check(world)
