"""A collection of topics, end to end: dozens of judged documents a query, of which search finds few.

The failure is silent: the line trains, every system gets a number, and search becomes worse than it was without training.
"""

import logging
from pathlib import Path
from statistics import fmean

import dagster as dg
import numpy as np
import pytest

from distill_assets.assets.comparison import step_lists
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.student import STUDENT_CHECKPOINT
from distill_assets.definitions import build_definitions
from distill_assets.evaluation.metrics import DevList, rerank_ndcg, search_ndcg
from distill_assets.handles.project import Project
from distill_assets.orchestration.running import run_line
from distill_assets.records import UNTOUCHED_STUDENT
from distill_assets.report.publishing import current_champion, read_conclusion
from distill_assets.training.lists import pairs_of, per_list
from distill_assets_tests.conftest import make_project
from experiments.topics import write_topics

INSTANCE = dg.DagsterInstance.ephemeral()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_cross_encoder: Path) -> Project:
    """The whole line over the topics of one installed package, run once."""
    folder = tmp_path_factory.mktemp("topics")
    recipes = {"hard_labels": {"batch_size": 8, "learning_rate": 1e-3}}
    made: Project = make_project(
        write_topics(folder / "networkx", ["networkx"]),
        tiny_encoder,
        tiny_cross_encoder,
        folder / "data",
        recipes=recipes,
        skip_recipes=("kl", "margin_mse"),
        pool_depth=30,
    )
    list(run_line(build_definitions(made), made, INSTANCE))
    return made


def _inputs(project: Project) -> Inputs:
    return Inputs(project, "student_checkpoint", STUDENT_CHECKPOINT.reads, "hard_labels", logging.getLogger())


def test_the_check_sees_it_coming(project: Project) -> None:
    """Without the warning nobody knows, before training is paid for, that the labels say "the less similar is right"."""
    key = dg.AssetCheckKey(dg.AssetKey("hard_negatives"), "positives_found")
    [record] = INSTANCE.event_log_storage.get_asset_check_execution_history(key, limit=5)
    event = record.event
    assert event is not None
    evaluation = event.asset_check_evaluation
    assert evaluation is not None and not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    share, area = (evaluation.metadata[name].value for name in ("share_found", "area_under_curve"))
    assert 0 < share < 0.5 and area < 0.3
    [row] = project.places.warehouse.read("answers_found").to_pylist()
    assert (row["share_found"], row["area_under_curve"]) == (share, area)
    found = f"search finds {share:.0%} of the judged documents"
    assert any(found in sentence for sentence in read_conclusion(project))


def test_whoever_prefers_unlike_documents_wins_lists_that_hold_every_answer_and_loses_the_search(
    project: Project,
) -> None:
    """Lists of all judged documents and the first negatives reward this scorer; so do steps and teachers chosen on them."""
    found = step_lists(_inputs(project))
    biased = [_with_every_answer(dev_list, num_negatives=6) for dev_list in found]
    assert _reranked(project, biased, sign=-1) > _reranked(project, biased, sign=1) + 0.2
    assert _reranked(project, found, sign=-1) < _reranked(project, found, sign=1) - 0.05

    texts = sorted({text for dev_list in found for text in (*dev_list.documents, *dev_list.missed_documents)})
    pairs = [(dev_list.query, text) for dev_list in found for text in texts]
    cosines = project.vectors.cosines(project.models.student_path, pairs).reshape(len(found), len(texts))
    assert search_ndcg(found, texts, -cosines) < search_ndcg(found, texts, cosines) - 0.05


def _with_every_answer(dev_list: DevList, num_negatives: int) -> DevList:
    answers = [(d, r) for d, r in zip(dev_list.documents, dev_list.relevances, strict=True) if r > 0]
    answers += zip(dev_list.missed_documents, dev_list.missed, strict=True)
    negatives = [d for d, r in zip(dev_list.documents, dev_list.relevances, strict=True) if r == 0][:num_negatives]
    documents = (*(document for document, _ in answers), *negatives)
    return DevList(dev_list.query_id, dev_list.query, documents, (*(r for _, r in answers), *(0 for _ in negatives)))


def _reranked(project: Project, lists: list[DevList], sign: int) -> float:
    cosines = project.vectors.cosines(project.models.student_path, pairs_of(lists))
    return rerank_ndcg(lists, per_list(lists, sign * cosines))


def test_candidates_of_dev_are_what_search_finds(project: Project) -> None:
    """A judged document that is put into a dev list counts as retrieved, and the verdict on the teacher is wrong."""
    lists = step_lists(_inputs(project))
    depth = project.settings.pool_depth
    assert lists and all(dev_list.missed for dev_list in lists)
    assert all(depth <= len(dev_list.documents) <= 2 * depth for dev_list in lists)


def test_search_never_uses_a_model_that_is_worse_on_dev_than_the_untouched_one(project: Project) -> None:
    """A first champion that nobody compared made search worse on a public collection."""
    values: dict[str, list[float]] = {}
    for row in project.places.warehouse.read("eval_metrics").to_pylist():
        if row["split"] == "dev":
            values.setdefault(row["system"], []).append(row["ndcg_at_10"])
    champion = current_champion(project)
    assert champion is not None
    assert fmean(values[champion["recipe"]]) >= fmean(values[UNTOUCHED_STUDENT])
    assert np.isfinite(champion["dev_ndcg_at_10"])
    assert champion["recipe"] == UNTOUCHED_STUDENT or champion["p_value"] <= project.settings.promotion_alpha
