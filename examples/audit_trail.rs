//! A payment and a note about it: a note that cannot be stored does not lose the payment.
//!
//! `cargo run --example audit_trail`

mod support;

use std::process::ExitCode;

use anyhow::{bail, ensure};
use atomically::{ConstraintKind, Error, Pessimistic, TransactorExt as _, Tx};
use sqlx::Pool;
use support::say;

// `Db` is the database, and `sql` puts its own parameters in place of each `?`.
support::on_each_database! {
    /// The unit of work: the payment has to be stored, the note may fail. Answers whether there is a note.
    async fn pay(tx: &mut Tx<Db>, payment: i64, receipt: &str) -> Result<bool, Error> {
        let pay = sql("INSERT INTO atomically_audit_payment (id, noted) VALUES (?, 1)");
        sqlx::query(pay).bind(payment).execute(&mut *tx).await?;

        match tx.savepoint(async |tx: &mut Tx<Db>| note(tx, payment, receipt).await).await {
            Ok(()) => Ok(true),
            // PostgreSQL would refuse this statement, and the commit, had the note failed outside of a savepoint.
            Err(error) if is_duplicate(&error) => {
                let without = sql("UPDATE atomically_audit_payment SET noted = 0 WHERE id = ?");
                sqlx::query(without).bind(payment).execute(&mut *tx).await?;
                Ok(false)
            }
            // Anything else is news for the caller, or a conflict that has the whole unit run again.
            Err(error) => Err(error),
        }
    }

    async fn note(tx: &mut Tx<Db>, payment: i64, receipt: &str) -> Result<(), Error> {
        let note = sql("INSERT INTO atomically_audit_note (payment, receipt) VALUES (?, ?)");
        sqlx::query(note).bind(payment).bind(receipt).execute(&mut *tx).await?;
        Ok(())
    }

    /// The same without a savepoint: all or nothing.
    async fn pay_strictly(tx: &mut Tx<Db>, payment: i64, receipt: &str) -> Result<(), Error> {
        let pay = sql("INSERT INTO atomically_audit_payment (id, noted) VALUES (?, 1)");
        sqlx::query(pay).bind(payment).execute(&mut *tx).await?;
        note(tx, payment, receipt).await
    }

    pub(crate) async fn story(pool: &Pool<Db>) -> anyhow::Result<()> {
        let db = Pessimistic::default().on(pool);

        let noted = db.run(async |tx: &mut Tx<Db>| pay(tx, 1, "R-1").await).await?;
        ensure!(noted, "the first note was refused");
        say!("Payment 1 is stored, with a note for receipt R-1.");

        let noted = db.run(async |tx: &mut Tx<Db>| pay(tx, 2, "R-1").await).await?;
        ensure!(!noted, "a receipt was noted twice");
        say!("Payment 2 is stored without a note: there is one for receipt R-1 already.");

        let strictly = db.run(async |tx: &mut Tx<Db>| pay_strictly(tx, 3, "R-1").await).await;
        let Err(error) = strictly else { bail!("a receipt was noted twice") };
        ensure!(is_duplicate(&error), "payment 3 ended with another error: {error}");
        say!("Payment 3 has no savepoint around its note, and is lost with it.");

        let payments = "SELECT id, noted FROM atomically_audit_payment ORDER BY id";
        let payments: Vec<(i64, i64)> = sqlx::query_as(payments).fetch_all(pool).await?;
        let notes = "SELECT payment FROM atomically_audit_note";
        let notes: Vec<i64> = sqlx::query_scalar(notes).fetch_all(pool).await?;
        ensure!(
            payments == [(1, 1), (2, 0)] && notes == [1],
            "stored were {payments:?}, and notes for {notes:?}"
        );
        say!("The database says the same: payments 1 and 2, and one note.");
        Ok(())
    }
}

const TABLES: [(&str, &str); 2] = [
    ("atomically_audit_payment", "id BIGINT PRIMARY KEY, noted BIGINT NOT NULL"),
    ("atomically_audit_note", "payment BIGINT NOT NULL, receipt VARCHAR(20) NOT NULL UNIQUE"),
];

/// By kind: not every database names the constraint.
fn is_duplicate(error: &Error) -> bool {
    error.constraint().is_some_and(|constraint| constraint.kind == ConstraintKind::Unique)
}

#[tokio::main]
async fn main() -> ExitCode {
    support::main(on_any).await
}
