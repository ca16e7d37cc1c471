use sqlx::{AssertSqlSafe, MySql, Postgres, SqlSafeStr as _, Sqlite};

use super::*;

/// Classifies a text that is sent without being prepared.
fn plain<DB: Backend>(text: &str) -> &'static str {
    let query = WatchedQuery::<DB>::new(sqlx::raw_sql(AssertSqlSafe(text.to_owned()).into_sql_str()));
    name(&admission(&query.expect("a query"), None))
}

/// Classifies a text that is prepared.
fn prepared<DB: Backend>(text: &str) -> &'static str {
    let sql = AssertSqlSafe(text.to_owned()).into_sql_str();
    name(&admission(&WatchedQuery::<DB>::with_arguments(sql, DB::Arguments::default()), None))
}

const fn name(admission: &Admission) -> &'static str {
    match admission {
        Admission::Admitted | Admission::MayChangeSettings | Admission::SetsSavepoint => "admitted",
        Admission::Unwatched => "unwatched",
        Admission::MayEnd => "may end",
        Admission::Refused(_) => "refused",
    }
}

fn all_are(expected: &str, judge: fn(&str) -> &'static str, texts: &[&str]) {
    for text in texts {
        assert_eq!(judge(text), expected, "{text}");
    }
}

const CONTROL: [&str; 12] = [
    "COMMIT",
    " commit ;",
    "Rollback",
    "BEGIN",
    "BEGIN;",
    "START TRANSACTION",
    "start /* x */ transaction",
    "-- why\n/* so */ COMMIT AND CHAIN",
    "ROLLBACK WORK",
    "COMMIT/**/WORK",
    "/**/;COMMIT",
    ";COMMIT",
];

const OWN_SAVEPOINTS: [&str; 6] = [
    "SAVEPOINT atomically_guard",
    "RELEASE SAVEPOINT atomically_1",
    "RELEASE SAVEPOINT ATOMICALLY_1;",
    "ROLLBACK TO atomically_1",
    "ROLLBACK TO SAVEPOINT atomically_guard",
    "ROLLBACK WORK TO atomically_1",
];

const INSIDE: [&str; 19] = [
    "",
    ";",
    "SELECT 1",
    "SELECT 1;",
    "(SELECT 1)",
    "UPDATE commit SET rollback = 1",
    "SAVEPOINT a",
    "RELEASE SAVEPOINT a",
    "RELEASE a",
    "ROLLBACK TO SAVEPOINT a",
    "ROLLBACK TO a",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "VALUES (1)",
    "-- COMMIT",
    "/* COMMIT; */ SELECT 1",
    "SELECT 'COMMIT; BEGIN'",
    "SELECT ';' -- ; COMMIT",
    "SELECT \"a;COMMIT;\" FROM t",
    "EXPLAIN SELECT 1",
];

/// Texts with a COMMIT among several statements, which are sent without being prepared.
const HIDDEN: [&str; 7] = [
    "SELECT 1; COMMIT; BEGIN",
    "SELECT 1;COMMIT",
    "UPDATE t SET a = ';' ; /* ; */ COMMIT -- ;",
    "SELECT 1; -- x\nROLLBACK",
    "SELECT 1;; BEGIN",
    "SELECT 'it''s; a' ; COMMIT",
    "SELECT 1; RELEASE SAVEPOINT atomically_1",
];

fn common<DB: Backend>() {
    all_are("refused", plain::<DB>, &CONTROL);
    all_are("refused", plain::<DB>, &OWN_SAVEPOINTS);
    all_are("refused", prepared::<DB>, &OWN_SAVEPOINTS);
    all_are("refused", plain::<DB>, &HIDDEN);
    all_are("admitted", plain::<DB>, &INSIDE);
    all_are("admitted", prepared::<DB>, &INSIDE);
    all_are("unwatched", plain::<DB>, &["SELECT 1; SELECT 2", "UPDATE t SET a = 1; SAVEPOINT a;"]);
    all_are("may end", plain::<DB>, &["SELECT 1; SELECT 'a"]);
    let with_nul = if DB::SYNTAX == Syntax::Sqlite { "refused" } else { "may end" };
    all_are(with_nul, plain::<DB>, &["UPDATE t SET a = 1; SELECT \0 1"]);
}

