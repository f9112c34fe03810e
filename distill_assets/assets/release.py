"""Group `release`: the student that search uses, and the gate it has to pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import Check
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.line import Asset, Made
from distill_assets.assets.rankings import (
    FORMER_CHAMPION,
    GROUP_INPUTS,
    GROUP_SETTINGS,
    RANKING_INPUTS,
    RANKING_SETTINGS,
    grouped,
    judged_queries,
    rankings_of,
)
from distill_assets.assets.reads import Reads, teacher_judges
from distill_assets.assets.reporting import markdown_table
from distill_assets.errors import PromotionError
from distill_assets.evaluation.comparison import Comparison
from distill_assets.evaluation.gate import Decision, choose_candidate, decide_promotion, held_back
from distill_assets.evaluation.groups import loss_sentence, lost_groups
from distill_assets.evaluation.metrics import evaluate_run
from distill_assets.handles.project import Project
from distill_assets.models.catalog import fingerprint_model
from distill_assets.quality.verdicts import judge_gate
from distill_assets.records import MIN_QUERIES, UNTOUCHED_STUDENT, fingerprint
from distill_assets.report.publishing import HISTORY_PATHS, current_champion, read_history, write_project_report
from distill_assets.storage.checkpoints import MANIFEST
from distill_assets.storage.tables import schema_of
from distill_assets.storage.warehouse import utc_now

Row = dict[str, Any]
PerQuery = Mapping[str, float]
HISTORY_SCHEMA = schema_of("champion_history")
_SHOWN = ("decided_at", "recipe", "model_fingerprint", "verdict", "reason", "dev_ndcg_at_10", "p_value", "judged_by")


def champion(inputs: Inputs) -> Made:
    """The untouched student, until a recipe's student is shown to be better on dev; after that the best one that the gate lets in."""
    history, present = read_history(inputs.project), current_champion(inputs.project)
    students = _students(inputs)
    dev = {name: _dev_ndcg(inputs, name, Path(row["checkpoint_path"])) for name, row in students.items()}
    first = [] if present else [_first_champion(inputs, students[UNTOUCHED_STUDENT], dev[UNTOUCHED_STUDENT])]
    present, best = present or first[0], _best_so_far(history)
    former = {row["model_fingerprint"]: _former_dev(inputs, row, students, dev) for row in (present, best) if row}
    allowed = _allowed(students, dev, refused_models(history))
    decision = _decide(inputs, allowed, dev[UNTOUCHED_STUDENT], students, present, former)
    lost = _lost(inputs, decision, dev, former.get(present["model_fingerprint"]))
    row = students[decision.candidate] | {
        "decided_at": utc_now(),
        "verdict": "promoted" if decision.promote else "kept",
        "reason": f"{decision.reason}{loss_sentence(lost)}{_judge_sentence(inputs)}",
        "dev_ndcg_at_10": _mean(dev[decision.candidate]),
        "p_value": decision.p_value,
        "judged_by": inputs.judge_of("dev"),
    }
    now = row if decision.promote else present
    values = former | {row["model_fingerprint"]: dev[decision.candidate]} if decision.promote else former
    row |= _best_of(values, [now, best])
    inputs.log.info(f"{row['verdict']}: {row['reason']}")
    is_champion = now["model_fingerprint"] == row["model_fingerprint"]
    return Made(
        rows=_as_kept(inputs.project, [*first, row]),
        data_version=champion_version(now),
        verdicts={"gate": judge_gate(row["verdict"], row["reason"], is_champion=is_champion)},
        metadata={
            "verdict": row["verdict"],
            "reason": row["reason"],
            "groups_lost": ", ".join(sorted(lost)) or "none",
            "dev_ndcg_at_10": row["dev_ndcg_at_10"],
            "previous_champion": f"{present['recipe']} {present['model_fingerprint']}",
        },
        then=lambda: {**champion_metadata(inputs.project, now), **_report(inputs.project)},
    )


CHAMPION = Asset(
    name="champion",
    reads=Reads(
        inputs=("metrics", "checkpoints", "student", "judges", *RANKING_INPUTS, *GROUP_INPUTS),
        settings=(*RANKING_SETTINGS, *GROUP_SETTINGS, "promotion_margin", "promotion_alpha", "teacher_may_promote"),
        only_if=dict.fromkeys(("judges", "teacher_may_promote"), teacher_judges),
    ),
    body=champion,
    table="champion_history",
    group="release",
    pool="encoder",
    kinds=frozenset({"duckdb"}),
    code_version="4",
    when_red="The champion before it still stands, and search goes on with it. Materialise `leaderboard`, then this one.",
    checks=(
        Check(
            "gate",
            "The gate let the best student on dev through, or it is the champion already.",
            "Nothing has to be done: the champion stays. Read the reason; more dev queries make smaller gains visible.",
        ),
    ),
)


