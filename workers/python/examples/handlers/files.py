"""Input files: read with a limit, refused with a reason. No handlers are here."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from typing import Any

from tasker_core import RetryableError, ValidationError

LIMIT_BYTES = 8 * 1024 * 1024
QUANTITY_LIMIT = 100_000


def read_text(path: str) -> str:
    """The whole file. Only a failing disk is worth another attempt: the other refusals need a person."""
    try:
        with open(path, "rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise ValidationError(f"{path}: there is no such file", error_code="FILE_MISSING") from None
    except IsADirectoryError:
        raise ValidationError(f"{path}: not a regular file", error_code="FILE_NOT_REGULAR") from None
    except PermissionError:
        raise ValidationError(f"{path}: this worker may not read it", error_code="FILE_FORBIDDEN") from None
    except OSError as error:
        raise RetryableError(f"{path}: {error}", error_code="FILE_UNREADABLE") from error
    if len(content) > LIMIT_BYTES:
        raise ValidationError(f"{path}: larger than {LIMIT_BYTES} bytes", error_code="FILE_TOO_LARGE")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValidationError(f"{path}: not UTF-8 text", error_code="FILE_NOT_TEXT") from None


def read_json(path: str) -> Any:
    """The file as one JSON document."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise malformed(path, str(error)) from None


def read_csv(path: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a table with exactly these columns, none of them empty."""
    return parse_csv(path, read_text(path), columns)


def parse_csv(path: str, text: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The same, of text that was read already."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if tuple(reader.fieldnames or ()) != columns:
            raise malformed(path, f"line 1: the header must be `{','.join(columns)}`")
        rows = []
        for row in reader:
            if None in row or not all(row.values()):
                raise malformed(path, f"line {reader.line_num}: a column is missing, empty or one too many")
            rows.append(row)
        return rows
    except csv.Error as error:
        raise malformed(path, f"line {reader.line_num}: {error}") from None


def cents(price: str) -> int:
    """``12.30`` as 1230: floats would make a report differ from its recomputation."""
    whole, _, fraction = price.partition(".")
    if not (whole.isdecimal() and fraction.isdecimal() and len(fraction) == 2 and int(whole) < QUANTITY_LIMIT):
        raise ValueError(f"{price!r} is no price with two decimals, such as 12.30, below 100000.00")
    return int(whole) * 100 + int(fraction)


def quantity(text: str) -> int:
    """A number of things that are there."""
    value = int(text)
    if not 0 <= value <= QUANTITY_LIMIT:
        raise ValueError(f"{text!r} is no number from 0 to {QUANTITY_LIMIT}")
    return value


def malformed(path: str, why: str) -> ValidationError:
    """The error of a file that does not hold what it should."""
    return ValidationError(f"{path}: {why}", error_code="FILE_MALFORMED")


def fingerprint(text: str) -> str:
    """Tells whether two steps saw the same file."""
    return hashlib.sha256(text.encode()).hexdigest()
