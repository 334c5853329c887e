//! Credit by measured effects, and the policy that follows their posterior.

use super::*;
use raisin_settings::ppo::{Credit, PolicyLearner, Prior, StatePart};

fn posterior_config() -> PpoSettings {
    PpoSettings { steps: 40, batch_size: 16, rounds: 4, prior: Prior::None, ..PpoSettings::standard() }
}

#[test]
fn the_posterior_of_effects_finds_the_relevant_candidates_within_two_rounds() -> Result<()> {
    tch::set_num_threads(1);
    for seed in 0..3 {
        let fixture = fixture(seed);
        let mut training = PolicyTraining::new(&fixture.candidates, posterior_config(), Seed::new(seed))?;
        let found = shares(&fixture, &mut training, 0.01)?;
        assert!(found[0] < 0.2, "seed {seed} starts at random: {found:?}");
        assert!(found[2] > 2.5 * found[0], "seed {seed}: {found:?}");
        let (share, gain) = deploy(&fixture, &training, Deployment::Sample)?;
        assert!(share > 0.35 && gain > 0.3, "seed {seed}: {share} {gain}");
    }
    Ok(())
}

#[test]
fn ppo_learns_faster_from_measured_effects_than_from_rewards() -> Result<()> {
    tch::set_num_threads(1);
    let run = |credit: Credit| -> Result<f64> {
        let fixture = fixture(1);
        let config = PpoSettings { rounds: 6, credit, ..toy_config(PolicyForm::Hierarchical) };
        let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(1))?;
        // As noisy as a real reward.
        Ok(shares(&fixture, &mut training, 0.05)?[3..].iter().sum::<f64>() / 3.0)
    };
    let (effect, contribution) = (run(Credit::Effect)?, run(Credit::Contribution)?);
    assert!(effect > contribution, "{effect} {contribution}");
    Ok(())
}

#[test]
fn a_training_with_effects_resumes_to_the_same_rounds() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("state.safetensors");
    let (config, seed) = (PpoSettings { steps: 6, ..posterior_config() }, Seed::new(3));
    let mut whole = PolicyTraining::new(&fixture.candidates, config.clone(), seed)?;
    for round in 0..4 {
        let mut resumed = if round == 0 {
            PolicyTraining::new(&fixture.candidates, config.clone(), seed)?
        } else {
            PolicyTraining::load(&path, &fixture.candidates, config.clone(), seed)?
        };
        let one = whole.round(&mut toys(&fixture, 2), &fixture.candidates, &mut |_, _, _| {})?;
        let two = resumed.round(&mut toys(&fixture, 2), &fixture.candidates, &mut |_, _, _| {})?;
        assert_eq!(one, two, "round {round}");
        // Steps 0, 2 and 4 of two episodes are measured: 16 drawn candidates and 16 probes each.
        assert_eq!((one.effects.len(), one.row.measured_effects), (3 * 2 * 32, Some((round + 1) * 3 * 2 * 32)));
        assert_eq!(one.effects.iter().filter(|row| row.drawn).count(), 3 * 2 * 16);
        resumed.save(&path)?;
    }
    Ok(())
}

/// The candidates with the column 0, which is weakly correlated with relevance, as the prior.
fn with_prior(fixture: &PolicyFixture) -> Candidates {
    let mut candidates = candidates(fixture);
    candidates.columns[0] = crate::policy::SIMILARITY.to_owned();
    candidates.with_prior(crate::policy::SIMILARITY)
}

