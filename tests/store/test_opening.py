"""Opening a store: what is created, what is refused, and the one line that names the remedy."""

import os
import shutil
import socket
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, text

from collector.config.store import PostgresLocation, locate
from collector.model import Gpu, NodeInfo, NodeState, Place
from collector.store import OpenMode, Store, StoreError, StoreSettings, schema
from collector.store.codec import encode_node
from collector.store.files import prepare_folder
from tests.support.old_store import to_first_version

pytestmark = pytest.mark.anyio


async def refusal(settings: StoreSettings, access: OpenMode = OpenMode.COLLECTOR) -> str:
    with pytest.raises(StoreError) as raised:
        async with Store.open(settings, access):
            pass
    message = str(raised.value)
    assert "\n" not in message
    return message


def path_of(settings: StoreSettings) -> Path:
    return Path(settings.url.removeprefix("sqlite://"))


def compared(connection: Connection) -> dict[str, Any]:
    """Return the options that leave out the views of an SQLite file, and the tables from which they are made."""
    parts = {name for _, name in schema.COMPACT_PARTS} if connection.dialect.name == "sqlite" else set()

    def is_compared(one: Any, name: str, kind: str, *_: Any) -> bool:
        return (name if kind == "table" else one.table.name) not in parts

    return {"include_object": is_compared}


class TestTheSchema:
    async def test_the_migrations_lead_to_the_tables_of_the_code(self, settings):
        async with Store.open(settings) as store, store.database.read() as connection:
            differences = await connection.run_sync(
                lambda sync: compare_metadata(
                    MigrationContext.configure(sync, opts={"version_table": schema.VERSION_TABLE, **compared(sync)}),
                    schema.METADATA,
                )
            )
        assert differences == []

    def test_the_newest_migration_is_the_one_the_code_knows(self):
        config = Config()
        config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]

    async def test_a_second_start_opens_the_same_store(self, settings):
        async with Store.open(settings) as store:
            first = store.database.id
        async with Store.open(settings) as store:
            assert store.database.id == first
            assert len(first) == 32

    async def test_a_current_schema_is_not_written_to(self, sqlite_settings):
        async with Store.open(sqlite_settings):
            pass
        before = path_of(sqlite_settings).read_bytes()
        async with Store.open(sqlite_settings):
            assert path_of(sqlite_settings).with_name("gpuid.db-wal").stat().st_size == 0
        assert path_of(sqlite_settings).read_bytes() == before

    async def test_a_newer_schema_is_refused(self, settings):
        async with Store.open(settings) as store, store.database.write() as connection:
            await connection.execute(text("UPDATE gpuid_schema SET version_num = '9999'"))
        for access in OpenMode:
            message = await refusal(settings, access)
            assert message.startswith("store ")
            assert message.endswith(
                f": created by a newer gpuid (schema 9999, this one knows {schema.HEAD}); "
                f"run that version, let it run `gpuid store downgrade --to {schema.HEAD}`, or choose another store.url"
            )

    async def test_records_of_an_older_version_are_read(self, settings):
        gpu = Gpu(uuid="GPU-1", serial="S")
        node = NodeState(place=Place("prod", "a"), node=NodeInfo(name="a"), time=5.0, gpus=(gpu,), since=(1.0,))
        async with Store.open(settings) as store, store.database.write() as connection:
            await connection.execute(
                insert(schema.nodes).values(
                    {"cluster": "prod", "node": "a", "read_at": 5.0, "snapshot": encode_node(node)}
                )
            )
            await to_first_version(connection)
            for statement in (
                "INSERT INTO gpuid_changes (time, event, uuid, serial, cluster, node, machine, source) "
                "VALUES (5.0, 'altered', 'GPU-1', 'S', 'prod', 'a', '', 'x/y')",
                "INSERT INTO gpuid_placements (uuid, serial, cluster, node, machine, since) "
                "VALUES ('GPU-1', 'S', 'prod', 'a', '', 1.0)",
                "INSERT INTO gpuid_ghosts (uuid, cluster, node) VALUES ('GPU-2', 'prod', 'a')",
            ):
                await connection.execute(text(statement))
        async with Store.open(settings) as store:
            (change,) = await store.history.changes()
            assert (change.event, change.changes, change.last_known) == ("altered", (), ())
            (placement,) = await store.history.where("S")
            assert (placement.last_known, placement.altered) == ((), ())
            remembered = await store.load()
            assert (remembered.nodes, remembered.absent, remembered.facts) == (
                [node],
                {"GPU-2": Place("prod", "a")},
                {},
            )

    async def test_collectors_that_start_together_on_postgres_find_the_tables(self, postgres_server):
        settings = StoreSettings(url=postgres_server.new_database())
        found = set()

        async def start():
            async with Store.open(settings) as store:
                found.add(store.database.id)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(start)
        assert len(found) == 1


