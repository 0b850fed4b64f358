"""A past that takes less room; on PostgreSQL transitions that write each row once.

Nothing here takes longer the more rows there are. Events of Instances that are over move into
`past_events` while the node runs (`ledger.past`); indexes follow by `ledger.upgrading`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

TABLES = {
    "instances": ("''", "{row}.state"),
    "jobs": ("{row}.model", "{row}.state"),
    "deliveries": ("{row}.destination", "{row}.state"),
}
"""By what each table's rows are counted: a name and a state."""

STANDING = """
CASE WHEN {job}.state NOT IN ('reported', 'rejected') THEN {job}.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = {job}.id AND d.state = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = {job}.id AND d.state = 'pending')
         THEN {job}.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = {job}.id AND d.state IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = {job}.id AND d.state = 'committed')
         THEN 'committed'
     ELSE {job}.state END
"""
"""As in 0005."""


def upgrade() -> None:
    op.create_table(
        "past_events",
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("content", sa.Text(), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        _count_in_one_statement()
        _stand_at_once()
        _number_within_studies()


def _function(name: str, body: str, declared: str = "") -> None:
    op.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"{declared} BEGIN {body} END $$"
    )


def _count_in_one_statement() -> None:
    """A row that moves from state to state is one upsert of two rows, and not two upserts."""
    for table, columns in TABLES.items():
        new, old = (tuple(text.replace("{row}", row) for text in columns) for row in ("NEW", "OLD"))
        shard = "pg_backend_pid()"
        plus = f"('{table}', {new[0]}, {new[1]}, {shard}, 1)"
        minus = f"('{table}', {old[0]}, {old[1]}, {shard}, -1)"
        differs = " OR ".join(f"{a} <> {b}" for a, b in zip(old, new, strict=True) if a != b)
        upsert = (
            "INSERT INTO totals (what, name, state, shard, n) VALUES {rows} "
            "ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + EXCLUDED.n;"
        )
        _function(
            f"{table}_count",
            f"IF TG_OP = 'INSERT' THEN {upsert.format(rows=plus)} "
            f"ELSIF TG_OP = 'DELETE' THEN {upsert.format(rows=minus)} "
            f"ELSIF {differs} THEN {upsert.format(rows=f'{minus}, {plus}')} END IF; RETURN NULL;",
        )


def _stand_at_once() -> None:
    """The standing of a job is part of the row that is written, and not a second version of it.

    A delivery locks its job before it looks at the others: two that end at the same moment each
    saw the other as it was before, and the job stood as reported for ever.
    """
    op.execute("DROP TRIGGER IF EXISTS jobs_standing ON jobs")
    _function("jobs_stand", f"NEW.standing := {STANDING.format(job='NEW')}; RETURN NEW;")
    op.execute(
        "CREATE TRIGGER jobs_standing BEFORE INSERT OR UPDATE OF state ON jobs "
        "FOR EACH ROW EXECUTE FUNCTION jobs_stand()"
    )
    standing = STANDING.format(job="jobs")
    body = (
        "IF TG_OP = 'DELETE' THEN of_job := OLD.job; ELSE of_job := NEW.job; END IF; "  # noqa: S608
        "PERFORM 1 FROM jobs WHERE id = of_job FOR NO KEY UPDATE; "
        "stands := (SELECT " + standing + " FROM jobs WHERE id = of_job); "
        "UPDATE jobs SET standing = stands WHERE id = of_job AND standing <> stands; RETURN NULL;"
    )
    _function("deliveries_stand", body, "DECLARE of_job text; stands text;")


def _number_within_studies() -> None:
    """Only studies with a second image have a row: most have one, and its number is 1.

    An older version writes such a row for the second image as if it were the first; the trigger
    mends that.
    """
    op.execute(
        "CREATE FUNCTION study_number(of_study text, of_model text) RETURNS integer "
        "LANGUAGE plpgsql AS $$ DECLARE given integer; BEGIN "
        # two images of a study at once, by two listeners: the second waits here
        "PERFORM pg_advisory_xact_lock(hashtextextended(of_study || ' ' || of_model, 9)); "
        "UPDATE study_numbers SET last = last + 1 "
        "WHERE study_instance_uid = of_study AND model = of_model RETURNING last INTO given; "
        "IF FOUND THEN RETURN given; END IF; "
        "given := study_numbers_given(of_study, of_model) + 1; "
        "IF given > 1 THEN INSERT INTO study_numbers (study_instance_uid, model, last) "
        "VALUES (of_study, of_model, given); END IF; "
        "RETURN given; END $$"
    )
    op.execute(
        "CREATE FUNCTION study_numbers_given(of_study text, of_model text) RETURNS integer "
        "LANGUAGE sql AS $$ SELECT greatest("
        "(SELECT last FROM counters WHERE study_instance_uid = of_study AND model = of_model), "
        "(SELECT count(*)::integer FROM instances i "
        "JOIN jobs j ON j.sop_instance_uid = i.sop_instance_uid "
        "WHERE i.study_instance_uid = of_study AND j.model = of_model), 0) $$"
    )
    _function(
        "study_numbers_first",
        "PERFORM pg_advisory_xact_lock"
        "(hashtextextended(NEW.study_instance_uid || ' ' || NEW.model, 9)); "
        "NEW.last := greatest(NEW.last, "
        "study_numbers_given(NEW.study_instance_uid, NEW.model) + 1); RETURN NEW;",
    )
    op.execute(
        "CREATE TRIGGER study_numbers_first BEFORE INSERT ON study_numbers "
        "FOR EACH ROW EXECUTE FUNCTION study_numbers_first()"
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup of the older version instead")
