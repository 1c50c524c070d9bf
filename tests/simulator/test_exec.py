"""Exec over WebSocket and SPDY, as kubelets and API servers do it."""

import asyncio
import json
import struct
import urllib.parse
import zlib
from typing import Any

import aiohttp
import anyio
import pytest

from collector.collect import nvidia_smi
from collector.simulator import ExecFaultKind, Simulator
from collector.simulator.spdy import DICTIONARY
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

SUCCESS = {"metadata": {}, "status": "Success"}


def uuids(output: bytes) -> set[str | None]:
    return {gpu.uuid for gpu in nvidia_smi.parse(output).gpus}


class TestOverWebSocket:
    @pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io"])
    async def test_nvidia_smi_prints_the_truth(self, api: Any, simulator: Simulator, protocol: str) -> None:
        async with api.socket("gpu-0001", protocols=(protocol,)) as socket:
            assert socket.protocol == protocol
            output = b""
            async for message in socket:
                if message.data[0] == 1:
                    output += message.data[1:]
                else:
                    assert message.data[0] == 3
                    assert json.loads(message.data[1:]) == SUCCESS
            assert socket.close_code == 1000
        assert uuids(output) == {gpu.uuid for gpu in simulator.fleet.expected("sim-0") if gpu.node == "gpu-0001"}

    async def test_the_newest_common_protocol_is_used(self, api: Any) -> None:
        offered = ("v5.channel.k8s.io", "v4.channel.k8s.io")
        async with api.socket("gpu-0000", protocols=offered) as socket:
            assert socket.protocol == "v5.channel.k8s.io"

    async def test_it_greets_with_an_empty_message(self, api: Any) -> None:
        async with api.socket("gpu-0000") as socket:
            assert await socket.receive_bytes() == b"\x01"

    async def test_pings_are_answered(self, api: Any) -> None:
        api.cluster.hang_exec()
        async with api.session.ws_connect(
            api.exec_path("gpu-0000"), protocols=("v5.channel.k8s.io",), autoping=False
        ) as socket:
            await socket.receive_bytes()
            await socket.ping(b"x")
            assert (await socket.receive()).type is aiohttp.WSMsgType.PONG

    @pytest.mark.parametrize(
        "command",
        [
            ("nvidia-smi", "-q", "-x"),
            ("/usr/bin/nvidia-smi", "-q", "-x"),
            ("sh", "-c", "nvidia-smi -q -x"),
            ("/bin/bash", "-c", "exec nvidia-smi -q -x"),
        ],
    )
    async def test_nvidia_smi_can_be_called_in_many_ways(self, api: Any, command: tuple[str, ...]) -> None:
        stdout, stderr, status = await api.run("gpu-0000", *command)
        assert (len(uuids(stdout)), stderr, status) == (4, b"", SUCCESS)

    async def test_an_unknown_program_is_the_runtimes_error(self, api: Any) -> None:
        _, _, status = await api.run("gpu-0000", "nvidia-smo")
        assert (status["reason"], status["code"]) == ("InternalError", 500)
        assert 'exec: "nvidia-smo": executable file not found in $PATH' in status["message"]

    async def test_an_unknown_program_in_a_shell_is_the_shells_error(self, api: Any) -> None:
        _, stderr, status = await api.run("gpu-0000", "sh", "-c", "nvidia-smo -q")
        assert stderr == b"sh: 1: nvidia-smo: not found\n"
        assert status["reason"] == "NonZeroExitCode"
        assert status["details"] == {"causes": [{"reason": "ExitCode", "message": "127"}]}

    async def test_a_container_without_the_program_lacks_it(self, api: Any) -> None:
        [pod] = (await api.get("/api/v1/pods", labelSelector="app=gpu-operator"))["items"]
        path = f"/api/v1/namespaces/gpu-operator/pods/{pod['metadata']['name']}/exec?command=nvidia-smi&stdout=1"
        async with api.session.ws_connect(path, protocols=("v5.channel.k8s.io",)) as socket:
            messages = [message.data async for message in socket]
        assert b"executable file not found" in messages[-1]

    async def test_a_stream_that_is_not_asked_for_is_not_sent(self, api: Any) -> None:
        api.cluster.fail_exec()
        assert (await api.run("gpu-0000", stderr="false"))[1] == b""


