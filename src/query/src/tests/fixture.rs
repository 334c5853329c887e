//! The made-up store that the tests query.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array};
use serde_json::{Map, Value, json};

use crate::ask::{answer, form};
use raisin_base::digest::Digest;
use raisin_base::error::{Result, render};
use raisin_contract::Cost;
use raisin_contract::query::{OutputFormat, QueryOptions, QuerySource};
use raisin_store::{ActionRecord, BuildDescription, BuiltStage, Store};
use raisin_table::batch;

pub struct QueryFixture {
    pub folder: tempfile::TempDir,
    pub store: Store,
    pub built: Vec<BuiltStage>,
}

impl QueryFixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        Self { folder, store, built: Vec::new() }
    }

    /// Adds an artifact of a stage with its tables, its action record and its description.
    pub fn add(&mut self, stage: &str, variant: &str, values: Value, tables: &[(&str, RecordBatch)]) {
        let artifact = Digest::of(format!("{stage}{variant}").as_bytes());
        let key = Digest::of(format!("key {stage}{variant}").as_bytes());
        let place = self.store.artifact_folder(artifact);
        std::fs::create_dir_all(&place).unwrap();
        for (name, rows) in tables {
            raisin_table::write(&place.join(format!("{name}.parquet")), rows).unwrap();
        }
        let record = ActionRecord {
            key,
            action: json!({"format": 1, "kind": "made up", "kind_version": 1, "parameters": {}}),
            artifact,
            references: BTreeMap::new(),
            kind: "made-up".to_owned(),
            stage: stage.to_owned(),
            pipeline: "trial".to_owned(),
            variant: variant.to_owned(),
            run: "r1".to_owned(),
            started: "2026-01-02T03:04:05Z".to_owned(),
            finished: "2026-01-02T03:04:06.5Z".to_owned(),
            seconds: 1.5,
            bytes: 10,
            costs: vec![Cost {
                phase: "forward".into(),
                seconds: 1.0,
                tokens: 7,
                supervised_tokens: 3,
                flops: 2e9,
                peak_bytes: 1 << 20,
            }],
            notes: Vec::new(),
            accepted: None,
        };
        self.store.write_record(&record).unwrap();
        let values: Map<String, Value> = values.as_object().cloned().unwrap_or_default();
        let (stage, kind, variant) = (stage.to_owned(), "made-up".to_owned(), variant.to_owned());
        self.built.push(BuiltStage { stage, kind, variant, values, artifact, key });
    }

    pub fn describe(&self, pipeline: &str) {
        let folder = self.out().join(pipeline);
        std::fs::create_dir_all(&folder).unwrap();
        let description =
            BuildDescription { format: 1, pipeline: pipeline.to_owned(), file: None, stages: self.built.clone() };
        std::fs::write(folder.join("build.json"), serde_json::to_string(&description).unwrap()).unwrap();
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    pub fn options(&self, sql: &str, format: Option<OutputFormat>) -> QueryOptions {
        QueryOptions {
            source: QuerySource::Text(sql.to_owned()),
            cache: self.store.root().to_owned(),
            out: self.out(),
            pipeline: None,
            format,
            output: None,
            parameters: Vec::new(),
            expanded: false,
            most_rows: None,
            memory: None,
            remote: None,
        }
    }

    /// The answer of a query, and its notes.
    pub fn ask(&self, sql: &str, format: OutputFormat) -> Result<String> {
        Self::ask_with(&self.options(sql, Some(format)))
    }

    /// The answer to a question on standard output, and its notes.
    pub fn ask_with(options: &QueryOptions) -> Result<String> {
        let (mut bytes, mut notes) = (Vec::new(), String::new());
        let QuerySource::Text(text) = &options.source else { panic!("the tests ask with texts") };
        let form = form(options, false)?;
        answer(options, None, text, form, &mut bytes, &mut |note| notes.push_str(&format!("({note})\n")))?;
        Ok(String::from_utf8(bytes)? + &notes)
    }

    pub fn table(&self, sql: &str) -> String {
        self.ask(sql, OutputFormat::Table).unwrap_or_else(|error| render(&error))
    }
}

pub fn metrics(accuracy: f64, loss: f64) -> RecordBatch {
    batch(vec![
        ("split", Arc::new(StringArray::from(vec!["test", "test"])) as ArrayRef),
        ("metric", Arc::new(StringArray::from(vec!["loss", "acc"]))),
        ("value", Arc::new(Float64Array::from(vec![loss, accuracy]))),
        ("n", Arc::new(UInt32Array::from(vec![64, 64]))),
        ("standard_error", Arc::new(Float64Array::from(vec![0.1, 0.05]))),
    ])
    .unwrap()
}

pub fn selection(ids: &[u32]) -> RecordBatch {
    let count = ids.len() as u32;
    batch(vec![
        ("step", Arc::new(UInt32Array::from_iter_values(0..count)) as ArrayRef),
        ("id", Arc::new(UInt32Array::from_iter_values(ids.iter().copied()))),
        ("score", Arc::new(Float64Array::from_iter_values(ids.iter().map(|id| f64::from(*id) / 3.0)))),
        ("instruction", Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("Add, \"{id}\" and 1"))))),
    ])
    .unwrap()
}

/// A store with two methods and two seeds over one pool.
pub fn swept() -> QueryFixture {
    let mut fixture = QueryFixture::new();
    let pool = batch(vec![
        ("id", Arc::new(UInt32Array::from(vec![0, 1, 2])) as ArrayRef),
        ("embedding", vectors(&[0.5, 1.0, 1.5, 2.0, 2.5, 3.0])),
    ])
    .unwrap();
    for (place, (method, seed)) in
        [("raise", 17), ("raise", 18), ("random", 17), ("random", 18)].into_iter().enumerate()
    {
        let values = json!({"stage.tuned.select.method": method, "pipeline.seed": seed});
        let variant = format!("method={method},seed={seed}");
        fixture.add("tuned", &variant, values.clone(), &[("selection", selection(&[2, place as u32]))]);
        let good = if method == "raise" { 0.75 } else { 0.5 };
        fixture.add("scores", &variant, values.clone(), &[("metrics", metrics(good + f64::from(seed) / 1000.0, 1.25))]);
        if place == 0 {
            fixture.add("pool", &variant, values, &[("instructions", pool.clone())]);
        } else {
            let shared = fixture.built.iter().find(|built| built.stage == "pool").unwrap().clone();
            let values = values.as_object().cloned().unwrap();
            fixture.built.push(BuiltStage { variant, values, ..shared });
        }
    }
    fixture.describe("trial");
    fixture
}

fn vectors(values: &[f32]) -> ArrayRef {
    let item = Arc::new(arrow::datatypes::Field::new("item", arrow::datatypes::DataType::Float32, false));
    let values = Arc::new(arrow::array::Float32Array::from(values.to_vec()));
    Arc::new(arrow::array::FixedSizeListArray::new(item, 2, values, None))
}
