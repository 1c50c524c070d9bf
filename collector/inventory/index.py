"""An index from keys (UUIDs, serials or chassis) to the nodes that have them."""

from collections.abc import Iterable

from collector.model import Place

__all__ = ["PlaceIndex"]


class PlaceIndex:
    """The places of each key, in order of arrival.

    Nearly every key is in one place, which is stored without a tuple: tuples would cost a large fleet 50 MB.
    """

    def __init__(self) -> None:
        self._only: dict[str, Place] = {}
        self._several: dict[str, tuple[Place, ...]] = {}

    def places(self, key: str) -> tuple[Place, ...]:
        """Return the places of a key; empty if there are none."""
        if (place := self._only.get(key)) is not None:
            return (place,)
        return self._several.get(key, ())

    def several(self) -> Iterable[tuple[Place, ...]]:
        """Return the places of all keys that are in more than one."""
        return self._several.values()

    def add(self, key: str, place: Place) -> bool:
        """Add a place of a key, if missing; returns whether the key is in several places now."""
        if several := self._several.get(key):
            if place not in several:
                self._several[key] = (*several, place)
            return True
        only = self._only.setdefault(key, place)
        if only == place:
            return False
        del self._only[key]
        self._several[key] = (only, place)
        return True

    def add_all(self, keys: Iterable[str | None], place: Place) -> set[str]:
        """Add a place of several keys; returns those that are in several places now. None is ignored."""
        only, several = self._only, self._several
        return {
            key
            for key in keys
            if key is not None
            # Nearly always it is in neither; `add` handles the others.
            and (key in several or only.setdefault(key, place) is not place)
            and self.add(key, place)
        }

    def discard(self, key: str, place: Place) -> None:
        """Remove a place of a key, if it is there."""
        if self._only.get(key) == place:
            del self._only[key]
        elif several := self._several.get(key):
            others = tuple(other for other in several if other != place)
            if len(others) > 1:
                self._several[key] = others
            else:
                del self._several[key]
                (self._only[key],) = others

    def replace(self, place: Place, before: set[str | None], after: set[str | None]) -> set[str]:
        """Replace the keys of a place; returns the old and new ones. None is ignored."""
        for key in before - after:
            if key is not None:
                self.discard(key, place)
        self.add_all(after - before, place)
        return {key for key in before | after if key is not None}
