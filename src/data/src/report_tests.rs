//! Tests of the kind `report` on made-up artifacts: expected numbers, hostile text, equal bytes of two runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, BooleanArray, Float64Array, StringArray, UInt32Array, UInt64Array};
use serde_json::{Value, json};

use super::{Parameters, run as run_report};
use raisin_contract::{Assignment, InputArtifact};
use raisin_report::gather::ReportData;
use raisin_report::statistics::mean;
use raisin_table::{batch, column, read, write};

const HOSTILE: &str = "<script>alert('x')</script> & \"quotes\" \u{202e}\u{7}\n]]>";
const SEEDS: [u32; 3] = [17, 18, 19];
const METHODS: [&str; 4] = ["raise", "random", "length", "full"];

/// A number between -1 and 1 that depends on its arguments only.
fn noise(of: &[u32]) -> f64 {
    let bytes: Vec<u8> = of.iter().flat_map(|part| part.to_le_bytes()).collect();
    let digest = raisin_base::digest::Digest::of(&bytes);
    f64::from(u16::from_le_bytes([digest.bytes()[0], digest.bytes()[1]])) / 32768.0 - 1.0
}

fn floats(values: impl IntoIterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Float64Array>())
}

fn counts(values: impl IntoIterator<Item = u32>) -> ArrayRef {
    Arc::new(values.into_iter().map(Some).collect::<UInt32Array>())
}

struct ReportFixture {
    folder: tempfile::TempDir,
    stages: BTreeMap<String, Vec<InputArtifact>>,
}

impl ReportFixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), stages: BTreeMap::new() }
    }

    fn artifact(&mut self, stage: &str, variant: Value) -> PathBuf {
        let sources = self.stages.entry(stage.to_owned()).or_default();
        let folder = self.folder.path().join(format!("{stage}-{}", sources.len()));
        std::fs::create_dir_all(&folder).unwrap();
        let variant = variant.as_object().cloned().unwrap();
        sources.push(InputArtifact { stage: stage.to_owned(), variant, folder: folder.clone() });
        folder
    }

    fn set_variant(&mut self, stage: &str, variant: Value) {
        self.stages.get_mut(stage).unwrap()[0].variant = variant.as_object().cloned().unwrap();
    }

    /// Runs a report over all stages and returns its artifact.
    fn report(&self, run: &str) -> PathBuf {
        let of: Vec<&String> = self.stages.keys().collect();
        let parameters = json!({"of": of, "title": "Quick & <i>small</i>", "setup": {
            "pipeline": "p", "seed": 17, "sweep": {"pipeline.seed": SEEDS, "stage.tuned.select.method": METHODS},
            "stages": [
                {"name": "base", "kind": "model", "settings": {"source.huggingface": "models/<b>"}},
                {"name": "pool", "kind": "ingest", "settings": {"sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}},
                {"name": "tuned", "kind": "finetune", "settings": {"steps": 40, "adaptation.method": "full"}},
            ],
        }});
        let mut assignment = Assignment::for_test("report", self.folder.path().join(run), &[]);
        let stages = self.stages.values().enumerate();
        assignment.stages = stages.map(|(place, sources)| (format!("/of/{place}"), sources.clone())).collect();
        let parameters: Parameters = serde_json::from_value(parameters).unwrap();
        let context = raisin_kinds::context_for_test(assignment).unwrap();
        run_report(parameters, &context).unwrap();
        context.check_outputs().unwrap();
        context.out()
    }
}

fn selection(folder: &Path, method: u32, seed: u32, steps: u32, rounds: Option<u32>) {
    let mut rows: Vec<(Option<u32>, u32, u32)> = Vec::new();
    for round in 0..rounds.unwrap_or(1) {
        rows.extend((0..steps).flat_map(|step| (0..8).map(move |slot| (rounds.map(|_| round), step, slot))));
    }
    let progress = |row: &(Option<u32>, u32, u32)| match row.0 {
        Some(round) => f64::from(round) / 10.0,
        None if method == 0 => 0.9,
        None => 0.15,
    };
    let kind = |row: &(Option<u32>, u32, u32)| {
        let draw = 0.5 + 0.5 * noise(&[method, seed, row.0.unwrap_or(99), row.1, row.2]);
        if draw < progress(row) { 0 } else { 1 + (draw * 100.0) as u32 % 3 }
    };
    let labels = ["relevant", "irrelevant", "corrupted", "wrong"];
    let ids: Vec<u32> = rows.iter().map(|row| kind(row) * 40 + (row.1 * 8 + row.2) % 17).collect();
    let texts = rows.iter().zip(&ids).map(|(row, id)| {
        if *id % 40 < 9 && *id % 3 == 0 {
            HOSTILE.to_owned()
        } else {
            format!("Instruction {id}: turn “{}” round", row.2)
        }
    });
    let table = batch(vec![
        ("round", Arc::new(rows.iter().map(|row| row.0).collect::<UInt32Array>()) as ArrayRef),
        ("step", counts(rows.iter().map(|row| row.1))),
        ("slot", counts(rows.iter().map(|row| row.2))),
        ("id", counts(ids.iter().copied())),
        ("cluster", Arc::new(rows.iter().map(|row| (method != 1).then(|| kind(row))).collect::<UInt32Array>())),
        ("score", floats(ids.iter().map(|id| (method == 0).then(|| f64::from(*id) / 7.0)))),
        ("label", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| labels[kind(row) as usize])))),
        ("instruction", Arc::new(StringArray::from_iter_values(texts))),
    ]);
    write(&folder.join("selection.parquet"), &table.unwrap()).unwrap();
}

