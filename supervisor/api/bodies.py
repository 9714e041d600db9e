"""What clients send: JSON or a form under any content type, read strictly, as a misread one may kill.

Which keys a reload knows stands in `wire.ReloadBody`; which of them this version can do, and how
each is converted, stands here. Texts that other programs compare: COMPAT, section 8.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec

from supervisor.domain.errors import BadRequest
from supervisor.domain.names import Seconds, parse_duration, shortened
from supervisor.domain.plan import ByMounts, ByPlugin, Target
from supervisor.engine.node import Options
from supervisor.wire import ReloadBody

Value = TypeVar("Value")
KEYS: Final = tuple(ReloadBody.__struct_fields__)
_NOT_YET: Final = ("batch", "pause", "require", "force")
_MOST_FIELDS: Final = 200
_MOST_MOUNTS: Final = 20_000
_FORM: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_%+.-]*=")
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def fields(body: bytes, content_type: str = "") -> dict[str, Any]:
    """The body's keys and values; no body and `null` are empty.

    Raises:
        BadRequest: It is neither one JSON object nor a form, or says a thing twice.
    """
    inner = body.strip()
    if not inner:
        return {}
    is_form_type = content_type.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded"
    if inner[:1] not in b"{[" and inner != b"null" and (is_form_type or _FORM.match(inner)):
        return _form(inner)
    document = _json(body)
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise BadRequest(f"failed to decode JSON input: expected an object, got {_kind(document)}")
    return document


def _form(body: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError as error:  # UnicodeError is one
        raise BadRequest(f"failed to decode form input: {shortened(str(error))}") from error
    for key, value in pairs:
        if key == "mounts":
            found.setdefault(key, []).append(value)
        elif key in found:
            raise BadRequest(f'failed to decode form input: "{shortened(key)}" is given twice')
        else:
            found[key] = value
    return found


def _json(body: bytes) -> Any:
    try:
        text = body.decode()
        document = json.loads(text, object_pairs_hook=_once, parse_float=_finite, parse_constant=_finite)
        json.dumps(document, ensure_ascii=False).encode()  # lone surrogates
    except UnicodeDecodeError as error:
        raise BadRequest(f"failed to decode JSON input: invalid UTF-8 at byte {error.start}") from error
    except UnicodeEncodeError as error:
        raise BadRequest("failed to decode JSON input: a lone surrogate in a string") from error
    except json.JSONDecodeError as error:
        ends_early = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated")
        why = "unexpected EOF" if ends_early else f"{error.msg} at character {error.pos}"
        raise BadRequest(f"failed to decode JSON input: {shortened(why)}") from error
    except RecursionError as error:
        raise BadRequest("failed to decode JSON input: nested too deeply") from error
    except ValueError as error:
        raise BadRequest(f"failed to decode JSON input: {shortened(str(error))}") from error
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f'the key "{shortened(twice, 50)}" is given twice')
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shortened(text, 20)} is not a number")
    return number


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """A reload or an apply, as asked for."""

    options: Options
    plugin: str = ""
    mounts: tuple[str, ...] = ()
    scope: str = ""
    wait: bool = True
    timeout: Seconds | None = None
    warnings: tuple[str, ...] = ()

    def target(self) -> Target:
        """What `reload/backend` means by it.

        Raises:
            BadRequest: Both or none of the two are given.
        """
        if self.plugin and self.mounts:
            raise BadRequest("plugin and mounts cannot be set at the same time")
        if self.plugin:
            return ByPlugin(self.plugin)
        if self.mounts:
            return ByMounts(self.mounts)
        raise BadRequest("plugin or mounts must be provided")


def reload_request(body: bytes, content_type: str = "", *, takes_target: bool = True) -> ReloadRequest:
    """Read the body of a reload; with `takes_target` False the path says what is meant.

    Raises:
        BadRequest: A value is of the wrong kind, or a key is a near miss: a misspelt `dry_run` must not kill.
    """
    given = fields(body, content_type)
    ignored = unknown_keys(given, KEYS)
    known = {key: value for key, value in given.items() if key in KEYS and value is not None}
    for key in _NOT_YET:
        if key in known and known[key] not in {"", "false"} and not _is_default(key, known[key]):
            raise BadRequest(f"cannot reload: {key} is not supported by this version")
    if not takes_target and (known.get("plugin") or known.get("mounts")):
        raise BadRequest(
            "plugin and mounts belong to sys/plugins/reload/backend: here the path says what is meant"
        )
    on_failure = _field(known, "on_failure", _text) or "halt"
    if on_failure not in {"halt", "continue"}:
        raise BadRequest('on_failure must be "halt" or "continue"')
    return ReloadRequest(
        options=Options(
            dry_run=_field(known, "dry_run", _flag) or False,
            parallel=_at_least_one(known, "parallel"),
            on_failure=on_failure,
            max_failures=_field(known, "max_failures", _count) or 0,
            partial=_field(known, "partial", _flag) or False,
            canary=_field(known, "canary", _count) or 0,
            canary_for=_field(known, "canary_for", _duration) or 0.0,
            scope=_scope(known.get("scope")),
        ),
        plugin=_field(known, "plugin", _text) or "",
        mounts=_field(known, "mounts", _paths) or (),
        scope=_scope(known.get("scope")),
        wait=_field(known, "wait", _flag) is not False,
        timeout=_field(known, "timeout", _duration),
        warnings=ignored_warning(ignored),
    )


def unknown_keys(given: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    """The keys that mean nothing here.

    Raises:
        BadRequest: One is close to one that does.
    """
    unknown = sorted(key for key in given if key not in known)
    for key in unknown:
        near = get_close_matches(key[:40].lower().replace("-", "_"), known, n=1, cutoff=0.8)
        if near:
            raise BadRequest(f'unknown parameter "{shortened(key)}": did you mean "{near[0]}"?')
    return unknown


def ignored_warning(keys: list[str]) -> tuple[str, ...]:
    if not keys:
        return ()
    shown = " ".join(shortened(key, 40) for key in keys[:20])
    return (f"Endpoint ignored these unrecognized parameters: [{shown}]",)


def text_field(given: Mapping[str, Any], key: str) -> str:
    """A string of a body, `""` where it is not given."""
    return _field({key: given[key]} if given.get(key) is not None else {}, key, _text) or ""


def texts_field(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Strings of a body; one by itself is a list of one."""
    known = {key: given[key]} if given.get(key) is not None else {}
    return _field(known, key, _texts) or ()


