use super::*;
use crate::chooser::{CandidateColumns, StepContext};
use raisin_base::seed::Seed;
use raisin_settings::Third;

const CONTEXT: StepContext = StepContext { step: 0, total_steps: 2, performance: None, last_loss: None };

fn pool() -> CandidateColumns {
    let targets = CosineTargets::new(&[vec![3.0, 0.0], vec![0.0, 1.0], vec![0.0, 0.0]]).expect("two directions");
    CandidateColumns {
        ids: vec![10, 11, 12, 13, 14, 15],
        response_tokens: vec![Some(2), Some(10), None, Some(4), Some(8), Some(5)],
        // Mean losses 1.0, 0.5, none, 3.0, 2.0, 4.0.
        logp_conditional: vec![Some(-2.0), Some(-5.0), None, Some(-12.0), Some(-16.0), Some(-20.0)],
        // IFD 0.5, 0.25, none, 1.5, 0.8, none: a certain y.
        logp_unconditional: vec![Some(-4.0), Some(-20.0), None, Some(-8.0), Some(-20.0), Some(0.0)],
        unconditional_tokens: vec![Some(2), Some(10), None, Some(4), Some(8), Some(5)],
        cosines: [[1.0, 0.0], [9.0, 1.0], [0.0, 2.0], [0.0, 0.0], [0.1, 1.0], [-1.0, 0.0]]
            .map(|embedding| targets.cosines(&embedding))
            .to_vec(),
        scores: vec![None, Some(1.0), Some(f64::NAN), Some(3.0), Some(2.0), None],
        labels: ["relevant", "noise", "relevant", "noise", "noise", "relevant"].map(|l| Some(l.to_owned())).to_vec(),
        clusters: vec![Some(0), Some(1), None, Some(0), Some(1), Some(0)],
        weights: Vec::new(),
    }
}

fn inputs(pool: &CandidateColumns, batch_size: usize) -> ChooserInputs<'_> {
    ChooserInputs { pool, batch_size, total_steps: 2, seed: Seed::new(17), third: Third::Middle, top: None }
}

fn ids(method: SelectionMethod, batch_size: usize, batches: usize) -> Result<Vec<u32>> {
    let pool = pool();
    let mut chooser = chooser(method, &inputs(&pool, batch_size))?;
    let mut ids = Vec::new();
    for _ in 0..batches {
        ids.extend(chooser.choose(&CONTEXT)?.iter().map(|choice| choice.id));
    }
    Ok(ids)
}

#[test]
fn a_weighted_pass_has_every_row_once_and_rows_of_a_larger_weight_sooner() -> Result<()> {
    let mut pool = pool();
    pool.weights = vec![1.0, 1.0, 1.0, 1.0, 1.0, 1e9];
    let seeded = |seed| ChooserInputs { seed: Seed::new(seed), ..inputs(&pool, 2) };
    for seed in 0..20 {
        let mut chooser = chooser(SelectionMethod::Random, &seeded(seed))?;
        let batches = (0..3).map(|_| chooser.choose(&CONTEXT)).collect::<Result<Vec<_>>>()?;
        let mut pass: Vec<u32> = batches.iter().flatten().map(|choice| choice.id).collect();
        assert_eq!(pass[0], pool.ids[5], "seed {seed}");
        pass.sort_unstable();
        let mut all = pool.ids.clone();
        all.sort_unstable();
        assert_eq!(pass, all, "seed {seed}");
    }
    Ok(())
}

#[test]
fn length_takes_the_longest_responses_and_counts_the_one_without_a_length() -> Result<()> {
    assert_eq!(ids(SelectionMethod::Length, 2, 2)?, [11, 14, 15, 13]);
    let pool = pool();
    let chooser = chooser(SelectionMethod::Length, &inputs(&pool, 2))?;
    assert_eq!(chooser.excluded(), [("without a length".to_owned(), 1)]);
    Ok(())
}

#[test]
fn ifd_excludes_candidates_above_one_and_candidates_without_a_ratio() -> Result<()> {
    assert_eq!(ids(SelectionMethod::Ifd, 3, 1)?, [14, 10, 11]);
    let pool = pool();
    let excluded = chooser(SelectionMethod::Ifd, &inputs(&pool, 3))?.excluded();
    assert_eq!(excluded, [("without a log-probability".to_owned(), 2), ("with an IFD above 1".to_owned(), 1)]);
    Ok(())
}

#[test]
fn both_losses_of_an_ifd_are_divided_by_the_number_of_their_own_tokens() -> Result<()> {
    let mut pool = pool();
    // A mean of 4.0 for y alone instead of 2.0: the ratio is 0.25 instead of 0.5.
    pool.unconditional_tokens[0] = Some(1);
    let scores: Vec<_> = chooser(SelectionMethod::Ifd, &inputs(&pool, 3))?.choose(&CONTEXT)?;
    let of = |id: u32| scores.iter().find(|choice| choice.id == id).and_then(|choice| choice.score);
    assert_eq!((of(10), of(14)), (Some(0.25), Some(0.8)));
    Ok(())
}

#[test]
fn a_candidate_whose_score_is_missing_or_not_finite_is_excluded() -> Result<()> {
    assert_eq!(ids(SelectionMethod::Scores, 3, 1)?, [13, 14, 11]);
    let error = ids(SelectionMethod::Scores, 4, 1).expect_err("only three have a score");
    assert!(error.to_string().contains("3 of 6 candidates"), "{error}");
    assert!(error.to_string().contains("3 without a score"), "{error}");
    Ok(())
}

