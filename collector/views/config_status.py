"""How the running configuration compares with its file: whether it was loaded, and what needs a restart."""

from dataclasses import dataclass

__all__ = ["ConfigStatus"]


@dataclass(frozen=True, kw_only=True)
class ConfigStatus:
    """The outcome of loading the configuration; times are Unix seconds."""

    loaded: float = 0.0  # when the running configuration was loaded, at start or later
    error: str = ""  # why the file's current content is not in effect; empty if it is
    readable: bool = True  # whether the file can be read at all
    failing_since: float | None = None
    restart: tuple[str, ...] = ()  # tables with changes that take effect after a restart
    restart_since: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the last attempt to load the file succeeded."""
        return not self.error

    @property
    def tables(self) -> str:
        """The tables that need a restart, such as `[server] and [store]`."""
        names = [f"[{name}]" for name in self.restart]
        return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