def flag(text: str) -> bool:
    """A boolean of a query, as Go reads it."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise BadRequest(f'cannot read "{shortened(text)}" as a boolean: write true or false')


def _field(known: Mapping[str, Any], key: str, convert: Callable[[Any], Value]) -> Value | None:
    if key not in known:
        return None
    try:
        return convert(known[key])
    except (ValueError, BadRequest) as error:
        raise BadRequest(
            f'Field validation failed: error converting input for field "{key}": {error}'
        ) from error


def _is_default(key: str, value: object) -> bool:
    defaults = msgspec.structs.asdict(ReloadBody())
    return type(value) is type(defaults[key]) and value == defaults[key]


def _scope(value: object) -> str:
    if value in (None, ""):
        return ""
    if value == "global":
        return "global"
    raise BadRequest('scope must be unset or "global"')


def _at_least_one(known: Mapping[str, Any], key: str) -> int | None:
    number = _field(known, key, _count)
    if number == 0:
        raise BadRequest(f"{key} must be at least 1")
    return number


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"expected a string, got {_kind(value)}")


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, value if isinstance(value, list) else [value]))


def _paths(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    paths = [path.strip() for item in items for path in _text(item).split(",")]
    if len(paths) > _MOST_MOUNTS:
        raise ValueError(f"more than {_MOST_MOUNTS} mounts")
    return tuple(dict.fromkeys(paths)) if any(paths) else ()


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return flag(value)
    raise ValueError(f"expected true or false, got {_kind(value)}")


def _count(value: Any) -> int:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ValueError(f"expected a whole number, got {_kind(value)}")
    return int(text)


def _duration(value: Any) -> Seconds:
    if not isinstance(value, str | int | float):
        raise ValueError(f"expected a duration, got {_kind(value)}")  # noqa: TRY004 - one kind for _field
    return parse_duration(value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
