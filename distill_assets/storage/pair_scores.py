"""The pair-score store: what a teacher said about a query and a document, by content; it is never asked twice.

Ask `missing`, score those in chunks, `commit` each chunk, then `lookup`. A kill costs at most one chunk.
"""

from dataclasses import dataclass

import pyarrow as pa

from distill_assets.core.errors import WarehouseError
from distill_assets.storage.missing_pairs import WantedPairs
from distill_assets.storage.tables import conform
from distill_assets.storage.warehouse import Warehouse

_PAIR = ["query_hash", "doc_hash"]


@dataclass(frozen=True)
class PairScoreStore:
    """Raw teacher logits by (teacher fingerprint, query hash, document hash), in the table `pair_scores`."""

    warehouse: Warehouse

    def missing(self, teacher_fingerprint: str, pairs: pa.Table) -> pa.Table:
        """The distinct pairs of `pairs` (query_hash, doc_hash) that this teacher never scored, sorted."""
        sql = """
            SELECT DISTINCT query_hash, doc_hash FROM incoming
            ANTI JOIN (SELECT query_hash, doc_hash FROM pair_scores WHERE teacher_fingerprint = ?) AS stored
                USING (query_hash, doc_hash)
            ORDER BY query_hash, doc_hash
        """
        return self.warehouse.query(sql, [teacher_fingerprint], incoming=_only_pairs(pairs))

    def commit(self, teacher_fingerprint: str, pairs: pa.Table) -> int:
        """Store scored pairs (query_hash, doc_hash, teacher_logit) in one transaction; return how many were new.

        A pair that is stored already keeps its logit.

        Raises:
            NonFiniteError: a logit is NaN or infinite; nothing is written then.
            WarehouseError: columns are missing or extra, or a value is NULL.
        """
        key = pa.repeat(pa.scalar(teacher_fingerprint, pa.large_string()), pairs.num_rows)
        rows = conform("pair_scores", pairs.append_column("teacher_fingerprint", key))
        with self.warehouse.transaction() as connection:
            connection.register("incoming", rows)
            inserted = connection.execute(
                """
                INSERT INTO pair_scores BY NAME
                SELECT teacher_fingerprint, query_hash, doc_hash, min(teacher_logit) AS teacher_logit FROM incoming
                ANTI JOIN (SELECT * FROM pair_scores WHERE teacher_fingerprint = ?) AS stored USING (query_hash, doc_hash)
                GROUP BY ALL
                """,
                [teacher_fingerprint],
            ).fetchall()
        return int(inserted[0][0])

    def lookup(self, teacher_fingerprint: str, pairs: pa.Table) -> pa.Table:
        """`pairs` (query_hash, doc_hash) with their teacher_logit: one row for each, in the order asked.

        Raises:
            WarehouseError: some were never scored; says how many.
        """
        asked = _only_pairs(pairs)
        numbered = asked.append_column("position", pa.array(range(asked.num_rows), pa.int64()))
        sql = """
            SELECT query_hash, doc_hash, stored.teacher_logit FROM incoming
            LEFT JOIN (SELECT * FROM pair_scores WHERE teacher_fingerprint = ?) AS stored USING (query_hash, doc_hash)
            ORDER BY position
        """
        found = self.warehouse.query(sql, [teacher_fingerprint], incoming=numbered)
        return _all_scored(found, teacher_fingerprint)

    def join(self, teacher_fingerprint: str, wanted: WantedPairs) -> pa.Table:
        """The rows of `wanted` with `teacher_logit` in place of their hashes, sorted by all other columns.

        Raises:
            WarehouseError: some were never scored; says how many.
        """
        sql = f"""
            SELECT wanted.* EXCLUDE (query_hash, doc_hash), stored.teacher_logit FROM ({wanted.sql}) AS wanted
            LEFT JOIN (SELECT * FROM pair_scores WHERE teacher_fingerprint = ?) AS stored USING (query_hash, doc_hash)
            ORDER BY ALL
        """
        parameters = [*wanted.parameters, teacher_fingerprint]
        return _all_scored(self.warehouse.query(sql, parameters, incoming=wanted.incoming), teacher_fingerprint)

    def count(self, teacher_fingerprint: str) -> int:
        """How many pairs this teacher has scored."""
        sql = "SELECT count(*) AS num_pairs FROM pair_scores WHERE teacher_fingerprint = ?"
        return int(self.warehouse.query(sql, [teacher_fingerprint])["num_pairs"][0].as_py())


def _all_scored(found: pa.Table, teacher_fingerprint: str) -> pa.Table:
    num_missing = found["teacher_logit"].null_count
    if num_missing:
        raise WarehouseError(
            f"pair_scores: {num_missing} of {found.num_rows} pairs have no score of "
            f"teacher {teacher_fingerprint!r}; expected all: score those that missing() names, commit them, "
            "and look up again"
        )
    return found


def _only_pairs(pairs: pa.Table) -> pa.Table:
    absent = sorted(set(_PAIR) - set(pairs.column_names))
    if absent:
        raise WarehouseError(f"pairs lack the columns {absent}: got {pairs.column_names}, expected {_PAIR}")
    only = pairs.select(_PAIR).cast(pa.schema([(name, pa.large_string()) for name in _PAIR]))
    num_null = sum(column.null_count for column in only.columns)
    if num_null:  # a NULL never joins: it would count as missing for ever, scored again on every run
        raise WarehouseError(f"pairs hold {num_null} NULL hashes, expected none: check the join that made them")
    return only