def _students(inputs: Inputs) -> dict[str, Row]:
    """The untouched student and each recipe's, by name."""
    untouched = inputs.student_path
    found = {UNTOUCHED_STUDENT: (fingerprint_model(untouched), untouched.resolve())}
    found |= {name: (inputs.model_fingerprint(name), inputs.checkpoint_path(name)) for name in inputs.recipes}
    return {
        name: {"recipe": name, "model_fingerprint": model, "checkpoint_path": str(path)}
        for name, (model, path) in found.items()
    }


def _as_kept(project: Project, rows: list[Row]) -> pa.Table:
    """Decisions as the table keeps them; `read_history` is the way back."""
    paths = [{name: project.places.kept(Path(row[name])) for name in HISTORY_PATHS if row.get(name)} for row in rows]
    return pa.Table.from_pylist([row | kept for row, kept in zip(rows, paths, strict=True)], schema=HISTORY_SCHEMA)


def _report(project: Project) -> dict[str, str]:
    """Where the report is. It is of the leaderboard, which may come after the champion, and then writes it."""
    has_rows = project.places.warehouse.slice_info("leaderboard") is not None
    return {"report": str(write_project_report(project))} if has_rows else {}


def _judge_sentence(inputs: Inputs) -> str:
    """Who judged the queries that decide, where that is not people."""
    if inputs.judge_of("dev") == "people":
        return ""
    return " The teacher judged the dev queries, and no person: a better student is one that ranks more as the teacher does."


def _first_champion(inputs: Inputs, untouched: Row, dev: PerQuery) -> Row:
    reason = "the untouched student is the first champion: a trained one has to be better than it"
    return (
        untouched
        | {"decided_at": utc_now(), "verdict": "promoted", "reason": reason}
        | {
            "dev_ndcg_at_10": _mean(dev),
            "judged_by": inputs.judge_of("dev"),
        }
    )


def _allowed(students: Mapping[str, Row], dev: Mapping[str, PerQuery], refused: set[str]) -> dict[str, PerQuery]:
    """Dev values of the students that may be champion: not refused by a person, and none that ended where it began."""
    models = {name: row["model_fingerprint"] for name, row in students.items()}
    untrained = {name for name, model in models.items() if model == models[UNTOUCHED_STUDENT]} - {UNTOUCHED_STUDENT}
    return {name: values for name, values in dev.items() if name not in untrained and models[name] not in refused}


def _decide(
    inputs: Inputs,
    allowed: Mapping[str, PerQuery],
    untouched: PerQuery,
    students: Mapping[str, Row],
    present: Row,
    former: Mapping[str, PerQuery | None],
) -> Decision:
    """What the gate says of the students that may be champion."""
    champion, first = present["model_fingerprint"], students[UNTOUCHED_STUDENT]["model_fingerprint"]
    # Of equal means the first by name.
    best = choose_candidate({name: _mean(values) for name, values in allowed.items()}) if allowed else UNTOUCHED_STUDENT
    reason = ""
    if not allowed:
        reason = "every student was rolled back by a person: change a recipe or its data, then train again."
    elif len(untouched) < MIN_QUERIES:
        few = f"{len(untouched):,} judged dev queries, expected at least {MIN_QUERIES}: bring more."
        reason = f"nothing is promoted: there are {few}"
    elif students[best]["model_fingerprint"] == champion:
        reason = f"{best} is the champion already: no other student has a higher nDCG@10 on dev."
    if reason:
        return Decision(best, promote=False, reason=reason, p_value=None)
    rivals = {name: values for name, values in allowed.items() if students[name]["model_fingerprint"] != champion}
    others = [values for model, values in former.items() if model not in (champion, first)]
    decision = decide_promotion(
        rivals,
        untouched,
        None if champion == first else former.get(champion),
        others[0] if others else None,
        margin=inputs.settings.promotion_margin,
        alpha=inputs.settings.promotion_alpha,
    )
    is_shown = inputs.judge_of("dev") == "people" or inputs.settings.teacher_may_promote
    return decision if is_shown else held_back(decision)


def _lost(
    inputs: Inputs, decision: Decision, dev: Mapping[str, PerQuery], present: PerQuery | None
) -> dict[str, Comparison]:
    """Groups of dev queries that the candidate loses against the present champion; none where the gate has tested nothing.

    They are named and stop nothing: with a dozen groups a veto on each would hold up most champions.
    """
    if decision.p_value is None or present is None:
        return {}
    return lost_groups(grouped(inputs, judged_queries(inputs, "dev")[0]), dev[decision.candidate], present)


def _former_dev(inputs: Inputs, row: Row, students: Mapping[str, Row], dev: Mapping[str, PerQuery]) -> PerQuery | None:
    """A former champion on today's dev queries; None where its folder is gone."""
    same = [name for name, student in students.items() if student["model_fingerprint"] == row["model_fingerprint"]]
    if same:
        return dev[same[0]]
    path = Path(row["checkpoint_path"])
    if not path.is_dir():
        inputs.log.warning(f"the folder of champion {row['recipe']} is gone: {path}; nothing is compared with it")
        return None
    return _dev_ndcg(inputs, f"{FORMER_CHAMPION}{row['model_fingerprint'][:16]}", path)


