"""Tells people of trouble by webhook and mail, once, and again when it lasts.

What is wrong is asked of `dicom_node.conditions`, as the pages and doctor do.
A message holds counts and names of peers; patient data never, identifiers only where the site
asked for them.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from dicom_node.base.errors import Unreachable
from dicom_node.base.plurals import counted
from dicom_node.conditions import all_now, models_claimed
from dicom_node.flow.loop import Loop
from dicom_node.settings import Notify, Settings
from dicom_node.store.ledger import Ledger, Waiting
from dicom_node.store.spool import Spool

logger = logging.getLogger(__name__)

LOOK_S = 15.0
"""How often trouble is looked for."""

TURN = "notify"

ANSWER_S = 15.0
LISTED = 20
"""Failed images whose identifiers stand in one message."""


SENT_LATER = ("archive-away", "no-worker", "idle-worker", "broker-away")
"""Conditions that often pass by themselves: they are sent when they have lasted."""
LEFT_OUT = ("no-worker-yet", "refused-caller", "held")
"""Conditions that stop no images, or that somebody has wished: the pages show them."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that somebody has to look at."""

    key: str
    """What it is, without figures: the same trouble is reported once."""
    what: str
    text: str
    """``what``, and what to do about it."""


Tell = Callable[[str, list[str]], None]
"""Takes a subject and lines."""


class Notifier:
    """Looks at the ledger and the disk, and tells what is new.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    spool : Spool
    tells : sequence of callable, optional
        Ways to tell; those of ``[notify]`` when left out.
    """

    def __init__(
        self, settings: Settings, ledger: Ledger, spool: Spool, tells: list[Tell] | None = None
    ) -> None:
        self._settings = settings
        self._notify = settings.notify
        self._ledger = ledger
        self._spool = spool
        self._tells = ways(settings.notify) if tells is None else tells
        self._told: dict[str, float] = {}
        self._since: dict[str, float] = {}
        self._texts: dict[str, str] = {}
        self._event: int | None = None
        self.clock = ledger.clock

    def loop(self) -> Loop:
        """Return the loop that looks every few seconds."""
        return Loop(
            "notification",
            self.step,
            self.clock,
            on_end=lambda: self._ledger.turns.give_back(TURN),
        )

    def step(self) -> float:
        """Look once; tell what is new, what lasts too long, and what is over."""
        if not self._tells:
            return LOOK_S
        if self._ledger.turns.take(TURN):
            self._look_for_trouble(self.clock.wall())
        else:  # another node on this ledger tells; when that has gone, we go on from here
            self._event = self._ledger.history.newest_event()
        return LOOK_S

    def _look_for_trouble(self, now: float) -> None:
        found = {trouble.key: trouble for trouble in self._lasting_trouble(now)}
        over = [key for key in self._told if key not in found]
        due = self._notify.remind_after
        new = [t for key, t in found.items() if now - self._told.get(key, 0.0) >= due]
        failures, newest = self._failure_lines()
        failures += self._given_up(newest)
        lines = [trouble.text for trouble in new] + failures
        lines += [f"over: {self._texts.get(key, key)}" for key in over]
        if lines:
            name = self._settings.node.ae_title
            is_good = not (new or failures)
            subject = f"{name}: {'over' if is_good else 'trouble'}: {lines[0]}"[:120]
            if not self._tell_everybody(subject, lines):
                return  # the same will be found again in the next round
        self._event = newest
        self._told = {key: self._told[key] for key in found if key in self._told}
        self._told |= dict.fromkeys((trouble.key for trouble in new), now)
        self._texts = {key: trouble.what for key, trouble in found.items()}

    def _lasting_trouble(self, now: float) -> Iterator[Trouble]:
        """Yield trouble that lasts until somebody ends it, in the words of the pages."""

        def here(waiting: Mapping[str, Waiting]) -> set[str]:
            return models_claimed(waiting, self._ledger.results.workers(), now)

        wrong = all_now(self._settings, self._ledger, self._spool, here)
        found = {
            f"{condition.key} {condition.name}": condition
            for condition in wrong
            if condition.key not in LEFT_OUT
        }
        self._since = {key: self._since.get(key, now) for key in found}
        for key, since in self._since.items():
            condition = found[key]
            if condition.key not in SENT_LATER:
                yield Trouble(key, condition.text, f"{condition.text} {condition.advised}")
            elif now - since >= self._notify.destination_down_for:
                lasts = f"This has lasted {_in_minutes(now - since)}."
                yield Trouble(key, condition.text, f"{condition.text} {lasts} {condition.advised}")

    def _failure_lines(self) -> tuple[list[str], int]:
        """Return one line for jobs that failed since the last look, and the last event."""
        newest = self._ledger.history.newest_event()
        if self._event is None:
            return [], newest
        failed = self._ledger.history.events_after(self._event, 1000, stages=("failed",))
        if not failed:
            return [], newest
        lines = [f"{counted(len(failed), 'image')} failed; see the worklist, state Failed"]
        if self._notify.with_identifiers:
            lines += [f"failed: {event.sop_instance_uid}" for event in failed[:LISTED]]
        return lines, newest

    def _given_up(self, newest: int) -> list[str]:
        """Return one line for deliveries that `delivery.give_up` has ended since the last look."""
        ended = self._ledger.history.events_after(self._event or 0, 1000, stages=("given up",))
        ended = [event for event in ended if event.id <= newest]
        if self._event is None or not ended:
            return []
        reports = counted(len(ended), "report")
        lines = [f"{reports} given up: refused again and again; `resend` tries again"]
        if self._notify.with_identifiers:
            lines += [f"given up: {event.sop_instance_uid}" for event in ended[:LISTED]]
        return lines

    def _tell_everybody(self, subject: str, lines: list[str]) -> bool:
        """Tell by every way; return whether one of them worked."""
        worked = False
        for tell in self._tells:
            try:
                tell(subject, lines)
                worked = True
            except Unreachable as exc:
                logger.warning("nobody could be notified: %s", exc)
        return worked


