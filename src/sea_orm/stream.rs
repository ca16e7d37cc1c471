//! Streams of rows.

use std::future::ready;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::TryStreamExt as _;
use sea_orm::{
    DbBackend, DbErr, EntityTrait, FromQueryResult as _, QueryResult, QueryTrait as _, Select, Statement,
    StreamTrait,
};
use sqlx::Executor as _;

use super::connection::{query, query_error};
use super::{SeaOrm, SeaOrmBackend};
use crate::backend::Backend;

/// Records that a stream holds the transaction, until it is dropped.
struct Streaming<'a>(&'a AtomicBool);

impl Drop for Streaming<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl<DB: Backend> SeaOrm<'_, DB> {
    pub(super) fn refuse_while_streaming(&self) -> Result<(), DbErr> {
        if self.shared.is_streaming.load(Ordering::Acquire) {
            return Err(DbErr::Custom(String::from(
                "a stream is open on this transaction, which has one connection: read it to its end, or drop \
                 it, before the next statement",
            )));
        }
        Ok(())
    }
}

impl<DB: SeaOrmBackend> SeaOrm<'_, DB> {
    /// Streams the models of a query.
    ///
    /// # Why not `select.stream(&orm)`?
    ///
    /// That works too, but not in the closure of a unit, whose future has to be `Send`: the compiler does not
    /// see that the stream of a connection with a lifetime is `Send`
    /// ([rust-lang/rust#100013](https://github.com/rust-lang/rust/issues/100013)). The types of this method
    /// say so.
    ///
    /// # Errors
    ///
    /// Returns the errors of SeaORM's `stream`. While the stream is open, other statements on the transaction
    /// fail.
    #[must_use]
    pub fn stream_models<'a, E>(
        &'a self,
        select: Select<E>,
    ) -> BoxFuture<'a, Result<ModelStream<'a, E>, DbErr>>
    where
        E: EntityTrait<Model: Send>,
    {
        let rows = self.rows(DB::BACKEND.build(select.as_query()));
        Box::pin(async move {
            let models = rows.await?.and_then(|row| ready(E::Model::from_query_result(&row, "")));
            Ok(Box::pin(models) as ModelStream<'a, E>)
        })
    }

    fn rows(&self, statement: Statement) -> BoxFuture<'_, Result<Rows<'_>, DbErr>> {
        Box::pin(async move {
            let mut lent = self.lend().await?;
            self.shared.is_streaming.store(true, Ordering::Release);
            let streaming = Streaming(&self.shared.is_streaming);
            let rows = async_stream::try_stream! {
                let _streaming = streaming;
                let mut rows = lent.tx.fetch(query(statement));
                while let Some(row) = rows.try_next().await.map_err(query_error)? {
                    yield row.into();
                }
            };
            Ok(Box::pin(rows) as Rows<'_>)
        })
    }
}

/// The models of a query: [`SeaOrm::stream_models`] returns it.
pub type ModelStream<'a, E> = BoxStream<'a, Result<<E as EntityTrait>::Model, DbErr>>;

type Rows<'a> = BoxStream<'a, Result<QueryResult, DbErr>>;

impl<'t, DB: SeaOrmBackend> StreamTrait for SeaOrm<'t, DB> {
    type Stream<'a>
        = Rows<'a>
    where
        Self: 'a;

    fn get_database_backend(&self) -> DbBackend {
        DB::BACKEND
    }

    fn stream_raw<'a>(
        &'a self,
        statement: Statement,
    ) -> Pin<Box<dyn Future<Output = Result<Rows<'a>, DbErr>> + Send + 'a>> {
        self.rows(statement)
    }
}
