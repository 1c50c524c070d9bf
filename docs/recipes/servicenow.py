"""Update the GPUs of a ServiceNow CMDB to match where gpuid sees them.

`python servicenow.py --gpuid URL --instance URL --auth-file FILE [--dry-run]`; see README.md in this folder. Needs
httpx.

Each GPU is a configuration item of the class `cmdb_ci_gpu`, identified by its UUID; the Identification and
Reconciliation API creates and changes it. Its relationship "Used by" to its server is maintained by the Table API.
Servers are never created. A second run changes nothing. Exit code 0: everything matches, 1: some nodes have no server,
2: an error.
"""

import argparse
import itertools
import string
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

GPU_CLASS = "cmdb_ci_gpu"
RELATION = "Used by::Uses"  # a GPU is the parent, its server the child, as in ServiceNow's own discovery
INSTALLED, ABSENT = "1", "100"  # of `install_status`
CHUNK = 50  # names or ids in a query, items in a request
PAGE = 1000  # records per page
COLUMNS = ("cluster", "node", "uuid", "serial", "model", "module", "pci_bus_id", "state", "claim", "confirmed_at")
MAX_ROWS = 1_000_000  # on either side: an endless list is abandoned
Row = dict[str, Any]


class SyncError(Exception):
    """Why the run stops, in one line."""


