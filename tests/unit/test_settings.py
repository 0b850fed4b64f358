"""node.toml and worker.toml: right files load, wrong ones say which key and why."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dicom_node.base.errors import ConfigurationError
from dicom_node.flow.deliver import Pace
from dicom_node.settings import Duration, Settings, Size, duration_text, load, shown, size_text
from dicom_node.store.ledger import Ledger
from worker import settings as worker_settings

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def written(folder: Path, content: str) -> Path:
    path = folder / "node.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_the_shipped_files_load_as_they_are() -> None:
    assert load(CONFIGS / "node.toml").rules[0].model == "phantom"
    assert worker_settings.load(CONFIGS / "worker.toml").worker.model == "phantom"


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    shipped, default = load(CONFIGS / "node.toml"), Settings()
    for section in ("node", "web", "broker", "report", "retention"):
        assert getattr(shipped, section) == getattr(default, section), section


def test_an_empty_file_is_a_node_without_rules(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")).rules == ()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[node]\nport = 'x'", "node.port: "),
        ("[node]\nprot = 1", "node.prot: unknown key"),
        ("[nod]\n", "nod: unknown key"),
        ("[node]\nae_title = 'SEVENTEEN_LETTERS'", "node.ae_title: "),
        ("[node]\nae_title = 'BACK\\\\SLASH'", "node.ae_title: "),
        ("[retention]\nimages = 'soon'", "retention.images: "),
        ("[broker]\nurl = 'amqp://x'", "broker.url: "),
        ("[peers.a]\nae_title = 'A'", "peers.a.host: "),
        ("[[rules]]\nname = 'r'\nmode = 'shadow'\nsend_to = ['b']", "no peer is named 'b'"),
        ("[[rules]]\nname = 'r'", "allow_demonstration"),
        ("[[rules]]\nname = 'r'\nmatch.colour = ['red']", "rule 'r': match.colour: unknown key"),
        ("[web]\nhost = '0.0.0.0'\nsign_in = false", "loopback"),
        ("[node", "line 1: [node is not closed; write [node]"),
        ("[node]\nport = 1\n[node]\n", "line 3: the table [node] stands twice (first in line 1)"),
        ("[node]\nport = 1\nport = 2\n", "line 3: port stands twice"),
        ("[node]\nae_title = CHEX", "line 2: the value of ae_title is not TOML; write text in quo"),
        ("[node]\nprot = 1", "node.prot: unknown key; did you mean port?"),
        ("[node]\nsecret_file = 'x'", "unknown key; did you mean secret_file in [web]?"),
        ("[retention]\nimages = 'one day'", "'one day' is not a duration; write \"24h\""),
        ("[retention]\nmin_free = '2 gigs'", "'2 gigs' is not a size; write \"2GB\""),
        ("[node]\nport = 8080", "node.port and web.port are both 8080"),
        ("[rules]\nname = 'r'", "rules: write [[rules]], in double brackets"),
        ("[[peers]]\nae_title = 'A'", "peers: write [peers.NAME], in single brackets"),
        ("[[rules]]\nname = 'r'\nmode = 'alive'", "mode: 'alive' is not known; write \"live\" or"),
        ("[[rules]]\nname = 'r'\nsend_to = '@sender'", 'send_to: write a list: ["@sender"]'),
        ("[[rules]]\nname='r'\nmode='shadow'\n" * 2, "rule 'r' stands 2 times"),
        ("[peers.'a b']\nae_title='A'\nhost='a'\nport=1", "'a b' is not a name of 1 to 64 letters"),
        ("[node]\nae_title = 'SEVENTEEN_LETTERS'", "is not an AE title; write 1 to 16 ASCII"),
        ("[web]\nsecret = 5", "web.secret: this is not text"),
        ("node = 5", "node: is a table: write [node] and its keys below"),
        ("[delivery]\nrefused_first = 0", "0 is out of range; write more than 0"),
        ("[node]\nae_title = 'PACS\n", "line 2: the text in the value of ae_title has no closing"),
        ("[node]\nae_title = “PACS”", 'write straight quotes: "…"'),
        ("[node]\nae_title = PACS 1", 'write text in quotes: "PACS 1"'),
        ("[node]\nknown_peers_only = True", "write true, in small letters and without quotes"),
        ("[node]\nknown_peers_only = no", "write false, in small letters and without quotes"),
        ('[node]\ndata_dir = "C:\\new\\data"', "a backslash in the value of data_dir; write it in"),
        ("[retention]\nimages = 7d", 'the value of images is not TOML; write text in quotes: "7d"'),
        ("[node.retention]\nimages = '7d'", "did you mean the table [retention]?"),
        ("[node]\ntime_zone = 'Berlin'", "time_zone: 'Berlin' is not a time zone; write one such"),
        ("[web]\nhost = 'http://a.example'", "web.host: 'http://a.example' is not a host; write a"),
        ("[web]\nurl = 'a.example:8080'", 'web.url: this is not an address; write "http://host'),
        ("[peers.a]\nae_title='A'\nhost='10.0.0.5:104'\nport=1", "without the port"),
        (
            "[node]\nlisteners = 'many'",
            "node.listeners: 'many' is not a number of processes; write",
        ),
        ("[node]\nlisteners = 0", "node.listeners: 0 is not a number of processes; write"),
        ("[node]\nproxies = ['balancer']", "node.proxies.0: 'balancer' is not an address or a n"),
        ("[web]\nproxy_addresses = ['p']", "web.proxy_addresses.0: 'p' is not an address or a ne"),
        ("[[rules]]\nname='r'\nsend_to='a, b'", 'send_to: write a list: ["a", "b"]'),
        ("[[peers.a]]\nae_title = 'A'", "peers.a: write [peers.a], in single brackets"),
        ("port = 104", "port: unknown key; did you mean port in [node]?"),
        ("[node]\nport = 0104", "the value of port is not TOML; write 104"),
        ("[node]\nport == 104", "the value of port is not TOML; write a single ="),
        ("[node]\nae_titles = ['A'\n[web]\n", "line 2: the list in the value of ae_titles has no"),
        ("[node]\nledger = 'mysql://a:b@c/d'", 'node.ledger: this is not a ledger; write "sqlite"'),
        (
            "[peers.archive]\nae_title='A'\nhost='h'\nport=1\n"
            "[[rules]]\nname='r'\nmode='shadow'\nsend_to=['archiv']",
            "no peer is named 'archiv'; did you mean 'archive'?",
        ),
    ],
)
def test_a_wrong_file_names_the_key_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, content))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_several_faults_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, "[node]\nport = -1\n[web]\nport = 70000"))
    assert "node.port" in str(caught.value)
    assert "web.port" in str(caught.value)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("host", ["a.example", "::1", "fe80::1%eth0", "::ffff:10.0.0.5", "X-RAY_1"])
def test_names_and_addresses_are_hosts(tmp_path: Path, host: str) -> None:
    assert load(written(tmp_path, f"[web]\nhost = '{host}'\nsign_in = true")).web.host == host


def test_a_value_of_the_environment_is_not_looked_for_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHEXFRACT_NODE__PORT", "many")
    with pytest.raises(ConfigurationError, match="from the environment: CHEXFRACT_NODE__PORT"):
        load(written(tmp_path, "[node]\nport = 104"))


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a folder"):
        load(tmp_path)


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHEXFRACT_NODE__PORT", "4104")
    assert load(written(tmp_path, "[node]\nport = 104\nae_title = 'X'")).node.port == 4104
    assert load(written(tmp_path, "[node]\nport = 104\nae_title = 'X'")).node.ae_title == "X"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2m", 120), ("24h", 86400), ("365d", 31536000), (5, 5)]
)
def test_durations_are_read(tmp_path: Path, text: str | int, seconds: float) -> None:
    content = f"[retention]\nimages = {text!r}"
    assert load(written(tmp_path, content)).retention.images == seconds


@given(st.floats(0, 1e9) | st.integers(0, 10**9).map(float))
def test_a_duration_in_words_is_read_as_the_same(seconds: float) -> None:
    read = TypeAdapter(Duration).validate_python(duration_text(seconds))
    assert read == pytest.approx(seconds, rel=1e-12, abs=0)


@given(st.integers(0, 10**15))
def test_a_size_in_words_is_read_as_the_same(size: int) -> None:
    assert TypeAdapter(Size).validate_python(size_text(size)) == size


def test_what_is_in_force_can_be_shown_with_units(tmp_path: Path) -> None:
    settings = load(written(tmp_path, "[retention]\nimages = '36h'\nreports = '90.5s'"))
    assert shown(settings)["retention"]["images"] == 129600.0
    retention = shown(settings, with_units=True)["retention"]
    assert retention["images"] == "36h"
    assert retention["reports"] == "90.5s"
    assert retention["history"] == "0s"
    assert retention["min_free"] == "2GB"
    assert retention["ignored"] is None


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    shown = load(written(tmp_path, "[web]\nsecret = 'twenty-characters-xx'")).model_dump_json()
    assert "twenty" not in shown


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[worker]\nmodel = 'other'", "no table [models.other]"),
        ("[worker]\nbatch = 0", "worker.batch"),
        ("[worker]\nbroker = 'embedded'", "worker.broker"),
        ("[worker]\ncolour = 1", "worker.colour: unknown key"),
        ("[models.x]\npath = 'p'", "models.x.engine"),
    ],
)
def test_a_wrong_worker_file_names_the_key(tmp_path: Path, content: str, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigurationError) as caught:
        worker_settings.load(path)
    assert says in str(caught.value)


def test_the_waits_of_deliveries_are_the_deliverers_own() -> None:
    waits, pace = Settings().delivery, Pace()
    assert (waits.refused_first, waits.refused_longest) == pace.refused
    assert (waits.silent_first, waits.silent_longest) == pace.silent


@pytest.mark.parametrize(
    ("key", "value"),
    [("web.secret", ["a-secret-in-a-list"]), ("broker.url", "amqp://u:a-secret-word@host")],
)
def test_no_message_repeats_a_secret(tmp_path: Path, key: str, value: object) -> None:
    table, name = key.split(".")
    with pytest.raises(ConfigurationError) as caught:
        load(written(tmp_path, f"[{table}]\n{name} = {value!r}"))
    assert "a-secret" not in str(caught.value)


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"[report]\nseries_description = 'R\xf6ntgen'\n")
    with pytest.raises(ConfigurationError, match="line 2 is not UTF-8 text"):
        load(path)


def test_a_variable_that_should_hold_a_table_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHEXFRACT_PEERS", "not json")
    with pytest.raises(ConfigurationError, match="environment: "):
        load(written(tmp_path, ""))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:geheim@host:6379/0",
        "redis://user:geheim@host:6379/0",
        "redis://host:6379/0?password=geheim&db=1",
        "sentinel://:geheim@a:26379;sentinel://:geheim@b:26379?sentinel_kwargs_password=geheim",
        "rediss://host/0?ssl_password=geheim",
    ],
)
def test_no_password_of_an_address_is_shown(tmp_path: Path, url: str) -> None:
    table = shown(load(written(tmp_path, f"[broker]\nurl = {url!r}")))["broker"]
    assert "geheim" not in table["url"]
    assert "host" in table["url"] or "b:26379" in table["url"]


def test_no_password_of_the_ledger_is_shown() -> None:
    ledger = Ledger("postgresql+psycopg://host/name?user=u&password=geheim")
    assert "geheim" not in ledger.name
    assert "host/name" in ledger.name


def test_the_environment_sets_tables_within_tables_and_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "CHEXFRACT_PEERS__ARCHIVE__HOST": "10.0.0.9",
        "chexfract_peers__archive__port": "4105",
        "CHEXFRACT_NODE__AE_TITLES": '["OTHER"]',
        "CHEXFRACT_RETENTION__IMAGES": "5h",
        "CHEXFRACT_HEART": "7",  # of no table: not a setting
    }.items():
        monkeypatch.setenv(name, value)
    peer = "[peers.archive]\nae_title = 'ARCHIVE'\nhost = 'a'\nport = 1\nmay = ['store']"
    found = load(written(tmp_path, f"[node]\nport = 104\n{peer}"))
    archive = found.peers["archive"]
    assert (archive.host, archive.port, archive.may) == ("10.0.0.9", 4105, ("store",))
    assert (found.node.port, found.node.ae_titles) == (104, ("OTHER",))
    assert found.retention.images == 5 * 3600


def test_a_key_of_the_environment_that_no_table_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHEXFRACT_NODE__PROT", "104")
    with pytest.raises(ConfigurationError, match=r"node\.prot"):
        load(written(tmp_path, ""))


def test_a_table_named_self_is_an_unknown_key(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("self = 1\n")
    with pytest.raises(ConfigurationError, match="self: unknown key"):
        load(config)
