"""Documents that are about to be stored, beside those of the other batches: what the checks of `corpus` ask. In bounded memory."""

from collections.abc import Sequence

import pyarrow as pa

from distill_assets.documents import StoredDocuments
from distill_assets.storage.collection import CONTENT
from distill_assets.storage.warehouse import Warehouse

_OTHERS = "SELECT * FROM corpus WHERE batch IN (SELECT unnest($others::VARCHAR[]))"
# Letters and digits of all scripts, as Python's `isalnum`.
_EMPTY = rf"SELECT doc_id, {CONTENT} AS content FROM incoming WHERE NOT regexp_matches(content, '[\p{{L}}\p{{N}}]')"
# The owners of a content, here first, then by batch and id. A copy's other owner is the first that has another id.
_COPIES = f"""
    WITH owners AS (
        SELECT content_hash, '' AS batch, doc_id FROM incoming
        UNION ALL SELECT content_hash, batch, doc_id FROM ({_OTHERS}) SEMI JOIN incoming USING (content_hash)
    ),
    firsts AS (
        SELECT content_hash, min(struct_pack(batch := batch, doc_id := doc_id)) AS first FROM owners
        GROUP BY content_hash HAVING min(doc_id) <> max(doc_id)
    ),
    seconds AS (
        SELECT content_hash, min(struct_pack(batch := batch, doc_id := doc_id)) AS second
        FROM owners JOIN firsts USING (content_hash) WHERE doc_id <> first.doc_id GROUP BY content_hash
    )
    SELECT doc_id, CASE WHEN doc_id = first.doc_id THEN second ELSE first END AS owner
    FROM incoming JOIN firsts USING (content_hash) JOIN seconds USING (content_hash)
"""
_WHOLE = """
    SELECT {keys}, string_agg(content_hash, '' ORDER BY length(doc_id), doc_id) AS hashes FROM {rows} SEMI JOIN cut USING (named)
    GROUP BY {keys}
"""
_TEXT = f"string_agg({CONTENT}, ' ' ORDER BY length(doc_id), doc_id)"
# Documents by their name: one that was cut is all its passages, one after the other.
_CHANGED = f"""
    WITH others AS ({_OTHERS}),
    here_rows AS (
        SELECT coalesce(parent_id, doc_id) AS named, doc_id, content_hash FROM incoming LEFT JOIN incoming_passages USING (doc_id)
    ),
    there_rows AS (
        SELECT coalesce(parent_id, doc_id) AS named, batch, doc_id, content_hash FROM others LEFT JOIN passages USING (batch, doc_id)
    ),
    cut AS (SELECT parent_id AS named FROM incoming_passages UNION SELECT named FROM there_rows WHERE named <> doc_id),
    cut_here AS ({_WHOLE.format(rows="here_rows", keys="named")}),
    cut_there AS ({_WHOLE.format(rows="there_rows", keys="named, batch")}),
    changed AS (
        SELECT DISTINCT named FROM here_rows JOIN there_rows USING (named) ANTI JOIN cut USING (named)
        WHERE here_rows.content_hash <> there_rows.content_hash
        UNION SELECT named FROM cut_here JOIN cut_there USING (named) WHERE cut_here.hashes <> cut_there.hashes
    ),
    chosen AS (SELECT named, (SELECT count(*) FROM changed) AS num_changed FROM changed ORDER BY sha256(named) LIMIT $limit),
    here AS (
        SELECT named, {_TEXT} AS content FROM here_rows SEMI JOIN chosen USING (named) JOIN incoming USING (doc_id) GROUP BY named
    ),
    there AS (
        SELECT named, batch, {_TEXT} AS content
        FROM there_rows SEMI JOIN chosen USING (named) JOIN others USING (batch, doc_id) GROUP BY named, batch
    )
    SELECT named AS doc_id, here.content AS here, batch, there.content AS there, num_changed
    FROM chosen JOIN here USING (named) JOIN there USING (named) WHERE here.content <> there.content ORDER BY named, batch
"""


def find_empty(warehouse: Warehouse, documents: StoredDocuments, limit: int) -> tuple[int, list[tuple[str, str]]]:
    """How many documents hold no letter and no digit; id and content of the first of them, by id."""
    found = warehouse.query(_some(_EMPTY), {"limit": limit}, tables={"incoming": documents}).to_pylist()
    return _total(found), [(row["doc_id"], row["content"]) for row in found]


def find_copies(
    warehouse: Warehouse, documents: StoredDocuments, others: Sequence[str], limit: int
) -> tuple[int, list[tuple[str, str, str]]]:
    """How many documents say what one with another id says; of the first of them the id, the other's batch and its id.

    The batch is empty where the other one is of these documents. The same id in one of the batches `others` is no copy.
    """
    parameters = {"others": list(others), "limit": limit}
    found = warehouse.query(_some(_COPIES), parameters, tables={"incoming": documents}).to_pylist()
    return _total(found), [(row["doc_id"], row["owner"]["batch"], row["owner"]["doc_id"]) for row in found]


def find_changed(
    warehouse: Warehouse, documents: StoredDocuments, passages: pa.Table, others: Sequence[str], limit: int
) -> tuple[int, list[tuple[str, str, str, str]]]:
    """How many ids have another text in one of the batches `others`; (id, text here, batch, text there) of at most `limit` ids.

    They are chosen by hash, and sorted by id and batch. Of a document in `passages`, or that is in passages there, id and text are the
    document's: a paragraph more moves the text of every passage.
    """
    if not others:
        return 0, []
    parameters, tables = (
        {"others": list(others), "limit": limit},
        {"incoming": documents, "incoming_passages": passages},
    )
    found = warehouse.query(_CHANGED, parameters, tables=tables).to_pylist()
    changed = [(row["doc_id"], row["here"], row["batch"], row["there"]) for row in found]
    return (found[0]["num_changed"] if found else 0), changed


def find_known(
    warehouse: Warehouse, documents: StoredDocuments, others: Sequence[str], doc_ids: Sequence[str]
) -> frozenset[str]:
    """Those of the ids that these documents or the batches `others` have, as documents or as passages of one."""
    parents = "SELECT parent_id FROM passages WHERE batch IN (SELECT unnest($others::VARCHAR[]))"
    every = f"SELECT doc_id FROM incoming UNION ALL SELECT doc_id FROM ({_OTHERS}) UNION ALL {parents}"
    sql = f"SELECT DISTINCT doc_id FROM ({every}) SEMI JOIN asked USING (doc_id)"
    asked = pa.table({"doc_id": pa.array(doc_ids, pa.string())})
    found = warehouse.query(sql, {"others": list(others)}, tables={"incoming": documents, "asked": asked})
    return frozenset(found["doc_id"].to_pylist())


def _some(sql: str) -> str:
    return (
        f"WITH found AS ({sql}) SELECT *, (SELECT count(*) FROM found) AS total FROM found ORDER BY doc_id LIMIT $limit"
    )


def _total(found: list[dict[str, int]]) -> int:
    return found[0]["total"] if found else 0
