"""A drill is left out where the machine refuses it, not where CI forgot to install a program."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import pytest

from tests import images
from tests.drill import __main__ as storm
from tests.drill import balanced, fail_over, network_cuts, upgrade
from tests.drill.network import NoNamespaces
from tests.support.peers import NOT_POSSIBLE, NotPossible, need, where_possible

Main = Callable[[Sequence[str]], int]
DRILLS: dict[str, tuple[Main, list[str]]] = {
    "storm": (storm.main, []),
    "storm on PostgreSQL": (storm.main, ["--database", "postgresql", "--broker", "stand-in"]),
    "fail-over": (fail_over.main, []),
    "balanced": (balanced.main, []),
    "upgrade": (upgrade.main, []),
    "network cuts": (network_cuts.main, []),
    "image of the node": (images.main, ["node"]),
    "image of the worker": (images.main, ["worker"]),
}


@pytest.mark.parametrize("name", DRILLS)
@pytest.mark.parametrize(("ci", "status"), [("", NOT_POSSIBLE), ("true", 1)])
def test_a_missing_program_fails_a_drill_in_ci_only(
    name: str, ci: str, status: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    main, words = DRILLS[name]
    assert main(words) == status
    assert "is not installed: apt-get install" in capsys.readouterr().err


@pytest.mark.parametrize("ci", ["", "true"])
@pytest.mark.parametrize("refusal", [NotPossible("no loop devices"), NoNamespaces("not permitted")])
def test_what_the_machine_refuses_is_left_out_in_ci_too(
    ci: str, refusal: Exception, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("CI", ci)

    def refused() -> int:
        raise refusal

    assert where_possible("links", refused) == NOT_POSSIBLE
    assert capsys.readouterr().err == f"links: {refusal}\n"


def test_what_a_drill_found_stays_its_exit_code() -> None:
    assert [where_possible("links", lambda code=code: code) for code in (0, 1, 78)] == [0, 1, 78]


def test_every_program_that_a_drill_needs_has_a_package_that_ci_installs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CI", "")
    text = (images.ROOT / ".ci" / "peers.sh").read_text()
    needed = {*fail_over.NEEDED, *balanced.NEEDED, *network_cuts.NEEDED, *images.NEEDED}
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    for program in needed:
        with pytest.raises(pytest.skip.Exception) as missing:
            need(program)
        package = str(missing.value).partition("apt-get install ")[2].split()[0]
        assert package in text, f"{program}: {package}"
