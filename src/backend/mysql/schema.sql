-- The tables that the crate `atomically` keeps in MySQL and MariaDB.

-- The version of each part below. A check at the start of a program compares it with what the program needs.
CREATE TABLE IF NOT EXISTS atomically_schema (
    part VARCHAR(32) CHARACTER SET utf8mb4 NOT NULL PRIMARY KEY,
    version INT NOT NULL
) ENGINE = InnoDB;

-- # operations
-- One row per transaction whose commit can be looked up. Needed with Options::resolve_commits only.
CREATE TABLE IF NOT EXISTS atomically_operation (
    id BINARY(16) PRIMARY KEY,
    recorded_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
) ENGINE = InnoDB;
INSERT IGNORE INTO atomically_schema (part, version) VALUES ('operations', 1);

-- # keys
-- One row per idempotency key, with the response to its request. Times are UTC.
CREATE TABLE IF NOT EXISTS atomically_key (
    digest BINARY(32) PRIMARY KEY,
    fingerprint BINARY(32) NOT NULL,
    run BINARY(16) NOT NULL,
    response LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    created_at DATETIME NOT NULL,
    expires_at DATETIME NOT NULL,
    KEY atomically_key_expires_at (expires_at)
) ENGINE = InnoDB;
INSERT IGNORE INTO atomically_schema (part, version) VALUES ('keys', 1);

-- # queue
-- The jobs of all queues. Times are microseconds since 1970. Names and keys are bytes, because the usual
-- collations treat a and A as equal. There are no partial indexes, so the unique index is on a generated column
-- that is NULL for dead jobs: NULLs are not compared.
CREATE TABLE IF NOT EXISTS atomically_job (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    queue VARBINARY(100) NOT NULL,
    priority SMALLINT NOT NULL,
    due_at BIGINT,
    token BIGINT NOT NULL DEFAULT 0,
    attempts INT NOT NULL DEFAULT 0,
    max_attempts INT NOT NULL,
    enqueued_at BIGINT NOT NULL,
    claimed_at BIGINT,
    died_at BIGINT,
    unique_key VARBINARY(255),
    unique_until_claimed BOOLEAN NOT NULL DEFAULT FALSE,
    live_key VARBINARY(255) AS (IF(died_at IS NULL, unique_key, NULL)) STORED,
    key_name VARCHAR(255) CHARACTER SET utf8mb4,
    key_id BIGINT,
    key_limit INT,
    has_slot SMALLINT,
    waiting_key BIGINT,
    wanted_at BIGINT,
    payload LONGTEXT CHARACTER SET utf8mb4 NOT NULL,
    last_error TEXT CHARACTER SET utf8mb4,
    KEY atomically_job_claim (queue, priority, due_at, id),
    UNIQUE KEY atomically_job_unique (queue, live_key),
    KEY atomically_job_dead (queue, died_at),
    KEY atomically_job_waiting (waiting_key, id)
) ENGINE = InnoDB;
-- The leases that were extended, in a table of their own so that extensions do not change the row of the job.
CREATE TABLE IF NOT EXISTS atomically_job_lease (
    job_id BIGINT NOT NULL PRIMARY KEY,
    token BIGINT NOT NULL,
    until BIGINT NOT NULL
) ENGINE = InnoDB;
-- The keys of ordered and limited jobs, by a hash. Jobs with a slot are due or claimed, the others wait for one.
CREATE TABLE IF NOT EXISTS atomically_job_key (
    id BIGINT NOT NULL PRIMARY KEY,
    slots INT NOT NULL,
    taken INT NOT NULL DEFAULT 0,
    next_id BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB;
-- The queues that are paused.
CREATE TABLE IF NOT EXISTS atomically_job_pause (
    queue VARBINARY(100) NOT NULL PRIMARY KEY,
    paused_at BIGINT NOT NULL
) ENGINE = InnoDB;
INSERT IGNORE INTO atomically_schema (part, version) VALUES ('queue', 1);

-- # leases
-- A lease has two rows. The token changes when the lease changes hands, and the expiry at each renewal.
CREATE TABLE IF NOT EXISTS atomically_lease (
    name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,
    token BIGINT NOT NULL,
    pins BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB;
CREATE TABLE IF NOT EXISTS atomically_lease_expiry (
    name VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY,
    token BIGINT NOT NULL,
    until BIGINT NOT NULL
) ENGINE = InnoDB;
INSERT IGNORE INTO atomically_schema (part, version) VALUES ('leases', 1);

-- # holds
-- One row for each row of yours from which a hold has taken an amount. Times are microseconds since 1970.
CREATE TABLE IF NOT EXISTS atomically_hold (
    id BIGINT NOT NULL,
    part INT NOT NULL,
    token BIGINT NOT NULL,
    target VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    row_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
    amount BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    confirmed_at BIGINT,
    PRIMARY KEY (id, part),
    KEY atomically_hold_end (confirmed_at, expires_at)
) ENGINE = InnoDB;
INSERT IGNORE INTO atomically_schema (part, version) VALUES ('holds', 1);
