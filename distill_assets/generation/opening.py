"""Which generator a name means."""

from distill_assets.generation.queries import Generator
from distill_assets.generation.rules import Counts, RuleGenerator
from distill_assets.generation.sequence import SequenceGenerator
from distill_assets.models.catalog import resolve_model

RULES = "rules"


def open_generator(
    choice: str,
    *,
    counts: Counts | None = None,
    model: str | None = None,
    token: str | None = None,
    device: str = "cpu",
    is_trusted: bool = False,
) -> Generator:
    """The generator that the setting `query_generator` names.

    Args:
        choice: `rules`, the URL of a chat server, or folder or hub name of a sequence-to-sequence model.
        counts: for the rules, see `RuleGenerator`.
        model: name of the model at the server.
        token: for the server.
        device: of a model that runs here, as torch names it.
        is_trusted: the model's folder may bring pickled weights and Python code, which runs.

    Raises:
        ModelError: no such model, not safe, or of another kind.
    """
    if choice == RULES:
        return RuleGenerator(counts)
    if choice.startswith(("http://", "https://")):
        from distill_assets.generation.chat import ChatGenerator, ChatServer

        return ChatGenerator(ChatServer([choice], token), model)
    return SequenceGenerator(resolve_model(choice, is_trusted=is_trusted), device=device, is_trusted=is_trusted)