#[test]
fn classifies_statements_of_postgres() {
    common::<Postgres>();
    all_are("refused", prepared::<Postgres>, &CONTROL);
    all_are(
        "refused",
        plain::<Postgres>,
        &[
            "END",
            "abort",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "ROLLBACK PREPARED 'x'",
            "SELECT $$;$$; COMMIT",
            "SELECT $a$ ' $a$; COMMIT -- '",
            "SELECT E'\\'; ' ; COMMIT",
            "SELECT '\\'; COMMIT",
            "SELECT 1 /* /* */ ; */ ; END",
            "SELECT @/* ' */ 1 ; COMMIT /* ' */",
            "SELECT 1 -- \r; COMMIT",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END; END",
            "SAVEPOINT \"atomically_guard\"",
            "SELECT U&'\\'; COMMIT; SELECT '",
            "SELECT a$b$; COMMIT; SELECT $b$ 1 $b$",
        ],
    );
    all_are(
        "admitted",
        plain::<Postgres>,
        &[
            "CALL p()",
            "DO $$BEGIN COMMIT; END$$",
            "PREPARE x AS SELECT 1",
            "EXECUTE x",
            "CREATE TABLE t (id INT)",
            "LOCK TABLE t",
            "SET TRANSACTION READ ONLY",
            "TRUNCATE t",
            "SELECT 1 /* /* */ ; COMMIT */",
            "SET LOCAL a.b = ';'",
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
            "SELECT $a$; COMMIT; $a$",
            "SELECT E'\\'; COMMIT; '",
            "SELECT e'it\\'s; COMMIT'",
            "LISTEN a",
            "FETCH 1 FROM c",
        ],
    );
    // With `standard_conforming_strings = off` this text contains a COMMIT.
    all_are("may end", plain::<Postgres>, &["SELECT '\\'; SELECT '; COMMIT; SELECT '"]);
    // The server rejects a text of several statements before it runs any.
    all_are("admitted", prepared::<Postgres>, &["SELECT 1; COMMIT"]);
}

#[test]
fn classifies_statements_of_mysql() {
    common::<MySql>();
    all_are("refused", prepared::<MySql>, &CONTROL);
    for judge in [plain::<MySql>, prepared::<MySql>] {
        all_are(
            "refused",
            judge,
            &[
                "# x\nCOMMIT",
                "#\nCOMMIT",
                "--\tx\nCOMMIT",
                "/*! COMMIT */",
                "/*M! COMMIT*/",
                "/*!50000 COMMIT */",
                "/*!999999 SELECT */ COMMIT",
                "/*M!100000 ROLLBACK */",
                "BEGIN NOT ATOMIC SELECT 1; END",
                "BEGIN WORK",
                "XA START 'x'",
                "XA END 'x'",
                "XA PREPARE 'x'",
                "SET autocommit = 0",
                "SET @@autocommit = 0",
                "SET @x = 1, SESSION autocommit = 1",
                "SET @@session.`autocommit` = 1",
                "SET completion_type = 1",
                "SET STATEMENT max_statement_time = 1 FOR COMMIT",
                "SAVEPOINT `atomically_guard`",
                "CREATE TABLE t (id INT)",
                "create /* x */ table t (id int)",
                "CREATE OR REPLACE TABLE t (id INT)",
                "CREATE INDEX a ON t (id)",
                "CREATE VIEW v AS SELECT 1",
                "CREATE PROCEDURE p() BEGIN COMMIT; END",
                "ALTER TABLE t ADD a INT",
                "DROP TABLE t",
                "DROP /*!40005 TEMPORARY */ TABLE t",
                "RENAME TABLE a TO b",
                "TRUNCATE t",
                "TRUNCATE TABLE t",
                "GRANT SELECT ON t TO a",
                "REVOKE ALL ON t FROM a",
                "LOCK TABLES t WRITE",
                "LOCK TABLE t READ",
                "UNLOCK TABLES",
                "FLUSH TABLES",
                "ANALYZE TABLE t",
                "ANALYZE LOCAL TABLE t",
                "OPTIMIZE TABLE t",
                "REPAIR TABLE t",
                "CHECK TABLE t",
                "START SLAVE",
                "START REPLICA",
                "STOP ALL SLAVES",
                "SET PASSWORD = 'x'",
                "LOAD INDEX INTO CACHE t",
                "CACHE INDEX t IN a",
                "INSTALL PLUGIN a SONAME 'b'",
                "UNINSTALL PLUGIN a",
                "RESET MASTER",
                "CHANGE MASTER TO MASTER_HOST = 'a'",
                "BACKUP STAGE START",
                "DROP TEMPORARY SEQUENCE s",
                "SET STATEMENT max_statement_time = 1 FOR DROP TABLE t",
            ],
        );
        all_are(
            "admitted",
            judge,
            &[
                "CREATE TEMPORARY TABLE t (id INT)",
                "CREATE OR REPLACE TEMPORARY TABLE t (id INT)",
                "DROP TEMPORARY TABLE t",
                "DROP PREPARE a",
                "SET @x = 1",
                "SET @autocommit = 1",
                "SET @x = 'autocommit'",
                "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
                "ANALYZE SELECT 1",
                "ANALYZE FORMAT = JSON SELECT 1",
                "LOAD DATA INFILE 'a' INTO TABLE t",
                "DO SLEEP(0)",
                "SHOW TABLES",
                "PREPARE a FROM 'SELECT 1'",
                "SELECT 1 -- x\n",
                "SELECT 1--2",
                "REPLACE INTO t VALUES (1)",
                "TABLE t",
            ],
        );
        all_are(
            "may end",
            judge,
            &[
                "CALL p()",
                "EXECUTE a",
                "EXECUTE IMMEDIATE 'COMMIT'",
                "IF 1 THEN COMMIT; END IF",
                "a: LOOP LEAVE a; END LOOP",
                "FOR i IN 1..2 DO COMMIT; END FOR",
                "SOMETHING NEW",
                "/*! SELECT /* */ 1 */",
            ],
        );
    }
    all_are(
        "refused",
        plain::<MySql>,
        &[
            "SELECT 1 # ;\n; COMMIT",
            "SELECT 1; /*! COMMIT */",
            "SELECT /*!99999 1; */ 1; DROP TABLE t",
            "SELECT 1 --1; COMMIT",
            "SELECT '\\\\'; COMMIT",
            "SELECT 1; SET autocommit = 1",
        ],
    );
    // With NO_BACKSLASH_ESCAPES this text contains a COMMIT.
    all_are("may end", plain::<MySql>, &["SELECT 'a\\'; COMMIT; SELECT '"]);
    all_are("admitted", prepared::<MySql>, &["SELECT 'a\\'; COMMIT; SELECT '"]);
}

