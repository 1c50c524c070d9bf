"""List and watch, against a server that plays a script."""

import itertools
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest
from aiohttp import web

from collector.backoff import Backoff
from collector.kube.limits import LoopShare
from collector.model import ClusterState, WatchRestart
from tests.kube.play import FAST, SECOND, Play, Step, bookmark, error, event, page, playing, pod, refusal, text, watch
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


class TestListing:
    async def test_lists_in_pages_and_watches_from_the_last_version(self, tmp_path: Path) -> None:
        async with playing(
            tmp_path, page(7, pod("a", 1), pod("b", 2), more="t1"), page(8, pod("c", 3)), watch()
        ) as play:
            await play.watching(3)
            assert play.names == {"ns/a", "ns/b", "ns/c"}
            assert play.queries == [
                {"labelSelector": "a=b", "limit": "100"},
                {"labelSelector": "a=b", "limit": "200", "continue": "t1"},
                {
                    "labelSelector": "a=b",
                    "watch": "true",
                    "allowWatchBookmarks": "true",
                    "resourceVersion": "8",
                    "timeoutSeconds": "40",
                },
            ]
            assert (play.proofs, play.restarts, play.health) == (1, [], [None])

    async def test_skips_objects_without_a_name(self, tmp_path: Path) -> None:
        nameless: dict[str, Any] = {"metadata": None}
        steps = (
            page(7, nameless, pod("a", 1)),
            watch(event("ADDED", nameless), event("ADDED", pod("b", 8)), bookmark(9)),
        )
        async with playing(tmp_path, *steps) as play:
            await play.watching(2)
            assert play.names == {"ns/a", "ns/b"}

    async def test_of_nothing_is_also_proof(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), watch()) as play:
            await play.watching(2)
            assert (play.names, play.proofs) == (set(), 1)

    async def test_lists_without_pages_when_the_continue_token_expires(self, tmp_path: Path) -> None:
        async with playing(
            tmp_path,
            page(7, pod("gone", 1), more="t1"),
            refusal(410, "Expired"),
            page(9, pod("a", 1), pod("b", 2)),
            watch(),
        ) as play:
            await play.watching(4)
            assert play.queries[2] == {"labelSelector": "a=b"}
            assert play.names == {"ns/a", "ns/b"}
            assert play.restarts == []

    async def test_of_thousands_yields_to_other_tasks(self, tmp_path: Path) -> None:
        ticks = itertools.count()
        share = LoopShare(1.0, turn=0.01, clock=lambda: next(ticks) / 1000)  # a millisecond for each object
        pods = (pod(f"p{n}", n) for n in range(1000))
        async with playing(tmp_path, page(7, *pods), watch(), share=share) as play:
            most = 0
            while (before := play.decoded + len(play.changes)) < 2 * 1000:
                await anyio.lowlevel.checkpoint()
                most = max(most, play.decoded + len(play.changes) - before)
            assert len(play.names) == 1000
            assert 5 <= most <= 25


class TestWatching:
    async def test_follows_objects_added_changed_and_deleted(self, tmp_path: Path) -> None:
        events = [event("ADDED", pod("b", 8)), event("MODIFIED", pod("a", 9)), event("DELETED", pod("b", 10))]
        async with playing(tmp_path, page(7, pod("a", 1)), watch(*events)) as play:
            await eventually(lambda: len(play.changes) == 4)
            assert play.changes == [(None, "a@1"), (None, "b@8"), ("a@1", "a@9"), ("b@8", None)]
            assert (play.names, play.proofs) == ({"ns/a"}, 4)

    async def test_reads_events_split_at_any_position(self, tmp_path: Path) -> None:
        stream = event("ADDED", pod("b", 8)) + event("ADDED", pod("c", 9))
        async with playing(tmp_path, page(7), watch(*(bytes([byte]) for byte in stream))) as play:
            await eventually(lambda: len(play.changes) == 2)
            assert play.names == {"ns/b", "ns/c"}

    async def test_ignores_an_event_it_has_already_seen(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7, pod("a", 1)), watch(event("ADDED", pod("a", 1)), bookmark(9))) as play:
            await eventually(lambda: play.proofs == 3)
            assert play.changes == [(None, "a@1")]

    async def test_resumes_from_the_last_bookmark(self, tmp_path: Path) -> None:
        ended = watch(bookmark(42), then="end", after=1.0)
        async with playing(tmp_path, page(7), ended, watch(), timing=SECOND) as play:
            await play.watching(3)
            assert play.queries[2]["resourceVersion"] == "42"
            await eventually(lambda: play.health == [None, None])  # once the answer has come, too
            assert play.restarts == []

    async def test_skips_events_of_unknown_type(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), watch(event("SPLIT", {}), event("ADDED", pod("b", 8)))) as play:
            await eventually(lambda: play.names == {"ns/b"})


