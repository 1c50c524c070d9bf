"""Real servers on the loopback interface, and the rule that no log ever says a secret."""

from tests.support.kubernetes import (
    authority,
    clock,
    failure,
    issuer,
    kubeconfig,
    named_server,
    nothing_says_a_secret,
    other_authority,
    plain_server,
    plugin,
    proxy,
    server,
    tls_proxy,
)

__all__ = [
    "authority",
    "clock",
    "failure",
    "issuer",
    "kubeconfig",
    "named_server",
    "nothing_says_a_secret",
    "other_authority",
    "plain_server",
    "plugin",
    "proxy",
    "server",
    "tls_proxy",
]
