"""The torch engine computes what sentence-transformers computes, for every kind of model that it takes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # libraries of the reference, not ours
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from ingestd.config import DEFAULT_MODEL
from ingestd.errors import ModelError
from ingestd.models import resolve
from ingestd.types import Tokens
from ingestd_plugins.torch import TorchEngine, share

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

LONGEST = 48
WORDS = [
    "daemon", "folder", "index", "vector", "search", "chunk", "token", "loads", "encodes", "watches", "settles",
    "文件", "文件夹", "索引", "向量", "搜索",
]  # fmt: skip
EXACT, ROUGH = 1e-6, 1e-3
"""The most that 1 - cosine may be, in float32 and in 16 bits."""

Make = Callable[[Path], None]


def corpus(count: int, longest: int, seed: int = 7) -> list[str]:
    """Texts of every length, in no order."""
    pick = random.Random(seed)
    lengths = [1 + i * longest // count for i in range(count)]
    pick.shuffle(lengths)
    return ["", "[PAD] <pad> </s> [SEP]", *(" ".join(pick.choices(WORDS, k=length)) for length in lengths)]


def engine_for(directory: Path, **options: Any) -> TorchEngine:
    engine = TorchEngine()
    engine.load(str(directory), "cpu", {"dtype": "float32", **options})  # whatever the processor does natively
    return engine


def error(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """The worst 1 - cosine, in float64."""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(1 - cosine.min())


# --- models made here -----------------------------------------------------------------------------------------


def wordpiece() -> dict[str, int]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    return dict(tokenizer.get_vocab())


def bytepairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def unigram() -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


SHAPE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    # far from the usual 0.02: else all texts of a random model look the same
    "initializer_range": 0.4,
}  # fmt: skip


def transformer(directory: Path, kind: str, **changes: Any) -> Transformer:
    """A transformer with random weights and a tokeniser trained on `WORDS`, loaded from `directory`."""
    torch.manual_seed(3)
    positions = LONGEST if kind == "bert" else LONGEST + 2
    common = {**SHAPE, "max_position_embeddings": positions, **changes}
    if kind in ("bert", "mpnet"):
        vocabulary = wordpiece()
        if kind == "mpnet":
            names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
            order = {"<s>": 0, "<pad>": 1, "</s>": 2}
            words = [names.get(word, word) for word in sorted(vocabulary, key=lambda word: vocabulary[word])]
            words.sort(key=lambda word: order.get(word, 3))
            vocabulary = {word: i for i, word in enumerate(words)}
            tokenizer: Any = transformers.MPNetTokenizer(vocab=vocabulary)
            config: Any = transformers.MPNetConfig(vocab_size=len(vocabulary), **common)
        else:
            tokenizer = transformers.BertTokenizer(vocab=vocabulary)
            config = transformers.BertConfig(vocab_size=len(vocabulary), **common)
    elif kind == "roberta":
        vocab, merges = bytepairs()
        tokenizer = transformers.RobertaTokenizer(vocab=vocab, merges=merges)
        config = transformers.RobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, **common)
    else:
        tokenizer = transformers.XLMRobertaTokenizer(vocab=unigram())
        config = transformers.XLMRobertaConfig(vocab_size=len(tokenizer), pad_token_id=1, **common)
    model = transformers.AutoModel.from_config(config)
    for name, weights in model.named_parameters():  # norms and biases start as ones and zeros, which hide mistakes
        if "LayerNorm" in name or name.endswith("bias"):
            torch.nn.init.normal_(weights, mean=float("Norm.weight" in name), std=0.2)
    model.save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))
    return Transformer(str(directory), max_seq_length=LONGEST)


def save(directory: Path, *modules: Any, **options: Any) -> None:
    SentenceTransformer(modules=list(modules), device="cpu", **options).save(str(directory), create_model_card=False)


def bert_cls(directory: Path) -> None:
    save(directory, transformer(directory / "0", "bert"), Pooling(32, "cls"), Normalize())


def bert_every_pooling(directory: Path) -> None:
    modes = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    save(directory, transformer(directory / "0", "bert", hidden_act="gelu_new"), Pooling(32, modes))


def bert_dense(directory: Path) -> None:
    torch.manual_seed(5)
    dense = Dense(32, 20), Dense(20, 12, bias=False, activation_function=torch.nn.Identity())
    save(directory, transformer(directory / "0", "bert"), Pooling(32, "mean"), Normalize(), *dense, Normalize())


def bert_truncated(directory: Path) -> None:
    save(directory, transformer(directory / "0", "bert"), Pooling(32, "mean"), Normalize(), truncate_dim=16)


def roberta_mean(directory: Path) -> None:
    save(directory, transformer(directory / "0", "roberta"), Pooling(32, "mean"))


def xlm_roberta_prompts(directory: Path) -> None:
    prompts = {"query": "search index ", "document": "索引: "}
    save(directory, transformer(directory / "0", "xlm-roberta"), Pooling(32, "mean"), Normalize(), prompts=prompts)


def bare_bert(directory: Path) -> None:
    transformer(directory, "bert")


def sharded_bert(directory: Path) -> None:
    bert_cls(directory)
    (directory / "model.safetensors").unlink()
    transformers.AutoModel.from_pretrained(str(directory / "0")).save_pretrained(str(directory), max_shard_size="20KB")
    assert not (directory / "model.safetensors").exists()


def language_model_bert(directory: Path) -> None:
    """As checkpoints of whole language models are: a prefix, a head, and old names of the norms' weights."""
    from safetensors.torch import load_file, save_file

    bert_cls(directory)
    weights = load_file(directory / "model.safetensors")
    renamed = {f"bert.{name.replace('LayerNorm.weight', 'LayerNorm.gamma')}": w for name, w in weights.items()}
    head = {"cls.predictions.bias": torch.zeros(3)}
    save_file({**renamed, **head}, directory / "model.safetensors", metadata={"format": "pt"})


