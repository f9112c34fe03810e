"""The documents of experiments as the tables of `docs/results.md`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from distill_assets.errors import SettingsError
from distill_assets.evaluation.evidence import PerSeed, format_markdown, results_table
from distill_assets.records import HARD_LABELS, TEACHER, UNTOUCHED_STUDENT


def render(document: Mapping[str, Any], split: str, against: str | None = None) -> str:
    """One document as a Markdown section: what was run, then the table of its systems on `split`, tested against one of them.

    A document of label shares or of teachers has a table for each.

    Raises:
        SettingsError: the document has no system `against`.
    """
    systems, variants = per_seed(document, split), document.get("num_labelled") or {}
    if variants:
        parts = [_section(systems, document["experiment"], label, count, against) for label, count in variants.items()]
        return "\n".join([_heading(document, split), "", *(line for lines in parts for line in lines)])
    trainings = document.get("trainings", {})
    costs = _costs(trainings) if split == "test" else ""
    return "\n".join([_heading(document, split), "", _table(systems, against), "", costs]).rstrip("\n") + "\n"


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


def _section(
    systems: Mapping[str, PerSeed], experiment: str, label: str, num_labelled: int, against: str | None
) -> list[str]:
    """The systems of one share of the labels or of one teacher; none where no student is trained yet."""
    chosen = {UNTOUCHED_STUDENT: systems[UNTOUCHED_STUDENT]}
    for system, seeds in systems.items():
        name, _, its_label = system.partition(" ")
        if its_label == label:
            chosen[HARD_LABELS if name == "hard" else name] = seeds  # as older documents call it
    if not {*chosen} - {UNTOUCHED_STUDENT, TEACHER}:
        return []
    told = "of the train labels" if experiment == "labels" else "(teacher)"
    return [f"#### {label} {told}: {num_labelled:,} queries", "", _table(chosen, against), ""]


def _table(systems: Mapping[str, PerSeed], against: str | None) -> str:
    baseline = against or (HARD_LABELS if HARD_LABELS in systems else UNTOUCHED_STUDENT)
    if baseline not in systems:
        raise SettingsError(f"no system {baseline!r} to test against in this document: it has {', '.join(systems)}")
    return format_markdown(results_table(systems, baseline=baseline), baseline)


def _costs(trainings: Mapping[str, Any]) -> str:
    """What a student of each recipe costs: steps, seconds of training, and of embedding every document where that was timed."""
    lines = []
    for name, seeds in trainings.items():
        known = [training for training in seeds.values() if {"document_encoding_s", "resumed_from_step"} & {*training}]
        if known:  # the oldest documents timed no embedding and are printed without this table
            seconds, embedding = ([t[key] for t in known if key in t] for key in ("seconds", "document_encoding_s"))
            embedded = f"{np.mean(embedding):,.0f}" if embedding else "-"
            lines.append(f"| {name} | {known[0]['num_steps']:,} | {np.mean(seconds):,.0f} | {embedded} |")
    head = ["| recipe | steps | training s | all documents embedded s |", "| --- | ---: | ---: | ---: |"]
    return "\n".join([*head, *lines, ""]) if lines else ""
