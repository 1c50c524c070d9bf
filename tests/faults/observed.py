"""What the processes say of the fleet, and what they use."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.faults.compare import Sample
from tests.faults.world import Member

__all__ = ["MEMORY", "scrape", "used"]

# What memory may grow by: by what is remembered of GPUs that are gone, and by pieces too small to be given back.
MEMORY = {"bytes of memory": 10e6, "blocks of memory": 60_000}


def scrape(process: Member) -> list[Sample] | None:
    """Return every sample of a process; None while it does not answer."""
    answer = process.get("/metrics")
    if answer is None or answer.status_code != 200:
        return None
    families = text_string_to_metric_families(answer.text)
    return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


def used(process: Member) -> dict[str, tuple[float, float]]:
    """Return what a process uses, and how much more is no growth."""
    folder = Path(f"/proc/{process.pid}")
    status = (folder / "status").read_text()
    threads = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))
    memory = process.memory_in_use()
    return {name: (float(memory[name]), slack) for name, slack in MEMORY.items() if name in memory} | {
        "descriptors": (len(list((folder / "fd").iterdir())), 12),
        "threads": (threads, 6),
        "tasks": (sum(process.tasks().values()), 20),
    }
