"""Strings that somebody's parser would take for more than strings, for the contract suite (`InjectionContract`).

A store has to keep each as an id, as a value and as text, find it, and tell it from every other.
"""

from m3_core.types import FIELD_NAME

_PUNCTUATION = (
    *('"', "'", "\\", "''", '""', "\\\\", "\\'", '\\"', "`", "“", "＂", "'''", '"""', "\\u0022"),
    *("\\x00", "\\n", "*", "?", "%", "_", "~", "!", "|", "||", "&&", "()", ")", "/", "#", "@", ":"),
    *("^", "+", "-", "--", "==", "!=", "<b>&amp;</b>", "[]", "[1]", "}", "{}", ",", ";", "a,b", "a;b"),
    *("a=b", "a/b", "../../etc/passwd", "..", ".", "a.b", ".a", "%27", "%00", "?a=b", "$", "$x", "\\1"),
    *("a\\", "\\a", "a'", 'a"'),
)
_TEMPLATES = (
    *("{{7*7}}", "{{x}}", "{% if 1 %}", "${x}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "$(id)", "`id`"),
    *("{0}", "%s", "%d", "%(x)s", "%%", "{", "{{", "{x!r}", "${jndi:ldap://127.0.0.1/a}"),
)
_EXPRESSIONS = (
    # Milvus
    *("x'] or id in ['y", 'x"] or id in ["y', "x' or 1 == 1 or 'y", '" or 1 == 1 or "'),
    *("x\\' or id != 'y", "y", 'x") or pk != ("', '%" or pk like "%', "pk != ''"),
    *('x") || json_contains(v, "y', '"] == 1 or metadata["v', "exists v", "v is null", "id in []"),
    *('\\" or 1 == 1 or \\"', '\\\\" or 1==1'),
    # SQL
    *("'; DROP TABLE documents; --", "' OR '1'='1", "1; DELETE FROM documents"),
    *("x' UNION SELECT 1", "*/ OR 1 /*"),
    # Query strings, patterns, directories
    *("*:*", "v:*", "_exists_:v", "id:x OR id:y", "NOT y", "-y", "y~", "y^9", "y*", "/.*/", ".*"),
    *("[* TO *]", "y AND *", "*)(id=*", "\\*", "^y$", "y|x", "(a+)+$", "v:y", 'v="y'),
    # JSON
    *('{"a": 1}', '"}}', '", "v": "y', '"]}, "must_not": [{"', '{"match_all": {}}', '{"$ne": null}'),
    *("[null]", '["y"]', '["y", "x"]', '{"index": {"_id": "y"}}\n', '\n{"delete": {"_id": "y"}}\n'),
)
_WORDS = (
    *("$ne", "$where", "$exists", "meta.author", "metadata.v", "_id", "_source", "__proto__", "id"),
    *("text", "v", "null", "None", "NaN", "Infinity", "true", "True", "false", "1", "1.0", "01", "0x1"),
    *("1e0", "+1", "-1", "-0", "1_000", "18446744073709551616", "1e999", "2026-11-22T00:00:00Z", "١"),
    *("_all", "00000000-0000-0000-0000-000000000000", "00000000000000000000000000000000"),
)
_CHARACTERS = (
    # Controls and blanks
    *("\0", "\0y", "y\0", "y\0x", "\x07", "\x08", "\x1b[31m", "\x1f", "\x7f", "\x85", "a\nb", "\n"),
    *("\r\n", "\t", "tab\there", " ", "  ", "x", " x", "x ", "x\n", "\u00a0", "\u3000"),
    *("\u2028", "\u2029"),
    # What is not seen: zero width, direction, byte order, variation, tags
    *("x\u200b", "\u200b", "x\u200d", "x\u2060", "x\u00ad", "\ufeffbom", "\u202ex", "x\u202c"),
    *("\u2066x\u2069", "\u200fx", "x\ufe0f", "x\U000e0041", "x\u0300\u0301\u0302", "\ufffd", "\uffff"),
    *("\U0010ffff", "\ue000"),
    # What looks, folds or normalises alike
    *("X", "х", "ｘ", "𝐱", "é", "e\u0301", "ß", "ss", "SS", "ẞ", "ı", "i", "İ", "i\u0307", "ﬁ", "fi"),
    *("Å", "\u212b", "日本語", "العربية", "한", "\u1112\u1161\u11ab", "🙂", "👩‍👩‍👧", "🏳️‍🌈", "👍"),
    *("👍🏽", "\U0001f1ef\U0001f1f5"),
)
_LONG = ("i" * 512, "i" * 511, "é" * 256, "'" * 512, "\\" * 511, "(" * 512, "a." * 256, "🙂" * 128)

IDS = (*_PUNCTUATION, *_TEMPLATES, *_EXPRESSIONS, *_WORDS, *_CHARACTERS, *_LONG)
"""Each may be a document's id: 1 to 512 bytes."""

STRINGS = (*IDS, "", "v" * 33_000, "v" * 33_001, '"' * 20_000, "\\" * 20_000, "é" * 20_000)
"""Each may be a value. The longest are beyond what Lucene indexes as one term (32,766 bytes)."""

FIELDS = (
    *(name for name in IDS if FIELD_NAME.fullmatch(name)),
    *("and", "or", "not", "in", "like", "is", "exists", "AND", "v-1", "v--", "__class__", "_score"),
    *("_m3", "-v"),
    *("metadata", "dense", "sparse", "multi", "terms", "pk", "id.id", "metadata.metadata", "0.0", "not.in"),
)
"""Names of fields that a filter may use, though they mean something elsewhere."""

NO_FIELDS = (
    *(name for name in STRINGS if not FIELD_NAME.fullmatch(name)),
    *("v\n", "v ", " v", "v\0", "v.", ".v", "v..w", "v[0]", "v[*]", "v*", "*v", "v:1", "v/w", "v\\"),
    *("v\u200b", "ｖ"),
    *("v'] or true", "v == 1 or v", "doc['v'].value", "metadata['v']", 'metadata["v"]', "v$", "$v"),
)
"""Names that every store refuses in a filter."""
