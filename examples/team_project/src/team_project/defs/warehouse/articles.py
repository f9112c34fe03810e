"""The team's own assets: articles of a help centre, and what customers asked. A table of the project stands for a warehouse."""

from pathlib import Path

import dagster as dg
import pandas as pd

TABLE = Path(__file__).parent / "data" / "articles.csv"
INVOICING = [
    "invoice",
    "subscription",
    "refund",
    "voucher",
    "receipt",
    "basket",
    "credit note",
    "gift card",
    "price alert",
    "service contract",
    "warranty",
]


@dg.asset(key=["warehouse", "articles"], group_name="warehouse", kinds={"pandas"})
def articles() -> pd.DataFrame:
    """All articles of the help centre."""
    return pd.read_csv(TABLE)


@dg.asset(key=["warehouse", "invoicing_articles"], group_name="warehouse", kinds={"pandas"})
def invoicing_articles() -> pd.DataFrame:
    """The half of them that the invoicing desk answers from."""
    table = pd.read_csv(TABLE)
    return table[table["product"].isin(INVOICING)]