def ways(notify: Notify) -> list[Tell]:
    """Return the ways that ``[notify]`` names."""
    found: list[Tell] = []
    if notify.webhook is not None:
        url = notify.webhook.get_secret_value()
        found.append(lambda subject, lines: post(url, subject, lines))
    if notify.mail_to:
        found.append(lambda subject, lines: mail(notify, subject, lines))
    return found


def post(url: str, subject: str, lines: list[str]) -> None:
    """Post a JSON object with ``text`` (what chats show), ``subject`` and ``lines``.

    Raises
    ------
    Unreachable
        There is no answer, or the answer is not a success.
    """
    import httpx2

    content: dict[str, Any] = {"text": "\n".join([subject, *lines]), "subject": subject,
                               "lines": lines}  # fmt: skip
    try:
        answer = httpx2.post(url, json=content, timeout=ANSWER_S, follow_redirects=False)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as exc:
        # The URL is often a secret and stands in some messages.
        raise Unreachable(f"the webhook gives no answer ({type(exc).__name__})") from None
    if not answer.is_success:
        raise Unreachable(f"the webhook answers {answer.status_code}")


def mail(notify: Notify, subject: str, lines: list[str]) -> None:
    """Send a mail.

    Raises
    ------
    Unreachable
        The mail server gives no answer or refuses.
    """
    message = EmailMessage()
    message["Subject"] = " ".join(subject.split())
    message["From"] = notify.mail_from
    message["To"] = ", ".join(notify.mail_to)
    message.set_content("\n".join(lines) + "\n")
    with post_office(notify) as server:
        server.send_message(message)


@contextmanager
def post_office(notify: Notify, limit_s: float = ANSWER_S) -> Iterator[smtplib.SMTP]:
    """Yield the mail server, signed in.

    Raises
    ------
    Unreachable
        It gives no answer or refuses, also what is asked of it in the block.
    """
    where = (notify.smtp_host, notify.smtp_port)
    context = ssl.create_default_context()
    try:
        with (
            smtplib.SMTP_SSL(*where, timeout=limit_s, context=context)
            if notify.smtp_tls == "tls"
            else smtplib.SMTP(*where, timeout=limit_s) as server
        ):
            if notify.smtp_tls == "starttls":
                server.starttls(context=context)
            if notify.smtp_user and notify.smtp_password is not None:
                server.login(notify.smtp_user, notify.smtp_password.get_secret_value())
            yield server
    except (OSError, smtplib.SMTPException) as exc:
        raise Unreachable(f"mail by {where[0]}:{where[1]}: {type(exc).__name__}") from exc


def _in_minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
