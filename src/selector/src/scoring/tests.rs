use super::*;
use raisin_base::seed::Seed;
use raisin_settings::ppo::{PolicyForm, PpoSettings};

use crate::state::SelectionHistory;

/// Three clusters of these sizes, and a policy whose scores differ from cluster to cluster and within the clusters.
fn fixture(form: PolicyForm, sizes: [usize; 3], clusters_per_step: usize) -> (Policy, Candidates) {
    let clusters: Vec<u32> = (0..3).flat_map(|cluster| vec![cluster; sizes[cluster as usize]]).collect();
    let ids: Vec<u32> = (0..clusters.len() as u32).collect();
    let mut rng = Seed::new(4).rng();
    let columns = vec!["a".to_owned(), "b".to_owned()];
    let state: Vec<f32> = clusters.iter().flat_map(|&it| [it as f32 - 1.0, rng.normal() as f32]).collect();
    let config = PpoSettings { policy: form, clusters_per_step, ..PpoSettings::ppo() };
    let candidates = Candidates::new(&ids, &clusters, &state, columns).expect("a sound fixture");
    let policy = Policy::new(&config, &candidates, &Seed::new(5));
    tch::no_grad(|| {
        for (name, mut weight) in policy.actor_parameters() {
            // The gain of the last layers of a new policy is 0.01.
            if name.contains("rest") {
                let _ = weight.g_mul_scalar_(100.0);
            }
        }
    });
    (policy, candidates)
}

fn state(history: &SelectionHistory) -> State<'_> {
    State { stage: [0.1, 0.5], history, step: 0, draws: 80 }
}

#[test]
fn one_cluster_can_fill_a_batch_as_often_as_the_log_probabilities_say() -> Result<()> {
    let (policy, candidates) = fixture(PolicyForm::Hierarchical, [12, 12, 12], 2);
    let scoring = Scoring::without_gradients(&policy, &candidates);
    let history = SelectionHistory::new(&candidates);
    let mut rng = Seed::new(6).rng();
    let (times, mut found) = (4000, BTreeMap::new());
    for _ in 0..times {
        let action = scoring.act(&policy, state(&history), 8, DrawMode::Sample(&mut rng))?;
        let picks = action.cluster_picks.as_ref().expect("the form draws clusters");
        assert_eq!(action.draws(), [2, 8]);
        if picks.drawn[0] == picks.drawn[1] {
            assert_eq!(action.candidate_picks.len(), 1);
            assert_eq!(action.candidate_picks[0].drawn.len(), 8, "one cluster fills the batch");
        } else {
            let sizes: Vec<usize> = action.candidate_picks.iter().map(|picks| picks.drawn.len()).collect();
            assert_eq!(sizes, [4, 4]);
        }
        let probability = f64::from(picks.log_probs.iter().sum::<f32>()).exp();
        let entry = found.entry(picks.drawn.clone()).or_insert((0, probability));
        entry.0 += 1;
    }
    let sum: f64 = found.values().map(|(_, probability)| probability).sum();
    assert!((sum - 1.0).abs() < 1e-5, "all nine ordered pairs were drawn: {found:?}");
    for (drawn, (count, probability)) in &found {
        let deviation = (probability * (1.0 - probability) / f64::from(times)).sqrt();
        let observed = f64::from(*count) / f64::from(times);
        assert!((observed - probability).abs() < 4.5 * deviation, "{drawn:?}: {observed} is not {probability}");
    }
    Ok(())
}

