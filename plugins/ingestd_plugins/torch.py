"""The torch engine: sentence-transformers models on CUDA devices, or on a CPU with one thread per process."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ingestd.errors import ModelError
from ingestd.hookspecs import hookimpl
from ingestd.models import FastTokenizer, Settings, resolve, verify
from ingestd.types import Engine, Tokens

if TYPE_CHECKING:  # torch takes seconds to import, and load workers only want the tokeniser
    import torch

ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Device files without at least one of which torch cannot find a CUDA device."""
DTYPES = ("auto", "float32", "bfloat16", "float16")


class Model(Protocol):
    """What computes: `bert.PackedModel` or `reference.ReferenceModel`."""

    name: str
    dims: int
    vocabulary: int
    longest: int
    dtype: torch.dtype

    def __call__(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> torch.Tensor: ...


class TorchEngine:
    """`types.Engine` with torch.

    BERT and RoBERTa families are computed packed, without padding; every other model goes through
    sentence-transformers itself. Code that comes with a model is never run.
    """

    name = "torch"

    def tokenizer(self, model: str) -> FastTokenizer:
        return FastTokenizer(resolve(model))

    def devices(self) -> list[str]:
        """Every CUDA device. Does not import torch where there cannot be any."""
        if not any(Path(path).exists() for path in ACCELERATORS):
            return []
        import torch

        return [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []

    def load(self, model: str, device: str, options: Mapping[str, Any]) -> None:
        import torch

        self._settings = Settings.read(resolve(model))
        if any(module.settings.get("include_prompt") is False for module in self._settings.modules):
            raise ModelError(f"the model {model!r} leaves its prompt out of pooling, which the torch engine cannot do")
        try:
            self._device = torch.device(device)
            torch.empty(0, device=self._device)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            cause = (str(error).splitlines() or ["torch does not know it"])[0]
            raise ModelError(f"cannot use the device {device!r}: {cause}") from None
        torch.set_num_threads(1)
        if self._device.type == "cpu":
            _keep_freed_memory()
        else:  # else pinned memory and synchronising would also open the first device
            torch.cuda.set_device(self._device)
            if reserved := int(options.get("reserved", 0)):
                whole = torch.cuda.get_device_properties(self._device).total_memory
                torch.cuda.set_per_process_memory_fraction(share(reserved, whole), self._device)
        normalize = options.get("normalize")
        self._normalize = self._settings.normalize if normalize is None else bool(normalize)
        verify(self._settings.directory)
        self._build(_dtype(options.get("dtype", "auto"), self._device))

    def _build(self, dtype: torch.dtype) -> None:
        from ingestd_plugins.bert import PackedModel, obstacle

        with _memory_errors():
            if obstacle(self._settings) is None:
                self._model: Model = PackedModel(self._settings, self._device, dtype)
            else:
                from ingestd_plugins.reference import ReferenceModel

                config = self._settings.config
                if config.get("auto_map") and config.get("model_type") in ("bert", "roberta", "xlm-roberta"):
                    # transformers would take its own class of that type instead, with wrong results
                    raise ModelError(f"the model {self._settings.directory} needs code of its own, which is never run")
                self._model = ReferenceModel(self._settings, self._device, dtype)

    def describe(self) -> Mapping[str, Any]:
        """After `load`; beside the usual `forward`: "packed" or "sentence-transformers"."""
        return {
            "dims": self._dims,
            "pooling": "+".join(self._settings.pooling) or "own",
            "normalize": self._normalize,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "query_prompt": self._settings.query_prompt,
            "passage_prompt": self._settings.passage_prompt,
            "forward": self._model.name,
        }

    @property
    def _dims(self) -> int:
        return min(self._model.dims, self._settings.truncate_dim or self._model.dims)

    def encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Shape (len(tokens), dims), in the order given.

        `ValueError` for ids or lengths that the model does not have, `MemoryError` where the batch is too big for the
        device, `FloatingPointError` where the model makes no finite numbers of a text.
        """
        result = np.empty((len(tokens), self._dims), np.float32)
        if not len(tokens):
            return result
        lengths = self._check(tokens)
        # packed attention takes runs of equally long texts, the padded one texts of similar length
        order = np.argsort(lengths, kind="stable")
        offsets = tokens.offsets
        ids = np.concatenate([tokens.ids[offsets[i] : offsets[i + 1]] for i in order])
        result[order] = self._compute(ids, lengths[order])
        return result

    def _check(self, tokens: Tokens) -> npt.NDArray[np.int64]:
        """The lengths. An id out of range would end a CUDA context, and with it the process."""
        lengths = np.diff(tokens.offsets)
        if tokens.offsets[0] != 0 or tokens.offsets[-1] != len(tokens.ids):
            raise ValueError(f"offsets from {tokens.offsets[0]} to {tokens.offsets[-1]} for {len(tokens.ids)} ids")
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > self._model.longest:
            wrong = shortest if shortest < 1 else longest
            raise ValueError(f"a text of {wrong} tokens: the model takes 1 to {self._model.longest}")
        low, high = int(tokens.ids.min()), int(tokens.ids.max())
        if low < 0 or high >= self._model.vocabulary:
            wrong = low if low < 0 else high
            raise ValueError(f"token id {wrong}: the model has 0 to {self._model.vocabulary - 1}")
        return lengths

    def _compute(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode(), _memory_errors():
            vectors = self._model(ids, lengths)[:, : self._dims]
            if self._normalize:
                vectors = torch.nn.functional.normalize(vectors)
            array: npt.NDArray[np.float32] = vectors.cpu().numpy()
        if np.isfinite(array).all():
            return array
        if self._model.dtype is torch.float16:  # activations beyond 65,504: from now on with a wider exponent
            self._build(_wider(self._device))
            return self._compute(ids, lengths)
        raise FloatingPointError("the model makes no finite numbers of these texts")


def share(reserved: int, whole: int) -> float:
    """Of a device's memory, less what is for others; at least a tenth, with which the batches are small."""
    return max(0.1, 1 - reserved / whole)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    """What `name` means on this device; "auto" is the fastest that the device computes natively."""
    import torch

    if name not in DTYPES:
        raise ModelError(f"unknown dtype {name!r}: one of {', '.join(DTYPES)}")
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.float16
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native else torch.float32


def _wider(device: torch.device) -> torch.dtype:
    import torch

    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if native else torch.float32


@contextlib.contextmanager
def _memory_errors() -> Iterator[None]:
    """`MemoryError` for torch's own ways to say it."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        raise MemoryError(str(error)) from None
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise MemoryError(str(error)) from None
        raise


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks: else each big intermediate result is mapped and faulted in anew."""
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError, OSError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 1 << 30)


@hookimpl
def register_engines() -> list[Engine]:
    return [TorchEngine()]
