use sha2::{Digest as _, Sha256};

/// Identifies a request: a key that the client chose, in a scope that the server chose, and a fingerprint of
/// the request itself.
///
/// ```
/// use atomically::idempotency::{IdempotencyKey, InvalidKey};
///
/// let key = IdempotencyKey::new("client 7", "8e03978e-40d5-43dd-bc93-6894a57f9324")?.request(b"amount=500");
/// assert_eq!(IdempotencyKey::new("client 7", ""), Err(InvalidKey::Empty));
/// # Ok::<_, InvalidKey>(())
/// ```
///
/// # Why digests?
///
/// The database compares SHA-256 digests of a fixed length, never the text. A text column has a collation, in
/// which `abc` may equal `ABC` and `abc `, and a length, at which some databases truncate: two clients could
/// get each other's responses. Digests also keep the keys themselves, which may be confidential, out of the
/// table.
///
/// # Why is this a type of its own?
///
/// The key is validated where the request is received, where an invalid one can be rejected (400 over HTTP).
/// A value of this type is always valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    pub(super) digest: [u8; 32],
    pub(super) fingerprint: [u8; 32],
}

/// Why a string is not a valid idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// The key is empty.
    #[error("an idempotency key must not be empty")]
    Empty,
    /// The key has this many bytes, more than [`IdempotencyKey::MAX_BYTES`].
    #[error(
        "an idempotency key has at most {max} bytes, and this one has {0}",
        max = IdempotencyKey::MAX_BYTES
    )]
    TooLong(usize),
}

impl IdempotencyKey {
    /// The maximum length of a key in bytes, as in well-known HTTP APIs.
    pub const MAX_BYTES: usize = 255;

    /// Creates a key in a scope, without a fingerprint: requests with the same key are not compared.
    ///
    /// The scope separates clients, for example by tenant and endpoint. It may be empty, and of any length.
    /// The same key in two scopes is two keys.
    ///
    /// # Errors
    ///
    /// Returns an error if the key is empty or longer than [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn new(scope: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, InvalidKey> {
        let (scope, key) = (scope.as_ref(), key.as_ref());
        match key.len() {
            0 => return Err(InvalidKey::Empty),
            1..=Self::MAX_BYTES => {}
            bytes => return Err(InvalidKey::TooLong(bytes)),
        }
        let mut digest = Sha256::new();
        // The length separates the scope from the key.
        digest.update((scope.len() as u64).to_le_bytes());
        digest.update(scope);
        digest.update(key);
        Ok(Self { digest: digest.finalize().into(), fingerprint: [0; 32] })
    }

    /// Returns the same key with a fingerprint of the request: the same key with other bytes is a
    /// [mismatch](super::Outcome::Mismatch).
    ///
    /// Requests with equal bytes are the same request. Usually the bytes are the body as received. Serialize
    /// a value of your own to leave out what may differ when the request is sent again, such as a time stamp.
    #[must_use]
    pub fn request(self, bytes: impl AsRef<[u8]>) -> Self {
        Self { fingerprint: Sha256::digest(bytes).into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(scope: &str, key: &str) -> [u8; 32] {
        IdempotencyKey::new(scope, key).expect("a key").digest
    }

    /// Processes of different versions share the table, so digests must never change.
    #[test]
    fn digests_are_stable() {
        let key = IdempotencyKey::new("payments", "7").expect("a key").request("500");
        assert_eq!(key.digest[..4], [151, 32, 241, 127]);
        assert_eq!(key.fingerprint[..4], [6, 4, 205, 49]);
    }

    #[test]
    fn keys_that_a_collation_would_equate_are_different() {
        for (one, other) in [("abc", "ABC"), ("abc", "abc "), ("e\u{301}", "\u{e9}"), ("a", "a\0")] {
            assert_ne!(digest("", one), digest("", other));
        }
        assert_ne!(digest("ab", "c"), digest("a", "bc"), "the scope is separated from the key");
        assert_ne!(digest("a", "b"), digest("c", "b"));
    }

    #[test]
    fn empty_and_long_keys_are_refused() {
        assert_eq!(IdempotencyKey::new("scope", ""), Err(InvalidKey::Empty));
        assert!(IdempotencyKey::new("scope", "a".repeat(255)).is_ok());
        assert_eq!(IdempotencyKey::new("scope", "a".repeat(256)), Err(InvalidKey::TooLong(256)));
        assert!(InvalidKey::TooLong(256).to_string().contains("at most 255 bytes"));
    }

    #[test]
    fn requests_are_compared_by_their_bytes() {
        let key = IdempotencyKey::new("", "a").expect("a key");
        assert_eq!(key.request("x"), key.request(b"x"));
        assert_ne!(key.request("x"), key.request("y"));
        assert_ne!(key.request(""), key, "an empty request is compared too");
    }
}
