"""How the configuration in force compares with its file: whether the file was taken, and what waits for a restart."""

from dataclasses import dataclass

__all__ = ["ConfigStatus"]


@dataclass(frozen=True, kw_only=True)
class ConfigStatus:
    """The outcome of loading the configuration; times are Unix seconds."""

    loaded: float = 0.0  # when the configuration in force was loaded; the start counts
    error: str = ""  # why the file as it is now is not in force; empty if it is
    readable: bool = True  # whether the file can be read at all
    failing_since: float | None = None
    restart: tuple[str, ...] = ()  # the tables with changes that take effect at the next start
    restart_since: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the last attempt to load the file succeeded."""
        return not self.error

    @property
    def tables(self) -> str:
        """The tables that wait for a restart, such as `[server] and [store]`."""
        names = [f"[{name}]" for name in self.restart]
        return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
