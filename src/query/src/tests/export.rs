//! Tests of the views for DuckDB. tests/queries.rs runs them in DuckDB.

use super::*;
use raisin_contract::query::QuerySource;

#[test]
fn every_table_becomes_a_view_with_its_constants() {
    let fixture = swept();
    let file = fixture.folder.path().join("views.sql");
    let source = QuerySource::Export { file: file.clone(), is_absolute: true };
    run(&QueryOptions { source, ..fixture.options("", None) }, None).unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    for view in [
        "CREATE OR REPLACE VIEW \"pool\".\"instructions\" AS SELECT f.* EXCLUDE (raisin_file)",
        "CREATE OR REPLACE VIEW \"scores\".\"metrics\" AS SELECT \"split\", min(n) AS n, max(value) FILTER",
        "CREATE OR REPLACE VIEW \"scores\".\"metrics_long\" AS ",
        "CREATE OR REPLACE VIEW \"history\".\"selection\" AS ",
    ] {
        assert!(text.contains(view), "{view}\n{text}");
    }
    let artifact = fixture.store.artifact_folder(fixture.built[0].artifact).canonicalize().unwrap();
    assert!(
        text.contains(&format!("'{}/selection.parquet', 'method=raise,seed=17', 'raise', 17", artifact.display())),
        "{text}"
    );
    assert!(!text.contains("raisin.actions"));
}
