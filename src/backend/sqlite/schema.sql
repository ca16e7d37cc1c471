-- The tables that the crate `atomically` keeps in SQLite.

-- The version of each part below. A check at the start of a program compares it with what the program needs.
CREATE TABLE IF NOT EXISTS atomically_schema (
    part TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL
) WITHOUT ROWID;

-- # operations
-- One row per transaction whose commit can be looked up. Needed with Options::resolve_commits only.
CREATE TABLE IF NOT EXISTS atomically_operation (
    id BLOB PRIMARY KEY,
    recorded_at INTEGER NOT NULL DEFAULT (unixepoch())
) WITHOUT ROWID;
INSERT OR IGNORE INTO atomically_schema (part, version) VALUES ('operations', 1);

-- # keys
-- One row per idempotency key, with the response to its request. Times are seconds since 1970.
CREATE TABLE IF NOT EXISTS atomically_key (
    digest BLOB PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    run BLOB NOT NULL,
    response TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS atomically_key_expires_at ON atomically_key (expires_at);
INSERT OR IGNORE INTO atomically_schema (part, version) VALUES ('keys', 1);

-- # queue
-- The jobs of all queues. Times are microseconds since 1970. Without AUTOINCREMENT, the id of a completed job
-- would be given to a later job, whose tokens start again.
CREATE TABLE IF NOT EXISTS atomically_job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    due_at INTEGER,
    token INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL,
    enqueued_at INTEGER NOT NULL,
    claimed_at INTEGER,
    died_at INTEGER,
    unique_key TEXT,
    unique_until_claimed INTEGER NOT NULL DEFAULT 0,
    key_name TEXT,
    key_id INTEGER,
    key_limit INTEGER,
    has_slot INTEGER,
    waiting_key INTEGER,
    wanted_at INTEGER,
    payload TEXT NOT NULL,
    last_error TEXT
);
CREATE INDEX IF NOT EXISTS atomically_job_claim ON atomically_job (queue, priority, due_at, id);
CREATE UNIQUE INDEX IF NOT EXISTS atomically_job_unique ON atomically_job (queue, unique_key)
    WHERE unique_key IS NOT NULL AND died_at IS NULL;
CREATE INDEX IF NOT EXISTS atomically_job_dead ON atomically_job (queue, died_at) WHERE died_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS atomically_job_waiting ON atomically_job (waiting_key, id)
    WHERE waiting_key IS NOT NULL;
-- The leases that were extended, in a table of their own so that extensions do not change the row of the job.
CREATE TABLE IF NOT EXISTS atomically_job_lease (
    job_id INTEGER PRIMARY KEY,
    token INTEGER NOT NULL,
    until INTEGER NOT NULL
);
-- The keys of ordered and limited jobs, by a hash. Jobs with a slot are due or claimed, the others wait for one.
CREATE TABLE IF NOT EXISTS atomically_job_key (
    id INTEGER PRIMARY KEY,
    slots INTEGER NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0,
    next_id INTEGER NOT NULL DEFAULT 0
);
-- The queues that are paused.
CREATE TABLE IF NOT EXISTS atomically_job_pause (
    queue TEXT NOT NULL PRIMARY KEY,
    paused_at INTEGER NOT NULL
);
INSERT OR IGNORE INTO atomically_schema (part, version) VALUES ('queue', 1);

-- # leases
-- A lease has two rows. The token changes when the lease changes hands, and the expiry at each renewal.
CREATE TABLE IF NOT EXISTS atomically_lease (
    name TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    pins INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS atomically_lease_expiry (
    name TEXT PRIMARY KEY,
    token INTEGER NOT NULL,
    until INTEGER NOT NULL
);
INSERT OR IGNORE INTO atomically_schema (part, version) VALUES ('leases', 1);

-- # holds
-- One row for each row of yours from which a hold has taken an amount. Times are microseconds since 1970.
CREATE TABLE IF NOT EXISTS atomically_hold (
    id INTEGER NOT NULL,
    part INTEGER NOT NULL,
    token INTEGER NOT NULL,
    target TEXT NOT NULL,
    row_key TEXT NOT NULL,
    amount INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    confirmed_at INTEGER,
    PRIMARY KEY (id, part)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS atomically_hold_end ON atomically_hold (confirmed_at, expires_at);
INSERT OR IGNORE INTO atomically_schema (part, version) VALUES ('holds', 1);
