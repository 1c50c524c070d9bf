"""Reads the end of a container's log, with timestamps.

The kubelet goes `tailLines` back from the end and sends at most `limitBytes` from there, so the second parameter cuts
off the end: it must never take effect. Lines are those of the container runtime's file, which splits lines of more than
16 KiB; the kubelet joins the parts. Only the current file is read, no rotated ones.
"""

import anyio
from kubernetes_asyncio.client import CoreV1Api

from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError, ServerError
from collector.kube.secrets import redacts_errors
from collector.model import ReadError, ReadFailure

__all__ = ["LogError", "read_tail"]

# API server and kubelet report the cause as text only. The first match counts.
_PHRASES: tuple[tuple[ReadFailure, tuple[str, ...]], ...] = (
    (ReadFailure.NO_DOCUMENT, ("is waiting to start", "containercreating")),
    (ReadFailure.NO_CONTAINER, ("is not valid for pod", "container not found", "no such container")),
)


class LogError(ReadError):
    """A log could not be read."""


@redacts_errors
async def read_tail(
    client: ApiClient, namespace: str, pod: str, container: str, *, lines: int, timeout: float
) -> bytes:
    """Return the last lines of a container's log, each after its time in RFC 3339 and a space.

    `timeout` is for all of the answer, in seconds. Raises LogError, also where they are larger than `max_log_size`.
    """
    cluster, share = client.session.cluster, client.session.share
    limit, body = int(cluster.max_log_size), bytearray()
    with anyio.CancelScope() as scope:
        try:
            async with client.stream(
                CoreV1Api(client).read_namespaced_pod_log,
                pod,
                namespace,
                container=container,
                timestamps=True,
                tail_lines=lines,
                limit_bytes=limit + 1,  # one byte over, to detect an excess
                timeout=timeout,
            ) as chunks:
                scope.deadline = anyio.current_time() + timeout  # waiting for our own limiters does not count
                async for chunk in chunks:
                    started = share.clock()
                    body += chunk
                    if len(body) > limit:
                        text = f"the last {lines:,} lines of the log are larger than {cluster.max_log_size}"
                        raise LogError(ReadFailure.BAD_OUTPUT, f"{text} (max_log_size)")
                    await share.pause(started)
        except ClusterError as error:
            raise _refused(error) from error
    if scope.cancelled_caught:
        raise LogError(ReadFailure.TIMEOUT, f"reading the log timed out after {timeout:g} s")
    return bytes(body)


def _refused(error: ClusterError) -> LogError:
    text = str(error)
    if isinstance(error, ForbiddenError):
        return LogError(ReadFailure.FORBIDDEN, f"{text} (pods/log needs the verb get)")
    if isinstance(error, ServerError):
        lower = text.lower()
        found = next((reason for reason, phrases in _PHRASES if any(phrase in lower for phrase in phrases)), None)
        missing = isinstance(error, NotFoundError)
        return LogError(found or (ReadFailure.NOT_FOUND if missing else ReadFailure.CONNECTION), text)
    return LogError(ReadFailure.CONNECTION, text)
