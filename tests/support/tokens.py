"""Service-account tokens as the TokenRequest API makes them, for tests that need odd ones; the signature is none."""

import base64
import json
from typing import Any

__all__ = ["AUDIENCE", "service_account_token"]

AUDIENCE = "https://kubernetes.default.svc"


def service_account_token(
    made: float,
    lifetime: float = 3600,
    *,
    namespace: str = "gpuid",
    name: str = "collector",
    uid: str = "uid-1",
    signature: str = "s3cr3t",
    bound: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    """Return a token; `claims` replace those that it would have, None takes one away."""
    document = {
        "aud": [AUDIENCE],
        "exp": made + lifetime,
        "iat": made,
        "sub": f"system:serviceaccount:{namespace}:{name}",
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}} | (bound or {}),
    } | claims
    kept = {key: value for key, value in document.items() if value is not None}
    payload = base64.urlsafe_b64encode(json.dumps(kept).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.{signature}"
