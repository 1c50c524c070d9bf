"""The command as a real process, and a collector for it to query, served on a free port."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from collector.config import Listen, ServerSettings
from collector.exposition import Exposition, Metrics
from collector.inventory import Inventory
from collector.marks import Mark, Marks
from collector.model import ClusterState, ClusterStatus, Fingerprint, Gpu, NodeInfo, Reading
from collector.store import OpenMode, Store, StoreSettings
from collector.web import serve
from tests.support.moves import let_go
from tests.web.conftest import FakeCollector

Run = Callable[..., subprocess.CompletedProcess[str]]

PARTS: dict[str, Any] = {"board_part_number": "699-PART", "gpu_part_number": "2941-PART"}


@pytest.fixture
def gpuid(tmp_path: Path) -> Run:
    """Run `gpuid` to completion in an empty folder, without this machine's configuration."""
    home = tmp_path / "home"
    home.mkdir()

    def run(
        *args: str | Path, env: Mapping[str, str] = MappingProxyType({}), **options: Any
    ) -> subprocess.CompletedProcess[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("GPUID_", "KUBE"))}
        settings: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "cwd": home, "check": False}
        return subprocess.run(
            [sys.executable, "-m", "collector", *map(str, args)],
            **settings | options,
            env=own | {"HOME": str(home)} | dict(env),
        )

    return run


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gpuid.test")])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "tls.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return tmp_path / "tls.crt", tmp_path / "tls.key"


@pytest.fixture
def inventory() -> Inventory:
    """Two clusters with three nodes: one H100 without a chassis, and a GB200 board of two GPUs with one serial."""
    inventory = Inventory()
    for cluster, node, gpus in (
        ("prod-a", "n1", [Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100")]),
        ("prod-a", "n2", [Gpu(uuid=f"GPU-a{n}", serial=f"10{n}", model="NVIDIA H100") for n in "23"]),
        (
            "prod-b",
            "n3",
            [Gpu(uuid=f"GPU-b{n}", serial="900", model="NVIDIA GB200", chassis="C1", **PARTS) for n in "12"],
        ),
    ):
        inventory.apply(_reading(cluster, node, *gpus))
    return inventory


@pytest.fixture
def alter(inventory: Inventory) -> Callable[[str, Callable[[Gpu], Gpu]], None]:
    """Read every node of a cluster again, with each GPU as a function makes it."""

    def alter(cluster: str, change: Callable[[Gpu], Gpu]) -> None:
        for state in list(inventory.nodes(cluster).values()):
            inventory.apply(_reading(cluster, state.place.node, *map(change, state.gpus)))

    return alter


def _reading(cluster: str, node: str, *gpus: Gpu) -> Reading:
    return Reading(
        cluster=cluster,
        node=NodeInfo(name=node, provider_id=f"aws:///us-east-1a/i-{node}", capacity=8),
        source="gpu-operator/p",
        fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
        time=1764000000.0,
        driver_version="570.148.08",
        cuda_version="12.8",
        gpus=gpus,
    )


@pytest.fixture
def serving(inventory: Inventory) -> Callable[..., AbstractContextManager[str]]:
    """Serve the inventory, and the history of a store, with these settings of [server]; gives the URL."""

    @contextmanager
    def run(
        *, store: StoreSettings | None = None, marks: Iterable[Mark] = (), down: Collection[str] = (), **settings: Any
    ) -> Iterator[str]:
        collector = FakeCollector(inventory, Exposition(Metrics()), marks=Marks(marks), synced_at=1764000000.0)
        if store is not None:
            collector.time = time.time()  # its changes have just been recorded
        for name in inventory.clusters():
            state, message = (ClusterState.UNREACHABLE, "refused") if name in down else (ClusterState.UP, "")
            collector.statuses[name] = ClusterStatus(cluster=name, state=state, message=message, since=1764000000.0)
        url: list[str] = []
        bound = threading.Event()

        def ready(address: str) -> None:
            url.append(address)
            bound.set()

        async def run_server() -> None:
            server = ServerSettings(**{"listen": Listen("127.0.0.1:0")} | settings)
            if store is None:
                await serve(collector, server, ready=ready)
            else:
                async with Store.open(store, OpenMode.READER) as collector.store:
                    await serve(collector, server, ready=ready)

        with start_blocking_portal("asyncio") as portal:
            server = portal.start_task_soon(run_server)
            try:
                assert bound.wait(10)
                yield url[0]
            finally:
                server.cancel()

    return run


@pytest.fixture
def history_config(tmp_path: Path) -> Path:
    """A configuration whose store has a GPU that appeared on n1 of prod an hour ago and moved to n2 just now."""
    gpu = Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100", chassis="C1")
    return recorded(tmp_path, ("n1", 3600.0, gpu), ("n2", 60.0, gpu))


@pytest.fixture
def altered_config(tmp_path: Path) -> Path:
    """A configuration whose store has a GPU that no longer reports its serial since MIG was switched on."""
    gpu = Gpu(uuid="GPU-a1", serial="S-1", mig=False)
    return recorded(tmp_path, ("n1", 3600.0, gpu), ("n1", 60.0, msgspec.structs.replace(gpu, serial=None, mig=True)))


def recorded(folder: Path, *readings: tuple[str, float, Gpu], cluster: str = "prod") -> Path:
    """Record readings of nodes, some seconds ago, each with one GPU; returns a configuration with that store."""
    settings = StoreSettings(url=f"sqlite://{folder}/gpuid.db")

    async def fill() -> None:
        inventory = Inventory()
        async with Store.open(settings) as store, anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            for node, ago, gpu in readings:
                reading = Reading(
                    cluster=cluster,
                    node=NodeInfo(name=node),
                    source="gpu-operator/p",
                    fingerprint=Fingerprint(pod_uid=node, container_id="c", restarts=0, boot_id="b", capacity=8),
                    time=time.time() - ago,
                    driver_version="580.1",
                    cuda_version="13.0",
                    gpus=(gpu,),
                )
                step = inventory.apply(reading)
                for one in (step, *let_go(inventory, step)):
                    store.history_writer.append(one)
            assert await store.history_writer.flushed(10)
            tasks.cancel_scope.cancel()

    anyio.run(fill)
    config = folder / "gpuid.toml"
    config.write_text(f'[[clusters]]\ncontext = "prod"\n[store]\nurl = "{settings.url}"\n', encoding="utf-8")
    return config
