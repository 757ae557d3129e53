"""Small text tools of the preparation: white space, length in bytes, and which script a text is written in."""

import re
import unicodedata
from collections import Counter
from functools import lru_cache

SPACES = re.compile(r"\s+")
# What a language is written in; languages that are not named here are written in Latin letters.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "ar": ("ARABIC",),
    "fa": ("ARABIC",),
    "el": ("GREEK",),
    "hi": ("DEVANAGARI",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "ko": ("HANGUL",),
    "ru": ("CYRILLIC",),
    "uk": ("CYRILLIC",),
    "zh": ("CJK",),
}


def clean(text: str) -> str:
    """``text`` with every run of white space as one space, none at the ends."""
    return SPACES.sub(" ", text).strip()


def size(text: str) -> int:
    """The length in UTF-8 bytes: nearer to the number of tokens across scripts than characters are."""
    return len(text.encode())


@lru_cache(maxsize=65536)
def script_of(character: str) -> str:
    """The script of a character, by its Unicode name: ``LATIN``, ``CJK``, ``HIRAGANA`` ..."""
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]


def scripts_of(language: str) -> tuple[str, ...]:
    """The scripts that a language is written in."""
    return SCRIPTS.get(language.split("-")[0], ("LATIN",))


def written_in(text: str, language: str, *, share: float = 0.4) -> bool:
    """Whether at least ``share`` of the letters of ``text`` belong to the script(s) of ``language``.

    Catches sentences that a translator left in English where the language has a script of its own. The share is
    low because names of programs and keys stay Latin in every language.

    >>> written_in("Wählen Sie Bearbeiten", "de"), written_in("Choose Edit", "ja"), written_in("表を挿入", "ja")
    (True, False, True)
    """
    scripts = scripts_of(language)
    counts = Counter(script_of(character) for character in text if character.isalpha())
    letters = sum(counts.values())
    return letters > 0 and sum(counts[script] for script in scripts) >= share * letters
