use sha2::{Digest as _, Sha256};

/// What a request is recognised by: a key that its client chose, in a scope that the client cannot choose,
/// and a fingerprint of the request itself.
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
/// The database compares SHA-256 digests of a fixed length, and never the text. A column of text has a
/// collation, in which `abc` may equal `ABC` and `abc `, and a length, at which some databases cut off what
/// is longer: two clients would get each other's answers. Digests also keep what clients put into keys out of
/// the table.
///
/// # Why must it be made before it is used?
///
/// What a client sent is checked where it comes in, and answered there (400 over HTTP). Whoever holds one of
/// these can rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    pub(super) digest: [u8; 32],
    pub(super) fingerprint: [u8; 32],
}

/// Why a text cannot be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// It is empty, so that everybody's would be the same.
    #[error("an idempotency key must not be empty")]
    Empty,
    /// It is longer than [`IdempotencyKey::MAX_BYTES`].
    #[error("an idempotency key has at most {most} bytes, and this one has {0}", most = IdempotencyKey::MAX_BYTES)]
    TooLong(usize),
}

impl IdempotencyKey {
    /// How long a key may be: what clients of well-known interfaces are used to.
    pub const MAX_BYTES: usize = 255;

    /// A key in a scope, for a request that is not compared.
    ///
    /// The scope is whatever keeps clients apart (a tenant and an endpoint, say); it may be empty, and of any
    /// length. The same key in two scopes is two keys.
    ///
    /// # Errors
    ///
    /// When the key is empty or longer than [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn new(scope: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, InvalidKey> {
        let (scope, key) = (scope.as_ref(), key.as_ref());
        match key.len() {
            0 => return Err(InvalidKey::Empty),
            1..=Self::MAX_BYTES => {}
            bytes => return Err(InvalidKey::TooLong(bytes)),
        }
        let mut digest = Sha256::new();
        // Where the one ends and the other begins is part of what is digested.
        digest.update((scope.len() as u64).to_le_bytes());
        digest.update(scope);
        digest.update(key);
        Ok(Self { digest: digest.finalize().into(), fingerprint: [0; 32] })
    }

    /// The same key, for this request: the same key with other bytes is a
    /// [mismatch](super::Outcome::Mismatch).
    ///
    /// The bytes are whatever makes it the same request, usually its body as it came. Serialize a value to
    /// leave out what may differ between two sendings (a time stamp, the order of the fields).
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

    /// Processes of different versions must know each other's keys: they must not change.
    #[test]
    fn digests_are_stable() {
        let key = IdempotencyKey::new("payments", "7").expect("a key").request("500");
        assert_eq!(key.digest[..4], [151, 32, 241, 127]);
        assert_eq!(key.fingerprint[..4], [6, 4, 205, 49]);
    }

    #[test]
    fn what_a_collation_would_join_stays_apart() {
        for (one, other) in [("abc", "ABC"), ("abc", "abc "), ("e\u{301}", "\u{e9}"), ("a", "a\0")] {
            assert_ne!(digest("", one), digest("", other));
        }
        assert_ne!(digest("ab", "c"), digest("a", "bc"), "the scope ends somewhere");
        assert_ne!(digest("a", "b"), digest("c", "b"));
    }

    #[test]
    fn keys_are_neither_empty_nor_too_long() {
        assert_eq!(IdempotencyKey::new("scope", ""), Err(InvalidKey::Empty));
        assert!(IdempotencyKey::new("scope", "a".repeat(255)).is_ok());
        assert_eq!(IdempotencyKey::new("scope", "a".repeat(256)), Err(InvalidKey::TooLong(256)));
        assert!(InvalidKey::TooLong(256).to_string().contains("at most 255 bytes"));
    }

    #[test]
    fn requests_are_told_apart() {
        let key = IdempotencyKey::new("", "a").expect("a key");
        assert_eq!(key.request("x"), key.request(b"x"));
        assert_ne!(key.request("x"), key.request("y"));
        assert_ne!(key.request(""), key, "an empty request is one that is compared");
    }
}
