"""Group `release`: the student that search uses, and the gate it has to pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from distill_assets.assets.checks import check_results, check_specs
from distill_assets.assets.evaluation import judged_queries
from distill_assets.assets.failures import retrying
from distill_assets.assets.inputs import CODE_VERSIONS, input_fingerprint
from distill_assets.assets.publishing import current_champion, read_history, write_project_report
from distill_assets.assets.reading import checkpoint_path, search_student
from distill_assets.assets.reporting import OWNERS, markdown_table, materialised, table_schema
from distill_assets.core.errors import MissingPartitionError, PromotionError
from distill_assets.core.metrics import evaluate_run
from distill_assets.core.promotion import choose_candidate, decide_promotion
from distill_assets.core.quality import judge_gate
from distill_assets.core.records import fingerprint
from distill_assets.resources import Project
from distill_assets.storage.warehouse import utc_now

_SEED = 2026


@dg.asset(
    deps=["leaderboard"],
    group_name="release",
    kinds={"duckdb"},
    owners=OWNERS,
    pool="encoder",
    code_version=CODE_VERSIONS["champion"],
    metadata={"dagster/column_schema": table_schema("champion_history")},
    check_specs=check_specs("champion"),
)
@retrying
def champion(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
    """The best recipe on dev, if the paired test says that it is not worse than the present champion."""
    per_recipe = {name: _dev_ndcg(project, name) for name in sorted(project.settings.all_recipes)}
    means = {name: sum(values.values()) / len(values) for name, values in per_recipe.items()}
    candidate = choose_candidate(means)
    present = current_champion(project)
    row = _history_row(project, candidate, means[candidate])
    if present is not None and present["model_fingerprint"] == row["model_fingerprint"]:
        verdict: dict[str, Any] = {"verdict": "kept", "reason": f"{candidate} is the champion already", "p_value": None}
    else:
        decision = decide_promotion(
            per_recipe[candidate],
            None if present is None else _evaluate_on_dev(project, Path(present["checkpoint_path"])),
            margin=project.settings.promotion_margin,
            alpha=project.settings.promotion_alpha,
            seed=_SEED,
        )
        verdict = {
            "verdict": "promoted" if decision.promote else "kept",
            "reason": decision.reason,
            "p_value": decision.p_value,
        }
    row |= verdict
    now = row if present is None or verdict["verdict"] == "promoted" else present
    version = fingerprint(now["recipe"], now["model_fingerprint"])
    project.warehouse.append(
        "champion_history",
        pa.Table.from_pylist([row], schema=_HISTORY_SCHEMA),
        input_fingerprint=input_fingerprint(project, "champion"),
        data_version=version,
    )
    write_project_report(project)
    context.log.info(f"{verdict['verdict']}: {verdict['reason']}")
    history = read_history(project)
    metadata: dict[str, Any] = {
        "champion": now["recipe"],
        "verdict": verdict["verdict"],
        "reason": verdict["reason"],
        "dev_ndcg_at_10": means[candidate],
        "checkpoint": dg.MetadataValue.path(now["checkpoint_path"]),
        "history": markdown_table(history[-10:]),
        "previous_champion": "(none)" if present is None else f"{present['recipe']} {present['model_fingerprint']}",
        **_origin(project, Path(now["checkpoint_path"])),
    }
    is_champion = now["model_fingerprint"] == row["model_fingerprint"]
    decided = judge_gate(verdict["verdict"], verdict["reason"], candidate, is_champion=is_champion)
    return materialised("champion", version, len(history), metadata, check_results("champion", {"gate": decided}))


def _origin(project: Project, path: Path) -> dict[str, Any]:
    """What a champion was made from, as its manifest says: recipe, seed, teacher, data versions by batch, code.

    Nothing where the folder of an earlier champion is gone.
    """
    if not path.is_dir():
        return {}
    manifest = project.checkpoints.read_manifest(path)
    inputs = dict(manifest["inputs"])
    teacher = inputs.pop("teacher_checkpoint", "(this recipe reads no teacher)")
    commit = manifest.get("git_commit")
    return {
        "recipe": dg.MetadataValue.json(manifest["recipe"]),
        "seed": manifest["recipe"]["seed"],
        "teacher_fingerprint": teacher,
        "untouched_student": dg.MetadataValue.json(manifest["student"]),
        "data_versions": dg.MetadataValue.json(inputs),
        "packages": dg.MetadataValue.json(manifest["packages"]),
    } | ({"git_commit": commit} if commit else {})


def roll_back(project: Project) -> dict[str, Any]:
    """Make the champion before the present one champion again, and say so in the history. Returns the new row.

    Raises:
        PromotionError: there is no earlier champion, or its folder is gone.
    """
    present = current_champion(project)
    if present is None:
        raise PromotionError("there is no champion to roll back: run distill-assets run first")
    stack: list[dict[str, Any]] = []
    for row in read_history(project):
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
    }
    project.warehouse.append("champion_history", pa.Table.from_pylist([row], schema=_HISTORY_SCHEMA))
    return row


def _dev_ndcg(project: Project, name: str) -> dict[str, float]:
    table = project.warehouse.read(
        "eval_metrics", slice_keys=[name], columns=["system", "split", "query_id", "ndcg_at_10"]
    )
    found = {r["query_id"]: r["ndcg_at_10"] for r in table.to_pylist() if r["system"] == name and r["split"] == "dev"}
    if not found:
        raise MissingPartitionError(
            f"eval_metrics[{name}] has no dev query: the champion is chosen on dev; add dev queries"
        )
    return found


def _evaluate_on_dev(project: Project, path: Path) -> dict[str, float]:
    """Per query nDCG@10 of a checkpoint on today's dev queries and documents."""
    queries, qrels = judged_queries(project, "dev")
    return {q: m.ndcg_at_10 for q, m in evaluate_run(search_student(project, path, queries, 100), qrels).items()}


def _history_row(project: Project, name: str, dev_ndcg_at_10: float) -> dict[str, Any]:
    checkpoint: Mapping[str, Any] = project.warehouse.read("checkpoints", slice_keys=[name]).to_pylist()[0]
    return {
        "decided_at": utc_now(),
        "recipe": name,
        "model_fingerprint": checkpoint["model_fingerprint"],
        "checkpoint_path": str(checkpoint_path(project, name)),
        "dev_ndcg_at_10": dev_ndcg_at_10,
    }


_HISTORY_SCHEMA = pa.schema(
    [
        ("decided_at", pa.timestamp("us")),
        ("recipe", pa.string()),
        ("model_fingerprint", pa.string()),
        ("checkpoint_path", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("dev_ndcg_at_10", pa.float64()),
        ("p_value", pa.float64()),
    ]
)
