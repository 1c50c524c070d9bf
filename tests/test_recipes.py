"""The recipes of docs/recipes, against stand-ins that answer as NetBox and ServiceNow document it."""

import functools
import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "recipes"
Row = dict[str, Any]


def gpu(number: int, node: str = "n1", **other: Any) -> Row:
    fixed = {"cluster": "c", "node": node, "uuid": f"GPU-{number}", "serial": f"S{number}", "model": "NVIDIA H100"}
    rest = {"board_part_number": "P", "pci_bus_id": f"0:{number}", "confirmed_at": "2026-11-24T12:00:00.000Z"}
    return {**fixed, **rest, "module": number, "state": "found", "claim": False, **other}


class Gpuid:
    """Two pages of GPUs by UUID."""

    def __init__(self) -> None:
        self.gpus: list[Row] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        asked = request.url.params
        if unknown := set(asked["fields"].split(",")) - gpu(1).keys() - {"machine"}:
            return httpx.Response(400, json={"detail": f"fields: unknown column {unknown}"})
        assert asked.get("sort") == (None if "state" in asked else "uuid")  # gpuid takes none with state=all
        wanted, uuids = asked.get("state", "present"), asked.get_list("uuid")
        found = sorted(
            (one for one in self.gpus if wanted == "all" or one["state"] != "gone"), key=lambda one: str(one["uuid"])
        )
        if uuids:
            found = [one for one in found if one["uuid"] in uuids]
        rows = [{name: one.get(name) for name in asked["fields"].split(",")} for one in found]
        if uuids or asked.get("after") == "2":
            return httpx.Response(200, json={"gpus": rows[0 if uuids else 1 :], "next": None})
        return httpx.Response(200, json={"gpus": rows[:1], "next": "2"})


class NetBox:
    """Lists of objects, made and changed as they are sent; a bay holds one module."""

    def __init__(self) -> None:
        self.lists: dict[str, dict[int, Row]] = {}
        self._ids = itertools.count(1)

    def add(self, path: str, **row: Any) -> int:
        id_ = next(self._ids)
        self.lists.setdefault(path, {})[id_] = {"id": id_, **row}
        return id_

    @property
    def modules(self) -> dict[str, tuple[str, str, str]]:
        """Each GPU's device, bay and status."""
        found = {}
        for module in self.lists.get("dcim/modules", {}).values():
            device, bay = (
                self.lists["dcim/devices"][module["device"]],
                self.lists["dcim/module-bays"][module["module_bay"]],
            )
            found[module["custom_fields"]["gpu_uuid"]] = (device["name"], bay["name"], module["status"])
        return found

    def answer(self, request: httpx.Request) -> httpx.Response:
        path, id_ = re.fullmatch(r"/api/(\w+/[\w-]+)/(?:(\d+)/)?", request.url.path).groups()  # type: ignore[union-attr]
        rows = self.lists.setdefault(path, {})
        assert request.headers["Authorization"] == "Bearer nbt_x.y"
        if request.method == "GET":
            asked = {key: request.url.params.get_list(key) for key in ("name", "slug", "device_id", "model")}
            found = [
                self._shown(row)
                for row in rows.values()
                if all(not values or str(row.get(key.removesuffix("_id"))) in values for key, values in asked.items())
            ]
            return httpx.Response(200, json={"results": found, "next": None})
        if request.method == "DELETE":
            del rows[int(id_)]
            return httpx.Response(204)
        body = json.loads(request.content)
        if request.method == "PATCH":
            rows[int(id_)] |= body
            made: Any = rows[int(id_)]
        else:
            made = [rows[self.add(path, **one)] for one in (body if isinstance(body, list) else [body])]
        if path == "dcim/modules":
            bays = [row["module_bay"] for row in rows.values()]
            assert len(bays) == len(set(bays)), "two modules in one bay"
        shown = [self._shown(one) for one in made] if isinstance(made, list) else self._shown(made)
        return httpx.Response(201, json=shown[0] if isinstance(body, dict) and isinstance(shown, list) else shown)

    def _shown(self, row: Row) -> Row:
        references: Row = {key: {"id": row[key]} for key in ("device", "module_bay", "module_type") if key in row}
        return {**row, **references, "status": {"value": row.get("status")}}