fn steps(folder: &Path, count: u32, loss: impl Fn(u32) -> f64) {
    let table = batch(vec![
        ("step", counts(1..=count)),
        ("performance", floats((0..count).map(|step| (step % 4 == 3).then(|| -loss(step))))),
        ("tokens", Arc::new((0..count).map(|_| Some(1000)).collect::<UInt64Array>())),
        ("supervised_tokens", Arc::new((0..count).map(|_| Some(400)).collect::<UInt64Array>())),
        ("flops", floats((0..count).map(|_| Some(6e9)))),
    ]);
    write(&folder.join("steps.parquet"), &table.unwrap()).unwrap();
}

fn loss_of(method: u32, seed: u32) -> f64 {
    [0.82, 1.04, 1.01, 0.90][method as usize] + 0.03 * noise(&[method, seed])
}

/// The tables of the effects of 15 columns and of the candidates that `selection` selects, in four clusters.
fn learned(folder: &Path) {
    let placed = |effects: &[f64], prior: &dyn Fn(usize) -> f64| -> Vec<(&'static str, ArrayRef)> {
        let all = |of: &dyn Fn(usize) -> f64| floats((0..effects.len()).map(|row| Some(of(row))));
        vec![
            ("prior", all(prior)),
            ("at_start", all(&|row| effects[row])),
            ("at_start_deviation", all(&|_| 0.25)),
            ("in_middle", all(&|row| 0.5 * effects[row])),
            ("in_middle_deviation", all(&|_| 0.125)),
            ("at_end", all(&|_| 0.0)),
            ("at_end_deviation", all(&|_| 0.25)),
        ]
    };
    let names: Vec<String> =
        (0..15).map(|column| if column == 3 { HOSTILE.to_owned() } else { format!("semantic.{column:02}") }).collect();
    let effects: Vec<f64> = (0..15).map(|column| 1.5 - 0.25 * f64::from(column)).collect();
    let mut columns = vec![("column", Arc::new(StringArray::from(names)) as ArrayRef)];
    columns.extend(placed(&effects, &|row| if row == 6 { 0.75 } else { 0.0 }));
    write(&folder.join("column_effects.parquet"), &batch(columns).unwrap()).unwrap();
    let ids: Vec<u32> = (0..4).flat_map(|kind| (0..20).map(move |place| 40 * kind + place)).collect();
    let effects: Vec<f64> = ids.iter().map(|id| 1.0 - f64::from(id / 40)).collect();
    let mut columns = vec![("id", counts(ids.iter().copied())), ("cluster", counts(ids.iter().map(|id| id / 40)))];
    columns.extend(placed(&effects, &|_| 0.0));
    write(&folder.join("expected.parquet"), &batch(columns).unwrap()).unwrap();
}

