"""What happens to the store: SQLite's file is locked or its disk full, PostgreSQL is away, hangs or says no."""

import contextlib
import errno
import random
import sqlite3
import subprocess
import time
from typing import TYPE_CHECKING

import anyio
import asyncpg

from collector.simulator.fleet import SimulationError
from tests.faults.link import State
from tests.faults.plan import Arguments, register
from tests.faults.process_faults import a_process

if TYPE_CHECKING:
    from tests.faults.world import World

START_SECONDS = 60.0  # until a killed PostgreSQL can be started: its processes have to end


def once(kind: str):
    """Draw a fault that there is at most once at a time."""

    def draw(world: "World", chance: random.Random) -> Arguments | None:
        del chance
        return None if world.faulty(kind) else {}

    return draw


# SQLite


def _sqlite(kind: str):
    def draw(world: "World", chance: random.Random) -> Arguments | None:
        return None if world.postgres is not None else once(kind)(world, chance)

    return draw


def _lock(world: "World", given: Arguments) -> None:
    del given
    other = sqlite3.connect(world.store.removeprefix("sqlite://"), isolation_level=None, check_same_thread=False)
    try:
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        other.close()
        raise SimulationError(f"the store cannot be locked: {error}") from error
    world.extra["locking"] = other


def _unlock(world: "World", given: Arguments) -> None:
    del given
    if (other := world.extra.pop("locking", None)) is not None:
        other.close()


def _full(world: "World", chance: random.Random) -> Arguments | None:
    return None if world.disk is None else once("full_disk")(world, chance)


def _fill(world: "World", given: Arguments) -> None:
    del given
    assert world.disk is not None
    with (world.disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            while True:
                try:
                    file.write(b"\0" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break


def _make_room(world: "World", given: Arguments) -> None:
    del given
    assert world.disk is not None
    (world.disk / "filler").unlink()


register("lock_store", 1, _sqlite("lock_store"), _lock, _unlock)
register("full_disk", 1, _full, _fill, _make_room)


# PostgreSQL's server


def _postgres(kind: str):
    def draw(world: "World", chance: random.Random) -> Arguments | None:
        return None if world.postgres is None or _disturbed(world) else once(kind)(world, chance)

    return draw


def _disturbed(world: "World") -> bool:
    return any(world.faulty(kind) for kind in ("stop_postgres", "freeze_postgres", "refuse_connections"))


def _running(world: "World") -> None:
    assert world.postgres is not None
    deadline = time.monotonic() + START_SECONDS
    while not world.postgres.running:
        with contextlib.suppress(subprocess.CalledProcessError):
            world.postgres.start()
            return
        assert time.monotonic() < deadline, "PostgreSQL does not start"
        time.sleep(0.2)


def _stopping(world: "World", chance: random.Random) -> Arguments | None:
    found = _postgres("stop_postgres")(world, chance)
    return None if found is None else {"kill": chance.random() < 0.5}


def _stop(world: "World", given: Arguments) -> None:
    assert world.postgres is not None
    if given["kill"]:
        world.postgres.kill()
    else:
        world.postgres.stop()


def _start(world: "World", given: Arguments) -> None:
    del given
    _running(world)


def _do_restart(world: "World", given: Arguments) -> None:
    _stop(world, given)
    _running(world)


def _freeze(world: "World", given: Arguments) -> None:
    del given
    assert world.postgres is not None
    freezing = contextlib.ExitStack()
    freezing.enter_context(world.postgres.frozen())
    world.extra["freezing"] = freezing


def _thaw(world: "World", given: Arguments) -> None:
    del given
    if (freezing := world.extra.pop("freezing", None)) is not None:
        freezing.close()


def _statement(world: "World", *statements: str) -> None:
    """Say something to the server, as another client in another database."""

    async def say() -> None:
        connection = await asyncpg.connect(world.store.rpartition("/")[0] + "/postgres", timeout=10)
        try:
            for statement in statements:
                await connection.execute(statement, timeout=10)
        finally:
            await connection.close(timeout=10)

    try:
        anyio.run(say)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise SimulationError(f"the server does not answer: {error}") from error


def _database(world: "World") -> str:
    return world.store.rpartition("/")[2]


def _end_sessions(world: "World", given: Arguments) -> None:
    del given
    _statement(world, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{_database(world)}'")


def _refuse(world: "World", given: Arguments) -> None:
    _statement(world, f"ALTER DATABASE {_database(world)} ALLOW_CONNECTIONS false")
    _end_sessions(world, given)


def _admit(world: "World", given: Arguments) -> None:
    del given
    _statement(world, f"ALTER DATABASE {_database(world)} ALLOW_CONNECTIONS true")


register("stop_postgres", 1, _stopping, _stop, _start)
register("restart_postgres", 1, _stopping, _do_restart)
register("freeze_postgres", 1, _postgres("freeze_postgres"), _freeze, _thaw)
register("refuse_connections", 1, _postgres("refuse_connections"), _refuse, _admit)
register("end_sessions", 1, _postgres("end_sessions"), _end_sessions)


# The network between one process and PostgreSQL


def _link(world: "World", chance: random.Random) -> Arguments | None:
    if world.postgres is None:
        return None
    process = a_process(world, chance)
    if world.faulty("store_link", **process):
        return None
    return {**process, "state": chance.choice([state.value for state in State if state is not State.FORWARDING])}


def _do_link(world: "World", given: Arguments) -> None:
    world.links[f"store-{given['process']}"].become(State(given["state"]))


def _undo_link(world: "World", given: Arguments) -> None:
    world.links[f"store-{given['process']}"].become(State.FORWARDING)


register("store_link", 2, _link, _do_link, _undo_link)
