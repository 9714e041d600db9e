"""Texts at the limits of what is read: each is refused or loaded soon, and within little memory.

The figures of `supervisor/files/yaml.py` and `text.py` are written out here: a change of them is to be seen.
"""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

Text: TypeAlias = Callable[[], str]

EVENTS: Final = 120_000
SIZE: Final = 8 << 20
DEPTH: Final = 32
DIGEST: Final = "a" * 64

PLUGIN: Final = "plugins: {secret: {p: {pin: v, versions: {v: {command: bin/x, sha256: " + DIGEST + "}}}}}\n"
MOUNTS: Final = PLUGIN + "namespaces:\n  root:\n    mounts:\n"
VERSIONS: Final = "plugins:\n  secret:\n    p:\n      pin: v0\n      versions:\n"


def _lines(begin: str, number: int, line: Callable[[int], str]) -> str:
    return begin + "".join(line(n) + "\n" for n in range(number))


def _filled(unit: str, begin: str = "", end: str = "") -> str:
    """As many of `unit` as the size takes."""
    return begin + unit * ((SIZE - len((begin + end).encode())) // len(unit.encode())) + end


def _deep(number: int) -> str:
    """A list of `number` scalars, each under as many brackets as are allowed."""
    return "[" + ", ".join("[" * (DEPTH - 1) + "a" + "]" * (DEPTH - 1) for _ in range(number)) + "]"


def _valid() -> Iterator[tuple[str, Text]]:
    """Texts just below the limits, which load."""
    yield (
        "the most mounts",
        lambda: _lines(MOUNTS, EVENTS // 5 - 9, lambda n: f"      m{n}: {{plugin: secret/p}}"),
    )
    yield (
        "the most mounts with a setting",
        lambda: _lines(MOUNTS, EVENTS // 7 - 9, lambda n: f'      m{n}: {{plugin: secret/p, umask: "022"}}'),
    )
    yield (
        "the most mounts with a probe",
        lambda: _lines(
            MOUNTS,
            EVENTS // 12 - 9,
            lambda n: f"      m{n}: {{plugin: secret/p, ready: {{kind: exec, settle: 1s}}}}",
        ),
    )
    path = "/".join("abcdefghij" * 9)
    yield (
        "the deepest mounts",
        lambda: _lines(MOUNTS, EVENTS // 5 - 9, lambda n: f"      a{n}/{path}: {{plugin: secret/p}}"),
    )
    yield (
        "the most versions",
        lambda: _lines(
            VERSIONS, EVENTS // 7 - 9, lambda n: f"        v{n}: {{command: bin/x, sha256: {DIGEST}}}"
        ),
    )
    yield (
        "the most plugins",
        lambda: _lines(
            "plugins:\n  secret:\n",
            EVENTS // 15 - 9,
            lambda n: f"    p{n}: {{pin: v, versions: {{v: {{command: bin/x, sha256: {DIGEST}}}}}}}",
        ),
    )
    yield (
        "the most arguments",
        lambda: _lines(
            VERSIONS + f"        v0:\n          command: x\n          sha256: {DIGEST}\n          args:\n",
            EVENTS - 50,
            lambda _: "          - a",
        ),
    )
    yield (
        "the most variables",
        lambda: _lines(
            VERSIONS + f"        v0:\n          command: x\n          sha256: {DIGEST}\n          env:\n",
            EVENTS // 2 - 50,
            lambda n: f"            V{n}: x",
        ),
    )
    yield (
        "the most namespaces",
        lambda: _lines(PLUGIN + "namespaces:\n", 19_990, lambda n: f"  n{n}: {{mounts: {{}}}}"),
    )
    yield "nothing but comments", lambda: _filled("#" + "x" * 100 + "\n", end=PLUGIN)
    yield "one comment", lambda: _filled("x", "#", "\n" + PLUGIN)
    yield "a comment with one emoji", lambda: _filled("x", "# 😀", "\n" + PLUGIN)
    yield "empty lines", lambda: _filled("\n", end=PLUGIN)
    yield "empty lines with CR", lambda: _filled("\r", end=PLUGIN)
    yield "blanks", lambda: _filled(" ", end="\n" + PLUGIN)
    yield "a mebibyte of tabs after a value", lambda: PLUGIN + "namespaces: {}" + "\t" * (1 << 20) + "# x\n"


def _hostile() -> Iterator[tuple[str, Text]]:  # noqa: PLR0915 - a table
    """Texts that are refused."""
    yield "unknown keys", lambda: _lines("", EVENTS // 2 - 9, lambda n: f"k{n}: 1")
    yield (
        "unknown keys of a mount",
        lambda: _lines(MOUNTS + "      m:\n", EVENTS // 2 - 50, lambda n: f"        k{n}: 1"),
    )
    yield "unknown keys of 100 bytes", lambda: _lines("", EVENTS // 2 - 9, lambda n: f"{'k' * 90}{n}: 1")
    yield "duplicate keys", lambda: "a: 1\n" * (EVENTS // 2 - 9)
    yield (
        "duplicate keys of 200 mappings",
        lambda: ("- {" + ", ".join(f"a{n}: 1" for n in range(370)) + "}\n") * 200,
    )
    yield "one duplicate in each mapping", lambda: "- {a: 1, a: 2}\n" * (EVENTS // 6 - 9)
    yield (
        "faulty mounts",
        lambda: _lines(MOUNTS, EVENTS // 5 - 9, lambda n: f"      m{n}: {{plug: secret/p}}"),
    )
    yield (
        "mounts of no plugin",
        lambda: _lines(MOUNTS, EVENTS // 5 - 9, lambda n: f"      m{n}: {{plugin: secret/q{n}}}"),
    )
    yield "mounts of nothing", lambda: _lines(MOUNTS, EVENTS // 2 - 50, lambda n: f"      m{n}:")
    yield (
        "mounts with odd names",
        lambda: _lines(MOUNTS, EVENTS // 5 - 9, lambda n: f"      m{n}+: {{plugin: secret/p}}"),
    )
    yield (
        "mounts below a mount",
        lambda: _lines(
            MOUNTS,
            EVENTS // 5 - 9,
            lambda n: f"      {'/'.join('a' * (n % 99 + 1))}/{n}: {{plugin: secret/p}}",
        ),
    )
    yield (
        "mounts one below the other",
        lambda: _lines(MOUNTS, 99, lambda n: f"      {'/'.join('a' * (n + 1))}: {{plugin: secret/p}}"),
    )
    yield (
        "names that are nearly those of plugins",
        lambda: (
            _lines(
                "plugins:\n  secret:\n",
                4000,
                lambda n: (
                    f"    {'ab' * 29}{n:05}: {{pin: v, versions: {{v: {{command: x, sha256: {DIGEST}}}}}}}"
                ),
            )
            + _lines(
                "namespaces:\n  root:\n    mounts:\n",
                5_000,
                lambda n: f"      m{n}: {{plugin: secret/{'ba' * 29}{n:05}}}",
            )
        ),
    )
    yield "many namespaces", lambda: _lines("namespaces:\n", EVENTS // 3 - 9, lambda n: f"  n{n}: {{}}")
    deep = "/".join("bcdefghijk" * 9)
    yield (
        "many deep namespaces",
        lambda: _lines("namespaces:\n", EVENTS // 3 - 9, lambda n: f"  n{n}/{deep}: {{}}"),
    )
    yield (
        "an environment for each version",
        lambda: (
            _lines("plugins:\n  secret:\n    p:\n      env:\n", 20_000, lambda n: f"        V{n}: x")
            + _lines(
                "      versions:\n",
                6_000,
                lambda n: f"        v{n}: {{command: x, env: {{A: b}}, sha256: {DIGEST}}}",
            )
        ),
    )
    yield (
        "an environment for each mount",
        lambda: (
            _lines(
                "plugins:\n  secret:\n    p:\n      pin: v\n      env:\n",
                20_000,
                lambda n: f"        V{n}: x",
            )
            + f"      versions: {{v: {{command: x, sha256: {DIGEST}}}}}\n"
            + _lines(
                "namespaces:\n  root:\n    mounts:\n",
                8_000,
                lambda n: f"      m{n}: {{plugin: secret/p, umask: '022'}}",
            )
        ),
    )
    yield "long scalars", lambda: _lines("", 80, lambda n: f"k{n}: {'x' * 100_000}")
    yield "one scalar", lambda: _filled("x", "a: ")
    yield "one scalar with an emoji", lambda: _filled("x", "a: 😀")
    yield "one scalar with an emoji at its end", lambda: _filled("x", "a: ", "😀")
    yield "one scalar of emojis", lambda: _filled("😀", "a: ")
    yield "one key", lambda: _filled("x", "", ": 1")
    yield "one key with an emoji", lambda: _filled("x", "😀", ": 1")
    yield "keys of a kibibyte", lambda: _lines("", 8_000, lambda n: f"{'x' * 1000}{n}: 1")
    yield "a scalar in quotes", lambda: _filled("x", "a: '", "'")
    yield "quotes in quotes", lambda: _filled("''", "a: '", "'")
    yield "escapes", lambda: _filled("\\x41", 'a: "', '"')
    yield "escaped emojis", lambda: _filled("\\U0001F600", 'a: "', '"')
    yield "escaped line breaks", lambda: _filled("\\\n", 'a: "', '"')
    yield "lines in quotes", lambda: _filled("x\n  ", 'a: "', '"')
    yield "a plain scalar of many lines", lambda: _filled("x\n  ", "a: ")
    yield "a plain scalar of empty lines", lambda: _filled("\n", "a: b", " c")
    yield "a block scalar", lambda: _filled("  x\n", "a: |\n")
    yield "a folded scalar", lambda: _filled("  x\n", "a: >\n")
    yield "a block scalar of empty lines", lambda: _filled("\n", "a: |+\n")
    yield "quotes without an end", lambda: _filled("x", "a: '")
    yield "nothing but quotes", lambda: _filled("'")
    yield "short scalars in quotes", lambda: '- "\\u263a"\n' * EVENTS
    yield "brackets", lambda: _filled("[")
    yield "braces", lambda: _filled("{a: ")
    yield "closing brackets", lambda: _filled("]")
    yield "dashes", lambda: _filled("- ")
    yield "dashes in lines", lambda: _filled("-\n")
    yield "questions", lambda: _filled("? ")
    yield "questions in lines", lambda: _filled("? a\n")
    yield "colons", lambda: _filled(": ")
    yield "commas", lambda: _filled(",", "[")
    yield "keys without values", lambda: _filled("a,", "{")
    yield "list items", lambda: "- a\n" * (EVENTS - 9)
    yield "more list items", lambda: "- a\n" * EVENTS
    yield "mappings", lambda: "- {}\n" * (EVENTS // 2 - 9)
    yield "mappings with one key", lambda: "- a: 1\n" * (EVENTS // 4 - 9)
    yield "depth everywhere", lambda: _deep(EVENTS // (2 * DEPTH) - 9)
    yield (
        "depth in each mount",
        lambda: _lines(MOUNTS, 1_800, lambda n: f"      m{n}: " + "[" * 28 + "]" * 28),
    )
    yield "anchors", lambda: "- &a b\n" * (EVENTS - 9)
    yield "a long anchor", lambda: _filled("a", "- &", " b")
    yield "aliases", lambda: "- *a\n" * (EVENTS - 9)
    yield "tags", lambda: "- !!str b\n" * (EVENTS - 9)
    yield "a long tag", lambda: _filled("a", "- !", " b")
    yield "escapes in a tag", lambda: _filled("%41", "- !<", "> b")
    yield "tag directives", lambda: _filled("%TAG !a! !b\n", end="--- a")
    yield "different tag directives", lambda: _lines("", 300_000, lambda n: f"%TAG !{n}! !b") + "--- a"
    yield "unknown directives", lambda: _filled("%A b\n", end="--- a")
    yield "documents", lambda: _filled("---\n")
    yield "ends of documents", lambda: _filled("...\n")
    yield "tabs", lambda: _filled("\t")
    yield "NEL", lambda: _filled("\x85", "a: 1")
    yield "LS", lambda: _filled("\u2028", "a: 1")
    yield "CR", lambda: _filled("a\r")
    yield "CR and LF", lambda: _filled("a: 1\r\n")
    yield "NUL", lambda: _filled("\0")
    yield "digits", lambda: _filled("1", "namespaces: ")
    yield "sexagesimal digits", lambda: _filled(":59", "namespaces: 1")
    yield "a date", lambda: _filled("-01", "namespaces: 2001")
    yield "underscores", lambda: _filled("_", "namespaces: 1")


VALID: Final = dict(_valid())
HOSTILE: Final = dict(_hostile())


def _settings() -> Iterator[tuple[str, Text]]:
    yield "variables", lambda: _lines("defaults:\n  env:\n", EVENTS // 2 - 50, lambda n: f"    V{n}: x")
    yield (
        "rules",
        lambda: _lines(
            "access:\n", EVENTS // 10 - 9, lambda n: f"  - {{uid: {n}, namespaces: [a], may: read}}"
        ),
    )
    yield "faulty rules", lambda: "access:\n" + "  - {}\n" * (EVENTS // 2 - 50)
    yield (
        "namespaces",
        lambda: "access:\n  - uid: 1\n    may: read\n    namespaces:\n" + "    - a/b/c\n" * (EVENTS - 50),
    )
    yield "etcd", lambda: "cluster:\n  name: x\n  etcd:\n" + "  - http://127.0.0.1:2379\n" * (EVENTS - 50)
    yield "arguments", lambda: "defaults:\n  args:\n" + "  - a\n" * (EVENTS - 50)
    yield "listeners", lambda: _lines("defaults:\n  listen:\n", EVENTS - 50, lambda n: f"  - /run/{n}.sock")


SETTINGS: Final = dict(_settings())
