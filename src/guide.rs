//! Essays: what the reference pages take for granted.

#[doc = include_str!("guide/choosing.md")]
pub mod choosing {}

#[doc = include_str!("guide/anomalies.md")]
pub mod anomalies {}

#[doc = include_str!("guide/units.md")]
pub mod units {}

#[doc = include_str!("guide/failures.md")]
pub mod failures {}

#[cfg(feature = "idempotency")]
#[doc = include_str!("guide/idempotency.md")]
pub mod idempotency {}

#[doc = include_str!("guide/histories.md")]
pub mod histories {}

#[doc = include_str!("guide/operating.md")]
pub mod operating {}

#[doc = include_str!("guide/architecture.md")]
pub mod architecture {}
