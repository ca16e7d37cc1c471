//! Random texts that are composed of parts which mislead a parser of SQL.

use atomically::{Error, ErrorKind, Optimistic, Pessimistic, TransactorExt as _, Tx};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

use crate::control::{counter, value};
use crate::support::TestBackend;

const TEXTS: u64 = 150;

/// Separators of words.
fn gaps(database: &str) -> Vec<&'static str> {
    let mut gaps = vec![
        " ",
        "\n",
        "\t",
        " -- ; COMMIT '\n",
        "/* ; COMMIT -- */",
        " /* ' */ ",
        " -- /*\n",
        "/**/",
        " --\n",
    ];
    gaps.extend(match database {
        "PostgreSQL" => vec![" -- x\r", "/* /* ; ' */ -- */", "/* $$ */", "\u{c}"],
        "MySQL" => vec![" # ; '\n", "#\n", " --\tCOMMIT;\n", "/* /* */", "/*+ ; */ "],
        _ => vec!["/* /* */", " -- \r;\n"],
    });
    gaps
}

/// Literals and expressions.
fn values(database: &str) -> Vec<&'static str> {
    let mut values = vec![
        "1",
        "'; COMMIT; '",
        "'it''s -- '",
        "'/*'",
        "(2)",
        "'FOR UPDATE'",
        "3 - 2",
        "'$$'",
        "'`'",
        "'\"'",
    ];
    values.extend(match database {
        "PostgreSQL" => vec![
            "$$; COMMIT; $$",
            "$a$ $$ ' -- $a$",
            "E'\\'; COMMIT; '",
            "E'\\\\'",
            "'a'\n'b'",
            "1::text",
            "ARRAY[1, 2]",
            "B'1'",
            "U&'d\\0061t'",
            "(1 =-- ;\n 1)",
            "n",
            "'[;]'",
            "$_1$;$_1$",
        ],
        "MySQL" => vec![
            "\"; COMMIT; \"",
            "'a\\'; COMMIT; '",
            "\"it\"\"s -- \"",
            "'\\\\'",
            "1--1",
            "5--2",
            "x'00'",
            "_utf8mb4'; '",
            "@a",
            "@`;`",
            "N';'",
            "'#'",
        ],
        _ => vec!["'\\'", "x'00'", "NULL", "'a' || ';'", "'#'"],
    });
    values
}

/// Names of columns.
fn names(database: &str) -> Vec<&'static str> {
    match database {
        "PostgreSQL" => vec!["\"; COMMIT;\"", "\"a\"\" -- \"", "union", "a$b$", "\"$$\"", "naïve", "\"/*\""],
        "MySQL" => vec!["`; COMMIT;`", "`a`` -- `", "`/*`", "a$b", "$a", "`#`", "naïve"],
        _ => vec!["[; COMMIT;]", "`; COMMIT;`", "\"; -- \"", "[/*]", "a$b", "naïve"],
    }
}

struct Author {
    random: StdRng,
    database: &'static str,
}

