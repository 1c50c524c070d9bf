"""How many objects a list requests for each page, and what a server may have against that."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from aiohttp import web

from collector.config import Size
from collector.kube.errors import ServerError, UnreachableError
from collector.model import WatchRestart
from tests.kube.play import FAST, Play, page, playing, pod, refusal, watch
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

KIB = 1 << 10


def sized(name: str, size: int) -> dict[str, Any]:
    return pod(name, 1, annotations={"filler": "x" * (size - 120)})


async def silent(request: web.Request) -> web.StreamResponse:
    await anyio.sleep(60)
    raise AssertionError(request)


def asked(play: Play) -> list[tuple[str | None, str | None]]:
    return [(query.get("continue"), query.get("limit")) for query in play.queries if "watch" not in query]


@pytest.mark.parametrize(
    ("sizes", "limits"),
    [
        ((1_500, 1_500, 1_500, 1_500), [100, 200, 400, 500]),  # at most twice as many as before
        ((1_500, 21_000, 1_500, 1_500), [100, 200, 100, 100]),
        ((6_000, 1_500, 1_500, 1_500), [100, 200, 331, 331]),  # as many as fit of the largest so far
    ],
)
async def test_pages_grow_as_far_as_their_objects_fit(
    tmp_path: Path, sizes: tuple[int, ...], limits: list[int]
) -> None:
    pages = [
        page(7, *(sized(f"p{number}-{index}", size) for index in range(3)), more=f"t{number}" if number < 3 else "")
        for number, size in enumerate(sizes)
    ]
    async with playing(tmp_path, *pages, watch()) as play:
        await play.watching(5)
        assert [int(limit or 0) for _, limit in asked(play)] == limits
        assert len(play.names) == 12


async def test_pages_stay_small_after_one_that_was_too_large(tmp_path: Path) -> None:
    large = [sized(name, 6 * KIB) for name in "bcd"]
    steps = [page(1, pod("a", 1), more="t1"), page(1, *large, more="t2"), page(1, *large[:2], more="t2")]
    async with playing(tmp_path, *steps, page(1, large[2]), watch(), max_answer_size=Size(16 * KIB)) as play:
        await play.watching(5)
        assert asked(play) == [(None, "100"), ("t1", "200"), ("t1", "100"), ("t2", "100")]
        assert len(play.names) == 4


class TestAPageThatTimesOut:
    timing = msgspec.structs.replace(FAST, slack=1.5)

    async def test_is_requested_again_in_the_first_size(self, tmp_path: Path) -> None:
        steps = [page(1, pod("a", 1), more="t1"), silent, page(1, pod("b", 1), more="t2"), page(1, pod("c", 1))]
        async with playing(tmp_path, *steps, watch(), timing=self.timing) as play:
            await play.watching(5)
            assert asked(play) == [(None, "100"), ("t1", "200"), ("t1", "100"), ("t2", "100")]
            assert (play.names, play.restarts) == ({"ns/a", "ns/b", "ns/c"}, [])

    async def test_in_the_first_size_ends_the_list(self, tmp_path: Path) -> None:
        async with playing(tmp_path, page(1, pod("a", 1), more="t1"), silent, silent, timing=self.timing) as play:
            await eventually(lambda: play.health)
            assert type(play.health[0]) is UnreachableError
            assert asked(play)[:3] == [(None, "100"), ("t1", "200"), ("t1", "100")]
            assert play.restarts[0] is WatchRestart.CONNECTION


class TestAServerThatRefusesAnotherLimit:
    @pytest.mark.parametrize("code", [400, 504])
    async def test_is_listed_again_in_pages_of_one_size(self, tmp_path: Path, code: int) -> None:
        steps = [page(7, pod("gone", 1), more="t1"), refusal(code), page(8, pod("a", 1), more="t2")]
        async with playing(tmp_path, *steps, page(8, pod("b", 1)), watch()) as play:
            await play.watching(5)
            assert asked(play) == [(None, "100"), ("t1", "200"), (None, "100"), ("t2", "100")]
            assert (play.names, play.restarts) == ({"ns/a", "ns/b"}, [])

    async def test_and_the_first_one_too_fails(self, tmp_path: Path) -> None:
        steps = [page(7, pod("a", 1), more="t1"), refusal(400)] * 2
        async with playing(tmp_path, *steps) as play:
            await eventually(lambda: play.health)
            assert type(play.health[0]) is ServerError
            assert asked(play)[:4] == [(None, "100"), ("t1", "200"), (None, "100"), ("t1", "100")]
            assert play.restarts[0] is WatchRestart.SERVER_ERROR
