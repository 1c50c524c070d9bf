"""The demo fleet's made-up history of sixty days before its start, always the same for the same fleet."""

import functools
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple, ParamSpec

from collector.cli.demo_story import DAY_SECONDS, PAST_DAYS, Featured, Note, Seen, Story
from collector.collect import nvidia_smi
from collector.health import RETIRED_PAGES_LIMIT
from collector.marks import MarkKind
from collector.model import Place
from collector.simulator import DRIVER_FORMS, Fleet, smi

__all__ = ["DRIVERS", "tell"]

DRIVERS = ("570", "580", "580")  # of the clusters, in rotation

_CONFIRMED_SECONDS = 900.0  # from a node's last reading to an event there
_NOTICED_SECONDS = 300.0  # from an event to the reading that notices it
_FIRST_READINGS_SECONDS = 600.0  # from the first node's reading to the last one's
_LAST_READINGS_SECONDS = 240.0  # before the demo starts
_WORN_CARDS = 12  # that have only errors
_CAST_NODES = 40  # per cluster, in which cards develop problems

_P = ParamSpec("_P")
_Wear = dict[str, int | bool | str]


def tell(fleet: Fleet, drivers: Mapping[str, str], seed: int = 0) -> Story:
    """Let sixty days pass for a new fleet and return what a collector saw; `drivers` are driver forms by cluster.

    A fleet that is too small for everything gets a part of it.
    """
    return _Teller(fleet, drivers, seed).tell()


class _Card(NamedTuple):
    """A GPU that takes part in the story, and where it is until then."""

    place: Place
    uuid: str
    serial: str
    kind: str


