//! Tests of the explanation of a small made-up selector: four candidates in two clusters, two rounds of one episode.

#![allow(clippy::unwrap_used, reason = "a failed `unwrap` ends the test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, BooleanArray, FixedSizeListArray, Float64Array, StringArray, UInt32Array};
use raisin_base::error::exit_code;
use raisin_contract::explain::DeployedRun;
use raisin_table::{batch, write};
use serde_json::json;

use super::*;

fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn counts(values: &[u32]) -> ArrayRef {
    Arc::new(UInt32Array::from(values.to_vec()))
}

fn words(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

struct MadeUpSelector {
    folder: tempfile::TempDir,
}

const PROMPTS: [&str; 5] = ["Add\ntwo and two", "Plural of cat", "Plural of dog", "Say hello", "Not a candidate"];
/// The state of the candidates 0 to 3 in the columns `length` and `target`.
const STATE: [[f32; 2]; 4] = [[1.0, -1.0], [0.5, 1.5], [-0.5, 1.0], [-1.0, -1.5]];
const CLUSTERS: [u32; 4] = [0, 1, 1, 0];
/// By column (length, target, cluster.00, cluster.01): the part of the prior, and the effects at the three places.
const EFFECTS: [(f64, [f64; 3]); 4] =
    [(0.0, [0.4, 0.1, -0.2]), (0.2, [0.8, 0.6, 0.4]), (0.0, [-0.1, 0.0, 0.1]), (0.0, [0.1, 0.0, -0.1])];

/// The columns of a table with these parts of the prior and effects, with these deviations.
fn placed(of: &[(f64, [f64; 3])], deviation: f64) -> Vec<(&'static str, ArrayRef)> {
    let mut columns = vec![("prior", floats(&of.iter().map(|row| row.0).collect::<Vec<_>>()))];
    for (place, names) in
        [["at_start", "at_start_deviation"], ["in_middle", "in_middle_deviation"], ["at_end", "at_end_deviation"]]
            .into_iter()
            .enumerate()
    {
        columns.push((names[0], floats(&of.iter().map(|row| row.1[place]).collect::<Vec<_>>())));
        columns.push((names[1], floats(&vec![deviation; of.len()])));
    }
    columns
}

/// The prior's part and the expected effects of a candidate: the sum over its columns.
fn expected(candidate: usize) -> (f64, [f64; 3]) {
    let values = [f64::from(STATE[candidate][0]), f64::from(STATE[candidate][1])];
    let of_cluster = EFFECTS[2 + CLUSTERS[candidate] as usize];
    let sum =
        |of: &dyn Fn((f64, [f64; 3])) -> f64| values[0] * of(EFFECTS[0]) + values[1] * of(EFFECTS[1]) + of(of_cluster);
    (sum(&|effect| effect.0), [0, 1, 2].map(|place: usize| sum(&|effect| effect.1[place])))
}

impl MadeUpSelector {
    fn new(learner: &str) -> Self {
        let made = Self { folder: tempfile::tempdir().unwrap() };
        for folder in ["selector", "pool", "clusters", "tuned"] {
            std::fs::create_dir(made.path(folder)).unwrap();
        }
        let prior = (learner == "posterior").then(|| json!({"column": "target", "weight": 1.5}));
        let policy =
            json!({"learner": learner, "prior": prior, "conditions": {"steps": 2, "batch_size": 1}, "clusters": 2});
        std::fs::write(made.path("selector").join("policy.json"), policy.to_string()).unwrap();
        made.table("pool", "instructions", vec![("id", counts(&[0, 1, 2, 3, 4])), ("prompt", words(&PROMPTS))]);
        let state = STATE.iter().map(|row| Some(row.map(Some).to_vec()));
        let state = Arc::new(FixedSizeListArray::from_iter_primitive::<Float32Type, _, _>(state, 2));
        made.table(
            "clusters",
            "clusters",
            vec![("id", counts(&[0, 1, 2, 3])), ("cluster", counts(&CLUSTERS)), ("state", state)],
        );
        let constants = json!({"columns": ["length", "target"]});
        std::fs::write(made.path("clusters").join("constants.json"), constants.to_string()).unwrap();
        let mut rounds = vec![("round", counts(&[0, 1])), ("effective_candidates", floats(&[3.5, 2.2]))];
        if learner == "posterior" {
            rounds.push(("measured_effects", counts(&[4, 8])));
            rounds.push(("credit_reliability", floats(&[0.1, 0.25])));
            rounds.push(("explained_by_prior", floats(&[0.02, 0.05])));
            let mut columns = vec![("column", words(&["length", "target", "cluster.00", "cluster.01"]))];
            columns.extend(placed(&EFFECTS, 0.1));
            made.table("selector", "column_effects", columns);
            let mut columns = vec![("id", counts(&[0, 1, 2, 3])), ("cluster", counts(&CLUSTERS))];
            columns.extend(placed(&[0, 1, 2, 3].map(expected), 0.2));
            made.table("selector", "expected", columns);
            let (places, ids) = (counts(&[0, 0, 1, 1]), counts(&[1, 2, 1, 3]));
            let drawn: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true, false]));
            let columns = vec![("round", places), ("step", counts(&[1, 1, 2, 2])), ("id", ids), ("drawn", drawn)];
            let effects = ("effect", floats(&[0.5, 0.25, 0.375, -0.125]));
            made.table("selector", "effects", columns.into_iter().chain([effects]).collect());
        }
        made.table("selector", "rounds", rounds);
        let (episodes, steps) = (counts(&[0, 0, 0, 0]), counts(&[1, 2, 1, 2]));
        let rounds = counts(&[0, 0, 1, 1]);
        let played = vec![("round", rounds.clone()), ("episode", episodes), ("step", steps.clone())];
        made.table("selector", "steps", played);
        made.selection("selector", Some(rounds), steps, &[1, 0, 1, 2]);
        made.selection("tuned", None, counts(&[1, 2]), &[1, 2]);
        made
    }

    fn selection(&self, folder: &str, rounds: Option<ArrayRef>, steps: ArrayRef, ids: &[u32]) {
        let rounds = rounds.unwrap_or_else(|| Arc::new(UInt32Array::new_null(ids.len())));
        let texts: Vec<&str> = ids.iter().map(|id| PROMPTS[*id as usize]).collect();
        let columns = vec![("round", rounds), ("step", steps), ("id", counts(ids)), ("instruction", words(&texts))];
        self.table(folder, "selection", columns);
    }

    fn path(&self, folder: &str) -> PathBuf {
        self.folder.path().join(folder)
    }

    fn table(&self, folder: &str, name: &str, columns: Vec<(&str, ArrayRef)>) {
        let file: &Path = &self.path(folder).join(format!("{name}.parquet"));
        write(file, &batch(columns).unwrap()).unwrap();
    }

    fn answer(&self, ids: &[u32], step: Option<u32>) -> Result<String> {
        let selector = SelectorArtifacts {
            label: "selector".to_owned(),
            artifact: self.path("selector"),
            instructions: self.path("pool"),
            clusters: self.path("clusters"),
            deployed: vec![DeployedRun { label: "tuned".to_owned(), artifact: self.path("tuned") }],
        };
        answer(&ExplainOptions { selectors: vec![selector], ids: ids.to_vec(), step })
    }
}