#[test]
fn a_policy_starts_at_its_prior_whatever_its_learner_and_its_form() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(2);
    let candidates = with_prior(&fixture);
    let mean_prior = |learner: PolicyLearner, form: PolicyForm, weight: f64| -> Result<f64> {
        let config = PpoSettings {
            learner,
            policy: form,
            prior: Prior::Similarity,
            prior_weight: weight,
            rounds: 1,
            ..posterior_config()
        };
        let mut training = PolicyTraining::new(&candidates, config, Seed::new(1))?;
        let round = training.round(&mut Toy::new(&fixture, 0.0), &candidates, &mut |_, _, _| {})?;
        let prior = candidates.prior.as_ref().context("a prior")?;
        let value = |row: &EpisodeSelectionRow| {
            let position = candidates.ids.iter().position(|id| *id == row.id).expect("a candidate");
            prior.double_value(&[position as i64])
        };
        Ok(round.selection.iter().map(value).sum::<f64>() / round.selection.len() as f64)
    };
    for form in [PolicyForm::Flat, PolicyForm::Hierarchical] {
        for learner in [PolicyLearner::Posterior, PolicyLearner::Ppo] {
            let (without, with) = (mean_prior(learner, form, 0.0)?, mean_prior(learner, form, 3.0)?);
            assert!(without.abs() < 0.3 && with > 0.8, "{learner:?} {form:?}: {without} {with}");
        }
    }
    Ok(())
}

#[test]
fn a_policy_with_a_prior_is_saved_and_loaded_and_refuses_candidates_without_its_column() -> Result<()> {
    let fixture = fixture(2);
    let given = with_prior(&fixture);
    let config = PpoSettings { prior: Prior::Similarity, ..posterior_config() };
    let policy = Policy::new(&config, &given, &Seed::new(1));
    let folder = tempfile::tempdir()?;
    policy.save(folder.path())?;
    let loaded = Policy::load(folder.path())?;
    assert_eq!(loaded.constants, policy.constants);
    assert!(!loaded.reads_performance(), "a linear policy reads t/T only");
    assert_eq!(loaded.parameters().len(), 1, "it has no critic");
    // The prior is found although the policy reads other columns only.
    let columns = given.columns[1..].to_vec();
    let reduced = with_prior(&fixture).with_columns(&columns)?;
    assert!(Policy::new(&config, &reduced, &Seed::new(1)).check(&reduced, 16).is_ok());
    let renamed = Candidates { columns: given.columns.clone(), ..candidates(&fixture) };
    let said = render(&loaded.check(&renamed, 16).expect_err("no prior"));
    assert!(said.contains("no column `target.similarity_mean`"), "{said}");
    Ok(())
}

#[test]
fn without_the_stage_the_scores_of_a_linear_policy_do_not_change_over_the_training() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(1);
    let state = vec![StatePart::Semantic, StatePart::Availability];
    let config = PpoSettings { state, rounds: 2, ..posterior_config() };
    let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(1))?;
    let found = shares(&fixture, &mut training, 0.01)?;
    assert!(found[1] > 1.5 * found[0], "{found:?}");
    let policy = training.kept().context("a policy")?;
    #[expect(clippy::float_cmp, reason = "a stage that is left out is the same constant everywhere")]
    let is_constant = policy.stage(0.3, 0, 40) == policy.stage(0.0, 39, 40);
    assert!(is_constant);
    let effects = training.column_effects()?.context("measured")?;
    assert!(effects.iter().all(|column| (column.effect[0] - column.effect[2]).abs() < 1e-9), "{effects:?}");
    Ok(())
}

#[test]
fn an_earlier_selection_has_an_effect_of_its_own() -> Result<()> {
    tch::set_num_threads(1);
    let fixture = fixture(1);
    let of_selection = |state: Vec<StatePart>| -> Result<Option<f64>> {
        let config = PpoSettings { state, reuse_penalty: 0.0, repeats: 8.0, ..posterior_config() };
        let mut training = PolicyTraining::new(&fixture.candidates, config, Seed::new(1))?;
        shares(&fixture, &mut training, 0.01)?;
        let effects = training.column_effects()?.context("measured")?;
        let found = effects.iter().find(|column| column.column == crate::explanation::TIMES_SELECTED);
        Ok(found.map(|column| column.effect[1]))
    };
    // The toy halves the effect of a candidate with each use.
    let found = of_selection(vec![StatePart::Stage, StatePart::Semantic, StatePart::Availability])?;
    assert!(found.context("times_selected")? < -0.1, "{found:?}");
    assert_eq!(of_selection(vec![StatePart::Stage, StatePart::Semantic])?, None);
    Ok(())
}
