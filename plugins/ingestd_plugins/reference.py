"""Any model that sentence-transformers can run, through sentence-transformers: padded, slower, and right.

This module imports torch; `ingestd_plugins.torch` imports it when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ingestd.errors import ModelError
from ingestd.models import Settings

WASTE = 1.2
"""Texts share a padded batch while it is at most this many times their own tokens."""


class ReferenceModel:
    """A model on one device: token ids in, vectors out, before the last `Normalize`.

    Raises `ModelError` where sentence-transformers cannot load it. Code that comes with a model is never run.
    """

    name = "sentence-transformers"

    def __init__(self, settings: Settings, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        try:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            model = SentenceTransformer(str(settings.directory), device=str(device), local_files_only=True).to(dtype)
            model.eval()
            embeddings: Any = model.transformers_model.get_input_embeddings()  # type: ignore[union-attr]
            self.vocabulary = int(embeddings.num_embeddings)
        except Exception as error:  # whatever a model's files can provoke
            cause = str(error).strip() or type(error).__name__
            raise ModelError(f"sentence-transformers cannot load the model {settings.directory}: {cause}") from error
        modules = list(model)
        self._modules = modules[:-1] if settings.normalize else modules
        padding = model.tokenizer.pad_token_id
        self._padding = 0 if padding is None else int(padding)
        self._types = "token_type_ids" in model.tokenizer.model_input_names
        self.longest = settings.max_tokens
        with torch.inference_mode():
            self.dims = self(np.full(1, self._padding, np.int32), np.ones(1, np.int64)).shape[1]

    def __call__(self, ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64]) -> torch.Tensor:
        """Float32 (n, dims) on the device, for texts of ascending `lengths` whose `ids` lie one after the other."""
        starts = np.cumsum(lengths) - lengths
        return torch.cat([self._padded(ids, starts[part], lengths[part]) for part in _parts(lengths)])

    def _padded(
        self, ids: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> torch.Tensor:
        columns = np.arange(lengths[-1])
        mask = columns < lengths[:, None]
        filled = np.full(mask.shape, self._padding, np.int64)
        filled[mask] = ids[starts[0] : starts[-1] + lengths[-1]]
        features = {
            "input_ids": torch.from_numpy(filled).to(self.device),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(self.device),
        }
        if self._types:
            features["token_type_ids"] = torch.zeros_like(features["input_ids"])
        for module in self._modules:
            features = module(features)
        return features["sentence_embedding"].float()


def _parts(lengths: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive texts of similar length."""
    start = tokens = 0
    for stop, length in enumerate(lengths.tolist()):
        if stop > start and length * (stop - start + 1) > WASTE * (tokens + length):
            yield slice(start, stop)
            start, tokens = stop, 0
        tokens += length
    yield slice(start, len(lengths))
