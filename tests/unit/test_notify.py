"""Trouble is reported once, again when it lasts, and when it is over; never with patient data."""

from __future__ import annotations

import json
import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pages
import pytest
import scene
from ledgers import on
from pydantic import ValidationError
from serving import Api, serving

from dicom_node.base.errors import Unreachable
from dicom_node.conditions import Condition, of_disk
from dicom_node.operate.notify import Notifier, mail, post, ways
from dicom_node.settings import Notify, Settings

NAME = "Secret^Name"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving(tmp_path, sign_in=False) as running:
        yield running


def notifier(api: Api, **keys: Any) -> tuple[Notifier, list[tuple[str, list[str]]]]:
    messages: list[tuple[str, list[str]]] = []
    settings = api.settings.model_copy(update={"notify": Notify(**keys)})
    made = Notifier(settings, api.ledger, api.spool, [lambda s, lines: messages.append((s, lines))])
    return made, messages


def failed(api: Api) -> str:
    content = b"\0" * 128 + b"DICM" + bytes([api.count])
    uid = pages.keep(api, content, pages.route(), patient_name=NAME, accession_number="ACC-7")
    pages.fail(api, pages.claimed(api))
    return uid


def held(api: Api) -> None:
    pages.keep(api, b"\0" * 128 + b"DICM held", pages.route(), patient_name=NAME)
    pages.reported(api, pages.claimed(api))
    pages.deliver(api, None)


def test_nothing_is_told_while_all_is_well(api: Api) -> None:
    looks, messages = notifier(api)
    for now in (2e9, 2e9 + 60):
        on(looks, now).step()
    assert messages == []


def test_failures_since_the_last_look_are_told_once_and_without_names(api: Api) -> None:
    failed(api)
    looks, messages = notifier(api)
    on(looks, 2e9).step()
    assert messages == []  # from before the start
    failed(api)
    failed(api)
    on(looks, 2e9 + 15).step()
    on(looks, 2e9 + 30).step()
    ((subject, lines),) = messages
    assert subject.startswith("CHEXFRACT: trouble")
    assert lines == ["2 images failed; see the worklist, state Failed"]


def test_identifiers_are_told_where_the_site_asks_for_them_and_names_never(api: Api) -> None:
    looks, messages = notifier(api, with_identifiers=True)
    on(looks, 2e9).step()
    uid = failed(api)
    on(looks, 2e9 + 15).step()
    assert f"failed: {uid}" in messages[0][1]
    assert NAME not in str(messages)


def test_a_silent_destination_is_told_after_a_while_reminded_and_told_to_be_back(
    api: Api,
) -> None:
    looks, messages = notifier(api, destination_down_for="10m", remind_after="1h")
    held(api)
    start = 2e9
    for now in (0, 500):
        on(looks, start + now).step()
    assert messages == []
    on(looks, start + 600).step()
    on(looks, start + 700).step()
    assert len(messages) == 1
    text = messages[0][1][0]
    assert text.startswith("modality is away (gives no answer within 30 s): 1 report waits")
    assert "This has lasted 10 min. Test it on the page Peers" in text
    on(looks, start + 4300).step()
    assert len(messages) == 2
    for delivery in on(api.ledger, start).deliveries.due(destination="modality"):
        api.ledger.deliveries.delivered(delivery.id, 0)
    on(looks, start + 4400).step()
    assert messages[2][1] == [
        "over: modality is away (gives no answer within 30 s): 1 report waits for it."
    ]
    on(looks, start + 4500).step()
    assert len(messages) == 3


def test_a_full_disk_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, messages = notifier(api)
    monkeypatch.setattr(api.spool, "min_free", 10**18)
    on(looks, 2e9).step()
    assert "The disk is full: images are refused." in messages[0][0]
    assert messages[0][1] == [f"{event.text} {event.advised}" for event in the_same(api)]


def the_same(api: Api) -> list[Condition]:
    """What the pages say of a full disk."""
    return list(of_disk(shutil.disk_usage(api.spool.root).free, 10**18, api.spool.root))


def test_jobs_without_a_worker_are_told_when_that_lasts_and_by_whom_to_start(api: Api) -> None:
    looks, messages = notifier(api, destination_down_for="10m")
    pages.keep(api, b"\0" * 128 + b"DICM waits", pages.route())
    for now in (0, 599):
        on(looks, 2e9 + now).step()
    assert messages == []
    on(looks, 2e9 + 600).step()
    assert "No worker of the model phantom is running: 1 image waits" in messages[0][0]
    assert "chexfract-worker run" in messages[0][1][0]


