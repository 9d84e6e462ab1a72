"""A line of the log is one event, for people or as JSON, and carries the id of its call."""

from __future__ import annotations

import json
import logging

import pytest

from annserve.watch.calls import Call, current_request_id
from annserve.watch.logs import JsonLine, OneLine


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": 'opened "it"\nnow', "levelno": 20, "levelname": "INFO", "created": 0.0})
    vars(made).update(extra)
    return made


def test_a_line_of_json_keeps_types_and_a_line_of_text_quotes():
    told = json.loads(JsonLine().format(record(collection="photos", ram_bytes=4224)))
    assert told == {
        "time": "1970-01-01T00:00:00.000+00:00", "level": "info", "event": 'opened "it"\nnow', "collection": "photos",
        "ram_bytes": 4224,
    }  # fmt: skip
    text = OneLine().format(record(collection="photos"))
    assert text.endswith(r'event="opened \"it\"\nnow" collection=photos')
    assert "\n" not in text


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("order-66", True), ("a" * 128, True), ("", False), ("a" * 129, False), ("two\nlines", False), ("a b", False)],
)
def test_a_callers_id_is_kept_if_it_is_safe_to_log(sent, kept):
    call = Call("/s/m", [("x-request-id", sent)])
    assert (call.request_id == sent) is kept
    assert call.request_id


def test_lines_of_a_call_carry_its_id():
    call = Call("/s/m", [("x-request-id", "order-66")])
    call.enter()
    assert current_request_id() == "order-66"
    assert json.loads(JsonLine().format(record()))["request_id"] == "order-66"
    Call("/s/m").enter()
    assert json.loads(JsonLine().format(record()))["request_id"] != "order-66"


@pytest.mark.parametrize(
    ("logged", "code", "lines"),
    [("never", "INTERNAL", 0), ("failed", "OK", 0), ("failed", "NOT_FOUND", 1), ("always", "OK", 1)],
)
def test_calls_are_logged_as_it_is_set(caplog, logged, code, lines):
    with caplog.at_level(logging.INFO, "annserve.calls"):
        Call("/s/m", caller="rag", logged=logged).end(code, "no such thing" if code != "OK" else "")
    assert len(caplog.records) == lines
    for line in caplog.records:
        assert (line.method, line.code, line.caller) == ("/s/m", code, "rag")