/// A selector, four methods and their evaluations over three seeds.
fn fixture() -> ReportFixture {
    let mut fixture = ReportFixture::new();
    for seed in SEEDS {
        let folder = fixture.artifact("selector", json!({"pipeline.seed": seed}));
        let rounds = batch(vec![
            ("round", counts(0..10)),
            (
                "episode_reward",
                floats((0..10).map(|round| Some(0.5 + 0.06 * f64::from(round) + 0.05 * noise(&[7, seed, round])))),
            ),
            (
                "final_performance",
                floats((0..10).map(|round| Some(-1.4 + 0.06 * f64::from(round) + 0.05 * noise(&[7, seed, round])))),
            ),
            ("effective_candidates", floats((0..10).map(|round| Some(100.0 - f64::from(round))))),
            ("measured_effects", counts((1..11).map(|round| 240 * round))),
            ("credit_reliability", floats((0..10).map(|_| Some(0.25)))),
            ("explained_by_prior", floats((0..10).map(|_| Some(-0.1)))),
        ]);
        learned(&folder);
        write(&folder.join("rounds.parquet"), &rounds.unwrap()).unwrap();
        steps(&folder, 240, |_| 1.0);
        selection(&folder, 0, seed, 24, Some(10));
    }
    for (method, name) in (0..).zip(METHODS) {
        for seed in SEEDS {
            let values = json!({"stage.tuned.select.method": name, "pipeline.seed": seed});
            let (count, end) = (if name == "full" { 120 } else { 24 }, loss_of(method, seed));
            let folder = fixture.artifact("tuned", values.clone());
            steps(&folder, count, |step| {
                end + 0.9 * (-4.0 * f64::from(step) / f64::from(count)).exp() + 0.01 * noise(&[method, seed, step])
            });
            selection(&folder, method, seed, count, None);
            let mut summary = json!({"method": name, "steps": count, "tokens": 1000 * count, "supervised_tokens": 400 * count,
                "flops": 6e9 * f64::from(count), "evaluation_flops": 2e9, "base_performance": -1.95, "seed": seed});
            if name == "raise" {
                // The other methods do not say what three epochs cost, and get the cost of `full`.
                summary["full_flops"] = json!(7.2e11);
                let selector = json!({"pass": "selector", "flops": 3e10, "evaluation_flops": 1e10});
                summary["passes"] = json!([{"pass": "features", "flops": 6e10}, selector]);
            }
            std::fs::write(folder.join("summary.json"), summary.to_string()).unwrap();
            let folder = fixture.artifact("scores", values);
            evaluation(
                &folder,
                end,
                |item| 0.9 - 0.5 * end + 0.5 * noise(&[item, seed]) > 0.35,
                |item| end + 0.3 * noise(&[item]) + 0.05 * noise(&[item, method, seed]),
            );
            std::fs::write(folder.join("model_summary.json"), summary.to_string()).unwrap();
        }
    }
    let folder = fixture.artifact("untuned_scores", json!({}));
    // The summary of a proxy is not the cost of a training.
    let states = json!({"pass": "prefix", "tokens": 7000, "flops": 1e12});
    std::fs::write(folder.join("model_summary.json"), states.to_string()).unwrap();
    evaluation(&folder, 1.95, |item| item % 9 == 0, |item| 1.95 + 0.3 * noise(&[item]));
    fixture
}

fn evaluation(folder: &Path, loss: f64, is_correct: impl Fn(u32) -> bool, item_loss: impl Fn(u32) -> f64) {
    let correct: Vec<bool> = (0..64).map(is_correct).collect();
    let share = correct.iter().filter(|is| **is).count() as f64 / 64.0;
    let metrics = batch(vec![
        ("split", Arc::new(StringArray::from(vec!["test", "test"])) as ArrayRef),
        ("metric", Arc::new(StringArray::from(vec!["loss", "exact_match"]))),
        ("value", floats([Some(loss), Some(share)])),
        ("n", counts([64, 64])),
    ]);
    write(&folder.join("metrics.parquet"), &metrics.unwrap()).unwrap();
    let items = batch(vec![
        ("id", counts(0..64)),
        ("loss", floats((0..64).map(|item| Some(item_loss(item))))),
        ("tokens", counts((0..64).map(|item| 5 + item % 7))),
        ("exact_match", Arc::new(BooleanArray::from(correct)) as ArrayRef),
    ]);
    write(&folder.join("items.parquet"), &items.unwrap()).unwrap();
}

