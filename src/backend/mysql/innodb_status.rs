//! Parses the lines of InnoDB's status that describe locks and sessions.

use crate::backend::messages::{between, unquoted};

/// A lock as InnoDB's status describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReportedLock<'a> {
    /// The kind: `RECORD LOCKS` or `TABLE LOCK`.
    pub(super) on: &'a str,
    /// For record locks, the numbers of the tablespace and of the page.
    pub(super) page: Option<(&'a str, &'a str)>,
    pub(super) index: Option<&'a str>,
    pub(super) table: String,
    /// InnoDB's number of the transaction that holds or wants it.
    pub(super) transaction: &'a str,
    pub(super) mode: &'a str,
}

impl ReportedLock<'_> {
    /// Returns whether both locks are on the same table or page.
    pub(super) fn is_at_same_location(&self, other: &Self) -> bool {
        (self.on, self.page, self.index) == (other.on, other.page, other.index) && self.table == other.table
    }
}

/// Parses ``RECORD LOCKS space id 5 page no 3 n bits 8 index PRIMARY of table `shop`.`product` trx id 423
/// lock_mode X waiting``
pub(super) fn lock(line: &str) -> Option<ReportedLock<'_>> {
    let on = ["RECORD LOCKS", "TABLE LOCK"].into_iter().find(|on| line.starts_with(on))?;
    let (location, rest) = line.split_once("table `")?;
    let (table, rest) = last_name(rest)?;
    let (_, rest) = rest.split_once(" trx id ")?;
    let (transaction, mode) =
        [" lock_mode ", " lock mode "].into_iter().find_map(|word| rest.split_once(word))?;
    Some(ReportedLock {
        on,
        page: between(location, "space id ", " ").zip(between(location, "page no ", " ")),
        index: between(location, " index ", " of ").map(unquoted),
        table,
        transaction,
        mode: mode.trim().trim_end_matches(" waiting"),
    })
}

/// Returns the last one of several names in backticks that are joined by dots, and what follows it. The
/// first backtick is already removed.
fn last_name(mut text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    loop {
        let (part, rest) = text.split_once('`')?;
        name.push_str(part);
        if let Some(rest) = rest.strip_prefix('`') {
            name.push('`');
            text = rest;
        } else if let Some(rest) = rest.strip_prefix(".`") {
            name.clear();
            text = rest;
        } else {
            return Some((name, rest));
        }
    }
}

/// Parses the session of `MariaDB thread id 12, OS thread handle 1, query id 99 localhost root Updating`
pub(super) fn session(line: &str) -> Option<i64> {
    let prefixes = ["MySQL thread id ", "MariaDB thread id "];
    let id = prefixes.into_iter().find_map(|start| line.strip_prefix(start))?;
    id.split(',').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_locks_are_parsed() {
        let line = "RECORD LOCKS space id 14 page no 3 n bits 320 index my key \
                    of table `shop`.`we``ird.t` /* Partition `p1` */ trx id 143 \
                    lock_mode X locks gap before rec insert intention waiting";
        let wanted = ReportedLock {
            on: "RECORD LOCKS",
            page: Some(("14", "3")),
            index: Some("my key"),
            table: String::from("we`ird.t"),
            transaction: "143",
            mode: "X locks gap before rec insert intention",
        };
        assert_eq!(lock(line), Some(wanted));
        let old = "RECORD LOCKS space id 244 page no 817 n bits 824 index `by code` \
                   of table `crm`.`business` trx id AEE50DCA lock mode S";
        let wanted = ReportedLock {
            on: "RECORD LOCKS",
            page: Some(("244", "817")),
            index: Some("by code"),
            table: String::from("business"),
            transaction: "AEE50DCA",
            mode: "S",
        };
        assert_eq!(lock(old), Some(wanted));
    }

    #[test]
    fn table_locks_are_parsed() {
        let wanted = ReportedLock {
            on: "TABLE LOCK",
            page: None,
            index: None,
            table: String::from("product"),
            transaction: "7",
            mode: "AUTO-INC",
        };
        assert_eq!(
            lock("TABLE LOCK table `shop`.`product` trx id 7 lock mode AUTO-INC waiting"),
            Some(wanted)
        );
        assert_eq!(lock("TABLE LOCK table `shop`.`product"), None);
        assert_eq!(lock("Record lock, heap no 2 PHYSICAL RECORD: n_fields 4"), None);
    }

    #[test]
    fn sessions_are_parsed() {
        assert_eq!(
            session("MariaDB thread id 12, OS thread handle 1, query id 99 localhost root Updating"),
            Some(12)
        );
        assert_eq!(session("MySQL thread id 7, OS thread handle 1"), Some(7));
        assert_eq!(session("SELECT 'MySQL thread id 7,'"), None);
    }
}
