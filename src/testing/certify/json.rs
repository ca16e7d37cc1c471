//! Keeps a sheet as JSON.

use serde_json::{Value, json};

use super::sheet::{Sheet, SheetEntry, Standing};
use crate::error::Error;

impl Sheet {
    /// Returns the sheet as JSON, to be kept and [compared](Self::differences_from) with a later one.
    #[must_use]
    pub fn to_json(&self) -> String {
        let entry = |entry: &SheetEntry| {
            json!({
                "id": entry.id,
                "promise": entry.promise,
                "standing": entry.standing.as_str(),
                "expected": entry.expected.map(Standing::as_str),
                "evidence": entry.evidence,
            })
        };
        let entries: Vec<Value> = self.entries.iter().map(entry).collect();
        let sheet =
            json!({ "engine": self.engine, "server": self.server, "nodes": self.nodes, "entries": entries });
        format!("{sheet:#}\n")
    }

    /// Reads a sheet that [`to_json`](Self::to_json) has written.
    ///
    /// # Errors
    ///
    /// The text is not the JSON of a sheet.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Error::invalid_input(format!("the sheet is not JSON: {error}")))?;
        let read = || {
            let entries = value.get("entries")?.as_array()?;
            Some(Self {
                engine: text_of(&value, "engine")?,
                server: text_of(&value, "server")?,
                nodes: usize::try_from(value.get("nodes")?.as_u64()?).ok()?,
                entries: entries.iter().map(entry_of).collect::<Option<_>>()?,
            })
        };
        let message = "the JSON is not a sheet: it needs engine, server, nodes and entries, each with id, \
                       promise, standing, expected and evidence";
        read().ok_or_else(|| Error::invalid_input(message.to_owned()))
    }
}

fn entry_of(value: &Value) -> Option<SheetEntry> {
    let expected = match value.get("expected")? {
        Value::Null => None,
        expected => Some(standing_of(expected)?),
    };
    Some(SheetEntry {
        id: text_of(value, "id")?,
        promise: text_of(value, "promise")?,
        standing: standing_of(value.get("standing")?)?,
        expected,
        evidence: text_of(value, "evidence")?,
    })
}

fn standing_of(value: &Value) -> Option<Standing> {
    Standing::ALL.into_iter().find(|standing| value.as_str() == Some(standing.as_str()))
}

fn text_of(value: &Value, key: &str) -> Option<String> {
    Some(value.get(key)?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn sheet() -> Sheet {
        let entry = SheetEntry {
            id: String::from("locks.nowait"),
            promise: String::from("NOWAIT fails at once"),
            standing: Standing::NotHeld,
            expected: Some(Standing::Held),
            evidence: String::from("it \"waits\""),
        };
        let other = SheetEntry { expected: None, id: String::from("locks.update"), ..entry.clone() };
        Sheet {
            engine: String::from("PostgreSQL"),
            server: String::from("15"),
            nodes: 2,
            entries: vec![entry, other],
        }
    }

    #[test]
    fn a_sheet_survives_json() {
        assert_eq!(Sheet::from_json(&sheet().to_json()).expect("a sheet"), sheet());
    }

    #[test]
    fn what_is_no_sheet_is_refused() {
        for text in ["", "{}", "{\"server\": 1}", &sheet().to_json().replace("not held", "no")] {
            assert_eq!(Sheet::from_json(text).expect_err("no sheet").kind(), ErrorKind::InvalidInput);
        }
    }
}
