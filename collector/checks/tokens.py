"""Finds out with whose token a cluster is watched, when it expires and whether gpuid renews it."""

from typing import NamedTuple

from collector.checks.finding import TokenDetails
from collector.kube.client import ApiClient
from collector.kube.errors import ForbiddenError
from collector.kube.token_renewal import BadTokenError, may_renew, request_token
from collector.timestamps import rfc3339

__all__ = ["FoundToken", "look_at_token"]


class FoundToken(NamedTuple):
    """A service account's token that expires."""

    details: TokenDetails
    text: str


async def look_at_token(client: ApiClient) -> FoundToken | None:
    """Return details of the token in use; None if it does not expire; raises ClusterError.

    If renewal is allowed, it is tried, since an admission policy can deny what RBAC allows. The new token is discarded.
    """
    tokens = client.session.tokens
    if tokens is None or (token := tokens.token) is None:
        return None
    await tokens.probe()
    tokens.may_renew, denial = await may_renew(client, token), ""
    if tokens.may_renew:
        try:
            await request_token(client, token)
        except ForbiddenError as error:
            tokens.may_renew, denial = False, str(error)
        except BadTokenError:  # one as new as the current token expires no later
            pass
    if denial:
        outcome = f"gpuid cannot renew it: {denial}"
    elif tokens.may_renew is None:
        outcome = "the server does not say whether gpuid may renew it"
    elif not tokens.may_renew:
        outcome = "gpuid cannot renew it: it may not create serviceaccounts/token for itself"
    elif tokens.obstacle:
        outcome = f"gpuid renews it only in memory: {tokens.where}: {tokens.obstacle}"
    else:
        outcome = "gpuid renews it"
    expiry = rfc3339(token.validity.ends, "seconds")
    details = TokenDetails(user=token.user, expiry=expiry, renewable=tokens.may_renew, kept=not tokens.obstacle)
    return FoundToken(details, f"its token expires on {expiry}; {outcome}")
