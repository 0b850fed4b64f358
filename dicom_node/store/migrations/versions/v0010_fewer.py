"""On PostgreSQL what each image costs: triggers that plan nothing again, one index less.

Nothing here takes longer the more rows there are; `store.ledger.upgrading` builds what takes the
place of the index, and drops it, while the node runs.
"""

from __future__ import annotations

from alembic import op

from dicom_node.store.migrations.versions.v0009_past import STANDING

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    # A function in the language SQL is planned at each call, which took ten times its work.
    op.execute(
        "CREATE OR REPLACE FUNCTION study_numbers_given(of_study text, of_model text) "
        "RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN greatest("
        "(SELECT last FROM counters WHERE study_instance_uid = of_study AND model = of_model), "
        "(SELECT count(*)::integer FROM instances i "
        "JOIN jobs j ON j.sop_instance_uid = i.sop_instance_uid "
        "WHERE i.study_instance_uid = of_study AND j.model = of_model), 0); END $$"
    )
    # A job without a result stands where its state says: no query is needed for that.
    op.execute(
        "CREATE OR REPLACE FUNCTION jobs_stand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.state NOT IN ('reported', 'rejected') THEN NEW.standing := NEW.state; "
        f"ELSE NEW.standing := {STANDING.format(job='NEW')}; END IF; RETURN NEW; END $$"
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup of the older version instead")
