//! Settings that the caller sets for one transaction, as plain data.

use std::fmt;

/// The settings and the role of a transaction, which end with it.
#[doc(hidden)]
#[derive(Clone, Default, PartialEq, Eq)]
pub struct LocalSettings {
    /// The role.
    pub role: Option<String>,
    /// The names and values of settings, in the order in which they are set. No name occurs twice.
    pub values: Vec<(String, String)>,
}

impl LocalSettings {
    /// Sets a value, and replaces an earlier one of the same name. Names are compared as PostgreSQL compares
    /// them: without regard to ASCII case.
    pub(crate) fn set(&mut self, name: String, value: String) {
        match self.values.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
            Some(known) => *known = (name, value),
            None => self.values.push((name, value)),
        }
    }

    /// Returns these settings, with those of `base` in place of the ones that are not set.
    pub(crate) fn or(&self, base: &Self) -> Self {
        let mut settings = base.clone();
        for (name, value) in &self.values {
            settings.set(name.clone(), value.clone());
        }
        settings.role = self.role.clone().or(settings.role);
        settings
    }
}

/// Leaves out the values, which may be confidential.
impl fmt::Debug for LocalSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.values.iter().map(|(name, _)| name).collect();
        f.debug_struct("LocalSettings").field("role", &self.role).field("names", &names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(role: Option<&str>, values: &[(&str, &str)]) -> LocalSettings {
        let mut settings = LocalSettings { role: role.map(str::to_owned), values: Vec::new() };
        for (name, value) in values {
            settings.set((*name).to_owned(), (*value).to_owned());
        }
        settings
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let twice = settings(None, &[("app.tenant", "1"), ("app.user", "2"), ("App.Tenant", "3")]);
        assert_eq!(twice.values, settings(None, &[("App.Tenant", "3"), ("app.user", "2")]).values);
    }

    #[test]
    fn what_is_not_set_falls_back_to_the_base() {
        let base = settings(Some("reader"), &[("app.tenant", "1"), ("app.region", "eu")]);
        let merged = settings(None, &[("app.tenant", "2")]).or(&base);
        assert_eq!(merged, settings(Some("reader"), &[("app.tenant", "2"), ("app.region", "eu")]));
        let other = settings(Some("writer"), &[]).or(&base);
        assert_eq!(other, settings(Some("writer"), &[("app.tenant", "1"), ("app.region", "eu")]));
    }

    #[test]
    fn values_are_not_shown() {
        let text = format!("{:?}", settings(Some("tenant"), &[("app.token", "secret")]));
        assert!(text.contains("app.token") && text.contains("tenant") && !text.contains("secret"), "{text}");
    }
}