#[test]
fn perplexity_takes_one_third() -> Result<()> {
    let pool = pool();
    for (third, expected) in [(Third::Low, vec![11]), (Third::Middle, vec![10, 14]), (Third::High, vec![13, 15])] {
        let inputs = ChooserInputs { third, ..inputs(&pool, expected.len()) };
        let mut chosen: Vec<u32> =
            chooser(SelectionMethod::Perplexity, &inputs)?.choose(&CONTEXT)?.iter().map(|choice| choice.id).collect();
        chosen.sort_unstable();
        assert_eq!(chosen, expected);
    }
    Ok(())
}

#[test]
fn sspl_goes_from_easy_to_hard() -> Result<()> {
    let chosen = ids(SelectionMethod::Sspl, 2, 2)?;
    let mut easy = chosen[..2].to_vec();
    easy.sort_unstable();
    assert_eq!(easy, [10, 11]);
    assert!(chosen[2..].iter().all(|id| [13, 14, 15].contains(id)), "{chosen:?}");
    Ok(())
}

#[test]
fn rds_lets_the_validation_examples_take_turns() -> Result<()> {
    assert_eq!(ids(SelectionMethod::Rds, 2, 2)?, [10, 12, 11, 14]);
    let without = CandidateColumns { cosines: Vec::new(), ..pool() };
    assert!(chooser(SelectionMethod::Rds, &inputs(&without, 2)).is_err());
    assert!(CosineTargets::new(&[vec![0.0, 0.0]]).is_err());
    Ok(())
}

#[test]
fn only_the_best_candidates_are_repeated_in_a_new_order_in_each_pass() -> Result<()> {
    let pool = pool();
    let cases = [
        (SelectionMethod::Length, [11, 14, 15], 2),
        (SelectionMethod::Ifd, [10, 11, 14], 0),
        (SelectionMethod::Scores, [11, 13, 14], 0),
        // More rows than two steps of one row need.
        (SelectionMethod::Rds, [10, 11, 12], 2),
    ];
    for (method, best, others) in cases {
        let mut chooser = chooser(method, &ChooserInputs { top: Some(3), ..inputs(&pool, 1) })?;
        let mut drawn = Vec::new();
        for _ in 0..30 {
            drawn.extend(chooser.choose(&CONTEXT)?.iter().map(|choice| choice.id));
        }
        for pass in drawn.chunks(3) {
            let mut pass = pass.to_vec();
            pass.sort_unstable();
            assert_eq!(pass, best, "{}", method.name());
        }
        assert!(drawn.chunks(3).any(|pass| pass != &drawn[..3]), "{}: every pass has the same order", method.name());
        let excluded = chooser.excluded();
        let below = excluded.iter().find(|(reason, _)| reason == "not among the best 3").map_or(0, |(_, count)| *count);
        assert_eq!(below, others, "{}: {excluded:?}", method.name());
        let total: usize = excluded.iter().map(|(_, count)| count).sum();
        assert_eq!(total, 3, "{}: every other candidate is counted: {excluded:?}", method.name());
    }
    for method in [SelectionMethod::Random, SelectionMethod::Sspl, SelectionMethod::Perplexity, SelectionMethod::Oracle]
    {
        let refused = chooser(method, &ChooserInputs { top: Some(3), ..inputs(&pool, 1) });
        assert!(refused.is_err_and(|error| error.to_string().contains("no order by score")), "{}", method.name());
    }
    Ok(())
}

#[test]
fn random_takes_every_candidate_once_in_a_pass_and_at_most_once_in_a_batch() -> Result<()> {
    let drawn = ids(SelectionMethod::Random, 4, 6)?;
    for pass in drawn.chunks(6) {
        let mut pass = pass.to_vec();
        pass.sort_unstable();
        assert_eq!(pass, [10, 11, 12, 13, 14, 15]);
    }
    for batch in drawn.chunks(4) {
        let mut batch = batch.to_vec();
        batch.sort_unstable();
        batch.dedup();
        assert_eq!(batch.len(), 4);
    }
    assert_ne!(drawn[..6], drawn[6..12]);
    Ok(())
}

#[test]
fn the_oracle_takes_only_relevant_rows_and_repeats_them_after_all_are_taken() -> Result<()> {
    let drawn = ids(SelectionMethod::Oracle, 3, 2)?;
    assert!(drawn.iter().all(|id| [10, 12, 15].contains(id)), "{drawn:?}");
    let unlabelled = CandidateColumns { labels: Vec::new(), ..pool() };
    assert!(chooser(SelectionMethod::Oracle, &inputs(&unlabelled, 2)).is_err());
    Ok(())
}

#[test]
fn a_restored_chooser_gives_the_batches_of_an_uninterrupted_chooser() -> Result<()> {
    let pool = pool();
    for (method, top) in [
        (SelectionMethod::Random, None),
        (SelectionMethod::Length, None),
        (SelectionMethod::Length, Some(4)),
        (SelectionMethod::Oracle, None),
        (SelectionMethod::Sspl, None),
        (SelectionMethod::Rds, None),
    ] {
        let inputs = ChooserInputs { top, ..inputs(&pool, 3) };
        let mut undisturbed = chooser(method, &inputs)?;
        for _ in 0..2 {
            undisturbed.choose(&CONTEXT)?;
        }
        let mut restored = chooser(method, &inputs)?;
        restored.restore(&undisturbed.state())?;
        for _ in 0..3 {
            assert_eq!(restored.choose(&CONTEXT)?, undisturbed.choose(&CONTEXT)?, "{}", method.name());
        }
    }
    Ok(())
}
