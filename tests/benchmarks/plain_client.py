"""What the Kubernetes client alone does: list the pods, run one exec in each with the same concurrency, and parse.

`python -m tests.benchmarks.plain_client KUBECONFIG CLUSTERS [RATE BURST]` has gpuid's limit of requests per second.
"""

import asyncio
import sys

from kubernetes_asyncio import client, config
from kubernetes_asyncio.stream import WsApiClient

from collector.collect import nvidia_smi
from collector.kube.limits import RateLimiter

CONCURRENCY = 16  # gpuid's own default


async def main(kubeconfig: str, clusters: int, *limit: int) -> None:
    """Read every cluster at once, print how many GPUs there are, and stay to be accounted for."""
    found = await asyncio.gather(*(read(kubeconfig, f"sim-{index}", *limit) for index in range(clusters)))
    print(sum(found), flush=True)
    await asyncio.Event().wait()


async def read(kubeconfig: str, context: str, *limit: int) -> int:
    """Count the GPUs of one cluster."""
    limiter = RateLimiter(*limit) if limit else None
    settings = client.Configuration()
    await config.load_kube_config(kubeconfig, context, settings, persist_config=False)
    free = asyncio.Semaphore(CONCURRENCY)
    async with client.ApiClient(settings) as api, WsApiClient(settings) as sockets:
        pods = await client.CoreV1Api(api).list_namespaced_pod(
            "gpu-operator", label_selector="app=nvidia-device-plugin-daemonset"
        )
        core = client.CoreV1Api(sockets)

        async def count(pod: client.V1Pod) -> int:
            async with free:
                if limiter is not None:
                    await limiter.acquire()
                output = await core.connect_get_namespaced_pod_exec(
                    pod.metadata.name,
                    pod.metadata.namespace,
                    container="nvidia-device-plugin",
                    command=["nvidia-smi", "-q", "-x"],  # type: ignore[arg-type]  # a list, whatever the library's types say
                    stdout=True,
                    stderr=False,
                )
            return len(nvidia_smi.parse(output.encode()).gpus)

        return sum(await asyncio.gather(*(count(pod) for pod in pods.items)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(int, sys.argv[2:])))
