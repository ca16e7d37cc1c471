//! Reports how far a certification is.

/// How far a certification is, before each of its checks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertifyProgress {
    /// The number of checks that are done.
    pub done: usize,
    /// The number of all checks.
    pub total: usize,
    /// The id of the next check.
    pub check: String,
}