class TestRefusals:
    @pytest.mark.parametrize(
        ("query", "code", "message"),
        [
            ({"container": "other"}, 400, "container other is not valid for pod "),
            ({"stdout": "false", "stderr": "false"}, 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ],
    )
    async def test_a_bad_request_is_a_status(self, api: Any, query: dict[str, str], code: int, message: str) -> None:
        status = await api.refused(api.exec_path("gpu-0000", **query))
        assert (status["code"], status["message"][: len(message)]) == (code, message)

    async def test_an_absent_pod_is_not_found(self, api: Any) -> None:
        path = api.exec_path("gpu-0000").replace("daemonset-", "daemonset-x")
        assert (await api.refused(path))["code"] == 404

    async def test_a_request_without_upgrade_is_bad(self, api: Any) -> None:
        assert (await api.refused(api.exec_path("gpu-0000")))["message"] == "Upgrade request required"

    async def test_other_protocols_are_refused(self, api: Any) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with api.socket("gpu-0000", protocols=("v9.channel.k8s.io",)):
                pass
        assert refused.value.status == 400

    @pytest.mark.parametrize("verb", ["get", "create"])
    async def test_it_needs_both_get_and_create(self, api: Any, verb: str) -> None:
        api.cluster.deny(verb, "pods/exec")
        status = await api.refused(api.exec_path("gpu-0000"))
        assert (status["code"], status["reason"]) == (403, "Forbidden")
        assert f'cannot {verb} resource "pods/exec"' in status["message"]

    async def test_a_stopped_container_has_no_exec(self, api: Any) -> None:
        api.cluster.objects.stop_pod("gpu-0000")
        status = await api.refused(api.exec_path("gpu-0000"))
        assert status["message"].endswith('container not found ("nvidia-device-plugin")')


class TestWhatGoesWrong:
    async def test_an_exit_status_is_sent_with_stderr(self, api: Any) -> None:
        api.cluster.fail_exec(exit_status=15, stderr="no driver\n")
        stdout, stderr, status = await api.run("gpu-0000")
        assert (stdout, stderr) == (b"", b"no driver\n")
        assert status["details"]["causes"] == [{"reason": "ExitCode", "message": "15"}]
        assert status["message"] == (
            "command terminated with non-zero exit code: error executing command [nvidia-smi -q -x], exit code 15"
        )

    @pytest.mark.parametrize(
        "how", [ExecFaultKind.GARBAGE, ExecFaultKind.TRUNCATED, ExecFaultKind.EMPTY, ExecFaultKind.ERROR_TEXT]
    )
    async def test_bad_output_is_sent_with_success(self, api: Any, how: ExecFaultKind) -> None:
        api.cluster.fail_exec(how)
        stdout, _, status = await api.run("gpu-0000")
        assert status == SUCCESS
        with pytest.raises(nvidia_smi.BadOutputError):
            nvidia_smi.parse(stdout)

    async def test_a_missing_binary_looks_like_on_a_real_node(self, api: Any) -> None:
        api.cluster.fail_exec(ExecFaultKind.NO_BINARY)
        assert "executable file not found in $PATH" in (await api.run("gpu-0000"))[2]["message"]

    async def test_an_internal_error_is_the_kubelets(self, api: Any) -> None:
        api.cluster.fail_exec(ExecFaultKind.INTERNAL_ERROR)
        assert (await api.run("gpu-0000"))[2]["reason"] == "InternalError"

    async def test_a_dropped_exec_has_no_status(self, api: Any) -> None:
        api.cluster.fail_exec(ExecFaultKind.DROPPED)
        async with api.socket("gpu-0000") as socket:
            channels = [message.data[0] async for message in socket]
        assert 3 not in channels
        assert socket.close_code == 1006

    async def test_a_fault_may_be_limited_in_count_and_nodes(self, api: Any) -> None:
        api.cluster.fail_exec(node="gpu-0000", times=2)
        statuses = [(await api.run("gpu-0000"))[2]["status"] for _ in range(3)]
        assert statuses == ["Failure", "Failure", "Success"]
        api.cluster.fail_exec(node="gpu-0000")
        assert (await api.run("gpu-0001"))[2] == SUCCESS
        api.cluster.heal_exec("gpu-0000")
        assert (await api.run("gpu-0000"))[2] == SUCCESS

    async def test_a_hanging_exec_ends_when_the_client_leaves(self, api: Any) -> None:
        api.cluster.hang_exec("gpu-0000")
        async with api.socket("gpu-0000") as socket:
            await socket.receive_bytes()
            assert api.cluster.counters.open_execs == {"gpu-0000": 1}
        await eventually(lambda: not api.cluster.counters.open_execs)

    @pytest.mark.parametrize("what", ["replace_pod", "restart_container", "reboot_node", "delete_node"])
    async def test_a_container_that_ends_kills_its_commands(self, api: Any, what: str) -> None:
        api.cluster.hang_exec("gpu-0000")
        async with api.socket("gpu-0000") as socket:
            await socket.receive_bytes()
            getattr(api.cluster, what)("gpu-0000")
            *_, last = [message.data async for message in socket]
        assert json.loads(last[1:])["details"]["causes"][0]["message"] == "137"

    async def test_a_slow_exec_takes_longer(self, api: Any) -> None:
        api.cluster.slow_exec(0.2, "gpu-0000")
        started = anyio.current_time()
        await api.run("gpu-0000")
        assert anyio.current_time() - started >= 0.2


class TestCounters:
    async def test_execs_are_counted_by_node(self, api: Any) -> None:
        for node in ("gpu-0000", "gpu-0000", "gpu-0001"):
            await api.run(node)
        assert api.cluster.counters.execs == {"gpu-0000": 2, "gpu-0001": 1}
        assert api.cluster.counters.requests["exec", "pods"] == 3
        assert api.cluster.counters.peak_execs_per_node == 1

    async def test_the_peak_is_kept(self, api: Any) -> None:
        api.cluster.hang_exec()
        async with api.socket("gpu-0000"), api.socket("gpu-0000"), api.socket("gpu-0001"):
            await eventually(lambda: api.cluster.counters.peak_execs == 3)
        await eventually(lambda: not api.cluster.counters.open_execs)
        assert api.cluster.counters.peak_execs_per_node == 2


class SpdyClient:
    """As much of client-go's SPDY executor as an exec needs, with a framing of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.deflate = zlib.compressobj(zdict=DICTIONARY)
        self.inflate = zlib.decompressobj(zdict=DICTIONARY)

    def open(self, stream: int, kind: str) -> None:
        pairs = [(b"streamtype", kind.encode())]
        block = struct.pack(">I", len(pairs))
        for name, value in pairs:
            block += struct.pack(">I", len(name)) + name + struct.pack(">I", len(value)) + value
        data = self.deflate.compress(block) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = struct.pack(">IIH", stream, 0, 0) + data
        self.writer.write(struct.pack(">HHI", 0x8003, 1, len(payload)) + payload)

    async def frames(self) -> Any:
        while True:
            try:
                word, sized = struct.unpack(">II", await self.reader.readexactly(8))
            except asyncio.IncompleteReadError:
                return
            yield word, sized >> 24, await self.reader.readexactly(sized & 0xFFFFFF)


async def spdy(api: Any, node: str, *command: str) -> tuple[dict[int, bytes], set[int], list[int]]:
    """What an exec over SPDY sends: the data of each stream, those that were closed, the streams replied to."""
    url = urllib.parse.urlsplit(api.cluster.url)
    reader, writer = await asyncio.open_connection("127.0.0.1", url.port, ssl=api.context)
    writer.write(
        f"POST {api.exec_path(node, *command)} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
        f"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n"
        f"X-Stream-Protocol-Version: channel.k8s.io\r\nAuthorization: Bearer {api.cluster.token}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\n" in head
    client = SpdyClient(reader, writer)
    for stream, kind in ((1, "error"), (3, "stdout"), (5, "stderr")):
        client.open(stream, kind)
    data: dict[int, bytes] = {1: b"", 3: b"", 5: b""}
    closed: set[int] = set()
    replies = []
    with anyio.fail_after(25):
        async for word, flags, payload in client.frames():
            if not word >> 31:
                data[word] += payload
                if flags & 1:
                    closed.add(word)
            elif word & 0xFFFF == 2:
                replies.append(struct.unpack_from(">I", payload)[0])
                assert client.inflate.decompress(payload[4:]) == struct.pack(">I", 0)
    writer.close()
    return data, closed, replies


class TestOverSpdy:
    async def test_nvidia_smi_prints_the_truth(self, api: Any, simulator: Simulator) -> None:
        data, closed, replies = await spdy(api, "gpu-0001")
        assert uuids(data[3]) == {gpu.uuid for gpu in simulator.fleet.expected("sim-0") if gpu.node == "gpu-0001"}
        assert json.loads(data[1]) == SUCCESS
        assert (closed, replies) == ({1, 3, 5}, [1, 3, 5])

    async def test_failures_are_in_the_error_stream(self, api: Any) -> None:
        data, _, _ = await spdy(api, "gpu-0001", "sh", "-c", "nothing")
        assert data[5] == b"sh: 1: nothing: not found\n"
        assert json.loads(data[1])["reason"] == "NonZeroExitCode"

    async def test_nothing_is_left_open(self, api: Any) -> None:
        for node in ("gpu-0000", "gpu-0001", "gpu-0002"):
            await spdy(api, node)
        await eventually(lambda: not api.cluster.counters.open_execs)
        assert api.cluster.counters.execs.total() == 3
        await eventually(lambda: api.cluster.server.connections.taken_over == 0)
