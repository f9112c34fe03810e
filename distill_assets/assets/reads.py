"""What an asset reads, said once.

From it come Dagster's dependencies, the input version, what is stale, `why`, and the handle that the body reads through
(`assets/inputs.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_assets.errors import MissingPartitionError
from distill_assets.handles.collection import State
from distill_assets.handles.project import Project
from distill_assets.handles.retrieval import Corpus
from distill_assets.records import fingerprint
from distill_assets.retrieval import words
from distill_assets.storage.collection import EVALUATION, TRAINING, Collection
from distill_assets.training.recipes import Recipe


@dataclass(frozen=True)
class Moment:
    """One asset's partition at one moment: what the version of a read is taken from."""

    project: Project
    state: State
    partition: str

    @property
    def recipe(self) -> Recipe:
        """The recipe of a partition that is one."""
        return self.project.settings.recipe(self.partition)

    @property
    def recipes(self) -> list[str]:
        """Names of all recipes."""
        return sorted(self.project.settings.all_recipes)


@dataclass(frozen=True)
class Read:
    """One thing that can be read.

    Attributes:
        upstream: the assets that make it.
        version: changes when what the body would read changes.
        load: reads it from a snapshot of the collection; None where it is no part of the collection.
        is_own: it is the upstream asset's partition of the same key; else it comes from all of its partitions.
    """

    upstream: tuple[str, ...]
    version: Callable[[Moment], str]
    load: Callable[[Collection, Moment], Any] | None = None
    is_own: bool = False


def _view(view: str, upstream: str, load: Callable[[Collection, str], Any]) -> Read:
    """A view of the collection, of all batches."""
    return Read((upstream,), lambda m: m.state.view(view), lambda c, _: load(c, ""))


def _own_view(view: str, upstream: str, load: Callable[[Collection, str], Any]) -> Read:
    """The rows of a view that are the batch's own. Another batch may replace one, so they come from all partitions upstream."""
    return Read((upstream,), lambda m: m.state.view(view, m.partition), lambda c, m: load(c, m.partition))


def _student_version(moment: Moment) -> str:
    """Which model it is; where several are set, once a trial has chosen."""
    if moment.project.settings.students:
        moment.state.version("student_trials", "")
    return moment.project.models.student_id


READS: dict[str, Read] = {
    "source": Read(
        (),
        lambda m: fingerprint(m.project.collection.source.name, m.project.collection.source.fingerprint(m.partition)),
    ),
    "documents": Read(
        ("corpus",),
        lambda m: m.state.versions("corpus", m.state.batches),
        lambda c, m: Corpus(*c.documents(), m.state.versions("corpus", m.state.batches), c.parents()),
    ),
    "training_queries": _view("training_queries", "queries", lambda c, b: c.queries(TRAINING, b)),
    "training_judgements": _view("training_judgements", "qrels", lambda c, b: c.judgements(TRAINING, b)),
    "texts": _view("texts", "corpus", lambda c, b: c.texts(b)),
    "evaluation_queries": _view("evaluation_queries", "queries", lambda c, b: c.queries(EVALUATION, b)),
    "query_origins": _view("query_origins", "queries", lambda c, b: c.origins(EVALUATION, b)),
    "evaluation_judgements": _view("evaluation_judgements", "qrels", lambda c, _: c.document_judgements(EVALUATION)),
    "own_queries": _own_view("training_queries", "queries", lambda c, b: c.queries(TRAINING, b)),
    "own_judgements": _own_view("training_judgements", "qrels", lambda c, b: c.judgements(TRAINING, b)),
    "own_rejections": _own_view("training_rejections", "qrels", lambda c, b: c.rejections(TRAINING, b)),
    "own_texts": _own_view("texts", "corpus", lambda c, b: c.texts(b)),
    "own_candidates": Read(
        ("hard_negatives",),
        lambda m: m.state.version("hard_negatives", m.partition),
        lambda c, m: c.candidates(m.partition),
        is_own=True,
    ),
    "candidates": Read(
        ("hard_negatives",),
        lambda m: m.state.versions("hard_negatives", m.state.batches),
        lambda c, _: c.candidates(),
    ),
    "logits": Read(
        ("teacher_scores",), lambda m: m.state.versions("teacher_scores", m.state.batches), lambda c, _: c.logits()
    ),
    "student_candidates": Read((), lambda m: fingerprint(*m.project.models.candidate_ids.items())),
    "student": Read(("student_choice",), _student_version),
    "student_tokens": Read((), lambda m: m.project.models.student_tokens_id),
    "baselines": Read((), lambda m: m.project.models.baselines_id),
    "teacher_source": Read((), lambda m: " ".join(m.project.models.teacher_source_ids)),
    "teacher": Read(("teacher_checkpoint",), lambda m: m.state.version("checkpoints", "teacher")),
    "recipe": Read((), lambda m: m.recipe.fingerprint),
    # Named by what BM25, copies or leaks decide: other words give other rankings, negatives and twins.
    "tokeniser": Read((), lambda m: str(words.TOKENISER_VERSION)),
    "checkpoint": Read(("student_checkpoint",), lambda m: m.state.version("checkpoints", m.partition), is_own=True),
    "checkpoints": Read(("student_checkpoint",), lambda m: m.state.versions("checkpoints", m.recipes)),
    "metrics": Read(("eval_metrics",), lambda m: m.state.versions("eval_metrics", m.recipes)),
}


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What one asset reads.

    Attributes:
        inputs: names of `READS`.
        settings: settings, or properties of `Settings`, that change a number. What changes speed alone need not be named
            (`SPEED_SETTINGS`).
        as_of_making: inputs as they were when the asset was made. A change of one of these alone makes the asset aged, not stale.
        only_if: inputs and settings that some partitions read and others do not.
        checked_against: tables that checks look at beside what is read. They are no input: nothing is made from them.
    """

    inputs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    as_of_making: tuple[str, ...] = ()
    only_if: Mapping[str, Callable[[Moment], bool]] = field(default_factory=dict)
    checked_against: tuple[str, ...] = ()

    @property
    def upstream(self) -> dict[str, bool]:
        """Upstream asset -> whether it is its partition of the same key."""
        found: dict[str, bool] = {}
        for name in self.inputs:
            for asset in READS[name].upstream:
                found[asset] = found.get(asset, True) and READS[name].is_own
        return dict(sorted(found.items()))

    def versions(self, moment: Moment) -> dict[str, str]:
        """Version of every input and value of every setting, by name.

        Raises:
            MissingPartitionError: something upstream is not materialised, or a check rejected it.
        """
        left_out = {name for name, is_read in self.only_if.items() if not is_read(moment)}
        found = {name: READS[name].version(moment) for name in self.inputs if name not in left_out}
        values = {name: getattr(moment.project.settings, name) for name in self.settings if name not in left_out}
        return found | {f"settings.{name}": _told(value) for name, value in values.items()}

    def missing_upstream(self, moment: Moment) -> str | None:
        """What upstream is not materialised or was refused, and what to do; None when all is there. Looks up no model to read."""
        try:
            for name in self.inputs:
                if READS[name].upstream and (name not in self.only_if or self.only_if[name](moment)):
                    READS[name].version(moment)
        except MissingPartitionError as error:
            return str(error)
        return None


def if_set(name: str) -> dict[str, Callable[[Moment], bool]]:
    """For `only_if`: a setting that came later counts where it has a value, so that what was made before it came stays."""
    return {name: lambda moment: getattr(moment.project.settings, name) is not None}


def _told(value: object) -> str:
    return str(getattr(value, "fingerprint", None) or repr(value))