def mpnet(directory: Path) -> None:
    save(directory, transformer(directory / "0", "mpnet"), Pooling(32, "mean"), Normalize())


def pickled_bert(directory: Path) -> None:
    bert_cls(directory)
    from safetensors.torch import load_file

    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def bert_residual_dense(directory: Path) -> None:
    save(directory, transformer(directory / "0", "bert"), Pooling(32, "mean"), Dense(32, 32, use_residual=True))


PACKED: list[Make] = [
    bert_cls, bert_every_pooling, bert_dense, bert_truncated, roberta_mean, xlm_roberta_prompts, bare_bert,
    sharded_bert, language_model_bert,
]  # fmt: skip
OTHERS: list[Make] = [mpnet, pickled_bert, bert_residual_dense]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], Path]:
    """The directory of a model, made once."""
    root = tmp_path_factory.mktemp("models")

    def find(make: Make) -> Path:
        directory = root / make.__name__
        if not directory.exists():
            directory.mkdir()
            make(directory)
        return directory

    return find


# --- equal to sentence-transformers ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*PACKED, *OTHERS])
def test_vectors_are_those_of_sentence_transformers(make: Make, made: Callable[[Make], Path]) -> None:
    directory = made(make)
    engine = engine_for(directory)
    described = engine.describe()
    assert described["forward"] == ("packed" if make in PACKED else "sentence-transformers")

    reference = SentenceTransformer(str(directory), device="cpu")
    texts = corpus(60, LONGEST)
    tokenizer = engine.tokenizer(str(directory))
    for encode, prompt in (
        (reference.encode_query, described["query_prompt"]),
        (reference.encode_document, described["passage_prompt"]),
    ):
        expected = np.asarray(encode(texts, show_progress_bar=False))
        tokens = tokenizer.encode(texts, prompt=prompt)
        assert np.diff(tokens.offsets).max() == LONGEST
        got = engine.encode(tokens)
        assert got.dtype == np.float32
        assert got.shape == expected.shape == (len(texts), described["dims"])
        assert error(got, expected) < EXACT
    if make is xlm_roberta_prompts:
        assert (described["query_prompt"], described["passage_prompt"]) == ("search index ", "索引: ")


@pytest.fixture(scope="module")
def minilm() -> TorchEngine:
    engine = TorchEngine()
    engine.load(DEFAULT_MODEL, "cpu", {"dtype": "float32"})
    return engine


@pytest.fixture(scope="module")
def expected_of_minilm() -> tuple[list[str], npt.NDArray[np.float32]]:
    texts = corpus(24, 200)
    reference = SentenceTransformer(str(resolve(DEFAULT_MODEL)), device="cpu")
    return texts, np.asarray(reference.encode(texts, show_progress_bar=False))


