"""The control server: shows a simulation and injects faults into it, over plain HTTP."""

import inspect
from collections.abc import Mapping

import msgspec
from aiohttp import web

from collector.config import ConfigError
from collector.simulator.actions import actions
from collector.simulator.cluster import SimulatedCluster
from collector.simulator.fleet import Fleet, SimulationError
from collector.text import describe_os_error

__all__ = ["ControlServer"]

_SHUTDOWN_SECONDS = 0.1  # for open requests

_EXAMPLE_BODIES = {
    "move_gpu": '{"node": "gpu-0000", "to_node": "gpu-0001", "to_cluster": "sim-1"}',
    "replace_gpu": '{"node": "gpu-0000"}',
    "swap_tray": '{"node": "gpu-0000"}',
    "lose_gpu": '{"node": "gpu-0000", "silent": true}',
    "wear_gpu": '{"node": "gpu-0000", "index": 0, "row_remap_pending": true, "remapped_rows_uncorrectable": 3}',
    "reset_gpu": '{"node": "gpu-0000", "index": 0}',
    "flash_inforom": '{"node": "gpu-0000", "index": 0}',
    "set_driver": '{"form": "580", "node": "gpu-0000"}',
    "run_process": '{"node": "gpu-0000", "name": "\\u00ff", "encoding": "latin-1"}',
    "set_mig": '{"node": "gpu-0000", "enabled": true}',
    "share_gpus": '{"node": "gpu-0000", "replicas": 4}',
    "restore_pod": '{"node": "gpu-0000"}',
    "relabel_pods": '{"app": "another"}',
    "label_node": '{"node": "gpu-0000", "labels": {"nvidia.com/gpu.present": null}}',
    "set_ready": '{"node": "gpu-0000", "ready": false}',
    "set_kubelet": '{"node": "gpu-0000", "reports": false}',
    "expire_versions": '{"form": "status"}',
    "throttle": '{"requests": 20, "retry_after": 2}',
    "deny": '{"verb": "create", "resource": "pods/exec"}',
    "change_authority": '{"publish": true}',
    "restore_backup": '{"versions": 300}',
    "misbehave": '{"how": "garbage", "requests": 10}',
    "slow_exec": '{"seconds": 5}',
    "hang_exec": '{"node": "gpu-0000"}',
    "fail_exec": '{"how": "exit_status", "exit_status": 9, "times": 3}',
    "add_readers": '{"interval": 60}',
    "fail_log": '{"node": "gpu-0000", "how": "old", "seconds": 3600}',
}


class ControlServer:
    """Serves `GET /`, `GET /expected`, `GET /clusters/NAME` and `POST /clusters/NAME/ACTION`."""

    def __init__(self, clusters: Mapping[str, SimulatedCluster], fleet: Fleet) -> None:
        self.url = ""
        self._clusters = clusters
        self._fleet = fleet
        self._actions = actions(SimulatedCluster)
        self._runner: web.AppRunner | None = None

    async def start(self, host: str, port: int) -> None:
        """Open `port` (0: any free one); raises ConfigError if it is not available."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/", self._index),
                web.get("/clusters", self._all),
                web.get("/clusters/{name}", self._one),
                web.get("/expected", self._expected),
                web.post("/clusters/{name}/{action}", self._act),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self._runner.cleanup()
            reason = describe_os_error(error, "unknown error")
            raise ConfigError(f"{host}:{port}: cannot listen here: {reason}") from error
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Close the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _index(self, request: web.Request) -> web.Response:
        if "application/json" in request.headers.get("Accept", ""):
            return _json(
                {
                    "clusters": list(self._clusters),
                    "actions": {
                        action.name: {"summary": action.summary, "parameters": action.parameters}
                        for action in self._actions.values()
                    },
                }
            )
        return web.Response(text=self._help())

    async def _all(self, request: web.Request) -> web.Response:
        del request
        return _json({name: cluster.describe() for name, cluster in self._clusters.items()})

    async def _one(self, request: web.Request) -> web.Response:
        return _json(self._cluster(request).describe())

    async def _expected(self, request: web.Request) -> web.Response:
        names = request.query.getall("cluster", [])
        for name in names:
            self._known(name)
        worn = self._fleet.worn()
        return _json(
            [
                placed._asdict() | {"health": worn.get(placed.uuid, {})}
                for placed in sorted(self._fleet.expected(*names))
            ]
        )

    async def _act(self, request: web.Request) -> web.Response:
        cluster = self._cluster(request)
        action = self._actions.get(request.match_info["action"])
        if action is None:
            wanted = request.match_info["action"]
            raise web.HTTPNotFound(text=f"no action {wanted}; there are {', '.join(self._actions)}\n")
        try:
            done = getattr(cluster, action.name)(**action.decode(await request.read()))
            if inspect.isawaitable(done):
                done = await done
        except (ValueError, SimulationError, ConfigError) as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return _json(done)

    def _cluster(self, request: web.Request) -> SimulatedCluster:
        return self._known(request.match_info["name"])

    def _known(self, name: str) -> SimulatedCluster:
        if name not in self._clusters:
            names = list(self._clusters)
            listed = ", ".join(names) if len(names) < 5 else f"{names[0]} … {names[-1]}"
            raise web.HTTPNotFound(text=f"no cluster {name}; there are {listed}\n")
        return self._clusters[name]

    def _help(self) -> str:
        first = next(iter(self._clusters))
        lines = [
            f"A simulation of {len(self._clusters)} Kubernetes clusters.",
            "",
            f"GET  {self.url}/clusters/{first}            its state and counters",
            f"GET  {self.url}/expected?cluster={first}    every GPU, its true place and its wear",
            f"POST {self.url}/clusters/{first}/ACTION     run an action; the body is JSON, every key is optional",
            "",
        ]
        for action in self._actions.values():
            lines.append(f"{action.name}\n    {action.summary}")
            lines += [f"      {name}: {written}" for name, written in action.parameters.items()]
            body = " -d '" + _EXAMPLE_BODIES[action.name] + "'" if action.name in _EXAMPLE_BODIES else ""
            lines.append(f"    curl -X POST {self.url}/clusters/{first}/{action.name}{body}\n")
        return "\n".join(lines)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value) + b"\n", content_type="application/json")
