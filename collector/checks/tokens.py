"""Finds out whose token a cluster is watched by, when it ends and whether gpuid renews it."""

from typing import NamedTuple

from collector.checks.finding import TokenDetails
from collector.kube.client import ApiClient
from collector.kube.errors import ForbiddenError
from collector.kube.token_renewal import BadTokenError, may_renew, request_token
from collector.timestamps import rfc3339

__all__ = ["FoundToken", "look_at_token"]


class FoundToken(NamedTuple):
    """A service account's token that ends."""

    details: TokenDetails
    text: str


async def look_at_token(client: ApiClient) -> FoundToken | None:
    """Return what there is to say of the token in use; None if it is none that ends; raises ClusterError.

    Where it may be renewed, it is: an admission policy can deny what RBAC allows. The new token is forgotten.
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
        except BadTokenError:  # one that is as new as the present one ends no later
            pass
    if denial:
        outcome = f"gpuid cannot renew it: {denial}"
    elif tokens.may_renew is None:
        outcome = "the server does not say whether gpuid may renew it"
    elif not tokens.may_renew:
        outcome = "gpuid cannot renew it: it may not create serviceaccounts/token of itself"
    elif tokens.obstacle:
        outcome = f"gpuid renews it in memory alone: {tokens.where}: {tokens.obstacle}"
    else:
        outcome = "gpuid renews it"
    expiry = rfc3339(token.validity.ends, "seconds")
    details = TokenDetails(user=token.user, expiry=expiry, renewable=tokens.may_renew, kept=not tokens.obstacle)
    return FoundToken(details, f"its token ends on {expiry}; {outcome}")
