"""A tiny random model of each family, written as the hub would have it: seeded weights, a real tokenizer, all of it local.

Each function takes a folder that is not there yet and returns it. Weights are drawn wide: at the usual 0.02 the outputs of an untrained
model are nearly equal, and would agree with anything.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, StaticEmbedding

from distill_assets_tests.layouts import LAYOUTS

HIDDEN, MAX_TOKENS, WINDOW = 32, 64, 6
_SHAPE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "initializer_range": 0.3,
}
# The pair's two texts by role, as rerankers on decoders have it, and a place for an instruction.
_TEMPLATE = (
    "{% for m in messages if m.role == 'system' %}{{ m.content }} {% endfor %}"
    "q {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }} "
    "d {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }} a"
)


def tiny_bert(folder: Path) -> Path:
    """BERT with a classification head, as most MS MARCO rerankers."""
    from transformers import BertConfig, BertForSequenceClassification

    return _save(folder, "bert", lambda **given: BertForSequenceClassification(BertConfig(**_SHAPE, **given)))


def tiny_xlm_roberta(folder: Path) -> Path:
    """XLM-R with a classification head, as BGE's rerankers."""
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    return _save(
        folder,
        "xlm-roberta",
        lambda **given: XLMRobertaForSequenceClassification(XLMRobertaConfig(**_SHAPE, type_vocab_size=1, **given)),
    )


def tiny_modernbert(folder: Path, pooling: str = "cls") -> Path:
    """ModernBERT with a classification head: full attention in the first of three layers, a window in the others."""
    from transformers import ModernBertForSequenceClassification

    return _save(
        folder,
        "modernbert",
        lambda **given: ModernBertForSequenceClassification(_modernbert_config(classifier_pooling=pooling, **given)),
    )


def tiny_modernbert_mean(folder: Path) -> Path:
    """The same, with the mean of all tokens."""
    return tiny_modernbert(folder, "mean")


def tiny_distilbert(folder: Path) -> Path:
    """DistilBERT with a classification head: no token types, other names."""
    from transformers import DistilBertForSequenceClassification

    return _save(
        folder,
        "bert",
        lambda **given: DistilBertForSequenceClassification(_distilbert_config(**given)),
        reads=("input_ids", "attention_mask"),
    )


def tiny_electra(folder: Path) -> Path:
    """ELECTRA with a classification head, its embeddings narrower than its layers."""
    from transformers import ElectraConfig, ElectraForSequenceClassification

    return _save(
        folder,
        "bert",
        lambda **given: ElectraForSequenceClassification(ElectraConfig(**_SHAPE, embedding_size=16, **given)),
    )


def tiny_modernbert_modular(folder: Path, pooling: str = "cls", num_outputs: int = 1) -> Path:
    """Five modules as the Ettin rerankers have them: Transformer, Pooling, Dense, LayerNorm, Dense."""
    return _save_modular(folder, _save_encoder(folder, "modernbert"), pooling, num_outputs)


def tiny_modernbert_modular_mean(folder: Path) -> Path:
    """The same, with the mean of all tokens."""
    return tiny_modernbert_modular(folder, "mean")


def tiny_bert_modular(folder: Path) -> Path:
    """The five modules on BERT."""
    return _save_modular(folder, _save_encoder(folder, "bert"), "mean")


def tiny_t5_modular(folder: Path) -> Path:
    """The five modules on a T5 encoder, whose positions are a bias of attention."""
    return _save_modular(folder, _save_encoder(folder, "t5"), "mean")