def test_the_default_model_in_float32(minilm: TorchEngine, expected_of_minilm: Any) -> None:
    texts, expected = expected_of_minilm
    got = minilm.encode(minilm.tokenizer(DEFAULT_MODEL).encode(texts))
    assert error(got, expected) < EXACT
    assert np.allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


def test_the_default_model_in_bfloat16(expected_of_minilm: Any) -> None:
    texts, expected = expected_of_minilm
    engine = TorchEngine()
    engine.load(DEFAULT_MODEL, "cpu", {"dtype": "bfloat16"})
    assert engine.describe()["dtype"] == "bfloat16"
    got = engine.encode(engine.tokenizer(DEFAULT_MODEL).encode(texts[:10]))
    assert error(got, expected[:10]) < ROUGH


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="cannot be had: a CUDA device")
@pytest.mark.parametrize(("dtype", "most"), [("auto", ROUGH), ("bfloat16", ROUGH), ("float32", 1e-5)])
def test_the_default_model_on_every_gpu(dtype: str, most: float, expected_of_minilm: Any) -> None:
    texts, expected = expected_of_minilm
    for device in TorchEngine().devices():
        engine = TorchEngine()
        engine.load(DEFAULT_MODEL, device, {"dtype": dtype})
        got = engine.encode(engine.tokenizer(DEFAULT_MODEL).encode(texts))
        assert error(got, expected) < most


# --- batches --------------------------------------------------------------------------------------------------


def test_a_vector_does_not_depend_on_its_batch(made: Callable[[Make], Path]) -> None:
    directory = made(bert_cls)
    engine = engine_for(directory)
    tokenizer = engine.tokenizer(str(directory))
    texts = corpus(20, LONGEST)
    together = engine.encode(tokenizer.encode(texts))
    alone = np.concatenate([engine.encode(tokenizer.encode([text])) for text in texts])
    assert error(together, alone) < EXACT
    assert engine.encode(tokenizer.encode([])).shape == (0, 32)


