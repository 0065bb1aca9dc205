"""Alembic's scripts. `sql.schema.migrate` runs them; there is no alembic.ini to find."""