#[test]
fn the_comparison_has_the_expected_means_intervals_and_costs() {
    let fixture = fixture();
    let rows = read(&fixture.report("run").join("comparison.parquet")).unwrap();
    let names: &StringArray = column(&rows, "method").unwrap();
    let metrics: &StringArray = column(&rows, "metric").unwrap();
    let row = |method: &str, metric: &str| {
        (0..rows.num_rows()).find(|row| names.value(*row) == method && metrics.value(*row) == metric).unwrap()
    };
    let value = |name: &str, row: usize| {
        let values: &Float64Array = column(&rows, name).unwrap();
        values.is_valid(row).then(|| values.value(row))
    };
    let raise = row("raise", "loss");
    let expected = mean(&SEEDS.map(|seed| loss_of(0, seed))).unwrap();
    let difference = mean(&SEEDS.map(|seed| loss_of(0, seed) - loss_of(1, seed))).unwrap();
    assert!((value("mean", raise).unwrap() - expected.mean).abs() < 1e-12);
    assert!((value("ci_low", raise).unwrap() - expected.interval.unwrap().0).abs() < 1e-12);
    assert!((value("difference", raise).unwrap() - difference.mean).abs() < 1e-12);
    assert!((value("difference_high", raise).unwrap() - difference.interval.unwrap().1).abs() < 1e-12);
    assert!(
        value("items_low", raise).unwrap() < difference.mean && value("items_high", raise).unwrap() > difference.mean
    );
    assert_eq!(column::<UInt32Array>(&rows, "paired_items").unwrap().value(raise), 64);
    assert_eq!((value("steps", raise), value("phi", raise)), (Some(24.0), Some(0.2)));
    assert_eq!((value("total_flops", raise), value("total_phi", raise)), (Some(2.46e11), Some(2.46 / 7.2)));
    let random = row("random", "loss");
    assert_eq!((value("total_flops", random), value("phi", random)), (Some(1.46e11), Some(0.2)));
    assert_eq!(value("difference", random), None, "the baseline has no difference to itself");
    let untuned = row("untuned_scores", "loss");
    assert_eq!((value("ci_low", untuned), value("steps", untuned)), (None, None));
    let against = mean(&SEEDS.map(|seed| 1.95 - loss_of(1, seed))).unwrap();
    assert!((value("difference_low", untuned).unwrap() - against.interval.unwrap().0).abs() < 1e-12);
}

