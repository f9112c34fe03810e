"""Which queries are used where a setting limits their number: chosen by hash of their id, so that a larger limit only adds."""

from collections.abc import Mapping, Sequence

from distill_assets.records import Query, hash_text


def choose_queries(queries: Sequence[Query], judged: Mapping[str, object], limit: int | None) -> list[Query]:
    """Judged queries, at most `limit` of them; sorted by id. `judged` holds a key for each query that has a judgement."""
    found = sorted((q for q in queries if q.query_id in judged), key=lambda q: hash_text(q.query_id))
    return sorted(found[:limit], key=lambda q: q.query_id)


def choose_train_queries(
    queries: Sequence[Query], judged: Mapping[str, object], limit: int | None, *, reads_unjudged: bool
) -> list[Query]:
    """The train queries of one batch that are mined and scored, at most `limit`; sorted by id.

    Judged ones come first, so that none is lost for the sake of another. Queries without a judgement follow only where
    `reads_unjudged` says that a recipe takes the teacher's first candidate as positive.
    """
    train = [q for q in queries if q.split == "train"]
    chosen = choose_queries(train, judged, limit)
    if not reads_unjudged:
        return chosen
    others = sorted((q for q in train if q.query_id not in judged), key=lambda q: hash_text(q.query_id))
    rest = others if limit is None else others[: limit - len(chosen)]
    return sorted([*chosen, *rest], key=lambda q: q.query_id)
