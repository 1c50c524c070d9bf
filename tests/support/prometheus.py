"""A real Prometheus that scrapes collectors, and what the usual exporters would say of the same GPUs."""

import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http import served
from tests.support.processes import Process, free_ports
from tests.support.waiting import until

CLUSTERS, NODES, GPUS = 3, 20, 8
EXPORTER_SECONDS = 5
RULES = Path(__file__).parents[2] / "config" / "prometheus" / "rules"
SCRAPE_EXAMPLE = Path(__file__).parents[2] / "config" / "prometheus" / "http_sd.yml"


class Prometheus:
    """The HTTP API of a Prometheus server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str, time: float | None = None) -> list[dict[str, Any]]:
        """The series that an expression answers, now or at a Unix time; fails with Prometheus' own error."""
        at = {} if time is None else {"time": f"{time:.3f}"}
        return self._ask("query", query=expression, **at)["result"]

    def range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        """The series that an expression answers between two Unix times, `step` seconds apart."""
        return self._ask("query_range", query=expression, start=f"{start:.3f}", end=f"{end:.3f}", step=f"{step:g}")[
            "result"
        ]

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values that a label has in the series of a selector."""
        return self._ask(f"label/{label}/values", **{"match[]": selector})

    def alerts(self) -> set[str]:
        """The names of the alerts that are pending or firing."""
        return {labels["alertname"] for labels in self.alert_labels()}

    def alert_labels(self) -> list[dict[str, str]]:
        """The labels of the alerts that are pending or firing."""
        return [alert["labels"] for alert in self._ask("alerts")["alerts"]]

    def metrics(self) -> set[str]:
        """The names of all metrics it has seen."""
        return set(self._ask("label/__name__/values"))

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes."""
        return self._ask("targets")["activeTargets"]

    def _ask(self, path: str, **params: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=30).json()
        assert answer["status"] == "success", f"{answer.get('error')}: {params}"
        return answer["data"]


@pytest.fixture(scope="session")
def prometheus_program() -> str:
    """Where Prometheus is installed."""
    return _installed("prometheus")


@pytest.fixture(scope="session")
def promtool() -> str:
    """Where Prometheus' own checker is installed."""
    return _installed("promtool")


def _installed(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"no {name} on PATH: install Debian's package prometheus")
    return program


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running `gpuid demo` that has read most of its nodes; some of them come and go."""
    (port,) = free_ports(1)
    sizes = ("--clusters", str(CLUSTERS), "--nodes", str(NODES), "--gpus", str(GPUS))
    process = Process(
        [sys.executable, "-m", "collector", "demo", *sizes, "--listen", f"127.0.0.1:{port}", "--for", "20m"],
        tmp_path_factory.mktemp("demo") / "log",
    )
    url = f"http://127.0.0.1:{port}"
    try:
        process.start()
        until(lambda: answers(f"{url}/readyz", process))
        until(lambda: sum(name == "gpuid_node_info" for name, _ in _samples(url)) >= CLUSTERS * NODES - NODES)
        yield url
    finally:
        process.stop(signal.SIGTERM)


@pytest.fixture(scope="session")
def prometheus(prometheus_program: str, demo: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the demo, through /sd as in config/prometheus, and the other exporters."""
    with scraping(prometheus_program, tmp_path_factory.mktemp("prometheus"), [demo]) as server:
        # Rates and histograms need two scrapes of everything.
        until(lambda: len(server.query("count_over_time(gpuid_cluster_up[1m]) >= 3")), CLUSTERS, seconds=300)
        until(lambda: len(server.query("count(count_over_time(kube_node_info[1m]) >= 3)")), 1, seconds=300)
        yield server


@contextlib.contextmanager
def scraping(
    program: str,
    folder: Path,
    collectors: Sequence[str],
    *,
    cluster_label: str = "cluster",
    scrape_seconds: int = 1,
) -> Iterator[Prometheus]:
    """Run a Prometheus, with our rules, that scrapes collectors often, together with the usual exporters."""
    (port,) = free_ports(1)
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        exporter = stack.enter_context(_other_exporters(collectors[0], cluster_label))
        config = yaml.safe_load(SCRAPE_EXAMPLE.read_text())
        config["global"] = {"evaluation_interval": f"{scrape_seconds}s"}
        config["rule_files"] = [str(path) for path in _impatient_rules(folder, cluster_label)]
        (job,) = config["scrape_configs"]
        job["http_sd_configs"] = [{"url": f"{url}/sd", "refresh_interval": "1s"} for url in collectors]
        config["scrape_configs"].append(
            {"job_name": "others", "honor_labels": True, "static_configs": [{"targets": [exporter]}]}
        )
        for job in config["scrape_configs"]:
            # The other exporters answer from this process, which may be slow, and seldom say anything new.
            seconds = EXPORTER_SECONDS if job["job_name"] == "others" else scrape_seconds
            job |= {"scrape_interval": f"{seconds}s", "scrape_timeout": f"{seconds}s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        process = Process(
            [
                program,
                *("--config.file", folder / "prometheus.yml", "--storage.tsdb.path", folder / "data"),
                *("--web.listen-address", f"127.0.0.1:{port}", "--log.level", "warn"),
            ],
            folder / "log",
        )
        stack.callback(process.stop, signal.SIGKILL)
        process.start()
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/-/ready", process))
        yield Prometheus(url)


