"""Renews a cluster's service-account token in time with the TokenRequest API, as the kubelet does for pods."""

import functools
import logging
import random
import time
from collections.abc import Awaitable, Callable

import anyio
from kubernetes_asyncio.client import V1BoundObjectReference, V1TokenRequestSpec

from collector.backoff import Backoff
from collector.kube.access import Right, access_review, is_granted
from collector.kube.bound_token import BoundToken, bound_token
from collector.kube.client import ApiClient
from collector.kube.credentials import bearer
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError, UnauthorizedError
from collector.kube.token_credentials import TokenCredentials
from collector.kube.token_request import MIN_LIFETIME_SECONDS, create_token
from collector.kube.wire import MalformedError
from collector.model import GpuidError
from collector.redaction import redacting
from collector.timestamps import rfc3339

__all__ = ["RENEWAL_SHARE", "BadTokenError", "TokenRenewal", "may_renew", "request_token"]

log = logging.getLogger(__name__)

RENEWAL_SHARE = 0.8  # of a token's lifetime, after which it is renewed
MAX_JITTER_SECONDS = 10.0  # by which a renewal is earlier, so that clusters do not renew all at the same time
CHECK_INTERVAL_SECONDS = 60.0  # between two checks of the token, which others may replace too
MIN_INTERVAL_SECONDS = 1.0
RIGHT_INTERVAL_SECONDS = 3600.0  # after which a missing right may have been granted
RETRY = Backoff(initial=5.0, maximum=300.0)
MAX_LIFETIME_SECONDS = 1 << 32
SPACING_SHARE = 0.5  # of a token's lifetime, before which no new one is requested, whatever the clock says
MAX_SPACING_SECONDS = 3600.0
MAX_SKEW_SECONDS = 60.0  # between this clock and the server's, above which it is logged


# If available, a clock that keeps running while the machine sleeps.
_elapsed = functools.partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class BadTokenError(GpuidError):
    """The API server answered a TokenRequest with something that must not replace the current token."""


