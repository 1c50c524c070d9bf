"""What happens to the processes of gpuid: signals, other clocks, too few descriptors."""

import random
import signal
import time
from typing import TYPE_CHECKING

from tests.faults.plan import Arguments, register

if TYPE_CHECKING:
    from tests.faults.world import Member, World

STOPPED_SECONDS = 15.0  # within which SIGTERM or SIGINT ends a process: 8, and more on a busy machine
LEASE_SECONDS = 17.0  # after which another process has taken over
CALMS_WITH_TRUE_CLOCKS = (8, 2)  # at the beginning, for even and odd seeds
MOST_DESCRIPTORS = 1024


def a_process(world: "World", chance: random.Random) -> Arguments:
    """Draw a process."""
    return {"process": chance.choice([one.name for one in world.processes])}


def the_process(world: "World", given: Arguments) -> "Member":
    """Return the process that was drawn."""
    return next(one for one in world.processes if one.name == given["process"])


def _end(process: "Member", number: signal.Signals) -> None:
    if not process.running:
        process.assert_excused()
        return
    orderly = number is not signal.SIGKILL and not process.frozen
    listens = orderly and process.listens()
    started = time.monotonic()
    status = process.end(number)
    took = time.monotonic() - started
    assert not orderly or took < STOPPED_SECONDS, f"{number.name} took {took:.1f} s: {process.tail()}"
    assert not listens or status == 0, f"{number.name} ended {process.name} with status {status}: {process.tail()}"


def _restart(world: "World", chance: random.Random) -> Arguments:
    how = chance.choice(["SIGTERM", "SIGKILL", "SIGINT"])
    return {**a_process(world, chance), "how": how, "seconds": chance.choice([0.0, 0.0, 2.0, LEASE_SECONDS])}


def _do_restart(world: "World", given: Arguments) -> None:
    process = the_process(world, given)
    _end(process, signal.Signals[given["how"]])
    time.sleep(given["seconds"])
    process.start()
    process.may_have_ended = not world.lets_start


def _away(world: "World", chance: random.Random) -> Arguments | None:
    process = a_process(world, chance)
    return None if world.faulty("away", **process) else {**process, "how": chance.choice(["SIGTERM", "SIGKILL"])}


def _do_away(world: "World", given: Arguments) -> None:
    _end(the_process(world, given), signal.Signals[given["how"]])


def _back(world: "World", given: Arguments) -> None:
    process = the_process(world, given)
    if process.running:
        return
    process.assert_excused()
    if world.lets_start:  # else the calm starts it, when everything has been taken back
        process.start()


register("restart", 3, _restart, _do_restart)
register("away", 1, _away, _do_away, _back)


# SIGSTOP


def _pause(world: "World", chance: random.Random) -> Arguments:
    return {**a_process(world, chance), "seconds": chance.choice([0.3, 2.0, 6.0, LEASE_SECONDS])}


def _do_pause(world: "World", given: Arguments) -> None:
    process = the_process(world, given)
    _do_freeze(world, given)
    time.sleep(given["seconds"])
    if process.running:
        process.resume()


def _do_freeze(world: "World", given: Arguments) -> None:
    process = the_process(world, given)
    if process.running:
        process.pause()


def _thaw(world: "World", given: Arguments) -> None:
    process = the_process(world, given)
    if process.running:
        process.resume()


register("pause_process", 2, _pause, _do_pause)
register("freeze_process", 1, a_process, _do_freeze, _thaw)


# Clocks


def _clock(world: "World", chance: random.Random) -> Arguments | None:
    if not world.rereads:
        return None  # the times of a node are right again when it is read again
    if world.calms < CALMS_WITH_TRUE_CLOCKS[world.seed % 2]:
        return None
    return {**a_process(world, chance), "ahead": chance.choice([-86_400.0, -600.0, -5.0, 5.0, 600.0, 86_400.0])}


def _set_clock(world: "World", given: Arguments) -> None:
    world.clocks_stepped = True
    the_process(world, given).set_clock(given["ahead"])


def _set_back(world: "World", given: Arguments) -> None:
    the_process(world, given).set_clock(0.0)


register("set_clock", 1, _clock, _set_clock, _set_back)


# Descriptors


def _few(world: "World", chance: random.Random) -> Arguments:
    return {**a_process(world, chance), "free": chance.choice([0, 1, 3, 10])}


def _do_few(world: "World", given: Arguments) -> None:
    if (process := the_process(world, given)).listens():  # one that starts without descriptors ends
        process.limit_descriptors(max(process.descriptors()) + 1 + given["free"])


def _enough(world: "World", given: Arguments) -> None:
    if (process := the_process(world, given)).running:
        process.limit_descriptors(MOST_DESCRIPTORS)


register("few_descriptors", 1, _few, _do_few, _enough)
