"""Where a key is, in one place or in several."""

from collector.inventory.index import PlaceIndex
from collector.model import Place

A, B, C = Place("east", "a"), Place("east", "b"), Place("west", "c")


def test_the_places_of_a_key_are_in_order_of_arrival() -> None:
    index = PlaceIndex()
    found = []
    for place in (B, A, B, C):
        index.add("k", place)
        found.append(index.places("k"))
    assert found == [(B,), (B, A), (B, A), (B, A, C)]
    found.clear()
    for place in (A, A, C, C, B, B):
        index.discard("k", place)
        found.append(index.places("k"))
    assert found == [(B, C), (B, C), (B,), (B,), (), ()]
    assert list(index.several()) == []


def test_adding_tells_which_keys_are_in_several_places() -> None:
    index = PlaceIndex()
    assert index.add_all(["j", "k", None], A) == set()
    assert index.add_all(["k", "l", None], B) == {"k"}
    assert index.add_all(["k"], C) == {"k"}
    assert index.add_all(["j"], Place("east", "a")) == set()  # the same place
    assert (index.add("j", B), index.add("k", C), index.add("m", C)) == (True, True, False)
    assert list(index.several()) == [(A, B, C), (A, B)]


def test_replacing_returns_the_keys_that_differ_or_stay() -> None:
    index = PlaceIndex()
    index.add("stays", A)
    index.add("goes", A)
    assert index.replace(A, {"stays", "goes", None}, {"stays", "comes", None}) == {"stays", "goes", "comes"}
    assert [index.places(key) for key in ("stays", "goes", "comes")] == [(A,), (), (A,)]
