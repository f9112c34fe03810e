"""Which models: where they lie, what identifies them, how they are loaded. No model is opened before it is asked for."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from distill_assets.errors import ModelError
from distill_assets.handles.places import Places
from distill_assets.models.catalog import (
    BI_ENCODER_FOLDER,
    BUNDLED_TEACHER,
    fingerprint_model,
    fold_folders,
    member_folder,
    packaged_encoder,
    resolve_model,
)
from distill_assets.models.folders import is_cross_encoder, own_max_tokens, tokenizer_file
from distill_assets.models.prompts import Prompts, find_prompts
from distill_assets.records import fingerprint
from distill_assets.retrieval.passages import Cutting
from distill_assets.settings.values import BUNDLED, PYTHON_API, TOKEN_VARIABLE, Settings, imported_name, server_urls

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from tokenizers import Tokenizer

    from distill_assets.models.encoders import Precision
    from distill_assets.models.remote import ServerPool
    from distill_assets.models.scoring import PairScorer


@dataclass(frozen=True)
class Models:
    """The student and the teacher that the settings name.

    Attributes:
        chosen_student: the name of the one of `students` that a trial chose; None before the first trial.
        has_labels: whether people judged a train query, so that a teacher can be trained; True before a batch is read.
    """

    settings: Settings
    chosen_student: Callable[[], str | None] = lambda: None
    has_labels: Callable[[], bool] = lambda: True

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

    @property
    def student_name(self) -> str:
        """The untouched student as the settings name it; of several the one that was chosen, the first before that."""
        students = self.settings.students
        if not students:
            return self.settings.student
        chosen = self.chosen_student()
        return chosen if chosen in students else students[0]

    @property
    def student_path(self) -> Path:
        """Folder of the untouched student."""
        return self.resolve(self.student_name)

    @cached_property
    def baselines(self) -> dict[str, Path]:
        """Folders of the baselines by their name on the leaderboard."""
        return {name: self.resolve(model) for name, model in self.settings.named_baselines.items()}

    @property
    def baselines_id(self) -> str:
        """Changes when a baseline comes, goes, or is another model."""
        return fingerprint(*((name, self.encoder_id(path)) for name, path in self.baselines.items()))

    @property
    def student_id(self) -> str:
        """`encoder_id` of the untouched student."""
        return self.encoder_id(self.student_path)

    @property
    def candidate_ids(self) -> dict[str, str]:
        """`encoder_id` of each of `students`, by name."""
        return {name: self.encoder_id(self.resolve(name)) for name in self.settings.students}

    def encoder_id(self, path: Path) -> str:
        """Content of a bi-encoder folder (weights, tokenizer, prompts), how many tokens of a text it reads, precision if set.

        Prompts that sentence-transformers would not take from the folder by itself are named beside its content.

        If the precision is `auto`, it is not part of this id. So nothing becomes stale when you change machines. The embedding store
        has the precision in its key, so vectors of two precisions are never mixed.
        """
        precision = self.settings.student_precision
        chosen = () if precision == "auto" else (precision,)
        prompts = self.prompts(path)
        added = () if prompts.is_loaded else (("prompts", prompts.query, prompts.document),)
        return fingerprint(fingerprint_model(path), self.settings.student_max_length, *chosen, *added)

    def prompts(self, path: Path) -> Prompts:
        """The prompts of the bi-encoder at `path`. Those of the settings are for the untouched student; a trained one holds them."""
        if path.resolve() != self.student_path.resolve():
            return find_prompts(path)
        return find_prompts(path, query=self.settings.query_prompt, document=self.settings.document_prompt)

    @property
    def teacher_choices(self) -> tuple[str, ...]:
        """The one teacher, or each of several: `bundled`, a folder, a hub name or the address of servers; `auto` resolved."""
        if self.settings.teacher == "auto":
            is_bundled = self.settings.collection == PYTHON_API or not self.has_labels()
            return (BUNDLED if is_bundled else self.student_name,)
        return (self.settings.teacher,) if isinstance(self.settings.teacher, str) else self.settings.teacher

    @property
    def advice(self) -> str:
        """What to say of the teacher before it is paid for, as a sentence; empty where there is nothing."""
        if self.settings.teacher != "auto" or self.settings.collection == PYTHON_API or self.has_labels():
            return ""
        return (
            "no person judged a train query, so no teacher can be trained here: the bundled one is taken, which learned on Python's "
            "documentation; a published one is probably better for other texts: --teacher cross-encoder/ms-marco-MiniLM-L6-v2"
        )

    @property
    def teacher_choice(self) -> str:
        """The one teacher; the names of several, which name no model."""
        return " + ".join(self.teacher_choices)

    @property
    def teacher_source_path(self) -> Path:
        """Folder that the teacher is made from: the bundled adapters, or the chosen model."""
        if self.teacher_choice == BUNDLED:
            if not fold_folders(BUNDLED_TEACHER):
                raise ModelError(
                    f"the bundled teacher is missing at {BUNDLED_TEACHER}: reinstall the package or set teacher to a model"
                )
            return BUNDLED_TEACHER
        return self.resolve(self.teacher_choice)

    @property
    def are_teachers_served(self) -> tuple[bool, ...]:
        """Of each of `teacher_choices`, whether it is a model behind an inference server, which is taken as it is."""
        return tuple(bool(server_urls(choice)) for choice in self.teacher_choices)

    @property
    def imported_teacher(self) -> Path | None:
        """The file of the imported scores that are the teacher; None if it is a model. Raises `ScoreSetError` for an unknown name."""
        name = imported_name(self.teacher_choice)
        return None if name is None else Places.of(self.settings).find_imported(name)

    @property
    def is_teacher_imported(self) -> bool:
        """Whether the teacher is scores of another tool, which nobody can be asked for more of."""
        return imported_name(self.teacher_choice) is not None

    @property
    def teacher_source_ids(self) -> list[str]:
        """Change when what the teachers are made from does. Of a server that is its address: no server is asked here."""
        if self.imported_teacher is not None:
            return [fingerprint("imported", self.imported_teacher.read_text(encoding="utf-8"))]
        if len(self.teacher_choices) == 1 and not any(self.are_teachers_served):
            return [fingerprint_model(self.teacher_source_path)]
        return [
            fingerprint("served", choice) if is_served else fingerprint_model(self.resolve(choice))
            for choice, is_served in zip(self.teacher_choices, self.are_teachers_served, strict=True)
        ]

    def open_servers(self, number: int = 0) -> "ServerPool":
        """The servers that one of `teacher_choices` names.

        Raises:
            ModelError: it names none.
        """
        from distill_assets.models.remote import ServerPool

        urls = server_urls(self.teacher_choices[number]) if number < len(self.teacher_choices) else ()
        if not urls:
            raise ModelError(
                f"the teacher was made from an inference server, and now teacher = {self.teacher_choice!r}: run makes it anew"
            )
        return ServerPool(urls, os.environ.get(TOKEN_VARIABLE))

    @property
    def is_teacher_joined(self) -> bool:
        """Whether the teacher is joined with a bi-encoder's cosine: by setting, else where it was grown from an encoder."""
        if self.settings.teacher_with_cosine is not None:
            return self.settings.teacher_with_cosine
        return self.teacher_choice == BUNDLED or not self._is_cross_encoder

    @property
    def is_teacher_trained(self) -> bool:
        """Whether the teacher is fine-tuned on this collection's labels: by setting, or because it has no scoring head yet."""
        if self.teacher_choice == BUNDLED:
            return self.settings.teacher_finetune
        return self.settings.teacher_finetune or not self._is_cross_encoder

    @property
    def _is_cross_encoder(self) -> bool:
        is_taken = len(self.teacher_choices) > 1 or self.is_teacher_imported or all(self.are_teachers_served)
        return is_taken or is_cross_encoder(self.teacher_source_path)

    @property
    def is_teacher_of_collection(self) -> bool:
        """Whether the teacher is made from this collection: trained on its labels, or its members weighed on its dev candidates.

        The bundled teacher brings its weights along.
        """
        is_weighed = len(self.teacher_choices) > 1 or (self.is_teacher_joined and self.teacher_choice != BUNDLED)
        return self.is_teacher_trained or is_weighed

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
        """Tokens of each document as the untouched student cuts it: its prompt and what stands around a text included.

        Opens no model.

        Raises:
            ModelError: the student's folder has no tokenizer.json.
        """
        tokenizer, prompt = self._student_tokenizer()
        return [len(found) for found in tokenizer.encode_batch_fast([prompt + text for text in texts])]

    def _student_tokenizer(self) -> "tuple[Tokenizer, str]":
        """Of the untouched student; and the prompt that it reads before a document."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(tokenizer_file(self.student_path)))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer, self.prompts(self.student_path).document

    @property
    def student_tokens_id(self) -> str:
        """Changes with the tokens that the untouched student makes of a document: its tokenizer and its prompt."""
        tokenizer = tokenizer_file(self.student_path).read_bytes()
        return fingerprint(hashlib.sha256(tokenizer).hexdigest(), self.prompts(self.student_path).document)

    def cutting(self, max_tokens: int, overlap: int) -> Cutting:
        """How documents are cut into passages that have at most `max_tokens` of the untouched student's tokens. Opens no model.

        Raises:
            ModelError: the student's folder has no tokenizer.json, or its prompt takes more than half of the tokens.
        """
        tokenizer, prompt = self._student_tokenizer()
        num_around = len(tokenizer.encode(prompt).ids)
        if 2 * num_around > max_tokens:
            raise ModelError(
                f"the student's document prompt {prompt[:60]!r} and what stands around a text are {num_around} of {max_tokens} "
                "passage_tokens; expected at most half of them: raise passage_tokens"
            )

        def offsets_of(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
            return [found.offsets for found in tokenizer.encode_batch(list(texts), add_special_tokens=False)]

        return Cutting(max_tokens, overlap, offsets_of, num_around)

    def load_student(self, path: Path, precision: "Precision" = "fp32") -> "SentenceTransformer":
        """Load a bi-encoder at the length that the settings allow; fp32 is for training."""
        from distill_assets.models.encoders import load_student

        return load_student(
            path,
            device=self.device,
            max_length=self.settings.student_max_length,
            precision=precision,
            is_trusted=self.is_trusted(self._origin_of(path)),
            prompts=self.prompts(path),
        )

    def load_teacher(self, path: Path) -> "CrossEncoder":
        """Load a cross-encoder at the length that the settings allow, with the prompt that they name."""
        from distill_assets.models.encoders import load_teacher

        return load_teacher(
            path,
            device=self.device,
            max_length=self.settings.teacher_max_length,
            prompt=self.settings.teacher_prompt,
            is_trusted=self.is_trusted(self._teacher_of(path)),
        )

    def grow_teacher(self, encoder: Path) -> "CrossEncoder":
        """A cross-encoder on top of an encoder, at the length that the settings allow; its head is not trained."""
        from distill_assets.models.encoders import grow_cross_encoder

        return grow_cross_encoder(
            encoder,
            device=self.device,
            max_length=self.settings.teacher_max_length,
            is_trusted=self.is_trusted(self.teacher_choice),
        )

    def open_scorer(self, model: "CrossEncoder") -> "PairScorer":
        """What scores pairs with a loaded cross-encoder: in the precision of this machine where it can have it."""
        from distill_assets.models.fast import open_scorer

        return open_scorer(model, self.scoring_precision, batch_tokens=self.settings.batch_tokens)

    @property
    def local_teachers(self) -> list[tuple[str, Path]]:
        """Those of `teacher_choices` that score on this machine, each with its folder: no server, and no imported scores.

        Of the bundled teacher it is the encoder that its adapters go on top of.
        """
        if self.is_teacher_imported:
            return []
        choices = zip(self.teacher_choices, self.are_teachers_served, strict=True)
        return [
            (c, packaged_encoder() if c == BUNDLED else self.resolve(c)) for c, is_served in choices if not is_served
        ]

    def open_before_it_is_made(self, path: Path) -> "PairScorer":
        """A scorer that takes as long for a pair as the one of `local_teachers` at `path` will.

        Of a teacher that is still to be trained it is the encoder with an untrained head: its logits say nothing.
        """
        return self.open_scorer(self.load_teacher(path) if is_cross_encoder(path) else self.grow_teacher(path))

    def _teacher_of(self, path: Path) -> str:
        """The one of `teacher_choices` that lies at `path`, or that the checkpoint there was made from."""
        for number, choice in enumerate(self.teacher_choices):
            if path.name == member_folder(path.parent, number).name:
                return choice
        several = self.local_teachers if len(self.teacher_choices) > 1 else []
        return next((choice for choice, own in several if own == path), self.teacher_choice)

    def is_trusted(self, name: str) -> bool:
        """Whether a model, as the settings name it, may bring pickled weights and Python code of its own."""
        return name in self.settings.trusted_models

    def _origin_of(self, path: Path) -> str:
        """The model, as the settings name it, that lies at `path`; of a checkpoint the student, which it was trained from."""
        published = (*self.settings.named_baselines.values(), *self.settings.students)
        return next((name for name in published if self.resolve(name) == path), self.student_name)

    def resolve(self, name: str) -> Path:
        """Folder of a model, as the settings name it. Raises `ModelError` where there is none."""
        return resolve_model(name, is_trusted=self.is_trusted(name))
