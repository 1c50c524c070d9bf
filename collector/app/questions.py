"""What shards ask each other through the store: to read a node again."""

from collections.abc import Callable, Collection, Mapping

import anyio

from collector.events import ResettableEvent
from collector.inventory import Inventory
from collector.model import Place
from collector.store import News, ShardStore

__all__ = ["Questions"]

QUESTIONS_OF_A_NODE = 8  # that are remembered while nothing answers them


class Questions:
    """The questions of one shard to others, and theirs to it. All coroutines raise StoreError.

    `verify` has a node of this shard read again.
    """

    def __init__(self, shards: ShardStore, inventory: Inventory, verify: Callable[[Place, float], None]) -> None:
        self.wanted = ResettableEvent()  # set when questions to other shards are waiting
        self._shards = shards
        self._inventory = inventory
        self._verify = verify
        self._to_ask: dict[Place, float] = {}  # monotonic time at which to request a node
        # This shard's unanswered questions, by number, with the monotonic time at which they were asked.
        self._asked: dict[Place, dict[int, float]] = {}
        self._of_others: dict[Place, int] = {}  # the number of the last unanswered one

    def ask(self, place: Place, delay: float) -> None:
        """Ask the owner of a node, in `delay` seconds, to read it."""
        at = anyio.current_time() + delay
        self._to_ask[place] = min(at, self._to_ask.get(place, at))
        if not delay:
            self.wanted.set()

    async def send(self) -> None:
        """Send the requests that are due to other shards."""
        now = anyio.current_time()
        due = {place: at for place, at in self._to_ask.items() if at <= now}
        if due:
            number = await self._shards.ask(due)
            for place in due:
                asked = self._asked.setdefault(place, {})
                asked[number] = now
                if len(asked) > QUESTIONS_OF_A_NODE:
                    del asked[next(iter(asked))]
            self._to_ask = {place: at for place, at in self._to_ask.items() if due.get(place) != at}

    async def take(self, clusters: Collection[str]) -> None:
        """Process other shards' requests for clusters that this shard now owns."""
        async with self._shards.snapshot() as connection:
            found = await self._shards.questions(connection, clusters)
        for place in found:  # to which an answer may have been lost with the cluster
            self._shards.forget_question(place)
        self._of_others |= found

    def pass_on(self) -> None:
        """Have those nodes of this shard read that others ask for; what is asked of a node that is gone is void."""
        now = anyio.current_time()
        for place in [place for place in self._asked if self._inventory.node(place) is None]:
            del self._asked[place]
        self._of_others = {
            place: number for place, number in self._of_others.items() if self._inventory.node(place) is not None
        }
        for place, number in list(self._of_others.items()):
            if place.cluster in self._shards.owned and self._shards.question(place, number, now):
                self._verify(place, 0.0)

    def answered(self, news: News) -> dict[Place, float]:
        """Return which of this shard's questions are answered, and the monotonic time of the last one per node."""
        return {
            place: max(times)
            for place, number in news.answered.items()
            if (times := [at for question, at in self._asked.get(place, {}).items() if question <= number])
        }

    def note(self, news: News, answered: Mapping[Place, float]) -> None:
        """Forget what is `answered`, and note what others ask."""
        for place in answered:
            open_ = {question: at for question, at in self._asked.pop(place).items() if question > news.answered[place]}
            if open_:
                self._asked[place] = open_
        for place in news.answered.keys() - news.asked.keys():
            self._of_others.pop(place, None)
            self._shards.forget_question(place)
        self._of_others |= {place: one for place, one in news.asked.items() if place.cluster in self._shards.owned}
