//! Serializes advice, for other tools.

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::advice::{Advice, AdviceCell, UnitAdvice};
use crate::isolation::Isolation;
use crate::testing::explore::{AnomalyName, Counterexample};

impl Serialize for Advice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut advice = serializer.serialize_struct("Advice", 3)?;
        advice.serialize_field("cells", &self.cells)?;
        advice.serialize_field("units", &self.units)?;
        advice.serialize_field("not_covered", &self.not_covered)?;
        advice.end()
    }
}

impl Serialize for AdviceCell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut cell = serializer.serialize_struct("AdviceCell", 11)?;
        cell.serialize_field("units", &self.units)?;
        cell.serialize_field("strategy", &self.strategy)?;
        cell.serialize_field("isolation", self.isolation.as_sql())?;
        cell.serialize_field("schedules", &self.schedules)?;
        cell.serialize_field("wrong", &self.wrong)?;
        cell.serialize_field("anomaly", &self.anomaly.map(AnomalyName::as_str))?;
        cell.serialize_field("wasted_attempts", &self.wasted_attempts)?;
        cell.serialize_field("waits", &self.waits)?;
        cell.serialize_field("waited", &self.waited)?;
        cell.serialize_field("round_trips", &self.round_trips)?;
        cell.serialize_field("counterexample", &self.counterexample)?;
        cell.end()
    }
}

impl Serialize for UnitAdvice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut unit = serializer.serialize_struct("UnitAdvice", 4)?;
        unit.serialize_field("unit", &self.unit)?;
        unit.serialize_field("strategy", &self.strategy)?;
        unit.serialize_field("isolation", &self.isolation.map(Isolation::as_sql))?;
        unit.serialize_field("reason", &self.reason)?;
        unit.end()
    }
}

/// The schedule, to replay it, and the swim lanes, to read it.
impl Serialize for Counterexample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut counterexample = serializer.serialize_struct("Counterexample", 2)?;
        counterexample.serialize_field("schedule", &self.schedule().to_string())?;
        counterexample.serialize_field("lanes", &self.to_string())?;
        counterexample.end()
    }
}