#[test]
fn the_page_has_every_plot_and_escapes_the_text_of_artifacts() {
    let fixture = fixture();
    let out = fixture.report("run");
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    if let Some(path) = std::env::var_os("RAISIN_SHOW_REPORT") {
        std::fs::write(path, &html).unwrap();
    }
    for title in [
        "Quick &amp; &lt;i&gt;small&lt;/i&gt;",
        "loss on test (less is better)",
        "exact_match on test (more is better)",
        "loss on test minus random, paired by seed (less is better)",
        "<title>raise, seed 18: ",
        "Validation loss by step",
        "Validation loss by tokens",
        "Validation loss by total cost",
        "<th class=\"n\">FLOPs before</th><th class=\"n\">Φ</th>",
        // The meaning of a column, as `describe` has it, and the value of a point.
        "<th class=\"n\" title=\"total_phi: `total_flops` in the unit of `phi`. Null if",
        ">Φ in all</th>",
        "<title>raise: validation loss ",
        "raise: by kind",
        "random: by cluster",
        "Reward by round",
        "What the policy selected, by kind and round",
        "What the selector learned",
        "<summary>selector, seed 17</summary>",
        "a slot was drawn among 91 candidates in effect",
        "2,400 effects of rows were measured in 10 rounds.",
        "The prior alone explains none of their variance",
        // The clearest column, with its interval at the start.
        "<td>semantic.00</td><td class=\"n good\">+1.50</td><td class=\"n r\">+1.01\u{a0}… +1.99</td>",
        // The column of the prior has no effect and is shown in spite of it, beside the twelve clearest.
        "<tr><td>semantic.06</td><td class=\"n\">0.00</td>",
        "2 columns with less clear effects are left out. Of the effect of semantic.06, the prior declares +0.75",
        "<td class=\"n\">0</td><td class=\"n\">20</td>",
        "Most selected instructions",
        "Cost",
        "pipeline <code>p</code> · model <code>base</code> (models/&lt;b&gt;) · pool <code>pool</code> (a.jsonl) · seeds 17, \
         18, 19",
        "<td><code>stage.tuned.select.method</code></td><td class=\"text\">raise; random; length; full</td>",
        "<td>tuned</td><td>finetune</td><td class=\"text\"><code>steps</code> = 40<br><code>adaptation.method</code> = full",
    ] {
        assert!(html.contains(title), "there is no “{title}”");
    }
    assert!(html.contains("&lt;script&gt;alert"), "the hostile instruction is shown");
    for bad in ["<script", "<i>small", "NaN", "inf ", "http://", "https://", "\u{202e}", "\u{7}"] {
        assert!(!html.contains(bad), "the page holds {bad:?}");
    }
    for tag in ["figure", "svg", "table", "details", "ul", "text", "title"] {
        let opened = html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, html.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn the_same_artifacts_give_the_same_bytes() {
    let fixture = fixture();
    let (one, two) = (fixture.report("one"), fixture.report("two"));
    for file in ["report.html", "comparison.parquet"] {
        assert_eq!(std::fs::read(one.join(file)).unwrap(), std::fs::read(two.join(file)).unwrap());
    }
}

#[test]
fn one_run_without_a_sweep_still_makes_a_page() {
    let mut fixture = ReportFixture::new();
    let folder = fixture.artifact("scores", json!({}));
    evaluation(&folder, 1.5, |item| item % 2 == 0, |_| 1.5);
    let other = fixture.artifact("pool", json!({}));
    std::fs::write(other.join("notes.txt"), "nothing of interest").unwrap();
    let html = std::fs::read_to_string(fixture.report("run").join("report.html")).unwrap();
    assert!(html.contains("nothing is compared with it") && html.contains("1.500"), "{html}");
    assert!(html.contains("hold no table that this page knows: pool"));
}

/// Adds an evaluation of this method with these metrics.
fn scored(fixture: &mut ReportFixture, method: &str, seed: Option<u32>, metrics: &[(&str, f64)]) {
    let variant = seed.map_or(json!({}), |seed| json!({"pipeline.seed": seed}));
    let folder = fixture.artifact(&format!("{method}_scores"), variant);
    let rows = batch(vec![
        ("split", Arc::new(StringArray::from_iter_values(metrics.iter().map(|_| "test"))) as ArrayRef),
        ("metric", Arc::new(StringArray::from_iter_values(metrics.iter().map(|(name, _)| name)))),
        ("value", floats(metrics.iter().map(|(_, value)| Some(*value)))),
    ]);
    write(&folder.join("metrics.parquet"), &rows.unwrap()).unwrap();
    std::fs::write(folder.join("model_summary.json"), json!({"method": method}).to_string()).unwrap();
}

#[test]
fn the_entries_of_a_swept_table_are_part_of_the_label() {
    let mut fixture = ReportFixture::new();
    for (place, select) in [json!({"method": "random"}), json!({"method": "length", "top": 240})].iter().enumerate() {
        let method = select["method"].as_str().unwrap();
        scored(&mut fixture, method, None, &[("loss", 0.5 + place as f64)]);
        fixture.set_variant(&format!("{method}_scores"), json!({"stage.tuned.select": select}));
    }
    let html = std::fs::read_to_string(fixture.report("run").join("report.html")).unwrap();
    assert!(html.contains("length, top=240") && html.contains("baseline <b>random</b>"), "{html}");
}

#[test]
fn a_metric_on_which_the_baseline_was_not_scored_is_not_compared_with_it() {
    let mut fixture = ReportFixture::new();
    scored(&mut fixture, "raise", None, &[("loss", 0.9), ("acc", 0.75)]);
    scored(&mut fixture, "length", None, &[("loss", 1.1), ("acc", 0.5)]);
    scored(&mut fixture, "random", None, &[("loss", 0.8)]);
    let out = fixture.report("run");
    let html = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(html.contains("loss on test: No method is better than the baseline <b>random</b>."), "{html}");
    let acc = "acc on test: <b>raise</b> is best; the baseline random was not scored on it.";
    assert!(html.contains(acc), "{html}");
    let rows = read(&out.join("comparison.parquet")).unwrap();
    let text = |name: &str| column::<StringArray>(&rows, name).unwrap().iter().collect::<Vec<_>>();
    let baselines: Vec<_> = text("metric").into_iter().zip(text("baseline")).collect();
    let [loss, acc] = [(Some("loss"), Some("random")), (Some("acc"), None)];
    assert_eq!(baselines, [loss, loss, loss, acc, acc]);
}

#[test]
fn a_method_that_ties_with_the_baseline_is_not_better_and_the_first_row_is_named() {
    let mut fixture = ReportFixture::new();
    for (method, loss, acc) in [("random", 0.8, 0.5), ("length", 0.8, 0.75), ("raise", 0.8, 0.75)] {
        scored(&mut fixture, method, None, &[("loss", loss), ("acc", acc)]);
    }
    let html = std::fs::read_to_string(fixture.report("run").join("report.html")).unwrap();
    assert!(html.contains("loss on test: No method is better than the baseline <b>random</b>."), "{html}");
    assert!(html.contains("acc on test: <b>length</b> is best"), "{html}");
}

#[test]
fn methods_without_a_common_seed_have_no_difference() {
    let mut fixture = ReportFixture::new();
    scored(&mut fixture, "raise", Some(17), &[("loss", 0.5)]);
    scored(&mut fixture, "random", Some(18), &[("loss", 0.75)]);
    let html = std::fs::read_to_string(fixture.report("run").join("report.html")).unwrap();
    let said = "<b>raise</b> is best; no run of it has the seed of a run of the baseline random.";
    assert!(html.contains(said), "{html}");
}

#[test]
fn a_baseline_name_of_several_methods_is_reported_with_their_labels() {
    let mut fixture = ReportFixture::new();
    scored(&mut fixture, "random, budget=1%", None, &[("loss", 0.5)]);
    scored(&mut fixture, "random, budget=5%", None, &[("loss", 0.75)]);
    let html = std::fs::read_to_string(fixture.report("run").join("report.html")).unwrap();
    let said = "Several methods are called “random” (random, budget=1%; random, budget=5%), so nothing";
    assert!(html.contains(said), "{html}");
}

#[test]
fn an_id_that_is_not_a_whole_number_is_an_error_with_its_column_and_value() {
    let mut fixture = ReportFixture::new();
    let folder = fixture.artifact("clusters", json!({}));
    let rows = batch(vec![("id", floats([Some(0.0), Some(-1.0)])), ("cluster", counts([0, 1]))]).unwrap();
    write(&folder.join("clusters.parquet"), &rows).unwrap();
    let error = raisin_base::error::render(&ReportData::read(&fixture.stages["clusters"]).err().unwrap());
    assert!(error.contains("stage `clusters`") && error.contains("column `id` has -1"), "{error}");
}

#[test]
fn a_method_of_one_seed_is_compared_over_items_only() {
    let mut fixture = ReportFixture::new();
    for (name, loss) in [("raise", 0.5), ("random", 0.75)] {
        let folder = fixture.artifact(&format!("{name}_scores"), json!({}));
        evaluation(
            &folder,
            loss,
            |_| true,
            |item| loss + 0.1 * noise(&[item]) + 0.01 * noise(&[item, name.len() as u32]),
        );
        std::fs::write(folder.join("model_summary.json"), json!({"method": name}).to_string()).unwrap();
    }
    let rows = read(&fixture.report("run").join("comparison.parquet")).unwrap();
    let of = |name: &str| column::<Float64Array>(&rows, name).unwrap().clone();
    let raise = (0..rows.num_rows()).find(|row| of("difference").is_valid(*row)).unwrap();
    assert!((of("difference").value(raise) + 0.25).abs() < 1e-12);
    assert!(of("difference_low").is_null(raise), "one seed has no interval");
    assert!(of("items_low").value(raise) < -0.24 && of("items_high").value(raise) > -0.26);
}