def printed(what: str, cluster_label: str) -> str:
    """What `gpuid print` prints for another label than the usual one."""
    command = [sys.executable, "-m", "collector", "print", *what.split(), "--cluster-label", cluster_label]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _impatient_rules(folder: Path, cluster_label: str) -> list[Path]:
    """The rules as they are shipped, but evaluated as often as everything is scraped."""
    texts = {path.name: path.read_text() for path in sorted(RULES.glob("*.yml"))}
    if cluster_label != "cluster":
        texts = {"rules.yml": printed("rules", cluster_label)}
    copies = []
    for name, text in texts.items():
        rules = yaml.safe_load(text)
        for group in rules["groups"]:
            group.pop("interval", None)
        copies.append(folder / name)
        copies[-1].write_text(yaml.safe_dump(rules))
    return copies


def answers(url: str, process: Process) -> bool:
    """Whether a program that must be running says 200 there."""
    assert process.running, process.tail()
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=30).status_code == 200
    return False


def _samples(url: str) -> list[tuple[str, dict[str, str]]]:
    """Return the nodes and the GPUs of a collector; parsing all of its series would take longer than a scrape may."""
    lines = httpx.get(f"{url}/metrics", timeout=30).raise_for_status().text.splitlines(keepends=True)
    text = "".join(line for line in lines if line.startswith(("gpuid_node_info{", "gpuid_gpu_info{")))
    return [
        (sample.name, sample.labels) for family in text_string_to_metric_families(text) for sample in family.samples
    ]


@contextlib.contextmanager
def _other_exporters(demo: str, cluster_label: str) -> Iterator[str]:
    """Serve the series of kube-state-metrics and dcgm-exporter for the demo's nodes and GPUs; gives the address."""

    def answer(_headers: object, _body: bytes) -> tuple[int, bytes]:
        return 200, _other_series(_samples(demo), cluster_label).encode()

    with served(answer, "text/plain; version=0.0.4") as address:
        yield address


def _other_series(samples: list[tuple[str, dict[str, str]]], cluster_label: str) -> str:
    lines = []
    nodes = itertools.count()
    for name, labels in samples:
        place = f'{cluster_label}="{labels.get(cluster_label)}",node="{labels.get("node")}"'
        if name == "gpuid_node_info":
            number = next(nodes)
            lines += [
                f'kube_node_labels{{{place},label_topology_kubernetes_io_zone="zone-{number % 2}"}} 1',
                f'kube_node_info{{{place},kernel_version="6.8.0",kubelet_version="v1.34.4",os_image="Debian"}} 1',
                f"kube_node_spec_unschedulable{{{place}}} {number % 5 == 0:d}",
                f'kube_node_status_condition{{{place},condition="Ready",status="true"}} 1',
                f'kube_pod_info{{{place},namespace="train",pod="job-{number}",uid="u{number}",created_by_kind="Job",'
                f'created_by_name="llm",host_ip="10.0.0.1"}} 1',
                f'kube_pod_container_resource_requests{{{place},namespace="train",pod="job-{number}",uid="u{number}",'
                f'container="main",resource="nvidia_com_gpu",unit="integer"}} 4',
            ]
        elif name == "gpuid_gpu_info":
            card = (
                f'{cluster_label}="{labels.get(cluster_label)}",gpu="0",UUID="{labels["uuid"]}",device="nvidia0",'
                f'modelName="{labels["model"]}",Hostname="{labels["node"]}",namespace="train",pod="job",container="main"'
            )
            lines += [
                f"DCGM_FI_DEV_GPU_TEMP{{{card}}} 41",
                f"DCGM_FI_DEV_POWER_USAGE{{{card}}} 512.5",
                f"DCGM_FI_DEV_XID_ERRORS{{{card}}} 0",
                f"DCGM_FI_DEV_GPU_UTIL{{{card}}} 97",
                f"DCGM_FI_DEV_ECC_SBE_VOL_TOTAL{{{card}}} 2",
                f"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{{{card}}} 0",
                f"DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS{{{card}}} 1",
                f"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS{{{card}}} 0",
                f"DCGM_FI_DEV_ROW_REMAP_FAILURE{{{card}}} 0",
            ]
    return "\n".join(sorted(set(lines))) + "\n"
