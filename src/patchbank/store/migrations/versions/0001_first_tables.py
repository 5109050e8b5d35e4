"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from patchbank.store import types

revision = "0001"
down_revision = None
_TRIGGERS = {
    "sqlite": (
        "CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log BEGIN SELECT RAISE(ABORT, 'rows of audit_log are never changed or removed'); END",
        "CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log BEGIN SELECT RAISE(ABORT, 'rows of audit_log are never changed or removed'); END",
        "CREATE TRIGGER audit_log_no_replace BEFORE INSERT ON audit_log WHEN EXISTS (SELECT 1 FROM audit_log WHERE n = NEW.n) BEGIN SELECT RAISE(ABORT, 'rows of audit_log are never changed or removed'); END",
        "CREATE TRIGGER reviews_no_update BEFORE UPDATE ON reviews BEGIN SELECT RAISE(ABORT, 'rows of reviews are never changed or removed'); END",
        "CREATE TRIGGER reviews_no_delete BEFORE DELETE ON reviews BEGIN SELECT RAISE(ABORT, 'rows of reviews are never changed or removed'); END",
        "CREATE TRIGGER reviews_no_replace BEFORE INSERT ON reviews WHEN EXISTS (SELECT 1 FROM reviews WHERE id = NEW.id) BEGIN SELECT RAISE(ABORT, 'rows of reviews are never changed or removed'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME; END $$",
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
        "CREATE TRIGGER reviews_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON reviews FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()",
    ),
}


