"""Which document of a log counts: the last whole one, wherever the log begins and ends."""

import datetime
import itertools
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.collect.printed import Log, find_last, last_line

PROLOG = [b'<?xml version="1.0" ?>', b'<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">']
START = 1_790_000_000.0


def stamp(at: float) -> bytes:
    written = datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return f"{written}789Z".encode()


def printed(at: float, *lines: bytes, end: bytes = b"\n", pace: float = 1e-3) -> bytes:
    """Lines as the kubelet sends them, printed one after the other."""
    return b"".join(stamp(at + index * pace) + b" " + line + end for index, line in enumerate(lines))


def lines_of(name: str, *, around: tuple[bytes, ...] = (), process: bytes = b"python") -> list[bytes]:
    gpu = [b"\t<gpu>", f"\t\t<uuid>GPU-{name}</uuid>".encode()]
    process_lines = b"<process_name>" + process + b"</process_name>"
    inside = [b"<processes>", *process_lines.split(b"\n"), b"</processes>", b"\t</gpu>"]
    return [*around, *PROLOG, b"<nvidia_smi_log>", *gpu, *inside, b"</nvidia_smi_log>"]


def document(at: float, name: str, **options: object) -> bytes:
    return printed(at, *lines_of(name, **options))  # type: ignore[arg-type]


def name_in(log: Log) -> str | None:
    if log.last is None:
        return None
    (name,) = {part.split(b"<")[0].decode() for part in log.last.output.split(b"<uuid>GPU-")[1:]}
    return name


class TestLastLines:
    def test_a_last_line_is_identified_by_its_time(self) -> None:
        log = document(START, "a")
        assert last_line(log) == stamp(START + (len(lines_of("a")) - 1) * 1e-3) + b" </nvidia_smi_log>\n"
        assert last_line(log[:-1]) == last_line(log)[:-1]

    @pytest.mark.parametrize("log", [b"", b"\n", b"</nvidia_smi_log>\n", b"2026-11-26T05:00:00Z a\nb\n"])
    def test_a_line_without_a_time_is_not_a_last_line(self, log: bytes) -> None:
        assert last_line(log) == b""


