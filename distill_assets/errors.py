"""Every error that a user can cause. Every message says what was wanted, what was found, what was expected, and the next step.

A class has the exit code of the command line, so that a script learns what is to be mended without reading a message.
"""

from typing import ClassVar


class DistillError(Exception):
    """Base of every error raised on purpose by this package. Exit codes: 1 failed, 2 bad input, 3 nothing to do."""

    exit_code: ClassVar[int] = 1


class NothingToDoError(DistillError):
    """What was asked for is done already, and a script may want to know that."""

    exit_code = 3


class SettingsError(DistillError):
    """A setting is unknown or its value is refused."""

    exit_code = 2


class SourceError(DistillError):
    """A collection cannot be read."""

    exit_code = 2


class MalformedRecordError(SourceError):
    """One line or record of a collection is not what the format says."""


class UnknownJudgementError(SourceError):
    """Too many judgements name a query or document that does not exist."""


class UnknownBatchError(DistillError):
    """No such batch, or a name that a batch may not have."""

    exit_code = 2


class UnknownRecipeError(DistillError):
    """No recipe has this name."""

    exit_code = 2


class UnknownAssetError(DistillError):
    """No asset, or no partition of one, has this name."""

    exit_code = 2


class ModelError(DistillError):
    """A folder or hub name is not a usable model."""

    exit_code = 2


class ScoreSetError(DistillError):
    """A set of scores cannot be written, cannot be read, does not fit the collection, or is asked for what it does not hold."""

    exit_code = 2


class TeacherServerError(DistillError):
    """An inference server does not answer, serves another model than before, or gives scores that cannot be used."""


class GeneratorError(DistillError):
    """What makes queries from documents does not answer, or gives texts that cannot be used."""


class NoSpaceError(DistillError):
    """The disk is full, or memory is."""


class WarehouseError(DistillError):
    """The DuckDB warehouse refused an operation."""


class WarehouseBusyError(WarehouseError):
    """Another process held the file for longer than this one was willing to wait."""


class MissingPartitionError(WarehouseError):
    """Upstream partitions that a reader needs are not in the warehouse."""


class InputsMovedError(WarehouseError):
    """What an asset read has changed before its result could be stored."""


class UndeclaredReadError(WarehouseError):
    """An asset's body reads what its declaration does not name."""


class EmptyFrameError(WarehouseError):
    """An empty frame was written where rows are required."""


class NewerWarehouseError(WarehouseError):
    """The warehouse was written by a newer version of this package."""


class ShapeError(DistillError, ValueError):
    """Two arrays that must agree in shape do not."""


class NonFiniteError(DistillError, ValueError):
    """A NaN or an infinity where a finite number is needed."""


class TrainingError(DistillError):
    """Training cannot start, or its numbers stopped being finite."""


class EvaluationError(DistillError):
    """There is nothing that could be measured."""


class CheckFailedError(DistillError):
    """A blocking check failed: its partition is kept to look at, and nothing is made from it."""


class PromotionError(DistillError):
    """No champion to search with or to roll back to, or nothing that the gate could compare."""
