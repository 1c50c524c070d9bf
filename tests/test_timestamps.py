"""Times as text."""

from collector.timestamps import rfc3339


def test_a_time_has_milliseconds() -> None:
    assert rfc3339(1780828245.9996) == "2026-06-07T10:30:45.999Z"


def test_a_record_has_whole_seconds_as_the_go_program_does() -> None:
    assert rfc3339(1780828245.999, "seconds") == "2026-06-07T10:30:45Z"


def test_no_time_stays_none() -> None:
    assert rfc3339(None) is None
