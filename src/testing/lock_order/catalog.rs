//! Reads the unique keys of all tables from the catalog of the database.

use std::collections::HashMap;

use async_trait::async_trait;

use crate::backend::Backend;
use crate::sql_text::Syntax;
use crate::transactor::{Decision, Unit};
use crate::tx::Tx;

/// Separates the fields of a line.
const SEPARATOR: char = '\u{1f}';

/// The tables of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Catalog {
    tables: HashMap<String, CatalogTable>,
}

/// A table and its unique keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CatalogTable {
    /// The name, without the schema if the table is on the search path.
    pub(super) name: String,
    /// The columns of the primary key, or of another unique key if there is none.
    pub(super) key: Vec<String>,
    /// The columns of all other unique keys.
    pub(super) others: Vec<Vec<String>>,
    /// Whether there is a unique key that is not made of columns alone.
    pub(super) has_other_keys: bool,
}

impl Catalog {
    /// Parses the rows of the [`query`], a line for each column of each unique key.
    pub(super) fn parse(lines: &[String]) -> Self {
        let mut catalog = Self::default();
        let mut keys: HashMap<String, Vec<UniqueKey>> = HashMap::new();
        for line in lines {
            let fields: Vec<&str> = line.split(SEPARATOR).collect();
            let [visible, schema, table, key, primary, column] = fields[..] else { continue };
            let [qualified, plain] =
                [format!("{schema}.{table}"), table.to_owned()].map(|n| n.to_lowercase());
            let name = if visible == "1" { plain.clone() } else { qualified.clone() };
            let entry = CatalogTable { name: name.clone(), ..CatalogTable::default() };
            catalog.tables.entry(qualified).or_insert_with(|| entry.clone());
            catalog.tables.entry(name.clone()).or_insert(entry);
            if key.is_empty() {
                continue;
            }
            let keys = keys.entry(name).or_default();
            let column = column.to_lowercase();
            match keys.iter_mut().find(|known| known.name == key) {
                Some(known) => known.columns.push(column),
                None => keys.push(UniqueKey {
                    name: key.to_owned(),
                    is_primary: primary == "1",
                    columns: vec![column],
                }),
            }
        }
        for table in catalog.tables.values_mut() {
            table.set_keys(keys.get(&table.name).map_or(&[][..], Vec::as_slice));
        }
        catalog
    }

    /// Finds a table by its name, with or without the schema.
    pub(super) fn table(&self, name: &str) -> Option<&CatalogTable> {
        self.tables.get(name)
    }
}

/// A unique key. Parts that are not columns have an empty name.
struct UniqueKey {
    name: String,
    is_primary: bool,
    columns: Vec<String>,
}

impl CatalogTable {
    fn set_keys(&mut self, keys: &[UniqueKey]) {
        let mut of_columns: Vec<&UniqueKey> =
            keys.iter().filter(|key| key.columns.iter().all(|column| !column.is_empty())).collect();
        self.has_other_keys = of_columns.len() < keys.len();
        of_columns.sort_by_key(|key| !key.is_primary);
        let mut columns = of_columns.into_iter().map(|key| key.columns.clone());
        self.key = columns.next().unwrap_or_default();
        self.others = columns.collect();
    }
}

/// The statements that query the tables and their unique keys. Parts of a key that are not columns
/// (expressions, prefixes, exclusion constraints) have an empty name.
fn query(syntax: Syntax) -> &'static str {
    match syntax {
        Syntax::Postgres => {
            "SELECT concat_ws(chr(31), CASE WHEN pg_table_is_visible(c.oid) THEN '1' ELSE '0' END, \
             n.nspname, c.relname, coalesce(i.indexrelid::text, ''), CASE WHEN i.indisprimary THEN '1' \
             ELSE '0' END, CASE WHEN i.indisexclusion THEN '' ELSE coalesce(a.attname::text, '') END) \
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
             LEFT JOIN pg_index AS i ON i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion) \
             LEFT JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) ON k.place <= \
             i.indnkeyatts \
             LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.attnum AND k.attnum > 0 \
             WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', \
             'pg_toast') \
             ORDER BY c.oid, i.indexrelid, k.place"
        }
        Syntax::MySql => {
            "SELECT CONCAT_WS(CHAR(31 USING utf8mb4), IF(t.table_schema = DATABASE(), '1', '0'), \
             t.table_schema, t.table_name, COALESCE(s.index_name, ''), IF(s.index_name = 'PRIMARY', '1', \
             '0'), COALESCE(IF(s.sub_part IS NULL, s.column_name, ''), '')) \
             FROM information_schema.tables AS t \
             LEFT JOIN information_schema.statistics AS s ON s.table_schema = t.table_schema AND \
             s.table_name = t.table_name AND s.non_unique = 0 \
             WHERE t.table_type = 'BASE TABLE' AND t.table_schema NOT IN ('information_schema', 'mysql', \
             'performance_schema', 'sys') \
             ORDER BY t.table_schema, t.table_name, s.index_name, s.seq_in_index"
        }
        // A primary key that is an alias of the rowid has no index.
        Syntax::Sqlite => {
            "SELECT '1' || char(31) || 'main' || char(31) || m.name || char(31) || char(31) || '0' || \
             char(31) \
             FROM sqlite_master AS m \
             WHERE m.type = 'table'; \
             SELECT '1' || char(31) || 'main' || char(31) || m.name || char(31) || 'primary' || char(31) \
             || '1' || char(31) || c.name \
             FROM sqlite_master AS m, pragma_table_info(m.name) AS c \
             WHERE m.type = 'table' AND c.pk > 0; \
             SELECT '1' || char(31) || 'main' || char(31) || m.name || char(31) || i.name || char(31) || \
             '0' || char(31) || coalesce(c.name, '') \
             FROM sqlite_master AS m, pragma_index_list(m.name) AS i, pragma_index_info(i.name) AS c \
             WHERE m.type = 'table' AND i.\"unique\" AND i.origin <> 'pk'"
        }
    }
}

/// A unit that reads the catalog.
#[derive(Debug)]
pub(super) struct CatalogQuery {
    syntax: Syntax,
    pub(super) catalog: Option<Catalog>,
}

impl CatalogQuery {
    pub(super) const fn new(syntax: Syntax) -> Self {
        Self { syntax, catalog: None }
    }
}

#[async_trait]
impl<DB: Backend> Unit<DB> for CatalogQuery {
    async fn attempt(&mut self, tx: &mut Tx<DB>) -> Decision {
        if let Ok(connection) = tx.connection() {
            let lines = DB::fetch_text(connection, query(self.syntax).to_owned()).await;
            self.catalog = lines.ok().map(|lines| Catalog::parse(&lines));
        }
        Decision::Abandon
    }
}
