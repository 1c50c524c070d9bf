"""What `gpuid top` shows on a terminal of any size."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from collector.cli.table import cell_width
from collector.cli.top_view import Scroll, Seen, screen

ARN = "arn:aws:eks:eu-central-1:123456789012:cluster/production-gpu-training-"


def cluster(name: str, **values: Any) -> dict[str, Any]:
    counts = {"nodes": 12, "nodes_read": 11, "nodes_unread": 1, "gpus": 96, "gpus_missing": 2, "gpus_lost": 3}
    return {"cluster": name, "state": "up", "up": True, **counts, "gpus_degraded": {"replace": 4}} | values


def change(number: int, cluster: str = "c") -> dict[str, Any]:
    return {
        "id": number,
        "time": f"2026-11-26T12:00:{number % 60:02d}Z",
        "event": "moved",
        "cluster": cluster,
        "node": f"n{number}",
        "uuid": f"GPU-{number}",
        "serial": f"16512392{number}",
        "previous_cluster": cluster,
        "previous_node": "m",
        "changes": None,
    }


def lines(seen: Seen, width: int = 80, height: int = 24, scroll: Scroll | None = None) -> list[str]:
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(screen(seen, scroll or Scroll(), width, height))
    return captured.get().splitlines()


def test_every_column_fits_80_columns_with_the_longest_name() -> None:
    shown = lines(Seen([cluster(f"{ARN}{number}") for number in range(3)]))
    heading = next(line for line in shown if line.startswith("CLUSTER"))
    assert heading.split() == ["CLUSTER", "STATE", "NODES", "UNREAD", "GPUS", "MISSING", "LOST", "DEGRADED"]
    row = shown[shown.index(heading) + 1]
    assert row.split()[1:] == ["up", "12", "1", "96", "2", "3", "4", "replace"]
    assert row.startswith("arn:aws:")
    assert "…" in row
    assert max(map(cell_width, shown)) <= 80


def test_many_clusters_do_not_push_the_changes_out() -> None:
    shown = lines(Seen([cluster(f"sim-{number}") for number in range(100)], changes=[change(n) for n in range(50)]))
    assert sum("moved" in line for line in shown) == 6
    assert len(shown) <= 24
    assert shown[-1].startswith("1-")
    assert "of 100 clusters   ↑ ↓" in shown[-1]


def test_changes_are_grouped_as_on_the_page() -> None:
    first = [{**change(n), "event": "appeared", "previous_node": None, "first_sight": True} for n in range(3)]
    left = {**change(10), "event": "vanished", "previous_node": None, "node": "n9"}
    came = {**change(11), "event": "appeared", "previous_node": None, "node": "n9"}
    shown = lines(Seen([cluster("c")], changes=[*first, left, came]))
    (replaced,) = (line for line in shown if "replaced" in line)
    (seen,) = (line for line in shown if "first seen" in line)
    assert replaced.split()[2:] == ["1651239211", "c", "n9", "instead", "of", "1651239210"]
    assert seen.split()[3:8] == ["3", "GPUs", "c", "3", "nodes"]
    assert not any("vanished" in line for line in shown)


def test_the_worst_problems_are_above_the_clusters() -> None:
    problems = [{"severity": "critical", "title": f"sim-{number} is unreachable"} for number in range(5)]
    shown = lines(Seen([cluster("sim-9")], problems))
    assert shown[1:5] == [
        *(f"critical  sim-{number} is unreachable" for number in range(3)),
        "          and 2 more problems: gpuid status",
    ]


def test_clusters_that_are_down_come_first_in_natural_order() -> None:
    clusters = [cluster("sim-10"), cluster("sim-2"), cluster("sim-30", up=False, state="unreachable")]
    names = [line.split()[0] for line in lines(Seen(clusters)) if line.startswith("sim-")]
    assert names == ["sim-30", "sim-2", "sim-10"]


def test_clusters_with_problems_come_first() -> None:
    sound = {"nodes_unread": 0, "gpus_missing": 0, "gpus_lost": 0, "gpus_degraded": {"replace": 0}}
    clusters = [
        cluster("sim-1", **sound),
        cluster("sim-20", **{**sound, "gpus_missing": 1}),
        cluster("sim-9", **{**sound, "gpus_degraded": {"replace": 1}}),
        cluster("sim-30", up=False, state="unreachable"),
    ]
    names = [line.split()[0] for line in lines(Seen(clusters)) if line.startswith("sim-")]
    assert names == ["sim-30", "sim-9", "sim-20", "sim-1"]


def test_after_a_failure_times_are_those_of_the_last_answer() -> None:
    assert lines(Seen([cluster("c")], time=1764000011.0))[0].endswith("  16:00:11Z")
    failed = lines(Seen([cluster("c")], time=1764000011.0, failure="no answer"))
    assert failed[0] == "no answer"
    assert failed[1].endswith("  as of 16:00:11Z")


def test_keys_scroll_within_the_list() -> None:
    seen, scroll = Seen([cluster(f"sim-{number}") for number in range(100)]), Scroll()

    def first(*keys: str) -> str:
        for key in keys:
            scroll.press(key)
        return next(line.split()[0] for line in lines(seen, scroll=scroll) if line.startswith("sim-"))

    assert first() == "sim-0"
    assert first("up") == "sim-0"
    assert first("down", "j") == "sim-2"
    page = scroll.rows
    assert first("page down") == f"sim-{2 + page}"
    assert first("end") == f"sim-{100 - page}"
    assert first("down") == f"sim-{100 - page}"
    assert first("home") == "sim-0"
    assert first("x") == "sim-0"


@given(
    clusters=st.integers(0, 60),
    changes=st.integers(0, 60),
    problems=st.integers(0, 6),
    width=st.integers(30, 200),
    height=st.integers(6, 60),
    keys=st.lists(st.sampled_from(["up", "down", "page down", "end", "home", "q"]), max_size=4),
)
def test_any_screen_fits_its_terminal(
    clusters: int, changes: int, problems: int, width: int, height: int, keys: list[str]
) -> None:
    seen = Seen(
        [cluster(f"{ARN}{number}") for number in range(clusters)],
        [{"severity": "warning", "title": "x" * 300}] * problems,
        [change(number, ARN) for number in range(changes)],
    )
    scroll = Scroll()
    for key in ["", *keys]:
        scroll.press(key)
        shown = lines(seen, width, height, scroll)
        assert len(shown) <= max(height, 12)
        assert max(map(cell_width, shown)) <= width or width < 80
        if clusters:
            assert any(line.startswith("arn:") for line in shown)


@pytest.mark.parametrize("answer", [{}, {"gpus_degraded": 7, "gpus_missing": "x", "nodes_unread": []}])
def test_answers_of_an_older_collector_may_lack_fields(answer: dict[str, Any]) -> None:
    shown = lines(Seen([{"cluster": "c", "up": True, "nodes": 1, "nodes_read": 1, "gpus": 1} | answer]))
    assert any(line.startswith("c ") for line in shown)
