"""The pair-score store: what each member of a teacher said about a query and a document, by content; it is never asked twice.

Find what is `missing` (`storage/missing_pairs.py`), score it in chunks, `commit` each chunk, then `join`. A kill costs at most one
chunk. Members keep their own logits. Weights, scales and folds are applied on reading, so a new weight costs no forward pass.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa

from distill_assets.errors import WarehouseError
from distill_assets.storage.missing_pairs import MissingPairs, WantedPairs, find_missing, reading_scores
from distill_assets.storage.tables import conform
from distill_assets.storage.warehouse import Warehouse, select

_JOIN_MEMORY_MB = 1024  # enough for ten million pairs of eight members; without a limit one million took as much


@dataclass(frozen=True, slots=True)
class Part:
    """What one member adds to a teacher's score: `weight` times its logit, for the queries that its fold may score."""

    scorer_id: str
    weight: float = 1.0
    fold: int = 0


@dataclass(frozen=True)
class JoinRule:
    """How members' logits become one teacher logit.

    The logit of a pair is the sum over folds of the fold's share in the query, times the sum of weight x logit of its parts.

    Attributes:
        parts: every member.
        shares: `query_hash, share_0, share_1, ...`: 1 / n for each of the n folds that may score the query, else 0. None where
            there is one fold.
    """

    parts: tuple[Part, ...]
    shares: pa.Table | None = None

    @property
    def num_folds(self) -> int:
        """Folds of the teacher."""
        return 1 + max(part.fold for part in self.parts)


@dataclass(frozen=True)
class PairScoreStore:
    """Raw logits by (scorer id, query hash, document hash), in the table `pair_scores`.

    Attributes:
        warehouse: of the line, with the texts of the pairs.
        shared: where new logits are kept for several lines. Those that the line's warehouse has are read there, and stay.
    """

    warehouse: Warehouse
    shared: Warehouse | None = None

    @property
    def home(self) -> Warehouse:
        """Where new logits are kept."""
        return self.shared or self.warehouse

    def missing(self, scorer_id: str, wanted: WantedPairs) -> AbstractContextManager[MissingPairs]:
        """See `find_missing`."""
        return find_missing(self.warehouse, scorer_id, wanted, self.shared)

    def commit(self, scorer_id: str, pairs: pa.Table) -> int:
        """Store scored pairs (query_hash, doc_hash, teacher_logit) in one transaction; return how many were new.

        A pair that is stored already keeps its logit.

        Raises:
            NonFiniteError: a logit is NaN or infinite; nothing is written then.
            WarehouseError: columns are missing or extra, or a value is NULL.
        """
        key = pa.repeat(pa.scalar(scorer_id, pa.large_string()), pairs.num_rows)
        rows = conform("pair_scores", pairs.append_column("scorer_id", key))
        with self.home.transaction() as connection:
            connection.register("incoming", rows)
            inserted = connection.execute(
                """
                INSERT INTO pair_scores BY NAME
                SELECT scorer_id, query_hash, doc_hash, min(teacher_logit) AS teacher_logit FROM incoming
                ANTI JOIN (SELECT * FROM pair_scores WHERE scorer_id = ?) AS stored USING (query_hash, doc_hash)
                GROUP BY ALL
                """,
                [scorer_id],
            ).fetchall()
        return int(inserted[0][0])

    def join(self, rule: JoinRule, wanted: WantedPairs, *, is_partial: bool = False) -> pa.Table:
        """The rows of `wanted` with `teacher_logit`, float32, in place of their hashes, sorted by all other columns.

        Where `is_partial`, a pair that was never scored has NULL.

        Raises:
            WarehouseError: some were never scored; says how many.
        """
        sql, parameters = _join_sql(rule, wanted)
        tables = {} if rule.shares is None else {"shares": rule.shares}
        scorer_ids = [part.scorer_id for part in rule.parts]
        with reading_scores(self.warehouse, self.shared, scorer_ids, wanted, _JOIN_MEMORY_MB) as connection:
            found = select(connection, sql, parameters, tables)
        num_missing = found["teacher_logit"].null_count
        if num_missing and not is_partial:
            raise WarehouseError(
                f"pair_scores: {num_missing} of {found.num_rows} pairs have no score of "
                f"{', '.join(scorer_ids)}; expected all: score what is missing, then read again"
            )
        return found

    def count(self, scorer_ids: Sequence[str]) -> int:
        """How many pairs of these members are where new ones are kept."""
        sql = "SELECT count(*) AS num_pairs FROM pair_scores WHERE scorer_id IN (SELECT unnest(?::VARCHAR[]))"
        return int(self.home.query(sql, [list(scorer_ids)])["num_pairs"][0].as_py())


def _join_sql(rule: JoinRule, wanted: WantedPairs) -> tuple[str, dict[str, object]]:
    """One join per member, so that the sum has one order and equal inputs give equal bits.

    A pair that a fold may not score is never NULL for that fold; a member that has not scored its pair makes the sum NULL.
    """
    joins, folds = [], []
    parameters: dict[str, object] = dict(wanted.parameters)
    for number, part in enumerate(rule.parts):
        parameters[f"member_{number}"] = part.scorer_id
        joins.append(_JOIN.format(name=f"member_{number}"))
    for fold in range(rule.num_folds):
        terms = [
            f"({part.weight!r}::DOUBLE * member_{number}.teacher_logit::DOUBLE)"
            for number, part in enumerate(rule.parts)
            if part.fold == fold
        ]
        score = " + ".join(terms)
        folds.append(
            score if rule.shares is None else f"CASE WHEN share_{fold} = 0 THEN 0 ELSE share_{fold} * ({score}) END"
        )
    logit = " + ".join(folds)
    if rule.shares is not None:
        joins.append("LEFT JOIN shares USING (query_hash)")
    sql = f"""
        SELECT wanted.* EXCLUDE (query_hash, doc_hash), ({logit})::FLOAT AS teacher_logit FROM ({wanted.sql}) AS wanted
        {" ".join(joins)} ORDER BY ALL
    """
    return sql, parameters


_JOIN = """
    LEFT JOIN (SELECT query_hash, doc_hash, teacher_logit FROM scores WHERE scorer_id = ${name}) AS {name}
    USING (query_hash, doc_hash)
"""
