"""What happens to those that the sinks deliver to: a webhook's receiver, S3, a table in PostgreSQL."""

import functools
import random
import signal
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.faults.link import State
from tests.faults.plan import Arguments, register
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.faults.world import World

# A receiver that refuses does so for what has nothing to do with the records: these come again.
REFUSALS = (401, 403, 404, 408, 429, 500, 502, 503)
SLOW_SECONDS = (0.5, 2.0, 4.0)  # the last one is more than gpuid waits


def _answer(world: "World", chance: random.Random) -> Arguments | None:
    if world.faulty("hook_answers"):
        return None
    status = chance.choice([*REFUSALS, 202])
    delay = chance.choice(SLOW_SECONDS) if status == 202 else 0.0
    return {"status": status, "delay": delay, "retry_after": chance.choice([None, 1, 3])}


def _do_answer(world: "World", given: Arguments) -> None:
    after = {} if given["retry_after"] is None else {"Retry-After": str(given["retry_after"])}
    world.receiver.respond(given["status"], "as a step says", delay=given["delay"], headers=after)


def _accept(world: "World", given: Arguments) -> None:
    del given
    world.receiver.respond(202)


def _knowing(world: "World", chance: random.Random) -> Arguments | None:
    del chance
    return None if world.faulty("hook_knows_keys") else {}


def _know(world: "World", given: Arguments) -> None:
    del given
    world.receiver.knows_keys = True


def _forget(world: "World", given: Arguments) -> None:
    del given
    world.receiver.knows_keys = False


def _limited(world: "World", chance: random.Random) -> Arguments | None:
    # What a link holds back may arrive when its halves have: no receiver could know that they are the same.
    if world.faulty("hook_limit") or world.faulty("hook_link"):
        return None
    return {"limit": chance.choice([1, 2, 5])}


def _limit(world: "World", given: Arguments) -> None:
    world.receiver.limit = given["limit"]


def _lift(world: "World", given: Arguments) -> None:
    del given
    world.receiver.limit = None


def _linked(name: str, kind: str):
    def draw(world: "World", chance: random.Random) -> Arguments | None:
        if name not in world.links or world.faulty(kind) or (name == "hook" and world.faulty("hook_limit")):
            return None
        return {"state": chance.choice([state.value for state in State if state is not State.FORWARDING])}

    def do(world: "World", given: Arguments) -> None:
        world.links[name].become(State(given["state"]))

    def undo(world: "World", given: Arguments) -> None:
        del given
        world.links[name].become(State.FORWARDING)

    return draw, do, undo


register("hook_answers", 2, _answer, _do_answer, _accept)
register("hook_knows_keys", 1, _knowing, _know, _forget)
register("hook_limit", 1, _limited, _limit, _lift)
register("hook_link", 2, *_linked("hook", "hook_link"))
register("lake_link", 2, *_linked("lake", "lake_link"))
register("warehouse_link", 1, *_linked("warehouse", "warehouse_link"))


# The server of S3


def _server(world: "World", chance: random.Random) -> Arguments | None:
    if world.lake_server is None or world.faulty("lake_server"):
        return None
    return {"how": chance.choice(["SIGKILL", "SIGTERM", "SIGSTOP"])}


def _do_server(world: "World", given: Arguments) -> None:
    assert world.lake_server is not None
    if given["how"] == "SIGSTOP":
        world.lake_server.send(signal.SIGSTOP)
    else:
        world.lake_server.stop(signal.Signals[given["how"]])


def _undo_server(world: "World", given: Arguments) -> None:
    assert world.lake_server is not None
    assert world.lake is not None
    if given["how"] == "SIGSTOP":
        world.lake_server.send(signal.SIGCONT)
    elif not world.lake_server.running:
        world.lake_server.start()
        until(functools.partial(_takes_connections, world.lake))


def _takes_connections(url: str) -> bool:
    host, _, port = urlsplit(url).netloc.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1.0).close()
    except OSError:
        return False
    return True


register("lake_server", 2, _server, _do_server, _undo_server)
