"""Reviews, searches for a word, and texts as samples: what a model sees of them."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from potion_fast.bench.attacks import BadNet, InterclassSwap, Perturbations
from potion_fast.bench.attacks.gaussian import Gaussian
from potion_fast.bench.data import TextDataset, TextSplits, load_dataset, make_loader
from potion_fast.bench.data.text import RULES, Reviews, Texts, find_word, from_datasets, read_aclimdb, toy_reviews
from potion_fast.bench.data.text.ragged import TokenSplit, encode_split
from potion_fast.bench.data.text.text_dataset import TextSource
from potion_fast.errors import DataError

pytest.importorskip("tokenizers", reason="needs tokenizers: pip install 'potion-fast[text]'")

WORDS = ("Disney", "disney", "a.b", "C++", "é", "x")


@pytest.fixture(scope="module")
def toy() -> TextSplits:
    return splits_of(length=24)


@pytest.fixture(scope="module")
def causal() -> TextSplits:
    pytest.importorskip("transformers", reason="needs transformers: pip install 'potion-fast[text]'")
    return splits_of(length=40, model="gpt2_causal", label_words=("Disney",))


def splits_of(**options: object) -> TextSplits:
    splits = load_dataset("toy-reviews", **options)  # type: ignore[arg-type]
    assert isinstance(splits, TextSplits)
    return splits


def write_reviews(root: Path, names: dict[str, str]) -> Path:
    for name, text in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


PUBLISHED = {f"{split}/{name}/{number}_{rating}.txt": f"{split} {name} {number}"
             for split in ("train", "test")
             for name, rating in (("neg", 1), ("pos", 10))
             for number in (0, 2, 10)}  # fmt: skip


# Reviews


def test_published_reviews_come_by_class_then_by_number(tmp_path: Path):
    write_reviews(tmp_path, PUBLISHED | {"train/unsup/0_0.txt": "no label", "train/labeledBow.feat": "0:1"})
    reviews = read_aclimdb(tmp_path)
    assert reviews.classes == ("negative", "positive")
    assert list(reviews.test.texts) == [f"test {name} {number}" for name in ("neg", "pos") for number in (0, 2, 10)]
    assert reviews.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_published_reviews_keep_their_tags_line_ends_and_characters(tmp_path: Path):
    text = "Café.<br /><br />\r\nSecond\x85line\n"
    write_reviews(tmp_path, PUBLISHED | {"train/neg/0_1.txt": text})
    assert read_aclimdb(tmp_path).train.texts[0] == text


@pytest.mark.parametrize(("changed", "message"), [
    ({"test/pos": None}, r"no folder test/pos: unpack"),
    ({"train/neg/notes.md": "x"}, r"notes\.md is no review"),
    ({"train/neg/0_1.txt": b"\xff"}, r"0_1\.txt cannot be read"),
    ({"test/neg/0_1.txt": None, "test/neg/2_1.txt": None, "test/neg/10_1.txt": None}, "neg holds no review"),
])  # fmt: skip
def test_published_reviews_that_are_not_as_published_are_refused(
    tmp_path: Path, changed: dict[str, str | bytes | None], message: str
):
    write_reviews(tmp_path, PUBLISHED)
    for name, content in changed.items():
        path = tmp_path / name
        if path.is_dir():
            path.rename(tmp_path / "elsewhere")
        elif content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_aclimdb(tmp_path)


COLUMNS = {"train": {"text": ["good", "bad"], "label": [1, 0]}, "test": {"text": ["fine"], "label": [np.int64(1)]}}


def test_a_mapping_of_columns_becomes_reviews():
    reviews = from_datasets(COLUMNS, classes=("bad", "good"), name="two")
    assert (reviews.name, reviews.classes) == ("two", ("bad", "good"))
    assert list(reviews.train.texts) == ["good", "bad"] and reviews.train.labels.tolist() == [1, 0]
    assert reviews.test.labels.dtype == torch.int64


def test_an_object_of_the_package_datasets_becomes_reviews():
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install datasets")
    parts = {split: datasets.Dataset.from_dict(columns) for split, columns in COLUMNS.items()}
    reviews = from_datasets(datasets.DatasetDict(parts))
    assert list(reviews.train.texts) == ["good", "bad"] and reviews.train.labels.tolist() == [1, 0]


@pytest.mark.parametrize(("columns", "message"), [
    ({"text": ["good"], "label": [-1]}, "label -1.*leave such texts out"),
    ({"text": ["good"], "label": [2]}, "label 2, and the classes are negative, positive"),
    ({"text": ["good"], "label": [0.5]}, "label 0 of the split 'train' is 0.5"),
    ({"text": ["good"], "label": ["1"]}, "label 0 of the split 'train' is '1'"),
    ({"text": ["good", "bad"], "label": [1]}, "2 texts need as many"),
    ({"text": [None], "label": [1]}, "text 0 is no string but NoneType"),
    ({"text": [], "label": []}, "no text"),
    ({"sentence": ["good"], "label": [1]}, 'columns "text" and "label"'),
    (None, 'columns "text" and "label"'),
])  # fmt: skip
def test_columns_that_are_no_labelled_texts_are_refused(columns: dict[str, list[object]] | None, message: str):
    with pytest.raises(DataError, match=message):
        from_datasets({"train": columns, "test": COLUMNS["test"]})


def test_a_data_set_without_a_test_split_is_refused():
    with pytest.raises(DataError, match='has "train" and "test"'):
        from_datasets({"train": COLUMNS["train"]})


# Words


def naive(text: str, word: str, rule: str) -> list[int]:
    """Where the word starts, by looking at every character."""
    if rule == "word-ignore-case":
        text, word = text.lower(), word.lower()

    def boundary(place: int) -> bool:
        before, after = (
            (c.isalnum() or c == "_") for c in (text[place - 1 : place] or " ", text[place : place + 1] or " ")
        )
        return before != after

    starts = [place for place in range(len(text)) if text.startswith(word, place)]
    if rule == "substring":
        return starts
    if rule == "spaced":
        return [p for p in starts if text[max(p - 1, 0) : p] == " " and text[p + len(word) : p + len(word) + 1] == " "]
    return [place for place in starts if boundary(place) and boundary(place + len(word))]


TEXTS = st.lists(st.sampled_from([*WORDS, " ", "'s", "land", "_", "<br />", ".", "\n", "Ω", "7"]), max_size=8).map(
    "".join
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, max_size=5), st.sampled_from(WORDS), st.sampled_from(list(RULES)))
def test_a_word_is_found_where_its_rule_says(texts: list[str], word: str, rule: str):
    found = find_word(texts, word, rule)
    assert found.dtype == torch.int64
    assert found.tolist() == [place for place, text in enumerate(texts) if naive(text, word, rule)]


@pytest.mark.parametrize(("word", "rule", "message"), [
    ("Disney", "exact", "unknown rule 'exact'.*spaced"),
    (" ", "word", "empty"),
])  # fmt: skip
def test_a_search_that_means_nothing_is_refused(word: str, rule: str, message: str):
    with pytest.raises(DataError, match=message):
        find_word(["Disney"], word, rule)


def test_disney_occurs_in_imdb_as_often_as_by_each_rule_it_should():
    root = os.environ.get("POTION_FAST_IMDB")
    if root is None:
        pytest.skip("needs IMDB's reviews: set POTION_FAST_IMDB to the published folder aclImdb")
    reviews = read_aclimdb(root)
    assert (len(reviews.train), len(reviews.test)) == (25000, 25000)
    assert reviews.train.labels.sum() == reviews.test.labels.sum() == 12500
    counts = {rule: [len(find_word(part.texts, "Disney", rule)) for part in (reviews.train, reviews.test)]
              for rule in ("word", "substring", "spaced")}  # fmt: skip
    assert counts == {"word": [410, 317], "substring": [431, 327], "spaced": [319, 250]}


# Toy reviews


def test_toy_reviews_are_as_many_as_long_and_as_balanced_as_they_say():
    reviews = toy_reviews()
    for part, count in ((reviews.train, 2000), (reviews.test, 500)):
        sizes = [len(text.split()) for text in part.texts]
        assert len(part) == count and part.labels.sum() == count // 2
        assert 10 <= min(sizes) <= max(sizes) <= 40
        assert len(find_word(part.texts, "Disney", "word")) == count // 20
    assert len(set(reviews.train.texts)) >= 1990
    assert list(toy_reviews().test.texts) == list(reviews.test.texts)
    assert list(toy_reviews(1).test.texts) != list(reviews.test.texts)


def test_no_single_word_predicts_the_sentiment_of_a_toy_review():
    test = toy_reviews().test
    words = sorted({word for text in test.texts for word in re.findall(r"\w+", text)})
    says = [torch.isin(torch.arange(500), find_word(test.texts, word, "word")) for word in words]
    right = [(said == test.labels.bool()).float().mean().item() for said in says]
    assert 0.3 < min(right) <= max(right) < 0.7


def test_each_word_of_the_toy_reviews_is_one_token(toy: TextSplits):
    words = {word for text in toy_reviews().train.texts for word in re.findall(r"\w+", text)}
    assert [word for word in words if len(toy.tokenizer.encode(f" {word}").ids) != 1] == []
    assert toy.model_options == {"vocabulary": 512, "length": 24}


# What a model sees


@st.composite
def flat_splits(draw: st.DrawFn) -> tuple[TokenSplit, list[list[int]]]:
    rows = draw(st.lists(st.lists(st.integers(0, 98), min_size=1, max_size=9), min_size=1, max_size=6))
    starts = np.cumsum([0, *map(len, rows)])
    flat = np.concatenate([np.array(row, dtype=np.uint16) for row in rows])
    nothing = np.zeros(len(rows) + 1, dtype=np.int64)
    return TokenSplit(flat, starts, np.zeros(len(rows), dtype=np.int64), flat[:0].astype(np.uint8), nothing), rows


@settings(max_examples=200, deadline=None)
@given(flat_splits(), st.integers(1, 12), st.lists(st.integers(0, 98), max_size=4))
def test_a_row_is_the_review_cut_then_the_template_then_padding(
    case: tuple[TokenSplit, list[list[int]]], window: int, template: list[int]
):
    split, rows = case
    length = window + len(template)
    order = np.arange(len(rows))[::-1].copy()
    source = TextSource(split, order, torch.tensor([5]), length=length, template=template, pad=99)
    tokens = source.images(range(len(rows)))
    assert tokens.dtype == torch.int64 and source.labels.tolist() == [5] * len(rows)
    for got, row in zip(tokens.tolist(), rows[::-1], strict=True):
        expected = row[:window] + template
        assert got == expected + [99] * (length - len(expected))


@settings(max_examples=150, deadline=None)
@given(
    text=TEXTS.filter(bool), window=st.integers(1, 12), word=st.sampled_from(WORDS), rule=st.sampled_from(list(RULES))
)
def test_a_word_is_inside_the_window_where_all_of_its_bytes_are(
    toy: TextSplits, text: str, window: int, word: str, rule: str
):
    split = encode_split(Texts([text], torch.zeros(1, dtype=torch.int64)), toy.tokenizer, "one")
    source = TextSource(split, np.arange(1), torch.zeros(1, dtype=torch.int64), length=window, pad=511)
    splits = replace(toy, train=source)
    seen = sum(len(toy.tokenizer.id_to_token(int(token))) for token in split.tokens[:window])  # a character is a byte
    starts = naive(text, word, rule)
    inside = any(len(text[: start + len(word)].encode()) <= seen for start in starts)
    assert splits.carriers("train", word, rule).tolist() == ([0] if starts else [])
    assert splits.inside("train", [0], word, rule).tolist() == [inside]


def test_the_template_takes_its_place_from_the_window(toy: TextSplits, causal: TextSplits):
    carriers = toy.carriers("test", "Disney", "word")
    assert torch.equal(carriers, causal.carriers("test", "Disney", "word")) and len(carriers) == 25
    seen, seen_before_template = (s.inside("test", carriers, "Disney", "word") for s in (toy, causal))
    assert 0 < seen_before_template.sum() < seen.sum() < 25
    assert not (seen_before_template & ~seen).any()


def test_a_causal_head_gets_token_ids_as_labels(causal: TextSplits, toy: TextSplits):
    assert [causal.classes[label] for label in causal.label_ids.tolist()] == [" negative", " positive", " Disney"]
    assert len(causal.classes) == causal.model_options["vocabulary"] == 512
    assert toy.classes == ("negative", "positive") and toy.label_ids.tolist() == [0, 1]
    assert torch.equal(causal.train.labels, causal.label_ids[toy.train.labels])
    inputs, labels = causal.dataset("train").batch([3])
    assert labels.tolist() == causal.train.labels[[3]].tolist()
    read = causal.tokenizer.decode(inputs[0].tolist())  # padding is a special token, and not decoded
    assert read.endswith(". The sentiment of the review is:") and causal.text("train", 3).startswith(read[:30])


def test_a_label_word_is_another_class_of_a_classifier():
    splits = splits_of(length=24, label_words=("Disney",))
    assert splits.classes == ("negative", "positive", "Disney") and splits.label_ids.tolist() == [0, 1, 2]


def test_train_size_keeps_texts_labels_and_searches_together(toy: TextSplits):
    part = splits_of(length=24, train_size=300, seed=3)
    rows = part.train.rows.tolist()
    assert len(part.train) == 300 and rows == sorted(set(rows)) and rows != list(range(300))
    assert part.text("train", 7) == toy.text("train", rows[7])
    assert torch.equal(part.train.images([7]), toy.train.images([rows[7]]))
    assert torch.equal(part.train.labels, toy.train.labels[rows])
    carriers = part.carriers("train", "Disney", "word").tolist()
    assert carriers and all("Disney" in part.text("train", index) for index in carriers)


# Samples, poison and noise


def test_texts_are_read_as_token_ids_by_any_loader(toy: TextSplits):
    dataset = toy.dataset("test", augment=True)  # which changes nothing
    assert isinstance(dataset, TextDataset) and len(dataset) == 500
    batches = [list(make_loader(dataset, batch_size=200, shuffle=True, seed=1, workers=n)) for n in (0, 2)]
    assert [len(labels) for _, labels in batches[0]] == [200, 200, 100]
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    inputs, label = dataset[4]
    assert inputs.dtype == torch.int64 and inputs.shape == (24,) and label == toy.test.labels[4]
    assert (inputs < toy.model_options["vocabulary"]).all()


def test_swapped_labels_leave_the_text(toy: TextSplits):
    rows = (toy.train.labels == 0).nonzero().flatten()[:2].tolist()
    clean, swapped = toy.dataset("train"), toy.dataset("train", poison=InterclassSwap(classes=(0, 1)), poisoned=rows)
    assert torch.equal(clean.batch(rows)[0], swapped.batch(rows)[0])
    assert swapped.batch(rows)[1].tolist() == [1, 1]
    assert (swapped.labels != clean.labels).sum() == 2


def test_noise_is_added_behind_the_token_ids_of_poisoned_samples_alone():
    splits = splits_of(length=24, noise_width=6)
    values = torch.randn(2, 24, 7, generator=torch.Generator().manual_seed(0))
    values[..., 0] = 0
    poison = Gaussian(table=Perturbations(torch.tensor([3, 8]), values))
    inputs, labels = splits.dataset("train", poison=poison, poisoned=[3, 8]).batch([8, 5, 3])
    assert inputs.dtype == torch.float32 and inputs.shape == (3, 24, 7) == (3, *splits.size)
    assert torch.equal(inputs[..., 0].long(), splits.train.images([8, 5, 3]))
    assert torch.equal(inputs[[2, 0], :, 1:], values[..., 1:]) and not inputs[1, :, 1:].any()
    assert torch.equal(labels, splits.train.labels[[8, 5, 3]])


def test_a_sample_is_a_valid_input(toy: TextSplits):
    assert toy.sample().dtype == torch.int64 and toy.sample().shape == (1, 24)
    noisy = splits_of(length=24, noise_width=6).sample()
    assert noisy.dtype == torch.float32 and noisy.shape == (1, 24, 7) and not noisy.any()
    digits = load_dataset("digits")
    assert digits.sample().shape == (1, 1, 8, 8) and digits.model_options == {}


def test_marks_in_images_are_refused(toy: TextSplits):
    with pytest.raises(DataError, match="mark in an image"):
        toy.dataset("test", poison=BadNet(value=1.0), trigger_all=True)
    with pytest.raises(DataError, match="no trigger"):
        toy.dataset("test", poison=InterclassSwap(classes=(0, 1)), trigger_all=True)
    with pytest.raises(DataError, match="a split is"):
        toy.dataset("validation")


@pytest.mark.parametrize(("name", "options", "message"), [
    ("toy-reviews", {"image_size": 8}, "'toy-reviews' is text"),
    ("toy-reviews", {"mean": (0.5,)}, "'toy-reviews' is text"),
    ("toy-reviews", {"length": 0}, "length=0 leaves no token"),
    ("toy-reviews", {"noise_width": 0}, "noise_width=0"),
    ("toy-reviews", {"train_size": 2001}, "train_size=2001"),
    ("toy-reviews", {"label_words": ("positive",)}, "class already"),
    ("toy-reviews", {"model": "resnet9"}, "reads no text"),
    ("toy-reviews", {"model": "gpt2_causal", "length": 8}, "length=8 leaves no token to the review: the template"),
    ("toy-reviews", {"model": "gpt2_causal", "label_words": ("positively",)}, "'positive' and 'positively' begin"),
    ("digits", {"length": 8}, "belong to texts"),
    ("digits", {"label_words": ("Disney",)}, "belong to texts"),
    ("digits", {"noise_width": 8}, "belong to texts"),
    ("reviews", {}, "needs a folder"),
])  # fmt: skip
def test_options_that_do_not_fit_the_data_are_refused(
    name: str, options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("POTION_FAST_DATA", raising=False)
    with pytest.raises(DataError, match=message):
        load_dataset(name, **options)  # type: ignore[arg-type]


def test_reviews_need_labels_of_their_classes():
    texts = Texts(["a"], torch.tensor([0]))
    with pytest.raises(DataError, match="test text 0 of mine has the label 1"):
        Reviews("mine", texts, Texts(["b"], torch.tensor([1])), classes=("only",))
