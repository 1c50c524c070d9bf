"""`gpuid store`: a copy of the store, and the way back to an older gpuid."""

from pathlib import Path

import anyio
import click

from collector import config as configuration
from collector.cli.logs import configure
from collector.cli.options import config_option, confirm
from collector.config import ConfigError
from collector.store import StoreSettings
from collector.store import downgrade as stores

__all__ = ["store"]


@click.group()
def store() -> None:
    r"""Back up the store, or take it back to an older gpuid.

    A collector updates its store when it starts, and an older gpuid refuses a store that a newer one has
    updated. Before an update, make a backup; to go back without losing what was recorded since, downgrade.

    \b
    Examples:
      gpuid store backup gpuid-before.db
      gpuid store downgrade --to 0009
    """


@store.command()
@click.argument("file", type=click.Path(path_type=Path))
@config_option
def backup(config: Path, file: Path) -> None:
    r"""Copy an SQLite store to a new FILE, also while a collector uses it.

    The copy is a whole store. To restore it, stop the collector, move the store's files away (with -wal and
    -shm) and put the copy in their place. Use pg_dump for PostgreSQL.

    \b
    Example:
      gpuid store backup /backup/gpuid-$(date +%F).db
    """
    size = anyio.run(stores.backup, _settings(config), file)
    click.echo(f"Copied the store to {file} ({size / 1e6:,.1f} MB).")


@store.command()
@click.option("--to", "schema", metavar="SCHEMA", required=True, help="Schema that the older gpuid says it knows.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@config_option
def downgrade(config: Path, schema: str, yes: bool) -> None:
    r"""Take the store back to the schema of an older gpuid.

    Run it with the newer gpuid, which knows the way, while no collector uses the store; then start the older
    one. Inventory, history and what waits for the sinks are kept. What the older version cannot know is
    listed and deleted after a confirmation. It all happens in one transaction. On PostgreSQL it first waits
    a few seconds for standbys, and refuses if one takes the lead.

    \b
    Example:
      gpuid store downgrade --to 0009
    """
    configure("warning", "text")
    settings = _settings(config)
    lost = [one.lost for one in anyio.run(stores.undone_in, settings, schema) if one.lost]
    if lost and not yes:
        confirm(f"This deletes {'; '.join(lost)}. Continue?", nothing="changed")
    anyio.run(stores.downgrade, settings, schema)
    click.echo(f"The store has schema {schema}.")


def _settings(path: Path) -> StoreSettings:
    settings = configuration.load(path).store
    if settings is None:
        raise ConfigError(f"{path}: store: expected a [store] table")
    return settings
