"""How to fix what the check of a cluster finds."""

import os

from collector.checks.fitting import command_hint
from collector.config import ClusterSettings, PodSource, SourceMethod
from collector.kube.errors import (
    CertificateTimeError,
    CredentialPluginFailedError,
    ExpiredTokenError,
    ForbiddenError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
    UntrustedCertificateError,
    denied_by_admission,
)
from collector.model import GpuidError, ReadError, ReadFailure
from collector.text import shell_word

__all__ = ["ISSUER_HINT", "READ_HINTS", "error_hint", "plugin_hint", "read_hint"]

_EXEC_HINTS = {
    ReadFailure.FORBIDDEN: "gpuid grant --apply grants everything needed",
    ReadFailure.NO_CONTAINER: "set `container` of the source to a container of this pod",
    ReadFailure.NO_BINARY: "set `command`, or choose pods whose container has nvidia-smi",
    ReadFailure.TIMEOUT: "nvidia-smi hangs on that node, or exec_timeout is too short",
    ReadFailure.EXIT_STATUS: "the node's driver may be broken; kubectl exec shows the full output",
    ReadFailure.BAD_OUTPUT: "`command` must print the output of `nvidia-smi -q -x`",
}
_LOG_HINTS = {
    ReadFailure.FORBIDDEN: "pods/log needs get",
    ReadFailure.NO_CONTAINER: "set `container` of the source to the container of this pod that prints the output",
    ReadFailure.TIMEOUT: "exec_timeout is too short for this log",
    ReadFailure.BAD_OUTPUT: "kubectl logs shows the pod's output, which must be that of `nvidia-smi -q -x`",
    ReadFailure.NO_DOCUMENT: "a pod that just started, or whose log was just rotated, prints one within minutes",
    ReadFailure.STALE: "kubectl logs shows whether the pod still prints; restart it, or have it print every 5 minutes",
}
READ_HINTS = {SourceMethod.EXEC: _EXEC_HINTS, SourceMethod.LOG: _LOG_HINTS}
_OWN_POLICY = "ValidatingAdmissionPolicy 'gpuid-"  # of `gpuid grant`, which can change it
_ADMISSION_HINT = "the cluster's admission control denies it; ask the cluster's administrators to allow it"
ISSUER_HINT = "check idp-issuer-url and idp-certificate-authority in the kubeconfig; is the issuer reachable from here?"


def error_hint(error: GpuidError, cluster: ClusterSettings, *, anonymous: bool, has_plugin: bool) -> str:
    """Return how to fix an error of a cluster's check, or an empty string.

    `anonymous` is whether its kubeconfig has no credentials, and `has_plugin` whether it has a credential plugin.
    """
    kubectl = _kubectl(cluster)
    match error:
        case ServerError() if error.status == 200:
            return "a sign-in page or proxy may be responding instead of the API server; check the address"
        case UnauthorizedError() | ForbiddenError() if anonymous:
            return "give the user a token, a certificate or an exec plugin (kubectl config set-credentials)"
        case ExpiredTokenError():
            return "create a new one with `gpuid grant CLUSTER --kubeconfig FILE`"
        case UnauthorizedError():
            return f"log in again; `{kubectl}` fails the same way" if kubectl else "check the pod's service account"
        case CredentialPluginFailedError():
            return plugin_hint(cluster) if has_plugin else ISSUER_HINT
        case CertificateTimeError():
            return ""  # it says what to do
        case UntrustedCertificateError():
            return "check certificate-authority and tls-server-name in the kubeconfig"
        case UnreachableError():
            return "check the address; is a VPN or a proxy-url needed?"
        case _:
            return ""


def plugin_hint(cluster: ClusterSettings) -> str:
    """Return how to see why the credential plugin of a cluster's kubeconfig fails."""
    return f"`{_kubectl(cluster)}` runs the same plugin and shows its output"


def read_hint(error: ReadError, source: PodSource) -> str:
    """Return how to make a pod of a source readable, or an empty string."""
    hint = ""
    if error.reason is ReadFailure.NO_BINARY:
        hint = command_hint(source)
    elif error.reason is ReadFailure.FORBIDDEN and denied_by_admission(str(error)):
        hint = "" if _OWN_POLICY in str(error) else _ADMISSION_HINT
    return hint or READ_HINTS[source.method].get(error.reason, "")


def _kubectl(cluster: ClusterSettings) -> str:
    """Return the kubectl command that uses the same credentials; empty with a service account's."""
    context, files = cluster.context, cluster.kubeconfig
    if context is None:
        return ""
    command = f"kubectl --context {shell_word(context)} get nodes"
    if files is None:
        return command
    if os.pathsep in files:  # the option accepts only one
        return f"KUBECONFIG={shell_word(files)} {command}"
    return command.replace("kubectl", f"kubectl --kubeconfig {shell_word(files)}", 1)
