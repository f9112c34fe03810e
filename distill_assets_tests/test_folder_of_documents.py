"""A folder of Markdown, without a query and a judgement, from its files to a champion."""

from pathlib import Path
from typing import Any

import dagster as dg

from distill_assets.definitions import build_definitions
from distill_assets.handles.project import Project
from distill_assets.orchestration.running import run_line
from distill_assets.report.publishing import current_champion, read_rows
from distill_assets.serving.searcher import search
from distill_assets_tests.conftest import ACTIONS, TOPICS, make_project


def write_guides(folder: Path) -> None:
    """Ten files of twelve sections of a line or two; the first section of each is a page long."""
    folder.mkdir()
    for i, topic in enumerate(TOPICS):
        lines = ["---", f"title: All about the {topic}", "---"]
        for j, action in enumerate(ACTIONS):
            other, near = TOPICS[(i + 3) % 10], TOPICS[(i + j) % 10]
            text = f"To {action} every value choose {ACTIONS[(j + 5) % 12]} or {other}. The {topic} keeps its {near} after that."
            lines += [f"## How to {action} a {topic}", "", *([text] * (8 if j == 0 else 1)), ""]
        (folder / f"{topic}.md").write_text("\n".join(lines), encoding="utf-8")


def test_a_folder_of_markdown_ends_with_a_champion_and_an_edit_moves_its_own_section_alone(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """What a stranger does first. Text beyond the student's length would be lost, and one new section would move every id."""
    folder = tmp_path / "guides"
    write_guides(folder)
    changes: dict[str, Any] = {"dev_queries": None, "pool_depth": 3, "student_max_length": 64}
    made = make_project(folder, tiny_encoder, tiny_cross_encoder, tmp_path / "data", **changes)
    project = Project(overrides={**made.overrides, "collection": f"files:{folder}"})
    with dg.DagsterInstance.ephemeral() as instance:
        list(run_line(build_definitions(project), project, instance))
    warehouse = project.places.warehouse
    before = set(warehouse.read("corpus")["doc_id"].to_pylist())
    passages = warehouse.read("passages").to_pylist()
    cut = {f"{topic}.md#how-to-{ACTIONS[0]}-a-{topic}" for topic in TOPICS}
    assert {row["parent_id"] for row in passages} == cut, (
        "what is longer than the student reads is cut, and nothing else"
    )
    rows = read_rows(project)
    assert {row.judged_by for row in rows} == {"teacher"} and len(rows) >= 4
    champion = current_champion(project)
    assert champion is not None and champion["judged_by"] == "teacher"
    assert search(project, f"{ACTIONS[3]} {TOPICS[2]}", 3).hits

    page = folder / f"{TOPICS[0]}.md"
    text = page.read_text(encoding="utf-8")
    first = f"## How to {ACTIONS[0]}"
    page.write_text(text.replace(first, f"## Before you start\n\nRead this first.\n\n{first}", 1), encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        list(run_line(build_definitions(project), project, instance, until="qrels"))
    after = set(warehouse.read("corpus")["doc_id"].to_pylist())
    assert after - before == {f"{TOPICS[0]}.md#before-you-start"} and before <= after
