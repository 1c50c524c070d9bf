"""Readings that a claim asks for: two at once, then with backoff."""

from collector.inventory.verify_backoff import MAX_DELAY_SECONDS, VerifyBackoff
from collector.model import Place

HOME, CLAIMANT, FOREIGN = Place("prod", "a"), Place("prod", "b"), Place("other", "x")
DAY = 24 * 3600.0


def delays(backoff: VerifyBackoff, *times: float, claimant: Place = CLAIMANT, place: Place = HOME) -> list[float]:
    return [backoff.delay(claimant, place, now) for now in times]


def test_two_readings_are_free_and_the_next_ones_wait_four_times_longer_each() -> None:
    backoff = VerifyBackoff()
    assert delays(backoff, 0.5, 1.0) == [0.0, 0.0]
    assert delays(backoff, 2.0) == [19.0]  # 20 seconds after the second one
    assert delays(backoff, 22.0, 102.0, 422.0) == [79.0, 319.0, 1279.0]
    assert delays(backoff, 1702.0) == [3599.0]


def test_no_delay_exceeds_an_hour() -> None:
    backoff, now = VerifyBackoff(), 0.0
    for _ in range(1500):  # more than a float's powers of four
        now += 1.0
        delay = backoff.delay(CLAIMANT, HOME, now)
        assert delay <= MAX_DELAY_SECONDS
        now += delay
    assert delays(backoff, now + 1.0) == [3599.0]


def test_requests_before_a_reading_share_it() -> None:
    backoff = VerifyBackoff()
    assert delays(backoff, 0.0, 1.0, 2.0, 3.0, 21.0) == [0.0, 0.0, 19.0, 18.0, 0.0]
    assert delays(backoff, 22.0) == [79.0]


def test_a_late_request_is_for_now() -> None:
    assert delays(VerifyBackoff(), 0.0, 1.0, 500.0, 501.0) == [0.0, 0.0, 0.0, 79.0]


def test_a_claimant_that_was_right_starts_over() -> None:
    backoff = VerifyBackoff()
    delays(backoff, 0.0, 1.0, 2.0)
    backoff.reset(CLAIMANT, HOME)
    assert delays(backoff, 3.0, 4.0, 5.0) == [0.0, 0.0, 19.0]
    backoff.reset(CLAIMANT, HOME)
    backoff.reset(CLAIMANT, HOME)  # of which nothing is known
    assert not backoff._asked


def test_a_reset_is_for_one_node() -> None:
    backoff, second = VerifyBackoff(), Place("prod", "c")
    for place in (HOME, second):
        delays(backoff, 0.0, 1.0, place=place)
    backoff.reset(CLAIMANT, second)
    assert delays(backoff, 2.0) == [19.0]
    assert delays(backoff, 2.0, place=second) == [0.0]


def test_a_day_later_a_claimant_starts_over() -> None:
    backoff = VerifyBackoff()
    assert delays(backoff, 0.0, 1.0, 1.0 + DAY, 2.0 + DAY) == [0.0, 0.0, 0.0, 79.0]
    assert delays(backoff, 82.0 + 2 * DAY, 83.0 + 2 * DAY, 84.0 + 2 * DAY) == [0.0, 0.0, 19.0]


def test_a_node_that_is_gone_is_forgotten() -> None:
    backoff = VerifyBackoff()
    delays(backoff, 0.0, 1.0)
    delays(backoff, 0.0, 1.0, claimant=FOREIGN)
    backoff.forget(HOME)
    assert delays(backoff, 2.0, claimant=FOREIGN) == [0.0]
    assert delays(backoff, 2.0) == [19.0]  # which the claimant still has
    backoff.forget(CLAIMANT)
    assert delays(backoff, 2.0) == [0.0]
    backoff.forget(Place("prod", "never seen"))


def test_a_foreign_cluster_is_one_claimant() -> None:
    backoff = VerifyBackoff()
    made_up = [Place("other", str(number)) for number in range(3)]
    assert [backoff.delay(claimant, HOME, 0.0 + at) for at, claimant in enumerate(made_up)] == [0.0, 0.0, 19.0]
    assert delays(backoff, 2.0, claimant=Place("third", "x")) == [0.0]


def test_in_a_cluster_each_node_is_a_claimant() -> None:
    backoff = VerifyBackoff()
    delays(backoff, 0.0, 1.0, 2.0)
    assert delays(backoff, 2.0, claimant=Place("prod", "c")) == [0.0]
    assert delays(backoff, 2.0, place=Place("prod", "c")) == [0.0]


def test_a_claimant_of_many_nodes_has_one_count_for_the_rest() -> None:
    backoff = VerifyBackoff()
    homes = [Place("prod", f"home {number}") for number in range(19)]
    assert [backoff.delay(CLAIMANT, home, float(at)) for at, home in enumerate(homes)] == [0.0] * 18 + [19.0]
    assert delays(backoff, 18.0, place=homes[15]) == [0.0]  # the last one with a count of its own
    assert delays(backoff, 18.0, place=homes[16]) == [19.0]


def test_claimants_of_one_node_are_all_counted() -> None:
    backoff = VerifyBackoff()
    clusters = [Place(f"cluster {number}", "x") for number in range(40)]
    for claimant in clusters:
        assert delays(backoff, 0.0, 1.0, 2.0, claimant=claimant) == [0.0, 0.0, 19.0]


def test_without_a_time_nothing_waits_or_counts() -> None:
    backoff = VerifyBackoff()
    for now in (None, float("-inf")):
        assert [backoff.delay(CLAIMANT, HOME, now) for _ in range(5)] == [0.0] * 5
    assert delays(backoff, 0.0, 1.0, 2.0) == [0.0, 0.0, 19.0]
