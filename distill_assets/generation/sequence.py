"""Queries from a sequence-to-sequence model that reads a passage as it is: doc2query (Nogueira and Lin 2019), on T5, mT5 or BART.

The model itself, which needs torch, is in `generation/sampling.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill_assets.generation.queries import Kind, require_answers
from distill_assets.models.catalog import fingerprint_model
from distill_assets.models.folders import require_model_folder, require_safe
from distill_assets.records import Document, hash_share

TOP_K, TOP_P = 10, 0.95  # doc2query samples from the top 10; GPL cuts at 95 %
MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class SequenceGenerator:
    """A `generation.queries.Generator` by a sequence-to-sequence model, which is loaded when it is asked for queries.

    Args:
        path: its folder, in the format of transformers.
        device: as torch names it.
        is_trusted: the folder may bring pickled weights and Python code, which runs.

    Raises:
        ModelError: no model, or not safe.
    """

    path: Path
    device: str = "cpu"
    is_trusted: bool = False

    def __post_init__(self) -> None:
        """Refuse what must not be loaded."""
        require_model_folder(self.path)
        require_safe(self.path, is_trusted=self.is_trusted)

    @property
    def identity(self) -> str:
        """Content of the model's folder, and decoding."""
        return f"seq2seq {fingerprint_model(self.path)}, top {TOP_K}, top {TOP_P}, {MAX_NEW_TOKENS} tokens"

    def queries_of(
        self, documents: Sequence[Document], per_document: int, seed: int
    ) -> Iterator[Sequence[tuple[str, Kind]]]:
        """As the protocol says. A document draws by a seed of its own, whatever stands beside it.

        Limit: sums of floats depend a little on the padding of a batch, so that a draw on the edge may fall otherwise.

        Raises:
            ModelError: the folder cannot be read, or is no sequence-to-sequence model.
            GeneratorError: most documents get no query, or the same one.
        """
        from distill_assets.generation.sampling import Sampler

        sampler = Sampler(self.path, device=self.device, is_trusted=self.is_trusted)
        answers = sampler.texts_of([document.content for document in documents], _seeds(documents, per_document, seed))
        for texts in require_answers(((" | ".join(texts), texts) for texts in answers), f"the model {self.path.name}"):
            yield [(text, "model") for text in texts]


def _seeds(documents: Sequence[Document], per_document: int, seed: int) -> list[list[int]]:
    return [
        [int(hash_share(f"{seed} {number} {document.doc_id}") * 2**48) for number in range(per_document)]
        for document in documents
    ]
