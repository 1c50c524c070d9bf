"""A hostile cluster that flips the health of its GPUs fills neither the history nor the log."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.app.health_budget import HealthBudget
from collector.app.publisher import Publisher
from collector.exposition import Exposition, Metrics
from collector.health import Health
from collector.model import Change, Event, FieldChange, Gpu, NodeInfo, NodeState, Place, Step
from collector.views.recent_changes import RecentChanges

DAY = 86400.0
GPU = Gpu(uuid="GPU-1", serial="1", health=Health(row_remap_pending=True))


def flip(cluster: str = "prod", count: int = 1, event: Event = Event.HEALTH) -> Step:
    place = Place(cluster, "a")
    state = NodeState(place=place, node=NodeInfo(name="a"), time=1.0, gpus=(GPU,), since=(1.0,))
    changed = FieldChange("row_remap_pending", False, True)
    return Step(changes=(Change.of(state, event, 2.0, GPU, changes=(changed,)),) * count, nodes={place: state})


class Bench:
    """A budget of clusters with 100 GPUs each, a clock, and the clusters of which changes were dropped."""

    def __init__(self) -> None:
        self.now = 0.0
        self.dropped: list[str] = []
        self.budget = HealthBudget(lambda _cluster: 100, self.dropped.append, lambda: self.now)

    def kept(self, step: Step) -> int:
        return len(self.budget.bounded(step).changes)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_real_fleets_report_is_recorded_as_it_is(bench: Bench) -> None:
    step = flip(count=200)  # a new driver: every GPU reports more, and again with the next one
    assert bench.budget.bounded(step) is step
    assert bench.dropped == []


def test_beyond_the_budget_changes_of_health_are_dropped_and_counted(bench: Bench) -> None:
    assert bench.kept(flip(count=3000)) == 1000 + 8 * 100
    assert bench.dropped == ["prod"] * 1200
    assert bench.kept(flip()) == 0


def test_the_nodes_of_a_step_and_other_changes_stay(bench: Bench) -> None:
    bench.kept(flip(count=3000))
    appeared = flip(event=Event.APPEARED)
    assert bench.budget.bounded(appeared) is appeared
    assert bench.budget.bounded(flip()).nodes == flip().nodes


def test_another_cluster_has_its_own_budget(bench: Bench) -> None:
    bench.kept(flip("hostile", count=3000))
    assert bench.kept(flip("prod")) == 1


def test_the_budget_fills_up_within_a_day(bench: Bench) -> None:
    bench.kept(flip(count=3000))
    bench.now = DAY / 2
    assert bench.kept(flip(count=3000)) == 900
    bench.now += 2 * DAY
    assert bench.kept(flip(count=3000)) == 1800


def test_made_up_gpus_raise_it_only_so_far() -> None:
    budget = HealthBudget(lambda _cluster: 10_000_000, lambda _cluster: None, lambda: 0.0)
    assert len(budget.bounded(flip(count=100_500)).changes) == 100_000


def test_dropping_is_logged_once_an_hour(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for bench.now in (0.0, 1.0, 3601.0, 3602.0):
            bench.kept(flip(count=3000))
    assert [record.getMessage() for record in caplog.records] == ["too many GPU health changes, not recording them"] * 2
    assert vars(caplog.records[0])["cluster"] == "prod"
    assert vars(caplog.records[0])["per_day"] == 1800


@given(st.lists(st.tuples(st.integers(0, 2000), st.floats(0, DAY)), max_size=30))
def test_no_sequence_has_more_than_two_budgets_a_day(bursts: list[tuple[int, float]]) -> None:
    bench = Bench()
    kept = 0
    for count, wait in bursts:
        kept += bench.kept(flip(count=count))
        bench.now += wait
    assert kept <= 1800 * (1 + bench.now / DAY)


@pytest.mark.anyio
async def test_the_page_and_the_metric_show_the_bound() -> None:
    metrics, recent = Metrics(), RecentChanges()
    metrics.add_cluster("prod")
    exposition = Exposition(metrics)
    heard: list[Change] = []
    publisher = Publisher(exposition, metrics, recent, [heard.append])
    assert "health_changes_dropped" not in await text(exposition)
    publisher.publish(flip(count=1010))  # of one GPU
    assert len(heard) == 1008
    assert 'gpuid_gpu_health_changes_dropped_total{cluster="prod"} 2.0' in await text(exposition)


async def text(exposition: Exposition) -> str:
    return b"".join((await exposition.scrape()).chunks).decode()
