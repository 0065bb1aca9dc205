"""Catalogs and histories into the database, from Parquet, CSV, JSON Lines or a known data set.

In reading order: `readers` (a file becomes rows), `columns` (which column is which field),
`values` and `rows` (a row becomes an item or an event, or a reason why not), `rejects` (where the
reasons go, with their rows; not of who was `erased`), `catalog` and `history` (into the database,
in paced transactions), `movielens`.
"""
