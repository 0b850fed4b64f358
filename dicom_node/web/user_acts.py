"""What administrators do about users: the one way of the page and of the API."""

from __future__ import annotations

from typing import get_args

from dicom_node.base.errors import ConfigurationError, NotFound
from dicom_node.base.plurals import counted
from dicom_node.credentials import close_first_admin
from dicom_node.settings import Role, Settings
from dicom_node.store.ledger import Ledger
from dicom_node.users import (
    User,
    add_user,
    change_role,
    fresh_password,
    read_users,
    remove_user,
    users_file,
)
from dicom_node.web.texts import say

ROLES: tuple[Role, ...] = get_args(Role)

Done = tuple[str, str]
"""What was done, for the audit trail, and a password or a key that is shown this once."""


class UserActs:
    """Adds, changes and removes users of this node's own list.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.path = users_file(settings)
        self._settings = settings
        self._ledger = ledger

    def all_users(self) -> list[User]:
        """Return the users by their names."""
        return sorted(read_users(self.path).values(), key=lambda user: user.name)

    def find_user(self, name: str) -> User:
        """Return a user by name.

        Raises
        ------
        NotFound
            Nobody has this name.
        """
        user = read_users(self.path).get(name)
        if user is None:
            raise NotFound(say("no user has this name"))
        return user

    def add(self, name: str, role: str, password: str = "") -> Done:
        """Add a user, with a password that is made where none is given.

        Raises
        ------
        ConfigurationError
            The name is taken, or name, role or password is not acceptable.
        """
        known, wanted = read_users(self.path), _role_of_text(role)
        if name in known:
            raise ConfigurationError(say("a user has this name already"))
        if not known and wanted != "admin":
            raise ConfigurationError(say("the first user has to be an administrator"))
        made = "" if password else fresh_password(name)
        add_user(self.path, name, wanted, password or made)
        close_first_admin(self._settings)
        return f"{name} is {wanted}, new password", made

    def change_role(self, name: str, role: str) -> Done:
        """Give a user another role; see `users.change_role`."""
        change_role(self.path, name, wanted := _role_of_text(role))
        return f"{name} is {wanted}", ""

    def change_password(self, name: str, password: str = "") -> Done:
        """Give a user another password and end their sessions."""
        user = self.find_user(name)
        made = "" if password else fresh_password(name)
        add_user(self.path, name, user.role, password or made)
        self._ledger.sessions.end_all(name)
        return f"{name} has a new password", made

    def end_sessions(self, name: str) -> Done:
        """End the sessions of a person, who may be one of an identity provider."""
        count = self._ledger.sessions.end_all(name)
        return f"ended: {counted(count, 'session')} of {name}", ""

    def remove(self, name: str) -> Done:
        """Remove a user with their sessions and keys; see `users.remove_user`."""
        remove_user(self.path, name)
        self._ledger.sessions.end_all(name)
        self._ledger.api_keys.end_all(name)
        return f"{name} is removed", ""

    def make_key(self, name: str, label: str, by: str) -> Done:
        """Make a key of the API for a user."""
        self.find_user(name)
        made, text = self._ledger.api_keys.make(name, label, by)
        return f"API key {made.ident} of {name} is made", text


def _role_of_text(text: str) -> Role:
    for role in ROLES:
        if role == text:
            return role
    raise ConfigurationError(say("choose one of the roles"))
