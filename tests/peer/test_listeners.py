"""Several listeners on one port: one count of associations, one configuration, one end."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from listening import DX, radiograph, written
from pynetdicom import AE
from pynetdicom.association import Association
from stations import NodeProcess, wait_for

pytestmark = pytest.mark.peer

LIMITS = "listeners = 2\nmax_associations = 8\nmax_associations_per_peer = 4\n"
PEER = '[peers.{name}]\nae_title = "{ae}"\nhost = "127.0.0.1"\nport = 1\n'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    node = NodeProcess(
        tmp_path_factory.mktemp("node"), PEER.format(name="xray", ae="XRAY1"), with_worker=False
    )
    text = node.config.read_text()
    node.config.write_text(text.replace("[node]\n", f"[node]\n{LIMITS}", 1))
    node.start()
    wait_for("all listen", lambda: node.log.read_text().count("listens on port") == 2)
    try:
        yield node
    finally:
        node.stop()


def listeners(node: NodeProcess) -> list[int]:
    assert node.process is not None
    pid = node.process.pid
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if b"listener" in words:
            found.append(int(child))
    return found


def associate(node: NodeProcess, calling: str = "XRAY1") -> Association:
    ae = AE(calling)
    ae.add_requested_context(DX, "1.2.840.10008.1.2.1")
    return ae.associate("127.0.0.1", node.port, ae_title="CHEXFRACT")


def are_taken(node: NodeProcess, count: int) -> bool:
    """Return whether so many associations are taken at one time; end them."""
    associations = [associate(node) for _ in range(count)]
    taken = [assoc.is_established for assoc in associations]
    for assoc in associations:
        assoc.release()
    return all(taken)


def test_associations_are_counted_across_listeners(node: NodeProcess) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            assoc = associate(node)
            stack.callback(assoc.release)
            assert assoc.is_established
        further = associate(node)
        assert further.is_rejected
        assert (further.acceptor.primitive.result, further.acceptor.primitive.diagnostic) == (2, 2)

    wait_for("there is room again", lambda: are_taken(node, 4))


def test_each_listener_takes_images_at_once(node: NodeProcess, tmp_path: Path) -> None:
    files = [written(tmp_path, radiograph(), f"{n}.dcm") for n in range(3)]
    with ExitStack() as stack:
        associations = [associate(node) for _ in files]
        for assoc in associations:
            stack.callback(assoc.release)
        assert [
            assoc.send_c_store(path).Status for assoc, path in zip(associations, files, strict=True)
        ] == [0] * 3


def test_what_a_killed_listener_held_is_not_counted_any_more(node: NodeProcess) -> None:
    held: list[Association] = []

    def are_held() -> bool:
        held.extend(associate(node) for _ in range(4 - len(held)))
        held[:] = [assoc for assoc in held if assoc.is_established]
        return len(held) == 4

    wait_for("four associations of the peer", are_held)
    victims = listeners(node)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)

    wait_for("four associations of the peer", lambda: are_taken(node, 4))
    wait_for("two listeners again", lambda: len(listeners(node)) == 2)
    assert not set(listeners(node)) & set(victims)


def test_a_reload_reaches_every_listener(node: NodeProcess) -> None:
    text = node.config.read_text()
    head = re.split(r"\[peers", text)[0]
    node.config.write_text(head + PEER.format(name="other", ae="OTHER1"))
    assert node.run("reload").returncode == 0
    assert not any(associate(node).is_established for _ in range(9))
    assert all(node.answers("OTHER1") for _ in range(9))
    node.config.write_text(text)
    assert node.run("reload").returncode == 0
    assert all(node.answers() for _ in range(3))


def test_all_end_with_the_node(node: NodeProcess) -> None:
    assert node.process is not None
    before = listeners(node)
    assert len(before) == 2
    node.stop(signal.SIGTERM)
    assert not any(Path(f"/proc/{pid}").exists() for pid in before)