class TokenRenewal:
    """Renews the token of one session before it expires, in its own task.

    The token is renewed after `share` of its lifetime; `clock` returns Unix seconds, and `elapsed` seconds of a
    monotonic clock.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        share: float = RENEWAL_SHARE,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = _elapsed,
        wait: Callable[[float], Awaitable[None]] = anyio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._share = share
        self._clock = clock
        self._elapsed = elapsed
        self._earliest = float("-inf")  # by `elapsed`, as is the next one
        self._latest = float("inf")
        self._wait = wait
        self._rng = rng or random.Random()  # noqa: S311, spreads load and keeps no secret
        self._cluster = {"cluster": client.session.cluster.name}
        self._tokens: TokenCredentials | None = None
        self._text = ""  # the token that the following fields refer to
        self._renew_at = float("inf")
        self._try_at = float("-inf")
        self._ask_at = float("-inf")  # for the right to renew it
        self._failures = 0
        self._said: dict[str, str] = {}  # topic -> last message logged about it

    async def run(self) -> None:
        """Renew the token whenever it is due, until cancelled."""
        while True:
            await self._wait(await self.step())

    async def step(self) -> float:
        """Do what is due now; returns the seconds until the next check."""
        tokens = self._client.session.tokens
        if tokens is None:
            return CHECK_INTERVAL_SECONDS
        try:
            await self._client.session.authenticate()  # which reads a file again
        except ClusterError:  # which the requests report
            return CHECK_INTERVAL_SECONDS
        token = tokens.token
        if token is None:
            return CHECK_INTERVAL_SECONDS
        if tokens is not self._tokens or token.text != self._text:
            self._tokens = tokens
            self._start(token)
        await tokens.probe()
        if not tokens.may_renew and self._clock() >= self._ask_at:
            await self._ask(tokens, token)
        if tokens.renewed is not None:
            await self._save(tokens)
        if tokens.may_renew is not False and self._left() <= 0:
            await self._renew(tokens, token)
        return self._pause(tokens)

    def _start(self, token: BoundToken, *, made_now: bool = False) -> None:
        self._text, self._failures = token.text, 0
        jitter = self._rng.uniform(0, min(MAX_JITTER_SECONDS, (1 - self._share) * token.lifetime / 2))
        self._renew_at = token.at(self._share) - jitter
        self._earliest, self._latest = float("-inf"), float("inf")
        if made_now:  # whatever the clocks say
            self._latest = self._elapsed() + self._share * token.lifetime - jitter
            self._earliest = self._elapsed() + min(SPACING_SHARE * token.lifetime, MAX_SPACING_SECONDS)
        self._try_at = self._ask_at = float("-inf")

    def _pause(self, tokens: TokenCredentials) -> float:
        left = self._ask_at - self._clock() if not tokens.may_renew else float("inf")
        if tokens.may_renew is not False:
            left = min(left, self._left())
        return min(CHECK_INTERVAL_SECONDS, max(MIN_INTERVAL_SECONDS, left))

    def _left(self) -> float:
        """Return the seconds until the token is due for renewal."""
        elapsed, clock = self._elapsed(), self._clock()
        left = min(self._renew_at - clock, self._latest - elapsed)
        return max(left, self._try_at - clock, self._earliest - elapsed)

    async def _ask(self, tokens: TokenCredentials, token: BoundToken) -> None:
        """Check whether the token may be renewed; without an answer, renewal is tried when it is due."""
        try:
            answer = await may_renew(self._client, token)
        except ClusterError:  # which the requests report
            self._ask_at = self._clock() + CHECK_INTERVAL_SECONDS
            return
        tokens.may_renew = answer
        self._ask_at = self._clock() + RIGHT_INTERVAL_SECONDS
        if answer is False:
            self._say("right", logging.INFO, f"{_lacking(token)}; {_end(token)}")

    async def _renew(self, tokens: TokenCredentials, token: BoundToken) -> None:
        try:
            fresh = await request_token(self._client, token)
        except ForbiddenError as error:
            tokens.may_renew, self._ask_at = False, self._clock() + RIGHT_INTERVAL_SECONDS
            if error.by_admission:  # which limits what may be requested
                self._say("right", logging.WARNING, f"token renewal failed; {_end(token)}: {error}")
            else:
                self._say("right", logging.INFO, f"{_lacking(token)}; {_end(token)}: {error}")
        except GpuidError as error:
            self._try_at = self._clock() + RETRY.delay(self._failures, self._rng)
            self._failures += 1
            self._say("failure", logging.WARNING, f"token renewal failed; {_end(token)}: {error}")
        else:
            self._said = {matter: text for matter, text in self._said.items() if matter in ("file", "clock")}
            tokens.may_renew = True
            if not tokens.adopt(fresh, instead_of=token):
                return  # the token was replaced; the next step examines the new one
            self._start(fresh, made_now=True)
            log.info("token of %s renewed; %s", fresh.user, _end(fresh), extra=self._cluster)
            if abs(skew := self._clock() - fresh.validity.begins) > MAX_SKEW_SECONDS:
                which = "ahead of" if skew > 0 else "behind"
                why = f"this machine's clock is {which} the API server's by more than {MAX_SKEW_SECONDS:g} s"
                self._say("clock", logging.WARNING, f"{why}; tokens may be renewed too early or too late")
            await self._save(tokens)

    async def _save(self, tokens: TokenCredentials) -> None:
        if not await tokens.save() and tokens.obstacle:
            stored = tokens.stored_validity
            end = f", which expires on {rfc3339(stored.ends, 'seconds')}" if stored is not None else ""
            why = f"the renewed token is kept only in memory: {tokens.where}: {tokens.obstacle}"
            self._say("file", logging.INFO, f"{why}; a restart falls back to the old one{end}")

    def _say(self, matter: str, level: int, text: str) -> None:
        """Log a message unless it was the last one on its topic."""
        if self._said.get(matter) != text:
            self._said[matter] = text
            log.log(level, "%s", text, extra=self._cluster)


async def may_renew(client: ApiClient, token: BoundToken) -> bool | None:
    """Return whether we may renew our token, None if the API server does not answer; raises ClusterError."""
    return await is_granted(client, _right(token))


async def request_token(client: ApiClient, present: BoundToken) -> BoundToken:
    """Return a new token to replace the current one, already accepted by the API server.

    It has the lifetime, audiences and bound object of the current one. Raises ClusterError, and BadTokenError for one
    that must not replace it.
    """
    bound_to = present.bound_to
    reference = bound_to and V1BoundObjectReference(
        api_version="v1", kind=bound_to.kind, name=bound_to.name, uid=bound_to.uid
    )
    spec = V1TokenRequestSpec(
        audiences=list(present.audiences),
        expiration_seconds=min(max(round(present.lifetime), MIN_LIFETIME_SECONDS), MAX_LIFETIME_SECONDS),
        bound_object_ref=reference,
    )
    secrets = client.session.secrets
    with redacting(secrets):
        try:
            text = (await create_token(client, present.namespace, present.name, spec)).text
        except MalformedError:
            text = ""
        fresh = _checked(text, present)
        secrets.add_renewed(present.text, fresh.text)  # the current one, too: bad ones must not displace it
        await _prove(client, fresh)
    return fresh


def _right(token: BoundToken) -> Right:
    """Return the right to renew a token."""
    return Right("create", "serviceaccounts/token", token.namespace, name=token.name)


def _checked(text: str, present: BoundToken) -> BoundToken:
    """Return a token that may replace the current one; raises BadTokenError for any other."""
    fresh = bound_token(text)
    if fresh is None:
        what = "nothing" if not text else "something"
        raise BadTokenError(f"the API server returned {what} that is not a service-account token")
    if not fresh.same_account(present):
        raise BadTokenError("the API server returned the token of another service account")
    if set(fresh.audiences) != set(present.audiences):
        raise BadTokenError("the API server returned a token for other audiences")
    if fresh.bound_to != present.bound_to:
        raise BadTokenError("the API server returned a token bound to another object")
    if fresh.validity.ends <= present.validity.ends:
        raise BadTokenError("the API server returned a token that expires no later")
    return fresh


async def _prove(client: ApiClient, fresh: BoundToken) -> None:
    """Present a new token for the first time; raises BadTokenError if it is refused, ClusterError without an answer."""
    try:
        await client.read(access_review(client, _right(fresh)), credential=bearer(fresh.text, client.session.host))
    except UnauthorizedError:
        raise BadTokenError("the API server refuses the token that it has just issued") from None
    except (ForbiddenError, NotFoundError):
        pass  # the server recognizes us


def _lacking(token: BoundToken) -> str:
    return f"cannot renew the token: {token.user} may not create serviceaccounts/token for itself"


def _end(token: BoundToken) -> str:
    return f"it expires on {rfc3339(token.validity.ends, 'seconds')}"
