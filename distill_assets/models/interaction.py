"""A scoring head that turns any encoder into a cross-encoder without throwing away what it knows about similarity.

A classification head on the first token starts from nothing and learns slowly from few labels. This head compares the
query's and the document's tokens *after* both were read together: their means by cosine, their tokens by MaxSim
(Khattab & Zaharia 2020, ColBERT, eq. 3, here on jointly encoded tokens), and a linear term on the pooled pair. With a
sentence encoder underneath, it ranks well before the first training step.
"""

from typing import Any

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor, nn
from torch.nn import functional

_INITIAL_SCALE = 10.0  # cosines of a sentence encoder spread by about 0.3 within a query: logits then spread by about 6


class JointInteraction(Module):
    """Scores jointly encoded token pairs; the last module of a `CrossEncoder`.

    Reads ``token_embeddings`` (batch, tokens, hidden), ``input_ids`` and ``attention_mask``; writes ``scores`` (batch, 1),
    raw logits. The query is everything up to the first separator, the document what follows; special tokens count
    for neither. That holds for BERT (``[CLS] q [SEP] d [SEP]``) and RoBERTa-like (``<s> q </s></s> d </s>``) layouts.

    Args:
        hidden_size: width of the encoder's token embeddings.
        separator_id: token id that ends the query.
        special_ids: token ids that are part of neither text (separator, first token, padding).
    """

    # What modules.json of a saved folder names. It is part of the folder's content hash, and so of every key in the pair-score
    # store: it stays, wherever this file lies.
    __module__ = "distill_assets.core.interaction"

    config_keys = ["hidden_size", "separator_id", "special_ids"]

    def __init__(self, hidden_size: int, separator_id: int, special_ids: list[int]) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.separator_id = separator_id
        self.special_ids = list(special_ids)
        self.pooled_scale = nn.Parameter(torch.tensor(_INITIAL_SCALE))
        self.token_scale = nn.Parameter(torch.tensor(_INITIAL_SCALE))
        self.linear = nn.Linear(2 * hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``scores`` (batch, 1) to the features."""
        tokens = functional.normalize(features["token_embeddings"].float(), dim=-1)
        is_query, is_document = self._segments(features["input_ids"], features["attention_mask"])
        query = _mean(features["token_embeddings"].float(), is_query)
        document = _mean(features["token_embeddings"].float(), is_document)
        pooled = functional.cosine_similarity(query, document)
        similarity = tokens @ tokens.transpose(1, 2)  # (batch, tokens, tokens)
        similarity = similarity.masked_fill(~is_document[:, None, :], -1.0)
        best = similarity.max(dim=2).values * is_query  # (batch, tokens): each query token's best document token
        max_sim = best.sum(dim=1) / is_query.sum(dim=1).clamp(min=1)
        query, document = functional.normalize(query, dim=-1), functional.normalize(document, dim=-1)
        pair = torch.cat([query * document, (query - document).abs()], dim=-1)
        logits = self.pooled_scale * pooled + self.token_scale * max_sim + self.linear(pair).squeeze(-1)
        features["scores"] = logits.unsqueeze(1)
        return features

    def _segments(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        is_separator = input_ids == self.separator_id
        is_after = is_separator.long().cumsum(dim=1) > 0
        special = torch.tensor(self.special_ids, device=input_ids.device)
        is_text = attention_mask.bool() & ~torch.isin(input_ids, special)
        return is_text & ~is_after, is_text & is_after

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write config and weights into `output_path`."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "JointInteraction":
        """Read a saved head; called by `CrossEncoder(path)`."""
        hub = {key: kwargs.get(key) for key in ("token", "cache_folder", "revision", "local_files_only")}
        module = cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **hub))
        cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=module, **hub)
        return module


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
