"""Online Retail II: the invoices of a British gift wholesaler (Chen 2012, CC BY 4.0).

Two files that overlap in December 2010: the first counts up to the second's first minute. Kept are
lines with a customer and a description and a quantity above 0; an item is the description in upper
case, without those that are no goods. A basket (customer and minute) is one question.
"""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.evaluation.interactions import Interactions, ReplayRule, from_columns
from ray_jobs.encoders.item_text import clean

FIRST, SECOND = "online_retail_ii_2009-12_2010-12.parquet", "online_retail_2010-12_2011-12.parquet"
NO_GOODS = (
    "POSTAGE",
    "CARRIAGE",
    "MANUAL",
    "TEST",
    "BANK CHARGES",
    "DOTCOM",
    "DISCOUNT",
    "ADJUST",
    "SAMPLES",
)


def is_online_retail(folder: Path) -> bool:
    """Whether its two files are in the folder."""
    return (folder / FIRST).is_file() and (folder / SECOND).is_file()


def read_online_retail(folder: Path) -> Interactions:
    """492,601 events of 5,853 customers and 5,224 items; replayed from 2011-10-01 by basket."""
    second = _lines(folder / SECOND, "CustomerID")
    first = _lines(folder / FIRST, "Customer ID")
    first = first.filter(pc.less(first["at_ms"], pc.min(second["at_ms"])))
    lines = pa.concat_tables([first, second])
    goods = pc.invert(pc.match_substring_regex(lines["item"], "|".join(NO_GOODS)))
    kept = pc.and_(pc.greater(lines["quantity"], 0), pc.is_valid(lines["customer"]))
    kept = pc.and_(kept, pc.and_(goods, pc.greater(pc.utf8_length(lines["item"]), 0)))
    lines = lines.filter(pc.fill_null(kept, False))
    items = lines["item"].combine_chunks().dictionary_encode()
    customers = lines["customer"].combine_chunks().dictionary_encode()
    return from_columns(
        "online_retail",
        [clean(name) for name in items.dictionary.to_pylist()],
        items_E=items.indices.cast(pa.int64()).to_numpy(),
        users_E=customers.indices.cast(pa.int64()).to_numpy(),
        at_ms_E=lines["at_ms"].to_numpy(),
        kinds_E="purchase",
        rule=ReplayRule(
            cut_ms=int(datetime(2011, 10, 1, tzinfo=UTC).timestamp()) * 1000,
            validation_days=28,
            question="basket",
        ),
    )


def _lines(path: Path, customer: str) -> pa.Table:
    table = pq.read_table(path, columns=["Description", "Quantity", "InvoiceDate", customer])
    names = pc.utf8_upper(pc.utf8_trim_whitespace(table["Description"].cast(pa.string())))
    return pa.table(
        {
            "item": names,
            "quantity": table["Quantity"].cast(pa.int64()),
            "at_ms": table["InvoiceDate"].cast(pa.timestamp("ms")).cast(pa.int64()),
            "customer": pc.if_else(pc.is_nan(table[customer]), None, table[customer]),
        }
    )