def tiny_decoder(folder: Path) -> Path:
    """A decoder with a chat template that answers yes or no, as Qwen3's rerankers; plain transformers format."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = LAYOUTS["modernbert"]()
    tokenizer.add_tokens(["yes", "no"])
    tokenizer.padding_side, tokenizer.chat_template = "left", _TEMPLATE
    torch.manual_seed(3)
    config = Qwen3Config(**{**_SHAPE, "initializer_range": 0.2}, **_ids(tokenizer), head_dim=8, num_key_value_heads=2)
    return _write(folder, Qwen3ForCausalLM(config), tokenizer)


def _save_encoder(folder: Path, kind: str) -> Path:
    """An encoder without a head beside `folder`."""
    from transformers import (
        BertConfig,
        BertModel,
        DistilBertModel,
        ModernBertModel,
        T5Config,
        T5EncoderModel,
        XLMRobertaConfig,
        XLMRobertaModel,
    )

    makers: dict[str, Any] = {
        "bert": lambda **given: BertModel(BertConfig(**_SHAPE, **given)),
        "xlm-roberta": lambda **given: XLMRobertaModel(XLMRobertaConfig(**_SHAPE, type_vocab_size=1, **given)),
        "distilbert": lambda **given: DistilBertModel(_distilbert_config(**given)),
        "modernbert": lambda **given: ModernBertModel(_modernbert_config(**given)),
        "t5": lambda **given: T5EncoderModel(
            T5Config(d_model=HIDDEN, d_kv=8, d_ff=48, num_layers=3, num_heads=4, initializer_factor=2.0, **given)
        ),
    }
    layout = {"t5": "xlm-roberta", "distilbert": "bert"}.get(kind, kind)
    reads = ("input_ids", "attention_mask") if kind == "distilbert" else None
    return _save(folder.with_name(f"{folder.name}-{kind}"), layout, makers[kind], num_labels=None, reads=reads)


def _distilbert_config(**given: Any) -> Any:
    from transformers import DistilBertConfig

    shape = {"dim": HIDDEN, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 80}
    return DistilBertConfig(**shape, initializer_range=0.3, **given)


def _modernbert_config(**given: Any) -> Any:
    from transformers import ModernBertConfig

    return ModernBertConfig(**_SHAPE, initializer_cutoff_factor=2.0, local_attention=2 * WINDOW, **given)


def _save_modular(folder: Path, encoder: Path, pooling: str, num_outputs: int = 1) -> Path:
    torch.manual_seed(5)
    modules = [
        Transformer(str(encoder), max_seq_length=MAX_TOKENS),
        Pooling(HIDDEN, pooling_mode=pooling),
        Dense(HIDDEN, HIDDEN, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(HIDDEN),
        Dense(HIDDEN, num_outputs, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    return save_cross_encoder(folder, modules)


def save_cross_encoder(folder: Path, modules: Sequence[Any], **given: Any) -> Path:
    """Modules as sentence-transformers saves a cross-encoder."""
    model = CrossEncoder(modules=list(modules), device="cpu", activation_fn=torch.nn.Identity(), **given)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def _save(
    folder: Path, layout: str, make: Any, *, num_labels: int | None = 1, reads: tuple[str, ...] | None = None
) -> Path:
    """A network in plain transformers format with a tokenizer of this layout; `reads` are the inputs that it asks for."""
    tokenizer = LAYOUTS[layout]()
    tokenizer.model_max_length = MAX_TOKENS
    if reads:
        tokenizer.model_input_names = list(reads)
    torch.manual_seed(3)
    labels = {} if num_labels is None else {"num_labels": num_labels}
    return _write(folder, make(**_ids(tokenizer), **labels), tokenizer)


def _write(folder: Path, network: Any, tokenizer: Any) -> Path:
    network.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def _ids(tokenizer: Any) -> dict[str, int]:
    names = {"bos": "cls", "eos": "sep", "cls": "cls", "sep": "sep", "pad": "pad"}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{own}_token_id") for name, own in names.items()}
    return {"vocab_size": len(tokenizer), **ids}


STUDENTS = ("bert", "xlm-roberta", "modernbert", "distilbert", "t5", "static", "plain")


def tiny_student(folder: Path, kind: str, pooling: str = "mean") -> Path:
    """A bi-encoder of a family with both prompts; `static` has no transformer, `plain` is as transformers saves an encoder."""
    if kind == "plain":
        return _save_encoder(folder, "bert")
    torch.manual_seed(5)
    if kind == "static":
        modules: list[Any] = [StaticEmbedding(LAYOUTS["bert"](), embedding_dim=HIDDEN)]
    else:
        modules = [
            Transformer(str(_save_encoder(folder, kind)), max_seq_length=MAX_TOKENS),
            Pooling(HIDDEN, pooling_mode=pooling),
        ]
    prompts = {"query": "sort the ", "document": "frame of "}
    model = SentenceTransformer(modules=[*modules, Normalize()], device="cpu", prompts=prompts)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder
