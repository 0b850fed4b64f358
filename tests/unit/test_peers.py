"""Which peer calls: by title, address, name and certificate; never one that these exclude."""

from __future__ import annotations

import datetime
import hashlib
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from dicom_node import peers
from dicom_node.base.addresses import Address, parse_address, parse_network
from dicom_node.base.errors import ConfigurationError
from dicom_node.peers import Caller, HostNames, doubts, may, same_host, who_calls, who_is_named
from dicom_node.settings import Peer, Settings


def peer(title: str, host: str = "10.0.0.1", *addresses: str, **more: object) -> Peer:
    return Peer(ae_title=title, host=host, port=104, addresses=addresses, **more)


def names(**known: tuple[str, ...]) -> HostNames:
    """Return a name service that knows these hosts (``_`` for a dot)."""
    table = {name.replace("_", "."): addresses for name, addresses in known.items()}

    def ask(name: str) -> frozenset[Address]:
        if name not in table:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return frozenset(a for text in table[name] if (a := parse_address(text)))

    return HostNames(ask)


@pytest.mark.parametrize(
    ("host", "caller", "is_it"),
    [
        ("10.0.0.5", "10.0.0.5", True),
        ("10.0.0.5", "::ffff:10.0.0.5", True),
        ("::ffff:10.0.0.5", "10.0.0.5", True),
        ("2001:db8::7", "2001:0DB8:0:0:0:0:0:7", True),
        ("[2001:db8::7]", "2001:db8::7", True),
        ("fe80::1", "fe80::1%eth0", True),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("127.0.0.1", "::1", True),
        ("::1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.3", False),
        ("127.0.0.2", "127.0.0.1", False),
        ("10.0.0.5", "10.0.0.6", False),
        ("10.0.0.5", "2001:db8::7", False),
        ("pacs.example", "10.1.1.1", True),
        ("PACS.example.", "2001:db8::1", True),
        ("pacs.example", "10.1.1.2", False),
        ("gone.example", "10.1.1.1", False),
        ("10.0.0.5", "somewhere", False),
    ],
)
def test_addresses_compare_as_addresses(host: str, caller: str, is_it: bool) -> None:
    service = names(pacs_example=("10.1.1.1", "2001:db8::1"))
    found = who_calls({"a": peer("PACS", host)}, "PACS", caller, names=service)
    assert (found.name == "a") is is_it
    assert bool(found.problem) is not is_it


@pytest.mark.parametrize(
    ("networks", "caller", "is_it"),
    [
        (("10.1.0.0/16",), "10.1.200.3", True),
        (("10.1.0.0/16",), "10.2.0.3", False),
        (("::ffff:10.1.0.0/112",), "10.1.9.9", True),
        (("10.0.0.1", "fd00::/8"), "fd00::1", True),
        (("::1",), "127.0.0.1", True),
        (("10.1.0.0/16",), "10.0.0.1", False),
    ],
)
def test_addresses_go_before_the_host(networks: tuple[str, ...], caller: str, is_it: bool) -> None:
    found = who_calls({"a": peer("PACS", "10.0.0.1", *networks)}, "PACS", caller)
    assert (found.name == "a") is is_it


def test_padding_of_a_title_has_no_meaning_and_its_case_has() -> None:
    known = {"a": peer(" PACS ")}
    assert known["a"].ae_title == "PACS"
    assert who_calls(known, "PACS\0\0", "10.0.0.1").name == "a"
    assert who_calls(known, "  PACS  ", "10.0.0.1").name == "a"
    assert who_calls(known, "pacs", "10.0.0.1") == Caller(None, is_title_known=False)


def test_two_peers_with_one_title_are_told_apart_by_address() -> None:
    known = {"a": peer("TWIN", "127.0.0.2"), "b": peer("TWIN", "127.0.0.3")}
    assert who_calls(known, "TWIN", "127.0.0.3").name == "b"
    assert who_calls(known, "TWIN", "127.0.0.4").name is None


def test_a_peer_that_its_address_excludes_is_not_taken_for_want_of_another() -> None:
    known = {"a": peer("TWIN", "127.0.0.2"), "b": peer("TWIN", "archive-b.invalid")}
    found = who_calls(known, "TWIN", "127.0.0.3", names=names())
    assert found.name is None
    assert "peer a calls from 127.0.0.2" in found.problem
    assert "'archive-b.invalid', which cannot be resolved" in found.problem


def test_of_several_that_fit_none_is_taken() -> None:
    known = {"a": peer("TWIN", "one.example"), "b": peer("TWIN", "two.example")}
    service = names(one_example=("10.0.0.9",), two_example=("10.0.0.9",))
    found = who_calls(known, "TWIN", "10.0.0.9", names=service)
    assert found.name is None
    assert "a and b both fit" in found.problem


def test_a_move_destination_is_named_by_title_or_is_the_caller_itself() -> None:
    known = {"a": peer("TWIN", "10.0.0.1"), "b": peer("TWIN", "10.0.0.2"), "c": peer("OTHER")}
    assert who_is_named(known, "OTHER ") == ("c", "")
    assert who_is_named(known, "TWIN", "b") == ("b", "")
    assert who_is_named(known, "TWIN")[0] is None
    assert who_is_named(known, "TWIN", "c") == (None, "a and b have this AE title")
    assert who_is_named(known, "NOBODY") == (None, "no peer has this AE title")


class Service:
    """A name service whose answer and speed the test decides."""

    def __init__(self) -> None:
        self.answer: frozenset[Address] | OSError = frozenset({ip_address("10.0.0.1")})
        self.asked = 0
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self, name: str) -> frozenset[Address]:
        self.asked += 1
        self.goes_on.wait(10)
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(peers, "WAIT_S", 0.05)
    made = Service()
    yield made
    made.goes_on.set()


def settled(host_names: HostNames, name: str = "pacs") -> frozenset[Address]:
    """Return the addresses once no question is under way."""
    host_names.addresses(name)
    for thread in threading.enumerate():
        if "_refresh_name" in thread.name:
            thread.join(5)
    return host_names.addresses(name)[0]


def test_a_name_is_asked_for_once_and_again_after_a_while(service: Service) -> None:
    now = [0.0]
    host_names = HostNames(service, lambda: now[0])
    assert settled(host_names) == settled(host_names) == {ip_address("10.0.0.1")}
    assert service.asked == 1
    service.answer = frozenset({ip_address("10.0.0.2")})
    now[0] = peers.FRESH_S + 1
    assert settled(host_names) == {ip_address("10.0.0.2")}
    assert service.asked == 2


def test_a_silent_name_service_leaves_the_last_answer_for_an_hour(service: Service) -> None:
    now = [0.0]
    host_names = HostNames(service, lambda: now[0])
    settled(host_names)
    service.answer = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    now[0] = peers.KEPT_S - 1
    assert settled(host_names) == {ip_address("10.0.0.1")}
    now[0] = peers.KEPT_S + 1
    assert settled(host_names) == frozenset()
    assert host_names.addresses("pacs")[1] == "Temporary failure in name resolution"


def test_a_name_that_is_gone_is_gone_at_once(service: Service) -> None:
    now = [0.0]
    host_names = HostNames(service, lambda: now[0])
    settled(host_names)
    service.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    now[0] = peers.FRESH_S + 1
    assert settled(host_names) == frozenset()


