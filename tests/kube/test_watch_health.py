"""When a watch counts as working, and what follows when it does not, against a server that plays a script."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web

from collector.backoff import Backoff
from collector.collect.objects import PodObject
from collector.kube.errors import SilentWatchError, UnreachableError
from collector.kube.reflector import WatchIntervals
from collector.model import ClusterState, WatchRestart
from tests.kube.play import FAST, SECOND, Play, Step, bookmark, error, event, page, playing, pod, refusal, watch
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

TOO_LARGE = {"details": {"retryAfterSeconds": 30, "causes": [{"reason": "ResourceVersionTooLarge"}]}}
OLD_TOO_LARGE = {"message": "Too large resource version: 7, current: 3", "details": {"retryAfterSeconds": 30}}
QUIET = msgspec.structs.replace(FAST, watch=(60.0, 60.0), silence=0.5)  # too short for a watch to end by itself


def versions(play: Play) -> list[str | None]:
    """Return what each request asked for: a list (None), or a watch from a version."""
    return [query.get("resourceVersion") for query in play.queries]


def states(play: Play) -> list[ClusterState | None]:
    """Return what was reported to the owner, without repetitions; None means that the watch works."""
    told = [None if error is None else error.state for error in play.health]
    return [state for state, _ in itertools.groupby(told)]


def texts(play: Play) -> list[str]:
    return [str(error).partition(": ")[2] for error in play.health if error is not None]


class TestAnOpenWatch:
    async def test_is_not_working_before_any_data_arrives(self, tmp_path: Path) -> None:
        patient = msgspec.structs.replace(FAST, trust=30.0)
        async with playing(tmp_path, page(7), watch(), timing=patient) as play:
            await eventually(lambda: len(play.queries) >= 2)
            await anyio.sleep(0.2)
            assert (play.health, play.proofs) == ([], 1)

    @pytest.mark.parametrize("chunk", [bookmark(8), event("ADDED", pod("a", 8))])
    async def test_is_working_from_the_first_event_or_bookmark(self, tmp_path: Path, chunk: bytes) -> None:
        patient = msgspec.structs.replace(FAST, trust=30.0)
        async with playing(tmp_path, page(7), watch(chunk), timing=patient) as play:
            await eventually(lambda: play.health == [None])
            assert play.proofs == 2

    async def test_is_working_after_being_open_for_a_while(self, tmp_path: Path) -> None:
        patient = msgspec.structs.replace(FAST, trust=0.3)
        async with playing(tmp_path, page(7), watch(), timing=patient) as play:
            await eventually(lambda: play.health == [None])
            assert anyio.current_time() - play.times[1] >= 0.29
            assert play.proofs == 1

    async def test_needs_data_and_not_only_bytes(self, tmp_path: Path) -> None:
        patient = msgspec.structs.replace(FAST, trust=30.0)
        async with playing(tmp_path, page(7), watch(b"\n\n", b'{"type": "ADDED", '), timing=patient) as play:
            await eventually(lambda: len(play.queries) >= 2)
            await anyio.sleep(0.2)
            assert (play.health, play.proofs) == ([], 1)


class TestAWatchThatEndsSoon:
    async def test_is_never_considered_working(self, tmp_path: Path) -> None:
        at_once = watch(then="end")
        lists = [page(7), page(7), page(7)]
        steps = [lists[0], *[at_once] * 3, lists[1], *[at_once] * 3, lists[2], *[at_once] * 5]
        async with playing(tmp_path, *steps) as play:
            await eventually(lambda: len(play.queries) >= 14)
            assert versions(play)[:9] == [None, "7", "7", "7", None, "7", "7", "7", None]
            assert states(play) == [ClusterState.UNREACHABLE]
            assert "the watch of pods ended after 0.0 s instead of 40 s" in texts(play)[0]

    async def test_is_reported_and_listed_after_the_third_in_a_row(self, tmp_path: Path) -> None:
        at_once = watch(then="end")
        async with playing(
            tmp_path, page(7), watch(bookmark(8), after=0.1, then="end"), *[at_once] * 3, page(9), watch()
        ) as play:
            await eventually(lambda: len(play.queries) >= 7)
            assert versions(play) == [None, "7", "8", "8", "8", None, "9"]
            await eventually(lambda: play.health[-1] is None)
            assert states(play) == [None, ClusterState.UNREACHABLE, None]
            assert play.restarts == [WatchRestart.CONNECTION] * 4

    async def test_and_delivered_events_is_still_paced_listed_and_counted(self, tmp_path: Path) -> None:
        hot = [watch(bookmark(8 + number), then="end") for number in range(6)]
        async with playing(tmp_path, page(7), *hot[:3], page(20), *hot[3:], page(30), watch()) as play:
            await eventually(lambda: len(play.queries) >= 10)
            assert versions(play) == [None, "7", "8", "9", None, "20", "11", "12", None, "30"]
            assert play.restarts == [WatchRestart.CONNECTION] * 6
            assert set(play.health) == {None}  # each one proved that the view was current

    async def test_is_reopened_after_at_least_a_second(self, tmp_path: Path) -> None:
        default = WatchIntervals()
        assert default.pause >= 1.0
        timing = msgspec.structs.replace(FAST, pause=0.3)
        async with playing(tmp_path, page(7), *[watch(bookmark(8), then="end")] * 2, watch(), timing=timing) as play:
            await eventually(lambda: len(play.queries) >= 4)
            assert min(after - before for before, after in itertools.pairwise(play.times[1:])) >= 0.3

    async def test_is_reopened_with_growing_delays(self, tmp_path: Path) -> None:
        timing = msgspec.structs.replace(FAST, backoff=Backoff(initial=0.05, maximum=10.0, jitter=0.0))
        hot = watch(bookmark(8), then="end")
        async with playing(tmp_path, page(7), hot, hot, hot, page(7), hot, watch(), timing=timing) as play:
            await eventually(lambda: len(play.queries) >= 7)
            gaps = [after - before for before, after in itertools.pairwise(play.times[1:])]
            assert gaps[0] < gaps[1] < gaps[2]
            assert gaps[4] >= 0.4

    async def test_and_delivered_nothing_causes_a_list(self, tmp_path: Path) -> None:
        idle = watch(then="end", after=0.4)  # longer than `healthy`
        async with playing(tmp_path, page(7), idle, idle, idle, page(9), watch()) as play:
            await play.watching(6)
            assert versions(play) == [None, "7", "7", "7", None, "9"]
            assert set(play.health) == {None}  # something cuts idle connections: no reason to be down

    async def test_causes_lists_that_become_less_frequent(self, tmp_path: Path) -> None:
        requests: list[bool] = []

        async def answer(request: web.Request) -> web.StreamResponse:
            requests.append("watch" in request.query)
            return await (watch(then="end") if requests[-1] else page(7))(request)

        async with playing(tmp_path, *[answer] * 100):
            await eventually(lambda: len(requests) == 60)
            lists = [number for number, watched in enumerate(requests) if not watched]
            assert lists == [0, 4, 8, 15, 28, 53]


class TestSilence:
    async def test_makes_the_view_stale_and_leads_to_a_list(self, tmp_path: Path) -> None:
        steps = [page(7, pod("a", 1)), watch(bookmark(11)), page(20, pod("b", 12)), watch(bookmark(21))]
        async with playing(tmp_path, *steps, timing=QUIET) as play:
            await eventually(lambda: play.names == {"ns/b"})
            assert versions(play)[:3] == [None, "7", None]
            assert play.restarts == [WatchRestart.SILENT]
            assert states(play)[:2] == [None, ClusterState.UNREACHABLE]
            assert "no event, bookmark or other proof" in texts(play)[0]
            await eventually(lambda: play.health[-1] is None)

    async def test_counts_from_the_last_event_or_bookmark(self, tmp_path: Path) -> None:
        async def trickle(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for number in range(4):
                await anyio.sleep(0.3)
                await response.write(bookmark(8 + number))
            await anyio.sleep(60)
            return response

        async with playing(tmp_path, page(7), trickle, page(20), watch(), timing=QUIET) as play:
            await eventually(lambda: len(play.queries) >= 3)
            assert play.times[2] - play.times[1] >= 4 * 0.3 + 0.5
            assert play.restarts == [WatchRestart.SILENT]

    async def test_is_not_ended_by_bytes_that_are_not_events(self, tmp_path: Path) -> None:
        async def drip(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                while True:
                    await response.write(b"\n")
                    await anyio.sleep(0.05)
            return response

        async with playing(tmp_path, page(7), drip, page(20), watch(), timing=QUIET) as play:
            await eventually(lambda: len(play.queries) >= 3)
            assert play.restarts == [WatchRestart.SILENT]

    async def test_is_not_assumed_on_a_quiet_server_without_bookmarks(self, tmp_path: Path) -> None:
        timing = msgspec.structs.replace(SECOND, silence=1.5)
        ended = watch(then="end", after=1.0)
        async with playing(tmp_path, page(7), ended, ended, ended, watch(), timing=timing) as play:
            await eventually(lambda: len(play.queries) >= 5)
            assert versions(play) == [None, "7", "7", "7", "7"]
            assert (play.restarts, set(play.health), play.proofs) == ([], {None}, 4)

    async def test_that_continues_keeps_the_cluster_down(self, tmp_path: Path) -> None:
        """Such as behind a proxy that holds back what the server streams. Lists keep the view current."""
        steps: list[Step] = []
        for version in range(7, 12):
            steps += [page(version), watch()]
        async with playing(tmp_path, *steps, timing=QUIET) as play:
            await eventually(lambda: len(play.queries) >= 10)
            assert versions(play)[::2] == [None] * 5
            assert play.restarts == [WatchRestart.SILENT] * 4
            assert states(play) == [None, ClusterState.UNREACHABLE]
            assert play.proofs == 5

    @pytest.mark.parametrize("chunk", [bookmark(21), event("ADDED", pod("b", 21))])
    async def test_ends_with_the_next_event_or_bookmark(self, tmp_path: Path, chunk: bytes) -> None:
        async with playing(tmp_path, page(7), watch(), page(20), watch(), page(20), watch(chunk), timing=QUIET) as play:
            await eventually(lambda: len(play.queries) >= 6)
            await eventually(lambda: play.health[-1] is None)
            assert states(play) == [None, ClusterState.UNREACHABLE, None]

    async def test_is_reported_as_stale_if_the_list_is_slow(self, tmp_path: Path) -> None:
        """As long as only the watch is known to fail, the owner relies on lists."""
        timing = msgspec.structs.replace(QUIET, slack=0.5, listing=30.0)
        steps = [page(7), watch(bookmark(8)), *[slow_page(number, 0.3) for number in range(50)]]
        async with playing(tmp_path, *steps, timing=timing) as play:
            await eventually(lambda: len(texts(play)) == 2)
            assert "no event, bookmark or other proof that the watch of pods works" in texts(play)[0]
            assert "the view of the pods is current" in texts(play)[1]
            kinds = [type(error) for error in play.health if error is not None]
            assert kinds == [SilentWatchError, UnreachableError]

    async def test_ends_with_a_watch_that_ends_on_time(self, tmp_path: Path) -> None:
        timing = msgspec.structs.replace(SECOND, silence=1.2, slack=0.5)
        ended = watch(then="end", after=1.0)
        async with playing(tmp_path, page(7), watch(), page(20), ended, watch(), timing=timing) as play:
            await eventually(lambda: len(play.queries) >= 5)
            await eventually(lambda: play.health[-1] is None)
            assert states(play) == [None, ClusterState.UNREACHABLE, None]

    async def test_is_not_ended_by_events_of_unknown_type(self, tmp_path: Path) -> None:
        chunks = [event(kind, pod("a", 8)) for kind in ("PING", "added")]
        async with playing(tmp_path, page(7), watch(*chunks), page(20), watch(), timing=QUIET) as play:
            await eventually(lambda: len(play.queries) >= 3)
            assert (play.restarts, play.names) == ([WatchRestart.SILENT], set())

    async def test_of_half_its_length_causes_a_list_before_watching(self, tmp_path: Path) -> None:
        """So each watch has as much time to bring something; and a server that ends all that is idle is listed."""
        timing = msgspec.structs.replace(FAST, silence=1.0)
        idle = watch(then="end", after=0.6)
        async with playing(tmp_path, page(7), idle, page(9), idle, page(11), watch(), timing=timing) as play:
            await eventually(lambda: len(play.queries) >= 6)
            assert versions(play) == [None, "7", None, "9", None, "11"]
            assert set(play.health) == {None}

    async def test_of_an_endless_list_is_reported(self, tmp_path: Path) -> None:
        timing = msgspec.structs.replace(FAST, silence=1.0, slack=5.0, listing=60.0)
        steps = [slow_page(number, 0.2) for number in range(200)]
        async with playing(tmp_path, *steps, timing=timing) as play:
            await eventually(lambda: play.health)
            assert states(play) == [ClusterState.UNREACHABLE]
            assert "the view of the pods is current" in texts(play)[0]

    async def test_ends_a_list_that_exceeds_the_time_limit(self, tmp_path: Path) -> None:
        timing = msgspec.structs.replace(FAST, listing=0.5)
        steps = [slow_page(number, 0.2) for number in range(50)]
        async with playing(tmp_path, *steps, timing=timing) as play:
            await eventually(lambda: play.health)
            assert texts(play)[0].endswith("listing pods timed out after 0.5 s")

    async def test_of_a_server_that_makes_us_wait_is_reported(self, tmp_path: Path) -> None:
        timing = msgspec.structs.replace(SECOND, silence=0.5, slack=0.1)
        async with playing(tmp_path, page(7), watch(bookmark(8), then="end", after=1.0), timing=timing) as play:
            await eventually(lambda: play.health == [None])
            play.client.session.limiter.throttled(3600.0)  # as an exec does that was answered 429
            await eventually(lambda: play.health[-1] is not None)
            assert states(play) == [None, ClusterState.UNREACHABLE]


def slow_page(number: int, seconds: float) -> Step:
    async def answer(request: web.Request) -> web.StreamResponse:
        await anyio.sleep(seconds)
        return await page(7, more=f"t{number}")(request)

    return answer


class TestAVersionThatTheServerHasNotReached:
    @pytest.mark.parametrize("more", [TOO_LARGE, OLD_TOO_LARGE])
    @pytest.mark.parametrize("form", ["status", "event"])
    async def test_leads_to_a_list_at_once(self, tmp_path: Path, form: str, more: dict[str, Any]) -> None:
        refused = refusal(504, "Timeout", more=more) if form == "status" else watch(error(504, "Timeout", **more))
        slow = msgspec.structs.replace(FAST, backoff=Backoff(initial=20.0, maximum=20.0))
        async with playing(tmp_path, page(7, pod("a", 7)), refused, page(3), watch(), timing=slow) as play:
            await play.watching(4)
            assert versions(play) == [None, "7", None, "3"]
            assert play.times[2] - play.times[1] < 5
            assert (play.restarts, set(play.health), play.names) == ([WatchRestart.EXPIRED], {None}, set())

    async def test_leads_to_a_list_at_once_despite_earlier_failures(self, tmp_path: Path) -> None:
        """A server that is restored does not respond at first."""
        steep = msgspec.structs.replace(FAST, backoff=Backoff(initial=0.1, maximum=20.0, factor=200.0, jitter=0.0))
        refused, too_large = refusal(503), refusal(504, "Timeout", more=TOO_LARGE)
        async with playing(tmp_path, page(7), refused, too_large, page(3), watch(), timing=steep) as play:
            await play.watching(5)
            assert versions(play) == [None, "7", "7", None, "3"]
            assert play.times[3] - play.times[2] < 5

    async def test_leads_to_a_paced_list_if_refused_again(self, tmp_path: Path) -> None:
        slow = msgspec.structs.replace(FAST, backoff=Backoff(initial=0.5, maximum=0.5, jitter=0.0))
        too_large = refusal(504, "Timeout", more=TOO_LARGE)
        async with playing(tmp_path, page(7), too_large, page(3), too_large, page(3), watch(), timing=slow) as play:
            await play.watching(6)
            assert play.times[2] - play.times[1] < 0.4
            assert play.times[4] - play.times[3] >= 0.5

    async def test_is_not_assumed_for_other_timeouts(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), refusal(504, "Timeout", more={"message": "etcd"}), watch()) as play:
            await play.watching(3)
            assert versions(play) == [None, "7", "7"]


class TestBeingAskedToWait:
    async def test_by_an_event_is_respected_without_a_list(self, tmp_path: Path) -> None:
        wait = watch(error(429, "TooManyRequests", details={"retryAfterSeconds": 1}))
        async with playing(tmp_path, page(7), wait, watch(bookmark(8))) as play:
            await eventually(lambda: len(play.queries) >= 3)
            assert versions(play) == [None, "7", "7"]
            assert play.times[2] - play.times[1] >= 1.0
            assert states(play)[0] is ClusterState.SERVER_ERROR
            await eventually(lambda: play.health[-1] is None)

    async def test_by_a_header_is_respected(self, tmp_path: Path) -> None:
        wait = refusal(429, "TooManyRequests", wait=1)
        async with playing(tmp_path, page(7), wait, watch(bookmark(8))) as play:
            await eventually(lambda: len(play.queries) >= 3)
            assert play.times[2] - play.times[1] >= 1.0


class TestAListThatFails:
    async def test_is_reported_even_if_only_something_expired(self, tmp_path: Path) -> None:
        async with playing(tmp_path, *[refusal(410, "Expired")] * 2, page(7), watch()) as play:
            await eventually(lambda: play.health)
            assert states(play)[0] is ClusterState.SERVER_ERROR

    async def test_keeps_the_known_objects(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7, pod("a", 1)), refusal(410), page(9, pod("a", 1)), watch()) as play:
            await eventually(lambda: len(play.queries) >= 2)
            before: PodObject = play.reflector.objects["ns/a"]
            await play.watching(4)
            assert play.reflector.objects["ns/a"] is before
