//! The tables that are compared, and their contents.

use std::collections::{BTreeSet, HashMap};

use crate::backend::{Backend, FIELD_SEPARATOR, WatchedQuery};

use super::settings::OracleSettings;

/// The crate's own tables, which no application reads. They hold random ids.
const OWN_TABLES: &str = "atomically_";

/// The tables of a database.
#[derive(Debug, Default)]
pub(super) struct TableList {
    tables: Vec<ListedTable>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct ListedTable {
    schema: String,
    plain: String,
    /// The name, without the schema if the table is on the search path.
    name: String,
    /// The columns, each with its type.
    columns: Vec<(String, String)>,
}

impl TableList {
    /// Parses the rows of `COLUMNS_QUERY`.
    pub(super) fn parse(lines: &[String]) -> Self {
        let mut list = Self::default();
        for line in lines {
            let fields: Vec<&str> = line.split(FIELD_SEPARATOR).collect();
            let [visible, schema, table, column, data_type] = fields[..] else { continue };
            if table.starts_with(OWN_TABLES) {
                continue;
            }
            let qualified = format!("{schema}.{table}").to_lowercase();
            let next = list.tables.len();
            let index = *list.by_name.entry(qualified.clone()).or_insert(next);
            if index == next {
                let plain = table.to_lowercase();
                let name = if visible == "1" { plain.clone() } else { qualified };
                if visible == "1" {
                    list.by_name.entry(plain).or_insert(next);
                }
                let (schema, plain) = (schema.to_owned(), table.to_owned());
                list.tables.push(ListedTable { schema, plain, name, columns: Vec::new() });
            }
            list.tables[index].columns.push((column.to_owned(), data_type.to_owned()));
        }
        list
    }

    /// Finds a table by its name, with or without the schema.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(&name.to_lowercase()).copied()
    }

    #[cfg(all(test, feature = "postgres"))]
    pub(super) fn name(&self, table: usize) -> &str {
        &self.tables[table].name
    }
}

/// The tables that are compared.
#[derive(Debug, Default)]
pub(super) struct ComparedTables {
    pub(super) tables: Vec<ComparedTable>,
    /// Queries the rows of all of them; empty if there are none.
    query: String,
}

#[derive(Debug)]
pub(super) struct ComparedTable {
    pub(super) name: String,
    pub(super) columns: Vec<ComparedColumn>,
}

#[derive(Debug)]
pub(super) struct ComparedColumn {
    pub(super) name: String,
    /// The group of columns with the same ids, if generated values are compared up to renaming.
    pub(super) ids: Option<usize>,
}

/// The rows of the compared tables, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents(pub(super) Vec<Vec<TextRow>>);

/// The values of a row, as text.
pub(super) type TextRow = Vec<String>;

impl ComparedTables {
    pub(super) fn new<DB: Backend>(
        list: &TableList,
        touched: &BTreeSet<usize>,
        settings: &OracleSettings,
    ) -> Self {
        let mut compared = Self::default();
        for (number, table) in touched.iter().map(|table| &list.tables[*table]).enumerate() {
            let names = [table.plain.to_lowercase(), table.name.clone()];
            let is = |columns: &[super::settings::ColumnName], column: &str| {
                columns.iter().any(|name| names.iter().any(|table| name.is(table, column)))
            };
            let kept = table.columns.iter().filter(|(column, _)| !is(&settings.ignored, column));
            let texts = kept.clone().map(|(column, data_type)| DB::column_as_text(column, data_type));
            let fields: Vec<String> = [format!("'{number}'")].into_iter().chain(texts).collect();
            let [schema, name] = [&table.schema, &table.plain].map(|name| DB::quoted_name(name));
            let separator = if number == 0 { "" } else { "; " };
            compared.query += &format!("{separator}SELECT {} FROM {schema}.{name}", DB::line_of(&fields));
            let columns = kept.map(|(column, _)| ComparedColumn {
                name: column.clone(),
                ids: settings.ids.iter().position(|group| is(group, column)),
            });
            compared.tables.push(ComparedTable { name: table.name.clone(), columns: columns.collect() });
        }
        compared
    }

    /// Reads the contents of the tables.
    pub(super) async fn read<DB: Backend>(
        &self,
        connection: &mut DB::Connection,
    ) -> Result<Contents, sqlx::Error> {
        let mut contents = Contents(vec![Vec::new(); self.tables.len()]);
        if self.query.is_empty() {
            return Ok(contents);
        }
        let query = WatchedQuery::with_values(self.query.clone(), [])?;
        for row in DB::send_for_rows(connection, query).await? {
            let line = crate::backend::required(DB::text(&row, 0)?, 0)?;
            let mut fields = line.split(FIELD_SEPARATOR);
            let number = fields.next().and_then(|number| number.parse::<usize>().ok());
            let Some(rows) = number.and_then(|number| contents.0.get_mut(number)) else { continue };
            rows.push(fields.map(str::to_owned).collect());
        }
        contents.0.iter_mut().for_each(|rows| rows.sort());
        Ok(contents)
    }
}
