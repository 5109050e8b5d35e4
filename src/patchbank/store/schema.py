"""The tables: the one place that says what is kept. Migrations lead to it, and docs/reference/database.md is made from
it.

Texts with few values are checked by the database (`one_of`). Rows of `audit_log` and `reviews` are never changed:
triggers refuse it."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from patchbank.store.types import Id, Json, Key, Number, Time

VERDICTS = ("ok", "review", "ng", "error")
LABELS = ("good", "defect", "unsure")
ROLES = ("viewer", "operator", "engineer", "admin")  # each may do what those before it may
SCOPES = ("inspect", "ingest", "read", "metrics")
STATUSES = ("candidate", "approved", "retired")
ACTIONS = ("upload", "fit", "update", "threshold", "rollback")
JOB_STATES = ("queued", "running", "done", "failed", "cancelled")
STREAM_STATES = ("unknown", "start", "ready", "busy", "paused", "fault")
# The conditions of partial indexes. A query uses such an index only if it says the same, word for word.
NOT_OK = text("verdict <> 'ok'")
NEEDS_REVIEW = text("needs_review")
LABELLED = text("label IS NOT NULL")
HAS_IMAGE = text("image_sha256 IS NOT NULL AND image_gone_at IS NULL")
MAY_GO = text("image_sha256 IS NOT NULL AND image_gone_at IS NULL AND label IS NULL AND NOT needs_review")
SAMPLE = text("sample")
OPEN = text("state IN ('queued', 'running')")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """The column has one of these texts, or none at all if it may be NULL."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def number(comment: str = "Counts up; never used twice.") -> Column[int]:
    """The key of a table whose rows the database numbers."""
    return Column("id", Number, primary_key=True, autoincrement=True, comment=comment)


def partial(name: str, *columns: object, where: object) -> Index:
    """An index over the rows for which the condition holds."""
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)  # type: ignore[arg-type]


users = Table(
    "users",
    metadata,
    number(),
    Column("name", Key, nullable=False, comment="What the person signs in with, as it is shown."),
    Column("name_key", Key, nullable=False, unique=True, comment="The same without case (Unicode)."),
    Column("argon2", Text, comment="Hash of the password; NULL: signs in elsewhere only (OIDC)."),
    Column("subject", Key, unique=True, comment="Identity at the OIDC provider."),
    Column("role", Text, nullable=False),
    Column("locale", Text, nullable=False, comment="Language of the pages: en, de; empty: the browser's."),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("password_at", Time, comment="When the password was set."),
    Column("last_login_at", Time),
    Column("disabled_at", Time, comment="From then on the person cannot sign in."),
    one_of("role", ROLES),
    sqlite_autoincrement=True,
    comment="People. Nobody is removed: rows of the audit log name them.",
)

sessions = Table(
    "sessions",
    metadata,
    Column(
        "token_sha256", Key, primary_key=True, comment="SHA-256 of the cookie, in hexadecimal; the cookie is not kept."
    ),
    Column("user_id", Number, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Time, nullable=False),
    Column("expires_at", Time, nullable=False, index=True),
    Column("last_seen_at", Time, nullable=False),
    Column("address", Text, nullable=False, comment="Where the person signed in from."),
    comment="Who is signed in, where.",
)

streams = Table(
    "streams",
    metadata,
    number(),
    Column("name", Key, nullable=False, unique=True),
    Column("site", Text, nullable=False),
    Column("config_sha256", Text, comment="Digest of the configuration that the line runs with."),
    Column("token_id", Number, comment="The token that it last reported with."),  # tokens refer to streams already
    Column("last_seen_at", Time),
    Column("state", Text, nullable=False),
    Column("state_json", Json(), comment="What the line says of itself: queue, heartbeat, counters."),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("archived_at", Time),
    one_of("state", STREAM_STATES),
    sqlite_autoincrement=True,
    comment="Where parts come from: a station of a line, or a program that posts images.",
)