def read_gpus(url: str, authorization: str | None, device: str) -> Iterator[Row]:
    """Yield every GPU that gpuid knows, including those no longer on any node; `device` names the server of each.

    A GPU that moves to a page that was already read is missed, and stays as it is until the next run.
    """
    headers = {"Authorization": authorization} if authorization else {}
    named = columns_of(device)
    with httpx.Client(base_url=url, headers=headers, timeout=60.0) as client:
        query = {"limit": "10000", "state": "all", "fields": ",".join(sorted({*COLUMNS, *named}))}
        for _ in range(MAX_ROWS // 10_000):
            answer = client.get("/api/v1/gpus", params=query)
            if answer.is_error:
                raise SyncError(f"gpuid refused GET /api/v1/gpus: {answer.status_code} {answer.text[:500]}")
            yield from ({**gpu, "device": device_of(gpu, device, named)} for gpu in answer.json()["gpus"])
            if answer.json().get("next") is None:
                return
            query["after"] = answer.json()["next"]


def columns_of(template: str) -> set[str]:
    """Return the columns that a template such as {cluster}-{node} names."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise SyncError(f"--device: expected columns in braces, such as {{node}}: {error}") from None
    if wrong := sorted(name for name in names if not name.isidentifier()):
        raise SyncError(f"--device: expected the name of a column in braces, such as {{node}}, got {{{wrong[0]}}}")
    return names


def device_of(gpu: Row, template: str, columns: set[str]) -> str:
    """Return the name that a template gives with a GPU's columns."""
    if gpu["state"] == "gone":
        return ""
    if empty := sorted(name for name in columns if gpu[name] is None):
        raise SyncError(f"--device: {gpu['uuid']} on {gpu['node']} ({gpu['cluster']}) has no {empty[0]}")
    try:
        return template.format(**gpu)
    except ValueError as error:
        raise SyncError(f"--device: {error}") from None


class ServiceNow:
    """The REST API of an instance, read-only with `dry_run`."""

    def __init__(self, url: str, authorization: str, source: str, *, dry_run: bool) -> None:
        headers = {"Authorization": authorization, "Accept": "application/json"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=120.0)
        self._source = source
        self._dry_run = dry_run

    def records(self, table: str, query: str, fields: str) -> Iterator[Row]:
        """Yield the records of a table that an encoded query finds."""
        params = {"sysparm_fields": fields, "sysparm_exclude_reference_link": "true", "sysparm_limit": str(PAGE)}
        for start in range(0, MAX_ROWS, PAGE):
            where = {"sysparm_query": f"{query}^ORDERBYsys_id", "sysparm_offset": str(start)}
            found = self._send("GET", f"table/{table}", params=params | where)["result"]
            yield from found
            if len(found) < PAGE:
                return

    def records_of(self, table: str, field: str, values: Iterable[str], query: str, fields: str) -> Iterator[Row]:
        """Yield the records of a table whose field has one of some values."""
        for chunk in batched(sorted(value for value in values if not set(value) & set(",^"))):
            yield from self.records(table, f"{field}IN{','.join(chunk)}{query}", fields)

    def reconcile(self, items: list[Row]) -> list[Row]:
        """Have items identified, created and changed; returns the result of each, in the same order."""
        path = "identifyreconcile/query" if self._dry_run else "identifyreconcile"
        answer = self._send("POST", path, params={"sysparm_data_source": self._source}, json={"items": items})
        results: list[Row] = [{} for _ in items]
        for number, result in enumerate(answer["result"]["items"]):
            for index in result.get("inputIndices") or [number]:
                results[index] = result
        return results

    def change(self, method: str, table: str, body: Row | None = None) -> None:
        """Create or delete a record."""
        if not self._dry_run:
            self._send(method, f"table/{table}", json=body)

    def _send(self, method: str, path: str, **options: Any) -> Row:
        answer = self._client.request(method, f"/api/now/{path}", **options)
        if answer.is_error:
            raise SyncError(f"ServiceNow refused {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else {}


def batched(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most CHUNK values."""
    rest = iter(values)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk


class Sync:
    """What the CMDB should have."""

    def __init__(self, now: ServiceNow, gpus: list[Row], source: str, server_class: str) -> None:
        self._now, self._source = now, source
        self._gpus = {
            gpu["uuid"]: gpu for gpu in sorted(gpus, key=lambda gpu: (gpu["state"] != "gone", not gpu["claim"]))
        }
        devices = {gpu["device"] for gpu in gpus if gpu["state"] != "gone"}
        servers = now.records_of(server_class, "name", devices, "", "sys_id,name")
        self._servers: dict[str, str] = {}
        for server in servers:
            if server["name"] in self._servers:
                raise SyncError(f"several servers are named {server['name']}; --device has to tell them apart")
            self._servers[server["name"]] = server["sys_id"]
        self.without = devices - self._servers.keys()
        types = [one["sys_id"] for one in now.records("cmdb_rel_type", f"name={RELATION}", "sys_id")]
        if not types:
            raise SyncError(f"there is no type of relationship named {RELATION}")
        self._type = types[0]
        self.done: dict[str, int] = {}
        self.errors: list[str] = []

    def run(self) -> None:
        """Update the CMDB, a few GPUs at a time."""
        for gpus in batched(self._gpus.values()):
            results = self._now.reconcile([self._item(gpu) for gpu in gpus])
            ids: dict[str, Row] = {}
            for gpu, result in zip(gpus, results, strict=True):
                operation = str(result.get("operation") or "ERROR").lower()
                self.done[operation] = self.done.get(operation, 0) + 1
                self.errors += [f"{gpu['uuid']}: {one.get('message')}" for one in result.get("errors") or ()]
                if (sys_id := result.get("sysId")) and sys_id != "Unknown":
                    ids[sys_id] = gpu
            self._relate(ids)

    def summary(self) -> str:
        """Return what was done, in one line."""
        told = ", ".join(f"{count} {what}" for what, count in sorted(self.done.items()))
        return f"{len(self._gpus)} GPUs: {told or 'nothing'}"

    def _item(self, gpu: Row) -> Row:
        gone = gpu["state"] == "gone"
        seat = ", ".join(
            f"{name} {gpu[key]}" for name, key in (("module", "module"), ("PCI", "pci_bus_id")) if gpu[key]
        )
        where = "" if gone else f"{gpu['node']} ({gpu['cluster']}), {seat}"
        values = {
            "name": gpu["model"] or "NVIDIA GPU",
            "serial_number": gpu["serial"] or "",
            "correlation_id": gpu["uuid"],
            "short_description": where,
            "install_status": ABSENT if gone else INSTALLED,
        }
        seen = gpu["confirmed_at"]
        source = {"source_name": self._source, "source_native_key": gpu["uuid"]}
        if seen:
            source["source_recency_timestamp"] = seen[:19].replace("T", " ")
        return {"className": GPU_CLASS, "internal_id": gpu["uuid"], "values": values, "sys_object_source_info": source}

    def _relate(self, ids: dict[str, Row]) -> None:
        """Relate each GPU to its server and to no other."""
        wanted = {
            sys_id: self._servers[gpu["device"]]
            for sys_id, gpu in ids.items()
            if gpu["state"] != "gone" and gpu["device"] in self._servers
        }
        known = self._now.records_of("cmdb_rel_ci", "parent", ids, f"^type={self._type}", "sys_id,parent,child")
        for relation in known:
            if wanted.get(relation["parent"]) == relation["child"]:
                del wanted[relation["parent"]]
            elif ids[relation["parent"]]["device"] not in self.without:
                self._count("relationships deleted")
                self._now.change("DELETE", f"cmdb_rel_ci/{relation['sys_id']}")
        for parent, child in wanted.items():
            self._count("relationships made")
            self._now.change("POST", "cmdb_rel_ci", {"parent": parent, "child": child, "type": self._type})

    def _count(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1


def main() -> None:
    """Read the arguments and update the CMDB."""
    parser = argparse.ArgumentParser(description="Update a ServiceNow CMDB to match gpuid.")
    parser.add_argument("--gpuid", required=True, metavar="URL")
    parser.add_argument("--gpuid-auth-file", type=Path, metavar="FILE", help="an Authorization header's value")
    parser.add_argument("--instance", required=True, metavar="URL")
    parser.add_argument("--auth-file", type=Path, required=True, metavar="FILE", help="an Authorization header's value")
    parser.add_argument("--source", default="gpuid", metavar="NAME", help="a choice of the field discovery_source")
    parser.add_argument("--server-class", default="cmdb_ci_linux_server", metavar="TABLE")
    parser.add_argument(
        "--device", default="{node}", metavar="NAME", help="a node's server; such as {cluster}-{node} (default: {node})"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    options = parser.parse_args()
    try:
        authorization = options.gpuid_auth_file.read_text().strip() if options.gpuid_auth_file else None
        gpus = list(read_gpus(options.gpuid, authorization, options.device))
        if not any(gpu["state"] != "gone" for gpu in gpus):
            raise SyncError("gpuid knows no GPUs, and every one would be set absent")
        now = ServiceNow(
            options.instance, options.auth_file.read_text().strip(), options.source, dry_run=options.dry_run
        )
        sync = Sync(now, gpus, options.source, options.server_class)
        sync.run()
    except (httpx.HTTPError, OSError, SyncError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(f"{sync.summary()}{' (dry run)' if options.dry_run else ''}")
    if sync.errors:
        print(f"error: {len(sync.errors)} refused, such as {sync.errors[0]}", file=sys.stderr)
        sys.exit(2)
    if sync.without:
        names = ", ".join(sorted(sync.without)[:10])
        print(f"{len(sync.without)} nodes have no server in the CMDB, such as {names}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
