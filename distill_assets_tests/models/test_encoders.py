"""Loading models: every wrong folder is one `ModelError` with its path, and code from a model folder is never run."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, StaticEmbedding
from tokenizers import Tokenizer, models

from distill_assets.errors import ModelError, NonFiniteError
from distill_assets.models import encoders
from distill_assets.models.encoders import (
    CrossEncoderScorer,
    encode_texts,
    grow_cross_encoder,
    has_fast_bf16,
    is_cross_encoder,
    load_student,
    load_teacher,
    pick_device,
    used_precision,
)
from distill_assets.models.query_tower import split_towers

TEXTS = ["sum every value of the array", "sort", "merge the frame along one axis", "sum every value of the matrix", "a"]


def grow(path: Path, **arguments: Any) -> Any:
    """`grow_cross_encoder` with a length."""
    return grow_cross_encoder(path, max_length=32, **arguments)


def test_half_precision_folders_are_loaded_in_full(
    tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """Transformers 5 keeps a file's precision: trained in 16 bits, a published fp16 model unlearns while the run goes on."""
    for load, folder in ((load_student, tiny_encoder), (load_teacher, tiny_cross_encoder), (grow, tiny_encoder)):
        half = tmp_path / load.__name__
        shutil.copytree(folder, half)
        for weights in half.rglob("*.safetensors"):
            save_file({k: v.half() for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
        config = half / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float16"}), "utf-8")
        model = load(half, device="cpu")
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}, load.__name__


@pytest.mark.parametrize("load", [load_student, load_teacher, grow])
def test_not_a_folder(load: Callable[..., Any], tmp_path: Path) -> None:
    """A typo in the path would be taken for a hub name and end in a message about internet access."""
    with pytest.raises(ModelError, match="no model at .*nowhere"):
        load(tmp_path / "nowhere", device="cpu")


@pytest.mark.parametrize("load", [load_student, load_teacher, grow])
def test_folder_without_a_model(load: Callable[..., Any], tmp_path: Path) -> None:
    """sentence-transformers builds a fresh untrained model around some folders it does not know."""
    (tmp_path / "README.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(ModelError, match="is not a model: neither"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("load", [load_student, load_teacher, grow])
def test_truncated_weights(
    load: Callable[..., Any], tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """A copy that was cut off must name its folder, not an offset inside safetensors."""
    source = tiny_cross_encoder if load is load_teacher else tiny_encoder
    copy = Path(shutil.copytree(source, tmp_path / "cut"))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(ModelError, match="/cut could not be loaded.*copy the model again"):
        load(copy, device="cpu")


@pytest.mark.parametrize("name", ["modules.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', "\x00"])
def test_damaged_json(name: str, content: str, tiny_encoder: Path, tmp_path: Path) -> None:
    """Half a JSON file came out as a JSONDecodeError or KeyError without any path."""
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "damaged"))
    (copy / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match="/damaged"):
        load_teacher(copy, device="cpu")


def test_encoder_given_as_teacher(tiny_encoder: Path) -> None:
    """Transformers would add a scoring head of random weights and score at random with one warning."""
    with pytest.raises(ModelError, match=r"without a scoring head.*finetune"):
        load_teacher(tiny_encoder, device="cpu")


def test_bare_encoder_given_as_teacher(tiny_encoder: Path, tmp_path: Path) -> None:
    """The same for a plain transformers checkpoint, which has no modules.json to tell."""
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "bare"))
    (copy / "modules.json").unlink()
    assert not is_cross_encoder(copy)
    with pytest.raises(ModelError, match="without a scoring head"):
        load_teacher(copy, device="cpu")


def test_cross_encoder_with_two_outputs(tmp_path: Path) -> None:
    """Of two logits one would be taken, or both be flattened into the wrong pairs."""
    from benchmarks.tiny import save_bert

    path = save_bert(tmp_path / "two", num_labels=2)
    with pytest.raises(ModelError, match="/two has 2 outputs"):
        load_teacher(path, device="cpu")


def test_is_cross_encoder(tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path) -> None:
    """All three ways in which a cross-encoder or an encoder is saved."""
    grow(tiny_encoder, device="cpu").save_pretrained(str(tmp_path / "grown"))
    assert is_cross_encoder(tiny_cross_encoder)
    assert is_cross_encoder(tmp_path / "grown")
    assert not is_cross_encoder(tiny_encoder)


EVIL = "from pathlib import Path\nPath({marker!r}).write_text('ran')\nraise RuntimeError('evil code ran')\n"


@pytest.fixture
def grown(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A saved cross-encoder with this package's own head, which needs a little trust to load."""
    grow(tiny_encoder, device="cpu").save_pretrained(str(tmp_path / "grown"))
    return tmp_path / "grown"


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file, as escaped as JSON allows for the letter u."""
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(change(value)).replace("auto_map", "a\\u0075to_map"), encoding="utf-8")


def name_foreign_class(folder: Path) -> None:
    """modules.json names a class of a file that the folder brings."""
    edit_json(folder / "modules.json", lambda v: [*v, {"idx": 2, "name": "2", "path": "", "type": "evil.Head"}])


def map_config(folder: Path) -> None:
    """config.json asks transformers for modelling code of the folder."""
    edit_json(
        folder / "config.json",
        lambda v: {**v, "model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}},
    )


def map_tokenizer(folder: Path) -> None:
    """tokenizer_config.json asks transformers for a tokenizer class of the folder."""
    auto_map = {"AutoTokenizer": ["evil.T", "evil.T"]}
    edit_json(folder / "tokenizer_config.json", lambda v: {**v, "tokenizer_class": "Evil", "auto_map": auto_map})


def map_subfolder(folder: Path) -> None:
    """The same in a subfolder that modules.json points at, beside an innocent config.json."""
    shutil.copytree(folder, folder / "inner", ignore=shutil.ignore_patterns("inner"))
    map_config(folder / "inner")
    shutil.copy(folder / "evil.py", folder / "inner" / "evil.py")
    edit_json(folder / "modules.json", lambda v: [{**v[0], "path": "inner"}, *v[1:]])


def map_outside(folder: Path) -> None:
    """The same in a folder outside the model's own."""
    outside = Path(shutil.copytree(folder, folder.parent / "outside"))
    map_config(outside)
    edit_json(folder / "modules.json", lambda v: [{**v[0], "path": "../outside"}, *v[1:]])
    (folder / "evil.py").unlink()


@pytest.mark.parametrize("attack", [name_foreign_class, map_config, map_tokenizer, map_subfolder, map_outside])
def test_code_of_a_model_folder_is_never_run(attack: Callable[[Path], None], grown: Path, tmp_path: Path) -> None:
    """sentence-transformers wants trust_remote_code for this package's head: given, all five of these would run."""
    marker = tmp_path / "marker"
    (grown / "evil.py").write_text(EVIL.format(marker=str(marker)), encoding="utf-8")
    attack(grown)
    for load in (load_teacher, load_student, grow):
        with pytest.raises(ModelError, match="/grown.*trusted_models"):
            load(grown, device="cpu")
    assert not marker.exists()


def test_code_of_a_trusted_folder_runs(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    """A model that its user trusts, and that needs its own class, would be refused for ever."""
    marker, folder = tmp_path / "marker", tmp_path / "own"
    CrossEncoder(str(tiny_cross_encoder), device="cpu").save_pretrained(str(folder), create_model_card=False)
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)), encoding="utf-8")
    name_foreign_class(folder)
    with pytest.raises(ModelError, match="evil code ran"):
        load_teacher(folder, device="cpu", is_trusted=True)
    assert marker.exists()


