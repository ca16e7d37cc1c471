//! The tables that the crate keeps: their definitions, creation, names, checks and purges.

mod checks;
mod creating;
mod features;
mod migrations;
mod purge;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod support;

use support::on_every_database;

on_every_database! {
    migrations::a_migration_of_sqlx_creates_all_tables,
    migrations::every_statement_ends_with_a_semicolon,
    migrations::parts_can_be_created_one_by_one,
    checks::missing_tables_are_named_with_their_statement,
    checks::missing_columns_and_indexes_are_named_with_their_statement,
    checks::versions_are_compared,
    checks::an_error_about_a_missing_table_says_how_to_create_it,
    features::all_features_work_with_a_prefix,
    purge::what_has_expired_is_purged_and_counted,
    purge::a_table_that_cannot_be_purged_does_not_keep_others_from_it,
    purge::purges_repeat_until_shutdown,
    purge::upkeep_ignores_the_options_of_units,
}
