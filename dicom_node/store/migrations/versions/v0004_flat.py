"""Columns and indexes to search by, kept totals, typed events, judgements of readers.

Nothing here takes longer the more rows there are: what old rows lack is filled by
`store.ledger.filling`, indexes and counts are made by `store.ledger.upgrading`, both while the node
runs. Totals and the standing of a job are kept by triggers, whoever writes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLES = ("instances", "jobs", "deliveries", "conflicts")
COUNTED = {
    "instances": ("''", "{row}.state"),
    "jobs": ("{row}.model", "{row}.state"),
    "deliveries": ("{row}.destination", "{row}.state"),
    "conflicts": ("''", "''"),
}
"""By what each table's rows are counted: a name and a state."""

STANDING = """
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'sent')
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
"""
"""One word for how far a job's report has come; `history` shows it. The state is written so that
SQLite does not take the index on it: most deliveries of a ledger are sent."""


def upgrade() -> None:
    for table, columns in {
        "instances": (
            sa.Column("number", sa.Integer(), nullable=True),
            sa.Column("folded_name", sa.Text(), server_default="", nullable=False),
            sa.Column("issuer_of_patient_id", sa.Text(), server_default="", nullable=False),
            sa.Column("study_id", sa.Text(), server_default="", nullable=False),
            sa.Column("referring_physician", sa.Text(), server_default="", nullable=False),
            sa.Column("is_filled", sa.Integer(), server_default="0", nullable=False),
        ),
        "jobs": (
            sa.Column("standing", sa.Text(), server_default="", nullable=False),
            sa.Column("is_kept", sa.Integer(), server_default="1", nullable=False),
            sa.Column("order_id", sa.Integer(), nullable=True),
        ),
        "objects": (sa.Column("modality", sa.Text(), server_default="", nullable=False),),
        "events": (
            sa.Column("instance", sa.Integer(), nullable=True),
            sa.Column("is_typed", sa.Integer(), server_default="0", nullable=False),
        ),
    }.items():
        for column in columns:
            op.add_column(table, column)
    op.create_table(
        "orders",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("content", sa.Text(), nullable=False, unique=True),
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.String(length=32), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False, server_default="0"),
    )
    op.create_table(
        "totals",
        sa.Column("what", sa.String(length=16), primary_key=True),
        sa.Column("name", sa.String(length=64), primary_key=True),
        sa.Column("state", sa.String(length=16), primary_key=True),
        sa.Column("shard", sa.Integer(), primary_key=True),
        sa.Column("n", sa.BigInteger(), nullable=False, server_default="0"),
    )
    op.create_table(
        "judgements",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job", sa.String(length=32), sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False, server_default=""),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False, server_default=""),
        sa.Column("corrected_text", sa.Text(), nullable=False, server_default=""),
        sa.Column("findings", sa.Text(), nullable=False, server_default=""),
    )
    op.create_index("ix_judgements_job", "judgements", ["job"])
    op.create_table(
        "web_sessions",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), server_default="0", nullable=False),
        sa.Column("until", sa.Float(precision=53), server_default="0", nullable=False),
    )
    op.execute("INSERT INTO marks (name, value) VALUES ('filled', 0), ('base', 0)")
    op.execute("UPDATE marks SET value = (SELECT count(*) FROM instances) WHERE name = 'base'")
    op.execute("INSERT INTO marks (name, value) VALUES ('uncounted', 1)")
    (_upgrade_sqlite if op.get_bind().dialect.name == "sqlite" else _upgrade_postgresql)()


