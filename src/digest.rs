//! Stable hashes of keys.

use std::hash::Hash;

use rustc_stable_hash::{FromStableHash, SipHasher128Hash, StableSipHasher128};

/// Hashes a key. The result is the same in every process and on every machine: the hash is not seeded and
/// does not depend on the machine's integer size or byte order.
pub(crate) fn digest(key: &impl Hash) -> u64 {
    struct Half(u64);
    impl FromStableHash for Half {
        type Hash = SipHasher128Hash;
        fn from(hash: SipHasher128Hash) -> Self {
            Self(hash.0[0])
        }
    }
    let mut hasher = StableSipHasher128::new();
    key.hash(&mut hasher);
    hasher.finish::<Half>().0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes that run different versions of the crate lock each other out by these numbers, so they must
    /// not change.
    #[test]
    fn digests_are_stable() {
        assert_eq!(digest(&("event", 7_i64)), 14_697_136_109_097_000_801);
        assert_eq!(digest(&String::from("a")), digest(&"a"));
        assert_ne!(digest(&("ab", "c")), digest(&("a", "bc")));
        assert_ne!(digest(&1_u32), digest(&2_u32));
    }
}
