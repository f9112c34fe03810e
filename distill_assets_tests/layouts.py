"""Tiny fast tokenizers in the three layouts of pairs that cross-encoders use: BERT, RoBERTa with its double separator, ModernBERT."""

from typing import Any


def _bert() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sort", "frame", "the", "of", "'", "_", "4", "2"]
    ids = {word: i for i, word in enumerate([*vocabulary, *letters, *(f"##{letter}" for letter in letters)])}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return _wrap(tokenizer, ["input_ids", "token_type_ids", "attention_mask"], cls="[CLS]", sep="[SEP]", pad="[PAD]")


def _xlm_roberta() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "▁",
        "▁sort",
        "▁the",
        "▁frame",
        "frame",
        "ing",
        *"abcdefghijklmnopqrstuvwxyz_'42",
    ]
    scores = [(piece, -float(i)) for i, piece in enumerate(dict.fromkeys(pieces))]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return _wrap(tokenizer, ["input_ids", "attention_mask"], cls="<s>", sep="</s>", pad="<pad>")


def _modernbert() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    specials = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"]
    ids = {
        token: i for i, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "fr"])
    }
    tokenizer = Tokenizer(models.BPE(ids, [("t", "h"), ("th", "e"), ("f", "r")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return _wrap(tokenizer, ["input_ids", "attention_mask"], cls="[CLS]", sep="[SEP]", pad="[PAD]")


def _wrap(tokenizer: Any, names: list[str], *, cls: str, sep: str, pad: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    unknown = "<unk>" if sep == "</s>" else "[UNK]"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=cls,
        sep_token=sep,
        pad_token=pad,
        unk_token=unknown,
        model_input_names=names,
    )


LAYOUTS = {"bert": _bert, "xlm-roberta": _xlm_roberta, "modernbert": _modernbert}
