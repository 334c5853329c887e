//! Compares the scores of multiple-choice questions with transformers, under the chat templates of the model families:
//! the tokens of each chat, the tokens that count as the choice, their log-probability, and the chosen answer.

use std::fmt::Write as _;

use raisin_base::error::{Context as _, Result};
use raisin_corpus::{Codec, Example, Message, Sequence};
use raisin_lm::Model;
use raisin_training::ValidationSet;
use raisin_training::scoring::best_choice;
use serde::Deserialize;
use tch::{Device, Kind as TensorKind};

use raisin_tests::python::{run_python, setting};

#[derive(Deserialize)]
struct ChoiceCase {
    /// The model folder.
    folder: String,
    name: String,
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    messages: Vec<Message>,
    choices: Vec<String>,
    scored: Vec<ScoredChoice>,
}

#[derive(Deserialize)]
struct ScoredChoice {
    tokens: Vec<u32>,
    start: usize,
    end: usize,
    sum: f64,
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn choices_have_the_log_probabilities_that_transformers_gives_them() -> Result<()> {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    run_python(&setting("RAISIN_PYTHON"), "choices.py", &[folder.path()])?;
    let cases: Vec<ChoiceCase> = serde_json::from_slice(&std::fs::read(folder.path().join("cases.json"))?)?;
    let (mut items, mut largest, mut wrong) = (0, 0f64, String::new());
    for case in &cases {
        let at = folder.path().join(&case.folder);
        let codec = Codec::load(&at).with_context(|| case.name.clone())?;
        let model = Model::load(&at, Device::Cpu, TensorKind::Float)?;
        for item in &case.items {
            items += 1;
            let name = format!("{}: {:?} {:?}", case.name, item.messages, item.choices);
            match compare(item, &codec, &model)? {
                Ok(difference) => largest = largest.max(difference),
                Err(reason) => writeln!(wrong, "{name}: {reason}")?,
            }
        }
        assert!(case.items.len() >= 24, "{} has only {} items", case.name, case.items.len());
    }
    println!("{items} items under {} templates agree within {largest:.1e}", cases.len());
    assert!(wrong.is_empty(), "{} of {items} items differ:\n{wrong}", wrong.lines().count());
    assert!(cases.len() >= 18);
    Ok(())
}

/// The largest difference of a log-probability, or what differs.
fn compare(item: &Item, codec: &Codec, model: &Model) -> Result<Result<f64, String>> {
    let open = Example::open(0, item.messages.clone(), item.choices[0].clone());
    let example = Example { choices: item.choices.clone(), answer: Some(0), ..open };
    let mut family: Vec<Sequence> = Vec::new();
    for (choice, scored) in item.choices.iter().zip(&item.scored) {
        let encoded = codec.choice(&example, choice, 4096);
        let Some(sequence) = encoded.sequence else {
            return Ok(Err(format!("the choice {choice:?} has no sequence: {:?}", encoded.findings)));
        };
        // Only the text up to the end of the choice has an effect.
        let end = scored.end.min(sequence.tokens.len());
        if sequence.tokens[..end] != scored.tokens[..scored.end] {
            return Ok(Err(format!("the choice {choice:?} has other tokens")));
        }
        let targets: Vec<usize> = (0..sequence.tokens.len()).filter(|&place| sequence.supervised[place]).collect();
        if !targets.iter().copied().eq(scored.start..scored.end) {
            let (from, to) = (scored.start, scored.end);
            return Ok(Err(format!("the choice {choice:?} is at {targets:?} instead of from {from} to {to}")));
        }
        family.push(sequence);
    }
    // As in an evaluation: the common beginning of the choices is computed once.
    let together = [family.iter().collect::<Vec<_>>()];
    let set = ValidationSet::of_families(&together, 100_000, Device::Cpu)?;
    let losses = set.row_losses(model, |work| work(), |_, _| ())?;
    let mut largest = 0f64;
    for ((loss, scored), choice) in losses.iter().zip(&item.scored).zip(&item.choices) {
        let difference = (loss.sum + scored.sum).abs();
        if difference > 1e-4 {
            return Ok(Err(format!("the choice {choice:?} has {} instead of {}", -loss.sum, scored.sum)));
        }
        largest = largest.max(difference);
    }
    let wanted = (0..item.scored.len()).reduce(
        |best, next| {
            if item.scored[next].sum > item.scored[best].sum { next } else { best }
        },
    );
    let chosen = best_choice(&losses, &item.choices).map(|best| best.by_sum);
    Ok(if chosen == wanted { Ok(largest) } else { Err(format!("{chosen:?} is chosen instead of {wanted:?}")) })
}
