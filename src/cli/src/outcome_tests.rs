//! What a person sees at the end of a build, with 100 and with 60 columns.

use std::path::PathBuf;

use super::*;
use raisin_contract::remote::RemoteTally;
use raisin_contract::results::PairedDifference;

fn summary(results: Vec<StageResults>) -> Summary {
    Summary {
        left: 0,
        is_detached: false,
        pipeline: "p".into(),
        ran: 0,
        fetched: 0,
        fetch_seconds: 0.0,
        remote: RemoteTally::default(),
        cached: 3,
        skipped: 0,
        earlier: Vec::new(),
        accepted: Vec::new(),
        failures: Vec::new(),
        interrupted: false,
        seconds: 0.0,
        out: "out/p".into(),
        results,
    }
}

fn report(baseline: Option<&str>, rows: Vec<MethodResult>) -> StageResults {
    StageResults {
        stage: "report".into(),
        label: "report".into(),
        compares: true,
        page: Some(PathBuf::from("out/p/report/report.html")),
        results: Results { baseline: baseline.map(str::to_owned), rows },
    }
}

/// Rows of several methods, whose differences are paired over seeds, or over items with one seed.
fn rows(metric: &str, seeds: usize, means: &[(&str, f64)]) -> Vec<MethodResult> {
    let random = means.iter().find(|(method, _)| *method == "random").map(|(_, mean)| *mean);
    let row = |(method, mean): &(&str, f64)| MethodResult {
        split: "test".into(),
        metric: metric.into(),
        method: (*method).to_owned(),
        seeds: if *method == "untuned" { 1 } else { seeds },
        mean: *mean,
        interval: (seeds > 1 && *method != "untuned").then_some((mean - 0.02, mean + 0.03)),
        is_baseline: *method == "random",
        difference: random.filter(|_| *method != "random").map(|random| PairedDifference {
            mean: mean - random,
            interval: Some((mean - random - 0.05, mean - random + 0.0004)),
            over: if seeds > 1 { "seeds" } else { "items" }.to_owned(),
            pairs: if seeds > 1 { seeds } else { 64 },
        }),
        total_flops: (*method != "untuned").then_some(1.5e12),
        total_phi: (*method != "untuned").then_some(0.128),
    };
    means.iter().map(row).collect()
}

const METHODS: [(&str, f64); 6] = [
    ("raise", 1.6061),
    ("random", 1.925),
    ("length, top=240", 2.7),
    ("ifd", 1.91),
    ("untuned", 2.068),
    ("full", 1.948),
];

