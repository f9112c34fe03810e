"""The asset checks: which there are, what to do when one fails, and how a verdict of `quality/verdicts.py` reaches Dagster.

A check is judged before its slice is written. A slice whose blocking check failed is written all the same, so that a person can
look at it, but without the fingerprint of its inputs: the next run makes it again, and nothing is made from it
(`State.version` in `handles/collection.py`).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from distill_assets.assets.reporting import markdown_table, shown
from distill_assets.quality.verdicts import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check: what passing means, and the next step where it fails."""

    name: str
    asset: str
    is_blocking: bool
    meaning: str
    next_step: str


CHECKS: tuple[Check, ...] = (
    Check(
        name="files_read",
        asset="corpus",
        is_blocking=False,
        meaning="Every file of the batch that looks like data was read, and no text was blank.",
        next_step="Do what the sample says of each file, or take it out of the folder. Blank texts are dropped with their judgements.",
    ),
    Check(
        name="documents_not_empty",
        asset="corpus",
        is_blocking=True,
        meaning="Documents hold letters or digits.",
        next_step="Remove the documents of the sample from the source, or give them text, and read the batch again.",
    ),
    Check(
        name="documents_read_whole",
        asset="corpus",
        is_blocking=False,
        meaning="The student reads nearly all of the documents' text: at most 10 % is not read.",
        next_step="Raise student_max_length where the model can read more, choose a student that reads more, or cut long documents "
        "into passages with ids of their own.",
    ),
    Check(
        name="documents_distinct",
        asset="corpus",
        is_blocking=False,
        meaning="Few documents say exactly what another one says, in this batch or another.",
        next_step="Remove the copies: a copy of a relevant document that nobody judged counts as a mistake of every system.",
    ),
    Check(
        name="ids_keep_their_text",
        asset="corpus",
        is_blocking=False,
        meaning="The ids of the batch stand for the same documents in the other batches.",
        next_step="The document of the batch that is last by name replaces the other one, whose judgements do not count any more. "
        "Where two sources number alike, set local_ids = true; where the text was written anew, judge it anew.",
    ),
    Check(
        name="leakage_within_limit",
        asset="queries",
        is_blocking=True,
        meaning="Few queries of the batch stand in two splits, equal or nearly so: at most `max_leaked_queries`.",
        next_step="Split by the query's text, or remove the twins; if they are meant, raise max_leaked_queries. "
        "Twins are left out of the earlier split in any case.",
    ),
    Check(
        name="queries_judged",
        asset="qrels",
        is_blocking=False,
        meaning="At least half of each split's queries have a positive judgement.",
        next_step="Bring the missing judgements, or compare the ids of queries and qrels; queries without one are not used.",
    ),
    Check(
        name="splits_judged",
        asset="qrels",
        is_blocking=False,
        meaning="Train, dev and test each have at least 20 judged queries, over all batches read so far.",
        next_step="Bring more judged queries, or judgements as one file, which is split 80/10/10. Without train queries set "
        "train_share_of_dev.",
    ),
    Check(
        name="positives_in_corpus",
        asset="qrels",
        is_blocking=False,
        meaning="Every positive judgement names a document that some batch has brought.",
        next_step="Bring the documents, then read this batch again; judgements without a document count nowhere.",
    ),
    Check(
        name="positives_found",
        asset="hard_negatives",
        is_blocking=False,
        meaning="Search finds at least half of the judged documents, and similarity tells them from hard negatives.",
        next_step="Training can learn that documents unlike the query are right, and search gets worse by it. Recipes take their "
        "positives among those that search finds; the gate keeps the untouched student where that does not help. Read the sample: "
        "judgements of a whole topic are often such. A stronger student finds more of them.",
    ),
    Check(
        name="better_than_baselines",
        asset="teacher_checkpoint",
        is_blocking=False,
        meaning="The teacher orders dev candidates significantly better than BM25 and than the untouched student.",
        next_step="Not fit to teach: set another teacher, or fine-tune it on more queries, before training on its scores.",
    ),
    Check(
        name="logits_vary",
        asset="teacher_scores",
        is_blocking=True,
        meaning="Teacher logits are finite and differ between the documents of a query.",
        next_step="Check that `teacher` is a cross-encoder with trained weights and gives raw logits, then materialise again.",
    ),
    Check(
        name="positives_above_negatives",
        asset="teacher_scores",
        is_blocking=False,
        meaning="The teacher ranks few hard negatives above the positive.",
        next_step="Read the sample: if those negatives are right answers, labels are missing, and soft labels help; if not, the "
        "teacher is too weak.",
    ),
    Check(
        name="loss_finite",
        asset="student_checkpoint",
        is_blocking=True,
        meaning="Training left a loss curve and all of it is finite.",
        next_step="Lower the recipe's learning_rate or margin_scale.",
    ),
    Check(
        name="embeddings_spread",
        asset="student_checkpoint",
        is_blocking=True,
        meaning="Embeddings have not collapsed into one direction.",
        next_step="Lower the recipe's learning_rate, or train it longer; a changed recipe is trained anew.",
    ),
    Check(
        name="gate",
        asset="champion",
        is_blocking=False,
        meaning="The gate let the best student on dev through, or it is the champion already.",
        next_step="Nothing has to be done: the champion stays. Read the reason; more dev queries make smaller gains visible.",
    ),
)


def check_specs(asset: str, partitions: dg.PartitionsDefinition | None = None) -> list[dg.AssetCheckSpec]:
    """The checks that an asset declares. Per partition: a blocking one that failed for one batch holds up no other."""
    with warnings.catch_warnings():
        # Checks with partitions are a preview in Dagster 1.13; without them the last batch's result would stand for all.
        warnings.simplefilter("ignore", category=dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                name=check.name,
                asset=asset,
                description=f"{check.meaning} If not: {check.next_step}",
                blocking=check.is_blocking,
                partitions_def=partitions,
            )
            for check in CHECKS
            if check.asset == asset
        ]


def check_results(asset: str, verdicts: Mapping[str, Verdict]) -> list[dg.AssetCheckResult]:
    """What Dagster records of an asset's checks, by name: one verdict for each that the asset declares."""
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=verdict.passed,
            severity=dg.AssetCheckSeverity.ERROR if find_check(asset, name).is_blocking else dg.AssetCheckSeverity.WARN,
            description=verdict.found,
            metadata=_metadata(asset, name, verdict),
        )
        for name, verdict in verdicts.items()
    ]


def find_check(asset: str, name: str) -> Check:
    """The check of that name on that asset."""
    return next(check for check in CHECKS if (check.asset, check.name) == (asset, name))


def _metadata(asset: str, name: str, verdict: Verdict) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(verdict.figures)
    if verdict.samples:
        metadata["sample"] = markdown_table(verdict.samples)
    if not verdict.passed:
        metadata["what to do"] = find_check(asset, name).next_step
    return shown(metadata)
