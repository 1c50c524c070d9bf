"""Run by Alembic: the migrations, in the connection's transaction if it has one, else in one for each."""

from alembic import context

from collector.store.schema import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # true of SQLite as well, because the transaction is begun explicitly
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