def test_a_slow_name_service_holds_up_no_caller_for_long(service: Service) -> None:
    service.goes_on.clear()
    host_names = HostNames(service)
    callers = [threading.Thread(target=host_names.addresses, args=("pacs",)) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(5)
        assert not caller.is_alive()
    assert service.asked == 1, "one question for all"


def certificate(common_name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string(f"CN={common_name},O=Hospital")
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.DER)


def test_a_certificate_binds_a_peer() -> None:
    ours, other = certificate("PACS"), certificate("OTHER")
    digest = hashlib.sha256(ours).hexdigest()
    colons = ":".join(digest[i : i + 2].upper() for i in range(0, 64, 2))
    for wanted in (digest, colons, "CN=PACS", "O=Hospital,CN=PACS"):
        known = {"a": peer("PACS", certificate=wanted)}
        assert who_calls(known, "PACS", "10.0.0.1", ours).name == "a"
        for shown in (other, b"", b"not a certificate"):
            found = who_calls(known, "PACS", "10.0.0.1", shown)
            assert found.name is None
            assert "certificate" in found.problem
        assert who_calls(known, "PACS", "10.0.0.1", None).name == "a", "it was looked at before"
        assert who_calls(known, "PACS", "10.0.0.2", ours).name is None, "the address counts, too"


def test_certificates_tell_twins_apart() -> None:
    settings = Settings(
        node={"tls": {"certificate": "c", "key": "k", "ca": "ca"}},
        peers={
            "a": peer("TWIN", certificate="CN=A"),
            "b": peer("TWIN", certificate="CN=B"),
        },
    )
    assert who_calls(settings.peers, "TWIN", "10.0.0.1", certificate("B")).name == "b"


TWINS = [
    (peer("TWIN"), peer("TWIN")),
    (peer("TWIN", "10.0.0.1"), peer("TWIN ", "::ffff:10.0.0.1")),
    (peer("TWIN", "localhost"), peer("TWIN", "127.0.0.1")),
    (peer("TWIN", "10.0.0.1", "10.0.0.0/8"), peer("TWIN", "10.9.9.9")),
    (peer("TWIN", "pacs.example"), peer("TWIN", "PACS.example")),
]


@pytest.mark.parametrize("twins", TWINS)
def test_twins_that_cannot_be_told_apart_are_a_fault(twins: tuple[Peer, Peer]) -> None:
    with pytest.raises(ValueError, match=r"peers\.b\.ae_title: 'TWIN' is peers\.a, too"):
        Settings(peers=dict(zip("ab", twins, strict=True)))


def test_a_certificate_without_an_authority_is_a_fault() -> None:
    with pytest.raises(ValueError, match=r"peers\.a\.certificate: needs node\.tls\.ca"):
        Settings(peers={"a": peer("A", certificate="CN=A")})


@pytest.mark.parametrize("title", ["", " ", "    ", "A\\B", "A" * 17, "ÄÖ", "A\nB"])
def test_what_is_not_an_ae_title_is_refused(title: str) -> None:
    with pytest.raises(ValueError, match="ae_title"):
        peer(title)


def test_names_without_addresses_are_doubtful() -> None:
    settings = Settings(
        peers={
            "sure": peer("A", "10.0.0.1"),
            "listed": peer("B", "b.example", "10.0.0.2"),
            "named": peer("C", "c.example"),
            "gone": peer("D", "d.example"),
            "twin": peer("C", "10.0.0.3"),
        }
    )
    found = doubts(settings, names(c_example=("10.0.0.3",)))
    assert [name for name, _ in found] == ["named", "named", "gone"]
    assert "answers for" in found[0][1]
    assert "AE title and address of twin" in found[1][1]
    assert "cannot be resolved" in found[2][1]


def test_rights_are_those_of_the_peer_and_strangers_follow_the_switch() -> None:
    known = {"a": peer("A", may=("store",))}
    closed, opened = (Settings(node={"known_peers_only": k}, peers=known) for k in (True, False))
    caller, stranger = Caller("a"), Caller(None)
    assert may(closed, caller, "store")
    assert not may(closed, caller, "query")
    assert may(closed, caller, None)
    assert not may(closed, stranger, "store")
    assert may(opened, stranger, "store")


def test_a_peer_that_is_missing_is_named_with_those_that_are_there() -> None:
    with pytest.raises(ConfigurationError, match="no peer is named 'x'; configured: a"):
        peers.find_peer({"a": peer("A")}, "x")


hosts = st.sampled_from([f"10.0.0.{n}" for n in range(4)] + ["2001:db8::1", "127.0.0.1", "::1"])
networks = st.sampled_from(["10.0.0.0/30", "10.0.0.2", "2001:db8::/32", "::1", "0.0.0.0/0"])
drawn_peers = st.lists(
    st.tuples(st.sampled_from("AB"), hosts, st.lists(networks, max_size=2)), max_size=4
)


@given(drawn=drawn_peers, title=st.sampled_from("AB"), address=hosts)
def test_the_caller_is_the_one_peer_that_nothing_excludes(
    drawn: list[tuple[str, str, list[str]]], title: str, address: str
) -> None:
    known = {f"p{n}": peer(t, host, *nets) for n, (t, host, nets) in enumerate(drawn)}
    caller = parse_address(address)
    fitting = [
        name
        for name, item in known.items()
        if item.ae_title == title
        and any(caller in parse_network(text) for text in (item.addresses or (item.host,)))
    ]
    found = who_calls(known, title, address)
    assert found.name == (fitting[0] if len(fitting) == 1 else None)
    try:
        Settings(peers=known)
    except ValueError:
        return
    assert len(fitting) <= 1, "a configuration that is right leaves no doubt"


def test_one_host_may_be_written_in_several_ways() -> None:
    def asked(host: str, *addresses: str) -> Peer:
        return peer("PACS", host, *addresses).model_copy(update={"storage_commitment": True})

    known = {
        "a": asked("PACS.hospital."),
        "b": asked("pacs.hospital"),
        "six": asked("2001:db8::1"),
        "long": asked("2001:0db8:0:0:0:0:0:1"),
        "nat": asked("pacs.inside", "192.0.2.0/28"),
        "other": asked("10.0.0.9"),
        "not asked": peer("PACS", "pacs.outside", "192.0.2.7"),
    }
    service = names()
    assert same_host(known, "pacs.hospital") == {"a", "b"}
    assert same_host(known, "2001:db8::1", "2001:db8::1", service) == {"six", "long"}
    assert same_host(known, "2001:db8::7", "192.0.2.7", service) == {"nat"}
    assert same_host(known, "10.0.0.8", "10.0.0.8", service) == frozenset()
