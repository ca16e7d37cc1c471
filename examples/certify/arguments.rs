//! The command line.

use anyhow::{Context as _, bail};

/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    pub(crate) database_url: Option<String>,
    pub(crate) nodes: Vec<String>,
    pub(crate) json: Option<String>,
    pub(crate) compare: Option<String>,
}

impl Arguments {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--database-url" => arguments.database_url = Some(value()?),
                "--node" => arguments.nodes.push(value()?),
                "--json" => arguments.json = Some(value()?),
                "--compare" => arguments.compare = Some(value()?),
                other => bail!(
                    "unknown argument {other}; there are --database-url URL, --node URL, --json FILE and \
                     --compare FILE"
                ),
            }
        }
        if arguments.database_url.is_none() && !arguments.nodes.is_empty() {
            bail!("--node adds an address to --database-url, which is missing");
        }
        Ok(arguments)
    }
}
