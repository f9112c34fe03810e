"""What `run` does after a change: what is made again, what is paid for again, and what is left as it is."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from distill_assets.assets import ASSETS, release
from distill_assets.assets.inputs import Inputs
from distill_assets.assets.reads import Reads
from distill_assets.assets.release import champion_version, roll_back, roll_back_event
from distill_assets.definitions import build_definitions
from distill_assets.errors import (
    UndeclaredReadError,
)
from distill_assets.evaluation.leaderboard import champion_note, find_champion_row, format_table
from distill_assets.handles.judging import open_sheet, record_answer
from distill_assets.orchestration.running import Step, run_line
from distill_assets.orchestration.stages import partitions_of, stages_of, status_of
from distill_assets.report.publishing import (
    current_champion,
    read_champion,
    read_conclusion,
    read_history,
    read_rows,
    write_project_report,
)
from distill_assets.retrieval import bm25, words
from distill_assets.sources.beir import BeirSource
from distill_assets_tests.conftest import make_project, write_beir

TOPICS = ("array", "matrix", "frame", "series", "index", "kernel")


@pytest.fixture
def instance() -> dg.DagsterInstance:
    """An instance in memory."""
    return dg.DagsterInstance.ephemeral()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An inbox with one batch: 72 documents and queries, 48 of them train."""
    write_beir(tmp_path / "inbox" / "first", topics=TOPICS)
    return tmp_path / "inbox"


@pytest.fixture
def make(inbox: Path, tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> Any:
    """Opens the project over the inbox, with changed settings; always over the same data."""

    def open_project(teacher: Path = tiny_cross_encoder, **changes: Any) -> Any:
        return make_project(inbox, tiny_encoder, teacher, tmp_path / "data", **changes)

    return open_project


def run(project: Any, instance: dg.DagsterInstance, until: str = "champion") -> list[Step]:
    """The line up to an asset."""
    return list(run_line(build_definitions(project), project, instance, until=until))


def made(steps: list[Step]) -> list[tuple[str, str]]:
    """(asset, partition) of what was made."""
    return [(asset, step.partition) for step in steps if step.was_materialised for asset in step.assets]


def conditions(project: Any) -> dict[str, str]:
    """Condition of every asset's partition that is not up to date."""
    every = (
        (name, partition)
        for stage in stages_of(project)
        for name in stage.assets
        for partition in partitions_of(project, stage)
    )
    found = {f"{name}[{partition}]": status_of(project, name, partition).condition for name, partition in every}
    return {name: condition for name, condition in found.items() if condition != "up to date"}


def num_scored(project: Any, asset: str = "") -> int:
    """Pairs that were paid for over all time, by one asset where it is named."""
    rows = project.places.warehouse.read("scoring_costs").to_pylist()
    return sum(row["num_pairs"] for row in rows if asset in ("", row["asset"]))


def logits(project: Any) -> dict[tuple[str, str], float]:
    """Stored teacher scores of training."""
    rows = project.places.warehouse.read("teacher_scores").to_pylist()
    return {(row["query_id"], row["doc_id"]): row["teacher_logit"] for row in rows}


def judge(folder: Path, rows: list[tuple[str, str, int]], split: str = "train") -> None:
    """A batch of judgements alone."""
    (folder / "qrels").mkdir(parents=True)
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in rows)]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