@pytest.mark.parametrize("make", [bert_cls, mpnet])
@pytest.mark.parametrize(
    ("ids", "offsets", "message"),
    [
        ([2, 100_000, 3], [0, 3], "token id 100000: the model has 0 to"),
        ([2, -1, 3], [0, 3], "token id -1"),
        ([2, 3], [0, 0, 2], "a text of 0 tokens"),
        ([2] * (LONGEST + 1), [0, LONGEST + 1], f"a text of {LONGEST + 1} tokens: the model takes 1 to {LONGEST}"),
        ([2, 3, 4], [0, 2], "offsets from 0 to 2 for 3 ids"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    make: Make, ids: list[int], offsets: list[int], message: str, made: Callable[[Make], Path]
) -> None:
    engine = engine_for(made(make))
    with pytest.raises(ValueError, match=message):
        engine.encode(Tokens(np.array(ids, np.int32), np.array(offsets, np.int64)))


def test_a_batch_too_big_is_a_memory_error_and_nothing_needless_is_imported(made: Callable[[Make], Path]) -> None:
    code = f"""
import resource, sys
import numpy as np
from ingestd.types import Tokens
from ingestd_plugins.torch import TorchEngine
engine = TorchEngine()
engine.load({str(made(bert_cls))!r}, "cpu", {{}})
used = int(open("/proc/self/statm").read().split()[5]) * 4096
resource.setrlimit(resource.RLIMIT_DATA, (used + (200 << 20),) * 2)
lengths = np.full(60_000, {LONGEST})
big = Tokens(np.full(lengths.sum(), 7, np.int32), np.concatenate([[0], np.cumsum(lengths)]))
try:
    engine.encode(big)
except MemoryError:
    print("memory", engine.encode(Tokens(big.ids[:96], big.offsets[:3])).shape)
print([m for m in ("transformers", "sentence_transformers", "torch._dynamo") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["memory (2, 32)", "[]"], done.stderr


# --- options --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bert_cls, mpnet])
def test_normalisation_can_be_asked_for_and_refused(make: Make, made: Callable[[Make], Path]) -> None:
    directory = made(make)
    tokens = TorchEngine().tokenizer(str(directory)).encode(corpus(10, LONGEST))
    by_itself, asked, refused = (engine_for(directory, normalize=value).encode(tokens) for value in (None, True, False))
    assert np.allclose(by_itself, asked)
    assert np.allclose(np.linalg.norm(by_itself, axis=1), 1, atol=1e-5)
    lengths = np.linalg.norm(refused, axis=1, keepdims=True)
    assert (np.abs(lengths - 1) > 0.1).any()
    assert np.allclose(refused / lengths, by_itself, atol=1e-5)


def test_a_model_that_float16_cannot_hold_is_computed_with_more(made: Callable[[Make], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = Path(shutil.copytree(made(bert_cls), tmp_path / "model"))
    weights = load_file(directory / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"] *= 1e6
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    engine = engine_for(directory, dtype="float16")
    texts = corpus(10, LONGEST)
    expected = np.asarray(SentenceTransformer(str(directory), device="cpu").encode(texts, show_progress_bar=False))
    got = engine.encode(engine.tokenizer(str(directory)).encode(texts))
    assert error(got, expected) < EXACT
    assert engine.describe()["dtype"] == "float32"


def test_vectors_that_are_no_numbers_are_refused(made: Callable[[Make], Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = Path(shutil.copytree(made(bert_cls), tmp_path / "model"))
    weights = load_file(directory / "model.safetensors")
    weights["encoder.layer.0.output.dense.weight"].fill_(float("nan"))
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    engine = engine_for(directory)
    with pytest.raises(FloatingPointError, match="no finite numbers"):
        engine.encode(engine.tokenizer(str(directory)).encode(["index"]))


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [
        ("cuda:63", {}, "cannot use the device 'cuda:63'"),
        ("abacus", {}, "cannot use the device 'abacus'"),
        ("cpu", {"dtype": "int3"}, "unknown dtype 'int3': one of auto"),
    ],
)
def test_devices_and_dtypes_that_are_not_there_are_named(
    device: str, options: dict[str, str], message: str, made: Callable[[Make], Path]
) -> None:
    with pytest.raises(ModelError, match=message):
        TorchEngine().load(str(made(bert_cls)), device, options)


def test_memory_that_is_for_others_is_left_alone() -> None:
    assert share(2 << 30, 8 << 30) == 0.75
    assert share(9 << 30, 8 << 30) == 0.1


def test_auto_takes_what_the_processor_computes_natively(made: Callable[[Make], Path]) -> None:
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16") or able.get("amx_bf16")
    assert engine_for(made(bert_cls), dtype="auto").describe()["dtype"] == ("bfloat16" if native else "float32")


# --- models that cannot be computed ---------------------------------------------------------------------------


def changed(directory: Path, name: str, **changes: Any) -> Path:
    path = directory / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return directory


def test_a_model_with_code_of_its_own_is_refused(made: Callable[[Make], Path], tmp_path: Path) -> None:
    directory = Path(shutil.copytree(made(bert_cls), tmp_path / "model"))
    changed(directory, "config.json", auto_map={"AutoModel": "modeling_own.OwnModel"})
    with pytest.raises(ModelError, match="code of its own"):
        engine_for(directory)


def test_a_model_that_leaves_the_prompt_out_of_pooling_is_refused(made: Callable[[Make], Path], tmp_path: Path) -> None:
    directory = Path(shutil.copytree(made(bert_cls), tmp_path / "model"))
    changed(directory, "1_Pooling/config.json", include_prompt=False)
    with pytest.raises(ModelError, match="leaves its prompt out"):
        engine_for(directory)


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{}              "])
def test_weights_that_cannot_be_read_are_named(content: bytes, made: Callable[[Make], Path], tmp_path: Path) -> None:
    directory = Path(shutil.copytree(made(bert_cls), tmp_path / "model"))
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="weights"):
        engine_for(directory)


def test_a_model_that_nothing_can_load_is_named(made: Callable[[Make], Path], tmp_path: Path) -> None:
    directory = Path(shutil.copytree(made(bert_cls), tmp_path / "model"))
    changed(directory, "config.json", model_type="never-heard-of")
    with pytest.raises(ModelError, match="sentence-transformers cannot load the model"):
        engine_for(directory)


# --- what it costs to have it ---------------------------------------------------------------------------------


def test_the_plugin_and_its_tokeniser_import_no_torch() -> None:
    code = (
        "import sys; from ingestd_plugins.torch import register_engines; (engine,) = register_engines(); "
        f"engine.tokenizer({DEFAULT_MODEL!r}); print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
