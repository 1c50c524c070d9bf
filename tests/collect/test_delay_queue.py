"""Who is due when."""

from hypothesis import given
from hypothesis import strategies as st

from collector.collect.delay_queue import DelayQueue


def test_nobody_is_due_at_first() -> None:
    agenda = DelayQueue()
    assert (agenda.next(), agenda.take(1e9)) == (float("inf"), None)


def test_names_are_taken_in_the_order_of_their_times_once_each() -> None:
    agenda = DelayQueue()
    for name, time in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        agenda.set(name, time)
    assert [agenda.take(2.5) for _ in range(3)] == ["a", "b", None]
    assert agenda.next() == 3.0


def test_a_new_time_replaces_the_old_one() -> None:
    agenda = DelayQueue()
    agenda.set("a", 1.0)
    agenda.set("a", 5.0)
    assert (agenda.take(4.0), agenda.next(), agenda.take(5.0), agenda.take(9.0)) == (None, 5.0, "a", None)


def test_a_name_may_be_struck_off() -> None:
    agenda = DelayQueue()
    agenda.set("a", 1.0)
    agenda.set("a", None)
    agenda.set("b", None)
    assert (agenda.next(), agenda.take(9.0)) == (float("inf"), None)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 20))))
def test_only_the_last_word_on_each_name_counts(words: list[tuple[str, int | None]]) -> None:
    agenda, truth = DelayQueue(), {}
    for name, time in words:
        agenda.set(name, time)
        truth[name] = time
    wanted = sorted((time, name) for name, time in truth.items() if time is not None)
    taken = [agenda.take(20) for _ in wanted]
    assert taken == [name for _, name in wanted]
    assert agenda.take(20) is None
