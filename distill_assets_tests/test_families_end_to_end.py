"""Models of three families from their folders to a champion: what each room supports alone must hold for the whole line."""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from sentence_transformers import SentenceTransformer

from distill_assets.definitions import build_definitions
from distill_assets.handles.project import Project
from distill_assets.models.encoders import encode_texts, load_student
from distill_assets.orchestration.running import run_line
from distill_assets.orchestration.stages import is_stale, next_work
from distill_assets.records import hash_text
from distill_assets.report.publishing import current_champion
from distill_assets.serving.searcher import search
from distill_assets_tests.conftest import make_project
from distill_assets_tests.models.families import tiny_bert, tiny_modernbert_modular, tiny_student, tiny_xlm_roberta

FAMILIES = {"bert": tiny_bert, "xlm-roberta": tiny_xlm_roberta, "modernbert": tiny_modernbert_modular}


@pytest.mark.parametrize(("kind", "make_teacher"), FAMILIES.items())
def test_a_family_goes_from_its_folders_to_a_champion(
    kind: str, make_teacher: Callable[[Path], Path], beir_folder: Path, tmp_path: Path
) -> None:
    """A prompt or length that one asset reads and another does not leaves every number plausible.

    Vectors in the store, those of the saved student and those of the library are compared at the end.
    """
    student = tiny_student(tmp_path / "student", kind)
    project: Project = make_project(
        beir_folder,
        student,
        make_teacher(tmp_path / "teacher"),
        tmp_path / "data",
        skip_recipes=("kl", "hard_labels"),
        student_max_length=None,  # as the library would read
    )
    with dg.DagsterInstance.ephemeral() as instance:
        list(run_line(build_definitions(project), project, instance))
    assert next_work(project, is_stale) is None
    manifest = project.places.checkpoints.read_manifest(project.places.checkpoint_path("teacher"))
    assert manifest["ways"] == {"": "packed"}
    trained = project.places.checkpoint_path("margin_mse")
    own = SentenceTransformer(str(trained), device="cpu")
    assert own.prompts == {"query": "sort the ", "document": "frame of "}
    texts = [hit.text for hit in search(project, "how to sum the array", 3).hits]
    champion = current_champion(project)
    assert champion is not None
    for path in (trained, Path(champion["checkpoint_path"])):
        stored = project.vectors.embed(path, texts, "document")[:]
        library = SentenceTransformer(str(path), device="cpu").encode_document(texts, normalize_embeddings=True)
        assert stored == pytest.approx(library, abs=1e-5)
        assert stored == pytest.approx(encode_texts(load_student(path, device="cpu"), texts, "document"), abs=1e-5)
    assert len({hash_text(text) for text in texts}) == 3
