"""Which boards are to be pulled, how each GPU is in a word, and which seats lose GPUs again and again."""

import pytest

from collector.health import Degradation, Level
from collector.marks import Mark, MarkKind
from collector.model import Gpu, Place, Placement, SilentGpu
from collector.views.degraded import DegradedGpu
from collector.views.gpu_state import GpuState
from collector.views.losing_seats import dropouts, losing_seats
from collector.views.missing import MissingGpu
from collector.views.placements import FormerGpu, PlacementPeriod
from collector.views.repair import boards

NODE = Place("prod", "n1")
RMA = Mark(uuid="GPU-1", kind=MarkKind.RMA, set_at=1.0, set_by="ann", note="failed", ticket="OPS-7")


def gpu(number: int, serial: str | None = None) -> Gpu:
    return Gpu(uuid=f"GPU-{number}", serial=serial or f"S-{number}", module=str(number), slot="4")


def degraded(reason: Degradation, level: Level) -> DegradedGpu:
    return DegradedGpu(Placement(gpu=gpu(1), place=NODE, since=1.0, confirmed=1.0), (reason,), level)


class TestState:
    @pytest.mark.parametrize(
        ("state", "severity", "words", "repair"),
        [
            (GpuState(), "", "present", ()),
            (GpuState(reported=True), "good", "healthy", ()),
            (GpuState(mark=Mark(uuid="u", kind=MarkKind.WATCH, set_at=1.0, set_by="a")), "idle", "marked watch", ()),
            (GpuState(mark=RMA), "idle", "marked rma", ("marked rma: failed (OPS-7)",)),
            (GpuState(claimed=True), "idle", "being verified", ()),
            (GpuState(contested=True, claimed=True), "bad", "conflict", ()),
            (
                GpuState(degraded=degraded(Degradation.ROW_REMAP_PENDING, Level.RESET), mark=RMA),
                "idle",
                "needs a reset or drain",
                ("marked rma: failed (OPS-7)",),
            ),
            (
                GpuState(degraded=degraded(Degradation.ROW_REMAP_FAILURE, Level.REPLACE)),
                "bad",
                "needs replacement",
                ("needs replacement: row remapping failed",),
            ),
            (
                GpuState(lost=True, degraded=degraded(Degradation.LOST, Level.RESET)),
                "bad",
                "lost",
                ("does not respond",),
            ),
        ],
    )
    def test_the_worst_condition_is_shown(
        self, state: GpuState, severity: str, words: str, repair: tuple[str, ...]
    ) -> None:
        assert (state.severity, state.words, state.repair) == (severity, words, repair)


class TestBoards:
    def test_boards_to_pull_come_first_and_count_once(self) -> None:
        here = [gpu(4, "B-2"), gpu(3, "B-2"), gpu(1), gpu(2)]
        gone = MissingGpu(gpu(5), 10.0, 20.0)
        found = boards(here, {"GPU-4": GpuState(mark=RMA), "GPU-2": GpuState(reported=True)}, [gone])
        assert [(board.serial, board.each("module"), board.why, board.last_seen) for board in found] == [
            ("B-2", "3, 4", ("marked rma: failed (OPS-7)",), None),
            ("S-5", "5", ("missing",), 10.0),
            ("S-1", "1", (), None),
            ("S-2", "2", (), None),
        ]
        assert (found[0].each("slot"), found[0].each("tray")) == ("4", "")

    def test_a_gpu_known_only_by_address_is_pulled(self) -> None:
        found = boards([gpu(1)], {}, silent=[SilentGpu("00000000:4E:00.0", 1.0, "boot")])
        assert [(board.serial, board.each("pci_bus_id"), board.why) for board in found] == [
            (None, "00000000:4E:00.0", ("does not respond and was never read",)),
            ("S-1", "", ()),
        ]

    def test_the_missing_half_of_a_board_is_named(self) -> None:
        (board,) = boards([gpu(1, "B")], {}, [MissingGpu(gpu(2, "B"), 10.0, 20.0)])
        assert (board.each("module"), board.why) == ("1, 2", ("missing: slot 4, module 2",))


class TestLosingSeats:
    def left(self, number: int, until: float, module: str | None = "3", bus: str = "0000:4E") -> FormerGpu:
        return FormerGpu(Gpu(uuid=f"GPU-{number}", module=module, pci_bus_id=bus), NODE, 1.0, until, [])

    def test_a_slot_that_lost_several_gpus_is_named(self) -> None:
        (seat,) = losing_seats([self.left(1, 30.0), self.left(2, 20.0), self.left(1, 10.0), self.left(9, 5.0, "4")])
        assert (seat.name, [(one.uuid, times) for one, times in seat.gpus]) == (
            "module 3",
            [("GPU-1", 2), ("GPU-2", 1)],
        )

    def test_without_modules_the_slot_is_named_by_address(self) -> None:
        (seat,) = losing_seats([self.left(1, 30.0, None), self.left(2, 20.0, None)])
        assert seat.name == "0000:4E"

    def test_a_departed_tray_does_not_count_against_its_slots(self) -> None:
        trays = [self.left(number, until, str(number)) for until in (30.0, 20.0) for number in range(4)]
        assert losing_seats(trays) == []

    def test_a_gpu_without_a_position_has_no_slot(self) -> None:
        assert losing_seats([self.left(1, 30.0, None, ""), self.left(2, 20.0, None, "")]) == []


class TestDropouts:
    def test_only_returns_to_the_same_node_count(self) -> None:
        other = Place("prod", "n2")
        told = [(NODE, 90.0, None), (NODE, 70.0, 80.0), (other, 50.0, 60.0), (NODE, 30.0, 40.0), (NODE, 10.0, 20.0)]
        periods = [PlacementPeriod(*one) for one in told]
        assert dropouts(periods) == {NODE: 2}
        assert dropouts(periods[1:]) == {NODE: 2}
        assert dropouts(periods[2:]) == {NODE: 1, other: 1}
