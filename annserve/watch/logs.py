"""One line per event on stderr, for people and for log shippers: ``time=… level=… event="…" key=value …``, or JSON.

An event is an ordinary record of the standard library's logging; what is passed as ``extra`` becomes keys. What is
logged while a call is served carries its ``request_id``.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from annserve.watch.calls import current_request_id

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def log_to_stderr(log_format: str = "text") -> None:
    """Send the events of this process to stderr, from INFO upward.

    Parameters
    ----------
    log_format : str
        ``text``, or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine() if log_format == "json" else OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class JsonLine(logging.Formatter):
    """Writes a record as one JSON object; numbers stay numbers."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        return json.dumps(self.fields(record), ensure_ascii=False, default=str)

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Give what is told of a record, in order."""
        stamp = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = {"time": stamp, "level": record.levelname.lower(), "event": record.getMessage()}
        fields |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        request_id = current_request_id()
        if request_id:
            fields.setdefault("request_id", request_id)
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return fields


class OneLine(JsonLine):
    """Writes a record as ``key=value`` pairs; a traceback becomes one quoted value."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        return " ".join(f"{key}={_value_text(value)}" for key, value in self.fields(record).items())


def _value_text(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)