#[test]
fn a_comparison_over_seeds_has_intervals_differences_and_costs() {
    let all = summary(vec![report(Some("random"), rows("loss", 5, &METHODS))]);
    insta::assert_snapshot!(lines(&all, 100).join("\n"), @r"
    loss on test, lower is better
      method    mean  95 % over 5 seeds  minus random    95 % over 5 seeds  total cost
      raise    1.606    1.586 ... 1.636        -0.319  (-0.369 ... -0.318)    0.13 Phi
      ifd      1.910    1.890 ... 1.940        -0.015  (-0.065 ... -0.015)    0.13 Phi
      random   1.925    1.905 ... 1.955      baseline                         0.13 Phi
      full     1.948    1.928 ... 1.978        +0.023  (-0.027 ... +0.023)    0.13 Phi
      untuned  2.068           one seed        +0.143  (+0.093 ... +0.143)
      and 1 method more
    report: out/p/report/report.html
    ");
    insta::assert_snapshot!(lines(&all, 60).join("\n"), @r"
    loss on test, lower is better
      method    mean  95 % over 5 seeds  total cost
          minus random  95 % over 5 seeds
      raise    1.606    1.586 ... 1.636    0.13 Phi
          -0.319  (-0.369 ... -0.318)
      ifd      1.910    1.890 ... 1.940    0.13 Phi
          -0.015  (-0.065 ... -0.015)
      random   1.925    1.905 ... 1.955    0.13 Phi
          baseline
      full     1.948    1.928 ... 1.978    0.13 Phi
          +0.023  (-0.027 ... +0.023)
      untuned  2.068           one seed
          +0.143  (+0.093 ... +0.143)
      and 1 method more
    report: out/p/report/report.html
    ");
}

#[test]
fn one_seed_is_called_one_seed_and_a_second_metric_follows() {
    let mut both = rows("loss", 1, &METHODS);
    both.extend(rows("exact_match", 1, &[("raise", 0.083), ("random", 0.042), ("ifd", 0.0)]));
    insta::assert_snapshot!(lines(&summary(vec![report(Some("random"), both)]), 100).join("\n"), @r"
    loss on test, lower is better, one seed
      method   mean  minus random  95 % over 64 examples  total cost
      raise   1.606        -0.319    (-0.369 ... -0.318)    0.13 Phi
      ifd     1.910        -0.015    (-0.065 ... -0.015)    0.13 Phi
      random  1.925      baseline                           0.13 Phi
      full    1.948        +0.023    (-0.027 ... +0.023)    0.13 Phi
      and 2 methods more
    exact_match on test, higher is better, one seed
      method   mean  minus random  95 % over 64 examples  total cost
      raise   0.083        +0.041    (-0.009 ... +0.041)    0.13 Phi
      random  0.042      baseline                           0.13 Phi
      ifd     0.000        -0.042    (-0.092 ... -0.042)    0.13 Phi
    report: out/p/report/report.html
    ");
}

#[test]
fn without_a_baseline_nothing_is_called_a_difference() {
    let without = rows("acc", 1, &[("raise", 0.5), ("训练集, budget=5%", 0.25)]);
    insta::assert_snapshot!(lines(&summary(vec![report(Some("random"), without)]), 100).join("\n"), @r"
    acc on test, higher is better, one seed; no single method `random` was scored, so nothing is
      compared with it
      method              mean  total cost
      raise              0.500    0.13 Phi
      训练集, budget=5%  0.250    0.13 Phi
    report: out/p/report/report.html
    ");
}

#[test]
fn without_a_report_the_evaluations_are_listed() {
    let scores = |label: &str| StageResults {
        stage: "scores".into(),
        label: label.into(),
        compares: false,
        page: None,
        results: Results { baseline: None, rows: rows("loss", 1, &[("", 1.5)]) },
    };
    let all: Vec<StageResults> = (0..8).map(|n| scores(&format!("scores [seed={n}]"))).collect();
    insta::assert_snapshot!(lines(&summary(all), 100).join("\n"), @r"
    on test, one seed each (a stage of kind report compares them; a lower loss is better):
      scores [seed=0]  loss 1.500
      scores [seed=1]  loss 1.500
      scores [seed=2]  loss 1.500
      scores [seed=3]  loss 1.500
      scores [seed=4]  loss 1.500
      scores [seed=5]  loss 1.500
      and 2 more
    ");
}

#[test]
fn a_build_that_measured_nothing_has_no_lines() {
    assert!(lines(&summary(Vec::new()), 100).is_empty());
    // A report of methods that were not evaluated has a page, and nothing to compare.
    assert_eq!(lines(&summary(vec![report(Some("random"), Vec::new())]), 100), ["report: out/p/report/report.html"]);
}

#[test]
fn numbers_have_their_decimals_and_differences_a_sign() {
    assert_eq!(
        [0.0, 1.5, -0.0421, 123.45, 3456.7].map(|value| number(value, 3)),
        ["0.000", "1.500", "-0.042", "123.5", "3457"]
    );
    assert_eq!([0.5, -0.5, 0.0, -0.0004].map(|value| signed(value, 3)), ["+0.500", "-0.500", "0.000", "0.000"]);
    let small = rows("loss", 1, &[("raise", 1.5), ("random", 1.5003)]);
    assert_eq!(decimals(&small.iter().collect::<Vec<_>>()), 5);
}
