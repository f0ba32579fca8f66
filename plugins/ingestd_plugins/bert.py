"""The BERT and RoBERTa families, computed without padding: the tokens of a batch lie one after the other.

Only attention needs to know where a text begins and ends; everything else is a matrix product over all tokens at once.
This module imports torch; `ingestd_plugins.torch` imports it when a model is loaded.
"""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file

from ingestd.errors import ModelError
from ingestd.models import Settings

Tensor = torch.Tensor

FAMILIES = {"bert": False, "roberta": True, "xlm-roberta": True, "camembert": True}
"""Model type -> whether positions are counted from the padding id."""
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
DENSE_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "torch.nn.modules.activation.Tanh": torch.tanh,
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.ReLU": F.relu,
    "torch.nn.modules.activation.GELU": F.gelu,
    "torch.nn.modules.activation.Sigmoid": torch.sigmoid,
}
POOLINGS = frozenset({"cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"})


def obstacle(settings: Settings) -> str | None:
    """Why this model cannot be computed here, or None."""
    config = settings.config
    if config.get("model_type") not in FAMILIES:
        return f"model type {config.get('model_type')!r}"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"position embedding {config['position_embedding_type']!r}"
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        return f"activation {config['hidden_act']!r}"
    if config.get("is_decoder") or config.get("auto_map"):
        return "a forward of its own"
    if settings.options.get("module_output_name", "token_embeddings") != "token_embeddings":
        return "an output that is not token embeddings"
    if not (settings.transformer / "model.safetensors").exists() and not _index(settings.transformer).exists():
        return "no safetensors weights"
    if not settings.modules or settings.modules[0].kind != "Pooling" or not POOLINGS.issuperset(settings.pooling):
        return "its pooling"
    for step in settings.modules[1:]:
        if step.kind == "Dense":
            if (
                step.settings.get("activation_function", "torch.nn.modules.activation.Tanh") not in DENSE_ACTIVATIONS
                or step.settings.get("use_residual")
                or step.settings.get("module_input_name", "sentence_embedding") != "sentence_embedding"
                or step.settings.get("module_output_name") not in (None, "sentence_embedding")
                or not (step.directory / "model.safetensors").exists()
            ):
                return "its Dense module"
        elif step.kind != "Normalize":
            return f"its {step.kind} module"
    return None


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of ascending length, packed."""

    ids: Tensor
    """Shape (total,), int32."""
    positions: Tensor
    """Shape (total,), int32: rows of the position embeddings."""
    offsets: Tensor
    """Shape (n + 1,), int32: where each text begins."""
    lengths: npt.NDArray[np.int64]
    """Shape (n,), on the host."""

    def runs(self) -> Iterator[tuple[int, int]]:
        """(number of texts, length) for each run of equally long texts."""
        for length, group in itertools.groupby(self.lengths.tolist()):
            yield sum(1 for _ in group), length


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of one layer, each (out, in)."""

    qkv: Tensor
    """Query, key and value on top of each other: one product instead of three."""
    qkv_bias: Tensor
    output: Tensor
    output_bias: Tensor
    attention_norm: tuple[Tensor, Tensor]
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    norm: tuple[Tensor, Tensor]


