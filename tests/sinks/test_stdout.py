import json
import os
import select
import socket
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from collector.config.sinks import StdoutSettings
from collector.model import SinkRecord
from collector.sinks import UnavailableError, open_sink
from collector.sinks.sink import RedactingSink
from collector.sinks.stdout import StdoutSink

pytestmark = pytest.mark.anyio
MakeRecord = Callable[..., SinkRecord]


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    read, write = os.pipe()
    with FileIO(read, "r") as reader, FileIO(write, "w") as writer:
        yield reader, writer


async def test_each_record_is_one_line_of_json(pipe: tuple[FileIO, FileIO], record: MakeRecord) -> None:
    await StdoutSink("out", pipe[1].fileno()).send([record(), record(1, model="two\nlines")], key="k")
    first, second = os.read(pipe[0].fileno(), 65536).decode().splitlines()
    assert first == (
        '{"cluster":"prod","node":"gpu-node-01","machine":"i-0abc",'
        '"source":"gpu-operator/nvidia-device-plugin-abc12","chassis":"1821325191344","gpu":"1761025346025",'
        '"time":"2026-06-07T10:30:45Z","uuid":"GPU-00000000","model":"NVIDIA GB200","event":"appeared",'
        '"changes":null,"last_known":null,"mark":null}'
    )
    assert json.loads(second)["model"] == "two\nlines"


async def test_a_full_pipe_neither_blocks_nor_splits_lines(pipe: tuple[FileIO, FileIO], record: MakeRecord) -> None:
    sink = StdoutSink("out", pipe[1].fileno())
    batch = [record(number) for number in range(2000)]  # far more than a pipe holds
    with anyio.move_on_after(0.3) as scope:
        await sink.send(batch, key="k")
    assert scope.cancelled_caught

    received = bytearray()

    def drain() -> None:
        while chunk := os.read(pipe[0].fileno(), 65536):
            received.extend(chunk)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, drain)
        await sink.send(batch, key="k")
        pipe[1].close()
    lines = [json.loads(line)["gpu"] for line in received.splitlines()]
    assert lines[-2000:] == [one.gpu for one in batch]  # whole, after what the first try got through
    assert lines[: len(lines) - 2000] == [one.gpu for one in batch][: len(lines) - 2000]


async def test_every_write_holds_whole_lines(record: MakeRecord) -> None:
    long = record(100, model="x" * 2 * select.PIPE_BUF)  # which no single write can hold
    batch = [*map(record, range(100)), long, *map(record, range(100))]
    writes: list[bytes] = []
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps the writes apart

    def drain() -> None:
        writes.extend(iter(lambda: reader.recv(1 << 20), b""))

    with reader, writer:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, drain)
            await StdoutSink("out", writer.fileno()).send(batch, key="k")
            writer.shutdown(socket.SHUT_WR)
    assert len([write for write in writes if not write.endswith(b"\n")]) == 2  # of the long line
    assert max(map(len, writes)) <= select.PIPE_BUF
    assert len(writes) < 30
    assert [json.loads(line)["gpu"] for line in b"".join(writes).splitlines()] == [one.gpu for one in batch]


async def test_a_closed_pipe_is_unavailable(pipe: tuple[FileIO, FileIO], record: MakeRecord) -> None:
    pipe[0].close()
    with pytest.raises(UnavailableError, match=r"sinks\.out: standard output: broken pipe"):
        await StdoutSink("out", pipe[1].fileno()).send([record()], key="k")


async def test_a_file_is_written_to_and_check_writes_nothing(tmp_path: Path, record: MakeRecord) -> None:
    descriptor = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
    sink = StdoutSink("out", descriptor)
    assert await sink.check() == "writes to a file"
    await sink.send([], key="k")
    assert (tmp_path / "out").read_bytes() == b""
    await sink.send([record()], key="k")
    assert (tmp_path / "out").read_bytes().count(b"\n") == 1
    os.close(descriptor)
    with pytest.raises(UnavailableError, match="bad file descriptor"):
        await sink.check()
    await sink.aclose()


async def test_a_full_disk_is_unavailable(record: MakeRecord) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(UnavailableError, match="no space left on device"):
            await StdoutSink("out", descriptor).send([record()], key="k")
    finally:
        os.close(descriptor)


async def test_settings_open_the_standard_output_of_the_process() -> None:
    sink = open_sink("out", StdoutSettings())
    assert isinstance(sink, RedactingSink)
    assert isinstance(sink.sink, StdoutSink)
