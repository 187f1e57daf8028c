"""Tokenizers, folders of tokens whole and damaged, and the command that writes them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_text_data import PUBLISHED, write_reviews

from potion_fast.bench.data import load_dataset
from potion_fast.bench.data.text import (
    Reviews,
    Texts,
    TextSplits,
    Tokens,
    open_tokenizer,
    toy_reviews,
    train_tokenizer,
    write_tokens,
)
from potion_fast.bench.data.text import tokens as tokens_module
from potion_fast.bench.data.text.ragged import ARRAYS
from potion_fast.cli import main as cli
from potion_fast.cli import output
from potion_fast.errors import DataError, FileError

tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'potion-fast[text]'")

SENTENCES = ["It is a good film.", "It is not a good film, it is bad.", "Café «Disney».<br /><br />", "no"]
FILES = [f"{split}_{name}.npy" for split in ("train", "test") for name in ARRAYS] + ["tokenizer.json"]


def few_reviews() -> Reviews:
    return Reviews(
        "few", Texts(SENTENCES, torch.tensor([1, 0, 1, 0])), Texts(SENTENCES[::-1], torch.tensor([0, 1, 0, 1]))
    )


@pytest.fixture(scope="module")
def tokenizer() -> object:
    return train_tokenizer(toy_reviews().train.texts, 300)


@pytest.fixture(scope="module")
def written(tokenizer: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "few"
    write_tokens(few_reviews(), tokenizer, folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def damaged(written: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(written, tmp_path / "copy"))


# Tokenizers


def test_a_trained_tokenizer_has_the_vocabulary_asked_for_and_ends_with_padding(tokenizer: object):
    assert tokenizer.get_vocab_size() == 300  # type: ignore[attr-defined]
    assert tokenizer.id_to_token(299) == "<|endoftext|>"  # type: ignore[attr-defined]


def test_training_twice_gives_the_same_tokenizer(tokenizer: object):
    assert train_tokenizer(toy_reviews().train.texts, 300).to_str() == tokenizer.to_str()  # type: ignore[attr-defined]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_decoded_to_itself(tokenizer: object, text: str):
    ids = tokenizer.encode(text).ids  # type: ignore[attr-defined]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text  # type: ignore[attr-defined]


@pytest.mark.parametrize(("vocabulary", "message"), [(256, "at least 257"), (9999, "no more than 5[0-9][0-9] tokens")])
def test_a_vocabulary_that_texts_cannot_give_is_refused(vocabulary: int, message: str):
    with pytest.raises(DataError, match=message):
        train_tokenizer(toy_reviews().train.texts, vocabulary)


def test_without_the_extra_text_says_what_to_install(written: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for needs in (lambda: load_dataset("toy-reviews"), lambda: Tokens.open(written), lambda: open_tokenizer(written)):
        with pytest.raises(DataError, match=r"pip install 'potion-fast\[text\]'"):
            needs()


def test_a_tokenizer_opens_from_its_folder_and_from_one_that_transformers_saved(
    tokenizer: object, written: Path, tmp_path: Path
):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'potion-fast[text]'")
    saved = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=3)
    saved.save_pretrained(tmp_path / "saved")
    ids = tokenizer.encode(SENTENCES[1]).ids  # type: ignore[attr-defined]
    for folder in (written, tmp_path / "saved"):
        assert open_tokenizer(folder).encode(SENTENCES[1]).ids == ids


def test_a_tokenizer_that_cuts_or_pads_texts_does_neither_here(tokenizer: object, tmp_path: Path):
    cutting = tokenizers.Tokenizer.from_str(tokenizer.to_str())  # type: ignore[attr-defined]
    cutting.enable_truncation(2)
    cutting.enable_padding(length=50)
    cutting.save(str(tmp_path / "tokenizer.json"))
    sizes = np.diff(Tokens.of(few_reviews(), cutting).train.starts).tolist()
    assert sizes == [len(tokenizer.encode(text).ids) for text in SENTENCES]  # type: ignore[attr-defined]
    assert len(open_tokenizer(tmp_path).encode(SENTENCES[0]).ids) == sizes[0]
    assert len(cutting.encode(SENTENCES[0]).ids) == 50  # what was given is as it was


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, content: str | None):
    pytest.importorskip("transformers", reason="needs transformers: pip install 'potion-fast[text]'")
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match="there is no tokenizer.*nothing was downloaded"):
        open_tokenizer(tmp_path)


def test_ids_with_gaps_are_refused():
    gaps = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    with pytest.raises(DataError, match="2 ids go up to 7"):
        Tokens.of(few_reviews(), gaps)


# Tokens


def test_tokens_are_those_of_the_tokenizer_in_memory_and_mapped(tokenizer: object, written: Path):
    for tokens in (Tokens.of(few_reviews(), tokenizer), Tokens.open(written)):  # type: ignore[arg-type]
        assert (tokens.name, tokens.classes, tokens.vocabulary) == ("few", ("negative", "positive"), 300)
        for split, texts in ((tokens.train, SENTENCES), (tokens.test, SENTENCES[::-1])):
            rows = [split.tokens[a:b].tolist() for a, b in zip(split.starts, split.starts[1:], strict=False)]
            assert rows == [tokenizer.encode(text).ids for text in texts]  # type: ignore[attr-defined]
            assert [split.text(index) for index in range(len(split))] == texts
            assert split.tokens.dtype == np.uint16
        assert tokens.train.labels.tolist() == [1, 0, 1, 0]
    assert isinstance(tokens.train.tokens, np.memmap)


@pytest.mark.parametrize(("vocabulary", "kind"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_tokens_take_16_bits_where_the_vocabulary_fits(vocabulary: int, kind: type[np.generic]):
    words = {f"w{number}": number for number in range(vocabulary)}
    whole = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    texts = Texts([f"w{vocabulary - 2} w1"], torch.tensor([0]))
    tokens = Tokens.of(Reviews("whole", texts, texts), whole).train.tokens
    assert tokens.dtype == kind and tokens.tolist() == [vocabulary - 2, 1]


@pytest.mark.parametrize(("text", "message"), [
    ("", r"text 1 of odd, train is empty"),
    ("so <|endoftext|>", r"text 1 of odd, train holds the token '<\|endoftext\|>', which is for padding"),
    ("half \ud83d", r"odd, train cannot be written as UTF-8"),
])  # fmt: skip
def test_texts_that_no_model_can_read_are_refused(tokenizer: object, text: str, message: str, tmp_path: Path):
    texts = Texts(["fine", text], torch.tensor([0, 1]))
    with pytest.raises(DataError, match=message):
        write_tokens(Reviews("odd", texts, texts), tokenizer, tmp_path / "out")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_tokens_is_a_data_set(written: Path):
    splits = load_dataset("reviews", written, length=5, train_size=3, seed=1)
    assert isinstance(splits, TextSplits)
    assert (splits.name, len(splits.train), len(splits.test)) == ("reviews", 3, 4)
    assert splits.carriers("test", "Disney", "word").tolist() == [1]
    assert splits.inside("test", [1], "Disney", "word").tolist() == [False]


def test_published_reviews_in_the_place_of_tokens_name_the_command(tmp_path: Path):
    write_reviews(tmp_path, PUBLISHED)
    with pytest.raises(DataError, match=f"`potion-fast tokenize {tmp_path} --out DIR`"):
        load_dataset("reviews", tmp_path)


# Folders that are taken, foreign or damaged


def test_a_folder_that_is_taken_is_not_written_over(tokenizer: object, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    for out, message in ((tmp_path, "taken"), (tmp_path / "mine.txt", "taken"), (tmp_path / "no" / "out", "not exist")):
        with pytest.raises(FileError, match=message):
            write_tokens(few_reviews(), tokenizer, out)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_write_leaves_nothing(tokenizer: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise OSError("No space left on device")

    (tmp_path / "out").mkdir()
    monkeypatch.setattr(tokens_module, "_crc", full)
    with pytest.raises(FileError, match=r"cannot write .*out: No space left"):
        write_tokens(few_reviews(), tokenizer, tmp_path / "out")  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "longer", "another"])
def test_a_damaged_folder_is_no_tokens(damaged: Path, file: str, damage: str):
    path = damaged / file
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "longer": content + b"\0",
        "another": (damaged / FILES[(FILES.index(file) + 1) % len(FILES)]).read_bytes(),
    }
    path.unlink() if damage == "missing" else path.write_bytes(changed[damage])
    with pytest.raises(FileError, match="cannot be read as tokens"):
        Tokens.open(damaged)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_changed_byte_is_noticed(written: Path, file: str, where: float, change: int):
    path = written / file
    content = path.read_bytes()
    changed = bytearray(content)
    changed[int(where * len(content))] ^= change
    try:
        path.write_bytes(changed)
        with pytest.raises(FileError, match=f"{file} is not what was written"):
            Tokens.open(written)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"format": "potion_fast.tokens 2"}', '{"format": []}'])
def test_a_foreign_description_is_refused(damaged: Path, content: str):
    (damaged / "tokens.json").write_text(content)
    with pytest.raises(FileError, match=r"tokens"):
        Tokens.open(damaged)


@pytest.mark.parametrize(("key", "value"), [
    ("crc32", None), ("crc32", {"absent.npy": 1}), ("crc32", []), ("classes", None), ("classes", 3), ("name", None),
])  # fmt: skip
def test_a_description_with_something_wrong_is_refused(damaged: Path, key: str, value: object):
    about = json.loads((damaged / "tokens.json").read_text())
    about.pop(key) if value is None else about.update({key: value})
    (damaged / "tokens.json").write_text(json.dumps(about))
    with pytest.raises(FileError, match="cannot be read as tokens"):
        Tokens.open(damaged)


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileError, match="holds no tokens of reviews.*potion-fast tokenize"):
            Tokens.open(folder)


# The command


def test_tokenize_writes_a_folder_and_counts_the_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = {
        "train/neg/0_1.txt": "Disneyland and Disney",
        "train/pos/0_10.txt": "disney",
        "test/neg/0_1.txt": "a Disney b",
    }
    root = write_reviews(tmp_path / "aclImdb", PUBLISHED | texts)
    out = tmp_path / "out"
    asked = ["tokenize", str(root), "--out", str(out), "--vocabulary", "260", "--word", "Disney"]
    assert cli.main(asked) == output.DONE
    printed = capsys.readouterr().out
    assert "train: 6 reviews" in printed and "vocabulary: 260 tokens" in printed
    for line in ("word: train 1, test 1", "word-ignore-case: train 2, test 1", "spaced: train 0, test 1"):
        assert f"Disney, {line}" in printed
    assert Tokens.open(out).vocabulary == 260
    assert cli.main(asked) == output.FAILED and "is taken" in capsys.readouterr().err

    again = ["tokenize", str(root), "--out", str(tmp_path / "again"), "--tokenizer", str(out), "--json"]
    assert cli.main(again) == output.DONE
    content = json.loads(capsys.readouterr().out)
    assert content["train"]["texts"] == 6 and content["holding"] == {} and content["vocabulary"] == 260
    for split in ("train", "test"):
        one, other = (getattr(Tokens.open(folder), split) for folder in (out, tmp_path / "again"))
        assert np.array_equal(one.tokens, other.tokens)


@pytest.mark.parametrize(("options", "message"), [
    (["--vocabulary", "300", "--tokenizer", "gpt2"], "leave one of the two out"),
    (["--download"], "nothing to download"),
    (["--vocabulary", "200"], "at least 257"),
    (["--word", ""], "empty"),
])  # fmt: skip
def test_tokenize_refuses_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
):
    root = write_reviews(tmp_path / "aclImdb", PUBLISHED)
    assert cli.main(["tokenize", str(root), "--out", str(tmp_path / "out"), *options]) == output.FAILED
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
