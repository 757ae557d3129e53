"""JSON lines, windows, and the plan of batches."""

import gzip
import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from m3_core.errors import InputError
from m3_core.tokenizer import M3Tokenizer
from m3_training.config import BatchShape, DataConfig
from m3_training.data import OTHER, PairData, best_window, read_pairs
from m3_training.neighbours import Neighbours

SHAPES = (BatchShape(passage_tokens=16, size=4), BatchShape(passage_tokens=8, size=8))
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "eos": "[SEP]"}


@pytest.fixture(scope="module")
def tokenizer() -> M3Tokenizer:
    words = [*SPECIAL.values(), *(f"w{number}" for number in range(400)), "what"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return M3Tokenizer(backend, SPECIAL, {})


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def pair(number: int, lang: str, query_lang: str | None = None) -> dict[str, str]:
    # every passage answers two queries; passages of one topic (four of them) share most words
    passage, topic = number // 2, number // 8
    words = " ".join(f"w{50 * (topic % 8) + n}" for n in range(10 + passage % 5))
    row = {"lang": lang, "query": f"what w{number}", "positive": f"w{passage} {words}"}
    return row if query_lang is None else {**row, "query_lang": query_lang}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write(
        folder / "one.jsonl.gz", [pair(n, "ja") for n in range(64)] + [pair(n, "tr") for n in range(64, 96)]
    )
    write(
        folder / "two.jsonl.gz",
        [pair(n, "en") for n in range(32)] + [pair(n, "en", "de" if n % 2 else "fr") for n in range(32, 64)],
    )
    return folder


def make(
    folder: Path, tokenizer: M3Tokenizer, *, steps: int = 40, seed: int = 0, **options: object
) -> PairData:
    sources = {"one.jsonl.gz": 3.0, "two.jsonl.gz": 1.0}
    config = DataConfig(**{"sources": sources, "shapes": SHAPES, **options})  # type: ignore[arg-type]
    return PairData(folder, tokenizer, config, steps=steps, seed=seed)


def test_lines_become_pairs(folder: Path) -> None:
    pairs = read_pairs(folder / "two.jsonl.gz")
    assert len(pairs) == 64
    assert (pairs[0].lang, pairs[0].query_lang) == ("en", "en")
    assert (pairs[33].lang, pairs[33].query_lang) == ("en", "de")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"lang": "ja", "query": "q"}', "line 2: 'positive'"),
        ('{"lang": "ja", "query": " ", "positive": "p"}', "line 2: 'query'"),
        (
            '{"lang": "ja", "query": 3, "positive": "p"}',
            "line 2: 'query' should be a non-empty string, but is 3",
        ),
        ('{"lang": "ja", "query": "q", "positive": "p", "query_lang": null}', "line 2: 'query_lang'"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair(0, "ja")) + "\n" + line + "\n")
    with pytest.raises(InputError, match=r"pairs\.jsonl") as caught:
        read_pairs(path)
    assert message in str(caught.value)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "plain.jsonl.gz").write_text("not gzip")
    whole = gzip.compress(json.dumps(pair(0, "ja")).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    for name in ("empty.jsonl", "plain.jsonl.gz", "cut.jsonl.gz", "missing.jsonl"):
        with pytest.raises(InputError, match=name):
            read_pairs(tmp_path / name)


def test_the_same_seed_gives_the_same_batches(folder: Path, tokenizer: M3Tokenizer) -> None:
    first, second = make(folder, tokenizer), make(folder, tokenizer)
    assert first.plan == second.plan
    assert first.batch(7) == second.batch(7)
    assert first.identity() == second.identity()
    other = make(folder, tokenizer, seed=1)
    assert other.plan != first.plan
    assert other.identity() != first.identity()


def test_a_longer_plan_begins_as_the_shorter(folder: Path, tokenizer: M3Tokenizer) -> None:
    short, long = make(folder, tokenizer, steps=10), make(folder, tokenizer, steps=30)
    assert long.plan[:10] == short.plan
    assert long.identity() == short.identity()


@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_no_batch_holds_a_text_twice_and_passages_are_in_one_language(
    folder: Path, tokenizer: M3Tokenizer, neighbours: int
) -> None:
    data = make(folder, tokenizer, steps=100, neighbours=neighbours)
    for planned in data.plan:
        pairs = [data.pairs[planned.source][row] for row in planned.rows]
        assert len({pair.query for pair in pairs}) == len({pair.positive for pair in pairs}) == len(pairs)
        assert len({pair.lang for pair in pairs}) == 1
        assert len(pairs) == planned.shape.size
        assert len({pair.query_lang == pair.lang for pair in pairs}) == 1


def test_shares_languages_and_directions_follow_the_options(folder: Path, tokenizer: M3Tokenizer) -> None:
    data = make(folder, tokenizer, steps=2000, cross_language=0.25, favoured={"tr": 2.0})
    sources = Counter(planned.source for planned in data.plan)
    assert sources["one.jsonl.gz"] / 2000 == pytest.approx(0.75, abs=0.04)
    two = [data.pairs["two.jsonl.gz"][p.rows[0]] for p in data.plan if p.source == "two.jsonl.gz"]
    assert sum(p.query_lang != p.lang for p in two) / len(two) == pytest.approx(0.25, abs=0.06)
    one = Counter(data.pairs["one.jsonl.gz"][p.rows[0]].lang for p in data.plan if p.source == "one.jsonl.gz")
    assert one["tr"] / one["ja"] == pytest.approx(2 * 32**0.5 / 64**0.5, rel=0.15)


def test_within_an_epoch_no_pair_comes_twice(folder: Path, tokenizer: M3Tokenizer) -> None:
    data = make(
        folder, tokenizer, sources={"one.jsonl.gz": 1.0}, shapes=(BatchShape(passage_tokens=8, size=8),)
    )
    japanese = [p for p in data.plan if data.pairs["one.jsonl.gz"][p.rows[0]].lang == "ja"]
    epoch = [row for planned in japanese[:6] for row in planned.rows]
    assert len(set(epoch)) == 48


def test_batches_are_cut_to_their_shape(folder: Path, tokenizer: M3Tokenizer) -> None:
    data = make(folder, tokenizer, query_tokens=8)
    for step, planned in enumerate(data.plan):
        batch = data.batch(step)
        longest = max(map(len, batch.passages))
        assert longest <= planned.shape.passage_tokens
        assert all(len(query) == 4 for query in batch.queries)
        assert all(text[0] == tokenizer.cls_id and text[-1] == tokenizer.eos_id for text in batch.passages)


def test_the_window_holds_what_the_query_asks_for() -> None:
    passage = [1, *range(100, 200), 2]
    assert best_window([1, 180, 181, 7, 2], passage, 18) == [1, *range(166, 182), 2]
    assert best_window([1, 7, 2], passage, 18) == [1, *range(100, 116), 2]
    assert best_window([1, 199, 2], passage, 18)[-2] == 199
    assert best_window([1, 7, 2], passage, 102) == passage


def test_neighbours_resemble_each_other_and_every_passage_comes_once() -> None:
    random = Random(3)
    topics = [[20 * topic + word for word in range(10)] for topic in range(6)]
    passages = [[*random.sample(topics[n % 6], 5), 200 + n] for n in range(24)]
    blocks = Neighbours(passages).blocks(4, random)
    assert sorted(passage for block in blocks for passage in block) == list(range(24))
    assert all(len({passage % 6 for passage in block}) == 1 for block in blocks)
    assert all(len(block) == 4 for block in blocks)


def test_versions_of_the_same_passage_are_no_negatives_of_each_other() -> None:
    words = list(range(30))
    passages = [[*words, 101], [*words, 102], *([n, n + 1, n + 2, 40] for n in range(28))]
    for block in Neighbours(passages).blocks(5, Random(0)):
        assert not {0, 1} <= set(block)


def test_cross_language_batches_are_a_group_of_their_own(folder: Path, tokenizer: M3Tokenizer) -> None:
    data = make(folder, tokenizer, sources={"two.jsonl.gz": 1.0}, cross_language=1.0)
    pairs = data.pairs["two.jsonl.gz"]
    assert all(pairs[row].query_lang in ("de", "fr") for planned in data.plan for row in planned.rows)
    assert OTHER not in {pair.lang for pair in pairs}
