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
from distill_assets.storage.collection import EVALUATION, TRAINING, Collection, Labels
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


def _view(
    view: str,
    upstream: tuple[str, ...],
    load: Callable[[Collection, str], Any],
    require: Callable[[State], None] = State.require_generated,
) -> Read:
    """A view of the collection, of all batches. `require` raises where what the view is made from is not there yet."""

    def version(moment: Moment) -> str:
        require(moment.state)
        return moment.state.view(view)

    return Read(upstream, version, lambda c, _: load(c, ""))


def _own_view(view: str, upstream: tuple[str, ...], load: Callable[[Collection, str], Any]) -> Read:
    """The rows of a view that are the batch's own. Another batch may replace one, so they come from all partitions upstream."""

    def version(moment: Moment) -> str:
        moment.state.require_generated()
        return moment.state.view(view, moment.partition)

    return Read(upstream, version, lambda c, m: load(c, m.partition))


def teacher_judges(moment: Moment) -> bool:
    """Whether the teacher judges dev or test, because people judged neither."""
    return moment.state.is_measured_by_teacher


def nobody_judged_train(moment: Moment) -> bool:
    """Whether the teacher names the answers of train queries."""
    return moment.state.is_train_unjudged


def _judges_version(moment: Moment) -> str:
    moment.state.require_taught()
    return ", ".join(f"{split} {judge}" for split, judge in sorted(moment.state.judges.items()))


def _student_version(moment: Moment) -> str:
    """Which model it is; where several are set, once a trial has chosen."""
    if moment.project.settings.students:
        moment.state.version("student_trials", "")
    return moment.project.models.student_id


_ASKED, _JUDGED = ("queries", "generated_queries"), ("qrels", "generated_queries")
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
    "training_queries": _view("training_queries", _ASKED, lambda c, b: c.queries(TRAINING, b)),
    "training_judgements": _view("training_judgements", _JUDGED, lambda c, b: c.judgements(TRAINING, b)),
    "texts": _view("texts", ("corpus",), lambda c, b: c.texts(b)),
    "evaluation_queries": _view("evaluation_queries", _ASKED, lambda c, b: c.queries(EVALUATION, b)),
    "query_origins": _view("query_origins", _ASKED, lambda c, b: c.origins(EVALUATION, b)),
    "evaluation_judgements": _view(
        "evaluation_judgements",
        (*_JUDGED, "teacher_judgements"),
        lambda c, b: c.judgements(EVALUATION, b, "measured"),
        State.require_taught,
    ),
    # Who judges dev and test, where that is the teacher.
    "judges": Read((*_JUDGED, "teacher_judgements"), _judges_version, lambda c, _: c.judges()),
    "unjudged_train": Read(("qrels",), lambda _: "nobody judged a train query"),
    "has_queries": Read(("queries",), lambda m: str(m.state.has_queries)),
    "own_documents": Read(
        ("corpus",), lambda m: m.state.view("own_documents", m.partition), lambda c, m: c.own_documents(m.partition)
    ),
    # Dev and test queries that the teacher judges, each with the document that it was made from.
    "own_unjudged": _own_view("unjudged", _JUDGED, lambda c, b: c.unjudged(b)),
    "own_queries": _own_view("training_queries", _ASKED, lambda c, b: c.queries(TRAINING, b)),
    "own_judgements": _own_view("training_judgements", _JUDGED, lambda c, b: c.judgements(TRAINING, b)),
    "own_rejections": _own_view("training_rejections", ("qrels",), lambda c, b: c.rejections(TRAINING, b)),
    "own_texts": _own_view("texts", ("corpus",), lambda c, b: c.texts(b)),
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
    "passage_tokens": Read((), lambda m: str(m.project.passage_tokens)),
    # What helps to tell whether a generated query finds its source: of several students none, because one is chosen later.
    "sole_student": Read((), lambda m: "" if m.project.settings.students else m.project.models.student_id),
    "baselines": Read((), lambda m: m.project.models.baselines_id),
    "generator": Read((), lambda m: m.project.generator_id),
    "teacher_source": Read((), lambda m: " ".join(m.project.models.teacher_source_ids)),
    "teacher": Read(("teacher_checkpoint",), lambda m: m.state.version("checkpoints", "teacher")),
    "recipe": Read((), lambda m: m.recipe.fingerprint),
    # Named by what BM25, copies or leaks decide: other words give other rankings, negatives and twins.
    "tokeniser": Read((), lambda m: str(words.TOKENISER_VERSION)),
    "checkpoint": Read(("student_checkpoint",), lambda m: m.state.version("checkpoints", m.partition), is_own=True),
    "checkpoints": Read(("student_checkpoint",), lambda m: m.state.versions("checkpoints", m.recipes)),
    "metrics": Read(("eval_metrics",), lambda m: m.state.versions("eval_metrics", m.recipes)),
}

