import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.domain.errors import BadRequest
from supervisor.domain.names import (
    ROOT,
    MountKey,
    Namespace,
    PluginRef,
    instance_id,
    is_name,
    parse_duration,
    parse_size,
    shortened,
    shown_duration,
)

TEAM = Namespace(("team-a", "dev"))


@pytest.mark.parametrize("text", ["a", "_", "mock-plugin", "v1.1.0", "0", "a" * 64])
def test_a_name_is_letters_digits_and_three_signs(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "-a", ".a", "a/b", "a b", "a\n", "é", "a" * 65, "a\0", "a+b", "\uff14"]
)
def test_anything_else_is_no_name(text: str) -> None:
    assert not is_name(text)


def test_a_plugin_is_read_as_it_is_written() -> None:
    ref = PluginRef.parse("auth/mock-plugin")

    assert ref == PluginRef("auth", "mock-plugin")
    assert str(ref) == "auth/mock-plugin"


@pytest.mark.parametrize("text", ["", "auth", "auth/", "/x", "Auth/x", "unknown/x", "auth/x/y", "auth/../x"])
def test_what_is_no_plugin_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(BadRequest, match="write TYPE/NAME"):
        PluginRef.parse(text)


@pytest.mark.parametrize("text", ["", "/", "root", "/root/", "root/"])
def test_the_root_namespace_has_many_spellings(text: str) -> None:
    assert Namespace.parse(text) == ROOT
    assert ROOT.is_root
    assert str(ROOT) == "root"


@pytest.mark.parametrize("text", ["team-a/dev", "/team-a/dev", "team-a/dev/", "/team-a/dev/"])
def test_a_namespace_may_have_slashes_around_it(text: str) -> None:
    assert Namespace.parse(text) == TEAM
    assert str(TEAM) == "team-a/dev"


@pytest.mark.parametrize(
    "text", ["team//dev", "//team", "root/a", "a/root", "a/sys", "a/../b", ".", "a b", "a\n"]
)
def test_a_namespace_with_an_odd_part_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="root and sys are reserved"):
        Namespace.parse(text)


def test_a_namespace_covers_itself_and_what_lies_below() -> None:
    team = Namespace(("team-a",))

    assert team.covers(TEAM)
    assert team.covers(team)
    assert ROOT.covers(team)
    assert not TEAM.covers(team)
    assert not team.covers(Namespace(("team-ab",)))
    assert team.joined(Namespace(("dev",))) == TEAM


@pytest.mark.parametrize("text", ["auth/mock", "/auth/mock", "auth/mock/", "sys/auth/mock/", " auth/mock "])
def test_a_mount_path_has_the_forms_of_vaults_clients(text: str) -> None:
    key = MountKey.parse(TEAM, text)

    assert key == MountKey(TEAM, "auth/mock")
    assert str(key) == "auth/mock/ in team-a/dev"
    assert (key.shown, key.folder, key.stem) == ("auth/mock/", "team-a+dev", "auth+mock")


@pytest.mark.parametrize("text", ["", "/", "sys//", "a//b", "../x", "a/..", "a b", "a\0b"])
def test_a_mount_path_with_tricks_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match="as a mount path"):
        MountKey.parse(ROOT, text)


def test_ids_of_instances_are_short_and_tell_mounts_and_runs_apart() -> None:
    keys = [MountKey(ROOT, "a/b"), MountKey(Namespace(("a",)), "b"), MountKey(ROOT, "a")]
    ids = {instance_id(key, generation) for key in keys for generation in (1, 2)}

    assert len(ids) == 6
    assert all(len(each) < 20 for each in ids)
    assert instance_id(keys[0], 1) == instance_id(keys[0], 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("100ms", 0.1), ("10s", 10.0), ("1m30s", 90.0), ("2h", 7200.0), ("0s", 0.0), (0, 0.0), (1.5, 1.5),
     ("1.5", 1.5),     ("1.5s", 1.5), (" 3s ", 3.0), ("7", 7.0)],
)  # fmt: skip
def test_a_duration_is_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "10 s",
        "1d",
        "1e3",
        "nan",
        "inf",
        "1s1",
        "\u0661s",
        "9" * 50 + "s",
        "1s" * 40,
        "99999h",
        "1..5s",
    ],
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("number", [True, False, -1, 10**400, -(10**400), float("nan"), float("inf"), 1e300])
def test_a_number_that_is_no_duration_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(number)


@given(st.floats(0, 86400 * 365))
def test_a_duration_that_is_shown_can_be_read(seconds: float) -> None:
    assert parse_duration(shown_duration(seconds)) == pytest.approx(seconds, rel=0.01, abs=0.0006)


@given(st.integers(1, 10**6))
def test_whole_milliseconds_are_shown_exactly_from_a_second_on(milliseconds: int) -> None:
    seconds = 1 + milliseconds / 1000

    assert parse_duration(shown_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@given(
    st.one_of(st.text(), st.from_regex(r"[0-9.]{1,9}(ms|s|m|h)?", fullmatch=True), st.floats(), st.integers())
)
def test_any_text_is_a_duration_or_a_value_error(value: str | float) -> None:
    try:
        seconds = parse_duration(value)
    except ValueError:
        return
    assert 0 <= seconds <= 10 * 365 * 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.1, "100ms"),
        (1, "1s"),
        (90, "1m30s"),
        (60, "1m"),
        (7200, "2h"),
        (3601.5, "1h1.5s"),
    ],
)
def test_a_duration_is_shown_as_people_write_it(seconds: float, text: str) -> None:
    assert shown_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [("64KiB", 65536), ("16MiB", 1 << 24), ("1GiB", 1 << 30), ("2TiB", 1 << 41), (5, 5), ("5B", 5)],
)
def test_a_size_is_read(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1.5MiB", "1 KiB", "1kb", "1MB", "9" * 16, True, -1, 1.5])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@given(st.integers(0, 10**6), st.sampled_from(["", "B", "KiB", "MiB", "GiB", "TiB"]))
def test_sizes_keep_their_unit(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * parse_size(f"1{unit}")


def test_bad_input_is_echoed_short_and_without_control_characters() -> None:
    assert shortened("a\x1b[31m\n") == "a\\x1b[31m\\n"
    assert shortened("x" * 101) == "x" * 99 + "…"
    assert shortened("x" * 100) == "x" * 100
    assert len(shortened("\n" * 10**6)) == 100
