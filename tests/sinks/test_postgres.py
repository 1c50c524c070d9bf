import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from collector.config import Duration
from collector.config.sinks import PostgresSettings
from collector.model import SinkRecord
from collector.sinks import Reason, RejectedError, SinkError, UnavailableError, open_sink
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]

pytestmark = pytest.mark.anyio
MakeRecord = Callable[..., SinkRecord]

# The Go program's own table, as it documents it.
PEER_TABLE = """
CREATE TABLE serials (
    id BIGSERIAL PRIMARY KEY,
    cluster VARCHAR(255) NOT NULL,
    node VARCHAR(255) NOT NULL,
    machine VARCHAR(255) NOT NULL,
    source VARCHAR(255) NOT NULL,
    chassis VARCHAR(255) NOT NULL,
    gpu VARCHAR(255) NOT NULL,
    read_time TIMESTAMP WITH TIME ZONE NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    UNIQUE (cluster, node, machine, source, chassis, gpu, read_time)
)
"""


@pytest.fixture
async def owner(postgres: Any) -> AsyncIterator[asyncpg.Connection]:
    """Return a connection to a database in which nothing of earlier tests is left."""
    connection = await asyncpg.connect(postgres.url, password=postgres.password)
    await connection.execute("DROP SCHEMA public CASCADE; DROP SCHEMA IF EXISTS lake CASCADE; CREATE SCHEMA public")
    yield connection
    await connection.close()


@asynccontextmanager
async def table(postgres: Any, tmp_path: Path, **settings: Any) -> AsyncIterator[Any]:
    password = tmp_path / "password"
    if not password.exists():
        password.write_text(postgres.password + "\n")
    sink = open_sink("db", PostgresSettings(**({"url": postgres.url, "password_file": password} | settings)))
    try:
        yield sink
    finally:
        await sink.aclose()


async def rows(owner: asyncpg.Connection, columns: str, name: str = "serials") -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await owner.fetch(f"SELECT {columns} FROM {name} ORDER BY id")]


async def test_a_created_table_has_the_go_programs_columns_then_ours(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.send([record(), record(1, chassis="", model='é"\n\t\\N')], key="k")
    found = await owner.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'serials' ORDER BY ordinal_position"
    )
    assert ",".join(row[0] for row in found) == (
        "id,cluster,node,machine,source,chassis,gpu,read_time,created_at,uuid,model,event,mark"
    )
    assert await rows(owner, "cluster, node, machine, source, chassis, gpu, uuid, model, event, read_time::text") == [
        ("prod", "gpu-node-01", "i-0abc", "gpu-operator/nvidia-device-plugin-abc12", "1821325191344", "1761025346025",
         "GPU-00000000", "NVIDIA GB200", "appeared", "2026-06-07 10:30:45+00"),
        ("prod", "gpu-node-01", "i-0abc", "gpu-operator/nvidia-device-plugin-abc12", "unknown", "1761025346026",
         "GPU-00000001", 'é"\n\t\\N', "appeared", "2026-06-07 10:30:45+00"),
    ]  # fmt: skip


async def test_a_mark_is_written_if_the_table_has_its_column(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True) as sink:
        changes = {"lost": {"before": False, "after": True}}
        await sink.send([record(mark="rma"), record(1, event="health", changes=changes)], key="k")
    assert await rows(owner, "mark, event") == [("rma", "appeared"), ("", "health")]
    await owner.execute("ALTER TABLE serials DROP COLUMN mark")  # as an earlier version created it
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.send([record(2, mark="rma")], key="k2")
    assert await rows(owner, "gpu, event") == [
        ("1761025346025", "appeared"),
        ("1761025346026", "health"),
        ("1761025346027", "appeared"),
    ]


