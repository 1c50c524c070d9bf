"""A running `gpuid run`, seen through its HTTP interface alone."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes import Process

__all__ = ["Collector"]


class Collector:
    """What one collector serves at the moment."""

    def __init__(self, process: Process, url: str) -> None:
        self.process, self.url = process, url

    def gpus(self) -> set[tuple[str, ...]]:
        """Every GPU in the scrape as (cluster, node, serial, uuid)."""
        return {
            tuple(labels[key] for key in ("cluster", "node", "serial", "uuid"))
            for labels, _ in self.samples("gpuid_gpu_info")
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the one series with these labels."""
        found = [value for have, value in self.samples(name) if labels.items() <= have.items()]
        return found[0] if found else None

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """All series of a name."""
        try:
            text = httpx.get(f"{self.url}/metrics", timeout=30).raise_for_status().text
        except httpx.TransportError:
            assert self.process.running, self.process.tail()
            return []
        families = text_string_to_metric_families(text)
        return [
            (sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name
        ]
