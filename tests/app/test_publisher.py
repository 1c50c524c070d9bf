"""What every step of the inventory reaches."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.app.publisher import Publisher
from collector.exposition import Exposition, Metrics
from collector.health import Health
from collector.model import Change, Event, FieldChange, Gpu, NodeInfo, NodeState, Place, Step
from collector.views.recent_changes import RecentChanges

pytestmark = pytest.mark.anyio

HERE, BEFORE = Place("prod", "a"), Place("prod", "b")
GPU = Gpu(uuid="GPU-1", serial="1")
STATE = NodeState(place=HERE, node=NodeInfo(name="a"), time=1.0, gpus=(GPU,), since=(1.0,))
MOVED = Change.of(STATE, Event.MOVED, 1.0, GPU, previous=BEFORE)
APPEARED = Change.of(STATE, Event.APPEARED, 1.0, GPU)


class Published:
    """A publisher, and where it publishes to."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.metrics.add_cluster("prod")
        self.exposition = Exposition(self.metrics)
        self.recent = RecentChanges()
        self.heard: list[Change] = []
        self.verified: list[tuple[Place, float]] = []
        self.publisher = Publisher(self.exposition, self.metrics, self.recent, [self.heard.append])
        self.publisher.verify_with(lambda place, delay: self.verified.append((place, delay)))

    async def samples(self, name: str) -> dict[str, float]:
        text = b"".join((await self.exposition.scrape()).chunks).decode()
        return {
            sample.labels["cluster"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        }


@pytest.fixture
def published() -> Published:
    return Published()


async def test_a_node_is_in_the_next_scrape(published: Published) -> None:
    published.publisher.publish(Step(changes=(APPEARED,), nodes={HERE: STATE}))
    assert await published.samples("gpuid_gpu_info") == {"prod": 1.0}


async def test_every_change_reaches_the_page_and_the_listeners(published: Published) -> None:
    published.publisher.publish(Step(changes=(APPEARED, MOVED), nodes={HERE: STATE}))
    assert published.heard == [APPEARED, MOVED]
    assert [change.event for change in published.recent.newest()] == [Event.MOVED, Event.APPEARED]


async def test_only_moves_count_as_moves(published: Published) -> None:
    published.publisher.publish(Step(changes=(APPEARED,), nodes={HERE: STATE}))
    assert await published.samples("gpuid_gpu_moves_total") == {"prod": 0.0}
    published.publisher.publish(Step(changes=(MOVED,), nodes={HERE: STATE}))
    assert await published.samples("gpuid_gpu_moves_total") == {"prod": 1.0}


async def test_nodes_to_verify_are_passed_on(published: Published) -> None:
    published.publisher.publish(Step(verify=(BEFORE,), verify_later={HERE: 30.0}))
    assert published.verified == [(BEFORE, 0.0), (HERE, 30.0)]


async def test_an_alteration_is_logged_with_the_old_value(
    published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    changes = (FieldChange("serial", "1", None), FieldChange("mig", False, True))
    altered = Change.of(STATE, Event.ALTERED, 2.0, GPU, changes=changes)
    with caplog.at_level("INFO"):
        published.publisher.publish(Step(changes=(altered,), nodes={HERE: STATE}))
    (record,) = caplog.records
    assert record.getMessage() == "GPU altered"
    assert vars(record)["changes"] == "serial 1 → not reported, MIG off → on"


PENDING = Gpu(uuid="GPU-1", serial="1", health=Health(row_remap_pending=True, ecc_dram_uncorrectable=1))
IS_PENDING = FieldChange("row_remap_pending", False, True)


def health(*changes: FieldChange, gpu: Gpu = PENDING) -> Change:
    return Change.of(STATE, Event.HEALTH, 2.0, gpu, changes=changes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (health(IS_PENDING), ("WARNING", "GPU degraded: row_remap_pending", "row remapping pending no → yes")),
        (
            health(FieldChange("ecc_dram_uncorrectable", 3, 1)),
            ("INFO", "GPU health", "DRAM errors (uncorrectable) 3 → 1 (went back)"),
        ),
        (
            health(FieldChange("lost", False, True), IS_PENDING),
            ("WARNING", "GPU degraded: lost, row_remap_pending", "row remapping pending no → yes"),
        ),
        (
            health(FieldChange("row_remap_pending", True, False), gpu=Gpu(uuid="GPU-1", health=Health())),
            ("INFO", "GPU health", "row remapping pending yes → no"),
        ),
    ],
)
async def test_a_change_of_health_is_logged_with_its_meaning(
    published: Published, caplog: pytest.LogCaptureFixture, change: Change, expected: tuple[str, str, str]
) -> None:
    with caplog.at_level("INFO"):
        published.publisher.publish(Step(changes=(change,), nodes={HERE: STATE}))
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), vars(record)["changes"]) == expected


async def test_a_lost_gpu_is_not_logged_twice(published: Published, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever notices it logs it, with how it was noticed."""
    with caplog.at_level("INFO"):
        lost = health(FieldChange("lost", False, True))
        published.publisher.publish(Step(changes=(lost,), nodes={HERE: STATE}))
    assert caplog.records == []
    assert published.heard == [lost]
