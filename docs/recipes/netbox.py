"""Update the modules of NetBox's devices to match where gpuid sees each GPU.

`python netbox.py --gpuid URL --netbox URL --token-file FILE [--dry-run]`; see README.md in this folder. Needs httpx.

A node is the device that `--device` names, and each GPU is a module in the bay "GPU N" of its device, identified by the
custom field `gpu_uuid`. Devices are never created, and modules without that field are never touched. A second run
changes nothing. Exit code 0: everything matches, 1: some nodes have no device, 2: an error.
"""

import argparse
import itertools
import string
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx

FIELD = "gpu_uuid"  # the custom field of modules
BAY = "GPU "  # prefix of the module bays' names
PAGE = 1000  # objects per page: NetBox's default maximum
CHUNK = 50  # names or ids in a URL, objects in one request
COLUMNS = ("cluster", "node", "uuid", "serial", "model", "board_part_number", "module", "pci_bus_id", "state", "claim")
MAX_ROWS = 1_000_000  # on either side: an endless list is abandoned
Row = dict[str, Any]


class SyncError(Exception):
    """Why the run stops, in one line."""


class Gpuid:
    """The inventory of gpuid."""

    def __init__(self, url: str, authorization: str | None, device: str) -> None:
        headers = {"Authorization": authorization} if authorization else {}
        self._device = device
        self._named = columns_of(device)
        self._client = httpx.Client(base_url=url, headers=headers, timeout=60.0)

    def gpus(self, uuids: Iterable[str] = ()) -> dict[str, Row]:
        """Return the GPUs on any node, or those with given UUIDs; a GPU on two nodes counts where it was first.

        They are sorted by UUID: by place, a GPU that moves to a page that was already read would be missed.
        """
        query: Row = {"limit": "10000", "sort": "uuid", "fields": ",".join(sorted({*COLUMNS, *self._named}))}
        if wanted := list(uuids):
            query["uuid"] = wanted
        found: dict[str, Row] = {}
        for _ in range(MAX_ROWS // 10_000):
            answer = self._client.get("/api/v1/gpus", params=query)
            if answer.is_error:
                raise SyncError(f"gpuid refused GET /api/v1/gpus: {answer.status_code} {answer.text[:500]}")
            for gpu in answer.json()["gpus"]:
                if not gpu["claim"] or gpu["uuid"] not in found:
                    found[gpu["uuid"]] = {**gpu, "device": device_of(gpu, self._device, self._named)}
            if answer.json().get("next") is None:
                break
            query["after"] = answer.json()["next"]
        return found


class NetBox:
    """NetBox's REST API, read-only with `dry_run`."""

    def __init__(self, url: str, token: str, *, dry_run: bool) -> None:
        scheme = "Bearer" if token.startswith("nbt_") else "Token"  # for version 2 and version 1 tokens
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"{scheme} {token}"}, timeout=60.0)
        self.dry_run = dry_run

    def all(self, path: str, **query: Any) -> Iterator[Row]:
        """Yield every object of a list."""
        for start in range(0, MAX_ROWS, PAGE):
            params = {**query, "limit": PAGE, "offset": start, "ordering": "id"}
            page = self._request("GET", path, params=params)
            yield from page["results"]
            if page["next"] is None:
                return

    def of(self, path: str, key: str, values: Iterable[Any]) -> Iterator[Row]:
        """Yield the objects that have one of some values."""
        for chunk in batched(sorted(values)):
            yield from self.all(path, **{key: chunk})

    def send(self, method: str, path: str, body: Any) -> Any:
        """Create, change or delete objects; returns NetBox's answer."""
        if self.dry_run:
            return None
        return self._request(method, path, json=body)

    def _request(self, method: str, path: str, **options: Any) -> Any:
        answer = self._client.request(method, f"/api/{path}/", **options)
        if answer.is_error:
            raise SyncError(f"NetBox refused {method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def one(self, path: str, known: Row, new: Row) -> int:
        """Return the id of an object, created if missing; 0 if a dry run does not create it."""
        if 0 in known.values():
            return 0
        found = next(self.all(path, **known), None) or self.send("POST", path, {**known, **new})
        return 0 if found is None else int(found["id"])


def batched(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most CHUNK values."""
    rest = iter(values)
    while chunk := list(itertools.islice(rest, CHUNK)):
        yield chunk


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
    if empty := sorted(name for name in columns if gpu[name] is None):
        raise SyncError(f"--device: {gpu['uuid']} on {gpu['node']} ({gpu['cluster']}) has no {empty[0]}")
    try:
        return template.format(**gpu)
    except ValueError as error:
        raise SyncError(f"--device: {error}") from None


def bay_of(gpu: Row) -> str:
    """Return the name of the bay that a GPU is in: by its module, or else its bus address."""
    return f"{BAY}{gpu['pci_bus_id'] if gpu['module'] is None else gpu['module']}"


class Sync:
    """What NetBox has, and what it should have."""

    def __init__(self, netbox: NetBox, gpuid: Gpuid, gpus: dict[str, Row]) -> None:
        self._netbox = netbox
        self._gpuid = gpuid
        self._gpus = gpus
        self._devices = self._read_devices()
        self.without = {gpu["device"] for gpu in gpus.values()} - self._devices.keys()
        self._placed = {uuid: gpu for uuid, gpu in gpus.items() if gpu["device"] in self._devices}
        if not any(netbox.all("extras/custom-fields", name=FIELD)):
            kind = {"type": "text", "object_types": ["dcim.module"], "filter_logic": "exact", "unique": True}
            netbox.send("POST", "extras/custom-fields", {"name": FIELD, "label": "GPU UUID", **kind})
        self._maker = netbox.one("dcim/manufacturers", {"slug": "nvidia"}, {"name": "NVIDIA"})
        self._types = self._make_types()
        self._bays = self._make_bays()
        modules = netbox.all("dcim/modules", manufacturer_id=self._maker) if self._maker else ()
        self._modules = {uuid: one for one in modules if (uuid := one["custom_fields"].get(FIELD))}
        self.done = dict.fromkeys(("created", "moved", "changed", "offline", "deleted"), 0)

    def run(self) -> None:
        """Update NetBox."""
        self._retire()
        self._change()
        for chunk in batched(uuid for uuid in self._placed if uuid not in self._modules):
            self._netbox.send("POST", "dcim/modules", [self._module(self._placed[uuid]) for uuid in chunk])
            self.done["created"] += len(chunk)

    def summary(self) -> str:
        """Return what was done, in one line."""
        told = ", ".join(f"{count} {what}" for what, count in self.done.items())
        return f"{len(self._placed)} GPUs on {len(self._devices)} devices: {told}"

    def _read_devices(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for device in self._netbox.of("dcim/devices", "name", {gpu["device"] for gpu in self._gpus.values()}):
            if device["name"] in found:
                raise SyncError(f"several devices are named {device['name']}; --device has to tell them apart")
            found[device["name"]] = device["id"]
        return found

    def _make_types(self) -> dict[str, int]:
        parts = {gpu["model"] or "unknown": gpu["board_part_number"] or "" for gpu in self._placed.values()}
        return {
            model: self._netbox.one(
                "dcim/module-types",
                {"manufacturer_id": self._maker, "model": model},
                {"manufacturer": self._maker, "part_number": part},
            )
            for model, part in parts.items()
        }

    def _make_bays(self) -> dict[tuple[int, str], int]:
        """Return the bays by device and name, creating those that are missing."""
        wanted = {(self._devices[gpu["device"]], bay_of(gpu)) for gpu in self._placed.values()}
        known = self._netbox.of("dcim/module-bays", "device_id", self._devices.values())
        found = {(bay["device"]["id"], bay["name"]): bay["id"] for bay in known}
        for chunk in batched(sorted(wanted - found.keys())):
            new = [{"device": device, "name": name, "position": name.removeprefix(BAY)} for device, name in chunk]
            made = self._netbox.send("POST", "dcim/module-bays", new) or ()
            found.update({(one["device"]["id"], one["name"]): one["id"] for one in made})
        return found

    def _module(self, gpu: Row) -> Row:
        """Return a module as it should be."""
        device = self._devices[gpu["device"]]
        return {
            "device": device,
            "module_bay": self._bays.get((device, bay_of(gpu)), 0),
            "module_type": self._types[gpu["model"] or "unknown"],
            "serial": gpu["serial"] or "",
            "status": "failed" if gpu["state"] == "lost" else "active",
            "custom_fields": {FIELD: gpu["uuid"]},
        }

    def _retire(self) -> None:
        """Set modules whose GPU is on no node offline; delete those whose bay now has another GPU."""
        needed = {self._module(gpu)["module_bay"] for gpu in self._placed.values()}
        missed = [uuid for uuid in self._modules if uuid not in self._gpus]
        there = set().union(*(self._gpuid.gpus(chunk) for chunk in batched(missed)))  # since the list was read
        for uuid in (uuid for uuid in missed if uuid not in there):
            if self._modules[uuid]["module_bay"]["id"] in needed:
                self._delete(uuid)
            elif self._modules[uuid]["status"]["value"] != "offline":
                self._netbox.send("PATCH", f"dcim/modules/{self._modules[uuid]['id']}", {"status": "offline"})
                self.done["offline"] += 1

    def _change(self) -> None:
        """Change what differs. A bay holds one module: if two GPUs change places, one is recreated."""
        todo = {uuid: self._differences(uuid) for uuid in self._modules if uuid in self._placed}
        todo = {uuid: change for uuid, change in todo.items() if change}
        while todo:
            taken = {module["module_bay"]["id"]: uuid for uuid, module in self._modules.items()}
            free = [uuid for uuid, change in todo.items() if taken.get(change.get("module_bay"), uuid) == uuid]
            for uuid in free:
                change = todo.pop(uuid)
                self._netbox.send("PATCH", f"dcim/modules/{self._modules[uuid]['id']}", change)
                self.done["moved" if "module_bay" in change else "changed"] += 1
                if "module_bay" in change:
                    self._modules[uuid]["module_bay"] = {"id": change["module_bay"]}
            if todo and not free:
                self._delete(uuid := next(iter(todo)))
                del todo[uuid]

    def _differences(self, uuid: str) -> Row:
        """Return the fields that differ, as they should be."""
        module = self._modules[uuid]
        has = {name: module[name]["id"] for name in ("device", "module_bay", "module_type")}
        has |= {"serial": module["serial"], "status": module["status"]["value"]}
        return {
            name: value for name, value in self._module(self._placed[uuid]).items() if has.get(name, value) != value
        }

    def _delete(self, uuid: str) -> None:
        self._netbox.send("DELETE", f"dcim/modules/{self._modules.pop(uuid)['id']}", None)
        self.done["deleted"] += 1


def main() -> None:
    """Read the arguments and update NetBox."""
    parser = argparse.ArgumentParser(description="Update NetBox's modules to match gpuid.")
    parser.add_argument("--gpuid", required=True, metavar="URL")
    parser.add_argument("--gpuid-auth-file", type=Path, metavar="FILE", help="an Authorization header's value")
    parser.add_argument("--netbox", required=True, metavar="URL")
    parser.add_argument("--token-file", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--device", default="{node}", metavar="NAME", help="a node's device; such as {cluster}-{node} (default: {node})"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    options = parser.parse_args()
    try:
        authorization = options.gpuid_auth_file.read_text().strip() if options.gpuid_auth_file else None
        gpuid = Gpuid(options.gpuid, authorization, options.device)
        gpus = gpuid.gpus()
        if not gpus:
            raise SyncError("gpuid knows no GPUs, and every module would be set offline")
        sync = Sync(
            NetBox(options.netbox, options.token_file.read_text().strip(), dry_run=options.dry_run), gpuid, gpus
        )
        sync.run()
    except (httpx.HTTPError, OSError, SyncError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    print(f"{sync.summary()}{' (dry run)' if options.dry_run else ''}")
    if sync.without:
        names = ", ".join(sorted(sync.without)[:10])
        print(f"{len(sync.without)} nodes have no device in NetBox, such as {names}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
