//! What the crate believes of a node.

use atomically::{Capability, EngineCluster, EngineProduct, Pessimistic};

use crate::Database;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_recognized_as_one_of_a_cluster() {
    let database = Database::with(&[]).await;
    for pool in &database.pools {
        let engine = Pessimistic::default().on(pool).engine().await.expect("an engine");
        // One of the nodes shows the version of a MySQL with Galera.
        assert!(matches!(engine.product(), EngineProduct::MariaDb | EngineProduct::MySql), "{engine}");
        assert_eq!(engine.cluster(), Some(EngineCluster::Galera), "{engine}");
        assert!(engine.to_string().ends_with(" (Galera)"), "{engine}");
        for capability in [
            Capability::LocksCrossNodes,
            Capability::UniqueKeysFence,
            Capability::Serializable,
            Capability::SeveralStatementsInOnePacket,
            Capability::TransactionalDdl,
        ] {
            assert!(engine.supports(capability).is_no(), "{capability:?}");
        }
        assert!(engine.supports(Capability::SkipLocked).is_yes(), "among the clients of one node");
    }
}