async def test_a_batch_sent_again_adds_no_row(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.send([record()], key="k")
        await sink.send([record(), record(1)], key="l")
    assert await rows(owner, "uuid") == [("GPU-00000000",), ("GPU-00000001",)]


async def test_two_gpus_of_one_serial_are_two_rows(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.send([record(gpu="1", uuid="a"), record(gpu="1", uuid="b")], key="k")
    assert await rows(owner, "gpu, uuid") == [("1", "a"), ("1", "b")]


async def test_the_go_programs_table_is_written_unchanged(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    await owner.execute(PEER_TABLE)
    twins = [record(gpu="1", uuid="a"), record(gpu="1", uuid="b"), record(gpu="2", chassis="")]
    async with table(postgres, tmp_path) as sink:
        assert await sink.check() == (
            "table serials is writable; it lacks the columns uuid, model, event, which are omitted"
        )
        await sink.send(twins, key="k")
        await sink.send(twins, key="k")
    assert await rows(owner, "gpu, chassis") == [("1", "1821325191344"), ("2", "unknown")]


async def test_names_that_others_gave_may_contain_quotes(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    await owner.execute(PEER_TABLE.replace("    UNIQUE", '    CONSTRAINT "no ""twins"", please" UNIQUE'))
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.send([record(gpu="1", uuid="a"), record(gpu="1", uuid="b")], key="k")
    assert await rows(owner, "gpu, uuid") == [("1", "a"), ("1", "b")]


async def test_the_go_program_s_table_is_migrated_on_request(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    await owner.execute(PEER_TABLE)
    insert = (
        "INSERT INTO serials (cluster, node, machine, source, chassis, gpu, read_time, created_at) "
        "VALUES ('prod', 'n', 'm', 's', 'unknown', '9', '2026-01-01', now())"
    )
    await owner.execute(insert)
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.send([record(gpu="1", uuid="a"), record(gpu="1", uuid="b")], key="k")
    await owner.execute(insert.replace("'9'", "'8'"))  # the Go program may keep writing
    assert await rows(owner, "gpu, uuid, event") == [
        ("9", "", ""),
        ("1", "a", "appeared"),
        ("1", "b", "appeared"),
        ("8", "", ""),
    ]


async def test_collectors_that_start_together_create_the_table_once(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async def one(number: int) -> None:
        async with table(postgres, tmp_path, create_table=True) as sink:
            await sink.send([record(number)], key="k")

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(one, number)
    assert len(await rows(owner, "gpu")) == 6


async def test_a_table_may_be_in_a_schema_and_have_capitals(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    await owner.execute("CREATE SCHEMA lake")
    async with table(postgres, tmp_path, table="lake.Gpus", create_table=True) as sink:
        await sink.send([record()], key="k")
        await sink.send([record()], key="k")
    assert len(await rows(owner, "gpu", 'lake."Gpus"')) == 1


async def test_check_leaves_neither_row_nor_table(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True) as sink:
        assert await sink.check() == "table serials is writable"
        assert await owner.fetchval("SELECT to_regclass('serials')") is None
        await sink.send([record()], key="k")
        await sink.check()
    assert len(await rows(owner, "gpu")) == 1


async def test_data_waits_until_a_missing_table_exists(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path) as sink:
        with pytest.raises(UnavailableError, match=r"sinks\.db: table serials does not exist; create it, or") as caught:
            await sink.send([record()], key="k")
        assert caught.value.reason is Reason.MISSING
        await owner.execute("CREATE TABLE serials (gpu text)")
        with pytest.raises(UnavailableError, match="has no column cluster, node"):
            await sink.check()
        await owner.execute("DROP TABLE serials")
        await owner.execute(PEER_TABLE)
        await sink.send([record()], key="k")
        await owner.execute("DROP TABLE serials")
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
        assert caught.value.reason is Reason.MISSING
    async with table(postgres, tmp_path, url=postgres.url.replace("/postgres", "/absent")) as sink:
        with pytest.raises(UnavailableError, match="absent") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.MISSING


async def test_the_insert_right_is_enough_and_none_is_unauthorized(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    await owner.execute(PEER_TABLE)
    await owner.execute("DROP ROLE IF EXISTS writer; CREATE ROLE writer LOGIN PASSWORD 'hunter2-writer'")
    await owner.execute("GRANT USAGE ON SCHEMA public TO writer")
    (tmp_path / "password").write_text("hunter2-writer")
    url = postgres.url.replace("gpuid@", "writer@")
    async with table(postgres, tmp_path, url=url) as sink:
        with pytest.raises(UnavailableError, match="permission denied for table serials") as caught:
            await sink.check()
        assert caught.value.reason is Reason.UNAUTHORIZED
        await owner.execute("GRANT INSERT ON serials TO writer; GRANT USAGE ON SEQUENCE serials_id_seq TO writer")
        await sink.check()
        await sink.send([record()], key="k")
        await sink.send([record(), record(1)], key="l")
    assert len(await rows(owner, "gpu")) == 2


async def test_a_corrected_password_is_used(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "password").write_text("hunter2-wrong")
    async with table(postgres, tmp_path, create_table=True) as sink:
        with pytest.raises(UnavailableError, match="password authentication failed") as caught:
            await sink.send([record()], key="k")
        assert caught.value.reason is Reason.UNAUTHORIZED
        assert "hunter2" not in f"{caught.value!r} {caught.value}" + caplog.text
        (tmp_path / "password").write_text(postgres.password)
        await sink.send([record()], key="k")
        (tmp_path / "password").unlink()
        await sink.send([record(1)], key="l")  # over the connection that is there
        await sink.aclose()
        with pytest.raises(UnavailableError, match=r"sinks\.db\.password_file: .*no such file"):
            await sink.send([record(2)], key="m")
    assert "hunter2" not in caplog.text
    assert len(await rows(owner, "gpu")) == 2


async def test_a_refused_value_rolls_back_the_whole_batch(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True) as sink:
        for hostile in (record(1, node="n" * 256), record(1, node="nul\0"), record(1, time="yesterday")):
            with pytest.raises(RejectedError) as caught:
                await sink.send([record(), hostile], key="k")
            assert caught.value.reason is Reason.REJECTED
        await sink.send([record(2, source="n" * 63 + "/" + "p" * 253)], key="l")
    assert await rows(owner, "uuid") == [("GPU-00000002",)]


async def test_a_lost_connection_is_replaced(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.send([record()], key="k")
        cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'gpuid'"
        assert await owner.fetchval(cut) is True
        try:
            await sink.send([record(1)], key="l")
        except UnavailableError:  # where the cut was noticed only in use
            await sink.send([record(1)], key="l")
    assert len(await rows(owner, "gpu")) == 2


async def test_a_locked_table_times_out_without_an_open_transaction(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    async with table(postgres, tmp_path, create_table=True, statement_timeout=Duration(0.2)) as sink:
        await sink.send([record()], key="k")
        async with owner.transaction():
            await owner.execute("LOCK TABLE serials")
            with pytest.raises(UnavailableError, match="statement timeout") as caught:
                await sink.send([record(1)], key="l")
        assert caught.value.reason is Reason.TIMEOUT
        async with owner.transaction():
            await owner.execute("LOCK TABLE serials")
            with anyio.move_on_after(0.05) as scope:
                await sink.send([record(1)], key="l")
            assert scope.cancelled_caught
        await sink.send([record(1)], key="l")
    assert len(await rows(owner, "gpu")) == 2


async def test_tls_is_required_and_verified_as_configured(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, certificates: Any, record: MakeRecord
) -> None:
    encrypted = (
        "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'gpuid'"
    )
    for settings, tls in (
        ({}, True),
        ({"sslmode": "verify-full", "ca_file": certificates.ca}, True),
        ({"sslmode": "prefer"}, True),
        ({"sslmode": "disable"}, False),
    ):
        async with table(postgres, tmp_path, create_table=True, **settings) as sink:
            await sink.send([record()], key="k")
            assert await owner.fetchval(encrypted) is tls
    async with table(postgres, tmp_path, sslmode="verify-full") as sink:
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.CONNECTION
    async with table(postgres, tmp_path, ca_file=tmp_path / "absent.pem") as sink:
        with pytest.raises(UnavailableError, match=r"sinks\.db\.ca_file: .*absent\.pem: no such file"):
            await sink.send([record()], key="k")


async def test_without_sslmode_a_server_without_tls_gets_nothing(
    postgres_server: PostgresServer, record: MakeRecord
) -> None:
    url = postgres_server.new_database()
    for settings, taken in (
        (PostgresSettings(url=url), False),
        (PostgresSettings(url=url, sslmode="disable", create_table=True), True),
    ):
        sink = open_sink("db", settings)
        try:
            if taken:
                await sink.send([record()], key="k")
            else:
                with pytest.raises(UnavailableError, match="rejected SSL upgrade; enable TLS on the server") as caught:
                    await sink.send([record()], key="k")
                assert caught.value.reason is Reason.MISCONFIGURED
        finally:
            await sink.aclose()


async def test_a_server_that_is_down_or_hangs_is_unavailable(
    postgres: Any, tmp_path: Path, record: MakeRecord, unused_port: int
) -> None:
    async with table(postgres, tmp_path, url=f"postgresql://gpuid@127.0.0.1:{unused_port}/postgres") as sink:
        with pytest.raises(UnavailableError) as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is Reason.CONNECTION

    done = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        url = f"postgresql://gpuid@127.0.0.1:{server.sockets[0].getsockname()[1]}/postgres"
        async with table(postgres, tmp_path, url=url, connect_timeout=Duration(0.2)) as sink:
            with pytest.raises(UnavailableError) as caught:
                await sink.send([record()], key="k")
        done.set()
    assert caught.value.reason is Reason.TIMEOUT


async def test_the_password_may_come_from_the_environment(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", postgres.password)
    settings = {"password_file": None, "password_env": "DB_PASSWORD"}
    async with table(postgres, tmp_path, create_table=True, **settings) as sink:
        await sink.send([record()], key="k")
    assert len(await rows(owner, "gpu")) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("ADD COLUMN site text NOT NULL", Reason.MISCONFIGURED),
        ("ADD CONSTRAINT known FOREIGN KEY (node) REFERENCES nodes", Reason.MISSING),
        ("ALTER COLUMN chassis TYPE date USING NULL", Reason.MISCONFIGURED),
        ("ADD CONSTRAINT short CHECK (length(node) < 5)", Reason.REJECTED),
        ("ALTER COLUMN node TYPE varchar(3)", Reason.REJECTED),
    ],
)
async def test_only_errors_about_a_value_are_permanent(
    change: str, reason: Reason, postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    await owner.execute("DROP TABLE IF EXISTS nodes CASCADE; CREATE TABLE nodes (node text PRIMARY KEY)")
    async with table(postgres, tmp_path, create_table=True) as sink:
        await sink.check()  # which leaves nothing
        await sink.send([record(9, node="")], key="k")
        await owner.execute("TRUNCATE serials")
        await owner.execute(f"ALTER TABLE serials {change}")
        await sink.aclose()
        with pytest.raises(SinkError) as caught:
            await sink.send([record()], key="k")
    assert caught.value.reason is reason
    assert isinstance(caught.value, RejectedError) is (reason is Reason.REJECTED)


async def test_a_missing_partition_is_not_about_the_records(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    await owner.execute(
        "CREATE TABLE parted (cluster text, node text, machine text, source text, chassis text, gpu text, "
        "read_time timestamptz) PARTITION BY RANGE (read_time)"
    )
    try:
        async with table(postgres, tmp_path, table="parted") as sink:
            with pytest.raises(UnavailableError, match="no partition") as caught:
                await sink.send([record()], key="k")
    finally:
        await owner.execute("DROP TABLE parted")
    assert caught.value.reason is Reason.MISSING


async def test_parameters_of_the_url_reach_the_server(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    (tmp_path / "password").write_text(postgres.password)
    url = (
        f"{postgres.url}?application_name=fleet&options=-csearch_path%3Dpg_temp&channel_binding=prefer&gssencmode=disable"
        "&sslnegotiation=postgres&target_session_attrs=read-write&client_encoding=utf8"
    )
    sink = open_sink("db", PostgresSettings(url=url, password_file=tmp_path / "password"))
    with pytest.raises(UnavailableError, match="serials") as caught:
        await sink.check()
    assert caught.value.reason is Reason.MISSING
    await sink.aclose()


async def test_a_hanging_host_is_skipped(
    postgres: Any, owner: asyncpg.Connection, tmp_path: Path, record: MakeRecord
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never answers
        url = postgres.url.replace("@", f"@127.0.0.1:{silent.getsockname()[1]},")
        async with table(postgres, tmp_path, url=url, connect_timeout=Duration(1), create_table=True) as sink:
            await sink.send([record()], key="k")
    assert await rows(owner, "gpu") == [("1761025346025",)]
