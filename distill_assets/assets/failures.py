"""What a failed asset tells Dagster: try again later, or do not."""

import functools
from collections.abc import Callable

import dagster as dg

from distill_assets.errors import DistillError, WarehouseBusyError
from distill_assets.handles.project import Project

Body = Callable[[dg.AssetExecutionContext, Project], dg.MaterializeResult]

# Another process holds the warehouse, a hub or a network disk does not answer, memory is short for a moment.
_TRANSIENT = (WarehouseBusyError, ConnectionError, TimeoutError, BlockingIOError)
_MAX_RETRIES, _FIRST_WAIT_S = 3, 5


def retrying(body: Body) -> Body:
    """Retry an asset after transient errors, 5, 10 and 20 s later; fail at once, with the plain message, on every other.

    Bad input stays bad: a retry would only hide the message below three more stack traces.
    """

    @functools.wraps(body)
    def wrapped(context: dg.AssetExecutionContext, project: Project) -> dg.MaterializeResult:
        try:
            return body(context, project)
        except _TRANSIENT as error:
            wait_s = _FIRST_WAIT_S * 2**context.retry_number
            context.log.warning(f"{type(error).__name__}: {error}; trying again in {wait_s} s")
            raise dg.RetryRequested(max_retries=_MAX_RETRIES, seconds_to_wait=wait_s) from error
        except DistillError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return wrapped
