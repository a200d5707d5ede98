"""What alembic runs: the steps that are owed, on the connection that `upgrade` was given."""

from __future__ import annotations

from alembic import context

from forecaster.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
