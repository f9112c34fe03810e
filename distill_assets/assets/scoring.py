"""From wanted pairs to stored teacher logits: what is missing is scored chunk by chunk, each committed before the next."""

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from distill_assets.assets.costs import recording_cost
from distill_assets.core.agreement import mean_kendall_tau_b
from distill_assets.core.errors import ModelError
from distill_assets.core.records import fingerprint, hash_text
from distill_assets.core.scoring import PairScorer, ScoringProgress, score_in_chunks, window_of
from distill_assets.resources import Project
from distill_assets.storage.missing_pairs import MissingPairs, WantedPairs, find_missing, sample_lists

# Below this mean tau, 8-bit logits order a query's documents too differently from fp32 to stand for the teacher.
MIN_INT8_TAU = 0.98
_SAMPLED_QUERIES, _SAMPLED_DOCUMENTS = 16, 20  # 320 pairs in fp32: a few seconds of a teacher of 22M parameters


def scores_key(model_fingerprint: str, precision: str) -> str:
    """Under what a teacher's logits are kept: its fingerprint, and another key for each precision but fp32."""
    return model_fingerprint if precision == "fp32" else fingerprint(model_fingerprint, precision)


def score_pairs(project: Project, context: Any, wanted: WantedPairs) -> tuple[str, int]:
    """See that every wanted pair has a teacher logit; returns the key to look them up with, and how many were scored.

    Their texts are read from the tables `queries` and `corpus` by hash. A kill costs at most one chunk. Another run that
    scores with the same teacher is waited for, and what it scored is not scored again.

    Raises:
        ModelError: int8 is set and does not order sampled documents as fp32 does; says how far.
    """
    checkpoint = project.warehouse.read("checkpoints", slice_keys=["teacher"]).to_pylist()[0]
    key = scores_key(checkpoint["model_fingerprint"], project.scoring_precision)
    with (
        _alone(project.folder / f".scoring-{key}.lock", context),
        find_missing(project.warehouse, key, wanted) as missing,
    ):
        if missing.num_pairs:
            scorer = project.teacher_scorer(Path(checkpoint["path"]))
            if project.scoring_precision == "int8":
                _require_order_of_fp32(project, context, wanted, scorer, Path(checkpoint["path"]))
            with recording_cost(project, context, key, checkpoint["model_fingerprint"]):
                _score_missing(project, context, key, missing, scorer)
        return key, missing.num_pairs


def score_texts(project: Project, context: Any, texts: Sequence[tuple[str, str]]) -> tuple[list[float], int]:
    """Teacher logits of (query, document) texts of the collection, in order, and how many had to be scored."""
    pairs = pa.table(
        {
            "query_hash": pa.array([hash_text(query) for query, _ in texts], pa.string()),
            "doc_hash": pa.array([hash_text(document) for _, document in texts], pa.string()),
        }
    )
    key, num_scored = score_pairs(project, context, WantedPairs.of_table(pairs))
    return project.pair_scores.lookup(key, pairs)["teacher_logit"].to_pylist(), num_scored


def _require_order_of_fp32(
    project: Project, context: Any, wanted: WantedPairs, scorer: PairScorer, teacher: Path
) -> None:
    lists = sample_lists(project.warehouse, wanted, num_queries=_SAMPLED_QUERIES, num_documents=_SAMPLED_DOCUMENTS)
    pairs, bounds = [pair for texts in lists for pair in texts], np.cumsum([len(texts) for texts in lists])[:-1]
    exact = project.teacher_scorer(teacher, "fp32")(pairs) if pairs else np.empty(0, dtype=np.float32)
    tau = mean_kendall_tau_b(np.split(scorer(pairs), bounds), np.split(exact, bounds)) if pairs else None
    if tau is None:
        context.log.info("no query has two documents to compare int8 with fp32 on")
        return
    found = f"mean Kendall tau per query of int8 with fp32 {tau:.3f} on {len(pairs)} pairs of {len(lists)} queries"
    if tau < MIN_INT8_TAU:
        raise ModelError(
            f"{found}, expected at least {MIN_INT8_TAU}: this teacher is not scored in 8 bits. Set precision to auto"
        )
    context.log.info(found)


def _score_missing(project: Project, context: Any, key: str, missing: MissingPairs, scorer: PairScorer) -> None:
    settings, started = project.settings, time.perf_counter()
    windows = missing.windows(min(settings.chunk_size, window_of(scorer)))
    with tqdm(total=missing.num_pairs, desc="teacher", unit="pair", disable=not project.show_progress) as bar:
        chunks = score_in_chunks(
            windows,
            scorer,
            chunk_size=settings.chunk_size,
            chunk_seconds=settings.chunk_seconds,
            texts_of=lambda w: w.texts,
        )
        num_done = 0
        for part, logits in chunks:
            hashes = {
                "query_hash": [h for window in part for h in window.query_hashes],
                "doc_hash": [h for window in part for h in window.doc_hashes],
            }
            project.pair_scores.commit(key, pa.table({**hashes, "teacher_logit": pa.array(logits, pa.float32())}))
            num_done += len(logits)
            bar.update(len(logits))
            progress = ScoringProgress(num_done, missing.num_pairs, num_done / (time.perf_counter() - started))
            context.log.info(str(progress))


@contextmanager
def _alone(path: Path, context: Any) -> Iterator[None]:
    """Hold `path` as a lock that ends with this process, so that two runs never pay for the same pairs at the same time."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            context.log.info("another run is scoring with this teacher: waiting for it, to use what it scores")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
