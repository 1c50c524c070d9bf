"""The steps of a run: each a kind and plain values, so that a file keeps them and a seed draws most of them again."""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.world import World

__all__ = ["CALM", "KINDS", "SHOW", "Arguments", "Kind", "Step", "drawn", "kinds_of", "load", "register", "save"]

Arguments = Mapping[str, Any]  # values that JSON has

CALM = "calm"  # the step that takes every fault back, and compares
SHOW = "show"  # the step in which something is wrong that has to be shown
STEPS_BETWEEN_CALMS = (5, 25)
STEADY_STEPS = (1, 4)  # between the calms of a steady run
STARTING_AGAIN = {"restart", "away"}  # kinds after which a process is another one
ADDING = {"add_cluster", "add_sink"}  # kinds after which it has more to do


@dataclass(frozen=True)
class Step:
    """One thing that happens."""

    kind: str
    arguments: Arguments = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


@dataclass(frozen=True)
class Kind:
    """A kind of step: what it does, and for a fault how it is taken back."""

    name: str
    weight: float  # how often it is drawn, compared with others
    draw: Callable[["World", random.Random], Arguments | None]  # its arguments; None where it does not apply
    do: Callable[["World", Arguments], None]
    undo: Callable[["World", Arguments], None] | None = (
        None  # of a fault; it also has to work if nothing is left to undo
    )


KINDS: dict[str, Kind] = {}


def register(
    name: str,
    weight: float,
    draw: Callable[["World", random.Random], Arguments | None],
    do: Callable[["World", Arguments], None],
    undo: Callable[["World", Arguments], None] | None = None,
) -> None:
    """Add a kind of step.

    `draw` decides by what earlier steps did alone (`World.fleet`, `World.active`), never by what a collector says or by
    the time, so that a seed draws the same steps again. `do` raises SimulationError where a step is impossible, as it
    may be in a shortened plan; it is then left out. Where timing decides that, such as that of a store that is locked,
    a seed may draw other steps from there on: only the file of a run repeats it.
    """
    assert name not in KINDS, name
    KINDS[name] = Kind(name, weight, draw, do, undo)


def drawn(
    seed: int,
    world: "World",
    *,
    steady: bool = False,
    to_show: Callable[["World", random.Random], Step | None] = lambda *_: None,
) -> Iterator[Step]:
    """Draw steps without end, each when the ones before have been done; now and then a calm.

    `to_show` draws what is done directly after a calm, if anything.
    """
    chance, shown = random.Random(seed), random.Random(f"{seed} {SHOW}")
    kinds = kinds_of(seed, steady=steady)
    while True:
        for _ in range(chance.randint(*(STEADY_STEPS if steady else STEPS_BETWEEN_CALMS))):
            while True:
                (kind,) = chance.choices(kinds, [one.weight for one in kinds])
                if (arguments := kind.draw(world, chance)) is not None:
                    yield Step(kind.name, arguments)
                    break
        yield Step(CALM)
        if (step := to_show(world, shown)) is not None:
            yield step


def kinds_of(seed: int, *, steady: bool = False) -> list[Kind]:
    """Return the kinds that a seed draws from: even ones let each process run, so that what it uses can be compared.

    A steady run does so with any seed, and adds nothing either: then few calms are enough.
    """
    without = STARTING_AGAIN | ADDING if steady else STARTING_AGAIN if seed % 2 == 0 else set()
    return [KINDS[name] for name in sorted(KINDS.keys() - without)]


def save(path: Path, setup: str, seed: int, steps: Iterable[Step]) -> None:
    """Write a plan, with where it runs: a line for each step."""
    lines = [json.dumps({"setup": setup, "seed": seed})]
    lines += [json.dumps({"kind": step.kind, **step.arguments}) for step in steps]
    path.write_text("\n".join(lines) + "\n")


def load(path: Path) -> tuple[str, int, list[Step]]:
    """Read what `save` wrote."""
    head, *lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return head["setup"], head["seed"], [Step(line.pop("kind"), line) for line in lines]
