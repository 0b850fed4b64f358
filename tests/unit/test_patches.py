"""What is changed inside pynetdicom: applied by a call, and still needed by this version."""

from __future__ import annotations

import inspect
import logging
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, cast

import pynetdicom
import pytest
from pynetdicom import AE, _config, association, dimse, dul, evt, fsm
from pynetdicom.service_class import ServiceClass
from pynetdicom.transport import AssociationSocket
from stations import wait_for

from dicom_node.base.errors import Unreachable
from dicom_node.dimse import patches
from dicom_node.dimse.scu import Destination
from dicom_node.settings import Peer

UNCHANGED = """
import logging
from pynetdicom import _config
from pynetdicom.service_class import ServiceClass
from pynetdicom.transport import AssociationSocket
before = (_config.LOG_HANDLER_LEVEL, _config.STORE_SEND_CHUNKED_DATASET,
          AssociationSocket._shutdown_socket, logging.getLogger("pynetdicom.dul").level)
import dicom_node.dimse.{module}
after = (_config.LOG_HANDLER_LEVEL, _config.STORE_SEND_CHUNKED_DATASET,
         AssociationSocket._shutdown_socket, logging.getLogger("pynetdicom.dul").level)
assert before == after, (before, after)
"""


@pytest.mark.parametrize("module", ["scp", "scu", "commitment", "archive"])
def test_an_import_changes_nothing(module: str) -> None:
    program = UNCHANGED.format(module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_call_changes_it_once_and_for_all() -> None:
    patches.apply()
    patches.apply()
    assert _config.LOG_HANDLER_LEVEL == "none"
    assert not _config.LOG_REQUEST_IDENTIFIERS
    assert not _config.LOG_RESPONSE_IDENTIFIERS
    assert _config.STORE_SEND_CHUNKED_DATASET
    assert logging.getLogger("pynetdicom.dul").level == logging.CRITICAL
    assert AssociationSocket._shutdown_socket is patches._close_socket


def test_the_version_is_one_that_is_known() -> None:
    assert patches.is_known(), f"look at each patch with pynetdicom {pynetdicom.__version__}"


def test_a_refused_connection_leaks_no_socket() -> None:
    """ResourceWarning is an error in these tests."""
    from dicom_node.dimse.contexts import VERIFICATION
    from dicom_node.dimse.entity import entity

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ae = entity("ASKS", 16384)
    ae.add_requested_context(VERIFICATION)
    assoc = ae.associate("127.0.0.1", port)
    assert not assoc.is_established
    assert isinstance(assoc.dul.socket, patches._Closed | AssociationSocket)
    assoc.dul.socket.close()


NEEDED = {
    "a release is forgotten": (
        ServiceClass._wrap_handler,
        "self.assoc.acse.is_release_requested()",
    ),
    "reading has no deadline": (AssociationSocket.recv, "nr_bytes", "self.socket.recv(bufsize)"),
    "a data set is gathered in memory": (dimse.DIMSEServiceProvider, "message.decode_msg"),
    "one PDU is read by a method": (dul.DULServiceProvider, "def _read_pdu_data"),
    "a request is decoded by a method": (dul.DULServiceProvider, "def _decode_pdu"),
    "the version must be 1": (fsm.AE_6, "protocol_version != 0x0001"),
    "the reactor's end closes nothing": (dul.DULServiceProvider.run_reactor, "_kill_thread"),
    "an association's thread looks around": (
        association.Association._run_reactor,
        "time.sleep(0.001)",
        "self._reactor_checkpoint.wait()",
    ),
    "others wait until it has stopped": (
        association.Association.release,
        "while not self._is_paused:",
        "time.sleep(0.0001)",
    ),
    "the provider looks around": (
        dul.DULServiceProvider.run_reactor,
        "time.sleep(self._run_loop_delay)",
    ),
    "any message counts as the response": (
        association.Association,
        "self.dimse.get_msg(block=True)",
    ),
}


@pytest.mark.parametrize("place", NEEDED.values(), ids=NEEDED)
def test_what_is_changed_is_where_it_was(place: tuple[Any, ...]) -> None:
    source = inspect.getsource(place[0])
    for text in place[1:]:
        assert text in source


def test_plain_pynetdicom_cannot_read_a_title_padded_with_nul() -> None:
    from wire import request

    made = pynetdicom.pdu.A_ASSOCIATE_RQ()
    with pytest.raises(ValueError, match="Invalid 'Called AE Title'"):
        made.decode(request(pad=b"\0"))


def test_plain_pynetdicom_cannot_read_an_item_that_it_does_not_know() -> None:
    from wire import USER, item, request

    made = pynetdicom.pdu.A_ASSOCIATE_RQ()
    with pytest.raises(KeyError):
        made.decode(request(user=USER + item(0x5F, b"x")))


@pytest.fixture
def echoing() -> Iterator[association.Association]:
    """An association to a server of this process, with the patches."""
    from dicom_node.dimse.contexts import VERIFICATION
    from dicom_node.dimse.entity import entity

    ae = entity("ECHOES", 16384)
    ae.add_supported_context(VERIFICATION)
    ae.add_requested_context(VERIFICATION)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    assoc = ae.associate("127.0.0.1", server.server_address[1])
    assert assoc.is_established
    yield assoc
    assoc.release()
    server.shutdown()


def test_an_idle_association_wakes_a_few_times_a_second(
    echoing: association.Association, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[float] = []
    sleep = echoing.dul._sleep
    monkeypatch.setattr(echoing.dul, "_sleep", lambda s: (woken.append(s), sleep(s)))
    threading.Event().wait(1)
    assert len(woken) <= 10, "pynetdicom's own would be a thousand"


def test_echoes_that_follow_one_another_are_all_answered(
    echoing: association.Association,
) -> None:
    assert [echoing.send_c_echo().Status for _ in range(300)] == [0] * 300


def test_an_association_releases_itself_after_its_time_out(
    echoing: association.Association,
) -> None:
    echoing.network_timeout_response = "A-RELEASE"
    echoing.network_timeout = 0.2
    echoing.dul._idle_timer.restart()
    echoing.join(60)
    assert echoing.is_released


def test_descriptors_of_ended_associations_are_given_back(
    echoing: association.Association,
) -> None:
    news = echoing._news
    echoing.release()
    echoing.dul.join(60)
    news.wake_provider()
    assert news._for_provider == -1


def test_an_interrupted_association_leaves_no_thread() -> None:
    ae = AE("ASKS")
    assoc = association.Association(ae, "requestor")
    assoc.dul.socket = patches._Closed()
    assoc.dul.start()
    patches.forsake(ae)
    assoc.dul.join(5)
    assert not assoc.dul.is_alive()


def test_a_rejection_is_heard_where_the_connection_ends_with_it() -> None:
    """DCMTK's storescp --refuse rejects and closes; on a busy machine nobody had read why."""
    rejection = struct.pack(">BxLBBBB", 3, 4, 0, 1, 1, 3)

    def closed(event: evt.Event) -> None:
        provider = event.assoc.dul
        wait_for("the answer", lambda: provider.to_user_queue.qsize(), 60)
        wait_for("the end", lambda: not cast("Any", provider.socket)._is_connected, 60)

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reject() -> None:
            connection, _ = listening.accept()
            with connection:
                length = struct.unpack(">2xL", connection.recv(6, socket.MSG_WAITALL))[0]
                connection.recv(length, socket.MSG_WAITALL)
                connection.sendall(rejection)

        other = threading.Thread(target=reject)
        other.start()
        port = listening.getsockname()[1]
        peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout=60)
        to = Destination("NODE", peer, [(evt.EVT_REQUESTED, closed)])
        with pytest.raises(Unreachable, match="does not know the calling AE title"):
            to.connect(["1.2.840.10008.5.1.4.1.1.88.34"])
        other.join()