def _upgrade_sqlite() -> None:
    op.execute(
        "CREATE VIRTUAL TABLE words USING fts5"
        "(text, content='', columnsize=0, detail='none', tokenize='unicode61')"
    )
    for table in TABLES:
        plus, minus = _upsert_count(table, "NEW", "1"), _upsert_count(table, "OLD", "-1")
        op.execute(f"CREATE TRIGGER {table}_counted AFTER INSERT ON {table} BEGIN {plus}; END")
        op.execute(f"CREATE TRIGGER {table}_dropped AFTER DELETE ON {table} BEGIN {minus}; END")
        if table != "conflicts":
            op.execute(
                f"CREATE TRIGGER {table}_moved AFTER UPDATE ON {table} "
                f"WHEN {_differs_condition(table)} BEGIN {minus}; {plus}; END"
            )
    for name, when in {
        "jobs_standing_first": ("INSERT ON jobs", "", "NEW.id"),
        "jobs_standing": ("UPDATE OF state ON jobs", "OLD.state <> NEW.state", "NEW.id"),
        "deliveries_standing_first": ("INSERT ON deliveries", "", "NEW.job"),
        "deliveries_standing": (
            "UPDATE OF state ON deliveries",
            "OLD.state <> NEW.state",
            "NEW.job",
        ),
        "deliveries_standing_last": ("DELETE ON deliveries", "", "OLD.job"),
    }.items():
        event, condition, job = when
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} {f'WHEN {condition}' if condition else ''} "  # noqa: S608
            f"BEGIN UPDATE jobs SET standing = {STANDING} WHERE id = {job}; END"
        )


def _differs_condition(table: str) -> str:
    pairs = [
        f"{column.replace('{row}', 'OLD')} <> {column.replace('{row}', 'NEW')}"
        for column in COUNTED[table]
        if "{row}" in column
    ]
    return " OR ".join(pairs)


def _upsert_count(table: str, row: str, by: str, shard: str = "0") -> str:
    name, state = (text.replace("{row}", row) for text in COUNTED[table])
    return (
        "INSERT INTO totals (what, name, state, shard, n) "  # noqa: S608 - names from above
        f"VALUES ('{table}', {name}, {state}, {shard}, {by}) "
        f"ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + {by}"
    )


def _upgrade_postgresql() -> None:
    """The same in PL/pgSQL; each connection counts in a row of its own, so that none waits."""
    op.execute("CREATE TABLE words (number INTEGER PRIMARY KEY, text TSVECTOR NOT NULL)")
    op.execute("CREATE INDEX ix_words_text ON words USING gin (text)")
    op.execute("CREATE SEQUENCE instance_numbers")
    op.execute("SELECT setval('instance_numbers', value + 1, false) FROM marks WHERE name = 'base'")
    op.execute("ALTER TABLE instances ALTER number SET DEFAULT nextval('instance_numbers')")
    for table in TABLES:
        plus = _upsert_count(table, "NEW", "1", "pg_backend_pid()")
        minus = _upsert_count(table, "OLD", "-1", "pg_backend_pid()")
        differs = _differs_condition(table) or "false"
        op.execute(
            f"CREATE FUNCTION {table}_count() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'INSERT' THEN {plus}; ELSIF TG_OP = 'DELETE' THEN {minus}; "
            f"ELSIF {differs} THEN {minus}; {plus}; END IF; RETURN NULL; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_counted AFTER INSERT OR DELETE OR UPDATE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_count()"
        )
    for table, job in {"jobs": ("NEW.id", "NEW.id"), "deliveries": ("NEW.job", "OLD.job")}.items():
        update = f"UPDATE jobs SET standing = {STANDING} WHERE id = "  # noqa: S608
        op.execute(
            f"CREATE FUNCTION {table}_stand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP = 'DELETE' THEN {update} {job[1]}; ELSE {update} {job[0]}; END IF; "
            "RETURN NULL; END $$"
        )
        deletes = "OR DELETE " if table == "deliveries" else ""
        op.execute(
            f"CREATE TRIGGER {table}_standing AFTER INSERT {deletes}OR UPDATE OF state ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_stand()"
        )
    # the doorbell: whoever listens looks at the ledger at once
    op.execute(
        "CREATE FUNCTION ledger_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_notify('ledger', ''); RETURN NULL; END $$"
    )
    for table in ("instances", "jobs", "deliveries", "destinations"):
        op.execute(
            f"CREATE TRIGGER {table}_rings AFTER INSERT OR UPDATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION ledger_changed()"
        )


def downgrade() -> None:
    raise NotImplementedError("restore a backup of the older version instead")