def test_callers_that_were_refused_are_for_the_pages(api: Api) -> None:
    looks, messages = notifier(api)
    scene.refuse(api)
    on(looks, api.ledger.clock.wall()).step()
    assert messages == []


def test_what_nobody_could_be_told_is_told_again(api: Api) -> None:
    looks, _ = notifier(api)
    answers: list[bool] = [False, True]
    messages: list[list[str]] = []

    def tell(subject: str, lines: list[str]) -> None:
        if not answers.pop(0):
            raise Unreachable("away")
        messages.append(lines)

    looks._tells = [tell]
    on(looks, 2e9).step()
    failed(api)
    on(looks, 2e9 + 15).step()
    assert messages == []
    on(looks, 2e9 + 30).step()
    assert "1 image failed" in messages[0][0]


# The ways


@contextmanager
def webhook(status: int) -> Iterator[tuple[str, list[Any]]]:
    got: list[Any] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Takes) as server:
        serving_it = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving_it.start()
        yield f"http://127.0.0.1:{server.server_port}/hooks/token-of-the-chat", got
        server.shutdown()
        serving_it.join()


def test_a_webhook_gets_json() -> None:
    with webhook(204) as (url, got):
        post(url, "subject", ["one", "two"])
    assert got == [{"text": "subject\none\ntwo", "subject": "subject", "lines": ["one", "two"]}]


def test_a_webhook_that_fails_is_named_without_its_address(free_port: int) -> None:
    with webhook(500) as (url, _), pytest.raises(Unreachable, match="answers 500") as caught:
        post(url, "s", [])
    assert "token" not in str(caught.value)
    for wrong in (f"http://127.0.0.1:{free_port}/token", "no url with token"):
        with pytest.raises(Unreachable) as caught:
            post(wrong, "s", [])
        assert "token" not in str(caught.value)


class Mailbox(socketserver.StreamRequestHandler):
    """As much SMTP (RFC 5321) as one mail needs."""

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while (line := self.rfile.readline()) != b".\r\n":
                    self.server.got.append(line.decode().rstrip())  # type: ignore[attr-defined]
            elif word == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            self.wfile.write(b"250 ok\r\n")


def test_a_mail_is_sent_and_a_name_cannot_add_headers() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), Mailbox) as server:
        server.got = []  # type: ignore[attr-defined]
        taking = threading.Thread(target=server.handle_request)
        taking.start()
        keys = {"mail_to": ["a@h.example", "b@h.example"], "mail_from": "node@h.example"}
        where = {"smtp_host": "127.0.0.1", "smtp_port": server.server_address[1]}
        mail(Notify(**keys, **where), "trouble\r\nBcc: evil@x.example", ["one", "zwei ü"])
        taking.join(10)
        text = "\n".join(server.got)  # type: ignore[attr-defined]
    assert "To: a@h.example, b@h.example" in text
    assert "Subject: trouble Bcc: evil@x.example" in text
    assert not any(line.startswith("Bcc") for line in text.splitlines())
    assert "one" in text


def test_a_mail_server_that_is_away_is_said_to_be(free_port: int) -> None:
    keys = {"mail_to": ["a@h.example"], "mail_from": "n@h.example", "smtp_host": "127.0.0.1"}
    with pytest.raises(Unreachable, match=f"127.0.0.1:{free_port}"):
        mail(Notify(**keys, smtp_port=free_port), "s", ["x"])


@pytest.mark.parametrize(
    ("keys", "count"),
    [({}, 0), ({"webhook": "http://x"}, 1), ({"mail_to": ["a@b"], "mail_from": "c@d"}, 1)],
)
def test_each_key_is_a_way(keys: dict[str, Any], count: int) -> None:
    assert len(ways(Notify(**keys))) == count


@pytest.mark.parametrize(
    "keys",
    [{"mail_to": ["a@b"]}, {"smtp_user": "u", "smtp_host": "mail.example"}, {"mail": "a@b"}],
)
def test_keys_that_cannot_work_or_give_a_password_away_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(notify=keys)


def test_without_a_way_the_loop_looks_at_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Notifier, "_look_for_trouble", fail)
    waits = Notifier(api.settings, api.ledger, api.spool).loop().turn()
    assert waits is not None
    assert waits >= 15
