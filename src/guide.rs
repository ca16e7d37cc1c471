//! Essays.
