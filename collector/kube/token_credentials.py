"""The token of a kubeconfig and the newer one that gpuid renewed it to: which one to use, and where to store it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import anyio.to_thread

from collector.kube.bound_token import BoundToken, bound_token
from collector.kube.credentials import Credential, Credentials
from collector.kube.token_file import obstacle, replace_token
from collector.tls import Validity

__all__ = ["INLINE", "TokenCredentials"]

INLINE = "it is inline in the kubeconfig"
LATE_SHARE = 0.9  # of a token's lifetime, after which it counts as not renewed by anyone

_SCHEME = "Bearer "


class TokenCredentials:
    """The token that `source` reads, or its renewed one: of one account, whichever expires later.

    The renewal itself is elsewhere (`collector.kube.token_renewal`): `adopt` takes the new token. `file` is where the
    source reads it, None for a token in the kubeconfig itself. `before` are the credentials that these replace, for the
    same server: tokens renewed from them remain in use.
    """

    def __init__(
        self,
        source: Credentials,
        file: Path | None,
        *,
        clock: Callable[[], float] = time.time,
        before: Self | None = None,
    ) -> None:
        self._source = source
        self._file = file
        self._clock = clock
        self._stored: Credential | None = None  # the source's
        self._stored_token: BoundToken | None = None
        # The renewed token that is not stored yet:
        self.renewed: BoundToken | None = before.renewed if before is not None else None
        self._prefers_stored = False  # the server has refused the renewed one
        self._current: Credential | None = None
        self.may_renew: bool | None = None  # None: unknown
        self.obstacle: str | None = INLINE if file is None else None  # to storing a renewed token; None: unknown

    @property
    def where(self) -> str:
        """Where the token used after a restart is stored."""
        return str(self._file) if self._file is not None else "the kubeconfig"

    @property
    def token(self) -> BoundToken | None:
        """The token in use, once it has been read; None for one that gpuid does not renew."""
        stored = self._stored_token
        if stored is None or stored.of_pod:
            return None
        return stored if self.renewed is None or self._prefers_stored else self.renewed

    @property
    def stored_validity(self) -> Validity | None:
        """The validity of the token used after a restart."""
        return self._stored_token.validity if self._stored_token is not None else None

    async def get(self) -> Credential:
        """Return the token to use now; raises ClusterError."""
        stored = await self._source.get()
        if stored is not self._stored:
            self._note_stored(stored)
        token = self.token
        if token is None:
            self._current = stored
            return stored
        authorization, lapse = f"{_SCHEME}{token.text}", self._lapse(token)
        if self._current is None or (self._current.authorization, self._current.lapse) != (authorization, lapse):
            self._current = Credential(authorization=authorization, lapse=lapse)
        return self._current

    def refused(self, credential: Credential) -> None:
        """Have the file read again, and use the other token next if there is one that has not expired."""
        if self._current is None or credential.authorization != self._current.authorization:
            return
        if self._stored is not None:
            self._source.refused(self._stored)
        if self.renewed is not None and self._stored_token is not None:
            other = self.renewed if self._prefers_stored else self._stored_token
            if self._clock() < other.validity.ends:
                self._prefers_stored = not self._prefers_stored

    def reset(self, version: object) -> None:
        """Have the file read again."""
        self._source.reset(version)

    def adopt(self, token: BoundToken, *, instead_of: BoundToken) -> bool:
        """Use this token from the next request on; return False if another one is in use by now, which is kept."""
        if self.token is None or self.token.text != instead_of.text:
            return False
        self.renewed, self._prefers_stored = token, False
        return True

    async def probe(self) -> None:
        """Check whether a renewed token can be written to the file."""
        if self._file is not None:
            self.obstacle = await anyio.to_thread.run_sync(obstacle, self._file, abandon_on_cancel=True)

    async def save(self) -> bool:
        """Write the renewed token to the file if that holds the one it was renewed from; otherwise note why not."""
        if self._file is None or self.renewed is None or self._stored_token is None or self._prefers_stored:
            return False
        old, new = self._stored_token.text, self.renewed.text
        self.obstacle = await anyio.to_thread.run_sync(replace_token, self._file, old, new)
        self._source.reset(None)
        return not self.obstacle

    def _note_stored(self, stored: Credential) -> None:
        """Record the source's current token: it wins if it is of another account, or expires later."""
        token = bound_token(stored.authorization.removeprefix(_SCHEME))
        renewed = self.renewed
        if renewed is not None and (
            token is None or not token.same_account(renewed) or token.validity.ends >= renewed.validity.ends
        ):
            self.renewed, self._prefers_stored = None, False
        if token is None or self._stored_token is None or not token.same_account(self._stored_token):
            self.may_renew = None
        self._stored, self._stored_token = stored, token

    def _lapse(self, token: BoundToken) -> Validity | None:
        """Return the expiry that only a person can extend, if there is one."""
        if self.obstacle != "":
            return self.stored_validity  # a restart returns to it
        if self.may_renew and self._clock() < token.at(LATE_SHARE):
            return None
        return token.validity
