"""Which models: where they lie, what identifies them, how they are loaded. No model is opened before it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from distill_assets.errors import ModelError
from distill_assets.models.catalog import (
    BI_ENCODER_FOLDER,
    BUNDLED_TEACHER,
    fingerprint_model,
    fold_folders,
    resolve_model,
)
from distill_assets.models.folders import is_cross_encoder, own_max_tokens
from distill_assets.records import fingerprint
from distill_assets.settings.values import BUNDLED, Settings

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    from distill_assets.models.encoders import Precision


@dataclass(frozen=True)
class Models:
    """The student and the teacher that the settings name."""

    settings: Settings

    @cached_property
    def device(self) -> str:
        """The torch device, picked once."""
        from distill_assets.models.encoders import pick_device

        return pick_device(self.settings.device)

    @cached_property
    def student_precision(self) -> "Precision":
        """What bi-encoders encode in on this machine."""
        from distill_assets.models.encoders import resolve_precision

        return resolve_precision(self.settings.student_precision, self.device)

    @cached_property
    def scoring_precision(self) -> "Precision":
        """Precision of the teacher's matrix products on this machine."""
        from distill_assets.models.encoders import resolve_precision

        return resolve_precision(self.settings.precision, self.device)

    @cached_property
    def student_path(self) -> Path:
        """Folder of the untouched student."""
        return resolve_model(self.settings.student)

    @cached_property
    def baselines(self) -> dict[str, Path]:
        """Folders of the baselines by their name on the leaderboard."""
        return {name: resolve_model(model) for name, model in self.settings.named_baselines.items()}

    @property
    def baselines_id(self) -> str:
        """Changes when a baseline comes, goes, or is another model."""
        return fingerprint(*((name, self.encoder_id(path)) for name, path in self.baselines.items()))

    @property
    def student_id(self) -> str:
        """`encoder_id` of the untouched student."""
        return self.encoder_id(self.student_path)

    def encoder_id(self, path: Path) -> str:
        """Content of a bi-encoder folder (weights, tokenizer, prompts), how many tokens of a text it reads, precision if set.

        If the precision is `auto`, it is not part of this id. So nothing becomes stale when you change machines. The embedding store
        has the precision in its key, so vectors of two precisions are never mixed.
        """
        precision = self.settings.student_precision
        chosen = () if precision == "auto" else (precision,)
        return fingerprint(fingerprint_model(path), self.settings.student_max_length, *chosen)

    @property
    def teacher_choice(self) -> str:
        """`bundled`, a folder or a hub name; `auto` resolved."""
        if self.settings.teacher != "auto":
            return self.settings.teacher
        return BUNDLED if self.settings.collection == "python_api" else self.settings.student

    @property
    def teacher_source_path(self) -> Path:
        """Folder that the teacher is made from: the bundled adapters, or the chosen model."""
        if self.teacher_choice == BUNDLED:
            if not fold_folders(BUNDLED_TEACHER):
                raise ModelError(
                    f"the bundled teacher is missing at {BUNDLED_TEACHER}: reinstall the package or set teacher to a model"
                )
            return BUNDLED_TEACHER
        return resolve_model(self.teacher_choice)

    @property
    def is_teacher_joined(self) -> bool:
        """Whether the teacher is joined with a bi-encoder's cosine: by setting, else where it was grown from an encoder."""
        if self.settings.teacher_with_cosine is not None:
            return self.settings.teacher_with_cosine
        return self.teacher_choice == BUNDLED or not is_cross_encoder(self.teacher_source_path)

    @property
    def is_teacher_trained(self) -> bool:
        """Whether the teacher is fine-tuned on this collection's labels: by setting, or because it has no scoring head yet."""
        if self.teacher_choice == BUNDLED:
            return self.settings.teacher_finetune
        return self.settings.teacher_finetune or not is_cross_encoder(self.teacher_source_path)

    @property
    def is_teacher_of_collection(self) -> bool:
        """Whether the teacher is made from this collection: trained on its labels, or its members weighed on its dev candidates.

        The bundled teacher brings its weights along.
        """
        return self.is_teacher_trained or (self.is_teacher_joined and self.teacher_choice != BUNDLED)

    @property
    def num_teacher_folds(self) -> int:
        """How many times the teacher is there, each trained without the labels of one fold: 1 for one that is taken as it is."""
        if self.teacher_choice == BUNDLED:
            return len(fold_folders(self.teacher_source_path))
        return self.settings.teacher_folds if self.is_teacher_trained else 1

    def teacher_bi_encoder(self, folder: Path) -> Path:
        """The bi-encoder beside the cross-encoder in `folder`, else the untouched student."""
        own = folder / BI_ENCODER_FOLDER
        return own if own.is_dir() else self.student_path

    @property
    def student_tokens(self) -> int | None:
        """How many tokens of a text the untouched student reads; None where nothing bounds it."""
        limits = [n for n in (self.settings.student_max_length, own_max_tokens(self.student_path)) if n is not None]
        return min(limits, default=None)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the untouched student cuts it, those around a text included. Opens no model."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.student_path / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return [len(found) for found in tokenizer.encode_batch_fast(list(texts))]

    def load_student(self, path: Path, precision: "Precision" = "fp32") -> "SentenceTransformer":
        """Load a bi-encoder at the length that the settings allow; fp32 is for training."""
        from distill_assets.models.encoders import load_student

        return load_student(path, device=self.device, max_length=self.settings.student_max_length, precision=precision)

    def load_teacher(self, path: Path) -> "CrossEncoder":
        """Load a cross-encoder at the length that the settings allow."""
        from distill_assets.models.encoders import load_teacher

        return load_teacher(path, device=self.device, max_length=self.settings.teacher_max_length)