class TestStartingOver:
    @pytest.mark.parametrize(
        "step",
        [
            refusal(410, "Expired"),
            refusal(410),
            watch(error(410, "Gone")),
            watch(error(410, "Expired")),
            watch(error(0, "Expired")),
        ],
    )
    async def test_after_410_lists_again_and_removes_what_vanished_meanwhile(self, tmp_path: Path, step: Step) -> None:
        async with playing(
            tmp_path,
            page(7, pod("a", 1), pod("b", 2), pod("c", 3)),
            step,
            page(20, pod("b", 2), pod("c", 15), pod("d", 16)),
            watch(),
        ) as play:
            await play.watching(4)
            assert play.changes[3:] == [("c@3", "c@15"), (None, "d@16"), ("a@1", None)]
            assert play.queries[3]["resourceVersion"] == "20"
            assert play.restarts == [WatchRestart.EXPIRED]
            assert set(play.health) == {None}

    async def test_resumes_from_the_last_version_after_a_dropped_connection(self, tmp_path: Path) -> None:
        async with playing(
            tmp_path, page(7), watch(event("ADDED", pod("a", 9)), then="drop"), watch(event("ADDED", pod("b", 10)))
        ) as play:
            await eventually(lambda: play.names == {"ns/a", "ns/b"})
            assert play.queries[2]["resourceVersion"] == "9"
            assert (play.restarts, set(play.health)) == ([WatchRestart.CONNECTION], {None})

    async def test_abandons_a_watch_that_is_silent_too_long(self, tmp_path: Path) -> None:
        quick = msgspec.structs.replace(FAST, watch=(0.1, 0.1), slack=0.1)
        async with playing(
            tmp_path, page(7), watch(bookmark(11)), watch(event("ADDED", pod("a", 12))), timing=quick
        ) as play:
            await eventually(lambda: play.names == {"ns/a"})
            assert play.queries[2]["resourceVersion"] == "11"
            assert play.restarts == [WatchRestart.SILENT]

    @pytest.mark.parametrize(
        ("step", "reason"),
        [
            (watch(b"{not json\n"), WatchRestart.SERVER_ERROR),
            (watch(event("ADDED", {"metadata": 3})), WatchRestart.SERVER_ERROR),
            (watch(error(500, "InternalError")), WatchRestart.SERVER_ERROR),
        ],
    )
    async def test_lists_again_after_unusable_data(self, tmp_path: Path, step: Step, reason: WatchRestart) -> None:
        async with playing(tmp_path, page(7), step, page(9, pod("a", 8)), watch()) as play:
            await play.watching(4)
            assert (play.names, play.restarts) == ({"ns/a"}, [reason])

    async def test_backs_off_if_a_watch_closes_immediately(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7), watch(then="end"), watch(then="end"), watch()) as play:
            await play.watching(4)
            assert play.restarts == [WatchRestart.CONNECTION] * 2

    @pytest.mark.parametrize(
        ("step", "reason", "state"),
        [
            (refusal(401), WatchRestart.UNAUTHORIZED, ClusterState.UNAUTHORIZED),
            (refusal(403), WatchRestart.FORBIDDEN, ClusterState.FORBIDDEN),
            (refusal(400), WatchRestart.SERVER_ERROR, ClusterState.SERVER_ERROR),
            (refusal(500), WatchRestart.SERVER_ERROR, ClusterState.SERVER_ERROR),
            (refusal(429), WatchRestart.SERVER_ERROR, ClusterState.SERVER_ERROR),
            (text("<html>"), WatchRestart.SERVER_ERROR, ClusterState.SERVER_ERROR),
        ],
    )
    async def test_reports_a_refused_list_until_it_succeeds(
        self, tmp_path: Path, step: Step, reason: WatchRestart, state: ClusterState
    ) -> None:
        async with playing(tmp_path, step, step, page(7, pod("a", 1)), watch()) as play:
            await play.watching(4)
            assert play.restarts == [reason] * 2
            assert [error and error.state for error in play.health] == [state, state, None]

    async def test_reports_a_refused_watch_and_keeps_its_objects(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(7, pod("a", 1)), refusal(403), refusal(403), watch()) as play:
            await play.watching(4)
            assert [query.get("resourceVersion") for query in play.queries] == [None, "7", "7", "7"]
            assert play.changes == [(None, "a@1")]

    async def test_resets_the_backoff_after_a_watch_that_ended_well(self, tmp_path: Path) -> None:
        steep = msgspec.structs.replace(FAST, backoff=Backoff(initial=0.01, maximum=1e6, factor=1e6, jitter=0.0))
        steep = msgspec.structs.replace(steep, watch=(1.0, 1.0))
        end = watch(bookmark(8), then="end", after=1.0)
        async with playing(tmp_path, page(7), refusal(500), end, refusal(500), end, watch(), timing=steep) as play:
            await play.watching(6)
            assert play.restarts == [WatchRestart.SERVER_ERROR] * 2

    @pytest.mark.parametrize("code", [400, 403, 500])
    async def test_lists_again_when_a_watch_was_refused_three_times(self, tmp_path: Path, code: int) -> None:
        refused = refusal(code)
        async with playing(
            tmp_path, page(7, pod("a", 1)), refused, refused, refused, page(9), refused, refused, watch()
        ) as play:
            await play.watching(8)
            versions = [query.get("resourceVersion") for query in play.queries]
            assert versions == [None, "7", "7", "7", None, "9", "9", "9"]

    async def test_does_not_list_again_when_throttled(self, tmp_path: Path) -> None:
        slow = refusal(429)
        async with playing(tmp_path, page(7), slow, slow, slow, slow, watch()) as play:
            await play.watching(6)
            assert [query.get("resourceVersion") for query in play.queries] == [None, *["7"] * 5]

    async def test_does_not_count_its_own_limiter_as_silence(self, tmp_path: Path) -> None:
        quick = msgspec.structs.replace(FAST, slack=1.5)
        plays: list[Play] = []

        async def listed(request: web.Request) -> web.StreamResponse:
            plays[0].client.session.limiter.throttled(2.0)
            return await page(7)(request)

        async with playing(tmp_path, listed, watch(), timing=quick) as play:
            plays.append(play)
            await play.watching(2)
            assert (play.restarts, play.health) == ([], [None])

    async def test_abandons_a_server_that_does_not_answer_a_watch(self, tmp_path: Path) -> None:
        async def silent(request: web.Request) -> web.StreamResponse:
            await anyio.sleep(60)
            raise AssertionError

        quick = msgspec.structs.replace(FAST, slack=1.5)
        async with playing(tmp_path, page(7), silent, watch(), timing=quick) as play:
            await play.watching(3)
            assert play.restarts == [WatchRestart.CONNECTION]
            assert str(play.health[0]).endswith(": timed out")

    async def test_waits_as_long_as_the_server_asks(self, tmp_path: Path) -> None:
        async with playing(tmp_path, refusal(503, wait=1), page(7), watch()) as play:
            started = anyio.current_time()
            await play.watching(3)
            assert anyio.current_time() - started > 0.9
