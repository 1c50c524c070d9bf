"""What happens to the API server of a simulated cluster, and the faults it can have."""

from typing import Literal

from collector.simulator import errors
from collector.simulator.actions import Done, action
from collector.simulator.cluster_base import ClusterBase, new_token
from collector.simulator.faults import Misbehaviour
from collector.simulator.fleet import SimulationError

__all__ = ["ServerActions"]


class ServerActions(ClusterBase):
    """Actions on the API server."""

    @action
    def expire_versions(self, form: Literal["event", "status"] = "event") -> Done:
        """Compact the whole history: watches end, old versions get 410, as an ERROR event or as an HTTP status."""
        version = self._storage.version
        self._storage.compact()
        self.server.faults.expired_as_status = form == "status"
        if form == "event":
            message = f"too old resource version: {version} ({self._storage.compacted})"
            self._storage.fail_watches(errors.expired(message))
        else:
            self.server.connections.drop()
        return self._done("expired every resource version")

    @action
    def drop_connections(self) -> Done:
        """Break every open connection."""
        return self._done(f"dropped {self.server.connections.drop()} connections")

    @action
    def freeze_connections(self, new: bool = False) -> Done:
        """Keep the open connections open but silent; new also freezes those opened later."""
        return self._done(f"froze {self.server.connections.freeze(new=new)} connections")

    @action
    def thaw(self) -> Done:
        """Thaw frozen connections."""
        self.server.connections.thaw()
        return self._done("thawed all connections")

    @action
    def refuse_tokens(self) -> Done:
        """Answer 401 to every request; open connections stay open."""
        self.server.faults.refuses_tokens = True
        return self._done("rejects every token")

    @action
    def accept_tokens(self) -> Done:
        """Accept the kubeconfig's token again."""
        self.server.faults.refuses_tokens = False
        return self._done("accepts its token again")

    @action
    def rotate_token(self) -> Done:
        """Accept only a new token, and write it to the kubeconfig."""
        self.server.accounts.revoke()
        self.server.token = new_token(self.name)
        self._on_token()
        return self._done("accepts only a new token")

    @action
    def bind_token(self, lifetime: float = 3600.0, age: float = 0.0) -> Done:
        """Accept only a service account's token, issued `age` seconds ago, and write it to the kubeconfig.

        It ends `lifetime` seconds after it was made, and renews itself by the TokenRequest API.
        """
        self.server.accounts.revoke()
        self.server.token = self.server.accounts.issue("gpuid", "gpuid", lifetime, age=age)
        self._on_token()
        return self._done(f"accepts only a service account's token of {lifetime:g} s")

    @action
    def change_authority(self, publish: bool = True) -> Done:
        """Present a certificate of a new authority; publish also writes the authority to the kubeconfig."""
        self._on_authority()
        self.server.connections.drop()
        if publish:
            self._on_token()
        return self._done("presents a certificate of a new authority")

    @action
    def publish_authority(self) -> Done:
        """Write the authority to the kubeconfig."""
        self._on_token()
        return self._done("its authority is in the kubeconfig")

    @action
    def restore_backup(self, versions: int = 300) -> Done:
        """Restore the API server's store from a backup: resource versions go back, connections break."""
        if not 0 < versions < self._storage.version:
            raise SimulationError(f"{self.name}: versions must be between 1 and {self._storage.version - 1}")
        self._storage.restore(versions)
        self.server.connections.drop()
        return self._done(f"restored a backup; the resource version is {self._storage.version}")

    @action
    def misbehave(self, how: Misbehaviour = Misbehaviour.SERVER_ERROR, requests: int | None = None) -> Done:
        """Answer the next requests, or all until behave, as no client expects."""
        self.server.faults.misbehaviour = how
        self.server.faults.misbehaviours_left = requests
        return self._done(f"misbehaves: {how}")

    @action
    def behave(self) -> Done:
        """Stop misbehaving."""
        self.server.faults.misbehaviour = None
        return self._done("behaves")

    @action
    def throttle(self, requests: int | None = None, retry_after: int = 1) -> Done:
        """Answer 429 with Retry-After (seconds) to the next requests, or to all until unthrottle."""
        self.server.faults.throttled = requests
        self.server.faults.retry_after = retry_after
        return self._done(f"throttles {'all requests' if requests is None else f'{requests} requests'}")

    @action
    def unthrottle(self) -> Done:
        """Stop answering 429."""
        self.server.faults.throttled = 0
        return self._done("no longer throttles")

    @action
    def deny(self, verb: str = "*", resource: str = "*", namespace: str = "*") -> Done:
        """Deny a right: 403 for the verb on the resource, such as list pods; namespace "" is across all namespaces."""
        self.server.faults.denied.add((verb, resource, namespace))
        where = "" if namespace == "*" else f" in {namespace or 'all namespaces'}"
        return self._done(f"denies {verb} {resource}{where}")

    @action
    def allow(self, verb: str | None = None, resource: str | None = None) -> Done:
        """Allow a denied right again, or all of them."""
        denied = self.server.faults.denied
        denied -= {one for one in denied if verb in (None, one[0]) and resource in (None, one[1])}
        return self._done(f"denies {len(denied)} rights")

    @action
    async def stop(self) -> Done:
        """Stop the API server: close its port and every connection."""
        await self.server.stop()
        return self._done("stopped the API server")

    @action
    async def start(self) -> Done:
        """Start the API server again on the same port."""
        if not self.server.running:
            await self.server.start(self._port)
        return self._done("started the API server")
