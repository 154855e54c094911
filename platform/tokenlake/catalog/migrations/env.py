"""Run by alembic: migrate over the connection that `tokenlake.catalog.connect` hands in."""

from alembic import context

from tokenlake.catalog.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