class TestWholeLogs:
    def test_the_last_document_is_used(self) -> None:
        log = find_last(document(START, "a") + document(START + 300, "b"), complete=True)
        assert name_in(log) == "b"
        assert log.last is not None
        assert log.last.time == pytest.approx(START + 300, abs=1e-3)
        assert log.last.stamp == log.newest
        assert log.last.period == pytest.approx(300, abs=1e-3)

    def test_an_incomplete_document_is_not_used(self) -> None:
        begun = document(START + 300, "b")
        log = find_last(document(START, "a") + begun[: len(begun) // 2], complete=True)
        assert name_in(log) == "a"
        assert log.last is not None
        assert log.last.period is None
        assert log.newest > log.last.stamp
        assert b"uuid" not in log.last.later

    def test_lines_of_other_programs_are_excluded(self) -> None:
        others = printed(START, b"sleeping", b"<html>", b"nothing")
        log = find_last(others + document(START + 300, "a") + printed(START + 400, b"bye"), complete=True)
        assert name_in(log) == "a"
        assert log.last is not None
        assert log.last.later.strip() == b"bye"
        assert b"html" not in log.last.output

    def test_warnings_of_the_same_run_are_included(self) -> None:
        lines = lines_of("a", around=(b"WARNING: infoROM is corrupted at gpu 0000:18:00.0",))
        lines.insert(5, b"WARNING: between")
        log = find_last(document(START, "z") + printed(START + 300, *lines, b"WARNING: after"), complete=True)
        assert log.last is not None
        assert log.last.output.count(b"WARNING") == 3
        assert log.last.later == b""

    def test_messages_of_an_earlier_run_are_excluded(self) -> None:
        failed = printed(START, b"Unable to determine the device handle for GPU0: 0000:18:00.0: Unknown Error")
        log = find_last(failed + document(START + 300, "a"), complete=True)
        assert log.last is not None
        assert b"Unable" not in log.last.output

    def test_crlf_and_undecodable_bytes_are_kept(self) -> None:
        lines = lines_of("a", process=b"\xff\xfe\x00")
        log = find_last(printed(START, *lines, end=b"\r\n"), complete=True)
        assert name_in(log) == "a"
        assert log.last is not None
        assert b"\xff\xfe\x00" in log.last.output

    def test_a_document_in_one_line_is_used(self) -> None:
        log = find_last(printed(START, b"".join(lines_of("a"))), complete=True)
        assert name_in(log) == "a"

    def test_times_may_go_back(self) -> None:
        log = find_last(document(START, "a") + document(START - 4000, "b"), complete=True)
        assert name_in(log) == "b"

    def test_lines_may_be_without_a_time(self) -> None:
        log = find_last(b"\n".join(lines_of("a")) + b"\n", complete=True)
        assert name_in(log) == "a"
        assert log.last is not None
        assert (log.last.time, log.last.stamp) == (None, "")

    @pytest.mark.parametrize("log", [b"", b"\n\n", printed(START, b"waiting"), b"\x00\xff" * 100, b"</nvidia_smi_log>"])
    def test_a_log_without_a_document_gives_none(self, log: bytes) -> None:
        assert find_last(log, complete=True).last is None

    def test_the_message_of_a_failed_command_is_kept(self) -> None:
        log = find_last(printed(START, b"sh: nvidia-smi: not found"), complete=True)
        assert log.text.strip() == b"sh: nvidia-smi: not found"


class TestNamesOfProcesses:
    """A tenant of the node chooses them, and so may put a whole document into one."""

    FAKE = b"\n".join([b"evil</process_name>", *lines_of("fake"), b"<process_name>"])

    @pytest.mark.parametrize("complete", [True, False])
    def test_a_document_in_a_process_name_is_ignored(self, complete: bool) -> None:
        log = document(START, "a") + document(START + 300, "b", process=self.FAKE)
        last = find_last(log, complete=complete).last
        assert last is not None
        assert last.output.startswith(PROLOG[0])
        assert last.output.index(b"GPU-b") < last.output.index(b"GPU-fake")

    def test_it_is_ignored_when_the_log_begins_inside_it(self) -> None:
        log = document(START, "b", process=self.FAKE)
        rest = log[log.index(b"evil") :]
        assert find_last(rest, complete=True).last is None

    def test_a_process_name_is_not_a_message_of_the_command(self) -> None:
        begun = lines_of("b", process=b"\nUnable to determine the device handle for GPU0: 0000:18:00.0\n")[:-2]
        failed = printed(START + 600, b"Unable to determine the device handle for GPU1: 0000:19:00.0: Unknown Error")
        log = document(START, "a") + printed(START + 300, *begun) + failed
        last = find_last(log, complete=True).last
        assert last is not None
        assert b"GPU0" not in last.later
        assert b"GPU1" in last.later

    def test_an_end_tag_in_a_process_name_is_ignored(self) -> None:
        begun = document(START, "a", process=b"x</nvidia_smi_log>")
        assert find_last(begun[: begun.rindex(b"\t</gpu>")], complete=True).last is None

    def test_documents_without_a_pause_are_taken_as_one(self) -> None:
        last = find_last(document(START, "a") + document(START + 1, "b"), complete=True).last
        assert last is not None
        assert last.output.index(b"GPU-a") < last.output.index(b"GPU-b")

    def test_the_next_document_is_used(self) -> None:
        log = document(START, "a", process=self.FAKE) + document(START + 300, "b")
        assert name_in(find_last(log, complete=True)) == "b"


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[tuple[str, bytes]], bytes, int, int]:
    """What a pod has printed, in pieces by name (empty: no document), with all of it, and where it is cut."""
    pieces: list[tuple[str, bytes]] = []
    at = START
    for number in range(draw(st.integers(0, 4))):
        at += draw(st.sampled_from([60.0, 300.0, -5000.0]))
        name = f"n{number}"
        kind = draw(st.sampled_from(["document", "document", "noisy", "text", "cut"]))
        if kind == "text":
            pieces.append(("", printed(at, *draw(st.lists(st.sampled_from([b"hello", b"<b>", b""]), max_size=3)))))
            continue
        lines = lines_of(name, around=(b"warning",) if kind == "noisy" else ())
        if kind == "cut":
            pieces.append(("", printed(at, *lines[: draw(st.integers(0, len(lines) - 1))])))
        else:
            pieces.append((name, printed(at, *lines)))
    log = b"".join(piece for _, piece in pieces)
    begin = draw(st.integers(0, len(log)))
    return pieces, log, begin, draw(st.integers(begin, len(log)))


@given(logs(), st.booleans())
@example(([("a", document(START, "a"))], document(START, "a"), 0, len(document(START, "a"))), False)
def test_a_log_cut_anywhere_has_its_last_whole_document_or_none(
    made: tuple[list[tuple[str, bytes]], bytes, int, int], complete: bool
) -> None:
    pieces, log, begin, end = made
    ends = list(itertools.accumulate(len(piece) for _, piece in pieces))
    inside = [
        (name, ends[index] - len(piece))
        for index, (name, piece) in enumerate(pieces)
        if name and ends[index] - len(piece) >= begin and ends[index] <= end
    ]
    found = name_in(find_last(log[begin:end], complete=complete))
    # What is cut at its very beginning or end may be whole all the same: a prolog, a warning, a line feed.
    names = [name for name, _ in pieces if name]
    if found is not None and (not inside or found != inside[-1][0]):
        assert found in names[names.index(inside[-1][0]) + 1 :] if inside else found in names
        piece = dict(pieces)[found]
        assert piece[piece.index(b"<nvidia_smi_log>") : piece.index(b"</nvidia_smi_log>")] in log[begin:end]
    elif found is None and inside:
        # The first one counts only after a line of before, or where nothing can have been before it.
        assert len(inside) == 1
        assert begin == inside[0][1] or b"\n" not in log[begin : inside[0][1] - 1] or not complete


@pytest.mark.parametrize(
    "log",
    [
        b"\n".join([stamp(START) + b" <nvidia_smi_log>", stamp(START) + b" <process_name>"] * 60_000),
        b"<nvidia_smi_log>" * 400_000,
        (stamp(START) + b" <nvidia_smi_log>" + b" " * 1000) * 5000,
        b"<!x>" * 1_000_000 + b"<nvidia_smi_log>",
        (b"</nvidia_smi_log>" + b" " * 100) * 50_000,
        stamp(START) + b"\n" * 4_000_000 + b"<nvidia_smi_log>\n</nvidia_smi_log>" + b"\n" * 1_000_000,
    ],
    ids=["lines", "roots", "one line", "prolog", "ends", "empty lines"],
)
@pytest.mark.parametrize("complete", [True, False])
def test_a_hostile_log_takes_little_time(log: bytes, complete: bool) -> None:
    started = time.thread_time()
    find_last(log, complete=complete)
    assert time.thread_time() - started < 3
