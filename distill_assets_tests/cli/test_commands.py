"""The command line as a user types it, on the tiny collection."""

import inspect
import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from distill_assets import errors
from distill_assets.cli import commands
from distill_assets.cli.commands import main
from distill_assets.evaluation.leaderboard import LeaderboardRow
from distill_assets.settings.values import load_settings
from distill_assets_tests.conftest import write_beir


@pytest.fixture
def tiny_environment(project: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The tiny project's settings as DISTILL_* variables, in an empty folder."""
    for name, value in project.overrides.items():
        monkeypatch.setenv(f"DISTILL_{name.upper()}", value if isinstance(value, str) else json.dumps(value))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


REPORT_WITHOUT_MODELS = """
import sys
sys.argv = ["distill-assets", "report"]
from distill_assets.cli.commands import main
try:
    main()
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules, "a model library was loaded"
"""


WRITES_AT_TEARDOWN = """
import builtins, os, sys
from distill_assets.cli.commands import main
class Library:
    def __del__(self, write=os.write):
        write(2, b"leaked")
builtins.library = Library()
sys.argv = ["distill-assets", "--help"]
if {is_closed}:
    main()
"""


def test_nothing_stands_below_the_last_line() -> None:
    """Sixty lines of a library's teardown pushed the leaderboard off the screen after every run that loaded a model."""
    for is_closed in (False, True):
        code = WRITES_AT_TEARDOWN.format(is_closed=is_closed)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert ("leaked" in done.stderr) is not is_closed, done.stderr


OPEN_INSTANCES = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from distill_assets.handles.places import Places
import dagster
import distill_assets.orchestration.lost_runs
from distill_assets.cli.commands import _instance
root, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
for turn in range(3):
    (root / f"{turn}-{me}").touch()
    deadline = time.monotonic() + 60
    while not (root / f"{turn}-{other}").exists():
        if time.monotonic() > deadline:
            sys.exit("the other process has failed")
    os.environ.pop("DAGSTER_HOME", None)
    with _instance(SimpleNamespace(places=Places(root / str(turn)))) as instance:
        assert instance.get_runs() == [] and instance.all_instigator_state() == []
        assert instance.event_log_storage.get_concurrency_keys() == set()
        assert instance.get_settings("concurrency")["pools"]["default_limit"] == 1, "dagster.yaml was not read"
"""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["distill-assets", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.whole  # the report is written again by another process
def test_run_search_leaderboard_and_a_second_run(
    tiny_environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of log on stdout breaks every script that reads --json; a second run that works again costs a teacher."""
    assert call(monkeypatch, "run") == 0
    out = capsys.readouterr().out
    assert "untouched_student" in out and "too few to say which way is best" in out.strip().splitlines()[-1]

    assert call(monkeypatch, "leaderboard", "--json") == 0
    board = json.loads(capsys.readouterr().out)
    assert board["collection"] == "beir:tiny" and board["split"] == "test"
    assert {s["name"] for s in board["systems"]} == {
        "bm25",
        "hybrid",
        "hybrid:hard_labels",
        "hybrid:margin_mse",
        "untouched_student",
        "teacher",
        "hard_labels",
        "margin_mse",
    }
    assert all(
        {"name", *(field.name for field in fields(LeaderboardRow))} == set(system) for system in board["systems"]
    )
    assert board["teacher_fitness"].startswith("The teacher is not fit to teach: on 8 dev queries"), "two random layers"
    champion = board["champion"]
    assert champion["name"] == "untouched_student" and Path(champion["checkpoint_path"]).is_dir()
    [row] = [s for s in board["systems"] if s["name"] == champion["name"]]
    assert row["model_fingerprint"] == champion["model_fingerprint"]
    assert board["conclusion"][0].startswith("Training was not shown to help on these documents")
    assert all(s["ndcg_at_10_low"] <= s["ndcg_at_10"] <= s["ndcg_at_10_high"] for s in board["systems"])

    (page,) = tiny_environment.parent.glob("data/*/report/index.html")
    before = page.read_text(encoding="utf-8")
    page.unlink()
    done = subprocess.run([sys.executable, "-c", REPORT_WITHOUT_MODELS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(page) in done.stdout
    assert page.read_text(encoding="utf-8") == before  # times of the run included

    assert call(monkeypatch, "search", "how to sum a matrix", "-k", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    assert found["champion"] == champion["name"]

    assert call(monkeypatch, "batches", "--json") == 0
    assert json.loads(capsys.readouterr().out)["batches"][0]["corpus"] == 120

    assert call(monkeypatch, "run", "--json") == 0
    captured = capsys.readouterr()
    assert "nothing changed: no teacher forward pass, nothing trained" in captured.err
    again = json.loads(captured.out)
    assert {step["outcome"] for step in again["steps"]} == {"up to date"}
    assert again["steps"][0] == {
        "assets": ["corpus", "queries", "qrels"],
        "partition": "tiny",
        "seconds": 0.0,
        "outcome": "up to date",
        "refusal": None,
        "warnings": [],
    }
    assert {name: again[name] for name in board} == board, "one builder of the leaderboard's document"
    assert Path(again["report"]) == page and again["error"] is None

    for flags in ([], ["--fresh-teacher"]):
        assert call(monkeypatch, "retrain", *flags) == 3
        assert capsys.readouterr().err.startswith("nothing to retrain: no new scores")

    assert call(monkeypatch, "rollback") == 1
    assert "first champion" in capsys.readouterr().err

    assert call(monkeypatch, "why", "--json") == 0
    told = json.loads(capsys.readouterr().out)["assets"]
    assert {(row["asset"], row["partition"]): row["condition"] for row in told} == {
        **{(name, "tiny"): "up to date" for name in ("corpus", "queries", "qrels", "hard_negatives", "teacher_scores")},
        **{(name, "tiny"): "up to date" for name in ("generated_queries", "teacher_judgements")},
        **{
            (name, r): "up to date"
            for name in ("student_checkpoint", "eval_metrics")
            for r in ("hard_labels", "margin_mse")
        },
        **{(name, ""): "up to date" for name in ("teacher_checkpoint", "leaderboard", "champion")},
    }
    monkeypatch.setenv("DISTILL_MINING_DEPTH", "10")
    assert call(monkeypatch, "why", "hard_negatives[tiny]") == 0
    assert capsys.readouterr().out.splitlines() == [
        "hard_negatives[tiny] is due: settings.mining_depth changed (20 -> 10); distill-assets run makes it"
    ]
    assert call(monkeypatch, "why", "no_such_asset") == 2
    assert "no asset or partition 'no_such_asset': there are corpus" in capsys.readouterr().err

    assert call(monkeypatch, "export-ranking", "teacher") == 0
    rows = [line.split(" ") for line in capsys.readouterr().out.splitlines()]
    assert {len(row) for row in rows} == {6} and {(row[1], row[5]) for row in rows} == {("Q0", "teacher")}
    first = [row for row in rows if row[0] == rows[0][0]]
    assert [int(row[3]) for row in first] == list(range(1, len(first) + 1))
    assert [float(row[4]) for row in first] == sorted((float(row[4]) for row in first), reverse=True)
    assert len({row[0] for row in rows}) == 12, "every test query"
    assert call(monkeypatch, "export-ranking", "teacher", "--json") == 0
    told_rows = json.loads(capsys.readouterr().out)["rankings"]
    assert [(row["query_id"], row["doc_id"], row["score"]) for row in told_rows] == [
        (row[0], row[2], float(row[4])) for row in rows
    ]
    assert call(monkeypatch, "report", "--json") == 0
    assert Path(json.loads(capsys.readouterr().out)["report"]) == page
    assert call(monkeypatch, "judge", "--name", " ann ", "--json") == 0, "a page that is served never ends"
    told = json.loads(capsys.readouterr().out)
    assert (told["judge"], told["num_pairs"], told["judges"], told["num_left_queries"]) == ("ann", 0, [], 12)
    assert told["power"].startswith("12 judged queries")
    assert call(monkeypatch, "export-ranking", "bm25", "--split", "dev") == 0
    assert len({line.split(" ")[0] for line in capsys.readouterr().out.splitlines()}) == 20
    assert call(monkeypatch, "export-ranking", "bm26") == 1
    assert "no ranking of 'bm26' on test" in capsys.readouterr().err


def test_commands_before_the_first_run_say_what_to_do(
    tiny_environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or an empty table with exit code 0, leaves a newcomer alone."""
    for arguments in (["leaderboard"], ["report"], ["search", "sum"]):
        assert call(monkeypatch, *arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "run distill-assets run first" in captured.err
    assert call(monkeypatch, "leaderboard", "--json") == 1
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["type"] == "DistillError" and "run distill-assets run first" in error["message"]
    assert error["message"] in captured.err
    assert call(monkeypatch, "why") == 0
    assert "hard_negatives[tiny] waits: corpus[tiny] is not materialised; " in capsys.readouterr().out
    assert not (tiny_environment.parent / "data").exists()


def test_every_command_but_ui_takes_json() -> None:
    """A new command without --json answers a script with a table."""
    callbacks = [command.callback for command in commands.app.registered_commands]
    found = {each.__name__ for each in callbacks if each and "as_json" not in inspect.signature(each).parameters}
    assert found == {"ui"}


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["run", "--json", "--no-such-flag"], "NoSuchOption", "--no-such-flag"),
        (["search", "--json"], "MissingParameter", "Missing argument"),
        (["why", "--quick", "--full", "--json"], "BadParameter", "choose one of --quick and --full"),
        (["inspect", "/nowhere", "--json"], "SourceError", "/nowhere"),
        (["ui", "--json"], "NoSuchOption", "--json"),
    ],
)
def test_a_refused_command_line_is_a_document_too(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    kind: str,
    message: str,
) -> None:
    """A script that parses stdout dies of an empty one, and of a box drawn around a usage error."""
    assert call(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["type"] == kind and message in error["message"] and error["message"] in captured.err


def test_an_error_that_nobody_expected_is_a_document_with_its_traceback_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk leaves no document, or a document alone hides where it happened."""

    def fail(*_: Any) -> None:
        print("from a library")  # noqa: T201
        raise OSError("no space left on device")

    monkeypatch.setattr(commands, "_open_project", fail)
    assert call(monkeypatch, "settings", "--json") == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": {"type": "OSError", "message": "no space left on device"}}
    assert "from a library" in captured.err and "Traceback" in captured.err


def test_exit_codes_stand_on_the_classes() -> None:
    """A retry loop around bad input runs for ever; one that takes a failure for bad input never tries again."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    by_code = {code: {each.__name__ for each in classes if each.exit_code == code} for code in (1, 2, 3)}
    assert by_code[3] == {"NothingToDoError"}
    assert by_code[2] == {
        "SettingsError",
        "SourceError",
        "MalformedRecordError",
        "UnknownJudgementError",
        "UnknownBatchError",
        "UnknownRecipeError",
        "UnknownAssetError",
        "ModelError",
        "ScoreSetError",
    }
    assert len(by_code[1]) + len(by_code[2]) + 1 == len(classes) > 20


def test_init_writes_what_a_folder_without_a_file_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that changes what `run` does by being written, or that replaces the settings of months."""
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "settings", "--json") == 0
    before = json.loads(capsys.readouterr().out)
    assert before["file"] is None
    assert call(monkeypatch, "init") == 0
    capsys.readouterr()
    assert call(monkeypatch, "settings", "--json") == 0
    after = json.loads(capsys.readouterr().out)
    assert after["file"] == str(tmp_path / "distill.toml")
    values = [[(row["name"], row["value"]) for row in found["settings"]] for found in (before, after)]
    assert values[0] == values[1] and len(values[0]) > 40

    (tmp_path / "distill.toml").write_text("mining.train_queries = 7\n", encoding="utf-8")
    assert call(monkeypatch, "init") == 1
    assert "exists already and is left as it is: edit it, or move it away first" in capsys.readouterr().err
    assert (tmp_path / "distill.toml").read_text(encoding="utf-8") == "mining.train_queries = 7\n"


def test_init_for_a_folder(
    tiny_environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that names another collection than the one that was shown would train on something else for an hour."""
    monkeypatch.delenv("DISTILL_COLLECTION", raising=False)
    docs = tmp_path / 'my "docs"'
    docs.mkdir()
    (docs / "a.md").write_text("# A\nFirst text.\n## B\nSecond text.\n", encoding="utf-8")
    (docs / "b.md").write_bytes(b"\0")
    (docs / "c.png").touch()
    write_beir(tmp_path / "beir", topics=("array",))
    for name, wanted, told in (
        (docs, f"files:{docs}", ("files: 2 .md, 1 .png (not read)", "2 documents", "not read: b.md: it is no text")),
        (tmp_path / "beir", f"beir:{tmp_path / 'beir'}", ("judged queries",)),
    ):
        here = tmp_path / f"project of {name.name[:2]}"
        here.mkdir()
        monkeypatch.chdir(here)
        assert call(monkeypatch, "init", str(name)) == 0
        shown = capsys.readouterr().out
        assert all(sentence in shown for sentence in told) and shown.endswith("next: distill-assets run\n")
        assert load_settings().collection == wanted
        assert call(monkeypatch, "init", str(name)) == 1  # it is there
        capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no folder at nowhere"),
        ("images", r"no document in images: .* found 1 .png (not read); put documents there"),
    ],
)
def test_init_refuses_a_folder_without_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    """A file that names nothing readable fails an hour later, at the first run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").touch()
    assert call(monkeypatch, "init", name) == 2
    begin, _, end = message.partition(".*")
    error = capsys.readouterr().err
    assert begin in error and end in error
    assert not (tmp_path / "distill.toml").exists()


def test_flags_win_and_are_told(
    tiny_environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag that an old variable of the shell undoes trains for hours on the wrong documents."""
    monkeypatch.setenv("DISTILL_SKIP_RECIPES", '["kl", "hard_labels"]')
    flags = ["--collection", "beir:x", "--teacher", "t", "--student", "s", "--recipe", "hard_labels"]
    flags += ["--baseline", "a/b", "--baseline", "c"]
    assert call(monkeypatch, "settings", "--json", *flags) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["settings"]}
    assert {name: row["value"] for name, row in rows.items() if row["source"] == "flag"} == {
        "collection": "beir:x",
        "teacher": "t",
        "student": "s",
        "baselines": ["a/b", "c"],
        "skip_recipes": ["kl", "margin_mse"],
    }
    assert call(monkeypatch, "settings", *flags) == 0
    assert 'skip_recipes              flag         ["kl", "margin_mse"]' in capsys.readouterr().out
    assert call(monkeypatch, "run", "--recipe", "kll") == 2
    assert "no recipe kll: there are hard_labels, kl, margin_mse" in capsys.readouterr().err
    assert call(monkeypatch, "run", "--teacher", "/nowhere/teacher", "--until", "teacher_checkpoint") == 2
    assert "no model at '/nowhere/teacher'" in capsys.readouterr().err


def test_every_reading_command_takes_the_collection(
    tiny_environment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """After `run --collection X` a command that cannot be told of X shows the numbers of other documents."""
    other = f"beir:{write_beir(tmp_path / 'other', topics=('array', 'matrix'))}"
    assert call(monkeypatch, "run", "--collection", other, "--until", "qrels") == 0
    capsys.readouterr()
    assert call(monkeypatch, "batches", "--json", "--collection", other) == 0
    assert json.loads(capsys.readouterr().out)["batches"][0]["corpus"] == 24
    assert call(monkeypatch, "batches", "--json") == 0
    assert json.loads(capsys.readouterr().out)["batches"][0]["corpus"] is None
    assert call(monkeypatch, "why", "corpus", "--collection", other) == 0
    assert capsys.readouterr().out.startswith("corpus[other] is fresh: nothing that it reads has changed since 2")
    for arguments in (["leaderboard"], ["report"], ["search", "sum"], ["rollback"]):
        assert call(monkeypatch, *arguments, "--collection", other) == 1
        assert other in capsys.readouterr().err, arguments
    assert call(monkeypatch, "retrain", "--collection", other) == 0
    assert "hard_negatives [other]" in capsys.readouterr().out
    assert call(monkeypatch, "search", "sum", "--collection", other) == 0
    assert "searched: beir:other, with" in capsys.readouterr().err
    assert call(monkeypatch, "export-ranking", "bm25", "--collection", other) == 0
    assert call(monkeypatch, "export-ranking", "bm25") == 1


def test_two_first_runs_at_once_make_the_databases_once(tmp_path: Path) -> None:
    """Two terminals, or a schedule and a person: one died with the traceback of a database that the other was making."""
    command = [sys.executable, "-c", OPEN_INSTANCES, str(tmp_path)]
    started = [
        subprocess.Popen([*command, *names], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for names in (("a", "b"), ("b", "a"))
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DISTILL_COLLECTION", "csv:x", "expected python_api, inbox, beir:PATH"),  # unknown kind of collection
        ("DISTILL_COLLECTION", "beir:/nowhere/at/all", "/nowhere/at/all"),  # missing folder
        ("DISTILL_STUDENT", "/nowhere/model", "no model at '/nowhere/model'"),  # missing model
        ("DISTILL_NO_SUCH_KEY", "1", "unknown variable DISTILL_NO_SUCH_KEY"),
        ("DISTILL_TRAIN_QUERIES", "0", "train_queries"),  # value out of range
    ],
)
def test_bad_settings_are_one_line_on_stderr(
    tiny_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    message: str,
) -> None:
    """Bad input that ends in a traceback hides what to change."""
    monkeypatch.setenv(name, value)
    assert call(monkeypatch, "run") == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_broken_line_is_named_and_the_stored_batch_stays(
    tiny_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    beir_folder: Path,
    project: Any,
) -> None:
    """A half-copied file must neither be taken for a small corpus nor delete the good one."""
    assert call(monkeypatch, "run", "--until", "qrels") == 0
    corpus = beir_folder / "corpus.jsonl"
    corpus.write_text(corpus.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    assert call(monkeypatch, "run", "--until", "qrels") == 2
    error = capsys.readouterr().err
    assert "corpus.jsonl" in error and "120" in error
    assert project.places.warehouse.slice_info("corpus", "tiny").num_rows == 120


def test_a_broken_batch_of_an_inbox_is_left_out_and_said(
    tiny_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The others must go on, and a script must hear of it: exit code 0 would hide that half of the documents are missing.

    What a library in C prints on stdout would spoil the document as well, so the descriptors themselves are looked at.
    """
    inbox = tmp_path / "inbox"
    write_beir(inbox / "good", topics=("array", "matrix"))
    write_beir(inbox / "bad", topics=("graph",))
    (inbox / "bad" / "queries.jsonl").write_text("{\n", encoding="utf-8")
    monkeypatch.setenv("DISTILL_COLLECTION", f"beir:{inbox}")
    assert call(monkeypatch, "run", "--until", "hard_negatives", "--json") == 2
    captured = capfd.readouterr()
    assert "left out, because they could not be read: bad" in captured.err and "queries.jsonl, line 1" in captured.err
    told = json.loads(captured.out)
    assert [(step["partition"], step["outcome"]) for step in told["steps"]] == [
        ("bad", "refused"),
        *[("good", "made")] * 3,
    ]
    assert "line 1" in told["steps"][0]["refusal"] and told["steps"][1]["seconds"] > 0
    assert told["error"]["type"] == "SourceError" and told["error"]["message"] in captured.err
    assert call(monkeypatch, "inspect", str(inbox), "--json") == 2
    looked = json.loads(capfd.readouterr().out)
    assert [each["batch"] for each in looked["batches"]] == ["good"] and "line 1" in looked["refused"]["bad"]
    assert call(monkeypatch, "batches", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert [row["hard_negatives"] is None for row in found["batches"]] == [True, False]
    assert "line 1" in found["quarantined"]["bad"]


def test_retrain_makes_a_grown_teacher_anew_where_it_is_told_to(
    tiny_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    project: Any,
    beir_folder: Path,
) -> None:
    """A teacher that is as old as its first labels and cannot be made anew, or is made anew by every run, unasked."""
    monkeypatch.setenv("DISTILL_TEACHER", project.overrides["student"])
    monkeypatch.setenv("DISTILL_SKIP_RECIPES", '["kl", "hard_labels"]')
    monkeypatch.setenv("DISTILL_RECIPES", '{"margin_mse": {"batch_size": 8, "num_negatives": 2, "sampling": "top"}}')
    assert call(monkeypatch, "run") == 0
    first = project.places.checkpoint_path("teacher")
    train = beir_folder / "qrels" / "train.tsv"
    text = train.read_text(encoding="utf-8")
    train.write_text(text.replace("q-array-sum\tarray-sum\t", "q-array-sum\tmatrix-sum\t"), encoding="utf-8")
    assert call(monkeypatch, "run", "--until", "teacher_scores") == 0
    capsys.readouterr()
    assert project.places.checkpoint_path("teacher") == first
    assert call(monkeypatch, "why", "teacher_checkpoint") == 0
    told = capsys.readouterr().out
    assert told.startswith("teacher_checkpoint is kept although ") and "training_judgements of qrels changed (" in told
    assert told.endswith(" (aged); distill-assets retrain --fresh-teacher makes it anew\n")

    assert call(monkeypatch, "retrain", "--fresh-teacher") == 0
    assert project.places.checkpoint_path("teacher") != first, "the folder is named after what it was made from"
    assert "teacher_checkpoint" in capsys.readouterr().out
    assert call(monkeypatch, "why", "teacher_checkpoint", "--json") == 0
    assert json.loads(capsys.readouterr().out)["assets"][0]["condition"] == "up to date"


def test_help_names_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--help is the only page that many users read."""
    assert call(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(
        command in shown
        for command in (
            "run",
            "search",
            "leaderboard",
            "batches",
            "rollback",
            "ui",
            "why",
            "export-ranking",
            "init",
            "settings",
        )
    )


def test_the_ui_of_a_background_job_can_be_ended(tiny_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's background job ignores SIGINT. Dagster then ignores SIGTERM, too, and six processes stay for ever."""
    handlers = []
    monkeypatch.setattr(os, "execv", lambda *_: handlers.append(signal.getsignal(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert call(monkeypatch, "ui") == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert handlers == [signal.SIG_DFL]