ADVICE = "; give this user write permission there, or choose another store.url"


class TestTheFile:
    async def test_its_folder_must_exist(self, tmp_path):
        settings = StoreSettings(url=f"sqlite://{tmp_path}/a/b/gpuid.db")
        assert await refusal(settings) == (
            f"store {tmp_path}/a/b/gpuid.db: the directory {tmp_path}/a/b does not exist; create it or fix store.url"
        )
        assert list(tmp_path.iterdir()) == []

    def test_the_default_folder_is_created(self, tmp_path):
        own = tmp_path / "var/lib/gpuid"
        prepare_folder(own / "gpuid.db", own=own)
        assert own.is_dir()

    async def test_it_uses_the_write_ahead_log(self, sqlite_settings):
        async with Store.open(sqlite_settings) as store, store.database.read() as connection:
            modes = [await connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")]
        assert modes == ["wal", 1]

    @pytest.mark.parametrize("kind", ["a directory", "not a regular file"])
    async def test_a_path_that_is_not_a_file_is_refused_unchanged(self, sqlite_settings, kind):
        path = path_of(sqlite_settings)
        path.mkdir() if kind == "a directory" else os.mkfifo(path)
        for access in OpenMode:
            assert await refusal(sqlite_settings, access) == (f"store {path}: is {kind}; choose another store.url")
        assert [found.name for found in path.parent.iterdir()] == ["gpuid.db"]

    async def test_an_obstacle_to_its_lock_is_named(self, sqlite_settings):
        lock = path_of(sqlite_settings).with_name("gpuid.db.lock")
        lock.mkdir()
        assert await refusal(sqlite_settings) == (
            f"store {path_of(sqlite_settings)}: {lock} is not a regular file and cannot be the lock file; move it away"
        )

    async def test_a_link_into_a_missing_folder_is_reported(self, sqlite_settings, tmp_path):
        path = path_of(sqlite_settings)
        path.symlink_to(tmp_path / "absent" / "gpuid.db")
        assert await refusal(sqlite_settings) == (
            f"store {path}: the directory {tmp_path}/absent does not exist; create it or fix store.url"
        )

    async def test_a_link_to_itself_is_reported(self, sqlite_settings):
        path = path_of(sqlite_settings)
        path.symlink_to(path)
        assert await refusal(sqlite_settings) == f"store {path}: it is a symbolic link to itself; fix store.url"

    async def test_another_programs_database_is_refused_unchanged(self, sqlite_settings):
        path = path_of(sqlite_settings)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE music (title TEXT)")
        path.chmod(0o644)
        before = path.read_bytes()
        assert await refusal(sqlite_settings) == (
            f"store {path}: it is another program's database; choose another store.url"
        )
        assert path.read_bytes() == before
        assert path.stat().st_mode & 0o777 == 0o644  # its readers are not locked out

    async def test_a_second_collector_is_refused(self, sqlite_settings):
        async with Store.open(sqlite_settings):
            assert await refusal(sqlite_settings) == (
                f"store {path_of(sqlite_settings)}: in use by another gpuid (pid {os.getpid()}); "
                "stop that one, or choose another store.url"
            )
        async with Store.open(sqlite_settings):
            pass

    async def test_a_second_collector_is_refused_under_any_file_name(self, sqlite_settings, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "link.db").symlink_to(path_of(sqlite_settings))
        linked = StoreSettings(url=f"sqlite://{tmp_path}/elsewhere/link.db")
        async with Store.open(sqlite_settings):
            assert "in use by another gpuid (pid" in await refusal(linked)
        async with Store.open(linked):
            assert "in use by another gpuid (pid" in await refusal(sqlite_settings)

    async def test_a_path_below_a_file_is_reported(self, tmp_path):
        (tmp_path / "file").write_text("")
        url = f"sqlite://{tmp_path}/file/gpuid.db"
        assert await refusal(StoreSettings(url=url)) in (
            f"store {tmp_path}/file/gpuid.db: File exists" + ADVICE,
            f"store {tmp_path}/file/gpuid.db: Not a directory" + ADVICE,
        )

    async def test_a_reader_needs_a_file_and_writes_nothing(self, sqlite_settings, collecting):
        path = path_of(sqlite_settings)
        assert await refusal(sqlite_settings, OpenMode.READER) == (
            f"store {path}: no such file; the collector creates it at its first start"
        )
        async with collecting(sqlite_settings) as one:
            one.read("a", 10.0, "1")
            await one.store.history_writer.flushed(10)
            async with Store.open(sqlite_settings, OpenMode.READER) as reader:  # alongside the collector
                assert len(await reader.history.where("GPU-1")) == 1
                with pytest.raises(StoreError, match="opened read-only"):
                    await reader.outbox.drop([1])
        async with Store.open(sqlite_settings, OpenMode.READER) as reader:
            assert len(await reader.history.where("serial-1")) == 1

    def test_a_file_in_a_read_only_folder_can_be_read(self, anyio_backend):
        folder = Path(tempfile.mkdtemp(prefix="gpuid-store-", dir="/tmp"))
        settings = StoreSettings(url=f"sqlite://{folder}/gpuid.db")

        async def count(access: OpenMode) -> int:
            async with Store.open(settings, access) as store:
                return len(await store.history.changes())

        try:
            anyio.run(count, OpenMode.COLLECTOR)
            if os.geteuid() == 0:
                for file in folder.iterdir():
                    os.chown(file, 65534, 65534)
            folder.chmod(0o555)
            if (child := os.fork()) == 0:
                status = 9
                try:
                    if os.geteuid() == 0:  # who may write everywhere
                        os.setgid(65534)
                        os.setuid(65534)
                    status = anyio.run(count, OpenMode.READER)
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            folder.chmod(0o755)
            shutil.rmtree(folder)


class TestPostgres:
    async def test_an_unreachable_server_is_reported_without_the_password(self):
        settings = StoreSettings(url="postgresql://gpuid:hunter2@127.0.0.1:1/fleet")
        message = await refusal(settings)
        assert message.startswith("store postgresql://gpuid@127.0.0.1:1/fleet: cannot reach the server (")
        assert "hunter2" not in message

    async def test_a_host_that_hangs_is_passed_over_for_the_next(self, postgres_server):
        url = postgres_server.new_database()
        with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, and never answers
            hosts = f"@127.0.0.1:{silent.getsockname()[1]},"
            settings = StoreSettings(url=url.replace("@", hosts) + "?connect_timeout=2&target_session_attrs=read-write")
            with anyio.fail_after(60):
                async with Store.open(settings) as store:
                    assert await store.leadership.ask()

    async def test_a_missing_database_is_reported(self, postgres_server):
        url = postgres_server.new_database() + "x"
        assert await refusal(StoreSettings(url=url)) == (
            f'store {url}: database "{url.rpartition("/")[2]}" does not exist; create the database'
        )

    async def test_the_password_may_come_from_a_file(self, postgres_server, tmp_path):
        settings = StoreSettings(url=postgres_server.new_database(), password_file=tmp_path / "password")
        assert await refusal(settings) == (f"store.password_file {tmp_path}/password: no such file or directory")
        (tmp_path / "password").write_text("any, because this server trusts everybody\n")
        async with Store.open(settings) as store:
            assert store.database.id


class TestTheUrl:
    @pytest.mark.parametrize(
        ("url", "path"),
        [
            ("sqlite:///var/lib/gpuid/gpuid.db", "/var/lib/gpuid/gpuid.db"),
            ("sqlite:////var/lib/gpuid/gpuid.db", "/var/lib/gpuid/gpuid.db"),
            ("sqlite:gpuid.db", "gpuid.db"),
            ("sqlite:///~/gpuid.db", str(Path.home() / "gpuid.db")),
            ("sqlite:///tmp/with%20space.db", "/tmp/with space.db"),
        ],
    )
    def test_it_names_a_file(self, url, path):
        assert str(locate(url)) == path

    @pytest.mark.parametrize(
        "url", ["", "sqlite:", "sqlite://", "sqlite:///", "sqlite:///:memory:", "mysql://x", "/var/lib/gpuid.db"]
    )
    def test_invalid_urls_are_refused(self, url):
        with pytest.raises(ValueError, match=r'^url: expected "sqlite:///path/to/gpuid.db" or "postgresql://'):
            StoreSettings(url=url)

    @pytest.mark.parametrize("mark", "/?#")
    @pytest.mark.parametrize("secret", ["hunter{}2", "{}hunter2", "12{}hunter2", "hunter2{}"])
    def test_an_ambiguous_password_is_refused_and_not_shown(self, secret, mark):
        with pytest.raises(ValueError, match=r"in a password / is %2F, \? is %3F, # is %23 and @ is %40") as caught:
            StoreSettings(url=f"postgresql://gpuid:{secret.format(mark)}@db.example:5432/fleet")
        assert "hunter" not in str(caught.value)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql:///fleet?host=/run/postgresql",
            "postgresql://gpuid@[::1]:5432/fleet",
            "postgresql://gpuid@one:5432,two:5433/fleet?target_session_attrs=read-write",
            "postgres://db.example/fleet",
        ],
    )
    def test_it_names_a_server(self, url):
        location = locate(url)
        assert isinstance(location, PostgresLocation)
        assert location.url == url

    def test_a_password_in_it_is_never_shown(self):
        location = locate("postgresql://gpuid:hunter%202@db.example:5432/fleet?sslmode=require&password=x")
        assert str(location) == "postgresql://gpuid@db.example:5432/fleet"
        assert isinstance(location, PostgresLocation)
        assert location.password == "hunter 2"
