"""Chooses the pieces of a WordPiece vocabulary that a set of texts uses most.

Removing pieces keeps WordPiece consistent: the longest piece that is left is taken, so a word whose piece went
away falls into smaller ones. Only single characters can turn a word into [UNK], which is why they stay.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from m3_core.errors import InputError

from .text import script_of, scripts_of
from .tokenizer import SPECIAL_TOKENS, build_tokenizer

PRIOR_SHARE = 0.4
BATCH = 2000
PRIOR_OFFSET = 500  # flattens the head of the prior's 1 / rank


def prune(vocabulary: Sequence[str], texts: Sequence[tuple[str, str]], target: int) -> list[int]:
    """The ids to keep, ascending, ``target`` of them (fewer where the texts and the prior name fewer).

    Kept in any case: the special tokens, and the single characters (with their ``##`` form) that occur in
    ``texts`` or belong to an alphabet of their languages. The rest goes by a score: the piece's share among the
    texts' tokens, averaged over languages so that none is lost for lack of text, plus a prior that falls with
    the piece's rank within its script. The vocabulary is ordered by frequency in the text it was made from, so
    the prior speaks for words of everyday language that technical texts lack. Pieces are counted twice: what the
    first, generous cut removes falls into smaller pieces, whose counts it raises.

    Raises InputError where ``target`` is too small for what is kept in any case.
    """
    languages = sorted({language for language, _ in texts})
    forced = forced_pieces(vocabulary, texts)
    if target < len(forced):
        raise InputError(f"--vocab-size {target} is below the {len(forced)} pieces that must stay")
    prior = rank_prior(vocabulary, languages)
    kept = list(range(len(vocabulary)))
    for size in (2 * target, target):
        shares = token_shares([vocabulary[number] for number in kept], texts)
        score = {
            number: (1 - PRIOR_SHARE) * shares.get(vocabulary[number], 0.0)
            + PRIOR_SHARE * prior.get(number, 0.0)
            for number in kept
            if number not in forced
        }
        best = sorted((number for number in score if score[number] > 0), key=lambda n: (-score[n], n))
        kept = sorted(forced | set(best[: size - len(forced)]))
    return kept


def forced_pieces(vocabulary: Sequence[str], texts: Iterable[tuple[str, str]]) -> set[int]:
    """The ids of the special tokens and of the single characters that have to stay."""
    seen: Counter[str] = Counter()
    languages = set()
    for language, text in texts:
        languages.add(language)
        seen.update(unicodedata.normalize("NFC", text))
    alphabets = {name for language in languages for name in scripts_of(language)} - {"CJK", "HANGUL"}
    forced: set[int] = set()
    for number, piece in enumerate(vocabulary):
        character = piece.removeprefix("##")
        if piece in SPECIAL_TOKENS:
            forced.add(number)
        elif len(character) == 1:
            # A Chinese character is a word by itself to the tokenizer, so its ## form is never used.
            idle = piece.startswith("##") and script_of(character) == "CJK"
            wanted = seen[character] > 0 or (character.isalpha() and script_of(character) in alphabets)
            if wanted and not idle:
                forced.add(number)
    return forced


def rank_prior(vocabulary: Sequence[str], languages: Sequence[str]) -> dict[int, float]:
    """A prior of each piece that sums to one: 1 / rank within its script, scripts weighed by their languages."""
    weights = Counter(name for language in languages for name in scripts_of(language))
    ranks: dict[str, int] = defaultdict(int)
    prior: dict[int, float] = {}
    for number, piece in enumerate(vocabulary):
        letters = piece.removeprefix("##")
        script = script_of(letters[0])
        if len(letters) > 1 and weights[script] and letters.isalpha():
            ranks[script] += 1
            prior[number] = weights[script] / (ranks[script] + PRIOR_OFFSET)
    total = sum(prior.values()) or 1.0
    return {number: value / total for number, value in prior.items()}


def token_shares(pieces: Sequence[str], texts: Iterable[tuple[str, str]]) -> Mapping[str, float]:
    """The share of each piece among the tokens of ``texts``, averaged over the languages."""
    tokenizer = build_tokenizer(pieces)
    by_language: dict[str, list[str]] = defaultdict(list)
    for language, text in texts:
        by_language[language].append(text)
    shares: dict[str, float] = defaultdict(float)
    for lines in by_language.values():
        counts: Counter[int] = Counter()
        for start in range(0, len(lines), BATCH):
            for encoding in tokenizer.encode_batch_fast(
                lines[start : start + BATCH], add_special_tokens=False
            ):
                counts.update(encoding.ids)
        total = sum(counts.values()) * len(by_language)
        for number, count in counts.items():
            shares[pieces[number]] += count / total
    return shares