FREE = {"positives": "teacher", "num_negatives": 2, "sampling": "top"}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"train_queries": 5}, {"settings.train_queries"}),
        ({"mining_depth": 11}, {"settings.mining_depth"}),
        ({"negatives_per_query": 7}, {"settings.negatives_per_query"}),
        # Queries that are that much alike are left out, too.
        ({"near_identical": 0.5}, {"settings.near_identical", "own_queries", "own_judgements"}),
        (
            {"recipes": {"free": FREE}, "skip_recipes": ("hard_labels", "kl", "margin_mse")},
            {"settings.reads_unjudged_queries"},
        ),
        ({"student_max_length": 64}, {"student"}),
        ({"query_prompt": "how to "}, {"student"}),
        ({"batch_size": 3}, set()),
        ({"chunk_size": 3}, set()),
        ({"scored_negatives": 5}, set()),
        ({"teacher_max_length": 40}, set()),
    ],
)
def test_what_makes_negatives_stale(mined: Any, change: dict[str, Any], changed: set[str]) -> None:
    """A setting left out keeps stale negatives; one too many mines everything again for a batch size."""
    found = status_of(mined(**change), "hard_negatives", "first")
    assert {reason.replace(":", " ").split()[0] for reason in found.reasons} == changed
    assert found.condition == ("stale" if changed else "up to date")


