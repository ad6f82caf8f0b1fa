"""Texts of one record, as columns of data sets hold them."""

from typing import Any

from ddit_jax.data.examples import BadRecord


def texts_of(value: Any, record_id: str) -> tuple[str, ...]:
  """Like `optional_texts_of`, at least one text.

  Raises:
    BadRecord: empty_text, if all are blank; bad_text.
  """
  texts = optional_texts_of(value, record_id)
  if not texts:
    raise BadRecord("empty_text", "no text, or only blank ones", record_id)
  return texts


def optional_texts_of(value: Any, record_id: str) -> tuple[str, ...]:
  """Texts without blanks at their ends; those that are blank are left out.

  Args:
    value: str, UTF-8 bytes, a list of these, or None.
    record_id: named in errors.

  Raises:
    BadRecord: bad_text (not UTF-8, or no text at all).
  """
  items = value if isinstance(value, list) else [value]
  texts = (_text(item, record_id) for item in items if item is not None)
  return tuple(text for text in texts if text)


def _text(value: Any, record_id: str) -> str:
  if isinstance(value, bytes):
    try:
      return value.decode().strip()
    except UnicodeDecodeError as error:
      raise BadRecord("bad_text", str(error), record_id) from error
  if not isinstance(value, str):
    detail = f"a {type(value).__name__} is no text"
    raise BadRecord("bad_text", detail, record_id)
  return value.strip()
