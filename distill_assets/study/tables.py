"""The documents of experiments as the tables of `docs/results.md`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from distill_assets.core.errors import SettingsError
from distill_assets.core.evidence import PerSeed, format_markdown, results_table
from distill_assets.core.recipes import HARD_LABELS, TEACHER, UNTOUCHED_STUDENT


def render(document: Mapping[str, Any], split: str, against: str | None = None) -> str:
    """One document as a Markdown section: what was run, then the table of its systems on `split`, tested against one of them.

    Raises:
        SettingsError: the document has no system `against`, or is one of label shares, each of which has its own `hard_labels`.
    """
    if document["experiment"] == "labels":
        if against is not None:
            raise SettingsError(
                f"a document of label shares is tested against {HARD_LABELS} of each share: leave --against out"
            )
        return "\n".join([_heading(document, split), "", *_label_sections(document, split)])
    baseline = against or (HARD_LABELS if HARD_LABELS in document["systems"] else UNTOUCHED_STUDENT)
    if baseline not in document["systems"]:
        known = ", ".join(document["systems"])
        raise SettingsError(f"no system {baseline!r} to test against in this document: it has {known}")
    rows = results_table(per_seed(document, split), baseline=baseline)
    trainings = document.get("trainings", {})
    costs = [section for section in (_costs(trainings), _rounds(trainings)) if section and split == "test"]
    return "\n".join([_heading(document, split), "", format_markdown(rows, baseline), "", *costs])


def per_seed(document: Mapping[str, Any], split: str) -> dict[str, PerSeed]:
    """{system: {seed: {query_id: nDCG@10}}} of one split."""
    return {
        system: {int(seed): splits[split] for seed, splits in seeds.items()}
        for system, seeds in document["systems"].items()
    }


def _heading(document: Mapping[str, Any], split: str) -> str:
    sizes = document["num_queries"]
    return (
        f"### {document['collection']}, {split}: {document['experiment']}\n\n{document['num_documents']:,} documents, "
        f"{sizes['train']:,} / {sizes['dev']:,} / {sizes['test']:,} train / dev / test queries, {document['max_length']} tokens, "
        f"{document['device']}, {document['seconds']:,} s in all."
    )


def _label_sections(document: Mapping[str, Any], split: str) -> list[str]:
    """For each share of the labels, fine-tuning on it against distilling through a teacher that was trained on it."""
    systems = per_seed(document, split)
    lines: list[str] = []
    for share, count in document["num_labelled"].items():
        names = {UNTOUCHED_STUDENT: UNTOUCHED_STUDENT, f"hard {share}": HARD_LABELS}
        names |= {f"distilled {share}": "distilled", f"{TEACHER} {share}": TEACHER}
        chosen = {names[name]: seeds for name, seeds in systems.items() if name in names}
        if HARD_LABELS in chosen:
            table = format_markdown(results_table(chosen, baseline=HARD_LABELS), HARD_LABELS)
            lines += [f"#### {share} of the train labels: {count:,} queries", "", table, ""]
    return lines


def _costs(trainings: Mapping[str, Any]) -> str:
    """What a student of each recipe costs: steps, seconds of training, seconds of embedding every document for its index."""
    lines = []
    for name, seeds in trainings.items():
        known = [training for training in seeds.values() if "document_encoding_s" in training]
        if known:
            means = [np.mean([training[key] for training in known]) for key in ("seconds", "document_encoding_s")]
            lines.append(f"| {name} | {known[0]['num_steps']:,} | {means[0]:,.0f} | {means[1]:,.0f} |")
    head = ["| recipe | steps | training s | all documents embedded s |", "| --- | ---: | ---: | ---: |"]
    return "\n".join([*head, *lines, ""]) if lines else ""


def _rounds(trainings: Mapping[str, Any]) -> str:
    """What each round of the recipes with several gained and cost."""
    lines = []
    for name, seeds in trainings.items():
        for seed, training in seeds.items():
            for found in training.get("rounds", ()):
                is_kept = "yes" if found["round"] == training["kept_round"] else ""
                lines.append(
                    f"| {name}, seed {seed} | {found['round']} | {found['dev_ndcg_at_10']:.3f} | {found['num_new_pairs']:,} | "
                    f"{found['mining_s']:.0f} | {found['scoring_s']:.0f} | {found['training_s']:.0f} | {is_kept} |"
                )
    head = [
        "| rounds of | round | dev rerank nDCG@10 | new pairs | mining s | scoring s | training s | kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    return "\n".join([*head, *lines, ""]) if lines else ""
