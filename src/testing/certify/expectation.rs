//! What this crate believes of an engine, for each check.

use super::sheet::Standing;
use crate::backend::{Backend, Capability, Engine, Support};

#[cfg(test)]
mod chapters;

/// What a check should find.
enum Belief {
    /// The crate relies on it on every engine.
    Always,
    /// The engine says so.
    Engine(Capability),
    /// The engine says so, but of a cluster. Within one node, a cluster may promise more.
    Cluster(Capability),
    /// Nothing depends on it.
    Nothing,
}

/// What this crate believes; `None` if nothing depends on it, or it is not known.
pub(super) fn of<DB: Backend>(engine: &Engine, id: &str) -> Option<Standing> {
    let support = match belief::<DB>(id) {
        Belief::Always => Support::Yes,
        Belief::Engine(capability) => engine.supports(capability),
        Belief::Cluster(capability) => match engine.supports(capability) {
            Support::No if engine.cluster().is_some() => return None,
            support => support,
        },
        Belief::Nothing => return None,
    };
    match support {
        Support::Yes => Some(Standing::Held),
        Support::No => Some(Standing::NotHeld),
        Support::Unknown => None,
    }
}

fn belief<DB: Backend>(id: &str) -> Belief {
    use Belief as B;
    use Capability as C;

    if let Some(isolation) = id.strip_prefix("isolation.") {
        return isolation_belief(isolation);
    }
    match id {
        "commit.stored" | "commit.rollback" | "reads.other-session" | "unique-key.released" => B::Always,
        "savepoints.undo" | "savepoints.after-error" => B::Engine(C::Savepoints),
        "unique-key.fence" => B::Cluster(C::UniqueKeysFence),
        "ddl.transactional" | "ddl.no-implicit-commit" => B::Engine(C::TransactionalDdl),
        "locks.update" | "locks.update-blocks-writes" | "retries.deadlock" => B::Engine(C::RowLocks),
        "locks.skip-locked" => B::Engine(C::SkipLocked),
        "locks.nowait" => B::Engine(C::NoWait),
        "locks.advisory" | "locks.advisory-released" => B::Engine(C::AdvisoryLocks),
        "retries.serialization" => B::Cluster(C::Serializable),
        "limits.lock-timeout" => B::Engine(C::ServerLimits),
        "limits.statement-timeout" if DB::CERTIFICATION.short_statement_timeout.is_some() => {
            B::Engine(C::ServerLimits)
        }
        "sessions.prepared-statements" => B::Always,
        "sessions.notifications" => B::Engine(C::ListenNotify),
        "nodes.same-data" | "nodes.unique-key" | "nodes.guard-row" | "nodes.clock-skew" => B::Always,
        "nodes.row-locks" | "nodes.skip-locked" | "nodes.advisory-locks" => B::Engine(C::LocksCrossNodes),
        "nodes.write-skew" => B::Engine(C::Serializable),
        _ => B::Nothing,
    }
}

/// What a level is chosen for.
fn isolation_belief(id: &str) -> Belief {
    match id.split_once('.') {
        Some(("read-committed", "dirty-read")) => Belief::Engine(Capability::ReadCommitted),
        Some(("repeatable-read", "dirty-read" | "non-repeatable-read" | "read-skew")) => {
            Belief::Engine(Capability::SnapshotReads)
        }
        Some(("serializable" | "deferred" | "immediate", _)) => Belief::Cluster(Capability::Serializable),
        _ => Belief::Nothing,
    }
}

/// The word for it in the guide.
#[cfg(test)]
const fn of_support(support: Support) -> &'static str {
    match support {
        Support::Yes => "holds",
        Support::No => "does not hold",
        Support::Unknown => "depends on version and settings",
    }
}