#[test]
fn classifies_statements_of_sqlite() {
    common::<Sqlite>();
    // The driver runs all statements of a text, even with arguments.
    for judge in [plain::<Sqlite>, prepared::<Sqlite>] {
        all_are(
            "refused",
            judge,
            &[
                "BEGIN IMMEDIATE",
                "\u{feff}COMMIT",
                "SELECT 1; \u{feff}COMMIT",
                "END TRANSACTION",
                "end",
                "SELECT 1; COMMIT",
                "SELECT [;]; COMMIT",
                "SELECT `;`; COMMIT",
                "SELECT '\\'; COMMIT",
                "SELECT /* /* */ 1; COMMIT",
                "CREATE TABLE t (begin INT); END",
                "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END; END",
                "ROLLBACK TRANSACTION a",
                "RELEASE [atomically_1]",
            ],
        );
        all_are(
            "admitted",
            judge,
            &[
                "CREATE TABLE t (id INT)",
                "DROP TABLE t",
                "PRAGMA user_version",
                "SELECT [a;COMMIT]",
                "SELECT 1 /* ; COMMIT",
                "CREATE TRIGGER a AFTER INSERT ON t BEGIN UPDATE t SET n = 1; DELETE FROM t; END",
                "ROLLBACK TRANSACTION TO a",
                "EXPLAIN COMMIT",
                "ANALYZE",
                "REPLACE INTO t VALUES (1)",
            ],
        );
    }
}

/// On CockroachDB, data definition commits what preceded it; on others it is not rolled back.
#[test]
fn data_definition_is_refused_where_it_is_not_part_of_the_transaction() {
    let on = |ddl_escapes, text: &str| {
        let query = sqlx::raw_sql(AssertSqlSafe(text.to_owned()).into_sql_str());
        admission(&WatchedQuery::<Postgres>::new(query).expect("a query"), ddl_escapes)
    };
    let definitions = [
        "CREATE TABLE t (id INT)",
        "create index on t (id)",
        "-- why\n/* so */ ALTER TABLE t ADD COLUMN a INT",
        "SELECT 1; DROP TABLE t",
        ";TRUNCATE t",
        "GRANT SELECT ON t TO u",
        "COMMENT ON TABLE t IS 'x'",
        "REFRESH MATERIALIZED VIEW v",
    ];
    for text in definitions {
        let Admission::Refused(failure) = on(Some("CockroachDB"), text) else { panic!("{text}") };
        let message = failure.message();
        assert!(
            message.contains("was not sent: on CockroachDB it is not part of the transaction"),
            "{message}"
        );
        assert!(!matches!(on(None, text), Admission::Refused(_)), "{text}");
    }
    for text in ["SELECT 1", "UPDATE t SET a = 1", "SET LOCAL a.b = 'create'", "REFRESH", "SELECT 'CREATE'"] {
        assert!(!matches!(on(Some("CockroachDB"), text), Admission::Refused(_)), "{text}");
    }
}
