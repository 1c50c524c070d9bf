"""Names and the times at which they are due."""

from hypothesis import given
from hypothesis import strategies as st

from collector.collect.delay_queue import MAX_OUTDATED, DelayQueue


def test_an_empty_queue_has_nothing_due() -> None:
    queue = DelayQueue()
    assert (queue.next_due(), queue.pop_due(1e9)) == (float("inf"), None)


def test_names_are_popped_once_in_order_of_time() -> None:
    queue = DelayQueue()
    for name, time in (("c", 3.0), ("a", 1.0), ("b", 2.0)):
        queue.schedule(name, time)
    assert [queue.pop_due(2.5) for _ in range(3)] == ["a", "b", None]
    assert queue.next_due() == 3.0


def test_a_new_time_replaces_the_old_one() -> None:
    queue = DelayQueue()
    queue.schedule("a", 1.0)
    queue.schedule("a", 5.0)
    assert (queue.pop_due(4.0), queue.next_due(), queue.pop_due(5.0), queue.pop_due(9.0)) == (None, 5.0, "a", None)


def test_a_name_can_be_removed() -> None:
    queue = DelayQueue()
    queue.schedule("a", 1.0)
    queue.schedule("a", None)
    queue.schedule("b", None)
    assert (queue.next_due(), queue.pop_due(9.0)) == (float("inf"), None)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.integers(0, 20))))
def test_the_last_time_of_each_name_counts(calls: list[tuple[str, int | None]]) -> None:
    queue, truth = DelayQueue(), {}
    for name, time in calls:
        queue.schedule(name, time)
        truth[name] = time
    expected = sorted((time, name) for name, time in truth.items() if time is not None)
    popped = [queue.pop_due(20) for _ in expected]
    assert popped == [name for _, name in expected]
    assert queue.pop_due(20) is None


def test_rescheduling_a_name_does_not_use_more_memory() -> None:
    queue = DelayQueue()
    for number in range(10_000):
        queue.schedule(str(number % 3), float(number))
    assert (len(queue), len(queue._heap) <= 70) == (3, True)
    assert [queue.pop_due(1e9) for _ in range(4)] == ["1", "2", "0", None]


def test_the_order_stays_when_outdated_times_are_dropped() -> None:
    queue, times = DelayQueue(), dict[str, float]()
    for number in range(26 + MAX_OUTDATED + 26 + 1):  # the last one is one too many
        name = str(number % 26)
        times[name] = 1000.0 - number % 26 + number / 1000
        queue.schedule(name, times[name])
    assert len(queue._heap) == 26
    assert [queue.pop_due(1e9) for _ in times] == sorted(times, key=times.__getitem__)


def test_they_are_dropped_only_when_there_are_many() -> None:
    """For each time costs as much as all names."""
    queue = DelayQueue()
    heap = queue._heap
    for time in (1.0, 2.0):
        queue.schedule("a", time)
    for number in range(100):
        queue.schedule(str(number), 1.0)
    assert queue._heap is heap
