"""Where the GPUs of a node sit."""

from hypothesis import given
from hypothesis import strategies as st

from collector.model import Gpu, NodeInfo, NodeState, Place, SilentGpu
from collector.views.missing import MissingGpu
from collector.views.trays import Seat, Tray, seats, seats_by_tray, trays


class TestTrays:
    def test_the_gpus_of_a_tray_are_ordered_by_module(self) -> None:
        gpus = [
            Gpu(uuid=f"GPU-{tray}-{module}", chassis="C1", tray=tray, slot="4", host="1", module=module)
            for module in ("10", "2", "1")
            for tray in ("12", "3")
        ]
        assert [(tray.tray, [gpu.module for gpu in tray.gpus]) for tray in trays(gpus)] == [
            ("3", ["1", "2", "10"]),
            ("12", ["1", "2", "10"]),
        ]

    def test_hardware_with_modules_only_is_one_machine(self) -> None:
        gpus = (Gpu(uuid="GPU-2", module="2"), Gpu(uuid="GPU-1", module="1"))
        assert trays(gpus) == [Tray(None, None, None, None, [gpus[1], gpus[0]])]

    def test_hardware_without_positions_has_no_trays(self) -> None:
        assert trays([Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2", minor_number=1)]) == []


class TestSeats:
    def test_an_unread_gpu_has_a_slot_by_its_address(self) -> None:
        entry = NodeState(
            place=Place("prod", "a"),
            node=NodeInfo(name="a", capacity=4),
            time=10.0,
            gpus=tuple(Gpu(uuid=f"GPU-{module}", module=module) for module in "12"),
            since=(1.0, 1.0),
            silent=(SilentGpu("00000000:5D:00.0", 10.0, "boot"),),
        )
        ((_tray, found),) = seats_by_tray(entry)
        assert [(seat.name, seat.positions, seat.silent) for seat in found] == [
            ("module 1", 1, False),
            ("module 2", 1, False),
            ("position unknown", 1, False),
            ("00000000:5D:00.0", 1, True),
        ]

    @given(modules=st.sets(st.integers(0, 16)), missing=st.integers(0, 8), told=st.booleans())
    def test_every_present_and_missing_gpu_has_a_slot(self, modules: set[int], missing: int, told: bool) -> None:
        gpus = [Gpu(uuid=f"GPU-{module}", module=str(module) if told else None) for module in sorted(modules)]
        found = seats(gpus, missing)
        assert [seat.gpu for seat in found if seat.gpu is not None] == gpus
        assert sum(seat.positions for seat in found if seat.gpu is None) == missing

    def test_a_known_missing_gpu_is_shown_in_its_slot(self) -> None:
        here = [Gpu(uuid=f"GPU-{module}", module=module) for module in ("1", "3")]
        two, four = (MissingGpu(Gpu(uuid=f"GPU-{module}", module=module), 1.0, 2.0) for module in ("2", "4"))
        assert seats(here, 1, [two])[1] == Seat("module 2", None, missing=two)
        found = seats(here, 3, [four, two])
        assert [(seat.name, seat.positions, seat.missing) for seat in found] == [
            ("module 1", 1, None),
            ("module 2", 1, two),
            ("module 3", 1, None),
            ("module 4", 1, four),
            ("position unknown", 1, None),
        ]

    def test_a_gap_in_the_modules_is_the_empty_slot(self) -> None:
        one, three = Gpu(uuid="GPU-1", module="1"), Gpu(uuid="GPU-3", module="3")
        assert seats([one, three], 1) == [Seat("module 1", one), Seat("module 2", None), Seat("module 3", three)]
        assert seats([one, three], 2) == [
            Seat("module 1", one),
            Seat("module 3", three),
            Seat("position unknown", None, 2),
        ]
