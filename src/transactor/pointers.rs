//! Transactors behind references and smart pointers.

use std::sync::Arc;

use futures_core::future::BoxFuture;

use super::{Ended, Options, Transactor, Unit};
use crate::backend::Backend;
use crate::error::Error;

/// Forwards to the transactor behind the pointer.
///
/// Written without `async_trait`, which would put each run into one more box.
macro_rules! forwards {
    ($pointer:ty) => {
        impl<DB: Backend, X: Transactor<DB> + ?Sized> Transactor<DB> for $pointer {
            fn transact<'run, 'options, 'unit, 'async_trait>(
                &'run self,
                options: &'options Options,
                unit: &'unit mut dyn Unit<DB>,
            ) -> BoxFuture<'async_trait, Result<Ended, Error>>
            where
                'run: 'async_trait,
                'options: 'async_trait,
                'unit: 'async_trait,
                Self: 'async_trait,
            {
                (**self).transact(options, unit)
            }
        }
    };
}
forwards!(&X);
forwards!(Box<X>);
forwards!(Arc<X>);
