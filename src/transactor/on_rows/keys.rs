//! Lists of keys.

/// The keys of the rows that a unit runs on: an array, a `Vec` or a slice. The rows come in an array for an
/// array, so that a pattern can take them apart, and in a `Vec` otherwise.
pub trait RowKeys: Send + Sync {
    /// The type of a key.
    type Key: Clone + Ord + Send + Sync + 'static;

    /// A list of rows, one for each key.
    type Rows<R>;

    /// Returns the keys.
    fn keys(&self) -> &[Self::Key];

    /// Arranges the rows, of which there is one for each key; `None` if there are more or fewer.
    fn rows<R>(&self, rows: Vec<R>) -> Option<Self::Rows<R>>;
}

impl<K: Clone + Ord + Send + Sync + 'static, const N: usize> RowKeys for [K; N] {
    type Key = K;
    type Rows<R> = [R; N];

    fn keys(&self) -> &[K] {
        self
    }

    fn rows<R>(&self, rows: Vec<R>) -> Option<[R; N]> {
        rows.try_into().ok()
    }
}

impl<K: Clone + Ord + Send + Sync + 'static> RowKeys for Vec<K> {
    type Key = K;
    type Rows<R> = Vec<R>;

    fn keys(&self) -> &[K] {
        self
    }

    fn rows<R>(&self, rows: Vec<R>) -> Option<Vec<R>> {
        Some(rows)
    }
}

impl<K: Clone + Ord + Send + Sync + 'static> RowKeys for &[K] {
    type Key = K;
    type Rows<R> = Vec<R>;

    fn keys(&self) -> &[K] {
        self
    }

    fn rows<R>(&self, rows: Vec<R>) -> Option<Vec<R>> {
        Some(rows)
    }
}