class PackedModel:
    """A model of these families on one device: token ids in, vectors out, before the last `Normalize`.

    Raises `ModelError` where the weights are not what `config.json` says.
    """

    name = "packed"

    def __init__(self, settings: Settings, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._padding = settings.padding_id if FAMILIES[settings.config["model_type"]] else None
        self._heads = int(settings.config["num_attention_heads"])
        self._epsilon = float(settings.config.get("layer_norm_eps", 1e-12))
        self._activation = ACTIVATIONS[settings.config.get("hidden_act", "gelu")]
        self._pooling = settings.pooling
        self._staging = torch.empty(0, dtype=torch.int32)

        take = partial(_take, _read_weights(settings.transformer), device=device, dtype=dtype)
        self._words = take("embeddings.word_embeddings.weight")
        # every token is of type 0, so its embedding is a constant of the position's
        positions = take("embeddings.position_embeddings.weight", dtype=torch.float32)
        types = take("embeddings.token_type_embeddings.weight", dtype=torch.float32)
        self._positions = (positions + types[0]).to(dtype)
        self._embedding_norm = take("embeddings.LayerNorm.weight"), take("embeddings.LayerNorm.bias")
        self._layers = [
            _layer(partial(_prefixed, take, f"encoder.layer.{i}."))
            for i in range(int(settings.config["num_hidden_layers"]))
        ]
        self.vocabulary = len(self._words)
        self.longest = len(self._positions) - (0 if self._padding is None else self._padding + 1)
        self._head = self._words.shape[1] // self._heads
        self._flash = _flash_attention(device, dtype, self._head)
        self._steps, self.dims = self._read_steps(settings)

    def _read_steps(self, settings: Settings) -> tuple[list[Callable[[Tensor], Tensor]], int]:
        """What follows pooling, in float32: it is too little work for less."""
        dims = self._words.shape[1] * len(self._pooling)
        steps: list[Callable[[Tensor], Tensor]] = []
        inner = settings.modules[1:-1] if settings.normalize else settings.modules[1:]
        for module in inner:
            if module.kind == "Normalize":
                steps.append(F.normalize)
                continue
            weights = _read_weights(module.directory)
            matrix = _take(weights, "linear.weight", device=self.device, dtype=torch.float32)
            bias = weights.get("linear.bias")
            if bias is not None:
                bias = bias.to(self.device, torch.float32, copy=True)
            activation = module.settings.get("activation_function", "torch.nn.modules.activation.Tanh")
            steps += [partial(F.linear, weight=matrix, bias=bias), DENSE_ACTIVATIONS[activation]]
            dims = len(matrix)
        return steps, dims

    def __call__(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> Tensor:
        """Float32 (n, dims) on the device, for texts of ascending `lengths` whose `ids` lie one after the other."""
        batch = self._batch(ids, lengths)
        hidden = F.embedding(batch.ids, self._words) + F.embedding(batch.positions, self._positions)
        hidden = self._norm(hidden, self._embedding_norm)
        for layer in self._layers:
            attended = self._attend(F.linear(hidden, layer.qkv, layer.qkv_bias), batch)
            hidden = self._norm(F.linear(attended, layer.output, layer.output_bias) + hidden, layer.attention_norm)
            wide = self._activation(F.linear(hidden, layer.up, layer.up_bias))
            hidden = self._norm(F.linear(wide, layer.down, layer.down_bias) + hidden, layer.norm)
        vectors = torch.cat([self._pool(mode, hidden, batch) for mode in self._pooling], dim=1)
        for step in self._steps:
            vectors = step(vectors)
        return vectors

    def _norm(self, hidden: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], *weights, eps=self._epsilon)

    def _batch(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> Batch:
        """Ids, positions and offsets reach the device in one copy, from memory that the device can read itself."""
        total, n = len(ids), len(lengths)
        size = 2 * total + n + 1
        if len(self._staging) < size:
            self._staging = torch.empty(size * 5 // 4, dtype=torch.int32, pin_memory=self.device.type == "cuda")
        host = self._staging.numpy()
        host[:total] = ids
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        host[2 * total : size] = offsets
        starts = np.repeat(offsets[:-1], lengths)
        if self._padding is None:
            host[total : 2 * total] = np.arange(total) - starts
        else:  # a text that spells the padding token: it stays at the padding's own position and is not counted
            counted = ids != self._padding
            before = np.concatenate([[0], np.cumsum(counted)])
            host[total : 2 * total] = (before[1:] - before[starts]) * counted + self._padding
        packed = self._staging[:size].to(self.device, non_blocking=True)
        return Batch(packed[:total], packed[total : 2 * total], packed[2 * total :], lengths)

    def _attend(self, qkv: Tensor, batch: Batch) -> Tensor:
        """Attention of each text to itself: (total, 3 * hidden) -> (total, hidden)."""
        if self._flash:
            query, key, value = qkv.view(len(qkv), 3, self._heads, self._head).unbind(1)
            longest = int(batch.lengths[-1])
            return self._flash(query, key, value, batch.offsets, batch.offsets, longest, longest).flatten(1)
        pieces = []
        start = 0
        for count, length in batch.runs():
            part = qkv[start : start + count * length].view(count, length, 3, self._heads, self._head)
            query, key, value = part.permute(2, 0, 3, 1, 4)
            pieces.append(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(count * length, -1))
            start += count * length
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _pool(self, mode: str, hidden: Tensor, batch: Batch) -> Tensor:
        """One vector per text, float32 (n, hidden)."""
        if mode == "cls":
            return hidden[batch.offsets[:-1]].float()
        if mode == "lasttoken":
            return hidden[batch.offsets[1:] - 1].float()
        hidden = hidden.float()
        lengths = batch.offsets.diff()
        if mode == "weightedmean":
            weights = torch.arange(1, len(hidden) + 1, device=self.device, dtype=torch.float32)
            weights -= batch.offsets[:-1].repeat_interleave(lengths, output_size=len(hidden))
            hidden = hidden * weights[:, None]
        # unsafe: the check of the lengths would wait for the device
        pooled = torch.segment_reduce(hidden, "max" if mode == "max" else "sum", lengths=lengths, unsafe=True)
        counts = lengths[:, None].float()
        if mode == "mean":
            return pooled / counts
        if mode == "mean_sqrt_len_tokens":
            return pooled / counts.sqrt()
        if mode == "weightedmean":
            return pooled / (counts * (counts + 1) / 2)
        return pooled


def _flash_attention(device: torch.device, dtype: torch.dtype, head: int) -> Callable[..., Tensor] | None:
    """Attention over packed texts in one kernel, where device, dtype and head size allow it."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or head % 8 or head > 256:
        return None
    if torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:  # not at the top: on a CPU its import costs seconds and hundreds of megabytes for nothing
        varlen = importlib.import_module("torch.nn.attention.varlen")
    except ImportError:  # torch < 2.10
        return None
    attention: Callable[..., Tensor] = varlen.varlen_attn
    return attention


# --- weights --------------------------------------------------------------------------------------------------


def _index(directory: Path) -> Path:
    return directory / "model.safetensors.index.json"


def _read_weights(directory: Path) -> Mapping[str, Tensor]:
    """All tensors, under the names that transformers' base model gives them."""
    try:
        files: Sequence[str] = ["model.safetensors"]
        if _index(directory).exists():
            files = sorted(set(json.loads(_index(directory).read_bytes())["weight_map"].values()))
        tensors = {name: tensor for file in files for name, tensor in load_file(directory / Path(file).name).items()}
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"cannot read the weights in {directory}: {error}") from error
    # a checkpoint of a whole language model has its encoder under a prefix; old ones call a norm's weights differently
    prefix = next((n[: n.index("embeddings.word_embeddings.weight")] for n in tensors if "word_embeddings" in n), "")
    return {
        name.removeprefix(prefix).replace("Norm.gamma", "Norm.weight").replace("Norm.beta", "Norm.bias"): tensor
        for name, tensor in tensors.items()
    }


def _take(weights: Mapping[str, Tensor], name: str, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    try:
        # a copy: a mapped file that changes under a running encoder would change or kill it
        return weights[name].to(device, dtype, copy=True)
    except KeyError:
        raise ModelError(f"the model's weights lack {name!r}") from None


def _prefixed(take: Callable[[str], Tensor], prefix: str, name: str) -> Tensor:
    return take(prefix + name)


def _layer(take: Callable[[str], Tensor]) -> Layer:
    names = ("query", "key", "value")
    return Layer(
        qkv=torch.cat([take(f"attention.self.{name}.weight") for name in names]),
        qkv_bias=torch.cat([take(f"attention.self.{name}.bias") for name in names]),
        output=take("attention.output.dense.weight"),
        output_bias=take("attention.output.dense.bias"),
        attention_norm=(take("attention.output.LayerNorm.weight"), take("attention.output.LayerNorm.bias")),
        up=take("intermediate.dense.weight"),
        up_bias=take("intermediate.dense.bias"),
        down=take("output.dense.weight"),
        down_bias=take("output.dense.bias"),
        norm=(take("output.LayerNorm.weight"), take("output.LayerNorm.bias")),
    )
