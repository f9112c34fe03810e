"""A tiny collection and tiny models in the formats of the hub, for what measures or tests everything but the models."""

import json
from pathlib import Path
from typing import Any

TOPICS = ("array", "matrix", "frame", "series", "index", "graph", "window", "kernel", "signal", "cluster")
ACTIONS = ("sum", "sort", "split", "join", "shift", "scale", "clip", "round", "merge", "drop", "fill", "rank")


def write_beir(folder: Path, topics: tuple[str, ...] = TOPICS, actions: tuple[str, ...] = ACTIONS) -> Path:
    """A BEIR folder of len(topics) * len(actions) documents, one query each, in one qrels file per split."""
    (folder / "qrels").mkdir(parents=True)
    documents, queries = [], []
    judged: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for i, topic in enumerate(topics):
        for j, action in enumerate(actions):
            key = f"{topic}-{action}"
            documents.append(
                {"_id": key, "title": topic, "text": f"{action} every value of the {topic} along one axis"}
            )
            queries.append({"_id": f"q-{key}", "text": f"how to {action} a {topic}"})
            split = "dev" if (i + j) % 6 == 4 else "test" if (i + j) % 6 == 5 else "train"
            judged[split].append(f"q-{key}\t{key}\t1")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents), encoding="utf-8")
    (folder / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries), encoding="utf-8")
    for split, lines in judged.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


def make_project(collection: Path, student: Path, teacher: Path, data_folder: Path, **overrides: Any) -> Any:
    """A `Project` with overrides, reading no settings file."""
    from distill_assets.handles.project import Project

    values: dict[str, Any] = {
        "data_folder": str(data_folder),
        "collection": f"beir:{collection}",
        "student": str(student),
        "teacher": str(teacher),
        "student_max_length": 32,
        "teacher_max_length": 48,
        "mining_depth": 20,
        "negatives_per_query": 6,
        "scored_negatives": 4,
        "student_epochs": 1,
        "step_queries": 8,
        "dev_queries": 20,
        "test_queries": 12,
        "pool_depth": 10,
        "recipes": {
            "hard_labels": {"batch_size": 8},
            "margin_mse": {"batch_size": 8, "num_negatives": 2, "sampling": "top"},
        },
        "skip_recipes": ("kl",),  # two students are enough to compare
        "chunk_size": 64,
        "device": "cpu",
    }
    return Project(overrides={**values, **overrides})


def save_tiny_encoder(path: Path) -> Path:
    """Make the tiny bi-encoder, the same each time."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(0)
    source = save_bert(path.with_name(f"{path.name}-bert"), num_labels=None)
    transformer = Transformer(str(source), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean")], device="cpu")
    model.save_pretrained(str(path), create_model_card=False)
    return path


def save_tiny_cross_encoder(path: Path) -> Path:
    """Make the tiny cross-encoder, the same each time."""
    import torch

    torch.manual_seed(1)
    return save_bert(path, num_labels=1)


def save_bert(path: Path, num_labels: int | None) -> Path:
    """Save a BERT of 2 layers x 32 with the vocabulary of the tiny collection; `num_labels` gives it a scoring head."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TOPICS, *ACTIONS]
    words += ["how", "to", "a", "every", "value", "of", "the", "along", "one", "axis", "-", ".", ","]
    words += [chr(c) for c in range(ord("a"), ord("z") + 1)] + [f"##{chr(c)}" for c in range(ord("a"), ord("z") + 1)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        **({} if num_labels is None else {"num_labels": num_labels}),
    )
    model = BertModel(config) if num_labels is None else BertForSequenceClassification(config)
    model.save_pretrained(str(path))
    fast.save_pretrained(str(path))
    return path
