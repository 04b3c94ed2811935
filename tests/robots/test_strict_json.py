import json
import math

import pytest

from robots import strict_json
from robots.strict_json import JSONError, StrictEncoder


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, float("1e400")])
def test_what_is_no_number_is_written_as_null_however_deep_it_lies(number):
    text = strict_json.dumps({"a": [1.5, {"b": (number, "x")}], "c": number}, indent=1)
    assert json.loads(text, parse_constant=pytest.fail) == {"a": [1.5, {"b": [None, "x"]}], "c": None}
    assert json.dumps([number], cls=StrictEncoder) == "[null]", "Django and ninja take the class"


def test_other_values_are_written_as_ever():
    value = {"a": [1, 2.5, True, None, "é"], "b": {}}
    assert strict_json.dumps(value) == json.dumps(value)
    with pytest.raises(TypeError):
        strict_json.dumps({"a": object()})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("NaN", "no number"),
        ('{"a": -Infinity}', "no number"),
        ("[1e400]", "too large"),
        ("9" * 30, "too large"),
        ("9" * 5000, "too large"),
        (str(2**63), "too large"),
        ('{"name": "\\ud800"}', "surrogate"),
        ('{"\\udc00": 1}', "surrogate"),
        ('["a\\u0000b"]', "NUL"),
        (b'["\xed\xa0\x80"]', "UTF-8"),
        (b"\xff\xfe", "UTF-8"),
        ("[" * 70 + "]" * 70, "deeper"),
        ("[" * 500_000, "deeper"),
        ('{"a":' * 70 + "1" + "}" * 70, "deeper"),
    ],
)
def test_what_nobody_could_keep_is_refused_with_a_sentence(text, words):
    with pytest.raises(JSONError, match=words):
        strict_json.loads(text)


def test_what_can_be_kept_is_read_as_ever():
    text = '{"a": [1, -2.5e3, "\\u00e9", "\\ud83e\\udd16", "机器人"], "b": null, "c": -9223372036854775808}'
    assert strict_json.loads(text) == strict_json.loads(text.encode()) == json.loads(text)
