"""What happened, what exists, what is live: the database layer (SQLAlchemy Core).

Reading order: `tables` (the schema), `engine` (how a connection is made safe), `events` (the log),
`catalog` (items), `generations` (the live pointer), `sessions`, `snapshot` (the one read of a
recommendation), then `activity`, `exposures`, `erasure`.
"""