def upgrade() -> None:
    """To this step."""
    op.create_table(
        "datasets",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("name", types.Key, nullable=False),
        sa.Column("created_at", types.Time(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("frozen_at", types.Time(), nullable=True, comment="From then on nothing joins or leaves."),
        sa.Column(
            "sha256", sa.Text(), nullable=True, comment="Digest of the images' digests and roles, once it is frozen."
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
        comment="Images that were put together to fit, to update or to test a model.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "models",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("name", types.Key, nullable=False),
        sa.Column("created_at", types.Time(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("archived_at", types.Time(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("name", name=op.f("uq_models_name")),
        comment="Models by name; their files and thresholds are in model_versions.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "settings",
        sa.Column("key", types.Key, nullable=False),
        sa.Column("value", types.Json(), nullable=False),
        sa.Column("at", types.Time(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_settings")),
        comment="Settings that people change on the pages.",
    )
    op.create_table(
        "streams",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("name", types.Key, nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column(
            "config_sha256", sa.Text(), nullable=True, comment="Digest of the configuration that the line runs with."
        ),
        sa.Column("token_id", types.Number, nullable=True, comment="The token that it last reported with."),
        sa.Column("last_seen_at", types.Time(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "state_json",
            types.Json(),
            nullable=True,
            comment="What the line says of itself: queue, heartbeat, counters.",
        ),
        sa.Column("created_at", types.Time(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("archived_at", types.Time(), nullable=True),
        sa.CheckConstraint(
            "state IN ('unknown', 'start', 'ready', 'busy', 'paused', 'fault')", name=op.f("ck_streams_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_streams")),
        sa.UniqueConstraint("name", name=op.f("uq_streams_name")),
        comment="Where parts come from: a station of a line, or a program that posts images.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "users",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("name", types.Key, nullable=False, comment="What the person signs in with, as it is shown."),
        sa.Column("name_key", types.Key, nullable=False, comment="The same without case (Unicode)."),
        sa.Column(
            "argon2", sa.Text(), nullable=True, comment="Hash of the password; NULL: signs in elsewhere only (OIDC)."
        ),
        sa.Column("subject", types.Key, nullable=True, comment="Identity at the OIDC provider."),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("locale", sa.Text(), nullable=False, comment="Language of the pages: en, de; empty: the browser's."),
        sa.Column("created_at", types.Time(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("password_at", types.Time(), nullable=True, comment="When the password was set."),
        sa.Column("last_login_at", types.Time(), nullable=True),
        sa.Column("disabled_at", types.Time(), nullable=True, comment="From then on the person cannot sign in."),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'engineer', 'admin')", name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name_key", name=op.f("uq_users_name_key")),
        sa.UniqueConstraint("subject", name=op.f("uq_users_subject")),
        comment="People. Nobody is removed: rows of the audit log name them.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "hours",
        sa.Column("stream_id", types.Number, nullable=False),
        sa.Column("hour", types.Time(), nullable=False, comment="Its beginning, UTC."),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("model_version_id", types.Number, nullable=False, comment="0: no model was ready."),
        sa.Column(
            "writer", types.Key, nullable=False, comment="Which process counts here, so that none waits for another."
        ),
        sa.Column("n", types.Number, nullable=False, comment="Inspections."),
        sa.CheckConstraint("verdict IN ('ok', 'review', 'ng', 'error')", name=op.f("ck_hours_verdict")),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_hours_stream_id_streams")),
        sa.PrimaryKeyConstraint("stream_id", "hour", "verdict", "model_version_id", "writer", name=op.f("pk_hours")),
        comment="How many inspections there were in each hour, counted as they are written.",
    )
    op.create_index(op.f("ix_hours_hour"), "hours", ["hour"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("args", types.Json(), nullable=False),
        sa.Column("model_id", types.Number, nullable=True, comment="The model that it is about, if any."),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False, comment="What is being done."),
        sa.Column("done", types.Number, nullable=False),
        sa.Column("total", types.Number, nullable=False, comment="0: not known."),
        sa.Column("eta", sa.Double(), nullable=True, comment="Seconds to go; NULL: not known."),
        sa.Column("worker", sa.Text(), nullable=True, comment="Who has it."),
        sa.Column(
            "lease_until",
            types.Time(),
            nullable=True,
            comment="When others may take it, unless its worker says that it lives.",
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("most_attempts", sa.Integer(), nullable=False, comment="Then it has failed."),
        sa.Column("not_before", types.Time(), nullable=True, comment="When the next attempt may begin."),
        sa.Column("cancel_at", types.Time(), nullable=True, comment="When somebody asked for its end."),
        sa.Column("result", types.Json(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", types.Time(), nullable=False),
        sa.Column("started_at", types.Time(), nullable=True),
        sa.Column("ended_at", types.Time(), nullable=True),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name=op.f("ck_jobs_state")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_jobs_model_id_models")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        comment="Work that takes long: fits, updates, backups.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_jobs_model_id_id"), "jobs", ["model_id", "id"], unique=False)
    op.create_index(
        "ix_jobs_open",
        "jobs",
        ["state", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_table(
        "model_versions",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("model_id", types.Number, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, comment="Within the model, from 1."),
        sa.Column("file_sha256", types.Key, nullable=False, comment="models/<sha256>.patchbank in the data folder."),
        sa.Column("file_size", types.Number, nullable=False, comment="Bytes."),
        sa.Column(
            "bank_version", sa.Integer(), nullable=False, comment="The bank's version in the file; results name it."
        ),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column(
            "calibrated", sa.Text(), nullable=False, comment="exact, bound, stale or none: see the version history."
        ),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("pixel_threshold", sa.Double(), nullable=True),
        sa.Column("max_false_alarms", sa.Double(), nullable=True),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("images", sa.Integer(), nullable=False, comment="Training images."),
        sa.Column("size", types.Number, nullable=False, comment="Vectors in the memory bank."),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("time", types.Time(), nullable=False, comment="When the version was made."),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("status_at", types.Time(), nullable=False),
        sa.Column("status_by", sa.Text(), nullable=False),
        sa.Column("gate_json", types.Json(), nullable=True, comment="What the gate found before approval."),
        sa.Column("dataset_id", types.Number, nullable=True),
        sa.Column("parent_id", types.Number, nullable=True, comment="The version that it was made from."),
        sa.CheckConstraint(
            "action IN ('upload', 'fit', 'update', 'threshold', 'rollback')", name=op.f("ck_model_versions_action")
        ),
        sa.CheckConstraint(
            "calibrated IN ('exact', 'bound', 'stale', 'none')", name=op.f("ck_model_versions_calibrated")
        ),
        sa.CheckConstraint("status IN ('candidate', 'approved', 'retired')", name=op.f("ck_model_versions_status")),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_model_versions_dataset_id_datasets")),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_model_versions_model_id_models")),
        sa.ForeignKeyConstraint(
            ["parent_id"], ["model_versions.id"], name=op.f("fk_model_versions_parent_id_model_versions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_versions")),
        sa.UniqueConstraint("model_id", "number", name=op.f("uq_model_versions_model_id_number")),
        comment="What a model was at a time, and whether it may decide.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_model_versions_file_sha256"), "model_versions", ["file_sha256"], unique=False)
    op.create_table(
        "sessions",
        sa.Column(
            "token_sha256",
            types.Key,
            nullable=False,
            comment="SHA-256 of the cookie, in hexadecimal; the cookie is not kept.",
        ),
        sa.Column("user_id", types.Number, nullable=False),
        sa.Column("created_at", types.Time(), nullable=False),
        sa.Column("expires_at", types.Time(), nullable=False),
        sa.Column("last_seen_at", types.Time(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False, comment="Where the person signed in from."),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_sessions")),
        comment="Who is signed in, where.",
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False)
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("name", types.Key, nullable=False),
        sa.Column("prefix", types.Key, nullable=False, comment="The beginning of the token, to find it by."),
        sa.Column(
            "secret_sha256",
            sa.Text(),
            nullable=False,
            comment="SHA-256 of the rest, in hexadecimal; the token is not kept.",
        ),
        sa.Column(
            "scopes",
            sa.Text(),
            nullable=False,
            comment="What it allows, separated by spaces: inspect, ingest, read, metrics.",
        ),
        sa.Column("stream_id", types.Number, nullable=True, comment="For this stream only; NULL: for all."),
        sa.Column("created_at", types.Time(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", types.Time(), nullable=True, comment="NULL: never."),
        sa.Column("last_used_at", types.Time(), nullable=True, comment="To the minute."),
        sa.Column("revoked_at", types.Time(), nullable=True),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_tokens_stream_id_streams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("prefix", name=op.f("uq_tokens_prefix")),
        comment="Machines that may ask the service.",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "audit_log",
        sa.Column("n", types.Number, autoincrement=False, nullable=False, comment="From 1, without gaps."),
        sa.Column("at", types.Time(), nullable=False),
        sa.Column("actor", types.Key, nullable=False, comment="Name of the user or token, or 'system'."),
        sa.Column("user_id", types.Number, nullable=True),
        sa.Column("token_id", types.Number, nullable=True),
        sa.Column("action", types.Key, nullable=False, comment="What was done: model.approve, user.add, ..."),
        sa.Column("object", types.Key, nullable=False, comment="To what: model/3, user/anna, ..."),
        sa.Column("old", types.Json(exact=True), nullable=True),
        sa.Column("new", types.Json(exact=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column(
            "prev_hash", sa.Text(), nullable=False, comment="The hash of the row before; 64 zeros for the first."
        ),
        sa.Column("hash", sa.Text(), nullable=False, comment="SHA-256 of this row with prev_hash, in hexadecimal."),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_audit_log_token_id_tokens")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_audit_log_user_id_users")),
        sa.PrimaryKeyConstraint("n", name=op.f("pk_audit_log")),
        comment="Who did what, when and why. Rows are never changed, and each has a hash over itself and the row before.",
    )
    op.create_index(op.f("ix_audit_log_action_n"), "audit_log", ["action", "n"], unique=False)
    op.create_index(op.f("ix_audit_log_actor_n"), "audit_log", ["actor", "n"], unique=False)
    op.create_index(op.f("ix_audit_log_object_n"), "audit_log", ["object", "n"], unique=False)
    op.create_table(
        "deployments",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("stream_id", types.Number, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="active: it decides. shadow: it only watches."),
        sa.Column("model_version_id", types.Number, nullable=True, comment="NULL: none from then on."),
        sa.Column("review_rate", sa.Double(), nullable=True, comment="NULL: the model's own."),
        sa.Column(
            "policy_json",
            types.Json(),
            nullable=True,
            comment="What REVIEW and out of distribution mean at the output.",
        ),
        sa.Column("from_at", types.Time(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("previous_id", types.Number, nullable=True),
        sa.CheckConstraint("kind IN ('active', 'shadow')", name=op.f("ck_deployments_kind")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_deployments_model_version_id_model_versions")
        ),
        sa.ForeignKeyConstraint(
            ["previous_id"], ["deployments.id"], name=op.f("fk_deployments_previous_id_deployments")
        ),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_deployments_stream_id_streams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
        comment="Which version decides on a stream, and which one only watches. The newest row of a kind holds.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_deployments_stream_id_kind_id"), "deployments", ["stream_id", "kind", "id"], unique=False)
    op.create_table(
        "drift_states",
        sa.Column("stream_id", types.Number, nullable=False),
        sa.Column("model_version_id", types.Number, nullable=False),
        sa.Column("state_json", types.Json(), nullable=False),
        sa.Column("at", types.Time(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_drift_states_model_version_id_model_versions")
        ),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_drift_states_stream_id_streams")),
        sa.PrimaryKeyConstraint("stream_id", "model_version_id", name=op.f("pk_drift_states")),
        comment="How far the scores of a stream have moved, so that the service goes on after a restart.",
    )
    op.create_table(
        "inspections",
        sa.Column("id", types.Id(), nullable=False, comment="UUID of version 7: sorts by the time of the inspection."),
        sa.Column("at", types.Time(), nullable=False, comment="When the image was inspected."),
        sa.Column("received_at", types.Time(), nullable=False, comment="When the service had it."),
        sa.Column("stream_id", types.Number, nullable=False),
        sa.Column("model_version_id", types.Number, nullable=True, comment="NULL: no model was ready."),
        sa.Column("serial", types.Key, nullable=True, comment="The part's number."),
        sa.Column("batch", types.Key, nullable=True),
        sa.Column("source", sa.Text(), nullable=False, comment="Where the image came from: api, oip, a camera."),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why the verdict is as it is, in words."),
        sa.Column("score", sa.Double(), nullable=True, comment="Higher = more anomalous; NULL: there is none."),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("in_scene", sa.Boolean(), nullable=True, comment="In distribution; NULL: not checked."),
        sa.Column(
            "scene_json", types.Json(), nullable=True, comment="The image check's measurements with their ranges."
        ),
        sa.Column("latency_ms", sa.Double(), nullable=True),
        sa.Column("late", sa.Boolean(), nullable=False, comment="Came after the deadline; the PLC had ERROR."),
        sa.Column("image_sha256", types.Key, nullable=True, comment="blobs/<first two>/<sha256> in the data folder."),
        sa.Column("image_format", sa.Text(), nullable=True, comment="png, jpeg, ..."),
        sa.Column("image_size", types.Number, nullable=True, comment="Bytes."),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("height", sa.Integer(), nullable=True),
        sa.Column("image_gone_at", types.Time(), nullable=True, comment="When retention removed the image."),
        sa.Column("sample", sa.Boolean(), nullable=False, comment="An OK part, chosen by chance for review."),
        sa.Column("needs_review", sa.Boolean(), nullable=False),
        sa.Column("label", sa.Text(), nullable=True, comment="The present review's; NULL: none."),
        sa.Column(
            "request_sha256",
            sa.Text(),
            nullable=True,
            comment="Digest of what was asked for, to tell a repetition from another request.",
        ),
        sa.Column(
            "idempotency_sha256", types.Key, nullable=True, comment="Digest of who asked and the Idempotency-Key."
        ),
        sa.CheckConstraint("label IN ('good', 'defect', 'unsure')", name=op.f("ck_inspections_label")),
        sa.CheckConstraint("verdict IN ('ok', 'review', 'ng', 'error')", name=op.f("ck_inspections_verdict")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_inspections_model_version_id_model_versions")
        ),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name=op.f("fk_inspections_stream_id_streams")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inspections")),
        sa.UniqueConstraint("idempotency_sha256", name=op.f("uq_inspections_idempotency_sha256")),
        comment="One row for each inspected image, written once. Rows stay when their images are removed.",
    )
    op.create_index(op.f("ix_inspections_batch_id"), "inspections", ["batch", "id"], unique=False)
    op.create_index(
        "ix_inspections_image",
        "inspections",
        ["image_sha256"],
        unique=False,
        sqlite_where=sa.text("image_sha256 IS NOT NULL AND image_gone_at IS NULL"),
        postgresql_where=sa.text("image_sha256 IS NOT NULL AND image_gone_at IS NULL"),
    )
    op.create_index(
        "ix_inspections_labelled",
        "inspections",
        ["label", "id", "model_version_id"],
        unique=False,
        sqlite_where=sa.text("label IS NOT NULL"),
        postgresql_where=sa.text("label IS NOT NULL"),
    )
    op.create_index(
        "ix_inspections_may_go",
        "inspections",
        ["verdict", "id"],
        unique=False,
        sqlite_where=sa.text(
            "image_sha256 IS NOT NULL AND image_gone_at IS NULL AND label IS NULL AND NOT needs_review"
        ),
        postgresql_where=sa.text(
            "image_sha256 IS NOT NULL AND image_gone_at IS NULL AND label IS NULL AND NOT needs_review"
        ),
    )
    op.create_index(op.f("ix_inspections_model_version_id_id"), "inspections", ["model_version_id", "id"], unique=False)
    op.create_index(
        "ix_inspections_not_ok",
        "inspections",
        ["verdict", "id"],
        unique=False,
        sqlite_where=sa.text("verdict <> 'ok'"),
        postgresql_where=sa.text("verdict <> 'ok'"),
    )
    op.create_index(
        "ix_inspections_not_ok_by_stream",
        "inspections",
        ["stream_id", "verdict", "id"],
        unique=False,
        sqlite_where=sa.text("verdict <> 'ok'"),
        postgresql_where=sa.text("verdict <> 'ok'"),
    )
    op.create_index(
        "ix_inspections_queue",
        "inspections",
        ["id"],
        unique=False,
        sqlite_where=sa.text("needs_review"),
        postgresql_where=sa.text("needs_review"),
    )
    op.create_index(
        "ix_inspections_queue_by_stream",
        "inspections",
        ["stream_id", "needs_review", "id"],
        unique=False,
        sqlite_where=sa.text("needs_review"),
        postgresql_where=sa.text("needs_review"),
    )
    op.create_index(
        "ix_inspections_sample",
        "inspections",
        ["stream_id", "sample", "id"],
        unique=False,
        sqlite_where=sa.text("sample"),
        postgresql_where=sa.text("sample"),
    )
    op.create_index(op.f("ix_inspections_serial_id"), "inspections", ["serial", "id"], unique=False)
    op.create_index(op.f("ix_inspections_stream_id_id"), "inspections", ["stream_id", "id"], unique=False)
    op.create_table(
        "dataset_images",
        sa.Column("dataset_id", types.Number, nullable=False),
        sa.Column("sha256", types.Key, nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="The file's original name."),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("size", types.Number, nullable=False, comment="Bytes."),
        sa.Column("inspection_id", types.Id(), nullable=True, comment="The inspection that it comes from, if any."),
        sa.Column("left_out", sa.Boolean(), nullable=False, comment="An audit found it odd, and a person left it out."),
        sa.Column("added_at", types.Time(), nullable=False),
        sa.CheckConstraint("role IN ('train', 'good', 'defect')", name=op.f("ck_dataset_images_role")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_dataset_images_dataset_id_datasets"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name=op.f("fk_dataset_images_inspection_id_inspections")
        ),
        sa.PrimaryKeyConstraint("dataset_id", "sha256", name=op.f("pk_dataset_images")),
        comment="The images of a dataset; their files are blobs/<first two>/<sha256>.",
    )
    op.create_index(op.f("ix_dataset_images_inspection_id"), "dataset_images", ["inspection_id"], unique=False)
    op.create_index(op.f("ix_dataset_images_sha256"), "dataset_images", ["sha256"], unique=False)
    op.create_table(
        "heats",
        sa.Column("inspection_id", types.Id(), nullable=False),
        sa.Column("h", sa.Integer(), nullable=False, comment="Rows of patches."),
        sa.Column("w", sa.Integer(), nullable=False),
        sa.Column("input_h", sa.Integer(), nullable=False, comment="The size to which the image was resized."),
        sa.Column("input_w", sa.Integer(), nullable=False),
        sa.Column("sigma", sa.Double(), nullable=False, comment="Smoothing of the anomaly map, in pixels."),
        sa.Column(
            "grid",
            sa.LargeBinary(),
            nullable=False,
            comment="Patch distances: zlib of h x w float16, little-endian, row by row.",
        ),
        sa.Column(
            "counted",
            sa.LargeBinary(),
            nullable=True,
            comment="zlib of h x w bits: the patches in the region of interest. NULL: all.",
        ),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name=op.f("fk_heats_inspection_id_inspections"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("inspection_id", name=op.f("pk_heats")),
        comment="The patch distances of an inspection; its anomaly map is computed from them.",
    )
    op.create_table(
        "regions",
        sa.Column("inspection_id", types.Id(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False, comment="From 0: the worst first."),
        sa.Column("x", sa.Integer(), nullable=False, comment="Pixels of the original image."),
        sa.Column("y", sa.Integer(), nullable=False),
        sa.Column("w", sa.Integer(), nullable=False),
        sa.Column("h", sa.Integer(), nullable=False),
        sa.Column("area", sa.Integer(), nullable=False),
        sa.Column("peak_x", sa.Integer(), nullable=False),
        sa.Column("peak_y", sa.Integer(), nullable=False),
        sa.Column("peak_score", sa.Double(), nullable=False),
        sa.Column("contour", types.Json(), nullable=True, comment="Polygons: lists of x, y in turn."),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name=op.f("fk_regions_inspection_id_inspections"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("inspection_id", "n", name=op.f("pk_regions")),
        comment="Flagged regions of an inspection.",
    )
    op.create_table(
        "reviews",
        sa.Column("id", types.Number, autoincrement=True, nullable=False, comment="Counts up; never used twice."),
        sa.Column("inspection_id", types.Id(), nullable=False),
        sa.Column(
            "label", sa.Text(), nullable=False, comment="withdrawn: the one before was a mistake, and none holds."
        ),
        sa.Column("kind", sa.Text(), nullable=False, comment="Kind of defect; may be empty."),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("user_id", types.Number, nullable=True, comment="NULL: before the first administrator."),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("at", types.Time(), nullable=False),
        sa.Column("supersedes_id", types.Number, nullable=True, comment="The review that no longer holds."),
        sa.CheckConstraint("label IN ('good', 'defect', 'unsure', 'withdrawn')", name=op.f("ck_reviews_label")),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name=op.f("fk_reviews_inspection_id_inspections")
        ),
        sa.ForeignKeyConstraint(["supersedes_id"], ["reviews.id"], name=op.f("fk_reviews_supersedes_id_reviews")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_reviews_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        sa.UniqueConstraint("supersedes_id", name=op.f("uq_reviews_supersedes_id")),
        comment="What people said of inspections. Rows are never changed; the newest of an inspection holds.",
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_reviews_inspection_id"), "reviews", ["inspection_id"], unique=False)
    op.create_table(
        "shadow_results",
        sa.Column("inspection_id", types.Id(), nullable=False),
        sa.Column("model_version_id", types.Number, nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("threshold", sa.Double(), nullable=True),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("changed", sa.Boolean(), nullable=False, comment="The active version's verdict was another one."),
        sa.CheckConstraint("verdict IN ('ok', 'review', 'ng', 'error')", name=op.f("ck_shadow_results_verdict")),
        sa.ForeignKeyConstraint(
            ["inspection_id"],
            ["inspections.id"],
            name=op.f("fk_shadow_results_inspection_id_inspections"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_versions.id"], name=op.f("fk_shadow_results_model_version_id_model_versions")
        ),
        sa.PrimaryKeyConstraint("inspection_id", "model_version_id", name=op.f("pk_shadow_results")),
        comment="What a version that only watches would have said.",
    )
    op.create_index(
        "ix_shadow_results_changed",
        "shadow_results",
        ["model_version_id", "inspection_id"],
        unique=False,
        sqlite_where=sa.text("changed"),
        postgresql_where=sa.text("changed"),
    )
    op.create_index(
        op.f("ix_shadow_results_model_version_id_inspection_id"),
        "shadow_results",
        ["model_version_id", "inspection_id"],
        unique=False,
    )

    for statement in _TRIGGERS[op.get_bind().dialect.name]:
        op.execute(statement)


def downgrade() -> None:
    """To the step before."""
    op.drop_index(op.f("ix_shadow_results_model_version_id_inspection_id"), table_name="shadow_results")
    op.drop_index(
        "ix_shadow_results_changed",
        table_name="shadow_results",
        sqlite_where=sa.text("changed"),
        postgresql_where=sa.text("changed"),
    )
    op.drop_table("shadow_results")
    op.drop_index(op.f("ix_reviews_inspection_id"), table_name="reviews")
    op.drop_table("reviews")
    op.drop_table("regions")
    op.drop_table("heats")
    op.drop_index(op.f("ix_dataset_images_sha256"), table_name="dataset_images")
    op.drop_index(op.f("ix_dataset_images_inspection_id"), table_name="dataset_images")
    op.drop_table("dataset_images")
    op.drop_index(op.f("ix_inspections_stream_id_id"), table_name="inspections")
    op.drop_index(op.f("ix_inspections_serial_id"), table_name="inspections")
    op.drop_index(
        "ix_inspections_sample",
        table_name="inspections",
        sqlite_where=sa.text("sample"),
        postgresql_where=sa.text("sample"),
    )
    op.drop_index(
        "ix_inspections_queue_by_stream",
        table_name="inspections",
        sqlite_where=sa.text("needs_review"),
        postgresql_where=sa.text("needs_review"),
    )
    op.drop_index(
        "ix_inspections_queue",
        table_name="inspections",
        sqlite_where=sa.text("needs_review"),
        postgresql_where=sa.text("needs_review"),
    )
    op.drop_index(
        "ix_inspections_not_ok_by_stream",
        table_name="inspections",
        sqlite_where=sa.text("verdict <> 'ok'"),
        postgresql_where=sa.text("verdict <> 'ok'"),
    )
    op.drop_index(
        "ix_inspections_not_ok",
        table_name="inspections",
        sqlite_where=sa.text("verdict <> 'ok'"),
        postgresql_where=sa.text("verdict <> 'ok'"),
    )
    op.drop_index(op.f("ix_inspections_model_version_id_id"), table_name="inspections")
    op.drop_index(
        "ix_inspections_may_go",
        table_name="inspections",
        sqlite_where=sa.text(
            "image_sha256 IS NOT NULL AND image_gone_at IS NULL AND label IS NULL AND NOT needs_review"
        ),
        postgresql_where=sa.text(
            "image_sha256 IS NOT NULL AND image_gone_at IS NULL AND label IS NULL AND NOT needs_review"
        ),
    )
    op.drop_index(
        "ix_inspections_labelled",
        table_name="inspections",
        sqlite_where=sa.text("label IS NOT NULL"),
        postgresql_where=sa.text("label IS NOT NULL"),
    )
    op.drop_index(
        "ix_inspections_image",
        table_name="inspections",
        sqlite_where=sa.text("image_sha256 IS NOT NULL AND image_gone_at IS NULL"),
        postgresql_where=sa.text("image_sha256 IS NOT NULL AND image_gone_at IS NULL"),
    )
    op.drop_index(op.f("ix_inspections_batch_id"), table_name="inspections")
    op.drop_table("inspections")
    op.drop_table("drift_states")
    op.drop_index(op.f("ix_deployments_stream_id_kind_id"), table_name="deployments")
    op.drop_table("deployments")
    op.drop_index(op.f("ix_audit_log_object_n"), table_name="audit_log")
    op.drop_index(op.f("ix_audit_log_actor_n"), table_name="audit_log")
    op.drop_index(op.f("ix_audit_log_action_n"), table_name="audit_log")
    op.drop_table("audit_log")
    op.drop_table("tokens")
    op.drop_index(op.f("ix_sessions_user_id"), table_name="sessions")
    op.drop_index(op.f("ix_sessions_expires_at"), table_name="sessions")
    op.drop_table("sessions")
    op.drop_index(op.f("ix_model_versions_file_sha256"), table_name="model_versions")
    op.drop_table("model_versions")
    op.drop_index(
        "ix_jobs_open",
        table_name="jobs",
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.drop_index(op.f("ix_jobs_model_id_id"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_index(op.f("ix_hours_hour"), table_name="hours")
    op.drop_table("hours")
    op.drop_table("users")
    op.drop_table("streams")
    op.drop_table("settings")
    op.drop_table("models")
    op.drop_table("datasets")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")
