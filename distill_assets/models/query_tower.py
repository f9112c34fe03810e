"""Two towers from one student: a query side that is trained and a document side that stays as it is.

A new student whose documents are embedded as before needs no new index: only queries are embedded by what was trained.
"""

import copy

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router

from distill_assets.errors import TrainingError


def split_towers(model: SentenceTransformer) -> SentenceTransformer:
    """A model that embeds queries with a trainable copy of `model` and documents with `model` itself, frozen.

    It is an ordinary sentence-transformers model: saved, it loads with `SentenceTransformer(path)`, and `encode_query` and
    `encode_document` take their own side; plain `encode` takes the document side. A model that is split already is frozen again.
    """
    if not is_split(model):
        sides = Router.for_query_document(
            query_modules=[copy.deepcopy(module) for module in model], document_modules=list(model)
        )
        max_length = model.max_seq_length
        model = SentenceTransformer(
            modules=[sides],
            device=str(model.device),
            prompts=dict(model.prompts),
            similarity_fn_name=model.similarity_fn_name,
        )
        if max_length is not None:
            model.max_seq_length = max_length
    for parameter in model[0].sub_modules["document"].parameters():
        parameter.requires_grad_(False)
    return model


def is_split(model: SentenceTransformer) -> bool:
    """Whether the model has a query and a document side of its own."""
    return isinstance(model[0], Router) and {"query", "document"} <= set(model[0].sub_modules)


def require_split(model: SentenceTransformer) -> None:
    """Raise `TrainingError` unless the document side is apart and frozen; trained along, its vectors would be another index."""
    if not is_split(model) or any(p.requires_grad for p in model[0].sub_modules["document"].parameters()):
        raise TrainingError(
            "train = query_tower needs a model with a frozen document side: pass it through split_towers first"
        )