tokens = Table(
    "tokens",
    metadata,
    number(),
    Column("name", Key, nullable=False),
    Column("prefix", Key, nullable=False, unique=True, comment="The beginning of the token, to find it by."),
    Column(
        "secret_sha256", Text, nullable=False, comment="SHA-256 of the rest, in hexadecimal; the token is not kept."
    ),
    Column(
        "scopes", Text, nullable=False, comment="What it allows, separated by spaces: inspect, ingest, read, metrics."
    ),
    Column("stream_id", Number, ForeignKey("streams.id"), comment="For this stream only; NULL: for all."),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Time, comment="NULL: never."),
    Column("last_used_at", Time, comment="To the minute."),
    Column("revoked_at", Time),
    sqlite_autoincrement=True,
    comment="Machines that may ask the service.",
)

models = Table(
    "models",
    metadata,
    number(),
    Column("name", Key, nullable=False, unique=True),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("archived_at", Time),
    sqlite_autoincrement=True,
    comment="Models by name; their files and thresholds are in model_versions.",
)

datasets = Table(
    "datasets",
    metadata,
    number(),
    Column("name", Key, nullable=False, unique=True),
    Column("created_at", Time, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("frozen_at", Time, comment="From then on nothing joins or leaves."),
    Column("sha256", Text, comment="Digest of the images' digests and roles, once it is frozen."),
    sqlite_autoincrement=True,
    comment="Images that were put together to fit, to update or to test a model.",
)

dataset_images = Table(
    "dataset_images",
    metadata,
    Column("dataset_id", Number, ForeignKey("datasets.id", ondelete="CASCADE"), nullable=False),
    Column("sha256", Key, nullable=False, index=True),
    Column("name", Text, nullable=False, comment="The file's original name."),
    Column("role", Text, nullable=False),
    Column("size", Number, nullable=False, comment="Bytes."),
    Column(
        "inspection_id",
        Id,
        ForeignKey("inspections.id"),
        index=True,
        comment="The inspection that it comes from, if any.",
    ),
    Column("left_out", Boolean, nullable=False, comment="An audit found it odd, and a person left it out."),
    Column("added_at", Time, nullable=False),
    PrimaryKeyConstraint("dataset_id", "sha256"),
    one_of("role", ("train", "good", "defect")),
    comment="The images of a dataset; their files are blobs/<first two>/<sha256>.",
)

model_versions = Table(
    "model_versions",
    metadata,
    number(),
    Column("model_id", Number, ForeignKey("models.id"), nullable=False),
    Column("number", Integer, nullable=False, comment="Within the model, from 1."),
    Column("file_sha256", Key, nullable=False, index=True, comment="models/<sha256>.patchbank in the data folder."),
    Column("file_size", Number, nullable=False, comment="Bytes."),
    Column("bank_version", Integer, nullable=False, comment="The bank's version in the file; results name it."),
    Column("action", Text, nullable=False),
    Column("calibrated", Text, nullable=False, comment="exact, bound, stale or none: see the version history."),
    Column("threshold", Double),
    Column("pixel_threshold", Double),
    Column("max_false_alarms", Double),
    Column("confidence", Double),
    Column("images", Integer, nullable=False, comment="Training images."),
    Column("size", Number, nullable=False, comment="Vectors in the memory bank."),
    Column("author", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("time", Time, nullable=False, comment="When the version was made."),
    Column("status", Text, nullable=False),
    Column("status_at", Time, nullable=False),
    Column("status_by", Text, nullable=False),
    Column("gate_json", Json(), comment="What the gate found before approval."),
    Column("dataset_id", Number, ForeignKey("datasets.id")),
    Column("parent_id", Number, ForeignKey("model_versions.id"), comment="The version that it was made from."),
    UniqueConstraint("model_id", "number"),
    one_of("action", ACTIONS),
    one_of("status", STATUSES),
    one_of("calibrated", ("exact", "bound", "stale", "none")),
    sqlite_autoincrement=True,
    comment="What a model was at a time, and whether it may decide.",
)

deployments = Table(
    "deployments",
    metadata,
    number(),
    Column("stream_id", Number, ForeignKey("streams.id"), nullable=False),
    Column("kind", Text, nullable=False, comment="active: it decides. shadow: it only watches."),
    Column("model_version_id", Number, ForeignKey("model_versions.id"), comment="NULL: none from then on."),
    Column("review_rate", Double, comment="NULL: the model's own."),
    Column("policy_json", Json(), comment="What REVIEW and out of distribution mean at the output."),
    Column("from_at", Time, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("previous_id", Number, ForeignKey("deployments.id")),
    one_of("kind", ("active", "shadow")),
    Index(None, "stream_id", "kind", "id"),
    sqlite_autoincrement=True,
    comment="Which version decides on a stream, and which one only watches. The newest row of a kind holds.",
)

inspections = Table(
    "inspections",
    metadata,
    Column("id", Id, primary_key=True, comment="UUID of version 7: sorts by the time of the inspection."),
    Column("at", Time, nullable=False, comment="When the image was inspected."),
    Column("received_at", Time, nullable=False, comment="When the service had it."),
    Column("stream_id", Number, ForeignKey("streams.id"), nullable=False),
    Column("model_version_id", Number, ForeignKey("model_versions.id"), comment="NULL: no model was ready."),
    Column("serial", Key, comment="The part's number."),
    Column("batch", Key),
    Column("source", Text, nullable=False, comment="Where the image came from: api, oip, a camera."),
    Column("verdict", Text, nullable=False),
    Column("reason", Text, nullable=False, comment="Why the verdict is as it is, in words."),
    Column("score", Double, comment="Higher = more anomalous; NULL: there is none."),
    Column("threshold", Double),
    Column("p_value", Double),
    Column("in_scene", Boolean, comment="In distribution; NULL: not checked."),
    Column("scene_json", Json(), comment="The image check's measurements with their ranges."),
    Column("latency_ms", Double),
    Column("late", Boolean, nullable=False, comment="Came after the deadline; the PLC had ERROR."),
    Column("image_sha256", Key, comment="blobs/<first two>/<sha256> in the data folder."),
    Column("image_format", Text, comment="png, jpeg, ..."),
    Column("image_size", Number, comment="Bytes."),
    Column("width", Integer),
    Column("height", Integer),
    Column("image_gone_at", Time, comment="When retention removed the image."),
    Column("sample", Boolean, nullable=False, comment="An OK part, chosen by chance for review."),
    Column("needs_review", Boolean, nullable=False),
    Column("label", Text, comment="The present review's; NULL: none."),
    Column("request_sha256", Text, comment="Digest of what was asked for, to tell a repetition from another request."),
    Column("idempotency_sha256", Key, unique=True, comment="Digest of who asked and the Idempotency-Key."),
    one_of("verdict", VERDICTS),
    one_of("label", LABELS),
    Index(None, "stream_id", "id"),
    Index(None, "model_version_id", "id"),
    Index(None, "serial", "id"),
    Index(None, "batch", "id"),
    partial("ix_inspections_not_ok", "verdict", "id", where=NOT_OK),
    partial("ix_inspections_not_ok_by_stream", "stream_id", "verdict", "id", where=NOT_OK),
    partial("ix_inspections_queue", "id", where=NEEDS_REVIEW),
    # The column of the condition is there once more: SQLite, which keeps no statistics here, takes the index with more
    # equal columns, and not the one over all rows of the stream.
    partial("ix_inspections_queue_by_stream", "stream_id", "needs_review", "id", where=NEEDS_REVIEW),
    partial("ix_inspections_labelled", "label", "id", "model_version_id", where=LABELLED),
    partial("ix_inspections_sample", "stream_id", "sample", "id", where=SAMPLE),
    partial("ix_inspections_image", "image_sha256", where=HAS_IMAGE),
    partial("ix_inspections_may_go", "verdict", "id", where=MAY_GO),
    comment="One row for each inspected image, written once. Rows stay when their images are removed.",
)

hours = Table(
    "hours",
    metadata,
    Column("stream_id", Number, ForeignKey("streams.id"), nullable=False),
    Column("hour", Time, nullable=False, comment="Its beginning, UTC."),
    Column("verdict", Text, nullable=False),
    Column("model_version_id", Number, nullable=False, comment="0: no model was ready."),
    Column("writer", Key, nullable=False, comment="Which process counts here, so that none waits for another."),
    Column("n", Number, nullable=False, comment="Inspections."),
    PrimaryKeyConstraint("stream_id", "hour", "verdict", "model_version_id", "writer"),
    one_of("verdict", VERDICTS),
    Index(None, "hour"),
    comment="How many inspections there were in each hour, counted as they are written.",
)

heats = Table(
    "heats",
    metadata,
    Column("inspection_id", Id, ForeignKey("inspections.id", ondelete="CASCADE"), primary_key=True),
    Column("h", Integer, nullable=False, comment="Rows of patches."),
    Column("w", Integer, nullable=False),
    Column("input_h", Integer, nullable=False, comment="The size to which the image was resized."),
    Column("input_w", Integer, nullable=False),
    Column("sigma", Double, nullable=False, comment="Smoothing of the anomaly map, in pixels."),
    Column(
        "grid",
        LargeBinary,
        nullable=False,
        comment="Patch distances: zlib of h x w float16, little-endian, row by row.",
    ),
    Column("counted", LargeBinary, comment="zlib of h x w bits: the patches in the region of interest. NULL: all."),
    comment="The patch distances of an inspection; its anomaly map is computed from them.",
)

regions = Table(
    "regions",
    metadata,
    Column("inspection_id", Id, ForeignKey("inspections.id", ondelete="CASCADE"), nullable=False),
    Column("n", Integer, nullable=False, comment="From 0: the worst first."),
    Column("x", Integer, nullable=False, comment="Pixels of the original image."),
    Column("y", Integer, nullable=False),
    Column("w", Integer, nullable=False),
    Column("h", Integer, nullable=False),
    Column("area", Integer, nullable=False),
    Column("peak_x", Integer, nullable=False),
    Column("peak_y", Integer, nullable=False),
    Column("peak_score", Double, nullable=False),
    Column("contour", Json(), comment="Polygons: lists of x, y in turn."),
    PrimaryKeyConstraint("inspection_id", "n"),
    comment="Flagged regions of an inspection.",
)

shadow_results = Table(
    "shadow_results",
    metadata,
    Column("inspection_id", Id, ForeignKey("inspections.id", ondelete="CASCADE"), nullable=False),
    Column("model_version_id", Number, ForeignKey("model_versions.id"), nullable=False),
    Column("verdict", Text, nullable=False),
    Column("score", Double),
    Column("threshold", Double),
    Column("p_value", Double),
    Column("changed", Boolean, nullable=False, comment="The active version's verdict was another one."),
    PrimaryKeyConstraint("inspection_id", "model_version_id"),
    one_of("verdict", VERDICTS),
    Index(None, "model_version_id", "inspection_id"),
    partial("ix_shadow_results_changed", "model_version_id", "inspection_id", where=text("changed")),
    comment="What a version that only watches would have said.",
)

reviews = Table(
    "reviews",
    metadata,
    number(),
    Column("inspection_id", Id, ForeignKey("inspections.id"), nullable=False, index=True),
    Column("label", Text, nullable=False, comment="withdrawn: the one before was a mistake, and none holds."),
    Column("kind", Text, nullable=False, comment="Kind of defect; may be empty."),
    Column("comment", Text, nullable=False),
    Column("user_id", Number, ForeignKey("users.id"), comment="NULL: before the first administrator."),
    Column("by", Text, nullable=False),
    Column("at", Time, nullable=False),
    Column("supersedes_id", Number, ForeignKey("reviews.id"), unique=True, comment="The review that no longer holds."),
    one_of("label", (*LABELS, "withdrawn")),
    sqlite_autoincrement=True,
    comment="What people said of inspections. Rows are never changed; the newest of an inspection holds.",
)

jobs = Table(
    "jobs",
    metadata,
    number(),
    Column("kind", Text, nullable=False),
    Column("args", Json(), nullable=False),
    Column("model_id", Number, ForeignKey("models.id"), comment="The model that it is about, if any."),
    Column("state", Text, nullable=False),
    Column("stage", Text, nullable=False, comment="What is being done."),
    Column("done", Number, nullable=False),
    Column("total", Number, nullable=False, comment="0: not known."),
    Column("eta", Double, comment="Seconds to go; NULL: not known."),
    Column("worker", Text, comment="Who has it."),
    Column("lease_until", Time, comment="When others may take it, unless its worker says that it lives."),
    Column("attempts", Integer, nullable=False),
    Column("most_attempts", Integer, nullable=False, comment="Then it has failed."),
    Column("not_before", Time, comment="When the next attempt may begin."),
    Column("cancel_at", Time, comment="When somebody asked for its end."),
    Column("result", Json()),
    Column("error", Text),
    Column("log", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("started_at", Time),
    Column("ended_at", Time),
    one_of("state", JOB_STATES),
    Index(None, "model_id", "id"),
    partial("ix_jobs_open", "state", "id", where=OPEN),
    sqlite_autoincrement=True,
    comment="Work that takes long: fits, updates, backups.",
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("n", Number, primary_key=True, autoincrement=False, comment="From 1, without gaps."),
    Column("at", Time, nullable=False),
    Column("actor", Key, nullable=False, comment="Name of the user or token, or 'system'."),
    Column("user_id", Number, ForeignKey("users.id")),
    Column("token_id", Number, ForeignKey("tokens.id")),
    Column("action", Key, nullable=False, comment="What was done: model.approve, user.add, ..."),
    Column("object", Key, nullable=False, comment="To what: model/3, user/anna, ..."),
    Column("old", Json(exact=True)),
    Column("new", Json(exact=True)),
    Column("reason", Text, nullable=False),
    Column("prev_hash", Text, nullable=False, comment="The hash of the row before; 64 zeros for the first."),
    Column("hash", Text, nullable=False, comment="SHA-256 of this row with prev_hash, in hexadecimal."),
    Index(None, "object", "n"),
    Index(None, "action", "n"),
    Index(None, "actor", "n"),
    comment="Who did what, when and why. Rows are never changed, and each has a hash over itself and the row before.",
)

drift_states = Table(
    "drift_states",
    metadata,
    Column("stream_id", Number, ForeignKey("streams.id"), nullable=False),
    Column("model_version_id", Number, ForeignKey("model_versions.id"), nullable=False),
    Column("state_json", Json(), nullable=False),
    Column("at", Time, nullable=False),
    PrimaryKeyConstraint("stream_id", "model_version_id"),
    comment="How far the scores of a stream have moved, so that the service goes on after a restart.",
)

settings = Table(
    "settings",
    metadata,
    Column("key", Key, primary_key=True),
    Column("value", Json(), nullable=False),
    Column("at", Time, nullable=False),
    Column("by", Text, nullable=False),
    comment="Settings that people change on the pages.",
)

APPEND_ONLY = ("audit_log", "reviews")


def triggers(dialect: str) -> list[str]:
    """The statements that make APPEND_ONLY so."""
    if dialect == "sqlite":
        refuse = "BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or removed'); END"
        again = "EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key})"  # INSERT OR REPLACE deletes without a trigger
        forms = (
            f"CREATE TRIGGER {{table}}_no_update BEFORE UPDATE ON {{table}} {refuse}",
            f"CREATE TRIGGER {{table}}_no_delete BEFORE DELETE ON {{table}} {refuse}",
            f"CREATE TRIGGER {{table}}_no_replace BEFORE INSERT ON {{table}} WHEN {again} {refuse}",
        )
        return [
            form.format(table=table, key=metadata.tables[table].primary_key.columns.keys()[0])
            for table in APPEND_ONLY
            for form in forms
        ]
    refuse = (
        "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'rows of % are never changed or removed', TG_TABLE_NAME; END $$"
    )
    return [refuse] + [
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        for table in APPEND_ONLY
    ]