def pickle_weights(folder: Path) -> Path:
    """The weights of a folder as a pickle, under the name that older models have."""
    state = load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("load", [load_student, load_teacher, grow])
def test_pickled_weights_are_for_trusted_models(
    load: Callable[..., Any], tiny_encoder: Path, tiny_cross_encoder: Path, tmp_path: Path
) -> None:
    """A pickle runs what its author wrote while it is read. Beside a safetensors file it is not read, and no reason to refuse."""
    copy = Path(shutil.copytree(tiny_cross_encoder if load is load_teacher else tiny_encoder, tmp_path / "old"))
    pickled = pickle_weights(copy)
    expected = [parameter.clone() for parameter in load(copy, device="cpu").parameters()]
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=rf"{pickled} is a pickle, .*trusted_models"):
        load(copy, device="cpu")
    found = load(copy, device="cpu", is_trusted=True).parameters()
    if load is not grow:  # its head is new each time
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_module_with_pickled_weights_alone_is_found(tiny_encoder: Path, tmp_path: Path) -> None:
    """Older students have a dense layer as a pickle beside an encoder in safetensors: one safe file is not all of them."""
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "old"))
    (copy / "2_Dense").mkdir()
    (copy / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="2_Dense/pytorch_model.bin is a pickle"):
        load_student(copy, device="cpu")


