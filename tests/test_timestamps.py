"""Times as text, and the times that people write."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.timestamps import as_of, parse_end, parse_time, rfc3339

NOW = 1780828245.5  # 2026-06-07T10:30:45.5Z
MIDNIGHT = 1780790400.0
HOUR, DAY = 3600.0, 86400.0


def test_a_time_has_milliseconds() -> None:
    assert rfc3339(1780828245.9996) == "2026-06-07T10:30:45.999Z"


def test_a_record_has_whole_seconds_as_the_go_program_does() -> None:
    assert rfc3339(1780828245.999, "seconds") == "2026-06-07T10:30:45Z"


def test_none_stays_none() -> None:
    assert rfc3339(None) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-06-07T10:30:45Z", NOW - 0.5),
        ("2026-06-07t10:30:45.250z", NOW - 0.25),
        ("2026-06-07T10:30:45.123456789Z", NOW - 0.5 + 0.123456),
        ("2026-06-07 10:30", NOW - 45.5),
        ("2026-06-07T12:30:45+02:00", NOW - 0.5),
        ("2026-06-07T12:30:45 02:00", NOW - 0.5),  # its "+" was not escaped in a URL
        ("2026-06-07T05:30:45-0500", NOW - 0.5),
        ("2026-06-07", MIDNIGHT),
        ("20260607", MIDNIGHT),
        ("1970-01-01", 0.0),
        ("now", NOW),
        ("Today", MIDNIGHT),
        (" yesterday ", MIDNIGHT - DAY),
        ("2h", NOW - 2 * HOUR),
        ("-2h", NOW - 2 * HOUR),
        ("2h ago", NOW - 2 * HOUR),
        ("2 hours ago", NOW - 2 * HOUR),
        ("1 minute ago", NOW - 60),
        ("1h30m", NOW - 1.5 * HOUR),
        ("1.5h", NOW - 1.5 * HOUR),
        ("3d", NOW - 3 * DAY),
        ("1w 2d", NOW - 9 * DAY),
        ("0s", NOW),
        ("2026-06-07T10:31:30Z", NOW),  # written by a clock that is ahead
    ],
)
def test_a_time_is_read_as_people_write_it(text: str, expected: float) -> None:
    assert parse_time(text, NOW) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2",
        "2y",
        "h",
        "2h2",
        "--2h",
        "-2h ago",
        "in 2h",
        "2026",
        "2026-13-01",
        "2026-06-07T25:00Z",
        "٢h",
        "2026-06-07T10:30:45+99:00",
        "2h" * 60,
        "2h\x00",
        "yesterday\x1b[31m",
        "1e3s",
        "now ago",
    ],
)
def test_an_invalid_time_says_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as 2026-11-24T12:00:00Z") as refused:
        parse_time(text, NOW)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("text", ["1969-12-31", "0001-01-01T00:00:00+23:59", "999999999w", "3000w"])
def test_a_time_before_1970_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="years 1970 to 9999"):
        parse_time(text, NOW)


@pytest.mark.parametrize("text", ["2026-06-07T10:32:00Z", "2026-06-08", "9999-12-31T23:59:59-23:59"])
def test_a_time_in_the_past_cannot_be_future(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time in the past"):
        parse_time(text, NOW)


def test_a_future_time_is_read_where_allowed() -> None:
    assert parse_time("2026-06-08", NOW, future=True) == MIDNIGHT + DAY
    with pytest.raises(ValueError, match="years 1970 to 9999"):
        parse_time("9999-12-31T23:59:59-23:59", NOW, future=True)


@pytest.mark.parametrize(
    ("text", "expected"), [("7d", NOW + 7 * DAY), ("2 weeks", NOW + 14 * DAY), ("2026-06-08", MIDNIGHT + DAY)]
)
def test_an_end_is_a_duration_or_a_time(text: str, expected: float) -> None:
    assert parse_end(text, NOW) == expected


@pytest.mark.parametrize("text", ["soon", "", "-7d", "7d ago", "yesterday"])
def test_an_invalid_end_says_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match='expected a duration such as "7d", or a time such as'):
        parse_end(text, NOW)


@given(st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30)), st.integers(-1439, 1439))
def test_any_iso_time_is_read_as_the_moment_it_is(moment: datetime, offset: int) -> None:
    there = moment.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=offset)))
    assert parse_time(there.isoformat(), NOW, future=True) == moment.replace(tzinfo=UTC).timestamp()


@given(st.floats(0, NOW))
def test_rfc3339_times_are_read_to_the_millisecond(time: float) -> None:
    assert parse_time(rfc3339(time), NOW) == pytest.approx(time, abs=0.0011)


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[-0-9wdhms ago:TZ.+]{0,40}", fullmatch=True)))
def test_any_text_is_a_time_of_the_past_or_refused_in_one_line(text: str) -> None:
    try:
        time: float | str = parse_time(text, NOW)
    except ValueError as error:
        time = str(error)
    assert time.isprintable() if isinstance(time, str) else 0 <= time <= NOW


@given(st.floats(min_value=1.5e9, max_value=NOW - 2))
def test_a_placement_exists_at_its_printed_start_time(since: float) -> None:
    for text, cut in ((rfc3339(since), 0.001), (rfc3339(since, "seconds"), 1.0)):
        at = parse_time(text, NOW, latest=True)
        assert since <= at < since + cut
        assert parse_time(as_of(at), NOW, latest=True) == at  # as the links of a page give it back


@pytest.mark.parametrize("text", ["2026-06-07T10:30:45Z", "2026-06-07T10:30:45.490Z", "2026-06-07T10:30:44.000Z"])
def test_a_requested_time_is_shown_as_entered(text: str) -> None:
    assert as_of(parse_time(text, NOW + 2, latest=True)) == text
    assert parse_time("2026-06-07", NOW, latest=True) == pytest.approx(MIDNIGHT, abs=1e-6)
    assert parse_time(text, parse_time(text, NOW), latest=True) == parse_time(text, NOW)  # not later than now