#[test]
fn columns_and_clusters_are_shown_with_their_intervals() {
    insta::assert_snapshot!(MadeUpSelector::new("posterior").answer(&[], None).unwrap(), @r"
    selector
    8 effects of rows were measured in 2 rounds. The prior alone explains 5.0 % of their variance. Prior and
    regression together explain 25.0 %, for rows that the regression has not seen. The prior is 1.5 times the
    column target, in scores. In the last round, a slot was drawn among 2 of 4 candidates in effect.

    Columns: by how many standard deviations of the weighted effects one standard deviation of the column, the
    membership in the cluster, or one earlier selection (times_selected) changes that of a row (± half of the 95
    % interval).
         column      at the start  in the middle    at the end
         target      +0.80 ± 0.20   +0.60 ± 0.20  +0.40 ± 0.20
         length      +0.40 ± 0.20   +0.10 ± 0.20  -0.20 ± 0.20
      ?  cluster.00  -0.10 ± 0.20    0.00 ± 0.20  +0.10 ± 0.20
      ?  cluster.01  +0.10 ± 0.20    0.00 ± 0.20  -0.10 ± 0.20
      ?: each interval includes 0. Of the effect of target, the prior declares +0.20 at every place.

    Clusters: the mean expected effect of their candidates, and their share of the rows selected in round 1, the
    last.
      cluster  candidates    share  at the start  in the middle  at the end  for example
            1           2  100.0 %         +1.10          +0.75       +0.40  Plural of cat | Plural of dog
            0           2    0.0 %         -1.10          -0.75       -0.40  Add\ntwo and two | Say hello
    ");
}

#[test]
fn an_instruction_is_explained_by_its_rank_its_columns_and_its_selections() {
    let text = MadeUpSelector::new("posterior").answer(&[1, 3, 4], None).unwrap();
    let (_, of_ids) = text.split_once("\nInstruction").unwrap();
    insta::assert_snapshot!(of_ids, @r"
     1: Plural of cat
      It belongs to cluster 1, with 2 candidates.
      place            rank         expected effect  of the prior  learned
      at the start   1 of 4  +1.50 (+1.11 to +1.89)         +0.30    +1.20
      in the middle  1 of 4  +0.95 (+0.56 to +1.34)         +0.30    +0.65
      at the end     1 of 4  +0.40 (+0.01 to +0.79)         +0.30    +0.10
      The largest parts of the expected effect (the effect of a column times its value in deviations):
      column      value  at the start  in the middle  at the end
      target      +1.50         +1.20          +0.90       +0.60
      length      +0.50         +0.20          +0.05       -0.10
      cluster.01  +1.00         +0.10           0.00       -0.10
      Its effect was measured 2 times, in nats per token: +0.5000 in round 0 at step 1, +0.3750 in round 1 at
      step 2. It was selected 2 times in 2 episodes (round 0 step 1, round 1 step 1). The run tuned selected it 1
      time (step 1).
      It was picked, in line with its rank among the first 2, the number of slots of an episode: its best rank is
      1 of 4, at the start, with the expected effect +1.50 (+1.11 to +1.89).

    Instruction 3: Say hello
      It belongs to cluster 0, with 2 candidates.
      place            rank         expected effect  of the prior  learned
      at the start   4 of 4  -1.70 (-2.09 to -1.31)         -0.30    -1.40
      in the middle  4 of 4  -1.00 (-1.39 to -0.61)         -0.30    -0.70
      at the end     3 of 4  -0.30 (-0.69 to +0.09)         -0.30     0.00
      The largest parts of the expected effect (the effect of a column times its value in deviations):
      column      value  at the start  in the middle  at the end
      target      -1.50         -1.20          -0.90       -0.60
      length      -1.00         -0.40          -0.10       +0.20
      cluster.00  +1.00         -0.10           0.00       +0.10
      Its effect was measured 1 time, in nats per token: -0.1250 in round 1 at step 2. It was selected 0 times in
      2 episodes. The run tuned selected it 0 times.
      It was not picked, in line with its rank, which is never among the first 2, the number of slots of an
      episode: its best rank is 3 of 4, at the end, with the expected effect -0.30 (-0.69 to +0.09).

    Instruction 4: Not a candidate
      It is no candidate: the clusters leave it out, because its features are not complete.
    ");
}

#[test]
fn with_a_step_its_effects_are_shown_and_give_the_order() {
    insta::assert_snapshot!(MadeUpSelector::new("posterior").answer(&[], Some(2)).unwrap(), @r"
    selector
    8 effects of rows were measured in 2 rounds. The prior alone explains 5.0 % of their variance. Prior and
    regression together explain 25.0 %, for rows that the regression has not seen. The prior is 1.5 times the
    column target, in scores. In the last round, a slot was drawn among 2 of 4 candidates in effect.

    Columns: by how many standard deviations of the weighted effects one standard deviation of the column, the
    membership in the cluster, or one earlier selection (times_selected) changes that of a row (± half of the 95
    % interval).
         column      at the start  in the middle    at the end     at step 2
         target      +0.80 ± 0.20   +0.60 ± 0.20  +0.40 ± 0.20  +0.60 ± 0.20
         length      +0.40 ± 0.20   +0.10 ± 0.20  -0.20 ± 0.20  +0.10 ± 0.20
      ?  cluster.00  -0.10 ± 0.20    0.00 ± 0.20  +0.10 ± 0.20   0.00 ± 0.20
      ?  cluster.01  +0.10 ± 0.20    0.00 ± 0.20  -0.10 ± 0.20   0.00 ± 0.20
      ?: each interval includes 0. Of the effect of target, the prior declares +0.20 at every place.

    Clusters: the mean expected effect of their candidates, and their share of the rows selected at step 2 of all
    rounds.
      cluster  candidates   share  at the start  in the middle  at the end  at step 2  for example
            1           2  50.0 %         +1.10          +0.75       +0.40      +0.75  Plural of cat | Plural of dog
            0           2  50.0 %         -1.10          -0.75       -0.40      -0.75  Add\ntwo and two | Say hello
    ");
}

#[test]
fn a_policy_without_effects_is_explained_by_the_shares_of_clusters() {
    insta::assert_snapshot!(MadeUpSelector::new("ppo").answer(&[0], None).unwrap(), @r"
    selector
    The learner of this policy is PPO: a network scores the candidates, so there are no effects of columns or
    candidates. In the last round, a slot was drawn among 2 of 4 candidates in effect.

    Clusters: their share of the rows selected, by round.
      cluster               candidates  round 0  round 1
      1                              2   50.0 %  100.0 %
      0                              2   50.0 %    0.0 %
      effective candidates           4        4        2

    Instruction 0: Add\ntwo and two
      It belongs to cluster 0, with 2 candidates.
      It was selected 1 time in 2 episodes (round 0 step 2). The run tuned selected it 0 times.
    ");
}

#[test]
fn the_shares_of_clusters_can_be_those_at_a_step() {
    let text = MadeUpSelector::new("ppo").answer(&[], Some(2)).unwrap();
    let (_, of_clusters) = text.split_once("\n\n").unwrap();
    insta::assert_snapshot!(of_clusters, @r"
    Clusters: their share of the rows selected at step 2, by round.
      cluster               candidates  round 0  round 1
      1                              2    0.0 %  100.0 %
      0                              2  100.0 %    0.0 %
      effective candidates           4        4        2
    ");
}

#[test]
fn an_id_that_the_pool_lacks_and_a_step_after_the_end_are_errors_of_the_user() {
    let made = MadeUpSelector::new("posterior");
    for (ids, step, said) in [
        (
            &[9][..],
            None,
            "error: the pool of `selector` has no instruction with the id 9\nhint: the ids of the pool go from 0 to 4",
        ),
        (&[], Some(3), "error: an episode of `selector` has no step 3\nhint: the steps go from 1 to 2"),
        (&[], Some(0), "error: an episode of `selector` has no step 0\nhint: the steps go from 1 to 2"),
    ] {
        let error = made.answer(ids, step).unwrap_err();
        assert_eq!(raisin_base::error::render(&error), said);
        assert_eq!(exit_code(&error), 2);
    }
}

#[test]
fn the_contributions_of_all_columns_sum_to_the_expected_effect() {
    let made = MadeUpSelector::new("posterior");
    let learned = LearnedEffects::read(&made.path("selector")).unwrap().unwrap();
    for candidate in &learned.candidates {
        let state = selector::state_of(&made.path("clusters"), candidate.id).unwrap();
        let of_cluster = format!("cluster.{:02}", candidate.cluster);
        let value = |name: &str| state.get(name).copied().unwrap_or(f64::from(u8::from(name == of_cluster)));
        let sum: f64 = learned.columns.iter().map(|column| value(&column.name) * column.effect.at(1.0).value).sum();
        assert!((sum - candidate.effect.at(1.0).value).abs() < 1e-6, "{candidate:?}: {sum}");
    }
}
