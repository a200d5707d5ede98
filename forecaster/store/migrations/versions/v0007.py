"""The oldest schema that this program upgrades. A new ledger is made by `schema.create`."""

revision = "0007"
down_revision = None
