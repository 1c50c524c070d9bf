"""What Alembic runs: the migrations, on the connection and in the transaction that it is given."""

from alembic import context

from collector.store.schema import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # true of SQLite as well, because the transaction is begun explicitly
)
with context.begin_transaction():
    context.run_migrations()
