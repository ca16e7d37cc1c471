//! Sessions at one level of one database, controlled step by step.

use atomically::{Error, FailureKind};

use crate::engines::{Engine, Level, Reply};
use crate::session::Session;
use crate::support::TestPool;

pub(crate) struct Scene<E: Engine> {
    pool: TestPool<E>,
    level: &'static Level,
    settings: String,
}

impl<E: Engine> Scene<E> {
    /// Returns a database in which these statements have been executed.
    pub(crate) async fn at(level: &str, setup: &[&str]) -> Self {
        let pool = E::pool(2).await;
        let level = E::LEVELS.iter().find(|known| known.name == level).expect("a level of this database");
        let settings = E::settings(&pool, level).await.expect("a server that knows this level");
        for statement in setup {
            E::pool_execute(&pool, E::sql(statement), &[]).await.expect("the tables");
        }
        Self { pool, level, settings }
    }

    pub(crate) async fn client(&self) -> Client<'_, E> {
        Client { scene: self, session: Session::connect::<E>(&self.pool.url, &self.settings).await }
    }

    /// A client with an open transaction.
    pub(crate) async fn begun(&self) -> Client<'_, E> {
        let mut client = self.client().await;
        client.run(self.level.begin).await;
        client
    }
}

pub(crate) struct Client<'a, E: Engine> {
    scene: &'a Scene<E>,
    session: Session,
}

impl<E: Engine> Client<'_, E> {
    /// The result of a statement that does not have to wait.
    async fn ask(&mut self, statement: &str) -> Result<Reply, Error> {
        self.session.send(statement);
        let reply = self.session.reply::<E>(&self.scene.pool).await;
        reply.unwrap_or_else(|| panic!("waits for a lock: {statement}"))
    }

    pub(crate) async fn run(&mut self, statement: &str) -> Reply {
        self.ask(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"))
    }

    /// The integer that the statement returns.
    pub(crate) async fn read(&mut self, statement: &str) -> i64 {
        self.run(statement).await.rows[0][0]
    }

    pub(crate) async fn refused(&mut self, statement: &str) -> Option<FailureKind> {
        let error = self.ask(statement).await.expect_err("a failure");
        error.failure().map(|failure| failure.kind())
    }

    /// Sends a statement and returns whether it has to wait for a lock. If so, `granted` returns its result.
    pub(crate) async fn waits(&mut self, statement: &str) -> bool {
        self.session.send(statement);
        match self.session.reply::<E>(&self.scene.pool).await {
            None => true,
            Some(reply) => {
                reply.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
                false
            }
        }
    }

    pub(crate) async fn granted(&mut self) -> Reply {
        self.session.final_reply().await.expect("a lock that was let go")
    }
}