class ServiceNow:
    """Tables, and items that are identified by the key that their source gives them."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Row]] = {"cmdb_rel_type": {"t": {"sys_id": "t", "name": "Used by::Uses"}}}
        self._ids = itertools.count(1)

    def add(self, table: str, **row: Any) -> str:
        id_ = f"id{next(self._ids)}"
        self.tables.setdefault(table, {})[id_] = {"sys_id": id_, **row}
        return id_

    @property
    def gpus(self) -> dict[str, tuple[str, list[str]]]:
        """Each GPU's status and the servers that use it."""
        servers, relations = self.tables["cmdb_ci_linux_server"], self.tables.get("cmdb_rel_ci", {}).values()
        return {
            row["correlation_id"]: (
                row["install_status"],
                [servers[one["child"]]["name"] for one in relations if one["parent"] == id_],
            )
            for id_, row in self.tables.get("cmdb_ci_gpu", {}).items()
        }

    def answer(self, request: httpx.Request) -> httpx.Response:
        _, _, path = request.url.path.partition("/api/now/")
        if path.startswith("identifyreconcile"):
            assert request.url.params["sysparm_data_source"] == "gpuid"
            items = json.loads(request.content)["items"]
            return httpx.Response(200, json={"result": {"items": [self._reconcile(one, path) for one in items]}})
        _, table, id_ = [*path.split("/"), ""][:3]
        rows = self.tables.setdefault(table, {})
        if request.method == "GET":
            *conditions, order = request.url.params["sysparm_query"].split("^")
            assert order == "ORDERBYsys_id"
            found = [row for row in rows.values() if all(self._fits(row, one) for one in conditions)]
            return httpx.Response(200, json={"result": found})
        if request.method == "DELETE":
            del rows[id_]
            return httpx.Response(204)
        self.add(table, **json.loads(request.content))
        return httpx.Response(201, json={"result": {}})

    def _fits(self, row: Row, condition: str) -> bool:
        name, operator, value = re.fullmatch(r"(\w+?)(IN|=)(.*)", condition).groups()  # type: ignore[union-attr]
        return row[name] in (value.split(",") if operator == "IN" else [value])

    def _reconcile(self, item: Row, path: str) -> Row:
        rows, key = self.tables.setdefault(item["className"], {}), item["sys_object_source_info"]["source_native_key"]
        known = next((id_ for id_, row in rows.items() if row["correlation_id"] == key), None)
        if known is None:
            new = "Unknown" if path.endswith("query") else self.add(item["className"], **item["values"])
            return {"sysId": new, "operation": "INSERT"}
        changed = rows[known] != {"sys_id": known, **item["values"]}
        rows[known] |= item["values"]
        return {"sysId": known, "operation": "UPDATE" if changed else "NO_CHANGE"}


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def gpuid() -> Gpuid:
    return Gpuid()


def runner(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, name: str, gpuid: Gpuid, other: NetBox | ServiceNow, *args: Any
) -> Run:
    def answer(request: httpx.Request) -> httpx.Response:
        return gpuid.answer(request) if request.url.host == "gpuid" else other.answer(request)

    client = functools.partial(httpx.Client, transport=httpx.MockTransport(answer))
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*more: str) -> tuple[int, str]:
        monkeypatch.setattr(httpx, "Client", client)
        monkeypatch.setattr(sys, "argv", [name, "--gpuid", "http://gpuid", *map(str, args), *more])
        code = 0
        try:
            module.main()
        except SystemExit as end:
            code = int(end.code or 0)
        told = capsys.readouterr()
        return code, f"{told.out}{told.err}"

    return run


@pytest.fixture
def netbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, gpuid: Gpuid) -> tuple[NetBox, Run]:
    (tmp_path / "token").write_text("nbt_x.y\n")
    other = NetBox()
    for name in ("n1", "n2"):
        other.add("dcim/devices", name=name)
    args = ("--netbox", "http://netbox", "--token-file", tmp_path / "token")
    return other, runner(monkeypatch, capsys, "netbox", gpuid, other, *args)


@pytest.fixture
def servicenow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, gpuid: Gpuid) -> tuple[ServiceNow, Run]:
    (tmp_path / "auth").write_text("Bearer x\n")
    other = ServiceNow()
    for name in ("n1", "n2"):
        other.add("cmdb_ci_linux_server", name=name)
    args = ("--instance", "http://now", "--auth-file", tmp_path / "auth")
    return other, runner(monkeypatch, capsys, "servicenow", gpuid, other, *args)


def test_netbox_follows_gpus_and_a_second_run_changes_nothing(gpuid: Gpuid, netbox: tuple[NetBox, Run]) -> None:
    other, run = netbox
    gpuid.gpus = [gpu(1), gpu(2), gpu(3, "n2")]
    assert "3 created" in run("--dry-run")[1]
    assert other.modules == {}
    assert run() == (0, "3 GPUs on 2 devices: 3 created, 0 moved, 0 changed, 0 offline, 0 deleted\n")
    assert run() == (0, "3 GPUs on 2 devices: 0 created, 0 moved, 0 changed, 0 offline, 0 deleted\n")
    gpuid.gpus = [gpu(1, "n2", module=4), gpu(2, state="lost")]
    assert run()[1] == "2 GPUs on 2 devices: 0 created, 1 moved, 1 changed, 1 offline, 0 deleted\n"
    assert other.modules == {
        "GPU-1": ("n2", "GPU 4", "active"),
        "GPU-2": ("n1", "GPU 2", "failed"),
        "GPU-3": ("n2", "GPU 3", "offline"),
    }
    gpuid.gpus = [gpu(1, "n2", module=3), gpu(2, module=None)]
    assert run()[1] == "2 GPUs on 2 devices: 0 created, 2 moved, 0 changed, 0 offline, 1 deleted\n"
    assert other.modules == {"GPU-1": ("n2", "GPU 3", "active"), "GPU-2": ("n1", "GPU 0:2", "active")}