def test_a_folder_without_weights_names_what_a_download_leaves_out(tiny_encoder: Path, tmp_path: Path) -> None:
    """The hub's older models are pickles alone: what is downloaded of them has no weights, and the library says so of a file."""
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "old"))
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"/old has no weights in a .safetensors file .*trusted_models"):
        load_student(copy, device="cpu")


def test_own_head_loads(grown: Path) -> None:
    """The refusals above would be worth nothing if nothing loaded."""
    assert load_teacher(grown, device="cpu", max_length=16).max_length == 16


def test_the_name_of_the_head_in_a_saved_folder_stays(grown: Path) -> None:
    """It is part of the teacher's hash. A file that is moved would give every saved teacher another id, or none that loads."""
    named = [entry["type"] for entry in json.loads((grown / "modules.json").read_text(encoding="utf-8"))]
    assert named[1] == "distill_assets.core.interaction.JointInteraction"
    assert load_teacher(grown, device="cpu").predict([("sort a frame", "sort every value")]).shape == (1,)


def test_modules_without_config(grown: Path) -> None:
    """A folder whose config.json was forgotten came out as FileNotFoundError of another file."""
    (grown / "config.json").unlink()
    with pytest.raises(ModelError, match="/grown"):
        load_teacher(grown, device="cpu")


def test_lengths_never_grow(tiny_encoder: Path, tiny_cross_encoder: Path) -> None:
    """Beyond the positions of a model its embedding lookup fails in the middle of a run: the shorter limit wins."""
    assert load_student(tiny_encoder, device="cpu", max_length=512).max_seq_length == 32
    assert load_student(tiny_encoder, device="cpu", max_length=8).max_seq_length == 8
    assert load_student(tiny_encoder, device="cpu").max_seq_length == 32
    assert load_teacher(tiny_cross_encoder, device="cpu", max_length=512).max_length == 64
    assert load_teacher(tiny_cross_encoder, device="cpu", max_length=24).max_length == 24
    long = grow_cross_encoder(tiny_encoder, device="cpu", max_length=512)
    assert long.max_length == 64  # the positions of the encoder, whatever it was used with
    assert long.predict([("word " * 300, "word " * 300)]).shape == (1,)


@pytest.mark.parametrize("role", ["query", "document"])
def test_encode_texts_keeps_the_order_at_unit_length(role: Any, tiny_encoder: Path) -> None:
    """The encoder sorts by length inside: vectors in that order would belong to other texts."""
    model = load_student(tiny_encoder, device="cpu")
    vectors = encode_texts(model, TEXTS, role, batch_size=2)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    for text, vector in zip(TEXTS, vectors, strict=True):
        assert encode_texts(model, [text], role)[0] == pytest.approx(vector, abs=1e-5)
    assert len({tuple(vector.round(4)) for vector in vectors}) == 5


def test_encode_texts_uses_the_prompt_of_the_role(tiny_encoder: Path) -> None:
    """E5 and BGE lose several points of nDCG without their prompts, silently."""
    model = load_student(tiny_encoder, device="cpu")
    plain = encode_texts(model, ["sum of a array"], "query")
    model.prompts = {"query": "how to ", "document": ""}
    assert encode_texts(model, ["sum of a array"], "query") != pytest.approx(plain, abs=1e-4)
    assert encode_texts(model, ["sum of a array"], "document") == pytest.approx(plain, abs=1e-5)
    assert encode_texts(model, ["how to sum of a array"], "document") == pytest.approx(
        encode_texts(model, ["sum of a array"], "query"), abs=1e-5
    )