_TAUGHT_BY = ("teacher_scores", "teacher_judgements")
# The inputs that an asset reads in another way than as given (`storage/collection.py`). A name stays whoever judged, and where people
# judged everything its version does, too: nothing that was made before is made anew.
READ_AS: dict[Labels, dict[str, Read]] = {
    "people": {
        "training_queries": _view("queries_of_people", ("queries",), lambda c, b: c.queries(TRAINING, b, "people")),
        "training_judgements": _view(
            "judgements_of_people", ("qrels",), lambda c, b: c.judgements(TRAINING, b, "people")
        ),
    },
    "taught": {
        "training_queries": _view(
            "taught_queries",
            (*_ASKED, *_TAUGHT_BY),
            lambda c, b: c.queries(TRAINING, b, "taught"),
            State.require_taught,
        ),
        "training_judgements": _view(
            "taught_judgements",
            (*_JUDGED, *_TAUGHT_BY),
            lambda c, b: c.judgements(TRAINING, b, "taught"),
            State.require_taught,
        ),
        "texts": _view(
            "taught_texts", ("corpus", "teacher_judgements"), lambda c, b: c.texts(b, "taught"), State.require_taught
        ),
    },
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
        labels: how judgements are read: as given before there is a teacher, people's alone, or as students are taught.
    """

    inputs: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    as_of_making: tuple[str, ...] = ()
    only_if: Mapping[str, Callable[[Moment], bool]] = field(default_factory=dict)
    checked_against: tuple[str, ...] = ()
    labels: Labels = "given"

    def read(self, name: str) -> Read:
        """One of the inputs, as this asset reads it."""
        return READ_AS.get(self.labels, {}).get(name) or READS[name]

    @property
    def upstream(self) -> dict[str, bool]:
        """Upstream asset -> whether it is its partition of the same key."""
        found: dict[str, bool] = {}
        for name in self.inputs:
            read = self.read(name)
            for asset in read.upstream:
                found[asset] = found.get(asset, True) and read.is_own
        return dict(sorted(found.items()))

    def versions(self, moment: Moment) -> dict[str, str]:
        """Version of every input and value of every setting, by name.

        Raises:
            MissingPartitionError: something upstream is not materialised, or a check rejected it.
        """
        left_out = {name for name, is_read in self.only_if.items() if not is_read(moment)}
        found = {name: self.read(name).version(moment) for name in self.inputs if name not in left_out}
        values = {name: getattr(moment.project.settings, name) for name in self.settings if name not in left_out}
        return found | {f"settings.{name}": _told(value) for name, value in values.items()}

    def missing_upstream(self, moment: Moment) -> str | None:
        """What upstream is not materialised or was refused, and what to do; None when all is there. Looks up no model to read."""
        try:
            for name in self.inputs:
                if self.read(name).upstream and (name not in self.only_if or self.only_if[name](moment)):
                    self.read(name).version(moment)
        except MissingPartitionError as error:
            return str(error)
        return None


def if_set(name: str) -> dict[str, Callable[[Moment], bool]]:
    """For `only_if`: a setting that came later counts where it has a value, so that what was made before it came stays."""
    return {name: lambda moment: getattr(moment.project.settings, name) is not None}


def _told(value: object) -> str:
    return str(getattr(value, "fingerprint", None) or repr(value))
