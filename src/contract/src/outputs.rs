//! What a kind declares about its results: the tables and files of its artifacts, and examples of pipelines. The pages
//! of docs/kinds are made from these declarations, and a running stage is held to them: raisin-table refuses a table
//! that differs from its declaration, and [`Outputs::check_folder`] refuses a file that is not declared.

use std::path::Path;

use serde_json::Value;

use raisin_base::error::{Context as _, Result, bail, ensure};

/// The tables and files of the artifacts of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    pub tables: &'static [TableDeclaration],
    /// Lists of files; several kinds share a list.
    pub files: &'static [&'static [FileDeclaration]],
}

/// A table of an artifact: the file `<name>.parquet`.
#[derive(Clone, Copy, Debug)]
pub struct TableDeclaration {
    pub name: &'static str,
    /// What a row is, as a sentence.
    pub about: &'static str,
    /// Lists of columns, in their order; several tables share a list.
    pub columns: &'static [&'static [ColumnDeclaration]],
    /// The condition under which the artifact has the table, as a clause after "only"; `None`: always.
    pub when: Option<&'static str>,
    /// The parameter that gives the name of the table. `name` is then the default of this parameter. If the parameter is a
    /// list, there is a table for each of its names.
    pub named_by: Option<&'static str>,
    /// Which columns the table has beside those that are declared, as a sentence; `None`: none.
    pub further: Option<&'static str>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct ColumnDeclaration {
    pub name: &'static str,
    pub column_type: ColumnType,
    /// The meaning of a value, with its unit.
    pub about: &'static str,
    /// The condition under which the table has the column, as a clause after "only"; `None`: always.
    pub when: Option<&'static str>,
    /// When a value is null, as a clause after "null"; `None`: never.
    pub null: Option<&'static str>,
    /// Whether the numbers of the column ascend from row to row, mostly by the same amount. Such a column is stored as
    /// differences, which need almost no space.
    pub ascends: bool,
    /// Whether the texts of the column are long and differ from row to row. Such a column is stored without a dictionary,
    /// the lengths of its texts apart from their characters, and compressed more.
    pub is_long: bool,
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    Bool,
    I32,
    I64,
    U32,
    U64,
    F32,
    F64,
    Text,
    /// A list of texts.
    Texts,
    /// A list of f32 numbers, of one length in all rows.
    Vector,
}

impl ColumnType {
    /// The name of the type in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Text => "text",
            Self::Texts => "list of text",
            Self::Vector => "vector of f32",
        }
    }
}

/// The name of a declaration that stands for files and folders of any name, except tables.
pub const ANY_FILE: &str = "*";

/// Another file of an artifact.
#[derive(Clone, Copy, Debug)]
pub struct FileDeclaration {
    pub name: &'static str,
    pub about: &'static str,
    /// The condition under which the artifact has the file, as a clause after "only"; `None`: always.
    pub when: Option<&'static str>,
}

/// A complete pipeline file that shows how a kind is used.
#[derive(Clone, Copy, Debug)]
pub struct ExamplePipeline {
    pub title: &'static str,
    /// The text of the pipeline file.
    pub text: &'static str,
}

/// A table that every artifact of the kind has.
pub const fn table(
    name: &'static str,
    about: &'static str,
    columns: &'static [&'static [ColumnDeclaration]],
) -> TableDeclaration {
    TableDeclaration { name, about, columns, when: None, named_by: None, further: None }
}

/// A column that the table always has, without nulls.
pub const fn column(name: &'static str, column_type: ColumnType, about: &'static str) -> ColumnDeclaration {
    ColumnDeclaration { name, column_type, about, when: None, null: None, ascends: false, is_long: false }
}

/// A file that every artifact of the kind has.
pub const fn file(name: &'static str, about: &'static str) -> FileDeclaration {
    FileDeclaration { name, about, when: None }
}

impl TableDeclaration {
    #[must_use]
    pub const fn only(mut self, when: &'static str) -> Self {
        self.when = Some(when);
        self
    }

    #[must_use]
    pub const fn named_by(mut self, parameter: &'static str) -> Self {
        self.named_by = Some(parameter);
        self
    }

    #[must_use]
    pub const fn further(mut self, columns: &'static str) -> Self {
        self.further = Some(columns);
        self
    }

    pub fn columns(&self) -> impl Iterator<Item = &'static ColumnDeclaration> + use<> {
        self.columns.iter().copied().flatten()
    }
}

impl ColumnDeclaration {
    /// The meaning, with when a value is null.
    pub fn sentence(&self) -> String {
        match self.null {
            Some(when) => format!("{}. Null {when}", self.about),
            None => self.about.to_owned(),
        }
    }

    #[must_use]
    pub const fn only(mut self, when: &'static str) -> Self {
        self.when = Some(when);
        self
    }

    #[must_use]
    pub const fn ascending(mut self) -> Self {
        self.ascends = true;
        self
    }

    #[must_use]
    pub const fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    #[must_use]
    pub const fn null(mut self, when: &'static str) -> Self {
        self.null = Some(when);
        self
    }
}

