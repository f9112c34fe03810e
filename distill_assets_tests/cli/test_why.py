"""`distill-assets why`, on an inbox where something of everything has gone wrong."""

import json
from pathlib import Path

import pytest

from distill_assets_tests.cli.test_commands import call, tiny_environment  # noqa: F401  (a fixture)
from distill_assets_tests.conftest import write_beir


@pytest.fixture
def inbox(tiny_environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:  # noqa: F811
    """One good batch, one that cannot be read, one that a check refuses, and a folder whose name no batch may have."""
    folder = tmp_path / "inbox"
    write_beir(folder / "good", topics=("array", "matrix"))
    write_beir(folder / "broken", topics=("graph",))
    (folder / "broken" / "queries.jsonl").write_text("{\n", encoding="utf-8")
    write_beir(folder / "signs", topics=("tensor",))
    with (folder / "signs" / "corpus.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": name, "text": "---"}) + "\n" for name in ("dash", "line"))
    write_beir(folder / "bad name", topics=("vector",))
    monkeypatch.setenv("DISTILL_COLLECTION", f"beir:{folder}")
    return folder


def test_one_sentence_says_what_because_of_which_input_and_what_next(
    inbox: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch that nobody hears of again, a check without its name, or a hash that changed into nothing anybody can see."""

    def why(wanted: str) -> str:
        assert call(monkeypatch, "why", wanted) == 0
        return capsys.readouterr().out.strip()

    never = "is due: it was never made; distill-assets run makes it"
    assert why("corpus[good]") == f"corpus[good] {never}"
    assert why("student_checkpoint[hard_labels]") == (
        "student_checkpoint[hard_labels] waits: no batch has been read; distill-assets run reads them"
    )
    assert call(monkeypatch, "run", "--until", "hard_negatives") == 2
    capsys.readouterr()

    assert why("corpus[good]").startswith("corpus[good] is fresh: nothing that it reads has changed since 20")
    broken = why("corpus[broken]")
    assert broken.startswith("corpus[broken] is refused (quarantine): ") and "queries.jsonl, line 1" in broken
    assert broken.endswith("; it is read again when its content changes")
    assert why("teacher_scores[broken]").startswith("teacher_scores[broken] waits: corpus[broken] is refused (quar")
    named = why("corpus[bad name]")
    assert named.startswith("corpus[bad name] is refused (quarantine): 'bad name' cannot name a batch")
    assert named.endswith("rename the folder or package")
    assert why("corpus[signs]") == (
        "corpus[signs] is refused: check documents_not_empty failed: 2 of 14 documents hold no letter and no digit "
        "(14.3%); allowed 1%; remove the documents of the sample from the source, or give them text, and read the batch "
        "again; distill-assets run makes it again"
    )
    assert why("hard_negatives[signs]").startswith("hard_negatives[signs] waits: corpus[signs] did not pass a blocking")
    assert why("teacher_scores[good]").startswith("teacher_scores[good] waits: teacher_checkpoint is not materialised")

    assert call(monkeypatch, "why", "corpus", "--json") == 0
    rows = {row["partition"]: row for row in json.loads(capsys.readouterr().out)["assets"]}
    assert {key: row["condition"] for key, row in rows.items()} == {
        "bad name": "rejected",
        "broken": "rejected",
        "good": "up to date",
        "signs": "rejected",
    }
    assert set(rows["good"]) == {"asset", "partition", "condition", "reasons", "sentence"}
    assert rows["broken"]["sentence"] == broken and rows["broken"]["reasons"][0].startswith("quarantine: ")
    assert rows["signs"]["reasons"][0].startswith("check documents_not_empty failed")

    queries = inbox / "good" / "queries.jsonl"
    text = queries.read_text(encoding="utf-8")
    queries.write_text(text.replace("How", "Tell me how").replace("how", "in which way"), encoding="utf-8")
    assert call(monkeypatch, "run", "--until", "qrels") == 2
    capsys.readouterr()
    due = why("hard_negatives[good]")
    assert due.startswith("hard_negatives[good] is due: own_queries of queries changed (")
    before, arrow, after = due.split("own_queries of queries changed (")[1].split(")")[0].split()
    assert (len(before), arrow, len(after)) == (8, "->", 8) and before != after
    assert due.endswith("; distill-assets run makes it")

    queries.write_text("{\n", encoding="utf-8")
    assert call(monkeypatch, "run", "--until", "qrels") == 2
    capsys.readouterr()
    kept = why("queries[good]")
    assert kept.startswith("queries[good] is kept as it was read before: what came since is refused (quarantine): ")
    assert why("hard_negatives[good]") == due, "what was made from the batch before stands"
    assert len(why("corpus").splitlines()) == 4, "one line each, whatever a reason has"