impl Author {
    fn one_of(&mut self, of: &[&'static str]) -> &'static str {
        of.choose(&mut self.random).copied().unwrap_or_default()
    }

    fn gap(&mut self) -> &'static str {
        let all = gaps(self.database);
        self.one_of(&all)
    }

    /// A SELECT with this FROM clause and random gaps between its words.
    fn select(&mut self, from: &str) -> String {
        let mut text = format!("SELECT{}", self.gap());
        for _ in 0..self.random.random_range(0..3) {
            let (value, name) = (values(self.database), names(self.database));
            let (value, name) = (self.one_of(&value), self.one_of(&name));
            if from.is_empty() && value == "n" {
                continue;
            }
            text += &format!("{value}{}AS{}{name}{},{}", self.gap(), self.gap(), self.gap(), self.gap());
        }
        text += if from.is_empty() { "1" } else { "id" };
        for word in from.split(' ').filter(|word| !word.is_empty()) {
            text += self.gap();
            text += word;
        }
        text
    }
}

fn sql(text: &str) -> SqlStr {
    AssertSqlSafe(text.to_owned()).into_sql_str()
}

/// A unit is refused if, and only if, a COMMIT is among its statements.
pub(crate) async fn a_commit_is_found_at_any_position<DB: TestBackend>() {
    let pool = counter::<DB>(2).await;
    let (mut stored, mut refused) = (0, 0);
    for seed in 0..TEXTS {
        let mut author = Author { random: StdRng::seed_from_u64(seed), database: DB::NAME };
        let count = author.random.random_range(1..4);
        let mut statements: Vec<String> = (0..count).map(|_| author.select("")).collect();
        let commits = author.random.random_bool(0.5);
        if commits {
            let mut endings = vec!["COMMIT", "commit", "ROLLBACK", "BEGIN", "Commit/**/"];
            match DB::NAME {
                "MySQL" => endings.extend([
                    "/*! COMMIT */",
                    "/*M! COMMIT */",
                    "/*!50001 COMMIT */",
                    "CREATE TABLE x (a INT)",
                ]),
                _ => endings.push("END"),
            }
            let at = author.random.random_range(0..=statements.len());
            statements.insert(at, author.one_of(&endings).to_owned());
        }
        let mut text = author.gap().to_owned();
        for statement in statements {
            text += &format!("{statement}{};{}", author.gap(), author.gap());
        }
        let db = Optimistic::default().on(&pool);
        let result = db
            .run(async |tx: &mut Tx<DB>| {
                DB::execute(tx, sql("UPDATE counter SET value = value + 1 WHERE id = 1"), &[]).await?;
                DB::plain(tx, sql(&text)).await?;
                Ok::<_, Error>(())
            })
            .await;
        match result {
            Ok(()) if !commits => stored += 1,
            Err(error) if commits && error.kind() == ErrorKind::Aborted => refused += 1,
            Err(error) => panic!("seed {seed}: {text}\n{error}"),
            Ok(()) => panic!("seed {seed}, COMMIT was not found: {text}"),
        }
        assert_eq!(value(&pool, 1).await, stored, "seed {seed}: {text}");
    }
    assert!(stored > 20 && refused > 20, "{stored} stored, {refused} refused");
}

pub(crate) async fn a_row_is_locked_with_any_comments_and_literals<DB: TestBackend>() {
    let pool = counter::<DB>(3).await;
    let others = DB::another(&pool.url).await;
    DB::pool_execute(&pool, sql("CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT)"), &[])
        .await
        .expect("a table");
    DB::pool_execute(&pool, sql("INSERT INTO t VALUES (1, 1), (2, 2)"), &[]).await.expect("rows");
    DB::pool_execute(&pool, sql("CREATE TABLE v (m BIGINT PRIMARY KEY)"), &[]).await.expect("a table");
    DB::pool_execute(&pool, sql("INSERT INTO v VALUES (1)"), &[]).await.expect("a row");
    let db = Pessimistic::default().on(&pool);
    let mut locked = 0;
    for seed in 0..TEXTS {
        let mut author = Author { random: StdRng::seed_from_u64(seed), database: DB::NAME };
        let froms = [
            "FROM t WHERE id = 1",
            "FROM t AS x WHERE x.id = 1 ORDER BY id LIMIT 1",
            "FROM t , v WHERE n = v.m",
        ];
        let from = author.one_of(&froms);
        let select = author.select(from);
        let text =
            format!("{}{select}{}{}{}", author.gap(), author.gap(), author.one_of(&["", ";"]), author.gap());
        let result = db
            .run(async |tx: &mut Tx<DB>| {
                DB::execute(tx, tx.for_update(sql(&text)), &[]).await?;
                let probe = sql("SELECT id FROM t WHERE id = 1 FOR UPDATE NOWAIT");
                Ok::<_, Error>(DB::pool_fetch(&others, probe, &[]).await.is_err())
            })
            .await;
        match result {
            Ok(is_locked) => {
                assert!(is_locked, "seed {seed}, not locked: {text}");
                locked += 1;
            }
            // The meaning of the text depends on settings of the session.
            Err(error) if error.to_string().contains("backslashes") => {}
            Err(error) => panic!("seed {seed}: {text}\n{error}"),
        }
    }
    assert!(locked > 40, "{locked} locked");
}