impl FileDeclaration {
    #[must_use]
    pub const fn only(mut self, when: &'static str) -> Self {
        self.when = Some(when);
        self
    }
}

impl Outputs {
    pub fn files(&self) -> impl Iterator<Item = &'static FileDeclaration> + use<> {
        self.files.iter().copied().flatten()
    }

    /// The declaration of the table `name` of a stage with these parameters.
    pub fn table(&self, name: &str, parameters: &Value) -> Option<&'static TableDeclaration> {
        self.tables.iter().find(|table| names_of(table, parameters).contains(&name))
    }

    /// The names of all tables and files that a stage with these parameters can have. [`ANY_FILE`] stands for itself.
    pub fn names<'a>(&'a self, parameters: &'a Value) -> impl Iterator<Item = &'a str> {
        self.tables.iter().flat_map(|table| names_of(table, parameters)).chain(self.files().map(|file| file.name))
    }

    fn has_file(&self, name: &str) -> bool {
        let is_any = name.strip_suffix(".parquet").is_none();
        self.files().any(|file| file.name == name || is_any && file.name == ANY_FILE)
    }

    /// Checks that a folder has the declared tables and files, and no others.
    ///
    /// # Errors
    /// The folder cannot be read, or differs from the declarations. This is an error of the kind, not of its user.
    pub fn check_folder(&self, kind: &str, folder: &Path, parameters: &Value) -> Result<()> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            found.push(entry?.file_name().to_string_lossy().into_owned());
        }
        found.sort_unstable();
        for name in &found {
            let is_table = name.strip_suffix(".parquet").is_some_and(|name| self.table(name, parameters).is_some());
            if !is_table && !self.has_file(name) {
                bail!("the kind `{kind}` does not declare `{name}`, which its stage wrote: see src/kinds/src/outputs");
            }
        }
        let tables = self.tables.iter().filter(|table| table.when.is_none());
        let tables = tables.flat_map(|table| names_of(table, parameters)).map(|name| format!("{name}.parquet"));
        let files = self.files().filter(|file| file.when.is_none()).map(|file| file.name.to_owned());
        for name in tables.chain(files) {
            ensure!(found.contains(&name), "the kind `{kind}` declares `{name}`, which its stage did not write");
        }
        Ok(())
    }
}

fn names_of<'a>(table: &TableDeclaration, parameters: &'a Value) -> Vec<&'a str> {
    match table.named_by.map(|parameter| &parameters[parameter]) {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![table.name],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OUTPUTS: Outputs = Outputs {
        tables: &[
            table("rows", "The answer.", &[]).named_by("table"),
            table("more", "More rows.", &[&[column("id", ColumnType::U32, "the row")]]).only("with `more`"),
        ],
        files: &[&[file("a.json", "Some numbers."), file("b.json", "Other numbers.").only("sometimes")]],
    };

    const LISTED: Outputs = Outputs {
        tables: &[table("TABLE", "Rows.", &[]).named_by("tables")],
        files: &[&[file(ANY_FILE, "Others.").only("if the program writes them")]],
    };

    #[test]
    fn a_list_names_tables_and_any_other_file_can_be_declared() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let parameters = json!({"tables": ["a", "b"]});
        let check = || LISTED.check_folder("some", folder.path(), &parameters).map_err(|error| error.to_string());
        std::fs::write(folder.path().join("a.parquet"), "")?;
        assert_eq!(check().unwrap_err(), "the kind `some` declares `b.parquet`, which its stage did not write");
        std::fs::write(folder.path().join("b.parquet"), "")?;
        std::fs::write(folder.path().join("notes.txt"), "")?;
        assert_eq!(check(), Ok(()));
        std::fs::write(folder.path().join("TABLE.parquet"), "")?;
        assert!(check().unwrap_err().starts_with("the kind `some` does not declare `TABLE.parquet`"));
        assert_eq!(LISTED.names(&parameters).collect::<Vec<_>>(), ["a", "b", ANY_FILE]);
        Ok(())
    }

    #[test]
    fn a_folder_is_held_to_the_declared_tables_and_files() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let check = |parameters: &Value| match OUTPUTS.check_folder("some", folder.path(), parameters) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
        let write = |name: &str| std::fs::write(folder.path().join(name), "");
        let named = json!({"table": "best"});
        assert_eq!(check(&named), "the kind `some` declares `best.parquet`, which its stage did not write");
        write("best.parquet")?;
        assert_eq!(check(&named), "the kind `some` declares `a.json`, which its stage did not write");
        write("a.json")?;
        assert_eq!(check(&named), "");
        write("more.parquet")?;
        write("b.json")?;
        assert_eq!(check(&named), "");
        assert!(check(&json!({})).starts_with("the kind `some` does not declare `best.parquet`"));
        write("c.json")?;
        assert!(check(&named).starts_with("the kind `some` does not declare `c.json`"), "{}", check(&named));
        Ok(())
    }
}