def test_other_words_make_again_what_they_decide(
    make: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negatives and BM25 rankings of another tokeniser look up to date for ever. What reads no word must not be paid for again."""
    project = make()
    run(project, instance)
    warehouse = project.places.warehouse
    before = {system: warehouse.slice_info("rankings", system) for system in ("bm25", "kl")}
    raised = words.TOKENISER_VERSION + 1
    for module in (words, bm25):
        monkeypatch.setattr(module, "TOKENISER_VERSION", raised)
    recipes = {("eval_metrics", recipe) for recipe in project.settings.all_recipes}
    decided = {("queries", "first"), ("hard_negatives", "first"), ("leaderboard", ""), *recipes}
    assert conditions(project) == {f"{name}[{partition}]": "stale" for name, partition in decided}
    assert status_of(project, "hard_negatives", "first").reasons == ("tokeniser changed",)
    steps = made(run(project, instance))
    assert decided <= set(steps) and not {name for name, _ in steps} & {"student_checkpoint", "teacher_scores"}
    assert conditions(project) == {}
    after = {system: warehouse.slice_info("rankings", system) for system in before}
    assert after["bm25"] != before["bm25"] and after["kl"] == before["kl"]


def test_a_body_cannot_read_what_its_declaration_does_not_name(mined: Any) -> None:
    """What is read and not declared has no version: the asset stays up to date whatever becomes of it."""
    inputs = Inputs(mined(), "hard_negatives", ASSETS["hard_negatives"].reads, "first", None)
    assert inputs.documents.doc_ids and inputs.settings.mining_depth == 20
    with pytest.raises(UndeclaredReadError, match="hard_negatives reads 'training_judgements': name it"):
        _ = inputs.training_judgements
    with pytest.raises(UndeclaredReadError, match="'teacher'"):
        _ = inputs.teacher_path
    with pytest.raises(UndeclaredReadError, match="the setting 'step_queries'"):
        _ = inputs.settings.step_queries
    with pytest.raises(UndeclaredReadError, match="checked against 'qrels'"):
        inputs.others("qrels")
    assert inputs.settings.batch_size == 32, "speed alone"


@pytest.mark.parametrize(
    ("change", "reason", "is_remade"),
    [
        ({"teacher_max_length": 12}, "settings.teacher_max_length: 48 -> 12", False),
        ({"teacher_prompt": "sum the "}, "settings.teacher_prompt", True),  # its manifest says which way pairs take
    ],
)
def test_another_reading_of_the_teacher_scores_every_pair_again_and_the_old_one_none(
    make: Any, instance: dg.DagsterInstance, change: dict[str, Any], reason: str, is_remade: bool
) -> None:
    """Logits of another length or prompt have the same shape: from the store, they are another teacher's without a sign of it."""
    project = make()
    run(project, instance, "teacher_scores")
    first, paid = logits(project), num_scored(project, "teacher_scores")
    other = make(**change)
    assert [found[: len(reason)] for found in status_of(other, "teacher_scores", "first").reasons] == [reason]
    again = [*([("teacher_checkpoint", "")] if is_remade else []), ("teacher_scores", "first")]
    assert made(run(other, instance, "teacher_scores")) == again
    second = logits(other)
    assert num_scored(project, "teacher_scores") - paid == len(second) == len(first)
    num_moved = sum(second[pair] != first[pair] for pair in first)
    assert second.keys() == first.keys() and num_moved > len(first) / 2
    ids = project.places.warehouse.query("SELECT scorer_id FROM pair_scores GROUP BY ALL").num_rows
    assert ids == 2
    paid = num_scored(project)
    assert made(run(make(), instance, "teacher_scores")) == again
    assert num_scored(project) == paid and logits(project) == first


def test_a_second_batch_leaves_a_grown_teacher_and_its_scores_alone(
    make: Any, instance: dg.DagsterInstance, inbox: Path, tiny_encoder: Path
) -> None:
    """A teacher that is trained again for each batch gives every pair another logit: all of them are paid for again, every day."""
    project = make(tiny_encoder)
    run(project, instance, "teacher_scores")
    assert (project.places.checkpoint_path("teacher") / "ensemble.json").is_file(), "joined with the cosine"
    teacher = project.places.warehouse.slice_info("checkpoints", "teacher")
    sql = "SELECT scorer_id, query_hash, doc_hash, teacher_logit FROM pair_scores ORDER BY ALL"
    before, paid = project.places.warehouse.query(sql).to_pylist(), num_scored(project)
    scorers = {row["scorer_id"] for row in before}
    write_beir(inbox / "second", topics=("graph", "window"))
    steps = made(run(project, instance, "teacher_scores"))
    assert ("teacher_checkpoint", "") not in steps and ("teacher_scores", "second") in steps
    assert project.places.warehouse.slice_info("checkpoints", "teacher") == teacher
    after = project.places.warehouse.query(sql).to_pylist()
    assert {row["scorer_id"] for row in after} == scorers and len(scorers) == 2
    assert [row for row in after if row in before] == before
    cross_encoder = project.logits().teacher(project.places.checkpoint_path("teacher")).members[0].scorer_id
    stored = [len([row for row in rows if row["scorer_id"] == cross_encoder]) for rows in (before, after)]
    assert num_scored(project) - paid == stored[1] - stored[0] > 0, "what is new was paid for, once"
    found = status_of(project, "teacher_checkpoint")
    assert (found.condition, len(found.reasons)) == ("aged", 4)
    assert made(run(project, instance, "teacher_scores")) == []


@pytest.mark.parametrize("moment", ["while it is read", "before it is stored"])
def test_a_file_that_changes_under_the_reader(
    make: Any, instance: dg.DagsterInstance, inbox: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Rows of the old file under the fingerprint of the new one look up to date for ever."""
    import distill_assets.assets.collection as collection

    project, corpus, calls = make(), inbox / "first" / "corpus.jsonl", []
    where, name = (BeirSource, "read") if moment == "while it is read" else (collection, "judge_identity")
    original = getattr(where, name)

    def change_after(*arguments: Any) -> Any:
        found = original(*arguments)
        calls.append(1)
        if len(calls) == 1:
            corpus.write_text(corpus.read_text(encoding="utf-8").replace("sum every", "sum up every"), encoding="utf-8")
        return found

    monkeypatch.setattr(where, name, change_after)
    run(project, instance, "qrels")
    assert len(calls) > 1
    texts = project.places.warehouse.read("corpus")["text"].to_pylist()
    assert sum(text.startswith("sum up every") for text in texts) == 6 == sum(text.startswith("sum") for text in texts)
    assert made(run(project, instance, "qrels")) == []


def test_a_batch_of_judgements_alone_is_learned_from(make: Any, instance: dg.DagsterInstance, inbox: Path) -> None:
    """It has no document, no query and nothing to mine: a fan-in that misses its slices stops the line, or leaves it out."""
    project = make()
    run(project, instance)
    judge(inbox / "second", [("q-array-sum", "matrix-sum", 1)])
    steps = made(run(project, instance))
    assert ("hard_negatives", "first") in steps and ("teacher_scores", "first") in steps
    assert {("student_checkpoint", "hard_labels"), ("student_checkpoint", "margin_mse")} <= set(steps)
    assert logits(project).keys() >= {("q-array-sum", "array-sum"), ("q-array-sum", "matrix-sum")}
    # What a published teacher was measured on is old; the teacher is what it was.
    assert conditions(project) == {"teacher_checkpoint[]": "aged"}
    assert made(run(project, instance)) == []


def test_answers_about_test_queries_make_the_comparison_again_and_train_nothing(
    make: Any, instance: dg.DagsterInstance
) -> None:
    """An answer that no version knows of leaves the old numbers standing; one that counts for training spoils the test set.

    Judged are all documents of the page: the labelled one 0, the others 2. So nobody's nDCG can stay what it was.
    """
    project = make()
    run(project, instance)
    before, paid = {row.system: row.ndcg_at_10 for row in read_rows(project)}, num_scored(project)
    sheet = open_sheet(project, "test")
    assert len(sheet.rankings) == 3 and list(sheet.rankings)[:2] == ["bm25", "untouched_student"]
    record_answer(project, sheet, "ann", sheet.pools[0].query_id, sheet.pools[0].doc_ids[0], None)
    assert made(run(project, instance)) == [], "taken back: nothing changed"
    for pool in sheet.pools:
        for doc_id in pool.doc_ids:
            record_answer(project, sheet, "ann", pool.query_id, doc_id, 0 if f"q-{doc_id}" == pool.query_id else 2)
    recipes = {("eval_metrics", recipe) for recipe in project.settings.all_recipes}
    assert {*made(run(project, instance))} - {("champion", "")} == {*recipes, ("leaderboard", "")}
    after = {row.system: row.ndcg_at_10 for row in read_rows(project)}
    assert after.keys() == before.keys() and all(after[system] != before[system] for system in after)
    told = f"On the page people judged {sum(len(pool.doc_ids) for pool in sheet.pools)} pairs of {len(sheet.pools)} test queries: ann"
    assert any(told in sentence for sentence in read_conclusion(project))
    assert told in (project.places.report / "index.html").read_text(encoding="utf-8")
    assert num_scored(project) == paid and conditions(project) == {}
    assert open_sheet(project, "test").pools == sheet.pools, "the page must not forget what is left"


def test_the_champion_is_a_checkpoint_and_not_a_name(
    make: Any, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After "kept" or a roll back the leaderboard has another student of the champion's name: its numbers are not the champion's.

    After a roll back Dagster must show the model that is served, and no run may promote the refused weights again.
    """
    monkeypatch.setattr(release, "MIN_QUERIES", 1)
    easy = {"promotion_alpha": 0.9, "promotion_margin": 0.9}  # twenty dev queries show nothing at the usual level
    run(make(**easy), instance)
    first = current_champion(make())
    assert marked(make()) == first["recipe"] != "untouched_student"
    changed: dict[str, Any] = {
        "recipes": {
            "hard_labels": {"batch_size": 8, "learning_rate": 1e-3},
            "margin_mse": {"batch_size": 8, "num_negatives": 2, "sampling": "top", "learning_rate": 1e-3},
        }
    }
    strict = make(**changed, promotion_alpha=1e-9)
    run(strict, instance)
    assert [row["verdict"] for row in read_history(strict)] == ["promoted", "promoted", "kept"]
    assert current_champion(strict)["model_fingerprint"] == first["model_fingerprint"]
    assert marked(strict) is None
    assert first["model_fingerprint"][:8] in str(champion_note(read_rows(strict), read_champion(strict)))

    lenient = make(**changed, **easy)
    assert made(run(lenient, instance)) == [("champion", "")]
    second = current_champion(lenient)
    assert second["model_fingerprint"] != first["model_fingerprint"] and marked(lenient) == second["recipe"]

    row = roll_back(lenient)
    instance.report_runless_asset_event(roll_back_event(lenient, row))
    event = instance.get_latest_materialization_event(dg.AssetKey("champion")).asset_materialization
    assert event.tags["dagster/data_version"] == champion_version(first) != champion_version(second)
    assert event.metadata["verdict"].value == "rolled_back" and event.metadata["champion"].value == first["recipe"]
    write_project_report(lenient)
    assert marked(lenient) is None
    assert made(run(lenient, instance)) == []
    again = make(**changed, promotion_alpha=0.9, promotion_margin=0.8)
    assert made(run(again, instance)) == [("champion", "")]
    assert read_history(again)[-1]["model_fingerprint"] != second["model_fingerprint"]
    assert current_champion(again)["model_fingerprint"] != second["model_fingerprint"]

    roll_back(
        again
    )  # now both recipes' students are refused, and the untouched one alone may take the champion's place
    left = make(**changed, promotion_alpha=0.9, promotion_margin=0.7)
    assert made(run(left, instance)) == [("champion", "")]
    assert read_history(left)[-1]["recipe"] == "untouched_student"


def marked(project: Any) -> str | None:
    """The system that leaderboard, terminal and report mark as champion: all of them the same."""
    rows, champion = read_rows(project), read_champion(project)
    row = find_champion_row(rows, champion)
    lines = [line for line in format_table(rows, champion).splitlines() if line.startswith("*")]
    page = (project.places.report / "index.html").read_text(encoding="utf-8")
    assert (len(lines) == 2) is (row is not None) is ('class="champion"' in page)
    assert (champion_note(rows, champion) is None) is (row is not None)
    assert row is None or row.system in lines[0]
    return None if row is None else row.system


@pytest.mark.parametrize("split", ["dev", "train"])
def test_a_split_that_people_judged_not_is_the_teachers(
    make: Any, instance: dg.DagsterInstance, inbox: Path, split: str
) -> None:
    """A mean over no query, or training on nothing: the run died, after all the rest was made."""
    judgements = inbox / "first" / "qrels" / f"{split}.tsv"
    judgements.write_text(judgements.read_text(encoding="utf-8").replace("\t1\n", "\t0\n"), encoding="utf-8")
    project = make()
    run(project, instance, "qrels")
    with project.collection.snapshot() as collection:
        assert collection.judges()[split] == "teacher"


def test_without_test_queries_the_leaderboard_shows_dev(make: Any, instance: dg.DagsterInstance, inbox: Path) -> None:
    """Folders with train and dev alone are common: the run died after everything was trained."""
    judgements = inbox / "first" / "qrels" / "test.tsv"
    judgements.write_text(judgements.read_text(encoding="utf-8").replace("\t1\n", "\t0\n"), encoding="utf-8")
    project = make()
    run(project, instance)
    rows = read_rows(project)
    assert {row.split for row in rows} == {"dev"} and current_champion(project) is not None
    page = project.places.report.joinpath("index.html").read_text(encoding="utf-8")
    assert f"{rows[0].num_queries} dev queries" in page
    assert "There are no judged test queries" in format_table(rows, read_champion(project))


def test_a_mined_negative_that_a_later_batch_judges_relevant(
    make: Any, instance: dg.DagsterInstance, inbox: Path
) -> None:
    """Trained on as a negative, a right answer is pushed away from its query; in a dev list it counts as a mistake of the best."""
    from distill_assets.assets.teacher import wanted_of_batch
    from distill_assets.storage.collection import TRAINING
    from distill_assets.training.lists import Labels, build_dev_lists

    project = make()
    run(project, instance, "hard_negatives")
    with project.collection.snapshot() as collection:
        mined, queries = collection.candidates(), {q.query_id: q for q in collection.queries(TRAINING)}
    chosen = {split: next(q for q in sorted(mined) if queries[q].split == split) for split in TRAINING}
    pairs = {split: (query, mined[query][0]) for split, query in chosen.items()}
    judge(inbox / "second", [(*pair, 2) for pair in pairs.values()])
    run(project, instance, "qrels")  # read, and not mined again yet

    with project.collection.snapshot() as collection:
        labels = Labels(collection.judgements(TRAINING), collection.candidates(), collection.texts())
    for query, document in pairs.values():
        assert document in labels.candidates[query] and document not in labels.negatives_of(query)
        assert document in labels.found_of(query)
    query, document = pairs["dev"]
    [group] = build_dev_lists([queries[query]], labels)
    relevance_of = dict(zip(group.documents, group.relevances, strict=True))
    assert len(relevance_of) == len(group.documents) and relevance_of[labels.content_of[document]] == 2

    wanted = wanted_of_batch(Inputs(project, "scores", WANTED, "first", None))
    rows = project.places.warehouse.query(wanted.sql, wanted.parameters, tables=wanted.tables).to_pylist()
    assert [r["label"] for r in rows if (r["query_id"], r["doc_id"]) == pairs["train"]] == [2]

    run(project, instance, "teacher_scores")
    stored = project.places.warehouse.read("teacher_scores").to_pylist()
    assert [r["label"] for r in stored if (r["query_id"], r["doc_id"]) == pairs["train"]] == [2]
    with project.collection.snapshot() as collection:
        labels = Labels(collection.judgements(TRAINING), collection.candidates(), collection.texts())
    assert all(d in labels.found_of(q) and d not in labels.negatives_of(q) for q, d in pairs.values())


# What `wanted_of_batch` reads, without the teacher.
WANTED = Reads(
    inputs=("own_candidates", "own_queries", "own_judgements"),
    settings=("train_queries", "reads_unjudged_queries", "num_scored_negatives"),
)


def test_a_judgement_of_0_takes_an_earlier_one_back(make: Any, instance: dg.DagsterInstance, inbox: Path) -> None:
    """A correction that adds a row beside the wrong one leaves the wrong one in force: in labels, metrics and the gate."""
    project = make()
    run(project, instance)
    queries = {}
    for split in ("train", "dev", "test"):
        line = (inbox / "first" / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1]
        queries[split] = line.split("\t")[0]
    judge(inbox / "second", [(query, query.removeprefix("q-"), 0) for query in queries.values()])
    tables = ("hard_negatives", "teacher_scores", "eval_metrics", "query_results")
    before = {table: rows_of(project, table, queries) for table in tables}
    assert {table: {split for split, count in found.items() if count} for table, found in before.items()} == {
        "hard_negatives": {"train", "dev"},
        "teacher_scores": {"train"},
        "eval_metrics": {"dev", "test"},
        "query_results": {"dev", "test"},
    }
    run(project, instance)
    for table in before:
        assert set(rows_of(project, table, queries).values()) == {0}, table
    assert {row.num_queries for row in read_rows(project)} == {11}
    ranked = project.places.warehouse.query("SELECT DISTINCT query_id FROM rankings")["query_id"].to_pylist()
    assert not set(ranked) & set(queries.values())
    manifest = project.places.checkpoints.read_manifest(project.places.checkpoint_path("hard_labels"))
    assert manifest["training"]["num_groups"] == 47, "48 train queries, one without a judgement"


def rows_of(project: Any, table: str, queries: dict[str, str]) -> dict[str, int]:
    """Rows of each of these queries in a table, by split."""
    found = project.places.warehouse.read(table)["query_id"].to_pylist()
    return {split: found.count(query) for split, query in queries.items()}


@pytest.fixture(scope="module")
def mined(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path, tiny_cross_encoder: Path) -> Any:
    """Opens, with changed settings, a project whose one batch has been mined."""
    folder = tmp_path_factory.mktemp("mined")
    write_beir(folder / "inbox" / "first", topics=TOPICS)

    def open_project(**changes: Any) -> Any:
        return make_project(folder / "inbox", tiny_encoder, tiny_cross_encoder, folder / "data", **changes)

    run(open_project(), dg.DagsterInstance.ephemeral(), "hard_negatives")
    return open_project
