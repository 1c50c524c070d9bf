"""Tests whether an API server enforces the admission policy that limits exec, which being stored does not prove."""

import functools
from enum import StrEnum

from kubernetes_asyncio.client import CoreV1Api

from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError

__all__ = ["NOT_IN_FORCE", "ExecLimit", "look_at_exec"]

NOT_IN_FORCE = (
    "no admission policy limits its exec: anyone with the token can run any command in the pods of its sources"
)

_POD = "gpuid-no-such-pod"
_COMMAND = "gpuid-no-such-command"


class ExecLimit(StrEnum):
    """The outcome of an exec that only a policy denies."""

    IN_FORCE = "in_force"
    NOT_IN_FORCE = "not_in_force"
    NO_RIGHT = "no_right"  # RBAC already denies it
    UNKNOWN = "unknown"


async def look_at_exec(client: ApiClient, namespace: str, *, as_user: str = "") -> ExecLimit:
    """Try to run a command of no source in a nonexistent pod: policies are evaluated before the pod is looked up.

    `as_user` is the user to impersonate. Raises nothing.
    """
    headers = {"Impersonate-User": as_user} if as_user else {}
    run: ApiMethod = CoreV1Api(client).connect_get_namespaced_pod_exec
    try:
        await client.read(
            functools.partial(run, _headers=headers), _POD, namespace, command=[_COMMAND], container=_POD, stdout=True
        )
    except ForbiddenError as error:
        if error.by_admission:
            return ExecLimit.IN_FORCE
        return ExecLimit.UNKNOWN if as_user and "impersonate" in str(error) else ExecLimit.NO_RIGHT
    except NotFoundError:
        return ExecLimit.NOT_IN_FORCE
    except ClusterError:
        pass
    return ExecLimit.UNKNOWN
