"""What the filter language means, as a table: documents, and for each filter the ids that pass, by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from m3_core.types import Json

METADATA: Mapping[str, Mapping[str, Json]] = {
    "one": {"v": 1, "u": "x"},
    "one float": {"v": 1.0},
    "two": {"v": 2},
    "one and a half": {"v": 1.5},
    "a tenth": {"v": 0.1},
    "zero": {"v": 0},
    "minus two": {"v": -2},
    "large": {"v": 2**53},
    "true": {"v": True},
    "false": {"v": False},
    "'1'": {"v": "1"},
    "'1.5'": {"v": "1.5"},
    "'true'": {"v": "true"},
    "'null'": {"v": "null"},
    "a": {"v": "a", "u": "y"},
    "A": {"v": "A"},
    "blank": {"v": ""},
    "null": {"v": None},
    "missing": {},
    "[]": {"v": []},
    "[null]": {"v": [None]},
    "[1, 'a', true]": {"v": [1, "a", True]},
    "[1, 5]": {"v": [1, 5]},
    "['a', 'b']": {"v": ["a", "b"]},
    "[null, 'b']": {"v": [None, "b"]},
    "{}": {"v": {}},
    "{w: 7}": {"v": {"w": 7}},
    "{w: null}": {"v": {"w": None}},
    "{w: [7, 'y']}": {"v": {"w": [7, "y"]}},
    "{w: {x: 'y'}}": {"v": {"w": {"x": "y"}}},
    "[{w: 7}]": {"v": [{"w": 7}]},
    "names": {"a-b_c": {"D-1": 1}, "0": "zero", "text": "t", "id": "i", "metadata": {"v": 1}},
}

ALL = frozenset(METADATA)
NONE: frozenset[str] = frozenset()
MISSING = frozenset({"null", "missing", "[]", "[null]", "names"})
ONES = frozenset({"one", "one float", "[1, 'a', true]", "[1, 5]"})
HAS_A = frozenset({"a", "[1, 'a', true]", "['a', 'b']"})
HAS_B = frozenset({"['a', 'b']", "[null, 'b']"})
ABOVE_ONE = frozenset({"two", "one and a half", "large", "[1, 5]"})
AT_MOST_ZERO = frozenset({"zero", "minus two"})
WITH_W = frozenset({"{w: 7}", "{w: [7, 'y']}", "{w: {x: 'y'}}"})
SEVEN = frozenset({"{w: 7}", "{w: [7, 'y']}"})

CASES: Sequence[tuple[Mapping[str, Any], frozenset[str]]] = (
    # Equality: 1 is 1.0; true is neither 1 nor "true"; a list matches by any element.
    ({"v": 1}, ONES),
    ({"v": 1.0}, ONES),
    ({"v": {"$eq": 1}}, ONES),
    ({"v": True}, frozenset({"true", "[1, 'a', true]"})),
    ({"v": False}, frozenset({"false"})),
    ({"v": 0}, frozenset({"zero"})),
    ({"v": -0.0}, frozenset({"zero"})),
    ({"v": 1.5}, frozenset({"one and a half"})),
    ({"v": 0.1}, frozenset({"a tenth"})),
    ({"v": 2**53}, frozenset({"large"})),
    ({"v": -2}, frozenset({"minus two"})),
    ({"v": 7}, NONE),
    ({"v": "1"}, frozenset({"'1'"})),
    ({"v": "1.5"}, frozenset({"'1.5'"})),
    ({"v": "true"}, frozenset({"'true'"})),
    ({"v": "null"}, frozenset({"'null'"})),
    ({"v": "a"}, HAS_A),
    ({"v": "A"}, frozenset({"A"})),
    ({"v": ""}, frozenset({"blank"})),
    # Null is the same as missing, and so is a list without values.
    ({"v": None}, MISSING),
    ({"v": {"$eq": None}}, MISSING),
    ({"v": {"$ne": None}}, ALL - MISSING),
    ({"v": {"$exists": True}}, ALL - MISSING),
    ({"v": {"$exists": False}}, MISSING),
    # Complements match where the field is missing.
    ({"v": {"$ne": 1}}, ALL - ONES),
    ({"v": {"$ne": "a"}}, ALL - HAS_A),
    ({"v": {"$ne": True}}, ALL - {"true", "[1, 'a', true]"}),
    ({"v": {"$nin": [1, "a"]}}, ALL - ONES - HAS_A),
    ({"v": {"$nin": []}}, ALL),
    ({"v": {"$nin": ["a", None]}}, ALL - MISSING - HAS_A),
    ({"v": {"$not": {"$gt": 1}}}, ALL - ABOVE_ONE),
    ({"v": {"$not": {"$gt": 1, "$lt": 2}}}, ALL - {"one and a half", "[1, 5]"}),
    ({"v": {"$not": {"$exists": False}}}, ALL - MISSING),
    ({"$not": {"v": "a"}}, ALL - HAS_A),
    ({"$not": {"v": {"$ne": 1}}}, ONES),
    # Sets of values, of mixed types.
    ({"v": {"$in": [1, "b"]}}, ONES | HAS_B),
    ({"v": {"$in": [True, "1.5", 1.5]}}, frozenset({"true", "[1, 'a', true]", "'1.5'", "one and a half"})),
    ({"v": {"$in": ["a"]}}, HAS_A),
    ({"v": {"$in": []}}, NONE),
    ({"v": {"$in": [None]}}, MISSING),
    ({"v": {"$in": [None, "a"]}}, MISSING | HAS_A),
    # Ranges are for numbers; on a list each asks for any element, so [1, 5] is above 1 and below 5.
    ({"v": {"$gt": 1}}, ABOVE_ONE),
    ({"v": {"$gte": 1}}, ABOVE_ONE | ONES),
    ({"v": {"$lt": 0.1}}, AT_MOST_ZERO),
    ({"v": {"$lte": 0.1}}, AT_MOST_ZERO | {"a tenth"}),
    ({"v": {"$lte": 0}}, AT_MOST_ZERO),
    ({"v": {"$gte": 0}}, ABOVE_ONE | ONES | {"a tenth", "zero"}),
    ({"v": {"$gte": 1, "$lt": 2}}, ONES | {"one and a half"}),
    ({"v": {"$gt": 1, "$lt": 5}}, frozenset({"two", "one and a half", "[1, 5]"})),
    ({"v": {"$gt": 4, "$lt": 2}}, frozenset({"[1, 5]"})),
    ({"v": {"$gt": 1, "$ne": 2}}, ABOVE_ONE - {"two"}),
    # Paths go through objects, not through lists of objects, and not by position.
    ({"v.w": 7}, SEVEN),
    ({"v.w": "y"}, frozenset({"{w: [7, 'y']}"})),
    ({"v.w": {"$gt": 6.5}}, SEVEN),
    ({"v.w": {"$ne": 7}}, ALL - SEVEN),
    ({"v.w": None}, ALL - WITH_W),
    ({"v.w": {"$exists": True}}, WITH_W),
    ({"v.w.x": "y"}, frozenset({"{w: {x: 'y'}}"})),
    ({"v.w.x": {"$exists": False}}, ALL - {"{w: {x: 'y'}}"}),
    ({"v.0": 1}, NONE),
    ({"v.v": 1}, NONE),
    # Field names: letters, digits, _ and -; names that a store uses for itself are nothing special.
    ({"a-b_c.D-1": 1}, frozenset({"names"})),
    ({"0": "zero"}, frozenset({"names"})),
    ({"text": "t"}, frozenset({"names"})),
    ({"id": "i"}, frozenset({"names"})),
    ({"id": "one"}, NONE),
    ({"metadata.v": 1}, frozenset({"names"})),
    ({"nowhere": 1}, NONE),
    ({"nowhere": None}, ALL),
    ({"nowhere": {"$ne": 1}}, ALL),
    # Connectives.
    ({}, ALL),
    ({"v": 1, "u": "x"}, frozenset({"one"})),
    ({"v": "a", "u": {"$ne": "y"}}, HAS_A - {"a"}),
    ({"$and": [{"v": {"$gte": 1}}, {"v": {"$ne": 2}}]}, (ABOVE_ONE | ONES) - {"two"}),
    ({"$and": [{}]}, ALL),
    ({"$or": [{"v": "a"}, {"v": 2}]}, HAS_A | {"two"}),
    ({"$or": [{"v": {"$exists": False}}, {"v": "b"}]}, MISSING | HAS_B),
    ({"$or": [{"v": 7}]}, NONE),
    ({"$or": [{"v": 7}, {}]}, ALL),
    ({"$not": {}}, NONE),
    ({"$not": {"$or": [{"v": 1}, {"v": {"$exists": False}}]}}, ALL - ONES - MISSING),
    ({"$not": {"$and": [{"v": {"$gte": 1}}, {"v": {"$lt": 2}}]}}, ALL - ONES - {"one and a half"}),
    ({"$or": [{"$and": [{"v": 1}, {"u": "x"}]}, {"$not": {"v": {"$ne": "b"}}}]}, HAS_B | {"one"}),
    ({"u": {"$ne": "x"}, "$or": [{"v": 1}, {"v": "a"}]}, (ONES | HAS_A) - {"one"}),
)