def test_gpus_that_swap_places_in_netbox_are_updated(gpuid: Gpuid, netbox: tuple[NetBox, Run]) -> None:
    other, run = netbox
    gpuid.gpus = [gpu(1), gpu(2)]
    run()
    gpuid.gpus = [gpu(1, module=2), gpu(2, module=1)]
    assert run()[0] == 0
    assert other.modules == {"GPU-1": ("n1", "GPU 2", "active"), "GPU-2": ("n1", "GPU 1", "active")}
    assert "0 created, 0 moved" in run()[1]


def test_nodes_unknown_to_netbox_are_reported(gpuid: Gpuid, netbox: tuple[NetBox, Run]) -> None:
    other, run = netbox
    gpuid.gpus = [gpu(1), gpu(2, "n9")]
    code, told = run()
    assert (code, list(other.modules)) == (1, ["GPU-1"])
    assert "1 nodes have no device in NetBox, such as n9" in told
    assert run("--device", "{cluster}-{node}")[1].endswith("2 nodes have no device in NetBox, such as c-n1, c-n9\n")


def test_an_empty_inventory_deletes_nothing(
    gpuid: Gpuid, netbox: tuple[NetBox, Run], servicenow: tuple[ServiceNow, Run]
) -> None:
    assert netbox[1]()[0] == 2
    assert servicenow[1]() == (2, "error: gpuid knows no GPUs, and every one would be set absent\n")


def test_servicenow_follows_gpus_and_a_second_run_changes_nothing(
    gpuid: Gpuid, servicenow: tuple[ServiceNow, Run]
) -> None:
    other, run = servicenow
    gpuid.gpus = [gpu(1), gpu(2, "n2")]
    assert run("--dry-run") == (0, "2 GPUs: 2 insert (dry run)\n")
    assert other.gpus == {}
    assert run() == (0, "2 GPUs: 2 insert, 2 relationships made\n")
    assert run() == (0, "2 GPUs: 2 no_change\n")
    gpuid.gpus = [gpu(1, "n2"), gpu(2, "n2", state="gone")]
    assert run() == (0, "2 GPUs: 2 relationships deleted, 1 relationships made, 2 update\n")
    assert other.gpus == {"GPU-1": ("1", ["n2"]), "GPU-2": ("100", [])}
    assert run() == (0, "2 GPUs: 2 no_change\n")


def test_nodes_unknown_to_servicenow_are_reported(gpuid: Gpuid, servicenow: tuple[ServiceNow, Run]) -> None:
    other, run = servicenow
    gpuid.gpus = [gpu(1, "n9")]
    code, told = run()
    assert (code, other.gpus) == (1, {"GPU-1": ("1", [])})
    assert "1 nodes have no server in the CMDB, such as n9" in told


def test_a_gpu_missed_by_the_list_is_unchanged_in_netbox(gpuid: Gpuid, netbox: tuple[NetBox, Run]) -> None:
    other, run = netbox
    gpuid.gpus = [gpu(1), gpu(2), gpu(3)]
    run()
    here, gpuid.gpus = gpuid.gpus, [gpu(1), gpu(3)]
    answer = gpuid.answer

    def answered(request: httpx.Request) -> httpx.Response:
        if request.url.params.get_list("uuid"):
            gpuid.gpus = here  # it came back after the list was read
        return answer(request)

    gpuid.answer = answered  # type: ignore[method-assign]
    assert run()[1] == "2 GPUs on 1 devices: 0 created, 0 moved, 0 changed, 0 offline, 0 deleted\n"
    assert other.modules["GPU-2"] == ("n1", "GPU 2", "active")


def test_a_gpu_on_two_nodes_stays_at_its_first_place(
    gpuid: Gpuid, netbox: tuple[NetBox, Run], servicenow: tuple[ServiceNow, Run]
) -> None:
    gpuid.gpus = [gpu(1), gpu(1, "n2", claim=True)]
    netbox[1]()
    servicenow[1]()
    assert netbox[0].modules == {"GPU-1": ("n1", "GPU 1", "active")}
    assert servicenow[0].gpus == {"GPU-1": ("1", ["n1"])}


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("{machine}", "GPU-2 on n9 (c) has no machine"),
        ("{nope}", "unknown column"),
        ("{0}", "expected the name of a column in braces"),
        ("{", "expected columns in braces"),
        ("{node:d}", "--device: "),
    ],
)
def test_any_column_can_identify_devices(
    gpuid: Gpuid, netbox: tuple[NetBox, Run], servicenow: tuple[ServiceNow, Run], device: str, told: str
) -> None:
    gpuid.gpus = [gpu(1, "x", machine="n1"), gpu(2, "n9")]
    for _, run in (netbox, servicenow):
        code, said = run("--device", device)
        assert code == 2
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert told in said
    gpuid.gpus = [gpu(1, "x", machine="n1")]
    assert netbox[1]("--device", "{machine}")[0] == 0
    assert netbox[0].modules == {"GPU-1": ("n1", "GPU 1", "active")}
