"""The documents of experiments as the tables of `docs/results.md`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill_assets.errors import SettingsError, ShapeError
from distill_assets.evaluation.comparison import columns_of_queries, compare_with_baseline
from distill_assets.evaluation.significance import ALPHA, bootstrap_interval, gap_closed
from distill_assets.evaluation.tables import (
    as_markdown,
    format_difference,
    format_interval,
    format_p,
    format_score,
    format_share,
)
from distill_assets.records import BM25, HARD_LABELS, HYBRID, TEACHER, UNTOUCHED_STUDENT

PerSeed = Mapping[int, Mapping[str, float]]


def results_table(per_system: Mapping[str, PerSeed], baseline: str, family: Sequence[str] | None = None) -> str:
    """The results as Markdown with a legend below, best mean first, equal means by name. A significant p is bold.

    Args:
        per_system: {system: {seed: {query_id: nDCG@10}}}, all on the same queries. Gaps are reported where the untouched student and
            the teacher are among them.
        baseline: what the others are tested against, often `hard_labels` or `untouched_student`.
        family: systems tested together; by default all but the baseline, BM25, the untouched student and the teacher.

    Raises:
        ShapeError: systems or seeds were evaluated on different queries, or there is no baseline.
    """
    means = {system: mean_over_seeds(seeds) for system, seeds in per_system.items()}
    columns = columns_of_queries(means, [baseline, *means])
    if family is None:
        family = [name for name in means if name not in (baseline, BM25, UNTOUCHED_STUDENT, TEACHER)]
    compared = compare_with_baseline(means, baseline, family)
    rows = []
    for name in sorted(columns, key=lambda name: (-columns[name].mean(), name)):
        values, found, seeds = columns[name], compared.get(name), per_system[name].values()
        gap: tuple[float | None, float | None, float | None] = (None, None, None)
        if {UNTOUCHED_STUDENT, TEACHER} <= {*columns} and name not in (BM25, HYBRID, UNTOUCHED_STUDENT, TEACHER):
            gap = gap_closed(values, columns[UNTOUCHED_STUDENT], columns[TEACHER])
        p_value = format_p(found.p_holm if found else None)
        row = [
            name,
            str(len(seeds)),
            format_score(float(values.mean())),
            format_interval(*bootstrap_interval(values)),
            format_score(float(np.std([np.mean(list(v.values())) for v in seeds], ddof=1)) if len(seeds) > 1 else None),
            format_difference(None if name == baseline else float((values - columns[baseline]).mean())),
            f"**{p_value}**" if found and found.p_holm <= ALPHA else p_value,
            format_score(found.detectable if found else None),
            format_share(*gap),
        ]
        rows.append(row)
    head = ["system", "seeds", "nDCG@10", "95 % interval", "sd of seeds", f"vs {baseline}", "p (Holm)", "detectable"]
    legend = (
        f"{len(columns[baseline]):,} queries. Per-query values are means over seeds. p: two-sided paired randomisation test "
        f"against `{baseline}`, Holm-corrected over {len(compared)} systems, bold from {ALPHA:g} down. Detectable: true difference "
        "found with 80 % probability; what is smaller may be there and not be seen."
    )
    return f"{as_markdown([[*head, 'gap closed'], *rows])}\n\n{legend}"


def mean_over_seeds(per_seed: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Mean per query over the seeds of one recipe, in the order of the first seed's queries.

    To be done before a paired test. What the test samples is queries: three seeds on 100 queries are 100 observations, not
    300, and taken as 300 they would give p-values that are far too small. The mean over seeds stands for what the recipe
    gives on that query; conclusions hold for the mean of these seeds, and how much seeds differ is reported beside it.

    Raises:
        ShapeError: no seed, or seeds evaluated on different queries.
    """
    if not per_seed:
        raise ShapeError("no seed to average over: expected at least one with its per-query values")
    first = next(iter(per_seed.values()))
    for seed, values in per_seed.items():
        if values.keys() != first.keys():
            num_shared = len(values.keys() & first.keys())
            raise ShapeError(
                f"seed {seed} has {len(values)} queries, the first seed {len(first)}, {num_shared} in both: "
                "evaluate every seed on the same queries"
            )
    return {query_id: float(np.mean([values[query_id] for values in per_seed.values()])) for query_id in first}


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
    return results_table(systems, baseline)


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