def test_encode_texts_equals_sentence_transformers_whatever_the_batches(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in the cutting of batches gives texts each other's vectors, or cuts their last token, at plausible cosines."""
    model = load_student(tiny_encoder, device="cpu")
    model.prompts = {"query": "how to ", "document": ""}
    texts = [" ".join(["sum", "array", "clip"][: 1 + i % 3] * (1 + i // 3 % 9)) for i in range(40)]
    for slab, per_text in ((512, 128), (7, 1), (1, 1), (16, 3)):
        monkeypatch.setattr(encoders, "_SLAB_TEXTS", slab)
        monkeypatch.setattr(encoders, "_TOKENS_PER_TEXT", per_text)
        for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
            expected = encode(texts, normalize_embeddings=True)
            assert encode_texts(model, texts, role, batch_size=20) == pytest.approx(expected, abs=1e-5)
    assert encode_texts(model, [], "query").shape == (0, 32)


def test_features_that_cannot_be_cut_go_through_sentence_transformers(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that pads on the left keeps its last tokens at the end: cutting columns there would drop the text."""
    model = load_student(tiny_encoder, device="cpu")
    texts = ["sum of a array", "clip"]
    expected = encode_texts(model, texts, "document")
    model.tokenizer.padding_side = "left"
    monkeypatch.setattr(model, "encode_document", lambda texts, **_: np.full((len(texts), 32), 7.0))
    assert (encode_texts(model, texts, "document") == 7).all()
    model.tokenizer.padding_side = "right"
    assert encode_texts(model, texts, "document") == pytest.approx(expected, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_token_batches_cover_everything_within_the_budget(lengths: list[int], budget: int) -> None:
    """A text in no batch keeps whatever memory held before; a batch above the budget is what kills a run of long texts."""
    ascending = sorted(lengths)
    batches = list(encoders._token_batches(ascending, budget))
    assert [length for batch in batches for length in ascending[batch]] == ascending
    for batch in batches:
        assert len(ascending[batch]) == 1 or len(ascending[batch]) * max(ascending[batch]) <= budget
    for batch, after in itertools.pairwise(batches):
        assert (len(ascending[batch]) + 1) * ascending[after.start] > budget


def test_bf16_encodes_close_to_fp32_at_unit_length(tiny_encoder: Path) -> None:
    """Pooling in bf16 would lose the sum of many tokens, and vectors that are not of unit length rank by their length."""
    exact = encode_texts(load_student(tiny_encoder, device="cpu"), TEXTS, "document")
    vectors = encode_texts(load_student(tiny_encoder, device="cpu", precision="bf16"), TEXTS, "document")
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert (vectors * exact).sum(axis=1).min() > 0.999
    assert not np.array_equal(vectors, exact)


@pytest.mark.parametrize("is_split", [False, True])
def test_only_the_transformers_run_in_bf16(is_split: bool, tiny_encoder: Path, tmp_path: Path) -> None:
    """A split model is one module to the loader: pooling and the layer after it ran in 8 bits on both of its sides.

    The tiny encoder gets a dense layer and a normalisation behind its pooling, as many published students have.
    """
    layers = [*load_student(tiny_encoder, device="cpu"), Dense(32, 32), Normalize()]
    model = SentenceTransformer(modules=layers, device="cpu")
    (split_towers(model) if is_split else model).save_pretrained(str(tmp_path / "m"), create_model_card=False)
    exact, fast = (load_student(tmp_path / "m", device="cpu", precision=p) for p in ("fp32", "bf16"))
    seen: list[tuple[str, torch.dtype]] = []

    def watch(module: Any, inputs: Any, output: Any) -> None:
        seen.extend(
            (f"{type(module).__name__}.{name}", output[name].dtype)
            for name in ("token_embeddings", "sentence_embedding")
            if name in output
        )

    for module in fast.modules():
        if isinstance(module, Transformer):
            assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
        if isinstance(module, Dense):
            assert {p.dtype for p in module.parameters()} == {torch.float32}
        if isinstance(module, (Transformer, Pooling, Dense, Normalize)):
            module.register_forward_hook(watch)
    roles: tuple[Any, ...] = ("query", "document")
    for role in roles:
        cosines = (encode_texts(fast, TEXTS, role) * encode_texts(exact, TEXTS, role)).sum(axis=1)
        assert 0.999 < cosines.min() < 1.0
    assert {name for name, _ in seen} >= {"Transformer.token_embeddings", "Normalize.sentence_embedding"}
    assert {dtype for _, dtype in seen} == {torch.float32}
    assert (used_precision(exact), used_precision(fast)) == ("fp32", "bf16")


def test_layers_for_the_pooling_leave_the_transformer_in_fp32() -> None:
    """A pooling over several layers reads them as a tuple, which stayed in 8 bits."""
    layer = torch.ones(1, 2, 4, dtype=torch.bfloat16)
    mask = torch.ones(1, 2, dtype=torch.int64)
    given = {"all_layer_embeddings": (layer, layer), "token_embeddings": layer, "attention_mask": mask, "task": "query"}
    found = encoders._as_float32(torch.nn.Identity(), None, given)
    assert [v.dtype for v in (*found["all_layer_embeddings"], found["token_embeddings"])] == [torch.float32] * 3
    assert found["attention_mask"] is mask and found["task"] == "query"


def test_a_model_without_a_transformer_says_that_it_stays_in_fp32(tmp_path: Path) -> None:
    """Its vectors would be kept under the key of bf16 ones, and compared with those of another precision."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "sum": 1, "sort": 2}, "[UNK]"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu").save_pretrained(
        str(tmp_path / "static"), create_model_card=False
    )
    model = load_student(tmp_path / "static", device="cpu", precision="bf16")
    assert used_precision(model) == "fp32"
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_encode_texts_refuses_damaged_weights(tiny_encoder: Path) -> None:
    """NaN vectors compare as false with everything: such a model ranks in file order."""
    model = load_student(tiny_encoder, device="cpu")
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="5 of 5"):
        encode_texts(model, TEXTS, "document")


@pytest.mark.parametrize("path_fixture", ["tiny_cross_encoder", "grown"])
def test_scorer_gives_raw_logits_in_order(path_fixture: str, request: pytest.FixtureRequest) -> None:
    """A sigmoid squeezes 13 and 27 into 0.99 both; length sorting inside `predict` must be undone."""
    model = load_teacher(request.getfixturevalue(path_fixture), device="cpu")
    if path_fixture == "tiny_cross_encoder":
        with torch.no_grad():
            model[0].auto_model.classifier.bias.fill_(50.0)
    pairs = [("how to sum a array", text) for text in TEXTS]
    together = CrossEncoderScorer(model, batch_size=2)(pairs)
    assert together.dtype == np.float32 and together.shape == (5,)
    assert together == pytest.approx([CrossEncoderScorer(model)([pair])[0] for pair in pairs], abs=1e-4)
    assert together.max() > 1.0
    assert len(set(together.tolist())) == 5


def test_second_token_type_is_made_equal_to_the_first(tiny_encoder: Path) -> None:
    """Sentence encoders were never trained on type 1: its noise would be added to every document token."""
    before = load_student(tiny_encoder, device="cpu")[0].auto_model.embeddings.token_type_embeddings.weight
    after = grow(tiny_encoder, device="cpu")[0].auto_model.embeddings.token_type_embeddings.weight
    assert not torch.equal(before[0], before[1])
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[0])


def test_growing_needs_a_separator(tiny_encoder: Path, tmp_path: Path) -> None:
    """Without one the whole pair would count as query and every document score the same."""
    copy = Path(shutil.copytree(tiny_encoder, tmp_path / "unseparated"))
    edit_json(copy / "tokenizer_config.json", lambda v: {k: x for k, x in v.items() if k != "sep_token"})
    (copy / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(ModelError, match="no separator token"):
        grow(copy, device="cpu")


def test_pick_device_keeps_what_was_asked_for() -> None:
    """`cpu` on a machine with a GPU is a wish, not a default."""
    assert pick_device("cpu") == "cpu"
    assert pick_device("auto") in ("cpu", "cuda", "mps")


@pytest.mark.parametrize(
    ("limit", "is_fast"),
    [("", True), ("AVX512_CORE_AMX", True), ("avx512_core_bf16", True), ("AVX512_CORE_VNNI", False), ("AVX2", False)],
)
def test_bf16_is_not_chosen_where_its_instructions_are_switched_off(
    limit: str, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor has them, oneDNN may not use them: emulated bf16 is 45 times slower than fp32."""
    monkeypatch.setattr(encoders, "cpu_has", lambda *probes: True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert has_fast_bf16("cpu") is is_fast


def test_bf16_needs_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated bf16 is 45 times slower: with no such instruction, and on MPS, the answer is no."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False, raising=False)
    assert not has_fast_bf16("cpu")
    assert not has_fast_bf16("mps")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_fast_bf16("cpu")
