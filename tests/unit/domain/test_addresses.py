"""Addresses in systemd's notation: what each means, what is none, and which exclude each other."""

import itertools

import pytest

from supervisor.domain.addresses import Endpoint, Taken, exclude_each_other, parsed


@pytest.mark.parametrize(
    ("written", "endpoint", "shown"),
    [
        ("127.0.0.1:7000", Endpoint("ipv4", "127.0.0.1", 7000), "127.0.0.1:7000"),
        ("0.0.0.0:07000", Endpoint("ipv4", "0.0.0.0", 7000), "0.0.0.0:7000"),  # noqa: S104
        ("[::1]:7000", Endpoint("ipv6", "::1", 7000), "[::1]:7000"),
        ("[0:0::0001]:1", Endpoint("ipv6", "::1", 1), "[::1]:1"),
        ("[::]:65535", Endpoint("ipv6", "::", 65535), "[::]:65535"),
        ("7000", Endpoint("ipv6", "::", 7000), "[::]:7000"),
        ("[fe80::1]:7%eth0", Endpoint("ipv6", "fe80::1", 7, "eth0"), "[fe80::1]:7%eth0"),
        ("[fe80::1%2]:7", Endpoint("ipv6", "fe80::1", 7, "2"), "[fe80::1]:7%2"),
        ("/run/x.sock", Endpoint("unix", "/run/x.sock"), "/run/x.sock"),
        ("@a/b", Endpoint("abstract", "a/b"), "@a/b"),
        ("/" + "x" * 106, Endpoint("unix", "/" + "x" * 106), "/" + "x" * 106),
    ],
)
def test_an_address_is_read_and_written_in_one_way(written: str, endpoint: Endpoint, shown: str) -> None:
    assert parsed(written) == endpoint
    assert str(endpoint) == shown
    assert parsed(shown) == endpoint


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("", "it is no address: write"),
        ("localhost:7000", "it is no address: write"),
        ("x.sock", "it is no address: write"),
        ("::1:7000", "it is no address: write"),
        ("127.0.0.1", "it is no address: write"),
        ("127.0.0.1:7000:1", "it is no address: write"),
        ("127.0.0.1:٣", "it is no address: write"),
        ("127.0.0:7000", "127.0.0 is no IPv4 address"),
        ("256.0.0.1:7000", "256.0.0.1 is no IPv4 address"),
        ("[::1::]:7000", "::1:: is no IPv6 address"),
        ("[::ffff:10.0.0.1]:70", "write it as what it is, 10.0.0.1:70"),
        ("[fe80::1]:7000", "an interface belongs to a link-local address"),
        ("[::1]:7000%lo", "an interface belongs to a link-local address"),
        ("127.0.0.1:0", "a port is a number from 1 to 65535"),
        ("65536", "a port is a number from 1 to 65535"),
        ("@", "a socket needs a name"),
        ("/a\0b", "a socket needs a name, without NUL"),
        ("/" + "x" * 107, "a socket's path has at most 107 bytes, this one 108"),
        ("@" + "é" * 54, "a socket's path has at most 107 bytes, this one 109"),
    ],
)
def test_what_is_no_address_is_told_with_what_would_be_one(written: str, why: str) -> None:
    with pytest.raises(ValueError, match=why.replace("[", r"\[")):
        parsed(written)


COVERED = {
    "0.0.0.0:7": {"127.0.0.1:7", "127.0.0.2:7"},
    "[::]:7": {"0.0.0.0:7", "127.0.0.1:7", "127.0.0.2:7", "[::1]:7"},
}
ALL = ["0.0.0.0:7", "127.0.0.1:7", "127.0.0.2:7", "[::]:7", "[::1]:7", "127.0.0.1:8", "/7", "/8", "@/7"]


def test_two_addresses_exclude_each_other_where_one_covers_the_other() -> None:
    found = {pair for pair in itertools.product(ALL, ALL) if exclude_each_other(*map(parsed, pair))}

    covered = {(wide, narrow) for wide, narrows in COVERED.items() for narrow in narrows}
    assert found == {(one, one) for one in ALL} | covered | {(other, one) for one, other in covered}


def test_who_was_first_is_told_to_everybody_else() -> None:
    taken: Taken[str] = Taken()

    assert taken.add("stream", parsed("127.0.0.1:7"), "a") is None
    assert taken.add("datagram", parsed("127.0.0.1:7"), "b") is None
    assert taken.add("stream", parsed("7"), "c") == "a"
    assert taken.add("stream", parsed("[::1]:7"), "d") is None
    assert taken.add("datagram", parsed("/x"), "e") is None
    assert taken.add("stream", parsed("/x"), "f") == "e"
    assert taken.add("stream", parsed("@x"), "g") is None
    assert taken.add("datagram", parsed("@x"), "h") is None
