use serde_json::json;

use super::*;
use raisin_contract::{Assignment, InputArtifact};

fn floats(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(values.iter().copied().collect::<Float64Array>())
}

fn counts(values: &[u32]) -> ArrayRef {
    Arc::new(UInt32Array::from(values.to_vec()))
}

#[test]
fn steps_go_on_over_rounds_and_episodes_are_averaged() -> Result<()> {
    let rows = table::batch(vec![
        ("round", counts(&[0, 0, 0, 0, 1, 1])),
        ("episode", counts(&[0, 0, 1, 1, 0, 0])),
        ("step", counts(&[1, 2, 1, 2, 1, 2])),
        ("loss", floats(&[Some(4.0), Some(3.0), Some(2.0), None, Some(f64::NAN), Some(1.0)])),
        ("empty", floats(&[None; 6])),
        ("label", Arc::new(StringArray::from(vec!["a"; 6]))),
    ])?;
    let mut run = TrackedRun::of(Map::new());
    run.add_curves("s.steps", &rows)?;
    let expected = BTreeMap::from([("s.steps/loss".to_owned(), vec![(1, 3.0), (2, 3.0), (4, 1.0)])]);
    assert_eq!((run.series, run.not_finite), (expected, 1));
    Ok(())
}

#[test]
fn the_name_of_a_run_is_a_name_of_a_folder_and_no_two_variants_share_it() {
    let name = |variant: Value| run_name(variant.as_object().expect("a table"));
    assert_eq!(name(json!({})), "all");
    assert_eq!(name(json!({"stage.tuned.select.method": "raise", "pipeline.seed": 17})), "method=raise,seed=17");
    let names = ["a/b", "a\\b", "../b", "a b"].map(|text| name(json!({ "x": text })));
    for one in &names {
        assert!(
            !one.contains(['/', '\\', ' ']) && names.iter().filter(|other| *other == one).count() == 1,
            "{names:?}"
        );
    }
    assert!(name(json!({"x": "y".repeat(500)})).len() < 140);
}

/// Runs the stage over a folder without numbers, and one with a table `metrics`.
#[test]
fn stages_without_numbers_are_named_and_alone_are_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [empty, scored] = ["empty", "scored"].map(|name| folder.path().join(name));
    std::fs::create_dir_all(&empty)?;
    std::fs::create_dir_all(&scored)?;
    let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let columns = vec![("split", texts("test")), ("metric", texts("loss")), ("value", floats(&[Some(1.5)]))];
    table::write(&scored.join("metrics.parquet"), &table::batch(columns)?)?;
    let run = |name: &str, of: &[(&str, &Path)], variants: &[Value]| -> Result<std::path::PathBuf> {
        let mut assignment = Assignment::for_test("track", folder.path().join(name), &[]);
        let sources = of.iter().enumerate().map(|(place, (stage, folder))| {
            let source = |variant: &Value| InputArtifact {
                stage: (*stage).to_owned(),
                variant: variant.as_object().cloned().unwrap_or_default(),
                folder: folder.to_path_buf(),
            };
            (format!("/of/{place}"), variants.iter().map(source).collect())
        });
        assignment.stages = sources.collect();
        let context = raisin_kinds::context_for_test(assignment)?;
        let of = of.iter().map(|(stage, _)| (*stage).to_owned()).collect();
        super::run(Parameters { of, wandb: None, mlflow: None }, &context)?;
        context.check_outputs()?;
        Ok(context.out())
    };
    let out = run("both", &[("pool", empty.as_path()), ("scores", scored.as_path())], &[json!({})])?;
    let series = table::read(&out.join("series.parquet"))?;
    assert_eq!(table::column::<StringArray>(&series, "tag")?.value(0), "scores/test/loss");
    assert_eq!(table::column::<StringArray>(&series, "run")?.value(0), "all");
    assert!(out.join("tensorboard/all/events.out.tfevents.0.raisin").is_file());
    // Two axes that end with the same word are two runs.
    let variants = [json!({"stage.a.rate": 1}), json!({"stage.b.rate": 1})];
    let out = run("axes", &[("scores", scored.as_path())], &variants)?;
    assert_eq!(std::fs::read_dir(out.join("tensorboard"))?.count(), 2);
    let refused = run("none", &[("pool", empty.as_path())], &[json!({})]).expect_err("no numbers");
    assert!(refused.to_string().contains("no numbers to track"), "{refused}");
    Ok(())
}