class _Teller:
    def __init__(self, fleet: Fleet, drivers: Mapping[str, str], seed: int) -> None:
        self._fleet = fleet
        self._drivers = drivers
        self._random = random.Random(f"past/{seed}")  # noqa: S311  the history must be repeatable
        self._story = Story()
        self._acts: list[tuple[float, Callable[[], list[Place]]]] = []  # days ago and what happened
        self._last: dict[Place, Seen] = {}  # the last readings
        self._busy: set[Place] = set()  # nodes whose GPUs all change together
        self._pool: list[_Card] = []  # those to which nothing has happened yet
        self._troubled: set[Place] = set()  # nodes with a card in trouble

    def tell(self) -> Story:
        self._install_old_cards()
        places = [Place(cluster, node) for cluster in self._fleet.clusters for node in self._fleet.nodes(cluster)]
        for at, place in enumerate(places):
            self._read(place, PAST_DAYS * DAY_SECONDS - at * _FIRST_READINGS_SECONDS / len(places))
        self._move_machines()
        self._cast()
        for days, act in sorted(self._acts, key=lambda one: -one[0]):
            for place in act():
                self._confirm(place, days * DAY_SECONDS + _CONFIRMED_SECONDS)
                self._read(place, days * DAY_SECONDS - _NOTICED_SECONDS)
        for at, place in enumerate(places):
            self._confirm(place, _LAST_READINGS_SECONDS * (1.0 - 0.5 * at / len(places)))
        featured = {one.uuid for one in self._story.featured}
        self._story.stages = {
            place for place in places if not featured.isdisjoint(card.uuid for card in self._fleet.cards(*place))
        }
        return self._story

    # The fleet as it was

    def _install_old_cards(self) -> None:
        """Let one node have cards that retire pages instead of remapping rows."""
        of_h100 = [name for name in self._fleet.clusters if self._fleet.kind(name) == "h100"]
        cluster = of_h100[min(1, len(of_h100) - 1)]
        nodes = self._fleet.nodes(cluster)
        self._old = Place(cluster, nodes[-1]) if len(nodes) > 1 else None
        if self._old is not None:
            self._fleet.swap_tray(*self._old, kind="v100")
            self._busy.add(self._old)

    def _move_machines(self) -> None:
        """Bring virtual machines back on other hosts, and replace a tray."""
        for cluster in self._fleet.clusters[:2]:
            nodes = self._fleet.nodes(cluster)
            if len(nodes) < 10:
                continue
            first, second = Place(cluster, nodes[3]), Place(cluster, nodes[7])
            self._busy |= {first, second}
            shift = 4.0 * self._fleet.clusters.index(cluster)
            for days, place in ((47.0, first), (46.9, second), (38.2, first), (23.5, second), (14.1, first)):
                self._act(days - shift, self._migrate, place)
        for cluster in [name for name in self._fleet.clusters if self._fleet.kind(name) == "gb200"][:1]:
            nodes = self._fleet.nodes(cluster)
            if len(nodes) >= 4:
                tray = Place(cluster, nodes[2])
                self._busy.add(tray)
                self._act(27.3, self._swap_tray, tray)

    # Cards in trouble, and how

    def _cast(self) -> None:
        self._pool = self._shuffled()
        self._hot_potato()
        for name, trouble in (
            ("SRAM threshold exceeded", self._sram),
            ("uncorrectable errors are increasing", self._growing),
            ("row remapping pending", self._pending),
            ("reset required", self._recovery),
            ("fell off the bus", self._lose),
            ("error counters went back", self._went_back),
        ):
            self._feature(name, self._take("h100"), trouble)
        self._feature("fabric unhealthy", self._take("gb200"), self._fabric)
        self._feature("repair pending", self._take("gb200", repairs=True) or self._take(repairs=True), self._repair)
        self._feature("page retirement pending", self._old_card(0), self._retiring)
        self._feature("too many retired pages", self._old_card(1), self._retired)
        for _ in range(_WORN_CARDS):
            if (card := self._take()) is not None:
                self._wear_slowly(card)
        self._trouble_nodes()

    def _trouble_nodes(self) -> None:
        """Make one GPU go missing, one node unreadable, and two nodes claim one GPU."""
        if (card := self._take("h100")) is not None:
            self._act(0.15, self._drop, card)
        if (card := self._take("gb200")) is not None:
            self._story.unreadable.append((card.place, self._no_handle(card)))
        home = self._take("h100")
        claimant = self._take("h100", elsewhere=home) if home is not None else None
        if home is not None and claimant is not None and home.place != claimant.place:
            self._story.doubled.append((home.place, home.uuid, claimant.place))

    def _no_handle(self, card: _Card) -> str:
        """Return the message of nvidia-smi when it cannot open a GPU."""
        address = next(one.bus_id for one in self._fleet.cards(*card.place) if one.uuid == card.uuid)
        return f"Unable to determine the device handle for GPU {address[4:]}: Unknown Error"

    def _hot_potato(self) -> None:
        """Send a card that can no longer remap rows to repair, and have it turn up in another cluster.

        It takes the place of another such card, which is still under repair.
        """
        card = self._take("h100")
        victim = self._take("h100", elsewhere=card)
        if card is None or victim is None:
            return
        self._feature("failed in one cluster and turned up in another", card, self._wear_out)
        self._feature("under repair", victim, self._wear_out_early)
        self._act(11.0, self._replace, card.place, card.uuid)
        self._act(8.9, self._replace, victim.place, victim.uuid, card.uuid)
        self._note(11.8, card, MarkKind.RMA, "ana@example.com", "row remapping failed", "RMA-2107")
        self._note(9.4, victim, MarkKind.RMA, "ben@example.com", "to be returned to the vendor", "RMA-2113")

    def _wear_out(self, card: _Card) -> None:
        self._wear(card, 52.6, remapped_rows_correctable=1)
        self._wear(card, 41.2, row_remap_pending=True, recovery_action="Reset")
        self._act(41.0, self._reset, card)
        self._wear(card, 27.4, row_remap_pending=True, recovery_action="Reset", ecc_dram_uncorrectable=2)
        self._act(27.1, self._reset, card)
        self._wear(card, 15.3, row_remap_banks_low=2, remapped_rows_correctable=4)
        self._wear(card, 12.0, row_remap_failure=True, row_remap_banks_none=1, ecc_dram_uncorrectable=3)

    def _wear_out_early(self, card: _Card) -> None:
        self._wear(card, 33.7, remapped_rows_uncorrectable=3, row_remap_banks_low=1)
        self._wear(card, 10.2, row_remap_failure=True, row_remap_banks_none=1)

    def _sram(self, card: _Card) -> None:
        self._wear(card, 30.8, ecc_sram_correctable=17)
        self._wear(card, 9.3, ecc_sram_uncorrectable=12, sram_threshold_exceeded=True)
        self._note(9.1, card, MarkKind.QUARANTINE, "ana@example.com", "no jobs until it is replaced", "OPS-881")

    def _growing(self, card: _Card) -> None:
        self._wear(card, 22.4, ecc_dram_correctable=40)
        for days, errors in ((5.1, 1), (2.7, 3), (0.4, 4)):
            self._wear(card, days, ecc_dram_uncorrectable=errors)
        self._note(2.5, card, MarkKind.WATCH, "ben@example.com", "errors after each long job", days=14.0)

    def _pending(self, card: _Card) -> None:
        self._wear(card, 18.9, remapped_rows_correctable=2)
        self._wear(card, 0.9, row_remap_pending=True)

    def _recovery(self, card: _Card) -> None:
        self._wear(card, 0.3, recovery_action="Drain and Reset")

    def _lose(self, card: _Card) -> None:
        self._wear(card, 3.2, ecc_dram_correctable=5)
        self._act(0.2, self._fall_off, card)

    def _went_back(self, card: _Card) -> None:
        for days, errors in ((48.5, 120), (36.1, 260), (24.6, 340)):
            self._wear(card, days, ecc_dram_correctable=errors, remapped_rows_correctable=errors // 60)
        self._act(20.2, self._flash, card)
        self._wear(card, 6.8, ecc_dram_correctable=9)

    def _fabric(self, card: _Card) -> None:
        self._wear(card, 0.6, fabric_health="Unhealthy")

    def _repair(self, card: _Card) -> None:
        self._wear(card, 16.3, ecc_sram_correctable=3)
        self._wear(card, 1.4, tpc_repair_pending=True)

    def _retiring(self, card: _Card) -> None:
        self._wear(card, 50.3, retired_pages_single_bit=2)
        self._wear(card, 31.6, retired_pages_double_bit=1)
        self._wear(card, 2.2, page_retirement_pending=True)

    def _retired(self, card: _Card) -> None:
        for days, pages in ((57.1, 12), (44.9, 29), (29.2, 51), (7.9, RETIRED_PAGES_LIMIT + 1)):
            self._wear(card, days, retired_pages_single_bit=pages)

    def _wear_slowly(self, card: _Card) -> None:
        rows = errors = 0
        for days in sorted((self._random.uniform(1.0, PAST_DAYS - 1.0) for _ in range(3)), reverse=True):
            rows, errors = rows + self._random.randint(0, 1), errors + self._random.randint(1, 25)
            rows_too: _Wear = {"remapped_rows_correctable": rows} if rows else {}
            self._wear(card, days, ecc_dram_correctable=errors, **rows_too)

    # The cards

    def _shuffled(self) -> list[_Card]:
        """Return cards in random order, without those of nodes whose cards change together."""
        pool: list[_Card] = []
        for cluster in self._fleet.clusters:
            for node in self._fleet.nodes(cluster)[:_CAST_NODES]:
                if (place := Place(cluster, node)) not in self._busy:
                    pool += [_Card(place, one.uuid, one.serial, one.kind) for one in self._fleet.cards(*place)]
        return self._random.sample(pool, len(pool))

    def _take(self, kind: str | None = None, *, repairs: bool = False, elsewhere: _Card | None = None) -> _Card | None:
        """Return the next card of some kind; in a cluster whose driver reports pending repairs, or elsewhere."""

        def fits(card: _Card) -> bool:
            return (
                kind in (None, card.kind)
                and (not repairs or DRIVER_FORMS[self._drivers[card.place.cluster]].repairs)
                and (elsewhere is None or card.place.node != elsewhere.place.node)
            )

        fitting = [card for card in self._pool if fits(card)]
        if elsewhere is not None:  # in another cluster rather than on another node
            fitting.sort(key=lambda card: card.place.cluster == elsewhere.place.cluster)
        if not fitting:
            return None
        card = next((card for card in fitting if card.place not in self._troubled), fitting[0])
        self._troubled.add(card.place)
        self._pool.remove(card)
        return card

    def _old_card(self, index: int) -> _Card | None:
        cards = [] if self._old is None else self._fleet.cards(*self._old)
        if self._old is None or index >= len(cards):
            return None
        return _Card(self._old, cards[index].uuid, cards[index].serial, cards[index].kind)

    def _feature(self, title: str, card: _Card | None, trouble: Callable[[_Card], None]) -> None:
        if card is not None:
            self._story.featured.append(Featured(title, card.uuid, card.serial))
            trouble(card)

    def _wear(self, card: _Card, days: float, **wear: int | bool | str) -> None:
        self._act(days, self._wear_now, card, wear)

    def _note(
        self,
        ago: float,
        card: _Card,
        kind: MarkKind,
        by: str,
        note: str,
        ticket: str = "",
        days: float | None = None,
    ) -> None:
        self._story.notes.append(Note(ago * DAY_SECONDS, card.uuid, kind, by, note, ticket, days))

    # The events; each returns the nodes concerned

    def _act(self, days: float, act: Callable[_P, list[Place]], *args: _P.args, **kwargs: _P.kwargs) -> None:
        self._acts.append((days, functools.partial(act, *args, **kwargs)))

    def _wear_now(self, card: _Card, wear: _Wear) -> list[Place]:
        self._fleet.wear(*card.place, card.uuid, wear)
        return [card.place]

    def _reset(self, card: _Card) -> list[Place]:
        self._fleet.reset(*card.place, card.uuid)
        return [card.place]

    def _flash(self, card: _Card) -> list[Place]:
        self._fleet.flash(*card.place, card.uuid)
        return [card.place]

    def _fall_off(self, card: _Card) -> list[Place]:
        self._story.lost.append((card.place, card.uuid))
        return [card.place]

    def _drop(self, card: _Card) -> list[Place]:
        self._story.missing.append((card.place, card.uuid))
        return [card.place]

    def _replace(self, place: Place, uuid: str, by: str | None = None) -> list[Place]:
        self._fleet.replace(*place, uuid, by)
        return [place]

    def _migrate(self, place: Place) -> list[Place]:
        self._fleet.migrate(*place)
        return [place]

    def _swap_tray(self, place: Place) -> list[Place]:
        self._story.swapped.append(place)
        self._fleet.swap_tray(*place)
        return [place]

    def _read(self, place: Place, ago: float) -> None:
        lost = {uuid for _, uuid in self._story.lost}
        missing = {uuid for _, uuid in self._story.missing}
        cards = [card for card in self._fleet.cards(*place) if card.uuid not in missing]
        if lost:
            cards = [card._replace(lost=card.uuid in lost) for card in cards]
        form = self._drivers[place.cluster]
        report = nvidia_smi.parse(smi.render(self._fleet.kind(place.cluster), cards, 0.0, form=form))
        self._last[place] = Seen(ago, place, report)
        self._story.seen.append(self._last[place])

    def _confirm(self, place: Place, ago: float) -> None:
        """Read a node to which nothing has happened since its last reading, unless that was later."""
        if ago < self._last[place].ago:
            self._last[place] = self._last[place]._replace(ago=ago)
            self._story.seen.append(self._last[place])