#[test]
fn other_clusters_fill_the_batch_if_the_drawn_clusters_are_too_small() -> Result<()> {
    let (policy, candidates) = fixture(PolicyForm::Hierarchical, [3, 4, 12], 2);
    let scoring = Scoring::without_gradients(&policy, &candidates);
    let history = SelectionHistory::new(&candidates);
    let mut seen = BTreeMap::new();
    for seed in 0..200 {
        let mode = DrawMode::Sample(&mut Seed::new(seed).rng());
        let action = scoring.act(&policy, state(&history), 8, mode)?;
        let picks = action.cluster_picks.clone().expect("the form draws clusters");
        let positions = scoring.positions(&action);
        let distinct: std::collections::BTreeSet<usize> = positions.iter().copied().collect();
        assert_eq!((positions.len(), distinct.len()), (8, 8));
        let small = picks.drawn[..2].iter().all(|set| *set < 2);
        assert_eq!(picks.drawn.len() > 2, small, "{picks:?}");
        // The clusters of both levels are the same.
        let of_candidates: std::collections::BTreeSet<usize> = action.candidate_picks.iter().map(|it| it.set).collect();
        assert_eq!(of_candidates, picks.drawn.iter().copied().collect());
        let replay = scoring.replay(&policy, &[state(&history)], &[&action]);
        let replayed = Vec::<f32>::try_from(replay.levels[0].as_ref().expect("clusters"))?;
        assert_eq!(replayed, picks.log_probs, "the ratio is 1 before an update");
        *seen.entry(small).or_insert(0) += 1;
    }
    assert!(seen.len() == 2, "{seen:?}");
    Ok(())
}

#[test]
fn a_contribution_is_compared_with_what_the_policy_expected_of_the_same_draw() -> Result<()> {
    let mut rng = Seed::new(8).rng();
    for form in [PolicyForm::Flat, PolicyForm::PerCluster, PolicyForm::Hierarchical] {
        let (policy, candidates) = fixture(form, [5, 6, 7], 3);
        let scoring = Scoring::without_gradients(&policy, &candidates);
        let history = SelectionHistory::new(&candidates);
        let action = scoring.act(&policy, state(&history), 6, DrawMode::Sample(&mut rng))?;
        // Candidates differ only by their cluster.
        let by_cluster: Vec<f64> = candidates.clusters.iter().map(|&cluster| 1.0 + f64::from(cluster)).collect();
        let [clusters, of_candidates] =
            scoring.centred(&policy, state(&history), &action, &Tensor::from_slice(&by_cluster))?;
        assert_eq!([clusters.len(), of_candidates.len()], action.draws());
        match form {
            PolicyForm::Flat => assert!(of_candidates.iter().any(|it| it.abs() > 0.1), "{of_candidates:?}"),
            PolicyForm::PerCluster | PolicyForm::Hierarchical => {
                assert!(of_candidates.iter().all(|it| it.abs() < 1e-9), "{form:?}: {of_candidates:?}");
            }
        }
        let logits = scoring.cluster_logits(&policy, &[state(&history)]);
        if let (Some(picks), Some(logits)) = (&action.cluster_picks, logits) {
            let chances = Vec::<f64>::try_from(logits.to_kind(TensorKind::Double).softmax(1, None).squeeze_dim(0))?;
            let expected: f64 = (1..).zip(&chances).map(|(value, chance)| f64::from(value) * chance).sum();
            for (set, value) in picks.drawn.iter().zip(&clusters) {
                assert!((value - (1.0 + *set as f64 - expected)).abs() < 1e-9, "{set}: {value}");
            }
        }
        // Within a set, the mean over the distribution of the policy is 0.
        let values: Vec<f64> = (0..candidates.len()).map(|_| rng.normal()).collect();
        let values = Tensor::from_slice(&values);
        for set in 0..scoring.sets.len() {
            let logits = scoring.candidate_logits(&policy, set, &[state(&history)]);
            let chances = Vec::<f64>::try_from(logits.to_kind(TensorKind::Double).softmax(1, None).squeeze_dim(0))?;
            let mut mean = 0.0;
            for (drawn, chance) in chances.iter().enumerate() {
                let picks = Picks { set, drawn: vec![drawn], scores: vec![], log_probs: vec![] };
                let single = DrawnBatch { cluster_picks: None, candidate_picks: vec![picks], pooled: vec![] };
                mean += chance * scoring.centred(&policy, state(&history), &single, &values)?[1][0];
            }
            assert!(mean.abs() < 1e-9, "{form:?}, set {set}: {mean}");
        }
    }
    Ok(())
}
