//! What MySQL, MariaDB and their driver show to who looks closely.

use crate::backend::LockWait;
use crate::backend::values::{all_between, bytes_after, hex, quoted, take};

use super::innodb_status::{self, ReportedLock};

/// Out of the driver's `Debug` output.
pub(super) fn arguments(arguments: &str) -> Option<Vec<String>> {
    let bytes = bytes_after(arguments, "MySqlArguments { values: [")?;
    let nulls = bytes_after(arguments, "NullBitMap { bytes: [")?;
    let (_, types) = arguments.split_once("], types: [")?;
    let mut rest = bytes.as_slice();
    let types = all_between(types, "MySqlTypeInfo { type: ", '}').into_iter().enumerate();
    types
        .map(|(i, declared)| {
            if nulls.get(i / 8)? & (1 << (i % 8)) != 0 {
                return Some(String::from("NULL"));
            }
            let (name, flags) = declared.split_once(',')?;
            value(name, flags.contains("UNSIGNED"), &mut rest)
        })
        .collect()
}

/// A value, as long as its type says or as it says itself.
fn value(type_name: &str, unsigned: bool, rest: &mut &[u8]) -> Option<String> {
    Some(match (type_name, unsigned) {
        ("Tiny", _) => i8::from_le_bytes(take(rest)?).to_string(),
        ("Short", _) => i16::from_le_bytes(take(rest)?).to_string(),
        ("Long", false) => i32::from_le_bytes(take(rest)?).to_string(),
        ("Long", true) => u32::from_le_bytes(take(rest)?).to_string(),
        ("LongLong", false) => i64::from_le_bytes(take(rest)?).to_string(),
        ("LongLong", true) => u64::from_le_bytes(take(rest)?).to_string(),
        ("Float", _) => f32::from_le_bytes(take(rest)?).to_string(),
        ("Double", _) => f64::from_le_bytes(take(rest)?).to_string(),
        _ => {
            let length = match take::<1>(rest)? {
                [0xfc] => usize::from(u16::from_le_bytes(take(rest)?)),
                [short @ ..=0xfa] => usize::from(short),
                _ => return None,
            };
            let (value, behind) = rest.split_at_checked(length)?;
            *rest = behind;
            match (type_name, str::from_utf8(value)) {
                ("VarString" | "VarChar" | "String", Ok(text)) => quoted(text),
                _ => hex(value),
            }
        }
    })
}

/// Out of InnoDB's status, or a line of the list of processes.
pub(super) fn lock_waits(text: &str) -> Vec<LockWait> {
    if let Some(line) = text.strip_prefix("process ") {
        let wait = line.split_once(' ').and_then(|(session, state)| {
            Some(LockWait { session: session.parse().ok()?, blocked_by: Vec::new(), lock: state.to_owned() })
        });
        return wait.into_iter().collect();
    }
    let transactions = text.split("\n---TRANSACTION ").skip(1).filter(|one| one.contains("\nLOCK WAIT "));
    transactions
        .filter_map(|one| {
            let session = one.lines().find_map(innodb_status::session)?;
            let (_, wanted) = one.split_once("FOR THIS LOCK TO BE GRANTED:")?;
            let ReportedLock { on, table, mode, .. } = wanted.lines().find_map(innodb_status::lock)?;
            let what = if on.starts_with("RECORD") { "a row of " } else { "" };
            Some(LockWait { session, blocked_by: Vec::new(), lock: format!("{what}{table} ({mode})") })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sqlx::Arguments as _;
    use sqlx::mysql::MySqlArguments;

    use super::*;

    /// The driver's output is nobody's promise: this says when it has changed.
    #[test]
    fn arguments_are_read() {
        let mut bound = MySqlArguments::default();
        bound.add(7_i64).expect("an argument");
        bound.add("it's").expect("an argument");
        bound.add(None::<i64>).expect("an argument");
        bound.add(true).expect("an argument");
        bound.add(1.5_f64).expect("an argument");
        bound.add(u64::MAX).expect("an argument");
        bound.add(vec![1_u8, 255]).expect("an argument");
        bound.add(-3_i32).expect("an argument");
        bound.add("x".repeat(300)).expect("an argument");
        let shown = arguments(&format!("{bound:?}")).expect("the output of this driver");
        assert_eq!(shown[..8], ["7", "'it''s'", "NULL", "1", "1.5", "18446744073709551615", "x'01ff'", "-3"]);
        assert_eq!(shown[8].len(), 302);
        assert_eq!(arguments("MySqlArguments { something: else }"), None);
    }

    /// As MariaDB 10.11 and MySQL 9 print it.
    #[test]
    fn waits_are_read() {
        let status = "
LIST OF TRANSACTIONS FOR EACH SESSION:
---TRANSACTION 423, ACTIVE 0 sec starting index read
mysql tables in use 1, locked 1
LOCK WAIT 2 lock struct(s), heap size 1128, 1 row lock(s)
MariaDB thread id 12, OS thread handle 1, query id 99 localhost root Updating
UPDATE product SET stock = 9 WHERE id = 1
------- TRX HAS BEEN WAITING 0 us FOR THIS LOCK TO BE GRANTED:
RECORD LOCKS space id 5 page no 3 n bits 8 index PRIMARY of table `shop`.`product` trx id 423 lock_mode X locks rec but not gap waiting
---TRANSACTION 422, ACTIVE 0 sec
2 lock struct(s), heap size 1128, 1 row lock(s), undo log entries 1
MariaDB thread id 11, OS thread handle 2, query id 98 localhost root
";
        let lock = String::from("a row of product (X locks rec but not gap)");
        assert_eq!(lock_waits(status), [LockWait { session: 12, blocked_by: Vec::new(), lock }]);
        let lock = String::from("User lock");
        assert_eq!(
            lock_waits("process 7 User lock"),
            [LockWait { session: 7, blocked_by: Vec::new(), lock }]
        );
        assert_eq!(lock_waits("something else"), []);
    }
}