def _best_so_far(history: list[Row]) -> Row | None:
    """The champion that was best on dev up to now, as the last decision wrote it down; None where a person refused it since."""
    row = next((row for row in reversed(history) if row["best_model_fingerprint"]), None)
    if row is None or row["best_model_fingerprint"] in refused_models(history):
        return None
    found = {"model_fingerprint": row["best_model_fingerprint"], "checkpoint_path": row["best_checkpoint_path"]}
    return {"recipe": "best so far", **found}


def _best_of(values: Mapping[str, PerQuery | None], rows: list[Row | None]) -> Row:
    """Columns that name the best of these champions on today's dev queries."""
    known = [row for row in rows if row is not None and values.get(row["model_fingerprint"])]
    best = max(known, key=lambda row: _mean(values[row["model_fingerprint"]] or {}), default=dict[str, Any]())
    found = {f"best_{name}": best.get(name) for name in ("model_fingerprint", "checkpoint_path")}
    return found | {"refused_model_fingerprint": None}


def refused_models(history: list[Row]) -> set[str]:
    """Models that a person rolled away: the gate does not promote the same weights again."""
    return {row["refused_model_fingerprint"] for row in history if row["refused_model_fingerprint"]}


def champion_version(row: Mapping[str, Any]) -> str:
    """Data version of the champion: which model it is."""
    return fingerprint(row["recipe"], row["model_fingerprint"])


def champion_metadata(project: Project, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the UI shows of a champion: where it lies, what it was made from as its manifest says, and the history."""
    history = [{k: row[k] for k in _SHOWN} for row in read_history(project)[-10:]]
    path = Path(row["checkpoint_path"])
    shown = {
        "champion": row["recipe"],
        "checkpoint": dg.MetadataValue.path(str(path)),
        "history": markdown_table(history),
    }
    if not (path / MANIFEST).is_file():  # the untouched student, or a folder that is gone
        return shown
    manifest = project.places.checkpoints.read_manifest(path)
    commit = manifest.get("git_commit")
    return shown | {
        "recipe": dg.MetadataValue.json(manifest["recipe"]),
        "seed": manifest["recipe"]["seed"],
        "teacher_fingerprint": manifest["inputs"].get("teacher", "(this recipe reads no teacher)"),
        "untouched_student": dg.MetadataValue.json(manifest["student"]),
        "data_versions": dg.MetadataValue.json(manifest.get("data_versions", {})),
        "packages": dg.MetadataValue.json(manifest["packages"]),
        **({"git_commit": commit} if commit else {}),
    }


def roll_back(project: Project) -> Row:
    """Make the champion before the present one champion again, and say so in the history. Returns the new row.

    The model that is rolled away is refused from then on.

    Raises:
        PromotionError: there is no earlier champion, or its folder is gone.
    """
    history, present = read_history(project), current_champion(project)
    if present is None:
        name = project.settings.collection
        raise PromotionError(f"there is no champion of {name!r} to roll back: run distill-assets run first")
    stack: list[Row] = []
    for row in history:
        if row["verdict"] == "promoted":
            stack.append(row)
        elif row["verdict"] == "rolled_back" and len(stack) > 1:
            stack.pop()
    if len(stack) < 2:
        raise PromotionError(f"{present['recipe']} is the first champion: there is none before it to roll back to")
    earlier = stack[-2]
    if not Path(earlier["checkpoint_path"]).is_dir():
        raise PromotionError(
            f"the earlier champion's folder {earlier['checkpoint_path']} is gone: restore it, or run again"
        )
    row = {
        **earlier,
        "decided_at": utc_now(),
        "verdict": "rolled_back",
        "reason": f"rolled back from {present['recipe']} ({present['model_fingerprint'][:8]})",
        "p_value": None,
        "best_model_fingerprint": earlier["model_fingerprint"],
        "best_checkpoint_path": earlier["checkpoint_path"],
        "refused_model_fingerprint": present["model_fingerprint"],
    }
    project.places.warehouse.append("champion_history", _as_kept(project, [row]))
    return row


def roll_back_event(project: Project, row: Mapping[str, Any]) -> dg.AssetMaterialization:
    """The materialisation that tells Dagster of a roll back: without it the UI shows the model that was rolled away."""
    return dg.AssetMaterialization(
        "champion",
        description=row["reason"],
        metadata={"verdict": row["verdict"], "reason": row["reason"], **champion_metadata(project, row)},
        tags={"dagster/data_version": champion_version(row)},
    )


def _dev_ndcg(inputs: Inputs, system: str, path: Path) -> dict[str, float]:
    """Per query nDCG@10 of a student on today's dev queries and documents."""
    _, qrels = judged_queries(inputs, "dev")
    if not qrels:
        raise PromotionError(
            "there is no judged dev query: the champion is chosen on dev; add dev queries (qrels/dev.tsv)"
        )
    found = evaluate_run(rankings_of(inputs, system, path)["dev"], qrels, inputs.min_relevance)
    return {query_id: metrics.ndcg_at_10 for query_id, metrics in found.items()}


def _mean(values: PerQuery) -> float:
    return sum(values.values()) / len(values)
